//! Who takes checkpoints while an engine runs: on request, by bytes of log, by time, and when the disk is full.
//!
//! A checkpoint is what lets the log be trimmed, so it must not need the space that only it can free:
//!
//! ```text
//! space for one more checkpoint is always in hand: an older one that can be given up, or `checkpoint.spare`
//!
//! append finds the disk full ──> checkpoint written over the spare or the oldest ──> log trimmed
//! ```
//!
//! Over them, and not beside them after they were removed: what is free for a moment is won by whoever asks first.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use mixlog_log::file::{Lock, LockMode};
use mixlog_log::{FlushError, Position, SharedLog, TrimError};

use super::due::{Closed, Wake};
use super::layout::{FileHeader, file_name};
use super::load::agreed_after;
use super::read::{Bad, Opened};
use super::shelf::{SPARE, Shelf, WRITING};
use super::write::WriteError;
use super::{Checkpoint, CheckpointError, Config, Recovery, is_full};
use crate::agreement::{AgreedState, Membership};
use crate::digest::Digest;
use crate::engine::now_us;
use crate::entry::Catalog;
use crate::observe;
use crate::panics::caught;
use crate::pipeline::Shared;
use crate::snapshot::Snapshot;

/// After a failure it is tried again when this share of the bytes, or of the time, between two checkpoints has passed.
const RETRY_SHARE: u32 = 8;

/// After an attempt that freed nothing, a disk that is full is left alone for so long, or for as long as four attempts
/// take.
const PAUSE: Duration = Duration::from_secs(1);

/// A disk with less space than that, in bytes, is taken for one that is nearly full.
const SCARCE: u64 = 64 << 20;

/// Takes the checkpoints of one engine, one at a time.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    log: Arc<dyn SharedLog>,
    shelf: Shelf,
    config: Config,
    /// The engine is being closed.
    stop: Arc<AtomicBool>,
    /// For a member: only what was agreed is kept.
    agreed: Option<Arc<AgreedState>>,
    membership: Option<Membership>,
    /// Held as long as a checkpoint is being taken. Who only looks does not wait for that.
    kept: Mutex<Kept>,
    /// The positions of the good ones in it.
    listed: Mutex<Vec<Position>>,
    /// Why the newest attempt failed.
    failure: Mutex<Option<String>>,
    /// The last one that was taken, by whomever.
    taken: Mutex<Option<Taken>>,
}

/// When a checkpoint was taken, and how many bytes had been executed then.
#[derive(Clone, Copy, Debug)]
struct Taken {
    at: Instant,
    executed: u64,
}

/// What the thread that takes them knows of the last one.
struct Last {
    /// How many bytes had been executed then.
    executed: u64,
    /// When one was last taken or tried, or was due by the clock and there was nothing to keep. The thread wakes for other
    /// reasons in between, which must not have the time begin anew.
    tried: Instant,
    failed: bool,
}

impl Last {
    /// One on request counts as well.
    fn hear(&mut self, taken: Option<Taken>) {
        if let Some(Taken { at, executed }) = taken.filter(|taken| taken.at > self.tried) {
            *self = Self { executed, tried: at, failed: false };
        }
    }
}

/// What lies on the shelf, oldest first.
#[derive(Default)]
struct Kept {
    good: Vec<Position>,
    /// Found to be damaged or wrong, or to lie before the log's head.
    bad: Vec<Position>,
    /// Those of the good ones that this engine wrote, or that it read and found right.
    sound: BTreeSet<Position>,
    /// The newest one's length, and its rows, where they were counted.
    bytes: u64,
    rows: Option<u64>,
    /// Whether it is certain that the newest one's name is durable.
    synced: bool,
    /// Held as long as the directory is this engine's: no other one changes what lies there.
    lock: Option<Lock>,
    /// Before which the log would have been trimmed but for members that lag, oldest first.
    held: VecDeque<Position>,
}

