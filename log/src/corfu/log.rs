//! The cluster as a [`SharedLog`]: the client's operations, driven by the calling threads, and one thread that
//! appends.
//!
//! ```text
//! append --> queue (groups) --> appender: Appends --> receipts, progress
//! read, tail, wait_past --> progress: known to be committed? --> cache, or Read
//!                                     \--> no: Tail, Settle
//! ```
//!
//! What CORFU promises is less than [`SharedLog`] does: an acknowledged entry may have holes before it. So
//! nothing is shown past a hole: before a tail is told, everything before it is settled, which means that a
//! writer who died there costs a pause, once. Junk stays visible as such.
//!
//! Batches keep their order: they gather in groups, of which several are under way (`appender.rs`, `appends.rs`).

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::file::{FsStorage, Storage};
use crate::{
    Acknowledge, AppendError, Batch, Block, Durability, FlushError, LogId, Position, ReadError, SealError,
    SharedLog, Tail, TailError, Ticket, TrimError,
};

use super::administer;
use super::appender;
use super::behind::StoreBehind;
use super::flush::Flush;
use super::janitor::Sweep;
use super::message::Run;
use super::net::RUN_AT_MOST;
use super::operation::Operation;
use super::plan::Change;
use super::progress::Progress;
use super::projection::Projection;
use super::queue::{NotBegun, Phase, Queue};
use super::read::{Read, ReadOutcome};
use super::recent::Recent;
use super::reconfigure::{Reconfigure, Reconfigured};
use super::rules::Rules;
use super::settle::Settle;
use super::tail::{self, TailMode};
use super::transport::{self, Driver, TIME_MIN, Timing, Transport};
use super::trim::Trim;

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// How many bytes of entries are asked for at a time.
const READ_BYTES: u32 = 1 << 20;

/// Small runs are joined to blocks of as many entries, or bytes, at most.
const BLOCK_ENTRIES: usize = 4096;
const BLOCK_BYTES: usize = 1 << 20;

/// Who waits for entries of others asks for them so often; more seldom while nothing comes.
const POLL: Duration = Duration::from_millis(1);
const POLL_AT_MOST: Duration = Duration::from_millis(16);

/// An empty entry.
const BATCH_BYTES_MIN: usize = 4;

/// Longer than anybody waits; a patience past it may not be represented as a time.
pub(super) const FOR_EVER: Duration = Duration::from_secs(1 << 32);

/// How a log on a cluster is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What the cluster's units promise, for [`SharedLog::durability`].
    pub durability: Durability,
    /// How long is waited for what.
    pub timing: Timing,
    /// How long an operation may take before it fails; default 30 s, more than 0. More: longer outages are survived
    /// without an error. Less: errors come sooner.
    pub patience: Duration,
    /// How many bytes may wait to be appended before [`append`](SharedLog::append) blocks; default 8 MiB.
    pub queue_bytes: usize,
    /// The largest batch, in bytes, its entries' bytes and 4 for each; default 4 MiB, at least 4, at most
    /// 32 MiB. Units must take as much.
    pub max_batch_bytes: usize,
    /// How many bytes of blocks that were read lately, or appended, are kept for other readers; default 4
    /// MiB.
    pub cache_bytes: usize,
    /// How often the janitor looks for holes; default every second, `None` for never. At least 1 ms.
    pub janitor: Option<Duration>,
    /// A directory for what belongs to the log, checkpoints for example: a cluster has no place of its own. Default:
    /// none.
    pub beside: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            durability: Durability::Memory,
            timing: Timing::default(),
            patience: Duration::from_secs(30),
            queue_bytes: 8 << 20,
            max_batch_bytes: 4 << 20,
            cache_bytes: 4 << 20,
            janitor: Some(Duration::from_secs(1)),
            beside: None,
        }
    }
}

