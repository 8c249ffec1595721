//! A storage unit at work: the machine, its journal, and the threads between them.
//!
//! ```text
//! requests --> unit thread: handle, queue records --> reply thread: wait until durable, load, answer
//!                                  \--> journal (group commit) --/       \--> flush thread: sync, answer, trim
//! ```
//!
//! The unit thread never waits for the disk: while one group is flushed, the next one gathers behind it.
//! Answers leave in the order of their requests, each when all records before it are durable, so nobody sees
//! what a power cut could take back. Only those to flushes come when they come: of a unit that buffers, much may have to
//! be written, and who waits for less must not wait for that.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::commit_queue::{Room, Tries};
use crate::file::{self, FsStorage, Lock, LockMode, Storage};
use crate::{Batch, Durability, LogId, OpenError, Position, Ticket};

use super::boot::Boot;
use super::journal::{self, Journal, Opened, Shelf};
use super::message::{Reply, UnitNumber, UnitReply, UnitRequest, UnitVerb};
use super::owner::Owner;
use super::rules::Rules;
use super::transport::ReplyTo;
use super::unit::{Answer, Limits, Record, RecordNumber, Unit};
use super::watched::Watched;

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// Where the disk has no room, it is asked for some so often.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// How many requests are handled before their records are handed to the journal.
const GROUP: usize = 256;

/// Where a unit keeps its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitStorage {
    /// In this process' memory: it comes back empty, as nobody.
    Memory,
    /// In files.
    Files(UnitFiles),
}

/// How a unit keeps its entries in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitFiles {
    /// Where. Created if it is missing.
    pub directory: PathBuf,
    /// When a write is acknowledged: `Buffered` or `Flushed`. A unit that buffers and whose machine went down
    /// under it, or whose disk did not take what it had acknowledged, comes back as damaged, and has to join anew.
    pub durability: Durability,
    /// The length of a segment file, in bytes; 64 MiB is a good size. It is raised to twice `run_bytes` and
    /// a little more.
    pub segment_bytes: u64,
    /// The largest run, in bytes: its entries' bytes and 4 for each. No client's largest batch may be larger.
    pub run_bytes: usize,
    /// How many bytes of the newest entries are kept in memory; 4 MiB is a good size. More: readers further behind are
    /// served without touching the disk. Less: what is appended goes through memory that is in the processor's caches.
    pub cache_bytes: usize,
}

impl UnitFiles {
    /// The usual sizes.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>, durability: Durability) -> Self {
        Self {
            directory: directory.into(),
            durability,
            segment_bytes: 64 << 20,
            run_bytes: 8 << 20,
            cache_bytes: 4 << 20,
        }
    }
}

/// A storage unit that answers requests.
///
/// Dropping it answers what it was asked so far, makes it durable, and gives its directory free. When its
/// disk fails it answers nothing any more: what it had in its hands may be lost or not. Then it tells
/// [why](Self::failure), and has to be opened again.
pub struct UnitServer {
    number: UnitNumber,
    durability: Durability,
    log: Option<LogId>,
    inner: Inner,
}

enum Inner {
    Memory(Box<Mutex<Unit>>),
    Files {
        requests: Option<Sender<(UnitRequest, ReplyTo)>>,
        threads: Vec<JoinHandle<()>>,
        /// Set when the unit thread ended in good order, with a unit that had lost nothing.
        whole: Arc<AtomicBool>,
        failure: Failure,
        boot: Arc<Boot>,
        /// The failure, where the files cannot say what may be lost.
        warning: OnceLock<String>,
        /// Held until the files say how the unit has ended.
        _lock: Lock,
    },
}

/// Why the unit answers no more; unset while it does. The first reason stays.
#[derive(Clone)]
struct Failure {
    directory: PathBuf,
    reason: Arc<OnceLock<String>>,
}

impl Failure {
    fn new(directory: PathBuf) -> Self {
        Self { directory, reason: Arc::default() }
    }

    fn set(&self, error: &dyn fmt::Display) {
        let _ = self
            .reason
            .set(format!("the journal in {} cannot be written: {error}", self.directory.display()));
    }

    fn is_set(&self) -> bool {
        self.reason.get().is_some()
    }
}

