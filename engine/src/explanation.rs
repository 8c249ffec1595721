//! What an engine can tell about its conflicts, as people and programs read it.

use std::fmt::{self, Write};

use serde::Serialize;

use crate::stats::OneByOne;

/// Which keys and tables made transactions wait, and what that cost. Made by [`Engine::explain`](crate::Engine::explain)
/// and [`Replay::explain`](crate::Replay::explain); it serializes to one JSON object, and prints as a report.
///
/// A *wait* is a key on which a transaction conflicts with an earlier one of its window (a transaction that conflicts
/// on three keys has three waits). It is *critical* if it put the transaction into its batch: without it, the transaction
/// could have run earlier. The critical waits that lead to a window's last batch are its *critical path*: they are why the
/// window takes as long as it does. Lists are sorted by what matters most: first by links of critical paths, then by
/// waits.
///
/// Units of conflict go by the name of their table, or of the domain of a [`grouped`](crate::Table::grouped) one. Those
/// of transactions with an unknown footprint are called [`UNKNOWN`](Self::UNKNOWN).
///
/// Only mixed windows tell of waits: those that go one by one without being mixed
/// ([`Mode::Auto`](crate::Mode::Auto)) appear in counts of windows and transactions only.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// Windows executed.
    pub windows: u64,
    /// Windows that the mixer saw.
    pub mixed_windows: u64,
    /// Windows executed one by one, by reason.
    pub one_by_one: OneByOne,
    /// Transactions whose footprint panicked: they run alone.
    pub footprint_panics: u64,
    /// Transactions found to touch what they had not declared.
    pub violations: u64,
    /// Windows that were replayed because of that.
    pub replays: u64,
    /// Mixed windows that were looked at. What follows is about them.
    pub explained_windows: u64,
    /// Their entries.
    pub entries: u64,
    /// Entries that waited for an earlier one.
    pub waiting: u64,
    /// Their waits.
    pub waits: u64,
    /// Batches: the lengths of all critical paths, in transactions.
    pub batches: u64,
    /// Work over critical path, in transactions: `entries` over `batches`.
    pub parallelism: f64,
    /// By table.
    pub tables: Vec<Contention>,
    /// The keys with the most waits, [`KEYS`](Self::KEYS) at most.
    pub keys: Vec<HotKey>,
    /// Which procedures wait for which.
    pub conflicts: Vec<WaitsFor>,
    /// All that ran, by procedure. Windows that were not looked at are included, except in `waits` and `waiting`.
    pub procedures: Vec<ProcedureCounts>,
    /// What wrong footprints left out. Windows that go one by one are not looked at.
    pub missed: Vec<Missed>,
    /// How footprints follow from the arguments of procedures that declare nothing, as far as that is known by now.
    pub inferred: Vec<Inferred>,
    /// The longest critical path of a window.
    pub longest_path: Option<Path>,
}

/// The footprint that arguments of one shape have: the same variants, options and flags. What a procedure could declare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Inferred {
    /// The procedure's name.
    pub procedure: &'static str,
    /// What makes the shape, such as `customer is LastName`.
    pub when: Vec<String>,
    /// What is accessed, in about the order in which it is.
    pub accesses: Vec<InferredAccess>,
}

/// An access that follows from arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InferredAccess {
    /// `read`, `write` or `merge`.
    pub mode: &'static str,
    /// The table's name.
    pub table: &'static str,
    /// Whether it is to a granule as a whole, whose number `key` is.
    pub is_granule: bool,
    /// The parts of the key, of fields' names where there are any: `16 * warehouse + district, item`.
    pub key: String,
    /// The list of whose elements each has this access.
    pub each: Option<String>,
    /// What makes the shape of those elements.
    pub when: Vec<String>,
}

/// What the conflicts in one table cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Contention {
    /// The table, or the domain of grouped tables.
    pub name: &'static str,
    /// The tables of the domain; empty for a table that is in none.
    pub tables: Vec<&'static str>,
    /// Waits on its keys.
    pub waits: u64,
    /// Those that put a transaction into its batch.
    pub critical: u64,
    /// Links of critical paths.
    pub path: u64,
    /// What [`Explanation::parallelism`] would be if nothing conflicted in it.
    pub parallelism_without: f64,
}

/// What the conflicts on one key cost. Counts are those since the key was first among the most waited for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HotKey {
    /// The table, or the domain of grouped tables.
    pub name: &'static str,
    /// The key as its table's [`Codec`](crate::Codec) describes it, `granule n`, `leaf from` a
    /// key (of a table whose ranges conflict, as its leaves are now), or a hash if no such row exists.
    pub key: String,
    /// Waits; an estimate that is never too low.
    pub waits: u64,
    /// By how much `waits` may be too high: another key's were counted before.
    pub waits_error: u64,
    /// Waits that put a transaction into its batch.
    pub critical: u64,
    /// Links of critical paths.
    pub path: u64,
}

