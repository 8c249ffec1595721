//! A log executed as far as one is told, without taking part in it.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use mixlog_log::{Entry, Position, SharedLog};

use super::describe::describe;
use crate::checkpoint::{self, OnLoad, Recovery, Source};
use crate::digest::Digest;
use crate::error::{OpenError, SnapshotError};
use crate::explanation::Explanation;
use crate::pipeline::{Pipeline, Progress, Until};
use crate::snapshot::Snapshot;
use crate::stats::{Memory, Stats};

/// An engine that only follows a log, as far as it is told: to look at a state of the past, to compare digests,
/// to measure.
pub struct Replay {
    pub(super) pipeline: Pipeline,
    pub(super) progress: Option<Progress>,
    pub(super) log: Arc<dyn SharedLog>,
    pub(super) checkpoints: checkpoint::Config,
    pub(super) on_load: Option<OnLoad>,
    /// `None` until the first step, which tells which checkpoints are early enough.
    pub(super) recovery: Mutex<Option<Recovery>>,
}

impl Replay {
    /// Executes up to `position` and including it, and returns the digest there.
    ///
    /// # Errors
    /// [`OpenError`]; what came before the error is executed. Going back is an error: start another replay.
    pub fn to(&self, position: Position) -> Result<Digest, OpenError> {
        let done = self.pipeline.shared().snapshots.tail();
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
        self.to_tail(position.next())
    }

    /// Executes all that is in the log now, and returns the digest there.
    ///
    /// # Errors
    /// [`OpenError`]; what came before the error is executed.
    pub fn to_end(&self) -> Result<Digest, OpenError> {
        self.to_tail(self.log.tail()?.tail)
    }

    fn to_tail(&self, tail: Position) -> Result<Digest, OpenError> {
        let mut recovery = self.recovery.lock().expect("a replay that panicked does not go on");
        if recovery.is_none() {
            let shelf = self.checkpoints.shelf(&*self.log);
            let start = self.checkpoints.start;
            let from = Source { log: &*self.log, shelf: shelf.as_ref(), start, membership: None };
            *recovery = Some(checkpoint::recover(&self.pipeline, &from, tail, self.on_load.as_ref())?);
        }
        let (start, first) = (Instant::now(), self.pipeline.shared().snapshots.tail());
        self.pipeline.run(&*self.log, &Until::Tail(tail), self.progress.as_ref())?;
        if let Some(recovery) = &mut *recovery {
            recovery.entries += self.pipeline.shared().snapshots.tail().since(first);
            recovery.replay += start.elapsed();
        }
        Ok(self.pipeline.shared().digest())
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
        Snapshot::new(Arc::clone(self.pipeline.shared()))
    }

    /// As [`Engine::snapshot_at`](crate::Engine::snapshot_at).
    ///
    /// # Errors
    /// As there.
    pub fn snapshot_at(&self, position: Position) -> Result<Snapshot, SnapshotError> {
        Snapshot::at(Arc::clone(self.pipeline.shared()), position)
    }

    /// As [`Engine::retained`](crate::Engine::retained).
    #[must_use]
    pub fn retained(&self) -> Vec<Position> {
        self.pipeline.shared().snapshots.retained()
    }

    /// As [`Engine::memory`](crate::Engine::memory).
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.pipeline.shared().memory()
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.pipeline.shared().stats.lock().expect("no panic in a short section").clone()
    }

    /// Which keys and tables made transactions wait: see [`Engine::explain`](crate::Engine::explain).
    #[must_use]
    pub fn explain(&self) -> Explanation {
        self.pipeline.shared().explain()
    }

    /// An entry of the log as JSON, for people: position, and what stands there.
    #[must_use]
    pub fn describe(&self, position: Position, entry: Entry<'_>) -> serde_json::Value {
        describe(&self.pipeline.shared().procedures, position, entry)
    }
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("config", self.pipeline.config()).finish_non_exhaustive()
    }
}
