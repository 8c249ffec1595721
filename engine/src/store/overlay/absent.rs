//! Keys at which the state has no rows, one behind the other, as the speculations of a driver met them.
//!
//! Rows that were taken from the front of a queue stay in the index until nobody can want them any more, and each
//! speculation that looks for the first row would go through all of them. The state does not change while a window is
//! prepared, nor do the granules, so one of them leaves to those that come after it on its driver from where to where
//! there was nothing, and whose granules that was: who leaves keys out has read them all the same.

use std::collections::BTreeMap;

use crate::gaps::FEW;

/// A run of keys without rows: the first one that is remembered and the last one, in the direction of the walk.
#[derive(Debug)]
struct Run<K> {
    first: K,
    last: K,
    met: usize,
    /// The granules on the way, each with the first key that was met after the walk came into it.
    granules: Vec<(K, u64)>,
    /// Those that no key was met in yet.
    entered: Vec<u64>,
}

/// The longest run in a table that walks have met, from the front and from the back (`true`), in each
/// [space](crate::gaps::Spaces).
#[derive(Debug)]
pub(super) struct Absent<K>(BTreeMap<(u64, bool), Run<K>>);

impl<K> Default for Absent<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// A walk from one end, since it met a row.
#[derive(Debug)]
pub(super) struct Walk<K> {
    /// Of a walk from both ends nothing is remembered: rows from one may have been shown to the other.
    ends: Ends,
    met: usize,
    granule: u64,
    run: Option<Box<Run<K>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    None,
    Front,
    Back,
    Both,
}

impl<K: Ord + Clone> Walk<K> {
    pub(super) const fn new() -> Self {
        Self { ends: Ends::None, met: 0, granule: 0, run: None }
    }

    /// It takes a step, from this end.
    #[inline]
    pub(super) fn step(&mut self, from_back: bool) {
        let end = if from_back { Ends::Back } else { Ends::Front };
        if self.ends != end {
            self.ends = if self.ends == Ends::None { end } else { Ends::Both };
            self.run = None;
        }
    }

    /// It comes into a granule.
    #[inline]
    pub(super) fn enter(&mut self, granule: u64) {
        self.granule = granule;
        if let Some(run) = &mut self.run {
            run.entered.push(granule);
        }
    }

    /// There is no row at a key; tells whether it is one of the first few, of which nothing is remembered. Otherwise
    /// [`meet`](Self::meet) follows.
    #[inline]
    pub(super) const fn meet_early(&mut self) -> bool {
        self.met += 1;
        self.met <= FEW || matches!(self.ends, Ends::Both)
    }

    /// There is no row at `key`, which is not one of the first few. Returns where it goes on, if others have gone that way,
    /// and that is in the walk's range, as `is_wanted` tells; `reads` is told of the granules that are left out.
    #[cold]
    pub(super) fn meet(
        &mut self,
        key: &K,
        space: u64,
        absent: &Absent<K>,
        is_wanted: impl FnOnce(&K) -> bool,
        reads: impl FnMut(u64),
    ) -> Option<K> {
        let (granule, from_back) = (self.granule, self.ends == Ends::Back);
        let is_behind = |one: &K, other: &K| if from_back { one < other } else { one > other };
        let run = self.run.get_or_insert_with(|| Box::new(Run::at(key, Some(granule))));
        run.granules.extend(run.entered.drain(..).map(|granule| (key.clone(), granule)));
        run.last.clone_from(key);
        run.met += 1;
        let known = absent.0.get(&(space, from_back))?;
        if is_behind(&known.first, key) || !is_behind(&known.last, key) || !is_wanted(&known.last) {
            return None;
        }
        // The walk is in the granule of this key, which no key behind it came first in.
        let missed = known.granules.partition_point(|(first, _)| is_behind(key, first));
        known.granules[missed..].iter().map(|(_, granule)| *granule).for_each(reads);
        // What comes now is told where the other one ended.
        **run = Run::at(&known.last, None);
        Some(known.last.clone())
    }

    /// There is a row, or the end.
    #[inline]
    pub(super) fn end(&mut self) -> Option<Left<K>> {
        self.met = 0;
        let run = self.run.take().filter(|run| run.met > 0)?;
        Some(Left { run, from_back: self.ends == Ends::Back })
    }
}

/// What a walk leaves to others.
pub(super) struct Left<K> {
    run: Box<Run<K>>,
    from_back: bool,
}

