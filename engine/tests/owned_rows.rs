//! Keys and rows that own memory, in all kinds of tables, changed in every way that a transaction has, while others look at
//! them: what anybody sees of a row is whole, and each one that was made is dropped once. Under the address sanitizer
//! this shows, too, that nobody looks at one that was dropped. `MIXLOG_SEEDS=N` runs N times as many seeds.
#![cfg(not(loom))]

#[path = "support/random.rs"]
mod random;
#[path = "support/replay.rs"]
mod replay;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;

use mixlog_engine::{
    Appended, Builder, Engine, Footprint, Index, Mode, Procedure, Snapshot, Stats, Table, Tx,
};
use mixlog_log::{MemoryLog, SharedLog};
use random::random;
use replay::{expect_panics, replay};
use serde::{Deserialize, Serialize};

/// Longer than what `String` or anybody else could keep in place.
type Name = String;

const HASHED: Table<Name, Row> = Table::new("hashed");
const ORDERED: Table<Name, Row> = Table::new("ordered").ordered();
const WATCHED: Table<Name, Row> = Table::new("watched").watched(granule);
const GROUPED: Table<Name, Row> = Table::new("grouped").ordered().grouped("group", granule);
const TABLES: [&Table<Name, Row>; 4] = [&HASHED, &ORDERED, &WATCHED, &GROUPED];
const BY_SIZE: Index<Name, Row, u64> = Index::new("hashed.by_size", HASHED, |_, row| Some(row.size() % 5));
const NOTES: Table<Name, Appended<Name>> = Table::new("notes");

const NAMES: u64 = 120;

fn name(number: u64) -> Name {
    format!("{:02} is a name that is on the heap, of number {number}", number % 7)
}

fn granule(name: &Name) -> u64 {
    name[..2].parse().expect("names begin with their granule")
}

/// How many rows there are in this process, copies included.
static ALIVE: AtomicI64 = AtomicI64::new(0);

#[derive(Debug)]
struct Alive(());

