//! Padding, on logs that take little at once and on one that has nothing yet.
#![cfg(not(loom))]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use mixlog_engine::{
    Builder, Engine, Membership, Never, Position, Procedure, Replica, Table, Tx, WINDOW_GRID, checkpoint,
    procedures_in,
};
use mixlog_log::corfu::Transport;
use mixlog_log::{Durability, FileLog, MemoryLog, SharedLog, corfu, file};
use serde::{Deserialize, Serialize};

/// Longer than any step takes on a busy machine, so that a hang fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

const COUNTS: Table<u64, u64> = Table::new("counts");

#[derive(Serialize, Deserialize)]
struct Count;

impl Procedure for Count {
    const NAME: &'static str = "count";
    type Output = u64;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let count = tx.get_or_put(&COUNTS, 0, || 0);
        *count += 1;
        Ok(*count)
    }
}

const MEMBERS: [&str; 2] = ["a", "b"];

fn member(name: &str) -> Builder {
    let builder = Engine::builder().table(&COUNTS).procedure::<Count>().threads(1);
    builder.member(Membership::new(name, MEMBERS))
}

#[test]
fn log_that_takes_little_at_once_is_padded_in_pieces() {
    let directory = tempfile::tempdir().unwrap();
    let in_files = |max_batch_bytes| -> Arc<dyn SharedLog> {
        let durability = Durability::Buffered;
        let config = file::Config { durability, max_batch_bytes, ..Default::default() };
        Arc::new(FileLog::open(directory.path().join(max_batch_bytes.to_string()), config).unwrap())
    };
    let on_a_cluster = |width, max_batch_bytes| -> Arc<dyn SharedLog> {
        let cluster = corfu::LocalConfig { width, ..Default::default() };
        let cluster = corfu::LocalCluster::open(cluster).unwrap();
        let config = corfu::Config { durability: Durability::Memory, max_batch_bytes, ..Default::default() };
        Arc::new(corfu::CorfuLog::connect(cluster, config).unwrap())
    };
    for log in [in_files(4 << 20), in_files(300), on_a_cluster(1000, 4 << 20), on_a_cluster(1 << 16, 1000)] {
        let engine = member("a").open(Arc::clone(&log)).unwrap();
        let replica = Replica::follow(|| member("b"), Arc::clone(&log)).unwrap();
        for grids in [1, 2] {
            engine.execute(&Count).unwrap();
            let position = engine.pad().unwrap();
            assert!(position >= Position(grids * WINDOW_GRID - 1));
            assert!(position.next().0.is_multiple_of(WINDOW_GRID));
            assert!(log.tail().unwrap().tail > position);
            assert!(engine.wait_agreed(position, 2, PATIENCE));
        }
        assert!(engine.wait_agreed(replica.pad().unwrap(), 2, PATIENCE));
    }
}

#[test]
fn log_that_nobody_wrote_to_but_replicas_is_taken_for_one_without_procedures_and_opens() {
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let [a, b] = ["a", "b"].map(|name| Replica::follow(move || member(name), Arc::clone(&log)).unwrap());
    let position = a.pad().unwrap();
    assert_eq!(position, Position(WINDOW_GRID - 1));
    // Both have voted, too.
    assert!(b.wait_agreed(position, 2, PATIENCE));
    assert_eq!(procedures_in(&*log).unwrap(), None);
    drop(a);
    let engine = member("a").open(Arc::clone(&log)).unwrap();
    engine.execute(&Count).unwrap();
    let procedures = procedures_in(&*log).unwrap().unwrap();
    assert!(procedures.contains(&("count".to_owned(), 1)), "{procedures:?}");
    assert!(engine.wait_agreed(engine.pad().unwrap(), 2, PATIENCE));
    assert_eq!(b.failed().map(|error| error.to_string()), None);
}

/// A cluster that tells how far its sequencer said that the log reaches, and how often it was asked.
struct Told {
    cluster: Arc<corfu::LocalCluster>,
    tail: Arc<AtomicU64>,
    asked: AtomicU64,
}

