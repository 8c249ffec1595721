//! The heart of group commit: who waits for whom between the submitters, the writer and the readers.
//!
//! Submitters put their entries into the newest waiting frame, or a new one, and get positions at once. A writer takes
//! everything that waits as one group, writes it, makes it durable, and then publishes the new tail, which
//! completes tickets and wakes readers. While one group is being written the next one gathers: the slower the
//! disk, the larger the group. Only for threads that are about to come back a group waits a moment: see [`gathering`].
//!
//! There is one writer at a time: the log thread, or whoever waits for an outcome, or is about to, while nobody
//! writes. To wake another thread and to be woken by it takes about as long as a fast disk does, so who has nothing
//! else to do writes what waits.
//!
//! The queue knows nothing of files. It counts two amounts of bytes, so that an append is refused *before* it
//! has a position:
//!
//! * `pending`: what was accepted and is not durable yet; too much of it makes submitters wait (back
//!   pressure).
//! * `room`: what surely fits on the disk, in the current segment and in the spare one that was reserved
//!   ahead. An append that does not fit asks for a reservation and waits for its outcome: space, or
//!   [`AppendError::Full`].
//!
//! Who appends one batch and is to write it waits a moment for others who do the same, so that all of them share every
//! flush: see `gathering`.
//!
//! What excludes lost wake-ups: every condition that somebody waits for changes under the one mutex, and
//! every waiter announces itself (`waiters`, `log_thread_waits`, ...) under that mutex before it sleeps.

mod gathering;

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::{self, AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, Ordering};
use crate::waiting::{Waiting, Wrapped};
use crate::{AppendError, Batch, Position, SealError};

use gathering::Gathering;

/// Who has less time than this to wait for an outcome does not write meanwhile.
const PATIENCE: Duration = Duration::from_millis(1);

/// The bounds that a queue keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Accepted bytes that may wait before submitters do.
    pub(crate) queue_bytes: u64,
    /// A group takes no further frame once it has so many bytes: while it is written, others can be accepted.
    pub(crate) group_bytes: u64,
    /// Largest body of one batch.
    pub(crate) batch_bytes: usize,
    /// A frame takes no further batch that would push its body past this.
    pub(crate) frame_bytes: usize,
    /// The same, in entries.
    pub(crate) frame_entries: usize,
    /// What a frame costs on disk beside its body, at most.
    pub(crate) frame_overhead: u64,
    /// A spare segment is asked for when the current one has less room than this.
    pub(crate) reserve_below: u64,
    /// Whether to write a group takes so long that it may wait for more.
    pub(crate) gathers: bool,
}

#[cfg(test)]
impl Limits {
    /// Of small frames, with no room to wait in.
    const SMALL: Self = Self {
        queue_bytes: 0,
        group_bytes: u64::MAX,
        batch_bytes: 1024,
        frame_bytes: 1024,
        frame_entries: 16,
        frame_overhead: 0,
        reserve_below: 0,
        gathers: false,
    };
}

/// What waits, to be written. Whoever holds it is the writer until it has written the frames, in order, and
/// [published](CommitQueue::publish) or [abandoned](CommitQueue::abandon) them.
#[derive(Debug)]
pub(crate) struct Group {
    /// The position of the first entry.
    pub(crate) first: Position,
    /// The frames' entries, at consecutive positions.
    pub(crate) frames: Vec<Waiting>,
}

/// What the log thread has to do next.
#[derive(Debug)]
pub(crate) enum Work {
    /// Write this.
    Group(Group),
    /// Nothing was written for the time given, and what was written last is not attested: attest it, if it is durable,
    /// then [`rest`](CommitQueue::rest).
    Idle,
    /// Everything is published: seal the log, then call [`sealed`](CommitQueue::sealed).
    Seal,
    /// Everything is published and nothing more will come.
    Close,
    /// The log has failed: touch nothing.
    Stop,
}

/// What is to be done where a segment could not be reserved the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tries {
    /// Nothing.
    AsBefore,
    /// It is tried again.
    Again,
}

