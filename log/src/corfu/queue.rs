//! Appends that wait for their turn, gathered so that many of them go out as one run.

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::buffer;
use crate::{Acknowledge, AppendError, Batch, Position};

use super::append::Entries;
use super::transport::Arrival;

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// A group takes no further batch when it has this many entries ...
const GROUP_ENTRIES: usize = 1 << 14;

/// ... or this many bytes, with 4 for each entry; or as many as the largest batch, if that is less.
const GROUP_BYTES: usize = 2 << 20;

/// A group of so many bytes is large.
const LARGE_BYTES: usize = 256 << 10;

/// Batches that go out together, as far as they fit in one stripe.
#[derive(Debug)]
pub(crate) struct Group {
    batch: Batch,
    /// After how many entries each batch ends.
    cuts: Vec<u32>,
    receipt: Arc<Receipt>,
}

impl Group {
    /// A group behind another one that takes no more, if there is one: it will be about as large.
    fn behind(full: Option<&Self>) -> Self {
        let mut batch = Batch::new();
        if let Some(full) = full {
            let mut bytes = buffer::take(full.batch.bytes().len()).unwrap_or_default();
            bytes.clear();
            batch = Batch::from_parts(bytes, Vec::new());
            batch.reserve_space_of(&full.batch);
        }
        Self { batch, cuts: Vec::new(), receipt: Arc::default() }
    }

    fn bytes(&self) -> usize {
        self.batch.bytes().len() + mem::size_of_val(self.batch.ends())
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
        (Arc::clone(&self.receipt), begins)
    }

    /// What is to be appended, and who wants to know what became of it.
    pub(crate) fn offered(self) -> (Arc<Entries>, Offered) {
        let count = *self.cuts.last().expect("a group holds a batch");
        let offered = Offered { count, bytes: self.bytes(), ended: 0, receipt: self.receipt };
        (Arc::new(Entries::new(self.batch, self.cuts)), offered)
    }
}

/// A group whose entries are being appended.
#[derive(Debug)]
pub(crate) struct Offered {
    /// How many entries it has.
    pub(crate) count: u32,
    /// How many bytes, with 4 for each entry.
    pub(crate) bytes: usize,
    /// How many of the entries have an outcome.
    ended: u32,
    receipt: Arc<Receipt>,
}

impl Offered {
    /// The next `count` entries have this outcome. True if they are the last.
    pub(crate) fn acknowledge(&mut self, count: u32, outcome: Result<Position, AppendError>) -> bool {
        self.ended += count;
        self.receipt.acknowledge(self.ended, outcome);
        self.ended == self.count
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
    /// Whether entries of groups that were taken are still being appended.
    busy: bool,
    /// Whether the appender waits for a group, and for which.
    hungry: Option<Hunger>,
    appender: Option<Sender<Arrival>>,
    phase: Phase,
}

/// What the appender takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hunger {
    /// Whatever is there.
    Any,
    /// A group that is large enough to be sent before others have come to their end: small ones gather until then.
    Large,
}

impl State {
    fn has(&self, hunger: Hunger) -> bool {
        match hunger {
            Hunger::Any => !self.groups.is_empty(),
            Hunger::Large => {
                self.groups.front().is_some_and(|first| self.groups.len() > 1 || first.bytes() >= LARGE_BYTES)
            }
        }
    }

