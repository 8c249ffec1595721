//! Whole clusters in this process, with threads, files and failures.

mod behind;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use mixlog_log::corfu::{
    self, Change, Config, ConnectError, CorfuLog, Join, LOCAL_SEQUENCER, LocalCluster, LocalConfig,
    LocalError, LocalStorage, Node, Reconfigured, ReplyTo, Request, SequencerNumber, SequencerRequest,
    SequencerVerb, Timing, TransferError, Transport, UnitFiles, UnitNumber,
};
use mixlog_log::{AppendError, Batch, Durability, Entry, FileLog, Position, ReadError, SharedLog};

/// Longer than any step takes on a busy machine, so that a hang fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(30);

fn timing() -> Timing {
    // Long enough that nobody is taken for dead on a busy machine but who is.
    Timing { hole: Duration::from_millis(20), silence: Duration::from_millis(50), ..Timing::default() }
}

fn memory() -> Arc<LocalCluster> {
    LocalCluster::open(LocalConfig { chains: 2, width: 16, timing: timing(), ..LocalConfig::default() })
        .unwrap()
}

fn files(directory: &Path, chains: u32) -> LocalConfig {
    let files = UnitFiles {
        segment_bytes: 64 << 10,
        run_bytes: 24 << 10,
        cache_bytes: 2 << 10,
        ..UnitFiles::new(directory, Durability::Flushed)
    };
    let storage = LocalStorage::Files(files);
    LocalConfig { chains, width: 16, storage, timing: timing(), ..LocalConfig::default() }
}

fn connect(cluster: &Arc<LocalCluster>) -> CorfuLog {
    let config = Config {
        durability: cluster.durability(),
        timing: cluster.timing().clone(),
        max_batch_bytes: 8 << 10,
        cache_bytes: 0,
        ..Config::default()
    };
    CorfuLog::connect(Arc::<LocalCluster>::clone(cluster), config).unwrap()
}

#[test]
fn log_that_is_closed_as_soon_as_it_is_open_does_not_wait_for_its_janitor() {
    let cluster = memory();
    let (done, ends) = mpsc::channel();
    let closer = thread::spawn(move || {
        for _ in 0..100 {
            let janitor = Some(Duration::from_secs(3600));
            let config = Config { timing: timing(), janitor, ..Config::default() };
            drop(CorfuLog::connect(Arc::<LocalCluster>::clone(&cluster), config).unwrap());
        }
        done.send(()).unwrap();
    });
    ends.recv_timeout(PATIENCE).expect("it is closed");
    closer.join().unwrap();
}

fn append(log: &CorfuLog, entry: &str) -> Result<Position, AppendError> {
    let mut batch = Batch::new();
    batch.push(entry.as_bytes());
    log.append(&batch)?.wait().map(|positions| positions.start)
}

/// All entries from `from` to the tail, each where it stands.
fn entries_from(log: &CorfuLog, from: Position) -> BTreeMap<u64, String> {
    let tail = log.tail().unwrap().tail;
    let mut entries = BTreeMap::new();
    let mut next = from;
    while next < tail {
        let block = log.read(next).unwrap().expect("before the tail");
        for (position, entry) in block.iter().filter(|(position, _)| *position >= next) {
            if let Entry::Data(bytes) = entry {
                entries.insert(position.0, String::from_utf8(bytes.to_vec()).unwrap());
            }
        }
        next = block.end();
    }
    entries
}

fn entries(log: &CorfuLog) -> BTreeMap<u64, String> {
    entries_from(log, Position(0))
}

fn unit(number: u32) -> UnitNumber {
    UnitNumber(number)
}

