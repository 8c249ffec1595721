//! Reconfiguration: interrupted after each step, by two at once, under appends; state transfer likewise.

use std::collections::BTreeMap;
use std::sync::Arc;

use mixlog_log::Position;
use mixlog_log::corfu::{
    Append, AppendOutcome, Change, Epoch, Instance, Join, Limits, Loss, Member, Node, PlanError, Reconfigure,
    Reconfigured, Record, Refusal, Rules, Sequencer, SequencerNumber, StoreBehind, Sweep, Tail, TailMode,
    Transfer, TransferError, Transferred, Trim, Unit, UnitVerb,
};

use crate::harness::{Driven, Held, Net, SEQUENCER, append, committed, node, run, unit};

fn reconfigure(net: &Net, change: Change) -> Driven<Reconfigure> {
    Driven::new(Reconfigure::new(net.latest(), change, Rules::SOUND))
}

fn two_chains() -> Net {
    Net::new(&[&[1, 2], &[3, 4]], 2)
}

/// All entries, each where it stands; every position is settled first.
fn entries(net: &mut Net) -> BTreeMap<u64, String> {
    let found = Driven::new(Tail::new(net.latest(), TailMode::Linearizable)).run(net);
    let swept = Driven::new(Sweep::new(net.latest(), found.trimmed)).run(net);
    assert_eq!((swept.upto, swept.corrupt), (found.tail, false));
    (found.trimmed.0..found.tail.0).filter_map(|at| net.entry(at).map(|entry| (at, entry))).collect()
}

/// Every unit of every chain has the same, position by position.
fn assert_replicas_agree(net: &mut Net) {
    entries(net);
    let latest = net.latest();
    for position in latest.first().0..latest.tail.0 {
        let units = &latest.place(Position(position)).unwrap().chain.units;
        let held: Vec<Held> = units.iter().map(|member| net.held(member.unit.0, position)).collect();
        assert!(held.iter().all(|other| *other == held[0]), "position {position}: {held:?}");
        assert_ne!(held[0], Held::Unwritten, "position {position}");
    }
}

fn changes() -> Vec<(&'static str, Change)> {
    let numbers = |numbers: &[u32]| numbers.iter().copied().map(unit).collect::<Vec<_>>();
    vec![
        ("nothing", Change::default()),
        ("replace a head", Change::replace(unit(1), unit(9))),
        ("replace a last unit", Change::replace(unit(4), unit(9))),
        ("remove", Change::remove(unit(2))),
        (
            "a third replica",
            Change { joins: vec![Join { beside: unit(2), unit: unit(9) }], ..Change::default() },
        ),
        ("another chain", Change::grow(vec![numbers(&[9])])),
        ("another sequencer", Change::sequencer(SequencerNumber(2))),
        (
            "a unit and the sequencer",
            Change { sequencer: Some(SequencerNumber(2)), ..Change::replace(unit(3), unit(9)) },
        ),
    ]
}

fn with_spare_sequencer() -> Net {
    let mut net = two_chains();
    net.sequencers.insert(SequencerNumber(2), Sequencer::new(Instance(20)));
    net
}

#[test]
fn every_change_keeps_every_entry_and_appends_go_on() {
    for (name, change) in changes() {
        let mut net = with_spare_sequencer();
        for n in 0..7 {
            net.append(1, n, &[&format!("entry {n}")]);
        }
        for lost in &change.lost {
            net.dead.insert(Node::Unit(*lost));
        }
        net.reconfigure(change);
        net.append(1, 7, &["entry 7"]);
        net.transfer();
        net.append(1, 8, &["entry 8"]);
        let found: Vec<String> = entries(&mut net).into_values().collect();
        assert_eq!(found, (0..9).map(|n| format!("entry {n}")).collect::<Vec<_>>(), "{name}");
        assert!(net.latest().joining().is_empty());
        assert!(net.latest().segments.len() <= 2, "{name}: what is alike is joined");
        assert_replicas_agree(&mut net);
    }
}

