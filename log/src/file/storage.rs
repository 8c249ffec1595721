//! What the file backend asks of a file system. The tests stand in for it, so that a power cut or a failing
//! disk can strike at every call.

use std::any::Any;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::{FallocateFlags, FlockOperation};
use thiserror::Error;

/// A multiple of what disks read and write as a whole, in bytes.
pub(crate) const BLOCK: usize = 4096;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    Write,
    /// A file that must not exist yet, to read and write.
    CreateNew,
}

/// How a directory is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// With other readers, but no writer.
    Shared,
    /// Alone.
    Exclusive,
}

/// Holds a directory's lock until it is dropped.
pub type Lock = Box<dyn Any + Send + Sync>;

/// One directory and the files in it, which are named without a path.
///
/// What [`FileLog`](crate::FileLog) relies on after a power cut: what [`StorageFile::sync_data`] and
/// [`sync_directory`](Self::sync_directory) covered is there; a rename happened wholly or not at all; of
/// anything else any part may be there, in sectors of 512 bytes. Bytes that are written again with the same content are
/// there in any case if they were before: a flushed log writes whole blocks, and the one in which its last frame ended again.
pub trait Storage: Send + Sync + 'static {
    /// Where the directory is, for messages.
    fn path(&self) -> &Path;

    /// What this boot of the machine is called, and no other one: as long as it lasts, what was written can be read, though
    /// it was not synced, unless a sync failed. Empty where nobody can tell.
    fn boot(&self) -> String {
        String::new()
    }

    /// The directory `name` inside this one, which need not exist yet.
    fn directory(&self, name: &str) -> Arc<dyn Storage>;

    /// Whether the directory exists.
    ///
    /// # Errors
    /// What the operating system says; [`io::ErrorKind::NotADirectory`] when it is something else.
    fn exists(&self) -> io::Result<bool>;

    /// Creates the directory, durably, with all above it. One that exists already is made durable: whoever created it may
    /// not have come to that.
    ///
    /// # Errors
    /// What the operating system says.
    fn create_directory(&self) -> io::Result<()>;

    /// About how much space is left for files in the directory, in bytes; `None` where nobody can tell. What a quota leaves
    /// may be less.
    ///
    /// # Errors
    /// What the operating system says.
    fn free(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// Locks the directory against other processes and other objects of this one; `None` when it is taken.
    /// Never waits.
    ///
    /// # Errors
    /// What the operating system says.
    fn lock(&self, mode: LockMode) -> io::Result<Option<Lock>>;

    /// The names of everything in the directory, in any order. A name that is not UTF-8 may be mangled.
    ///
    /// # Errors
    /// What the operating system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file.
    ///
    /// # Errors
    /// What the operating system says.
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>>;

    /// Renames a file. A file that was named `to` loses that name, and at each moment, also after a crash, one of both has
    /// it.
    ///
    /// # Errors
    /// What the operating system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Gives a file a second name, which no file has yet: of several who try at once, one succeeds.
    ///
    /// # Errors
    /// What the operating system says; [`io::ErrorKind::AlreadyExists`] if some file is named `to`,
    /// [`io::ErrorKind::Unsupported`] where files have one name only.
    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let _ = (from, to);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Removes a file; who has it open can still read it.
    ///
    /// # Errors
    /// What the operating system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all creations, renames and removals so far durable.
    ///
    /// # Errors
    /// What the operating system says.
    fn sync_directory(&self) -> io::Result<()>;
}

/// An open file.
#[expect(clippy::len_without_is_empty, reason = "the length is asked of the operating system")]
pub trait StorageFile: Send + Sync + 'static {
    /// The file's length in bytes.
    ///
    /// # Errors
    /// What the operating system says.
    fn len(&self) -> io::Result<u64>;

    /// Reads some bytes at `offset`; 0 at the end of the file.
    ///
    /// # Errors
    /// What the operating system says; after [`io::ErrorKind::Interrupted`] the caller tries again.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the operating system says; after [`io::ErrorKind::Interrupted`] the caller tries again.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Writes some of `bytes`, past the operating system's cache if that can be: for what is flushed next and seldom read.
    /// Length, offset and address in memory are multiples of 4096. What is read is the same either way.
    ///
    /// # Errors
    /// What the operating system says; after [`io::ErrorKind::Interrupted`] the caller tries again.
    fn write_blocks_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.write_at(bytes, offset)
    }

    /// Makes everything written so far durable, the file's length included. An error is final: what was
    /// written since the last success may be lost although it can be read.
    ///
    /// # Errors
    /// What the operating system says.
    fn sync_data(&self) -> io::Result<()>;

    /// Reserves disk space for the file's first `bytes` bytes and makes it at least that long.
    ///
    /// # Errors
    /// What the operating system says; [`io::ErrorKind::Unsupported`] when the file system cannot.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Cuts the file to its first `bytes` bytes, of which it has at least so many.
    ///
    /// # Errors
    /// What the operating system says.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
}

