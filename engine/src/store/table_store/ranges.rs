//! Ranges of keys: which granules they touch, and their rows, some at a time and from both ends.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};
use std::sync::RwLock;

use smallvec::SmallVec;

use super::{Index, Leaves, TableStore};
use crate::codec::Codec;
use crate::store::buried::BuriedRows;
use crate::store::leaf_index::{self, is_empty, narrow};
use crate::store::ordered_index::Granule;
use crate::store::row::Stamp;
use crate::store::slab::RowId;
use crate::table::{Conflicts, Key, TableId, Value};

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> TableStore<K, V, C> {
    /// The rows of `range` at `at`, in key order. For registered snapshots, longer than the iterator lives.
    ///
    /// # Panics
    /// As [`row_ids`](Self::row_ids).
    pub(crate) fn range_at<R: RangeBounds<K>>(&self, range: &R, at: Stamp) -> RangeAt<'_, K, V, C> {
        let (rows, buried) = match &self.index {
            Index::Ordered(index) => {
                let hash = self.granule_of_range(range);
                let granule = index.granule_pinned(hash);
                (RowIds::of_granule(hash, granule, range), granule.map(|granule| &granule.buried))
            }
            Index::Leaves(leaves) => (self.row_ids_of_leaves(leaves, range), Some(&leaves.buried)),
            Index::Hash(_) => self.not_ordered(),
        };
        let bounds = || (range.start_bound().cloned(), range.end_bound().cloned());
        let buried = buried.map(|buried| {
            let (from, to) = bounds();
            BuriedRows::new(buried, from, to, at)
        });
        RangeAt { store: self, at, rows, front: None, back: None, buried, given: [None; 2] }
    }

    /// Calls `see` with each leaf that a range touches, its hash as a granule, and how many rows it has, until that says
    /// no.
    pub(crate) fn granules_of_range(
        &self,
        range: &impl RangeBounds<K>,
        mut see: impl FnMut(u32, u64, u32) -> bool,
    ) {
        self.leaves().leaves_of(range.start_bound(), range.end_bound(), |leaf, rows| {
            see(leaf, self.leaf_hash(leaf), rows)
        });
    }

    /// Which keys have one order with those of the range; see [`space_of`](Self::space_of).
    ///
    /// # Panics
    /// As [`granule_of_range`](Self::granule_of_range).
    pub(crate) fn space_of_range(&self, range: &impl RangeBounds<K>) -> u64 {
        if matches!(self.conflicts, Conflicts::Grouped { .. }) { self.granule_of_range(range) } else { 0 }
    }

    /// The hash of the granule that a range lies in.
    ///
    /// # Panics
    /// When no bound tells, or the bounds lie in two.
    pub(crate) fn granule_of_range(&self, range: &impl RangeBounds<K>) -> u64 {
        let of = |bound: Bound<&K>| match bound {
            Bound::Included(key) | Bound::Excluded(key) => Some(self.granule_of(key)),
            Bound::Unbounded => None,
        };
        match (of(range.start_bound()), of(range.end_bound())) {
            (Some(from), Some(to)) => {
                let name = self.name;
                assert!(
                    from == to,
                    "table {name:?}: a range must lie in one granule, and its bounds lie in two"
                );
                from
            }
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => panic!("table {:?}: a range needs a bound that tells its granule", self.name),
        }
    }

    /// The numbers of the rows in `range`, those without a value included. For workers in a window.
    ///
    /// # Panics
    /// When the table is not ordered, and as [`granule_of_range`](Self::granule_of_range).
    #[inline]
    pub(crate) fn row_ids<R: RangeBounds<K>>(&self, range: &R) -> RowIds<'_, K> {
        match &self.index {
            Index::Ordered(index) => {
                let hash = self.granule_of_range(range);
                RowIds::of_granule(hash, index.granule(hash), range)
            }
            Index::Leaves(leaves) => self.row_ids_of_leaves(leaves, range),
            Index::Hash(_) => self.not_ordered(),
        }
    }

    #[inline]
    fn row_ids_of_leaves<'a>(&self, leaves: &'a Leaves<K>, range: &impl RangeBounds<K>) -> RowIds<'a, K> {
        let (from, to) = (range.start_bound().cloned(), range.end_bound().cloned());
        RowIds::Leaves { domain: self.domain, walk: leaves.in_order.walk(from, to) }
    }

    fn not_ordered(&self) -> ! {
        panic!("table {:?} is not ordered: ranges need Table::ordered", self.name)
    }
}

