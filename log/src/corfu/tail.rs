//! Tail (CORFU's check): how far the log reaches.
//!
//! The sequencer knows it, but not whether it still is the sequencer: one that was left behind in an earlier
//! epoch answers too little. So the linearizable form then asks all units of one chain of the open segment
//! whether they are at that epoch still. Every later epoch seals at least one of them before it begins: if
//! none is sealed, no append of a later epoch was acknowledged before this operation began.
//!
//! When the sequencer does not answer, the units tell: the highest position that any of them has. It is the
//! slow form of the paper, and linearizable since all of them answer at the same epoch.
//!
//! Source: CORFU (NSDI 2012), section 3.2. That a partitioned sequencer must not be believed is not there.

use std::sync::Arc;

use crate::Position;

use super::message::{Epoch, Member, SequencerReply, SequencerVerb, UnitReply, UnitVerb};
use super::operation::{Event, Input, Operation, Outbox, View};
use super::projection::Projection;

/// How a tail is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TailMode {
    /// The sequencer's word. It may be one of an earlier epoch. One round trip.
    Fast,
    /// Sees every append that was acknowledged before. Two round trips.
    Linearizable,
}

/// Asks for the tail.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tail {
    view: View,
    mode: TailMode,
    phase: Phase,
    found: TailOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Sequencer,
    Confirm,
    Units,
}

/// How far the log reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TailOutcome {
    /// In this epoch.
    pub epoch: Epoch,
    /// Every acknowledged append lies before it. What lies before it need not be written yet.
    pub tail: Position,
    /// Positions before it are trimmed. Of the fast form: at least these.
    pub trimmed: Position,
    /// Positions before it are known to be committed.
    pub committed: Position,
    /// Whether the tail is final.
    pub sealed: bool,
}

impl Tail {
    /// Asks for the tail in this way.
    #[must_use]
    pub const fn new(projection: Arc<Projection>, mode: TailMode) -> Self {
        let (zero, epoch) = (Position::ZERO, Epoch::NONE);
        let found = TailOutcome { epoch, tail: zero, trimmed: zero, committed: zero, sealed: false };
        Self { view: View::new(projection), mode, phase: Phase::Sequencer, found }
    }

    fn start(&mut self, out: &mut Outbox) {
        let projection = self.view.projection();
        self.found = TailOutcome {
            epoch: projection.epoch,
            tail: projection.tail,
            trimmed: projection.first(),
            committed: projection.first(),
            sealed: projection.sealed(),
        };
        if projection.sealed() {
            return self.confirm(out);
        }
        self.phase = Phase::Sequencer;
        self.view.ask_sequencer(out, SequencerVerb::Tail);
    }

    /// Asks the units of one chain whether the epoch is still theirs. They tell the head as well.
    fn confirm(&mut self, out: &mut Outbox) {
        self.phase = Phase::Confirm;
        let projection = Arc::clone(self.view.projection());
        for member in &projection.open().chains[0].units {
            self.view.ask_unit(out, *member, UnitVerb::Probe);
        }
    }

    fn ask_units(&mut self, out: &mut Outbox) {
        self.view.abandon();
        self.phase = Phase::Units;
        let projection = Arc::clone(self.view.projection());
        let chains = projection.segments.iter().flat_map(|segment| &segment.chains);
        let mut units: Vec<Member> = chains.flat_map(|chain| chain.units.iter().copied()).collect();
        units.sort_unstable();
        units.dedup();
        for member in units {
            self.view.ask_unit(out, member, UnitVerb::Probe);
        }
    }
}

impl Operation for Tail {
    type Outcome = TailOutcome;

    fn step(&mut self, input: Input, out: &mut Outbox) -> Option<TailOutcome> {
        match self.view.sort(input, out) {
            Event::Refreshed => self.start(out),
            Event::Sequencer(Some(SequencerReply::Tail(tail))) => {
                self.found.tail = tail;
                if self.mode == TailMode::Fast {
                    return Some(self.found);
                }
                self.confirm(out);
            }
            Event::Sequencer(None) => self.ask_units(out),
            Event::Sequencer(Some(SequencerReply::NotStarted(found)))
                if self.view.projection().sequencer.is_some_and(|(_, instance)| instance != found) =>
            {
                // It was restarted, and waits to be put into a new projection.
                self.ask_units(out);
            }
            Event::Sequencer(reply) => self.view.sequencer_trouble(reply, out),
            Event::Unit(_, UnitReply::Standing(standing)) => {
                self.found.trimmed = self.found.trimmed.max(standing.trimmed);
                self.found.committed = self.found.committed.max(standing.committed).max(standing.trimmed);
                if self.phase == Phase::Units {
                    self.found.tail = self.found.tail.max(standing.reach);
                }
                if self.view.under_way() == 0 {
                    return Some(self.found);
                }
            }
            Event::Unit(_, trouble) => self.view.trouble(&trouble, out),
            Event::NoUnit(_) => self.view.retry(out),
            Event::Store(_) | Event::Paused | Event::Nothing => {}
        }
        None
    }
}
