//! The storage unit's answers: what it has, times what it is asked, times the epoch.

use std::sync::Arc;

use mixlog_log::corfu::{
    Answer, Epoch, Limits, Member, Predecessor, Record, Rules, Run, Standing, State, Unit, UnitNumber,
    UnitReply, UnitRequest, UnitVerb,
};
use mixlog_log::{LogId, Position};

use crate::harness::run;

const LOG: LogId = LogId(3);
const ME: Member = Member { unit: UnitNumber(1), joined: Epoch(1) };
const NOW: Epoch = Epoch(5);

/// What stands at positions 10 and 11.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Has {
    Unwritten,
    Same,
    Other,
    Junk,
    Trimmed,
    Lost,
}

const HAS: [Has; 6] = [Has::Unwritten, Has::Same, Has::Other, Has::Junk, Has::Trimmed, Has::Lost];

fn asked(unit: &mut Unit, member: Member, epoch: Epoch, verb: UnitVerb) -> (UnitReply, Vec<Record>) {
    let mut records = Vec::new();
    let answer = unit.handle(UnitRequest { epoch, member, verb }, &mut records);
    (answer.load(|_| None), records)
}

fn ok(unit: &mut Unit, verb: UnitVerb) {
    let (reply, _) = asked(unit, ME, NOW, verb);
    assert!(matches!(reply, UnitReply::Done | UnitReply::Runs(_)), "{reply:?}");
}

fn ours() -> Run {
    run(1, 10, &["a", "b"])
}

fn theirs() -> Run {
    // The same bytes: it is another entry nevertheless (R3).
    run(2, 10, &["a", "b"])
}

fn predecessor(client: u64, first: u64) -> Predecessor {
    Predecessor { first: Position(first), id: run(client, first, &["?"]).id.expect("data has an id") }
}

fn fill() -> UnitVerb {
    UnitVerb::Fill { from: Position(10), upto: Position(12), bytes: 100 }
}

fn read() -> UnitVerb {
    UnitVerb::Read { from: Position(10), upto: Position(12), bytes: 100 }
}

fn gap() -> UnitVerb {
    UnitVerb::Gap { from: Position(10), upto: Position(12) }
}

fn unit(has: Has) -> Unit {
    let mut unit = Unit::new(ME.unit, Limits { quota: 1000, ..Limits::NONE }, Rules::SOUND);
    asked(&mut unit, ME, ME.joined, UnitVerb::Join(LOG));
    asked(&mut unit, ME, NOW, UnitVerb::Seal);
    match has {
        Has::Unwritten => {}
        Has::Same => ok(&mut unit, UnitVerb::Write(ours())),
        Has::Other => ok(&mut unit, UnitVerb::Write(theirs())),
        Has::Junk => ok(&mut unit, fill()),
        Has::Trimmed => ok(&mut unit, UnitVerb::Trim(Position(12))),
        Has::Lost => unit.set_damaged(),
    }
    unit
}

fn standing(reach: u64, trimmed: u64, epoch: Epoch) -> UnitReply {
    let (reach, trimmed, committed) = (Position(reach), Position(trimmed), Position(0));
    UnitReply::Standing(Standing { epoch, reach, trimmed, committed })
}

