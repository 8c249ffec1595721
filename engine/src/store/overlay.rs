//! What a *speculation* looked at and changed: a transaction that runs on a state of the past, while others run,
//! and keeps its changes to itself.
//!
//! Rows that it looks at stay as they are for it, while writers go on: those that somebody may be writing are copied, so
//! that it may hold references to them. A driver that prepares a window knows which these are ([`Written`]); anybody
//! else copies all. Rows that the speculation changes are changed in a copy. Whoever made the speculation then knows
//! what the transaction touches, and may take over its changes if nothing that it read has changed since
//! ([`TouchedRow::is_current`], [`TableStore::adopt`]).
#![allow(unsafe_code)]

use std::any::TypeId;
use std::cell::{Cell, OnceCell, RefCell, UnsafeCell};
use std::collections::VecDeque;
use std::ops::{Bound, Range, RangeBounds};
use std::ptr::NonNull;

use hashbrown::HashTable;
use mixlog_log::Position;
use mixlog_mixer::Mode;

use super::arena::Arena;
use super::row::Latch;
use super::slab::RowId;
use super::written::Written;
use super::{AnyTable, Stamp, Worker};
use crate::ahead::Pause;
use crate::bounded::{Counter, may_add};
use crate::codec::Codec;
use crate::footprint::NOWHERE;
use crate::merge::Merge;
use crate::store::TableStore;
use crate::store::merging::{AnyMerging, Merging};
use crate::table::{Conflicts, Key, Table, Value};

/// What a speculation did with a row, in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Did(u8);

impl Did {
    /// It depends on what was there.
    pub(crate) const READ: Self = Self(1);
    pub(crate) const WRITTEN: Self = Self(2);
    /// All that it did was to merge into it.
    pub(crate) const MERGED: Self = Self(4);
    /// All that it did was that, and to ask whether it can.
    pub(crate) const ASKED: Self = Self(8);
    /// Nobody was writing it when it was looked at.
    const STILL: Self = Self(16);

    #[inline]
    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    #[inline]
    const fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    #[inline]
    const fn unset(&mut self, other: Self) {
        self.0 &= !other.0;
    }
}

/// A row that a speculation touched, without its types.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TouchedRow {
    pub(crate) key_hash: u64,
    /// The row's latch, and the stamp of the version that was seen; `None` when there was no row, or nobody looked.
    latch: Option<NonNull<Latch>>,
    stamp: Stamp,
    /// Its number, or `NOWHERE`.
    pub(crate) row: RowId,
    /// Its place in the table's overlay.
    pub(crate) number: u32,
    pub(crate) table: u16,
    pub(crate) did: Did,
}

impl TouchedRow {
    /// What the transaction must declare; `None` for a row that it only met in a range.
    #[inline]
    pub(crate) const fn mode(&self) -> Option<Mode> {
        if self.did.has(Did::WRITTEN) {
            Some(Mode::Write)
        } else if self.did.has(Did::MERGED) {
            Some(Mode::Merge)
        } else if self.did.has(Did::READ) {
            Some(Mode::Read)
        } else {
            None
        }
    }

    /// Whether nobody was writing what was read of it.
    #[inline]
    pub(crate) const fn is_still(&self) -> bool {
        !self.did.has(Did::READ) || self.did.has(Did::STILL)
    }

    /// Whether the row holds what was seen. `None` where no row was seen: then the table knows
    /// ([`TableStore::is_absent`]).
    ///
    /// # Safety
    /// The schedule allows the caller to read the row, of a store that lives.
    #[inline]
    pub(crate) unsafe fn is_current(&self) -> Option<bool> {
        // SAFETY: rows do not move, and live as long as their store. A number that was given back is not used again so
        // soon, and a stamp never comes back.
        self.latch.map(|latch| unsafe { latch.as_ref() }.stamp() == self.stamp)
    }

    /// The transaction looks at the value. What it wrote itself depends on nothing.
    #[inline]
    const fn note_read(&mut self) {
        self.did.unset(Did::ASKED);
        if !self.did.has(Did::WRITTEN) {
            self.did.set(Did::READ);
        }
        // What was merged is looked at: the copy, which holds it, counts.
        if self.did.has(Did::MERGED) {
            self.did.unset(Did::MERGED);
            self.did.set(Did::WRITTEN);
        }
    }

