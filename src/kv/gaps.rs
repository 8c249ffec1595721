//! Where walks over keys in order found no row, so that the next ones need not go there again.
//!
//! A queue whose rows are taken from the front leaves a run of deleted keys that grows, and each walk that looked for
//! the first row would go all through it. So a walk that meets more than a few deleted keys one after another remembers
//! from where to where they stood, and one that comes there later goes on at the end.

use std::collections::BTreeMap;

/// How many deleted keys in a row are gone through before anything is remembered or looked up.
const FEW: usize = 16;

/// Pairs of keys between which there is no row. Of those themselves nothing is said; no two overlap.
pub(super) struct Gaps<K>(BTreeMap<K, K>);

impl<K: Ord + Copy> Gaps<K> {
    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// There is no row between these keys, nor at `from`.
    pub(super) fn add(&mut self, mut from: K, mut to: K) {
        if let Some((&first, &last)) = self.0.range(..=from).next_back()
            && last >= from
        {
            from = first;
        }
        while let Some((&first, &last)) = self.0.range(from..).next()
            && first < to
        {
            self.0.remove(&first);
            to = to.max(last);
        }
        self.0.insert(from, to);
    }

    /// There is a row at `key` now.
    pub(super) fn split(&mut self, key: K) {
        if let Some((_, last)) = self.0.range_mut(..key).next_back()
            && *last > key
        {
            let last = std::mem::replace(last, key);
            self.0.insert(key, last);
        }
    }

    /// Where to go on from `key`, at which there is no row.
    fn end(&self, key: K) -> Option<K> {
        self.0.range(..=key).next_back().map(|(_, &last)| last).filter(|&last| last > key)
    }
}

/// A run of keys without rows, as a walk meets one after another.
pub(super) struct Run<K> {
    /// How many keys were gone through.
    met: usize,
    /// From where to where it is worth to be remembered.
    place: Option<(K, K)>,
    /// Runs before this one, for [`Gaps::add`].
    pub(super) found: Vec<(K, K)>,
}

impl<K: Ord + Copy> Run<K> {
    pub(super) const fn new() -> Self {
        Self { met: 0, place: None, found: Vec::new() }
    }

    /// There is no row at `key`. Returns where to go on if that is known.
    pub(super) fn goes_on(&mut self, key: K, gaps: &Gaps<K>) -> Option<K> {
        self.met += 1;
        if self.met <= FEW {
            return None;
        }
        let end = gaps.end(key);
        let (from, _) = self.place.unwrap_or((key, key));
        self.place = Some((from, end.unwrap_or(key)));
        end
    }

    /// A row comes next, or nothing.
    pub(super) fn ends(&mut self) {
        // Few that are new are not worth it.
        if let Some(place) = self.place.take()
            && self.met > 2 * FEW
        {
            self.found.push(place);
        }
        self.met = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Rows come and go, and walks from random keys find the next row, as the set of all rows tells.
    #[test]
    fn walks_that_skip_gaps_find_the_same_rows() {
        const KEYS: u64 = 400;
        let mut seed = 1u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (seed >> 33) % below
        };
        let (mut gaps, mut rows) = (Gaps::new(), BTreeSet::new());
        let (mut steps, mut skips) = (0, 0);
        for _ in 0..20_000 {
            let key = random(KEYS);
            match random(8) {
                0 if random(4) == 0 => {
                    rows.insert(key);
                    gaps.split(key);
                }
                0..=3 => {
                    rows.remove(&key);
                }
                _ => {
                    let mut run = Run::new();
                    let mut at = key;
                    while at < KEYS && !rows.contains(&at) {
                        steps += 1;
                        let end = run.goes_on(at, &gaps);
                        skips += usize::from(end.is_some());
                        at = end.unwrap_or(at + 1);
                    }
                    assert_eq!((at < KEYS).then_some(at), rows.range(key..).next().copied());
                    run.ends();
                    run.found.into_iter().for_each(|(from, to)| gaps.add(from, to));
                }
            }
        }
        assert!(skips > 1000 && steps < 20_000 * 50, "{skips} skips, {steps} steps");
    }

    /// A queue that is emptied from the front: each walk begins before all that were taken.
    #[test]
    fn walks_over_what_was_taken_from_a_queue_take_a_few_steps_each() {
        const ROWS: u32 = 10_000;
        let (mut gaps, mut steps) = (Gaps::new(), 0);
        for head in 0..ROWS {
            let (mut run, mut at) = (Run::new(), 0);
            while at < head {
                steps += 1;
                at = run.goes_on(at, &gaps).unwrap_or(at + 1);
            }
            run.ends();
            run.found.into_iter().for_each(|(from, to)| gaps.add(from, to));
        }
        assert!(steps < 64 * ROWS, "{steps} steps");
    }
}
