//! What tells an engine's keeper of checkpoints that one is wanted, and submitters that it needs the disk for itself.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Counts the bytes of executed entries, and wakes the keeper when there are enough, or the log has no space left.
#[derive(Debug)]
pub(crate) struct Due {
    executed: AtomicU64,
    /// The count at which the keeper wants to wake.
    at: AtomicU64,
    wanted: (Mutex<Wanted>, Condvar),
    /// Whether nothing but a checkpoint is to take space on the disk.
    closed: AtomicBool,
    /// Why.
    full: Mutex<Option<Arc<io::Error>>>,
}

#[derive(Debug, Default)]
struct Wanted {
    bytes: bool,
    space: bool,
    stop: bool,
}

/// Why the keeper wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// The bytes or the time that it wanted have passed.
    Due,
    /// An append found the disk full.
    Space,
    /// The engine is being closed.
    Stop,
}

impl Default for Due {
    fn default() -> Self {
        Self {
            executed: AtomicU64::new(0),
            at: AtomicU64::new(u64::MAX),
            wanted: Default::default(),
            closed: AtomicBool::new(false),
            full: Mutex::default(),
        }
    }
}

impl Due {
    /// Counts. By the leader, for each block of the log.
    pub(crate) fn add(&self, bytes: u64) {
        let executed = self.executed.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if executed >= self.at.load(Ordering::Relaxed) {
            self.at.store(u64::MAX, Ordering::Relaxed);
            self.wake();
        }
    }

    /// Wakes the keeper now.
    pub(crate) fn wake(&self) {
        self.wanted.0.lock().expect("no panic in a short section").bytes = true;
        self.wanted.1.notify_all();
    }

    pub(super) fn executed(&self) -> u64 {
        self.executed.load(Ordering::Relaxed)
    }

    /// Asks to be woken when so many bytes in all were executed.
    pub(super) fn wake_at(&self, executed: u64) {
        self.at.store(executed, Ordering::Relaxed);
        // What was executed before the store did not see it.
        self.add(0);
    }

    pub(crate) fn stop(&self) {
        self.wanted.0.lock().expect("no panic in a short section").stop = true;
        self.wanted.1.notify_all();
    }

    /// An append found the disk full: a checkpoint would let the log be trimmed.
    pub(crate) fn ran_out(&self) {
        self.wanted.0.lock().expect("no panic in a short section").space = true;
        self.wanted.1.notify_all();
    }

    /// Why nothing may be appended now, if that is so.
    pub(crate) fn refuses(&self) -> Option<Arc<io::Error>> {
        if !self.closed.load(Ordering::Acquire) {
            return None;
        }
        self.full.lock().expect("no panic in a short section").clone()
    }

    /// Lets submitters append nothing until the guard is dropped: what is given up on a full disk is for a checkpoint.
    pub(super) fn close(&self, full: Arc<io::Error>) -> Closed<'_> {
        *self.full.lock().expect("no panic in a short section") = Some(full);
        self.closed.store(true, Ordering::Release);
        Closed(self)
    }

    /// Waits until there is something to do, or `deadline`.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Wake {
        let (wanted, changed) = &self.wanted;
        let mut wanted = wanted.lock().expect("no panic in a short section");
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if wanted.stop {
                return Wake::Stop;
            }
            if std::mem::take(&mut wanted.space) {
                return Wake::Space;
            }
            if std::mem::take(&mut wanted.bytes) || left == Some(Duration::ZERO) {
                return Wake::Due;
            }
            wanted = match left {
                None => changed.wait(wanted).expect("no panic in a short section"),
                Some(left) => changed.wait_timeout(wanted, left).expect("no panic in a short section").0,
            };
        }
    }
}

/// While it is there, submissions are refused.
pub(super) struct Closed<'a>(&'a Due);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.closed.store(false, Ordering::Release);
    }
}
