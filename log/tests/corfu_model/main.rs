//! The CORFU protocol, explored by a model checker: every order of everything that can happen in a few small
//! clusters, with the production state machines as the state. What must be true is I1 to I9:
//!
//! * I1 what is written on a unit never changes while it is the same member; I8 what was read stays so;
//! * I2 what a unit of a chain has, all units before it have; so has the head what a unit that joins has;
//! * I3 what was acknowledged is on all units of its chain, once;
//! * I4 a unit that is sealed serves no earlier epoch;
//! * I5 each projection keeps, of every chain, a unit that was sealed for it and lost nothing;
//! * I6 its tail lies after everything that was acknowledged;
//! * I7 a token is used in its own epoch only;
//! * I9 a unit that has lost data never says that nothing is written there, and takes nothing until it joins anew;
//!   meanwhile I2 and I3 are about the units that have not;
//! * an append lies after all that were acknowledged before it began, and so does a tail, and a read finds them: with
//!   the above, every history is linearizable.
//!
//! The whole is too large to be explored in one piece, so there are several small scenarios, each exhaustive up
//! to a number of inputs for each client. `MIXLOG_MODEL_INPUTS=N` lets each have N more.
#![cfg(not(loom))]

mod disks;
mod world;

use mixlog_log::corfu::{Change, Join, Rules, UnitNumber};
use stateright::{Checker, Model, Property};

use crate::world::{Action, Budget, Mending, Step, World};

/// Some clients in a small cluster.
#[derive(Clone)]
struct Scenario {
    chains: &'static [&'static [u32]],
    /// What was done before, so that the exploration begins half way.
    before: Vec<Step>,
    scripts: Vec<Vec<Step>>,
    budget: Budget,
    /// How many inputs each client takes at most.
    inputs: Vec<usize>,
    rules: Rules,
}

impl Model for Scenario {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.chains, &self.before, &self.scripts, self.budget, self.rules)]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Action>) {
        state.actions(&self.inputs, actions);
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        Some(last.after(action, self.rules))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing forbidden was done", |_, state: &World| state.flaws.is_empty()),
            Property::always("I2: chains are prefixes", |_, state: &World| state.chains_are_prefixes()),
            Property::always("I3: acknowledged is there", |_, state: &World| state.acknowledged_are_there()),
            Property::always("entries are there once", |_, state: &World| state.entries_are_there_once()),
            Property::always(DENIED, |_, state: &World| state.nothing_is_denied()),
            Property::sometimes("all comes to an end", |_, state: &World| state.is_over()),
        ]
    }
}

const DENIED: &str = "I9: what was lost is not unwritten";

const ALWAYS: [&str; 5] = [
    "nothing forbidden was done",
    "I2: chains are prefixes",
    "I3: acknowledged is there",
    "entries are there once",
    DENIED,
];

const NONE: Budget = Budget {
    late: 0,
    unit_deaths: 0,
    unit_returns: 0,
    client_deaths: 0,
    back: 0,
    restarts: 0,
    damages: 0,
    unnoticed: 0,
};

const DAMAGE: Budget = Budget { damages: 1, ..NONE };

const LATE: Budget = Budget { late: 1, ..NONE };

fn remove(unit: u32) -> Step {
    Step::Reconfigure(Change::remove(UnitNumber(unit)))
}

fn renew() -> Step {
    Step::Reconfigure(Change::default())
}

/// Two clients append to two chains of two while the epoch changes.
fn two_chains(rules: Rules) -> Scenario {
    Scenario {
        chains: &[&[1, 2], &[3, 4]],
        before: vec![],
        scripts: vec![vec![Step::Append("a")], vec![Step::Append("b")], vec![renew()]],
        budget: Budget::default(),
        inputs: vec![11; 3],
        rules,
    }
}

/// Two chains of two: one client appends, another one reads and asks for the tail, while the epoch changes.
fn reader(rules: Rules) -> Scenario {
    Scenario {
        chains: &[&[1, 2], &[3, 4]],
        before: vec![],
        scripts: vec![vec![Step::Append("a")], vec![Step::Read, Step::Tail, Step::Read], vec![renew()]],
        budget: NONE,
        inputs: vec![11; 3],
        rules,
    }
}

