//! `mixlog cluster`: look at a cluster of units, and change it.

use std::fmt::{Display, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use mixlog::log::corfu::{
    self, Change, Config, CorfuLog, Home, Join, Listings, Member, Monitor, MonitorConfig, MonitorError,
    NetError, Node, Projection, Reconfigured, Reply, ReplyTo, Request, SequencerNumber, SequencerReply,
    SequencerRequest, SequencerVerb, StoreBehind, TcpTransport, Timing, TransferError, Transport, UnitNumber,
    UnitReply, UnitRequest, UnitVerb,
};
use mixlog::log::{LogId, SharedLog};

use super::arguments::{ClusterCommand, ClusterOptions, OnClusterOptions};
use super::failure::Failure;
use super::run::print_to_stdout;
use super::say::say;

/// How long a command waits for the cluster, unless it is told.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How long is waited before it is looked again for a cluster that is not up yet.
const AGAIN: Duration = Duration::from_millis(100);

/// Positions in a stripe of a new log: a batch has at most as many entries.
pub(super) const WIDTH: u32 = 1 << 16;

/// Whether a log's name means a cluster, well or not: also other addresses, which are no directories either.
pub(super) fn is_meant(log: &Path) -> bool {
    log.to_str().is_some_and(|name| Home::is_meant(name) || name.contains("://"))
}

/// The home of the cluster that a log's name means; `None` if it means something else.
pub(super) fn named(log: &Path) -> Option<Result<Home, Failure>> {
    log.to_str().filter(|_| is_meant(log)).map(|name| Ok(name.parse()?))
}

/// A cluster, and its latest projection.
pub(super) struct Cluster {
    pub(super) tcp: Arc<TcpTransport>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) timing: Timing,
    patience: Duration,
}

/// Waiting for a cluster that is not up yet, as long as there is patience.
struct Wait {
    begun: Instant,
    patience: Duration,
    told: bool,
}

impl Wait {
    fn new(patience: Duration) -> Self {
        Self { begun: Instant::now(), patience, told: false }
    }

    /// Waits for a while, and says why the first time; false if the patience is over.
    fn again(&mut self, why: &dyn Display) -> bool {
        let left = self.patience.saturating_sub(self.begun.elapsed());
        if left.is_zero() {
            return false;
        }
        if !self.told {
            say(format_args!("{why}; trying again for {:?}", self.patience));
            self.told = true;
        }
        thread::sleep(AGAIN.min(left));
        true
    }
}

impl Cluster {
    /// The cluster at `home`, which is waited for.
    pub(super) fn connect(home: &Home, patience: Duration) -> Result<Self, Failure> {
        let mut wait = Wait::new(patience);
        loop {
            match Self::reach(home, patience) {
                Err(error) if !error.may_pass() => return Err(error.into()),
                Err(error) if wait.again(&error) => {}
                Err(error) => {
                    return Err(Failure::Io(format!("{error}; given up after {patience:?} of trying")));
                }
                Ok(cluster) => return Ok(cluster),
            }
        }
    }

    /// The same, if it is there now.
    fn reach(home: &Home, patience: Duration) -> Result<Self, NetError> {
        let timing = Timing::default();
        let tcp = TcpTransport::connect(home, &timing)?;
        Ok(Self { transport: Arc::<TcpTransport>::clone(&tcp), tcp, timing, patience })
    }

    /// The latest projection, if there is one.
    pub(super) fn latest(&self) -> Result<Option<Arc<Projection>>, Failure> {
        corfu::latest(&*self.transport, &self.timing, self.patience).ok_or_else(no_store)
    }

    fn projection(&self) -> Result<Arc<Projection>, Failure> {
        self.latest()?.ok_or_else(|| Failure::Refused(NOT_FOUNDED.to_owned()))
    }

    /// The latest projection; one that is being founded is waited for.
    fn awaited(&self) -> Result<Arc<Projection>, Failure> {
        let mut wait = Wait::new(self.patience);
        loop {
            match self.latest()? {
                Some(latest) => {
                    // Its units were announced meanwhile.
                    if wait.told {
                        self.tcp.listings()?;
                    }
                    return Ok(latest);
                }
                None if wait.again(&NOT_FOUNDED) => {}
                None => return Err(Failure::Refused(NOT_FOUNDED.to_owned())),
            }
        }
    }