/// What surely fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) bytes: u64,
    /// No segment could be reserved behind that.
    pub(crate) is_last: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct CommitQueue {
    limits: Limits,
    state: Mutex<State>,
    /// For the log thread: frames wait, or a seal or close was asked for, or the log failed.
    work: Condvar,
    /// For who reserves segments: one is wanted, or the end.
    reservations: Condvar,
    /// For who flushes in the background: there is something to flush, or the end.
    flushes: Condvar,
    /// For everybody else: the tail moved, room was granted or refused, sealed, failed.
    outcome: Condvar,
    /// The tail as readers see it. Stored under the mutex with Release, after what it covers became durable;
    /// loaded without it with Acquire.
    published: AtomicU64,
    /// Set (Release) after the last `published`, so whoever sees it (Acquire) sees the final tail.
    sealed: AtomicBool,
}

#[derive(Debug)]
struct State {
    frames: VecDeque<Waiting>,
    /// Frames that were written and are of no more use, emptied: memory that the process has already is faster than
    /// what the system gives.
    emptied: Vec<Batch>,
    /// The position of the first entry that waits, and of the next one to come.
    first: Position,
    next: Position,
    /// Bytes accepted and not published, the group being written included.
    pending: u64,
    /// Bytes of `pending` that the writer has taken.
    in_flight: u64,
    /// Whether there is a writer.
    writing: bool,
    gathering: Gathering,
    /// Whether no watermark on the disk covers what was written last, and when that was.
    unattested: bool,
    last_written: Instant,
    /// Bytes left in the current segment, before `pending`.
    current: u64,
    /// Bytes that the spare segment adds, when there is one.
    spare: Option<u64>,
    /// A reservation was asked for and is not decided.
    reserving: bool,
    /// How many reservations failed, and how the last one did; `None` again after one succeeded.
    refusals: u64,
    refusal: Option<Arc<io::Error>>,
    flush: bool,
    phase: Phase,
    failed: Option<Arc<io::Error>>,
    log_thread_waits: bool,
    reserver_waits: bool,
    flusher_waits: bool,
    waiters: usize,
}

/// Where a batch goes.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Into the newest frame that waits.
    joins: bool,
    /// The bytes on disk that it takes there.
    cost: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Sealing,
    Sealed,
    Closed,
}

impl State {
    /// The newest frame that waits, if it takes more entries.
    fn newest(&mut self) -> Option<&mut Batch> {
        match self.frames.back_mut() {
            Some(Waiting::Entries(batch)) => Some(batch),
            Some(Waiting::Wrapped(_)) | None => None,
        }
    }

    /// Where a body of so many bytes goes: into a frame of its own, or, as that of a batch of `joining` entries may, into the
    /// newest one that waits.
    fn place(&mut self, limits: &Limits, joining: Option<usize>, body: usize) -> Place {
        let joins = self.newest().zip(joining).is_some_and(|(frame, count)| {
            frame.len() + count <= limits.frame_entries && frame.body_bytes() + body <= limits.frame_bytes
        });
        Place { joins, cost: body as u64 + if joins { 0 } else { limits.frame_overhead } }
    }

    /// Copies the entries of a batch to their place.
    fn copy(&mut self, batch: &Batch, place: Place) {
        if place.joins {
            self.newest().expect("a frame was found to join").extend(batch);
            return;
        }
        let Self { frames, emptied, .. } = self;
        let mut frame = Batch::new();
        if let Some(Waiting::Entries(full)) = frames.back() {
            frame = emptied.pop().unwrap_or_default();
            frame.reserve_space_of(full);
        }
        frame.extend(batch);
        frames.push_back(Waiting::Entries(frame));
    }

    /// Counts `count` entries that are at their place, and tells the position of the first.
    fn count(&mut self, count: usize, place: Place) -> Position {
        let first = self.next;
        self.next = first.plus(count as u64);
        self.pending += place.cost;
        first
    }

    fn room(&self) -> u64 {
        let room = self.current + self.spare.unwrap_or(0);
        room.checked_sub(self.pending).expect("accepted appends have room")
    }

    /// How long what waits is to wait for more, if nobody writes.
    fn held(&self) -> Duration {
        // A log that is about to end waits for nobody.
        if self.phase == Phase::Open { self.gathering.left() } else { Duration::ZERO }
    }

    /// What waits, or as much of it as a group takes, if nobody writes and it need not wait for more.
    fn take(&mut self, limits: &Limits) -> Option<Group> {
        if self.frames.is_empty() || self.writing || self.failed.is_some() || !self.held().is_zero() {
            return None;
        }
        if limits.gathers {
            self.gathering.take(Instant::now());
        }
        let (first, mut frames) = (self.first, Vec::with_capacity(self.frames.len()));
        while (frames.is_empty() || self.in_flight < limits.group_bytes)
            && let Some(frame) = self.frames.pop_front()
        {
            self.first = self.first.plus(frame.len() as u64);
            self.in_flight += frame.body_bytes() as u64 + limits.frame_overhead;
            frames.push(frame);
        }
        self.writing = true;
        Some(Group { first, frames })
    }

