//! What operations do: first beside the tables, then, if none aborts, to them.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use mixlog_engine::gaps::{Gaps, Run};

use super::json::{MAX_DEPTH, Room, VALUE_SIZE};
use super::{Abort, Json, Key, Op, ROWS, store};
use crate::Tx;

/// Does the operations, and gives their results; or changes nothing.
pub(super) fn evaluate(ops: &[Op], tx: &mut Tx<'_>) -> Result<Vec<Json>, Abort> {
    let (changes, gaps) = (BTreeMap::new(), Gaps::new());
    let mut view = View { tx, changes, gaps, merged: Merged::of(ops), room: Room::ALL };
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
                        let seen = merged.range::<Key, _>(&range.start..&range.end);
                        let seen: Vec<&Key> = seen.copied().collect();
                        for key in seen {
                            merged.remove(key);
                        }
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
    /// This is its value; null if there is none any more. The room is what it leaves of the limit of a value.
    Value(Json, Room),
    /// These follow the list in the table, or are the list if there is none. It is not copied for that; to find its room it
    /// is gone through, and the table copies it once in a window. The room is what both leave.
    Appended(Vec<Json>, Room),
    /// This is added to it, and nothing else looks at it.
    Merged(i64),
}

fn write(tx: &mut Tx<'_>, key: &Key, change: Change) {
    match change {
        Change::Value(Json::Null, _) => {
            tx.delete(&ROWS, key);
        }
        Change::Value(value, _) => tx.put(&ROWS, key.clone(), value),
        Change::Appended(mut elements, _) => match tx.get_mut(&ROWS, key) {
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
    /// Where scans found nothing but what the transaction had deleted.
    gaps: Gaps<&'a Key>,
    merged: Merged<'a>,
    /// What the results so far leave of their limit.
    room: Room,
}

/// The list in the table, which is empty if there is nothing, or `None` if something else is there.
fn stored_list<'t>(tx: &'t Tx<'_>, key: &Key) -> Option<&'t [Json]> {
    match tx.get(&ROWS, key) {
        None => Some(&[]),
        Some(Json::List(list)) => Some(list),
        Some(_) => None,
    }
}

static NULL: Json = Json::Null;

/// A value as the transaction sees it, without a copy.
enum Seen<'v> {
    Whole(&'v Json),
    /// A list, and what follows it.
    Appended(&'v [Json], &'v [Json]),
}

impl Seen<'_> {
    fn is(&self, value: &Json) -> bool {
        match (self, value) {
            (Self::Whole(seen), value) => *seen == value,
            (Self::Appended(list, elements), Json::List(value)) => {
                value.len() == list.len() + elements.len()
                    && value.starts_with(list)
                    && value.ends_with(elements)
            }
            (Self::Appended(..), _) => false,
        }
    }

    /// Takes the size of what is in it, which a copy has, too.
    fn take_inside(&self, room: &mut Room) -> Option<()> {
        match self {
            Self::Whole(value) => room.take_inside(value),
            Self::Appended(list, elements) => {
                room.take_values(list)?;
                room.take_values(elements)
            }
        }
    }

    fn to_json(&self) -> Json {
        match self {
            Self::Whole(value) => (*value).clone(),
            Self::Appended(list, elements) => Json::List([*list, *elements].concat()),
        }
    }
}

/// A row, or what became of it.
fn see<'v>(tx: &'v Tx<'_>, changes: &'v BTreeMap<&Key, Change>, key: &Key) -> Seen<'v> {
    match changes.get(key) {
        None => Seen::Whole(tx.get(&ROWS, key).unwrap_or(&NULL)),
        Some(Change::Value(value, _)) => Seen::Whole(value),
        Some(Change::Appended(elements, _)) => {
            Seen::Appended(stored_list(tx, key).unwrap_or_default(), elements)
        }
        Some(Change::Merged(_)) => unreachable!("nothing looks at it"),
    }
}

