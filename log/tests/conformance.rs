//! What every backend of the log must do, run against each of them.
#![cfg(not(loom))]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use mixlog_log::{
    AppendError, Batch, Block, Durability, Entry, FileLog, LogId, MemoryLog, Position, ReadError, SealError,
    SharedLog, Tail, Ticket, TrimError, corfu, file,
};

/// Longer than any step takes on a busy machine, so that a hang fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// A log under test, and how to open it again.
struct Subject {
    /// Whether every position holds data: whole batches that do not fit in a stripe leave junk behind.
    dense: bool,
    log: Option<Arc<dyn SharedLog>>,
    reopen: Option<Box<dyn Fn() -> Arc<dyn SharedLog>>>,
}

impl Subject {
    fn memory() -> Self {
        Self { dense: true, log: Some(Arc::new(MemoryLog::new())), reopen: None }
    }

    fn file(durability: Durability) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Small, so that a few hundred entries cross segments, and most reads miss the cache.
        let config = file::Config {
            durability,
            segment_bytes: 32 << 10,
            max_batch_bytes: 8 << 10,
            queue_bytes: 64 << 10,
            cache_bytes: 4 << 10,
            ..file::Config::default()
        };
        let reopen = move || -> Arc<dyn SharedLog> {
            Arc::new(FileLog::open(directory.path().join("log"), config.clone()).unwrap())
        };
        Self { dense: true, log: Some(reopen()), reopen: Some(Box::new(reopen)) }
    }

    /// Two chains of two units each in memory, with stripes so short that most tests cross them.
    fn corfu_memory() -> Self {
        let log = corfu_log(corfu::LocalStorage::Memory, Durability::Memory);
        Self { dense: false, log: Some(log), reopen: None }
    }

    fn corfu_file(durability: Durability) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let reopen = move || -> Arc<dyn SharedLog> {
            let files = corfu::UnitFiles {
                segment_bytes: 64 << 10,
                run_bytes: 24 << 10,
                cache_bytes: 4 << 10,
                ..corfu::UnitFiles::new(directory.path().join("cluster"), durability)
            };
            corfu_log(corfu::LocalStorage::Files(files), durability)
        };
        Self { dense: false, log: Some(reopen()), reopen: Some(Box::new(reopen)) }
    }

    /// The same behind sockets.
    fn corfu_tcp_memory() -> Self {
        let log = tcp_log(None, Durability::Memory);
        Self { dense: false, log: Some(log), reopen: None }
    }

    fn corfu_tcp_file(durability: Durability) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let reopen = move || tcp_log(Some(directory.path()), durability);
        Self { dense: false, log: Some(reopen()), reopen: Some(Box::new(reopen)) }
    }

    fn log(&self) -> &Arc<dyn SharedLog> {
        self.log.as_ref().expect("open")
    }

    /// Closes the log and opens it again; false for a backend that keeps nothing.
    fn reopen(&mut self) -> bool {
        let Some(reopen) = &self.reopen else { return false };
        self.log = None;
        self.log = Some(reopen());
        true
    }
}

fn corfu_log(storage: corfu::LocalStorage, durability: Durability) -> Arc<dyn SharedLog> {
    let config = corfu::LocalConfig { chains: 2, width: 32, storage, ..corfu::LocalConfig::default() };
    let cluster = corfu::LocalCluster::open(config).unwrap();
    Arc::new(corfu::CorfuLog::connect(cluster, corfu_config(durability)).unwrap())
}

fn corfu_config(durability: Durability) -> corfu::Config {
    corfu::Config {
        durability,
        queue_bytes: 64 << 10,
        max_batch_bytes: 8 << 10,
        cache_bytes: 4 << 10,
        ..corfu::Config::default()
    }
}

/// Units, sequencer and store of this process behind sockets; the log keeps them, and goes first.
struct TcpLog {
    log: corfu::CorfuLog,
    _roles: Vec<corfu::Server>,
    _directory: Option<tempfile::TempDir>,
}

