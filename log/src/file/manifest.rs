//! The manifest: what the segments cannot tell of themselves, in two copies.
//!
//! Every change is written to one copy and synced, then to the other and synced. So a power cut leaves one
//! copy whole, the old or the new one, and damage to either copy of a manifest at rest loses nothing. The
//! copy that is not known to be whole is always written first: a torn copy is never the reason for damaging
//! the good one.

use std::io;
use std::sync::Arc;

use super::layout::{Flaw, MANIFEST_BYTES, MANIFEST_SLOT, MANIFEST_SLOT_OFFSETS, ManifestSlot};
use super::storage::{self, Access, Storage, StorageFile};

/// The manifest's name in the log's directory.
pub(crate) const NAME: &str = "manifest";

/// Its name until it is complete.
pub(crate) const CREATING: &str = "manifest.creating";

/// The open manifest.
#[derive(Debug)]
pub(crate) struct Manifest {
    file: Arc<dyn StorageFile>,
    slot: ManifestSlot,
    /// Which copy certainly holds `slot`: it is written last.
    good: usize,
}

/// Why there is no manifest.
#[derive(Debug)]
pub(crate) enum LoadError {
    Io(io::Error),
    /// Neither copy begins like one.
    NotAManifest,
    Version(u32),
    /// Neither copy is whole.
    Damaged([Flaw; 2]),
}

impl Manifest {
    /// Creates the manifest of a new log. Until this returns, there is no log.
    pub(crate) fn create(storage: &dyn Storage, slot: ManifestSlot) -> io::Result<Self> {
        let file = storage.open(CREATING, Access::CreateNew)?;
        let mut bytes = vec![0; MANIFEST_BYTES];
        for offset in MANIFEST_SLOT_OFFSETS {
            let offset = usize::try_from(offset).expect("a small number");
            bytes[offset..offset + MANIFEST_SLOT].copy_from_slice(&slot.encode());
        }
        storage::write_full(&*file, &bytes, 0)?;
        file.sync_data()?;
        storage.rename(CREATING, NAME)?;
        storage.sync_directory()?;
        Ok(Self { file, slot, good: 0 })
    }

    /// Reads the manifest in `file`.
    pub(crate) fn load(file: Arc<dyn StorageFile>) -> Result<Self, LoadError> {
        let [a, b] = [read_slot(&*file, 0)?, read_slot(&*file, 1)?];
        let (slot, good) = match (a, b) {
            (Ok(a), Ok(b)) if b.sequence > a.sequence => (b, 1),
            (Ok(a), _) => (a, 0),
            (Err(_), Ok(b)) => (b, 1),
            (Err(Flaw::Version(version)), _) | (_, Err(Flaw::Version(version))) => {
                return Err(LoadError::Version(version));
            }
            (Err(Flaw::Magic | Flaw::Blank | Flaw::Short), Err(Flaw::Magic | Flaw::Blank | Flaw::Short)) => {
                return Err(LoadError::NotAManifest);
            }
            (Err(a), Err(b)) => return Err(LoadError::Damaged([a, b])),
        };
        Ok(Self { file, slot, good })
    }

    pub(crate) fn slot(&self) -> &ManifestSlot {
        &self.slot
    }

    /// Makes durable what was read: it may have been written by a process that ended before it could.
    ///
    /// It is written again and not just synced, because after a failed flush the kernel holds bytes for clean
    /// that the disk does not have.
    pub(crate) fn settle(&self) -> io::Result<()> {
        storage::write_full(&*self.file, &self.slot.encode(), MANIFEST_SLOT_OFFSETS[self.good])?;
        self.file.sync_data()
    }

    /// Changes the manifest, durably.
    ///
    /// # Errors
    /// What the operating system says; whether the change is durable is not known then.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut ManifestSlot)) -> io::Result<()> {
        let mut slot = self.slot;
        change(&mut slot);
        slot.sequence += 1;
        for copy in [1 - self.good, self.good] {
            storage::write_full(&*self.file, &slot.encode(), MANIFEST_SLOT_OFFSETS[copy])?;
            self.file.sync_data()?;
        }
        self.slot = slot;
        Ok(())
    }
}

fn read_slot(file: &dyn StorageFile, copy: usize) -> Result<Result<ManifestSlot, Flaw>, LoadError> {
    let mut bytes = [0; MANIFEST_SLOT];
    let read = storage::read_full(file, &mut bytes, MANIFEST_SLOT_OFFSETS[copy]).map_err(LoadError::Io)?;
    Ok(if read == bytes.len() { ManifestSlot::decode(&bytes) } else { Err(Flaw::Short) })
}
