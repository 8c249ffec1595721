//! What one round of a monitor makes of answers that are given here.

use super::super::message::{Instance, Standing, StoreReply};
use super::super::plan::Found as Sealed;
use super::*;
use crate::LogId;

/// Roles that say what they are told to; the store has `projection`.
struct Roles {
    projection: Arc<Projection>,
    units: Mutex<BTreeMap<UnitNumber, UnitReply>>,
}

impl Roles {
    fn say(&self, unit: u32, reply: UnitReply) {
        self.units.lock().unwrap().insert(UnitNumber(unit), reply);
    }

    fn reach(&self, unit: u32, reach: u64) {
        let (epoch, reach) = (self.projection.epoch, Position(reach));
        let (trimmed, committed) = (Position::ZERO, Position::ZERO);
        self.say(unit, UnitReply::Standing(Standing { epoch, reach, trimmed, committed }));
    }
}

impl Transport for Roles {
    fn send(&self, to: Node, request: Request, reply: ReplyTo) {
        match (to, request) {
            (Node::Unit(unit), Request::Unit(UnitRequest { verb: UnitVerb::Probe, .. })) => {
                if let Some(said) = self.units.lock().unwrap().get(&unit) {
                    reply.answer(Reply::Unit(said.clone()));
                }
            }
            (Node::Sequencer(_), _) => reply.answer(Reply::Sequencer(SequencerReply::Tail(Position::ZERO))),
            (Node::Store, Request::Store(_)) => {
                reply.answer(Reply::Store(StoreReply::Latest(Some(Arc::clone(&self.projection)))));
            }
            _ => {}
        }
    }
}

/// A monitor of these chains that has not begun, and what it reports.
fn watch(chains: &[&[u32]]) -> (Watch, Arc<Roles>, Arc<Mutex<Vec<MonitorEvent>>>) {
    let chains = chains.iter().map(|chain| chain.iter().copied().map(UnitNumber).collect()).collect();
    let change = Change { sequencer: Some(SequencerNumber(1)), ..Change::grow(chains) };
    let (tail, trimmed, silent) = (Position::ZERO, Position::ZERO, Vec::new());
    let sealed = Sealed { tail, trimmed, silent, instance: Some(Instance(7)) };
    let projection = Arc::new(Projection::blank(LogId(1), 10).next(&change, &sealed).unwrap());
    let roles = Arc::new(Roles { projection, units: Mutex::default() });
    let reported = Arc::new(Mutex::new(Vec::new()));
    let report = Arc::clone(&reported);
    let config = MonitorConfig { misses: 2, ..MonitorConfig::default() };
    let report = move |event: &MonitorEvent| report.lock().unwrap().push(event.clone());
    let watch = Watch::new(Arc::<Roles>::clone(&roles), config, Vec::new, report);
    (watch, roles, reported)
}

#[test]
fn unit_that_reaches_less_far_than_it_did_is_lost_where_another_one_has_it_all() {
    let (mut watch, roles, reported) = watch(&[&[1, 2]]);
    let projection = Arc::clone(&roles.projection);
    for reach in [10, 10, 17] {
        roles.reach(1, reach);
        roles.reach(2, reach - 3);
        assert_eq!(
            watch.look(&projection).lost,
            BTreeMap::new(),
            "the last unit is behind, and has lost nothing"
        );
    }
    roles.reach(1, 16);
    let trouble = Trouble::Shrunk { reach: Position(16), before: Position(17) };
    for _ in 0..2 {
        let found = watch.look(&projection);
        assert_eq!(found.lost, BTreeMap::from([(UnitNumber(1), trouble)]));
        let change = watch.decide(&projection, &found).expect("it is left out");
        assert_eq!(change.lost, [UnitNumber(1)]);
    }
    // It was only asked by somebody who mistook it for another, or got it all back.
    roles.reach(1, 18);
    assert_eq!(watch.look(&projection).lost, BTreeMap::new());
    assert!(reported.lock().unwrap().is_empty());
}

#[test]
fn unit_that_reaches_less_far_and_is_alone_stays_and_that_is_reported_once() {
    let (mut watch, roles, reported) = watch(&[&[1], &[2, 3]]);
    let projection = Arc::clone(&roles.projection);
    for reach in [10, 4, 4] {
        roles.reach(1, reach);
        roles.reach(2, 10);
        roles.reach(3, 10);
        assert_eq!(watch.look(&projection).lost, BTreeMap::new());
    }
    let trouble = Trouble::Shrunk { reach: Position(4), before: Position(10) };
    assert_eq!(*reported.lock().unwrap(), [MonitorEvent::Spared(UnitNumber(1), trouble)]);
}

#[test]
fn chain_that_is_lost_is_reported_with_what_is_wrong_with_each_unit() {
    let (mut watch, roles, reported) = watch(&[&[1, 2], &[3, 4]]);
    roles.say(1, UnitReply::Corrupt(Position(0)));
    roles.say(2, UnitReply::Stranger(None));
    roles.reach(3, 10);
    // Nothing is said of unit 4 until it counts as dead.
    watch.round();
    let events = reported.lock().unwrap().clone();
    let units = vec![(UnitNumber(1), Trouble::Damaged), (UnitNumber(2), Trouble::Empty)];
    assert_eq!(events, [MonitorEvent::Waiting { position: Position(0), units }]);
    let said = events[0].to_string();
    assert!(said.contains("unit 1 has damaged files; unit 2 has nothing of what it had"), "{said}");
}

#[test]
fn store_that_is_behind_its_units_is_reported_once_and_nothing_is_changed() {
    let (mut watch, roles, reported) = watch(&[&[1, 2]]);
    roles.reach(1, 10);
    // One epoch more is a change that was interrupted.
    roles.say(2, UnitReply::Sealed(Epoch(2)));
    assert_eq!(watch.look(&roles.projection).behind, None);
    roles.say(2, UnitReply::Sealed(Epoch(3)));
    for round in 1..6 {
        watch.round();
        assert_eq!(reported.lock().unwrap().len(), usize::from(round >= 2), "not before it was seen twice");
    }
    let behind = StoreBehind { node: Node::Unit(UnitNumber(2)), epoch: Epoch(3), latest: Epoch(1) };
    assert_eq!(*reported.lock().unwrap(), [MonitorEvent::StoreBehind(behind)]);
}
