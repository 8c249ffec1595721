//! State transfer: copies to units that join, while appends go on.
//!
//! A unit joins with an epoch, and has everything from that epoch's tail on. What lies before cannot grow; it
//! is filled, so that it cannot change, and what is filled is copied in the same go. When that is done, another
//! reconfiguration takes the unit into its chains ([`Change::copied`]). Before, it is flushed: what was flushed on the
//! units that it stands in for stays so. Copying may stop and start over at any
//! point, or be done by two at once: it repeats what is there.
//!
//! [`Change::copied`]: super::plan::Change::copied

use std::sync::Arc;

use crate::Position;

use super::fill::{Aim, Fill, Filled, Loss};
use super::message::{Member, UnitReply, UnitVerb};
use super::operation::{Event, Input, Operation, Outbox, View};
use super::projection::Projection;

/// Copies to all units that join.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transfer {
    view: View,
    /// Who joined when the transfer began.
    joining: Vec<Member>,
    at: Position,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Copy(Option<Box<Fill>>),
    /// Asks a unit how far the log is trimmed: one that is done with a trim knows of it.
    Ask,
    Trim,
    Flush,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Transferred {
    /// These have everything that they are to have.
    Copied(Vec<Member>),
    /// A position could not be copied.
    Corrupt(Loss),
}

impl Transfer {
    /// Copies to whoever joins in `projection`.
    #[must_use]
    pub fn new(projection: Arc<Projection>) -> Self {
        let joining = projection.joining();
        let at = projection.first();
        Self { view: View::new(projection), joining, at, phase: Phase::Copy(None) }
    }

    /// How far it has come: everything before is copied.
    #[must_use]
    pub fn done(&self) -> Position {
        match &self.phase {
            Phase::Copy(Some(fill)) => fill.done(),
            _ => self.at,
        }
    }

    /// Finds the next stripe that is to be copied, and fills it.
    fn copy(&mut self, out: &mut Outbox) -> Option<Transferred> {
        let projection = Arc::clone(self.view.projection());
        self.at = self.at.max(projection.first());
        let joins = |member: &Member| self.joining.contains(member);
        // Nobody joins in the open segment.
        while self.at < projection.open().first {
            let place = projection.place(self.at).expect("not before the first segment");
            if !place.chain.joining.iter().any(joins) {
                self.at = place.end;
                continue;
            }
            self.view.abandon();
            let (view, epoch) = (self.view.clone(), self.view.epoch());
            let mut fill = Box::new(Fill::with_view(view, self.at, place.end, epoch, Aim::Copy));
            let filled = fill.step(Input::Start, out);
            self.phase = Phase::Copy(Some(fill));
            return filled.and_then(|filled| self.copied(&filled, out));
        }
        self.ask_trimmed(out)
    }

    fn ask_trimmed(&mut self, out: &mut Outbox) -> Option<Transferred> {
        self.phase = Phase::Ask;
        let projection = Arc::clone(self.view.projection());
        let chains = projection.segments.iter().flat_map(|segment| &segment.chains);
        match chains.into_iter().find(|chain| !chain.joining.is_empty()) {
            Some(chain) => {
                self.view.ask_unit(out, chain.head(), UnitVerb::Probe);
            }
            // They were taken into their chains meanwhile.
            None => return Some(Transferred::Copied(self.joining.clone())),
        }
        None
    }

    fn copied(&mut self, filled: &Filled, out: &mut Outbox) -> Option<Transferred> {
        let Phase::Copy(Some(fill)) = std::mem::replace(&mut self.phase, Phase::Copy(None)) else {
            unreachable!("a stripe was being copied");
        };
        self.at = fill.done();
        self.view = fill.into_view();
        match filled.corrupt {
            Some(loss) => Some(Transferred::Corrupt(loss)),
            None => self.copy(out),
        }
    }

    /// What is trimmed elsewhere is trimmed there, not unwritten.
    fn trim(&mut self, trimmed: Position, out: &mut Outbox) -> Option<Transferred> {
        self.phase = Phase::Trim;
        self.ask_joining(&UnitVerb::Trim(trimmed), out);
        self.answered(out)
    }

    fn ask_joining(&mut self, verb: &UnitVerb, out: &mut Outbox) {
        for member in self.view.projection().joining() {
            if self.joining.contains(&member) {
                self.view.ask_unit(out, member, verb.clone());
            }
        }
    }

    fn answered(&mut self, out: &mut Outbox) -> Option<Transferred> {
        if self.view.under_way() > 0 {
            return None;
        }
        if self.phase == Phase::Trim {
            self.phase = Phase::Flush;
            self.ask_joining(&UnitVerb::Flush, out);
        }
        (self.view.under_way() == 0).then(|| Transferred::Copied(self.joining.clone()))
    }
}

impl Operation for Transfer {
    type Outcome = Transferred;

    fn step(&mut self, input: Input, out: &mut Outbox) -> Option<Transferred> {
        if let Phase::Copy(Some(fill)) = &mut self.phase {
            let filled = fill.step(input, out)?;
            return self.copied(&filled, out);
        }
        match self.view.sort(input, out) {
            Event::Refreshed if matches!(self.phase, Phase::Copy(_)) => self.copy(out),
            Event::Refreshed => self.ask_trimmed(out),
            Event::Unit(_, UnitReply::Standing(standing)) => self.trim(standing.trimmed, out),
            Event::Unit(_, UnitReply::Done) => self.answered(out),
            Event::Unit(_, trouble) => {
                self.view.trouble(&trouble, out);
                None
            }
            Event::NoUnit(_) => {
                self.view.retry(out);
                None
            }
            Event::Sequencer(_) | Event::Store(_) | Event::Paused | Event::Nothing => None,
        }
    }
}
