//! Reconfigure: from one epoch to the next.
//!
//! 1. Look up the latest projection. It must be the one that the change is meant for. If there is none, a log is being
//!    founded, and the store is asked to name it: so who founds it again, after one who died, asks units to join that
//!    joined it before.
//! 2. Units that join forget what they had and take their new incarnation. They are in no projection, so
//!    nobody misses anything.
//! 3. The sequencer of the next epoch is sealed, which tells its instance.
//! 4. All units that stay are sealed. From here on nothing is appended. Units that do not answer are left
//!    behind, as long as every chain keeps one that does. So are units that have less than one behind them in their
//!    chain: they lost what they had.
//! 5. The tail is after the highest position that any of them has. With that, the next projection is made, and
//!    installed if no other one was: two who reconfigure at once both get here, and one of them installs.
//! 6. The sequencer is told the tail. Should this never happen, the first client does it. One that is left behind is sealed,
//!    if it hears of it.
//!
//! It may stop after every step, for ever: what was done does no harm, and the next one to reconfigure starts
//! at the first step again. Until then clients wait whose units are sealed.
//!
//! Every committed run is on all units of its chain, so on each that was sealed; so the tail lies after it,
//! and the next projection has it. A run that only some units have, the head among them, is in the next epoch
//! completed by whoever needs its positions. One that only lost units have was not committed.
//!
//! Source: CORFU (NSDI 2012), section 3.4; the register for projections is that of Vertical Paxos.

use std::fmt;
use std::sync::Arc;

use crate::LogId;

use super::behind::StoreBehind;
use super::message::{
    Epoch, Instance, Member, Node, Reply, SequencerNumber, SequencerReply, SequencerVerb, StoreReply,
    StoreRequest, UnitReply, UnitVerb,
};
use super::operation::{Event, Input, Operation, Outbox, Pause, View};
use super::plan::{Change, Found, PlanError};
use super::projection::Projection;
use super::rules::Rules;
use super::seal::Seal;

/// How often silent units are asked again before they are left behind.
const ROUNDS: u32 = 2;

/// Makes a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reconfigure {
    view: View,
    change: Change,
    rules: Rules,
    /// Of the sequencer of the next epoch.
    instance: Option<Instance>,
    /// Who was found in a later epoch than there can be, if the store knows no other one when it is asked again.
    ahead: Option<StoreBehind>,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Look,
    /// Only of a log that is being founded.
    Name,
    Join(Vec<Member>),
    Sequencer(SequencerNumber),
    /// Only when recovery is not fenced: looks at units before they are sealed.
    Peek(Seal),
    Seal {
        seal: Seal,
        rounds: u32,
        peeked: Option<Seal>,
    },
    Install {
        next: Arc<Projection>,
        late: Vec<Member>,
    },
    Start(Arc<Projection>),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reconfigured {
    /// The change is made, and this is the latest projection.
    Installed(Arc<Projection>),
    /// There is another projection already. Look whether the change is still wanted.
    Overtaken(Arc<Projection>),
    /// The change cannot be made.
    Impossible(PlanError),
    /// A unit that should join did not.
    NotJoined(Member),
    /// The sequencer does not answer.
    NoSequencer(SequencerNumber),
    /// The store holds an older copy of what it had, and a change to that would be a second one for its epoch.
    StoreBehind(StoreBehind),
}

impl fmt::Display for Reconfigured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Installed(latest) => write!(f, "epoch {} has begun", latest.epoch),
            Self::Overtaken(latest) => write!(f, "somebody else has begun epoch {}", latest.epoch),
            Self::Impossible(error) => error.fmt(f),
            Self::NotJoined(member) => write!(f, "unit {} does not join", member.unit),
            Self::NoSequencer(number) => write!(f, "sequencer {number} does not answer"),
            Self::StoreBehind(behind) => behind.fmt(f),
        }
    }
}

impl Reconfigure {
    /// Makes `change`, if `projection` is the latest.
    #[must_use]
    pub const fn new(projection: Arc<Projection>, change: Change, rules: Rules) -> Self {
        let view = View::new(projection);
        Self { view, change, rules, instance: None, ahead: None, phase: Phase::Look }
    }

