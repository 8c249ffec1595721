//! Transactions as lists of steps, and the procedures that take them, with footprints of every quality.

use mixlog_engine::{Footprint, Procedure, Tx};
use serde::{Deserialize, Serialize};

use crate::draw::Draw;
use crate::tables::{
    BY_AGE, CITY, Data, Find, GUESTS, In, LISTS, NUMBERS, OF_AGE, PEAKS, PEOPLE, PLAYERS, POLLS, ROWS, STOCK,
    TOTALS, TOTALS_TOGETHER, Walk, player, some,
};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Step {
    Get(In, u64),
    Put(In, u64, i64),
    Change(In, u64, i64),
    Delete(In, u64),
    Merge(In, u64, i64),
    /// Adds a number, unless that leads below a floor.
    Take(In, u64, i64, i64),
    Walk(Walk),
    Find(Find),
    /// Deletes the first that is found.
    Retire(Find),
    Abort,
    Panic,
}

/// Why steps are not all taken.
#[derive(Debug)]
pub(crate) enum Stop {
    /// With what was seen until then.
    Abort(Vec<i64>),
    Panic,
}

/// Takes all steps, and tells what was seen.
pub(crate) fn take_all(steps: &[Step], data: &mut impl Data) -> Result<Vec<i64>, Stop> {
    const NONE: i64 = -1_000_000_007;
    let mut seen = Vec::new();
    let tell = |seen: &mut Vec<i64>, rows: Vec<(u64, i64)>| {
        seen.push(rows.len() as i64);
        seen.extend(rows.into_iter().flat_map(|(key, number)| [key as i64, number]));
    };
    for step in steps {
        match *step {
            Step::Get(table, key) => seen.push(data.get(table, key).unwrap_or(NONE)),
            Step::Put(table, key, number) => data.put(table, key, number),
            Step::Change(table, key, add) => seen.push(data.change(table, key, add).unwrap_or(NONE)),
            Step::Delete(table, key) => seen.push(data.delete(table, key).into()),
            Step::Merge(table, key, number) => seen.push(data.merge(table, key, number).into()),
            Step::Take(table, key, delta, floor) => seen.push(data.take(table, key, delta, floor).into()),
            Step::Walk(ref walk) => tell(&mut seen, data.walk(walk)),
            Step::Find(ref find) => tell(&mut seen, data.find(find)),
            Step::Retire(ref find) => {
                let found = data.find(&Find { most: 1, ..find.clone() });
                found.iter().for_each(|&(key, _)| assert!(data.delete(find.table(), key), "it was found"));
                tell(&mut seen, found);
            }
            Step::Abort => return Err(Stop::Abort(seen)),
            Step::Panic => return Err(Stop::Panic),
        }
    }
    Ok(seen)
}

/// Is not printed.
pub(crate) const PLANNED: &str = "planned to panic";

fn run(steps: &[Step], tx: &mut Tx<'_>) -> Result<Vec<i64>, Vec<i64>> {
    match take_all(steps, tx) {
        Ok(seen) => Ok(seen),
        Err(Stop::Abort(seen)) => Err(seen),
        Err(Stop::Panic) => panic!("{PLANNED}"),
    }
}

/// What a transaction says about its footprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Says {
    /// What it knows.
    Honest,
    /// More than that.
    TooMuch,
    ToBeFound,
    Unknown,
    Nothing,
    /// All but one step.
    AllButOne,
    /// Writes as reads.
    ReadsOnly,
    /// Merges, and adds to totals, as merges, also of rows that it looks at.
    MergesOnly,
    /// The footprint panics.
    Panics,
}

/// A transaction as a procedure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Steps {
    pub(crate) steps: Vec<Step>,
    pub(crate) says: Says,
}

/// Whether a step other than merges and adds touches the row.
fn does_more(step: &Step, table: In, key: u64) -> bool {
    match *step {
        Step::Get(t, k) | Step::Put(t, k, _) | Step::Change(t, k, _) | Step::Delete(t, k) => {
            (t, k) == (table, key)
        }
        Step::Walk(ref walk) => walk.table == table && walk.keys.contains(&key),
        Step::Merge(..) | Step::Take(..) | Step::Find(_) | Step::Retire(_) | Step::Abort | Step::Panic => {
            false
        }
    }
}

