//! The parallel executor against the sequential one: same log, same digest, replies and state, whatever the
//! threads, the window, the mode, and the quality of the footprints.

use std::collections::BTreeMap;
use std::sync::Arc;

use mixlog_engine::{
    Appended, Digest, Engine, Fixed, Footprint, Merge, Mode, Position, Procedure, Replay, Sum, Table, Tx,
};
use mixlog_log::{MemoryLog, SharedLog};
use serde::{Deserialize, Serialize};

const ROWS: Table<u64, u64> = Table::new("rows");
const TEXTS: Table<String, Vec<u64>> = Table::new("texts");
const WATCHED: Table<u64, u64, Fixed> = Table::fixed("watched").watched(|key| key / 10);
const GROUPED: Table<(u8, u64), u64> = Table::new("grouped").grouped("group", group);
const ORDERED: Table<(u8, u64), u64> = Table::new("ordered").grouped("group", group).ordered();

const SUMS: Table<u64, Sum, Fixed> = Table::fixed("sums").watched(|key| key / 10);
const RANGES: Table<u64, u64> = Table::new("ranges").ordered();
const LISTS: Table<u64, Appended<u64>> = Table::new("lists");
const MIXED: Table<u64, Number> = Table::new("mixed");

/// Merging adds to a number, and is refused by a text.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Number {
    Count(u64),
    Text(String),
}

impl Merge for Number {
    type Delta = u64;

    fn accepts(row: Option<&Self>) -> bool {
        !matches!(row, Some(Self::Text(_)))
    }

    fn merge(row: &mut Option<Self>, delta: u64, _: Position) {
        assert_ne!(delta, 7, "panic at 7");
        match row {
            None => *row = Some(Self::Count(delta)),
            Some(Self::Count(count)) => *count = count.wrapping_add(delta),
            Some(Self::Text(_)) => unreachable!("it does not accept"),
        }
    }
}

fn group(key: &(u8, u64)) -> u64 {
    u64::from(key.0)
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Op {
    Get(u64),
    Add(u64, u64),
    Put(u64, u64),
    Delete(u64),
    Text(u64, u64),
    Watch(u64, u64),
    SumWatched(u64),
    GroupPut(u8, u64, u64),
    GroupGet(u8, u64),
    Enqueue(u8, u64),
    Dequeue(u8),
    Sum(u8),
    RangeFill(u64, u64),
    RangeClear(u64, u64),
    RangeGet(u64),
    RangeSum(u64, u64),
    RangeSome(u64, usize),
    RangePop(bool),
    MergeSum(u64, i64),
    AddSum(u64, i64),
    GetSum(u64),
    SumSums(u64),
    Append(u64, u64),
    GetList(u64),
    MergeMixed(u64, u64),
    PutMixed(u64, u64),
    Abort(u64),
    Panic(u64),
}

impl Op {
    /// The merge table and key that it touches, and whether it only merges.
    fn merge(&self) -> Option<(u8, u64, bool)> {
        Some(match self {
            Self::MergeSum(k, _) => (0, *k, true),
            Self::GetSum(k) | Self::AddSum(k, _) => (0, *k, false),
            Self::Append(k, _) => (1, *k, true),
            Self::GetList(k) => (1, *k, false),
            Self::MergeMixed(k, _) => (2, *k, true),
            Self::PutMixed(k, _) => (2, *k, false),
            _ => return None,
        })
    }
}

/// What a procedure says about its own footprint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Says {
    Exact,
    TooMuch,
    TooLittle,
    Empty,
    Unknown,
    ToBeFound,
    Panics,
}

#[derive(Debug, Serialize, Deserialize)]
struct Ops {
    ops: Vec<Op>,
    says: Says,
}

impl Procedure for Ops {
    const NAME: &'static str = "ops";
    type Output = Vec<u64>;
    type Abort = String;

