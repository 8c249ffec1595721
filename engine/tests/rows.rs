//! Rows that are made where there are none (`get_or_put`), and ranges that footprints look at (`get_range`), on all ways
//! through the engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use mixlog_engine::testing::Surplus;
use mixlog_engine::{Engine, Footprint, Index, Mode, Never, Outcome, Procedure, Table, Tx, assert_footprint};
use mixlog_log::{MemoryLog, SharedLog};
use serde::{Deserialize, Serialize};

const COUNTS: Table<u64, u64> = Table::new("counts");
const BY_COUNT: Index<u64, u64, u64> = Index::new("counts.by_count", COUNTS, |_, &count| Some(count));

/// Counts from ten, and not to a multiple of seven: then what was put, too, is undone.
#[derive(Serialize, Deserialize)]
struct Count {
    key: u64,
    by: u64,
    declares: bool,
}

impl Procedure for Count {
    const NAME: &'static str = "count";
    type Output = u64;
    type Abort = ();

    fn footprint(&self, f: &mut Footprint<'_>) {
        if self.declares {
            f.write(&COUNTS, &self.key);
        } else {
            f.reconnoitre();
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, ()> {
        let count = tx.get_or_put(&COUNTS, self.key, || 10);
        *count += self.by;
        let count = *count;
        // The index sees the change at once.
        let found: Vec<_> = tx.range_by(&BY_COUNT, count..=count).map(|(_, key)| key).collect();
        assert!(found.contains(&self.key));
        if count.is_multiple_of(7) { Err(()) } else { Ok(count) }
    }
}

#[test]
fn get_or_put_counts_like_a_map_in_every_mode() {
    let calls = || (0..3000).map(|i| Count { key: i * i % 211, by: 1 + i % 3, declares: i % 2 == 0 });
    let mut model = BTreeMap::new();
    let expected: Vec<_> = calls()
        .map(|Count { key, by, .. }| {
            let count = model.get(&key).copied().unwrap_or(10) + by;
            if count % 7 == 0 {
                return None;
            }
            model.insert(key, count);
            Some(count)
        })
        .collect();
    for (mode, threads) in [(Mode::Sequential, 1), (Mode::Parallel, 3)] {
        let builder = Engine::builder().table(&COUNTS).index(&BY_COUNT).procedure::<Count>();
        let log = Arc::new(MemoryLog::new());
        let engine = builder.mode(mode).threads(threads).open(log).expect("an empty log");
        let tickets: Vec<_> = calls().map(|call| engine.submit(&call).expect("it runs")).collect();
        let answers = tickets.into_iter().map(|ticket| ticket.wait().expect("it runs").decided());
        let answers: Vec<_> = answers.map(|answer| answer.expect("nothing panics").ok()).collect();
        assert_eq!(answers, expected, "{mode:?}");
        let snapshot = engine.snapshot();
        let mut rows = BTreeMap::new();
        snapshot.for_each(&COUNTS, |&key, &count| assert_eq!(rows.insert(key, count), None));
        assert_eq!(rows, model, "{mode:?}");
        assert_eq!(snapshot.state_digest(), engine.digest().state);
    }
}

#[test]
fn get_or_put_in_an_interactive_transaction_commits_what_it_made() {
    let engine = Engine::builder().table(&COUNTS).open(Arc::new(MemoryLog::new())).expect("an empty log");
    for expected in [11, 12] {
        let mut transaction = engine.begin();
        *transaction.get_or_put(&COUNTS, 1, || 10) += 1;
        transaction.commit().expect("nobody else is there");
        assert_eq!(engine.snapshot().get(&COUNTS, &1), Some(expected));
    }
}

const LINES: Table<(u64, u32), u64> = Table::new("lines").ordered();
const STOCK: Table<u64, u64> = Table::new("stock");

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Lines {
    Add {
        order: u64,
        line: u32,
        article: u64,
    },
    /// Gives all articles of an order back, and tells how many.
    Return {
        order: u64,
    },
}

const fn of(order: u64) -> std::ops::RangeInclusive<(u64, u32)> {
    (order, 0)..=(order, u32::MAX)
}

impl Procedure for Lines {
    const NAME: &'static str = "lines";
    type Output = usize;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        match *self {
            Self::Add { order, line, .. } => drop(f.write(&LINES, &(order, line))),
            Self::Return { order } => {
                for (key, article) in f.get_range(&LINES, of(order)) {
                    f.write(&LINES, &key).write(&STOCK, &article);
                }
            }
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<usize, Never> {
        match *self {
            Self::Add { order, line, article } => {
                tx.put(&LINES, (order, line), article);
                Ok(1)
            }
            Self::Return { order } => {
                let lines: Vec<_> =
                    tx.range(&LINES, of(order)).map(|(key, &article)| (key, article)).collect();
                for (key, article) in &lines {
                    tx.delete(&LINES, key);
                    *tx.get_or_put(&STOCK, *article, || 0) += 1;
                }
                Ok(lines.len())
            }
        }
    }
}

#[test]
fn footprints_that_look_at_ranges_are_exact_on_what_they_saw_and_harmless_on_what_changed() {
    const ORDERS: u64 = 600;
    let builder = || Engine::builder().table(&LINES).table(&STOCK).procedure::<Lines>();
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine =
        builder().mode(Mode::Parallel).threads(2).window(64).open(log.clone()).expect("an empty log");
    let submit = |calls: &[Lines]| {
        let tickets: Vec<_> = calls.iter().map(|call| engine.submit(call).expect("it runs")).collect();
        let answers = tickets.into_iter().map(|ticket| ticket.wait().expect("it runs").decided());
        answers.map(|answer| answer.expect("nothing panics").expect("it never aborts")).collect::<Vec<_>>()
    };
    let lines = |order: u64| 1 + (order * 7 % 4) as u32;
    let add = |order| {
        (0..lines(order)).map(move |line| Lines::Add { order, line, article: order + u64::from(line) })
    };
    submit(&(0..ORDERS).flat_map(add).collect::<Vec<_>>());

    assert_footprint!(&engine, (0..ORDERS).step_by(7).map(|order| Lines::Return { order }), Surplus::Refused);
    // What is looked at was there before, and stays.
    let violations = engine.stats().violations;
    let returned = submit(&(0..ORDERS / 2).map(|order| Lines::Return { order }).collect::<Vec<_>>());
    assert_eq!(returned, (0..ORDERS / 2).map(|order| lines(order) as usize).collect::<Vec<_>>());
    assert_eq!(engine.stats().violations, violations);
    // What is looked at comes and goes just before.
    let mixed: Vec<_> = (ORDERS / 2..ORDERS)
        .flat_map(|order| {
            [Lines::Return { order }].into_iter().chain(add(order)).chain([Lines::Return { order }])
        })
        .collect();
    let expected: Vec<_> = mixed
        .iter()
        .map(|call| match call {
            Lines::Add { .. } => 1,
            Lines::Return { order } => lines(*order) as usize,
        })
        .collect();
    assert_eq!(submit(&mixed), expected);
    assert!(engine.snapshot().is_empty(&LINES));
    let digest = engine.digest();
    for (mode, threads) in [(Mode::Sequential, 1), (Mode::Parallel, 3)] {
        let replay = builder().mode(mode).threads(threads).replay(log.clone()).expect("it makes sense");
        assert_eq!(replay.to_end().expect("the log is whole"), digest);
    }
}

const BOXES: Table<u64, u64> = Table::new("boxes").grouped("box", |&number| number);
/// Takes ten boxes for one.
const ITEMS: Table<u64, u64> = Table::new("items").grouped("box", |&number| number / 10);

/// Counts a box and its item, and means to have declared both by the box.
#[derive(Serialize, Deserialize)]
struct Pack(u64);

impl Procedure for Pack {
    const NAME: &'static str = "pack";
    type Output = (u64, u64);
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write_granule(&BOXES, self.0);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(u64, u64), Never> {
        *tx.get_or_put(&BOXES, self.0, || 0) += 1;
        let boxes = *tx.get_or_put(&BOXES, self.0, || 0);
        let items = tx.get_or_put(&ITEMS, self.0, || 0);
        *items += boxes;
        Ok((boxes, *items))
    }
}

#[test]
fn tables_of_one_domain_that_do_not_agree_on_groups_cost_replays_and_change_no_result() {
    let run = |threads, mode| {
        let builder = Engine::builder().table(&BOXES).table(&ITEMS).procedure::<Pack>();
        let engine = builder.threads(threads).mode(mode).open(Arc::new(MemoryLog::new())).unwrap();
        let tickets: Vec<_> = (0..2000).map(|n| engine.submit(&Pack(n * n % 37)).unwrap()).collect();
        let packed: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait().unwrap().committed()).collect();
        let digest = engine.digest();
        (packed, (digest.state, digest.replies), engine.stats().violations)
    };
    let (packed, digest, _) = run(1, Mode::Sequential);
    for threads in [2, 4] {
        let (here, found, violations) = run(threads, Mode::Parallel);
        assert!((&here, found) == (&packed, digest) && violations > 0, "{violations} violations");
    }
}

const CRATES: Table<u64, u64> = Table::new("crates").grouped("crates", |&number| match number {
    13 => panic!("no crate has this number"),
    number => number / 4,
});

/// Puts something into a crate.
#[derive(Serialize, Deserialize)]
struct Fill(u64);

impl Procedure for Fill {
    const NAME: &'static str = "fill";
    type Output = bool;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<bool, Never> {
        tx.put(&COUNTS, self.0, 1);
        tx.put(&CRATES, self.0, self.0);
        Ok(tx.get(&CRATES, &12).is_some())
    }
}

#[test]
fn granule_functions_that_panic_are_outcomes_in_every_mode() {
    let builder = || Engine::builder().table(&COUNTS).table(&CRATES).procedure::<Fill>();
    let mut digests = Vec::new();
    for (mode, threads) in [(Mode::Sequential, 1), (Mode::Parallel, 1), (Mode::Parallel, 2), (Mode::Auto, 2)]
    {
        let engine = builder().mode(mode).threads(threads).open(Arc::new(MemoryLog::new())).unwrap();
        let tickets: Vec<_> =
            [1, 13, 12, 13, 2, 13, 3].map(|number| engine.submit(&Fill(number)).unwrap()).into();
        let outcomes: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait().unwrap()).collect();
        let panicked = |outcome: &Outcome<Fill>| matches!(outcome, Outcome::Panicked { message, .. } if message == "no crate has this number");
        let expected = [false, true, false, true, false, true, false];
        assert_eq!(outcomes.iter().map(panicked).collect::<Vec<_>>(), expected, "{mode}, {threads} threads");
        assert_eq!(engine.snapshot().get(&COUNTS, &13), None, "it is put back");
        digests.push(engine.digest());
        engine.close().unwrap();
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}
