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

mod rows;
mod walk;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, RwLock};

use crossbeam_utils::CachePadded;
use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard};

use rows::LeafRows;
pub(crate) use walk::Walk;

use super::slab::RowId;
use crate::table::Key;

/// Number of a leaf in its index. Used again after the leaf was removed.
pub(crate) type LeafId = u32;

/// Leaves with more rows than this are split.
const MOST_ROWS: usize = 256;

struct Rows<K> {
    by_key: LeafRows<K>,
    /// Counts changes of `by_key`.
    version: u64,
    /// Whether the leaf stands in [`LeafIndex::changed`].
    listed: bool,
}

struct Leaf<K> {
    rows: RwLock<Rows<K>>,
    /// `None` for the first leaf, and for numbers without a leaf.
    fence: Option<K>,
    /// Rows when the leaf was made, and the last one's key: by them a split sees where the leaf grew.
    made_with: (usize, Option<K>),
}

impl<K: Key> Leaf<K> {
    fn new(fence: Option<K>, by_key: LeafRows<K>) -> CachePadded<Self> {
        CachePadded::new(Self {
            fence,
            made_with: (by_key.len(), by_key.last_key().cloned()),
            rows: RwLock::new(Rows { by_key, version: 0, listed: false }),
        })
    }

    fn rows(&mut self) -> &mut Rows<K> {
        self.rows.get_mut().expect("no panic under the lock of a leaf")
    }

    /// How many rows each part gets when the leaf is split. Nothing will come to rows that others were
    /// appended to: there the parts are left nearly full.
    fn part_len(&mut self) -> usize {
        let (len, last) = &self.made_with;
        let rows = &self.rows.get_mut().expect("no panic under the lock of a leaf").by_key;
        let grown = rows.len().saturating_sub(*len);
        let appended = last.as_ref().map_or(0, |last| rows.count_after(last).min(grown));
        if appended * 4 > grown * 3 {
            MOST_ROWS * 9 / 10
        } else {
            let parts = (rows.len() / (MOST_ROWS / 2)).max(2);
            rows.len().div_ceil(parts)
        }
    }
}

/// The partition of the keys into leaves.
struct Root<K> {
    first: LeafId,
    by_fence: BTreeMap<K, LeafId>,
    leaves: Vec<CachePadded<Leaf<K>>>,
    /// How many rows each leaf has, for those without its lock. Side by side: who asks for ranges asks for many, and
    /// leaves are in no cache.
    counts: Vec<AtomicU32>,
    /// Counts changes of the partition.
    version: u64,
    /// Numbers without a leaf.
    free: Vec<LeafId>,
}

impl<K: Key> Root<K> {
    fn leaf(&self, id: LeafId) -> &Leaf<K> {
        &self.leaves[id as usize]
    }

    fn leaf_of(&self, key: &K) -> LeafId {
        self.by_fence.range(..=key).next_back().map_or(self.first, |(_, &leaf)| leaf)
    }

    /// The leaf in which a range begins.
    fn first_of(&self, from: Bound<&K>) -> LeafId {
        match from {
            Bound::Included(key) | Bound::Excluded(key) => self.leaf_of(key),
            Bound::Unbounded => self.first,
        }
    }

