//! What the command line may say.

mod cluster;
mod keep;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use mixlog::{Explanation, Membership, Mode, Position};
use serde::Serialize;

use super::cluster::is_meant;
use super::failure::Failure;

pub(crate) use cluster::{
    ClusterCommand, ClusterOptions, OnClusterOptions, ProjectionsOptions, RoleOptions, SequencerOptions,
    UnitOptions, UpOptions,
};
pub(crate) use keep::{KeepOptions, RetainOptions};

const EXIT_CODES: &str = "Exit codes:
  0  everything went well, and every check passed
  1  a bug of mixlog
  2  wrong usage, or a configuration or log that is refused
  3  the log is corrupt
  4  an I/O error: the disk is full, for example
  5  a consistency check or a comparison of digests failed, or a procedure is not deterministic (--paranoid)
A command that a signal ended ends by it, as others do: a shell shows 130 for Ctrl-C, and 143 for SIGTERM.";

/// Transactions on all cores, with the result of running them one by one in the order of a log.
#[derive(Debug, Parser)]
#[command(name = "mixlog", version, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a workload, prints what it measured, and audits the state that it left.
    Run(Box<RunOptions>),
    /// Applies transactions to the generic store: reads one JSON object a line, answers with one JSON object a line.
    Apply(ApplyOptions),
    /// Prints the values in a generic store, as one JSON object a line.
    Dump(StateOptions),
    /// Prints the position and the digest of the state and of all replies of a store, or of what a workload left.
    Digest(StateOptions),
    /// Executes a log from its start, and prints the position and the digest where it ended.
    Replay(ReplayOptions),
    /// Takes a checkpoint of the state at the end of a log, and gives up what it makes superfluous.
    Checkpoint(CheckpointOptions),
    /// Executes a log on several replicas that compare digests through it, and names what differs.
    Replica(ReplicaOptions),
    /// Copies a log and its newest checkpoint to a directory that opens, also while it is written to.
    Backup(BackupOptions),
    /// Looks into a log without changing it.
    #[command(subcommand)]
    Log(LogCommand),
    /// Serves a storage unit of a log that is spread over processes.
    Unit(UnitOptions),
    /// Serves a sequencer, which gives out the positions of such a log.
    Sequencer(SequencerOptions),
    /// Serves the projection store, where a cluster is found.
    Projections(ProjectionsOptions),
    /// Starts and changes clusters of units.
    #[command(subcommand)]
    Cluster(ClusterCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Prints the entries of a log, decoded, as one JSON object a line.
    Dump(DumpOptions),
    /// Reads and checks every byte of a log and of the checkpoints beside it, and tells the position of the first bad
    /// entry, if there is one, and which checkpoints cannot be used.
    Verify {
        /// The log's directory, or that of a cluster's unit.
        directory: PathBuf,
    },
}

/// The workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// TPC-C's five transactions at full speed, without keying and thinking times.
    Tpcc,
    /// YCSB A: half reads, half updates.
    YcsbA,
    /// YCSB B: 95 % reads, 5 % updates.
    YcsbB,
    /// YCSB C: reads.
    YcsbC,
    /// YCSB D: 95 % reads of the latest records, 5 % inserts.
    YcsbD,
    /// YCSB E: 95 % scans of up to 100 records, 5 % inserts.
    YcsbE,
    /// YCSB F: half reads, half read-modify-writes.
    YcsbF,
    /// SmallBank's six transactions on savings and checking accounts.
    #[value(name = "smallbank")]
    SmallBank,
    /// Transfers between two accounts.
    Transfer,
    /// Appends to lists and reads of them, with a history for checkers of isolation.
    ListAppend,
}

impl Name {
    pub(crate) fn text(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Who says what a workload's transactions will touch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FootprintsName {
    /// The transactions do.
    #[default]
    Declared,
    /// They do not: the engine runs them ahead, or infers it from their arguments.
    Found,
}

/// When a transaction is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Durability {
    /// When it is in memory; needs the log in memory.
    Memory,
    /// When the operating system has it: survives the process.
    Buffered,
    /// When the disk has it: survives power loss.
    Flushed,
}

