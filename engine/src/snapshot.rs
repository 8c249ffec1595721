//! Snapshots: the state after a position, read while later windows run.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard};

use mixlog_log::Position;

use crate::checkpoint::Due;
use crate::codec::Codec;
use crate::error::SnapshotError;
use crate::index::{Index, IndexKey, places};
use crate::pipeline::Shared;
use crate::store::{Stamp, Store};
use crate::table::{Key, Table, Value};

/// Which positions snapshots look at or may look at, and how far the state reaches.
#[derive(Debug)]
pub(crate) struct Registry {
    /// For how many positions behind the tail the ends of windows stay readable without a snapshot.
    retain: u64,
    registered: Mutex<Registered>,
}

/// Positions are tails: ends of windows, exclusive.
#[derive(Debug, Default)]
struct Registered {
    /// Everything before is committed.
    tail: Position,
    /// How many snapshots are open, by tail.
    open: BTreeMap<Position, usize>,
    /// The ends of windows that stay readable, oldest first.
    ends: VecDeque<Position>,
}

impl Registered {
    /// All tails that a snapshot may be opened at, in order, some of them twice.
    fn readable(&self) -> impl Iterator<Item = Position> {
        let mut open = self.open.keys().copied().peekable();
        let mut ends = self.ends.iter().copied().peekable();
        let both = std::iter::from_fn(move || match (open.peek(), ends.peek()) {
            (Some(a), Some(b)) if a <= b => open.next(),
            (Some(_), None) => open.next(),
            _ => ends.next(),
        });
        both.chain([self.tail])
    }
}