fn tcp_log(directory: Option<&Path>, durability: Durability) -> Arc<dyn SharedLog> {
    let temporary = directory.is_none().then(|| tempfile::tempdir().unwrap());
    let directory = directory.or_else(|| temporary.as_ref().map(tempfile::TempDir::path)).unwrap();
    let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
    let timing = corfu::Timing::default();
    let store = corfu::Server::store(listener(), &directory.join("store")).unwrap();
    let stores = [store.address().to_string()];
    let sequencer = corfu::SequencerNumber(1);
    let mut roles =
        vec![(corfu::Node::Sequencer(sequencer), corfu::Server::sequencer(listener(), sequencer).unwrap())];
    let numbers = [1, 2, 3, 4].map(corfu::UnitNumber);
    for number in numbers {
        let files = corfu::UnitFiles {
            segment_bytes: 64 << 10,
            run_bytes: 24 << 10,
            cache_bytes: 4 << 10,
            ..corfu::UnitFiles::new(directory.join(format!("unit-{number}")), durability)
        };
        let storage = match durability {
            Durability::Memory => corfu::UnitStorage::Memory,
            _ => corfu::UnitStorage::Files(files),
        };
        let unit = corfu::UnitServer::open(number, u64::MAX, &storage).unwrap();
        roles.push((corfu::Node::Unit(number), corfu::Server::unit(listener(), unit).unwrap()));
    }
    for (node, role) in &roles {
        let listing = corfu::Listing { address: role.address(), durability: role.durability() };
        corfu::announce(&stores, role.log(), *node, listing, &timing).unwrap();
    }
    let tcp = corfu::TcpTransport::connect(&stores, &timing).unwrap();
    let transport: Arc<dyn corfu::Transport> = Arc::clone(&tcp) as _;
    let begun = match corfu::latest(&*transport, &timing, PATIENCE).unwrap() {
        Some(latest) => {
            corfu::reconfigure(&transport, &timing, latest, corfu::Change::default(), Some(PATIENCE))
        }
        None => {
            let chains = numbers.chunks(2).map(<[_]>::to_vec).collect();
            let log = LogId::random();
            corfu::found(&transport, &timing, log, chains, sequencer, 32, Some(PATIENCE))
        }
    };
    let Some(corfu::Reconfigured::Installed(projection)) = begun else { panic!("{begun:?}") };
    assert_eq!(tcp.durability(&projection), durability);
    let log = corfu::CorfuLog::connect(transport, corfu_config(durability)).unwrap();
    let mut servers = vec![store];
    servers.extend(roles.into_iter().map(|(_, role)| role));
    Arc::new(TcpLog { log, _roles: servers, _directory: temporary })
}

impl SharedLog for TcpLog {
    fn append(&self, batch: &Batch) -> Result<Ticket, AppendError> {
        self.log.append(batch)
    }

    fn read(&self, position: Position) -> Result<Option<Arc<Block>>, ReadError> {
        self.log.read(position)
    }

    fn tail(&self) -> Tail {
        self.log.tail()
    }

    fn wait_past(&self, position: Position, timeout: Option<Duration>) -> Result<Tail, ReadError> {
        self.log.wait_past(position, timeout)
    }

    fn trim(&self, before: Position) -> Result<(), TrimError> {
        self.log.trim(before)
    }

    fn seal(&self) -> Result<Position, SealError> {
        self.log.seal()
    }

    fn durability(&self) -> Durability {
        self.log.durability()
    }

    fn id(&self) -> LogId {
        self.log.id()
    }
}

fn batch(entries: &[&[u8]]) -> Batch {
    let mut batch = Batch::new();
    for entry in entries {
        batch.push(entry);
    }
    batch
}

fn append(log: &dyn SharedLog, entries: &[&[u8]]) -> Position {
    let positions = log.append(&batch(entries)).unwrap().wait().unwrap();
    assert_eq!(positions.end.since(positions.start), entries.len() as u64);
    positions.start
}

/// Appends `count` numbered entries of about 100 bytes, and waits for all of them.
fn append_numbered(log: &dyn SharedLog, count: u64) {
    let first = log.tail().tail.0;
    let tickets: Vec<_> =
        (first..first + count).map(|n| log.append(&batch(&[&numbered(n)])).unwrap()).collect();
    for (n, ticket) in (first..).zip(tickets) {
        assert_eq!(ticket.wait().unwrap(), Position(n)..Position(n + 1));
    }
}

fn numbered(n: u64) -> Vec<u8> {
    let mut entry = n.to_le_bytes().to_vec();
    entry.resize(100, n as u8);
    entry
}

