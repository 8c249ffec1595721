//! Seal: units refuse all earlier epochs from now on, and tell how far they reach.
//!
//! Every unit that stays is sealed, the heads of chains too, before the tail is computed: the answer to the
//! seal and the refusal of earlier writes are one step of the unit, so no write of an earlier epoch can land
//! after the unit was looked at.
//!
//! Source: CORFU (NSDI 2012), section 3.4. Departure: there, one unit of each chain is enough.

use std::collections::BTreeMap;

use crate::Position;

use super::message::{Member, Standing, UnitNumber, UnitReply};
use super::projection::Segment;

/// A round of sealing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Seal {
    pending: Vec<Member>,
    silent: Vec<UnitNumber>,
    reach: Position,
    trimmed: Position,
    /// Where each unit stands that answered.
    standings: BTreeMap<UnitNumber, Standing>,
}

impl Seal {
    /// Of these units.
    pub(crate) const fn new(pending: Vec<Member>) -> Self {
        let (reach, trimmed) = (Position::ZERO, Position::ZERO);
        Self { pending, silent: Vec::new(), reach, trimmed, standings: BTreeMap::new() }
    }

    /// Those who have not answered.
    pub(crate) fn pending(&self) -> &[Member] {
        &self.pending
    }

    /// Those who have no part in the next projection.
    pub(crate) fn silent(&self) -> &[UnitNumber] {
        &self.silent
    }

    pub(crate) const fn reach(&self) -> Position {
        self.reach
    }

    pub(crate) const fn trimmed(&self) -> Position {
        self.trimmed
    }

    fn answered(&mut self, member: Member) {
        self.pending.retain(|pending| *pending != member);
    }

    /// What a unit answered. False when the answer says that the projection is not the latest.
    pub(crate) fn take(&mut self, member: Member, reply: &UnitReply) -> bool {
        match reply {
            UnitReply::Standing(standing) => {
                self.learn(standing);
                self.standings.insert(member.unit, *standing);
                self.answered(member);
            }
            // It lost what it had, or is another one by now: as good as dead.
            UnitReply::Corrupt(_) | UnitReply::Stranger(_) => self.leave(member),
            UnitReply::Sealed(_) => return false,
            _ => {}
        }
        true
    }

    pub(crate) fn learn(&mut self, standing: &Standing) {
        self.reach = self.reach.max(standing.reach);
        self.trimmed = self.trimmed.max(standing.trimmed);
    }

    /// A unit of the open segment that does not reach as far as one behind it in its chain has entries, or junk: what is
    /// written comes from the head, so it lost what it had. An older copy of its files does that, for instance.
    pub(crate) fn fallen_behind(&self, open: &Segment) -> Option<Member> {
        let mut chains = open.chains.iter().map(|chain| &chain.units);
        chains.find_map(|units| {
            let standing = |member: &Member| self.standings.get(&member.unit);
            let is_short = |&(index, member): &(usize, &Member)| {
                standing(member).is_some_and(|own| {
                    let upto = own.reach.max(open.first);
                    // Trims reach one unit after another, and past what it ever had.
                    let has_more = |behind: &Standing| behind.reach > upto && behind.reach > behind.trimmed;
                    units[index + 1..].iter().filter_map(standing).any(has_more)
                })
            };
            units.iter().enumerate().find(is_short).map(|(_, member)| *member)
        })
    }

    /// Leaves a unit behind.
    pub(crate) fn leave(&mut self, member: Member) {
        self.answered(member);
        self.standings.remove(&member.unit);
        self.silent.push(member.unit);
    }
}
