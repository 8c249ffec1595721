//! From a snapshot to a file: one pass over the tables, sequential writes, a checksum over everything.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use mixlog_log::file::{Access, Storage, StorageFile, write_full};

use super::layout::{self, BlockHeader, End, FileHeader, Kind, MOST_BODY, TableEntry};
use crate::codec::{self, DecodeError};
use crate::digest;
use crate::entry::Catalog;
use crate::snapshot::Snapshot;
use crate::table::TableId;

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
    /// A row of this table takes so many bytes, which nobody would read again.
    TooLarge(String, usize),
    /// The rows have this digest, and not the state's.
    Digest(u128),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Writes the state that `snapshot` sees to a file, over what is in it, and makes its bytes durable; the name is left
/// to the caller. `None` when `stop` said so before the end.
///
/// The header's digest was kept while rows were written, by transactions. Here it is made once more, of all rows: what
/// changed otherwise, by memory that is broken for example, is not to outlive the engine.
pub(crate) fn write(
    storage: &dyn Storage,
    name: &str,
    header: &FileHeader,
    catalog: &Catalog,
    snapshot: &Snapshot,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Written>, WriteError> {
    write_in_blocks(storage, name, header, catalog, snapshot, stop, MOST_BODY)
}

/// The same, with no body of a block longer than `most`.
fn write_in_blocks(
    storage: &dyn Storage,
    name: &str,
    header: &FileHeader,
    catalog: &Catalog,
    snapshot: &Snapshot,
    stop: &dyn Fn() -> bool,
    most: usize,
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
    let (mut counts, mut found) = (Vec::new(), 0u128);
    for (number, table) in (0u32..).zip(tables) {
        let (blocks, body) = (&mut blocks, &mut body);
        let mut rows =
            Rows { blocks, table: number, id: table.id(), most, body, in_block: 0, all: 0, digest: 0 };
        let mut outcome = Ok(());
        let visited = table.visit_rows_at(snapshot.stamp(), &mut |key, value| match rows.push(key, value) {
            Ok(false) => ControlFlow::Continue(()),
            Ok(true) if !stop() => ControlFlow::Continue(()),
            pushed => {
                outcome = pushed.map(|_| ());
                ControlFlow::Break(())
            }
        });
        outcome.map_err(|error| match error {
            RowError::Io(error) => WriteError::Io(error),
            RowError::TooLarge(bytes) => WriteError::TooLarge(table.name().to_owned(), bytes),
        })?;
        visited.map_err(|error| WriteError::Row(table.name().to_owned(), error))?;
        if stop() {
            return Ok(None);
        }
        found = found.wrapping_add(rows.digest);
        counts.push(rows.finish()?);
    }
    if found != header.state {
        return Err(WriteError::Digest(found));
    }
    let rows = counts.iter().sum();
    codec::encode(&End { blocks: blocks.number, rows: counts, checksum: blocks.checksum }, &mut body);
    blocks.push(Kind::End, 0, 0, &mut body)?;
    Ok(Some(Written { rows, bytes: blocks.finish()? }))
}

/// The rows of a table, on their way into blocks.
struct Rows<'a> {
    blocks: &'a mut Blocks,
    table: u32,
    /// No body is longer.
    most: usize,
    /// Those that are in no block yet, and how many they are.
    body: &'a mut Vec<u8>,
    in_block: u32,
    all: u64,
    /// The table's id, and its rows' share of the state's digest.
    id: TableId,
    digest: u128,
}

enum RowError {
    Io(io::Error),
    /// So many bytes.
    TooLarge(usize),
}

impl From<io::Error> for RowError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Rows<'_> {
    /// Adds a row; tells whether that completed a block.
    fn push(&mut self, key: &[u8], value: &[u8]) -> Result<bool, RowError> {
        let bytes = layout::row_bytes(key, value);
        if bytes > self.most {
            return Err(RowError::TooLarge(bytes));
        }
        if self.body.len() + bytes > self.most {
            self.push_block()?;
        }
        layout::push_row(self.body, key, value);
        self.digest = self.digest.wrapping_add(digest::of_value(digest::of_key(self.id, key), value));
        self.in_block += 1;
        self.all += 1;
        let is_full = self.body.len() >= BLOCK_BYTES;
        if is_full {
            self.push_block()?;
        }
        Ok(is_full)
    }

    fn push_block(&mut self) -> io::Result<()> {
        self.blocks.push(Kind::Rows, self.table, std::mem::take(&mut self.in_block), self.body)
    }

    /// Adds what is left; tells how many rows there are.
    fn finish(mut self) -> io::Result<u64> {
        if self.in_block > 0 {
            self.push_block()?;
        }
        Ok(self.all)
    }
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

#[cfg(all(test, not(loom)))]
mod tests {
    use mixlog_log::file::FsStorage;
    use mixlog_log::{LogId, MemoryLog, Position};
    use serde::{Deserialize, Serialize};

    use super::super::layout::file_name;
    use super::super::shelf::Shelf;
    use super::*;
    use crate::{Engine, Never, Procedure, Table, Tx};

    const SMALL: Table<u64, u64> = Table::new("small");
    const TEXTS: Table<u64, String> = Table::new("texts");

    /// Makes a text of so many bytes.
    #[derive(Serialize, Deserialize)]
    struct Write(u64, usize);

    impl Procedure for Write {
        const NAME: &'static str = "write";
        type Output = ();
        type Abort = Never;

        fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
            tx.put(&SMALL, self.0, 1);
            tx.put(&TEXTS, self.0, "x".repeat(self.1));
            Ok(())
        }
    }

    #[test]
    fn row_that_no_block_holds_is_refused_and_one_that_fills_a_block_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf { storage: Arc::new(FsStorage::new(directory.path())), log: LogId(1) };
        let engine = Engine::builder().table(&SMALL).table(&TEXTS).procedure::<Write>().threads(1);
        let engine = engine.open(Arc::new(MemoryLog::new())).unwrap();
        // Key, the text's own length, and both lengths.
        let (most, beside) = (1000, 1 + 2 + 8);
        let write = |position| {
            let state = engine.digest().state;
            let header = FileHeader { log: shelf.log, position, state, replies: 0, taken_us: 0 };
            let (catalog, snapshot) =
                (Catalog { format: 1, procedures: vec![], tables: vec![] }, engine.snapshot());
            write_in_blocks(
                &*shelf.storage,
                &file_name(position),
                &header,
                &catalog,
                &snapshot,
                &|| false,
                most,
            )
        };
        for n in 0..10 {
            engine.execute(&Write(n, 100)).unwrap();
        }
        engine.execute(&Write(10, most - beside)).unwrap();
        let written = write(Position(1)).unwrap().unwrap();
        assert_eq!(written.rows, 22);
        let opened = shelf.open(Position(1)).unwrap();
        let (blocks, mut bodies) = (opened.blocks(), Vec::new());
        while let Some(block) = blocks.next() {
            block.check().unwrap();
            bodies.push(block.body.len());
        }
        assert_eq!(blocks.finish().unwrap().rows.iter().sum::<u64>(), 22);
        assert_eq!(bodies.iter().max(), Some(&most), "{bodies:?}");
        engine.execute(&Write(11, most - beside + 1)).unwrap();
        match write(Position(2)) {
            Err(WriteError::TooLarge(table, bytes)) => {
                assert_eq!((table.as_str(), bytes), ("texts", most + 1))
            }
            other => panic!("{other:?}"),
        }
    }
}
