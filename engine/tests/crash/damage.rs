//! Damaged, missing, swapped and foreign checkpoints: named and passed over, or refused, and never another state.

use std::sync::Arc;

use mixlog_engine::checkpoint::Recovery;
use mixlog_engine::{OpenError, Position};
use mixlog_log::{Durability, FileLog};
use mixlog_simdisk::{Disk, Random, Sim};

use crate::script::{self, Running, Step};

/// A disk with two checkpoints, and a log that was trimmed before the older one.
fn disk() -> (Disk, [String; 2]) {
    let sim = Sim::default();
    let steps = [
        Step::Burst(70),
        Step::Checkpoint,
        Step::Burst(15),
        Step::Checkpoint,
        Step::Burst(10),
        Step::Checkpoint,
        Step::Burst(5),
        Step::Reopen,
    ];
    script::run(&sim, Durability::Flushed, 1, &steps).unwrap();
    let disk = sim.disk();
    let names: Vec<_> = disk.names().into_iter().filter(|name| name.starts_with("checkpoints/")).collect();
    (disk, names.try_into().expect("two are kept"))
}

const TAIL: u64 = 101;

fn short(name: &str) -> &str {
    name.strip_prefix("checkpoints/").expect("a checkpoint")
}

fn open(disk: &Disk) -> Result<Running, OpenError> {
    let sim = Sim::boot(disk.clone());
    let log = FileLog::open_with_storage(sim.storage(), &script::files(Durability::Flushed)).unwrap();
    let log = Arc::new(log);
    let engine = script::open_engine(Arc::clone(&log), 1)?;
    Ok(Running { engine, log })
}

/// The state is right, and those checkpoints were passed over, newest first.
fn assert_passed_over(disk: &Disk, rejected: &[&str]) -> Running {
    let running = open(disk).unwrap();
    assert_eq!(script::assert_state(&running.engine), TAIL);
    let found: Vec<_> = running.engine.recovery().rejected.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(found, rejected);
    running
}

/// The same for who only looks, which is quicker: for damage anywhere. Now and then an engine takes part. Tells which
/// checkpoint was used.
fn assert_looked_past(disk: &Disk, rejected: &[&str], at: usize) -> Option<u64> {
    let recovery = if at.is_multiple_of(61) {
        assert_passed_over(disk, rejected).engine.recovery().clone()
    } else {
        let (tail, recovery) = look(disk).unwrap();
        assert_eq!(tail, TAIL, "{at}");
        recovery
    };
    let found: Vec<_> = recovery.rejected.iter().map(|rejected| rejected.name.as_str()).collect();
    assert_eq!(found, rejected, "{at}");
    recovery.checkpoint.map(|position| position.0)
}

/// Replays what is there to its end, without a change to it.
fn look(disk: &Disk) -> Result<(u64, Recovery), OpenError> {
    let log = FileLog::open_read_only_with_storage(Sim::boot(disk.clone()).storage()).unwrap();
    let replay = script::builder(1).replay(Arc::new(log))?;
    let digest = replay.to_end()?;
    Ok((script::assert_snapshot(&replay.snapshot(), digest), replay.recovery().expect("it has begun")))
}

fn assert_refused(disk: &Disk, names: &[&str]) {
    let Err(OpenError::NoCheckpoint { head, rejected }) = look(disk) else {
        panic!("it is not refused");
    };
    assert!(head > Position::ZERO);
    let found: Vec<_> = rejected.iter().map(|rejected| rejected.name.as_str()).collect();
    assert_eq!(found, names);
}

fn with(disk: &Disk, name: &str, bytes: Vec<u8>) -> Disk {
    let mut disk = disk.clone();
    disk.set_bytes(name, bytes);
    disk
}

#[test]
fn bit_flipped_anywhere_in_the_newest_checkpoint_is_named_and_the_one_before_is_used() {
    let (disk, [older, newer]) = disk();
    let mut random = Random(7);
    let bytes = disk.bytes(&newer).to_vec();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << random.below(8);
        let used = assert_looked_past(&with(&disk, &newer, flipped), &[short(&newer)], at);
        assert_eq!(used, Some(hex(&older)), "{at}");
    }
}

