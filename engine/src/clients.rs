//! Exactly once: a client's transaction has one effect and one answer, however often it is submitted.
//!
//! A client names itself and numbers its transactions; both stand in the entry. What the transaction answered is a row,
//! written by the transaction itself, in a table that every engine has:
//!
//! ```text
//! answers   (client, sequence mod 64) -> sequence, what was called, position, how it ended, reply
//!
//! call of (client, sequence), at its turn
//!   its place is empty or holds a lower sequence    it runs, and its answer takes the place
//!   its place holds this sequence                   it does not run: the answer that is there is its own
//!   its place holds a higher sequence               it does not run: its answer is forgotten
//! ```
//!
//! Of an interactive transaction only that it committed is kept, and which one it was: one that conflicts is begun again
//! under its number, with another intention. Once one has committed, its number is used up: the same intention is told
//! where it did, and any other one that it did not, and why.
//!
//! Since answers are rows, all that holds for rows holds for them: guard and mixer keep a retry behind its original,
//! a replay puts them back, digests count them, checkpoints keep them, replicas agree on them, and whoever follows the
//! log can answer a retry. Places of different sequences are different rows, so transactions of one client run beside
//! each other.

use std::fmt;

use mixlog_log::bytes::{put, u64_at};
use mixlog_log::{Position, SharedLog};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::codec::{self, Codec, DecodeError};
use crate::engine::Engine;
use crate::error::{ExecuteError, SubmitError};
use crate::footprint::Footprint;
use crate::interactive::{Backoff, Intention, TransactError, Transaction, again_and_again};
use crate::procedure::{Never, Procedure, ProcedureId};
use crate::reply::Status;
use crate::table::Table;
use crate::ticket::{Outcome, Ticket};
use crate::tx::Tx;

/// How many answers an engine keeps for each client: those of so many consecutive sequence numbers. Part of the log's
/// meaning: all who read a log must keep as many.
pub const ANSWERS_KEPT: u64 = 64;

/// Who submits, under a name of its own choice that no other client has: drawn at random, or given out by somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClientId(pub u64);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an answer is kept: a client, and a sequence number modulo [`ANSWERS_KEPT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    client: ClientId,
    place: u64,
}

impl Place {
    const fn of(client: ClientId, sequence: u64) -> Self {
        Self { client, place: sequence % ANSWERS_KEPT }
    }
}

/// An answer that is kept, as the bytes that digests and checkpoints are made of: every transaction with a number writes
/// one, and short ones need no memory of their own.
///
/// ```text
///  0  8  sequence
///  8  8  hash of the procedure and its arguments
/// 16  8  position of the entry that ran
/// 24  1  how it ended: 1 committed, 2 aborted, 3 panicked
/// 25  .. reply, empty for a panic, whose message is no property of the log; of an interactive transaction, which
///        replies nothing, the hash of its intention
/// ```
///
/// All little-endian.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kept(SmallVec<[u8; 56]>);

/// One copy of all bytes; the derived one goes byte by byte.
impl Clone for Kept {
    #[inline]
    fn clone(&self) -> Self {
        Self(SmallVec::from_slice(&self.0))
    }
}

impl Kept {
    const REPLY: usize = 25;

    fn new(once: &Once, position: Position, status: Status, reply: &[u8]) -> Self {
        let intention;
        let reply: &[u8] = match once.keeps {
            Keeps::Committed { intention: hash } => {
                intention = hash.to_le_bytes();
                &intention
            }
            Keeps::All if status == Status::Panicked => &[],
            Keeps::All => reply,
        };
        let mut head = [0; Self::REPLY];
        for (offset, number) in [(0, once.sequence), (8, once.called), (16, position.0)] {
            put(&mut head, offset, &number.to_le_bytes());
        }
        head[24] = status as u8;
        let mut bytes = SmallVec::from_slice(&head);
        bytes.extend_from_slice(reply);
        Self(bytes)
    }

    fn sequence(&self) -> u64 {
        u64_at(&self.0, 0)
    }

    fn called(&self) -> u64 {
        u64_at(&self.0, 8)
    }

    fn position(&self) -> u64 {
        u64_at(&self.0, 16)
    }

