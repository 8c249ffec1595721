//! Frames that the log thread does not write, and that must be read or refused all the same.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::layout::{FRAMES_START, Salt, Stamp, encode_block};
use super::{Config, FileLog};
use crate::{Batch, Block, Entry, OpenError, Position, SharedLog};

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
