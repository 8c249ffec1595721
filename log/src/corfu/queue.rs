//! Appends that wait for their turn, gathered so that many of them go out as one run.

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::{Acknowledge, AppendError, Batch, Position};

use super::append::Entries;

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// A group takes no further batch when it has this many entries ...
const GROUP_ENTRIES: usize = 1 << 14;

/// ... or this many bytes, with 4 for each entry; or as many as the largest batch, if that is less.
const GROUP_BYTES: usize = 2 << 20;

/// Batches that go out together, as far as they fit in one stripe.
#[derive(Debug)]
pub(crate) struct Group {
    batch: Batch,
    /// After how many entries each batch ends.
    cuts: Vec<u32>,
    receipt: Arc<Receipt>,
    /// How many entries of the receipt went out before those in `batch`.
    before: u32,
}

impl Group {
    fn new() -> Self {
        Self { batch: Batch::new(), cuts: Vec::new(), receipt: Arc::default(), before: 0 }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.batch.bytes().len() + mem::size_of_val(self.batch.ends())
    }

    pub(crate) fn count(&self) -> u32 {
        *self.cuts.last().expect("a group holds a batch")
    }

    fn takes(&self, batch: &Batch, bytes: usize) -> bool {
        self.batch.len() + batch.len() <= GROUP_ENTRIES
            && self.bytes() + batch.bytes().len() + mem::size_of_val(batch.ends()) <= bytes
    }

    /// Adds a batch, and tells the receipt and where the batch begins in it.
    fn add(&mut self, batch: &Batch) -> (Arc<Receipt>, u32) {
        let begins = self.cuts.last().copied().unwrap_or(0);
        self.batch.extend(batch);
        self.cuts.push(u32::try_from(self.batch.len()).expect("a group is small"));
        (Arc::clone(&self.receipt), self.before + begins)
    }

    /// What is to be appended. The group keeps what it needs to go on with the rest.
    pub(crate) fn entries(&mut self) -> Arc<Entries> {
        Arc::new(Entries::new(mem::take(&mut self.batch), self.cuts.clone()))
    }

    /// The first `count` entries have this outcome; the group that is left, if any.
    pub(crate) fn acknowledge(
        mut self,
        entries: Arc<Entries>,
        count: u32,
        outcome: Result<Position, AppendError>,
    ) -> Option<Self> {
        self.before += count;
        self.receipt.acknowledge(self.before, outcome);
        self.cuts.retain(|cut| *cut > count);
        if self.cuts.is_empty() {
            return None;
        }
        self.cuts.iter_mut().for_each(|cut| *cut -= count);
        self.batch = entries.after(count);
        Some(self)
    }
}

/// Tells the batches of a group what became of them. A ticket's sequence is where its batch begins in it.
#[derive(Debug, Default)]
pub(crate) struct Receipt {
    /// In order: up to which entry, and the position of the first one after the outcome before.
    outcomes: Mutex<Vec<(u32, Result<Position, AppendError>)>>,
    told: Condvar,
}

impl Receipt {
    fn acknowledge(&self, end: u32, outcome: Result<Position, AppendError>) {
        self.outcomes.lock().expect(UNPOISONED).push((end, outcome));
        self.told.notify_all();
    }
}

impl Acknowledge for Receipt {
    fn wait(
        &self,
        sequence: u64,
        count: u32,
        timeout: Option<Duration>,
    ) -> Option<Result<Range<Position>, AppendError>> {
        // A timeout too far away to be represented is as good as none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut outcomes = self.outcomes.lock().expect(UNPOISONED);
        loop {
            let after = outcomes.partition_point(|(end, _)| u64::from(*end) <= sequence);
            if let Some((_, outcome)) = outcomes.get(after) {
                let begins = after.checked_sub(1).map_or(0, |before| outcomes[before].0);
                return Some(outcome.clone().map(|first| {
                    let first = first.plus(sequence - u64::from(begins));
                    first..first.plus(u64::from(count))
                }));
            }
            outcomes = match deadline {
                None => self.told.wait(outcomes).expect(UNPOISONED),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.told.wait_timeout(outcomes, left).expect(UNPOISONED).0
                }
            };
        }
    }
}

