//! Snapshots taken while transactions run: each must show exactly the state after its position, as a replay one by
//! one finds it, through every way to look, and for as long as it is held.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mixlog_engine::{
    Builder, Engine, Footprint, Index, Mode, Position, Procedure, Snapshot, SnapshotError, Sum, Table, Tx,
};
use mixlog_log::{MemoryLog, SharedLog};
use serde::{Deserialize, Serialize};

/// Rows own memory, so that a reader who comes too late or too early meets more than a wrong number.
const TEXTS: Table<String, Vec<u64>> = Table::new("texts");
const QUEUES: Table<(u8, u64), String> = Table::new("queues").grouped("queue", queue).ordered();

/// Merged into, and added to with a floor.
const COUNTS: Table<u64, Sum> = Table::new("counts");
const STOCK: Table<u64, Sum> = Table::new("stock");
const PLACES: Table<u64, u64> = Table::new("places").ordered();
const BY_VISITORS: Index<u64, u64, u64> =
    Index::new("places.by_visitors", PLACES, |_, visitors| (visitors % 5 > 0).then_some(*visitors));

const KEYS: u64 = 40;
const GROUPS: u8 = 3;

fn queue(key: &(u8, u64)) -> u64 {
    u64::from(key.0)
}

fn text(n: u64) -> String {
    format!("a key that is too long to be stored inline {n}")
}

/// Steps are drawn from the seed. Some leave the footprint, some abort or panic half-way.
#[derive(Serialize, Deserialize)]
struct Steps {
    seed: u64,
    /// How many there are to choose from: with one, nothing can run in parallel.
    keys: u64,
}

impl Steps {
    fn list(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut random = Random(self.seed);
        (0..1 + self.seed % 6).map(move |_| (random.next() % 16, random.next()))
    }

    /// The counter of the step with this number: each of a call has another one.
    fn counter(&self, step: usize, n: u64) -> u64 {
        n % self.keys.min(3) * 8 + step as u64
    }

    fn groups(&self) -> u64 {
        u64::from(GROUPS).min(self.keys)
    }
}

impl Procedure for Steps {
    const NAME: &'static str = "steps";
    type Output = u64;
    type Abort = u64;

