//! The engine against a hand-written serial loop, and against itself: `cargo bench --bench ratios`.
//!
//! All contenders of a comparison run over the same pre-filled memory log (the loop: over the same transactions,
//! decoded), and end in the state of the engine that filled it. `ONLY=tpcc|ycsb|ycsb-e|transfer|undeclared|
//! undeclared-ycsb|payment|scan` runs one comparison; what is printed, and how often it is run, says `comparison`.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mixlog::log::{MemoryLog, SharedLog};
use mixlog::workloads::footprints::WithoutMerges;
use mixlog::workloads::tpcc::client::Tpcc;
use mixlog::workloads::tpcc::driver::{Driver, Transaction};
use mixlog::workloads::tpcc::schema::Scale;
use mixlog::workloads::transfer::{self, Transfers};
use mixlog::workloads::workload::{Client, Workload};
use mixlog::workloads::ycsb::client::Ycsb;
use mixlog::workloads::ycsb::record::{Inline, Ordered, Record};
use mixlog::workloads::{runner, ycsb};
use mixlog::{Builder, Digest, Engine, Mode, Position, Replay};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod baseline;
mod comparison;

use comparison::{Aim, Contender, compare, setting};

/// A log of a population and transactions after it.
struct Recorded {
    log: Arc<MemoryLog>,
    populated: Position,
    transactions: u64,
    /// Of the state of who filled it.
    digest: Digest,
}

fn record<W: Workload>(workload: &W, transactions: u64) -> Recorded {
    record_with(workload, |engine| {
        let mut client = workload.client(&engine.snapshot(), 1, 0).expect("it is populated");
        // The outcomes do not matter here: the log does.
        for _ in 1..transactions {
            drop(client.submit(engine).expect("a memory log takes everything"));
        }
        let last = client.submit(engine).expect("a memory log takes everything");
        client.settle(last).expect("it is executed");
        transactions
    })
}

/// A log of a population and of what `submit` submits, which waits for the last of it, and says how much it was.
fn record_with<W: Workload>(workload: &W, submit: impl FnOnce(&Engine) -> u64) -> Recorded {
    let log = Arc::new(MemoryLog::new());
    let engine = workload
        .register(Engine::builder())
        .open(Arc::clone(&log) as Arc<dyn SharedLog>)
        .expect("an empty log opens");
    runner::prepare(&engine, workload, &mut |_, _| ()).expect("the population commits");
    let populated = engine.position().expect("something was populated");
    let transactions = submit(&engine);
    let digest = engine.digest();
    engine.close().expect("the engine ran well");
    Recorded { log, populated, transactions, digest }
}

/// Million transactions per second of a replay, which ends where who filled the log ended.
fn replay<W: Workload>(workload: &W, recorded: &Recorded, threads: usize, window: u32, mode: Mode) -> f64 {
    let builder = workload.register(Engine::builder()).threads(threads).window(window).mode(mode);
    replay_with(builder, recorded, threads, mode)
}

/// The same with other settings.
fn replay_with(builder: Builder, recorded: &Recorded, threads: usize, mode: Mode) -> f64 {
    let explains = std::env::var_os("EXPLAIN").is_some();
    let builder = builder.lanes(setting("LANES", 8)).infer(setting("INFER", true));
    let builder = if explains { builder.explain(1) } else { builder };
    let replay = builder.replay(Arc::clone(&recorded.log) as Arc<dyn SharedLog>).expect("it opens");
    replay.to(recorded.populated).expect("the population replays");
    let before = replay.stats().stages;
    let start = Instant::now();
    let digest = replay.to_end().expect("the transactions replay");
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(digest, recorded.digest, "all runs of one log end in one state");
    if std::env::var_os("STAGES").is_some() {
        let (s, n) = (replay.stats(), recorded.transactions as f64);
        let ns = |a: std::time::Duration, b: std::time::Duration| (a - b).as_nanos() as f64 / n;
        println!(
            "    {threads} threads, {mode}: ns/transaction: read {:.0}, prepare {:.0}, mix {:.0}, execute {:.0}, verify {:.0}, commit {:.0}, wait {:.0}; parallelism {:.1}, replays {}, windows {} ({} one by one)",
            ns(s.stages.read, before.read),
            ns(s.stages.prepare, before.prepare),
            ns(s.stages.mix, before.mix),
            ns(s.stages.execute, before.execute),
            ns(s.stages.verify, before.verify),
            ns(s.stages.commit, before.commit),
            ns(s.stages.wait, before.wait),
            s.parallelism(),
            s.replays,
            s.windows,
            s.sequential_windows,
        );
    }
    if explains {
        println!("{}", replay.explain());
    }
    recorded.transactions as f64 / seconds / 1e6
}

