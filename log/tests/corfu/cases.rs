//! The hard cases of the protocol, each by name: who is slow, dead, late, or mistaken, and what is right.

use mixlog_log::Position;
use mixlog_log::corfu::{
    AppendOutcome, Change, ClientId, Epoch, Instance, Limits, Node, Outgoing, ReadOutcome, Reconfigure,
    Refusal, Reply, Request, Rules, Sequencer, Settle, StoreRequest, Sweep, Tail, TailMode, Trim, Unit,
    UnitReply, UnitVerb,
};

use crate::harness::{Driven, Held, Net, SEQUENCER, append, committed, node, run, text_at, unit};

fn data(client: u64, text: &str) -> Held {
    Held::Data(ClientId(client), text.to_owned())
}

fn chain() -> Net {
    Net::new(&[&[1, 2]], 4)
}

fn tail(net: &mut Net, mode: TailMode) -> u64 {
    Driven::new(Tail::new(net.latest(), mode)).run(net).tail.0
}

#[test]
fn r1_slow_writer_loses_to_a_filler_and_appends_elsewhere() {
    let mut net = chain();
    let mut writer = Driven::new(append(net.latest(), 1, 0, &["a"]));
    writer.until_unit(&mut net, 1);
    assert_eq!(text_at(&net.fill(0, 1), 0), None);
    let appended = committed(&writer.run(&mut net));
    assert_eq!(appended.first, Position(1));
    assert_eq!((net.entry(0), net.entry(1)), (None, Some("a".to_owned())));
}

#[test]
fn r1_filler_loses_to_a_writer_and_completes_what_it_wrote() {
    let mut net = chain();
    let mut writer = Driven::new(append(net.latest(), 1, 0, &["a"]));
    writer.until_unit(&mut net, 2);
    assert_eq!(net.held(2, 0), Held::Unwritten);
    assert_eq!(text_at(&net.fill(0, 1), 0).as_deref(), Some("a"));
    assert_eq!(net.held(2, 0), data(1, "a"));
    assert_eq!(committed(&writer.run(&mut net)).first, Position(0));
}

#[test]
fn r1_filler_that_comes_between_the_units_of_a_chain_makes_no_difference() {
    let mut net = chain();
    let mut writer = Driven::new(append(net.latest(), 1, 0, &["a", "b"]));
    let mut filler = Driven::new(Settle::new(net.latest(), Position(0), Position(2), net.latest().epoch));
    writer.until_unit(&mut net, 1);
    // The filler waits at the hole, then asks the head; the writer is there first.
    filler.until_unit(&mut net, 1);
    writer.until_unit(&mut net, 2);
    filler.until(&mut net, |next| next.to == node(2));
    assert_eq!(committed(&writer.run(&mut net)).first, Position(0));
    assert_eq!(filler.run(&mut net).upto, Position(2));
    assert_eq!(net.held(2, 1), data(1, "b"));
}

#[test]
fn r2_entry_trimmed_before_its_writer_is_done_is_not_appended_twice() {
    let mut net = chain();
    let mut writer = Driven::new(append(net.latest(), 1, 0, &["a"]));
    writer.until_unit(&mut net, 2);
    // A reader completes it, and somebody trims it.
    assert_eq!(text_at(&net.fill(0, 1), 0).as_deref(), Some("a"));
    Driven::new(Trim::new(net.latest(), Position(1))).run(&mut net);
    assert_eq!(committed(&writer.run(&mut net)).first, Position(0));
    assert_eq!(tail(&mut net, TailMode::Linearizable), 1, "no other position was taken");
}

#[test]
fn r2_answer_lost_and_entry_trimmed_is_said_to_be_unknown() {
    let mut net = chain();
    let mut writer = Driven::new(append(net.latest(), 1, 0, &["a"]));
    writer.until_unit(&mut net, 1);
    writer.step_answer_lost(&mut net);
    net.fill(0, 1);
    Driven::new(Trim::new(net.latest(), Position(1))).run(&mut net);
    assert_eq!(writer.run(&mut net), AppendOutcome::Indeterminate(Position(0)));
}

