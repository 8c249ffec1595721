//! Replicas: engines that follow a log which others append to, compare digests, and repair themselves.
//!
//! ```text
//! follow ──> diverged ──> newest checkpoint at or before the last agreed position, replayed one by one
//!   ^                        │                                    │        ^
//!   └──── the same digest as agreed: vote again, go on ───────────┤        │ an earlier one, or the log's start
//!                                                                 ├────────┘
//!                                   another one, and nobody voted on that checkpoint
//!                                                                 │
//!                                                                 └ another one all the same: stop, with an error
//! ```
//!
//! A checkpoint that nobody voted on may be what is wrong. One that the members agreed on is not, nor is the log's start:
//! who comes to another state from there does so again.
//!
//! How digests are compared is told in [`agreement`](crate::agreement). A replica that was stopped is rebuilt by making a
//! new one: from a checkpoint beside the log, or on another's shelf ([`Config::storage`](crate::checkpoint::Config)).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mixlog_log::{Position, SharedLog};

use crate::agreement::{self, Divergence, Earlier, Watch, name_keys};
use crate::checkpoint::{self, Recovery, Source};
use crate::digest::Digest;
use crate::engine::Builder;
use crate::error::{OpenError, SubmitError};
use crate::explanation::Explanation;
use crate::observe;
use crate::panics::caught;
use crate::pipeline::{self, Pipeline, Shared, Until};
use crate::snapshot::Snapshot;
use crate::stats::Stats;

/// An engine that follows a log and takes no submissions. All methods may be called from any thread; dropping it stops
/// it.
///
/// ```
/// # use std::sync::Arc;
/// # use mixlog_engine::{Engine, Membership, Replica, Table, WINDOW_GRID};
/// # use mixlog_log::{MemoryLog, SharedLog};
/// const ACCOUNTS: Table<u64, i64> = Table::new("accounts");
///
/// let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
/// let member = |name| Engine::builder().table(&ACCOUNTS).member(Membership::new(name, ["a", "b", "c"]));
/// // One answers clients, two follow, with as many threads as they like.
/// let engine = member("a").open(log.clone()).unwrap();
/// let b = Replica::follow(move || member("b").threads(1), log.clone()).unwrap();
/// let c = Replica::follow(move || member("c").threads(3).window(64), log).unwrap();
///
/// engine.pad().unwrap();
/// let patience = std::time::Duration::from_secs(60);
/// assert!(engine.wait_agreed(engine.position().unwrap(), 3, patience));
/// # drop((b, c));
/// ```
pub struct Replica {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

type Make = Box<dyn Fn() -> Builder + Send + Sync>;

struct Inner {
    make: Make,
    log: Arc<dyn SharedLog>,
    stop: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Replaced by a repair.
    pipeline: Arc<Pipeline>,
    recovery: Recovery,
    divergences: Vec<Divergence>,
    failed: Option<OpenError>,
}

impl Replica {
    /// Starts to follow the log: from the newest checkpoint, if there is one, on a thread of its own. `make` describes the
    /// engine, with its [`member`](Builder::member)ship; it is called again for each repair. A replica takes no checkpoints
    /// and no transactions. Where the log was trimmed past what it has executed, it goes on from a newer checkpoint, if it
    /// finds one. Of [`checkpoints`](Builder::checkpoints) it heeds where they lie and where to start, and of
    /// [`max_memory`](Builder::max_memory) nothing.
    ///
    /// # Errors
    /// [`OpenError`]: the configuration makes no sense, or the start of the log is gone and no checkpoint reaches it.
    /// What goes wrong later is told by [`failed`](Self::failed).
    pub fn follow(
        make: impl Fn() -> Builder + Send + Sync + 'static,
        log: Arc<dyn SharedLog>,
    ) -> Result<Self, OpenError> {
        let tail = log.tail()?.tail;
        let (pipeline, recovery) = start(make(), &*log, Position::MAX, &Earlier::none(tail), Position::ZERO)?;
        let stack_bytes = pipeline.config().stack_bytes;
        let state = State { pipeline: Arc::new(pipeline), recovery, divergences: Vec::new(), failed: None };
        let inner = Arc::new(Inner {
            make: Box::new(make),
            log,
            stop: AtomicBool::new(false),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let own = Arc::clone(&inner);
        let thread = pipeline::spawn("mixlog-replica", stack_bytes, move || own.run());
        let thread = thread.map_err(|error| {
            OpenError::Configuration(format!("cannot start the replica's thread: {error}"))
        })?;
        Ok(Self { inner, thread: Some(thread) })
    }

    fn shared(&self) -> Arc<Shared> {
        Arc::clone(self.inner.state().pipeline.shared())
    }

    /// A view of the newest committed state. A repair replaces states: a view that is open keeps showing what it showed.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.shared())
    }

    /// The digest of the newest committed state and of all replies so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.shared().digest()
    }

