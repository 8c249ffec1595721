//! The log's backends against each other: `cargo bench --bench log`.
//!
//! Machines differ and neighbours are noisy, so what counts are ratios within one run: each round runs every
//! contender once, one after another, and what is printed are medians over the rounds. `ROUNDS=N` sets how many
//! (5), `ONLY=tokens|append|read|reconfigure` runs one part, `ONLY=append-flushed` only that of it. For profilers,
//! `CONTENDER=TCP` runs only those with that in their names.
//!
//! Over TCP means over loopback, with the servers and clients that processes of a cluster use, here in threads of
//! one process: rates do not depend on that, as nothing but bytes on sockets passes between them, and all of it
//! shares the same cores either way. Deaths need processes: for `reconfigure` each role is one.

mod cluster;
mod raw;
mod reconfigure;
mod tokens;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use mixlog::log::corfu::LocalStorage;
use mixlog::log::{Batch, Durability, FileLog, MemoryLog, Position, SharedLog, file};

use cluster::{TcpCluster, local, local_files, over_tcp};
use tokens::Sent;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What a contender should reach.
#[derive(Clone, Copy)]
enum Target {
    None,
    /// So much.
    Rate(f64),
    /// So much of the first contender's rate.
    Ratio(f64),
}

/// A contender: its name, one run of it, which tells its rate, and what it should reach.
type Contender<'a> = (&'a str, Box<dyn Fn() -> f64 + 'a>, Target);

/// Runs all contenders in each round, and prints the medians, each also as a ratio to the first.
fn compare(title: &str, unit: &str, rounds: usize, contenders: &[Contender<'_>]) {
    let wanted = setting("CONTENDER", "");
    let contenders: Vec<_> = contenders.iter().filter(|(name, ..)| name.contains(&wanted)).collect();
    if contenders.is_empty() {
        return;
    }
    let mut rates = vec![Vec::new(); contenders.len()];
    for _ in 0..rounds {
        for ((_, run, _), rates) in contenders.iter().zip(&mut rates) {
            // What one left to be written, and removed, is not to be waited for by the next one.
            rustix::fs::sync();
            rates.push(run());
        }
    }
    println!("\n{title}, {unit}, medians of {rounds} rounds");
    let medians: Vec<f64> = rates.into_iter().map(median).collect();
    for ((name, _, target), rate) in contenders.iter().zip(&medians) {
        let ratio = rate / medians[0];
        let verdict = |reached| if reached { "reached" } else { "MISSED" };
        let target = match *target {
            Target::None => String::new(),
            Target::Rate(target) => format!("   target {target}: {}", verdict(*rate >= target)),
            Target::Ratio(target) => format!("   target {target} of it: {}", verdict(ratio >= target)),
        };
        println!("  {name:<44} {rate:>10.3}   {ratio:>6.2} of the first{target}");
    }
}

fn file_log(directory: &Path, durability: Durability) -> FileLog {
    let config = file::Config { durability, ..file::Config::default() };
    FileLog::open(directory, config).expect("the log opens")
}

/// Appends `total` entries of `size` bytes in batches of `batch`, waits for the last, and tells the seconds.
fn append(log: &dyn SharedLog, total: usize, batch: usize, size: usize) -> f64 {
    let mut entries = Batch::new();
    let entry = vec![7; size];
    (0..batch).for_each(|_| entries.push(&entry));
    let begun = Instant::now();
    let mut last = None;
    for _ in 0..total / batch {
        last = Some(log.append(&entries).expect("it is appended"));
    }
    last.expect("something was appended").wait().expect("it is acknowledged");
    begun.elapsed().as_secs_f64()
}

/// Thousand entries of 64 bytes per second, appended in batches of 64 by one thread that does not wait.
fn appends(log: &dyn SharedLog, total: usize) -> f64 {
    total as f64 / append(log, total, 64, 64) / 1e3
}

/// MB per second of a reader that starts at the head, over entries of 4 KiB.
fn reads(log: &dyn SharedLog) -> f64 {
    let tail = log.tail().unwrap().tail;
    let (mut next, mut bytes) = (Position::ZERO, 0);
    let begun = Instant::now();
    while next < tail {
        let block = log.read(next).expect("it can be read").expect("before the tail");
        bytes += block.bytes();
        next = block.end();
    }
    bytes as f64 / begun.elapsed().as_secs_f64() / 1e6
}

fn measure_tokens(scratch: &Path, rounds: usize) {
    let cluster = TcpCluster::start(scratch, Durability::Memory, 1);
    let contenders: [Contender<'_>; 6] = [
        ("in this thread, one for each request", Box::new(|| tokens::in_this_thread(1)), Target::Rate(0.5)),
        ("in this thread, 64 for each request", Box::new(|| tokens::in_this_thread(64)), Target::None),
        (
            "over TCP, one for each request, sent one by one",
            Box::new(|| tokens::over_tcp(&cluster, 1 << 20, 1, Sent::OneByOne)),
            Target::None,
        ),
        (
            "over TCP, one for each request",
            Box::new(|| tokens::over_tcp(&cluster, 1 << 20, 1, Sent::Together)),
            Target::Rate(0.5),
        ),
        (
            "over TCP, 64 for each request, sent one by one",
            Box::new(|| tokens::over_tcp(&cluster, 1 << 20, 64, Sent::OneByOne)),
            Target::None,
        ),
        (
            "over TCP, 64 for each request",
            Box::new(|| tokens::over_tcp(&cluster, 1 << 20, 64, Sent::Together)),
            Target::Rate(5.0),
        ),
    ];
    compare("Sequencer", "million tokens/s", rounds, &contenders);
}

/// How many entries are appended.
const APPENDED: usize = 1 << 22;

fn measure_appends_in_memory(scratch: &Path, rounds: usize) {
    let contenders: [Contender<'_>; 4] = [
        ("memory log", Box::new(|| appends(&MemoryLog::new(), APPENDED)), Target::None),
        (
            "cluster, 1 unit in memory",
            Box::new(|| appends(&local(LocalStorage::Memory, 1), APPENDED)),
            Target::None,
        ),
        (
            "cluster, 2 units in memory",
            Box::new(|| appends(&local(LocalStorage::Memory, 2), APPENDED)),
            Target::None,
        ),
        (
            "cluster over TCP, 2 units in memory",
            Box::new(|| appends(&over_tcp(scratch, Durability::Memory, 2).0, APPENDED)),
            Target::Rate(300.0),
        ),
    ];
    compare("Appends of 64 bytes in batches of 64", "thousand entries/s", rounds, &contenders);
}

fn measure_appends_on_disk(scratch: &Path, rounds: usize, durability: Durability) {
    let fresh = || tempfile::tempdir_in(scratch).expect("a directory");
    // The same bytes without a log: a flush for every run, and for every four.
    let raw = |replicas, runs| {
        let (directory, flushes) = (fresh(), (APPENDED >> 14) / runs);
        APPENDED as f64 / raw::chain(directory.path(), replicas, runs * raw::RUN, flushes) / 1e3
    };
    let target = if durability == Durability::Flushed { Target::Ratio(0.5) } else { Target::None };
    let mut contenders: Vec<Contender<'_>> = vec![
        (
            "file log",
            Box::new(|| {
                let directory = fresh();
                appends(&file_log(&directory.path().join("log"), durability), APPENDED)
            }),
            Target::None,
        ),
        (
            "cluster, 2 units on the same disk",
            Box::new(|| {
                let directory = fresh();
                appends(&local_files(directory.path(), durability), APPENDED)
            }),
            target,
        ),
        (
            "cluster over TCP, 2 units on the same disk",
            Box::new(|| appends(&over_tcp(scratch, durability, 2).0, APPENDED)),
            target,
        ),
    ];
    if durability == Durability::Flushed {
        contenders.extend([
            (
                "one raw writer, a flush for each run",
                Box::new(|| raw(1, 1)) as Box<dyn Fn() -> f64>,
                Target::None,
            ),
            ("one raw writer, a flush for four runs", Box::new(|| raw(1, 4)), Target::None),
            ("two raw writers, a flush for each run", Box::new(|| raw(2, 1)), Target::None),
            ("two raw writers, a flush for four runs", Box::new(|| raw(2, 4)), Target::None),
        ]);
    }
    compare(&format!("The same, {durability}"), "thousand entries/s", rounds, &contenders);
}

