//! The bytes of a checkpoint. What they mean and how they are recovered is told in `docs/checkpoint-format.md`; this
//! file is the only one that knows an offset inside a header.
//!
//! Everything is little-endian. Checksums are CRC-32C.
//!
//! ```text
//! checkpoint-<position, 16 hex digits>
//! +--------+---------+--------+------+------+-- ... --+------+-----+
//! | header | catalog | tables | rows | rows |         | rows | end |
//! +--------+---------+--------+------+------+-- ... --+------+-----+
//!
//! header, 128 bytes                         block, 48 bytes and its body
//!   0  8  magic "MIXLOGCP"                   0  4  magic "MXCB"
//!   8  4  format version                     4  4  kind: 1 catalog, 2 tables, 3 rows, 5 end
//!  12  4  zero                               8  8  salt, from log id and position
//!  16 16  log id                            16  8  number of the block
//!  32  8  position of the last entry        24  4  rows: number of the table; otherwise zero
//!  40 16  digest of the state               28  4  rows: how many; otherwise zero
//!  56 16  digest of the replies             32  4  length of the body
//!  72  8  when it was taken, microseconds   36  4  zero
//!  80  .. zeros                             40  4  checksum of bytes 0..40 and the body
//! 124  4  checksum of bytes 0..124          44  4  checksum of bytes 0..44
//! ```

use std::fmt;

use mixlog_log::bytes::{checksum_holds, put, put_checksum, u32_at, u64_at, u128_at};
use mixlog_log::{LogId, Position};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::codec;
use crate::digest::Digest;

/// The version of everything in this file.
pub(crate) const FORMAT_VERSION: u32 = 1;

pub(crate) const FILE_HEADER: usize = 128;
pub(crate) const BLOCK_HEADER: usize = 48;

/// No body is longer: a length beyond it is damage, and nothing is allocated for it. A row of as much fits, with its key
/// and its lengths.
pub(crate) const MOST_BODY: usize = 1 << 30;

/// Says that a row is longer.
pub(super) fn too_large(table: &str, bytes: usize) -> String {
    format!(
        "a row of table {table:?} takes {bytes} bytes with its key, and a checkpoint holds none of more than {MOST_BODY}"
    )
}

/// Says that the rows of a state have another digest than transactions made.
pub(super) fn changed(position: Position, found: u128, expected: u128) -> String {
    format!(
        "the rows of the state after position {position} have the digest {found:032x}, and not {expected:032x}: something \
         other than a transaction changed them"
    )
}

const MAGIC: &[u8; 8] = b"MIXLOGCP";
const BLOCK_MAGIC: &[u8; 4] = b"MXCB";

/// The file of the checkpoint at `position`.
pub(crate) fn file_name(position: Position) -> String {
    format!("checkpoint-{:016x}", position.0)
}

/// The position of the checkpoint that is named so, if any is.
pub(crate) fn parse_file_name(name: &str) -> Option<Position> {
    let position = Position(u64::from_str_radix(name.strip_prefix("checkpoint-")?, 16).ok()?);
    (file_name(position) == name).then_some(position)
}

/// What is wrong with bytes that should be a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The file ends before.
    Short,
    /// There are bytes behind the end.
    Long,
    Magic,
    /// Valid, but in a format of this version.
    Version(u32),
    HeaderChecksum,
    /// Valid, but of another log, position or place.
    Foreign(&'static str),
    Bounds(&'static str),
    BodyChecksum,
    /// Valid, but not what comes here.
    Order(&'static str),
    /// All as it was written, but the rows have this digest, and not the one in the header.
    Digest {
        found: u128,
        expected: u128,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("the file ends too early"),
            Self::Long => f.write_str("there are bytes behind the end"),
            Self::Magic => f.write_str("the magic number is wrong"),
            Self::Version(version) => {
                write!(f, "format version {version} is not known, this program reads {FORMAT_VERSION}")
            }
            Self::HeaderChecksum => f.write_str("the checksum of the header is wrong"),
            Self::Foreign(what) => write!(f, "it belongs to another {what}"),
            Self::Bounds(what) => write!(f, "{what} is out of bounds"),
            Self::BodyChecksum => f.write_str("the checksum of the body is wrong"),
            Self::Order(what) => write!(f, "{what}"),
            Self::Digest { found, expected } => {
                write!(f, "its rows have the digest {found:032x}, and not {expected:032x}")
            }
        }
    }
}

/// The first bytes of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) log: LogId,
    /// The last position whose entry is included.
    pub(crate) position: Position,
    pub(crate) state: u128,
    pub(crate) replies: u128,
    /// Microseconds since 1970-01-01 UTC, for people.
    pub(crate) taken_us: u64,
}