    /// The last committed position, or `None` before the first.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.shared().snapshots.tail().previous()
    }

    /// As [`Engine::agreed`](crate::Engine::agreed).
    #[must_use]
    pub fn agreed(&self, members: usize) -> Option<Digest> {
        self.shared().agreed.by(members)
    }

    /// As [`Engine::wait_agreed`](crate::Engine::wait_agreed). A repair meanwhile takes its time, and ends it only when it
    /// fails.
    #[must_use]
    pub fn wait_agreed(&self, position: Position, members: usize, timeout: Duration) -> bool {
        let begun = Instant::now();
        loop {
            let shared = self.shared();
            if shared.wait_agreed(position, members, timeout.saturating_sub(begun.elapsed())) {
                return true;
            }
            let mut state = self.inner.state();
            while Arc::ptr_eq(state.pipeline.shared(), &shared) {
                let left = timeout.saturating_sub(begun.elapsed());
                if state.failed.is_some() || left.is_zero() {
                    return false;
                }
                state = self.inner.changed.wait_timeout(state, left).expect("no panic in a short section").0;
            }
        }
    }

    /// As [`Engine::pad`](crate::Engine::pad).
    ///
    /// # Errors
    /// As there.
    pub fn pad(&self) -> Result<Position, SubmitError> {
        agreement::pad(&*self.inner.log)
    }

    /// What was counted since it started, or since its last repair.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared().stats.lock().expect("no panic in a short section").clone()
    }

    /// Which keys and tables made transactions wait since it started, or since its last repair: see
    /// [`Engine::explain`](crate::Engine::explain).
    #[must_use]
    pub fn explain(&self) -> Explanation {
        self.shared().explain()
    }

    /// From which checkpoint it started, or started anew for its last repair.
    #[must_use]
    pub fn recovery(&self) -> Recovery {
        self.inner.state().recovery.clone()
    }

    /// The times that it had another state than the others, oldest first.
    #[must_use]
    pub fn divergences(&self) -> Vec<Divergence> {
        self.inner.state().divergences.clone()
    }

    /// Why it has stopped, if it has.
    #[must_use]
    pub fn failed(&self) -> Option<OpenError> {
        self.inner.state().failed.clone()
    }

    /// Waits until it has executed `position`, and tells whether it has. Gives up when `timeout` has passed, or it has
    /// stopped.
    #[must_use]
    pub fn wait(&self, position: Position, timeout: Duration) -> bool {
        let begun = Instant::now();
        let mut state = self.inner.state();
        loop {
            if state.pipeline.shared().snapshots.tail() > position {
                return true;
            }
            if state.failed.is_some() || begun.elapsed() >= timeout {
                return false;
            }
            // Windows end without a word to this.
            let look = Duration::from_millis(2);
            state = self.inner.changed.wait_timeout(state, look).expect("no panic in a short section").0;
        }
    }

    /// Stops it, after the windows at hand, wherever in the log that is; a repair goes on to its end first.
    ///
    /// # Errors
    /// Why it had stopped before, if it had.
    pub fn close(mut self) -> Result<(), OpenError> {
        self.shut_down();
        self.failed().map_or(Ok(()), Err)
    }

    fn shut_down(&mut self) {
        self.inner.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It tells its errors itself, and panics of drivers are among them.
            let _ = thread.join();
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").finish_non_exhaustive()
    }
}

