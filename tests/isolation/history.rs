//! What happened in a round, and whether it could have happened one by one.

use mixlog::Position;

use crate::scenarios::Scenario;
use crate::script::{Model, Place, Rows, Slot, take_all};

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Committed,
    /// By its own decision.
    Aborted,
    /// By a conflict: interactive transactions only.
    Refused,
}

/// One transaction of a round.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    pub(crate) end: End,
    pub(crate) reads: Vec<Rows>,
    /// Where it took place.
    pub(crate) at: Option<Position>,
    /// Whether it saw the state after that position, as an interactive transaction does that wrote nothing or did
    /// not commit, and not the one before.
    pub(crate) after: bool,
}

impl Ran {
    /// Later ones are greater.
    pub(crate) const fn order(&self) -> (Option<Position>, bool) {
        (self.at, self.after)
    }
}

/// A round: its transactions, and the rows that it left.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) ran: Vec<Ran>,
    pub(crate) left: Rows,
}

impl History {
    pub(crate) fn committed(&self, transaction: usize) -> bool {
        self.ran[transaction].end == End::Committed
    }

    /// What the n-th step that reads saw; `None` when the transaction did not commit.
    pub(crate) fn saw(&self, transaction: usize, read: usize) -> Option<&Rows> {
        self.committed(transaction).then(|| &self.ran[transaction].reads[read])
    }

    /// Whether a transaction committed and saw just this row in its n-th step that reads.
    pub(crate) fn saw_row(&self, transaction: usize, read: usize, slot: Slot, value: i64) -> bool {
        self.saw(transaction, read).is_some_and(|rows| *rows == [(slot, value)])
    }

    /// Whether a transaction committed, and its n-th step that reads saw nothing.
    pub(crate) fn saw_none(&self, transaction: usize, read: usize) -> bool {
        self.saw(transaction, read).is_some_and(Vec::is_empty)
    }

    pub(crate) fn left(&self, slot: Slot) -> Option<i64> {
        self.left.iter().find(|(s, _)| *s == slot).map(|(_, value)| *value)
    }

    /// Transactions in the order of their positions.
    pub(crate) fn order(&self) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.ran.len()).collect();
        order.sort_by_key(|&i| self.ran[i].order());
        order
    }

    /// Objects unless all reads and the rows left are those of the transactions one by one in the order of their
    /// positions.
    pub(crate) fn is_serial(&self, scenario: &Scenario, place: Place) -> Result<(), String> {
        let mut state = before(scenario, place);
        for i in self.order() {
            let ran = &self.ran[i];
            let mut next = state.clone();
            let (reads, _) = take_all(scenario.transactions[i], &mut next, place);
            if reads != ran.reads {
                return Err(format!("transaction {i} read {:?}, and {reads:?} one by one", ran.reads));
            }
            if ran.end == End::Committed {
                state = next;
            }
        }
        let left = rows(&state, place);
        if left == self.left { Ok(()) } else { Err(format!("rows {:?}, and {left:?} one by one", self.left)) }
    }

    /// Objects to every anomaly.
    pub(crate) fn check(&self, scenario: &Scenario, place: Place) {
        let verdict =
            (scenario.check)(self).map_err(str::to_owned).and_then(|()| self.is_serial(scenario, place));
        if let Err(objection) = verdict {
            panic!("{} at {place:?}: {objection}: {self:#?}", scenario.name);
        }
    }
}

pub(crate) fn before(scenario: &Scenario, place: Place) -> Model {
    scenario.before.iter().map(|&(slot, value)| (place.key(slot), value)).collect()
}

pub(crate) fn rows(state: &Model, place: Place) -> Rows {
    state.iter().map(|(&key, &value)| ((key - place.key(0)) as Slot, value)).collect()
}
