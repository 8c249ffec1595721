//! Tables in memory: rows in place, their versions, and the indexes that find them.
//!
//! This folder, with `tx.rs` and `tx/`, is where all `unsafe` code lives. It rests on three promises, kept elsewhere:
//! the *guard* (`tx/guard.rs`) lets a transaction touch only what its footprint declared; the *mixer* orders
//! transactions whose footprints conflict; the *pipeline* lets nobody run a transaction between two windows. A fourth
//! one its callers keep, in functions that are not `unsafe` for all that: what is for workers in a window, or for holders
//! of a registered snapshot, says so, and is called by nobody else.
//!
//! Keys and rows are their users' types, whose methods may panic. Whatever calls one leaves rows, undo space and indexes
//! such that they can be dropped: nothing is forgotten after it was dropped, but before.
#![allow(unsafe_code)]

mod arena;
mod buried;
mod bytes;
mod effect;
mod hash_index;
mod leaf_index;
mod load;
pub(crate) mod merging;
mod ordered_index;
pub(crate) mod overlay;
mod pins;
mod pool;
mod region;
pub(crate) mod row;
pub(crate) mod slab;
mod table_store;
mod touched;
mod written;

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow, Range};
use std::ptr::NonNull;

use mixlog_mixer::Mode;

pub(crate) use merging::{AnyMerging, Merging};
pub(crate) use overlay::{Beside, Did, Overlays, Speculative, Through, Touched, TouchedRow};
pub(crate) use pool::Pool;
pub(crate) use row::Stamp;
pub(crate) use slab::RowId;
pub(crate) use table_store::{GranuleOf, RowIds, TableStore};
pub(crate) use touched::Unit;
pub(crate) use written::Written;

use crate::checkpoint::RowFormat;
use crate::codec::{Codec, DecodeError};
use crate::footprint::Footprint;
use crate::infer::Leaves;
use crate::interactive::Intention;
use crate::stats::TableMemory;
use crate::table::{Key, Table, TableId, Value};
use crate::tx::{ByTable, Tx};

/// Asks for the line at an address, which need not be valid, to come into all caches: for what is looked at soon.
#[inline]
pub(crate) fn prefetch(address: *const u8) {
    prefetch_into::<3>(address);
}

/// Asks for the line at an address, which need not be valid, to come into the second-level cache: for many lines at once.
/// A line on its way into the first level occupies one of its few buffers for misses, and when they are in use, the next
/// prefetch waits, and so does every load that misses. What that gains: ARCHITECTURE.md, "Rows".
#[inline]
pub(crate) fn prefetch_many(address: *const u8) {
    prefetch_into::<2>(address);
}

/// What a leaf of a [`BTreeMap`] takes, in bytes: room for 11 entries, the place in its parent, and a length. A map that has
/// had an entry keeps one.
pub(crate) const fn bytes_of_node<K, V>() -> usize {
    size_of::<(usize, [K; 11], [V; 11], [u16; 2])>()
}

/// The hint is one of `_mm_prefetch`: 3 is `_MM_HINT_T0`, 2 is `_MM_HINT_T1`.
#[inline]
fn prefetch_into<const HINT: i32>(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it never faults and reads nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<HINT>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// What to put back when the running transaction fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Undo {
    table: u16,
    /// Whether the version lies in the transaction's own undo space, not in the window's.
    within: bool,
    row: RowId,
    version: NonNull<()>,
}

/// The right to be one of the workers: owned by one thread at a time.
pub(crate) struct Worker {
    number: usize,
    /// Counts windows, so that numbers of rows are not used again too early.
    window: u64,
    /// Changes of the running transaction, oldest first.
    undo: Vec<Undo>,
    /// Merges to be made when the window is executed.
    pub(crate) pool: Pool,
    /// Whether it executes all of the window, one by one.
    pub(crate) is_alone: bool,
    /// Where the transactions of the window found no rows, if so; see [`crate::gaps`].
    pub(crate) gaps: ByTable,
    scratch: Vec<u8>,
    /// What it changed in the digest of the state so far, by table and bucket of keys; empty unless somebody compares.
    pub(crate) buckets: Vec<u128>,
}

// SAFETY: the undo records point into undo space that belongs to the worker, wherever it runs.
unsafe impl Send for Worker {}

impl Worker {
    pub(crate) const fn number(&self) -> usize {
        self.number
    }

    const fn window(&self) -> u64 {
        self.window
    }

    pub(crate) fn start_window(&mut self, window: u64) {
        self.window = window;
        self.pool.clear();
        self.is_alone = false;
        self.gaps.clear();
    }
}