    fn status(&self) -> Status {
        Self::status_of(self.0[24]).expect("it was looked at when it was read")
    }

    const fn status_of(byte: u8) -> Option<Status> {
        match byte {
            1 => Some(Status::Committed),
            2 => Some(Status::Aborted),
            3 => Some(Status::Panicked),
            _ => None,
        }
    }

    fn reply(&self) -> &[u8] {
        &self.0[Self::REPLY..]
    }
}

/// How answers become bytes: as they lie there.
pub(crate) struct Answers;

impl Codec<Place> for Answers {
    const NAME: &'static str = "answers";

    #[inline]
    fn with_bytes<R>(value: &Place, _scratch: &mut Vec<u8>, read: impl FnOnce(&[u8]) -> R) -> R {
        let mut bytes = [0; 16];
        put(&mut bytes, 0, &value.client.0.to_le_bytes());
        put(&mut bytes, 8, &value.place.to_le_bytes());
        read(&bytes)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Place, DecodeError> {
        if bytes.len() != 16 || u64_at(bytes, 8) >= ANSWERS_KEPT {
            return Err(DecodeError::new("no place of an answer"));
        }
        Ok(Place { client: ClientId(u64_at(bytes, 0)), place: u64_at(bytes, 8) })
    }

    fn describe(value: &Place) -> String {
        format!("(client {}, place {})", value.client, value.place)
    }
}

impl Codec<Kept> for Answers {
    const NAME: &'static str = "answers";

    #[inline]
    fn with_bytes<R>(value: &Kept, _scratch: &mut Vec<u8>, read: impl FnOnce(&[u8]) -> R) -> R {
        read(&value.0)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Kept, DecodeError> {
        match bytes.get(24).copied().and_then(Kept::status_of) {
            Some(_) => Ok(Kept(SmallVec::from_slice(bytes))),
            None => Err(DecodeError::new("no answer")),
        }
    }
}

/// The answers of all clients.
pub(crate) const ANSWERS: Table<Place, Kept, Answers> = Table::coded("mixlog.answers");

/// What makes a call one of a client: to be run once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Once {
    pub(crate) client: ClientId,
    pub(crate) sequence: u64,
    called: u64,
    keeps: Keeps,
}

/// Which answers of a call are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeps {
    /// Those of procedures: the same arguments have one answer.
    All,
    /// Those of interactive transactions: one that conflicts is begun again and intends something else, so only what
    /// committed counts. With the intention's hash.
    Committed { intention: u64 },
}

/// The reply of a transaction that did not run, since its client had used the sequence number before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Repeat {
    /// The first answer.
    Answer { position: u64, status: Status, reply: Vec<u8> },
    /// Its answer gave way to that of a later one.
    Forgotten { newer: u64 },
    /// The sequence number was used for something else.
    Reused { position: u64 },
    /// Another interactive transaction committed under the sequence number.
    CommittedBefore { position: u64 },
}

impl Once {
    pub(crate) fn new(client: ClientId, sequence: u64, procedure: ProcedureId, arguments: &[u8]) -> Self {
        let (called, keeps) = if procedure == Intention::ID {
            (&[][..], Keeps::Committed { intention: xxh3_64(arguments) })
        } else {
            (arguments, Keeps::All)
        };
        Self { client, sequence, called: xxh3_64_with_seed(called, u64::from(procedure.0)), keeps }
    }

    /// Whether an answer is kept with which a call ends.
    pub(crate) fn keeps(&self, status: Status) -> bool {
        match status {
            Status::Committed => true,
            Status::Aborted | Status::Panicked => self.keeps == Keeps::All,
            Status::Repeated => false,
        }
    }

    const fn place(&self) -> Place {
        Place::of(self.client, self.sequence)
    }

    pub(crate) fn declare(&self, f: &mut Footprint<'_>) {
        f.write(&ANSWERS, &self.place());
    }