    fn ended(&self) -> bool {
        self.failed.is_some() || self.phase == Phase::Closed
    }
}

impl CommitQueue {
    /// A queue whose next position is `tail`, with room for `current` bytes.
    pub(crate) fn new(limits: Limits, tail: Position, sealed: bool, current: u64) -> Self {
        let state = State {
            frames: VecDeque::new(),
            emptied: Vec::new(),
            first: tail,
            next: tail,
            pending: 0,
            in_flight: 0,
            writing: false,
            gathering: Gathering::default(),
            unattested: false,
            last_written: Instant::now(),
            current,
            spare: None,
            reserving: !sealed && current < limits.reserve_below,
            refusals: 0,
            refusal: None,
            flush: false,
            phase: if sealed { Phase::Sealed } else { Phase::Open },
            failed: None,
            log_thread_waits: false,
            reserver_waits: false,
            flusher_waits: false,
            waiters: 0,
        };
        Self {
            limits,
            state: Mutex::new(state),
            work: Condvar::new(),
            reservations: Condvar::new(),
            flushes: Condvar::new(),
            outcome: Condvar::new(),
            published: AtomicU64::new(tail.0),
            sealed: AtomicBool::new(sealed),
        }
    }

    // ---- submitters and readers -------------------------------------------------------------------------

    /// Queues the entries of `batch` and tells the position of the first.
    pub(crate) fn append(&self, batch: &Batch) -> Result<Position, AppendError> {
        let (first, state) = self.enqueue(batch)?;
        self.leave_to_writer(state);
        Ok(first)
    }

    /// Queues one entry in a frame of its own, and tells its position.
    pub(crate) fn append_wrapped(&self, entry: Wrapped) -> Result<Position, AppendError> {
        let body = entry.body_bytes();
        let (mut state, place) = self.accept(None, body)?;
        state.frames.push_back(Waiting::Wrapped(entry));
        let first = state.count(1, place);
        self.leave_to_writer(state);
        Ok(first)
    }

    /// As [`append`](Self::append), but if nobody writes, the caller is to write: what waits is the group. It may be
    /// left to others who are about to come, and then to the log thread.
    pub(crate) fn append_and_take(&self, batch: &Batch) -> Result<(Position, Option<Group>), AppendError> {
        let (first, mut state) = self.enqueue(batch)?;
        if self.limits.gathers {
            state.gathering.come();
        }
        let group = state.take(&self.limits);
        self.leave_to_writer(state);
        Ok((first, group))
    }

    fn enqueue(&self, batch: &Batch) -> Result<(Position, MutexGuard<'_, State>), AppendError> {
        let (mut state, place) = self.accept(Some(batch.len()), batch.body_bytes())?;
        state.copy(batch, place);
        let first = state.count(batch.len(), place);
        Ok((first, state))
    }

    /// Waits until there is room for a body of so many bytes, which may be that of a batch of `joining` entries.
    fn accept(
        &self,
        joining: Option<usize>,
        body: usize,
    ) -> Result<(MutexGuard<'_, State>, Place), AppendError> {
        if body > self.limits.batch_bytes {
            return Err(AppendError::TooLarge { size: body, limit: self.limits.batch_bytes });
        }
        let mut refusals_seen = None;
        let mut state = sync::lock(&self.state);
        loop {
            if let Some(error) = &state.failed {
                return Err(AppendError::Failed(Arc::clone(error)));
            }
            match state.phase {
                Phase::Open => {}
                // Whether the log is sealed is known when the disk says so.
                Phase::Sealing => {
                    state = self.wait_outcome(state, None);
                    continue;
                }
                Phase::Sealed => return Err(AppendError::Sealed { tail: state.next }),
                Phase::Closed => return Err(AppendError::Closed),
            }
            let place = state.place(&self.limits, joining, body);
            let queue_is_full = state.pending > 0 && state.pending + place.cost > self.limits.queue_bytes;
            if !queue_is_full && place.cost <= state.room() {
                return Ok((state, place));
            }
            if !queue_is_full && state.spare.is_none() {
                match (refusals_seen, &state.refusal) {
                    (Some(seen), Some(error)) if state.refusals > seen => {
                        return Err(AppendError::Full(Arc::clone(error)));
                    }
                    _ => {}
                }
                refusals_seen.get_or_insert(state.refusals);
                self.reserve(&mut state);
            }
            state = self.wait_outcome(state, None);
        }
    }

