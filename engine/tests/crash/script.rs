//! What the tests let an engine do, and what they expect of it afterwards.
//!
//! The entry at position n always makes the same change, whichever engine submits it, so the state after each position
//! is known beforehand: that of a log in memory, executed one by one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use mixlog_engine::checkpoint::{self, CheckpointError, Config};
use mixlog_engine::{
    Digest, Engine, Fixed, Footprint, Index, Mode, Never, OpenError, Position, Procedure, Snapshot,
    SubmitError, Table, Ticket, Tx,
};
use mixlog_log::{AppendError, Durability, FileLog, MemoryLog, SharedLog, file};
use mixlog_simdisk::{Call, Fault, Note, Sim};
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
    /// The disk has space again, and no call fails any more.
    Heal,
    /// Closes and opens engine and log.
    Reopen,
}

/// How checkpoints are kept: none is taken but when it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Two. On a full disk the next one is written over the older of them.
    Two,
    /// One, and the space for the next one.
    OneAndSpare,
}

impl Keep {
    fn config(self) -> Config {
        let (keep, every) = match self {
            Self::Two => (2, None),
            // Space is kept for who takes them by himself, however seldom.
            Self::OneAndSpare => (1, Some(Duration::from_secs(365 * 24 * 3600))),
        };
        Config { every_bytes: None, every, keep, ..checkpoint::Config::default() }
    }
}

/// What an engine is let do on a disk that fills up: checkpoints are written over what is given up for them, and some of
/// them are shorter than that.
pub(crate) const FULL: &[(Keep, &[Step])] = &[
    (
        Keep::Two,
        &[
            Step::Burst(40),
            Step::Checkpoint,
            Step::Singles(20),
            Step::Checkpoint,
            Step::Singles(20),
            Step::Free(600),
            Step::Checkpoint,
            Step::Singles(30),
            Step::Free(100),
            Step::Checkpoint,
            Step::Burst(2),
            Step::Heal,
            Step::Burst(30),
            Step::Checkpoint,
            Step::Burst(2),
        ],
    ),
    (
        Keep::OneAndSpare,
        &[
            Step::Burst(40),
            Step::Checkpoint,
            Step::Singles(40),
            Step::Free(600),
            Step::Checkpoint,
            Step::Singles(30),
            Step::Free(100),
            Step::Checkpoint,
            Step::Burst(2),
            Step::Heal,
            Step::Burst(30),
            Step::Checkpoint,
            Step::Burst(2),
        ],
    ),
];

/// The first of these, as long as the disk is full.
pub(crate) const UNTIL_HEALED: &[Step] = FULL[0].1.split_at(11).0;

/// What errors begin with that should be none: nothing fails any more.
pub(crate) const THOUGH_HEALED: &str = "refused though there is space";

/// How often the space that was given up was written over, synced, cut, and given up in the first place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WrittenOver {
    pub(crate) renames: u64,
    pub(crate) writes: u64,
    pub(crate) truncations: u64,
    pub(crate) syncs: u64,
}

impl WrittenOver {
    pub(crate) const fn and(self, other: Self) -> Self {
        Self {
            renames: self.renames + other.renames,
            writes: self.writes + other.writes,
            truncations: self.truncations + other.truncations,
            syncs: self.syncs + other.syncs,
        }
    }

    pub(crate) fn count(trace: &[Call]) -> Self {
        let (mut names, mut found, mut count) = (BTreeMap::new(), BTreeSet::new(), Self::default());
        for call in trace {
            match call {
                Call::Create { name, file } => drop(names.insert(name.clone(), *file)),
                Call::Rename { from, to } => {
                    let file = names.remove(from).expect("it is there");
                    if to == "checkpoints/checkpoint.spare" {
                        count.renames += 1;
                    }
                    if from == "checkpoints/checkpoint.spare" {
                        count.renames += 1;
                        found.insert(file);
                    }
                    names.insert(to.clone(), file);
                }
                Call::Write { file, .. } if found.contains(file) => count.writes += 1,
                Call::Truncate { file, .. } if found.contains(file) => count.truncations += 1,
                Call::Sync { file } if found.contains(file) => count.syncs += 1,
                _ => {}
            }
        }
        count
    }
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
    builder_keeping(threads, Keep::Two)
}

fn builder_keeping(threads: usize, keep: Keep) -> mixlog_engine::Builder {
    let mode = if threads == 1 { Mode::Sequential } else { Mode::Parallel };
    let builder = Engine::builder().table(&COUNTS).table(&LINES).index(&BY_LENGTH).procedure::<Write>();
    builder.threads(threads).window(16).mode(mode).checkpoints(keep.config())
}

pub(crate) fn open(sim: &Sim, durability: Durability, threads: usize) -> Result<Running, String> {
    open_keeping(sim, durability, threads, Keep::Two)
}

