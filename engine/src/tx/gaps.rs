//! Where a transaction at its position found no rows, by table; see [`crate::gaps`].

use super::InPlace;
use crate::codec::Codec;
use crate::gaps::{Gaps, Run};
use crate::store::{RowIds, TableStore};
use crate::table::{Key, Value};

impl InPlace<'_> {
    /// A walk meets a row without a value: goes on behind others that are known to have none.
    #[inline]
    pub(super) fn pass<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
        run: &mut Run<K>,
        key: &K,
        rows: &mut RowIds<'_, K>,
        from_back: bool,
    ) {
        if run.meet_early() {
            return;
        }
        self.gaps_of(store, |gaps| {
            if let Some(end) = run.meet(key, from_back, gaps) {
                rows.skip_to(end, from_back, |id| {
                    // SAFETY: rows in the index exist until the window ends.
                    let key = unsafe { store.row(id).key() };
                    if from_back { key > end } else { key < end }
                });
            }
        });
    }

    /// A walk met so many rows without a value.
    #[cold]
    pub(super) fn remember<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
        run: Run<K>,
    ) {
        self.gaps_of(store, |gaps| gaps.add(run));
    }

    /// A row of its own may be there now.
    #[inline]
    pub(super) fn put_at<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
        key: &K,
    ) {
        if !self.gaps.is_empty() {
            self.gaps_of(store, |gaps| gaps.split(key));
        }
    }

    #[cold]
    fn gaps_of<K: Key, V: Value, C: Codec<K> + Codec<V>, R>(
        &self,
        store: &TableStore<K, V, C>,
        then: impl FnOnce(&mut Gaps<K>) -> R,
    ) -> R {
        then(&mut self.gaps.of(store.number()))
    }
}