/// How many interruptions of one call are taken for bad luck.
const MOST_INTERRUPTIONS: u32 = 1000;

/// What the operating system said of something, for who has several disks.
#[derive(Debug, Error)]
#[error("{path}: {error}", path = .path.display())]
struct Located {
    path: PathBuf,
    error: io::Error,
}

/// The same error, of the same kind, which names the file or directory.
pub(crate) fn located(path: PathBuf, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), Located { path, error })
}

/// Reads at `offset` until `buffer` is full or the file ends, and tells how much.
///
/// # Errors
/// What the operating system says; interruptions only if there is no end of them.
pub fn read_full(file: &dyn StorageFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let (mut done, mut interruptions) = (0, 0);
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if is_interrupted(&error, &mut interruptions) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// All that is in a file.
///
/// # Errors
/// As [`read_full`].
pub(crate) fn read_file(storage: &dyn Storage, name: &str) -> io::Result<Vec<u8>> {
    let file = storage.open(name, Access::Read)?;
    let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
    let read = read_full(&*file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn is_interrupted(error: &io::Error, interruptions: &mut u32) -> bool {
    *interruptions += 1;
    error.kind() == io::ErrorKind::Interrupted && *interruptions <= MOST_INTERRUPTIONS
}

/// Writes all of `bytes` at `offset`.
///
/// # Errors
/// What the operating system says; interruptions only if there is no end of them.
pub fn write_full(file: &dyn StorageFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    write_all(bytes, offset, |bytes, offset| file.write_at(bytes, offset))
}

/// Writes all of these whole blocks: see [`StorageFile::write_blocks_at`].
///
/// # Errors
/// As [`write_full`].
pub(crate) fn write_full_blocks(file: &dyn StorageFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    let is_whole = |bytes: &[u8], offset: u64| {
        bytes.len().is_multiple_of(BLOCK)
            && bytes.as_ptr().addr().is_multiple_of(BLOCK)
            && offset.is_multiple_of(BLOCK as u64)
    };
    debug_assert!(is_whole(bytes, offset), "these are no whole blocks");
    write_all(bytes, offset, |bytes, offset| {
        // Some may have been written, and that need not end with a block.
        if is_whole(bytes, offset) {
            file.write_blocks_at(bytes, offset)
        } else {
            file.write_at(bytes, offset)
        }
    })
}

fn write_all(bytes: &[u8], offset: u64, write: impl Fn(&[u8], u64) -> io::Result<usize>) -> io::Result<()> {
    let (mut done, mut interruptions) = (0, 0);
    while done < bytes.len() {
        match write(&bytes[done..], offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => done += count,
            Err(error) if is_interrupted(&error, &mut interruptions) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A directory of the real file system.
#[derive(Clone, Debug)]
pub struct FsStorage {
    path: PathBuf,
}

impl FsStorage {
    /// The directory at `path`, which need not exist yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl Storage for FsStorage {
    fn path(&self) -> &Path {
        &self.path
    }

    /// What the kernel draws.
    fn boot(&self) -> String {
        fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
    }

    fn directory(&self, name: &str) -> Arc<dyn Storage> {
        Arc::new(Self::new(self.path.join(name)))
    }

    fn exists(&self) -> io::Result<bool> {
        match fs::metadata(&self.path) {
            Ok(metadata) if metadata.is_dir() => Ok(true),
            Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn create_directory(&self) -> io::Result<()> {
        let absolute = std::path::absolute(&self.path)?;
        let missing: Vec<_> = absolute.ancestors().take_while(|path| !path.is_dir()).collect();
        // Each is durable before anything is made in it. So, should this process be killed, only the last one that it made
        // may not be: that is the first one which the next attempt finds.
        if let Some(found) = absolute.ancestors().nth(missing.len()) {
            match sync_parent(found) {
                // Nor could we have made it, where we may not even look.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                synced => synced?,
            }
        }
        for path in missing.into_iter().rev() {
            match fs::create_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
                created => created?,
            }
            sync_parent(path)?;
        }
        Ok(())
    }

    fn free(&self) -> io::Result<Option<u64>> {
        let found = rustix::fs::statvfs(&self.path)?;
        Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
    }

    fn lock(&self, mode: LockMode) -> io::Result<Option<Lock>> {
        let directory = File::open(&self.path)?;
        let operation = match mode {
            LockMode::Shared => FlockOperation::NonBlockingLockShared,
            LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        match rustix::fs::flock(&directory, operation) {
            Ok(()) => Ok(Some(Box::new(FsLock(directory)))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(access != Access::Read).create_new(access == Access::CreateNew);
        // Of no account to a file; a pipe would be waited for.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
        let file = options.open(self.path.join(name))?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
        }
        Ok(Arc::new(FsFile::new(file, access)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        fs::hard_link(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// Makes the entry of a file or directory durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// A lock by flock(2), which belongs to the open file: a process forked meanwhile shares it until it executes
/// its program, so that closing the file here would not end it.
struct FsLock(File);

impl Drop for FsLock {
    fn drop(&mut self) {
        // Cannot fail on an open file; closing it is the fallback.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

struct FsFile {
    file: File,
    /// The same file, opened so that writes go past the cache, once that was wanted; `None` if that cannot be.
    past_cache: OnceLock<Option<File>>,
    /// Such a write was refused, though the file could be opened for it.
    refused: AtomicBool,
}

impl FsFile {
    fn new(file: File, access: Access) -> Self {
        let past_cache = OnceLock::new();
        if access == Access::Read {
            let _ = past_cache.set(None);
        }
        Self { file, past_cache, refused: AtomicBool::new(false) }
    }

    /// By its number among this thread's files: it may have another name by now.
    #[cfg(target_os = "linux")]
    fn open_past_cache(&self) -> Option<File> {
        let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let path = format!("/proc/thread-self/fd/{}", self.file.as_raw_fd());
        let file = OpenOptions::new().write(true).custom_flags(flags).open(path).ok()?;
        // Whatever is mounted there.
        let (this, other) = (self.file.metadata().ok()?, file.metadata().ok()?);
        ((this.dev(), this.ino()) == (other.dev(), other.ino())).then_some(file)
    }

    #[cfg(not(target_os = "linux"))]
    fn open_past_cache(&self) -> Option<File> {
        None
    }

    fn past_cache(&self) -> Option<&File> {
        let file = self.past_cache.get_or_init(|| self.open_past_cache()).as_ref();
        file.filter(|_| !self.refused.load(Ordering::Relaxed))
    }
}

impl StorageFile for FsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn write_blocks_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        if let Some(file) = self.past_cache() {
            match file.write_at(bytes, offset) {
                // The disk wants larger blocks, or the file system does not do it after all.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) =>
                {
                    self.refused.store(true, Ordering::Relaxed);
                }
                other => return other,
            }
        }
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
                Err(io::ErrorKind::Unsupported.into())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }
}

impl fmt::Debug for dyn StorageFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StorageFile")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_past_the_cache_and_through_it_is_read_alike() {
        let directory = tempfile::tempdir().unwrap();
        let storage = FsStorage::new(directory.path());
        let open = |options: &mut OpenOptions| options.open(directory.path().join("file"));
        let file = open(File::options().read(true).write(true).create_new(true)).unwrap();
        let file = FsFile::new(file, Access::CreateNew);
        let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let is_possible = open(File::options().write(true).custom_flags(flags)).is_ok();
        assert!(!is_possible || file.past_cache().is_some(), "it is not written past the cache");
        file.allocate(64 * BLOCK as u64).unwrap();
        storage.rename("file", "renamed").unwrap();
        let (reader, mut model) = (storage.open("renamed", Access::Read).unwrap(), vec![0; 64 * BLOCK]);
        let mut memory = vec![0u8; 9 * BLOCK];
        let start = memory.as_ptr().addr().wrapping_neg() % BLOCK;
        for step in 1..100usize {
            let (blocks, at) = (step % 8 + 1, step * 7 % 56 * BLOCK);
            let bytes = &mut memory[start..start + blocks * BLOCK];
            bytes.fill(step as u8);
            write_full_blocks(&file, bytes, at as u64).unwrap();
            model[at..at + blocks * BLOCK].copy_from_slice(bytes);
            // Into the same blocks, through the cache.
            let small = at + step;
            write_full(&file, &[0xee; 100], small as u64).unwrap();
            model[small..small + 100].fill(0xee);
            if step % 3 == 0 {
                file.sync_data().unwrap();
            }
            let mut read = vec![0; model.len()];
            assert_eq!(read_full(&*reader, &mut read, 0).unwrap(), read.len());
            assert!(read == model, "step {step}");
        }
        assert!(!is_possible || file.past_cache().is_some(), "a write past the cache was refused");
    }
}