pub(crate) fn open_keeping(
    sim: &Sim,
    durability: Durability,
    threads: usize,
    keep: Keep,
) -> Result<Running, String> {
    let log = FileLog::open_with_storage(sim.storage(), &files(durability)).map_err(|e| e.to_string())?;
    let log = Arc::new(log);
    let engine = builder_keeping(threads, keep).open(Arc::clone(&log) as _);
    Ok(Running { engine: engine.map_err(|error| error.to_string())?, log })
}

/// The tail of what is on a disk, rebuilt by who writes nothing: quicker than by an engine, and in the same way.
pub(crate) fn rebuilt(sim: &Sim, durability: Durability) -> Result<u64, String> {
    let log = FileLog::open_with_storage(sim.storage(), &files(durability)).map_err(|e| e.to_string())?;
    let replay = builder(1).replay(Arc::new(log)).map_err(|error| error.to_string())?;
    let digest = replay.to_end().map_err(|error| error.to_string())?;
    Ok(assert_snapshot(&replay.snapshot(), digest))
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
    go_through(sim, durability, threads, (Keep::Two, steps), None, &mut Err)
}

/// Waits until the log has its next file, durably: it makes one in the background as soon as the one before is put to use.
/// What there is space for when the disk is full would be a matter of chance.
fn wait_for_next_segment(sim: &Sim) {
    let begun = Instant::now();
    let is_there = |trace: &[Call]| {
        let made = trace.iter().rev().find_map(|call| match call {
            Call::Create { name, file } if name == "segment.spare" => Some(*file),
            _ => None,
        });
        made.is_some_and(|made| trace.iter().any(|call| matches!(call, Call::Sync { file } if *file == made)))
    };
    while !(sim.disk().names().iter().any(|name| name == "segment.spare") && is_there(&sim.trace())) {
        assert!(begun.elapsed() < PATIENCE, "the log makes no further file");
        thread::yield_now();
    }
}

/// The same, and asks whether to go on with the next step when the disk has no space, or a checkpoint is not taken. The
/// fault is set when the disk is filled for the first time.
pub(crate) fn go_through(
    sim: &Sim,
    durability: Durability,
    threads: usize,
    (keep, steps): (Keep, &[Step]),
    fault: Option<Fault>,
    refused: &mut dyn FnMut(String) -> Result<(), String>,
) -> Result<(), String> {
    let (mut running, mut fault) = (open_keeping(sim, durability, threads, keep)?, fault);
    let (mut filled, mut healed) = (false, false);
    let mut refused = |healed: bool, error: String| {
        if healed { Err(format!("{THOUGH_HEALED}: {error}")) } else { refused(error) }
    };
    for step in steps {
        match *step {
            Step::Burst(count) | Step::Singles(count) => {
                let first = running.log.tail().unwrap().tail.0;
                let mut waiting = VecDeque::new();
                let at_once = if matches!(step, Step::Burst(_)) { count } else { 1 };
                let mut all = first..first + count;
                loop {
                    let next = if waiting.len() < at_once as usize { all.next() } else { None };
                    if let Some(n) = next {
                        match running.engine.submit(&Write { n }) {
                            Ok(ticket) => waiting.push_back((n, ticket)),
                            Err(error @ SubmitError::Append(AppendError::Full(_))) => {
                                refused(healed, error.to_string())?;
                                all = 0..0;
                            }
                            Err(error) => return Err(error.to_string()),
                        }
                        continue;
                    }
                    let Some((n, ticket)) = waiting.pop_front() else { break };
                    let outcome = ticket.wait().map_err(|error| error.to_string())?;
                    assert_eq!(outcome.position(), Position(n));
                    sim.note(Note::Acknowledged(Position(n + 1)));
                }
            }
            Step::Checkpoint => match running.engine.checkpoint() {
                Ok(taken) => sim.note(Note::Checkpointed(taken.position)),
                Err(error @ CheckpointError::Io { .. }) => refused(healed, error.to_string())?,
                // The log may have failed for good.
                Err(error @ CheckpointError::Trim(_)) if !healed => refused(false, error.to_string())?,
                Err(error) => return Err(error.to_string()),
            },
            Step::Free(bytes) => {
                if !filled {
                    wait_for_next_segment(sim);
                    filled = true;
                }
                sim.set_capacity(Some(sim.used() + bytes));
                if fault.is_some() {
                    sim.set_fault(fault.take());
                }
            }
            Step::Heal => {
                sim.set_capacity(None);
                sim.set_fault(None);
                healed = true;
            }
            Step::Reopen => {
                let tail = running.log.tail().unwrap().tail;
                running.engine.close().map_err(|error| error.to_string())?;
                drop(running.log);
                // Closing makes everything durable, whatever the durability.
                sim.note(Note::Acknowledged(tail));
                running = open_keeping(sim, durability, threads, keep)?;
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
