//! From a file to blocks, verified one by one.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use mixlog_log::file::{Access, Storage, StorageFile, read_full};
use mixlog_log::{LogId, Position};

use super::layout::{
    BLOCK_HEADER, BlockHeader, End, FILE_HEADER, FileHeader, Flaw, Kind, Rows, TableEntry, file_name,
};
use crate::codec;
use crate::digest;
use crate::entry::Catalog;
use crate::table::TableId;

/// Why a file is not the checkpoint that it should be.
#[derive(Clone, Debug)]
pub(crate) enum Bad {
    /// The bytes are wrong.
    Damaged { offset: u64, flaw: Flaw },
    /// The operating system does not give them.
    Io(Arc<io::Error>),
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { offset, flaw } => write!(f, "at offset {offset}: {flaw}"),
            Self::Io(error) => write!(f, "it cannot be read: {error}"),
        }
    }
}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// A checkpoint whose header and first two blocks were read.
pub(crate) struct Opened {
    pub(crate) name: String,
    pub(crate) header: FileHeader,
    pub(crate) catalog: Catalog,
    pub(crate) tables: Vec<TableEntry>,
    /// The file's length in bytes.
    pub(crate) bytes: u64,
    file: Arc<dyn StorageFile>,
    /// Where the third block starts.
    rows_start: u64,
    /// The checksum of the checksums of the first two blocks.
    checksum: u32,
}

/// A block as it stands in the file. [`Block::check`] comes before any look at its body.
pub(crate) struct Block {
    offset: u64,
    bytes: [u8; BLOCK_HEADER],
    pub(crate) header: BlockHeader,
    pub(crate) body: Vec<u8>,
}

impl Block {
    pub(crate) fn check(&self) -> Result<(), Bad> {
        self.header.check(&self.bytes, &self.body).map_err(|flaw| self.bad(flaw))
    }

    /// The share of the state's digest that its rows have, which belong to this table.
    fn digest(&self, table: TableId) -> Result<u128, Bad> {
        Rows(&self.body).try_fold(0u128, |sum, row| {
            let (key, value) = row.map_err(|flaw| self.bad(flaw))?;
            Ok(sum.wrapping_add(digest::of_value(digest::of_key(table, key), value)))
        })
    }

    /// The block with a flaw.
    pub(crate) fn bad(&self, flaw: Flaw) -> Bad {
        Bad::Damaged { offset: self.offset, flaw }
    }
}

impl Opened {
    /// Opens the checkpoint at `position` of the log with this id.
    pub(crate) fn open(storage: &dyn Storage, position: Position, log: LogId) -> Result<Self, Bad> {
        let name = file_name(position);
        let file = storage.open(&name, Access::Read)?;
        let bytes = file.len()?;
        let mut header = [0; FILE_HEADER];
        let damaged = |offset, flaw| Bad::Damaged { offset, flaw };
        if read_full(&*file, &mut header, 0)? < FILE_HEADER {
            return Err(damaged(0, Flaw::Short));
        }
        let header = FileHeader::decode(&header).map_err(|flaw| damaged(0, flaw))?;
        if header.log != log {
            return Err(damaged(0, Flaw::Foreign("log")));
        }
        if header.position != position {
            return Err(damaged(0, Flaw::Foreign("position")));
        }
        let mut cursor = Cursor {
            file: &*file,
            salt: header.salt(),
            bytes,
            offset: FILE_HEADER as u64,
            number: 0,
            checksum: 0,
        };
        let first = cursor.decode(Kind::Catalog)?;
        let tables = cursor.decode(Kind::Tables)?;
        let (rows_start, checksum) = (cursor.offset, cursor.checksum);
        Ok(Self { name, header, catalog: first, tables, bytes, file, rows_start, checksum })
    }

    /// All blocks with rows, to be shared by those who take them.
    pub(crate) fn blocks(&self) -> Blocks<'_> {
        let cursor = Cursor {
            file: &*self.file,
            salt: self.header.salt(),
            bytes: self.bytes,
            offset: self.rows_start,
            number: 2,
            checksum: self.checksum,
        };
        let counts = vec![0; self.tables.len()];
        Blocks { bytes: self.bytes, state: Mutex::new(State { cursor, counts, end: None }) }
    }

    /// Verifies every byte, and that the rows make the state that the header tells the digest of; tells how many there are.
    /// `share` has its argument called by as many threads as are to take part, and returns when all calls have.
    pub(crate) fn verify(&self, share: impl FnOnce(&(dyn Fn() + Sync))) -> Result<u64, Bad> {
        let tables: Vec<_> = self.tables.iter().map(|table| TableId::of(&table.name)).collect();
        let blocks = self.blocks();
        let found = Mutex::new(Ok(0));
        share(&|| {
            while let Some(block) = blocks.next() {
                let sum = block.check().and_then(|()| block.digest(tables[block.header.table as usize]));
                let mut found = found.lock().expect("no panic in a short section");
                match sum {
                    Ok(sum) => *found = found.clone().map(|found: u128| found.wrapping_add(sum)),
                    Err(bad) => *found = Err(bad),
                }
            }
        });
        let found = found.into_inner().expect("no panic in a short section")?;
        let end = blocks.finish()?;
        let expected = self.header.state;
        if found == expected {
            Ok(end.rows.iter().sum())
        } else {
            Err(Bad::Damaged { offset: 0, flaw: Flaw::Digest { found, expected } })
        }
    }

    pub(crate) const fn file(&self) -> &Arc<dyn StorageFile> {
        &self.file
    }
}