    /// The fences of a range's further leaves. The range is not [empty](is_empty).
    fn further<'a>(
        &'a self,
        from: Bound<&'a K>,
        to: Bound<&'a K>,
    ) -> impl DoubleEndedIterator<Item = (&'a K, LeafId)> {
        let after = match from {
            // The leaf with this very fence is the one in which the range begins.
            Bound::Included(key) | Bound::Excluded(key) => Bound::Excluded(key),
            Bound::Unbounded => Bound::Unbounded,
        };
        self.by_fence.range((after, to)).map(|(fence, &leaf)| (fence, leaf))
    }

    /// The number that the next leaf gets.
    fn next_id(&self) -> LeafId {
        let after_all = || LeafId::try_from(self.leaves.len()).expect("fewer leaves than rows");
        self.free.last().copied().unwrap_or_else(after_all)
    }

    /// Gives rows from `fence` on a leaf of their own.
    fn add(&mut self, fence: K, rows: LeafRows<K>) -> LeafId {
        let (id, count) = (self.next_id(), rows.len());
        let leaf = Leaf::new(Some(fence.clone()), rows);
        if self.free.pop().is_some() {
            self.leaves[id as usize] = leaf;
        } else {
            self.leaves.push(leaf);
            self.counts.push(AtomicU32::new(0));
        }
        self.count(id, count);
        self.by_fence.insert(fence, id);
        id
    }

    fn count(&self, id: LeafId, rows: usize) {
        self.counts[id as usize].store(rows as u32, Ordering::Relaxed);
    }

    /// Splits a leaf with too many rows. The first part keeps the number.
    fn split(&mut self, id: LeafId, mut moved: impl FnMut(RowId, LeafId)) {
        let leaf = &mut self.leaves[id as usize];
        let len = leaf.part_len();
        let mut rest = std::mem::replace(&mut leaf.rows().by_key, LeafRows::new()).into_iter();
        let first = LeafRows::take(&mut rest, len);
        let count = first.len();
        **leaf = CachePadded::into_inner(Leaf::new(leaf.fence.take(), first));
        self.count(id, count);
        loop {
            let part = LeafRows::take(&mut rest, len);
            let Some(fence) = part.first_key().cloned() else { return };
            part.row_ids().for_each(|row| moved(row, self.next_id()));
            self.add(fence, part);
        }
    }

    /// Removes an empty leaf, unless it is the only one. Its keys go to the leaf before it, or, if it is the
    /// first, to the one behind: walks from the front need not pass where a queue has been emptied.
    fn remove(&mut self, id: LeafId) {
        if let Some(fence) = self.leaves[id as usize].fence.take() {
            let removed = self.by_fence.remove(&fence);
            debug_assert_eq!(removed, Some(id));
        } else {
            let Some((_, next)) = self.by_fence.pop_first() else { return };
            self.leaves[next as usize].fence = None;
            self.first = next;
        }
        self.leaves[id as usize] = Leaf::new(None, LeafRows::new());
        self.count(id, 0);
        self.free.push(id);
    }
}

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
        let leaves = vec![Leaf::new(None, LeafRows::new())];
        Self {
            root: ShardedLock::new(Root {
                first: 0,
                by_fence: BTreeMap::new(),
                leaves,
                counts: vec![AtomicU32::new(0)],
                version: 0,
                free: Vec::new(),
            }),
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

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::ops::Bound;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::{LeafId, LeafIndex, MOST_ROWS, RowId, is_empty};

    /// A seeded generator (splitmix64).
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) % end
        }

        fn bound(&mut self, end: u64) -> Bound<u64> {
            match self.below(7) {
                0 => Bound::Unbounded,
                1..4 => Bound::Included(self.below(end)),
                _ => Bound::Excluded(self.below(end)),
            }
        }
    }

    type Index = LeafIndex<u64>;
    type Model = BTreeMap<u64, RowId>;

    fn rows_of(model: &Model, from: Bound<u64>, to: Bound<u64>) -> Vec<RowId> {
        if is_empty(from.as_ref(), to.as_ref()) {
            return Vec::new();
        }
        model.range((from, to)).map(|(_, &row)| row).collect()
    }

    fn leaves_of(index: &Index, from: Bound<u64>, to: Bound<u64>) -> Vec<LeafId> {
        let mut leaves = Vec::new();
        index.leaves_of(from.as_ref(), to.as_ref(), |leaf, _| {
            leaves.push(leaf);
            true
        });
        leaves
    }

    fn all_leaves(index: &Index) -> Vec<LeafId> {
        leaves_of(index, Bound::Unbounded, Bound::Unbounded)
    }

    fn walked(index: &Index, from: Bound<u64>, to: Bound<u64>) -> (Vec<RowId>, Vec<LeafId>) {
        let mut leaves = Vec::new();
        let mut walk = index.walk(from, to);
        let rows = std::iter::from_fn(|| walk.next(&mut |leaf| leaves.push(leaf))).collect();
        (rows, leaves)
    }

    /// Walks, choosing the end of each step, with `between` steps; rows in order, and leaves as they were
    /// entered.
    fn walked_from_both_ends(
        index: &Index,
        (from, to): (Bound<u64>, Bound<u64>),
        mut from_back: impl FnMut() -> bool,
        mut between: impl FnMut(),
    ) -> (Vec<RowId>, Vec<LeafId>) {
        let (mut rows, mut last_rows, mut leaves) = (Vec::new(), Vec::new(), Vec::new());
        let mut visit = |leaf| leaves.push(leaf);
        let mut walk = index.walk(from, to);
        loop {
            let back = from_back();
            let row = if back { walk.next_back(&mut visit) } else { walk.next(&mut visit) };
            let Some(row) = row else { break };
            if back {
                last_rows.push(row)
            } else {
                rows.push(row)
            }
            between();
        }
        assert_eq!((walk.next(&mut visit), walk.next_back(&mut visit)), (None, None));
        rows.extend(last_rows.into_iter().rev());
        (rows, leaves)
    }

    /// Compares all that the index says about its partition with the rows it has.
    fn check(index: &Index, model: &Model) {
        assert_eq!(
            walked(index, Bound::Unbounded, Bound::Unbounded).0,
            rows_of(model, Bound::Unbounded, Bound::Unbounded)
        );
        let mut counts = BTreeMap::new();
        for (key, &row) in model {
            assert_eq!(index.get(key), Some(row));
            *counts.entry(index.leaf_of(key)).or_insert(0) += 1;
        }
        let mut leaves = BTreeSet::new();
        index.leaves_of(Bound::Unbounded, Bound::Unbounded, |leaf, rows| {
            assert!(leaves.insert(leaf), "leaf {leaf} stands there twice");
            assert_eq!(rows, counts.remove(&leaf).unwrap_or(0));
            true
        });
        assert_eq!(counts, BTreeMap::new());
    }

    /// Adapts, keeping the leaf of each row as `moved` tells it.
    fn adapt(index: &Index, leaves: &mut BTreeMap<RowId, LeafId>) {
        index.adapt(|row, leaf| {
            assert_ne!(leaves.insert(row, leaf), Some(leaf), "row {row} did not move");
        });
        assert!(!index.wants_adapting());
    }

    #[test]
    fn random_changes_and_walks_agree_with_a_tree() {
        for seed in 0..6 {
            let mut random = Random(seed);
            let keys = [300, 3_000, 30_000][seed as usize % 3];
            let (index, mut model) = (Index::new(), Model::new());
            // Where each row is, told by `insert` and `adapt` alone.
            let mut leaf_of_row = BTreeMap::new();
            for round in 0..400u32 {
                // Growth and shrinkage alternate.
                let growing = round / 50 % 2 == 0;
                for i in 0..200 {
                    let (key, row) = (random.below(keys), round << 8 | i);
                    assert_eq!(index.get(&key), model.get(&key).copied());
                    if random.below(8) < if growing { 7 } else { 1 } {
                        model.entry(key).or_insert_with(|| {
                            leaf_of_row.insert(row, index.insert(key, row));
                            row
                        });
                    } else {
                        // A near key, so that shrinking does not become slow.
                        let Some((key, row)) = model.range(key..).next().map(|(&key, &row)| (key, row))
                        else {
                            continue;
                        };
                        model.remove(&key);
                        index.remove(&key, row);
                        leaf_of_row.remove(&row);
                    }
                }
                for _ in 0..10 {
                    let range @ (from, to) = (random.bound(keys), random.bound(keys));
                    let (rows, leaves) = walked(&index, from, to);
                    assert_eq!(rows, rows_of(&model, from, to));
                    assert_eq!(leaves, leaves_of(&index, from, to));
                    let odds = random.below(11);
                    let (both, mut leaves) =
                        walked_from_both_ends(&index, range, || random.below(10) < odds, || {});
                    assert_eq!(both, rows);
                    let mut announced = leaves_of(&index, from, to);
                    announced.sort_unstable();
                    leaves.sort_unstable();
                    assert_eq!(leaves, announced, "{range:?}");
                }
                if random.below(4) == 0 {
                    adapt(&index, &mut leaf_of_row);
                    for (key, row) in &model {
                        assert_eq!(leaf_of_row[row], index.leaf_of(key));
                    }
                    check(&index, &model);
                }
            }
        }
    }

    #[test]
    fn ranges_without_rows_have_the_leaf_where_rows_would_be_and_empty_ranges_have_none() {
        let index = Index::new();
        assert_eq!(leaves_of(&index, Bound::Included(7), Bound::Included(7)), [0]);
        (0..1000).for_each(|key| _ = index.insert(key * 10, key as u32));
        index.adapt(|_, _| {});
        for key in 0..10_100 {
            let leaf = index.leaf_of(&key);
            assert_eq!(leaves_of(&index, Bound::Included(key), Bound::Included(key)), [leaf]);
            assert_eq!(
                walked(&index, Bound::Included(key + 1), Bound::Excluded(key + 2)).1,
                [index.leaf_of(&(key + 1))]
            );
            for (from, to) in [
                (Bound::Included(key), Bound::Excluded(key)),
                (Bound::Excluded(key), Bound::Excluded(key)),
                (Bound::Excluded(key), Bound::Included(key)),
                (Bound::Included(key + 1), Bound::Included(key)),
                (Bound::Excluded(key + 20), Bound::Excluded(key)),
            ] {
                assert_eq!(leaves_of(&index, from, to), Vec::<LeafId>::new());
                assert_eq!(walked(&index, from, to), (vec![], vec![]));
            }
        }
    }

    #[test]
    fn walk_enters_a_leaf_only_when_its_rows_are_asked_for() {
        let index = Index::new();
        (0..1000).for_each(|key| _ = index.insert(key, key as u32));
        index.adapt(|_, _| {});
        let leaves = all_leaves(&index);
        let (mut entered, mut walk) = (Vec::new(), index.walk(Bound::Unbounded, Bound::Unbounded));
        for key in 0..1000 {
            assert_eq!(walk.next(&mut |leaf| entered.push(leaf)), Some(key as u32));
            let at = leaves.iter().position(|leaf| *leaf == index.leaf_of(&key)).unwrap();
            assert_eq!(entered, leaves[..=at]);
        }
        assert_eq!(walk.next(&mut |_| panic!("all leaves are entered")), None);
    }

    #[test]
    fn panic_of_a_visitor_ends_the_step_before_anything_is_read() {
        let index = Index::new();
        (0..1000).for_each(|key| _ = index.insert(key, key as u32));
        let mut walk = index.walk(Bound::Unbounded, Bound::Unbounded);
        let refused =
            std::panic::AssertUnwindSafe(|| walk.next(&mut |_| std::panic::resume_unwind(Box::new(()))));
        assert!(std::panic::catch_unwind(refused).is_err());
        index.adapt(|_, _| {});
        assert_eq!(walk.next(&mut |_| {}), Some(0));
        assert_eq!(walk.next_back(&mut |_| {}), Some(999));
    }

    #[test]
    fn leaves_of_stops_when_it_is_told_to() {
        let index = Index::new();
        (0..1000).for_each(|key| _ = index.insert(key, key as u32));
        index.adapt(|_, _| {});
        let mut seen = 0;
        index.leaves_of(Bound::Unbounded, Bound::Unbounded, |_, _| {
            seen += 1;
            seen < 2
        });
        assert_eq!(seen, 2);
    }

    #[test]
    fn adapt_between_steps_of_a_walk_loses_no_row_and_repeats_none() {
        for seed in 0..30 {
            let mut random = Random(seed);
            let index = Index::new();
            // Even keys stay. Odd ones come and go between steps, in one place at a time, and so do leaves.
            (0..2000).for_each(|key| _ = index.insert(key * 2, key as u32 * 2));
            let mut odd = Model::new();
            let mut changes = Random(seed + 100);
            let between = || {
                let start = changes.below(4000);
                for key in (start..start + 40).filter(|key| key % 2 == 1) {
                    match odd.remove(&key) {
                        Some(row) => index.remove(&key, row),
                        None => {
                            odd.insert(key, key as u32);
                            index.insert(key, key as u32);
                        }
                    }
                }
                if changes.below(8) == 0 {
                    index.adapt(|_, _| {});
                }
            };
            let range = (Bound::Included(100), Bound::Excluded(3900));
            let odds = random.below(11);
            let (rows, _) = walked_from_both_ends(&index, range, || random.below(10) < odds, between);
            assert!(rows.is_sorted_by(|a, b| a < b), "each row comes once, in order");
            assert!(rows.iter().filter(|row| **row % 2 == 0).copied().eq((100..3900).step_by(2)));
        }
    }

    #[test]
    fn emptied_leaves_under_a_walk_are_passed() {
        let index = Index::new();
        (0..3000).for_each(|key| _ = index.insert(key, key as u32));
        index.adapt(|_, _| {});
        let mut walk = index.walk(Bound::Unbounded, Bound::Unbounded);
        assert_eq!(walk.next(&mut |_| {}), Some(0));
        assert_eq!(walk.next_back(&mut |_| {}), Some(2999));
        // Those that the walk took already come, though they are gone.
        while walk.next(&mut |_| {}) != Some(63) {}
        while walk.next_back(&mut |_| {}) != Some(2936) {}
        (1..2999).filter(|key| *key != 1500).for_each(|key| index.remove(&key, key as u32));
        index.adapt(|_, _| {});
        assert_eq!(all_leaves(&index).len(), 3);
        // Leaf numbers are used again, elsewhere.
        (10_000..13_000).for_each(|key| _ = index.insert(key, key as u32));
        index.adapt(|_, _| {});
        assert_eq!(walk.next_back(&mut |_| {}), Some(1500));
        assert_eq!(walk.next(&mut |_| {}), None, "rows behind those that came do not come");
        assert_eq!(walk.next_back(&mut |_| {}), None);
    }

    #[test]
    fn partition_is_stable_between_adapts_and_rows_fit_after_them() {
        let orders: [fn(u64) -> u64; 3] = [|i| i, |i| 20_000 - i, |i| i * 7919 % 20_011];
        for key_of in orders {
            let (index, mut model, mut leaf_of_row) = (Index::new(), Model::new(), BTreeMap::new());
            let partition = |index: &Index| (0..20_011).map(|key| index.leaf_of(&key)).collect::<Vec<_>>();
            let mut before = partition(&index);
            for i in 0..20_000 {
                let (key, row) = (key_of(i), i as u32);
                leaf_of_row.insert(row, index.insert(key, row));
                model.insert(key, row);
                if i % 1000 == 999 {
                    assert_eq!(partition(&index), before, "inserts do not change it");
                    adapt(&index, &mut leaf_of_row);
                    before = partition(&index);
                    index.leaves_of(Bound::Unbounded, Bound::Unbounded, |_, rows| {
                        assert!((1..=MOST_ROWS as u32).contains(&rows));
                        true
                    });
                    check(&index, &model);
                }
            }
            for i in 0..20_000 {
                index.remove(&key_of(i), i as u32);
                model.remove(&key_of(i));
                if i % 1000 == 999 {
                    assert_eq!(partition(&index), before, "removals do not change it");
                    adapt(&index, &mut leaf_of_row);
                    before = partition(&index);
                    check(&index, &model);
                }
            }
            assert_eq!(all_leaves(&index).len(), 1);
        }
    }

    #[test]
    fn ascending_inserts_leave_leaves_nearly_full() {
        let index = Index::new();
        for key in 0..100_000 {
            index.insert(key, key as u32);
            if key % 50 == 0 {
                index.adapt(|_, _| {});
            }
        }
        let leaves = all_leaves(&index).len();
        assert!(leaves < 100_000 / 220, "{leaves} leaves");
    }

    #[test]
    fn partition_does_not_depend_on_the_order_of_changes_within_a_window() {
        let run = |backwards: bool| {
            let index = Index::new();
            let mut random = Random(1);
            let mut model = Model::new();
            let mut partitions = Vec::new();
            for _ in 0..100 {
                let mut changes: Vec<_> =
                    (0..500).map(|_| random.below(20_000)).collect::<BTreeSet<_>>().into_iter().collect();
                if backwards {
                    changes.reverse();
                }
                for key in changes {
                    match model.remove(&key) {
                        Some(row) => index.remove(&key, row),
                        None => {
                            model.insert(key, key as u32);
                            index.insert(key, key as u32);
                        }
                    }
                }
                let mut moved = Vec::new();
                index.adapt(|row, leaf| moved.push((row, leaf)));
                partitions.push((moved, all_leaves(&index)));
            }
            partitions
        };
        assert_eq!(run(false), run(true));
    }

    #[test]
    fn queue_for_ever_keeps_few_leaves_and_a_short_way_to_its_front() {
        let index = Index::new();
        let (mut front, mut leaves) = (0, 0);
        for back in 0..200_000u64 {
            index.insert(back, back as u32);
            if back >= 2000 {
                let mut entered = 0;
                let mut walk = index.walk(Bound::Unbounded, Bound::Unbounded);
                assert_eq!(walk.next(&mut |_| entered += 1), Some(front as u32));
                assert!(entered <= 2, "{entered} leaves before the front");
                index.remove(&front, front as u32);
                front += 1;
            }
            if back % 100 == 0 {
                index.adapt(|_, _| {});
                leaves = leaves.max(all_leaves(&index).len());
            }
        }
        assert!(leaves < 2000 / 220 + 3, "{leaves} leaves");
        assert!(index.root().leaves.len() <= leaves + 1, "numbers are used again");
    }

    #[test]
    fn walks_while_others_insert_and_remove_see_each_row_that_stays_exactly_once() {
        let index = Index::new();
        // Keys that stay are multiples of 8; each thread has a residue of its own, in the same leaves.
        (0..1000).for_each(|key| _ = index.insert(key * 8, key as u32 * 8));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for residue in 1..4u64 {
                let (index, done) = (&index, &done);
                scope.spawn(move || {
                    let mut random = Random(residue);
                    let mut own = BTreeSet::new();
                    while !done.load(Ordering::Relaxed) {
                        let key = random.below(1000) * 8 + residue;
                        if own.remove(&key) {
                            assert_eq!(index.get(&key), Some(key as u32));
                            index.remove(&key, key as u32);
                        } else {
                            own.insert(key);
                            assert_eq!(index.insert(key, key as u32), index.leaf_of(&key));
                        }
                    }
                    own.iter().for_each(|key| index.remove(key, *key as u32));
                });
            }
            let mut random = Random(0);
            for round in 0..300 {
                let odds = random.below(11);
                let range = (Bound::Unbounded, Bound::Unbounded);
                let (rows, _) = walked_from_both_ends(&index, range, || random.below(10) < odds, || {});
                assert!(rows.is_sorted_by(|a, b| a < b), "round {round}");
                assert!(
                    rows.iter().filter(|row| **row % 8 == 0).copied().eq((0..8000).step_by(8)),
                    "round {round}"
                );
            }
            done.store(true, Ordering::Relaxed);
        });
        check(&index, &(0..1000).map(|key| (key * 8, key as u32 * 8)).collect());
        index.adapt(|_, _| {});
        check(&index, &(0..1000).map(|key| (key * 8, key as u32 * 8)).collect());
    }

    #[test]
    fn adapt_while_others_walk_loses_no_row_and_repeats_none() {
        let index = Index::new();
        (0..5000).for_each(|key| _ = index.insert(key * 2, key as u32 * 2));
        std::thread::scope(|scope| {
            for seed in 0..2 {
                let index = &index;
                scope.spawn(move || {
                    let mut random = Random(seed);
                    for _ in 0..100 {
                        let odds = random.below(11);
                        let range = (Bound::Unbounded, Bound::Unbounded);
                        let (rows, _) =
                            walked_from_both_ends(index, range, || random.below(10) < odds, || {});
                        assert!(rows.is_sorted_by(|a, b| a < b));
                        assert!(rows.iter().filter(|row| **row % 2 == 0).copied().eq((0..10_000).step_by(2)));
                    }
                });
            }
            for round in 0..100u64 {
                let start = round * 97 % 9000 / 2 * 2 + 1;
                let keys = (start..start + 1000).step_by(2);
                keys.clone().for_each(|key| _ = index.insert(key, key as u32));
                index.adapt(|_, _| {});
                keys.for_each(|key| index.remove(&key, key as u32));
                index.adapt(|_, _| {});
            }
        });
    }
}
