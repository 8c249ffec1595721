//! Whether no record was lost, torn, or updated more or less often than acknowledged.

use foldhash::fast::FixedState;
use hashbrown::HashSet;
use mixlog_engine::Snapshot;

use super::load::{POPULATION, Population};
use super::record::{Record, key_of, versions};
use crate::check::{Check, Tally};
use crate::random::mix;
use crate::workload::Observed;

/// Updates, with a fingerprint that tells which records they went to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Updates {
    /// How many there were.
    pub count: u64,
    /// The sum of a hash of the record's key over all updates: two different lists of updates have the same sum with a
    /// probability of 2^-64.
    pub fingerprint: u64,
}

impl Updates {
    /// Adds `count` updates of a record.
    #[inline]
    pub fn note(&mut self, key: u64, count: u64) {
        self.count += count;
        self.fingerprint = self.fingerprint.wrapping_add(mix(key).wrapping_mul(count));
    }
}

impl Observed for Updates {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.fingerprint = self.fingerprint.wrapping_add(other.fingerprint);
    }
}

/// The updates that the records tell of; records that are not whole do not count.
pub(super) fn updates<R: Record>(snapshot: &Snapshot) -> Updates {
    let mut updates = Updates::default();
    R::for_each(snapshot, |key, record| {
        updates.note(key, versions(record.bytes(), key).unwrap_or(0));
    });
    updates
}

/// Checks a state: Y1 (the records that were loaded are there, and no others), Y2 (each field is whole) and, against
/// the acknowledgements, Y3 (each record was updated as often as acknowledged). Without acknowledgements there is
/// nothing to compare with, and no Y3.
#[must_use]
pub fn audit<R: Record>(
    snapshot: &Snapshot,
    population: Population,
    observed: Option<&Updates>,
) -> Vec<Check> {
    let mut keys: HashSet<u64, FixedState> = HashSet::default();
    let mut fields = Tally::new("Y2", "records");
    let mut updates = Updates::default();
    R::for_each(snapshot, |key, record| {
        keys.insert(key);
        let versions = versions(record.bytes(), key);
        fields.see(versions.is_ok() && record.bytes().len() == population.value_size as usize, key, || {
            match versions {
                Err(field) => format!("field {field} of record {key} is torn"),
                Ok(_) => format!("record {key} has {} bytes", record.bytes().len()),
            }
        });
        updates.note(key, versions.unwrap_or(0));
    });

    let mut records = Tally::new("Y1", "records");
    let recorded = snapshot.get(&POPULATION, &0);
    records.see(recorded == Some(population), 0, || format!("the population is {recorded:?}"));
    for number in 0..population.records {
        let is_there = keys.remove(&key_of(number));
        records.see(is_there, number, || format!("record {number} is missing"));
    }
    for key in keys {
        records.see(false, u64::MAX, || format!("there is a record {key}"));
    }

    let mut checks = vec![records.check(), fields.check()];
    if let Some(observed) = observed {
        let mut tally = Tally::new("Y3", "totals").noting("against acknowledgements");
        tally.equal(&"updates", 0, updates.count, observed.count);
        tally.equal(&"fingerprint of updates", 1, updates.fingerprint, observed.fingerprint);
        checks.push(tally.check());
    }
    checks
}
