//! Units that buffer, and whose disks did not take what they had acknowledged; and units that know no more than of which log
//! they were.

use std::io::ErrorKind;

use mixlog_log::OpenError;

use super::*;

/// Who a unit is that has begun anew.
pub(crate) const AGAIN: Member = Member { unit: UNIT, joined: Epoch(9) };

/// Who a unit is that only knows of which log it was.
pub(crate) const NOBODY: Member = Member { unit: UNIT, joined: Epoch::NONE };

/// A damaged unit begins anew, empty, for its own log alone.
pub(crate) fn joins_anew_in_its_own_log(unit: &UnitServer) {
    let request = |verb| UnitRequest { epoch: Epoch(9), member: AGAIN, verb };
    let before = member_of(unit);
    assert_eq!(ask(unit, request(UnitVerb::Join(LogId(LOG.0 + 1)))), UnitReply::Stranger(before));
    assert_eq!(member_of(unit), before);
    let joined = ask(unit, request(UnitVerb::Join(LOG)));
    assert!(
        matches!(joined, UnitReply::Standing(standing) if standing.reach == Position::ZERO),
        "{joined:?}"
    );
    assert_eq!(ask(unit, request(UnitVerb::Write(run(3, 0)))), UnitReply::Done);
    assert_eq!(ask(unit, request(UnitVerb::Flush)), UnitReply::Done);
}

