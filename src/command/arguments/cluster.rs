//! What the command line may say about clusters, their roles, and logs on them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use mixlog::Position;
use mixlog::log::corfu::{Home, HomeError};

use super::{Durability, patience, position};

const CLUSTER_DEFAULT: &str = "corfu://127.0.0.1:4500";

const ROLE_EXAMPLES: &str = "Examples, each in a terminal or on a machine of its own:
  mixlog projections --dir /var/tmp/projections --listen 10.0.0.1:4500
  mixlog sequencer --log corfu://10.0.0.1:4500 --number 1 --listen 10.0.0.1:0
  mixlog unit --log corfu://10.0.0.1:4500 --number 1 --dir /var/tmp/unit-1 --listen 10.0.0.2:0
  mixlog unit --log corfu://10.0.0.1:4500 --number 2 --dir /var/tmp/unit-2 --listen 10.0.0.3:0
  mixlog cluster found --log corfu://10.0.0.1:4500 --chain 1,2 --sequencer 1
  mixlog cluster monitor --log corfu://10.0.0.1:4500
  mixlog run tpcc --log corfu://10.0.0.1:4500

With etcd, which survives the loss of machines, instead of mixlog projections:
  mixlog unit --log corfu+etcd://10.0.0.1:2379,10.0.0.2:2379/bank --number 1 --dir /var/tmp/unit-1
If it asks for TLS or a user (all of these can be left out):
  mixlog unit --log 'corfu+etcd://ada@10.0.0.1:2379/bank?password=FILE&ca=FILE&cert=FILE&key=FILE' ..

In a container, or behind a router, a role listens on all addresses and says where others reach it:
  mixlog unit --log corfu://store:4500 --number 1 --dir /data --listen 0.0.0.0:4501 --announce unit-1:4501

Each role announces its address at the projection store, and says where it listens. It serves until it is
killed, which it may be at any time. There is no authentication: listen on networks that you trust.";

#[derive(Debug, Args)]
#[command(after_help = ROLE_EXAMPLES)]
pub(crate) struct UnitOptions {
    /// The unit's number in its cluster
    #[arg(long, value_name = "N")]
    pub(crate) number: u32,
    /// Where its entries are kept; made if missing. Without one they are kept in memory
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// When a write is answered [default: flushed, or memory without --dir]
    #[arg(long, value_enum)]
    pub(crate) durability: Option<Durability>,
    /// How many bytes of entries it takes before it refuses more [default: no limit]
    #[arg(long, value_name = "BYTES")]
    pub(crate) quota: Option<u64>,
    #[command(flatten)]
    pub(crate) role: RoleOptions,
}

#[derive(Debug, Args)]
#[command(after_help = ROLE_EXAMPLES)]
pub(crate) struct SequencerOptions {
    /// The sequencer's number in its cluster
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) number: u32,
    #[command(flatten)]
    pub(crate) role: RoleOptions,
}

/// What units and sequencers have in common.
#[derive(Debug, Args)]
pub(crate) struct RoleOptions {
    /// The cluster: corfu://HOST:PORT,.. or corfu+etcd://HOST:PORT,../PREFIX
    #[arg(long, value_name = "CLUSTER", default_value = CLUSTER_DEFAULT)]
    pub(crate) log: Home,
    /// Where to listen; port 0 is any free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// Where others reach it, if that is not where it listens; needed where it listens on all addresses, as with
    /// --listen 0.0.0.0:4501. A name is looked up when the role starts; port 0 is the one it listens on
    #[arg(long, value_name = "HOST:PORT", value_parser = reached_at)]
    pub(crate) announce: Option<String>,
    /// End when stdin does: for whoever starts it, and may be killed
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}

