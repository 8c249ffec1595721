//! Whether no record was lost, torn, or updated more or less often than acknowledged.

use foldhash::fast::FixedState;
use hashbrown::HashSet;
use mixlog_engine::Snapshot;

use super::load::{POPULATION, Population};
use super::record::{Record, key_of, versions};
use crate::check::{Check, Tally};
use crate::random::mix;
use crate::workload::Observed;

/// Operations of one kind, with a fingerprint that tells which records they went to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many there were.
    pub count: u64,
    /// The sum of a hash of the record's key over all of them: two different lists of operations have the same sum with
    /// a probability of 2^-64.
    pub fingerprint: u64,
}

impl Count {
    /// Adds `count` operations on a record.
    #[inline]
    pub fn note(&mut self, key: u64, count: u64) {
        self.count += count;
        self.fingerprint = self.fingerprint.wrapping_add(mix(key).wrapping_mul(count));
    }

    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.fingerprint = self.fingerprint.wrapping_add(other.fingerprint);
    }
}

/// What was done to the records since they were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Fields that were written.
    pub updates: Count,
    /// Records that were inserted.
    pub inserts: Count,
}

impl Observed for Changes {
    fn add(&mut self, other: Self) {
        self.updates.add(other.updates);
        self.inserts.add(other.inserts);
    }
}

type Keys = HashSet<u64, FixedState>;

/// The numbers of the records that are there beside the loaded ones, taken out of `keys`, which holds no loaded ones
/// any more.
///
/// They follow the loaded ones. A crash may have left gaps, of inserts that were in flight, which are never as long as
/// this looks for.
fn inserted(keys: &mut Keys, records: u64) -> Vec<u64> {
    const LONGEST_GAP: u64 = 1 << 20;
    let (mut numbers, mut gap) = (Vec::new(), 0);
    for number in records.. {
        if keys.is_empty() || gap == LONGEST_GAP {
            break;
        }
        gap += 1;
        if keys.remove(&key_of(number)) {
            numbers.push(number);
            gap = 0;
        }
    }
    numbers
}

/// The numbers of the records that were inserted after `records` had been loaded.
pub(super) fn inserted_numbers<R: Record>(snapshot: &Snapshot, records: u64) -> Vec<u64> {
    let mut keys = Keys::default();
    R::for_each(snapshot, |key, _| {
        keys.insert(key);
    });
    for number in 0..records {
        keys.remove(&key_of(number));
    }
    inserted(&mut keys, records)
}

/// The changes that the records tell of; the versions of records that are not whole do not count.
pub(super) fn changes<R: Record>(snapshot: &Snapshot, records: u64) -> Changes {
    let mut changes = Changes::default();
    R::for_each(snapshot, |key, record| {
        changes.updates.note(key, versions(record.bytes(), key).unwrap_or(0));
    });
    for number in inserted_numbers::<R>(snapshot, records) {
        changes.inserts.note(key_of(number), 1);
    }
    changes
}

/// Checks a state: Y1 (the records that were loaded are there, and no others but those with the next numbers, which
/// were inserted), Y2 (each field is whole) and, against the acknowledgements, Y3 (each record was updated as often,
/// and exactly those were inserted, as acknowledged). Without acknowledgements there is nothing to compare with, and no
/// Y3.
#[must_use]
pub fn audit<R: Record>(
    snapshot: &Snapshot,
    population: Population,
    observed: Option<&Changes>,
) -> Vec<Check> {
    let mut keys = Keys::default();
    let mut fields = Tally::new("Y2", "records");
    let mut found = Changes::default();
    R::for_each(snapshot, |key, record| {
        keys.insert(key);
        let versions = versions(record.bytes(), key);
        fields.see(versions.is_ok() && record.bytes().len() == population.value_size as usize, key, || {
            match versions {
                Err(field) => format!("field {field} of record {key} is torn"),
                Ok(_) => format!("record {key} has {} bytes", record.bytes().len()),
            }
        });
        found.updates.note(key, versions.unwrap_or(0));
    });

    let mut records = Tally::new("Y1", "records");
    let recorded = snapshot.get(&POPULATION, &0);
    records.see(recorded == Some(population), 0, || format!("the population is {recorded:?}"));
    for number in 0..population.records {
        let is_there = keys.remove(&key_of(number));
        records.see(is_there, number, || format!("record {number} is missing"));
    }
    for number in inserted(&mut keys, population.records) {
        records.see(true, number, String::new);
        found.inserts.note(key_of(number), 1);
    }
    for key in keys {
        records.see(false, u64::MAX, || format!("there is a record {key}"));
    }

    let mut checks = vec![records.check(), fields.check()];
    if let Some(observed) = observed {
        let mut tally = Tally::new("Y3", "totals").noting("against acknowledgements");
        let kinds =
            [("updates", found.updates, observed.updates), ("inserts", found.inserts, observed.inserts)];
        for (rank, (what, is, should)) in (0..).step_by(2).zip(kinds) {
            tally.equal(&what, rank, is.count, should.count);
            let what = format!("fingerprint of {what}");
            tally.equal(&what, rank + 1, is.fingerprint, should.fingerprint);
        }
        checks.push(tally.check());
    }
    checks
}
