//! Damaged, missing and foreign files: an error that names the place, or no harm, and never other entries.

use std::ops::Range;

use mixlog_log::{Durability, FileLog, OpenError, Position, ReadError, SharedLog, Tail, file};

use crate::script::{self, Step};
use mixlog_simdisk::{Disk, Sim};

const FRAMES_START: usize = 4096;

/// The tail of [`closed_log`].
const TAIL: u64 = 94;

/// A disk with a log of two segments, its head inside the first one, closed properly.
fn closed_log() -> Disk {
    let sim = Sim::default();
    let steps = [
        Step::Burst(25),
        Step::Append(20),
        Step::Append(20),
        Step::Trim(3),
        Step::Append(20),
        Step::Append(9),
    ];
    script::run(&sim, Durability::Flushed, 1, &steps).unwrap();
    let disk = sim.disk();
    assert_eq!(segments(&disk).len(), 2);
    disk
}

/// A disk with a log whose last entries no watermark attests, as its process was killed.
fn killed_log() -> Disk {
    let sim = Sim::default();
    let log = script::open(&sim, Durability::Flushed).unwrap();
    for (first, count) in [(0, 4), (4, 2), (6, 3)] {
        script::submit(&log, 1, first, count).unwrap().wait().unwrap();
    }
    // At once, before the log is idle long enough to write the watermark down. Should this thread be slow,
    // then the log is attested; the tests allow for it.
    sim.disk()
}

