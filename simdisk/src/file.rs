//! Open files of the simulated disk, and locks on its directories.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, Weak};

use mixlog_log::file::{LockMode, StorageFile};

use crate::{Call, Kind, Sim, State};

pub(crate) struct Held {
    pub(crate) state: Weak<Mutex<State>>,
    pub(crate) directory: String,
    pub(crate) mode: LockMode,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(state) = self.state.upgrade() {
            let mut state = state.lock().unwrap();
            let (shared, alone) = state.locks.entry(self.directory.clone()).or_default();
            match self.mode {
                LockMode::Shared => *shared -= 1,
                LockMode::Exclusive => *alone = false,
            }
        }
    }
}

pub(crate) struct SimFile {
    pub(crate) sim: Sim,
    pub(crate) file: usize,
    pub(crate) writable: bool,
}

impl StorageFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.sim.state().disk.inodes[self.file].live.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.sim.state();
        let portion = state.check_length(Kind::Read, buffer.len())?;
        let portion = state.portion(portion)?;
        state.forget_some(self.file);
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
        let portion = state.check_length(Kind::Write, bytes.len())?;
        state.check_space(self.file, usize::try_from(offset).unwrap() + bytes.len())?;
        let count = state.portion(portion)?;
        state.call(Call::Write { file: self.file, offset, bytes: bytes[..count].to_vec() });
        Ok(count)
    }

    fn write_blocks_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        const BLOCK: usize = 4096;
        assert!(bytes.len().is_multiple_of(BLOCK) && offset.is_multiple_of(BLOCK as u64), "no whole blocks");
        assert!(bytes.as_ptr().addr().is_multiple_of(BLOCK), "blocks that the operating system refuses");
        self.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.sim.state();
        let checked = if state.may_strike(self.file) { state.check(Kind::Sync) } else { Ok(()) };
        if let Err(error) = checked {
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

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.sim.state();
        state.check(Kind::Truncate)?;
        state.call(Call::Truncate { file: self.file, bytes });
        Ok(())
    }
}
