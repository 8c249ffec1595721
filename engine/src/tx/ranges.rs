//! Ranges of keys, each granule behind the guard.

use std::ops::RangeBounds;

use mixlog_mixer::Mode;

use super::{InPlace, Tx, Way};
use crate::codec::Codec;
use crate::gaps::Run;
use crate::index::{Index, IndexKey, places};
use crate::store::{RowIds, TableStore, Through};
use crate::table::{Key, Table, Value};

impl Tx<'_> {
    /// The rows that an index finds for `range` of what it orders by: that and the row's key, in this order. Rows
    /// are looked at as they are asked for, as by [`range`](Self::range).
    ///
    /// Shape: `(I, K)`, one for each entry of the index; [`get`](Self::get) gives the row of a `K`.
    ///
    /// # Panics
    /// When the index is not registered.
    pub fn range_by<K: IndexKey, V: Value, I: IndexKey, C: Codec<K> + Codec<V>>(
        &mut self,
        index: &Index<K, V, I, C>,
        range: impl RangeBounds<I>,
    ) -> impl DoubleEndedIterator<Item = (I, K)> {
        self.keep_indexes();
        self.range_in(self.store.table(&index.places()), places::<I, K>(&range))
            .map(|(place, _)| place.into_parts())
    }

    /// The rows with keys in `range`, in key order, from an [`ordered`](Table::ordered) table. In a
    /// [`grouped`](Table::grouped) one all of the range must lie in one granule.
    ///
    /// Rows are looked at as they are asked for: who takes three of them depends on those three and on nothing
    /// behind them.
    ///
    /// Shape: `(K, &V)`. Who wants to change rows on the way collects their keys first.
    ///
    /// Cost: a descent of the tree for every 64 rows, 32 in a grouped table.
    ///
    /// # Panics
    /// When the table is not ordered, or is grouped and the range has no bound that tells its granule, or spans two.
    pub fn range<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        range: impl RangeBounds<K>,
    ) -> impl DoubleEndedIterator<Item = (K, &V)> {
        self.range_in(self.store.table(table), range)
    }

    /// The first `rows` rows of `range`, or as many as there are: what `range(..).take(rows)` gives, and no rows behind them
    /// are asked from memory meanwhile. [`Footprint::range_first`](crate::Footprint::range_first) declares it.
    ///
    /// Shape: `(K, &V)`.
    ///
    /// # Panics
    /// As [`range`](Self::range).
    pub fn range_first<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        range: impl RangeBounds<K>,
        rows: usize,
    ) -> impl Iterator<Item = (K, &V)> {
        let mut range = self.walk(self.store.table(table), range);
        match &mut range {
            Range::InPlace { rows: ids, .. } => ids.hint(rows),
            Range::Speculative(through) => through.hint(rows),
        }
        range.take(rows)
    }

    pub(crate) fn range_in<'s, K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &'s self,
        store: &'s TableStore<K, V, C>,
        range: impl RangeBounds<K>,
    ) -> impl DoubleEndedIterator<Item = (K, &'s V)> {
        self.walk(store, range)
    }

    #[inline]
    fn walk<'s, K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &'s self,
        store: &'s TableStore<K, V, C>,
        range: impl RangeBounds<K>,
    ) -> Range<'s, K, V, C> {
        match &self.way {
            Way::InPlace(tx) => {
                if tx.merged_into(store, &range) {
                    // It should have declared a write: its own merge is not made yet.
                    tx.violated(store);
                }
                Range::InPlace { tx, store, rows: store.row_ids(&range), granule: 0 }
            }
            Way::Speculative(tx) => Range::Speculative(tx.range(store, &range)),
        }
    }

    /// The row with the least key in `range`; see [`range`](Self::range).
    ///
    /// # Panics
    /// As [`range`](Self::range).
    pub fn first<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        range: impl RangeBounds<K>,
    ) -> Option<(K, &V)> {
        self.range_first(table, range, 1).next()
    }

    /// The row with the greatest key in `range`; see [`range`](Self::range).
    ///
    /// # Panics
    /// As [`range`](Self::range).
    pub fn last<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        range: impl RangeBounds<K>,
    ) -> Option<(K, &V)> {
        self.range(table, range).next_back()
    }

    /// Deletes the row with the least key in `range` and returns it: takes from the front of a queue.
    ///
    /// ```
    /// # use mixlog_engine::{Table, Tx};
    /// const JOBS: Table<(u8, u64), String> = Table::new("jobs").ordered();
    ///
    /// /// Of a procedure that takes the oldest of the most urgent jobs.
    /// fn run(tx: &mut Tx<'_>) -> Option<String> {
    ///     tx.pop_first(&JOBS, ..).map(|(_, job)| job)
    /// }
    /// ```
    ///
    /// # Panics
    /// As [`range`](Self::range).
    pub fn pop_first<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        range: impl RangeBounds<K>,
    ) -> Option<(K, V)> {
        let (key, row) = self.first(table, range).map(|(key, row)| (key, row.clone()))?;
        self.delete(table, &key);
        Some((key, row))
    }

    /// Deletes the row with the greatest key in `range` and returns it; see [`pop_first`](Self::pop_first).
    ///
    /// # Panics
    /// As [`range`](Self::range).
    pub fn pop_last<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        range: impl RangeBounds<K>,
    ) -> Option<(K, V)> {
        let (key, row) = self.last(table, range).map(|(key, row)| (key, row.clone()))?;
        self.delete(table, &key);
        Some((key, row))
    }
}

