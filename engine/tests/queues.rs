//! Rows that are taken from ordered tables, from both ends, on all ways through the engine: walks that pass what the
//! transaction deleted find what a map holds, and do not cost the square of what was taken.
#![cfg(not(loom))]

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mixlog_engine::{Engine, Footprint, Index, Mode, Never, Outcome, Procedure, Snapshot, Sum, Table, Tx};
use mixlog_log::{MemoryLog, SharedLog};
use serde::{Deserialize, Serialize};

const PLAIN: Table<u64, Sum> = Table::new("plain").ordered();
const GROUPED: Table<u64, Sum> = Table::new("grouped").grouped("all", |_| 0).ordered();
/// Two granules, in the middle of each other.
const SPLIT: Table<u64, Sum> = Table::new("split").grouped("parity", |key| key % 2).ordered();
const JOBS: Table<u64, u64> = Table::new("jobs");
const BY_PRIORITY: Index<u64, u64, u64> = Index::new("jobs.by_priority", JOBS, |_, &priority| Some(priority));

const KEYS: u64 = 400;

const PLANNED: &str = "panic as planned: ";

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Op {
    First(u64, u64),
    Last(u64, u64),
    /// From both ends in turn.
    Ends(u64, u64),
    TakeFirst(u64),
    TakeLast(u64),
    Delete(u64),
    Put(u64),
    Merge(u64),
}

type Found = Vec<(u64, i64)>;

/// Which keys an operation looks at. Where there are two granules, one bound tells in which.
const fn bounds(op: Op, which: Which) -> (Bound<u64>, Bound<u64>) {
    use Bound::{Included, Unbounded};
    match (which, op) {
        (Which::Split, Op::First(from, _) | Op::Ends(from, _) | Op::TakeFirst(from)) => {
            (Included(from), Unbounded)
        }
        (Which::Split, Op::Last(_, to) | Op::TakeLast(to)) => (Unbounded, Included(to)),
        (_, Op::First(from, to) | Op::Last(from, to) | Op::Ends(from, to)) => (Included(from), Included(to)),
        (_, Op::TakeFirst(from)) => (Included(from), Included(KEYS)),
        (_, Op::TakeLast(to)) => (Included(0), Included(to)),
        (_, Op::Delete(key) | Op::Put(key) | Op::Merge(key)) => (Included(key), Included(key)),
    }
}

/// Does an operation with what looks like a transaction.
macro_rules! operate {
    ($tx:expr, $which:expr, $op:expr) => {{
        let (tx, table) = ($tx, $which.table());
        let bounds = bounds($op, $which);
        match $op {
            Op::First(..) => tx.first(table, bounds).map(|(key, sum)| (key, sum.0)).into_iter().collect(),
            Op::Last(..) => tx.last(table, bounds).map(|(key, sum)| (key, sum.0)).into_iter().collect(),
            Op::Ends(..) => {
                let mut rows = tx.range(table, bounds);
                let mut found = Found::new();
                for _ in 0..3 {
                    found.extend(rows.next().map(|(key, sum)| (key, sum.0)));
                    found.extend(rows.next_back().map(|(key, sum)| (key, sum.0)));
                }
                found
            }
            Op::TakeFirst(_) => {
                tx.pop_first(table, bounds).map(|(key, sum)| (key, sum.0)).into_iter().collect()
            }
            Op::TakeLast(_) => {
                tx.pop_last(table, bounds).map(|(key, sum)| (key, sum.0)).into_iter().collect()
            }
            Op::Delete(key) => {
                let was_there = tx.contains(table, &key);
                let taken = tx.take(table, &key).map(|sum| (key, sum.0));
                assert_eq!((taken.is_some(), tx.contains(table, &key)), (was_there, false));
                assert!(!tx.delete(table, &key));
                taken.into_iter().collect()
            }
            Op::Put(key) => {
                tx.put(table, key, Sum(1));
                vec![]
            }
            Op::Merge(key) => {
                assert!(tx.merge(table, key, 1));
                vec![]
            }
        }
    }};
}

