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
//! cores is executed by the leader alone, while the others wait at the gate; or, while the leader waits for the log, by a
//! thread that waits for a transaction in it.
//!
//! This file is the only one of the engine that starts threads.
#![allow(unsafe_code)]

mod caller;
mod commit;
mod leader;
mod mode;
mod pace;
mod shared;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use mixlog_log::{AppendError, Position, ReadError, SharedLog};
use mixlog_mixer::Mixer;

use leader::Leader;
pub use mode::Mode;
use mode::{Cost, PARALLEL, Why};
pub(crate) use shared::Shared;

use crate::agreement::{BUCKETS, Watch};
use crate::ahead::Stacks;
use crate::at_work;
use crate::digest::Digest;
use crate::error::OpenError;
use crate::execute::parallel::{self, FirstViolation};
use crate::execute::paranoid::{Found, Paranoid};
use crate::explain::Explainer;
use crate::handover::{BROKEN, Barrier, Call, Gate};
use crate::observe;
use crate::panics::caught;
use crate::prepare::{self, Past};
use crate::reply::Replies;
use crate::stats::Stages;
use crate::store::{Stamp, WindowEnd, Worker, Written};
use crate::verify::Executed;
use crate::window::Window;

/// Windows never cross a multiple of this, so that engines with different windows can compare digests there.
pub const WINDOW_GRID: u64 = 4096;

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

/// How far to go.
pub(crate) enum Until<'a> {
    /// Up to this tail, then stop.
    Tail(Position),
    /// On and on, until told to stop; then up to where the log ends, since somebody may wait for what is in it.
    Stopped(&'a AtomicBool),
    /// On and on, until told to stop, however much is left.
    Left(&'a AtomicBool),
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
    /// What the stack of whoever runs procedures may take.
    pub(crate) stack_bytes: usize,
    /// Windows that end before are executed one by one, whatever the mode.
    pub(crate) one_by_one_before: Position,
}

/// Called now and then with how far the log was executed, and how far it goes.
pub(crate) type Progress = Box<dyn Fn(Position, Position) + Send + Sync>;

/// Starts a thread that may run what users wrote. Those of the drivers are the pool's.
///
/// # Errors
/// The operating system starts no thread.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    stack_bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).stack_size(stack_bytes).spawn(work)
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
    cost: Cost,
    leader: Mutex<Leader>,
}

/// What a round is about: indexes of windows.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    execute: Option<usize>,
    prepare: Option<usize>,
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

/// Waits for entries from `next` on, for a while.
fn wait_for_entries(log: &dyn SharedLog, next: Position) -> Result<(), ReadError> {
    let start = Instant::now();
    let tail = log.wait_past(next, Some(LOOK_UP))?;
    if tail.tail <= next && start.elapsed() < LOOK_UP / 2 {
        // The log is sealed or read-only: waiting returns at once, and nothing will come.
        thread::park_timeout(LOOK_UP);
    }
    Ok(())
}

