//! What clients know of transactions: when each began and ended, what it did, what it read.
//!
//! In a file, a transaction is a line with a JSON object:
//!
//! ```text
//! {"p":3,"t0":1500,"t1":90210,"st":"ok","ops":[["a",7,1],["r",7,[1]],["r",8,[]]],"pos":42}
//! ```
//!
//! | field | what |
//! |---|---|
//! | `p` | the process: a number that no two transactions in flight share |
//! | `t0`, `t1` | when it was submitted and when the client knew its outcome, in nanoseconds of one monotonic clock; `t1` is null if the client never knew |
//! | `st` | `ok`: it committed; `fail`: it did not; `info`: nobody knows |
//! | `ops` | `["a", key, value]` appends, `["r", key, list]` reads; the list is null unless the transaction committed |
//! | `pos` | its position in the log, or null if nobody knows it |

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use super::transaction::Operation;

/// An operation and what it found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Line", into = "Line")]
pub enum Op {
    /// A value was appended.
    Append {
        /// Whose list.
        key: u64,
        /// What.
        value: u32,
    },
    /// A list was read.
    Read {
        /// Whose list.
        key: u64,
        /// What was found, if that is known.
        list: Option<Vec<u32>>,
    },
}

impl From<Operation> for Op {
    /// The operation before anybody knows what it finds.
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Append { key, value } => Self::Append { key, value },
            Operation::Read { key } => Self::Read { key, list: None },
        }
    }
}

/// An operation as it stands in a file.
type Line = (char, u64, Operand);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Operand {
    Value(u32),
    List(Option<Vec<u32>>),
}

impl From<Op> for Line {
    fn from(op: Op) -> Self {
        match op {
            Op::Append { key, value } => ('a', key, Operand::Value(value)),
            Op::Read { key, list } => ('r', key, Operand::List(list)),
        }
    }
}

impl TryFrom<Line> for Op {
    type Error = &'static str;

    fn try_from(line: Line) -> Result<Self, &'static str> {
        match line {
            ('a', key, Operand::Value(value)) => Ok(Self::Append { key, value }),
            ('r', key, Operand::List(list)) => Ok(Self::Read { key, list }),
            _ => Err(r#"an operation is ["a", key, value] or ["r", key, list]"#),
        }
    }
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It committed.
    Ok,
    /// It did not commit.
    Fail,
    /// Nobody knows.
    Info,
}

/// A transaction as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// A number that no two transactions in flight share.
    #[serde(rename = "p")]
    pub process: u32,
    /// When it was submitted, in nanoseconds of the history's clock.
    #[serde(rename = "t0")]
    pub submitted_ns: u64,
    /// When its client knew its outcome.
    #[serde(rename = "t1")]
    pub completed_ns: Option<u64>,
    /// What became of it.
    #[serde(rename = "st")]
    pub status: Status,
    /// What it did, in order.
    #[serde(rename = "ops")]
    pub operations: Vec<Op>,
    /// Where it stands in the log.
    #[serde(rename = "pos", default)]
    pub position: Option<u64>,
}

/// Writes a line for each transaction.
///
/// # Errors
/// Those of the writer.
pub fn write<'a>(
    transactions: impl IntoIterator<Item = &'a Transaction>,
    mut out: impl Write,
) -> io::Result<()> {
    for transaction in transactions {
        serde_json::to_writer(&mut out, transaction)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Reads what [`write()`] wrote.
///
/// # Errors
/// Those of the reader, and [`io::ErrorKind::InvalidData`] with the number of the first line that is no transaction.
pub fn read(lines: impl BufRead) -> io::Result<Vec<Transaction>> {
    let parse = |(line, number): (io::Result<String>, u64)| {
        serde_json::from_str(&line?).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("line {number} is no transaction: {error}"))
        })
    };
    lines.lines().zip(1..).map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_stand_in_a_file_as_documented() {
        let lines = concat!(
            r#"{"p":3,"t0":1500,"t1":90210,"st":"ok","ops":[["a",7,1],["r",7,[1]],["r",8,[]]],"pos":42}"#,
            "\n",
            r#"{"p":4,"t0":1600,"t1":1700,"st":"fail","ops":[["r",7,null]],"pos":43}"#,
            "\n",
            r#"{"p":5,"t0":1700,"t1":null,"st":"info","ops":[["a",7,2]],"pos":null}"#,
            "\n",
        );
        let history = read(lines.as_bytes()).expect("they are transactions");
        assert_eq!(history[0].operations[1], Op::Read { key: 7, list: Some(vec![1]) });
        assert_eq!(history[1].operations, [Op::Read { key: 7, list: None }]);
        assert_eq!((history[2].completed_ns, history[2].position), (None, None));
        let mut written = Vec::new();
        write(&history, &mut written).expect("memory takes it");
        assert_eq!(String::from_utf8(written).expect("text"), lines);
    }

    #[test]
    fn lines_that_are_no_transactions_are_named() {
        for line in ["", "[]", r#"{"p":1,"t0":1,"t1":2,"st":"ok","ops":[["w",1,1]]}"#] {
            let text = format!("{}\n{line}\n", r#"{"p":1,"t0":1,"t1":2,"st":"ok","ops":[]}"#);
            let error = read(text.as_bytes()).expect_err("it is refused");
            assert!(error.to_string().starts_with("line 2 "), "{error}");
        }
    }
}
