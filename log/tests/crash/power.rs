//! Power cuts at every call of small traces.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mixlog_log::{Durability, FileLog, OpenError, Position, SharedLog};

use crate::script::{self, Promise, Step};
use mixlog_simdisk::{Call, Cut, Disk, Fault, Kind, Note, Random, Sim};

/// Every mix of appends, segment switches, trims, seals and reopenings that fits in a small trace.
const SCRIPTS: &[&[Step]] = &[
    &[Step::Append(1), Step::Append(3), Step::Append(2)],
    &[Step::Burst(30), Step::Append(12), Step::Burst(40), Step::Append(12), Step::Append(10)],
    &[Step::Burst(60), Step::Trim(50), Step::Burst(60), Step::Trim(115), Step::Append(5)],
    &[Step::Append(5), Step::Seal],
    &[Step::Burst(70), Step::Seal, Step::Trim(65)],
    &[Step::Append(4), Step::Reopen, Step::Burst(50), Step::Reopen, Step::Append(4)],
    &[Step::Burst(55), Step::Trim(55), Step::Reopen, Step::Append(3), Step::Seal, Step::Reopen],
    &[Step::Burst(300), Step::Trim(250), Step::Burst(50)],
];

/// How a crash went, to see that the tests reach what they are for.
#[derive(Debug, Default)]
struct Tally {
    states: u64,
    missing: u64,
    torn: u64,
    longer_than_acknowledged: u64,
    /// A segment was there, but not all that stands before it.
    dropped: u64,
}

/// Plays a power cut after every call of the trace, `cuts` of each kind that is random.
fn cut_everywhere(trace: &[Call], durability: Durability, cuts: u64, random: &mut Random, tally: &mut Tally) {
    let mut disk = Disk::default();
    let mut promise = Promise::default();
    let mut check = |disk: &Disk, promise: Promise| {
        for _ in 0..cuts {
            check_crash(&disk.after(Cut::Some, random), promise, durability, false, random, tally);
        }
        check_crash(&disk.after(Cut::Nothing, random), promise, durability, false, random, tally);
        for cut in [Cut::Everything, Cut::Unsaved] {
            check_crash(&disk.after(cut, random), promise, durability, true, random, tally);
        }
    };
    check(&disk, promise);
    for call in trace {
        disk.apply(call);
        if let Call::Note(note) = call {
            promise.add(note);
        }
        check(&disk, promise);
    }
}

