//! The tables, and what can be done with them: by a procedure, by an interactive transaction, and by the model.

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};

use mixlog_engine::{
    Appended, Builder, Engine, Fixed, Index, Maximum, Members, Merge, Position, Sum, Table, Transaction, Tx,
};
use serde::{Deserialize, Serialize};

use crate::steps::{Steps, Visit};

/// Read, put, changed and deleted.
pub(crate) const ROWS: Table<u64, i64> = Table::new("rows");
/// Added to, never below zero; also read in ranges.
pub(crate) const STOCK: Table<u64, Sum> = Table::new("stock").ordered();
/// Merged, added to, read by granules.
pub(crate) const TOTALS: Table<u64, Sum, Fixed> = Table::fixed("totals").watched(|key| key / TOTALS_TOGETHER);
pub(crate) const PEAKS: Table<u64, Maximum<i64>> = Table::new("peaks");
pub(crate) const GUESTS: Table<u64, Members<u8>> = Table::new("guests");
/// Appended to: the order of the log shows.
pub(crate) const LISTS: Table<u64, Appended<i64>> = Table::new("lists");
/// A merge of the tests' own, which not every row accepts.
pub(crate) const POLLS: Table<u64, Poll> = Table::new("polls");
/// Ordered, and found by their age.
pub(crate) const PEOPLE: Table<u64, Person> = Table::new("people").ordered();
pub(crate) const BY_AGE: Index<u64, Person, u32> =
    Index::new("people.by_age", PEOPLE, |_, person| (person.age >= OF_AGE).then_some(person.age));
/// A city's players, and how they are ranked: one granule.
pub(crate) const PLAYERS: Table<(u64, u64), i64> =
    Table::new("players").grouped("cities", |(city, _)| *city).ordered();
pub(crate) const RANKING: Index<(u64, u64), i64, (u64, i64)> =
    Index::new("players.ranking", PLAYERS, |(city, _), score| Some((*city, *score)))
        .grouped("cities", |(city, _)| *city);

pub(crate) const TOTALS_TOGETHER: u64 = 4;
/// Keys of a city.
pub(crate) const CITY: u64 = 16;
pub(crate) const OF_AGE: u32 = 10;
/// What is put is less, but for stock that is plenty.
pub(crate) const NUMBERS: i64 = 50;

/// Owns memory: whoever looks too early or too late meets more than a wrong number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Person {
    pub(crate) age: u32,
    name: String,
}

impl Person {
    pub(crate) fn new(age: i64) -> Self {
        Self { age: age as u32, name: format!("somebody whose name says that the age is {age}") }
    }

    pub(crate) fn number(&self) -> i64 {
        assert_eq!(self.name, Self::new(self.age.into()).name, "a row is whole");
        self.age.into()
    }
}

/// Votes are counted, unless it is closed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Poll {
    closed: bool,
    yes: i64,
    no: i64,
}

impl Poll {
    /// Odd ones are closed.
    pub(crate) fn new(number: i64) -> Self {
        Self { closed: number & 1 == 1, yes: 0, no: number >> 1 }
    }

    pub(crate) fn number(&self) -> i64 {
        (self.yes * YES + self.no) << 1 | i64::from(self.closed)
    }
}

/// What a vote for it counts in a poll's number; one against it counts 1.
const YES: i64 = 1_000_000;

/// What a vote adds to the number of a poll.
pub(crate) const fn vote(number: i64) -> i64 {
    if number % 3 == 0 { YES << 1 } else { 1 << 1 }
}

impl Merge for Poll {
    /// For it, and against it.
    type Delta = (i64, i64);

    fn accepts(row: Option<&Self>) -> bool {
        row.is_none_or(|poll| !poll.closed)
    }

    fn merge(row: &mut Option<Self>, (yes, no): (i64, i64), _: Position) {
        let poll = row.get_or_insert_default();
        poll.yes = poll.yes.wrapping_add(yes);
        poll.no = poll.no.wrapping_add(no);
    }

    fn combine(delta: &mut (i64, i64), other: &(i64, i64)) -> bool {
        *delta = (delta.0.wrapping_add(other.0), delta.1.wrapping_add(other.1));
        true
    }
}

/// The number of a list with one item more: another one in another order.
pub(crate) const fn appended(list: i64, item: i64) -> i64 {
    list.wrapping_mul(61).wrapping_add(item + 1)
}

pub(crate) fn number_of(list: &Appended<i64>) -> i64 {
    list.iter().fold(0, |number, &item| appended(number, item))
}

pub(crate) fn guests(mask: i64) -> Members<u8> {
    Members((0..8).filter(|guest| mask >> guest & 1 == 1).collect())
}

