//! Tickets: how the outcome of a transaction travels from the worker that ran it to whoever submitted it.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
#[cfg(not(loom))]
use std::time::Instant;

use mixlog_log::{AppendError, Position};
use thiserror::Error;

use crate::at_work;
use crate::clients::Repeat;
use crate::codec::{self, DecodeError};
use crate::panics::{Payload, caught};
use crate::procedure::Procedure;
use crate::reply::Status;
use crate::sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering};
#[cfg(not(loom))]
use crate::sync::{spin_loop, yield_now};

/// Whose transaction has just become durable looks for so long before it sleeps: the leader was woken, and may have
/// nothing else to execute.
#[cfg(not(loom))]
const TURNAROUND: Duration = Duration::from_micros(50);
/// How often it looks before it lets others run.
#[cfg(not(loom))]
const LOOKS: u32 = 64;

/// How a transaction ended, at its position in the log. The same on every replica.
pub enum Outcome<P: Procedure> {
    /// Its changes are there, as durable as the log promises.
    Committed {
        /// Where it stands in the log.
        position: Position,
        /// What the procedure returned.
        output: P::Output,
    },
    /// The procedure decided to abort; none of its changes remain.
    Aborted {
        /// Where it stands in the log.
        position: Position,
        /// What the procedure returned.
        reason: P::Abort,
    },
    /// The procedure panicked; none of its changes remain.
    Panicked {
        /// Where it stands in the log.
        position: Position,
        /// The panic's message.
        message: String,
    },
}

impl<P: Procedure<Output: fmt::Debug>> fmt::Debug for Outcome<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Committed { position, output } => {
                f.debug_struct("Committed").field("position", position).field("output", output).finish()
            }
            Self::Aborted { position, reason } => {
                f.debug_struct("Aborted").field("position", position).field("reason", reason).finish()
            }
            Self::Panicked { position, message } => {
                f.debug_struct("Panicked").field("position", position).field("message", message).finish()
            }
        }
    }
}

impl<P: Procedure> Outcome<P> {
    /// Where the transaction stands in the log.
    pub const fn position(&self) -> Position {
        match self {
            Self::Committed { position, .. }
            | Self::Aborted { position, .. }
            | Self::Panicked { position, .. } => *position,
        }
    }

    /// What the procedure decided: its output, or its reason to abort. For callers to whom a panic is an error like a
    /// stopped engine, and an abort is not.
    ///
    /// ```
    /// # use mixlog_engine::{Engine, Procedure, Table, Tx};
    /// # use serde::{Deserialize, Serialize};
    /// # const ACCOUNTS: Table<u64, i64> = Table::new("accounts");
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Withdraw { account: u64, cents: i64 }
    /// # #[derive(Debug, PartialEq, Serialize, Deserialize)]
    /// # struct InsufficientFunds;
    /// # impl Procedure for Withdraw {
    /// #     const NAME: &'static str = "withdraw";
    /// #     type Output = i64;
    /// #     type Abort = InsufficientFunds;
    /// #     fn run(&self, tx: &mut Tx<'_>) -> Result<i64, InsufficientFunds> {
    /// #         let left = tx.get(&ACCOUNTS, &self.account).copied().unwrap_or(100) - self.cents;
    /// #         if left < 0 {
    /// #             return Err(InsufficientFunds);
    /// #         }
    /// #         tx.put(&ACCOUNTS, self.account, left);
    /// #         Ok(left)
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let log = std::sync::Arc::new(mixlog_log::MemoryLog::new());
    /// # let engine = Engine::builder().table(&ACCOUNTS).procedure::<Withdraw>().open(log)?;
    /// let withdraw = |cents| engine.submit(&Withdraw { account: 1, cents });
    /// assert_eq!(withdraw(70)?.wait()?.decided()?, Ok(30));
    /// assert_eq!(withdraw(70)?.wait()?.decided()?, Err(InsufficientFunds));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Panicked`]: it decided nothing.
    pub fn decided(self) -> Result<Result<P::Output, P::Abort>, Panicked> {
        match self {
            Self::Committed { output, .. } => Ok(Ok(output)),
            Self::Aborted { reason, .. } => Ok(Err(reason)),
            Self::Panicked { position, message } => Err(Panicked { procedure: P::NAME, position, message }),
        }
    }

