//! What an engine tells about conflicts: that it names the right keys, tables and procedures, and that its numbers are
//! those of the schedule.

use std::sync::Arc;
use std::thread;

use mixlog_engine::{
    Builder, Engine, Explanation, Footprint, Mode, Never, Outcome, Procedure, Replay, Table, Tx,
};
use mixlog_log::{MemoryLog, SharedLog};
use serde::{Deserialize, Serialize};

const ACCOUNTS: Table<String, i64> = Table::new("accounts");
const TOTALS: Table<u64, i64, mixlog_engine::Fixed> = Table::fixed("totals");
const ORDERS: Table<(u32, u32), u64> =
    Table::new("orders").grouped("district", |key: &(u32, u32)| u64::from(key.0)).ordered();
const LINES: Table<(u32, u32), u64> =
    Table::new("lines").grouped("district", |key: &(u32, u32)| u64::from(key.0));
const WATCHED: Table<(u32, u32), u64> = Table::new("watched").watched(|key: &(u32, u32)| u64::from(key.0));

fn account(number: u64) -> String {
    format!("account {number}")
}

/// Adds to an account and to a total.
#[derive(Serialize, Deserialize)]
struct Pay {
    account: u64,
    total: u64,
}

impl Procedure for Pay {
    const NAME: &'static str = "pay";
    type Output = ();
    type Abort = String;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&ACCOUNTS, &account(self.account)).write(&TOTALS, &self.total);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), String> {
        let sum = tx.get(&ACCOUNTS, &account(self.account)).copied().unwrap_or(0) + 1;
        tx.put(&ACCOUNTS, account(self.account), sum);
        let sum = tx.get(&TOTALS, &self.total).copied().unwrap_or(0) + 1;
        tx.put(&TOTALS, self.total, sum);
        if self.account == 13 { Err("thirteen".to_owned()) } else { Ok(()) }
    }
}

/// Takes the next number of a district.
#[derive(Serialize, Deserialize)]
struct Order {
    district: u32,
}

impl Procedure for Order {
    const NAME: &'static str = "order";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write_granule(&ORDERS, u64::from(self.district));
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        let last =
            tx.last(&ORDERS, (self.district, 0)..=(self.district, u32::MAX)).map_or(0, |(key, _)| key.1);
        tx.put(&ORDERS, (self.district, last + 1), 1);
        tx.put(&LINES, (self.district, last + 1), 1);
        Ok(())
    }
}

/// Counts the watched rows of a group, having put one.
#[derive(Serialize, Deserialize)]
struct Watch {
    group: u32,
    row: u32,
    looks: bool,
}

impl Procedure for Watch {
    const NAME: &'static str = "watch";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&WATCHED, &(self.group, self.row));
        if self.looks {
            f.read_granule(&WATCHED, u64::from(self.group));
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&WATCHED, (self.group, self.row), 1);
        Ok(())
    }
}

/// Says nothing about its footprint, or the wrong thing.
#[derive(Serialize, Deserialize)]
struct Sly {
    unknown: bool,
}

impl Procedure for Sly {
    const NAME: &'static str = "sly";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        if self.unknown {
            f.unknown();
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&TOTALS, 99, 1);
        Ok(())
    }
}

fn builder() -> Builder {
    Engine::builder()
        .table(&ACCOUNTS)
        .table(&TOTALS)
        .table(&ORDERS)
        .table(&LINES)
        .table(&WATCHED)
        .procedure::<Pay>()
        .procedure::<Order>()
        .procedure::<Watch>()
        .procedure::<Sly>()
        .threads(2)
        .mode(Mode::Parallel)
        .explain(1)
}

/// A log of what `submit` submits.
fn log(submit: impl FnOnce(&Engine)) -> Arc<MemoryLog> {
    let log = Arc::new(MemoryLog::new());
    let engine = builder().explain(0).open(Arc::clone(&log) as _).expect("it opens");
    submit(&engine);
    log
}

fn submit<P: Procedure>(engine: &Engine, procedure: &P) {
    // What becomes of it is in the log.
    drop(engine.submit(procedure).expect("it is taken"));
}