#[test]
fn unit_that_came_back_with_less_than_one_behind_it_is_left_behind() {
    // Which unit it is, and whether it is left behind: what the last one lacks the head has.
    for (number, beside, is_left) in [(1, 2, true), (2, 1, false), (3, 4, true), (4, 3, false)] {
        let mut net = two_chains();
        let old = |net: &Net| net.units[&unit(number)].clone();
        let texts: Vec<String> = (0..12).map(|n| format!("entry {n}")).collect();
        let append = |net: &mut Net, n: usize| {
            net.append(1, n as u64, &[&texts[n]]);
        };
        (0..5).for_each(|n| append(&mut net, n));
        let old = old(&net);
        (5..10).for_each(|n| append(&mut net, n));
        net.units.insert(unit(number), old);
        let latest = net.reconfigure(Change::default());
        assert_eq!(latest.member(unit(number)).is_none(), is_left, "unit {number}");
        append(&mut net, 10);
        if is_left {
            net.reconfigure(Change {
                joins: vec![Join { beside: unit(beside), unit: unit(number) }],
                ..Change::default()
            });
            net.transfer();
        }
        append(&mut net, 11);
        assert_eq!(entries(&mut net).into_values().collect::<Vec<_>>(), texts, "unit {number}");
        assert_replicas_agree(&mut net);
    }
}

#[test]
fn unit_that_was_not_trimmed_or_has_what_nobody_else_has_stays() {
    // Up to where one of them trims: within what it has, to its end, past what either has.
    for (number, before) in [(1, 4), (2, 4), (1, 8), (2, 8), (1, 100), (2, 100)] {
        let mut net = two_chains();
        for n in 0..8 {
            net.append(1, n, &["entry"]);
        }
        let (member, epoch) = (net.latest().member(unit(number)).unwrap(), net.latest().epoch);
        net.ask(member, epoch, UnitVerb::Trim(Position(before)));
        assert_eq!(net.reconfigure(Change::default()).members().len(), 4, "unit {number} before {before}");
    }

    let mut net = Net::new(&[&[1]], 2);
    net.append(1, 0, &["entry 0"]);
    let old = net.units[&unit(1)].clone();
    net.append(1, 1, &["entry 1"]);
    // Half of the log is on unit 1 alone, until it was copied.
    net.reconfigure(Change { joins: vec![Join { beside: unit(1), unit: unit(9) }], ..Change::default() });
    net.append(1, 2, &["entry 2"]);
    net.units.insert(unit(1), old);
    assert!(net.reconfigure(Change::default()).member(unit(1)).is_some());
}

#[test]
fn driver_that_dies_after_any_step_is_followed_by_another() {
    for (name, change) in changes() {
        for steps in 0.. {
            let mut net = with_spare_sequencer();
            for n in 0..5 {
                net.append(1, n, &[&format!("entry {n}")]);
            }
            // One append is half written when it happens.
            let mut writer = Driven::new(append(net.latest(), 2, 0, &["half"]));
            writer.until(&mut net, |next| next.to == node(2) || next.to == node(4));
            for lost in &change.lost {
                net.dead.insert(Node::Unit(*lost));
            }
            let mut dying = reconfigure(&net, change.clone());

            if (0..steps).any(|_| !dying.step(&mut net)) {
                break;
            }
            drop(dying);
            let latest = match reconfigure(&net, change.clone()).run(&mut net) {
                Reconfigured::Installed(latest) => latest,
                // The one that died had come so far.
                Reconfigured::Impossible(PlanError::InUse(_) | PlanError::Unknown(_)) => net.latest(),
                other => panic!("{name}, {steps} steps: {other:?}"),
            };
            net.transfer();
            assert!(net.latest().epoch > latest.epoch);
            net.append(1, 5, &["entry 5"]);
            let half = committed(&writer.run(&mut net));
            let found = entries(&mut net);
            assert_eq!(found.get(&half.first.0).map(String::as_str), Some("half"), "{name}, {steps} steps");
            let mut texts: Vec<String> = found.into_values().filter(|text| text != "half").collect();
            texts.sort();
            assert_eq!(
                texts,
                (0..6).map(|n| format!("entry {n}")).collect::<Vec<_>>(),
                "{name}, {steps} steps"
            );
            assert_replicas_agree(&mut net);
        }
    }
}

