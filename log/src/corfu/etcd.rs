//! The projection store and the address book in etcd, for clusters that must survive the loss of any machine.
//!
//! ```text
//! PREFIX/latest                         the highest epoch, in decimal
//! PREFIX/projection/0000000000000001    the projection of epoch 1 as Projection::encode writes it; never changed
//! PREFIX/address/unit-1                 where unit 1 listens: "10.0.0.2:4711 flushed"
//! ```
//!
//! A projection is installed by one transaction: if the projection of its epoch was never created, and the
//! latest epoch is the one before, then both are written. Reads go through etcd's consensus (linearizable). So
//! the register is as etcd's keys are: strictly serializable, whoever asks whichever of its members.
//!
//! ```text
//! callers --> future --> one thread with a runtime of its own --> etcd
//!    ^------- channel, or a ReplyTo ---/
//! ```
//!
//! Nothing here waits for longer than the patience it was given. A read asks one endpoint after the other. A
//! write is sent once: who does not hear what became of it has to look.

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, GetOptions, GetResponse, Identity, TlsOptions,
    Txn, TxnOp,
};
use tokio::runtime::{self, Handle};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::LogId;

use super::log::FOR_EVER;
use super::message::{Epoch, Node, Reply, StoreReply, StoreRequest};
use super::net::{self, EtcdAccess, Listing, Listings};
use super::projection::Projection;
use super::store::{ProjectionStore, StoreError};
use super::transport::ReplyTo;

/// A connection that nobody has used for so long is tried; etcd ends those that are tried more often than
/// every 5 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A projection store in etcd, and the address book beside it.
///
/// Cost: one thread. Each call is one to three round trips to etcd.
pub struct EtcdStore {
    session: Arc<Session>,
    runtime: Handle,
    /// Dropped to end the thread.
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What a request needs.
struct Session {
    endpoints: Vec<Endpoint>,
    /// The one that answered last.
    first: AtomicUsize,
    prefix: String,
    patience: Duration,
}

struct Endpoint {
    address: String,
    options: ConnectOptions,
    has_tls: bool,
    /// One for each: a client of several would choose by itself, also one that is dead. Made when it is needed: it asks
    /// etcd who it is.
    client: OnceCell<Client>,
}

impl EtcdStore {
    /// The store under `prefix` in the etcd whose members listen at `endpoints`, each a host and a port.
    /// `access`: as whom, and how; its files are read once. `patience`: how long a call may take.
    ///
    /// Cost: one question, so that a wrong address is told at once.
    ///
    /// # Errors
    /// [`StoreError`]: nobody answers, or something else does, or does not let us in; a file of `access` cannot be read.
    ///
    /// # Panics
    /// When `endpoints` is empty.
    pub fn connect(
        endpoints: &[String],
        prefix: &str,
        access: &EtcdAccess,
        patience: Duration,
    ) -> Result<Self, StoreError> {
        assert!(!endpoints.is_empty(), "etcd is reached at an endpoint");
        // A deadline past it might not be a time.
        let patience = patience.min(FOR_EVER);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (told, opened) = mpsc::channel();
        let session = Session::open(endpoints, prefix, access, patience)?;
        let run = {
            move || {
                let runtime = runtime::Builder::new_current_thread().enable_all().build();
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(told.send(Err(StoreError::Io(error)))),
                };
                let _ = told.send(Ok((Arc::new(session), runtime.handle().clone())));
                // Futures that others spawn run meanwhile. An error tells that the sender was dropped.
                let _ = runtime.block_on(stopped);
                // Whoever still waits is told by its channel's end. A name that is being looked up is not waited for.
                runtime.shutdown_background();
            }
        };
        let thread = thread::Builder::new().name("mixlog-etcd".to_owned()).spawn(run)?;
        let (session, runtime) = opened.recv().expect("the thread tells before it ends")?;
        let store = Self { session, runtime, stop: Some(stop), thread: Some(thread) };
        store.latest()?;
        Ok(store)
    }