    fn wake(&mut self) {
        if let Some(appender) = &self.appender {
            let _ = appender.send(Arrival::Wake);
        }
    }
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

/// Why a seal did not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotBegun {
    /// The log is sealed already, at this tail.
    Sealed(Position),
    Closed,
    /// What was there did not go out in time.
    Late,
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
                // One at a time is always taken.
                Phase::Open if state.bytes < self.limit || state.bytes == 0 => break,
                Phase::Open | Phase::Sealing => state = self.changed.wait(state).expect(UNPOISONED),
                Phase::Sealed(tail) => return Err(AppendError::Sealed { tail }),
                Phase::Closed => return Err(AppendError::Closed),
            }
        }
        if !state.groups.back().is_some_and(|group| group.takes(batch, self.group_bytes)) {
            let group = Group::behind(state.groups.back());
            state.groups.push_back(group);
        }
        let group = state.groups.back_mut().expect("a group was just added");
        let bytes = group.bytes();
        let added = group.add(batch);
        let grown = group.bytes() - bytes;
        state.bytes += grown;
        if state.hungry.is_some_and(|hunger| state.has(hunger)) {
            state.hungry = None;
            state.wake();
        }
        Ok(added)
    }

    /// Who is woken when there is a group that was waited for, or the phase changes.
    pub(crate) fn set_appender(&self, appender: Sender<Arrival>) {
        self.state.lock().expect(UNPOISONED).appender = Some(appender);
    }

    /// The next group; if there is none, the appender will be woken for one.
    pub(crate) fn take(&self, hunger: Hunger) -> Option<Group> {
        let mut state = self.state.lock().expect(UNPOISONED);
        if !state.has(hunger) {
            state.hungry = Some(hunger);
            return None;
        }
        let group = state.groups.pop_front().expect("there is one");
        let was_full = state.bytes >= self.limit;
        state.bytes -= group.bytes();
        state.busy = true;
        drop(state);
        if was_full {
            self.changed.notify_all();
        }
        Some(group)
    }

    /// Everything that was taken has come to its end. True if nothing more will come.
    pub(crate) fn done(&self) -> bool {
        let mut state = self.state.lock().expect(UNPOISONED);
        let was_busy = mem::take(&mut state.busy);
        let over = state.phase == Phase::Closed && state.groups.is_empty();
        drop(state);
        if was_busy {
            self.changed.notify_all();
        }
        over
    }

    /// Lets nobody add anything, and waits until everything that is there went out.
    pub(crate) fn begin_seal(&self, deadline: Instant) -> Result<(), NotBegun> {
        let mut state = self.state.lock().expect(UNPOISONED);
        loop {
            match state.phase {
                Phase::Open => break,
                // Somebody else is at it.
                Phase::Sealing => state = self.wait_change(state, deadline).ok_or(NotBegun::Late)?,
                Phase::Sealed(tail) => return Err(NotBegun::Sealed(tail)),
                Phase::Closed => return Err(NotBegun::Closed),
            }
        }
        state.phase = Phase::Sealing;
        while state.busy || !state.groups.is_empty() {
            let Some(changed) = self.wait_change(state, deadline) else {
                self.give_up_seal();
                return Err(NotBegun::Late);
            };
            state = changed;
        }
        Ok(())
    }

    /// Waits for a change; `None` when `deadline` has passed.
    fn wait_change<'a>(
        &self,
        state: MutexGuard<'a, State>,
        deadline: Instant,
    ) -> Option<MutexGuard<'a, State>> {
        let left = deadline.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| self.changed.wait_timeout(state, left).expect(UNPOISONED).0)
    }

    /// Takes batches again, if nobody has sealed or closed it since it was being sealed.
    pub(crate) fn give_up_seal(&self) {
        self.go_on(Phase::Open, |phase| phase == Phase::Sealing);
    }

    /// Goes on in this phase, unless it is closed.
    pub(crate) fn set_phase(&self, phase: Phase) {
        self.go_on(phase, |phase| phase != Phase::Closed);
    }

    fn go_on(&self, phase: Phase, from: impl FnOnce(Phase) -> bool) {
        let mut state = self.state.lock().expect(UNPOISONED);
        if from(state.phase) {
            state.phase = phase;
        }
        state.wake();
        drop(state);
        self.changed.notify_all();
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state.lock().expect(UNPOISONED).phase
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn seal_that_is_given_up_opens_no_queue_that_is_sealed() {
        let queue = Queue::new(1 << 10, 1 << 10, Phase::Open);
        let deadline = Instant::now() + Duration::from_secs(60);
        queue.begin_seal(deadline).unwrap();
        queue.give_up_seal();
        assert_eq!(queue.phase(), Phase::Open);
        queue.begin_seal(deadline).unwrap();
        // Somebody who asked for the tail saw that it is sealed.
        let sealed = Phase::Sealed(Position(7));
        queue.set_phase(sealed);
        queue.give_up_seal();
        assert_eq!(queue.phase(), sealed);
    }
}
