//! Ranges as a speculation sees them: the rows of the state, with its own changes among them.

use std::ops::{Bound, RangeBounds};
use std::ptr::NonNull;

use super::absent::{Absent, Walk};
use super::did::{Did, TouchedRow};
use super::speculative::{Beside, Speculative};
use super::table::{Held, Overlay, Scan};
use crate::codec::Codec;
use crate::gaps::Run;
use crate::store::leaf_index::{is_empty, narrow};
use crate::store::table_store::{RangeAt, RowAt};
use crate::store::{RowIds, TableStore};
use crate::table::{Key, Value};

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> TableStore<K, V, C> {
    /// The rows of `range` as the speculation at hand sees them: those of `at`, with its own changes.
    pub(super) fn look_through<'a, R>(&'a self, range: &R, tx: Speculative<'a>) -> Through<'a, K, V, C>
    where
        R: RangeBounds<K>,
    {
        let overlay = tx.overlays.table::<K, V>(self.number());
        let bounds = || (range.start_bound().cloned(), range.end_bound().cloned());
        let own = (!overlay.own().is_empty())
            .then(bounds)
            .filter(|(from, to)| !is_empty(from.as_ref(), to.as_ref()));
        let space = own.as_ref().map(|_| self.space_of_range(range));
        // A driver is not asked which rows its speculation saw.
        let scan = matches!(tx.beside, Beside::Anybody).then(|| {
            let (from, to) = bounds();
            let mut scans = overlay.scans.borrow_mut();
            scans.push(Scan { from, to, front: None, back: None, all: false });
            scans.len() - 1
        });
        let rows = match tx.beside {
            Beside::Window { .. } => State::Window(self.row_ids(range)),
            Beside::Anybody => State::Past(self.range_at(range, tx.at)),
        };
        Through {
            store: self,
            tx,
            rows,
            front: None,
            back: None,
            own,
            own_front: None,
            own_back: None,
            scan,
            walk: Walk::new(),
            space,
        }
    }
}

/// A row taken from one end of a range and not yet given out: its key, and its value if it is looked at in place.
struct Pulled<K, V> {
    key: K,
    value: Option<NonNull<V>>,
}

/// The rows of the state.
enum State<'a, K: Key, V: Value, C: Codec<K> + Codec<V>> {
    /// Looked at in place where nobody writes them, by a driver.
    Window(RowIds<'a, K>),
    Past(RangeAt<'a, K, V, C>),
}

/// See [`TableStore::look_through`].
pub(crate) struct Through<'a, K: Key, V: Value, C: Codec<K> + Codec<V>> {
    store: &'a TableStore<K, V, C>,
    tx: Speculative<'a>,
    rows: State<'a, K, V, C>,
    front: Option<Pulled<K, V>>,
    back: Option<Pulled<K, V>>,
    /// Where keys that the speculation wrote or merged into may come yet; and those that come next.
    own: Option<(Bound<K>, Bound<K>)>,
    own_front: Option<K>,
    own_back: Option<K>,
    scan: Option<usize>,
    /// On its way through keys at which the state has no rows.
    walk: Walk<K>,
    /// See [`Spaces`](crate::gaps::Spaces); once it was asked for, and where there are own keys.
    space: Option<u64>,
}

impl<'a, K: Key, V: Value, C: Codec<K> + Codec<V>> Through<'a, K, V, C> {
    /// About so many rows are wanted, from the front.
    pub(crate) fn hint(&mut self, wanted: usize) {
        if let State::Window(rows) = &mut self.rows {
            rows.hint(wanted);
        }
    }

    /// The next row of the state from one end. If it is not looked at in place, it is in the overlay then.
    fn pull(&mut self, from_back: bool, empty: &mut Run<K>) -> Option<Pulled<K, V>> {
        let (store, overlays) = (self.store, self.tx.overlays);
        let pulled = if let State::Past(rows) = &mut self.rows {
            let row =
                rows.step(from_back, &mut |granule| overlays.read_granule(store.number(), granule, false));
            row.map(|row| self.pulled(row))
        } else {
            self.pull_in_window(from_back, empty)
        };
        pulled.or_else(|| if from_back { self.front.take() } else { self.back.take() })
    }

