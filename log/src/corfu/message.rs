//! What the roles say to each other: plain data, so that it can be sent over a wire, kept in a simulated
//! network, and compared and hashed by a model checker.
//!
//! Every request names the epoch in which it is made, and the unit's incarnation that it is meant for. A
//! request may arrive twice, late, or never; nothing here relies on more.

use std::fmt;
use std::sync::Arc;

use crate::{Block, LogId, Position};

use super::projection::Projection;

/// The version of the projection. Epoch 0 is before the first projection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Before the first projection.
    pub const NONE: Self = Self(0);

    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a storage unit in its cluster, whatever it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitNumber(pub u32);

impl fmt::Display for UnitNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A storage unit since it last joined the cluster empty: `joined` is the epoch in which it did (its
/// *incarnation*).
///
/// A unit that lost its data, or was removed, is another member when it comes back: a write-once address
/// space never changes, so what replaces it must not have its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Which unit.
    pub unit: UnitNumber,
    /// The epoch in which it joined, empty.
    pub joined: Epoch,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (joined in epoch {})", self.unit, self.joined)
    }
}

/// The name of a sequencer in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequencerNumber(pub u32);

impl fmt::Display for SequencerNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A sequencer since it was last started: drawn by chance at each start, because its state is soft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance(pub u64);

impl Instance {
    /// An instance that was never there, but for a chance of one in 2^64 for each pair.
    #[must_use]
    pub fn random() -> Self {
        Self(ClientId::random().0)
    }
}

/// Who appends. No two clients that ever write to one log have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

impl ClientId {
    /// An identity that no other client has, but for a chance of one in 2^64 for each pair.
    #[must_use]
    pub fn random() -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "half of the random bits are enough")]
        Self(LogId::random().0 as u64)
    }
}

/// What makes an entry that entry and no other, whatever its bytes: who appended it, and its number among
/// all that this client appended. In a run, entry `i` has the run's sequence plus `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Who appended it.
    pub client: ClientId,
    /// Its number among the client's entries.
    pub sequence: u64,
}

/// A run: consecutive entries that are written at once, wholly or not at all.
///
/// Shape: a run of data lies in one stripe and is never cut; it has the id of its first entry. A run of junk
/// has no id, and may be cut and joined at will.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// The first entry's id; `None` for junk.
    pub id: Option<EntryId>,
    /// The entries and their positions.
    pub block: Arc<Block>,
}

impl Run {
    /// Entries that were appended.
    #[must_use]
    pub const fn data(id: EntryId, block: Arc<Block>) -> Self {
        Self { id: Some(id), block }
    }

    /// Junk in `[first, end)`.
    ///
    /// # Panics
    /// When there is no position between, or 2^32 or more.
    #[must_use]
    pub fn junk(first: Position, end: Position) -> Self {
        let count = u32::try_from(end.since(first)).expect("a run holds less than 2^32 entries");
        Self { id: None, block: Arc::new(Block::junk(first, count)) }
    }

    /// The position of the first entry.
    #[must_use]
    pub fn first(&self) -> Position {
        self.block.first()
    }

    /// The position after the last entry.
    #[must_use]
    pub fn end(&self) -> Position {
        self.block.end()
    }
}

/// Whether these runs hold `position` and what follows it, without a gap: what a unit answers that is asked from there on.
pub(crate) fn are_from(runs: &[Run], position: Position) -> bool {
    runs.first().is_some_and(|first| first.first() <= position && position < first.end())
        && runs.is_sorted_by(|before, after| before.end() == after.first())
}

/// The run that a client wrote before another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Predecessor {
    /// The position of its first entry.
    pub first: Position,
    /// Its id.
    pub id: EntryId,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// To a storage unit.
    Unit(UnitNumber),
    /// To a sequencer.
    Sequencer(SequencerNumber),
    /// To the projection store.
    Store,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(number) => write!(f, "unit {number}"),
            Self::Sequencer(number) => write!(f, "sequencer {number}"),
            Self::Store => f.write_str("the projection store"),
        }
    }
}

/// A request, to the kind of role that it is meant for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// To a storage unit.
    Unit(UnitRequest),
    /// To a sequencer.
    Sequencer(SequencerRequest),
    /// To the projection store.
    Store(StoreRequest),
}

/// An answer, from the kind of role that was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// From a storage unit.
    Unit(UnitReply),
    /// From a sequencer.
    Sequencer(SequencerReply),
    /// From the projection store.
    Store(StoreReply),
}

/// A request to a storage unit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnitRequest {
    /// The epoch of the projection by which the client goes; for a seal or a join, the new epoch.
    pub epoch: Epoch,
    /// Whom it is meant for.
    pub member: Member,
    /// What is asked.
    pub verb: UnitVerb,
}

