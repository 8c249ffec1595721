//! Clients: each does one operation after the other, with the production state machines, as its role says.

use std::sync::Arc;

use mixlog_log::Position;
use mixlog_log::corfu::{
    Append, AppendOutcome, ClientId, EntryId, Fill, Filled, Input, Operation, Outbox, Projection, Read,
    ReadOutcome, Reconfigure, Reconfigured, Settle, Settled, Sweep, Tail, TailOutcome, Transfer, Transferred,
    Trim,
};

use crate::checks::Before;

/// What a client is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Writer,
    Reader,
    Janitor,
    Trimmer,
    Driver,
}

/// An operation under way.
#[derive(Debug)]
pub(crate) enum Job {
    Append(Append, Appending),
    Read(Read),
    Fill(Fill),
    Settle(Settle),
    Tail(Tail),
    Sweep(Sweep),
    Trim(Trim, Position),
    Reconfigure(Reconfigure),
    Transfer(Transfer),
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
    Read(ReadOutcome),
    Fill(Filled),
    Settle(Settled),
    Tail(TailOutcome),
    Sweep(Settled),
    Trim(Position),
    Reconfigure(Reconfigured),
    Transfer(Transferred),
}

impl Job {
    fn step(&mut self, input: Input, out: &mut Outbox) -> Option<Outcome> {
        match self {
            Self::Append(job, what) => job.step(input, out).map(|outcome| Outcome::Append(outcome, *what)),
            Self::Read(job) => job.step(input, out).map(Outcome::Read),
            Self::Fill(job) => job.step(input, out).map(Outcome::Fill),
            Self::Settle(job) => job.step(input, out).map(Outcome::Settle),
            Self::Tail(job) => job.step(input, out).map(Outcome::Tail),
            Self::Sweep(job) => job.step(input, out).map(Outcome::Sweep),
            Self::Trim(job, before) => job.step(input, out).map(|()| Outcome::Trim(*before)),
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

    /// Tells the job what happened.
    pub(crate) fn step(&mut self, input: Input, out: &mut Outbox) -> Option<Outcome> {
        let outcome = self.job.as_mut()?.step(input, out)?;
        self.job = None;
        Some(outcome)
    }
}
