//! The [`Transport`] over TCP: one connection to each role, made when it is needed, and again when it broke.
//!
//! Requests are pipelined. Whoever sends writes himself; a thread for each connection takes the answers. What
//! was under way when a connection broke is lost, as far as anybody knows: the operations know what to do.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::{Durability, LogId};

use super::super::log::ConnectError;
use super::super::message::{
    Epoch, Member, Node, Reply, Request, SequencerRequest, SequencerVerb, StoreReply, UnitRequest, UnitVerb,
};
use super::super::projection::Projection;
use super::super::store::StoreError;
use super::super::transport::{ReplyTo, Timing, Transport};
use super::book::{Listing, Listings};
use super::frame::{self, FrameBody, FrameError, Header, Incoming, Kind};
use super::home::{Home, Reached};
use super::outgoing::Outgoing;
use super::question;
use super::wire::{self, BookRequest};
use super::writer::Writer;

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// After a failed attempt to connect, requests are lost at once for so long.
const COOL_DOWN: Duration = Duration::from_millis(20);

/// How many requests are written together at most.
const TOGETHER: usize = 128;

/// Why a cluster cannot be reached.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetError {
    /// Nothing answers there.
    #[error("cannot reach {address}: {source}")]
    Unreachable {
        /// Where.
        address: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// What answers there does not want to talk to us.
    #[error("{address} refuses: {reason}")]
    Refused {
        /// Where.
        address: String,
        /// What it says.
        reason: String,
    },
    /// What answers there is no projection store.
    #[error("{address} is no projection store: {flaw}")]
    Stranger {
        /// Where.
        address: String,
        /// What is wrong with its answer.
        flaw: FrameError,
    },
    /// Nobody has announced where this role is.
    #[error("nobody knows where {0} is")]
    Unlisted(Node),
    /// Somebody else has this number, and answers: with two of a kind clients would find the wrong one.
    #[error("{node} answers at {address} already: give this one another number, or end that one first")]
    InUse {
        /// Which role.
        node: Node,
        /// Where it is.
        address: SocketAddr,
    },
    /// The projection store has no answer: its disk refused, or etcd did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cluster is found through etcd, and this program was built without the feature for that.
    #[error("this program was built without etcd: build it with --features etcd, which needs protoc")]
    NoEtcd,
    /// The cluster was found, and there is no log on it that could be opened.
    #[error(transparent)]
    Log(#[from] ConnectError),
}

impl NetError {
    /// Whether it may go well when it is tried again, with nothing changed but the time: somebody may not be up yet.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        use io::ErrorKind::{InvalidInput, NotFound, PermissionDenied};
        match self {
            Self::Unreachable { .. } | Self::Unlisted(_) => true,
            // A file with a secret is missing, or etcd does not know who asks.
            Self::Store(StoreError::Io(error)) => {
                !matches!(error.kind(), InvalidInput | NotFound | PermissionDenied)
            }
            _ => false,
        }
    }
}

/// Requests to the roles of a cluster, over TCP.
pub struct TcpTransport(Arc<Inner>);

struct Inner {
    home: Reached,
    answer: Duration,
    log: Arc<OnceLock<LogId>>,
    requests: AtomicU64,
    peers: Mutex<BTreeMap<Node, Arc<Peer>>>,
    listings: Mutex<Listings>,
}

impl TcpTransport {
    /// The cluster that is found at `home`.
    ///
    /// Cost: one connection, and one question; for etcd also a thread.
    ///
    /// # Errors
    /// [`NetError`]: of the last server that was tried.
    ///
    /// # Panics
    /// When `home` has no address.
    pub fn connect(home: &Home, timing: &Timing) -> Result<Arc<Self>, NetError> {
        let inner = Inner {
            home: Reached::open(home, timing.answer)?,
            answer: timing.answer,
            log: Arc::default(),
            requests: AtomicU64::new(1),
            peers: Mutex::default(),
            listings: Mutex::default(),
        };
        inner.refresh()?;
        Ok(Arc::new(Self(Arc::new(inner))))
    }

    /// Talks to roles of this log only, from now on. Otherwise the first projection seen decides.
    pub fn pin(&self, log: LogId) {
        let _ = self.0.log.set(log);
    }

