//! Failing disks: no false acknowledgement, no hang, a clear error, and nothing lost that was acknowledged.

use std::io;
use std::sync::mpsc;
use std::thread;

use mixlog_log::Durability;
use mixlog_simdisk::{Call, Cut, Failure, Fault, Kind, Random, Sim};

use crate::script::{self, PATIENCE, Promise, Step, WrittenOver};

const STEPS: &[Step] = &[
    Step::Burst(12),
    Step::Checkpoint,
    Step::Burst(60),
    Step::Checkpoint,
    Step::Reopen,
    Step::Burst(20),
    Step::Checkpoint,
    Step::Burst(2),
];

/// What is said to who opens a log that is not the same when it is read twice.
const FORGOTTEN: &str = "Open the log again";

const EIO: Failure = Failure::Errno(5);
const EINTR: Failure = Failure::Errno(4);
const ENOSPC: Failure = Failure::Errno(28);

/// What a disk says that has no space.
const FULL: Failure = Failure::Kind(io::ErrorKind::StorageFull);

fn promise(sim: &Sim) -> Promise {
    let mut promise = Promise::default();
    for call in sim.trace() {
        if let Call::Note(note) = call {
            promise.add(&note);
        }
    }
    promise
}

/// Runs a script on a thread of its own: one that hangs fails.
fn on_a_thread<T: Send + 'static>(sim: &Sim, script: impl FnOnce(&Sim) -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let sim = sim.clone();
    let thread = thread::spawn(move || sender.send(script(&sim)).expect("somebody waits"));
    match receiver.recv_timeout(PATIENCE) {
        Ok(outcome) => {
            thread.join().expect("it has ended");
            outcome
        }
        Err(_) => match thread.is_finished() {
            true => std::panic::resume_unwind(thread.join().expect_err("it sent nothing")),
            false => panic!("it hangs"),
        },
    }
}

/// What was tried, or that the log has failed for good, or has no space; on which file or directory, or on the log; and
/// what the operating system said, which is one of these.
fn assert_clear(error: &str, failures: &[Failure]) {
    let actions = ["cannot ", "the log has failed", "no space left for"];
    let names = ["/sim", "manifest", "segment", "checkpoint", "the log"];
    let is_there = |words: &[&str]| words.iter().any(|word| error.contains(word));
    let says = |failure: &Failure| match *failure {
        Failure::Kind(kind) => error.contains(&io::Error::from(kind).to_string()),
        Failure::Errno(number) => error.contains(&io::Error::from_raw_os_error(number).to_string()),
        // It is no failure.
        Failure::Short => false,
    };
    assert!(
        is_there(&actions) && is_there(&names) && failures.iter().any(says),
        "it does not say what happened: {error:?}"
    );
}

/// What the disk was left with has all that was promised, after a power cut and without one, and can be gone on with
/// when it has space.
fn assert_kept(sim: &Sim, durability: Durability, random: &mut Random, what: &str) {
    let promise = promise(sim);
    let what = || format!("{what}: {promise:?}");
    for cut in [Cut::Nothing, Cut::Some, Cut::Everything] {
        let process_only = matches!(cut, Cut::Everything);
        let disk = sim.disk().after(cut, random);
        let tail = script::rebuilt(&Sim::boot(disk), durability);
        let tail = tail.unwrap_or_else(|error| panic!("{}: {error}", what()));
        assert!(tail >= promise.at_least(durability, process_only), "{}: {tail}", what());
    }
    // The same machine goes on: its memory holds bytes that the disk may not have, or forgets them.
    let forgets = random.one_in(2);
    if forgets {
        sim.set_forgetful(random.next());
    }
    let running = loop {
        match script::open(sim, durability, 1) {
            Ok(running) => break running,
            // They were there when they were read first.
            Err(error) if forgets && error.contains(FORGOTTEN) => {}
            Err(error) => panic!("{}: {error}", what()),
        }
    };
    let seen = script::assert_state(&running.engine);
    assert!(seen >= promise.at_least(durability, !forgets), "{}", what());
    sim.set_capacity(None);
    let n = mixlog_log::SharedLog::tail(&*running.log).unwrap().tail.0;
    script::submit(&running.engine, n).unwrap().wait().unwrap();
    running.engine.checkpoint().unwrap_or_else(|error| panic!("{}: {error}", what()));
    drop(running);
    let disk = sim.disk().after(Cut::Nothing, random);
    assert_eq!(script::rebuilt(&Sim::boot(disk), durability), Ok(n + 1), "{}", what());
}

