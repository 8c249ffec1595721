//! How much the answers take that are on their way. Nobody knows before they are there, so it is guessed from those that
//! came: a guess rises at once, and sinks slowly.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use mixlog::kv::{MAX_SIZE, Op, Transaction};

/// What all answers on their way may take, in bytes as `Answer::size` counts. One that takes more goes alone.
const BUDGET: u64 = 64 << 20;

/// The first guess for a result that is a value or rows: a handful is tried before there are more.
const CAUTIOUS: u64 = BUDGET / 4;

/// The least guess for such a result: should many be large all of a sudden, there are no more than 2,048.
const LEAST_OF_LOOKS: u64 = BUDGET / 2048;

/// The least guess for others, which are small unless an id is used twice.
const LEAST: u64 = BUDGET / 4096;

/// By what share a guess sinks with each answer that is smaller.
const SINKS: u64 = 64;

/// What the size of an answer depends on.
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// Whose guess: that of writes, of gets, or of scans with a limit of about this length.
    guess: usize,
    /// How many of its results are values or rows; 1 if none is.
    looks: u64,
}

const WRITES: usize = 0;
const GETS: usize = 1;
const KINDS: usize = 2 + 65;

impl Kind {
    fn of(transaction: &Transaction) -> Self {
        let (mut guess, mut looks) = (WRITES, 0);
        for op in transaction.ops() {
            match op {
                Op::Get(_) => (guess, looks) = (guess.max(GETS), looks + 1),
                Op::Scan { limit, .. } => {
                    let length = u64::BITS - limit.leading_zeros();
                    (guess, looks) = (guess.max(GETS + 1 + length as usize), looks + 1);
                }
                _ => {}
            }
        }
        Self { guess, looks: looks.max(1) }
    }
}

#[derive(Debug)]
struct State {
    taken: u64,
    /// Of one result, by kind.
    guesses: [u64; KINDS],
}

impl State {
    const fn new() -> Self {
        let mut guesses = [CAUTIOUS; KINDS];
        guesses[WRITES] = LEAST;
        Self { taken: 0, guesses }
    }

    /// Takes what the answer is guessed to take, and returns it, if there is room for it; there is for one alone,
    /// whatever it takes.
    fn take(&mut self, kind: Kind) -> Option<u64> {
        let guess = self.guesses[kind.guess].saturating_mul(kind.looks).min(MAX_SIZE);
        let fits = self.taken == 0 || self.taken + guess <= BUDGET;
        fits.then(|| {
            self.taken += guess;
            guess
        })
    }

    fn learn(&mut self, kind: Kind, size: u64) {
        let least = if kind.guess == WRITES { LEAST } else { LEAST_OF_LOOKS };
        let guess = &mut self.guesses[kind.guess];
        *guess = size.div_ceil(kind.looks).max(*guess - *guess / SINKS).max(least);
    }
}

/// The transactions whose answers are not printed yet.
#[derive(Debug)]
pub(super) struct InFlight {
    state: Mutex<State>,
    left: Condvar,
}

impl InFlight {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State::new()), left: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for the answer. Those before it are printed meanwhile, so there will be.
    pub(super) fn enter(self: &Arc<Self>, transaction: &Transaction) -> InRoom {
        let kind = Kind::of(transaction);
        let mut state = self.state();
        loop {
            if let Some(taken) = state.take(kind) {
                return InRoom { of: Arc::clone(self), kind, taken };
            }
            state = self.left.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The room that an answer has, until it is printed and this is dropped.
#[derive(Debug)]
pub(super) struct InRoom {
    of: Arc<InFlight>,
    kind: Kind,
    taken: u64,
}

impl InRoom {
    /// Tells what the answer takes.
    pub(super) fn learn(&self, size: u64) {
        self.of.state().learn(self.kind, size);
    }
}

impl Drop for InRoom {
    fn drop(&mut self) {
        self.of.state().taken -= self.taken;
        self.of.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(ops: &str) -> Transaction {
        format!(r#"{{"ops":[{ops}]}}"#).parse().expect("it is one")
    }

    const PUT: &str = r#"["put","t","k",1],["add","t","l",1]"#;
    const GET: &str = r#"["get","t","k"]"#;
    const SCAN: &str = r#"["scan","t","a","z",1000]"#;

    /// How many get in until one has to wait.
    fn fill(state: &mut State, kind: Kind) -> usize {
        state.taken = 0;
        std::iter::from_fn(|| state.take(kind)).count()
    }

    #[test]
    fn as_many_are_in_flight_as_answers_before_were_small() {
        for (ops, first, most) in [(PUT, 4096, 4096), (GET, 4, 2048), (SCAN, 4, 2048)] {
            let kind = Kind::of(&parse(ops));
            let mut state = State::new();
            assert_eq!(fill(&mut state, kind), first, "{ops}");
            (0..1000).for_each(|_| state.learn(kind, 100));
            assert_eq!(fill(&mut state, kind), most, "{ops}");
            state.learn(kind, BUDGET / 2);
            assert_eq!(fill(&mut state, kind), 2, "{ops}");
            assert!(state.take(Kind::of(&parse(PUT))).is_none(), "others wait, too");
        }
    }

    #[test]
    fn transactions_that_ask_for_more_are_fewer() {
        let mut state = State::new();
        let one = Kind::of(&parse(GET));
        (0..1000).for_each(|_| state.learn(one, 100));
        let many = Kind::of(&parse(&[GET; 64].join(",")));
        assert_eq!((fill(&mut state, one), fill(&mut state, many)), (2048, 32));
        state.learn(many, 64 * LEAST_OF_LOOKS);
        assert_eq!((fill(&mut state, one), fill(&mut state, many)), (2048, 32));
        // Short scans say nothing of long ones.
        let scan = Kind::of(&parse(SCAN));
        (0..1000).for_each(|_| state.learn(scan, 100));
        let long = Kind::of(&parse(&SCAN.replace("1000", "1000000")));
        assert_eq!((fill(&mut state, scan), fill(&mut state, long)), (2048, 4));
    }

    #[test]
    fn answer_larger_than_all_room_goes_alone() {
        let mut state = State::new();
        let scan = Kind::of(&parse(SCAN));
        state.learn(scan, 3 * BUDGET);
        assert!(state.take(scan).is_some());
        assert_eq!((state.take(scan), state.take(Kind::of(&parse(PUT)))), (None, None));
    }

    #[test]
    fn room_is_given_back_to_who_waits() {
        let in_flight = InFlight::new();
        let scan = parse(SCAN);
        let mut inside: Vec<_> = (0..4).map(|_| in_flight.enter(&scan)).collect();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| in_flight.enter(&scan));
            inside[0].learn(BUDGET);
            inside.clear();
            drop(waiting.join().expect("it gets in"));
        });
        assert_eq!(in_flight.state().taken, 0);
    }
}
