//! The simulated disk as a file system.

use std::io;
use std::path::Path;
use std::sync::Arc;

use mixlog_log::file::{Access, Lock, LockMode, Storage, StorageFile};

use crate::file::{Held, SimFile};
use crate::{Call, Kind, Sim, above, base, is_in, parent};

impl Storage for Sim {
    fn path(&self) -> &Path {
        &self.path
    }

    fn boot(&self) -> String {
        self.state().boot.clone()
    }

    fn directory(&self, name: &str) -> Arc<dyn Storage> {
        let directory = format!("{}{name}/", self.directory);
        Arc::new(Self { path: self.path.join(name), directory, ..self.clone() })
    }

    fn exists(&self) -> io::Result<bool> {
        Ok(self.directory.is_empty() || self.state().disk.directories.contains(&self.directory))
    }

    fn free(&self) -> io::Result<Option<u64>> {
        let state = self.state();
        Ok(state.capacity.map(|capacity| capacity.saturating_sub(state.used())))
    }

    /// As that of the real file system.
    fn create_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        let path = std::iter::once(&*self.directory).chain(above(&self.directory));
        let path: Vec<_> = path.filter(|directory| !directory.is_empty()).collect();
        let found = path.iter().position(|directory| state.disk.directories.contains(*directory));
        let begins = found.unwrap_or(path.len());
        for (at, directory) in path.iter().enumerate().take(begins + 1).rev() {
            if at < begins {
                state.call(Call::CreateDirectory { directory: (*directory).to_owned() });
            }
            state.check(Kind::SyncDirectory)?;
            let above = parent(directory).expect("it has a name").to_owned();
            state.call(Call::SyncDirectory { directory: above });
        }
        Ok(())
    }

    fn lock(&self, mode: LockMode) -> io::Result<Option<Lock>> {
        let mut state = self.state();
        state.check(Kind::Lock)?;
        let (shared, alone) = state.locks.entry(self.directory.clone()).or_default();
        if *alone || mode == LockMode::Exclusive && *shared > 0 {
            return Ok(None);
        }
        match mode {
            LockMode::Shared => *shared += 1,
            LockMode::Exclusive => *alone = true,
        }
        let (state, directory) = (Arc::downgrade(&self.state), self.directory.clone());
        Ok(Some(Box::new(Held { state, directory, mode })))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.check(Kind::List)?;
        let below = |name: &str| Some(name.strip_prefix(&self.directory)?.to_owned());
        let files = state.disk.live.keys().filter(|name| is_in(name, &self.directory));
        let directories = state.disk.directories.iter().filter(|name| is_in(name, &self.directory));
        let directories = directories.map(|name| name.trim_end_matches('/'));
        Ok(files.map(String::as_str).chain(directories).filter_map(below).collect())
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        let mut state = self.state();
        state.check(Kind::Open)?;
        let name = self.full(name);
        let file = match (state.disk.live.get(&name).copied(), access) {
            (Some(_), Access::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, Access::CreateNew) => {
                let is_there = self.directory.is_empty() || state.disk.directories.contains(&self.directory);
                if !is_there {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let file = state.disk.inodes.len();
                state.call(Call::Create { name, file });
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
        let (from, to) = (self.full(from), self.full(to));
        let replaces = state.disk.live.contains_key(&to);
        let may_be = ["checkpoints/", "addresses/"].iter().any(|directory| to.starts_with(directory))
            || matches!(base(&to), "boot" | "owner");
        assert!(!replaces || may_be, "{to} must not be replaced");
        if !state.disk.live.contains_key(&from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.call(Call::Rename { from, to });
        Ok(())
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.check(Kind::Link)?;
        let (from, to) = (self.full(from), self.full(to));
        if state.disk.live.contains_key(&to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !state.disk.live.contains_key(&from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.call(Call::Link { from, to });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.check(Kind::Remove)?;
        let name = self.full(name);
        if !state.disk.live.contains_key(&name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.call(Call::Remove { name });
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        state.check(Kind::SyncDirectory)?;
        state.call(Call::SyncDirectory { directory: self.directory.clone() });
        Ok(())
    }
}
