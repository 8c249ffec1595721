//! The log's backends against each other: `cargo bench --bench log`.
//!
//! Machines differ and neighbours are noisy, so what counts are ratios within one run: each round runs every
//! contender once, one after another, and what is printed are medians over the rounds. `ROUNDS=N` sets how many
//! (5), `ONLY=tokens|append|read` runs one part.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use mixlog::log::corfu::{
    Config, CorfuLog, Epoch, Instance, LocalCluster, LocalConfig, LocalStorage, Sequencer, SequencerReply,
    SequencerRequest, SequencerVerb, UnitFiles,
};
use mixlog::log::{Batch, Durability, FileLog, MemoryLog, Position, SharedLog, file};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A contender: its name, and one run of it, which tells its rate.
type Contender<'a> = (&'a str, Box<dyn Fn() -> f64 + 'a>);

/// Runs all contenders in each round, and prints the medians, each also as a ratio to the first.
fn compare(title: &str, unit: &str, rounds: usize, contenders: &[Contender<'_>]) {
    let mut rates = vec![Vec::new(); contenders.len()];
    for _ in 0..rounds {
        for ((_, run), rates) in contenders.iter().zip(&mut rates) {
            rates.push(run());
        }
    }
    println!("\n{title}, {unit}, medians of {rounds} rounds");
    let medians: Vec<f64> = rates.into_iter().map(median).collect();
    for ((name, _), rate) in contenders.iter().zip(&medians) {
        println!("  {name:<48} {rate:>10.3}   {:>6.2} of the first", rate / medians[0]);
    }
}

/// Million tokens per second of a sequencer in this thread.
fn tokens(count: u32) -> f64 {
    const REQUESTS: u32 = 4_000_000;
    let mut sequencer = Sequencer::new(Instance(1));
    let (epoch, tail, width) = (Epoch(1), Position::ZERO, 1 << 16);
    let start = SequencerVerb::Start { instance: Instance(1), tail, width };
    sequencer.handle(&SequencerRequest { epoch, verb: start });
    let begun = Instant::now();
    for _ in 0..REQUESTS {
        let verb = SequencerVerb::Next { count, at_least: 1 };
        black_box(sequencer.handle(black_box(&SequencerRequest { epoch, verb })));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let verb = SequencerVerb::Tail;
    let SequencerReply::Tail(tail) = sequencer.handle(&SequencerRequest { epoch, verb }) else {
        panic!("it was started");
    };
    // A request near the end of a stripe gets less than it asked for.
    assert!(tail.0 >= u64::from(REQUESTS));
    tail.0 as f64 / seconds / 1e6
}

fn cluster(storage: LocalStorage, replicas: u32) -> CorfuLog {
    let cluster = LocalCluster::open(LocalConfig { replicas, storage, ..LocalConfig::default() });
    let cluster = cluster.expect("the cluster opens");
    let config = Config { durability: cluster.durability(), ..Config::default() };
    CorfuLog::connect(cluster, config).expect("it is there")
}

fn cluster_of_files(directory: &Path, durability: Durability) -> CorfuLog {
    cluster(LocalStorage::Files(UnitFiles::new(directory, durability)), 2)
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
    let tail = log.tail().tail;
    let (mut next, mut bytes) = (Position::ZERO, 0);
    let begun = Instant::now();
    while next < tail {
        let block = log.read(next).expect("it can be read").expect("before the tail");
        bytes += block.bytes();
        next = block.end();
    }
    bytes as f64 / begun.elapsed().as_secs_f64() / 1e6
}

fn main() {
    let only = setting("ONLY", "");
    let rounds: usize = setting("ROUNDS", "5").parse().expect("ROUNDS is a number");
    let wanted = |part: &str| only.is_empty() || only == part;
    if wanted("tokens") {
        let contenders: [Contender<'_>; 2] = [
            ("one for each request", Box::new(|| tokens(1))),
            ("64 for each request", Box::new(|| tokens(64))),
        ];
        compare("Sequencer in this process", "million tokens/s", rounds, &contenders);
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let fresh = || tempfile::tempdir_in(scratch.path()).expect("a directory");
    if wanted("append") {
        let memory: [Contender<'_>; 3] = [
            ("memory log", Box::new(|| appends(&MemoryLog::new(), 1 << 20))),
            ("cluster, 1 unit in memory", Box::new(|| appends(&cluster(LocalStorage::Memory, 1), 1 << 20))),
            ("cluster, 2 units in memory", Box::new(|| appends(&cluster(LocalStorage::Memory, 2), 1 << 20))),
        ];
        compare("Appends of 64 bytes in batches of 64", "thousand entries/s", rounds, &memory);
        for durability in [Durability::Buffered, Durability::Flushed] {
            let on_disk: [Contender<'_>; 2] = [
                (
                    "file log",
                    Box::new(|| {
                        let directory = fresh();
                        appends(&file_log(&directory.path().join("log"), durability), 1 << 18)
                    }),
                ),
                (
                    "cluster, 2 units on the same disk",
                    Box::new(|| {
                        let directory = fresh();
                        appends(&cluster_of_files(directory.path(), durability), 1 << 18)
                    }),
                ),
            ];
            compare(&format!("The same, {durability}"), "thousand entries/s", rounds, &on_disk);
        }
    }
    if wanted("read") {
        let filled = |log: Arc<dyn SharedLog>| {
            append(&*log, 1 << 15, 16, 4096);
            log
        };
        let directory = fresh();
        let file = filled(Arc::new(file_log(&directory.path().join("log"), Durability::Buffered)));
        let units = filled(Arc::new(cluster(LocalStorage::Memory, 2)));
        let unit_files = filled(Arc::new(cluster_of_files(directory.path(), Durability::Buffered)));
        let contenders: [Contender<'_>; 3] = [
            ("file log", Box::new(|| reads(&*file))),
            ("cluster, units in memory", Box::new(|| reads(&*units))),
            ("cluster, units in files", Box::new(|| reads(&*unit_files))),
        ];
        compare("Streaming read of 128 MiB, entries of 4 KiB", "MB/s", rounds, &contenders);
    }
}
