//! Clients: each does one operation after the other, with the production state machines, as its role says.

use std::collections::VecDeque;
use std::sync::Arc;

use mixlog_log::Position;
use mixlog_log::corfu::{
    Append, AppendOutcome, Appends, ClientId, Entries, EntryId, Epoch, Fill, Filled, Flush, Input, Operation,
    Outbox, Projection, Read, ReadOutcome, Reconfigure, Reconfigured, Settle, Settled, Sweep, Tail,
    TailOutcome, Transfer, Transferred, Trim,
};

use crate::checks::Before;

/// What a client is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Writer,
    Reader,
    Janitor,
    Trimmer,
    Flusher,
    Driver,
}

/// An operation under way.
#[derive(Debug)]
pub(crate) enum Job {
    Append(Append, Appending),
    Stream(Box<Stream>),
    Read(Read),
    Fill(Fill),
    Settle(Settle),
    Tail(Tail),
    Sweep(Sweep),
    Trim(Trim, Position),
    /// And the epoch in which it began.
    Flush(Flush, Epoch),
    Reconfigure(Reconfigure),
    Transfer(Transfer),
}

/// Several batches, appended in order, several of them under way.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) appends: Appends,
    /// What is to be offered yet.
    pub(crate) left: VecDeque<(Appending, Arc<Entries>)>,
    /// What was offered and has not ended, and what was the case when it was.
    pub(crate) offered: VecDeque<(Appending, Before)>,
    /// What has ended and was not looked at.
    pub(crate) ended: Vec<(AppendOutcome, Appending, Before)>,
}

impl Stream {
    fn step(&mut self, input: Input, before: Before, out: &mut Outbox) -> Option<()> {
        self.appends.step(input, out);
        loop {
            while let Some(ended) = self.appends.next_ended() {
                let (batch, began) = self.offered.front_mut().expect("what ended was offered");
                let (count, id) = (u64::from(ended.count), batch.id);
                self.ended.push((ended.outcome, Appending { id, total: count }, *began));
                assert!(count <= batch.total, "an outcome is of one batch");
                (batch.id.sequence, batch.total) = (id.sequence + count, batch.total - count);
                if batch.total == 0 {
                    self.offered.pop_front();
                }
            }
            if !self.appends.wants() {
                break;
            }
            let Some((batch, entries)) = self.left.pop_front() else { break };
            self.offered.push_back((batch, before));
            self.appends.offer(batch.id, entries, out);
        }
        (self.offered.is_empty() && self.left.is_empty()).then_some(())
    }
}

/// What is being appended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appending {
    pub(crate) id: EntryId,
    pub(crate) total: u64,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    Append(AppendOutcome, Appending),
    Stream,
    Read(ReadOutcome),
    Fill(Filled),
    Settle(Settled),
    Tail(TailOutcome),
    Sweep(Settled),
    Trim(Position),
    Flush(Epoch),
    Reconfigure(Reconfigured),
    Transfer(Transferred),
}

impl Job {
    fn step(&mut self, input: Input, now: Before, out: &mut Outbox) -> Option<Outcome> {
        match self {
            Self::Stream(job) => job.step(input, now, out).map(|()| Outcome::Stream),
            Self::Append(job, what) => job.step(input, out).map(|outcome| Outcome::Append(outcome, *what)),
            Self::Read(job) => job.step(input, out).map(Outcome::Read),
            Self::Fill(job) => job.step(input, out).map(Outcome::Fill),
            Self::Settle(job) => job.step(input, out).map(Outcome::Settle),
            Self::Tail(job) => job.step(input, out).map(Outcome::Tail),
            Self::Sweep(job) => job.step(input, out).map(Outcome::Sweep),
            Self::Trim(job, before) => job.step(input, out).map(|()| Outcome::Trim(*before)),
            Self::Flush(job, began) => job.step(input, out).map(|()| Outcome::Flush(*began)),
            Self::Reconfigure(job) => job.step(input, out).map(Outcome::Reconfigure),
            Self::Transfer(job) => job.step(input, out).map(Outcome::Transfer),
        }
    }
}

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: ClientId,
    pub(crate) role: Role,
    /// What it knows; others may know better.
    pub(crate) projection: Arc<Projection>,
    pub(crate) job: Option<Job>,
    /// What was the case when the job began.
    pub(crate) before: Before,
    /// Of all its operations; what concerns another one is too late.
    pub(crate) turn: u64,
    /// Of all pauses of the operation; a later one replaces the one before.
    pub(crate) pause: u64,
    /// The sequence of its next entry.
    pub(crate) sequence: u64,
    /// The linearizable tail that it learned last, if it is a reader.
    pub(crate) tail: Option<TailOutcome>,
    /// How far it has swept, if it is a janitor.
    pub(crate) swept: Position,
    /// The change that it makes next, if it is a driver.
    pub(crate) copied: Vec<mixlog_log::corfu::Member>,
}

impl Client {
    pub(crate) const fn new(id: ClientId, role: Role, projection: Arc<Projection>, before: Before) -> Self {
        Self {
            id,
            role,
            projection,
            job: None,
            before,
            turn: 0,
            pause: 0,
            sequence: 0,
            tail: None,
            swept: Position::ZERO,
            copied: Vec::new(),
        }
    }

    /// Tells the job what happened; `now`: what has ended before. Also tells which batches of a stream have ended.
    pub(crate) fn step(
        &mut self,
        input: Input,
        now: Before,
        out: &mut Outbox,
    ) -> (Vec<(AppendOutcome, Appending, Before)>, Option<Outcome>) {
        let Some(job) = &mut self.job else { return (Vec::new(), None) };
        let outcome = job.step(input, now, out);
        let ended = match job {
            Job::Stream(stream) => std::mem::take(&mut stream.ended),
            _ => Vec::new(),
        };
        if outcome.is_some() {
            self.job = None;
        }
        (ended, outcome)
    }
}