    /// The output, if the transaction committed.
    pub fn committed(self) -> Option<P::Output> {
        match self {
            Self::Committed { output, .. } => Some(output),
            _ => None,
        }
    }
}

/// A procedure panicked; none of its changes remain. See [`Outcome::decided`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("procedure {procedure:?} panicked at position {position}: {message}")]
pub struct Panicked {
    /// Its name.
    pub procedure: &'static str,
    /// Where the transaction stands in the log.
    pub position: Position,
    /// The panic's message.
    pub message: String,
}

/// Why a submitted transaction's outcome is not known here.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TicketError {
    /// The engine stopped before the outcome was known: it was dropped, or its log failed. The transaction may
    /// or may not be in the log; who opens the log again sees it if it is.
    #[error("the engine stopped before the transaction was acknowledged: {0}")]
    Stopped(String),
    /// The log took the transaction and could not append it after all, as a cluster may find out late. What is known of
    /// it the [`AppendError`] tells: it is not in the log, and will not be, but where that is
    /// [`Indeterminate`](AppendError::Indeterminate) or [`Failed`](AppendError::Failed).
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A procedure or a waker of the engine was to wait for the outcome, on a thread that the engine goes on with: it would
    /// wait for itself. The transaction is in the log, or on its way there.
    #[error("a procedure or waker of this engine cannot wait for its transactions: the engine waits for it")]
    WaitsForItself,
    /// The client submitted the transaction before, or skipped its number, and its answer gave way to that of a later
    /// transaction: see [`ANSWERS_KEPT`](crate::ANSWERS_KEPT). This time it had no effect.
    #[error(
        "the answer to sequence number {sequence} of this client is forgotten: it gave way to that of {newer}"
    )]
    Forgotten {
        /// The transaction's sequence number.
        sequence: u64,
        /// The one whose answer is kept in its place.
        newer: u64,
    },
    /// The transaction ran, and has its effects, but its output, or why it aborted, cannot be read from the bytes that were
    /// made of it: see [`Procedure`] for what their types must be.
    #[error("the reply of the transaction at position {position} cannot be read: {detail}")]
    Unreadable {
        /// Its position.
        position: Position,
        /// What is wrong.
        detail: String,
    },
    /// The client used the sequence number before, for another procedure or other arguments. This time it had no effect.
    #[error("sequence number {sequence} was used before, at position {position}, for another transaction")]
    Reused {
        /// The sequence number.
        sequence: u64,
        /// Where it was used.
        position: Position,
    },
    /// Another interactive transaction of the client committed under the sequence number before: see
    /// [`Client::begin`](crate::Client::begin). This one had no effect.
    #[error(
        "another transaction with sequence number {sequence} of this client had committed before, at position {position}"
    )]
    CommittedBefore {
        /// The sequence number.
        sequence: u64,
        /// Where the one stands that committed.
        position: Position,
    },
}

/// An outcome before its types are restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawOutcome {
    pub(crate) position: Position,
    pub(crate) status: Status,
    pub(crate) bytes: Vec<u8>,
}

enum State {
    /// Nothing yet. Whether a thread sleeps for it, and whom to wake besides.
    Pending {
        sleeping: bool,
        waker: Option<Waker>,
    },
    Done(Result<RawOutcome, TicketError>),
    Taken,
}

/// The cell between worker and submitter. Filled once, taken once.
pub(crate) struct Cell {
    state: Mutex<State>,
    filled: Condvar,
    /// For who looks without the lock.
    is_filled: AtomicBool,
}

impl Cell {
    pub(crate) fn new() -> Self {
        let state = Mutex::new(State::Pending { sleeping: false, waker: None });
        Self { state, filled: Condvar::new(), is_filled: AtomicBool::new(false) }
    }

