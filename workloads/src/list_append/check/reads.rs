//! What each read tells by itself, and the order of versions that all of them tell together.

use super::super::history::{Op, Status, Transaction};
use super::index::{Index, Map};
use super::{Anomalies, Kind, Named};

/// The transactions that appended to a key, in the order of the longest list that was read from it. Elements that
/// cannot have been there (garbage, duplicates, those of transactions that did not commit) have none.
pub(super) struct Versions<'a> {
    /// The longest list.
    pub(super) list: &'a [u32],
    /// Who appended each element.
    pub(super) by: Vec<Option<u32>>,
}

/// The version orders of a history, and what transactions saw of them.
pub(super) struct Order<'a> {
    /// By key.
    pub(super) keys: Map<u64, Versions<'a>>,
    /// What was read, before the reader's own appends.
    pub(super) seen: Vec<Seen>,
}

/// A read of a version.
pub(super) struct Seen {
    /// The transaction that read it.
    pub(super) by: u32,
    /// Whose list.
    pub(super) key: u64,
    /// How long it was, without what the reader had appended itself.
    pub(super) length: usize,
}

/// What histories promise about themselves.
pub(super) fn well_formed(history: &[&Transaction], anomalies: &mut Anomalies) {
    let mut by_process: Vec<u32> = (0..history.len() as u32).collect();
    by_process.sort_unstable_by_key(|number| {
        let transaction = history[*number as usize];
        (transaction.process, transaction.submitted_ns, transaction.completed_ns.unwrap_or(u64::MAX))
    });
    for pair in by_process.windows(2) {
        let [one, two] = [pair[0], pair[1]].map(|number| history[number as usize]);
        let ended = one.completed_ns.is_some_and(|completed| completed <= two.submitted_ns);
        if one.process == two.process && !ended {
            anomalies.add(Kind::Malformed, || {
                let (one, two) = (Named(history, pair[0]), Named(history, pair[1]));
                format!("{one} and {two} of the same process are in flight at the same time")
            });
        }
    }
    for (transaction, number) in history.iter().zip(0..) {
        let is_silent = |op: &Op| matches!(op, Op::Read { list: None, .. });
        let what = if transaction.completed_ns.is_some_and(|completed| completed < transaction.submitted_ns) {
            "ended before it began"
        } else if transaction.completed_ns.is_none() && transaction.status != Status::Info {
            "has an outcome and no end"
        } else if transaction.status == Status::Ok && transaction.operations.iter().any(is_silent) {
            "committed and does not say what it read"
        } else {
            continue;
        };
        anomalies.add(Kind::Malformed, || format!("{} {what}", Named(history, number)));
    }
}

/// Checks every read of transactions that committed, and finds the order of versions.
pub(super) fn versions<'a>(
    history: &[&'a Transaction],
    index: &mut Index,
    anomalies: &mut Anomalies,
) -> Order<'a> {
    let mut longest: Map<u64, (&'a [u32], u32)> = Map::default();
    for_each_read(history, |by, key, list| {
        let place = longest.entry(key).or_insert((&[], by));
        if list.len() > place.0.len() {
            *place = (list, by);
        }
    });
    let mut keys: Vec<u64> = longest.keys().copied().collect();
    keys.sort_unstable();
    let mut order = Order { keys: Map::default(), seen: Vec::new() };
    for key in keys {
        let (list, reader) = longest[&key];
        let by = writers(history, key, list, reader, index, anomalies);
        order.keys.insert(key, Versions { list, by });
    }
    for_each_read(history, |by, key, list| {
        let (longest, of) = longest[&key];
        if !longest.starts_with(list) {
            anomalies.add(Kind::IncompatibleOrder, || {
                let (one, two) = (Named(history, by), Named(history, of));
                format!("{one} read {list:?} from key {key}, {two} read {longest:?}")
            });
            elements(history, key, list, by, index, anomalies);
        }
    });
    for (transaction, by) in history.iter().zip(0..) {
        if transaction.status == Status::Ok {
            inside(history, by, index, anomalies, &mut order);
        }
    }
    order
}

fn for_each_read<'a>(history: &[&'a Transaction], mut visit: impl FnMut(u32, u64, &'a [u32])) {
    for (transaction, by) in
        history.iter().zip(0..).filter(|(transaction, _)| transaction.status == Status::Ok)
    {
        for op in &transaction.operations {
            if let Op::Read { key, list: Some(list) } = op {
                visit(by, *key, list);
            }
        }
    }
}