    fn footprint(&self, f: &mut Footprint<'_>) {
        let forget = usize::from(self.seed.is_multiple_of(397));
        for (step, (what, n)) in self.list().enumerate().skip(forget) {
            let (counter, place) = (self.counter(step, n), n % self.keys);
            match what {
                0..6 => f.write(&TEXTS, &text(n % self.keys)),
                10 => f.merge(&COUNTS, &counter),
                11 => f.add_bounded(&STOCK, &counter, n as i64 % 7 - 3, 0),
                12 => f.read(&COUNTS, &counter).read(&STOCK, &counter),
                13 | 14 => f.write(&PLACES, &place),
                15 => f.range(&PLACES, place..place + 9).range_by(&BY_VISITORS, ..n % 50),
                _ => f.write_granule(&QUEUES, n % self.groups()),
            };
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, u64> {
        let mut seen = 0u64;
        for (step, (what, n)) in self.list().enumerate() {
            let (counter, place) = (self.counter(step, n), n % self.keys);
            let (key, group) = (text(n % self.keys), (n % self.groups()) as u8);
            match what {
                0..3 => tx.put(&TEXTS, key, vec![n; (n % 9) as usize]),
                3 => {
                    if let Some(list) = tx.get_mut(&TEXTS, &key) {
                        list.push(n);
                        seen += list.len() as u64;
                    }
                }
                4 | 5 => seen += u64::from(tx.delete(&TEXTS, &key)),
                6 | 7 => tx.put(&QUEUES, (group, n / 8 % KEYS), text(n)),
                8 => {
                    let last = tx.last(&QUEUES, (group, 0)..=(group, n / 8 % KEYS)).map(|(key, _)| key);
                    seen += last.map_or(0, |key| u64::from(tx.delete(&QUEUES, &key)));
                }
                9 => seen += tx.range(&QUEUES, (group, 5)..).rev().map(|(key, _)| key.1).sum::<u64>(),
                10 => _ = tx.merge(&COUNTS, counter, n as i64 % 9),
                11 => seen += u64::from(tx.add_bounded(&STOCK, counter, n as i64 % 7 - 3, 0)),
                12 => {
                    let [count, stock] = [tx.get(&COUNTS, &counter), tx.get(&STOCK, &counter)]
                        .map(|row| row.map_or(0, |row| row.0 as u64));
                    seen = seen.wrapping_add(count).wrapping_add(stock);
                }
                13 => tx.put(&PLACES, place, n % 50),
                14 => seen += u64::from(tx.delete(&PLACES, &place)),
                _ => {
                    seen += tx.range(&PLACES, place..place + 9).map(|(_, visitors)| visitors).sum::<u64>();
                    seen += tx.range_by(&BY_VISITORS, ..n % 50).map(|(_, place)| place).sum::<u64>();
                }
            }
            match n % 101 {
                0..4 => return Err(seen),
                4 => panic!("expected"),
                _ => {}
            }
        }
        Ok(seen)
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn builder() -> Builder {
    let builder = Engine::builder().table(&TEXTS).table(&QUEUES).table(&COUNTS).table(&STOCK);
    builder.table(&PLACES).index(&BY_VISITORS).procedure::<Steps>()
}

/// Looks at the snapshot in every way there is; all must agree. Returns the digest from scratch.
fn look(snapshot: &Snapshot) -> u128 {
    let mut texts = BTreeMap::new();
    snapshot.for_each(&TEXTS, |key, value| assert_eq!(texts.insert(key.clone(), value.clone()), None));
    for key in (0..KEYS).map(text) {
        assert_eq!(snapshot.get(&TEXTS, &key), texts.get(&key).cloned(), "{snapshot:?} {key}");
    }
    let mut queues = BTreeMap::new();
    snapshot.for_each(&QUEUES, |key, value| assert_eq!(queues.insert(*key, value.clone()), None));
    for group in 0..GROUPS {
        let all = (group, 0)..=(group, u64::MAX);
        let found: Vec<_> = queues.range(all.clone()).map(|(key, value)| (*key, value.clone())).collect();
        assert_eq!(snapshot.range(&QUEUES, all.clone()).collect::<Vec<_>>(), found, "{snapshot:?}");
        assert_eq!(snapshot.first(&QUEUES, all.clone()).as_ref(), found.first());
        assert_eq!(snapshot.last(&QUEUES, all).as_ref(), found.last());
        let mut from_both_ends = snapshot.range(&QUEUES, (group, 0)..);
        let (first, last) = (from_both_ends.next(), from_both_ends.next_back());
        assert_eq!((first.as_ref(), last.as_ref()), (found.first(), found.get(1..).and_then(<[_]>::last)));
        assert!(from_both_ends.rev().eq(found.iter().rev().skip(1).take(found.len().max(2) - 2).cloned()));
        assert!(found.iter().all(|(key, value)| snapshot.get(&QUEUES, key).as_ref() == Some(value)));
    }
    for table in [&COUNTS, &STOCK] {
        let mut counters = BTreeMap::new();
        snapshot.for_each(table, |key, value| assert_eq!(counters.insert(*key, *value), None));
        for key in 0..3 * 8 {
            assert_eq!(snapshot.get(table, &key), counters.get(&key).copied(), "{snapshot:?} {key}");
        }
        assert!(table.name() != STOCK.name() || counters.values().all(|stock| stock.0 >= 0));
    }
    let mut places = BTreeMap::new();
    snapshot.for_each(&PLACES, |key, value| assert_eq!(places.insert(*key, *value), None));
    let found: Vec<_> = places.iter().map(|(key, value)| (*key, *value)).collect();
    assert_eq!(snapshot.range(&PLACES, ..).collect::<Vec<_>>(), found, "{snapshot:?}");
    for key in 0..KEYS {
        assert_eq!(snapshot.get(&PLACES, &key), places.get(&key).copied(), "{snapshot:?} {key}");
    }
    let mut by_visitors: Vec<_> = found.iter().map(|(place, visitors)| (*visitors, *place)).collect();
    by_visitors.retain(|(visitors, _)| visitors % 5 > 0);
    by_visitors.sort_unstable();
    assert_eq!(snapshot.range_by(&BY_VISITORS, ..).collect::<Vec<_>>(), by_visitors, "{snapshot:?}");
    snapshot.state_digest()
}

type Digests = BTreeMap<Option<Position>, u128>;

fn note(digests: &mut Digests, snapshot: &Snapshot) {
    let digest = look(snapshot);
    assert_eq!(*digests.entry(snapshot.position()).or_insert(digest), digest, "{snapshot:?}");
}

/// Looks at earlier positions, those that are retained and those of other readers' snapshots, until told to stop.
fn read_back(engine: &Engine, stop: &AtomicBool) -> Digests {
    let (mut digests, mut random) = (BTreeMap::new(), Random(7));
    while !stop.load(Ordering::Relaxed) {
        let retained = engine.retained();
        assert!(retained.is_sorted_by(|a, b| a < b));
        // Before the first window there is none; the oldest may be gone already.
        let Some(&oldest) = retained.first() else { continue };
        let position = match random.next() % 3 {
            0 => oldest,
            _ => retained[random.next() as usize % retained.len()],
        };
        match engine.snapshot_at(position) {
            Ok(snapshot) => {
                assert_eq!(snapshot.position(), Some(position));
                let again = snapshot.clone();
                drop(snapshot);
                note(&mut digests, &again);
            }
            Err(
                SnapshotError::NoLongerRetained { oldest, .. }
                | SnapshotError::BetweenRetained { after: oldest, .. },
            ) => assert!(oldest > position),
            Err(error) => panic!("{error}"),
        }
    }
    digests
}

/// Looks at snapshots, new ones and ones held for a while, until told to stop.
fn read(engine: &Engine, stop: &AtomicBool, held_at_most: usize) -> Digests {
    let (mut digests, mut held) = (BTreeMap::new(), VecDeque::new());
    while !stop.load(Ordering::Relaxed) {
        held.push_back(engine.snapshot());
        if held.len() > held_at_most {
            held.pop_front();
        }
        for snapshot in held.front().into_iter().chain(held.back()) {
            note(&mut digests, snapshot);
        }
    }
    digests
}

fn check(threads: usize, window: u32, mode: Mode, retain: u64, transactions: u64) {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<&str>() != Some(&"expected") {
            default(info);
        }
    }));
    let log = Arc::new(MemoryLog::new());
    let log_again: Arc<dyn SharedLog> = Arc::<MemoryLog>::clone(&log);
    let builder_of_engine = builder().threads(threads).window(window).mode(mode).retain(retain);
    let engine = builder_of_engine.max_in_flight(600).open(log).unwrap();
    let stop = AtomicBool::new(false);
    let digests: Vec<_> = std::thread::scope(|scope| {
        let back = scope.spawn(|| read_back(&engine, &stop));
        let readers = [0, 3, 40].map(|held| {
            scope.spawn({
                let (engine, stop) = (&engine, &stop);
                move || read(engine, stop, held)
            })
        });
        let mut random = Random(u64::from(window) * 31 + threads as u64);
        for i in 0..transactions {
            // Stretches without conflicts to speak of, with nothing but conflicts, and of small windows.
            let keys = if i / 500 % 3 == 1 { 1 } else { KEYS };
            let ticket = engine.submit(&Steps { seed: random.next() >> 8, keys }).unwrap();
            if i / 500 % 3 == 2 && i % 20 == 0 {
                let _ = ticket.wait().unwrap();
            }
        }
        while engine.in_flight() > 0 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        readers
            .into_iter()
            .chain([back])
            .flat_map(|reader| reader.join().expect("a reader's checks hold"))
            .collect()
    });
    let stats = engine.stats();
    assert!(stats.aborts > 0 && stats.panics > 0);
    assert!(if mode == Mode::Parallel && threads > 1 {
        stats.replays > 0
    } else {
        stats.sequential_windows > 0
    });
    let last = engine.digest();
    engine.close().unwrap();
    let replay = builder().threads(1).mode(Mode::Sequential).replay(log_again).unwrap();
    let mut digests = digests;
    digests.sort_unstable();
    for (position, digest) in digests {
        let expected = position.map_or(0, |position| replay.to(position).unwrap().state);
        assert_eq!(digest, expected, "{threads} threads, window {window}, {mode}, snapshot at {position:?}");
    }
    assert_eq!(replay.to_end().unwrap(), last);
}

/// Raise it to look longer.
fn transactions() -> u64 {
    std::env::var("MIXLOG_SNAPSHOT_TRANSACTIONS").map_or(2_000, |n| n.parse().expect("a number"))
}

#[test]
fn snapshots_while_windows_run_in_parallel_show_the_state_after_their_position() {
    for (threads, window) in [(2, 5), (2, 33), (4, 17), (4, 256)] {
        check(threads, window, Mode::Parallel, 0, transactions());
    }
}

#[test]
fn snapshots_while_the_mode_changes_show_the_state_after_their_position() {
    for (threads, window) in [(2, 64), (4, 80)] {
        check(threads, window, Mode::Auto, 0, transactions());
    }
}

#[test]
fn snapshots_at_earlier_positions_show_the_state_after_them() {
    for (threads, window, mode, retain) in [
        (1, 16, Mode::Auto, 100),
        (2, 7, Mode::Parallel, 1000),
        (4, 64, Mode::Parallel, 300),
        (8, 32, Mode::Parallel, 300),
        (4, 80, Mode::Auto, 200),
    ] {
        check(threads, window, mode, retain, transactions());
    }
}

const NUMBERS: Table<u64, u64> = Table::new("numbers");

/// Adds to a row.
#[derive(Serialize, Deserialize)]
struct Add(u64);

impl Procedure for Add {
    const NAME: &'static str = "add";
    type Output = u64;
    type Abort = ();

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&NUMBERS, &self.0);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, ()> {
        let sum = tx.get(&NUMBERS, &self.0).unwrap_or(&0) + 1;
        tx.put(&NUMBERS, self.0, sum);
        Ok(sum)
    }
}