/// The blocks with rows of a checkpoint. Reading is sequential; checksums and rows are the takers' work.
pub(crate) struct Blocks<'a> {
    bytes: u64,
    state: Mutex<State<'a>>,
}

struct State<'a> {
    cursor: Cursor<'a>,
    /// Rows by table, as far as they were taken.
    counts: Vec<u64>,
    /// What the last block says, once it was reached, or why it was not.
    end: Option<Result<End, Bad>>,
}

impl Blocks<'_> {
    /// The next block, not checked yet; `None` after the last one, or after a flaw, which [`finish`](Self::finish) tells.
    pub(crate) fn next(&self) -> Option<Block> {
        let mut state = self.state.lock().expect("no panic while a block is read");
        let State { cursor, counts, end } = &mut *state;
        if end.is_some() {
            return None;
        }
        let block = match cursor.next() {
            Ok(block) => block,
            Err(bad) => {
                *end = Some(Err(bad));
                return None;
            }
        };
        let found = match block.header.kind {
            Kind::Rows => match counts.get_mut(block.header.table as usize) {
                Some(count) => {
                    *count += u64::from(block.header.rows);
                    return Some(block);
                }
                None => Err(block.bad(Flaw::Bounds("the table"))),
            },
            Kind::End => cursor.end(&block),
            Kind::Catalog | Kind::Tables => Err(block.bad(Flaw::Order("rows or the end come next"))),
        };
        *end = Some(found.and_then(|found| match found.rows == *counts {
            true => Ok(found),
            false => Err(block.bad(Flaw::Order("the counts of rows differ"))),
        }));
        None
    }

    /// How far it was read, and how far it goes, in bytes.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.state.lock().expect("no panic while a block is read").cursor.offset, self.bytes)
    }

    /// Whether all blocks were there. To be asked after [`next`](Self::next) had no more.
    pub(crate) fn finish(self) -> Result<End, Bad> {
        let state = self.state.into_inner().expect("no panic while a block is read");
        state.end.expect("all blocks were taken")
    }
}

/// Where the next block starts.
struct Cursor<'a> {
    file: &'a dyn StorageFile,
    salt: u64,
    bytes: u64,
    offset: u64,
    number: u64,
    checksum: u32,
}

impl Cursor<'_> {
    fn next(&mut self) -> Result<Block, Bad> {
        let offset = self.offset;
        let damaged = |flaw| Bad::Damaged { offset, flaw };
        let mut bytes = [0; BLOCK_HEADER];
        if read_full(self.file, &mut bytes, offset)? < BLOCK_HEADER {
            return Err(damaged(Flaw::Short));
        }
        let header = BlockHeader::decode(&bytes, self.salt, self.number).map_err(damaged)?;
        let start = offset + BLOCK_HEADER as u64;
        if self.bytes < start + u64::from(header.body) {
            return Err(damaged(Flaw::Short));
        }
        let mut body = vec![0; header.body as usize];
        if read_full(self.file, &mut body, start)? < body.len() {
            return Err(damaged(Flaw::Short));
        }
        self.offset = start + u64::from(header.body);
        self.number += 1;
        if header.kind != Kind::End {
            self.checksum = crc32c::crc32c_append(self.checksum, &header.checksum.to_le_bytes());
        }
        Ok(Block { offset, bytes, header, body })
    }

    /// A block whose body is one value in postcard's format.
    fn decode<T: serde::de::DeserializeOwned>(&mut self, kind: Kind) -> Result<T, Bad> {
        let block = self.next()?;
        block.check()?;
        if block.header.kind != kind {
            return Err(block.bad(Flaw::Order("the catalog and the tables come first")));
        }
        codec::decode(&block.body).map_err(|_| block.bad(Flaw::Bounds("the body")))
    }

    /// The last block, which was just read.
    fn end(&self, block: &Block) -> Result<End, Bad> {
        block.check()?;
        let end: End = codec::decode(&block.body).map_err(|_| block.bad(Flaw::Bounds("the body")))?;
        if end.blocks != block.header.number || end.checksum != self.checksum {
            return Err(block.bad(Flaw::Order("blocks before it are missing or others")));
        }
        if self.offset != self.bytes {
            return Err(Bad::Damaged { offset: self.offset, flaw: Flaw::Long });
        }
        Ok(end)
    }
}
