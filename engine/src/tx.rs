//! What a running procedure sees: typed reads and writes, each behind the guard.
//!
//! The guard compares every access with the footprint *before* it happens. So a transaction that declared too
//! little never touches what another one may be changing: it is stopped by unwinding, its changes are put back,
//! and the window is replayed one by one. Hence every transaction before the first violator saw exactly what it
//! would have seen one by one, and the first violator is the same however many workers there are.
#![allow(unsafe_code)]

mod bounded;

use std::any::Any;
use std::cell::Cell;
use std::ops::RangeBounds;
use std::panic::resume_unwind;

use mixlog_log::Position;
use mixlog_mixer::Mode;

use crate::ahead::Pause;
use crate::bounded::Bounded;
use crate::codec::Codec;
use crate::footprint::{Access, Details, Located, NOWHERE, Of};
use crate::index::{Index, IndexKey, places};
use crate::merge::Merge;
use crate::store::{
    AnyMerging, AnyTable, Beside, Merging, Overlays, RowId, RowIds, Speculative, Stamp, Store, TableStore,
    Through, Worker, merging,
};
use crate::table::{Conflicts, Key, Table, Value};

/// What the guard does with an access that was not declared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Guard<'a> {
    /// Nothing is declared, and nobody else runs.
    Off,
    /// Stop the transaction: others run.
    Stop(&'a [Access]),
    /// Note it and go on: nobody else runs.
    Note(&'a [Access]),
}

/// A power of two. Tables whose numbers agree modulo this share a cursor, which costs a longer search.
const CURSORS: usize = 16;

/// The payload with which the guard unwinds a procedure.
pub(crate) struct Stopped;

/// What remains to be done when a row of an indexed table was lent to be changed.
pub(crate) type Lent<'a> = Box<dyn for<'t> FnOnce(&mut Tx<'t>) + 'a>;

/// A transaction while it runs: the procedure's only way to data.
///
/// It sees its own changes. It never sees those of later transactions, nor half of an earlier one.
pub struct Tx<'a> {
    store: &'a Store,
    way: Way<'a>,
    position: Option<Position>,
    time_us: u64,
    /// How many random numbers were drawn.
    drawn: Cell<u64>,
    /// A row of an indexed table that was lent to be changed.
    lent: Option<Lent<'a>>,
}

/// Where a transaction's changes go.
enum Way<'a> {
    /// Rows change in place: the transaction runs at its position.
    InPlace(InPlace<'a>),
    /// Rows are copied as of a position of the past, and changes stay in the copies.
    Speculative(Speculative<'a>),
}

/// A merge to be made at the end of the transaction.
pub(crate) struct Noted {
    pub(crate) merging: Box<dyn AnyMerging>,
    /// Or at the end of the window.
    pub(crate) pooled: bool,
}

/// A transaction at its position.
struct InPlace<'a> {
    worker: &'a mut Worker,
    guard: Guard<'a>,
    /// Where in the footprint the newest access of a table was found, by the table's number: the next one is most
    /// likely the same, or soon behind it.
    cursors: [Cell<u32>; CURSORS],
    /// Rows looked up ahead, and the one after the newest that was used.
    located: &'a [Located],
    next_located: Cell<usize>,
    /// Declared adds, and the unordered ones that were noted: the key's hash and the amount.
    bounded: &'a [Bounded],
    added: Vec<(u64, i64)>,
    /// The granule that was last allowed to be merged on.
    merged: Cell<u64>,
    /// The first table that was touched without being declared.
    violation: Cell<Option<&'static str>>,
    /// Merges to be made at the end.
    merges: Vec<Noted>,
    position: Position,
    window: Stamp,
    me: Stamp,
}

impl<'a> Tx<'a> {
    /// # Safety
    /// With [`Guard::Stop`], the schedule keeps apart all transactions whose declared accesses conflict, and
    /// the accesses are this transaction's; otherwise no other transaction runs. `window` is the position at
    /// which the window at hand starts.
    pub(crate) const unsafe fn new(
        store: &'a Store,
        worker: &'a mut Worker,
        guard: Guard<'a>,
        details: Details<'a>,
        window: Position,
        position: Position,
        time_us: u64,
    ) -> Self {
        let way = Way::InPlace(InPlace {
            worker,
            guard,
            cursors: [const { Cell::new(0) }; CURSORS],
            located: details.located,
            next_located: Cell::new(0),
            bounded: details.bounded,
            added: Vec::new(),
            merged: Cell::new(0),
            violation: Cell::new(None),
            merges: Vec::new(),
            position,
            window: Stamp::of(window),
            me: Stamp::of(position),
        });
        Self { store, way, position: Some(position), time_us, drawn: Cell::new(0), lent: None }
    }

    /// A transaction that runs on the state as of `at`, apart from all others, and changes nothing. What it touches
    /// is in the overlays afterwards.
    ///
    /// The state of `at` must be readable: a registered snapshot, or, for drivers beside a window, the end of the one
    /// before it.
    pub(crate) fn speculative(
        store: &'a Store,
        overlays: &'a mut Overlays,
        at: Stamp,
        position: Position,
        time_us: u64,
        beside: Beside<'a>,
    ) -> Self {
        overlays.start(store.tables().len());
        let position = Some(position);
        let way = Way::Speculative(Speculative { overlays, at, position, beside });
        Self { store, way, position, time_us, drawn: Cell::new(0), lent: None }
    }

    /// A transaction that goes on with what is in the overlays.
    pub(crate) const fn resume(store: &'a Store, tx: Speculative<'a>) -> Self {
        Self { store, way: Way::Speculative(tx), position: None, time_us: 0, drawn: Cell::new(0), lent: None }
    }

    /// The same for a transaction that ran before at this position and was put back.
    pub(crate) const fn again(mut self) -> Self {
        if let Way::InPlace(tx) = &mut self.way {
            tx.me = tx.me.again();
        }
        self
    }

    /// What it changed so far; see [`Store::effects`].
    pub(crate) fn effects(&mut self) -> Vec<(u16, u128)> {
        match &mut self.way {
            Way::InPlace(tx) => self.store.effects(tx.worker, &tx.merges),
            Way::Speculative { .. } => Vec::new(),
        }
    }

    /// Makes the changes stay, or puts them back; tells of the table that was touched without being declared.
    pub(crate) fn finish(self, keep: bool) -> Option<&'static str> {
        let Way::InPlace(tx) = self.way else { return None };
        let mut stopped = matches!(tx.guard, Guard::Stop(_)) && tx.violation.get().is_some();
        if !stopped {
            for Noted { merging, pooled } in tx.merges {
                let made = if keep && pooled {
                    tx.worker.pool.add(merging, tx.position);
                    continue;
                } else if keep {
                    // SAFETY: the guard allowed it when it was noted.
                    unsafe { merging.make(self.store, tx.worker, tx.window, tx.me, tx.position) }
                } else {
                    // One by one, an operator that panics ends the transaction before it aborts.
                    merging.try_out(self.store, tx.position)
                };
                if made.is_err() {
                    // One by one it can be put back, and panics as any procedure.
                    stopped = true;
                    tx.violation.set(Some(merging.table()));
                    break;
                }
            }
        }
        if keep && !stopped {
            self.store.keep_changes(tx.worker);
        } else {
            self.store.roll_back(tx.worker);
        }
        tx.violation.get()
    }

    pub(crate) const fn store(&self) -> &'a Store {
        self.store
    }

    /// The position of this transaction in the log: unique, and the same on every replica.
    ///
    /// # Panics
    /// In an interactive transaction, which has no position before it commits.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position.expect("an interactive transaction has no position before it commits")
    }

    /// When the transaction was submitted, by its submitter's clock.
    ///
    /// Units: microseconds since 1970-01-01 UTC. Not monotone in the position.
    #[must_use]
    pub const fn time_us(&self) -> u64 {
        self.time_us
    }

    /// A random number: the next of a sequence that depends on the transaction's entry in the log alone, so that it
    /// is the same on every replica and in every run. Not for secrets: whoever reads the log can tell it.
    ///
    /// Splitmix64 (Steele, Lea, Flood, OOPSLA 2014) from the entry's position and time.
    ///
    /// # Panics
    /// As [`position`](Self::position).
    #[must_use]
    pub fn random(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mix = |mut z: u64| {
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let seed = mix(mix(self.position().0.wrapping_add(GAMMA)) ^ self.time_us);
        let drawn = self.drawn.get() + 1;
        self.drawn.set(drawn);
        mix(seed.wrapping_add(drawn.wrapping_mul(GAMMA)))
    }

    /// The row of `key`, if there is one.
    ///
    /// # Panics
    /// Here and in the other methods: when the table is not registered with the engine. The transaction then
    /// aborts as any that panics.
    #[inline]
    pub fn get<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> Option<&V> {
        self.get_in(self.store.table(table), key)
    }

    #[inline]
    pub(crate) fn get_in<'s, K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &'s self,
        store: &'s TableStore<K, V, C>,
        key: &K,
    ) -> Option<&'s V> {
        match &self.way {
            Way::InPlace(tx) => {
                let id = tx.find(store, key, Mode::Read).id;
                // SAFETY: `find` asked the guard, and the row's own unit of conflict is the one declared: the
                // schedule keeps writers away while `&self` lives, and this transaction writes through `&mut self`
                // only.
                unsafe { store.row(id?).value().as_ref() }
            }
            // SAFETY: shared while `&self` lives; changes take `&mut self`.
            Way::Speculative(tx) => unsafe { tx.get(store, key) },
        }
    }

    /// The row of `key` to be changed in place, if there is one.
    #[inline]
    pub fn get_mut<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> Option<&mut V> {
        self.keep_indexes();
        let store = self.store.table(table);
        if store.is_indexed() {
            self.lent = Some(store.lend(key.clone(), self.get_in(store, key).cloned()));
        }
        match &mut self.way {
            Way::InPlace(tx) => {
                let id = tx.find(store, key, Mode::Write).id?;
                // SAFETY: `find` asked the guard for writing: nobody else touches the row while `&mut self` lives.
                unsafe {
                    if store.row(id).value().is_none() {
                        return None;
                    }
                    store.save(tx.worker, id, tx.window, tx.me);
                    store.row(id).value_mut().as_mut()
                }
            }
            // SAFETY: `&mut self` keeps all others away.
            Way::Speculative(tx) => unsafe { tx.get_mut(store, key) },
        }
    }

    /// Inserts the row of `key`, or overwrites it.
    #[inline]
    pub fn put<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: K,
        value: V,
    ) {
        self.put_in(self.store.table(table), key, value);
    }

    #[inline]
    pub(crate) fn put_in<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        store: &TableStore<K, V, C>,
        key: K,
        value: V,
    ) {
        self.keep_indexes();
        if store.is_indexed() {
            let old = self.get_in(store, &key).cloned();
            store.moved(self, &key, old.as_ref(), Some(&value));
        }
        match &mut self.way {
            Way::InPlace(tx) => {
                let Found { id, key_hash, unit, granule } = tx.find(store, &key, Mode::Write);
                let id = id.unwrap_or_else(|| store.create(tx.worker, key, key_hash, unit, granule));
                // SAFETY: as in `get_mut`; a row made just now is in the same unit of conflict.
                unsafe {
                    store.save(tx.worker, id, tx.window, tx.me);
                    *store.row(id).value_mut() = Some(value);
                }
            }
            // SAFETY: as in `get_mut`.
            Way::Speculative(tx) => unsafe { tx.put(store, key, value) },
        }
    }

    /// Deletes the row of `key`; tells whether there was one.
    #[inline]
    pub fn delete<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> bool {
        self.delete_in(self.store.table(table), key)
    }

    #[inline]
    pub(crate) fn delete_in<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        store: &TableStore<K, V, C>,
        key: &K,
    ) -> bool {
        self.keep_indexes();
        if store.is_indexed() {
            let old = self.get_in(store, key).cloned();
            store.moved(self, key, old.as_ref(), None);
        }
        match &mut self.way {
            Way::InPlace(tx) => {
                let Some(id) = tx.find(store, key, Mode::Write).id else { return false };
                // SAFETY: as in `get_mut`.
                unsafe {
                    if store.row(id).value().is_none() {
                        return false;
                    }
                    store.save(tx.worker, id, tx.window, tx.me);
                    *store.row(id).value_mut() = None;
                }
                true
            }
            // SAFETY: as in `get_mut`.
            Way::Speculative(tx) => unsafe { tx.delete(store, key) },
        }
    }

    /// Whether the row of `key` [accepts](Merge::accepts) merges. At its position a transaction that declared a
    /// merge may ask that; found by reconnaissance it counts as a read.
    pub fn can_merge<K: Key, V: Merge, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> bool {
        let store = self.store.table(table);
        match &self.way {
            Way::InPlace(tx) => match tx.merges_only(store, key) {
                Some(pooled) => merging::is_accepted(store, key, store.key_hash(key), !pooled),
                // Nobody else runs, and who declared a merge may ask.
                None if matches!(tx.guard, Guard::Note(_))
                    && tx.declared(store.number(), store.key_hash(key), Mode::Merge).is_some() =>
                {
                    merging::is_accepted(store, key, store.key_hash(key), false)
                }
                None => V::accepts(self.get_in(store, key)),
            },
            // SAFETY: changes take `&mut self`.
            Way::Speculative(tx) => unsafe { tx.can_merge(store, key) },
        }
    }

    /// Merges into the row of `key`, which need not exist; tells whether it
    /// [accepts](Merge::accepts) that. Transactions that merge one row do not wait for each other; one that also
    /// looks at it does.
    pub fn merge<K: Key, V: Merge, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: K,
        delta: V::Delta,
    ) -> bool {
        self.keep_indexes();
        let store = self.store.table(table);
        assert!(
            !store.is_indexed(),
            "table {:?} has an index, so its rows cannot be merged into",
            table.name()
        );
        match &mut self.way {
            Way::InPlace(tx) => {
                if let Some(pooled) = tx.merges_only(store, &key) {
                    if tx.is_bounded(store.key_hash(&key)) {
                        // Those who declared by how much they change the row count on no other change.
                        tx.violated(store);
                    }
                    let merging = Merging {
                        table: *table,
                        number: store.number(),
                        key_hash: store.key_hash(&key),
                        key,
                        delta,
                    };
                    if !merging.is_accepted(self.store, !pooled) {
                        return false;
                    }
                    // Made when nothing can fail any more: a merge cannot be put back alone.
                    tx.merges.push(Noted { merging: Box::new(merging), pooled });
                    return true;
                }
                // A write was declared, or nobody else runs: then a merge is no violation to be noted.
                let Found { id, key_hash, unit, granule } = tx.find(store, &key, Mode::Merge);
                // SAFETY: as in `get_mut`; a row made just now is in the same unit of conflict.
                unsafe {
                    if !V::accepts(id.and_then(|id| store.row(id).value().as_ref())) {
                        return false;
                    }
                    let id = id.unwrap_or_else(|| store.create(tx.worker, key, key_hash, unit, granule));
                    store.save(tx.worker, id, tx.window, tx.me);
                    V::merge(store.row(id).value_mut(), delta, tx.position);
                }
                true
            }
            // SAFETY: as in `get_mut`.
            Way::Speculative(tx) => unsafe { tx.merge(table, store, key, delta) },
        }
    }

    /// The rows that an index finds for `range` of what it orders by: that and the row's key, in this order. Rows
    /// are looked at as they are asked for, as by [`range`](Self::range).
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

    /// Moves the row that was lent, if one was and it changed, in its indexes. Before it is lent again, before an index
    /// is read, and before the transaction ends.
    #[inline]
    pub(crate) fn keep_indexes(&mut self) {
        if let Some(moved) = self.lent.take() {
            moved(self);
        }
    }

    /// Asks the cache for the rows of these keys, so that their misses overlap instead of following each other.
    /// Worth it before touching several rows whose keys the footprint could not name; changes no result.
    ///
    /// Cost: some 10 ns a key, if the index is in the cache.
    pub fn fetch_ahead<K: Key, V: Value, C: Codec<K> + Codec<V>>(&self, table: &Table<K, V, C>, keys: &[K]) {
        let store = self.store.table(table);
        // Elsewhere than on a driver an index may be given back while it is looked at.
        let pause = match &self.way {
            Way::InPlace(_) => Pause::NEVER,
            Way::Speculative(Speculative { beside: Beside::Window { pause, .. }, .. }) => *pause,
            Way::Speculative(_) => return,
        };
        let mut hashes = [0u64; 32];
        for keys in keys.chunks(hashes.len()) {
            for (hash, key) in hashes.iter_mut().zip(keys) {
                *hash = store.key_hash(key);
                store.prefetch_index(*hash);
            }
            pause.pause();
            for &hash in &hashes[..keys.len()] {
                // Numbers of rows are looked up, nothing of the rows: the guard has no say in it.
                if let Some(id) = store.locate(hash) {
                    store.prefetch_row(id);
                }
            }
            pause.pause();
        }
    }

    /// The rows with keys in `range`, in key order, from an [`ordered`](Table::ordered) table. In a
    /// [`grouped`](Table::grouped) one all of the range must lie in one granule.
    ///
    /// Rows are looked at as they are asked for: who takes three of them depends on those three and on nothing
    /// behind them.
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

    pub(crate) fn range_in<'s, K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &'s self,
        store: &'s TableStore<K, V, C>,
        range: impl RangeBounds<K>,
    ) -> impl DoubleEndedIterator<Item = (K, &'s V)> {
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
        self.range(table, range).next()
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
}

