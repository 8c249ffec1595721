//! What a transaction is answered.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Json, MAX_DEPTH, MAX_SIZE};
use crate::Position;

/// The answer to a transaction: the first one, if its id was there before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Its changes are there.
    Committed {
        /// The position at which it took effect.
        position: u64,
        /// One result per operation.
        results: Vec<Json>,
    },
    /// It changed nothing.
    Aborted {
        /// The position at which it aborted.
        position: u64,
        /// Why.
        reason: Abort,
    },
}

impl Answer {
    /// Where the transaction stands in the log; the first time, if its id stands there more than once.
    #[must_use]
    pub const fn position(&self) -> Position {
        match *self {
            Self::Committed { position, .. } | Self::Aborted { position, .. } => Position(position),
        }
    }

    /// What its results take, in bytes, as [`Json::size`] counts them.
    ///
    /// Cost: looks at all of them.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Committed { results, .. } => results.iter().map(Json::size).sum(),
            Self::Aborted { .. } => 0,
        }
    }
}

/// Why a transaction aborted, and which of its operations did it: its index, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Abort {
    /// `abort_if` found the value that it looks for.
    Asked {
        /// The operation.
        op: u32,
    },
    /// The value to add to is no integer of 64 bits with sign.
    NotAnInteger {
        /// The operation.
        op: u32,
    },
    /// The value to append to is no list.
    NotAList {
        /// The operation.
        op: u32,
    },
    /// With this operation's, the results take more than [`MAX_SIZE`].
    ResultsTooLarge {
        /// The operation.
        op: u32,
    },
    /// The value would take more than [`MAX_SIZE`].
    ValueTooLarge {
        /// The operation.
        op: u32,
    },
    /// The list would nest deeper than [`MAX_DEPTH`].
    TooDeep {
        /// The operation.
        op: u32,
    },
}

impl fmt::Display for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked { op } => write!(f, "ops[{op}]: the value is the one to abort for"),
            Self::NotAnInteger { op } => write!(f, "ops[{op}]: the value is no 64-bit signed integer"),
            Self::NotAList { op } => write!(f, "ops[{op}]: the value is no list"),
            Self::ResultsTooLarge { op } => write!(
                f,
                "ops[{op}]: the results would take more than {MAX_SIZE} bytes, the limit of a transaction"
            ),
            Self::ValueTooLarge { op } => {
                write!(f, "ops[{op}]: the value would take more than {MAX_SIZE} bytes, the limit of a value")
            }
            Self::TooDeep { op } => write!(f, "ops[{op}]: the list would nest deeper than {MAX_DEPTH}"),
        }
    }
}
