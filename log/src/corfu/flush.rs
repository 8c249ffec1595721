//! Flush: every unit makes durable what it has, whatever it promises of a write.
//!
//! A unit answers when everything that it was written before is on its disk; until then it goes on with other
//! requests. All units of all chains are asked at the epoch of one projection: each of them had, when it was asked,
//! everything that was committed before. Of those that have answered, the answer holds in later epochs too, since a
//! write-once unit does not lose what it has; whoever is new there is asked as well. Units that join are not waited
//! for: they are flushed before they stand in a chain (`transfer.rs`), or what was durable on the units before would
//! be less so on those after.

use std::sync::Arc;

use super::message::{Member, UnitReply, UnitVerb};
use super::operation::{Event, Input, Operation, Outbox, View};
use super::projection::Projection;

/// Flushes every unit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Flush {
    view: View,
    done: Vec<Member>,
}

impl Flush {
    /// Makes everything durable that is committed when this begins.
    #[must_use]
    pub const fn new(projection: Arc<Projection>) -> Self {
        Self { view: View::new(projection), done: Vec::new() }
    }

    fn ask(&mut self, out: &mut Outbox) -> Option<()> {
        self.view.abandon();
        let projection = Arc::clone(self.view.projection());
        let chains = projection.segments.iter().flat_map(|segment| &segment.chains);
        let mut units: Vec<Member> = chains.flat_map(|chain| chain.units.iter().copied()).collect();
        units.sort_unstable();
        units.dedup();
        for member in units.into_iter().filter(|member| !self.done.contains(member)) {
            self.view.ask_unit(out, member, UnitVerb::Flush);
        }
        (self.view.under_way() == 0).then_some(())
    }
}

impl Operation for Flush {
    type Outcome = ();

    fn step(&mut self, input: Input, out: &mut Outbox) -> Option<()> {
        match self.view.sort(input, out) {
            Event::Refreshed => return self.ask(out),
            Event::Unit(member, UnitReply::Done) => {
                self.done.push(member);
                return (self.view.under_way() == 0).then_some(());
            }
            Event::Unit(_, trouble) => self.view.trouble(&trouble, out),
            Event::NoUnit(_) => self.view.retry(out),
            Event::Sequencer(_) | Event::Store(_) | Event::Paused | Event::Nothing => {}
        }
        None
    }
}