fn numbers() -> Builder {
    Engine::builder().table(&NUMBERS).procedure::<Add>()
}

/// Submits, and waits until all is committed and its windows have ended.
fn add(engine: &Engine, keys: impl Iterator<Item = u64>) {
    keys.for_each(|key| drop(engine.submit(&Add(key)).unwrap()));
    while engine.in_flight() > 0 {
        std::thread::yield_now();
    }
}

/// A chunk of undo space, and how many of them a table and worker may have that are hardly used.
const CHUNKS: u64 = 6 * (64 << 10);

#[test]
fn memory_with_a_snapshot_held_over_many_windows_is_proportional_to_the_versions_retained() {
    const WINDOWS: u64 = 10_000;
    for (threads, mode) in [(1, Mode::Auto), (2, Mode::Parallel), (4, Mode::Parallel)] {
        let engine =
            numbers().threads(threads).window(1).mode(mode).open(Arc::new(MemoryLog::new())).unwrap();
        add(&engine, 0..8);
        let before = engine.memory();
        assert_eq!((before.rows, before.versions, before.snapshots), (8, 0, 0), "{before:?}");
        let snapshot = engine.snapshot();
        add(&engine, (0..WINDOWS).map(|i| i % 4));
        let held = engine.memory();
        assert_eq!((held.rows, held.versions, held.snapshots), (8, WINDOWS, 1), "{held:?}");
        assert_eq!(held.oldest_snapshot, snapshot.position());
        assert!(held.versions_bytes <= WINDOWS * 64, "{held:?}");
        let most = 2 * held.versions_bytes + CHUNKS * threads as u64;
        assert!(held.undo_bytes <= most, "more than {most}: {held:?}");
        // All the way through the chains.
        assert!((0..8).all(|key| snapshot.get(&NUMBERS, &key) == Some(1)));
        drop(snapshot);
        add(&engine, (0..200).map(|i| i % 8));
        let after = engine.memory();
        assert_eq!((after.rows, after.versions, after.versions_bytes), (8, 0, 0), "{after:?}");
        assert_eq!((after.snapshots, after.oldest_snapshot), (0, None));
        assert!(after.undo_bytes <= CHUNKS * threads as u64, "{after:?}");
        assert_eq!((after.rows_bytes, after.indexes_bytes), (before.rows_bytes, before.indexes_bytes));
        assert_eq!((after.tables[0].name, after.tables[0].rows), ("numbers", 8));
    }
}

