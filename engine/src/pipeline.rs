//! The whole engine, from top to bottom.
//!
//! ```text
//! log ──read──> window ──prepare──> footprints ──mix──> schedule
//!                                                          │
//! tickets, snapshots <──commit── verified <──verify── executed <──execute
//!                                             │          ^
//!                                             └──replay──┘   on divergence, one by one
//! ```
//!
//! *Drivers* are the threads of a rayon pool of the engine's own, one long `broadcast` that runs as long as the
//! engine does: nothing is spawned per window or transaction, and no pool task ever waits for another. Driver 0
//! leads. It reads a window from the log and opens the gate for a *round*, in which all drivers together prepare
//! and mix the window just read and execute the one before it:
//!
//! ```text
//! leader  read n+1 │ prepare n+1 ┐ execute n          │ verify │ digest n, end n │ acknowledge n, read n+2 ..
//! driver           │ prepare n+1 ┘ mix n+1, execute n │        │ digest n, end n │ acknowledge n
//!                 gate                             barrier   barrier           barrier
//! ```
//!
//! Whoever prepares the last chunk mixes, while the others execute already. A window that cannot gain from more
//! cores is executed by the leader alone, while the others wait at the gate.
//!
//! This file is the only one of the engine that starts threads.
#![allow(unsafe_code)]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use mixlog_log::{Batch, Block, Position, SharedLog};
use mixlog_mixer::Mixer;

use crate::agreement::{Agreed, BUCKETS, Point, Vote, Watch};
use crate::ahead::Stacks;
use crate::checkpoint::Due;
use crate::clients::ANSWERS;
use crate::digest::Digest;
use crate::entry::{self, Catalog};
use crate::error::OpenError;
use crate::execute::parallel::{self, FirstViolation};
use crate::execute::paranoid::{Found, Paranoid};
use crate::execute::sequential::{self, Given};
use crate::execute::{Violation, panic_message};
use crate::explain::Explainer;
use crate::explanation::Explanation;
use crate::handover::{BROKEN, Barrier, Call, Gate};
use crate::in_flight::InFlight;
use crate::learned::Learned;
use crate::memory_limit::MemoryLimit;
use crate::observe::{self, Committed};
use crate::prepare::{self, Past};
use crate::procedure::Procedures;
use crate::reply::Replies;
use crate::snapshot::{Registry, Snapshot};
use crate::stats::{Memory, OneByOne, Stages, Stats};
use crate::store::{AnyTable, Stamp, Store, WindowEnd, Worker, Written};
use crate::verify::{self, Executed, Verdict, Verified};
use crate::window::Window;

/// Windows never cross a multiple of this, so that engines with different windows can compare digests there.
pub const WINDOW_GRID: u64 = 4096;

/// How an engine executes. None of them changes a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// Mixes every window, and executes it on all threads.
    Parallel,
    /// One by one in log order. Footprints serve to fetch rows ahead, and nothing else.
    Sequential,
    /// Parallel where that wins: small windows, and stretches in which nearly everything conflicts, go one by
    /// one.
    #[default]
    Auto,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Parallel => "parallel",
            Self::Sequential => "sequential",
            Self::Auto => "auto",
        })
    }
}

/// In [`Mode::Auto`], windows shorter than this go one by one: waking the others costs more.
const WORTH_MIXING: u32 = 64;
/// In [`Mode::Auto`], windows with less parallelism than this go one by one.
const WORTH_SHARING: f64 = 1.3;
/// After a window that was not worth mixing, how many are not even mixed, at most. Doubles each time.
const LONGEST_ABSTINENCE: u32 = 32;
/// What windows that all drivers share are called where a [`Why`] stands for the others.
const PARALLEL: &str = "parallel";

/// Why a window goes one by one: see [`OneByOne`].
#[derive(Clone, Copy, Debug)]
enum Why {
    AskedFor,
    Small,
    Serial,
    AfterSerial,
}

impl Why {
    const fn name(self) -> &'static str {
        match self {
            Self::AskedFor => "asked_for",
            Self::Small => "small",
            Self::Serial => "serial",
            Self::AfterSerial => "after_serial",
        }
    }

    fn count(self, counts: &mut OneByOne) {
        *match self {
            Self::AskedFor => &mut counts.asked_for,
            Self::Small => &mut counts.small,
            Self::Serial => &mut counts.serial,
            Self::AfterSerial => &mut counts.after_serial,
        } += 1;
    }
}

/// After so many windows tables that want to cut their keys anew are heard, though it costs the overlap of two
/// windows.
const LONGEST_UNADAPTED: u64 = 16;
/// How long the leader waits for the log before it looks whether it should stop.
const LOOK_UP: Duration = Duration::from_millis(20);

/// What one driver owns.
pub(crate) struct Driver {
    pub(crate) worker: Worker,
    pub(crate) replies: Replies,
    pub(crate) paranoid: Paranoid,
    /// For transactions that run ahead.
    stacks: Stacks,
    /// What its part of the window changed in the digest of the state.
    state_digest: u128,
    stages: Stages,
}

/// The tables that the engine's user registered.
fn own_tables(store: &Store) -> impl Iterator<Item = &dyn AnyTable> {
    store.tables().filter(|table| !table.is_derived() && table.id() != ANSWERS.id())
}

