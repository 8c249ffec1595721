//! What the tests let an engine do, and what they expect of it afterwards.
//!
//! The entry at position n always makes the same change, whichever engine submits it, so the state after each position
//! is known beforehand: that of a log in memory, executed one by one.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mixlog_engine::checkpoint::{self, Config};
use mixlog_engine::{
    Digest, Engine, Fixed, Footprint, Index, Mode, Never, OpenError, Position, Procedure, Snapshot, Table,
    Ticket, Tx,
};
use mixlog_log::{Durability, FileLog, MemoryLog, SharedLog, file};
use mixlog_simdisk::{Note, Sim};
use serde::{Deserialize, Serialize};

/// Longer than any step takes on a busy machine, so that a hang fails instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// No script comes further.
const MOST: u64 = 400;

const COUNTS: Table<u64, u64, Fixed> = Table::fixed("counts");
const LINES: Table<u64, String> = Table::new("lines").ordered();
const BY_LENGTH: Index<u64, String, u64> =
    Index::new("lines.by_length", LINES, |_, line| Some(line.len() as u64));

/// Changes two tables, and deletes now and then.
#[derive(Serialize, Deserialize)]
struct Write {
    n: u64,
}

impl Procedure for Write {
    const NAME: &'static str = "write";
    type Output = u64;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&COUNTS, &(self.n % 3)).write(&LINES, &(self.n % 23));
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let key = self.n % 3;
        let count = tx.get(&COUNTS, &key).copied().unwrap_or(0) + self.n;
        tx.put(&COUNTS, key, count);
        if self.n.is_multiple_of(7) {
            tx.delete(&LINES, &(self.n % 23));
        } else {
            tx.put(&LINES, self.n % 23, "x".repeat((self.n % 4 * 50) as usize));
        }
        Ok(count)
    }
}

/// One thing to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Submits so many, and waits for all.
    Burst(u64),
    /// Submits so many, and waits for each.
    Singles(u64),
    Checkpoint,
    /// Leaves so many bytes of the disk free.
    Free(u64),
    /// Closes and opens engine and log.
    Reopen,
}

/// The smallest segments there are: some 60 entries.
pub(crate) fn files(durability: Durability) -> file::Config {
    file::Config {
        durability,
        segment_bytes: 12 << 10,
        max_batch_bytes: 2 << 10,
        queue_bytes: 16 << 10,
        cache_bytes: 1 << 10,
        ..file::Config::default()
    }
}

/// An engine, and the log that goes after it.
pub(crate) struct Running {
    pub(crate) engine: Engine,
    pub(crate) log: Arc<FileLog>,
}

pub(crate) fn builder(threads: usize) -> mixlog_engine::Builder {
    let mode = if threads == 1 { Mode::Sequential } else { Mode::Parallel };
    let builder = Engine::builder().table(&COUNTS).table(&LINES).index(&BY_LENGTH).procedure::<Write>();
    builder
        .threads(threads)
        .window(16)
        .mode(mode)
        .checkpoints(Config { every_bytes: None, ..checkpoint::Config::default() })
}

pub(crate) fn open(sim: &Sim, durability: Durability, threads: usize) -> Result<Running, String> {
    let log = FileLog::open_with_storage(sim.storage(), &files(durability)).map_err(|e| e.to_string())?;
    let log = Arc::new(log);
    let engine = open_engine(Arc::clone(&log), threads).map_err(|error| error.to_string())?;
    Ok(Running { engine, log })
}

pub(crate) fn open_engine(log: Arc<FileLog>, threads: usize) -> Result<Engine, OpenError> {
    builder(threads).open(log)
}

pub(crate) fn submit(engine: &Engine, n: u64) -> Result<Ticket<impl Procedure>, String> {
    engine.submit(&Write { n }).map_err(|error| error.to_string())
}

