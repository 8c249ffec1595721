//! The storage unit: a write-once address space that can be sealed.
//!
//! ```text
//! Unwritten --write, copy--> Data --trim--> Trimmed        sealed epoch, trim mark: only ever grow
//!     \------fill, copy----> Junk --trim-->
//! ```
//!
//! The machine itself keeps no promise about disks: it says, with each answer, which [`Record`]s must be
//! durable before the answer goes out, and can be made again from its records. `Away` are entries whose bytes
//! the machine does not hold, but its driver can load from where it put their record.
//!
//! Source: CORFU (NSDI 2012), section 3.1. Departures: runs instead of single pages; junk is asked for by
//! `Fill`, which never overwrites; only prefixes are trimmed.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Block, LogId, Position};

use super::message::{
    EntryId, Epoch, Member, Predecessor, Run, Standing, UnitNumber, UnitReply, UnitRequest, UnitVerb,
};
use super::rules::Rules;

/// So many bytes an answer has at most besides its entries' own, and then ends its last run: entries of no bytes, and junk,
/// make it longer too.
const BESIDE_AT_MOST: u64 = 8 << 20;

/// What a unit has to remember.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Record {
    /// Who the unit is and where it stands. When the member is another one than before, everything earlier
    /// is forgotten.
    State(State),
    /// These entries were written.
    Run(Run),
}

/// Who a unit is and where it stands: everything but its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Of which log.
    pub log: LogId,
    /// Which unit of it; `None` in records that do not say.
    pub unit: Option<UnitNumber>,
    /// The epoch in which the unit joined.
    pub joined: Epoch,
    /// The epoch at which it is sealed.
    pub epoch: Epoch,
    /// Positions before it are trimmed.
    pub trimmed: Position,
    /// The position after the last one that was written or trimmed.
    pub reach: Position,
}

/// Where a driver put a record; it chooses the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordNumber(pub u64);

/// What a unit answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// This.
    Ready(UnitReply),
    /// `Runs` of these, some of which have to be loaded first.
    Pieces(Vec<Piece>),
    /// `Done`, as soon as all records so far are on the disk for good, whatever was promised of them.
    Flushed,
}

/// A run, or where it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Piece {
    /// The run.
    Here(Run),
    /// The record that holds the run which starts at this position.
    Away(Position, RecordNumber),
}

impl Answer {
    /// The reply, with everything loaded. What cannot be loaded is lost: a run before it is answered, a first
    /// one makes the reply [`UnitReply::Corrupt`].
    pub fn load(self, mut load: impl FnMut(RecordNumber) -> Option<Run>) -> UnitReply {
        let pieces = match self {
            Self::Ready(reply) => return reply,
            Self::Flushed => return UnitReply::Done,
            Self::Pieces(pieces) => pieces,
        };
        let mut runs = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match piece {
                Piece::Here(run) => runs.push(run),
                Piece::Away(first, number) => match load(number).filter(|run| run.first() == first) {
                    Some(run) => runs.push(run),
                    None if runs.is_empty() => return UnitReply::Corrupt(first),
                    None => break,
                },
            }
        }
        UnitReply::Runs(runs)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Cell {
    end: Position,
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Content {
    Junk { number: Option<RecordNumber> },
    Data { id: EntryId, block: Arc<Block>, number: Option<RecordNumber> },
    Away { id: EntryId, bytes: u32, number: RecordNumber },
}

/// How much a unit takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// How many bytes of entries. Filling, copying, trimming and sealing go on past it: otherwise readers
    /// would hang at holes, and the space never come back.
    pub quota: u64,
    /// How many bytes the largest run has, with 4 for each entry. The same for all units of a cluster.
    pub run_bytes: u32,
}

impl Limits {
    /// As much as can be.
    pub const NONE: Self = Self { quota: u64::MAX, run_bytes: u32::MAX };
}

/// A storage unit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unit {
    number: UnitNumber,
    /// None until it joins.
    state: Option<State>,
    committed: Position,
    /// By first position; they do not overlap.
    cells: BTreeMap<Position, Cell>,
    bytes: u64,
    limits: Limits,
    /// How long the next run of data may be at most, whatever the quota is: the disk may have less.
    room: u64,
    damaged: bool,
    rules: Rules,
}

