//! Walks over the rows of a range, from both ends.

use std::ops::{Bound, RangeBounds};

use super::rows::Range;
use super::{LeafId, LeafIndex, narrow};
use crate::store::slab::RowId;
use crate::table::Key;

/// Rows that were taken and did not come yet.
struct Taken {
    rows: [RowId; Self::MOST],
    /// Those in `rows` are from here to `end`.
    start: usize,
    end: usize,
    /// Rows before this one come without anything else to be done; see [`ahead`](Self::ahead).
    near: usize,
    /// Rows before this one were asked for, and how many before their turn they are: more each time, since many callers
    /// want one row.
    fetched: usize,
    lead: usize,
    /// How many more rows are to be taken, as far as is known: rows that nobody wants are not asked for.
    wanted: usize,
}

/// How many rows before their turn those of a walk are asked for, at most.
const LEAD: usize = 24;

impl Taken {
    const MOST: usize = 64;

    /// Takes rows from one end of `rows`, and returns the first key that is not taken.
    #[inline]
    fn fill<'k, K: Key>(&mut self, rows: Range<'k, K>, from_back: bool) -> Option<&'k K> {
        debug_assert_eq!(self.start, self.end, "rows are taken when there are none");
        // Whoever goes on behind what was wanted may go far.
        let most = if self.wanted == 0 { Self::MOST } else { self.wanted.min(Self::MOST) };
        let (count, next) = rows.copy_to(&mut self.rows[..most], from_back);
        self.wanted = self.wanted.saturating_sub(count);
        (self.start, self.end, self.near, self.fetched) = (0, count, 0, 0);
        next
    }

    /// The rows to ask the cache for, when one was just popped from the front: some at a time, so that this costs nothing
    /// for most.
    #[inline]
    fn ahead(&mut self) -> &[RowId] {
        if self.start < self.near {
            return &[];
        }
        let from = self.fetched.max(self.start);
        self.fetched = (self.start + self.lead).min(self.end);
        self.near = if self.fetched == self.end { self.end } else { self.start + (self.lead / 3).max(1) };
        self.lead = (2 * self.lead).min(LEAD);
        self.rows.get(from..self.fetched).unwrap_or_default()
    }

    /// The row that comes next from the front, if it is near.
    #[inline]
    fn nearest(&self) -> Option<RowId> {
        if self.start < self.near { self.rows.get(self.start).copied() } else { None }
    }

    fn pop_front(&mut self) -> Option<RowId> {
        let row = (self.start < self.end).then(|| self.rows[self.start])?;
        self.start += 1;
        Some(row)
    }

    fn pop_back(&mut self) -> Option<RowId> {
        let row = (self.start < self.end).then(|| self.rows[self.end - 1])?;
        self.end -= 1;
        self.near = self.near.min(self.end);
        Some(row)
    }
}

/// One end of a walk.
struct End {
    /// Those next to this end come first.
    taken: Taken,
    /// The leaf that the walk is in at this end.
    leaf: Option<LeafId>,
    /// Where in it the walk goes on, if it is the front, and as long as neither leaf nor partition change.
    place: Option<Place>,
}

/// Where in a leaf, and in which state of it.
struct Place {
    at: usize,
    leaf_version: u64,
    root_version: u64,
}

impl End {
    const fn new() -> Self {
        Self {
            taken: Taken {
                rows: [0; Taken::MOST],
                start: 0,
                end: 0,
                near: 0,
                fetched: 0,
                lead: 2,
                wanted: usize::MAX,
            },
            leaf: None,
            place: None,
        }
    }
}

/// The numbers of a range's rows, from both ends, some taken at a time, so that no lock is held while the
/// caller looks at rows.
///
/// Rows that are in the index during the whole walk come exactly once; others may come or not, and may be
/// gone again when the caller looks at them.
///
/// Each method shows `visit` the leaves that it enters, each before the walk reads any of it, also those that
/// have no row of the range. A leaf that both ends are in is shown once. The partition is locked meanwhile:
/// `visit` must not use the index; it may panic.
pub(crate) struct Walk<'a, K> {
    index: &'a LeafIndex<K>,
    /// What is not taken yet, never an empty range; `None` when nothing is left.
    rest: Option<(Bound<K>, Bound<K>)>,
    front: End,
    back: End,
}

impl<'a, K: Key> Walk<'a, K> {
    /// Walks `rest`, which is not an empty range.
    pub(super) const fn new(index: &'a LeafIndex<K>, rest: Option<(Bound<K>, Bound<K>)>) -> Self {
        Self { index, rest, front: End::new(), back: End::new() }
    }

    /// About so many rows are wanted, from the front.
    pub(crate) fn hint(&mut self, rows: usize) {
        let front = &mut self.front.taken;
        (front.wanted, front.lead) = (rows, rows.clamp(1, LEAD));
    }

    /// The first row that did not come yet.
    pub(crate) fn next(&mut self, visit: &mut impl FnMut(LeafId)) -> Option<RowId> {
        if let Some(row) = self.front.taken.pop_front() {
            return Some(row);
        }
        self.take(false, visit);
        self.front.taken.pop_front().or_else(|| self.back.taken.pop_back())
    }

