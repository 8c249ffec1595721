//! Threads that do all there is with one engine, and keep what they were told.

use std::collections::VecDeque;
use std::thread;

use mixlog_engine::{ClientId, CommitError, Engine, Outcome, Position, Procedure, Snapshot, Ticket};

use crate::draw::Draw;
use crate::model::{State, look};
use crate::steps::{Quality, Says, Step, Steps, Stop, keys, take_all};
use crate::tables::In;

/// How a call ended, and what it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Committed(Vec<i64>),
    Aborted(Vec<i64>),
    Panicked,
}

/// A call of a procedure.
#[derive(Clone, Debug)]
pub(crate) struct Called {
    pub(crate) at: Position,
    pub(crate) steps: Vec<Step>,
    pub(crate) end: End,
    /// The client, and its number.
    pub(crate) once: Option<(u64, u64)>,
}

impl Called {
    pub(crate) fn new<P>(outcome: Outcome<P>, steps: Vec<Step>, once: Option<(u64, u64)>) -> Self
    where
        P: Procedure<Output = Vec<i64>, Abort = Vec<i64>>,
    {
        let at = outcome.position();
        let end = match outcome {
            Outcome::Committed { output, .. } => End::Committed(output),
            Outcome::Aborted { reason, .. } => End::Aborted(reason),
            Outcome::Panicked { .. } => End::Panicked,
        };
        Self { at, steps, end, once }
    }
}

/// How an interactive transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decided {
    Committed(Position),
    Refused(Position),
    /// It wrote nothing and has no number, gave up, or was committed before.
    Nothing,
}

#[derive(Clone, Debug)]
pub(crate) struct Driven {
    pub(crate) began: Option<Position>,
    pub(crate) steps: Vec<Step>,
    pub(crate) seen: Vec<i64>,
    pub(crate) decided: Decided,
}

/// What a snapshot showed.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) at: Option<Position>,
    pub(crate) state: State,
    pub(crate) digest: u128,
}

impl Shown {
    fn by(snapshot: &Snapshot) -> Self {
        let (state, digest) = look(snapshot);
        Self { at: snapshot.position(), state, digest }
    }
}

/// All that threads were told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) calls: Vec<Called>,
    pub(crate) driven: Vec<Driven>,
    pub(crate) shown: Vec<Shown>,
    /// Numbers of interactive transactions that turned out to be committed before.
    pub(crate) before: u64,
}

impl Told {
    pub(crate) fn add(&mut self, other: Self) {
        self.calls.extend(other.calls);
        self.driven.extend(other.driven);
        self.shown.extend(other.shown);
        self.before += other.before;
    }
}

pub(crate) const THREADS: u64 = 4;

/// A client has two threads, which submit the same calls under the same numbers, so few of them that no answer is
/// forgotten.
const NUMBERS: u64 = 60;

const fn client_of(thread: u64) -> u64 {
    thread / 2
}

/// Puts rows into every table.
pub(crate) fn populate(engine: &Engine, seed: u64) -> Told {
    const TABLES: [In; 9] = [
        In::Rows,
        In::Stock,
        In::Totals,
        In::Peaks,
        In::Guests,
        In::Lists,
        In::Polls,
        In::People,
        In::Players,
    ];
    let mut draw = Draw(seed);
    let mut told = Told::default();
    for table in TABLES {
        let steps: Vec<_> = (0..keys(table)).step_by(2).map(|key| draw.put(table, key)).collect();
        let call = Steps { steps, says: Says::ToBeFound };
        let outcome = engine.execute(&call).expect("it is executed");
        told.calls.push(Called::new(outcome, call.steps, None));
    }
    told
}

/// One more call, behind all that is in the log: nobody waits for padding.
pub(crate) fn conclude(engine: &Engine, told: &mut Told) {
    let call = Steps { steps: vec![Step::Put(In::Rows, 0, 0)], says: Says::Honest };
    let outcome = engine.execute(&call).expect("it is executed");
    told.calls.push(Called::new(outcome, call.steps, None));
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) turns: u64,
    pub(crate) quality: Quality,
    pub(crate) takes_checkpoints: bool,
}

impl Plan {
    /// The call of a client's number.
    pub(crate) fn numbered(&self, client: u64, number: u64) -> Steps {
        Draw(self.seed.wrapping_mul(1_000).wrapping_add(client * 100 + number)).steps(self.quality)
    }
}

/// One of the threads.
pub(crate) struct Caller<'e> {
    engine: &'e Engine,
    thread: u64,
    plan: Plan,
    draw: Draw,
    /// The next number of its client's calls, and of its own interactive transactions.
    number: u64,
    interactive: u64,
    on_the_way: VecDeque<Box<dyn FnOnce() -> Called>>,
    held: VecDeque<(Snapshot, Shown)>,
    told: Told,
}

impl<'e> Caller<'e> {
    pub(crate) fn new(engine: &'e Engine, thread: u64, plan: Plan) -> Self {
        Self {
            engine,
            thread,
            plan,
            draw: Draw(plan.seed.wrapping_mul(7_919).wrapping_add(thread)),
            number: 0,
            interactive: 0,
            on_the_way: VecDeque::new(),
            held: VecDeque::new(),
            told: Told::default(),
        }
    }

