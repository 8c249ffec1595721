//! The rows of one table: index, slab, and each worker's undo space.
//!
//! Who may touch what, and when:
//!
//! * *In a window* a worker changes rows as the schedule allows, and its own [`Local`].
//! * *Between two windows* all workers meet at barriers. There the versions of the window are either put back
//!   (divergence) or digested, and then dropped or retained; rows that ended up without a value are given back.
//! * *Snapshots* read at any moment, latching each row that they look at. They are registered, and what a
//!   registered one may need is retained: of the windows after the oldest one all versions, and all rows that
//!   had a value. Nothing is dropped between two snapshots.
//!
//! A snapshot holds a row's latch for two looks at most: at the value in place, and at the chain's newest version.
//! That one may belong to the window at hand, which may be put back. Any version behind it belongs to a window that has
//! ended, for a row gets one version per window; and where the value in front of it is later than the snapshot, that
//! window is, too. Such versions are neither changed nor dropped while the snapshot is registered, so the rest
//! of the chain, however long, is followed without the latch. Nor is the key of a row given back that a
//! registered snapshot sees.
//!
//! What a snapshot needs of rows that are gone is *buried* where keys are in order (see [`buried`](super::buried)): out of
//! the index, so that transactions need not go past it. A worker may have located such a row for the next window, too; it
//! finds another unit of conflict there, and looks the key up again. A key that comes again gets the same row.
//!
//! A number given back is not used again before the second window after: a worker may have located the row for
//! the next window already. It finds [`Stamp::FREE`] there, and looks the key up again. Who gave it back uses it again;
//! what a worker has too many of is free for all, or a table in which one inserts what others delete would grow for ever.

mod any;
mod at;
mod local;
mod ranges;

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::Mutex;

use crossbeam_utils::CachePadded;

use local::{Local, Told};
pub(crate) use ranges::{RangeAt, RowAt, RowIds};

use super::arena::Arena;
use super::buried::Buried;
use super::hash_index::HashIndex;
use super::leaf_index::{self, LeafIndex};
use super::ordered_index::OrderedIndex;
use super::row::{Row, Stamp, Version};
use super::slab::{RowId, Slab};
use super::{Undo, Worker};
use crate::codec::Codec;
use crate::digest;
use crate::footprint::Footprint;
use crate::index::Maintain;
use crate::table::{Conflicts, Granule, Key, Table, TableId, Value};
use crate::tx::{Lent, Tx};

/// How many row numbers a worker takes at once.
const NUMBERS: u32 = 64;
/// Into how many shards keys fall whose rows are made by merges.
const CREATING: usize = 16;
/// How many numbers that it gave back a worker keeps to itself.
const KEPT: usize = 4 * NUMBERS as usize;

enum Index<K> {
    Hash(HashIndex),
    /// A tree for each granule.
    Ordered(Box<OrderedIndex<K>>),
    /// Rows by hash, and all keys in order.
    Leaves(Box<Leaves<K>>),
}

struct Leaves<K> {
    by_hash: HashIndex,
    in_order: LeafIndex<K>,
    buried: Buried<K>,
}

/// Whether a number given back may be used in a window.
const fn is_usable((given_back, _): (u64, RowId), window: u64) -> bool {
    given_back + 2 <= window
}

/// The group of rows that a key belongs to, in a store.
pub(crate) enum GranuleOf<K> {
    /// As a table's description tells.
    Key(Granule<K>),
    /// As an index tells by a part of the key.
    Part(Box<dyn Fn(&K) -> u64 + Send + Sync>),
}

impl<K> GranuleOf<K> {
    #[inline]
    pub(crate) fn of(&self, key: &K) -> u64 {
        match self {
            Self::Key(granule) => granule(key),
            Self::Part(granule) => granule(key),
        }
    }
}

/// What each worker keeps.
type Locals<K, V> = Box<[CachePadded<UnsafeCell<Local<K, V>>>]>;

