//! The embedded engine: build it, open it on a log, submit, read.

use std::any::TypeId;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mixlog_log::{Batch, Durability, Position, SharedLog};

use crate::agreement::{Membership, Watch};
use crate::checkpoint::{self, Backup, BackupError, Checkpoint, CheckpointError, Keeper, OnLoad, Recovery};
use crate::clients::{ANSWERS, Client, ClientId, Forget};
use crate::codec::Codec;
use crate::digest::Digest;
use crate::entry::{self, Call, Origin};
use crate::error::{OpenError, SnapshotError, SubmitError};
use crate::explanation::Explanation;
use crate::index::{Index, IndexKey, Maintain};
use crate::interactive::Intention;
use crate::observe;
use crate::pipeline::{self, Config, Mode, Pipeline, Progress, Shared, Until, WINDOW_GRID};
use crate::procedure::{Procedure, ProcedureId, Procedures, Registered};
use crate::snapshot::Snapshot;
use crate::stats::{Memory, Stats};
use crate::store::{AnyTable, GranuleOf, Indexes, MakeTable, Store, TableStore};
use crate::table::{Conflicts, Key, Table, TableId, Value};
use crate::ticket::Ticket;

/// Names what an engine consists of, and opens it.
#[must_use]
pub struct Builder {
    tables: Vec<(&'static str, TypeId, MakeTable)>,
    indexes: Indexes,
    /// Of each index: its name, its table's name and type.
    indexed: Vec<(&'static str, &'static str, TypeId)>,
    procedures: Vec<Registered>,
    threads: usize,
    window: u32,
    mode: Mode,
    paranoid: u32,
    unguarded: bool,
    lanes: usize,
    max_in_flight: usize,
    retain: u64,
    explain: u32,
    progress: Option<Progress>,
    checkpoints: checkpoint::Config,
    on_load: Option<OnLoad>,
    max_memory: u64,
    membership: Option<Membership>,
}

/// What a builder builds: a pipeline that has executed nothing, and what is needed to give it a state.
pub(crate) struct Built {
    pub(crate) pipeline: Pipeline,
    progress: Option<Progress>,
    pub(crate) checkpoints: checkpoint::Config,
    pub(crate) on_load: Option<OnLoad>,
    pub(crate) membership: Option<Membership>,
}

impl Default for Builder {
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Self {
            tables: Vec::new(),
            indexes: Vec::new(),
            indexed: Vec::new(),
            procedures: Vec::new(),
            threads,
            window: 256,
            mode: Mode::Auto,
            paranoid: 0,
            unguarded: false,
            lanes: crate::ahead::LANES,
            max_in_flight: 1 << 20,
            retain: 0,
            explain: 0,
            progress: None,
            checkpoints: checkpoint::Config::default(),
            on_load: None,
            max_memory: 0,
            membership: None,
        }
    }
}

impl Builder {
    /// Adds a table.
    pub fn table<K: Key, V: Value, C: Codec<K> + Codec<V>>(mut self, table: &Table<K, V, C>) -> Self {
        self.add_table(table, table.conflicts().map(GranuleOf::Key));
        self
    }

