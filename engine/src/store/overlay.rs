//! What a *speculation* looked at and changed: a transaction that runs on a state of the past, while others run,
//! and keeps its changes to itself.
//!
//! Rows that it looks at are copied, so that it may hold references to them while writers go on; rows that it
//! changes are changed in the copy. Whoever made the speculation then knows what the transaction touches, and may
//! take over its changes if nothing that it read has changed since ([`TableStore::is_current`],
//! [`TableStore::adopt`]).
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell, UnsafeCell};
use std::collections::VecDeque;
use std::ops::{Bound, RangeBounds};

use hashbrown::HashTable;
use mixlog_log::Position;

use super::arena::Arena;
use super::slab::RowId;
use super::{Stamp, Worker};
use crate::bounded::{Counter, may_add};
use crate::codec::Codec;
use crate::merge::Merge;
use crate::store::TableStore;
use crate::store::merging::{AnyMerging, Merging};
use crate::table::{Key, Table, Value};

/// A row as a speculation sees it.
pub(crate) struct Looked<K, V> {
    pub(crate) key: K,
    pub(crate) key_hash: u64,
    /// The row, and the stamp of the version that was copied; `None` when there was no value, or nobody asked.
    pub(crate) seen: Option<(RowId, Stamp)>,
    /// Whether the transaction depends on what was there.
    pub(crate) read: Cell<bool>,
    pub(crate) written: Cell<bool>,
    /// Whether all that the transaction did was to merge into it.
    pub(crate) merged: Cell<bool>,
    /// Whether all that it did was that, and to ask whether it can.
    pub(crate) asked: Cell<bool>,
    /// What the transaction sees: shared through `&Tx`, changed through `&mut Tx`.
    value: UnsafeCell<Option<V>>,
}

impl<K, V> Looked<K, V> {
    /// The transaction looks at the value. What it wrote itself depends on nothing.
    #[inline]
    pub(crate) fn note_read(&self) {
        self.asked.set(false);
        if !self.written.get() {
            self.read.set(true);
        }
        // What was merged is looked at: the copy, which holds it, counts.
        if self.merged.replace(false) {
            self.written.set(true);
        }
    }

    /// The transaction depends on whether the row can be merged into. At its position the right to merge is enough for
    /// that.
    pub(crate) fn note_asked(&self) {
        let nothing_else = self.asked.get() || !(self.read.get() || self.written.get());
        self.note_read();
        self.asked.set(nothing_else);
    }

    /// What the row shall hold, if the transaction changes it. Only for whoever holds the overlays alone.
    pub(crate) fn written_value(&self) -> Option<&Option<V>> {
        // SAFETY: a transaction that commits changes nothing any more.
        self.written.get().then(|| unsafe { self.value() })
    }

    /// # Safety
    /// Nobody changes the value while the reference lives.
    pub(crate) unsafe fn value(&self) -> &Option<V> {
        // SAFETY: the caller's promise.
        unsafe { &*self.value.get() }
    }

    /// # Safety
    /// Nobody else refers to the value while the reference lives.
    #[expect(clippy::mut_from_ref, reason = "exclusion is the caller's promise")]
    pub(crate) unsafe fn value_mut(&self) -> &mut Option<V> {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.value.get() }
    }
}

/// A range that a speculation walked, from one end or both.
#[derive(Clone, Debug)]
pub(crate) struct Scan<K> {
    pub(crate) from: Bound<K>,
    pub(crate) to: Bound<K>,
    /// The last row taken from the front, and from the back.
    pub(crate) front: Option<K>,
    pub(crate) back: Option<K>,
    /// Whether the walk came to the end.
    pub(crate) all: bool,
}

/// One table's part.
pub(crate) struct Overlay<K, V> {
    /// Rows of all speculations, one after another. Only pushed to, and addresses stay.
    looked: UnsafeCell<Arena<Looked<K, V>>>,
    /// Those of the speculation at hand, by key.
    by_key: RefCell<HashTable<u32>>,
    scans: RefCell<Vec<Scan<K>>>,
}

