//! What was told, against one transaction after another in the order of the log.

use std::collections::BTreeMap;

use mixlog_engine::{Position, Stats};

use crate::live::{Called, Decided, Driven, End, Told};
use crate::model::{Model, State};
use crate::steps::{Stop, take_all};

/// What stands at a position.
#[derive(Clone, Copy, Debug)]
enum Event<'a> {
    Call(&'a Called),
    Driven(&'a Driven),
}

/// States by how many positions they include: those that somebody looked at, and the last one.
pub(crate) struct History {
    states: BTreeMap<u64, State>,
    /// How many there were.
    pub(crate) transactions: u64,
}

const fn included(position: Option<Position>) -> u64 {
    match position {
        None => 0,
        Some(position) => position.0 + 1,
    }
}

impl History {
    /// Takes the transactions one by one, and objects to every answer that is another.
    pub(crate) fn one_by_one(told: &Told) -> Self {
        let events = in_order(told);
        let began = told.driven.iter().map(|driven| driven.began);
        let mut looked_at: Vec<_> =
            told.shown.iter().map(|shown| shown.at).chain(began).map(included).collect();
        looked_at.sort_unstable();
        looked_at.dedup();
        let (mut looked_at, mut states) = (looked_at.into_iter().peekable(), BTreeMap::new());
        let mut state = State::new();
        for (&position, &event) in &events {
            while let Some(included) = looked_at.next_if(|&included| included <= position.0) {
                states.insert(included, state.clone());
            }
            match event {
                Event::Call(called) => call(&mut state, called),
                Event::Driven(driven) => decide(&mut state, driven, &states[&included(driven.began)]),
            }
        }
        for included in looked_at.chain([u64::MAX]) {
            states.insert(included, state.clone());
        }
        let history = Self { states, transactions: events.len() as u64 };
        history.check_looks(told);
        history
    }

    /// Whatever was seen on a snapshot, and what interactive transactions saw when they began.
    fn check_looks(&self, told: &Told) {
        for shown in &told.shown {
            assert_eq!(shown.state, self.states[&included(shown.at)], "a snapshot at {:?}", shown.at);
        }
        for driven in &told.driven {
            let mut model = Model::of(&self.states[&included(driven.began)]);
            let (Ok(seen) | Err(Stop::Abort(seen))) = take_all(&driven.steps, &mut model) else {
                unreachable!("not drawn")
            };
            assert_eq!(seen, driven.seen, "{driven:?}");
        }
    }

    pub(crate) fn end(&self) -> &State {
        &self.states[&u64::MAX]
    }

    /// Nothing ran of which nobody was told.
    pub(crate) fn assert_complete(&self, stats: &Stats) {
        assert_eq!(stats.transactions - stats.repeats, self.transactions, "{stats:?}");
    }
}

/// All that was told, by position. What was submitted twice has one position and one answer.
fn in_order(told: &Told) -> BTreeMap<Position, Event<'_>> {
    let (mut events, mut numbered) = (BTreeMap::new(), BTreeMap::new());
    for called in &told.calls {
        if let Some(once) = called.once {
            let first: &Called = numbered.entry(once).or_insert(called);
            assert_eq!((called.at, &called.end), (first.at, &first.end), "{called:?}");
        }
        let other = events.insert(called.at, (called.once, Event::Call(called)));
        assert!(other.is_none_or(|(once, _)| once.is_some() && once == called.once), "{called:?}, {other:?}");
    }
    for driven in &told.driven {
        if let Decided::Committed(at) | Decided::Refused(at) = driven.decided {
            let other = events.insert(at, (None, Event::Driven(driven)));
            assert!(other.is_none(), "{driven:?}, {other:?}");
        }
    }
    events.into_iter().map(|(at, (_, event))| (at, event)).collect()
}

fn call(state: &mut State, called: &Called) {
    let mut model = Model::of(state);
    let end = match take_all(&called.steps, &mut model) {
        Ok(seen) => {
            *state = model.state;
            End::Committed(seen)
        }
        Err(Stop::Abort(seen)) => End::Aborted(seen),
        Err(Stop::Panic) => End::Panicked,
    };
    assert_eq!(called.end, end, "{called:?}");
}

/// Whoever commits would have seen the same at its position, and whoever is refused would not; `began` is what it saw.
fn decide(state: &mut State, driven: &Driven, began: &State) {
    let take_all = |state| {
        let mut model = Model::of(state);
        let seen = take_all(&driven.steps, &mut model).expect("it did not give up");
        (seen, model)
    };
    let (seen, now) = take_all(state);
    if let Decided::Committed(_) = driven.decided {
        assert_eq!(seen, driven.seen, "{driven:?}");
        *state = now.state;
    } else {
        assert_ne!(now.looked, take_all(began).1.looked, "refused for nothing: {driven:?}");
    }
}

/// What happened in all seeds: what never happens is not tested.
#[derive(Debug, Default)]
pub(crate) struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    pub(crate) fn add(&mut self, stats: &Stats) {
        let parallel = stats.windows - stats.sequential_windows;
        for (what, count) in [
            ("aborts", stats.aborts),
            ("panics", stats.panics),
            ("footprints that panicked", stats.footprint_panics),
            ("repeats", stats.repeats),
            ("run ahead", stats.reconnoitred),
            ("adopted", stats.adopted),
            ("inferred", stats.inferred),
            ("violations", stats.violations),
            ("windows replayed", stats.replays),
            ("windows right at once", parallel - stats.replays),
            ("bounded adds, ordered", stats.bounded_adds - stats.unordered_adds),
            ("bounded adds, unordered", stats.unordered_adds),
            ("merges pooled", stats.pooled_merges),
        ] {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub(crate) fn tell(&mut self, told: &Told) {
        let decided =
            |is: fn(&Decided) -> bool| told.driven.iter().filter(|driven| is(&driven.decided)).count() as u64;
        let moved = |driven: &&Driven| matches!(driven.decided, Decided::Committed(at) if included(driven.began) < at.0);
        for (what, count) in [
            ("interactive, committed", decided(|decided| matches!(decided, Decided::Committed(_)))),
            ("with others in between", told.driven.iter().filter(moved).count() as u64),
            ("interactive, refused", decided(|decided| matches!(decided, Decided::Refused(_)))),
            ("interactive, committed before", told.before),
            ("snapshots", told.shown.len() as u64),
        ] {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub(crate) fn assert_all(&self) {
        println!("{self:?}");
        assert!(self.0.values().all(|&count| count > 0), "something never happened: {self:?}");
    }
}
