//! Transactions: what they carry, how they are written, and what they do.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::evaluate::{Merged, evaluate};
use super::json::{MAX_DEPTH, TooDeep};
use super::{ANSWERS, Answer, Key, Op, ROWS, store};
use crate::{Footprint, Never, Procedure, Tx};

/// A list of operations, done together or not at all: the store's procedure.
///
/// Its JSON is what `mixlog apply` reads, an object with `ops`, and perhaps `id` and `footprint`:
///
/// ```
/// use mixlog::kv::Transaction;
/// let transaction: Transaction = r#"{"ops": [["get", "t", "k"]], "footprint": "none"}"#.parse().unwrap();
/// let wrong = r#"{"ops": [["get", "t"]]}"#.parse::<Transaction>().unwrap_err();
/// assert!(wrong.to_string().starts_with("get takes 2 arguments (table, key), not 1"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transaction {
    #[serde(default)]
    id: Option<String>,
    ops: Vec<Op>,
    #[serde(default)]
    footprint: Declared,
}

/// What a transaction tells the engine about what it will touch. It changes no result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub enum Declared {
    /// Just what the operations name; `"exact"` in JSON.
    #[default]
    Exact,
    /// Nothing; `"none"` in JSON.
    Nothing,
    /// These rows, right or wrong; `[[table, key, "read" or "write"], ...]` in JSON.
    Rows(Vec<(Key, Access)>),
}

/// How a row will be touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// It is looked at.
    Read,
    /// It may be changed.
    Write,
}

impl Transaction {
    /// A transaction without an id, with the exact footprint.
    ///
    /// # Errors
    /// [`TooDeep`] for values that nest deeper than [`MAX_DEPTH`].
    pub fn new(ops: Vec<Op>) -> Result<Self, TooDeep> {
        ops.iter().flat_map(Op::values).try_for_each(|value| value.check_depth(MAX_DEPTH))?;
        Ok(Self { id: None, ops, footprint: Declared::Exact })
    }

    /// Names the transaction, so that it takes effect once however often it is submitted.
    #[must_use]
    pub fn with_id(self, id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// Declares something else than the exact footprint.
    #[must_use]
    pub fn with_footprint(self, footprint: Declared) -> Self {
        Self { footprint, ..self }
    }

    /// Its id, if it has one.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Its operations.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Its footprint.
    #[must_use]
    pub const fn footprint(&self) -> &Declared {
        &self.footprint
    }

    /// Its id, without the rest.
    #[must_use]
    pub fn into_id(self) -> Option<String> {
        self.id
    }
}

impl Procedure for Transaction {
    const NAME: &'static str = "kv.transaction";
    type Output = Answer;
    /// To the engine even a transaction that aborts commits: its answer is remembered.
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        if self.footprint == Declared::Nothing {
            f.reconnoitre();
            return;
        }
        if let Some(id) = &self.id {
            f.write(&ANSWERS, id);
        }
        match &self.footprint {
            Declared::Rows(rows) => {
                for (key, access) in rows {
                    match access {
                        Access::Read => f.read(&ROWS, key),
                        Access::Write => f.write(&ROWS, key),
                    };
                }
            }
            Declared::Exact | Declared::Nothing => {
                let merged = Merged::of(&self.ops);
                self.ops.iter().for_each(|op| declare(op, &merged, f));
            }
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Answer, Never> {
        if let Some(first) = self.id.as_ref().and_then(|id| tx.get(&ANSWERS, id)) {
            return Ok(first.clone());
        }
        let position = tx.position().0;
        let answer = match evaluate(&self.ops, tx) {
            Ok(results) => Answer::Committed { position, results },
            Err(reason) => Answer::Aborted { position, reason },
        };
        if let Some(id) = &self.id {
            tx.put(&ANSWERS, id.clone(), answer.clone());
        }
        Ok(answer)
    }
}

/// Declares what an operation touches.
fn declare(op: &Op, merged: &Merged<'_>, f: &mut Footprint<'_>) {
    match op {
        Op::Get(key) | Op::AbortIf(key, _) => {
            f.read(&ROWS, key);
        }
        Op::Put(key, _) | Op::Delete(key) | Op::Add(key, _) | Op::Append(key, _) | Op::Cas { key, .. } => {
            f.write(&ROWS, key);
        }
        Op::Scan { limit, .. } => {
            if let Some(range) = op.range() {
                store::declare_range(f, &range, *limit);
            }
        }
        Op::MergeAdd(key, _) if merged.contains(key) => {
            f.merge(&ROWS, key);
        }
        Op::MergeAdd(key, _) => {
            f.write(&ROWS, key);
        }
    }
}

/// Why a text is no transaction, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestError(String);

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RequestError {}

impl FromStr for Transaction {
    type Err = RequestError;

