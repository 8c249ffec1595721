//! A store and its workers, on one thread.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use mixlog_log::Position;
use serde::{Deserialize, Serialize};

use super::*;
use crate::store::{AnyTable, Store, WindowEnd};

const TABLE: Table<u64, u64> = Table::new("table");

/// One window of one transaction that deletes, inserts or overwrites.
fn window(store: &Store, worker: &mut Worker, number: u64, changes: &[(u64, Option<u64>)]) {
    let table = store.table(&TABLE);
    let position = Position(number);
    worker.start_window(number);
    for &(key, value) in changes {
        let hash = table.key_hash(&key);
        let id = table.find(&key, hash).unwrap_or_else(|| table.create(worker, key, hash, hash, hash));
        // SAFETY: this thread is the only one.
        unsafe {
            table.save(worker, id, Stamp::of(position), Stamp::of(position));
            *table.row(id).value_mut() = value;
        }
    }
    store.keep_changes(worker);
    let end = WindowEnd { window: number, first: Stamp::of(position), oldest_snapshot: None };
    // SAFETY: this thread is the only one, and no transaction runs.
    unsafe { table.end_window(worker, &end) };
}

#[test]
fn rows_without_a_value_are_given_back_though_others_change_in_every_window() {
    let make: crate::store::MakeTable = Box::new(|number, workers, _| {
        Box::new(TableStore::new(&TABLE, Conflicts::Rows, number, workers, Vec::new()))
    });
    let (store, mut workers) = Store::new(&[make], Vec::new(), 1);
    let worker = &mut workers[0];
    for number in (0..20_000).step_by(2) {
        // Row 0 is there and gone in turn, row 1 is deleted every time; the others come and go once.
        let key = 2 + number;
        window(&store, worker, number, &[(0, None), (1, None), (key, Some(7))]);
        window(&store, worker, number + 1, &[(0, Some(number)), (1, None), (key, None)]);
    }
    let used = store.table(&TABLE).rows.len();
    assert!(used <= 2 * NUMBERS, "{used} rows for three keys at a time");
    assert_eq!(store.table(&TABLE).get_at(&0, Stamp::of(Position(30_000))), Some(19_998));
    assert_eq!(store.table(&TABLE).get_at(&1, Stamp::of(Position(30_000))), None);
}

/// One worker inserts what another one deletes: the numbers come back to the one who needs them, and none does before
/// the second window after.
#[test]
fn numbers_of_rows_that_one_worker_deletes_serve_another_who_inserts() {
    let make: crate::store::MakeTable = Box::new(|number, workers, _| {
        Box::new(TableStore::new(&TABLE, Conflicts::Rows, number, workers, Vec::new()))
    });
    let (store, mut workers) = Store::new(&[make], Vec::new(), 3);
    let table = store.table(&TABLE);
    let [inserts, deletes, both] = &mut workers[..] else { unreachable!("three workers") };
    // In which window each number was given back.
    let mut given_back = Vec::new();
    for number in 0..2_000 {
        let at = Stamp::of(Position(number));
        let new = number * 100..(number + 1) * 100;
        let old = |count: u64| new.start.saturating_sub(count)..new.end.saturating_sub(count);
        let is_free = |id: RowId| table.row(id).latch.stamp() == Stamp::FREE;
        let free_before: Vec<_> = (0..table.numbers()).map(is_free).collect();
        for worker in [&mut *inserts, &mut *deletes, &mut *both] {
            worker.start_window(number);
        }
        let put = |worker: &mut Worker, key: u64, value: Option<u64>| {
            let hash = table.key_hash(&key);
            let id = table.find(&key, hash).unwrap_or_else(|| table.create(worker, key, hash, hash, hash));
            // SAFETY: this thread is the only one.
            unsafe {
                table.save(worker, id, at, at);
                *table.row(id).value_mut() = value;
            }
            id
        };
        for key in new.clone() {
            // A few are inserted by who deletes a few.
            let worker = if key % 10 == 0 { &mut *both } else { &mut *inserts };
            let id = put(worker, key, Some(key)) as usize;
            if let Some(&Some(window)) = given_back.get(id) {
                assert!(window + 2 <= number, "{id}, given back in window {window}, in window {number}");
            }
        }
        for key in old(300).take(if number < 3 { 0 } else { 100 }) {
            put(if key % 10 == 1 { &mut *both } else { &mut *deletes }, key, None);
        }
        let end = WindowEnd { window: number, first: at, oldest_snapshot: None };
        for worker in [&mut *inserts, &mut *deletes, &mut *both] {
            store.keep_changes(worker);
            // SAFETY: this thread is the only one, and no transaction runs.
            unsafe { table.end_window(worker, &end) };
        }
        given_back.resize(table.numbers() as usize, None);
        for id in 0..table.numbers() {
            if is_free(id) && free_before.get(id as usize) == Some(&false) {
                given_back[id as usize] = Some(number);
            }
        }
    }
    // Three windows' rows with a value, one's without, and two's that may not be used yet; and what each keeps.
    let most = 6 * 100 + 3 * (KEPT as u32 + 2 * NUMBERS);
    assert!(table.numbers() <= most, "{} rows for 300 with a value", table.numbers());
}

