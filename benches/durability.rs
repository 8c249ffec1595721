//! What durability costs, as ratios within one run: `cargo bench --bench durability`.
//!
//! All contenders of a comparison run in one directory; what is printed, and how often it is run, says `comparison`.
//! `DIR=/mnt/disk` chooses the disk (a file system in memory proves nothing),
//! `ONLY=flushed|alone|zeros|cache|buffered|checkpoints|replay|replicas` what is run, `IN_FLIGHT="8 32 128 512 2048"` how many
//! transactions wait for groups, `MANY=500000` how many there are of them, `COMMITS=4000` how many are committed one by one,
//! `THREADS="1 2 8 32"` by how many threads, `MIB=64` how long the files of `zeros` and `cache` are, `TRANSFERS=1000000` how many
//! transfers replicas follow.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mixlog::checkpoint::{self, Start};
use mixlog::log::{Batch, Durability, FileLog, MemoryLog, SharedLog, file};
use mixlog::workloads::footprints::Exact;
use mixlog::workloads::money::Cents;
use mixlog::workloads::runner::{self, Stop};
use mixlog::workloads::tpcc::client::Tpcc;
use mixlog::workloads::tpcc::schema::Scale;
use mixlog::workloads::transfer::{self, Transfer, Transfers};
use mixlog::workloads::workload::{Client, Workload};
use mixlog::{Builder, ClientId, Digest, Engine, Membership, Replica, Ticket};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod comparison;

use comparison::{Aim, Contender, compare, median, setting};

/// A directory that is removed afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let parent = setting("DIR", std::env::temp_dir());
        let path = parent.join(format!("mixlog-durability-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        let _ = fs::remove_dir_all(&path);
        let _ = fs::remove_file(&path);
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file whose space is written already.
fn written_file(path: &Path, bytes: usize) -> File {
    let file = File::options().read(true).write(true).create_new(true).open(path).expect("a new file");
    // Not more at once: small flushes of a part of what lies together in the cache take longer.
    let zeros = vec![0; 64 << 10];
    for offset in (0..bytes).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset as u64).expect("it is written");
    }
    file.sync_all().expect("it is synced");
    file
}

/// Flushes per second of the disk: writes of so many bytes, one behind the other, each with an `fdatasync`.
fn raw_flushes(scratch: &Scratch, bytes: usize, count: usize) -> f64 {
    flushes_into(&written_file(&scratch.path("raw"), bytes * count), bytes, count)
}

/// The same, in a file that is there.
fn flushes_into(file: &File, bytes: usize, count: usize) -> f64 {
    let memory = Blocks::of(7, bytes);
    let block = memory.bytes();
    let start = Instant::now();
    for n in 0..count {
        file.write_all_at(block, (n * bytes) as u64).expect("it is written");
        file.sync_data().expect("it is synced");
    }
    count as f64 / start.elapsed().as_secs_f64()
}

/// Bytes that begin with a page, as writes past the operating system's cache want them.
struct Blocks(Vec<u8>, Range<usize>);

impl Blocks {
    fn of(byte: u8, bytes: usize) -> Self {
        let memory = vec![byte; bytes + 4096];
        let start = memory.as_ptr().addr().wrapping_neg() % 4096;
        Self(memory, start..start + bytes)
    }

    fn bytes(&self) -> &[u8] {
        &self.0[self.1.clone()]
    }
}

/// MB per second of flushed writes of so many bytes each, whole pages, one behind the other and past the cache, as the log
/// makes them, on space that was allocated, and written as well or not; what that took counts.
fn prepared_flushes(scratch: &Scratch, bytes: usize, zeros: bool) -> f64 {
    let total = setting("MIB", 64) << 20;
    let path = scratch.path("prepared");
    rustix::fs::sync();
    let start = Instant::now();
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let open = File::options().write(true).create_new(true).custom_flags(flags).open(&path);
    let file = open.expect("a new file, on a file system that can write past the cache");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, total as u64)
        .expect("it is allocated");
    if zeros {
        let memory = Blocks::of(0, PIECE);
        for offset in (0..total).step_by(PIECE) {
            file.write_all_at(memory.bytes(), offset as u64).expect("it is written");
        }
    }
    file.sync_all().expect("it is synced");
    let prepared = start.elapsed().as_secs_f64();
    // Small writes take long, and their share of the preparation is what counts.
    let count = (total / bytes).min(2000);
    let (written, seconds) = (count * bytes, count as f64 / flushes_into(&file, bytes, count));
    written as f64 / (seconds + prepared * written as f64 / total as f64) / 1e6
}

