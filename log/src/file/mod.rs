//! The log in files: segments on a local disk, written by one thread at a time, flushed by groups.
//!
//! ```text
//! append --> commit queue --> writer (log thread) --> segment files --> published tail, cache --> read
//!                                ^ spare segments, and flushes of a buffered log: background threads
//! ```
//!
//! The bytes on disk are drawn in `layout`. The protocol, what it survives and how it recovers are told in
//! `docs/log-format.md`.

mod background;
mod buffer;
mod cache;
mod config;
mod copy;
mod frames;
mod layout;
mod manifest;
mod reader;
mod recovery;
mod report;
mod segments;
mod storage;
mod tear;
#[cfg(all(test, not(loom)))]
mod tests;
mod writer;

pub use config::{Config, Create};
pub use copy::Copied;
pub(crate) use manifest::NAME as MANIFEST;
pub use report::{Damage, Report, Torn};
pub use storage::{Access, FsStorage, Lock, LockMode, Storage, StorageFile, read_full, write_full};
pub(crate) use storage::{located, read_file};

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::commit_queue::{CommitQueue, Limits, Room, Tries};
use crate::waiting::Wrapped;
use crate::{
    Acknowledge, AppendError, Batch, Block, Durability, FlushError, LogId, OpenError, Position, ReadError,
    SealError, SharedLog, Tail, TailError, Ticket, TrimError,
};

use cache::Cache;
use layout::{FRAME_OVERHEAD, FRAMES_START, ManifestSlot};
use manifest::Manifest;
use recovery::{Examined, Origin, Recovered, Scanned};
use segments::{Segment, Segments};
use writer::{Place, Writer};

/// A frame takes no further batch when it has this many entries, or bytes: what a reader gets at once.
const FRAME_ENTRIES: usize = 4096;
const FRAME_BYTES: usize = 1 << 20;

/// How many switches to other segments may be left to the background, and for how long.
const LATE_SWITCHES: usize = 4;
const LATE_SWITCH: Duration = Duration::from_millis(500);

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// A log in the files of one directory.
///
/// One [`FileLog`] at a time has a directory open to write, on the whole machine. Dropping it writes what is
/// queued, makes it durable, and gives the directory free.
///
/// ```
/// use mixlog_log::{Batch, Entry, FileLog, Position, SharedLog, file};
///
/// let scratch = tempfile::tempdir()?;
/// let log = FileLog::open(scratch.path().join("log"), file::Config::default())?;
/// let mut batch = Batch::new();
/// batch.push(b"an entry");
/// log.append(&batch)?.wait()?;   // it survives a power cut from here on
///
/// let block = log.read(Position(0))?.expect("acknowledged");
/// assert_eq!(block.get(Position(0)), Some(Entry::Data(b"an entry")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct FileLog {
    shared: Arc<Shared>,
    /// The log thread and those in the background; none when the log was opened to read only.
    threads: Vec<JoinHandle<()>>,
    /// Held until the threads have ended. Tickets outlive the log and must not keep its lock.
    _lock: Lock,
}

/// What the threads of a log share.
struct Shared {
    storage: Arc<dyn Storage>,
    id: LogId,
    durability: Durability,
    /// None when the log was opened to read only.
    writer: Option<Mutex<Writer>>,
    /// Whether a writer panicked.
    bug: AtomicBool,
    group_bytes: MovingAverage,
    segment_bytes: u64,
    /// What a spare segment adds to the room for appends: a frame that does not fit in the current segment
    /// leaves less than its own size unused there.
    spare_room: u64,
    queue: CommitQueue,
    segments: Segments,
    cache: Cache,
    /// The first position that was not trimmed. Raised (Release) after the manifest says so, under its lock.
    head: AtomicU64,
    /// Positions below it are durable. Raised (AcqRel) after the flush that made them so.
    durable: AtomicU64,
    manifest: Mutex<Manifest>,
    spare: Mutex<Option<Spare>>,
    /// The switches to other segments that are not durable yet, in order.
    switches: Mutex<VecDeque<Switch>>,
    /// Held by whoever makes segments durable and counts them in the manifest; after the writer's lock, before the
    /// manifest's. Why that failed, if it ever did.
    settling: Mutex<Option<(io::ErrorKind, String)>>,
}

