//! What can go wrong between an engine and its user.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use mixlog_log::{AppendError, Position, ReadError, TailError};
use thiserror::Error;

use crate::agreement::Divergence;
use crate::checkpoint::Rejected;
use crate::ticket::TicketError;

/// Why an engine cannot be opened on a log, or cannot go on replaying it.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The configuration makes no sense; the message says what would.
    #[error("{0}")]
    Configuration(String),
    /// The log holds calls of a procedure that this engine does not have.
    #[error(
        "the log needs procedure {name:?} version {version} (named at position {position}), which is not registered"
    )]
    MissingProcedure {
        /// The procedure's name.
        name: String,
        /// The version that wrote to the log.
        version: u32,
        /// The catalog that names it.
        position: Position,
    },
    /// The log was written by an engine with a table that this one does not have.
    #[error("the log needs table {name:?} (named at position {position}), which is not registered")]
    MissingTable {
        /// The table's name.
        name: String,
        /// The catalog that names it.
        position: Position,
    },
    /// The log holds an interactive transaction ([`Engine::begin`](crate::Engine::begin)) whose keys and rows are of another
    /// [version](crate::Table::version) of a table. Everything before it was executed. Conversions are of checkpoints and
    /// not of what stands in the log: only a checkpoint of its position or a later one leads past it.
    #[error(
        "the interactive transaction at position {position} has rows of table {table:?} version {written}, and version \
         {registered} is registered: take a checkpoint after the last such transaction with a program that has version \
         {written}, to start from it, or go on with that program"
    )]
    RowVersion {
        /// The name of the table, or of an index of it that the transaction read.
        table: String,
        /// Where the transaction stands in the log.
        position: Position,
        /// The version that wrote to the log.
        written: u32,
        /// The version that is registered.
        registered: u32,
    },
    /// An entry is not one that this engine can execute: other software wrote it, or an incompatible version.
    #[error("the entry at position {position} cannot be executed: {detail}")]
    Entry {
        /// Its position. Everything before it was executed.
        position: Position,
        /// What is wrong with it.
        detail: String,
    },
    /// The start of the log is gone, so the state cannot be rebuilt from it.
    #[error("the log was trimmed, it starts at position {head}, and {}", newest_checkpoint(.newest))]
    Trimmed {
        /// The first position that is left.
        head: Position,
        /// The last position of the newest checkpoint, which ends before what is left of the log; `None` where there is
        /// none.
        newest: Option<Position>,
    },
    /// The start of the log is gone, and no checkpoint reaches what is left of it.
    #[error(
        "the log starts at position {head}, and no checkpoint reaches it{}",
        all_rejected(.rejected)
    )]
    NoCheckpoint {
        /// The first position that is left.
        head: Position,
        /// The checkpoints that there are, newest first, and what is wrong with them.
        rejected: Vec<Rejected>,
    },
    /// The state after that position can no longer be rebuilt.
    #[error(
        "the state after position {position} is gone: the log starts at position {head}, and {}",
        oldest_checkpoint(.oldest)
    )]
    TooEarly {
        /// The position asked for.
        position: Position,
        /// The first position that is left of the log.
        head: Position,
        /// The oldest checkpoint.
        oldest: Option<Position>,
    },
    /// A checkpoint is whole, but its rows are not ones that this engine can take.
    #[error("checkpoint {name} cannot be loaded: {detail}")]
    Checkpoint {
        /// The checkpoint's file name.
        name: String,
        /// Why.
        detail: String,
    },
    /// A checkpoint tells of entries that the log does not have: the log lost them, or was replaced by an older copy of
    /// itself. Remove the checkpoint to go on without them.
    #[error("checkpoint {name} includes position {position}, but the log ends at {tail}: it lost entries")]
    LogTooShort {
        /// The checkpoint's file name.
        name: String,
        /// The last position that it includes.
        position: Position,
        /// The log's tail.
        tail: Position,
    },
    /// The operating system does not let us look for checkpoints, or read one.
    #[error("cannot read {path}: {source}")]
    Checkpoints {
        /// Their directory, or the file.
        path: PathBuf,
        /// The operating system's answer.
        source: Arc<io::Error>,
    },
    /// The log does not reach that far.
    #[error("the log ends before position {position}: its tail is {tail}")]
    BeyondTail {
        /// The position asked for.
        position: Position,
        /// The log's tail.
        tail: Position,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log does not take the engine's catalog.
    #[error("cannot append to the log: {0}")]
    Append(#[from] AppendError),
    /// Paranoid mode ran a transaction twice from the same state, and it did two things. Everything before it was
    /// executed. Without paranoid mode the log can be executed still, but replicas may come to differ: correct the
    /// procedure.
    #[error("procedure {procedure:?} is not deterministic: run twice at position {position}, {what}")]
    NotDeterministic {
        /// The procedure's name.
        procedure: &'static str,
        /// Where the transaction stands in the log.
        position: Position,
        /// What was not the same.
        what: Difference,
    },
    /// The digest is not the one that the members agreed on. Everything up to there was executed, and its state is not to
    /// be trusted after [`Divergence::agreed`], nor is a checkpoint of it.
    #[error("{0}")]
    Diverged(Box<Divergence>),
    /// Code that must not panic did: a row's `Clone`, `Serialize` or `Drop`, a ticket's waker, what a
    /// [`Replica`](crate::Replica) is made by when it is made anew, or a bug of the engine.
    #[error("the engine panicked: {0}")]
    Panicked(String),
}

impl OpenError {
    /// Whether the log was trimmed past what is needed: a newer checkpoint may help.
    pub(crate) const fn is_trimmed(&self) -> bool {
        matches!(
            self,
            Self::Trimmed { .. } | Self::NoCheckpoint { .. } | Self::Read(ReadError::Trimmed { .. })
        )
    }

    /// Whether a checkpoint could not be read or loaded: somebody may have given it up meanwhile, for a newer one.
    pub(crate) const fn is_of_checkpoint(&self) -> bool {
        matches!(self, Self::Checkpoint { .. } | Self::Checkpoints { .. })
    }
}

impl From<TailError> for OpenError {
    fn from(error: TailError) -> Self {
        Self::Read(error.into())
    }
}

fn all_rejected(rejected: &[Rejected]) -> String {
    rejected.iter().map(|rejected| format!("; {rejected}")).collect()
}

fn newest_checkpoint(newest: &Option<Position>) -> String {
    match newest {
        Some(position) => format!("the newest checkpoint ends before that, at position {position}"),
        None => "there is no checkpoint to start from".to_owned(),
    }
}

fn oldest_checkpoint(oldest: &Option<Position>) -> String {
    oldest.map_or_else(
        || "there is no checkpoint".to_owned(),
        |oldest| format!("the oldest checkpoint is of position {oldest}"),
    )
}

/// What two runs of a transaction did not have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// Whether it committed, aborted or panicked.
    Ending,
    /// What it returned.
    Reply,
    /// The rows that it left in this table, and perhaps in others.
    Rows {
        /// The table's name.
        table: &'static str,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ending => f.write_str("it ended in two ways"),
            Self::Reply => f.write_str("it gave two replies"),
            Self::Rows { table } => write!(f, "it made two different changes to table {table:?}"),
        }
    }
}