/// One of the declarations that all tables have.
macro_rules! declare {
    ($f:expr, $access:ident, $table:expr, $key:expr) => {
        match $table {
            In::Rows => _ = $f.$access(&ROWS, &$key),
            In::Stock => _ = $f.$access(&STOCK, &$key),
            In::Totals => _ = $f.$access(&TOTALS, &$key),
            In::Peaks => _ = $f.$access(&PEAKS, &$key),
            In::Guests => _ = $f.$access(&GUESTS, &$key),
            In::Lists => _ = $f.$access(&LISTS, &$key),
            In::Polls => _ = $f.$access(&POLLS, &$key),
            In::People => _ = $f.$access(&PEOPLE, &$key),
            In::Players => _ = $f.$access(&PLAYERS, &player($key)),
        }
    };
}

impl Steps {
    /// Whether all that touches the row is of this step's kind, so that it needs no write.
    fn only(&self, step: &Step, table: In, key: u64) -> bool {
        self.steps.iter().all(|other| match *other {
            Step::Merge(t, k, _) | Step::Take(t, k, ..) if (t, k) == (table, key) => {
                std::mem::discriminant(step) == std::mem::discriminant(other)
            }
            _ => !does_more(other, table, key),
        })
    }

    fn declare(&self, step: &Step, f: &mut Footprint<'_>) {
        match *step {
            Step::Get(table, key) => declare!(f, read, table, key),
            Step::Put(table, key, _)
            | Step::Change(table, key, _)
            | Step::Delete(table, key)
            | Step::Merge(table, key, _)
            | Step::Take(table, key, ..)
                if self.says == Says::ReadsOnly =>
            {
                declare!(f, read, table, key);
            }
            Step::Put(In::People, key, age) => move_person(f, key, |_| Some(age)),
            Step::Change(In::People, key, add) => {
                move_person(f, key, |before| before.map(|age| (age + add) % NUMBERS));
            }
            Step::Delete(In::People, key) => move_person(f, key, |_| None),
            Step::Merge(table, key, _) | Step::Take(table @ In::Totals, key, ..)
                if self.says == Says::MergesOnly =>
            {
                merge(f, table, key);
            }
            Step::Merge(table, key, _) if self.only(step, table, key) => merge(f, table, key),
            Step::Take(table, key, delta, floor) if self.only(step, table, key) => match table {
                In::Stock => _ = f.add_bounded(&STOCK, &key, delta, floor),
                _ => _ = f.add_bounded(&TOTALS, &key, delta, floor),
            },
            Step::Put(table, key, _)
            | Step::Change(table, key, _)
            | Step::Delete(table, key)
            | Step::Merge(table, key, _)
            | Step::Take(table, key, ..) => declare!(f, write, table, key),
            Step::Walk(Walk { table, ref keys, .. }) => match table {
                In::Stock => _ = f.range(&STOCK, keys.clone()),
                In::People => _ = f.range(&PEOPLE, keys.clone()),
                In::Players => _ = f.read_granule(&PLAYERS, keys.start / CITY),
                In::Totals => _ = f.read_granule(&TOTALS, keys.start / TOTALS_TOGETHER),
                In::Rows | In::Peaks | In::Guests | In::Lists | In::Polls => {
                    keys.clone().for_each(|key| declare!(f, read, table, key));
                }
            },
            Step::Find(ref find) => match find.city {
                None => _ = f.range_by(&BY_AGE, find.ages()),
                Some(city) => _ = f.read_granule(&PLAYERS, city),
            },
            Step::Retire(ref find) => match find.city {
                None => {
                    let found: Vec<_> = f.get_by(&BY_AGE, find.ages()).collect();
                    for (_, key) in some(found.into_iter(), 1, find.from_back) {
                        move_person(f, key, |_| None);
                    }
                }
                Some(city) => _ = f.write_granule(&PLAYERS, city),
            },
            Step::Abort | Step::Panic => {}
        }
    }
}