impl From<Durability> for mixlog::log::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Memory => Self::Memory,
            Durability::Buffered => Self::Buffered,
            Durability::Flushed => Self::Flushed,
        }
    }
}

/// Where a log lies: what some options mean depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Memory,
    Directory,
    Cluster,
}

impl Place {
    /// Where the log is that is named so; without a name it is in a temporary directory.
    pub(crate) fn of(log: Option<&Path>, durability: Option<Durability>) -> Self {
        match log {
            Some(log) if is_meant(log) => Self::Cluster,
            Some(log) if log == Path::new("memory") => Self::Memory,
            None if durability == Some(Durability::Memory) => Self::Memory,
            _ => Self::Directory,
        }
    }
}

/// How windows are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeName {
    /// Always mixed, and on all threads.
    Parallel,
    /// One by one.
    Sequential,
    /// Whatever wins, window by window.
    Auto,
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Parallel => Self::Parallel,
            ModeName::Sequential => Self::Sequential,
            ModeName::Auto => Self::Auto,
        }
    }
}

/// How an engine executes: none of this changes a result.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct EngineOptions {
    /// Threads that execute [default: one per core]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Entries that are mixed together at most, 1 to 4096
    #[arg(long, value_name = "W", default_value_t = 256)]
    pub(crate) window: u32,
    /// How windows are executed
    #[arg(long, value_enum, default_value_t = ModeName::Auto)]
    pub(crate) mode: ModeName,
    /// Run one transaction in N twice (all of them without N), and fail with exit code 5 at the first one that does
    /// two things from the same state
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) paranoid: Option<u32>,
    /// Tell which keys and tables made transactions wait, looking at every mixed window, or at every N-th
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "1",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) explain: Option<u32>,
}

impl EngineOptions {
    /// What goes behind everything else that is printed, if it was asked for.
    pub(crate) fn explained(&self, explain: impl FnOnce() -> Explanation) -> String {
        self.explain.map_or_else(String::new, |_| format!("\n{}", explain()))
    }

    pub(crate) fn apply(&self, builder: mixlog::Builder) -> mixlog::Builder {
        let builder = builder.window(self.window).mode(self.mode.into());
        let builder = builder.paranoid(self.paranoid.unwrap_or(0)).explain(self.explain.unwrap_or(0));
        match self.threads {
            Some(threads) => builder.threads(threads),
            None => builder,
        }
    }
}

/// Comparing digests with other processes that execute the same log.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Members of one log")]
pub(crate) struct MemberOptions {
    /// What this one is called among those that compare digests through the log. One that is not among the members
    /// casts no vote, and compares all the same
    #[arg(long, value_name = "NAME", requires = "members")]
    pub(crate) member: Option<String>,
    /// What all that vote are called: the same list for each of them
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', requires = "member")]
    pub(crate) members: Vec<String>,
}

impl MemberOptions {
    /// Who this one is, if it is one of several.
    pub(crate) fn membership(&self) -> Result<Option<Membership>, Failure> {
        let Some(name) = &self.member else { return Ok(None) };
        let mut names = self.members.clone();
        names.sort_unstable();
        names.dedup();
        if names.len() < 2 || names.len() != self.members.len() || names[0].is_empty() || name.is_empty() {
            return Err(Failure::Refused(format!(
                "--members names two or more different members, as in --members a,b,c, and not {:?}",
                self.members.join(",")
            )));
        }
        Ok(Some(Membership::new(name, self.members.clone())))
    }
}