    /// Hands over the outcome; who waits for it is noted down, to be woken. Only the first call counts.
    pub(crate) fn fill(self: Arc<Self>, outcome: Result<RawOutcome, TicketError>, waiting: &mut Waiting) {
        let mut state = self.state();
        let State::Pending { sleeping, waker } = &mut *state else { return };
        let (sleeping, waker) = (*sleeping, waker.take());
        *state = State::Done(outcome);
        drop(state);
        // Release: nothing depends on it, but who sees it is to find the outcome under the lock.
        self.is_filled.store(true, Ordering::Release);
        // After the state changed under the lock: a sleeper either saw it or is noted down here.
        if sleeping || waker.is_some() {
            waiting.0.push((sleeping.then_some(self), waker));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic in a ticket")
    }

    pub(crate) fn is_filled(&self) -> bool {
        self.is_filled.load(Ordering::Acquire)
    }

    /// Looks for a short while whether the outcome comes.
    #[cfg(not(loom))]
    fn watch(&self) {
        // As a rule whoever watches has executed it.
        if self.is_filled() {
            return;
        }
        let start = Instant::now();
        while !self.is_filled() && start.elapsed() < TURNAROUND {
            (0..LOOKS).take_while(|_| !self.is_filled()).for_each(|_| spin_loop());
            yield_now();
        }
    }

    #[cfg(loom)]
    fn watch(&self) {}

    /// Sleeps until the outcome is there.
    pub(crate) fn wait(&self) -> Result<RawOutcome, TicketError> {
        let mut state = self.state();
        loop {
            if let State::Pending { sleeping, .. } = &mut *state {
                *sleeping = true;
                state = self.filled.wait(state).expect("no panic in a ticket");
            } else {
                return Self::take(&mut state);
            }
        }
    }

    #[cfg(not(loom))]
    fn wait_for(&self, timeout: Duration) -> Option<Result<RawOutcome, TicketError>> {
        // So late a deadline that no clock can tell it is none.
        let Some(deadline) = Instant::now().checked_add(timeout) else { return Some(self.wait()) };
        let mut state = self.state();
        loop {
            let State::Pending { sleeping, .. } = &mut *state else { return Some(Self::take(&mut state)) };
            *sleeping = true;
            let left = deadline.checked_duration_since(Instant::now())?;
            state = self.filled.wait_timeout(state, left).expect("no panic in a ticket").0;
        }
    }

    #[cfg(loom)]
    fn wait_for(&self, _timeout: Duration) -> Option<Result<RawOutcome, TicketError>> {
        Some(self.wait())
    }

    fn poll(&self, context: &Context<'_>) -> Poll<Result<RawOutcome, TicketError>> {
        // Wakers are copied and dropped by code of their own, which may panic: not under the lock.
        let mut new = Some(context.waker().clone());
        let mut state = self.state();
        match &mut *state {
            State::Pending { waker, .. } => {
                std::mem::swap(waker, &mut new);
                drop(state);
                Poll::Pending
            }
            _ => Poll::Ready(Self::take(&mut state)),
        }
    }

    fn take(state: &mut State) -> Result<RawOutcome, TicketError> {
        match std::mem::replace(state, State::Taken) {
            State::Done(outcome) => outcome,
            State::Pending { .. } | State::Taken => unreachable!("an outcome is taken once, by its ticket"),
        }
    }
}

/// Who sleeps until outcomes are there, and whom to wake besides.
///
/// Those of a window are all handed over before the first sleeper is woken. Whoever waits for one transaction after the
/// other finds the next ones done, as a rule; otherwise it would sleep again, and be woken again, for each of them, which
/// costs more than most transactions do.
#[derive(Default)]
pub(crate) struct Waiting(Vec<(Option<Arc<Cell>>, Option<Waker>)>);

impl Waiting {
    /// # Panics
    /// With what the first waker panicked, after all were woken.
    pub(crate) fn wake(mut self) {
        if let Some(payload) = self.wake_all() {
            payload.resume();
        }
    }

