//! Reading as of a stamp, while others write: for snapshots, and for speculations on the state before a window.
#![allow(unsafe_code)]

use std::ops::ControlFlow;

use super::{Index, TableStore};
use crate::codec::Codec;
use crate::store::row::Stamp;
use crate::store::slab::RowId;
use crate::table::{Key, Value};

const ENDLESS: &str = "a chain ends in a version that is older than any snapshot";

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> TableStore<K, V, C> {
    /// Calls `see` with what the row with this number held at `at`, if anything, and since when. For registered
    /// snapshots, and for speculations on the state before the window at hand; `see` is to be quick, wait for nothing,
    /// and look at no other row: the row may be latched.
    pub(in crate::store) fn at<R>(
        &self,
        id: RowId,
        at: Stamp,
        see: impl FnOnce(&K, &V, Stamp) -> R,
    ) -> Option<R> {
        let row = self.row(id);
        // Without the latch: a row that the snapshot sees was there when it was registered, and is not given back.
        if row.latch.stamp() == Stamp::FREE {
            return None;
        }
        let latched = row.latch.lock();
        if latched.stamp == Stamp::FREE {
            return None;
        }
        // SAFETY: the row exists, and the latch keeps it from being given back; later, that the snapshot sees it.
        let key = unsafe { row.key() };
        if latched.stamp <= at {
            // SAFETY: the stamp lies before the window at hand, so a writer must take the latch first.
            return unsafe { row.value() }.as_ref().map(|value| see(key, value, latched.stamp));
        }
        // SAFETY: under the latch. The row was changed after the snapshot, so the newest version is of a window that
        // is at hand or retained, and putting it back takes the latch.
        let newest = unsafe { row.chain().as_ref() }.expect(ENDLESS);
        if newest.stamp <= at {
            return newest.value.as_ref().map(|value| see(key, value, newest.stamp));
        }
        let mut next = newest.next;
        drop(latched);
        loop {
            // SAFETY: a version behind the newest, and the value in front of it is later than the snapshot: it is of an
            // ended window, which is retained (see the module's documentation). Speculations do not come here: the window
            // at hand, of which the newest version is, is the only one after `at`.
            let version = unsafe { next.as_ref() }.expect(ENDLESS);
            if version.stamp <= at {
                return version.value.as_ref().map(|value| see(key, value, version.stamp));
            }
            next = version.next;
        }
    }

    /// The value of the key at `at`. For registered snapshots.
    pub(crate) fn get_at(&self, key: &K, at: Stamp) -> Option<V> {
        self.find_at(key, self.key_hash(key), at).map(|(_, _, value)| value)
    }

    /// All rows at `at`, in no order. For registered snapshots.
    ///
    /// No latch is held while `see` runs. Values are copied into one place, which reuses what they own, if they
    /// can (`clone_from`).
    pub(crate) fn for_each_at(&self, at: Stamp, mut see: impl FnMut(&K, &V)) {
        self.visit_at(at, |key, value| {
            see(key, value);
            ControlFlow::Continue(())
        });
    }

    /// The same, until `see` breaks off.
    pub(in crate::store) fn visit_at(&self, at: Stamp, mut see: impl FnMut(&K, &V) -> ControlFlow<()>) {
        let mut copy: Option<V> = None;
        for id in 0..self.rows.len() {
            let seen = self.at(id, at, |_, value, _| match &mut copy {
                Some(copy) => copy.clone_from(value),
                none => *none = Some(value.clone()),
            });
            if let (Some(()), Some(value)) = (seen, &copy) {
                // SAFETY: the snapshot sees the row, which is not given back before it is gone.
                if see(unsafe { self.row(id).key() }, value).is_break() {
                    return;
                }
            }
        }
    }

    /// Copies of all rows at `at`, in no order. For registered snapshots, longer than the iterator lives.
    pub(crate) fn iter_at(&self, at: Stamp) -> impl Iterator<Item = (K, V)> + use<'_, K, V, C> {
        (0..self.rows.len()).filter_map(move |id| self.copy_at(id, at).map(|(key, _, value)| (key, value)))
    }

    /// Whether no row has a value at `at`. For registered snapshots.
    pub(crate) fn is_empty_at(&self, at: Stamp) -> bool {
        (0..self.rows.len()).all(|id| self.at(id, at, |_, _, _| ()).is_none())
    }

    /// The key of the row with this number, if there is one, with a value or without. Any time.
    pub(in crate::store) fn key_of(&self, id: RowId) -> Option<K> {
        let row = self.row(id);
        let latched = row.latch.lock();
        // SAFETY: the row exists, and the latch keeps it from being given back.
        (latched.stamp != Stamp::FREE).then(|| unsafe { row.key() }.clone())
    }

    /// The row of the key as of `at`: its number, since when, and a copy of its value. As [`at`](Self::at).
    pub(in crate::store) fn find_at(&self, key: &K, key_hash: u64, at: Stamp) -> Option<(RowId, Stamp, V)> {
        // The number may be another row's by now, unless somebody at `at` sees this one.
        let look = |id| self.at(id, at, |k, v, stamp| (k == key).then(|| (id, stamp, v.clone()))).flatten();
        let (index, buried) = match &self.index {
            Index::Hash(index) => (index, None),
            Index::Leaves(leaves) => (&leaves.by_hash, Some(&leaves.buried)),
            Index::Ordered(index) => {
                let granule = index.granule_pinned(self.granule_of(key))?;
                let id = granule.tree.read().expect("no panic under the lock of a tree").get(key).copied();
                return id.and_then(look).or_else(|| look(granule.buried.find(key, at)?));
            }
        };
        let mut found = None;
        index.find_pinned(key_hash, |id| {
            found = look(id);
            found.is_some()
        });
        found.or_else(|| look(buried?.find(key, at)?))
    }

    /// The row with this number as of `at`.
    pub(crate) fn copy_at(&self, id: RowId, at: Stamp) -> Option<(K, Stamp, V)> {
        self.at(id, at, |key, value, stamp| (key.clone(), stamp, value.clone()))
    }
}
