//! What the tests let a log do, and what they expect of it afterwards.

use std::time::{Duration, Instant};

use mixlog_log::{Batch, Durability, Entry, FileLog, OpenError, Position, SharedLog, Tail, Ticket, file};

use mixlog_simdisk::{Note, Sim};

/// Longer than any step takes on a busy machine, so that a hang fails instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The smallest segments there are: some 40 entries of 100 bytes.
pub(crate) fn config(durability: Durability) -> file::Config {
    file::Config {
        durability,
        segment_bytes: 12 << 10,
        max_batch_bytes: 2 << 10,
        queue_bytes: 16 << 10,
        group_bytes: 4 << 10,
        cache_bytes: 1 << 10,
        ..file::Config::default()
    }
}

pub(crate) fn open(sim: &Sim, durability: Durability) -> Result<FileLog, OpenError> {
    FileLog::open_with_storage(sim.storage(), &config(durability))
}

/// The entry that run `run` of the script appends at position `n`: its length and bytes tell both.
pub(crate) fn entry(run: u8, n: u64) -> Vec<u8> {
    let mut bytes = vec![run];
    bytes.extend(n.to_le_bytes());
    bytes.resize(9 + usize::try_from(n * 37 % 150).unwrap(), n as u8 ^ run);
    bytes
}

/// Queues `count` entries in one batch.
pub(crate) fn submit(
    log: &FileLog,
    run: u8,
    first: u64,
    count: u64,
) -> Result<Ticket, mixlog_log::AppendError> {
    let mut batch = Batch::new();
    (first..first + count).for_each(|n| batch.push(&entry(run, n)));
    log.append(&batch)
}

/// One thing to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Appends this many entries in one batch, and waits.
    Append(u64),
    /// Appends that many batches of one entry, and waits for the last.
    Burst(u64),
    Trim(u64),
    Seal,
    /// Closes and opens the log.
    Reopen,
}

/// Does `steps`, noting what it was promised; stops at the first refusal, as after a fault.
pub(crate) fn run(sim: &Sim, durability: Durability, run: u8, steps: &[Step]) -> Result<(), String> {
    let mut log = open(sim, durability).map_err(|error| error.to_string())?;
    let mut next = log.tail().unwrap().tail.0;
    for step in steps {
        match *step {
            Step::Append(count) => {
                let ticket = submit(&log, run, next, count).map_err(|error| error.to_string())?;
                next += count;
                acknowledged(sim, &ticket, next)?;
            }
            Step::Burst(count) => {
                let mut last = None;
                for _ in 0..count {
                    last = Some(submit(&log, run, next, 1).map_err(|error| error.to_string())?);
                    next += 1;
                }
                acknowledged(sim, &last.expect("a burst of at least one"), next)?;
            }
            Step::Trim(before) => {
                log.trim(Position(before)).map_err(|error| error.to_string())?;
                sim.note(Note::Trimmed(Position(before)));
            }
            Step::Seal => {
                let tail = log.seal().map_err(|error| error.to_string())?;
                sim.note(Note::Sealed(tail));
            }
            Step::Reopen => {
                drop(log);
                // Closing makes everything durable, whatever the durability.
                sim.note(Note::Acknowledged(Position(next)));
                log = open(sim, durability).map_err(|error| error.to_string())?;
            }
        }
    }
    Ok(())
}

fn acknowledged(sim: &Sim, ticket: &Ticket, next: u64) -> Result<(), String> {
    let start = Instant::now();
    let outcome = ticket.wait_timeout(PATIENCE).expect("a ticket has an outcome");
    assert!(start.elapsed() < PATIENCE, "it was the timeout that woke the ticket");
    let positions = outcome.map_err(|error| error.to_string())?;
    assert_eq!(positions.end, Position(next));
    sim.note(Note::Acknowledged(Position(next)));
    Ok(())
}

/// What a log must have kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Promise {
    pub(crate) acknowledged: u64,
    pub(crate) trimmed: u64,
    pub(crate) sealed: Option<u64>,
}

impl Promise {
    pub(crate) fn add(&mut self, note: &Note) {
        match note {
            Note::Acknowledged(tail) => self.acknowledged = tail.0,
            Note::Trimmed(head) => self.trimmed = head.0,
            Note::Sealed(tail) => self.sealed = Some(tail.0),
            Note::Checkpointed(_) => {}
        }
    }
}

/// The entries of a log: run 1 wrote those before `turn`, run 2 those from it on.
pub(crate) fn assert_entries(log: &dyn SharedLog, turn: u64) -> Tail {
    let tail = log.tail().unwrap();
    let mut next = tail.head;
    while next < tail.tail {
        let block = log.read(next).unwrap().expect("before the tail");
        assert!(block.end() <= tail.tail, "what is not acknowledged is not read");
        for (position, found) in block.iter().filter(|(position, _)| *position >= next) {
            let run = if position.0 < turn { 1 } else { 2 };
            assert_eq!(found, Entry::Data(&entry(run, position.0)), "position {position}");
        }
        next = block.end();
    }
    tail
}