    /// Where roles were last announced, asked anew.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn listings(&self) -> Result<Listings, NetError> {
        self.0.refresh()?;
        Ok(self.0.listings.lock().expect(UNPOISONED).clone())
    }

    /// What an append has survived when all units of `projection` have it: the least that one of them
    /// promises; of units that nobody has announced, nothing is known.
    #[must_use]
    pub fn durability(&self, projection: &Projection) -> Durability {
        let listings = self.0.listings.lock().expect(UNPOISONED);
        let promised = projection
            .members()
            .into_iter()
            .filter_map(|member| listings.get(&Node::Unit(member.unit)).map(|listing| listing.durability));
        promised
            .map(|durability| durability.unwrap_or(Durability::Memory))
            .min()
            .unwrap_or(Durability::Memory)
    }
}

/// Lists `node` in the address book of a cluster, unless another one with its number answers where it was listed before;
/// `log`: to which it belongs already. Tells of which log the cluster is, if it is founded.
///
/// Cost: two questions, and where it was listed elsewhere an attempt to reach that, for as long as an answer may take.
///
/// # Errors
/// [`NetError`].
pub fn announce(
    home: &Home,
    log: Option<LogId>,
    node: Node,
    listing: Listing,
    timing: &Timing,
) -> Result<Option<LogId>, NetError> {
    let home = Reached::open(home, timing.answer)?;
    let (listings, founded) = home.ask(log, &BookRequest::Listings)?;
    let before = listings.get(&node).map(|before| before.address).filter(|before| *before != listing.address);
    if let Some(address) = before.filter(|before| answers(node, before, log.or(founded), timing.answer)) {
        return Err(NetError::InUse { node, address });
    }
    home.ask(log, &BookRequest::Announce(node, listing)).map(|(_, log)| log)
}

/// Whether a role with that number answers there, whatever it says.
fn answers(node: Node, address: &SocketAddr, log: Option<LogId>, patience: Duration) -> bool {
    let epoch = Epoch::NONE;
    let request = match node {
        Node::Unit(unit) => {
            let member = Member { unit, joined: epoch };
            Request::Unit(UnitRequest { epoch, member, verb: UnitVerb::Probe })
        }
        Node::Sequencer(_) => Request::Sequencer(SequencerRequest { epoch, verb: SequencerVerb::Tail }),
        Node::Store => return false,
    };
    let Ok(stream) = connect_to(address, patience) else { return false };
    let kind = wire::request_kind(&request);
    let header = Header { kind, log, request: 1, number: number_of(node) };
    let put = |out: &mut Outgoing| wire::put_request(out, &request);
    let is_its = |header: Header, _: FrameBody<'_>| {
        matches!(header.kind, Kind::UnitReply | Kind::SequencerReply) && header.number == number_of(node)
    };
    question::ask(stream, header, put, patience, is_its).unwrap_or(false)
}

/// As it stands in frames.
const fn number_of(node: Node) -> u32 {
    match node {
        Node::Unit(number) => number.0,
        Node::Sequencer(number) => number.0,
        Node::Store => 0,
    }
}

/// The log that a store's answer names.
pub(super) fn named(reply: &Reply) -> Option<LogId> {
    match reply {
        Reply::Store(StoreReply::Latest(Some(latest))) => Some(latest.log),
        Reply::Store(StoreReply::Named(log)) => Some(*log),
        _ => None,
    }
}

