//! The monitor: finds out who is dead, and changes the projection without a person.
//!
//! In each round it asks every unit and the sequencer how they are, and everybody who could take their place.
//! Who is silent for some rounds in a row, was started again, or lost data, is replaced, or left out if there is
//! nobody to replace it; chains that are too short get another unit; units that join are copied to. Where the projection
//! store holds an older copy of what it had, nothing is changed (`behind.rs`).
//!
//! It may be wrong about who is dead: units are sealed before the projection changes, so who was only slow finds
//! itself left out, and does no harm. So there may be many monitors, or none: they decide when something is
//! changed, never whether that is safe.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::Position;

use super::administer::{self, TransferError};
use super::behind::StoreBehind;
use super::message::{
    Epoch, Member, Node, Reply, Request, SequencerNumber, SequencerReply, SequencerRequest, SequencerVerb,
    UnitNumber, UnitReply, UnitRequest, UnitVerb,
};
use super::plan::{Change, Join};
use super::projection::Projection;
use super::reconfigure::Reconfigured;
use super::transport::{ReplyTo, TIME_MIN, Timing, Transport, check_time};

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// How a cluster is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorConfig {
    /// How long a round takes at least; default 100 ms, at least 1 ms: who has not answered by then was silent.
    pub interval: Duration,
    /// After how many silent rounds in a row somebody counts as dead; default 5, at least 1. More: slow ones are left
    /// alone for longer, dead ones too.
    pub misses: u32,
    /// How many units a chain should have; default 2, at least 1.
    pub replicas: usize,
    /// How long a change may take, or a copy come no further, before it is begun again; default 30 s, at least
    /// 1 ms.
    pub patience: Duration,
    /// How long is waited for what else.
    pub timing: Timing,
}

impl Default for MonitorConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(100),
            misses: 5,
            replicas: 2,
            patience: Duration::from_secs(30),
            timing: Timing::default(),
        }
    }
}

impl MonitorConfig {
    /// The error says what makes no sense.
    fn check(&self) -> Result<(), String> {
        self.timing.check()?;
        check_time("interval", self.interval, TIME_MIN)?;
        check_time("patience", self.patience, TIME_MIN)?;
        if self.misses == 0 {
            return Err("misses is at least 1, and not 0: everybody would count as dead".to_owned());
        }
        if self.replicas == 0 {
            return Err("replicas is at least 1, and not 0: chains have units".to_owned());
        }
        Ok(())
    }
}

/// Why there is no monitor.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// The configuration makes no sense; the message says which field, and what would do.
    #[error("{0}")]
    Configuration(String),
    /// The operating system starts no thread.
    #[error("cannot start the monitor's thread: {0}")]
    Thread(#[from] io::Error),
}

/// Why a unit counts as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// It does not answer.
    Silent,
    /// It has nothing of what it had.
    Empty,
    /// Its files are damaged, and nobody knows what it lost.
    Damaged,
    /// It reaches less far than it did.
    Shrunk {
        /// How far it reaches.
        reach: Position,
        /// How far it did.
        before: Position,
    },
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("does not answer"),
            Self::Empty => f.write_str("has nothing of what it had"),
            Self::Damaged => f.write_str("has damaged files"),
            Self::Shrunk { reach, before } => {
                write!(
                    f,
                    "reaches position {reach}, and reached {before} before: are its files an older copy?"
                )
            }
        }
    }
}

/// What a monitor saw or did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MonitorEvent {
    /// It counts as dead.
    Dead(Node),
    /// It was dead, and answers again.
    Back(Node),
    /// The projection was changed.
    Changed {
        /// The new projection.
        projection: Arc<Projection>,
        /// How long that took, from the decision.
        took: Duration,
    },
    /// A change is needed, and cannot be made.
    Stuck(Reconfigured),
    /// A change is needed that would give up entries: no unit would be left that has them.
    Waiting {
        /// Where the segment starts whose chain is lost.
        position: Position,
        /// The chain's units that have its entries, and what is wrong with each.
        units: Vec<(UnitNumber, Trouble)>,
    },
    /// Something is wrong with a unit that is left where it is, since nobody else has what it still has.
    Spared(UnitNumber, Trouble),
    /// The projection store holds an older copy of what it had: nothing is changed until it has the newest one again.
    StoreBehind(StoreBehind),
    /// Units that join have everything.
    Copied(Epoch),
    /// Units that join cannot be copied to.
    NotCopied(TransferError),
}

