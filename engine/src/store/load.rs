//! Rows as bytes, for checkpoints: all of a table, and back into an empty one.
//!
//! Loading runs on all workers at once, beside no transaction. Each row is made by one worker and touched by no other
//! until all have met, so nothing needs a schedule: not even a file that holds a key twice makes two workers meet at
//! one row.

use std::ops::{ControlFlow, Range};

use super::row::Stamp;
use super::slab::RowId;
use super::table_store::TableStore;
use super::{SeeRow, Store, Worker};
use crate::checkpoint::{RowFormat, row_format};
use crate::codec::{Codec, DecodeError};
use crate::table::{Key, Value};
use crate::tx::Tx;

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> TableStore<K, V, C> {
    pub(super) fn row_format(&self) -> RowFormat {
        row_format::<K, V, C>(self.row_version)
    }

    /// Shows `see` the bytes of all rows at `at`, until it breaks off. For registered snapshots.
    ///
    /// Fails at the first row that [`load_row`](Self::load_row) would not make the same row of again: what serde writes, with
    /// some of its attributes, postcard cannot read.
    pub(super) fn visit_rows_at(&self, at: Stamp, see: &mut SeeRow<'_>) -> Result<(), DecodeError> {
        let (mut key_scratch, mut value_scratch, mut again) = (Vec::new(), Vec::new(), Vec::new());
        let mut outcome = Ok(());
        self.visit_at(at, |key, value| {
            C::with_bytes(key, &mut key_scratch, |key| {
                C::with_bytes(value, &mut value_scratch, |value| {
                    outcome = read_back::<K, C>(key, &mut again)
                        .and_then(|()| read_back::<V, C>(value, &mut again));
                    if outcome.is_ok() { see(key, value) } else { ControlFlow::Break(()) }
                })
            })
        });
        outcome
    }

    /// Makes a row that holds a value since `at`, which is also where the window at hand starts. Keys that come twice
    /// are not noticed.
    ///
    /// # Safety
    /// No transaction runs, and nobody looks at the table before all workers have met.
    pub(super) unsafe fn load_row(
        &self,
        worker: &mut Worker,
        key: &[u8],
        value: &[u8],
        at: Stamp,
    ) -> Result<(), DecodeError> {
        let key: K = C::from_bytes(key)?;
        let value: V = C::from_bytes(value)?;
        let key_hash = self.key_hash(&key);
        let (unit, granule) = self.unit_and_granule(&key, key_hash);
        let id = self.create(worker, key, key_hash, unit, granule);
        // SAFETY: the row was made just now, and nobody else knows its number.
        unsafe {
            self.save(worker, id, at, at);
            *self.row(id).value_mut() = Some(value);
        }
        Ok(())
    }

    /// Puts the rows with these numbers into the table's indexes.
    ///
    /// # Safety
    /// All rows were loaded, and nothing else happens to the table meanwhile. `tx` is not guarded. Workers may do so at
    /// the same time, each with numbers of its own.
    pub(super) unsafe fn index_rows(&self, tx: &mut Tx<'_>, rows: Range<RowId>) -> Result<(), DecodeError> {
        for id in rows {
            let row = self.row(id);
            if row.latch.stamp() == Stamp::FREE {
                continue;
            }
            // SAFETY: the row exists, and nobody changes it.
            let (key, value) = unsafe { (row.key(), row.value()) };
            // A place in an index belongs to one key, so workers stay apart as long as each key has one row.
            if self.find(key, self.key_hash(key)) != Some(id) {
                return Err(DecodeError::new("a key comes twice"));
            }
            if let Some(value) = value {
                self.moved(tx, key, None, Some(value));
            }
        }
        Ok(())
    }
}

impl Store {
    /// The number of the table of this name.
    pub(crate) fn number_of(&self, name: &str) -> Option<u16> {
        (0u16..).zip(self.tables()).find(|(_, table)| table.name() == name).map(|(number, _)| number)
    }
}

/// Whether the bytes of a value are read as one that has the same bytes.
fn read_back<T, C: Codec<T>>(bytes: &[u8], scratch: &mut Vec<u8>) -> Result<(), DecodeError> {
    // Those of a type without padding are the type.
    if C::BYTES.is_some() {
        return Ok(());
    }
    let value = C::from_bytes(bytes)?;
    if C::with_bytes(&value, scratch, |again| again == bytes) {
        Ok(())
    } else {
        Err(DecodeError::new("it is read as a value with other bytes"))
    }
}
