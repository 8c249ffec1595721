//! Every workload, live on a durable log, against the sequential executor: the same digest, replies (they are part
//! of the digest) and rows, whatever the threads, the window and the mode.

use std::sync::Arc;

use mixlog::log::{FileLog, SharedLog, file};
use mixlog::workloads::list_append;
use mixlog::workloads::list_append::client::ListAppends;
use mixlog::workloads::runner::{self, Stop};
use mixlog::workloads::smallbank::client::SmallBank;
use mixlog::workloads::smallbank::driver;
use mixlog::workloads::tpcc::client::Tpcc;
use mixlog::workloads::tpcc::schema::Scale;
use mixlog::workloads::transfer::{self, Transfers};
use mixlog::workloads::workload::Workload;
use mixlog::workloads::ycsb::client::{Config, Mix, Ycsb};
use mixlog::workloads::ycsb::record::{Inline, Ordered};
use mixlog::{Digest, Engine, Mode, Position};

/// More with MIXLOG_SEEDS=N.
fn seeds() -> u64 {
    std::env::var("MIXLOG_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

fn record<W: Workload>(workload: &W, log: Arc<dyn SharedLog>, seed: u64, transactions: u64) -> Digest {
    let engine = workload.register(Engine::builder()).threads(2).window(256).open(log).expect("it opens");
    runner::prepare(&engine, workload, &mut |_, _| ()).expect("it is populated");
    let config =
        runner::Config { clients: 2, stop: Stop::Transactions(transactions), seed, ..Default::default() };
    let report = runner::run(&engine, workload, &config, &mut |_| ()).expect("it runs");
    let failed: Vec<_> = report.checks.iter().filter(|check| !check.ok).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let digest = engine.digest();
    assert_eq!(engine.snapshot().state_digest(), digest.state, "kept up, and from scratch");
    engine.close().expect("it closes");
    digest
}

fn replay<W: Workload>(
    workload: &W,
    log: &Arc<dyn SharedLog>,
    threads: usize,
    window: u32,
    mode: Mode,
    middle: Position,
) -> [Digest; 2] {
    let builder = workload.register(Engine::builder()).threads(threads).window(window).mode(mode);
    let replay = builder.replay(Arc::clone(log)).expect("it opens");
    let digests = [replay.to(middle).expect("it replays"), replay.to_end().expect("it replays")];
    assert_eq!(replay.snapshot().state_digest(), digests[1].state, "kept up, and from scratch");
    assert_eq!(replay.stats().violations, 0, "the footprints are exact");
    digests
}

fn check<W: Workload>(make: impl Fn(u64) -> W, transactions: u64) {
    for seed in 0..seeds() {
        let workload = make(seed);
        let directory = tempfile::tempdir().expect("a directory");
        let config = || file::Config {
            durability: mixlog::log::Durability::Buffered,
            segment_bytes: 9 << 20,
            ..Default::default()
        };
        let log = Arc::new(FileLog::open(directory.path().join("log"), config()).expect("a log"));
        let live = record(&workload, log, seed, transactions);
        // What counts is what is on the disk.
        let log: Arc<dyn SharedLog> =
            Arc::new(FileLog::open_read_only(directory.path().join("log")).expect("the log opens again"));
        let middle = Position(live.position.expect("something ran").0 / 2);
        let oracle = replay(&workload, &log, 1, 4096, Mode::Sequential, middle);
        assert_eq!(oracle[1], live, "{}, seed {seed}: live", workload.name());
        for threads in [1, 2, 4, 8] {
            for window in [1, 7, 64, 4096] {
                let found = replay(&workload, &log, threads, window, Mode::Parallel, middle);
                assert_eq!(
                    found,
                    oracle,
                    "{}, seed {seed}, {threads} threads, window {window}",
                    workload.name()
                );
            }
        }
        assert_eq!(replay(&workload, &log, 2, 1000, Mode::Auto, middle), oracle, "auto");
        for (mode, one_in) in [(Mode::Sequential, 1), (Mode::Parallel, 1), (Mode::Parallel, 5)] {
            let builder = workload.register(Engine::builder()).threads(2).mode(mode).paranoid(one_in);
            let replay = builder.replay(Arc::clone(&log)).expect("it opens");
            assert_eq!(replay.to_end().expect("it is deterministic"), oracle[1], "one in {one_in} twice");
            assert!(replay.stats().run_twice > 0);
        }
    }
}

#[test]
fn tpcc_parallel_equals_sequential() {
    check::<Tpcc>(|seed| Tpcc::new(Scale::small(2), seed), 1500);
}

#[test]
fn ycsb_parallel_equals_sequential() {
    for mix in [Mix::A, Mix::B, Mix::C, Mix::D, Mix::F] {
        check::<Ycsb<Inline<100>>>(
            |seed| {
                let theta = if seed == 0 { 0.99 } else { 0.5 };
                Ycsb::new(Config { records: 500, value_size: 100, operations: 5, theta, ..Config::new(mix) })
            },
            800,
        );
    }
}

#[test]
fn ycsb_with_scans_parallel_equals_sequential() {
    check::<Ycsb<Ordered<100>>>(
        |seed| {
            let theta = if seed == 0 { 0.99 } else { 0.5 };
            Ycsb::new(Config { records: 500, value_size: 100, operations: 3, theta, ..Config::new(Mix::E) })
        },
        800,
    );
}

#[test]
fn transfers_parallel_equals_sequential() {
    check::<Transfers>(
        |seed| {
            let hot = if seed == 0 { 0.3 } else { 1.0 };
            Transfers::new(transfer::Config {
                accounts: 200,
                hot,
                initial: mixlog::workloads::money::Cents(50_00),
            })
        },
        1500,
    );
}

#[test]
fn smallbank_parallel_equals_sequential() {
    check::<SmallBank>(
        |seed| {
            let hot = if seed == 0 { 0.5 } else { 1.0 };
            SmallBank::new(driver::Config { accounts: 200, hot, hot_accounts: 10 }, seed)
        },
        1500,
    );
}

#[test]
fn list_append_parallel_equals_sequential() {
    check::<ListAppends>(
        |seed| {
            let keys = if seed == 0 { 3 } else { 30 };
            ListAppends::new(list_append::driver::Config { keys, abort: 0.1, ..Default::default() })
        },
        1500,
    );
}
