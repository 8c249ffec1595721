//! A role behind a socket.
//!
//! ```text
//! acceptor --> a thread for each connection: read, handle, write what was answered at once
//!                \--> units in files: answers come later, another thread writes them
//! ```
//!
//! A thread reads what has arrived, handles all of it, and then writes all answers with one call: so requests
//! that are pipelined share the cost of the operating system's calls.
//!
//! So many connections are served at a time, and who is idle makes place for who comes: `connections.rs` tells how.

use std::fmt;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::file::{FsStorage, Lock, LockMode, Storage};
use crate::{Durability, LogId};

use super::super::message::{
    Instance, Reply, SequencerNumber, SequencerReply, SequencerVerb, UnitReply, UnitVerb,
};
use super::super::sequencer::Sequencer;
use super::super::server::UnitServer;
use super::super::store::{FileStore, ProjectionStore, StoreError};
use super::super::transport::ReplyTo;
use super::book::FileBook;
use super::client::named;
use super::connections::{Connection, Connections};
use super::frame::{self, BODY_AT_MOST, FrameBody, FrameError, Header, Incoming, Kind, READ_AT_MOST};
use super::wire::{self, BookRequest};
use super::writer::Writer;

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// So many connections are served at a time.
const CONNECTIONS: usize = 1024;

/// How long a frame may take to arrive, and a peer to take what is written to him. The longest one takes some seconds
/// on a slow network.
const FRAME_PATIENCE: Duration = Duration::from_secs(30);

/// The longest body that a sequencer takes, in bytes: its requests are small.
const SEQUENCER_BODY: usize = 4 << 10;

/// The longest body that a projection store takes, in bytes: a projection of many segments, or a listing.
const STORE_BODY: usize = 1 << 20;

/// A unit, a sequencer or a projection store that answers on a socket.
///
/// Dropping it ends all connections and then the role.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    /// On a store's directory: two servers of one address book would take each other's roles away.
    lock: Option<Lock>,
}

struct Shared {
    role: Role,
    /// Of which log; unset while the role belongs to none.
    log: Arc<OnceLock<LogId>>,
    stopping: AtomicBool,
    connections: Connections,
}

enum Role {
    Unit(UnitServer),
    Sequencer(SequencerNumber, Mutex<Sequencer>),
    Store(FileStore, FileBook),
}

/// Why a connection is ended.
enum Refusal {
    /// The peer does not speak as it should.
    Frame(FrameError),
    /// It belongs to another log.
    OtherLog { ours: LogId, theirs: LogId },
    /// It looks for another role.
    OtherRole(String),
    /// The store failed; to be tried again.
    Store(StoreError),
}

