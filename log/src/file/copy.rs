//! A copy of a log that opens, taken while somebody writes to it.
//!
//! Nothing is asked of the writer, and its lock is not needed: closed segments change no more, the last one only grows,
//! and each frame tells by itself whether it is whole. What is copied is what a look at the files finds, and the copy
//! gets a manifest of its own that says so. Only files that come and go meanwhile can disturb the look; then it is
//! taken again.

use std::io;

use crate::{LogId, OpenError, Position, Tail};

use super::FileLog;
use super::layout::ManifestSlot;
use super::manifest::{self, Manifest};
use super::recovery::{self, Examined, Scanned, Writer};
use super::segments;
use super::storage::{self, Access, LockMode, Storage};

/// How often the look is taken while somebody writes. Each one fails only if a segment is begun or removed meanwhile.
const ATTEMPTS: u32 = 20;

/// How much is copied at a time, in bytes.
const PIECE: usize = 1 << 20;

/// What a copy of a log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The log's identity, which the copy shares.
    pub id: LogId,
    /// The first position.
    pub head: Position,
    /// The position after the last one. Entries that were acknowledged before the call are in it.
    pub tail: Position,
    /// Bytes of its segment files, up to the last frame of each.
    pub bytes: u64,
}

impl FileLog {
    /// Copies the log in one directory to another one, which must not have a log, durably. Somebody may have the
    /// original open to write. It keeps its identity: the copy stands in for it, and is not to be written to beside it.
    ///
    /// Until this returns, there is no log in the other directory, but there may be some of its segments.
    ///
    /// Cost: reads the whole log twice, and writes it once.
    ///
    /// # Errors
    /// [`OpenError`], of the original or of the copy; the original is as it was.
    pub fn copy_with_storage(from: &dyn Storage, to: &dyn Storage) -> Result<Copied, OpenError> {
        if !recovery::directory_exists(from)? {
            return Err(OpenError::Missing { path: from.path().to_path_buf() });
        }
        recovery::directory_exists(to)?;
        // Also if it is there: whoever made it may not have come to that.
        to.create_directory().map_err(|source| error(to, "create", source))?;
        if to.list().map_err(|source| error(to, "list", source))?.iter().any(|name| name == manifest::NAME) {
            return Err(OpenError::Exists { path: to.path().to_path_buf() });
        }
        let lock = from.lock(LockMode::Shared).map_err(|source| error(from, "lock", source))?;
        let (writer, attempts) = if lock.is_some() { (Writer::None, 1) } else { (Writer::Perhaps, ATTEMPTS) };
        let mut attempt = 1;
        loop {
            let copied = recovery::examine(from, Access::Read, writer).and_then(|found| copy(found, to));
            match copied {
                Err(error) if attempt < attempts && is_of_a_writer(&error) => attempt += 1,
                copied => return copied,
            }
        }
    }
}

impl FileLog {
    /// The identity of the log in a directory, and where it starts, without its lock and without a look at its
    /// segments; somebody may have it open to write. The tail is what was durable when the manifest was last written.
    ///
    /// # Errors
    /// [`OpenError`] when there is no log.
    pub fn peek_with_storage(storage: &dyn Storage) -> Result<(LogId, Tail), OpenError> {
        let manifest = recovery::manifest(storage, Access::Read)?;
        let slot = manifest.slot();
        Ok((slot.log, Tail { head: slot.head, tail: slot.durable, sealed: slot.sealed }))
    }
}

/// Whether a look fails so where files come and go meanwhile. What else the operating system says, it says again.
fn is_of_a_writer(error: &OpenError) -> bool {
    use io::ErrorKind::{NotFound, UnexpectedEof};
    match error {
        OpenError::Corrupt { .. } => true,
        OpenError::Io { source, .. } => matches!(source.kind(), NotFound | UnexpectedEof),
        _ => false,
    }
}

fn error(storage: &dyn Storage, action: &'static str, source: io::Error) -> OpenError {
    OpenError::Io { action, path: storage.path().to_path_buf(), source }
}

fn copy(found: Examined, to: &dyn Storage) -> Result<Copied, OpenError> {
    if let Some(damage) = found.damage {
        return Err(damage.into());
    }
    let slot = *found.manifest.slot();
    let mut bytes = 0;
    let mut end = slot.segments_start;
    for scanned in &found.segments {
        copy_segment(scanned, to).map_err(|source| OpenError::Io {
            action: "copy",
            path: to.path().join(scanned.segment.file_name()),
            source,
        })?;
        bytes += scanned.end;
        end = scanned.segment.number + 1;
    }
    let slot = ManifestSlot { durable: found.tail, segments_end: end, ..slot };
    to.sync_directory().map_err(|source| error(to, "sync", source))?;
    Manifest::create(to, slot).map_err(|source| error(to, "create the manifest in", source))?;
    Ok(Copied { id: slot.log, head: slot.head, tail: found.tail, bytes })
}

