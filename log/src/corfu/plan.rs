//! From one projection to the next: what a change makes of it.

use thiserror::Error;

use crate::{LogId, Position};

use super::message::{Epoch, Instance, Member, SequencerNumber, UnitNumber};
use super::projection::{Chain, Flaw, Projection, Segment};

/// What is to be different in the next epoch. The default changes nothing but the epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Change {
    /// Units that do not stay.
    pub lost: Vec<UnitNumber>,
    /// Units that join, empty: each gets what another one has, or had before it was lost.
    pub joins: Vec<Join>,
    /// Chains of units that join, empty: they share the positions from the tail on.
    pub chains: Vec<Vec<UnitNumber>>,
    /// Units that were copied to: they stand in their chains from now on.
    pub copied: Vec<Member>,
    /// Another sequencer.
    pub sequencer: Option<SequencerNumber>,
    /// Whether the log takes no more appends, ever.
    pub seal: bool,
}

/// A unit that joins the chains of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Join {
    /// Whose chains.
    pub beside: UnitNumber,
    /// The unit that joins; it stands in no chain.
    pub unit: UnitNumber,
}

impl Change {
    /// Replaces a unit that is lost.
    #[must_use]
    pub fn replace(lost: UnitNumber, unit: UnitNumber) -> Self {
        Self { lost: vec![lost], joins: vec![Join { beside: lost, unit }], ..Self::default() }
    }

    /// Goes on without a unit.
    #[must_use]
    pub fn remove(lost: UnitNumber) -> Self {
        Self { lost: vec![lost], ..Self::default() }
    }

    /// Adds chains, which share the positions from the tail on.
    #[must_use]
    pub fn grow(chains: Vec<Vec<UnitNumber>>) -> Self {
        Self { chains, ..Self::default() }
    }

    /// Replaces the sequencer.
    #[must_use]
    pub fn sequencer(number: SequencerNumber) -> Self {
        Self { sequencer: Some(number), ..Self::default() }
    }

    /// Takes the units that were copied to into their chains.
    #[must_use]
    pub fn copied(copied: Vec<Member>) -> Self {
        Self { copied, ..Self::default() }
    }

    /// Seals the log.
    #[must_use]
    pub fn seal() -> Self {
        Self { seal: true, ..Self::default() }
    }

    /// The units that join.
    pub fn joining(&self) -> impl Iterator<Item = UnitNumber> {
        self.joins.iter().map(|join| join.unit).chain(self.chains.iter().flatten().copied())
    }
}

/// What was found when the units were sealed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Found {
    /// The position after the last one that any unit has.
    pub tail: Position,
    /// Positions before it are trimmed.
    pub trimmed: Position,
    /// Units that did not answer, and are left behind.
    pub silent: Vec<UnitNumber>,
    /// The sequencer's instance; `None` if the log is sealed, or will be.
    pub instance: Option<Instance>,
}

/// Why a change cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum PlanError {
    /// Nobody would be left who has some positions.
    #[error("no unit would be left that has the positions from {0} on")]
    ChainLost(Position),
    /// A unit that joins stands in the projection already.
    #[error("unit {0} is in use")]
    InUse(UnitNumber),
    /// Two units that join are the same one.
    #[error("unit {0} is named twice, and can only join once")]
    Twice(UnitNumber),
    /// A unit to join beside is not in the projection.
    #[error("there is no unit {0} to join beside")]
    Unknown(UnitNumber),
    /// A log without units.
    #[error("a log needs a unit")]
    NoUnit,
    /// The log is sealed.
    #[error("the log is sealed")]
    Sealed,
}

impl Projection {
    /// The projection before the first, of a log with stripes of `width` positions. It is never installed;
    /// the first one is made of it by a [`Change`] that adds chains and a sequencer.
    #[must_use]
    pub const fn blank(log: LogId, width: u32) -> Self {
        Self { log, epoch: Epoch::NONE, width, tail: Position::ZERO, sequencer: None, segments: Vec::new() }
    }

