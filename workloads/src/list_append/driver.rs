//! Which transactions clients submit.

use std::sync::{Arc, Mutex};

use super::transaction::{ListAppend, Operation};
use crate::random::Rng;

/// How list-append runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Keys that are in use at the same time, at least one. Fewer make more conflicts.
    pub keys: u64,
    /// Operations of a transaction at most, at least one. Each number up to this is equally likely.
    pub max_operations: u32,
    /// Appends to a key, at least one, before another takes its place. More make longer lists and histories.
    pub max_writes_per_key: u32,
    /// The share of transactions, from 0 to 1, that abort when they have done everything.
    pub abort: f64,
}

impl Config {
    /// Ten keys at a time, up to four operations and 64 appends to a key, no aborts.
    #[must_use]
    pub const fn new() -> Self {
        Self { keys: 10, max_operations: 4, max_writes_per_key: 64, abort: 0.0 }
    }

    /// What is wrong with the configuration, if anything.
    #[must_use]
    pub fn problem(&self) -> Option<&'static str> {
        if !(1..=1_000_000).contains(&self.keys) {
            Some("list-append needs from 1 to 1000000 keys")
        } else if !(1..=1_000).contains(&self.max_operations) {
            Some("a list-append transaction has from 1 to 1000 operations")
        } else if !(1..=65_536).contains(&self.max_writes_per_key) {
            Some("a key takes from 1 to 65536 appends")
        } else if !(0.0..=1.0).contains(&self.abort) {
            Some("the share of aborts is from 0 to 1")
        } else {
            None
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

/// The keys in use, shared by the clients of a run: no two append the same value to a key.
#[derive(Debug)]
pub struct Keys {
    /// Each with the number of appends that it was given.
    active: Vec<(u64, u32)>,
    next: u64,
    max_writes: u32,
}

impl Keys {
    /// The keys from `first`.
    #[must_use]
    pub fn new(config: &Config, first: u64) -> Self {
        let next = first + config.keys;
        Self {
            active: (first..next).map(|key| (key, 0)).collect(),
            next,
            max_writes: config.max_writes_per_key,
        }
    }

    /// The next append to one of the keys.
    fn append(&mut self, place: usize) -> Operation {
        let (key, appends) = &mut self.active[place];
        *appends += 1;
        let operation = Operation::Append { key: *key, value: *appends };
        if *appends == self.max_writes {
            (*key, *appends) = (self.next, 0);
            self.next += 1;
        }
        operation
    }
}

/// Endless transactions. The same configuration, seed and client give the same, as long as no other client shares the
/// keys.
#[derive(Clone, Debug)]
pub struct Driver {
    config: Config,
    keys: Arc<Mutex<Keys>>,
    rng: Rng,
}

impl Driver {
    /// The transactions of one client.
    #[must_use]
    pub const fn new(config: Config, keys: Arc<Mutex<Keys>>, seed: u64, client: u32) -> Self {
        Self { config, keys, rng: Rng::for_row(seed, 0, client as u64 + 1) }
    }

    /// The next transaction.
    ///
    /// # Panics
    /// If another client panicked while it drew.
    pub fn draw(&mut self) -> ListAppend {
        let Self { config, keys, rng } = self;
        let count = rng.between(1, u64::from(config.max_operations));
        let mut keys = keys.lock().expect("no panic while drawing");
        let draw = |_| {
            let place = rng.below(config.keys) as usize;
            if rng.percent(50) { keys.append(place) } else { Operation::Read { key: keys.active[place].0 } }
        };
        let operations = (0..count).map(draw).collect();
        ListAppend { operations, abort: rng.chance(config.abort) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn values_are_unique_and_keys_make_room() {
        let config = Config { keys: 3, max_operations: 5, max_writes_per_key: 7, abort: 0.25 };
        let keys = Arc::new(Mutex::new(Keys::new(&config, 100)));
        let mut drivers = [0, 1].map(|client| Driver::new(config, Arc::clone(&keys), 1, client));
        let mut appended: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        let (mut aborts, mut reads, mut operations) = (0, 0, 0);
        for turn in 0..10_000 {
            let transaction = drivers[turn % 2].draw();
            assert!((1..=5).contains(&transaction.operations.len()));
            aborts += u32::from(transaction.abort);
            operations += transaction.operations.len();
            for operation in transaction.operations {
                match operation {
                    Operation::Append { key, value } => appended.entry(key).or_default().push(value),
                    Operation::Read { .. } => reads += 1,
                }
            }
        }
        assert!(appended.values().all(|list| list.iter().copied().eq(1..=list.len() as u32)));
        assert_eq!(appended.values().filter(|list| list.len() != 7).count(), 3, "three are in use");
        assert!(appended.keys().copied().eq(100..100 + appended.len() as u64));
        assert!((2_300..2_700).contains(&aborts), "{aborts}");
        assert!((0.48..0.52).contains(&(f64::from(reads) / operations as f64)), "{reads}");
    }

    #[test]
    fn problems_are_found() {
        let good = Config::new();
        assert_eq!(good.problem(), None);
        assert!(Config { keys: 0, ..good }.problem().is_some());
        assert!(Config { max_operations: 0, ..good }.problem().is_some());
        assert!(Config { max_writes_per_key: 0, ..good }.problem().is_some());
        assert!(Config { abort: 1.5, ..good }.problem().is_some());
    }
}
