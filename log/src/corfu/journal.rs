//! Where a storage unit keeps its records: in the segments of a [`FileLog`] of its own, one entry a record.
//!
//! So group commit, checksums, rotation, and telling a torn tail from damage are the file backend's. A record's
//! number is its position in that log.
//!
//! ```text
//! record: 1 kind, then
//!   1 state: 16 log id, 8 epoch joined, 8 sealed epoch, 8 trimmed, 8 reach, 4 number of the unit, if it is known
//!   2 data:  8 client, 8 sequence, 8 first position, 4 count, 4 for each entry: where it ends; the entries
//!   3 junk:  8 first position, 8 end position
//! ```
//! Integers are little-endian.

use std::io;
use std::sync::{Arc, Mutex};

use crate::bytes::u32s;
use crate::commit_queue::{Room, Tries};
use crate::file::{self, Create, FileLog, Lock, LockMode, Storage};
use crate::waiting::Wrapped;
use crate::{
    AppendError, Batch, Block, Durability, Entry, FlushError, LogId, OpenError, Position, ReadError,
    SharedLog, Ticket,
};

use super::message::{ClientId, EntryId, Epoch, Run, UnitNumber};
use super::unit::{Record, RecordNumber, State};

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// What a record adds to its run, at most.
const OVERHEAD: usize = 64;

/// The same, with a frame of its own.
pub(crate) const FRAMED_OVERHEAD: u64 = 4 * OVERHEAD as u64;

/// Shorter records go into the log together ...
const LONG: usize = 16 << 10;

/// ... until they have so many bytes; longer ones are not copied.
const JOINED: usize = 1 << 20;

/// How a journal is kept.
pub(crate) struct Config {
    /// Where. Created if it is missing.
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) durability: Durability,
    pub(crate) segment_bytes: u64,
    pub(crate) run_bytes: usize,
}

/// Records of a storage unit, in files.
pub(crate) struct Journal {
    storage: Arc<dyn Storage>,
    config: file::Config,
    /// `None` if not even its manifest can be read, so that nothing is known of it.
    log: Option<Arc<FileLog>>,
    /// Held in that case, as the log would.
    lock: Option<Lock>,
    /// What was loaded last.
    loaded: Arc<Loaded>,
    next: u64,
}

/// What was found in a journal.
pub(crate) struct Opened {
    pub(crate) journal: Journal,
    /// What is damaged, if records were lost. Then nothing can be added until it is [reset](Journal::reset).
    pub(crate) damage: Option<String>,
}

