//! What a look at a log's files finds.

use std::fmt;

use crate::{LogId, OpenError, Position};

/// What [`FileLog::verify`](crate::FileLog::verify) found: every byte of the log was read, none was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The log's identity.
    pub id: LogId,
    /// The first position that was not trimmed.
    pub head: Position,
    /// The position after the last entry that is whole and has no damage before it.
    pub tail: Position,
    /// Whether the log is sealed.
    pub sealed: bool,
    /// Positions below it are known to have been durable; entries from it on may be unacknowledged ones.
    pub durable: Position,
    /// How many times the log was opened to write.
    pub generation: u32,
    /// How many segment files there are, those behind damage not included.
    pub segments: usize,
    /// How many frames they hold.
    pub frames: u64,
    /// How many bytes these frames take.
    pub frame_bytes: u64,
    /// What a crash left behind the last entry; the next [`open`](crate::FileLog::open) removes it.
    pub torn: Option<Torn>,
    /// The first damage; a log with damage cannot be opened.
    pub damage: Option<Damage>,
}

/// What stands behind the last entry and is no frame: an append that a crash interrupted, so that nobody was told that it is
/// durable. Damage of more than one bit may look the same, in frames that were written in the last moments before the
/// process ended: see "What a crash tears, and what it does not" in `docs/log-format.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The file's name in the log's directory.
    pub file: String,
    /// Offset in that file.
    pub offset: u64,
    /// How many bytes were written in part.
    pub bytes: u64,
}

/// Bytes of the log that are lost although they had been durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The first position that cannot be read.
    pub position: Position,
    /// The file's name in the log's directory.
    pub file: String,
    /// Offset in that file.
    pub offset: u64,
    /// What is wrong there.
    pub reason: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {}, offset {}: {}", self.file, self.offset, self.reason)
    }
}

impl From<Damage> for OpenError {
    fn from(damage: Damage) -> Self {
        Self::Corrupt { position: damage.position, detail: damage.to_string() }
    }
}