const GROUPS_OF_ONE: Table<(u64, u64), u64> =
    Table::new("groups of one").grouped("groups of one", |key: &(u64, u64)| key.0).ordered();
const ONE_GROUP: Table<(u64, u64), u64> =
    Table::new("one group").grouped("one group", |_: &(u64, u64)| 0).ordered();

#[test]
fn memory_counts_what_each_granule_takes_and_numbers_that_are_free() {
    const ROWS: u64 = 4000;
    let engine = numbers().table(&GROUPS_OF_ONE).table(&ONE_GROUP).threads(1);
    let engine = engine.open(Arc::new(MemoryLog::new())).unwrap();
    let memory = || {
        // So that windows end in which rows of before can go.
        (0..10).for_each(|n| add(&engine, n..n + 1));
        let tables = engine.memory().tables;
        let of = |name| tables.iter().find(|table| table.name == name).unwrap().clone();
        (of("groups of one"), of("one group"))
    };
    let mut transaction = engine.begin();
    for n in 0..ROWS {
        transaction.put(&GROUPS_OF_ONE, (n, 0), n);
        transaction.put(&ONE_GROUP, (n, 0), n);
    }
    transaction.commit().unwrap();
    let (groups, one) = memory();
    assert_eq!((groups.rows, one.rows), (ROWS, ROWS));
    // A tree with a node, and a place in the directory.
    assert!(groups.indexes_bytes > one.indexes_bytes + 250 * ROWS, "{groups:?}, {one:?}");
    let snapshot = engine.snapshot();
    let mut transaction = engine.begin();
    for n in 0..ROWS {
        transaction.delete(&GROUPS_OF_ONE, &(n, 0));
        transaction.delete(&ONE_GROUP, &(n, 0));
    }
    transaction.commit().unwrap();
    let (buried, one_buried) = memory();
    assert!(buried.indexes_bytes > groups.indexes_bytes + 1000 * ROWS, "{buried:?}");
    assert!(one_buried.indexes_bytes < one.indexes_bytes + 200 * ROWS, "{one_buried:?}");
    drop(snapshot);
    let (free, one_free) = memory();
    assert!(free.rows_bytes > groups.rows_bytes + 8 * ROWS, "{free:?}");
    assert!(one_free.rows_bytes > one.rows_bytes + 8 * ROWS, "{one_free:?}");
    // What was made once stays.
    assert!(free.indexes_bytes > groups.indexes_bytes + 1000 * ROWS, "{free:?}");
    assert!(one_free.indexes_bytes < one.indexes_bytes, "{one_free:?}");
    engine.close().unwrap();
}