#[test]
fn r3_same_bytes_of_two_clients_are_two_entries() {
    // A sequencer that starts over gives the same position to two clients, who append the same bytes.
    let mut net = chain();
    let sequencer = net.sequencers[&SEQUENCER].clone();
    let mut first = Driven::new(append(net.latest(), 1, 0, &["same"]));
    first.until_unit(&mut net, 1);
    net.sequencers.insert(SEQUENCER, sequencer);
    let mut second = Driven::new(append(net.latest(), 2, 0, &["same"]));
    second.until_unit(&mut net, 1);
    first.step(&mut net);
    let positions = [first.run(&mut net), second.run(&mut net)].map(|outcome| committed(&outcome).first);
    assert_ne!(positions[0], positions[1]);
    assert_eq!(net.held(2, positions[0].0), data(1, "same"));
    assert_eq!(net.held(2, positions[1].0), data(2, "same"));
    // At one position, only one of them is there.
    let (latest, member) = (net.latest(), net.latest().members()[0]);
    let answer = net.ask(member, latest.epoch, UnitVerb::Write(run(3, positions[0].0, &["same"])));
    assert_eq!(answer, UnitReply::Taken(positions[0]));
}

#[test]
fn r4_unit_that_comes_back_with_what_nobody_else_has_is_emptied() {
    let mut net = chain();
    net.append(1, 0, &["a"]);
    let mut writer = Driven::new(append(net.latest(), 1, 1, &["lost"]));
    writer.until_unit(&mut net, 2);
    assert_eq!(net.held(1, 1), data(1, "lost"));
    net.kill(1);
    net.reconfigure(Change::remove(unit(1)));
    net.append(2, 0, &["b"]);
    assert_eq!(net.entry(1).as_deref(), Some("b"), "the position is given out again");

    // The unit comes back, with the old value: nobody asks it, and it joins as another member.
    net.dead.clear();
    let change = Change {
        joins: vec![mixlog_log::corfu::Join { beside: unit(2), unit: unit(1) }],
        ..Change::default()
    };
    net.reconfigure(change);
    assert_eq!(net.held(1, 1), Held::Unwritten);
    net.transfer();
    assert_eq!(net.latest().open().chains[0].last().unit, unit(1));
    assert_eq!(net.held(1, 1), data(2, "b"));
    // The writer who was interrupted finds out that it was not appended, and appends it.
    let appended = committed(&writer.run(&mut net));
    assert_eq!(net.entry(appended.first.0).as_deref(), Some("lost"));
    assert_eq!(appended.first, Position(2));
}

#[test]
fn r5_unit_that_was_removed_answers_no_client_of_the_new_epoch() {
    let mut net = Net::new(&[&[1, 2, 3]], 4);
    let old = net.latest();
    net.append(1, 0, &["a"]);
    // Unit 3 is cut off, and does not know that it was removed. What it has stays true; what it has not is
    // a hint, so a reader who finds nothing asks for the tail, and the tail is not taken from it.
    net.kill(3);
    net.reconfigure(Change::remove(unit(3)));
    net.append(1, 1, &["b"]);
    net.dead.clear();
    let last = old.open().chains[0].last();
    let verb = UnitVerb::Read { from: Position(1), upto: Position(2), bytes: 9 };
    assert_eq!(net.ask(last, old.epoch, verb), UnitReply::Runs(vec![]), "only a hint");
    let stale = Driven::new(Tail::new(old, TailMode::Linearizable)).run(&mut net);
    assert_eq!((stale.tail, stale.epoch), (Position(2), net.latest().epoch));
}

#[test]
fn r6_token_of_an_earlier_epoch_is_not_used() {
    let mut net = chain();
    let mut writer = Driven::new(append(net.latest(), 1, 0, &["a"]));
    writer.until_unit(&mut net, 1);
    net.reconfigure(Change::default());
    assert_eq!(net.append(2, 0, &["b"]).first, Position(0), "the position is given out again");
    assert_eq!(committed(&writer.run(&mut net)).first, Position(1));
}

#[test]
fn r6_token_of_a_later_epoch_makes_the_client_look() {
    let mut net = chain();
    let old = net.latest();
    net.reconfigure(Change::default());
    assert_eq!(committed(&Driven::new(append(old, 1, 0, &["a"])).run(&mut net)).first, Position(0));
}

