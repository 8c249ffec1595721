//! The partition of the keys into leaves: which leaf a key is in, and how leaves are split and removed.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam_utils::CachePadded;

use super::LeafId;
use super::rows::LeafRows;
use crate::store::slab::RowId;
use crate::table::Key;

/// Leaves with more rows than this are split.
pub(super) const MOST_ROWS: usize = 256;

pub(super) struct Rows<K> {
    pub(super) by_key: LeafRows<K>,
    /// Counts changes of `by_key`.
    pub(super) version: u64,
    /// Whether the leaf stands in [`LeafIndex::changed`](super::LeafIndex::changed).
    pub(super) listed: bool,
}

pub(super) struct Leaf<K> {
    pub(super) rows: RwLock<Rows<K>>,
    /// `None` for the first leaf, and for numbers without a leaf.
    pub(super) fence: Option<K>,
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

    pub(super) fn rows(&mut self) -> &mut Rows<K> {
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
pub(super) struct Root<K> {
    pub(super) first: LeafId,
    pub(super) by_fence: BTreeMap<K, LeafId>,
    pub(super) leaves: Vec<CachePadded<Leaf<K>>>,
    /// How many rows each leaf has, for those without its lock. Side by side: who asks for ranges asks for many, and
    /// leaves are in no cache.
    pub(super) counts: Vec<AtomicU32>,
    /// Counts changes of the partition.
    pub(super) version: u64,
    /// Numbers without a leaf.
    free: Vec<LeafId>,
}

impl<K: Key> Root<K> {
    /// One leaf for all keys, without rows.
    pub(super) fn new() -> Self {
        Self {
            first: 0,
            by_fence: BTreeMap::new(),
            leaves: vec![Leaf::new(None, LeafRows::new())],
            counts: vec![AtomicU32::new(0)],
            version: 0,
            free: Vec::new(),
        }
    }

    pub(super) fn leaf(&self, id: LeafId) -> &Leaf<K> {
        &self.leaves[id as usize]
    }

    pub(super) fn leaf_of(&self, key: &K) -> LeafId {
        self.by_fence.range(..=key).next_back().map_or(self.first, |(_, &leaf)| leaf)
    }

    /// The leaf in which a range begins.
    pub(super) fn first_of(&self, from: Bound<&K>) -> LeafId {
        match from {
            Bound::Included(key) | Bound::Excluded(key) => self.leaf_of(key),
            Bound::Unbounded => self.first,
        }
    }

    /// The fences of a range's further leaves. The range is not [empty](super::is_empty).
    pub(super) fn further<'a>(
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

    pub(super) fn count(&self, id: LeafId, rows: usize) {
        self.counts[id as usize].store(rows as u32, Ordering::Relaxed);
    }

    /// Splits a leaf with too many rows. The first part keeps the number.
    pub(super) fn split(&mut self, id: LeafId, mut moved: impl FnMut(RowId, LeafId)) {
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
    pub(super) fn remove(&mut self, id: LeafId) {
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
