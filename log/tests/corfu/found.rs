//! Founding a log: interrupted after each step and begun again, by two at once, and when there is one already.

use mixlog_log::LogId;
use mixlog_log::corfu::{Epoch, Instance, Reconfigured, Sequencer};

use crate::harness::{Net, SEQUENCER, found, unit};

const CHAINS: &[&[u32]] = &[&[1, 2], &[3, 4]];

/// All units are of one log, and it takes appends.
fn assert_founded(net: &mut Net, what: &str) {
    let latest = net.latest();
    for member in latest.members() {
        let state = net.units[&member.unit].state().unwrap_or_else(|| panic!("{what}: unit {member}"));
        assert_eq!((state.log, state.joined), (latest.log, member.joined), "{what}: unit {member}");
    }
    let before = net.append(1, 0, &["a", "b"]);
    assert_eq!(net.entry(before.first.0).as_deref(), Some("a"), "{what}");
}

#[test]
fn founder_that_dies_after_any_step_is_followed_by_another() {
    for answer_lost in [false, true] {
        for steps in 0.. {
            let mut net = Net::unfounded(CHAINS);
            let mut dying = found(7, CHAINS, 2);
            if (0..steps).any(|_| !dying.step(&mut net)) {
                break;
            }
            if answer_lost && dying.next().is_some() {
                dying.step_answer_lost(&mut net);
            }
            drop(dying);
            // Also when the sequencer was started again, as it is with the whole cluster.
            net.sequencers.insert(SEQUENCER, Sequencer::new(Instance(2)));
            let what = format!("{steps} steps, answer lost: {answer_lost}");
            match found(8, CHAINS, 2).run(&mut net) {
                Reconfigured::Installed(_) => assert_founded(&mut net, &what),
                // It had come so far, and what is left to do is to tell the sequencer, as after any restart.
                Reconfigured::Overtaken(latest) => {
                    assert_eq!((latest.log, latest.epoch), (LogId(7), Epoch(1)), "{what}");
                    net.reconfigure(mixlog_log::corfu::Change::default());
                    assert_founded(&mut net, &what);
                }
                other => panic!("{what}: {other:?}"),
            }
        }
    }
}

#[test]
fn founder_that_comes_late_changes_nothing() {
    for steps in 0.. {
        let mut net = Net::unfounded(CHAINS);
        let mut late = found(7, CHAINS, 2);
        if (0..steps).any(|_| !late.step(&mut net)) {
            break;
        }
        let first = found(8, CHAINS, 2).run(&mut net);
        let (Reconfigured::Installed(latest) | Reconfigured::Overtaken(latest)) = first else {
            panic!("{steps} steps: {first:?}")
        };
        net.append(1, 0, &["acknowledged"]);
        let outcome = late.run(&mut net);
        let (Reconfigured::Installed(seen) | Reconfigured::Overtaken(seen)) = outcome else {
            panic!("{steps} steps: {outcome:?}")
        };
        assert_eq!((&seen, &net.latest()), (&latest, &latest), "{steps} steps");
        assert_eq!(net.entry(0).as_deref(), Some("acknowledged"), "{steps} steps");
        net.append(1, 1, &["more"]);
    }
}

#[test]
fn founder_with_other_chains_takes_units_over_that_had_joined() {
    for steps in 0.. {
        let mut net = Net::unfounded(CHAINS);
        let mut dying = found(7, CHAINS, 2);
        if (0..steps).any(|_| !dying.step(&mut net)) || net.register.latest().is_some() {
            break;
        }
        let founded = found(8, &[&[9, 1]], 2).run(&mut net);
        assert!(matches!(founded, Reconfigured::Installed(_)), "{steps} steps: {founded:?}");
        assert_founded(&mut net, &format!("{steps} steps"));
        // Those that the first one had asked are spares of the same log.
        net.reconfigure(mixlog_log::corfu::Change::replace(unit(1), unit(2)));
        net.transfer();
        net.append(1, 1, &["c"]);
        assert_eq!(net.entry(0).as_deref(), Some("a"), "{steps} steps");
    }
}

#[test]
fn units_of_another_log_are_not_taken_over() {
    let mut net = Net::new(CHAINS, 2);
    net.append(1, 0, &["a"]);
    // A projection store that knows nothing of them.
    net.register = Default::default();
    let outcome = found(8, CHAINS, 2).run(&mut net);
    assert!(matches!(outcome, Reconfigured::NotJoined(_)), "{outcome:?}");
    assert_eq!(net.units[&unit(1)].state().map(|state| state.log), Some(LogId(7)));
}