/// A row as of a position: its number, its key, since when, and a copy of its value.
pub(crate) type RowAt<K, V> = (RowId, K, Stamp, V);

/// The rows of a range at a position, from both ends, the buried ones among the others; see [`TableStore::range_at`].
///
/// What a snapshot sees stays in the index or is buried, and rows that come and go meanwhile have no value at its position.
pub(crate) struct RangeAt<'a, K, V, C> {
    store: &'a TableStore<K, V, C>,
    at: Stamp,
    rows: RowIds<'a, K>,
    /// Rows of the index that come next, after buried ones.
    front: Option<RowAt<K, V>>,
    back: Option<RowAt<K, V>>,
    buried: Option<BuriedRows<'a, K>>,
    /// The rows of the index that were given out last from the front and from the back.
    given: [Option<RowId>; 2],
}

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> RangeAt<'_, K, V, C> {
    /// The next row from one end. Shows `visit` each granule before anything in it is read.
    pub(crate) fn step(&mut self, from_back: bool, visit: &mut impl FnMut(u64)) -> Option<RowAt<K, V>> {
        let (store, at) = (self.store, self.at);
        let (next, other) =
            if from_back { (&mut self.back, &mut self.front) } else { (&mut self.front, &mut self.back) };
        if next.is_none() {
            *next = loop {
                let id = if from_back { self.rows.next_back(visit) } else { self.rows.next(visit) };
                let Some(id) = id else { break other.take() };
                self.rows.ahead(from_back).iter().for_each(|&id| store.fetch_row(id));
                if let Some((key, stamp, value)) = store.copy_at(id, at) {
                    break Some((id, key, stamp, value));
                }
            };
        }
        if let Some(buried) = &mut self.buried {
            let given = self.given;
            // A row that was given out stays as long as the snapshot.
            let given = || given.map(|row| row.and_then(|row| store.key_of(row)));
            while let Some((key, _)) = buried.peek(from_back, given) {
                let order =
                    next.as_ref().map(|(_, next, ..)| if from_back { next.cmp(key) } else { key.cmp(next) });
                if order.is_some_and(Ordering::is_gt) {
                    break;
                }
                let id = buried.pass()?;
                // Of one key only one row has a value: it has been buried meanwhile.
                if order != Some(Ordering::Equal)
                    && let Some((key, stamp, value)) = store.copy_at(id, at)
                {
                    return Some((id, key, stamp, value));
                }
            }
        }
        let given = next.take();
        if let Some((id, ..)) = &given {
            self.given[usize::from(from_back)] = Some(*id);
        }
        given
    }

    /// Goes on at `key` from one end: no row before it is wanted, and granules were told before.
    pub(crate) fn skip_to(&mut self, key: &K, from_back: bool) {
        let is_before = |other: &K| if from_back { other > key } else { other < key };
        let store = self.store;
        self.rows.skip_to(key, from_back, |id| store.key_of(id).is_some_and(|other| is_before(&other)));
        self.front.take_if(|(_, other, ..)| is_before(other));
        self.back.take_if(|(_, other, ..)| is_before(other));
        if let Some(buried) = &mut self.buried {
            buried.skip_to(key, from_back);
        }
    }
}

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> Iterator for RangeAt<'_, K, V, C> {
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        self.step(false, &mut |_| ()).map(|(_, key, _, value)| (key, value))
    }
}

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> DoubleEndedIterator for RangeAt<'_, K, V, C> {
    fn next_back(&mut self) -> Option<(K, V)> {
        self.step(true, &mut |_| ()).map(|(_, key, _, value)| (key, value))
    }
}