/// A janitor settles what one client was given and has not written, or does now, while the epoch changes.
fn janitor(rules: Rules) -> Scenario {
    Scenario {
        chains: &[&[1, 2]],
        before: vec![],
        scripts: vec![vec![Step::Append("a")], vec![Step::Sweep], vec![renew()]],
        budget: NONE,
        inputs: vec![11, 16, 11],
        rules,
    }
}

/// A unit is cut off, a driver goes on without it, and it is there again for whoever still asks it.
fn unit_returns(rules: Rules) -> Scenario {
    Scenario {
        chains: &[&[1, 2]],
        before: vec![],
        scripts: vec![vec![Step::Append("a"), Step::Read], vec![Step::Read], vec![remove(2)]],
        budget: Budget { unit_deaths: 1, unit_returns: 1, ..NONE },
        inputs: vec![12; 3],
        rules,
    }
}

/// The sequencer starts anew, and knows nothing, while two clients append and a driver makes a new epoch.
fn sequencer_restarts(rules: Rules) -> Scenario {
    Scenario {
        chains: &[&[1, 2]],
        before: vec![Step::Append("before")],
        scripts: vec![vec![Step::Append("a")], vec![Step::Append("b"), Step::Tail], vec![renew()]],
        budget: Budget { restarts: 1, ..NONE },
        inputs: vec![11; 3],
        rules,
    }
}

/// One chain: one client appends, another one appends and asks for the tail, and a request comes late.
fn one_chain(rules: Rules) -> Scenario {
    Scenario {
        chains: &[&[1, 2]],
        before: vec![],
        scripts: vec![vec![Step::Append("a")], vec![Step::Append("b"), Step::Tail], vec![renew()]],
        budget: LATE,
        inputs: vec![11; 3],
        rules,
    }
}

/// One chain: one client appends and may die, another one looks at the first position, and fills it.
fn filler(rules: Rules) -> Scenario {
    Scenario {
        chains: &[&[1, 2]],
        before: vec![],
        scripts: vec![vec![Step::Append("a")], vec![Step::Fill, Step::Append("b")], vec![renew()]],
        budget: Budget { client_deaths: 1, ..Budget::default() },
        inputs: vec![11; 3],
        rules,
    }
}

/// Two drivers make different changes; a unit dies.
fn two_drivers(rules: Rules) -> Scenario {
    Scenario {
        chains: &[&[1, 2]],
        before: vec![],
        scripts: vec![vec![Step::Append("a")], vec![renew()], vec![remove(1)]],
        budget: Budget { unit_deaths: 1, ..Budget::default() },
        inputs: vec![12; 3],
        rules,
    }
}

/// The sequencer goes back to what it was, and gives one position to two clients who append the same.
fn sequencer_goes_back(rules: Rules) -> Scenario {
    Scenario {
        chains: &[&[1, 2]],
        before: vec![],
        scripts: vec![vec![Step::Append("same")], vec![Step::Append("same")]],
        budget: Budget { back: 1, ..LATE },
        inputs: vec![10; 2],
        rules,
    }
}

/// The tail is looked for while a chain's only unit takes what will be acknowledged.
fn late_append(rules: Rules) -> Scenario {
    Scenario {
        chains: &[&[1]],
        before: vec![],
        scripts: vec![vec![Step::Append("a")], vec![Step::Append("b")], vec![renew()]],
        budget: LATE,
        inputs: vec![10, 10, 12],
        rules,
    }
}

/// An entry is there; the last unit of its chain dies, and a driver goes on with the head.
fn last_unit_dies(rules: Rules) -> Scenario {
    Scenario {
        chains: &[&[1, 2]],
        before: vec![Step::Append("before")],
        scripts: vec![vec![Step::Append("a")], vec![Step::Append("b")], vec![renew()]],
        budget: Budget { unit_deaths: 1, ..Budget::default() },
        inputs: vec![10, 10, 20],
        rules,
    }
}

/// A head is removed while it may have what no other unit has, and joins again.
fn head_comes_back(rules: Rules) -> Scenario {
    let join = Join { beside: UnitNumber(2), unit: UnitNumber(1) };
    let join = Step::Reconfigure(Change { joins: vec![join], ..Change::default() });
    Scenario {
        chains: &[&[1, 2]],
        before: vec![Step::Append("before")],
        scripts: vec![vec![Step::Append("a")], vec![Step::Append("b")], vec![remove(1), join]],
        budget: Budget::default(),
        inputs: vec![9, 9, 22],
        rules,
    }
}

