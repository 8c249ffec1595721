//! Whether what happened is what the log's order says.

use super::super::history::{Op, Status, Transaction};
use super::index::{Index, Map};
use super::{Anomalies, Kind, Named};

/// The transactions with a position, in the log's order.
fn in_log_order(history: &[&Transaction]) -> Vec<(u64, u32)> {
    let position = |(transaction, number): (&&Transaction, u32)| Some((transaction.position?, number));
    let mut list: Vec<(u64, u32)> = history.iter().zip(0..).filter_map(position).collect();
    list.sort_unstable();
    list
}

/// No two transactions share a position.
pub(super) fn unique(history: &[&Transaction], anomalies: &mut Anomalies) {
    for pair in in_log_order(history).windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        let [one, two] = [pair[0].1, pair[1].1].map(|number| Named(history, number));
        anomalies.add(Kind::SharedPosition, || format!("{one} and {two} are at the same position"));
    }
}

/// A transaction that had ended before another began comes first.
pub(super) fn realtime(history: &[&Transaction], anomalies: &mut Anomalies) {
    // The one that began last of all with smaller positions.
    let mut latest: Option<u32> = None;
    let began = |number: u32| history[number as usize].submitted_ns;
    for (_, number) in in_log_order(history) {
        if let (Some(latest), Some(completed)) = (latest, history[number as usize].completed_ns)
            && completed < began(latest)
        {
            let (one, two) = (Named(history, number), Named(history, latest));
            anomalies.add(Kind::Realtime, || {
                format!("{one} had ended {} ns before {two} began", began(latest) - completed)
            });
        }
        if latest.is_none_or(|latest| began(number) > began(latest)) {
            latest = Some(number);
        }
    }
}

/// The appends to a key of transactions that committed at a known position, in the log's order.
#[derive(Default)]
struct Appended {
    /// Position, and number of the operation.
    places: Vec<(u64, usize)>,
    values: Vec<u32>,
}

/// Each read is what was appended before it, by the log's order.
pub(super) fn reads(history: &[&Transaction], index: &Index, anomalies: &mut Anomalies) {
    let order: Vec<(u64, u32)> = in_log_order(history)
        .into_iter()
        .filter(|(_, number)| history[*number as usize].status == Status::Ok)
        .collect();
    let mut keys: Map<u64, Appended> = Map::default();
    for (position, number) in &order {
        for (op, at) in history[*number as usize].operations.iter().zip(0..) {
            if let Op::Append { key, value } = *op {
                let appended = keys.entry(key).or_default();
                appended.places.push((*position, at));
                appended.values.push(value);
            }
        }
    }
    let none = Appended::default();
    for (position, number) in &order {
        for (op, at) in history[*number as usize].operations.iter().zip(0..) {
            let Op::Read { key, list: Some(list) } = op else { continue };
            let appended = keys.get(key).unwrap_or(&none);
            let count = appended.places.partition_point(|place| *place < (*position, at));
            let expected = &appended.values[..count];
            if list != expected && known(history, *key, list, index) != expected {
                anomalies.add(Kind::LogOrder, || {
                    let who = Named(history, *number);
                    format!("{who} read {list:?} from key {key}, before which {expected:?} was appended")
                });
            }
        }
    }
}

/// The list without what transactions appended of which the position, or even the outcome, is not known.
fn known(history: &[&Transaction], key: u64, list: &[u32], index: &Index) -> Vec<u32> {
    let is_known = |value: &u32| {
        index.get(key, *value).is_none_or(|append| {
            let transaction = history[append.by as usize];
            transaction.status == Status::Fail
                || (transaction.status == Status::Ok && transaction.position.is_some())
        })
    };
    list.iter().copied().filter(is_known).collect()
}