/// Answering when several members came to the same result.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Members of one log")]
pub(crate) struct AgreeOptions {
    #[command(flatten)]
    pub(crate) member: MemberOptions,
    /// Wait until so many members agree: apply with each answer, run at its end. Entries that do nothing are appended
    /// where that makes them vote sooner
    #[arg(long, value_name = "K", requires = "member", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) agree: Option<u16>,
    /// Fail with exit code 4 when they have not agreed on an answer, or at the end of the run, for so many seconds
    /// [default: wait for ever]
    #[arg(long, value_name = "S", value_parser = patience, allow_hyphen_values = true, requires = "agree")]
    pub(crate) within: Option<f64>,
}

impl AgreeOptions {
    /// Who this one is, and how many are to agree.
    pub(crate) fn membership(&self, place: Place) -> Result<Option<(Membership, Option<usize>)>, Failure> {
        let Some(membership) = self.member.membership()? else { return Ok(None) };
        match self.agree {
            _ if place == Place::Memory => Err(Failure::Refused(
                "--member does not go with a log in memory: no other member can read it".to_owned(),
            )),
            Some(agree) if agree > 1 && place == Place::Directory => Err(Failure::Refused(format!(
                "--agree {agree} does not go with a log in a directory: no other member can vote while this one has it \
                 open. Members share a log on a cluster: --log corfu://HOST:PORT"
            ))),
            Some(agree) if place == Place::Directory && !membership.members.contains(&membership.name) => {
                Err(Failure::Refused(format!(
                    "--agree {agree} does not go with a log in a directory and --member {:?}, who is not among --members: \
                     nobody votes while this one has it open",
                    membership.name
                )))
            }
            Some(agree) if usize::from(agree) > membership.members.len() => Err(Failure::Refused(format!(
                "{agree} members cannot agree: there are {}",
                membership.members.len()
            ))),
            agree => Ok(Some((membership, agree.map(usize::from)))),
        }
    }
}

const RUN_EXAMPLES: &str = "Examples:
  mixlog run tpcc
  mixlog run tpcc --warehouses 8 --threads 4 --seconds 30 --json report.json
  mixlog run ycsb-a --records 100000 --operations 10 --theta 0.9 --transactions 1000000
  mixlog run smallbank --accounts 18000 --hot 0.9
  mixlog run transfer --hot 0.5 --log /var/tmp/bank --durability buffered
  mixlog run list-append --keys 5 --transactions 100000 --clients 4 --history history.jsonl
  mixlog run tpcc --log memory --mode sequential
  mixlog run tpcc --log corfu://127.0.0.1:4500
  mixlog run tpcc --explain
  mixlog run tpcc --footprints found --explain
  mixlog run tpcc --paranoid 100
  mixlog run tpcc --log /var/tmp/tpcc --checkpoint-seconds 5 --progress 100

The same log can be run on again: its state is rebuilt first. Ctrl-C, or SIGTERM, ends a run early, with the
report of what was done, and then by the signal (a shell shows 130 or 143); the second one ends it at once.
Exit codes: mixlog --help.";

#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub(crate) struct RunOptions {
    /// Which workload
    #[arg(value_enum)]
    pub(crate) workload: Name,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    /// Submit for so many seconds [default: 10]
    #[arg(long, value_name = "S", conflicts_with = "transactions", value_parser = seconds, allow_hyphen_values = true)]
    pub(crate) seconds: Option<f64>,
    /// Submit so many transactions, instead of --seconds
    #[arg(long, value_name = "N")]
    pub(crate) transactions: Option<u64>,
    /// Seed of population and transactions
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Who says what transactions will touch: it changes speed and no result
    #[arg(long, value_enum, default_value_t = FootprintsName::Declared)]
    pub(crate) footprints: FootprintsName,
    /// The log's directory, made if missing, "memory", or a cluster: corfu://HOST:PORT,.. or
    /// corfu+etcd://HOST:PORT,../PREFIX [default: a temporary directory]
    #[arg(long, value_name = "DIR|memory|CLUSTER")]
    pub(crate) log: Option<PathBuf>,
    /// When a transaction is acknowledged [default: flushed, or memory for a log in memory]
    #[arg(long, value_enum)]
    pub(crate) durability: Option<Durability>,
    /// Threads that submit, 1 to 1024
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) clients: u32,
    /// Transactions that each of them keeps in flight
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub(crate) in_flight: usize,
    /// Write the report as a JSON object to this file, "-" for stdout
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Print how many transactions were acknowledged, and the highest position of them, a line on stderr every so many
    /// milliseconds
    #[arg(long, value_name = "MS", num_args = 0..=1, default_missing_value = "1000", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) progress: Option<u64>,
    #[command(flatten)]
    pub(crate) keep: KeepOptions,
    #[command(flatten)]
    pub(crate) on_cluster: OnClusterOptions,
    #[command(flatten)]
    pub(crate) agree: AgreeOptions,
    #[command(flatten)]
    pub(crate) workload_options: WorkloadOptions,
}