fn engine<'a, W: Workload>(
    workload: &'a W,
    recorded: &'a Recorded,
    threads: usize,
    window: u32,
    mode: Mode,
) -> Contender<'a> {
    let run = move || replay(workload, recorded, threads, window, mode);
    Contender::new(format!("engine, {threads} threads, {mode}"), run)
}

/// Footprints declared against footprints found, on two threads.
fn declared_and_found<'a, W: Workload>(
    workload: &'a W,
    recorded: &'a Recorded,
    window: u32,
) -> Vec<Contender<'a>> {
    let found = move || {
        let builder = workload.register(Engine::builder()).threads(2).window(window).declared(false);
        replay_with(builder, recorded, 2, Mode::Auto)
    };
    vec![
        engine(workload, recorded, 2, window, Mode::Auto),
        Contender::new(format!("engine, 2 threads, {}, footprints found", Mode::Auto), found),
    ]
}

/// Runs decoded transactions through a hand-written loop: million per second.
fn by_hand<T>(transactions: &[T], mut run: impl FnMut(u64, &T)) -> f64 {
    let start = Instant::now();
    for (position, transaction) in (1u64..).zip(transactions) {
        run(position, transaction);
    }
    transactions.len() as f64 / start.elapsed().as_secs_f64() / 1e6
}

/// The contenders of every comparison, the loop first.
fn contenders<'a, W: Workload>(
    serial: impl FnMut() -> f64 + 'a,
    workload: &'a W,
    recorded: &'a Recorded,
    window: u32,
) -> Vec<Contender<'a>> {
    vec![
        Contender::new("serial loop by hand", serial),
        engine(workload, recorded, 1, window, Mode::Sequential),
        engine(workload, recorded, 1, window, Mode::Parallel),
        engine(workload, recorded, 2, window, Mode::Parallel),
        engine(workload, recorded, 2, window, Mode::Auto),
    ]
}

fn tpcc(window: u32) {
    let count = setting("TRANSACTIONS", 300_000);
    let workload: Tpcc = Tpcc::new(Scale::full(setting("WAREHOUSES", 4)), 1);
    let recorded = record(&workload, count);
    let mut driver = Driver::new(workload.population(), 1, 0);
    let transactions: Vec<_> = (0..count).map(|_| driver.draw()).collect();
    let serial = || {
        let mut tables = baseline::tpcc::Tpcc::populate(workload.population(), 1);
        by_hand(&transactions, |position, transaction| {
            tables.run(transaction, position, position, &mut baseline::tpcc::Discard);
        })
    };
    let all = contenders(serial, &workload, &recorded, window);
    let name = format!("TPC-C, full mix, {} warehouses", workload.population().scale.warehouses);
    compare(
        &name,
        "M transactions/s",
        all,
        &[Aim::Ratio(4, 0, 1.0), Aim::Ratio(4, 1, 1.6), Aim::Ratio(3, 2, 1.6)],
    );
}

