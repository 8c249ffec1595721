//! Peers on the network that are not what they should be, and a cluster whose roles die, in one process.
#![cfg(not(loom))]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use mixlog_log::corfu::{
    Change, ClientId, Config, ConnectError, CorfuLog, EntryId, Epoch, Home, Instance, Listing, Member,
    NetError, Node, Reconfigured, Reply, ReplyTo, Request, Run, SequencerNumber, SequencerReply,
    SequencerRequest, SequencerVerb, Server, StoreBehind, StoreReply, StoreRequest, TcpTransport, Timing,
    Transport, UnitFiles, UnitNumber, UnitReply, UnitRequest, UnitServer, UnitStorage, UnitVerb, announce,
    found, latest, reconfigure,
};
use mixlog_log::{
    AppendError, Batch, Block, Durability, FlushError, LogId, Position, ReadError, SealError, SharedLog,
    TailError, TrimError,
};
use mixlog_simdisk::{Call, Cut, Disk, Failure, Fault, Kind, Note, Random, Sim};

/// Longer than any step takes on a busy machine, so that a hang fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(30);

const SEQUENCER: SequencerNumber = SequencerNumber(1);

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn store(directory: &Path) -> (Server, Home) {
    let store = Server::store(listener(), directory).unwrap();
    let home = Home::servers(&[store.address()]);
    (store, home)
}

fn list(home: &Home, node: Node, address: SocketAddr) {
    announce(home, None, node, Listing { address, durability: None }, &Timing::default()).unwrap();
}

/// The same on a disk that is simulated.
fn store_on(sim: &Sim) -> (Server, Home) {
    let store = Server::store_with_storage(listener(), &*sim.storage()).unwrap();
    let home = Home::servers(&[store.address()]);
    (store, home)
}

#[test]
fn listing_that_was_announced_survives_power_cuts() {
    // Nobody answers at any of them, so that they may be replaced.
    let addresses = [(); 4].map(|()| listener().local_addr().unwrap());
    let (unit, sequencer) = (Node::Unit(UnitNumber(2)), Node::Sequencer(SEQUENCER));
    let announced =
        [(sequencer, addresses[0]), (unit, addresses[1]), (sequencer, addresses[2]), (unit, addresses[3])];
    let sim = Sim::default();
    let (server, home) = store_on(&sim);
    for (n, (node, address)) in (1..).zip(announced) {
        list(&home, node, address);
        sim.note(Note::Acknowledged(Position(n)));
    }
    drop(server);
    let (mut random, mut disk, mut told) = (Random(1), Disk::default(), 0);
    for call in sim.trace() {
        disk.apply(&call);
        if let Call::Note(Note::Acknowledged(count)) = call {
            told = count.0 as usize;
        }
        for cut in [Cut::Nothing, Cut::Some, Cut::Some, Cut::Some, Cut::Everything] {
            let found = disk.after(cut, &mut random);
            for (node, name) in [(sequencer, "addresses/sequencer-1"), (unit, "addresses/unit-2")] {
                let of = |announced: &[(Node, SocketAddr)]| -> Vec<String> {
                    let those = announced.iter().filter(|(of, _)| *of == node);
                    those.map(|(_, address)| format!("{address}\n")).collect()
                };
                let Some(last) = of(&announced[..told]).pop() else { continue };
                assert!(found.names().contains(&name.to_owned()), "{name} is gone");
                let listed = String::from_utf8(found.bytes(name).to_vec()).unwrap();
                assert!(listed == last || of(&announced[told..]).contains(&listed), "{name}: {listed}");
            }
            let found = Sim::boot(found);
            drop(store_on(&found));
            // The book's own directory is there for what comes.
            let kept = found.disk().after(Cut::Nothing, &mut random);
            assert!(Sim::boot(kept).storage().directory("addresses").exists().unwrap());
        }
    }
    assert_eq!(told, 4);
}