/// Connects to a host and port.
pub(super) fn open(address: &str, patience: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match connect_to(&address, patience) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_to(address: &SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(address, patience)?;
    // A port that nobody listens on may connect to itself, when it is the next to be given away.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    // Who does not read for so long is as good as gone.
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

impl Inner {
    /// Reads the address book again.
    fn refresh(&self) -> Result<(), NetError> {
        let (listings, log) = self.home.ask(self.log.get().copied(), &BookRequest::Listings)?;
        if let Some(log) = log {
            let _ = self.log.set(log);
        }
        *self.listings.lock().expect(UNPOISONED) = listings;
        Ok(())
    }

    fn listed(&self, node: Node) -> Option<SocketAddr> {
        self.listings.lock().expect(UNPOISONED).get(&node).map(|listing| listing.address)
    }

    /// Connects to a role, wherever it is by now.
    fn open(&self, node: Node) -> Result<TcpStream, NetError> {
        let unreachable = |address: &dyn fmt::Display, source| NetError::Unreachable {
            address: address.to_string(),
            source,
        };
        if node == Node::Store {
            // Which store answers is known afterwards.
            self.refresh()?;
            return self.home.connect();
        }
        let known = self.listed(node);
        let failed = match known.map(|address| (address, connect_to(&address, self.answer))) {
            Some((_, Ok(stream))) => return Ok(stream),
            Some((address, Err(error))) => Some(unreachable(&address, error)),
            None => None,
        };
        self.refresh()?;
        match self.listed(node) {
            Some(address) if Some(address) != known => {
                connect_to(&address, self.answer).map_err(|error| unreachable(&address, error))
            }
            _ => Err(failed.unwrap_or(NetError::Unlisted(node))),
        }
    }

    /// The answers' timeout is over twice: whoever asked waits no longer.
    const fn silence(&self) -> Duration {
        self.answer
    }
}

impl TcpTransport {
    fn peer(&self, node: Node) -> Arc<Peer> {
        let mut peers = self.0.peers.lock().expect(UNPOISONED);
        Arc::clone(peers.entry(node).or_default())
    }
}

impl Transport for TcpTransport {
    fn send(&self, to: Node, request: Request, reply: ReplyTo) {
        #[cfg(feature = "etcd")]
        if let (Reached::Etcd(store), Request::Store(request)) = (&self.0.home, &request) {
            let log = Arc::clone(&self.0.log);
            let reply = ReplyTo::new(move |answer| {
                let Some(answer) = answer else { return drop(reply) };
                if let Some(known) = named(&answer) {
                    let _ = log.set(known);
                }
                reply.answer(answer);
            });
            return store.send(request.clone(), reply);
        }
        self.peer(to).send(&self.0, to, request, reply);
    }

    /// With one call of the operating system, where a connection is there.
    fn send_all(&self, to: Node, requests: &mut dyn Iterator<Item = (Request, ReplyTo)>) {
        if let Some(connection) = self.peer(to).connection() {
            return connection.send_all(&self.0, requests);
        }
        for (request, reply) in requests {
            self.send(to, request, reply);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for peer in self.peers.get_mut().expect(UNPOISONED).values() {
            if let State::Connected(connection) = &*peer.0.lock().expect(UNPOISONED) {
                connection.close();
            }
        }
    }
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpTransport").field("log", &self.0.log).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Peer(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Idle,
    /// No attempt is made before.
    Failed(Instant),
    /// With what is to be sent.
    Connecting(Vec<(Request, ReplyTo)>),
    Connected(Arc<Connection>),
}

impl Peer {
    /// The connection, if there is one.
    fn connection(&self) -> Option<Arc<Connection>> {
        match &*self.0.lock().expect(UNPOISONED) {
            State::Connected(connection) if !connection.is_closed() => Some(Arc::clone(connection)),
            _ => None,
        }
    }

    fn send(self: &Arc<Self>, inner: &Arc<Inner>, to: Node, request: Request, reply: ReplyTo) {
        let mut state = self.0.lock().expect(UNPOISONED);
        match &mut *state {
            State::Connected(connection) if !connection.is_closed() => {
                let connection = Arc::clone(connection);
                drop(state);
                connection.send(inner.number(), &request, reply);
            }
            State::Connecting(pending) => pending.push((request, reply)),
            // Dropping the reply tells that there will be none, and that may send the next request.
            State::Failed(until) if Instant::now() < *until => drop(state),
            State::Connected(_) | State::Failed(_) | State::Idle => {
                *state = State::Connecting(vec![(request, reply)]);
                let (inner, peer) = (Arc::clone(inner), Arc::clone(self));
                let builder = thread::Builder::new().name("mixlog-receive".to_owned());
                if builder.spawn(move || peer.connect(inner, to)).is_err() {
                    let pending = std::mem::replace(&mut *state, State::Idle);
                    drop(state);
                    drop(pending);
                }
            }
        }
    }

    /// The thread of a connection, from its beginning to its end.
    fn connect(self: Arc<Self>, inner: Arc<Inner>, to: Node) {
        let opened = inner.open(to).and_then(|stream| {
            let address = stream.peer_addr().map_or_else(|_| String::new(), |address| address.to_string());
            let unreachable = |source| NetError::Unreachable { address: address.clone(), source };
            stream.set_read_timeout(Some(inner.silence())).map_err(unreachable)?;
            Ok((stream.try_clone().map_err(unreachable)?, stream))
        });
        let (outgoing, incoming) = match opened {
            Ok(streams) => streams,
            Err(_) => {
                let failed = State::Failed(Instant::now() + COOL_DOWN);
                let pending = std::mem::replace(&mut *self.0.lock().expect(UNPOISONED), failed);
                drop(pending);
                return;
            }
        };
        let connection = Arc::new(Connection {
            number: number_of(to),
            log: Arc::clone(&inner.log),
            writer: Writer::new(outgoing),
            waiting: Mutex::new(Some(BTreeMap::new())),
        });
        let connected = State::Connected(Arc::clone(&connection));
        let pending = std::mem::replace(&mut *self.0.lock().expect(UNPOISONED), connected);
        if let State::Connecting(pending) = pending {
            for (request, reply) in pending {
                connection.send(inner.number(), &request, reply);
            }
        }
        let inner: Weak<Inner> = {
            let weak = Arc::downgrade(&inner);
            drop(inner);
            weak
        };
        connection.receive(&mut Incoming::new(incoming));
        // It may have moved, or never have been the right one.
        if let Some(inner) = inner.upgrade() {
            inner.listings.lock().expect(UNPOISONED).remove(&to);
        }
    }
}

impl Inner {
    fn number(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }
}

struct Connection {
    /// The unit's or sequencer's number.
    number: u32,
    log: Arc<OnceLock<LogId>>,
    writer: Writer,
    /// Who waits for which answer; `None` when the connection is closed.
    waiting: Mutex<Option<BTreeMap<u64, ReplyTo>>>,
}

impl Connection {
    fn is_closed(&self) -> bool {
        self.waiting.lock().expect(UNPOISONED).is_none()
    }

    fn send(&self, id: u64, request: &Request, reply: ReplyTo) {
        if self.add(id, request, reply) {
            self.writer.flush();
        }
    }

    fn send_all(&self, inner: &Inner, requests: &mut dyn Iterator<Item = (Request, ReplyTo)>) {
        let mut added = 0;
        for (request, reply) in requests {
            self.add(inner.number(), &request, reply);
            added += 1;
            // The peer begins with the first ones while the others are made.
            if added % TOGETHER == 0 {
                self.writer.flush();
            }
        }
        self.writer.flush();
    }

    /// Adds a request to what is written next; false, and no answer will come, if the connection is closed.
    fn add(&self, id: u64, request: &Request, reply: ReplyTo) -> bool {
        {
            let mut waiting = self.waiting.lock().expect(UNPOISONED);
            let Some(waiting) = &mut *waiting else {
                return false;
            };
            waiting.insert(id, reply);
        }
        let (kind, log) = (wire::request_kind(request), self.log.get().copied());
        let header = Header { kind, log, request: id, number: self.number };
        self.writer.add(|out| frame::put(out, header, |out| wire::put_request(out, request)));
        true
    }

    fn receive(&self, incoming: &mut Incoming) {
        let mut silent = false;
        loop {
            match incoming.next() {
                Ok(Some((header, body))) => {
                    silent = false;
                    if !self.take(header, body) {
                        break;
                    }
                }
                Ok(None) => match incoming.fill() {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error)
                        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
                    {
                        // A peer that is gone without a word, or stands still.
                        let waits = self.waiting.lock().expect(UNPOISONED);
                        let waits = waits.as_ref().is_some_and(|waiting| !waiting.is_empty());
                        if silent && waits {
                            break;
                        }
                        silent = waits;
                    }
                    Err(_) => break,
                },
                Err(_) => break,
            }
        }
        self.close();
    }

    /// Takes a frame; false if the connection makes no sense any more.
    fn take(&self, header: Header, body: FrameBody<'_>) -> bool {
        if let (Some(ours), Some(theirs)) = (self.log.get(), header.log)
            && *ours != theirs
        {
            return false;
        }
        if matches!(header.kind, Kind::Refused | Kind::Failed) || header.number != self.number {
            return false;
        }
        let Ok(reply) = wire::reply(header.kind, body) else { return false };
        if let Some(log) = named(&reply) {
            let _ = self.log.set(log);
        }
        let waiting = self.waiting.lock().expect(UNPOISONED).as_mut().and_then(|w| w.remove(&header.request));
        if let Some(waiting) = waiting {
            waiting.answer(reply);
        }
        true
    }

    fn close(&self) {
        let lost = self.waiting.lock().expect(UNPOISONED).take();
        self.writer.close();
        // Each tells its operation, without the lock.
        drop(lost);
    }
}
