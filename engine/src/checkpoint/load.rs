//! From the newest checkpoint that is whole to a state, on all drivers.
#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use mixlog_log::{Position, SharedLog};

use super::convert::{Conversion, Converter};
use super::layout::{Rows, TableEntry, file_name};
use super::read::{Bad, Block, Opened};
use super::shelf::Shelf;
use super::{OnLoad, Recovery, Rejected, Start};
use crate::agreement::{Formats, Membership, agreed_on};
use crate::codec::DecodeError;
use crate::digest::Digest;
use crate::entry::{self, Catalog};
use crate::error::OpenError;
use crate::footprint::Details;
use crate::observe;
use crate::panics::caught;
use crate::pipeline::{Driver, Pipeline};
use crate::store::{AnyTable, RowId, Stamp};
use crate::tx::{Guard, Tx};

/// How many blocks a driver loads before all meet: what they changed takes undo space until then.
const BLOCKS_A_ROUND: u32 = 16;

/// How many rows a driver indexes at a time, and how often before all meet.
const ROWS_AT_A_TIME: RowId = 256;
const TIMES_A_ROUND: u32 = 64;

const GIVEN_UP: &str = "it was given up for a newer one while it was read";

/// Where a state comes from.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) log: &'a dyn SharedLog,
    pub(crate) shelf: Option<&'a Shelf>,
    pub(crate) start: Start,
    /// Whose votes in the log a checkpoint must not contradict, if that is known.
    pub(crate) membership: Option<&'a Membership>,
}

/// What members agreed on after a checkpoint's position, as far as the log tells, in the formats that it is written in. The
/// inner error is that its state is another one.
pub(super) fn agreed_after(
    log: &dyn SharedLog,
    membership: Option<&Membership>,
    opened: &Opened,
) -> Result<Result<Option<Digest>, String>, OpenError> {
    let own = opened.header.digest();
    let written = opened.tables.iter().map(|table| (table.name.as_str(), table.format.clone()));
    let agreed = agreed_on(log, opened.header.position, membership, &Formats::of(written))?;
    Ok(match agreed.filter(|agreed| *agreed != own) {
        Some(agreed) => {
            Err(format!("its digest is {own}, and the members agreed on {agreed} after its position"))
        }
        None => Ok(agreed),
    })
}

impl Source<'_> {
    /// Compares a checkpoint's state with what the members' votes in the log say of it, as it is written, and as it is
    /// converted. Tells whether they say that it is theirs; the inner error is why it is not.
    fn compare(&self, pipeline: &Pipeline, opened: &Opened) -> Result<Result<bool, String>, OpenError> {
        let agreed = match agreed_after(self.log, self.membership, opened)? {
            Ok(agreed) => agreed,
            Err(reason) => return Ok(Err(reason)),
        };
        let Some(membership) = self.membership else { return Ok(Ok(false)) };
        let is_converted = |target: &Target<'_>| target.conversion.is_some();
        // What it cannot be converted for is told when it is loaded.
        let Some(targets) = targets(pipeline, opened).ok().filter(|all| all.iter().any(is_converted)) else {
            return Ok(Ok(agreed.is_some()));
        };
        let tables = pipeline.shared().store.tables().filter(|table| !table.is_derived());
        let registered = Formats::of(tables.map(|table| (table.name(), table.row_format())));
        // Not left to the next votes: where it starts from a wrong state it would vote for it until then.
        let expected = agreed_on(self.log, opened.header.position, Some(membership), &registered)?;
        let Some(expected) = expected else { return Ok(Ok(agreed.is_some())) };
        Ok(match Loading::new(opened, targets).converted(pipeline) {
            Some(own) if own != expected => Err(format!(
                "converted, its digest is {own}, and the members agreed on {expected} after its position"
            )),
            Some(_) => Ok(true),
            None => Ok(agreed.is_some()),
        })
    }
}

