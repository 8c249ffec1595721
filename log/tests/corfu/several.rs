//! Several appends of one client under way, and what may come between them at every single step: whatever does, the
//! log has what was acknowledged, in order, once, and nothing else.

use std::collections::VecDeque;
use std::sync::Arc;

use mixlog_log::Position;
use mixlog_log::corfu::{
    AppendOutcome, Appends, Change, ClientId, Entries, EntryId, Input, Operation, Outbox, Refusal, Rules,
    SequencerReply, SequencerRequest, SequencerVerb, Window,
};

use crate::harness::{Driven, Net, SEQUENCER, batch, unit};

/// Appends these batches, several at a time.
#[derive(Clone)]
struct Several {
    appends: Appends,
    left: VecDeque<(EntryId, Arc<Entries>)>,
    outcomes: Vec<(u32, AppendOutcome)>,
    most_under_way: usize,
}

impl Operation for Several {
    type Outcome = Vec<(u32, AppendOutcome)>;

    fn step(&mut self, input: Input, out: &mut Outbox) -> Option<Self::Outcome> {
        self.appends.step(input, out);
        while let Some(ended) = self.appends.next_ended() {
            self.outcomes.push((ended.count, ended.outcome));
        }
        while self.appends.wants()
            && let Some((id, entries)) = self.left.pop_front()
        {
            self.appends.offer(id, entries, out);
        }
        self.most_under_way = self.most_under_way.max(self.appends.under_way());
        (self.left.is_empty() && self.appends.is_idle()).then(|| self.outcomes.clone())
    }
}

const BATCHES: [&[&str]; 6] = [&["a"], &["b", "c"], &["d"], &["e", "f", "g"], &["h"], &["i"]];

fn several(net: &Net) -> Driven<Several> {
    let mut sequence = 0;
    let left = BATCHES.iter().map(|entries| {
        let id = EntryId { client: ClientId(1), sequence };
        sequence += entries.len() as u64;
        (id, Arc::new(Entries::indivisible(batch(entries))))
    });
    let window = Window { runs: 4, bytes: usize::MAX };
    let appends = Appends::new(net.latest(), window, Rules::SOUND);
    Driven::new(Several { appends, left: left.collect(), outcomes: Vec::new(), most_under_way: 0 })
}

/// Where the next token starts.
fn tail(net: &mut Net) -> u64 {
    let epoch = net.latest().epoch;
    let sequencer = net.sequencers.get_mut(&SEQUENCER).expect("there is one");
    match sequencer.handle(&SequencerRequest { epoch, verb: SequencerVerb::Tail }) {
        SequencerReply::Tail(tail) => tail.0,
        other => panic!("{other:?}"),
    }
}

/// What was acknowledged is what the log holds, in this order.
fn assert_log_holds(net: &mut Net, outcomes: &[(u32, AppendOutcome)], name: &str) {
    let mut entries = BATCHES.iter().flat_map(|batch| batch.iter());
    let mut acknowledged = Vec::new();
    let mut places = Vec::new();
    for (count, outcome) in outcomes {
        let these: Vec<String> = entries.by_ref().take(*count as usize).map(ToString::to_string).collect();
        match outcome {
            AppendOutcome::Committed(appended) => {
                assert_eq!(appended.count, *count, "{name}");
                places.extend((0..u64::from(*count)).map(|n| appended.first.plus(n)));
                acknowledged.extend(these);
            }
            AppendOutcome::NotCommitted(_) => {}
            AppendOutcome::Indeterminate(_) => panic!("{name}: nothing is trimmed"),
        }
    }
    assert_eq!(entries.next(), None, "{name}: every batch has an outcome");
    let tail = tail(net);
    net.fill(0, tail);
    let held: Vec<(Position, String)> =
        (0..tail).filter_map(|position| Some((Position(position), net.entry(position)?))).collect();
    let expected: Vec<_> = places.into_iter().zip(acknowledged).collect();
    assert_eq!(held, expected, "{name}");
}