/// When zeros in a segment to come are worth their time.
fn zeros(scratch: &Scratch) {
    for kib in [4, 32, 128, 256, 512, 1024] {
        let bytes = kib << 10;
        compare(
            &format!("groups of {kib} KiB, flushed one by one, and the preparation of their space"),
            "MB/s",
            vec![
                Contender::new("zeros written before", || prepared_flushes(scratch, bytes, true)),
                Contender::new("allocated only", || prepared_flushes(scratch, bytes, false)),
            ],
            &[if bytes >= LARGE_GROUP { Aim::Ratio(1, 0, 1.0) } else { Aim::Told(1, 0) }],
        );
    }
}

/// MB per second of flushed writes of so many bytes each, into files that are there and in no cache.
fn cold_flushes(scratch: &Scratch, bytes: usize, past_cache: bool) -> f64 {
    let (path, total) = (scratch.path("cold"), setting("MIB", 64) << 20);
    let file = written_file(&path, total);
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("it is taken from the cache");
    let flags = if past_cache { rustix::fs::OFlags::DIRECT } else { rustix::fs::OFlags::empty() };
    let flags = flags.bits().cast_signed();
    let file = File::options().write(true).custom_flags(flags).open(&path).expect("it opens");
    let count = (total / bytes).min(2000);
    flushes_into(&file, bytes, count) * bytes as f64 / 1e6
}

/// What is gained by writing past the operating system's cache.
fn cache(scratch: &Scratch) {
    for kib in [4, 64, 4096] {
        compare(
            &format!("raw writes of {kib} KiB, flushed one by one"),
            "MB/s",
            vec![
                Contender::new("through the cache", || cold_flushes(scratch, kib << 10, false)),
                Contender::new("past it", || cold_flushes(scratch, kib << 10, true)),
            ],
            &[Aim::Told(1, 0)],
        );
    }
}

/// From this size on the log leaves the zeros out.
const LARGE_GROUP: usize = 256 << 10;

fn open_log(path: &Path, durability: Durability) -> Arc<FileLog> {
    let config = file::Config { durability, ..file::Config::default() };
    Arc::new(FileLog::open(path, config).expect("a log"))
}

/// What the log writes of a segment's zeros at once.
const PIECE: usize = 256 << 10;

const ENTRY: usize = 100;

/// How many transactions a run with many in flight has.
fn run_length() -> u64 {
    setting("MANY", 500_000)
}