#[test]
fn r7_sequencer_that_fails_over_reissues_what_nobody_wrote() {
    let mut net = chain();
    net.append(1, 0, &["a"]);
    let mut holders: Vec<_> =
        (2..5).map(|client| Driven::new(append(net.latest(), client, 0, &["x"]))).collect();
    for holder in &mut holders {
        holder.until_unit(&mut net, 1);
    }
    net.sequencers.insert(SEQUENCER, Sequencer::new(Instance(2)));
    assert_eq!(tail(&mut net, TailMode::Linearizable), 1, "the units know it as well");
    let latest = net.reconfigure(Change::default());
    assert_eq!(latest.tail, Position(1));
    assert_eq!(net.append(1, 1, &["b"]).first, Position(1));
    let mut firsts: Vec<u64> =
        holders.iter_mut().map(|holder| committed(&holder.run(&mut net)).first.0).collect();
    firsts.sort_unstable();
    assert_eq!(firsts, [2, 3, 4], "every entry is there once, and no position is wasted");
}

#[test]
fn r8_unit_that_lost_records_never_says_unwritten() {
    let mut net = chain();
    net.append(1, 0, &["a"]);
    let member = net.latest().members()[1];
    let mut damaged = Unit::new(unit(2), Limits::NONE, Rules::SOUND);
    let state = *net.units[&unit(2)].state().unwrap();
    damaged.replay(mixlog_log::corfu::Record::State(state), None);
    damaged.set_damaged();
    net.units.insert(unit(2), damaged);
    let epoch = net.latest().epoch;
    let verb = UnitVerb::Read { from: Position(0), upto: Position(1), bytes: 9 };
    assert_eq!(net.ask(member, epoch, verb), UnitReply::Corrupt(Position(0)));
    // A reader who knows that it is committed asks the other unit; and it can be replaced.
    let read = mixlog_log::corfu::Read::new(net.latest(), Position(0), Position(1), 9, Position(1));
    assert!(matches!(Driven::new(read).run(&mut net), ReadOutcome::Runs(_)));
    net.reconfigure(Change::replace(unit(2), unit(9)));
    net.transfer();
    assert_eq!(net.held(9, 0), data(1, "a"));
}

#[test]
fn r8_damaged_unit_is_left_behind_when_nobody_says_that_it_is() {
    let mut net = chain();
    net.append(1, 0, &["a"]);
    net.units.get_mut(&unit(1)).unwrap().set_damaged();
    let latest = net.reconfigure(Change::default());
    assert_eq!(latest.members().len(), 1);
    assert_eq!(net.entry(0).as_deref(), Some("a"));
}

#[test]
fn r8_wiped_unit_is_nobody_and_is_left_behind() {
    let mut net = chain();
    net.append(1, 0, &["a"]);
    net.units.insert(unit(1), Unit::new(unit(1), Limits::NONE, Rules::SOUND));
    let latest = net.reconfigure(Change::default());
    assert_eq!(latest.tail, Position(1));
    assert_eq!(latest.members()[0].unit, unit(2));
    assert_eq!(net.entry(0).as_deref(), Some("a"));
}

#[test]
fn r9_late_write_of_an_earlier_epoch_does_not_land_after_recovery_looked() {
    let mut net = chain();
    let old = net.latest();
    let mut writer = Driven::new(append(net.latest(), 1, 0, &["late"]));
    writer.until_unit(&mut net, 1);
    let latest = net.reconfigure(Change::default());
    assert_eq!(latest.tail, Position(0));
    for member in old.members() {
        let answer = net.ask(member, old.epoch, UnitVerb::Write(run(1, 0, &["late"])));
        assert_eq!(answer, UnitReply::Sealed(latest.epoch));
    }
    assert_eq!(net.append(2, 0, &["b"]).first, Position(0));
    assert_eq!(committed(&writer.run(&mut net)).first, Position(1));
}

#[test]
fn r9_write_that_only_the_head_has_counts_for_the_tail() {
    let mut net = chain();
    let mut writer = Driven::new(append(net.latest(), 1, 0, &["half"]));
    writer.until_unit(&mut net, 2);
    let latest = net.reconfigure(Change::default());
    assert_eq!(latest.tail, Position(1));
    assert_eq!(net.append(2, 0, &["b"]).first, Position(1));
    assert_eq!(committed(&writer.run(&mut net)).first, Position(0), "it is found, and completed");
    assert_eq!(net.held(2, 0), data(1, "half"));
}