/// The numbers of a range's rows. Tells of each granule before anything in it is read.
#[expect(clippy::large_enum_variant, reason = "lives on the stack of a walk, and is not moved")]
pub(crate) enum RowIds<'a, K> {
    /// One granule's tree, if there is one; and the granule, until it is told.
    Granule { granule: Option<u64>, rows: Option<Rows<'a, K>> },
    /// Leaves, whose hashes come from their numbers.
    Leaves { domain: TableId, walk: leaf_index::Walk<'a, K> },
}

impl<'a, K: Key> RowIds<'a, K> {
    /// Those of a range in the granule with this hash, which is there if it ever had a row.
    fn of_granule(hash: u64, granule: Option<&'a Granule<K>>, range: &impl RangeBounds<K>) -> Self {
        Self::Granule { granule: Some(hash), rows: Rows::of(granule.map(|granule| &granule.tree), range) }
    }

    /// About so many rows are wanted, from the front.
    pub(crate) fn hint(&mut self, wanted: usize) {
        match self {
            Self::Granule { rows, .. } => {
                rows.iter_mut().for_each(|rows| rows.front.wanted = Some(wanted));
            }
            Self::Leaves { walk, .. } => walk.hint(wanted),
        }
    }

    #[inline]
    pub(crate) fn next(&mut self, visit: &mut impl FnMut(u64)) -> Option<RowId> {
        match self {
            Self::Granule { granule, rows } => {
                granule.take().into_iter().for_each(visit);
                rows.as_mut()?.next()
            }
            Self::Leaves { domain, walk } => walk.next(&mut |leaf| visit(domain.hash(&u64::from(leaf)))),
        }
    }

    /// The row that comes next from one end, if its granule was told, and it was taken and asked for before: it comes
    /// without anything else to be done. Most do.
    #[inline]
    pub(crate) fn nearest(&self, from_back: bool) -> Option<RowId> {
        match self {
            Self::Granule { granule: None, rows: Some(rows) } => {
                if from_back { &rows.back } else { &rows.front }.outermost()
            }
            Self::Granule { .. } => None,
            Self::Leaves { walk, .. } => walk.nearest(from_back),
        }
    }

    /// Passes the [`nearest`](Self::nearest) row.
    #[inline]
    pub(crate) fn pass_nearest(&mut self, from_back: bool) {
        match self {
            Self::Granule { rows, .. } => {
                let Some(rows) = rows else { return };
                if from_back { &mut rows.back } else { &mut rows.front }.given += 1;
            }
            Self::Leaves { walk, .. } => walk.pass_nearest(from_back),
        }
    }

    /// The rows to ask the cache for, when one just came from the front, or from the back.
    #[inline]
    pub(crate) fn ahead(&mut self, from_back: bool) -> &[RowId] {
        match self {
            Self::Granule { .. } => &[],
            Self::Leaves { walk, .. } => walk.ahead(from_back),
        }
    }

    #[inline]
    pub(crate) fn next_back(&mut self, visit: &mut impl FnMut(u64)) -> Option<RowId> {
        match self {
            Self::Granule { granule, rows } => {
                granule.take().into_iter().for_each(visit);
                rows.as_mut()?.next_back()
            }
            Self::Leaves { domain, walk } => walk.next_back(&mut |leaf| visit(domain.hash(&u64::from(leaf)))),
        }
    }
}

impl<K: Key> RowIds<'_, K> {
    /// Whether there may be rows up to `key` and behind it that were not taken yet.
    pub(crate) fn reaches(&self, key: &K) -> bool {
        match self {
            Self::Granule { rows, .. } => {
                rows.as_ref().and_then(|rows| rows.bounds.as_ref()).is_some_and(|bounds| bounds.contains(key))
            }
            Self::Leaves { walk, .. } => walk.reaches(key),
        }
    }

    /// What is not taken yet of the keys up to `key`, seen from one end, where its granules are leaves; may be empty.
    pub(crate) fn rest_to<'k>(&'k self, key: &'k K, from_back: bool) -> Option<(Bound<&'k K>, Bound<&'k K>)> {
        match self {
            // Its only granule is told before any row.
            Self::Granule { .. } => None,
            Self::Leaves { walk, .. } => walk.rest_to(key, from_back),
        }
    }

    /// Goes on at `key` from one end: no row before it, as `is_before` tells of those that were taken, is wanted, and
    /// granules were told before.
    pub(crate) fn skip_to(&mut self, key: &K, from_back: bool, is_before: impl Fn(RowId) -> bool) {
        match self {
            Self::Granule { rows: Some(rows), .. } => rows.skip_to(key, from_back, is_before),
            Self::Granule { rows: None, .. } => {}
            Self::Leaves { walk, .. } => walk.skip_to(key, from_back, is_before),
        }
    }
}

