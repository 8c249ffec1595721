//! A disk in memory that records every call, so that a power cut can be played at each of them.
//!
//! The model: a write is durable when a later `sync_data` of its file succeeds; until then each of the 512-byte sectors
//! that it touched may be on the disk, as this write left it, or one before or after. A directory entry is durable when a
//! later `sync_directory` succeeds; until then each creation, link, rename and removal may have happened or not. What made a
//! file longer may be there as a length alone, with zeros where the bytes should be. Directories are entries of the
//! directory above them: without its own, nothing that is in one is found. [`Storage::create_directory`] makes one and syncs
//! that above it, which are two calls, and the process may end in between.
//!
//! A `sync_data` that fails leaves the written bytes readable and clean: a later one does not save them, though it does
//! save what was written over them meanwhile, and lengths, which are no bytes. That is what ext4 and XFS do (Rebello et
//! al., Can Applications Recover from fsync Failures?, ATC 2020). The pages with such bytes need no longer be in memory,
//! as those of btrfs are not: on a disk that is made to forget ([`Sim::set_forgetful`]) any read may find the
//! disk's own bytes from then on. The kernel may also have tried to write, and failed, when nobody was there to be told
//! ([`Cut::Unsaved`]): a process that comes later can sync what it reads, successfully and in vain.
//!
//! Left out: what file systems do whose own records cannot be written, since they let nobody write any more; and a
//! `sync_data` that succeeds in vain, as with ext4's `data=journal`.
//!
//! Tests let a program run on a [`Sim`], take its trace, and start the program again on what each prefix of the trace
//! leaves behind.
#![forbid(unsafe_code)]

mod file;
mod inode;
mod random;
mod storage;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use inode::{Inode, Pending, put};
use mixlog_log::Position;
use mixlog_log::file::Storage;
pub use random::Random;

/// What a power cut keeps wholly or not at all.
const SECTOR: usize = 512;

/// The manifest has two copies so as not to rely on that, and is torn into these.
const MANIFEST_PIECE: usize = 64;

/// One call that changed something, or one event of the test.
#[derive(Clone, Debug)]
pub enum Call {
    /// Bytes were written.
    Write {
        /// Number of the file.
        file: usize,
        /// Where.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// A file was made at least that long.
    Allocate {
        /// Number of the file.
        file: usize,
        /// Its new length.
        bytes: u64,
    },
    /// A file was cut.
    Truncate {
        /// Number of the file.
        file: usize,
        /// Its new length.
        bytes: u64,
    },
    /// A file was synced.
    Sync {
        /// Number of the file.
        file: usize,
    },
    /// A file was to be synced, and that failed.
    SyncFailed {
        /// Number of the file.
        file: usize,
    },
    /// Pages of a file whose bytes a failed sync lost were dropped from memory, and will be read from the disk.
    Forget {
        /// Number of the file.
        file: usize,
        /// Which pages, and what of them is on the disk.
        seed: u64,
    },
    /// A file was made.
    Create {
        /// Its name, with its directory.
        name: String,
        /// Its number.
        file: usize,
    },
    /// A file got another name in its directory, which no other file has from then on.
    Rename {
        /// The old name.
        from: String,
        /// The new name.
        to: String,
    },
    /// A file got a second name.
    Link {
        /// The name that it has.
        from: String,
        /// The other one.
        to: String,
    },
    /// A file lost its name.
    Remove {
        /// The name.
        name: String,
    },
    /// A directory was made.
    CreateDirectory {
        /// Its name, with a slash at the end.
        directory: String,
    },
    /// A directory was synced.
    SyncDirectory {
        /// Its name with a slash at the end; nothing for the first one.
        directory: String,
    },
    /// The test saw this.
    Note(Note),
}

/// What the test saw, and a crash after it must keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Everything before this was acknowledged.
    Acknowledged(Position),
    /// Everything before this was given up.
    Trimmed(Position),
    /// The log ends here for good.
    Sealed(Position),
    /// The state after this position is kept.
    Checkpointed(Position),
}

#[derive(Clone, Debug)]
enum Entry {
    Create(String, usize),
    Rename(String, String, usize),
    Remove(String),
    /// With a slash at the end.
    CreateDirectory(String),
}