/// The mean of numbers, the newest of which count most. One thread at a time records them.
#[derive(Debug, Default)]
struct MovingAverage(AtomicU64);

impl MovingAverage {
    fn record(&self, number: u64) {
        let before = self.get();
        self.0.store(before - before / 8 + number / 8, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The segment that was reserved ahead.
struct Spare {
    file: Arc<dyn StorageFile>,
    bytes: u64,
}

/// The log went on in another segment.
#[derive(Clone)]
struct Switch {
    /// The file of the segment before.
    before: Arc<dyn StorageFile>,
    /// The segment that it went on in.
    number: u64,
    first: Position,
    when: Instant,
}

impl FileLog {
    /// Opens the log in `directory`, or creates it if `config` says so, and repairs what a crash left.
    ///
    /// Cost: reads the whole log and verifies it, about a second per gigabyte or two; a dozen flushes.
    /// Creating one writes its first segment.
    ///
    /// # Errors
    /// [`OpenError`]: whatever was there is as it was, unless it is [`OpenError::Io`].
    pub fn open(directory: impl AsRef<Path>, config: Config) -> Result<Self, OpenError> {
        Self::open_with_storage(Arc::new(FsStorage::new(directory.as_ref())), &config)
    }

    /// Like [`open`](Self::open), on a file system of the caller's making.
    ///
    /// # Errors
    /// Like [`open`](Self::open).
    pub fn open_with_storage(storage: Arc<dyn Storage>, config: &Config) -> Result<Self, OpenError> {
        Self::open_or_begin(storage, config, Origin::first())
    }

    /// Creates a log that goes on where another one ended: `id` is its identity, and the first entry will stand at
    /// `head`. What came before it lives elsewhere, in a checkpoint for example. `config.create` is not looked at.
    ///
    /// # Errors
    /// [`OpenError::Exists`] when there is a log already, and like [`open`](Self::open).
    pub fn continue_with_storage(
        storage: Arc<dyn Storage>,
        config: &Config,
        id: LogId,
        head: Position,
    ) -> Result<Self, OpenError> {
        let config = Config { create: Create::New, ..config.clone() };
        Self::open_or_begin(storage, &config, Origin { id, head })
    }

    /// Refuses what no log takes.
    fn check(&self, batch: &Batch) -> Result<(), AppendError> {
        assert!(!batch.is_empty(), "an append holds at least one entry");
        self.check_writable()
    }

    fn check_writable(&self) -> Result<(), AppendError> {
        if self.shared.writer.is_none() { Err(AppendError::ReadOnly) } else { Ok(()) }
    }

    fn ticket(&self, count: usize, first: Position) -> Ticket {
        let count = u32::try_from(count).expect("a batch holds less than 2^32 entries");
        let backend: Arc<dyn Acknowledge> = Arc::<Shared>::clone(&self.shared);
        Ticket::from_backend(backend, first.0, count)
    }

    /// As [`append`](SharedLog::append), of one entry whose bytes are not copied before they are written. It is in no cache.
    pub(crate) fn append_wrapped(&self, entry: Wrapped) -> Result<Ticket, AppendError> {
        self.check_writable()?;
        debug_assert!(self.shared.cache.is_none(), "the cache's blocks are consecutive");
        let first = self.shared.queue.append_wrapped(entry)?;
        Ok(self.ticket(1, first))
    }

    /// How far it reaches, which a log in files always knows.
    pub(crate) fn reach(&self) -> Tail {
        // The head first: it was never past the tail.
        let head = self.shared.head();
        let (tail, sealed) = self.shared.queue.reach();
        Tail { head, tail, sealed }
    }

    fn open_or_begin(storage: Arc<dyn Storage>, config: &Config, origin: Origin) -> Result<Self, OpenError> {
        config.check()?;
        if !recovery::directory_exists(&*storage)? {
            if config.create == Create::Never {
                return Err(OpenError::Missing { path: storage.path().to_path_buf() });
            }
            storage.create_directory().map_err(|source| OpenError::Io {
                action: "create",
                path: storage.path().to_path_buf(),
                source,
            })?;
        }
        let lock = lock(&*storage, LockMode::Exclusive)?;
        let Recovered { manifest, segments, tail } = recovery::recover(&*storage, config, origin)?;
        let last = segments.last().expect("a log that was opened to write has a segment");
        let place = Place {
            segment: Arc::clone(&last.segment),
            file: Arc::clone(&last.file),
            offset: last.end,
            next: tail,
            generation: manifest.slot().generation,
        };
        let writer = Writer::new(place).map_err(|source| OpenError::Io {
            action: "read",
            path: storage.path().join(last.segment.file_name()),
            source,
        })?;
        let shared = Arc::new(Shared::new(storage, config, manifest, segments, tail, Some(writer)));
        let mut threads = vec![
            start("mixlog-log", &shared, writer::run),
            start("mixlog-reserve", &shared, background::reserve_segments),
        ];
        if config.durability == Durability::Buffered {
            threads.push(start("mixlog-flush", &shared, background::flush));
        }
        Ok(Self { shared, threads, _lock: lock })
    }

    /// Opens the log in `directory` to read only: nothing in the directory is changed, and what a crash left
    /// behind the last whole entry is not shown.
    ///
    /// Appending, trimming and sealing are refused, and [`wait_past`](SharedLog::wait_past) returns at once,
    /// as nothing will come. Other readers may have the log open at the same time, but no writer.
    ///
    /// Shape: after a crash, the last entries may be ones that were never acknowledged; the next
    /// [`open`](Self::open) keeps or drops each of them for good.
    ///
    /// Cost: reads the whole log and verifies it.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::Locked`] while a writer has the log open.
    pub fn open_read_only(directory: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_read_only_with_storage(Arc::new(FsStorage::new(directory.as_ref())))
    }

    /// Like [`open_read_only`](Self::open_read_only), on a file system of the caller's making.
    ///
    /// # Errors
    /// Like [`open_read_only`](Self::open_read_only).
    pub fn open_read_only_with_storage(storage: Arc<dyn Storage>) -> Result<Self, OpenError> {
        let (lock, examined) = examine(&*storage, LockMode::Shared)?;
        match examined.damage {
            Some(damage) => Err(damage.into()),
            None => Ok(Self::of_examined(storage, examined, lock)),
        }
    }

    /// How much surely fits, once that is `wanted`, or as much as a new segment has, which is more than the largest
    /// batch, or it is known that no segment can be reserved. Of a log that was opened to write, by its only submitter.
    pub(crate) fn wait_room(&self, wanted: u64, tries: Tries) -> Room {
        // Who waits for more than a segment waits for ever.
        self.shared.queue.wait_room(wanted.min(self.shared.spare_room), tries)
    }

    /// The log in `storage` up to its first damage, to read only; it is nobody else's meanwhile.
    pub(crate) fn open_before_damage(storage: Arc<dyn Storage>) -> Result<Self, OpenError> {
        let (lock, examined) = examine(&*storage, LockMode::Exclusive)?;
        Ok(Self::of_examined(storage, examined, lock))
    }

    fn of_examined(storage: Arc<dyn Storage>, examined: Examined, lock: Lock) -> Self {
        let Examined { manifest, segments, tail, .. } = examined;
        let config = Config { cache_bytes: 0, ..Config::default() };
        let shared = Shared::new(storage, &config, manifest, segments, tail, None);
        Self { shared: Arc::new(shared), threads: Vec::new(), _lock: lock }
    }

    /// Reads and verifies every byte of the log in `directory`, and changes none. Other readers may have the
    /// log open at the same time, but no writer.
    ///
    /// # Errors
    /// [`OpenError`] when there is no log to look at; damage is part of the report.
    pub fn verify(directory: impl AsRef<Path>) -> Result<Report, OpenError> {
        Self::verify_with_storage(&FsStorage::new(directory.as_ref()))
    }

    /// Like [`verify`](Self::verify), on a file system of the caller's making.
    ///
    /// # Errors
    /// Like [`verify`](Self::verify).
    pub fn verify_with_storage(storage: &dyn Storage) -> Result<Report, OpenError> {
        let (_lock, examined) = examine(storage, LockMode::Shared)?;
        let slot = examined.manifest.slot();
        Ok(Report {
            id: slot.log,
            head: slot.head,
            tail: examined.tail,
            sealed: slot.sealed,
            durable: examined.durable,
            generation: slot.generation,
            segments: examined.segments.len(),
            frames: examined.frames,
            frame_bytes: examined.frame_bytes,
            torn: examined.torn,
            damage: examined.damage,
        })
    }
}

pub(crate) fn lock(storage: &dyn Storage, mode: LockMode) -> Result<Lock, OpenError> {
    let path = || storage.path().to_path_buf();
    match storage.lock(mode) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(OpenError::Locked { path: path() }),
        Err(source) => Err(OpenError::Io { action: "lock", path: path(), source }),
    }
}

fn examine(storage: &dyn Storage, mode: LockMode) -> Result<(Lock, Examined), OpenError> {
    if !recovery::directory_exists(storage)? {
        return Err(OpenError::Missing { path: storage.path().to_path_buf() });
    }
    let lock = lock(storage, mode)?;
    Ok((lock, recovery::examine(storage, Access::Read, recovery::Writer::None)?))
}

/// Starts a thread of the log. Should it panic, whoever waits for it is released.
fn start(name: &str, shared: &Arc<Shared>, run: fn(&Shared)) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    let guarded = move || {
        if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| run(&shared))) {
            shared.fail(io::Error::other("a thread of the log panicked"));
            panic::resume_unwind(panic);
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(guarded).expect("the operating system starts a thread")
}

impl Drop for FileLog {
    fn drop(&mut self) {
        self.shared.queue.close();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            // A panic there was reported when it happened; one more while unwinding would abort.
            assert!(ended.is_ok() || thread::panicking(), "a thread of the log panicked");
        }
        // Of a log that failed, somebody who waits may be writing still.
        self.shared.queue.wait_at_rest();
        let bug = self.shared.bug.load(Ordering::Acquire);
        assert!(!bug || thread::panicking(), "a writer of the log panicked");
    }
}