/// Gives the pipeline, which has executed nothing, the state of a checkpoint before position `before`, if there is one
/// that is whole, that the log goes on from, and that no majority of the members has voted against. Otherwise it stays
/// at the start of the log, if that is there.
///
/// # Errors
/// The log's start is gone, the checkpoint that was chosen does not fit the engine or the log, or somebody gave it up
/// meanwhile: then the pipeline may have some of its rows, and [`start`](super::start) makes another one.
pub(crate) fn recover(
    pipeline: &Pipeline,
    from: &Source<'_>,
    before: Position,
    on_load: Option<&OnLoad>,
) -> Result<Recovery, OpenError> {
    let Source { log, shelf, start, .. } = *from;
    let (tail, begun) = (log.tail()?, Instant::now());
    let mut recovery = Recovery::default();
    let all = shelf.map_or_else(|| Ok(Vec::new()), list)?;
    // Wherever this starts, and wherever it is to end: entries that the log lost are missing in what it would show.
    for position in all.iter().rev().copied().filter(|position| *position >= tail.tail) {
        let shelf = shelf.expect("what is listed lies on a shelf");
        let is_whole = shelf.open(position).and_then(|opened| verify(pipeline, &opened)).is_ok();
        // The log may have become longer since, and the checkpoint be one of what was appended.
        let tail = log.tail()?.tail;
        if is_whole && position >= tail {
            return Err(OpenError::LogTooShort { name: file_name(position), position, tail });
        }
    }
    let mut candidates: Vec<_> =
        all.iter().copied().filter(|position| position.next() >= tail.head && *position < before).collect();
    match start {
        Start::Newest => candidates.reverse(),
        Start::Oldest if tail.head == Position::ZERO => candidates.clear(),
        Start::Oldest => {}
    }
    let oldest = all.iter().copied().find(|position| position.next() >= tail.head);
    for position in candidates {
        let shelf = shelf.expect("candidates lie on a shelf");
        let whole = shelf.open(position).and_then(|opened| verify(pipeline, &opened).map(|()| opened));
        let opened = match whole {
            Ok(opened) => opened,
            Err(bad) => {
                let name = file_name(position);
                if was_given_up(shelf, position, &all)? {
                    let source = io::Error::new(io::ErrorKind::NotFound, GIVEN_UP);
                    let path = shelf.storage.path().join(name);
                    return Err(OpenError::Checkpoints { path, source: Arc::new(source) });
                }
                observe::rejected(&name, &bad);
                recovery.rejected.push(Rejected::new(name, &bad));
                continue;
            }
        };
        // Every byte of it is as it was written; that does not make its state the right one.
        recovery.agreed = match from.compare(pipeline, &opened)? {
            Ok(agreed) => agreed,
            Err(reason) => {
                let name = file_name(position);
                observe::rejected(&name, &reason);
                recovery.rejected.push(Rejected { name, reason, unreadable: false });
                continue;
            }
        };
        recovery.rows = load(pipeline, &opened, on_load)?;
        recovery.checkpoint = Some(position);
        recovery.load = begun.elapsed();
        return Ok(recovery);
    }
    let head = tail.head;
    match (head, oldest) {
        (Position::ZERO, _) => {
            recovery.load = begun.elapsed();
            Ok(recovery)
        }
        _ if !recovery.rejected.is_empty() => {
            Err(OpenError::NoCheckpoint { head, rejected: recovery.rejected })
        }
        (_, Some(_)) => {
            let position = before.previous().unwrap_or_default();
            Err(OpenError::TooEarly { position, head, oldest })
        }
        (_, None) => Err(OpenError::Trimmed { head, newest: all.last().copied() }),
    }
}

/// Whether who takes checkpoints has given up this one since `all` were listed, for a newer one. Then its bytes tell
/// nothing: they may be those of the next one.
fn was_given_up(shelf: &Shelf, position: Position, all: &[Position]) -> Result<bool, OpenError> {
    let now = list(shelf)?;
    Ok(now.last() > all.last() && !now.contains(&position))
}

/// The names in a log that was trimmed, from the newest checkpoint whose beginning is whole.
pub(crate) fn catalog_of(log: &dyn SharedLog, shelf: Option<&Shelf>) -> Result<Catalog, OpenError> {
    let head = log.tail()?.head;
    let Some(shelf) = shelf else { return Err(OpenError::Trimmed { head, newest: None }) };
    let (all, mut rejected) = (list(shelf)?, Vec::new());
    for &position in all.iter().rev().filter(|position| position.next() >= head) {
        match shelf.open(position) {
            Ok(opened) => return Ok(opened.catalog),
            Err(bad) => rejected.push(Rejected::new(file_name(position), &bad)),
        }
    }
    if rejected.is_empty() {
        Err(OpenError::Trimmed { head, newest: all.last().copied() })
    } else {
        Err(OpenError::NoCheckpoint { head, rejected })
    }
}

pub(super) fn list(shelf: &Shelf) -> Result<Vec<Position>, OpenError> {
    shelf.list().map_err(|source| OpenError::Checkpoints {
        path: shelf.storage.path().to_path_buf(),
        source: Arc::new(source),
    })
}