fn model(which: Which, map: &mut BTreeMap<u64, i64>, op: Op) -> Found {
    let bounds = bounds(op, which);
    let granule = match bounds {
        (Bound::Included(key), _) | (_, Bound::Included(key)) => key % 2,
        _ => unreachable!("one bound tells"),
    };
    let is_meant = |key: &u64| bounds.contains(key) && (which != Which::Split || key % 2 == granule);
    let mut rows = map.iter().filter(|(key, _)| is_meant(key)).map(|(&key, &sum)| (key, sum));
    let found: Found = match op {
        Op::First(..) | Op::TakeFirst(_) | Op::Delete(_) => rows.next().into_iter().collect(),
        Op::Last(..) | Op::TakeLast(_) => rows.next_back().into_iter().collect(),
        Op::Ends(..) => {
            let mut found = Found::new();
            for _ in 0..3 {
                found.extend(rows.next());
                found.extend(rows.next_back());
            }
            found
        }
        Op::Put(_) | Op::Merge(_) => vec![],
    };
    match op {
        Op::TakeFirst(_) | Op::TakeLast(_) | Op::Delete(_) => {
            found.iter().for_each(|(key, _)| _ = map.remove(key))
        }
        Op::Put(key) => _ = map.insert(key, 1),
        Op::Merge(key) => *map.entry(key).or_insert(0) += 1,
        Op::First(..) | Op::Last(..) | Op::Ends(..) => {}
    }
    found
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Declares {
    Nothing,
    /// Less than it touches.
    Little,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum End {
    Commits,
    Aborts,
    Panics,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Which {
    Plain,
    Grouped,
    Split,
}

const ALL: [Which; 3] = [Which::Plain, Which::Grouped, Which::Split];

impl Which {
    const fn table(self) -> &'static Table<u64, Sum> {
        match self {
            Self::Plain => &PLAIN,
            Self::Grouped => &GROUPED,
            Self::Split => &SPLIT,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Operate {
    which: Which,
    declares: Declares,
    ops: Vec<Op>,
    end: End,
}

impl Procedure for Operate {
    const NAME: &'static str = "operate";
    type Output = Vec<Found>;
    type Abort = Vec<Found>;

    fn footprint(&self, f: &mut Footprint<'_>) {
        match (self.declares, self.which) {
            (Declares::Nothing, _) => drop(f.reconnoitre()),
            (Declares::Little, Which::Plain) => drop(f.range(&PLAIN, 0..=KEYS).write(&PLAIN, &0)),
            (Declares::Little, Which::Grouped | Which::Split) => {}
            (Declares::All, Which::Plain) => {
                f.range(&PLAIN, 0..=KEYS);
                for key in 0..=KEYS {
                    f.write(&PLAIN, &key);
                }
            }
            (Declares::All, Which::Grouped) => drop(f.write(&GROUPED, &0)),
            (Declares::All, Which::Split) => drop(f.write(&SPLIT, &0).write(&SPLIT, &1)),
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<Found>, Vec<Found>> {
        let found = self.ops.iter().map(|&op| operate!(&mut *tx, self.which, op)).collect();
        match self.end {
            End::Commits => Ok(found),
            End::Aborts => Err(found),
            End::Panics => panic!("{PLANNED}{found:?}"),
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (self.0 >> 33) % bound
    }

    /// In some transactions little is put, so that what is left lies far apart.
    fn ops(&mut self, count: u64) -> Vec<Op> {
        let puts = 1 + self.below(8);
        let op = |random: &mut Self| {
            let (key, other) = (random.below(KEYS), random.below(KEYS + 1));
            // Most walks begin at an end.
            let from = if random.below(3) == 0 { key } else { 0 };
            let to = if random.below(3) == 0 { other } else { KEYS };
            if random.below(16) < puts {
                return if random.below(8) == 0 { Op::Merge(key) } else { Op::Put(key) };
            }
            match random.below(8) {
                0 => Op::First(from, to),
                1 => Op::Last(from, to),
                2 => Op::Ends(from, to),
                3 | 4 => Op::TakeFirst(from),
                5 | 6 => Op::TakeLast(to),
                _ => Op::Delete(key),
            }
        };
        (0..count).map(|_| op(self)).collect()
    }
}

/// A snapshot shows what the maps held, from both ends in any turn.
fn look(snapshot: &Snapshot, maps: &[BTreeMap<u64, i64>; 3], random: &mut Random) {
    for (key, sum) in &maps[2] {
        assert_eq!(snapshot.get(&SPLIT, key).map(|sum| sum.0), Some(*sum));
    }
    assert_eq!(snapshot.len(&SPLIT), maps[2].len());
    for (table, map) in [&PLAIN, &GROUPED].into_iter().zip(maps) {
        let (from, to) = (random.below(KEYS), random.below(KEYS + 1));
        for (from, to) in [(0, KEYS), (from.min(to), from.max(to))] {
            let mut rows = snapshot.range(table, from..=to);
            let mut expected = map.range(from..=to);
            let turns = random.below(3);
            loop {
                let (found, expected) = if random.below(3) < turns {
                    (rows.next(), expected.next())
                } else {
                    (rows.next_back(), expected.next_back())
                };
                assert_eq!(found.map(|(key, sum)| (key, sum.0)), expected.map(|(&key, &sum)| (key, sum)));
                if expected.is_none() {
                    break;
                }
            }
        }
        for key in 0..=KEYS {
            assert_eq!(snapshot.get(table, &key).map(|sum| sum.0), map.get(&key).copied());
        }
    }
}

#[test]
fn walks_among_own_changes_find_what_a_map_holds_on_all_ways() {
    std::panic::set_hook(Box::new(|info| {
        if !info.to_string().contains(PLANNED) {
            eprintln!("{info}");
        }
    }));
    let ways = [(Mode::Sequential, 1), (Mode::Parallel, 1), (Mode::Parallel, 2), (Mode::Parallel, 4)];
    let seeds = std::env::var("MIXLOG_SEEDS").map_or(3, |seeds| seeds.parse().unwrap());
    for (seed, (mode, threads)) in (0..seeds).flat_map(|seed| ways.map(|way| (seed, way))) {
        let engine = Engine::builder().table(&PLAIN).table(&GROUPED).table(&SPLIT).procedure::<Operate>();
        let engine =
            engine.mode(mode).threads(threads).infer(false).open(Arc::new(MemoryLog::new())).unwrap();
        let mut random = Random(seed);
        let mut maps = [const { BTreeMap::new() }; 3];
        // Rows without a value stay while a snapshot needs them.
        let mut held: VecDeque<(Snapshot, [BTreeMap<u64, i64>; 3])> = VecDeque::new();
        for round in 0..40 {
            let mut expected = Vec::new();
            // A few large ones, or many in a window.
            let (count, most) = if round % 2 == 0 { (4, 800) } else { (100, 24) };
            let tickets: Vec<_> = (0..count)
                .map(|_| {
                    let which = ALL[random.below(3) as usize];
                    let declares = match random.below(24) {
                        0 => Declares::Little,
                        1..8 => Declares::All,
                        _ => Declares::Nothing,
                    };
                    let end = match random.below(12) {
                        0 => End::Panics,
                        1..4 => End::Aborts,
                        _ => End::Commits,
                    };
                    let length = random.below(most);
                    let call = Operate { which, declares, ops: random.ops(length), end };
                    let map = &mut maps[which as usize];
                    let before = map.clone();
                    let found: Vec<_> = call.ops.iter().map(|&op| model(which, map, op)).collect();
                    if end != End::Commits {
                        *map = before;
                    }
                    expected.push((end, found));
                    (engine.submit(&call).unwrap(), call)
                })
                .collect();
            for ((ticket, call), expected) in tickets.into_iter().zip(expected) {
                let ended = match ticket.wait().unwrap() {
                    Outcome::Committed { output, .. } => (End::Commits, output),
                    Outcome::Aborted { reason, .. } => (End::Aborts, reason),
                    Outcome::Panicked { message, .. } => {
                        assert_eq!(message, format!("{PLANNED}{:?}", expected.1));
                        (End::Panics, expected.1.clone())
                    }
                };
                assert!(
                    ended == expected,
                    "{mode}, {threads} threads, seed {seed}, round {round}: {call:?} {:?}",
                    ended
                        .1
                        .iter()
                        .zip(&expected.1)
                        .zip(&call.ops)
                        .enumerate()
                        .find(|(_, ((one, other), _))| one != other)
                );
            }
            if round % 7 == 5 {
                held.push_back((engine.snapshot(), maps.clone()));
            }
            if held.len() > 3 {
                held.pop_front();
            }
            held.iter().for_each(|(snapshot, maps)| look(snapshot, maps, &mut random));
            // The same on a snapshot, which commits.
            let mut tx = engine.begin();
            for (n, op) in random.ops(400).into_iter().enumerate() {
                let which = if n % 2 == 0 { Which::Plain } else { Which::Split };
                let found: Found = operate!(&mut tx, which, op);
                let expected = model(which, &mut maps[which as usize], op);
                assert_eq!(found, expected, "interactive, seed {seed}, round {round}, {which:?}, {op:?}");
            }
            tx.commit().unwrap();
        }
        drop(held);
        look(&engine.snapshot(), &maps, &mut random);
        engine.close().unwrap();
    }
}

/// Takes the rows of queues from one end, and puts them back elsewhere.
#[derive(Debug, Serialize, Deserialize)]
struct Turn {
    rows: u64,
    from_back: bool,
    grouped: bool,
}

impl Procedure for Turn {
    const NAME: &'static str = "turn";
    type Output = u64;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let table = if self.grouped { &GROUPED } else { &PLAIN };
        let (middle, mut sum) = (1u64 << 40, 0u64);
        for row in 0..self.rows {
            tx.put(table, if self.from_back { middle - row } else { middle + row }, Sum(1));
        }
        for row in 0..self.rows {
            let found =
                if self.from_back { tx.last(table, 0..=u64::MAX) } else { tx.first(table, 0..=u64::MAX) };
            let key = found.expect("there are rows").0;
            assert_eq!(key.abs_diff(middle), row);
            assert!(tx.delete(table, &key));
            sum = sum.wrapping_mul(31).wrapping_add(key);
            let (back, far) = (self.from_back, 10 * self.rows + row);
            tx.put(table, if back { middle - far } else { middle + far }, Sum(2));
        }
        let rows: Vec<u64> = tx.range(table, 0..=u64::MAX).map(|(key, _)| key).collect();
        assert_eq!(rows.len() as u64, self.rows);
        rows.iter().for_each(|key| assert!(tx.delete(table, key)));
        Ok(sum)
    }
}

/// Does the work of a queue whose order is that of an index.
#[derive(Debug, Serialize, Deserialize)]
struct Work(u64);

impl Procedure for Work {
    const NAME: &'static str = "work";
    type Output = u64;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        (0..self.0).for_each(|job| tx.put(&JOBS, job, job / 2));
        let mut done = 0;
        loop {
            let next = tx.range_by(&BY_PRIORITY, ..).next();
            let Some((_, job)) = next else { return Ok(done) };
            assert_eq!(job, done);
            tx.delete(&JOBS, &job);
            done += 1;
        }
    }
}

/// Were each walk to go over all that was taken before, this would take many minutes.
#[test]
fn queues_are_worked_off_in_one_transaction_and_not_in_square_time() {
    const ROWS: u64 = 60_000;
    let builder = || {
        let builder = Engine::builder().table(&PLAIN).table(&GROUPED).table(&JOBS).index(&BY_PRIORITY);
        builder.procedure::<Turn>().procedure::<Work>()
    };
    let mut digests = Vec::new();
    for (mode, threads) in [(Mode::Sequential, 1), (Mode::Parallel, 2)] {
        let engine = builder().mode(mode).threads(threads).open(Arc::new(MemoryLog::new())).unwrap();
        for (grouped, from_back) in [(false, false), (false, true), (true, false), (true, true)] {
            let call = Turn { rows: ROWS, from_back, grouped };
            assert!(matches!(engine.execute(&call).unwrap(), Outcome::Committed { .. }), "{call:?}");
        }
        assert_eq!(engine.submit(&Work(ROWS)).unwrap().wait().unwrap().committed(), Some(ROWS));
        digests.push(engine.digest());
        engine.close().unwrap();
    }
    assert_eq!(digests[1], digests[0]);
}

/// Takes the first row of a queue.
#[derive(Debug, Serialize, Deserialize)]
enum Take {
    Plain,
    Grouped,
    Indexed,
}

impl Procedure for Take {
    const NAME: &'static str = "take";
    type Output = Option<u64>;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        match self {
            Self::Grouped => f.write_granule(&GROUPED, 0),
            Self::Plain | Self::Indexed => f.reconnoitre(),
        };
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Option<u64>, Never> {
        Ok(match self {
            Self::Plain => tx.pop_first(&PLAIN, ..).map(|(key, _)| key),
            Self::Grouped => tx.pop_first(&GROUPED, 0..).map(|(key, _)| key),
            Self::Indexed => {
                let first = tx.range_by(&BY_PRIORITY, ..).next().map(|(_, key)| key);
                first.inspect(|key| assert!(tx.delete(&JOBS, key)))
            }
        })
    }
}

/// Were each transaction to go over all that others took before and the snapshot keeps, this would take many minutes.
#[test]
fn queues_are_worked_off_by_many_transactions_while_a_snapshot_is_held() {
    const ROWS: u64 = 30_000;
    let builder = Engine::builder().table(&PLAIN).table(&GROUPED).table(&JOBS).index(&BY_PRIORITY);
    let builder = builder.procedure::<Fill>().procedure::<Take>().threads(2);
    let engine = builder.open(Arc::new(MemoryLog::new())).unwrap();
    let _ = engine.execute(&Fill(ROWS)).unwrap();
    let held = engine.snapshot();
    for take in [Take::Plain, Take::Grouped, Take::Indexed] {
        let tickets: Vec<_> = (0..ROWS).map(|_| engine.submit(&take).unwrap()).collect();
        for (row, ticket) in (0..).zip(tickets) {
            assert_eq!(ticket.wait().unwrap().committed(), Some(Some(row)), "{take:?}");
        }
    }
    // New snapshots, and transactions on them, do not go over it either.
    for row in ROWS..ROWS + 2_000 {
        let mut tx = engine.begin();
        assert_eq!(tx.pop_first(&PLAIN, ..).map(|(key, _)| key), (row > ROWS).then_some(row - 1));
        tx.put(&PLAIN, row, Sum(1));
        tx.commit().unwrap();
    }
    for table in [&PLAIN, &GROUPED] {
        assert!(held.range(table, 0..).map(|(key, _)| key).eq(0..ROWS));
        assert!(held.range(table, 0..).rev().map(|(key, _)| key).eq((0..ROWS).rev()));
    }
    assert!(held.range_by(&BY_PRIORITY, ..).map(|(_, key)| key).eq(0..ROWS));
    drop(held);
    engine.close().unwrap();
}

/// A key that counts how often it is copied.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Counted(u64);

static COPIES: AtomicU64 = AtomicU64::new(0);

impl Clone for Counted {
    fn clone(&self) -> Self {
        COPIES.fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

const COUNTED: Table<Counted, u64> = Table::new("counted").ordered();

/// Puts so many rows, or takes the first one.
#[derive(Debug, Serialize, Deserialize)]
enum Count {
    Put(u64),
    Take,
}

impl Procedure for Count {
    const NAME: &'static str = "count";
    type Output = Option<u64>;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<Option<u64>, Never> {
        Ok(match self {
            Self::Put(rows) => {
                (0..*rows).for_each(|row| tx.put(&COUNTED, Counted(row), row));
                None
            }
            Self::Take => tx.pop_first(&COUNTED, ..).map(|(key, _)| key.0),
        })
    }
}

/// A walk copies the keys without rows that it goes through, but for the first few.
#[test]
fn transactions_of_one_window_that_take_the_first_row_do_not_go_over_what_the_others_took() {
    const ROWS: u64 = 20_000;
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let builder = || Engine::builder().table(&COUNTED).procedure::<Count>().window(4096);
    let engine = builder().threads(1).open(Arc::clone(&log)).unwrap();
    engine.execute(&Count::Put(ROWS)).unwrap();
    let tickets: Vec<_> = (0..ROWS).map(|_| engine.submit(&Count::Take).unwrap()).collect();
    for (row, ticket) in (0..).zip(tickets) {
        assert_eq!(ticket.wait().unwrap().committed(), Some(Some(row)));
    }
    let digest = engine.digest();
    engine.close().unwrap();
    // In windows that are full. The first ones find no rows ahead, and are replayed, with an eye on footprints.
    for (mode, most) in [(Mode::Sequential, 40), (Mode::Auto, 100)] {
        let replay = builder().threads(2).mode(mode).replay(Arc::clone(&log)).unwrap();
        COPIES.store(0, Ordering::Relaxed);
        assert_eq!(replay.to_end().unwrap(), digest);
        let copies = COPIES.load(Ordering::Relaxed) / ROWS;
        assert!(copies <= most, "{mode}: {copies} copies of keys for each row; {:?}", replay.stats());
    }
}

/// Puts rows with the first keys into all queues.
#[derive(Debug, Serialize, Deserialize)]
struct Fill(u64);

impl Procedure for Fill {
    const NAME: &'static str = "fill";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        for row in 0..self.0 {
            tx.put(&PLAIN, row, Sum(1));
            tx.put(&GROUPED, row, Sum(1));
            tx.put(&JOBS, row, row / 2);
        }
        Ok(())
    }
}