#[test]
fn two_drivers_and_a_writer_in_any_order_agree() {
    let rounds: u64 = std::env::var("MIXLOG_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    for seed in 0..500 * rounds {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let mut net = with_spare_sequencer();
        let before: Vec<Position> = (0..3).map(|n| net.append(1, n, &["before"]).first).collect();
        let changes = changes();
        let mut pick = || changes[usize::try_from(next() % changes.len() as u64).unwrap()].1.clone();
        let mut drivers = [reconfigure(&net, pick()), reconfigure(&net, pick())];
        let mut writers: Vec<Driven<Append>> =
            (2..4).map(|client| Driven::new(append(net.latest(), client, 0, &["during"]))).collect();
        for _ in 0..200 {
            match next() % 4 {
                n @ 0..2 => drop(drivers[n as usize].step(&mut net)),
                n => drop(writers[n as usize - 2].step(&mut net)),
            }
        }
        let mut installed = 0;
        for driver in &mut drivers {
            match driver.run(&mut net) {
                Reconfigured::Installed(_) => installed += 1,
                Reconfigured::Overtaken(_) | Reconfigured::NotJoined(_) => {}
                other => panic!("seed {seed}: {other:?}"),
            }
        }
        assert!(installed >= 1, "seed {seed}");
        let epochs: Vec<u64> = net.register.all().map(|projection| projection.epoch.0).collect();
        assert_eq!(epochs, (1..=epochs.len() as u64).collect::<Vec<_>>(), "seed {seed}");
        net.transfer();
        let firsts: Vec<Position> =
            writers.iter_mut().map(|writer| committed(&writer.run(&mut net)).first).collect();
        let found = entries(&mut net);
        for position in before {
            assert_eq!(found.get(&position.0).map(String::as_str), Some("before"), "seed {seed}");
        }
        for position in &firsts {
            assert_eq!(found.get(&position.0).map(String::as_str), Some("during"), "seed {seed}");
        }
        assert_eq!(found.len(), 5, "seed {seed}: nothing is there twice");
        assert_replicas_agree(&mut net);
    }
}

#[test]
fn silent_unit_is_left_behind_when_its_chain_has_another() {
    let mut net = two_chains();
    net.append(1, 0, &["a"]);
    net.kill(1);
    let latest = net.reconfigure(Change::default());
    assert_eq!(latest.members().len(), 3);
    assert_eq!(net.append(1, 1, &["b"]).first, Position(1));
    assert_eq!(net.entry(0).as_deref(), Some("a"));
}

#[test]
fn last_unit_of_a_chain_is_waited_for() {
    let mut net = two_chains();
    net.append(1, 0, &["a"]);
    net.kill(1);
    net.kill(2);
    let mut waiting = reconfigure(&net, Change::default());
    for _ in 0..100 {
        waiting.step(&mut net);
    }
    assert!(!waiting.is_done());
    net.dead.remove(&node(2));
    assert!(matches!(waiting.run(&mut net), Reconfigured::Installed(_)));
    assert_eq!(net.entry(0).as_deref(), Some("a"));
    // Nobody can give it up either.
    let change = Change { lost: vec![unit(2)], ..Change::default() };
    let refused = reconfigure(&net, change).run(&mut net);
    assert_eq!(refused, Reconfigured::Impossible(PlanError::ChainLost(Position(0))));
}

#[test]
fn spare_that_does_not_answer_is_named() {
    let mut net = two_chains();
    net.kill(9);
    let outcome = reconfigure(&net, Change::replace(unit(1), unit(9))).run(&mut net);
    assert!(
        matches!(outcome, Reconfigured::NotJoined(Member { unit: u, .. }) if u == unit(9)),
        "{outcome:?}"
    );
    assert_eq!(net.latest().epoch.0, 1);
    net.append(1, 0, &["a"]);
}

