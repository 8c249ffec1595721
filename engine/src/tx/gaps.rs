//! Where a transaction at its position found no rows, by table; see [`crate::gaps`].

use std::cell::RefMut;

use super::InPlace;
use crate::codec::Codec;
use crate::gaps::{Gaps, Run};
use crate::store::{RowIds, TableStore};
use crate::table::{Key, Value};

/// A walk meets a row without a value, not one of the first few: goes on behind others that are known to have none.
#[inline]
pub(super) fn pass<K: Key, V: Value, C: Codec<K> + Codec<V>>(
    store: &TableStore<K, V, C>,
    gaps: &Gaps<K>,
    run: &mut Run<K>,
    key: &K,
    rows: &mut RowIds<'_, K>,
    from_back: bool,
) {
    if let Some(end) = run.meet(key, from_back, gaps) {
        rows.skip_to(end, from_back, |id| {
            // SAFETY: rows in the index exist until the window ends.
            let key = unsafe { store.row(id).key() };
            if from_back { key > end } else { key < end }
        });
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
        if !self.gaps.is_empty() {
            self.gaps_of(store).split(key);
        }
    }

    /// Nothing else may be asked for gaps meanwhile.
    #[cold]
    pub(super) fn gaps_of<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
    ) -> RefMut<'_, Gaps<K>> {
        self.gaps.of(store.number())
    }
}
