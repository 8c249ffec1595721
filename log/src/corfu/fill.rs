//! Fill: makes sure that something is written in a range of positions, on every unit.
//!
//! 1. The head of the chain puts junk where it has nothing, and tells what it has. It arbitrates: from here on
//!    that is what the positions hold, or nobody ever sees them.
//! 2. The units behind it get the same, one after the other; for state transfer, so do the units that join.
//!
//! So a half-written run is completed and a hole becomes junk, whoever was to write there. It serves readers
//! at holes, writers whose outcome is not known, the janitor, and state transfer: what was filled never
//! changes, so a copy of it is complete for ever.
//!
//! Source: CORFU (NSDI 2012), section 3.3; the order of the steps is that of chain repair.

use std::fmt;
use std::sync::Arc;

use crate::Position;

use super::message::{self, Epoch, Member, Run, UnitNumber, UnitReply, UnitVerb};
use super::operation::{Event, Input, Operation, Outbox, View};
use super::projection::Projection;

/// How many bytes of entries are moved at a time.
const BYTES: u32 = 1 << 20;

/// Fills `[from, upto)`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fill {
    view: View,
    at: Position,
    upto: Position,
    /// The epoch of which `upto` lies before the tail.
    told_in: Epoch,
    aim: Aim,
    found: Vec<Run>,
    trimmed: Position,
    /// The runs that the head told of, and the units that are still to get them.
    pushing: Option<(Vec<Run>, Vec<Member>)>,
}

/// What a fill is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aim {
    /// To know what stands there.
    Know,
    /// So that something stands there.
    Settle,
    /// So that the units that join have it too.
    Copy,
}

/// What stands there now.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filled {
    /// The runs, in order, if the aim was to know; the first may start before the range, and the last may
    /// end after it.
    pub runs: Vec<Run>,
    /// Positions before this one are trimmed; zero if none of the range was found to be.
    pub trimmed: Position,
    /// A position that was not filled, and nothing after it was.
    pub corrupt: Option<Loss>,
}

/// A position that a unit has lost, or holds something else at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Loss {
    /// Which unit.
    pub unit: UnitNumber,
    /// Which position.
    pub position: Position,
    /// Whether it holds something else there than the head of its chain, and has not lost it.
    pub differs: bool,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unit, position, differs } = self;
        if *differs {
            write!(f, "unit {unit} has another entry at position {position} than the head of its chain")
        } else {
            write!(f, "unit {unit} has lost position {position}: its files are damaged, or not all there")
        }
    }
}

impl Fill {
    /// Fills `[from, upto)`, which must lie before the tail of the projection's epoch.
    #[must_use]
    pub fn new(projection: Arc<Projection>, from: Position, upto: Position, aim: Aim) -> Self {
        let told_in = projection.epoch;
        Self::with_view(View::new(projection), from, upto, told_in, aim)
    }

    /// The same, where `upto` lies before the tail of the epoch `told_in`.
    pub(crate) const fn with_view(
        view: View,
        from: Position,
        upto: Position,
        told_in: Epoch,
        aim: Aim,
    ) -> Self {
        let trimmed = Position::ZERO;
        Self { view, at: from, upto, told_in, aim, found: Vec::new(), trimmed, pushing: None }
    }

    /// The client's knowledge as it is now, for the operation that this one is a part of.
    pub(crate) fn into_view(mut self) -> View {
        self.view.abandon();
        self.view
    }

    /// Up to where everything is filled; less than what was asked for where a later epoch begins before that.
    #[must_use]
    pub const fn done(&self) -> Position {
        self.at
    }

    fn outcome(&mut self, corrupt: Option<Loss>) -> Option<Filled> {
        let runs = std::mem::take(&mut self.found);
        Some(Filled { runs, trimmed: self.trimmed, corrupt })
    }

    /// Asks the head about what comes next.
    fn ask_head(&mut self, out: &mut Outbox) -> Option<Filled> {
        self.pushing = None;
        let projection = Arc::clone(self.view.projection());
        if self.at < projection.first() {
            self.skip_trimmed(projection.first());
        }
        // What was to be filled past the tail of a later epoch is that epoch's, and nobody wrote it in the earlier one.
        let upto = projection.bound(self.upto, self.told_in);
        if self.at >= upto {
            return self.outcome(None);
        }
        let place = projection.place(self.at).expect("not before the first segment");
        let fill = UnitVerb::Fill { from: self.at, upto: upto.min(place.end), bytes: BYTES };
        self.view.ask_unit(out, place.chain.head(), fill);
        None
    }

    fn skip_trimmed(&mut self, before: Position) {
        self.trimmed = self.trimmed.max(before);
        self.at = self.at.max(before);
    }

    /// Gives the runs to the next unit; when all have them, goes on to the next positions.
    fn push(&mut self, out: &mut Outbox) -> Option<Filled> {
        let Some((runs, members)) = &mut self.pushing else { return None };
        if let Some(member) = members.first() {
            let (member, runs) = (*member, runs.clone());
            self.view.ask_unit(out, member, UnitVerb::Copy(runs));
            return None;
        }
        let (runs, _) = self.pushing.take().expect("it was just there");
        self.at = runs.last().expect("a head that fills has something").end();
        if self.aim == Aim::Know {
            self.found.extend(runs);
        }
        self.ask_head(out)
    }

    fn take_head(&mut self, head: Member, reply: UnitReply, out: &mut Outbox) -> Option<Filled> {
        match reply {
            // Others are no answer: to copy them would put them where nobody asked for anything.
            UnitReply::Runs(runs) if message::are_from(&runs, self.at) => {
                let projection = self.view.projection();
                let place = projection.place(self.at).expect("not before the first segment");
                let joining: &[Member] = if self.aim == Aim::Copy { &place.chain.joining } else { &[] };
                let members = place.chain.units[1..].iter().chain(joining).copied().collect();
                self.pushing = Some((runs, members));
                self.push(out)
            }
            UnitReply::Trimmed(before) => {
                self.skip_trimmed(before);
                self.ask_head(out)
            }
            UnitReply::Corrupt(position) => {
                self.outcome(Some(Loss { unit: head.unit, position, differs: false }))
            }
            trouble => {
                self.view.trouble(&trouble, out);
                None
            }
        }
    }

    fn take_copy(&mut self, member: Member, reply: &UnitReply, out: &mut Outbox) -> Option<Filled> {
        match reply {
            UnitReply::Done => {
                let (_, members) = self.pushing.as_mut().expect("runs are being pushed");
                members.retain(|waiting| *waiting != member);
                self.push(out)
            }
            // The chain's rule excludes that a later unit has what the head has not.
            UnitReply::Taken(position) | UnitReply::Corrupt(position) => {
                let differs = matches!(reply, UnitReply::Taken(_));
                self.outcome(Some(Loss { unit: member.unit, position: *position, differs }))
            }
            trouble => {
                self.view.trouble(trouble, out);
                None
            }
        }
    }
}

impl Operation for Fill {
    type Outcome = Filled;

    fn step(&mut self, input: Input, out: &mut Outbox) -> Option<Filled> {
        match self.view.sort(input, out) {
            // After any trouble, from the head again: the chain may be another one.
            Event::Refreshed => self.ask_head(out),
            Event::Unit(member, reply) if self.pushing.is_some() => self.take_copy(member, &reply, out),
            Event::Unit(head, reply) => self.take_head(head, reply, out),
            Event::NoUnit(_) => {
                self.view.retry(out);
                None
            }
            Event::Sequencer(_) | Event::Store(_) | Event::Paused | Event::Nothing => None,
        }
    }
}
