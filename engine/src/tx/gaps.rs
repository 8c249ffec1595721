//! Where transactions at their positions found no rows, by table; see [`crate::gaps`].
//!
//! Where a window is executed one by one, a transaction that commits leaves what it found to the next ones of its window,
//! so that each of many that take from the front of a queue need not go through what the others took. One that does not
//! commit leaves nothing: what it deleted comes back. Of what is put both are told.

use std::any::Any;
use std::cell::RefMut;
use std::ops::Bound;

use mixlog_mixer::Mode;

use super::{ByTable, Guard, InPlace};
use crate::codec::Codec;
use crate::gaps::{Run, Spaces};
use crate::panics::caught;
use crate::store::{RowIds, Store, TableStore, Worker};
use crate::table::{Key, Value};

/// What a walk may leave out.
pub(super) struct Known<'a, K> {
    /// Of the granule that the walk is in, or the table.
    space: u64,
    /// As those who committed found.
    all: Option<RefMut<'a, Spaces<K>>>,
    /// And this transaction.
    own: Option<RefMut<'a, Spaces<K>>>,
}

impl<K: Key> Known<'_, K> {
    pub(super) const fn space(&self) -> u64 {
        self.space
    }

    /// A walk meets a row without a value, not one of the first few: goes on behind others that are known to have none.
    #[inline]
    pub(super) fn pass<V: Value, C: Codec<K> + Codec<V>>(
        &self,
        tx: &InPlace<'_>,
        store: &TableStore<K, V, C>,
        run: &mut Run<K>,
        key: &K,
        rows: &mut RowIds<'_, K>,
        from_back: bool,
    ) {
        run.meet_late(key);
        let end =
            |gaps: &'_ Option<RefMut<'_, Spaces<K>>>| gaps.as_ref()?.end(self.space, key, from_back).cloned();
        if let Some(end) = end(&self.all).or_else(|| end(&self.own)) {
            tx.meet_granules(store, rows.rest_to(&end, from_back));
            rows.skip_to(&end, from_back, |id| {
                // SAFETY: rows in the index exist until the window ends.
                let key = unsafe { store.row(id).key() };
                if from_back { *key > end } else { *key < end }
            });
        }
    }
}

impl InPlace<'_> {
    /// A row of its own may be there now.
    #[inline]
    pub(super) fn put_at<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
        key: &K,
    ) {
        for gaps in [&self.worker.gaps, &self.gaps] {
            if !gaps.is_empty()
                && let Some(mut gaps) = gaps.get::<Spaces<K>>(store.number())
            {
                gaps.split(|| store.space_of(key), key);
            }
        }
    }

    /// Tells a guard that notes of the leaves that a walk leaves out: those of keys that it would have taken otherwise, and
    /// not of all keys that are known to have no row, which may lie far beyond its range.
    fn meet_granules<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
        left_out: Option<(Bound<&K>, Bound<&K>)>,
    ) {
        // It notes the first violation only.
        if matches!(self.guard, Guard::Note(_))
            && self.violation.get().is_none()
            && let Some(left_out) = left_out
        {
            store.granules_of_range(&left_out, |_, granule, _| {
                let is_declared = self.declared(store.number(), granule, Mode::Read).is_some();
                if !is_declared {
                    self.violated(store);
                }
                is_declared
            });
        }
    }

    /// Nothing else may be asked for gaps meanwhile.
    #[cold]
    pub(super) fn gaps_of<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
        key: &K,
    ) -> Known<'_, K> {
        let all = self.worker.gaps.get(store.number());
        Known { space: store.space_of(key), all, own: self.gaps.get(store.number()) }
    }

    /// Remembers what a walk met in the space of what it knew.
    pub(super) fn add_gap<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
        space: u64,
        run: Run<K>,
    ) {
        if run.is_worth_it() {
            self.gaps.of::<Spaces<K>>(store.number()).add(|| space, run);
        }
    }
}

/// Leaves to the next transactions of the window what one found that commits.
#[inline]
pub(super) fn leave(store: &Store, worker: &mut Worker, found: ByTable) {
    if !found.is_empty() && worker.is_alone {
        leave_all(store, worker, found);
    }
}

#[cold]
fn leave_all(store: &Store, worker: &mut Worker, found: ByTable) {
    // Keys are compared and copied, by code of theirs.
    let left = caught(|| {
        for (table, found) in found.into_all() {
            store.any(table).leave_gaps(&worker.gaps, found);
        }
    });
    if left.is_err() {
        worker.gaps.clear();
    }
}

/// The same for a table.
pub(crate) fn leave_in<K: Key>(number: u16, all: &ByTable, found: Box<dyn Any + Send>) {
    let found = found.downcast::<Spaces<K>>().expect("a table's number goes with its types");
    all.of::<Spaces<K>>(number).add_all(*found);
}
