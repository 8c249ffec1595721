//! Checkpoints: the state after a position, in a file, so that the log before it can be given up and opening takes
//! less time.
//!
//! ```text
//! snapshot ──write──> file ──sync, rename, sync──> shelf ──> older ones removed, log trimmed
//!                                                    │
//! log ──replay──> state <──load, verify digest───────┘   when it is opened again
//! ```
//!
//! One is taken from a snapshot, while transactions run. A checkpoint is a set of rows and the digests there; loading
//! it gives the state that a replay up to its position gives, which the digest shows. The bytes, and what becomes of
//! them in a crash, are told in `docs/checkpoint-format.md`.
//!
//! By default an engine on a [`FileLog`](mixlog_log::FileLog) keeps its checkpoints in `checkpoints` inside of the log's
//! directory, takes one for every 256 MiB of log, keeps two, and trims the log before the older one.

mod backup;
mod convert;
mod due;
mod keep;
mod layout;
mod load;
mod read;
mod shelf;
mod start;
mod verify;
mod write;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mixlog_log::file::Storage;
use mixlog_log::{FlushError, Position, SharedLog, TrimError};
use thiserror::Error;

use crate::codec::DecodeError;
use layout::{changed, too_large};
use read::Bad;
use shelf::BESIDE;

pub use backup::{Backup, BackupError, backup, backup_with_storage};
pub(crate) use backup::{of_running, of_running_with_storage};
pub(crate) use convert::{Conversion, row_format};
pub(crate) use due::Due;
pub(crate) use keep::Keeper;
pub(crate) use layout::RowFormat;
pub(crate) use load::{Source, catalog_of, recover};
pub(crate) use shelf::Shelf;
pub(crate) use start::{ATTEMPTS, start};
pub use verify::{Verified, verify};

/// Whether and how an engine keeps checkpoints; see the module's documentation.
///
/// ```
/// use mixlog_engine::{Engine, checkpoint};
///
/// // Every 64 MiB of log, and the log is kept from its start.
/// let config = checkpoint::Config { every_bytes: Some(64 << 20), trim: false, ..Default::default() };
/// let builder = Engine::builder().checkpoints(config);
/// ```
#[derive(Clone)]
pub struct Config {
    /// The directory in which they lie. Default: `None`, which means `checkpoints` beside a log that has a directory, and
    /// no checkpoints for others. One directory serves one engine at a time: the first that needs it
    /// [locks](Storage::lock) it until it is closed, and others, which may follow the same log, take no checkpoints
    /// ([`CheckpointError::InUse`]) and do not trim it. Nothing else locks it: not the directory of a log.
    pub storage: Option<Arc<dyn Storage>>,
    /// How many are kept, at least 1. Default: 2, so that there is another one when the newest cannot be read. More
    /// cost disk space, also of the log, which is kept from the oldest one on, and until there are so many from its start,
    /// unless the disk is full.
    pub keep: usize,
    /// Takes one whenever so many bytes of entries were executed since the last, also one on
    /// [request](crate::Engine::checkpoint). Default: 256 MiB; `None` for never, at most 2^50. Less makes opening faster and
    /// the log smaller, and costs the writing of all rows more often.
    pub every_bytes: Option<u64>,
    /// Takes one whenever so much time has passed since the last that it took or tried, or that was taken on request, if
    /// anything was executed; beside `every_bytes`, whichever comes first. Default: `None`, never. Not zero.
    ///
    /// Without `every_bytes`, what is logged between two has no bound but the time, and the space that is kept for the next
    /// one (where `keep` is 1: otherwise an older one is given up for it) is that of the last, however much is logged
    /// since. A state that has grown may then not fit on a disk that has become full: name `every_bytes`, too, and that
    /// space grows with the log.
    pub every: Option<Duration>,
    /// Whether the log is trimmed before the oldest one that is kept. Default: yes. Without, the log grows for ever, and
    /// every state of the past can be rebuilt.
    ///
    /// On a cluster it is trimmed for all who use it: an engine or replica that is further behind than that stops, and is
    /// started anew from a newer checkpoint. For members, see [`lag`](Self::lag).
    pub trim: bool,
    /// How many checkpoints the log is kept longer, at most, for [members](crate::Membership) that lag: what not all of them
    /// have voted on yet is not trimmed before so many more were taken. Default: 4. A member that is gone for good makes the
    /// log so much longer. An engine that is opened waits for one more of its checkpoints. On a disk that is full nobody is
    /// waited for.
    pub lag: usize,
    /// Where an engine or a replay starts. Default: [`Start::Newest`].
    pub start: Start,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            storage: None,
            keep: 2,
            every_bytes: Some(256 << 20),
            every: None,
            trim: true,
            lag: 4,
            start: Start::Newest,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("storage", &self.storage.as_ref().map(|storage| storage.path()))
            .field("keep", &self.keep)
            .field("every_bytes", &self.every_bytes)
            .field("every", &self.every)
            .field("trim", &self.trim)
            .field("lag", &self.lag)
            .field("start", &self.start)
            .finish()
    }
}

impl Config {
    /// Where the checkpoints of a log lie.
    pub(crate) fn shelf(&self, log: &dyn SharedLog) -> Option<Shelf> {
        let storage = self.storage.clone().or_else(|| log.beside(BESIDE))?;
        Some(Shelf { storage, log: log.id() })
    }
}