    /// Founds a log, or goes on with what somebody who was interrupted had begun.
    pub(super) fn founded(
        &self,
        chains: Vec<Vec<UnitNumber>>,
        sequencer: SequencerNumber,
    ) -> Result<Arc<Projection>, Failure> {
        // Before there is anything of it.
        let change = Change::grow(chains.clone());
        if let Err(error) = Projection::blank(LogId(0), WIDTH).check_change(&change) {
            return Err(Failure::Refused(error.to_string()));
        }
        let log = corfu::name(&*self.transport, &self.timing, LogId::random(), self.patience);
        let log = log.ok_or_else(no_store)?;
        // A unit that has joined is of this log for ever. So nobody is asked to join before all of them answer.
        let mut nodes: Vec<Node> = chains.iter().flatten().copied().map(Node::Unit).collect();
        nodes.push(Node::Sequencer(sequencer));
        let blank = Projection::blank(log, WIDTH);
        let asked: Vec<_> = nodes.into_iter().map(|node| (node, ask(self, &blank, node))).collect();
        for (node, answer) in asked {
            if !matches!(answer.recv_timeout(self.timing.answer), Ok(Some(_))) {
                return Err(Failure::Io(format!(
                    "{node} does not answer: does it run, and is it of no other log than {log}? Nothing was changed; try again"
                )));
            }
        }
        let patience = Some(self.patience);
        match corfu::found(&self.transport, &self.timing, log, chains, sequencer, WIDTH, patience) {
            Some(Reconfigured::Overtaken(latest)) => Err(Failure::Refused(format!(
                "there is a cluster already, of log {} and in epoch {}: mixlog cluster add and remove change it",
                latest.log, latest.epoch
            ))),
            founded => made(founded),
        }
    }

    pub(super) fn changed(&self, from: Arc<Projection>, change: Change) -> Result<Arc<Projection>, Failure> {
        made(corfu::reconfigure(&self.transport, &self.timing, from, change, Some(self.patience)))
    }

    /// Changes the projection, copies to who joins, and prints what came of it.
    fn change(&self, change: Change) -> Result<(), Failure> {
        let mut latest = self.changed(self.projection()?, change)?;
        if !latest.joining().is_empty() {
            say(format_args!("epoch {}; copying to units that join", latest.epoch));
            let copied = corfu::transfer(&self.transport, &self.timing, latest, Some(self.patience));
            latest = copied.map_err(|error| match error {
                TransferError::Lost(_) => Failure::Corrupt(error.to_string()),
                TransferError::Unavailable => Failure::Io(error.to_string()),
            })?;
        }
        print_to_stdout(&latest.to_string())
    }

    /// Watches the cluster until the monitor is dropped.
    pub(super) fn watch(&self, replicas: u32) -> Result<Monitor, Failure> {
        let tcp = Arc::clone(&self.tcp);
        let candidates = move || tcp.listings().map(|all| all.into_keys().collect()).unwrap_or_default();
        let config = MonitorConfig { replicas: replicas as usize, ..MonitorConfig::default() };
        Monitor::start(Arc::clone(&self.transport), config, candidates, |event| {
            let _ = print_to_stdout(&format!("{event}\n"));
        })
        .map_err(|error| match error {
            MonitorError::Configuration(text) => Failure::Refused(text),
            error => Failure::Io(error.to_string()),
        })
    }
}

const NOT_FOUNDED: &str = "the cluster has no projection yet: mixlog cluster found makes one";

fn no_store() -> Failure {
    Failure::Io("the projection store could not be reached in time".to_owned())
}