#[test]
fn undo_space_of_one_great_transaction_is_given_back() {
    let make: crate::store::MakeTable = Box::new(|number, workers, _| {
        Box::new(TableStore::new(&TABLE, Conflicts::Rows, number, workers, Vec::new()))
    });
    let (store, mut workers) = Store::new(&[make], Vec::new(), 1);
    let (table, worker) = (store.table(&TABLE), &mut workers[0]);
    // The second transaction of the window saves all that the first one wrote.
    worker.start_window(0);
    for me in [0, 1].map(|position| Stamp::of(Position(position))) {
        for key in 0..50_000 {
            let hash = table.key_hash(&key);
            let id = table.find(&key, hash).unwrap_or_else(|| table.create(worker, key, hash, hash, hash));
            // SAFETY: this thread is the only one.
            unsafe { table.save(worker, id, Stamp::of(Position(0)), me) };
        }
        store.keep_changes(worker);
    }
    let end = |window| WindowEnd { window, first: Stamp::of(Position(window)), oldest_snapshot: None };
    // SAFETY: this thread is the only one, and no transaction runs.
    unsafe { table.end_window(worker, &end(0)) };
    let used = table.memory().undo_bytes;
    assert!(used > 50_000 * size_of::<Version<u64>>() as u64, "{used}");
    for number in 2..100 {
        window(&store, worker, number, &[(0, Some(number))]);
    }
    let left = table.memory().undo_bytes;
    assert!(left < used / 4, "{left} bytes of {used}");
}