    /// Lists where `node` is.
    ///
    /// # Errors
    /// [`StoreError`]: it may be listed or not.
    pub fn announce(&self, node: Node, listing: Listing) -> Result<(), StoreError> {
        let Some(name) = net::listing_name(node) else { return Ok(()) };
        self.wait(|session| async move { session.announce(&name, listing).await })
    }

    /// All roles that were ever announced.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn listings(&self) -> Result<Listings, StoreError> {
        self.wait(|session| async move { session.listings().await })
    }

    /// Answers a request of the protocol from the store's thread; an error is no answer.
    pub(crate) fn send(&self, request: StoreRequest, reply: ReplyTo) {
        let session = Arc::clone(&self.session);
        self.runtime.spawn(async move {
            if let Ok(answer) = session.handle(&request).await {
                reply.answer(Reply::Store(answer));
            }
        });
    }

    /// Runs a request on the store's thread, and waits for it.
    fn wait<T, F>(&self, request: impl FnOnce(Arc<Session>) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let (told, answer) = mpsc::channel();
        let request = request(Arc::clone(&self.session));
        self.runtime.spawn(async move { drop(told.send(request.await)) });
        answer.recv().unwrap_or_else(|_| Err(self.session.failed("the store is being closed")))
    }
}

impl ProjectionStore for EtcdStore {
    fn latest(&self) -> Result<Option<Arc<Projection>>, StoreError> {
        self.wait(|session| async move { session.latest().await })
    }

    fn install(&self, projection: &Projection) -> Result<bool, StoreError> {
        let projection = projection.clone();
        self.wait(|session| async move { session.install(&projection).await })
    }

    fn name(&self, proposed: LogId) -> Result<LogId, StoreError> {
        self.wait(move |session| async move { session.name(proposed).await })
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        drop(self.stop.take());
        // An answer may have dropped the last owner of this, on the store's own thread.
        if let Some(thread) = self.thread.take().filter(|it| it.thread().id() != thread::current().id()) {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the store's thread panicked");
        }
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("prefix", &self.session.prefix).finish_non_exhaustive()
    }
}