impl<K: Ord + Clone> Left<K> {
    /// Leaves it to those in its space.
    #[cold]
    pub(super) fn to(self, space: impl FnOnce(&K) -> u64, absent: &mut Absent<K>) {
        let Self { run, from_back } = self;
        let place = (space(&run.last), from_back);
        match absent.0.get_mut(&place) {
            // It went on where the other one ended.
            Some(longest) if longest.last == run.first => {
                if run.last != run.first {
                    longest.last = run.last;
                    longest.met += run.met;
                    longest.granules.extend(run.granules);
                }
            }
            Some(longest) if longest.met >= run.met => {}
            _ => _ = absent.0.insert(place, *run),
        }
    }
}

impl<K: Clone> Run<K> {
    fn at(key: &K, granule: Option<u64>) -> Self {
        let granules = granule.into_iter().map(|granule| (key.clone(), granule)).collect();
        Self { first: key.clone(), last: key.clone(), met: 0, granules, entered: Vec::new() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::gaps::tests::random_from;

    /// Granules have so many keys.
    const GRANULE: u64 = 10;

    /// What a walk found from `key` to `end`.
    struct Found {
        row: Option<u64>,
        granules: BTreeSet<u64>,
        steps: usize,
        /// Granules that it was told of.
        told: usize,
    }

    fn walk(absent: &mut Absent<u64>, rows: &BTreeSet<u64>, key: u64, end: u64) -> Found {
        let from_back = end < key;
        let (mut walk, mut at, mut entered) = (Walk::new(), key, None);
        let mut found = Found { row: None, granules: BTreeSet::new(), steps: 0, told: 0 };
        loop {
            walk.step(from_back);
            if entered.replace(at / GRANULE) != Some(at / GRANULE) {
                walk.enter(at / GRANULE);
                found.granules.insert(at / GRANULE);
            }
            if rows.contains(&at) {
                found.row = Some(at);
                break;
            }
            found.steps += 1;
            let skipped = if walk.meet_early() {
                None
            } else {
                let is_wanted = |last: &u64| if from_back { *last >= end } else { *last <= end };
                walk.meet(&at, 0, absent, is_wanted, |granule| {
                    found.granules.insert(granule);
                    found.told += 1;
                })
            };
            if skipped.is_none() && at == end {
                break;
            }
            at = skipped.unwrap_or_else(|| if from_back { at.wrapping_sub(1) } else { at + 1 });
        }
        if let Some(left) = walk.end() {
            left.to(|_| 0, absent);
        }
        found
    }

    #[test]
    fn walks_find_the_same_rows_and_read_just_the_granules_up_to_them() {
        const KEYS: u64 = 2_000;
        let mut random = random_from(1);
        let mut told = 0;
        for _ in 0..200 {
            let count = random(30);
            let rows: BTreeSet<_> = (0..count).map(|_| random(KEYS)).collect();
            let mut absent = Absent::default();
            for _ in 0..100 {
                let (key, end) = (random(KEYS), random(KEYS));
                let found = walk(&mut absent, &rows, key, end);
                let expected =
                    if end < key { rows.range(end..=key).next_back() } else { rows.range(key..=end).next() };
                assert_eq!(found.row, expected.copied());
                let end = found.row.unwrap_or(end);
                let granules: BTreeSet<_> = (key.min(end) / GRANULE..=key.max(end) / GRANULE).collect();
                assert_eq!(found.granules, granules, "{key} to {end}");
                told += found.told;
            }
        }
        assert!(told > 10_000, "{told}");
    }

    #[test]
    fn only_the_first_walk_goes_through_all_of_a_long_run() {
        const KEYS: u64 = 10_000;
        for (key, end) in [(0, KEYS - 1), (KEYS - 1, 0)] {
            let (mut absent, rows) = (Absent::default(), BTreeSet::from([end]));
            for turn in 0..100 {
                let found = walk(&mut absent, &rows, key, end);
                assert_eq!(found.row, Some(end));
                assert!(turn == 0 || found.steps < 32, "{} steps", found.steps);
                assert!(found.told <= (KEYS / GRANULE) as usize, "{} granules", found.told);
            }
        }
    }

    #[test]
    fn keys_of_another_order_are_not_left_out() {
        let mut absent = Absent::default();
        let mut first = Walk::new();
        first.step(false);
        first.enter(7);
        for key in 0..100u64 {
            if !first.meet_early() {
                assert_eq!(first.meet(&key, 7, &absent, |_| true, |_| ()), None);
            }
        }
        first.end().expect("it was long").to(|_| 7, &mut absent);
        for (space, skips) in [(8, None), (7, Some(99))] {
            let mut walk = Walk::new();
            walk.step(false);
            walk.enter(space);
            let mut to = None;
            for key in 0..20u64 {
                if !walk.meet_early() {
                    to = to.or_else(|| walk.meet(&key, space, &absent, |_| true, |_| ()));
                }
            }
            assert_eq!(to, skips);
        }
    }
}
