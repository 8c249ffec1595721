//! The transaction of list-append, and its table.

use mixlog_engine::{Footprint, Procedure, Table, Tx};
use serde::{Deserialize, Serialize};

use crate::footprints::Misdeclare;

/// An element of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Element {
    /// What was appended.
    pub value: u32,
    /// The position of the transaction that appended it.
    pub position: u64,
}

/// The lists, by key. A list to which nothing was appended is no row.
pub const LISTS: Table<u64, Vec<Element>> = Table::new("list_append.lists");

/// What is done to one list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Appends a value.
    Append {
        /// Whose list.
        key: u64,
        /// What; nothing else is ever appended to this list with this value.
        value: u32,
    },
    /// Reads the list.
    Read {
        /// Whose list.
        key: u64,
    },
}

impl Operation {
    /// Whose list it is.
    #[must_use]
    pub const fn key(&self) -> u64 {
        match *self {
            Self::Append { key, .. } | Self::Read { key } => key,
        }
    }

    const fn with_key(self, key: u64) -> Self {
        match self {
            Self::Append { value, .. } => Self::Append { key, value },
            Self::Read { .. } => Self::Read { key },
        }
    }
}

/// Carries out operations in order, all or none of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListAppend {
    /// What to do.
    pub operations: Vec<Operation>,
    /// Whether to abort when everything is done.
    pub abort: bool,
}

/// The transaction aborted, as it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked;

impl Procedure for ListAppend {
    const NAME: &'static str = "list_append";
    /// What each read found, in the order of the reads.
    type Output = Vec<Vec<u32>>;
    type Abort = Asked;

    fn footprint(&self, f: &mut Footprint<'_>) {
        for operation in &self.operations {
            match operation {
                Operation::Append { key, .. } => f.write(&LISTS, key),
                Operation::Read { key } => f.read(&LISTS, key),
            };
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<Vec<u32>>, Asked> {
        let position = tx.position().0;
        let mut reads = Vec::new();
        for operation in &self.operations {
            match *operation {
                Operation::Append { key, value } => {
                    let element = Element { value, position };
                    match tx.get_mut(&LISTS, &key) {
                        Some(list) => list.push(element),
                        None => tx.put(&LISTS, key, vec![element]),
                    }
                }
                Operation::Read { key } => {
                    let list = tx.get(&LISTS, &key).map_or(&[][..], Vec::as_slice);
                    reads.push(list.iter().map(|element| element.value).collect());
                }
            }
        }
        if self.abort { Err(Asked) } else { Ok(reads) }
    }
}

impl Misdeclare for ListAppend {
    /// Forgets the second half of the operations, and takes the others for reads.
    fn less(&self) -> Option<Self> {
        let half = self.operations[..self.operations.len() / 2].iter();
        let operations = half.map(|operation| Operation::Read { key: operation.key() }).collect();
        Some(Self { operations, ..*self })
    }

    fn other(&self) -> Self {
        let operations = self.operations.iter();
        let operations = operations.map(|operation| operation.with_key(operation.key() ^ 1)).collect();
        Self { operations, ..*self }
    }
}