impl Config {
    /// The error says what makes no sense.
    pub(super) fn check(&self) -> Result<(), String> {
        self.timing.check()?;
        if self.max_batch_bytes < BATCH_BYTES_MIN {
            return Err(format!(
                "max_batch_bytes is at least {BATCH_BYTES_MIN}, and not {}: nothing could be appended",
                self.max_batch_bytes
            ));
        }
        if self.max_batch_bytes > RUN_AT_MOST {
            return Err(format!(
                "max_batch_bytes is at most {RUN_AT_MOST}, and not {}: no unit takes more at once",
                self.max_batch_bytes
            ));
        }
        if self.patience.is_zero() {
            return Err("patience is more than 0: every call would fail".to_owned());
        }
        if self.janitor.is_some_and(|every| every < TIME_MIN) {
            return Err(format!(
                "janitor is at least {TIME_MIN:?} or None, and not {:?}: it would look for holes all the time",
                self.janitor.unwrap_or_default()
            ));
        }
        Ok(())
    }
}

/// Why there is no log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The configuration makes no sense; the message says which field, and what would do.
    #[error("{0}")]
    Configuration(String),
    /// The projection store did not answer in time.
    #[error("the projection store could not be reached in time")]
    Unavailable,
    /// It holds no projection: the cluster was not set up.
    #[error("the cluster has no projection yet")]
    NotSetUp,
    /// The store answers, but not enough of the units and sequencers do to tell how far the log reaches.
    #[error("the cluster's units and sequencer could not be reached in time")]
    Silent,
    /// The store holds an older copy of what it had.
    #[error(transparent)]
    StoreBehind(#[from] StoreBehind),
}

/// A log on a cluster of storage units.
///
/// Many of them, in many processes, may append to and read from one cluster. Each call ends within the cluster's
/// [`patience`](Config::patience), one that waits for what others append within that of an outage. Dropping it appends
/// what is queued, as far as the cluster answers.
///
/// ```
/// use std::sync::Arc;
/// use mixlog_log::{Batch, Entry, Position, SharedLog, corfu};
///
/// let cluster = corfu::LocalCluster::open(corfu::LocalConfig::default())?;
/// let log = corfu::CorfuLog::connect(cluster, corfu::Config::default())?;
/// let mut batch = Batch::new();
/// batch.push(b"an entry");
/// log.append(&batch)?.wait()?;   // two units have it
///
/// let block = log.read(Position(0))?.expect("acknowledged");
/// assert_eq!(block.get(Position(0)), Some(Entry::Data(b"an entry")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CorfuLog {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

pub(super) struct Shared {
    id: LogId,
    pub(super) config: Config,
    pub(super) driver: Driver,
    pub(super) queue: Queue,
    pub(super) progress: Progress,
    cache: Recent,
    /// Since when every operation ended without an outcome, if the last one did.
    silent: Mutex<Option<Instant>>,
    /// When others than the sequencer were asked last, by who waits.
    sure: Mutex<Instant>,
    closed: Mutex<bool>,
    closing: Condvar,
}

/// The cluster has not answered in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Silent;

/// What became of positions that were to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settlement {
    Written,
    /// Appends of this client are under way still.
    UnderWay,
    /// Some of it is lost.
    Lost,
    /// Some of it belongs to a later epoch, whose tail is to be asked for.
    Overtaken,
}

impl CorfuLog {
    /// The log of the cluster behind `transport`.
    ///
    /// Cost: one question to the projection store, and one for the tail, so that a cluster that is not there is an
    /// error here instead of silence later; one thread, and one for the janitor.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(transport: Arc<dyn Transport>, config: Config) -> Result<Self, ConnectError> {
        config.check().map_err(ConnectError::Configuration)?;
        let latest = transport::latest(&*transport, &config.timing, config.patience);
        let projection = latest.ok_or(ConnectError::Unavailable)?.ok_or(ConnectError::NotSetUp)?;
        let phase = if projection.sealed() { Phase::Sealed(projection.tail) } else { Phase::Open };
        let shared = Arc::new(Shared {
            id: projection.log,
            queue: Queue::new(config.queue_bytes, config.max_batch_bytes, phase),
            progress: Progress::new(projection.first()),
            cache: Recent::new(config.cache_bytes),
            driver: Driver::new(Arc::clone(&transport), config.timing.clone(), projection),
            silent: Mutex::default(),
            sure: Mutex::new(Instant::now()),
            closed: Mutex::new(false),
            closing: Condvar::new(),
            config,
        });
        let deadline = shared.deadline();
        if shared.ask_tail(TailMode::Linearizable, deadline).is_err() {
            let answer = shared.config.timing.answer;
            let behind = administer::store_behind(&*transport, &shared.config.timing, answer);
            return Err(behind.map_or(ConnectError::Silent, ConnectError::StoreBehind));
        }
        let start = |name: &str, run: fn(&Shared)| {
            let shared = Arc::clone(&shared);
            let builder = thread::Builder::new().name(name.to_owned());
            builder.spawn(move || run(&shared)).expect("the operating system starts a thread")
        };
        let mut threads = vec![start("mixlog-append", appender::run)];
        if shared.config.janitor.is_some() {
            threads.push(start("mixlog-janitor", Shared::sweep));
        }
        Ok(Self { shared, threads })
    }

    /// The latest projection that this client has seen.
    #[must_use]
    pub fn projection(&self) -> Arc<Projection> {
        self.shared.driver.projection()
    }

    /// What drives this client's operations, for those who have others.
    #[must_use]
    pub fn driver(&self) -> &Driver {
        &self.shared.driver
    }
}

