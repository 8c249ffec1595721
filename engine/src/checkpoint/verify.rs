//! Looks at every byte of the checkpoints beside a log, without anybody who could execute it.

use std::path::Path;

use mixlog_log::file::{FsStorage, Storage};
use mixlog_log::{FileLog, OpenError, Position};

use super::Rejected;
use super::layout::file_name;
use super::read::Bad;
use super::shelf::{BESIDE, Shelf};

/// A checkpoint that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The last position whose effects it includes.
    pub position: Position,
    /// How many rows it has.
    pub rows: u64,
    /// The length of its file.
    pub bytes: u64,
}

/// Verifies every byte of the checkpoints beside the log in `directory`, the oldest first. Another process may be running
/// an engine on it: what is removed meanwhile is passed over. That their rows make the state that they tell the digest of
/// takes an engine, which verifies it when it starts from one.
///
/// # Errors
/// The log cannot be looked at, or the directory of its checkpoints.
pub fn verify(directory: impl AsRef<Path>) -> Result<Vec<Result<Verified, Rejected>>, OpenError> {
    let storage = FsStorage::new(directory.as_ref());
    let (log, _) = FileLog::peek_with_storage(&storage)?;
    let shelf = Shelf { storage: storage.directory(BESIDE), log };
    let positions = shelf.list().map_err(|source| OpenError::Io {
        action: "list",
        path: shelf.storage.path().to_path_buf(),
        source,
    })?;
    let whole = |position| {
        let bytes = shelf.open(position)?.bytes;
        Ok(Verified { position, rows: shelf.verify(position)?, bytes })
    };
    let verified = positions.into_iter().filter_map(|position| match whole(position) {
        Err(Bad::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => None,
        verified => Some(verified.map_err(|bad| Rejected::new(file_name(position), &bad))),
    });
    Ok(verified.collect())
}