/// Executes the log from its start in windows that do not depend on timing.
fn replay(builder: Builder, log: &Arc<MemoryLog>) -> Replay {
    let replay = builder.replay(Arc::clone(log) as Arc<dyn SharedLog>).expect("it opens");
    replay.to_end().expect("it runs");
    replay
}

/// Numbers that must agree, whatever was run.
fn check_sums(explanation: &Explanation) {
    let sum = |all: &mut dyn Iterator<Item = u64>| all.sum::<u64>();
    for (total, counts) in [
        (explanation.waits, sum(&mut explanation.tables.iter().map(|t| t.waits))),
        (explanation.waits, sum(&mut explanation.conflicts.iter().map(|c| c.waits))),
        (explanation.waiting, sum(&mut explanation.tables.iter().map(|t| t.critical))),
        (explanation.waiting, sum(&mut explanation.conflicts.iter().map(|c| c.critical))),
        (
            explanation.batches,
            explanation.explained_windows + sum(&mut explanation.tables.iter().map(|t| t.path)),
        ),
    ] {
        assert_eq!(total, counts, "{explanation:#?}");
    }
    for table in &explanation.tables {
        assert!(table.path <= table.critical && table.critical <= table.waits);
        assert!(table.parallelism_without >= explanation.parallelism, "{table:?}");
    }
}

#[test]
fn explain_of_a_hot_key_names_it_first_and_tells_what_it_costs() {
    let log = log(|engine| {
        for i in 0..2_000u64 {
            submit(engine, &Pay { account: if i % 2 == 0 { 7 } else { 1_000 + i }, total: i });
        }
    });
    let replay = replay(builder(), &log);
    let (explanation, stats) = (replay.explain(), replay.stats());
    check_sums(&explanation);
    assert_eq!(explanation.explained_windows, stats.mixed_windows);
    assert_eq!((explanation.entries, explanation.batches), (stats.mixed_entries, stats.batches));
    assert!((explanation.parallelism - stats.parallelism()).abs() < 1e-9);

    let hot = &explanation.keys[0];
    assert_eq!((hot.name, &*hot.key), ("accounts", "\"account 7\""));
    // The first of each window waits for nobody.
    assert_eq!(hot.waits, 1_000 - explanation.explained_windows);
    assert_eq!((hot.critical, hot.path, hot.waits_error), (hot.waits, hot.waits, 0));
    assert_eq!(explanation.waits, hot.waits, "nothing else conflicts");
    assert_eq!(explanation.waiting, hot.waits);
    let table = &explanation.tables[0];
    assert_eq!(table.name, "accounts");
    let entries_per_window = explanation.entries as f64 / explanation.explained_windows as f64;
    assert!((table.parallelism_without - entries_per_window).abs() < 1e-9, "{table:?}");

    let path = explanation.longest_path.as_ref().expect("there is one");
    assert_eq!(path.links.len(), 32);
    for pair in path.links.windows(2) {
        assert_eq!(pair[1].on, pair[0].position, "each behind the one before");
        assert_eq!((pair[0].name, &*pair[0].key), ("accounts", "\"account 7\""));
    }
    let text = explanation.to_string();
    assert!(text.contains("account 7") && text.contains("parallelism without"), "{text}");
    let json = serde_json::to_value(&explanation).expect("it is JSON");
    assert_eq!(json["keys"][0]["key"], "\"account 7\"");
}

