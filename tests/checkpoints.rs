//! Checkpoints of every workload, taken while it runs: whoever starts from one comes to the oracle's digest, whatever the
//! threads, the window and the mode, and an engine goes on from one on a log that was trimmed.

use std::sync::Arc;

use mixlog::checkpoint::{self, Start};
use mixlog::log::{Durability, FileLog, SharedLog, file};
use mixlog::workloads::list_append;
use mixlog::workloads::list_append::client::ListAppends;
use mixlog::workloads::money::Cents;
use mixlog::workloads::runner::{self, Stop};
use mixlog::workloads::smallbank::client::SmallBank;
use mixlog::workloads::smallbank::driver;
use mixlog::workloads::tpcc::client::Tpcc;
use mixlog::workloads::tpcc::schema::Scale;
use mixlog::workloads::transfer::{self, Transfers};
use mixlog::workloads::workload::Workload;
use mixlog::workloads::ycsb::client::{Config, Mix, Ycsb};
use mixlog::workloads::ycsb::record::{Boxed, Inline, Ordered};
use mixlog::{Digest, Engine, Mode, OpenError, Position};

fn config() -> file::Config {
    file::Config {
        durability: Durability::Buffered,
        segment_bytes: 64 << 10,
        max_batch_bytes: 24 << 10,
        ..Default::default()
    }
}

/// Runs the workload, with checkpoints all the while.
fn record<W: Workload>(
    workload: &W,
    log: Arc<dyn SharedLog>,
    checkpoints: checkpoint::Config,
    transactions: u64,
) -> Digest {
    let builder = workload.register(Engine::builder()).threads(2).window(64).checkpoints(checkpoints);
    let engine = builder.open(log).expect("it opens");
    runner::prepare(&engine, workload, &mut |_, _| ()).expect("it is populated");
    let config = runner::Config { clients: 2, stop: Stop::Transactions(transactions), ..Default::default() };
    std::thread::scope(|scope| {
        let run = scope.spawn(|| runner::run(&engine, workload, &config, &mut |_| ()).expect("it runs"));
        let mut last = None;
        while !run.is_finished() {
            let taken = engine.checkpoint().expect("it is taken");
            assert!(last <= Some(taken.position), "{taken:?}");
            last = Some(taken.position);
        }
        let failed: Vec<_> = run.join().unwrap().checks.into_iter().filter(|check| !check.ok).collect();
        assert!(failed.is_empty(), "{failed:?}");
    });
    let digest = engine.digest();
    engine.close().expect("it closes");
    digest
}

fn check<W: Workload>(workload: &W, transactions: u64) {
    let name = workload.name();
    let directory = tempfile::tempdir().expect("a directory");
    let open = || FileLog::open(directory.path().join("log"), config()).expect("a log");
    let keep = checkpoint::Config { keep: 1000, every_bytes: None, trim: false, ..Default::default() };
    let take_one = |config: &checkpoint::Config| {
        let builder = workload.register(Engine::builder()).checkpoints(config.clone());
        let engine = builder.open(Arc::new(open())).expect("it opens");
        engine.checkpoint().expect("it is taken");
        engine.close().expect("it closes");
    };
    // On a busy machine there may be none but at the beginning: there is one half way, and one at the end.
    let half = || record(workload, Arc::new(open()), keep.clone(), transactions / 2);
    half();
    take_one(&keep);
    let live = half();
    take_one(&keep);
    let log: Arc<dyn SharedLog> =
        Arc::new(FileLog::open_read_only(directory.path().join("log")).expect("the log opens again"));

    let from = |start| checkpoint::Config { start, ..keep.clone() };
    let builder = workload.register(Engine::builder()).mode(Mode::Sequential).threads(1);
    let oracle = builder.checkpoints(from(Start::Oldest)).replay(Arc::clone(&log)).expect("it replays");
    let end = live.position.expect("something ran");
    let positions: Vec<_> = (5..=8).map(|part| Position(end.0 * part / 8)).collect();
    let digests: Vec<_> = positions.iter().map(|at| oracle.to(*at).expect("it replays")).collect();
    assert_eq!(digests.last(), Some(&live), "{name}: live");
    assert_eq!(oracle.recovery().expect("it started").checkpoint, None, "from the start");

    let mut used = 0;
    for (threads, window, mode) in
        [(1, 7, Mode::Sequential), (2, 64, Mode::Parallel), (4, 4096, Mode::Parallel), (3, 256, Mode::Auto)]
    {
        for (at, expected) in positions.iter().zip(&digests) {
            let builder = workload.register(Engine::builder()).threads(threads).window(window).mode(mode);
            let replay =
                builder.checkpoints(from(Start::Newest)).replay(Arc::clone(&log)).expect("it replays");
            assert_eq!(replay.to(*at).expect("it replays"), *expected, "{name}, {threads} threads, to {at}");
            assert_eq!(replay.snapshot().state_digest(), expected.state, "kept up, and from scratch");
            let recovery = replay.recovery().expect("it started");
            assert!(recovery.checkpoint.is_none_or(|position| position <= *at));
            // One of the beginning may have no rows.
            used += usize::from(recovery.rows > 0 && recovery.checkpoint < Some(end));
        }
    }
    assert!(used > 0, "{name}: no checkpoint was used");
    drop((oracle, log));

    // Goes on from the newest one, keeps two, and gives up the log before them. With one at each end those that are kept are
    // not of the beginning.
    let trims = checkpoint::Config { every_bytes: Some(20 << 10), keep: 2, ..Default::default() };
    let second = record(workload, Arc::new(open()), trims.clone(), transactions);
    take_one(&trims);
    let log = Arc::new(FileLog::open_read_only(directory.path().join("log")).expect("the log opens again"));
    let head = log.tail().unwrap().head;
    assert!(head > Position::ZERO, "{name}: not trimmed");
    for (threads, window) in [(1, 100), (2, 64), (4, 4096)] {
        let builder = || workload.register(Engine::builder()).threads(threads).window(window);
        let replay = builder().replay(Arc::clone(&log) as _).expect("it replays");
        assert_eq!(replay.to_end().expect("it replays"), second, "{name}: on a log that was trimmed");
        assert_eq!(replay.snapshot().state_digest(), second.state);
        let early = builder().replay(Arc::clone(&log) as _).expect("it replays").to(Position(head.0 / 2));
        assert!(matches!(early, Err(OpenError::TooEarly { .. })), "{early:?}");
    }
}

