//! Operations, and how they are written in JSON.

use std::ops::Range;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Json, Key};

/// One step of a transaction; see the [module](super) for what each one results in.
///
/// In human-readable formats it is an array that begins with its name: `["put", "table", "key", 5]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub enum Op {
    /// Reads a value.
    Get(Key),
    /// Writes a value; null deletes.
    Put(Key, Json),
    /// Deletes a value.
    Delete(Key),
    /// Adds to an integer, and tells the sum.
    Add(Key, i64),
    /// Adds an element to the end of a list.
    Append(Key, Json),
    /// Writes the value `new` if the value is `old`; null stands for no value.
    Cas {
        /// Which value.
        key: Key,
        /// What it is compared with, by type and value.
        old: Json,
        /// What takes its place.
        new: Json,
    },
    /// Reads the values with keys in `[from, to)`, in the order of the keys' bytes.
    Scan {
        /// The table.
        table: String,
        /// The first key.
        from: String,
        /// The key before which the scan ends.
        to: String,
        /// How many values at most.
        limit: u64,
    },
    /// Aborts the transaction if the value is this one; null stands for no value.
    AbortIf(Key, Json),
    /// Adds to an integer, and does not tell the sum.
    MergeAdd(Key, i64),
}

fn key(table: impl Into<String>, key: impl Into<String>) -> Key {
    (table.into(), key.into())
}

impl Op {
    /// See [`Op::Get`].
    pub fn get(table: impl Into<String>, row: impl Into<String>) -> Self {
        Self::Get(key(table, row))
    }

    /// See [`Op::Put`].
    pub fn put(table: impl Into<String>, row: impl Into<String>, value: impl Into<Json>) -> Self {
        Self::Put(key(table, row), value.into())
    }

    /// See [`Op::Delete`].
    pub fn delete(table: impl Into<String>, row: impl Into<String>) -> Self {
        Self::Delete(key(table, row))
    }

    /// See [`Op::Add`].
    pub fn add(table: impl Into<String>, row: impl Into<String>, amount: i64) -> Self {
        Self::Add(key(table, row), amount)
    }

    /// See [`Op::Append`].
    pub fn append(table: impl Into<String>, row: impl Into<String>, element: impl Into<Json>) -> Self {
        Self::Append(key(table, row), element.into())
    }

    /// See [`Op::Cas`].
    pub fn cas(
        table: impl Into<String>,
        row: impl Into<String>,
        old: impl Into<Json>,
        new: impl Into<Json>,
    ) -> Self {
        Self::Cas { key: key(table, row), old: old.into(), new: new.into() }
    }

    /// See [`Op::Scan`].
    pub fn scan(
        table: impl Into<String>,
        from: impl Into<String>,
        to: impl Into<String>,
        limit: u64,
    ) -> Self {
        Self::Scan { table: table.into(), from: from.into(), to: to.into(), limit }
    }

    /// See [`Op::AbortIf`].
    pub fn abort_if(table: impl Into<String>, row: impl Into<String>, value: impl Into<Json>) -> Self {
        Self::AbortIf(key(table, row), value.into())
    }

    /// See [`Op::MergeAdd`].
    pub fn merge_add(table: impl Into<String>, row: impl Into<String>, amount: i64) -> Self {
        Self::MergeAdd(key(table, row), amount)
    }

    /// The values that it carries.
    pub(super) fn values(&self) -> impl Iterator<Item = &Json> {
        let (one, other) = match self {
            Self::Put(_, value) | Self::Append(_, value) | Self::AbortIf(_, value) => (Some(value), None),
            Self::Cas { old, new, .. } => (Some(old), Some(new)),
            Self::Get(_) | Self::Delete(_) | Self::Add(..) | Self::Scan { .. } | Self::MergeAdd(..) => {
                (None, None)
            }
        };
        one.into_iter().chain(other)
    }

    /// The keys that a scan looks at, unless there are none, because it ends before it begins.
    pub(super) fn range(&self) -> Option<Range<Key>> {
        match self {
            Self::Scan { table, from, to, .. } if from < to => {
                Some((table.clone(), from.clone())..(table.clone(), to.clone()))
            }
            _ => None,
        }
    }