    /// The transaction depends on whether the row can be merged into. At its position the right to merge is enough for
    /// that.
    fn note_asked(&mut self) {
        let nothing_else =
            self.did.has(Did::ASKED) || !(self.did.has(Did::READ) || self.did.has(Did::WRITTEN));
        self.note_read();
        if nothing_else {
            self.did.set(Did::ASKED);
        }
    }
}

/// What the transaction sees of a row.
enum Held<V> {
    /// What lies in the row: nobody writes it while the speculation runs.
    InPlace(NonNull<Option<V>>),
    Own(Option<V>),
}

/// A row as a speculation sees it.
pub(crate) struct Looked<K, V> {
    pub(crate) key: K,
    /// Its place among what was touched.
    touched: u32,
    /// Shared through `&Tx`, changed through `&mut Tx`.
    value: UnsafeCell<Held<V>>,
}

impl<K, V: Value> Looked<K, V> {
    /// What the row shall hold, if it was written. Only for whoever holds the overlays alone.
    pub(crate) fn written_value(&self) -> Option<&Option<V>> {
        // SAFETY: a transaction that commits changes nothing any more.
        match unsafe { &*self.value.get() } {
            Held::Own(value) => Some(value),
            Held::InPlace(_) => None,
        }
    }

    /// # Safety
    /// Nobody changes the value while the reference lives, and the speculation runs as long.
    #[inline]
    unsafe fn value(&self) -> &Option<V> {
        // SAFETY: the caller's promise.
        match unsafe { &*self.value.get() } {
            Held::Own(value) => value,
            // SAFETY: nobody writes to it while the speculation runs.
            Held::InPlace(value) => unsafe { value.as_ref() },
        }
    }

    /// # Safety
    /// Nobody else refers to the value while the reference lives, and the speculation runs as long.
    #[expect(clippy::mut_from_ref, reason = "exclusion is the caller's promise")]
    unsafe fn value_mut(&self) -> &mut Option<V> {
        // SAFETY: the caller's promise.
        let held = unsafe { &mut *self.value.get() };
        if let Held::InPlace(value) = held {
            // SAFETY: as in `value`.
            *held = Held::Own(unsafe { value.as_ref() }.clone());
        }
        match held {
            Held::Own(value) => value,
            Held::InPlace(_) => unreachable!("it was just copied"),
        }
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

/// Up to how many rows a look-up goes through all of them.
const FEW: usize = 16;

/// One table's part.
pub(crate) struct Overlay<K, V> {
    /// Rows of all speculations, one after another. Only pushed to, and addresses stay. In chunks that do not all start
    /// at the same place of a page: lanes would get in each other's way in the cache.
    looked: UnsafeCell<Arena<Looked<K, V>, 4800>>,
    /// Which speculation is at hand, and where its rows start.
    speculation: Cell<u32>,
    start: Cell<u32>,
    /// The hashes of the keys of the speculation at hand, in order; once there are many, also by hash.
    hashes: RefCell<Vec<u64>>,
    by_key: RefCell<HashTable<u32>>,
    scans: RefCell<Vec<Scan<K>>>,
}

impl<K: Key, V: Value> Overlay<K, V> {
    fn new() -> Self {
        Self {
            looked: UnsafeCell::new(Arena::new()),
            speculation: Cell::new(0),
            start: Cell::new(0),
            hashes: RefCell::default(),
            by_key: RefCell::new(HashTable::new()),
            scans: RefCell::default(),
        }
    }

    #[cold]
    fn begin(&self, speculation: u32) {
        self.speculation.set(speculation);
        // SAFETY: only a length is read, by the one thread that speculates.
        self.start.set(unsafe { &*self.looked.get() }.len() as u32);
        self.hashes.borrow_mut().clear();
        self.by_key.borrow_mut().clear();
    }

    #[inline]
    pub(crate) fn get(&self, number: u32) -> &Looked<K, V> {
        // SAFETY: items stay where they are until `clear`, which takes `&mut self`; pushing touches none of them.
        unsafe { (*self.looked.get()).at(number as usize).as_ref() }
    }

    #[inline]
    fn find(&self, key: &K, key_hash: u64) -> Option<u32> {
        let (hashes, start) = (self.hashes.borrow(), self.start.get());
        if hashes.len() <= FEW {
            let same = |(i, &hash): (u32, &u64)| hash == key_hash && self.get(start + i).key == *key;
            return (0..).zip(&*hashes).find(|&at| same(at)).map(|(i, _)| start + i);
        }
        let by_key = self.by_key.borrow();
        let same = |&i: &u32| hashes[i as usize] == key_hash && self.get(start + i).key == *key;
        by_key.find(key_hash, same).map(|i| start + i)
    }

    #[inline]
    fn push(&self, looked: Looked<K, V>, key_hash: u64) -> &Looked<K, V> {
        // SAFETY: no reference to the arena itself outlives a call; those to items stay good.
        let place = unsafe { (*self.looked.get()).push(looked) };
        let mut hashes = self.hashes.borrow_mut();
        hashes.push(key_hash);
        if hashes.len() > FEW {
            self.note_by_key(&hashes);
        }
        // SAFETY: as in `get`.
        unsafe { place.as_ref() }
    }

    #[cold]
    fn note_by_key(&self, hashes: &[u64]) {
        let mut by_key = self.by_key.borrow_mut();
        for i in by_key.len()..hashes.len() {
            by_key.insert_unique(hashes[i], i as u32, |&i| hashes[i as usize]);
        }
    }

    /// How many rows there are so far.
    fn len(&self) -> u32 {
        // SAFETY: as in `begin`.
        unsafe { &*self.looked.get() }.len() as u32
    }

    pub(crate) fn scans(&self) -> std::cell::Ref<'_, Vec<Scan<K>>> {
        self.scans.borrow()
    }
}

/// An [`Overlay`] without its types.
trait AnyOverlay: Send {
    fn clear(&mut self);
    /// Where the overlay is.
    fn place(&self) -> *const ();
}

impl<K: Key, V: Value> AnyOverlay for Overlay<K, V> {
    fn clear(&mut self) {
        self.looked.get_mut().clear();
        // Numbers start anew, whatever speculation comes next.
        self.speculation.set(0);
        self.scans.get_mut().clear();
    }

