//! The tables, and how the store tells the engine what it will touch.

use std::ops::Range;

use super::{Answer, Json};
use crate::{Footprint, Table, Tx};

/// Table and key. Both are any text; they sort by their bytes.
pub type Key = (String, String);

/// The values. A row is never null.
pub const ROWS: Table<Key, Json> = Table::new("kv.rows").grouped("kv.rows", granule).ordered();

/// The first answer to each transaction that had an id.
pub const ANSWERS: Table<String, Answer> = Table::new("kv.answers");

/// All keys of a table are one unit of conflict: only within one are they kept in order.
fn granule(key: &Key) -> u64 {
    granule_of(&key.0)
}

/// FNV-1a. Tables that collide share a unit of conflict, and nothing else.
fn granule_of(table: &str) -> u64 {
    table
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Declares that the rows in `range`, which lies in one table, may be read.
pub(super) fn declare_range(f: &mut Footprint<'_>, range: &Range<Key>) {
    f.read_granule(&ROWS, granule_of(&range.start.0));
}

/// The rows in `range`, which lies in one table and is not empty, in key order.
pub(super) fn range<'a>(tx: &'a Tx<'_>, range: &Range<Key>) -> impl Iterator<Item = (Key, &'a Json)> {
    tx.range(&ROWS, range.clone())
}

/// Declares a row to which an integer may be added, by who does not want to know the sum.
pub(super) fn declare_merge(f: &mut Footprint<'_>, key: &Key) {
    f.write(&ROWS, key);
}

/// Declares that nothing is known.
pub(super) fn declare_nothing(f: &mut Footprint<'_>) {
    f.unknown();
}