fn flushed(scratch: &Scratch) {
    let commits: u32 = setting("COMMITS", 4000);
    // A frame: its header, where the entry ends, and the entry, in multiples of eight.
    let frame = (64 + 4 + ENTRY).next_multiple_of(8);
    let log_alone = || {
        let log = open_log(&scratch.path("flushed"), Durability::Flushed);
        let mut batch = Batch::new();
        batch.push(&[1; ENTRY]);
        let start = Instant::now();
        for _ in 0..commits {
            log.append_and_write(&batch).expect("it is taken").wait().expect("it is durable");
        }
        f64::from(commits) / start.elapsed().as_secs_f64()
    };
    let accounts = 1000;
    let workload = Transfers::<Exact>::new(transfer::Config { accounts, hot: 0.0, initial: Cents(100_00) });
    let open = |path: &Path| {
        let builder = workload.register(Engine::builder());
        builder.open(open_log(path, Durability::Flushed)).expect("it opens")
    };
    let one_by_one = || {
        let engine = open(&scratch.path("engine"));
        runner::prepare(&engine, &workload, &mut |_, _| ()).expect("it is populated");
        let start = Instant::now();
        for n in 0..commits {
            let from = u64::from(n) % accounts;
            let transfer = Transfer { from, to: (from + 1) % accounts, amount: 1 };
            let outcome = engine.execute(&transfer).expect("it runs");
            assert!(outcome.committed().is_some(), "nobody runs out of money");
        }
        f64::from(commits) / start.elapsed().as_secs_f64()
    };
    compare(
        &format!("flushed commits, {commits} one by one"),
        "/s",
        vec![
            Contender::new("raw loop: pwrite and fdatasync of a frame", || {
                raw_flushes(scratch, frame, commits as usize)
            }),
            Contender::new("log, one append at a time", log_alone),
            Contender::new("engine, one transaction at a time", one_by_one),
        ],
        &[Aim::Ratio(1, 0, 0.8), Aim::Ratio(2, 0, 0.8)],
    );
    let asked: String = setting("IN_FLIGHT", "8 32 128 512 2048".to_owned());
    for many in asked.split_whitespace().map(|many| many.parse().expect("IN_FLIGHT holds numbers")) {
        groups(scratch, &workload, many, commits as usize);
    }
}

/// As many transactions a second as a client commits who has so many in flight.
fn in_flight(engine: &Engine, workload: &Transfers<Exact>, in_flight: usize, transactions: u64) -> f64 {
    let mut client = workload.client(&engine.snapshot(), 1, 0).expect("it is populated");
    let mut waiting = VecDeque::new();
    let start = Instant::now();
    for _ in 0..transactions {
        if waiting.len() == in_flight {
            client.settle(waiting.pop_front().expect("some wait")).expect("it commits");
        }
        waiting.push_back(client.submit(engine).expect("it is taken"));
    }
    waiting.drain(..).for_each(|pending| drop(client.settle(pending).expect("it commits")));
    transactions as f64 / start.elapsed().as_secs_f64()
}

/// What a disk gives to a raw loop, and to an engine that commits in groups. As long as the disk is what limits, it should be
/// kept busy; from some number in flight on the processors are, and the disk has time to rest.
fn groups(scratch: &Scratch, workload: &Transfers<Exact>, many: usize, flushes: usize) {
    let transactions = run_length().min(many as u64 * 4000);
    let populate = |log: Arc<dyn SharedLog>| {
        let engine = workload.register(Engine::builder()).open(log).expect("it opens");
        runner::prepare(&engine, workload, &mut |_, _| ()).expect("it is populated");
        engine
    };
    // Groups of different sizes are flushed at different rates: what a round's engine wrote, its raw loops write.
    let group = Cell::new(0);
    let rates = RefCell::new((Vec::new(), Vec::new()));
    let flushed = || {
        let path = scratch.path("engine");
        populate(open_log(&path, Durability::Flushed)).close().expect("it ran well");
        let before = FileLog::verify(&path).expect("a log");
        let engine = workload.register(Engine::builder());
        let engine = engine.open(open_log(&path, Durability::Flushed)).expect("it opens");
        let rate = in_flight(&engine, workload, many, transactions);
        engine.close().expect("it ran well");
        let after = FileLog::verify(&path).expect("a log");
        let frames = (after.frames - before.frames) as f64;
        group.set(((after.frame_bytes - before.frame_bytes) as f64 / frames) as usize);
        rates.borrow_mut().0.push(rate);
        rates.borrow_mut().1.push(group.get() as f64);
        rate / transactions as f64 * frames
    };
    let raw = || {
        if group.get() == 0 {
            flushed();
        }
        raw_flushes(scratch, group.get(), flushes)
    };
    // As who submits all the time: what of the difference is the machine's.
    let beside_a_busy_thread = || {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut n = 0u64;
                while !done.load(Ordering::Relaxed) {
                    n = std::hint::black_box(n.wrapping_add(1));
                }
            });
            let flushes = raw();
            done.store(true, Ordering::Relaxed);
            flushes
        })
    };
    let in_memory = || in_flight(&populate(Arc::new(MemoryLog::new())), workload, many, transactions);
    let is_disk_bound = many <= DISK_BOUND;
    let aim = |a, b| if is_disk_bound { Aim::Ratio(a, b, 0.8) } else { Aim::Told(a, b) };
    compare(
        &format!("flushed commits, {many} in flight, in groups"),
        "/s",
        vec![
            Contender::new("engine: groups", &flushed),
            Contender::new("raw loop with writes of a group", &raw),
            Contender::new("raw loop with writes of a group, beside a busy thread", beside_a_busy_thread),
            Contender::new("engine with a log in memory: transactions", in_memory),
        ],
        &[aim(0, 1), aim(0, 2), Aim::Told(2, 1)],
    );
    let (rates, sizes) = rates.take();
    println!(
        "  {:.0} transactions/s on a log that is flushed, groups of {:.0} bytes, medians\n",
        median(rates),
        median(sizes)
    );
}