    fn place(&self) -> *const () {
        (&raw const *self).cast()
    }
}

// SAFETY: it owns its rows; pointers into tables are followed by the speculation's own thread only, while it runs.
unsafe impl<K: Key, V: Value> Send for Overlay<K, V> {}

/// An overlay, and what types it is of.
struct Typed {
    types: TypeId,
    overlay: Box<dyn AnyOverlay>,
}

/// Something that a speculation touched.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Touched {
    Row(TouchedRow),
    /// A granule was read as a whole.
    Granule {
        table: u16,
        hash: u64,
        /// Whether nobody was writing any row of it.
        still: bool,
    },
    /// The merge with this number was made into the row at this place among what was touched.
    Merge {
        row: u32,
        merge: u32,
    },
}

/// What one speculation after another touched, in all tables.
#[derive(Default)]
pub(crate) struct Overlays {
    tables: Vec<OnceCell<Typed>>,
    touched: UnsafeCell<Vec<Touched>>,
    merges: RefCell<Vec<Box<dyn AnyMerging>>>,
    /// Counts speculations.
    speculation: Cell<u32>,
    /// Where the speculation at hand starts in `touched`.
    start: Cell<u32>,
}

// SAFETY: cells are changed by the one driver that speculates, while it holds the overlays mutably or alone. Later,
// when others share them, only `Overlay::get` is used, and each row's value is touched by the one driver that
// executes the row's transaction (`is_current`, `adopt`).
unsafe impl Sync for Overlays {}
// SAFETY: the pointers to latches are followed while their store lives only, which is shared (`is_current`).
unsafe impl Send for Overlays {}

impl Overlays {
    pub(crate) fn clear(&mut self) {
        self.tables.iter_mut().filter_map(OnceCell::get_mut).for_each(|typed| typed.overlay.clear());
        self.touched.get_mut().clear();
        self.merges.get_mut().clear();
        self.speculation.set(0);
    }