#[test]
fn r10_tail_lies_after_the_trim_mark() {
    let mut net = chain();
    let epoch = net.latest().epoch;
    for member in net.latest().members() {
        assert_eq!(net.ask(member, epoch, UnitVerb::Trim(Position(50))), UnitReply::Done);
    }
    assert_eq!(net.reconfigure(Change::default()).tail, Position(50));
    assert_eq!(net.append(1, 0, &["a"]).first, Position(50));
    assert_eq!(net.read(49), ReadOutcome::Trimmed(Position(50)));
}

#[test]
fn r11_junk_trimmed_and_unwritten_are_told_apart() {
    let mut net = chain();
    net.append(1, 0, &["a"]);
    net.append(1, 1, &["b"]);
    net.fill(2, 3);
    Driven::new(Trim::new(net.latest(), Position(1))).run(&mut net);
    assert_eq!(net.read(0), ReadOutcome::Trimmed(Position(1)));
    assert_eq!(net.entry(1).as_deref(), Some("b"));
    assert_eq!(net.entry(2), None);
    assert_eq!(net.read(3), ReadOutcome::Unwritten);
}

#[test]
fn r12_whole_cluster_restarted_goes_on_in_a_new_epoch() {
    let mut net = chain();
    net.append(1, 0, &["a"]);
    net.reconfigure(Change::default());
    net.append(1, 1, &["b"]);
    let fill = net.fill(2, 3);
    assert_eq!(text_at(&fill, 2), None);
    let latest = net.latest();
    // Somebody seals the units for the next epoch, and does not live to install it.
    let mut driver = Driven::new(Reconfigure::new(net.latest(), Change::default(), Rules::SOUND));
    driver.until(&mut net, |next| matches!(next.request, Request::Store(StoreRequest::Install(_))));
    let held = |net: &Net| [1, 2].map(|number| [0, 1, 2, 3].map(|at| net.held(number, at)));
    let states = |net: &Net| [1, 2, 9].map(|number| net.units[&unit(number)].state().copied());
    let (before, had) = (states(&net), held(&net));

    net.restart();
    assert_eq!((states(&net), held(&net)), (before, had));
    let next = latest.epoch.next();
    for member in latest.members() {
        let state = net.units[&member.unit].state().expect("it is a member");
        assert_eq!((state.joined, state.epoch), (member.joined, next), "it is sealed");
        for epoch in [latest.epoch, Epoch(latest.epoch.0 - 1)] {
            let late = net.ask(member, epoch, UnitVerb::Write(run(2, 3, &["late"])));
            assert_eq!(late, UnitReply::Sealed(next), "in epoch {epoch}");
        }
    }

    let mut waiting = Driven::new(append(net.latest(), 1, 2, &["c"]));
    for _ in 0..20 {
        waiting.step(&mut net);
    }
    assert!(!waiting.is_done(), "the sequencer does not know where to start, and must not guess");
    assert_eq!(net.reconfigure(Change::default()).epoch, next);
    assert_eq!(committed(&waiting.run(&mut net)).first, Position(3));
    assert_eq!((net.entry(0).as_deref(), net.entry(1).as_deref()), (Some("a"), Some("b")));
    assert_eq!((net.entry(2), net.entry(3).as_deref()), (None, Some("c")));
}

#[test]
fn r13_unit_over_its_quota_lets_holes_be_filled() {
    let mut net = chain();
    for number in [1, 2] {
        let mut full = Unit::new(unit(number), Limits { quota: 3, ..Limits::NONE }, Rules::SOUND);
        full.replay(mixlog_log::corfu::Record::State(*net.units[&unit(number)].state().unwrap()), None);
        net.units.insert(unit(number), full);
    }
    net.append(1, 0, &["aaa"]);
    let refused = Driven::new(append(net.latest(), 1, 1, &["b"])).run(&mut net);
    assert!(matches!(refused, AppendOutcome::NotCommitted(Refusal::Full(_))), "{refused:?}");
    assert_eq!(net.entry(1), None, "who was refused leaves junk, not a hole");
    Driven::new(Trim::new(net.latest(), Position(1))).run(&mut net);
    assert_eq!(net.append(1, 2, &["c"]).first, Position(2));
}

