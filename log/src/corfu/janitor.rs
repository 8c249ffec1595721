//! The janitor: once in a while, settles everything before the tail and tells the units how far that is.
//!
//! So holes of clients that died are filled though nobody reads there, and readers may go to any unit for
//! what lies before the committed mark. Any number of janitors may run; none is needed for correctness.

use std::sync::Arc;

use crate::Position;

use super::message::{Member, SequencerReply, SequencerVerb, UnitReply, UnitVerb};
use super::operation::{Event, Input, Operation, Outbox, View};
use super::projection::Projection;
use super::settle::{Settle, Settled};

/// One round of the janitor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sweep {
    view: View,
    from: Position,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Tail,
    Settle(Box<Settle>),
    Mark(Settled),
}

impl Sweep {
    /// Settles from `from` on, which is the outcome of the round before.
    #[must_use]
    pub const fn new(projection: Arc<Projection>, from: Position) -> Self {
        Self { view: View::new(projection), from, phase: Phase::Tail }
    }

    /// Up to where everything is settled so far.
    #[must_use]
    pub fn done(&self) -> Position {
        match &self.phase {
            Phase::Tail => self.from,
            Phase::Settle(settle) => settle.done(),
            Phase::Mark(settled) => settled.upto,
        }
    }

    fn ask_tail(&mut self, out: &mut Outbox) -> Option<Settled> {
        self.phase = Phase::Tail;
        let projection = self.view.projection();
        if projection.sealed() {
            let tail = projection.tail;
            return self.settle(tail, out);
        }
        self.view.ask_sequencer(out, SequencerVerb::Tail);
        None
    }

    fn settle(&mut self, tail: Position, out: &mut Outbox) -> Option<Settled> {
        self.view.abandon();
        let (view, epoch) = (self.view.clone(), self.view.epoch());
        let mut settle = Box::new(Settle::with_view(view, self.from.min(tail), tail, epoch));
        let settled = settle.step(Input::Start, out);
        self.phase = Phase::Settle(settle);
        settled.and_then(|settled| self.settled(settled, out))
    }

    fn settled(&mut self, settled: Settled, out: &mut Outbox) -> Option<Settled> {
        let Phase::Settle(settle) = std::mem::replace(&mut self.phase, Phase::Mark(settled)) else {
            unreachable!("a range was being settled");
        };
        self.view = settle.into_view();
        self.from = self.from.max(settled.upto);
        let members: Vec<Member> = self.view.projection().members();
        for member in members {
            self.view.ask_unit(out, member, UnitVerb::Commit(settled.upto));
        }
        None
    }
}

impl Operation for Sweep {
    type Outcome = Settled;

    fn step(&mut self, input: Input, out: &mut Outbox) -> Option<Settled> {
        if let Phase::Settle(settle) = &mut self.phase {
            let settled = settle.step(input, out)?;
            return self.settled(settled, out);
        }
        match (self.view.sort(input, out), &self.phase) {
            (Event::Refreshed, _) => self.ask_tail(out),
            (Event::Sequencer(Some(SequencerReply::Tail(tail))), Phase::Tail) => self.settle(tail, out),
            (Event::Sequencer(reply), Phase::Tail) => {
                self.view.sequencer_trouble(reply, out);
                None
            }
            // Whoever was asked for the tail may not know of the later epoch.
            (Event::Unit(_, UnitReply::Sealed(epoch)), Phase::Mark(_)) => {
                self.view.refresh_to(epoch, out);
                None
            }
            // A mark is a hint: who does not take it misses nothing.
            (Event::Unit(..) | Event::NoUnit(_), Phase::Mark(settled)) => {
                (self.view.under_way() == 0).then_some(*settled)
            }
            _ => None,
        }
    }
}
