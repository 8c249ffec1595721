//! A disk in memory that records every call, so that a power cut can be played at each of them.
//!
//! The model: a write is durable when a later `sync_data` of its file succeeds; until then any subset of the
//! 512-byte sectors that it touched may be on the disk. A directory entry is durable when a later
//! `sync_directory` succeeds; until then each creation, rename and removal may have happened or not. A
//! `sync_data` that fails leaves the written bytes readable and clean: a later one does not save them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use mixlog_log::Position;
use mixlog_log::file::{Access, Lock, LockMode, Storage, StorageFile};

/// What a power cut keeps wholly or not at all.
const SECTOR: usize = 512;

/// The manifest has two copies so as not to rely on that, and is torn into these.
const MANIFEST_PIECE: usize = 64;

/// A small generator of random numbers (splitmix64), so that a seed says all.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// One call that changed something, or one event of the test.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Write {
        file: usize,
        offset: u64,
        bytes: Vec<u8>,
    },
    Allocate {
        file: usize,
        bytes: u64,
    },
    Sync {
        file: usize,
    },
    SyncFailed {
        file: usize,
    },
    Create {
        name: String,
        file: usize,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    SyncDirectory,
    /// The test saw this.
    Note(Note),
}

/// What the test saw, and a crash after it must keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// Everything before this was acknowledged.
    Acknowledged(Position),
    Trimmed(Position),
    Sealed(Position),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What a reader sees.
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
}

#[derive(Clone, Debug)]
struct Pending {
    offset: usize,
    bytes: Vec<u8>,
    /// A failed sync marked it clean, so no later one saves it.
    clean: bool,
}

#[derive(Clone, Debug)]
enum Entry {
    Create(String, usize),
    Rename(String, String, usize),
    Remove(String),
}

/// The state of the disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    inodes: Vec<Inode>,
    live: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<Entry>,
}

fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if image.len() < offset + bytes.len() {
        image.resize(offset + bytes.len(), 0);
    }
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
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
    }
}

/// What a power cut does to what was not synced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// All of it is gone.
    Nothing,
    /// All of it is there (as after the end of a process).
    Everything,
    /// Any sectors and names of it are there.
    Some,
}

impl Disk {
    pub(crate) fn apply(&mut self, call: &Call) {
        match call {
            Call::Write { file, offset, bytes } => {
                let offset = usize::try_from(*offset).unwrap();
                let inode = &mut self.inodes[*file];
                put(&mut inode.live, offset, bytes);
                inode.pending.push(Pending { offset, bytes: bytes.clone(), clean: false });
            }
            Call::Allocate { file, bytes } => {
                let inode = &mut self.inodes[*file];
                let (start, end) = (inode.live.len(), usize::try_from(*bytes).unwrap());
                if end > start {
                    inode.live.resize(end, 0);
                    inode.pending.push(Pending { offset: start, bytes: vec![0; end - start], clean: false });
                }
            }
            Call::Sync { file } => {
                let inode = &mut self.inodes[*file];
                for write in inode.pending.extract_if(.., |write| !write.clean) {
                    put(&mut inode.durable, write.offset, &write.bytes);
                }
            }
            Call::SyncFailed { file } => {
                self.inodes[*file].pending.iter_mut().for_each(|write| write.clean = true);
            }
            Call::Create { name, file } => {
                assert_eq!(*file, self.inodes.len());
                self.inodes.push(Inode::default());
                self.change_names(Entry::Create(name.clone(), *file));
            }
            Call::Rename { from, to } => {
                let file = self.live[from];
                self.change_names(Entry::Rename(from.clone(), to.clone(), file));
            }
            Call::Remove { name } => self.change_names(Entry::Remove(name.clone())),
            Call::SyncDirectory => {
                self.durable.clone_from(&self.live);
                self.pending.clear();
            }
            Call::Note(_) => {}
        }
    }

    fn change_names(&mut self, entry: Entry) {
        apply_entry(&mut self.live, &entry);
        self.pending.push(entry);
    }