/// Makes a change, by whoever is first.
fn change(cluster: &Arc<LocalCluster>, change: Change) {
    match cluster.reconfigure(cluster.projection().unwrap(), change) {
        Reconfigured::Installed(_) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_clients_of_one_cluster_see_one_log() {
    let cluster = memory();
    let clients = [connect(&cluster), connect(&cluster)];
    let acknowledged: Vec<BTreeMap<u64, String>> = thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let log = &clients[writer % 2];
                scope.spawn(move || {
                    (0..100)
                        .map(|n| {
                            let entry = format!("{writer}.{n:03}");
                            (append(log, &entry).unwrap().0, entry)
                        })
                        .collect()
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let found = entries(&clients[0]);
    assert_eq!(found, entries(&clients[1]));
    for acknowledged in &acknowledged {
        assert!(acknowledged.values().is_sorted(), "the entries of one thread keep their order");
    }
    assert_eq!(found, acknowledged.into_iter().flatten().collect());
}

#[test]
fn client_waiting_for_entries_of_another_is_woken() {
    let cluster = memory();
    let (reader, writer) = (connect(&cluster), connect(&cluster));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| reader.wait_past(Position(0), Some(PATIENCE)).unwrap());
        append(&writer, "a").unwrap();
        assert_eq!(waiter.join().unwrap().tail, Position(1));
    });
    writer.seal().unwrap();
    assert!(reader.tail().unwrap().sealed);
    assert!(matches!(append(&reader, "b"), Err(AppendError::Sealed { tail: Position(1) })));
}

#[test]
fn client_that_died_with_tokens_costs_readers_a_pause_and_no_more() {
    let cluster = memory();
    let log = connect(&cluster);
    append(&log, "a").unwrap();
    let (answered, answer) = mpsc::channel();
    let request = SequencerRequest {
        epoch: cluster.projection().unwrap().epoch,
        verb: SequencerVerb::Next { count: 10, at_least: 10 },
    };
    let reply = ReplyTo::new(move |reply| answered.send(reply).unwrap());
    cluster.send(Node::Sequencer(LOCAL_SEQUENCER), Request::Sequencer(request), reply);
    assert!(answer.recv().unwrap().is_some());
    assert_eq!(append(&log, "b").unwrap(), Position(11));
    assert_eq!(log.wait_past(Position(11), Some(Duration::from_millis(1))).unwrap().tail, Position(12));
    assert_eq!(log.read(Position(5)).unwrap().unwrap().get(Position(5)), Some(Entry::Junk));
    assert_eq!(entries(&log).into_keys().collect::<Vec<_>>(), [0, 11]);
}

/// Appends from two threads while `interrupt` does its worst, and then some; nothing acknowledged is missing.
fn survives(cluster: &Arc<LocalCluster>, interrupt: impl FnOnce()) {
    let log = connect(cluster);
    let (done, appended) = (AtomicBool::new(false), AtomicU64::new(0));
    let wait_for_more = |more: u64| {
        let before = appended.load(Ordering::Acquire);
        let begun = Instant::now();
        while appended.load(Ordering::Acquire) < before + more {
            assert!(begun.elapsed() < PATIENCE, "appends go on");
            thread::yield_now();
        }
    };
    let acknowledged: BTreeMap<u64, String> = thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (log, done, appended) = (&log, &done, &appended);
                scope.spawn(move || {
                    let mut acknowledged = Vec::new();
                    while !done.load(Ordering::Acquire) {
                        let entry = format!("{writer}.{:05}", acknowledged.len());
                        acknowledged.push((append(log, &entry).unwrap().0, entry));
                        appended.fetch_add(1, Ordering::AcqRel);
                    }
                    acknowledged
                })
            })
            .collect();
        wait_for_more(50);
        interrupt();
        wait_for_more(50);
        done.store(true, Ordering::Release);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    assert_eq!(entries(&log), acknowledged);
    assert_eq!(entries(&connect(cluster)), acknowledged);
}

#[test]
fn unit_that_dies_amid_appends_is_replaced_and_copied_to() {
    for dying in 1..=4 {
        let cluster = memory();
        survives(&cluster, || {
            assert!(cluster.stop_unit(unit(dying)));
            cluster.start_unit(unit(5)).unwrap();
            change(&cluster, Change::replace(unit(dying), unit(5)));
            let latest = cluster.transfer(cluster.projection().unwrap()).unwrap();
            assert!(latest.joining().is_empty());
            // Now the other one of that chain may go.
            let beside = if dying % 2 == 0 { dying - 1 } else { dying + 1 };
            assert!(cluster.stop_unit(unit(beside)));
            change(&cluster, Change::remove(unit(beside)));
        });
    }
}