impl Kept {
    /// Looks at what lies there.
    fn look(&mut self, shelf: &Shelf) -> io::Result<()> {
        let mut good = shelf.list()?;
        self.bad.retain(|position| good.contains(position));
        good.retain(|position| !self.bad.contains(position));
        // By their names alone they may be another log's.
        let is_other = |position: &Position| match shelf.open(*position) {
            Err(bad) if !self.good.contains(position) => {
                observe::rejected(&file_name(*position), &bad);
                true
            }
            _ => false,
        };
        self.bad.extend(good.extract_if(.., |position| is_other(position)));
        if self.good.last() != good.last() {
            let newest = good.last().and_then(|position| shelf.open(*position).ok());
            self.bytes = newest.map_or(0, |opened| opened.bytes);
            (self.rows, self.synced) = (None, false);
        }
        self.good = good;
        Ok(())
    }
}

impl Keeper {
    /// # Errors
    /// The shelf cannot be looked at.
    pub(crate) fn new(
        shared: Arc<Shared>,
        log: Arc<dyn SharedLog>,
        shelf: Shelf,
        config: Config,
        stop: Arc<AtomicBool>,
        member: Option<(Membership, Arc<AgreedState>)>,
        recovery: &Recovery,
    ) -> io::Result<Self> {
        let head = log.tail().map_err(|error| io::Error::new(io::ErrorKind::TimedOut, error))?.head;
        let is_rejected = |&position: &Position| {
            let name = file_name(position);
            position.next() < head || recovery.rejected.iter().any(|rejected| rejected.name == name)
        };
        let bad = shelf.list()?.into_iter().filter(is_rejected).collect();
        let mut kept = Kept { bad, ..Kept::default() };
        kept.look(&shelf)?;
        let is_loaded = recovery.checkpoint.is_some() && recovery.checkpoint == kept.good.last().copied();
        kept.rows = is_loaded.then_some(recovery.rows);
        kept.sound.extend(recovery.checkpoint);
        let (membership, agreed) = member.unzip();
        Ok(Self {
            shared,
            log,
            shelf,
            config,
            stop,
            agreed,
            membership,
            listed: Mutex::new(kept.good.clone()),
            kept: Mutex::new(kept),
            failure: Mutex::default(),
            taken: Mutex::default(),
        })
    }

    /// The positions of the checkpoints on the disk that are not known to be bad, oldest first.
    pub(crate) fn list(&self) -> Vec<Position> {
        self.listed.lock().expect("no panic in a short section").clone()
    }

    /// Tells whoever looks what is kept, right after it has changed.
    fn show(&self, kept: &Kept) {
        self.listed.lock().expect("no panic in a short section").clone_from(&kept.good);
    }