/// The state of the disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    inodes: Vec<Inode>,
    live: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<Entry>,
    /// With a slash at the end.
    directories: BTreeSet<String>,
    /// Those with a durable entry, which may lie in one that has none.
    durable_directories: BTreeSet<String>,
}

/// Whether a name lies in a directory itself, and not in one below it.
fn is_in(name: &str, directory: &str) -> bool {
    name.trim_end_matches('/').strip_prefix(directory).is_some_and(|rest| !rest.contains('/'))
}

/// The directories that a name lies in, from the lowest one up to the first one.
fn above(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(parent(name), |name| parent(name))
}

/// The directory that a name lies in; `None` for the first one.
fn parent(name: &str) -> Option<&str> {
    let name = name.trim_end_matches('/');
    (!name.is_empty()).then(|| &name[..name.rfind('/').map_or(0, |slash| slash + 1)])
}

/// A file's name without its directory.
fn base(name: &str) -> &str {
    &name[name.rfind('/').map_or(0, |slash| slash + 1)..]
}

fn apply_entry(names: &mut BTreeMap<String, usize>, entry: &Entry) {
    match entry {
        Entry::Create(name, file) => {
            names.insert(name.clone(), *file);
        }
        Entry::Rename(from, to, file) => {
            if names.get(from) == Some(file) {
                names.remove(from);
            }
            names.insert(to.clone(), *file);
        }
        Entry::Remove(name) => {
            names.remove(name);
        }
        Entry::CreateDirectory(_) => {}
    }
}

/// What a power cut does to what was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// All of it is gone.
    Nothing,
    /// There was none, a process has ended: the kernel still has what was not synced, and a later cut may take it.
    Everything,
    /// The same, and the kernel could not write what it had. Nobody was told, and it takes it for saved.
    Unsaved,
    /// Any sectors and names of it are there.
    Some,
}

impl Entry {
    fn name(&self) -> &str {
        match self {
            Self::Create(name, _)
            | Self::Rename(name, ..)
            | Self::Remove(name)
            | Self::CreateDirectory(name) => name,
        }
    }
}

impl Disk {
    /// Does what the call does.
    pub fn apply(&mut self, call: &Call) {
        match call {
            Call::Write { file, offset, bytes } => {
                let offset = usize::try_from(*offset).unwrap();
                let inode = &mut self.inodes[*file];
                put(&mut inode.live, offset, bytes);
                inode.pending.push(Pending { offset, bytes: Some(bytes.clone()), clean: false });
            }
            Call::Allocate { file, bytes } => {
                let inode = &mut self.inodes[*file];
                let (start, end) = (inode.live.len(), usize::try_from(*bytes).unwrap());
                if end > start {
                    inode.live.resize(end, 0);
                    let zeros = Some(vec![0; end - start]);
                    inode.pending.push(Pending { offset: start, bytes: zeros, clean: false });
                }
            }
            Call::Truncate { file, bytes } => {
                let inode = &mut self.inodes[*file];
                let offset = usize::try_from(*bytes).unwrap();
                inode.live.truncate(offset);
                inode.pending.push(Pending { offset, bytes: None, clean: false });
            }
            Call::Sync { file } => {
                let inode = &mut self.inodes[*file];
                let mut lost: Vec<Pending> = Vec::new();
                for write in std::mem::take(&mut inode.pending) {
                    if write.clean {
                        lost.push(write);
                        continue;
                    }
                    match &write.bytes {
                        Some(bytes) => put(&mut inode.durable, write.offset, bytes),
                        None => inode.durable.truncate(write.offset),
                    }
                    // What is durable now is not taken back by what was there before.
                    lost.iter_mut().for_each(|lost| lost.give_way_to(&write));
                }
                inode.pending = lost;
            }
            Call::SyncFailed { file } => self.inodes[*file].lose(),
            Call::Forget { file, seed } => self.inodes[*file].forget(&mut Random(*seed)),
            Call::Create { name, file } => {
                assert_eq!(*file, self.inodes.len());
                self.inodes.push(Inode::default());
                self.change_names(Entry::Create(name.clone(), *file));
            }
            Call::Rename { from, to } => {
                let file = self.live[from];
                self.change_names(Entry::Rename(from.clone(), to.clone(), file));
            }
            Call::Link { from, to } => {
                let file = self.live[from];
                self.change_names(Entry::Create(to.clone(), file));
            }
            Call::Remove { name } => self.change_names(Entry::Remove(name.clone())),
            Call::CreateDirectory { directory } => {
                self.directories.insert(directory.clone());
                self.pending.push(Entry::CreateDirectory(directory.clone()));
            }
            Call::SyncDirectory { directory } => {
                self.durable.retain(|name, _| !is_in(name, directory));
                let live = self.live.iter().filter(|(name, _)| is_in(name, directory));
                self.durable.extend(live.map(|(name, file)| (name.clone(), *file)));
                let made = self.directories.iter().filter(|name| is_in(name, directory));
                self.durable_directories.extend(made.cloned());
                self.pending.retain(|entry| !is_in(entry.name(), directory));
            }
            Call::Note(_) => {}
        }
    }