#[test]
fn explain_of_several_tables_names_domains_granules_and_procedures() {
    let log = log(|engine| {
        for i in 0..1_500u64 {
            match i % 3 {
                0 => submit(engine, &Order { district: if i % 2 == 0 { 4 } else { 1_000 + i as u32 } }),
                1 => submit(engine, &Watch { group: 6, row: i as u32, looks: i % 30 == 1 }),
                _ => submit(engine, &Pay { account: i, total: i / 3 % 20 }),
            }
        }
    });
    let explained = replay(builder(), &log);
    assert_eq!(
        explained.to_end().expect("it is at the end"),
        replay(builder().explain(0), &log).to_end().expect("it is at the end"),
        "explaining changes no result"
    );
    let explanation = explained.explain();
    check_sums(&explanation);
    let key = |name: &str| explanation.keys.iter().find(|key| key.name == name).map(|key| &*key.key);
    assert_eq!(key("district"), Some("granule 4"));
    assert_eq!(key("watched"), Some("granule 6"));
    assert!(key("totals").is_some_and(|key| key.parse::<u64>().is_ok_and(|key| key < 20)), "{explanation}");
    let district = explanation.tables.iter().find(|table| table.name == "district").expect("it is hot");
    assert_eq!(district.tables, ["orders", "lines"]);
    for (name, procedure) in [("district", "order"), ("watched", "watch"), ("totals", "pay")] {
        let conflicts: Vec<_> = explanation.conflicts.iter().filter(|c| c.name == name).collect();
        assert_eq!(conflicts.len(), 1, "{explanation}");
        assert_eq!((conflicts[0].waiting, conflicts[0].on), (procedure, procedure));
    }
    assert!(key("accounts").is_none(), "no account comes twice");
}

#[test]
fn explain_counts_outcomes_violations_and_unknown_footprints_by_procedure() {
    let log = log(|engine| {
        for i in 0..600u64 {
            match i {
                100 => submit(engine, &Sly { unknown: false }),
                200 | 300 => submit(engine, &Sly { unknown: true }),
                _ => {
                    submit(engine, &Pay { account: if i % 60 == 0 { 13 } else { 100 + i }, total: 1_000 + i })
                }
            }
        }
    });
    for threads in [1, 3] {
        let replay = replay(builder().threads(threads), &log);
        let explanation = replay.explain();
        check_sums(&explanation);
        let of = |name: &str| explanation.procedures.iter().find(|p| p.name == name).expect("it ran").clone();
        assert_eq!((of("pay").transactions, of("pay").aborts), (597, 9), "{explanation}");
        assert!(of("pay").execute_ns_mean.is_some());
        assert_eq!((of("sly").transactions, of("sly").violations), (3, 1));
        assert_eq!((explanation.violations, explanation.replays), (1, 1));
        let missed = &explanation.missed[0];
        assert_eq!((missed.procedure, missed.table, missed.transactions), ("sly", "totals", 1));
        assert!(
            explanation.tables.iter().any(|t| t.name == Explanation::UNKNOWN && t.path >= 2),
            "{explanation}"
        );
        assert!(explanation.to_string().contains("undeclared accesses of sly to totals: 1"));
    }
}

#[test]
fn explain_of_every_nth_window_looks_at_so_many() {
    let log = log(|engine| (0..4_000).for_each(|i| submit(engine, &Pay { account: 7, total: i })));
    let replay = replay(builder().explain(4), &log);
    let explanation = replay.explain();
    check_sums(&explanation);
    assert_eq!(explanation.explained_windows, explanation.mixed_windows / 4);
    assert!(explanation.explained_windows > 0);
    let pay = explanation.procedures.iter().find(|p| p.name == "pay").expect("it ran");
    assert_eq!(pay.transactions, 4_000, "all are counted");
}

#[test]
fn explain_of_windows_that_go_one_by_one_tells_why() {
    let log = log(|engine| (0..4_096 * 3).for_each(|i| submit(engine, &Pay { account: 7, total: i })));
    let replayed = replay(builder().mode(Mode::Sequential), &log);
    let explanation = replayed.explain();
    assert_eq!(explanation.one_by_one.asked_for, explanation.windows);
    assert_eq!((explanation.explained_windows, explanation.waits), (0, 0));
    assert!(explanation.to_string().contains("no window was mixed"), "{explanation}");

    let replayed = replay(builder().mode(Mode::Auto), &log);
    let (explanation, stats) = (replayed.explain(), replayed.stats());
    let reasons = explanation.one_by_one;
    assert!(reasons.serial > 0 && reasons.after_serial > reasons.serial, "{reasons:?}");
    assert_eq!(
        reasons.asked_for
            + reasons.small
            + reasons.serial
            + reasons.after_serial
            + reasons.crowded
            + reasons.slower,
        stats.sequential_windows
    );
    assert_eq!(explanation.mixed_windows, explanation.explained_windows);
    assert_eq!(explanation.keys[0].key, "\"account 7\"");
}

