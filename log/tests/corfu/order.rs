//! The order of a client's appends, several of which are under way at a time, while units and sequencers are killed and
//! replaced, and some requests and answers get lost, as they do when connections break: whole clusters in this process,
//! with threads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mixlog_log::corfu::{
    Change, Config, CorfuLog, LOCAL_SEQUENCER, LocalCluster, LocalConfig, LocalStorage, Node, Reconfigured,
    ReplyTo, Request, Timing, Transport, UnitFiles, UnitNumber,
};
use mixlog_log::{AppendError, Batch, Durability, Entry, Position, SharedLog, Ticket};

/// Longer than any step takes on a busy machine, so that a hang fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many batches a writer has under way.
const IN_FLIGHT: usize = 64;

/// How many entries a writer appends from one disturbance to the next at most: all of them are copied each time.
const ENTRIES: u64 = 1500;

/// Batches that are acknowledged before somebody is disturbed.
const CALM: u64 = 100;

/// How often somebody is disturbed; more with `MIXLOG_ROUNDS=N`.
fn rounds() -> u32 {
    std::env::var("MIXLOG_ROUNDS").ok().map_or(4, |text| text.parse().expect("a number of rounds"))
}

fn cluster(chains: u32, storage: LocalStorage) -> Arc<LocalCluster> {
    let timing = Timing {
        hole: Duration::from_millis(20),
        silence: Duration::from_millis(20),
        doubt: Duration::from_millis(20),
        ..Timing::default()
    };
    // Stripes so short that a group is cut into several runs, which go to several chains.
    LocalCluster::open(LocalConfig { chains, width: 16, storage, timing, ..LocalConfig::default() }).unwrap()
}

/// Loses one request to a unit in so many, and one answer in so many.
const LOST: u64 = 40;

/// The cluster, over something that loses what it carries.
struct Lossy {
    cluster: Arc<LocalCluster>,
    carried: AtomicU64,
}

impl Transport for Lossy {
    fn send(&self, to: Node, request: Request, reply: ReplyTo) {
        if let Request::Unit(_) = request {
            let number = self.carried.fetch_add(1, Ordering::Relaxed);
            let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            match mixed % LOST {
                0 => return drop(reply),
                1 => {
                    let lost = ReplyTo::new(move |answer| {
                        drop(answer);
                        drop(reply);
                    });
                    return self.cluster.send(to, request, lost);
                }
                _ => {}
            }
        }
        self.cluster.send(to, request, reply);
    }
}

fn connect(cluster: &Arc<LocalCluster>) -> CorfuLog {
    let (durability, timing) = (cluster.durability(), cluster.timing().clone());
    // A queue that small makes many groups, and writers wait for it.
    let config = Config { durability, timing, queue_bytes: 4 << 10, cache_bytes: 0, ..Config::default() };
    let lossy = Lossy { cluster: Arc::clone(cluster), carried: AtomicU64::new(0) };
    CorfuLog::connect(Arc::new(lossy), config).unwrap()
}

/// Which entry of which writer.
type Mark = (u64, u64);

fn entry((writer, number): Mark) -> Vec<u8> {
    // Of many lengths, so that groups end anywhere.
    let length = 16 + usize::try_from(number * 7 % 90).unwrap();
    let mut bytes = [writer.to_le_bytes(), number.to_le_bytes()].concat();
    bytes.resize(length, 0);
    bytes
}

fn mark(bytes: &[u8]) -> Mark {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    (number(0), number(8))
}

/// What became of a writer's batches, by their first number.
type Outcomes = Vec<(u64, u64, Result<Position, AppendError>)>;

/// What writers are told, and tell.
#[derive(Default)]
struct Pace {
    /// How many entries each of them may append by now.
    allowed: AtomicU64,
    done: AtomicBool,
    /// Batches of all of them.
    acknowledged: AtomicU64,
}

/// Appends batches of 1 to 5 entries without waiting for them, until it is done.
fn write(log: &CorfuLog, writer: u64, pace: &Pace) -> Outcomes {
    let (mut next, mut under_way, mut outcomes) = (0, VecDeque::<(u64, u64, Ticket)>::new(), Vec::new());
    let mut end = |(first, count, ticket): (u64, u64, Ticket)| {
        let outcome = ticket.wait().map(|positions| positions.start);
        pace.acknowledged.fetch_add(u64::from(outcome.is_ok()), Ordering::AcqRel);
        outcomes.push((first, count, outcome));
    };
    while !pace.done.load(Ordering::Acquire) {
        if next >= pace.allowed.load(Ordering::Acquire) {
            under_way.drain(..).for_each(&mut end);
            thread::yield_now();
            continue;
        }
        let count = 1 + next % 5;
        let mut batch = Batch::new();
        (next..next + count).for_each(|number| batch.push(&entry((writer, number))));
        under_way.push_back((next, count, log.append(&batch).unwrap()));
        next += count;
        if under_way.len() == IN_FLIGHT {
            end(under_way.pop_front().expect("there are some"));
        }
    }
    under_way.into_iter().for_each(&mut end);
    outcomes
}

/// All entries of the log, in order.
fn read(log: &CorfuLog) -> Vec<(Position, Mark)> {
    let tail = log.tail().unwrap().tail;
    let (mut next, mut found) = (Position(0), Vec::new());
    while next < tail {
        let block = log.read(next).unwrap().expect("before the tail");
        for (position, entry) in block.iter().filter(|(position, _)| *position >= next) {
            if let Entry::Data(bytes) = entry {
                found.push((position, mark(bytes)));
            }
        }
        next = block.end();
    }
    found
}