/// All entries from `from` to the tail.
fn read_all(log: &dyn SharedLog, from: Position) -> BTreeMap<u64, Vec<u8>> {
    let tail = log.tail().tail;
    let mut entries = BTreeMap::new();
    let mut next = from;
    while next < tail {
        let block = log.read(next).unwrap().expect("before the tail");
        assert!(block.first() <= next && next < block.end(), "the block holds the position asked for");
        for (position, entry) in block.iter().filter(|(position, _)| *position >= next) {
            let Entry::Data(bytes) = entry else { panic!("nobody wrote junk") };
            entries.insert(position.0, bytes.to_vec());
        }
        next = block.end();
    }
    entries
}

fn assert_numbered(log: &dyn SharedLog, from: u64, to: u64) {
    let expected: BTreeMap<_, _> = (from..to).map(|n| (n, numbered(n))).collect();
    assert_eq!(read_all(log, Position(from)), expected);
}

// ---- 1: the empty log ------------------------------------------------------------------------------------

fn empty_log_has_nothing(subject: Subject) {
    let log = subject.log();
    assert_eq!(log.tail(), Tail { head: Position(0), tail: Position(0), sealed: false });
    assert!(log.read(Position(0)).unwrap().is_none());
    assert!(log.read(Position::MAX).unwrap().is_none());
    log.trim(Position(0)).unwrap();
    log.trim(Position(9)).unwrap();
    assert_eq!(log.tail(), Tail { head: Position(0), tail: Position(0), sealed: false });
    assert_eq!(append(&**log, &[b"first"]), Position(0));
}

fn empty_log_sealed_stays_empty(mut subject: Subject) {
    assert_eq!(subject.log().seal().unwrap(), Position(0));
    let refused = |log: &dyn SharedLog| {
        let error = log.append(&batch(&[b"late"])).unwrap_err();
        assert!(matches!(error, AppendError::Sealed { tail: Position(0) }), "{error}");
    };
    refused(&**subject.log());
    if subject.reopen() {
        assert!(subject.log().tail().sealed);
        refused(&**subject.log());
    }
}

// ---- 2: appending and reading ----------------------------------------------------------------------------

fn append_gives_dense_positions_and_the_same_bytes(subject: Subject) {
    let log = subject.log();
    for n in 0..20u64 {
        assert_eq!(append(&**log, &[&numbered(n)]), Position(n));
        assert_eq!(log.tail().tail, Position(n + 1));
    }
    assert_numbered(&**log, 0, 20);
}

fn append_unwaited_becomes_visible(subject: Subject) {
    let log = subject.log();
    drop(log.append(&batch(&[b"a"])).unwrap());
    let tail = log.wait_past(Position(0), Some(PATIENCE)).unwrap();
    assert_eq!(tail.tail, Position(1));
}

fn ticket_asked_again_answers_the_same(subject: Subject) {
    let ticket = subject.log().append(&batch(&[b"a", b"b"])).unwrap();
    assert_eq!(ticket.wait().unwrap(), Position(0)..Position(2));
    assert_eq!(ticket.wait().unwrap(), Position(0)..Position(2));
    assert_eq!(ticket.wait_timeout(Duration::ZERO).unwrap().unwrap(), Position(0)..Position(2));
}

// ---- 3: the tail and waiting for it ----------------------------------------------------------------------

fn read_at_and_past_the_tail_finds_nothing(subject: Subject) {
    let log = subject.log();
    append(&**log, &[b"a", b"b"]);
    assert!(log.read(Position(1)).unwrap().is_some());
    assert!(log.read(Position(2)).unwrap().is_none());
    assert!(log.read(Position(3)).unwrap().is_none());
}

fn wait_past_times_out_on_a_log_that_rests(subject: Subject) {
    let log = subject.log();
    append(&**log, &[b"a"]);
    let tail = log.wait_past(Position(1), Some(Duration::from_millis(1))).unwrap();
    assert_eq!(tail, Tail { head: Position(0), tail: Position(1), sealed: false });
    assert_eq!(log.wait_past(Position(0), None).unwrap().tail, Position(1));
}