    fn pull_in_window(&mut self, from_back: bool, empty: &mut Run<K>) -> Option<Pulled<K, V>> {
        let (store, tx) = (self.store, self.tx);
        let found = loop {
            let (State::Window(rows), Beside::Window { written, .. }) = (&mut self.rows, tx.beside) else {
                unreachable!("only who speculates beside a window looks at its rows in place")
            };
            let walk = &mut self.walk;
            walk.step(from_back);
            let visit = &mut |granule| {
                tx.overlays.read_granule(store.number(), granule, !written.may_hold(granule));
                walk.enter(granule);
            };
            let Some(id) = (if from_back { rows.next_back(visit) } else { rows.next(visit) }) else {
                break None;
            };
            rows.ahead(from_back).iter().for_each(|&id| store.fetch_row(id));
            if let Some((value, _)) = store.still(id, tx.at, written) {
                // SAFETY: nobody writes it while the speculation runs; the row exists until the window ends.
                let (key, value) = unsafe { (store.row(id).key(), value.as_ref()) };
                if let Some(value) = value {
                    break Some(Pulled { key: key.clone(), value: Some(NonNull::from(value)) });
                }
                self.pass_in_state(empty, key, from_back);
            } else if let Some((key, stamp, value)) = store.copy_at(id, tx.at) {
                break Some(self.pulled((id, key, stamp, value)));
            } else if let Some(key) = store.key_of(id) {
                self.pass_in_state(empty, &key, from_back);
            }
        };
        self.leave_absent();
        found
    }

    /// A copy of a row of the state, which the overlay keeps unless it knows the row.
    fn pulled(&self, (id, key, stamp, value): RowAt<K, V>) -> Pulled<K, V> {
        let key_hash = self.store.key_hash(&key);
        if self.overlay().find(&key, key_hash).is_none() {
            let found = (Held::Own(Some(value)), Some((id, stamp)), false);
            self.store.add(key.clone(), key_hash, found, self.tx.overlays);
        }
        Pulled { key, value: None }
    }

    /// Meets a key without a row: goes on behind others that are known to have none.
    fn pass(&mut self, empty: &mut Run<K>, key: &K, from_back: bool) {
        if empty.meet_early() {
            return;
        }
        empty.meet_late(key);
        let (overlay, space) = (self.overlay(), self.space(key));
        let gaps = overlay.gaps.borrow();
        if let Some(end) = gaps.end(space, key, from_back) {
            // The state has rows there that the transaction deleted.
            self.leave_absent();
            let is_before = |key: &K| if from_back { key > end } else { key < end };
            let store = self.store;
            match &mut self.rows {
                State::Window(rows) => {
                    rows.skip_to(end, from_back, |id| store.key_of(id).is_some_and(|key| is_before(&key)))
                }
                State::Past(rows) => rows.skip_to(end, from_back),
            }
            self.front.take_if(|pulled| is_before(&pulled.key));
            self.back.take_if(|pulled| is_before(&pulled.key));
            let own = if from_back { &mut self.own_back } else { &mut self.own_front };
            own.take_if(|own| is_before(own));
            narrow(&mut self.own, Bound::Included(end.clone()), from_back);
        }
    }

    /// The same for a key at which the state has no row. The transaction may have put one there, or at one before it that
    /// did not come yet.
    fn pass_in_state(&mut self, empty: &mut Run<K>, key: &K, from_back: bool) {
        if self.pass_absent(key, from_back) {
            return;
        }
        self.peek_own(from_back);
        let own = if from_back { &self.own_back } else { &self.own_front };
        if own.as_ref().is_none_or(|own| if from_back { own < key } else { own > key }) {
            self.pass(empty, key, from_back);
        }
    }