impl<K: Key, V: Value> Overlay<K, V> {
    fn new() -> Self {
        Self {
            looked: UnsafeCell::new(Arena::new()),
            by_key: RefCell::new(HashTable::new()),
            scans: RefCell::default(),
        }
    }

    pub(crate) fn get(&self, number: u32) -> &Looked<K, V> {
        // SAFETY: items stay where they are until `clear`, which takes `&mut self`; pushing touches none of them.
        unsafe { (*self.looked.get()).at(number as usize).as_ref() }
    }

    fn find(&self, key: &K, key_hash: u64) -> Option<u32> {
        let by_key = self.by_key.borrow();
        let same = |&number: &u32| {
            let looked = self.get(number);
            looked.key_hash == key_hash && looked.key == *key
        };
        by_key.find(key_hash, same).copied()
    }

    fn push(&self, looked: Looked<K, V>) -> u32 {
        let key_hash = looked.key_hash;
        // SAFETY: no reference to the arena itself outlives a call; those to items stay good.
        let number = unsafe {
            let arena = &mut *self.looked.get();
            arena.push(looked);
            arena.len() as u32 - 1
        };
        self.by_key.borrow_mut().insert_unique(key_hash, number, |&number| self.get(number).key_hash);
        number
    }

    pub(crate) fn scans(&self) -> std::cell::Ref<'_, Vec<Scan<K>>> {
        self.scans.borrow()
    }
}

/// An [`Overlay`] without its types.
trait AnyOverlay: Any + Send {
    /// A new speculation starts.
    fn start(&self);
    fn clear(&mut self);
}

impl<K: Key, V: Value> AnyOverlay for Overlay<K, V> {
    fn start(&self) {
        self.by_key.borrow_mut().clear();
    }

    fn clear(&mut self) {
        self.looked.get_mut().clear();
        self.by_key.get_mut().clear();
        self.scans.get_mut().clear();
    }
}

/// Something that a speculation touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touched {
    /// The row with this number in the table's overlay.
    Row { table: u16, number: u32 },
    /// A granule was read as a whole.
    Granule { table: u16, hash: u64 },
    /// The merge with this number was made into the row.
    Merge { table: u16, number: u32, merge: u32 },
}

/// What one speculation after another touched, in all tables.
#[derive(Default)]
pub(crate) struct Overlays {
    tables: Vec<OnceCell<Box<dyn AnyOverlay>>>,
    touched: RefCell<Vec<Touched>>,
    merges: RefCell<Vec<Box<dyn AnyMerging>>>,
    /// Where the speculation at hand starts in `touched`.
    start: Cell<u32>,
}

// SAFETY: cells are changed by the one driver that speculates, while it holds the overlays mutably or alone. Later,
// when others share them, only `Overlay::get` is used, and each row's value is touched by the one driver that
// executes the row's transaction (`is_current`, `adopt`).
unsafe impl Sync for Overlays {}

impl Overlays {
    pub(crate) fn clear(&mut self) {
        self.tables.iter_mut().filter_map(OnceCell::get_mut).for_each(|overlay| overlay.clear());
        self.touched.get_mut().clear();
        self.merges.get_mut().clear();
    }

    /// Starts a speculation in an engine with so many tables. Exclusive, though nothing but cells changes.
    pub(crate) fn start(&mut self, tables: usize) {
        if self.tables.len() < tables {
            self.tables.resize_with(tables, OnceCell::new);
        }
        self.tables.iter().filter_map(OnceCell::get).for_each(|overlay| overlay.start());
        self.start.set(self.touched.borrow().len() as u32);
    }

    /// What the speculation at hand touched: a range for [`touched`](Self::touched).
    pub(crate) fn at_hand(&self) -> std::ops::Range<u32> {
        self.start.get()..self.touched.borrow().len() as u32
    }

