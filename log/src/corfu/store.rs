//! The projection store: a register for each epoch that is written once, in order of epochs.
//!
//! It is the only place where consensus is needed, and it is asked when the membership changes and when a
//! client finds its projection outdated, never on the way of an append or a read.
//!
//! Source: CORFU (NSDI 2012), section 3.4 (the auxiliary).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use thiserror::Error;

use crate::LogId;

use super::message::{Epoch, StoreReply, StoreRequest};
use super::projection::{Flaw, Projection};

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// Why the projection store has no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It could not be reached, or its disk refused. Whether a projection was installed is not known.
    #[error("cannot use the projection store: {0}")]
    Io(#[from] io::Error),
    /// What it holds is damaged.
    #[error("the projection of epoch {epoch} is damaged: {flaw}")]
    Damaged {
        /// Of which epoch.
        epoch: Epoch,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// Another process serves the store in this directory.
    #[error("{path} is in use by another process")]
    InUse {
        /// Which directory.
        path: PathBuf,
    },
    /// The file that names the log does not.
    #[error("{path} does not hold the id of a log")]
    Nameless {
        /// Which file.
        path: PathBuf,
    },
    /// A cluster was founded here, and no projection is left: they were deleted, or another file system is mounted. To
    /// found it again would give its log another beginning.
    #[error("the projections in {path} are gone: the file \"{FOUNDED}\" there says that there were some")]
    Lost {
        /// Which directory.
        path: PathBuf,
    },
    /// What stands at this key was not written by a projection store, or part of what was is missing.
    #[error("{key} in etcd was not left so by a projection store")]
    Foreign {
        /// Which key.
        key: String,
    },
}

/// Keeps projections; linearizable.
pub trait ProjectionStore: Send + Sync + 'static {
    /// The projection of the highest epoch.
    ///
    /// # Errors
    /// [`StoreError`].
    fn latest(&self) -> Result<Option<Arc<Projection>>, StoreError>;

    /// Installs `projection`, durably, if its epoch is the one after the latest; false if it is not, or
    /// another one was installed first.
    ///
    /// # Errors
    /// [`StoreError`]: it may be installed or not. Look.
    fn install(&self, projection: &Projection) -> Result<bool, StoreError>;

    /// Of which log the projections are, or will be, durably: of `proposed`, if nobody named one before. So whoever
    /// founds a log, goes on with what others had begun.
    ///
    /// # Errors
    /// [`StoreError`]: it may be named or not. Ask again.
    fn name(&self, proposed: LogId) -> Result<LogId, StoreError>;

    /// Answers a request of the protocol.
    ///
    /// # Errors
    /// [`StoreError`]: there is no answer.
    fn handle(&self, request: &StoreRequest) -> Result<StoreReply, StoreError> {
        match request {
            StoreRequest::Latest => self.latest().map(StoreReply::Latest),
            StoreRequest::Name(proposed) => self.name(*proposed).map(StoreReply::Named),
            StoreRequest::Install(projection) => {
                if self.install(projection)? {
                    Ok(StoreReply::Installed)
                } else {
                    self.latest().map(StoreReply::Latest)
                }
            }
        }
    }
}

/// The register itself: what every store does, as a state machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Register {
    log: Option<LogId>,
    projections: BTreeMap<Epoch, Arc<Projection>>,
}

impl Register {
    /// The projection of the highest epoch.
    #[must_use]
    pub fn latest(&self) -> Option<&Arc<Projection>> {
        self.projections.last_key_value().map(|(_, projection)| projection)
    }

    /// All projections, in order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Projection>> {
        self.projections.values()
    }

    /// Answers a request.
    pub fn handle(&mut self, request: &StoreRequest) -> StoreReply {
        match request {
            StoreRequest::Latest => {}
            StoreRequest::Name(proposed) => {
                let known = self.latest().map(|latest| latest.log);
                return StoreReply::Named(*self.log.get_or_insert_with(|| known.unwrap_or(*proposed)));
            }
            StoreRequest::Install(projection) => {
                let next = self.latest().map_or(Epoch(1), |latest| latest.epoch.next());
                if projection.epoch == next {
                    self.projections.insert(next, Arc::clone(projection));
                    return StoreReply::Installed;
                }
            }
        }
        StoreReply::Latest(self.latest().cloned())
    }
}