impl Drop for CorfuLog {
    fn drop(&mut self) {
        self.shared.queue.set_phase(Phase::Closed);
        *self.shared.closed.lock().expect(UNPOISONED) = true;
        self.shared.closing.notify_all();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            // A panic there was reported when it happened; one more while unwinding would abort.
            assert!(ended.is_ok() || thread::panicking(), "a thread of the log panicked");
        }
    }
}

/// The time until `deadline`; the beginning of time is over.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

impl Shared {
    pub(super) fn sealed(&self, tail: Position) {
        self.queue.set_phase(Phase::Sealed(tail));
        self.progress.wake();
    }

    // ---- asking the cluster ------------------------------------------------------------------------------

    /// When an operation that begins now has taken too long.
    fn deadline(&self) -> Instant {
        Instant::now() + self.config.patience.min(FOR_EVER)
    }

    /// Runs an operation until `deadline`.
    fn ask<O: Operation>(&self, operation: &mut O, deadline: Instant) -> Result<O::Outcome, Silent> {
        let begun = Instant::now();
        let outcome = self.driver.run(operation, Some(left(deadline)));
        let mut silent = self.silent.lock().expect(UNPOISONED);
        match outcome {
            Some(outcome) => {
                *silent = None;
                Ok(outcome)
            }
            None => {
                silent.get_or_insert(begun);
                Err(Silent)
            }
        }
    }

    /// Whether nobody was answered for longer than anybody should wait.
    fn is_silent(&self) -> bool {
        let silent = *self.silent.lock().expect(UNPOISONED);
        silent.is_some_and(|since| since.elapsed() >= self.config.patience)
    }

    // ---- how far the log reaches -------------------------------------------------------------------------

    /// Asks the cluster how far the log reaches.
    fn ask_tail(&self, mode: TailMode, deadline: Instant) -> Result<tail::TailOutcome, Silent> {
        let found = self.ask(&mut tail::Tail::new(self.driver.projection(), mode), deadline)?;
        self.progress.trimmed(found.trimmed);
        self.progress.committed(Position::ZERO, found.committed);
        if found.sealed {
            self.sealed(found.tail);
        }
        Ok(found)
    }

    /// Whether it is time to ask others than the sequencer how far the log reaches: one that was left behind tells too
    /// little, and nobody else may tell it.
    fn doubts(&self) -> bool {
        let mut sure = self.sure.lock().expect(UNPOISONED);
        let doubts = sure.elapsed() >= self.config.timing.doubt;
        if doubts {
            *sure = Instant::now();
        }
        doubts
    }

    /// Makes sure that everything before the tail that was found is written. Waits for appends of this client until `own`
    /// only: they are not slow writers to be filled, since they end by themselves.
    fn settle(
        &self,
        found: &tail::TailOutcome,
        own: Instant,
        deadline: Instant,
    ) -> Result<Settlement, Silent> {
        let upto = found.tail;
        if !self.progress.wait_own(upto, own) {
            return Ok(Settlement::UnderWay);
        }
        let from = self.progress.known().mark;
        if from >= upto {
            return Ok(Settlement::Written);
        }
        let mut settle = Settle::new(self.driver.projection(), from, upto, found.epoch);
        let settled = self.ask(&mut settle, deadline);
        // Whoever tries again begins there.
        self.progress.committed(from, settle.done());
        let settled = settled?;
        Ok(match settled.corrupt {
            true => Settlement::Lost,
            false if settled.upto < upto => Settlement::Overtaken,
            false => Settlement::Written,
        })
    }