impl Shared {
    fn new(
        storage: Arc<dyn Storage>,
        config: &Config,
        manifest: Manifest,
        scanned: Vec<Scanned>,
        tail: Position,
        writer: Option<Writer>,
    ) -> Self {
        let slot = *manifest.slot();
        let current = scanned.last().map_or(0, |last| writer::room(last.segment.bytes, last.end));
        let limits = Limits {
            queue_bytes: config.queue_bytes as u64,
            group_bytes: config.group_bytes as u64,
            batch_bytes: config.max_batch_bytes,
            frame_bytes: FRAME_BYTES.min(config.max_batch_bytes),
            frame_entries: FRAME_ENTRIES,
            frame_overhead: FRAME_OVERHEAD,
            // Early, as writing a segment's zeros takes as long as writing its entries.
            reserve_below: config.segment_bytes() / 4 * 3,
            gathers: config.durability == Durability::Flushed,
        };
        let segments = Segments::new(Arc::clone(&storage));
        for Scanned { segment, file, .. } in scanned {
            segments.push(segment, file);
        }
        Self {
            id: slot.log,
            durability: config.durability,
            writer: writer.map(Mutex::new),
            bug: AtomicBool::new(false),
            group_bytes: MovingAverage::default(),
            segment_bytes: config.segment_bytes(),
            spare_room: config.segment_bytes() - FRAMES_START - config.largest_frame(),
            queue: CommitQueue::new(limits, tail, slot.sealed, current),
            segments,
            cache: Cache::new(config.cache_bytes),
            head: AtomicU64::new(slot.head.0),
            durable: AtomicU64::new(tail.0),
            manifest: Mutex::new(manifest),
            spare: Mutex::new(None),
            switches: Mutex::default(),
            settling: Mutex::default(),
            storage,
        }
    }

