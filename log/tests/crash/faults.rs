//! Failing disks and full ones: no false acknowledgement, no hang, and nothing lost that was acknowledged.

use std::io::ErrorKind;

use mixlog_log::{
    AppendError, Durability, FileLog, FlushError, OpenError, Position, ReadError, SealError, SharedLog,
    TrimError,
};

use crate::script::{self, PATIENCE, Promise, Step};
use mixlog_simdisk::{Call, Cut, Failure, Fault, Kind, Random, Sim};

const STEPS: &[Step] = &[
    Step::Append(3),
    Step::Burst(60),
    Step::Trim(50),
    Step::Append(2),
    Step::Reopen,
    Step::Burst(50),
    Step::Seal,
];

fn promise(sim: &Sim) -> Promise {
    let mut promise = Promise::default();
    for call in sim.trace() {
        if let Call::Note(note) = call {
            promise.add(&note);
        }
    }
    promise
}

/// Runs the script with the n-th call of a kind failing, for every n, and then cuts the power.
fn fail_every_call(kind: Kind, count: u64, error: impl Into<Failure>) {
    let error = error.into();
    for durability in [Durability::Flushed, Durability::Buffered] {
        fail_every_call_of(durability, kind, count, error, 3);
    }
}

/// The same with each error that disks have, once and for ever.
fn fail_every_call_in_every_way(kind: Kind) {
    for (error, count) in [(5, 1), (5, u64::MAX), (28, 1), (28, u64::MAX), (4, 1), (4, u64::MAX)] {
        for durability in [Durability::Flushed, Durability::Buffered] {
            let cuts = if (error, count) == (5, 1) { 3 } else { 0 };
            fail_every_call_of(durability, kind, count, Failure::Errno(error), cuts);
        }
    }
}

/// `cuts`: of the power, for each call of the log that is opened afterwards.
fn fail_every_call_of(durability: Durability, kind: Kind, count: u64, error: Failure, cuts: usize) {
    let mut random = Random(5);
    for after in 0.. {
        let sim = Sim::default();
        sim.set_fault(Some(Fault { kind, after, count, error }));
        let outcome = script::run(&sim, durability, 1, STEPS);
        let struck = sim.fault_struck();
        sim.set_fault(None);
        let promise = promise(&sim);
        let acknowledged =
            if durability == Durability::Flushed { promise.acknowledged } else { promise.trimmed };
        for cut in [Cut::Nothing, Cut::Some, Cut::Everything] {
            let disk = sim.disk().after(cut, &mut random);
            let log = script::open(&Sim::boot(disk), durability).unwrap();
            let tail = script::assert_entries(&log, u64::MAX);
            assert!(tail.tail.0 >= acknowledged, "{kind:?} {after}: {tail:?} {promise:?}");
            assert!(tail.head.0 >= promise.trimmed, "{kind:?} {after}: {tail:?} {promise:?}");
            assert!(promise.sealed.is_none() || tail.sealed, "{kind:?} {after}: {tail:?} {promise:?}");
        }
        // The same machine opens the log again: its memory holds bytes that the disk may not have.
        let (before, calls) = (sim.disk(), sim.trace().len());
        let log = script::open(&sim, durability).unwrap();
        let seen = script::assert_entries(&log, u64::MAX);
        assert!(seen.tail.0 >= acknowledged);
        let disk = sim.disk().after(Cut::Nothing, &mut random);
        drop(log);
        let log = script::open(&Sim::boot(disk), durability).unwrap();
        assert_eq!(script::assert_entries(&log, u64::MAX), seen, "{kind:?} {after}");
        // And the power is cut while it does so.
        let trace = sim.trace();
        for end in calls..trace.len().min(calls + 12) {
            let mut disk = before.clone();
            trace[calls..end].iter().for_each(|call| disk.apply(call));
            for _ in 0..cuts {
                let sim = Sim::boot(disk.after(Cut::Some, &mut random));
                let tail = script::assert_entries(&script::open(&sim, durability).unwrap(), u64::MAX);
                assert!(tail.tail.0 >= acknowledged && tail.head.0 >= promise.trimmed, "{kind:?} {after}");
            }
        }
        if !struck {
            assert_eq!(outcome, Ok(()));
            assert!(after > 0, "the script makes no call of kind {kind:?}");
            return;
        }
    }
}

