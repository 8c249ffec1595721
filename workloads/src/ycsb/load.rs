//! YCSB's records as procedures.

use std::marker::PhantomData;

use mixlog_engine::{Footprint, Never, Procedure, Table, Tx};
use serde::{Deserialize, Serialize};

use super::record::{Record, key_of, write_record};

/// What the log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Population {
    /// The number of records.
    pub records: u64,
    /// Bytes per record.
    pub value_size: u32,
}

/// How the records were made: one row, under key 0.
pub const POPULATION: Table<u32, Population> = Table::new("ycsb.population");

/// Records what the log holds: all records are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadPopulation {
    /// What the log holds.
    pub population: Population,
}

impl Procedure for LoadPopulation {
    const NAME: &'static str = "ycsb.load_population";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&POPULATION, &0);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&POPULATION, 0, self.population);
        Ok(())
    }
}

/// Writes a chunk of the records.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct LoadRecords<R> {
    first: u64,
    end: u64,
    value_size: u32,
    #[serde(skip)]
    record: PhantomData<fn() -> R>,
}

/// What this procedure was asked to load is no such record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrongSize(pub u32);

impl<R: Record> LoadRecords<R> {
    /// Records that one procedure writes.
    const AT_ONCE: u64 = 1_000;

    /// All records.
    pub fn all(population: Population) -> impl Iterator<Item = Self> {
        let Population { records, value_size } = population;
        (0..records).step_by(Self::AT_ONCE as usize).map(move |first| {
            let end = records.min(first + Self::AT_ONCE);
            Self { first, end, value_size, record: PhantomData }
        })
    }
}

impl<R: Record> Procedure for LoadRecords<R> {
    const NAME: &'static str = R::LOAD;
    type Output = ();
    type Abort = WrongSize;

    fn footprint(&self, f: &mut Footprint<'_>) {
        (self.first..self.end).for_each(|number| R::declare_write(f, key_of(number)));
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), WrongSize> {
        let mut record = R::zeroed(self.value_size as usize).ok_or(WrongSize(self.value_size))?;
        for key in (self.first..self.end).map(key_of) {
            write_record(record.bytes_mut(), key);
            R::put(tx, key, record.clone());
        }
        Ok(())
    }
}