/// Where to start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the newest checkpoint that is whole: the shortest replay.
    #[default]
    Newest,
    /// At the start of the log, or at the oldest checkpoint if the log was trimmed: the longest replay, which shows that
    /// later checkpoints tell the truth.
    Oldest,
}

/// A checkpoint that is on the disk for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The last position whose entry it includes.
    pub position: Position,
    /// Rows of all tables.
    pub rows: u64,
    /// The file's length.
    pub bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Why there is no new checkpoint, or why the log was not trimmed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Nobody said where: see [`Config::storage`].
    #[error("the log has no directory to keep checkpoints in, and none was named")]
    Nowhere,
    /// The engine is a [`member`](crate::Builder::member) of several that compare, and they have agreed on no state that
    /// is newer than the last checkpoint: a state that may differ from the others' is not kept. To have one that includes
    /// what was acknowledged, [`pad`](crate::Engine::pad) the log and [`wait_agreed`](crate::Engine::wait_agreed) before.
    #[error("the members have not agreed on a state that is newer than the last checkpoint")]
    NotAgreed,
    /// Nothing was executed yet.
    #[error("there is nothing to keep: the log is empty")]
    Empty,
    /// Another engine, of this process or another one, takes checkpoints in this directory. It is tried again like after any
    /// other failure, and works once that engine is closed.
    #[error("another engine keeps its checkpoints in {path}")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The log's entries are not known to be durable, so what follows from them must not be.
    #[error("the log cannot be flushed: {0}")]
    Flush(#[from] FlushError),
    /// The operating system refused; a disk that is full, for example. The checkpoints that were there are there
    /// still, but on a full disk for the oldest of several.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Its answer.
        source: Arc<io::Error>,
    },
    /// A row could not be loaded again, so there is no checkpoint, and the log is not trimmed: its type is one that serde
    /// writes and postcard does not read. See [`Value`](crate::Value).
    #[error("a row of table {table:?} could not be loaded again: {source}; see the documentation of Value")]
    Row {
        /// The table.
        table: String,
        /// Why it could not.
        source: DecodeError,
    },
    /// A row takes more bytes than a checkpoint can hold of one, so there is no checkpoint, and the log is not trimmed: see
    /// [`Value`](crate::Value).
    #[error("{}", too_large(table, *bytes))]
    TooLarge {
        /// The table.
        table: String,
        /// What the row, its key and their lengths take.
        bytes: usize,
    },
    /// The rows do not make the state that transactions made: something else changed them since, as a row type that can be
    /// changed through a shared reference, or memory that is broken. There is no checkpoint, and the log is not trimmed:
    /// who starts anew from the last one comes to the right state.
    #[error("{}", changed(*position, *found, *expected))]
    Changed {
        /// The last position of the state.
        position: Position,
        /// What its rows make.
        found: u128,
        /// What transactions made.
        expected: u128,
    },
    /// The checkpoint is there, but the log could not be trimmed. The next one trims it.
    #[error("the checkpoint was taken, but the log was not trimmed: {0}")]
    Trim(#[from] TrimError),
    /// Code that must not panic did: a row's `Clone`, `Serialize` or `Deserialize`, most likely. There is no checkpoint; it
    /// is tried again like after any other failure.
    #[error("taking it panicked: {0}")]
    Panicked(String),
    /// The engine was closed meanwhile, or has stopped.
    #[error("the engine has stopped")]
    Stopped,
}

impl CheckpointError {
    /// The error of a disk that is full, if it is one.
    fn no_space(&self) -> Option<&Arc<io::Error>> {
        match self {
            Self::Io { source, .. } if is_full(source) => Some(source),
            _ => None,
        }
    }
}

/// Whether this is the error of a disk that is full.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A checkpoint that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its file name.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
    /// Whether the operating system does not give it, perhaps only this time. Otherwise its bytes are wrong, or its state.
    pub unreadable: bool,
}

impl Rejected {
    fn new(name: String, bad: &Bad) -> Self {
        Self { name, reason: bad.to_string(), unreadable: matches!(bad, Bad::Io(_)) }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be used: {}", self.name, self.reason)
    }
}

/// How a state was rebuilt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// The last position of the checkpoint that was loaded; `None` when there was none to load.
    pub checkpoint: Option<Position>,
    /// Whether the members' votes in the log say that its state is theirs. Not so when nobody compares, or they did not
    /// vote on its position: then the next votes show whether it is.
    pub agreed: bool,
    /// Checkpoints that were passed over, in the order in which they were tried. They are left where they are, until
    /// newer ones take their place.
    pub rejected: Vec<Rejected>,
    /// Rows that were loaded.
    pub rows: u64,
    /// How long verifying and loading took.
    pub load: Duration,
    /// Entries of the log that were executed.
    pub entries: u64,
    /// How long that took.
    pub replay: Duration,
}

impl Recovery {
    /// All of the time that it took.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.load + self.replay
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "recovered in {:.2} s: ", self.elapsed().as_secs_f64())?;
        if let Some(position) = self.checkpoint {
            let (rows, seconds) = (self.rows, self.load.as_secs_f64());
            write!(f, "checkpoint of position {position} ({rows} rows, {seconds:.2} s), ")?;
        }
        write!(f, "{} entries replayed ({:.2} s)", self.entries, self.replay.as_secs_f64())
    }
}

/// Called now and then with how much of a checkpoint was read, and its length, in bytes.
pub(crate) type OnLoad = Box<dyn Fn(u64, u64) + Send + Sync>;
