//! Backups while calls fail and power is cut: the original is as it was, and the copy is the same, or nobody takes it for
//! one.

use std::sync::Arc;

use mixlog_engine::Digest;
use mixlog_engine::checkpoint::{BackupError, backup_with_storage};
use mixlog_log::file::{self, Storage};
use mixlog_log::{Durability, FileLog, SharedLog};
use mixlog_simdisk::{Call, Cut, Disk, Failure, Fault, Kind, Random, Sim};

use crate::script::{self, Running, Step};

/// The log is trimmed, two checkpoints are there, and entries after the newer one.
const STEPS: &[Step] =
    &[Step::Burst(70), Step::Checkpoint, Step::Burst(30), Step::Checkpoint, Step::Burst(10)];

/// Who makes the copy.
#[derive(Clone, Copy, Debug)]
enum By {
    /// An engine, of its state.
    Engine,
    /// Somebody else, of its files.
    Files,
}

fn copy(sim: &Sim) -> Arc<dyn Storage> {
    sim.storage().directory("copy")
}

/// A log, durably on a disk.
fn disk(durability: Durability) -> Disk {
    let sim = Sim::default();
    script::run(&sim, durability, 1, STEPS).unwrap();
    // Closing it made it durable.
    sim.disk().after(Cut::Nothing, &mut Random(0))
}

/// A machine with this disk on which an engine runs that calls nothing by itself any more.
fn machine(disk: &Disk, durability: Durability) -> (Sim, Running) {
    let sim = Sim::boot(disk.clone());
    let running = script::open(&sim, durability, 1).unwrap();
    assert!(running.log.tail().unwrap().head.0 > 0 && running.engine.checkpoints().len() == 2);
    (sim, running)
}

fn back_up(sim: &Sim, running: &Running, by: By) -> Result<(), BackupError> {
    match by {
        By::Engine => {
            running.engine.backup_with_storage(copy(sim), script::files(running.log.durability())).map(|_| ())
        }
        By::Files => backup_with_storage(&*sim.storage(), &*copy(sim)).map(|_| ()),
    }
}

/// What a log has that is there, rebuilt; an error if nobody takes it for one.
fn digest(storage: Arc<dyn Storage>, durability: Durability) -> Result<Digest, String> {
    let config = file::Config { create: file::Create::Never, ..script::files(durability) };
    let log = FileLog::open_with_storage(storage, &config).map_err(|error| error.to_string())?;
    let engine = script::open_engine(Arc::new(log), 1).map_err(|error| error.to_string())?;
    script::assert_state(&engine);
    Ok(engine.digest())
}

/// The original is what it was; the copy, too, if it is one, which it is for certain if somebody was told so.
fn assert_both(disk: &Disk, durability: Durability, expected: Digest, told: bool, what: &str) -> bool {
    let sim = Sim::boot(disk.clone());
    assert_eq!(digest(sim.storage(), durability), Ok(expected), "{what}: the original");
    match digest(copy(&sim), durability) {
        Ok(copied) => {
            assert_eq!(copied, expected, "{what}: the copy");
            true
        }
        Err(error) => {
            assert!(!told, "{what}: {error}");
            false
        }
    }
}

#[test]
fn call_that_fails_during_a_backup_leaves_the_original_and_no_wrong_copy() {
    let kinds: [(Kind, &[i32]); 9] = [
        (Kind::Open, &[5]),
        (Kind::Read, &[5]),
        (Kind::Write, &[5, 28]),
        (Kind::Allocate, &[5, 28]),
        (Kind::Sync, &[5]),
        (Kind::Rename, &[5]),
        (Kind::SyncDirectory, &[5]),
        (Kind::List, &[5]),
        (Kind::Lock, &[5]),
    ];
    let mut random = Random(1);
    let disks = [Durability::Flushed, Durability::Buffered].map(|durability| (durability, disk(durability)));
    let faults = kinds.iter().flat_map(|(kind, errors)| errors.iter().map(|error| (*kind, *error)));
    for (kind, error) in faults {
        for (by, count) in [By::Engine, By::Files].into_iter().flat_map(|by| [(by, 1), (by, u64::MAX)]) {
            let mut strikes = 0;
            for after in 0.. {
                // The copy is made alike, whatever the durability of the original.
                let (durability, disk) = &disks[after as usize % 2];
                let (durability, (sim, running)) = (*durability, machine(disk, *durability));
                let expected = running.engine.digest();
                sim.set_fault(Some(Fault { kind, after, count, error: Failure::Errno(error) }));
                let outcome = back_up(&sim, &running, by);
                let struck = sim.fault_struck();
                sim.set_fault(None);
                let what = format!("{by:?}, {kind:?} {after} {error} {count}: {outcome:?}");
                for cut in [Cut::Some, Cut::Nothing] {
                    // The engine's own log is durable already.
                    let disk = sim.disk().after(cut, &mut random);
                    assert_both(&disk, durability, expected, outcome.is_ok(), &what);
                }
                // It goes on, and can be asked again.
                script::submit(&running.engine, expected.position.unwrap().0 + 1).unwrap().wait().unwrap();
                let again = sim.storage().directory("again");
                running.engine.backup_with_storage(Arc::clone(&again), script::files(durability)).unwrap();
                assert_eq!(digest(again, durability), Ok(running.engine.digest()), "{what}");
                if !struck {
                    assert!(outcome.is_ok(), "{what}");
                    break;
                }
                strikes += 1;
            }
            let makes_none = matches!((by, kind), (By::Engine, Kind::Read));
            assert!(strikes > 0 || makes_none, "{by:?} makes no call of kind {kind:?}");
        }
    }
}

#[test]
fn power_cut_at_every_call_of_a_backup_leaves_the_original_and_no_wrong_copy() {
    let mut random = Random(2);
    for by in [By::Engine, By::Files] {
        for durability in [Durability::Flushed, Durability::Buffered] {
            let (sim, running) = machine(&disk(durability), durability);
            let expected = running.engine.digest();
            let (mut disk, before) = (sim.disk(), sim.trace().len());
            back_up(&sim, &running, by).unwrap();
            let trace: Vec<Call> = sim.trace().split_off(before);
            let (mut copies, mut none) = (0, 0);
            for number in 0..=trace.len() {
                if number > 0 {
                    disk.apply(&trace[number - 1]);
                }
                let cuts = [Cut::Some, Cut::Some, Cut::Some, Cut::Nothing, Cut::Everything, Cut::Unsaved];
                for cut in cuts {
                    let after = disk.after(cut, &mut random);
                    let what = format!("{by:?}, {durability:?}, call {number}, {cut:?}");
                    let told = number == trace.len();
                    if assert_both(&after, durability, expected, told, &what) {
                        copies += 1;
                    } else {
                        none += 1;
                    }
                }
            }
            println!("{by:?}, {durability:?}: {} calls, {copies} copies, {none} that are none", trace.len());
            assert!(trace.len() > 10 && copies >= 6 && none > 30, "{copies} {none}");
        }
    }
}