    fn footprint(&self, f: &mut Footprint<'_>) {
        match self.says {
            Says::Unknown => {
                f.unknown();
                return;
            }
            Says::ToBeFound => {
                f.reconnoitre();
                return;
            }
            Says::Empty => return,
            Says::Panics => panic!("a footprint that panics"),
            Says::Exact | Says::TooMuch | Says::TooLittle => {}
        }
        if self.says == Says::TooMuch {
            f.write(&ROWS, &1).write(&ROWS, &999).write_granule(&GROUPED, 2).read_granule(&WATCHED, 0);
        }
        let skip = usize::from(self.says == Says::TooLittle);
        for op in self.ops.iter().skip(skip) {
            match op {
                Op::Get(k) => f.read(&ROWS, k),
                Op::Add(k, _) | Op::Put(k, _) | Op::Delete(k) => f.write(&ROWS, k),
                Op::Text(k, _) => f.write(&TEXTS, &k.to_string()),
                Op::Watch(k, _) => f.write(&WATCHED, k),
                Op::SumWatched(g) => f.read_granule(&WATCHED, *g),
                Op::GroupPut(g, k, _) => f.write(&GROUPED, &(*g, *k)),
                Op::GroupGet(g, k) => f.read(&GROUPED, &(*g, *k)),
                Op::Enqueue(g, _) | Op::Dequeue(g) => f.write_granule(&ORDERED, u64::from(*g)),
                Op::Sum(g) => f.read_granule(&ORDERED, u64::from(*g)),
                Op::RangeFill(k, _) => {
                    (*k..k + 10).for_each(|k| _ = f.write(&RANGES, &k));
                    &mut *f
                }
                Op::RangeClear(from, to) => {
                    (*from..*to).for_each(|k| _ = f.write(&RANGES, &k));
                    &mut *f
                }
                Op::RangeGet(k) => f.read(&RANGES, k),
                Op::RangeSum(from, to) => f.range(&RANGES, *from..*to),
                Op::RangeSome(from, count) => f.range_first(&RANGES, *from.., *count),
                Op::RangePop(_) => f.reconnoitre(),
                Op::GetSum(k) => f.read(&SUMS, k),
                Op::SumSums(g) => f.read_granule(&SUMS, *g),
                Op::AddSum(k, n) => {
                    let adds = |other: &Op| match other {
                        Op::AddSum(..) => true,
                        Op::SumSums(g) => k / 10 != *g,
                        other => other.merge().is_none_or(|(t, other, _)| (t, other) != (0, *k)),
                    };
                    if self.ops.iter().all(adds) {
                        f.add_bounded(&SUMS, k, *n, -1000)
                    } else {
                        f.write(&SUMS, k)
                    }
                }
                Op::GetList(k) => f.write(&LISTS, k),
                Op::PutMixed(k, _) => f.write(&MIXED, k),
                Op::MergeSum(..) | Op::Append(..) | Op::MergeMixed(..) => {
                    let (table, key, _) = op.merge().unwrap();
                    let alone = |other: &Op| match other {
                        Op::SumSums(g) => (table, key / 10) != (0, *g),
                        other => other.merge().is_none_or(|(t, k, merges)| (t, k) != (table, key) || merges),
                    };
                    match (table, self.ops.iter().all(alone)) {
                        (0, true) => f.merge(&SUMS, &key),
                        (0, false) => f.write(&SUMS, &key),
                        (1, true) => f.merge(&LISTS, &key),
                        (1, false) => f.write(&LISTS, &key),
                        (_, true) => f.merge(&MIXED, &key),
                        (_, false) => f.write(&MIXED, &key),
                    }
                }
                Op::Abort(_) | Op::Panic(_) => f,
            };
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<u64>, String> {
        let mut out = Vec::new();
        for op in &self.ops {
            out.push(match op {
                Op::Get(k) => tx.get(&ROWS, k).copied().unwrap_or(u64::MAX),
                Op::Add(k, n) => match tx.get_mut(&ROWS, k) {
                    Some(value) => {
                        *value = value.wrapping_mul(3).wrapping_add(*n);
                        *value
                    }
                    None => {
                        tx.put(&ROWS, *k, *n);
                        0
                    }
                },
                Op::Put(k, n) => {
                    tx.put(&ROWS, *k, *n);
                    tx.position().0
                }
                Op::Delete(k) => u64::from(tx.delete(&ROWS, k)),
                Op::Text(k, n) => {
                    let key = k.to_string();
                    match tx.get_mut(&TEXTS, &key) {
                        Some(list) if list.len() > 5 => {
                            list.clear();
                            0
                        }
                        Some(list) => {
                            list.push(*n);
                            list.iter().sum()
                        }
                        None => {
                            tx.put(&TEXTS, key, vec![*n]);
                            1
                        }
                    }
                }
                Op::Watch(k, n) => {
                    let old = tx.get(&WATCHED, k).copied().unwrap_or(0);
                    tx.put(&WATCHED, *k, old.wrapping_add(*n));
                    old
                }
                Op::SumWatched(g) => (g * 10..g * 10 + 10)
                    .filter_map(|k| tx.get(&WATCHED, &k))
                    .fold(0u64, |a, b| a.wrapping_add(*b)),
                Op::GroupPut(g, k, n) => {
                    tx.put(&GROUPED, (*g, *k), *n);
                    0
                }
                Op::GroupGet(g, k) => tx.get(&GROUPED, &(*g, *k)).copied().unwrap_or(7),
                Op::Enqueue(g, n) => {
                    let last = tx.last(&ORDERED, (*g, 0)..=(*g, u64::MAX)).map_or(0, |(key, _)| key.1);
                    tx.put(&ORDERED, (*g, last + 1), *n);
                    last
                }
                Op::Dequeue(g) => {
                    let first =
                        tx.first(&ORDERED, (*g, 0)..=(*g, u64::MAX)).map(|(key, value)| (key, *value));
                    match first {
                        Some((key, value)) => {
                            assert!(tx.delete(&ORDERED, &key));
                            value
                        }
                        None => u64::MAX,
                    }
                }
                Op::Sum(g) => tx
                    .range(&ORDERED, (*g, 0)..=(*g, u64::MAX))
                    .fold(0u64, |sum, (key, value)| sum.wrapping_mul(31).wrapping_add(key.1 ^ value)),
                Op::RangeFill(k, n) => {
                    (*k..k + 10).for_each(|k| tx.put(&RANGES, k, n ^ k));
                    0
                }
                Op::RangeClear(from, to) => (*from..*to).map(|k| u64::from(tx.delete(&RANGES, &k))).sum(),
                Op::RangeGet(k) => tx.get(&RANGES, k).copied().unwrap_or(1),
                Op::RangeSum(from, to) => hash_rows(tx.range(&RANGES, *from..*to)),
                Op::RangeSome(from, count) if count % 2 == 0 => {
                    hash_rows(tx.range_first(&RANGES, *from.., *count))
                }
                Op::RangeSome(from, count) => {
                    // From both ends until they meet, or until there are enough.
                    let mut range = tx.range(&RANGES, *from..from + 3 * *count as u64);
                    let mut rows = Vec::new();
                    while let Some(front) = range.next()
                        && rows.len() < *count
                    {
                        rows.push(front);
                        rows.extend(range.next_back());
                    }
                    hash_rows(rows.into_iter())
                }
                Op::RangePop(front) => {
                    let key = if *front { tx.first(&RANGES, ..) } else { tx.last(&RANGES, ..) };
                    let key = key.map(|(key, _)| key);
                    key.map_or(u64::MAX, |key| key + u64::from(tx.delete(&RANGES, &key)))
                }
                Op::MergeSum(k, n) => u64::from(tx.merge(&SUMS, *k, *n)),
                Op::AddSum(k, n) => u64::from(tx.add_bounded(&SUMS, *k, *n, -1000)),
                Op::GetSum(k) => tx.get(&SUMS, k).map_or(u64::MAX, |sum| sum.0 as u64),
                Op::SumSums(g) => (g * 10..g * 10 + 10)
                    .filter_map(|k| tx.get(&SUMS, &k))
                    .fold(0u64, |a, b| a.wrapping_mul(3).wrapping_add(b.0 as u64)),
                Op::Append(k, n) => u64::from(tx.merge(&LISTS, *k, *n)),
                Op::GetList(k) => match tx.get_mut(&LISTS, k) {
                    Some(list) if list.len() > 50 => u64::from(tx.delete(&LISTS, k)),
                    Some(list) => list.iter().fold(1, |a, b| u64::wrapping_mul(a, 31).wrapping_add(*b)),
                    None => 0,
                },
                Op::MergeMixed(k, n) => u64::from(tx.merge(&MIXED, *k, *n)),
                Op::PutMixed(k, n) => {
                    let old = match tx.get(&MIXED, k) {
                        None => 0,
                        Some(Number::Count(count)) => *count,
                        Some(Number::Text(text)) => text.len() as u64,
                    };
                    let new = if n % 2 == 0 { Number::Text(n.to_string()) } else { Number::Count(*n) };
                    tx.put(&MIXED, *k, new);
                    old
                }
                Op::Abort(n) => return Err(format!("abort {n}")),
                Op::Panic(n) => panic!("panic {n}"),
            });
        }
        Ok(out)
    }
}

fn hash_rows<'a>(rows: impl Iterator<Item = (u64, &'a u64)>) -> u64 {
    rows.fold(7, |hash: u64, (key, value)| hash.wrapping_mul(31).wrapping_add(key ^ value))
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

/// Which footprints a log holds, and how often a transaction aborts or panics, in percent.
#[derive(Clone, Copy)]
struct Flavour {
    says: &'static [Says],
    keys: u64,
    aborts: u64,
    panics: u64,
    /// Whether there are operations that end in a replay though declared as well as can be: merge operators that
    /// panic, walks that get further than foreseen.
    may_diverge: bool,
}

fn transaction(random: &mut Random, flavour: Flavour) -> Ops {
    let mut ops: Vec<_> = (0..1 + random.below(6))
        .map(|_| {
            let (k, n, g) = (random.below(flavour.keys), random.next(), random.below(4) as u8);
            match random.below(22) {
                0 => Op::Get(k),
                1 | 2 => Op::Add(k, n),
                3 => Op::Put(k, n),
                4 => Op::Delete(k),
                5 => Op::Text(k, n % 100),
                6 => Op::Watch(k, n),
                7 => Op::SumWatched(k / 10),
                8 => Op::GroupPut(g, k, n),
                9 => Op::GroupGet(g, k),
                10 if n % 2 == 0 => Op::Enqueue(g, n),
                10 => Op::Dequeue(g),
                11 => Op::Sum(g),
                12 if n % 5 == 0 => Op::GetSum(k % 20),
                12 if n % 5 == 1 => Op::SumSums(k % 2),
                12 if n % 5 == 2 => Op::AddSum(k % 20, n as i64),
                13 if n % 2 == 0 => Op::AddSum(20 + k % 10, (n % 100) as i64 - 40),
                12 | 13 => Op::MergeSum(k % 20, n as i64),
                14 if n % 4 == 0 => Op::GetList(k % 20),
                14 => Op::Append(k % 20, n % 100),
                17 | 18 => Op::RangeFill(k * 13 % 6000, n),
                19 if n % 3 == 0 => Op::RangeClear(k * 11 % 6000, k * 11 % 6000 + n % 60),
                19 => Op::RangeGet(k * 13 % 6000),
                20 => Op::RangeSum(k * 11 % 6000, k * 11 % 6000 + n % 500),
                21 if n % 6 == 0 && flavour.may_diverge => Op::RangePop(n % 12 == 0),
                21 if flavour.may_diverge => Op::RangeSome(k * 11 % 6000, (n % 70) as usize),
                21 => Op::RangeSum(k * 11 % 6000, 7000),
                15 if n % 3 == 0 => Op::PutMixed(k % 20, n % 1000),
                _ => Op::MergeMixed(k % 20, if n % 50 == 0 && flavour.may_diverge { 7 } else { 8 + n % 100 }),
            }
        })
        .collect();
    let dice = random.below(100);
    if dice < flavour.aborts {
        ops.push(Op::Abort(dice));
    } else if dice < flavour.aborts + flavour.panics {
        ops.push(Op::Panic(dice));
    }
    Ops { ops, says: flavour.says[random.below(flavour.says.len() as u64) as usize] }
}

fn builder() -> mixlog_engine::Builder {
    Engine::builder()
        .table(&ROWS)
        .table(&TEXTS)
        .table(&WATCHED)
        .table(&GROUPED)
        .table(&ORDERED)
        .table(&SUMS)
        .table(&RANGES)
        .table(&LISTS)
        .table(&MIXED)
        .procedure::<Ops>()
}

/// A log of random transactions, and the digest and replies of the engine that took them.
fn record(seed: u64, count: u64, flavour: Flavour) -> (Arc<MemoryLog>, Digest, Vec<String>) {
    let log = Arc::new(MemoryLog::new());
    let engine = builder().threads(2).window(64).open(Arc::clone(&log) as Arc<dyn SharedLog>).unwrap();
    let mut random = Random(seed);
    let tickets: Vec<_> =
        (0..count).map(|_| engine.submit(&transaction(&mut random, flavour)).unwrap()).collect();
    let replies = tickets.into_iter().map(|ticket| format!("{:?}", ticket.wait().unwrap())).collect();
    let digest = engine.digest();
    assert_eq!(digest.state, engine.snapshot().state_digest());
    engine.close().unwrap();
    (log, digest, replies)
}

type State = BTreeMap<String, String>;

fn state(replay: &Replay) -> State {
    let snapshot = replay.snapshot();
    let mut state = State::new();
    macro_rules! add {
        ($($table:expr),*) => {$(
            snapshot.for_each(&$table, |key, value| {
                let old = state.insert(format!("{} {key:?}", $table.name()), format!("{value:?}"));
                assert_eq!(old, None);
            });
        )*};
    }
    add!(ROWS, TEXTS, WATCHED, GROUPED, ORDERED, RANGES, SUMS, LISTS, MIXED);
    assert_eq!(replay.to_end().unwrap().state, snapshot.state_digest(), "kept up, and from scratch");
    state
}

fn replay(
    log: &Arc<MemoryLog>,
    threads: usize,
    window: u32,
    mode: Mode,
) -> (Digest, State, mixlog_engine::Stats) {
    let replay = builder()
        .threads(threads)
        .window(window)
        .mode(mode)
        .replay(Arc::clone(log) as Arc<dyn SharedLog>)
        .unwrap();
    let digest = replay.to_end().unwrap();
    (digest, state(&replay), replay.stats())
}

fn quiet() {
    // Thousands of panics are expected here; their messages would drown everything else.
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload().downcast_ref::<String>().map_or("", String::as_str);
        let text = info.payload().downcast_ref::<&str>().copied().unwrap_or(text);
        if !text.starts_with("panic ")
            && !text.contains("panic at 7")
            && !text.starts_with("a footprint that panics")
        {
            eprintln!("{info}");
        }
    }));
}

