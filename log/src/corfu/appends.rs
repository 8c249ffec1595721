//! Appends of one client, several under way at a time, in order.
//!
//! A run is written as `append.rs` tells: a token, then the units of the chain, head first. Here the next run goes out
//! before the last one has come to its end, so that the units' flushes overlap. What must not happen is that a run has
//! to be written again elsewhere after a later one was committed:
//!
//! 1. One token is asked for at a time, and used only if it lies after the one before.
//! 2. A run that goes out while others are under way names the one before it, on every unit of the chain
//!    ([`UnitVerb::WriteAfter`], [`UnitVerb::CopyAfter`]): a unit that does not have that one refuses. So on each unit,
//!    whatever it loses with its power, runs of one client and epoch stand without a gap: if one of them is nowhere,
//!    the later ones are not either.
//! 3. A unit of another chain cannot know: a run that lies on another chain than the one before waits until that is
//!    committed.
//! 4. As soon as the epoch ends, an answer is doubtful, or a run is refused, no run goes out any more. Of those under
//!    way it is found out, in order, which are in the log, by filling their positions. From the first one on that is
//!    not, all are written again, in order.
//!
//! Somebody who fills without order may break 2: he may make a run complete whose predecessor was only on a head that
//! is lost. Then the predecessor is given up ([`Refusal::Overtaken`]) rather than put after it. Readers fill in order,
//! so that this takes a sequencer that gave out a position twice, or somebody who trims what is being written.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::{Batch, Position};

use super::append::{AppendOutcome, Appended, Entries, Refusal};
use super::fill::{Aim, Fill, Filled};
use super::message::{
    EntryId, Epoch, Member, Predecessor, Run, SequencerReply, SequencerVerb, Token, UnitReply, UnitVerb,
};
use super::operation::{Call, Event, Input, Operation, Outbox, View};
use super::projection::Projection;
use super::rules::Rules;

/// Requests that fill what is left of tokens have numbers from here on.
const LEAVING: Call = Call(1 << 31);

/// Why a run that is under way has a place, whatever servers say: its token was [valid](Appends::valid) when it went out,
/// and is looked at again whenever the projection changes, while nobody waits for an answer to it.
const PLACED: &str = "no token is used without a place in the projection at hand";

/// How much may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// How many runs, at most.
    pub runs: usize,
    /// How many bytes of entries, after which no further run goes out.
    pub bytes: usize,
}

/// Appends entries in the order in which they are [offered](Self::offer).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Appends {
    view: View,
    rules: Rules,
    window: Window,
    /// Whether entries that a token has no positions for get another token.
    keep_rest: bool,
    /// Without a token, in order.
    waiting: VecDeque<Waiting>,
    /// With a token, in order.
    under_way: VecDeque<UnderWay>,
    bytes: usize,
    stage: Stage,
    /// Where the last token ended, and its epoch.
    floor: (Epoch, Position),
    /// It lies on another chain than what is under way.
    held: Option<Token>,
    ended: VecDeque<Ended>,
    leaving: Leaving,
}

/// Entries from `begin` on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Waiting {
    /// Of the entry at `begin`.
    id: EntryId,
    entries: Arc<Entries>,
    begin: u32,
}

/// A run that some unit may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct UnderWay {
    token: Token,
    run: Run,
    /// Which unit of the chain is asked, and by which request; `None`: it has answered that it has the run.
    index: usize,
    call: Option<Call>,
    /// What to answer if the run turns out not to be in the log, instead of writing it again.
    refusal: Option<Refusal>,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fate {
    /// It may be in the log, or get there.
    Open,
    Committed,
    /// It is not in the log, and never will be.
    Lost,
    /// Its position is trimmed: nobody knows.
    Trimmed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Waits until the projection was looked up.
    Look,
    /// Runs go out. `asked`: a token is on its way.
    Flow { asked: bool },
    /// Finds out about the run of this index; without a fill, waits until the projection was looked up.
    Resolve { index: usize, fill: Option<Box<Fill>> },
}

/// What became of some entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ended {
    /// How many: the first of those that have not ended before.
    pub count: u32,
    /// What became of them.
    pub outcome: AppendOutcome,
}

impl Appends {
    /// Appends nothing yet.
    #[must_use]
    pub const fn new(projection: Arc<Projection>, window: Window, rules: Rules) -> Self {
        Self {
            view: View::new(projection),
            rules,
            window,
            keep_rest: true,
            waiting: VecDeque::new(),
            under_way: VecDeque::new(),
            bytes: 0,
            stage: Stage::Look,
            floor: (Epoch::NONE, Position::ZERO),
            held: None,
            ended: VecDeque::new(),
            leaving: Leaving::new(),
        }
    }