/// Its footprint panics, if it is told to.
#[derive(Serialize, Deserialize)]
struct Shy {
    panics: bool,
}

impl Procedure for Shy {
    const NAME: &'static str = "shy";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        assert!(!self.panics, "it cannot be told");
        f.read(&TOTALS, &1);
    }

    fn run(&self, _: &mut Tx<'_>) -> Result<(), Never> {
        Ok(())
    }
}

#[test]
fn footprints_that_panic_are_counted_by_procedure_in_every_mode() {
    for (mode, threads) in [(Mode::Parallel, 2), (Mode::Sequential, 1)] {
        let builder = builder().procedure::<Shy>().mode(mode).threads(threads);
        let engine = builder.open(Arc::new(MemoryLog::new())).expect("it opens");
        let run = |panics| {
            let tickets: Vec<_> =
                (0..7).map(|_| engine.submit(&Shy { panics }).expect("it is taken")).collect();
            tickets.into_iter().for_each(|ticket| assert!(ticket.wait().unwrap().committed().is_some()));
        };
        run(true);
        let pay = engine.submit(&Pay { account: 1, total: 1 }).expect("it is taken");
        assert!(pay.wait().unwrap().committed().is_some());
        let (stats, explanation) = (engine.stats(), engine.explain());
        assert_eq!((stats.footprint_panics, stats.panics, stats.violations), (7, 0, 0));
        assert_eq!(stats.footprint_panics_by_procedure, [("shy", 7)]);
        let of = |name| explanation.procedures.iter().find(|p| p.name == name).map(|p| p.footprint_panics);
        assert_eq!((explanation.footprint_panics, of("shy"), of("pay")), (7, Some(7), Some(0)));
        assert!(explanation.to_string().contains("footprints of shy that panicked: 7"), "{explanation}");
        engine.explain_anew();
        run(false);
        let explanation = engine.explain();
        assert_eq!(explanation.footprint_panics, 0);
        assert!(!explanation.to_string().contains("that panicked"), "{explanation}");
    }
}

#[test]
fn explain_without_being_asked_for_is_empty() {
    let log = log(|engine| (0..500).for_each(|i| submit(engine, &Pay { account: 7, total: i })));
    let explanation = replay(builder().explain(0), &log).explain();
    assert!(explanation.is_empty());
    assert_eq!(explanation, Explanation::default());
}

#[test]
fn explain_anew_forgets_what_was_before_and_rows_that_are_gone_are_hashes() {
    let engine = builder().open(Arc::new(MemoryLog::new())).expect("it opens");
    let pay = |account| {
        let tickets: Vec<_> =
            (0..2_000).map(|total| engine.submit(&Pay { account, total }).expect("it is taken")).collect();
        for ticket in tickets {
            assert!(matches!(ticket.wait(), Ok(Outcome::Committed { .. } | Outcome::Aborted { .. })));
        }
        // Who waits for a ticket may be told before the last window is counted.
        while engine.explain().procedures.iter().all(|procedure| procedure.transactions < 2_000) {
            thread::yield_now();
        }
    };
    pay(7);
    assert_eq!(engine.explain().keys[0].key, "\"account 7\"");
    engine.explain_anew();
    // All of these abort, so that no such row is ever there.
    pay(13);
    let explanation = engine.explain();
    let procedure = &explanation.procedures[0];
    assert_eq!((procedure.name, procedure.transactions, procedure.aborts), ("pay", 2_000, 2_000));
    assert!(explanation.keys.iter().all(|key| key.key != "\"account 7\""), "{explanation}");
    let hot = explanation.keys.iter().find(|key| key.name == "accounts").expect("it is hot");
    assert!(hot.key == "\"account 13\"" || hot.key.starts_with('#'), "{explanation}");
}