fn check(flavour: Flavour, violations_expected: bool) {
    quiet();
    for seed in 0..3 {
        let (log, recorded, _) = record(seed, 2500, flavour);
        let (expected, state, stats) = replay(&log, 1, 4096, Mode::Sequential);
        assert_eq!(recorded, expected, "seed {seed}: live");
        assert_eq!(stats.transactions, 2500);
        for threads in [1, 2, 4, 8] {
            for window in [1, 7, 64, 4096] {
                let (digest, found, parallel) = replay(&log, threads, window, Mode::Parallel);
                let what = format!("seed {seed}, {threads} threads, window {window}");
                assert!(parallel.adopted <= parallel.reconnoitred, "{what}");
                assert_eq!(digest, expected, "{what}");
                assert_eq!(found, state, "{what}");
                assert_eq!((parallel.aborts, parallel.panics), (stats.aborts, stats.panics), "{what}");
                assert_eq!(parallel.replays > 0, violations_expected, "{what}");
                assert_eq!(parallel.violations > 0, violations_expected, "{what}");
            }
        }
        let (digest, ..) = replay(&log, 2, 256, Mode::Auto);
        assert_eq!(digest, expected, "seed {seed}, auto");
    }
}

#[test]
fn exact_footprints_parallel_equals_sequential() {
    check(Flavour { says: &[Says::Exact], keys: 50, aborts: 5, panics: 2, may_diverge: false }, false);
}