    /// Whether a checkpoint is being taken.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.kept.try_lock(), Err(TryLockError::WouldBlock))
    }

    fn error(&self, action: &'static str, name: &str) -> impl FnOnce(io::Error) -> CheckpointError {
        let path = self.shelf.storage.path().join(name);
        move |source| CheckpointError::Io { action, path, source: Arc::new(source) }
    }

    /// The same as [`take_one`](Self::take_one), and tells those who watch.
    pub(crate) fn take(&self) -> Result<Checkpoint, CheckpointError> {
        let taken = self.take_one();
        let set = |failure| *self.failure.lock().expect("no panic in a short section") = failure;
        match &taken {
            Ok(_) => {
                set(None);
                *self.taken.lock().expect("no panic in a short section") =
                    Some(Taken { at: Instant::now(), executed: self.shared.due.executed() });
            }
            Err(CheckpointError::Empty | CheckpointError::NotAgreed | CheckpointError::Stopped) => {}
            Err(error) => {
                set(Some(error.to_string()));
                observe::checkpoint_failed(error);
            }
        }
        taken
    }

    /// Why the newest attempt failed, if it did.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().expect("no panic in a short section").clone()
    }

    /// The last one that was taken since the engine was opened.
    fn taken(&self) -> Option<Taken> {
        *self.taken.lock().expect("no panic in a short section")
    }

    /// The newest state that may be kept: the newest committed one, or for a member the newest that was agreed.
    fn newest(&self) -> Result<(Snapshot, Digest), CheckpointError> {
        let Some(agreed) = &self.agreed else {
            return self.shared.snapshot_with_digest().ok_or(CheckpointError::Stopped);
        };
        // It may have stopped since it differs from the others.
        if self.shared.in_flight.stopped().is_some() {
            return Err(CheckpointError::Stopped);
        }
        agreed.newest().ok_or_else(|| {
            agreed.want();
            CheckpointError::NotAgreed
        })
    }

    /// What is kept, for whoever changes it. A panic leaves it right: it is changed after the disk was, step by step.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the directory this engine's as long as it lives: who takes checkpoints there gives up older ones, uses their
    /// space, and trims the log, and two who do so leave none that is of use.
    ///
    /// # Errors
    /// It is another engine's; nothing in it may be changed.
    fn own(&self, kept: &mut Kept) -> Result<(), CheckpointError> {
        if kept.lock.is_some() {
            return Ok(());
        }
        let storage = &self.shelf.storage;
        // Also if it is there: whoever made it may not have come to making that durable.
        storage.create_directory().map_err(self.error("create", ""))?;
        let lock = storage.lock(LockMode::Exclusive).map_err(self.error("lock", ""))?;
        let Some(lock) = lock else {
            return Err(CheckpointError::InUse { path: storage.path().to_path_buf() });
        };
        // Whoever had it meanwhile kept others in it.
        kept.look(&self.shelf).map_err(self.error("look at", ""))?;
        // How long members have been waited for already is not known, so it is for one more checkpoint.
        if let Some(&oldest) = kept.good.first() {
            kept.held = std::iter::repeat_n(oldest, self.config.lag).collect();
        }
        self.show(kept);
        kept.lock = Some(lock);
        Ok(())
    }

    /// Takes a checkpoint of the newest state that may be kept, gives up those that are too many, and trims the log. Rows
    /// are copied and written by code of theirs: that it panics must not be the end of all checkpoints.
    fn take_one(&self) -> Result<Checkpoint, CheckpointError> {
        let begun = Instant::now();
        let mut kept = self.kept();
        let taken = caught(|| self.take_with(&mut kept, begun));
        taken.unwrap_or_else(|payload| {
            // As after any failure but that of a full disk; before anybody else writes one.
            if kept.lock.is_some() {
                let _ = self.shelf.remove(WRITING);
            }
            Err(CheckpointError::Panicked(payload.message().to_owned()))
        })
    }

    fn take_with(&self, kept: &mut Kept, begun: Instant) -> Result<Checkpoint, CheckpointError> {
        let mut closed = None;
        if self.stop.load(Ordering::Relaxed) {
            return Err(CheckpointError::Stopped);
        }
        let (snapshot, digest) = self.newest()?;
        let position = snapshot.position().ok_or(CheckpointError::Empty)?;
        self.own(kept)?;
        if kept.good.last() > Some(&position) {
            self.want_agreement();
            return Err(CheckpointError::NotAgreed);
        }
        let bad = |bad: Bad| self.error("read", &file_name(position))(io::Error::other(bad.to_string()));
        let there = match kept.good.last().copied() {
            Some(newest) if newest == position && self.is_sound(kept, position)? => {
                Some(self.shelf.open(position).map_err(bad)?)
            }
            _ => None,
        };
        let is_there = there.is_some();
        // One with rows that were converted when it was loaded is replaced, by one that takes no conversion.
        let checkpoint = if let Some(Opened { bytes, .. }) =
            there.filter(|there| has_formats_of(there, &snapshot))
        {
            let rows = match kept.rows {
                Some(rows) => rows,
                None => self.shelf.verify(position).map_err(bad)?,
            };
            kept.rows = Some(rows);
            self.sync_names(kept)?;
            Checkpoint { position, rows, bytes, elapsed: begun.elapsed() }
        } else {
            let catalog = self.shared.known_catalog();
            // A state that survives a power cut which the log's entries do not would be that of another log.
            let flushed = self.log.flush()?;
            if position >= flushed {
                // What was executed is in the log: it was not asked how far it reaches by now.
                return Err(FlushError::Unavailable.into());
            }
            let header = FileHeader {
                log: self.shelf.log,
                position,
                state: digest.state,
                replies: digest.replies,
                taken_us: now_us(),
            };
            // Whatever comes of it, another name is there, or the same one anew.
            kept.synced = false;
            let (rows, bytes) = self.write_in_any_space(kept, &mut closed, &header, &catalog, &snapshot)?;
            if !is_there {
                kept.bad.retain(|bad| *bad != position);
                kept.good.push(position);
                self.show(kept);
            }
            (kept.bytes, kept.rows, kept.synced) = (bytes, Some(rows), true);
            kept.sound.insert(position);
            let taken = Checkpoint { position, rows, bytes, elapsed: begun.elapsed() };
            observe::checkpointed(&taken);
            taken
        };
        drop(snapshot);
        self.look_through(kept)?;
        self.tidy(kept)?;
        let ahead = self.config.every_bytes.unwrap_or(0).saturating_mul(2) / u64::from(RETRY_SHARE);
        if let Err(error) = self.reserve(kept, ahead)
            && is_full(&error)
        {
            closed.get_or_insert_with(|| self.shared.due.close(Arc::new(error)));
        }
        // Until there are as many as there should be, the log from its start stands in for those that are missing.
        let is_scarce = closed.is_some() || self.is_scarce(kept);
        if is_scarce {
            self.trim(kept.good[0])?;
        } else if kept.good.len() >= self.config.keep.max(1) {
            self.trim_behind_members(kept)?;
        }
        if closed.is_some() {
            // Before the log takes what it was trimmed by. If it is not enough, it is tried again.
            let _ = self.reserve(kept, ahead);
        }
        Ok(checkpoint)
    }

    /// Writes it, in the space that was kept for it; on a disk that is full over the oldest.
    fn write_in_any_space<'a>(
        &'a self,
        kept: &mut Kept,
        closed: &mut Option<Closed<'a>>,
        header: &FileHeader,
        catalog: &Catalog,
        snapshot: &Snapshot,
    ) -> Result<(u64, u64), CheckpointError> {
        // It is never given up for itself.
        let replaces = kept.good.last() == Some(&header.position);
        loop {
            let written = self.write(header, catalog, snapshot, replaces);
            let Err(error) = &written else { return written };
            let Some(full) = error.no_space() else {
                // If that fails, too, the next attempt finds it.
                let _ = self.shelf.remove(WRITING);
                return written;
            };
            // The log would take what is free now, segment by segment, and nobody would ever trim it.
            closed.get_or_insert_with(|| self.shared.due.close(Arc::clone(full)));
            if !self.give_up_oldest(kept)? {
                let _ = self.keep_space_of(WRITING);
                return written;
            }
        }
    }

    /// Where no space is kept, whether there is hardly any for as much again and some more of the log.
    fn is_scarce(&self, kept: &Kept) -> bool {
        !self.keeps_space() && self.shelf.has_less_than(kept.bytes.saturating_add(SCARCE))
    }

    /// Whether space for the next checkpoint is kept: there will be one, and it makes the log shorter.
    const fn keeps_space(&self) -> bool {
        self.config.trim && (self.config.every_bytes.is_some() || self.config.every.is_some())
    }

    fn keep_space_of(&self, name: &str) -> io::Result<()> {
        if self.keeps_space() { self.shelf.hand_over(name, SPARE) } else { self.shelf.remove(name) }
    }

    /// Looks for as many checkpoints, from the newest on, as are kept, and as are right. In place of all that are older, and
    /// of the log before them, they must be: there may be some that an earlier engine kept, and nobody has read since.
    fn look_through(&self, kept: &mut Kept) -> Result<(), CheckpointError> {
        let mut sound = 0;
        for position in kept.good.clone().into_iter().rev() {
            if sound == self.config.keep.max(1) {
                break;
            }
            sound += usize::from(self.is_sound(kept, position)?);
        }
        Ok(())
    }

    /// Whether a checkpoint is whole, and nothing that members agreed on contradicts it. One that is not is good no more.
    fn is_sound(&self, kept: &mut Kept, position: Position) -> Result<bool, CheckpointError> {
        if kept.sound.contains(&position) {
            return Ok(true);
        }
        match self.read_through(position)? {
            Ok(rows) => {
                kept.sound.insert(position);
                if kept.good.last() == Some(&position) {
                    kept.rows = Some(rows);
                }
                Ok(true)
            }
            Err(reason) => {
                observe::rejected(&file_name(position), &reason);
                kept.good.retain(|good| *good != position);
                kept.bad.push(position);
                self.show(kept);
                Ok(false)
            }
        }
    }

    /// Reads a checkpoint, and what the log says of it; tells how many rows it has. The inner error is why it is of no use.
    fn read_through(&self, position: Position) -> Result<Result<u64, String>, CheckpointError> {
        let head = self.log.tail().map_err(TrimError::from)?.head;
        if position.next() < head {
            return Ok(Err(format!("the log begins at {head} by now")));
        }
        let whole = || {
            let opened = self.shelf.open(position)?;
            Ok::<_, Bad>((opened.verify(|verify| verify())?, opened))
        };
        let (rows, opened) = match whole() {
            Ok(whole) => whole,
            Err(bad) => return Ok(Err(bad.to_string())),
        };
        match agreed_after(&*self.log, self.membership.as_ref(), &opened) {
            Ok(right) => Ok(right.map(|_| rows)),
            // Somebody else has kept a later one meanwhile.
            Err(error) if error.is_trimmed() => Ok(Err(error.to_string())),
            Err(error) => Err(self.error("compare with the log", &opened.name)(io::Error::other(error))),
        }
    }

    /// Gives up the oldest of several checkpoints, whose space is the next one's, and the log that only it needs; tells
    /// whether there was one to give. The next one is read before, unless that was done.
    fn give_up_oldest(&self, kept: &mut Kept) -> Result<bool, CheckpointError> {
        let (oldest, next) = loop {
            let &[oldest, next, ..] = &kept.good[..] else { return Ok(false) };
            if kept.good.len() == 2 {
                // It will be all that there is: also one that was written by this engine is read once more.
                kept.sound.remove(&next);
            }
            if self.is_sound(kept, next)? {
                break (oldest, next);
            }
        };
        let name = file_name(oldest);
        self.shelf.hand_over(&name, SPARE).map_err(self.error("give up", &name))?;
        kept.good.remove(0);
        self.show(kept);
        self.shelf.storage.sync_directory().map_err(self.error("sync", ""))?;
        self.trim(next)?;
        Ok(true)
    }

    fn remove(&self, position: Position) -> Result<(), CheckpointError> {
        let name = file_name(position);
        self.shelf.remove(&name).map_err(self.error("remove", &name))
    }

    /// Gives up the log before `oldest`, if that is wanted; tells whether there was any.
    fn trim(&self, oldest: Position) -> Result<bool, CheckpointError> {
        let is_longer = self.config.trim && self.log.tail().map_err(TrimError::from)?.head < oldest.next();
        if is_longer {
            self.log.trim(oldest.next())?;
        }
        Ok(is_longer)
    }

    /// The same for the oldest one that is kept, as far as members that lag do not need the log; but not for ever.
    fn trim_behind_members(&self, kept: &mut Kept) -> Result<(), CheckpointError> {
        let mut oldest = kept.good[0];
        if let Some(agreed) = &self.agreed {
            if kept.held.back() < Some(&oldest) {
                kept.held.push_back(oldest);
            }
            let too_long = kept.held.len().saturating_sub(self.config.lag);
            let longest = kept.held.drain(..too_long).next_back();
            let Some(needless) = agreed.voted_by_all().map(|voted| oldest.min(voted)).max(longest) else {
                return Ok(());
            };
            oldest = needless;
            kept.held.retain(|held| *held > needless);
        }
        self.trim(oldest).map(drop)
    }

    fn want_agreement(&self) {
        if let Some(agreed) = &self.agreed {
            agreed.want();
        }
    }

    fn write(
        &self,
        header: &FileHeader,
        catalog: &Catalog,
        snapshot: &Snapshot,
        replaces: bool,
    ) -> Result<(u64, u64), CheckpointError> {
        let (shelf, position) = (&self.shelf, header.position);
        shelf.clear().map_err(self.error("prepare", ""))?;
        if !replaces {
            // It is no good, or it would not be written again.
            self.remove(position)?;
        }
        let stop = || self.stop.load(Ordering::Relaxed);
        let written = super::write::write(&*shelf.storage, WRITING, header, catalog, snapshot, &stop)
            .map_err(|error| match error {
                WriteError::Io(error) => self.error("write", WRITING)(error),
                WriteError::Row(table, source) => CheckpointError::Row { table, source },
                WriteError::TooLarge(table, bytes) => CheckpointError::TooLarge { table, bytes },
                WriteError::Digest(found) => {
                    CheckpointError::Changed { position, found, expected: header.state }
                }
            })?
            .ok_or(CheckpointError::Stopped)?;
        if let Err(error) = shelf.install(position) {
            // Whether it is there for good is not known, so it is not there. In place of a good one either is good.
            if !replaces {
                let _ = shelf.remove(&file_name(position));
            }
            return Err(self.error("name", &file_name(position))(error));
        }
        Ok((written.rows, written.bytes))
    }

    /// Gives up the checkpoints that are too many. The space of one whose follower stays alone is kept.
    fn tidy(&self, kept: &mut Kept) -> Result<(), CheckpointError> {
        let mut removed = false;
        while kept.good.len() > self.config.keep.max(1) {
            let name = file_name(kept.good[0]);
            let given =
                if kept.good.len() == 2 { self.keep_space_of(&name) } else { self.shelf.remove(&name) };
            given.map_err(self.error("give up", &name))?;
            kept.good.remove(0);
            self.show(kept);
            removed = true;
        }
        let oldest = kept.good[0];
        kept.sound.retain(|sound| *sound >= oldest);
        if kept.good.len() == self.config.keep.max(1) {
            // Evidence is kept until there are as many good ones as there should be.
            for bad in kept.bad.extract_if(.., |bad| *bad < oldest).collect::<Vec<_>>() {
                self.remove(bad)?;
                removed = true;
            }
        }
        if removed {
            self.shelf.storage.sync_directory().map_err(self.error("sync", ""))?;
        }
        Ok(())
    }

    /// Keeps space for the next checkpoint, unless an older one can be given up for it: as much as the newest one took,
    /// and `executed`, the bytes of entries since.
    fn reserve(&self, kept: &Kept, executed: u64) -> io::Result<()> {
        if !self.keeps_space() {
            return Ok(());
        }
        if kept.good.len() > 1 {
            return self.shelf.give_back();
        }
        let reserved = self.shelf.reserve(kept.bytes.saturating_add(executed));
        if reserved.is_err() {
            // Often that is enough: rows are replaced, and the log has to do with the other half.
            let _ = self.shelf.reserve_half(kept.bytes);
        }
        reserved
    }

    /// Whether there is no later state to be kept than the last one that was.
    fn is_up_to_date(&self) -> bool {
        let newest = match &self.agreed {
            Some(agreed) => agreed.position(),
            None => self.shared.snapshots.tail().previous(),
        };
        newest <= self.kept().good.last().copied()
    }

    /// A process that ended before it could sync may have named the newest checkpoint: the next power cut would take it.
    fn sync_names(&self, kept: &mut Kept) -> Result<(), CheckpointError> {
        if !kept.synced {
            self.shelf.storage.sync_directory().map_err(self.error("sync", ""))?;
            kept.synced = true;
        }
        Ok(())
    }

    /// The log has no space left: takes a checkpoint, or gives up older ones when the newest is of the newest state, so
    /// that the log can be trimmed. Tells whether that freed anything.
    fn make_space(&self) -> Result<bool, CheckpointError> {
        if !self.keeps_space() {
            return Ok(false);
        }
        if !self.is_up_to_date() {
            return self.take().map(|_| true);
        }
        self.want_agreement();
        let mut kept = self.kept();
        self.own(&mut kept)?;
        if kept.good.is_empty() {
            return Ok(false);
        }
        self.sync_names(&mut kept)?;
        let given_up = self.give_up_oldest(&mut kept)?;
        let oldest = kept.good[0];
        Ok(self.is_sound(&mut kept, oldest)? && self.trim(oldest)? || given_up)
    }

    /// Takes checkpoints when they are due, until told to stop.
    pub(crate) fn run(&self) {
        self.run_until_stopped();
        // A log that nobody writes to does not grow. After a crash it stays, and is used again.
        if self.kept().lock.is_some() {
            let _ = self.shelf.give_back();
        }
    }

    fn run_until_stopped(&self) {
        // Somebody else's turn comes first: a checkpoint is in no hurry, and drivers wait for each other.
        let _ = rustix::process::nice(10);
        let due = &self.shared.due;
        let mut last = Last { executed: 0, tried: Instant::now(), failed: false };
        // For the members to agree on a state to keep.
        let mut waits = false;
        let (mut pause, mut looked_at) = (Instant::now(), 0);
        // How many bytes had been executed when one was due last.
        let mut due_at = None;
        loop {
            last.hear(self.taken());
            let (mut scarce, mut overdue) = (false, false);
            if let Some(bytes) = self.config.every_bytes {
                let executed = due.executed();
                let step = (bytes / u64::from(RETRY_SHARE)).max(1);
                // Space that is about to end is a reason to free some, once in a while.
                let mut kept = self.kept();
                // Two steps ahead: when it fails, what was reserved before is still enough for what is there now.
                if self.own(&mut kept).is_ok()
                    && self
                        .reserve(&kept, executed - last.executed + 2 * step)
                        .is_err_and(|error| is_full(&error))
                    && executed >= looked_at + step
                {
                    (scarce, looked_at) = (true, executed);
                }
                let (enough, next) = (last.executed.saturating_add(bytes), executed.saturating_add(step));
                due.wake_at(if enough > executed { next.min(enough) } else { next });
                // Also at once, after a process that ended before it had taken one: the next may be as short.
                overdue = enough <= executed && due_at.is_none_or(|at| executed >= step.saturating_add(at));
            }
            let deadline = |last: &Last| {
                let share = if last.failed { RETRY_SHARE } else { 1 };
                self.config.every.and_then(|every| last.tried.checked_add(every / share))
            };
            match if scarce || overdue { Wake::Due } else { due.wait(deadline(&last)) } {
                Wake::Stop => return,
                Wake::Space => {
                    let begun = Instant::now();
                    if begun < pause {
                        continue;
                    }
                    match self.make_space() {
                        Ok(true) => {
                            last = Last { executed: due.executed(), tried: Instant::now(), failed: false };
                        }
                        Err(CheckpointError::Stopped) => return,
                        Ok(false) | Err(_) => pause = Instant::now() + PAUSE.max(4 * begun.elapsed()),
                    }
                    continue;
                }
                Wake::Due => {}
            }
            last.hear(self.taken());
            due_at = Some(due.executed());
            let since = due.executed() - last.executed;
            let timed = deadline(&last).is_some_and(|deadline| Instant::now() >= deadline);
            let enough = self.config.every_bytes.is_some_and(|bytes| since >= bytes);
            if !(scarce || timed || enough || last.failed || waits) {
                continue;
            }
            self.want_agreement();
            let up_to_date = self.is_up_to_date();
            waits = up_to_date && self.agreed.is_some();
            if up_to_date {
                if timed {
                    last.tried = Instant::now();
                }
                continue;
            }
            let taken = self.take();
            last.hear(self.taken());
            last.tried = Instant::now();
            match taken {
                Ok(_) | Err(CheckpointError::Empty) => {}
                Err(CheckpointError::Stopped) => return,
                Err(_) => last.failed = true,
            }
        }
    }
}

/// Whether the rows in it are written as those that the snapshot sees would be.
fn has_formats_of(opened: &Opened, snapshot: &Snapshot) -> bool {
    let store = snapshot.store();
    opened.tables.iter().all(|table| {
        let of_now = store.tables().find(|now| now.name() == table.name).map(|now| now.row_format());
        of_now.is_none_or(|format| format == table.format)
    })
}

#[cfg(all(test, not(loom)))]
mod tests;