    pub(crate) fn run(mut self) -> Told {
        for _ in 0..self.plan.turns {
            self.turn();
            if self.on_the_way.len() > 40 {
                self.settle(25);
            }
        }
        self.settle(0);
        for (snapshot, shown) in self.held {
            assert_eq!(look(&snapshot), (shown.state, shown.digest), "{snapshot:?}, held until the end");
        }
        self.told
    }

    /// Waits until so many are on the way.
    fn settle(&mut self, left: usize) {
        while self.on_the_way.len() > left {
            let wait = self.on_the_way.pop_front().expect("there are more");
            self.told.calls.push(wait());
        }
    }

    fn keep<P>(&mut self, ticket: Ticket<P>, steps: Vec<Step>, once: Option<(u64, u64)>)
    where
        P: Procedure<Output = Vec<i64>, Abort = Vec<i64>>,
    {
        let wait = move || Called::new(ticket.wait().expect("an answer"), steps, once);
        self.on_the_way.push_back(Box::new(wait));
    }

    fn turn(&mut self) {
        let engine = self.engine;
        match self.draw.below(32) {
            0..14 => {
                let call = self.draw.steps(self.plan.quality);
                let ticket = engine.submit(&call).expect("it is submitted");
                self.keep(ticket, call.steps, None);
            }
            14..20 => {
                let visit = self.draw.visit();
                let ticket = engine.submit(&visit).expect("it is submitted");
                self.keep(ticket, visit.steps(), None);
            }
            20 => {
                let call = self.draw.steps(self.plan.quality);
                let outcome = engine.execute(&call).expect("it is executed");
                self.told.calls.push(Called::new(outcome, call.steps, None));
            }
            21..25 if self.number < NUMBERS => self.submit_twice(),
            21..28 => self.interact(),
            28 => self.settle(0),
            29 if self.plan.takes_checkpoints && self.draw.below(4) == 0 => {
                engine.checkpoint().expect("it is taken");
            }
            29 if self.draw.below(100) == 0 => {
                engine.pad().expect("it is padded");
            }
            _ => self.look(),
        }
    }

    /// As a client that hears nothing; the client's other thread does so, too.
    fn submit_twice(&mut self) {
        let (client, number) = (client_of(self.thread), self.number);
        self.number += 1;
        let call = self.plan.numbered(client, number);
        for _ in 0..2 {
            let ticket = self.engine.client(ClientId(client)).submit(number, &call).expect("it is submitted");
            self.keep(ticket, call.steps.clone(), Some((client, number)));
        }
    }

    /// An interactive transaction, under a number or not. Others get in between.
    fn interact(&mut self) {
        let own = self.engine.client(ClientId(1_000 + self.thread));
        let is_numbered = self.draw.below(3) == 0;
        let mut transaction = if is_numbered { own.begin(self.interactive) } else { self.engine.begin() };
        let began = transaction.position();
        let (mut seen, mut gave_up) = (Vec::new(), false);
        let mut steps = self.draw.list();
        steps.extend((self.draw.below(12) == 0).then_some(Step::Abort));
        for step in &steps {
            match self.draw.below(8) {
                0 => thread::yield_now(),
                1 => self.settle(5),
                _ => {}
            }
            match take_all(std::slice::from_ref(step), &mut transaction) {
                Ok(more) => seen.extend(more),
                Err(Stop::Abort(_)) => gave_up = true,
                Err(Stop::Panic) => unreachable!("not drawn"),
            }
        }
        let decided = if gave_up {
            Decided::Nothing
        } else {
            match transaction.commit() {
                Ok(at) if at == began => Decided::Nothing,
                Ok(at) => Decided::Committed(at.expect("it began before")),
                Err(CommitError::Conflict { position, .. }) => Decided::Refused(position),
                Err(error) => panic!("{error}"),
            }
        };
        self.told.driven.push(Driven { began, steps, seen, decided });
        if let (true, Decided::Committed(first)) = (is_numbered, decided) {
            self.interact_again(first);
        }
    }

    /// The answer got lost: another one under the number is not committed, whatever it does.
    fn interact_again(&mut self, first: Position) {
        let mut again = self.engine.client(ClientId(1_000 + self.thread)).begin(self.interactive);
        let (began, steps) = (again.position(), self.draw.list());
        let Ok(seen) = take_all(&steps, &mut again) else { unreachable!("not drawn") };
        match again.commit() {
            Err(CommitError::CommittedBefore { position }) => {
                assert_eq!(position, first);
                self.told.before += 1;
            }
            other => panic!("{other:?}"),
        }
        self.told.driven.push(Driven { began, steps, seen, decided: Decided::Nothing });
        self.interactive += 1;
    }

    fn look(&mut self) {
        let retained = self.engine.retained();
        let snapshot = match self.draw.below(3) {
            0 if !retained.is_empty() => {
                // It may be gone by now.
                self.engine.snapshot_at(self.draw.one_of(&retained)).ok()
            }
            _ => None,
        };
        let snapshot = snapshot.unwrap_or_else(|| self.engine.snapshot());
        let shown = Shown::by(&snapshot);
        self.told.shown.push(shown.clone());
        if self.draw.below(4) == 0 {
            self.held.push_back((snapshot, shown));
            if self.held.len() > 3 {
                let (snapshot, shown) = self.held.pop_front().expect("one was just added");
                assert_eq!(look(&snapshot), (shown.state, shown.digest), "{snapshot:?}, held for a while");
            }
        }
    }
}
