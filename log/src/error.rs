//! One small error type per operation; each variant says what the caller can do.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::Position;

/// Why an append has no position.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The log is sealed. Nothing was appended; no later append will succeed.
    #[error("the log is sealed at position {tail}")]
    Sealed {
        /// The final tail.
        tail: Position,
    },
    /// The batch is larger than the log takes. Nothing was appended; split it.
    #[error("a batch of {size} bytes is larger than the log's limit of {limit} bytes")]
    TooLarge {
        /// Bytes of the batch.
        size: usize,
        /// Largest batch, in bytes.
        limit: usize,
    },
    /// There is no space, or no file can be made. Nothing of this batch was or will be appended; appends work again when
    /// there is. The error names the log's directory.
    #[error("{}: {full}", what_is_full(.0), full = .0)]
    Full(Arc<io::Error>),
    /// The log failed for good (a flush failed, for example): the entries may or may not be there after the
    /// log is opened again. Nothing is acknowledged from here on. The error is of the kind that the operating system told, and
    /// names the log's directory.
    #[error("the log has failed and must be opened again: {0}")]
    Failed(Arc<io::Error>),
    /// The cluster that keeps the log did not answer in time. Nothing was or will be appended; try again.
    #[error("the log could not be reached in time")]
    Unavailable,
    /// The cluster that keeps the log did not answer in time, or too late to tell: the entries are in the
    /// log at `position`, or appear there yet, or not at all. Who needs to know reads that position.
    #[error("nobody can tell whether the entries were appended at position {position}")]
    Indeterminate {
        /// Where they are, if anywhere.
        position: Position,
    },
    /// The batch has more entries than the log takes at once. Nothing was appended; split it.
    #[error("a batch may have {limit} entries at most")]
    TooMany {
        /// Largest number of entries.
        limit: u32,
    },
    /// The log was closed before the entries were written. They are not in it.
    #[error("the log was closed")]
    Closed,
    /// The log was opened to read only. Nothing was appended.
    #[error("the log was opened to read only")]
    ReadOnly,
}

/// Equal if they tell the same.
impl PartialEq for AppendError {
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other) && self.to_string() == other.to_string()
    }
}

impl Eq for AppendError {}

/// A disk is not the only thing that files can run out of.
fn what_is_full(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "no space left for the log",
        _ => "the log cannot have another file",
    }
}

/// Why an entry cannot be read.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The position lies before the head.
    #[error("position {position} was trimmed, the log starts at {head}")]
    Trimmed {
        /// The position asked for.
        position: Position,
        /// The first position that can be read.
        head: Position,
    },
    /// Acknowledged bytes are damaged: the entry is lost here, and nothing was changed.
    #[error("the log is corrupt at position {position}: {detail}")]
    Corrupt {
        /// The first position that cannot be read.
        position: Position,
        /// Which file, which offset, what is wrong with it.
        detail: String,
    },
    /// The operating system refused a read.
    #[error("cannot read the log: {0}")]
    Io(Arc<io::Error>),
    /// The cluster that keeps the log did not answer in time. Read again.
    #[error("the log could not be reached in time, to be read")]
    Unavailable,
    /// The log failed for good; open it again.
    #[error("the log has failed and must be opened again: {0}")]
    Failed(Arc<io::Error>),
}

/// Why nobody can tell how far a log reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TailError {
    /// The cluster that keeps the log did not answer in time. Ask again.
    #[error("the log could not be reached in time, to see how far it goes")]
    Unavailable,
}

impl From<TailError> for AppendError {
    /// Who needs the tail before it appends has appended nothing.
    fn from(TailError::Unavailable: TailError) -> Self {
        Self::Unavailable
    }
}

impl From<TailError> for ReadError {
    fn from(TailError::Unavailable: TailError) -> Self {
        Self::Unavailable
    }
}

impl From<TailError> for TrimError {
    fn from(TailError::Unavailable: TailError) -> Self {
        Self::Unavailable
    }
}

impl From<TailError> for FlushError {
    fn from(TailError::Unavailable: TailError) -> Self {
        Self::Unavailable
    }
}

/// Why a trim did not finish.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum TrimError {
    /// The operating system refused. Trim again: it is idempotent.
    #[error("cannot trim the log: {0}")]
    Io(Arc<io::Error>),
    /// The cluster that keeps the log did not answer in time. Trim again.
    #[error("the log could not be reached in time, to be trimmed")]
    Unavailable,
    /// The log failed for good; open it again.
    #[error("the log has failed and must be opened again: {0}")]
    Failed(Arc<io::Error>),
    /// The log was opened to read only. Nothing was trimmed.
    #[error("the log was opened to read only")]
    ReadOnly,
}

/// Why entries are not known to be durable.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum FlushError {
    /// The log failed for good; open it again.
    #[error("the log has failed and must be opened again: {0}")]
    Failed(Arc<io::Error>),
    /// The log was opened to read only. Its last entries may be ones that a power cut takes.
    #[error("the log was opened to read only")]
    ReadOnly,
    /// The cluster that keeps the log did not answer in time. Flush again.
    #[error("the log could not be reached in time, to be flushed")]
    Unavailable,
}

/// Why a seal did not finish.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum SealError {
    /// The log failed for good; open it again.
    #[error("the log has failed and must be opened again: {0}")]
    Failed(Arc<io::Error>),
    /// The log was opened to read only. It was not sealed.
    #[error("the log was opened to read only")]
    ReadOnly,
    /// The cluster that keeps the log did not answer in time, or what was appended before has not ended in time. Seal
    /// again: it is idempotent.
    #[error("the log could not be reached in time, to be sealed")]
    Unavailable,
}

/// Why a log cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The configuration makes no sense; the message says what would. Nothing was looked at.
    #[error("{0}")]
    Configuration(String),
    /// Another process (or another log object in this one) has it open.
    #[error("{path} is in use by another process, or opened already by this one")]
    Locked {
        /// The log's directory.
        path: PathBuf,
    },
    /// There is something, but it is not a log; it was left untouched.
    #[error("{path} is not a mixlog log: {detail}")]
    NotALog {
        /// The directory.
        path: PathBuf,
        /// What is missing or foreign.
        detail: String,
    },
    /// There is no log, and it was not asked to create one.
    #[error("there is no log at {path}")]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// A new log was asked for, and there is one already; it was left untouched.
    #[error("there is a log at {path} already")]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// The log was written in a format that this version does not read.
    #[error("the log at {path} has format version {found}, this program reads version {supported}")]
    Version {
        /// The directory.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The version read by this program.
        supported: u32,
    },
    /// Acknowledged bytes are damaged. Nothing was changed.
    #[error("the log is corrupt at position {position}: {detail}")]
    Corrupt {
        /// The first position that cannot be read.
        position: Position,
        /// Which file, which offset, what is wrong with it.
        detail: String,
    },
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