/// Opens a unit on a machine that forgets. A journal of which something is gone while it is opened has to be opened again.
pub(crate) fn open_forgetful(config: &UnitFiles, sim: &Sim, seed: u64) -> UnitServer {
    sim.set_forgetful(seed);
    for _ in 0..20 {
        match UnitServer::open_with_storage(UNIT, u64::MAX, config, sim.storage()) {
            Ok(unit) => return unit,
            Err(OpenError::Io { source, .. }) if source.kind() == ErrorKind::InvalidData => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("there is no end to what is forgotten")
}

/// A unit that buffers, with what was flushed and what was not, all of it acknowledged.
fn buffering(sim: &Sim) -> (UnitServer, Vec<Run>) {
    let unit = open(&files(Durability::Buffered), sim.storage());
    let request = joined(&unit);
    let mut runs = vec![run(1, 0)];
    while runs.len() < 20 {
        runs.push(run(1, runs.last().expect("there is one").end().0));
    }
    let (flushed, others) = runs.split_at(5);
    let write = |run: &Run| request(UnitVerb::Write(run.clone()));
    assert!(ask_all(&unit, flushed.iter().map(write)).iter().all(is_good));
    assert_eq!(ask(&unit, request(UnitVerb::Flush)), UnitReply::Done);
    // The background flushes at its own time: from here on in vain.
    sim.set_fault(Some(Fault { kind: Kind::Sync, after: 0, count: u64::MAX, error: Failure::Errno(5) }));
    for run in others {
        // When it has, there is no answer; nor is there another segment, as making one takes a sync.
        match send(&unit, write(run)).recv_timeout(PATIENCE) {
            Ok(UnitReply::Done) => {}
            Ok(UnitReply::Full) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                let at = runs.iter().position(|known| known == run).expect("it is one of them");
                runs.truncate(at);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    (unit, runs)
}

/// A request to the unit that was [`joined`].
const fn joined_before(verb: UnitVerb) -> UnitRequest {
    UnitRequest { epoch: Epoch(1), member: Member { unit: UNIT, joined: Epoch(1) }, verb }
}

/// What the unit says of these runs: how many it has, and how many it says are lost. There is nothing else to say.
fn kept_and_lost(unit: &UnitServer, runs: &[Run]) -> (usize, usize) {
    let member = member_of(unit).expect("it is somebody");
    let read = |run: &Run| {
        let verb = UnitVerb::Read { from: run.first(), upto: run.end(), bytes: 1 };
        UnitRequest { epoch: Epoch(u64::MAX), member, verb }
    };
    let (mut kept, mut lost) = (0, 0);
    for (run, answer) in runs.iter().zip(ask_all(unit, runs.iter().map(read))) {
        if answer == UnitReply::Corrupt(run.first()) {
            lost += 1;
        } else {
            assert_eq!(answer, UnitReply::Runs(vec![run.clone()]));
            kept += 1;
        }
    }
    (kept, lost)
}

#[test]
fn unit_that_buffers_and_whose_sync_failed_does_not_believe_its_files_though_the_machine_goes_on() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..20 {
        let sim = machine(Disk::default());
        let (unit, runs) = buffering(&sim);
        // Whether somebody asks for it, or the unit ends of itself.
        if seed % 2 == 0 {
            assert!(send(&unit, joined_before(UnitVerb::Flush)).recv_timeout(PATIENCE).is_err());
            let failure = unit.failure().expect("it failed").to_owned();
            assert!(!failure.contains("written down"), "{failure}");
        }
        drop(unit);
        sim.set_fault(None);
        let unit = open_forgetful(&files(Durability::Buffered), &sim, seed);
        let (k, l) = kept_and_lost(&unit, &runs);
        kept += k;
        lost += l;
        joins_anew_in_its_own_log(&unit);
        // From then on it is as whole as any, when it is killed.
        let killed = machine(sim.disk().after(Cut::Everything, &mut Random(seed)));
        let again = open(&files(Durability::Buffered), killed.storage());
        let seal = UnitRequest { epoch: Epoch(9), member: AGAIN, verb: UnitVerb::Seal };
        assert!(matches!(ask(&again, seal), UnitReply::Standing(_)));
    }
    assert!(kept > 0 && lost > 0, "{kept} {lost}");
}

#[test]
fn unit_whose_disk_does_not_even_take_that_something_is_lost_says_so_and_tries_again_when_it_ends() {
    let all = [Kind::Write, Kind::Allocate, Kind::Truncate, Kind::Sync, Kind::Rename, Kind::Remove];
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..20 {
        // A mark that cannot be renamed is emptied.
        let refused = if seed % 2 == 0 { &all[..] } else { &[Kind::Rename] };
        let sim = machine(Disk::default());
        sim.set_refuses_after_failed_sync(refused);
        let (unit, runs) = buffering(&sim);
        assert!(send(&unit, joined_before(UnitVerb::Flush)).recv_timeout(PATIENCE).is_err());
        let warns = || unit.failure().expect("it failed").contains("nor can it be written down");
        // Something else may have failed for the same reason, and a little sooner.
        let begun = Instant::now();
        while seed % 2 == 0 && !warns() {
            assert!(begun.elapsed() < PATIENCE, "{:?}", unit.failure());
        }
        assert_eq!(warns(), seed % 2 == 0);
        sim.set_fault(None);
        sim.set_refuses_after_failed_sync(&[]);
        drop(unit);
        let unit = open_forgetful(&files(Durability::Buffered), &sim, seed);
        let (k, l) = kept_and_lost(&unit, &runs);
        kept += k;
        lost += l;
        joins_anew_in_its_own_log(&unit);
    }
    assert!(kept > 0 && lost > 0, "{kept} {lost}");
}

#[test]
fn unit_that_buffers_and_whose_process_was_killed_is_whole_as_long_as_the_machine_goes_on() {
    let sim = machine(Disk::default());
    let unit = open(&files(Durability::Buffered), sim.storage());
    let request = joined(&unit);
    let runs = [run(1, 0), run(1, run(1, 0).end().0)];
    for run in &runs {
        assert_eq!(ask(&unit, request(UnitVerb::Write(run.clone()))), UnitReply::Done);
    }
    let killed = sim.disk().after(Cut::Everything, &mut Random(1));
    // Once, and again under the one that found that, and by one that has it flushed from then on.
    let (first, second) = (machine(killed.clone()), machine(killed.clone()));
    let unit = open(&files(Durability::Buffered), first.storage());
    let killed_again = first.disk().after(Cut::Everything, &mut Random(2));
    let again = open(&files(Durability::Buffered), machine(killed_again).storage());
    let units = [unit, again, open(&files(Durability::Flushed), second.storage())];
    for unit in &units {
        assert!(matches!(ask(unit, request(UnitVerb::Seal)), UnitReply::Standing(_)));
        let read = |run: &Run| request(UnitVerb::Read { from: run.first(), upto: run.end(), bytes: 1 });
        for run in &runs {
            assert_eq!(ask(unit, read(run)), UnitReply::Runs(vec![run.clone()]));
        }
    }
    // Flushed, it has nothing to lose when the machine goes down.
    let cut = second.disk().after(Cut::Nothing, &mut Random(3));
    let unit = open(&files(Durability::Flushed), Sim::boot(cut).storage());
    assert!(matches!(ask(&unit, request(UnitVerb::Seal)), UnitReply::Standing(_)));
    // And in another boot none of it is believed.
    let unit = open(&files(Durability::Buffered), Sim::boot(killed).storage());
    assert!(matches!(ask(&unit, request(UnitVerb::Seal)), UnitReply::Corrupt(_)));
}

/// What it says beside its journal, it says until it has ended: else the next one would have its word taken away.
#[test]
fn unit_has_its_directory_alone_and_not_only_its_journal() {
    let sim = machine(Disk::default());
    let open_one =
        || UnitServer::open_with_storage(UNIT, u64::MAX, &files(Durability::Buffered), sim.storage());
    let unit = open_one().unwrap();
    let error = open_one().expect_err("there is one");
    assert!(matches!(&error, OpenError::Locked { path } if path.as_os_str() == "/sim"), "{error}");
    drop(unit);
    open_one().unwrap();
}

/// Nothing that was acknowledged stands in it.
#[test]
fn unit_that_buffers_and_cannot_make_another_segment_has_lost_nothing() {
    let sim = machine(Disk::default());
    let unit = open(&files(Durability::Buffered), sim.storage());
    let request = joined(&unit);
    sim.set_strikes(Some("journal/segment.spare"));
    sim.set_fault(Some(Fault { kind: Kind::Sync, after: 0, count: u64::MAX, error: Failure::Errno(28) }));
    let mut runs = vec![run(1, 0)];
    loop {
        let last = runs.last().expect("there is one");
        match ask(&unit, request(UnitVerb::Write(last.clone()))) {
            UnitReply::Done => runs.push(run(1, last.end().0)),
            answer => break assert_eq!(answer, UnitReply::Full),
        }
    }
    assert!(sim.fault_struck());
    runs.pop();
    let killed = machine(sim.disk().after(Cut::Everything, &mut Random(1)));
    let unit = open(&files(Durability::Buffered), killed.storage());
    let read = |run: &Run| request(UnitVerb::Read { from: run.first(), upto: run.end(), bytes: 1 });
    for run in &runs {
        assert_eq!(ask(&unit, read(run)), UnitReply::Runs(vec![run.clone()]));
    }
    assert!(matches!(ask(&unit, request(UnitVerb::Seal)), UnitReply::Standing(_)));
    // But a segment that has its name may hold some of it.
    let sim = machine(Disk::default());
    let unit = open(&files(Durability::Buffered), sim.storage());
    let request = joined(&unit);
    sim.set_strikes(Some("journal/segment-0000000000000000"));
    sim.set_fault(Some(Fault { kind: Kind::Sync, after: 0, count: u64::MAX, error: Failure::Errno(28) }));
    // In the background it may have failed by then.
    let _ = send(&unit, request(UnitVerb::Write(run(1, 0)))).recv_timeout(PATIENCE);
    assert!(send(&unit, request(UnitVerb::Flush)).recv_timeout(PATIENCE).is_err());
    let killed = machine(sim.disk().after(Cut::Everything, &mut Random(1)));
    let unit = open(&files(Durability::Buffered), killed.storage());
    assert!(matches!(ask(&unit, request(UnitVerb::Seal)), UnitReply::Corrupt(_)));
}
