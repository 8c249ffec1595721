//! What units remember, and what they lose of it.
//!
//! A unit that is damaged starts again from the first of its records, as one does whose journal cannot be read to the
//! end, and knows that it lost something. What it had is kept here, so that every answer can be compared with it.

use std::collections::{BTreeMap, BTreeSet};

use mixlog_log::Position;
use mixlog_log::corfu::{
    EntryId, Limits, Member, Record, Rules, Unit, UnitNumber, UnitReply, UnitRequest, UnitVerb,
};

/// What is written from one position up to another one.
type Cell = (Position, Position, Option<EntryId>);

/// The disks of all units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Disks {
    /// Empty where nothing can be lost any more: records stand in the order in which they came, which makes many states
    /// of one.
    journals: BTreeMap<UnitNumber, Vec<Record>>,
    /// Who lost some records, and what was written in them.
    lost: BTreeMap<Member, BTreeSet<Cell>>,
}

impl Disks {
    /// Of units that remember nothing yet.
    pub(crate) fn of(units: impl Iterator<Item = UnitNumber>) -> Self {
        Self { journals: units.map(|unit| (unit, Vec::new())).collect(), lost: BTreeMap::new() }
    }

    /// How many records there are of a unit.
    pub(crate) fn records(&self, unit: UnitNumber) -> usize {
        self.journals.get(&unit).map_or(0, Vec::len)
    }

    /// A unit that was `before` is to remember these.
    pub(crate) fn remember(&mut self, before: &Unit, now: &Unit, records: Vec<Record>) {
        let Some(journal) = self.journals.get_mut(&now.number()) else { return };
        if before.damaged() && !now.damaged() {
            // It joins anew, and so does its journal begin.
            journal.clear();
        }
        journal.extend(records);
    }

    /// A unit starts again from the first `kept` of its records.
    pub(crate) fn lose(&mut self, unit: &mut Unit, kept: usize, rules: Rules) {
        let journal = self.journals.get_mut(&unit.number()).expect("its records are kept");
        journal.truncate(kept);
        let mut left = Unit::new(unit.number(), Limits::NONE, rules);
        for record in journal {
            left.replay(record.clone(), None);
        }
        let had = std::mem::replace(unit, left);
        let member = had.member().expect("who stands in a projection has joined");
        let mut lost = cells(&had);
        if unit.member() == Some(member) {
            let left = cells(unit);
            lost.retain(|cell| !left.contains(cell));
        }
        self.lost.insert(member, lost);
    }

    /// Nothing is lost any more.
    pub(crate) fn forget_records(&mut self) {
        self.journals.clear();
    }

    /// Whether a member has lost records.
    pub(crate) fn has_lost(&self, member: Member) -> bool {
        self.lost.contains_key(&member)
    }

    /// Who has.
    pub(crate) fn losers(&self) -> impl Iterator<Item = &Member> {
        self.lost.keys()
    }

    /// Whether an answer says that nothing is written where the member had something, or that junk is where it had an
    /// entry.
    pub(crate) fn denies(&self, request: &UnitRequest, reply: &UnitReply) -> bool {
        let Some(lost) = self.lost.get(&request.member) else { return false };
        let had = |from: Position, upto: Position| {
            lost.iter().filter(move |(first, end, _)| *first < upto && from < *end)
        };
        match (&request.verb, reply) {
            (UnitVerb::Read { from, .. } | UnitVerb::Fill { from, .. }, UnitReply::Runs(runs)) => {
                let mut junk = runs.iter().filter(|run| run.id.is_none());
                (runs.is_empty() && had(*from, from.next()).next().is_some())
                    || junk.any(|run| had(run.first(), run.end()).any(|(.., id)| id.is_some()))
            }
            (_, UnitReply::Gap(from, upto)) => had(*from, *upto).next().is_some(),
            // Who does not reach a position has nothing there.
            (_, UnitReply::Standing(standing)) => had(standing.reach, Position::MAX).next().is_some(),
            _ => false,
        }
    }
}

fn cells(unit: &Unit) -> BTreeSet<Cell> {
    unit.written().map(|(first, end, id, _)| (first, end, id)).collect()
}