    pub(crate) fn touched(&self, range: std::ops::Range<u32>) -> impl ExactSizeIterator<Item = Touched> + '_ {
        // SAFETY: nobody adds to the list while it is looked at: speculations are over by then.
        let touched = unsafe { &*self.touched.as_ptr() };
        touched[range.start as usize..range.end as usize].iter().copied()
    }

    #[inline]
    pub(crate) fn table<K: Key, V: Value>(&self, number: u16) -> &Overlay<K, V> {
        let overlay = self.tables[usize::from(number)].get_or_init(|| Box::new(Overlay::<K, V>::new()));
        let overlay: &dyn Any = &**overlay;
        overlay.downcast_ref().expect("a table's number goes with its types")
    }

    /// Whether a table has an overlay.
    pub(crate) fn has(&self, number: u16) -> bool {
        self.tables.get(usize::from(number)).is_some_and(|overlay| overlay.get().is_some())
    }

    fn touch(&self, touched: Touched) {
        self.touched.borrow_mut().push(touched);
    }

    /// A merge was made into the row that was looked at last.
    pub(crate) fn add_merge<K: Key, V: Merge, C: Codec<K> + Codec<V>>(&self, merging: Merging<K, V, C>) {
        let table = merging.number;
        let number =
            self.table::<K, V>(table).find(&merging.key, merging.key_hash).expect("it was looked at");
        let mut merges = self.merges.borrow_mut();
        self.touch(Touched::Merge { table, number, merge: merges.len() as u32 });
        merges.push(Box::new(merging));
    }

    pub(crate) fn merge(&self, number: u32) -> &dyn AnyMerging {
        // SAFETY: as in `touched`.
        unsafe { &*(&*self.merges.as_ptr())[number as usize] }
    }

    /// A granule is read as a whole.
    pub(crate) fn read_granule(&self, table: u16, hash: u64) {
        let granule = Touched::Granule { table, hash };
        let mut touched = self.touched.borrow_mut();
        if !touched[self.start.get() as usize..].contains(&granule) {
            touched.push(granule);
        }
    }
}

/// A transaction that runs on the state as of `at`, and keeps its changes in the overlays.
///
/// Its methods hand out references for as long as the overlays are borrowed. Their callers promise that values are
/// not changed while references to them live, as `&Tx` and `&mut Tx` do.
#[derive(Clone, Copy)]
pub(crate) struct Speculative<'a> {
    pub(crate) overlays: &'a Overlays,
    pub(crate) at: Stamp,
    /// `None` for an interactive transaction.
    pub(crate) position: Option<Position>,
    /// Whether a driver runs it in a window: then no index gives back what it looks at. All others pin.
    pub(crate) in_window: bool,
}