    fn epoch(&self) -> Epoch {
        self.view.epoch().next()
    }

    /// The projection that the change is meant for.
    #[must_use]
    pub const fn from(&self) -> &Arc<Projection> {
        self.view.projection()
    }

    fn look(&mut self, out: &mut Outbox) {
        self.view.abandon();
        self.phase = Phase::Look;
        self.view.ask_store(out, StoreRequest::Latest);
    }

    fn looked(&mut self, latest: Option<Arc<Projection>>, out: &mut Outbox) -> Option<Reconfigured> {
        if let Some(latest) = latest
            && latest.epoch != self.view.epoch()
        {
            return Some(Reconfigured::Overtaken(latest));
        }
        if let Some(behind) = self.ahead {
            return Some(Reconfigured::StoreBehind(behind));
        }
        if self.view.epoch() == Epoch::NONE {
            self.phase = Phase::Name;
            self.view.ask_store(out, StoreRequest::Name(self.view.projection().log));
            return None;
        }
        self.join(out)
    }

    /// Somebody knows of another epoch: so does the store, or it has forgotten it.
    fn look_again(&mut self, node: Node, reply: &Reply, out: &mut Outbox) {
        self.ahead = StoreBehind::shown_by(self.view.epoch(), node, reply);
        self.look(out);
    }

    fn named(&mut self, log: LogId, out: &mut Outbox) -> Option<Reconfigured> {
        let blank = Projection::blank(log, self.view.projection().width);
        self.view = View::numbered(Arc::new(blank), self.view.next_call());
        self.join(out)
    }

    fn join(&mut self, out: &mut Outbox) -> Option<Reconfigured> {
        if let Err(error) = self.view.projection().check_change(&self.change) {
            return Some(Reconfigured::Impossible(error));
        }
        let joined = self.epoch();
        let joining: Vec<_> = self.change.joining().map(|unit| Member { unit, joined }).collect();
        let log = self.view.projection().log;
        for member in &joining {
            self.view.ask_unit_in(out, joined, *member, UnitVerb::Join(log));
        }
        self.phase = Phase::Join(joining);
        self.join_or_go_on(out)
    }

    fn join_or_go_on(&mut self, out: &mut Outbox) -> Option<Reconfigured> {
        let Phase::Join(pending) = &self.phase else { return None };
        if !pending.is_empty() {
            return None;
        }
        match self.view.projection().next_sequencer(&self.change) {
            Some(number) => {
                self.phase = Phase::Sequencer(number);
                let epoch = self.epoch();
                self.view.ask_sequencer_in(out, epoch, Node::Sequencer(number), SequencerVerb::Seal);
                None
            }
            None => self.begin_seal(out),
        }
    }

    /// The units that stay, if they all answer.
    fn staying(&self) -> Vec<Member> {
        let members = self.view.projection().members();
        members.into_iter().filter(|member| !self.change.lost.contains(&member.unit)).collect()
    }

    fn begin_seal(&mut self, out: &mut Outbox) -> Option<Reconfigured> {
        if self.rules.fenced_recovery {
            return self.seal_units(None, out);
        }
        let seal = Seal::new(self.staying());
        for member in seal.pending() {
            self.view.ask_unit(out, *member, UnitVerb::Probe);
        }
        self.phase = Phase::Peek(seal);
        None
    }

    fn seal_units(&mut self, peeked: Option<Seal>, out: &mut Outbox) -> Option<Reconfigured> {
        let mut units = self.staying();
        if !self.rules.seal_every_unit {
            units.retain(|member| self.is_last_of_a_chain(*member));
        }
        let seal = Seal::new(units);
        self.ask_pending(&seal, out);
        self.phase = Phase::Seal { seal, rounds: 0, peeked };
        self.install_if_sealed(out)
    }

    fn is_last_of_a_chain(&self, member: Member) -> bool {
        let segments = &self.view.projection().segments;
        segments.iter().flat_map(|segment| &segment.chains).any(|chain| {
            let staying = |member: &&Member| !self.change.lost.contains(&member.unit);
            chain.units.iter().rev().find(staying) == Some(&member)
        })
    }

