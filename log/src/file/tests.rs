//! Frames that the log thread does not write, and that must be read, refused or attested all the same; and a disk that
//! fails at one moment.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::layout::{FRAMES_START, Salt, SegmentHeader, Stamp, encode_block};
use super::storage::Lock;
use super::{Access, Config, FileLog, FsStorage, LockMode, Storage, StorageFile, segments};
use crate::{Batch, Block, Durability, Entry, OpenError, Position, SharedLog};

fn config() -> Config {
    Config { segment_bytes: 64 << 10, max_batch_bytes: 4 << 10, ..Config::default() }
}

fn batch() -> Batch {
    let mut batch = Batch::new();
    batch.push(b"data");
    batch
}

fn append(directory: &Path) {
    let log = FileLog::open(directory, config()).unwrap();
    log.append(&batch()).unwrap().wait().unwrap();
}

/// Writes the frame of `block` behind the last one of the closed log in `directory`, which has one segment.
fn write_frame(directory: &Path, block: &Block) {
    let report = FileLog::verify(directory).unwrap();
    let stamp = Stamp {
        salt: Salt::of(report.id, 0),
        offset: FRAMES_START + report.frame_bytes,
        durable: report.tail,
        generation: report.generation,
    };
    let mut frame = Vec::new();
    encode_block(&mut frame, stamp, block);
    let path = directory.join("segment-0000000000000000");
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(&frame, stamp.offset).unwrap();
}

#[test]
fn read_over_junk_gives_every_position_its_entry() {
    let directory = tempfile::tempdir().unwrap();
    append(directory.path());
    write_frame(directory.path(), &Block::junk(Position(1), 1000));
    append(directory.path());
    write_frame(directory.path(), &Block::junk(Position(1002), 3));

    let log = FileLog::open(directory.path(), config()).unwrap();
    assert_eq!(log.tail().unwrap().tail, Position(1005));
    for position in 0..1005 {
        let block = log.read(Position(position)).unwrap().unwrap();
        let expected = if position == 0 || position == 1001 { Entry::Data(b"data") } else { Entry::Junk };
        assert_eq!(block.get(Position(position)), Some(expected), "position {position}");
    }
}

#[test]
fn frame_of_another_position_is_damage_and_no_torn_tail() {
    for first in [0, 5] {
        let directory = tempfile::tempdir().unwrap();
        append(directory.path());
        write_frame(directory.path(), &Block::of(Position(first), batch()));
        let error = FileLog::open(directory.path(), config()).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { position: Position(1), .. }), "{error}");
    }
}

#[test]
fn frame_behind_a_seal_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    append(directory.path());
    FileLog::open(directory.path(), config()).unwrap().seal().unwrap();
    assert!(FileLog::open(directory.path(), config()).unwrap().tail().unwrap().sealed);
    write_frame(directory.path(), &Block::of(Position(1), batch()));
    let error = FileLog::open(directory.path(), config()).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { position: Position(2), .. }), "{error}");
}

#[test]
fn manifest_that_is_older_than_the_entries_is_refused() {
    for opened_since in 1..4 {
        let directory = tempfile::tempdir().unwrap();
        append(directory.path());
        let manifest = directory.path().join(super::manifest::NAME);
        let old = fs::read(&manifest).unwrap();
        (0..opened_since).for_each(|_| append(directory.path()));
        let newest = fs::read(&manifest).unwrap();
        fs::write(&manifest, old).unwrap();
        // Else what is appended now would be taken for something older than what stands before it.
        let error = FileLog::open(directory.path(), config()).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { position: Position(1), .. }), "{error}");
        let damage = FileLog::verify(directory.path()).unwrap().damage.expect("it is seen");
        assert!(damage.to_string().contains("manifest is older"), "{damage}");
        fs::write(&manifest, newest).unwrap();
        append(directory.path());
        assert_eq!(FileLog::verify(directory.path()).unwrap().tail, Position(opened_since + 2));
    }
}

#[test]
fn block_that_is_lost_at_the_end_of_a_closed_log_is_damage() {
    for durability in [Durability::Flushed, Durability::Buffered] {
        let directory = tempfile::tempdir().unwrap();
        let log = FileLog::open(directory.path(), Config { durability, ..config() }).unwrap();
        for _ in 0..50 {
            log.append(&batch()).unwrap().wait().unwrap();
        }
        drop(log);
        let report = FileLog::verify(directory.path()).unwrap();
        assert_eq!((report.tail, report.damage), (Position(50), None));
        // With all that attests what it had.
        let end = (FRAMES_START + report.frame_bytes).next_multiple_of(4096);
        let path = directory.path().join(segments::file_name(0));
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[0; 4096], end - 4096).unwrap();
        let error = FileLog::open(directory.path(), config()).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
    }
}

/// Puts a segment of one entry behind the closed log in `directory`, as somebody did who opened it as `generation`, and
/// whose entries may be lost.
fn add_early_segment(directory: &Path, first: Position, generation: u32) {
    let report = FileLog::verify(directory).unwrap();
    let number = report.segments as u64;
    let header = SegmentHeader {
        generation,
        log: report.id,
        number,
        first,
        bytes: config().segment_bytes,
        attests: false,
    };
    let stamp =
        Stamp { salt: Salt::of(report.id, number), offset: FRAMES_START, durable: report.tail, generation };
    let mut frame = Vec::new();
    encode_block(&mut frame, stamp, &Block::of(first, batch()));
    let file = fs::File::create(directory.join(segments::file_name(number))).unwrap();
    file.write_all_at(&header.encode(), 0).unwrap();
    file.write_all_at(&frame, FRAMES_START).unwrap();
    file.set_len(header.bytes).unwrap();
}