impl corfu::Transport for Told {
    fn send(&self, to: corfu::Node, request: corfu::Request, reply: corfu::ReplyTo) {
        let verb = corfu::SequencerVerb::Tail;
        if !matches!(&request, corfu::Request::Sequencer(request) if request.verb == verb) {
            return self.cluster.send(to, request, reply);
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        let tail = Arc::clone(&self.tail);
        let reply = corfu::ReplyTo::new(move |answer| {
            if let Some(corfu::Reply::Sequencer(corfu::SequencerReply::Tail(told))) = &answer {
                tail.fetch_max(told.0, Ordering::SeqCst);
            }
            if let Some(answer) = answer {
                reply.answer(answer);
            }
        });
        self.cluster.send(to, request, reply);
    }
}

fn wait_until(what: &str, is: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !is() {
        assert!(begun.elapsed() < PATIENCE, "{what} never comes");
        std::thread::yield_now();
    }
}

/// Positions that a client was given and has not written when the log is sealed, or another epoch begins, are nobody's: an
/// engine that has not heard of it does not execute them as junk, so it is not ahead of the log.
#[test]
fn engine_is_not_ahead_of_a_cluster_whose_epoch_has_ended() {
    let sealed = |log: &corfu::CorfuLog, _: &Arc<corfu::LocalCluster>| {
        log.seal().unwrap();
    };
    let reconfigured = |_: &corfu::CorfuLog, cluster: &Arc<corfu::LocalCluster>| {
        let change = cluster.reconfigure(cluster.projection().unwrap(), corfu::Change::default());
        assert!(matches!(change, corfu::Reconfigured::Installed(_)), "{change:?}");
    };
    for end in [&sealed as &dyn Fn(&_, &_), &reconfigured] {
        let cluster = corfu::LocalCluster::open(corfu::LocalConfig::default()).unwrap();
        // Nobody but the engine asks for it.
        let config = || corfu::Config { durability: Durability::Memory, janitor: None, ..Default::default() };
        let told = Arc::new(Told {
            cluster: Arc::clone(&cluster),
            tail: Arc::default(),
            asked: AtomicU64::default(),
        });
        let log = corfu::CorfuLog::connect(Arc::<Told>::clone(&told), config()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let checkpoints = checkpoint::Config {
            storage: Some(Arc::new(file::FsStorage::new(directory.path()))),
            every_bytes: None,
            ..checkpoint::Config::default()
        };
        let builder = Engine::builder().table(&COUNTS).procedure::<Count>().threads(1);
        let engine = builder.checkpoints(checkpoints).open(Arc::new(log)).unwrap();
        engine.execute(&Count).unwrap();
        let other = corfu::CorfuLog::connect(Arc::<corfu::LocalCluster>::clone(&cluster), config()).unwrap();
        let (answered, answer) = mpsc::channel();
        let epoch = cluster.projection().unwrap().epoch;
        let verb = corfu::SequencerVerb::Next { count: 5, at_least: 5 };
        let request = corfu::Request::Sequencer(corfu::SequencerRequest { epoch, verb });
        let reply = corfu::ReplyTo::new(move |reply| answered.send(reply).unwrap());
        cluster.send(corfu::Node::Sequencer(corfu::LOCAL_SEQUENCER), request, reply);
        let given = answer.recv_timeout(PATIENCE).unwrap().expect("it answers");
        let corfu::Reply::Sequencer(corfu::SequencerReply::Token(given)) = given else { panic!("{given:?}") };
        // It waits for who does not write then.
        wait_until("the tail", || told.tail.load(Ordering::SeqCst) == given.end().0);
        end(&other, &cluster);
        let asked = told.asked.load(Ordering::SeqCst);
        let is_sealed = cluster.projection().unwrap().sealed();
        // It asks again when it is done with that; a log that is sealed has told it so.
        wait_until("the end of the wait", || {
            told.asked.load(Ordering::SeqCst) > asked || is_sealed && engine.log().tail().unwrap().sealed
        });
        let tail = other.tail().unwrap().tail;
        wait_until("the last entry", || engine.position().map(Position::next) >= Some(tail));
        assert_eq!(engine.position().map(Position::next), Some(tail));
        assert_eq!(Some(engine.checkpoint().unwrap().position), engine.position());
    }
}
