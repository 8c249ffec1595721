//! The rows of one leaf.

use std::collections::{BTreeMap, btree_map};
use std::ops::Bound;

use crate::store::prefetch;
use crate::store::slab::RowId;
use crate::table::Key;

/// With more rows than this a leaf is a tree.
const MOST_SORTED: usize = 1024;

/// Rows by key, in key order.
///
/// Sorted arrays, which a walk reads from one end to the other. But a leaf may get any number of rows, in any order,
/// before it is cut, and in a long array every insert moves half of it: then it is a tree.
pub(super) enum LeafRows<K> {
    Sorted { keys: Vec<K>, rows: Vec<RowId> },
    Tree(BTreeMap<K, RowId>),
}

impl<K: Key> LeafRows<K> {
    pub(super) const fn new() -> Self {
        Self::Sorted { keys: Vec::new(), rows: Vec::new() }
    }

    /// Takes the first `count` rows, or as many as there are, of rows in key order.
    pub(super) fn take(from: &mut impl Iterator<Item = (K, RowId)>, count: usize) -> Self {
        let (keys, rows) = from.take(count).unzip();
        Self::Sorted { keys, rows }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Sorted { keys, .. } => keys.len(),
            Self::Tree(tree) => tree.len(),
        }
    }

    pub(super) fn first_key(&self) -> Option<&K> {
        match self {
            Self::Sorted { keys, .. } => keys.first(),
            Self::Tree(tree) => tree.first_key_value().map(|(key, _)| key),
        }
    }

    pub(super) fn last_key(&self) -> Option<&K> {
        match self {
            Self::Sorted { keys, .. } => keys.last(),
            Self::Tree(tree) => tree.last_key_value().map(|(key, _)| key),
        }
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn get(&self, key: &K) -> Option<RowId> {
        match self {
            Self::Sorted { keys, rows } => keys.binary_search(key).ok().map(|at| rows[at]),
            Self::Tree(tree) => tree.get(key).copied(),
        }
    }

    /// Adds a row; returns the one that the key had before.
    pub(super) fn insert(&mut self, key: K, row: RowId) -> Option<RowId> {
        match self {
            Self::Sorted { keys, rows } => {
                // Nearly always behind all others, where keys ascend.
                let at = if keys.last().is_none_or(|last| *last < key) {
                    keys.len()
                } else {
                    match keys.binary_search(&key) {
                        Ok(at) => return Some(std::mem::replace(&mut rows[at], row)),
                        Err(at) => at,
                    }
                };
                keys.insert(at, key);
                rows.insert(at, row);
                if keys.len() > MOST_SORTED {
                    let rows = std::mem::replace(self, Self::new());
                    *self = Self::Tree(rows.into_iter().collect());
                }
                None
            }
            Self::Tree(tree) => tree.insert(key, row),
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<RowId> {
        match self {
            Self::Sorted { keys, rows } => {
                let at = keys.binary_search(key).ok()?;
                keys.remove(at);
                Some(rows.remove(at))
            }
            Self::Tree(tree) => tree.remove(key),
        }
    }

    /// An array again, if it is short enough.
    pub(super) fn settle(&mut self) {
        if matches!(self, Self::Tree(tree) if tree.len() <= MOST_SORTED) {
            let mut rows = std::mem::replace(self, Self::new()).into_iter();
            *self = Self::take(&mut rows, usize::MAX);
        }
    }

    /// How many rows come after a key.
    pub(super) fn count_after(&self, key: &K) -> usize {
        match self {
            Self::Sorted { keys, .. } => keys.len() - keys.partition_point(|other| other <= key),
            Self::Tree(tree) => tree.range((Bound::Excluded(key), Bound::Unbounded)).count(),
        }
    }

    pub(super) fn row_ids(&self) -> impl Iterator<Item = RowId> {
        let (sorted, tree) = match self {
            Self::Sorted { rows, .. } => (rows.as_slice(), None),
            Self::Tree(tree) => (&[][..], Some(tree.values())),
        };
        sorted.iter().chain(tree.into_iter().flatten()).copied()
    }

    /// The rows of a range that is not backwards.
    #[inline]
    pub(super) fn range(&self, from: Bound<&K>, to: Bound<&K>) -> Range<'_, K> {
        match self {
            Self::Sorted { keys, rows } => {
                let start = match from {
                    Bound::Included(from) => search(keys, rows, |key| key < from),
                    Bound::Excluded(from) => search(keys, rows, |key| key <= from),
                    Bound::Unbounded => 0,
                };
                self.range_at(start, to).expect("it is sorted")
            }
            Self::Tree(tree) => Range::Tree(tree.range((from, to))),
        }
    }

    /// The rows of a range of which the place of the first row is known; `None` where rows have no places.
    #[inline]
    pub(super) fn range_at(&self, start: usize, to: Bound<&K>) -> Option<Range<'_, K>> {
        match self {
            Self::Sorted { keys, rows } => {
                // The end is most often far behind.
                let is_inside = |key: &K| match to {
                    Bound::Included(to) => key <= to,
                    Bound::Excluded(to) => key < to,
                    Bound::Unbounded => true,
                };
                let end = if keys.last().is_none_or(is_inside) {
                    keys.len()
                } else {
                    start + keys[start..].partition_point(is_inside)
                };
                Some(Range::Sorted { at: start, keys: &keys[start..end], rows: &rows[start..end] })
            }
            Self::Tree(_) => None,
        }
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = (K, RowId)> {
        let ((keys, rows), tree) = match self {
            Self::Sorted { keys, rows } => ((keys, rows), BTreeMap::new()),
            Self::Tree(tree) => ((Vec::new(), Vec::new()), tree),
        };
        keys.into_iter().zip(rows).chain(tree)
    }
}

/// Into how many parts a search cuts a leaf first.
const PARTS: usize = 16;

/// The place of the first key that is not `before`. A leaf that was not read for some time is in no cache, and a binary
/// search would wait for one line after another: so the borders of some parts are asked for together, and then the keys
/// and rows of one part.
fn search<K>(keys: &[K], rows: &[RowId], before: impl Fn(&K) -> bool) -> usize {
    let part = keys.len().div_ceil(PARTS).max(1);
    for border in keys.iter().skip(part - 1).step_by(part) {
        prefetch((&raw const *border).cast());
    }
    let mut start = 0;
    while start + part <= keys.len() && before(&keys[start + part - 1]) {
        start += part;
    }
    let end = (start + part).min(keys.len());
    if start < end {
        prefetch((&raw const rows[start]).cast());
        prefetch((&raw const keys[start]).cast());
    }
    start + keys[start..end].partition_point(before)
}

/// See [`LeafRows::range`].
pub(super) enum Range<'a, K> {
    Sorted {
        /// The place of the first row.
        at: usize,
        keys: &'a [K],
        rows: &'a [RowId],
    },
    Tree(btree_map::Range<'a, K, RowId>),
}

impl<'a, K: Key> Range<'a, K> {
    /// The place of the first row, if rows have places.
    pub(super) const fn place(&self) -> Option<usize> {
        match self {
            Self::Sorted { at, .. } => Some(*at),
            Self::Tree(_) => None,
        }
    }

    /// Copies as many rows as there is room for, from one end of the range and the outermost first. Returns how many they
    /// are, and the key of the next one.
    #[inline]
    pub(super) fn copy_to(self, room: &mut [RowId], from_back: bool) -> (usize, Option<&'a K>) {
        match self {
            Self::Sorted { keys, rows, .. } => {
                let count = rows.len().min(room.len());
                if from_back {
                    let outermost = rows.iter().rev();
                    room.iter_mut().zip(outermost).for_each(|(room, row)| *room = *row);
                    (count, keys[..keys.len() - count].last())
                } else {
                    room[..count].copy_from_slice(&rows[..count]);
                    (count, keys.get(count))
                }
            }
            Self::Tree(mut rows) => {
                let mut outermost = || if from_back { rows.next_back() } else { rows.next() };
                let mut count = 0;
                while let Some((key, &row)) = outermost() {
                    let Some(room) = room.get_mut(count) else { return (count, Some(key)) };
                    *room = row;
                    count += 1;
                }
                (count, None)
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn rows_in_any_form_are_those_of_a_map() {
        for most in [300, 3 * MOST_SORTED as u64] {
            let (mut rows, mut model) = (LeafRows::new(), BTreeMap::new());
            for i in 0..2 * most {
                let key = i * 7919 % most;
                if i % 3 == 2 {
                    assert_eq!(rows.remove(&key), model.remove(&key));
                } else {
                    assert_eq!(rows.insert(key, i as RowId), model.insert(key, i as RowId));
                }
                assert_eq!((rows.len(), rows.get(&key)), (model.len(), model.get(&key).copied()));
                let (from, to) = (key / 2, key);
                for bounds in [
                    (Bound::Included(&from), Bound::Excluded(&to)),
                    (Bound::Excluded(&from), Bound::Included(&to)),
                    (Bound::Unbounded, Bound::Included(&from)),
                    (Bound::Included(&to), Bound::Unbounded),
                ] {
                    if i % 50 == 0 && from < to {
                        let mut room = [RowId::MAX; 40];
                        let (count, next) = rows.range(bounds.0, bounds.1).copy_to(&mut room, false);
                        let mut expected = model.range(bounds);
                        assert!(room[..count].iter().eq(expected.by_ref().take(40).map(|(_, row)| row)));
                        assert_eq!(next, expected.next().map(|(key, _)| key));
                        let (count, next) = rows.range(bounds.0, bounds.1).copy_to(&mut room, true);
                        let mut expected = model.range(bounds).rev();
                        assert!(room[..count].iter().eq(expected.by_ref().take(40).map(|(_, row)| row)));
                        assert_eq!(next, expected.next().map(|(key, _)| key));
                    }
                }
                assert_eq!(rows.first_key(), model.keys().next());
                assert_eq!(rows.last_key(), model.keys().next_back());
            }
            assert_eq!(rows.count_after(&(most / 2)), model.range(most / 2 + 1..).count());
            assert!(rows.row_ids().eq(model.values().copied()));
            let was_tree = matches!(rows, LeafRows::Tree(_));
            assert_eq!(was_tree, most > 300);
            while model.len() > 200 {
                let (key, row) = model.pop_first().unwrap();
                assert_eq!(rows.remove(&key), Some(row));
            }
            rows.settle();
            assert!(matches!(rows, LeafRows::Sorted { .. }));
            assert!(rows.into_iter().eq(model));
        }
    }
}
