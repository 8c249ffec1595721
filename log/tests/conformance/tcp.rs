//! A cluster in this process whose roles are reached through sockets.

use std::any::Any;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mixlog_log::corfu::{
    self, Change, CorfuLog, Home, Listing, Node, Reconfigured, SequencerNumber, Server, TcpTransport, Timing,
    Transport, UnitFiles, UnitNumber, UnitServer, UnitStorage,
};
use mixlog_log::{
    AppendError, Batch, Block, Durability, FlushError, LogId, Position, ReadError, SealError, SharedLog,
    Tail, TailError, Ticket, TrimError,
};

use crate::subject::PATIENCE;

/// How many positions a stripe has, and so how many entries a batch.
pub(crate) const WIDTH: u32 = 32;

pub(crate) fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// How a log is used, with everything so small that tests reach its bounds.
pub(crate) fn config(durability: Durability) -> corfu::Config {
    corfu::Config {
        durability,
        queue_bytes: 64 << 10,
        max_batch_bytes: 8 << 10,
        cache_bytes: 4 << 10,
        ..corfu::Config::default()
    }
}

/// A unit that keeps its entries in `directory`, in files that tests fill.
pub(crate) fn unit(number: u32, directory: &Path, durability: Durability) -> Server {
    let files = UnitFiles {
        segment_bytes: 64 << 10,
        run_bytes: 24 << 10,
        cache_bytes: 4 << 10,
        ..UnitFiles::new(directory.join(format!("unit-{number}")), durability)
    };
    let storage = match durability {
        Durability::Memory => UnitStorage::Memory,
        _ => UnitStorage::Files(files),
    };
    let unit = UnitServer::open(UnitNumber(number), u64::MAX, &storage).unwrap();
    Server::unit(listener(), unit).unwrap()
}

pub(crate) fn announce(home: &Home, node: Node, role: &Server) {
    let listing = Listing { address: role.address(), durability: role.durability() };
    corfu::announce(home, role.log(), node, listing, &Timing::default()).unwrap();
}

/// Units 1 to 4 and a sequencer in this process, behind sockets: two chains of two units each, with stripes so
/// short that most tests cross them. Begins, or goes on with, the cluster that is found at `home`.
pub(crate) fn begin(
    home: &Home,
    directory: &Path,
    durability: Durability,
) -> (Vec<(Node, Server)>, Arc<dyn Transport>) {
    let sequencer = SequencerNumber(1);
    let numbers = [1, 2, 3, 4];
    let mut roles = vec![(Node::Sequencer(sequencer), Server::sequencer(listener(), sequencer).unwrap())];
    roles.extend(numbers.map(|n| (Node::Unit(UnitNumber(n)), unit(n, directory, durability))));
    for (node, role) in &roles {
        announce(home, *node, role);
    }
    let timing = Timing::default();
    let tcp = TcpTransport::connect(home, &timing).unwrap();
    let transport: Arc<dyn Transport> = Arc::clone(&tcp) as _;
    let begun = match corfu::latest(&*transport, &timing, PATIENCE).unwrap() {
        Some(latest) => corfu::reconfigure(&transport, &timing, latest, Change::default(), Some(PATIENCE)),
        None => {
            let chains = numbers.map(UnitNumber).chunks(2).map(<[_]>::to_vec).collect();
            corfu::found(&transport, &timing, LogId::random(), chains, sequencer, WIDTH, Some(PATIENCE))
        }
    };
    let Some(Reconfigured::Installed(projection)) = begun else { panic!("{begun:?}") };
    assert_eq!(tcp.durability(&projection), durability);
    (roles, transport)
}

/// What else goes with a log: its store, its directory.
pub(crate) type Kept = Box<dyn Any + Send + Sync>;

/// A log on such a cluster. It goes before the roles do.
pub(crate) struct TcpLog {
    log: CorfuLog,
    _roles: Vec<(Node, Server)>,
    _kept: Kept,
}

impl TcpLog {
    /// A log on the cluster that is found at `home`.
    pub(crate) fn open(home: &Home, directory: &Path, durability: Durability, kept: Kept) -> Self {
        let (roles, transport) = begin(home, directory, durability);
        let log = CorfuLog::connect(transport, config(durability)).unwrap();
        Self { log, _roles: roles, _kept: kept }
    }
}

impl SharedLog for TcpLog {
    fn append(&self, batch: &Batch) -> Result<Ticket, AppendError> {
        self.log.append(batch)
    }

    fn read(&self, position: Position) -> Result<Option<Arc<Block>>, ReadError> {
        self.log.read(position)
    }

    fn tail(&self) -> Result<Tail, TailError> {
        self.log.tail()
    }

    fn wait_past(&self, position: Position, timeout: Option<Duration>) -> Result<Tail, ReadError> {
        self.log.wait_past(position, timeout)
    }

    fn flush(&self) -> Result<Position, FlushError> {
        self.log.flush()
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
