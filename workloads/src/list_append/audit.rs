//! Whether the lists, and what clients saw of them, are those of some serial execution: the log's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use mixlog_engine::Snapshot;

use super::check::{self, Anomaly, Kind};
use super::history::{Op, Status, Transaction};
use super::transaction::{Element, LISTS};
use crate::check::{Check, Tally};
use crate::workload::Observed;

/// The history of one client, which the workload keeps when the client is gone.
pub type ClientHistory = Arc<Mutex<Vec<Transaction>>>;

/// What clients know.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The lists before the clients began.
    pub earlier: BTreeMap<u64, Vec<Element>>,
    /// What the clients did since.
    pub histories: Vec<ClientHistory>,
}

impl Observed for Known {
    fn add(&mut self, other: Self) {
        self.earlier.extend(other.earlier);
        self.histories.extend(other.histories);
    }
}

/// All lists.
pub(super) fn lists(snapshot: &Snapshot) -> BTreeMap<u64, Vec<Element>> {
    let mut lists = BTreeMap::new();
    snapshot.for_each(&LISTS, |key, list| drop(lists.insert(*key, list.clone())));
    lists
}

/// Checks a state. L1: each list is in the order of the log. Against acknowledgements, L1 says more: the lists are
/// exactly the appends that were acknowledged. Then L2: each read is what was appended at smaller positions. L3: what
/// had ended before something else began has the smaller position. L4: whatever the positions say, an outsider finds
/// no anomaly in what was read, and when.
pub(super) fn audit(snapshot: &Snapshot, known: Option<&Known>) -> Vec<Check> {
    let found = lists(snapshot);
    let Some(known) = known else { return vec![ordered(&found).check()] };
    let histories: Vec<_> =
        known.histories.iter().map(|history| history.lock().expect("no panic in a client")).collect();
    let mut history: Vec<&Transaction> = histories.iter().flat_map(|history| history.iter()).collect();
    history.sort_by_key(|transaction| transaction.submitted_ns);

    let mut tally = ordered(&found).noting("against acknowledgements");
    let expected = expected(&history, &known.earlier);
    let empty = Vec::new();
    let keys = found.keys().chain(expected.keys().filter(|key| !found.contains_key(key)));
    for key in keys {
        let [is, should] = [&found, &expected].map(|lists| lists.get(key).unwrap_or(&empty));
        tally.see(is == should, *key, || format!("the list of key {key} is {is:?} instead of {should:?}"));
    }
    let log_order = check::log_order(&history);
    let (realtime, reads): (Vec<_>, Vec<_>) =
        log_order.into_iter().partition(|anomaly| anomaly.kind == Kind::Realtime);
    let is_read = |op: &&Op| matches!(op, Op::Read { list: Some(_), .. });
    let read_count = history.iter().map(|one| one.operations.iter().filter(is_read).count()).sum();
    vec![
        tally.check(),
        check("L2", read_count, "reads", &reads),
        check("L3", history.len(), "transactions", &realtime),
        check("L4", history.len(), "transactions", &check::isolation(&history)),
    ]
}

/// Without lists there is nothing to complain about: perhaps everything aborted.
fn ordered(lists: &BTreeMap<u64, Vec<Element>>) -> Tally {
    let mut tally = Tally::new("L1", "lists").if_any();
    for (key, list) in lists {
        let is_ordered = list.is_sorted_by_key(|element| element.position);
        let mut values: Vec<u32> = list.iter().map(|element| element.value).collect();
        values.sort_unstable();
        let is_unique = values.windows(2).all(|pair| pair[0] != pair[1]);
        tally.see(is_ordered && is_unique && !list.is_empty(), *key, || {
            format!("the list of key {key} is {list:?}")
        });
    }
    tally
}

/// The lists that the acknowledgements give.
fn expected(history: &[&Transaction], earlier: &BTreeMap<u64, Vec<Element>>) -> BTreeMap<u64, Vec<Element>> {
    let mut lists = earlier.clone();
    for transaction in history.iter().filter(|transaction| transaction.status == Status::Ok) {
        for op in &transaction.operations {
            if let (Op::Append { key, value }, Some(position)) = (op, transaction.position) {
                lists.entry(*key).or_default().push(Element { value: *value, position });
            }
        }
    }
    // A stable sort: the appends of one transaction stay in order.
    lists.values_mut().for_each(|list| list.sort_by_key(|element| element.position));
    lists
}

fn check(name: &str, examined: usize, what: &str, anomalies: &[Anomaly]) -> Check {
    let detail = match anomalies.first() {
        None => format!("{examined} {what}"),
        Some(first) => format!("at least {} anomalies in {examined} {what}; first: {first}", anomalies.len()),
    };
    Check { name: name.to_owned(), ok: anomalies.is_empty(), detail }
}
