//! Units on disks of which the n-th call fails.

use super::*;

/// Segments that fill up and are given up, seals, and another process.
const FAILED: [(Durability, &[Step]); 2] = [
    (
        Durability::Flushed,
        &[
            Step::Singles(2),
            Step::Burst(22),
            Step::Seal,
            Step::Trim(24),
            Step::Restart,
            Step::Fill(2),
            Step::Burst(14),
            Step::Seal,
        ],
    ),
    (
        Durability::Buffered,
        &[
            Step::Stream(14),
            Step::Flush,
            Step::Burst(10),
            Step::Trim(24),
            Step::Flush,
            Step::Restart,
            Step::Seal,
            Step::Burst(14),
            Step::Flush,
        ],
    ),
];

/// What was asked of a unit on a disk that fails.
struct Attempt {
    /// In order, but for what was refused because there was no space.
    asked: Vec<UnitRequest>,
    /// How many of these a power cut must leave.
    promised: usize,
    /// Whether all of the script was done.
    done: bool,
}

/// Does a script until something fails, or is refused.
fn attempt(steps: &[Step], boot: &UnitFiles, sim: &Sim) -> Attempt {
    let open = || UnitServer::open_with_storage(UNIT, u64::MAX, boot, sim.storage());
    let mut attempt = Attempt { asked: Vec::new(), promised: 0, done: false };
    let Ok(mut unit) = open() else { return attempt };
    let mut waiting = Vec::new();
    for (doing, waits) in doings(steps) {
        match doing {
            Doing::Ask(request) => {
                let promises = boot.durability == Durability::Flushed || request.verb == UnitVerb::Flush;
                waiting.push((promises, send(&unit, request.clone()), request));
            }
            Doing::Claim => unreachable!("nobody claims anything here"),
            Doing::Restart => {
                drop(unit);
                unit = match open() {
                    Ok(unit) => unit,
                    Err(_) => return attempt,
                };
            }
        }
        if !waits {
            continue;
        }
        let mut all_good = true;
        for (promises, answer, request) in waiting.drain(..) {
            let answer = answer.recv_timeout(PATIENCE);
            let answered = answer.as_ref().is_ok_and(is_good);
            all_good &= answered;
            if answer == Ok(UnitReply::Full) {
                continue;
            }
            assert!(answered || answer == Err(mpsc::RecvTimeoutError::Disconnected), "{answer:?}");
            attempt.asked.push(request);
            if promises && answered {
                attempt.promised = attempt.asked.len();
            }
        }
        if !all_good {
            return attempt;
        }
    }
    attempt.done = true;
    attempt
}

/// Lets the n-th call of a kind fail, for every n; then starts the unit again, and cuts the power.
fn fail_every_call(kind: Kind, error: Failure, count: u64) -> Tally {
    let mut sum = Tally::default();
    for (durability, steps) in FAILED {
        let directory = tempfile::tempdir().unwrap();
        let boot = files(&directory, durability);
        for after in 0.. {
            let sim = Sim::default();
            sim.set_fault(Some(Fault { kind, after, count, error }));
            let Attempt { asked, promised, done } = attempt(steps, &boot, &sim);
            let struck = sim.fault_struck();
            sim.set_fault(None);
            let expected = views_after(asked);
            let tally = std::mem::take(&mut sum);
            let mut crashes =
                Crashes { expected: &expected, boot: &boot, random: Random(after), tally, refuses: true };
            for cut in [Cut::Nothing, Cut::Some, Cut::Everything] {
                let disk = sim.disk().after(cut, &mut crashes.random);
                crashes.recover(&disk, promised, 0);
            }
            crashes.start_again(&sim, promised);
            sum = crashes.tally;
            assert_eq!(sum.forgotten, 0, "{durability} {kind:?} {after} {error:?} {count}");
            if !struck {
                assert!(done);
                assert!(after > 0, "the script makes no call of kind {kind:?}");
                break;
            }
        }
    }
    sum
}

#[test]
fn call_that_fails_under_a_unit_leaves_a_prefix_of_its_requests() {
    let kinds = [
        Kind::Open,
        Kind::Read,
        Kind::Write,
        Kind::Allocate,
        Kind::Sync,
        Kind::Rename,
        Kind::Remove,
        Kind::SyncDirectory,
        Kind::List,
        Kind::Lock,
    ];
    for kind in kinds {
        let begun = Instant::now();
        let mut states = 0;
        for error in [5, 28, 4].map(Failure::Errno) {
            for count in [1, u64::MAX] {
                states += fail_every_call(kind, error, count).states.len();
            }
        }
        println!("{kind:?}: {states} disks in {:?}", begun.elapsed());
    }
}