/// The digest after each position.
pub(crate) fn expected(position: Option<Position>) -> Digest {
    static DIGESTS: OnceLock<Vec<Digest>> = OnceLock::new();
    let digests = DIGESTS.get_or_init(|| {
        let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
        let engine = builder(1).open(Arc::clone(&log)).unwrap();
        let mut digests = vec![engine.digest()];
        for n in 1..MOST {
            engine.submit(&Write { n }).unwrap().wait().unwrap();
            digests.push(engine.digest());
        }
        digests
    });
    position.map_or_else(Digest::default, |position| digests[position.0 as usize])
}

/// Asserts that the state is the one of its position, kept up and from scratch, and the index that of the rows; returns
/// the tail.
pub(crate) fn assert_state(engine: &Engine) -> u64 {
    assert_snapshot(&engine.snapshot(), engine.digest())
}

/// The same for a state that was looked at with its digest.
pub(crate) fn assert_snapshot(snapshot: &Snapshot, digest: Digest) -> u64 {
    assert_eq!(digest, expected(digest.position));
    assert_eq!(snapshot.state_digest(), digest.state);
    let mut lines = Vec::new();
    snapshot.for_each(&LINES, |key, line| lines.push((line.len() as u64, *key)));
    lines.sort_unstable();
    assert_eq!(snapshot.range_by(&BY_LENGTH, ..).collect::<Vec<_>>(), lines);
    digest.position.map_or(0, |position| position.0 + 1)
}

/// Does `steps`, noting what it was promised; stops at the first refusal, as after a fault.
pub(crate) fn run(sim: &Sim, durability: Durability, threads: usize, steps: &[Step]) -> Result<(), String> {
    let mut running = open(sim, durability, threads)?;
    for step in steps {
        match *step {
            Step::Burst(count) => {
                let first = running.log.tail().unwrap().tail.0;
                let tickets: Result<Vec<_>, _> =
                    (first..first + count).map(|n| submit(&running.engine, n)).collect();
                for (n, ticket) in (first..).zip(tickets?) {
                    let outcome = ticket.wait().map_err(|error| error.to_string())?;
                    assert_eq!(outcome.position(), Position(n));
                    sim.note(Note::Acknowledged(Position(n + 1)));
                }
            }
            Step::Singles(count) => {
                for _ in 0..count {
                    let n = running.log.tail().unwrap().tail.0;
                    submit(&running.engine, n)?.wait().map_err(|error| error.to_string())?;
                    sim.note(Note::Acknowledged(Position(n + 1)));
                }
            }
            Step::Checkpoint => {
                let taken = running.engine.checkpoint().map_err(|error| error.to_string())?;
                sim.note(Note::Checkpointed(taken.position));
            }
            Step::Free(bytes) => sim.set_capacity(Some(sim.used() + bytes)),
            Step::Reopen => {
                let tail = running.log.tail().unwrap().tail;
                running.engine.close().map_err(|error| error.to_string())?;
                drop(running.log);
                // Closing makes everything durable, whatever the durability.
                sim.note(Note::Acknowledged(tail));
                running = open(sim, durability, threads)?;
            }
        }
    }
    Ok(())
}

/// What must be there again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Promise {
    /// Everything before was acknowledged.
    pub(crate) acknowledged: u64,
    /// Everything before is durable whatever the durability: it is in a checkpoint.
    pub(crate) kept: u64,
}

impl Promise {
    pub(crate) fn add(&mut self, note: &Note) {
        match note {
            Note::Acknowledged(tail) => self.acknowledged = tail.0,
            Note::Checkpointed(position) => self.kept = position.0 + 1,
            Note::Trimmed(_) | Note::Sealed(_) => {}
        }
    }

    pub(crate) fn at_least(&self, durability: Durability, only_the_process_ended: bool) -> u64 {
        let keeps = durability == Durability::Flushed || only_the_process_ended;
        if keeps { self.acknowledged.max(self.kept) } else { self.kept }
    }
}
