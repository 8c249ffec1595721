//! Where walks over keys in order found no row, so that the next ones need not go there again.
//!
//! A transaction that takes rows from the front of a queue leaves a run of rows without a value that grows, and each walk
//! that looked for the first row would go all through it. So a walk that meets more than a few such keys one after
//! another remembers from where to where they stood, and one that comes there later goes on at the end. That holds as long
//! as nobody changes what they look at without telling ([`Gaps::split`]): for one transaction, or for those that run one by
//! one and commit.
#![doc(hidden)]

use std::collections::BTreeMap;

/// How many keys without rows are gone through before anything is remembered or looked up.
pub(crate) const FEW: usize = 16;

/// Pairs of keys between which there is no row. Of those themselves nothing is said; no two pairs overlap.
#[derive(Debug)]
pub struct Gaps<K>(BTreeMap<K, K>);

impl<K: Ord + Clone> Gaps<K> {
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Remembers what a walk met since it met a row: there is a row now, or the end.
    #[inline]
    pub fn add(&mut self, run: Run<K>) {
        if run.is_worth_it()
            && let Some((first, last)) = run.ends
        {
            let (from, to) = if first <= last { (first, last) } else { (last, first) };
            // Nor is there one at these.
            self.join(from, to, |last, from| last >= from);
        }
    }

    /// Remembers what is in another one.
    fn add_all(&mut self, other: Self) {
        for (from, to) in other.0 {
            // There may be a row where one ends and the next one begins.
            self.join(from, to, |last, from| last > from);
        }
    }

    /// There is no row between these keys. One pair that ends where another one begins goes on as far as they meet.
    fn join(&mut self, mut from: K, mut to: K, meet: impl Fn(&K, &K) -> bool) {
        if let Some((first, last)) = self.0.range(..=&from).next_back()
            && meet(last, &from)
        {
            // What is known may reach further.
            to = to.max(last.clone());
            from = first.clone();
        }
        while let Some((first, _)) = self.0.range(&from..).next()
            && *first < to
        {
            let first = first.clone();
            to = to.max(self.0.remove(&first).expect("it was there"));
        }
        self.0.insert(from, to);
    }

    /// There may be a row at `key` now.
    #[inline]
    pub fn split(&mut self, key: &K) {
        if !self.0.is_empty()
            && let Some((_, last)) = self.0.range_mut(..key).next_back()
            && *last > *key
        {
            let last = std::mem::replace(last, key.clone());
            self.0.insert(key.clone(), last);
        }
    }

    /// Where a walk goes on from `key`, at which there is no row, if it is known that there is none before.
    fn end(&self, key: &K, from_back: bool) -> Option<&K> {
        if from_back {
            return self.0.range(..key).next_back().filter(|(_, last)| *last >= key).map(|(first, _)| first);
        }
        self.0.range(..=key).next_back().filter(|(_, last)| *last > key).map(|(_, last)| last)
    }
}

impl<K: Ord + Clone> Default for Gaps<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// Gaps by space: keys that have one order with each other. Those of a grouped table have one in each granule.
#[derive(Debug)]
pub(crate) struct Spaces<K>(BTreeMap<u64, Gaps<K>>);

impl<K: Ord + Clone> Spaces<K> {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// See [`Gaps::add`].
    #[inline]
    pub(crate) fn add(&mut self, space: impl FnOnce() -> u64, run: Run<K>) {
        if run.is_worth_it() {
            self.0.entry(space()).or_default().add(run);
        }
    }

    /// See [`Gaps::add_all`].
    pub(crate) fn add_all(&mut self, other: Self) {
        for (space, gaps) in other.0 {
            self.0.entry(space).or_default().add_all(gaps);
        }
    }

    /// See [`Gaps::split`].
    #[inline]
    pub(crate) fn split(&mut self, space: impl FnOnce() -> u64, key: &K) {
        if !self.0.is_empty()
            && let Some(gaps) = self.0.get_mut(&space())
        {
            gaps.split(key);
        }
    }

    /// See [`Gaps::end`].
    pub(crate) fn end(&self, space: u64, key: &K, from_back: bool) -> Option<&K> {
        self.0.get(&space)?.end(key, from_back)
    }
}

impl<K> Default for Spaces<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// A run of keys without rows, as a walk meets one after another.
#[derive(Debug)]
pub struct Run<K> {
    /// How many keys were gone through.
    met: usize,
    /// The first one that is worth to be remembered, and the newest.
    ends: Option<(K, K)>,
}

impl<K: Ord + Clone> Run<K> {
    #[must_use]
    pub const fn new() -> Self {
        Self { met: 0, ends: None }
    }