#[test]
fn client_that_takes_many_tokens_and_dies_is_swept_away() {
    let mut net = Net::new(&[&[1, 2], &[3, 4]], 8);
    net.append(1, 0, &["a"]);
    for client in 0..200 {
        Driven::new(append(net.latest(), 10 + client, 0, &["dead"]))
            .until(&mut net, |next| matches!(next.to, Node::Unit(_)));
    }
    net.append(1, 1, &["b"]);
    let swept = Driven::new(Sweep::new(net.latest(), Position(0))).run(&mut net);
    assert_eq!((swept.upto, swept.corrupt), (Position(202), false));
    assert_eq!((net.entry(100), net.entry(201).as_deref()), (None, Some("b")));
    let member = net.latest().members()[3];
    let epoch = net.latest().epoch;
    let UnitReply::Standing(standing) = net.ask(member, epoch, UnitVerb::Probe) else {
        panic!("no standing")
    };
    assert_eq!(standing.committed, Position(202));
}

#[test]
fn batch_that_does_not_fit_leaves_junk_and_stays_whole() {
    let mut net = Net::new(&[&[1, 2], &[3, 4]], 4);
    assert_eq!(net.append(1, 0, &["a", "b", "c"]).first, Position(0));
    assert_eq!(net.append(1, 3, &["d", "e"]).first, Position(4));
    assert_eq!(net.entry(3), None, "filled by whom it was passed over for");
    assert_eq!(net.held(3, 5), data(1, "e"));
    let entries = ["1", "2", "3", "4", "5"];
    let refused = Driven::new(append(net.latest(), 1, 5, &entries)).run(&mut net);
    assert_eq!(refused, AppendOutcome::NotCommitted(Refusal::TooMany(4)));
}

#[test]
fn append_whose_answers_are_lost_is_in_the_log_once() {
    // Each request's answer lost in turn: until nothing more is lost.
    for lost in 0..8 {
        let mut net = Net::new(&[&[1, 2, 3]], 4);
        let mut writer = Driven::new(append(net.latest(), 1, 0, &["a"]));
        for _ in 0..lost {
            writer.step(&mut net);
        }
        if writer.next().is_some() {
            writer.step_answer_lost(&mut net);
        }
        let appended = committed(&writer.run(&mut net));
        Driven::new(Sweep::new(net.latest(), Position(0))).run(&mut net);
        let found: Vec<u64> = (0..tail(&mut net, TailMode::Linearizable))
            .filter(|position| net.entry(*position).is_some())
            .collect();
        assert_eq!(found, [appended.first.0], "answer {lost} lost");
    }
}

#[test]
fn old_sequencer_with_its_clients_does_not_answer_a_linearizable_tail() {
    let mut net = chain();
    let old = net.latest();
    net.append(1, 0, &["a"]);
    let isolated = net.sequencers[&SEQUENCER].clone();
    net.reconfigure(Change::default());
    net.append(1, 1, &["b"]);
    // A client that still knows the old epoch reaches the sequencer as it was then.
    let current = net.sequencers.insert(SEQUENCER, isolated).unwrap();
    let fast = Driven::new(Tail::new(old.clone(), TailMode::Fast)).run(&mut net);
    assert_eq!(fast.tail, Position(1), "the fast form believes it");
    let mut right = Driven::new(Tail::new(old, TailMode::Linearizable));
    right.step(&mut net);
    net.sequencers.insert(SEQUENCER, current);
    assert_eq!(right.run(&mut net).tail, Position(2));
}

#[test]
fn sequencer_that_is_gone_is_not_needed_for_the_tail() {
    let mut net = Net::new(&[&[1, 2], &[3, 4]], 2);
    for n in 0..5 {
        net.append(1, n, &["a"]);
    }
    net.dead.insert(Node::Sequencer(SEQUENCER));
    assert_eq!(tail(&mut net, TailMode::Linearizable), 5);
}