    /// The number of the sequencer that `change` leaves; `None` if the log is, or will be, sealed.
    #[must_use]
    pub fn next_sequencer(&self, change: &Change) -> Option<SequencerNumber> {
        let was_sealed = self.sealed() && self.epoch != Epoch::NONE;
        if change.seal || was_sealed {
            return None;
        }
        change.sequencer.or_else(|| self.sequencer.map(|(number, _)| number))
    }

    /// Whether `change` can be made if all units answer.
    ///
    /// # Errors
    /// Why not.
    pub fn check_change(&self, change: &Change) -> Result<(), PlanError> {
        let tail = self.tail;
        self.next(change, &Found { tail, trimmed: Position::ZERO, silent: Vec::new(), instance: None })?;
        Ok(())
    }

    /// Whether every chain of every segment keeps a unit that has all its entries without those for which
    /// `gone` is true.
    #[must_use]
    pub fn survives(&self, gone: impl Fn(UnitNumber) -> bool) -> bool {
        self.lost_chain(gone).is_none()
    }

    /// The first chain that would not, and where its segment starts.
    pub(crate) fn lost_chain(&self, gone: impl Fn(UnitNumber) -> bool) -> Option<(Position, &Chain)> {
        let mut chains = self
            .segments
            .iter()
            .flat_map(|segment| segment.chains.iter().map(|chain| (segment.first, chain)));
        chains.find(|(_, chain)| chain.units.iter().all(|member| gone(member.unit)))
    }

    /// The next projection, with `change` made.
    ///
    /// Positions before the tail stay with the units that have them. A unit that joins shares the positions
    /// from the tail on at once, and is copied to before it; so the open segment is cut at the tail.
    ///
    /// # Errors
    /// [`PlanError`]: the change would lose entries, or makes no sense.
    pub fn next(&self, change: &Change, found: &Found) -> Result<Self, PlanError> {
        let epoch = self.epoch.next();
        let was_sealed = self.sealed() && self.epoch != Epoch::NONE;
        if was_sealed && !change.chains.is_empty() {
            return Err(PlanError::Sealed);
        }
        let members = self.members();
        for (index, unit) in change.joining().enumerate() {
            if members.iter().any(|member| member.unit == unit) {
                return Err(PlanError::InUse(unit));
            }
            if change.joining().take(index).any(|other| other == unit) {
                return Err(PlanError::Twice(unit));
            }
        }
        for join in &change.joins {
            if !members.iter().any(|member| member.unit == join.beside) {
                return Err(PlanError::Unknown(join.beside));
            }
        }
        let tail = if was_sealed { self.tail } else { self.tail.max(found.tail) };
        let gone = |unit: UnitNumber| change.lost.contains(&unit) || found.silent.contains(&unit);
        let joined = |unit: UnitNumber| Member { unit, joined: epoch };

        let mut segments = Vec::new();
        for segment in &self.segments {
            let mut chains = Vec::new();
            for chain in &segment.chains {
                let mut next = Chain { units: Vec::new(), joining: Vec::new() };
                next.units.extend(chain.units.iter().filter(|member| !gone(member.unit)));
                if next.units.is_empty() {
                    return Err(PlanError::ChainLost(segment.first));
                }
                for member in chain.joining.iter().filter(|member| !gone(member.unit)) {
                    if change.copied.contains(member) {
                        next.units.push(*member);
                    } else {
                        next.joining.push(*member);
                    }
                }
                for join in &change.joins {
                    if chain.members().any(|member| member.unit == join.beside) {
                        next.joining.push(joined(join.unit));
                    }
                }
                chains.push(next);
            }
            segments.push(Segment { first: segment.first, chains });
        }

        let grown = change.chains.iter().map(|units| Chain::of(units.iter().copied().map(joined).collect()));
        if let Some(open) = segments.last() {
            // Who joins is complete from the tail on.
            let mut chains = open.chains.clone();
            for chain in &mut chains {
                chain.units.append(&mut chain.joining);
            }
            chains.extend(grown);
            segments.push(Segment { first: tail, chains });
        } else {
            segments.push(Segment { first: Position::ZERO, chains: grown.collect() });
        }
        let segments = tidied(segments, found.trimmed);

        let sequencer = self.next_sequencer(change).map(|number| (number, found.instance));
        let sequencer = sequencer.map(|(number, instance)| (number, instance.unwrap_or(Instance(0))));
        let next = Self { log: self.log, epoch, width: self.width, tail, sequencer, segments };
        match next.check() {
            Ok(()) => Ok(next),
            Err(Flaw::Twice { unit }) => Err(PlanError::InUse(unit)),
            Err(_) => Err(PlanError::NoUnit),
        }
    }
}