/// Options that belong to single workloads.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct WorkloadOptions {
    /// tpcc: warehouses [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub(crate) warehouses: Option<u32>,
    /// tpcc: 200 items and 30 customers a district, for tests
    #[arg(long)]
    pub(crate) small: bool,
    /// ycsb: records [default: 1000000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=1 << 32))]
    pub(crate) records: Option<u64>,
    /// ycsb: bytes per record, a multiple of 10; ycsb-e has 100 or 1000 [default: 1000]
    #[arg(long, value_name = "BYTES")]
    pub(crate) value_size: Option<u32>,
    /// ycsb: operations per transaction [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) operations: Option<u32>,
    /// ycsb: skew, from 0 (uniform) to below 1 [default: 0.99]
    #[arg(long, value_name = "THETA")]
    pub(crate) theta: Option<f64>,
    /// transfer: accounts [default: 100000]; smallbank: customers [default: 1000000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=1 << 32))]
    pub(crate) accounts: Option<u64>,
    /// transfer: probability, 0 to 1, that one side is always the same account; smallbank: that the customers are
    /// hot ones [default: 0]
    #[arg(long, value_name = "P")]
    pub(crate) hot: Option<f64>,
    /// smallbank: hot customers [default: 1000]
    #[arg(long, value_name = "N")]
    pub(crate) hot_accounts: Option<u64>,
    /// list-append: keys in use at a time [default: 10]
    #[arg(long, value_name = "N")]
    pub(crate) keys: Option<u64>,
    /// list-append: operations of a transaction, at most [default: 4]
    #[arg(long, value_name = "N")]
    pub(crate) max_ops: Option<u32>,
    /// list-append: appends to a key before another takes its place [default: 64]
    #[arg(long, value_name = "N")]
    pub(crate) max_writes_per_key: Option<u32>,
    /// list-append: share of transactions, 0 to 1, that abort after all their operations [default: 0]
    #[arg(long, value_name = "P")]
    pub(crate) abort: Option<f64>,
    /// list-append: write what clients saw to this file, one JSON object for each transaction; "-" for stdout
    #[arg(long, value_name = "FILE")]
    pub(crate) history: Option<PathBuf>,
}

const APPLY_FORMAT: &str = r#"Each line on stdin is one transaction, and each is answered by one line on stdout, in the same
order, which is the log's, once it is durable and committed:

  {"id": "c1-17", "ops": [["put", "t", "k", "v"], ["get", "t", "k"]]}
  {"id":"c1-17","position":[1,0],"status":"committed","results":[null,"v"]}

ops are done in order, all or none, and see what those before them did:

  ["get", table, key]                the value, or null
  ["put", table, key, value]         null; to put null is to delete
  ["delete", table, key]             whether there was a value
  ["add", table, key, integer]       the sum, 64 bits with sign, wrapping; nothing counts as 0
  ["append", table, key, value]      the new length of the list; nothing counts as an empty one
  ["cas", table, key, old, new]      whether the value was old, and so is new now; null is nothing
  ["scan", table, from, to, limit]   [[key, value], ...] with keys in [from, to), in byte order
  ["abort_if", table, key, value]    null, or the transaction aborts as the value is this one
  ["merge_add", table, key, integer] null: an add that does not tell the sum

