//! Rows of an older version of their type, made into those of the registered one while a checkpoint is loaded.

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use super::layout::RowFormat;
use crate::codec::{Codec, DecodeError};
use crate::table::{Key, Table, TableId, Value};

/// From the bytes of a key and a row to those of the new ones, which are put behind what is in the buffers.
type Convert = Box<dyn Fn(&[u8], &[u8], &mut Vec<u8>, &mut Vec<u8>) -> Result<(), DecodeError> + Send + Sync>;

/// The way from one format of a table's rows to another.
pub(crate) struct Conversion {
    /// Both tables' names, which must be one.
    pub(crate) names: [&'static str; 2],
    pub(crate) from: RowFormat,
    pub(crate) to: RowFormat,
    convert: Convert,
}

/// How the rows of a table are written.
pub(crate) fn row_format<K: Key, V: Value, C: Codec<K> + Codec<V>>(version: u32) -> RowFormat {
    let bytes = |bytes: Option<usize>| bytes.map(|bytes| bytes as u64);
    RowFormat {
        codec: <C as Codec<V>>::NAME.to_owned(),
        version,
        key_bytes: bytes(<C as Codec<K>>::BYTES),
        row_bytes: bytes(<C as Codec<V>>::BYTES),
    }
}

impl Conversion {
    pub(crate) fn new<K0, V0, C0, K, V, C>(
        from: &Table<K0, V0, C0>,
        to: &Table<K, V, C>,
        convert: impl Fn(K0, V0) -> (K, V) + Send + Sync + 'static,
    ) -> Self
    where
        K0: Key,
        V0: Value,
        C0: Codec<K0> + Codec<V0>,
        K: Key,
        V: Value,
        C: Codec<K> + Codec<V>,
    {
        let in_bytes: Convert = Box::new(move |key, row, new_key, new_row| {
            let (key, row) = convert(C0::from_bytes(key)?, C0::from_bytes(row)?);
            let mut scratch = Vec::new();
            C::with_bytes(&key, &mut scratch, |bytes| new_key.extend_from_slice(bytes));
            C::with_bytes(&row, &mut scratch, |bytes| new_row.extend_from_slice(bytes));
            Ok(())
        });
        Self {
            names: [from.name(), to.name()],
            from: row_format::<K0, V0, C0>(from.row_version()),
            to: row_format::<K, V, C>(to.row_version()),
            convert: in_bytes,
        }
    }
}

/// A conversion at work: keeps what it makes to the digest, so that what was read can still be told from what was
/// written.
pub(super) struct Converter<'a> {
    conversion: &'a Conversion,
    table: TableId,
    key: Vec<u8>,
    row: Vec<u8>,
    /// What the digest of the new rows is more than that of the old ones.
    pub(super) change: u128,
}

impl<'a> Converter<'a> {
    pub(super) const fn new(conversion: &'a Conversion, table: TableId) -> Self {
        Self { conversion, table, key: Vec::new(), row: Vec::new(), change: 0 }
    }

    /// The new key and row.
    pub(super) fn convert(&mut self, key: &[u8], row: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
        self.key.clear();
        self.row.clear();
        (self.conversion.convert)(key, row, &mut self.key, &mut self.row)?;
        let digest = |key, row| digest_of(self.table, key, row);
        self.change = self.change.wrapping_add(digest(&self.key, &self.row)).wrapping_sub(digest(key, row));
        Ok((&self.key, &self.row))
    }
}

/// What a row is in the digest of a state.
fn digest_of(table: TableId, key: &[u8], row: &[u8]) -> u128 {
    xxh3_128_with_seed(row, xxh3_64_with_seed(key, table.0))
}
