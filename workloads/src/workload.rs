//! What the runner needs to know of a workload.

use mixlog_engine::{
    Builder, Engine, Outcome, Position, Procedure, Snapshot, SubmitError, Ticket, TicketError,
};
use thiserror::Error;

use crate::check::Check;

/// A workload: its tables and procedures, its population, its transactions, and what must hold after them.
pub trait Workload: Sync {
    /// Draws and submits transactions. Each client thread has one.
    type Client: Client<Observed = Self::Observed>;
    /// What the acknowledgements say about the state.
    type Observed: Observed;

    /// Its name in the command line and in reports.
    fn name(&self) -> String;

    /// Registers its tables and procedures.
    fn register(&self, builder: Builder) -> Builder;

    /// Whether a state holds a complete population of this workload.
    fn is_populated(&self, snapshot: &Snapshot) -> bool;

    /// Writes the population through the log and waits until it is acknowledged. `progress` is told how many of how
    /// many procedures were acknowledged.
    ///
    /// # Errors
    /// See [`DriveError`]. What was acknowledged before stays; a population that is not complete can be made again.
    fn populate(&self, engine: &Engine, progress: &mut dyn FnMut(u64, u64)) -> Result<(), DriveError>;

    /// A client over a populated state, alone. The same state, seed and client number give the same transactions.
    ///
    /// # Errors
    /// [`DriveError::NotPopulated`].
    fn client(&self, snapshot: &Snapshot, seed: u64, client: u32) -> Result<Self::Client, DriveError>;

    /// The clients of one run. Where they share something, what each of them draws may depend on the others.
    ///
    /// # Errors
    /// [`DriveError::NotPopulated`].
    fn clients(&self, snapshot: &Snapshot, seed: u64, count: u32) -> Result<Vec<Self::Client>, DriveError> {
        (0..count).map(|client| self.client(snapshot, seed, client)).collect()
    }

    /// What an observer of all acknowledgements up to this state would have observed.
    fn observe(&self, snapshot: &Snapshot) -> Self::Observed;

    /// Checks the state. What was observed must cover exactly the acknowledgements up to the snapshot; without it,
    /// checks compare the state with itself and say so.
    fn audit(&self, snapshot: &Snapshot, observed: Option<&Self::Observed>) -> Vec<Check>;
}

/// What acknowledgements say about the state; it adds up over clients.
pub trait Observed: Send {
    /// Adds what another client observed.
    fn add(&mut self, other: Self);
}

/// A source of transactions that keeps count of what became of them.
pub trait Client: Send {
    /// A transaction that was submitted and not yet acknowledged.
    type Pending: Send;
    /// What the acknowledgements say about the state.
    type Observed: Observed;

    /// Draws the next transaction and submits it.
    ///
    /// # Errors
    /// The engine's: it takes no transactions any more.
    fn submit(&mut self, engine: &Engine) -> Result<Self::Pending, SubmitError>;

    /// Waits for the acknowledgement, and counts it.
    ///
    /// # Errors
    /// The engine's: nobody knows what became of the transaction.
    fn settle(&mut self, pending: Self::Pending) -> Result<Settled, TicketError>;

    /// What was observed, at the end.
    fn observed(self) -> Self::Observed;
}

/// An acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The transaction's place in the log.
    pub position: Position,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It committed.
    Committed,
    /// It aborted, as its workload intends for some.
    Aborted,
    /// It aborted or panicked where its workload intends no such thing.
    Unexpected(String),
}

impl Settled {
    /// The account of an outcome: `commit` takes the output, and `is_intended` tells which aborts belong to the workload.
    pub fn of<P: Procedure>(
        outcome: Outcome<P>,
        commit: impl FnOnce(P::Output),
        is_intended: impl FnOnce(&P::Abort) -> bool,
    ) -> Self {
        let position = outcome.position();
        let fate = match outcome {
            Outcome::Committed { output, .. } => {
                commit(output);
                Fate::Committed
            }
            Outcome::Aborted { reason, .. } if is_intended(&reason) => Fate::Aborted,
            Outcome::Aborted { reason, .. } => {
                Fate::Unexpected(format!("{} at {position} aborted: {reason:?}", P::NAME))
            }
            Outcome::Panicked { message, .. } => {
                Fate::Unexpected(format!("{} at {position} panicked: {message}", P::NAME))
            }
        };
        Self { position, fate }
    }
}

/// Why a workload cannot go on.
#[derive(Debug, Error)]
pub enum DriveError {
    /// The engine takes no transactions any more.
    #[error("cannot submit: {0}")]
    Submit(#[from] SubmitError),
    /// The engine cannot tell what became of a transaction.
    #[error("no acknowledgement: {0}")]
    Ticket(#[from] TicketError),
    /// A procedure of the population did not commit: the log holds other data.
    #[error("the population failed: {0}")]
    Population(String),
    /// The log holds no data, or those of another workload or scale.
    #[error("the log does not hold the data of this workload: {0}")]
    NotPopulated(String),
    /// The configuration leaves nobody to submit anything.
    #[error("a run needs at least one client with at least one transaction in flight")]
    NoClients,
}

impl DriveError {
    /// The log holds another population than the one that the configuration describes, or none.
    pub(crate) fn other_population<P: std::fmt::Debug>(found: Option<P>, asked: &P) -> Self {
        Self::NotPopulated(match found {
            None => "it has no population".to_owned(),
            Some(found) => format!(
                "it was made with {found:?}, and {asked:?} is asked for; use the same options, or another log"
            ),
        })
    }
}

/// Submits the procedures of a population, many at a time, and waits for them all.
pub(crate) struct Loader<'a> {
    engine: &'a Engine,
    waits: std::collections::VecDeque<Box<dyn FnOnce() -> Result<(), DriveError> + 'a>>,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<'a> Loader<'a> {
    /// So many may be in flight: enough to fill windows, few enough to show progress.
    const IN_FLIGHT: usize = 512;

    pub(crate) fn new(engine: &'a Engine, total: u64, progress: &'a mut dyn FnMut(u64, u64)) -> Self {
        Self { engine, waits: std::collections::VecDeque::new(), done: 0, total, progress }
    }

    pub(crate) fn submit<P: Procedure>(&mut self, procedure: &P) -> Result<(), DriveError> {
        if self.waits.len() == Self::IN_FLIGHT {
            self.wait_for_one()?;
        }
        let ticket: Ticket<P> = self.engine.submit(procedure)?;
        self.waits.push_back(Box::new(move || match Settled::of(ticket.wait()?, |_| {}, |_| false).fate {
            Fate::Unexpected(what) => Err(DriveError::Population(what)),
            Fate::Committed | Fate::Aborted => Ok(()),
        }));
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<(), DriveError> {
        while !self.waits.is_empty() {
            self.wait_for_one()?;
        }
        Ok(())
    }

    fn wait_for_one(&mut self) -> Result<(), DriveError> {
        if let Some(wait) = self.waits.pop_front() {
            wait()?;
            self.done += 1;
            (self.progress)(self.done, self.total);
        }
        Ok(())
    }
}