/// What all drivers, submitters and snapshots share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) procedures: Procedures,
    /// Marks this engine's own entries.
    pub(crate) origin: u64,
    pub(crate) in_flight: InFlight,
    pub(crate) snapshots: Registry,
    pub(crate) stats: Mutex<Stats>,
    /// What violations taught about footprints that are found.
    pub(crate) learned: Learned,
    /// Whether any transaction ever ran ahead.
    pub(crate) speculates: AtomicBool,
    /// `None` unless somebody wants to know.
    pub(crate) explainer: Option<Explainer>,
    /// All names in the log so far.
    pub(crate) catalog: Mutex<Option<Catalog>>,
    /// Of entries executed; see [`Due`].
    pub(crate) due: Due,
    pub(crate) memory_limit: MemoryLimit,
    /// Whether votes are counted.
    pub(crate) compares: bool,
    /// Votes that were read and are not counted yet, with their positions.
    pub(crate) votes: Mutex<Vec<(Position, Vote)>>,
    pub(crate) agreed: Agreed,
    digest: (Mutex<Digest>, Condvar),
    table_names: Vec<&'static str>,
}

impl Shared {
    /// `explain`: every how many mixed windows one is explained; 0 for none.
    pub(crate) fn new(
        store: Store,
        procedures: Procedures,
        origin: u64,
        in_flight_limit: usize,
        retain: u64,
        explain: u32,
        compares: bool,
    ) -> Self {
        let table_names = own_tables(&store).map(|table| table.name()).collect();
        let learned = Learned::new(procedures.len(), store.tables().len());
        let explainer = (explain > 0).then(|| Explainer::new(&store, &procedures, explain));
        Self {
            store,
            procedures,
            origin,
            in_flight: InFlight::new(in_flight_limit),
            snapshots: Registry::new(retain),
            stats: Mutex::default(),
            learned,
            speculates: AtomicBool::new(false),
            explainer,
            catalog: Mutex::default(),
            due: Due::default(),
            memory_limit: MemoryLimit::default(),
            compares,
            votes: Mutex::default(),
            agreed: Agreed::default(),
            digest: Default::default(),
            table_names,
        }
    }

    /// Everything registered here.
    pub(crate) fn own_catalog(&self) -> Catalog {
        Catalog {
            format: crate::entry::FORMAT,
            procedures: self.procedures.iter().map(|p| (p.name.to_owned(), p.version)).collect(),
            tables: self.table_names.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    /// All names in the log so far.
    pub(crate) fn known_catalog(&self) -> Catalog {
        let known = self.catalog.lock().expect("no panic in a short section").clone();
        known.unwrap_or_else(|| self.own_catalog())
    }

    /// A catalog in the log: all that it names must be registered.
    pub(crate) fn note_catalog(&self, position: Position, catalog: &Catalog) -> Result<(), OpenError> {
        for (name, version) in &catalog.procedures {
            if !self.procedures.iter().any(|p| p.name == name && p.version == *version) {
                let (name, version) = (name.clone(), *version);
                return Err(OpenError::MissingProcedure { name, version, position });
            }
        }
        for name in &catalog.tables {
            if !self.table_names.contains(&name.as_str()) {
                return Err(OpenError::MissingTable { name: name.clone(), position });
            }
        }
        let mut known = self.catalog.lock().expect("no panic in a short section");
        match &mut *known {
            None => *known = Some(catalog.clone()),
            Some(known) => {
                for name in catalog
                    .procedures
                    .iter()
                    .filter(|n| !known.procedures.contains(n))
                    .cloned()
                    .collect::<Vec<_>>()
                {
                    known.procedures.push(name);
                }
                for name in
                    catalog.tables.iter().filter(|n| !known.tables.contains(n)).cloned().collect::<Vec<_>>()
                {
                    known.tables.push(name);
                }
            }
        }
        Ok(())
    }

    /// How much memory the tables use, and what for.
    pub(crate) fn memory(&self) -> Memory {
        let (snapshots, oldest) = self.snapshots.opened();
        let tables = self.store.tables().map(AnyTable::memory).collect();
        Memory::new(tables, snapshots, oldest.and_then(Position::previous))
    }

    /// What is known of conflicts, as far as somebody wanted to know.
    pub(crate) fn explain(self: &Arc<Self>) -> Explanation {
        let Some(explainer) = &self.explainer else { return Explanation::default() };
        // Keys are looked up, which only holders of a snapshot may do.
        let _snapshot = Snapshot::new(Arc::clone(self));
        let stats = self.stats.lock().expect("no panic in a short section").clone();
        explainer.explain(self, &stats)
    }

    /// Starts a new explanation.
    pub(crate) fn explain_anew(&self) {
        if let Some(explainer) = &self.explainer {
            explainer.forget(self.stats.lock().expect("no panic in a short section").clone());
        }
    }

    /// A snapshot, and the digest of the state that it sees.
    /// `None` from a pipeline that died between the two.
    pub(crate) fn snapshot_with_digest(self: &Arc<Self>) -> Option<(Snapshot, Digest)> {
        loop {
            let snapshot = Snapshot::new(Arc::clone(self));
            // At least that of the snapshot, and later only if a whole window was committed in these microseconds.
            let digest = self.digest();
            if digest.position == snapshot.position() {
                return Some((snapshot, digest));
            }
            if self.in_flight.stopped().is_some() {
                return None;
            }
        }
    }

    /// The digest of the newest committed window; at least of all that snapshots see.
    pub(crate) fn digest(&self) -> Digest {
        let seen = self.snapshots.tail().previous();
        let (digest, advanced) = &self.digest;
        let mut digest = digest.lock().expect("no panic in a short section");
        // Committing publishes the state first and the digest some microseconds later.
        while digest.position < seen && self.in_flight.stopped().is_none() {
            digest = advanced.wait(digest).expect("no panic in a short section");
        }
        *digest
    }

    /// Takes no more submissions, and wakes all who wait for what will not come.
    pub(crate) fn stop(&self, reason: &str) {
        self.in_flight.stop(reason);
        // Under the lock: whoever looked before waits by now.
        let _digest = self.digest.0.lock().expect("no panic in a short section");
        self.digest.1.notify_all();
        self.agreed.wake();
    }

    fn publish_digest(&self, last: Option<Position>, state: u128, replies: u128) {
        let (digest, advanced) = &self.digest;
        let mut digest = digest.lock().expect("no panic in a short section");
        digest.position = last;
        digest.state = digest.state.wrapping_add(state);
        digest.replies = digest.replies.wrapping_add(replies);
        advanced.notify_all();
    }
}

/// How far to go.
pub(crate) enum Until<'a> {
    /// Up to this tail, then stop.
    Tail(Position),
    /// On and on, until told to stop.
    Stopped(&'a AtomicBool),
}

/// Threads, window and mode: what a pipeline may choose for itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) threads: usize,
    pub(crate) window: u32,
    pub(crate) mode: Mode,
    /// How many transactions there are for one that is run twice; 0 for none.
    pub(crate) paranoid: u32,
    /// Whether the guard looks away where transactions run in parallel.
    pub(crate) unguarded: bool,
    /// How many transactions a driver runs ahead at a time.
    pub(crate) lanes: usize,
    /// Windows that end before are executed one by one, whatever the mode.
    pub(crate) one_by_one_before: Position,
}

/// Called now and then with how far the log was executed, and how far it goes.
pub(crate) type Progress = Box<dyn Fn(Position, Position) + Send + Sync>;

/// Starts a thread for work that is not the drivers'.
///
/// # Errors
/// The operating system starts no thread.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// Everything between the log and the tickets.
pub(crate) struct Pipeline {
    shared: Arc<Shared>,
    config: Config,
    pool: rayon::ThreadPool,
    drivers: Vec<CachePadded<Mutex<Driver>>>,
    /// One is executed while the other is prepared.
    windows: [RwLock<Window>; 2],
    round: RwLock<Round>,
    mixer: Mutex<Mixer>,
    barrier: Barrier,
    first_violation: FirstViolation,
    /// What the leader told the drivers about the end of the window at hand.
    window_end: RwLock<Option<WindowEnd>>,
    leader: Mutex<Leader>,
}

/// What a round is about: indexes of windows.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    execute: Option<usize>,
    prepare: Option<usize>,
}