    /// The tail: everything before it is as durable as promised.
    pub(crate) fn published(&self) -> Position {
        Position(self.published.load(Ordering::Acquire))
    }

    /// The tail, and whether it is final.
    pub(crate) fn reach(&self) -> (Position, bool) {
        // In this order, so that a sealed log is never seen with less than its final tail.
        let sealed = self.sealed.load(Ordering::Acquire);
        (self.published(), sealed)
    }

    /// Waits until the tail is at `end` or past it; `None` when `timeout` passed first. Has groups
    /// [written](Group) by `write` meanwhile.
    pub(crate) fn wait_published(
        &self,
        end: Position,
        timeout: Option<Duration>,
        write: impl Fn(Group),
    ) -> Option<Result<(), AppendError>> {
        if self.published() >= end {
            return Some(Ok(()));
        }
        self.wait_for(timeout, write, |queue, state| {
            if queue.published() >= end {
                return Some(Ok(()));
            }
            state.failed.as_ref().map(|error| Err(AppendError::Failed(Arc::clone(error))))
        })
    }

    /// Waits until the tail is past `position` or final, or `timeout` passed. Has groups [written](Group) by
    /// `write` meanwhile.
    ///
    /// # Errors
    /// Why the log failed.
    pub(crate) fn wait_past(
        &self,
        position: Position,
        timeout: Option<Duration>,
        write: impl Fn(Group),
    ) -> Result<(), Arc<io::Error>> {
        self.wait_for(timeout, write, |queue, state| {
            let (tail, sealed) = queue.reach();
            if tail > position || sealed {
                return Some(Ok(()));
            }
            state.failed.as_ref().map(|error| Err(Arc::clone(error)))
        })
        .unwrap_or(Ok(()))
    }

    /// Refuses appends from here on, and waits until the log thread has sealed the log.
    pub(crate) fn seal(&self) -> Result<Position, SealError> {
        let mut state = sync::lock(&self.state);
        if state.phase == Phase::Open && state.failed.is_none() {
            state.phase = Phase::Sealing;
            state.log_thread_waits = false;
            self.work.notify_one();
        }
        loop {
            if state.phase == Phase::Sealed {
                return Ok(state.next);
            }
            if let Some(error) = &state.failed {
                return Err(SealError::Failed(Arc::clone(error)));
            }
            assert!(
                state.phase == Phase::Sealing,
                "a log is closed by its owner, who does not seal it meanwhile"
            );
            state = self.wait_outcome(state, None);
        }
    }

    /// Asks the log thread to finish what is queued, and then both threads to end.
    pub(crate) fn close(&self) {
        let mut state = sync::lock(&self.state);
        state.phase = Phase::Closed;
        self.wake_everybody(state);
    }

    /// Why the log failed, if it did.
    pub(crate) fn failure(&self) -> Option<Arc<io::Error>> {
        sync::lock(&self.state).failed.clone()
    }

    // ---- the writer -------------------------------------------------------------------------------------

    /// What the log thread has to do next; waits for it. `idle` is how long nothing has to be written before what
    /// was written last is to be attested.
    pub(crate) fn take(&self, idle: Duration) -> Work {
        let mut state = sync::lock(&self.state);
        loop {
            if state.failed.is_some() {
                return Work::Stop;
            }
            if let Some(group) = state.take(&self.limits) {
                return Work::Group(group);
            }
            let waits = !state.writing && !state.frames.is_empty();
            let held = waits.then(|| state.held());
            if held == Some(Duration::ZERO) {
                continue;
            }
            let left = idle.saturating_sub(state.last_written.elapsed());
            if !state.writing && !waits {
                match state.phase {
                    Phase::Sealing => return Work::Seal,
                    Phase::Closed => return Work::Close,
                    Phase::Open | Phase::Sealed => {}
                }
                if state.unattested && left.is_zero() {
                    // Nobody else writes meanwhile, nor behind an attestation that failed.
                    state.writing = true;
                    return Work::Idle;
                }
            }
            // Somebody else who writes leaves something to attest.
            let timed = state.unattested || state.writing;
            let timeout = held.or_else(|| timed.then(|| if left.is_zero() { idle } else { left }));
            state.log_thread_waits = true;
            state = sync::wait(&self.work, state, timeout);
            state.log_thread_waits = false;
        }
    }

