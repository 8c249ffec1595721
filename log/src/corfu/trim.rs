//! Trim: every unit gives up a prefix of the log.
//!
//! A trim mark only grows, so trims may be repeated, reordered, and made in any epoch. When a trim is done,
//! every unit knows of it, and any of them tells the head. Units take trims of earlier epochs and say nothing
//! about it, even those that are in no projection any more; so when all have answered, the projection is
//! looked up, and units that are new in it are told as well.

use std::sync::Arc;

use crate::Position;

use super::message::{Member, UnitReply, UnitVerb};
use super::operation::{Event, Input, Operation, Outbox, View};
use super::projection::Projection;

/// Trims every unit up to a position.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Trim {
    view: View,
    before: Position,
    done: Vec<Member>,
    failed: bool,
}

impl Trim {
    /// Gives up everything before `before`, which must not lie past the tail.
    #[must_use]
    pub const fn new(projection: Arc<Projection>, before: Position) -> Self {
        Self { view: View::new(projection), before, done: Vec::new(), failed: false }
    }

    fn ask(&mut self, out: &mut Outbox) -> Option<()> {
        self.failed = false;
        for member in self.view.projection().members() {
            if !self.done.contains(&member) {
                self.view.ask_unit(out, member, UnitVerb::Trim(self.before));
            }
        }
        // The first time there are some. Later, nobody is new in the latest projection.
        (self.view.under_way() == 0).then_some(())
    }

    fn answered(&mut self, out: &mut Outbox) {
        if self.view.under_way() > 0 {
            return;
        }
        if self.failed {
            self.view.retry(out);
        } else {
            self.view.refresh(out);
        }
    }
}

impl Operation for Trim {
    type Outcome = ();

    fn step(&mut self, input: Input, out: &mut Outbox) -> Option<()> {
        match self.view.sort(input, out) {
            Event::Refreshed => self.ask(out),
            Event::Unit(member, UnitReply::Done) => {
                self.done.push(member);
                self.answered(out);
                None
            }
            Event::Unit(..) | Event::NoUnit(_) => {
                self.failed = true;
                self.answered(out);
                None
            }
            Event::Sequencer(_) | Event::Store(_) | Event::Paused | Event::Nothing => None,
        }
    }
}