    /// Appends the reply of a call that must not run; tells whether there is one.
    pub(crate) fn repeats(&self, tx: &Tx<'_>, reply: &mut Vec<u8>) -> bool {
        let repeat = match tx.get(&ANSWERS, &self.place()) {
            None => return false,
            Some(kept) if kept.sequence() < self.sequence => return false,
            Some(kept) if kept.sequence() > self.sequence => Repeat::Forgotten { newer: kept.sequence() },
            Some(kept) if kept.called() != self.called => Repeat::Reused { position: kept.position() },
            Some(kept) => self.answer(kept),
        };
        codec::encode(&repeat, reply);
        true
    }

    /// What a call is told under whose number this was kept, of the same procedure.
    fn answer(&self, kept: &Kept) -> Repeat {
        let (position, status) = (kept.position(), kept.status());
        match self.keeps {
            Keeps::All => Repeat::Answer { position, status, reply: kept.reply().to_vec() },
            Keeps::Committed { intention } if kept.reply() == intention.to_le_bytes() => {
                Repeat::Answer { position, status, reply: Vec::new() }
            }
            Keeps::Committed { .. } => Repeat::CommittedBefore { position },
        }
    }

    /// Keeps the answer of the call, which ran at the transaction's position.
    pub(crate) fn keep(&self, tx: &mut Tx<'_>, status: Status, reply: &[u8]) {
        let kept = Kept::new(self, tx.position(), status, reply);
        tx.put(&ANSWERS, self.place(), kept);
    }
}

/// Gives up all answers of a client: see [`Client::forget`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Forget {
    client: ClientId,
}

impl Procedure for Forget {
    const NAME: &'static str = "mixlog.forget";
    /// How many answers were kept.
    type Output = u64;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        for place in 0..ANSWERS_KEPT {
            f.write(&ANSWERS, &Place { client: self.client, place });
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let mut kept = 0;
        for place in 0..ANSWERS_KEPT {
            let place = Place { client: self.client, place };
            if tx.get(&ANSWERS, &place).is_some() {
                tx.delete(&ANSWERS, &place);
                kept += 1;
            }
        }
        Ok(kept)
    }
}

/// One who submits through an engine, and may do so again: after a crash, a lost connection, through another engine on
/// the same log. Made by [`Engine::client`]; holds no state.
///
/// The client gives each transaction a sequence number, higher ones to later ones, and remembers the transaction until
/// it has the answer. To submit it again under the same number is always safe: it has one effect, and all its tickets
/// are given the first answer, with the position of the first. At most [`ANSWERS_KEPT`] consecutive numbers may be
/// without an answer at a time: a higher number takes the place of the one that is so much lower.
///
/// ```
/// # use std::sync::Arc;
/// # use mixlog_engine::{ClientId, Engine, Never, Outcome, Procedure, Table, Tx};
/// # use mixlog_log::MemoryLog;
/// # use serde::{Deserialize, Serialize};
/// # const COUNTERS: Table<u64, u64> = Table::new("counters");
/// #[derive(Serialize, Deserialize)]
/// struct Count;
///
/// impl Procedure for Count {
///     // ..
/// #     const NAME: &'static str = "count";
/// #     type Output = u64;
/// #     type Abort = Never;
/// #     fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
/// #         let count = tx.get(&COUNTERS, &0).copied().unwrap_or(0) + 1;
/// #         tx.put(&COUNTERS, 0, count);
/// #         Ok(count)
/// #     }
/// }
/// let builder = || Engine::builder().table(&COUNTERS).procedure::<Count>();
/// let log = Arc::new(MemoryLog::new());
/// let engine = builder().open(log.clone()).unwrap();
/// let me = ClientId(0x5ca1_ab1e);
/// let first = engine.client(me).submit(1, &Count).unwrap().wait().unwrap();
/// drop(engine);
///
/// // Nobody told the client whether it was done.
/// let engine = builder().open(log).unwrap();
/// let again = engine.client(me).submit(1, &Count).unwrap().wait().unwrap();
/// assert_eq!(again.position(), first.position());
/// assert_eq!(again.committed(), Some(1));
/// assert_eq!(engine.snapshot().get(&COUNTERS, &0), Some(1));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    engine: &'a Engine,
    id: ClientId,
}