#[test]
fn store_whose_directory_cannot_be_synced_tells_why_and_answers_when_it_is_started_again() {
    let sim = Sim::default();
    let name = |home: &Home| {
        let transport = TcpTransport::connect(home, &Timing::default()).unwrap();
        let (told, answer) = mpsc::channel();
        let reply = ReplyTo::new(move |reply| drop(told.send(reply)));
        transport.send(Node::Store, Request::Store(StoreRequest::Name(LogId(5))), reply);
        answer.recv_timeout(PATIENCE).unwrap()
    };
    let (store, home) = store_on(&sim);
    assert_eq!(store.failure(), None);
    sim.set_fault(Some(Fault { kind: Kind::SyncDirectory, after: 0, count: 1, error: Failure::Errno(5) }));
    assert_eq!(name(&home), None);
    let os = std::io::Error::from_raw_os_error(5).to_string();
    assert_eq!(store.failure(), Some(&*format!("/sim/projections: {os}")));
    // The disk works again, and the store does not.
    assert_eq!(name(&home), None);
    drop(store);
    let (store, home) = store_on(&sim);
    assert_eq!(name(&home), Some(Reply::Store(StoreReply::Named(LogId(5)))));
    assert_eq!(store.failure(), None);
}

/// What a server says to `bytes` before it ends the connection.
fn says(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A frame as `docs/wire-format.md` draws it, for the tests to spoil.
fn frame(version: u16, kind: u16, log: u128, number: u32, length: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"MXLG".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend(log.to_le_bytes());
    bytes.extend(7_u64.to_le_bytes());
    bytes.extend(number.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(crc32c::crc32c(body).to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// A sequencer that a store in `directory` lists, and a client of both.
fn sequencer(directory: &Path) -> (Server, Server, Arc<TcpTransport>) {
    let (store, home) = store(directory);
    let server = Server::sequencer(listener(), SEQUENCER).unwrap();
    list(&home, Node::Sequencer(SEQUENCER), server.address());
    let transport = TcpTransport::connect(&home, &Timing::default()).unwrap();
    (store, server, transport)
}

#[test]
fn number_in_use_is_refused_unless_who_has_it_is_silent_or_gone() {
    let directory = tempfile::tempdir().unwrap();
    let (_store, home) = store(directory.path());
    let timing = Timing { answer: Duration::from_millis(300), ..Timing::default() };
    let unit = UnitServer::open(UnitNumber(1), u64::MAX, &UnitStorage::Memory).unwrap();
    let unit = Server::unit(listener(), unit).unwrap();
    let sequencer = Server::sequencer(listener(), SEQUENCER).unwrap();
    for (node, server) in [(Node::Unit(UnitNumber(1)), unit), (Node::Sequencer(SEQUENCER), sequencer)] {
        let silent = listener();
        let at = |address| announce(&home, None, node, Listing { address, durability: None }, &timing);
        let (own, other) = (server.address(), silent.local_addr().unwrap());
        // Once more where it is is no other one.
        at(own).unwrap();
        at(own).unwrap();
        let refused = at(other).unwrap_err();
        assert!(matches!(refused, NetError::InUse { address, .. } if address == own), "{refused}");
        drop(server);
        at(other).unwrap();
        // The operating system takes connections for who stands still.
        at(own).unwrap();
    }
}

/// Asks the sequencer behind `transport` something, once it can be reached.
fn ask(transport: &TcpTransport, epoch: u64, verb: SequencerVerb) -> SequencerReply {
    for _ in 0..200 {
        let (told, answer) = mpsc::channel();
        let request = Request::Sequencer(SequencerRequest { epoch: Epoch(epoch), verb });
        let reply = ReplyTo::new(move |reply| drop(told.send(reply)));
        transport.send(Node::Sequencer(SEQUENCER), request, reply);
        match answer.recv_timeout(PATIENCE).unwrap() {
            Some(Reply::Sequencer(reply)) => return reply,
            Some(other) => panic!("{other:?}"),
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    panic!("the sequencer cannot be reached");
}

fn start(transport: &TcpTransport, tail: u64) {
    let SequencerReply::Present { instance, .. } = ask(transport, 1, SequencerVerb::Seal) else {
        panic!("it is there")
    };
    let verb = SequencerVerb::Start { instance, tail: Position(tail), width: 1024 };
    assert_eq!(ask(transport, 1, verb), SequencerReply::Present { instance, epoch: Epoch(1) });
}

fn next(count: u32) -> SequencerVerb {
    SequencerVerb::Next { count, at_least: 1 }
}

#[test]
fn stranger_is_refused_with_a_reason_and_others_are_served_on() {
    let directory = tempfile::tempdir().unwrap();
    let (_store, server, transport) = sequencer(directory.path());
    start(&transport, 0);

    let latest = [1_u64.to_le_bytes().as_slice(), &[2]].concat();
    let length = u32::try_from(latest.len()).unwrap();
    let good = frame(1, 2, 0, 1, length, &latest);
    let mut damaged_header = good.clone();
    damaged_header[33] ^= 1;
    let mut damaged_body = good.clone();
    *damaged_body.last_mut().unwrap() ^= 1;
    let cases: &[(&str, Vec<u8>)] = &[
        ("no frames of mixlog", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("no frames of mixlog", vec![0; 4]),
        ("speaks version 9", frame(9, 2, 0, 1, length, &latest)),
        ("frames of kind 77", frame(1, 77, 0, 1, length, &latest)),
        ("checksum is wrong", damaged_header),
        ("checksum is wrong", damaged_body),
        // What it announces is not waited for, and takes no memory.
        ("is longer than", frame(1, 2, 0, 1, u32::MAX, b"")),
        ("is longer than 4096", frame(1, 2, 0, 1, 4097, b"")),
        ("makes no sense", frame(1, 2, 0, 1, 3, b"abc")),
        ("here is sequencer 1", frame(1, 1, 0, 1, length, &latest)),
        ("here is sequencer 1", frame(1, 2, 0, 2, length, &latest)),
    ];
    for (reason, bytes) in cases {
        let said = says(&server, bytes);
        assert!(said.contains(reason), "{reason}: {said:?}");
    }
    // One half of a frame holds nobody up.
    let mut half = TcpStream::connect(server.address()).unwrap();
    half.write_all(&good[..20]).unwrap();
    let SequencerReply::Token(token) = ask(&transport, 1, next(3)) else { panic!("it was started") };
    assert_eq!((token.first, token.count), (Position(0), 3));
}

#[test]
fn other_log_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (_store, server, transport) = sequencer(directory.path());
    transport.pin(LogId(5));
    // A start that it does not obey, as it is meant for another instance, makes it nobody's.
    let verb = SequencerVerb::Start { instance: Instance(1), tail: Position(0), width: 1024 };
    ask(&transport, 1, verb);
    assert_eq!(server.log(), None);
    start(&transport, 0);
    assert_eq!(server.log(), Some(LogId(5)), "who starts it says of which log it is");
    let tail = [1_u64.to_le_bytes().as_slice(), &[2]].concat();
    let said = says(&server, &frame(1, 2, 6, 1, 9, &tail));
    let expected = format!("here is log {}, and not log {}", LogId(5), LogId(6));
    assert!(said.contains(&expected), "{said:?}");
}

#[test]
fn wrong_address_of_a_store_is_told() {
    let timing = Timing::default();
    let nobody = listener().local_addr().unwrap();
    let error = TcpTransport::connect(&Home::servers(&[nobody]), &timing).unwrap_err();
    assert!(matches!(error, NetError::Unreachable { .. }), "{error}");
    // Connections wait for somebody to take them.
    let silent = listener();
    let home = Home::servers(&[silent.local_addr().unwrap()]);
    let answer = Duration::from_millis(200);
    let error = TcpTransport::connect(&home, &Timing { answer, ..Timing::default() }).unwrap_err();
    assert!(error.to_string().ends_with("no answer in time"), "{error}");
    let unit = UnitServer::open(UnitNumber(3), u64::MAX, &UnitStorage::Memory).unwrap();
    let unit = Server::unit(listener(), unit).unwrap();
    let error = TcpTransport::connect(&Home::servers(&[unit.address()]), &timing).unwrap_err();
    assert!(matches!(&error, NetError::Refused { reason, .. } if reason == "here is unit 3"), "{error}");
}

#[test]
fn refusal_of_a_stranger_is_shown_without_what_a_terminal_would_obey() {
    let stranger = listener();
    let address = stranger.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = stranger.accept().unwrap();
        stream.read_exact(&mut [0; 48]).unwrap();
        let body = [b"no\x1b[2J\r\n".as_slice(), &[b'x'; 4 << 10]].concat();
        let length = u32::try_from(body.len()).unwrap();
        stream.write_all(&frame(1, 255, 0, 0, length, &body)).unwrap();
    });
    let error = TcpTransport::connect(&Home::servers(&[address]), &Timing::default()).unwrap_err();
    let said = error.to_string();
    assert!(said.starts_with(&format!("{address} refuses: no\\u{{1b}}[2J\\r\\nxxx")), "{said:?}");
    assert!(said.len() < 400 && said.ends_with("x..."), "{said:?}");
}

#[test]
fn role_that_comes_back_elsewhere_is_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let (_store, home) = store(directory.path());
    let transport = TcpTransport::connect(&home, &Timing::default()).unwrap();
    let mut instances = Vec::<Instance>::new();
    for _ in 0..3 {
        // Each is gone before the next one comes, at another port.
        let server = Server::sequencer(listener(), SEQUENCER).unwrap();
        list(&home, Node::Sequencer(SEQUENCER), server.address());
        let SequencerReply::Present { instance, .. } = ask(&transport, 1, SequencerVerb::Seal) else {
            panic!("it is there")
        };
        assert!(!instances.contains(&instance), "it is another one");
        instances.push(instance);
    }
}

#[test]
fn requests_pipelined_by_many_threads_are_each_answered_once() {
    let directory = tempfile::tempdir().unwrap();
    let (_store, _server, transport) = sequencer(directory.path());
    start(&transport, 0);
    let (told, answers) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (told, transport) = (told.clone(), &transport);
            scope.spawn(move || {
                for _ in 0..5000 {
                    let told = told.clone();
                    let request = Request::Sequencer(SequencerRequest { epoch: Epoch(1), verb: next(1) });
                    let reply = ReplyTo::new(move |reply| drop(told.send(reply)));
                    transport.send(Node::Sequencer(SEQUENCER), request, reply);
                }
            });
        }
    });
    drop(told);
    let mut positions: Vec<u64> = answers
        .iter()
        .map(|reply| match reply {
            Some(Reply::Sequencer(SequencerReply::Token(token))) => token.first.0,
            other => panic!("{other:?}"),
        })
        .collect();
    positions.sort_unstable();
    assert_eq!(positions, (0..20_000).collect::<Vec<_>>());
}

