//! The contract that every log backend keeps: CORFU's interface (NSDI 2012, section 2), for batches.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::file::Storage;
use crate::{AppendError, Batch, Block, FlushError, Position, ReadError, SealError, TailError, TrimError};

/// What an acknowledged append has survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Durability {
    /// Nothing: the entry is in this process' memory. Lost with the process.
    Memory,
    /// The entry was handed to the operating system. Survives the process, not the machine
    /// (RAMCloud's choice: buffered, flushed in the background).
    Buffered,
    /// The entry was flushed to the local disk (`fdatasync`). Survives power loss
    /// (Cassandra's batch mode).
    Flushed,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Buffered => "buffered",
            Self::Flushed => "flushed",
        })
    }
}

/// The identity of a log, chosen at random when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(pub u128);

impl LogId {
    /// An identity that no other log has, but for a chance of one in 2^64 or so.
    ///
    /// Source: the keys that the standard library draws from the operating system for its hashers.
    #[must_use]
    pub fn random() -> Self {
        let draw = || u128::from(RandomState::new().build_hasher().finish());
        Self(draw() << 64 | draw())
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// How far a log reaches.
///
/// Shape: entries in `[head, tail)` can be read; those before `head` were trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The first position that was not trimmed.
    pub head: Position,
    /// The position after the last acknowledged entry.
    pub tail: Position,
    /// Whether the log takes no more appends, ever.
    pub sealed: bool,
}

/// A totally ordered log shared by its writers and readers.
///
/// The order of entries is the order of positions, which are dense from 0. An entry becomes visible to
/// readers when it is as durable as [`durability`](Self::durability) says, and not before; then it never
/// changes and every entry before it is visible too. All methods may be called from any thread.
///
/// No method waits for ever for somebody else: a backend whose entries are kept elsewhere has a bounded patience, and
/// then tells that they are `Unavailable`.
pub trait SharedLog: Send + Sync + 'static {
    /// Appends the entries of `batch`, in order, at consecutive positions.
    ///
    /// Returns as soon as the entries are queued; the [`Ticket`] tells when they are durable. Batches of one
    /// thread keep their order.
    ///
    /// Cost: a copy of the bytes, no allocation per entry; blocks while too many bytes wait to be written.
    ///
    /// # Errors
    /// [`AppendError`]: nothing of the batch was or will be appended.
    ///
    /// # Panics
    /// When the batch is empty.
    fn append(&self, batch: &Batch) -> Result<Ticket, AppendError>;

    /// As [`append`](Self::append), for who has nothing else to do than to wait for this: a backend that can writes what
    /// waits here, on the calling thread, if nobody else does. To wake a thread that writes takes about as long as a fast
    /// disk does.
    ///
    /// Cost: up to that of the disk.
    ///
    /// # Errors
    /// As there.
    fn append_and_write(&self, batch: &Batch) -> Result<Ticket, AppendError> {
        self.append(batch)
    }

    /// Whether an append that was taken may yet be refused while the log goes on: its [`Ticket`] alone tells so. Where not,
    /// what was taken is appended unless the log fails for good, which readers are told.
    fn refuses_late(&self) -> bool {
        true
    }

    /// The block that holds `position`, or `None` when nothing was acknowledged there yet.
    ///
    /// The block may start before `position` (its earlier entries are the same as ever) and ends where
    /// the backend finds it convenient, never past the tail.
    ///
    /// Cost: a shared pointer for recent blocks, else one or two reads of the disk.
    ///
    /// # Errors
    /// [`ReadError::Trimmed`] below the head, [`ReadError::Corrupt`] where the bytes are damaged; [`ReadError::Io`],
    /// [`ReadError::Unavailable`] and [`ReadError::Failed`] where they cannot be read.
    fn read(&self, position: Position) -> Result<Option<Arc<Block>>, ReadError>;