#[test]
fn change_meant_for_an_earlier_projection_is_not_made() {
    let mut net = two_chains();
    let mut late = reconfigure(&net, Change::remove(unit(1)));
    let latest = net.reconfigure(Change::remove(unit(2)));
    assert_eq!(late.run(&mut net), Reconfigured::Overtaken(latest));
}

#[test]
fn store_put_back_to_an_older_copy_is_named_and_gets_no_second_projection() {
    let mut net = two_chains();
    let first = net.register.clone();
    net.reconfigure(Change::default());
    net.reconfigure(Change::default());
    net.append(1, 0, &["a"]);
    let newest = std::mem::replace(&mut net.register, first);
    // The sequencer is asked first; one that was started again says nothing of epochs.
    let sequencer = net.sequencers[&SEQUENCER].clone();
    for node in [Node::Sequencer(SEQUENCER), node(1)] {
        let outcome = reconfigure(&net, Change::default()).run(&mut net);
        let expected = StoreBehind { node, epoch: Epoch(3), latest: Epoch(1) };
        assert_eq!(outcome, Reconfigured::StoreBehind(expected));
        net.sequencers.insert(SEQUENCER, Sequencer::new(Instance(9)));
    }
    assert_eq!(net.latest().epoch, Epoch(1));
    // With the newest copy all is well.
    net.sequencers.insert(SEQUENCER, sequencer);
    net.register = newest;
    assert_eq!(net.append(1, 1, &["b"]).first, Position(1));
}

#[test]
fn copying_from_a_unit_that_lost_something_names_it() {
    let mut net = Net::new(&[&[1, 2]], 4);
    net.append(1, 0, &["a"]);
    net.append(1, 1, &["b"]);
    net.kill(1);
    net.reconfigure(Change::replace(unit(1), unit(9)));
    let mut damaged = Unit::new(unit(2), Limits::NONE, Rules::SOUND);
    damaged.replay(Record::State(*net.units[&unit(2)].state().unwrap()), None);
    damaged.replay(Record::Run(run(1, 0, &["a"])), None);
    damaged.set_damaged();
    net.units.insert(unit(2), damaged);
    let outcome = Driven::new(Transfer::new(net.latest())).run(&mut net);
    let loss = Loss { unit: unit(2), position: Position(1), differs: false };
    assert_eq!(outcome, Transferred::Corrupt(loss));
    let said = TransferError::Lost(loss).to_string();
    assert!(said.contains("unit 2 has lost position 1"), "{said}");
}

#[test]
fn sealed_log_takes_nothing_more_and_keeps_what_it_has() {
    let mut net = two_chains();
    for n in 0..3 {
        net.append(1, n, &["a"]);
    }
    let mut half = Driven::new(append(net.latest(), 2, 0, &["half"]));
    half.until(&mut net, |next| next.to == node(2) || next.to == node(4));
    let mut token = Driven::new(append(net.latest(), 3, 0, &["late"]));
    token.until(&mut net, |next| matches!(next.to, Node::Unit(_)));
    let sealed = net.reconfigure(Change::seal());
    assert_eq!((sealed.tail, sealed.sealed()), (Position(4), true));
    assert_eq!(committed(&half.run(&mut net)).first, Position(3));
    assert_eq!(token.run(&mut net), AppendOutcome::NotCommitted(Refusal::Sealed(Position(4))));
    assert_eq!(entries(&mut net).len(), 4);
    net.kill(2);
    net.reconfigure(Change::replace(unit(2), unit(9)));
    net.transfer();
    assert!(net.latest().sealed());
    assert_eq!(entries(&mut net).len(), 4);
    assert_eq!(net.latest().segments.len(), 1);
}

// ---- state transfer --------------------------------------------------------------------------------------