/// What can be asked of a storage unit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UnitVerb {
    /// Write a run of data where nothing is written yet. Answers `Done` if it did, or had already.
    Write(Run),
    /// Make these runs so, which another unit has; what is the same already is no matter. Answers `Done`.
    Copy(Vec<Run>),
    /// `Write`, if the unit has the predecessor or has trimmed it; else answers `Early`.
    WriteAfter(Predecessor, Run),
    /// `Copy` of one run, if the unit has the predecessor or has trimmed it; else answers `Early`.
    CopyAfter(Predecessor, Run),
    /// Put junk where nothing is written in `[from, upto)`, and answer `Runs` as to `Read`.
    Fill {
        /// The first position.
        from: Position,
        /// The position after the last.
        upto: Position,
        /// How many bytes of entries to answer with, about; at least one run.
        bytes: u32,
    },
    /// Answer `Runs`: what is written from `from` on without a gap.
    Read {
        /// The first position.
        from: Position,
        /// The position after the last.
        upto: Position,
        /// How many bytes of entries to answer with, about; at least one run if there is any.
        bytes: u32,
    },
    /// Answer `Gap`: the first positions in `[from, upto)` where nothing is written.
    Gap {
        /// The first position.
        from: Position,
        /// The position after the last.
        upto: Position,
    },
    /// Give up everything before this position. Answers `Done`.
    Trim(Position),
    /// Positions before this one are committed: any unit of a chain may be believed about them. A hint.
    /// Answers `Done`.
    Commit(Position),
    /// Make durable what the unit has, whatever it promises of a write. Answers `Done` when it is.
    Flush,
    /// Answer `Standing`.
    Probe,
    /// Refuse all requests of earlier epochs from now on. Answers `Standing`.
    Seal,
    /// Forget everything, and be the member that the request names, of this log. Answers `Standing`.
    Join(LogId),
}

/// A storage unit's answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UnitReply {
    /// It is so, as durably as the unit promises.
    Done,
    /// What is written, in order and without a gap, from the run that holds the first position asked for.
    /// None: nothing is written there (which is a hint, and never a proof).
    Runs(Vec<Run>),
    /// Nothing is written in this range, and something at all positions asked for before it. An empty range
    /// at the end of what was asked for: nothing is missing.
    Gap(Position, Position),
    /// What the unit is and how far it reaches.
    Standing(Standing),
    /// Refused: something else is written at this position.
    Taken(Position),
    /// Refused: the positions lie before this one, and were given up.
    Trimmed(Position),
    /// Refused: the unit is sealed at this later epoch.
    Sealed(Epoch),
    /// Refused: the unit is at this earlier epoch still.
    Behind(Epoch),
    /// Refused: the unit is not that member; it is this one, or none yet.
    Stranger(Option<Member>),
    /// Refused: the unit lost what it may have had at this position.
    Corrupt(Position),
    /// Refused: there is no space left. Nothing was written.
    Full,
    /// Refused: a run may have so many bytes at most, with 4 for each entry. Nothing was written.
    TooLarge(u32),
    /// Refused: the unit does not have the run that was to come before. Nothing was written.
    Early,
}

/// How far a unit reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Standing {
    /// The epoch at which the unit is sealed: it serves requests of this one.
    pub epoch: Epoch,
    /// The position after the last one that was written or trimmed.
    pub reach: Position,
    /// Positions before this one were trimmed.
    pub trimmed: Position,
    /// Positions before this one are known to be committed.
    pub committed: Position,
}

/// A request to a sequencer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SequencerRequest {
    /// The epoch of the projection by which the client goes; for a seal or a start, the new epoch.
    pub epoch: Epoch,
    /// What is asked.
    pub verb: SequencerVerb,
}

/// What can be asked of a sequencer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SequencerVerb {
    /// Answer `Token`: the next positions.
    Next {
        /// How many are wanted.
        count: u32,
        /// How many must be had at least. Between 1 and the width of a stripe.
        at_least: u32,
    },
    /// Answer `Tail`: the position that the next token starts at, or after.
    Tail,
    /// Hand out no more tokens of earlier epochs. Answers `Present`.
    Seal,
    /// Hand out tokens of this epoch. Answers `Present`.
    Start {
        /// Whom it is meant for.
        instance: Instance,
        /// The first position.
        tail: Position,
        /// Positions in a stripe.
        width: u32,
    },
}

/// A sequencer's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SequencerReply {
    /// Positions that nobody else was given in this epoch.
    Token(Token),
    /// The position that the next token starts at, or after.
    Tail(Position),
    /// Who it is, and the epoch at which it stands.
    Present {
        /// Drawn when it was started.
        instance: Instance,
        /// The epoch at which it is sealed.
        epoch: Epoch,
    },
    /// Refused: it is sealed at this later epoch.
    Sealed(Epoch),
    /// Refused: it was not told where this epoch's tokens start.
    NotStarted(Instance),
}

/// The right to try and write at some positions, in one epoch.
///
/// Shape: `[first, first + count)` lies in one stripe. `[skipped, first)` was passed over, because it was too
/// short for what was asked; nobody else was given it, so its holder fills it with junk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// In which epoch it is valid.
    pub epoch: Epoch,
    /// The first position passed over; `first` when none was.
    pub skipped: Position,
    /// The first position.
    pub first: Position,
    /// How many positions.
    pub count: u32,
}

impl Token {
    /// The position after the last.
    #[must_use]
    pub const fn end(&self) -> Position {
        self.first.plus(self.count as u64)
    }
}

/// A request to the projection store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StoreRequest {
    /// Answer `Latest`.
    Latest,
    /// Answer `Named`: of which log the projections are, or will be; of this one, if nobody said so before. It stays so
    /// for ever.
    Name(LogId),
    /// Install this projection if its epoch is the one after the latest. Answers `Installed`, or `Latest` if
    /// it is not.
    Install(Arc<Projection>),
}

/// The projection store's answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StoreReply {
    /// The projection of the highest epoch, if there is any. Linearizable.
    Latest(Option<Arc<Projection>>),
    /// The projection that was proposed is that of its epoch, for ever.
    Installed,
    /// Of which log the projections are, or will be.
    Named(LogId),
}