/// See [`Tx::range`].
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
    #[inline]
    fn step(&mut self, from_back: bool) -> Option<(K, &'a V)> {
        let (tx, store, rows, granule) = match self {
            Self::InPlace { tx, store, rows, granule } => (*tx, *store, rows, granule),
            Self::Speculative(rows) if from_back => return rows.next_back(),
            Self::Speculative(rows) => return rows.next(),
        };
        loop {
            let visit = &mut |entered: u64| {
                if tx.declared(store.number(), entered, Mode::Read).is_none() {
                    tx.violated(store);
                }
            };
            let id = if from_back { rows.next_back(visit) } else { rows.next(visit) }?;
            rows.ahead(from_back).iter().for_each(|&id| store.fetch_row(id));
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
                    return Some((row.key().clone(), value));
                }
            }
        }
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

/// Where a row is and belongs, as the guard allowed.
struct Found {
    id: Option<RowId>,
    key_hash: u64,
    /// The hash of its unit of conflict.
    unit: u64,
    /// The hash of its granule; the unit's where that is not asked for.
    granule: u64,
}

impl InPlace<'_> {
    /// The row of the key, if there is one, and where it belongs. Asks the guard.
    #[inline]
    fn find<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
        key: &K,
        mode: Mode,
    ) -> Found {
        let (number, key_hash) = (store.number(), store.key_hash(key));
        if self.merges.iter().any(|noted| noted.merging.is_of(number, key_hash)) {
            // It should have declared a write: its own merge is not made yet.
            self.violated(store);
        }
        let (unit, hint) = match store.conflicts {
            Conflicts::Rows => (key_hash, self.declared(number, key_hash, mode)),
            Conflicts::Grouped { .. } => {
                let granule = store.granule_of(key);
                (granule, self.declared(number, granule, mode).map(|_| self.located(key_hash)))
            }
            Conflicts::Watched(_) | Conflicts::Ranges => (key_hash, self.declared(number, key_hash, mode)),
        };
        let mut found = Found { id: None, key_hash, unit, granule: unit };
        // A row of a watched table is read as a row or as one of its granule, and written as both.
        let watched = matches!(store.conflicts, Conflicts::Watched(_) | Conflicts::Ranges);
        let by_granule = watched && hint.is_none() && mode == Mode::Read;
        if watched && (by_granule || mode != Mode::Read) {
            found.granule = store.granule_of(key);
        }
        let hint = if by_granule { self.declared(number, found.granule, mode) } else { hint };
        let Some(hint) = hint else {
            self.violated(store);
            found.id = store.find(key, key_hash);
            return found;
        };
        if hint != NOWHERE {
            let row = store.row(hint);
            // SAFETY: a row that is not free keeps its key and unit until the window ends.
            let same = row.latch.stamp() != Stamp::FREE && unsafe { row.unit() == unit && row.key() == key };
            if same {
                found.id = Some(hint);
            }
        }
        if found.id.is_none() {
            found.id = store.find(key, key_hash);
        }
        let Some(id) = found.id else {
            if watched && mode != Mode::Read {
                self.may_merge(store, found.granule);
            }
            return found;
        };
        // A table whose granule function, order or hash is not a function of the key could lead to a row that
        // belongs to another unit or granule than the one declared. The row knows.
        // SAFETY: rows in the index exist until the window ends.
        let (actual, granule) = unsafe { (store.row(id).unit(), store.row(id).granule()) };
        assert_eq!(actual, unit, "the unit of conflict of a key of {} changed", store_name(store));
        if by_granule {
            assert_eq!(granule, found.granule, "the granule of a key of {} changed", store_name(store));
        }
        if watched && mode != Mode::Read {
            self.may_merge(store, granule);
        }
        found
    }

    /// Whether a merge of its own into a row of the range is still to be made.
    fn merged_into<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
        range: &impl RangeBounds<K>,
    ) -> bool {
        let keys = self.merges.iter().filter_map(|noted| noted.merging.key_in(store.number()));
        keys.filter_map(<dyn Any>::downcast_ref).any(|key| range.contains(key))
    }

    /// Whether the transaction may merge into the row, and nothing else: then others may, too, at the same time, or, if
    /// merges into it are pooled, at the end of the window; the answer tells whether they are.
    fn merges_only<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
        key: &K,
    ) -> Option<bool> {
        let Guard::Stop(accesses) = self.guard else { return None };
        if matches!(store.conflicts, Conflicts::Grouped { .. }) {
            return None;
        }
        let key_hash = store.key_hash(key);
        let mut merges = None;
        for access in accesses.iter().filter(|access| access.key == key_hash) {
            match access.mode {
                Mode::Write => return None,
                Mode::Merge => merges = Some(access.of == Of::PooledRow),
                Mode::Read => {}
            }
        }
        if merges.is_none() {
            self.violated(store);
        }
        if !matches!(store.conflicts, Conflicts::Rows) {
            self.may_merge(store, store.unit_and_granule(key, key_hash).1);
        }
        merges
    }

    /// Asks the guard whether rows of a granule may be changed: what keeps those away who read it as a whole.
    #[inline]
    fn may_merge<K: Key, V: Value, C: Codec<K> + Codec<V>>(&self, store: &TableStore<K, V, C>, granule: u64) {
        if self.merged.get() == granule || matches!(self.guard, Guard::Off) {
            return;
        }
        match self.declared(store.number(), granule, Mode::Merge) {
            Some(_) => self.merged.set(granule),
            None => self.violated(store),
        }
    }

    /// The row that was looked up ahead for this key, if it comes in about the order in which the footprint named
    /// the rows.
    #[inline]
    fn located(&self, key_hash: u64) -> RowId {
        let next = self.next_located.get();
        let start = next.saturating_sub(2);
        for (i, located) in self.located.iter().enumerate().skip(start).take(6) {
            if located.key_hash == key_hash {
                self.next_located.set(i + 1);
                return located.row;
            }
        }
        NOWHERE
    }

    /// The located row of the declared access that covers this one (`NOWHERE` if none was located), or `None`
    /// when there is no such access.
    #[inline]
    fn declared(&self, table: u16, key: u64, mode: Mode) -> Option<RowId> {
        let (Guard::Stop(accesses) | Guard::Note(accesses)) = self.guard else { return Some(NOWHERE) };
        let covers = |access: &Access| access.covers(key, mode);
        let cursor = &self.cursors[usize::from(table) % CURSORS];
        let start = cursor.get() as usize;
        // The same row again, or the next one: what procedures do that follow their footprint.
        for (i, access) in accesses.iter().enumerate().skip(start) {
            if covers(access) {
                cursor.set(i as u32);
                return Some(access.hint());
            }
        }
        for (i, access) in accesses.iter().enumerate().take(start) {
            if covers(access) {
                cursor.set(i as u32);
                return Some(access.hint());
            }
        }
        None
    }

    /// An undeclared access: ends the transaction when others run beside it.
    #[cold]
    fn violated<K: Key, V: Value, C: Codec<K> + Codec<V>>(&self, store: &TableStore<K, V, C>) {
        if self.violation.get().is_none() {
            self.violation.set(Some(store_name(store)));
        }
        if matches!(self.guard, Guard::Stop(_)) {
            // Not a panic: no hook runs and nothing is printed.
            resume_unwind(Box::new(Stopped));
        }
    }
}

fn store_name<K: Key, V: Value, C: Codec<K> + Codec<V>>(store: &TableStore<K, V, C>) -> &'static str {
    store.name()
}