/// A pipeline with the state of the newest checkpoint before `before`.
fn start(
    builder: Builder,
    log: &dyn SharedLog,
    before: Position,
    earlier: &Earlier,
    one_by_one_before: Position,
) -> Result<(Pipeline, Recovery), OpenError> {
    let builder = builder.completed();
    let Builder { checkpoints, on_load, membership, .. } = &builder;
    let shelf = checkpoints.shelf(log);
    let from =
        Source { log, shelf: shelf.as_ref(), start: checkpoints.start, membership: membership.as_ref() };
    checkpoint::start(shelf.as_ref(), || {
        let pipeline = builder.build(one_by_one_before)?;
        let recovery = checkpoint::recover(&pipeline, &from, before, on_load.as_ref())?;
        if let Some(membership) = membership {
            let (membership, store) = (membership.clone(), &pipeline.shared().store);
            pipeline.watch(Watch::new(membership, store, earlier.clone(), Arc::default()));
        }
        Ok((pipeline, recovery))
    })
}

impl Inner {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic in a short section")
    }

    /// Follows the log until it is told to stop, or cannot go on. What it is made by is its user's, and may panic where it is
    /// made anew.
    fn run(&self) {
        let failed = caught(|| self.follow()).unwrap_or_else(|payload| Some(payload.error()));
        let reason = failed.as_ref().map_or_else(|| "it was closed".to_owned(), ToString::to_string);
        let pipeline = Arc::clone(&self.state().pipeline);
        pipeline.shared().stop(&reason);
        self.state().failed = failed;
        self.changed.notify_all();
    }

    /// The same; tells why it cannot go on, if that is why it ends.
    fn follow(&self) -> Option<OpenError> {
        // How often in a row it started from a checkpoint, and executed nothing before the log was trimmed again.
        let mut in_vain = 0;
        loop {
            let pipeline = Arc::clone(&self.state().pipeline);
            let first = pipeline.shared().snapshots.tail();
            let outcome = pipeline.run(&*self.log, &Until::Left(&self.stop), None);
            in_vain = if pipeline.shared().snapshots.tail() > first { 0 } else { in_vain + 1 };
            return match outcome {
                Ok(()) => None,
                Err(error) if error.is_trimmed() && in_vain < checkpoint::ATTEMPTS => {
                    // It has not voted on what it did not reach, but its last process may have on what was there when it
                    // was started.
                    let vote_from = pipeline.shared().snapshots.tail().max(pipeline.votes_from());
                    match self.start_anew(&pipeline, &error, vote_from, Position::ZERO) {
                        Ok(()) => continue,
                        Err(panicked @ OpenError::Panicked(_)) => Some(panicked),
                        Err(_) => Some(error),
                    }
                }
                Err(OpenError::Diverged(divergence)) => match self.repair(&pipeline, *divergence) {
                    Ok(()) => continue,
                    Err(error) => Some(error),
                },
                Err(error) => Some(error),
            };
        }
    }

    /// What there was before a state that is built anew, which votes on positions from `vote_from` on.
    fn earlier(&self, vote_from: Position) -> Result<Earlier, OpenError> {
        let tail = self.log.tail()?.tail;
        let state = self.state();
        // Nobody has executed what stands behind the vote that told, so all votes on that are of new states.
        let settling_before = state.divergences.last().map_or(tail, |divergence| divergence.told_at.next());
        let disputes = state.divergences.iter().filter(|divergence| divergence.expected.is_none());
        let disputes = disputes.map(|divergence| (divergence.position, divergence.told_at)).collect();
        Ok(Earlier { vote_from, settling_before, disputes })
    }

    /// Goes on from a newer checkpoint, since the log was trimmed past where this is, or past what a repair starts from.
    /// Votes on positions from `vote_from` on, and executes one by one before another one. The error is that there is none.
    fn start_anew(
        &self,
        old: &Pipeline,
        trimmed: &OpenError,
        vote_from: Position,
        one_by_one_before: Position,
    ) -> Result<(), OpenError> {
        let earlier = self.earlier(vote_from)?;
        let (new, recovery) = start((self.make)(), &*self.log, Position::MAX, &earlier, one_by_one_before)?;
        observe::started_anew(trimmed);
        // Whoever waits there goes on to wait for the next state.
        old.shared().stop("the log was trimmed, and it goes on from a newer checkpoint");
        let mut state = self.state();
        (state.pipeline, state.recovery) = (Arc::new(new), recovery);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Builds the state anew and goes on from there. The error is that it cannot, or that it comes to another state than
    /// the others once more.
    fn repair(&self, old: &Pipeline, mut divergence: Divergence) -> Result<(), OpenError> {
        let position = divergence.position;
        observe::diverged(&divergence);
        // Whoever waits for an agreement there waits for the next state instead.
        old.shared().stop("it has another state than the others, and is built anew");
        let repeated = self.state().divergences.iter().any(|known| known.position == position);
        if repeated {
            divergence.hindrance = Some("it was built anew before, and differs again".to_owned());
        }
        self.state().divergences.push(divergence.clone());
        if repeated {
            return Err(OpenError::Diverged(Box::new(divergence)));
        }
        let rebuilt = match self.rebuild(&mut divergence) {
            // What it starts from was trimmed: then the others have a newer state.
            Err(error) if error.is_trimmed() || matches!(error, OpenError::TooEarly { .. }) => {
                match self.start_anew(old, &error, position, position.next()) {
                    Ok(()) => return Ok(()),
                    Err(panicked @ OpenError::Panicked(_)) => return Err(panicked),
                    Err(_) => divergence.hindrance = Some(error.to_string()),
                }
                None
            }
            rebuilt => rebuilt?,
        };
        if let Some((new, _)) = &rebuilt {
            // Not before it is clear which of the states that were built it goes on with.
            new.vote_from(position, &*self.log);
        }
        if let (Some((new, _)), true) = (&rebuilt, divergence.repaired)
            && let Some(old) = old.take_point(position).and_then(|point| point.snapshot)
        {
            name_keys(&mut divergence.tables, &Snapshot::new(Arc::clone(new.shared())), &old);
        }
        let mut state = self.state();
        *state.divergences.last_mut().expect("it was just added") = divergence.clone();
        let Some((new, recovery)) = rebuilt else {
            return Err(OpenError::Diverged(Box::new(divergence)));
        };
        state.pipeline = Arc::new(new);
        state.recovery = recovery;
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// The state after the position at which it diverged, executed one by one, if that can be gone on with: from the newest
    /// checkpoint that is not known to be wrong, and from earlier ones while those may be. Tells in `divergence` what came
    /// of it.
    fn rebuild(&self, divergence: &mut Divergence) -> Result<Option<(Pipeline, Recovery)>, OpenError> {
        let position = divergence.position;
        let next = position.next();
        // Of several states that it builds the one that it goes on with votes on the position.
        let earlier = self.earlier(next)?;
        let mut before = divergence.agreed.map_or(position, Position::next);
        let (mut rebuilt, mut suspect) = (None, None);
        loop {
            let started = start((self.make)(), &*self.log, before, &earlier, next);
            let (new, recovery) = match started {
                Ok(started) => started,
                // The others have taken a newer checkpoint meanwhile, and trimmed the log.
                Err(error @ OpenError::TooEarly { oldest: Some(oldest), .. })
                    if rebuilt.is_none() && oldest >= position =>
                {
                    return Err(error);
                }
                Err(error) => {
                    if rebuilt.is_none() {
                        divergence.hindrance = Some(match suspect {
                            None => error.to_string(),
                            Some(suspect) => format!(
                                "from the checkpoint of position {suspect}, on which nobody voted, it comes to \
                                 another state again, and {error}"
                            ),
                        });
                    }
                    return Ok(rebuilt);
                }
            };
            // Up to there only: both states are wanted.
            let came_there = match new.run(&*self.log, &Until::Tail(next), None) {
                Ok(()) => true,
                // What it started from is wrong, or what it executed is, before there is anything to be compared.
                Err(OpenError::Diverged(_)) => false,
                Err(error) => return Err(error),
            };
            let digest = new.shared().digest();
            divergence.repaired = came_there && divergence.is_settled_by(&digest);
            let (from, agreed) = (recovery.checkpoint, recovery.agreed);
            // Without a majority any state is gone on with: the next votes tell.
            let is_of_use = came_there && (divergence.repaired || divergence.expected.is_none());
            if is_of_use {
                rebuilt = Some((new, recovery));
            }
            match from {
                Some(from) if !divergence.repaired && !agreed => (before, suspect) = (from, Some(from)),
                _ if rebuilt.is_some() => return Ok(rebuilt),
                from => {
                    let start = from.map_or_else(
                        || "the start of the log".to_owned(),
                        |from| format!("the checkpoint of position {from}, which the members agreed on"),
                    );
                    divergence.hindrance =
                        Some(format!("executed one by one from {start}, it comes to another state again"));
                    return Ok(None);
                }
            }
        }
    }
}
