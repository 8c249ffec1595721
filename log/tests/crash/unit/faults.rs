//! Units on disks of which the n-th call fails.

use super::lost::{AGAIN, joins_anew_in_its_own_log, open_forgetful};
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
            // More than a segment, which nobody asks to be flushed.
            Step::Burst(32),
        ],
    ),
];

/// What was asked of a unit on a disk that fails.
struct Attempt {
    /// In order, but for what was refused because there was no space.
    asked: Vec<UnitRequest>,
    /// How many of these a power cut must leave.
    promised: usize,
    /// How many of these were answered, and all before them.
    answered: usize,
    /// Whether all of the script was done.
    done: bool,
}

/// Does a script until something fails, or is refused.
fn attempt(steps: &[Step], config: &UnitFiles, sim: &Sim) -> Attempt {
    let open = || UnitServer::open_with_storage(UNIT, u64::MAX, config, sim.storage());
    let mut attempt = Attempt { asked: Vec::new(), promised: 0, answered: 0, done: false };
    let Ok(mut unit) = open() else { return attempt };
    let mut waiting = Vec::new();
    for (doing, waits) in doings(steps) {
        match doing {
            Doing::Ask(request) => {
                let promises = config.durability == Durability::Flushed || request.verb == UnitVerb::Flush;
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
            // It was started again since a sync had failed, and does nothing of what it is asked.
            let refuses = |answer: &UnitReply| matches!(answer, UnitReply::Corrupt(_) | UnitReply::Behind(_));
            if answer.as_ref().is_ok_and(refuses) && is_lost(&sim.disk()) {
                continue;
            }
            assert!(answered || answer == Err(mpsc::RecvTimeoutError::Disconnected), "{answer:?}");
            attempt.asked.push(request);
            if answered && attempt.answered + 1 == attempt.asked.len() {
                attempt.answered += 1;
            }
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

/// Whether the files say that something may be lost, whatever the boot is.
fn is_lost(disk: &Disk) -> bool {
    disk.names().iter().any(|name| name == "boot.lost")
}

impl Crashes<'_> {
    /// The same machine starts the unit again, whose memory may hold bytes that the disk has not, and forget them: what it
    /// shows now stays, and no position gets another value. It has all that a unit promises of which only the process ends.
    fn start_again(&mut self, sim: &Sim, answered: usize) {
        if is_lost(&sim.disk()) {
            return self.start_again_damaged(sim);
        }
        let unit = open_forgetful(self.config, sim, self.random.next());
        let found = view_of(&unit);
        let remembers = self.remembers(&found, answered);
        assert!(remembers >= answered, "{remembers} of {answered}");
        if let Some(member) = found.0 {
            let UnitReply::Standing(standing) = found.1[0] else { panic!("{:?}", found.1[0]) };
            let flush = UnitRequest { epoch: standing.epoch, member, verb: UnitVerb::Flush };
            assert_eq!(ask(&unit, flush), UnitReply::Done);
            self.takes_no_other_value(&unit, member, &found);
        }
        let seen = sim.disk().after(Cut::Nothing, &mut self.random);
        let again = self.recover(&seen, remembers, 0);
        if !self.refuses || self.expected[remembers] == found {
            assert_eq!(self.expected[again], found);
        }
    }

    /// The same, after a sync failed under a unit that buffers, and on a machine that forgets what was lost then: whatever is
    /// gone, the unit says so.
    fn start_again_damaged(&mut self, sim: &Sim) {
        let unit = open_forgetful(self.config, sim, self.random.next());
        let Some(member) = member_of(&unit) else { return };
        for (at, answer) in (0..).map(Position).zip(ask_all(&unit, reads(Epoch(u64::MAX), member))) {
            if answer == UnitReply::Corrupt(at) {
                self.tally.corrupt += 1;
                continue;
            }
            let is_unwritten = matches!(&answer, UnitReply::Runs(runs) if runs.is_empty());
            let is_of_one = self.expected.iter().any(|view| view.1.get(1 + at.0 as usize) == Some(&answer));
            assert!(is_of_one && !is_unwritten, "{at}: {answer:?}");
            self.tally.kept += 1;
        }
        joins_anew_in_its_own_log(&unit);
        drop(unit);
        let unit = open(self.config, sim.storage());
        assert_eq!(member_of(&unit), Some(AGAIN));
        let UnitReply::Standing(standing) = view_of(&unit).1[0] else { panic!("it is still damaged") };
        assert_eq!(standing.reach, run(3, 0).end());
    }

    /// The power was cut, and the unit knows it: of what was answered it has everything, or knows that it may not.
    fn boot_again(&mut self, disk: &Disk, answered: usize) {
        let unit = open(self.config, Sim::boot(disk.clone()).storage());
        let Some(member) = member_of(&unit) else { return assert_eq!(answered, 0) };
        let mut answers = ask_all(&unit, reads(Epoch(u64::MAX), member));
        if answers.iter().all(|answer| matches!(answer, UnitReply::Behind(_))) {
            let found = view_of(&unit);
            assert!(self.remembers(&found, answered) >= answered);
        }
        answers.retain(|answer| matches!(answer, UnitReply::Runs(runs) if runs.is_empty()));
        assert_eq!(answers, []);
    }
}

/// Lets the n-th call of a kind fail, for every n; then starts the unit again, and cuts the power.
fn fail_every_call(kind: Kind, error: Failure, count: u64) -> Tally {
    let mut sum = Tally::default();
    for (durability, steps) in FAILED {
        let config = files(durability);
        for after in 0.. {
            let sim = machine(Disk::default());
            sim.set_fault(Some(Fault { kind, after, count, error }));
            let Attempt { asked, promised, answered, done } = attempt(steps, &config, &sim);
            let struck = sim.fault_struck();
            sim.set_fault(None);
            let expected = views_after(asked);
            let tally = std::mem::take(&mut sum);
            let mut crashes =
                Crashes { expected: &expected, config: &config, random: Random(after), tally, refuses: true };
            for cut in [Cut::Nothing, Cut::Some, Cut::Everything] {
                let disk = sim.disk().after(cut, &mut crashes.random);
                crashes.recover(&disk, promised, 0);
                if !matches!(cut, Cut::Everything) {
                    crashes.boot_again(&disk, answered);
                }
            }
            crashes.start_again(&sim, answered);
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
        let (mut states, mut kept, mut corrupt) = (0, 0, 0);
        for error in [5, 28, 4].map(Failure::Errno) {
            for count in [1, u64::MAX] {
                let tally = fail_every_call(kind, error, count);
                states += tally.states.len();
                kept += tally.kept;
                corrupt += tally.corrupt;
            }
        }
        println!(
            "{kind:?}: {states} disks in {:?}; where something may be lost, {kept} positions kept, {corrupt} corrupt",
            begun.elapsed()
        );
    }
}