    fn add_table<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        conflicts: Conflicts<GranuleOf<K>>,
    ) {
        let description = *table;
        let make: MakeTable = Box::new(move |number, workers, indexes| -> Box<dyn AnyTable> {
            let own = indexes.extract_if(.., |(table, _)| *table == description.id());
            let own =
                own.map(|(_, index)| *index.downcast().expect("the types of an index's table were compared"));
            let own = own.collect();
            Box::new(TableStore::new(&description, conflicts, number, workers, own))
        });
        self.tables.push((table.name(), TypeId::of::<Table<K, V, C>>(), make));
    }

    /// Adds an index of a table, which has to be added, too. It needs no place in the log: it may be added to a
    /// program, or left out, while its log exists.
    pub fn index<K: IndexKey, V: Value, I: IndexKey, C: Codec<K> + Codec<V>>(
        mut self,
        index: &Index<K, V, I, C>,
    ) -> Self {
        let maintain: Box<dyn Maintain<K, V>> = Box::new(*index);
        self.indexes.push((index.table().id(), Box::new(maintain)));
        self.indexed.push((index.name(), index.table().name(), TypeId::of::<Table<K, V, C>>()));
        self.add_table(&index.places(), index.conflicts());
        self
    }

    /// Adds a procedure.
    pub fn procedure<P: Procedure>(mut self) -> Self {
        self.procedures.push(Registered::new::<P>());
        self
    }

    /// How many threads execute. Default: one per core. More than there are cores cost speed, nothing else.
    pub const fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// How many entries are mixed together at most, 1 to [`WINDOW_GRID`]. Default: 256. More finds more that
    /// can run in parallel and costs fewer hand-overs; less stays in the cache and answers sooner.
    pub const fn window(mut self, entries: u32) -> Self {
        self.window = entries;
        self
    }

    /// How windows are executed. Default: [`Mode::Auto`].
    pub const fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// How many transactions that declare nothing a driver runs ahead at a time, each on a stack of its own, switching
    /// at accesses so that their cache misses overlap. Default: 8; 1 runs them one after another, for procedures that hold
    /// a lock across accesses, which would meet themselves on one thread.
    ///
    /// Cost: 2 MiB of address space for each and each thread, of which what is used takes memory.
    pub const fn lanes(mut self, transactions: usize) -> Self {
        self.lanes = transactions;
        self
    }

    /// Runs one transaction in so many twice from the same state, the second time on another thread, and stops the
    /// engine with [`OpenError::NotDeterministic`] right before the first one that does two things. Finds procedures
    /// that use a clock, thread numbers, randomness, std's hash maps or global state. 1 runs every transaction twice; more
    /// takes a sample, which is a property of the log's positions; 0, the default, takes none.
    ///
    /// Units: transactions. Cost: a sampled transaction takes twice its time, two hand-overs between threads (some 10 us),
    /// and two hashes for every row that it changes. For tests, and for a replica that lags anyway.
    pub const fn paranoid(mut self, one_in: u32) -> Self {
        self.paranoid = one_in;
        self
    }

    /// Lets transactions that run in parallel touch what they did not declare, unnoticed. To inject a fault that the guard
    /// would stop, for tests of what finds it later.
    ///
    /// # Safety
    /// Procedures keep undeclared accesses to one row apart themselves, in a way that makes the one see the other: what
    /// the schedule does for those that are declared.
    #[doc(hidden)]
    #[allow(unsafe_code)]
    pub const unsafe fn unguarded(mut self) -> Self {
        self.unguarded = true;
        self
    }

    /// How many submissions may await their outcome before [`Engine::submit`] blocks. Default: 2^20. Each costs
    /// about 200 bytes, and its entry in the log's queue.
    pub const fn max_in_flight(mut self, submissions: usize) -> Self {
        self.max_in_flight = submissions;
        self
    }

    /// For how many positions behind the newest committed one [`Engine::snapshot_at`] finds the ends of windows.
    /// Default: 0, none. More costs the memory of an open snapshot of that age (see [`Snapshot`]), and 8 bytes per
    /// window.
    pub const fn retain(mut self, positions: u64) -> Self {
        self.retain = positions;
        self
    }

    /// Explains conflicts in every mixed window (1) or every n-th (n): see [`Engine::explain`]. Default: 0, none, which
    /// costs nothing. Cost otherwise: one driver looks at each window explained for about as long as mixing it takes five
    /// times, and a sixteenth of all transactions is timed.
    pub const fn explain(mut self, every: u32) -> Self {
        self.explain = every;
        self
    }

    /// Calls `progress` after every window with the tail of what was executed and the tail of the log: for long
    /// replays. It must be quick.
    pub fn on_progress(mut self, progress: impl Fn(Position, Position) + Send + Sync + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Where checkpoints lie, when they are taken, and what becomes of the log before them. By default an engine on a log
    /// in files keeps two of them beside it, and trims it; see [`checkpoint::Config`].
    pub fn checkpoints(mut self, config: checkpoint::Config) -> Self {
        self.checkpoints = config;
        self
    }

    /// Calls `on_load` now and then while a checkpoint is loaded, with how much of it was read and its length, in bytes.
    pub fn on_load(mut self, on_load: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        self.on_load = Some(Box::new(on_load));
        self
    }

    /// How much memory the process may use before [`Engine::submit`] answers with [`SubmitError::OutOfMemory`]; reads,
    /// and what is in flight, go on. Default: 0, no limit. Leave room for a burst: what is in flight is executed, and what
    /// the process uses is looked at every 10 ms or so.
    ///
    /// Units: bytes of resident memory, all that the process does included.
    pub const fn max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = bytes;
        self
    }

    /// Compares digests with other engines on the same log: at every multiple of [`WINDOW_GRID`] it appends its digest to
    /// the log, and reads those of the others there. An engine that differs from what most of them agree on stops with
    /// [`OpenError::Diverged`]; a [`Replica`](crate::Replica) repairs itself first. By default it compares nothing.
    ///
    /// Cost: a vote of some 300 bytes per table and [`WINDOW_GRID`] entries; a snapshot that stays open until its
    /// digest is agreed.
    pub fn member(mut self, membership: Membership) -> Self {
        self.membership = Some(membership);
        self
    }

    pub(crate) fn build(self) -> Result<Built, OpenError> {
        self.build_one_by_one_before(Position::ZERO)
    }

    /// Windows that end before `position` will be executed one by one.
    pub(crate) fn build_one_by_one_before(mut self, position: Position) -> Result<Built, OpenError> {
        self = self.table(&ANSWERS);
        let refuse = |message: String| Err(OpenError::Configuration(message));
        if self.checkpoints.keep == 0 {
            return refuse("at least 1 checkpoint must be kept".to_owned());
        }
        if self.threads == 0 || self.threads > 1024 {
            return refuse(format!("an engine runs on 1 to 1024 threads, not {}", self.threads));
        }
        if self.window == 0 || u64::from(self.window) > WINDOW_GRID {
            return refuse(format!("a window holds 1 to {WINDOW_GRID} entries, not {}", self.window));
        }
        if let Some(Membership { members, .. }) = &self.membership
            && (members.is_empty() || (1..members.len()).any(|i| members[..i].contains(&members[i])))
        {
            return refuse("members have names, and no two have the same".to_owned());
        }
        if self.max_in_flight == 0 {
            return refuse("at least 1 submission must be allowed in flight".to_owned());
        }
        for (i, (name, ..)) in self.tables.iter().enumerate() {
            if self.tables[..i].iter().any(|(other, ..)| other == name) {
                return refuse(format!("table {name:?} is registered twice"));
            }
            if let Some((other, ..)) =
                self.tables[..i].iter().find(|(o, ..)| TableId::of(o) == TableId::of(name))
            {
                return refuse(format!("the names of tables {name:?} and {other:?} collide: rename one"));
            }
        }
        for &(index, table, types) in &self.indexed {
            match self.tables.iter().find(|(name, ..)| *name == table) {
                Some((_, found, _)) if *found == types => {}
                Some(_) => return refuse(format!("index {index:?} is of table {table:?} with other types")),
                None => {
                    return refuse(format!("index {index:?} is of table {table:?}, which is not registered"));
                }
            }
        }
        if self.tables.len() > 2048 || self.procedures.len() > usize::from(u16::MAX) {
            return refuse("an engine has at most 2,048 tables and 65,535 procedures".to_owned());
        }
        self.procedures.push(Registered::new::<Intention>());
        self.procedures.push(Registered::new::<Forget>());
        let procedures = Procedures::new(self.procedures).map_err(|(a, b)| {
            OpenError::Configuration(if a == b {
                format!("procedure {a:?} is registered twice")
            } else {
                format!("the names of procedures {a:?} and {b:?} collide: rename one")
            })
        })?;
        let makers = self.tables.into_iter().map(|(.., make)| make).collect();
        let (store, workers) = Store::new(makers, self.indexes, self.threads);
        let shared = Arc::new(Shared::new(
            store,
            procedures,
            random(),
            self.max_in_flight,
            self.retain,
            self.explain,
            self.membership.is_some(),
        ));
        let (threads, window, mode, paranoid) = (self.threads, self.window, self.mode, self.paranoid);
        let config = Config {
            threads,
            window,
            mode,
            paranoid,
            unguarded: self.unguarded,
            lanes: self.lanes,
            one_by_one_before: position,
        };
        let pipeline = Pipeline::new(shared, workers, config).map_err(|error| {
            OpenError::Configuration(format!("cannot start {} threads: {error}", self.threads))
        })?;
        pipeline.shared().memory_limit.set(self.max_memory);
        let Self { progress, checkpoints, on_load, membership, .. } = self;
        Ok(Built { pipeline, progress, checkpoints, on_load, membership })
    }

    /// Opens an engine on the log: loads the newest checkpoint that is whole, executes all that is in the log after it,
    /// and then all that is appended, by this engine or by others. [`Engine::recovery`] tells how that went.
    ///
    /// # Errors
    /// [`OpenError`]; the log is unchanged.
    pub fn open(self, log: Arc<dyn SharedLog>) -> Result<Engine, OpenError> {
        let Built { pipeline, progress, checkpoints, on_load, membership } = self.build()?;
        if let Some(membership) = membership {
            let tail = log.tail().tail;
            pipeline.watch(Watch::new(membership, tail, tail));
        }
        observe::describe();
        let shelf = checkpoints.shelf(&*log);
        let begun = Instant::now();
        let mut recovery = checkpoint::recover(
            &pipeline,
            &*log,
            shelf.as_ref(),
            checkpoints.start,
            Position::MAX,
            on_load.as_ref(),
        )?;
        let (start, first) = (Instant::now(), pipeline.shared().snapshots.tail());
        pipeline.run(&*log, &Until::Tail(log.tail().tail), progress.as_ref())?;
        let shared = Arc::clone(pipeline.shared());
        (recovery.entries, recovery.replay) = (shared.snapshots.tail().since(first), start.elapsed());
        observe::opened(shared.snapshots.tail(), begun.elapsed());
        append_catalog(&shared, &*log)?;
        // So that the state after opening does not depend on how soon the catalog is read.
        pipeline.run(&*log, &Until::Tail(log.tail().tail), progress.as_ref())?;
        let pipeline = Arc::new(pipeline);
        let stop = Arc::new(AtomicBool::new(false));
        let no_thread =
            |error| OpenError::Configuration(format!("cannot start the engine's thread: {error}"));
        let mut keeper = None;
        if let Some(shelf) = shelf {
            let path = shelf.storage.path().to_path_buf();
            let made = Keeper::new(
                Arc::clone(&shared),
                Arc::clone(&log),
                shelf,
                checkpoints.clone(),
                Arc::clone(&stop),
                &recovery,
            );
            let made = made.map_err(|error| OpenError::Checkpoints { path, source: Arc::new(error) })?;
            keeper = Some(Arc::new(made));
        }
        let mut engine = Engine {
            shared,
            pipeline,
            log,
            stop,
            thread: Mutex::default(),
            sequence: AtomicU64::new(0),
            keeper,
            keeping: Mutex::default(),
            recovery,
        };
        if let Some(keeper) = engine.keeper.clone()
            && (checkpoints.every_bytes.is_some() || checkpoints.every.is_some())
        {
            let thread = pipeline::spawn("mixlog-checkpoint", move || keeper.run()).map_err(no_thread)?;
            engine.keeping = Mutex::new(Some(thread));
        }
        let thread = Pipeline::follow(&engine.pipeline, &engine.log, &engine.stop).map_err(no_thread)?;
        engine.thread = Mutex::new(Some(thread));
        Ok(engine)
    }

    /// Executes a log without taking part in it: nothing is appended, no checkpoint is taken, and the caller says how far
    /// to go. It starts from a checkpoint, if there is one before that position (see [`checkpoint::Config::start`]).
    ///
    /// # Errors
    /// [`OpenError`]: the configuration makes no sense.
    pub fn replay(self, log: Arc<dyn SharedLog>) -> Result<Replay, OpenError> {
        let Built { pipeline, progress, checkpoints, on_load, .. } = self.build()?;
        Ok(Replay { pipeline, progress, log, checkpoints, on_load, recovery: Mutex::default() })
    }
}

