//! Interactive transactions statement by statement, on one thread: who sees what, and who must be refused.

use std::sync::Arc;

use mixlog::log::{MemoryLog, SharedLog};
use mixlog::{CommitError, Engine, Mode, Position, Transaction};

use crate::history::{End, History, Ran};
use crate::scenarios::{SCENARIOS, Scenario};
use crate::script::{KINDS, Kind, Place, Rows, Step, builder, take_all};

/// One transaction on its way.
struct Driven<'e> {
    steps: &'static [Step],
    next: usize,
    transaction: Option<Transaction<'e>>,
    began: Option<Position>,
    reads: Vec<Rows>,
    ran: Option<Ran>,
}

impl<'e> Driven<'e> {
    const fn new(steps: &'static [Step]) -> Self {
        Self { steps, next: 0, transaction: None, began: None, reads: Vec::new(), ran: None }
    }

    /// Begins with the first step, and commits after the last.
    fn go_on(&mut self, engine: &'e Engine, place: Place) {
        let transaction = self.transaction.get_or_insert_with(|| engine.begin());
        self.began = transaction.position();
        if let Some(step) = self.steps.get(self.next) {
            self.next += 1;
            if step.take(transaction, place, &mut self.reads).is_err() {
                self.end(End::Aborted, self.began);
                self.transaction = None;
            }
            return;
        }
        match self.transaction.take().expect("it began").commit() {
            Ok(at) => self.end(End::Committed, at),
            Err(CommitError::Conflict { .. }) => self.end(End::Refused, self.began),
            Err(error) => panic!("{error}"),
        }
    }

    fn end(&mut self, end: End, at: Option<Position>) {
        let reads = std::mem::take(&mut self.reads);
        self.ran = Some(Ran { end, reads, at, after: at == self.began });
    }
}

/// Runs a round in the order of statements that `order` says, until all have ended, and checks it.
fn drive(
    engine: &Engine,
    scenario: &Scenario,
    place: Place,
    order: impl IntoIterator<Item = usize>,
) -> History {
    let mut setup = engine.begin();
    let before: Vec<_> = scenario.before.iter().map(|&(slot, value)| Step::Write(slot, value)).collect();
    take_all(&before, &mut setup, place).1.expect("it does not give up");
    setup.commit().expect("nobody else is there");
    let mut driven: Vec<_> = scenario.transactions.iter().map(|steps| Driven::new(steps)).collect();
    for i in order {
        if driven[i].ran.is_none() {
            driven[i].go_on(engine, place);
        }
    }
    let began: Vec<_> = driven.iter().map(|driven| driven.began).collect();
    let ran = driven.into_iter().map(|driven| driven.ran.expect("the order leads to its end")).collect();
    let history = History { ran, left: place.rows(&engine.snapshot()) };
    history.check(scenario, place);
    for (i, ran) in history.ran.iter().enumerate() {
        // Whoever is refused had somebody commit in between.
        let others = history.ran.iter().filter(|other| other.end == End::Committed && !other.after);
        let met = others.into_iter().any(|other| other.at > began[i]);
        assert!(ran.end != End::Refused || met, "{} at {place:?}: {i} is refused for nothing", scenario.name);
    }
    history
}

fn with_engine(window: u32, work: impl FnOnce(&Engine)) {
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = builder().threads(2).window(window).mode(Mode::Parallel).open(Arc::clone(&log)).unwrap();
    work(&engine);
    let digest = engine.digest();
    assert_eq!(digest.state, engine.snapshot().state_digest(), "kept up, and from scratch");
    engine.close().unwrap();
    let oracle = builder().mode(Mode::Sequential).threads(1).replay(log).unwrap();
    assert_eq!(oracle.to_end().unwrap(), digest, "one by one");
}

#[test]
fn statements_in_the_order_of_hermitage_the_right_ones_are_refused() {
    with_engine(64, |engine| {
        for (round, (scenario, kind)) in
            (0..).zip(SCENARIOS.iter().flat_map(|scenario| KINDS.map(|kind| (scenario, kind))))
        {
            let history = drive(engine, scenario, Place { kind, round }, scenario.steps.iter().copied());
            let refused: Vec<_> =
                (0..history.ran.len()).filter(|&i| history.ran[i].end == End::Refused).collect();
            assert_eq!(refused, scenario.refused, "{}, {kind:?}: {history:?}", scenario.name);
        }
    });
}

/// Orders that never met a conflict would show nothing.
#[test]
fn hermitage_orders_are_complete_and_most_need_a_refusal() {
    assert!(SCENARIOS.iter().filter(|scenario| !scenario.refused.is_empty()).count() > SCENARIOS.len() / 2);
    for scenario in SCENARIOS {
        for (i, steps) in scenario.transactions.iter().enumerate() {
            let commit = usize::from(!matches!(steps.last(), Some(Step::Abort)));
            let said = scenario.steps.iter().filter(|&&t| t == i).count();
            assert_eq!(said, steps.len() + commit, "{}: steps of transaction {i}", scenario.name);
        }
    }
}

/// Splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

#[test]
fn statements_in_random_orders_show_no_anomaly_and_somebody_commits() {
    let rounds = crate::rounds() as u64 / 10;
    with_engine(256, |engine| {
        let mut random = Random(1);
        let (mut refused, mut spared) = (0, 0);
        for (number, scenario) in (0..).zip(SCENARIOS) {
            for i in 0..rounds {
                let kind: Kind = KINDS[i as usize % KINDS.len()];
                let place = Place { kind, round: number * rounds + i };
                let transactions = scenario.transactions.len();
                let mut order = scenario.steps.to_vec();
                (1..order.len()).for_each(|at| order.swap(at, random.below(at + 1)));
                let history = drive(engine, scenario, place, order);
                let of = |end| history.ran.iter().filter(|ran| ran.end == end).count();
                assert!(of(End::Committed) > 0, "{}: all {transactions} were refused", scenario.name);
                refused += of(End::Refused);
                spared += usize::from(of(End::Refused) == 0);
            }
        }
        assert!(refused > 0 && spared > 0, "{refused} refused, {spared} rounds without");
    });
}
