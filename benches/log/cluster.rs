//! Clusters to measure: in this process without sockets, and of real servers behind real sockets.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mixlog::log::corfu::{
    Config, CorfuLog, Home, Listing, LocalCluster, LocalConfig, LocalStorage, Node, Reconfigured,
    SequencerNumber, Server, TcpTransport, Timing, Transport, UnitFiles, UnitNumber, UnitServer, UnitStorage,
    announce, found,
};
use mixlog::log::{Durability, LogId};

/// Longer than anything takes, so that a hang fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const SEQUENCER: SequencerNumber = SequencerNumber(1);

/// Positions in a stripe, as `mixlog cluster` founds logs.
pub(crate) const WIDTH: u32 = 1 << 16;

/// A log on a cluster without sockets.
pub(crate) fn local(storage: LocalStorage, replicas: u32) -> CorfuLog {
    let cluster = LocalCluster::open(LocalConfig { replicas, storage, ..LocalConfig::default() });
    let cluster = cluster.expect("the cluster opens");
    let config = Config { durability: cluster.durability(), ..Config::default() };
    CorfuLog::connect(cluster, config).expect("it is there")
}

/// The same, in files.
pub(crate) fn local_files(directory: &Path, durability: Durability) -> CorfuLog {
    local(LocalStorage::Files(UnitFiles::new(directory, durability)), 2)
}

pub(crate) fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("loopback has a free port")
}

/// The servers of a cluster, each with its listener and threads, in this process.
pub(crate) struct TcpCluster {
    pub(crate) home: Home,
    durability: Durability,
    _servers: Vec<Server>,
    _directory: tempfile::TempDir,
}

impl TcpCluster {
    /// One chain of `replicas` units, which keep their entries as `durability` says, below `directory`.
    pub(crate) fn start(directory: &Path, durability: Durability, replicas: u32) -> Self {
        let directory = tempfile::tempdir_in(directory).expect("a directory");
        let store = Server::store(listener(), &directory.path().join("store")).expect("the store opens");
        let home = Home::servers(&[store.address()]);
        let mut servers = vec![store];
        let sequencer = Server::sequencer(listener(), SEQUENCER).expect("a listener");
        list(&home, Node::Sequencer(SEQUENCER), sequencer.address(), None);
        servers.push(sequencer);
        let units: Vec<UnitNumber> = (1..=replicas).map(UnitNumber).collect();
        for number in &units {
            let storage = match durability {
                Durability::Memory => UnitStorage::Memory,
                _ => {
                    let directory = directory.path().join(format!("unit-{number}"));
                    UnitStorage::Files(UnitFiles::new(directory, durability))
                }
            };
            let unit = UnitServer::open(*number, u64::MAX, &storage).expect("the unit opens");
            let server = Server::unit(listener(), unit).expect("a listener");
            list(&home, Node::Unit(*number), server.address(), Some(durability));
            servers.push(server);
        }
        set_up(&home, vec![units]);
        Self { home, durability, _servers: servers, _directory: directory }
    }

    /// Another client, with connections of its own.
    pub(crate) fn connect(&self) -> Arc<TcpTransport> {
        TcpTransport::connect(&self.home, &Timing::default()).expect("it is there")
    }

    /// A log on it, by a client of its own.
    pub(crate) fn log(&self) -> CorfuLog {
        let config = Config { durability: self.durability, ..Config::default() };
        CorfuLog::connect(self.connect(), config).expect("it is there")
    }
}

fn list(home: &Home, node: Node, address: SocketAddr, durability: Option<Durability>) {
    announce(home, None, node, Listing { address, durability }, &Timing::default()).expect("it is listed");
}

/// Founds a log on these chains.
pub(crate) fn set_up(home: &Home, chains: Vec<Vec<UnitNumber>>) {
    let tcp = TcpTransport::connect(home, &Timing::default()).expect("it is there");
    let log = LogId::random();
    tcp.pin(log);
    let transport: Arc<dyn Transport> = tcp;
    let made = found(&transport, &Timing::default(), log, chains, SEQUENCER, WIDTH, Some(PATIENCE));
    assert!(matches!(made, Some(Reconfigured::Installed(_))), "{made:?}");
}

/// A log over sockets that takes its cluster with it.
pub(crate) fn over_tcp(directory: &Path, durability: Durability, replicas: u32) -> (CorfuLog, TcpCluster) {
    let cluster = TcpCluster::start(directory, durability, replicas);
    (cluster.log(), cluster)
}