/// Opens the log that a crash left; then crashes again, in the middle of the recovery and after it.
fn check_crash(
    disk: &Disk,
    promise: Promise,
    durability: Durability,
    only_the_process_ended: bool,
    random: &mut Random,
    tally: &mut Tally,
) {
    tally.states += 1;
    // A buffered log promises nothing of what it acknowledged but not closed, trimmed or sealed.
    let keeps_acknowledged = durability == Durability::Flushed || only_the_process_ended;
    let at_least = if keeps_acknowledged { promise.acknowledged } else { promise.trimmed };

    let report = match FileLog::verify_with_storage(&*Sim::boot(disk.clone()).storage()) {
        Err(OpenError::Missing { .. }) => {
            assert_eq!(promise, Promise::default(), "a log that promised something is there");
            tally.missing += 1;
            None
        }
        other => Some(other.unwrap()),
    };
    if let Some(report) = &report {
        assert_eq!(report.damage, None, "no bit was flipped");
        tally.torn += u64::from(report.torn.is_some());
    }

    let sim = Sim::boot(disk.clone());
    let segments = || sim.disk().names().iter().filter(|name| name.starts_with("segment-")).count();
    let before = segments();
    let log = script::open(&sim, durability).unwrap();
    // What was trimmed is removed as well, but then there is no tear.
    let is_torn = report.as_ref().is_some_and(|report| report.torn.is_some());
    tally.dropped += u64::from(is_torn && segments() < before);
    let tail = script::assert_entries(&log, u64::MAX);
    assert!(tail.tail.0 >= at_least, "{tail:?} {promise:?}");
    assert!(tail.head.0 >= promise.trimmed, "{tail:?} {promise:?}");
    if let Some(sealed) = promise.sealed {
        assert_eq!((tail.sealed, tail.tail.0), (true, sealed));
    }
    tally.longer_than_acknowledged += u64::from(tail.tail.0 > promise.acknowledged);
    if let Some(report) = report {
        assert_eq!((report.head, report.tail, report.sealed), (tail.head, tail.tail, tail.sealed));
    }

    // Whoever read the log now has seen these entries: the next power cut must not take them.
    let seen = sim.disk().after(Cut::Nothing, random);
    let reopened = script::open(&Sim::boot(seen), durability).unwrap();
    assert_eq!(script::assert_entries(&reopened, u64::MAX), tail);

    // A recovery that is itself cut off leaves a log that recovers. It may have been a process that ended before.
    let at_least = if durability == Durability::Flushed { promise.acknowledged } else { promise.trimmed };
    let trace = sim.trace();
    let mut disk = disk.clone();
    let calls = usize::try_from(random.below(trace.len() as u64 + 1)).unwrap();
    trace[..calls].iter().for_each(|call| disk.apply(call));
    let reopened = script::open(&Sim::boot(disk.after(Cut::Some, random)), durability).unwrap();
    let again = script::assert_entries(&reopened, u64::MAX);
    assert!(again.tail.0 >= at_least && again.tail <= tail.tail);

    // What is appended now is not mixed up with what the crash left behind the tail.
    drop(log);
    if !tail.sealed && random.one_in(4) {
        let sim = Sim::boot(sim.disk());
        script::run(&sim, durability, 2, &[Step::Append(1), Step::Append(5)]).unwrap();
        let log = script::open(&Sim::boot(sim.disk().after(Cut::Nothing, random)), durability).unwrap();
        assert_eq!(script::assert_entries(&log, tail.tail.0).tail, tail.tail.plus(6));
    }
}

fn cut_scripts(durability: Durability, seed: u64) -> Tally {
    let mut random = Random(seed);
    let mut tally = Tally::default();
    for steps in SCRIPTS {
        let sim = Sim::default();
        script::run(&sim, durability, 1, steps).unwrap();
        cut_everywhere(&sim.trace(), durability, 3, &mut random, &mut tally);
    }
    assert!(tally.states > 1500, "{tally:?}");
    assert!(tally.missing > 0 && tally.torn > 0 && tally.longer_than_acknowledged > 0, "{tally:?}");
    println!("{tally:?}");
    tally
}

#[test]
fn power_cut_at_every_call_of_a_flushed_log_keeps_what_was_acknowledged() {
    cut_scripts(Durability::Flushed, 1);
}

#[test]
fn power_cut_at_every_call_of_a_buffered_log_keeps_a_prefix() {
    let tally = cut_scripts(Durability::Buffered, 2);
    assert!(tally.dropped > 0, "{tally:?}");
}

#[test]
fn power_cut_after_fitful_writes_keeps_what_was_acknowledged() {
    let mut random = Random(3);
    let mut tally = Tally::default();
    let sim = Sim::default();
    sim.set_fitful(4);
    script::run(&sim, Durability::Flushed, 1, SCRIPTS[1]).unwrap();
    cut_everywhere(&sim.trace(), Durability::Flushed, 2, &mut random, &mut tally);
}