    /// The disk as it is found after a power cut now.
    pub(crate) fn after(&self, cut: Cut, random: &mut Random) -> Self {
        let survives = |random: &mut Random| match cut {
            Cut::Nothing => false,
            Cut::Everything => true,
            Cut::Some => random.one_in(2),
        };
        let mut names = self.durable.clone();
        for entry in &self.pending {
            if survives(random) {
                apply_entry(&mut names, entry);
            }
        }
        let manifests = ["manifest", "manifest.creating"].map(|name| self.live.get(name).copied());
        let inodes = self.inodes.iter().enumerate().map(|(file, inode)| {
            let piece = if manifests.contains(&Some(file)) { MANIFEST_PIECE } else { SECTOR };
            let mut image = inode.durable.clone();
            for write in &inode.pending {
                let mut start = 0;
                while start < write.bytes.len() {
                    let end = ((write.offset + start) / piece + 1) * piece - write.offset;
                    let end = end.min(write.bytes.len());
                    if survives(random) {
                        put(&mut image, write.offset + start, &write.bytes[start..end]);
                    }
                    start = end;
                }
            }
            Inode { live: image.clone(), durable: image, pending: Vec::new() }
        });
        Self { inodes: inodes.collect(), live: names.clone(), durable: names, pending: Vec::new() }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.live.keys().cloned().collect()
    }

    pub(crate) fn bytes(&self, name: &str) -> &[u8] {
        &self.inodes[self.live[name]].live
    }

    /// Puts these bytes on the disk, durably, whatever the log thinks of it.
    pub(crate) fn set_bytes(&mut self, name: &str, bytes: Vec<u8>) {
        let file = *self.live.entry(name.to_owned()).or_insert(self.inodes.len());
        self.durable.insert(name.to_owned(), file);
        if file == self.inodes.len() {
            self.inodes.push(Inode::default());
        }
        self.inodes[file] = Inode { live: bytes.clone(), durable: bytes, pending: Vec::new() };
    }

    pub(crate) fn delete(&mut self, name: &str) {
        self.live.remove(name);
        self.durable.remove(name);
    }
}

/// A kind of call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Open,
    Read,
    Write,
    Allocate,
    Sync,
    Rename,
    Remove,
    SyncDirectory,
    List,
    Lock,
}

/// Which call fails, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// How many calls of the kind succeed before.
    pub(crate) after: u64,
    /// How many fail then.
    pub(crate) count: u64,
    pub(crate) error: io::ErrorKind,
}

#[derive(Default)]
struct State {
    disk: Disk,
    trace: Vec<Call>,
    fault: Option<Fault>,
    /// How many bytes all files together may have.
    capacity: Option<u64>,
    /// Writes and reads are done in part now and then, or interrupted.
    fitful: Option<u64>,
    shared_locks: usize,
    exclusive_lock: bool,
}

/// The disk as a log sees it.
#[derive(Clone, Default)]
pub(crate) struct Sim {
    state: Arc<Mutex<State>>,
    panics: Arc<AtomicBool>,
}

impl Sim {
    /// A machine that starts with this disk.
    pub(crate) fn boot(disk: Disk) -> Self {
        let sim = Self::default();
        sim.state().disk = disk;
        sim
    }

    pub(crate) fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn disk(&self) -> Disk {
        self.state().disk.clone()
    }

    /// Flips a bit of a file that may be open.
    pub(crate) fn damage(&self, name: &str, at: usize) {
        let mut state = self.state();
        let file = state.disk.live[name];
        state.disk.inodes[file].live[at] ^= 1;
    }

    /// All calls so far.
    pub(crate) fn trace(&self) -> Vec<Call> {
        self.state().trace.clone()
    }

    pub(crate) fn note(&self, note: Note) {
        self.state().call(Call::Note(note));
    }

    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// Makes the next writes panic, as a bug would.
    pub(crate) fn set_panics(&self) {
        self.panics.store(true, Ordering::SeqCst);
    }

    /// Whether the fault has struck.
    pub(crate) fn fault_struck(&self) -> bool {
        self.state().fault.is_some_and(|fault| fault.after == 0)
    }