/// What a unit that has `has` answers in the epoch at which it is sealed, and whether that is written down.
fn expected(has: Has, verb: &UnitVerb) -> (UnitReply, bool) {
    use UnitReply::{Corrupt, Done, Early, Gap, Runs, Taken, Trimmed};
    let at = Position(10);
    let junk = || Run::junk(at, Position(12));
    let reach = match has {
        Has::Unwritten | Has::Lost => 0,
        _ => 12,
    };
    let trimmed = if has == Has::Trimmed { 12 } else { 0 };
    match (verb, has) {
        (UnitVerb::Write(_) | UnitVerb::Copy(_), Has::Unwritten) => (Done, true),
        (UnitVerb::Write(_) | UnitVerb::Copy(_), Has::Same) => (Done, false),
        (UnitVerb::Write(_) | UnitVerb::Copy(_), Has::Other | Has::Junk) => (Taken(at), false),
        (UnitVerb::Write(_), Has::Trimmed) => (Trimmed(Position(12)), false),
        // The head took it: what this unit trimmed, it need not have.
        (UnitVerb::Copy(_), Has::Trimmed) => (Done, false),
        (UnitVerb::Write(_) | UnitVerb::Copy(_), Has::Lost) => (Corrupt(at), false),
        (UnitVerb::WriteAfter(..), Has::Trimmed) => (Trimmed(Position(12)), false),
        (UnitVerb::CopyAfter(..), Has::Trimmed) => (Done, false),
        // Nothing stands before position 10.
        (UnitVerb::WriteAfter(..) | UnitVerb::CopyAfter(..), _) => (Early, false),

        (UnitVerb::Fill { .. }, Has::Unwritten) => (Runs(vec![junk()]), true),
        (UnitVerb::Read { .. }, Has::Unwritten) => (Runs(vec![]), false),
        (UnitVerb::Fill { .. } | UnitVerb::Read { .. }, Has::Same) => (Runs(vec![ours()]), false),
        (UnitVerb::Fill { .. } | UnitVerb::Read { .. }, Has::Other) => (Runs(vec![theirs()]), false),
        (UnitVerb::Fill { .. } | UnitVerb::Read { .. }, Has::Junk) => (Runs(vec![junk()]), false),
        (UnitVerb::Fill { .. } | UnitVerb::Read { .. }, Has::Trimmed) => (Trimmed(Position(12)), false),
        (UnitVerb::Fill { .. } | UnitVerb::Read { .. }, Has::Lost) => (Corrupt(at), false),

        (UnitVerb::Gap { .. }, Has::Unwritten) => (Gap(at, Position(12)), false),
        (UnitVerb::Gap { .. }, Has::Lost) => (Corrupt(at), false),
        (UnitVerb::Gap { .. }, _) => (Gap(Position(12), Position(12)), false),

        (UnitVerb::Trim(_), Has::Lost) => (Corrupt(Position(0)), false),
        (UnitVerb::Trim(_), _) => (Done, has != Has::Trimmed),
        (UnitVerb::Commit(_), _) => (Done, false),
        (UnitVerb::Probe | UnitVerb::Seal | UnitVerb::Flush, Has::Lost) => (Corrupt(Position(0)), false),
        (UnitVerb::Flush, _) => (Done, false),
        (UnitVerb::Probe | UnitVerb::Seal, _) => (standing(reach, trimmed, NOW), false),
        (UnitVerb::Join(_), _) => (standing(reach, trimmed, NOW), false),
    }
}

fn verbs() -> Vec<UnitVerb> {
    vec![
        UnitVerb::Write(ours()),
        UnitVerb::Copy(vec![ours()]),
        UnitVerb::WriteAfter(predecessor(1, 9), ours()),
        UnitVerb::CopyAfter(predecessor(1, 9), ours()),
        fill(),
        read(),
        gap(),
        UnitVerb::Trim(Position(12)),
        UnitVerb::Commit(Position(10)),
        UnitVerb::Flush,
        UnitVerb::Probe,
        UnitVerb::Seal,
        UnitVerb::Join(LOG),
    ]
}

