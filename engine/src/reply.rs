//! What workers remember of the transactions that they ran, until the window is committed.

use mixlog_log::Position;
use serde::{Deserialize, Serialize};

use crate::digest;
use crate::explain::Tally;

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub(crate) enum Status {
    Committed = 1,
    Aborted = 2,
    Panicked = 3,
    /// It did not run, since its client had submitted it before; the reply is a
    /// [`Repeat`](crate::clients::Repeat).
    Repeated = 4,
}

/// One transaction's end.
#[derive(Clone, Copy, Debug)]
struct Reply {
    position: Position,
    /// The submission of this engine that waits for it.
    sequence: u64,
    status: Status,
    start: usize,
}

/// Those of one worker in one window that somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Awaited {
    list: Vec<Reply>,
    bytes: Vec<u8>,
}

impl Awaited {
    fn clear(&mut self) {
        self.list.clear();
        self.bytes.clear();
    }

    pub(crate) const fn len(&self) -> usize {
        self.list.len()
    }

    /// Calls `deliver` with the submission, position, status and bytes of each, and forgets them.
    pub(crate) fn deliver(&mut self, mut deliver: impl FnMut(u64, Position, Status, &[u8])) {
        let ends = self.list.iter().skip(1).map(|reply| reply.start).chain([self.bytes.len()]);
        for (reply, end) in self.list.iter().zip(ends) {
            deliver(reply.sequence, reply.position, reply.status, &self.bytes[reply.start..end]);
        }
        self.clear();
    }
}

/// The replies of one worker in one window.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    /// Delivered after the rest was added up, or while it is.
    pub(crate) awaited: Awaited,
    /// The replies' share of the digest.
    pub(crate) digest: u128,
    pub(crate) executed: u64,
    pub(crate) aborted: u64,
    pub(crate) panicked: u64,
    pub(crate) repeated: u64,
    /// Transactions that ran ahead, and of those the ones whose result was used as it stood.
    pub(crate) reconnoitred: u64,
    pub(crate) adopted: u64,
    /// Transactions whose footprint was inferred from their arguments.
    pub(crate) inferred: u64,
    /// The same by procedure; empty unless the engine is to explain.
    pub(crate) tallies: Vec<Tally>,
}

impl Replies {
    pub(crate) fn new(tallies: Vec<Tally>) -> Self {
        Self { tallies, ..Self::default() }
    }

    pub(crate) fn clear(&mut self) {
        self.awaited.clear();
        self.digest = 0;
        self.executed = 0;
        self.aborted = 0;
        self.panicked = 0;
        self.repeated = 0;
        self.reconnoitred = 0;
        self.adopted = 0;
        self.inferred = 0;
        self.tallies.fill(Tally::default());
    }

    /// Adds a reply whose bytes `write` appends, telling how the transaction ended; `None` takes the bytes back.
    /// Returns what it told.
    #[inline]
    pub(crate) fn add(
        &mut self,
        position: Position,
        sequence: Option<u64>,
        write: impl FnOnce(&mut Vec<u8>) -> Option<Status>,
    ) -> Option<Status> {
        let Awaited { list, bytes } = &mut self.awaited;
        let start = bytes.len();
        let Some(status) = write(bytes) else {
            bytes.truncate(start);
            return None;
        };
        self.digest = self.digest.wrapping_add(digest::of_reply(position, status, &bytes[start..]));
        self.executed += 1;
        self.aborted += u64::from(status == Status::Aborted);
        self.panicked += u64::from(status == Status::Panicked);
        self.repeated += u64::from(status == Status::Repeated);
        if let Some(sequence) = sequence {
            list.push(Reply { position, sequence, status, start });
        } else {
            bytes.truncate(start);
        }
        Some(status)
    }
}
