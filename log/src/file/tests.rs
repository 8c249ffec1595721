//! Frames that the log thread does not write, and that must be read, refused or attested all the same.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::layout::{FRAMES_START, Salt, SegmentHeader, Stamp, encode_block};
use super::{Config, FileLog, segments};
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