impl Unit {
    /// A unit that has not joined a log yet: it refuses everything else.
    #[must_use]
    pub const fn new(number: UnitNumber, limits: Limits, rules: Rules) -> Self {
        Self {
            number,
            state: None,
            committed: Position::ZERO,
            cells: BTreeMap::new(),
            bytes: 0,
            limits,
            room: u64::MAX,
            damaged: false,
            rules,
        }
    }

    /// The unit that made these records, restarted. `None` for a number leaves the entries in memory.
    pub fn replay(&mut self, record: Record, number: Option<RecordNumber>) {
        match record {
            Record::State(state) => {
                if self.state.is_some_and(|before| before.joined != state.joined) {
                    self.forget();
                }
                self.state = Some(state);
                self.drop_trimmed();
            }
            Record::Run(run) => {
                let first = run.first();
                self.put(run);
                if let Some(number) = number {
                    self.placed(first, number);
                    self.send_away(first);
                }
            }
        }
    }

    /// The next run of data may have so many bytes, with 4 for each entry: the disk has room for no more.
    pub(crate) const fn set_room(&mut self, bytes: u64) {
        self.room = bytes;
    }

    /// Some records were lost, nobody knows which: from now on what is not there is `Corrupt`, never
    /// unwritten, and no request adds a record until the unit joins anew.
    pub const fn set_damaged(&mut self) {
        self.damaged = true;
    }

    /// Everything was lost that tells who the unit was, but that it belongs to `log`: nobody asks it for what it had, and
    /// that log alone may have it join anew.
    pub(crate) const fn set_lost(&mut self, log: LogId) {
        self.set_damaged();
        self.state = Some(State {
            log,
            unit: Some(self.number),
            joined: Epoch::NONE,
            epoch: Epoch::NONE,
            trimmed: Position::ZERO,
            reach: Position::ZERO,
        });
    }

    /// Whether records were lost.
    #[must_use]
    pub const fn damaged(&self) -> bool {
        self.damaged
    }

    /// The unit's number.
    #[must_use]
    pub const fn number(&self) -> UnitNumber {
        self.number
    }

    /// Who the unit is and where it stands; `None` before it joined.
    #[must_use]
    pub const fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// Which member the unit is, if it is one.
    #[must_use]
    pub fn member(&self) -> Option<Member> {
        self.state.map(|state| Member { unit: self.number, joined: state.joined })
    }

    /// Bytes of entries.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All that is written, in order: the first and the end position of each run, its id, and its block if
    /// that is in memory. Junk has no id.
    pub fn written(
        &self,
    ) -> impl Iterator<Item = (Position, Position, Option<EntryId>, Option<&Arc<Block>>)> {
        self.cells.iter().map(|(first, cell)| match &cell.content {
            Content::Junk { .. } => (*first, cell.end, None, None),
            Content::Data { id, block, .. } => (*first, cell.end, Some(*id), Some(block)),
            Content::Away { id, .. } => (*first, cell.end, Some(*id), None),
        })
    }

    /// The record of the run that starts at `first` stands at `number`.
    pub fn placed(&mut self, first: Position, placed: RecordNumber) {
        if let Some(cell) = self.cells.get_mut(&first)
            && let Content::Data { number, .. } | Content::Junk { number } = &mut cell.content
        {
            *number = Some(placed);
        }
    }

    /// Gives up the bytes of the run that starts at `first`, if its record was [`placed`](Self::placed).
    pub fn send_away(&mut self, first: Position) {
        if let Some(cell) = self.cells.get_mut(&first)
            && let Content::Data { id, block, number: Some(number) } = &cell.content
        {
            let (bytes, _) = block.data().expect("a run with an id holds data");
            let bytes = u32::try_from(bytes.len()).expect("a block holds less than 4 GiB");
            cell.content = Content::Away { id: *id, bytes, number: *number };
        }
    }

    /// The lowest record number of a run that is not trimmed.
    #[must_use]
    pub fn oldest_record(&self) -> Option<RecordNumber> {
        self.cells
            .values()
            .filter_map(|cell| match cell.content {
                Content::Away { number, .. } => Some(number),
                Content::Data { number, .. } | Content::Junk { number } => number,
            })
            .min()
    }

