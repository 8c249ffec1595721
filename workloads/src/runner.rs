//! Runs a workload on an engine: clients in closed loops, latencies, progress, and the audit at the end.
//!
//! A client keeps a fixed number of transactions in flight: it submits, waits for the oldest, and submits again. A
//! latency is the time from submission until the client has the acknowledgement in hand. Acknowledgements arrive in log
//! order, so that waiting for the oldest does not keep others waiting.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mixlog_engine::{Engine, Position, Stats};

use crate::check::Check;
use crate::report::{Latency, Report};
use crate::workload::{Client, DriveError, Fate, Observed, Settled, Workload};

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stop {
    /// No more submissions after this time; what is in flight is waited for.
    After(Duration),
    /// So many transactions, shared among the clients.
    Transactions(u64),
}

/// How clients drive an engine.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Client threads, at least one. Default: 1, which a machine of few cores needs for its engine.
    pub clients: u32,
    /// Transactions that each client keeps in flight, at least one. Default: 1,024. More fills larger windows, less
    /// lowers the latency.
    pub in_flight: usize,
    /// When the run ends. Default: after ten seconds.
    pub stop: Stop,
    /// The seed of all transactions. Default: 1. The same seed gives each client the same transactions.
    pub seed: u64,
    /// How often progress is reported. Default: every second.
    pub report_every: Duration,
    /// Ends the run early once it is set; what is in flight is waited for, and the report is of what was done. Default:
    /// nothing does.
    pub interrupted: Option<&'static AtomicBool>,
}