#[test]
fn segment_that_is_not_counted_goes_on_or_is_removed() {
    // Where it starts, of which generation it is, counted from the log's, and where the log ends then.
    for (skipped, generations, tail) in [(0, 0, 2), (1, 0, 1), (0, 1, 1)] {
        let directory = tempfile::tempdir().unwrap();
        append(directory.path());
        append(directory.path());
        FileLog::open(directory.path(), config()).unwrap().trim(Position(1)).unwrap();
        let report = FileLog::verify(directory.path()).unwrap();
        assert_eq!((report.tail, report.segments), (Position(2), 1));
        add_early_segment(directory.path(), Position(2 + skipped), report.generation - generations);
        let report = FileLog::verify(directory.path()).unwrap();
        assert_eq!((report.tail, report.damage), (Position(1 + tail), None));
        let log = FileLog::open(directory.path(), config()).unwrap();
        assert_eq!(log.tail().unwrap().tail, Position(1 + tail));
        log.append(&batch()).unwrap().wait().unwrap();
        drop(log);
        assert_eq!(directory.path().join(segments::file_name(1)).exists(), tail == 2);
        let log = FileLog::open(directory.path(), config()).unwrap();
        assert_eq!(log.tail().unwrap().tail, Position(2 + tail));
    }
}

#[test]
fn segment_that_is_not_counted_and_attests_what_is_missing_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    append(directory.path());
    let report = FileLog::verify(directory.path()).unwrap();
    add_early_segment(directory.path(), Position(3), report.generation);
    let path = directory.path().join(segments::file_name(1));
    let header = SegmentHeader {
        generation: report.generation,
        log: report.id,
        number: 1,
        first: Position(3),
        bytes: config().segment_bytes,
        attests: true,
    };
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(&header.encode(), 0).unwrap();
    let error = FileLog::open(directory.path(), config()).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { position: Position(1), .. }), "{error}");
}

/// The log thread sleeps until it is told of something.
#[test]
fn what_a_submitter_wrote_itself_is_attested_when_the_log_is_idle() {
    for durability in [Durability::Flushed, Durability::Buffered] {
        let directory = tempfile::tempdir().unwrap();
        let log = FileLog::open(directory.path(), Config { durability, ..config() }).unwrap();
        for _ in 0..3 {
            let end = log.append_and_write(&batch()).unwrap().wait().unwrap().end;
            // So long that a hang fails instead of hanging.
            let start = Instant::now();
            while log.shared.queue.is_unattested() {
                assert!(start.elapsed() < Duration::from_secs(30), "{durability:?}: {end} is not attested");
                thread::yield_now();
            }
            assert!(log.shared.durable() >= end);
        }
    }
}

/// A directory whose files are opened in a way of one's own.
pub(super) struct Hooked<F> {
    pub(super) directory: FsStorage,
    pub(super) open: F,
}

impl<F> Storage for Hooked<F>
where
    F: Fn(&FsStorage, &str, Access) -> io::Result<Arc<dyn StorageFile>> + Send + Sync + 'static,
{
    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn directory(&self, name: &str) -> Arc<dyn Storage> {
        self.directory.directory(name)
    }

    fn exists(&self) -> io::Result<bool> {
        self.directory.exists()
    }

    fn create_directory(&self) -> io::Result<()> {
        self.directory.create_directory()
    }

    fn lock(&self, mode: LockMode) -> io::Result<Option<Lock>> {
        self.directory.lock(mode)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.directory.list()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        (self.open)(&self.directory, name, access)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.directory.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.directory.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_directory()
    }
}

/// A file that fails to be flushed once, when that is asked for.
struct FailsOnce {
    file: Arc<dyn StorageFile>,
    asked: Arc<AtomicBool>,
}

impl StorageFile for FailsOnce {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.asked.swap(false, Ordering::Relaxed) {
            return Err(io::Error::other("the disk has lost it"));
        }
        self.file.sync_data()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.truncate(bytes)
    }
}

#[test]
fn flush_that_comes_between_a_failed_one_and_the_news_of_it_fails_too() {
    let directory = tempfile::tempdir().unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let open = {
        let fails = Arc::clone(&fails);
        move |directory: &FsStorage, name: &str, access| -> io::Result<Arc<dyn StorageFile>> {
            let file = directory.open(name, access)?;
            if name.starts_with("manifest") {
                return Ok(file);
            }
            Ok(Arc::new(FailsOnce { file, asked: Arc::clone(&fails) }))
        }
    };
    let storage = Arc::new(Hooked { directory: FsStorage::new(directory.path()), open });
    let log = FileLog::open_with_storage(storage, &Config { durability: Durability::Buffered, ..config() })
        .unwrap();
    // What comes by itself is over: the log is idle and attested.
    log.append(&batch()).unwrap().wait().unwrap();
    log.flush().unwrap();
    let shared = &log.shared;
    let durable = shared.durable();
    fails.store(true, Ordering::Relaxed);
    log.append(&batch()).unwrap().wait().unwrap();
    // As two threads would, before either has said that the log has failed; the log's own may have been there first.
    assert!(shared.flush().is_err());
    assert!(!fails.load(Ordering::Relaxed), "it failed once");
    let error = shared.flush().unwrap_err();
    assert!(error.to_string().contains("the disk has lost it"), "{error}");
    assert_eq!(shared.durable(), durable, "nothing is taken for durable after that");
}
