//! Seal: units refuse all earlier epochs from now on, and tell how far they reach.
//!
//! Every unit that stays is sealed, the heads of chains too, before the tail is computed: the answer to the
//! seal and the refusal of earlier writes are one step of the unit, so no write of an earlier epoch can land
//! after the unit was looked at.
//!
//! Source: CORFU (NSDI 2012), section 3.4. Departure: there, one unit of each chain is enough.

use crate::Position;

use super::message::{Member, Standing, UnitNumber, UnitReply};

/// A round of sealing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Seal {
    pending: Vec<Member>,
    silent: Vec<UnitNumber>,
    reach: Position,
    trimmed: Position,
}

impl Seal {
    /// Of these units.
    pub(crate) const fn new(pending: Vec<Member>) -> Self {
        Self { pending, silent: Vec::new(), reach: Position::ZERO, trimmed: Position::ZERO }
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

    /// Leaves a unit behind.
    pub(crate) fn leave(&mut self, member: Member) {
        self.answered(member);
        self.silent.push(member.unit);
    }
}
