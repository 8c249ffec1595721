//! List-append as the runner sees it.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use mixlog_engine::{Builder, Engine, Outcome, Snapshot, SubmitError, Ticket, TicketError};

use super::audit::{self, ClientHistory, Known};
use super::driver::{Config, Driver, Keys};
use super::history::{Op, Status, Transaction};
use super::transaction::{LISTS, ListAppend};
use crate::check::Check;
use crate::footprints::{Exact, Footprints};
use crate::workload::{Client, DriveError, Settled, Workload};

/// List-append; `F` chooses the footprints.
///
/// It keeps the histories of all its clients, also of those that failed.
#[derive(Debug)]
pub struct ListAppends<F = Exact> {
    config: Config,
    /// What all histories count from.
    start: Instant,
    histories: Mutex<Vec<ClientHistory>>,
    /// Numbers of processes that were given away.
    processes: Arc<AtomicU32>,
    footprints: PhantomData<fn() -> F>,
}

impl<F: Footprints> ListAppends<F> {
    /// List-append with this configuration.
    ///
    /// # Panics
    /// If [`Config::problem`] finds one.
    #[must_use]
    pub fn new(config: Config) -> Self {
        assert_eq!(config.problem(), None);
        Self {
            config,
            start: Instant::now(),
            histories: Mutex::default(),
            processes: Arc::default(),
            footprints: PhantomData,
        }
    }

    /// What all clients did, by the time of submission: those that are gone with all of it, those that run with what
    /// has ended.
    ///
    /// # Panics
    /// If a client panicked.
    #[must_use]
    pub fn history(&self) -> Vec<Transaction> {
        let histories = self.histories.lock().expect("no panic between");
        let mut all: Vec<Transaction> = Vec::new();
        for history in &*histories {
            all.extend_from_slice(&history.lock().expect("no panic in a client"));
        }
        all.sort_by_key(|transaction| transaction.submitted_ns);
        all
    }
}

impl<F: Footprints> Workload for ListAppends<F> {
    type Client = ListAppendClient<F>;
    type Observed = Known;

    fn name(&self) -> String {
        "list-append".to_owned()
    }

    fn register(&self, builder: Builder) -> Builder {
        builder.table(&LISTS).procedure::<F::Of<ListAppend>>()
    }

    /// Lists begin empty.
    fn is_populated(&self, _: &Snapshot) -> bool {
        true
    }

    fn populate(&self, _: &Engine, _: &mut dyn FnMut(u64, u64)) -> Result<(), DriveError> {
        Ok(())
    }

    /// A client with keys of its own.
    fn client(&self, snapshot: &Snapshot, seed: u64, client: u32) -> Result<Self::Client, DriveError> {
        Ok(self.client_on(&self.keys(snapshot), seed, client))
    }

    /// The clients share their keys: which of them appends what depends on when they ask.
    fn clients(&self, snapshot: &Snapshot, seed: u64, count: u32) -> Result<Vec<Self::Client>, DriveError> {
        let keys = self.keys(snapshot);
        Ok((0..count).map(|client| self.client_on(&keys, seed, client)).collect())
    }

    fn observe(&self, snapshot: &Snapshot) -> Known {
        Known { earlier: audit::lists(snapshot), histories: Vec::new() }
    }

    fn audit(&self, snapshot: &Snapshot, observed: Option<&Known>) -> Vec<Check> {
        audit::audit(snapshot, observed)
    }
}

impl<F: Footprints> ListAppends<F> {
    /// Keys that the log does not know yet.
    fn keys(&self, snapshot: &Snapshot) -> Arc<Mutex<Keys>> {
        let mut first = 0;
        snapshot.for_each(&LISTS, |key, _| first = first.max(key + 1));
        Arc::new(Mutex::new(Keys::new(&self.config, first)))
    }

    fn client_on(&self, keys: &Arc<Mutex<Keys>>, seed: u64, client: u32) -> ListAppendClient<F> {
        let history = ClientHistory::default();
        self.histories.lock().expect("no panic between").push(Arc::clone(&history));
        ListAppendClient {
            driver: Driver::new(self.config, Arc::clone(keys), seed, client),
            start: self.start,
            history,
            processes: Arc::clone(&self.processes),
            idle: Vec::new(),
            footprints: PhantomData,
        }
    }
}

/// Submits transactions on lists, and writes their history.
pub struct ListAppendClient<F> {
    driver: Driver,
    start: Instant,
    history: ClientHistory,
    processes: Arc<AtomicU32>,
    /// Processes of this client that have nothing in flight.
    idle: Vec<u32>,
    footprints: PhantomData<fn() -> F>,
}

impl<F> ListAppendClient<F> {
    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

/// A transaction that the history does not tell yet. If nobody completes it, its outcome stays unknown.
struct Open {
    history: ClientHistory,
    transaction: Option<Transaction>,
}

impl Open {
    fn complete(mut self, change: impl FnOnce(&mut Transaction)) {
        change(self.transaction.as_mut().expect("it is taken once, at the end"));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // A history that a panic interrupted is lost anyway.
        if let (Some(transaction), Ok(mut history)) = (self.transaction.take(), self.history.lock()) {
            history.push(transaction);
        }
    }
}

/// A transaction in flight.
pub struct Pending<F: Footprints> {
    ticket: Ticket<F::Of<ListAppend>>,
    open: Open,
    process: u32,
}

impl<F: Footprints> Client for ListAppendClient<F> {
    type Pending = Pending<F>;
    type Observed = Known;

    fn submit(&mut self, engine: &Engine) -> Result<Pending<F>, SubmitError> {
        let call = self.driver.draw();
        let process = self.idle.pop();
        let process = process.unwrap_or_else(|| self.processes.fetch_add(1, Ordering::Relaxed));
        let transaction = Transaction {
            process,
            submitted_ns: self.now_ns(),
            completed_ns: None,
            status: Status::Info,
            operations: call.operations.iter().map(|operation| Op::from(*operation)).collect(),
            position: None,
        };
        // An error leaves it open: the call may be in the log nevertheless.
        let open = Open { history: Arc::clone(&self.history), transaction: Some(transaction) };
        Ok(Pending { ticket: engine.submit(&F::of(call))?, open, process })
    }

    fn settle(&mut self, pending: Pending<F>) -> Result<Settled, TicketError> {
        let Pending { ticket, open, process } = pending;
        let outcome = ticket.wait()?;
        let completed_ns = self.now_ns();
        self.idle.push(process);
        let position = outcome.position().0;
        let status = if matches!(outcome, Outcome::Committed { .. }) { Status::Ok } else { Status::Fail };
        let mut reads = Vec::new();
        let settled = Settled::of(outcome, |output| reads = output, |_| true);
        open.complete(|transaction| {
            let lists = transaction.operations.iter_mut().filter_map(|op| match op {
                Op::Read { list, .. } => Some(list),
                Op::Append { .. } => None,
            });
            lists.zip(reads).for_each(|(list, read)| *list = Some(read));
            transaction.completed_ns = Some(completed_ns);
            transaction.status = status;
            transaction.position = Some(position);
        });
        Ok(settled)
    }

    fn observed(self) -> Known {
        Known { histories: vec![self.history], ..Known::default() }
    }
}
