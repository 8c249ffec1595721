//! What an engine counts.

use std::time::Duration;

use mixlog_log::Position;
use serde::Serialize;

/// Counters since the engine was opened (or the replay was started), replayed entries included.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Transactions executed: calls of procedures, whatever their outcome.
    pub transactions: u64,
    /// Transactions whose procedure decided to abort.
    pub aborts: u64,
    /// Transactions whose procedure panicked.
    pub panics: u64,
    /// Transactions that did not run, since their [`Client`](crate::Client) had submitted them before.
    pub repeats: u64,
    /// Transactions whose footprint the engine found by running them ahead.
    pub reconnoitred: u64,
    /// Of those, the ones whose result was used as it stood, since nothing that they had read had changed.
    pub adopted: u64,
    /// Transactions whose footprint the engine inferred from their arguments, as it had seen others of their procedure run
    /// ahead.
    pub inferred: u64,
    /// Transactions that paranoid mode ran twice.
    pub run_twice: u64,
    /// Transactions whose footprint panicked: they ran alone.
    pub footprint_panics: u64,
    /// The same by procedure, those without any left out.
    pub footprint_panics_by_procedure: Vec<(&'static str, u64)>,
    /// Transactions found to touch what they had not declared.
    pub violations: u64,
    /// The same by procedure, those without any left out. Windows that go one by one are not looked at.
    pub violations_by_procedure: Vec<(&'static str, u64)>,
    /// The newest violation: position, procedure, table.
    pub last_violation: Option<(u64, &'static str, &'static str)>,
    /// Windows that diverged and were replayed one by one.
    pub replays: u64,
    /// Windows executed.
    pub windows: u64,
    /// Windows executed one by one because that was faster, or asked for; replays are not among them.
    pub sequential_windows: u64,
    /// Why they were.
    pub one_by_one: OneByOne,
    /// Windows that the mixer saw.
    pub mixed_windows: u64,
    /// Entries that the mixer saw.
    pub mixed_entries: u64,
    /// Batches that the mixer made of them.
    pub batches: u64,
    /// Bounded adds ([`Footprint::add_bounded`](crate::Footprint::add_bounded)) that those entries declared.
    pub bounded_adds: u64,
    /// Of those, the ones that did not have to wait for the others of their row, since all of them fitted.
    pub unordered_adds: u64,
    /// Merges that those entries declared into rows that others of their window merge into as well, and that it does nothing
    /// else to: each driver keeps its own, and they are made when the window is executed.
    pub pooled_merges: u64,
    /// Where the drivers' time went.
    pub stages: Stages,
}

/// Why windows were executed one by one. Each is counted once, so that the sum is
/// [`Stats::sequential_windows`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OneByOne {
    /// [`Mode::Sequential`](crate::Mode::Sequential), or a single thread.
    pub asked_for: u64,
    /// Too little work to be worth mixing, or a single entry.
    pub small: u64,
    /// Mixed, and nearly everything conflicted.
    pub serial: u64,
    /// Not mixed, since one shortly before was of that kind.
    pub after_serial: u64,
    /// Not shared, since other programs want the processors.
    pub crowded: u64,
    /// Not shared, since windows went faster one by one when both ways were measured last, or in order to measure it.
    pub slower: u64,
}

/// Time spent in each stage, added up over all drivers; waiting is not included but in `wait`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stages {
    /// Reading windows from the log.
    pub read: Duration,
    /// Decoding, footprints, locating rows.
    pub prepare: Duration,
    /// Scheduling.
    pub mix: Duration,
    /// Running transactions, and waiting for one to run.
    pub execute: Duration,
    /// Verifying, and replaying what diverged.
    pub verify: Duration,
    /// Digests, dropping versions, acknowledging.
    pub commit: Duration,
    /// Waiting for the other drivers between stages.
    pub wait: Duration,
}

/// How much memory an engine uses, as of the last window that ended: all tables, and each.
///
/// Units: bytes of the structures themselves. What keys and values own elsewhere (a `String`'s text) is not in it,
/// nor are submissions, windows and the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Memory {
    /// Rows that have a value.
    pub rows: u64,
    /// Space for rows, whether or not they have a value, and the list of those that are free for others.
    pub rows_bytes: u64,
    /// Earlier values of rows that are retained for snapshots.
    pub versions: u64,
    /// The space that these take.
    pub versions_bytes: u64,
    /// Space for earlier values, `versions_bytes` included: what the running window needs, and what is kept for
    /// reuse.
    pub undo_bytes: u64,
    /// Indexes. Trees of ordered tables are counted by their entries: the tree itself takes up to as much again. Those of
    /// granules ([`Table::grouped`](crate::Table::grouped)) count for no less than what each takes that ever had a row.
    pub indexes_bytes: u64,
    /// Open snapshots.
    pub snapshots: usize,
    /// The last position that the oldest open snapshot includes; `None` when none is open, or when it is of the empty
    /// state before the first position.
    pub oldest_snapshot: Option<Position>,
    /// The same by table, in the order in which they were registered.
    pub tables: Vec<TableMemory>,
}

/// How much memory a table uses; see [`Memory`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableMemory {
    /// The table's name.
    pub name: &'static str,
    /// Rows that have a value.
    pub rows: u64,
    /// Space for rows, whether or not they have a value, and the list of those that are free for others.
    pub rows_bytes: u64,
    /// Earlier values of rows that are retained for snapshots.
    pub versions: u64,
    /// The space that these take.
    pub versions_bytes: u64,
    /// Space for earlier values, `versions_bytes` included.
    pub undo_bytes: u64,
    /// The table's index.
    pub indexes_bytes: u64,
}

impl Memory {
    pub(crate) fn new(tables: Vec<TableMemory>, snapshots: usize, oldest_snapshot: Option<Position>) -> Self {
        let mut memory = Self { snapshots, oldest_snapshot, ..Self::default() };
        for table in &tables {
            memory.rows += table.rows;
            memory.rows_bytes += table.rows_bytes;
            memory.versions += table.versions;
            memory.versions_bytes += table.versions_bytes;
            memory.undo_bytes += table.undo_bytes;
            memory.indexes_bytes += table.indexes_bytes;
        }
        Self { tables, ..memory }
    }
}

impl Stats {
    /// Work over critical path, in transactions, as the mixer saw it: on how many cores the mixed windows could
    /// have been kept busy. 1 when nothing was mixed.
    #[must_use]
    pub fn parallelism(&self) -> f64 {
        if self.batches == 0 { 1.0 } else { self.mixed_entries as f64 / self.batches as f64 }
    }
}

impl std::ops::AddAssign for Stages {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.prepare += other.prepare;
        self.mix += other.mix;
        self.execute += other.execute;
        self.verify += other.verify;
        self.commit += other.commit;
        self.wait += other.wait;
    }
}