impl UnitServer {
    /// Opens the unit `number`; `quota`: how many bytes of entries it takes, before it refuses to be written
    /// to. It refuses, too, what its disk has no room for, and takes it again when there is some; of the last segment it
    /// keeps a part for junk and for what it has to remember; each run that was refused becomes junk. When that part is
    /// used up, and when its disk has no room for what the head of its chain has, it fails.
    ///
    /// Cost: reads and verifies all its files.
    ///
    /// # Errors
    /// [`OpenError`]; damaged entries are none: the unit opens, and answers that it lost them. [`OpenError::Corrupt`] if so
    /// much is lost that nobody can tell of which log it was: a log that it joins would empty it.
    pub fn open(number: UnitNumber, quota: u64, storage: &UnitStorage) -> Result<Self, OpenError> {
        match storage {
            UnitStorage::Memory => {
                let limits = Limits { quota, run_bytes: u32::MAX };
                let inner = Inner::Memory(Box::new(Mutex::new(Unit::new(number, limits, Rules::SOUND))));
                Ok(Self { number, durability: Durability::Memory, log: None, inner })
            }
            UnitStorage::Files(files) => {
                let directory = FsStorage::new(&files.directory);
                Self::open_with_storage(number, quota, files, Arc::new(directory))
            }
        }
    }

    /// Like [`open`](Self::open), with its directory on a file system of the caller's making; `files.directory` is not
    /// looked at.
    ///
    /// # Errors
    /// Like [`open`](Self::open).
    pub fn open_with_storage(
        number: UnitNumber,
        quota: u64,
        files: &UnitFiles,
        directory: Arc<dyn Storage>,
    ) -> Result<Self, OpenError> {
        let run_bytes = u32::try_from(files.run_bytes).unwrap_or(u32::MAX);
        let mut unit = Unit::new(number, Limits { quota, run_bytes }, Rules::SOUND);
        let path = directory.path().to_path_buf();
        let io_error = |source| OpenError::Io { action: "open", path: path.clone(), source };
        directory.create_directory().map_err(|source| OpenError::Io {
            action: "create",
            path: path.clone(),
            source,
        })?;
        // What the files say is what the last one left that had the directory, and nobody else changes it.
        let lock = file::lock(&*directory, LockMode::Exclusive)?;
        let boot = Arc::new(Boot::at(Arc::clone(&directory)).map_err(io_error)?);
        let mut kept = boot.kept_everything();
        let Opened { journal, mut damage } = Journal::open(&journal::Config {
            storage: Arc::new(Watched::new(directory.directory("journal"), Arc::clone(&boot))),
            durability: files.durability,
            segment_bytes: files.segment_bytes,
            run_bytes: files.run_bytes,
        })?;
        let ends_early =
            journal.replay(|record, number| unit.replay(record, Some(number))).map_err(|error| {
                let source = std::io::Error::other(error.to_string());
                OpenError::Io { action: "read", path: path.clone(), source }
            })?;
        if ends_early {
            damage.get_or_insert_with(|| "a record in its journal cannot be read".to_owned());
        }
        // A sync that failed just now, and was of no account to the journal.
        kept &= boot.kept_everything();
        let owner = Owner::read(&*directory).map_err(io_error)?;
        let of_state = unit.state().map(|state| Owner { log: state.log, unit: state.unit.unwrap_or(number) });
        let lost = damage.is_some() || !kept;
        if let Some(owner) = of_state.or_else(|| owner.filter(|_| lost)) {
            // Its entries stand elsewhere, and its seals are of another chain.
            if owner.unit != number {
                return Err(OpenError::Configuration(format!(
                    "{} is the directory of unit {}, and not of unit {number}",
                    path.display(),
                    owner.unit
                )));
            }
            if of_state.is_none() {
                unit.set_lost(owner.log);
            }
        } else if let Some(detail) = damage {
            return Err(OpenError::Corrupt {
                position: Position::ZERO,
                detail: format!(
                    "{detail}; and nothing in {0} says of which log unit {number} was, so no log may have it begin anew. If \
                     its cluster does without it, remove {0}",
                    path.display()
                ),
            });
        }
        if lost {
            unit.set_damaged();
        }
        if let Some(of_state) = of_state.filter(|of_state| owner != Some(*of_state)) {
            of_state.write(&*directory).map_err(io_error)?;
        }
        let log = unit.state().map(|state| state.log);
        let buffered = files.durability == Durability::Buffered;
        // What may be lost stays so until the unit has joined anew. Else all is durable.
        if kept {
            begin(&boot, buffered).map_err(io_error)?;
        }
        let (requests, asked) = mpsc::channel();
        let (groups, done) = mpsc::channel();
        let (flushes, wanted) = mpsc::channel();
        let failure = Failure::new(path);
        let whole = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            unit,
            journal: Some(journal),
            groups,
            failure: failure.clone(),
            whole: Arc::clone(&whole),
            boot: Arc::clone(&boot),
            buffered,
            directory,
            cached: VecDeque::new(),
            cached_bytes: 0,
            cache_bytes: files.cache_bytes,
            state_at: RecordNumber(0),
            freed: 0,
            tried: None,
            trim_after: files.segment_bytes / 2,
        };
        let start = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let builder = thread::Builder::new().name(format!("mixlog-{name}-{number}"));
            builder.spawn(run).expect("the operating system starts a thread")
        };
        let (failed, has_failed) = (failure.clone(), failure.clone());
        let threads = vec![
            start("unit", Box::new(move || worker.run(&asked))),
            start("reply", Box::new(move || reply(&done, &flushes, &failed))),
            start("flush", Box::new(move || flush(&wanted, &has_failed))),
        ];
        let (requests, warning) = (Some(requests), OnceLock::new());
        let inner = Inner::Files { requests, threads, whole, failure, boot, warning, _lock: lock };
        Ok(Self { number, durability: files.durability, log, inner })
    }

    /// The unit's number.
    #[must_use]
    pub const fn number(&self) -> UnitNumber {
        self.number
    }

    /// Of which log its files were when it was opened.
    #[must_use]
    pub const fn log(&self) -> Option<LogId> {
        self.log
    }

    /// What an answered write has survived.
    #[must_use]
    pub const fn durability(&self) -> Durability {
        self.durability
    }

    /// Why it answers no more: what failed, and where. `None` while all is well.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        match &self.inner {
            Inner::Memory(_) => None,
            Inner::Files { failure, boot, warning, .. } => {
                let reason = failure.reason.get()?;
                let Some(refusal) = boot.untold() else { return Some(reason) };
                Some(warning.get_or_init(|| {
                    format!(
                        "{reason}; nor can it be written down that something may be lost: {refusal}. Boot the machine before \
                         the unit is started again, or remove its directory"
                    )
                }))
            }
        }
    }

    /// Handles `request`; the answer goes to `reply`, from a thread of the unit's unless it lives in memory.
    pub fn send(&self, request: UnitRequest, reply: ReplyTo) {
        match &self.inner {
            Inner::Memory(unit) => {
                let mut records = Vec::new();
                let answer = unit.lock().expect(UNPOISONED).handle(request, &mut records);
                reply.answer(Reply::Unit(answer.load(|_| None)));
            }
            Inner::Files { requests, .. } => {
                let requests = requests.as_ref().expect("open until it is dropped");
                // A unit that failed drops what it is asked, which tells that there is no answer.
                drop(requests.send((request, reply)));
            }
        }
    }
}