/// A cluster of two units in memory, and a client that has little patience.
fn cluster(directory: &Path) -> (Vec<Server>, CorfuLog) {
    let (store, home) = store(directory);
    let mut servers = vec![store, Server::sequencer(listener(), SEQUENCER).unwrap()];
    list(&home, Node::Sequencer(SEQUENCER), servers[1].address());
    for number in [1, 2].map(UnitNumber) {
        let unit = UnitServer::open(number, u64::MAX, &UnitStorage::Memory).unwrap();
        servers.push(Server::unit(listener(), unit).unwrap());
        list(&home, Node::Unit(number), servers.last().unwrap().address());
    }
    let timing = Timing::default();
    let transport: Arc<dyn Transport> = TcpTransport::connect(&home, &timing).unwrap();
    let chains = vec![vec![UnitNumber(1), UnitNumber(2)]];
    let founded = found(&transport, &timing, LogId(9), chains, SEQUENCER, 16, Some(PATIENCE));
    assert!(matches!(founded, Some(Reconfigured::Installed(_))), "{founded:?}");
    let patience = Duration::from_millis(300);
    let config = Config { patience, cache_bytes: 0, ..Config::default() };
    (servers, CorfuLog::connect(transport, config).unwrap())
}

fn batch(entry: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.push(entry);
    batch
}