fn made(reconfigured: Option<Reconfigured>) -> Result<Arc<Projection>, Failure> {
    match reconfigured {
        Some(Reconfigured::Installed(projection)) => Ok(projection),
        Some(Reconfigured::Overtaken(projection)) => Err(Failure::Refused(format!(
            "somebody else has changed the cluster meanwhile; it is in epoch {} now: look, and try again",
            projection.epoch
        ))),
        Some(Reconfigured::Impossible(error)) => Err(Failure::Refused(error.to_string())),
        Some(Reconfigured::NotJoined(member)) => Err(Failure::Io(format!(
            "unit {} did not join: does it run, and is it of no other log?",
            member.unit
        ))),
        Some(Reconfigured::NoSequencer(number)) => {
            Err(Failure::Io(format!("sequencer {number} does not answer")))
        }
        Some(Reconfigured::StoreBehind(behind)) => Err(Failure::Corrupt(behind.to_string())),
        None => Err(Failure::Io("the change could not be made in time; it may be yet".to_owned())),
    }
}

/// The log of the cluster that is named, or `None` if nothing is, or the name means something else.
pub(super) fn named_log(
    name: Option<&Path>,
    options: &OnClusterOptions,
) -> Result<Option<Arc<dyn SharedLog>>, Failure> {
    match name.and_then(named) {
        Some(home) => {
            let patience = options.patience.map_or(PATIENCE, Duration::from_secs_f64);
            let beside = options.beside.clone();
            log(&home?, Config { patience, beside, ..Config::default() }).map(Some)
        }
        None if options.beside.is_some() => Err(Failure::Refused(
            "--beside is for logs on clusters: a log in a directory keeps its checkpoints there".to_owned(),
        )),
        None if options.patience.is_some() => Err(Failure::Refused(
            "--patience is for logs on clusters: others are in this process, or on its disk".to_owned(),
        )),
        None => Ok(None),
    }
}

/// The log of a cluster.
fn log(home: &Home, config: Config) -> Result<Arc<dyn SharedLog>, Failure> {
    let cluster = Cluster::connect(home, config.patience)?;
    let durability = cluster.tcp.durability(&*cluster.awaited()?);
    let config = Config { durability, ..config };
    Ok(Arc::new(CorfuLog::connect(cluster.transport, config)?))
}

fn open(options: &ClusterOptions) -> Result<Cluster, Failure> {
    Cluster::connect(&options.log, PATIENCE)
}

fn chain(text: &str) -> Result<Vec<UnitNumber>, Failure> {
    let numbers: Result<Vec<_>, _> =
        text.split(',').map(|number| number.trim().parse().map(UnitNumber)).collect();
    numbers
        .map_err(|_| Failure::Refused(format!("{text:?} is no chain: units are numbers with commas between")))
}

/// Does what is asked about a cluster that is there.
pub(crate) fn run(command: &ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Up(_) => unreachable!("it has a module of its own"),
        ClusterCommand::Found { cluster, chain: chains, sequencer } => {
            let chains = chains.iter().map(|text| chain(text)).collect::<Result<_, _>>()?;
            let projection = open(cluster)?.founded(chains, SequencerNumber(*sequencer))?;
            print_to_stdout(&projection.to_string())
        }
        // Who wants to know how it is wants to know it now.
        ClusterCommand::Status(cluster) => status(&Cluster::reach(&cluster.log, Timing::default().answer)?),
        ClusterCommand::Add { cluster, unit: Some(unit), beside: Some(beside), .. } => {
            let join = Join { beside: UnitNumber(*beside), unit: UnitNumber(*unit) };
            open(cluster)?.change(Change { joins: vec![join], ..Change::default() })
        }
        ClusterCommand::Add { cluster, chain: text, .. } => {
            let text = text.as_deref().unwrap_or_default();
            open(cluster)?.change(Change::grow(vec![chain(text)?]))
        }
        ClusterCommand::Remove { cluster, unit, replacement } => {
            let lost = UnitNumber(*unit);
            let cluster = open(cluster)?;
            if cluster.projection()?.member(lost).is_none() {
                return Err(Failure::Refused(format!("there is no unit {lost} in the cluster")));
            }
            cluster.change(match replacement {
                Some(unit) => Change::replace(lost, UnitNumber(*unit)),
                None => Change::remove(lost),
            })
        }
        ClusterCommand::Trim { cluster, before } => {
            let log = log(&cluster.log, Config::default())?;
            let tail = log.tail()?;
            if *before > tail.tail {
                return Err(Failure::Refused(format!(
                    "the log ends at {}: what comes after that cannot be trimmed before it is there",
                    tail.tail
                )));
            }
            log.trim(*before)?;
            let tail = log.tail()?;
            print_to_stdout(&format!("head {}\ntail {}\n", tail.head, tail.tail))
        }
        ClusterCommand::Monitor { cluster, replicas } => {
            let cluster = open(cluster)?;
            let epoch = cluster.awaited()?.epoch;
            print_to_stdout(&format!("watching the cluster from epoch {epoch} on\n"))?;
            let _monitor = cluster.watch(*replicas)?;
            loop {
                thread::park();
            }
        }
    }
}