impl Drop for UnitServer {
    fn drop(&mut self) {
        if let Inner::Files { requests, threads, whole, boot, .. } = &mut self.inner {
            drop(requests.take());
            for thread in threads.drain(..) {
                let ended = thread.join();
                assert!(ended.is_ok() || thread::panicking(), "a thread of the unit panicked");
            }
            boot.ended(whole.load(Ordering::Acquire));
        }
    }
}

impl fmt::Debug for UnitServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnitServer").field("number", &self.number).finish_non_exhaustive()
    }
}

/// What the unit thread hands to the reply thread.
enum Group {
    Answers {
        /// Of the last record before the answers; `None` if there was none since the group before.
        ticket: Option<Ticket>,
        shelf: Shelf,
        answers: Vec<(Answer, ReplyTo)>,
        /// After which the records before this one can be given up.
        trim: Option<RecordNumber>,
    },
    /// Answers as soon as everything before it was.
    Barrier(Sender<()>),
}

/// What the reply thread hands to the flush thread.
enum Wanted {
    /// Everything on the shelf is to be durable; then there is an answer.
    Flush(Shelf, ReplyTo),
    /// Records before this one are not needed any more, once everything on the shelf is durable: the one that tells the
    /// unit's state took the place of one that is given up.
    Trim(Shelf, RecordNumber),
    /// As of the reply thread.
    Barrier(Sender<()>),
}

/// The unit thread's own state.
struct Worker {
    unit: Unit,
    /// None only while it is exchanged.
    journal: Option<Journal>,
    groups: Sender<Group>,
    failure: Failure,
    whole: Arc<AtomicBool>,
    boot: Arc<Boot>,
    buffered: bool,
    directory: Arc<dyn Storage>,
    /// Runs whose bytes are in memory, oldest first.
    cached: VecDeque<(Position, usize)>,
    cached_bytes: usize,
    cache_bytes: usize,
    /// The last record that tells the unit's state.
    state_at: RecordNumber,
    /// Bytes trimmed since the journal was.
    freed: u64,
    /// When it was last found that the disk has no room.
    tried: Option<Instant>,
    trim_after: u64,
}

