//! Copies of an engine's log and state that open.
//!
//! Of a running engine, from within: a checkpoint of this moment, and a log without entries that goes on from there.
//! From outside, of a directory: the newest checkpoint and the log, copied as they are, also while somebody writes to
//! them. Both copies keep the log's identity, and get their name when they are complete and on the disk. What does not get
//! there opens neither: a copied log gets its manifest last, and the log of a running engine's state starts behind the
//! checkpoint, without which it is refused.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mixlog_log::file::{self, Access, FsStorage, Storage, read_full, write_full};
use mixlog_log::{self as log, Durability, FileLog, Position, SharedLog, Tail};
use thiserror::Error;

use super::layout::{FileHeader, changed, file_name, too_large};
use super::read::Bad;
use super::shelf::{BESIDE, Shelf, WRITING};
use super::write::{self, WriteError};
use crate::codec::DecodeError;
use crate::engine::now_us;
use crate::pipeline::Shared;

/// How often a copy is begun again because checkpoint and log did not fit: a new checkpoint was taken meanwhile.
const ATTEMPTS: u32 = 10;

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// The last position of its checkpoint, if it has one.
    pub checkpoint: Option<Position>,
    /// The positions of its log: entries in `[head, tail)`. All that was acknowledged before the backup began is in
    /// its checkpoint or in its log.
    pub head: Position,
    /// See `head`.
    pub tail: Position,
    /// Bytes of checkpoint and log.
    pub bytes: u64,
}

/// Why there is no backup. Nothing was changed but for a directory with a name that ends in `.unfinished`.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackupError {
    /// Something is there already, and is left as it is.
    #[error("there is something at {0} already")]
    Exists(PathBuf),
    /// It would lie in the directory that it is a copy of ([`backup`]), and be lost with it.
    #[error("{0} is in the directory of the log itself: a backup belongs elsewhere")]
    Inside(PathBuf),
    /// Another backup to the same place is under way.
    #[error("another backup is being made in {0}: wait until it is done, or give this one another name")]
    InUse(PathBuf),
    /// The directory for the unfinished backup is taken by what no backup made, and is left as it is.
    #[error("there is something at {0} that no backup left: move it away, or give the backup another name")]
    Foreign(PathBuf),
    /// The log cannot be read, or not be written.
    #[error(transparent)]
    Log(#[from] log::OpenError),
    /// A checkpoint is damaged that the log cannot do without.
    #[error("the log starts at position {head}, and its newest checkpoint cannot be used: {detail}")]
    Checkpoint {
        /// The log's first position.
        head: Position,
        /// What is wrong.
        detail: String,
    },
    /// There is a checkpoint of entries that the log does not have: it lost them.
    #[error("{name} includes position {position}, but the log ends at {tail}: it lost entries")]
    LogTooShort {
        /// The checkpoint.
        name: String,
        /// Its last position.
        position: Position,
        /// The log's end.
        tail: Position,
    },
    /// A row could not be loaded again, so there is no backup of a running engine: see [`Value`](crate::Value).
    #[error("a row of table {table:?} could not be loaded again: {source}; see the documentation of Value")]
    Row {
        /// The table.
        table: String,
        /// Why it could not.
        source: DecodeError,
    },
    /// A row takes more bytes than a checkpoint can hold of one, so there is no backup of a running engine.
    #[error("{}", too_large(table, *bytes))]
    TooLarge {
        /// The table.
        table: String,
        /// What the row, its key and their lengths take.
        bytes: usize,
    },
    /// The rows do not make the state that transactions made: see [`CheckpointError::Changed`](super::CheckpointError).
    #[error("{}", changed(*position, *found, *expected))]
    Changed {
        /// The last position of the state.
        position: Position,
        /// What its rows make.
        found: u128,
        /// What transactions made.
        expected: u128,
    },
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BackupError + 'a {
    move |source| BackupError::Io { action, path: path.to_path_buf(), source }
}

/// The file that tells a directory for an unfinished backup from others. It is there before anything else is.
const MARK: &str = "mixlog-backup";

/// The directory in the unfinished one in which the backup is made, until it gets its name.
const COPY: &str = "copy";

/// The directory beside a backup in which it is made, alone.
struct Unfinished {
    path: PathBuf,
    to: PathBuf,
    /// Open and locked, until all is done.
    _lock: File,
}

