//! The transaction of every YCSB workload: a list of operations, all or none of them.

use std::marker::PhantomData;

use mixlog_engine::{DecodeError, Footprint, Procedure, Tx};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::record::{FIELDS, Record, checksum, update_field, write_record};
use crate::codec::Reader;
use crate::footprints::Misdeclare;

/// What is done to one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Reads all fields.
    Read,
    /// Writes a field.
    Update(u8),
    /// Reads all fields, then writes one.
    ReadModifyWrite(u8),
    /// Writes a new record of so many bytes.
    Insert(u32),
    /// Reads so many records from this one on, in key order.
    Scan(u32),
}

impl Action {
    fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::Read => out.push(0),
            Self::Update(field) => out.push(0x10 | field),
            Self::ReadModifyWrite(field) => out.push(0x20 | field),
            Self::Insert(value_size) => {
                out.push(0x30);
                out.extend_from_slice(&value_size.to_le_bytes());
            }
            Self::Scan(records) => {
                out.push(0x40);
                out.extend_from_slice(&records.to_le_bytes());
            }
        }
    }

    fn decode(bytes: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let byte = bytes.u8()?;
        let field = byte & 0xf;
        match byte >> 4 {
            0 if field == 0 => Ok(Self::Read),
            1 if usize::from(field) < FIELDS => Ok(Self::Update(field)),
            2 if usize::from(field) < FIELDS => Ok(Self::ReadModifyWrite(field)),
            3 if field == 0 => bytes.u32().map(Self::Insert),
            4 if field == 0 => bytes.u32().map(Self::Scan),
            _ => Err(DecodeError::new(
                "an action is a read (0), an update (1) or both (2) of field 0 to 9, an insert (3) or a scan (4)",
            )),
        }
    }
}

/// An operation on one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The record's key.
    pub key: u64,
    /// What is done to it.
    pub action: Action,
}

/// The operations of a transaction, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Operations(SmallVec<[Operation; 10]>);

impl Operations {
    /// These operations.
    pub fn new(operations: impl IntoIterator<Item = Operation>) -> Self {
        Self(operations.into_iter().collect())
    }

    /// The operations.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[Operation] {
        &self.0
    }
}

/// Carries out operations on records of one kind.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Operate<R> {
    /// What to do.
    pub operations: Operations,
    #[serde(skip)]
    record: PhantomData<fn() -> R>,
}

impl<R> Clone for Operate<R> {
    fn clone(&self) -> Self {
        Self::new(self.operations.clone())
    }
}

impl<R> PartialEq for Operate<R> {
    fn eq(&self, other: &Self) -> bool {
        self.operations == other.operations
    }
}

impl<R> Operate<R> {
    /// The transaction of these operations.
    #[must_use]
    pub const fn new(operations: Operations) -> Self {
        Self { operations, record: PhantomData }
    }
}

/// Why nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperateAbort {
    /// There is no record with this key.
    NoRecord(u64),
    /// There is a record with this key already.
    Exists(u64),
    /// Records of this kind do not have that size.
    WrongSize(u32),
    /// Records of this kind have no order.
    NotOrdered,
}

impl<R: Record> Procedure for Operate<R> {
    const NAME: &'static str = R::OPERATE;
    /// The sum of the checksums of all records that were read.
    type Output = u64;
    type Abort = OperateAbort;

    fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(9 * self.operations.0.len());
        for operation in self.operations.as_slice() {
            out.extend_from_slice(&operation.key.to_le_bytes());
            operation.action.encode(out);
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut operations = SmallVec::with_capacity(bytes.len() / 9);
        let mut bytes = Reader::new(bytes);
        while !bytes.is_empty() {
            operations.push(Operation { key: bytes.u64()?, action: Action::decode(&mut bytes)? });
        }
        Ok(Self::new(Operations(operations)))
    }

    fn footprint(&self, f: &mut Footprint<'_>) {
        for Operation { key, action } in self.operations.as_slice() {
            match action {
                Action::Read => R::declare_read(f, *key),
                Action::Scan(records) => R::declare_scan(f, *key, *records as usize),
                Action::Update(_) | Action::ReadModifyWrite(_) | Action::Insert(_) => {
                    R::declare_write(f, *key)
                }
            }
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, OperateAbort> {
        let mut sum = 0u64;
        for Operation { key, action } in self.operations.as_slice() {
            match *action {
                Action::Read => {
                    let record = R::get(tx, *key).ok_or(OperateAbort::NoRecord(*key))?;
                    sum = sum.wrapping_add(checksum(record.bytes()));
                }
                Action::Update(field) => {
                    let record = R::get_mut(tx, *key).ok_or(OperateAbort::NoRecord(*key))?;
                    update_field(record.bytes_mut(), *key, usize::from(field));
                }
                Action::ReadModifyWrite(field) => {
                    let record = R::get_mut(tx, *key).ok_or(OperateAbort::NoRecord(*key))?;
                    sum = sum.wrapping_add(checksum(record.bytes()));
                    update_field(record.bytes_mut(), *key, usize::from(field));
                }
                Action::Scan(records) => {
                    let scanned = R::scan(tx, *key, records as usize).ok_or(OperateAbort::NotOrdered)?;
                    sum = sum.wrapping_add(scanned);
                }
                Action::Insert(value_size) => {
                    if R::get(tx, *key).is_some() {
                        return Err(OperateAbort::Exists(*key));
                    }
                    let record = R::zeroed(value_size as usize);
                    let mut record = record.ok_or(OperateAbort::WrongSize(value_size))?;
                    write_record(record.bytes_mut(), *key);
                    R::put(tx, *key, record);
                }
            }
        }
        Ok(sum)
    }
}

impl<R: Record> Misdeclare for Operate<R> {
    /// Forgets the second half of the operations, and takes the others for reads.
    fn less(&self) -> Option<Self> {
        let operations = self.operations.as_slice();
        let half = operations[..operations.len() / 2].iter();
        Some(Self::new(Operations::new(
            half.map(|operation| Operation { action: Action::Read, ..*operation }),
        )))
    }

    fn other(&self) -> Self {
        let operations = self.operations.as_slice().iter();
        Self::new(Operations::new(
            operations.map(|operation| Operation { key: operation.key ^ 1, ..*operation }),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Inline;
    use super::*;

    #[test]
    fn operate_survives_its_encoding_and_refuses_malformed_bytes() {
        let actions = [
            Action::Read,
            Action::Update(9),
            Action::ReadModifyWrite(0),
            Action::Insert(100),
            Action::Scan(7),
        ];
        let list = actions.iter().map(|action| Operation { key: u64::MAX, action: *action });
        let operate = Operate::<Inline<100>>::new(Operations::new(list));
        let mut bytes = Vec::new();
        operate.encode(&mut bytes);
        assert_eq!(Operate::decode(&bytes).expect("it decodes"), operate);
        assert_eq!(bytes.len(), 53);
        for length in (0..53).filter(|length| ![0, 9, 18, 27, 40].contains(length)) {
            assert!(Operate::<Inline<100>>::decode(&bytes[..length]).is_err(), "{length} bytes");
        }
        for action in [0x01, 0x1a, 0x2f, 0x31, 0x41, 0x50, 0xff] {
            bytes[8] = action;
            assert!(Operate::<Inline<100>>::decode(&bytes).is_err(), "action {action:#x}");
        }
    }
}