/// With up to so many transfers in flight, a disk that flushes in 100 us limits two processors.
const DISK_BOUND: usize = 128;

/// Threads with one transaction at a time each: what is left is who does the work, and who has to be woken for it.
fn alone(scratch: &Scratch) {
    let accounts = 1000;
    let workload = Transfers::<Exact>::new(transfer::Config { accounts, hot: 0.0, initial: Cents(100_00) });
    let run = |log: Arc<dyn SharedLog>, threads: u64, commits: u64, at_once: bool| {
        let engine = workload.register(Engine::builder()).open(log).expect("it opens");
        runner::prepare(&engine, &workload, &mut |_, _| ()).expect("it is populated");
        let commit = |thread: u64| {
            for n in 0..commits / threads {
                let from = (thread * 100 + n) % accounts;
                let transfer = Transfer { from, to: (from + 1) % accounts, amount: 1 };
                let outcome = if at_once {
                    engine.execute(&transfer).expect("it runs")
                } else {
                    engine.submit(&transfer).expect("it is taken").wait().expect("it runs")
                };
                assert!(outcome.committed().is_some(), "nobody runs out of money");
            }
        };
        let start = Instant::now();
        std::thread::scope(|scope| {
            let commit = &commit;
            (0..threads).for_each(|thread| drop(scope.spawn(move || commit(thread))));
        });
        (commits / threads * threads) as f64 / start.elapsed().as_secs_f64()
    };
    let memory = || -> Arc<dyn SharedLog> { Arc::new(MemoryLog::new()) };
    let file = |durability| -> Arc<dyn SharedLog> { open_log(&scratch.path("alone"), durability) };
    type Open<'a> = Box<dyn Fn() -> Arc<dyn SharedLog> + 'a>;
    let logs: [(&str, Open<'_>, u64); 3] = [
        ("a log in memory", Box::new(memory), 100_000),
        ("a buffered log", Box::new(|| file(Durability::Buffered)), 100_000),
        ("a flushed log", Box::new(|| file(Durability::Flushed)), 5_000),
    ];
    let asked: String = setting("THREADS", "1 2 8 32".to_owned());
    for threads in asked.split_whitespace().map(|threads| threads.parse().expect("THREADS holds numbers")) {
        for (name, log, commits) in &logs {
            compare(
                &format!("one transaction at a time on {name}, threads: {threads}"),
                "/s",
                vec![
                    Contender::new("submitted and waited for", || run(log(), threads, *commits, false)),
                    Contender::new("executed", || run(log(), threads, *commits, true)),
                ],
                &[Aim::Ratio(1, 0, 1.0)],
            );
        }
    }
}

fn buffered(scratch: &Scratch) {
    let total: usize = setting("MIB", 256) << 20;
    // What another contender left unwritten is not this one's to wait for.
    let settle = rustix::fs::sync;
    let plain = |synced: bool| {
        settle();
        let file = File::create(scratch.path("plain")).expect("a file");
        let block = vec![7; 1 << 20];
        let start = Instant::now();
        for offset in (0..total).step_by(block.len()) {
            file.write_all_at(&block, offset as u64).expect("it is written");
        }
        if synced {
            file.sync_data().expect("it is synced");
        }
        total as f64 / start.elapsed().as_secs_f64() / 1e6
    };
    let log = |entries: usize, synced: bool| {
        settle();
        let log = open_log(&scratch.path("buffered"), Durability::Buffered);
        let mut batch = Batch::new();
        (0..entries).for_each(|_| batch.push(&[1; ENTRY]));
        let start = Instant::now();
        let mut last = None;
        for _ in 0..total / (entries * ENTRY) {
            last = Some(log.append(&batch).expect("it is taken"));
        }
        last.expect("some").wait().expect("it is written");
        if synced {
            log.flush().expect("it is synced");
        }
        total as f64 / start.elapsed().as_secs_f64() / 1e6
    };
    compare(
        &format!("buffered log, {} MiB of entries of {ENTRY} bytes", total >> 20),
        "MB/s",
        vec![
            Contender::new("plain loop: writes of 1 MiB", || plain(false)),
            Contender::new("log, 64 entries an append", || log(64, false)),
            Contender::new("log, one entry an append", || log(1, false)),
            Contender::new("plain loop, synced at the end", || plain(true)),
            Contender::new("log, 64 entries an append, flushed at the end", || log(64, true)),
        ],
        &[Aim::Ratio(1, 0, 0.5), Aim::Ratio(2, 0, 0.5), Aim::Ratio(4, 3, 0.5)],
    );
}

/// Transactions per second of a live run, and what it left.
fn live(
    scratch: &Scratch,
    workload: &Tpcc,
    transactions: u64,
    checkpoints: checkpoint::Config,
) -> (f64, Digest, u64) {
    let log = open_log(&scratch.path("tpcc"), Durability::Buffered);
    let every = checkpoints.every_bytes;
    let builder = workload.register(Engine::builder()).threads(2).checkpoints(checkpoints);
    let engine = builder.open(log).expect("it opens");
    runner::prepare(&engine, workload, &mut |_, _| ()).expect("it is populated");
    if every.is_some() {
        engine.checkpoint().expect("it is taken");
    }
    let config = runner::Config {
        in_flight: 2048,
        stop: Stop::Transactions(transactions),
        report_every: Duration::from_secs(3600),
        ..runner::Config::default()
    };
    let before = engine.checkpoints().last().copied();
    let report = runner::run(&engine, workload, &config, &mut |_| ()).expect("it runs");
    let taken = u64::from(engine.checkpoints().last().copied() != before);
    let digest = engine.digest();
    engine.close().expect("it ran well");
    (report.throughput_per_second, digest, taken)
}

fn checkpoints(scratch: &Scratch) {
    let warehouses = setting("WAREHOUSES", 2);
    let workload: Tpcc = Tpcc::new(Scale::full(warehouses), 1);
    let transactions = setting("TRANSACTIONS", 400_000);
    let every = setting("EVERY_MIB", 128) << 20;
    let transactions = setting("CHECKPOINT_TRANSACTIONS", 5 * transactions);
    let with = |every_bytes| checkpoint::Config { every_bytes, ..checkpoint::Config::default() };
    let mut taken = 0;
    compare(
        &format!(
            "TPC-C, {warehouses} warehouses, {transactions} transactions, a checkpoint every {} MiB of log",
            every >> 20
        ),
        "transactions/s",
        vec![
            Contender::new("no checkpoints", || live(scratch, &workload, transactions, with(None)).0),
            Contender::new("checkpoints", || {
                let (speed, _, more) = live(scratch, &workload, transactions, with(Some(every)));
                taken += more;
                speed
            }),
        ],
        &[Aim::Ratio(1, 0, 0.8)],
    );
    println!("  in {taken} of the rounds a checkpoint was taken meanwhile\n");
}

fn replay(scratch: &Scratch) {
    let warehouses = setting("WAREHOUSES", 2);
    let workload: Tpcc = Tpcc::new(Scale::full(warehouses), 1);
    let transactions = setting("TRANSACTIONS", 400_000);
    let keep = checkpoint::Config { every_bytes: None, trim: false, ..checkpoint::Config::default() };
    // Populated once; each round goes on from a copy.
    let populated = scratch.path("populated");
    let log = open_log(&populated, Durability::Buffered);
    let engine = workload.register(Engine::builder()).checkpoints(keep.clone()).open(log).expect("it opens");
    runner::prepare(&engine, &workload, &mut |_, _| ()).expect("it is populated");
    let taken = engine.checkpoint().expect("it is taken");
    engine.close().expect("it ran well");
    let config = runner::Config {
        in_flight: 2048,
        stop: Stop::Transactions(transactions),
        report_every: Duration::from_secs(3600),
        ..runner::Config::default()
    };
    // Transactions per second, and where it ended, of a run on a copy.
    let live = |path: &Path| {
        checkpoint::backup(&populated, path).expect("a copy");
        let builder = workload.register(Engine::builder()).threads(2).checkpoints(keep.clone());
        let engine = builder.open(open_log(path, Durability::Buffered)).expect("it opens");
        let report = runner::run(&engine, &workload, &config, &mut |_| ()).expect("it runs");
        let digest = engine.digest();
        engine.close().expect("it ran well");
        (report.throughput_per_second, digest)
    };
    let path = scratch.path("replay");
    let (_, digest) = live(&path);
    // Million rows loaded per second, by threads, and the share of the commit stage.
    let loads = [RefCell::new(Vec::new()), RefCell::new(Vec::new())];
    let commits = RefCell::new(Vec::new());
    let replayed = |threads: usize| {
        let log = Arc::new(FileLog::open_read_only(&path).expect("it opens"));
        let config = checkpoint::Config { start: Start::Newest, ..keep.clone() };
        let builder = workload.register(Engine::builder()).threads(threads).checkpoints(config);
        let replay = builder.replay(log).expect("it opens");
        assert_eq!(replay.to_end().expect("it replays"), digest);
        let recovery = replay.recovery().expect("it started");
        loads[threads - 1].borrow_mut().push(recovery.rows as f64 / recovery.load.as_secs_f64() / 1e6);
        let all = replay.stats().stages;
        let busy = all.read + all.prepare + all.mix + all.execute + all.verify + all.commit;
        commits.borrow_mut().push(all.commit.as_secs_f64() / busy.as_secs_f64());
        transactions as f64 / recovery.replay.as_secs_f64()
    };
    compare(
        &format!("replay of {transactions} TPC-C transactions from a checkpoint of {} rows", taken.rows),
        "transactions/s",
        vec![
            Contender::new("original run, 2 threads", || live(&scratch.path("again")).0),
            Contender::new("replay, 1 thread", || replayed(1)),
            Contender::new("replay, 2 threads", || replayed(2)),
        ],
        &[Aim::Ratio(2, 1, 1.5), Aim::Ratio(2, 0, 1.0)],
    );
    for (threads, loads) in (1..).zip(loads) {
        let speed = median(loads.into_inner());
        println!("  loading the checkpoint, {threads} threads: {speed:.2} M rows/s, verifying included");
    }
    println!(
        "  commit : all stages = {:.2} (digests, end of versions, replies; digests alone are to be at most 0.1)\n",
        median(commits.into_inner())
    );
}

/// How an engine is asked, and who compares with it.
#[derive(Clone, Copy)]
struct Asked {
    /// How many engines vote, the one that answers included; none for no votes. The others follow in this process, and
    /// take its cores.
    members: usize,
    /// How many clients number their transactions; none for no numbers.
    clients: u64,
}

/// One account of a transfer, and another one.
fn two_of(accounts: u64, random: &mut u64) -> (u64, u64) {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let (from, to) = ((*random >> 33) % accounts, (*random >> 13) % accounts);
    (from, if from == to { (to + 1) % accounts } else { to })
}

/// Transfers per second of one client with 2,048 in flight. The log lies in memory, so that what is compared is not the
/// disk.
fn transfers(transactions: u64, asked: Asked) -> f64 {
    let accounts = setting("ACCOUNTS", 100_000);
    let workload = Transfers::<Exact>::new(transfer::Config { accounts, ..transfer::Config::new() });
    let names: Vec<_> = (0..asked.members).map(|number| format!("member-{number}")).collect();
    let builder = move |number: usize| -> Builder {
        let builder = workload.register(Engine::builder()).threads(1);
        match names.get(number) {
            Some(name) => builder.member(Membership::new(name.clone(), names.clone())),
            None => builder,
        }
    };
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = builder(0).open(Arc::clone(&log)).expect("it opens");
    runner::prepare(&engine, &workload, &mut |_, _| ()).expect("it is populated");
    let replicas: Vec<_> = (1..asked.members)
        .map(|number| {
            let make = builder.clone();
            Replica::follow(move || make(number), Arc::clone(&log)).expect("it follows")
        })
        .collect();
    let settle = || {
        let position = engine.pad().expect("it is padded");
        let patience = Duration::from_secs(600);
        assert!(engine.wait_agreed(position, asked.members, patience), "all agree");
    };
    if asked.members > 0 {
        // Of the population nothing is left to do.
        settle();
    }
    let clients: Vec<_> = (0..asked.clients).map(|client| engine.client(ClientId(1 + client))).collect();
    let in_flight = 2048;
    let (mut random, mut tickets) = (7, VecDeque::with_capacity(in_flight));
    let start = Instant::now();
    for n in 0..transactions {
        let (from, to) = two_of(accounts, &mut random);
        let transfer = Transfer { from, to, amount: 1 };
        if tickets.len() == in_flight {
            let oldest: Ticket<Transfer> = tickets.pop_front().expect("there are some");
            oldest.wait().expect("it is executed");
        }
        let ticket = match clients.get((n % asked.clients.max(1)) as usize) {
            Some(client) => client.submit(1 + n / asked.clients, &transfer),
            None => engine.submit(&transfer),
        };
        tickets.push_back(ticket.expect("it is taken"));
    }
    tickets.into_iter().for_each(|ticket| drop(ticket.wait().expect("it is executed")));
    let speed = transactions as f64 / start.elapsed().as_secs_f64();
    if asked.members > 0 {
        settle();
    }
    for replica in replicas {
        assert_eq!(replica.divergences(), []);
        replica.close().expect("it ran well");
    }
    engine.close().expect("it ran well");
    speed
}

/// What votes cost, one's own and those of others, and the numbers of clients.
fn replicas(_: &Scratch) {
    let transactions = setting("TRANSFERS", 1_000_000);
    let run = |members, clients| move || transfers(transactions, Asked { members, clients });
    compare(
        &format!("{transactions} transfers, a log in memory, one thread that executes in each engine"),
        "transactions/s",
        vec![
            Contender::new("nobody compares, no numbers", run(0, 0)),
            Contender::new("votes, nobody follows", run(1, 0)),
            Contender::new("votes, two replicas follow on the same cores", run(3, 0)),
            Contender::new("numbers of 64 clients", run(0, 64)),
        ],
        // Three engines on the cores of one.
        &[Aim::Ratio(1, 0, 0.9), Aim::Ratio(2, 0, 0.33), Aim::Ratio(3, 0, 0.9)],
    );
}

type Part = fn(&Scratch);

fn main() {
    let only: String = setting("ONLY", String::new());
    let scratch = Scratch::new();
    let parts: [(&str, Part); 8] = [
        ("flushed", flushed),
        ("alone", alone),
        ("zeros", zeros),
        ("cache", cache),
        ("buffered", buffered),
        ("checkpoints", checkpoints),
        ("replay", replay),
        ("replicas", replicas),
    ];
    for (name, part) in parts {
        if only.is_empty() || only == name {
            part(&scratch);
        }
    }
}