    /// The operation that an array spells.
    fn from_array(array: Vec<Json>) -> Result<Self, String> {
        let mut arguments = array.into_iter();
        let name = match arguments.next() {
            Some(Json::Text(name)) => name,
            _ => return Err("an operation begins with its name".to_owned()),
        };
        let parameters: &[&str] = match name.as_str() {
            "get" | "delete" => &["table", "key"],
            "put" | "append" | "abort_if" => &["table", "key", "value"],
            "add" | "merge_add" => &["table", "key", "amount"],
            "cas" => &["table", "key", "old", "new"],
            "scan" => &["table", "from", "to", "limit"],
            _ => return Err(format!("there is no operation {name:?}")),
        };
        if arguments.len() != parameters.len() {
            return Err(format!(
                "{name} takes {} arguments ({}), not {}",
                parameters.len(),
                parameters.join(", "),
                arguments.len()
            ));
        }
        let mut next = Arguments { name: &name, named: parameters.iter().zip(arguments) };
        Ok(match name.as_str() {
            "get" => Self::Get(next.key()?),
            "delete" => Self::Delete(next.key()?),
            "put" => Self::Put(next.key()?, next.value()),
            "append" => Self::Append(next.key()?, next.value()),
            "abort_if" => Self::AbortIf(next.key()?, next.value()),
            "add" => Self::Add(next.key()?, next.integer()?),
            "merge_add" => Self::MergeAdd(next.key()?, next.integer()?),
            "cas" => Self::Cas { key: next.key()?, old: next.value(), new: next.value() },
            _ => {
                Self::Scan { table: next.text()?, from: next.text()?, to: next.text()?, limit: next.count()? }
            }
        })
    }
}

/// The arguments of an operation, with the names that messages call them by.
struct Arguments<'a, I> {
    name: &'a str,
    named: I,
}

impl<'a, I: Iterator<Item = (&'a &'a str, Json)>> Arguments<'a, I> {
    fn next(&mut self) -> (&'a str, Json) {
        let (parameter, value) = self.named.next().expect("the arguments were counted");
        (parameter, value)
    }

    fn refuse<T>(&self, parameter: &str, must: &str, value: &Json) -> Result<T, String> {
        Err(format!("the {parameter} of {} must be {must}, not {}", self.name, kind(value)))
    }

    fn value(&mut self) -> Json {
        self.next().1
    }

    fn text(&mut self) -> Result<String, String> {
        match self.next() {
            (_, Json::Text(text)) => Ok(text),
            (parameter, other) => self.refuse(parameter, "a string", &other),
        }
    }

    fn key(&mut self) -> Result<Key, String> {
        Ok((self.text()?, self.text()?))
    }

    fn integer(&mut self) -> Result<i64, String> {
        match self.next() {
            (_, Json::Int(integer)) => Ok(integer),
            (parameter, other) => self.refuse(parameter, "an integer of 64 bits with sign", &other),
        }
    }

    fn count(&mut self) -> Result<u64, String> {
        match self.next() {
            (_, Json::Unsigned(count)) => Ok(count.get()),
            (parameter, Json::Int(count)) => match u64::try_from(count) {
                Ok(count) => Ok(count),
                Err(_) => self.refuse(parameter, "an integer from 0", &Json::Int(count)),
            },
            (parameter, other) => self.refuse(parameter, "an integer from 0", &other),
        }
    }
}

/// A value as messages show it: numbers as they are, the rest may be long.
fn kind(value: &Json) -> String {
    match value {
        Json::Text(_) => "a string".to_owned(),
        Json::List(_) => "a list".to_owned(),
        Json::Object(_) => "an object".to_owned(),
        short => short.to_string(),
    }
}

impl Serialize for Op {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            // The derived one: an inherent function, because of `remote`.
            return Op::serialize(self, serializer);
        }
        match self {
            Self::Get((table, key)) => ("get", table, key).serialize(serializer),
            Self::Put((table, key), value) => ("put", table, key, value).serialize(serializer),
            Self::Delete((table, key)) => ("delete", table, key).serialize(serializer),
            Self::Add((table, key), amount) => ("add", table, key, amount).serialize(serializer),
            Self::Append((table, key), value) => ("append", table, key, value).serialize(serializer),
            Self::Cas { key: (table, key), old, new } => ("cas", table, key, old, new).serialize(serializer),
            Self::Scan { table, from, to, limit } => ("scan", table, from, to, limit).serialize(serializer),
            Self::AbortIf((table, key), value) => ("abort_if", table, key, value).serialize(serializer),
            Self::MergeAdd((table, key), amount) => ("merge_add", table, key, amount).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Op {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            Self::from_array(Vec::deserialize(deserializer)?).map_err(D::Error::custom)
        } else {
            Op::deserialize(deserializer)
        }
    }
}