    /// Asks how far the log reaches, and makes sure that everything up to there is written or lost.
    fn settled_tail(&self, deadline: Instant) -> Result<tail::TailOutcome, Silent> {
        loop {
            let found = self.ask_tail(TailMode::Linearizable, deadline)?;
            match self.settle(&found, deadline, deadline)? {
                Settlement::Written | Settlement::Lost => return Ok(found),
                Settlement::UnderWay => return Err(Silent),
                Settlement::Overtaken => {}
            }
        }
    }

    fn reach(&self) -> Tail {
        let sealed = matches!(self.queue.phase(), Phase::Sealed(_));
        let known = self.progress.known();
        Tail { head: known.head, tail: known.mark, sealed }
    }

    fn tail(&self) -> Result<Tail, Silent> {
        let found = self.settled_tail(self.deadline())?;
        let reach = self.reach();
        // Past a position that is lost, the tail is what the cluster says.
        Ok(Tail { tail: reach.tail.max(found.tail), ..reach })
    }

    // ---- reading -----------------------------------------------------------------------------------------

    fn read(&self, position: Position) -> Result<Option<Arc<Block>>, ReadError> {
        let deadline = self.deadline();
        let unavailable = |Silent| ReadError::Unavailable;
        let mut pause = POLL;
        loop {
            if position >= self.progress.known().mark
                && position >= self.settled_tail(deadline).map_err(unavailable)?.tail
            {
                return Ok(None);
            }
            let (head, mark) = {
                let known = self.progress.known();
                (known.head, known.mark)
            };
            if position < head {
                return Err(ReadError::Trimmed { position, head });
            }
            if let Some(block) = self.cache.get(position) {
                return Ok(Some(block));
            }
            // Past the mark there is something that cannot be settled: reading it tells why.
            let upto = if position < mark { mark } else { position.next() };
            let mut read = Read::new(self.driver.projection(), position, upto, READ_BYTES, mark);
            match self.ask(&mut read, deadline).map_err(unavailable)? {
                ReadOutcome::Runs(runs) => {
                    let blocks = joined(runs);
                    let found = blocks.iter().find(|block| block.get(position).is_some()).cloned();
                    self.cache.keep(blocks);
                    return Ok(Some(found.expect("the first run holds the position asked for")));
                }
                ReadOutcome::Trimmed(head) => {
                    self.progress.trimmed(head);
                    return Err(ReadError::Trimmed { position, head });
                }
                ReadOutcome::Corrupt(position) => {
                    let detail = "every unit that had it has lost it".to_owned();
                    return Err(ReadError::Corrupt { position, detail });
                }
                ReadOutcome::Unwritten if position < mark => {
                    let detail = "a unit has nothing where all must have something".to_owned();
                    return Err(ReadError::Corrupt { position, detail });
                }
                // Nothing is lost there, but the head of the chain may have lost it, so that it is written, or filled, only
                // when that is replaced.
                ReadOutcome::Unwritten => {
                    if left(deadline).is_zero() {
                        return Err(ReadError::Unavailable);
                    }
                    self.progress.wait_change(position, deadline.min(Instant::now() + pause));
                    pause = (pause * 2).min(POLL_AT_MOST);
                }
            }
        }
    }

