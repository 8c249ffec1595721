//! Transactions that run ahead: several at a time on one thread, and what is learned when their footprints are stale.

#[path = "support/replay.rs"]
mod replay;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mixlog_engine::{Builder, Digest, Engine, Footprint, Mode, Never, Procedure, Table, Tx};
use mixlog_log::{MemoryLog, SharedLog};
use replay::{expect_panics, replay};
use serde::{Deserialize, Serialize};

const ROWS: Table<u64, u64> = Table::new("rows");
const WATCHED: Table<u64, u64> = Table::new("watched").watched(|key| key / 100);
const ORDERED: Table<u64, u64> = Table::new("ordered").ordered();
const POINTER: Table<u8, u64> = Table::new("pointer");

fn builder() -> Builder {
    let builder = Engine::builder().table(&ROWS).table(&WATCHED).table(&ORDERED).table(&POINTER);
    builder.procedure::<Sum>().procedure::<Borrow>().procedure::<Follow>().procedure::<Deep>()
}

fn record(calls: impl Fn(&Engine)) -> Arc<dyn SharedLog> {
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = builder().threads(1).mode(Mode::Sequential).open(Arc::clone(&log)).unwrap();
    calls(&engine);
    engine.close().unwrap();
    log
}

fn oracle(log: &Arc<dyn SharedLog>) -> Digest {
    replay(log, builder().threads(1).mode(Mode::Sequential)).0
}

/// Adds up rows, counts the sum in one of them, and walks a range of another table.
#[derive(Debug, Serialize, Deserialize)]
struct Sum(u64);

impl Procedure for Sum {
    const NAME: &'static str = "sum";
    type Output = u64;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        // More rows than are looked for one by one.
        let keys = || (0..30).map(|i| (self.0 * 31 + i * i) % 20_000);
        let sum: u64 = keys().map(|key| tx.get(&ROWS, &key).copied().unwrap_or(1)).sum();
        let row = tx.get_mut(&ROWS, &(self.0 % 20_000));
        match row {
            Some(row) => *row += sum,
            None => tx.put(&ROWS, self.0 % 20_000, sum),
        }
        tx.put(&ORDERED, self.0 * 7 % 5_000, sum);
        let from = self.0 * 13 % 5_000;
        let walked: u64 = tx.range(&ORDERED, from..from + 40).map(|(key, value)| key ^ value).sum();
        Ok(sum ^ walked)
    }
}

#[test]
fn lanes_of_any_number_give_the_results_of_one_by_one() {
    let log = record(|engine| (0..3000).for_each(|i| drop(engine.submit(&Sum(i * 17 % 4093)).unwrap())));
    let expected = oracle(&log);
    for lanes in [1, 2, 3, 8, 40] {
        for (threads, window) in [(1, 256), (2, 7), (2, 256), (4, 64), (8, 1024)] {
            let builder = builder().threads(threads).window(window).mode(Mode::Parallel).lanes(lanes);
            let (digest, stats) = replay(&log, builder);
            assert_eq!(digest, expected, "{lanes} lanes, {threads} threads, window {window}");
            assert!(stats.adopted > 0, "{lanes} lanes, {threads} threads, window {window}: {stats:?}");
        }
    }
}

thread_local! {
    static BUFFER: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Borrows something of its thread across accesses, which panics when another lane has it.
#[derive(Debug, Serialize, Deserialize)]
struct Borrow(u64);

impl Procedure for Borrow {
    const NAME: &'static str = "borrow";
    type Output = u64;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        BUFFER.with_borrow_mut(|buffer| {
            buffer.clear();
            buffer.extend((0..5).map(|i| tx.get(&ROWS, &(self.0 + i)).copied().unwrap_or(i)));
            tx.put(&ROWS, self.0, buffer.iter().sum());
            Ok(buffer.len() as u64)
        })
    }
}

#[test]
fn what_lanes_borrow_twice_panics_ahead_and_nowhere_else() {
    let log = record(|engine| {
        // Rows that are there: looking at them gives way.
        (0..2000).for_each(|i| drop(engine.submit(&Sum(i)).unwrap()));
        (0..2000).for_each(|i| drop(engine.submit(&Borrow(i * 7 % 1000)).unwrap()));
    });
    let expected = oracle(&log);
    expect_panics("already borrowed");
    for lanes in [1, 8] {
        let (digest, stats) = replay(&log, builder().threads(2).mode(Mode::Parallel).lanes(lanes));
        assert_eq!(digest, expected, "{lanes} lanes");
        assert_eq!(stats.panics, 0, "{lanes} lanes");
    }
}