    /// The rows to ask the cache for, when one just came from the front, or from the back: their misses overlap then.
    #[inline]
    pub(crate) fn ahead(&mut self, from_back: bool) -> &[RowId] {
        if from_back { self.back.taken.ahead() } else { self.front.taken.ahead() }
    }

    /// The row that comes next from one end, if it was taken and asked for before.
    #[inline]
    pub(crate) fn nearest(&self, from_back: bool) -> Option<RowId> {
        if from_back { self.back.taken.nearest() } else { self.front.taken.nearest() }
    }

    /// Passes the [`nearest`](Self::nearest) row.
    #[inline]
    pub(crate) fn pass_nearest(&mut self, from_back: bool) {
        let taken = if from_back { &mut self.back.taken } else { &mut self.front.taken };
        taken.start += 1;
    }

    /// The last row that did not come yet.
    pub(crate) fn next_back(&mut self, visit: &mut impl FnMut(LeafId)) -> Option<RowId> {
        if let Some(row) = self.back.taken.pop_front() {
            return Some(row);
        }
        self.take(true, visit);
        self.back.taken.pop_front().or_else(|| self.front.taken.pop_back())
    }

    /// Whether there may be rows at `key` that were not taken yet.
    pub(crate) fn reaches(&self, key: &K) -> bool {
        self.rest.as_ref().is_some_and(|rest| rest.contains(key))
    }

    /// What is not taken yet of the keys up to `key`, seen from one end; may be empty.
    pub(crate) fn rest_to<'k>(&'k self, key: &'k K, from_back: bool) -> Option<(Bound<&'k K>, Bound<&'k K>)> {
        let (from, to) = self.rest.as_ref()?;
        let (from, to) = (from.as_ref(), to.as_ref());
        Some(match from_back {
            true if (from, Bound::Unbounded).contains(key) => (Bound::Included(key), to),
            false if (Bound::Unbounded, to).contains(key) => (from, Bound::Included(key)),
            _ => (from, to),
        })
    }

    /// Goes on at `key` from one end: no row before it, as `is_before` tells of those that were taken, is wanted, and
    /// leaves were shown before.
    pub(crate) fn skip_to(&mut self, key: &K, from_back: bool, is_before: impl Fn(RowId) -> bool) {
        let (end, other) = if from_back {
            (&mut self.back, &mut self.front.taken)
        } else {
            (&mut self.front, &mut self.back.taken)
        };
        if narrow(&mut self.rest, Bound::Included(key.clone()), from_back) {
            end.taken.start = end.taken.end;
            end.place = None;
        }
        let taken = &mut end.taken;
        while taken.start < taken.end && is_before(taken.rows[taken.start]) {
            taken.start += 1;
        }
        if self.rest.is_none() && taken.start == taken.end {
            while other.start < other.end && is_before(other.rows[other.end - 1]) {
                other.pop_back();
            }
        }
    }

    /// Takes rows of one leaf from one end of what is left, passing leaves that have none.
    fn take(&mut self, from_back: bool, visit: &mut impl FnMut(LeafId)) {
        if self.rest.is_none() {
            return;
        }
        let root = self.index.root();
        let (end, other) =
            if from_back { (&mut self.back, &self.front) } else { (&mut self.front, &self.back) };
        while let Some((from, to)) = &self.rest
            && end.taken.start == end.taken.end
        {
            let (lower, upper) = (from.as_ref(), to.as_ref());
            let place = end.place.take().filter(|place| !from_back && place.root_version == root.version);
            let last = if from_back { root.further(lower, upper).next_back() } else { None };
            let id = match (&place, last) {
                (Some(_), _) => end.leaf.expect("a place is one in a leaf"),
                (None, Some((_, id))) => id,
                (None, None) => root.first_of(lower),
            };
            if end.leaf != Some(id) {
                if other.leaf != Some(id) {
                    visit(id);
                }
                end.leaf = Some(id);
            }
            let leaf = root.leaf(id);
            let rows = leaf.rows.read().expect("no panic under the lock of a leaf");
            let known = place.filter(|place| place.leaf_version == rows.version);
            let range = known
                .and_then(|place| rows.by_key.range_at(place.at, upper))
                .unwrap_or_else(|| rows.by_key.range(lower, upper));
            // What is left begins, or ends, with the first row that is not taken; without one, at the leaf's
            // fence.
            self.rest = if from_back {
                let border = end.taken.fill(range, true).cloned().map(Bound::Included);
                border
                    .or_else(|| last.map(|(fence, _)| Bound::Excluded(fence.clone())))
                    .map(|to| (from.clone(), to))
            } else {
                let start = range.place();
                let more = end.taken.fill(range, false);
                end.place = start.filter(|_| more.is_some()).map(|start| Place {
                    at: start + end.taken.end,
                    leaf_version: rows.version,
                    root_version: root.version,
                });
                let border = more.or_else(|| {
                    let after = leaf.fence.as_ref().map_or(Bound::Unbounded, Bound::Included);
                    root.further(after, upper).next().map(|(fence, _)| fence)
                });
                border.map(|border| (Bound::Included(border.clone()), to.clone()))
            };
        }
    }
}
