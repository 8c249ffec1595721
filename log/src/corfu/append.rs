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

use crate::{Batch, Block, Position};

use super::fill::{Aim, Fill, Filled};
use super::message::{EntryId, Member, Run, SequencerReply, SequencerVerb, Token, UnitReply, UnitVerb};
use super::operation::{Event, Input, Operation, Outbox, View};
use super::projection::Projection;
use super::rules::Rules;

/// Appends entries: all, or the first of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Append {
    view: View,
    rules: Rules,
    id: EntryId,
    entries: Arc<Entries>,
    phase: Phase,
    /// Where the run may be without our knowledge: some unit may have taken it there.
    in_doubt: Option<Written>,
}

/// What is to be appended.
///
/// Shape: `cuts` are the numbers of entries after which the append may end, ascending; the last one is all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entries {
    block: Block,
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
        Self { block: Block::of(Position::ZERO, batch), cuts }
    }

    /// Entries of which all are appended, or none.
    #[must_use]
    pub fn indivisible(batch: Batch) -> Self {
        let count = u32::try_from(batch.len()).expect("a batch holds less than 2^32 entries");
        Self::new(batch, vec![count])
    }

    /// The entries without the first `count`.
    #[must_use]
    pub(crate) fn after(&self, count: u32) -> Batch {
        let (bytes, ends) = self.block.data().expect("entries are data");
        let (before, ends) = ends.split_at(count as usize);
        let start = before.last().copied().unwrap_or(0);
        Batch::from_parts(bytes[start as usize..].to_vec(), ends.iter().map(|end| end - start).collect())
    }

    fn count(&self) -> u32 {
        *self.cuts.last().expect("there is a cut at the end")
    }

    /// The largest cut that is not more than `count`.
    fn cut(&self, count: u32) -> u32 {
        let after = self.cuts.partition_point(|cut| *cut <= count);
        after.checked_sub(1).map_or(0, |index| self.cuts[index])
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Waits for a token, or for the projection to ask one by.
    Token,
    /// Writes the run to the units of its chain; `index` is the one that is asked.
    Write { written: Written, index: usize },
    /// Fills positions that will not be written: those passed over, those lost, those left over. `then`: what
    /// to answer after that, if not to take another token.
    Leave { fill: Box<Fill>, rest: Option<(Position, Position)>, then: Option<AppendOutcome> },
    /// Finds out whether the run is in the log. `refusal`: what to answer if it is not, instead of taking
    /// another token.
    Resolve { fill: Box<Fill>, written: Written, refusal: Option<Refusal> },
}

/// A run, and the token it is written by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Written {
    token: Token,
    run: Run,
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
}

impl Append {
    /// Appends `entries`, of which the first has `id` and each has the next sequence.
    #[must_use]
    pub const fn new(projection: Arc<Projection>, id: EntryId, entries: Arc<Entries>, rules: Rules) -> Self {
        Self { view: View::new(projection), rules, id, entries, phase: Phase::Token, in_doubt: None }
    }

    /// What is known when nobody wants to wait any longer: a position where the entries may be, or may yet
    /// appear; `None` when they are not in the log and never will be.
    #[must_use]
    pub fn in_doubt(&self) -> Option<Position> {
        match &self.phase {
            Phase::Leave { then: Some(AppendOutcome::Committed(appended)), .. } => Some(appended.first),
            // A request may be under way still.
            Phase::Write { written, .. } | Phase::Resolve { written, .. } => Some(written.run.first()),
            Phase::Token | Phase::Leave { .. } => self.in_doubt.as_ref().map(|written| written.run.first()),
        }
    }

    fn ask_token(&mut self, out: &mut Outbox) -> Option<AppendOutcome> {
        self.phase = Phase::Token;
        self.in_doubt = None;
        let projection = self.view.projection();
        if projection.sealed() {
            return Some(AppendOutcome::NotCommitted(Refusal::Sealed(projection.tail)));
        }
        let at_least = self.entries.cuts[0];
        if at_least > projection.width {
            return Some(AppendOutcome::NotCommitted(Refusal::TooMany(projection.width)));
        }
        let next = SequencerVerb::Next { count: self.entries.count(), at_least };
        self.view.ask_sequencer(out, next);
        None
    }

    /// Whether a token may be used by the projection at hand.
    fn valid(&self, token: &Token) -> bool {
        token.epoch == self.view.epoch() || !self.rules.tokens_have_epochs
    }