impl Session {
    fn open(
        endpoints: &[String],
        prefix: &str,
        access: &EtcdAccess,
        patience: Duration,
    ) -> Result<Self, StoreError> {
        // A member that was cut off from the others says so, instead of keeping us waiting.
        let mut options = ConnectOptions::new()
            .with_require_leader(true)
            .with_connect_timeout(patience)
            .with_keep_alive(KEEP_ALIVE, patience)
            .with_keep_alive_while_idle(true);
        if let Some((user, password)) = &access.user {
            let password =
                String::from_utf8_lossy(&read(password)?).trim_end_matches(['\r', '\n']).to_owned();
            options = options.with_user(user, password);
        }
        if let Some(ca) = &access.ca {
            let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca)?));
            if let Some((certificate, key)) = &access.identity {
                tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
            }
            options = options.with_tls(tls);
        }
        let endpoint = |address: &String| Endpoint {
            address: address.clone(),
            options: options.clone(),
            has_tls: access.ca.is_some(),
            client: OnceCell::new(),
        };
        let endpoints = endpoints.iter().map(endpoint).collect();
        let prefix = prefix.trim_matches('/').to_owned();
        Ok(Self { endpoints, first: AtomicUsize::new(0), prefix, patience })
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    fn projection_key(&self, epoch: Epoch) -> String {
        self.key(&format!("projection/{:016x}", epoch.0))
    }

    async fn handle(&self, request: &StoreRequest) -> Result<StoreReply, StoreError> {
        match request {
            StoreRequest::Install(projection) if self.install(projection).await? => {
                return Ok(StoreReply::Installed);
            }
            StoreRequest::Name(proposed) => return self.name(*proposed).await.map(StoreReply::Named),
            StoreRequest::Install(_) | StoreRequest::Latest => {}
        }
        self.latest().await.map(StoreReply::Latest)
    }

    async fn latest(&self) -> Result<Option<Arc<Projection>>, StoreError> {
        let deadline = Instant::now() + self.patience;
        let Some((epoch, _)) = self.latest_epoch(deadline).await? else { return Ok(None) };
        let key = self.projection_key(epoch);
        let (response, _) = self.get(&key, None, deadline).await?;
        let Some(found) = response.kvs().first() else { return Err(StoreError::Foreign { key }) };
        let projection =
            Projection::decode(found.value()).map_err(|flaw| StoreError::Damaged { epoch, flaw })?;
        Ok(Some(Arc::new(projection)))
    }

    /// The highest epoch, and who told it.
    async fn latest_epoch(&self, deadline: Instant) -> Result<Option<(Epoch, usize)>, StoreError> {
        let key = self.key("latest");
        let (response, endpoint) = self.get(&key, None, deadline).await?;
        let Some(found) = response.kvs().first() else { return Ok(None) };
        let epoch = found.value_str().ok().and_then(|text| text.parse().ok());
        epoch.map(|epoch| Some((Epoch(epoch), endpoint))).ok_or(StoreError::Foreign { key })
    }

    async fn install(&self, projection: &Projection) -> Result<bool, StoreError> {
        let deadline = Instant::now() + self.patience;
        let epoch = projection.epoch;
        // Also finds somebody who answers: the write is sent to nobody else.
        let latest = self.latest_epoch(deadline).await?;
        let before = latest.map_or(Epoch::NONE, |(latest, _)| latest);
        if before.next() != epoch {
            return Ok(false);
        }
        let endpoint = latest.map_or_else(|| self.first.load(Ordering::Relaxed), |(_, endpoint)| endpoint);
        let (pointer, key) = (self.key("latest"), self.projection_key(epoch));
        let follows = match latest {
            Some(_) => Compare::value(pointer.as_str(), CompareOp::Equal, before.0.to_string()),
            None => Compare::create_revision(pointer.as_str(), CompareOp::Equal, 0),
        };
        let is_first = Compare::create_revision(key.as_str(), CompareOp::Equal, 0);
        let writes =
            [TxnOp::put(key, projection.encode(), None), TxnOp::put(pointer, epoch.0.to_string(), None)];
        let install = Txn::new().when([is_first, follows]).and_then(writes);
        let endpoint = &self.endpoints[endpoint];
        let mut client = endpoint.client(left(deadline)).await?;
        let response = within(endpoint, left(deadline), client.txn(install)).await?;
        Ok(response.succeeded())
    }

    async fn name(&self, proposed: LogId) -> Result<LogId, StoreError> {
        if let Some(latest) = self.latest().await? {
            return Ok(latest.log);
        }
        let deadline = Instant::now() + self.patience;
        let key = self.key("log");
        loop {
            let (response, endpoint) = self.get(&key, None, deadline).await?;
            if let Some(found) = response.kvs().first() {
                let log = found.value_str().ok().and_then(|text| u128::from_str_radix(text, 16).ok());
                return log.map(LogId).ok_or(StoreError::Foreign { key });
            }
            let is_first = Compare::create_revision(key.as_str(), CompareOp::Equal, 0);
            let put = TxnOp::put(key.as_str(), proposed.to_string(), None);
            let endpoint = &self.endpoints[endpoint];
            let mut client = endpoint.client(left(deadline)).await?;
            let named = client.txn(Txn::new().when([is_first]).and_then([put]));
            if within(endpoint, left(deadline), named).await?.succeeded() {
                return Ok(proposed);
            }
        }
    }

    async fn announce(&self, name: &str, listing: Listing) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.patience;
        let key = self.key(&format!("address/{name}"));
        let (_, endpoint) = self.get(&key, None, deadline).await?;
        let endpoint = &self.endpoints[endpoint];
        let mut client = endpoint.client(left(deadline)).await?;
        within(endpoint, left(deadline), client.put(key, listing.to_string(), None)).await?;
        Ok(())
    }

    async fn listings(&self) -> Result<Listings, StoreError> {
        let prefix = self.key("address/");
        let options = GetOptions::new().with_prefix();
        let (response, _) = self.get(&prefix, Some(options), Instant::now() + self.patience).await?;
        let listing = |found: &etcd_client::KeyValue| {
            let (name, text) = (found.key_str().ok()?.strip_prefix(&prefix)?, found.value_str().ok()?);
            Some((net::listing_node(name)?, Listing::parse(text)?))
        };
        Ok(response.kvs().iter().filter_map(listing).collect())
    }

    /// Reads from the first endpoint that answers, and tells which one that was.
    async fn get(
        &self,
        key: &str,
        options: Option<GetOptions>,
        deadline: Instant,
    ) -> Result<(GetResponse, usize), StoreError> {
        let (count, begin) = (self.endpoints.len(), self.first.load(Ordering::Relaxed));
        let mut last = None;
        for attempt in 0..count {
            let index = (begin + attempt) % count;
            let endpoint = &self.endpoints[index];
            // Those who come after one that is silent need some time too.
            let share = left(deadline) / u32::try_from(count - attempt).expect("a few endpoints");
            let end = Instant::now() + share;
            let found = match endpoint.client(share).await {
                Ok(mut client) => within(endpoint, left(end), client.get(key, options.clone())).await,
                Err(error) => Err(error),
            };
            match found {
                Ok(response) => {
                    self.first.store(index, Ordering::Relaxed);
                    return Ok((response, index));
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("there is an endpoint"))
    }

    fn failed(&self, what: &str) -> StoreError {
        let addresses: Vec<_> = self.endpoints.iter().map(|endpoint| endpoint.address.as_str()).collect();
        let text = format!("etcd at {}: {what}", addresses.join(", "));
        StoreError::Io(io::Error::new(io::ErrorKind::NotConnected, text))
    }
}

impl Endpoint {
    /// The client, connected if it was not, within `patience`.
    async fn client(&self, patience: Duration) -> Result<Client, StoreError> {
        let connect = || {
            let scheme = if self.has_tls { "https" } else { "http" };
            Client::connect([format!("{scheme}://{}", self.address)], Some(self.options.clone()))
        };
        within(self, patience, self.client.get_or_try_init(connect)).await.cloned()
    }
}

/// A file of [`EtcdAccess`].
fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path)
        .map_err(|error| StoreError::Io(io::Error::new(error.kind(), format!("{}: {error}", path.display()))))
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// The answer of one endpoint, or why there is none.
async fn within<T>(
    endpoint: &Endpoint,
    patience: Duration,
    request: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, StoreError> {
    let (kind, what) = match timeout(patience, request).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => (kind(&error), net::said(explain(&error).as_bytes())),
        Err(_) => (io::ErrorKind::TimedOut, "no answer in time".to_owned()),
    };
    Err(StoreError::Io(io::Error::new(kind, format!("etcd at {}: {what}", endpoint.address))))
}

/// What a caller may make of an error.
fn kind(error: &etcd_client::Error) -> io::ErrorKind {
    let etcd_client::Error::GRpcStatus(status) = error else { return io::ErrorKind::NotConnected };
    // The codes of gRPC, by number: their type is not one of the client's.
    match status.code() as i32 {
        // A wrong password is one.
        3 => io::ErrorKind::InvalidInput,
        4 => io::ErrorKind::TimedOut,
        7 | 16 => io::ErrorKind::PermissionDenied,
        // Its database has reached its quota.
        8 => io::ErrorKind::StorageFull,
        14 => io::ErrorKind::NotConnected,
        _ => io::ErrorKind::InvalidData,
    }
}

/// An error with all that it came from, in one line.
fn explain(error: &etcd_client::Error) -> String {
    let etcd_client::Error::GRpcStatus(status) = error else { return error.to_string() };
    let mut text = status.message().to_owned();
    let mut source = status.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
