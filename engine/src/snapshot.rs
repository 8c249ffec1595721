//! Snapshots: the state after a position, read while later windows run.

use std::collections::BTreeMap;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex};

use mixlog_log::Position;

use crate::codec::Codec;
use crate::pipeline::Shared;
use crate::store::Stamp;
use crate::table::{Key, Table, Value};

/// Which positions snapshots look at, and how far the state reaches.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<Registered>);

#[derive(Debug, Default)]
struct Registered {
    /// Everything before is committed.
    tail: Position,
    /// How many snapshots are open, by tail.
    open: BTreeMap<Position, usize>,
}

impl Registry {
    /// Makes the window that ends at `tail` visible, and tells the oldest tail that an open snapshot looks at.
    ///
    /// Both under one lock: a snapshot opened before keeps the window's versions, one opened after does not need
    /// them.
    pub(crate) fn advance(&self, tail: Position) -> Option<Position> {
        let mut registered = self.0.lock().expect("no panic in the registry");
        registered.tail = tail;
        registered.open.first_key_value().map(|(&oldest, _)| oldest)
    }

    pub(crate) fn tail(&self) -> Position {
        self.0.lock().expect("no panic in the registry").tail
    }

    /// Calls `f` if no snapshot is open, and lets none be opened meanwhile.
    pub(crate) fn if_none_open(&self, f: impl FnOnce()) {
        let registered = self.0.lock().expect("no panic in the registry");
        if registered.open.is_empty() {
            f();
        }
    }

    fn open(&self) -> Position {
        let mut registered = self.0.lock().expect("no panic in the registry");
        let tail = registered.tail;
        *registered.open.entry(tail).or_default() += 1;
        tail
    }

    fn close(&self, tail: Position) {
        let mut registered = self.0.lock().expect("no panic in the registry");
        let count = registered.open.get_mut(&tail).expect("the snapshot is registered");
        *count -= 1;
        if *count == 0 {
            registered.open.remove(&tail);
        }
    }
}

/// A consistent view of all tables after some position, which transactions that commit later do not change.
///
/// It sees every transaction acknowledged before it was taken. Writers do not wait for it beyond the copying of
/// a row that it is reading at that moment, and it waits for no transaction. While it lives, the rows that it may
/// need are kept: drop it when done.
pub struct Snapshot {
    shared: Arc<Shared>,
    tail: Position,
}

impl Snapshot {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let tail = shared.snapshots.open();
        Self { shared, tail }
    }

    /// The last position that it includes, or `None` when it is the empty state before the first.
    #[must_use]
    pub const fn position(&self) -> Option<Position> {
        self.tail.previous()
    }

    pub(crate) const fn stamp(&self) -> Stamp {
        Stamp::last_before(self.tail)
    }

    /// The row of `key`, if there is one.
    ///
    /// # Panics
    /// Here and below: when the table is not registered.
    #[must_use]
    pub fn get<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> Option<V> {
        self.shared.store.table(table).get_at(key, self.stamp())
    }

    /// Calls `see` with every row of the table, in no order.
    ///
    /// Cost: one pass over the table's memory, and a copy of each row.
    pub fn for_each<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        see: impl FnMut(&K, &V),
    ) {
        self.shared.store.table(table).for_each_at(self.stamp(), see);
    }

    /// How many rows the table has.
    ///
    /// Cost: as [`for_each`](Self::for_each).
    #[must_use]
    pub fn len<K: Key, V: Value, C: Codec<K> + Codec<V>>(&self, table: &Table<K, V, C>) -> usize {
        let mut count = 0;
        self.for_each(table, |_, _| count += 1);
        count
    }

    /// Whether the table has no rows.
    ///
    /// Cost: as [`for_each`](Self::for_each).
    #[must_use]
    pub fn is_empty<K: Key, V: Value, C: Codec<K> + Codec<V>>(&self, table: &Table<K, V, C>) -> bool {
        self.len(table) == 0
    }

    /// The rows with keys in `range` of one granule of an ordered table, in key order.
    ///
    /// # Panics
    /// When the table is not ordered, or the range is backwards.
    #[must_use]
    pub fn range<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        granule: u64,
        range: impl RangeBounds<K>,
    ) -> Vec<(K, V)> {
        self.shared.store.table(table).range_at(granule, range, self.stamp())
    }

    /// The digest of all rows, computed from scratch: must equal [`Digest::state`](crate::Digest::state) at this
    /// position, which is kept up change by change.
    ///
    /// Cost: as [`for_each`](Self::for_each), over all tables.
    #[must_use]
    pub fn state_digest(&self) -> u128 {
        let digests = self.shared.store.tables().map(|table| table.digest_at(self.stamp()));
        digests.fold(0, u128::wrapping_add)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.shared.snapshots.close(self.tail);
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("position", &self.position()).finish_non_exhaustive()
    }
}