    /// Starts a speculation in an engine with so many tables. Exclusive, though nothing but cells changes.
    pub(crate) fn start(&mut self, tables: usize) {
        if self.tables.len() < tables {
            self.tables.resize_with(tables, OnceCell::new);
        }
        self.speculation.set(self.speculation.get() + 1);
        self.start.set(self.touched.get_mut().len() as u32);
    }

    /// What the speculation at hand touched: a range for [`touched`](Self::touched).
    pub(crate) fn at_hand(&self) -> Range<u32> {
        self.start.get()..self.all_touched().len() as u32
    }

    fn all_touched(&self) -> &Vec<Touched> {
        // SAFETY: the callers keep no reference while something is added or changed.
        unsafe { &*self.touched.get() }
    }

    /// What a speculation touched. Not while one runs.
    pub(crate) fn touched(&self, range: Range<u32>) -> &[Touched] {
        &self.all_touched()[range.start as usize..range.end as usize]
    }

    /// What the transaction did with a row, to be read or changed.
    #[inline]
    fn at<R>(&self, touched: u32, look: impl FnOnce(&mut TouchedRow) -> R) -> R {
        // SAFETY: no reference to the list lives: they do not leave these methods while a speculation runs, and `look`
        // does not come back here.
        match unsafe { &mut (&mut *self.touched.get())[touched as usize] } {
            Touched::Row(row) => look(row),
            Touched::Granule { .. } | Touched::Merge { .. } => unreachable!("a row's place is its own"),
        }
    }

    /// What the transaction did with a row.
    #[inline]
    pub(crate) fn did<K, V>(&self, looked: &Looked<K, V>) -> Did {
        self.at(looked.touched, |row| row.did)
    }

    /// The row that a merge was made into.
    pub(crate) fn merged(&self, row: u32) -> &TouchedRow {
        match &self.all_touched()[row as usize] {
            Touched::Row(row) => row,
            Touched::Granule { .. } | Touched::Merge { .. } => unreachable!("a row's place is its own"),
        }
    }

    /// The overlay of a table, for the speculation at hand.
    #[inline]
    fn table<K: Key, V: Value>(&self, number: u16) -> &Overlay<K, V> {
        let typed = self.tables[usize::from(number)].get_or_init(|| Typed {
            types: TypeId::of::<Overlay<K, V>>(),
            overlay: Box::new(Overlay::<K, V>::new()),
        });
        let overlay = Self::typed::<K, V>(typed);
        let speculation = self.speculation.get();
        if overlay.speculation.get() != speculation {
            overlay.begin(speculation);
        }
        overlay
    }

    fn typed<K: Key, V: Value>(typed: &Typed) -> &Overlay<K, V> {
        assert_eq!(typed.types, TypeId::of::<Overlay<K, V>>(), "a table's number goes with its types");
        // SAFETY: the types were just compared.
        unsafe { &*typed.overlay.place().cast() }
    }

    /// The overlay of a table that has one, after its speculations.
    #[inline]
    pub(crate) fn of<K: Key, V: Value>(&self, number: u16) -> &Overlay<K, V> {
        Self::typed(self.tables[usize::from(number)].get().expect("something was touched in it"))
    }

    /// Whether a table has an overlay.
    pub(crate) fn has(&self, number: u16) -> bool {
        self.tables.get(usize::from(number)).is_some_and(|overlay| overlay.get().is_some())
    }

    #[inline]
    fn touch(&self, touched: Touched) -> u32 {
        // SAFETY: as in `at`.
        let all = unsafe { &mut *self.touched.get() };
        all.push(touched);
        all.len() as u32 - 1
    }

    /// A merge was made into a row.
    fn add_merge(&self, merging: Box<dyn AnyMerging>, row: u32) {
        let mut merges = self.merges.borrow_mut();
        self.touch(Touched::Merge { row, merge: merges.len() as u32 });
        merges.push(merging);
    }

    pub(crate) fn merge(&self, number: u32) -> &dyn AnyMerging {
        // SAFETY: nobody adds to the list while it is looked at: speculations are over by then.
        unsafe { &*(&*self.merges.as_ptr())[number as usize] }
    }