/// Two chains of two, with an entry on the first one; two clients append and any unit may die, while a driver
/// goes to the next epoch without the first head.
fn two_chains_with_a_crash(rules: Rules) -> Scenario {
    Scenario {
        chains: &[&[1, 2], &[3, 4]],
        before: vec![Step::Append("before")],
        scripts: vec![vec![Step::Append("a")], vec![Step::Append("b")], vec![remove(1)]],
        budget: Budget { unit_deaths: 1, ..Budget::default() },
        inputs: vec![10, 10, 12],
        rules,
    }
}

/// An entry is there; a unit loses what it remembered last, or all of it, and is removed, while one client appends and
/// another one reads.
fn damaged_unit(rules: Rules) -> Scenario {
    Scenario {
        chains: &[&[1, 2]],
        before: vec![Step::Append("before")],
        scripts: vec![
            vec![Step::Append("a")],
            vec![Step::ReadCommitted, Step::Read],
            vec![Step::Repair(Mending::Remove)],
        ],
        budget: DAMAGE,
        inputs: vec![11; 3],
        rules,
    }
}

/// The same, and another unit takes its place, while somebody fills.
fn damaged_unit_is_replaced(rules: Rules) -> Scenario {
    Scenario {
        chains: &[&[1, 2]],
        before: vec![Step::Append("before")],
        scripts: vec![
            vec![Step::Append("a")],
            vec![Step::Fill, Step::Tail],
            vec![Step::Repair(Mending::Replace(UnitNumber(3)))],
        ],
        budget: DAMAGE,
        inputs: vec![11, 11, 14],
        rules,
    }
}

/// A janitor settles what one client was given and has not written, or does now, while a unit loses something and is
/// removed.
fn damaged_unit_is_settled(rules: Rules) -> Scenario {
    Scenario {
        chains: &[&[1, 2]],
        before: vec![],
        scripts: vec![vec![Step::Append("a")], vec![Step::Sweep], vec![Step::Repair(Mending::Remove)]],
        budget: DAMAGE,
        inputs: vec![9, 12, 11],
        rules,
    }
}

/// A client appends and another one fills while a new epoch begins, and one more when a unit has lost something:
/// perhaps that it was sealed.
fn damaged_unit_was_sealed(rules: Rules) -> Scenario {
    Scenario {
        chains: &[&[1, 2]],
        before: vec![],
        scripts: vec![vec![Step::Append("a")], vec![Step::Fill], vec![renew(), Step::Repair(Mending::Renew)]],
        budget: DAMAGE,
        inputs: vec![9, 7, 17],
        rules,
    }
}

/// A unit loses what it remembered last, and does not notice, while somebody reads and somebody fills.
fn unit_cut_short(rules: Rules) -> Scenario {
    Scenario {
        chains: &[&[1, 2]],
        before: vec![Step::Append("before")],
        scripts: vec![vec![Step::Read], vec![Step::Fill]],
        budget: Budget { unnoticed: 1, ..NONE },
        inputs: vec![10; 2],
        rules,
    }
}

fn more_inputs() -> usize {
    let text = std::env::var("MIXLOG_MODEL_INPUTS");
    text.map_or(0, |text| text.parse().expect("MIXLOG_MODEL_INPUTS is a number"))
}

/// Explores everything, and finds nothing wrong.
fn assert_sound(name: &str, scenario: impl Fn(Rules) -> Scenario) {
    let mut scenario = scenario(Rules::SOUND);
    scenario.inputs.iter_mut().for_each(|inputs| *inputs += more_inputs());
    let inputs = scenario.inputs.clone();
    let checker = scenario.checker().threads(2).spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {states} states, {depth} deep, {inputs:?} inputs of the clients");
    for property in ALWAYS {
        if let Some(path) = checker.discovery(property) {
            let flaws = path.last_state().flaws.clone();
            panic!("{name}: {property}, {flaws:?}: {:?}", path.into_actions());
        }
    }
    // Otherwise the bound has cut off what matters.
    assert!(checker.discovery("all comes to an end").is_some(), "{name}: no run comes to its end");
}