pub(crate) fn mask(guests: &BTreeSet<u8>) -> i64 {
    guests.iter().map(|guest| 1 << guest).sum()
}

/// A table. Its keys are numbers, and so is what its rows hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum In {
    Rows,
    Stock,
    Totals,
    Peaks,
    Guests,
    Lists,
    Polls,
    People,
    Players,
}

/// The key of a player: in its city.
pub(crate) const fn player(key: u64) -> (u64, u64) {
    (key / CITY, key)
}

/// Those of a range of keys, which lies in one city.
pub(crate) const fn players(keys: &Range<u64>) -> RangeInclusive<(u64, u64)> {
    player(keys.start)..=player(keys.end - 1)
}

pub(crate) fn builder() -> Builder {
    Engine::builder()
        .table(&ROWS)
        .table(&STOCK)
        .table(&TOTALS)
        .table(&PEAKS)
        .table(&GUESTS)
        .table(&LISTS)
        .table(&POLLS)
        .table(&PEOPLE)
        .index(&BY_AGE)
        .table(&PLAYERS)
        .index(&RANKING)
        .procedure::<Steps>()
        .procedure::<Visit>()
}

/// Some rows of a table that is read in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Walk {
    pub(crate) table: In,
    /// Those of players lie in one city.
    pub(crate) keys: Range<u64>,
    pub(crate) most: usize,
    pub(crate) from_back: bool,
}

/// Some rows that an index finds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Find {
    /// A city of players; without one it is people by age.
    pub(crate) city: Option<u64>,
    pub(crate) numbers: Range<i64>,
    pub(crate) most: usize,
    pub(crate) from_back: bool,
}

impl Find {
    pub(crate) const fn table(&self) -> In {
        if self.city.is_some() { In::Players } else { In::People }
    }

    pub(crate) const fn ages(&self) -> Range<u32> {
        self.numbers.start as u32..self.numbers.end as u32
    }

    pub(crate) const fn ranks(&self, city: u64) -> Range<(u64, i64)> {
        (city, self.numbers.start)..(city, self.numbers.end)
    }
}

/// The first of them, from either end.
pub(crate) fn some<T>(all: impl DoubleEndedIterator<Item = T>, most: usize, from_back: bool) -> Vec<T> {
    if from_back { all.rev().take(most).collect() } else { all.take(most).collect() }
}

/// What steps work on.
pub(crate) trait Data {
    fn get(&mut self, table: In, key: u64) -> Option<i64>;
    fn put(&mut self, table: In, key: u64, number: i64);
    /// Adds to the row, if there is one, and tells what it was: rows, people, players. The sum stays below [`NUMBERS`].
    fn change(&mut self, table: In, key: u64, add: i64) -> Option<i64>;
    fn delete(&mut self, table: In, key: u64) -> bool;
    /// Merges the number, if the row accepts it: into totals, peaks, guests, lists, polls.
    fn merge(&mut self, table: In, key: u64, number: i64) -> bool;
    /// Adds to stock or a total, unless that takes it below the floor.
    fn take(&mut self, table: In, key: u64, delta: i64, floor: i64) -> bool;
    fn walk(&mut self, walk: &Walk) -> Vec<(u64, i64)>;
    fn find(&mut self, find: &Find) -> Vec<(u64, i64)>;
}

