//! Whole runs: population, clients, audit and report.

use std::time::Duration;

use mixlog_engine::Engine;
use mixlog_workloads::money::Cents;
use mixlog_workloads::report::Report;
use mixlog_workloads::runner::{self, Config, Stop};
use mixlog_workloads::smallbank::client::SmallBank;
use mixlog_workloads::smallbank::driver;
use mixlog_workloads::tpcc::client::Tpcc;
use mixlog_workloads::tpcc::schema::Scale;
use mixlog_workloads::transfer::{self, Transfers};
use mixlog_workloads::workload::{DriveError, Workload};
use mixlog_workloads::ycsb::client::{Mix, Ycsb};
use mixlog_workloads::ycsb::record::{Boxed, Inline, Ordered, Record};
use mixlog_workloads::{tpcc, ycsb};

use crate::support::{assert_ok, config, empty, failures, populated};

fn run<W: Workload>(engine: &Engine, workload: &W, transactions: u64, seed: u64) -> Report {
    let report =
        runner::run(engine, workload, &config(transactions, seed), &mut |_| {}).expect("the run ends");
    assert_ok(&report.checks);
    assert_eq!(report.transactions, transactions);
    assert_eq!(report.violations, 0, "footprints are exact");
    report
}

fn tpcc(scale: Scale) -> Tpcc {
    Tpcc::new(scale, 1)
}

#[test]
fn tpcc_passes_its_audit_on_any_number_of_threads() {
    for threads in [1, 2, 4] {
        let workload = tpcc(Scale::small(2));
        let engine = populated(&workload, threads);
        let report = run(&engine, &workload, 8_000, 3);
        assert_eq!(report.checks.len(), 27, "12 conditions, E1 to E12, P1, P2 and outcomes");
        assert!(report.aborts > 10, "one percent of the orders roll back: {}", report.aborts);
        assert_eq!(report.unexpected, 0);
    }
}

#[test]
fn tpcc_passes_its_audit_again_after_a_second_run_and_without_acknowledgements() {
    let workload = tpcc(Scale::small(1));
    let engine = populated(&workload, 2);
    run(&engine, &workload, 2_000, 1);
    run(&engine, &workload, 2_000, 2);
    let checks = workload.audit(&engine.snapshot(), None);
    assert_ok(&checks);
    let e7 = checks.iter().find(|check| check.name == "E7").expect("it is checked");
    assert!(e7.detail.contains("nobody counted"), "{}", e7.detail);
}

fn ycsb_config(mix: Mix, value_size: u32, theta: f64) -> ycsb::client::Config {
    ycsb::client::Config { mix, records: 500, value_size, operations: 4, theta }
}

fn run_ycsb<R: Record>(mix: Mix, value_size: u32, theta: f64, threads: usize) {
    let workload = Ycsb::<R>::new(ycsb_config(mix, value_size, theta));
    let engine = populated(&workload, threads);
    run(&engine, &workload, 4_000, 5);
    run(&engine, &workload, 1_000, 6);
    assert_ok(&workload.audit(&engine.snapshot(), None));
    if mix != Mix::C {
        let none =
            workload.client(&engine.snapshot(), 1, 0).map(|_| Default::default()).expect("it is populated");
        assert_eq!(failures(&workload.audit(&engine.snapshot(), Some(&none))), ["Y3"], "updates are counted");
    }
}

#[test]
fn ycsb_passes_its_audit_for_every_mix() {
    for mix in [Mix::A, Mix::B, Mix::C, Mix::D, Mix::F] {
        run_ycsb::<Inline<100>>(mix, 100, 0.99, 2);
    }
    run_ycsb::<Ordered<100>>(Mix::E, 100, 0.99, 2);
    run_ycsb::<Ordered<1_000>>(Mix::E, 1_000, 0.5, 4);
}

#[test]
fn ycsb_passes_its_audit_for_every_kind_of_record() {
    run_ycsb::<Inline<1_000>>(Mix::A, 1_000, 0.0, 1);
    run_ycsb::<Boxed>(Mix::F, 250, 0.5, 4);
    run_ycsb::<Boxed>(Mix::D, 250, 0.0, 2);
}

#[test]
fn transfers_pass_their_audit_hot_or_not() {
    for (hot, threads) in [(0.0, 1), (0.5, 2), (1.0, 4)] {
        let workload: Transfers =
            Transfers::new(transfer::Config { accounts: 100, hot, initial: Cents(200_00) });
        let engine = populated(&workload, threads);
        let report = run(&engine, &workload, 5_000, 7);
        assert!(report.aborts > 0, "some accounts run dry");
        assert_eq!(report.unexpected, 0);
        assert_ok(&workload.audit(&engine.snapshot(), None));
    }
}