/// What the leader remembers from round to round.
#[derive(Default)]
struct Leader {
    /// The first entry that is in no window yet.
    next: Position,
    windows: u64,
    /// When tables last had nothing to adapt, or adapted.
    adapted: u64,
    /// The window that is prepared and mixed.
    ready: Option<usize>,
    /// An entry that cannot be executed. Windows end before it.
    bad_entry: Option<(Position, OpenError)>,
    /// Where to end, once told to stop: others may append for ever.
    last: Option<Position>,
    /// How many windows are not to be mixed.
    abstain: u32,
    abstinence: u32,
    blocks: Vec<Arc<Block>>,
    stages: Stages,
    /// Compares digests with those of others, if it should.
    watch: Option<Watch>,
}

/// Adds the time since the last lap to a stage.
struct Lap(Instant);

impl Lap {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn add_to(&mut self, stage: &mut Duration) {
        let now = Instant::now();
        *stage += now - self.0;
        self.0 = now;
    }
}

impl Pipeline {
    pub(crate) fn new(
        shared: Arc<Shared>,
        workers: Vec<Worker>,
        config: Config,
    ) -> Result<Self, rayon::ThreadPoolBuildError> {
        let threads = |name: &'static str| {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(config.threads);
            builder.thread_name(move |i| format!("mixlog-{name}-{i}")).build()
        };
        let doubles = if config.paranoid > 0 { Some(Arc::new(threads("double")?)) } else { None };
        let tallies = || shared.explainer.as_ref().map_or_else(Vec::new, Explainer::tallies);
        let tables = shared.store.tables().len();
        let driver = |mut worker: Worker| {
            if shared.compares {
                worker.buckets = vec![0; tables * BUCKETS];
            }
            CachePadded::new(Mutex::new(Driver {
                worker,
                replies: Replies::new(tallies()),
                paranoid: Paranoid::new(config.paranoid, doubles.clone()),
                stacks: Stacks::new(config.lanes),
                state_digest: 0,
                stages: Stages::default(),
            }))
        };
        let drivers = workers.into_iter().map(driver).collect();
        Ok(Self {
            shared,
            config,
            pool: threads("driver")?,
            drivers,
            windows: [RwLock::new(Window::new()), RwLock::new(Window::new())],
            round: RwLock::default(),
            mixer: Mutex::default(),
            barrier: Barrier::new(config.threads),
            first_violation: FirstViolation::none(),
            window_end: RwLock::default(),
            leader: Mutex::default(),
        })
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) const fn config(&self) -> &Config {
        &self.config
    }

    /// Lets all drivers work at once, and ends what they changed as window `number`, all of which is the work of the
    /// entry at `position`. For a state that comes from elsewhere; not while the pipeline runs.
    ///
    /// # Errors
    /// The first driver's that failed or panicked. The state is then of no use.
    pub(crate) fn round(
        &self,
        number: u64,
        position: Position,
        work: impl Fn(&mut Driver) -> Result<(), OpenError> + Sync,
    ) -> Result<(), OpenError> {
        let end = WindowEnd { window: number, first: Stamp::of(position), oldest_snapshot: None };
        let outcomes = self.pool.broadcast(|context| {
            let mut driver = self.driver(context.index());
            driver.worker.start_window(number);
            let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut driver)));
            let outcome = outcome
                .unwrap_or_else(|payload| Err(OpenError::Panicked(panic_message(&*payload).to_owned())));
            self.shared.store.keep_changes(&mut driver.worker);
            self.barrier.wait();
            self.end_window(&mut driver, &end);
            outcome
        });
        for table in self.shared.store.tables() {
            // SAFETY: the drivers are done, and no window is prepared.
            unsafe {
                table.reclaim();
                table.adapt();
            }
        }
        outcomes.into_iter().collect()
    }

    /// Lets all drivers do something that has nothing to do with the state. Not while the pipeline runs.
    pub(crate) fn share(&self, work: impl Fn() + Sync) {
        self.pool.broadcast(|_| work());
    }

    /// Takes the state that [`round`](Self::round)s made for the one after `digest.position`, if it is the one that the
    /// digest tells of; goes on there. The error is the state's digest.
    pub(crate) fn start_after(&self, digest: &Digest, windows: u64) -> Result<(), u128> {
        let digests = (0..self.drivers.len()).map(|n| std::mem::take(&mut self.driver(n).state_digest));
        let found = digests.fold(0, u128::wrapping_add);
        if found != digest.state {
            return Err(found);
        }
        let tail = digest.position.map_or(Position::ZERO, Position::next);
        let mut leader = self.leader.lock().expect("a pipeline that panicked is not run again");
        (leader.next, leader.windows, leader.adapted) = (tail, windows, windows);
        drop(leader);
        self.shared.snapshots.advance(tail);
        self.shared.publish_digest(digest.position, digest.state, digest.replies);
        Ok(())
    }

    /// Executes the log on a thread of its own until told to stop, or until something fails; then nobody is left
    /// waiting.
    ///
    /// # Errors
    /// The operating system starts no thread.
    pub(crate) fn follow(
        pipeline: &Arc<Self>,
        log: &Arc<dyn SharedLog>,
        stop: &Arc<AtomicBool>,
    ) -> io::Result<JoinHandle<Result<(), OpenError>>> {
        let (pipeline, log, stop) = (Arc::clone(pipeline), Arc::clone(log), Arc::clone(stop));
        thread::Builder::new().name("mixlog-engine".to_owned()).spawn(move || {
            let outcome = pipeline.run(&*log, &Until::Stopped(&stop), None);
            let reason = outcome.as_ref().map_or_else(ToString::to_string, |()| "it was closed".to_owned());
            pipeline.shared.stop(&reason);
            observe::stopped(&outcome, pipeline.shared.snapshots.tail());
            outcome
        })
    }

    /// Executes the log from where the last run ended. Blocks the caller, who does none of the work.
    ///
    /// # Errors
    /// Everything before the error was executed and committed.
    pub(crate) fn run(
        &self,
        log: &dyn SharedLog,
        until: &Until<'_>,
        progress: Option<&Progress>,
    ) -> Result<(), OpenError> {
        let gate = Gate::new();
        let outcomes = self.pool.broadcast(|context| {
            let number = context.index();
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                if number == 0 {
                    return self.lead(log, until, &gate, progress);
                }
                let mut passed = 0;
                while gate.pass(&mut passed) == Call::Round {
                    // Only the leader is told.
                    let _ = self.take_part(number);
                }
                Ok(())
            }));
            let outcome = outcome.unwrap_or_else(|payload| {
                // Whoever waits for this driver must not wait for ever.
                self.barrier.break_up();
                Err(OpenError::Panicked(panic_message(&*payload).to_owned()))
            });
            if number == 0 {
                gate.open(Call::Stop);
            }
            outcome
        });
        // A driver that panicked by itself tells more than those that stopped because of it.
        let mut errors: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
        errors.sort_by_key(|error| matches!(error, OpenError::Panicked(text) if text == BROKEN));
        errors.into_iter().next().map_or(Ok(()), Err)
    }

    /// The leader's loop.
    fn lead(
        &self,
        log: &dyn SharedLog,
        until: &Until<'_>,
        gate: &Gate,
        progress: Option<&Progress>,
    ) -> Result<(), OpenError> {
        let mut leader = self.leader.lock().expect("a pipeline that panicked is not run again");
        let leader = &mut *leader;
        loop {
            if let Some(ready) = leader.ready
                && !self.is_worth_sharing(leader, ready)
            {
                leader.ready = None;
                self.execute_alone(leader, ready, Why::Serial);
                self.compare(leader, log)?;
                continue;
            }
            let slot = leader.ready.map_or(0, |ready| 1 - ready);
            let loaded = if self.adapt(leader) {
                match self.load(leader, log, until, slot) {
                    // What is prepared is executed before the error is told.
                    Err(_) if leader.ready.is_some() => false,
                    loaded => loaded?,
                }
            } else {
                false
            };
            let why = if loaded && leader.ready.is_none() { self.why_not_mix(leader, slot) } else { None };
            match (leader.ready.take(), loaded, why) {
                (None, false, _) => match until {
                    Until::Tail(tail) if leader.next >= *tail => return Ok(()),
                    Until::Tail(tail) => {
                        return Err(OpenError::BeyondTail {
                            position: tail.previous().unwrap_or_default(),
                            tail: leader.next,
                        });
                    }
                    Until::Stopped(stop) => {
                        if stop.load(Ordering::Relaxed) && leader.last.is_some_and(|last| leader.next >= last)
                        {
                            return Ok(());
                        }
                        let start = Instant::now();
                        let tail = log.wait_past(leader.next, Some(LOOK_UP))?;
                        if tail.tail <= leader.next && start.elapsed() < LOOK_UP / 2 {
                            // The log is sealed or read-only: waiting returns at once, and nothing will come.
                            thread::park_timeout(LOOK_UP);
                        }
                    }
                },
                (_, _, Some(why)) => {
                    self.prepare_alone(leader, slot);
                    if self.cut_before_bad_entry(leader, slot) {
                        self.execute_alone(leader, slot, why);
                    }
                }
                (execute, loaded, None) => {
                    let prepare = loaded.then_some(slot);
                    *self.round.write().expect("no panic between rounds") = Round { execute, prepare };
                    self.first_violation.reset();
                    gate.open(Call::Round);
                    if let Err(found) = self.take_part(0) {
                        let executed = execute.expect("something was executed");
                        self.go_back(leader, executed, found);
                    } else if let Some(slot) = prepare
                        && self.cut_before_bad_entry(leader, slot)
                    {
                        leader.ready = Some(slot);
                        self.note_mixed(slot);
                    }
                }
            }
            self.compare(leader, log)?;
            let (executed, tail) = (self.shared.snapshots.tail(), log.tail().tail);
            observe::reached(executed, tail, self.shared.in_flight.len());
            self.shared.memory_limit.look();
            if let Some(progress) = progress {
                progress(executed, tail);
            }
        }
    }

    /// Compares digests with those of others: votes on the state, if a window ended where votes are cast, and counts the
    /// votes of others in the windows that were executed.
    fn compare(&self, leader: &mut Leader, log: &dyn SharedLog) -> Result<(), OpenError> {
        let Some(watch) = &mut leader.watch else { return Ok(()) };
        let tail = self.shared.snapshots.tail();
        if watch.wants(tail) {
            let (snapshot, digest) = (Snapshot::new(Arc::clone(&self.shared)), self.shared.digest());
            let mut sums = Vec::new();
            for driver in self.all_drivers() {
                sums.resize(driver.worker.buckets.len(), 0u128);
                sums.iter_mut()
                    .zip(&driver.worker.buckets)
                    .for_each(|(sum, part)| *sum = sum.wrapping_add(*part));
            }
            if let Some(vote) = watch.add(Point::new(snapshot, digest, &sums)) {
                let mut batch = Batch::new();
                batch.push_with(|out| entry::encode_vote(out, &vote));
                // Without this vote others decide, or the next one counts.
                if let Err(error) = log.append(&batch) {
                    observe::not_voted(&error);
                }
            }
        }
        let mut votes = std::mem::take(&mut *self.shared.votes.lock().expect("no panic in a short section"));
        if votes.is_empty() {
            return Ok(());
        }
        votes.sort_unstable_by_key(|(position, _)| *position);
        let later = votes.split_off(votes.partition_point(|(position, _)| *position < tail));
        self.shared.votes.lock().expect("no panic in a short section").extend(later);
        for (position, vote) in votes {
            watch.count(position, vote, &self.shared.agreed).map_err(OpenError::Diverged)?;
        }
        Ok(())
    }

    /// Starts to compare digests. Before the pipeline runs.
    pub(crate) fn watch(&self, watch: Watch) {
        self.leader.lock().expect("a pipeline that panicked is not run again").watch = Some(watch);
    }

    /// The digest and state of a position that was not agreed. After the pipeline ran.
    pub(crate) fn take_point(&self, position: Position) -> Option<Point> {
        let mut leader = self.leader.lock().expect("a pipeline that panicked is not run again");
        leader.watch.as_mut()?.take_point(position)
    }

    /// Lets tables cut their keys anew, if they want to and no window is prepared. When they have waited for long, no
    /// further window is to be prepared, so that the next time it works out. Tells whether one may be.
    fn adapt(&self, leader: &mut Leader) -> bool {
        if !self.shared.store.tables().any(AnyTable::wants_adapting) {
            leader.adapted = leader.windows;
            return true;
        }
        if leader.ready.is_some() {
            return leader.windows - leader.adapted < LONGEST_UNADAPTED;
        }
        for table in self.shared.store.tables() {
            // SAFETY: the drivers wait at the gate, and no window is prepared.
            unsafe { table.adapt() };
        }
        leader.adapted = leader.windows;
        true
    }

    /// Loads the next window into a slot; tells whether there is one.
    fn load(
        &self,
        leader: &mut Leader,
        log: &dyn SharedLog,
        until: &Until<'_>,
        slot: usize,
    ) -> Result<bool, OpenError> {
        let mut lap = Lap::start();
        let first = leader.next;
        let mut end = first
            .plus(u64::from(self.config.window))
            .min(Position((first.0 / WINDOW_GRID + 1) * WINDOW_GRID));
        if let Until::Tail(tail) = until {
            if first >= *tail {
                return Ok(false);
            }
            end = end.min(*tail);
        }
        if let Until::Stopped(stop) = until {
            if leader.last.is_none() && stop.load(Ordering::Relaxed) {
                leader.last = Some(log.tail().tail);
            }
            if leader.last.is_some_and(|last| first >= last) {
                return Ok(false);
            }
            end = end.min(leader.last.unwrap_or(Position::MAX));
        }
        if let Some((bad, error)) = &leader.bad_entry {
            if *bad <= first {
                return Err(error.clone());
            }
            end = end.min(*bad);
        }
        let mut loaded = first;
        leader.blocks.clear();
        while loaded < end {
            let Some(block) = log.read(loaded)? else { break };
            loaded = block.end().min(end);
            if block.end() == loaded {
                self.shared.due.add(block.bytes() as u64);
            }
            leader.blocks.push(block);
        }
        if loaded == first {
            return Ok(false);
        }
        leader.windows += 1;
        let mut window = self.windows[slot].write().expect("no panic with a window");
        window.load(leader.windows, first, loaded, &mut leader.blocks);
        leader.next = loaded;
        lap.add_to(&mut leader.stages.read);
        Ok(true)
    }

    /// Why the window should not be mixed, if it should not.
    fn why_not_mix(&self, leader: &mut Leader, slot: usize) -> Option<Why> {
        if leader.next <= self.config.one_by_one_before {
            return Some(Why::AskedFor);
        }
        match self.config.mode {
            Mode::Parallel => None,
            Mode::Sequential => Some(Why::AskedFor),
            Mode::Auto if self.config.threads == 1 => Some(Why::AskedFor),
            Mode::Auto if leader.abstain > 0 => {
                leader.abstain -= 1;
                Some(Why::AfterSerial)
            }
            Mode::Auto => {
                let len = self.windows[slot].read().expect("no panic with a window").len();
                (len < WORTH_MIXING).then_some(Why::Small)
            }
        }
    }

    /// Whether the mixed window has work for more than one driver. Where it has not, the next ones most likely
    /// have not either, and are not even mixed for a while.
    fn is_worth_sharing(&self, leader: &mut Leader, slot: usize) -> bool {
        if self.config.mode != Mode::Auto {
            return true;
        }
        let window = self.windows[slot].read().expect("no panic with a window");
        let plan = window.plan.read().expect("no panic while mixing");
        if plan.schedule.parallelism() >= WORTH_SHARING {
            leader.abstinence = 0;
            return true;
        }
        leader.abstinence = (leader.abstinence * 2).clamp(1, LONGEST_ABSTINENCE);
        leader.abstain = leader.abstinence;
        false
    }

    fn note_mixed(&self, slot: usize) {
        let window = self.windows[slot].read().expect("no panic with a window");
        let plan = window.plan.read().expect("no panic while mixing");
        let mut stats = self.shared.stats.lock().expect("no panic in a short section");
        stats.mixed_windows += 1;
        stats.mixed_entries += u64::from(plan.schedule.transactions());
        stats.batches += u64::from(plan.schedule.batches());
        stats.bounded_adds += plan.escrow.adds;
        stats.unordered_adds += plan.escrow.unordered;
        stats.pooled_merges += plan.pooled;
        drop(stats);
        observe::mixed(&window, plan.schedule.batches(), plan.schedule.parallelism());
    }

    /// When the prepared window holds an entry that cannot be executed, takes the window back, so that it is
    /// loaded again without it. Tells whether the window is good.
    fn cut_before_bad_entry(&self, leader: &mut Leader, slot: usize) -> bool {
        let window = self.windows[slot].read().expect("no panic with a window");
        let bad = window.bad_entry.lock().expect("no panic with a bad entry").take();
        let Some(bad) = bad else { return true };
        leader.next = window.first();
        leader.bad_entry = Some(bad);
        false
    }

    /// Takes back the executed window, which was put back: it is loaded again, without the transaction that is not
    /// deterministic and all that comes after it.
    fn go_back(&self, leader: &mut Leader, slot: usize, found: Found) {
        leader.next = self.windows[slot].read().expect("no panic with a window").first();
        leader.bad_entry = Some((found.position, found.error(&self.shared.procedures)));
    }

    fn driver(&self, number: usize) -> MutexGuard<'_, Driver> {
        self.drivers[number].lock().expect("a driver that panicked does not go on")
    }

    fn all_drivers(&self) -> Vec<MutexGuard<'_, Driver>> {
        (0..self.drivers.len()).map(|number| self.driver(number)).collect()
    }

    /// One driver's part in a round. The leader is told when the window was not committed but put back.
    fn take_part(&self, number: usize) -> Result<(), Found> {
        let Round { execute, prepare } = *self.round.read().expect("no panic between rounds");
        let mut lap = Lap::start();
        let mut driver = self.driver(number);
        if let Some(slot) = prepare {
            let window = self.windows[slot].read().expect("no panic with a window");
            // The window at hand is not published before all drivers have prepared and executed, and until then all
            // that was there before it can be read.
            let at = Stamp::last_before(self.shared.snapshots.tail());
            let executing = execute.map(|slot| self.windows[slot].read().expect("no panic with a window"));
            let plan = executing.as_ref().map(|executing| executing.plan.read().expect("it was mixed"));
            let nothing = Written::NOTHING;
            let past = Past { at, written: plan.as_ref().map_or(&nothing, |plan| &plan.written) };
            while let Some(chunk) = window.claim_chunk() {
                prepare::chunk(&self.shared, &window, chunk, Some(past), &mut driver.stacks);
                lap.add_to(&mut driver.stages.prepare);
                if window.chunk_done()
                    && window.bad_entry.lock().expect("no panic with a bad entry").is_none()
                {
                    let mut mixer = self.mixer.lock().expect("no panic while mixing");
                    prepare::mix(&self.shared, &window, &mut mixer, at);
                    lap.add_to(&mut driver.stages.mix);
                    if let Some(explainer) = &self.shared.explainer {
                        explainer.look_at(&window);
                    }
                }
            }
        }
        let Some(slot) = execute else {
            self.barrier.wait();
            lap.add_to(&mut driver.stages.wait);
            return Ok(());
        };
        let window = self.windows[slot].read().expect("no panic with a window");
        let _span = (number == 0).then(|| observe::window(&window, PARALLEL).entered());
        driver.replies.clear();
        let guarded = !self.config.unguarded;
        let (first_violation, broken) = (&self.first_violation, self.barrier.broken());
        parallel::execute(&self.shared, &window, &mut driver, guarded, first_violation, broken);
        lap.add_to(&mut driver.stages.execute);
        drop(driver);
        self.barrier.wait();
        let mut waited = Duration::ZERO;
        lap.add_to(&mut waited);
        let mut not_committed = None;
        if number == 0 {
            let mut verifying = Duration::ZERO;
            let found = self.found();
            let executed = Executed::in_parallel(
                &self.shared,
                &window,
                &mut self.all_drivers(),
                &self.first_violation,
                found,
            );
            let verified = self.verify(&executed);
            let end = verified.as_ref().ok().map(|verified| self.publish(verified));
            *self.window_end.write().expect("no panic between stages") = end;
            not_committed = verified.err();
            lap.add_to(&mut verifying);
            self.driver(0).stages.verify += verifying;
        }
        self.barrier.wait();
        lap.add_to(&mut waited);
        let mut driver = self.driver(number);
        let Some(end) = *self.window_end.read().expect("no panic between stages") else {
            return not_committed.map_or(Ok(()), Err);
        };
        self.end_window(&mut driver, &end);
        lap.add_to(&mut driver.stages.commit);
        drop(driver);
        self.barrier.wait();
        lap.add_to(&mut waited);
        let committed = (number == 0).then(|| self.commit(&window, &mut Stages::default()));
        let mut driver = self.driver(number);
        self.acknowledge(&mut driver);
        // Last: nobody waits for it but the leader.
        if let Some(committed) = committed {
            observe::committed(&committed, PARALLEL);
        }
        lap.add_to(&mut driver.stages.commit);
        driver.stages.wait += waited;
        Ok(())
    }

    /// Prepares a window that is not going to be mixed.
    fn prepare_alone(&self, leader: &mut Leader, slot: usize) {
        let mut lap = Lap::start();
        let window = self.windows[slot].read().expect("no panic with a window");
        let mut driver = self.driver(0);
        while let Some(chunk) = window.claim_chunk() {
            prepare::chunk(&self.shared, &window, chunk, None, &mut driver.stacks);
        }
        lap.add_to(&mut leader.stages.prepare);
    }

    /// Executes a decoded window while the other drivers wait at the gate, through the same stages.
    fn execute_alone(&self, leader: &mut Leader, slot: usize, why: Why) {
        let mut lap = Lap::start();
        let window = self.windows[slot].read().expect("no panic with a window");
        let _span = observe::window(&window, why.name()).entered();
        let mut driver = self.driver(0);
        driver.replies.clear();
        sequential::execute(&self.shared, &window, &mut driver, Given::Transactions, |_| ());
        drop(driver);
        lap.add_to(&mut leader.stages.execute);
        let end = match self.verify(&Executed::one_by_one(&window, self.found())) {
            Ok(verified) => self.publish(&verified),
            Err(found) => return self.go_back(leader, slot, found),
        };
        lap.add_to(&mut leader.stages.verify);
        self.end_window(&mut self.driver(0), &end);
        if window.number.is_multiple_of(64) {
            // The others changed nothing, but what they keep for snapshots grows old.
            (1..self.drivers.len()).for_each(|number| self.end_window(&mut self.driver(number), &end));
        }
        let committed = self.commit(&window, &mut leader.stages);
        self.acknowledge(&mut self.driver(0));
        observe::committed(&committed, why.name());
        let mut stats = self.shared.stats.lock().expect("no panic in a short section");
        stats.sequential_windows += 1;
        why.count(&mut stats.one_by_one);
        drop(stats);
        lap.add_to(&mut leader.stages.commit);
    }

    /// Verifies until nothing diverges: a window is replayed at most once, since a replay has no footprints to
    /// leave. The error is a transaction that is not deterministic; then the window was put back to its start.
    fn verify<'a>(&self, executed: &Executed<'a>) -> Result<Verified<'a>, Found> {
        match verify::verify(executed) {
            Verdict::Verified(verified) => Ok(verified),
            Verdict::NotDeterministic(found) => {
                verify::put_back(&self.shared, &mut self.all_drivers());
                Err(found)
            }
            Verdict::Diverged(diverged) => {
                let mut violations = Vec::new();
                let executed =
                    verify::replay(&self.shared, &diverged, &mut self.all_drivers(), |v| violations.push(v));
                self.note_replay(executed.number(), &violations);
                // The window that is being prepared counted on the footprints of this one.
                for window in &self.windows {
                    window.read().expect("no panic with a window").disturbed.store(true, Ordering::Relaxed);
                }
                self.verify(&executed)
            }
        }
    }

    /// The first transaction of the executed window that did two things, if any was run twice. Drivers do not run.
    fn found(&self) -> Option<Found> {
        if self.config.paranoid == 0 {
            return None;
        }
        let found = (0..self.drivers.len()).filter_map(|number| self.driver(number).paranoid.found.take());
        found.min_by_key(|found| found.position)
    }

    fn note_replay(&self, window: u64, violations: &[Violation]) {
        let mut stats = self.shared.stats.lock().expect("no panic in a short section");
        stats.replays += 1;
        stats.violations += violations.len() as u64;
        for violation in violations {
            let name = self.shared.procedures.get(violation.procedure).name;
            stats.last_violation = Some((violation.position.0, name, violation.table));
            match stats.violations_by_procedure.iter_mut().find(|(known, _)| *known == name) {
                Some((_, count)) => *count += 1,
                None => stats.violations_by_procedure.push((name, 1)),
            }
        }
        stats.violations_by_procedure.sort_unstable();
        drop(stats);
        let mut lessons: Vec<_> = violations.iter().map(|v| (v.procedure, v.table)).collect();
        lessons.sort_unstable();
        lessons.dedup();
        for (procedure, name) in lessons {
            let mut tables = (0u16..).zip(self.shared.store.tables());
            let table = tables.find(|(_, table)| table.name() == name);
            let (number, table) = table.expect("violations are of tables");
            self.shared.learned.learn(procedure, number, table.is_watched(), window);
        }
        observe::replayed(violations, &self.shared.procedures);
        if let Some(explainer) = &self.shared.explainer {
            explainer.add_violations(violations);
        }
    }

    /// Lets snapshots see the window. From here on it is not undone.
    fn publish(&self, verified: &Verified<'_>) -> WindowEnd {
        let window = verified.window;
        let oldest_snapshot = self.shared.snapshots.advance(window.end());
        for table in self.shared.store.tables() {
            // SAFETY: the drivers wait for this one.
            unsafe { table.reclaim() };
        }
        WindowEnd {
            window: window.number,
            first: Stamp::of(window.first()),
            oldest_snapshot: oldest_snapshot.map(Stamp::last_before),
        }
    }

    /// A driver's share of the digest, and the end of its versions.
    fn end_window(&self, driver: &mut Driver, end: &WindowEnd) {
        for table in self.shared.store.tables() {
            // SAFETY: between two barriers, or while the others wait at the gate: no transaction runs. `end`
            // comes from `publish`.
            let digest = unsafe { table.end_window(&mut driver.worker, end) };
            driver.state_digest = driver.state_digest.wrapping_add(digest);
        }
    }

    /// Adds up what the drivers did.
    fn commit(&self, window: &Window, leader_stages: &mut Stages) -> Committed {
        let (mut state, mut replies) = (0u128, 0u128);
        let mut sums = Committed { entries: window.len(), ..Committed::default() };
        self.driver(0).stages += std::mem::take(leader_stages);
        let mut drivers = self.all_drivers();
        // After the drivers: one of them may be waking a task that asks for statistics.
        let mut stats = self.shared.stats.lock().expect("no panic in a short section");
        for driver in &mut drivers {
            state = state.wrapping_add(std::mem::take(&mut driver.state_digest));
            replies = replies.wrapping_add(std::mem::take(&mut driver.replies.digest));
            sums.transactions += std::mem::take(&mut driver.replies.executed);
            sums.aborts += std::mem::take(&mut driver.replies.aborted);
            sums.panics += std::mem::take(&mut driver.replies.panicked);
            stats.repeats += std::mem::take(&mut driver.replies.repeated);
            sums.reconnoitred += std::mem::take(&mut driver.replies.reconnoitred);
            stats.run_twice += std::mem::take(&mut driver.paranoid.run_twice);
            sums.adopted += std::mem::take(&mut driver.replies.adopted);
            stats.stages += std::mem::take(&mut driver.stages);
        }
        stats.transactions += sums.transactions;
        stats.aborts += sums.aborts;
        stats.panics += sums.panics;
        stats.reconnoitred += sums.reconnoitred;
        stats.adopted += sums.adopted;
        stats.windows += 1;
        drop(stats);
        if let Some(explainer) = &self.shared.explainer {
            drivers.iter_mut().for_each(|driver| explainer.add(&mut driver.replies.tallies));
        }
        drop(drivers);
        self.shared.publish_digest(window.end().previous(), state, replies);
        sums
    }

    /// Hands the replies of one driver to those who wait for them.
    fn acknowledge(&self, driver: &mut Driver) {
        let in_flight = &self.shared.in_flight;
        let mut left = 0;
        driver.replies.deliver(|sequence, position, status, bytes| {
            left += in_flight.deliver(sequence, position, status, bytes);
        });
        in_flight.left(left);
    }
}