#[test]
fn exact_footprints_many_keys_parallel_equals_sequential() {
    check(Flavour { says: &[Says::Exact], keys: 5000, aborts: 1, panics: 0, may_diverge: false }, false);
}

#[test]
fn too_much_and_unknown_footprints_parallel_equals_sequential_without_replay() {
    let says = &[Says::Exact, Says::Exact, Says::Exact, Says::TooMuch, Says::Unknown];
    check(Flavour { says, keys: 100, aborts: 5, panics: 1, may_diverge: false }, false);
}

#[test]
fn too_little_and_empty_and_panicking_footprints_parallel_equals_sequential_by_replay() {
    let says = &[Says::Exact, Says::Exact, Says::TooLittle, Says::Empty, Says::Panics];
    check(Flavour { says, keys: 100, aborts: 5, panics: 2, may_diverge: true }, true);
}

#[test]
fn rare_violations_parallel_equals_sequential() {
    const SAYS: [Says; 200] = {
        let mut says = [Says::Exact; 200];
        says[100] = Says::TooLittle;
        says
    };
    check(Flavour { says: &SAYS, keys: 1000, aborts: 2, panics: 1, may_diverge: false }, true);
}

#[test]
fn footprints_to_be_found_parallel_equals_sequential() {
    for keys in [20, 5000] {
        let flavour = Flavour { says: &[Says::ToBeFound], keys, aborts: 5, panics: 2, may_diverge: false };
        quiet();
        for seed in 0..3 {
            let (log, recorded, _) = record(seed, 2500, flavour);
            let (expected, state, _) = replay(&log, 1, 4096, Mode::Sequential);
            assert_eq!(recorded, expected, "seed {seed}: live");
            for threads in [1, 2, 4, 8] {
                for window in [1, 7, 64, 4096] {
                    let (digest, found, stats) = replay(&log, threads, window, Mode::Parallel);
                    let what =
                        format!("seed {seed}, {keys} keys, {threads} threads, window {window}: {stats:?}");
                    assert_eq!(digest, expected, "{what}");
                    assert_eq!(found, state, "{what}");
                    // A window that is replayed for a stale footprint runs no result ahead.
                    assert!(stats.reconnoitred >= stats.adopted, "{what}");
                    assert!(stats.adopted > 0 || window > 64, "{what}");
                    assert!(window > 1 || stats.replays < 2500 / 4, "{what}");
                }
            }
        }
    }
}

