//! From keys, in order, to row numbers, in two levels whose lower one also says who conflicts.
//!
//! A *leaf* holds the rows between two *fences*: from its own one, inclusive, to the next one, exclusive. The
//! first leaf has no fence and begins before all keys. Together the leaves cover every key, also those
//! without a row, so who declares the leaves of a range conflicts with whoever inserts into it.
//!
//! Two rules:
//!
//! * *The partition changes in [`adapt`](LeafIndex::adapt) only*, which the engine calls at moments without
//!   workers. Between two of them a leaf grows as it must, and stays when it has become empty. What `adapt`
//!   makes of the partition follows from the rows that it finds each time, not from the order in which
//!   threads inserted and removed them.
//! * *The lock of the partition comes before that of a leaf*, and nobody waits for a second leaf while
//!   holding one.
//!
//! Snapshots walk at any moment, also across an `adapt`: between two steps a [`Walk`] remembers keys, not
//! leaves.

mod partition;
mod rows;
mod walk;

use std::ops::Bound;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard};

use partition::{MOST_ROWS, Root};
use rows::LeafRows;
pub(crate) use walk::Walk;

use super::slab::RowId;
use crate::table::Key;

/// Number of a leaf in its index. Used again after the leaf was removed.
pub(crate) type LeafId = u32;

/// See the module's documentation.
pub(crate) struct LeafIndex<K> {
    /// Sharded, since all workers come by here: they must not pass around one cache line.
    root: ShardedLock<Root<K>>,
    /// Leaves that had too many rows, or none, since the last `adapt`; each once.
    changed: Mutex<Vec<LeafId>>,
    /// Whether `changed` has any.
    wants_adapting: AtomicBool,
}

impl<K: Key> LeafIndex<K> {
    pub(crate) fn new() -> Self {
        Self {
            root: ShardedLock::new(Root::new()),
            changed: Mutex::default(),
            wants_adapting: AtomicBool::new(false),
        }
    }

