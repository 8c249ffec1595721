//! Rows that only snapshots see: deleted, and kept until no snapshot needs them.
//!
//! Where keys are in order, whoever looks for the first row goes past all that are gone, so that each transaction that
//! takes one from a queue would go past all that a snapshot holds. So at the end of a window such rows are *buried*: they
//! go from the index to here, where only snapshots look. If a key gets a row again, that is the one that was buried, which
//! goes back into the index, but stays here as well for as long as it would have: a key never has two rows.
//!
//! A row is entered here before it goes from the index, and whoever looks for rows of the past looks into the index
//! first: so a row that is needed is found in one of the two, or in both.
//!
//! A snapshot that is newer than most of what is buried need not go past that either: the rows are cut into parts, each
//! of which knows when its last row was deleted.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{OnceLock, RwLock};

use crossbeam_utils::CachePadded;
use crossbeam_utils::sync::ShardedLock;

use super::bytes_of_node;
use super::leaf_index::{is_empty, narrow};
use super::row::Stamp;
use super::slab::RowId;
use crate::table::Key;

/// With more rows than this a part is cut.
const MOST_IN_PART: usize = 512;

const UNPOISONED: &str = "no panic among buried rows";

/// See the module's documentation.
pub(crate) struct Buried<K>(OnceLock<Box<Graves<K>>>);

/// What the first row that is buried makes, in bytes, and what stays: the shards of a lock, and a node of a tree.
pub(crate) const fn bytes_when_used<K>() -> usize {
    size_of::<Graves<K>>() + SHARDS * size_of::<CachePadded<RwLock<()>>>() + bytes_of_node::<K, Grave>()
}

/// Of a [`ShardedLock`].
const SHARDS: usize = 8;

/// What stands here for a row that is buried, in bytes.
pub(crate) const fn bytes_of_row<K>() -> usize {
    size_of::<(K, Grave)>()
}

struct Graves<K> {
    /// Counts what was entered.
    entered: AtomicU64,
    /// The newest stamp among all rows that were ever entered: when that one was deleted.
    newest: AtomicU64,
    /// How many rows there are.
    count: AtomicUsize,
    /// Sharded, since who inserts rows looks here whether one comes back.
    lists: ShardedLock<Lists<K>>,
}

struct Lists<K> {
    rows: BTreeMap<K, Grave>,
    /// The part before all fences.
    first: Part,
    /// The others, by where they begin.
    further: BTreeMap<K, Part>,
}

#[derive(Clone, Copy)]
struct Grave {
    row: RowId,
    /// When it was deleted, the last time that it was entered.
    stamp: Stamp,
    /// Whether it went back into the index since.
    is_back: bool,
}

/// Rows next to each other.
struct Part {
    count: usize,
    /// No row in it was deleted after this.
    newest: Stamp,
}

impl Part {
    const EMPTY: Self = Self { count: 0, newest: Stamp::FREE };

    fn add(&mut self, stamp: Stamp) {
        self.count += 1;
        self.newest = self.newest.max(stamp);
    }
}

impl<K: Key> Lists<K> {
    /// The part that a row is in, and where that begins.
    fn part_of(&mut self, key: &K) -> (Option<&K>, &mut Part) {
        match self.further.range_mut(..=key).next_back() {
            Some((fence, part)) => (Some(fence), part),
            None => (None, &mut self.first),
        }
    }

    /// Tells whether it was not there.
    fn enter(&mut self, key: K, grave: Grave) -> bool {
        if let Some(before) = self.rows.get_mut(&key) {
            assert!(before.row == grave.row && before.is_back, "a key has one row, which is buried once");
            *before = grave;
            let (_, part) = self.part_of(&key);
            part.newest = part.newest.max(grave.stamp);
            return false;
        }
        let (fence, part) = self.part_of(&key);
        part.add(grave.stamp);
        let fence = (part.count > MOST_IN_PART).then(|| fence.cloned());
        self.rows.insert(key, grave);
        if let Some(fence) = fence {
            self.cut(fence);
        }
        true
    }

    /// Cuts the part that begins there into two.
    fn cut(&mut self, fence: Option<K>) {
        let after = fence.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let end = self.further.range((after, Bound::Unbounded)).next().map(|(next, _)| next);
        let start = fence.as_ref().map_or(Bound::Unbounded, Bound::Included);
        let rows = self.rows.range((start, end.map_or(Bound::Unbounded, Bound::Excluded)));
        let (mut lower, mut upper, mut middle) = (Part::EMPTY, Part::EMPTY, None);
        for (key, grave) in rows {
            if lower.count < MOST_IN_PART / 2 {
                lower.add(grave.stamp);
            } else {
                middle.get_or_insert(key);
                upper.add(grave.stamp);
            }
        }
        let middle = middle.expect("it has too many rows").clone();
        match fence {
            Some(fence) => *self.further.get_mut(&fence).expect("the part begins there") = lower,
            None => self.first = lower,
        }
        self.further.insert(middle, upper);
    }