/// What `verb` says in the end; a thread is given up if it says nothing.
fn ends<T: Send + 'static>(
    log: &Arc<CorfuLog>,
    what: &str,
    verb: impl FnOnce(&CorfuLog) -> T + Send + 'static,
) -> T {
    let (told, answer) = mpsc::channel();
    let log = Arc::clone(log);
    std::thread::spawn(move || drop(told.send(verb(&log))));
    answer.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what} waits for ever"))
}

/// `everybody`: the projection store and the sequencer, too.
fn every_verb_ends_when_roles_are_gone(everybody: bool) {
    let directory = tempfile::tempdir().unwrap();
    let (mut servers, log) = cluster(directory.path());
    let log = Arc::new(log);
    assert_eq!(log.append(&batch(b"a")).unwrap().wait().unwrap().start, Position(0));
    servers.truncate(if everybody { 0 } else { 2 });

    let append = |log: &CorfuLog| log.append(&batch(b"b"))?.wait();
    let error = ends(&log, "append", append).unwrap_err();
    let is_clear = |error: &AppendError| {
        matches!(error, AppendError::Unavailable | AppendError::Indeterminate { position: Position(1) })
    };
    assert!(is_clear(&error), "{error}");
    let error = ends(&log, "read", |log| log.read(Position(0))).unwrap_err();
    assert!(matches!(error, ReadError::Unavailable), "{error}");
    let error = ends(&log, "read past the tail", |log| log.read(Position(5))).unwrap_err();
    assert!(matches!(error, ReadError::Unavailable), "{error}");
    assert_eq!(ends(&log, "tail", |log| log.tail()), Err(TailError::Unavailable));
    let error = ends(&log, "trim", |log| log.trim(Position(1))).unwrap_err();
    assert!(matches!(error, TrimError::Unavailable), "{error}");
    let error = ends(&log, "trim past the tail", |log| log.trim(Position(9))).unwrap_err();
    assert!(matches!(error, TrimError::Unavailable), "{error}");
    let error = ends(&log, "flush", |log| log.flush()).unwrap_err();
    assert!(matches!(error, FlushError::Unavailable), "{error}");
    let error = ends(&log, "seal", |log| log.seal()).unwrap_err();
    assert!(matches!(error, SealError::Unavailable), "{error}");
    let error = ends(&log, "append after a seal that failed", append).unwrap_err();
    assert!(matches!(error, AppendError::Unavailable | AppendError::Indeterminate { .. }), "{error}");
    if everybody {
        let error = ends(&log, "wait_past", |log| log.wait_past(Position(5), None)).unwrap_err();
        assert!(matches!(error, ReadError::Unavailable), "{error}");
        // Also for those who look again and again.
        let look = |log: &CorfuLog| loop {
            if let Err(error) = log.wait_past(Position(5), Some(Duration::from_millis(10))) {
                return error;
            }
        };
        let error = ends(&log, "wait_past in small steps", look);
        assert!(matches!(error, ReadError::Unavailable), "{error}");
    }
    // Dropping it waits for its threads.
    let (told, ended) = mpsc::channel();
    std::thread::spawn(move || {
        drop(log);
        let _ = told.send(());
    });
    ended.recv_timeout(PATIENCE).expect("a client can be dropped");
}

