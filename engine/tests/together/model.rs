//! The specification: a map, and one transaction after another.

use std::collections::BTreeMap;
use std::ops::Range;

use mixlog_engine::Snapshot;

use crate::steps::keys;
use crate::tables::{
    BY_AGE, Data, Find, GUESTS, In, LISTS, NUMBERS, OF_AGE, PEAKS, PEOPLE, PLAYERS, POLLS, Person, RANKING,
    ROWS, STOCK, TOTALS, Walk, appended, mask, number_of, player, some, vote,
};

/// All rows.
pub(crate) type State = BTreeMap<(In, u64), i64>;

/// Something that a transaction looked at: a row of a table and what it held, or what an index found.
type Looked = (In, u64, Option<i64>);

/// Rows in the order in which they are walked.
type Rows = Vec<(u64, i64)>;

/// What one transaction works on.
pub(crate) struct Model {
    pub(crate) state: State,
    before: State,
    /// All that was looked at, whether it was told or not. In ranges it also counts what the transaction's own changes
    /// hide.
    pub(crate) looked: Vec<Looked>,
}

impl Model {
    pub(crate) fn of(state: &State) -> Self {
        Self { state: state.clone(), before: state.clone(), looked: Vec::new() }
    }

    fn look(&mut self, table: In, key: u64) -> Option<i64> {
        let number = self.state.get(&(table, key)).copied();
        self.looked.push((table, key, number));
        number
    }

    /// Walks rows, of which there may be others `before`: both in the order of their keys or, by an index, of numbers
    /// and keys.
    fn walk_rows(
        &mut self,
        table: In,
        [now, before]: [Rows; 2],
        by_number: bool,
        most: usize,
        from_back: bool,
    ) -> Rows {
        let order = |&(key, number): &(u64, i64)| (if by_number { number } else { 0 }, key);
        let walked = some(now.into_iter(), most, from_back);
        let last = walked.last().filter(|_| walked.len() == most).map(order);
        let is_passed = |row: &&(u64, i64)| match last {
            Some(last) if from_back => order(row) >= last,
            Some(last) => order(row) <= last,
            None => true,
        };
        let looked = walked.iter().chain(before.iter().filter(is_passed));
        self.looked.extend(looked.map(|&(key, number)| (table, key, Some(number))));
        walked
    }
}

fn in_order(state: &State, table: In, keys: Range<u64>) -> impl DoubleEndedIterator<Item = (u64, i64)> {
    state.range((table, keys.start)..(table, keys.end)).map(|(&(_, key), &number)| (key, number))
}

/// What an index has for a range: by number, and then by key.
fn found(state: &State, find: &Find) -> Rows {
    let table = find.table();
    let is_there = |&(key, number): &(u64, i64)| match find.city {
        None => number >= OF_AGE.into() && find.numbers.contains(&number),
        Some(city) => player(key).0 == city && find.numbers.contains(&number),
    };
    let mut all: Vec<_> = in_order(state, table, 0..u64::MAX).filter(is_there).collect();
    all.sort_by_key(|&(key, number)| (number, key));
    all
}

impl Data for Model {
    fn get(&mut self, table: In, key: u64) -> Option<i64> {
        self.look(table, key)
    }

    fn put(&mut self, table: In, key: u64, number: i64) {
        if let In::People | In::Players = table {
            // Where the index had the row is looked up.
            self.look(table, key);
        }
        self.state.insert((table, key), number);
    }

    fn change(&mut self, table: In, key: u64, add: i64) -> Option<i64> {
        let before = self.look(table, key)?;
        self.state.insert((table, key), (before + add) % NUMBERS);
        Some(before)
    }

    fn delete(&mut self, table: In, key: u64) -> bool {
        self.look(table, key);
        self.state.remove(&(table, key)).is_some()
    }