/// Needs a deep stack.
#[derive(Debug, Serialize, Deserialize)]
struct Deep(u64);

impl Procedure for Deep {
    const NAME: &'static str = "deep";
    type Output = u64;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        fn descend(depth: u64, tx: &mut Tx<'_>) -> u64 {
            let room = std::hint::black_box([depth; 64]);
            if depth == 0 {
                return tx.get(&ROWS, &0).copied().unwrap_or(1);
            }
            descend(depth - 1, tx) + room[depth as usize % 64]
        }
        let sum = descend(1000, tx);
        tx.put(&ROWS, self.0, sum);
        Ok(sum)
    }
}

#[test]
fn lanes_have_room_for_half_a_mebibyte() {
    let log = record(|engine| (1..300).for_each(|i| drop(engine.submit(&Deep(i)).unwrap())));
    let (digest, stats) = replay(&log, builder().threads(2).window(64).mode(Mode::Parallel));
    assert_eq!(digest, oracle(&log));
    assert!(stats.adopted > 0, "{stats:?}");
}

/// Reads rows that a row tells that nearly every transaction changes: no state of the past knows them.
#[derive(Debug, Serialize, Deserialize)]
struct Follow {
    watched: bool,
    step: u64,
}

impl Procedure for Follow {
    const NAME: &'static str = "follow";
    type Output = u64;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let at = tx.get(&POINTER, &0).copied().unwrap_or(0);
        let next = (at * 31 + self.step) % 100;
        tx.put(&POINTER, 0, next);
        let seen = (0..5).map(|i| {
            let key = (next + i * 7) % 100;
            if self.watched { tx.get(&WATCHED, &key).copied() } else { tx.get(&ROWS, &key).copied() }
        });
        Ok(seen.flatten().sum::<u64>() ^ next)
    }
}

#[test]
fn footprints_that_are_always_stale_are_learned() {
    for watched in [true, false] {
        let follow = |step| Follow { watched, step };
        let log = record(|engine| (0..6000).for_each(|i| drop(engine.submit(&follow(i * 5 % 89)).unwrap())));
        let expected = oracle(&log);
        for threads in [1, 2, 4] {
            let builder = builder().threads(threads).window(16).mode(Mode::Parallel);
            let (digest, stats) = replay(&log, builder);
            assert_eq!(digest, expected, "watched: {watched}, {threads} threads");
            assert!(
                stats.replays > 0 && stats.replays < stats.windows / 6,
                "watched: {watched}, {threads} threads: {stats:?}"
            );
        }
    }
}

/// Moves the pointer.
#[derive(Debug, Serialize, Deserialize)]
struct Move(u64);

impl Procedure for Move {
    const NAME: &'static str = "move";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&POINTER, &0);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&POINTER, 0, self.0);
        Ok(())
    }
}

/// Reads a row that the pointer tells, and seldom writes it.
#[derive(Debug, Serialize, Deserialize)]
struct Wander {
    writes: bool,
}

impl Procedure for Wander {
    const NAME: &'static str = "wander";
    type Output = u64;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let at = tx.get(&POINTER, &0).copied().unwrap_or(0);
        let seen = tx.get(&ROWS, &at).copied().unwrap_or(0);
        if self.writes {
            tx.put(&ROWS, at, seen + 1);
        }
        Ok(seen)
    }
}

/// Walks rows that nobody changes, and writes down what it saw.
#[derive(Debug, Serialize, Deserialize)]
struct Walk(u64);

impl Procedure for Walk {
    const NAME: &'static str = "walk";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        let sum = tx.range(&ORDERED, 0..100).map(|(key, value)| key ^ value).sum();
        tx.put(&WATCHED, self.0, sum);
        Ok(())
    }
}