    fn wait_past(&self, position: Position, timeout: Option<Duration>) -> Result<Tail, ReadError> {
        // A timeout too far away to be represented is as good as none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut poll = POLL;
        loop {
            let reach = self.reach();
            if reach.tail > position {
                return Ok(reach);
            }
            let patience = self.deadline();
            let until =
                deadline.map_or(patience, |deadline| patience.min(deadline.max(Instant::now() + POLL)));
            // Somebody else may have appended, or have left a hole before what we did.
            let found = match self.doubts() {
                false => self.ask_tail(TailMode::Fast, until),
                true => {
                    // It takes more to answer that than the sequencer.
                    let until = until.min(Instant::now() + self.config.timing.doubt.max(POLL));
                    self.ask_tail(TailMode::Linearizable, until)
                }
            };
            match found {
                Ok(found) if found.tail > position || found.sealed => {
                    // A hole on the way is worth more than the time that is left: otherwise nobody fills it.
                    let own = deadline.unwrap_or(patience);
                    let settlement = self.settle(&found, own, patience);
                    let settlement = settlement.map_err(|Silent| ReadError::Unavailable)?;
                    // Past a position that is lost, the tail is what the cluster says: reading it tells why.
                    let ended = matches!(settlement, Settlement::Written | Settlement::Lost);
                    if ended || found.sealed {
                        let reach = self.reach();
                        let lost = settlement == Settlement::Lost;
                        let tail = if lost { reach.tail.max(found.tail) } else { reach.tail };
                        return Ok(Tail { tail, ..reach });
                    }
                }
                Ok(_) => {}
                Err(Silent) if self.is_silent() => return Err(ReadError::Unavailable),
                Err(Silent) => {}
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(self.reach());
            }
            let next = now + poll;
            self.progress.wait_change(position, deadline.map_or(next, |deadline| deadline.min(next)));
            poll = (poll * 2).min(POLL_AT_MOST);
        }
    }

    // ---- trimming, flushing and sealing ------------------------------------------------------------------

    fn trim(&self, before: Position) -> Result<(), TrimError> {
        let deadline = self.deadline();
        let unavailable = |Silent| TrimError::Unavailable;
        let mut upto = self.progress.known().mark;
        if before > upto {
            upto = self.settled_tail(deadline).map_err(unavailable)?.tail;
        }
        let before = before.min(upto);
        if before <= self.progress.known().head {
            return Ok(());
        }
        let mut trim = Trim::new(self.driver.projection(), before);
        self.ask(&mut trim, deadline).map_err(unavailable)?;
        self.progress.trimmed(before);
        self.cache.trim(before);
        Ok(())
    }

    fn flush(&self) -> Result<Position, FlushError> {
        let deadline = self.deadline();
        let unavailable = |Silent| FlushError::Unavailable;
        let found = self.settled_tail(deadline).map_err(unavailable)?;
        let upto = found.tail.max(self.progress.known().mark);
        // What is acknowledged by units that flush is durable already.
        if self.config.durability != Durability::Flushed {
            self.ask(&mut Flush::new(self.driver.projection()), deadline).map_err(unavailable)?;
        }
        Ok(upto)
    }

    fn seal(&self) -> Result<Position, SealError> {
        let deadline = self.deadline();
        match self.queue.begin_seal(deadline) {
            Ok(()) => {}
            Err(NotBegun::Sealed(tail)) => return Ok(tail),
            Err(NotBegun::Late) => return Err(SealError::Unavailable),
            Err(NotBegun::Closed) => {
                unreachable!("a log is closed by its owner, who does not seal it meanwhile")
            }
        }
        let mut projection = self.driver.projection();
        while !projection.sealed() {
            let mut reconfigure = Reconfigure::new(Arc::clone(&projection), Change::seal(), Rules::SOUND);
            match self.ask(&mut reconfigure, deadline) {
                Ok(Reconfigured::Installed(latest) | Reconfigured::Overtaken(latest)) => {
                    self.driver.learn(&latest);
                    projection = latest;
                }
                Ok(_) | Err(Silent) => {
                    // Unless it was seen meanwhile that somebody else has sealed it.
                    self.queue.give_up_seal();
                    return Err(SealError::Unavailable);
                }
            }
        }
        self.sealed(projection.tail);
        // It is sealed, whether its holes are filled by now or by who reads them.
        let _ = self.settled_tail(deadline);
        Ok(projection.tail)
    }

    // ---- the janitor -------------------------------------------------------------------------------------