#[test]
fn smallbank_passes_its_audit_hot_or_not() {
    for (hot, threads) in [(0.0, 1), (0.9, 2), (1.0, 4)] {
        let config = driver::Config { accounts: 200, hot, hot_accounts: 5 };
        let workload: SmallBank = SmallBank::new(config, 1);
        let engine = populated(&workload, threads);
        let report = run(&engine, &workload, 5_000, 7);
        assert!(report.aborts > 0, "some customers have nothing: they were amalgamated");
        assert_eq!(report.unexpected, 0);
        // Another seed draws other transactions over the same population.
        run(&engine, &SmallBank::<mixlog_workloads::footprints::Exact>::new(config, 2), 1_000, 8);
        assert_ok(&workload.audit(&engine.snapshot(), None));
    }
}

#[test]
fn same_seed_and_one_client_leave_the_same_rows() {
    // Time stands in rows, so that digests differ between logs; transfers have none.
    let digests: Vec<u128> = [1, 4]
        .into_iter()
        .map(|threads| {
            let workload: Transfers = Transfers::new(transfer::Config { accounts: 50, ..Default::default() });
            let engine = populated(&workload, threads);
            let config = Config { clients: 1, ..config(3_000, 9) };
            let report = runner::run(&engine, &workload, &config, &mut |_| {}).expect("the run ends");
            assert_ok(&report.checks);
            engine.digest().state
        })
        .collect();
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn a_run_by_time_ends_in_time_and_tells_its_progress() {
    let workload: Transfers = Transfers::new(transfer::Config::default());
    let engine = empty(&workload, 2);
    let mut chunks = 0;
    assert!(
        runner::prepare(&engine, &workload, &mut |_, total| {
            chunks += 1;
            assert_eq!(total, 101);
        })
        .expect("it is populated")
    );
    assert_eq!(chunks, 101);
    assert!(
        !runner::prepare(&engine, &workload, &mut |_, _| panic!("it is populated")).expect("nothing to do")
    );

    let config = Config { stop: Stop::After(Duration::from_millis(1_300)), ..Config::default() };
    let mut reports = Vec::new();
    let report =
        runner::run(&engine, &workload, &config, &mut |progress| reports.push(*progress)).expect("it ends");
    assert!(!reports.is_empty() && reports[0].transactions > 0 && reports[0].per_second > 0.0);
    assert!(report.seconds >= 1.3 && report.transactions > 0);
    assert_ok(&report.checks);
}

#[test]
fn report_has_the_keys_that_programs_read() {
    let workload: Transfers = Transfers::new(transfer::Config { accounts: 10, ..Default::default() });
    let engine = populated(&workload, 1);
    let report = run(&engine, &workload, 100, 1);
    let json = serde_json::to_value(&report).expect("it serializes");
    for key in [
        "workload",
        "threads",
        "window",
        "mode",
        "durability",
        "transactions",
        "seconds",
        "throughput_per_second",
        "latency_us",
        "aborts",
        "violations",
        "replays",
        "batches",
        "parallelism",
        "position",
        "digest",
        "checks",
    ] {
        assert!(!json[key].is_null(), "{key}");
    }
    for key in ["p50", "p90", "p99", "p999", "max"] {
        assert!(json["latency_us"][key].is_u64(), "{key}");
    }
    for key in ["name", "ok", "detail"] {
        assert!(!json["checks"][0][key].is_null(), "{key}");
    }
    assert!(report.to_string().contains("transfer: "));
}

#[test]
fn clients_refuse_a_log_without_their_population() {
    let workload = tpcc(Scale::small(1));
    let engine = empty(&workload, 1);
    let error = runner::run(&engine, &workload, &config(10, 1), &mut |_| {}).expect_err("there are no data");
    assert!(matches!(error, DriveError::NotPopulated(_)), "{error}");

    let engine = populated(&workload, 1);
    let other = tpcc(Scale { items: 300, ..Scale::small(1) });
    let error = runner::run(&engine, &other, &config(10, 1), &mut |_| {}).expect_err("the scale differs");
    assert!(error.to_string().contains("300"), "{error}");

    let none = Config { clients: 0, ..Config::default() };
    let error = runner::run(&engine, &workload, &none, &mut |_| {}).expect_err("nobody submits");
    assert!(matches!(error, DriveError::NoClients));
}

#[test]
fn an_interrupted_population_can_be_made_again() {
    use mixlog_workloads::tpcc::load::{Load, procedures};
    let workload = tpcc(Scale::small(1));
    let engine = empty(&workload, 2);
    for load in procedures(*workload.population()).take(15) {
        match load {
            Load::Items(load) => drop(crate::support::commit(&engine, &load)),
            Load::Warehouse(load) => drop(crate::support::commit(&engine, &load)),
            Load::Stock(load) => drop(crate::support::commit(&engine, &load)),
            Load::Customers(load) => drop(crate::support::commit(&engine, &load)),
            Load::Orders(load) => drop(crate::support::commit(&engine, &load)),
            Load::Population(_) => unreachable!("it comes last"),
        }
    }
    assert!(!workload.is_populated(&engine.snapshot()));
    workload.populate(&engine, &mut |_, _| {}).expect("the population commits");
    assert_ok(&workload.audit(&engine.snapshot(), None));
    run(&engine, &workload, 500, 1);
    assert!(tpcc::schema::Scale::full(1).is_valid());
}