    /// Tells with what the first waker panicked.
    fn wake_all(&mut self) -> Option<Payload> {
        let mut panicked = None;
        for (cell, waker) in self.0.drain(..) {
            if let Some(cell) = cell {
                cell.filled.notify_all();
            }
            if let Some(waker) = waker
                && let Err(payload) = caught(|| waker.wake())
            {
                panicked.get_or_insert(payload);
            }
        }
        panicked
    }
}

impl Drop for Waiting {
    /// Whoever is not woken sleeps for ever, whatever else goes wrong.
    fn drop(&mut self) {
        self.wake_all();
    }
}

/// The claim on the outcome of a submitted transaction: block on it ([`wait`](Self::wait)), or await it.
///
/// Dropping a ticket does not cancel the transaction.
#[must_use = "the outcome comes through the ticket"]
pub struct Ticket<P> {
    cell: Arc<Cell>,
    /// The client's sequence number; 0 for none.
    sequence: u64,
    /// By its origin.
    engine: u64,
    procedure: PhantomData<fn() -> P>,
}

impl<P: Procedure> Ticket<P> {
    pub(crate) const fn new(cell: Arc<Cell>, sequence: u64, engine: u64) -> Self {
        Self { cell, sequence, engine, procedure: PhantomData }
    }

    /// Whether waiting for the outcome would keep it from coming.
    fn waits_for_itself(&self) -> bool {
        !self.is_done() && at_work::is_for(self.engine)
    }

    /// Whether the outcome is there, so that [`wait`](Self::wait) returns at once.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.cell.is_filled()
    }

    /// Waits until the transaction is durable, as the log promises, and executed.
    ///
    /// # Errors
    /// [`TicketError`].
    ///
    /// # Panics
    /// If the outcome was taken already, by a poll that was ready.
    pub fn wait(self) -> Result<Outcome<P>, TicketError> {
        self.wait_with_position().map(|(_, outcome)| outcome)
    }

    /// Like [`wait_told`](Self::wait_told), soon after the transaction became durable: looks for a while before it sleeps.
    pub(crate) fn watch(self) -> Result<(Outcome<P>, bool), TicketError> {
        self.cell.watch();
        self.wait_told()
    }

    /// Like [`wait`](Self::wait); tells besides whether the transaction ran, or its client's earlier one had.
    pub(crate) fn wait_told(self) -> Result<(Outcome<P>, bool), TicketError> {
        let raw = self.cell.wait()?;
        let is_first = raw.status != Status::Repeated;
        Ok((restore(raw, self.sequence)?, is_first))
    }

    /// Like [`wait`](Self::wait); tells besides up to which position the log was executed for the outcome. That is where
    /// the transaction stands, and in the outcome as well, unless the client had submitted it before: then the outcome tells
    /// where it stood the first time, and this where it came again, and its answer was looked up. To
    /// [wait](crate::Engine::wait_agreed) for others who come to the same, this is the position.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    ///
    /// # Panics
    /// As [`wait`](Self::wait).
    pub fn wait_with_position(self) -> Result<(Position, Outcome<P>), TicketError> {
        if self.waits_for_itself() {
            return Err(TicketError::WaitsForItself);
        }
        let raw = self.cell.wait()?;
        Ok((raw.position, restore(raw, self.sequence)?))
    }

    /// Like [`wait`](Self::wait), for at most `timeout`; gives the ticket back when it passed first.
    ///
    /// # Errors
    /// The outer error is the ticket itself; the inner one as in [`wait`](Self::wait).
    pub fn wait_timeout(self, timeout: Duration) -> Result<Result<Outcome<P>, TicketError>, Self> {
        if !timeout.is_zero() && self.waits_for_itself() {
            return Ok(Err(TicketError::WaitsForItself));
        }
        match self.cell.wait_for(timeout) {
            Some(outcome) => Ok(outcome.and_then(|raw| restore(raw, self.sequence))),
            None => Err(self),
        }
    }
}