#[test]
fn unit_that_is_silent_amid_appends_is_left_behind() {
    let cluster = memory();
    survives(&cluster, || {
        assert!(cluster.stop_unit(unit(1)));
        change(&cluster, Change::default());
        assert_eq!(cluster.projection().unwrap().members().len(), 3);
    });
}

#[test]
fn sequencer_that_restarts_amid_appends_forgets_and_is_told() {
    let cluster = memory();
    survives(&cluster, || {
        cluster.start_sequencer(LOCAL_SEQUENCER);
        change(&cluster, Change::default());
    });
}

#[test]
fn chains_are_added_amid_appends() {
    let cluster = memory();
    survives(&cluster, || {
        for number in 5..=6 {
            cluster.start_unit(unit(number)).unwrap();
        }
        change(&cluster, Change::grow(vec![vec![unit(5), unit(6)]]));
        assert_eq!(cluster.projection().unwrap().open().chains.len(), 3);
    });
}

#[test]
fn unit_with_files_restarted_amid_appends_goes_on_in_the_same_epoch() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::open(files(directory.path(), 1)).unwrap();
    let epoch = cluster.projection().unwrap().epoch;
    survives(&cluster, || {
        for number in 1..=2 {
            assert!(cluster.stop_unit(unit(number)));
            cluster.start_unit(unit(number)).unwrap();
        }
    });
    assert_eq!(cluster.projection().unwrap().epoch, epoch);
}

#[test]
fn cluster_reopened_goes_on_in_a_later_epoch_and_keeps_its_seal() {
    let directory = tempfile::tempdir().unwrap();
    let mut epoch = 0;
    for n in 0..3 {
        let cluster = LocalCluster::open(files(directory.path(), 2)).unwrap();
        let latest = cluster.projection().unwrap().epoch.0;
        assert!(latest > epoch);
        epoch = latest;
        assert_eq!(append(&connect(&cluster), "a").unwrap(), Position(n));
    }
    let cluster = LocalCluster::open(files(directory.path(), 2)).unwrap();
    assert_eq!(connect(&cluster).seal().unwrap(), Position(3));
    drop(cluster);
    let cluster = LocalCluster::open(files(directory.path(), 2)).unwrap();
    let log = connect(&cluster);
    assert!(log.tail().unwrap().sealed);
    assert_eq!(entries(&log).len(), 3);
}

/// Flips a bit in the first segment of a unit, amid its entries.
fn damage(directory: &Path) {
    damage_at(directory, b"entry 5");
}

/// The same, in an entry that begins so.
fn damage_at(directory: &Path, entry: &[u8]) {
    let mut segments: Vec<_> = fs::read_dir(directory.join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("segment-"))
        .collect();
    segments.sort();
    let mut bytes = fs::read(&segments[0]).unwrap();
    let place = bytes.windows(entry.len()).position(|window| window == entry).expect("it is there");
    bytes[place] ^= 4;
    fs::write(&segments[0], bytes).unwrap();
}

/// Flips a bit in both copies of the manifest of a unit's journal: nothing of it can be read then.
fn damage_manifest(directory: &Path) {
    let manifest = directory.join("journal").join("manifest");
    let mut bytes = fs::read(&manifest).unwrap();
    (bytes[40], bytes[4096 + 40]) = (!bytes[40], !bytes[4096 + 40]);
    fs::write(manifest, bytes).unwrap();
}

#[test]
fn damaged_unit_is_left_behind_and_can_be_replaced_by_itself() {
    for damage in [damage, damage_manifest] {
        replaced_by_itself_after(damage);
    }
}

