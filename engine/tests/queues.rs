//! Rows that are taken from ordered tables, from both ends, on all ways through the engine: walks that pass what the
//! transaction deleted find what a map holds, and do not cost the square of what was taken.
#![cfg(not(loom))]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mixlog_engine::{Engine, Footprint, Index, Mode, Never, Outcome, Procedure, Snapshot, Sum, Table, Tx};
use mixlog_log::MemoryLog;
use serde::{Deserialize, Serialize};

const PLAIN: Table<u64, Sum> = Table::new("plain").ordered();
const GROUPED: Table<u64, Sum> = Table::new("grouped").grouped("all", |_| 0).ordered();
const JOBS: Table<u64, u64> = Table::new("jobs");
const BY_PRIORITY: Index<u64, u64, u64> = Index::new("jobs.by_priority", JOBS, |_, &priority| Some(priority));

const KEYS: u64 = 400;

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

/// Does an operation with what looks like a transaction.
macro_rules! operate {
    ($tx:expr, $table:expr, $op:expr) => {{
        let (tx, table) = ($tx, $table);
        match $op {
            Op::First(from, to) => {
                tx.first(table, from..=to).map(|(key, sum)| (key, sum.0)).into_iter().collect()
            }
            Op::Last(from, to) => {
                tx.last(table, from..=to).map(|(key, sum)| (key, sum.0)).into_iter().collect()
            }
            Op::Ends(from, to) => {
                let mut rows = tx.range(table, from..=to);
                let mut found = Found::new();
                for _ in 0..3 {
                    found.extend(rows.next().map(|(key, sum)| (key, sum.0)));
                    found.extend(rows.next_back().map(|(key, sum)| (key, sum.0)));
                }
                found
            }
            Op::TakeFirst(from) => {
                tx.pop_first(table, from..=KEYS).map(|(key, sum)| (key, sum.0)).into_iter().collect()
            }
            Op::TakeLast(to) => {
                tx.pop_last(table, 0..=to).map(|(key, sum)| (key, sum.0)).into_iter().collect()
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

fn model(map: &mut BTreeMap<u64, i64>, op: Op) -> Found {
    let own = |(&key, &sum): (&u64, &i64)| (key, sum);
    let take = |map: &mut BTreeMap<u64, i64>, found: Option<(u64, i64)>| {
        if let Some((key, _)) = &found {
            map.remove(key);
        }
        found.into_iter().collect()
    };
    match op {
        Op::First(from, to) if from <= to => map.range(from..=to).next().map(own).into_iter().collect(),
        Op::Last(from, to) if from <= to => map.range(from..=to).next_back().map(own).into_iter().collect(),
        Op::Ends(from, to) if from <= to => {
            let mut rows = map.range(from..=to);
            let mut found = Found::new();
            for _ in 0..3 {
                found.extend(rows.next().map(own));
                found.extend(rows.next_back().map(own));
            }
            found
        }
        Op::First(..) | Op::Last(..) | Op::Ends(..) => vec![],
        Op::TakeFirst(from) => {
            let found = map.range(from..).next().map(own);
            take(map, found)
        }
        Op::TakeLast(to) => {
            let found = map.range(..=to).next_back().map(own);
            take(map, found)
        }
        Op::Delete(key) => map.remove(&key).map(|sum| (key, sum)).into_iter().collect(),
        Op::Put(key) => {
            map.insert(key, 1);
            vec![]
        }
        Op::Merge(key) => {
            *map.entry(key).or_insert(0) += 1;
            vec![]
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Operate {
    grouped: bool,
    declares: bool,
    ops: Vec<Op>,
}

impl Procedure for Operate {
    const NAME: &'static str = "operate";
    type Output = Vec<Found>;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        let table = if self.grouped { &GROUPED } else { &PLAIN };
        if !self.declares {
            f.reconnoitre();
            return;
        }
        f.range(table, 0..=KEYS);
        for key in 0..=KEYS {
            f.write(table, &key);
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<Found>, Never> {
        let table = if self.grouped { &GROUPED } else { &PLAIN };
        Ok(self.ops.iter().map(|&op| operate!(&mut *tx, table, op)).collect())
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
fn look(snapshot: &Snapshot, maps: &[BTreeMap<u64, i64>; 2], random: &mut Random) {
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
    let ways = [(Mode::Sequential, 1), (Mode::Parallel, 1), (Mode::Parallel, 2), (Mode::Parallel, 4)];
    let seeds = std::env::var("MIXLOG_SEEDS").map_or(3, |seeds| seeds.parse().unwrap());
    for (seed, (mode, threads)) in (0..seeds).flat_map(|seed| ways.map(|way| (seed, way))) {
        let engine = Engine::builder().table(&PLAIN).table(&GROUPED).procedure::<Operate>();
        let engine =
            engine.mode(mode).threads(threads).infer(false).open(Arc::new(MemoryLog::new())).unwrap();
        let mut random = Random(seed);
        let mut maps = [BTreeMap::new(), BTreeMap::new()];
        // Rows without a value stay while a snapshot needs them.
        let mut held: VecDeque<(Snapshot, [BTreeMap<u64, i64>; 2])> = VecDeque::new();
        for round in 0..40 {
            let mut expected = Vec::new();
            let tickets: Vec<_> = (0..4)
                .map(|_| {
                    let (grouped, declares) = (random.below(2) == 0, random.below(3) == 0);
                    let count = random.below(800);
                    let call = Operate { grouped, declares, ops: random.ops(count) };
                    let map = &mut maps[usize::from(grouped)];
                    expected.push(call.ops.iter().map(|&op| model(map, op)).collect::<Vec<_>>());
                    engine.submit(&call).unwrap()
                })
                .collect();
            for (ticket, expected) in tickets.into_iter().zip(expected) {
                let Outcome::Committed { output, .. } = ticket.wait().unwrap() else { panic!("it commits") };
                assert!(output == expected, "{mode}, {threads} threads, seed {seed}, round {round}");
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
            for op in random.ops(400) {
                let found: Found = operate!(&mut tx, &PLAIN, op);
                assert_eq!(found, model(&mut maps[0], op), "interactive, seed {seed}, round {round}, {op:?}");
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