impl Pipeline {
    pub(crate) fn new(
        shared: Arc<Shared>,
        workers: Vec<Worker>,
        config: Config,
    ) -> Result<Self, rayon::ThreadPoolBuildError> {
        let engine = shared.origin;
        let threads = |name: &'static str| {
            let builder =
                rayon::ThreadPoolBuilder::new().num_threads(config.threads).stack_size(config.stack_bytes);
            let builder = builder.thread_name(move |i| format!("mixlog-{name}-{i}"));
            builder.start_handler(move |_| at_work::start(engine)).build()
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
                stacks: Stacks::new(config.lanes, config.stack_bytes),
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
            cost: Cost::new(),
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
    /// The first driver's that failed or panicked, or that tables panicked at the end. The state is then of no use.
    pub(crate) fn round(
        &self,
        number: u64,
        position: Position,
        work: impl Fn(&mut Driver) -> Result<(), OpenError> + Sync,
    ) -> Result<(), OpenError> {
        let end = WindowEnd { window: number, first: Stamp::of(position), oldest_snapshot: None };
        let caught = |work: &mut dyn FnMut() -> Result<(), OpenError>| {
            caught(work).unwrap_or_else(|payload| Err(payload.error()))
        };
        let outcomes = self.pool.broadcast(|context| {
            let mut driver = self.driver(context.index());
            driver.worker.start_window(number);
            let outcome = caught(&mut || work(&mut driver));
            self.shared.store.keep_changes(&mut driver.worker);
            self.barrier.wait();
            // Rows are written for their digest here, by code of theirs.
            let ended = caught(&mut || {
                self.end_window(&mut driver, &end);
                Ok(())
            });
            outcome.and(ended)
        });
        // Keys are cloned here.
        let adapted = caught(&mut || {
            for table in self.shared.store.tables() {
                // SAFETY: the drivers are done, and no window is prepared.
                unsafe {
                    table.reclaim();
                    table.adapt();
                }
            }
            Ok(())
        });
        outcomes.into_iter().chain([adapted]).collect()
    }

    /// Lets all drivers do something that has nothing to do with the state. Not while the pipeline runs.
    pub(crate) fn share(&self, work: impl Fn() + Sync) {
        self.pool.broadcast(|_| work());
    }

    /// Takes the state that [`round`](Self::round)s made for the one after `digest.position`, if it is the one that the
    /// digest tells of, but for `change`, which it was made to differ by; goes on there. The error is the digest that it
    /// would have without.
    pub(crate) fn start_after(&self, digest: &Digest, change: u128, windows: u64) -> Result<(), u128> {
        let digests = (0..self.drivers.len()).map(|n| std::mem::take(&mut self.driver(n).state_digest));
        let found = digests.fold(0, u128::wrapping_add);
        if found.wrapping_sub(change) != digest.state {
            return Err(found.wrapping_sub(change));
        }
        let tail = digest.position.map_or(Position::ZERO, Position::next);
        let mut leader = self.leader();
        (leader.next, leader.windows, leader.adapted) = (tail, windows, windows);
        drop(leader);
        self.shared.snapshots.advance(tail);
        self.shared.publish_digest(digest.position, found, digest.replies);
        Ok(())
    }

    /// From which position on it votes. While the pipeline does not run.
    pub(crate) fn votes_from(&self) -> Position {
        self.leader().watch.as_ref().map_or(Position::ZERO, Watch::votes_from)
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
        let stack_bytes = pipeline.config.stack_bytes;
        let (pipeline, log, stop) = (Arc::clone(pipeline), Arc::clone(log), Arc::clone(stop));
        spawn("mixlog-engine", stack_bytes, move || {
            // Whom it wakes at the end must not wait for it either.
            at_work::start(pipeline.shared.origin);
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
            let outcome = caught(|| {
                if number == 0 {
                    return self.lead(log, until, &gate, progress);
                }
                let mut passed = 0;
                while gate.pass(&mut passed) == Call::Round {
                    // Only the leader is told.
                    let _ = self.take_part(number);
                }
                Ok(())
            });
            let outcome = outcome.unwrap_or_else(|payload| {
                // Whoever waits for this driver must not wait for ever.
                self.barrier.break_up();
                Err(payload.error())
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

    /// The leader's loop. While it waits for the log, others may [lead](Self::execute_here).
    fn lead(
        &self,
        log: &dyn SharedLog,
        until: &Until<'_>,
        gate: &Gate,
        progress: Option<&Progress>,
    ) -> Result<(), OpenError> {
        let mut guard = self.leader();
        guard.pace.go_on(self.shared.snapshots.tail());
        // A state that comes from elsewhere is compared, too, where others voted on it.
        self.compare(&mut guard, log)?;
        loop {
            let leader = &mut *guard;
            if let Some(message) = leader.panicked.take() {
                return Err(OpenError::Panicked(message));
            }
            if self.is_broken() {
                return Err(OpenError::Panicked(BROKEN.to_owned()));
            }
            if let Some(ready) = leader.ready
                && let Some(why) = self.why_not_share(leader, ready)
            {
                leader.ready = None;
                let begun = Instant::now();
                self.execute_alone(leader, ready, why);
                if matches!(why, Why::Serial) {
                    Self::note_serial(leader, begun.elapsed());
                }
                self.compare(leader, log)?;
                continue;
            }
            let slot = leader.ready.map_or(0, |ready| 1 - ready);
            // What is prepared for all drivers is executed by all, before windows go another way.
            let holds_back = leader.ready.is_some() && leader.pace.is_alone();
            let loaded = if !holds_back && self.adapt(leader) {
                match self.load(leader, log, until, slot) {
                    // What is prepared is executed before the error is told.
                    Err(_) if leader.ready.is_some() => false,
                    loaded => loaded?,
                }
            } else {
                false
            };
            let why = if loaded && leader.ready.is_none() {
                let len = self.windows[slot].read().expect("no panic with a window").len();
                self.why_not_mix(leader, leader.next, len)
            } else {
                None
            };
            match (leader.ready.take(), loaded, why) {
                (None, false, _) => match until {
                    Until::Tail(tail) if leader.next >= *tail => return Ok(()),
                    Until::Tail(tail) => {
                        return Err(OpenError::BeyondTail {
                            position: tail.previous().unwrap_or_default(),
                            tail: leader.next,
                        });
                    }
                    Until::Stopped(stop) | Until::Left(stop) => {
                        let is_over = match until {
                            Until::Stopped(_) => leader.last.is_some_and(|last| leader.next >= last),
                            _ => true,
                        };
                        if stop.load(Ordering::Relaxed) && is_over {
                            return Ok(());
                        }
                        let next = leader.next;
                        leader.pace.pause(self.shared.snapshots.tail());
                        leader.free = true;
                        drop(guard);
                        let waited = caught(|| wait_for_entries(log, next));
                        guard = self.leader();
                        // Also when the log panicked: nobody leads an engine that has failed.
                        guard.free = false;
                        guard.pace.go_on(self.shared.snapshots.tail());
                        waited.unwrap_or_else(|payload| payload.resume())?;
                    }
                },
                (_, _, Some(why)) => self.execute_by_itself(leader, slot, why),
                (execute, loaded, None) => {
                    let prepare = loaded.then_some(slot);
                    *self.round.write().expect("no panic between rounds") = Round { execute, prepare };
                    self.first_violation.reset();
                    let begun = Instant::now();
                    gate.open(Call::Round);
                    let part = self.take_part(0);
                    leader.preparing = if execute.is_none() { begun.elapsed() } else { Duration::ZERO };
                    self.note_crowd(leader);
                    if let Err(found) = part {
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
            self.compare(&mut guard, log)?;
            // Where others keep the log it would take a while to ask them, each time.
            let known = log.known_tail();
            let tail = if let Until::Tail(tail) = until { known.max(*tail) } else { known };
            let executed = self.look_around(tail);
            if self.config.mode == Mode::Auto {
                let is_ready = guard.ready.is_some();
                guard.pace.look(executed, is_ready);
            }
            if let Some(progress) = progress {
                progress(executed, tail);
            }
        }
    }

    fn leader(&self) -> MutexGuard<'_, Leader> {
        self.leader.lock().expect("a pipeline that panicked is not run again")
    }

    /// Whether a driver panicked: as a rule the others notice at the barrier, but not if it was at work for itself, handing
    /// over replies, and no other window is shared.
    fn is_broken(&self) -> bool {
        self.barrier.broken().load(Ordering::Relaxed)
    }

    /// What is to be done between windows; tells how far the log was executed.
    fn look_around(&self, tail: Position) -> Position {
        let executed = self.shared.snapshots.tail();
        observe::reached(executed, tail, self.shared.in_flight.len());
        self.shared.memory_limit.look();
        while let Some((sequence, error)) = self.shared.doubtful.refused() {
            if matches!(error, AppendError::Full(_)) {
                self.shared.due.ran_out();
            }
            self.shared.in_flight.refuse(sequence, error);
        }
        executed
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
            driver.stacks.start_window();
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
        drop(window);
        self.acknowledge(number);
        let mut driver = self.driver(number);
        // Last: nobody waits for it but the leader.
        if let Some(committed) = committed {
            observe::committed(&committed, PARALLEL);
        }
        lap.add_to(&mut driver.stages.commit);
        driver.stages.wait += waited;
        Ok(())
    }
}