/// A cluster that lost unit 1 and got unit 9, which has to be copied to. Some positions are trimmed, one is a
/// hole, one is half written.
fn replaced() -> (Net, Driven<Append>) {
    let mut net = two_chains();
    for n in 0..12 {
        net.append(1, n, &[&format!("entry {n}")]);
    }
    Driven::new(Trim::new(net.latest(), Position(3))).run(&mut net);
    let mut dead = Driven::new(append(net.latest(), 2, 0, &["never"]));
    dead.until(&mut net, |next| matches!(next.to, Node::Unit(_)));
    let mut half = Driven::new(append(net.latest(), 3, 0, &["half"]));
    half.until(&mut net, |next| next.to == node(2) || next.to == node(4));
    net.append(1, 12, &["entry 12"]);
    net.kill(1);
    net.reconfigure(Change::replace(unit(1), unit(9)));
    net.append(1, 13, &["entry 13"]);
    (net, half)
}

fn assert_replaced(net: &mut Net, mut half: Driven<Append>) {
    // Only the head that died had it, or the other chain has it.
    committed(&half.run(net));
    let found: Vec<String> = entries(net).into_values().collect();
    for n in 3..14 {
        assert!(found.contains(&format!("entry {n}")), "entry {n}");
    }
    assert_eq!(found.iter().filter(|text| *text == "half").count(), 1);
    assert_eq!(found.len(), 12);
    assert_replicas_agree(net);
    // The unit that is left can go now.
    net.kill(2);
    net.reconfigure(Change::remove(unit(2)));
    assert_eq!(entries(net).into_values().collect::<Vec<_>>(), found);
}

#[test]
fn transfer_interrupted_after_any_step_starts_over() {
    for steps in 0.. {
        let (mut net, half) = replaced();
        let mut dying = Driven::new(Transfer::new(net.latest()));
        if (0..steps).any(|_| !dying.step(&mut net)) {
            assert!(steps > 6);
            break;
        }
        drop(dying);
        net.transfer();
        assert_replaced(&mut net, half);
    }
}

#[test]
fn transfer_goes_on_under_appends_and_another_epoch() {
    let (mut net, half) = replaced();
    let mut transfer = Driven::new(Transfer::new(net.latest()));
    let mut n = 0;
    while transfer.step(&mut net) {
        n += 1;
        if n % 3 == 0 {
            net.append(4, n, &["meanwhile"]);
        }
        if n == 7 {
            net.reconfigure(Change::default());
        }
    }
    let Transferred::Copied(members) = transfer.run(&mut net) else { panic!("it was copied") };
    net.reconfigure(Change::copied(members));
    let meanwhile = entries(&mut net).into_values().filter(|text| text == "meanwhile").count();
    assert_eq!(meanwhile as u64, n / 3);
    drop(half);
    assert_replicas_agree(&mut net);
}

#[test]
fn unit_that_joins_and_dies_is_replaced_in_turn() {
    let (mut net, half) = replaced();
    net.kill(9);
    net.units.insert(unit(8), Unit::new(unit(8), Limits::NONE, Rules::SOUND));
    net.reconfigure(Change::replace(unit(9), unit(8)));
    net.transfer();
    assert_replaced(&mut net, half);
}

#[test]
fn members_copied_twice_by_two_drivers_are_taken_in_once() {
    let (mut net, half) = replaced();
    let mut both = [Driven::new(Transfer::new(net.latest())), Driven::new(Transfer::new(net.latest()))];
    while both[0].step(&mut net) | both[1].step(&mut net) {}
    let latest = net.latest();
    for transfer in &mut both {
        let Transferred::Copied(members) = transfer.run(&mut net) else { panic!("it was copied") };
        let change = Change::copied(members);
        drop(Driven::new(Reconfigure::new(Arc::clone(&latest), change, Rules::SOUND)).run(&mut net));
    }
    assert_eq!(net.latest().epoch, latest.epoch.next());
    assert_replaced(&mut net, half);
}
