//! Read: from the last unit of the chain, because what it has, all units of the chain have.
//!
//! Another unit may be asked about positions that are known to be committed, when the last one does not
//! answer or has lost them. That nothing is written is a hint: the reader waits for a while and then fills.
//!
//! Source: CORFU (NSDI 2012), section 3.3.

use std::sync::Arc;

use crate::Position;

use super::message::{self, Run, UnitReply, UnitVerb};
use super::operation::{Event, Input, Operation, Outbox, View};
use super::projection::Projection;

/// Reads from a position on, as far as its stripe reaches at most.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Read {
    view: View,
    from: Position,
    upto: Position,
    bytes: u32,
    committed: Position,
    /// How many units of the chain, counted from the last, were asked in vain.
    failed: usize,
    corrupt: bool,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReadOutcome {
    /// Committed runs without a gap; the first one holds the position asked for.
    Runs(Vec<Run>),
    /// Nothing seems to be written there.
    Unwritten,
    /// Positions before this one were trimmed.
    Trimmed(Position),
    /// All units that had the position have lost it.
    Corrupt(Position),
}

impl Read {
    /// Reads runs in `[from, upto)`, about `bytes` bytes of entries, and at least one run if there is any.
    /// Positions before `committed` are known to be, in the epoch of `projection` or an earlier one: a unit that was
    /// left behind since may have something else there.
    #[must_use]
    pub const fn new(
        projection: Arc<Projection>,
        from: Position,
        upto: Position,
        bytes: u32,
        committed: Position,
    ) -> Self {
        Self { view: View::new(projection), from, upto, bytes, committed, failed: 0, corrupt: false }
    }

    fn ask(&mut self, out: &mut Outbox) -> Option<ReadOutcome> {
        let Some(place) = self.view.projection().place(self.from) else {
            return Some(ReadOutcome::Trimmed(self.view.projection().first()));
        };
        let units = &place.chain.units;
        if self.failed == units.len() {
            return if std::mem::take(&mut self.corrupt) {
                Some(ReadOutcome::Corrupt(self.from))
            } else {
                self.failed = 0;
                self.view.retry(out);
                None
            };
        }
        let member = units[units.len() - 1 - self.failed];
        let known = if self.failed == 0 { Position::MAX } else { self.committed };
        let upto = self.upto.min(place.end).min(known);
        self.view.ask_unit(out, member, UnitVerb::Read { from: self.from, upto, bytes: self.bytes });
        None
    }

    fn next_unit(&mut self, out: &mut Outbox) -> Option<ReadOutcome> {
        if self.from < self.committed {
            self.failed += 1;
            return self.ask(out);
        }
        self.view.retry(out);
        None
    }
}

impl Operation for Read {
    type Outcome = ReadOutcome;

    fn step(&mut self, input: Input, out: &mut Outbox) -> Option<ReadOutcome> {
        match self.view.sort(input, out) {
            Event::Refreshed => {
                (self.failed, self.corrupt) = (0, false);
                self.ask(out)
            }
            Event::Unit(_, reply) => match reply {
                UnitReply::Runs(runs) if message::are_from(&runs, self.from) => Some(ReadOutcome::Runs(runs)),
                UnitReply::Runs(runs) if runs.is_empty() && self.failed == 0 => Some(ReadOutcome::Unwritten),
                UnitReply::Trimmed(before) => Some(ReadOutcome::Trimmed(before)),
                UnitReply::Corrupt(_) => {
                    self.corrupt = true;
                    self.next_unit(out)
                }
                trouble @ (UnitReply::Sealed(_) | UnitReply::Behind(_)) => {
                    self.view.trouble(&trouble, out);
                    None
                }
                // A unit that should have it, and does not, or is another one by now.
                _ => self.next_unit(out),
            },
            Event::NoUnit(_) => self.next_unit(out),
            Event::Sequencer(_) | Event::Store(_) | Event::Paused | Event::Nothing => None,
        }
    }
}