#[test]
fn memory_with_snapshots_that_always_overlap_is_that_of_the_newest_windows() {
    let log = Arc::new(MemoryLog::new());
    let log_again: Arc<dyn SharedLog> = Arc::<MemoryLog>::clone(&log);
    let engine = numbers().threads(2).window(64).mode(Mode::Parallel).open(log).unwrap();
    let mut snapshot = engine.snapshot();
    for round in 0..200u64 {
        // Every row once: the index grows.
        add(&engine, round * 500..(round + 1) * 500);
        let next = engine.snapshot();
        assert_eq!(next.get(&NUMBERS, &(round * 500)), Some(1));
        assert_eq!(snapshot.get(&NUMBERS, &(round * 500)), None);
        snapshot = next;
        let memory = engine.memory();
        assert!(memory.versions <= 1000, "{memory:?}");
        assert!(memory.undo_bytes <= 2 * memory.versions_bytes + 2 * CHUNKS, "{memory:?}");
    }
    add(&engine, 0..100);
    let memory = engine.memory();
    drop(snapshot);
    engine.close().unwrap();
    // One that never had a snapshot has no copy of an index but the newest; both grow at the same number of rows.
    let replay = numbers().threads(2).window(64).mode(Mode::Parallel).replay(log_again).unwrap();
    replay.to_end().unwrap();
    assert_eq!(memory.indexes_bytes, replay.memory().indexes_bytes);
    assert_eq!((memory.rows, replay.memory().rows), (100_000, 100_000));
}