fn segments(disk: &Disk) -> Vec<String> {
    disk.names().into_iter().filter(|name| name.starts_with("segment-")).collect()
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// The frames of a segment, as the documentation of the format has it: where they are, and which positions
/// they hold.
fn frames(bytes: &[u8]) -> Vec<(Range<usize>, Range<u64>)> {
    let mut frames = Vec::new();
    let mut offset = FRAMES_START;
    while bytes.get(offset..offset + 4) == Some(b"MXFR") {
        let end = offset + 64 + (u32_at(bytes, offset + 44) as usize).next_multiple_of(8);
        let first = u64_at(bytes, offset + 24);
        frames.push((offset..end, first..first + u64::from(u32_at(bytes, offset + 40))));
        offset = end;
    }
    frames
}

fn flipped(disk: &Disk, name: &str, at: usize, bit: usize) -> Disk {
    let mut bytes = disk.bytes(name).to_vec();
    bytes[at] ^= 1 << bit;
    let mut damaged = disk.clone();
    damaged.set_bytes(name, bytes);
    damaged
}

fn open(disk: &Disk) -> Result<FileLog, OpenError> {
    script::open(&Sim::boot(disk.clone()), Durability::Flushed)
}

/// Opens a damaged log: the position of the damage, or how far it reaches if it does no harm. What it holds
/// is right either way.
fn open_damaged(disk: &Disk) -> Result<Tail, Position> {
    let sim = Sim::boot(disk.clone());
    let report = FileLog::verify_with_storage(&*sim.storage());
    match script::open(&sim, Durability::Flushed) {
        Ok(log) => {
            assert_eq!(report.unwrap().damage, None);
            Ok(script::assert_entries(&log, u64::MAX))
        }
        Err(OpenError::Corrupt { position, .. }) => {
            if let Ok(report) = report {
                let damage = report.damage.expect("what cannot be opened is damaged");
                assert_eq!((damage.position, report.tail), (position, position), "{damage}");
            }
            assert_eq!(sim.trace().len(), 0, "a corrupt log is left as it is");
            Err(position)
        }
        Err(other) => panic!("{other}"),
    }
}

/// Sees that a damaged log is found whole, without opening it.
fn assert_whole(disk: &Disk, whole: Tail, what: &str) {
    let report = FileLog::verify_with_storage(&*Sim::boot(disk.clone()).storage()).unwrap();
    assert_eq!(report.damage, None, "{what}");
    assert_eq!((report.head, report.tail, report.sealed), (whole.head, whole.tail, whole.sealed), "{what}");
}

#[test]
fn segment_missing_of_a_buffered_log_that_was_flushed_is_corrupt() {
    for closes in [true, false] {
        let sim = Sim::default();
        let log = script::open(&sim, Durability::Buffered).unwrap();
        for n in 0..90 {
            script::submit(&log, 1, n, 1).unwrap().wait().unwrap();
        }
        if closes {
            drop(log);
        } else {
            log.flush().unwrap();
        }
        let disk = sim.disk();
        let names = segments(&disk);
        assert!(names.len() > 1, "{names:?}");
        for name in names {
            let mut damaged = disk.clone();
            damaged.delete(&name);
            let opened = open_damaged(&damaged);
            assert!(opened.is_err(), "without {name} it ends at {opened:?}");
        }
    }
}

#[test]
fn bit_flipped_anywhere_in_a_closed_log_is_corrupt_there_or_harmless() {
    let disk = closed_log();
    let whole = Tail { head: Position(3), tail: Position(TAIL), sealed: false };
    assert_eq!(open_damaged(&disk), Ok(whole));
    let (mut corrupt, mut harmless) = (0, 0);
    for name in segments(&disk) {
        let bytes = disk.bytes(&name).to_vec();
        let frames = frames(&bytes);
        let end = frames.last().unwrap().0.end;
        for at in 0..bytes.len() {
            let damaged = flipped(&disk, &name, at, at % 8);
            // Opening takes longer than looking, which is the same for zeros: some of them are opened as well.
            if at >= 64 && !(FRAMES_START..end).contains(&at) && at % 32 != 0 {
                assert_whole(&damaged, whole, &format!("{name} byte {at}"));
                harmless += 1;
                continue;
            }
            let first = u64_at(&bytes, 40);
            let frame = frames.iter().find(|(place, _)| place.contains(&at));
            let expected = match frame {
                // The header gives the segment its place in the log.
                _ if at < 64 => Err(Position(first.max(3))),
                // A damaged frame with entries hides them and all behind; one without hides nothing that was
                // not attested elsewhere, unless it is the last one, which attested the entries before.
                Some((_, positions)) if positions.start < TAIL => Err(Position(positions.start.max(3))),
                Some(_) => Ok(whole),
                None => Ok(whole),
            };
            let found = open_damaged(&damaged);
            assert_eq!(found, expected, "{name} byte {at}");
            corrupt += u32::from(found.is_err());
            harmless += u32::from(found.is_ok());
        }
    }
    assert!(corrupt > 5000 && harmless > 200, "{corrupt} {harmless}");
}

#[test]
fn bit_flipped_in_either_copy_of_the_manifest_is_harmless() {
    let disk = closed_log();
    let whole = Tail { head: Position(3), tail: Position(TAIL), sealed: false };
    for at in 0..disk.bytes("manifest").len() {
        let damaged = flipped(&disk, "manifest", at, at % 8);
        if at % 4096 < 512 {
            assert_eq!(open_damaged(&damaged), Ok(whole), "byte {at}");
        } else {
            assert_whole(&damaged, whole, &format!("byte {at}"));
        }
    }
}

#[test]
fn bit_flipped_in_both_copies_of_the_manifest_is_told() {
    let disk = closed_log();
    for at in 0..512 {
        // The same one, and another one.
        for other in [at, 511 - at] {
            let one = flipped(&disk, "manifest", at, at % 8);
            let sim = Sim::boot(flipped(&one, "manifest", 4096 + other, at % 8));
            let error = script::open(&sim, Durability::Flushed).unwrap_err();
            match error {
                OpenError::Corrupt { position: Position(0), ref detail } => {
                    assert!(at >= 8 || other >= 8, "bytes {at} and {other}: {error}");
                    assert!(detail.starts_with("file manifest: both copies are damaged: "), "{detail}");
                }
                OpenError::NotALog { ref detail, .. } => {
                    assert!(at < 8 && other < 8, "bytes {at} and {other}: {error}");
                    assert_eq!(detail, "its manifest is not one of a log");
                }
                ref other => panic!("{other}"),
            }
            assert_eq!(sim.trace().len(), 0, "it is left as it is");
        }
    }
}

/// Nothing attests the last group, but a crash leaves out what it tears: of these frames nothing is missing.
#[test]
fn bit_flipped_in_a_frame_of_a_killed_log_is_corrupt_there() {
    let disk = killed_log();
    let name = &segments(&disk)[0];
    let bytes = disk.bytes(name).to_vec();
    for (place, positions) in frames(&bytes) {
        for at in place.clone() {
            for bit in 0..8 {
                let found = open_damaged(&flipped(&disk, name, at, bit));
                let expected = match positions.is_empty() {
                    // A watermark, of a slow thread.
                    true => found,
                    false => Err(Position(positions.start)),
                };
                assert_eq!(found, expected, "byte {at}, bit {bit}");
            }
        }
    }
}

/// The newest segments of a log that does not wait for its disk are not counted yet, and hold what was acknowledged.
#[test]
fn bit_flipped_in_the_header_of_a_segment_of_a_killed_log_is_corrupt_there() {
    let sim = Sim::default();
    let log = script::open(&sim, Durability::Buffered).unwrap();
    for n in 0..90 {
        script::submit(&log, 1, n, 1).unwrap().wait().unwrap();
    }
    let disk = sim.disk();
    let names = segments(&disk);
    assert!(names.len() > 1, "{names:?}");
    for name in names {
        let first = u64_at(disk.bytes(&name), 40);
        for at in 0..64 {
            assert_eq!(
                open_damaged(&flipped(&disk, &name, at, at % 8)),
                Err(Position(first)),
                "{name} byte {at}"
            );
        }
    }
}

#[test]
fn segment_cut_short_is_corrupt() {
    // Nothing attests the last entries of one that was killed, but no crash makes a segment shorter.
    for (disk, head) in [(closed_log(), 3), (killed_log(), 0)] {
        for name in segments(&disk) {
            let bytes = disk.bytes(&name).to_vec();
            let (frames, first) = (frames(&bytes), u64_at(&bytes, 40));
            for length in 0..bytes.len() {
                let mut damaged = disk.clone();
                damaged.set_bytes(&name, bytes[..length].to_vec());
                let readable = frames.iter().filter(|(place, _)| place.end <= length);
                let expected = readable.map(|(_, positions)| positions.end).max().unwrap_or(first);
                let what = format!("{name} of {length} bytes");
                assert_eq!(open_damaged(&damaged), Err(Position(expected.max(head))), "{what}");
            }
        }
    }
}

#[test]
fn manifest_cut_short_is_no_log_or_harmless() {
    let disk = closed_log();
    let bytes = disk.bytes("manifest").to_vec();
    let whole = Tail { head: Position(3), tail: Position(TAIL), sealed: false };
    for length in 0..bytes.len() {
        let mut damaged = disk.clone();
        damaged.set_bytes("manifest", bytes[..length].to_vec());
        if length % 4096 > 512 && length % 128 != 0 {
            assert_whole(&damaged, whole, &format!("{length} bytes"));
            continue;
        }
        match open(&damaged) {
            Ok(log) => assert_eq!(script::assert_entries(&log, u64::MAX).tail, Position(TAIL)),
            Err(OpenError::NotALog { .. }) => assert!(length < 512, "one copy is whole"),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn segment_with_garbage_behind_its_end_is_whole() {
    let mut disk = closed_log();
    for name in segments(&disk) {
        let mut bytes = disk.bytes(&name).to_vec();
        bytes.extend([0xab; 1000]);
        disk.set_bytes(&name, bytes);
    }
    assert_eq!(open_damaged(&disk).unwrap().tail, Position(TAIL));
}

#[test]
fn garbage_behind_the_last_frame_is_removed() {
    let disk = closed_log();
    let name = segments(&disk).pop().unwrap();
    let mut bytes = disk.bytes(&name).to_vec();
    let end = frames(&bytes).last().unwrap().0.end;
    bytes[end + 8..].fill(0xab);
    let mut damaged = disk;
    damaged.set_bytes(&name, bytes);
    let sim = Sim::boot(damaged);
    let report = FileLog::verify_with_storage(&*sim.storage()).unwrap();
    let torn = report.torn.unwrap();
    assert_eq!((torn.file, torn.offset), (name.clone(), end as u64));
    drop(script::open(&sim, Durability::Flushed).unwrap());
    assert!(sim.disk().bytes(&name)[end..].iter().all(|byte| *byte == 0));
    assert_eq!(FileLog::verify_with_storage(&*sim.storage()).unwrap().torn, None);
}

#[test]
fn segment_missing_is_corrupt_at_its_first_position() {
    let disk = closed_log();
    let names = segments(&disk);
    let second = u64_at(disk.bytes(&names[1]), 40);
    for (name, position) in [(&names[0], 3), (&names[1], second)] {
        let mut damaged = disk.clone();
        damaged.delete(name);
        assert_eq!(open_damaged(&damaged), Err(Position(position)), "without {name}");
    }
}

#[test]
fn segment_of_another_log_or_place_is_corrupt() {
    let disk = closed_log();
    let names = segments(&disk);
    let second = u64_at(disk.bytes(&names[1]), 40);

    for (name, position) in [(&names[0], 3), (&names[1], second)] {
        let mut foreign = disk.clone();
        foreign.set_bytes(name, closed_log().bytes(name).to_vec());
        assert_eq!(open_damaged(&foreign), Err(Position(position)), "another's {name}");
    }

    let mut swapped = disk.clone();
    swapped.set_bytes(&names[0], disk.bytes(&names[1]).to_vec());
    swapped.set_bytes(&names[1], disk.bytes(&names[0]).to_vec());
    assert_eq!(open_damaged(&swapped), Err(Position(3)));

    let mut duplicated = disk.clone();
    duplicated.set_bytes(&names[1], disk.bytes(&names[0]).to_vec());
    assert_eq!(open_damaged(&duplicated), Err(Position(second)));

    let mut one_too_many = disk.clone();
    one_too_many.set_bytes("segment-0000000000000002", disk.bytes(&names[1]).to_vec());
    assert_eq!(open_damaged(&one_too_many), Err(Position(TAIL)));

    let mut far_away = disk.clone();
    far_away.set_bytes("segment-0000000000000009", disk.bytes(&names[1]).to_vec());
    assert_eq!(open_damaged(&far_away), Err(Position(TAIL)));
}

#[test]
fn manifest_of_another_log_is_corrupt() {
    let disk = closed_log();
    let mut foreign = disk.clone();
    foreign.set_bytes("manifest", closed_log().bytes("manifest").to_vec());
    assert_eq!(open_damaged(&foreign), Err(Position(3)));
    let error = open(&foreign).unwrap_err().to_string();
    assert!(error.contains("it belongs to log "), "{error}");

    // One copy of it: the one with the higher sequence counts.
    let mut half = disk.bytes("manifest").to_vec();
    half[4096..].copy_from_slice(&foreign.bytes("manifest")[4096..]);
    let mut mixed = disk;
    mixed.set_bytes("manifest", half);
    let whole = Tail { head: Position(3), tail: Position(TAIL), sealed: false };
    assert!([Ok(whole), Err(Position(3))].contains(&open_damaged(&mixed)));
}

#[test]
fn whole_frame_in_anothers_place_is_corrupt() {
    let disk = closed_log();
    let name = segments(&disk).remove(0);
    let bytes = disk.bytes(&name).to_vec();
    let frames = frames(&bytes);
    let (first, second) = (&frames[1], &frames[2]);
    let mut damaged_bytes = bytes.clone();
    let moved = bytes[first.0.clone()].to_vec();
    damaged_bytes[second.0.start..second.0.start + moved.len()].copy_from_slice(&moved);
    let mut damaged = disk;
    damaged.set_bytes(&name, damaged_bytes);
    assert_eq!(open_damaged(&damaged), Err(Position(second.1.start)));
}

#[test]
fn unknown_files_beside_a_log_are_left_alone() {
    let mut disk = closed_log();
    let foreign = ["notes.txt", "segment-1", "segment-0000000000000000.bak", "\u{fffd}"];
    for name in foreign {
        disk.set_bytes(name, b"mine".to_vec());
    }
    let sim = Sim::boot(disk);
    script::run(&sim, Durability::Flushed, 1, &[Step::Burst(100), Step::Trim(TAIL + 50)]).unwrap();
    for name in foreign {
        assert_eq!(sim.disk().bytes(name), b"mine");
    }
}

#[test]
fn directory_of_something_else_is_not_a_log_and_stays_untouched() {
    for name in ["notes.txt", "segment-0000000000000000", "manifest"] {
        let mut disk = Disk::default();
        disk.set_bytes(name, b"somebody else's data".to_vec());
        let sim = Sim::boot(disk);
        for create in [file::Create::Never, file::Create::IfMissing, file::Create::New] {
            let config = file::Config { create, ..script::config(Durability::Flushed) };
            let error = FileLog::open_with_storage(sim.storage(), &config).unwrap_err();
            assert!(matches!(error, OpenError::NotALog { .. }), "{name}: {error}");
        }
        assert!(matches!(FileLog::verify_with_storage(&*sim.storage()), Err(OpenError::NotALog { .. })));
        assert_eq!(sim.trace().len(), 0);
    }
}

#[test]
fn log_of_a_newer_format_is_refused_by_version() {
    let mut disk = closed_log();
    let mut bytes = disk.bytes("manifest").to_vec();
    for slot in [0, 4096] {
        bytes[slot + 8] = 2;
        let checksum = crc32c::crc32c(&bytes[slot..slot + 508]);
        bytes[slot + 508..slot + 512].copy_from_slice(&checksum.to_le_bytes());
    }
    disk.set_bytes("manifest", bytes);
    let sim = Sim::boot(disk);
    let error = script::open(&sim, Durability::Flushed).unwrap_err();
    assert!(matches!(error, OpenError::Version { found: 2, supported: 1, .. }), "{error}");
    assert_eq!(sim.trace().len(), 0);
}

#[test]
fn sealed_log_with_a_tail_cut_off_is_corrupt() {
    let sim = Sim::default();
    script::run(&sim, Durability::Flushed, 1, &[Step::Append(4), Step::Append(2), Step::Seal]).unwrap();
    let mut disk = sim.disk();
    let name = segments(&disk).pop().unwrap();
    let mut bytes = disk.bytes(&name).to_vec();
    let last = frames(&bytes)[1].0.start;
    // Nothing in the segment attests the second frame any more, but the manifest does.
    bytes[last..].fill(0);
    disk.set_bytes(&name, bytes);
    assert_eq!(open_damaged(&disk), Err(Position(4)));
}

#[test]
fn damage_while_the_log_is_open_is_told_to_readers_behind_it_only() {
    let sim = Sim::boot(closed_log());
    let log = script::open(&sim, Durability::Flushed).unwrap();
    let disk = sim.disk();
    let name = &segments(&disk)[0];
    let frames = frames(disk.bytes(name));
    let (place, positions) = frames.iter().find(|(_, positions)| positions.start > 10).unwrap();
    sim.damage(name, place.start + 70);
    let before = log.read(Position(positions.start - 1)).unwrap().unwrap();
    assert!(before.end() <= Position(positions.start));
    let error = log.read(Position(positions.start)).unwrap_err();
    assert!(matches!(error, ReadError::Corrupt { position, .. } if position.0 == positions.start), "{error}");
}

#[test]
fn log_read_only_serves_what_is_there_and_changes_nothing() {
    let sim = Sim::boot(killed_log());
    let log = FileLog::open_read_only_with_storage(sim.storage()).unwrap();
    let other = FileLog::open_read_only_with_storage(sim.storage()).unwrap();
    assert_eq!(script::assert_entries(&log, u64::MAX).tail, Position(9));
    assert_eq!(log.wait_past(Position(9), None).unwrap(), other.tail().unwrap());
    assert!(matches!(script::submit(&log, 1, 9, 1), Err(mixlog_log::AppendError::ReadOnly)));
    assert!(matches!(log.trim(Position(1)), Err(mixlog_log::TrimError::ReadOnly)));
    assert!(matches!(log.seal(), Err(mixlog_log::SealError::ReadOnly)));
    assert!(matches!(script::open(&sim, Durability::Flushed), Err(OpenError::Locked { .. })));
    drop((log, other));
    assert_eq!(sim.trace().len(), 0);
}

#[test]
fn log_open_to_write_is_locked_for_everybody_else() {
    let sim = Sim::default();
    let log = script::open(&sim, Durability::Flushed).unwrap();
    let ticket = script::submit(&log, 1, 0, 1).unwrap();
    assert!(matches!(script::open(&sim, Durability::Flushed), Err(OpenError::Locked { .. })));
    assert!(matches!(FileLog::verify_with_storage(&*sim.storage()), Err(OpenError::Locked { .. })));
    drop(log);
    // A ticket that outlives its log does not keep it locked.
    assert_eq!(script::open(&sim, Durability::Flushed).unwrap().tail().unwrap().tail, Position(1));
    assert_eq!(ticket.wait().unwrap(), Position(0)..Position(1));
}
