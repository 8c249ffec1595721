//! Settle: makes sure that every position in a range is written, and disturbs no writer without need.
//!
//! The last unit of each chain is asked for gaps. Whose writer is merely slow gets some time at the first
//! gap; those that are still there after it are filled, and later ones at once. What is settled is committed.

use std::sync::Arc;

use crate::Position;

use super::fill::{Aim, Fill, Filled};
use super::message::{Epoch, UnitReply, UnitVerb};
use super::operation::{Event, Input, Operation, Outbox, Pause, View};
use super::projection::Projection;

/// Settles `[from, upto)`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settle {
    view: View,
    at: Position,
    upto: Position,
    /// The epoch of which `upto` lies before the tail.
    told_in: Epoch,
    waited: bool,
    filling: Option<Box<Fill>>,
}

/// How far a range was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settled {
    /// Everything from the start of the range up to here is committed. Less than what was asked for where a later epoch
    /// begins before that, and its tail is to be asked for.
    pub upto: Position,
    /// Whether a unit lost something there, so that it goes no further.
    pub corrupt: bool,
}

impl Settle {
    /// Settles `[from, upto)`, which must lie before the tail that was told in an epoch.
    #[must_use]
    pub const fn new(projection: Arc<Projection>, from: Position, upto: Position, told_in: Epoch) -> Self {
        Self::with_view(View::new(projection), from, upto, told_in)
    }

    pub(crate) const fn with_view(view: View, from: Position, upto: Position, told_in: Epoch) -> Self {
        Self { view, at: from, upto, told_in, waited: false, filling: None }
    }

    /// Up to where everything is settled so far.
    #[must_use]
    pub fn done(&self) -> Position {
        self.filling.as_ref().map_or(self.at, |fill| fill.done())
    }

    /// Up to where it settles, as far as is known: what lies past the tail of a later epoch is that epoch's.
    fn upto(&self) -> Position {
        self.view.projection().bound(self.upto, self.told_in)
    }

    pub(crate) fn into_view(mut self) -> View {
        self.view.abandon();
        self.view
    }

    fn ask(&mut self, out: &mut Outbox) -> Option<Settled> {
        let projection = Arc::clone(self.view.projection());
        self.at = self.at.max(projection.first());
        let upto = self.upto();
        if self.at >= upto {
            return Some(Settled { upto, corrupt: false });
        }
        let place = projection.place(self.at).expect("not before the first segment");
        let gap = UnitVerb::Gap { from: self.at, upto: upto.min(place.end) };
        self.view.ask_unit(out, place.chain.last(), gap);
        None
    }

    fn take_gap(&mut self, from: Position, upto: Position, out: &mut Outbox) -> Option<Settled> {
        // What lies past the range is not to be filled, whatever a unit says of it.
        let upto = upto.min(self.upto());
        self.at = self.at.max(from);
        if from >= upto {
            return self.ask(out);
        }
        if !self.waited {
            self.waited = true;
            self.view.pause(out, Pause::Hole);
            return None;
        }
        self.view.abandon();
        let (view, told_in) = (self.view.clone(), self.told_in);
        let mut fill = Box::new(Fill::with_view(view, self.at, upto, told_in, Aim::Settle));
        let filled = fill.step(Input::Start, out);
        self.filling = Some(fill);
        filled.and_then(|filled| self.filled(&filled, out))
    }

    fn filled(&mut self, filled: &Filled, out: &mut Outbox) -> Option<Settled> {
        let fill = self.filling.take().expect("a range was being filled");
        self.at = fill.done();
        self.view = fill.into_view();
        if filled.corrupt.is_some() {
            return Some(Settled { upto: self.at, corrupt: true });
        }
        self.ask(out)
    }
}

impl Operation for Settle {
    type Outcome = Settled;

    fn step(&mut self, input: Input, out: &mut Outbox) -> Option<Settled> {
        if let Some(fill) = &mut self.filling {
            let filled = fill.step(input, out)?;
            return self.filled(&filled, out);
        }
        match self.view.sort(input, out) {
            Event::Refreshed | Event::Paused => self.ask(out),
            Event::Unit(_, UnitReply::Gap(from, upto)) => self.take_gap(from, upto, out),
            Event::Unit(_, UnitReply::Corrupt(_)) => Some(Settled { upto: self.at, corrupt: true }),
            Event::Unit(_, trouble) => {
                self.view.trouble(&trouble, out);
                None
            }
            Event::NoUnit(_) => {
                self.view.retry(out);
                None
            }
            Event::Sequencer(_) | Event::Store(_) | Event::Nothing => None,
        }
    }
}