impl<'a> Speculative<'a> {
    /// # Safety
    /// No change while the reference lives.
    #[inline]
    pub(crate) unsafe fn get<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        self,
        store: &TableStore<K, V, C>,
        key: &K,
    ) -> Option<&'a V> {
        let looked = store.look(key, self);
        looked.note_read();
        // SAFETY: the caller's promise.
        unsafe { looked.value().as_ref() }
    }

    /// # Safety
    /// No other reference to the row while this one lives.
    pub(crate) unsafe fn get_mut<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        self,
        store: &TableStore<K, V, C>,
        key: &K,
    ) -> Option<&'a mut V> {
        let looked = store.look(key, self);
        looked.note_read();
        // Though there may be nothing to change now: at its position there may be.
        looked.written.set(true);
        // SAFETY: the caller's promise.
        unsafe { looked.value_mut() }.as_mut()
    }

    /// # Safety
    /// No reference to the row lives.
    pub(crate) unsafe fn put<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        self,
        store: &TableStore<K, V, C>,
        key: K,
        value: V,
    ) {
        let looked = store.look_away(key, self.overlays);
        if looked.merged.get() {
            looked.note_read();
        }
        looked.asked.set(false);
        looked.written.set(true);
        // SAFETY: the caller's promise.
        unsafe { *looked.value_mut() = Some(value) };
    }

    /// # Safety
    /// As [`put`](Self::put).
    pub(crate) unsafe fn delete<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        self,
        store: &TableStore<K, V, C>,
        key: &K,
    ) -> bool {
        // SAFETY: the caller's promise.
        let there = unsafe { self.get_mut(store, key) }.is_some();
        // SAFETY: the caller's promise.
        unsafe { *store.look(key, self).value_mut() = None };
        there
    }

    /// # Safety
    /// As [`put`](Self::put).
    pub(crate) unsafe fn merge<K: Key, V: Merge, C: Codec<K> + Codec<V>>(
        self,
        table: &Table<K, V, C>,
        store: &TableStore<K, V, C>,
        key: K,
        delta: V::Delta,
    ) -> bool {
        let looked = store.look(&key, self);
        // SAFETY: the caller's promise.
        let value = unsafe { looked.value_mut() };
        let accepts = V::accepts(value.as_ref());
        // An interactive transaction has no position: its merges are reads and writes.
        if !accepts || self.position.is_none() {
            looked.note_asked();
            looked.written.set(true);
        }
        if !accepts {
            return false;
        }
        V::merge(value, delta.clone(), self.position.unwrap_or_default());
        if !looked.written.get() && !looked.read.get() {
            looked.merged.set(true);
            let (number, key_hash) = (store.number(), looked.key_hash);
            self.overlays.add_merge(Merging { table: *table, number, key_hash, key, delta });
        } else {
            looked.written.set(true);
        }
        true
    }

    /// # Safety
    /// As [`put`](Self::put).
    pub(crate) unsafe fn add_bounded<K: Key, V: Counter, C: Codec<K> + Codec<V>>(
        self,
        store: &TableStore<K, V, C>,
        key: &K,
        delta: i64,
        floor: i64,
    ) -> bool {
        let looked = store.look(key, self);
        looked.note_read();
        // SAFETY: the caller's promise.
        let value = unsafe { looked.value_mut() };
        let adds = V::accepts(value.as_ref()) && may_add(V::value(value.as_ref()), delta, floor);
        if adds || self.position.is_some() {
            // Though there may be too little now: at its position there may be enough.
            looked.written.set(true);
        }
        if adds {
            V::merge(value, delta, self.position.unwrap_or_default());
        }
        adds
    }

    /// # Safety
    /// No change of the row while this runs.
    pub(crate) unsafe fn can_merge<K: Key, V: Merge, C: Codec<K> + Codec<V>>(
        self,
        store: &TableStore<K, V, C>,
        key: &K,
    ) -> bool {
        let looked = store.look(key, self);
        looked.note_asked();
        // SAFETY: the caller's promise.
        V::accepts(unsafe { looked.value() }.as_ref())
    }

    /// The rows of `range`: those of the state, with the transaction's own changes.
    pub(crate) fn range<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        self,
        store: &'a TableStore<K, V, C>,
        range: &impl RangeBounds<K>,
    ) -> Through<'a, K, V, C> {
        store.look_through(range, self.at, self.overlays)
    }
}

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> TableStore<K, V, C> {
    /// The row as the speculation at hand sees it: its own copy, or a new one as of `at`.
    #[inline]
    pub(crate) fn look<'o>(&self, key: &K, tx: Speculative<'o>) -> &'o Looked<K, V> {
        let Speculative { overlays, at, in_window, .. } = tx;
        let overlay = overlays.table::<K, V>(self.number());
        let key_hash = self.key_hash(key);
        if let Some(number) = overlay.find(key, key_hash) {
            return overlay.get(number);
        }
        let found = if in_window {
            self.find_at_in_window(key, key_hash, at)
        } else {
            self.find_at(key, key_hash, at)
        };
        let (seen, value) = match found {
            Some((id, stamp, value)) => (Some((id, stamp)), Some(value)),
            None => (None, None),
        };
        self.add(key.clone(), key_hash, seen, value, overlays)
    }

    /// The same for a row that will be overwritten whatever it holds: nothing is looked up.
    pub(crate) fn look_away<'o>(&self, key: K, overlays: &'o Overlays) -> &'o Looked<K, V> {
        let overlay = overlays.table::<K, V>(self.number());
        let key_hash = self.key_hash(&key);
        match overlay.find(&key, key_hash) {
            Some(number) => overlay.get(number),
            None => self.add(key, key_hash, None, None, overlays),
        }
    }

    fn add<'o>(
        &self,
        key: K,
        key_hash: u64,
        seen: Option<(RowId, Stamp)>,
        value: Option<V>,
        overlays: &'o Overlays,
    ) -> &'o Looked<K, V> {
        let overlay = overlays.table::<K, V>(self.number());
        let [read, written, merged, asked] = [const { Cell::new(false) }; 4];
        let number = overlay.push(Looked {
            key,
            key_hash,
            seen,
            read,
            written,
            merged,
            asked,
            value: UnsafeCell::new(value),
        });
        overlays.touch(Touched::Row { table: self.number(), number });
        overlay.get(number)
    }

    /// The rows of `range` as the speculation at hand sees them: those of `at`, with its own changes.
    pub(crate) fn look_through<'a, R>(
        &'a self,
        range: &R,
        at: Stamp,
        overlays: &'a Overlays,
    ) -> Through<'a, K, V, C>
    where
        R: RangeBounds<K>,
    {
        let overlay = overlays.table::<K, V>(self.number());
        let (from, to) = (range.start_bound().cloned(), range.end_bound().cloned());
        let by_key = overlay.by_key.borrow();
        let mut own: Vec<K> = by_key
            .iter()
            .map(|&number| overlay.get(number))
            .filter(|looked| (looked.written.get() || looked.merged.get()) && range.contains(&looked.key))
            .map(|looked| looked.key.clone())
            .collect();
        own.sort_unstable();
        let scan = {
            let mut scans = overlay.scans.borrow_mut();
            scans.push(Scan { from, to, front: None, back: None, all: false });
            scans.len() - 1
        };
        Through {
            store: self,
            overlays,
            at,
            rows: self.row_ids_pinned(range),
            front: None,
            back: None,
            own: own.into(),
            scan,
        }
    }

    /// Whether what the speculation read of the row is what there is now.
    ///
    /// # Safety
    /// The schedule allows the caller to read the row, and the caller executes the transaction of the speculation.
    pub(crate) unsafe fn is_current(&self, overlays: &Overlays, number: u32) -> bool {
        let looked = overlays.table::<K, V>(self.number()).get(number);
        if !looked.read.get() {
            return true;
        }
        match looked.seen {
            // A number that was given back is not used again so soon, and a stamp never comes back.
            Some((id, stamp)) => self.row(id).latch.stamp() == stamp,
            // SAFETY: the caller may read the row.
            None => self
                .find(&looked.key, looked.key_hash)
                .is_none_or(|id| unsafe { self.row(id).value().is_none() }),
        }
    }

    /// Makes the speculation's change of the row, if it changed it.
    ///
    /// # Safety
    /// As for [`save`](Self::save) if the row was changed, and the caller executes the transaction of the
    /// speculation.
    pub(crate) unsafe fn adopt(
        &self,
        worker: &mut Worker,
        overlays: &Overlays,
        number: u32,
        window: Stamp,
        me: Stamp,
    ) {
        let looked = overlays.table::<K, V>(self.number()).get(number);
        if !looked.written.get() {
            return;
        }
        // SAFETY: only the caller is here, once: a window's transaction is executed in parallel only once.
        let value = unsafe { looked.value_mut() }.take();
        let id = match looked.seen {
            Some((id, stamp)) if self.row(id).latch.stamp() == stamp => Some(id),
            _ => self.find(&looked.key, looked.key_hash),
        };
        let id = match id {
            Some(id) => id,
            None if value.is_none() => return,
            None => {
                let (unit, granule) = self.unit_and_granule(&looked.key, looked.key_hash);
                self.create(worker, looked.key.clone(), looked.key_hash, unit, granule)
            }
        };
        // SAFETY: the caller's promise.
        unsafe {
            self.save(worker, id, window, me);
            *self.row(id).value_mut() = value;
        }
    }
}

