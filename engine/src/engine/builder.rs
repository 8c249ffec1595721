//! What an engine consists of, whether that makes sense, and how it is opened.

use std::any::{Any, TypeId};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mixlog_log::{Batch, Position, SharedLog};

use super::replay::Replay;
use super::{Engine, random};
use crate::agreement::{AgreedState, Earlier, Membership, Watch};
use crate::ahead;
use crate::at_work;
use crate::checkpoint::{self, Conversion, Keeper, OnLoad, Recovery, Shelf, Source};
use crate::clients::{ANSWERS, Forget};
use crate::codec::Codec;
use crate::entry;
use crate::error::OpenError;
use crate::full_disk::FullDisk;
use crate::index::{Index, IndexKey, Maintain};
use crate::interactive::Intention;
use crate::observe;
use crate::pipeline::{self, Config, Mode, Pipeline, Progress, Shared, Until, WINDOW_GRID};
use crate::procedure::{Procedure, Procedures, Registered};
use crate::store::{AnyTable, GranuleOf, Indexes, MakeTable, Store, TableStore};
use crate::table::{Conflicts, Key, Settings, Table, TableId, Value};

/// More than fit into a window.
const LANES_MAX: usize = WINDOW_GRID as usize;

/// Twice what the first thread of a program has by default, on which `Engine::execute` may run procedures.
const STACK_BYTES: usize = 16 << 20;
const STACK_BYTES_MIN: usize = 64 << 10;
/// What a process has of address space is shared by many.
const STACK_BYTES_MAX: usize = 1 << 40;

/// Space for what is executed until the next checkpoint is kept: nobody has more.
const CHECKPOINT_BYTES_MAX: u64 = 1 << 50;

/// Names what an engine consists of, and opens it.
#[must_use]
pub struct Builder {
    tables: Vec<(&'static str, TypeId, Settings)>,
    /// Makes each table, as often as is asked for.
    makers: Vec<MakeTable>,
    indexes: Vec<(TableId, MakeIndex)>,
    /// Of each index: its name, and its table as it describes it.
    indexed: Vec<(&'static str, (&'static str, TypeId, Settings))>,
    procedures: Vec<Registered>,
    conversions: Vec<Arc<Conversion>>,
    threads: usize,
    window: u32,
    mode: Mode,
    paranoid: u32,
    unguarded: bool,
    lanes: usize,
    stack_bytes: usize,
    infer: bool,
    declared: bool,
    max_in_flight: usize,
    retain: u64,
    explain: u32,
    pub(super) progress: Option<Progress>,
    pub(crate) checkpoints: checkpoint::Config,
    pub(crate) on_load: Option<OnLoad>,
    max_memory: u64,
    full_disk: FullDisk,
    pub(crate) membership: Option<Membership>,
}

/// Makes a `Box<dyn Maintain<K, V>>`.
type MakeIndex = Box<dyn Fn() -> Box<dyn Any + Send> + Send + Sync>;

impl Default for Builder {
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Self {
            tables: Vec::new(),
            makers: Vec::new(),
            indexes: Vec::new(),
            indexed: Vec::new(),
            procedures: Vec::new(),
            conversions: Vec::new(),
            threads,
            window: 256,
            mode: Mode::Auto,
            paranoid: 0,
            unguarded: false,
            lanes: ahead::LANES,
            stack_bytes: STACK_BYTES,
            infer: true,
            declared: true,
            max_in_flight: 1 << 20,
            retain: 0,
            explain: 0,
            progress: None,
            checkpoints: checkpoint::Config::default(),
            on_load: None,
            max_memory: 0,
            full_disk: FullDisk::default(),
            membership: None,
        }
    }
}

impl Builder {
    /// Adds a table. What its description says here holds; other descriptions of the same name and types, in procedures for
    /// example, only name it. There may be 2,048, indexes and the engine's own among them.
    pub fn table<K: Key, V: Value, C: Codec<K> + Codec<V>>(mut self, table: &Table<K, V, C>) -> Self {
        let description = *table;
        self.add_table(table, move || description.conflicts().map(GranuleOf::Key));
        self
    }

