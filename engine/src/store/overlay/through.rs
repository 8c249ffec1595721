//! Ranges as a speculation sees them: the rows of the state, with its own changes among them.

use std::collections::VecDeque;
use std::ops::RangeBounds;
use std::ptr::NonNull;

use super::did::{Did, TouchedRow};
use super::speculative::{Beside, Speculative};
use super::table::{Held, Looked, Scan};
use crate::codec::Codec;
use crate::store::{RowIds, TableStore};
use crate::table::{Key, Value};

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> TableStore<K, V, C> {
    /// The rows of `range` as the speculation at hand sees them: those of `at`, with its own changes.
    pub(super) fn look_through<'a, R>(&'a self, range: &R, tx: Speculative<'a>) -> Through<'a, K, V, C>
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
    rows: RowIds<'a, K>,
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
