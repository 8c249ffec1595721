//! How a speculation comes by a row: in place, or as a copy, or without looking; and how its changes become those of the
//! transaction.

use std::cell::UnsafeCell;
use std::ptr::NonNull;

use super::did::{Did, TouchedRow};
use super::speculative::{Beside, Speculative};
use super::table::{Held, Looked};
use super::{Overlays, Touched};
use crate::ahead::Pause;
use crate::codec::Codec;
use crate::footprint::NOWHERE;
use crate::store::row::Stamp;
use crate::store::slab::RowId;
use crate::store::written::Written;
use crate::store::{AnyTable, TableStore, Worker};
use crate::table::{Conflicts, Key, Value};

/// What a look at a row found: what is held, where and of when it is, and whether it is still.
type Found<V> = (Held<V>, Option<(RowId, Stamp)>, bool);

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> TableStore<K, V, C> {
    /// The row as the speculation at hand sees it: as it saw it before, or as of `at`.
    #[inline]
    pub(super) fn look<'o>(&self, key: &K, tx: Speculative<'o>) -> &'o Looked<K, V> {
        let overlay = tx.overlays.table::<K, V>(self.number());
        let key_hash = self.key_hash(key);
        if let Some(number) = overlay.find(key, key_hash) {
            return overlay.get(number);
        }
        let found = match tx.beside {
            Beside::Window { written, pause, .. } => {
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
            // SAFETY: nobody writes it while the speculation runs.
            if unsafe { value.as_ref() }.is_none() {
                // As if there were no row: it may be buried when the transaction is executed.
                return (Held::Own(None), None, true);
            }
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
    pub(super) fn still(
        &self,
        id: RowId,
        at: Stamp,
        written: &Written,
    ) -> Option<(NonNull<Option<V>>, Stamp)> {
        let row = self.row(id);
        let stamp = row.latch.stamp();
        let unit = row.unit();
        // Who writes a row has declared the unit that the row itself names (the guard compares), or runs alone, and
        // then all is written.
        if stamp > at || written.may_hold(unit) {
            return None;
        }
        // SAFETY: nobody writes it before all drivers have met, this one included.
        Some((NonNull::from(unsafe { row.value() }), stamp))
    }

    /// The same for a row that will be overwritten whatever it holds: nothing is looked up.
    pub(super) fn look_away<'o>(&self, key: K, overlays: &'o Overlays) -> &'o Looked<K, V> {
        let overlay = overlays.table::<K, V>(self.number());
        let key_hash = self.key_hash(&key);
        match overlay.find(&key, key_hash) {
            Some(number) => overlay.get(number),
            None => self.add(key, key_hash, (Held::Own(None), None, false), overlays),
        }
    }

    #[inline]
    pub(super) fn add<'o>(
        &self,
        key: K,
        key_hash: u64,
        found: Found<V>,
        overlays: &'o Overlays,
    ) -> &'o Looked<K, V> {
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
