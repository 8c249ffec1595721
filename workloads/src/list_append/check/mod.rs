//! Finds in a history what no serial execution can give.
//!
//! [`isolation`] knows only what transactions did and read, as an outsider would. [`log_order`] also uses the
//! positions that transactions were given: what a transaction reads must follow from those before it.
//!
//! What was read from a key is a list of all that was appended before. So the longest list read from a key is the
//! order of its versions, and three kinds of edges follow between transactions (Adya): *ww* from a transaction to the
//! one that appended next, *wr* from a transaction to one that read what it had appended, *rw* from a transaction to
//! the one that appended next to what it had read. A fourth goes from each transaction that had ended to each that
//! began after that. A serial execution that respects real time has no cycle of them.
//!
//! Source: Adya, Liskov and O'Neil, "Generalized Isolation Level Definitions" (ICDE 2000); Kingsbury and Alvaro, "Elle"
//! (VLDB 2020). Departures: one cycle is reported for each knot of transactions, of the lowest class that it has;
//! what was appended and never read counts as appended after all that was read.

mod cycles;
mod graph;
mod index;
mod positions;
mod reads;

use std::fmt;

pub use cycles::Class;

use super::history::{Status, Transaction};
use index::Index;

/// What is wrong with a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The history itself is none: a value is appended twice to a key, a process has two transactions in flight, a
    /// transaction ended before it began, or committed and does not say what it read.
    Malformed,
    /// A transaction does not see what it did or read itself, or sees what it does later.
    Internal,
    /// An element that nobody appended.
    Garbage,
    /// An element that is in a list twice.
    Duplicate,
    /// G1a: an element that a transaction appended which did not commit.
    AbortedRead,
    /// A transaction appended to what another had appended that did not commit.
    DirtyUpdate,
    /// G1b: a list that ends with an append of a transaction which appended more.
    IntermediateRead,
    /// Two lists of the same key, of which neither begins with the other.
    IncompatibleOrder,
    /// A cycle of dependencies.
    Cycle {
        /// Of which edges.
        class: Class,
        /// Whether it takes the real-time order to close it.
        realtime: bool,
    },
    /// Two transactions have the same position.
    SharedPosition,
    /// A read that is not what transactions at smaller positions appended, in their order.
    LogOrder,
    /// A transaction that had ended before another began has the greater position.
    Realtime,
}

/// Something that no serial execution can give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// What it is.
    pub kind: Kind,
    /// Which transactions, by their index in the history, and which keys and values.
    pub detail: String,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Cycle { class, realtime } => {
                write!(f, "{class}{}: {}", if realtime { "-realtime" } else { "" }, self.detail)
            }
            kind => write!(f, "{kind:?}: {}", self.detail),
        }
    }
}

/// Collects anomalies; so many examples of each kind are enough.
#[derive(Default)]
struct Anomalies(Vec<Anomaly>);

impl Anomalies {
    const EXAMPLES: usize = 10;

    fn add(&mut self, kind: Kind, detail: impl FnOnce() -> String) {
        if self.0.iter().filter(|anomaly| anomaly.kind == kind).count() < Self::EXAMPLES {
            self.0.push(Anomaly { kind, detail: detail() });
        }
    }
}

/// What [`isolation`] and [`log_order`] find.
#[must_use]
pub fn all(history: &[&Transaction]) -> Vec<Anomaly> {
    let mut anomalies = isolation(history);
    anomalies.extend(log_order(history));
    anomalies
}

/// Anomalies that follow from reads, appends and real time alone, at most ten of each kind.
///
/// Cost: about linear in the number of all elements of all lists that were read.
#[must_use]
pub fn isolation(history: &[&Transaction]) -> Vec<Anomaly> {
    let mut anomalies = Anomalies::default();
    reads::well_formed(history, &mut anomalies);
    let mut index = Index::new(history, &mut anomalies);
    let versions = reads::versions(history, &mut index, &mut anomalies);
    let graph = graph::Graph::new(history, &index, &versions);
    cycles::find(history, &graph, &mut anomalies);
    anomalies.0
}

/// Contradictions between the positions of transactions and what they read, or when they ran; at most ten of each
/// kind. Transactions without a position are taken for anywhere.
#[must_use]
pub fn log_order(history: &[&Transaction]) -> Vec<Anomaly> {
    let mut anomalies = Anomalies::default();
    // Appends that come twice are anomalies of isolation.
    let index = Index::new(history, &mut Anomalies::default());
    positions::unique(history, &mut anomalies);
    positions::realtime(history, &mut anomalies);
    positions::reads(history, &index, &mut anomalies);
    anomalies.0
}

/// A transaction as anomalies name it.
struct Named<'a>(&'a [&'a Transaction], u32);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(history, number) = self;
        write!(f, "T{number}")?;
        let transaction = history[*number as usize];
        if transaction.status == Status::Info {
            f.write_str("?")?;
        }
        match transaction.position {
            Some(position) => write!(f, "@{position}"),
            None => Ok(()),
        }
    }
}