impl fmt::Display for MonitorEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dead(node) => write!(f, "{node} does not answer"),
            Self::Back(node) => write!(f, "{node} answers again"),
            Self::Changed { projection, took } => {
                let open: Vec<String> = projection.open().chains.iter().map(ToString::to_string).collect();
                write!(f, "epoch {}: {} (took {} ms)", projection.epoch, open.join(" "), took.as_millis())
            }
            Self::Stuck(why) => write!(f, "the projection cannot be changed: {why}"),
            Self::Waiting { position, units } => {
                let units: Vec<String> =
                    units.iter().map(|(unit, trouble)| format!("unit {unit} {trouble}")).collect();
                let units = units.join("; ");
                write!(f, "nobody is left who has all positions from {position} on: {units}")
            }
            Self::Spared(unit, trouble) => {
                write!(f, "unit {unit} {trouble}; it stays, as nobody else has what it still has")
            }
            Self::StoreBehind(behind) => write!(f, "nothing can be changed: {behind}"),
            Self::Copied(epoch) => write!(f, "all units have everything in epoch {epoch}"),
            Self::NotCopied(error) => error.fmt(f),
        }
    }
}

/// Watches a cluster until it is dropped.
#[derive(Debug)]
pub struct Monitor {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Begins to watch. `candidates`: everybody who is in the projection or could be; `report` is told what
    /// happens, by the monitor's thread.
    ///
    /// # Errors
    /// [`MonitorError`].
    pub fn start(
        transport: Arc<dyn Transport>,
        config: MonitorConfig,
        candidates: impl FnMut() -> Vec<Node> + Send + 'static,
        report: impl Fn(&MonitorEvent) + Send + Sync + 'static,
    ) -> Result<Self, MonitorError> {
        config.check().map_err(MonitorError::Configuration)?;
        let (stop, stopped) = mpsc::channel::<()>();
        let mut watch = Watch::new(transport, config, candidates, report);
        let builder = thread::Builder::new().name("mixlog-monitor".to_owned());
        let thread = builder.spawn(move || {
            let mut next = Instant::now();
            while stopped.recv_timeout(next.saturating_duration_since(Instant::now()))
                == Err(RecvTimeoutError::Timeout)
            {
                next = Instant::now() + watch.config.interval;
                watch.round();
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the monitor panicked");
        }
    }
}

struct Watch {
    transport: Arc<dyn Transport>,
    config: MonitorConfig,
    candidates: Box<dyn FnMut() -> Vec<Node> + Send>,
    report: Arc<dyn Fn(&MonitorEvent) + Send + Sync>,
    /// Silent rounds in a row.
    health: BTreeMap<Node, u32>,
    /// How far each member reached.
    reached: BTreeMap<Member, Position>,
    /// Rounds in a row in which a unit was sealed for an epoch that nobody installed.
    interrupted: u32,
    /// Rounds in a row in which somebody was in a later epoch than there can be.
    behind: u32,
    /// The trouble that was reported last, so that it is reported once.
    told: Option<MonitorEvent>,
    /// Units that were left where they are, and why.
    spared: BTreeMap<UnitNumber, Trouble>,
    copying: Arc<Mutex<Copying>>,
}

/// What the thread that copies is at.
#[derive(Debug, Default)]
struct Copying {
    under_way: bool,
    /// Why it could not the last time, which was reported.
    told: Option<TransferError>,
}

/// What a round found.
#[derive(Debug, Default)]
struct Found {
    /// Units that do not have what the projection says.
    lost: BTreeMap<UnitNumber, Trouble>,
    /// Units that could join.
    spare_units: Vec<UnitNumber>,
    spare_sequencers: Vec<SequencerNumber>,
    /// The sequencer was started again.
    restarted: bool,
    /// Somebody is sealed for another epoch.
    interrupted: bool,
    /// Somebody is in a later epoch than there can be, unless there was another change meanwhile.
    behind: Option<StoreBehind>,
}

impl Watch {
    fn new(
        transport: Arc<dyn Transport>,
        config: MonitorConfig,
        candidates: impl FnMut() -> Vec<Node> + Send + 'static,
        report: impl Fn(&MonitorEvent) + Send + Sync + 'static,
    ) -> Self {
        Self {
            transport,
            config,
            candidates: Box::new(candidates),
            report: Arc::new(report),
            health: BTreeMap::new(),
            reached: BTreeMap::new(),
            interrupted: 0,
            behind: 0,
            told: None,
            spared: BTreeMap::new(),
            copying: Arc::default(),
        }
    }

    fn round(&mut self) {
        let patience = self.config.timing.answer;
        let Some(Some(projection)) = administer::latest(&*self.transport, &self.config.timing, patience)
        else {
            return;
        };
        let found = self.look(&projection);
        self.interrupted = if found.interrupted { self.interrupted + 1 } else { 0 };
        self.behind = if found.behind.is_some() { self.behind + 1 } else { 0 };
        if let Some(behind) = found.behind {
            // Each round has looked again which projection is the newest.
            if self.behind >= self.config.misses {
                self.trouble(MonitorEvent::StoreBehind(behind));
            }
            return;
        }
        if let Some(change) = self.decide(&projection, &found) {
            self.change(projection, change);
        } else if !projection.joining().is_empty() {
            self.copy(projection);
        }
    }

    /// Asks everybody how they are.
    fn look(&mut self, projection: &Projection) -> Found {
        let members = projection.members();
        let sequencer = projection.sequencer;
        let mut nodes: Vec<Node> = members.iter().map(|member| Node::Unit(member.unit)).collect();
        nodes.extend(sequencer.map(|(number, _)| Node::Sequencer(number)));
        nodes.extend((self.candidates)().into_iter().filter(|node| *node != Node::Store));
        nodes.sort_unstable();
        nodes.dedup();

        let (arrived, arrivals) = mpsc::channel();
        for node in &nodes {
            let epoch = projection.epoch;
            let request = match *node {
                Node::Unit(unit) => {
                    // Who is no member says so.
                    let member = projection.member(unit).unwrap_or(Member { unit, joined: Epoch::NONE });
                    Request::Unit(UnitRequest { epoch, member, verb: UnitVerb::Probe })
                }
                Node::Sequencer(_) => {
                    Request::Sequencer(SequencerRequest { epoch, verb: SequencerVerb::Tail })
                }
                Node::Store => continue,
            };
            let (arrived, node) = (arrived.clone(), *node);
            let reply = ReplyTo::new(move |reply| drop(arrived.send((node, reply))));
            self.transport.send(node, request, reply);
        }
        drop(arrived);
        let deadline = Instant::now() + self.config.interval;
        let mut answers: BTreeMap<Node, Reply> = BTreeMap::new();
        let mut heard = 0;
        while heard < nodes.len()
            && let Ok((node, reply)) =
                arrivals.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            heard += 1;
            answers.extend(reply.map(|reply| (node, reply)));
        }

        let mut found = Found::default();
        for node in nodes {
            let is_member = match node {
                Node::Unit(unit) => members.iter().any(|member| member.unit == unit),
                Node::Sequencer(number) => sequencer.is_some_and(|(current, _)| current == number),
                Node::Store => false,
            };
            let answer = answers.get(&node);
            self.note(node, answer.is_some(), is_member);
            if is_member && let Some(answer) = answer {
                let behind = StoreBehind::shown_by(projection.epoch, node, answer);
                found.behind = found.behind.or(behind);
            }
            match (node, answer) {
                (Node::Unit(unit), Some(Reply::Unit(reply))) => match reply {
                    UnitReply::Stranger(_) if is_member => {
                        found.lost.insert(unit, Trouble::Empty);
                    }
                    UnitReply::Corrupt(_) if is_member => {
                        found.lost.insert(unit, Trouble::Damaged);
                    }
                    UnitReply::Stranger(_) => found.spare_units.push(unit),
                    UnitReply::Standing(standing) => {
                        let trouble = self.has_less_than_before(projection, unit, standing.reach);
                        found.lost.extend(trouble.map(|trouble| (unit, trouble)));
                    }
                    UnitReply::Sealed(_) | UnitReply::Behind(_) if is_member => found.interrupted = true,
                    _ => {}
                },
                (Node::Sequencer(number), Some(Reply::Sequencer(reply))) => match (reply, sequencer) {
                    (SequencerReply::NotStarted(instance), Some((_, known))) if is_member => {
                        found.restarted |= *instance != known;
                    }
                    (SequencerReply::Sealed(_), _) if is_member => found.interrupted = true,
                    _ if !is_member => found.spare_sequencers.push(number),
                    _ => {}
                },
                (Node::Unit(unit), None) if is_member && self.is_dead(node) => {
                    found.lost.insert(unit, Trouble::Silent);
                }
                _ => {}
            }
        }
        found
    }

    /// Whether a member reaches less far than it did, as one whose files are an older copy; not where nobody else has
    /// what it still has, which is reported.
    fn has_less_than_before(
        &mut self,
        projection: &Projection,
        unit: UnitNumber,
        reach: Position,
    ) -> Option<Trouble> {
        let before = self.reached.entry(projection.member(unit)?).or_insert(reach);
        *before = reach.max(*before);
        let trouble = Trouble::Shrunk { reach, before: *before };
        if reach == *before {
            self.spared.remove(&unit);
            return None;
        }
        if projection.survives(|other| other == unit) {
            return Some(trouble);
        }
        if self.spared.insert(unit, trouble).is_none() {
            (self.report)(&MonitorEvent::Spared(unit, trouble));
        }
        None
    }

    /// Counts silent rounds.
    fn note(&mut self, node: Node, answered: bool, is_member: bool) {
        let misses = self.health.entry(node).or_default();
        let was_dead = *misses >= self.config.misses;
        *misses = if answered { 0 } else { misses.saturating_add(1) };
        let is_dead = *misses >= self.config.misses;
        if is_dead && !was_dead && is_member {
            (self.report)(&MonitorEvent::Dead(node));
        } else if was_dead && !is_dead {
            (self.report)(&MonitorEvent::Back(node));
        }
    }

    fn is_dead(&self, node: Node) -> bool {
        self.health.get(&node).is_some_and(|misses| *misses >= self.config.misses)
    }

    /// What should be changed, if anything.
    fn decide(&mut self, projection: &Projection, found: &Found) -> Option<Change> {
        let mut spares = found.spare_units.iter().copied();
        let mut change = Change::default();
        if let Some((position, chain)) = projection.lost_chain(|unit| found.lost.contains_key(&unit)) {
            let units = chain.units.iter().map(|member| (member.unit, found.lost[&member.unit])).collect();
            self.trouble(MonitorEvent::Waiting { position, units });
            return None;
        }
        change.lost = found.lost.keys().copied().collect();
        for lost in found.lost.keys() {
            change.joins.extend(spares.next().map(|unit| Join { beside: *lost, unit }));
        }
        let mut wanted = !found.lost.is_empty() || found.restarted;
        wanted |= self.interrupted >= self.config.misses;
        if let Some((number, _)) = projection.sequencer
            && self.is_dead(Node::Sequencer(number))
        {
            // Without a sequencer no epoch begins.
            change.sequencer = Some(*found.spare_sequencers.first()?);
            wanted = true;
        }
        for chain in &projection.open().chains {
            let stays = |member: &Member| !found.lost.contains_key(&member.unit);
            let staying: Vec<Member> = chain.members().filter(stays).collect();
            let joins = |join: &&Join| chain.members().any(|member| member.unit == join.beside);
            let count = staying.len() + change.joins.iter().filter(joins).count();
            if count < self.config.replicas
                && let (Some(beside), Some(unit)) = (staying.first(), spares.next())
            {
                change.joins.push(Join { beside: beside.unit, unit });
                wanted = true;
            }
        }
        wanted.then_some(change)
    }

    fn change(&mut self, projection: Arc<Projection>, change: Change) {
        let begun = Instant::now();
        let patience = Some(self.config.patience);
        match administer::reconfigure(&self.transport, &self.config.timing, projection, change, patience) {
            Some(Reconfigured::Installed(projection)) => {
                self.told = None;
                self.interrupted = 0;
                (self.report)(&MonitorEvent::Changed { projection, took: begun.elapsed() });
            }
            // Somebody else was faster: look again.
            Some(Reconfigured::Overtaken(_)) | None => {}
            Some(stuck) => self.trouble(MonitorEvent::Stuck(stuck)),
        }
    }

    fn trouble(&mut self, event: MonitorEvent) {
        if self.told.as_ref() != Some(&event) {
            (self.report)(&event);
            self.told = Some(event);
        }
    }

    /// Copies to units that join, in another thread: others may die meanwhile.
    fn copy(&self, projection: Arc<Projection>) {
        let mut copying = self.copying.lock().expect(UNPOISONED);
        if copying.under_way {
            return;
        }
        let (transport, config) = (Arc::clone(&self.transport), self.config.clone());
        let (report, state) = (Arc::clone(&self.report), Arc::clone(&self.copying));
        let copy = move || {
            let copied = administer::transfer(&transport, &config.timing, projection, Some(config.patience));
            let failed = copied.as_ref().err().copied();
            let before = state.lock().expect(UNPOISONED).told;
            match copied {
                Ok(latest) => report(&MonitorEvent::Copied(latest.epoch)),
                // It is tried again in each round, and said once.
                Err(error) if before != failed => report(&MonitorEvent::NotCopied(error)),
                Err(_) => {}
            }
            *state.lock().expect(UNPOISONED) = Copying { under_way: false, told: failed };
        };
        // If there is no thread for it now, there may be one in the next round.
        copying.under_way = thread::Builder::new().name("mixlog-copy".to_owned()).spawn(copy).is_ok();
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