fn wait_past_wakes_whom_it_concerns(subject: Subject) {
    let log = subject.log();
    let (woken, wakes) = mpsc::channel();
    let waiters: Vec<_> = [0, 5]
        .map(|position| {
            let (log, woken) = (Arc::clone(log), woken.clone());
            thread::spawn(move || {
                let tail = log.wait_past(Position(position), Some(PATIENCE)).unwrap();
                woken.send((position, tail.tail)).unwrap();
            })
        })
        .into();
    append(&**log, &[b"a"]);
    assert_eq!(wakes.recv_timeout(PATIENCE).unwrap(), (0, Position(1)));
    assert!(wakes.try_recv().is_err(), "nothing is past position 5 yet");
    append(&**log, &[b"b".as_slice(); 5]);
    assert_eq!(wakes.recv_timeout(PATIENCE).unwrap(), (5, Position(6)));
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
}

fn wait_past_on_a_sealed_log_returns(subject: Subject) {
    let log = subject.log();
    let waiter = {
        let log = Arc::clone(log);
        thread::spawn(move || log.wait_past(Position(100), Some(PATIENCE)).unwrap())
    };
    append(&**log, &[b"a"]);
    log.seal().unwrap();
    let expected = Tail { head: Position(0), tail: Position(1), sealed: true };
    assert_eq!(waiter.join().unwrap(), expected);
    assert_eq!(log.wait_past(Position(1), None).unwrap(), expected);
}

// ---- 4: batches ------------------------------------------------------------------------------------------

fn batch_keeps_its_order_and_any_bytes(mut subject: Subject) {
    let entries: Vec<&[u8]> = vec![b"", &[0; 64], &[0xff; 64], b"x", b"", &[0], &[0xff; 7]];
    append(&**subject.log(), &entries);
    append(&**subject.log(), &[b"more"]);
    let check = |log: &dyn SharedLog| {
        let found: Vec<_> = read_all(log, Position(0)).into_values().collect();
        assert_eq!(found.split_last().unwrap(), (&b"more".to_vec(), entries_of(&entries).as_slice()));
    };
    check(&**subject.log());
    subject.reopen();
    check(&**subject.log());
}

fn entries_of(entries: &[&[u8]]) -> Vec<Vec<u8>> {
    entries.iter().map(|entry| entry.to_vec()).collect()
}

fn batches_of_one_thread_keep_their_order(subject: Subject) {
    let log = subject.log();
    let tickets: Vec<_> = (0..50u8).map(|n| log.append(&batch(&[&[n], &[n], &[n]])).unwrap()).collect();
    let mut next = Position(0);
    for (n, ticket) in (0..).zip(tickets) {
        let positions = ticket.wait().unwrap();
        assert_eq!(positions.end.since(positions.start), 3);
        if subject.dense {
            assert_eq!(positions.start, next);
        }
        for skipped in next.0..positions.start.0 {
            assert_eq!(entry(&**log, skipped), None, "what is not data is junk");
        }
        for position in positions.start.0..positions.end.0 {
            assert_eq!(entry(&**log, position), Some(vec![n]));
        }
        next = positions.end;
    }
    assert_eq!(log.tail().tail, next);
}

/// The data at a position before the tail; `None` for junk.
fn entry(log: &dyn SharedLog, position: u64) -> Option<Vec<u8>> {
    let block = log.read(Position(position)).unwrap().expect("before the tail");
    match block.get(Position(position)).expect("the block holds the position asked for") {
        Entry::Data(bytes) => Some(bytes.to_vec()),
        Entry::Junk => None,
    }
}

// ---- 5: concurrency --------------------------------------------------------------------------------------