#[test]
fn write_doubled_of_which_one_arrives_after_a_trim_is_not_appended_again() {
    let mut net = chain();
    let mut writer = Driven::new(append(net.latest(), 1, 0, &["a"]));
    writer.until_unit(&mut net, 1);
    // The message arrives twice: once now, and once when a reader has completed the entry and somebody trimmed it.
    let Outgoing { to, request, .. } = writer.next().unwrap().clone();
    assert_eq!(net.serve(to, request), Some(Reply::Unit(UnitReply::Done)));
    assert_eq!(text_at(&net.fill(0, 1), 0).as_deref(), Some("a"));
    Driven::new(Trim::new(net.latest(), Position(1))).run(&mut net);
    // The head that refuses the second one has taken the first one, and does not remember that.
    assert_eq!(writer.run(&mut net), AppendOutcome::Indeterminate(Position(0)));
    assert_eq!(tail(&mut net, TailMode::Linearizable), 1, "no other position was taken");
}

#[test]
fn write_doubled_of_which_one_is_refused_and_one_taken_is_appended() {
    let mut net = chain();
    let mut full = Unit::new(unit(1), Limits { quota: 3, ..Limits::NONE }, Rules::SOUND);
    full.replay(mixlog_log::corfu::Record::State(*net.units[&unit(1)].state().unwrap()), None);
    net.units.insert(unit(1), full);
    net.append(1, 0, &["aaa"]);
    let mut writer = Driven::new(append(net.latest(), 1, 1, &["b"]));
    writer.until_unit(&mut net, 1);
    let Outgoing { to, request, .. } = writer.next().unwrap().clone();
    // The head is full; then there is space again, and the message arrives once more.
    writer.step(&mut net);
    Driven::new(Trim::new(net.latest(), Position(1))).run(&mut net);
    assert_eq!(net.serve(to, request), Some(Reply::Unit(UnitReply::Done)));
    // The refusal alone says nothing: the entry is there, and counts once.
    assert_eq!(committed(&writer.run(&mut net)).first, Position(1));
    assert_eq!((net.held(1, 1), net.held(2, 1)), (data(1, "b"), data(1, "b")));
    assert_eq!(tail(&mut net, TailMode::Linearizable), 2);
}

#[test]
fn trim_by_an_outdated_projection_reaches_the_units_of_the_latest() {
    let mut net = chain();
    net.append(1, 0, &["a"]);
    net.append(1, 1, &["b"]);
    let old = net.latest();
    net.reconfigure(Change::replace(unit(1), unit(9)));
    net.transfer();
    assert_eq!(net.held(9, 0), data(1, "a"));
    // All former members answer, also the one that is a member no more.
    Driven::new(Trim::new(old, Position(1))).run(&mut net);
    for number in [2, 9] {
        assert_eq!(net.held(number, 0), Held::Trimmed, "unit {number}");
        assert_eq!(net.held(number, 1), data(1, "b"), "unit {number}");
    }
    assert_eq!(net.read(0), ReadOutcome::Trimmed(Position(1)));
}

#[test]
fn run_across_the_trim_mark_is_not_written() {
    let mut net = chain();
    net.append(1, 0, &["a"]);
    let sequencer = net.sequencers[&SEQUENCER].clone();
    net.append(1, 1, &["b"]);
    Driven::new(Trim::new(net.latest(), Position(2))).run(&mut net);
    let (latest, member) = (net.latest(), net.latest().members()[0]);
    let answer = net.ask(member, latest.epoch, UnitVerb::Write(run(3, 1, &["e", "f"])));
    assert_eq!(answer, UnitReply::Trimmed(Position(2)));
    // A sequencer that goes back gives out a trimmed position again, with one after it that is free.
    net.sequencers.insert(SEQUENCER, sequencer);
    let outcome = Driven::new(append(net.latest(), 2, 0, &["c", "d"])).run(&mut net);
    assert_eq!(outcome, AppendOutcome::Indeterminate(Position(1)), "what was trimmed there is not known");
    for number in [1, 2] {
        assert_eq!(net.held(number, 1), Held::Trimmed);
        assert!(!matches!(net.held(number, 2), Held::Data(..)), "no half of it is there");
    }
}
