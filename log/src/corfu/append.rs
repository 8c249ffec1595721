//! Append: a token, then the chain, head to tail.
//!
//! 1. The sequencer gives a token for consecutive positions, valid in its epoch.
//! 2. The units of their chain are written one after the other. The head arbitrates between writers and
//!    fillers. The units behind it are made the same: one that has the run already was helped by a filler,
//!    and one that has trimmed it makes no difference, since the head took it.
//! 3. When the last unit has it, the run is committed.
//!
//! A token that is lost to another is filled, so that nobody waits at a hole, and a new one is taken. When
//! the epoch ends, or an answer is lost, or the head refuses the run without having another one there, then
//! whether the run is in the log is found out by filling its positions, and comparing ids: two clients may
//! append the same bytes. A refusal alone says little: the request may have arrived twice, and be refused the
//! second time only.
//!
//! Source: CORFU (NSDI 2012), section 3.3.

use std::sync::Arc;

use crate::block::EntryBytes;
use crate::buffer::Buffer;
use crate::{Batch, Block, Position};

use super::appends::Appends;
use super::message::{EntryId, Member};
use super::operation::{Input, Operation, Outbox};
use super::projection::Projection;
use super::rules::Rules;

/// Appends entries: all, or the first of them.
///
/// It is the only run of its client that is under way; [`Appends`] has several.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Append(Appends);

/// What is to be appended.
///
/// Shape: `cuts` are the numbers of entries after which the append may end, ascending; the last one is all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entries {
    bytes: Arc<Buffer>,
    ends: Vec<u32>,
    cuts: Vec<u32>,
}

impl Entries {
    /// Entries of which either all are appended, or as many as one of `cuts` says.
    ///
    /// # Panics
    /// When `cuts` do not ascend from 1 or more to the number of entries.
    #[must_use]
    pub fn new(batch: Batch, cuts: Vec<u32>) -> Self {
        assert!(cuts.is_sorted_by(|a, b| a < b) && cuts.first().is_some_and(|first| *first > 0));
        assert_eq!(cuts.last().map(|last| *last as usize), Some(batch.len()));
        let (bytes, ends) = batch.into_parts();
        Self { bytes: Arc::new(bytes.into()), ends, cuts }
    }

    /// Entries of which all are appended, or none.
    #[must_use]
    pub fn indivisible(batch: Batch) -> Self {
        let count = u32::try_from(batch.len()).expect("a batch holds less than 2^32 entries");
        Self::new(batch, vec![count])
    }

    /// How many there are from the one after the first `begin` on.
    pub(crate) fn count_from(&self, begin: u32) -> u32 {
        *self.cuts.last().expect("there is a cut at the end") - begin
    }

    /// How many of those can be appended at least.
    pub(crate) fn at_least(&self, begin: u32) -> u32 {
        self.cuts[self.cuts.partition_point(|cut| *cut <= begin)] - begin
    }

    /// How many of those can be appended at most, if not more than `count`; 0: that is too few.
    pub(crate) fn cut(&self, begin: u32, count: u32) -> u32 {
        let end = begin.saturating_add(count);
        let after = self.cuts.partition_point(|cut| *cut <= end);
        after.checked_sub(1).map_or(0, |index| self.cuts[index].saturating_sub(begin))
    }

    /// The `count` of them after the first `begin`, as they stand from position `first` on.
    pub(crate) fn part(&self, begin: u32, count: u32, first: Position) -> Block {
        let (begin, end) = (begin as usize, (begin + count) as usize);
        let start = begin.checked_sub(1).map_or(0, |before| self.ends[before]);
        let ends: Vec<u32> = self.ends[begin..end].iter().map(|end| end - start).collect();
        let (start, length) = (start as usize, ends.last().copied().unwrap_or(0) as usize);
        Block::from_parts(first, EntryBytes::part(&self.bytes, start..start + length), ends)
    }
}

/// Where entries were appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Appended {
    /// The position of the first.
    pub first: Position,
    /// How many of the entries: one of the cuts.
    pub count: u32,
}

/// What came of an append.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AppendOutcome {
    /// The entries are on every unit of their chain.
    Committed(Appended),
    /// Nothing was or will be appended.
    NotCommitted(Refusal),
    /// Nobody can tell: the entries were written, or not, at this position, which was trimmed before the
    /// answer came.
    Indeterminate(Position),
}

/// Why nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The log is sealed at this tail.
    Sealed(Position),
    /// The unit has no space.
    Full(Member),
    /// The unit does not take runs of more bytes than this.
    TooLarge(u32),
    /// The first cut is larger than a stripe, which has so many positions.
    TooMany(u32),
    /// Later entries of the same client are in the log, or may have been before they were trimmed: these were kept
    /// from standing after them.
    Overtaken,
}

impl Append {
    /// Appends `entries`, of which the first has `id` and each has the next sequence.
    #[must_use]
    pub fn new(projection: Arc<Projection>, id: EntryId, entries: Arc<Entries>, rules: Rules) -> Self {
        Self(Appends::one(projection, id, entries, rules))
    }

    /// What is known when nobody wants to wait any longer: a position where the entries may be, or may yet
    /// appear; `None` when they are not in the log and never will be.
    #[must_use]
    pub fn in_doubt(&self) -> Option<Position> {
        match self.0.first_ended().map(|ended| &ended.outcome) {
            Some(AppendOutcome::Committed(appended)) => Some(appended.first),
            Some(AppendOutcome::Indeterminate(position)) => Some(*position),
            Some(AppendOutcome::NotCommitted(_)) => None,
            None => self.0.in_doubt().next().and_then(|(_, position)| position),
        }
    }
}

impl Operation for Append {
    type Outcome = AppendOutcome;

    fn step(&mut self, input: Input, out: &mut Outbox) -> Option<AppendOutcome> {
        self.0.step(input, out);
        // Before that is told, nobody waits at what is left of its tokens.
        self.0.has_left().then(|| self.0.next_ended()).flatten().map(|ended| ended.outcome)
    }
}