#[test]
fn every_verb_on_every_state_in_every_epoch_is_answered_as_it_should() {
    for has in HAS {
        for verb in verbs() {
            let name = format!("{has:?}, {verb:?}");
            let (reply, records) = asked(&mut unit(has), ME, NOW, verb.clone());
            let (right, recorded) = expected(has, &verb);
            assert_eq!((&reply, !records.is_empty()), (&right, recorded), "{name}, same epoch");

            let mut earlier = unit(has);
            let before = earlier.clone();
            let (reply, records) = asked(&mut earlier, ME, Epoch(4), verb.clone());
            if matches!(verb, UnitVerb::Trim(_) | UnitVerb::Join(_)) {
                // Both say the same in any epoch.
                assert_eq!((&reply, !records.is_empty()), (&right, recorded), "{name}, earlier epoch");
            } else {
                assert_eq!(reply, UnitReply::Sealed(NOW), "{name}, earlier epoch");
                assert_eq!((earlier, records.len()), (before, 0), "{name}: a refusal changes nothing");
            }

            let mut later = unit(has);
            let before = later.clone();
            let (reply, records) = asked(&mut later, ME, Epoch(6), verb.clone());
            match verb {
                UnitVerb::Seal if has == Has::Lost => assert!(matches!(reply, UnitReply::Corrupt(_))),
                UnitVerb::Seal => {
                    let UnitReply::Standing(found) = reply else { panic!("{reply:?}") };
                    assert_eq!((found.epoch, records.len()), (Epoch(6), 1), "{name}, later epoch");
                }
                // What is there is as true as ever, though the seal may be among what was lost.
                UnitVerb::Read { .. } if has == Has::Lost => assert_eq!(reply, right),
                UnitVerb::Join(_) => assert_eq!(reply, right, "{name}, later epoch"),
                _ => {
                    assert_eq!(reply, UnitReply::Behind(NOW), "{name}, later epoch");
                    assert_eq!((later, records.len()), (before, 0), "{name}: a refusal changes nothing");
                }
            }

            let other = Member { joined: Epoch(2), ..ME };
            if !matches!(verb, UnitVerb::Join(_)) {
                let (reply, records) = asked(&mut unit(has), other, NOW, verb);
                assert_eq!((reply, records.len()), (UnitReply::Stranger(Some(ME)), 0), "{name}");
            }
        }
    }
}

#[test]
fn run_after_another_is_taken_where_that_one_is_and_nowhere_else() {
    let verbs = |before: Predecessor| {
        [UnitVerb::WriteAfter(before, run(1, 12, &["c"])), UnitVerb::CopyAfter(before, run(1, 12, &["c"]))]
    };
    for has in HAS {
        for verb in verbs(predecessor(1, 10)) {
            let mut unit = unit(has);
            let (reply, records) = asked(&mut unit, ME, NOW, verb.clone());
            let taken = matches!(has, Has::Same | Has::Trimmed);
            let right = if taken { (UnitReply::Done, 1) } else { (UnitReply::Early, 0) };
            assert_eq!((reply, records.len()), right, "{has:?}, {verb:?}");
            if taken {
                let (reply, records) = asked(&mut unit, ME, NOW, verb);
                assert_eq!((reply, records.len()), (UnitReply::Done, 0), "asked twice");
            }
        }
        // One that begins elsewhere, or inside of it, is another one.
        for before in [predecessor(1, 11), predecessor(2, 10)] {
            for verb in verbs(before) {
                let (reply, records) = asked(&mut unit(has), ME, NOW, verb);
                let taken = has == Has::Trimmed || (has == Has::Other && before.id.client.0 == 2);
                assert_eq!(reply == UnitReply::Done, taken && before.first.0 == 10 || has == Has::Trimmed);
                assert_eq!(reply == UnitReply::Early, records.is_empty());
            }
        }
    }
}

#[test]
fn unit_that_did_not_join_refuses_everything() {
    for verb in verbs().into_iter().filter(|verb| !matches!(verb, UnitVerb::Join(_))) {
        let mut unit = Unit::new(ME.unit, Limits { quota: 1000, ..Limits::NONE }, Rules::SOUND);
        let (reply, records) = asked(&mut unit, ME, NOW, verb);
        assert_eq!((reply, records.len()), (UnitReply::Stranger(None), 0));
    }
}