fn ycsb(window: u32) {
    let count = setting("TRANSACTIONS", 500_000);
    let mut config = ycsb::client::Config::new(ycsb::client::Mix::A);
    config.records = setting("RECORDS", 1_000_000);
    config.value_size = 100;
    config.operations = 10;
    config.theta = setting("THETA", 0.0);
    let workload: Ycsb<Inline<100>> = Ycsb::new(config);
    let recorded = record(&workload, count);
    let mut driver = workload.driver(1, 0);
    let transactions: Vec<_> = (0..count).map(|_| driver.draw()).collect();
    let population = ycsb::load::Population { records: config.records, value_size: config.value_size };
    let serial = || {
        let mut records = baseline::ycsb::Ycsb::<Inline<100>>::populate(population);
        by_hand(&transactions, |_, transaction| {
            black_box(records.run(transaction)).expect("all records exist");
        })
    };
    let all = contenders(serial, &workload, &recorded, window);
    let name =
        format!("YCSB-A, {} records of 100 bytes, 10 operations, theta {}", config.records, config.theta);
    compare(&name, "M transactions/s", all, &[Aim::Ratio(4, 0, 0.6), Aim::Ratio(4, 1, 1.6)]);
}

fn undeclared(window: u32) {
    let workload: Tpcc = Tpcc::new(Scale::full(setting("WAREHOUSES", 4)), 1);
    let recorded = record(&workload, setting("TRANSACTIONS", 300_000));
    let all = declared_and_found(&workload, &recorded, window);
    compare("TPC-C, footprints declared and found", "M transactions/s", all, &[Aim::Ratio(1, 0, 0.5)]);
}

/// The same without contention.
fn undeclared_ycsb(window: u32) {
    let mut config = ycsb::client::Config::new(ycsb::client::Mix::A);
    (config.records, config.value_size, config.operations) = (setting("RECORDS", 1_000_000), 100, 10);
    config.theta = 0.0;
    let workload: Ycsb<Inline<100>> = Ycsb::new(config);
    let recorded = record(&workload, setting("TRANSACTIONS", 500_000));
    let all = declared_and_found(&workload, &recorded, window);
    compare(
        "YCSB-A, uniform, footprints declared and found",
        "M transactions/s",
        all,
        &[Aim::Ratio(1, 0, 0.8)],
    );
}

/// Payments on one warehouse, whose totals are merged into, or written.
fn payment(window: u32) {
    let workload: Tpcc = Tpcc::new(Scale::full(1), 1);
    let without: Tpcc<WithoutMerges> = Tpcc::new(workload.population().scale, 1);
    let count = setting("TRANSACTIONS", 300_000);
    let recorded = record_with(&workload, |engine| {
        let mut driver = Driver::new(workload.population(), 1, 0);
        let draws = std::iter::repeat_with(|| driver.draw());
        let payments = draws.filter_map(|drawn| match drawn {
            Transaction::Payment(payment) => Some(payment),
            _ => None,
        });
        let mut last = None;
        payments
            .take(count as usize)
            .for_each(|payment| last = Some(engine.submit(&payment).expect("it is taken")));
        last.expect("there are some").wait().expect("it is executed");
        count
    });
    let mut all = Vec::new();
    for mode in [Mode::Auto, Mode::Parallel] {
        all.push(engine(&workload, &recorded, 2, window, mode));
        all.push(engine(&without, &recorded, 2, window, mode).named(", without merges"));
    }
    compare(
        "Payments on one warehouse",
        "M transactions/s",
        all,
        &[Aim::Ratio(0, 1, 1.5), Aim::Ratio(2, 3, 1.5)],
    );
}