    /// An error that says where the log is.
    fn located(&self, error: io::Error) -> io::Error {
        located(self.storage.path().to_path_buf(), error)
    }

    /// The log has failed: see [`CommitQueue::fail`].
    fn fail(&self, error: io::Error) -> Arc<io::Error> {
        self.queue.fail(self.located(error))
    }

    /// Whoever was writing failed: see [`CommitQueue::abandon`].
    fn abandon(&self, error: io::Error) {
        self.queue.abandon(self.located(error));
    }

    fn head(&self) -> Position {
        Position(self.head.load(Ordering::Acquire))
    }

    fn durable(&self) -> Position {
        Position(self.durable.load(Ordering::Acquire))
    }

    fn raise_durable(&self, position: Position) {
        self.durable.fetch_max(position.0, Ordering::AcqRel);
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.as_ref().expect("a log that is open to write").lock().expect(UNPOISONED)
    }

    fn take_spare(&self) -> Option<Spare> {
        self.spare.lock().expect(UNPOISONED).take()
    }

    fn put_spare(&self, spare: Spare) {
        *self.spare.lock().expect(UNPOISONED) = Some(spare);
    }

    fn manifest(&self) -> MutexGuard<'_, Manifest> {
        self.manifest.lock().expect(UNPOISONED)
    }

    fn update_manifest(&self, change: impl FnOnce(&mut ManifestSlot)) -> io::Result<()> {
        self.manifest().update(change)
    }

    /// Makes everything that is published durable.
    fn flush(&self) -> io::Result<()> {
        self.make_durable(self.queue.published())
    }

    /// Makes what is written up to `position` durable, and the segments that it stands in.
    fn make_durable(&self, position: Position) -> io::Result<()> {
        if position <= self.durable() {
            return Ok(());
        }
        self.settle_alone(|| {
            while position > self.durable() {
                let next = {
                    let switches = self.switches.lock().expect(UNPOISONED);
                    // As long as there is no other switch, it stands in the newest segment, or before it.
                    switches.front().cloned().ok_or_else(|| self.segments.active())
                };
                match next {
                    Ok(switch) => self.settle(&switch)?,
                    Err((number, file)) => {
                        file.sync_data()?;
                        let is_counted = number < self.manifest().slot().segments_end;
                        if !is_counted {
                            self.count(number + 1, position)?;
                        }
                        self.raise_durable(position);
                    }
                }
            }
            Ok(())
        })
    }

    /// Runs `settle` while nobody else settles. Once that failed it fails for ever: what one flush could not save may be
    /// lost although the next one succeeds, and who comes next may come before the log is known to have failed.
    fn settle_alone(&self, settle: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut failed = self.settling.lock().expect(UNPOISONED);
        if let Some((kind, text)) = &*failed {
            return Err(io::Error::new(*kind, text.clone()));
        }
        let settled = settle();
        if let Err(error) = &settled {
            *failed = Some((error.kind(), error.to_string()));
        }
        settled
    }

    /// Makes the segment before a switch durable, which is the oldest one.
    fn settle(&self, switch: &Switch) -> io::Result<()> {
        switch.before.sync_data()?;
        self.count(switch.number, switch.first)?;
        self.raise_durable(switch.first);
        self.switches.lock().expect(UNPOISONED).pop_front();
        Ok(())
    }

    /// Writes down that the segments before number `end` are there, whose entries before `durable` are durable.
    fn count(&self, end: u64, durable: Position) -> io::Result<()> {
        self.storage.sync_directory()?;
        self.update_manifest(|slot| {
            slot.segments_end = slot.segments_end.max(end);
            slot.durable = slot.durable.max(durable);
        })
    }

    /// Makes the newest segment's header and name durable. What stands before it is.
    fn count_newest(&self, first: Position) -> io::Result<()> {
        self.settle_alone(|| {
            let (number, file) = self.segments.active();
            file.sync_data()?;
            self.count(number + 1, first)
        })
    }

    /// The log goes on in `segment`. Becomes durable in the background.
    fn switch_to(&self, switch: Switch, segment: Arc<Segment>, file: Arc<dyn StorageFile>) {
        // Both or none: what is asked for is the newest segment if there is no switch.
        let mut switches = self.switches.lock().expect(UNPOISONED);
        switches.push_back(switch);
        self.segments.push(segment, file);
    }

    /// Waits until another switch can be left to the background.
    fn wait_for_switches(&self) -> io::Result<()> {
        let too_late = || {
            let switches = self.switches.lock().expect(UNPOISONED);
            let oldest = switches.front()?;
            let is_late = switches.len() >= LATE_SWITCHES || oldest.when.elapsed() >= LATE_SWITCH;
            is_late.then(|| oldest.clone())
        };
        while too_late().is_some() {
            // Somebody else may have settled it meanwhile.
            self.settle_alone(|| too_late().map_or(Ok(()), |oldest| self.settle(&oldest)))?;
        }
        Ok(())
    }

    fn trim(&self, before: Position) -> Result<(), TrimError> {
        if let Some(error) = self.queue.failure() {
            return Err(TrimError::Failed(error));
        }
        let fail = |error| TrimError::Failed(self.fail(error));
        let before = before.min(self.queue.published());
        // A head that survives a power cut which its entries do not would lose the tail.
        if before > self.durable() {
            self.flush().map_err(fail)?;
        }
        let mut manifest = self.manifest();
        if before > self.head() {
            let start =
                self.segments.first_needed(before).expect("a log that is open to write has a segment");
            manifest
                .update(|slot| {
                    slot.head = before;
                    slot.durable = slot.durable.max(before);
                    slot.segments_start = start;
                })
                .map_err(fail)?;
            self.head.store(before.0, Ordering::Release);
            self.segments.trim(start);
            self.cache.trim(before);
        }
        // The log thread needs the manifest to go on to the next segment; removing files takes long.
        drop(manifest);
        self.segments.remove_trimmed().map_err(|error| TrimError::Io(Arc::new(self.located(error))))
    }
}