    fn root(&self) -> ShardedLockReadGuard<'_, Root<K>> {
        self.root.read().expect("no panic while leaves are adapted")
    }

    /// The leaf in which the key's row is, or would be.
    #[inline]
    pub(crate) fn leaf_of(&self, key: &K) -> LeafId {
        self.root().leaf_of(key)
    }

    /// Shows `see` the leaves in which a range's rows are, or would be, in key order, with how many rows each
    /// of them has (in the range or not), until it returns `false`. An empty range has no leaves.
    ///
    /// The partition is locked meanwhile: `see` must not use the index.
    pub(crate) fn leaves_of(&self, from: Bound<&K>, to: Bound<&K>, mut see: impl FnMut(LeafId, u32) -> bool) {
        if is_empty(from, to) {
            return;
        }
        let root = self.root();
        let mut go_on = |id| see(id, root.counts[id as usize].load(Ordering::Relaxed));
        let _ = go_on(root.first_of(from)) && root.further(from, to).all(|(_, id)| go_on(id));
    }

    /// Asks the cache for a leaf.
    pub(crate) fn prefetch(&self, leaf: LeafId) {
        // A footprint may name a leaf that is gone by now.
        if let Some(leaf) = self.root().leaves.get(leaf as usize) {
            super::prefetch((&raw const **leaf).cast());
        }
    }

    /// All leaves with their fences; the first one has none.
    pub(crate) fn fences(&self) -> Vec<(LeafId, Option<K>)> {
        let root = self.root();
        let others = root.by_fence.iter().map(|(fence, &leaf)| (leaf, Some(fence.clone())));
        [(root.first, None)].into_iter().chain(others).collect()
    }

    /// The row of a key.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn get(&self, key: &K) -> Option<RowId> {
        let root = self.root();
        let rows = root.leaf(root.leaf_of(key)).rows.read().expect("no panic under the lock of a leaf");
        rows.by_key.get(key)
    }

    /// Adds a row, and returns the leaf it is in. The caller knows that its key is not there and that nobody
    /// else adds it now.
    pub(crate) fn insert(&self, key: K, row: RowId) -> LeafId {
        let root = self.root();
        let id = root.leaf_of(&key);
        self.change(&root, id, |rows| {
            let before = rows.insert(key, row);
            debug_assert_eq!(before, None, "the key has a row already");
        });
        id
    }

    /// Removes a row.
    ///
    /// # Panics
    /// When the row is not there: a bug.
    pub(crate) fn remove(&self, key: &K, row: RowId) {
        let root = self.root();
        self.change(&root, root.leaf_of(key), |rows| {
            let removed = rows.remove(key);
            assert_eq!(removed, Some(row), "row {row} is not in its index");
        });
    }

    fn change(&self, root: &Root<K>, id: LeafId, change: impl FnOnce(&mut LeafRows<K>)) {
        let leaf = root.leaf(id);
        let mut rows = leaf.rows.write().expect("no panic under the lock of a leaf");
        change(&mut rows.by_key);
        rows.version += 1;
        let len = rows.by_key.len();
        root.count(id, len);
        if (len == 0 || len > MOST_ROWS) && !rows.listed {
            rows.listed = true;
            self.changed.lock().expect("no panic while leaves are listed").push(id);
            self.wants_adapting.store(true, Ordering::Relaxed);
        }
    }

    /// The rows of a range, from both ends. An empty range has none, and touches no leaf.
    #[inline]
    pub(crate) fn walk(&self, from: Bound<K>, to: Bound<K>) -> Walk<'_, K> {
        let rest = (!is_empty(from.as_ref(), to.as_ref())).then_some((from, to));
        Walk::new(self, rest)
    }

    /// Whether [`adapt`](Self::adapt) may have something to do.
    #[inline]
    pub(crate) fn wants_adapting(&self) -> bool {
        self.wants_adapting.load(Ordering::Relaxed)
    }

    /// Splits leaves with too many rows, and removes those without rows. Shows `moved` each row that has
    /// another leaf now, and that leaf. Costs as much as there are rows in those leaves, whatever the size of
    /// the index.
    ///
    /// For moments without workers; snapshots may walk. `moved` must not use the index.
    pub(crate) fn adapt(&self, mut moved: impl FnMut(RowId, LeafId)) {
        let mut root = self.root.write().expect("no panic while leaves are adapted");
        let mut changed = {
            let mut changed = self.changed.lock().expect("no panic while leaves are listed");
            self.wants_adapting.store(false, Ordering::Relaxed);
            std::mem::take(&mut *changed)
        };
        root.version += 1;
        // Threads listed them in any order. Which leaves get which numbers must not depend on it.
        changed.sort_unstable();
        for id in changed {
            let rows = root.leaves[id as usize].rows();
            rows.listed = false;
            match rows.by_key.len() {
                0 => root.remove(id),
                1..=MOST_ROWS => rows.by_key.settle(),
                _ => root.split(id, &mut moved),
            }
        }
    }
}

/// Whether a range has no place for any key, by its bounds.
pub(super) fn is_empty<K: Ord>(from: Bound<&K>, to: Bound<&K>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
            from >= to
        }
    }
}

/// Begins a range at `border`, or ends it there, if that makes it shorter; tells whether it does. What has no place for any
/// key becomes `None`.
pub(super) fn narrow<K: Key>(
    rest: &mut Option<(Bound<K>, Bound<K>)>,
    border: Bound<K>,
    from_back: bool,
) -> bool {
    let Some((from, to)) = rest else { return false };
    let end = if from_back { &mut *to } else { &mut *from };
    let is_further = match (&*end, &border) {
        (Bound::Included(end) | Bound::Excluded(end), Bound::Included(at) | Bound::Excluded(at)) => {
            let order = if from_back { end.cmp(at) } else { at.cmp(end) };
            order.is_gt() || order.is_eq() && matches!(border, Bound::Excluded(_))
        }
        (Bound::Unbounded, _) => true,
        (_, Bound::Unbounded) => false,
    };
    if is_further {
        *end = border;
        if is_empty(from.as_ref(), to.as_ref()) {
            *rest = None;
        }
    }
    is_further
}

#[cfg(all(test, not(loom)))]
mod tests;