#[test]
fn join_in_a_later_epoch_empties_and_in_an_earlier_one_is_refused() {
    let mut unit = unit(Has::Same);
    let later = Member { joined: Epoch(7), ..ME };
    let (reply, records) = asked(&mut unit, later, Epoch(7), UnitVerb::Join(LOG));
    assert_eq!((reply, records.len()), (standing(0, 0, Epoch(7)), 1));
    assert_eq!(asked(&mut unit, later, Epoch(7), read()).0, UnitReply::Runs(vec![]));
    let (reply, _) = asked(&mut unit, ME, Epoch(7), UnitVerb::Join(LOG));
    assert_eq!(reply, UnitReply::Stranger(Some(later)), "a request that was long under way");
    let (reply, _) = asked(&mut unit, Member { joined: Epoch(8), ..ME }, Epoch(8), UnitVerb::Join(LogId(4)));
    assert_eq!(reply, UnitReply::Stranger(Some(later)), "of another log");
}

#[test]
fn join_empties_a_damaged_unit_and_makes_it_whole() {
    let mut unit = unit(Has::Lost);
    let later = Member { joined: Epoch(7), ..ME };
    asked(&mut unit, later, Epoch(7), UnitVerb::Join(LOG));
    assert!(!unit.damaged());
    assert_eq!(asked(&mut unit, later, Epoch(7), read()).0, UnitReply::Runs(vec![]));
}

#[test]
fn run_overlapping_another_in_part_is_refused_whole() {
    let mut unit = unit(Has::Unwritten);
    ok(&mut unit, UnitVerb::Write(run(1, 10, &["a", "b"])));
    for first in [9, 11] {
        let overlapping = run(2, first, &["x", "y"]);
        let (reply, records) = asked(&mut unit, ME, NOW, UnitVerb::Write(overlapping));
        assert_eq!((reply, records.len()), (UnitReply::Taken(Position(10)), 0));
    }
    ok(&mut unit, UnitVerb::Write(run(2, 12, &["x"])));
}

#[test]
fn fill_puts_junk_only_where_nothing_is_written() {
    let mut unit = unit(Has::Unwritten);
    ok(&mut unit, UnitVerb::Write(run(1, 12, &["a", "b"])));
    let verb = UnitVerb::Fill { from: Position(10), upto: Position(16), bytes: 100 };
    let runs = vec![
        Run::junk(Position(10), Position(12)),
        run(1, 12, &["a", "b"]),
        Run::junk(Position(14), Position(16)),
    ];
    let (reply, records) = asked(&mut unit, ME, NOW, verb.clone());
    assert_eq!((reply, records.len()), (UnitReply::Runs(runs.clone()), 2));
    let (reply, records) = asked(&mut unit, ME, NOW, verb);
    assert_eq!((reply, records.len()), (UnitReply::Runs(runs), 0), "filling again changes nothing");
}