#[test]
fn write_that_fails_acknowledges_nothing_falsely() {
    fail_every_call(Kind::Write, 1, ErrorKind::Other);
    fail_every_call(Kind::Write, u64::MAX, ErrorKind::StorageFull);
}

#[test]
fn sync_that_fails_acknowledges_nothing_falsely() {
    fail_every_call(Kind::Sync, 1, ErrorKind::Other);
    fail_every_call(Kind::Sync, u64::MAX, ErrorKind::Other);
}

#[test]
fn open_that_fails_acknowledges_nothing_falsely() {
    fail_every_call_in_every_way(Kind::Open);
}

#[test]
fn rename_or_removal_that_fails_acknowledges_nothing_falsely() {
    fail_every_call_in_every_way(Kind::Rename);
    fail_every_call_in_every_way(Kind::Remove);
    fail_every_call_in_every_way(Kind::SyncDirectory);
}

#[test]
fn allocation_or_listing_or_lock_or_read_that_fails_acknowledges_nothing_falsely() {
    fail_every_call_in_every_way(Kind::Allocate);
    fail_every_call_in_every_way(Kind::List);
    fail_every_call_in_every_way(Kind::Lock);
    fail_every_call_in_every_way(Kind::Read);
}

#[test]
fn file_system_without_allocation_is_good_enough() {
    let sim = Sim::default();
    sim.set_fault(Some(Fault {
        kind: Kind::Allocate,
        after: 0,
        count: u64::MAX,
        error: ErrorKind::Unsupported.into(),
    }));
    script::run(&sim, Durability::Flushed, 1, STEPS).unwrap();
}

#[test]
fn flush_that_fails_ends_the_log_but_not_the_reads() {
    for durability in [Durability::Flushed, Durability::Buffered] {
        let sim = Sim::default();
        let log = script::open(&sim, durability).unwrap();
        // Enough to push the first entries out of the cache, so that they are read next to unflushed ones.
        for first in (0..40).step_by(4) {
            script::submit(&log, 1, first, 4).unwrap().wait().unwrap();
        }
        // The next flush: of an append, or in the background.
        sim.set_fault(Some(Fault {
            kind: Kind::Sync,
            after: 0,
            count: u64::MAX,
            error: ErrorKind::Other.into(),
        }));
        if let Ok(ticket) = script::submit(&log, 1, 40, 1)
            && durability == Durability::Flushed
        {
            let outcome = ticket.wait_timeout(PATIENCE).expect("waiters are released");
            assert!(matches!(outcome, Err(AppendError::Failed(_))), "{outcome:?}");
        }
        let waited = log.wait_past(Position(100), Some(PATIENCE));
        assert!(matches!(waited, Err(ReadError::Failed(_))), "{waited:?}");
        assert!(matches!(script::submit(&log, 1, 41, 1), Err(AppendError::Failed(_))));
        assert!(matches!(log.seal(), Err(SealError::Failed(_))));
        assert!(matches!(log.trim(Position(1)), Err(TrimError::Failed(_))));
        let tail = script::assert_entries(&log, u64::MAX);
        assert!(tail.tail >= Position(40));
        // A disk that works again does not bring the log back.
        sim.set_fault(None);
        assert!(matches!(script::submit(&log, 1, 41, 1), Err(AppendError::Failed(_))));
        assert_eq!(log.tail().unwrap(), tail);
    }
}