fn concurrent_appends_and_reads_are_linearizable(subject: Subject) {
    const PRODUCERS: u64 = 4;
    const APPENDS: u64 = 60;
    let log = subject.log();
    let clock = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (log, done) = (Arc::clone(log), Arc::clone(&done));
            thread::spawn(move || {
                let mut next = Position(0);
                let mut seen = Vec::new();
                while !done.load(Ordering::Acquire) || next < log.tail().tail {
                    let before = log.tail().tail;
                    let after = log.wait_past(next, Some(Duration::from_millis(1))).unwrap().tail;
                    assert!(before <= after, "the tail never moves back");
                    while let Some(block) = log.read(next).unwrap() {
                        for (_, entry) in block.iter().filter(|(position, _)| *position >= next) {
                            let Entry::Data(bytes) = entry else { panic!("nobody wrote junk") };
                            seen.push(bytes.to_vec());
                        }
                        next = block.end();
                    }
                }
                seen
            })
        })
        .collect();
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let (log, clock) = (Arc::clone(log), Arc::clone(&clock));
            thread::spawn(move || {
                let mut history = Vec::new();
                for n in 0..APPENDS {
                    let mut entry = producer.to_le_bytes().to_vec();
                    entry.extend(n.to_le_bytes());
                    let called = clock.fetch_add(1, Ordering::SeqCst);
                    let position = append(&*log, &[&entry]);
                    assert!(log.tail().tail > position, "who was acknowledged sees it in the tail");
                    let block = log.read(position).unwrap().expect("acknowledged");
                    assert_eq!(block.get(position), Some(Entry::Data(&entry)));
                    let returned = clock.fetch_add(1, Ordering::SeqCst);
                    history.push((position, called, returned, entry));
                }
                history
            })
        })
        .collect();
    let mut history: Vec<_> = producers.into_iter().flat_map(|producer| producer.join().unwrap()).collect();
    done.store(true, Ordering::Release);
    history.sort();
    let positions: Vec<_> = history.iter().map(|(position, ..)| position.0).collect();
    assert_eq!(positions, (0..PRODUCERS * APPENDS).collect::<Vec<_>>());
    let mut latest_call = 0;
    for (position, called, returned, _) in &history {
        // Whoever stands later in the log must not have returned before one that stands earlier was called.
        latest_call = latest_call.max(*called);
        assert!(*returned > latest_call, "{position} was acknowledged before an earlier one was appended");
    }
    let expected: Vec<_> = history.into_iter().map(|(.., entry)| entry).collect();
    for reader in readers {
        assert_eq!(reader.join().unwrap(), expected);
    }
}

// ---- 7: trim ---------------------------------------------------------------------------------------------

fn trim_moves_the_head_and_nothing_else(mut subject: Subject) {
    append_numbered(&**subject.log(), 600);
    for (before, head) in [(0, 0), (1, 1), (250, 250), (250, 250), (7, 250), (499, 499)] {
        let log = subject.log();
        log.trim(Position(before)).unwrap();
        assert_eq!(log.tail(), Tail { head: Position(head), tail: Position(600), sealed: false });
        if head > 0 {
            let error = log.read(Position(head - 1)).unwrap_err();
            assert!(matches!(error, ReadError::Trimmed { head: h, .. } if h == Position(head)), "{error}");
        }
        assert_numbered(&**log, head, 600);
    }
    if subject.reopen() {
        assert_eq!(subject.log().tail().head, Position(499));
        assert_numbered(&**subject.log(), 499, 600);
    }
}

fn trim_everything_then_append_goes_on(mut subject: Subject) {
    append_numbered(&**subject.log(), 300);
    subject.log().trim(Position::MAX).unwrap();
    assert_eq!(subject.log().tail(), Tail { head: Position(300), tail: Position(300), sealed: false });
    assert!(subject.log().read(Position(300)).unwrap().is_none());
    subject.reopen();
    append_numbered(&**subject.log(), 10);
    assert_numbered(&**subject.log(), 300, 310);
}

// ---- 8: seal ---------------------------------------------------------------------------------------------

fn seal_refuses_appends_for_ever(mut subject: Subject) {
    append_numbered(&**subject.log(), 5);
    let check = |log: &dyn SharedLog, trim: u64| {
        assert_eq!(log.seal().unwrap(), Position(5));
        assert_eq!(log.seal().unwrap(), Position(5));
        assert!(log.tail().sealed);
        assert!(matches!(log.append(&batch(&[b"late"])), Err(AppendError::Sealed { tail: Position(5) })));
        log.trim(Position(trim)).unwrap();
        assert_numbered(log, trim, 5);
    };
    check(&**subject.log(), 2);
    subject.reopen();
    check(&**subject.log(), 3);
}

