//! Isolation: no anomaly of Adya's, under any interleaving, for procedures and for interactive transactions, and
//! whoever begins after an acknowledgement sees what was acknowledged.
//!
//! * [`scenarios`]: the anomalies, and checks that object to them;
//! * [`script`]: transactions as lists of steps;
//! * [`history`]: what happened, against one by one;
//! * [`race`]: many rounds at once, by several clients;
//! * [`interleaving`]: interactive transactions, statement by statement;
//! * [`real_time`]: acknowledged means seen.

mod history;
mod interleaving;
mod race;
mod real_time;
mod scenarios;
mod script;

use history::{End, History, Ran, before, rows};
use race::{Races, configs};
use scenarios::SCENARIOS;
use script::{Kind, Place, Says, take_all};

/// How many rounds of each scenario are raced as procedures, and as many as interactive transactions. More with
/// MIXLOG_ISOLATION_ROUNDS=N.
fn rounds() -> usize {
    let asked = std::env::var("MIXLOG_ISOLATION_ROUNDS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(0).max(1000)
}

/// How many qualities of footprints the rounds are distributed over.
const QUALITIES: usize = 6;

/// A number without pattern, the same in every run.
fn dice(round: u64, transaction: usize) -> u64 {
    (round * 8 + transaction as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}

fn too_little(round: u64, transaction: usize) -> Says {
    const LITTLE: [Says; 4] = [Says::WithoutOne, Says::ReadsOnly, Says::WritesOnly, Says::MergesAlone];
    LITTLE[dice(round, transaction) as usize % LITTLE.len()]
}

fn race(says: impl Fn(u64, usize) -> Says + Sync) -> Races {
    let mut races = Races::default();
    let share = rounds().div_ceil(QUALITIES * configs().count());
    for (shift, config) in configs().enumerate() {
        race::procedures(config, share, shift, &says, &mut races);
    }
    println!("{races}");
    races.assert_raced();
    races
}

#[test]
fn procedures_with_exact_footprints_show_no_anomaly() {
    let races = race(|_, _| Says::Exact);
    assert_eq!(races.violations, 0);
}

#[test]
fn procedures_whose_footprints_are_found_show_no_anomaly() {
    let races = race(|_, _| Says::ToBeFound);
    assert!(races.adopted > 0);
}

#[test]
fn procedures_that_declare_too_little_show_no_anomaly() {
    assert!(race(too_little).replays > 0);
}

#[test]
fn procedures_that_declare_nothing_show_no_anomaly() {
    assert!(race(|_, _| Says::Empty).replays > 0);
}

#[test]
fn procedures_of_which_few_declare_too_little_show_no_anomaly() {
    let few = |round, transaction| match dice(round, transaction) % 100 {
        0 => too_little(round, transaction + 1),
        n if n % 2 == 0 => Says::Exact,
        _ => Says::ToBeFound,
    };
    assert!(race(few).replays > 0);
}

#[test]
fn procedures_with_mixed_footprints_show_no_anomaly() {
    const ALL: [Says; 9] = [
        Says::Exact,
        Says::ToBeFound,
        Says::Unknown,
        Says::TooMuch,
        Says::Empty,
        Says::WithoutOne,
        Says::ReadsOnly,
        Says::WritesOnly,
        Says::MergesAlone,
    ];
    let races = race(|round, transaction| ALL[dice(round, transaction) as usize % ALL.len()]);
    assert!(races.replays > 0);
}

#[test]
fn interactive_transactions_show_no_anomaly() {
    let mut races = Races::default();
    let share = rounds().div_ceil(configs().count());
    for (shift, config) in configs().enumerate() {
        race::interactive(config, share, shift, &mut races);
    }
    println!("{races}");
    races.assert_raced();
    assert!(races.refused > races.rounds / 1000, "too few met: {races:?}");
    assert_eq!(races.violations, 0, "an intention knows its footprint");
}

/// Calls `f` with all orders of `0..n`.
fn permutations(n: usize, f: &mut impl FnMut(&[usize])) {
    fn extend(n: usize, order: &mut Vec<usize>, f: &mut impl FnMut(&[usize])) {
        if order.len() == n {
            return f(order);
        }
        for i in 0..n {
            if !order.contains(&i) {
                order.push(i);
                extend(n, order, f);
                order.pop();
            }
        }
    }
    extend(n, &mut Vec::new(), f);
}

#[test]
fn every_check_objects_to_its_anomalies() {
    for scenario in SCENARIOS {
        let forbidden = (scenario.forbidden)();
        assert!(!forbidden.is_empty(), "{}", scenario.name);
        for history in forbidden {
            assert_eq!(history.ran.len(), scenario.transactions.len(), "{}", scenario.name);
            assert!((scenario.check)(&history).is_err(), "{}: {history:?}", scenario.name);
        }
    }
}

/// One by one, in some order, with positions if asked for.
fn serial(scenario: &scenarios::Scenario, place: Place, order: &[usize]) -> History {
    let mut state = before(scenario, place);
    let mut ran: Vec<Option<Ran>> = vec![None; order.len()];
    for (position, &i) in (0..).zip(order) {
        let mut next = state.clone();
        let (reads, end) = take_all(scenario.transactions[i], &mut next, place);
        let end = if end.is_ok() { End::Committed } else { End::Aborted };
        if end == End::Committed {
            state = next;
        }
        ran[i] = Some(Ran { end, reads, at: Some(mixlog::Position(position)), after: false });
    }
    History { ran: ran.into_iter().flatten().collect(), left: rows(&state, place) }
}

#[test]
fn every_check_accepts_all_serial_histories() {
    let place = Place { kind: Kind::Rows, round: 3 };
    for scenario in SCENARIOS {
        permutations(scenario.transactions.len(), &mut |order| {
            serial(scenario, place, order).check(scenario, place);
        });
    }
}

/// The comparison with one by one objects to a wrong order, a wrong read, and a wrong row.
#[test]
fn the_model_objects_to_every_other_order_that_shows() {
    let place = Place { kind: Kind::Rows, round: 3 };
    for scenario in SCENARIOS {
        let n = scenario.transactions.len();
        let mut first = None;
        let mut told_apart = 0;
        permutations(n, &mut |order| {
            let mut history = serial(scenario, place, order);
            let content =
                |h: &History| (h.ran.iter().map(|ran| ran.reads.clone()).collect::<Vec<_>>(), h.left.clone());
            let first = first.get_or_insert_with(|| content(&history));
            let differs = *first != content(&history);
            // Positions that claim the first order.
            (0..).zip(&mut history.ran).for_each(|(i, ran)| ran.at = Some(mixlog::Position(i)));
            assert_eq!(history.is_serial(scenario, place).is_err(), differs, "{}: {order:?}", scenario.name);
            told_apart += usize::from(differs);
            history.left.push((15, 1));
            assert!(history.is_serial(scenario, place).is_err());
        });
        assert!(told_apart > 0 || scenario.name.starts_with("G1a"), "{}: no order shows", scenario.name);
    }
}