#[test]
fn client_of_a_store_that_was_put_back_to_an_older_copy_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let (mut servers, log) = cluster(directory.path());
    let older = directory.path().join("older");
    copy(&directory.path().join("projections"), &older);
    let timing = Timing::default();
    let change = |home: &Home| {
        let transport: Arc<dyn Transport> = TcpTransport::connect(home, &timing).unwrap();
        let latest = latest(&*transport, &timing, PATIENCE).unwrap().unwrap();
        reconfigure(&transport, &timing, latest, Change::default(), Some(PATIENCE)).unwrap()
    };
    let home = Home::servers(&[servers[0].address()]);
    for _ in 0..2 {
        assert!(matches!(change(&home), Reconfigured::Installed(_)));
    }
    log.append(&batch(b"a")).unwrap().wait().unwrap();
    drop(servers.remove(0));
    std::fs::remove_dir_all(directory.path().join("projections")).unwrap();
    std::fs::rename(older, directory.path().join("projections")).unwrap();
    let (_store, home) = store(directory.path());

    let transport = TcpTransport::connect(&home, &timing).unwrap();
    let config = Config { patience: Duration::from_millis(500), ..Config::default() };
    let error = CorfuLog::connect(transport, config).unwrap_err();
    let ConnectError::StoreBehind(StoreBehind { epoch: Epoch(3), latest: Epoch(1), .. }) = error else {
        panic!("{error}")
    };
    let outcome = change(&home);
    assert!(matches!(outcome, Reconfigured::StoreBehind(_)), "{outcome:?}");
    // Whoever knows the newest projection goes on.
    log.append(&batch(b"b")).unwrap().wait().unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn log_is_opened_by_the_name_of_its_cluster_which_need_not_be_up_yet() {
    let directory = tempfile::tempdir().unwrap();
    // Nobody is there.
    let address = listener().local_addr().unwrap();
    let home: Home = format!("corfu://{address}").parse().unwrap();
    let little = Config { patience: Duration::from_millis(300), ..Config::default() };
    let error = CorfuLog::open(&home, little.clone()).unwrap_err();
    assert!(matches!(error, NetError::Unreachable { .. }), "{error}");
    let none = Config { patience: Duration::ZERO, ..Config::default() };
    let error = CorfuLog::open(&home, none).unwrap_err();
    assert!(matches!(error, NetError::Log(ConnectError::Configuration(_))), "{error}");
    // A store, and no projection.
    let store = Server::store(listener(), directory.path()).unwrap();
    let home = Home::servers(&[store.address()]);
    let error = CorfuLog::open(&home, little).unwrap_err();
    assert!(matches!(error, NetError::Log(ConnectError::NotSetUp)), "{error}");
    // It is founded while it is waited for.
    let waiting = std::thread::spawn({
        let home = home.clone();
        move || CorfuLog::open(&home, Config { patience: PATIENCE, ..Config::default() })
    });
    let sequencer = Server::sequencer(listener(), SEQUENCER).unwrap();
    list(&home, Node::Sequencer(SEQUENCER), sequencer.address());
    let number = UnitNumber(1);
    let storage = UnitStorage::Files(UnitFiles::new(directory.path().join("unit"), Durability::Flushed));
    let unit = Server::unit(listener(), UnitServer::open(number, u64::MAX, &storage).unwrap()).unwrap();
    let listing = Listing { address: unit.address(), durability: Some(Durability::Flushed) };
    announce(&home, None, Node::Unit(number), listing, &Timing::default()).unwrap();
    let transport: Arc<dyn Transport> = TcpTransport::connect(&home, &Timing::default()).unwrap();
    let chains = vec![vec![number]];
    found(&transport, &Timing::default(), LogId(9), chains, SEQUENCER, 16, Some(PATIENCE)).unwrap();
    let log = waiting.join().unwrap().unwrap();
    assert_eq!((log.id(), log.durability()), (LogId(9), Durability::Flushed));
    log.append(&batch(b"a")).unwrap().wait().unwrap();
    drop((store, sequencer, unit));
}