/// What a request may take of the disk that is refused where there is no room. What the head of a chain has, the units
/// behind it must take.
fn needs(request: &UnitRequest) -> u64 {
    match &request.verb {
        UnitVerb::Write(run) | UnitVerb::WriteAfter(_, run) => {
            run.block.body_bytes() as u64 + journal::FRAMED_OVERHEAD
        }
        _ => 0,
    }
}

impl Worker {
    fn run(mut self, asked: &Receiver<(UnitRequest, ReplyTo)>) {
        let mut batch = Batch::new();
        let mut records = Vec::new();
        // What the group before had no room for.
        let mut left = None;
        while let Some(first) = left.take().or_else(|| asked.recv().ok()) {
            if self.failure.is_set() {
                continue;
            }
            let room = self.room_for(needs(&first.0));
            let mut needed = 0;
            let bytes_before = self.unit.bytes();
            let member_before = self.unit.member();
            let damaged_before = self.unit.damaged();
            let mut answers = Vec::new();
            for (request, reply) in std::iter::once(first).chain(asked.try_iter()) {
                let need = needs(&request);
                if !answers.is_empty() && !room.is_last && needed + need > room.bytes {
                    left = Some((request, reply));
                    break;
                }
                let rest = room.bytes.saturating_sub(needed + journal::FRAMED_OVERHEAD);
                self.unit.set_room(if room.is_last { rest } else { u64::MAX });
                let before = records.len();
                answers.push((self.unit.handle(request, &mut records), reply));
                needed += records[before..].iter().map(journal::cost).sum::<u64>();
                // A unit that joins starts over: nothing of its former life goes into the same group.
                if answers.len() == GROUP || self.unit.member() != member_before {
                    break;
                }
            }
            if self.unit.member() != member_before {
                self.cached.clear();
                self.cached_bytes = 0;
                if !self.own() || damaged_before && !self.reset_journal() {
                    return;
                }
            }
            let Some(ticket) = self.record(&mut records, &mut batch) else { return };
            self.evict();
            self.freed += bytes_before.saturating_sub(self.unit.bytes());
            let trim = (self.freed > self.trim_after).then(|| self.oldest_needed());
            if trim.is_some() {
                self.freed = 0;
            }
            let shelf = self.journal.as_ref().expect("there is a journal").shelf();
            if self.groups.send(Group::Answers { ticket, shelf, answers, trim }).is_err() {
                return;
            }
        }
        // Until the reply thread has ended too, it may still fail: then it ends with a record unwritten.
        let (passed, barrier) = mpsc::channel();
        let ended = self.groups.send(Group::Barrier(passed)).is_ok() && barrier.recv().is_ok();
        let failed = self.failure.is_set();
        let whole = ended && !failed && !self.unit.damaged();
        // The journal may have failed since, without anybody who waits for it.
        let flushed = whole && self.journal.as_ref().expect("there is a journal").shelf().flush().is_ok();
        self.whole.store(flushed, Ordering::Release);
    }

    /// What there is room for on the disk, once that is `wanted`, or there is no more; at once if nothing is wanted.
    fn room_for(&mut self, wanted: u64) -> Room {
        // A damaged unit adds nothing to its journal, which cannot be written.
        if self.unit.damaged() {
            return Room { bytes: u64::MAX, is_last: false };
        }
        let is_time = self.tried.is_none_or(|tried| tried.elapsed() >= TRY_AGAIN);
        let tries = if is_time { Tries::Again } else { Tries::AsBefore };
        let room = self.journal.as_ref().expect("there is a journal").wait_room(wanted, tries);
        if room.is_last && is_time {
            self.tried = Some(Instant::now());
        }
        room
    }

    /// Queues the records; `None` if the journal refuses, which is the end of the unit: the machine is ahead
    /// of what it can remember.
    fn record(&mut self, records: &mut Vec<Record>, batch: &mut Batch) -> Option<Option<Ticket>> {
        if records.is_empty() {
            return Some(None);
        }
        let journal = self.journal.as_mut().expect("there is a journal");
        let first = journal.next().0;
        let ticket = match journal.append(records, batch) {
            Ok(ticket) => ticket,
            Err(error) => {
                self.failure.set(&error);
                return None;
            }
        };
        for (number, record) in (first..).zip(records.drain(..)) {
            match record {
                Record::State(_) => self.state_at = RecordNumber(number),
                Record::Run(run) => {
                    self.unit.placed(run.first(), RecordNumber(number));
                    let memory = run.block.memory();
                    self.cached_bytes += memory;
                    self.cached.push_back((run.first(), memory));
                }
            }
        }
        Some(Some(ticket))
    }