impl FileHeader {
    pub(crate) fn encode(&self) -> [u8; FILE_HEADER] {
        let mut bytes = [0; FILE_HEADER];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, &FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, 16, &self.log.0.to_le_bytes());
        put(&mut bytes, 32, &self.position.0.to_le_bytes());
        put(&mut bytes, 40, &self.state.to_le_bytes());
        put(&mut bytes, 56, &self.replies.to_le_bytes());
        put(&mut bytes, 72, &self.taken_us.to_le_bytes());
        put_checksum(&mut bytes);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; FILE_HEADER]) -> Result<Self, Flaw> {
        if &bytes[..8] != MAGIC {
            return Err(Flaw::Magic);
        }
        if !checksum_holds(bytes) {
            return Err(Flaw::HeaderChecksum);
        }
        match u32_at(bytes, 8) {
            FORMAT_VERSION => {}
            version => return Err(Flaw::Version(version)),
        }
        Ok(Self {
            log: LogId(u128_at(bytes, 16)),
            position: Position(u64_at(bytes, 32)),
            state: u128_at(bytes, 40),
            replies: u128_at(bytes, 56),
            taken_us: u64_at(bytes, 72),
        })
    }

    /// The digest of its state.
    pub(crate) const fn digest(&self) -> Digest {
        Digest { position: Some(self.position), state: self.state, replies: self.replies }
    }

    /// What makes a block one of this checkpoint.
    pub(crate) fn salt(&self) -> u64 {
        let mut bytes = [0; 24];
        put(&mut bytes, 0, &self.log.0.to_le_bytes());
        put(&mut bytes, 16, &self.position.0.to_le_bytes());
        xxh3_64(&bytes)
    }
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The names in the log, in postcard's format: [`Catalog`](crate::entry::Catalog).
    Catalog,
    /// The tables, in postcard's format: a list of [`TableEntry`].
    Tables,
    /// Rows of one table.
    Rows,
    /// The last block, in postcard's format: [`End`].
    End,
}

impl Kind {
    const ALL: [(u32, Self); 4] = [(1, Self::Catalog), (2, Self::Tables), (3, Self::Rows), (5, Self::End)];
}

/// What stands before a block's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    pub(crate) kind: Kind,
    pub(crate) number: u64,
    pub(crate) table: u32,
    pub(crate) rows: u32,
    pub(crate) body: u32,
    /// Of the header and the body.
    pub(crate) checksum: u32,
}

impl BlockHeader {
    /// The header of a block with this body; returns it with its checksum filled in.
    pub(crate) fn encode(mut self, salt: u64, body: &[u8]) -> (Self, [u8; BLOCK_HEADER]) {
        let mut bytes = [0; BLOCK_HEADER];
        let kind = Kind::ALL.iter().find(|(_, kind)| *kind == self.kind).expect("all kinds are listed").0;
        assert!(body.len() <= MOST_BODY, "a block of {} bytes, which nobody would read again", body.len());
        self.body = body.len() as u32;
        put(&mut bytes, 0, BLOCK_MAGIC);
        put(&mut bytes, 4, &kind.to_le_bytes());
        put(&mut bytes, 8, &salt.to_le_bytes());
        put(&mut bytes, 16, &self.number.to_le_bytes());
        put(&mut bytes, 24, &self.table.to_le_bytes());
        put(&mut bytes, 28, &self.rows.to_le_bytes());
        put(&mut bytes, 32, &self.body.to_le_bytes());
        self.checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..40]), body);
        put(&mut bytes, 40, &self.checksum.to_le_bytes());
        put_checksum(&mut bytes);
        (self, bytes)
    }

    /// The header of block `number`, without a look at the body.
    pub(crate) fn decode(bytes: &[u8; BLOCK_HEADER], salt: u64, number: u64) -> Result<Self, Flaw> {
        if &bytes[..4] != BLOCK_MAGIC {
            return Err(Flaw::Magic);
        }
        if !checksum_holds(bytes) {
            return Err(Flaw::HeaderChecksum);
        }
        if u64_at(bytes, 8) != salt {
            return Err(Flaw::Foreign("checkpoint"));
        }
        if u64_at(bytes, 16) != number {
            return Err(Flaw::Foreign("place"));
        }
        let kind = u32_at(bytes, 4);
        let kind = Kind::ALL.iter().find(|(known, _)| *known == kind).ok_or(Flaw::Bounds("the kind"))?.1;
        let header = Self {
            kind,
            number,
            table: u32_at(bytes, 24),
            rows: u32_at(bytes, 28),
            body: u32_at(bytes, 32),
            checksum: u32_at(bytes, 40),
        };
        if header.body as usize > MOST_BODY { Err(Flaw::Bounds("the length")) } else { Ok(header) }
    }

    /// Whether the body is the one that belongs to these bytes of a header.
    pub(crate) fn check(&self, bytes: &[u8; BLOCK_HEADER], body: &[u8]) -> Result<(), Flaw> {
        let found = crc32c::crc32c_append(crc32c::crc32c(&bytes[..40]), body);
        if found == self.checksum { Ok(()) } else { Err(Flaw::BodyChecksum) }
    }
}