impl Default for Config {
    fn default() -> Self {
        let stop = Stop::After(Duration::from_secs(10));
        Self {
            clients: 1,
            in_flight: 1_024,
            stop,
            seed: 1,
            report_every: Duration::from_secs(1),
            interrupted: None,
        }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Time since the start.
    pub elapsed: Duration,
    /// Transactions acknowledged since the start.
    pub transactions: u64,
    /// The highest position of them.
    pub position: Option<Position>,
    /// Transactions per second since the last report.
    pub per_second: f64,
}

/// Populates the engine's log, if it is not populated. Returns whether it did.
///
/// # Errors
/// See [`Workload::populate`].
pub fn prepare<W: Workload>(
    engine: &Engine,
    workload: &W,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<bool, DriveError> {
    let is_populated = workload.is_populated(&engine.snapshot());
    if !is_populated {
        workload.populate(engine, progress)?;
    }
    Ok(!is_populated)
}

/// Runs the workload on an engine that holds its population, and checks the state that it leaves.
///
/// `progress` is called once per second, on the caller's thread.
///
/// # Errors
/// See [`DriveError`]. Checks that fail are no error: they are in the report.
pub fn run<W: Workload>(
    engine: &Engine,
    workload: &W,
    config: &Config,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Report, DriveError> {
    if config.clients == 0 || config.in_flight == 0 {
        return Err(DriveError::NoClients);
    }
    let (clients, mut observed) = {
        let snapshot = engine.snapshot();
        let clients = workload.clients(&snapshot, config.seed, config.clients)?;
        (clients, workload.observe(&snapshot))
    };
    let before = engine.stats();
    let (driven, elapsed) = drive(engine, clients, config, progress)?;
    let after = engine.stats();

    let mut total = Tally::new();
    for (client, tally) in driven {
        observed.add(client);
        total.add(tally);
    }
    let snapshot = engine.snapshot();
    let mut checks = workload.audit(&snapshot, Some(&observed));
    checks.push(total.check());
    Ok(report(engine, workload.name(), config, &total, elapsed, [&before, &after], checks))
}

/// What one client measured.
struct Tally {
    transactions: u64,
    aborts: u64,
    unexpected: u64,
    example: Option<String>,
    latencies_us: Histogram<u64>,
}

impl Tally {
    fn new() -> Self {
        // Three digits from a microsecond to a minute; anything slower widens the range.
        let mut latencies_us = Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order");
        latencies_us.auto(true);
        Self { transactions: 0, aborts: 0, unexpected: 0, example: None, latencies_us }
    }

    fn note(&mut self, settled: Settled, latency: Duration) {
        self.transactions += 1;
        match settled.fate {
            Fate::Committed => {}
            Fate::Aborted => self.aborts += 1,
            Fate::Unexpected(example) => {
                self.unexpected += 1;
                self.example.get_or_insert(example);
            }
        }
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
        self.latencies_us.record(us).expect("the histogram widens itself");
    }

    fn add(&mut self, other: Self) {
        self.transactions += other.transactions;
        self.aborts += other.aborts;
        self.unexpected += other.unexpected;
        self.example = self.example.take().or(other.example);
        self.latencies_us.add(other.latencies_us).expect("the histogram widens itself");
    }

    /// Every transaction committed, or aborted as its workload intends.
    fn check(&self) -> Check {
        let detail = match &self.example {
            None => format!("{} transactions, {} intended aborts", self.transactions, self.aborts),
            Some(example) => {
                format!("{} of {} transactions; first: {example}", self.unexpected, self.transactions)
            }
        };
        Check { name: "outcomes".to_owned(), ok: self.unexpected == 0, detail }
    }
}

/// What all clients of a run share.
struct Course {
    deadline: Option<Instant>,
    interrupted: Option<&'static AtomicBool>,
    /// Another client failed, or the run is over.
    stop: AtomicBool,
    transactions: AtomicU64,
    /// The position after the highest that was acknowledged.
    reached: AtomicU64,
}

/// Room for so many transactions in flight is made at once; for more, when there are so many.
const ROOM: usize = 4096;

/// Runs one client to the end: each acknowledgement makes room for the next submission.
fn drive_one<C: Client>(
    mut client: C,
    engine: &Engine,
    in_flight: usize,
    quota: u64,
    course: &Course,
) -> Result<(C::Observed, Tally), DriveError> {
    let mut tally = Tally::new();
    let mut pending: VecDeque<(Instant, C::Pending)> = VecDeque::with_capacity(in_flight.min(ROOM));
    let mut submitted = 0;
    loop {
        while pending.len() < in_flight && submitted < quota && !course.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            let interrupted =
                course.interrupted.is_some_and(|interrupted| interrupted.load(Ordering::Relaxed));
            if interrupted || course.deadline.is_some_and(|deadline| now >= deadline) {
                course.stop.store(true, Ordering::Relaxed);
                break;
            }
            pending.push_back((now, client.submit(engine)?));
            submitted += 1;
        }
        let Some((start, oldest)) = pending.pop_front() else {
            return Ok((client.observed(), tally));
        };
        let settled = client.settle(oldest)?;
        course.reached.fetch_max(settled.position.next().0, Ordering::Relaxed);
        tally.note(settled, start.elapsed());
        course.transactions.fetch_add(1, Ordering::Relaxed);
    }
}

type Driven<C> = Vec<(<C as Client>::Observed, Tally)>;

fn drive<C: Client>(
    engine: &Engine,
    clients: Vec<C>,
    config: &Config,
    progress: &mut dyn FnMut(&Progress),
) -> Result<(Driven<C>, Duration), DriveError> {
    let start = Instant::now();
    let (deadline, total) = match config.stop {
        // So late a deadline that no clock can tell it is none.
        Stop::After(time) => (start.checked_add(time), u64::MAX),
        Stop::Transactions(total) => (None, total),
    };
    let course = Course {
        deadline,
        interrupted: config.interrupted,
        stop: AtomicBool::new(false),
        transactions: AtomicU64::new(0),
        reached: AtomicU64::new(0),
    };
    let count = u64::from(config.clients);
    let (done, all_done) = mpsc::channel::<()>();
    let results = thread::scope(|scope| {
        let threads: Vec<_> = clients
            .into_iter()
            .zip(0u64..)
            .map(|(client, number)| {
                let quota = total / count + u64::from(number < total % count);
                let (course, done) = (&course, done.clone());
                scope.spawn(move || {
                    let result = drive_one(client, engine, config.in_flight, quota, course);
                    if result.is_err() {
                        course.stop.store(true, Ordering::Relaxed);
                    }
                    drop(done);
                    result
                })
            })
            .collect();
        drop(done);
        report_progress(&all_done, config.report_every, start, &course, progress);
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect::<Result<Driven<C>, DriveError>>()
    });
    Ok((results?, start.elapsed()))
}

/// Reports now and then until all clients have hung up.
fn report_progress(
    all_done: &mpsc::Receiver<()>,
    report_every: Duration,
    start: Instant,
    course: &Course,
    progress: &mut dyn FnMut(&Progress),
) {
    let (mut last, mut last_count) = (start, 0);
    while all_done.recv_timeout(report_every) == Err(RecvTimeoutError::Timeout) {
        let (now, transactions) = (Instant::now(), course.transactions.load(Ordering::Relaxed));
        let per_second = (transactions - last_count) as f64 / now.duration_since(last).as_secs_f64();
        let position = course.reached.load(Ordering::Relaxed).checked_sub(1).map(Position);
        progress(&Progress { elapsed: now.duration_since(start), transactions, position, per_second });
        (last, last_count) = (now, transactions);
    }
}

fn report(
    engine: &Engine,
    workload: String,
    config: &Config,
    total: &Tally,
    elapsed: Duration,
    [before, after]: [&Stats; 2],
    checks: Vec<Check>,
) -> Report {
    let digest = engine.digest();
    let batches = after.batches - before.batches;
    let entries = after.mixed_entries - before.mixed_entries;
    let seconds = elapsed.as_secs_f64();
    Report {
        workload,
        threads: engine.threads(),
        window: engine.window(),
        mode: engine.mode().to_string(),
        durability: engine.durability().to_string(),
        clients: config.clients,
        in_flight: config.in_flight,
        seed: config.seed,
        transactions: total.transactions,
        seconds,
        throughput_per_second: total.transactions as f64 / seconds,
        latency_us: Latency::of(&total.latencies_us),
        aborts: total.aborts + total.unexpected,
        unexpected: total.unexpected,
        violations: after.violations - before.violations,
        replays: after.replays - before.replays,
        batches,
        parallelism: if batches == 0 { 1.0 } else { entries as f64 / batches as f64 },
        position: digest.position.map(|position| position.0),
        digest: digest.to_string(),
        checks,
    }
}
