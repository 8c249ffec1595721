//! The submissions of an engine whose outcome is not known yet.

use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use crossbeam_utils::CachePadded;
use hashbrown::HashMap;
use mixlog_log::{AppendError, Position};

use crate::at_work;
use crate::error::SubmitError;
use crate::reply::Status;
use crate::ticket::{Cell, RawOutcome, TicketError, Waiting};

/// Submissions are numbered one after another, so their low bits spread well by themselves.
#[derive(Default)]
struct Spread(u64);

impl std::hash::Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64")
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type Shard = Mutex<HashMap<u64, Arc<Cell>, BuildHasherDefault<Spread>>>;

const SHARDS: u64 = 64;

/// See the module's documentation.
pub(crate) struct InFlight {
    shards: Box<[CachePadded<Shard>]>,
    /// Below zero for a moment, where submissions leave that had left before.
    count: CachePadded<AtomicIsize>,
    limit: isize,
    full: AtomicBool,
    room: (Mutex<()>, Condvar),
    stopped: OnceLock<String>,
}

impl InFlight {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| CachePadded::new(Shard::default())).collect(),
            count: CachePadded::new(AtomicIsize::new(0)),
            limit: isize::try_from(limit).unwrap_or(isize::MAX),
            full: AtomicBool::new(false),
            room: Default::default(),
            stopped: OnceLock::new(),
        }
    }

    /// Consecutive submissions share a shard, which the next run leaves for others.
    fn shard(&self, sequence: u64) -> &Shard {
        &self.shards[((sequence / 16) % SHARDS) as usize]
    }

    /// Why no more submissions are taken, if so.
    pub(crate) fn stopped(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }

    /// Enters a submission to this engine; waits while there are too many.
    pub(crate) fn enter(&self, sequence: u64, engine: u64) -> Result<Arc<Cell>, SubmitError> {
        if self.count.load(Ordering::Relaxed) >= self.limit {
            self.wait_for_room(engine)?;
        }
        let cell = Arc::new(Cell::new());
        self.count.fetch_add(1, Ordering::Relaxed);
        self.shard(sequence).lock().expect("no panic in a short section").insert(sequence, Arc::clone(&cell));
        // After entering: either `stop` finds it, or it is seen here.
        match self.stopped() {
            None => Ok(cell),
            Some(reason) => {
                self.leave(sequence);
                Err(SubmitError::Stopped(reason.to_owned()))
            }
        }
    }

    #[cold]
    fn wait_for_room(&self, engine: u64) -> Result<(), SubmitError> {
        let mut guard = self.room.0.lock().expect("no panic in a short section");
        loop {
            // Said before looking: whoever makes room after the look sees that somebody waits.
            self.full.store(true, Ordering::SeqCst);
            if self.count.load(Ordering::SeqCst) < self.limit || self.stopped().is_some() {
                return Ok(());
            }
            if at_work::is_for(engine) {
                return Err(SubmitError::WaitsForItself);
            }
            guard = self.room.1.wait(guard).expect("no panic in a short section");
        }
    }

    /// Takes back a submission that never reached the log.
    pub(crate) fn leave(&self, sequence: u64) {
        let removed = self.shard(sequence).lock().expect("no panic in a short section").remove(&sequence);
        if removed.is_some() {
            self.left(1);
        }
    }

    /// Hands over an outcome, after the submission [`left`](Self::left), so that who has the outcome is not counted any
    /// more.
    pub(crate) fn deliver(
        &self,
        sequence: u64,
        position: Position,
        status: Status,
        bytes: &[u8],
        waiting: &mut Waiting,
    ) {
        let cell = self.shard(sequence).lock().expect("no panic in a short section").remove(&sequence);
        match cell {
            Some(cell) => cell.fill(Ok(RawOutcome { position, status, bytes: bytes.to_vec() }), waiting),
            // It left when its append failed, and is in the log all the same.
            None => drop(self.count.fetch_add(1, Ordering::SeqCst)),
        }
    }

    /// The log refused a submission that it had taken.
    pub(crate) fn refuse(&self, sequence: u64, error: AppendError) {
        let cell = self.shard(sequence).lock().expect("no panic in a short section").remove(&sequence);
        if let Some(cell) = cell {
            self.left(1);
            let mut waiting = Waiting::default();
            cell.fill(Err(TicketError::Append(error)), &mut waiting);
            waiting.wake();
        }
    }

    /// Counts submissions out.
    pub(crate) fn left(&self, count: usize) {
        if count == 0 {
            return;
        }
        self.count.fetch_sub(count as isize, Ordering::SeqCst);
        if self.full.load(Ordering::SeqCst) {
            let _guard = self.room.0.lock().expect("no panic in a short section");
            self.full.store(false, Ordering::SeqCst);
            self.room.1.notify_all();
        }
    }

    /// How many outcomes are awaited.
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.count.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Takes no more submissions, and fails those whose outcome will not come.
    pub(crate) fn stop(&self, reason: &str) {
        self.stopped.get_or_init(|| reason.to_owned());
        let (mut count, mut waiting) = (0, Waiting::default());
        for shard in &self.shards {
            let cells: Vec<_> = shard.lock().expect("no panic in a short section").drain().collect();
            count += cells.len();
            for (_, cell) in cells {
                cell.fill(Err(TicketError::Stopped(reason.to_owned())), &mut waiting);
            }
        }
        self.left(count);
        let guard = self.room.0.lock().expect("no panic in a short section");
        self.room.1.notify_all();
        drop(guard);
        // By its end: a waker that panics has no say in how an engine stops.
        drop(waiting);
    }
}
