//! Memory that transactions that run ahead needed once, and that is given back. It counts what the whole process has
//! allocated, so this test has one of its own.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use mixlog_engine::{Digest, Engine, Footprint, Mode, Never, Procedure, Stats, Table, Tx};
use mixlog_log::MemoryLog;
use serde::{Deserialize, Serialize};

/// Counts what is allocated.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: what the system's allocator does, and besides a number is changed.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const ROWS: Table<u64, [u64; 12]> = Table::new("rows");
const LONG: Table<u64, Vec<u8>> = Table::new("long");

/// How many rows the large ones change: more than a transaction that is run ahead may.
const ROWS_CHANGED: u64 = 20_000;
/// And how many long ones, of so many bytes: fewer.
const LONG_CHANGED: u64 = 500;
const LONG_BYTES: usize = 10_000;

#[derive(Serialize, Deserialize)]
struct Many;

impl Procedure for Many {
    const NAME: &'static str = "many";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        (0..ROWS_CHANGED).for_each(|key| tx.get_or_put(&ROWS, key, || [0; 12])[0] += 1);
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Long;

impl Procedure for Long {
    const NAME: &'static str = "long";
    type Output = Vec<u8>;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<u8>, Never> {
        (0..LONG_CHANGED).for_each(|key| tx.get_or_put(&LONG, key, || vec![0; LONG_BYTES])[0] ^= 1);
        Ok(vec![7; 100_000])
    }
}

/// Is run ahead as well, and is small.
#[derive(Serialize, Deserialize)]
struct Small {
    key: u64,
    declares: bool,
}

impl Procedure for Small {
    const NAME: &'static str = "small";
    type Output = u64;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        if self.declares {
            f.write(&ROWS, &self.key);
        } else {
            f.reconnoitre();
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let row = tx.get_or_put(&ROWS, self.key, || [0; 12]);
        row[1] += 1;
        Ok(row[1])
    }
}

/// Runs many small ones with large ones among them, at other places each time, and then small ones alone; tells how much is
/// allocated then.
fn run(mode: Mode, declares: bool) -> (Digest, Stats, usize) {
    let before = LIVE.load(Relaxed);
    let builder = Engine::builder()
        .table(&ROWS)
        .table(&LONG)
        .procedure::<Many>()
        .procedure::<Long>()
        .procedure::<Small>();
    // The log's memory grows alike in all modes.
    let engine =
        builder.threads(2).window(256).mode(mode).infer(false).open(Arc::new(MemoryLog::new())).unwrap();
    engine.execute(&Many).unwrap();
    engine.execute(&Long).unwrap();
    let small = |i: u64| engine.submit(&Small { key: ROWS_CHANGED + i % 3000, declares }).unwrap();
    for round in 0..6u64 {
        let mut tickets = Vec::new();
        for i in 0..2048 {
            tickets.push(small(i));
            if i % 101 == round * 7 {
                drop(engine.submit(&Many).unwrap());
                drop(engine.submit(&Long).unwrap());
            }
        }
        tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
    }
    for _ in 0..60 {
        // Windows as they come: some of one chunk.
        let tickets: Vec<_> = (0..512).map(small).collect();
        tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
        small(0).wait().unwrap();
    }
    let (digest, stats) = (engine.digest(), engine.stats());
    let live = LIVE.load(Relaxed) - before;
    engine.close().unwrap();
    (digest, stats, live)
}

#[test]
fn memory_that_large_transactions_needed_to_run_ahead_is_given_back() {
    for declares in [true, false] {
        let (expected, _, one_by_one) = run(Mode::Sequential, declares);
        let (digest, stats, live) = run(Mode::Parallel, declares);
        println!("{declares}: {one_by_one} bytes one by one, {live} in parallel; {stats:?}");
        assert_eq!(digest, expected);
        assert!(live < one_by_one + (8 << 20), "{live} bytes, and {one_by_one} one by one");
    }
}