/// Nobody knows what a wanderer will read; but it was never seen to write, so others, walks included, may be used as they
/// ran beside it. When it writes all the same that is a violation, and learned.
#[test]
fn what_runs_beside_somebody_who_reads_anything_is_used() {
    const WALKS: u64 = 3000;
    let builder = || builder().procedure::<Move>().procedure::<Wander>().procedure::<Walk>();
    for writes in [0, 1, 40] {
        let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
        let engine = builder().threads(1).mode(Mode::Sequential).open(Arc::clone(&log)).unwrap();
        for i in 0..WALKS {
            drop(engine.submit(&Walk(i)).unwrap());
            if i % 4 == 0 {
                drop(engine.submit(&Move(i * 13 % 1009)).unwrap());
                drop(engine.submit(&Wander { writes: i > WALKS / 2 && i / 4 % 50 < writes }).unwrap());
            }
        }
        engine.close().unwrap();
        let (expected, _) = replay(&log, builder().threads(1).mode(Mode::Sequential));
        for threads in [1, 2, 4, 8] {
            let builder = builder().threads(threads).window(64).mode(Mode::Parallel);
            let (digest, stats) = replay(&log, builder);
            assert_eq!(digest, expected, "{writes} writes, {threads} threads");
            assert!(stats.replays > 0 && stats.replays < stats.windows / 4, "{writes} writes: {stats:?}");
            let used = if writes == 0 { WALKS * 3 / 4 } else { WALKS / 4 };
            assert!(stats.adopted > used, "{writes} writes, {threads} threads: {stats:?}");
        }
    }
}

/// Declares some and has the rest found: both count.
#[derive(Debug, Serialize, Deserialize)]
struct Half(u64);

impl Procedure for Half {
    const NAME: &'static str = "half";
    type Output = u64;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&ROWS, &(self.0 % 50)).reconnoitre();
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let sum = (0..3).map(|i| tx.get(&WATCHED, &(self.0 + i)).copied().unwrap_or(1)).sum();
        tx.put(&ROWS, self.0 % 50, sum);
        tx.put(&WATCHED, self.0, sum);
        Ok(sum)
    }
}

#[test]
fn what_is_declared_besides_what_is_found_counts() {
    let builder = || builder().procedure::<Half>();
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = builder().threads(1).mode(Mode::Sequential).open(Arc::clone(&log)).unwrap();
    (0..2000).for_each(|i| drop(engine.submit(&Half(i * 11 % 500)).unwrap()));
    engine.close().unwrap();
    let (expected, _) = replay(&log, builder().threads(1).mode(Mode::Sequential));
    let (digest, stats) = replay(&log, builder().threads(4).window(128).mode(Mode::Parallel));
    assert_eq!(digest, expected);
    assert_eq!((stats.replays, stats.violations), (0, 0));
}

const NAMES: Table<String, u64> = Table::new("names");

/// Finds a row by its name, which tells what else is touched.
#[derive(Debug, Serialize, Deserialize)]
struct ByName {
    name: u64,
    /// Gives the name to another row, too.
    renames: bool,
}

impl ByName {
    fn name(&self) -> String {
        format!("name {}", self.name)
    }
}

impl Procedure for ByName {
    const NAME: &'static str = "by name";
    type Output = u64;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        if let Some(row) = f.get(&NAMES, &self.name()) {
            f.write(&ROWS, &row);
        } else {
            f.write(&ROWS, &self.name);
        }
        if self.renames {
            f.write(&NAMES, &self.name());
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let row = tx.get(&NAMES, &self.name()).copied().unwrap_or(self.name);
        let count = tx.get(&ROWS, &row).copied().unwrap_or(0) + 1;
        tx.put(&ROWS, row, count);
        if self.renames {
            tx.put(&NAMES, self.name(), row + 1000);
        }
        Ok(row * 7 + count)
    }
}

#[test]
fn footprints_that_look_at_rows_are_right_unless_these_change() {
    let builder = || builder().table(&NAMES).procedure::<ByName>();
    for every in [u64::MAX, 400, 3] {
        let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
        let engine = builder().threads(1).mode(Mode::Sequential).open(Arc::clone(&log)).unwrap();
        for i in 0..4000 {
            let call = ByName { name: i * 31 % 300, renames: i < 300 || i % every == 0 };
            drop(engine.submit(&call).unwrap());
        }
        engine.close().unwrap();
        let (expected, _) = replay(&log, builder().threads(1).mode(Mode::Sequential));
        for (threads, window) in [(1, 64), (2, 64), (4, 7), (2, 1024)] {
            let (digest, stats) =
                replay(&log, builder().threads(threads).window(window).mode(Mode::Parallel));
            assert_eq!(digest, expected, "{threads} threads, window {window}");
            let windows = 300 / u64::from(window) + 2;
            assert!(
                every < 4000 || stats.replays <= windows,
                "{threads} threads, window {window}: {stats:?}"
            );
        }
    }
}

const FRAGILE: Table<u64, Fragile> = Table::new("fragile");

/// A row that cannot be copied when it holds an unlucky number.
#[derive(Debug, Serialize, Deserialize)]
struct Fragile(u64);