    fn ask_pending(&mut self, seal: &Seal, out: &mut Outbox) {
        let epoch = self.epoch();
        for member in seal.pending() {
            self.view.ask_unit_in(out, epoch, *member, UnitVerb::Seal);
        }
    }

    /// What to do when the units that were asked have answered, or not.
    fn install_if_sealed(&mut self, out: &mut Outbox) -> Option<Reconfigured> {
        let Phase::Seal { seal, .. } = &self.phase else { return None };
        if self.view.under_way() > 0 {
            return None;
        }
        if seal.pending().is_empty() {
            return self.install(out);
        }
        self.view.pause(out, Pause::Silence);
        None
    }

    /// Asks silent units again, or leaves them behind.
    fn silence(&mut self, out: &mut Outbox) -> Option<Reconfigured> {
        let Phase::Seal { seal, rounds, .. } = &mut self.phase else { return None };
        *rounds += 1;
        let gone = |unit| {
            seal.pending().iter().any(|member| member.unit == unit)
                || seal.silent().contains(&unit)
                || self.change.lost.contains(&unit)
        };
        if *rounds > ROUNDS && self.view.projection().survives(gone) {
            for member in seal.pending().to_vec() {
                seal.leave(member);
            }
            return self.install(out);
        }
        let seal = seal.clone();
        self.ask_pending(&seal, out);
        None
    }

    fn install(&mut self, out: &mut Outbox) -> Option<Reconfigured> {
        let lost = &self.change.lost;
        let Phase::Seal { seal, peeked, .. } = &mut self.phase else { return None };
        // Where nobody else has all that a chain has, it stays: most of it may be there.
        while let Some(open) = self.view.projection().segments.last()
            && let Some(member) = seal.fallen_behind(open)
            && self
                .view
                .projection()
                .survives(|unit| unit == member.unit || seal.silent().contains(&unit) || lost.contains(&unit))
        {
            seal.leave(member);
        }
        let reach = peeked.as_ref().unwrap_or(seal).reach();
        let (trimmed, silent) = (seal.trimmed(), seal.silent().to_vec());
        let found = Found { tail: reach, trimmed, silent, instance: self.instance };
        let next = match self.view.projection().next(&self.change, &found) {
            Ok(next) => Arc::new(next),
            Err(error) => return Some(Reconfigured::Impossible(error)),
        };
        let late = if self.rules.seal_every_unit { Vec::new() } else { next.members() };
        self.phase = Phase::Install { next, late };
        self.ask_install(out);
        None
    }

    fn ask_install(&mut self, out: &mut Outbox) {
        if let Phase::Install { next, .. } = &self.phase {
            self.view.ask_store(out, StoreRequest::Install(Arc::clone(next)));
        }
    }

    fn take_install(&mut self, reply: Option<StoreReply>, out: &mut Outbox) -> Option<Reconfigured> {
        let Phase::Install { next, late } = &self.phase else { return None };
        match reply {
            // The answer to an earlier attempt may have been lost.
            Some(StoreReply::Latest(Some(latest))) if latest != *next => {
                Some(Reconfigured::Overtaken(latest))
            }
            Some(StoreReply::Installed | StoreReply::Latest(Some(_))) => {
                let (next, late) = (Arc::clone(next), late.clone());
                for member in late {
                    self.view.ask_unit_in(out, next.epoch, member, UnitVerb::Seal);
                }
                self.start(next, out)
            }
            Some(StoreReply::Latest(None) | StoreReply::Named(_)) | None => {
                self.view.pause(out, Pause::Silence);
                None
            }
        }
    }

