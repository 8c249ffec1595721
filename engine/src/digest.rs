//! Digests: what identifies a state and the replies that led to it.

use std::fmt;

use mixlog_log::Position;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use crate::reply::Status;
use crate::table::TableId;

/// A fingerprint of all rows, and of all replies, after the entries up to a position.
///
/// Both are sums modulo 2^128 of one hash per row (over table, key and value) and per reply (over position,
/// status and bytes). Sums do not depend on an order, so every worker adds up its own share, and a change costs
/// two hashes. They tell apart states that differ by accident; they do not resist somebody who constructs
/// collisions.
///
/// The digest of a position is a property of the log alone: threads, window and mode do not change it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// The last position whose entry is included, or `None` before the first.
    pub position: Option<Position>,
    /// Over the rows of all tables.
    pub state: u128,
    /// Over the replies of all transactions.
    pub replies: u128,
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{:032x}", self.state, self.replies)
    }
}

/// A reply's share of the digest. A panic counts as such, whatever its message says.
#[inline]
pub(crate) fn of_reply(position: Position, status: Status, bytes: &[u8]) -> u128 {
    let bytes = if status == Status::Panicked { &[] } else { bytes };
    xxh3_128_with_seed(bytes, position.0.wrapping_mul(4).wrapping_add(status as u64))
}

/// What a row's share of the digest depends on besides its value.
#[inline]
pub(crate) fn of_key(table: TableId, key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, table.0)
}

/// A row's share of the digest, with what [`of_key`] told.
#[inline]
pub(crate) fn of_value(key: u64, value: &[u8]) -> u128 {
    xxh3_128_with_seed(value, key)
}
