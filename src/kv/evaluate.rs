//! What operations do: first beside the tables, then, if none aborts, to them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::{Abort, Json, Key, Op, ROWS, store};
use crate::Tx;

/// Does the operations, and gives their results; or changes nothing.
pub(super) fn evaluate(ops: &[Op], tx: &mut Tx<'_>) -> Result<Vec<Json>, Abort> {
    let mut view = View { tx, changes: BTreeMap::new(), merged: Merged::of(ops) };
    let results = (0..).zip(ops).map(|(index, op)| view.apply(index, op)).collect::<Result<Vec<_>, _>>()?;
    let changes = view.changes;
    for (key, change) in changes {
        write(tx, key, change);
    }
    Ok(results)
}

/// The keys that a transaction adds to without looking at them: others may do the same at the same time.
pub(super) struct Merged<'a>(BTreeSet<&'a Key>);

impl<'a> Merged<'a> {
    pub(super) fn of(ops: &'a [Op]) -> Self {
        let merges = ops.iter().filter_map(|op| if let Op::MergeAdd(key, _) = op { Some(key) } else { None });
        let mut merged: BTreeSet<&Key> = merges.collect();
        for op in ops {
            if merged.is_empty() {
                break;
            }
            match op {
                Op::MergeAdd(..) => {}
                Op::Scan { .. } => {
                    if let Some(range) = op.range() {
                        merged.retain(|key| !range.contains(*key));
                    }
                }
                Op::Get(key)
                | Op::Put(key, _)
                | Op::Delete(key)
                | Op::Add(key, _)
                | Op::Append(key, _)
                | Op::Cas { key, .. }
                | Op::AbortIf(key, _) => {
                    merged.remove(key);
                }
            }
        }
        Self(merged)
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.0.contains(key)
    }
}

/// What became of a row.
enum Change {
    /// This is its value; null if there is none any more.
    Value(Json),
    /// These follow the list in the table, or are the list if there is none. It is not copied, so that to append to a
    /// long one costs no more than to a short one.
    Appended(Vec<Json>),
    /// This is added to it, and nothing else looks at it.
    Merged(i64),
}

fn write(tx: &mut Tx<'_>, key: &Key, change: Change) {
    match change {
        Change::Value(Json::Null) => {
            tx.delete(&ROWS, key);
        }
        Change::Value(value) => tx.put(&ROWS, key.clone(), value),
        Change::Appended(mut elements) => match tx.get_mut(&ROWS, key) {
            Some(Json::List(list)) => list.append(&mut elements),
            Some(_) => unreachable!("only lists are appended to"),
            None => tx.put(&ROWS, key.clone(), Json::List(elements)),
        },
        Change::Merged(amount) => {
            assert!(tx.merge(&ROWS, key.clone(), amount), "the row took a merge before")
        }
    }
}

/// The tables with the changes of this transaction.
struct View<'t, 'tx, 'a> {
    tx: &'t Tx<'tx>,
    changes: BTreeMap<&'a Key, Change>,
    merged: Merged<'a>,
}

/// The length of the list in the table, or `None` if something else is there.
fn stored_length(tx: &Tx<'_>, key: &Key) -> Option<usize> {
    match tx.get(&ROWS, key) {
        None => Some(0),
        Some(Json::List(list)) => Some(list.len()),
        Some(_) => None,
    }
}

static NULL: Json = Json::Null;