impl Unfinished {
    fn new(to: &Path) -> Result<Self, BackupError> {
        refuse_existing(to)?;
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(".unfinished");
        let path = to.with_file_name(name);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if !metadata.is_dir() => return Err(BackupError::Foreign(path)),
            Ok(_) => {}
            Err(_) => FsStorage::new(&path).create_directory().map_err(io_error("create", &path))?,
        }
        let lock = File::open(&path).map_err(io_error("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(BackupError::InUse(path)),
            Err(TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
        }
        let locked = lock.metadata().map_err(io_error("look at", &path))?;
        if !fs::symlink_metadata(&path).is_ok_and(|found| found.ino() == locked.ino()) {
            // Another backup was just done with it, and removed it.
            return Err(BackupError::InUse(path));
        }
        let unfinished = Self { path, to: to.to_path_buf(), _lock: lock };
        unfinished.mark()?;
        // It may have got its name before this took the lock.
        if let Err(error) = refuse_existing(to) {
            unfinished.remove();
            return Err(error);
        }
        unfinished.clear()?;
        Ok(unfinished)
    }

    /// Sees that the directory is a backup's: it has the mark, or nothing.
    fn mark(&self) -> Result<(), BackupError> {
        let mark = self.path.join(MARK);
        if mark.exists() {
            return Ok(());
        }
        let mut files = fs::read_dir(&self.path).map_err(io_error("list", &self.path))?;
        if files.next().is_some() {
            return Err(BackupError::Foreign(self.path.clone()));
        }
        let marked = File::create_new(&mark).and_then(|mark| mark.sync_all());
        marked.and_then(|()| self.storage().sync_directory()).map_err(io_error("write", &mark))
    }

    /// Removes what an earlier attempt left.
    fn clear(&self) -> Result<(), BackupError> {
        let copy = self.path.join(COPY);
        match fs::remove_dir_all(&copy) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &copy)(error)),
            _ => Ok(()),
        }
    }

    /// Removes the directory, but for what others put there. What cannot be removed does no harm.
    fn remove(&self) {
        if self.clear().is_ok() {
            let _ = fs::remove_file(self.path.join(MARK));
            let _ = fs::remove_dir(&self.path);
        }
    }

    fn storage(&self) -> FsStorage {
        FsStorage::new(&self.path)
    }

    /// Where the log of the backup goes.
    fn copy(&self) -> Arc<dyn Storage> {
        Arc::new(FsStorage::new(self.path.join(COPY)))
    }

    fn finish(self) -> Result<(), BackupError> {
        let copy = self.path.join(COPY);
        fs::rename(&copy, &self.to).map_err(io_error("rename", &copy))?;
        let absolute = std::path::absolute(&self.to).map_err(io_error("find", &self.to))?;
        let parent = absolute.parent().unwrap_or(&absolute);
        let synced = File::open(parent).and_then(|parent| parent.sync_all());
        synced.map_err(io_error("sync", parent))?;
        self.remove();
        Ok(())
    }
}

/// Refuses what is there already, if only as a symbolic link to nothing.
fn refuse_existing(to: &Path) -> Result<(), BackupError> {
    match fs::symlink_metadata(to) {
        Ok(_) => Err(BackupError::Exists(to.to_path_buf())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error("look for", to)(error)),
    }
}

/// Refuses a place in the directory that is copied: the copy would go with it.
fn refuse_inside(from: &Path, to: &Path) -> Result<(), BackupError> {
    let absolute = std::path::absolute(to).map_err(io_error("find", to))?;
    // As much of it as is there; what is not leads nowhere else.
    let there = absolute.ancestors().find_map(|ancestor| ancestor.canonicalize().ok());
    match (from.canonicalize(), there) {
        (Ok(from), Some(there)) if there.starts_with(&from) => Err(BackupError::Inside(to.to_path_buf())),
        _ => Ok(()),
    }
}

/// Where the checkpoints go that lie beside a log.
fn shelf_beside(storage: &dyn Storage, log: log::LogId) -> Result<Shelf, BackupError> {
    let storage = storage.directory(BESIDE);
    storage.create_directory().map_err(io_error("create", storage.path()))?;
    Ok(Shelf { storage, log })
}

/// Backs up the state of a running engine: see [`Engine::backup`](crate::Engine::backup).
pub(crate) fn of_running(
    shared: &Arc<Shared>,
    log: &dyn SharedLog,
    to: &Path,
) -> Result<Backup, BackupError> {
    let unfinished = Unfinished::new(to)?;
    let backup = of_running_with_storage(shared, log, unfinished.copy(), file::Config::default())?;
    unfinished.finish()?;
    Ok(backup)
}

/// The same, to a directory without a log: see [`Engine::backup_with_storage`](crate::Engine::backup_with_storage).
pub(crate) fn of_running_with_storage(
    shared: &Arc<Shared>,
    log: &dyn SharedLog,
    to: Arc<dyn Storage>,
    files: file::Config,
) -> Result<Backup, BackupError> {
    let (snapshot, digest) = shared.snapshot_with_digest().ok_or(BackupError::Stopped)?;
    let checkpoint = snapshot.position();
    let head = checkpoint.map_or(Position::ZERO, Position::next);
    // The log first: one is not made where other files lie already. Its segment need not be filled with zeros: it is made
    // durable when it is closed.
    let config = file::Config { durability: Durability::Buffered, ..files };
    drop(FileLog::continue_with_storage(Arc::clone(&to), &config, log.id(), head)?);
    let mut bytes = 0;
    if let Some(position) = checkpoint {
        let shelf = shelf_beside(&*to, log.id())?;
        let header = FileHeader {
            log: log.id(),
            position,
            state: digest.state,
            replies: digest.replies,
            taken_us: now_us(),
        };
        let stop = || shared.in_flight.stopped().is_some();
        let written =
            write::write(&*shelf.storage, WRITING, &header, &shared.known_catalog(), &snapshot, &stop);
        let written = written.map_err(|error| match error {
            WriteError::Io(error) => io_error("write a checkpoint to", shelf.storage.path())(error),
            WriteError::Row(table, source) => BackupError::Row { table, source },
            WriteError::TooLarge(table, bytes) => BackupError::TooLarge { table, bytes },
            WriteError::Digest(found) => BackupError::Changed { position, found, expected: digest.state },
        })?;
        bytes = written.ok_or(BackupError::Stopped)?.bytes;
        if stop() {
            // It may have found meanwhile that its state is not the others'.
            return Err(BackupError::Stopped);
        }
        shelf.install(position).map_err(io_error("name a checkpoint in", shelf.storage.path()))?;
    }
    Ok(Backup { checkpoint, head, tail: head, bytes })
}