    fn change_names(&mut self, entry: Entry) {
        apply_entry(&mut self.live, &entry);
        self.pending.push(entry);
    }

    /// The disk as it is found after a power cut now.
    #[must_use]
    pub fn after(&self, cut: Cut, random: &mut Random) -> Self {
        if matches!(cut, Cut::Everything | Cut::Unsaved) {
            let mut kept = self.clone();
            if matches!(cut, Cut::Unsaved) {
                kept.inodes.iter_mut().for_each(Inode::lose);
            }
            return kept;
        }
        let survives = |random: &mut Random| matches!(cut, Cut::Some) && random.one_in(2);
        let (mut names, mut directories) = (self.durable.clone(), self.durable_directories.clone());
        for entry in self.pending.iter().filter(|_| survives(random)) {
            apply_entry(&mut names, entry);
            if let Entry::CreateDirectory(directory) = entry {
                directories.insert(directory.clone());
            }
        }
        let made = directories.clone();
        let is_found = |name: &str| above(name).all(|above| above.is_empty() || made.contains(above));
        names.retain(|name, _| is_found(name));
        directories.retain(|name| is_found(name));
        let is_manifest = |name: &str| matches!(base(name), "manifest" | "manifest.creating");
        let manifests: BTreeSet<usize> =
            self.live.iter().filter(|(name, _)| is_manifest(name)).map(|(_, file)| *file).collect();
        let named: BTreeSet<usize> = names.values().copied().collect();
        let inodes = self.inodes.iter().enumerate().map(|(file, inode)| {
            if !named.contains(&file) {
                return Inode::default();
            }
            let piece = if manifests.contains(&file) { MANIFEST_PIECE } else { SECTOR };
            let mut image = inode.durable.clone();
            // A sector is as one of the writes to it left it: each comes on top of those before.
            let mut left = BTreeMap::new();
            for write in &inode.pending {
                for sector in write.sectors(piece) {
                    *left.entry(sector).or_insert(0) += 1;
                }
            }
            for writes in left.values_mut() {
                *writes = if matches!(cut, Cut::Some) { random.below(*writes + 1) } else { 0 };
            }
            for write in &inode.pending {
                let Some(bytes) = &write.bytes else {
                    if survives(random) {
                        image.truncate(write.offset);
                    }
                    continue;
                };
                for sector in write.sectors(piece) {
                    let start = (sector * piece).max(write.offset) - write.offset;
                    let end = ((sector + 1) * piece - write.offset).min(bytes.len());
                    let left = left.get_mut(&sector).expect("its writes were counted");
                    if *left > 0 {
                        *left -= 1;
                        put(&mut image, write.offset + start, &bytes[start..end]);
                    } else if image.len() < write.offset + end && survives(random) {
                        image.resize(write.offset + end, 0);
                    }
                }
            }
            Inode { live: image.clone(), durable: image, pending: Vec::new() }
        });
        let inodes = inodes.collect();
        Self {
            inodes,
            live: names.clone(),
            durable: names,
            pending: Vec::new(),
            directories: directories.clone(),
            durable_directories: directories,
        }
    }