fn measure_reads(scratch: &Path, rounds: usize) {
    let filled = |log: Arc<dyn SharedLog>| {
        append(&*log, 1 << 15, 16, 4096);
        log
    };
    let directory = tempfile::tempdir_in(scratch).expect("a directory");
    let file = filled(Arc::new(file_log(&directory.path().join("log"), Durability::Buffered)));
    let units = filled(Arc::new(local(LocalStorage::Memory, 2)));
    let unit_files = filled(Arc::new(local_files(directory.path(), Durability::Buffered)));
    let (memory, buffered) = (Durability::Memory, Durability::Buffered);
    let clusters = [memory, buffered].map(|durability| {
        let cluster = TcpCluster::start(scratch, durability, 2);
        append(&cluster.log(), 1 << 15, 16, 4096);
        cluster
    });
    // A client of its own for each run: nothing is in its cache.
    let contenders: [Contender<'_>; 5] = [
        ("file log", Box::new(|| reads(&*file)), Target::None),
        ("cluster, units in memory", Box::new(|| reads(&*units)), Target::None),
        ("cluster, units in files", Box::new(|| reads(&*unit_files)), Target::None),
        ("cluster over TCP, units in memory", Box::new(|| reads(&clusters[0].log())), Target::Rate(500.0)),
        ("cluster over TCP, units in files", Box::new(|| reads(&clusters[1].log())), Target::Rate(500.0)),
    ];
    compare("Streaming read of 128 MiB, entries of 4 KiB", "MB/s", rounds, &contenders);
}

fn main() {
    let only = setting("ONLY", "");
    let rounds: usize = setting("ROUNDS", "5").parse().expect("ROUNDS is a number");
    let wanted = |part: &str| part.starts_with(&only);
    let scratch = tempfile::tempdir().expect("a directory");
    if wanted("tokens") {
        measure_tokens(scratch.path(), rounds);
    }
    if wanted("append-memory") {
        measure_appends_in_memory(scratch.path(), rounds);
    }
    for durability in [Durability::Buffered, Durability::Flushed] {
        if wanted(&format!("append-{durability}")) {
            measure_appends_on_disk(scratch.path(), rounds, durability);
        }
    }
    if wanted("read") {
        measure_reads(scratch.path(), rounds);
    }
    if wanted("reconfigure") {
        reconfigure::print(scratch.path(), rounds);
    }
}
