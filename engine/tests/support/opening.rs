//! A directory in which something happens whenever a file is opened.

use std::io;
use std::path::Path;
use std::sync::Arc;

use mixlog_log::file::{Access, FsStorage, Lock, LockMode, Storage, StorageFile};

pub(crate) struct Opening<F> {
    pub(crate) storage: FsStorage,
    /// Called before a file is opened, with `false`, and after that, with `true`.
    pub(crate) happens: F,
}

impl<F: Fn(bool) + Send + Sync + 'static> Storage for Opening<F> {
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        (self.happens)(false);
        let opened = self.storage.open(name, access);
        (self.happens)(true);
        opened
    }

    fn path(&self) -> &Path {
        self.storage.path()
    }

    fn directory(&self, name: &str) -> Arc<dyn Storage> {
        self.storage.directory(name)
    }

    fn exists(&self) -> io::Result<bool> {
        self.storage.exists()
    }

    fn create_directory(&self) -> io::Result<()> {
        self.storage.create_directory()
    }

    fn lock(&self, mode: LockMode) -> io::Result<Option<Lock>> {
        self.storage.lock(mode)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.storage.list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.storage.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.storage.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.storage.sync_directory()
    }
}