impl<'a> View<'_, '_, 'a> {
    fn apply(&mut self, index: u32, op: &'a Op) -> Result<Json, Abort> {
        const FULL: fn(u32) -> Abort = |op| Abort::ResultsTooLarge { op };
        self.room.take(VALUE_SIZE).ok_or_else(|| FULL(index))?;
        Ok(match op {
            Op::Get(key) => {
                let mut room = self.room;
                let value = self.see(key);
                value.take_inside(&mut room).ok_or_else(|| FULL(index))?;
                let value = value.to_json();
                self.room = room;
                value
            }
            Op::Put(key, value) => {
                self.put(index, key, value)?;
                Json::Null
            }
            Op::Delete(key) => {
                let existed = !self.see(key).is(&NULL);
                self.put(index, key, &NULL)?;
                Json::Bool(existed)
            }
            Op::Add(key, amount) => Json::Int(self.add(index, key, *amount)?),
            Op::Append(key, element) => Json::from(self.append(index, key, element)? as u64),
            Op::Cas { key, old, new } => {
                let matches = self.see(key).is(old);
                if matches {
                    self.put(index, key, new)?;
                }
                Json::Bool(matches)
            }
            Op::Scan { limit, .. } => {
                let rows = op.range().map_or_else(|| Some(Vec::new()), |range| self.scan(&range, *limit));
                Json::List(rows.ok_or_else(|| FULL(index))?)
            }
            Op::AbortIf(key, value) if self.see(key).is(value) => return Err(Abort::Asked { op: index }),
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

    fn see(&self, key: &Key) -> Seen<'_> {
        see(self.tx, &self.changes, key)
    }

    fn put(&mut self, index: u32, key: &'a Key, value: &Json) -> Result<(), Abort> {
        let mut room = Room::ALL;
        room.take_value(value).ok_or(Abort::ValueTooLarge { op: index })?;
        if *value != NULL {
            self.gaps.split(&key);
        }
        self.changes.insert(key, Change::Value(value.clone(), room));
        Ok(())
    }

    fn add(&mut self, index: u32, key: &'a Key, amount: i64) -> Result<i64, Abort> {
        let old = match self.see(key) {
            Seen::Whole(Json::Null) => 0,
            Seen::Whole(Json::Int(integer)) => *integer,
            _ => return Err(Abort::NotAnInteger { op: index }),
        };
        let sum = old.wrapping_add(amount);
        self.put(index, key, &Json::Int(sum))?;
        Ok(sum)
    }

    /// The new length.
    fn append(&mut self, index: u32, key: &'a Key, element: &Json) -> Result<usize, Abort> {
        let too_large = || Abort::ValueTooLarge { op: index };
        let stored = || stored_list(self.tx, key).ok_or(Abort::NotAList { op: index });
        element.check_depth(MAX_DEPTH - 1).map_err(|_| Abort::TooDeep { op: index })?;
        self.gaps.split(&key);
        let change = match self.changes.entry(key) {
            Entry::Occupied(change) => change.into_mut(),
            Entry::Vacant(change) => {
                let mut room = Room::ALL;
                room.take(VALUE_SIZE).ok_or_else(too_large)?;
                room.take_values(stored()?).ok_or_else(too_large)?;
                change.insert(Change::Appended(Vec::new(), room))
            }
        };
        match change {
            Change::Value(Json::List(list), room) => {
                room.take_value(element).ok_or_else(too_large)?;
                list.push(element.clone());
                Ok(list.len())
            }
            Change::Appended(elements, room) => {
                room.take_value(element).ok_or_else(too_large)?;
                elements.push(element.clone());
                Ok(stored()?.len() + elements.len())
            }
            Change::Value(Json::Null, _) => {
                self.put(index, key, &Json::List(vec![element.clone()]))?;
                Ok(1)
            }
            Change::Value(..) | Change::Merged(_) => Err(Abort::NotAList { op: index }),
        }
    }

    /// The rows, or `None` if there is no room for them.
    fn scan(&mut self, range: &Range<Key>, limit: u64) -> Option<Vec<Json>> {
        let Self { tx, changes, gaps, .. } = self;
        let (tx, mut room) = (*tx, self.room);
        let mut stored = store::range(tx, range.clone()).peekable();
        let mut changed = changes.range::<Key, _>(&range.start..&range.end).peekable();
        let mut rows = Vec::new();
        let mut deleted = Run::new();
        while (rows.len() as u64) < limit {
            let unchanged = match (stored.peek(), changed.peek()) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((old, _)), Some((new, _))) => old < *new,
            };
            let (name, value) = if unchanged {
                let ((_, name), value) = stored.next().expect("it was peeked at");
                (Cow::Owned(name), Seen::Whole(value))
            } else {
                let (&key, _) = changed.next().expect("it was peeked at");
                stored.next_if(|(old, _)| old == key);
                let value = see(tx, changes, key);
                if value.is(&NULL) {
                    if let Some(&end) = deleted.meet(&key, false, gaps) {
                        if *end >= range.end {
                            break;
                        }
                        stored = store::range(tx, end.clone()..range.end.clone()).peekable();
                        changed = changes.range::<Key, _>(end..&range.end).peekable();
                    }
                    continue;
                }
                (Cow::Borrowed(&key.1), value)
            };
            gaps.add(std::mem::take(&mut deleted));
            // The row, its name, and its value.
            room.take(3 * VALUE_SIZE + name.len())?;
            value.take_inside(&mut room)?;
            rows.push(Json::List(vec![Json::Text(name.into_owned()), value.to_json()]));
        }
        gaps.add(deleted);
        self.room = room;
        Some(rows)
    }
}
