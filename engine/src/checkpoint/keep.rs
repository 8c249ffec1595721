//! Who takes checkpoints while an engine runs: on request, by bytes of log, by time.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use mixlog_log::{Position, SharedLog, TrimError};

use super::layout::{FileHeader, file_name};
use super::shelf::{Shelf, WRITING};
use super::{Checkpoint, CheckpointError, Config, Recovery};
use crate::engine::now_us;
use crate::observe;
use crate::pipeline::Shared;

/// After a failure it is tried again when this share of the bytes, or of the time, between two checkpoints has passed.
const RETRY_SHARE: u32 = 8;

/// Counts the bytes of executed entries, and wakes the keeper when there are enough.
#[derive(Debug)]
pub(crate) struct Due {
    executed: AtomicU64,
    /// The count at which the keeper wants to wake.
    at: AtomicU64,
    wanted: (Mutex<Wanted>, Condvar),
}

#[derive(Debug, Default)]
struct Wanted {
    bytes: bool,
    stop: bool,
}

impl Default for Due {
    fn default() -> Self {
        Self { executed: AtomicU64::new(0), at: AtomicU64::new(u64::MAX), wanted: Default::default() }
    }
}

impl Due {
    /// Counts. By the leader, for each block of the log.
    pub(crate) fn add(&self, bytes: u64) {
        let executed = self.executed.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if executed >= self.at.load(Ordering::Relaxed) {
            self.at.store(u64::MAX, Ordering::Relaxed);
            self.wanted.0.lock().expect("no panic in a short section").bytes = true;
            self.wanted.1.notify_all();
        }
    }

    /// Asks to be woken when so many bytes more were executed than `executed`.
    fn wake_after(&self, executed: u64, bytes: u64) {
        self.at.store(executed.saturating_add(bytes), Ordering::Relaxed);
        // What was executed before the store did not see it.
        self.add(0);
    }

    pub(crate) fn stop(&self) {
        self.wanted.0.lock().expect("no panic in a short section").stop = true;
        self.wanted.1.notify_all();
    }

    /// Waits until there are enough bytes, or `deadline`; `false` when it is to stop.
    fn wait(&self, deadline: Option<Instant>) -> bool {
        let (wanted, changed) = &self.wanted;
        let mut wanted = wanted.lock().expect("no panic in a short section");
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if wanted.stop {
                return false;
            }
            if std::mem::take(&mut wanted.bytes) || left == Some(Duration::ZERO) {
                return true;
            }
            wanted = match left {
                None => changed.wait(wanted).expect("no panic in a short section"),
                Some(left) => changed.wait_timeout(wanted, left).expect("no panic in a short section").0,
            };
        }
    }
}

/// Takes the checkpoints of one engine, one at a time.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    log: Arc<dyn SharedLog>,
    shelf: Shelf,
    config: Config,
    /// The engine is being closed.
    stop: Arc<AtomicBool>,
    kept: Mutex<Kept>,
}

/// What lies on the shelf, oldest first.
#[derive(Debug, Default)]
struct Kept {
    good: Vec<Position>,
    /// Found to be damaged, or to lie before the log's head.
    bad: Vec<Position>,
}

impl Keeper {
    /// # Errors
    /// The shelf cannot be looked at.
    pub(crate) fn new(
        shared: Arc<Shared>,
        log: Arc<dyn SharedLog>,
        shelf: Shelf,
        config: Config,
        stop: Arc<AtomicBool>,
        recovery: &Recovery,
    ) -> io::Result<Self> {
        let head = log.tail().map_err(|error| io::Error::new(io::ErrorKind::TimedOut, error))?.head;
        let (bad, good) = shelf.list()?.into_iter().partition(|&position| {
            let name = file_name(position);
            position.next() < head || recovery.rejected.iter().any(|rejected| rejected.name == name)
        });
        Ok(Self { shared, log, shelf, config, stop, kept: Mutex::new(Kept { good, bad }) })
    }

    /// The positions of the checkpoints on the disk that are not known to be bad, oldest first.
    pub(crate) fn list(&self) -> Vec<Position> {
        self.kept.lock().expect("a checkpoint that panics is a bug").good.clone()
    }

    fn error(&self, action: &'static str, name: &str) -> impl FnOnce(io::Error) -> CheckpointError {
        let path = self.shelf.storage.path().join(name);
        move |source| CheckpointError::Io { action, path, source: Arc::new(source) }
    }

    /// The same as [`take_one`](Self::take_one), and tells those who watch.
    pub(crate) fn take(&self) -> Result<Checkpoint, CheckpointError> {
        let taken = self.take_one();
        match &taken {
            Ok(_) | Err(CheckpointError::Empty | CheckpointError::Stopped) => {}
            Err(error) => observe::checkpoint_failed(error),
        }
        taken
    }