    /// A granule is read as a whole.
    fn read_granule(&self, table: u16, hash: u64, still: bool) {
        let known = |touched: &Touched| matches!(touched, Touched::Granule { table: t, hash: h, .. } if (*t, *h) == (table, hash));
        if !self.all_touched()[self.start.get() as usize..].iter().any(known) {
            self.touch(Touched::Granule { table, hash, still });
        }
    }
}

/// Who runs beside a speculation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Beside<'a> {
    /// Anybody, and windows may end meanwhile: what is looked at is pinned, and copied.
    Anybody,
    /// A driver speculates, beside the execution of a window that writes no more than this: no index gives back what it
    /// looks at, and what is not written can be looked at in place.
    Window { written: &'a Written, pause: Pause<'a> },
}

/// A transaction that runs on the state as of `at`, and keeps its changes in the overlays.
///
/// Its methods hand out references for as long as the overlays are borrowed. Their callers promise that values are
/// not changed while references to them live, as `&Tx` and `&mut Tx` do, and that the speculation ends with what runs
/// beside it.
#[derive(Clone, Copy)]
pub(crate) struct Speculative<'a> {
    pub(crate) overlays: &'a Overlays,
    pub(crate) at: Stamp,
    /// `None` for an interactive transaction.
    pub(crate) position: Option<Position>,
    pub(crate) beside: Beside<'a>,
}

impl<'a> Speculative<'a> {
    #[inline]
    fn note<K, V>(self, looked: &Looked<K, V>, note: impl FnOnce(&mut TouchedRow)) {
        self.overlays.at(looked.touched, note);
    }

    /// # Safety
    /// No change while the reference lives.
    #[inline]
    pub(crate) unsafe fn get<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        self,
        store: &TableStore<K, V, C>,
        key: &K,
    ) -> Option<&'a V> {
        let looked = store.look(key, self);
        self.note(looked, TouchedRow::note_read);
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
        self.note(looked, |row| {
            row.note_read();
            // Though there may be nothing to change now: at its position there may be.
            row.did.set(Did::WRITTEN);
        });
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
        self.note(looked, |row| {
            if row.did.has(Did::MERGED) {
                row.note_read();
            }
            row.did.unset(Did::ASKED);
            row.did.set(Did::WRITTEN);
        });
        // SAFETY: the caller's promise.
        unsafe { *looked.value.get() = Held::Own(Some(value)) };
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
        unsafe { *store.look(key, self).value.get() = Held::Own(None) };
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
        let accepts = V::accepts(unsafe { looked.value() }.as_ref());
        // An interactive transaction has no position: its merges are reads and writes.
        if !accepts || self.position.is_none() {
            self.note(looked, |row| {
                row.note_asked();
                row.did.set(Did::WRITTEN);
            });
        }
        if !accepts {
            return false;
        }
        // SAFETY: the caller's promise.
        V::merge(unsafe { looked.value_mut() }, delta.clone(), self.position.unwrap_or_default());
        let did = self.overlays.did(looked);
        if did.has(Did::WRITTEN) || did.has(Did::READ) {
            self.note(looked, |row| row.did.set(Did::WRITTEN));
        } else {
            self.note(looked, |row| row.did.set(Did::MERGED));
            let (number, key_hash) = (store.number(), store.key_hash(&key));
            let merging = Merging { table: *table, number, key_hash, key, delta };
            self.overlays.add_merge(Box::new(merging), looked.touched);
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
        // SAFETY: the caller's promise.
        let value = unsafe { looked.value() }.as_ref();
        let adds = V::accepts(value) && may_add(V::value(value), delta, floor);
        self.note(looked, |row| {
            row.note_read();
            if adds || self.position.is_some() {
                // Though there may be too little now: at its position there may be enough.
                row.did.set(Did::WRITTEN);
            }
        });
        if adds {
            // SAFETY: the caller's promise.
            V::merge(unsafe { looked.value_mut() }, delta, self.position.unwrap_or_default());
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
        self.note(looked, TouchedRow::note_asked);
        // SAFETY: the caller's promise.
        V::accepts(unsafe { looked.value() }.as_ref())
    }

    /// The rows of `range`: those of the state, with the transaction's own changes.
    pub(crate) fn range<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        self,
        store: &'a TableStore<K, V, C>,
        range: &impl RangeBounds<K>,
    ) -> Through<'a, K, V, C> {
        store.look_through(range, self)
    }
}