#[derive(Debug, Args)]
#[command(after_help = ROLE_EXAMPLES)]
pub(crate) struct ProjectionsOptions {
    /// Where projections and addresses are kept; made if missing
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Where to listen
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:4500")]
    pub(crate) listen: SocketAddr,
    /// End when stdin does: for whoever starts it, and may be killed
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Starts a cluster on this machine, watches it, and starts again what ends.
    Up(UpOptions),
    /// Founds a cluster of units that were started already.
    Found {
        #[command(flatten)]
        cluster: ClusterOptions,
        /// The units of a chain, head first; once for each chain
        #[arg(long, value_name = "N,N..", required = true, value_delimiter = None)]
        chain: Vec<String>,
        /// The sequencer
        #[arg(long, value_name = "N", default_value_t = 1)]
        sequencer: u32,
    },
    /// Prints the projection, and how everybody is.
    Status(ClusterOptions),
    /// Adds a unit to a chain, or a chain to the log.
    Add {
        #[command(flatten)]
        cluster: ClusterOptions,
        /// The unit that joins
        #[arg(long, value_name = "N", required_unless_present = "chain", requires = "beside")]
        unit: Option<u32>,
        /// A unit of the chain that it joins
        #[arg(long, value_name = "N")]
        beside: Option<u32>,
        /// Units that become a new chain, head first
        #[arg(long, value_name = "N,N..", conflicts_with_all = ["unit", "beside"])]
        chain: Option<String>,
    },
    /// Goes on without a unit, or puts another one in its place.
    Remove {
        #[command(flatten)]
        cluster: ClusterOptions,
        /// The unit that leaves
        #[arg(long, value_name = "N")]
        unit: u32,
        /// The unit that takes its place
        #[arg(long, value_name = "N")]
        replacement: Option<u32>,
    },
    /// Gives up all entries before a position.
    Trim {
        #[command(flatten)]
        cluster: ClusterOptions,
        /// The first position that stays
        #[arg(long, value_name = "POSITION", value_parser = position, allow_hyphen_values = true)]
        before: Position,
    },
    /// Watches a cluster, and replaces who is dead.
    Monitor {
        #[command(flatten)]
        cluster: ClusterOptions,
        /// How many units a chain should have
        #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
        replicas: u32,
    },
}

const CLUSTER_EXAMPLES: &str = "Examples:
  mixlog cluster status
  mixlog cluster add --unit 5 --beside 2
  mixlog cluster add --chain 5,6
  mixlog cluster remove --unit 3 --replacement 5
  mixlog cluster trim --before 100000

Exit codes: mixlog --help.";

#[derive(Debug, Args)]
#[command(after_help = CLUSTER_EXAMPLES)]
pub(crate) struct ClusterOptions {
    /// The cluster: corfu://HOST:PORT,.. or corfu+etcd://HOST:PORT,../PREFIX
    #[arg(long, value_name = "CLUSTER", default_value = CLUSTER_DEFAULT)]
    pub(crate) log: Home,
}

const UP_EXAMPLES: &str = "Examples:
  mixlog cluster up --dir /var/tmp/cluster
  mixlog cluster up --units 6 --replicas 3 --spares 1 --dir /var/tmp/cluster --durability buffered
  mixlog cluster up --dir /var/tmp/cluster --etcd 10.0.0.1:2379,10.0.0.2:2379/bank
  mixlog run tpcc --log corfu://127.0.0.1:4500

It runs until it is ended, with Ctrl-C for example, and so do all its processes. The same directory can be used
again later: the log is still there, but for units that keep it in memory (--durability memory).";

#[derive(Debug, Args)]
#[command(after_help = UP_EXAMPLES)]
pub(crate) struct UpOptions {
    /// How many units a new cluster has, a multiple of --replicas
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) units: u32,
    /// How many units have each entry: one less may be lost at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) replicas: u32,
    /// Units that wait to take the place of others
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) spares: u32,
    /// Where everything is kept; made if missing
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// When an append is acknowledged
    #[arg(long, value_enum, default_value_t = Durability::Flushed)]
    pub(crate) durability: Durability,
    /// Where the projection store listens
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:4500")]
    pub(crate) listen: SocketAddr,
    /// Keep projections and addresses in etcd, instead of a projection store. TLS and users: ?ca=FILE and so on after the
    /// prefix, and USER@ before the first host, as after corfu+etcd://
    #[arg(long, value_name = "HOST:PORT,..[/PREFIX]", value_parser = etcd, conflicts_with = "listen")]
    pub(crate) etcd: Option<Home>,
}

/// What goes for a log on a cluster only.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logs on clusters")]
pub(crate) struct OnClusterOptions {
    /// Fail when the cluster has not answered for so many seconds, at least 0.001, or is not up yet [default: 30]
    #[arg(long, value_name = "S", value_parser = patience, allow_hyphen_values = true)]
    pub(crate) patience: Option<f64>,
    /// Keep the log's checkpoints below this directory, made if missing: a cluster has no place for them. Who takes some
    /// trims the log for everybody, unless --keep-log says otherwise
    #[arg(long, value_name = "DIR")]
    pub(crate) beside: Option<PathBuf>,
}

fn reached_at(text: &str) -> Result<String, String> {
    let is_place = text.rsplit_once(':').is_some_and(|(host, port)| {
        let is_nobody = host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
        !host.is_empty() && !is_nobody && port.parse::<u16>().is_ok()
    });
    is_place.then(|| text.to_owned()).ok_or_else(|| "it is a host that others know, and a port".to_owned())
}

fn etcd(text: &str) -> Result<Home, String> {
    let home = format!("corfu+etcd://{text}").parse();
    home.map_err(|_: HomeError| "etcd is reached at HOST:PORT[,HOST:PORT...][/PREFIX]".to_owned())
}
