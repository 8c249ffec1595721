//! A journal's directory that sees its syncs fail: what was written before may be lost then, and the unit's files say so
//! before anybody hears of it, and before the directory can be opened again.
//!
//! A file that is new holds nothing that was acknowledged until it gets the name that it is found by: a segment that is
//! reserved on a disk that is full, for example, may fail to be synced again and again.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::file::{Access, Lock, LockMode, Storage, StorageFile};

use super::boot::Boot;

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// The directory.
pub(crate) struct Watched {
    storage: Arc<dyn Storage>,
    boot: Arc<Boot>,
    /// Files that were made, and not renamed since.
    made: Mutex<BTreeMap<String, Arc<AtomicBool>>>,
}

struct WatchedFile {
    file: Arc<dyn StorageFile>,
    boot: Arc<Boot>,
    /// Whether it may hold what was acknowledged.
    counts: Arc<AtomicBool>,
}

impl Watched {
    pub(crate) fn new(storage: Arc<dyn Storage>, boot: Arc<Boot>) -> Self {
        Self { storage, boot, made: Mutex::default() }
    }
}

fn watch(boot: &Boot, synced: io::Result<()>) -> io::Result<()> {
    synced.inspect_err(|_| boot.lose())
}

impl Storage for Watched {
    fn path(&self) -> &Path {
        self.storage.path()
    }

    fn boot(&self) -> String {
        self.storage.boot()
    }

    fn directory(&self, name: &str) -> Arc<dyn Storage> {
        Arc::new(Self::new(self.storage.directory(name), Arc::clone(&self.boot)))
    }

    fn exists(&self) -> io::Result<bool> {
        self.storage.exists()
    }

    fn create_directory(&self) -> io::Result<()> {
        self.storage.create_directory()
    }

    fn free(&self) -> io::Result<Option<u64>> {
        self.storage.free()
    }

    fn lock(&self, mode: LockMode) -> io::Result<Option<Lock>> {
        self.storage.lock(mode)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.storage.list()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.storage.open(name, access)?;
        let counts = Arc::new(AtomicBool::new(access != Access::CreateNew));
        if access == Access::CreateNew {
            self.made.lock().expect(UNPOISONED).insert(name.to_owned(), Arc::clone(&counts));
        }
        Ok(Arc::new(WatchedFile { file, boot: Arc::clone(&self.boot), counts }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        // Before anything can be written to it under that name.
        if let Some(counts) = self.made.lock().expect(UNPOISONED).remove(from) {
            counts.store(true, Ordering::Release);
        }
        self.storage.rename(from, to)
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        self.storage.link(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.storage.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        watch(&self.boot, self.storage.sync_directory())
    }
}

impl StorageFile for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn write_blocks_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_blocks_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.file.sync_data();
        if self.counts.load(Ordering::Acquire) { watch(&self.boot, synced) } else { synced }
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.truncate(bytes)
    }
}
