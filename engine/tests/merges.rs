//! Merges, and looking at what one merged itself.

use std::sync::Arc;

use mixlog_engine::{Engine, Footprint, Mode, Never, Outcome, Procedure, Sum, Table, Tx};
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
