//! Secondary indexes: what they find is what a scan of the table finds, in procedures, snapshots and interactive
//! transactions, whatever the schedule and the footprints.

use std::sync::Arc;

use mixlog_engine::{
    CommitError, Conflict, Engine, Footprint, Index, Mode, OpenError, Outcome, Procedure, Replay, Table, Tx,
};
use mixlog_log::{MemoryLog, SharedLog};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Person {
    name: String,
    age: u32,
}

const PEOPLE: Table<u64, Person> = Table::new("people");
const BY_NAME: Index<u64, Person, String> =
    Index::new("people.by_name", PEOPLE, |_, person| Some(person.name.clone()));
/// Of age only.
const BY_AGE: Index<u64, Person, u32> =
    Index::new("people.by_age", PEOPLE, |_, person| (person.age >= 18).then_some(person.age));
/// By all that divides the age, some of it twice; nobody's age may be zero there.
const BY_DIVISOR: Index<u64, Person, u32> = Index::many("people.by_divisor", PEOPLE, |_, person| {
    let divisors = (1..=person.age).filter(|divisor| person.age % divisor == 0);
    divisors.flat_map(|divisor| [person.age / divisor, divisor]).collect()
});

fn builder() -> mixlog_engine::Builder {
    let builder = Engine::builder().table(&PEOPLE).index(&BY_NAME).index(&BY_AGE).index(&BY_DIVISOR);
    builder.procedure::<Change>()
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Op {
    Put(u64, u32, u32),
    Rename(u64, u32),
    /// To the same name: nothing moves.
    Touch(u64),
    Delete(u64),
    Older(u32),
    DividedBy(u32),
    Named(u32),
    AnyOfAge(u32, u32),
    Abort,
}

fn name(n: u32) -> String {
    format!("name{n:02}")
}

#[derive(Debug, Serialize, Deserialize)]
struct Change {
    ops: Vec<Op>,
    declares: bool,
}

impl Procedure for Change {
    const NAME: &'static str = "change";
    type Output = Vec<u64>;
    type Abort = ();

    /// Declares what follows from the arguments: enough for reads, too little for what moves in an index.
    fn footprint(&self, f: &mut Footprint<'_>) {
        if !self.declares {
            f.reconnoitre();
            return;
        }
        for op in &self.ops {
            match *op {
                Op::Put(id, n, age) => {
                    f.write(&PEOPLE, &id).write_by(&BY_NAME, name(n), id).write_by(&BY_AGE, age, id)
                }
                Op::Rename(id, n) => f.write(&PEOPLE, &id).write_by(&BY_NAME, name(n), id),
                Op::Touch(id) | Op::Delete(id) => f.write(&PEOPLE, &id),
                Op::Named(n) => f.range_by(&BY_NAME, name(n)..=name(n)),
                Op::AnyOfAge(from, to) => f.range_by(&BY_AGE, from..to),
                Op::Older(age) => f.range_by(&BY_AGE, age..),
                Op::DividedBy(divisor) => f.range_by(&BY_DIVISOR, divisor..=divisor),
                Op::Abort => &mut *f,
            };
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<u64>, ()> {
        let mut out = Vec::new();
        for op in &self.ops {
            match *op {
                Op::Put(id, n, age) => tx.put(&PEOPLE, id, Person { name: name(n), age }),
                Op::Rename(id, n) => {
                    if let Some(person) = tx.get_mut(&PEOPLE, &id) {
                        person.name = name(n);
                    }
                }
                Op::Touch(id) => {
                    if let Some(person) = tx.get_mut(&PEOPLE, &id) {
                        person.name = person.name.clone();
                    }
                }
                Op::Delete(id) => out.push(u64::from(tx.delete(&PEOPLE, &id))),
                Op::Named(n) => {
                    let found: Vec<_> = tx.range_by(&BY_NAME, name(n)..=name(n)).collect();
                    for (found, id) in found {
                        assert_eq!((found, name(n)), (tx.get(&PEOPLE, &id).unwrap().name.clone(), name(n)));
                        out.push(id);
                    }
                }
                Op::AnyOfAge(from, to) => {
                    let found: Vec<_> = tx.range_by(&BY_AGE, from..to).rev().collect();
                    out.extend(found.into_iter().map(|(age, id)| id << 32 | u64::from(age)));
                }
                // A queue: the oldest one goes.
                Op::Older(age) => {
                    let oldest = tx.range_by(&BY_AGE, age..).next_back();
                    if let Some((_, id)) = oldest {
                        assert!(tx.delete(&PEOPLE, &id));
                        out.push(id);
                    }
                }
                Op::DividedBy(divisor) => {
                    let found: Vec<_> = tx.range_by(&BY_DIVISOR, divisor..=divisor).collect();
                    for (by, id) in found {
                        assert_eq!((by, tx.get(&PEOPLE, &id).unwrap().age % divisor), (divisor, 0));
                        out.push(id);
                    }
                }
                Op::Abort => return Err(()),
            }
        }
        Ok(out)
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

fn change(random: &mut Random) -> Change {
    let op = |random: &mut Random| {
        let (id, n, age) = (random.below(400), random.below(30) as u32, random.below(60) as u32);
        match random.below(16) {
            0..6 => Op::Put(id, n, age),
            6 | 7 => Op::Rename(id, n),
            8 => Op::Touch(id),
            9 => Op::Delete(id),
            10 => Op::Older(30 + age / 2),
            11 => Op::Named(n),
            12 => Op::DividedBy(1 + n),
            13 | 14 => Op::AnyOfAge(age, age + 10),
            _ if random.below(4) == 0 => Op::Abort,
            _ => Op::Touch(id),
        }
    };
    Change { ops: (0..1 + random.below(5)).map(|_| op(random)).collect(), declares: random.below(2) == 0 }
}

/// Index entries from a scan of the table, and as the index has them.
fn check(replay: &Replay) {
    let snapshot = replay.snapshot();
    let (mut names, mut ages, mut divisors) = (Vec::new(), Vec::new(), Vec::new());
    snapshot.for_each(&PEOPLE, |id, person| {
        names.push((person.name.clone(), *id));
        if person.age >= 18 {
            ages.push((person.age, *id));
        }
        let all = (1..=person.age).filter(|divisor| person.age % divisor == 0);
        divisors.extend(all.map(|divisor| (divisor, *id)));
    });
    names.sort();
    ages.sort();
    divisors.sort();
    assert_eq!(snapshot.range_by(&BY_DIVISOR, ..).collect::<Vec<_>>(), divisors);
    assert_eq!(snapshot.range_by(&BY_NAME, ..).collect::<Vec<_>>(), names);
    assert_eq!(snapshot.range_by(&BY_AGE, ..).collect::<Vec<_>>(), ages);
    let some: Vec<_> = ages.iter().filter(|(age, _)| (20..25).contains(age)).copied().collect();
    assert_eq!(snapshot.range_by(&BY_AGE, 20..25).collect::<Vec<_>>(), some);
}

#[test]
fn indexes_follow_their_table_whatever_the_schedule() {
    for seed in 0..3 {
        let log = Arc::new(MemoryLog::new());
        let engine = builder().threads(2).window(64).open(Arc::clone(&log) as Arc<dyn SharedLog>).unwrap();
        let mut random = Random(seed);
        let tickets: Vec<_> = (0..3000).map(|_| engine.submit(&change(&mut random)).unwrap()).collect();
        for ticket in tickets {
            let outcome = ticket.wait().unwrap();
            assert!(!matches!(outcome, Outcome::Panicked { .. }), "{outcome:?}");
        }
        let recorded = engine.digest();
        engine.close().unwrap();
        let replay = |threads, window, mode| {
            let replay = builder().threads(threads).window(window).mode(mode);
            let replay = replay.replay(Arc::clone(&log) as Arc<dyn SharedLog>).unwrap();
            assert_eq!(replay.to_end().unwrap(), recorded, "seed {seed}, {threads} threads, window {window}");
            check(&replay);
        };
        replay(1, 4096, Mode::Sequential);
        for threads in [1, 2, 4, 8] {
            for window in [1, 7, 64, 4096] {
                replay(threads, window, Mode::Parallel);
            }
        }
    }
}

#[test]
fn interactive_transactions_use_indexes_and_conflict_on_what_they_found() {
    let log = Arc::new(MemoryLog::new());
    let engine = builder().threads(2).open(log).unwrap();
    let mut setup = engine.begin();
    for id in 0..10 {
        setup.put(&PEOPLE, id, Person { name: name(id as u32 % 3), age: 20 + id as u32 });
    }
    setup.get_mut(&PEOPLE, &4).unwrap().age = 99;
    assert_eq!(setup.range_by(&BY_AGE, 29..).collect::<Vec<_>>(), [(29, 9), (99, 4)]);
    setup.commit().unwrap();
    assert_eq!(engine.snapshot().range_by(&BY_AGE, 28..).collect::<Vec<_>>(), [(28, 8), (29, 9), (99, 4)]);
    let mut reader = engine.begin();
    let found: Vec<_> = reader.range_by(&BY_NAME, name(1)..=name(1)).map(|(_, id)| id).collect();
    assert_eq!(found, [1, 4, 7]);
    reader.put(&PEOPLE, 100, Person { name: "count".into(), age: found.len() as u32 });
    let mut other = engine.begin();
    other.get_mut(&PEOPLE, &0).unwrap().name = name(1);
    other.commit().unwrap();
    match reader.commit().unwrap_err() {
        CommitError::Conflict { reason, .. } => {
            assert_eq!(reason, Conflict::Range { table: "people.by_name".into() });
        }
        other => panic!("{other}"),
    }
}

/// The same indexes, by something else.
const BY_LAST_LETTER: Index<u64, Person, String> =
    Index::new("people.by_name", PEOPLE, |_, person| person.name.chars().next_back().map(String::from));
const BY_AGE_AS_TEXT: Index<u64, Person, String> =
    Index::new("people.by_age", PEOPLE, |_, person| Some(person.age.to_string()));

/// What interactive transactions write leaves indexes out, which every program has as it likes.
#[test]
fn programs_with_other_indexes_read_what_interactive_transactions_wrote() {
    let log = Arc::new(MemoryLog::new());
    let engine = builder().threads(2).open(Arc::clone(&log) as Arc<dyn SharedLog>).unwrap();
    let mut random = Random(7);
    for _ in 0..200 {
        let mut transaction = engine.begin();
        for _ in 0..4 {
            let id = random.below(30);
            match random.below(4) {
                0 => drop(transaction.delete(&PEOPLE, &id)),
                1 => drop(transaction.get_mut(&PEOPLE, &id).map(|person| person.name = name(id as u32 % 5))),
                _ => {
                    let age = 1 + random.below(40) as u32;
                    transaction.put(&PEOPLE, id, Person { name: name(age % 7), age });
                }
            }
        }
        transaction.commit().unwrap();
    }
    assert_eq!(engine.stats().violations, 0, "footprints of intentions are exact");
    let written = engine.digest();
    let end = engine.position().unwrap();
    let replay = |builder: mixlog_engine::Builder| {
        let replay =
            builder.procedure::<Change>().threads(2).replay(Arc::clone(&log) as Arc<dyn SharedLog>).unwrap();
        assert_eq!(replay.to(end).unwrap(), written);
        replay
    };
    let people = || Engine::builder().table(&PEOPLE);
    check(&replay(people().index(&BY_NAME).index(&BY_AGE).index(&BY_DIVISOR)));
    replay(people());
    let other = replay(people().index(&BY_LAST_LETTER).index(&BY_AGE_AS_TEXT)).snapshot();
    let (mut letters, mut ages) = (Vec::new(), Vec::new());
    other.for_each(&PEOPLE, |id, person| {
        letters.push((person.name.chars().next_back().unwrap().to_string(), *id));
        ages.push((person.age.to_string(), *id));
    });
    letters.sort();
    ages.sort();
    assert!(letters.len() > 10);
    assert_eq!(other.range_by(&BY_LAST_LETTER, ..).collect::<Vec<_>>(), letters);
    assert_eq!(other.range_by(&BY_AGE_AS_TEXT, ..).collect::<Vec<_>>(), ages);
    // What one read of an index was decided by it, so it has to be there.
    let mut reader = engine.begin();
    let count = reader.range_by(&BY_AGE, 18..).count() as u32;
    reader.put(&PEOPLE, 1000, Person { name: "count".into(), age: count });
    reader.commit().unwrap();
    let refused = |builder: mixlog_engine::Builder, says: &str| {
        let opened = builder.procedure::<Change>().open(Arc::clone(&log) as Arc<dyn SharedLog>);
        let Err(OpenError::Entry { position, detail }) = opened else { panic!("it opens") };
        assert!(position > end && detail.contains(says), "{position}: {detail}");
    };
    engine.close().unwrap();
    refused(people().index(&BY_NAME), "which is not registered");
    refused(people().index(&BY_AGE_AS_TEXT), "of another type");
    let engine = people().index(&BY_AGE).procedure::<Change>().open(Arc::clone(&log) as Arc<dyn SharedLog>);
    engine.unwrap().close().unwrap();
}

/// A granule is a city: its players, and how they are ranked.
const PLAYERS: Table<(u32, u32), u32> = Table::new("players").grouped("cities", |(city, _)| *city as u64);
const RANKING: Index<(u32, u32), u32, (u32, u32)> =
    Index::new("players.ranking", PLAYERS, |(city, _), score| Some((*city, *score)))
        .grouped("cities", |(city, _)| *city as u64);

const fn of_city(city: u32) -> std::ops::RangeInclusive<(u32, u32)> {
    (city, 0)..=(city, u32::MAX)
}

/// Somebody scores, or, without a score, leaves; then the first of the city falls to half.
#[derive(Debug, Serialize, Deserialize)]
struct Play {
    city: u32,
    player: u32,
    score: Option<u32>,
    halves: bool,
    fails: bool,
    /// Whether rows are named, though the granule would do.
    names: bool,
}

impl Procedure for Play {
    const NAME: &'static str = "play";
    type Output = Vec<(u32, u32)>;
    type Abort = ();

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write_granule(&PLAYERS, u64::from(self.city));
        if self.names {
            f.write(&PLAYERS, &(self.city, self.player));
            let first = f.get_by(&RANKING, of_city(self.city)).last();
            if let Some((_, key)) = first {
                f.write(&PLAYERS, &key);
            }
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<(u32, u32)>, ()> {
        let key = (self.city, self.player);
        match self.score {
            Some(score) => tx.put(&PLAYERS, key, score),
            None => drop(tx.delete(&PLAYERS, &key)),
        }
        if self.halves {
            let first = tx.range_by(&RANKING, of_city(self.city)).next_back();
            if let Some((_, key)) = first {
                *tx.get_mut(&PLAYERS, &key).expect("a row of the index") /= 2;
            }
        }
        if self.fails {
            return Err(());
        }
        let best = tx.range_by(&RANKING, of_city(self.city)).rev().take(3);
        Ok(best.map(|((_, score), (_, player))| (player, score)).collect())
    }
}

#[test]
fn a_grouped_index_is_covered_by_the_granules_of_its_table() {
    let builder = || Engine::builder().table(&PLAYERS).index(&RANKING).procedure::<Play>();
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = builder().threads(2).window(64).mode(Mode::Parallel).open(Arc::clone(&log)).unwrap();
    let mut random = Random(7);
    let mut tickets = Vec::new();
    for _ in 0..3000 {
        let play = Play {
            city: random.below(12) as u32,
            player: random.below(50) as u32,
            score: (random.below(5) > 0).then(|| random.below(1000) as u32),
            halves: random.below(3) == 0,
            fails: random.below(10) == 0,
            names: random.below(2) == 0,
        };
        tickets.push(engine.submit(&play).unwrap());
    }
    for ticket in tickets {
        let outcome = ticket.wait().unwrap();
        assert!(!matches!(outcome, Outcome::Panicked { .. }), "{outcome:?}");
    }
    assert_eq!(engine.stats().violations, 0, "who writes the table's granule may write the index");
    let recorded = engine.digest();
    engine.close().unwrap();
    for (threads, window, mode) in [
        (1, 4096, Mode::Sequential),
        (1, 64, Mode::Parallel),
        (2, 7, Mode::Parallel),
        (4, 64, Mode::Parallel),
    ] {
        let replay = builder().threads(threads).window(window).mode(mode).replay(Arc::clone(&log)).unwrap();
        assert_eq!(replay.to_end().unwrap(), recorded, "{threads} threads, window {window}");
        let snapshot = replay.snapshot();
        let mut ranked = Vec::new();
        snapshot.for_each(&PLAYERS, |key, score| ranked.push(((key.0, *score), *key)));
        ranked.sort_unstable();
        let found: Vec<_> = (0..12).flat_map(|city| snapshot.range_by(&RANKING, of_city(city))).collect();
        assert_eq!(found, ranked);
    }
}

/// Rows conflict one by one; a granule is how a city is ranked.
const SOLO: Table<(u32, u32), u32> = Table::new("solo");
const SOLO_RANKING: Index<(u32, u32), u32, (u32, u32)> =
    Index::new("solo.ranking", SOLO, |(city, _), score| Some((*city, *score)))
        .grouped("rankings", |(city, _)| *city as u64);

/// Somebody scores, and learns who is first.
#[derive(Serialize, Deserialize)]
struct Score<const DECLARES: bool> {
    city: u32,
    player: u32,
    score: u32,
}

impl<const DECLARES: bool> Procedure for Score<DECLARES> {
    const NAME: &'static str = "score";
    type Output = Option<u32>;
    type Abort = ();

    fn footprint(&self, f: &mut Footprint<'_>) {
        let key = (self.city, self.player);
        f.write(&SOLO, &key);
        if DECLARES {
            f.write_by(&SOLO_RANKING, (self.city, self.score), key);
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Option<u32>, ()> {
        tx.put(&SOLO, (self.city, self.player), self.score);
        Ok(tx.range_by(&SOLO_RANKING, of_city(self.city)).next_back().map(|(_, (_, player))| player))
    }
}

#[test]
fn an_index_grouped_in_a_domain_of_its_own_has_granules_of_its_own() {
    fn run<const DECLARES: bool>(mode: Mode) -> (Vec<Option<u32>>, u64) {
        let builder = Engine::builder().table(&SOLO).index(&SOLO_RANKING).procedure::<Score<DECLARES>>();
        let engine = builder.threads(2).mode(mode).open(Arc::new(MemoryLog::new())).unwrap();
        let mut random = Random(3);
        let mut below = |bound| random.below(bound) as u32;
        let scores: Vec<_> = (0..2000)
            .map(|_| Score::<DECLARES> { city: below(7), player: below(30), score: below(1000) })
            .collect();
        let tickets: Vec<_> = scores.iter().map(|score| engine.submit(score).unwrap()).collect();
        let first = tickets.into_iter().map(|ticket| ticket.wait().unwrap().committed().unwrap()).collect();
        (first, engine.stats().violations)
    }
    let (expected, _) = run::<true>(Mode::Sequential);
    assert_eq!(run::<true>(Mode::Parallel), (expected.clone(), 0));
    // Who leaves it out is noticed, and gets the same results.
    let (first, violations) = run::<false>(Mode::Parallel);
    assert!(first == expected && violations > 0);
}

#[test]
fn tables_that_are_described_in_two_ways_are_refused_by_name() {
    const ROWS: Table<u64, u64> = Table::new("rows");
    const GROUPED: Table<u64, u64> = Table::new("rows").grouped("tens", |key| key / 10);
    const OTHERWISE: Table<u64, u64> = Table::new("rows").grouped("hundreds", |key| key / 100);
    let refused = |builder: mixlog_engine::Builder| match builder.open(Arc::new(MemoryLog::new())) {
        Err(OpenError::Configuration(text)) => text,
        other => panic!("{other:?}"),
    };
    let same = refused(Engine::builder().table(&ROWS).table(&ROWS));
    assert_eq!(same, "table \"rows\" is registered twice");
    let text = refused(Engine::builder().table(&ROWS).table(&GROUPED));
    assert!(
        text.contains("\"rows\" is registered twice: not grouped") && text.contains("\"tens\""),
        "{text}"
    );
    for (registered, indexed) in [
        (ROWS, GROUPED),
        (GROUPED, ROWS),
        (GROUPED, OTHERWISE),
        (ROWS, ROWS.ordered()),
        (ROWS, ROWS.version(2)),
    ] {
        let index = Index::new("rows.by_value", indexed, |_, value| Some(*value));
        let text = refused(Engine::builder().table(&registered).index(&index));
        assert!(text.contains("index \"rows.by_value\" is of table \"rows\" as "), "{text}");
        let builder = Engine::builder().table(&indexed).index(&index);
        builder.open(Arc::new(MemoryLog::new())).unwrap().close().unwrap();
    }
}

#[test]
fn index_without_its_table_is_refused() {
    let error = Engine::builder().index(&BY_NAME).open(Arc::new(MemoryLog::new())).unwrap_err();
    assert!(matches!(error, OpenError::Configuration(_)) && error.to_string().contains("people"), "{error}");
    let other: Table<u64, u64> = Table::new("people");
    let error = Engine::builder().table(&other).index(&BY_NAME).open(Arc::new(MemoryLog::new())).unwrap_err();
    assert!(error.to_string().contains("other types"), "{error}");
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Offer {
    owner: u32,
    amount: u32,
}

/// By price and number.
const OFFERS: Table<(u32, u64), Offer> = Table::new("offers").ordered();
const BY_OWNER: Index<(u32, u64), Offer, u32> =
    Index::new("offers.by_owner", OFFERS, |_, offer| Some(offer.owner));
const BY_AMOUNT: Index<(u32, u64), Offer, u32> =
    Index::many("offers.by_amount", OFFERS, |_, offer| vec![offer.amount, offer.amount / 2]);

/// Takes so much of the cheapest offers, of two at most, and then offers something, at a price.
#[derive(Debug, Serialize, Deserialize)]
struct Trade {
    takes: u32,
    amount: u32,
    owner: u32,
    price: u32,
}

/// What becomes of an offer of which so much is wanted.
fn taken(offer: &Offer, left: &mut u32) -> Option<Offer> {
    let takes = offer.amount.min(*left);
    *left -= takes;
    (takes < offer.amount).then(|| Offer { amount: offer.amount - takes, ..offer.clone() })
}

impl Procedure for Trade {
    const NAME: &'static str = "trade";
    type Output = u32;
    type Abort = ();

    fn footprint(&self, f: &mut Footprint<'_>) {
        let mut left = self.takes;
        for (key, offer) in f.get_first(&OFFERS, .., 2) {
            if left > 0 {
                f.write_row(&OFFERS, &key, Some(&offer), taken(&offer, &mut left).as_ref());
            }
        }
        let (key, offer) = ((self.price, f.position().0), Offer { owner: self.owner, amount: self.amount });
        f.write_row(&OFFERS, &key, None, Some(&offer));
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u32, ()> {
        let mut left = self.takes;
        let best: Vec<_> = tx.range(&OFFERS, ..).take(2).map(|(key, offer)| (key, offer.clone())).collect();
        for (key, offer) in best {
            match taken(&offer, &mut left) {
                rest if rest.as_ref() == Some(&offer) => {}
                Some(rest) => tx.put(&OFFERS, key, rest),
                None => drop(tx.delete(&OFFERS, &key)),
            }
        }
        let key = (self.price, tx.position().0);
        tx.put(&OFFERS, key, Offer { owner: self.owner, amount: self.amount });
        Ok(left)
    }
}

#[test]
fn an_indexed_row_is_declared_in_one_call_and_the_first_rows_of_many_are_looked_at_without_the_others() {
    let engine =
        Engine::builder().table(&OFFERS).index(&BY_OWNER).index(&BY_AMOUNT).procedure::<Trade>().threads(2);
    let engine = engine.open(Arc::new(MemoryLog::new())).unwrap();
    let mut state = 11;
    let mut random = |below: u64| {
        state = u64::wrapping_mul(state, 0x5851_f42d_4c95_7f2d).wrapping_add(1);
        ((state >> 33) % below) as u32
    };
    let trade = |random: &mut dyn FnMut(u64) -> u32| Trade {
        takes: random(40),
        amount: 1 + random(40),
        owner: random(9),
        // So that there are more offers than a leaf has.
        price: random(1_000_000),
    };
    for round in 0..6 {
        for _ in 0..200 {
            engine.execute(&Trade { takes: 0, ..trade(&mut random) }).unwrap();
        }
        for _ in 0..20 {
            let trade = trade(&mut random);
            let report = engine.check_footprint(&trade);
            // How many rows of the first leaf count is not known, so there may be a leaf more.
            let is_walk = |surplus: &String| surplus.starts_with("read range");
            assert!(report.is_complete(), "{round}: {report}");
            assert!(
                report.surplus.iter().map(ToString::to_string).all(|it| is_walk(&it)),
                "{round}: {report}"
            );
            engine.execute(&trade).unwrap();
        }
    }
    assert!(engine.snapshot().range(&OFFERS, ..).count() > 300);
}
