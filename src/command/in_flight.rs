//! How much the answers take that are on their way. Nobody knows before they are there, so it is guessed from those that
//! came: a guess rises at once, and sinks slowly.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use mixlog::kv::{Op, Transaction};

/// What all answers on their way may take, in bytes as `Answer::size` counts. One that takes more goes alone.
const BUDGET: u64 = 64 << 20;

/// The first guess for what looks at values: a handful is tried before there are more.
const CAUTIOUS: u64 = BUDGET / 4;

/// The least guess for what looks at values: should many be large all of a sudden, there are no more than 1,024.
const LEAST_OF_LOOKS: u64 = BUDGET / 1024;

/// The least guess for other transactions, whose answers are small unless an id is used twice.
const LEAST: u64 = BUDGET / 4096;

/// By what share a guess sinks with each answer that is smaller.
const SINKS: u64 = 64;

/// What answers depend on.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Writes,
    Gets,
    Scans,
}

impl Kind {
    fn of(transaction: &Transaction) -> Self {
        let ops = transaction.ops();
        if ops.iter().any(|op| matches!(op, Op::Scan { .. })) {
            Self::Scans
        } else if ops.iter().any(|op| matches!(op, Op::Get(_))) {
            Self::Gets
        } else {
            Self::Writes
        }
    }

    const fn least(self) -> u64 {
        match self {
            Self::Writes => LEAST,
            Self::Gets | Self::Scans => LEAST_OF_LOOKS,
        }
    }
}

#[derive(Debug)]
struct State {
    taken: u64,
    /// By [`Kind`].
    guesses: [u64; 3],
}

impl State {
    const NEW: Self = Self { taken: 0, guesses: [LEAST, CAUTIOUS, CAUTIOUS] };

    /// Takes the guess, and returns it, if there is room for it; there is for one alone, whatever it takes.
    fn take(&mut self, kind: Kind) -> Option<u64> {
        let guess = self.guesses[kind as usize];
        let fits = self.taken == 0 || self.taken + guess <= BUDGET;
        fits.then(|| {
            self.taken += guess;
            guess
        })
    }

    fn learn(&mut self, kind: Kind, size: u64) {
        let guess = &mut self.guesses[kind as usize];
        *guess = size.max(*guess - *guess / SINKS).max(kind.least());
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
        Arc::new(Self { state: Mutex::new(State::NEW), left: Condvar::new() })
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

    /// How many get in until one has to wait.
    fn fill(state: &mut State, kind: Kind) -> usize {
        std::iter::from_fn(|| state.take(kind)).count()
    }

    #[test]
    fn as_many_are_in_flight_as_answers_before_were_small() {
        for (kind, first, most) in [(Kind::Writes, 4096, 4096), (Kind::Gets, 4, 1024), (Kind::Scans, 4, 1024)]
        {
            let mut state = State::NEW;
            assert_eq!(fill(&mut state, kind), first, "{kind:?}");
            (0..1000).for_each(|_| state.learn(kind, 100));
            state.taken = 0;
            assert_eq!(fill(&mut state, kind), most, "{kind:?}");
            state.learn(kind, BUDGET / 2);
            state.taken = 0;
            assert_eq!(fill(&mut state, kind), 2, "{kind:?}");
            assert!(state.take(Kind::Writes).is_none(), "others wait, too");
        }
    }

    #[test]
    fn answer_larger_than_all_room_goes_alone() {
        let mut state = State::NEW;
        state.learn(Kind::Scans, 3 * BUDGET);
        assert_eq!((state.take(Kind::Scans), state.take(Kind::Writes)), (Some(3 * BUDGET), None));
    }

    #[test]
    fn room_is_given_back_to_who_waits() {
        let in_flight = InFlight::new();
        let scan: Transaction = r#"{"ops":[["scan","t","","z",9]]}"#.parse().expect("it is one");
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