    /// Whether no watermark on the disk covers what was written last.
    pub(crate) fn is_unattested(&self) -> bool {
        sync::lock(&self.state).unattested
    }

    /// The log thread has written what was to be written beside groups: what was written last is `attested`, or later.
    pub(crate) fn rest(&self, attested: bool) {
        let mut state = sync::lock(&self.state);
        state.writing = false;
        state.unattested = !attested;
        state.last_written = Instant::now();
    }

    /// The group taken last is durable: the tail is now `tail`. `current` bytes are left in the current
    /// segment, which is the former spare one if the log `rotated`. Nobody needs the frames in `emptied` any more.
    pub(crate) fn publish(&self, tail: Position, current: u64, rotated: bool, mut emptied: Vec<Batch>) {
        emptied.retain(|frame| frame.capacity() <= 3 * self.limits.frame_bytes);
        let mut state = sync::lock(&self.state);
        state.writing = false;
        if state.failed.is_some() {
            // The background thread failed meanwhile: from then on nothing is acknowledged.
            self.wake_waiters(state);
            return;
        }
        let most = self.limits.group_bytes / self.limits.frame_bytes as u64;
        let kept = (most as usize).saturating_sub(state.emptied.len()).min(emptied.len());
        // The others are given back when the lock is.
        state.emptied.extend(emptied.drain(..kept));
        // The log thread attests it when nothing more comes, so it is to know that there is something. As long as there
        // is, it looks by itself.
        let something_to_attest = !mem::replace(&mut state.unattested, true);
        state.last_written = Instant::now();
        if self.limits.gathers {
            let now = state.last_written;
            state.gathering.publish(now);
        }
        state.pending -= mem::take(&mut state.in_flight);
        state.current = current;
        if rotated {
            state.spare = None;
        }
        assert!(state.pending <= state.current + state.spare.unwrap_or(0), "accepted appends have room");
        if state.current < self.limits.reserve_below && state.spare.is_none() && state.refusal.is_none() {
            self.reserve(&mut state);
        }
        self.published.store(tail.0, Ordering::Release);
        let something_to_do = something_to_attest || !state.frames.is_empty() || state.phase != Phase::Open;
        if something_to_do && mem::take(&mut state.log_thread_waits) {
            self.work.notify_one();
        }
        self.wake_waiters(state);
    }

    /// What the writer had to write could not be written, or not made durable: the log failed, for good.
    pub(crate) fn abandon(&self, error: io::Error) {
        let mut state = sync::lock(&self.state);
        // In one step: nobody may write behind what failed.
        state.writing = false;
        self.fail_now(state, error);
    }

    /// Waits until nobody writes any more. Nothing is appended meanwhile.
    pub(crate) fn wait_at_rest(&self) {
        let mut state = sync::lock(&self.state);
        while state.writing {
            state = self.wait_outcome(state, None);
        }
    }

    /// The log is sealed, durably.
    pub(crate) fn sealed(&self) {
        let mut state = sync::lock(&self.state);
        if state.phase == Phase::Sealing {
            state.phase = Phase::Sealed;
        }
        self.sealed.store(true, Ordering::Release);
        self.wake_waiters(state);
    }

    /// The log failed, for good. The first failure is the one that is told.
    pub(crate) fn fail(&self, error: io::Error) -> Arc<io::Error> {
        self.fail_now(sync::lock(&self.state), error)
    }

    fn fail_now(&self, mut state: MutexGuard<'_, State>, error: io::Error) -> Arc<io::Error> {
        let error = Arc::clone(state.failed.get_or_insert_with(|| Arc::new(error)));
        state.frames.clear();
        self.wake_everybody(state);
        error
    }

    /// Asks for what is written to be flushed in the background.
    pub(crate) fn request_flush(&self) {
        let mut state = sync::lock(&self.state);
        state.flush = true;
        if mem::take(&mut state.flusher_waits) {
            self.flushes.notify_one();
        }
    }

    // ---- the background threads -------------------------------------------------------------------------

