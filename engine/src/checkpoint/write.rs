//! From a snapshot to a file: one pass over the tables, sequential writes, a checksum over everything.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use mixlog_log::file::{Access, Storage, StorageFile, write_full};

use super::layout::{self, BlockHeader, End, FileHeader, Kind, TableEntry};
use crate::codec::{self, DecodeError};
use crate::entry::Catalog;
use crate::snapshot::Snapshot;

/// Rows are gathered to this size before they become a block: small enough that drivers share them evenly when they are
/// loaded.
const BLOCK_BYTES: usize = 128 << 10;

/// Blocks are gathered to this size before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// What is written is flushed in pieces, so that the flushes of the log beside it do not wait for all of it.
const FLUSH_BYTES: u64 = 8 << 20;

/// What a file holds that was just written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// Why there is no file.
#[derive(Debug)]
pub(crate) enum WriteError {
    Io(io::Error),
    /// A row of this table could not be loaded again.
    Row(String, DecodeError),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Writes the state that `snapshot` sees to a file, over what is in it, and makes its bytes durable; the name is left
/// to the caller. `None` when `stop` said so before the end.
pub(crate) fn write(
    storage: &dyn Storage,
    name: &str,
    header: &FileHeader,
    catalog: &Catalog,
    snapshot: &Snapshot,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Written>, WriteError> {
    let file = match storage.open(name, Access::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => storage.open(name, Access::CreateNew)?,
        file => file?,
    };
    let mut blocks = Blocks::new(file, header);
    let tables: Vec<_> = snapshot.store().tables().filter(|table| !table.is_derived()).collect();
    let entries: Vec<_> = tables
        .iter()
        .map(|table| TableEntry { name: table.name().to_owned(), format: table.row_format() })
        .collect();
    let mut body = Vec::with_capacity(BLOCK_BYTES + (16 << 10));
    codec::encode(catalog, &mut body);
    blocks.push(Kind::Catalog, 0, 0, &mut body)?;
    codec::encode(&entries, &mut body);
    blocks.push(Kind::Tables, 0, 0, &mut body)?;
    let mut counts = Vec::new();
    for (number, table) in (0u32..).zip(tables) {
        let (mut rows, mut in_block, mut outcome) = (0, 0, Ok(()));
        let visited = table.visit_rows_at(snapshot.stamp(), &mut |key, value| {
            layout::push_row(&mut body, key, value);
            rows += 1;
            in_block += 1;
            if body.len() < BLOCK_BYTES {
                return ControlFlow::Continue(());
            }
            outcome = blocks.push(Kind::Rows, number, std::mem::take(&mut in_block), &mut body);
            if outcome.is_err() || stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        outcome?;
        visited.map_err(|error| WriteError::Row(table.name().to_owned(), error))?;
        if stop() {
            return Ok(None);
        }
        if in_block > 0 {
            blocks.push(Kind::Rows, number, in_block, &mut body)?;
        }
        counts.push(rows);
    }
    let rows = counts.iter().sum();
    codec::encode(&End { blocks: blocks.number, rows: counts, checksum: blocks.checksum }, &mut body);
    blocks.push(Kind::End, 0, 0, &mut body)?;
    Ok(Some(Written { rows, bytes: blocks.finish()? }))
}

/// The file as it grows.
struct Blocks {
    file: Arc<dyn StorageFile>,
    salt: u64,
    /// Of the next block.
    number: u64,
    /// Of the checksums of all blocks so far.
    checksum: u32,
    buffer: Vec<u8>,
    /// Where the buffer goes.
    offset: u64,
    unflushed: u64,
}

impl Blocks {
    fn new(file: Arc<dyn StorageFile>, header: &FileHeader) -> Self {
        let mut buffer = Vec::with_capacity(WRITE_BYTES + BLOCK_BYTES);
        buffer.extend_from_slice(&header.encode());
        Self { file, salt: header.salt(), number: 0, checksum: 0, buffer, offset: 0, unflushed: 0 }
    }

    /// Adds a block, and empties its body.
    fn push(&mut self, kind: Kind, table: u32, rows: u32, body: &mut Vec<u8>) -> io::Result<()> {
        let header = BlockHeader { kind, number: self.number, table, rows, body: 0, checksum: 0 };
        let (header, bytes) = header.encode(self.salt, body);
        self.buffer.extend_from_slice(&bytes);
        self.buffer.append(body);
        self.number += 1;
        self.checksum = crc32c::crc32c_append(self.checksum, &header.checksum.to_le_bytes());
        if self.buffer.len() >= WRITE_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> io::Result<()> {
        write_full(&*self.file, &self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.unflushed += self.buffer.len() as u64;
        self.buffer.clear();
        if self.unflushed >= FLUSH_BYTES {
            self.file.sync_data()?;
            self.unflushed = 0;
        }
        Ok(())
    }

    /// Makes all of it durable; tells the file's length.
    fn finish(mut self) -> io::Result<u64> {
        self.write()?;
        if self.file.len()? > self.offset {
            self.file.truncate(self.offset)?;
        }
        self.file.sync_data()?;
        Ok(self.offset)
    }
}