/// A projection store in this process' memory.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Register>);

impl ProjectionStore for MemoryStore {
    fn latest(&self) -> Result<Option<Arc<Projection>>, StoreError> {
        Ok(self.0.lock().expect(UNPOISONED).latest().cloned())
    }

    fn install(&self, projection: &Projection) -> Result<bool, StoreError> {
        let request = StoreRequest::Install(Arc::new(projection.clone()));
        Ok(self.0.lock().expect(UNPOISONED).handle(&request) == StoreReply::Installed)
    }

    fn name(&self, proposed: LogId) -> Result<LogId, StoreError> {
        match self.0.lock().expect(UNPOISONED).handle(&StoreRequest::Name(proposed)) {
            StoreReply::Named(log) => Ok(log),
            other => unreachable!("asked for a name, it answers {other:?}"),
        }
    }
}

/// A projection store in a directory, for processes of one machine: a file for each epoch, and one, `log`, with the
/// log's id in hexadecimal digits. A third kind, `founded`, says since the first projection that there was one.
///
/// A file gets its name when it is complete and synced, by a link, which fails if the name is taken. So it is
/// there wholly or not at all, and never replaced.
#[derive(Debug)]
pub struct FileStore {
    directory: PathBuf,
    /// The highest epoch whose name is known to be durable.
    durable: AtomicU64,
}