    fn take_out(&mut self, key: &K) {
        self.rows.remove(key);
        let (fence, part) = self.part_of(key);
        part.count -= 1;
        if part.count == 0 {
            match fence.cloned() {
                Some(fence) => drop(self.further.remove(&fence)),
                None => self.first = Part::EMPTY,
            }
        }
    }

    /// Shows `see` rows of a range that is not empty and that were deleted after `at`, from one end, until that says no.
    fn visit(
        &self,
        (from, to): (Bound<&K>, Bound<&K>),
        at: Stamp,
        from_back: bool,
        mut see: impl FnMut(&K, RowId) -> bool,
    ) {
        let (after, start) = match from {
            Bound::Included(key) | Bound::Excluded(key) => {
                (Bound::Excluded(key), self.further.range(..=key).next_back().map(|(_, part)| part))
            }
            Bound::Unbounded => (Bound::Unbounded, None),
        };
        let start = start.unwrap_or(&self.first);
        let mut fences = self.further.range((after, to));
        let mut see_in = |part: &Part, from: Bound<&K>, to: Bound<&K>| {
            if part.newest <= at {
                return true;
            }
            let mut rows = self.rows.range((from, to));
            let mut see = |(key, grave): (&K, &Grave)| grave.stamp <= at || see(key, grave.row);
            if from_back { rows.rev().all(&mut see) } else { rows.all(&mut see) }
        };
        if from_back {
            let mut to = to;
            while let Some((fence, part)) = fences.next_back() {
                if !see_in(part, Bound::Included(fence), to) {
                    return;
                }
                to = Bound::Excluded(fence);
            }
            see_in(start, from, to);
        } else {
            let (mut part, mut from) = (start, from);
            for (fence, next) in fences {
                if !see_in(part, from, Bound::Excluded(fence)) {
                    return;
                }
                (part, from) = (next, Bound::Included(fence));
            }
            see_in(part, from, to);
        }
    }
}

impl<K: Key> Buried<K> {
    pub(crate) const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Enters rows that are in the index, each with the stamp of its deletion. Tells whether they are the first.
    pub(crate) fn enter(&self, rows: impl Iterator<Item = (K, RowId, Stamp)>) -> bool {
        let mut is_first = false;
        let graves = self.0.get_or_init(|| {
            is_first = true;
            let lists = Lists { rows: BTreeMap::new(), first: Part::EMPTY, further: BTreeMap::new() };
            Box::new(Graves {
                entered: AtomicU64::new(0),
                newest: AtomicU64::new(0),
                count: AtomicUsize::new(0),
                lists: ShardedLock::new(lists),
            })
        });
        let mut lists = graves.lists.write().expect(UNPOISONED);
        for (key, row, stamp) in rows {
            if lists.enter(key, Grave { row, stamp, is_back: false }) {
                graves.count.fetch_add(1, Ordering::Relaxed);
            }
            // Release: who does not find the row in the index any more sees that something was entered.
            graves.newest.fetch_max(stamp.bits(), Ordering::Release);
            graves.entered.fetch_add(1, Ordering::Release);
        }
        is_first
    }

    /// The row of a key that comes again and is not in the index: it goes back there, says the caller, who may write it.
    #[inline]
    pub(crate) fn bring_back(&self, key: &K) -> Option<RowId> {
        // Workers see each other's entries and removals through the barriers between windows.
        let graves = self.0.get().filter(|graves| graves.count.load(Ordering::Relaxed) > 0)?;
        graves.lists.read().expect(UNPOISONED).rows.get(key)?;
        let mut lists = graves.lists.write().expect(UNPOISONED);
        let grave = lists.rows.get_mut(key)?;
        let (row, was_back) = (grave.row, std::mem::replace(&mut grave.is_back, true));
        // Not under the lock, which snapshots need.
        drop(lists);
        assert!(!was_back, "a row of the index is not brought back");
        Some(row)
    }

