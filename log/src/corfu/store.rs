//! The projection store: a register for each epoch that is written once, in order of epochs.
//!
//! It is the only place where consensus is needed, and it is asked when the membership changes and when a
//! client finds its projection outdated, never on the way of an append or a read.
//!
//! Source: CORFU (NSDI 2012), section 3.4 (the auxiliary).

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use thiserror::Error;

use crate::LogId;
use crate::file::{Access, FsStorage, Storage, located, read_file, write_full};

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
    /// What it was told could not be made durable, so it says nothing until it is opened again: what it says may be acted
    /// by, and must stay.
    #[error(
        "the projection store in {path} cannot tell what is durable and has to be opened again: {reason}"
    )]
    Failed {
        /// Which directory.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
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
/// log's id in hexadecimal digits and their checksum. A third kind, `founded`, says since the first projection that there
/// was one.
///
/// A file gets its name when it is complete and synced, by a link, which fails if the name is taken. So it is
/// there wholly or not at all, and never replaced: of several processes that install an epoch, one succeeds. Nothing is
/// said of a name that is not durable: whoever finds one syncs the directory first, since whoever made it may not have come
/// to that; so does whoever opens the store. A sync of the directory that fails is final: it may have lost the name, and
/// another one would succeed without it. Who opens the store afterwards finds what the file system has: one that could not
/// write its own records lets nobody write any more until it is mounted again, and then it reads them from the disk.
///
/// While it is made its name begins with `creating-`. Whoever opens the store removes those that he finds, which killed
/// processes may have left; who is still making one finds that it is gone before he gives it its name, and makes another
/// one.
pub struct FileStore {
    storage: Arc<dyn Storage>,
    /// The highest epoch whose name is known to be durable.
    durable: AtomicU64,
    /// Held while the directory is synced.
    syncing: Mutex<()>,
    /// Why that failed, if it ever did.
    failure: OnceLock<String>,
}

/// What stands in the directory.
struct Found {
    highest: Option<Epoch>,
    founded: bool,
}

impl FileStore {
    /// The store in `directory`, which is created if it is missing.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StoreError> {
        Self::open_with_storage(Arc::new(FsStorage::new(directory)))
    }

    /// Like [`open`](Self::open), on a file system of the caller's making, which has links.
    ///
    /// # Errors
    /// Like [`open`](Self::open).
    pub fn open_with_storage(storage: Arc<dyn Storage>) -> Result<Self, StoreError> {
        storage.create_directory()?;
        for leftover in storage.list()?.iter().filter(|name| name.starts_with(CREATING)) {
            // If that fails it is garbage, and nothing else.
            let _ = storage.remove(leftover);
        }
        storage.sync_directory()?;
        let (durable, syncing, failure) = (AtomicU64::new(0), Mutex::default(), OnceLock::new());
        Ok(Self { storage, durable, syncing, failure })
    }

    /// Where the store is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.storage.path()
    }

    /// Why it says nothing any more; `None` while all is well.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.failure() {
            None => Ok(()),
            Some(reason) => {
                Err(StoreError::Failed { path: self.path().to_path_buf(), reason: reason.to_owned() })
            }
        }
    }

    fn look(&self) -> Result<Found, StoreError> {
        self.check()?;
        let names = self.storage.list()?;
        let highest = names.iter().filter_map(|name| parse_file_name(name)).max();
        Ok(Found { highest, founded: names.iter().any(|name| name == FOUNDED) })
    }

    fn sync_directory(&self) -> Result<(), StoreError> {
        let _syncing = self.syncing.lock().expect(UNPOISONED);
        self.check()?;
        self.storage.sync_directory().map_err(|error| {
            let error = located(self.path().to_path_buf(), error);
            let _ = self.failure.set(error.to_string());
            error.into()
        })
    }

    /// Makes sure of the projection of that epoch, and so of those before.
    fn settle(&self, epoch: Epoch) -> Result<(), StoreError> {
        self.sync_directory()?;
        if self.durable.load(Ordering::Acquire) == 0 && self.create(FOUNDED, b"")? {
            self.sync_directory()?;
        }
        self.durable.fetch_max(epoch.0, Ordering::AcqRel);
        Ok(())
    }

    /// Makes a file of that name, complete and synced; false if there is one already. The name itself is not synced.
    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        for _ in 0..MOST_ATTEMPTS {
            match self.try_create(name, bytes) {
                // Whoever opened the store meanwhile took it for a leftover.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                created => return created,
            }
        }
        self.try_create(name, bytes)
    }

    fn try_create(&self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        // Nobody else makes one of that name, also after this one was removed: what is given its name is this one, or none.
        let creating = format!("{CREATING}{name}-{}", LogId::random());
        let file = self.storage.open(&creating, Access::CreateNew)?;
        // If that fails, another attempt makes another file: what a failed sync lost is given up with this one.
        let complete = write_full(&*file, bytes, 0).and_then(|()| file.sync_data());
        let linked = complete.and_then(|()| match self.storage.link(&creating, name) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        });
        // If that fails it is garbage, and nothing else.
        let _ = self.storage.remove(&creating);
        linked
    }
}

