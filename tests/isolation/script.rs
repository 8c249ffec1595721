//! Transactions as lists of steps, so that one text runs as a procedure, as an interactive transaction, and on a
//! model.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use mixlog::{Builder, Engine, Footprint, Procedure, Snapshot, Sum, Table, Transaction, Tx};
use serde::{Deserialize, Serialize};

/// Keys of a round: its number times this, plus a slot.
pub(crate) const SLOTS: u64 = 16;

/// A row of a round. A byte: the slot is part of its key.
pub(crate) type Slot = u8;

/// Slots with their values, in order.
pub(crate) type Rows = Vec<(Slot, i64)>;

const ROWS: Table<u64, Sum> = Table::new("rows");
const WATCHED: Table<u64, Sum> = Table::new("watched").watched(round_of);
const GROUPED: Table<u64, Sum> = Table::new("grouped").grouped("rounds", round_of).ordered();
const RANGES: Table<u64, Sum> = Table::new("ranges").ordered();

const fn round_of(key: &u64) -> u64 {
    *key / SLOTS
}

/// What conflicts with what in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Rows,
    Watched,
    Grouped,
    Ranges,
}

pub(crate) const KINDS: [Kind; 4] = [Kind::Rows, Kind::Watched, Kind::Grouped, Kind::Ranges];

impl Kind {
    pub(crate) const fn table(self) -> &'static Table<u64, Sum> {
        match self {
            Self::Rows => &ROWS,
            Self::Watched => &WATCHED,
            Self::Grouped => &GROUPED,
            Self::Ranges => &RANGES,
        }
    }

    const fn is_ordered(self) -> bool {
        matches!(self, Self::Grouped | Self::Ranges)
    }
}

pub(crate) fn builder() -> Builder {
    KINDS.iter().fold(Engine::builder(), |builder, kind| builder.table(kind.table())).procedure::<Script>()
}

/// Where a round takes place: nobody else touches these keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) round: u64,
}

impl Place {
    /// All keys.
    pub(crate) const fn keys(self) -> RangeInclusive<u64> {
        self.round * SLOTS..=self.round * SLOTS + SLOTS - 1
    }

    pub(crate) const fn key(self, slot: Slot) -> u64 {
        self.round * SLOTS + slot as u64
    }

    fn slot(self, key: u64) -> Slot {
        u8::try_from(key - self.round * SLOTS).expect("a key of this round")
    }

    pub(crate) fn rows(self, snapshot: &Snapshot) -> Rows {
        let row = |slot| Some((slot, snapshot.get(self.kind.table(), &self.key(slot))?.0));
        (0..SLOTS as Slot).filter_map(row).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Reads a row.
    Read(Slot),
    /// Overwrites a row, or inserts it, without looking.
    Write(Slot, i64),
    /// Reads a row, and writes what was read plus a number.
    Add(Slot, i64),
    /// Reads a row, and writes what was read with a digit behind it: the order of writes can be read from the row.
    Append(Slot, i64),
    /// Deletes a row.
    Delete(Slot),
    /// Merges a number into a row.
    Merge(Slot, i64),
    /// Reads all rows whose value is a multiple of a number.
    Scan(i64),
    /// The same, and deletes them.
    DeleteWhere(i64),
    /// Gives up.
    Abort,
}

use Step::{Abort, Add, Append, Delete, DeleteWhere, Merge, Read, Scan, Write};

/// What steps work on.
pub(crate) trait Data {
    fn get(&self, kind: Kind, key: u64) -> Option<i64>;
    fn range(&self, kind: Kind, keys: RangeInclusive<u64>) -> Vec<(u64, i64)>;
    fn put(&mut self, kind: Kind, key: u64, value: i64);
    fn delete(&mut self, kind: Kind, key: u64);
    fn merge(&mut self, kind: Kind, key: u64, delta: i64);
}

macro_rules! data {
    ($type:ty) => {
        impl Data for $type {
            fn get(&self, kind: Kind, key: u64) -> Option<i64> {
                <$type>::get(self, kind.table(), &key).map(|sum| sum.0)
            }

            fn range(&self, kind: Kind, keys: RangeInclusive<u64>) -> Vec<(u64, i64)> {
                if kind.is_ordered() {
                    <$type>::range(self, kind.table(), keys).map(|(key, sum)| (key, sum.0)).collect()
                } else {
                    keys.filter_map(|key| Some((key, Data::get(self, kind, key)?))).collect()
                }
            }

            fn put(&mut self, kind: Kind, key: u64, value: i64) {
                <$type>::put(self, kind.table(), key, Sum(value));
            }

            fn delete(&mut self, kind: Kind, key: u64) {
                <$type>::delete(self, kind.table(), &key);
            }

            fn merge(&mut self, kind: Kind, key: u64, delta: i64) {
                assert!(<$type>::merge(self, kind.table(), key, delta), "sums accept everything");
            }
        }
    };
}

data!(Tx<'_>);
data!(Transaction<'_>);

/// One table, and one transaction after another.
pub(crate) type Model = BTreeMap<u64, i64>;

impl Data for Model {
    fn get(&self, _: Kind, key: u64) -> Option<i64> {
        BTreeMap::get(self, &key).copied()
    }

    fn range(&self, _: Kind, keys: RangeInclusive<u64>) -> Vec<(u64, i64)> {
        BTreeMap::range(self, keys).map(|(&key, &value)| (key, value)).collect()
    }

    fn put(&mut self, _: Kind, key: u64, value: i64) {
        self.insert(key, value);
    }

    fn delete(&mut self, _: Kind, key: u64) {
        self.remove(&key);
    }

    fn merge(&mut self, _: Kind, key: u64, delta: i64) {
        *self.entry(key).or_default() += delta;
    }
}

/// The transaction gave up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GaveUp;

impl Step {
    /// Takes the step, and adds what it read to `reads`.
    pub(crate) fn take(
        self,
        data: &mut impl Data,
        place: Place,
        reads: &mut Vec<Rows>,
    ) -> Result<(), GaveUp> {
        let Place { kind, .. } = place;
        let row = |slot: Slot, value: Option<i64>| value.map(|value| (slot, value)).into_iter().collect();
        let scan = |data: &dyn Data, divisor: i64| -> Rows {
            let rows = data.range(kind, place.keys()).into_iter();
            rows.filter(|(_, value)| value % divisor == 0)
                .map(|(key, value)| (place.slot(key), value))
                .collect()
        };
        match self {
            Read(slot) => reads.push(row(slot, data.get(kind, place.key(slot)))),
            Write(slot, value) => data.put(kind, place.key(slot), value),
            Add(slot, delta) => {
                let old = data.get(kind, place.key(slot));
                reads.push(row(slot, old));
                data.put(kind, place.key(slot), old.unwrap_or(0) + delta);
            }
            Append(slot, digit) => {
                let old = data.get(kind, place.key(slot));
                reads.push(row(slot, old));
                data.put(kind, place.key(slot), old.unwrap_or(0) * 10 + digit);
            }
            Delete(slot) => data.delete(kind, place.key(slot)),
            Merge(slot, delta) => data.merge(kind, place.key(slot), delta),
            Scan(divisor) => reads.push(scan(data, divisor)),
            DeleteWhere(divisor) => {
                let found = scan(data, divisor);
                found.iter().for_each(|&(slot, _)| data.delete(kind, place.key(slot)));
                reads.push(found);
            }
            Abort => return Err(GaveUp),
        }
        Ok(())
    }
}

/// Takes all steps. Tells what was read, and whether the transaction gave up.
pub(crate) fn take_all(
    steps: &[Step],
    data: &mut impl Data,
    place: Place,
) -> (Vec<Rows>, Result<(), GaveUp>) {
    let mut reads = Vec::new();
    let end = steps.iter().try_for_each(|step| step.take(data, place, &mut reads));
    (reads, end)
}

/// What a script says about its own footprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Says {
    Exact,
    /// The engine is to find out.
    ToBeFound,
    Unknown,
    /// Exact, and rows of other rounds besides.
    TooMuch,
    Empty,
    /// One step is left out, by the number of the round.
    WithoutOne,
    /// Writes are declared as reads.
    ReadsOnly,
    /// What is only read is left out.
    WritesOnly,
    /// Merges are declared as merges, though the script also looks at the row.
    MergesAlone,
}

/// A transaction as a procedure.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Script {
    pub(crate) place: Place,
    pub(crate) steps: Vec<Step>,
    pub(crate) says: Says,
}

impl Script {
    /// Whether some step other than a merge may look at the row.
    fn looks_at(&self, slot: Slot) -> bool {
        self.steps.iter().any(|step| match *step {
            Read(s) | Write(s, _) | Add(s, _) | Append(s, _) | Delete(s) => s == slot,
            Scan(_) | DeleteWhere(_) => true,
            Merge(..) | Abort => false,
        })
    }