    /// Answers `request`; whatever it adds to `records` must be durable, in order, before the answer goes
    /// out, and before the answers to all later requests do.
    ///
    /// Cost: logarithmic in the number of runs, plus the runs that it touches; bytes are not copied.
    pub fn handle(&mut self, request: UnitRequest, records: &mut Vec<Record>) -> Answer {
        let UnitRequest { epoch, member, verb } = request;
        if let UnitVerb::Join(log) = verb {
            return Answer::Ready(self.join(log, member, epoch, records));
        }
        let state = match &self.state {
            Some(state) if (Member { unit: self.number, joined: state.joined }) == member => *state,
            _ => return Answer::Ready(UnitReply::Stranger(self.member())),
        };
        // Trims are merged by the maximum: those of earlier epochs are as good as any.
        let fenced = !matches!(verb, UnitVerb::Trim(_));
        if epoch < state.epoch && fenced {
            return Answer::Ready(UnitReply::Sealed(state.epoch));
        }
        // A unit that lost records may have lost a seal; what it still has is as true as ever.
        let final_anyway = self.damaged && matches!(verb, UnitVerb::Read { .. });
        if epoch > state.epoch && !final_anyway && !matches!(verb, UnitVerb::Seal) {
            return Answer::Ready(UnitReply::Behind(state.epoch));
        }
        // What was lost may be a seal, or the highest position: such a unit must not tell how far it reaches.
        // Nor does it trim, which it would have to remember: nothing is added to damaged records.
        // And what it lost cannot be made durable.
        let of_everything = |verb: &UnitVerb| {
            matches!(verb, UnitVerb::Seal | UnitVerb::Probe | UnitVerb::Trim(_) | UnitVerb::Flush)
        };
        if self.damaged && of_everything(&verb) {
            return Answer::Ready(UnitReply::Corrupt(state.trimmed));
        }
        Answer::Ready(match verb {
            UnitVerb::Write(run) => self.write(run, records),
            UnitVerb::Copy(runs) => self.copy(runs, records),
            UnitVerb::WriteAfter(before, run) if self.has(&before) => self.write(run, records),
            UnitVerb::CopyAfter(before, run) if self.has(&before) => self.copy(vec![run], records),
            UnitVerb::WriteAfter(..) | UnitVerb::CopyAfter(..) => UnitReply::Early,
            UnitVerb::Fill { from, upto, bytes } => return self.fill(from, upto, bytes, records),
            UnitVerb::Read { from, upto, bytes } => return self.read(from, upto, bytes),
            UnitVerb::Gap { from, upto } => self.gap(from, upto),
            UnitVerb::Trim(before) => self.trim(before, records),
            UnitVerb::Commit(before) => {
                self.committed = self.committed.max(before);
                UnitReply::Done
            }
            UnitVerb::Flush if self.rules.flush_waits => return Answer::Flushed,
            UnitVerb::Flush => UnitReply::Done,
            UnitVerb::Probe => self.standing(),
            UnitVerb::Seal => self.seal(epoch, records),
            UnitVerb::Join(_) => unreachable!("answered above"),
        })
    }

    fn joined(&mut self) -> &mut State {
        self.state.as_mut().expect("only a unit that joined gets here")
    }

    fn standing(&self) -> UnitReply {
        let State { epoch, trimmed, reach, .. } = self.state.expect("only a unit that joined gets here");
        UnitReply::Standing(Standing { epoch, reach, trimmed, committed: self.committed })
    }

    fn join(&mut self, log: LogId, member: Member, epoch: Epoch, records: &mut Vec<Record>) -> UnitReply {
        if member.unit != self.number {
            return UnitReply::Stranger(self.member());
        }
        match self.state {
            // Asked twice, perhaps by two who reconfigure.
            Some(state) if state.joined == member.joined && state.log == log => return self.standing(),
            // A late request of an older attempt: the unit has become another member since.
            Some(state) if state.log == log && state.joined > member.joined => {
                return UnitReply::Stranger(self.member());
            }
            // The data of another log are not ours to throw away.
            Some(state) if state.log != log => return UnitReply::Stranger(self.member()),
            _ => {}
        }
        if self.rules.join_empties {
            self.forget();
        }
        let (trimmed, reach) = (Position::ZERO, Position::ZERO);
        let state = State { log, unit: Some(self.number), joined: member.joined, epoch, trimmed, reach };
        self.state = Some(state);
        records.push(Record::State(state));
        self.standing()
    }

    fn forget(&mut self) {
        self.cells.clear();
        self.bytes = 0;
        self.committed = Position::ZERO;
        self.damaged = false;
    }