fn replaced_by_itself_after(damage: fn(&Path)) {
    let directory = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::open(files(directory.path(), 1)).unwrap();
    let log = connect(&cluster);
    for n in 0..40 {
        append(&log, &format!("entry {n}")).unwrap();
    }
    let all = entries(&log);
    let unit_directory = cluster.unit_directory(unit(1));
    drop(log);
    drop(cluster);
    damage(&unit_directory);
    let cluster = LocalCluster::open(files(directory.path(), 1)).unwrap();
    assert_eq!(cluster.projection().unwrap().members().len(), 1);
    let log = connect(&cluster);
    assert_eq!(entries(&log), all);
    // The unit itself is fine, but for what it held: it joins anew.
    let join = Join { beside: unit(2), unit: unit(1) };
    change(&cluster, Change { joins: vec![join], ..Change::default() });
    cluster.transfer(cluster.projection().unwrap()).unwrap();
    assert!(cluster.stop_unit(unit(2)));
    change(&cluster, Change::remove(unit(2)));
    assert_eq!(entries(&log), all);
    append(&log, "more").unwrap();
    drop(log);
    drop(cluster);
    // And it is whole again on its disk.
    let cluster = LocalCluster::open(files(directory.path(), 1)).unwrap();
    assert_eq!(entries(&connect(&cluster)).len(), 41);
}

#[test]
fn unit_of_which_nothing_says_whose_it_was_is_left_to_a_person() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::open(files(directory.path(), 1)).unwrap();
    append(&connect(&cluster), "entry").unwrap();
    let lost = cluster.unit_directory(unit(1));
    assert!(cluster.stop_unit(unit(1)));
    damage_manifest(&lost);
    fs::remove_file(lost.join("owner")).unwrap();
    let error = cluster.start_unit(unit(1)).unwrap_err();
    assert!(error.to_string().ends_with(&format!("remove {}", lost.display())), "{error}");
    fs::remove_dir_all(&lost).unwrap();
    cluster.start_unit(unit(1)).unwrap();
    // The epoch that leaves it behind, and then one that takes it in again.
    change(&cluster, Change::remove(unit(1)));
    let join = Join { beside: unit(2), unit: unit(1) };
    change(&cluster, Change { joins: vec![join], ..Change::default() });
    cluster.transfer(cluster.projection().unwrap()).unwrap();
    assert_eq!(cluster.projection().unwrap().members().len(), 2);
    assert_eq!(entries(&connect(&cluster)).len(), 1);
}

#[test]
fn cluster_whose_units_are_all_damaged_does_not_open_as_if_nothing_were_missing() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::open(files(directory.path(), 1)).unwrap();
    let log = connect(&cluster);
    for n in 0..40 {
        append(&log, &format!("entry {n}")).unwrap();
    }
    let directories = [1, 2].map(|number| cluster.unit_directory(unit(number)));
    drop(log);
    drop(cluster);
    directories.iter().for_each(|directory| damage(directory));
    let error = LocalCluster::open(files(directory.path(), 1)).unwrap_err();
    assert!(matches!(error, LocalError::NotStarted(Reconfigured::Impossible(_))), "{error}");
}

#[test]
fn unit_that_buffers_and_went_down_with_its_machine_does_not_believe_its_files() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = files(directory.path(), 1);
    let LocalStorage::Files(files) = &mut config.storage else { unreachable!("it has files") };
    files.durability = Durability::Buffered;
    let cluster = LocalCluster::open(config.clone()).unwrap();
    append(&connect(&cluster), "a").unwrap();
    let boot = cluster.unit_directory(unit(1)).join("boot");
    assert!(boot.exists());
    drop(cluster);
    assert!(!boot.exists(), "it ended in good order");
    fs::write(&boot, "another boot").unwrap();
    for _ in 0..2 {
        let cluster = LocalCluster::open(config.clone()).unwrap();
        assert_eq!(cluster.projection().unwrap().members().len(), 1);
        assert_eq!(entries(&connect(&cluster)).len(), 1);
        if cluster.running().len() == 1 {
            cluster.start_unit(unit(1)).unwrap();
            let join = Join { beside: unit(2), unit: unit(1) };
            change(&cluster, Change { joins: vec![join], ..Change::default() });
            cluster.transfer(cluster.projection().unwrap()).unwrap();
        }
    }
    let cluster = LocalCluster::open(config).unwrap();
    assert_eq!(cluster.projection().unwrap().members().len(), 2, "and is whole again");
    assert_eq!(entries(&connect(&cluster)).len(), 1);
}