/// The types of an outcome. `sequence` is the client's.
fn restore<P: Procedure>(raw: RawOutcome, sequence: u64) -> Result<Outcome<P>, TicketError> {
    let RawOutcome { position, status, bytes } = raw;
    let unreadable = |error: DecodeError| TicketError::Unreadable { position, detail: error.to_string() };
    Ok(match status {
        Status::Committed => {
            Outcome::Committed { position, output: codec::decode(&bytes).map_err(unreadable)? }
        }
        Status::Aborted => Outcome::Aborted { position, reason: codec::decode(&bytes).map_err(unreadable)? },
        Status::Panicked => {
            Outcome::Panicked { position, message: String::from_utf8_lossy(&bytes).into_owned() }
        }
        Status::Repeated => match codec::decode(&bytes)
            .expect("the engine's own types are read as they were written")
        {
            Repeat::Answer { position, status, reply } => {
                // Nothing is kept of what did not run, so this ends here.
                return restore(RawOutcome { position: Position(position), status, bytes: reply }, sequence);
            }
            Repeat::Forgotten { newer } => return Err(TicketError::Forgotten { sequence, newer }),
            Repeat::Reused { position } => {
                return Err(TicketError::Reused { sequence, position: Position(position) });
            }
            Repeat::CommittedBefore { position } => {
                return Err(TicketError::CommittedBefore { sequence, position: Position(position) });
            }
        },
    })
}

impl<P: Procedure> Future for Ticket<P> {
    type Output = Result<Outcome<P>, TicketError>;

    /// # Panics
    /// When polled again after it was ready.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.cell.poll(context).map(|outcome| restore(outcome?, self.sequence))
    }
}

impl<P> fmt::Debug for Ticket<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;

    /// Hands over, and wakes, as an engine does for a window of one.
    fn fill(cell: Arc<Cell>, outcome: Result<RawOutcome, TicketError>) {
        let mut waiting = Waiting::default();
        cell.fill(outcome, &mut waiting);
        waiting.wake();
    }

    /// Loom fails a model in which a thread sleeps for ever: so no wake-up is lost.
    #[test]
    fn loom_ticket_wait_while_filled_gets_the_outcome() {
        loom::model(|| {
            let cell = Arc::new(Cell::new());
            let worker = {
                let cell = Arc::clone(&cell);
                thread::spawn(move || {
                    let outcome =
                        RawOutcome { position: Position(7), status: Status::Committed, bytes: vec![1, 2] };
                    fill(Arc::clone(&cell), Ok(outcome));
                    // A stopping engine fails what is left; too late here.
                    fill(cell, Err(TicketError::Stopped("late".into())));
                })
            };
            let outcome = cell.wait().expect("the first outcome counts");
            assert_eq!((outcome.position, outcome.bytes), (Position(7), vec![1, 2]));
            worker.join().unwrap();
        });
    }

    /// As for a window of two: both are handed over before anybody is woken.
    #[test]
    fn loom_ticket_two_sleepers_of_one_window_are_both_woken() {
        loom::model(|| {
            let cells = [Arc::new(Cell::new()), Arc::new(Cell::new())];
            let waits = cells.clone().map(|cell| thread::spawn(move || drop(cell.wait())));
            let mut waiting = Waiting::default();
            for cell in cells {
                cell.fill(Err(TicketError::Stopped(String::new())), &mut waiting);
            }
            waiting.wake();
            waits.map(|waits| waits.join().unwrap());
        });
    }

    #[test]
    fn loom_ticket_two_fillers_exactly_one_counts() {
        loom::model(|| {
            let cell = Arc::new(Cell::new());
            let fillers: Vec<_> = (0..2)
                .map(|i| {
                    let cell = Arc::clone(&cell);
                    thread::spawn(move || fill(cell, Err(TicketError::Stopped(i.to_string()))))
                })
                .collect();
            let error = cell.wait().expect_err("only errors were filled in");
            let TicketError::Stopped(who) = error else { panic!("{error}") };
            assert!(who == "0" || who == "1");
            fillers.into_iter().for_each(|f| f.join().unwrap());
        });
    }
}
