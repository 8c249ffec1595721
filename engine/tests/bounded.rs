//! Bounded adds: the answers are those of the log's order, whatever the threads, the window, what is left in stock, and
//! what footprints say; and where there is plenty, the adds have no order.

use std::collections::BTreeMap;
use std::sync::Arc;

use mixlog_engine::{
    Counter, Digest, Engine, Fixed, Footprint, Merge, Mode, Outcome, Position, Procedure, Stats, Sum, Table,
    Tx,
};
use mixlog_log::{MemoryLog, SharedLog};
use serde::{Deserialize, Serialize};

const ROWS: Table<u64, Sum, Fixed> = Table::fixed("rows");
const WATCHED: Table<u64, Sum, Fixed> = Table::fixed("watched").watched(|key| key / 4);
const RANGED: Table<u64, Sum> = Table::new("ranged").ordered();
const GROUPED: Table<u64, Sum> = Table::new("grouped").grouped("group", |key| key / 4);
const HALLS: Table<String, Hall> = Table::new("halls");

/// Starts with ten seats, and can be closed.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Hall {
    Open(i64),
    Closed,
}

impl Merge for Hall {
    type Delta = i64;

    fn accepts(row: Option<&Self>) -> bool {
        !matches!(row, Some(Self::Closed))
    }

    fn merge(row: &mut Option<Self>, delta: i64, _: Position) {
        *row = Some(Self::Open(Self::value(row.as_ref()).wrapping_add(delta)));
    }
}