#[test]
fn trim_gives_space_back_on_the_units_disks() {
    let directory = tempfile::tempdir().unwrap();
    let entry = "x".repeat(2000);
    let segments = |cluster: &LocalCluster| {
        let list = fs::read_dir(cluster.unit_directory(unit(1)).join("journal")).unwrap();
        list.filter(|file| file.as_ref().unwrap().file_name().to_str().unwrap().starts_with("segment-0"))
            .count()
    };
    let cluster = LocalCluster::open(files(directory.path(), 1)).unwrap();
    let log = connect(&cluster);
    let mut before = 0;
    for round in 0..6u64 {
        for _ in 0..60 {
            append(&log, &entry).unwrap();
        }
        if round == 2 {
            before = segments(&cluster);
        }
        if round > 2 {
            log.trim(Position(60 * round)).unwrap();
        }
    }
    assert!(before > 3);
    let tail = log.tail().unwrap();
    drop(log);
    drop(cluster);
    let cluster = LocalCluster::open(files(directory.path(), 1)).unwrap();
    assert!(segments(&cluster) <= before, "{} segments, {before} before", segments(&cluster));
    let log = connect(&cluster);
    assert_eq!(log.tail().unwrap().head, tail.head);
    assert_eq!(entries_from(&log, tail.head).len() as u64, tail.tail.since(tail.head));
    assert!(matches!(log.read(Position(3)), Err(ReadError::Trimmed { .. })));
}

#[test]
fn units_over_their_quota_refuse_until_they_are_trimmed() {
    let config = LocalConfig { quota: 1000, timing: timing(), ..LocalConfig::default() };
    let cluster = LocalCluster::open(config).unwrap();
    let log = connect(&cluster);
    let entry = "x".repeat(400);
    append(&log, &entry).unwrap();
    append(&log, &entry).unwrap();
    let error = append(&log, &entry).unwrap_err();
    assert!(matches!(error, AppendError::Full(_)), "{error}");
    log.trim(Position(1)).unwrap();
    append(&log, &entry).unwrap();
    assert_eq!(entries_from(&log, Position(1)).len(), 2);
}

#[test]
fn cluster_that_does_not_answer_is_an_error_after_a_while() {
    let cluster = memory();
    let config =
        Config { patience: Duration::from_millis(50), timing: timing(), janitor: None, ..Config::default() };
    let log = CorfuLog::connect(Arc::<LocalCluster>::clone(&cluster), config).unwrap();
    append(&log, "a").unwrap();
    for number in 1..=4 {
        assert!(cluster.stop_unit(unit(number)));
    }
    let error = append(&log, "b").unwrap_err();
    assert!(matches!(error, AppendError::Indeterminate { position: Position(1) }), "{error}");
    assert!(matches!(log.read(Position(0)), Err(ReadError::Unavailable)));
    assert!(cluster.stop_sequencer(LOCAL_SEQUENCER));
    let error = append(&log, "c").unwrap_err();
    assert!(matches!(error, AppendError::Unavailable), "{error}");
    // Nobody has to be asked for what is known.
    assert_eq!(log.known_tail(), Position(1));
}

#[test]
fn batch_of_more_entries_than_a_stripe_is_refused() {
    let log = connect(&memory());
    let mut batch = Batch::new();
    (0..17).for_each(|_| batch.push(b"x"));
    assert!(matches!(log.append(&batch), Err(AppendError::TooMany { limit: 16 })));
}

#[test]
fn cluster_whose_units_are_gone_is_an_error_when_it_is_connected_to() {
    let cluster = memory();
    cluster.running().into_iter().for_each(|unit| assert!(cluster.stop_unit(unit)));
    let patience = Duration::from_millis(300);
    let config = Config { timing: timing(), patience, ..Config::default() };
    let connected = CorfuLog::connect(Arc::<LocalCluster>::clone(&cluster), config);
    assert_eq!(connected.map(drop), Err(ConnectError::Silent));
}