/// How often one procedure waited for another in one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WaitsFor {
    /// The procedure that waits.
    pub waiting: &'static str,
    /// The one it waits for.
    pub on: &'static str,
    /// The table, or the domain of grouped tables.
    pub name: &'static str,
    /// Waits.
    pub waits: u64,
    /// Those that put a transaction into its batch.
    pub critical: u64,
    /// Links of critical paths.
    pub path: u64,
}

/// What became of the calls of one procedure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ProcedureCounts {
    /// Its name.
    pub name: &'static str,
    /// Transactions executed, whatever their outcome.
    pub transactions: u64,
    /// Those that decided to abort.
    pub aborts: u64,
    /// Those that panicked.
    pub panics: u64,
    /// Those whose footprint panicked.
    pub footprint_panics: u64,
    /// Those that touched what they had not declared.
    pub violations: u64,
    /// Those whose footprint the engine found by running them ahead.
    pub reconnoitred: u64,
    /// Of those, the ones whose result was used as it stood.
    pub adopted: u64,
    /// Those whose footprint was inferred from their arguments.
    pub inferred: u64,
    /// In windows that were looked at: its transactions that waited for an earlier one.
    pub waiting: u64,
    /// In windows that were looked at: their waits.
    pub waits: u64,
    /// The mean time to execute one, of a sample of a sixteenth; `None` if none was in it.
    pub execute_ns_mean: Option<u64>,
}

/// An access that a footprint left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Missed {
    /// The procedure whose footprint it is.
    pub procedure: &'static str,
    /// The table that it did not name, or not for this row.
    pub table: &'static str,
    /// Transactions that this happened to.
    pub transactions: u64,
}

/// The critical path of a window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Path {
    /// The window's first position.
    pub window: u64,
    /// The window's entries.
    pub entries: u64,
    /// The window's batches: how many transactions the path has.
    pub batches: u64,
    /// From the first transaction on, each behind the one before: [`Path::LINKS`] at most.
    pub links: Vec<Link>,
}

/// A step of a critical path: who waits for whom, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Link {
    /// The transaction that waits.
    pub position: u64,
    /// Its procedure.
    pub procedure: &'static str,
    /// For whom it waits.
    pub on: u64,
    /// The procedure of that one.
    pub on_procedure: &'static str,
    /// The table, or the domain of grouped tables.
    pub name: &'static str,
    /// As in [`HotKey`].
    pub key: String,
}

impl Path {
    /// How many links of a path are kept.
    pub const LINKS: usize = 32;
}

impl Explanation {
    /// How many keys are kept track of.
    pub const KEYS: usize = 64;
    /// Stands for the table where one of two transactions may touch anything.
    pub const UNKNOWN: &'static str = "(unknown footprint)";
    /// Stands for the procedure of entries that call none.
    pub const NO_PROCEDURE: &'static str = "(none)";

    /// Whether there is nothing to tell: the engine was not asked to explain.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Text in columns: the first `left` of them flush left, the others flush right.
struct Columns {
    left: usize,
    rows: Vec<Vec<String>>,
}

impl Columns {
    fn new<const N: usize>(left: usize, titles: [&str; N]) -> Self {
        Self { left, rows: vec![titles.map(str::to_owned).to_vec()] }
    }