fn hex(name: &str) -> u64 {
    u64::from_str_radix(name.rsplit('-').next().unwrap(), 16).unwrap()
}

#[test]
fn only_checkpoint_of_two_to_be_kept_may_be_damaged_as_the_log_is_there_from_its_start() {
    let sim = Sim::default();
    let steps = [Step::Burst(70), Step::Checkpoint, Step::Burst(30), Step::Reopen];
    script::run(&sim, Durability::Flushed, 1, &steps).unwrap();
    let disk = sim.disk();
    let name = disk.names().into_iter().find(|name| name.starts_with("checkpoints/")).expect("one");
    let running = open(&disk).unwrap();
    assert_eq!(running.engine.recovery().checkpoint.map(|p| p.0), Some(hex(&name)));
    drop(running);
    let bytes = disk.bytes(&name).to_vec();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert_eq!(assert_looked_past(&with(&disk, &name, flipped), &[short(&name)], at), None, "{at}");
    }
}

#[test]
fn bit_flipped_anywhere_in_the_older_checkpoint_is_harmless() {
    let (disk, [older, newer]) = disk();
    let mut random = Random(8);
    let bytes = disk.bytes(&older).to_vec();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << random.below(8);
        let damaged = with(&disk, &older, flipped);
        assert_eq!(assert_looked_past(&damaged, &[], at), Some(hex(&newer)), "{at}");
        // Unless the newer one is damaged as well.
        let mut other = disk.bytes(&newer).to_vec();
        let place = random.below(other.len() as u64) as usize;
        other[place] ^= 1 << random.below(8);
        assert_refused(&with(&damaged, &newer, other), &[short(&newer), short(&older)]);
    }
}

#[test]
fn checkpoint_cut_off_at_any_length_or_with_more_behind_it_is_named() {
    let (disk, [_, newer]) = disk();
    let bytes = disk.bytes(&newer).to_vec();
    for length in 0..bytes.len() {
        assert_looked_past(&with(&disk, &newer, bytes[..length].to_vec()), &[short(&newer)], length);
    }
    for more in [1, 47, 48, 4096] {
        let mut longer = bytes.clone();
        longer.resize(bytes.len() + more, 0);
        assert_passed_over(&with(&disk, &newer, longer), &[short(&newer)]);
    }
}

#[test]
fn checkpoints_that_are_swapped_or_copied_are_named() {
    let (disk, [older, newer]) = disk();
    let [old, new] = [&older, &newer].map(|name| disk.bytes(name).to_vec());
    let swapped = with(&with(&disk, &older, new.clone()), &newer, old.clone());
    assert_refused(&swapped, &[short(&newer), short(&older)]);
    assert_passed_over(&with(&disk, &newer, old), &[short(&newer)]);
    let later = format!("checkpoints/checkpoint-{:016x}", hex(&newer) + 1);
    assert_passed_over(&with(&disk, &later, new), &[short(&later)]);
}

#[test]
fn blocks_that_are_swapped_or_twice_are_named() {
    let (disk, [_, newer]) = disk();
    let bytes = disk.bytes(&newer).to_vec();
    // The blocks, as the documentation of the format has it.
    let mut blocks = Vec::new();
    let mut start = 128;
    while start < bytes.len() {
        let body = u32::from_le_bytes(bytes[start + 32..start + 36].try_into().unwrap()) as usize;
        blocks.push(&bytes[start..start + 48 + body]);
        start += 48 + body;
    }
    assert!(blocks.len() >= 5, "catalog, tables, rows of two tables, end");
    let assembled = |blocks: &[&[u8]]| with(&disk, &newer, [&bytes[..128], &blocks.concat()].concat());
    assert_passed_over(&assembled(&blocks), &[]);
    for one in 0..blocks.len() {
        let mut without = blocks.clone();
        without.remove(one);
        assert_passed_over(&assembled(&without), &[short(&newer)]);
        let mut twice = blocks.clone();
        twice.insert(one, blocks[one]);
        assert_passed_over(&assembled(&twice), &[short(&newer)]);
        for other in one + 1..blocks.len() {
            let mut swapped = blocks.clone();
            swapped.swap(one, other);
            assert_passed_over(&assembled(&swapped), &[short(&newer)]);
        }
    }
}