#[test]
fn mixed_footprints_some_to_be_found_parallel_equals_sequential() {
    let says = &[Says::Exact, Says::ToBeFound, Says::TooLittle, Says::ToBeFound, Says::Unknown];
    let flavour = Flavour { says, keys: 300, aborts: 5, panics: 2, may_diverge: true };
    check(flavour, true);
}

/// Paranoid mode runs transactions twice, and nobody sees it: not even a snapshot from before.
#[test]
fn paranoid_parallel_equals_sequential() {
    quiet();
    for (seed, says) in [
        (1, &[Says::Exact, Says::Exact, Says::TooMuch, Says::Unknown][..]),
        (2, &[Says::ToBeFound, Says::Exact]),
        (3, &[Says::Exact, Says::Exact, Says::ToBeFound, Says::TooLittle, Says::Panics]),
    ] {
        let (log, recorded, _) =
            record(seed, 800, Flavour { says, keys: 60, aborts: 5, panics: 2, may_diverge: seed == 3 });
        let (expected, state_of_all, _) = replay(&log, 1, 4096, Mode::Sequential);
        assert_eq!(recorded, expected);
        for mode in [Mode::Sequential, Mode::Parallel] {
            for (threads, window, one_in) in [(1, 64, 1), (2, 7, 2), (2, 256, 1), (4, 64, 1), (4, 256, 5)] {
                let what =
                    format!("seed {seed}, {mode}, {threads} threads, window {window}, one in {one_in}");
                let builder = builder().threads(threads).window(window).mode(mode).paranoid(one_in);
                let replay = builder.replay(Arc::clone(&log) as Arc<dyn SharedLog>).unwrap();
                let middle = replay.to(mixlog_engine::Position(400)).unwrap();
                let snapshot = replay.snapshot();
                assert_eq!(replay.to_end().unwrap(), expected, "{what}");
                assert_eq!(snapshot.state_digest(), middle.state, "{what}");
                drop(snapshot);
                assert_eq!(state(&replay), state_of_all, "{what}");
                let stats = replay.stats();
                assert_eq!(stats.transactions, 800, "{what}");
                assert!(stats.run_twice >= 800 / (2 * u64::from(one_in)), "{what}: {stats:?}");
            }
        }
    }
}

