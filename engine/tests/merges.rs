//! Merges, and looking at what one merged itself.

#[path = "support/random.rs"]
mod random;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use mixlog_engine::{Builder, Engine, Footprint, Mode, Never, Outcome, Procedure, Sum, Table, Tx};
use mixlog_log::{MemoryLog, SharedLog};
use serde::{Deserialize, Serialize};

const RANGES: Table<u64, Sum> = Table::new("ranges").ordered();
const GROUPED: Table<u64, Sum> = Table::new("grouped").grouped("all", |_| 0).ordered();

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Says {
    ToBeFound,
    /// What `Footprint::merge` forbids: the row is also looked at.
    MergeAndRange,
    WriteAndRange,
}

/// Merges 1 into a row, and then reads the rows of a range, of which it may be one.
#[derive(Debug, Serialize, Deserialize)]
struct MergeAndScan {
    table: u8,
    key: u64,
    from: u64,
    to: u64,
    from_back: bool,
    says: Says,
}

impl Procedure for MergeAndScan {
    const NAME: &'static str = "merge and scan";
    type Output = Vec<(u64, i64)>;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        let table = [&RANGES, &GROUPED][usize::from(self.table)];
        match self.says {
            Says::ToBeFound => f.reconnoitre(),
            Says::MergeAndRange => f.merge(table, &self.key).range(table, self.from..=self.to),
            Says::WriteAndRange => f.write(table, &self.key).range(table, self.from..=self.to),
        };
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<(u64, i64)>, Never> {
        let table = [&RANGES, &GROUPED][usize::from(self.table)];
        assert!(tx.merge(table, self.key, 1));
        let rows = tx.range(table, self.from..=self.to).map(|(key, sum)| (key, sum.0));
        Ok(if self.from_back { rows.rev().collect() } else { rows.collect() })
    }
}

#[test]
fn own_merges_show_in_ranges_whatever_the_footprint() {
    let builder = || Engine::builder().table(&RANGES).table(&GROUPED).procedure::<MergeAndScan>();
    let mut replies = Vec::new();
    for (mode, window) in [(Mode::Sequential, 64), (Mode::Parallel, 1), (Mode::Parallel, 64)] {
        let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
        let engine = builder().threads(2).window(window).mode(mode).open(Arc::clone(&log)).unwrap();
        let mut tickets = Vec::new();
        for says in [Says::ToBeFound, Says::MergeAndRange, Says::WriteAndRange] {
            for table in 0..2 {
                // Rows that are new, that were there, and that lie outside of the range.
                for key in [5, 7, 5, 6, 20, 0, 9, 9] {
                    for from_back in [false, true] {
                        let call = MergeAndScan { table, key, from: 5, to: 9, from_back, says };
                        tickets.push(engine.submit(&call).unwrap());
                    }
                }
            }
        }
        let rows = |ticket: mixlog_engine::Ticket<_>| match ticket.wait().unwrap() {
            Outcome::Committed { output, .. } => output,
            other => panic!("{other:?}"),
        };
        replies.push(tickets.into_iter().map(rows).collect::<Vec<Vec<_>>>());
        let digest = engine.digest();
        engine.close().unwrap();
        let oracle = builder().threads(1).mode(Mode::Sequential).replay(log).unwrap();
        assert_eq!(oracle.to_end().unwrap(), digest, "{mode}, windows of {window}");
    }
    assert_eq!(replies[0][..4], [vec![(5, 1)], vec![(5, 2)], vec![(5, 2), (7, 1)], vec![(7, 2), (5, 2)]]);
    assert_eq!(replies[1], replies[0]);
    assert_eq!(replies[2], replies[0]);
}

/// Found by reconnaissance, a merge that is looked at is a write: nothing is touched without being declared.
#[test]
fn own_merges_in_ranges_reconnaissance_declares_them_as_writes() {
    let builder = Engine::builder().table(&RANGES).table(&GROUPED).procedure::<MergeAndScan>();
    let engine = builder.threads(2).mode(Mode::Parallel).open(Arc::new(MemoryLog::new())).unwrap();
    for key in [5, 5, 7, 20] {
        let call = MergeAndScan { table: 0, key, from: 5, to: 9, from_back: false, says: Says::ToBeFound };
        let _ = engine.submit(&call).unwrap().wait().unwrap();
    }
    let stats = engine.stats();
    assert_eq!((stats.reconnoitred, stats.violations, stats.replays), (4, 0, 0));
}