#[test]
fn read_goes_up_to_the_first_gap_and_about_as_many_bytes_as_asked_for() {
    let mut unit = unit(Has::Unwritten);
    ok(&mut unit, UnitVerb::Write(run(1, 10, &["aaaa", "bbbb"])));
    ok(&mut unit, UnitVerb::Write(run(1, 12, &["cccc"])));
    ok(&mut unit, UnitVerb::Write(run(1, 14, &["dddd"])));
    let mut firsts = |from, bytes| {
        let verb = UnitVerb::Read { from: Position(from), upto: Position(20), bytes };
        match asked(&mut unit, ME, NOW, verb).0 {
            UnitReply::Runs(runs) => runs.iter().map(|run| run.first().0).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(firsts(11, 100), [10, 12], "13 is a gap");
    assert_eq!(firsts(10, 8), [10]);
    assert_eq!(firsts(10, 9), [10, 12]);
    assert_eq!(firsts(10, 0), [10], "one run at least");
    assert_eq!(firsts(13, 100), [0; 0]);
}

#[test]
fn trim_above_what_was_ever_written_moves_the_reach() {
    // R10: the tail that reconfiguration finds lies after the trim mark.
    let mut unit = unit(Has::Same);
    ok(&mut unit, UnitVerb::Trim(Position(100)));
    ok(&mut unit, UnitVerb::Trim(Position(50)));
    assert_eq!(asked(&mut unit, ME, NOW, UnitVerb::Probe).0, standing(100, 100, NOW));
    assert_eq!(unit.bytes(), 0);
}

#[test]
fn trim_inside_a_run_keeps_the_rest_of_it() {
    let mut unit = unit(Has::Same);
    ok(&mut unit, UnitVerb::Trim(Position(11)));
    assert_eq!(asked(&mut unit, ME, NOW, read()).0, UnitReply::Trimmed(Position(11)));
    let verb = UnitVerb::Read { from: Position(11), upto: Position(12), bytes: 9 };
    assert_eq!(asked(&mut unit, ME, NOW, verb).0, UnitReply::Runs(vec![ours()]));
    assert_eq!(asked(&mut unit, ME, NOW, gap()).0, UnitReply::Gap(Position(12), Position(12)));
}

#[test]
fn unit_over_its_quota_takes_junk_trims_and_copies_only() {
    let mut unit = Unit::new(ME.unit, Limits { quota: 3, ..Limits::NONE }, Rules::SOUND);
    asked(&mut unit, ME, NOW, UnitVerb::Join(LOG));
    ok(&mut unit, UnitVerb::Write(run(1, 0, &["aaa"])));
    let (reply, records) = asked(&mut unit, ME, NOW, UnitVerb::Write(run(1, 1, &["b"])));
    assert_eq!((reply, records.len()), (UnitReply::Full, 0));
    ok(&mut unit, UnitVerb::Copy(vec![run(1, 1, &["b"])]));
    ok(&mut unit, fill());
    ok(&mut unit, UnitVerb::Trim(Position(2)));
    ok(&mut unit, UnitVerb::Write(run(1, 2, &["ccc"])));
}

#[test]
fn unit_made_again_from_its_records_is_the_same() {
    let mut unit = Unit::new(ME.unit, Limits::NONE, Rules::SOUND);
    let mut records = Vec::new();
    let mut ask = |unit: &mut Unit, epoch, verb| {
        let answer = unit.handle(UnitRequest { epoch: Epoch(epoch), member: ME, verb }, &mut records);
        assert!(matches!(
            answer,
            Answer::Pieces(_) | Answer::Ready(UnitReply::Done | UnitReply::Standing(_))
        ));
    };
    ask(&mut unit, 1, UnitVerb::Join(LOG));
    ask(&mut unit, 1, UnitVerb::Write(run(1, 0, &["a", "b", "c"])));
    ask(&mut unit, 1, UnitVerb::Fill { from: Position(1), upto: Position(7), bytes: 9 });
    ask(&mut unit, 1, UnitVerb::Write(run(1, 9, &["d"])));
    ask(&mut unit, 1, UnitVerb::Trim(Position(2)));
    ask(&mut unit, 2, UnitVerb::Seal);
    let mut again = Unit::new(ME.unit, Limits::NONE, Rules::SOUND);
    for record in records {
        again.replay(record, None);
    }
    assert_eq!(again, unit);
    assert_eq!(again.state().map(|state| state.epoch), Some(Epoch(2)), "it comes back sealed");
}

#[test]
fn records_from_the_middle_of_a_journal_are_enough() {
    // What was trimmed away before them is not missed, and the state may stand after the runs.
    let state = State {
        log: LOG,
        unit: Some(ME.unit),
        joined: Epoch(1),
        epoch: NOW,
        trimmed: Position(10),
        reach: Position(12),
    };
    let mut unit = Unit::new(ME.unit, Limits::NONE, Rules::SOUND);
    unit.replay(Record::Run(run(1, 5, &["gone"])), None);
    unit.replay(Record::Run(ours()), None);
    unit.replay(Record::State(state), None);
    assert_eq!(asked(&mut unit, ME, NOW, read()).0, UnitReply::Runs(vec![ours()]));
    assert_eq!(asked(&mut unit, ME, NOW, UnitVerb::Probe).0, standing(12, 10, NOW));
    assert_eq!(unit.written().count(), 1);
    assert_eq!(Arc::strong_count(unit.written().next().unwrap().3.unwrap()), 1);
}
