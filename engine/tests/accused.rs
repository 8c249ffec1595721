//! Which procedures are told to have left their footprints: those that did, each time that they made a window be replayed,
//! and no others.
#![cfg(not(loom))]

#[path = "support/replay.rs"]
#[expect(dead_code, reason = "nothing panics")]
mod replay;

use std::sync::Arc;

use mixlog_engine::{Builder, Engine, Footprint, Merge, Mode, Never, Position, Procedure, Sum, Table, Tx};
use mixlog_log::{MemoryLog, SharedLog};
use replay::replay;
use serde::{Deserialize, Serialize};

const ORDERED: Table<u64, Sum> = Table::new("ordered").ordered();
const STOCK: Table<u64, Sum> = Table::new("stock").ordered();
const FULL: Table<u64, Full> = Table::new("full").ordered();
const QUEUE: Table<u64, u64> = Table::new("queue").ordered();
const ROWS: Table<u64, u64> = Table::new("rows");

/// Takes no merges.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Full;

impl Merge for Full {
    type Delta = ();

    fn accepts(_: Option<&Self>) -> bool {
        false
    }

    fn merge(_: &mut Option<Self>, (): (), _: Position) {}
}

/// What is in stock, so that adds have no order.
const PLENTY: i64 = 1 << 40;
/// Keys of rows that merges, and adds, are made into.
const MERGED: u64 = 7;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Guilty {
    /// Merges into a row of a range that it reads.
    MergeAndWalk,
    /// The same, but takes no row of the range.
    MergeAndBegin,
    MergeOftenAndWalk,
    AddAndWalk,
    /// Merges where it declared adds.
    MergeForAdd,
    AddAndMerge,
}

impl Guilty {
    const ALL: [Self; 6] = [
        Self::MergeAndWalk,
        Self::MergeAndBegin,
        Self::MergeOftenAndWalk,
        Self::AddAndWalk,
        Self::MergeForAdd,
        Self::AddAndMerge,
    ];
}