impl Clone for Fragile {
    fn clone(&self) -> Self {
        assert_ne!(self.0, 13, "an unlucky row is copied");
        Self(self.0)
    }
}

/// Overwrites a row that it does not look at: it is copied for the first time when the change is made.
#[derive(Debug, Serialize, Deserialize)]
struct Overwrite {
    key: u64,
    value: u64,
}

impl Procedure for Overwrite {
    const NAME: &'static str = "overwrite";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&ROWS, self.key, self.value);
        tx.put(&FRAGILE, self.key, Fragile(self.value));
        Ok(())
    }
}

#[test]
fn a_row_that_panics_when_it_is_copied_panics_its_transaction_and_nothing_else() {
    let builder = || builder().table(&FRAGILE).procedure::<Overwrite>().infer(false);
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = builder().threads(1).mode(Mode::Sequential).open(Arc::clone(&log)).unwrap();
    expect_panics("an unlucky row is copied");
    for i in 0..2000 {
        drop(engine.submit(&Overwrite { key: i * 7 % 300, value: i % 200 }).unwrap());
    }
    engine.close().unwrap();
    let replay = |builder: Builder| {
        // Not from scratch: the rows cannot be copied.
        let replay = builder.replay(Arc::clone(&log)).unwrap();
        (replay.to_end().unwrap(), replay.stats())
    };
    let (expected, one_by_one) = replay(builder().threads(1).mode(Mode::Sequential));
    assert!(one_by_one.panics > 10, "{one_by_one:?}");
    for (threads, window) in [(1, 64), (2, 7), (4, 256)] {
        let (digest, stats) = replay(builder().threads(threads).window(window).mode(Mode::Parallel));
        assert_eq!(digest, expected, "{threads} threads, window {window}");
        assert_eq!(stats.panics, one_by_one.panics, "{threads} threads, window {window}");
        assert!(stats.adopted > 100, "{threads} threads, window {window}: {stats:?}");
    }
}

/// How often a [`Sweep`] was run.
static SWEEPS: AtomicU64 = AtomicU64::new(0);

/// Changes more rows than are looked for, and may catch whatever it is stopped by.
#[derive(Debug, Serialize, Deserialize)]
struct Sweep {
    from: u64,
    catches: bool,
}

impl Procedure for Sweep {
    const NAME: &'static str = "sweep";
    type Output = u64;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        SWEEPS.fetch_add(1, Ordering::Relaxed);
        let mut sum = 0;
        for key in self.from..self.from + 6000 {
            let mut change = || {
                let row = tx.get_or_put(&ROWS, key, || key);
                *row += 1;
                sum ^= *row;
            };
            if !self.catches {
                change();
            } else if catch_unwind(AssertUnwindSafe(change)).is_err() {
                sum += 1;
            }
        }
        Ok(sum)
    }
}

#[test]
fn what_touches_too_much_is_stopped_and_not_tried_again_soon() {
    const COUNT: u64 = 100;
    for catches in [false, true] {
        let builder = || builder().procedure::<Sweep>().infer(false);
        let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
        let engine = builder().threads(1).mode(Mode::Sequential).open(Arc::clone(&log)).unwrap();
        for i in 0..COUNT {
            (0..30).for_each(|j| drop(engine.submit(&Sum(i * 31 + j)).unwrap()));
            drop(engine.submit(&Sweep { from: i * 10, catches }).unwrap());
        }
        engine.close().unwrap();
        let (expected, _) = replay(&log, builder().threads(1).mode(Mode::Sequential));
        for (threads, window, lanes) in [(1, 64, 8), (2, 64, 8), (2, 64, 1), (2, 7, 8)] {
            let before = SWEEPS.load(Ordering::Relaxed);
            let parallel = builder().threads(threads).window(window).mode(Mode::Parallel).lanes(lanes);
            let (digest, stats) = replay(&log, parallel);
            assert_eq!(digest, expected, "{threads} threads, window {window}, {lanes} lanes");
            assert!(stats.adopted > 0, "{threads} threads, window {window}, {lanes} lanes: {stats:?}");
            assert_eq!(stats.replays, 0, "{threads} threads, window {window}, {lanes} lanes: {stats:?}");
            // Each runs once, and few were run ahead.
            let ahead = SWEEPS.load(Ordering::Relaxed) - before - COUNT;
            assert!(
                (1..COUNT / 3).contains(&ahead),
                "{ahead}: {threads} threads, window {window}, {lanes} lanes"
            );
        }
    }
}
