//! The embedded engine: build it, open it on a log, submit, read.

mod builder;
mod describe;
mod replay;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mixlog_log::file::{self, Storage};
use mixlog_log::{AppendError, Batch, Durability, Position, SharedLog, Ticket as Appended};

pub use builder::Builder;
pub use describe::procedures_in;
pub use replay::Replay;

use crate::agreement;
use crate::at_work;
use crate::checkpoint::{self, Backup, BackupError, Checkpoint, CheckpointError, Keeper, Recovery};
use crate::clients::{Client, ClientId};
use crate::digest::Digest;
use crate::entry::{self, Origin};
use crate::error::{ExecuteError, OpenError, SnapshotError, SubmitError};
use crate::explanation::Explanation;
use crate::full_disk::FullDisk;
use crate::panics::Payload;
use crate::pipeline::{Mode, Pipeline, Shared};
use crate::procedure::{Procedure, ProcedureId};
use crate::snapshot::Snapshot;
use crate::stats::{Memory, Stats};
use crate::store::Store;
use crate::ticket::{Outcome, Ticket};

/// A number that no other engine has, with near certainty.
pub(crate) fn random() -> u64 {
    // std seeds its hasher from the operating system's randomness.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}

/// Microseconds since 1970-01-01 UTC.
pub(crate) fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

/// A transaction engine on a shared log. All methods may be called from any thread; dropping it stops it.
///
/// ```
/// use std::sync::Arc;
/// use mixlog_engine::{Engine, Footprint, Never, Outcome, Procedure, Table, Tx};
/// use mixlog_log::MemoryLog;
/// use serde::{Deserialize, Serialize};
///
/// const COUNTERS: Table<String, u64> = Table::new("counters");
///
/// #[derive(Serialize, Deserialize)]
/// struct Count { name: String }
///
/// impl Procedure for Count {
///     const NAME: &'static str = "count";
///     type Output = u64;
///     type Abort = Never;
///
///     fn footprint(&self, f: &mut Footprint<'_>) {
///         f.write(&COUNTERS, &self.name);
///     }
///
///     fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
///         let count = tx.get(&COUNTERS, &self.name).copied().unwrap_or(0) + 1;
///         tx.put(&COUNTERS, self.name.clone(), count);
///         Ok(count)
///     }
/// }
///
/// let engine =
///     Engine::builder().table(&COUNTERS).procedure::<Count>().open(Arc::new(MemoryLog::new())).unwrap();
/// let tickets: Vec<_> =
///     (0..10).map(|_| engine.submit(&Count { name: "visits".into() }).unwrap()).collect();
/// for (i, ticket) in tickets.into_iter().enumerate() {
///     match ticket.wait().unwrap() {
///         Outcome::Committed { output, .. } => assert_eq!(output, i as u64 + 1),
///         other => panic!("{:?}", other.position()),
///     }
/// }
/// assert_eq!(engine.snapshot().get(&COUNTERS, &"visits".to_owned()), Some(10));
/// ```
pub struct Engine {
    shared: Arc<Shared>,
    pipeline: Arc<Pipeline>,
    log: Arc<dyn SharedLog>,
    /// See [`SharedLog::refuses_late`].
    refuses_late: bool,
    stop: Arc<AtomicBool>,
    threads: Mutex<Threads>,
    sequence: AtomicU64,
    /// `None` for a log without a place for checkpoints, when none was named.
    keeper: Option<Arc<Keeper>>,
    recovery: Recovery,
    full_disk: FullDisk,
}

/// Those that run as long as the engine does.
#[derive(Default)]
struct Threads {
    /// Leads the drivers.
    executes: Option<JoinHandle<Result<(), OpenError>>>,
    /// Takes checkpoints when they are due.
    keeps: Option<JoinHandle<()>>,
}

impl Engine {
    pub(crate) fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Starts to describe an engine.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Appends a transaction to the log. Returns at once with a ticket for its outcome; any number may be in
    /// flight, up to [`Builder::max_in_flight`], where it blocks (but for wakers and procedures of this engine, for which it
    /// is an error). Submissions of one thread keep their order.
    ///
    /// Cost: one allocation, a copy of the arguments and reading them once, and the log's queue; some 200 ns.
    ///
    /// # Errors
    /// [`SubmitError`]: the transaction is not in the log, and will not be.
    pub fn submit<P: Procedure>(&self, procedure: &P) -> Result<Ticket<P>, SubmitError> {
        self.submit_as(procedure, None, SharedLog::append).map(|(ticket, _)| ticket)
    }

    /// Appends a transaction to the log, and waits for its outcome: [`submit`](Self::submit) and
    /// [`Ticket::wait`], for threads that have one transaction at a time. Where nobody else is at it, such a thread writes
    /// the log and executes the transaction itself, with all that others submitted before: to wake threads that do, and to
    /// be woken by them, takes about as long as a fast disk, and many times as long as a transaction. So a procedure may
    /// run on any thread that calls this, but for those of rayon pools, which leave it to the engine's own; so does everybody in
    /// [`Mode::Parallel`] and with a [`Builder::member`].
    ///
    /// There, a procedure that shares its work in rayon shares it with rayon's global pool, and waits for that: not all
    /// threads of the global pool may wait here or in [`Ticket::wait`] then; see [`Procedure`].
    ///
    /// Not for procedures, nor for wakers of tickets: what executes them would wait for itself, and is told so
    /// ([`SubmitError::WaitsForItself`]), as with [`Ticket::wait`]. Threads that these start, or wait for in other ways,
    /// are not told.
    ///
    /// Nor for asynchronous tasks, whose thread it takes away from others for as long as it lasts, with what it executes and
    /// wakes for them: there, await the ticket of [`submit`](Self::submit), or tell the runtime that the task blocks.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use mixlog_engine::{Engine, Never, Procedure, Table, Tx};
    /// # use mixlog_log::MemoryLog;
    /// # use serde::{Deserialize, Serialize};
    /// # const COUNTERS: Table<u64, u64> = Table::new("counters");
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Count(u64);
    /// # impl Procedure for Count {
    /// #     const NAME: &'static str = "count";
    /// #     type Output = u64;
    /// #     type Abort = Never;
    /// #     fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
    /// #         *tx.get_or_put(&COUNTERS, self.0, || 0) += 1;
    /// #         Ok(tx.get(&COUNTERS, &self.0).copied().unwrap_or(0))
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let engine =
    /// #     Engine::builder().table(&COUNTERS).procedure::<Count>().open(Arc::new(MemoryLog::new()))?;
    /// assert_eq!(engine.execute(&Count(7))?.committed(), Some(1));
    /// assert_eq!(engine.execute(&Count(7))?.committed(), Some(2));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ExecuteError`].
    pub fn execute<P: Procedure>(&self, procedure: &P) -> Result<Outcome<P>, ExecuteError> {
        self.execute_as(procedure, None).map(|(outcome, _)| outcome)
    }

    /// Tells besides whether the transaction ran, or its client's earlier one had.
    pub(crate) fn execute_as<P: Procedure>(
        &self,
        procedure: &P,
        client: Option<(ClientId, u64)>,
    ) -> Result<(Outcome<P>, bool), ExecuteError> {
        if at_work::is_for(self.shared.origin) {
            return Err(SubmitError::WaitsForItself.into());
        }
        let (ticket, appended) = self.submit_as(procedure, client, SharedLog::append_and_write)?;
        // What was not written here is told to the leader before this thread hears of it.
        let written = appended.and_then(|appended| appended.wait_timeout(Duration::ZERO));
        Ok(if let Some(Ok(positions)) = written {
            self.pipeline.execute_here(&*self.log, positions.end);
            ticket.watch()
        } else {
            ticket.wait_told()
        }?)
    }

    /// One who submits transactions that are to have their effect once, however often they are submitted.
    #[must_use]
    pub const fn client(&self, id: ClientId) -> Client<'_> {
        Client::new(self, id)
    }

    /// Gives the log's ticket, too, unless whoever leads looks after that: what was appended by `append` may yet be refused.
    pub(crate) fn submit_as<P: Procedure>(
        &self,
        procedure: &P,
        client: Option<(ClientId, u64)>,
        append: impl Fn(&dyn SharedLog, &Batch) -> Result<Appended, AppendError>,
    ) -> Result<(Ticket<P>, Option<Appended>), SubmitError> {
        self.full_disk.wait_out(
            self.shared.origin,
            || self.try_submit_as(procedure, client, &append),
            || self.keeper.as_ref().is_some_and(|keeper| keeper.is_busy()),
        )
    }

    fn try_submit_as<P: Procedure>(
        &self,
        procedure: &P,
        client: Option<(ClientId, u64)>,
        append: impl Fn(&dyn SharedLog, &Batch) -> Result<Appended, AppendError>,
    ) -> Result<(Ticket<P>, Option<Appended>), SubmitError> {
        let id = const { ProcedureId::of(P::NAME, P::VERSION) };
        match self.shared.procedures.index_of(id) {
            Some(index) if self.shared.procedures.get(index).name == P::NAME => {}
            _ => return Err(SubmitError::NotRegistered(P::NAME)),
        }
        if let Some((resident, limit)) = self.shared.memory_limit.exceeded() {
            return Err(SubmitError::OutOfMemory { resident, limit });
        }
        if let Some(full) = self.shared.due.refuses() {
            return Err(AppendError::Full(full).into());
        }
        thread_local! {
            static BATCH: std::cell::Cell<Batch> = const { std::cell::Cell::new(Batch::new()) };
        }
        // Taken and put back, not borrowed: a procedure's `encode` may submit, too.
        let mut batch = BATCH.take();
        batch.clear();
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let origin = Origin { engine: self.shared.origin, sequence };
        let mut unreadable = None;
        batch.push_with(|out| {
            entry::encode_call(out, id, origin, now_us(), client, |out| {
                let start = out.len();
                procedure.encode(out);
                // In the log it would stop every engine, for ever.
                unreadable = P::decode(&out[start..]).err();
            });
        });
        if let Some(error) = unreadable {
            BATCH.set(batch);
            return Err(SubmitError::Unreadable { procedure: P::NAME, detail: error.to_string() });
        }
        let cell = self.shared.in_flight.enter(sequence, origin.engine)?;
        let appended = append(&*self.log, &batch);
        BATCH.set(batch);
        match appended {
            Ok(appended) => {
                let appended = if self.refuses_late {
                    self.shared.doubtful.push(sequence, appended);
                    None
                } else {
                    Some(appended)
                };
                let sequence = client.map_or(0, |(_, sequence)| sequence);
                Ok((Ticket::new(cell, sequence, origin.engine), appended))
            }
            Err(error) => {
                self.shared.in_flight.leave(sequence);
                if matches!(error, AppendError::Full(_)) {
                    self.shared.due.ran_out();
                }
                Err(error.into())
            }
        }
    }

    /// Takes a checkpoint of the newest committed state now, gives up those that are too many, and trims the log as
    /// [`Builder::checkpoints`] says. Transactions go on meanwhile. It includes every transaction whose ticket was filled
    /// before. Where nothing was executed since the last one, that one is told, unless its rows were converted when it was
    /// loaded: then it is replaced.
    ///
    /// A [`member`](Builder::member) keeps what a majority agreed on and nothing later: the newest such state, which ends
    /// at a multiple of [`WINDOW_GRID`](crate::WINDOW_GRID). To have all that was acknowledged in it, [`pad`](Self::pad)
    /// the log and [`wait_agreed`](Self::wait_agreed) first.
    ///
    /// On a disk that is full, space that was kept for it is used, and then that of the oldest of several checkpoints.
    /// Submissions are refused meanwhile.
    ///
    /// Cost: as [`Snapshot::for_each`] over all tables, on the calling thread, and the writing of all rows; while it
    /// runs, that of an open snapshot.
    ///
    /// # Errors
    /// [`CheckpointError`]; the checkpoints that were there are there still, but on a full disk for the oldest of several.
    pub fn checkpoint(&self) -> Result<Checkpoint, CheckpointError> {
        self.keeper.as_ref().ok_or(CheckpointError::Nowhere)?.take()
    }

    /// The positions of the checkpoints on the disk that are not known to be damaged, oldest first.
    #[must_use]
    pub fn checkpoints(&self) -> Vec<Position> {
        self.keeper.as_ref().map_or_else(Vec::new, |keeper| keeper.list())
    }

    /// Why the newest attempt to take a checkpoint failed, also one in the background; `None` once one is taken. Until
    /// then the log is not trimmed.
    #[must_use]
    pub fn checkpoint_failure(&self) -> Option<String> {
        self.keeper.as_ref().and_then(|keeper| keeper.failure())
    }

    /// How the state was rebuilt when the engine was opened, from which checkpoint, and how long that took.
    #[must_use]
    pub const fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The last position on which at least so many members had the same digest, and that digest, as far as their votes were
    /// read here; `None` before the first, and without [`Builder::member`].
    ///
    /// Shape: [`Digest::position`] is the position, a multiple of [`WINDOW_GRID`](crate::WINDOW_GRID), less 1.
    #[must_use]
    pub fn agreed(&self, members: usize) -> Option<Digest> {
        self.shared.agreed.by(members)
    }

    /// Waits until at least so many members have the same digest at `position` or later, and tells whether they have;
    /// for acknowledgements that are to be agreed. Votes are cast at multiples of [`WINDOW_GRID`](crate::WINDOW_GRID):
    /// on a log that grows slowly, [`pad`](Self::pad) it first. Of a client's transaction that may have come before, wait for the
    /// position that [`Ticket::wait_with_position`](crate::Ticket::wait_with_position) tells: where it stood the first time tells
    /// nothing of the state that its answer was looked up in. Gives up when `timeout` has passed or the engine stops, and at once
    /// in a procedure or a waker of this engine, which waits for it.
    #[must_use]
    pub fn wait_agreed(&self, position: Position, members: usize, timeout: Duration) -> bool {
        self.shared.wait_agreed(position, members, timeout)
    }

    /// Appends entries that do nothing until the next multiple of [`WINDOW_GRID`](crate::WINDOW_GRID), so that votes are
    /// cast on all that is in the log now; returns the position that they are on. Others who append meanwhile make the
    /// log reach a little further.
    ///
    /// Cost: at most [`WINDOW_GRID`](crate::WINDOW_GRID) entries of 4 bytes, in one batch, or one after the other in as many
    /// as it takes on a log that takes less at once.
    ///
    /// # Errors
    /// [`SubmitError`]: the log does not reach that far, as far as [`AppendError::Indeterminate`] and
    /// [`Failed`](AppendError::Failed) can tell. Entries that were appended do nothing.
    pub fn pad(&self) -> Result<Position, SubmitError> {
        agreement::pad(&*self.log)
    }

    /// Writes the newest committed state to a new directory, as a log with a checkpoint that opens: transactions go on
    /// meanwhile, and those whose tickets were filled before are in it. The copy has the log's identity: it stands in
    /// for the log, and is not to be written to beside it. For logs of any kind.
    ///
    /// Cost: as [`checkpoint`](Self::checkpoint).
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn backup(&self, to: impl AsRef<Path>) -> Result<Backup, BackupError> {
        checkpoint::of_running(&self.shared, &*self.log, to.as_ref())
    }

    /// Like [`backup`](Self::backup), to a directory without a log, on a file system of the caller's making. Until this
    /// returns there is nothing in it that opens. `files` says how long the log's first file is.
    ///
    /// # Errors
    /// [`BackupError`]; the directory is of no use any more.
    pub fn backup_with_storage(
        &self,
        to: Arc<dyn Storage>,
        files: file::Config,
    ) -> Result<Backup, BackupError> {
        checkpoint::of_running_with_storage(&self.shared, &*self.log, to, files)
    }

    /// Sets the limit of [`Builder::max_memory`] anew; 0 for none.
    pub fn set_max_memory(&self, bytes: u64) {
        self.shared.memory_limit.set(bytes);
    }

    /// A view of the newest committed state. It includes every transaction whose ticket was filled before.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(Arc::clone(&self.shared))
    }

    /// A view of the state after `position`, where a window ended and is retained: the newest one, those that a
    /// snapshot is open at, those that [`Builder::retain`] asks for.
    ///
    /// # Errors
    /// [`SnapshotError`] tells the nearest positions that there are.
    pub fn snapshot_at(&self, position: Position) -> Result<Snapshot, SnapshotError> {
        Snapshot::at(Arc::clone(&self.shared), position)
    }

    /// The positions that [`snapshot_at`](Self::snapshot_at) finds now, oldest first; the last is the newest committed
    /// one. Those that no snapshot is open at may be gone a window later.
    ///
    /// Cost: a copy of the list, while which no window commits.
    #[must_use]
    pub fn retained(&self) -> Vec<Position> {
        self.shared.snapshots.retained()
    }

    /// How much memory the tables use, and what for.
    ///
    /// Cost: some loads per table and thread, no pass over anything: cheap enough to be asked every second.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.shared.memory()
    }

    /// The digest of the newest committed state and of all replies so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.shared.digest()
    }

    /// What was counted so far: at least all that was acknowledged.
    #[must_use]
    pub fn stats(&self) -> Stats {
        // Committing counts after it publishes the state, and others acknowledge meanwhile.
        let _counted = self.shared.digest();
        self.shared.stats.lock().expect("no panic in a short section").clone()
    }

    /// Which keys and tables made transactions wait, since the engine was opened or
    /// [`explain_anew`](Self::explain_anew) was called. Empty unless [`Builder::explain`] was asked for.
    ///
    /// Cost: to find the numbers of granules, a pass over the tables that they belong to.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        self.shared.explain()
    }

    /// Forgets what was explained so far: what follows is explained by itself. Windows that are being executed may
    /// count on either side.
    pub fn explain_anew(&self) {
        self.shared.explain_anew();
    }

    /// The last committed position, or `None` before the first.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.shared.snapshots.tail().previous()
    }

    /// How many submissions await their outcome.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.len()
    }

    /// Whether it takes no more submissions; [`stopped`](Self::stopped) tells why, and [`close`](Self::close).
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.stopped().is_some()
    }

    /// Why it takes no more submissions, if so: something failed, or it was shut down.
    #[must_use]
    pub fn stopped(&self) -> Option<&str> {
        self.shared.in_flight.stopped()
    }

    /// How many threads execute.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pipeline.config().threads
    }

    /// How many entries are mixed together at most.
    #[must_use]
    pub fn window(&self) -> u32 {
        self.pipeline.config().window
    }

    /// How windows are executed.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.pipeline.config().mode
    }

    /// What an acknowledged transaction has survived: the log's durability.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.log.durability()
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn SharedLog> {
        &self.log
    }

    /// Stops executing, and waits until that is done. Tickets that were not filled fail; their transactions may
    /// be in the log. Also what dropping does. A waker of this engine, which the engine waits for, does not wait.
    ///
    /// # Errors
    /// Why the engine had stopped before, if it had.
    pub fn close(self) -> Result<(), OpenError> {
        self.shut_down()
    }

    /// The same for an engine that others hold, too: what they submit from now on is refused
    /// ([`SubmitError::Stopped`]), snapshots go on. Who calls it again waits for the first call. The log, and
    /// its lock, are held until the last of them has dropped the engine.
    ///
    /// # Errors
    /// Why the engine had stopped before, if it had; told to the first who calls this.
    pub fn shut_down(&self) -> Result<(), OpenError> {
        self.stop.store(true, Ordering::Relaxed);
        self.shared.due.stop();
        // The engine's threads end when this one is done here.
        if at_work::is_for(self.shared.origin) {
            return Ok(());
        }
        let panicked = |payload| Payload::new(payload).error();
        // Held while they end: whoever comes second waits for that.
        let mut threads = self.threads.lock().expect("threads that panic do so where they are joined");
        let kept = threads.keeps.take().map_or(Ok(()), |thread| thread.join().map_err(panicked));
        let executed = threads.executes.take().map_or(Ok(Ok(())), |thread| thread.join().map_err(panicked));
        executed?.and(kept)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Whoever wants to know calls `close`.
        let _ = self.shut_down();
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("config", self.pipeline.config()).finish_non_exhaustive()
    }
}