    fn take_token(&mut self, token: Token, out: &mut Outbox) {
        if !self.valid(&token) {
            return self.view.refresh_to(token.epoch, out);
        }
        let count = self.entries.cut(token.count);
        if count == 0 {
            // It is not what was asked for. Perhaps the next one is.
            return self.view.retry(out);
        }
        let (bytes, ends) = self.entries.block.data().expect("entries are data");
        let ends = ends[..count as usize].to_vec();
        let bytes = bytes[..ends.last().map_or(0, |end| *end as usize)].to_vec();
        let block = Arc::new(Block::of(token.first, Batch::from_parts(bytes, ends)));
        let written = Written { token, run: Run::data(self.id, block) };
        self.write(written, 0, out);
    }

    fn write(&mut self, written: Written, index: usize, out: &mut Outbox) {
        let place = self.view.projection().place(written.run.first()).expect("tokens are not trimmed");
        let member = place.chain.units[index];
        let run = written.run.clone();
        let verb = if index == 0 { UnitVerb::Write(run) } else { UnitVerb::Copy(vec![run]) };
        self.view.ask_unit(out, member, verb);
        // It may arrive, and be heard of never, or twice.
        self.in_doubt = Some(written.clone());
        self.phase = Phase::Write { written, index };
    }

    /// The run is on the unit that was asked last, or need not be.
    fn written(&mut self, written: Written, index: usize, out: &mut Outbox) -> Option<AppendOutcome> {
        let place = self.view.projection().place(written.run.first()).expect("as before");
        if index + 1 == place.chain.units.len() {
            return self.committed(&written, out);
        }
        self.write(written, index + 1, out);
        None
    }

    fn committed(&mut self, written: &Written, out: &mut Outbox) -> Option<AppendOutcome> {
        let count = u32::try_from(written.run.block.len()).expect("a run holds less than 2^32 entries");
        let appended = Appended { first: written.run.first(), count };
        let token = &written.token;
        let (before, after) = ((token.skipped, token.first), (written.run.end(), token.end()));
        self.leave(token, &[before, after], Some(AppendOutcome::Committed(appended)), out)
    }

    /// The token is of no use any more.
    fn lost(&mut self, token: &Token, out: &mut Outbox) -> Option<AppendOutcome> {
        self.in_doubt = None;
        self.leave(token, &[(token.skipped, token.end())], None, out)
    }

    /// Up to which position something may stand that was written by this token, or by nobody: what lies past
    /// the tail of a later epoch belongs to that epoch.
    fn bound(&self, token: &Token) -> Position {
        let projection = self.view.projection();
        if token.epoch < projection.epoch { token.end().min(projection.tail) } else { token.end() }
    }

    /// Fills the token's positions in `ranges`, and then answers or starts over.
    fn leave(
        &mut self,
        token: &Token,
        ranges: &[(Position, Position)],
        then: Option<AppendOutcome>,
        out: &mut Outbox,
    ) -> Option<AppendOutcome> {
        let bound = self.bound(token);
        let ranges = ranges.iter().map(|(from, upto)| (*from, (*upto).min(bound)));
        self.fill_next(ranges.filter(|(from, upto)| from < upto).collect(), then, out)
    }

    fn fill_next(
        &mut self,
        mut ranges: Vec<(Position, Position)>,
        then: Option<AppendOutcome>,
        out: &mut Outbox,
    ) -> Option<AppendOutcome> {
        let Some((from, upto)) = ranges.pop() else {
            return then.or_else(|| self.ask_token(out));
        };
        self.view.abandon();
        let mut fill = Box::new(Fill::with_view(self.view.clone(), from, upto, Aim::Settle));
        let outcome = fill.step(Input::Start, out);
        self.phase = Phase::Leave { fill, rest: ranges.pop(), then };
        outcome.and_then(|_| self.filled(out))
    }

    /// A range was filled. What could not be filled is for the janitor, once the unit is replaced.
    fn filled(&mut self, out: &mut Outbox) -> Option<AppendOutcome> {
        let Phase::Leave { fill, rest, then } = std::mem::replace(&mut self.phase, Phase::Token) else {
            unreachable!("positions were being filled");
        };
        self.view = fill.into_view();
        self.fill_next(rest.into_iter().collect(), then, out)
    }