/// One driver, with and without a thread beside it that scans the whole table again and again on snapshots.
fn scan(window: u32) {
    let mut config = ycsb::client::Config::new(ycsb::client::Mix::A);
    (config.records, config.value_size, config.operations) = (setting("RECORDS", 200_000), 100, 10);
    config.theta = 0.0;
    let workload: Ycsb<Inline<100>> = Ycsb::new(config);
    let recorded = record(&workload, setting("TRANSACTIONS", 500_000));
    let run = |beside: fn(&Replay, &AtomicBool)| {
        let builder = workload.register(Engine::builder()).threads(1).window(window);
        let replay = builder.replay(Arc::clone(&recorded.log) as Arc<dyn SharedLog>).expect("it opens");
        replay.to(recorded.populated).expect("the population replays");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| beside(&replay, &done));
            let start = Instant::now();
            let digest = replay.to_end().expect("the transactions replay");
            let seconds = start.elapsed().as_secs_f64();
            done.store(true, Ordering::Relaxed);
            assert_eq!(digest, recorded.digest, "all runs of one log end in one state");
            recorded.transactions as f64 / seconds / 1e6
        })
    };
    let spin = |_: &Replay, done: &AtomicBool| {
        while !done.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    };
    let scans = |replay: &Replay, done: &AtomicBool| {
        while !done.load(Ordering::Relaxed) {
            let mut sum = 0u64;
            Inline::<100>::for_each(&replay.snapshot(), |key, record| {
                sum = sum.wrapping_add(key).wrapping_add(u64::from(record.bytes()[0]));
            });
            black_box(sum);
        }
    };
    let all = vec![
        Contender::new("1 driver, nothing beside it", move || run(|_, _| ())),
        Contender::new("1 driver, a spinning thread beside it", move || run(spin)),
        Contender::new("1 driver, a scanning thread beside it", move || run(scans)),
    ];
    compare(
        "Full scans of snapshots beside YCSB-A",
        "M transactions/s",
        all,
        &[Aim::Ratio(2, 0, 0.8), Aim::Ratio(2, 1, 0.8)],
    );
}

/// Scans and inserts.
fn ycsb_e(window: u32) {
    let count = setting("TRANSACTIONS", 300_000);
    let mut config = ycsb::client::Config::new(ycsb::client::Mix::E);
    (config.records, config.value_size) = (setting("RECORDS", 1_000_000), 100);
    config.theta = setting("THETA", 0.99);
    let workload: Ycsb<Ordered<100>> = Ycsb::new(config);
    let recorded = record(&workload, count);
    let mut driver = workload.driver(1, 0);
    let transactions: Vec<_> = (0..count).map(|_| driver.draw()).collect();
    let population = ycsb::load::Population { records: config.records, value_size: config.value_size };
    let serial = || {
        let mut records = baseline::ycsb::Ordered::<Ordered<100>>::populate(population);
        by_hand(&transactions, |_, transaction| _ = black_box(records.run(transaction)))
    };
    let loaded = || {
        let mut records = baseline::ycsb::Ordered::<Ordered<100>>::load(population);
        by_hand(&transactions, |_, transaction| _ = black_box(records.run(transaction)))
    };
    let mut all = contenders(serial, &workload, &recorded, window);
    all.push(Contender::new("serial loop by hand, its tree filled one by one", loaded));
    compare(
        "YCSB-E, 1 operation, against a BTreeMap",
        "M transactions/s",
        all,
        &[Aim::Ratio(4, 0, 1.0), Aim::Ratio(4, 1, 1.6), Aim::Told(4, 5)],
    );
}

fn transfer(window: u32) {
    let count = setting("TRANSACTIONS", 1_000_000);
    let mut config = transfer::Config::new();
    config.hot = setting("HOT", 1.0);
    let workload: Transfers = Transfers::new(config);
    let recorded = record(&workload, count);
    let mut driver = transfer::Driver::new(config, 1, 0);
    let transactions: Vec<_> = (0..count).map(|_| driver.draw()).collect();
    let population = transfer::Population { accounts: config.accounts, initial: config.initial };
    let serial = || {
        let mut accounts = baseline::transfer::Transfers::populate(population);
        by_hand(&transactions, |_, transaction| {
            let _ = black_box(accounts.run(transaction));
        })
    };
    let all = contenders(serial, &workload, &recorded, window);
    let name = format!("transfers, one side hot with probability {}", config.hot);
    compare(&name, "M transactions/s", all, &[Aim::Ratio(4, 1, 0.7), Aim::Ratio(3, 1, 0.7)]);
}

fn main() {
    let window = setting("WINDOW", 256);
    let only = setting("ONLY", String::new());
    for (name, run) in [
        ("tpcc", tpcc as fn(u32)),
        ("ycsb", ycsb),
        ("ycsb-e", ycsb_e),
        ("transfer", transfer),
        ("undeclared", undeclared),
        ("undeclared-ycsb", undeclared_ycsb),
        ("payment", payment),
        ("scan", scan),
    ] {
        if only.is_empty() || only == name {
            run(window);
        }
    }
}