/// See [`Tx::range`].
#[expect(clippy::large_enum_variant, reason = "lives on the stack of a walk, and is not moved")]
enum Range<'a, K: Key, V: Value, C: Codec<K> + Codec<V>> {
    InPlace {
        tx: &'a InPlace<'a>,
        store: &'a TableStore<K, V, C>,
        rows: RowIds<'a, K>,
        /// The granule of the last row.
        granule: u64,
    },
    Speculative(Through<'a, K, V, C>),
}

impl<'a, K: Key, V: Value, C: Codec<K> + Codec<V>> Range<'a, K, V, C> {
    /// The next row from one end.
    #[inline]
    fn step(&mut self, from_back: bool) -> Option<(K, &'a V)> {
        // What nearly all rows of a long range are: at hand, in the granule of the one before, and with a value.
        if let Self::InPlace { store, rows, granule, .. } = self
            && let Some(id) = rows.nearest(from_back)
        {
            let row = store.row(id);
            if row.granule() == *granule {
                // SAFETY: the guard allowed reading this granule, in which the row itself says that it lies, so nobody writes
                // it while `&Tx` lives.
                let (key, value) = unsafe { (row.key(), row.value()) };
                if let Some(value) = value {
                    rows.pass_nearest(from_back);
                    return Some((key.clone(), value));
                }
            }
        }
        self.seek(from_back)
    }

    /// The next row from one end, wherever it is.
    #[inline(never)]
    fn seek(&mut self, from_back: bool) -> Option<(K, &'a V)> {
        let (tx, store, rows, granule) = match self {
            Self::InPlace { tx, store, rows, granule } => (*tx, *store, rows, granule),
            Self::Speculative(rows) if from_back => return rows.next_back(),
            Self::Speculative(rows) => return rows.next(),
        };
        let mut empty = Run::new();
        // Looked up once a walk, and only if that gets so far.
        let mut gaps = None;
        let found = loop {
            let visit = &mut |entered: u64| {
                if tx.declared(store.number(), entered, Mode::Read).is_none() {
                    tx.violated(store);
                }
            };
            let id = if from_back { rows.next_back(visit) } else { rows.next(visit) };
            let Some(id) = id else { break None };
            rows.ahead(from_back).iter().for_each(|&id| store.fetch_value(id));
            let row = store.row(id);
            // SAFETY: the guard allowed reading the granule in which the row itself says that it lies, so nobody
            // writes it while `&Tx` lives.
            unsafe {
                if row.granule() != *granule {
                    *granule = row.granule();
                    if tx.declared(store.number(), *granule, Mode::Read).is_none() {
                        tx.violated(store);
                    }
                }
                if let Some(value) = row.value().as_ref() {
                    break Some((row.key().clone(), value));
                }
                if !empty.meet_early() {
                    let gaps = gaps.get_or_insert_with(|| tx.gaps_of(store, row.key()));
                    gaps.pass(tx, store, &mut empty, row.key(), rows, from_back);
                }
            }
        };
        if let Some(space) = gaps.take().map(|gaps| gaps.space()) {
            tx.add_gap(store, space, empty);
        }
        found
    }
}

impl<'a, K: Key, V: Value, C: Codec<K> + Codec<V>> Iterator for Range<'a, K, V, C> {
    type Item = (K, &'a V);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.step(false)
    }
}

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> DoubleEndedIterator for Range<'_, K, V, C> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(true)
    }
}