    /// Waits until a spare segment is wanted: reserve it, then [`grant`](Self::grant) or [`refuse`](Self::refuse). False
    /// once the log is closed or has failed.
    pub(crate) fn wait_for_reservation(&self) -> bool {
        let mut state = sync::lock(&self.state);
        while !state.ended() {
            if state.reserving {
                return true;
            }
            state.reserver_waits = true;
            state = sync::wait(&self.reservations, state, None);
            state.reserver_waits = false;
        }
        false
    }

    /// Waits until there is something to flush in the background. False once the log is closed or has failed.
    pub(crate) fn wait_for_flush(&self) -> bool {
        let mut state = sync::lock(&self.state);
        while !state.ended() {
            if mem::take(&mut state.flush) {
                return true;
            }
            state.flusher_waits = true;
            state = sync::wait(&self.flushes, state, None);
            state.flusher_waits = false;
        }
        false
    }

    /// Whether a background thread should drop a long chore.
    pub(crate) fn ended(&self) -> bool {
        sync::lock(&self.state).ended()
    }

    /// How much surely fits, once that is `wanted`, or it is known that no segment can be reserved.
    pub(crate) fn wait_room(&self, wanted: u64, tries: Tries) -> Room {
        let mut state = sync::lock(&self.state);
        let seen = state.refusals;
        loop {
            let bytes = state.room();
            if bytes >= wanted || state.phase != Phase::Open || state.failed.is_some() {
                return Room { bytes, is_last: false };
            }
            if state.refusal.is_some() && (tries == Tries::AsBefore || state.refusals > seen) {
                return Room { bytes, is_last: true };
            }
            // Where there is a spare one, room comes with the next group that is written.
            if state.spare.is_none() && !state.reserving {
                self.reserve(&mut state);
            }
            state = self.wait_outcome(state, None);
        }
    }

    /// A spare segment is reserved, which adds `room` bytes.
    pub(crate) fn grant(&self, room: u64) {
        let mut state = sync::lock(&self.state);
        debug_assert!(state.spare.is_none(), "there is one spare segment at most");
        state.spare = Some(room);
        state.reserving = false;
        state.refusal = None;
        self.wake_waiters(state);
    }

    /// A spare segment could not be reserved.
    pub(crate) fn refuse(&self, error: io::Error) {
        let mut state = sync::lock(&self.state);
        state.reserving = false;
        state.refusals += 1;
        state.refusal = Some(Arc::new(error));
        self.wake_waiters(state);
    }

    // ---- inside -----------------------------------------------------------------------------------------

    fn reserve(&self, state: &mut State) {
        state.reserving = true;
        if mem::take(&mut state.reserver_waits) {
            self.reservations.notify_one();
        }
    }

    fn wait_outcome<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        state.waiters += 1;
        state = sync::wait(&self.outcome, state, timeout);
        state.waiters -= 1;
        state
    }

    /// Waits until `outcome` is something; `None` when `timeout` passed first. Has groups written meanwhile.
    fn wait_for<T>(
        &self,
        timeout: Option<Duration>,
        write: impl Fn(Group),
        outcome: impl Fn(&Self, &State) -> Option<T>,
    ) -> Option<T> {
        // A timeout too far away to be represented is as good as none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = sync::lock(&self.state);
        loop {
            if let Some(outcome) = outcome(self, &state) {
                return Some(outcome);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return None;
            }
            let has_time = left.is_none_or(|left| left >= PATIENCE);
            if has_time && let Some(group) = state.take(&self.limits) {
                drop(state);
                write(group);
                state = sync::lock(&self.state);
            } else {
                state = self.wait_outcome(state, left);
            }
        }
    }

    /// Wakes the log thread if nobody writes: a writer looks again before it goes.
    fn leave_to_writer(&self, mut state: MutexGuard<'_, State>) {
        let wake = !state.writing && mem::take(&mut state.log_thread_waits);
        drop(state);
        if wake {
            self.work.notify_one();
        }
    }

    fn wake_waiters(&self, state: MutexGuard<'_, State>) {
        let somebody_waits = state.waiters > 0;
        drop(state);
        if somebody_waits {
            self.outcome.notify_all();
        }
    }

    fn wake_everybody(&self, state: MutexGuard<'_, State>) {
        drop(state);
        self.work.notify_one();
        self.reservations.notify_one();
        self.flushes.notify_one();
        self.outcome.notify_all();
    }
}

#[cfg(all(test, loom))]
mod models;

#[cfg(all(test, not(loom)))]
mod tests;
