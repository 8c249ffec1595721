//! Whether a state is one that TPC-C's transactions can produce.
//!
//! The twelve consistency conditions of clause 3.3.2 (C1 to C12; C11 in the form that holds while orders are being
//! delivered), twelve more (E1 to E12) that tie the tables to each other down to the single row, and two for what this
//! schema adds: the fixed tables are complete (P1), and the indexes agree with their tables (P2).
//!
//! Every check is exact, and a missing row fails it: groups are joined from both sides, and what one side lacks counts
//! as nothing.
//!
//! Cost: reads every row once, and keeps about as much memory as the orders and the stock take.

mod conditions;
mod extras;
mod facts;
mod lines;

use mixlog_engine::Snapshot;

use self::facts::Facts;
use super::client::Acknowledged;
use super::schema::{POPULATION, Population};
use crate::check::{Check, Tally};

/// Checks a state.
///
/// `observed` are the acknowledgements since the population; without it, E7 and E8 compare the counters with the rows
/// of ORDER, and say so.
#[must_use]
pub fn audit(snapshot: &Snapshot, population: &Population, observed: Option<&Acknowledged>) -> Vec<Check> {
    let facts = Facts::gather(snapshot, population);
    let mut checks = conditions::checks(&facts);
    checks.extend(extras::checks(&facts, observed));
    checks.push(completeness(snapshot, &facts));
    checks.push(facts.indexes(snapshot));
    checks
}

/// P1: tables that transactions only update have exactly the rows of the population.
fn completeness(snapshot: &Snapshot, facts: &Facts) -> Check {
    let mut tally = Tally::new("P1", "tables");
    let recorded = snapshot.get(&POPULATION, &0);
    tally.see(recorded.as_ref() == Some(&facts.population), 0, || match recorded {
        Some(other) => format!("the population is {other:?}"),
        None => "the population is not recorded".to_owned(),
    });
    for (rank, (name, rows, expected)) in (1..).zip(facts.row_counts()) {
        tally.equal(&format!("rows of {name}"), rank, rows, expected);
    }
    tally.check()
}