/// What the end of a window means for its versions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowEnd {
    /// The window's number.
    pub(crate) window: u64,
    /// The lowest stamp of the window.
    pub(crate) first: Stamp,
    /// The newest stamp that the oldest snapshot sees that is registered or may still be opened.
    pub(crate) oldest_snapshot: Option<Stamp>,
}

impl WindowEnd {
    /// Whether a snapshot may need what was there before the change with this stamp.
    fn is_needed(&self, stamp: Stamp) -> bool {
        self.oldest_snapshot.is_some_and(|oldest| stamp > oldest)
    }
}

/// Shown the bytes of key and value of a row; tells whether to go on.
pub(crate) type SeeRow<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Shown the hashes of a key and its row, and what people call the key.
pub(crate) type SeeHashes<'a> = dyn FnMut(u64, u128, &dyn Fn() -> String) + 'a;

/// A table without its types.
pub(crate) trait AnyTable: Any + Send + Sync {
    fn name(&self) -> &'static str;
    fn id(&self) -> TableId;
    /// Whether its rows follow from those of other tables.
    fn is_derived(&self) -> bool;
    /// The type of the `TableStore`.
    fn types(&self) -> TypeId;

    /// The domain whose granules are its unit of conflict, if it is grouped.
    fn domain(&self) -> Option<&'static str>;
    /// The key with this hash as people read it, if it has a row. For holders of a snapshot.
    fn describe_key(&self, key_hash: u64) -> Option<String>;
    /// Looks through all rows for granules with these hashes, and fills in what people call them. Any time.
    fn describe_granules(&self, wanted: &mut BTreeMap<u64, Option<String>>);

    /// Asks the cache for where the index will look for a key.
    fn prefetch_index(&self, key_hash: u64);
    /// The row that the key most likely has. To be compared before use.
    fn locate(&self, key_hash: u64) -> Option<RowId>;
    /// Asks the cache for the leaf with this number.
    fn prefetch_leaf(&self, leaf: u32);
    /// Asks the cache for a row.
    fn prefetch_row(&self, id: RowId);

    /// See [`TableStore::is_absent`].
    ///
    /// # Safety
    /// As there.
    unsafe fn is_absent(&self, overlays: &Overlays, touched: &TouchedRow) -> bool;
    /// See [`TableStore::adopt`].
    ///
    /// # Safety
    /// As there.
    unsafe fn adopt(
        &self,
        worker: &mut Worker,
        overlays: &Overlays,
        touched: &TouchedRow,
        window: Stamp,
        me: Stamp,
    );
    /// Adds what a speculation did with a row to a footprint. `granules`: a row that was read is declared as part of its
    /// granule, if it is part of one.
    fn declare(
        &self,
        overlays: &Overlays,
        touched: &TouchedRow,
        granules: bool,
        footprint: &mut Footprint<'_>,
    );
    /// See [`TableStore::unit_of`].
    fn unit_of(&self, overlays: &Overlays, touched: &TouchedRow) -> Option<Unit>;
    /// See [`TableStore::granule_name`].
    fn granule_name(&self, overlays: &Overlays, hash: u64) -> Option<String>;
    /// Whether each of its rows is a unit of conflict, and nothing else is.
    fn conflicts_by_row(&self) -> bool;
    /// Whether its rows can also be read as parts of granules.
    fn is_watched(&self) -> bool;
    /// Whether its granules are parts of ranges, which nobody can name.
    fn has_ranges(&self) -> bool;