impl Counter for Hall {
    fn value(row: Option<&Self>) -> i64 {
        match row {
            None => 10,
            Some(Self::Open(seats)) => *seats,
            Some(Self::Closed) => 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum In {
    Rows,
    Watched,
    Ranged,
    Grouped,
    Halls,
}

const TABLES: [In; 5] = [In::Rows, In::Watched, In::Ranged, In::Grouped, In::Halls];

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Op {
    Add(In, u64, i64, i64),
    Merge(In, u64, i64),
    Get(In, u64),
    Put(In, u64, i64),
    Delete(In, u64),
    Close(u64),
    /// All rows of a group of four, by granule or range.
    All(In, u64),
    Abort,
    Panic,
}

/// What a procedure says about its adds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Says {
    Exact,
    /// Declares a read of rows that it reads, and bounded adds nevertheless.
    ReadsToo,
    /// Twice what it adds, or more, and another floor.
    TooMuch,
    /// One less than it adds.
    TooLittle,
    /// A merge.
    Merge,
    /// Nothing.
    Nothing,
    ToBeFound,
    Unknown,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ops {
    ops: Vec<Op>,
    says: Says,
}

macro_rules! in_table {
    ($in:expr, $key:expr, |$table:ident, $k:ident| $body:expr) => {
        match $in {
            In::Rows => in_table!(@ &ROWS, $key, $table, $k, $body),
            In::Watched => in_table!(@ &WATCHED, $key, $table, $k, $body),
            In::Ranged => in_table!(@ &RANGED, $key, $table, $k, $body),
            In::Grouped => in_table!(@ &GROUPED, $key, $table, $k, $body),
            In::Halls => in_table!(@ &HALLS, $key.to_string(), $table, $k, $body),
        }
    };
    (@ $t:expr, $key:expr, $table:ident, $k:ident, $body:expr) => {{
        let ($table, $k) = ($t, $key);
        $body
    }};
}

impl Ops {
    /// Whether the procedure does something else to the row than to add with a floor.
    fn does_more(&self, table: In, key: u64) -> bool {
        self.ops.iter().any(|op| match *op {
            Op::Add(..) | Op::Abort | Op::Panic => false,
            Op::Merge(t, k, _) | Op::Get(t, k) | Op::Put(t, k, _) | Op::Delete(t, k) => {
                (t, k) == (table, key)
            }
            Op::Close(k) => (In::Halls, k) == (table, key),
            Op::All(t, group) => (t, group) == (table, key / 4),
        })
    }

    fn only_gets(&self, table: In, key: u64) -> bool {
        self.ops.iter().all(|op| match *op {
            Op::Add(..) | Op::Abort | Op::Panic | Op::Get(..) => true,
            Op::Merge(t, k, _) | Op::Put(t, k, _) | Op::Delete(t, k) => (t, k) != (table, key),
            Op::Close(k) => (In::Halls, k) != (table, key),
            Op::All(t, group) => (t, group) != (table, key / 4),
        })
    }
}

impl Procedure for Ops {
    const NAME: &'static str = "ops";
    type Output = Vec<Option<i64>>;
    type Abort = String;

    fn footprint(&self, f: &mut Footprint<'_>) {
        for op in &self.ops {
            match *op {
                Op::Add(t, k, delta, floor) => in_table!(t, k, |table, key| match self.says {
                    Says::ToBeFound => _ = f.reconnoitre(),
                    Says::Unknown => _ = f.unknown(),
                    Says::Nothing => {}
                    Says::Merge => _ = f.merge(table, &key),
                    Says::ReadsToo if self.only_gets(t, k) => _ = f.add_bounded(table, &key, delta, floor),
                    _ if self.does_more(t, k) => _ = f.write(table, &key),
                    Says::TooLittle => _ = f.add_bounded(table, &key, delta - delta.signum(), floor),
                    Says::TooMuch => {
                        let delta = delta.saturating_mul(2);
                        f.add_bounded(table, &key, delta, floor.saturating_sub(3)).add_bounded(
                            table,
                            &key,
                            -1,
                            i64::MIN,
                        );
                    }
                    _ => _ = f.add_bounded(table, &key, delta, floor),
                }),
                Op::Merge(t, k, _) | Op::Put(t, k, _) | Op::Delete(t, k) => {
                    let alone = matches!(op, Op::Merge(..))
                        && !self.ops.iter().any(|other| match *other {
                            Op::Merge(..) | Op::Abort | Op::Panic => false,
                            Op::Add(t2, k2, ..)
                            | Op::Get(t2, k2)
                            | Op::Put(t2, k2, _)
                            | Op::Delete(t2, k2) => (t, k) == (t2, k2),
                            Op::Close(k2) => (t, k) == (In::Halls, k2),
                            Op::All(t2, group) => (t, k / 4) == (t2, group),
                        });
                    in_table!(t, k, |table, key| if alone {
                        f.merge(table, &key)
                    } else {
                        f.write(table, &key)
                    });
                }
                Op::Get(t, k) => in_table!(t, k, |table, key| _ = f.read(table, &key)),
                Op::Close(k) => _ = f.write(&HALLS, &k.to_string()),
                Op::All(In::Watched, group) => _ = f.read_granule(&WATCHED, group),
                Op::All(In::Grouped, group) => _ = f.read_granule(&GROUPED, group),
                Op::All(In::Ranged, group) => _ = f.range(&RANGED, group * 4..group * 4 + 4),
                Op::All(t @ (In::Rows | In::Halls), group) => (group * 4..group * 4 + 4)
                    .for_each(|k| in_table!(t, k, |table, key| _ = f.read(table, &key))),
                Op::Abort | Op::Panic => {}
            }
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<Option<i64>>, String> {
        let mut out = Vec::new();
        for op in &self.ops {
            out.push(match *op {
                Op::Add(t, k, delta, floor) => in_table!(t, k, |table, key| {
                    Some(i64::from(tx.add_bounded(table, key, delta, floor)))
                }),
                Op::Merge(t, k, delta) => {
                    in_table!(t, k, |table, key| Some(i64::from(tx.merge(table, key, delta))))
                }
                Op::Get(t, k) => get(tx, t, k),
                Op::Put(In::Halls, k, value) => {
                    tx.put(&HALLS, k.to_string(), Hall::Open(value));
                    None
                }
                Op::Put(In::Rows, k, value) => {
                    tx.put(&ROWS, k, Sum(value));
                    None
                }
                Op::Put(In::Watched, k, value) => {
                    tx.put(&WATCHED, k, Sum(value));
                    None
                }
                Op::Put(In::Ranged, k, value) => {
                    tx.put(&RANGED, k, Sum(value));
                    None
                }
                Op::Put(In::Grouped, k, value) => {
                    tx.put(&GROUPED, k, Sum(value));
                    None
                }
                Op::Delete(t, k) => {
                    in_table!(t, k, |table, key| Some(i64::from(tx.delete(table, &key))))
                }
                Op::Close(k) => {
                    tx.put(&HALLS, k.to_string(), Hall::Closed);
                    None
                }
                Op::All(In::Ranged, group) => {
                    let rows = tx.range(&RANGED, group * 4..group * 4 + 4);
                    Some(rows.fold(0, |sum: i64, (_, row)| sum.wrapping_add(row.0)))
                }
                Op::All(t, group) => Some(
                    (group * 4..group * 4 + 4)
                        .filter_map(|k| get(tx, t, k))
                        .fold(0, |sum: i64, value| sum.wrapping_add(value)),
                ),
                Op::Abort => return Err("abort".to_owned()),
                Op::Panic => panic!("panic as planned"),
            });
        }
        Ok(out)
    }
}

fn get(tx: &Tx<'_>, t: In, k: u64) -> Option<i64> {
    match t {
        In::Rows => tx.get(&ROWS, &k).map(|row| row.0),
        In::Watched => tx.get(&WATCHED, &k).map(|row| row.0),
        In::Ranged => tx.get(&RANGED, &k).map(|row| row.0),
        In::Grouped => tx.get(&GROUPED, &k).map(|row| row.0),
        In::Halls => tx.get(&HALLS, &k.to_string()).map(|row| Hall::value(Some(row))),
    }
}

/// The specification: a map, one transaction after another. A hall without a number is closed.
#[derive(Clone, Default)]
struct Model(BTreeMap<(In, u64), Option<i64>>);

impl Model {
    fn run(&mut self, ops: &Ops) -> String {
        let before = self.clone();
        let mut out = Vec::new();
        for op in &ops.ops {
            out.push(match *op {
                Op::Add(t, k, delta, floor) => {
                    let sum = self.value(t, k).and_then(|value| value.checked_add(delta));
                    let sum = sum.filter(|&sum| sum >= floor);
                    sum.inspect(|&sum| _ = self.0.insert((t, k), Some(sum)));
                    Some(i64::from(sum.is_some()))
                }
                Op::Merge(t, k, delta) => {
                    let sum = self.value(t, k).map(|value| value.wrapping_add(delta));
                    sum.inspect(|&sum| _ = self.0.insert((t, k), Some(sum)));
                    Some(i64::from(sum.is_some()))
                }
                Op::Get(t, k) => self.0.get(&(t, k)).map(|value| value.unwrap_or(0)),
                Op::Put(t, k, value) => {
                    self.0.insert((t, k), Some(value));
                    None
                }
                Op::Delete(t, k) => Some(i64::from(self.0.remove(&(t, k)).is_some())),
                Op::Close(k) => {
                    self.0.insert((In::Halls, k), None);
                    None
                }
                Op::All(t, group) => Some(
                    self.0
                        .range((t, group * 4)..(t, group * 4 + 4))
                        .fold(0, |sum: i64, (_, value)| sum.wrapping_add(value.unwrap_or(0))),
                ),
                Op::Abort => {
                    *self = before;
                    return "aborted".to_owned();
                }
                Op::Panic => {
                    *self = before;
                    return "panicked".to_owned();
                }
            });
        }
        format!("{out:?}")
    }

    fn value(&self, t: In, k: u64) -> Option<i64> {
        self.0.get(&(t, k)).copied().unwrap_or_else(|| Some(if t == In::Halls { 10 } else { 0 }))
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

#[derive(Clone, Copy)]
struct Flavour {
    says: &'static [Says],
    keys: u64,
    /// What rows are put to at the start, and now and then; 0 for none.
    stock: i64,
    floor: i64,
    /// Of 1,000 operations, how many are something else than an add.
    others: u64,
    aborts: u64,
}

fn transactions(random: &mut Random, count: usize, flavour: Flavour) -> Vec<Ops> {
    let Flavour { says, keys, stock, floor, others, aborts } = flavour;
    let mut all = Vec::new();
    if stock != 0 {
        let fill = |&t| Ops { ops: (0..keys).map(|k| Op::Put(t, k, stock)).collect(), says: Says::Exact };
        all.extend(TABLES.iter().map(fill));
    }
    while all.len() < count {
        let mut ops: Vec<_> = (0..1 + random.below(4))
            .map(|_| {
                let (t, k) = (TABLES[random.below(5) as usize], random.below(keys));
                // Mostly taken, now and then given back.
                let delta = random.below(8) as i64 - 5;
                if random.below(1000) < others {
                    match random.below(8) {
                        0 | 1 => Op::Get(t, k),
                        2 => Op::All(t, k / 4),
                        3 => Op::Merge(t, k, delta),
                        4 if random.below(4) == 0 => Op::Delete(t, k),
                        5 if random.below(4) == 0 => Op::Close(k),
                        4..=6 => Op::Put(t, k, stock.saturating_add(delta)),
                        _ => Op::Merge(t, k, stock / 2),
                    }
                } else {
                    Op::Add(t, k, delta, floor)
                }
            })
            .collect();
        if random.below(100) < aborts {
            ops.push(if random.below(3) == 0 { Op::Panic } else { Op::Abort });
        }
        all.push(Ops { ops, says: says[random.below(says.len() as u64) as usize] });
    }
    all
}

fn builder() -> mixlog_engine::Builder {
    Engine::builder()
        .table(&ROWS)
        .table(&WATCHED)
        .table(&RANGED)
        .table(&GROUPED)
        .table(&HALLS)
        .procedure::<Ops>()
}

/// A log of the transactions and the digest of the engine that took them; its replies are those of the model.
fn record(all: &[Ops]) -> (Arc<MemoryLog>, Digest, Model) {
    // Panics are planned here by the hundred.
    std::panic::set_hook(Box::new(|info| {
        if info.payload().downcast_ref::<&str>() != Some(&"panic as planned") {
            eprintln!("{info}");
        }
    }));
    let log = Arc::new(MemoryLog::new());
    let engine = builder()
        .threads(2)
        .window(64)
        .mode(Mode::Parallel)
        .open(Arc::clone(&log) as Arc<dyn SharedLog>)
        .unwrap();
    let tickets: Vec<_> = all.iter().map(|ops| engine.submit(ops).unwrap()).collect();
    let mut model = Model::default();
    for (ops, ticket) in all.iter().zip(tickets) {
        let reply = match ticket.wait().unwrap() {
            Outcome::Committed { output, .. } => format!("{output:?}"),
            Outcome::Aborted { .. } => "aborted".to_owned(),
            Outcome::Panicked { .. } => "panicked".to_owned(),
        };
        assert_eq!(reply, model.run(ops), "{ops:?}");
    }
    let digest = engine.digest();
    let snapshot = engine.snapshot();
    assert_eq!(digest.state, snapshot.state_digest());
    let mut rows = BTreeMap::new();
    snapshot.for_each(&ROWS, |&k, row| _ = rows.insert((In::Rows, k), Some(row.0)));
    snapshot.for_each(&WATCHED, |&k, row| _ = rows.insert((In::Watched, k), Some(row.0)));
    snapshot.for_each(&RANGED, |&k, row| _ = rows.insert((In::Ranged, k), Some(row.0)));
    snapshot.for_each(&GROUPED, |&k, row| _ = rows.insert((In::Grouped, k), Some(row.0)));
    snapshot.for_each(&HALLS, |k, row| {
        let value = Some(Hall::value(Some(row))).filter(|_| Hall::accepts(Some(row)));
        rows.insert((In::Halls, k.parse().unwrap()), value);
    });
    assert_eq!(rows, model.0);
    engine.close().unwrap();
    (log, digest, model)
}

fn replay(log: &Arc<MemoryLog>, threads: usize, window: u32, mode: Mode) -> (Digest, Stats) {
    let replay = builder()
        .threads(threads)
        .window(window)
        .mode(mode)
        .replay(Arc::clone(log) as Arc<dyn SharedLog>)
        .unwrap();
    (replay.to_end().unwrap(), replay.stats())
}

/// Runs the transactions in all ways, and tells what was counted in each: threads, window, statistics.
fn check(all: &[Ops]) -> Vec<(usize, u32, Stats)> {
    let (log, expected, _) = record(all);
    assert_eq!(replay(&log, 1, 4096, Mode::Sequential).0, expected, "one by one");
    assert_eq!(replay(&log, 2, 256, Mode::Auto).0, expected, "auto");
    assert_eq!(replay(&log, 2, 1, Mode::Parallel).0, expected, "windows of one");
    let mut counted = Vec::new();
    for threads in [1, 2, 4, 8] {
        for window in [7, 64, 4096] {
            let (digest, stats) = replay(&log, threads, window, Mode::Parallel);
            assert_eq!(digest, expected, "{threads} threads, window {window}: {stats:?}");
            counted.push((threads, window, stats));
        }
    }
    counted
}

const EXACT: Flavour = Flavour { says: &[Says::Exact], keys: 8, stock: 0, floor: 0, others: 0, aborts: 10 };

#[test]
fn plenty_of_stock_adds_are_unordered_and_right() {
    for (seed, count) in [(0, 10_000), (1, 1500), (2, 1500)] {
        let flavour = Flavour { stock: 1_000_000, ..EXACT };
        for (threads, window, stats) in check(&transactions(&mut Random(seed), count, flavour)) {
            assert_eq!(stats.replays, 0, "seed {seed}, {threads} threads, window {window}");
            if window == 64 {
                // A fifth lies in the grouped table, whose adds are not counted. Few are alone with a key.
                assert!(stats.unordered_adds * 10 > stats.bounded_adds * 8, "{stats:?}");
            }
        }
    }
}

#[test]
fn scarce_stock_answers_are_those_of_the_log() {
    for seed in 0..3 {
        for (stock, others) in [(0, 0), (3, 100), (40, 30), (400, 10), (2_000, 3)] {
            let flavour = Flavour { stock, others, ..EXACT };
            for (threads, window, stats) in check(&transactions(&mut Random(seed), 1500, flavour)) {
                let what =
                    format!("seed {seed}, stock {stock}, {threads} threads, window {window}: {stats:?}");
                // A row of which a window takes little surprises when the window before took much.
                let few = stats.windows / if others == 0 { 50 } else { 8 };
                assert!(stats.replays <= 1 + few, "{what}");
            }
        }
    }
}

#[test]
fn floors_below_and_above_zero_answers_are_those_of_the_log() {
    for floor in [-100, 25, i64::MIN, i64::MAX] {
        let flavour = Flavour { stock: 60, floor, others: 50, ..EXACT };
        check(&transactions(&mut Random(7), 1000, flavour));
    }
}

#[test]
fn values_at_the_ends_of_their_type_overflow_as_one_by_one() {
    for stock in [i64::MAX - 30, i64::MIN + 30, i64::MAX - 3_000, i64::MIN + 3_000] {
        for floor in [i64::MIN, i64::MAX - 40] {
            let flavour = Flavour { stock, floor, others: 20, ..EXACT };
            check(&transactions(&mut Random(3), 800, flavour));
        }
    }
    // Amounts at the ends, too.
    let mut random = Random(11);
    let ends = [i64::MIN, i64::MIN + 1, i64::MAX, i64::MAX - 1, 1, -1, 0];
    let mut all = Vec::new();
    for _ in 0..1000 {
        let mut pick = || ends[random.below(7) as usize];
        let (delta, floor, more) = (pick(), pick(), pick());
        let (t, k) = (TABLES[random.below(5) as usize], random.below(3));
        let ops = vec![Op::Add(t, k, delta, floor), Op::Add(t, k, more, floor)];
        all.push(Ops { ops, says: [Says::Exact, Says::TooMuch][random.below(2) as usize] });
    }
    check(&all);
}

#[test]
fn all_kinds_of_footprints_answers_are_those_of_the_log() {
    const SAYS: &[Says] = &[
        Says::Exact,
        Says::ReadsToo,
        Says::TooMuch,
        Says::ToBeFound,
        Says::Unknown,
        Says::Exact,
        Says::Exact,
        Says::ReadsToo,
    ];
    for seed in 0..3 {
        for (stock, keys) in [(100_000, 8), (50, 8), (100_000, 200)] {
            let flavour = Flavour { says: SAYS, keys, stock, others: 100, ..EXACT };
            for (threads, window, stats) in check(&transactions(&mut Random(seed), 1500, flavour)) {
                let found = stats.last_violation.as_ref().map(|violation| violation.2);
                assert_eq!(found, None, "seed {seed}, {threads} threads, window {window}: {stats:?}");
            }
        }
    }
}

#[test]
fn wrong_footprints_end_in_a_replay_and_are_right() {
    for seed in 0..2 {
        for says in [
            &[Says::Exact, Says::TooLittle],
            &[Says::Exact, Says::Merge],
            &[Says::Exact, Says::Nothing],
            &[Says::TooMuch, Says::TooLittle],
        ] {
            for stock in [1_000_000, 30] {
                let flavour = Flavour { says, stock, others: 10, ..EXACT };
                let counted = check(&transactions(&mut Random(seed), 800, flavour));
                assert!(counted.iter().any(|(.., stats)| stats.replays > 0), "{says:?}, stock {stock}");
                assert!(counted.iter().any(|(.., stats)| stats.violations > 0), "{says:?}, stock {stock}");
            }
        }
    }
}

/// One transaction of one add to row 0.
fn take(pieces: i64) -> Ops {
    Ops { ops: vec![Op::Add(In::Rows, 0, -pieces, 0)], says: Says::Exact }
}

fn put(value: i64) -> Ops {
    Ops { ops: vec![Op::Put(In::Rows, 0, value)], says: Says::Exact }
}

#[test]
fn exactly_enough_the_last_one_that_fits_is_the_last_one_served() {
    for stock in (1..300).step_by(13).chain([700, 1400, 1401]) {
        let mut all = vec![put(stock)];
        all.extend((0..1500).map(|_| take(1)));
        let (log, expected, model) = record(&all);
        assert_eq!(model.0[&(In::Rows, 0)], Some((stock - 1500).max(0)));
        for (threads, window) in [(1, 64), (2, 7), (2, 64), (4, 64), (8, 512)] {
            let (digest, stats) = replay(&log, threads, window, Mode::Parallel);
            assert_eq!(digest, expected, "stock {stock}, {threads} threads, window {window}");
            assert!(stats.replays <= 1, "stock {stock}, {threads} threads, window {window}: {stats:?}");
        }
    }
}

#[test]
fn one_hot_counter_with_plenty_keeps_all_threads_busy() {
    let mut all = vec![put(i64::MAX / 2)];
    all.extend((0..20_000).map(|i| take(i % 3)));
    let (log, expected, _) = record(&all);
    let (digest, stats) = replay(&log, 2, 256, Mode::Parallel);
    assert_eq!(digest, expected);
    assert_eq!((stats.replays, stats.bounded_adds), (0, 20_000));
    // In the first two windows nobody knows yet what the row holds.
    assert_eq!(stats.unordered_adds, 20_000 - (512 - 2), "{stats:?}");
    assert!(stats.parallelism() > 30.0, "{}", stats.parallelism());
}

#[test]
fn adds_beside_a_merge_are_pooled_in_the_whole_window() {
    // Windows of 64, the first of which starts with the catalog; each ends with a merge into another row.
    let merge = Ops { ops: vec![Op::Merge(In::Rows, 1, 1)], says: Says::Exact };
    let mut all = vec![put(i64::MAX / 2)];
    all.extend((2..640).map(|place| if place % 64 == 63 { merge.clone() } else { take(1) }));
    let (log, expected, _) = record(&all);
    for threads in [1, 2, 8] {
        let (digest, stats) = replay(&log, threads, 64, Mode::Parallel);
        assert_eq!(digest, expected);
        // In the first two windows adds are ordered: nobody knows yet what the row holds. Sole merges are never pooled.
        assert_eq!((stats.unordered_adds, stats.pooled_merges, stats.replays), (8 * 63, 8 * 63, 0));
    }
}

#[test]
fn one_hot_counter_running_out_is_ordered_at_the_end_only() {
    let mut all = vec![put(15_000)];
    all.extend((0..16_000).map(|_| take(1)));
    let (log, expected, _) = record(&all);
    for threads in [2, 8] {
        let (digest, stats) = replay(&log, threads, 64, Mode::Parallel);
        assert_eq!(digest, expected);
        assert_eq!(stats.replays, 0);
        assert!((14_000..15_000).contains(&stats.unordered_adds), "{stats:?}");
    }
}

#[test]
fn a_stale_guess_ends_in_a_replay_and_is_right() {
    // Windows of 64, the first of which starts with the catalog. What the third window goes by is the end of the
    // first one; the second one empties the stock.
    let nothing = Ops { ops: Vec::new(), says: Says::Exact };
    let mut all = vec![put(1_000_000)];
    all.resize(63, nothing.clone());
    all.push(put(20));
    all.resize(127, nothing);
    all.extend((0..64).map(|_| take(1)));
    let (log, expected, model) = record(&all);
    assert_eq!(model.0[&(In::Rows, 0)], Some(0));
    for threads in [1, 2, 8] {
        let (digest, stats) = replay(&log, threads, 64, Mode::Parallel);
        assert_eq!(digest, expected);
        assert_eq!((stats.unordered_adds, stats.replays), (64, 1));
        assert_eq!(stats.violations, 0, "no footprint is wrong");
    }
}

#[test]
fn amounts_declared_once_cover_one_add_each() {
    #[derive(Serialize, Deserialize)]
    struct Twice {
        declares: u8,
    }
    impl Procedure for Twice {
        const NAME: &'static str = "twice";
        type Output = (bool, bool);
        type Abort = String;
        fn footprint(&self, f: &mut Footprint<'_>) {
            (0..self.declares).for_each(|_| _ = f.add_bounded(&ROWS, &0, -2, 0));
        }
        fn run(&self, tx: &mut Tx<'_>) -> Result<(bool, bool), String> {
            Ok((tx.add_bounded(&ROWS, 0, -2, 0), tx.add_bounded(&ROWS, 0, -2, 0)))
        }
    }
    for declares in 0..=3 {
        let log = Arc::new(MemoryLog::new());
        let builder = || builder().procedure::<Twice>().threads(2).window(16).mode(Mode::Parallel);
        let engine = builder().open(Arc::clone(&log) as Arc<dyn SharedLog>).unwrap();
        engine.submit(&put(1_000)).unwrap().wait().unwrap();
        let tickets: Vec<_> = (0..300).map(|_| engine.submit(&Twice { declares }).unwrap()).collect();
        for (i, ticket) in tickets.into_iter().enumerate() {
            let served = i < 250;
            let Outcome::Committed { output, .. } = ticket.wait().unwrap() else { panic!("no abort") };
            assert_eq!(output, (served, served), "{i}");
        }
        let expected = engine.digest();
        engine.close().unwrap();
        let replay = builder().replay(log).unwrap();
        assert_eq!(replay.to_end().unwrap(), expected);
        let stats = replay.stats();
        assert_eq!(stats.replays > 0, declares < 2, "{declares}: {stats:?}");
        assert_eq!(stats.unordered_adds > 0, declares > 0, "{declares}: {stats:?}");
    }
}

#[test]
fn a_range_over_rows_just_merged_or_added_to_ends_in_a_replay_and_is_right() {
    #[derive(Serialize, Deserialize)]
    struct Both {
        key: u64,
        adds: bool,
    }
    impl Procedure for Both {
        const NAME: &'static str = "both";
        type Output = i64;
        type Abort = String;
        fn footprint(&self, f: &mut Footprint<'_>) {
            if self.adds {
                f.add_bounded(&RANGED, &self.key, 1, 0).range(&RANGED, 0..10);
            } else {
                f.merge(&RANGED, &self.key).range(&RANGED, 0..10);
            }
        }
        fn run(&self, tx: &mut Tx<'_>) -> Result<i64, String> {
            if self.adds {
                tx.add_bounded(&RANGED, self.key, 1, 0);
            } else {
                tx.merge(&RANGED, self.key, 1);
            }
            Ok(tx.range(&RANGED, 0..10).map(|(_, row)| row.0).sum())
        }
    }
    for adds in [false, true] {
        let log = Arc::new(MemoryLog::new());
        let engine = builder().procedure::<Both>().threads(2).window(16).mode(Mode::Parallel);
        let engine = engine.open(log).unwrap();
        let fill = Ops { ops: vec![Op::Put(In::Ranged, 3, 100)], says: Says::Exact };
        engine.submit(&fill).unwrap().wait().unwrap();
        let tickets: Vec<_> = (0..200).map(|i| engine.submit(&Both { key: i % 7, adds }).unwrap()).collect();
        for (i, ticket) in (101..).zip(tickets) {
            let Outcome::Committed { output, .. } = ticket.wait().unwrap() else { panic!("no abort") };
            assert_eq!(output, i);
        }
        assert_eq!(engine.snapshot().get(&RANGED, &3).map(|row| row.0), Some(129));
        assert!(engine.stats().replays > 0, "{:?}", engine.stats());
    }
}

#[test]
fn interactive_transactions_add_as_they_read_and_write() {
    let log = Arc::new(MemoryLog::new());
    let engine = builder().open(log).unwrap();
    engine.submit(&put(5)).unwrap().wait().unwrap();
    let mut transaction = engine.begin();
    assert!(!transaction.add_bounded(&ROWS, 0, -6, 0));
    assert!(transaction.add_bounded(&ROWS, 0, -3, 0));
    assert!(!transaction.add_bounded(&ROWS, 0, -3, 0));
    transaction.commit().unwrap();
    assert_eq!(engine.snapshot().get(&ROWS, &0), Some(Sum(2)));
    let mut transaction = engine.begin();
    assert!(!transaction.add_bounded(&ROWS, 0, -3, 0));
    assert_eq!(transaction.commit().unwrap().map(|p| p.0), Some(2), "nothing was written");
}
