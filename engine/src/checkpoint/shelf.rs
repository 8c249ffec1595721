//! The directory that checkpoints lie in.

use std::io;
use std::sync::Arc;

use mixlog_log::file::{Access, Storage};
use mixlog_log::{LogId, Position};

use super::layout::{file_name, parse_file_name};
use super::read::{Bad, Opened};

/// The name of the directory beside a log.
pub(crate) const BESIDE: &str = "checkpoints";

/// A checkpoint's name until it is complete.
pub(crate) const WRITING: &str = "checkpoint.writing";

/// Space for the next checkpoint, where none of the older ones could be given up for it.
pub(crate) const SPARE: &str = "checkpoint.spare";

/// See the module's documentation. Names that are no checkpoint's are left alone.
#[derive(Clone)]
pub(crate) struct Shelf {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) log: LogId,
}

impl Shelf {
    /// The positions of all checkpoints, by their names, oldest first.
    pub(crate) fn list(&self) -> io::Result<Vec<Position>> {
        if !self.storage.exists()? {
            return Ok(Vec::new());
        }
        let mut positions: Vec<_> =
            self.storage.list()?.iter().filter_map(|name| parse_file_name(name)).collect();
        positions.sort_unstable();
        Ok(positions)
    }

    /// Opens the checkpoint at `position`, of which only the beginning is verified.
    pub(crate) fn open(&self, position: Position) -> Result<Opened, Bad> {
        Opened::open(&*self.storage, position, self.log)
    }

    /// Verifies the checkpoint at `position`; tells how many rows it has.
    pub(crate) fn verify(&self, position: Position) -> Result<u64, Bad> {
        self.open(position)?.verify(|verify| verify())
    }

    /// Keeps at least so many bytes for the next checkpoint.
    pub(crate) fn reserve(&self, bytes: u64) -> io::Result<()> {
        if !self.storage.exists()? {
            self.storage.create_directory()?;
        }
        let spare = match self.storage.open(SPARE, Access::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.storage.open(SPARE, Access::CreateNew)?
            }
            spare => spare?,
        };
        match spare.allocate(bytes) {
            // Without a promise it goes without: the first write that fails says so.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            allocated => allocated,
        }
    }

    /// Keeps `least` bytes for the next checkpoint, or half of what is free, whichever is more, and leaves the other half
    /// to the log.
    pub(crate) fn reserve_half(&self, least: u64) -> io::Result<()> {
        let kept = self.length(SPARE)?.unwrap_or(0);
        match self.storage.free()? {
            Some(free) if (kept + free) / 2 > least.max(kept) => self.reserve((kept + free) / 2),
            _ => self.reserve(least),
        }
    }

    /// Whether less than so many bytes are free, as far as that can be told.
    pub(crate) fn has_less_than(&self, bytes: u64) -> bool {
        matches!(self.storage.free(), Ok(Some(free)) if free < bytes)
    }

    /// Gives back what was kept.
    pub(crate) fn give_back(&self) -> io::Result<()> {
        self.remove(SPARE)
    }

    /// Makes room for a new file, which has the space that was kept for it.
    pub(crate) fn clear(&self) -> io::Result<()> {
        if !self.storage.exists()? {
            return self.storage.create_directory();
        }
        self.hand_over(SPARE, WRITING)
    }

    /// Gives the file `from` up, if it is there. Its space is that of `to`, at no moment anybody else's, unless that has
    /// more already.
    pub(crate) fn hand_over(&self, from: &str, to: &str) -> io::Result<()> {
        let Some(given) = self.length(from)? else { return Ok(()) };
        if self.length(to)?.is_some_and(|had| had >= given) {
            return self.remove(from);
        }
        self.remove(to)?;
        self.storage.rename(from, to)
    }

    fn length(&self, name: &str) -> io::Result<Option<u64>> {
        match self.storage.open(name, Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file?.len().map(Some),
        }
    }

    /// Gives what was written its name, durably. Before this returns, the checkpoint may or may not be there.
    pub(crate) fn install(&self, position: Position) -> io::Result<()> {
        self.storage.rename(WRITING, &file_name(position))?;
        self.storage.sync_directory()
    }

    /// Removes a file, if it is there.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match self.storage.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