#[test]
fn disk_that_is_full_refuses_appends_until_there_is_space() {
    for durability in [Durability::Flushed, Durability::Buffered] {
        let sim = Sim::default();
        let log = script::open(&sim, durability).unwrap();
        // Room for the manifest, two segments and half of a third.
        sim.set_capacity(Some((8 << 10) + 5 * (6 << 10)));
        let mut next = 0;
        let mut fill = || {
            let first = next;
            loop {
                match script::submit(&log, 1, next, 1) {
                    Ok(ticket) => {
                        ticket.wait_timeout(PATIENCE).expect("a ticket has an outcome").unwrap();
                        next += 1;
                    }
                    Err(AppendError::Full(error)) => {
                        assert_eq!(error.kind(), ErrorKind::StorageFull);
                        return first..next;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        };
        let filled = fill();
        assert!(filled.end > 60, "both segments are used: {filled:?}");
        assert_eq!(fill(), filled.end..filled.end);
        assert_eq!(script::assert_entries(&log, u64::MAX).tail, Position(filled.end));
        // Giving up the first segment makes space for another one.
        log.trim(Position(filled.end)).unwrap();
        assert!(sim.used() <= (8 << 10) + (12 << 10));
        let refilled = fill();
        assert!(refilled.end > refilled.start + 30, "{refilled:?}");
        sim.set_capacity(None);
        let end = refilled.end;
        script::submit(&log, 1, end, 10).unwrap().wait().unwrap();
        assert_eq!(script::assert_entries(&log, u64::MAX).tail, Position(end + 10));
        drop(log);
        let log = script::open(&Sim::boot(sim.disk()), durability).unwrap();
        assert_eq!(script::assert_entries(&log, u64::MAX).tail, Position(end + 10));
    }
}

#[test]
fn disk_that_is_full_from_the_start_creates_no_log() {
    let sim = Sim::default();
    sim.set_capacity(Some(16 << 10));
    let error = script::open(&sim, Durability::Flushed).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    sim.set_capacity(None);
    script::run(&sim, Durability::Flushed, 1, STEPS).unwrap();
}

#[test]
fn trim_whose_removal_fails_can_be_repeated() {
    let sim = Sim::default();
    let log = script::open(&sim, Durability::Flushed).unwrap();
    for n in 0..150 {
        script::submit(&log, 1, n, 1).unwrap().wait().unwrap();
    }
    let before = sim.disk().names();
    // All of them: the background thread may remove something as well.
    sim.set_fault(Some(Fault {
        kind: Kind::Remove,
        after: 0,
        count: u64::MAX,
        error: ErrorKind::Other.into(),
    }));
    assert!(matches!(log.trim(Position(150)), Err(TrimError::Io(_))));
    sim.set_fault(None);
    assert_eq!(log.tail().unwrap().head, Position(150));
    log.trim(Position(150)).unwrap();
    assert!(sim.disk().names().len() < before.len());
    script::submit(&log, 1, 150, 1).unwrap().wait().unwrap();
}

#[test]
fn trim_whose_removal_fails_is_finished_when_the_log_is_opened() {
    let sim = Sim::default();
    let log = script::open(&sim, Durability::Flushed).unwrap();
    for n in 0..150 {
        script::submit(&log, 1, n, 1).unwrap().wait().unwrap();
    }
    let segments = || sim.disk().names().iter().filter(|name| name.starts_with("segment-")).count();
    assert!(segments() > 1);
    sim.set_fault(Some(Fault {
        kind: Kind::Remove,
        after: 0,
        count: u64::MAX,
        error: ErrorKind::Other.into(),
    }));
    assert!(matches!(log.trim(Position(150)), Err(TrimError::Io(_))));
    drop(log);
    sim.set_fault(None);
    assert!(segments() > 1);
    let log = script::open(&sim, Durability::Flushed).unwrap();
    assert_eq!((segments(), log.tail().unwrap().head), (1, Position(150)));
}

#[test]
fn read_that_fails_is_an_error_once() {
    let sim = Sim::default();
    script::run(&sim, Durability::Flushed, 1, &[Step::Append(4)]).unwrap();
    let log = script::open(&sim, Durability::Flushed).unwrap();
    sim.set_fault(Some(Fault { kind: Kind::Read, after: 0, count: 1, error: ErrorKind::Other.into() }));
    assert!(matches!(log.read(Position(0)), Err(ReadError::Io(_))));
    assert!(log.read(Position(0)).unwrap().is_some());
}

/// Whoever has several disks is told which one it is.
#[test]
fn error_of_the_disk_names_where_the_log_is_and_is_of_the_same_kind() {
    let eio = std::io::Error::from_raw_os_error(5);
    for durability in [Durability::Flushed, Durability::Buffered] {
        let opened = || {
            let sim = Sim::default();
            let second_disk = sim.storage().directory("second-disk");
            let log = FileLog::open_with_storage(second_disk, &script::config(durability)).unwrap();
            (sim, log)
        };
        let fail = |sim: &Sim, kind| {
            sim.set_fault(Some(Fault { kind, after: 0, count: u64::MAX, error: Failure::Errno(5) }));
        };
        let assert_named = |error: &dyn std::fmt::Display, what: &str, place: &str| {
            assert_eq!(error.to_string(), format!("{what}: /sim/second-disk{place}: {eio}"));
        };
        let (sim, log) = opened();
        for n in 0..150 {
            script::submit(&log, 1, n, 1).unwrap().wait().unwrap();
        }
        sim.set_capacity(Some(sim.used()));
        let mut next = 150;
        let full = loop {
            match script::submit(&log, 1, next, 1) {
                Ok(ticket) => assert_eq!(ticket.wait().unwrap().start, Position(next)),
                Err(error) => break error,
            }
            next += 1;
        };
        let AppendError::Full(source) = &full else { panic!("{full}") };
        assert_eq!(source.kind(), ErrorKind::StorageFull);
        assert!(full.to_string().starts_with("no space left for the log: /sim/second-disk: "), "{full}");
        sim.set_capacity(None);
        fail(&sim, Kind::Read);
        let ReadError::Io(source) = log.read(Position(0)).unwrap_err() else { panic!("it was refused") };
        assert_eq!(source.kind(), eio.kind());
        assert_named(&ReadError::Io(source), "cannot read the log", "/segment-0000000000000000");
        fail(&sim, Kind::Remove);
        let error = log.trim(Position(150)).unwrap_err();
        assert!(matches!(&error, TrimError::Io(source) if source.kind() == eio.kind()));
        assert_named(&error, "cannot trim the log", "");
        // One that has room for all that comes.
        let (sim, log) = opened();
        script::submit(&log, 1, 0, 1).unwrap().wait().unwrap();
        fail(&sim, Kind::Sync);
        drop(script::submit(&log, 1, 1, 1).unwrap().wait());
        let error = log.flush().unwrap_err();
        assert!(matches!(&error, FlushError::Failed(source) if source.kind() == eio.kind()));
        let failed = "the log has failed and must be opened again";
        assert_named(&error, failed, "");
        assert_named(&script::submit(&log, 1, 2, 1).unwrap_err(), failed, "");
        assert_named(&log.seal().unwrap_err(), failed, "");
        assert_named(&log.trim(Position(151)).unwrap_err(), failed, "");
        assert_named(&log.wait_past(Position(1000), Some(PATIENCE)).unwrap_err(), failed, "");
    }
}

#[test]
fn bug_in_the_log_thread_releases_who_waits() {
    let sim = Sim::default();
    let log = script::open(&sim, Durability::Flushed).unwrap();
    sim.set_panics();
    let ticket = script::submit(&log, 1, 0, 1).unwrap();
    let outcome = ticket.wait_timeout(PATIENCE).expect("waiters are released");
    assert!(matches!(outcome, Err(AppendError::Failed(_))), "{outcome:?}");
    let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(log)));
    assert!(dropped.is_err(), "a bug is not hidden");
}