    /// Goes on behind others at which the state has no rows either, if another speculation of the lane has gone that way;
    /// tells whether it did. What the transaction put there comes all the same.
    #[inline]
    fn pass_absent(&mut self, key: &K, from_back: bool) -> bool {
        if self.walk.meet_early() {
            return false;
        }
        let space = self.space(key);
        let (State::Window(rows), Beside::Window { written, absent: Some(absent), .. }) =
            (&mut self.rows, self.tx.beside)
        else {
            return false;
        };
        let (store, overlays) = (self.store, self.tx.overlays);
        let absent = absent.of::<Absent<K>>(store.number());
        let walk = &mut self.walk;
        let reads = |granule| overlays.read_granule(store.number(), granule, !written.may_hold(granule));
        let wanted = |last: &K| rows.reaches(last);
        let Some(end) = walk.meet(key, space, &absent, wanted, reads) else { return false };
        let is_before = |key: &K| if from_back { *key > end } else { *key < end };
        rows.skip_to(&end, from_back, |id| store.key_of(id).is_some_and(|key| is_before(&key)));
        true
    }

    /// Leaves to others where the state had no rows so far: there is one now, or the end.
    #[inline]
    fn leave_absent(&mut self) {
        if let Some(left) = self.walk.end()
            && let Beside::Window { absent: Some(absent), .. } = self.tx.beside
        {
            left.to(|key| self.store.space_of(key), &mut absent.of::<Absent<K>>(self.store.number()));
        }
    }

    /// The space that the walk is in.
    fn space(&mut self, key: &K) -> u64 {
        *self.space.get_or_insert_with(|| self.store.space_of(key))
    }

    fn overlay(&self) -> &'a Overlay<K, V> {
        self.tx.overlays.table::<K, V>(self.store.number())
    }

    /// The key that comes next from one end among those that the speculation changed.
    fn peek_own(&mut self, from_back: bool) {
        let next = if from_back { &mut self.own_back } else { &mut self.own_front };
        if next.is_none()
            && let Some((from, to)) = &self.own
        {
            let own = self.tx.overlays.table::<K, V>(self.store.number()).own();
            let own = own.range((from.as_ref(), to.as_ref()));
            // Those of other granules may lie in between.
            let mut own = own.filter(|key| self.space == Some(self.store.space_of(key)));
            *next = if from_back { own.next_back() } else { own.next() }.cloned();
            if next.is_none() {
                self.own = None;
            }
        }
    }

    /// Takes it.
    fn pop_own(&mut self, from_back: bool) -> Option<K> {
        let (next, other) = if from_back {
            (&mut self.own_back, &mut self.own_front)
        } else {
            (&mut self.own_front, &mut self.own_back)
        };
        let key = next.take()?;
        other.take_if(|other| *other == key);
        narrow(&mut self.own, Bound::Excluded(key.clone()), from_back);
        Some(key)
    }

    fn step(&mut self, from_back: bool) -> Option<(K, &'a V)> {
        let mut empty = Run::new();
        let found = loop {
            if from_back {
                self.back = self.back.take().or_else(|| self.pull(true, &mut empty));
            } else {
                self.front = self.front.take().or_else(|| self.pull(false, &mut empty));
            }
            self.peek_own(from_back);
            let (taken, own) =
                if from_back { (&mut self.back, &self.own_back) } else { (&mut self.front, &self.own_front) };
            let order = match (&*taken, own) {
                (None, None) => {
                    self.note(|scan| scan.all = true);
                    break None;
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
                // What it wrote itself counts.
                pulled = self.pop_own(from_back).map(|key| Pulled { key, value: None });
            }
            let Pulled { key, value } = pulled.expect("one of them was there");
            self.note(|scan| *(if from_back { &mut scan.back } else { &mut scan.front }) = Some(key.clone()));
            if let Some(value) = value {
                // SAFETY: nobody writes the row while the speculation runs, and it wrote no copy of its own.
                break Some((key, unsafe { value.as_ref() }));
            }
            let looked = self.store.look_away(key.clone(), self.tx.overlays);
            if self.tx.overlays.did(looked).has(Did::MERGED) {
                self.tx.note(looked, TouchedRow::note_read);
            }
            // SAFETY: shared for as long as the transaction is borrowed for `'a`; changes need it mutably.
            if let Some(value) = unsafe { looked.value() } {
                break Some((key, value));
            }
            self.pass(&mut empty, &key, from_back);
        };
        self.overlay().gaps.borrow_mut().add(|| self.space.unwrap_or_default(), empty);
        found
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