#[test]
fn digest_at_every_position_is_the_same_however_it_is_reached() {
    quiet();
    let flavour =
        Flavour { says: &[Says::Exact, Says::TooLittle], keys: 20, aborts: 10, panics: 5, may_diverge: true };
    let (log, last, _) = record(9, 300, flavour);
    let one = builder().threads(1).mode(Mode::Sequential).replay(log.clone()).unwrap();
    let two = builder().threads(2).window(33).mode(Mode::Parallel).replay(log.clone()).unwrap();
    let tail = log.tail().unwrap().tail;
    for position in 0..tail.0 {
        let position = mixlog_engine::Position(position);
        assert_eq!(one.to(position).unwrap(), two.to(position).unwrap());
    }
    assert_eq!(one.to_end().unwrap(), last);
    assert!(one.to(mixlog_engine::Position(0)).is_err(), "a replay does not go back");
    assert!(one.to(tail).is_err(), "beyond the tail");
}

#[test]
fn open_existing_log_replays_it_and_goes_on() {
    quiet();
    let flavour = Flavour { says: &[Says::Exact], keys: 50, aborts: 5, panics: 0, may_diverge: false };
    let (log, digest, _) = record(1, 1000, flavour);
    let engine = builder().threads(2).open(log.clone()).unwrap();
    assert_eq!(engine.digest(), digest, "no second catalog is appended");
    let mut random = Random(77);
    for _ in 0..100 {
        let _ = engine.submit(&transaction(&mut random, flavour)).unwrap().wait().unwrap();
    }
    let digest = engine.digest();
    drop(engine);
    assert_eq!(replay(&log, 1, 4096, Mode::Sequential).0, digest);
}

#[test]
fn replies_of_live_runs_do_not_depend_on_threads() {
    quiet();
    let flavour = Flavour {
        says: &[Says::Exact, Says::TooLittle, Says::Unknown],
        keys: 30,
        aborts: 10,
        panics: 3,
        may_diverge: true,
    };
    let (_, _, expected) = record(5, 1500, flavour);
    let (_, _, again) = record(5, 1500, flavour);
    assert_eq!(expected, again);
    assert!(
        expected.iter().any(|r| r.starts_with("Aborted"))
            && expected.iter().any(|r| r.starts_with("Panicked"))
    );
}
