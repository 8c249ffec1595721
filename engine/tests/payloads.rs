//! Panics whose payloads panic again when they are dropped, in all code that is not the engine's: they end a transaction like
//! any panic, and nothing else.
#![cfg(not(loom))]

use std::panic::panic_any;
use std::sync::Arc;

use mixlog_engine::{
    Builder, Engine, Footprint, Index, Merge, Mode, Never, Outcome, Position, Procedure, Sum, Table, Tx,
};
use mixlog_log::{MemoryLog, SharedLog};
use serde::{Deserialize, Serialize};

/// What [`Thrower`]'s granule, operator and index function throw at.
const UNLUCKY: u64 = 666;

const ROWS: Table<u64, Sum> = Table::new("rows");
const GROUPED: Table<u64, Sum> = Table::new("grouped").grouped("groups", |&key| {
    throw_at(key);
    key / 10
});
const MERGED: Table<u64, Fragile> = Table::new("merged");
const INDEXED: Table<u64, Sum> = Table::new("indexed");
const BY_SUM: Index<u64, Sum, i64> = Index::new("indexed.by_sum", INDEXED, |&key, sum| {
    throw_at(key);
    Some(sum.0)
});

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::panic::resume_unwind(Box::new(()));
        }
    }
}

fn throw() -> ! {
    panic_any(Bomb)
}

fn throw_at(key: u64) {
    if key == UNLUCKY {
        throw();
    }
}

/// Merging an unlucky number into it throws.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Fragile(u64);

impl Merge for Fragile {
    type Delta = u64;

    fn merge(row: &mut Option<Self>, delta: u64, _: Position) {
        row.get_or_insert_default().0 += 1;
        throw_at(delta);
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Where {
    Run,
    Footprint,
    Granule,
    Merge,
    Index,
    Nowhere,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Thrower {
    place: Where,
    declares: bool,
    key: u64,
}

impl Procedure for Thrower {
    const NAME: &'static str = "thrower";
    type Output = i64;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        match self.place {
            _ if !self.declares => _ = f.reconnoitre(),
            Where::Run | Where::Nowhere => _ = f.write(&ROWS, &self.key),
            Where::Footprint => throw(),
            Where::Granule => _ = f.write(&GROUPED, &UNLUCKY),
            Where::Merge => _ = f.merge(&MERGED, &(self.key % 2)),
            Where::Index => _ = f.write(&INDEXED, &UNLUCKY),
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<i64, Never> {
        tx.get_or_put(&ROWS, self.key, Sum::default).0 += 1;
        match self.place {
            Where::Run => throw(),
            Where::Footprint | Where::Nowhere => {}
            Where::Granule => tx.put(&GROUPED, UNLUCKY, Sum(1)),
            Where::Merge => _ = tx.merge(&MERGED, self.key % 2, UNLUCKY),
            Where::Index => tx.put(&INDEXED, UNLUCKY, Sum(1)),
        }
        Ok(tx.get(&ROWS, &self.key).map_or(0, |sum| sum.0))
    }
}

fn builder() -> Builder {
    let builder = Engine::builder().table(&ROWS).table(&GROUPED).table(&MERGED).table(&INDEXED);
    builder.index(&BY_SUM).procedure::<Thrower>()
}

fn calls() -> impl Iterator<Item = Thrower> {
    let places = [
        Where::Run,
        Where::Footprint,
        Where::Granule,
        Where::Merge,
        Where::Index,
        Where::Nowhere,
        Where::Nowhere,
    ];
    let call =
        move |i: u64, declares| Thrower { place: places[i as usize % places.len()], declares, key: i % 10 };
    (0..300).flat_map(move |i| [call(i, true), call(i, false)])
}

#[test]
fn payloads_that_panic_when_they_are_dropped_end_transactions_and_nothing_else() {
    let mut expected = None;
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<Bomb>() {
            hook(info);
        }
    }));
    for (mode, threads, paranoid) in [
        (Mode::Sequential, 1, 0),
        (Mode::Parallel, 1, 0),
        (Mode::Parallel, 2, 0),
        (Mode::Parallel, 2, 1),
        (Mode::Auto, 2, 0),
    ] {
        let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
        let open = || {
            let builder = builder().threads(threads).window(32).mode(mode).paranoid(paranoid);
            builder.open(Arc::clone(&log)).unwrap()
        };
        let engine = open();
        let mut panics = 0;
        let mut outcome = |call: Thrower, outcome| match (call.place, outcome) {
            (Where::Nowhere, Outcome::Committed { .. }) => {}
            (Where::Footprint, Outcome::Committed { .. }) => {}
            (Where::Nowhere | Where::Footprint, other) => panic!("{call:?}: {other:?}"),
            (_, Outcome::Panicked { message, .. }) => {
                assert_eq!(message, "a panic without a message");
                panics += 1;
            }
            (_, other) => panic!("{call:?}: {other:?}"),
        };
        let tickets: Vec<_> = calls().map(|call| (call, engine.submit(&call).unwrap())).collect();
        tickets.into_iter().for_each(|(call, ticket)| outcome(call, ticket.wait().unwrap()));
        // On this thread, where it may be.
        calls().for_each(|call| outcome(call, engine.execute(&call).unwrap()));
        // Granules are asked for by who reports, too, and he is told that they panic.
        for call in calls().filter(|call| !matches!(call.place, Where::Granule)) {
            drop(engine.check_footprint(&call));
        }
        let found = (engine.digest(), panics);
        assert_eq!(engine.stats().panics, panics, "{mode}");
        engine.close().unwrap();
        let engine = open();
        assert_eq!((engine.digest(), panics), found, "{mode}");
        engine.close().unwrap();
        assert_eq!(*expected.get_or_insert(found.1), panics, "{mode}, {threads} threads");
    }
}