/// What a look at a row found: what is held, where and of when it is, and whether it is still.
type Found<V> = (Held<V>, Option<(RowId, Stamp)>, bool);

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> TableStore<K, V, C> {
    /// The row as the speculation at hand sees it: as it saw it before, or as of `at`.
    #[inline]
    fn look<'o>(&self, key: &K, tx: Speculative<'o>) -> &'o Looked<K, V> {
        let overlay = tx.overlays.table::<K, V>(self.number());
        let key_hash = self.key_hash(key);
        if let Some(number) = overlay.find(key, key_hash) {
            return overlay.get(number);
        }
        let found = match tx.beside {
            Beside::Window { written, pause } => {
                let hint = if pause.is_possible() { self.fetch_and_pause(key_hash, pause) } else { None };
                self.look_in_window(key, key_hash, hint, tx.at, written)
            }
            Beside::Anybody => match self.find_at(key, key_hash, tx.at) {
                Some((id, stamp, value)) => (Held::Own(Some(value)), Some((id, stamp)), false),
                None => (Held::Own(None), None, false),
            },
        };
        self.add(key.clone(), key_hash, found, tx.overlays)
    }

    /// Asks the cache for the index's slot and for the row, and gives way to others until they are there; returns the
    /// row that it most likely is.
    #[inline]
    fn fetch_and_pause(&self, key_hash: u64, pause: Pause<'_>) -> Option<RowId> {
        self.prefetch_index(key_hash);
        pause.pause();
        let id = self.locate(key_hash)?;
        self.fetch_row(id);
        pause.pause();
        Some(id)
    }

    #[inline]
    fn look_in_window(
        &self,
        key: &K,
        key_hash: u64,
        hint: Option<RowId>,
        at: Stamp,
        written: &Written,
    ) -> Found<V> {
        // SAFETY: rows in the index exist until the window ends.
        let hint = hint.filter(|&id| unsafe { self.row(id).key() == key });
        let Some(id) = hint.or_else(|| self.find(key, key_hash)) else {
            let unit = match self.conflicts {
                Conflicts::Grouped { .. } => self.granule_of(key),
                Conflicts::Rows | Conflicts::Watched(_) | Conflicts::Ranges => key_hash,
            };
            return (Held::Own(None), None, !written.may_hold(unit));
        };
        if let Some((value, stamp)) = self.still(id, at, written) {
            return (Held::InPlace(value), Some((id, stamp)), true);
        }
        let (value, seen) = self.at(id, at, |_, value, stamp| (value.clone(), (id, stamp))).unzip();
        (Held::Own(value), seen, false)
    }

    /// A copy of the row as of `at`, for whoever speculates with such neighbours.
    pub(crate) fn peek(&self, key: &K, at: Stamp, beside: Beside<'_>) -> Option<V> {
        let key_hash = self.key_hash(key);
        match beside {
            Beside::Anybody => self.find_at(key, key_hash, at).map(|(_, _, value)| value),
            Beside::Window { written, .. } => match self.look_in_window(key, key_hash, None, at, written).0 {
                Held::Own(value) => value,
                // SAFETY: nobody writes it while the window is executed.
                Held::InPlace(value) => unsafe { value.as_ref() }.clone(),
            },
        }
    }

    /// The value in place of a row that nobody writes while a window is executed, and its stamp. For drivers that
    /// speculate.
    #[inline]
    fn still(&self, id: RowId, at: Stamp, written: &Written) -> Option<(NonNull<Option<V>>, Stamp)> {
        let row = self.row(id);
        let stamp = row.latch.stamp();
        // SAFETY: rows in the index exist until the window ends, and with them their units.
        let unit = unsafe { row.unit() };
        // Who writes a row has declared the unit that the row itself names (the guard compares), or runs alone, and
        // then all is written.
        if stamp > at || written.may_hold(unit) {
            return None;
        }
        // SAFETY: nobody writes it.
        Some((NonNull::from(unsafe { row.value() }), stamp))
    }

    /// The same for a row that will be overwritten whatever it holds: nothing is looked up.
    fn look_away<'o>(&self, key: K, overlays: &'o Overlays) -> &'o Looked<K, V> {
        let overlay = overlays.table::<K, V>(self.number());
        let key_hash = self.key_hash(&key);
        match overlay.find(&key, key_hash) {
            Some(number) => overlay.get(number),
            None => self.add(key, key_hash, (Held::Own(None), None, false), overlays),
        }
    }

    #[inline]
    fn add<'o>(&self, key: K, key_hash: u64, found: Found<V>, overlays: &'o Overlays) -> &'o Looked<K, V> {
        let overlay = overlays.table::<K, V>(self.number());
        let (value, seen, still) = found;
        let (latch, row, stamp) = match seen {
            Some((id, stamp)) => (Some(NonNull::from(&self.row(id).latch)), id, stamp),
            None => (None, NOWHERE, Stamp::FREE),
        };
        let did = if still { Did::STILL } else { Did(0) };
        let row =
            TouchedRow { key_hash, latch, stamp, row, number: overlay.len(), table: self.number(), did };
        let touched = overlays.touch(Touched::Row(row));
        overlay.push(Looked { key, touched, value: UnsafeCell::new(value) }, key_hash)
    }

    /// The rows of `range` as the speculation at hand sees them: those of `at`, with its own changes.
    fn look_through<'a, R>(&'a self, range: &R, tx: Speculative<'a>) -> Through<'a, K, V, C>
    where
        R: RangeBounds<K>,
    {
        let overlay = tx.overlays.table::<K, V>(self.number());
        let changed = |looked: &&Looked<K, V>| {
            let did = tx.overlays.did(looked);
            (did.has(Did::WRITTEN) || did.has(Did::MERGED)) && range.contains(&looked.key)
        };
        let all = (overlay.start.get()..overlay.len()).map(|number| overlay.get(number));
        let mut own: Vec<K> = all.filter(changed).map(|looked| looked.key.clone()).collect();
        own.sort_unstable();
        // A driver is not asked which rows its speculation saw.
        let scan = matches!(tx.beside, Beside::Anybody).then(|| {
            let (from, to) = (range.start_bound().cloned(), range.end_bound().cloned());
            let mut scans = overlay.scans.borrow_mut();
            scans.push(Scan { from, to, front: None, back: None, all: false });
            scans.len() - 1
        });
        let rows = match tx.beside {
            Beside::Window { .. } => self.row_ids(range),
            Beside::Anybody => self.row_ids_pinned(range),
        };
        Through { store: self, tx, rows, front: None, back: None, own: own.into(), scan }
    }

    /// Whether there is no row of a key of which the speculation saw none.
    ///
    /// # Safety
    /// The schedule allows the caller to read the row, and the caller executes the transaction of the speculation.
    pub(crate) unsafe fn is_absent(&self, overlays: &Overlays, touched: &TouchedRow) -> bool {
        let looked = overlays.of::<K, V>(self.number()).get(touched.number);
        let id = self.find(&looked.key, touched.key_hash);
        // SAFETY: the caller may read the row.
        id.is_none_or(|id| unsafe { self.row(id).value().is_none() })
    }

    /// Makes the speculation's change of a row that it changed.
    ///
    /// # Safety
    /// As for [`save`](Self::save), and the caller executes the transaction of the speculation.
    pub(crate) unsafe fn adopt(
        &self,
        worker: &mut Worker,
        overlays: &Overlays,
        touched: &TouchedRow,
        window: Stamp,
        me: Stamp,
    ) {
        let looked = overlays.of::<K, V>(self.number()).get(touched.number);
        // SAFETY: only the caller is here, once: a window's transaction is executed in parallel only once.
        let Held::Own(value) = (unsafe { &mut *looked.value.get() }) else { return };
        let value = value.take();
        // SAFETY: the caller may read the row.
        let id = match unsafe { touched.is_current() } {
            Some(true) => Some(touched.row),
            _ => self.find(&looked.key, touched.key_hash),
        };
        let id = match id {
            Some(id) => id,
            None if value.is_none() => return,
            None => {
                let (unit, granule) = self.unit_and_granule(&looked.key, touched.key_hash);
                self.create(worker, looked.key.clone(), touched.key_hash, unit, granule)
            }
        };
        // SAFETY: the caller's promise.
        unsafe {
            self.save(worker, id, window, me);
            *self.row(id).value_mut() = value;
        }
    }
}