impl Procedure for Guilty {
    const NAME: &'static str = "guilty";
    type Output = i64;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        match self {
            Self::MergeAndWalk | Self::MergeAndBegin => {
                f.merge(&ORDERED, &MERGED).range(&ORDERED, 0..100);
            }
            Self::MergeOftenAndWalk => {
                (0..100).for_each(|key| _ = f.merge(&ORDERED, &key));
                f.range(&ORDERED, 0..100);
            }
            Self::AddAndWalk => _ = f.add_bounded(&STOCK, &MERGED, 1, 0).range(&STOCK, 0..100),
            Self::MergeForAdd => _ = f.add_bounded(&STOCK, &(MERGED + 1), 1, 0),
            Self::AddAndMerge => {
                f.add_bounded(&STOCK, &(MERGED + 1), 1, 0).add_bounded(&STOCK, &(MERGED + 1), 1, 0);
            }
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<i64, Never> {
        let walk = |tx: &Tx<'_>, table| tx.range(table, 0..100).map(|(_, sum): (_, &Sum)| sum.0).sum();
        Ok(match self {
            Self::MergeAndWalk => {
                tx.merge(&ORDERED, MERGED, 1);
                walk(tx, &ORDERED)
            }
            Self::MergeAndBegin => {
                tx.merge(&ORDERED, MERGED, 1);
                drop(tx.range(&ORDERED, 0..100));
                0
            }
            Self::MergeOftenAndWalk => {
                (0..100).for_each(|key| _ = tx.merge(&ORDERED, key, 1));
                walk(tx, &ORDERED)
            }
            Self::AddAndWalk => {
                assert!(tx.add_bounded(&STOCK, MERGED, 1, 0));
                walk(tx, &STOCK)
            }
            Self::MergeForAdd => i64::from(tx.merge(&STOCK, MERGED + 1, 1)),
            Self::AddAndMerge => {
                assert!(tx.add_bounded(&STOCK, MERGED + 1, 1, 0));
                i64::from(tx.merge(&STOCK, MERGED + 1, 1))
            }
        })
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Innocent {
    Fill,
    MergeBesideRange,
    MergeAndBackwards,
    /// The row takes no merge.
    MergeInVain,
    WriteAndWalk,
    WalkAndMerge,
    AddTwice,
}

impl Innocent {
    const ALL: [Self; 6] = [
        Self::MergeBesideRange,
        Self::MergeAndBackwards,
        Self::MergeInVain,
        Self::WriteAndWalk,
        Self::WalkAndMerge,
        Self::AddTwice,
    ];
}

impl Procedure for Innocent {
    const NAME: &'static str = "innocent";
    type Output = i64;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        match self {
            Self::Fill => (0..10).for_each(|key| _ = f.write(&STOCK, &key)),
            Self::MergeBesideRange => _ = f.merge(&ORDERED, &MERGED).range(&ORDERED, MERGED + 1..100),
            Self::MergeAndBackwards | Self::WalkAndMerge => {
                f.merge(&ORDERED, &MERGED).range(&ORDERED, 0..100);
            }
            Self::MergeInVain => _ = f.merge(&FULL, &MERGED).range(&FULL, 0..100),
            Self::WriteAndWalk => _ = f.write(&ORDERED, &MERGED).range(&ORDERED, 0..100),
            Self::AddTwice => {
                for key in [MERGED, MERGED + 1] {
                    f.add_bounded(&STOCK, &key, 1, 0).add_bounded(&STOCK, &key, 1, 0);
                }
            }
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<i64, Never> {
        let mut walked = 0;
        match self {
            Self::Fill => (0..10).for_each(|key| tx.put(&STOCK, key, Sum(PLENTY))),
            Self::MergeBesideRange => {
                tx.merge(&ORDERED, MERGED, 1);
                walked = tx.range(&ORDERED, MERGED + 1..100).map(|(_, sum)| sum.0).sum();
            }
            Self::MergeAndBackwards => {
                tx.merge(&ORDERED, MERGED, 1);
                #[expect(clippy::reversed_empty_ranges, reason = "it is empty")]
                let range = 100..0;
                assert_eq!(tx.range(&ORDERED, range).count(), 0);
            }
            Self::MergeInVain => {
                assert!(!tx.merge(&FULL, MERGED, ()));
                assert_eq!(tx.range(&FULL, 0..100).count(), 0);
            }
            Self::WriteAndWalk => {
                tx.merge(&ORDERED, MERGED, 1);
                walked = tx.range(&ORDERED, 0..100).map(|(_, sum)| sum.0).sum();
            }
            Self::WalkAndMerge => {
                walked = tx.range(&ORDERED, 0..100).map(|(_, sum)| sum.0).sum();
                tx.merge(&ORDERED, MERGED, 1);
            }
            Self::AddTwice => {
                for key in [MERGED, MERGED + 1] {
                    (0..2).for_each(|_| assert!(tx.add_bounded(&STOCK, key, 1, 0)));
                }
            }
        }
        Ok(walked)
    }
}

fn builder() -> Builder {
    let builder = Engine::builder().table(&ORDERED).table(&STOCK).table(&FULL).table(&QUEUE).table(&ROWS);
    let builder = builder.procedure::<Guilty>().procedure::<Innocent>();
    builder.procedure::<Fill>().procedure::<Drain>().procedure::<Honest>().procedure::<Liar>()
}

/// Goes on to a position that is a multiple of so many.
fn pad<P: Procedure>(engine: &Engine, multiple: u64, call: &P) {
    loop {
        engine.execute(call).unwrap();
        if (engine.position().unwrap().0 + 1).is_multiple_of(multiple) {
            return;
        }
    }
}

#[test]
fn who_looks_at_what_it_merged_or_merges_where_it_adds_is_told_of_for_each_replay() {
    const WINDOW: u64 = 64;
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = builder().threads(1).mode(Mode::Sequential).open(Arc::clone(&log)).unwrap();
    engine.execute(&Innocent::Fill).unwrap();
    let mut expected = 0;
    for guilty in Guilty::ALL {
        // Whether adds have an order is told from the window before the one at hand.
        pad(&engine, WINDOW, &Innocent::MergeBesideRange);
        pad(&engine, WINDOW, &Innocent::MergeBesideRange);
        for _ in 0..5 {
            Innocent::ALL.iter().for_each(|call| _ = engine.execute(call).unwrap());
            engine.execute(&guilty).unwrap();
            expected += 1;
        }
    }
    let digest = engine.digest();
    engine.close().unwrap();
    for (threads, window) in [(1, 8), (2, 8), (2, WINDOW as u32)] {
        let (found, stats) = replay(&log, builder().threads(threads).window(window).mode(Mode::Parallel));
        assert_eq!(found, digest, "windows of {window}");
        assert!(stats.replays > 0, "windows of {window}: {stats:?}");
        assert_eq!(stats.violations_by_procedure, [("guilty", expected)], "windows of {window}: {stats:?}");
    }
}

#[derive(Serialize, Deserialize)]
struct Fill(u64);

impl Procedure for Fill {
    const NAME: &'static str = "fill";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.unknown();
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        (0..self.0).for_each(|key| tx.put(&QUEUE, key, key));
        Ok(())
    }
}

/// Takes all, from one end.
#[derive(Serialize, Deserialize)]
struct Drain {
    from_back: bool,
}

impl Procedure for Drain {
    const NAME: &'static str = "drain";
    type Output = u64;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.unknown();
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let take =
            |tx: &mut Tx<'_>| if self.from_back { tx.pop_last(&QUEUE, ..) } else { tx.pop_first(&QUEUE, ..) };
        let mut taken = 0;
        while take(tx).is_some() {
            taken += 1;
        }
        Ok(taken)
    }
}

/// Walks what it declared, from one end or from both.
#[derive(Serialize, Deserialize)]
struct Honest {
    from: u64,
    ends: u8,
}

impl Procedure for Honest {
    const NAME: &'static str = "honest";
    type Output = u64;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.range(&QUEUE, self.from..self.from + 100);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let mut rows = tx.range(&QUEUE, self.from..self.from + 100);
        let mut found = 0;
        for turn in 0.. {
            let from_back = self.ends == 1 || self.ends == 2 && turn % 2 == 0;
            if if from_back { rows.next_back() } else { rows.next() }.is_none() {
                break;
            }
            found += 1;
        }
        Ok(found)
    }
}

/// Writes a row that it did not declare, and walks further than it declared.
#[derive(Serialize, Deserialize)]
enum Liar {
    Write,
    Walk,
}

impl Procedure for Liar {
    const NAME: &'static str = "liar";
    type Output = u64;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.range(&QUEUE, 0..100);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        match self {
            Self::Write => {
                tx.put(&ROWS, 0, 1);
                Ok(0)
            }
            Self::Walk => Ok(tx.range(&QUEUE, 0..1000).count() as u64),
        }
    }
}