impl SharedLog for FileLog {
    fn append(&self, batch: &Batch) -> Result<Ticket, AppendError> {
        self.check(batch)?;
        let first = self.shared.queue.append(batch)?;
        Ok(self.ticket(batch.len(), first))
    }

    fn append_and_write(&self, batch: &Batch) -> Result<Ticket, AppendError> {
        self.check(batch)?;
        let (first, group) = self.shared.queue.append_and_take(batch)?;
        if let Some(group) = group {
            writer::write_group(&self.shared, group);
        }
        Ok(self.ticket(batch.len(), first))
    }

    fn refuses_late(&self) -> bool {
        false
    }

    fn read(&self, position: Position) -> Result<Option<Arc<Block>>, ReadError> {
        let shared = &self.shared;
        let trimmed = |head| ReadError::Trimmed { position, head };
        let head = shared.head();
        if position < head {
            return Err(trimmed(head));
        }
        let tail = shared.queue.published();
        if position >= tail {
            return Ok(None);
        }
        if let Some(block) = shared.cache.get(position) {
            return Ok(Some(block));
        }
        match reader::read(&shared.segments, position, tail)? {
            Some(block) => Ok(Some(block)),
            None => Err(trimmed(shared.head())),
        }
    }

    fn tail(&self) -> Result<Tail, TailError> {
        Ok(self.reach())
    }

