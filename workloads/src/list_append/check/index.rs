//! Who appended what.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::super::history::{Op, Transaction};
use super::{Anomalies, Kind, Named};

/// A hash table whose order nobody sees.
pub(super) type Map<K, V> = HashMap<K, V, FixedState>;

/// An append of the history.
#[derive(Clone, Copy, Debug)]
pub(super) struct Append {
    /// The transaction that it belongs to.
    pub(super) by: u32,
    /// Whether the transaction appends no more to the key.
    pub(super) is_last: bool,
    /// Whether it is in the longest list that was read from the key.
    pub(super) is_seen: bool,
}

/// The appends of a history, by key and value.
pub(super) struct Index(Map<(u64, u32), Append>);

impl Index {
    pub(super) fn new(history: &[&Transaction], anomalies: &mut Anomalies) -> Self {
        let mut appends: Map<(u64, u32), Append> = Map::default();
        for (transaction, by) in history.iter().zip(0..) {
            let mut later: Vec<u64> = Vec::new();
            for op in transaction.operations.iter().rev() {
                let Op::Append { key, value } = *op else { continue };
                let is_last = !later.contains(&key);
                later.push(key);
                match appends.entry((key, value)) {
                    Entry::Vacant(place) => {
                        place.insert(Append { by, is_last, is_seen: false });
                    }
                    Entry::Occupied(other) => anomalies.add(Kind::Malformed, || {
                        let (one, two) = (Named(history, other.get().by), Named(history, by));
                        format!("{one} and {two} both append {value} to key {key}")
                    }),
                }
            }
        }
        Self(appends)
    }

    pub(super) fn get(&self, key: u64, value: u32) -> Option<Append> {
        self.0.get(&(key, value)).copied()
    }

    /// Notes that the append is in the longest list of its key; tells whether it was there before.
    pub(super) fn see(&mut self, key: u64, value: u32) -> Option<(Append, bool)> {
        let append = self.0.get_mut(&(key, value))?;
        let again = std::mem::replace(&mut append.is_seen, true);
        Some((*append, again))
    }
}