    fn add_table<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        conflicts: impl Fn() -> Conflicts<GranuleOf<K>> + Send + Sync + 'static,
    ) {
        let description = *table;
        let make: MakeTable = Box::new(move |number, workers, indexes| -> Box<dyn AnyTable> {
            let own = indexes.extract_if(.., |(table, _)| *table == description.id());
            let own =
                own.map(|(_, index)| *index.downcast().expect("the types of an index's table were compared"));
            let own = own.collect();
            Box::new(TableStore::new(&description, conflicts(), number, workers, own))
        });
        self.tables.push((table.name(), TypeId::of::<Table<K, V, C>>(), table.settings()));
        self.makers.push(make);
    }

    /// Adds an index of a table, which has to be added, too, with the settings that the index describes it with. It needs
    /// no place in the log: it may be added to a program while its log exists, and left out, unless interactive transactions
    /// read ranges of it ([`Index::version`]).
    pub fn index<K: IndexKey, V: Value, I: IndexKey, C: Codec<K> + Codec<V>>(
        mut self,
        index: &Index<K, V, I, C>,
    ) -> Self {
        let description = *index;
        let make: MakeIndex = Box::new(move || {
            let maintain: Box<dyn Maintain<K, V>> = Box::new(description);
            Box::new(maintain)
        });
        self.indexes.push((index.table().id(), make));
        let table = index.table();
        self.indexed.push((index.name(), (table.name(), TypeId::of::<Table<K, V, C>>(), table.settings())));
        self.add_table(&index.places(), move || description.conflicts());
        self
    }

    /// Loads checkpoints with rows of an older [version](Table::version) of a table's row type: `convert` makes rows of
    /// the new one of them, one by one. `from` describes the table as it was, with the same name; `to` is one that was
    /// added. One is registered for each version that checkpoints may still have, and each leads to the newest.
    ///
    /// `convert` must be a pure function that gives different keys for different keys, and what the procedures of this
    /// program would have made of the log up to there: then the state is the same, and has the same digest, whether it
    /// was loaded or executed. Checkpoints taken from then on have the new rows.
    ///
    /// Rows in the log, which interactive transactions put there, are not converted: see [`Table::version`].
    ///
    /// ```
    /// # use mixlog_engine::{Engine, Table};
    /// const OLD: Table<u64, i64> = Table::new("accounts");
    /// const ACCOUNTS: Table<u64, (i64, String)> = Table::new("accounts").version(2);
    ///
    /// let builder = Engine::builder()
    ///     .table(&ACCOUNTS)
    ///     .convert(&OLD, &ACCOUNTS, |account, cents| (account, (cents, "EUR".to_owned())));
    /// ```
    ///
    /// Cost: rows of older versions are decoded twice and hashed twice while they are loaded; others pay nothing.
    pub fn convert<K0: Key, V0: Value, C0, K: Key, V: Value, C>(
        mut self,
        from: &Table<K0, V0, C0>,
        to: &Table<K, V, C>,
        convert: impl Fn(K0, V0) -> (K, V) + Send + Sync + 'static,
    ) -> Self
    where
        C0: Codec<K0> + Codec<V0>,
        C: Codec<K> + Codec<V>,
    {
        self.conversions.push(Arc::new(Conversion::new(from, to, convert)));
        self
    }

    /// Adds a procedure. There may be 65,535.
    pub fn procedure<P: Procedure>(mut self) -> Self {
        self.procedures.push(Registered::new::<P>());
        self
    }

    /// How many threads execute, 1 to 1024. Default: one per core. More than there are cores cost speed, nothing else.
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
    /// a lock across accesses, which would meet themselves on one thread. At most [`WINDOW_GRID`].
    ///
    /// Cost: a [stack](Self::stack_size) for each and each thread.
    pub const fn lanes(mut self, transactions: usize) -> Self {
        self.lanes = transactions;
        self
    }

    /// The stack of every thread of the engine, and of every [lane](Self::lanes): what procedures may use of it. Default: 16
    /// MiB, twice what a program's first thread has. A procedure that needs more ends the process, as ever, and so does
    /// whoever opens its log: [`Engine::execute`] may run it on a caller's thread that has more, and where the log is executed
    /// again it has this. From 64 KiB to 1 TiB.
    ///
    /// Units: bytes of address space, of which what is used takes memory.
    pub const fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_bytes = bytes;
        self
    }

    /// Whether footprints are inferred from the arguments of procedures that declare nothing, once it was seen from
    /// transactions that ran ahead how they follow from these. Default: yes. Without, all such transactions run ahead.
    ///
    /// Cost: the keys that follow from the arguments, instead of a second run; a search of about a millisecond now and then.
    pub const fn infer(mut self, infer: bool) -> Self {
        self.infer = infer;
        self
    }

    /// Whether procedures are asked for their footprints. Default: yes. Without, each is taken for one that declares
    /// nothing: to see what its declarations are worth, and whether the engine does as well by itself.
    ///
    /// Cost: that of [`Footprint::reconnoitre`](crate::Footprint::reconnoitre), for every transaction that is not
    /// [interactive](Engine::begin).
    pub const fn declared(mut self, declared: bool) -> Self {
        self.declared = declared;
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
    /// the schedule does for those that are declared. They neither merge nor add with a floor: only the guard knows which
    /// of those are made beside others. None runs ahead, and no footprint looks at rows: both look in place at what is
    /// not declared to be written.
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
    /// Default: 0, none. More costs the memory of an open snapshot of that age (see [`Snapshot`](crate::Snapshot)), and
    /// 8 bytes per window.
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

    /// How much memory the process may use before [`Engine::submit`] answers with
    /// [`SubmitError::OutOfMemory`](crate::SubmitError::OutOfMemory); reads, and what is in flight, go on. Default: 0, no
    /// limit. Leave room for a burst: what is in flight is executed, and what the process uses is looked at every 10 ms or
    /// so.
    ///
    /// Units: bytes of resident memory, all that the process does included.
    pub const fn max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = bytes;
        self
    }

    /// How long a submission waits for space when the disk is full, instead of being refused with
    /// [`AppendError::Full`](mixlog_log::AppendError::Full) at once: a checkpoint that trims the log is under way, or somebody
    /// gives space back. A checkpoint that is being taken is waited for however long it takes. Default: zero.
    ///
    /// Not for procedures and wakers of this engine, which the checkpoint waits for; nor for logs that refuse late
    /// ([`SharedLog::refuses_late`]), whose tickets tell.
    pub const fn wait_for_space(mut self, patience: Duration) -> Self {
        self.full_disk.patience = patience;
        self
    }

    /// Calls `on_full` with what the operating system says when submissions begin to wait for space.
    pub fn on_full(mut self, on_full: impl Fn(&io::Error) + Send + Sync + 'static) -> Self {
        self.full_disk.on_full = Some(Box::new(on_full));
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

    /// With the tables and procedures of the engine itself. To be called once, before pipelines are built.
    pub(crate) fn completed(mut self) -> Self {
        for procedure in &mut self.procedures {
            procedure.declares = self.declared;
        }
        self.table(&ANSWERS).procedure::<Intention>().procedure::<Forget>()
    }

    /// A pipeline that has executed nothing. Windows that end before `one_by_one_before` will be executed one by one.
    pub(crate) fn build(&self, one_by_one_before: Position) -> Result<Pipeline, OpenError> {
        self.check()?;
        let procedures = Procedures::new(self.procedures.clone()).map_err(|(a, b)| {
            OpenError::Configuration(if a == b {
                format!("procedure {a:?} is registered twice")
            } else {
                format!("the names of procedures {a:?} and {b:?} collide: rename one")
            })
        })?;
        let indexes: Indexes = self.indexes.iter().map(|(table, make)| (*table, make())).collect();
        let (store, workers) = Store::new(&self.makers, indexes, self.threads);
        self.check_conversions(&store)?;
        let mut shared = Shared::new(
            store,
            procedures,
            random(),
            self.max_in_flight,
            self.retain,
            self.explain,
            self.membership.is_some(),
        );
        shared.conversions.clone_from(&self.conversions);
        // A guess that nobody compares with what is touched would be a promise.
        if !self.infer || self.unguarded {
            shared.inference.disable();
        }
        let config = Config {
            threads: self.threads,
            window: self.window,
            mode: self.mode,
            paranoid: self.paranoid,
            unguarded: self.unguarded,
            lanes: self.lanes,
            stack_bytes: self.stack_bytes,
            one_by_one_before,
        };
        let pipeline = Pipeline::new(Arc::new(shared), workers, config).map_err(|error| {
            OpenError::Configuration(format!("cannot start {} threads: {error}", self.threads))
        })?;
        pipeline.shared().memory_limit.set(self.max_memory);
        Ok(pipeline)
    }

    /// Refuses what makes no sense.
    fn check(&self) -> Result<(), OpenError> {
        let refuse = |message: String| Err(OpenError::Configuration(message));
        if self.checkpoints.keep == 0 {
            return refuse("at least 1 checkpoint must be kept".to_owned());
        }
        if self.checkpoints.every == Some(Duration::ZERO) {
            return refuse(
                "checkpoints cannot be taken all the time: name more than no time between them".to_owned(),
            );
        }
        if let Some(bytes) = self.checkpoints.every_bytes.filter(|&bytes| bytes > CHECKPOINT_BYTES_MAX) {
            return refuse(format!(
                "a checkpoint is taken for every {CHECKPOINT_BYTES_MAX} bytes of log at most, or for none (None), and not \
                 for every {bytes}"
            ));
        }
        if self.threads == 0 || self.threads > 1024 {
            return refuse(format!("an engine runs on 1 to 1024 threads, not {}", self.threads));
        }
        if self.lanes == 0 || self.lanes > LANES_MAX {
            return refuse(format!(
                "from 1 transaction to {LANES_MAX} must be run ahead at a time, and not {}",
                self.lanes
            ));
        }
        if !(STACK_BYTES_MIN..=STACK_BYTES_MAX).contains(&self.stack_bytes) {
            return refuse(format!(
                "a stack has from {STACK_BYTES_MIN} to {STACK_BYTES_MAX} bytes, and not {}",
                self.stack_bytes
            ));
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
        for (i, (name, _, settings)) in self.tables.iter().enumerate() {
            if let Some((.., other)) = self.tables[..i].iter().find(|(other, ..)| other == name) {
                return refuse(if other == settings {
                    format!("table {name:?} is registered twice")
                } else {
                    format!("table {name:?} is registered twice: {other}; and {settings}")
                });
            }
            if let Some((other, ..)) =
                self.tables[..i].iter().find(|(o, ..)| TableId::of(o) == TableId::of(name))
            {
                return refuse(format!("the names of tables {name:?} and {other:?} collide: rename one"));
            }
        }
        for &(index, (table, types, settings)) in &self.indexed {
            match self.tables.iter().find(|(name, ..)| *name == table) {
                // What holds is what was registered: whoever wrote the other one believes in something else.
                Some((_, found, registered)) if *found == types && *registered != settings => {
                    return refuse(format!(
                        "index {index:?} is of table {table:?} as {settings}, which is registered as {registered}"
                    ));
                }
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
        Ok(())
    }

    fn check_conversions(&self, store: &Store) -> Result<(), OpenError> {
        let refuse = |message: String| Err(OpenError::Configuration(message));
        for (i, conversion) in self.conversions.iter().enumerate() {
            let Conversion { names: [from, to], from: old, to: new, .. } = &**conversion;
            let registered = store.number_of(to).map(|number| store.any(number).row_format());
            if from != to {
                return refuse(format!(
                    "rows of table {from:?} cannot be converted into those of table {to:?}"
                ));
            }
            if registered.as_ref() != Some(new) {
                return refuse(format!(
                    "table {to:?} is not registered as {new}, to which rows are converted"
                ));
            }
            if old == new {
                return refuse(format!("rows of table {to:?} are converted from {old} to the same"));
            }
            let known = &self.conversions[..i];
            if known.iter().any(|known| known.names[0] == *from && known.from == *old) {
                return refuse(format!("rows of table {to:?} are converted twice from {old}"));
            }
        }
        Ok(())
    }

    /// Opens an engine on the log: loads the newest checkpoint that is whole, executes all that is in the log after it,
    /// and then all that is appended, by this engine or by others. [`Engine::recovery`] tells how that went.
    ///
    /// # Errors
    /// [`OpenError`]; the log is unchanged, but for the names of tables and procedures, which may be in it.
    pub fn open(self, log: Arc<dyn SharedLog>) -> Result<Engine, OpenError> {
        let builder = self.completed();
        let shelf = builder.checkpoints.shelf(&*log);
        observe::describe();
        let begun = Instant::now();
        let (pipeline, mut recovery, agreed) =
            checkpoint::start(shelf.as_ref(), || builder.caught_up(&*log, shelf.as_ref()))?;
        let Self { progress, checkpoints, full_disk, membership, .. } = builder;
        let shared = Arc::clone(pipeline.shared());
        let own = append_catalog(&shared, &*log)?;
        // So that the state after opening does not depend on how soon the catalog is read.
        execute_to_tail(&pipeline, &*log, progress.as_ref(), &mut recovery)?;
        recovery.entries -= own;
        observe::opened(shared.snapshots.tail(), begun.elapsed());
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
                membership.zip(agreed),
                &recovery,
            );
            let made = made.map_err(|error| OpenError::Checkpoints { path, source: Arc::new(error) })?;
            keeper = Some(Arc::new(made));
        }
        let engine = Engine {
            shared,
            pipeline,
            refuses_late: log.refuses_late(),
            log,
            stop,
            threads: Mutex::default(),
            sequence: AtomicU64::new(0),
            keeper,
            recovery,
            full_disk,
        };
        let mut threads = engine.threads.lock().expect("nobody had it");
        if let Some(keeper) = engine.keeper.clone()
            && (checkpoints.every_bytes.is_some() || checkpoints.every.is_some())
        {
            let origin = engine.shared.origin;
            let keep = move || {
                // The engine waits for it when it is shut down.
                at_work::start(origin);
                keeper.run();
            };
            let thread =
                pipeline::spawn("mixlog-checkpoint", builder.stack_bytes, keep).map_err(no_thread)?;
            threads.keeps = Some(thread);
        }
        let thread = Pipeline::follow(&engine.pipeline, &engine.log, &engine.stop).map_err(no_thread)?;
        threads.executes = Some(thread);
        drop(threads);
        Ok(engine)
    }

    /// A pipeline that has executed all that is in the log, and how it came there; the state that members agreed on, if
    /// there are any.
    fn caught_up(
        &self,
        log: &dyn SharedLog,
        shelf: Option<&Shelf>,
    ) -> Result<(Pipeline, Recovery, Option<Arc<AgreedState>>), OpenError> {
        let pipeline = self.build(Position::ZERO)?;
        let tail = log.tail()?.tail;
        let membership = self.membership.as_ref();
        let from = Source { log, shelf, start: self.checkpoints.start, membership };
        let mut recovery = checkpoint::recover(&pipeline, &from, Position::MAX, self.on_load.as_ref())?;
        let mut agreed = None;
        if let Some(membership) = membership {
            let state = agreed.insert(Arc::default());
            let store = &pipeline.shared().store;
            pipeline.watch(Watch::new(membership.clone(), store, Earlier::none(tail), Arc::clone(state)));
        }
        execute_to_tail(&pipeline, log, self.progress.as_ref(), &mut recovery)?;
        Ok((pipeline, recovery, agreed))
    }

    /// Executes a log without taking part in it: nothing is appended, no checkpoint is taken, and the caller says how far
    /// to go. It starts from a checkpoint, if there is one before that position (see [`checkpoint::Config::start`]).
    ///
    /// # Errors
    /// [`OpenError`]: the configuration makes no sense.
    pub fn replay(self, log: Arc<dyn SharedLog>) -> Result<Replay, OpenError> {
        let mut builder = self.completed();
        builder.membership = None;
        let pipeline = Mutex::new(Arc::new(builder.build(Position::ZERO)?));
        Ok(Replay { builder, pipeline, log, recovery: Mutex::default() })
    }
}

/// Executes what is in the log by now; the recovery tells what it was.
fn execute_to_tail(
    pipeline: &Pipeline,
    log: &dyn SharedLog,
    progress: Option<&Progress>,
    recovery: &mut Recovery,
) -> Result<(), OpenError> {
    let (start, first) = (Instant::now(), pipeline.shared().snapshots.tail());
    pipeline.run(log, &Until::Tail(log.tail()?.tail), progress)?;
    recovery.entries += pipeline.shared().snapshots.tail().since(first);
    recovery.replay += start.elapsed();
    Ok(())
}

/// Tells the log which procedures and tables stand behind the hashes, unless it knows; returns how many entries that took.
fn append_catalog(shared: &Shared, log: &dyn SharedLog) -> Result<u64, OpenError> {
    let own = shared.own_catalog();
    let known = shared.catalog.lock().expect("no panic in a short section").clone();
    let complete = known.is_some_and(|known| {
        own.procedures.iter().all(|p| known.procedures.contains(p))
            && own.tables.iter().all(|t| known.tables.contains(t))
    });
    // A sealed log can still be opened, and read.
    if complete || log.tail()?.sealed {
        return Ok(0);
    }
    let mut batch = Batch::new();
    batch.push_with(|out| entry::encode_catalog(out, &own));
    log.append(&batch)?.wait()?;
    Ok(1)
}