/// See [`TableStore::look_through`].
pub(crate) struct Through<'a, K: Key, V: Value, C: Codec<K> + Codec<V>> {
    store: &'a TableStore<K, V, C>,
    overlays: &'a Overlays,
    at: Stamp,
    rows: super::table_store::RowIds<'a, K>,
    /// Rows taken from either end and not yet given out.
    front: Option<K>,
    back: Option<K>,
    /// Keys that the speculation wrote or merged into, in order.
    own: VecDeque<K>,
    scan: usize,
}

impl<'a, K: Key, V: Value, C: Codec<K> + Codec<V>> Through<'a, K, V, C> {
    /// The key of the next row of the state from one end. Its row is in the overlay then.
    fn pull(&mut self, from_back: bool) -> Option<K> {
        let (store, overlays) = (self.store, self.overlays);
        let overlay = overlays.table::<K, V>(store.number());
        loop {
            let visit = &mut |granule| overlays.read_granule(store.number(), granule);
            let id = if from_back { self.rows.next_back(visit) } else { self.rows.next(visit) };
            let Some(id) = id else {
                return if from_back { self.front.take() } else { self.back.take() };
            };
            if let Some((key, stamp, value)) = store.copy_at(id, self.at) {
                let key_hash = store.key_hash(&key);
                if overlay.find(&key, key_hash).is_none() {
                    store.add(key.clone(), key_hash, Some((id, stamp)), Some(value), overlays);
                }
                return Some(key);
            }
        }
    }

