//! The log's backends against each other: `cargo bench --bench log`.
//!
//! `ONLY=tokens|append|read|reconfigure` runs one part, `ONLY=append-flushed` only that of it, `APPENDED` says how many
//! entries are appended; what is printed, and how often it is run, says `comparison`.
//!
//! Over TCP means over loopback, with the servers and clients that processes of a cluster use, here in threads of
//! one process: rates do not depend on that, as nothing but bytes on sockets passes between them, and all of it
//! shares the same cores either way. Deaths need processes: for `reconfigure` each role is one.

mod cluster;
#[path = "../comparison/mod.rs"]
mod comparison;
mod raw;
mod reconfigure;
mod tokens;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use mixlog::log::corfu::LocalStorage;
use mixlog::log::{Batch, Durability, FileLog, MemoryLog, Position, SharedLog, file};

use cluster::{TcpCluster, local, local_files, over_tcp};
use comparison::{Aim, Contender, compare, setting};
use tokens::Sent;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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

fn measure_tokens(scratch: &Path) {
    let cluster = TcpCluster::start(scratch, Durability::Memory, 1);
    let over_tcp = |count, sent| {
        let cluster = &cluster;
        move || tokens::over_tcp(cluster, 1 << 20, count, sent)
    };
    let contenders = vec![
        Contender::new("in this thread, one for each request", || tokens::in_this_thread(1)),
        Contender::new("in this thread, 64 for each request", || tokens::in_this_thread(64)),
        Contender::new("over TCP, one for each request, sent one by one", over_tcp(1, Sent::OneByOne)),
        Contender::new("over TCP, one for each request", over_tcp(1, Sent::Together)),
        Contender::new("over TCP, 64 for each request, sent one by one", over_tcp(64, Sent::OneByOne)),
        Contender::new("over TCP, 64 for each request", over_tcp(64, Sent::Together)),
    ];
    let aims = [Aim::Rate(0, 20.0), Aim::Rate(3, 0.5), Aim::Rate(5, 5.0)];
    compare("Sequencer", "million tokens/s", contenders, &aims);
}

/// How many entries are appended: half a GiB, so that most of it goes through buffers that are there already.
fn appended() -> usize {
    setting("APPENDED", 1 << 23)
}

fn measure_appends_in_memory(scratch: &Path) {
    let contenders = vec![
        Contender::new("memory log", || appends(&MemoryLog::new(), appended())),
        Contender::new("cluster, 1 unit in memory", || appends(&local(LocalStorage::Memory, 1), appended())),
        Contender::new("cluster, 2 units in memory", || appends(&local(LocalStorage::Memory, 2), appended())),
        Contender::new("cluster over TCP, 2 units in memory", || {
            appends(&over_tcp(scratch, Durability::Memory, 2).0, appended())
        }),
    ];
    let aims = [Aim::Told(1, 0), Aim::Told(2, 0), Aim::Told(3, 0), Aim::Rate(3, 300.0)];
    compare("Appends of 64 bytes in batches of 64", "thousand entries/s", contenders, &aims);
}

fn measure_appends_on_disk(scratch: &Path, durability: Durability) {
    let fresh = || tempfile::tempdir_in(scratch).expect("a directory");
    let flushed = durability == Durability::Flushed;
    let mut contenders = vec![
        Contender::new("file log", || {
            let directory = fresh();
            appends(&file_log(&directory.path().join("log"), durability), appended())
        }),
        Contender::new("cluster, 2 units on the same disk", || {
            let directory = fresh();
            appends(&local_files(directory.path(), durability), appended())
        }),
        Contender::new("cluster over TCP, 2 units on the same disk", || {
            appends(&over_tcp(scratch, durability, 2).0, appended())
        }),
    ];
    let aim = |contender| if flushed { Aim::Ratio(contender, 0, 0.5) } else { Aim::Told(contender, 0) };
    let mut aims = vec![aim(1), aim(2)];
    if flushed {
        // The same bytes without a log: a flush for every run, and for every four.
        for (name, replicas, runs) in [
            ("one raw writer, a flush for each run", 1, 1),
            ("one raw writer, a flush for four runs", 1, 4),
            ("two raw writers, a flush for each run", 2, 1),
            ("two raw writers, a flush for four runs", 2, 4),
        ] {
            aims.push(Aim::Told(contenders.len(), 0));
            contenders.push(Contender::new(name, move || {
                let (directory, flushes) = (fresh(), (appended() >> 14) / runs);
                appended() as f64 / raw::chain(directory.path(), replicas, runs * raw::RUN, flushes) / 1e3
            }));
        }
    }
    compare(&format!("The same, {durability}"), "thousand entries/s", contenders, &aims);
}

fn measure_reads(scratch: &Path) {
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
    let contenders = vec![
        Contender::new("file log", || reads(&*file)),
        Contender::new("cluster, units in memory", || reads(&*units)),
        Contender::new("cluster, units in files", || reads(&*unit_files)),
        Contender::new("cluster over TCP, units in memory", || reads(&clusters[0].log())),
        Contender::new("cluster over TCP, units in files", || reads(&clusters[1].log())),
    ];
    let aims = [Aim::Told(1, 0), Aim::Told(2, 0), Aim::Rate(3, 500.0), Aim::Rate(4, 500.0)];
    compare("Streaming read of 128 MiB, entries of 4 KiB", "MB/s", contenders, &aims);
}

fn main() {
    let only = setting("ONLY", String::new());
    let wanted = |part: &str| part.starts_with(&only);
    let scratch = tempfile::tempdir().expect("a directory");
    if wanted("tokens") {
        measure_tokens(scratch.path());
    }
    if wanted("append-memory") {
        measure_appends_in_memory(scratch.path());
    }
    for durability in [Durability::Buffered, Durability::Flushed] {
        if wanted(&format!("append-{durability}")) {
            measure_appends_on_disk(scratch.path(), durability);
        }
    }
    if wanted("read") {
        measure_reads(scratch.path());
    }
    if wanted("reconfigure") {
        reconfigure::print(scratch.path());
    }
}