    fn row<const N: usize>(&mut self, cells: [&dyn fmt::Display; N]) {
        self.rows.push(cells.iter().map(ToString::to_string).collect());
    }
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..self.rows[0].len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                if column < self.left {
                    write!(line, "{cell:<width$}  ")?;
                } else {
                    write!(line, "{cell:>width$}  ")?;
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A key that is longer than people want to read.
fn shortened(key: &str) -> String {
    match key.char_indices().nth(48) {
        Some((end, _)) => format!("{}..", &key[..end]),
        None => key.to_owned(),
    }
}

/// How many lines of a list a report shows.
const LINES: usize = 10;

impl Explanation {
    fn windows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OneByOne { asked_for, small, serial, after_serial, crowded, slower } = self.one_by_one;
        writeln!(
            f,
            "{} windows, {} mixed, {} of them explained; {} executed one by one{}",
            self.windows,
            self.mixed_windows,
            self.explained_windows,
            asked_for + small + serial + after_serial + crowded + slower,
            if asked_for > 0 { " as asked for" } else { "" }
        )?;
        if small + serial + after_serial > 0 {
            writeln!(
                f,
                "  ({small} too small to mix, {serial} nearly without parallelism, {after_serial} after those)"
            )?;
        }
        if crowded > 0 {
            writeln!(f, "  ({crowded} since other programs wanted the processors)")?;
        }
        if slower > 0 {
            writeln!(f, "  ({slower} since that was measured to be faster)")?;
        }
        if self.explained_windows == 0 {
            return writeln!(f, "no window was mixed, so nothing is known of conflicts: see mode parallel");
        }
        writeln!(
            f,
            "{} entries in {} batches: parallelism {:.2}; {} of them waited, {} waits",
            self.entries, self.batches, self.parallelism, self.waiting, self.waits
        )
    }

    fn places(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut columns =
            Columns::new(1, ["waits by table", "waits", "critical", "on path", "parallelism without"]);
        for Contention { name, waits, critical, path, parallelism_without, .. } in
            self.tables.iter().take(LINES)
        {
            columns.row([name, waits, critical, path, &format!("{parallelism_without:.2}")]);
        }
        writeln!(f, "\n{columns}")?;
        let mut columns = Columns::new(2, ["waits by key", "", "waits", "critical", "on path"]);
        for HotKey { name, key, waits, waits_error, critical, path } in self.keys.iter().take(LINES) {
            let about = if *waits_error > 0 { "<=" } else { "" };
            columns.row([name, &shortened(key), &format!("{about}{waits}"), critical, path]);
        }
        writeln!(f, "{columns}")?;
        let mut columns = Columns::new(3, ["waits of", "for", "in", "waits", "critical", "on path"]);
        for WaitsFor { waiting, on, name, waits, critical, path } in self.conflicts.iter().take(LINES) {
            columns.row([waiting, on, name, waits, critical, path]);
        }
        write!(f, "{columns}")
    }

    fn inferred(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.inferred.is_empty() {
            return Ok(());
        }
        let condition = |when: &[String]| {
            if when.is_empty() { String::new() } else { format!(" if {}", when.join(", ")) }
        };
        writeln!(f, "\nfootprints that follow from arguments")?;
        for Inferred { procedure, when, accesses } in &self.inferred {
            writeln!(f, "  {procedure}{}", condition(when))?;
            let mut columns = Columns::new(5, [""; 5]);
            columns.rows.clear();
            for InferredAccess { mode, table, is_granule, key, each, when } in accesses {
                let granule = if *is_granule { "granule " } else { "" };
                let each = each
                    .as_ref()
                    .map_or_else(String::new, |list| format!("for each of {list}{}", condition(when)));
                columns.row([&"  ", mode, table, &format!("{granule}{key}"), &each]);
            }
            if !columns.rows.is_empty() {
                write!(f, "{columns}")?;
            }
        }
        Ok(())
    }

    fn path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Path { window, entries, batches, links }) = &self.longest_path else { return Ok(()) };
        writeln!(f, "\nlongest path: {batches} of the {entries} entries from position {window}")?;
        let mut columns = Columns::new(7, ["", "", "", "", "", "", ""]);
        columns.rows.clear();
        for Link { position, procedure, on, on_procedure, name, key } in links.iter().take(LINES) {
            columns.row([
                &" ",
                position,
                procedure,
                &"after",
                &format!("{on} {on_procedure}"),
                name,
                &shortened(key),
            ]);
        }
        if !columns.rows.is_empty() {
            write!(f, "{columns}")?;
        }
        match (*batches as usize).saturating_sub(1 + links.len().min(LINES)) {
            0 => Ok(()),
            more => writeln!(f, "   and {more} more"),
        }
    }

    fn procedures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut columns = Columns::new(
            1,
            [
                "procedure",
                "transactions",
                "aborts",
                "panics",
                "violations",
                "ahead",
                "adopted",
                "inferred",
                "waited",
                "waits",
                "mean ns",
            ],
        );
        for p in &self.procedures {
            let mean = p.execute_ns_mean.map_or_else(|| "-".to_owned(), |ns| ns.to_string());
            columns.row([
                &p.name,
                &p.transactions,
                &p.aborts,
                &p.panics,
                &p.violations,
                &p.reconnoitred,
                &p.adopted,
                &p.inferred,
                &p.waiting,
                &p.waits,
                &mean,
            ]);
        }
        write!(f, "\n{columns}")?;
        if self.replays > 0 {
            writeln!(f, "\n{} violations, {} replays", self.violations, self.replays)?;
        }
        for p in self.procedures.iter().filter(|p| p.footprint_panics > 0) {
            writeln!(f, "  footprints of {} that panicked: {}", p.name, p.footprint_panics)?;
        }
        for Missed { procedure, table, transactions } in &self.missed {
            writeln!(f, "  undeclared accesses of {procedure} to {table}: {transactions}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.windows(f)?;
        if self.waits > 0 {
            self.places(f)?;
            self.path(f)?;
        }
        self.procedures(f)?;
        self.inferred(f)
    }
}