/// While a snapshot is held, rows that are deleted leave the index in the second window after; the snapshot goes on
/// seeing them; a key that comes again gets its row back; and all is given back when the snapshot is gone.
#[test]
fn rows_that_only_a_snapshot_sees_are_in_nobody_elses_way() {
    const LEAVES: Table<u64, u64> = Table::new("leaves").ordered();
    const GRANULES: Table<u64, u64> = Table::new("granules").ordered();
    let all = || Conflicts::Grouped { domain: "all", granule: GranuleOf::Part(Box::new(|_| 0)) };
    for (table, grouped) in [(LEAVES, false), (GRANULES, true)] {
        let make: crate::store::MakeTable = Box::new(move |number, workers, _| {
            let conflicts = if grouped { all() } else { Conflicts::Ranges };
            Box::new(TableStore::new(&table, conflicts, number, workers, Vec::new()))
        });
        let (store, mut workers) = Store::new(&[make], Vec::new(), 1);
        let (table, worker) = (store.table(&table), &mut workers[0]);
        let mut windows = 0..;
        let mut window = |changes: &[(u64, Option<u64>)], oldest_snapshot: Option<Stamp>| {
            let number = windows.next().unwrap();
            let at = Stamp::of(Position(number));
            worker.start_window(number);
            for &(key, value) in changes {
                let hash = table.key_hash(&key);
                let id = table.find(&key, hash).unwrap_or_else(|| {
                    let (unit, granule) = table.unit_and_granule(&key, hash);
                    table.create(worker, key, hash, unit, granule)
                });
                // SAFETY: this thread is the only one.
                unsafe {
                    table.save(worker, id, at, at);
                    *table.row(id).value_mut() = value;
                }
            }
            store.keep_changes(worker);
            let end = WindowEnd { window: number, first: at, oldest_snapshot };
            // SAFETY: this thread is the only one, and no transaction runs.
            unsafe {
                table.end_window(worker, &end);
                if table.wants_adapting() {
                    table.adapt();
                }
            }
        };
        let rows = || {
            let mut rows = table.row_ids(&(0..u64::MAX));
            std::iter::from_fn(|| rows.next(&mut |_| ())).count()
        };
        let seen = |at| table.range_at(&(0..u64::MAX), at).map(|(key, _)| key).collect::<Vec<_>>();
        let put = |keys: Range<u64>| keys.map(|key| (key, Some(key))).collect::<Vec<_>>();
        let delete = |keys: Range<u64>| keys.map(|key| (key, None)).collect::<Vec<_>>();
        window(&put(0..2_000), None);
        let snapshot = Stamp::last_before(Position(1));
        window(&delete(0..1_000), Some(snapshot));
        assert_eq!(rows(), 2_000);
        window(&delete(1_990..2_000), Some(snapshot));
        assert_eq!(rows(), 1_000);
        window(&put(500..600), Some(snapshot));
        assert_eq!(rows(), 990 + 100);
        let both = Stamp::last_before(Position(4));
        assert_eq!(seen(both), (500..600).chain(1_000..1_990).collect::<Vec<_>>());
        window(&delete(500..600), Some(snapshot));
        window(&[], Some(snapshot));
        assert_eq!((rows(), table.numbers().div_ceil(NUMBERS)), (990, 2_000u32.div_ceil(NUMBERS)));
        assert_eq!(seen(snapshot), (0..2_000).collect::<Vec<_>>());
        assert_eq!(seen(both), (500..600).chain(1_000..1_990).collect::<Vec<_>>());
        for key in 0..2_000 {
            assert_eq!(table.get_at(&key, snapshot), Some(key));
            let is_there = (500..600).contains(&key) || (1_000..1_990).contains(&key);
            assert_eq!(table.get_at(&key, both), is_there.then_some(key));
        }
        window(&[], Some(both));
        assert_eq!(seen(both), (500..600).chain(1_000..1_990).collect::<Vec<_>>());
        window(&[], None);
        window(&[], None);
        assert_eq!(seen(Stamp::last_before(Position(20))), (1_000..1_990).collect::<Vec<_>>());
        window(&put(0..1_000), None);
        assert_eq!((rows(), seen(Stamp::last_before(Position(20))).len()), (1_990, 1_990));
        assert_eq!(table.numbers().div_ceil(NUMBERS), 2_000u32.div_ceil(NUMBERS), "numbers are used again");
    }
}

/// Whether rows of the second window panic when they are dropped.
static PANICS: AtomicBool = AtomicBool::new(true);

/// A row, by the window that wrote it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Written(u64);

impl Drop for Written {
    fn drop(&mut self) {
        assert!(self.0 != 2 || !PANICS.load(Ordering::Relaxed), "a row's drop panics");
    }
}

#[test]
fn a_window_whose_rows_panic_when_they_are_put_back_leaves_the_past_as_it_was() {
    const TABLE: Table<u64, Written> = Table::new("written");
    let make: crate::store::MakeTable = Box::new(|number, workers, _| {
        Box::new(TableStore::new(&TABLE, Conflicts::Rows, number, workers, Vec::new()))
    });
    let (store, mut workers) = Store::new(&[make], Vec::new(), 1);
    let (table, worker) = (store.table(&TABLE), &mut workers[0]);
    for window in 1..3 {
        let at = Stamp::of(Position(window));
        worker.start_window(window);
        for key in 0..3 {
            let hash = table.key_hash(&key);
            let id = table.find(&key, hash).unwrap_or_else(|| table.create(worker, key, hash, hash, hash));
            // SAFETY: this thread is the only one.
            unsafe {
                table.save(worker, id, at, at);
                *table.row(id).value_mut() = Some(Written(window));
            }
        }
        store.keep_changes(worker);
        if window == 1 {
            let end = WindowEnd { window, first: at, oldest_snapshot: None };
            // SAFETY: this thread is the only one, and no transaction runs.
            unsafe { table.end_window(worker, &end) };
        }
    }
    // SAFETY: no worker runs, and the second window was not ended.
    let undone = catch_unwind(AssertUnwindSafe(|| unsafe { table.undo_window() }));
    PANICS.store(false, Ordering::Relaxed);
    assert!(undone.is_err());
    for key in 0..3 {
        let seen = table.get_at(&key, Stamp::last_before(Position(2)));
        assert_eq!(seen, Some(Written(1)), "row {key}");
    }
}
