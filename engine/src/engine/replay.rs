//! A log executed as far as one is told, without taking part in it.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use mixlog_log::{Entry, Position, SharedLog};

use super::Builder;
use super::describe::describe;
use crate::checkpoint::{self, Recovery, Source};
use crate::digest::Digest;
use crate::error::{OpenError, SnapshotError};
use crate::explanation::Explanation;
use crate::pipeline::{Pipeline, Shared, Until};
use crate::snapshot::Snapshot;
use crate::stats::{Memory, Stats};

/// An engine that only follows a log, as far as it is told: to look at a state of the past, to compare digests,
/// to measure.
pub struct Replay {
    pub(super) builder: Builder,
    /// Replaced when the first step has to start anew.
    pub(super) pipeline: Mutex<Arc<Pipeline>>,
    pub(super) log: Arc<dyn SharedLog>,
    /// `None` until the first step, which tells which checkpoints are early enough.
    pub(super) recovery: Mutex<Option<Recovery>>,
}

impl Replay {
    fn pipeline(&self) -> Arc<Pipeline> {
        Arc::clone(&self.pipeline.lock().expect("no panic in a short section"))
    }

    fn shared(&self) -> Arc<Shared> {
        Arc::clone(self.pipeline().shared())
    }

    /// Executes up to `position` and including it, and returns the digest there.
    ///
    /// # Errors
    /// [`OpenError`]; what came before the error is executed. Going back is an error: start another replay.
    pub fn to(&self, position: Position) -> Result<Digest, OpenError> {
        let done = self.shared().snapshots.tail();
        if position.next() < done {
            return Err(OpenError::Configuration(format!(
                "the replay is at position {} already and does not go back to {position}",
                done.previous().unwrap_or_default()
            )));
        }
        let tail = self.log.tail()?.tail;
        if position >= tail {
            return Err(OpenError::BeyondTail { position, tail });
        }
        self.to_tail(|| Ok(position.next()))
    }

    /// Executes all that is in the log now, and returns the digest there.
    ///
    /// # Errors
    /// [`OpenError`]; what came before the error is executed.
    pub fn to_end(&self) -> Result<Digest, OpenError> {
        self.to_tail(|| Ok(self.log.tail()?.tail))
    }

    fn to_tail(&self, tail: impl Fn() -> Result<Position, OpenError>) -> Result<Digest, OpenError> {
        let mut recovery = self.recovery.lock().expect("a replay that panicked does not go on");
        if let Some(recovery) = &mut *recovery {
            self.go_on(recovery, tail()?)?;
            return Ok(self.shared().digest());
        }
        let Builder { checkpoints, on_load, .. } = &self.builder;
        let shelf = checkpoints.shelf(&*self.log);
        let (shelf, start) = (shelf.as_ref(), checkpoints.start);
        let mut is_first = true;
        checkpoint::start(shelf, || {
            if !std::mem::take(&mut is_first) {
                let anew = self.builder.build(Position::ZERO)?;
                *self.pipeline.lock().expect("no panic in a short section") = Arc::new(anew);
                *recovery = None;
            }
            let tail = tail()?;
            let from = Source { log: &*self.log, shelf, start, membership: None };
            let recovered = checkpoint::recover(&self.pipeline(), &from, tail, on_load.as_ref())?;
            // Whatever comes next, the next step goes on from here.
            self.go_on(recovery.insert(recovered), tail)
        })?;
        Ok(self.shared().digest())
    }

    fn go_on(&self, recovery: &mut Recovery, tail: Position) -> Result<(), OpenError> {
        let pipeline = self.pipeline();
        let (start, first) = (Instant::now(), pipeline.shared().snapshots.tail());
        pipeline.run(&*self.log, &Until::Tail(tail), self.builder.progress.as_ref())?;
        recovery.entries += pipeline.shared().snapshots.tail().since(first);
        recovery.replay += start.elapsed();
        Ok(())
    }

    /// From which checkpoint it started, and how long all of it took; `None` before the first step.
    ///
    /// # Panics
    /// When a step panicked.
    #[must_use]
    pub fn recovery(&self) -> Option<Recovery> {
        self.recovery.lock().expect("a replay that panicked does not go on").clone()
    }

    /// A view of the state where the replay stands.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.shared())
    }

    /// As [`Engine::snapshot_at`](crate::Engine::snapshot_at).
    ///
    /// # Errors
    /// As there.
    pub fn snapshot_at(&self, position: Position) -> Result<Snapshot, SnapshotError> {
        Snapshot::at(self.shared(), position)
    }

    /// As [`Engine::retained`](crate::Engine::retained).
    #[must_use]
    pub fn retained(&self) -> Vec<Position> {
        self.shared().snapshots.retained()
    }

    /// As [`Engine::memory`](crate::Engine::memory).
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.shared().memory()
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared().stats.lock().expect("no panic in a short section").clone()
    }

    /// Which keys and tables made transactions wait: see [`Engine::explain`](crate::Engine::explain).
    #[must_use]
    pub fn explain(&self) -> Explanation {
        self.shared().explain()
    }

    /// An entry of the log as JSON, for people: position, and what stands there.
    #[must_use]
    pub fn describe(&self, position: Position, entry: Entry<'_>) -> serde_json::Value {
        describe(&self.shared().procedures, position, entry)
    }
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("config", self.pipeline().config()).finish_non_exhaustive()
    }
}