id (optional, a string): the same id again, even after a crash, changes nothing and is answered
with the first answer, whether that was "committed" or "aborted". So send again whatever was not
answered. Transactions without an id are answered with "id":null, and not remembered.

footprint (optional): "exact" (the default), "none", or [[table, key, "read" or "write"], ...].
A hint to the engine that changes speed and no result.

A transaction that aborts changes nothing; its answer has "results":[] and a "reason". An add,
append or merge_add to a value of another type aborts. position is [entry of the log, 0].

Limits: values nest at most 100 deep, lists that are appended to as well. All results of a
transaction take at most 64 MiB, and so does a stored value, where each value and each key in an
object counts 32 bytes and texts count theirs; an operation that would exceed that aborts.

A line that is no transaction (not JSON, not UTF-8, longer than 1 MiB, an unknown field or
operation, a key twice in one object ..) is answered in its place by {"line":3,"error":"..."},
changes nothing, and stops nothing. Empty lines are skipped, but counted.

All lines can be written before an answer is read, as long as the answers take at most 64 MiB;
with more unread than that, no more lines are read.

Examples:
  mixlog apply --log /var/tmp/store < transactions.jsonl > answers.jsonl
  echo '{"ops": [["add", "counters", "visits", 1]]}' | mixlog apply --log /var/tmp/store
  mixlog apply --log /var/tmp/store --durability buffered --threads 2

The log is made if missing, and can be gone on with later. Exit codes: mixlog --help."#;

#[derive(Debug, Args)]
#[command(after_help = APPLY_FORMAT)]
pub(crate) struct ApplyOptions {
    /// The log's directory, made if missing, "memory", or a cluster: corfu://HOST:PORT,.. or
    /// corfu+etcd://HOST:PORT,../PREFIX
    #[arg(long, value_name = "DIR|memory|CLUSTER")]
    pub(crate) log: PathBuf,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    /// When a transaction is answered [default: flushed, or memory for a log in memory]
    #[arg(long, value_enum)]
    pub(crate) durability: Option<Durability>,
    #[command(flatten)]
    pub(crate) keep: KeepOptions,
    #[command(flatten)]
    pub(crate) on_cluster: OnClusterOptions,
    #[command(flatten)]
    pub(crate) agree: AgreeOptions,
}

const STATE_EXAMPLES: &str = "Examples:
  mixlog dump --log /var/tmp/store
  mixlog dump --log /var/tmp/store --at 17
  mixlog digest --log /var/tmp/store --at 17
  mixlog digest --log /var/tmp/bank --threads 1 --mode sequential

dump prints tables and keys in the order of their bytes, without spaces, and the keys of every
object sorted: equal states give equal output. Nothing is written to the log.";

#[derive(Debug, Args)]
#[command(after_help = STATE_EXAMPLES)]
pub(crate) struct StateOptions {
    /// The log's directory, or a cluster: corfu://HOST:PORT,.. or corfu+etcd://HOST:PORT,../PREFIX
    #[arg(long, value_name = "DIR|CLUSTER")]
    pub(crate) log: PathBuf,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    /// The position after which to look [default: the last one of the log]
    #[arg(long, value_name = "POSITION", value_parser = position, allow_hyphen_values = true)]
    pub(crate) at: Option<Position>,
    #[command(flatten)]
    pub(crate) on_cluster: OnClusterOptions,
}

const REPLAY_EXAMPLES: &str = "Examples:
  mixlog replay --log /var/tmp/bank
  mixlog replay --log /var/tmp/bank --threads 1 --mode sequential --to 4095
  mixlog replay --log /var/tmp/bank --mode parallel --explain
  mixlog replay --log /var/tmp/bank --expect 0f..-3a..
  mixlog replay --log /var/tmp/bank --paranoid
  mixlog replay --log /var/tmp/bank --from-checkpoint