    fn seal(&mut self, epoch: Epoch, records: &mut Vec<Record>) -> UnitReply {
        let state = self.joined();
        if epoch > state.epoch {
            state.epoch = epoch;
            records.push(Record::State(*state));
        }
        self.standing()
    }

    fn trim(&mut self, before: Position, records: &mut Vec<Record>) -> UnitReply {
        let state = self.joined();
        if before > state.trimmed {
            state.trimmed = before;
            // The tail that reconfiguration finds must lie after it, whatever this unit ever wrote.
            state.reach = state.reach.max(before);
            records.push(Record::State(*state));
            self.drop_trimmed();
        }
        UnitReply::Done
    }

    fn drop_trimmed(&mut self) {
        let trimmed = self.trimmed();
        while let Some(first) = self.cells.first_entry() {
            if first.get().end > trimmed {
                break;
            }
            let cell = first.remove();
            self.bytes -= cell.bytes();
        }
    }

    fn trimmed(&self) -> Position {
        self.state.map_or(Position::ZERO, |state| state.trimmed)
    }

    /// The cells that overlap `[from, upto)`, in order.
    fn overlapping(&self, from: Position, upto: Position) -> impl Iterator<Item = (Position, &Cell)> {
        let before = self.cells.range(..from).next_back().filter(|(_, cell)| cell.end > from);
        before.into_iter().chain(self.cells.range(from..upto.max(from))).map(|(first, cell)| (*first, cell))
    }

    fn put(&mut self, run: Run) {
        let (first, end) = (run.first(), run.end());
        let content = match run.id {
            Some(id) => Content::Data { id, block: run.block, number: None },
            None => Content::Junk { number: None },
        };
        let cell = Cell { end, content };
        self.bytes += cell.bytes();
        let overwritten = self.cells.insert(first, cell);
        debug_assert!(overwritten.is_none() || self.damaged, "write-once");
        // Replayed from the middle of a journal, runs may come before the state that tells their reach.
        if let Some(state) = &mut self.state {
            state.reach = state.reach.max(end);
        }
    }

    fn store(&mut self, run: Run, records: &mut Vec<Record>) {
        records.push(Record::Run(run.clone()));
        self.put(run);
    }

    fn write(&mut self, run: Run, records: &mut Vec<Record>) -> UnitReply {
        if run.end() <= self.trimmed() {
            return UnitReply::Trimmed(self.trimmed());
        }
        if self.is_too_large(&run) {
            return UnitReply::TooLarge(self.limits.run_bytes);
        }
        match self.compare(&run) {
            Compared::Same => UnitReply::Done,
            Compared::Other(position) => UnitReply::Taken(position),
            // What stood at its first positions is not known any more: they must not be written again.
            Compared::Free if run.first() < self.trimmed() => UnitReply::Trimmed(self.trimmed()),
            Compared::Free if self.damaged => UnitReply::Corrupt(run.first()),
            Compared::Free if self.bytes + run.block.bytes() as u64 > self.limits.quota => UnitReply::Full,
            Compared::Free if run.block.body_bytes() as u64 > self.room => UnitReply::Full,
            Compared::Free => {
                self.store(run, records);
                UnitReply::Done
            }
        }
    }

    /// Whether the run is there, or was.
    fn has(&self, run: &Predecessor) -> bool {
        let id = |cell: &Cell| match cell.content {
            Content::Junk { .. } => None,
            Content::Data { id, .. } | Content::Away { id, .. } => Some(id),
        };
        run.first < self.trimmed()
            || self.cells.get(&run.first).is_some_and(|cell| id(cell) == Some(run.id))
            || !self.rules.runs_in_order
    }

    fn is_too_large(&self, run: &Run) -> bool {
        run.block.body_bytes() > self.limits.run_bytes as usize
    }

    fn compare(&self, run: &Run) -> Compared {
        // Runs of data do not overlap in part: the first cell found decides.
        let Some((first, cell)) = self.overlapping(run.first(), run.end()).next() else {
            return Compared::Free;
        };
        let same = match &cell.content {
            Content::Junk { .. } => false,
            Content::Data { block, .. } if !self.rules.compare_ids => *block == run.block,
            Content::Data { id, .. } | Content::Away { id, .. } => Some(*id) == run.id,
        };
        if same && first == run.first() && cell.end == run.end() {
            Compared::Same
        } else {
            Compared::Other(first)
        }
    }