impl FileStore {
    /// The store in `directory`, which is created if it is missing.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let directory = directory.into();
        fs::create_dir_all(&directory)?;
        if let Some(parent) = std::path::absolute(&directory)?.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(Self { directory, durable: AtomicU64::new(0) })
    }

    /// Where the store is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory
    }

    fn file(&self, epoch: Epoch) -> PathBuf {
        self.directory.join(file_name(epoch))
    }

    fn highest(&self) -> io::Result<Option<Epoch>> {
        let mut highest = None;
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("projection-"));
            if let Some(number) = number.filter(|number| number.len() == 16)
                && let Ok(number) = u64::from_str_radix(number, 16)
            {
                highest = highest.max(Some(Epoch(number)));
            }
        }
        Ok(highest)
    }

    fn sync(&self, epoch: Epoch) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()?;
        if self.durable.load(Ordering::Acquire) == 0 && self.create(FOUNDED, b"")? {
            File::open(&self.directory)?.sync_all()?;
        }
        self.durable.fetch_max(epoch.0, Ordering::AcqRel);
        Ok(())
    }

    /// Makes a file of that name, complete and synced; false if there is one already. The name itself is not synced.
    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        // Of the process, which may have the store open more than once.
        static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
        let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
        let creating = self.directory.join(format!("creating-{name}-{}-{attempt}", std::process::id()));
        let linked = (|| {
            let mut file = File::create(&creating)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::hard_link(&creating, self.directory.join(name))
        })();
        // If that fails it is garbage, and nothing else.
        let _ = fs::remove_file(&creating);
        match linked {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl ProjectionStore for FileStore {
    fn latest(&self) -> Result<Option<Arc<Projection>>, StoreError> {
        let Some(epoch) = self.highest()? else {
            if self.directory.join(FOUNDED).try_exists()? {
                return Err(StoreError::Lost { path: self.directory.clone() });
            }
            return Ok(None);
        };
        if epoch.0 > self.durable.load(Ordering::Acquire) {
            // Who installed it may not have come to that. A projection that somebody has acted by must stay.
            self.sync(epoch)?;
        }
        let bytes = fs::read(self.file(epoch))?;
        let projection = Projection::decode(&bytes).map_err(|flaw| StoreError::Damaged { epoch, flaw })?;
        Ok(Some(Arc::new(projection)))
    }

    fn install(&self, projection: &Projection) -> Result<bool, StoreError> {
        let epoch = projection.epoch;
        if epoch == Epoch(1) && self.latest()?.is_some() {
            return Ok(false);
        }
        if self.highest()?.unwrap_or(Epoch::NONE).next() != epoch {
            return Ok(false);
        }
        let installed = self.create(&file_name(epoch), &projection.encode())?;
        if installed {
            self.sync(epoch)?;
        }
        Ok(installed)
    }

    fn name(&self, proposed: LogId) -> Result<LogId, StoreError> {
        if let Some(latest) = self.latest()? {
            return Ok(latest.log);
        }
        let path = self.directory.join(NAME);
        let read = || -> Result<LogId, StoreError> {
            let text = fs::read_to_string(&path)?;
            let log = u128::from_str_radix(text.trim_end(), 16);
            log.map(LogId).map_err(|_| StoreError::Nameless { path: path.clone() })
        };
        let named = if self.create(NAME, format!("{proposed}\n").as_bytes())? { proposed } else { read()? };
        // Whoever made the file may not have come to that. A name that somebody has acted by must stay.
        File::open(&self.directory)?.sync_all()?;
        Ok(named)
    }
}

/// The file that names the log.
const NAME: &str = "log";

/// The file that says that there was a projection: without one the store is damaged, and not new.
const FOUNDED: &str = "founded";

fn file_name(epoch: Epoch) -> String {
    format!("projection-{:016x}", epoch.0)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::message::{SequencerNumber, UnitNumber};
    use super::super::plan::{Change, Found};
    use super::*;
    use crate::{LogId, Position};

    fn first_projection() -> Projection {
        let change = Change {
            sequencer: Some(SequencerNumber(1)),
            ..Change::grow(vec![vec![UnitNumber(1), UnitNumber(2)]])
        };
        let found = Found { tail: Position(0), trimmed: Position::ZERO, silent: Vec::new(), instance: None };
        Projection::blank(LogId(1), 8).next(&change, &found).unwrap()
    }

    #[test]
    fn file_store_whose_projections_are_gone_is_not_new() {
        let directory = tempfile::tempdir().unwrap();
        let open = || FileStore::open(directory.path()).unwrap();
        let projection = first_projection();
        // Begun, and not founded.
        assert_eq!(open().name(LogId(1)).unwrap(), LogId(1));
        assert!(open().latest().unwrap().is_none());
        assert!(open().install(&projection).unwrap());
        fs::remove_file(open().file(Epoch(1))).unwrap();
        let is_lost =
            |error: StoreError| matches!(error, StoreError::Lost { path } if path == directory.path());
        assert!(is_lost(open().latest().unwrap_err()));
        assert!(is_lost(open().install(&projection).unwrap_err()));
        assert!(is_lost(open().name(LogId(2)).unwrap_err()));
        // Also one that was founded before there was such a file, once it was looked at.
        fs::remove_file(directory.path().join(FOUNDED)).unwrap();
        fs::write(open().file(Epoch(1)), projection.encode()).unwrap();
        assert!(open().latest().unwrap().is_some());
        fs::remove_file(open().file(Epoch(1))).unwrap();
        assert!(is_lost(open().latest().unwrap_err()));
    }

    #[test]
    fn file_store_with_a_damaged_projection_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileStore::open(directory.path()).unwrap();
        let projection = first_projection();
        assert!(store.install(&projection).unwrap());
        let mut bytes = fs::read(store.file(Epoch(1))).unwrap();
        bytes[40] ^= 1;
        fs::write(store.file(Epoch(1)), bytes).unwrap();
        let error = store.latest().unwrap_err();
        assert!(matches!(error, StoreError::Damaged { epoch: Epoch(1), flaw: Flaw::Checksum }), "{error}");
    }
}