A log that was trimmed is executed from the oldest checkpoint on that is whole.";

#[derive(Debug, Args)]
#[command(after_help = REPLAY_EXAMPLES)]
pub(crate) struct ReplayOptions {
    /// The log's directory, or a cluster: corfu://HOST:PORT,.. or corfu+etcd://HOST:PORT,../PREFIX
    #[arg(long, value_name = "DIR|CLUSTER")]
    pub(crate) log: PathBuf,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    /// The last position to execute [default: the last one of the log]
    #[arg(long, value_name = "POSITION", value_parser = position, allow_hyphen_values = true)]
    pub(crate) to: Option<Position>,
    /// Start at the newest checkpoint, and not as early as possible
    #[arg(long)]
    pub(crate) from_checkpoint: bool,
    /// Fail with exit code 5 unless this is the digest
    #[arg(long, value_name = "DIGEST")]
    pub(crate) expect: Option<String>,
    #[command(flatten)]
    pub(crate) on_cluster: OnClusterOptions,
}

const CHECKPOINT_EXAMPLES: &str = "Examples:
  mixlog checkpoint --log /var/tmp/bank
  mixlog checkpoint --log /var/tmp/bank --keep-checkpoints 1
  mixlog checkpoint --log corfu://127.0.0.1:4500 --beside /var/tmp/bank-checkpoints
  mixlog checkpoint --log corfu://127.0.0.1:4500 --beside /var/tmp/bank-checkpoints --keep-log

A log in a directory must not be open elsewhere. Programs that have one open take checkpoints themselves: see
mixlog run --help, and Engine::checkpoint.

A log on a cluster may be followed meanwhile, by mixlog replica for example. It is trimmed before the oldest checkpoint
that is kept, here: a follower that has not read it that far goes on from a newer checkpoint in its own --beside DIR, and
stops if there is none. With --keep-log nothing is trimmed: mixlog cluster trim does that later, when all have said that
they are further.";

#[derive(Debug, Args)]
#[command(after_help = CHECKPOINT_EXAMPLES)]
pub(crate) struct CheckpointOptions {
    /// The log's directory, or a cluster: corfu://HOST:PORT,.. or corfu+etcd://HOST:PORT,../PREFIX
    #[arg(long, value_name = "DIR|CLUSTER")]
    pub(crate) log: PathBuf,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    #[command(flatten)]
    pub(crate) retain: RetainOptions,
    #[command(flatten)]
    pub(crate) on_cluster: OnClusterOptions,
}

const REPLICA_EXAMPLES: &str = "Examples:
  mixlog replica --log /var/tmp/bank
  mixlog replica --log /var/tmp/bank --replicas 5
  mixlog replica --log corfu://127.0.0.1:4500 --member b --members a,b,c
  mixlog replica --log corfu://127.0.0.1:4500 --member b --members a,b,c --once --within 60
  mixlog replica --log corfu://127.0.0.1:4500 --member b --members a,b,c --beside /var/tmp/of-b
  mixlog run tpcc --log corfu://127.0.0.1:4500 --member a --members a,b,c --agree 2

Without --member all replicas are in this process, each with a number of threads and a window of its
own: the first has those asked for, the others 1, 2, 3 .. threads. They start from the newest
checkpoint, execute the rest of the log, and append their digests to it. One that differs from most
of them is named, with tables and keys, replays one by one, and stops if it still differs: then the
exit code is 5. A log in a directory must not be open elsewhere.

With --member this process is one replica of several, on a cluster's log: it follows what the others
append and votes on it, until it is stopped. It waits for the log's first entry, and says how far it
is when that changes. A replica that was killed is started again with the same name.

It starts from the newest checkpoint in the directory that --beside names, if the members' votes do
not speak against it, and takes none itself: mixlog run and apply do, with --beside, and mixlog
checkpoint. So --member refuses --checkpoint-bytes, --checkpoint-seconds, --keep-checkpoints and
--keep-log. Where the log was trimmed, it needs a copy of one of theirs
(DIR/checkpoints/checkpoint-*).

