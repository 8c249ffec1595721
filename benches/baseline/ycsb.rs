//! YCSB by hand.

use std::collections::BTreeMap;

use mixlog_workloads::ycsb::load::Population;
use mixlog_workloads::ycsb::operate::{Action, OperateAbort, Operation, Operations};
use mixlog_workloads::ycsb::record::{Record, checksum, key_of, update_field, write_record};

use super::Map;

/// All records, in key order.
pub(crate) struct Ordered<R> {
    records: BTreeMap<u64, R>,
}

impl<R: Record> Ordered<R> {
    /// The records at first. Made of all at once: each node is full, and lies beside the next one.
    pub(crate) fn populate(population: Population) -> Self {
        Self { records: Ycsb::populate(population).records.into_iter().collect() }
    }

    /// The same, inserted in the order of the log, as an engine does it.
    pub(crate) fn load(population: Population) -> Self {
        let mut filled = BTreeMap::new();
        records::<R>(population).for_each(|(key, record)| _ = filled.insert(key, record));
        Self { records: filled }
    }

    /// Runs one transaction of scans and inserts.
    #[inline]
    pub(crate) fn run(&mut self, operations: &Operations) -> u64 {
        let mut sum = 0u64;
        for Operation { key, action } in operations.as_slice() {
            match *action {
                Action::Scan(records) => {
                    let found = self.records.range(key..).take(records as usize);
                    sum = found.fold(sum, |sum, (_, record)| sum.wrapping_add(checksum(record.bytes())));
                }
                Action::Insert(value_size) => {
                    let mut record =
                        R::zeroed(value_size as usize).expect("records of this kind have that size");
                    write_record(record.bytes_mut(), *key);
                    self.records.insert(*key, record);
                }
                Action::Read | Action::Update(_) | Action::ReadModifyWrite(_) => {
                    unreachable!("this mix scans and inserts")
                }
            }
        }
        sum
    }
}

/// All records.
pub(crate) struct Ycsb<R> {
    /// The records, by key.
    pub(crate) records: Map<u64, R>,
}

impl<R: Record> Ycsb<R> {
    /// The records at first.
    pub(crate) fn populate(population: Population) -> Self {
        Self { records: records::<R>(population).collect() }
    }

    /// Runs one transaction. All records of these workloads exist if they are to be read, and do not if they are to be
    /// inserted, so that nothing is ever undone.
    #[inline]
    pub(crate) fn run(&mut self, operations: &Operations) -> Result<u64, OperateAbort> {
        let mut sum = 0u64;
        for Operation { key, action } in operations.as_slice() {
            match *action {
                Action::Read => {
                    let record = self.records.get(key).ok_or(OperateAbort::NoRecord(*key))?;
                    sum = sum.wrapping_add(checksum(record.bytes()));
                }
                Action::Update(field) => {
                    let record = self.records.get_mut(key).ok_or(OperateAbort::NoRecord(*key))?;
                    update_field(record.bytes_mut(), *key, usize::from(field));
                }
                Action::ReadModifyWrite(field) => {
                    let record = self.records.get_mut(key).ok_or(OperateAbort::NoRecord(*key))?;
                    sum = sum.wrapping_add(checksum(record.bytes()));
                    update_field(record.bytes_mut(), *key, usize::from(field));
                }
                Action::Scan(_) => unreachable!("records without an order are not scanned"),
                Action::Insert(value_size) => {
                    let record = R::zeroed(value_size as usize);
                    let mut record = record.ok_or(OperateAbort::WrongSize(value_size))?;
                    write_record(record.bytes_mut(), *key);
                    self.records.insert(*key, record);
                }
            }
        }
        Ok(sum)
    }
}

/// The records of a population, in the order in which they are loaded.
fn records<R: Record>(population: Population) -> impl Iterator<Item = (u64, R)> {
    let record = R::zeroed(population.value_size as usize).expect("a kind of record that has this size");
    (0..population.records).map(key_of).map(move |key| {
        let mut record = record.clone();
        write_record(record.bytes_mut(), key);
        (key, record)
    })
}