impl Journal {
    /// The journal as it was left, or a new one.
    pub(crate) fn open(config: &Config) -> Result<Opened, OpenError> {
        let max_batch_bytes = config.run_bytes.saturating_add(2 * OVERHEAD);
        let storage = Arc::clone(&config.storage);
        let config = file::Config {
            durability: config.durability,
            create: Create::IfMissing,
            segment_bytes: config
                .segment_bytes
                .max((max_batch_bytes as u64).saturating_mul(2).saturating_add(8192)),
            max_batch_bytes,
            // The unit keeps the newest runs itself.
            cache_bytes: 0,
            // While one unit of a chain flushes much at once, the others have nothing to do.
            group_bytes: 2 << 20,
            ..file::Config::default()
        };
        let (log, damage) = match FileLog::open_with_storage(Arc::clone(&storage), &config) {
            Ok(log) => (Some(log), None),
            Err(OpenError::Corrupt { detail, .. }) => {
                match FileLog::open_before_damage(Arc::clone(&storage)) {
                    Ok(log) => (Some(log), Some(detail)),
                    Err(OpenError::Corrupt { .. }) => (None, Some(detail)),
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        let lock = match log {
            Some(_) => None,
            None => Some(file::lock(&*storage, LockMode::Exclusive)?),
        };
        let next = log.as_ref().map_or(0, |log| log.reach().tail.0);
        let journal = Self { storage, config, log: log.map(Arc::new), lock, loaded: Arc::default(), next };
        Ok(Opened { journal, damage })
    }

    /// Calls `replay` for every record, in order. True if one of them cannot be read.
    pub(crate) fn replay(&self, mut replay: impl FnMut(Record, RecordNumber)) -> Result<bool, ReadError> {
        let Some(log) = &self.log else { return Ok(true) };
        let mut at = log.reach().head;
        loop {
            let block = match log.read(at) {
                Ok(Some(block)) => block,
                Ok(None) => return Ok(false),
                Err(ReadError::Corrupt { .. }) => return Ok(true),
                Err(error) => return Err(error),
            };
            for (position, entry) in block.iter().filter(|(position, _)| *position >= at) {
                let Entry::Data(bytes) = entry else { return Ok(true) };
                match decode(bytes) {
                    Some(record) => replay(record, RecordNumber(position.0)),
                    None => return Ok(true),
                }
            }
            at = block.end();
        }
    }

    /// The number that the next record gets.
    pub(crate) const fn next(&self) -> RecordNumber {
        RecordNumber(self.next)
    }

    /// Queues records, which get consecutive numbers. `batch` is empty before and after; its buffers are used again.
    pub(crate) fn append(&mut self, records: &[Record], batch: &mut Batch) -> Result<Ticket, AppendError> {
        debug_assert!(batch.is_empty(), "what is left of the last records comes before these");
        let log = self.log.as_ref().ok_or(AppendError::ReadOnly)?;
        let mut ticket = None;
        for record in records {
            let size = size(record);
            let is_full =
                batch.bytes().len() >= JOINED || batch.body_bytes() + size > self.config.max_batch_bytes;
            if !batch.is_empty() && (size >= LONG || is_full) {
                ticket = Some(log.append(batch)?);
                batch.clear();
            }
            match record {
                Record::Run(run) if size >= LONG => {
                    let mut head = Vec::with_capacity(OVERHEAD);
                    encode_head(record, &mut head);
                    ticket = Some(log.append_wrapped(Wrapped::new(head, Arc::clone(&run.block)))?);
                }
                _ => batch.push_with(|out| {
                    out.reserve(size);
                    encode(record, out);
                }),
            }
        }
        if !batch.is_empty() {
            ticket = Some(log.append(batch)?);
            batch.clear();
        }
        self.next += records.len() as u64;
        // Batches become durable in order: the last one tells of all.
        Ok(ticket.expect("there is a record to append"))
    }

    /// How many bytes of entries surely fit, once that is `wanted`, or it is known that there is no more; at once if
    /// nothing is wanted. To fill holes, to seal and to trim must go on where the disk is full: for that some room is
    /// kept.
    pub(crate) fn wait_room(&self, wanted: u64, tries: Tries) -> Room {
        let kept = (self.config.segment_bytes / 8).min(1 << 20);
        let wanted = if wanted == 0 { 0 } else { wanted + kept };
        let room = self.log.as_ref().map(|log| log.wait_room(wanted, tries));
        let Room { bytes, is_last } = room.unwrap_or(Room { bytes: 0, is_last: true });
        Room { bytes: bytes.saturating_sub(kept), is_last }
    }

    /// Where its records can be loaded from.
    pub(crate) fn shelf(&self) -> Shelf {
        Shelf { log: self.log.clone(), loaded: Arc::clone(&self.loaded) }
    }

    /// Removes everything, and begins a new journal. All its shelves must be gone.
    pub(crate) fn reset(self) -> Result<Self, OpenError> {
        let Self { storage, config, log, lock, .. } = self;
        drop((log, lock));
        let lock = file::lock(&*storage, LockMode::Exclusive)?;
        let path = storage.path().to_path_buf();
        let io_error = |source: io::Error| OpenError::Io { action: "empty", path: path.clone(), source };
        // The manifest last, and only when nothing else is there: without it, what is there is no journal, and nobody would
        // take it for one that was lost.
        let (manifest, others): (Vec<_>, Vec<_>) =
            storage.list().map_err(io_error)?.into_iter().partition(|name| name == file::MANIFEST);
        for names in [others, manifest] {
            names.iter().try_for_each(|name| storage.remove(name)).map_err(io_error)?;
            storage.sync_directory().map_err(io_error)?;
        }
        drop(lock);
        let log = Some(Arc::new(FileLog::open_with_storage(Arc::clone(&storage), &config)?));
        Ok(Self { storage, config, log, lock: None, loaded: Arc::default(), next: 0 })
    }
}

/// The block that was read last: records are asked for in order, and small ones come many to a read.
type Loaded = Mutex<Option<Arc<Block>>>;

/// The records of a journal, to load and to give up.
#[derive(Clone)]
pub(crate) struct Shelf {
    log: Option<Arc<FileLog>>,
    loaded: Arc<Loaded>,
}

impl Shelf {
    /// The run of a record; `None` if it is lost, or none.
    ///
    /// Cost: a read, unless the one before brought it along.
    pub(crate) fn load(&self, number: RecordNumber) -> Option<Run> {
        let position = Position(number.0);
        let block = self.block(position)?;
        let Some(Entry::Data(bytes)) = block.get(position) else { return None };
        match decode(bytes)? {
            Record::Run(run) => Some(run),
            Record::State(_) => None,
        }
    }

    fn block(&self, position: Position) -> Option<Arc<Block>> {
        let mut loaded = self.loaded.lock().expect(UNPOISONED);
        if let Some(block) = loaded.as_ref().filter(|block| block.get(position).is_some()) {
            return Some(Arc::clone(block));
        }
        let block = self.log.as_ref()?.read(position).ok()??;
        *loaded = Some(Arc::clone(&block));
        Some(block)
    }

    /// Makes all records durable that were acknowledged.
    pub(crate) fn flush(&self) -> Result<Position, FlushError> {
        self.log.as_ref().ok_or(FlushError::ReadOnly)?.flush()
    }

    /// Gives up all records before `number`.
    pub(crate) fn trim(&self, number: RecordNumber) {
        // If that fails, it is tried again with the next trim.
        let _ = self.log.as_ref().map(|log| log.trim(Position(number.0)));
    }
}

/// What a record takes on the disk, at most.
pub(crate) fn cost(record: &Record) -> u64 {
    body_bytes(record) as u64 + FRAMED_OVERHEAD
}

fn size(record: &Record) -> usize {
    OVERHEAD + body_bytes(record)
}

fn body_bytes(record: &Record) -> usize {
    match record {
        Record::State(_) => 0,
        Record::Run(run) => run.block.body_bytes(),
    }
}

fn encode(record: &Record, out: &mut Vec<u8>) {
    encode_head(record, out);
    if let Record::Run(run) = record
        && let Some((bytes, ends)) = run.block.data()
    {
        for end in ends {
            out.extend_from_slice(&end.to_le_bytes());
        }
        out.extend_from_slice(bytes);
    }
}

/// What comes before where the entries end, and their bytes.
fn encode_head(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::State(state) => {
            out.push(1);
            out.extend_from_slice(&state.log.0.to_le_bytes());
            for number in [state.joined.0, state.epoch.0, state.trimmed.0, state.reach.0] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            if let Some(unit) = state.unit {
                out.extend_from_slice(&unit.0.to_le_bytes());
            }
        }
        Record::Run(run) => match (run.id, run.block.data()) {
            (Some(id), Some((_, ends))) => {
                out.push(2);
                for number in [id.client.0, id.sequence, run.first().0] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                let count = u32::try_from(ends.len()).expect("a block holds less than 2^32 entries");
                out.extend_from_slice(&count.to_le_bytes());
            }
            _ => {
                out.push(3);
                out.extend_from_slice(&run.first().0.to_le_bytes());
                out.extend_from_slice(&run.end().0.to_le_bytes());
            }
        },
    }
}

fn decode(bytes: &[u8]) -> Option<Record> {
    let (kind, mut rest) = bytes.split_first()?;
    let mut number = || {
        let (number, after) = rest.split_first_chunk::<8>()?;
        rest = after;
        Some(u64::from_le_bytes(*number))
    };
    match kind {
        1 => {
            let (low, high) = (number()?, number()?);
            let log = LogId(u128::from(low) | u128::from(high) << 64);
            let (joined, epoch) = (Epoch(number()?), Epoch(number()?));
            let (trimmed, reach) = (Position(number()?), Position(number()?));
            let unit = match rest {
                [] => None,
                number => Some(UnitNumber(u32::from_le_bytes(number.try_into().ok()?))),
            };
            Some(Record::State(State { log, unit, joined, epoch, trimmed, reach }))
        }
        2 => {
            let id = EntryId { client: ClientId(number()?), sequence: number()? };
            let first = Position(number()?);
            let (count, rest) = rest.split_first_chunk::<4>()?;
            let (ends, bytes) = rest.split_at_checked(4 * u32::from_le_bytes(*count) as usize)?;
            let ends = u32s(ends);
            let whole = ends.is_sorted() && ends.last().is_some_and(|end| *end as usize == bytes.len());
            let batch = whole.then(|| Batch::from_parts(bytes.to_vec(), ends))?;
            Some(Record::Run(Run::data(id, Arc::new(Block::of(first, batch)))))
        }
        3 => {
            let (first, end) = (Position(number()?), Position(number()?));
            (first < end && end.since(first) <= u64::from(u32::MAX))
                .then(|| Record::Run(Run::junk(first, end)))
        }
        _ => None,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn record_encoded_decodes_to_the_same() {
        let mut batch = Batch::new();
        batch.push(b"an entry");
        batch.push(b"");
        let id = EntryId { client: ClientId(3), sequence: 4 };
        let state = State {
            log: LogId(u128::MAX - 5),
            unit: Some(UnitNumber(7)),
            joined: Epoch(1),
            epoch: Epoch(2),
            trimmed: Position(3),
            reach: Position(4),
        };
        let data = Run::data(id, Arc::new(Block::of(Position(9), batch)));
        let records =
            [Record::State(state), Record::Run(data), Record::Run(Run::junk(Position(1), Position(7)))];
        for record in records {
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            assert!(bytes.len() <= size(&record));
            assert_eq!(decode(&bytes), Some(record));
            for length in 0..bytes.len() {
                // A state need not tell which unit's it is.
                let is_unnamed = bytes[0] == 1 && length == bytes.len() - 4;
                let unnamed = is_unnamed.then_some(Record::State(State { unit: None, ..state }));
                assert_eq!(decode(&bytes[..length]), unnamed, "{length} bytes");
            }
        }
    }
}