/// How the rows of a table became bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RowFormat {
    /// Name of the codec.
    pub(crate) codec: String,
    /// Version of the row type.
    pub(crate) version: u32,
    /// Bytes of a key and of a row, where all have the same.
    pub(crate) key_bytes: Option<u64>,
    pub(crate) row_bytes: Option<u64>,
}

impl RowFormat {
    /// Of all of it, in postcard's format.
    pub(crate) fn hash(&self) -> u64 {
        let mut bytes = Vec::new();
        codec::encode(self, &mut bytes);
        xxh3_64(&bytes)
    }
}

impl fmt::Display for RowFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {}", self.codec, self.version)?;
        match (self.key_bytes, self.row_bytes) {
            (Some(key), Some(row)) => write!(f, " with keys of {key} and rows of {row} bytes"),
            _ => Ok(()),
        }
    }
}

/// A table of a checkpoint; its number is its place in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableEntry {
    pub(crate) name: String,
    pub(crate) format: RowFormat,
}

/// What the last block says of all before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// How many blocks there are, this one not counted.
    pub(crate) blocks: u64,
    /// How many rows each table has.
    pub(crate) rows: Vec<u64>,
    /// The checksum of the checksums of all blocks before, in order.
    pub(crate) checksum: u32,
}

/// What a row takes of a block's body.
pub(crate) const fn row_bytes(key: &[u8], value: &[u8]) -> usize {
    8 + key.len() + value.len()
}

/// Adds a row to the body of a block: lengths of key and value, 4 bytes each, and both. It [fits](row_bytes).
pub(crate) fn push_row(body: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("it fits into a body");
    body.extend_from_slice(&length(key).to_le_bytes());
    body.extend_from_slice(&length(value).to_le_bytes());
    body.extend_from_slice(key);
    body.extend_from_slice(value);
}

/// The rows in the body of a block.
pub(crate) struct Rows<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Rows<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), Flaw>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let row = (|| {
            let lengths = self.0.get(..8)?;
            let (key, value) = (u32_at(lengths, 0) as usize, u32_at(lengths, 4) as usize);
            let row = self.0.get(8..8 + key + value)?;
            self.0 = &self.0[8 + key + value..];
            Some(row.split_at(key))
        })();
        if row.is_none() {
            self.0 = &[];
        }
        Some(row.ok_or(Flaw::Bounds("a row")))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn file_name_parses_back_and_nothing_else_does() {
        assert_eq!(parse_file_name(&file_name(Position(0x1f))), Some(Position(0x1f)));
        for name in ["checkpoint-1f", "checkpoint-000000000000001F", "checkpoint.writing", "checkpoint-", "x"]
        {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn headers_round_trip_and_refuse_flipped_bits() {
        let header =
            FileHeader { log: LogId(7), position: Position(9), state: 1 << 100, replies: 3, taken_us: 5 };
        let bytes = header.encode();
        assert_eq!(FileHeader::decode(&bytes), Ok(header));
        for bit in 0..FILE_HEADER * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(FileHeader::decode(&flipped).is_err(), "bit {bit}");
        }
        let block = BlockHeader { kind: Kind::Rows, number: 4, table: 2, rows: 1, body: 0, checksum: 0 };
        let (block, bytes) = block.encode(header.salt(), b"body");
        assert_eq!(BlockHeader::decode(&bytes, header.salt(), 4), Ok(block));
        assert_eq!(block.check(&bytes, b"body"), Ok(()));
        assert_eq!(block.check(&bytes, b"bodx"), Err(Flaw::BodyChecksum));
        assert_eq!(BlockHeader::decode(&bytes, header.salt(), 5), Err(Flaw::Foreign("place")));
        assert_eq!(BlockHeader::decode(&bytes, !header.salt(), 4), Err(Flaw::Foreign("checkpoint")));
        for bit in 0..BLOCK_HEADER * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(BlockHeader::decode(&flipped, header.salt(), 4).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn rows_of_any_other_bytes_are_an_error_and_no_panic() {
        let mut body = Vec::new();
        push_row(&mut body, b"key", b"value");
        push_row(&mut body, b"", b"");
        let rows: Result<Vec<_>, _> = Rows(&body).collect();
        assert_eq!(rows, Ok(vec![(&b"key"[..], &b"value"[..]), (&[][..], &[][..])]));
        for length in (1..body.len()).filter(|&length| length != 16) {
            assert_eq!(Rows(&body[..length]).last(), Some(Err(Flaw::Bounds("a row"))), "{length}");
        }
        assert_eq!(Rows(&[0xff; 40]).last(), Some(Err(Flaw::Bounds("a row"))));
    }
}