    /// Takes a row out that was entered with this stamp, and nobody needs any more as it was before. Tells whether it is
    /// in no index: it may have come back, and may have been entered again or gone since.
    pub(crate) fn take_out(&self, key: &K, row: RowId, stamp: Stamp) -> bool {
        let graves = self.0.get().expect("the row was entered");
        let mut lists = graves.lists.write().expect(UNPOISONED);
        let Some(&grave) = lists.rows.get(key).filter(|grave| (grave.row, grave.stamp) == (row, stamp))
        else {
            return false;
        };
        lists.take_out(key);
        graves.count.fetch_sub(1, Ordering::Relaxed);
        !grave.is_back
    }

    /// A row of the index goes for good: it is not here either then.
    pub(crate) fn forget(&self, key: &K) {
        if let Some(graves) = self.0.get().filter(|graves| graves.count.load(Ordering::Relaxed) > 0) {
            let mut lists = graves.lists.write().expect(UNPOISONED);
            if lists.rows.contains_key(key) {
                lists.take_out(key);
                graves.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// What was entered, if any of it was deleted after `at`.
    #[inline]
    fn after(&self, at: Stamp) -> Option<&Graves<K>> {
        self.0
            .get()
            .map(|graves| &**graves)
            .filter(|graves| graves.newest.load(Ordering::Acquire) > at.bits())
    }

    /// The row of a key, if it was deleted after `at`. After the index was asked.
    pub(crate) fn find(&self, key: &K, at: Stamp) -> Option<RowId> {
        let lists = self.after(at)?.lists.read().expect(UNPOISONED);
        lists.rows.get(key).filter(|grave| grave.stamp > at).map(|grave| grave.row)
    }
}

type Bounds<K> = (Bound<K>, Bound<K>);

/// The buried rows of a range that were deleted after some time, from both ends, in key order.
pub(crate) struct BuriedRows<'a, K> {
    buried: &'a Buried<K>,
    at: Stamp,
    /// What was not given out yet; `None` when nothing is left.
    rest: Option<Bounds<K>>,
    /// Rows next to one end, the outermost first.
    taken: VecDeque<(K, RowId)>,
    /// Which end that is; how many rows had been entered when they were taken; and whether there are more.
    from_back: bool,
    entered: u64,
    more: bool,
    /// How many are taken next.
    count: usize,
}

impl<'a, K: Key> BuriedRows<'a, K> {
    /// How many rows are taken at first, most callers want one or a few, and at most.
    const FIRST: usize = 4;
    const MOST: usize = 64;

    pub(crate) fn new(buried: &'a Buried<K>, from: Bound<K>, to: Bound<K>, at: Stamp) -> Self {
        let rest = (!is_empty(from.as_ref(), to.as_ref())).then_some((from, to));
        let taken = VecDeque::new();
        Self { buried, at, rest, taken, from_back: false, entered: 0, more: false, count: Self::FIRST }
    }

    /// The next row from one end. To be asked after the index was: what has gone from there meanwhile is here.
    ///
    /// `given` tells the keys that were given out last from the front and from the back, of rows in the index: beyond them
    /// nothing is wanted.
    #[inline]
    pub(crate) fn peek(
        &mut self,
        from_back: bool,
        given: impl FnOnce() -> [Option<K>; 2],
    ) -> Option<&(K, RowId)> {
        let entered = self.buried.after(self.at)?.entered.load(Ordering::Acquire);
        if self.entered != entered || self.from_back != from_back || self.taken.is_empty() && self.more {
            self.take(from_back, given());
        }
        self.taken.front()
    }

    /// Goes past the row that [`peek`](Self::peek) showed, and returns it.
    pub(crate) fn pass(&mut self) -> Option<RowId> {
        let (key, row) = self.taken.pop_front()?;
        narrow(&mut self.rest, Bound::Excluded(key), self.from_back);
        Some(row)
    }

    /// Goes on at `key` from one end.
    pub(crate) fn skip_to(&mut self, key: &K, from_back: bool) {
        narrow(&mut self.rest, Bound::Included(key.clone()), from_back);
        // Some of these may be beyond it.
        self.taken.clear();
        self.more = true;
    }

    #[cold]
    fn take(&mut self, from_back: bool, [front, back]: [Option<K>; 2]) {
        if let Some(key) = front {
            narrow(&mut self.rest, Bound::Excluded(key), false);
        }
        if let Some(key) = back {
            narrow(&mut self.rest, Bound::Excluded(key), true);
        }
        self.taken.clear();
        (self.from_back, self.more) = (from_back, false);
        let Some(graves) = self.buried.0.get() else { return };
        let lists = graves.lists.read().expect(UNPOISONED);
        // Under the lock nothing is entered.
        self.entered = graves.entered.load(Ordering::Relaxed);
        let Some((from, to)) = &self.rest else { return };
        lists.visit((from.as_ref(), to.as_ref()), self.at, from_back, |key, row| {
            self.taken.push_back((key.clone(), row));
            self.taken.len() < self.count
        });
        self.more = self.taken.len() == self.count;
        self.count = (2 * self.count).min(Self::MOST);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeMap;

    use mixlog_log::Position;

    use super::*;

    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (self.0 >> 33) % bound
        }
    }

    fn stamp(n: u64) -> Stamp {
        Stamp::of(Position(n))
    }

    /// Rows come, in any order or ascending, some of them again, and go, oldest first; walks from both ends in any turn,
    /// some of which go on behind a key, see those of a map that were deleted after their position.
    #[test]
    fn rows_in_a_range_are_those_of_a_map_that_were_deleted_after_a_position() {
        for seed in 0..6 {
            let (mut random, buried) = (Random(seed), Buried::new());
            let (mut model, mut in_turn) = (BTreeMap::<u64, (RowId, Stamp, bool)>::new(), VecDeque::new());
            for n in 0..6_000u64 {
                let key = if seed % 2 == 0 { n / 3 } else { random.below(3_000) };
                let is_back = model.get(&key).is_some_and(|row| row.2);
                let row = model.get(&key).map_or(n as RowId, |row| row.0);
                if !is_back {
                    let back = buried.bring_back(&key);
                    assert_eq!(back, model.get(&key).map(|row| row.0));
                }
                match random.below(8) {
                    0 => {
                        if let Some(row) = model.get_mut(&key) {
                            row.2 = true;
                        }
                    }
                    1 => {
                        buried.forget(&key);
                        model.remove(&key);
                    }
                    _ => {
                        buried.enter([(key, row, stamp(n))].into_iter());
                        model.insert(key, (row, stamp(n), false));
                        in_turn.push_back((key, row, stamp(n)));
                    }
                }
                while in_turn.len() as u64 > 3_000 || random.below(3) == 0 {
                    let Some((key, row, stamp)) = in_turn.pop_front() else { break };
                    let is_same = model.get(&key).is_some_and(|found| (found.0, found.1) == (row, stamp));
                    let taken = if is_same { model.remove(&key) } else { None };
                    assert_eq!(buried.take_out(&key, row, stamp), taken.is_some_and(|row| !row.2));
                }
                if n % 50 > 0 {
                    continue;
                }
                let at = stamp(n.saturating_sub(random.below(2_000)));
                let (from, to) = (random.below(3_000), random.below(3_000));
                let mut walk =
                    BuriedRows::new(&buried, Bound::Included(from), Bound::Excluded(to.max(from)), at);
                let rows = model.range(from..to.max(from)).filter(|(_, row)| row.1 > at);
                let mut expected: VecDeque<_> = rows.map(|(key, row)| (*key, row.0)).collect();
                let (turns, mut from_back) = (random.below(3), false);
                loop {
                    if random.below(4) == 0 {
                        from_back = random.below(3) < turns;
                    }
                    if random.below(20) == 0
                        && let Some(&(key, _)) = expected.get(expected.len() / 4)
                    {
                        walk.skip_to(&key, false);
                        expected.retain(|row| row.0 >= key);
                    }
                    let found = walk.peek(from_back, || [None; 2]).copied();
                    let next = if from_back { expected.pop_back() } else { expected.pop_front() };
                    assert_eq!(found, next, "seed {seed}, {n}");
                    if next.is_none() {
                        break;
                    }
                    assert_eq!(walk.pass(), next.map(|(_, row)| row));
                }
                assert_eq!(
                    buried.find(&from, at),
                    model.get(&from).filter(|row| row.1 > at).map(|row| row.0)
                );
            }
        }
    }

    #[test]
    fn snapshots_newer_than_most_rows_look_at_few_of_them() {
        let buried = Buried::new();
        buried.enter((0..100_000).map(|n| (n, n as RowId, stamp(n))));
        let at = |n| {
            let mut walk = BuriedRows::new(&buried, Bound::Unbounded, Bound::Unbounded, stamp(n));
            walk.peek(false, || [None; 2]).map(|&(key, _)| key)
        };
        assert_eq!((at(99_999), at(99_998), at(50_000)), (None, Some(99_999), Some(50_001)));
        let lists = buried.0.get().unwrap().lists.read().unwrap();
        let parts = || [&lists.first].into_iter().chain(lists.further.values());
        assert!(parts().all(|part| part.count <= MOST_IN_PART));
        assert_eq!(parts().filter(|part| part.newest > stamp(99_998)).count(), 1);
        assert!(parts().count() < 2 * 100_000 / (MOST_IN_PART / 2));
    }
}
