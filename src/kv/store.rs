//! The tables, and how the store tells the engine what it will touch.

use std::ops::Range;

use super::{Answer, Json};
use crate::{Footprint, Merge, Position, Table, Tx};

/// Table and key. Both are any text; they sort by their bytes.
pub type Key = (String, String);

/// The values. A row is never null.
pub const ROWS: Table<Key, Json> = Table::new("kv.rows").ordered();

/// The first answer to each transaction that had an id.
pub const ANSWERS: Table<String, Answer> = Table::new("kv.answers");

/// Merging adds to an integer, wrapping around; nothing counts as zero.
impl Merge for Json {
    type Delta = i64;

    fn accepts(row: Option<&Self>) -> bool {
        matches!(row, None | Some(Self::Int(_)))
    }

    fn merge(row: &mut Option<Self>, delta: i64, _: Position) {
        if let Self::Int(integer) = row.get_or_insert(Self::Int(0)) {
            *integer = integer.wrapping_add(delta);
        }
    }
}

/// Declares that the first `limit` rows in `range`, which lies in one table, may be read.
pub(super) fn declare_range(f: &mut Footprint<'_>, range: &Range<Key>, limit: u64) {
    f.range_first(&ROWS, range.clone(), usize::try_from(limit).unwrap_or(usize::MAX));
}

/// The rows in `range`, which lies in one table and is not empty, in key order.
pub(super) fn range<'a>(tx: &'a Tx<'_>, range: Range<Key>) -> impl Iterator<Item = (Key, &'a Json)> {
    tx.range(&ROWS, range)
}