/// Why a transaction was not submitted. Nothing of it was appended; of what stands for no transaction, see
/// [`Engine::pad`](crate::Engine::pad).
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The procedure was not named to [`Builder::procedure`](crate::Builder::procedure).
    #[error("procedure {0:?} is not registered: name it to Builder::procedure")]
    NotRegistered(&'static str),
    /// The call's arguments cannot be read from the bytes that were made of them, so nobody could execute it; nothing was
    /// appended. See [`Procedure`](crate::Procedure) for what their type must be.
    #[error("the arguments of procedure {procedure:?} cannot be read from their own bytes: {detail}")]
    Unreadable {
        /// The procedure.
        procedure: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// The log refused the entry.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The engine stopped: its log failed, or an entry could not be executed.
    #[error("the engine has stopped: {0}")]
    Stopped(String),
    /// A procedure or a waker of this engine was to wait: for a transaction's outcome, or for room for one
    /// ([`Builder::max_in_flight`](crate::Builder::max_in_flight)). Its thread is one that the engine goes on with, so it
    /// would wait for itself. Submit elsewhere.
    #[error("a procedure or waker of this engine cannot wait for its transactions: the engine waits for it")]
    WaitsForItself,
    /// The process uses more memory than [`Builder::max_memory`](crate::Builder::max_memory) allows. Reads go on;
    /// submissions are taken again when it uses less, or may use more.
    #[error("the process uses {resident} bytes of memory, and may use {limit}")]
    OutOfMemory {
        /// Resident memory, in bytes.
        resident: u64,
        /// The limit, in bytes.
        limit: u64,
    },
}

impl SubmitError {
    /// Whether the same submission may be taken by the same engine later, without anybody opening anything anew: there was
    /// no memory, no space, or no answer from the log's cluster. Submit it again after a while.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::OutOfMemory { .. } | Self::Append(AppendError::Full(_) | AppendError::Unavailable)
        )
    }
}

/// Why the outcome of a transaction that was to be executed at once is not known: it was not submitted, or its ticket
/// failed.
#[derive(Clone, Debug, Error)]
pub enum ExecuteError {
    /// The transaction is not in the log, and will not be.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// See there.
    #[error(transparent)]
    Ticket(#[from] TicketError),
}

/// Why there is no snapshot at a position.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The position was not executed yet: wait for it.
    #[error("position {position} is not committed yet: {}", last_committed(.committed))]
    NotCommitted {
        /// The position asked for.
        position: Position,
        /// The last committed one.
        committed: Option<Position>,
    },
    /// The position lies before all that is retained: ask for a later one, or replay the log up to there. More is
    /// retained with [`Builder::retain`](crate::Builder::retain), or while a snapshot is held.
    #[error("the state after position {position} is no longer retained: the oldest is that after {oldest}")]
    NoLongerRetained {
        /// The position asked for.
        position: Position,
        /// The oldest one that is retained.
        oldest: Position,
    },
    /// Between two positions that are retained: no window ended here, or nobody asked to retain its end.
    #[error(
        "the state after position {position} is not retained: the next one is that after {after}{}",
        and_before(.before)
    )]
    BetweenRetained {
        /// The position asked for.
        position: Position,
        /// The nearest retained one before; `None` for the empty state, which an open snapshot looks at.
        before: Option<Position>,
        /// The nearest retained one after.
        after: Position,
    },
}

fn last_committed(committed: &Option<Position>) -> String {
    committed.map_or_else(|| "nothing is".to_owned(), |committed| format!("the last one is {committed}"))
}

fn and_before(before: &Option<Position>) -> String {
    before.map_or_else(String::new, |before| format!(", the one before it that after {before}"))
}