const SUMS: Table<u64, Sum> = Table::new("sums");

/// Changes many rows, each once, in an order that is not the one in which they were declared.
#[derive(Debug, Serialize, Deserialize)]
enum Many {
    Merge(u64),
    MergeBackwards(u64),
    AddBounded(u64),
    PutBackwards(u64),
    /// Merges into the row, and then looks at it, without having said so.
    MergeAndGet(u64),
}

impl Many {
    const fn rows(&self) -> u64 {
        let (Self::Merge(rows)
        | Self::MergeBackwards(rows)
        | Self::AddBounded(rows)
        | Self::PutBackwards(rows)
        | Self::MergeAndGet(rows)) = self;
        *rows
    }
}

impl Procedure for Many {
    const NAME: &'static str = "many";
    type Output = u64;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        for row in 0..self.rows() {
            match self {
                Self::Merge(_) | Self::MergeBackwards(_) | Self::MergeAndGet(_) => f.merge(&SUMS, &row),
                Self::AddBounded(_) => f.add_bounded(&SUMS, &row, 1, 0).add_bounded(&SUMS, &row, 1, 0),
                Self::PutBackwards(_) => f.write(&SUMS, &row),
            };
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let rows = self.rows();
        let mut sum = 0;
        for row in 0..rows {
            match self {
                Self::Merge(_) | Self::MergeAndGet(_) => assert!(tx.merge(&SUMS, row, 1)),
                Self::MergeBackwards(_) => assert!(tx.merge(&SUMS, rows - 1 - row, 1)),
                Self::AddBounded(_) => {
                    assert!(tx.add_bounded(&SUMS, row, 1, 0));
                    assert!(tx.add_bounded(&SUMS, row, 1, 0));
                }
                Self::PutBackwards(_) => tx.put(&SUMS, rows - 1 - row, Sum(1)),
            }
        }
        if matches!(self, Self::MergeAndGet(_)) {
            sum = (0..rows).map(|row| tx.get(&SUMS, &row).map_or(0, |sum| sum.0 as u64)).sum();
        }
        Ok(sum)
    }
}

/// Were each access to be looked for among all that were declared, and all merges that were noted, this would take many
/// minutes.
#[test]
fn transactions_of_many_merges_change_each_row_once_and_not_in_square_time() {
    const ROWS: u64 = 300_000;
    let builder = || Engine::builder().table(&SUMS).procedure::<Many>();
    let calls = [Many::Merge, Many::MergeBackwards, Many::AddBounded, Many::PutBackwards, Many::MergeAndGet];
    let mut digests = Vec::new();
    for (mode, window) in [(Mode::Sequential, 64), (Mode::Parallel, 2), (Mode::Parallel, 64)] {
        let engine = builder().threads(2).window(window).mode(mode).open(Arc::new(MemoryLog::new())).unwrap();
        // Two beside each other; the second ones a few rows only.
        let calls = calls.iter().flat_map(|call| [call(ROWS), call(3), call(100)]);
        let tickets: Vec<_> = calls.map(|call| engine.submit(&call).unwrap()).collect();
        for ticket in tickets {
            assert!(matches!(ticket.wait().unwrap(), Outcome::Committed { .. }));
        }
        digests.push(engine.digest());
        engine.close().unwrap();
    }
    assert_eq!(digests[1], digests[0]);
    assert_eq!(digests[2], digests[0]);
}

/// A key that counts how often keys are compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Counted(u64);

static COMPARED: AtomicU64 = AtomicU64::new(0);