    /// A tail that was seen, asking nobody else: the log may reach further by now. For metrics and progress.
    ///
    /// Cost: a look at what is in this process, which only a backend knows; the default asks for the
    /// [`tail`](Self::tail).
    fn known_tail(&self) -> Position {
        self.tail().map_or(Position::ZERO, |tail| tail.tail)
    }

    /// How far the log reaches now (CORFU's check). Linearizable: sees every append acknowledged before the
    /// call.
    ///
    /// # Errors
    /// [`TailError`]: nobody could be asked. A log whose entries are in this process, or on its disk, always knows.
    fn tail(&self) -> Result<Tail, TailError>;

    /// Waits until the tail is past `position`, the log is sealed, or `timeout` has passed (`None`: as long as the log can
    /// be reached).
    ///
    /// # Errors
    /// [`ReadError`] when the log failed, or could not be reached for so long, in this call and those before it, that
    /// waiting makes no sense.
    fn wait_past(&self, position: Position, timeout: Option<Duration>) -> Result<Tail, ReadError>;

    /// Makes everything before the tail as durable as the backend can, whatever [`durability`](Self::durability) says,
    /// and returns that tail: for whoever writes down elsewhere what followed from these entries. Backends whose
    /// acknowledged entries are that durable already have nothing to do.
    ///
    /// # Errors
    /// [`FlushError`]: the last entries may be lost by a power cut.
    fn flush(&self) -> Result<Position, FlushError> {
        Ok(self.tail()?.tail)
    }

    /// A directory of that name which lies where the log does and goes where it goes, for what belongs to it; `None`
    /// for a log without a place of its own.
    fn beside(&self, name: &str) -> Option<Arc<dyn Storage>> {
        let _ = name;
        None
    }

    /// Gives up the entries before `before`. Idempotent and monotone; past the tail it means the tail.
    /// Space is given back in units that suit the backend. Durable when it returns.
    ///
    /// # Errors
    /// [`TrimError`]: the head may or may not have moved.
    fn trim(&self, before: Position) -> Result<(), TrimError>;

    /// Refuses all later appends, for ever, and returns the final tail. Idempotent. Appends queued before the
    /// seal are written first.
    ///
    /// # Errors
    /// [`SealError`]: the log may or may not be sealed; ask again.
    fn seal(&self) -> Result<Position, SealError>;

    /// What an acknowledged append has survived.
    fn durability(&self) -> Durability;

    /// The identity of the log.
    fn id(&self) -> LogId;
}

/// Where a backend tells the fate of an append; implemented by backends only.
pub trait Acknowledge: Send + Sync {
    /// Waits for the append that the backend numbered `sequence`, of `count` entries; `None` when `timeout`
    /// passed first.
    ///
    /// # Errors
    /// [`AppendError`]: what became of the append.
    fn wait(
        &self,
        sequence: u64,
        count: u32,
        timeout: Option<Duration>,
    ) -> Option<Result<Range<Position>, AppendError>>;
}

/// The claim on an append's outcome. Dropping it does not cancel the append.
#[must_use = "the append is acknowledged through its ticket"]
pub struct Ticket {
    backend: Arc<dyn Acknowledge>,
    sequence: u64,
    count: u32,
}

impl Ticket {
    /// For backends: a ticket for the append of `count` entries that `backend` numbered `sequence`.
    pub fn from_backend(backend: Arc<dyn Acknowledge>, sequence: u64, count: u32) -> Self {
        Self { backend, sequence, count }
    }

    /// Waits until the append is as durable as the log promises, and tells its positions.
    ///
    /// # Errors
    /// [`AppendError`]: see its variants for what is known about the entries.
    pub fn wait(&self) -> Result<Range<Position>, AppendError> {
        self.backend.wait(self.sequence, self.count, None).expect("a wait without timeout has an outcome")
    }

    /// Like [`wait`](Self::wait), for at most `timeout`; `None` when it passed first.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<Range<Position>, AppendError>> {
        self.backend.wait(self.sequence, self.count, Some(timeout))
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("sequence", &self.sequence).field("count", &self.count).finish()
    }
}