/// A client that fills holes as soon as it sees them, so that whose request was lost loses his position as well.
fn impatient(cluster: &Arc<LocalCluster>) -> CorfuLog {
    let timing = Timing { hole: Duration::ZERO, ..cluster.timing().clone() };
    let config = Config { durability: cluster.durability(), timing, ..Config::default() };
    CorfuLog::connect(Arc::<LocalCluster>::clone(cluster), config).unwrap()
}

/// Two clients, one of them with two threads, append, and a third one looks how far they are, while `disturb` is called again and again, each time when all is
/// well and appends go on.
fn keeps_order(cluster: &Arc<LocalCluster>, mut disturb: impl FnMut(u32)) {
    let clients = [connect(cluster), connect(cluster)];
    let reader = impatient(cluster);
    let pace = Pace::default();
    let wait_for_more = || {
        let (before, begun) = (pace.acknowledged.load(Ordering::Acquire), Instant::now());
        pace.allowed.fetch_add(ENTRIES, Ordering::AcqRel);
        while pace.acknowledged.load(Ordering::Acquire) < before + CALM {
            assert!(begun.elapsed() < PATIENCE, "appends go on");
            thread::yield_now();
        }
    };
    let outcomes: Vec<Outcomes> = thread::scope(|scope| {
        let writers = [0, 1, 2].map(|writer: u64| {
            let log = &clients[usize::from(writer == 0)];
            let pace = &pace;
            scope.spawn(move || write(log, writer, pace))
        });
        scope.spawn(|| {
            while !pace.done.load(Ordering::Acquire) {
                reader.tail().unwrap();
            }
        });
        for round in 0..rounds() {
            wait_for_more();
            disturb(round);
        }
        wait_for_more();
        pace.done.store(true, Ordering::Release);
        writers.map(|writer| writer.join().unwrap()).into()
    });

    let found = read(&connect(cluster));
    let mut places: BTreeMap<Mark, Position> = BTreeMap::new();
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    for (position, mark) in &found {
        let twice = places.insert(*mark, *position);
        assert_eq!(twice, None, "entry {mark:?} is there twice");
        let before = last.insert(mark.0, mark.1);
        assert!(before < Some(mark.1), "writer {}: {} comes after {before:?}", mark.0, mark.1);
    }
    for (writer, outcomes) in (0..).zip(&outcomes) {
        for (first, count, outcome) in outcomes {
            let there: Vec<_> = (*first..first + count).map(|number| places.get(&(writer, number))).collect();
            match outcome {
                Ok(position) => {
                    let expected: Vec<_> = (0..*count).map(|n| position.plus(n)).collect();
                    let there: Vec<_> = there.into_iter().flatten().copied().collect();
                    assert_eq!(there, expected, "writer {writer}, entry {first}: acknowledged");
                }
                // Nobody could tell where it stands; if it is there, it is there wholly.
                Err(AppendError::Indeterminate { .. }) => {
                    assert!(there.iter().all(Option::is_some) || there.iter().all(Option::is_none));
                }
                // Also not given up because a later one is in the log: whoever submits in order would have to notice.
                Err(other) => panic!("writer {writer}, entry {first}: {other}"),
            }
        }
    }
}

/// Makes a change, whoever else makes some.
fn change(cluster: &Arc<LocalCluster>, change: &Change) {
    loop {
        match cluster.reconfigure(cluster.projection().unwrap(), change.clone()) {
            Reconfigured::Installed(_) => return,
            Reconfigured::Overtaken(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Kills a unit of the open segment, another one each time, and has one that is new take its place.
fn replace_one(cluster: &Arc<LocalCluster>, round: u32) {
    let members = cluster.projection().unwrap().members();
    let dying = members[round as usize % members.len()].unit;
    let fresh = UnitNumber(100 + round);
    assert!(cluster.stop_unit(dying));
    cluster.start_unit(fresh).unwrap();
    change(cluster, &Change::replace(dying, fresh));
    let latest = cluster.transfer(cluster.projection().unwrap()).unwrap();
    assert!(latest.joining().is_empty());
}

fn files(directory: &tempfile::TempDir, durability: Durability) -> LocalStorage {
    LocalStorage::Files(UnitFiles {
        segment_bytes: 256 << 10,
        run_bytes: 64 << 10,
        ..UnitFiles::new(directory.path(), durability)
    })
}

#[test]
fn entries_of_a_client_stay_in_order_while_units_in_memory_are_replaced() {
    for chains in [1, 2] {
        let cluster = cluster(chains, LocalStorage::Memory);
        keeps_order(&cluster, |round| replace_one(&cluster, round));
    }
}

#[test]
fn entries_of_a_client_stay_in_order_while_units_in_files_are_replaced() {
    for (chains, durability) in [(1, Durability::Flushed), (2, Durability::Buffered)] {
        let directory = tempfile::tempdir().unwrap();
        let cluster = cluster(chains, files(&directory, durability));
        keeps_order(&cluster, |round| replace_one(&cluster, round));
    }
}

#[test]
fn entries_of_a_client_stay_in_order_while_the_sequencer_forgets_and_epochs_change() {
    for chains in [1, 2] {
        let directory = tempfile::tempdir().unwrap();
        let cluster = cluster(chains, files(&directory, Durability::Buffered));
        keeps_order(&cluster, |round| {
            if round % 2 == 0 {
                assert!(cluster.stop_sequencer(LOCAL_SEQUENCER));
                cluster.start_sequencer(LOCAL_SEQUENCER);
            }
            change(&cluster, &Change::default());
        });
    }
}

#[test]
fn entries_of_a_client_stay_in_order_while_units_stop_and_come_back_with_what_they_had() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster(2, files(&directory, Durability::Buffered));
    keeps_order(&cluster, |round| {
        let unit = UnitNumber(1 + round % 4);
        assert!(cluster.stop_unit(unit));
        cluster.start_unit(unit).unwrap();
    });
}