/// Copies a segment up to its last frame; what is behind is zeros in the copy.
fn copy_segment(scanned: &Scanned, to: &dyn Storage) -> io::Result<()> {
    let name = segments::file_name(scanned.segment.number);
    match to.remove(&name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = to.open(&name, Access::CreateNew)?;
    let (mut offset, end) = (0, scanned.segment.bytes);
    let mut buffer = vec![0; PIECE];
    match file.allocate(end) {
        Err(error) if error.kind() != io::ErrorKind::Unsupported => return Err(error),
        _ => {}
    }
    while offset < scanned.end {
        let piece = usize::try_from(scanned.end - offset).unwrap_or(PIECE).min(PIECE);
        if storage::read_full(&*scanned.file, &mut buffer[..piece], offset)? < piece {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        storage::write_full(&*file, &buffer[..piece], offset)?;
        offset += piece as u64;
    }
    if file.len()? < end {
        // Without allocation the length comes from the last byte.
        storage::write_full(&*file, &[0], end - 1)?;
    }
    file.sync_data()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;
    use crate::file::tests::Hooked;
    use crate::file::{Config, FsStorage};
    use crate::{Batch, Durability, Entry, SharedLog};

    #[test]
    fn copy_taken_while_somebody_writes_and_trims_opens_and_has_what_was_acknowledged() {
        let scratch = tempfile::tempdir().unwrap();
        let config = Config {
            durability: Durability::Buffered,
            segment_bytes: 64 << 10,
            max_batch_bytes: 16 << 10,
            ..Config::default()
        };
        let log = Arc::new(FileLog::open(scratch.path().join("log"), config.clone()).unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let (writer, stopped) = (Arc::clone(&log), Arc::clone(&stop));
        let writing = std::thread::spawn(move || {
            for n in 0u64.. {
                let mut batch = Batch::new();
                batch.push(&n.to_le_bytes().repeat(1 + n as usize % 40));
                writer.append(&batch).unwrap().wait().unwrap();
                if n % 512 == 0 {
                    writer.trim(Position(n.saturating_sub(2000))).unwrap();
                }
                if stopped.load(Ordering::Relaxed) && n > 3000 {
                    return;
                }
            }
        });
        let from = FsStorage::new(scratch.path().join("log"));
        for number in 0..10 {
            let before = log.tail().unwrap().tail;
            let path = scratch.path().join(format!("copy-{number}"));
            let copied = FileLog::copy_with_storage(&from, &FsStorage::new(&path)).unwrap();
            assert!(copied.tail >= before, "{copied:?} {before}");
            let copy = FileLog::open(&path, config.clone()).unwrap();
            assert_eq!((copy.id(), copy.tail().unwrap().tail), (log.id(), copied.tail));
            let mut next = copy.tail().unwrap().head;
            while let Some(block) = copy.read(next).unwrap() {
                for (position, entry) in block.iter().filter(|(position, _)| *position >= next) {
                    let expected = position.0.to_le_bytes().repeat(1 + position.0 as usize % 40);
                    assert_eq!(entry, Entry::Data(&expected));
                }
                next = block.end();
            }
            assert_eq!(next, copied.tail);
        }
        stop.store(true, Ordering::Relaxed);
        writing.join().unwrap();
        let again = FileLog::copy_with_storage(&from, &FsStorage::new(scratch.path().join("copy-0")));
        assert!(matches!(again, Err(OpenError::Exists { .. })), "{again:?}");
    }

    #[test]
    fn copy_to_a_full_disk_is_tried_once_also_beside_a_writer() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        let _writer = FileLog::open(&path, Config::default()).unwrap();
        let refused = Arc::new(AtomicU32::new(0));
        let to = Hooked {
            directory: FsStorage::new(scratch.path().join("copy")),
            open: {
                let refused = Arc::clone(&refused);
                move |_: &FsStorage, _: &str, _| {
                    refused.fetch_add(1, Ordering::Relaxed);
                    Err(io::ErrorKind::StorageFull.into())
                }
            },
        };
        let copied = FileLog::copy_with_storage(&FsStorage::new(path), &to);
        assert!(matches!(copied, Err(OpenError::Io { action: "copy", .. })), "{copied:?}");
        assert_eq!(refused.load(Ordering::Relaxed), 1);
    }
}