    /// There is no row at `key`. Returns where to go on if that is known.
    #[inline]
    pub fn meet<'g>(&mut self, key: &K, from_back: bool, gaps: &'g Gaps<K>) -> Option<&'g K> {
        if self.meet_early() { None } else { self.meet_one_more(key, from_back, gaps) }
    }

    /// The same for one of the first few, of which nothing is remembered; tells whether it is one of them.
    #[inline]
    pub const fn meet_early(&mut self) -> bool {
        let is_early = self.met < FEW;
        self.met += is_early as usize;
        is_early
    }

    #[cold]
    fn meet_one_more<'g>(&mut self, key: &K, from_back: bool, gaps: &'g Gaps<K>) -> Option<&'g K> {
        self.meet_late(key);
        gaps.end(key, from_back)
    }

    /// The same for one after the first few. Where to go on is looked up by the caller.
    pub(crate) fn meet_late(&mut self, key: &K) {
        self.met += 1;
        match &mut self.ends {
            Some((_, newest)) => newest.clone_from(key),
            none => *none = Some((key.clone(), key.clone())),
        }
    }

    /// Whether it is to be remembered: few that are new are not worth it.
    #[must_use]
    pub(crate) const fn is_worth_it(&self) -> bool {
        self.met > 2 * FEW
    }
}

impl<K: Ord + Clone> Default for Run<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Numbers below the one that each call names.
    pub(crate) fn random_from(mut seed: u64) -> impl FnMut(u64) -> u64 {
        move |below| {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (seed >> 33) % below
        }
    }

    /// Walks from `key`, from a row or not, over keys below `keys`; returns the row it finds and the steps it takes.
    fn walk(
        gaps: &mut Gaps<u64>,
        is_row: impl Fn(u64) -> bool,
        key: u64,
        keys: u64,
        from_back: bool,
    ) -> (Option<u64>, u64) {
        let (mut run, mut at, mut steps) = (Run::new(), key, 0);
        let found = loop {
            if is_row(at) {
                break Some(at);
            }
            steps += 1;
            let next = if from_back { at.checked_sub(1) } else { Some(at + 1).filter(|&next| next < keys) };
            match run.meet(&at, from_back, gaps).copied().or(next) {
                Some(next) => at = next,
                None => break None,
            }
        };
        gaps.add(run);
        (found, steps)
    }

    #[test]
    fn walks_that_skip_gaps_find_the_same_rows() {
        const KEYS: u64 = 400;
        let mut random = random_from(1);
        let (mut gaps, mut rows) = (Gaps::new(), BTreeSet::new());
        let mut all_steps = 0;
        for _ in 0..40_000 {
            let key = random(KEYS);
            match random(8) {
                0 if random(4) == 0 => {
                    rows.insert(key);
                    gaps.split(&key);
                }
                0..=3 => {
                    rows.remove(&key);
                }
                kind => {
                    let from_back = kind > 5;
                    let (found, steps) = walk(&mut gaps, |key| rows.contains(&key), key, KEYS, from_back);
                    let expected =
                        if from_back { rows.range(..=key).next_back() } else { rows.range(key..).next() };
                    assert_eq!(found, expected.copied());
                    all_steps += steps;
                }
            }
        }
        assert!(all_steps > 20_000, "rows are rare: {all_steps} steps");
    }

    #[test]
    fn what_transactions_leave_that_commit_is_right_and_others_leave_nothing() {
        const KEYS: u64 = 400;
        let mut random = random_from(7);
        let (mut all, mut rows) = (Gaps::new(), BTreeSet::new());
        let mut skipped = 0;
        for _ in 0..10_000 {
            let (mut own, before) = (Gaps::new(), rows.clone());
            for _ in 0..random(6) {
                let key = random(KEYS);
                match random(8) {
                    0 if random(4) == 0 => {
                        rows.insert(key);
                        [&mut all, &mut own].into_iter().for_each(|gaps| gaps.split(&key));
                    }
                    0..=3 => {
                        rows.remove(&key);
                    }
                    kind => {
                        let from_back = kind > 5;
                        let expected =
                            if from_back { rows.range(..=key).next_back() } else { rows.range(key..).next() };
                        let (expected, mut run, mut at) = (expected.copied(), Run::new(), key);
                        let found = loop {
                            if rows.contains(&at) {
                                break Some(at);
                            }
                            let next = if from_back {
                                at.checked_sub(1)
                            } else {
                                Some(at + 1).filter(|&next| next < KEYS)
                            };
                            let end = if run.meet_early() {
                                None
                            } else {
                                run.meet_late(&at);
                                all.end(&at, from_back).or_else(|| own.end(&at, from_back)).copied()
                            };
                            skipped += u64::from(end.is_some());
                            match end.or(next) {
                                Some(next) => at = next,
                                None => break None,
                            }
                        };
                        assert_eq!(found, expected);
                        own.add(run);
                    }
                }
            }
            if random(3) > 0 {
                all.add_all(own);
            } else {
                rows = before;
            }
        }
        assert!(skipped > 10_000, "{skipped}");
    }

    #[test]
    fn walks_over_what_was_taken_from_a_queue_take_a_few_steps_each() {
        const ROWS: u64 = 10_000;
        for from_back in [false, true] {
            let (mut gaps, mut all_steps) = (Gaps::new(), 0);
            for taken in 0..=ROWS {
                let is_row = |key| if from_back { key < ROWS - taken } else { key >= taken };
                let start = if from_back { ROWS - 1 } else { 0 };
                let (found, steps) = walk(&mut gaps, is_row, start, ROWS, from_back);
                assert_eq!(found.is_some(), taken < ROWS);
                all_steps += steps;
            }
            assert!(all_steps < 64 * ROWS, "{all_steps} steps");
        }
    }
}