impl Registry {
    pub(crate) fn new(retain: u64) -> Self {
        Self { retain, registered: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Registered> {
        self.registered.lock().expect("no panic in the registry")
    }

    /// Makes the window that ends at `tail` visible, and tells the oldest tail that a snapshot looks at, or may be
    /// opened at.
    ///
    /// Both under one lock: a snapshot opened before keeps the window's versions, one opened after is at `tail` and
    /// does not need them, or at a tail that was readable now and is told.
    pub(crate) fn advance(&self, tail: Position) -> Option<Position> {
        let mut registered = self.lock();
        registered.tail = tail;
        if self.retain > 0 {
            registered.ends.push_back(tail);
            while registered.ends.front().is_some_and(|end| tail.since(*end) > self.retain) {
                registered.ends.pop_front();
            }
        }
        registered.readable().next().filter(|&oldest| oldest < tail)
    }

    pub(crate) fn tail(&self) -> Position {
        self.lock().tail
    }

    /// How many snapshots are open, and the tail of the oldest.
    pub(crate) fn opened(&self) -> (usize, Option<Position>) {
        let registered = self.lock();
        (registered.open.values().sum(), registered.open.keys().next().copied())
    }

    /// The last positions of the windows whose ends are readable, without the empty state.
    pub(crate) fn retained(&self) -> Vec<Position> {
        let mut positions: Vec<_> = self.lock().readable().filter_map(Position::previous).collect();
        positions.dedup();
        positions
    }

    fn open(&self) -> Position {
        let mut registered = self.lock();
        let tail = registered.tail;
        *registered.open.entry(tail).or_default() += 1;
        tail
    }

    fn open_at(&self, position: Position) -> Result<Position, SnapshotError> {
        let mut registered = self.lock();
        let committed = registered.tail.previous();
        if committed.is_none_or(|committed| position > committed) {
            return Err(SnapshotError::NotCommitted { position, committed });
        }
        let tail = position.next();
        let (open, ends) = (&registered.open, &registered.ends);
        let readable =
            tail == registered.tail || open.contains_key(&tail) || ends.binary_search(&tail).is_ok();
        if !readable {
            let after = registered.readable().find(|&readable| readable > tail);
            let after = after.and_then(Position::previous).expect("the tail is later");
            let before = registered.readable().take_while(|&readable| readable < tail).last();
            return Err(match before {
                None => SnapshotError::NoLongerRetained { position, oldest: after },
                Some(before) => SnapshotError::BetweenRetained { position, before: before.previous(), after },
            });
        }
        *registered.open.entry(tail).or_default() += 1;
        Ok(tail)
    }

    /// Opens a snapshot where one is open already.
    fn open_again(&self, tail: Position) {
        *self.lock().open.get_mut(&tail).expect("the snapshot is registered") += 1;
    }

    fn close(&self, tail: Position) {
        let mut registered = self.lock();
        let count = registered.open.get_mut(&tail).expect("the snapshot is registered");
        *count -= 1;
        if *count == 0 {
            registered.open.remove(&tail);
        }
    }
}

/// A consistent view of all tables after some position, which transactions that commit later do not change.
///
/// One from [`Engine::snapshot`](crate::Engine::snapshot) sees every transaction acknowledged before it was taken. Writers
/// do not wait for it beyond the copying of a row that it is reading at that moment, and it waits for no transaction.
///
/// Cost: while it lives, each window keeps an earlier value of every row that it changes, and no row that is deleted
/// gives its space back; that of all windows after the oldest snapshot, also where no other one looks at them.
/// [`Engine::memory`](crate::Engine::memory) tells how much that is. So drop it when done: the space is used again when
/// the next window ends; up to 64 windows later where those are executed by one thread.
///
/// A clone is another snapshot of the same position.
pub struct Snapshot {
    shared: Arc<Shared>,
    tail: Position,
}

impl Snapshot {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let tail = shared.snapshots.open();
        Self { shared, tail }
    }

    pub(crate) fn at(shared: Arc<Shared>, position: Position) -> Result<Self, SnapshotError> {
        let tail = shared.snapshots.open_at(position)?;
        Ok(Self { shared, tail })
    }

    /// The last position that it includes, or `None` when it is the empty state before the first.
    #[must_use]
    pub const fn position(&self) -> Option<Position> {
        self.tail.previous()
    }

    pub(crate) fn due(&self) -> &Due {
        &self.shared.due
    }

    pub(crate) fn store(&self) -> &Store {
        &self.shared.store
    }

    /// The newest change that it sees.
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

    /// Whether there is a row of `key`.
    #[must_use]
    pub fn contains<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> bool {
        self.get(table, key).is_some()
    }

    /// Calls `see` with every row of the table, in no order. Nothing is held while `see` runs.
    ///
    /// Cost: one pass over the table's memory, and a copy of each value, by [`Clone::clone_from`] into the one before.
    pub fn for_each<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        see: impl FnMut(&K, &V),
    ) {
        self.shared.store.table(table).for_each_at(self.stamp(), see);
    }