impl<'a> Client<'a> {
    pub(crate) const fn new(engine: &'a Engine, id: ClientId) -> Self {
        Self { engine, id }
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> ClientId {
        self.id
    }

    /// As [`Engine::submit`], to have its effect once. The ticket tells the first answer, also that it aborted or
    /// panicked; of a panic not the message.
    ///
    /// Cost: besides that of `submit`, one more row that the transaction writes.
    ///
    /// # Errors
    /// As there. The ticket's besides: [`Forgotten`](crate::TicketError::Forgotten) and
    /// [`Reused`](crate::TicketError::Reused).
    pub fn submit<P: Procedure>(&self, sequence: u64, procedure: &P) -> Result<Ticket<P>, SubmitError> {
        let once = Some((self.id, sequence));
        self.engine.submit_as(procedure, once, SharedLog::append).map(|(ticket, _)| ticket)
    }

    /// As [`Engine::execute`], to have its effect once; see [`submit`](Self::submit).
    ///
    /// # Errors
    /// As there.
    pub fn execute<P: Procedure>(&self, sequence: u64, procedure: &P) -> Result<Outcome<P>, ExecuteError> {
        self.engine.execute_as(procedure, Some((self.id, sequence))).map(|(outcome, _)| outcome)
    }

    /// Begins an interactive transaction that commits at most once under this sequence number: when one has committed,
    /// all others end with [`CommittedBefore`](crate::CommitError::CommittedBefore), or, if they were
    /// [submitted](Transaction::submit), their tickets with the [same](crate::TicketError::CommittedBefore). One that
    /// conflicts does not use the number up, so that it can be begun again under it, and so can one of which nobody knows
    /// how it ended. As [`Engine::begin`] for the rest.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use mixlog_engine::{ClientId, CommitError, Engine, Table};
    /// # use mixlog_log::MemoryLog;
    /// const SEATS: Table<u32, u64> = Table::new("seats");
    /// let engine = Engine::builder().table(&SEATS).open(Arc::new(MemoryLog::new())).unwrap();
    /// let me = engine.client(ClientId(7));
    /// let take_a_seat = || {
    ///     let mut transaction = me.begin(1);
    ///     let free = (0..).find(|seat| transaction.get(&SEATS, seat).is_none()).unwrap();
    ///     transaction.put(&SEATS, free, me.id().0);
    ///     transaction.commit()
    /// };
    /// let first = take_a_seat().unwrap().unwrap();
    /// // The answer got lost, so again.
    /// assert!(matches!(take_a_seat(), Err(CommitError::CommittedBefore { position }) if position == first));
    /// assert_eq!(engine.snapshot().get(&SEATS, &1), None);
    /// ```
    ///
    /// One that writes nothing uses the number up as well, and is appended: a retry whose body finds nothing left to do is
    /// told that it had committed before.
    #[must_use]
    pub fn begin(&self, sequence: u64) -> Transaction<'a> {
        Transaction::new(self.engine, Some((self.id, sequence)))
    }

    /// As [`Engine::transact`], to commit once under this sequence number; see [`begin`](Self::begin).
    ///
    /// # Errors
    /// As there; [`CommittedBefore`](crate::CommitError::CommittedBefore) if this transaction had committed before. What
    /// the body returns then is dropped, for it is that of a run without effect.
    pub fn transact<R, E>(
        &self,
        sequence: u64,
        backoff: Backoff,
        body: impl FnMut(&mut Transaction<'_>) -> Result<R, E>,
    ) -> Result<(R, Option<Position>), TransactError<E>> {
        again_and_again(|| self.begin(sequence), backoff, body)
    }

    /// The highest sequence number whose answer is in the newest committed state: where a client goes on that has
    /// forgotten, once it is sure that nothing of its own is on the way.
    ///
    /// Cost: [`ANSWERS_KEPT`] look-ups.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        let snapshot = self.engine.snapshot();
        let kept = |place| snapshot.get(&ANSWERS, &Place { client: self.id, place });
        (0..ANSWERS_KEPT).filter_map(kept).map(|kept| kept.sequence()).max()
    }

    /// Gives up the client's answers, and the memory that they take; the ticket tells how many there were. For clients
    /// that will not come again: a retry that comes nevertheless takes effect.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn forget(&self) -> Result<Ticket<Forget>, SubmitError> {
        self.engine.submit(&Forget { client: self.id })
    }
}