    fn step(&mut self, from_back: bool) -> Option<(K, &'a V)> {
        loop {
            if from_back {
                self.back = self.back.take().or_else(|| self.pull(true));
            } else {
                self.front = self.front.take().or_else(|| self.pull(false));
            }
            let (taken, own) = if from_back {
                (&mut self.back, self.own.back())
            } else {
                (&mut self.front, self.own.front())
            };
            let order = match (&*taken, own) {
                (None, None) => {
                    self.note(|scan| scan.all = true);
                    return None;
                }
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(row), Some(own)) if from_back => own.cmp(row),
                (Some(row), Some(own)) => row.cmp(own),
            };
            let mut key = None;
            if order.is_le() {
                key = taken.take();
            }
            if order.is_ge() {
                key = if from_back { self.own.pop_back() } else { self.own.pop_front() };
            }
            let key = key.expect("one of them was there");
            self.note(|scan| *(if from_back { &mut scan.back } else { &mut scan.front }) = Some(key.clone()));
            let looked = self.store.look_away(key.clone(), self.overlays);
            if looked.merged.get() {
                looked.note_read();
            }
            // SAFETY: shared for as long as the transaction is borrowed for `'a`; changes need it mutably.
            if let Some(value) = unsafe { looked.value() } {
                return Some((key, value));
            }
        }
    }

    fn note(&self, change: impl FnOnce(&mut Scan<K>)) {
        change(&mut self.overlays.table::<K, V>(self.store.number()).scans.borrow_mut()[self.scan]);
    }
}

impl<'a, K: Key, V: Value, C: Codec<K> + Codec<V>> Iterator for Through<'a, K, V, C> {
    type Item = (K, &'a V);

    fn next(&mut self) -> Option<(K, &'a V)> {
        self.step(false)
    }
}

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> DoubleEndedIterator for Through<'_, K, V, C> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(true)
    }
}