    /// The rows of the table, in no order, each copied as it is asked for; of an [`ordered`](Table::ordered) table
    /// [`range`](Self::range) tells them in key order.
    ///
    /// Shape: `(K, V)`.
    ///
    /// Cost: one pass over the table's memory, as far as the iterator goes, and a copy of each row.
    pub fn iter<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
    ) -> impl Iterator<Item = (K, V)> + use<'_, K, V, C> {
        self.shared.store.table(table).iter_at(self.stamp())
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
    /// Cost: up to the first row that it finds, which in a table that is empty means one pass over the table's memory.
    /// Nothing is copied.
    #[must_use]
    pub fn is_empty<K: Key, V: Value, C: Codec<K> + Codec<V>>(&self, table: &Table<K, V, C>) -> bool {
        self.shared.store.table(table).is_empty_at(self.stamp())
    }

    /// The rows with keys in `range`, in key order, from an [`ordered`](Table::ordered) table. In a
    /// [`grouped`](Table::grouped) one all of the range must lie in one granule. A range that is backwards is empty.
    ///
    /// Shape: `(K, V)`.
    ///
    /// Cost: rows are looked up as the iterator goes on, some at a time, and copied one by one.
    ///
    /// # Panics
    /// When the table is not ordered, or is grouped and the range has no bound that tells its granule, or spans two.
    pub fn range<K: Key, V: Value, C: Codec<K> + Codec<V>, R: RangeBounds<K>>(
        &self,
        table: &Table<K, V, C>,
        range: R,
    ) -> impl DoubleEndedIterator<Item = (K, V)> + use<'_, K, V, C, R> {
        self.shared.store.table(table).range_at(&range, self.stamp())
    }

    /// The row with the least key in `range`; see [`range`](Self::range).
    ///
    /// # Panics
    /// As [`range`](Self::range).
    #[must_use]
    pub fn first<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        range: impl RangeBounds<K>,
    ) -> Option<(K, V)> {
        self.range(table, range).next()
    }

    /// The row with the greatest key in `range`; see [`range`](Self::range).
    ///
    /// # Panics
    /// As [`range`](Self::range).
    #[must_use]
    pub fn last<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        range: impl RangeBounds<K>,
    ) -> Option<(K, V)> {
        self.range(table, range).next_back()
    }

    /// The rows that an index finds for `range` of what it orders by: that and the row's key, in this order.
    ///
    /// Shape: `(I, K)`, one for each entry of the index.
    ///
    /// # Panics
    /// When the index is not registered.
    pub fn range_by<K: IndexKey, V: Value, I: IndexKey, C: Codec<K> + Codec<V>>(
        &self,
        index: &Index<K, V, I, C>,
        range: impl RangeBounds<I>,
    ) -> impl DoubleEndedIterator<Item = (I, K)> {
        let store = self.shared.store.table(&index.places());
        store.range_at(&places::<I, K>(&range), self.stamp()).map(|(place, ())| place.into_parts())
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

impl Clone for Snapshot {
    fn clone(&self) -> Self {
        self.shared.snapshots.open_again(self.tail);
        Self { shared: Arc::clone(&self.shared), tail: self.tail }
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Position, Registry, SnapshotError};

    fn positions(list: &[u64]) -> Vec<Position> {
        list.iter().copied().map(Position).collect()
    }

    #[test]
    fn advance_tells_the_oldest_of_open_snapshots_and_retained_ends() {
        let registry = Registry::new(10);
        assert_eq!(registry.retained(), []);
        assert_eq!(registry.advance(Position(5)), None);
        assert_eq!(registry.advance(Position(12)), Some(Position(5)));
        assert_eq!(registry.advance(Position(16)), Some(Position(12)), "5 is 11 behind");
        let open = registry.open_at(Position(11)).unwrap();
        assert_eq!(registry.advance(Position(40)), Some(Position(12)), "a snapshot is open there");
        assert_eq!(registry.retained(), positions(&[11, 39]));
        registry.close(open);
        assert_eq!(registry.advance(Position(41)), Some(Position(40)));
        assert_eq!(registry.retained(), positions(&[39, 40]));
    }

    #[test]
    fn open_at_a_position_that_is_not_readable_tells_the_nearest() {
        let registry = Registry::new(0);
        let at = |position| registry.open_at(Position(position));
        let empty = registry.open();
        assert_eq!(at(0), Err(SnapshotError::NotCommitted { position: Position(0), committed: None }));
        assert_eq!(registry.advance(Position(5)), Some(Position(0)));
        let (position, after) = (Position(3), Position(4));
        assert_eq!(at(3), Err(SnapshotError::BetweenRetained { position, before: None, after }));
        assert_eq!(at(4), Ok(Position(5)));
        registry.close(empty);
        assert_eq!(at(3), Err(SnapshotError::NoLongerRetained { position, oldest: after }));
        assert_eq!(registry.advance(Position(9)), Some(Position(5)));
        let (position, before) = (Position(6), Some(Position(4)));
        assert_eq!(at(6), Err(SnapshotError::BetweenRetained { position, before, after: Position(8) }));
        let (position, committed) = (Position(9), Some(Position(8)));
        assert_eq!(at(9), Err(SnapshotError::NotCommitted { position, committed }));
        registry.open_again(Position(5));
        registry.close(Position(5));
        assert_eq!(registry.retained(), positions(&[4, 8]));
        registry.close(Position(5));
        assert_eq!(registry.retained(), positions(&[8]));
        assert_eq!(registry.opened(), (0, None));
    }
}
