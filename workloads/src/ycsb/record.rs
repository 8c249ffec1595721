//! Records that tell by themselves whether they are whole.
//!
//! ```text
//! record   field 0 | field 1 | .. | field 9
//! field    version (u32, little-endian) | text that follows from key, field and version
//! ```
//!
//! An update raises the version of one field by one, so that all versions together are the number of updates.

use mixlog_engine::{Builder, Fixed, Footprint, Snapshot, Table, Tx};
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::random::mix;
use crate::zipf::fnv64;

/// The number of fields of a record.
pub const FIELDS: usize = 10;
/// The smallest record: each field has a version and a byte of text.
pub const MIN_VALUE_SIZE: usize = FIELDS * 5;

/// The key of the record with this number: YCSB's "user" and a hash, without the word.
#[inline]
#[must_use]
pub const fn key_of(number: u64) -> u64 {
    fnv64(number)
}

/// Whether a record can have this many bytes.
#[must_use]
pub const fn is_valid_size(value_size: usize) -> bool {
    value_size >= MIN_VALUE_SIZE && value_size.is_multiple_of(FIELDS)
}

/// Writes a field's version and text.
fn write_field(field: &mut [u8], key: u64, number: usize, version: u32) {
    let (head, text) = field.split_at_mut(4);
    head.copy_from_slice(&version.to_le_bytes());
    let mut word = mix(key ^ mix(((number as u64) << 32) | u64::from(version)));
    for chunk in text.chunks_mut(8) {
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        word = mix(word);
    }
}

fn version_of(field: &[u8]) -> u32 {
    field.first_chunk().map_or(0, |head| u32::from_le_bytes(*head))
}

/// The bytes of all fields.
pub fn write_record(bytes: &mut [u8], key: u64) {
    let size = bytes.len() / FIELDS;
    for (number, field) in bytes.chunks_exact_mut(size).enumerate() {
        write_field(field, key, number, 0);
    }
}

/// Raises the version of one field and writes its text.
#[inline]
pub fn update_field(bytes: &mut [u8], key: u64, number: usize) {
    let size = bytes.len() / FIELDS;
    let field = &mut bytes[number * size..(number + 1) * size];
    let version = version_of(field).wrapping_add(1);
    write_field(field, key, number, version);
}