/// Who appended the elements of the longest list of a key.
fn writers(
    history: &[&Transaction],
    key: u64,
    list: &[u32],
    reader: u32,
    index: &mut Index,
    anomalies: &mut Anomalies,
) -> Vec<Option<u32>> {
    let mut aborted: Option<u32> = None;
    let mut writer = |value: &u32| {
        let who = Named(history, reader);
        let Some((append, again)) = index.see(key, *value) else {
            anomalies
                .add(Kind::Garbage, || format!("{who} read {value} from key {key}, which nobody appended"));
            return None;
        };
        let by = Named(history, append.by);
        if again {
            anomalies.add(Kind::Duplicate, || format!("{who} read {value} twice from key {key}"));
            return None;
        }
        if history[append.by as usize].status == Status::Fail {
            anomalies.add(Kind::AbortedRead, || {
                format!("{who} read {value} from key {key}, which {by} appended and did not commit")
            });
            aborted = Some(append.by);
            return None;
        }
        if let Some(aborted) = aborted.take() {
            let aborted = Named(history, aborted);
            anomalies.add(Kind::DirtyUpdate, || {
                format!(
                    "{by} appended {value} to key {key} after an append of {aborted}, which did not commit"
                )
            });
        }
        Some(append.by)
    };
    list.iter().map(&mut writer).collect()
}

/// Checks the elements of a list that is not the beginning of the longest one.
fn elements(
    history: &[&Transaction],
    key: u64,
    list: &[u32],
    reader: u32,
    index: &Index,
    anomalies: &mut Anomalies,
) {
    let who = Named(history, reader);
    let mut sorted = list.to_vec();
    sorted.sort_unstable();
    for pair in sorted.windows(2).filter(|pair| pair[0] == pair[1]) {
        anomalies.add(Kind::Duplicate, || format!("{who} read {} twice from key {key}", pair[0]));
    }
    for value in list {
        match index.get(key, *value) {
            None => anomalies
                .add(Kind::Garbage, || format!("{who} read {value} from key {key}, which nobody appended")),
            Some(append) if history[append.by as usize].status == Status::Fail => {
                anomalies.add(Kind::AbortedRead, || {
                    let by = Named(history, append.by);
                    format!("{who} read {value} from key {key}, which {by} appended and did not commit")
                });
            }
            Some(_) => {}
        }
    }
}

/// What a transaction knows of a key from its own operations.
#[derive(Default)]
struct Known<'a> {
    /// The list that it read first, without its own appends until then.
    before: Option<&'a [u32]>,
    /// What it appended.
    own: Vec<u32>,
}

/// Checks the reads of a transaction against each other and its own appends, and notes which versions it saw.
fn inside(
    history: &[&Transaction],
    number: u32,
    index: &Index,
    anomalies: &mut Anomalies,
    order: &mut Order<'_>,
) {
    let who = Named(history, number);
    let mut keys: Vec<(u64, Known<'_>)> = Vec::new();
    for op in &history[number as usize].operations {
        let (Op::Append { key, .. } | Op::Read { key, .. }) = *op;
        let place = keys.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            keys.push((key, Known::default()));
            keys.len() - 1
        });
        let known = &mut keys[place].1;
        match op {
            Op::Append { value, .. } => {
                if known.before.is_some_and(|list| list.contains(value)) {
                    anomalies.add(Kind::Internal, || {
                        format!("{who} read {value} from key {key} before it appended it")
                    });
                }
                known.own.push(*value);
            }
            Op::Read { list: Some(list), .. } => {
                let Some(before) = list.strip_suffix(known.own.as_slice()) else {
                    anomalies.add(Kind::Internal, || {
                        format!("{who} read {list:?} from key {key} after it appended {:?}", known.own)
                    });
                    continue;
                };
                if let Some(first) = known.before {
                    if first != before {
                        anomalies.add(Kind::Internal, || {
                            format!("{who} read {first:?} from key {key}, then {before:?} before its own")
                        });
                    }
                    continue;
                }
                known.before = Some(before);
                if order.keys[&key].list.starts_with(before) {
                    order.seen.push(Seen { by: number, key, length: before.len() });
                }
                let last = before.last().and_then(|value| index.get(key, *value));
                if let Some(append) = last.filter(|append| !append.is_last && append.by != number) {
                    anomalies.add(Kind::IntermediateRead, || {
                        let by = Named(history, append.by);
                        format!("{who} read {before:?} from key {key}, to which {by} appended more")
                    });
                }
            }
            Op::Read { list: None, .. } => {}
        }
    }
}
