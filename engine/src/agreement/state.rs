//! The newest state that the members agreed on, for whoever must not keep another one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use mixlog_log::Position;

use crate::digest::Digest;
use crate::snapshot::Snapshot;

/// Shared by who counts votes and who takes checkpoints.
#[derive(Default)]
pub(crate) struct AgreedState {
    newest: Mutex<Option<(Snapshot, Digest)>>,
    /// Up to where all members have voted, as far as is known.
    voted: Mutex<Option<Position>>,
    /// Whether somebody waits for a newer one.
    wanted: AtomicBool,
}

impl AgreedState {
    pub(crate) fn newest(&self) -> Option<(Snapshot, Digest)> {
        self.newest.lock().expect("no panic in a short section").clone()
    }

    pub(crate) fn position(&self) -> Option<Position> {
        let newest = self.newest.lock().expect("no panic in a short section");
        newest.as_ref().and_then(|(snapshot, _)| snapshot.position())
    }

    /// Up to where all members have voted, as far as is known: none of them is further behind.
    pub(crate) fn voted_by_all(&self) -> Option<Position> {
        *self.voted.lock().expect("no panic in a short section")
    }

    pub(super) fn all_voted(&self, position: Position) {
        *self.voted.lock().expect("no panic in a short section") = Some(position);
    }

    /// Asks for the next one: the engine that executes keeps a state until it is agreed, and wakes who takes checkpoints.
    /// To be asked before a look at the newest one, which would be missed otherwise.
    pub(crate) fn want(&self) {
        self.wanted.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    pub(super) fn put(&self, snapshot: Snapshot, digest: Digest) {
        let newest =
            self.newest.lock().expect("no panic in a short section").replace((snapshot.clone(), digest));
        // Not under the lock: a snapshot tells the store that it is gone.
        drop(newest);
        // Who asked looks only when it is there.
        if self.wanted.swap(false, Ordering::SeqCst) {
            snapshot.due().wake();
        }
    }

    /// Gives up a state of before `oldest`: versions of everything since are kept for it.
    pub(super) fn drop_before(&self, oldest: Position) {
        if self.position().is_some_and(|position| position < oldest) {
            let before = self.newest.lock().expect("no panic in a short section").take();
            drop(before);
        }
    }
}