/// Prints the projection, and what each role says of itself.
fn status(cluster: &Cluster) -> Result<(), Failure> {
    let projection = cluster.projection()?;
    let listings: Listings = cluster.tcp.listings()?;
    let mut nodes: Vec<Node> = listings.keys().copied().collect();
    nodes.extend(projection.members().iter().map(|member| Node::Unit(member.unit)));
    nodes.extend(projection.sequencer.map(|(number, _)| Node::Sequencer(number)));
    nodes.sort_unstable();
    nodes.dedup();
    // All at once: one who is silent should not make it longer for each.
    let asked: Vec<_> = nodes.into_iter().map(|node| (node, ask(cluster, &projection, node))).collect();
    let mut text = projection.to_string();
    for (node, answer) in asked {
        let at =
            listings.get(&node).map_or_else(|| "nowhere".to_owned(), |listing| listing.address.to_string());
        let state = answer.recv_timeout(cluster.timing.answer).map_or_else(
            |_| "does not answer".to_owned(),
            |reply| describe(&projection, node, reply.as_ref()),
        );
        writeln!(text, "{node} at {at}: {state}").expect("a string takes everything");
    }
    print_to_stdout(&text)
}

fn ask(cluster: &Cluster, projection: &Projection, node: Node) -> mpsc::Receiver<Option<Reply>> {
    let epoch = projection.epoch;
    let request = match node {
        Node::Unit(unit) => {
            let member = projection.member(unit).unwrap_or(Member { unit, joined: corfu::Epoch::NONE });
            Request::Unit(UnitRequest { epoch, member, verb: UnitVerb::Probe })
        }
        _ => Request::Sequencer(SequencerRequest { epoch, verb: SequencerVerb::Tail }),
    };
    let (told, answer) = mpsc::channel();
    cluster.transport.send(node, request, ReplyTo::new(move |reply| drop(told.send(reply))));
    answer
}

fn describe(projection: &Projection, node: Node, reply: Option<&Reply>) -> String {
    let is_used = match node {
        Node::Unit(unit) => projection.member(unit).is_some(),
        Node::Sequencer(number) => projection.sequencer.is_some_and(|(current, _)| current == number),
        Node::Store => true,
    };
    if is_used
        && let Some(reply) = reply
        && let Some(behind) = StoreBehind::shown_by(projection.epoch, node, reply)
    {
        return format!(
            "epoch {}, which the projection store does not know: it holds an older copy",
            behind.epoch
        );
    }
    match reply {
        None => "does not answer".to_owned(),
        Some(Reply::Unit(UnitReply::Standing(standing))) => format!(
            "epoch {}, reach {}, trimmed {}, committed {}",
            standing.epoch, standing.reach, standing.trimmed, standing.committed
        ),
        Some(Reply::Unit(UnitReply::Stranger(_))) if !is_used => "spare".to_owned(),
        Some(Reply::Unit(UnitReply::Stranger(_))) => "has lost what it had".to_owned(),
        Some(Reply::Unit(UnitReply::Corrupt(_))) => "its files are damaged".to_owned(),
        Some(Reply::Unit(UnitReply::Sealed(epoch) | UnitReply::Behind(epoch))) => {
            format!("epoch {epoch}: the cluster is being changed")
        }
        Some(Reply::Sequencer(_)) if !is_used => "spare".to_owned(),
        Some(Reply::Sequencer(SequencerReply::Tail(tail))) => format!("tail {tail}"),
        Some(Reply::Sequencer(SequencerReply::NotStarted(_))) => "waits to be told where to start".to_owned(),
        Some(_) => "answers something else than it was asked for".to_owned(),
    }
}