    fn resolve(
        &mut self,
        written: Written,
        refusal: Option<Refusal>,
        out: &mut Outbox,
    ) -> Option<AppendOutcome> {
        self.view.abandon();
        let (from, upto) = (written.run.first(), written.run.end().min(self.bound(&written.token)));
        if from >= upto {
            // No unit that stayed had it, or the tail would lie after it.
            return self.lost(&written.token, out);
        }
        let mut fill = Box::new(Fill::with_view(self.view.clone(), from, upto, Aim::Know));
        let outcome = fill.step(Input::Start, out);
        self.phase = Phase::Resolve { fill, written, refusal };
        outcome.and_then(|filled| self.resolved(&filled, out))
    }

    fn resolved(&mut self, filled: &Filled, out: &mut Outbox) -> Option<AppendOutcome> {
        let Phase::Resolve { fill, written, refusal } = std::mem::replace(&mut self.phase, Phase::Token)
        else {
            unreachable!("a run was being resolved");
        };
        self.view = fill.into_view();
        let first = written.run.first();
        if filled.runs.iter().any(|run| run.id == written.run.id && run.first() == first) {
            return self.committed(&written, out);
        }
        if filled.trimmed > first {
            return Some(AppendOutcome::Indeterminate(first));
        }
        if filled.corrupt.is_some() {
            // Until the unit is replaced nobody knows.
            self.in_doubt = Some(written);
            self.view.retry(out);
            return None;
        }
        let token = &written.token;
        self.in_doubt = None;
        let refused = refusal.map(AppendOutcome::NotCommitted);
        self.leave(token, &[(token.skipped, token.end())], refused, out)
    }

    /// Goes on after the projection was looked up.
    fn resume(&mut self, out: &mut Outbox) -> Option<AppendOutcome> {
        match (&self.phase, self.in_doubt.take()) {
            // The same epoch: the same question again, which is answered the same if it was heard already.
            (Phase::Write { written, index }, _) if self.valid(&written.token) => {
                let (written, index) = (written.clone(), *index);
                self.write(written, index, out);
                None
            }
            (_, Some(written)) => self.resolve(written, None, out),
            (_, None) => self.ask_token(out),
        }
    }

    fn take_written(&mut self, member: Member, reply: &UnitReply, out: &mut Outbox) -> Option<AppendOutcome> {
        let Phase::Write { written, index } = &self.phase else { return None };
        let (written, index) = (written.clone(), *index);
        match reply {
            UnitReply::Done => self.written(written, index, out),
            // Nobody else writes runs of this id: if the head has another one here, it never had this one.
            UnitReply::Taken(_) if index == 0 => self.lost(&written.token, out),
            UnitReply::Trimmed(_) => self.resolve(written, None, out),
            // Readers must not wait for what will not come, so the positions are filled in any case.
            UnitReply::Full => self.resolve(written, Some(Refusal::Full(member)), out),
            UnitReply::TooLarge(limit) => self.resolve(written, Some(Refusal::TooLarge(*limit)), out),
            // In one epoch no unit has what the head has not. So the epoch is over, or a unit lost something.
            UnitReply::Taken(_) | UnitReply::Corrupt(_) => {
                self.view.retry(out);
                None
            }
            trouble => {
                self.view.trouble(trouble, out);
                None
            }
        }
    }
}

impl Operation for Append {
    type Outcome = AppendOutcome;

    fn step(&mut self, input: Input, out: &mut Outbox) -> Option<AppendOutcome> {
        match &mut self.phase {
            Phase::Leave { fill, .. } => {
                fill.step(input, out)?;
                return self.filled(out);
            }
            Phase::Resolve { fill, .. } => {
                let filled = fill.step(input, out)?;
                return self.resolved(&filled, out);
            }
            Phase::Token | Phase::Write { .. } => {}
        }
        match self.view.sort(input, out) {
            Event::Refreshed => self.resume(out),
            Event::Sequencer(Some(SequencerReply::Token(token))) => {
                self.take_token(token, out);
                None
            }
            Event::Sequencer(reply) => {
                self.view.sequencer_trouble(reply, out);
                None
            }
            Event::Unit(member, reply) => self.take_written(member, &reply, out),
            Event::NoUnit(_) => {
                self.view.retry(out);
                None
            }
            Event::Store(_) | Event::Paused | Event::Nothing => None,
        }
    }
}