#[test]
fn a_walk_through_what_others_took_reads_no_further_than_its_range() {
    const WINDOW: u64 = 32;
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = builder().threads(1).mode(Mode::Sequential).open(Arc::clone(&log)).unwrap();
    let honest = |from, ends| engine.execute(&Honest { from, ends }).unwrap();
    let lies = [Liar::Write, Liar::Walk];
    for from_back in [false, true] {
        engine.execute(&Fill(5000)).unwrap();
        // Leaves are cut when no window is prepared, which is after some of them at the latest.
        (0..40 * WINDOW).for_each(|_| _ = honest(0, 0));
        for lie in &lies {
            pad(&engine, WINDOW, &Honest { from: 0, ends: 0 });
            engine.execute(&Drain { from_back }).unwrap();
            (0..3).for_each(|ends| _ = honest(0, ends));
            (0..3).for_each(|ends| _ = honest(2000, ends));
            engine.execute(lie).unwrap();
            (0..3).for_each(|ends| _ = honest(4900, ends));
            engine.execute(&Fill(5000)).unwrap();
        }
    }
    let digest = engine.digest();
    engine.close().unwrap();
    for window in [8, 16, WINDOW as u32] {
        let (found, stats) = replay(&log, builder().threads(2).window(window).mode(Mode::Parallel));
        assert_eq!(found, digest, "windows of {window}");
        assert!(stats.replays >= 4, "windows of {window}: {stats:?}");
        assert_eq!(stats.violations_by_procedure, [("liar", 4)], "windows of {window}: {stats:?}");
    }
}