/// The numbers of a range's rows. Takes some at a time, so that no lock is held while the caller looks at rows.
pub(crate) struct Rows<'a, K> {
    tree: &'a RwLock<BTreeMap<K, RowId>>,
    /// What is not taken yet; `None` when nothing is left.
    bounds: Option<(Bound<K>, Bound<K>)>,
    front: Taken,
    /// Rows behind all others, last one first.
    back: Taken,
}

/// Rows taken from one end of a range, the outermost first.
#[derive(Default)]
struct Taken {
    ids: SmallVec<[RowId; Self::FIRST]>,
    /// So many were given away from the start.
    given: usize,
    /// How many are to be taken first, as far as is known.
    wanted: Option<usize>,
}

impl Taken {
    /// How many rows are taken at first, most callers want one or a few, and from then on.
    const FIRST: usize = 6;
    const MOST: usize = 32;

    /// Rows to be taken next, when all are given away.
    fn refill(&mut self) -> usize {
        let first = self.wanted.take().map_or(Self::FIRST, |wanted| wanted.clamp(1, Self::MOST));
        let count = if self.ids.is_empty() { first } else { Self::MOST };
        self.ids.clear();
        self.given = 0;
        count
    }

    fn is_empty(&self) -> bool {
        self.given == self.ids.len()
    }

    #[inline]
    fn outermost(&self) -> Option<RowId> {
        self.ids.get(self.given).copied()
    }

    fn pop_outermost(&mut self) -> Option<RowId> {
        let id = self.outermost()?;
        self.given += 1;
        Some(id)
    }

    fn pop_innermost(&mut self) -> Option<RowId> {
        if self.is_empty() { None } else { self.ids.pop() }
    }
}

impl<'a, K: Key> Rows<'a, K> {
    /// Nothing if there is no tree, or the range is backwards: that is empty, not a panic.
    fn of(tree: Option<&'a RwLock<BTreeMap<K, RowId>>>, range: &impl RangeBounds<K>) -> Option<Self> {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        let tree = tree.filter(|_| !is_empty(bounds.0.as_ref(), bounds.1.as_ref()))?;
        Some(Self { tree, bounds: Some(bounds), front: Taken::default(), back: Taken::default() })
    }

    /// See [`RowIds::skip_to`].
    fn skip_to(&mut self, key: &K, from_back: bool, is_before: impl Fn(RowId) -> bool) {
        let (end, other) =
            if from_back { (&mut self.back, &mut self.front) } else { (&mut self.front, &mut self.back) };
        if narrow(&mut self.bounds, Bound::Included(key.clone()), from_back) {
            end.given = end.ids.len();
        }
        while end.ids.get(end.given).is_some_and(|&id| is_before(id)) {
            end.given += 1;
        }
        if self.bounds.is_none() && end.is_empty() {
            while !other.is_empty() && other.ids.last().is_some_and(|&id| is_before(id)) {
                other.ids.pop();
            }
        }
    }

    /// Takes rows from one end of what is left: few at first, then more.
    fn take(&mut self, from_back: bool) {
        let Some((from, to)) = &self.bounds else { return };
        let tree = self.tree.read().expect("no panic under the lock of a tree");
        let mut range = tree.range((from.as_ref(), to.as_ref()));
        let taken = if from_back { &mut self.back } else { &mut self.front };
        let count = taken.refill();
        let mut last = None;
        while taken.ids.len() < count
            && let Some((key, &id)) = if from_back { range.next_back() } else { range.next() }
        {
            taken.ids.push(id);
            last = Some(key);
        }
        // The next row outside of what was taken is the new border: if there is none, nothing is left.
        let border = if from_back { range.next_back() } else { range.next() };
        self.bounds = match (last, border) {
            (Some(_), Some((border, _))) if from_back => {
                Some((from.clone(), Bound::Included(border.clone())))
            }
            (Some(_), Some((border, _))) => Some((Bound::Included(border.clone()), to.clone())),
            _ => None,
        };
    }
}

impl<K: Key> Iterator for Rows<'_, K> {
    type Item = RowId;

    fn next(&mut self) -> Option<RowId> {
        if self.front.is_empty() {
            self.take(false);
        }
        self.front.pop_outermost().or_else(|| self.back.pop_innermost())
    }
}

impl<K: Key> DoubleEndedIterator for Rows<'_, K> {
    fn next_back(&mut self) -> Option<RowId> {
        if self.back.is_empty() {
            self.take(true);
        }
        self.back.pop_outermost().or_else(|| self.front.pop_innermost())
    }
}