    fn wait_past(&self, position: Position, timeout: Option<Duration>) -> Result<Tail, ReadError> {
        if self.shared.writer.is_some() {
            let write = |group| writer::write_group(&self.shared, group);
            self.shared.queue.wait_past(position, timeout, write).map_err(ReadError::Failed)?;
        }
        Ok(self.reach())
    }

    fn flush(&self) -> Result<Position, FlushError> {
        let shared = &self.shared;
        if shared.writer.is_none() {
            return Err(FlushError::ReadOnly);
        }
        if let Some(error) = shared.queue.failure() {
            return Err(FlushError::Failed(error));
        }
        let published = shared.queue.published();
        shared.flush().map_err(|error| FlushError::Failed(shared.fail(error)))?;
        Ok(published)
    }

    fn beside(&self, name: &str) -> Option<Arc<dyn Storage>> {
        Some(self.shared.storage.directory(name))
    }

    fn trim(&self, before: Position) -> Result<(), TrimError> {
        if self.shared.writer.is_none() { Err(TrimError::ReadOnly) } else { self.shared.trim(before) }
    }

    fn seal(&self) -> Result<Position, SealError> {
        if self.shared.writer.is_none() { Err(SealError::ReadOnly) } else { self.shared.queue.seal() }
    }

    fn durability(&self) -> Durability {
        self.shared.durability
    }

    fn id(&self) -> LogId {
        self.shared.id
    }
}

impl fmt::Debug for FileLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileLog")
            .field("path", &self.shared.storage.path())
            .field("id", &self.shared.id)
            .field("reach", &self.reach())
            .finish_non_exhaustive()
    }
}

/// Tickets whose sequence is their first position.
impl Acknowledge for Shared {
    fn wait(
        &self,
        sequence: u64,
        count: u32,
        timeout: Option<Duration>,
    ) -> Option<Result<Range<Position>, AppendError>> {
        let first = Position(sequence);
        let end = first.plus(u64::from(count));
        self.queue
            .wait_published(end, timeout, |group| writer::write_group(self, group))
            .map(|outcome| outcome.map(|()| first..end))
    }
}