/// What comes between.
type Event = (&'static str, fn(&mut Net));

const EVENTS: [Event; 6] = [
    ("the epoch ends", |net| {
        net.reconfigure(Change::default());
    }),
    ("the head is lost", |net| {
        net.kill(1);
        net.reconfigure(Change::remove(unit(1)));
    }),
    ("the last unit is lost", |net| {
        net.kill(2);
        net.reconfigure(Change::remove(unit(2)));
    }),
    ("the head is lost and replaced", |net| {
        net.kill(1);
        net.reconfigure(Change::replace(unit(1), unit(9)));
        net.transfer();
    }),
    ("a reader fills all holes", |net| {
        let tail = tail(net);
        net.fill(0, tail);
    }),
    ("a reader fills the last hole", |net| {
        let tail = tail(net);
        net.fill(tail.saturating_sub(1), tail);
    }),
];

/// Does `events` one after the other, `gap` steps between them, from every step on.
fn at_every_step(chains: &[&[u32]], width: u32, events: &[Event], gap: usize) {
    for at in 0.. {
        let mut net = Net::new(chains, width);
        let mut appends = several(&net);
        let mut over = false;
        let names: Vec<&str> = events.iter().map(|(name, _)| *name).collect();
        for (number, (_, event)) in events.iter().enumerate() {
            let steps = if number == 0 { at } else { gap };
            let ended = !(0..steps).all(|_| appends.step(&mut net));
            over |= ended || appends.is_done();
            event(&mut net);
        }
        let outcomes = appends.run(&mut net);
        let overtaken =
            |(_, outcome): &(u32, AppendOutcome)| *outcome == AppendOutcome::NotCommitted(Refusal::Overtaken);
        assert!(!outcomes.iter().any(overtaken) || names.contains(&"a reader fills the last hole"));
        assert_log_holds(&mut net, &outcomes, &format!("{names:?} at step {at}, {chains:?}"));
        if over {
            assert!(at > 10, "it takes more steps");
            return;
        }
    }
}

#[test]
fn several_batches_are_under_way_and_stay_in_order() {
    for (chains, width) in [(&[&[1, 2][..]][..], 16), (&[&[1, 2, 3]], 4)] {
        let mut net = Net::new(chains, width);
        let mut appends = several(&net);
        let mut under_way = 0;
        while appends.step(&mut net) {
            under_way = under_way.max(appends.operation().most_under_way);
        }
        assert!(under_way > 1 && under_way <= 4, "{under_way} under way");
        let outcomes = appends.run(&mut net);
        assert_eq!(outcomes.len(), BATCHES.len());
        assert_log_holds(&mut net, &outcomes, "in peace");
    }
}

#[test]
fn one_event_between_several_batches_neither_loses_doubles_nor_turns_any() {
    for event in EVENTS {
        at_every_step(&[&[1, 2]], 16, &[event], 0);
        at_every_step(&[&[1, 2]], 4, &[event], 0);
        at_every_step(&[&[1, 2], &[3, 4]], 3, &[event], 0);
    }
}

#[test]
fn two_events_between_several_batches_neither_lose_double_nor_turn_any() {
    let find = |wanted: &str| *EVENTS.iter().find(|(name, _)| *name == wanted).expect("an event");
    let fills = [find("a reader fills all holes"), find("a reader fills the last hole")];
    let losses = [
        find("the epoch ends"),
        find("the head is lost"),
        find("the last unit is lost"),
        find("the head is lost and replaced"),
    ];
    for fill in fills {
        for loss in losses {
            for gap in 0..4 {
                at_every_step(&[&[1, 2]], 16, &[fill, loss], gap);
                at_every_step(&[&[1, 2]], 4, &[loss, fill], gap);
            }
        }
    }
}

#[test]
fn answers_lost_between_several_batches_neither_lose_double_nor_turn_any() {
    for at in 0.. {
        let mut net = Net::new(&[&[1, 2]], 16);
        let mut appends = several(&net);
        let over = !(0..at).all(|_| appends.step(&mut net));
        if appends.next().is_some() {
            appends.step_answer_lost(&mut net);
        }
        let outcomes = appends.run(&mut net);
        assert_log_holds(&mut net, &outcomes, &format!("an answer is lost at step {at}"));
        if over {
            return;
        }
    }
}