/// Without segments that are empty, trimmed, or the same as the one before.
fn tidied(segments: Vec<Segment>, trimmed: Position) -> Vec<Segment> {
    let mut tidied: Vec<Segment> = Vec::new();
    for segment in segments {
        if tidied.last().is_some_and(|last| last.first >= segment.first) {
            tidied.pop();
        }
        if tidied.last().is_some_and(|last| last.chains == segment.chains) {
            continue;
        }
        tidied.push(segment);
    }
    let live = tidied.partition_point(|segment| segment.first <= trimmed).saturating_sub(1);
    tidied.drain(..live);
    tidied
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::projection::tests::member;
    use super::*;

    fn found(tail: u64) -> Found {
        let instance = Some(Instance(7));
        Found { tail: Position(tail), trimmed: Position::ZERO, silent: Vec::new(), instance }
    }

    fn units(numbers: &[u32]) -> Vec<UnitNumber> {
        numbers.iter().copied().map(UnitNumber).collect()
    }

    fn first() -> Projection {
        let change = Change {
            sequencer: Some(SequencerNumber(1)),
            ..Change::grow(vec![units(&[1, 2]), units(&[3, 4])])
        };
        Projection::blank(LogId(1), 10).next(&change, &found(0)).unwrap()
    }

    fn text(projection: &Projection) -> String {
        let text = projection.to_string();
        text.split_once('\n').unwrap().1.split_once('\n').unwrap().1.trim_end().to_owned()
    }

    #[test]
    fn first_projection_has_the_chains_that_were_asked_for() {
        let projection = first();
        assert_eq!((projection.epoch, projection.tail), (Epoch(1), Position(0)));
        assert_eq!(projection.sequencer, Some((SequencerNumber(1), Instance(7))));
        assert_eq!(text(&projection), "from 0: [1 > 2] [3 > 4]");
        assert_eq!(projection.members()[3], member(4, 1));
    }

    #[test]
    fn unit_replaced_is_complete_from_the_tail_on_and_copied_to_before() {
        let replaced = first().next(&Change::replace(UnitNumber(1), UnitNumber(5)), &found(25)).unwrap();
        assert_eq!(text(&replaced), "from 0: [2, joining 5] [3 > 4]\nfrom 25: [2 > 5] [3 > 4]");
        assert_eq!(replaced.joining(), [member(5, 2)]);
        let copied = replaced.next(&Change::copied(vec![member(5, 2)]), &found(31)).unwrap();
        assert_eq!(text(&copied), "from 0: [2 > 5] [3 > 4]");
        assert_eq!((copied.epoch, copied.tail), (Epoch(3), Position(31)));
    }

    #[test]
    fn unit_replaced_in_an_empty_log_needs_no_copy() {
        let replaced = first().next(&Change::replace(UnitNumber(1), UnitNumber(5)), &found(0)).unwrap();
        assert_eq!(text(&replaced), "from 0: [2 > 5] [3 > 4]");
    }

    #[test]
    fn unit_lost_again_before_it_was_copied_to_leaves_the_survivors() {
        let replaced = first().next(&Change::replace(UnitNumber(1), UnitNumber(5)), &found(25)).unwrap();
        let again = replaced.next(&Change::replace(UnitNumber(5), UnitNumber(6)), &found(40)).unwrap();
        assert_eq!(text(&again), "from 0: [2, joining 6] [3 > 4]\nfrom 40: [2 > 6] [3 > 4]");
        let copied = again.next(&Change::copied(vec![member(5, 2)]), &found(50)).unwrap();
        assert_eq!(copied.joining(), [member(6, 3)], "what another one got does not count");
    }

    #[test]
    fn last_unit_of_a_chain_is_not_given_up() {
        let lost = Change { lost: units(&[1, 2]), ..Change::default() };
        assert_eq!(first().next(&lost, &found(25)), Err(PlanError::ChainLost(Position(0))));
        // Neither for one that does not have everything yet.
        let replaced = first().next(&Change::replace(UnitNumber(1), UnitNumber(5)), &found(25)).unwrap();
        let gone = replaced.next(&Change::remove(UnitNumber(2)), &found(30));
        assert_eq!(gone, Err(PlanError::ChainLost(Position(0))));
    }

    #[test]
    fn chain_that_is_lost_is_told_with_where_its_segment_starts() {
        let grown = first().next(&Change::grow(vec![units(&[5, 6])]), &found(25)).unwrap();
        let lost = |gone: &[u32]| {
            let (position, chain) = grown.lost_chain(|unit| gone.contains(&unit.0))?;
            Some((position.0, chain.units.iter().map(|member| member.unit.0).collect::<Vec<_>>()))
        };
        assert_eq!(lost(&[1, 3, 5]), None);
        assert_eq!(lost(&[1, 5, 6]), Some((25, vec![5, 6])));
        assert_eq!(lost(&[3, 4, 5, 6]), Some((0, vec![3, 4])));
    }

    #[test]
    fn chains_added_share_what_comes_after_the_tail() {
        let grown = first().next(&Change::grow(vec![units(&[5, 6])]), &found(25)).unwrap();
        assert_eq!(text(&grown), "from 0: [1 > 2] [3 > 4]\nfrom 25: [1 > 2] [3 > 4] [5 > 6]");
        let trimmed = Found { trimmed: Position(25), ..found(40) };
        let pruned = grown.next(&Change::default(), &trimmed).unwrap();
        assert_eq!(text(&pruned), "from 25: [1 > 2] [3 > 4] [5 > 6]");
    }

    #[test]
    fn unit_in_use_does_not_join() {
        let change = Change::replace(UnitNumber(1), UnitNumber(2));
        assert_eq!(first().next(&change, &found(9)), Err(PlanError::InUse(UnitNumber(2))));
        let change = Change::replace(UnitNumber(9), UnitNumber(8));
        assert_eq!(first().next(&change, &found(9)), Err(PlanError::Unknown(UnitNumber(9))));
        for twice in [vec![units(&[7, 7])], vec![units(&[6, 7]), units(&[7])]] {
            let change = Change::grow(twice);
            assert_eq!(first().next(&change, &found(9)), Err(PlanError::Twice(UnitNumber(7))));
        }
    }

    #[test]
    fn sealed_log_keeps_its_tail_and_can_still_replace_units() {
        let sealed = first().next(&Change::seal(), &found(25)).unwrap();
        assert!(sealed.sealed());
        let replaced = sealed.next(&Change::replace(UnitNumber(1), UnitNumber(5)), &found(25)).unwrap();
        assert_eq!((replaced.tail, replaced.sealed()), (Position(25), true));
        assert_eq!(sealed.next(&Change::grow(vec![units(&[8])]), &found(25)), Err(PlanError::Sealed));
    }
}