fn seal_amid_appends_keeps_what_was_acknowledged(subject: Subject) {
    const PRODUCERS: usize = 20;
    let log = subject.log();
    let (started, starts) = mpsc::channel();
    let producers: Vec<_> = (0..PRODUCERS as u64)
        .map(|producer| {
            let (log, started) = (Arc::clone(log), started.clone());
            thread::spawn(move || {
                let mut acknowledged = Vec::new();
                loop {
                    match log.append(&batch(&[&producer.to_le_bytes()])) {
                        Ok(ticket) => acknowledged.push(ticket.wait().unwrap().start),
                        Err(AppendError::Sealed { tail }) => return (producer, acknowledged, tail),
                        Err(other) => panic!("{other}"),
                    }
                    let _ = started.send(());
                }
            })
        })
        .collect();
    for _ in 0..PRODUCERS {
        starts.recv_timeout(PATIENCE).unwrap();
    }
    let tail = log.seal().unwrap();
    let mut all = Vec::new();
    for producer in producers {
        let (producer, acknowledged, seen_tail) = producer.join().unwrap();
        assert_eq!(seen_tail, tail);
        for position in acknowledged {
            let block = log.read(position).unwrap().expect("acknowledged");
            assert_eq!(block.get(position), Some(Entry::Data(&producer.to_le_bytes())));
            all.push(position.0);
        }
    }
    all.sort_unstable();
    assert_eq!(all, (0..tail.0).collect::<Vec<_>>());
}

fn sealed_twice_at_once_has_one_tail(subject: Subject) {
    let log = subject.log();
    append_numbered(&**log, 20);
    let tails: Vec<Position> = thread::scope(|scope| {
        let sealers: Vec<_> = (0..3).map(|_| scope.spawn(|| log.seal().unwrap())).collect();
        sealers.into_iter().map(|sealer| sealer.join().unwrap()).collect()
    });
    assert_eq!(tails, [Position(20); 3]);
    assert_numbered(&**log, 0, 20);
}

// ---- 11: opening again -----------------------------------------------------------------------------------

fn reopen_keeps_everything_and_never_reuses_a_position(mut subject: Subject) {
    let id = subject.log().id();
    let mut tail = 0;
    for round in 1..=3 {
        append_numbered(&**subject.log(), 150 * round);
        tail += 150 * round;
        if !subject.reopen() {
            return;
        }
        assert_eq!(subject.log().id(), id);
        assert_eq!(subject.log().tail().tail, Position(tail));
        assert_numbered(&**subject.log(), 0, tail);
    }
}

fn reopen_with_unwaited_appends_keeps_a_prefix(mut subject: Subject) {
    for n in 0..100 {
        drop(subject.log().append(&batch(&[&numbered(n)])).unwrap());
    }
    if subject.reopen() {
        // Closing writes what is queued.
        assert_numbered(&**subject.log(), 0, 100);
    }
}

// ---- 12: readers -----------------------------------------------------------------------------------------

fn readers_from_anywhere_see_the_same_log(subject: Subject) {
    let log = subject.log();
    append_numbered(&**log, 700);
    let readers: Vec<_> = (0..4)
        .map(|n| {
            let log = Arc::clone(log);
            thread::spawn(move || (0..10).for_each(|m| assert_numbered(&*log, n * 163 + m, 700)))
        })
        .collect();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

fn reader_overtaken_by_a_trim_is_told(subject: Subject) {
    let log = subject.log();
    append_numbered(&**log, 700);
    let block = log.read(Position(0)).unwrap().unwrap();
    log.trim(Position(650)).unwrap();
    // The block that it holds stays whole, the next one is gone.
    assert_eq!(block.get(Position(0)), Some(Entry::Data(&numbered(0))));
    for position in [block.end(), Position(649)] {
        if position < Position(650) {
            let error = log.read(position).unwrap_err();
            assert!(matches!(error, ReadError::Trimmed { head: Position(650), .. }), "{error}");
        }
    }
    assert_numbered(&**log, 650, 700);
}

fn reader_of_a_log_that_grows_and_is_trimmed_misses_nothing_unknowingly(subject: Subject) {
    const ENTRIES: u64 = 600;
    let log = subject.log();
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..ENTRIES {
                assert_eq!(append(&**log, &[&numbered(n)]), Position(n));
                if n % 50 == 49 {
                    log.trim(Position(n - 30)).unwrap();
                }
            }
        });
        let mut next = Position(0);
        while next < Position(ENTRIES) {
            log.wait_past(next, Some(PATIENCE)).unwrap();
            match log.read(next) {
                Ok(Some(block)) => {
                    assert!(block.first() <= next && next < block.end());
                    for (position, entry) in block.iter() {
                        assert_eq!(entry, Entry::Data(&numbered(position.0)), "also those before");
                    }
                    next = block.end();
                }
                Ok(None) => panic!("{next} was acknowledged"),
                Err(ReadError::Trimmed { position, head }) => {
                    assert!(position == next && head > next, "it is told how far to go");
                    next = head;
                }
                Err(other) => panic!("{other}"),
            }
        }
    });
    assert_eq!(log.tail(), Tail { head: Position(569), tail: Position(ENTRIES), sealed: false });
}