impl Ord for Counted {
    fn cmp(&self, other: &Self) -> Ordering {
        COMPARED.fetch_add(1, Relaxed);
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Counted {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

const TOTALS: Table<Counted, Sum> = Table::new("totals").ordered();
const ENTRIES: Table<Counted, Sum> = Table::new("entries").ordered();

#[derive(Debug, Serialize, Deserialize)]
enum Step {
    Merge(u64),
    Totals(Bound<u64>, Bound<u64>),
    Entries(Bound<u64>, Bound<u64>),
    Put(u64, i64),
}

/// Merges into many rows and reads many ranges, and says so.
#[derive(Debug, Serialize, Deserialize)]
struct Wide(Vec<Step>);

/// How many rows each range has, and what they amount to.
type Seen = Vec<(u64, i64)>;

fn counted(from: Bound<u64>, to: Bound<u64>) -> (Bound<Counted>, Bound<Counted>) {
    (from.map(Counted), to.map(Counted))
}

fn amount(rows: impl Iterator<Item = i64>) -> (u64, i64) {
    rows.fold((0, 0), |(rows, sum), row| (rows + 1, sum + row))
}

impl Procedure for Wide {
    const NAME: &'static str = "wide";
    type Output = Seen;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        for step in &self.0 {
            match *step {
                Step::Merge(key) => f.merge(&TOTALS, &Counted(key)),
                Step::Totals(from, to) => f.range(&TOTALS, counted(from, to)),
                Step::Entries(from, to) => f.range(&ENTRIES, counted(from, to)),
                Step::Put(key, _) => f.write(&ENTRIES, &Counted(key)),
            };
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Seen, Never> {
        let mut seen = Seen::new();
        for step in &self.0 {
            match *step {
                Step::Merge(key) => assert!(tx.merge(&TOTALS, Counted(key), 1)),
                Step::Totals(from, to) => {
                    seen.push(amount(tx.range(&TOTALS, counted(from, to)).map(|(_, row)| row.0)));
                }
                Step::Entries(from, to) => {
                    seen.push(amount(tx.range(&ENTRIES, counted(from, to)).map(|(_, row)| row.0)));
                }
                Step::Put(key, value) => tx.put(&ENTRIES, Counted(key), Sum(value)),
            }
        }
        Ok(seen)
    }
}

/// What a call sees, and whether it looks at a row that it merged into.
fn model([totals, entries]: &mut [BTreeMap<u64, i64>; 2], call: &Wide) -> (Seen, bool) {
    let (mut seen, mut merged, mut looks) = (Seen::new(), BTreeSet::new(), false);
    let within = |map: &BTreeMap<u64, i64>, range: (Bound<u64>, Bound<u64>)| {
        amount(map.iter().filter(|(key, _)| range.contains(key)).map(|(_, &row)| row))
    };
    for step in &call.0 {
        match *step {
            Step::Merge(key) => {
                *totals.entry(key).or_insert(0) += 1;
                merged.insert(key);
            }
            Step::Totals(from, to) => {
                seen.push(within(totals, (from, to)));
                looks |= merged.iter().any(|key| (from, to).contains(key));
            }
            Step::Entries(from, to) => seen.push(within(entries, (from, to))),
            Step::Put(key, value) => {
                entries.insert(key, value);
            }
        }
    }
    (seen, looks)
}

const WIDE_KEYS: u64 = 400;

/// Half of them look at no row that they merge into.
fn draw(random: &mut dyn FnMut(u64) -> u64) -> Wide {
    let apart = random(2) == 0;
    let steps = 40 + random(400);
    let range = |from: u64, random: &mut dyn FnMut(u64) -> u64| {
        let (a, b) = (from + random(WIDE_KEYS - from), from + random(WIDE_KEYS - from));
        // Some are empty, and some end before they start.
        let to = if random(4) == 0 { b } else { a + random(3) };
        let from = match random(8) {
            0 if !apart => Bound::Unbounded,
            1 | 2 => Bound::Excluded(a),
            _ => Bound::Included(a),
        };
        let to = match random(8) {
            0 => Bound::Unbounded,
            1 | 2 if from != Bound::Excluded(to) => Bound::Excluded(to),
            _ => Bound::Included(to),
        };
        (from, to)
    };
    let mut step = |_| match random(16) {
        0..8 => Step::Merge(random(if apart { WIDE_KEYS / 2 } else { WIDE_KEYS })),
        // Those that do not keep apart look at few: others would be found out at once.
        8..12 if apart || random(40) == 0 => {
            let (from, to) = range(if apart { WIDE_KEYS / 2 } else { 0 }, random);
            Step::Totals(from, to)
        }
        8..15 => {
            let (from, to) = range(0, random);
            Step::Entries(from, to)
        }
        _ => Step::Put(random(WIDE_KEYS), random(100) as i64),
    };
    Wide((0..steps).map(&mut step).collect())
}

fn wides() -> Builder {
    Engine::builder().table(&TOTALS).table(&ENTRIES).procedure::<Wide>().threads(2).window(16)
}

/// What calls see that are submitted at once, and the rows afterwards.
fn run(log: &Arc<MemoryLog>, mode: Mode, calls: &[Wide]) -> (Vec<Seen>, [BTreeMap<u64, i64>; 2]) {
    let engine = wides().mode(mode).open(Arc::clone(log) as Arc<dyn SharedLog>).unwrap();
    let tickets: Vec<_> = calls.iter().map(|call| engine.submit(call).unwrap()).collect();
    let seen = tickets.into_iter().map(|ticket| ticket.wait().unwrap().committed().unwrap()).collect();
    let snapshot = engine.snapshot();
    let rows = |table: &Table<Counted, Sum>| {
        snapshot.range(table, ..).map(|(Counted(key), row)| (key, row.0)).collect()
    };
    (seen, [rows(&TOTALS), rows(&ENTRIES)])
}

/// Of the log's calls beside each other.
fn replays(log: Arc<MemoryLog>) -> u64 {
    let replay = wides().mode(Mode::Parallel).replay(log).unwrap();
    replay.to_end().unwrap();
    replay.stats().replays
}

#[test]
fn transactions_of_many_merges_and_ranges_see_what_maps_hold() {
    let seeds = std::env::var("MIXLOG_SEEDS").map_or(1, |seeds| seeds.parse().unwrap());
    for seed in 0..2 * seeds {
        let mut state = seed;
        let mut random = |below: u64| random::random(&mut state) % below;
        let calls: Vec<_> = (0..60).map(|_| draw(&mut random)).collect();
        let mut maps = [BTreeMap::new(), BTreeMap::new()];
        let (expected, looks): (Vec<_>, Vec<_>) = calls.iter().map(|call| model(&mut maps, call)).unzip();
        for mode in [Mode::Sequential, Mode::Parallel] {
            let (seen, rows) = run(&Arc::default(), mode, &calls);
            assert_eq!(seen, expected, "seed {seed}, {mode}");
            assert_eq!(rows, maps, "seed {seed}, {mode}");
        }
        let mut looking = 0;
        for (call, looks) in calls.into_iter().zip(looks) {
            let log = Arc::default();
            run(&log, Mode::Sequential, &[call, Wide(Vec::new())]);
            assert_eq!(replays(log), u64::from(looks), "seed {seed}");
            looking += u32::from(looks);
        }
        assert!((5..55).contains(&looking), "{looking} look at what they merged");
    }
    check_that_ranges_are_not_compared_with_all_that_was_merged();
}

/// Nobody else may compare keys meanwhile.
fn check_that_ranges_are_not_compared_with_all_that_was_merged() {
    const ROWS: u64 = 4_000;
    let at = |key| (Bound::Included(key), Bound::Included(key));
    let steps = (0..ROWS).flat_map(|row| {
        let (own, other) = (at(2 * row + 1), at(row));
        [Step::Merge(2 * row), Step::Totals(own.0, own.1), Step::Entries(other.0, other.1)]
    });
    let puts = (0..ROWS).map(|row| Step::Put(row, 1));
    let log = Arc::default();
    let (seen, _) = run(&log, Mode::Sequential, &[Wide(puts.collect()), Wide(steps.collect())]);
    assert_eq!(seen[1], [(0, 0), (1, 1)].repeat(ROWS as usize));
    let before = COMPARED.load(Relaxed);
    assert_eq!(replays(log), 0);
    let compared = COMPARED.load(Relaxed) - before;
    assert!(compared < 400 * ROWS, "{compared} comparisons");
}