const DURABILITIES: [Durability; 2] = [Durability::Flushed, Durability::Buffered];

/// Runs the script with the n-th call of a kind failing, for every n, and then cuts the power.
fn fail_every_call(kind: Kind, count: u64, error: Failure) {
    for durability in DURABILITIES {
        fail_calls(durability, Fault { kind, after: 0, count, error }, 1);
    }
}

/// The same for every so many n.
fn fail_calls(durability: Durability, fault: Fault, step: usize) {
    let Fault { kind, count, error, .. } = fault;
    let mut random = Random(5);
    for after in (0..).step_by(step) {
        let sim = Sim::default();
        sim.set_fault(Some(Fault { after, ..fault }));
        let threads = if after % 5 == 4 { 2 } else { 1 };
        let outcome = on_a_thread(&sim, move |sim| script::run(sim, durability, threads, STEPS));
        let struck = sim.fault_struck();
        sim.set_fault(None);
        if let Err(error) = &outcome {
            assert_clear(error, &[fault.error]);
        }
        let what = format!("{durability:?} {kind:?} {after} {error:?} {count}: {outcome:?}");
        assert_kept(&sim, durability, &mut random, &what);
        if !struck {
            assert_eq!(outcome, Ok(()));
            assert!(after > 0, "the script makes no call of kind {kind:?}");
            return;
        }
    }
}

/// How an engine went through a script on a disk that was full.
#[derive(Debug)]
struct Through {
    outcome: Result<(), String>,
    /// What it refused, and was asked for again.
    refused: Vec<String>,
    trace: Vec<Call>,
}

/// The same with scripts that fill the disk, for calls once it is full. A checkpoint that fails does not end the script;
/// the log's own failures do. Tells how often the fault struck.
fn fail_every_call_on_a_full_disk(kind: Kind, count: u64, error: Failure) -> u64 {
    let (mut random, mut strikes) = (Random(6), 0);
    let scripts =
        DURABILITIES.into_iter().flat_map(|durability| script::FULL.iter().map(move |s| (durability, *s)));
    for (durability, script) in scripts {
        let mut over = WrittenOver::default();
        for after in 0.. {
            let sim = Sim::default();
            let fault = Fault { kind, after, count, error };
            let through = on_a_thread(&sim, move |sim| {
                let mut refused = Vec::new();
                let outcome = script::go_through(sim, durability, 1, script, Some(fault), &mut |error| {
                    refused.push(error);
                    Ok(())
                });
                Through { outcome, refused, trace: sim.trace() }
            });
            let struck = sim.fault_struck();
            sim.set_fault(None);
            let errors = through.refused.iter().chain(through.outcome.as_ref().err());
            errors.for_each(|refused| assert_clear(refused, &[error, FULL]));
            let what = format!(
                "{durability:?} {:?} {fault:?}: {:?} {:?}",
                script.0, through.outcome, through.refused
            );
            assert!(!what.contains(script::THOUGH_HEALED), "{what}");
            over = over.and(WrittenOver::count(&through.trace));
            assert_kept(&sim, durability, &mut random, &what);
            if !struck {
                assert!(through.outcome == Ok(()) && through.refused.is_empty(), "{what}");
                let WrittenOver { renames, writes, truncations, syncs } = over;
                assert!([renames, writes, truncations, syncs].iter().all(|&calls| calls > 0), "{over:?}");
                break;
            }
            strikes += 1;
        }
    }
    strikes
}

/// Once, and for ever.
fn fail(kind: Kind, errors: &[Failure]) {
    for &error in errors {
        fail_every_call(kind, 1, error);
        fail_every_call(kind, u64::MAX, error);
    }
}

