//! Merges into rows that several transactions of a window merge into, and that it does nothing else to: kept by each worker,
//! made at the window's end.

#[path = "support/replay.rs"]
mod replay;

use std::sync::Arc;

use mixlog_engine::{
    Appended, Builder, Engine, Footprint, Maximum, Merge, Mode, Position, Procedure, Sum, Table, Tx,
};
use mixlog_log::{MemoryLog, SharedLog};
use replay::{expect_panics, replay};
use serde::{Deserialize, Serialize};

const TOTALS: Table<u64, Sum> = Table::new("totals");
const PEAKS: Table<u64, Maximum<i64>> = Table::new("peaks");
const LISTS: Table<u64, Appended<i64>> = Table::new("lists");
const OPEN: Table<u64, Open> = Table::new("open");
const SEEN: Table<u64, i64> = Table::new("seen");

/// A sum that takes something only while it exists, and does not take what is unlucky.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Open(i64);

const UNLUCKY: i64 = 13;

impl Merge for Open {
    type Delta = i64;

    fn accepts(row: Option<&Self>) -> bool {
        row.is_some()
    }

    fn merge(row: &mut Option<Self>, delta: i64, _: Position) {
        assert_ne!(delta, UNLUCKY, "unlucky");
        row.as_mut().expect("it accepts merges").0 += delta;
    }

    fn combine(delta: &mut i64, other: &i64) -> bool {
        // What is unlucky must be seen alone.
        let combines = *delta != UNLUCKY && *other != UNLUCKY && *delta + *other != UNLUCKY;
        if combines {
            *delta += *other;
        }
        combines
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum What {
    Merge,
    MergeAndAbort,
    /// Not declared, but found.
    MergeFound,
    Look,
    Close,
    Reopen,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Step {
    key: u64,
    delta: i64,
    what: What,
}

impl Procedure for Step {
    const NAME: &'static str = "step";
    type Output = (bool, Vec<i64>);
    type Abort = ();

    fn footprint(&self, f: &mut Footprint<'_>) {
        let key = &self.key;
        match self.what {
            What::Merge | What::MergeAndAbort => {
                f.merge(&TOTALS, key).merge(&PEAKS, key).merge(&LISTS, key).merge(&OPEN, key)
            }
            What::MergeFound => f.reconnoitre(),
            What::Look => f.read(&TOTALS, key).read(&PEAKS, key).read(&LISTS, key).write(&SEEN, key),
            What::Close | What::Reopen => f.write(&OPEN, key),
        };
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Output, ()> {
        let Self { key, delta, what } = *self;
        match what {
            What::Merge | What::MergeAndAbort | What::MergeFound => {
                assert!(tx.merge(&TOTALS, key, delta) && tx.merge(&PEAKS, key, delta));
                assert!(tx.merge(&LISTS, key, delta) && tx.merge(&LISTS, key, -delta));
                let took = tx.can_merge(&OPEN, &key) && tx.merge(&OPEN, key, delta);
                if matches!(what, What::MergeAndAbort) {
                    return Err(());
                }
                Ok((took, Vec::new()))
            }
            What::Look => {
                let list =
                    tx.get(&LISTS, &key).map(|list| list.iter().copied().collect()).unwrap_or_default();
                let total = tx.get(&TOTALS, &key).map_or(0, |total| total.0);
                let peak = tx.get(&PEAKS, &key).map_or(0, |peak| peak.0);
                tx.put(&SEEN, key, total ^ peak);
                Ok((false, list))
            }
            What::Close => Ok((tx.delete(&OPEN, &key), Vec::new())),
            What::Reopen => {
                tx.put(&OPEN, key, Open(0));
                Ok((true, Vec::new()))
            }
        }
    }
}

fn builder() -> Builder {
    let tables = Engine::builder().table(&TOTALS).table(&PEAKS).table(&LISTS).table(&OPEN).table(&SEEN);
    tables.procedure::<Step>()
}

/// A log of random steps, of which so many in a hundred are no merges.
fn record(seed: u64, others: u64, unlucky: bool) -> Arc<dyn SharedLog> {
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = builder().threads(1).mode(Mode::Sequential).open(Arc::clone(&log)).unwrap();
    let mut state = seed;
    let mut below = |end: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % end
    };
    for _ in 0..3000 {
        let what = match below(100) {
            n if n < others => [What::Look, What::Close, What::Reopen][below(3) as usize],
            n if n < 85 => What::Merge,
            n if n < 90 => What::MergeAndAbort,
            _ => What::MergeFound,
        };
        let delta = if unlucky && below(300) == 0 { UNLUCKY } else { 20 + below(100) as i64 };
        drop(engine.submit(&Step { key: below(5), delta, what }).unwrap());
    }
    engine.close().unwrap();
    log
}

#[test]
fn pooled_merges_parallel_equals_sequential() {
    expect_panics("unlucky");
    for (seed, others, unlucky) in [(1, 0, false), (2, 1, false), (3, 10, false), (4, 1, true), (5, 0, true)]
    {
        let log = record(seed, others, unlucky);
        let (expected, _) = replay(&log, builder().threads(1).mode(Mode::Sequential));
        for threads in [1, 2, 4, 8] {
            for window in [1, 7, 64, 1024] {
                let builder = builder().threads(threads).window(window).mode(Mode::Parallel);
                let (digest, stats) = replay(&log, builder);
                let what = format!("seed {seed}, {threads} threads, window {window}: {stats:?}");
                assert_eq!(digest, expected, "{what}");
                if window == 1 {
                    assert_eq!(stats.pooled_merges, 0, "{what}");
                } else {
                    assert!(stats.pooled_merges > 1000 || others > 0 && window > 7, "{what}");
                }
                // Whether a row takes merges is found on a state of the past, unless nobody changes it.
                assert!(stats.replays == 0 || unlucky || others > 0, "{what}");
                // Who declares a merge may ask: that is no violation of the many who did.
                assert!(stats.violations < 300, "{what}");
            }
        }
    }
}

#[test]
fn sole_merges_into_their_rows_stay_with_their_transactions() {
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = builder().threads(1).mode(Mode::Sequential).open(Arc::clone(&log)).unwrap();
    let steps = 2000;
    for n in 0..steps {
        let what = [What::Merge, What::MergeAndAbort, What::MergeFound][(n % 3) as usize];
        drop(engine.submit(&Step { key: n % 512, delta: n as i64, what }).unwrap());
    }
    engine.close().unwrap();
    let (expected, _) = replay(&log, builder().threads(1).mode(Mode::Sequential));
    // Only windows of 1024 reach so far that a key comes twice in one.
    for (window, pooled) in [(64, false), (256, false), (1024, true)] {
        for threads in [1, 2, 8] {
            let builder = builder().threads(threads).window(window).mode(Mode::Parallel);
            let (digest, stats) = replay(&log, builder);
            assert_eq!(
                (digest, stats.replays),
                (expected, 0),
                "{threads} threads, window {window}: {stats:?}"
            );
            assert_eq!(stats.pooled_merges > 0, pooled, "{threads} threads, window {window}: {stats:?}");
        }
    }
}