/// What a unit's files say by themselves, as a power cut would find them at best: how many records there are, and how
/// many of them are known to be durable.
fn records(cluster: &LocalCluster, number: u32) -> (Position, Position) {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(cluster.unit_directory(unit(number)).join("journal")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let report = FileLog::verify(copy.path()).unwrap();
    (report.tail, report.durable)
}

fn buffered(directory: &Path) -> Arc<LocalCluster> {
    let LocalStorage::Files(files) = files(directory, 1).storage else { unreachable!("in files") };
    let storage = LocalStorage::Files(UnitFiles { durability: Durability::Buffered, ..files });
    LocalCluster::open(LocalConfig { storage, timing: timing(), ..LocalConfig::default() }).unwrap()
}

#[test]
fn flush_makes_durable_what_units_have_that_only_buffer() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = buffered(directory.path());
    let log = connect(&cluster);
    append(&log, "a").unwrap();
    append(&log, "b").unwrap();
    let before = [1, 2].map(|number| records(&cluster, number));
    before.iter().for_each(|(written, durable)| assert!(durable < written, "they buffer"));
    assert_eq!(log.flush().unwrap(), Position(2));
    // What is written next says so of everything before it.
    append(&log, "c").unwrap();
    for (number, (written, _)) in [1, 2].into_iter().zip(before) {
        let (_, durable) = records(&cluster, number);
        assert!(durable >= written, "unit {number}: {durable} of {written}");
    }
}

#[test]
fn flush_goes_on_with_whoever_takes_the_place_of_a_unit_that_died() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = buffered(directory.path());
    let log = connect(&cluster);
    for n in 0..40 {
        append(&log, &n.to_string()).unwrap();
    }
    assert!(cluster.stop_unit(unit(2)));
    thread::scope(|scope| {
        let flushed = scope.spawn(|| log.flush());
        cluster.start_unit(unit(3)).unwrap();
        change(&cluster, Change::replace(unit(2), unit(3)));
        assert_eq!(flushed.join().unwrap().unwrap(), Position(40));
    });
    // Before it stands in for another one, a unit that was copied to is flushed, as that one was.
    cluster.transfer(cluster.projection().unwrap()).unwrap();
    let (copied, _) = records(&cluster, 3);
    append(&log, "after").unwrap();
    let (_, durable) = records(&cluster, 3);
    assert!(cluster.projection().unwrap().joining().is_empty());
    assert!(copied.0 > 1 && durable.0 + 1 >= copied.0, "{durable} of {copied}");
}

#[test]
fn copying_ends_when_it_comes_no_further_and_not_when_it_takes_long() {
    let cluster = memory();
    let log = connect(&cluster);
    for n in 0..400 {
        append(&log, &format!("entry {n}")).unwrap();
    }
    cluster.start_unit(unit(5)).unwrap();
    change(&cluster, Change::replace(unit(1), unit(5)));
    let joining = cluster.projection().unwrap();
    let transfer = |cluster: &Arc<LocalCluster>, pause, patience| {
        let slow: Arc<dyn Transport> = Arc::new(Slow { cluster: Arc::clone(cluster), pause });
        corfu::transfer(&slow, &timing(), Arc::clone(&joining), Some(patience))
    };
    // Dozens of requests, each of which takes a while.
    let (pause, patience) = (Duration::from_millis(20), Duration::from_millis(400));
    assert!(cluster.stop_unit(unit(5)));
    assert_eq!(transfer(&cluster, pause, patience), Err(TransferError::Unavailable));
    // It was in memory: it is another one now.
    cluster.start_unit(unit(5)).unwrap();
    change(&cluster, Change::remove(unit(5)));
    change(&cluster, Change { joins: vec![Join { beside: unit(2), unit: unit(5) }], ..Change::default() });
    let joining = cluster.projection().unwrap();
    let slow: Arc<dyn Transport> = Arc::new(Slow { cluster: Arc::clone(&cluster), pause });
    let begun = Instant::now();
    let copied = corfu::transfer(&slow, &timing(), joining, Some(patience)).unwrap();
    assert!(copied.joining().is_empty());
    assert!(begun.elapsed() > patience, "it took longer than it may stand still");
}

/// A cluster whose units take so long for each request.
struct Slow {
    cluster: Arc<LocalCluster>,
    pause: Duration,
}

impl Transport for Slow {
    fn send(&self, to: Node, request: Request, reply: ReplyTo) {
        if matches!(request, Request::Unit(_)) {
            thread::sleep(self.pause);
        }
        self.cluster.send(to, request, reply);
    }
}