/// Reads all fields: the sum of the record's words.
#[inline]
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(0, |sum: u64, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    rest.iter().fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

/// The sum of the fields' versions, or the number of a field whose text does not belong to its version.
pub(super) fn versions(bytes: &[u8], key: u64) -> Result<u64, usize> {
    let size = bytes.len() / FIELDS;
    let mut sum = 0;
    let mut expected = vec![0; size];
    for (number, field) in bytes.chunks_exact(size).enumerate() {
        let version = version_of(field);
        write_field(&mut expected, key, number, version);
        if expected != field {
            return Err(number);
        }
        sum += u64::from(version);
    }
    Ok(sum)
}

/// A kind of record, and the table that holds it.
pub trait Record: Clone + Send + Sync + 'static {
    /// The name of the procedure that operates on such records.
    const OPERATE: &'static str;
    /// The name of the procedure that loads them.
    const LOAD: &'static str;

    /// A record of zero bytes, or nothing if such records do not have this size.
    fn zeroed(value_size: usize) -> Option<Self>;
    /// The bytes of all fields.
    fn bytes(&self) -> &[u8];
    /// The bytes of all fields.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Registers the table.
    fn register(builder: Builder) -> Builder;
    /// Declares a read.
    fn declare_read(f: &mut Footprint<'_>, key: u64);
    /// Declares a write.
    fn declare_write(f: &mut Footprint<'_>, key: u64);
    /// Reads a record.
    fn get<'a>(tx: &'a Tx<'_>, key: u64) -> Option<&'a Self>;
    /// Changes a record.
    fn get_mut<'a>(tx: &'a mut Tx<'_>, key: u64) -> Option<&'a mut Self>;
    /// Declares a scan.
    fn declare_scan(f: &mut Footprint<'_>, key: u64, records: usize);
    /// The sum of the checksums of the first records from `key` on, in key order, at most so many; nothing if records of
    /// this kind have no order.
    fn scan(tx: &Tx<'_>, key: u64, records: usize) -> Option<u64>;
    /// Writes a record.
    fn put(tx: &mut Tx<'_>, key: u64, record: Self);
    /// Visits all records.
    fn for_each(snapshot: &Snapshot, visit: impl FnMut(u64, &Self));
}

/// A record whose size is known at compile time: it lies in the table itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, FromBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct Inline<const N: usize>([u8; N]);

/// As [`Inline`], in a table that keeps its keys in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, FromBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct Ordered<const N: usize>([u8; N]);

/// A record of any size, for experiments: the table points at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boxed(Box<[u8]>);

const RECORDS_100: Table<u64, Inline<100>, Fixed> = Table::fixed("ycsb.records_100");
const RECORDS_1000: Table<u64, Inline<1_000>, Fixed> = Table::fixed("ycsb.records_1000");
const ORDERED_100: Table<u64, Ordered<100>, Fixed> = Table::fixed("ycsb.ordered_100").ordered();
const ORDERED_1000: Table<u64, Ordered<1_000>, Fixed> = Table::fixed("ycsb.ordered_1000").ordered();
const RECORDS: Table<u64, Boxed> = Table::new("ycsb.records");

/// The first for tables that are ordered, the second for others.
macro_rules! if_ordered {
    (ordered, $then:expr, $otherwise:expr) => {
        $then
    };
    (unordered, $then:expr, $otherwise:expr) => {
        $otherwise
    };
}

macro_rules! record {
    ($type:ty, $table:ident, $operate:literal, $load:literal, $ordered:ident, $zeroed:expr) => {
        impl Record for $type {
            const OPERATE: &'static str = $operate;
            const LOAD: &'static str = $load;

            fn zeroed(value_size: usize) -> Option<Self> {
                $zeroed(value_size)
            }

            #[inline]
            fn bytes(&self) -> &[u8] {
                &self.0
            }

            #[inline]
            fn bytes_mut(&mut self) -> &mut [u8] {
                &mut self.0
            }

            fn register(builder: Builder) -> Builder {
                builder.table(&$table)
            }

            #[inline]
            fn declare_read(f: &mut Footprint<'_>, key: u64) {
                f.read(&$table, &key);
            }

            #[inline]
            fn declare_write(f: &mut Footprint<'_>, key: u64) {
                f.write(&$table, &key);
            }

            #[inline]
            fn get<'a>(tx: &'a Tx<'_>, key: u64) -> Option<&'a Self> {
                tx.get(&$table, &key)
            }

            #[inline]
            fn get_mut<'a>(tx: &'a mut Tx<'_>, key: u64) -> Option<&'a mut Self> {
                tx.get_mut(&$table, &key)
            }

            fn declare_scan(f: &mut Footprint<'_>, key: u64, records: usize) {
                if_ordered!($ordered, _ = f.range_first(&$table, key.., records), _ = (f, key, records));
            }

            fn scan(tx: &Tx<'_>, key: u64, records: usize) -> Option<u64> {
                if_ordered!(
                    $ordered,
                    {
                        let found = tx.range_first(&$table, key.., records);
                        let sum = |sum: u64, (_, record): (u64, &Self)| sum.wrapping_add(checksum(&record.0));
                        Some(found.fold(0, sum))
                    },
                    {
                        let _ = (tx, key, records);
                        None
                    }
                )
            }

            fn put(tx: &mut Tx<'_>, key: u64, record: Self) {
                tx.put(&$table, key, record);
            }

            fn for_each(snapshot: &Snapshot, mut visit: impl FnMut(u64, &Self)) {
                snapshot.for_each(&$table, |key, record| visit(*key, record));
            }
        }
    };
}

record!(Inline<100>, RECORDS_100, "ycsb.operate_100", "ycsb.load_100", unordered, |size| (size == 100)
    .then_some(Self([0; 100])));
record!(Inline<1_000>, RECORDS_1000, "ycsb.operate_1000", "ycsb.load_1000", unordered, |size| (size
    == 1_000)
    .then_some(Self([0; 1_000])));
record!(Ordered<100>, ORDERED_100, "ycsb.operate_ordered_100", "ycsb.load_ordered_100", ordered, |size| {
    (size == 100).then_some(Self([0; 100]))
});
record!(
    Ordered<1_000>,
    ORDERED_1000,
    "ycsb.operate_ordered_1000",
    "ycsb.load_ordered_1000",
    ordered,
    |size| (size == 1_000).then_some(Self([0; 1_000]))
);
record!(Boxed, RECORDS, "ycsb.operate", "ycsb.load", unordered, |size| is_valid_size(size)
    .then(|| Self(vec![0; size].into_boxed_slice())));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_count_updates_and_notice_any_other_change() {
        for size in [MIN_VALUE_SIZE, 100, 1_000, 990] {
            let (mut bytes, key) = (vec![0; size], key_of(5));
            write_record(&mut bytes, key);
            assert_eq!(versions(&bytes, key), Ok(0));
            (0..25).for_each(|update| update_field(&mut bytes, key, update % FIELDS));
            assert_eq!(versions(&bytes, key), Ok(25));
            assert!(versions(&bytes, key_of(6)).is_err(), "it is the record of its key");
            bytes[size - 1] ^= 1;
            assert_eq!(versions(&bytes, key), Err(9));
        }
    }

    #[test]
    fn checksum_reads_every_byte() {
        let bytes = vec![3; 101];
        for place in 0..101 {
            let mut other = bytes.clone();
            other[place] = 4;
            assert_ne!(checksum(&bytes), checksum(&other), "byte {place}");
        }
    }

    #[test]
    fn keys_are_different() {
        let mut keys: Vec<u64> = (0..1_000_000).map(key_of).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 1_000_000);
    }
}