    /// The names of all files, with their directories.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.live.keys().cloned().collect()
    }

    /// Tells states apart by what can be read: names and contents.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (name, &file) in &self.live {
            (name, &self.inodes[file].live).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// What a file holds.
    #[must_use]
    pub fn bytes(&self, name: &str) -> &[u8] {
        &self.inodes[self.live[name]].live
    }

    /// Puts these bytes on the disk, durably, with the directories above them, whatever the log thinks of it.
    pub fn set_bytes(&mut self, name: &str, bytes: Vec<u8>) {
        for above in above(name).filter(|above| !above.is_empty()) {
            self.directories.insert(above.to_owned());
            self.durable_directories.insert(above.to_owned());
        }
        let file = *self.live.entry(name.to_owned()).or_insert(self.inodes.len());
        self.durable.insert(name.to_owned(), file);
        if file == self.inodes.len() {
            self.inodes.push(Inode::default());
        }
        self.inodes[file] = Inode { live: bytes.clone(), durable: bytes, pending: Vec::new() };
    }

    /// Takes a file away, durably.
    pub fn delete(&mut self, name: &str) {
        self.live.remove(name);
        self.durable.remove(name);
    }
}

/// A kind of call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file is opened or made.
    Open,
    /// Bytes are read.
    Read,
    /// Bytes are written.
    Write,
    /// Space is reserved.
    Allocate,
    /// A file is cut.
    Truncate,
    /// A file is synced.
    Sync,
    /// A file is renamed.
    Rename,
    /// A file gets a second name.
    Link,
    /// A file is removed.
    Remove,
    /// A directory is synced.
    SyncDirectory,
    /// A directory is listed.
    List,
    /// A directory is locked.
    Lock,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// With an error of this kind.
    Kind(io::ErrorKind),
    /// With an error of the operating system: EIO is 5, ENOSPC 28, EINTR 4.
    Errno(i32),
    /// It does not fail, but a read or write does one byte only.
    Short,
}

impl From<io::ErrorKind> for Failure {
    fn from(kind: io::ErrorKind) -> Self {
        Self::Kind(kind)
    }
}

/// Which call fails, and how.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Calls of this kind.
    pub kind: Kind,
    /// How many calls of the kind succeed before.
    pub after: u64,
    /// How many fail then.
    pub count: u64,
    /// How.
    pub error: Failure,
}

#[derive(Default)]
struct State {
    disk: Disk,
    trace: Vec<Call>,
    fault: Option<Fault>,
    /// Whether the last one that was set has struck.
    struck: bool,
    /// The only file whose syncs fail.
    strikes: Option<String>,
    /// Whether one that failed was a sync.
    sync_failed: bool,
    /// Calls that fail since then.
    refuses: Vec<Kind>,
    /// How many bytes all files together may have.
    capacity: Option<u64>,
    /// Writes and reads are done in part now and then, or interrupted.
    fitful: Option<u64>,
    /// What a failed sync lost is forgotten now and then.
    forgetful: Option<Random>,
    /// By directory: how many have it shared, and whether somebody has it alone.
    locks: BTreeMap<String, (usize, bool)>,
    /// What the machine's boot is called.
    boot: String,
}

/// The disk as a log sees it.
#[derive(Clone)]
pub struct Sim {
    state: Arc<Mutex<State>>,
    panics: Arc<AtomicBool>,
    /// Its name with a slash at the end; nothing for the first one.
    directory: String,
    path: PathBuf,
}

impl Default for Sim {
    /// A machine with an empty disk.
    fn default() -> Self {
        static BOOTS: AtomicU64 = AtomicU64::new(0);
        let boot = format!("boot {}", BOOTS.fetch_add(1, Ordering::Relaxed));
        let state = Arc::new(Mutex::new(State { boot, ..State::default() }));
        Self { state, panics: Arc::default(), directory: String::new(), path: PathBuf::from("/sim") }
    }
}

impl Sim {
    /// A machine that starts with this disk.
    #[must_use]
    pub fn boot(disk: Disk) -> Self {
        let sim = Self::default();
        sim.state().disk = disk;
        sim
    }