macro_rules! data {
    ($type:ty) => {
        impl Data for $type {
            fn get(&mut self, table: In, key: u64) -> Option<i64> {
                match table {
                    In::Rows => <$type>::get(self, &ROWS, &key).copied(),
                    In::Stock => <$type>::get(self, &STOCK, &key).map(|sum| sum.0),
                    In::Totals => <$type>::get(self, &TOTALS, &key).map(|sum| sum.0),
                    In::Peaks => <$type>::get(self, &PEAKS, &key).map(|peak| peak.0),
                    In::Guests => <$type>::get(self, &GUESTS, &key).map(|guests| mask(&guests.0)),
                    In::Lists => <$type>::get(self, &LISTS, &key).map(number_of),
                    In::Polls => <$type>::get(self, &POLLS, &key).map(Poll::number),
                    In::People => <$type>::get(self, &PEOPLE, &key).map(Person::number),
                    In::Players => <$type>::get(self, &PLAYERS, &player(key)).copied(),
                }
            }

            fn put(&mut self, table: In, key: u64, number: i64) {
                match table {
                    In::Rows => <$type>::put(self, &ROWS, key, number),
                    In::Stock => <$type>::put(self, &STOCK, key, Sum(number)),
                    In::Totals => <$type>::put(self, &TOTALS, key, Sum(number)),
                    In::Peaks => <$type>::put(self, &PEAKS, key, Maximum(number)),
                    In::Guests => <$type>::put(self, &GUESTS, key, guests(number)),
                    In::Lists => {
                        assert_eq!(number, 0, "others are made of appends");
                        <$type>::put(self, &LISTS, key, Appended::default());
                    }
                    In::Polls => <$type>::put(self, &POLLS, key, Poll::new(number)),
                    In::People => <$type>::put(self, &PEOPLE, key, Person::new(number)),
                    In::Players => <$type>::put(self, &PLAYERS, player(key), number),
                }
            }

            fn change(&mut self, table: In, key: u64, add: i64) -> Option<i64> {
                let change = |number: &mut i64| {
                    let before = *number;
                    *number = (before + add) % NUMBERS;
                    before
                };
                match table {
                    In::Rows => <$type>::get_mut(self, &ROWS, &key).map(change),
                    In::Players => <$type>::get_mut(self, &PLAYERS, &player(key)).map(change),
                    In::People => <$type>::get_mut(self, &PEOPLE, &key).map(|person| {
                        let before = person.number();
                        *person = Person::new((before + add) % NUMBERS);
                        before
                    }),
                    In::Stock | In::Totals | In::Peaks | In::Guests | In::Lists | In::Polls => {
                        unreachable!("not drawn")
                    }
                }
            }

            fn delete(&mut self, table: In, key: u64) -> bool {
                match table {
                    In::Rows => <$type>::delete(self, &ROWS, &key),
                    In::Stock => <$type>::delete(self, &STOCK, &key),
                    In::Totals => <$type>::delete(self, &TOTALS, &key),
                    In::Peaks => <$type>::delete(self, &PEAKS, &key),
                    In::Guests => <$type>::delete(self, &GUESTS, &key),
                    In::Lists => <$type>::delete(self, &LISTS, &key),
                    In::Polls => <$type>::delete(self, &POLLS, &key),
                    In::People => <$type>::delete(self, &PEOPLE, &key),
                    In::Players => <$type>::delete(self, &PLAYERS, &player(key)),
                }
            }

            fn merge(&mut self, table: In, key: u64, number: i64) -> bool {
                match table {
                    In::Totals => <$type>::merge(self, &TOTALS, key, number),
                    In::Peaks => <$type>::merge(self, &PEAKS, key, number),
                    In::Guests => <$type>::merge(self, &GUESTS, key, (number & 7) as u8),
                    In::Lists => <$type>::merge(self, &LISTS, key, number),
                    In::Polls => {
                        let is_for = vote(number) == YES << 1;
                        <$type>::merge(self, &POLLS, key, (is_for.into(), (!is_for).into()))
                    }
                    In::Rows | In::Stock | In::People | In::Players => unreachable!("not drawn"),
                }
            }

            fn take(&mut self, table: In, key: u64, delta: i64, floor: i64) -> bool {
                match table {
                    In::Stock => <$type>::add_bounded(self, &STOCK, key, delta, floor),
                    _ => <$type>::add_bounded(self, &TOTALS, key, delta, floor),
                }
            }

            fn walk(&mut self, walk: &Walk) -> Vec<(u64, i64)> {
                let Walk { table, keys, most, from_back } = walk.clone();
                match table {
                    In::Stock => {
                        let rows = <$type>::range(self, &STOCK, keys);
                        some(rows.map(|(key, sum)| (key, sum.0)), most, from_back)
                    }
                    In::People => {
                        let rows = <$type>::range(self, &PEOPLE, keys);
                        some(rows.map(|(key, person)| (key, person.number())), most, from_back)
                    }
                    In::Players => {
                        let rows = <$type>::range(self, &PLAYERS, players(&keys));
                        some(rows.map(|((_, key), score)| (key, *score)), most, from_back)
                    }
                    In::Rows | In::Totals | In::Peaks | In::Guests | In::Lists | In::Polls => {
                        let all = keys.filter_map(|key| Some((key, Data::get(self, table, key)?)));
                        let all: Vec<_> = all.collect();
                        some(all.into_iter(), most, from_back)
                    }
                }
            }

            fn find(&mut self, find: &Find) -> Vec<(u64, i64)> {
                let Find { city, most, from_back, .. } = *find;
                match city {
                    None => {
                        let found = <$type>::range_by(self, &BY_AGE, find.ages());
                        some(found.map(|(age, key)| (key, age.into())), most, from_back)
                    }
                    Some(city) => {
                        let found = <$type>::range_by(self, &RANKING, find.ranks(city));
                        some(found.map(|((_, score), (_, key))| (key, score)), most, from_back)
                    }
                }
            }
        }
    };
}

data!(Tx<'_>);
data!(Transaction<'_>);