#[test]
fn unit_answers_a_read_with_16_mib_however_much_is_asked_for() {
    const MIB: usize = 1 << 20;
    let directory = tempfile::tempdir().unwrap();
    let (_store, home) = store(directory.path());
    let number = UnitNumber(1);
    let unit = UnitServer::open(number, u64::MAX, &UnitStorage::Memory).unwrap();
    let unit = Server::unit(listener(), unit).unwrap();
    list(&home, Node::Unit(number), unit.address());
    let transport = TcpTransport::connect(&home, &Timing::default()).unwrap();
    let epoch = Epoch(1);
    let member = Member { unit: number, joined: epoch };
    let ask = |verb: UnitVerb| {
        let (told, answer) = mpsc::channel();
        let request = Request::Unit(UnitRequest { epoch, member, verb });
        transport.send(Node::Unit(number), request, ReplyTo::new(move |reply| drop(told.send(reply))));
        match answer.recv_timeout(PATIENCE).unwrap() {
            Some(Reply::Unit(reply)) => reply,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(ask(UnitVerb::Join(LogId(5))), UnitReply::Standing(_)));
    let entry = vec![7; MIB];
    for at in 0..20 {
        let id = EntryId { client: ClientId(1), sequence: at };
        let block = Arc::new(Block::of(Position(at), batch(&entry)));
        assert_eq!(ask(UnitVerb::Write(Run::data(id, block))), UnitReply::Done);
    }
    let (from, upto, bytes) = (Position(0), Position(20), u32::MAX);
    for verb in [UnitVerb::Read { from, upto, bytes }, UnitVerb::Fill { from, upto, bytes }] {
        let UnitReply::Runs(runs) = ask(verb) else { panic!("it has them") };
        assert_eq!(runs.len(), 16);
    }
}

#[test]
fn role_of_one_cluster_answers_no_other_one_from_when_it_was_announced_on() {
    let [ours, theirs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (_servers, log) = cluster(ours.path());
    let (_store, home) = store(theirs.path());
    let unit = UnitServer::open(UnitNumber(9), u64::MAX, &UnitStorage::Memory).unwrap();
    let spare = Server::unit(listener(), unit).unwrap();
    // Two clusters list it, as one of them has an address that is out of date.
    list(&home, Node::Unit(UnitNumber(9)), spare.address());
    let answers = |log| {
        let transport = TcpTransport::connect(&home, &Timing::default()).unwrap();
        transport.pin(log);
        let (told, answer) = mpsc::channel();
        let member = Member { unit: UnitNumber(9), joined: Epoch::NONE };
        let request = UnitRequest { epoch: Epoch(1), member, verb: UnitVerb::Probe };
        let reply = ReplyTo::new(move |reply| told.send(reply.is_some()).expect("it is waited for"));
        transport.send(Node::Unit(UnitNumber(9)), Request::Unit(request), reply);
        answer.recv_timeout(PATIENCE).unwrap()
    };
    assert!(answers(LogId(6)), "it is of no log yet");
    spare.pin(log.id());
    assert!(!answers(LogId(6)) && answers(log.id()));
}

#[test]
fn every_verb_ends_with_a_clear_error_when_the_whole_cluster_is_gone() {
    every_verb_ends_when_roles_are_gone(true);
}

#[test]
fn every_verb_ends_with_a_clear_error_when_all_units_are_gone() {
    every_verb_ends_when_roles_are_gone(false);
}