    /// Reads the JSON of one transaction.
    ///
    /// Integers that fit neither `i64` nor `u64` are refused here, and -0 is made 0; serde_json alone would make them
    /// floating-point numbers. Those are rounded to the nearest double.
    fn from_str(json: &str) -> Result<Self, RequestError> {
        // serde would take an array of the fields, too.
        if !json.trim_start().starts_with('{') {
            return Err(RequestError("a transaction is a JSON object".to_owned()));
        }
        let mut text = Cow::Borrowed(json);
        for number in numbers(json) {
            let digits = &json[number.clone()];
            if digits == "-0" {
                // As long as it was, for the columns in messages.
                text.to_mut().replace_range(number, " 0");
            } else if !fits(digits) {
                return Err(RequestError(format!("the integer {digits} does not fit 64 bits")));
            }
        }
        serde_json::from_str(&text).map_err(|error| RequestError(explain(&error)))
    }
}

/// What the parser says, where that is clear.
fn explain(error: &serde_json::Error) -> String {
    const ALONE: &str = "a surrogate that stands alone in a \\u escape";
    error
        .to_string()
        .replace(" at line 1 column ", " at column ")
        .replace("lone leading surrogate in hex escape", ALONE)
        .replace("unexpected end of hex escape", ALONE)
}

/// Whether it is no integer, or one of 64 bits with or without sign. What is no number at all is for the parser to
/// refuse.
fn fits(number: &str) -> bool {
    // Shorter ones fit.
    number.len() < 19
        || number.contains(['.', 'e', 'E'])
        || number.parse::<i64>().is_ok()
        || number.parse::<u64>().is_ok()
}

/// Where numbers stand, outside of strings.
fn numbers(json: &str) -> impl Iterator<Item = Range<usize>> {
    let bytes = json.as_bytes();
    let is_of_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            match bytes[at] {
                b'"' => {
                    at += 1;
                    while at < bytes.len() && bytes[at] != b'"' {
                        at += if bytes[at] == b'\\' { 2 } else { 1 };
                    }
                    at += 1;
                }
                b'0'..=b'9' | b'-' => {
                    let start = at;
                    let length = bytes[at..].iter().position(|byte| !is_of_number(byte));
                    at = length.map_or(bytes.len(), |length| at + length);
                    return Some(start..at);
                }
                _ => at += 1,
            }
        }
        None
    })
}