impl<'a> View<'_, '_, 'a> {
    fn apply(&mut self, index: u32, op: &'a Op) -> Result<Json, Abort> {
        Ok(match op {
            Op::Get(key) => self.get(key).into_owned(),
            Op::Put(key, value) => {
                self.put(key, value.clone());
                Json::Null
            }
            Op::Delete(key) => {
                let existed = *self.get(key) != Json::Null;
                self.put(key, Json::Null);
                Json::Bool(existed)
            }
            Op::Add(key, amount) => Json::Int(self.add(index, key, *amount)?),
            Op::Append(key, element) => {
                let length = self.append(key, element.clone()).ok_or(Abort::NotAList { op: index })?;
                Json::from(length as u64)
            }
            Op::Cas { key, old, new } => {
                let matches = *self.get(key) == *old;
                if matches {
                    self.put(key, new.clone());
                }
                Json::Bool(matches)
            }
            Op::Scan { limit, .. } => {
                Json::List(op.range().map_or_else(Vec::new, |range| self.scan(&range, *limit)))
            }
            Op::AbortIf(key, value) if *self.get(key) == *value => return Err(Abort::Asked { op: index }),
            Op::AbortIf(..) => Json::Null,
            Op::MergeAdd(key, amount) if self.merged.contains(key) => {
                let total = match self.changes.get(key) {
                    Some(Change::Merged(total)) => *total,
                    _ if self.tx.can_merge(&ROWS, key) => 0,
                    _ => return Err(Abort::NotAnInteger { op: index }),
                };
                self.changes.insert(key, Change::Merged(total.wrapping_add(*amount)));
                Json::Null
            }
            Op::MergeAdd(key, amount) => {
                self.add(index, key, *amount)?;
                Json::Null
            }
        })
    }

    fn get(&self, key: &Key) -> Cow<'_, Json> {
        let stored = || self.tx.get(&ROWS, key).unwrap_or(&NULL);
        match self.changes.get(key) {
            None => Cow::Borrowed(stored()),
            Some(Change::Value(value)) => Cow::Borrowed(value),
            Some(Change::Appended(elements)) => {
                let list = if let Json::List(list) = stored() { list.as_slice() } else { &[] };
                Cow::Owned(Json::List([list, elements].concat()))
            }
            Some(Change::Merged(_)) => unreachable!("nothing looks at it"),
        }
    }

    fn put(&mut self, key: &'a Key, value: Json) {
        self.changes.insert(key, Change::Value(value));
    }

    fn add(&mut self, index: u32, key: &'a Key, amount: i64) -> Result<i64, Abort> {
        let old = match &*self.get(key) {
            Json::Null => 0,
            Json::Int(integer) => *integer,
            _ => return Err(Abort::NotAnInteger { op: index }),
        };
        let sum = old.wrapping_add(amount);
        self.put(key, Json::Int(sum));
        Ok(sum)
    }

    /// The new length, or `None` if there is something else than a list.
    fn append(&mut self, key: &'a Key, element: Json) -> Option<usize> {
        match self.changes.get_mut(key) {
            Some(Change::Value(Json::List(list))) => {
                list.push(element);
                Some(list.len())
            }
            Some(Change::Value(Json::Null)) => {
                self.put(key, Json::List(vec![element]));
                Some(1)
            }
            Some(Change::Value(_) | Change::Merged(_)) => None,
            Some(Change::Appended(elements)) => {
                elements.push(element);
                Some(stored_length(self.tx, key)? + elements.len())
            }
            None => {
                let length = stored_length(self.tx, key)?;
                self.changes.insert(key, Change::Appended(vec![element]));
                Some(length + 1)
            }
        }
    }

    fn scan(&self, range: &Range<Key>, limit: u64) -> Vec<Json> {
        let mut stored = store::range(self.tx, range).peekable();
        let mut changed = self.changes.range::<Key, _>(&range.start..&range.end).peekable();
        let mut rows = Vec::new();
        while (rows.len() as u64) < limit {
            let unchanged = match (stored.peek(), changed.peek()) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((old, _)), Some((new, _))) => old < *new,
            };
            let (name, value) = if unchanged {
                let ((_, name), value) = stored.next().expect("it was peeked at");
                (name, Cow::Borrowed(value))
            } else {
                let (&key, _) = changed.next().expect("it was peeked at");
                stored.next_if(|(old, _)| old == key);
                (key.1.clone(), self.get(key))
            };
            if *value != Json::Null {
                rows.push(Json::List(vec![Json::Text(name), value.into_owned()]));
            }
        }
        rows
    }
}