#[test]
fn call_that_fails_while_a_checkpoint_is_written_on_a_full_disk_loses_nothing() {
    let kinds: [(Kind, &[Failure]); 7] = [
        (Kind::Truncate, &[EIO, ENOSPC, EINTR]),
        (Kind::Rename, &[EIO, ENOSPC]),
        (Kind::Sync, &[EIO, ENOSPC]),
        (Kind::Write, &[EIO, ENOSPC]),
        (Kind::Remove, &[EIO]),
        (Kind::SyncDirectory, &[EIO]),
        (Kind::Open, &[EIO]),
    ];
    for (kind, errors) in kinds {
        for &error in errors {
            let strikes = [1, u64::MAX].map(|count| fail_every_call_on_a_full_disk(kind, count, error));
            println!("{kind:?} failed with {error:?} {strikes:?} times");
            let least = (script::FULL.len() * DURABILITIES.len()) as u64;
            assert!(strikes.iter().all(|&strikes| strikes >= least), "{kind:?}");
        }
    }
}

#[test]
fn write_that_fails_loses_nothing() {
    fail(Kind::Write, &[EIO, ENOSPC]);
}

#[test]
fn write_that_is_interrupted_or_short_loses_nothing() {
    fail(Kind::Write, &[EINTR]);
    fail_every_call(Kind::Write, 1, Failure::Short);
    short_for_ever(Kind::Write);
}

/// One byte at a time from some call on: for some of the calls, as each makes thousands of calls of it.
fn short_for_ever(kind: Kind) {
    for durability in DURABILITIES {
        let fault = Fault { kind, after: 0, count: u64::MAX, error: Failure::Short };
        fail_calls(durability, fault, 37);
    }
}

#[test]
fn sync_that_fails_is_final_and_loses_nothing() {
    fail(Kind::Sync, &[EIO, ENOSPC, EINTR]);
}

#[test]
fn open_that_fails_loses_nothing() {
    fail(Kind::Open, &[EIO, ENOSPC, EINTR]);
}

#[test]
fn rename_or_removal_that_fails_loses_nothing() {
    for kind in [Kind::Rename, Kind::Remove, Kind::SyncDirectory] {
        fail(kind, &[EIO, ENOSPC, EINTR]);
    }
}

#[test]
fn allocation_or_listing_or_lock_that_fails_loses_nothing() {
    fail(Kind::Allocate, &[ENOSPC, EIO, EINTR]);
    fail(Kind::List, &[EIO]);
    fail(Kind::Lock, &[EIO]);
}

#[test]
fn read_that_fails_loses_nothing() {
    fail(Kind::Read, &[EIO, EINTR]);
    fail_every_call(Kind::Read, 1, Failure::Short);
    short_for_ever(Kind::Read);
}

#[test]
fn disk_that_is_full_refuses_submissions_and_checkpoints_while_reads_go_on() {
    let sim = Sim::default();
    let running = script::open(&sim, Durability::Flushed, 1).unwrap();
    // Room for the manifest, two segments, half of a third, and no checkpoint.
    sim.set_capacity(Some((8 << 10) + 5 * (6 << 10)));
    let mut next = 1;
    let mut fill = |engine: &mixlog_engine::Engine| {
        let first = next;
        loop {
            match script::submit(engine, next) {
                Ok(ticket) => {
                    ticket.wait().unwrap();
                    next += 1;
                }
                Err(error) => {
                    assert!(error.contains("no space left"), "{error}");
                    return first..next;
                }
            }
        }
    };
    let filled = fill(&running.engine);
    assert!(filled.end > 60, "{filled:?}");
    sim.set_capacity(Some(sim.used() + 100));
    let error = running.engine.checkpoint().unwrap_err().to_string();
    assert!(error.starts_with("cannot write") && error.contains("no storage space"), "{error}");
    assert_eq!(script::assert_state(&running.engine), filled.end, "reads go on");
    // Space for checkpoints, and what they give up makes space for the log.
    let mut end = filled.end;
    for _ in 0..4 {
        sim.set_capacity(Some(sim.used() + (4 << 10)));
        running.engine.checkpoint().unwrap();
        sim.set_capacity(Some((8 << 10) + 6 * (6 << 10)));
        end = fill(&running.engine).end;
    }
    assert!(end > filled.end + 60, "{filled:?} {end}");
    assert_eq!(script::assert_state(&running.engine), end);
}