fn merge(f: &mut Footprint<'_>, table: In, key: u64) {
    match table {
        In::Peaks => f.merge(&PEAKS, &key),
        In::Guests => f.merge(&GUESTS, &key),
        In::Lists => f.merge(&LISTS, &key),
        In::Polls => f.merge(&POLLS, &key),
        _ => f.merge(&TOTALS, &key),
    };
}

/// Somebody's age changes, by what is known of it: the row, and where the index has it and will have it.
fn move_person(f: &mut Footprint<'_>, key: u64, to: impl FnOnce(Option<i64>) -> Option<i64>) {
    let before = f.get(&PEOPLE, &key).map(|person| person.number());
    f.write(&PEOPLE, &key);
    for age in before.into_iter().chain(to(before)).map(|age| age as u32).filter(|&age| age >= OF_AGE) {
        f.write_by(&BY_AGE, age, key);
    }
}

impl Procedure for Steps {
    const NAME: &'static str = "steps";
    type Output = Vec<i64>;
    type Abort = Vec<i64>;

    fn footprint(&self, f: &mut Footprint<'_>) {
        match self.says {
            Says::ToBeFound => _ = f.reconnoitre(),
            Says::Unknown => _ = f.unknown(),
            Says::Nothing => {}
            Says::Panics => panic!("{PLANNED}"),
            Says::AllButOne => {
                let left_out = self.steps.len() / 2;
                let others = self.steps[..left_out].iter().chain(&self.steps[left_out + 1..]);
                others.for_each(|step| self.declare(step, f));
            }
            Says::TooMuch => {
                self.steps.iter().for_each(|step| self.declare(step, f));
                f.write(&ROWS, &1).range(&PEOPLE, ..).write_granule(&PLAYERS, 1);
            }
            Says::Honest | Says::ReadsOnly | Says::MergesOnly => {
                self.steps.iter().for_each(|step| self.declare(step, f));
            }
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<i64>, Vec<i64>> {
        run(&self.steps, tx)
    }
}

/// A transaction that declares nothing, and whose keys follow from its arguments.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Visit {
    pub(crate) row: u64,
    pub(crate) city: u64,
    pub(crate) seat: u64,
    pub(crate) number: i64,
}

impl Visit {
    pub(crate) fn steps(&self) -> Vec<Step> {
        let Self { row, city, seat, number } = *self;
        let mut steps = vec![
            Step::Change(In::Rows, row, number),
            Step::Merge(In::Totals, row, number),
            Step::Take(In::Stock, PLENTY + city, number % 5 - 2, 0),
            Step::Put(In::Players, city * CITY + seat, number),
        ];
        steps.extend((number == 7).then_some(Step::Abort));
        steps
    }
}

impl Procedure for Visit {
    const NAME: &'static str = "visit";
    type Output = Vec<i64>;
    type Abort = Vec<i64>;

    fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<i64>, Vec<i64>> {
        run(&self.steps(), tx)
    }
}

/// How many keys each table has, so that transactions meet.
pub(crate) const fn keys(table: In) -> u64 {
    match table {
        In::Rows | In::Totals => 24,
        In::Stock => 12,
        In::Peaks | In::Guests | In::Lists | In::Polls => 6,
        In::People => 300,
        In::Players => CITIES * CITY,
    }
}

pub(crate) const CITIES: u64 = 4;

/// How many articles there is plenty of. Of the others there is little.
const PLENTY: u64 = 6;

/// What is merged into.
const MERGED: [In; 6] = [In::Totals, In::Totals, In::Peaks, In::Guests, In::Lists, In::Polls];

/// How wrong footprints are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Quality {
    Honest,
    /// A wrong one here and there.
    Few,
    /// Every quality there is.
    All,
}