    /// Takes the key of a row that a speculation touched apart; see [`Codec::take_apart`].
    fn take_key_apart(&self, overlays: &Overlays, touched: &TouchedRow, leaves: &mut Leaves) -> bool;
    /// The number of the granule that such a row is in, in a grouped or watched table.
    fn granule_number(&self, overlays: &Overlays, touched: &TouchedRow) -> Option<u64>;
    /// The hash of the granule of this number.
    fn granule_hash(&self, number: u64) -> u64;
    /// Declares an access to the granule of this number.
    fn declare_granule(&self, number: u64, mode: Mode, f: &mut Footprint<'_>);
    /// Declares an access to the row of a key, by its bytes.
    fn declare_bytes(&self, key: &[u8], mode: Mode, f: &mut Footprint<'_>) -> Result<(), DecodeError>;
    /// Declares a range, by the bytes of its bounds.
    fn declare_range(
        &self,
        from: Bound<&Vec<u8>>,
        to: Bound<&Vec<u8>>,
        f: &mut Footprint<'_>,
    ) -> Result<(), DecodeError>;
    /// Whether the bytes of a range's bounds are those of keys.
    fn check_range(&self, from: Bound<&Vec<u8>>, to: Bound<&Vec<u8>>) -> Result<(), DecodeError>;
    /// The hash of the row's value, if there is one.
    fn hash_of(&self, tx: &Tx<'_>, key: &[u8]) -> Result<Option<u128>, DecodeError>;
    /// The hash of the rows of a range.
    fn hash_of_range(
        &self,
        tx: &Tx<'_>,
        from: Bound<&Vec<u8>>,
        to: Bound<&Vec<u8>>,
    ) -> Result<u128, DecodeError>;
    /// Puts or deletes a row.
    fn write_bytes(&self, tx: &mut Tx<'_>, key: &[u8], value: Option<&[u8]>) -> Result<(), DecodeError>;
    /// Adds what an interactive transaction at `at` did with a row to its intention.
    fn intend(&self, overlays: &Overlays, touched: &TouchedRow, at: Stamp, intention: &mut Intention);
    /// Adds the ranges that it walked.
    fn intend_scans(&self, overlays: &Overlays, at: Stamp, intention: &mut Intention);

    /// Puts back one change of the running transaction.
    ///
    /// # Safety
    /// `undo` is a change of this table by the calling worker's running transaction; later ones are put back
    /// already.
    unsafe fn roll_back(&self, undo: Undo);
    /// What one change of the running transaction makes to the digest; see [`Store::effects`].
    ///
    /// # Safety
    /// `undo` is a change of this table by the calling worker's running transaction.
    unsafe fn effect(&self, undo: Undo, scratch: &mut Vec<u8>) -> u128;
    /// Empties the transaction's own undo space.
    fn clear_within(&self, worker: &mut Worker);

    /// Puts all rows back to before the window, for all workers.
    ///
    /// # Safety
    /// No worker runs, and the window was not ended.
    unsafe fn undo_window(&self);
    /// Drops or retains the worker's versions, gives back rows, and returns what the worker's share of the window
    /// changed in the digest.
    ///
    /// # Safety
    /// No worker runs a transaction, and the window was not ended for this worker; `end` tells of all registered
    /// snapshots. Workers may end a window at the same time.
    unsafe fn end_window(&self, worker: &mut Worker, end: &WindowEnd) -> u128;
    /// Whether [`adapt`](Self::adapt) has something to do.
    fn wants_adapting(&self) -> bool;
    /// Cuts the keys anew into leaves.
    ///
    /// # Safety
    /// No worker runs, and no window is prepared: footprints name leaves.
    unsafe fn adapt(&self);
    /// Frees what only look-ups of the past could need.
    ///
    /// # Safety
    /// No worker runs.
    unsafe fn reclaim(&self);
    /// How much memory is in use. Reads a few counters, without a lock.
    fn memory(&self) -> TableMemory;
    /// The digest of all rows at `at`, from scratch. For registered snapshots.
    fn digest_at(&self, at: Stamp) -> u128;

    /// Shows `see` the hashes that the digest has of each key and row at `at`, and how to name the key. For registered
    /// snapshots.
    fn visit_hashes_at(&self, at: Stamp, see: &mut SeeHashes<'_>);

    /// The version of its rows; of an index, of those that it finds.
    fn row_version(&self) -> u32;
    /// How its rows become bytes.
    fn row_format(&self) -> RowFormat;
    /// Adds where a transaction found no rows to what is known of the window.
    fn leave_gaps(&self, all: &ByTable, found: Box<dyn Any + Send>);
    /// Shows `see` the bytes of key and value of all rows at `at`, in no order, until it breaks off. For registered
    /// snapshots. Fails at a row that cannot be loaded again.
    fn visit_rows_at(&self, at: Stamp, see: &mut SeeRow<'_>) -> Result<(), DecodeError>;
    /// See [`TableStore::load_row`].
    ///
    /// # Safety
    /// As there.
    unsafe fn load_row(
        &self,
        worker: &mut Worker,
        key: &[u8],
        value: &[u8],
        at: Stamp,
    ) -> Result<(), DecodeError>;
    /// Whether other tables follow from its rows.
    fn is_indexed(&self) -> bool;
    /// How many numbers of rows were given out.
    fn numbers(&self) -> RowId;
    /// See [`TableStore::index_rows`].
    ///
    /// # Safety
    /// As there.
    unsafe fn index_rows(&self, tx: &mut Tx<'_>, rows: Range<RowId>) -> Result<(), DecodeError>;
}

/// All tables of an engine.
pub(crate) struct Store {
    tables: Vec<Box<dyn AnyTable>>,
    /// Tables by name: a perfect hash, `(id * multiplier) >> shift`.
    directory: Vec<Entry>,
    multiplier: u64,
    shift: u32,
}

/// All that a look-up of a table by its description needs, in one place: procedures do it at every access.
#[derive(Clone, Copy)]
struct Entry {
    id: TableId,
    types: TypeId,
    table: *const (),
}

// SAFETY: the pointer leads to a table of the same store, which may be shared and sent (`AnyTable`), and does not
// move: the store's boxes are never replaced.
unsafe impl Sync for Entry {}
// SAFETY: as above.
unsafe impl Send for Entry {}

/// Makes one table of the store, given its number, the number of workers, and the indexes of all tables, of which it
/// takes its own.
pub(crate) type MakeTable = Box<dyn Fn(u16, usize, &mut Indexes) -> Box<dyn AnyTable> + Send + Sync>;

/// Indexes, each a `Box<dyn Maintain<K, V>>`, by the table that they index.
pub(crate) type Indexes = Vec<(TableId, Box<dyn Any + Send>)>;

impl Store {
    /// The tables, and the right to be each of `workers` workers.
    pub(crate) fn new(makers: &[MakeTable], mut indexes: Indexes, workers: usize) -> (Self, Vec<Worker>) {
        let tables: Vec<_> =
            (0u16..).zip(makers).map(|(number, make)| make(number, workers, &mut indexes)).collect();
        let (directory, multiplier, shift) = Self::directory(&tables);
        let worker = |number| Worker {
            number,
            window: 0,
            undo: Vec::new(),
            pool: Pool::default(),
            is_alone: false,
            gaps: ByTable::new(),
            scratch: Vec::new(),
            buckets: Vec::new(),
        };
        (Self { tables, directory, multiplier, shift }, (0..workers).map(worker).collect())
    }

    /// Searches a multiplier without collisions.
    fn directory(tables: &[Box<dyn AnyTable>]) -> (Vec<Entry>, u64, u32) {
        let nothing = Entry { id: TableId(0), types: TypeId::of::<()>(), table: std::ptr::null() };
        let fewest = (tables.len().max(1) * 4).next_power_of_two().trailing_zeros();
        for i in 1u64.. {
            // Without collisions takes slots in the order of the tables' square: more of them until a try succeeds.
            let bits = fewest + (i / 256) as u32;
            let multiplier = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut directory = vec![nothing; 1 << bits];
            let free = tables.iter().all(|table| {
                let slot = (table.id().0.wrapping_mul(multiplier) >> (64 - bits)) as usize;
                let entry =
                    Entry { id: table.id(), types: table.types(), table: (&raw const **table).cast() };
                std::mem::replace(&mut directory[slot], entry).table.is_null()
            });
            if free {
                return (directory, multiplier, 64 - bits);
            }
        }
        unreachable!("distinct ids have a multiplier that tells them apart")
    }

    /// The rows of `table`.
    ///
    /// # Panics
    /// When the engine was built without the table, or with another one of that name.
    #[inline]
    pub(crate) fn table<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
    ) -> &TableStore<K, V, C> {
        let slot = (table.id().0.wrapping_mul(self.multiplier) >> self.shift) as usize;
        let entry = &self.directory[slot];
        if entry.id == table.id() && entry.types == TypeId::of::<TableStore<K, V, C>>() {
            // SAFETY: the types were just compared, and the table lives as long as the store.
            return unsafe { &*entry.table.cast::<TableStore<K, V, C>>() };
        }
        Self::unknown(table.name(), entry.id == table.id() && !entry.table.is_null())
    }

    #[cold]
    fn unknown(name: &str, other_types: bool) -> ! {
        if other_types {
            panic!("table {name:?} is registered with other types")
        }
        panic!(
            "table {name:?} is not registered: name it to Builder::table, or to Builder::index if it is an index"
        )
    }

    #[inline]
    pub(crate) fn any(&self, number: u16) -> &dyn AnyTable {
        &*self.tables[usize::from(number)]
    }

    pub(crate) fn tables(&self) -> impl ExactSizeIterator<Item = &dyn AnyTable> {
        self.tables.iter().map(|table| &**table)
    }

    /// Makes the running transaction's changes stay.
    #[inline]
    pub(crate) fn keep_changes(&self, worker: &mut Worker) {
        for i in 0..worker.undo.len() {
            let undo = worker.undo[i];
            if undo.within {
                self.any(undo.table).clear_within(worker);
            }
        }
        worker.undo.clear();
    }

    /// Puts back all that the running transaction changed.
    pub(crate) fn roll_back(&self, worker: &mut Worker) {
        for i in (0..worker.undo.len()).rev() {
            let undo = worker.undo[i];
            // SAFETY: changes are recorded by `TableStore::save` for the running transaction only, and put
            // back newest first.
            unsafe { self.any(undo.table).roll_back(undo) };
        }
        self.keep_changes(worker);
    }
}