    fn merge(&mut self, table: In, key: u64, number: i64) -> bool {
        let before = self.look(table, key);
        let after = match (table, before) {
            (In::Polls, Some(poll)) if poll & 1 == 1 => return false,
            (In::Polls, before) => before.unwrap_or(0) + vote(number),
            (In::Lists, before) => appended(before.unwrap_or(0), number),
            (In::Guests, before) => before.unwrap_or(0) | 1 << (number & 7),
            (In::Peaks, Some(peak)) => peak.max(number),
            (_, before) => before.unwrap_or(0) + number,
        };
        self.state.insert((table, key), after);
        true
    }

    fn take(&mut self, table: In, key: u64, delta: i64, floor: i64) -> bool {
        let sum = self.look(table, key).unwrap_or(0) + delta;
        let is_enough = sum >= floor;
        if is_enough {
            self.state.insert((table, key), sum);
        }
        is_enough
    }

    fn walk(&mut self, walk: &Walk) -> Rows {
        let Walk { table, ref keys, most, from_back } = *walk;
        if table == In::Totals {
            // Row by row, and all of them.
            let all = keys.clone().filter_map(|key| Some((key, self.look(table, key)?)));
            let all: Vec<_> = all.collect();
            return some(all.into_iter(), most, from_back);
        }
        let rows = [&self.state, &self.before].map(|state| in_order(state, table, keys.clone()).collect());
        self.walk_rows(table, rows, false, most, from_back)
    }

    fn find(&mut self, find: &Find) -> Rows {
        let rows = [&self.state, &self.before].map(|state| found(state, find));
        self.walk_rows(find.table(), rows, true, find.most, find.from_back)
    }
}

/// The rows that a snapshot shows, the same in all ways to look; and the digest from scratch.
pub(crate) fn look(snapshot: &Snapshot) -> (State, u128) {
    let mut state = State::new();
    let mut add = |table, key, number| assert_eq!(state.insert((table, key), number), None);
    snapshot.for_each(&ROWS, |&key, number| add(In::Rows, key, *number));
    snapshot.for_each(&STOCK, |&key, sum| add(In::Stock, key, sum.0));
    snapshot.for_each(&TOTALS, |&key, sum| add(In::Totals, key, sum.0));
    snapshot.for_each(&PEAKS, |&key, peak| add(In::Peaks, key, peak.0));
    snapshot.for_each(&GUESTS, |&key, guests| add(In::Guests, key, mask(&guests.0)));
    snapshot.for_each(&LISTS, |&key, list| add(In::Lists, key, number_of(list)));
    snapshot.for_each(&POLLS, |&key, poll| add(In::Polls, key, poll.number()));
    snapshot.for_each(&PEOPLE, |&key, person| add(In::People, key, person.number()));
    snapshot.for_each(&PLAYERS, |&key, score| {
        assert_eq!(key, player(key.1));
        add(In::Players, key.1, *score);
    });
    let rows = |table| in_order(&state, table, 0..u64::MAX);
    assert!(snapshot.range(&STOCK, ..).map(|(key, sum)| (key, sum.0)).eq(rows(In::Stock)));
    assert!(rows(In::Stock).all(|(_, stock)| stock >= 0), "below the floor: {snapshot:?}, {state:?}");
    assert!(snapshot.range(&PEOPLE, ..).map(|(key, person)| (key, person.number())).eq(rows(In::People)));
    for key in 0..keys(In::People) {
        let person = snapshot.get(&PEOPLE, &key).as_ref().map(Person::number);
        assert_eq!(person, state.get(&(In::People, key)).copied(), "{snapshot:?}");
    }
    let everybody = Find { city: None, numbers: 0..i64::MAX, most: usize::MAX, from_back: false };
    let by_age = snapshot.range_by(&BY_AGE, ..).map(|(age, key)| (key, i64::from(age)));
    assert_eq!(by_age.collect::<Vec<_>>(), found(&state, &everybody), "{snapshot:?}");
    for city in 0..crate::steps::CITIES {
        let players = Find { city: Some(city), ..everybody.clone() };
        let ranked =
            snapshot.range_by(&RANKING, players.ranks(city)).map(|((_, score), (_, key))| (key, score));
        assert_eq!(ranked.collect::<Vec<_>>(), found(&state, &players), "{snapshot:?}");
    }
    (state, snapshot.state_digest())
}