/// Tells the log which procedures and tables stand behind the hashes, unless it knows.
fn append_catalog(shared: &Shared, log: &dyn SharedLog) -> Result<(), OpenError> {
    let own = shared.own_catalog();
    let known = shared.catalog.lock().expect("no panic in a short section").clone();
    let complete = known.is_some_and(|known| {
        own.procedures.iter().all(|p| known.procedures.contains(p))
            && own.tables.iter().all(|t| known.tables.contains(t))
    });
    // A sealed log can still be opened, and read.
    if complete || log.tail().sealed {
        return Ok(());
    }
    let mut batch = Batch::new();
    batch.push_with(|out| entry::encode_catalog(out, &own));
    log.append(&batch)?.wait()?;
    Ok(())
}

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
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<Result<(), OpenError>>>>,
    sequence: AtomicU64,
    /// `None` for a log without a place for checkpoints, when none was named.
    keeper: Option<Arc<Keeper>>,
    /// The thread that takes them when they are due.
    keeping: Mutex<Option<JoinHandle<()>>>,
    recovery: Recovery,
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
    /// flight, up to [`Builder::max_in_flight`], where it blocks. Submissions of one thread keep their order.
    ///
    /// Cost: one allocation, a copy of the arguments, and the log's queue; some 200 ns.
    ///
    /// # Errors
    /// [`SubmitError`]: the transaction is not in the log, and will not be.
    pub fn submit<P: Procedure>(&self, procedure: &P) -> Result<Ticket<P>, SubmitError> {
        self.submit_as(procedure, None)
    }

    /// One who submits transactions that are to have their effect once, however often they are submitted.
    #[must_use]
    pub const fn client(&self, id: ClientId) -> Client<'_> {
        Client::new(self, id)
    }

    pub(crate) fn submit_as<P: Procedure>(
        &self,
        procedure: &P,
        client: Option<(ClientId, u64)>,
    ) -> Result<Ticket<P>, SubmitError> {
        let id = const { ProcedureId::of(P::NAME, P::VERSION) };
        match self.shared.procedures.index_of(id) {
            Some(index) if self.shared.procedures.get(index).name == P::NAME => {}
            _ => return Err(SubmitError::NotRegistered(P::NAME)),
        }
        if let Some((resident, limit)) = self.shared.memory_limit.exceeded() {
            return Err(SubmitError::OutOfMemory { resident, limit });
        }
        thread_local! {
            static BATCH: std::cell::Cell<Batch> = const { std::cell::Cell::new(Batch::new()) };
        }
        // Taken and put back, not borrowed: a procedure's `encode` may submit, too.
        let mut batch = BATCH.take();
        batch.clear();
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let origin = Origin { engine: self.shared.origin, sequence };
        batch.push_with(|out| {
            entry::encode_call(out, id, origin, now_us(), client, |out| procedure.encode(out));
        });
        let cell = self.shared.in_flight.enter(sequence).map_err(SubmitError::Stopped)?;
        let appended = self.log.append(&batch);
        BATCH.set(batch);
        match appended {
            // The outcome comes through the log, which the engine reads: no need for the log's own ticket.
            Ok(_) => Ok(Ticket::new(cell, client.map_or(0, |(_, sequence)| sequence))),
            Err(error) => {
                self.shared.in_flight.leave(sequence);
                Err(error.into())
            }
        }
    }

    /// Takes a checkpoint of the newest committed state now, gives up those that are too many, and trims the log as
    /// [`Builder::checkpoints`] says. Transactions go on meanwhile. It includes every transaction whose ticket was filled
    /// before. Where nothing was executed since the last one, that one is told.
    ///
    /// Cost: as [`Snapshot::for_each`] over all tables, on the calling thread, and the writing of all rows; while it
    /// runs, that of an open snapshot.
    ///
    /// # Errors
    /// [`CheckpointError`]; the checkpoints that were there are there still.
    pub fn checkpoint(&self) -> Result<Checkpoint, CheckpointError> {
        self.keeper.as_ref().ok_or(CheckpointError::Nowhere)?.take()
    }

    /// The positions of the checkpoints on the disk that are not known to be damaged, oldest first.
    #[must_use]
    pub fn checkpoints(&self) -> Vec<Position> {
        self.keeper.as_ref().map_or_else(Vec::new, |keeper| keeper.list())
    }

    /// How the state was rebuilt when the engine was opened, from which checkpoint, and how long that took.
    #[must_use]
    pub const fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The last position on which at least so many members had the same digest, as far as their votes were read here;
    /// `None` before the first, and without [`Builder::member`].
    #[must_use]
    pub fn agreed(&self, members: usize) -> Option<Position> {
        self.shared.agreed.by(members)
    }

    /// Waits until at least so many members have the same digest at `position` or later, and tells whether they have;
    /// for acknowledgements that are to be agreed. Votes are cast at multiples of [`WINDOW_GRID`]: on a log that grows
    /// slowly, [`pad`](Self::pad) it first. Gives up when `timeout` has passed or the engine stops.
    #[must_use]
    pub fn wait_agreed(&self, position: Position, members: usize, timeout: Duration) -> bool {
        self.shared.agreed.wait(position, members, timeout, || self.shared.in_flight.stopped().is_some())
    }

    /// Appends entries that do nothing until the next multiple of [`WINDOW_GRID`], so that votes are cast on all that is
    /// in the log now; returns the position that they are on. Others who append meanwhile make the log reach a little further.
    ///
    /// Cost: at most [`WINDOW_GRID`] entries of 4 bytes.
    ///
    /// # Errors
    /// [`SubmitError`]: nothing was appended.
    pub fn pad(&self) -> Result<Position, SubmitError> {
        let tail = self.log.tail().tail;
        let mut batch = Batch::new();
        for _ in 0..WINDOW_GRID - tail.0 % WINDOW_GRID {
            batch.push_with(entry::encode_padding);
        }
        let end = self.log.append(&batch)?.wait()?.end;
        Ok(Position(end.0 / WINDOW_GRID * WINDOW_GRID - 1))
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

    /// Whether it takes no more submissions, since something failed; [`close`](Self::close) tells what.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.shared.in_flight.stopped().is_some()
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
    /// be in the log. Also what dropping does.
    ///
    /// # Errors
    /// Why the engine had stopped before, if it had.
    pub fn close(self) -> Result<(), OpenError> {
        self.shut_down()
    }

    fn shut_down(&self) -> Result<(), OpenError> {
        self.stop.store(true, Ordering::Relaxed);
        self.shared.due.stop();
        let keeping = self.keeping.lock().expect("no panic in a short section").take();
        let kept = keeping.map(JoinHandle::join);
        let thread = self.thread.lock().expect("no panic in a short section").take();
        match thread.map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => match kept {
                Some(Err(payload)) => {
                    Err(OpenError::Panicked(crate::execute::panic_message(&*payload).to_owned()))
                }
                _ => Ok(()),
            },
            Some(Ok(outcome)) => outcome,
            Some(Err(payload)) => {
                Err(OpenError::Panicked(crate::execute::panic_message(&*payload).to_owned()))
            }
        }
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

/// An engine that only follows a log, as far as it is told: to look at a state of the past, to compare digests,
/// to measure.
pub struct Replay {
    pipeline: Pipeline,
    progress: Option<Progress>,
    log: Arc<dyn SharedLog>,
    checkpoints: checkpoint::Config,
    on_load: Option<OnLoad>,
    /// `None` until the first step, which tells which checkpoints are early enough.
    recovery: Mutex<Option<Recovery>>,
}

impl Replay {
    /// Executes up to `position` and including it, and returns the digest there.
    ///
    /// # Errors
    /// [`OpenError`]; what came before the error is executed. Going back is an error: start another replay.
    pub fn to(&self, position: Position) -> Result<Digest, OpenError> {
        let done = self.pipeline.shared().snapshots.tail();
        if position.next() < done {
            return Err(OpenError::Configuration(format!(
                "the replay is at position {} already and does not go back to {position}",
                done.previous().unwrap_or_default()
            )));
        }
        let tail = self.log.tail().tail;
        if position >= tail {
            return Err(OpenError::BeyondTail { position, tail });
        }
        self.to_tail(position.next())
    }

    /// Executes all that is in the log now, and returns the digest there.
    ///
    /// # Errors
    /// [`OpenError`]; what came before the error is executed.
    pub fn to_end(&self) -> Result<Digest, OpenError> {
        self.to_tail(self.log.tail().tail)
    }

    fn to_tail(&self, tail: Position) -> Result<Digest, OpenError> {
        let mut recovery = self.recovery.lock().expect("a replay that panicked does not go on");
        if recovery.is_none() {
            *recovery = Some(checkpoint::recover(
                &self.pipeline,
                &*self.log,
                self.checkpoints.shelf(&*self.log).as_ref(),
                self.checkpoints.start,
                tail,
                self.on_load.as_ref(),
            )?);
        }
        let (start, first) = (Instant::now(), self.pipeline.shared().snapshots.tail());
        self.pipeline.run(&*self.log, &Until::Tail(tail), self.progress.as_ref())?;
        if let Some(recovery) = &mut *recovery {
            recovery.entries += self.pipeline.shared().snapshots.tail().since(first);
            recovery.replay += start.elapsed();
        }
        Ok(self.pipeline.shared().digest())
    }

    /// From which checkpoint it started, and how long all of it took; `None` before the first step.
    ///
    /// # Panics
    /// When a step panicked.
    #[must_use]
    pub fn recovery(&self) -> Option<Recovery> {
        self.recovery.lock().expect("a replay that panicked does not go on").clone()
    }

    /// A view of the state where the replay stands.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(Arc::clone(self.pipeline.shared()))
    }

    /// As [`Engine::snapshot_at`].
    ///
    /// # Errors
    /// As there.
    pub fn snapshot_at(&self, position: Position) -> Result<Snapshot, SnapshotError> {
        Snapshot::at(Arc::clone(self.pipeline.shared()), position)
    }

    /// As [`Engine::retained`].
    #[must_use]
    pub fn retained(&self) -> Vec<Position> {
        self.pipeline.shared().snapshots.retained()
    }

    /// As [`Engine::memory`].
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.pipeline.shared().memory()
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.pipeline.shared().stats.lock().expect("no panic in a short section").clone()
    }

    /// Which keys and tables made transactions wait: see [`Engine::explain`].
    #[must_use]
    pub fn explain(&self) -> Explanation {
        self.pipeline.shared().explain()
    }

    /// An entry of the log as JSON, for people: position, and what stands there.
    #[must_use]
    pub fn describe(&self, position: Position, entry: mixlog_log::Entry<'_>) -> serde_json::Value {
        describe(&self.pipeline.shared().procedures, position, entry)
    }
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("config", self.pipeline.config()).finish_non_exhaustive()
    }
}