    pub(crate) fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    pub(crate) fn set_fitful(&self, seed: u64) {
        self.state().fitful = Some(seed);
    }

    pub(crate) fn used(&self) -> u64 {
        self.state().used()
    }
}

impl State {
    fn call(&mut self, call: Call) {
        self.disk.apply(&call);
        self.trace.push(call);
    }

    fn check(&mut self, kind: Kind) -> io::Result<()> {
        let Some(fault) = &mut self.fault else { return Ok(()) };
        if fault.kind != kind {
            return Ok(());
        }
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        if fault.count == 0 {
            return Ok(());
        }
        fault.count -= 1;
        Err(fault.error.into())
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

struct Held {
    state: Weak<Mutex<State>>,
    mode: LockMode,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(state) = self.state.upgrade() {
            let mut state = state.lock().unwrap();
            match self.mode {
                LockMode::Shared => state.shared_locks -= 1,
                LockMode::Exclusive => state.exclusive_lock = false,
            }
        }
    }
}

impl Storage for Sim {
    fn path(&self) -> &Path {
        Path::new("/sim")
    }

    fn exists(&self) -> io::Result<bool> {
        Ok(true)
    }

    fn create_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, mode: LockMode) -> io::Result<Option<Lock>> {
        let mut state = self.state();
        state.check(Kind::Lock)?;
        if state.exclusive_lock || mode == LockMode::Exclusive && state.shared_locks > 0 {
            return Ok(None);
        }
        match mode {
            LockMode::Shared => state.shared_locks += 1,
            LockMode::Exclusive => state.exclusive_lock = true,
        }
        Ok(Some(Box::new(Held { state: Arc::downgrade(&self.state), mode })))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.check(Kind::List)?;
        Ok(state.disk.names())
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        let mut state = self.state();
        state.check(Kind::Open)?;
        let file = match (state.disk.live.get(name).copied(), access) {
            (Some(_), Access::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, Access::CreateNew) => {
                let file = state.disk.inodes.len();
                state.call(Call::Create { name: name.to_owned(), file });
                file
            }
            (Some(file), _) => file,
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(SimFile { sim: self.clone(), file, writable: access != Access::Read }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.check(Kind::Rename)?;
        assert!(!state.disk.live.contains_key(to), "{to} must not be replaced");
        if !state.disk.live.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.call(Call::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.check(Kind::Remove)?;
        if !state.disk.live.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.call(Call::Remove { name: name.to_owned() });
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        state.check(Kind::SyncDirectory)?;
        state.call(Call::SyncDirectory);
        Ok(())
    }
}

struct SimFile {
    sim: Sim,
    file: usize,
    writable: bool,
}

impl StorageFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.sim.state().disk.inodes[self.file].live.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.sim.state();
        state.check(Kind::Read)?;
        let portion = state.portion(buffer.len())?;
        let live = &state.disk.inodes[self.file].live;
        let start = live.len().min(usize::try_from(offset).unwrap());
        let count = portion.min(live.len() - start);
        buffer[..count].copy_from_slice(&live[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        assert!(self.writable, "written through a handle for reading");
        assert!(!self.sim.panics.load(Ordering::SeqCst), "a bug");
        let mut state = self.sim.state();
        state.check(Kind::Write)?;
        state.check_space(self.file, usize::try_from(offset).unwrap() + bytes.len())?;
        let count = state.portion(bytes.len())?;
        state.call(Call::Write { file: self.file, offset, bytes: bytes[..count].to_vec() });
        Ok(count)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.sim.state();
        if let Err(error) = state.check(Kind::Sync) {
            state.call(Call::SyncFailed { file: self.file });
            return Err(error);
        }
        state.call(Call::Sync { file: self.file });
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.sim.state();
        state.check(Kind::Allocate)?;
        state.check_space(self.file, usize::try_from(bytes).unwrap())?;
        state.call(Call::Allocate { file: self.file, bytes });
        Ok(())
    }
}