#[test]
fn power_cut_while_a_buffered_log_is_flushed_and_grows_keeps_what_was_flushed() {
    let mut random = Random(4);
    for _ in 0..4 {
        let sim = Sim::default();
        let log = script::open(&sim, Durability::Buffered).unwrap();
        let (once, done) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            let flushers = [(); 2].map(|()| {
                scope.spawn(|| {
                    let mut before = Position::ZERO;
                    while !done.load(Ordering::Relaxed) {
                        let flushed = log.flush().unwrap();
                        if flushed > before {
                            sim.note(Note::Trimmed(flushed));
                            before = flushed;
                            once.store(true, Ordering::Relaxed);
                        }
                    }
                })
            });
            for n in 0..400 {
                drop(script::submit(&log, 1, n, 1).unwrap());
                // Half of it at least grows beside flushers that have got going.
                while n == 200 && !once.load(Ordering::Relaxed) {
                    assert!(
                        !flushers.iter().all(thread::ScopedJoinHandle::is_finished),
                        "no flusher is left"
                    );
                    thread::yield_now();
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        drop(log);
        let (mut disk, mut flushed) = (Disk::default(), 0);
        for call in sim.trace() {
            disk.apply(&call);
            if let Call::Note(Note::Trimmed(position)) = call {
                flushed = flushed.max(position.0);
            }
            if flushed == 0 || random.below(8) > 0 {
                continue;
            }
            for cut in [Cut::Nothing, Cut::Some] {
                let log =
                    script::open(&Sim::boot(disk.after(cut, &mut random)), Durability::Buffered).unwrap();
                let tail = script::assert_entries(&log, u64::MAX).tail;
                assert!(tail.0 >= flushed, "{cut:?}: {tail} {flushed}");
            }
        }
        assert!(flushed > 0);
    }
}

/// A log two directories down, of which the disk may have neither.
fn open_below(sim: &Sim) -> Result<FileLog, OpenError> {
    let storage = sim.storage().directory("data").directory("log");
    FileLog::open_with_storage(storage, &script::config(Durability::Flushed))
}

/// A process makes a log and is killed after each of its calls. Who comes next finds directories whose entries nobody has
/// synced, or none.
#[test]
fn log_whose_directories_were_made_by_a_process_that_was_killed_keeps_what_is_acknowledged() {
    let mut random = Random(8);
    let sim = Sim::default();
    drop(open_below(&sim).unwrap());
    let original = Sim::default();
    script::run(&original, Durability::Flushed, 1, &[Step::Append(3)]).unwrap();
    let (mut disk, mut unsynced) = (Disk::default(), 0);
    for call in sim.trace() {
        disk.apply(&call);
        for cut in [Cut::Everything, Cut::Unsaved, Cut::Some, Cut::Nothing] {
            let sim = Sim::boot(disk.after(cut, &mut random));
            let log = open_below(&sim).unwrap();
            script::submit(&log, 1, 0, 3).unwrap().wait().unwrap();
            let found = Sim::boot(sim.disk().after(Cut::Nothing, &mut random));
            assert_eq!(
                script::assert_entries(&open_below(&found).unwrap(), u64::MAX).tail,
                Position(3),
                "{call:?}"
            );
            // Who copies a log there removes what is half made.
            let (from, sim) = (original.storage(), Sim::boot(disk.after(cut, &mut random)));
            let to = sim.storage().directory("data").directory("log");
            if FileLog::verify_with_storage(&*to).is_ok() {
                continue;
            }
            unsynced += u32::from(to.exists().unwrap());
            to.list().unwrap().iter().for_each(|name| to.remove(name).unwrap());
            FileLog::copy_with_storage(&*from, &*to).unwrap();
            let found = Sim::boot(sim.disk().after(Cut::Nothing, &mut random));
            assert_eq!(
                script::assert_entries(&open_below(&found).unwrap(), u64::MAX).tail,
                Position(3),
                "{call:?}"
            );
        }
    }
    assert!(unsynced > 4, "{unsynced}");
}

/// Opens a log on a disk that forgets. What is read twice may not be the same twice: that is refused, and whoever comes
/// next finds what there is.
fn open_forgetful(sim: &Sim, durability: Durability, seed: u64) -> FileLog {
    sim.set_forgetful(seed);
    for _ in 0..20 {
        match script::open(sim, durability) {
            Ok(log) => return log,
            Err(OpenError::Io { source, .. }) if source.kind() == ErrorKind::InvalidData => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("there is no end to what is forgotten")
}

/// Lets a process end after every call, and what it had not synced be lost, and forgotten while the next one opens the
/// log: what that one shows is there after the next power cut.
fn lose_everywhere(durability: Durability, seed: u64) {
    let mut random = Random(seed);
    for steps in SCRIPTS {
        let sim = Sim::default();
        script::run(&sim, durability, 1, steps).unwrap();
        let (mut disk, mut promise) = (Disk::default(), Promise::default());
        for call in sim.trace() {
            disk.apply(&call);
            if let Call::Note(note) = &call {
                promise.add(note);
            }
            let at_least =
                if durability == Durability::Flushed { promise.acknowledged } else { promise.trimmed };
            for _ in 0..3 {
                let sim = Sim::boot(disk.after(Cut::Unsaved, &mut random));
                let log = open_forgetful(&sim, durability, random.next());
                let tail = script::assert_entries(&log, u64::MAX);
                assert!(tail.tail.0 >= at_least && tail.head.0 >= promise.trimmed, "{tail:?} {promise:?}");
                drop(log);
                let log = script::open(&Sim::boot(sim.disk().after(Cut::Nothing, &mut random)), durability);
                assert_eq!(script::assert_entries(&log.unwrap(), u64::MAX), tail);
            }
        }
    }
}

#[test]
fn what_is_shown_after_the_end_of_a_process_stays_though_the_disk_never_got_it() {
    lose_everywhere(Durability::Flushed, 5);
    lose_everywhere(Durability::Buffered, 6);
}

/// Whatever a power cut leaves of a log that is not flushed is opened, and a flush of that fails, which may have overwritten a
/// torn tail. Shows each such machine to `go_on`, and tells how many there were.
fn after_failed_recoveries(
    steps: &[Step],
    random: &mut Random,
    mut go_on: impl FnMut(&Sim, &mut Random),
) -> u64 {
    let sim = Sim::default();
    script::run(&sim, Durability::Buffered, 1, steps).unwrap();
    let (mut disk, mut failed) = (Disk::default(), 0);
    for call in sim.trace() {
        disk.apply(&call);
        for after in 0..6 {
            let sim = Sim::boot(disk.after(Cut::Some, random));
            sim.set_fault(Some(Fault { kind: Kind::Sync, after, count: 1, error: ErrorKind::Other.into() }));
            if script::open(&sim, Durability::Flushed).is_ok() {
                break;
            }
            failed += 1;
            sim.set_fault(None);
            go_on(&sim, random);
        }
    }
    failed
}

/// The same machine opens the log again, and reads zeros where the tail was torn.
#[test]
fn torn_tail_that_was_overwritten_in_vain_does_not_come_back() {
    // Frames of one entry each: those of the next process are as long, or differ.
    let failed = after_failed_recoveries(&[Step::Append(1); 8], &mut Random(7), |sim, random| {
        let log = script::open(sim, Durability::Flushed).unwrap();
        let tail = script::assert_entries(&log, u64::MAX).tail;
        let count = 1 + random.below(2);
        script::submit(&log, 2, tail.0, count).unwrap().wait().unwrap();
        for _ in 0..4 {
            let disk = sim.disk().after(Cut::Some, random);
            let log = script::open(&Sim::boot(disk), Durability::Flushed).unwrap();
            assert_eq!(script::assert_entries(&log, tail.0).tail, tail.plus(count));
        }
    });
    assert!(failed > 100, "{failed}");
}

/// The power is cut while the next process writes where the torn tail was: what is on the disk may be some of its sectors and
/// some of that tail's, and is no damage.
#[test]
fn frame_that_is_torn_where_a_torn_tail_was_overwritten_in_vain_is_no_damage() {
    let mut states = 0;
    let failed = after_failed_recoveries(&[Step::Burst(24)], &mut Random(8), |sim, random| {
        // What the first one has written, and the disk never got, is read by the next.
        let mut left = sim.disk();
        let again = Sim::boot(left.clone());
        let log = script::open(&again, Durability::Flushed).unwrap();
        let tail = script::assert_entries(&log, u64::MAX).tail;
        script::submit(&log, 2, tail.0, 20).unwrap().wait().unwrap();
        drop(log);
        for call in again.trace() {
            left.apply(&call);
            // Of the others, other tests tell.
            let cuts = if matches!(&call, Call::Write { bytes, .. } if bytes.len() > 512) { 12 } else { 0 };
            for _ in 0..cuts {
                let cut = Sim::boot(left.after(Cut::Some, random));
                let log = script::open(&cut, Durability::Flushed).unwrap();
                assert!(script::assert_entries(&log, tail.0).tail <= tail.plus(20));
                states += 1;
            }
        }
    });
    println!("{failed} recoveries failed, {states} disks after");
    assert!(failed > 20 && states > 1000, "{failed} {states}");
}
