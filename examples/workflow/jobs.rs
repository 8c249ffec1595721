//! Orders that pass three steps, each a queue of jobs: claimed for a time, done, or tried again.
//!
//! A job has the time at which it is due, and an index finds those that are. A claim moves that time to the end of its
//! lease: a worker that is not heard of again loses the job by nothing but the passing of time. Time is that of the log's
//! entry, so every replica sees the same leases end. All of a queue is one granule: claims look for the first job of many,
//! and are to find different ones.

use mixlog::{Footprint, Index, Never, Procedure, Sum, Table, Tx};
use serde::{Deserialize, Serialize};

pub(crate) const STEPS: [&str; 3] = ["reserve", "charge", "ship"];
/// So many times a job is claimed before somebody has to look at it.
const MOST_ATTEMPTS: u32 = 4;

#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) due_us: u64,
    pub(crate) attempts: u32,
    /// The position of the claim: whoever comes with another one has lost the job.
    pub(crate) claim: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The steps that were done, with the claims under which they were.
    pub(crate) done: Vec<(u8, u64)>,
    /// How often an operator had it tried again.
    pub(crate) revived: u32,
    pub(crate) cancelled: bool,
}

impl Order {
    pub(crate) const fn is_closed(&self) -> bool {
        self.cancelled || self.done.len() == STEPS.len()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Event {
    Claimed,
    LeaseEnded,
    Failed,
    GivenUp,
    Done,
}

pub(crate) const ORDERS: Table<u64, Order> = Table::new("orders");
/// By step and order.
pub(crate) const JOBS: Table<(u8, u64), Job> = Table::new("jobs").grouped("queue", |&(step, _)| step as u64);
pub(crate) const DUE: Index<(u8, u64), Job, (u8, u64)> =
    Index::new("jobs.due", JOBS, |&(step, _), job| Some((step, job.due_us)))
        .grouped("queue", |&(step, _)| step as u64);
/// Jobs that failed too often, for an operator.
pub(crate) const GIVEN_UP: Table<(u8, u64), u64> = Table::new("given_up").ordered();
pub(crate) const EVENTS: Table<(u8, Event), Sum> = Table::new("events");

/// The first step of a new order.
#[derive(Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) order: u64,
}

impl Procedure for Place {
    const NAME: &'static str = "place";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&ORDERS, &self.order).write_granule(&JOBS, 0);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&ORDERS, self.order, Order::default());
        tx.put(&JOBS, (0, self.order), Job { due_us: tx.time_us(), ..Job::default() });
        Ok(())
    }
}

/// Takes jobs that are due, for as long as a lease lasts.
#[derive(Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) step: u8,
    pub(crate) most: usize,
    pub(crate) lease_us: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Claimed {
    /// To be named in reports.
    pub(crate) claim: u64,
    pub(crate) orders: Vec<u64>,
    /// When the next job will be due, if there is one.
    pub(crate) next_us: Option<u64>,
}

impl Procedure for Claim {
    const NAME: &'static str = "claim";
    type Output = Claimed;
    type Abort = Never;

    // No footprint is declared: which jobs are due follows from rows, and so does who is given up. The engine finds out.

    fn run(&self, tx: &mut Tx<'_>) -> Result<Claimed, Never> {
        let (step, now) = (self.step, tx.time_us());
        let claim = tx.position().0;
        let due: Vec<_> =
            tx.range_by(&DUE, (step, 0)..=(step, now)).map(|(_, key)| key).take(self.most).collect();
        let mut orders = Vec::new();
        for key in due {
            let mut job = tx.get(&JOBS, &key).cloned().expect("the index found it");
            if job.claim.is_some() {
                tx.merge(&EVENTS, (step, Event::LeaseEnded), 1);
            }
            if job.attempts == MOST_ATTEMPTS {
                give_up(tx, key);
                continue;
            }
            job = Job { due_us: now + self.lease_us, attempts: job.attempts + 1, claim: Some(claim) };
            tx.put(&JOBS, key, job);
            tx.merge(&EVENTS, (step, Event::Claimed), 1);
            orders.push(key.1);
        }
        let next_us = tx.range_by(&DUE, (step, 0)..=(step, u64::MAX)).next().map(|((_, due_us), _)| due_us);
        Ok(Claimed { claim, orders, next_us })
    }
}

fn give_up(tx: &mut Tx<'_>, key: (u8, u64)) {
    tx.delete(&JOBS, &key);
    tx.put(&GIVEN_UP, key, tx.time_us());
    tx.merge(&EVENTS, (key.0, Event::GivenUp), 1);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum News {
    /// The worker is at it still.
    Heartbeat {
        lease_us: u64,
    },
    Done,
    Failed,
}

/// What a worker has to tell about a job that it claimed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) step: u8,
    pub(crate) order: u64,
    pub(crate) claim: u64,
    pub(crate) news: News,
}

/// The lease ended, and the job is somebody else's, or done.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Lost;

impl Procedure for Report {
    const NAME: &'static str = "report";
    type Output = ();
    type Abort = Lost;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write_granule(&JOBS, self.step.into());
        match self.news {
            News::Heartbeat { .. } => {}
            News::Done => {
                f.write(&ORDERS, &self.order).merge(&EVENTS, &(self.step, Event::Done));
                if usize::from(self.step) + 1 < STEPS.len() {
                    f.write_granule(&JOBS, u64::from(self.step) + 1);
                }
            }
            News::Failed => {
                let events = (self.step, Event::Failed);
                f.merge(&EVENTS, &events).merge(&EVENTS, &(self.step, Event::GivenUp));
                f.write(&GIVEN_UP, &(self.step, self.order));
            }
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Lost> {
        let &Self { step, order, claim, news } = self;
        let (key, now, chance) = ((step, order), tx.time_us(), tx.random());
        // Also once the lease has ended, as long as nobody else came.
        let job = tx.get_mut(&JOBS, &key).filter(|job| job.claim == Some(claim)).ok_or(Lost)?;
        match news {
            News::Heartbeat { lease_us } => job.due_us = now + lease_us,
            News::Done => {
                tx.delete(&JOBS, &key);
                tx.get_or_put(&ORDERS, order, Order::default).done.push((step, claim));
                if usize::from(step) + 1 < STEPS.len() {
                    tx.put(&JOBS, (step + 1, order), Job { due_us: now, ..Job::default() });
                }
                tx.merge(&EVENTS, (step, Event::Done), 1);
            }
            News::Failed => {
                // Twice as long each time, and not all at the same moment.
                let backoff_us = 1_000 << job.attempts;
                *job = Job { due_us: now + backoff_us + chance % backoff_us, claim: None, ..*job };
                if job.attempts == MOST_ATTEMPTS {
                    give_up(tx, key);
                }
                tx.merge(&EVENTS, (step, Event::Failed), 1);
            }
        }
        Ok(())
    }
}