/// The procedures, name and version, that the first entry of a log names (junk before it aside), or, if that was trimmed, the newest checkpoint
/// beside it that can be read; `None` for an empty log. Enough to know which program wrote it.
///
/// # Errors
/// [`OpenError::Entry`] when the log was not begun by an engine, [`OpenError::Read`] when it cannot be read, and those of
/// opening a log that was trimmed.
pub fn procedures_in(log: &dyn SharedLog) -> Result<Option<Vec<(String, u32)>>, OpenError> {
    let mut position = log.tail().head;
    if position > Position::ZERO {
        let shelf = checkpoint::Config::default().shelf(log);
        return checkpoint::catalog_of(log, shelf.as_ref()).map(|catalog| Some(catalog.procedures));
    }
    loop {
        let Some(block) = log.read(position)? else { return Ok(None) };
        // A writer that died before it wrote leaves junk, on a cluster also at the start.
        let data = block.iter().filter(|(at, _)| *at >= position).find_map(|(at, entry)| match entry {
            mixlog_log::Entry::Data(bytes) => Some((at, bytes)),
            mixlog_log::Entry::Junk => None,
        });
        let Some((at, bytes)) = data else {
            position = block.end();
            continue;
        };
        let bad = |detail: String| Err(OpenError::Entry { position: at, detail });
        return match entry::decode(bytes) {
            Ok(entry::Content::Catalog(catalog)) => Ok(Some(catalog.procedures)),
            Ok(_) => bad("it is no catalog, where one was expected".to_owned()),
            Err(detail) => bad(detail),
        };
    }
}