    /// The first directory, as logs see it.
    #[must_use]
    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    /// A name with this directory.
    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.directory)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The disk as it is.
    #[must_use]
    pub fn disk(&self) -> Disk {
        self.state().disk.clone()
    }

    /// Flips a bit of a file that may be open.
    pub fn damage(&self, name: &str, at: usize) {
        let mut state = self.state();
        let file = state.disk.live[name];
        state.disk.inodes[file].live[at] ^= 1;
    }

    /// All calls so far.
    #[must_use]
    pub fn trace(&self) -> Vec<Call> {
        self.state().trace.clone()
    }

    /// Puts what the test saw into the trace.
    pub fn note(&self, note: Note) {
        self.state().call(Call::Note(note));
    }

    /// Makes calls fail from now on, or no more.
    pub fn set_fault(&self, fault: Option<Fault>) {
        let mut state = self.state();
        state.struck &= fault.is_none();
        state.fault = fault;
    }

    /// Names the boot of the machine: each [`Sim`] is another machine, or another boot of it, unless it is called the same.
    pub fn set_boot(&self, name: &str) {
        name.clone_into(&mut self.state().boot);
    }

    /// Lets syncs of files fail only if they are called so, or of all.
    pub fn set_strikes(&self, name: Option<&str>) {
        self.state().strikes = name.map(str::to_owned);
    }

    /// Makes calls of these kinds fail as soon as a sync has failed, as on a file system that is to be read only from then on.
    pub fn set_refuses_after_failed_sync(&self, kinds: &[Kind]) {
        self.state().refuses = kinds.to_vec();
    }

    /// Makes the next writes panic, as a bug would.
    pub fn set_panics(&self) {
        self.panics.store(true, Ordering::SeqCst);
    }

    /// Whether the last fault that was set has struck, though it may be set no more.
    #[must_use]
    pub fn fault_struck(&self) -> bool {
        self.state().struck
    }

    /// Limits the bytes of all files together.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Lets reads and writes be done in part now and then, or be interrupted.
    pub fn set_fitful(&self, seed: u64) {
        self.state().fitful = Some(seed);
    }

    /// Lets reads find now and then that pages with bytes which a failed sync lost are no longer in memory.
    pub fn set_forgetful(&self, seed: u64) {
        self.state().forgetful = Some(Random(seed));
    }

    /// The bytes of all files together.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state().used()
    }
}

impl State {
    fn call(&mut self, call: Call) {
        self.disk.apply(&call);
        self.trace.push(call);
    }

    fn check(&mut self, kind: Kind) -> io::Result<()> {
        self.check_length(kind, 0).map(|_| ())
    }

    /// How many of so many bytes the call may do.
    fn check_length(&mut self, kind: Kind, bytes: usize) -> io::Result<usize> {
        if self.sync_failed && self.refuses.contains(&kind) {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let Some(fault) = &mut self.fault else { return Ok(bytes) };
        if fault.kind != kind {
            return Ok(bytes);
        }
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(bytes);
        }
        if fault.count == 0 {
            return Ok(bytes);
        }
        fault.count -= 1;
        let error = fault.error;
        self.struck = true;
        self.sync_failed |= matches!(kind, Kind::Sync | Kind::SyncDirectory);
        match error {
            Failure::Kind(kind) => Err(kind.into()),
            Failure::Errno(number) => Err(io::Error::from_raw_os_error(number)),
            Failure::Short => Ok(bytes.min(1)),
        }
    }

    fn may_strike(&self, file: usize) -> bool {
        self.strikes.as_ref().is_none_or(|name| self.disk.live.get(name) == Some(&file))
    }

    fn used(&self) -> u64 {
        self.disk.live.values().map(|file| self.disk.inodes[*file].live.len() as u64).sum()
    }

    /// Refuses a file that would grow to `end` past the capacity.
    fn check_space(&self, file: usize, end: usize) -> io::Result<()> {
        let growth = end.saturating_sub(self.disk.inodes[file].live.len()) as u64;
        match self.capacity {
            Some(capacity) if growth > 0 && self.used() + growth > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    /// Before a read.
    fn forget_some(&mut self, file: usize) {
        let Some(random) = &mut self.forgetful else { return };
        if random.one_in(2) && self.disk.inodes[file].pending.iter().any(|write| write.clean) {
            let seed = random.next();
            self.call(Call::Forget { file, seed });
        }
    }

    /// How much of `bytes` a fitful disk does at once.
    fn portion(&mut self, bytes: usize) -> io::Result<usize> {
        let Some(seed) = &mut self.fitful else { return Ok(bytes) };
        let mut random = Random(*seed);
        *seed = random.next();
        match random.below(4) {
            0 => Err(io::ErrorKind::Interrupted.into()),
            1 => Ok(bytes.div_ceil(3)),
            _ => Ok(bytes),
        }
    }
}

#[cfg(test)]
mod tests;