/// Verifies a checkpoint, on all drivers.
fn verify(pipeline: &Pipeline, opened: &Opened) -> Result<(), Bad> {
    opened.verify(|verify| pipeline.share(verify)).map(|_| ())
}

/// A checkpoint, and the numbers of its tables in the store.
struct Loading<'a> {
    opened: &'a Opened,
    tables: Vec<Target<'a>>,
    /// What conversions made to the digest.
    change: Mutex<u128>,
}

/// A table in the store, and how its rows get there if they are not written as it writes them.
#[derive(Clone, Copy)]
struct Target<'a> {
    number: u16,
    conversion: Option<&'a Conversion>,
}

/// Loads a checkpoint that was verified; tells how many rows it has.
fn load(pipeline: &Pipeline, opened: &Opened, on_load: Option<&OnLoad>) -> Result<u64, OpenError> {
    let position = opened.header.position;
    if opened.catalog.format != entry::FORMAT {
        return Err(OpenError::Checkpoint {
            name: opened.name.clone(),
            detail: format!(
                "its log has entry format {}, this program reads format {}",
                opened.catalog.format,
                entry::FORMAT
            ),
        });
    }
    pipeline.shared().note_catalog(position, &opened.catalog)?;
    let source = Loading::new(opened, targets(pipeline, opened)?);
    let (blocks, loaded, mut number) = (opened.blocks(), AtomicU64::new(0), 0);
    loop {
        let before = loaded.load(Ordering::Relaxed);
        number += 1;
        pipeline.round(number, position, |driver| {
            for _ in 0..BLOCKS_A_ROUND {
                let Some(block) = blocks.next() else { return Ok(()) };
                source.load_block(pipeline, driver, &block)?;
                loaded.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })?;
        if let Some(on_load) = on_load {
            let (done, all) = blocks.progress();
            on_load(done, all);
        }
        if loaded.load(Ordering::Relaxed) == before {
            break;
        }
    }
    let end = blocks.finish().map_err(|bad| source.bad(bad))?;
    for table in &source.tables {
        source.index(pipeline, *table, &mut number)?;
    }
    let header = &opened.header;
    let change = *source.change.lock().expect("no panic in a short section");
    pipeline.start_after(&header.digest(), change, number).map_err(|found| {
        source.error(&format!("its rows have the digest {found:032x}, and not {:032x}", header.state))
    })?;
    Ok(end.rows.iter().sum())
}

/// Where the rows of the checkpoint's tables go, if this engine can read them all.
fn targets<'a>(pipeline: &'a Pipeline, opened: &Opened) -> Result<Vec<Target<'a>>, OpenError> {
    let (shared, position) = (pipeline.shared(), opened.header.position);
    let refuse = |detail| OpenError::Checkpoint { name: opened.name.clone(), detail };
    let number = |entry: &TableEntry| {
        let missing = || OpenError::MissingTable { name: entry.name.clone(), position };
        let number = shared.store.number_of(&entry.name).ok_or_else(missing)?;
        let registered = shared.store.any(number).row_format();
        if registered == entry.format {
            return Ok(Target { number, conversion: None });
        }
        let (name, written) = (&entry.name, &entry.format);
        let conversion = shared.conversions.iter().map(|conversion| &**conversion).find(|conversion| {
            conversion.names[0] == name && conversion.from == *written && conversion.to == registered
        });
        if conversion.is_some() {
            return Ok(Target { number, conversion });
        }
        Err(refuse(format!(
            "table {name:?} was written as {written}, and is registered as {registered}; no conversion from one to the \
             other is registered"
        )))
    };
    opened.tables.iter().map(number).collect()
}

impl<'a> Loading<'a> {
    const fn new(opened: &'a Opened, tables: Vec<Target<'a>>) -> Self {
        Self { opened, tables, change: Mutex::new(0) }
    }

    fn error(&self, detail: &impl ToString) -> OpenError {
        OpenError::Checkpoint { name: self.opened.name.clone(), detail: detail.to_string() }
    }

    fn bad(&self, bad: Bad) -> OpenError {
        match bad {
            Bad::Io(source) => OpenError::Checkpoints { path: self.opened.name.clone().into(), source },
            Bad::Damaged { .. } => self.error(&bad),
        }
    }

    fn decode_error(&self, table: &str, error: &DecodeError) -> OpenError {
        self.error(&format!(
            "a row of table {table:?} cannot be decoded: {error}; if the type of its keys or rows has changed, the table \
             needs another `Table::version` and a `Builder::convert`"
        ))
    }