    fn start(&mut self, next: Arc<Projection>, out: &mut Outbox) -> Option<Reconfigured> {
        let Some((number, instance)) = next.sequencer else {
            // As below. It is waited for, since there is nobody else to wait for.
            let Some((before, _)) = self.view.projection().sequencer else {
                return Some(Reconfigured::Installed(next));
            };
            self.view.ask_sequencer_in(out, next.epoch, Node::Sequencer(before), SequencerVerb::Seal);
            self.phase = Phase::Start(next);
            return None;
        };
        // One that is left behind lives perhaps, and who asks it only hears of the next epoch so.
        if let Some((before, _)) = self.view.projection().sequencer.filter(|(before, _)| *before != number) {
            self.view.tell_sequencer_in(out, next.epoch, Node::Sequencer(before), SequencerVerb::Seal);
        }
        let start = SequencerVerb::Start { instance, tail: next.tail, width: next.width };
        self.view.ask_sequencer_in(out, next.epoch, Node::Sequencer(number), start);
        self.phase = Phase::Start(next);
        None
    }

    fn take_sequencer(&mut self, reply: Option<SequencerReply>, out: &mut Outbox) -> Option<Reconfigured> {
        match (&self.phase, reply) {
            (Phase::Sequencer(_), Some(SequencerReply::Present { instance, .. })) => {
                self.instance = Some(instance);
                self.begin_seal(out)
            }
            (Phase::Sequencer(number), Some(reply @ SequencerReply::Sealed(_))) => {
                self.look_again(Node::Sequencer(*number), &Reply::Sequencer(reply), out);
                None
            }
            (Phase::Sequencer(number), _) => Some(Reconfigured::NoSequencer(*number)),
            // Whether it heard or not: the projection says where it starts.
            (Phase::Start(next), _) => Some(Reconfigured::Installed(Arc::clone(next))),
            _ => None,
        }
    }

    fn take_unit(&mut self, member: Member, reply: &UnitReply, out: &mut Outbox) -> Option<Reconfigured> {
        match &mut self.phase {
            Phase::Join(pending) => {
                let UnitReply::Standing(_) = reply else { return Some(Reconfigured::NotJoined(member)) };
                pending.retain(|waiting| *waiting != member);
                self.join_or_go_on(out)
            }
            Phase::Peek(seal) => {
                seal.take(member, reply);
                if self.view.under_way() > 0 {
                    return None;
                }
                let seal = seal.clone();
                self.seal_units(Some(seal), out)
            }
            Phase::Seal { seal, .. } => {
                if !seal.take(member, reply) {
                    self.look_again(Node::Unit(member.unit), &Reply::Unit(reply.clone()), out);
                    return None;
                }
                self.install_if_sealed(out)
            }
            Phase::Look | Phase::Name | Phase::Sequencer(_) | Phase::Install { .. } | Phase::Start(_) => None,
        }
    }

    fn miss_unit(&mut self, member: Member, out: &mut Outbox) -> Option<Reconfigured> {
        match &self.phase {
            Phase::Join(_) => Some(Reconfigured::NotJoined(member)),
            Phase::Peek(seal) if self.view.under_way() == 0 => {
                let seal = seal.clone();
                self.seal_units(Some(seal), out)
            }
            Phase::Seal { .. } => self.install_if_sealed(out),
            _ => None,
        }
    }
}

impl Operation for Reconfigure {
    type Outcome = Reconfigured;

    fn step(&mut self, input: Input, out: &mut Outbox) -> Option<Reconfigured> {
        match self.view.sort(input, out) {
            Event::Refreshed => {
                self.look(out);
                None
            }
            Event::Store(Some(StoreReply::Latest(latest))) if self.phase == Phase::Look => {
                self.looked(latest, out)
            }
            Event::Store(Some(StoreReply::Named(log))) if self.phase == Phase::Name => self.named(log, out),
            Event::Store(_) if matches!(self.phase, Phase::Look | Phase::Name) => {
                self.view.pause(out, Pause::Silence);
                None
            }
            Event::Store(reply) => self.take_install(reply, out),
            Event::Sequencer(reply) => self.take_sequencer(reply, out),
            Event::Unit(member, reply) => self.take_unit(member, &reply, out),
            Event::NoUnit(member) => self.miss_unit(member, out),
            Event::Paused => match &self.phase {
                Phase::Look | Phase::Name => {
                    self.look(out);
                    None
                }
                Phase::Install { .. } => {
                    self.ask_install(out);
                    None
                }
                _ => self.silence(out),
            },
            Event::Nothing => None,
        }
    }
}