#[test]
fn memory_after_rows_come_and_go_counts_those_that_are_there() {
    let engine = builder().threads(4).window(32).mode(Mode::Parallel);
    let engine = engine.open(Arc::new(MemoryLog::new())).unwrap();
    let mut random = Random(3);
    for _ in 0..2000 {
        // Without those that panic or leave their footprint: the hook stays as it is.
        let steps = Steps { seed: random.next() >> 8, keys: KEYS };
        let mut list = steps.list();
        if !steps.seed.is_multiple_of(397) && list.all(|(_, n)| n % 101 != 4) {
            drop(engine.submit(&steps).unwrap());
        }
    }
    while engine.in_flight() > 0 {
        std::thread::yield_now();
    }
    let (snapshot, memory) = (engine.snapshot(), engine.memory());
    let rows: Vec<_> = memory.tables.iter().map(|table| table.rows as usize).collect();
    let (counts, places) = (snapshot.len(&COUNTS), snapshot.len(&PLACES));
    let indexed = snapshot.range_by(&BY_VISITORS, ..).count();
    // The last one is the table of clients' answers, of whom there is none.
    let expected =
        [snapshot.len(&TEXTS), snapshot.len(&QUEUES), counts, snapshot.len(&STOCK), places, indexed, 0];
    assert_eq!(rows, expected);
    assert_eq!(memory.rows as usize, rows.iter().sum::<usize>());
}

#[test]
fn snapshot_at_where_nothing_is_retained_tells_what_is() {
    let engine = numbers().threads(1).window(1).retain(3).open(Arc::new(MemoryLog::new())).unwrap();
    let at = |position| engine.snapshot_at(Position(position));
    // The engine's catalog has position 0.
    add(&engine, 0..9);
    assert_eq!(engine.retained(), [6, 7, 8, 9].map(Position));
    let (position, committed) = (Position(10), Some(Position(9)));
    assert_eq!(at(10).unwrap_err(), SnapshotError::NotCommitted { position, committed });
    let position = Position::MAX;
    assert_eq!(at(u64::MAX).unwrap_err(), SnapshotError::NotCommitted { position, committed });
    let (position, oldest) = (Position(5), Position(6));
    assert_eq!(at(5).unwrap_err(), SnapshotError::NoLongerRetained { position, oldest });
    let old = at(6).unwrap();
    let clone = old.clone();
    drop(old);
    add(&engine, 9..20);
    assert_eq!(engine.retained(), [6, 17, 18, 19, 20].map(Position));
    let error = at(10).unwrap_err();
    let (position, before, after) = (Position(10), Some(Position(6)), Position(17));
    assert_eq!(error, SnapshotError::BetweenRetained { position, before, after });
    assert!(error.to_string().contains("after 17") && error.to_string().contains("after 6"), "{error}");
    let again = at(6).unwrap();
    drop(clone);
    assert_eq!((again.len(&NUMBERS), at(17).unwrap().len(&NUMBERS)), (6, 17));
    drop(again);
    assert!(matches!(at(6), Err(SnapshotError::NoLongerRetained { .. })));
}

static COPIES: AtomicU64 = AtomicU64::new(0);

/// A row that counts how often one is copied.
#[derive(Serialize, Deserialize)]
struct Counted(u64);

impl Clone for Counted {
    fn clone(&self) -> Self {
        COPIES.fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

const COUNTED: Table<u64, Counted> = Table::new("counted");

/// Puts a row, or deletes it.
#[derive(Serialize, Deserialize)]
struct Keep(u64, bool);

impl Procedure for Keep {
    const NAME: &'static str = "keep";
    type Output = ();
    type Abort = ();

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&COUNTED, &self.0);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), ()> {
        if self.1 {
            tx.put(&COUNTED, self.0, Counted(self.0));
        } else {
            tx.delete(&COUNTED, &self.0);
        }
        Ok(())
    }
}

#[test]
fn is_empty_finds_a_row_of_the_past_and_copies_none() {
    let builder = Engine::builder().table(&COUNTED).procedure::<Keep>();
    let engine = builder.open(Arc::new(MemoryLog::new())).expect("a new log");
    let all = |keep| {
        let tickets: Vec<_> = (0..1000).map(|key| engine.submit(&Keep(key, keep)).unwrap()).collect();
        tickets.into_iter().for_each(|ticket| assert!(ticket.wait().unwrap().committed().is_some()));
        engine.snapshot()
    };
    let before = engine.snapshot();
    let (full, emptied) = (all(true), all(false));
    let copies = COPIES.load(Ordering::Relaxed);
    let are_empty = [&before, &full, &emptied].map(|snapshot| snapshot.is_empty(&COUNTED));
    assert_eq!(COPIES.load(Ordering::Relaxed), copies, "rows were copied");
    assert_eq!(are_empty, [true, false, true]);
    assert_eq!([&before, &full, &emptied].map(|snapshot| snapshot.len(&COUNTED)), [0, 1000, 0]);
}