impl Serialize for Declared {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            // The derived one: an inherent function, because of `remote`.
            return Declared::serialize(self, serializer);
        }
        match self {
            Self::Exact => serializer.serialize_str("exact"),
            Self::Nothing => serializer.serialize_str("none"),
            Self::Rows(rows) => {
                serializer.collect_seq(rows.iter().map(|((table, key), access)| (table, key, access)))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Declared {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Word(String),
            Rows(Vec<(String, String, Access)>),
        }
        if !deserializer.is_human_readable() {
            return Declared::deserialize(deserializer);
        }
        match Written::deserialize(deserializer) {
            Ok(Written::Word(word)) if word == "exact" => Ok(Self::Exact),
            Ok(Written::Word(word)) if word == "none" => Ok(Self::Nothing),
            Ok(Written::Rows(rows)) => {
                Ok(Self::Rows(rows.into_iter().map(|(table, key, access)| ((table, key), access)).collect()))
            }
            _ => Err(D::Error::custom(
                "a footprint is \"exact\", \"none\", or a list of [table, key, \"read\" or \"write\"]",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Json;
    use super::*;

    #[test]
    fn transaction_json_is_what_it_was_read_from() {
        let text = concat!(
            r#"{"id":"a","ops":[["get","t","k"],["put","t","k",{"a":[1,2.5]}],["delete","t","k"],["add","t","k",-5],"#,
            r#"["append","t","k",null],["cas","t","k",null,"x"],["scan","t","a","b",18446744073709551615],"#,
            r#"["abort_if","t","k",true],["merge_add","t","k",3]],"footprint":[["t","k","read"],["t","l","write"]]}"#
        );
        let transaction: Transaction = text.parse().expect("it is one");
        assert_eq!(serde_json::to_string(&transaction).expect("JSON"), text);
        assert_eq!(transaction.ops().len(), 9);
        let mut bytes = Vec::new();
        transaction.encode(&mut bytes);
        assert_eq!(Transaction::decode(&bytes), Ok(transaction));
        let short: Transaction = r#" {"ops":[], "id":null} "#.parse().expect("it is one");
        assert_eq!(short, Transaction::new(Vec::new()).expect("nothing is deep"));
        assert_eq!(
            serde_json::to_string(&short).expect("JSON"),
            r#"{"id":null,"ops":[],"footprint":"exact"}"#
        );
    }

    #[test]
    fn malformed_transactions_are_refused_with_a_reason() {
        let deep = format!(r#"{{"ops":[["put","t","k",{}{}]]}}"#, "[".repeat(500), "]".repeat(500));
        for (text, says) in [
            ("", "a transaction is a JSON object"),
            ("[null,[]]", "a transaction is a JSON object"),
            ("{", "EOF while parsing"),
            ("{}", "missing field `ops`"),
            (r#"{"ops":[]} {"#, "trailing characters at column 12"),
            (r#"{"ops":[],"ops":[]}"#, "duplicate field `ops`"),
            (r#"{"ops":[],"opt":[]}"#, "unknown field `opt`"),
            (r#"{"id":5,"ops":[]}"#, "invalid type: integer `5`, expected a string"),
            (r#"{"ops":[["get","t","k","v"]]}"#, "get takes 2 arguments (table, key), not 3"),
            (r#"{"ops":[["incr","t","k"]]}"#, r#"there is no operation "incr""#),
            (r#"{"ops":[[]]}"#, "an operation begins with its name"),
            (r#"{"ops":[[1]]}"#, "an operation begins with its name"),
            (r#"{"ops":["get"]}"#, "expected a sequence"),
            (r#"{"ops":[["get","t",1]]}"#, "the key of get must be a string, not 1"),
            (r#"{"ops":[["add","t","k",1.0]]}"#, "the amount of add must be an integer of 64 bits with sign"),
            (r#"{"ops":[["add","t","k",9223372036854775808]]}"#, "not 9223372036854775808"),
            (r#"{"ops":[["scan","t","a","b",-1]]}"#, "the limit of scan must be an integer from 0, not -1"),
            (r#"{"ops":[["scan","t","a",null,1]]}"#, "the to of scan must be a string, not null"),
            (r#"{"ops":[["put","t","k",{"a":1,"a":2}]]}"#, r#"an object names the key "a" twice"#),
            (
                r#"{"ops":[["put","t","k","\ud800"]]}"#,
                "a surrogate that stands alone in a \\u escape at column",
            ),
            (
                r#"{"ops":[["put","t","k","\udc00"]]}"#,
                "a surrogate that stands alone in a \\u escape at column",
            ),
            (
                r#"{"ops":[["put","t","k","\ud800\n"]]}"#,
                "a surrogate that stands alone in a \\u escape at column",
            ),
            (r#"{"ops":[["put","t","k","\ud8"]]}"#, "column"),
            (
                r#"{"ops":[["put","t","k",18446744073709551616]]}"#,
                "18446744073709551616 does not fit 64 bits",
            ),
            (r#"{"ops":[["put","t","k",-9223372036854775809]]}"#, "does not fit 64 bits"),
            (r#"{"ops":[["put","t","k",1e999]]}"#, "number out of range"),
            (r#"{"ops":[],"footprint":"all"}"#, "a footprint is"),
            (r#"{"ops":[],"footprint":[["t","k","merge"]]}"#, "a footprint is"),
            (r#"{"ops":[],"footprint":[["t","k"]]}"#, "a footprint is"),
            (&deep, "nests deeper than 100"),
        ] {
            let error = text.parse::<Transaction>().expect_err(text).to_string();
            assert!(error.contains(says), "{text} gives {error:?}, and not {says:?}");
        }
    }

    #[test]
    fn large_integers_are_looked_for_outside_of_strings_only() {
        let text =
            r#"{"ops":[["put","t","99999999999999999999\"99999999999999999999",1.0000000000000000000001]]}"#;
        assert!(text.parse::<Transaction>().is_ok());
        let found = |text: &str| numbers(text).map(|range| text[range].to_owned()).collect::<Vec<_>>();
        assert_eq!(found(r#"["\\",99999999999999999999, -1e5]"#), ["99999999999999999999", "-1e5"]);
        assert!(found(r#""99999999999999999999"#).is_empty(), "a string without an end");
        assert!(found("\"\\").is_empty());
    }

    #[test]
    fn integer_minus_zero_is_zero() {
        let text =
            r#"{"ops":[["cas","t","-0",-0,[-0,-0.0,-0e0]],["add","t","k",-0],["scan","t","a","b", -0 ]]}"#;
        let zero =
            text.replace(",-0,", ",0,").replace("[-0,", "[0,").replace(",-0]", ",0]").replace(" -0 ", "0");
        assert_eq!(text.parse::<Transaction>(), zero.parse());
        assert!(zero.contains("[0,-0.0,-0e0]") && zero.parse::<Transaction>().is_ok());
        for wrong in ["--0", "-00", "1-0", "- 0"] {
            let text = format!(r#"{{"ops":[["put","t","k",{wrong}]]}}"#);
            assert!(text.parse::<Transaction>().is_err(), "{text}");
        }
    }

    #[test]
    fn deep_values_are_refused_by_new_and_by_decode() {
        let nested = |depth: u32| (1..depth).fold(Json::Int(1), |value, _| Json::List(vec![value]));
        assert!(Transaction::new(vec![Op::put("t", "k", nested(MAX_DEPTH))]).is_ok());
        let deep = Op::cas("t", "k", Json::Null, nested(MAX_DEPTH + 1));
        assert_eq!(Transaction::new(vec![deep]), Err(TooDeep));
        let hostile =
            Transaction { id: None, ops: vec![Op::put("t", "k", nested(2000))], footprint: Declared::Exact };
        let mut bytes = Vec::new();
        hostile.encode(&mut bytes);
        assert!(Transaction::decode(&bytes).is_err());
    }
}