/// The groups that wait.
#[derive(Debug)]
pub(crate) struct Queue {
    limit: usize,
    group_bytes: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    groups: VecDeque<Group>,
    bytes: usize,
    /// Whether the appender is busy with a group.
    busy: bool,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Open,
    /// Somebody is sealing the log: nobody knows yet.
    Sealing,
    /// At this tail.
    Sealed(Position),
    Closed,
}

impl Queue {
    /// A queue for about `limit` bytes, in batches of `batch_bytes` at most.
    pub(crate) fn new(limit: usize, batch_bytes: usize, phase: Phase) -> Self {
        let state = Mutex::new(State { phase, ..State::default() });
        Self { limit, group_bytes: GROUP_BYTES.min(batch_bytes), state, changed: Condvar::new() }
    }

    /// Adds a batch; waits while the queue is full, or while the log is being sealed.
    pub(crate) fn push(&self, batch: &Batch) -> Result<(Arc<Receipt>, u32), AppendError> {
        let mut state = self.state.lock().expect(UNPOISONED);
        loop {
            match state.phase {
                Phase::Open if state.bytes < self.limit => break,
                Phase::Open | Phase::Sealing => state = self.changed.wait(state).expect(UNPOISONED),
                Phase::Sealed(tail) => return Err(AppendError::Sealed { tail }),
                Phase::Closed => return Err(AppendError::Closed),
            }
        }
        if !state.groups.back().is_some_and(|group| group.takes(batch, self.group_bytes)) {
            state.groups.push_back(Group::new());
        }
        let group = state.groups.back_mut().expect("a group was just added");
        let bytes = group.bytes();
        let added = group.add(batch);
        let grown = group.bytes() - bytes;
        state.bytes += grown;
        drop(state);
        self.changed.notify_all();
        Ok(added)
    }

    /// The next group; waits for it. `None` when the queue is closed and empty.
    pub(crate) fn take(&self) -> Option<Group> {
        let mut state = self.state.lock().expect(UNPOISONED);
        loop {
            if let Some(group) = state.groups.pop_front() {
                state.bytes -= group.bytes();
                state.busy = true;
                return Some(group);
            }
            if state.phase == Phase::Closed {
                return None;
            }
            state = self.changed.wait(state).expect(UNPOISONED);
        }
    }

    /// The appender is done with the group that it took last.
    pub(crate) fn done(&self) {
        self.state.lock().expect(UNPOISONED).busy = false;
        self.changed.notify_all();
    }

    /// Lets nobody add anything, and waits until everything that is there went out. False if the log is
    /// sealed already, with its tail, or closed.
    pub(crate) fn begin_seal(&self) -> Result<(), Option<Position>> {
        let mut state = self.state.lock().expect(UNPOISONED);
        loop {
            match state.phase {
                Phase::Open => break,
                // Somebody else is at it.
                Phase::Sealing => state = self.changed.wait(state).expect(UNPOISONED),
                Phase::Sealed(tail) => return Err(Some(tail)),
                Phase::Closed => return Err(None),
            }
        }
        state.phase = Phase::Sealing;
        while state.busy || !state.groups.is_empty() {
            state = self.changed.wait(state).expect(UNPOISONED);
        }
        Ok(())
    }

    /// Goes on in this phase, unless it is closed.
    pub(crate) fn set_phase(&self, phase: Phase) {
        let mut state = self.state.lock().expect(UNPOISONED);
        if state.phase != Phase::Closed {
            state.phase = phase;
        }
        drop(state);
        self.changed.notify_all();
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state.lock().expect(UNPOISONED).phase
    }
}