fn describe(procedures: &Procedures, position: Position, entry: mixlog_log::Entry<'_>) -> serde_json::Value {
    use serde_json::json;
    let position = position.0;
    let mixlog_log::Entry::Data(bytes) = entry else { return json!({"position": position, "kind": "junk"}) };
    match entry::decode(bytes) {
        Ok(entry::Content::Catalog(catalog)) => {
            json!({"position": position, "kind": "catalog", "catalog": catalog})
        }
        Ok(entry::Content::Vote(vote)) => json!({
            "position": position,
            "kind": "vote",
            "member": vote.member,
            "on": vote.position,
            "digest": vote.digest().to_string(),
        }),
        Ok(entry::Content::Padding) => json!({"position": position, "kind": "padding"}),
        Ok(entry::Content::Call(Call { procedure, origin, time_us, client, arguments })) => {
            let mut line = json!({
                "position": position,
                "kind": "call",
                "origin": format!("{:016x}", origin.engine),
                "sequence": origin.sequence,
                "time_us": time_us,
            });
            if let Some((client, number)) = client {
                line["client"] = json!(client);
                line["client_sequence"] = json!(number);
            }
            match procedures.index_of(procedure).map(|index| procedures.get(index)) {
                Some(registered) => {
                    line["procedure"] = json!(registered.name);
                    line["version"] = json!(registered.version);
                    match (registered.to_json)(arguments) {
                        Ok(arguments) => line["arguments"] = arguments,
                        Err(error) => line["error"] = json!(error.to_string()),
                    }
                }
                None => line["error"] = json!(format!("unknown procedure id {:08x}", procedure.0)),
            }
            line
        }
        Err(error) => json!({"position": position, "kind": "unknown", "error": error, "bytes": bytes.len()}),
    }
}