With --once it ends when all members agree on what was in the log when it started. So all of them have to
run: what it waits for it says after some seconds, and with --within it gives up. Only on a cluster can
there be others: a log in a directory is read by one process at a time.

With --explain, those that end say what made transactions wait: without --member the first of them,
with --member one that is run with --once.

One that differs from most of the members says so, with position, tables and keys, and builds its
state anew, one by one, from an earlier checkpoint or the start of the log. If that is what the others
have, a line tells what was repaired. Otherwise it ends with exit code 5, and says how it is rebuilt.";

#[derive(Debug, Args)]
#[command(after_help = REPLICA_EXAMPLES)]
pub(crate) struct ReplicaOptions {
    /// The log's directory, or a cluster: corfu://HOST:PORT,.. or corfu+etcd://HOST:PORT,../PREFIX
    #[arg(long, value_name = "DIR|CLUSTER")]
    pub(crate) log: PathBuf,
    /// How many replicas there are; with 3 or more, one that differs is told from the others
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=16), conflicts_with = "member")]
    pub(crate) replicas: u8,
    #[command(flatten)]
    pub(crate) member: MemberOptions,
    /// End when all members agree on what is in the log now
    #[arg(long, requires = "member")]
    pub(crate) once: bool,
    /// Fail with exit code 4 when they have not agreed for so many seconds [default: wait for ever]
    #[arg(long, value_name = "S", value_parser = patience, allow_hyphen_values = true, requires = "once")]
    pub(crate) within: Option<f64>,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    #[command(flatten)]
    pub(crate) keep: KeepOptions,
    #[command(flatten)]
    pub(crate) on_cluster: OnClusterOptions,
}

const BACKUP_EXAMPLES: &str = "Examples:
  mixlog backup /var/tmp/bank /mnt/backups/bank-monday
  mixlog digest --log /mnt/backups/bank-monday

Somebody may be writing to the log meanwhile: everything that was acknowledged before the command
started is in the copy. The copy keeps the log's identity: it stands in for the original, and is
not to be written to beside it.

It is made in TO.unfinished, and gets its name when all of it is on the disk. What an attempt that
was killed left there is removed by the next one. Refused: a second backup to the same place at the
same time, and a TO.unfinished that no backup left.";

#[derive(Debug, Args)]
#[command(after_help = BACKUP_EXAMPLES)]
pub(crate) struct BackupOptions {
    /// The log's directory
    pub(crate) directory: PathBuf,
    /// The copy, where nothing may be
    pub(crate) to: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DumpOptions {
    /// The log's directory, or a cluster: corfu://HOST:PORT,.. or corfu+etcd://HOST:PORT,../PREFIX
    pub(crate) directory: PathBuf,
    /// The first position to print
    #[arg(long, value_name = "POSITION", value_parser = position, allow_hyphen_values = true)]
    pub(crate) from: Option<Position>,
    /// The last position to print
    #[arg(long, value_name = "POSITION", value_parser = position, allow_hyphen_values = true)]
    pub(crate) to: Option<Position>,
    #[command(flatten)]
    pub(crate) on_cluster: OnClusterOptions,
}

fn position(text: &str) -> Result<Position, String> {
    text.parse().map(Position).map_err(|_| "a position is a whole number from 0".to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if seconds.is_finite() && (0.0..=1e9).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("from 0 to a billion seconds".to_owned())
    }
}

/// Seconds for which somebody is waited for: without any nobody could answer.
fn patience(text: &str) -> Result<f64, String> {
    seconds(text)
        .ok()
        .filter(|seconds| *seconds >= 0.001)
        .ok_or_else(|| "from 0.001 to a billion seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Arguments;

    #[test]
    fn arguments_definition_is_consistent() {
        Arguments::command().debug_assert();
    }
}