    fn sweep(&self) {
        let interval = self.config.janitor.expect("it was started for that");
        let mut swept = Position::ZERO;
        let mut closed = self.closed.lock().expect(UNPOISONED);
        loop {
            // Not to be missed if it came before the wait: who closes the log waits for this thread.
            let waited = self.closing.wait_timeout_while(closed, interval, |closed| !*closed);
            let (guard, _) = waited.expect(UNPOISONED);
            if *guard {
                return;
            }
            drop(guard);
            let from = self.progress.known().mark;
            let asked = || self.ask_tail(TailMode::Fast, Instant::now() + interval.min(FOR_EVER));
            if from > swept || asked().is_ok_and(|found| found.tail > swept) {
                let mut sweep = Sweep::new(self.driver.projection(), from);
                let settled = self.ask(&mut sweep, Instant::now() + self.config.timing.answer);
                self.progress.committed(from, sweep.done());
                if let Ok(settled) = settled {
                    swept = settled.upto;
                }
            }
            closed = self.closed.lock().expect(UNPOISONED);
        }
    }
}

/// Runs as blocks: small ones that follow each other are joined, so that who streams is not given one entry
/// at a time.
fn joined(runs: Vec<Run>) -> Vec<Arc<Block>> {
    let mut blocks: Vec<Arc<Block>> = Vec::with_capacity(runs.len());
    let mut open: Option<(Position, Batch)> = None;
    let close = |open: &mut Option<(Position, Batch)>, blocks: &mut Vec<Arc<Block>>| {
        if let Some((first, batch)) = open.take() {
            blocks.push(Arc::new(Block::of(first, batch)));
        }
    };
    let mut runs = runs.into_iter().peekable();
    while let Some(run) = runs.next() {
        let small = run.block.len() < BLOCK_ENTRIES / 4 && run.block.bytes() < BLOCK_BYTES / 4;
        let followed = runs.peek().is_some_and(|next| next.id.is_some());
        if run.id.is_none() || !small || (open.is_none() && !followed) {
            close(&mut open, &mut blocks);
            blocks.push(run.block);
            continue;
        }
        let (_, batch) = open.get_or_insert_with(|| (run.first(), Batch::new()));
        batch.extend_from_block(&run.block);
        if batch.len() >= BLOCK_ENTRIES || batch.bytes().len() >= BLOCK_BYTES {
            close(&mut open, &mut blocks);
        }
    }
    close(&mut open, &mut blocks);
    blocks
}

impl SharedLog for CorfuLog {
    fn append(&self, batch: &Batch) -> Result<Ticket, AppendError> {
        assert!(!batch.is_empty(), "an append holds at least one entry");
        let count = u32::try_from(batch.len()).expect("a batch holds less than 2^32 entries");
        let size = batch.bytes().len() + size_of_val(batch.ends());
        let limit = self.shared.config.max_batch_bytes;
        if size > limit {
            return Err(AppendError::TooLarge { size, limit });
        }
        let width = self.shared.driver.projection().width;
        if count > width {
            return Err(AppendError::TooMany { limit: width });
        }
        let (receipt, begins) = self.shared.queue.push(batch)?;
        let backend: Arc<dyn Acknowledge> = receipt;
        Ok(Ticket::from_backend(backend, u64::from(begins), count))
    }

    fn read(&self, position: Position) -> Result<Option<Arc<Block>>, ReadError> {
        self.shared.read(position)
    }

    fn tail(&self) -> Result<Tail, TailError> {
        self.shared.tail().map_err(|Silent| TailError::Unavailable)
    }

    fn known_tail(&self) -> Position {
        self.shared.progress.known().mark
    }

    fn wait_past(&self, position: Position, timeout: Option<Duration>) -> Result<Tail, ReadError> {
        self.shared.wait_past(position, timeout)
    }

    fn flush(&self) -> Result<Position, FlushError> {
        self.shared.flush()
    }

    fn beside(&self, name: &str) -> Option<Arc<dyn Storage>> {
        let directory = self.shared.config.beside.as_ref()?;
        Some(Arc::new(FsStorage::new(directory.join(name))))
    }

    fn trim(&self, before: Position) -> Result<(), TrimError> {
        self.shared.trim(before)
    }

    fn seal(&self) -> Result<Position, SealError> {
        self.shared.seal()
    }

    fn durability(&self) -> Durability {
        self.shared.config.durability
    }

    fn id(&self) -> LogId {
        self.shared.id
    }
}

impl fmt::Debug for CorfuLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CorfuLog").field("id", &self.shared.id).finish_non_exhaustive()
    }
}
