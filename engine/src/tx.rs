//! What a running procedure sees: typed reads and writes, each behind the guard.
//!
//! The guard compares every access with the footprint *before* it happens. So a transaction that declared too
//! little never touches what another one may be changing: it is stopped by unwinding, its changes are put back,
//! and the window is replayed one by one. Hence every transaction before the first violator saw exactly what it
//! would have seen one by one, and the first violator is the same however many workers there are.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ops::RangeBounds;
use std::panic::resume_unwind;

use mixlog_log::Position;
use mixlog_mixer::Mode;

use crate::codec::Codec;
use crate::footprint::{Access, Located, NOWHERE};
use crate::store::{AnyTable, RowId, Stamp, Store, TableStore, Worker};
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

/// A transaction while it runs: the procedure's only way to data.
///
/// It sees its own changes. It never sees those of later transactions, nor half of an earlier one.
pub struct Tx<'a> {
    store: &'a Store,
    worker: &'a mut Worker,
    guard: Guard<'a>,
    /// Where in the footprint the newest access of a table was found, by the table's number: the next one is most
    /// likely the same, or soon behind it.
    cursors: [Cell<u32>; CURSORS],
    /// Rows looked up ahead, and the one after the newest that was used.
    located: &'a [Located],
    next_located: Cell<usize>,
    /// The first table that was touched without being declared.
    violation: Cell<Option<&'static str>>,
    position: Position,
    window: Stamp,
    me: Stamp,
    time_us: u64,
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
        located: &'a [Located],
        window: Position,
        position: Position,
        time_us: u64,
    ) -> Self {
        Self {
            store,
            worker,
            guard,
            cursors: [const { Cell::new(0) }; CURSORS],
            located,
            next_located: Cell::new(0),
            violation: Cell::new(None),
            position,
            window: Stamp::of(window),
            me: Stamp::of(position),
            time_us,
        }
    }

    /// Makes the changes stay, or puts them back; tells of the table that was touched without being declared.
    pub(crate) fn finish(self, keep: bool) -> Option<&'static str> {
        let stopped = matches!(self.guard, Guard::Stop(_)) && self.violation.get().is_some();
        if keep && !stopped {
            self.store.keep_changes(self.worker);
        } else {
            self.store.roll_back(self.worker);
        }
        self.violation.get()
    }

    /// The position of this transaction in the log: unique, and the same on every replica.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// When the transaction was submitted, by its submitter's clock.
    ///
    /// Units: microseconds since 1970-01-01 UTC. Not monotone in the position.
    #[must_use]
    pub const fn time_us(&self) -> u64 {
        self.time_us
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
        let store = self.store.table(table);
        let (id, _, _) = self.find(store, key, Mode::Read);
        // SAFETY: `find` asked the guard, and the row's own unit of conflict is the one declared: the schedule
        // keeps writers away while `&self` lives, and this transaction writes through `&mut self` only.
        unsafe { store.row(id?).value().as_ref() }
    }

    /// The row of `key` to be changed in place, if there is one.
    #[inline]
    pub fn get_mut<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> Option<&mut V> {
        let store = self.store.table(table);
        let (id, _, _) = self.find(store, key, Mode::Write);
        let id = id?;
        // SAFETY: `find` asked the guard for writing: nobody else touches the row while `&mut self` lives.
        unsafe {
            if store.row(id).value().is_none() {
                return None;
            }
            store.save(self.worker, id, self.window, self.me);
            store.row(id).value_mut().as_mut()
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
        let store = self.store.table(table);
        let (id, key_hash, conflict) = self.find(store, &key, Mode::Write);
        let id = id.unwrap_or_else(|| store.create(self.worker, key, key_hash, conflict));
        // SAFETY: as in `get_mut`; a row made just now is in the same unit of conflict.
        unsafe {
            store.save(self.worker, id, self.window, self.me);
            *store.row(id).value_mut() = Some(value);
        }
    }

    /// Deletes the row of `key`; tells whether there was one.
    #[inline]
    pub fn delete<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> bool {
        let store = self.store.table(table);
        let (Some(id), _, _) = self.find(store, key, Mode::Write) else { return false };
        // SAFETY: as in `get_mut`.
        unsafe {
            if store.row(id).value().is_none() {
                return false;
            }
            store.save(self.worker, id, self.window, self.me);
            *store.row(id).value_mut() = None;
        }
        true
    }

    /// Asks the cache for the rows of these keys, so that their misses overlap instead of following each other.
    /// Worth it before touching several rows whose keys the footprint could not name; changes no result.
    ///
    /// Cost: some 10 ns a key, if the index is in the cache.
    pub fn fetch_ahead<K: Key, V: Value, C: Codec<K> + Codec<V>>(&self, table: &Table<K, V, C>, keys: &[K]) {
        let store = self.store.table(table);
        let mut hashes = [0u64; 32];
        for keys in keys.chunks(hashes.len()) {
            for (hash, key) in hashes.iter_mut().zip(keys) {
                *hash = store.key_hash(key);
                store.prefetch_index(*hash);
            }
            for &hash in &hashes[..keys.len()] {
                // Numbers of rows are looked up, nothing of the rows: the guard has no say in it.
                if let Some(id) = store.locate(hash) {
                    store.prefetch_row(id);
                }
            }
        }
    }

    /// The rows with keys in `range`, in key order. All of the range must lie in one granule of an
    /// [`ordered`](Table::ordered) table.
    ///
    /// Cost: a descent of the granule's tree per row.
    ///
    /// # Panics
    /// When the table is not ordered, the range has no bound that tells its granule, or it spans two.
    pub fn range<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        range: impl RangeBounds<K>,
    ) -> impl DoubleEndedIterator<Item = (K, &V)> {
        let store = self.store.table(table);
        let granule = self.granule_of_range(store, &range);
        store.range(granule, &range).filter_map(move |id| {
            let row = store.row(id);
            // SAFETY: the guard allowed reading the granule, and the row's own unit of conflict is that
            // granule, so nobody writes it while `&self` lives.
            unsafe {
                if row.conflict() != granule && !matches!(self.guard, Guard::Off) {
                    self.violated(store);
                }
                Some((row.key().clone(), row.value().as_ref()?))
            }
        })
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

    fn granule_of_range<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
        range: &impl RangeBounds<K>,
    ) -> u64 {
        let granule = store.granule_of_range(range);
        if self.declared(store.number(), granule, Mode::Read).is_none() {
            self.violated(store);
        }
        granule
    }

    /// The row of the key (or none), the key's hash, and the hash of its unit of conflict. Asks the guard.
    #[inline]
    fn find<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
        key: &K,
        mode: Mode,
    ) -> (Option<RowId>, u64, u64) {
        let (number, key_hash) = (store.number(), store.key_hash(key));
        let (conflict, hint) = match store.conflicts {
            Conflicts::Rows => (key_hash, self.declared(number, key_hash, mode)),
            Conflicts::Grouped { .. } => {
                let granule = store.granule_of(key);
                (granule, self.declared(number, granule, mode).map(|_| self.located(key_hash)))
            }
            Conflicts::Watched(_) => {
                let mut hint = self.declared(number, key_hash, mode);
                if hint.is_none() && mode == Mode::Read {
                    hint = self.declared(number, store.granule_of(key), mode);
                }
                (key_hash, hint)
            }
        };
        let Some(hint) = hint else {
            self.violated(store);
            return (store.find(key, key_hash), key_hash, conflict);
        };
        if hint != NOWHERE {
            let row = store.row(hint);
            // SAFETY: a row that is not free keeps its key and unit until the window ends.
            let same =
                row.latch.stamp() != Stamp::FREE && unsafe { row.conflict() == conflict && row.key() == key };
            if same {
                return (Some(hint), key_hash, conflict);
            }
        }
        let found = store.find(key, key_hash);
        if let Some(id) = found {
            // A table whose granule function or hash is not a function of the key could lead to a row that
            // belongs to another unit than the one declared.
            // SAFETY: rows in the index exist until the window ends.
            let actual = unsafe { store.row(id).conflict() };
            assert_eq!(actual, conflict, "the granule of a key of {} changed", store_name(store));
        }
        (found, key_hash, conflict)
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
        let covers = |access: &Access| {
            access.key == key
                && (access.mode == Mode::Write || (access.mode == Mode::Read && mode == Mode::Read))
        };
        let cursor = &self.cursors[usize::from(table) % CURSORS];
        let start = cursor.get() as usize;
        // The same row again, or the next one: what procedures do that follow their footprint.
        for (i, access) in accesses.iter().enumerate().skip(start) {
            if covers(access) {
                cursor.set(i as u32);
                return Some(access.row);
            }
        }
        for (i, access) in accesses.iter().enumerate().take(start) {
            if covers(access) {
                cursor.set(i as u32);
                return Some(access.row);
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