#[test]
fn a_checkpoint_told_a_second_time_has_the_same_rows_and_bytes() {
    let directory = tempfile::tempdir().expect("a directory");
    let workload: Tpcc = Tpcc::new(Scale::small(1), 1);
    let open = || {
        let log = FileLog::open(directory.path().join("log"), config()).expect("a log");
        workload.register(Engine::builder()).open(Arc::new(log)).expect("it opens")
    };
    let engine = open();
    runner::prepare(&engine, &workload, &mut |_, _| ()).expect("it is populated");
    let content = |engine: &Engine| {
        let taken = engine.checkpoint().expect("it is taken");
        (taken.position, taken.rows, taken.bytes)
    };
    let first = content(&engine);
    assert!(first.1 > 0 && content(&engine) == first);
    engine.close().expect("it closes");
    // Also by one that loaded it, and one that did not.
    let engine = open();
    assert_eq!((engine.recovery().checkpoint, content(&engine)), (Some(first.0), first));
    engine.close().expect("it closes");
    let log = Arc::new(FileLog::open(directory.path().join("log"), config()).expect("a log"));
    let from = checkpoint::Config { start: Start::Oldest, ..Default::default() };
    let engine = workload.register(Engine::builder()).checkpoints(from).open(log).expect("it opens");
    assert_eq!(content(&engine), first);
}

#[test]
fn tpcc_from_checkpoints_equals_the_oracle() {
    check::<Tpcc>(&Tpcc::new(Scale::small(1), 1), 1200);
}

#[test]
fn ycsb_from_checkpoints_equals_the_oracle() {
    for mix in [Mix::A, Mix::D, Mix::F] {
        check(
            &Ycsb::<Inline<100>>::new(Config {
                records: 300,
                value_size: 100,
                operations: 3,
                ..Config::new(mix)
            }),
            800,
        );
    }
    check(
        &Ycsb::<Boxed>::new(Config { records: 300, value_size: 200, operations: 3, ..Config::new(Mix::A) }),
        800,
    );
    check(&Ycsb::<Ordered<100>>::new(Config { records: 300, value_size: 100, ..Config::new(Mix::E) }), 800);
}

#[test]
fn transfers_from_checkpoints_equal_the_oracle() {
    check::<Transfers>(
        &Transfers::new(transfer::Config { accounts: 200, hot: 0.3, initial: Cents(50_00) }),
        1500,
    );
}

#[test]
fn smallbank_from_checkpoints_equals_the_oracle() {
    check::<SmallBank>(
        &SmallBank::new(driver::Config { accounts: 200, hot: 0.5, hot_accounts: 10 }, 1),
        1500,
    );
}

#[test]
fn list_append_from_checkpoints_equals_the_oracle() {
    check::<ListAppends>(
        &ListAppends::new(list_append::driver::Config { keys: 10, abort: 0.1, ..Default::default() }),
        1500,
    );
}