    /// Appends these, or the first of them.
    pub(super) fn one(projection: Arc<Projection>, id: EntryId, entries: Arc<Entries>, rules: Rules) -> Self {
        let window = Window { runs: 1, bytes: usize::MAX };
        let waiting = VecDeque::from([Waiting { id, entries, begin: 0 }]);
        Self { keep_rest: false, waiting, ..Self::new(projection, window, rules) }
    }

    /// Whether there is room for more entries. Until it has, nothing need be offered.
    #[must_use]
    pub fn wants(&self) -> bool {
        matches!(self.stage, Stage::Flow { .. })
            && self.waiting.is_empty()
            && self.under_way.len() < self.window.runs
            && self.bytes < self.window.bytes
    }

    /// How many runs are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Whether everything has ended, but for tokens of which something is left to be filled.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_empty() && self.ended.is_empty()
    }

    /// Whether nothing is left to be filled either.
    pub(super) fn has_left(&self) -> bool {
        self.leaving.is_done()
    }

    /// Takes note of a projection that somebody else has looked up.
    pub(super) fn learn(&mut self, projection: &Arc<Projection>) {
        if self.is_idle() && matches!(self.stage, Stage::Flow { asked: false }) {
            self.view.learn(projection);
        }
    }

    /// Appends `entries` after all that were offered before, of which the first has `id` and each has the next sequence.
    pub fn offer(&mut self, id: EntryId, entries: Arc<Entries>, out: &mut Outbox) {
        self.waiting.push_back(Waiting { id, entries, begin: 0 });
        self.ask_token(out);
    }

    /// What ended next, in the order of the entries.
    pub fn next_ended(&mut self) -> Option<Ended> {
        self.ended.pop_front()
    }

    pub(super) fn first_ended(&self) -> Option<&Ended> {
        self.ended.front()
    }

    /// What is known when nobody wants to wait any longer, of all entries that have not ended, in order: how many, and
    /// a position where they may be, or may yet appear; `None` when they are not in the log and never will be.
    pub fn in_doubt(&self) -> impl Iterator<Item = (u32, Option<Position>)> {
        let under_way = self.under_way.iter().map(|one| {
            let lost = one.fate == Fate::Lost;
            (count(&one.run), (!lost).then(|| one.run.first()))
        });
        under_way.chain(self.waiting.iter().map(|waiting| (waiting.entries.count_from(waiting.begin), None)))
    }

    /// Takes an input, and asks for what has to be done next.
    pub fn step(&mut self, input: Input, out: &mut Outbox) {
        let call = match &input {
            Input::Reply { call, .. } | Input::Lost { call } => Some(*call),
            Input::Start | Input::Elapsed => None,
        };
        if call.is_some_and(|call| call >= LEAVING) {
            self.leaving.step(input, out);
        } else {
            if input == Input::Elapsed {
                self.leaving.step(Input::Elapsed, out);
            }
            self.step_own(call, input, out);
        }
        self.leaving.go_on(self.view.projection(), out);
        self.ask_token(out);
    }

    fn step_own(&mut self, call: Option<Call>, input: Input, out: &mut Outbox) {
        if let Stage::Resolve { fill: Some(fill), .. } = &mut self.stage {
            if let Some(filled) = fill.step(input, out) {
                self.filled(&filled, out);
            }
            return;
        }
        match self.view.sort(input, out) {
            Event::Refreshed => self.resume(out),
            Event::Sequencer(Some(SequencerReply::Token(token))) => self.take_token(token, out),
            Event::Sequencer(reply) => {
                self.look();
                self.view.sequencer_trouble(reply, out);
            }
            Event::Unit(_, reply) => {
                let index = self.under_way.iter().position(|one| one.call == call);
                if let Some(index) = index {
                    self.take_answer(index, &reply, out);
                }
            }
            Event::NoUnit(_) => {
                self.look();
                self.view.retry(out);
            }
            Event::Store(_) | Event::Paused | Event::Nothing => {}
        }
    }

    // ---- tokens ------------------------------------------------------------------------------------------

    fn ask_token(&mut self, out: &mut Outbox) {
        let Stage::Flow { asked: false } = self.stage else { return };
        if self.held.is_some() || self.leaving.comes_first() || self.under_way.len() >= self.window.runs {
            return;
        }
        while let Some(next) = self.waiting.front() {
            let at_least = next.entries.at_least(next.begin);
            let projection = self.view.projection();
            let refusal = if projection.sealed() {
                Refusal::Sealed(projection.tail)
            } else if at_least > projection.width {
                Refusal::TooMany(projection.width)
            } else {
                let count = next.entries.count_from(next.begin);
                self.view.ask_sequencer(out, SequencerVerb::Next { count, at_least });
                self.stage = Stage::Flow { asked: true };
                return;
            };
            if !self.under_way.is_empty() {
                // Its turn to be told has not come.
                return;
            }
            let Waiting { entries, begin, .. } = self.waiting.pop_front().expect("it was just there");
            let count = entries.count_from(begin);
            self.ended.push_back(Ended { count, outcome: AppendOutcome::NotCommitted(refusal) });
        }
    }

    /// Whether a token may be used by the projection at hand.
    fn valid(&self, token: &Token) -> bool {
        let projection = self.view.projection();
        let by_mistake = !self.rules.tokens_have_epochs && projection.place(token.first).is_some();
        projection.admits(token) || by_mistake
    }

    fn take_token(&mut self, token: Token, out: &mut Outbox) {
        if !self.valid(&token) {
            self.look();
            if token.epoch == self.view.epoch() {
                // The sequencer does not count as it should. Perhaps it will, or another one takes its place.
                return self.view.retry(out);
            }
            return self.view.refresh_to(token.epoch, out);
        }
        self.stage = Stage::Flow { asked: false };
        if self.floor.0 == token.epoch && token.first < self.floor.1 {
            // The sequencer went back. These positions are somebody's, and its next ones are higher.
            return;
        }
        self.floor = (token.epoch, token.end());
        let projection = self.view.projection();
        let chain = |position| &projection.place(position).expect(PLACED).chain.units;
        match self.under_way.back() {
            Some(before) if chain(before.run.first()) != chain(token.first) => self.held = Some(token),
            _ => self.launch(token, out),
        }
    }

    /// Writes the entries whose turn it is by this token.
    fn launch(&mut self, token: Token, out: &mut Outbox) {
        let Some(Waiting { id, entries, begin }) = self.waiting.pop_front() else { return };
        let count = entries.cut(begin, token.count);
        if count == 0 {
            // It is not what was asked for. Perhaps the next one is.
            self.waiting.push_front(Waiting { id, entries, begin });
            self.look();
            return self.view.retry(out);
        }
        let block = Arc::new(entries.part(begin, count, token.first));
        if count < entries.count_from(begin) && self.keep_rest {
            let id = EntryId { sequence: id.sequence + u64::from(count), ..id };
            self.waiting.push_front(Waiting { id, entries, begin: begin + count });
        }
        let run = Run::data(id, block);
        self.bytes += run.block.bytes();
        self.under_way.push_back(UnderWay {
            token,
            run,
            index: 0,
            call: None,
            refusal: None,
            fate: Fate::Open,
        });
        self.write(self.under_way.len() - 1, out);
    }

    // ---- runs --------------------------------------------------------------------------------------------

    fn units(&self, index: usize) -> &[Member] {
        let place = self.view.projection().place(self.under_way[index].run.first());
        &place.expect(PLACED).chain.units
    }

    /// Asks the unit whose turn it is to take the run of this index.
    fn write(&mut self, index: usize, out: &mut Outbox) {
        let one = &self.under_way[index];
        let member = self.units(index)[one.index];
        let before = index.checked_sub(1).map(|before| &self.under_way[before].run);
        let before =
            before.map(|run| Predecessor { first: run.first(), id: run.id.expect("entries have ids") });
        let run = one.run.clone();
        let verb = match (one.index, before) {
            (0, None) => UnitVerb::Write(run),
            (0, Some(before)) => UnitVerb::WriteAfter(before, run),
            (_, None) => UnitVerb::Copy(vec![run]),
            (_, Some(before)) => UnitVerb::CopyAfter(before, run),
        };
        let call = self.view.ask_unit(out, member, verb);
        self.under_way[index].call = Some(call);
    }

    fn take_answer(&mut self, index: usize, reply: &UnitReply, out: &mut Outbox) {
        let one = &mut self.under_way[index];
        match reply {
            UnitReply::Done => {
                one.call = None;
                self.advance(index, out);
            }
            // Nobody else writes runs of this id: if the head has another one here, it never had this one.
            UnitReply::Taken(_) if one.index == 0 => {
                one.fate = Fate::Lost;
                self.resolve(0, out);
            }
            UnitReply::Trimmed(_) => self.resolve(0, out),
            // Readers must not wait for what will not come, so the positions are filled in any case.
            UnitReply::Full => {
                let member = self.units(index)[self.under_way[index].index];
                self.under_way[index].refusal = Some(Refusal::Full(member));
                self.resolve(0, out);
            }
            UnitReply::TooLarge(limit) => {
                one.refusal = Some(Refusal::TooLarge(*limit));
                self.resolve(0, out);
            }
            // In one epoch no unit has what the head has not. So the epoch is over, or a unit lost something.
            // Early: what the one before was answered is known by now, or its request is lost.
            UnitReply::Taken(_) | UnitReply::Corrupt(_) | UnitReply::Early => {
                self.look();
                self.view.retry(out);
            }
            trouble => {
                self.look();
                self.view.trouble(trouble, out);
            }
        }
    }

    /// The runs from `index` on go to their next units, each after the one before it.
    fn advance(&mut self, index: usize, out: &mut Outbox) {
        for index in index..self.under_way.len() {
            let one = &self.under_way[index];
            if one.call.is_some() || one.fate != Fate::Open {
                break;
            }
            if one.index + 1 == self.units(index).len() {
                self.under_way[index].fate = Fate::Committed;
                continue;
            }
            let before = index.checked_sub(1).map(|before| &self.under_way[before]);
            if before.is_some_and(|before| before.index <= one.index && before.fate == Fate::Open) {
                break;
            }
            self.under_way[index].index += 1;
            self.write(index, out);
        }
        while self.under_way.front().is_some_and(|one| one.fate == Fate::Committed) {
            let one = self.under_way.pop_front().expect("it was just there");
            self.end(one, AppendOutcome::Committed);
        }
        if self.under_way.is_empty()
            && let Some(token) = self.held.take()
        {
            self.launch(token, out);
        }
    }

    /// The run is in the log.
    fn end(&mut self, one: UnderWay, outcome: impl FnOnce(Appended) -> AppendOutcome) {
        let UnderWay { token, run, .. } = one;
        self.bytes -= run.block.bytes();
        let appended = Appended { first: run.first(), count: count(&run) };
        self.ended.push_back(Ended { count: appended.count, outcome: outcome(appended) });
        self.leaving.add(token, token.skipped, token.first, false);
        self.leaving.add(token, run.end(), token.end(), false);
    }

    // ---- trouble -----------------------------------------------------------------------------------------

    /// No run goes out until the projection was looked up.
    fn look(&mut self) {
        if let Some(token) = self.held.take() {
            self.leaving.add(token, token.skipped, token.end(), true);
        }
        self.stage = Stage::Look;
    }

    /// Goes on after the projection was looked up.
    fn resume(&mut self, out: &mut Outbox) {
        if let Stage::Resolve { index, .. } = self.stage {
            return self.resolve(index, out);
        }
        let sound = |one: &UnderWay| self.valid(&one.token) && one.fate == Fate::Open;
        if !self.under_way.iter().all(sound) {
            return self.resolve(0, out);
        }
        self.stage = Stage::Flow { asked: false };
        // The same epoch: the same questions again, which are answered the same if they were heard already.
        for index in 0..self.under_way.len() {
            self.write(index, out);
        }
    }

    /// Finds out about the runs from `index` on.
    fn resolve(&mut self, index: usize, out: &mut Outbox) {
        self.look();
        self.view.abandon();
        for index in index..self.under_way.len() {
            let one = &mut self.under_way[index];
            if one.fate != Fate::Open {
                continue;
            }
            let (from, upto) = (
                one.run.first(),
                one.run.end().min(self.view.projection().bound(one.token.end(), one.token.epoch)),
            );
            let told_in = one.token.epoch;
            if from >= upto {
                // No unit that stayed had it, or the tail would lie after it.
                (one.fate, one.refusal) = (Fate::Lost, None);
                continue;
            }
            let mut fill = Box::new(Fill::with_view(self.view.clone(), from, upto, told_in, Aim::Know));
            let filled = fill.step(Input::Start, out);
            self.stage = Stage::Resolve { index, fill: Some(fill) };
            if let Some(filled) = filled {
                self.filled(&filled, out);
            }
            return;
        }
        self.conclude();
    }

    /// The positions of a run are filled.
    fn filled(&mut self, filled: &Filled, out: &mut Outbox) {
        let Stage::Resolve { index, fill: Some(fill) } = std::mem::replace(&mut self.stage, Stage::Look)
        else {
            unreachable!("a run was being looked for");
        };
        self.view = fill.into_view();
        let one = &mut self.under_way[index];
        let first = one.run.first();
        one.fate = if filled.runs.iter().any(|run| run.id == one.run.id && run.first() == first) {
            Fate::Committed
        } else if filled.trimmed > first {
            Fate::Trimmed
        } else if filled.corrupt.is_some() {
            // Until the unit is replaced nobody knows.
            self.stage = Stage::Resolve { index, fill: None };
            return self.view.retry(out);
        } else {
            Fate::Lost
        };
        self.resolve(index + 1, out);
    }

    /// Everything is known of what was under way. What is to be written again goes first.
    fn conclude(&mut self) {
        let last = self.under_way.iter().rposition(|one| one.fate != Fate::Lost);
        let mut again = VecDeque::new();
        for (index, one) in std::mem::take(&mut self.under_way).into_iter().enumerate() {
            let token = one.token;
            match (one.fate, one.refusal) {
                (Fate::Committed, _) => self.end(one, AppendOutcome::Committed),
                (Fate::Trimmed, _) => {
                    self.end(one, |appended| AppendOutcome::Indeterminate(appended.first));
                }
                // One that was refused behind another that is written again may be refused again: in order.
                (_, refusal)
                    if last.is_none_or(|last| index > last) && (refusal.is_none() || !again.is_empty()) =>
                {
                    self.bytes -= one.run.block.bytes();
                    again.push_back(Waiting::again(&one.run));
                    self.leaving.add(token, token.skipped, token.end(), true);
                }
                (_, refusal) => {
                    self.bytes -= one.run.block.bytes();
                    let outcome = AppendOutcome::NotCommitted(refusal.unwrap_or(Refusal::Overtaken));
                    self.ended.push_back(Ended { count: count(&one.run), outcome });
                    self.leaving.add(token, token.skipped, token.end(), true);
                }
            }
        }
        again.append(&mut self.waiting);
        self.waiting = again;
        self.stage = Stage::Flow { asked: false };
    }
}