/// Finds a counter-example when one rule is broken, and says of which properties.
fn assert_found(name: &str, scenario: impl Fn(Rules) -> Scenario, rules: Rules) -> Vec<&'static str> {
    let checker = scenario(rules).checker().threads(2).spawn_bfs().join();
    let found: Vec<_> = ALWAYS.iter().filter_map(|name| Some((*name, checker.discovery(name)?))).collect();
    assert!(!found.is_empty(), "{name}: not found in {} states", checker.unique_state_count());
    let properties = found.iter().map(|(property, _)| *property).collect();
    for (property, path) in found {
        let flaws = path.last_state().flaws.clone();
        let actions = path.into_actions();
        println!("{name}: {property}, {:?}: {actions:?}", flaws);
    }
    properties
}

#[test]
fn two_chains_are_sound() {
    assert_sound("two chains", two_chains);
}

#[test]
fn reader_is_sound() {
    assert_sound("a reader", reader);
}

#[test]
fn janitor_is_sound() {
    assert_sound("a janitor", janitor);
}

#[test]
fn unit_that_returns_is_sound() {
    assert_sound("a unit returns", unit_returns);
}

#[test]
fn sequencer_that_restarts_is_sound() {
    assert_sound("the sequencer restarts", sequencer_restarts);
}

#[test]
fn one_chain_is_sound() {
    assert_sound("one chain", one_chain);
}

#[test]
fn filler_is_sound() {
    assert_sound("a filler", filler);
}

#[test]
fn two_drivers_are_sound() {
    assert_sound("two drivers", two_drivers);
}

#[test]
fn late_append_is_sound() {
    assert_sound("a late append", late_append);
}

#[test]
fn last_unit_that_dies_is_sound() {
    assert_sound("the last unit dies", last_unit_dies);
}

#[test]
fn head_that_comes_back_is_sound() {
    assert_sound("a head comes back", head_comes_back);
}

#[test]
fn two_chains_with_a_crash_are_sound() {
    assert_sound("two chains and a crash", two_chains_with_a_crash);
}

#[test]
fn damaged_unit_is_sound() {
    assert_sound("a damaged unit", damaged_unit);
}

#[test]
fn damaged_unit_that_is_replaced_is_sound() {
    assert_sound("a damaged unit is replaced", damaged_unit_is_replaced);
}

#[test]
fn damaged_unit_that_is_settled_is_sound() {
    assert_sound("a damaged unit is settled", damaged_unit_is_settled);
}

#[test]
fn damaged_unit_that_was_sealed_is_sound() {
    assert_sound("a damaged unit was sealed", damaged_unit_was_sealed);
}

#[test]
fn unit_that_does_not_notice_what_it_lost_is_found() {
    let found = assert_found("a unit is cut short", unit_cut_short, Rules::SOUND);
    assert!(found.contains(&DENIED), "{found:?}");
}

#[test]
fn heads_that_are_not_sealed_are_found() {
    assert_found("heads are not sealed", last_unit_dies, Rules { seal_every_unit: false, ..Rules::SOUND });
}

#[test]
fn units_that_join_with_what_they_had_are_found() {
    assert_found("joining does not empty", head_comes_back, Rules { join_empties: false, ..Rules::SOUND });
}

#[test]
fn recovery_that_is_not_fenced_is_found() {
    assert_found("recovery is not fenced", late_append, Rules { fenced_recovery: false, ..Rules::SOUND });
}

#[test]
fn sequencer_that_goes_back_costs_order_only() {
    // Order of appends is what a sequencer is there for; everything else does not depend on it.
    let scenario = sequencer_goes_back(Rules::SOUND);
    let checker = scenario.checker().threads(2).spawn_bfs().join();
    println!("the sequencer goes back: {} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn tokens_without_epochs_are_found() {
    assert_found("tokens have no epoch", one_chain, Rules { tokens_have_epochs: false, ..Rules::SOUND });
}

#[test]
fn bytes_compared_instead_of_ids_are_found() {
    assert_found("bytes are compared", sequencer_goes_back, Rules { compare_ids: false, ..Rules::SOUND });
}