    fn load_block(&self, pipeline: &Pipeline, driver: &mut Driver, block: &Block) -> Result<(), OpenError> {
        block.check().map_err(|bad| self.bad(bad))?;
        let store = &pipeline.shared().store;
        let target = self.tables[block.header.table as usize];
        let table = store.any(target.number);
        let at = Stamp::of(self.opened.header.position);
        let rows = self.each_row(table, target.conversion, block, |key, value| {
            // SAFETY: the pipeline does not run, and all drivers load.
            let loaded = unsafe { table.load_row(&mut driver.worker, key, value, at) };
            loaded.map_err(|error| self.decode_error(table.name(), &error))?;
            store.keep_changes(&mut driver.worker);
            Ok(())
        })?;
        if rows == block.header.rows { Ok(()) } else { Err(self.error(&"the counts of rows differ")) }
    }

    /// Shows the rows of a block, as this engine writes them, and keeps what that makes to the digest; tells how many there
    /// are.
    fn each_row(
        &self,
        table: &dyn AnyTable,
        conversion: Option<&Conversion>,
        block: &Block,
        mut see: impl FnMut(&[u8], &[u8]) -> Result<(), OpenError>,
    ) -> Result<u32, OpenError> {
        let mut converter = conversion.map(|conversion| Converter::new(conversion, table.id()));
        let mut rows = 0;
        for row in Rows(&block.body) {
            let (key, value) = row.map_err(|flaw| self.error(&block.bad(flaw)))?;
            let (key, value) = match &mut converter {
                None => (key, value),
                Some(converter) => {
                    converter.convert(key, value).map_err(|error| self.decode_error(table.name(), &error))?
                }
            };
            see(key, value)?;
            rows += 1;
        }
        if let Some(converter) = converter {
            let mut change = self.change.lock().expect("no panic in a short section");
            *change = change.wrapping_add(converter.change);
        }
        Ok(rows)
    }

    /// The digest of the state when it is converted, or `None` if that fails: it will once more, and be told, when the
    /// state is loaded.
    fn converted(&self, pipeline: &Pipeline) -> Option<Digest> {
        let (blocks, has_failed) = (self.opened.blocks(), AtomicBool::new(false));
        pipeline.share(|| {
            let convert = || {
                while let Some(block) = blocks.next() {
                    let target = self.tables[block.header.table as usize];
                    if target.conversion.is_some() {
                        block.check().map_err(|bad| self.bad(bad))?;
                        let table = pipeline.shared().store.any(target.number);
                        self.each_row(table, target.conversion, &block, |_, _| Ok(()))?;
                    }
                }
                Ok::<(), OpenError>(())
            };
            if !matches!(caught(convert), Ok(Ok(()))) {
                has_failed.store(true, Ordering::Relaxed);
            }
        });
        let Digest { position, state, replies } = self.opened.header.digest();
        let change = *self.change.lock().expect("no panic in a short section");
        let state = state.wrapping_add(change);
        (!has_failed.into_inner()).then_some(Digest { position, state, replies })
    }

    /// Rebuilds the indexes of a table whose rows were loaded, and looks for keys that a conversion made of several.
    fn index(&self, pipeline: &Pipeline, target: Target<'_>, number: &mut u64) -> Result<(), OpenError> {
        let (store, position) = (&pipeline.shared().store, self.opened.header.position);
        let table = store.any(target.number);
        if !table.is_indexed() && target.conversion.is_none() {
            return Ok(());
        }
        let (next, end) = (AtomicU32::new(0), table.numbers());
        while next.load(Ordering::Relaxed) < end {
            *number += 1;
            pipeline.round(*number, position, |driver| {
                for _ in 0..TIMES_A_ROUND {
                    let first = next.fetch_add(ROWS_AT_A_TIME, Ordering::Relaxed).min(end);
                    let rows = first..(first + ROWS_AT_A_TIME).min(end);
                    let details = Details { located: &[], bounded: &[] };
                    // SAFETY: no transaction runs. Drivers write index rows beside each other, but places of different
                    // keys, which `index_rows` sees to: no two of them touch one row.
                    let mut tx = unsafe {
                        Tx::new(store, &mut driver.worker, Guard::Off, details, position, position, 0)
                    };
                    // SAFETY: all rows were loaded, and each number is claimed once.
                    let indexed = unsafe { table.index_rows(&mut tx, rows) };
                    tx.finish(true);
                    indexed.map_err(|error| self.decode_error(table.name(), &error))?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}