// ---- 13: what is promised ----------------------------------------------------------------------------------

fn durability_and_identity_are_told_and_stay(mut subject: Subject) {
    let (durability, id) = (subject.log().durability(), subject.log().id());
    append(&**subject.log(), &[b"a"]);
    let keeps = subject.reopen();
    assert_eq!(keeps, durability != Durability::Memory, "what lives in memory only says so");
    assert_eq!((subject.log().durability(), subject.log().id()), (durability, id));
    assert_eq!(subject.log().tail().tail, Position(1));
}

macro_rules! suite {
    ($($test:ident)*) => {
        mod memory {
            $(#[test] fn $test() { super::$test(super::Subject::memory()); })*
        }
        mod file_buffered {
            $(#[test] fn $test() { super::$test(super::Subject::file(mixlog_log::Durability::Buffered)); })*
        }
        mod file_flushed {
            $(#[test] fn $test() { super::$test(super::Subject::file(mixlog_log::Durability::Flushed)); })*
        }
        mod corfu_memory {
            $(#[test] fn $test() { super::$test(super::Subject::corfu_memory()); })*
        }
        mod corfu_buffered {
            $(#[test] fn $test() { super::$test(super::Subject::corfu_file(mixlog_log::Durability::Buffered)); })*
        }
        mod corfu_flushed {
            $(#[test] fn $test() { super::$test(super::Subject::corfu_file(mixlog_log::Durability::Flushed)); })*
        }
        mod corfu_tcp_memory {
            $(#[test] fn $test() { super::$test(super::Subject::corfu_tcp_memory()); })*
        }
        mod corfu_tcp_buffered {
            $(#[test] fn $test() { super::$test(super::Subject::corfu_tcp_file(mixlog_log::Durability::Buffered)); })*
        }
        mod corfu_tcp_flushed {
            $(#[test] fn $test() { super::$test(super::Subject::corfu_tcp_file(mixlog_log::Durability::Flushed)); })*
        }
    };
}

suite! {
    empty_log_has_nothing
    empty_log_sealed_stays_empty
    append_gives_dense_positions_and_the_same_bytes
    append_unwaited_becomes_visible
    ticket_asked_again_answers_the_same
    read_at_and_past_the_tail_finds_nothing
    wait_past_times_out_on_a_log_that_rests
    wait_past_wakes_whom_it_concerns
    wait_past_on_a_sealed_log_returns
    batch_keeps_its_order_and_any_bytes
    batches_of_one_thread_keep_their_order
    concurrent_appends_and_reads_are_linearizable
    trim_moves_the_head_and_nothing_else
    trim_everything_then_append_goes_on
    seal_refuses_appends_for_ever
    seal_amid_appends_keeps_what_was_acknowledged
    sealed_twice_at_once_has_one_tail
    reopen_keeps_everything_and_never_reuses_a_position
    reopen_with_unwaited_appends_keeps_a_prefix
    readers_from_anywhere_see_the_same_log
    reader_overtaken_by_a_trim_is_told
    reader_of_a_log_that_grows_and_is_trimmed_misses_nothing_unknowingly
    durability_and_identity_are_told_and_stay
}

#[test]
fn batch_past_the_limit_of_a_file_log_is_refused_and_the_largest_is_not() {
    for durability in [Durability::Buffered, Durability::Flushed] {
        let subject = Subject::file(durability);
        let largest = vec![1; (8 << 10) - 4];
        for n in 0..12 {
            assert_eq!(append(&**subject.log(), &[&largest]), Position(n));
        }
        let error = subject.log().append(&batch(&[&largest, b""])).unwrap_err();
        assert!(matches!(error, AppendError::TooLarge { size: 8196, limit: 8192 }), "{error}");
        assert_eq!(subject.log().tail().tail, Position(12));
        assert_eq!(read_all(&**subject.log(), Position(0)).len(), 12);
    }
}
