//! A transaction that speculates: its reads and changes of rows, as a [`Tx`](crate::Tx) asks for them.

use std::ops::RangeBounds;

use mixlog_log::Position;

use super::Overlays;
use super::did::{Did, TouchedRow};
use super::table::{Held, Looked};
use super::through::Through;
use crate::ahead::Pause;
use crate::bounded::{Counter, may_add};
use crate::codec::Codec;
use crate::merge::Merge;
use crate::store::TableStore;
use crate::store::merging::Merging;
use crate::store::row::Stamp;
use crate::store::written::Written;
use crate::table::{Key, Table, Value};
use crate::tx::ByTable;

/// Who runs beside a speculation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Beside<'a> {
    /// Anybody, and windows may end meanwhile: what is looked at is pinned, and copied.
    Anybody,
    /// A driver speculates, beside the execution of a window that writes no more than this: no index gives back what it
    /// looks at, and what is not written can be looked at in place.
    /// Where those before it found no rows, `absent` knows, if it is looked for ([`super::absent`]).
    Window { written: &'a Written, pause: Pause<'a>, absent: Option<&'a ByTable> },
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
    pub(super) fn note<K, V>(self, looked: &Looked<K, V>, note: impl FnOnce(&mut TouchedRow)) {
        self.overlays.at(looked.touched, note);
    }

    /// The speculation changes the row: its ranges have to show that.
    #[inline]
    fn changes<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        self,
        store: &TableStore<K, V, C>,
        looked: &Looked<K, V>,
        is_put: bool,
    ) {
        if store.is_ordered() {
            let overlay = self.overlays.table::<K, V>(store.number());
            overlay.changed.borrow_mut().push(self.overlays.at(looked.touched, |row| row.number));
            if is_put {
                overlay.gaps.borrow_mut().split(|| store.space_of(&looked.key), &looked.key);
            }
        }
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
        self.changes(store, looked, false);
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
        self.changes(store, looked, true);
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
        self.changes(store, looked, true);
        if !accepts {
            return false;
        }
        // SAFETY: the caller's promise.
        V::merge(unsafe { looked.value_mut() }, delta.clone(), self.merges_at());
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

    /// The position that a merge is told. An interactive transaction has none yet: it is the first one behind all that it
    /// sees, and none that merges into the same row is told one between that and where it commits, or it conflicts.
    pub(crate) fn merges_at(&self) -> Position {
        self.position.unwrap_or_else(|| self.at.tail())
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
        self.changes(store, looked, adds);
        if adds {
            // SAFETY: the caller's promise.
            V::merge(unsafe { looked.value_mut() }, delta, self.merges_at());
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