impl Waiting {
    /// The entries of a run that is not in the log: all, or none.
    fn again(run: &Run) -> Self {
        let mut batch = Batch::new();
        batch.extend_from_block(&run.block);
        Self {
            id: run.id.expect("entries have ids"),
            entries: Arc::new(Entries::indivisible(batch)),
            begin: 0,
        }
    }
}

fn count(run: &Run) -> u32 {
    u32::try_from(run.block.len()).expect("a run holds less than 2^32 entries")
}

/// Positions of tokens that will not be written: they are filled, so that nobody waits at them. What cannot be filled is
/// for the janitor, once the unit is replaced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Leaving {
    ranges: VecDeque<(Token, Position, Position)>,
    fill: Option<Box<Fill>>,
    /// The number of the next request.
    next: Call,
    /// Nothing else goes out before that is done: some of it is what a token that is lost leaves.
    first: bool,
}

impl Leaving {
    const fn new() -> Self {
        Self { ranges: VecDeque::new(), fill: None, next: LEAVING, first: false }
    }

    fn is_done(&self) -> bool {
        self.fill.is_none() && self.ranges.is_empty()
    }

    fn comes_first(&self) -> bool {
        self.first && !self.is_done()
    }

    fn add(&mut self, token: Token, from: Position, upto: Position, first: bool) {
        if from < upto {
            self.ranges.push_back((token, from, upto));
            self.first |= first;
        }
    }

    fn step(&mut self, input: Input, out: &mut Outbox) {
        if let Some(fill) = &mut self.fill
            && fill.step(input, out).is_some()
        {
            self.filled();
        }
    }

    fn filled(&mut self) {
        let fill = self.fill.take().expect("positions were being filled");
        self.next = fill.into_view().next_call();
    }

    /// Begins with the next range.
    fn go_on(&mut self, projection: &Arc<Projection>, out: &mut Outbox) {
        while self.fill.is_none()
            && let Some((token, from, upto)) = self.ranges.pop_front()
        {
            let upto = upto.min(projection.bound(token.end(), token.epoch));
            if from >= upto {
                continue;
            }
            let view = View::numbered(Arc::clone(projection), self.next);
            let mut fill = Box::new(Fill::with_view(view, from, upto, token.epoch, Aim::Settle));
            let filled = fill.step(Input::Start, out);
            self.fill = Some(fill);
            if filled.is_some() {
                self.filled();
            }
        }
        self.first &= !self.is_done();
    }
}