impl ProjectionStore for FileStore {
    fn latest(&self) -> Result<Option<Arc<Projection>>, StoreError> {
        let Found { highest, founded } = self.look()?;
        let Some(epoch) = highest else {
            return if founded {
                Err(StoreError::Lost { path: self.path().to_path_buf() })
            } else {
                Ok(None)
            };
        };
        if epoch.0 > self.durable.load(Ordering::Acquire) {
            self.settle(epoch)?;
        }
        let bytes = read_file(&*self.storage, &file_name(epoch))?;
        let projection = Projection::decode(&bytes).map_err(|flaw| StoreError::Damaged { epoch, flaw })?;
        Ok(Some(Arc::new(projection)))
    }

    fn install(&self, projection: &Projection) -> Result<bool, StoreError> {
        let epoch = projection.epoch;
        if epoch == Epoch(1) && self.latest()?.is_some() {
            return Ok(false);
        }
        if self.look()?.highest.unwrap_or(Epoch::NONE).next() != epoch {
            return Ok(false);
        }
        let installed = self.create(&file_name(epoch), &projection.encode())?;
        if installed {
            self.settle(epoch)?;
        }
        Ok(installed)
    }

    fn name(&self, proposed: LogId) -> Result<LogId, StoreError> {
        if let Some(latest) = self.latest()? {
            return Ok(latest.log);
        }
        let named = if self.create(NAME, name_text(proposed).as_bytes())? {
            proposed
        } else {
            let named = parse_name_text(&read_file(&*self.storage, NAME)?);
            named.ok_or_else(|| StoreError::Nameless { path: self.path().join(NAME) })?
        };
        self.sync_directory()?;
        Ok(named)
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore")
            .field("path", &self.path())
            .field("durable", &self.durable)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

/// What the name of a file that is not complete begins with.
const CREATING: &str = "creating-";

/// How often a file is made again that somebody took for a leftover.
const MOST_ATTEMPTS: u32 = 100;

/// The file that names the log.
const NAME: &str = "log";

/// The file that says that there was a projection: without one the store is damaged, and not new.
const FOUNDED: &str = "founded";

fn file_name(epoch: Epoch) -> String {
    format!("projection-{:016x}", epoch.0)
}

fn parse_file_name(name: &str) -> Option<Epoch> {
    let number = name.strip_prefix("projection-").filter(|number| number.len() == 16)?;
    u64::from_str_radix(number, 16).ok().map(Epoch)
}

/// What the file that names the log holds.
fn name_text(log: LogId) -> String {
    let digits = log.to_string();
    format!("{digits} {:08x}\n", crc32c::crc32c(digits.as_bytes()))
}

fn parse_name_text(text: &[u8]) -> Option<LogId> {
    let text = std::str::from_utf8(text).ok()?;
    let log = LogId(u128::from_str_radix(text.get(..32)?, 16).ok()?);
    // The digits alone are taken as well.
    let digits = log.to_string();
    (text == name_text(log) || text.trim_end() == digits).then_some(log)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::fs;

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
        let file = directory.path().join(file_name(Epoch(1)));
        fs::remove_file(&file).unwrap();
        let is_lost =
            |error: StoreError| matches!(error, StoreError::Lost { path } if path == directory.path());
        assert!(is_lost(open().latest().unwrap_err()));
        assert!(is_lost(open().install(&projection).unwrap_err()));
        assert!(is_lost(open().name(LogId(2)).unwrap_err()));
        // Also one that was founded before there was such a file, once it was looked at.
        fs::remove_file(directory.path().join(FOUNDED)).unwrap();
        fs::write(&file, projection.encode()).unwrap();
        assert!(open().latest().unwrap().is_some());
        fs::remove_file(&file).unwrap();
        assert!(is_lost(open().latest().unwrap_err()));
    }

    #[test]
    fn file_store_with_a_damaged_projection_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileStore::open(directory.path()).unwrap();
        let projection = first_projection();
        assert!(store.install(&projection).unwrap());
        let file = directory.path().join(file_name(Epoch(1)));
        let mut bytes = fs::read(&file).unwrap();
        bytes[40] ^= 1;
        fs::write(&file, bytes).unwrap();
        let error = store.latest().unwrap_err();
        assert!(matches!(error, StoreError::Damaged { epoch: Epoch(1), flaw: Flaw::Checksum }), "{error}");
    }
}