    fn declare(&self, step: Step, f: &mut Footprint<'_>) {
        let Place { kind, round } = self.place;
        let table = kind.table();
        let key = |slot| self.place.key(slot);
        match step {
            Read(_) | Scan(_) if self.says == Says::WritesOnly => {}
            Write(slot, _) | Add(slot, _) | Append(slot, _) | Delete(slot) | Merge(slot, _)
                if self.says == Says::ReadsOnly =>
            {
                f.read(table, &key(slot));
            }
            Read(slot) => _ = f.read(table, &key(slot)),
            Merge(slot, _) if self.says == Says::MergesAlone || !self.looks_at(slot) => {
                f.merge(table, &key(slot));
            }
            Write(slot, _) | Add(slot, _) | Append(slot, _) | Delete(slot) | Merge(slot, _) => {
                f.write(table, &key(slot));
            }
            Scan(_) | DeleteWhere(_) => {
                match kind {
                    Kind::Rows => (0..SLOTS as Slot).for_each(|slot| _ = f.read(table, &key(slot))),
                    Kind::Watched => _ = f.read_granule(table, round),
                    Kind::Grouped | Kind::Ranges => {
                        f.range(table, self.place.keys());
                    }
                }
                if matches!(step, DeleteWhere(_)) && self.says != Says::ReadsOnly {
                    (0..SLOTS as Slot).for_each(|slot| _ = f.write(table, &key(slot)));
                }
            }
            Abort => {}
        }
    }
}

impl Procedure for Script {
    const NAME: &'static str = "script";
    type Output = Vec<Rows>;
    type Abort = Vec<Rows>;

    fn footprint(&self, f: &mut Footprint<'_>) {
        match self.says {
            Says::Empty => return,
            Says::ToBeFound => _ = f.reconnoitre(),
            Says::Unknown => _ = f.unknown(),
            _ => {}
        }
        if matches!(self.says, Says::ToBeFound | Says::Unknown) {
            return;
        }
        let left_out = self.place.round as usize % self.steps.len();
        for (i, &step) in self.steps.iter().enumerate() {
            if self.says != Says::WithoutOne || i != left_out {
                self.declare(step, f);
            }
        }
        if self.says == Says::TooMuch {
            let table = self.place.kind.table();
            (1..3).for_each(|n| _ = f.write(table, &(self.place.key(1) + n * SLOTS)));
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<Rows>, Vec<Rows>> {
        match take_all(&self.steps, tx, self.place) {
            (reads, Ok(())) => Ok(reads),
            (reads, Err(GaveUp)) => Err(reads),
        }
    }
}