    fn copy(&mut self, runs: Vec<Run>, records: &mut Vec<Record>) -> UnitReply {
        for run in runs {
            if run.end() <= self.trimmed() {
                continue;
            }
            if self.is_too_large(&run) {
                return UnitReply::TooLarge(self.limits.run_bytes);
            }
            if run.id.is_none() {
                let (from, upto) = (run.first().max(self.trimmed()), run.end());
                let data = self.overlapping(from, upto).find(|(_, cell)| !cell.is_junk());
                if let Some((first, _)) = data {
                    return UnitReply::Taken(first);
                }
                if self.damaged
                    && let UnitReply::Corrupt(position) = self.gap(from, upto)
                {
                    return UnitReply::Corrupt(position);
                }
                self.fill_gaps(from, upto, records);
                continue;
            }
            match self.compare(&run) {
                Compared::Same => {}
                Compared::Other(position) => return UnitReply::Taken(position),
                Compared::Free if self.damaged => return UnitReply::Corrupt(run.first()),
                Compared::Free => self.store(run, records),
            }
        }
        UnitReply::Done
    }

    /// Puts junk where nothing is written.
    fn fill_gaps(&mut self, from: Position, upto: Position, records: &mut Vec<Record>) {
        let mut gaps = Vec::new();
        let mut at = from;
        for (first, cell) in self.overlapping(from, upto) {
            if first > at {
                gaps.push((at, first));
            }
            at = cell.end;
        }
        if at < upto {
            gaps.push((at, upto));
        }
        for (first, end) in gaps {
            self.store(Run::junk(first, end), records);
        }
    }

    fn gap(&self, from: Position, upto: Position) -> UnitReply {
        let mut at = from.max(self.trimmed());
        for (first, cell) in self.overlapping(at, upto) {
            if first > at {
                return if self.damaged { UnitReply::Corrupt(at) } else { UnitReply::Gap(at, first) };
            }
            at = cell.end;
        }
        if self.damaged && at < upto { UnitReply::Corrupt(at) } else { UnitReply::Gap(at.min(upto), upto) }
    }

    fn fill(&mut self, from: Position, upto: Position, bytes: u32, records: &mut Vec<Record>) -> Answer {
        if from < self.trimmed() {
            return Answer::Ready(UnitReply::Trimmed(self.trimmed()));
        }
        if !self.damaged {
            self.fill_gaps(from, upto, records);
        }
        self.read(from, upto, bytes)
    }

    fn read(&self, from: Position, upto: Position, bytes: u32) -> Answer {
        if from < self.trimmed() {
            return Answer::Ready(UnitReply::Trimmed(self.trimmed()));
        }
        let mut pieces = Vec::new();
        let (mut at, mut left, mut beside) = (from, u64::from(bytes), BESIDE_AT_MOST);
        for (first, cell) in self.overlapping(from, upto) {
            if first > at || ((left == 0 || beside == 0) && !pieces.is_empty()) {
                break;
            }
            left = left.saturating_sub(cell.bytes());
            beside = beside.saturating_sub(cell.answered_beside(first));
            at = cell.end;
            pieces.push(match &cell.content {
                Content::Junk { .. } => Piece::Here(Run::junk(first, cell.end)),
                Content::Data { id, block, .. } => Piece::Here(Run::data(*id, Arc::clone(block))),
                Content::Away { number, .. } => Piece::Away(first, *number),
            });
        }
        if pieces.is_empty() && self.damaged && from < upto {
            return Answer::Ready(UnitReply::Corrupt(from));
        }
        Answer::Pieces(pieces)
    }
}

enum Compared {
    Free,
    Same,
    Other(Position),
}

impl Cell {
    const fn is_junk(&self) -> bool {
        matches!(self.content, Content::Junk { .. })
    }

    /// How many bytes it makes an answer longer, besides its entries' own.
    fn answered_beside(&self, first: Position) -> u64 {
        const RUN: u64 = 32;
        RUN + if self.is_junk() { 0 } else { 4 * self.end.since(first) }
    }

    fn bytes(&self) -> u64 {
        match &self.content {
            Content::Junk { .. } => 0,
            Content::Data { block, .. } => block.bytes() as u64,
            Content::Away { bytes, .. } => u64::from(*bytes),
        }
    }
}