/// A row taken from one end of a range and not yet given out: its key, and its value if it is looked at in place.
struct Pulled<K, V> {
    key: K,
    value: Option<NonNull<V>>,
}

/// See [`TableStore::look_through`].
pub(crate) struct Through<'a, K: Key, V: Value, C: Codec<K> + Codec<V>> {
    store: &'a TableStore<K, V, C>,
    tx: Speculative<'a>,
    rows: super::table_store::RowIds<'a, K>,
    front: Option<Pulled<K, V>>,
    back: Option<Pulled<K, V>>,
    /// Keys that the speculation wrote or merged into, in order.
    own: VecDeque<K>,
    scan: Option<usize>,
}

impl<'a, K: Key, V: Value, C: Codec<K> + Codec<V>> Through<'a, K, V, C> {
    /// The next row of the state from one end. If it is not looked at in place, it is in the overlay then.
    fn pull(&mut self, from_back: bool) -> Option<Pulled<K, V>> {
        let (store, tx) = (self.store, self.tx);
        loop {
            let visit = &mut |granule| {
                let still = matches!(tx.beside, Beside::Window { written, .. } if !written.may_hold(granule));
                tx.overlays.read_granule(store.number(), granule, still);
            };
            let id = if from_back { self.rows.next_back(visit) } else { self.rows.next(visit) };
            let Some(id) = id else {
                return if from_back { self.front.take() } else { self.back.take() };
            };
            self.rows.ahead(from_back).iter().for_each(|&id| store.fetch_row(id));
            if let Beside::Window { written, .. } = tx.beside
                && let Some((value, _)) = store.still(id, tx.at, written)
            {
                // SAFETY: nobody writes it while the speculation runs; the row exists until the window ends.
                let (key, value) = unsafe { (store.row(id).key(), value.as_ref()) };
                if let Some(value) = value {
                    return Some(Pulled { key: key.clone(), value: Some(NonNull::from(value)) });
                }
            } else if let Some((key, stamp, value)) = store.copy_at(id, tx.at) {
                let key_hash = store.key_hash(&key);
                if tx.overlays.table::<K, V>(store.number()).find(&key, key_hash).is_none() {
                    let found = (Held::Own(Some(value)), Some((id, stamp)), false);
                    store.add(key.clone(), key_hash, found, tx.overlays);
                }
                return Some(Pulled { key, value: None });
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
                (Some(row), Some(own)) if from_back => own.cmp(&row.key),
                (Some(row), Some(own)) => row.key.cmp(own),
            };
            let mut pulled = None;
            if order.is_le() {
                pulled = taken.take();
            }
            if order.is_ge() {
                let key = if from_back { self.own.pop_back() } else { self.own.pop_front() };
                // What it wrote itself counts.
                pulled = key.map(|key| Pulled { key, value: None });
            }
            let Pulled { key, value } = pulled.expect("one of them was there");
            self.note(|scan| *(if from_back { &mut scan.back } else { &mut scan.front }) = Some(key.clone()));
            if let Some(value) = value {
                // SAFETY: nobody writes the row while the speculation runs, and it wrote no copy of its own.
                return Some((key, unsafe { value.as_ref() }));
            }
            let looked = self.store.look_away(key.clone(), self.tx.overlays);
            if self.tx.overlays.did(looked).has(Did::MERGED) {
                self.tx.note(looked, TouchedRow::note_read);
            }
            // SAFETY: shared for as long as the transaction is borrowed for `'a`; changes need it mutably.
            if let Some(value) = unsafe { looked.value() } {
                return Some((key, value));
            }
        }
    }

    fn note(&self, change: impl FnOnce(&mut Scan<K>)) {
        if let Some(scan) = self.scan {
            change(&mut self.tx.overlays.table::<K, V>(self.store.number()).scans.borrow_mut()[scan]);
        }
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
