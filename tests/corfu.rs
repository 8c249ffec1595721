//! The engine on a cluster of log units: it cannot tell the difference.

use std::sync::Arc;
use std::sync::mpsc;

use mixlog::log::corfu::{
    Change, Config, CorfuLog, LOCAL_SEQUENCER, LocalCluster, LocalConfig, LocalStorage, Node, Reconfigured,
    ReplyTo, Request, SequencerRequest, SequencerVerb, Transport, UnitFiles, UnitNumber,
};
use mixlog::log::{Batch, Durability, Entry, MemoryLog, Position, SharedLog};
use mixlog::workloads::runner::{self, Stop};
use mixlog::workloads::smallbank::client::SmallBank;
use mixlog::workloads::smallbank::driver;
use mixlog::workloads::transfer::{self, Transfers};
use mixlog::workloads::workload::Workload;
use mixlog::{Digest, Engine, Mode};

/// Runs a workload live on `log`, and tells the digest; `meanwhile` happens between two halves of it.
fn live<W: Workload>(workload: &W, log: &Arc<dyn SharedLog>, meanwhile: impl FnOnce()) -> Digest {
    let engine = workload.register(Engine::builder()).threads(2).window(64).open(Arc::clone(log));
    let engine = engine.expect("it opens");
    runner::prepare(&engine, workload, &mut |_, _| ()).expect("it is populated");
    let half = |seed| {
        let stop = Stop::Transactions(1500);
        let config = runner::Config { clients: 2, stop, seed, ..Default::default() };
        let report = runner::run(&engine, workload, &config, &mut |_| ()).expect("it runs");
        let failed: Vec<_> = report.checks.iter().filter(|check| !check.ok).collect();
        assert!(failed.is_empty(), "{failed:?}");
    };
    half(1);
    meanwhile();
    half(2);
    let digest = engine.digest();
    engine.close().expect("it closes");
    digest
}

fn replay<W: Workload>(workload: &W, log: Arc<dyn SharedLog>, threads: usize, mode: Mode) -> Digest {
    let builder = workload.register(Engine::builder()).threads(threads).window(256).mode(mode);
    builder.replay(log).expect("it opens").to_end().expect("it replays")
}

/// A memory log with the same entries; `None` if some of them are junk, which it cannot have.
fn copied(log: &dyn SharedLog) -> Option<Arc<dyn SharedLog>> {
    let copy = MemoryLog::new();
    let tail = log.tail().unwrap().tail;
    let mut next = Position::ZERO;
    while next < tail {
        let block = log.read(next).expect("it can be read").expect("before the tail");
        let mut batch = Batch::new();
        for (_, entry) in block.iter().filter(|(position, _)| *position >= next) {
            let Entry::Data(bytes) = entry else { return None };
            batch.push(bytes);
        }
        copy.append(&batch).expect("it takes everything").wait().expect("at once");
        next = block.end();
    }
    Some(Arc::new(copy))
}

fn connect(cluster: &Arc<LocalCluster>) -> Arc<dyn SharedLog> {
    let config = Config { durability: cluster.durability(), ..Config::default() };
    Arc::new(CorfuLog::connect(Arc::<LocalCluster>::clone(cluster), config).expect("it is there"))
}

#[test]
fn engine_on_a_cluster_has_the_digest_that_it_has_on_a_memory_log() {
    let config = driver::Config { accounts: 200, hot: 0.5, hot_accounts: 10 };
    let workload: SmallBank = SmallBank::new(config, 1);
    let cluster = LocalCluster::open(LocalConfig { chains: 2, ..LocalConfig::default() }).expect("it opens");
    let log = connect(&cluster);
    let digest = live(&workload, &log, || ());
    let memory = copied(&*log).expect("nobody left junk");
    assert_eq!(replay(&workload, memory, 1, Mode::Sequential), digest);
    assert_eq!(replay(&workload, log, 2, Mode::Parallel), digest);
}

/// Takes positions that nobody will write.
fn leave_a_hole(cluster: &LocalCluster) {
    let (answered, answer) = mpsc::channel();
    let epoch = cluster.projection().expect("there is one").epoch;
    let request = SequencerRequest { epoch, verb: SequencerVerb::Next { count: 5, at_least: 1 } };
    let reply = ReplyTo::new(move |reply| answered.send(reply).expect("it is waited for"));
    cluster.send(Node::Sequencer(LOCAL_SEQUENCER), Request::Sequencer(request), reply);
    assert!(answer.recv().expect("it answers").is_some());
}

#[test]
fn engine_on_a_cluster_that_loses_a_unit_and_has_holes_notices_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let storage = LocalStorage::Files(UnitFiles {
        segment_bytes: 9 << 20,
        run_bytes: 4 << 20,
        ..UnitFiles::new(directory.path(), Durability::Buffered)
    });
    // Stripes so short that batches go to both chains in turn.
    let cluster_config = LocalConfig { chains: 2, width: 128, storage, ..LocalConfig::default() };
    let cluster = LocalCluster::open(cluster_config.clone()).expect("it opens");
    let config = transfer::Config { accounts: 200, hot: 0.3, ..transfer::Config::default() };
    let workload: Transfers = Transfers::new(config);
    let log = connect(&cluster);
    let digest = live(&workload, &log, || {
        assert!(cluster.stop_unit(UnitNumber(1)));
        cluster.start_unit(UnitNumber(5)).expect("it starts");
        let change = Change::replace(UnitNumber(1), UnitNumber(5));
        let latest = cluster.projection().expect("there is one");
        match cluster.reconfigure(latest, change) {
            Reconfigured::Installed(latest) => drop(cluster.transfer(latest).expect("it is copied")),
            other => panic!("{other:?}"),
        }
        leave_a_hole(&cluster);
    });
    assert!(copied(&*log).is_none(), "the hole is junk now");
    drop(log);
    drop(cluster);
    // What counts is what is on the disks.
    let cluster = LocalCluster::open(cluster_config).expect("it opens again");
    for (threads, mode) in [(1, Mode::Sequential), (2, Mode::Parallel), (2, Mode::Auto)] {
        assert_eq!(
            replay(&workload, connect(&cluster), threads, mode),
            digest,
            "{threads} threads, {mode:?}"
        );
    }
}