/// See the module's documentation.
pub(crate) struct TableStore<K, V, C> {
    name: &'static str,
    number: u16,
    id: TableId,
    pub(crate) conflicts: Conflicts<GranuleOf<K>>,
    /// Whether no digest counts its rows.
    pub(super) derived: bool,
    pub(super) row_version: u32,
    secondary: Vec<Box<dyn Maintain<K, V>>>,
    domain: TableId,
    rows: Slab<Row<K, V>>,
    index: Index<K>,
    locals: Locals<K, V>,
    told: Box<[CachePadded<Told>]>,
    /// Numbers that workers gave back and have too many of, with the window in which that was. Taken and given many at
    /// a time.
    free: Mutex<VecDeque<(u64, RowId)>>,
    /// One of them, by the key's hash, is held while a row is made that several transactions may miss at once.
    pub(super) creating: Box<[CachePadded<Mutex<()>>]>,
    codec: std::marker::PhantomData<fn() -> C>,
}

// SAFETY: rows and locals are shared under the rules above; `K` and `V` may themselves be shared and sent, and so may
// granule functions and what maintains the indexes.
unsafe impl<K: Key, V: Value, C> Sync for TableStore<K, V, C> {}
// SAFETY: it owns its rows.
unsafe impl<K: Key, V: Value, C> Send for TableStore<K, V, C> {}

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> TableStore<K, V, C> {
    pub(crate) fn new(
        table: &Table<K, V, C>,
        conflicts: Conflicts<GranuleOf<K>>,
        number: u16,
        workers: usize,
        secondary: Vec<Box<dyn Maintain<K, V>>>,
    ) -> Self {
        let local = |_| {
            CachePadded::new(UnsafeCell::new(Local {
                versions: Arena::new(),
                within: Arena::new(),
                retained: VecDeque::new(),
                retained_len: 0,
                numbers: 0..0,
                free: VecDeque::new(),
                absent: VecDeque::new(),
                buried: VecDeque::new(),
                with_value: 0,
                existing: 0,
            }))
        };
        let domain = match conflicts {
            // A domain and a table of one name must not share granules by accident.
            Conflicts::Grouped { domain, .. } => TableId(TableId::of(domain).0 ^ 0x5bd1_e995_9bd1_e995),
            Conflicts::Rows | Conflicts::Watched(_) | Conflicts::Ranges => TableId(!table.id().0),
        };
        Self {
            name: table.name(),
            number,
            id: table.id(),
            derived: table.is_derived(),
            row_version: table.row_version(),
            secondary,
            domain,
            rows: if table.is_ordered() { Slab::of_items_read_to(Row::<K, V>::READ) } else { Slab::new() },
            index: match conflicts {
                Conflicts::Ranges => Index::Leaves(Box::new(Leaves {
                    by_hash: HashIndex::new(),
                    in_order: LeafIndex::new(),
                    buried: Buried::new(),
                })),
                _ if table.is_ordered() => Index::Ordered(Box::new(OrderedIndex::new())),
                _ => Index::Hash(HashIndex::new()),
            },
            conflicts,
            locals: (0..workers).map(local).collect(),
            told: (0..workers).map(|_| CachePadded::default()).collect(),
            free: Mutex::default(),
            creating: (0..CREATING).map(|_| CachePadded::default()).collect(),
            codec: std::marker::PhantomData,
        }
    }

    #[inline]
    pub(crate) const fn is_ordered(&self) -> bool {
        !matches!(self.index, Index::Hash(_))
    }

    #[inline]
    pub(crate) fn is_indexed(&self) -> bool {
        !self.secondary.is_empty()
    }

    /// What is to be done after the row, which held `old`, was lent to be changed.
    pub(crate) fn lend(&self, key: K, old: Option<V>) -> Lent<'_> {
        Box::new(move |tx| {
            let new = tx.get_in(self, &key).cloned();
            self.moved(tx, &key, old.as_ref(), new.as_ref());
        })
    }

    /// A row changed: its indexes follow.
    pub(crate) fn moved(&self, tx: &mut Tx<'_>, key: &K, old: Option<&V>, new: Option<&V>) {
        self.secondary.iter().for_each(|index| index.moved(tx, key, old, new));
    }

    /// A row may change: so may its places in indexes.
    pub(crate) fn declare_moves(&self, f: &mut Footprint<'_>, key: &K, old: Option<&V>, new: Option<&V>) {
        self.secondary.iter().for_each(|index| index.declare(f, key, old, new));
    }

    pub(crate) const fn number(&self) -> u16 {
        self.number
    }

    /// How many numbers of rows were given out.
    pub(super) fn numbers(&self) -> RowId {
        self.rows.len()
    }

    #[inline]
    pub(crate) fn key_hash(&self, key: &K) -> u64 {
        self.id.hash(key)
    }

    /// The hash of a granule, by its number.
    #[inline]
    pub(crate) fn granule_hash(&self, granule: u64) -> u64 {
        self.domain.hash(&granule)
    }

    #[inline]
    pub(crate) fn row(&self, id: RowId) -> &Row<K, V> {
        self.rows.get(id)
    }

    /// The row of the key. For workers, in a window.
    #[inline]
    pub(crate) fn find(&self, key: &K, key_hash: u64) -> Option<RowId> {
        match &self.index {
            Index::Hash(index) => self.find_in(index, key, key_hash),
            Index::Leaves(leaves) => self.find_in(&leaves.by_hash, key, key_hash),
            Index::Ordered(index) => {
                let granule = index.granule(self.granule_of(key))?;
                granule.tree.read().expect("no panic under the lock of a tree").get(key).copied()
            }
        }
    }

    #[inline]
    fn find_in(&self, index: &HashIndex, key: &K, key_hash: u64) -> Option<RowId> {
        index.find(key_hash, |id| {
            // SAFETY: rows in the index exist, and are given back between windows only.
            unsafe { self.row(id).key() == key }
        })
    }

    /// Asks the cache for a row.
    #[inline]
    pub(crate) fn fetch_row(&self, id: RowId) {
        self.rows.prefetch(id, size_of::<Row<K, V>>());
    }

    /// Asks the cache for what is read of a row by those that need not keep others from writing it.
    #[inline]
    pub(crate) fn fetch_value(&self, id: RowId) {
        self.rows.prefetch(id, Row::<K, V>::READ);
    }

    /// Which keys have one order with this one: in a grouped table those of its granule.
    pub(crate) fn space_of(&self, key: &K) -> u64 {
        if matches!(self.conflicts, Conflicts::Grouped { .. }) { self.granule_of(key) } else { 0 }
    }

    /// The hash of the granule that the key lies in.
    #[inline]
    pub(crate) fn granule_of(&self, key: &K) -> u64 {
        match &self.conflicts {
            Conflicts::Rows => self.domain.0,
            Conflicts::Ranges => self.leaf_hash(self.leaves().leaf_of(key)),
            Conflicts::Watched(granule) | Conflicts::Grouped { granule, .. } => {
                self.granule_hash(granule.of(key))
            }
        }
    }

    fn leaf_hash(&self, leaf: leaf_index::LeafId) -> u64 {
        self.granule_hash(u64::from(leaf))
    }

    fn leaves(&self) -> &LeafIndex<K> {
        match &self.index {
            Index::Leaves(leaves) => &leaves.in_order,
            Index::Hash(_) | Index::Ordered(_) => unreachable!("tables whose ranges conflict have leaves"),
        }
    }

    #[inline]
    fn local<'a>(&'a self, worker: &'a mut Worker) -> &'a mut Local<K, V> {
        // SAFETY: of each `Worker` there is one in a store (`Store::new`), and it is borrowed for as long as the
        // reference lives, so nobody else is in its local; `undo_window`, which visits all locals, runs while no worker
        // does.
        unsafe { &mut *self.locals[worker.number()].get() }
    }

    /// Makes a row without a value, or brings one back that is buried. The caller may write the key's unit of conflict, and
    /// it is not in the index.
    pub(crate) fn create(
        &self,
        worker: &mut Worker,
        key: K,
        key_hash: u64,
        unit: u64,
        granule: u64,
    ) -> RowId {
        match &self.index {
            Index::Hash(index) => {
                let id = self.new_row(worker, key, unit, granule);
                index.insert(key_hash, id);
                id
            }
            Index::Ordered(index) => {
                let rows = index.granule_or_new(self.granule_of(&key));
                let id = self.old_or_new_row(worker, &rows.buried, key.clone(), unit, granule);
                rows.tree.write().expect("no panic under the lock of a tree").insert(key, id);
                id
            }
            Index::Leaves(leaves) => {
                let id = self.old_or_new_row(worker, &leaves.buried, key.clone(), unit, granule);
                let leaf = leaves.in_order.insert(key, id);
                leaves.by_hash.insert(key_hash, id);
                assert_eq!(self.leaf_hash(leaf), granule, "the order of keys of {} changed", self.name);
                id
            }
        }
    }

    /// A row without a value that is in no index: the key's own, if it is buried.
    fn old_or_new_row(
        &self,
        worker: &mut Worker,
        buried: &Buried<K>,
        key: K,
        unit: u64,
        granule: u64,
    ) -> RowId {
        match buried.bring_back(&key) {
            Some(id) => {
                self.row(id).bring_back(unit, granule);
                id
            }
            None => self.new_row(worker, key, unit, granule),
        }
    }

    fn new_row(&self, worker: &mut Worker, key: K, unit: u64, granule: u64) -> RowId {
        let id = self.new_number(worker);
        // SAFETY: the number is this worker's alone; it is either new or was freed two windows ago.
        unsafe { self.row(id).create(key, unit, granule) };
        id
    }

    fn new_number(&self, worker: &mut Worker) -> RowId {
        let window = worker.window();
        let local = self.local(worker);
        local.existing += 1;
        local.free_number(window).or_else(|| local.numbers.next()).unwrap_or_else(|| {
            self.more_numbers(local, window);
            let number = local.free_number(window).or_else(|| local.numbers.next());
            number.expect("some were just taken")
        })
    }

    /// Takes numbers that others gave back, or new ones, for a worker that has none it may use.
    #[cold]
    fn more_numbers(&self, local: &mut Local<K, V>, window: u64) {
        let mut free = self.free.lock().expect("no panic while numbers change hands");
        let usable =
            free.iter().take(NUMBERS as usize).take_while(|&&given_back| is_usable(given_back, window));
        let count = usable.count();
        // In front of those that it may not use yet.
        free.drain(..count).for_each(|number| local.free.push_front(number));
        if free.capacity() > 4 * free.len().max(KEPT) {
            let left = 2 * free.len();
            free.shrink_to(left);
        }
        drop(free);
        if count == 0 {
            local.numbers = self.rows.reserve(NUMBERS);
        }
    }

    /// Leaves what a worker gave back to all, but for what it may need itself.
    fn share_numbers(&self, local: &mut Local<K, V>) {
        if local.free.len() >= KEPT + NUMBERS as usize {
            let mut free = self.free.lock().expect("no panic while numbers change hands");
            free.extend(local.free.drain(KEPT..));
            local.free.shrink_to(4 * KEPT);
        }
    }

    /// Keeps the first version of a row in this window.
    pub(super) fn keep_version(&self, worker: &mut Worker, version: Version<V>) -> NonNull<Version<V>> {
        self.local(worker).versions.push(version)
    }

    /// Makes the row's value this transaction's to change: saves what it was, once per transaction, and hides
    /// it from snapshots, once per window.
    ///
    /// # Safety
    /// The schedule allows the worker, alone, to write the row in the window that starts at `window`, for the
    /// transaction `me`.
    #[inline]
    pub(crate) unsafe fn save(&self, worker: &mut Worker, id: RowId, window: Stamp, me: Stamp) {
        let row = self.row(id);
        let stamp = row.latch.stamp();
        if stamp == me {
            return;
        }
        // SAFETY: the caller may read the row.
        let value = unsafe { row.value().clone() };
        // SAFETY: only the caller, the one writer, changes the chain.
        let next = unsafe { row.chain() };
        let version = Version { row: id, stamp, next, value };
        let local = self.local(worker);
        let first = stamp < window;
        let version = if first { local.versions.push(version) } else { local.within.push(version) };
        let mut latched = row.latch.lock();
        if first {
            // SAFETY: under the latch.
            unsafe { row.set_chain(version.as_ptr()) };
        }
        latched.stamp = me;
        drop(latched);
        worker.undo.push(Undo { table: self.number, within: !first, row: id, version: version.cast() });
    }

    /// What the digest of a row's value depends on besides the value: table and key.
    #[inline]
    fn digest_seed(&self, key: &K, scratch: &mut Vec<u8>) -> u64 {
        C::with_bytes(key, scratch, |bytes| digest::of_key(self.id, bytes))
    }

    #[inline]
    fn digest_value(value: &V, seed: u64, scratch: &mut Vec<u8>) -> u128 {
        C::with_bytes(value, scratch, |bytes| digest::of_value(seed, bytes))
    }

    /// The hashes of the unit of conflict and of the granule that the row of the key belongs to.
    #[inline]
    pub(crate) fn unit_and_granule(&self, key: &K, key_hash: u64) -> (u64, u64) {
        match self.conflicts {
            Conflicts::Grouped { .. } => (self.granule_of(key), self.granule_of(key)),
            Conflicts::Watched(_) | Conflicts::Ranges => (key_hash, self.granule_of(key)),
            Conflicts::Rows => (key_hash, key_hash),
        }
    }

    /// Takes a row out of the index.
    ///
    /// # Safety
    /// The row is in the index, and no worker runs a transaction.
    unsafe fn take_from_index(&self, id: RowId) {
        // SAFETY: the row exists, and only the caller gives it back.
        let key = unsafe { self.row(id).key() };
        match &self.index {
            Index::Hash(index) => index.remove(self.key_hash(key), id),
            Index::Leaves(leaves) => {
                leaves.by_hash.remove(self.key_hash(key), id);
                leaves.in_order.remove(key, id);
            }
            Index::Ordered(index) => {
                let granule = index.granule(self.granule_of(key)).expect("the row's granule");
                let removed = granule.tree.write().expect("no panic under the lock of a tree").remove(key);
                assert_eq!(removed, Some(id));
            }
        }
    }

    /// Where a key's row is when it is buried. For a table whose rows are in order.
    fn buried_with(&self, key: &K) -> &Buried<K> {
        match &self.index {
            Index::Leaves(leaves) => &leaves.buried,
            Index::Ordered(index) => {
                &index.granule(self.granule_of(key)).expect("the granule of a row").buried
            }
            Index::Hash(_) => unreachable!("only rows in order are buried"),
        }
    }

    /// Takes a row without a value out of the index and gives its number back.
    ///
    /// # Safety
    /// No worker runs a transaction, and no registered snapshot needs the row, which stands in one list of rows in the
    /// index without a value.
    unsafe fn give_back(&self, id: RowId) {
        // SAFETY: the caller's promise. No value (the caller looked), and from here on only latching snapshots may know it.
        unsafe {
            if self.is_ordered() {
                let key = self.row(id).key();
                self.buried_with(key).forget(key);
            }
            self.take_from_index(id);
            self.row(id).free();
        }
    }

    /// Takes rows without a value out of an index in key order, to where only snapshots find them; keeps them, and when
    /// they were deleted, in a list.
    ///
    /// # Safety
    /// No worker runs a transaction, and each of the rows stands in one list of rows in the index without a value.
    unsafe fn bury(&self, rows: &[RowId], list: &mut VecDeque<(K, RowId, Stamp)>) {
        let start = list.len();
        // SAFETY: rows in the index exist, and only the caller gives these back.
        list.extend(
            rows.iter().map(|&id| (unsafe { self.row(id).key() }.clone(), id, self.row(id).latch.stamp())),
        );
        // Entered first: see `buried`.
        match &self.index {
            Index::Leaves(leaves) if !rows.is_empty() => {
                leaves.buried.enter(list.range(start..).cloned());
            }
            Index::Ordered(index) => {
                for row in list.range(start..) {
                    index.bury(self.granule_of(&row.0), row.clone());
                }
            }
            Index::Leaves(_) | Index::Hash(_) => {}
        }
        for &id in rows {
            // SAFETY: the caller's promise.
            unsafe { self.take_from_index(id) };
            self.row(id).bury();
        }
    }
}

impl<K, V, C> Drop for TableStore<K, V, C> {
    fn drop(&mut self) {
        if !std::mem::needs_drop::<K>() && !std::mem::needs_drop::<V>() {
            return;
        }
        for id in 0..self.rows.len() {
            let row = self.rows.get(id);
            if row.latch.stamp() != Stamp::FREE {
                // SAFETY: the row exists, and nobody else is here any more.
                unsafe { row.drop_content() };
            }
        }
    }
}

const _: () = assert!(size_of::<NonNull<()>>() == 8, "undo records assume 64-bit pointers");

#[cfg(all(test, not(loom)))]
mod tests;