#[test]
fn checkpoint_of_another_log_is_named() {
    let (disk, [_, newer]) = disk();
    let (other, [_, same]) = self::disk();
    assert_eq!(newer, same);
    assert_passed_over(&with(&disk, &newer, other.bytes(&same).to_vec()), &[short(&newer)]);
}

#[test]
fn checkpoints_that_are_missing_lose_nothing_silently() {
    let (disk, [older, newer]) = disk();
    let mut one = disk.clone();
    one.delete(&newer);
    assert_passed_over(&one, &[]);
    let mut none = one.clone();
    none.delete(&older);
    let error = open(&none).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Trimmed { head, newest: None } if head.0 > 0), "{error}");
    let mut other = disk.clone();
    other.delete(&older);
    assert_passed_over(&other, &[]);
    // Files that nobody knows are left alone.
    let with_more =
        with(&with(&disk, "checkpoints/README", b"hello".to_vec()), "checkpoints/checkpoint-1", vec![]);
    let running = assert_passed_over(&with_more, &[]);
    drop(running);
}

#[test]
fn checkpoint_that_was_rejected_makes_way_for_newer_ones() {
    let (disk, [older, newer]) = disk();
    let damaged = with(&disk, &newer, vec![0; 100]);
    let sim = Sim::boot(damaged);
    let running = script::open(&sim, Durability::Flushed, 1).unwrap();
    assert_eq!(running.engine.checkpoints(), [Position(hex(&older))]);
    running.engine.checkpoint().unwrap();
    assert!(sim.disk().names().contains(&newer), "evidence stays while it may be needed");
    script::submit(&running.engine, TAIL).unwrap().wait().unwrap();
    running.engine.checkpoint().unwrap();
    assert_eq!(running.engine.checkpoints(), [Position(TAIL - 1), Position(TAIL)]);
    let names = sim.disk().names();
    assert_eq!(names.iter().filter(|name| name.starts_with("checkpoints/")).count(), 2, "{names:?}");
}

#[test]
fn log_that_ends_before_its_checkpoint_is_refused() {
    let sim = Sim::default();
    script::run(&sim, Durability::Flushed, 1, &[Step::Burst(5), Step::Reopen]).unwrap();
    let before = sim.disk();
    script::run(&sim, Durability::Flushed, 1, &[Step::Burst(5), Step::Checkpoint]).unwrap();
    let mut disk = sim.disk();
    for name in before.names() {
        disk.set_bytes(&name, before.bytes(&name).to_vec());
    }
    let error = open(&disk).map(|_| ()).unwrap_err();
    let lost =
        matches!(error, OpenError::LogTooShort { position, tail, .. } if position.0 == 10 && tail.0 == 6);
    assert!(lost, "{error}");
}

#[test]
fn bit_flipped_in_a_copy_of_the_manifest_is_harmless_and_in_both_refused() {
    let (disk, _) = disk();
    let bytes = disk.bytes("manifest").to_vec();
    for at in 0..512 {
        for copy in [0, 4096] {
            let mut flipped = bytes.clone();
            flipped[copy + at] ^= 1 << (at % 8);
            let damaged = with(&disk, "manifest", flipped);
            // A writer mends it first.
            assert_looked_past(&damaged, &[], at);
            if at.is_multiple_of(3) {
                assert_passed_over(&damaged, &[]);
            }
        }
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        flipped[4096 + at] ^= 1;
        let sim = Sim::boot(with(&disk, "manifest", flipped));
        assert!(FileLog::open_with_storage(sim.storage(), &script::files(Durability::Flushed)).is_err());
    }
}