impl Draw {
    pub(crate) fn put(&mut self, table: In, key: u64) -> Step {
        let number = self.below(NUMBERS as u64) as i64;
        Step::Put(
            table,
            key,
            match table {
                In::Stock if key < PLENTY => 1_000_000 + number,
                In::Lists => 0,
                // Two in three stay open.
                In::Polls => number << 1 | i64::from(number % 3 == 0),
                _ => number,
            },
        )
    }

    fn find(&mut self) -> Find {
        let city = (self.below(2) == 0).then(|| self.below(CITIES));
        let from = self.below(NUMBERS as u64) as i64;
        let numbers = from..from + 1 + self.below(15) as i64;
        Find { city, numbers, most: self.one_of(&[1, 3, 1000]), from_back: self.below(2) == 0 }
    }

    fn walk(&mut self) -> Walk {
        let table = self.one_of(&[In::Stock, In::Totals, In::People, In::People, In::Players, In::Players]);
        let group = |size| {
            move |draw: &mut Self| {
                let group = draw.below(keys(table) / size);
                group * size..(group + 1) * size
            }
        };
        let keys = match table {
            In::Totals => group(TOTALS_TOGETHER)(self),
            In::Players => group(CITY)(self),
            _ => {
                let from = self.below(keys(table));
                from..from + 1 + self.below(keys(table) / 4)
            }
        };
        Walk { table, keys, most: self.one_of(&[1, 3, 1000]), from_back: self.below(2) == 0 }
    }

    fn step(&mut self) -> Step {
        let table = self.one_of(&[In::Rows, In::Rows, In::People, In::People, In::Players, In::Totals]);
        let key = self.below(keys(table));
        match self.below(24) {
            0..3 => Step::Get(table, key),
            3..6 => self.put(table, key),
            6..8 => {
                let table = self.one_of(&[In::Rows, In::People, In::Players]);
                Step::Change(table, self.below(keys(table)), 1 + self.below(20) as i64)
            }
            8..10 => Step::Delete(table, key),
            10..14 => {
                let table = self.one_of(&MERGED);
                Step::Merge(table, self.below(keys(table)), self.below(60) as i64)
            }
            14..18 => {
                // What was added to totals without a floor may be far below it.
                let (table, floor) = self.one_of(&[(In::Stock, 0), (In::Stock, 0), (In::Totals, 100)]);
                Step::Take(table, self.below(keys(table)), self.below(10) as i64 - 6, floor)
            }
            18..20 => Step::Walk(self.walk()),
            20 | 21 => Step::Find(self.find()),
            22 => Step::Retire(self.find()),
            _ => {
                let table = self.one_of(&[In::Stock, In::Peaks, In::Guests, In::Lists, In::Polls]);
                let key = self.below(keys(table));
                match self.below(8) {
                    0 => self.put(table, key),
                    1 => Step::Delete(table, key),
                    _ => Step::Get(table, key),
                }
            }
        }
    }

    pub(crate) fn list(&mut self) -> Vec<Step> {
        (0..1 + self.below(5)).map(|_| self.step()).collect()
    }

    pub(crate) fn steps(&mut self, quality: Quality) -> Steps {
        let mut steps = self.list();
        match self.below(40) {
            0..3 => steps.push(Step::Abort),
            3 => steps.push(Step::Panic),
            _ => {}
        }
        const RIGHT: [Says; 8] = {
            let mut right = [Says::Honest; 8];
            right[6] = Says::ToBeFound;
            right[7] = Says::TooMuch;
            right
        };
        const WRONG: [Says; 6] =
            [Says::Unknown, Says::Nothing, Says::AllButOne, Says::ReadsOnly, Says::MergesOnly, Says::Panics];
        let wrong = match quality {
            Quality::Honest => false,
            Quality::Few => self.below(150) == 0,
            Quality::All => self.below(4) == 0,
        };
        let says = if wrong { self.one_of(&WRONG) } else { self.one_of(&RIGHT) };
        Steps { steps, says }
    }

    pub(crate) fn visit(&mut self) -> Visit {
        Visit {
            row: self.below(keys(In::Rows)),
            city: self.below(CITIES),
            seat: self.below(CITY),
            number: self.below(NUMBERS as u64) as i64,
        }
    }
}