/// Copies the log in directory `from`, with the newest checkpoint beside it, to `to`, where nothing may be. Another
/// process may be running an engine on it meanwhile. Needs no procedures: any log can be copied.
///
/// # Errors
/// [`BackupError`]; the original is as it was.
pub fn backup(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<Backup, BackupError> {
    refuse_inside(from.as_ref(), to.as_ref())?;
    let from = FsStorage::new(from.as_ref());
    let unfinished = Unfinished::new(to.as_ref())?;
    let mut attempt = 1;
    loop {
        unfinished.clear()?;
        match backup_with_storage(&from, &*unfinished.copy()) {
            Err(BackupError::Checkpoint { .. }) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => {
                unfinished.remove();
                return Err(error);
            }
            Ok(backup) => {
                unfinished.finish()?;
                return Ok(backup);
            }
        }
    }
}

/// The same from one directory to another one, on file systems of the caller's making. There is no log in the other one,
/// and until this returns there is none that opens. It is tried once: a checkpoint that is taken meanwhile may make it
/// fail with [`BackupError::Checkpoint`].
///
/// # Errors
/// [`BackupError`]; the original is as it was, and the other directory is of no use any more.
pub fn backup_with_storage(from: &dyn Storage, to: &dyn Storage) -> Result<Backup, BackupError> {
    // The checkpoint first: entries are trimmed only when newer ones are there, so that the log copied afterwards goes on
    // from it, unless two were taken meanwhile.
    let (id, before) = FileLog::peek_with_storage(from)?;
    let source = Shelf { storage: from.directory(BESIDE), log: id };
    let positions = source.list().map_err(io_error("list", source.storage.path()))?;
    let target = shelf_beside(to, id)?;
    let (mut checkpoint, mut bytes, mut flaws) = (None, 0, String::new());
    for position in positions.into_iter().rev().filter(|position| position.next() >= before.head) {
        match copy_checkpoint(&source, &target, position) {
            Ok(copied) => {
                (checkpoint, bytes) = (Some(position), copied);
                break;
            }
            Err(CopyError::Bad(bad)) => flaws.push_str(&format!("{}: {bad}; ", file_name(position))),
            Err(CopyError::Write(error)) => {
                return Err(io_error("copy a checkpoint to", target.storage.path())(error));
            }
        }
    }
    let copied = FileLog::copy_with_storage(from, to)?;
    let Tail { head, tail, .. } = Tail { head: copied.head, tail: copied.tail, sealed: false };
    let reached = checkpoint.map_or(Position::ZERO, Position::next);
    if reached < head {
        let detail = if flaws.is_empty() { "it ends before".to_owned() } else { flaws };
        return Err(BackupError::Checkpoint { head, detail });
    }
    // It was copied before the log was, and is of nothing that was not flushed.
    if let Some(position) = checkpoint.filter(|position| *position >= tail) {
        return Err(BackupError::LogTooShort { name: file_name(position), position, tail });
    }
    Ok(Backup { checkpoint, head, tail, bytes: bytes + copied.bytes })
}

enum CopyError {
    /// The original is no good, or gone.
    Bad(Bad),
    Write(io::Error),
}

fn copy_checkpoint(from: &Shelf, to: &Shelf, position: Position) -> Result<u64, CopyError> {
    let opened = from.open(position).map_err(CopyError::Bad)?;
    let written = (|| {
        to.clear()?;
        to.remove(&file_name(position))?;
        let file = to.storage.open(WRITING, Access::CreateNew)?;
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        loop {
            let read = read_full(&**opened.file(), &mut buffer, offset)?;
            write_full(&*file, &buffer[..read], offset)?;
            offset += read as u64;
            if read < buffer.len() {
                break;
            }
        }
        file.sync_data()?;
        to.install(position)
    })();
    written.map_err(CopyError::Write)?;
    // What counts is the copy.
    let copied = to.open(position).and_then(|copied| copied.verify(|verify| verify()).map(|_| copied.bytes));
    copied.map_err(|bad| {
        let _ = to.remove(&file_name(position));
        CopyError::Bad(bad)
    })
}