impl Default for Alive {
    fn default() -> Self {
        ALIVE.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Clone for Alive {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// As many words as each of them says, and the row's own key.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    of: Name,
    words: Vec<u64>,
    #[serde(skip)]
    alive: Alive,
}

impl Clone for Row {
    fn clone(&self) -> Self {
        Self { of: self.of.clone(), words: self.words.clone(), alive: self.alive.clone() }
    }

    /// Into the memory that is there.
    fn clone_from(&mut self, other: &Self) {
        self.of.clone_from(&other.of);
        self.words.clone_from(&other.words);
    }
}

impl Row {
    fn new(of: &Name, size: u64) -> Self {
        Self { of: of.clone(), words: vec![size; size as usize], alive: Alive::default() }
    }

    /// Compares all that it is with all that it should be.
    fn size(&self) -> u64 {
        let size = self.words.len() as u64;
        assert!(size > 0 && self.words.iter().all(|&word| word == size), "a torn row of {:?}", self.of);
        size
    }

    fn size_of(&self, key: &Name) -> u64 {
        assert_eq!(self.of, *key, "a row of another key");
        self.size()
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Says {
    All,
    Nothing,
    Anything,
}

/// Does this and that to some rows, all of it drawn from a seed.
#[derive(Debug, Serialize, Deserialize)]
struct Change {
    seed: u64,
    says: Says,
}

#[derive(Clone, Copy)]
enum Step {
    Get,
    Put(u64),
    Grow,
    Delete,
    DeleteAndPut(u64),
    Walk,
    Note,
}

impl Change {
    fn steps(&self) -> impl Iterator<Item = (&'static Table<Name, Row>, Name, Step)> {
        let mut state = self.seed;
        (0..1 + self.seed % 4).map(move |_| {
            let table = TABLES[(random(&mut state) % 4) as usize];
            // Some are hot.
            let names = if random(&mut state).is_multiple_of(3) { 6 } else { NAMES };
            let (name, size) = (name(random(&mut state) % names), 1 + random(&mut state) % 60);
            let step = match random(&mut state) % 9 {
                0 | 1 => Step::Get,
                2 | 3 => Step::Put(size),
                4 => Step::Grow,
                5 => Step::Delete,
                6 => Step::DeleteAndPut(size),
                7 => Step::Walk,
                _ => Step::Note,
            };
            (table, name, step)
        })
    }

    /// Where a walk ends that starts at a name.
    fn until(name: &Name) -> Name {
        format!("{}~", &name[..name.len() - 1])
    }

    /// Declares the first so many steps.
    fn declare(&self, f: &mut Footprint<'_>, steps: usize) {
        for (table, name, step) in self.steps().take(steps) {
            match step {
                Step::Get => f.read(table, &name),
                Step::Walk => f.range(&ORDERED, name.clone()..Self::until(&name)),
                Step::Note => f.merge(&NOTES, &name),
                Step::Put(_) | Step::Grow | Step::Delete | Step::DeleteAndPut(_) => {
                    for size in 0..if table.name() == HASHED.name() { 5 } else { 0 } {
                        f.write_by(&BY_SIZE, size, name.clone());
                    }
                    f.write(table, &name)
                }
            };
        }
    }
}

impl Procedure for Change {
    const NAME: &'static str = "change";
    type Output = u64;
    type Abort = u64;

    fn footprint(&self, f: &mut Footprint<'_>) {
        match self.says {
            Says::All => self.declare(f, usize::MAX),
            Says::Nothing => _ = f.reconnoitre(),
            Says::Anything => _ = f.unknown(),
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, u64> {
        let mut sum = 0u64;
        for (table, name, step) in self.steps() {
            match step {
                Step::Get => sum += tx.get(table, &name).map_or(0, |row| row.size_of(&name)),
                Step::Put(size) => tx.put(table, name.clone(), Row::new(&name, size)),
                Step::Grow => {
                    if let Some(row) = tx.get_mut(table, &name) {
                        let size = 1 + row.size_of(&name) % 90;
                        row.words.clear();
                        row.words.resize(size as usize, size);
                    }
                }
                Step::Delete => sum += u64::from(tx.delete(table, &name)),
                Step::DeleteAndPut(size) => {
                    tx.delete(table, &name);
                    tx.put(table, name.clone(), Row::new(&name, size));
                }
                Step::Walk => {
                    let rows = tx.range(&ORDERED, name.clone()..Self::until(&name));
                    sum += rows.map(|(key, row)| row.size_of(&key)).sum::<u64>();
                }
                Step::Note => sum += u64::from(tx.merge(&NOTES, name.clone(), name)),
            }
        }
        match self.seed % 16 {
            0 => Err(sum),
            1 => panic!("an unlucky change"),
            _ => Ok(sum),
        }
    }
}

/// The same, and does not say what it does last.
#[derive(Debug, Serialize, Deserialize)]
struct Wrong(Change);

impl Procedure for Wrong {
    const NAME: &'static str = "wrong";
    type Output = u64;
    type Abort = u64;

    fn footprint(&self, f: &mut Footprint<'_>) {
        self.0.declare(f, self.0.steps().count() - 1);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, u64> {
        self.0.run(tx)
    }
}

fn builder() -> Builder {
    let builder = TABLES.iter().fold(Engine::builder(), |builder, table| builder.table(table));
    builder.table(&NOTES).index(&BY_SIZE).procedure::<Change>().procedure::<Wrong>()
}

/// Looks at everything in every way, and returns what it adds up to.
fn look(snapshot: &Snapshot) -> u64 {
    let sum = Cell::new(0u64);
    let add = |key: &Name, row: &Row| sum.set(sum.get().wrapping_mul(31) + row.size_of(key));
    for table in TABLES {
        for number in 0..NAMES {
            let name = name(number);
            if let Some(row) = snapshot.get(table, &name) {
                add(&name, &row);
            }
        }
    }
    let mut rows = 0;
    snapshot.for_each(&HASHED, |key, row| rows += row.size_of(key));
    let by_size = (0..5).flat_map(|size| snapshot.range_by(&BY_SIZE, size..=size));
    let found = by_size.map(|(_, key)| snapshot.get(&HASHED, &key).expect("the index knows it").size());
    assert_eq!(found.sum::<u64>(), rows);
    snapshot.range::<_, _, _, std::ops::RangeFull>(&ORDERED, ..).rev().for_each(|(key, row)| add(&key, &row));
    for group in 0..7 {
        let (from, to) = (format!("{group:02}"), format!("{group:02}~"));
        snapshot.range(&GROUPED, from..to).for_each(|(key, row)| add(&key, &row));
    }
    snapshot.for_each(&NOTES, |key, notes| assert!(notes.iter().all(|note| note == key)));
    sum.get()
}

fn run(seed: u64) -> Stats {
    let mut state = seed;
    let mut draw = |choices: &[u32]| choices[random(&mut state) as usize % choices.len()];
    let (threads, window) = (draw(&[1, 2, 4]) as usize, draw(&[7, 32, 128]));
    let (lanes, retain) = (draw(&[1, 8]) as usize, u64::from(draw(&[0, 40])));
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let builder_here = builder().threads(threads).window(window).mode(Mode::Parallel).lanes(lanes);
    let engine = builder_here.retain(retain).open(Arc::clone(&log)).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // One holds a snapshot for long, one looks and goes.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let snapshot = engine.snapshot();
                let first = look(&snapshot);
                (0..4).for_each(|_| assert_eq!(look(&snapshot), first, "seed {seed}: the past changed"));
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                look(&engine.snapshot());
                if let Some(&position) = engine.retained().first()
                    && let Ok(snapshot) = engine.snapshot_at(position)
                {
                    look(&snapshot);
                }
            }
        });
        scope.spawn(|| {
            let mut state = seed;
            while !done.load(Ordering::Relaxed) {
                let mut transaction = engine.begin();
                let name = name(random(&mut state) % NAMES);
                let size = transaction.get(&HASHED, &name).map_or(1, |row| 1 + row.size_of(&name) % 50);
                transaction.put(&HASHED, name.clone(), Row::new(&name, size));
                if let Some(row) = transaction.get_mut(&ORDERED, &name) {
                    *row = Row::new(&name, 1 + row.size_of(&name) % 50);
                }
                let rows = transaction.range(&ORDERED, name.clone()..).take(5);
                rows.for_each(|(key, row)| _ = row.size_of(&key));
                // That it conflicts is fine.
                let _ = transaction.commit();
            }
        });
        // Now and then all wait, and the others come by.
        for _ in 0..10 {
            let tickets: Vec<_> = (0..250)
                .map(|_| {
                    let says = match random(&mut state) % 40 {
                        0 => Says::Anything,
                        1..=20 => Says::Nothing,
                        _ => Says::All,
                    };
                    engine.submit(&Change { seed: random(&mut state), says }).unwrap()
                })
                .collect();
            let wrong = Wrong(Change { seed: random(&mut state), says: Says::All });
            engine.submit(&wrong).unwrap().wait().unwrap();
            tickets.into_iter().for_each(|ticket| _ = ticket.wait().unwrap());
        }
        done.store(true, Ordering::Relaxed);
    });
    let (digest, sum) = (engine.digest(), look(&engine.snapshot()));
    let stats = engine.stats();
    engine.close().unwrap();
    let (expected, _) = replay(&log, builder().threads(1).mode(Mode::Sequential));
    assert_eq!(digest.state, expected.state, "seed {seed}");
    assert!(sum > 0, "seed {seed}: nothing is there");
    stats
}

#[test]
fn rows_that_own_memory_are_whole_for_all_who_look_and_dropped_once() {
    expect_panics("an unlucky change");
    let seeds = std::env::var("MIXLOG_SEEDS").map_or(1, |n| n.parse().expect("MIXLOG_SEEDS is a number"));
    let (mut adopted, mut replays, mut panics) = (0, 0, 0);
    for seed in 0..8 * seeds {
        let stats = run(seed);
        adopted += stats.adopted;
        replays += stats.replays;
        panics += stats.panics;
        assert_eq!(ALIVE.load(Ordering::Relaxed), 0, "rows left or dropped twice by seed {seed}");
    }
    let counts = [adopted, replays, panics];
    assert!(counts.iter().all(|&count| count > 20), "adopted, replays, panics: {counts:?}");
}