    fn evict(&mut self) {
        while self.cached_bytes > self.cache_bytes {
            let Some((first, bytes)) = self.cached.pop_front() else { break };
            self.cached_bytes -= bytes;
            self.unit.send_away(first);
        }
    }

    fn oldest_needed(&self) -> RecordNumber {
        self.unit.oldest_record().map_or(self.state_at, |oldest| oldest.min(self.state_at))
    }

    /// Has the files say of which log they are, before there is a record of it.
    fn own(&self) -> bool {
        let Some(state) = self.unit.state() else { return true };
        let owner = Owner { log: state.log, unit: self.unit.number() };
        let owned = Owner::read(&*self.directory)
            .and_then(|known| if known == Some(owner) { Ok(()) } else { owner.write(&*self.directory) });
        owned.inspect_err(|error| self.failure.set(error)).is_ok()
    }

    /// Throws away a damaged journal, for a unit that begins anew.
    fn reset_journal(&mut self) -> bool {
        let (passed, barrier) = mpsc::channel();
        let reached = self.groups.send(Group::Barrier(passed)).is_ok() && barrier.recv().is_ok();
        let journal = self.journal.take().expect("there is a journal");
        if !reached {
            return false;
        }
        let begun = journal.reset().map_err(|error| error.to_string());
        let begin = || begin(&self.boot, self.buffered).map_err(|error| error.to_string());
        match begun.and_then(|journal| begin().map(|()| journal)) {
            Ok(journal) => {
                self.journal = Some(journal);
                true
            }
            Err(error) => {
                self.failure.set(&error);
                false
            }
        }
    }
}

/// What is in the journal is durable, or there is nothing: what comes is buffered, or not.
fn begin(boot: &Boot, buffered: bool) -> std::io::Result<()> {
    if buffered { boot.begin() } else { boot.end() }
}

/// The reply thread.
fn reply(groups: &Receiver<Group>, flushes: &Sender<Wanted>, failed: &Failure) {
    while let Ok(group) = groups.recv() {
        let (ticket, shelf, answers, trim) = match group {
            Group::Answers { ticket, shelf, answers, trim } => (ticket, shelf, answers, trim),
            Group::Barrier(passed) => {
                let _ = flushes.send(Wanted::Barrier(passed));
                continue;
            }
        };
        if let Some(Err(error)) = ticket.map(|ticket| ticket.wait()) {
            failed.set(&error);
        }
        if failed.is_set() {
            continue;
        }
        for (answer, reply) in answers {
            if answer == Answer::Flushed {
                let _ = flushes.send(Wanted::Flush(shelf.clone(), reply));
                continue;
            }
            let loaded: UnitReply = answer.load(|number| shelf.load(number));
            reply.answer(Reply::Unit(loaded));
        }
        if let Some(number) = trim {
            let _ = flushes.send(Wanted::Trim(shelf, number));
        }
    }
}

/// The flush thread. Who asks while it is at it is served by the next one, all together.
fn flush(wanted: &Receiver<Wanted>, failed: &Failure) {
    while let Ok(first) = wanted.recv() {
        let (mut shelf, mut answers, mut trim, mut barriers) = (None, Vec::new(), None, Vec::new());
        for wanted in std::iter::once(first).chain(wanted.try_iter()) {
            match wanted {
                Wanted::Flush(newest, reply) => {
                    shelf = Some(newest);
                    answers.push(reply);
                }
                Wanted::Trim(newest, number) => {
                    shelf = Some(newest);
                    trim = Some(number);
                }
                Wanted::Barrier(passed) => barriers.push(passed),
            }
        }
        if let Some(Err(error)) = shelf.as_ref().map(Shelf::flush) {
            failed.set(&error);
        }
        if !failed.is_set() {
            answers.into_iter().for_each(|reply| reply.answer(Reply::Unit(UnitReply::Done)));
            if let (Some(shelf), Some(number)) = (&shelf, trim) {
                shelf.trim(number);
            }
        }
        // Who waits at a barrier wants all shelves to be gone.
        drop(shelf);
        for passed in barriers {
            let _ = passed.send(());
        }
    }
}