    /// Takes a checkpoint of the newest committed state, gives up those that are too many, and trims the log.
    fn take_one(&self) -> Result<Checkpoint, CheckpointError> {
        let begun = Instant::now();
        let mut kept = self.kept.lock().expect("a checkpoint that panics is a bug");
        let (snapshot, digest) = self.shared.snapshot_with_digest().ok_or(CheckpointError::Stopped)?;
        let position = snapshot.position().ok_or(CheckpointError::Empty)?;
        let checkpoint = if kept.good.last() == Some(&position) {
            let opened = self.shelf.open(position);
            let bytes = opened
                .map_err(|bad| self.error("read", &file_name(position))(io::Error::other(bad.to_string())))?
                .bytes;
            Checkpoint { position, rows: self.shared.memory().rows, bytes, elapsed: begun.elapsed() }
        } else {
            let catalog = self.shared.known_catalog();
            // A state that survives a power cut which the log's entries do not would be that of another log.
            let flushed = self.log.flush()?;
            assert!(position < flushed, "what was executed was in the log");
            let header = FileHeader {
                log: self.shelf.log,
                position,
                state: digest.state,
                replies: digest.replies,
                taken_us: now_us(),
            };
            let written = self.write(&header, &catalog, &snapshot);
            if written.is_err() {
                // Gives back what was taken of a full disk. If that fails, too, the next attempt tries again.
                let _ = self.shelf.remove(WRITING);
            }
            let (rows, bytes) = written?;
            kept.good.push(position);
            Checkpoint { position, rows, bytes, elapsed: begun.elapsed() }
        };
        drop(snapshot);
        observe::checkpointed(&checkpoint);
        self.tidy(&mut kept)?;
        Ok(checkpoint)
    }

    fn write(
        &self,
        header: &FileHeader,
        catalog: &crate::entry::Catalog,
        snapshot: &crate::snapshot::Snapshot,
    ) -> Result<(u64, u64), CheckpointError> {
        let (shelf, position) = (&self.shelf, header.position);
        shelf.clear(position).map_err(self.error("prepare", ""))?;
        let stop = || self.stop.load(Ordering::Relaxed);
        let written = super::write::write(&*shelf.storage, WRITING, header, catalog, snapshot, &stop)
            .map_err(self.error("write", WRITING))?
            .ok_or(CheckpointError::Stopped)?;
        if let Err(error) = shelf.install(position) {
            // Whether it is there for good is not known, so it is not there.
            let _ = shelf.remove(&file_name(position));
            return Err(self.error("name", &file_name(position))(error));
        }
        Ok((written.rows, written.bytes))
    }

    /// Gives up the checkpoints that are too many, and the log before the oldest one that is kept.
    fn tidy(&self, kept: &mut Kept) -> Result<(), CheckpointError> {
        let mut removed = false;
        while kept.good.len() > self.config.keep.max(1) {
            self.shelf
                .remove(&file_name(kept.good[0]))
                .map_err(self.error("remove", &file_name(kept.good[0])))?;
            kept.good.remove(0);
            removed = true;
        }
        let oldest = kept.good[0];
        if kept.good.len() == self.config.keep.max(1) {
            // Evidence is kept until there are as many good ones as there should be.
            for bad in kept.bad.extract_if(.., |bad| *bad < oldest).collect::<Vec<_>>() {
                self.shelf.remove(&file_name(bad)).map_err(self.error("remove", &file_name(bad)))?;
                removed = true;
            }
        }
        if removed {
            self.shelf.storage.sync_directory().map_err(self.error("sync", ""))?;
        }
        if self.config.trim && self.log.tail().map_err(TrimError::from)?.head < oldest.next() {
            self.log.trim(oldest.next())?;
        }
        Ok(())
    }

    /// Takes checkpoints when they are due, until told to stop.
    pub(crate) fn run(&self) {
        // Somebody else's turn comes first: a checkpoint is in no hurry, and drivers wait for each other.
        let _ = rustix::process::nice(10);
        let due = &self.shared.due;
        let (mut failed, mut last) = (false, None);
        loop {
            let share = if failed { RETRY_SHARE } else { 1 };
            if let Some(bytes) = self.config.every_bytes {
                let since = due.executed.load(Ordering::Relaxed);
                due.wake_after(if last.is_none() { 0 } else { since }, (bytes / u64::from(share)).max(1));
            }
            if !due.wait(self.config.every.map(|every| Instant::now() + every / share)) {
                return;
            }
            if last == Some(self.shared.snapshots.tail()) && !failed {
                continue;
            }
            match self.take() {
                Ok(taken) => (failed, last) = (false, Some(taken.position.next())),
                Err(CheckpointError::Empty) => {}
                Err(CheckpointError::Stopped) => return,
                Err(_) => (failed, last) = (true, Some(last.unwrap_or_default())),
            }
        }
    }
}