impl From<FrameError> for Refusal {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => error.fmt(f),
            Self::OtherLog { ours, theirs } => {
                write!(f, "here is log {ours}, and not log {theirs}")
            }
            Self::OtherRole(what) => write!(f, "here is {what}"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl Server {
    /// Serves a unit.
    ///
    /// # Errors
    /// What the operating system says about the listener.
    pub fn unit(listener: TcpListener, unit: UnitServer) -> io::Result<Self> {
        let log = unit.log();
        Self::start(listener, Role::Unit(unit), log, CONNECTIONS)
    }

    /// Serves a sequencer, which begins with nothing, as an instance that was never there.
    ///
    /// # Errors
    /// What the operating system says about the listener.
    pub fn sequencer(listener: TcpListener, number: SequencerNumber) -> io::Result<Self> {
        let sequencer = Mutex::new(Sequencer::new(Instance::random()));
        Self::start(listener, Role::Sequencer(number, sequencer), None, CONNECTIONS)
    }

    /// Serves the projection store in a directory, and the address book beside it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn store(listener: TcpListener, directory: &Path) -> Result<Self, StoreError> {
        Self::store_with_storage(listener, &FsStorage::new(directory))
    }

    /// Like [`store`](Self::store), on a file system of the caller's making.
    ///
    /// # Errors
    /// Like [`store`](Self::store).
    pub fn store_with_storage(listener: TcpListener, storage: &dyn Storage) -> Result<Self, StoreError> {
        storage.create_directory()?;
        let lock = storage.lock(LockMode::Exclusive)?;
        let lock = lock.ok_or_else(|| StoreError::InUse { path: storage.path().to_owned() })?;
        let store = FileStore::open_with_storage(storage.directory("projections"))?;
        let book = FileBook::open(storage.directory("addresses"))?;
        let log = store.latest()?.map(|latest| latest.log);
        let mut server = Self::start(listener, Role::Store(store, book), log, CONNECTIONS)?;
        server.lock = Some(lock);
        Ok(server)
    }

    /// `connections`: so many at a time.
    fn start(listener: TcpListener, role: Role, log: Option<LogId>, connections: usize) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let known = OnceLock::new();
        if let Some(log) = log {
            known.set(log).expect("it is new");
        }
        let shared = Arc::new(Shared {
            role,
            log: Arc::new(known),
            stopping: AtomicBool::new(false),
            connections: Connections::new(connections),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = thread::Builder::new()
            .name("mixlog-accept".to_owned())
            .spawn(move || accept(&listener, &accepting))?;
        Ok(Self { address, shared, acceptor: Some(acceptor), lock: None })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Of which log it is; `None` while it belongs to none.
    #[must_use]
    pub fn log(&self) -> Option<LogId> {
        self.shared.log.get().copied()
    }

    /// It is of this log from now on, if it was of none: its cluster's store says so.
    pub fn pin(&self, log: LogId) {
        let _ = self.shared.log.set(log);
    }

    /// Why it answers no more, for a unit or a store whose disk failed; `None` while all is well.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        match &self.shared.role {
            Role::Unit(unit) => unit.failure(),
            Role::Store(store, _) => store.failure(),
            Role::Sequencer(..) => None,
        }
    }

    /// What a unit's answered write has survived; `None` for other roles.
    #[must_use]
    pub fn durability(&self) -> Option<Durability> {
        match &self.shared.role {
            Role::Unit(unit) => Some(unit.durability()),
            _ => None,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // The acceptor waits for a connection: here it is. A listener on all addresses is reached on loopback.
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        drop(TcpStream::connect_timeout(&address, Duration::from_secs(1)));
        if let Some(acceptor) = self.acceptor.take() {
            let ended = acceptor.join();
            assert!(ended.is_ok() || thread::panicking(), "a thread of the server panicked");
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_locked = self.lock.is_some();
        f.debug_struct("Server")
            .field("address", &self.address)
            .field("locked", &is_locked)
            .finish_non_exhaustive()
    }
}

fn accept(listener: &TcpListener, shared: &Shared) {
    thread::scope(|scope| {
        for number in 0.. {
            let accepted = listener.accept();
            if shared.stopping.load(Ordering::Acquire) {
                break;
            }
            // Too many open files, for example: that passes.
            let Ok((stream, _)) = accepted else {
                thread::sleep(Duration::from_millis(10));
                continue;
            };
            let Ok(outgoing) = stream.try_clone() else { continue };
            let _ = stream.set_nodelay(true);
            // Who reads nothing for so long is as good as gone.
            let _ = stream.set_write_timeout(Some(FRAME_PATIENCE));
            let Some(connection) = shared.connections.open(number, Writer::new(outgoing)) else { continue };
            let serve = move || {
                serve(shared, stream, &connection);
                shared.connections.ended(number);
            };
            let builder = thread::Builder::new().name("mixlog-serve".to_owned());
            if builder.spawn_scoped(scope, serve).is_err() {
                shared.connections.ended(number);
            }
        }
        shared.connections.close();
    });
}

/// Serves one connection to its end.
fn serve(shared: &Shared, stream: TcpStream, connection: &Arc<Connection>) {
    let writer = &connection.writer;
    thread::scope(|scope| {
        if shared.answers_later() {
            let builder = thread::Builder::new().name("mixlog-write".to_owned());
            if builder.spawn_scoped(scope, || writer.write_all()).is_err() {
                writer.close();
                return;
            }
        }
        let ending = stream.try_clone();
        let incoming = Incoming::guarded(stream, shared.body_at_most(), FRAME_PATIENCE);
        let Ok(mut incoming) = incoming else { return writer.close() };
        if let Some(refusal) = serve_frames(shared, &mut incoming, connection) {
            let log = shared.log.get().copied();
            // What the operating system refuses may pass; the rest does not.
            let (kind, text) = match &refusal {
                Refusal::Store(StoreError::Io(error)) => (Kind::Failed, error.to_string()),
                Refusal::Store(error @ StoreError::Failed { .. }) => (Kind::Failed, error.to_string()),
                refusal => (Kind::Refused, refusal.to_string()),
            };
            let header = Header { kind, log, request: 0, number: shared.number() };
            writer.add(|out| frame::put(out, header, |out| out.extend_from_slice(text.as_bytes())));
            writer.flush();
            if let Ok(stream) = ending {
                let_read(&stream);
            }
        }
        writer.close();
    });
}

/// Lets the peer read why: bytes of its that nobody took would make the operating system throw away what it
/// has not read yet.
fn let_read(mut stream: &TcpStream) {
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
    let mut sink = [0; 4096];
    for _ in 0..64 {
        if !matches!(stream.read(&mut sink), Ok(1..)) {
            return;
        }
    }
}

fn serve_frames(shared: &Shared, incoming: &mut Incoming, connection: &Arc<Connection>) -> Option<Refusal> {
    let writer = &connection.writer;
    let mut at_work = None;
    let mut used = false;
    loop {
        match incoming.next() {
            Ok(Some((header, body))) => {
                if !used {
                    shared.connections.used(connection);
                    used = true;
                }
                if let Err(refusal) = shared.handle(header, body, connection) {
                    return Some(refusal);
                }
            }
            Ok(None) => {
                writer.flush();
                if !writer.wait_for_space() {
                    return None;
                }
                if !incoming.is_amid_a_frame() {
                    at_work = None;
                }
                if !incoming.fill().unwrap_or(false) {
                    return None;
                }
                at_work = at_work.or_else(|| Some(connection.at_work()));
                used = false;
            }
            Err(error) => return Some(error.into()),
        }
    }
}

impl Shared {
    /// Whether answers come from other threads.
    fn answers_later(&self) -> bool {
        matches!(&self.role, Role::Unit(unit) if unit.durability() != Durability::Memory)
    }

    const fn number(&self) -> u32 {
        match &self.role {
            Role::Unit(unit) => unit.number().0,
            Role::Sequencer(number, _) => number.0,
            Role::Store(..) => 0,
        }
    }

    const fn body_at_most(&self) -> usize {
        match &self.role {
            Role::Unit(_) => BODY_AT_MOST,
            Role::Sequencer(..) => SEQUENCER_BODY,
            Role::Store(..) => STORE_BODY,
        }
    }

    fn check(&self, header: &Header) -> Result<(), Refusal> {
        let asks = matches!(
            (&self.role, header.kind),
            (Role::Unit(_), Kind::UnitRequest)
                | (Role::Sequencer(..), Kind::SequencerRequest)
                | (Role::Store(..), Kind::StoreRequest | Kind::BookRequest)
        );
        if !asks || header.number != self.number() {
            return Err(Refusal::OtherRole(match &self.role {
                Role::Unit(unit) => format!("unit {}", unit.number()),
                Role::Sequencer(number, _) => format!("sequencer {number}"),
                Role::Store(..) => "the projection store".to_owned(),
            }));
        }
        match (self.log.get(), header.log) {
            (Some(&ours), Some(theirs)) if ours != theirs => Err(Refusal::OtherLog { ours, theirs }),
            _ => Ok(()),
        }
    }

    fn handle(
        &self,
        header: Header,
        body: FrameBody<'_>,
        connection: &Arc<Connection>,
    ) -> Result<(), Refusal> {
        self.check(&header)?;
        let writer = &connection.writer;
        let answer = |reply: &Reply| {
            let (kind, log) = (wire::reply_kind(reply), self.log.get().copied());
            let header = Header { kind, log, ..header };
            writer.add(|out| frame::put(out, header, |out| wire::put_reply(out, reply)));
        };
        match (&self.role, header.kind) {
            (Role::Unit(unit), _) => {
                let mut request = wire::unit_request(header.number, body)?;
                // Whoever wants more asks again from where the answer ends.
                if let UnitVerb::Read { bytes, .. } | UnitVerb::Fill { bytes, .. } = &mut request.verb {
                    *bytes = (*bytes).min(READ_AT_MOST);
                }
                let joins = match request.verb {
                    UnitVerb::Join(log) => Some(log),
                    _ => None,
                };
                let (asked, log, later) = (connection.at_work(), Arc::clone(&self.log), self.answers_later());
                unit.send(
                    request,
                    ReplyTo::new(move |reply| {
                        // A unit that failed leaves its clients in doubt, and at once.
                        let Some(reply) = reply else { return asked.writer.close() };
                        if let (Some(joined), Reply::Unit(UnitReply::Standing(_))) = (joins, &reply) {
                            // It is of this log already, or was of none.
                            let _ = log.set(joined);
                        }
                        let header = Header { kind: Kind::UnitReply, log: log.get().copied(), ..header };
                        asked.writer.add(|out| frame::put(out, header, |out| wire::put_reply(out, &reply)));
                        if later {
                            asked.writer.notify();
                        }
                    }),
                );
            }
            (Role::Sequencer(_, sequencer), _) => {
                let request = wire::sequencer_request(body)?;
                let reply = sequencer.lock().expect(UNPOISONED).handle(&request);
                // Whoever tells it where to start tells of which log it is, if it is the one who is meant.
                if let (SequencerVerb::Start { instance: meant, .. }, Some(log)) = (request.verb, header.log)
                    && reply == (SequencerReply::Present { instance: meant, epoch: request.epoch })
                {
                    let _ = self.log.set(log);
                }
                answer(&Reply::Sequencer(reply));
            }
            (Role::Store(store, ..), Kind::StoreRequest) => {
                let request = wire::store_request(body)?;
                let reply = Reply::Store(store.handle(&request).map_err(Refusal::Store)?);
                if let Some(log) = named(&reply) {
                    let _ = self.log.set(log);
                }
                answer(&reply);
            }
            (Role::Store(_, book), _) => {
                let failed = |error| Refusal::Store(StoreError::Io(error));
                if let BookRequest::Announce(node, listing) = wire::book_request(body)? {
                    book.announce(node, listing).map_err(failed)?;
                }
                let listings = book.listings().map_err(failed)?;
                let header = Header { kind: Kind::BookReply, log: self.log.get().copied(), ..header };
                writer.add(|out| frame::put(out, header, |out| wire::put_listings(out, &listings)));
            }
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::io::Write;

    use super::super::super::message::{Epoch, Request, SequencerRequest};
    use super::super::outgoing::Outgoing;
    use super::*;

    /// A sequencer with two places.
    fn server() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sequencer = Mutex::new(Sequencer::new(Instance(1)));
        Server::start(listener, Role::Sequencer(SequencerNumber(1), sequencer), None, 2).unwrap()
    }

    fn connect(server: &Server) -> TcpStream {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn question() -> Vec<u8> {
        let request = Request::Sequencer(SequencerRequest { epoch: Epoch::NONE, verb: SequencerVerb::Tail });
        let header = Header { kind: Kind::SequencerRequest, log: None, request: 1, number: 1 };
        let mut out = Outgoing::default();
        frame::put(&mut out, header, |out| wire::put_request(out, &request));
        out.to_vec()
    }

    fn is_answered(stream: &TcpStream) -> bool {
        let mut incoming = Incoming::new(stream.try_clone().unwrap());
        loop {
            if let Some((header, _)) = incoming.next().unwrap() {
                return header.kind == Kind::SequencerReply;
            }
            if !incoming.fill().unwrap_or(false) {
                return false;
            }
        }
    }

    /// Whether a client that comes is answered; it tries again, since the one before may be at work for a moment yet.
    fn serves_others(server: &Server) -> bool {
        (0..100).any(|_| {
            let mut client = connect(server);
            let answered = client.write_all(&question()).is_ok() && is_answered(&client);
            thread::sleep(Duration::from_millis(if answered { 0 } else { 10 }));
            answered
        })
    }

    #[test]
    fn strangers_that_say_nothing_do_not_keep_others_out() {
        let server = server();
        let mut silent: Vec<TcpStream> = (0..20).map(|_| connect(&server)).collect();
        // Half a frame is no more than nothing.
        silent[19].write_all(&question()[..20]).unwrap();
        assert!((0..20).all(|_| serves_others(&server)));
    }

    #[test]
    fn client_whose_frame_is_on_its_way_is_spared_and_one_that_was_idle_is_not() {
        let server = server();
        let [mut idle, mut at_work] = [(); 2].map(|()| connect(&server));
        let question = question();
        for stream in [&mut at_work, &mut idle] {
            stream.write_all(&question).unwrap();
            assert!(is_answered(stream));
        }
        // It was idle for longer, but for this.
        let (begin, rest) = question.split_at(20);
        at_work.write_all(begin).unwrap();
        thread::sleep(Duration::from_millis(100));
        assert!((0..3).all(|_| serves_others(&server)));
        assert!(!is_answered(&idle), "its connection was closed");
        at_work.write_all(rest).unwrap();
        assert!(is_answered(&at_work));
    }
}
