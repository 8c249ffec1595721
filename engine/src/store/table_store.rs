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
//! A number given back is not used again before the second window after: a worker may have located the row for
//! the next window already. It finds [`Stamp::FREE`] there, and looks the key up again.

use std::any::TypeId;
use std::cell::UnsafeCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, ControlFlow, Range, RangeBounds};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};

use crossbeam_utils::CachePadded;
use mixlog_mixer::Mode;
use smallvec::SmallVec;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use super::arena::Arena;
use super::hash_index::HashIndex;
use super::leaf_index::{self, LeafIndex};
use super::ordered_index::OrderedIndex;
use super::overlay::{Overlays, TouchedRow};
use super::row::{Row, Stamp, Version};
use super::slab::{RowId, Slab};
use super::{AnyTable, SeeHashes, SeeRow, Undo, Unit, WindowEnd, Worker};
use crate::agreement::{BUCKETS, bucket};
use crate::checkpoint::RowFormat;
use crate::codec::{Codec, DecodeError};
use crate::footprint::Footprint;
use crate::index::Maintain;
use crate::interactive::Intention;
use crate::stats::TableMemory;
use crate::table::{Conflicts, Granule, Key, Table, TableId, Value};
use crate::tx::{Lent, Tx};

/// How many row numbers a worker takes at once.
const NUMBERS: u32 = 64;
const ENDLESS: &str = "a chain ends in a version that is older than any snapshot";

enum Index<K> {
    Hash(HashIndex),
    /// A tree for each granule.
    Ordered(Box<OrderedIndex<K>>),
    /// Rows by hash, and all keys in order.
    Leaves(Box<(HashIndex, LeafIndex<K>)>),
}

/// What a worker keeps of a table.
struct Local<V> {
    /// The first changes of rows: those of retained windows, then those of the window at hand.
    versions: Arena<Version<V>>,
    /// The windows of which versions are retained, oldest first: first stamp, and how many versions.
    retained: VecDeque<(Stamp, usize)>,
    /// How many versions are retained.
    retained_len: usize,
    /// Rows that the window had changed before, as they were before the running transaction.
    within: Arena<Version<V>>,
    numbers: Range<RowId>,
    /// Numbers given back, with the window in which that was; oldest first.
    free: VecDeque<(u64, RowId)>,
    /// Rows without a value that a snapshot may need, or that were not looked at yet.
    absent: VecDeque<RowId>,
    /// Rows with a value, and rows in the index: what this worker added, less what it took away.
    with_value: i64,
    existing: i64,
}

impl<V> Local<V> {
    /// Where the versions of the window at hand are.
    fn window(&self) -> impl Iterator<Item = NonNull<Version<V>>> + use<'_, V> {
        self.versions.newest(self.window_len())
    }

    const fn window_len(&self) -> usize {
        self.versions.len() - self.retained_len
    }

    /// Retains the versions of the window at hand or drops them, and drops those that nobody needs any more.
    fn end_window(&mut self, end: &WindowEnd) {
        let count = self.window_len();
        if end.oldest_snapshot.is_none_or(|oldest| oldest >= end.first) {
            self.versions.drop_newest(count);
        } else if count > 0 {
            self.retained.push_back((end.first, count));
            self.retained_len += count;
        }
        while let Some(&(first, count)) = self.retained.front()
            && end.oldest_snapshot.is_none_or(|oldest| oldest >= first)
        {
            self.retained.pop_front();
            self.retained_len -= count;
            self.versions.drop_oldest(count);
        }
        self.versions.shrink(count);
        if self.retained.is_empty() {
            self.retained.shrink_to(64);
        }
    }
}

/// What a worker last told of its [`Local`], at the end of a window; for whoever asks how much memory is in use.
#[derive(Default)]
struct Told {
    with_value: AtomicI64,
    existing: AtomicI64,
    versions: AtomicU64,
    undo_bytes: AtomicU64,
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

/// See the module's documentation.
pub(crate) struct TableStore<K, V, C> {
    name: &'static str,
    number: u16,
    id: TableId,
    pub(crate) conflicts: Conflicts<GranuleOf<K>>,
    /// Whether no digest counts its rows.
    derived: bool,
    pub(super) row_version: u32,
    secondary: Vec<Box<dyn Maintain<K, V>>>,
    domain: TableId,
    rows: Slab<Row<K, V>>,
    index: Index<K>,
    locals: Box<[CachePadded<UnsafeCell<Local<V>>>]>,
    told: Box<[CachePadded<Told>]>,
    /// Held while a row is made that several transactions may miss at once.
    pub(super) creating: Mutex<()>,
    codec: std::marker::PhantomData<fn() -> C>,
}

// SAFETY: rows and locals are shared under the rules above; `K` and `V` may themselves be shared and sent.
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
            rows: Slab::new(),
            index: match conflicts {
                Conflicts::Ranges => Index::Leaves(Box::new((HashIndex::new(), LeafIndex::new()))),
                _ if table.is_ordered() => Index::Ordered(Box::new(OrderedIndex::new())),
                _ => Index::Hash(HashIndex::new()),
            },
            conflicts,
            locals: (0..workers).map(local).collect(),
            told: (0..workers).map(|_| CachePadded::default()).collect(),
            creating: Mutex::new(()),
            codec: std::marker::PhantomData,
        }
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
            Index::Leaves(indexes) => self.find_in(&indexes.0, key, key_hash),
            Index::Ordered(index) => {
                let tree = index.tree(self.granule_of(key))?;
                tree.read().expect("no panic under the lock of a tree").get(key).copied()
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
        // Of long rows the rest comes by itself.
        self.rows.prefetch(id, 4);
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
            Index::Leaves(indexes) => &indexes.1,
            Index::Hash(_) | Index::Ordered(_) => unreachable!("tables whose ranges conflict have leaves"),
        }
    }

    #[inline]
    #[expect(clippy::mut_from_ref, reason = "a worker's local is its own")]
    fn local(&self, worker: &mut Worker) -> &mut Local<V> {
        // SAFETY: a `Worker` is unique (its constructor's contract) and borrowed mutably, so nobody else is in
        // its local; the methods of `AnyTable` that visit all locals run while no worker runs.
        unsafe { &mut *self.locals[worker.number()].get() }
    }

    /// Makes a row without a value. The caller may write the key's unit of conflict, and it is not in the index.
    pub(crate) fn create(
        &self,
        worker: &mut Worker,
        key: K,
        key_hash: u64,
        unit: u64,
        granule: u64,
    ) -> RowId {
        let window = worker.window();
        let local = self.local(worker);
        local.existing += 1;
        let id = match local.free.front() {
            Some(&(given_back, id)) if given_back + 2 <= window => {
                local.free.pop_front();
                id
            }
            _ => local.numbers.next().unwrap_or_else(|| {
                local.numbers = self.rows.reserve(NUMBERS);
                local.numbers.next().expect("just reserved")
            }),
        };
        let in_index = (!matches!(self.index, Index::Hash(_))).then(|| key.clone());
        // SAFETY: the number is this worker's alone; it is either new or was freed two windows ago.
        unsafe { self.row(id).create(key, unit, granule) };
        match (&self.index, in_index) {
            (Index::Hash(index), _) => index.insert(key_hash, id),
            (Index::Ordered(index), Some(key)) => {
                let tree = index.tree_or_new(self.granule_of(&key));
                tree.write().expect("no panic under the lock of a tree").insert(key, id);
            }
            (Index::Leaves(indexes), Some(key)) => {
                let leaf = indexes.1.insert(key, id);
                indexes.0.insert(key_hash, id);
                assert_eq!(self.leaf_hash(leaf), granule, "the order of keys of {} changed", self.name);
            }
            (Index::Ordered(_) | Index::Leaves(_), None) => unreachable!("the key was cloned"),
        }
        id
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
        C::with_bytes(key, scratch, |bytes| xxh3_64_with_seed(bytes, self.id.0))
    }

    #[inline]
    fn digest_value(value: &V, seed: u64, scratch: &mut Vec<u8>) -> u128 {
        C::with_bytes(value, scratch, |bytes| xxh3_128_with_seed(bytes, seed))
    }

    /// Calls `see` with what the row with this number held at `at`, if anything, and since when. For registered
    /// snapshots, and for speculations on the state before the window at hand; `see` is to be quick, wait for nothing,
    /// and look at no other row: the row may be latched.
    pub(super) fn at<R>(&self, id: RowId, at: Stamp, see: impl FnOnce(&K, &V, Stamp) -> R) -> Option<R> {
        let row = self.row(id);
        // Without the latch: a row that the snapshot sees was there when it was registered, and is not given back.
        if row.latch.stamp() == Stamp::FREE {
            return None;
        }
        let latched = row.latch.lock();
        if latched.stamp == Stamp::FREE {
            return None;
        }
        // SAFETY: the row exists, and the latch keeps it from being given back; later, that the snapshot sees it.
        let key = unsafe { row.key() };
        if latched.stamp <= at {
            // SAFETY: the stamp lies before the window at hand, so a writer must take the latch first.
            return unsafe { row.value() }.as_ref().map(|value| see(key, value, latched.stamp));
        }
        // SAFETY: under the latch. The row was changed after the snapshot, so the newest version is of a window that
        // is at hand or retained, and putting it back takes the latch.
        let newest = unsafe { row.chain().as_ref() }.expect(ENDLESS);
        if newest.stamp <= at {
            return newest.value.as_ref().map(|value| see(key, value, newest.stamp));
        }
        let mut next = newest.next;
        drop(latched);
        loop {
            // SAFETY: a version behind the newest, and the value in front of it is later than the snapshot: it is of an
            // ended window, which is retained (see the module's documentation). Speculations do not come here: the window
            // at hand, of which the newest version is, is the only one after `at`.
            let version = unsafe { next.as_ref() }.expect(ENDLESS);
            if version.stamp <= at {
                return version.value.as_ref().map(|value| see(key, value, version.stamp));
            }
            next = version.next;
        }
    }

    /// The value of the key at `at`. For registered snapshots.
    pub(crate) fn get_at(&self, key: &K, at: Stamp) -> Option<V> {
        self.find_at(key, self.key_hash(key), at).map(|(_, _, value)| value)
    }

    /// All rows at `at`, in no order. For registered snapshots.
    ///
    /// No latch is held while `see` runs. Values are copied into one place, which reuses what they own, if they
    /// can (`clone_from`).
    pub(crate) fn for_each_at(&self, at: Stamp, mut see: impl FnMut(&K, &V)) {
        self.visit_at(at, |key, value| {
            see(key, value);
            ControlFlow::Continue(())
        });
    }

    /// The same, until `see` breaks off.
    pub(super) fn visit_at(&self, at: Stamp, mut see: impl FnMut(&K, &V) -> ControlFlow<()>) {
        let mut copy: Option<V> = None;
        for id in 0..self.rows.len() {
            let seen = self.at(id, at, |_, value, _| match &mut copy {
                Some(copy) => copy.clone_from(value),
                none => *none = Some(value.clone()),
            });
            if let (Some(()), Some(value)) = (seen, &copy) {
                // SAFETY: the snapshot sees the row, which is not given back before it is gone.
                if see(unsafe { self.row(id).key() }, value).is_break() {
                    return;
                }
            }
        }
    }

    /// The rows of `range` at `at`, in key order. For registered snapshots, longer than the iterator lives.
    ///
    /// # Panics
    /// As [`row_ids`](Self::row_ids).
    pub(crate) fn range_at<R: RangeBounds<K>>(&self, range: &R, at: Stamp) -> RangeAt<'_, K, V, C> {
        RangeAt { store: self, rows: self.row_ids_pinned(range), at }
    }

    /// The key of the row with this number, if there is one, with a value or without. Any time.
    fn key_of(&self, id: RowId) -> Option<K> {
        let row = self.row(id);
        let latched = row.latch.lock();
        // SAFETY: the row exists, and the latch keeps it from being given back.
        (latched.stamp != Stamp::FREE).then(|| unsafe { row.key() }.clone())
    }

    /// The row of the key as of `at`: its number, since when, and a copy of its value. As [`at`](Self::at).
    pub(super) fn find_at(&self, key: &K, key_hash: u64, at: Stamp) -> Option<(RowId, Stamp, V)> {
        // The number may be another row's by now, unless somebody at `at` sees this one.
        let look = |id| self.at(id, at, |k, v, stamp| (k == key).then(|| (id, stamp, v.clone()))).flatten();
        let index = match &self.index {
            Index::Hash(index) => index,
            Index::Leaves(indexes) => &indexes.0,
            Index::Ordered(index) => {
                let tree = index.tree_pinned(self.granule_of(key))?;
                let id = *tree.read().expect("no panic under the lock of a tree").get(key)?;
                return look(id);
            }
        };
        let mut found = None;
        index.find_pinned(key_hash, |id| {
            found = look(id);
            found.is_some()
        });
        found
    }

    /// The row with this number as of `at`.
    pub(crate) fn copy_at(&self, id: RowId, at: Stamp) -> Option<(K, Stamp, V)> {
        self.at(id, at, |key, value, stamp| (key.clone(), stamp, value.clone()))
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

    /// Calls `see` with each leaf that a range touches, its hash as a granule, and how many rows it has, until that says
    /// no.
    pub(crate) fn granules_of_range(
        &self,
        range: &impl RangeBounds<K>,
        mut see: impl FnMut(u32, u64, u32) -> bool,
    ) {
        self.leaves().leaves_of(range.start_bound(), range.end_bound(), |leaf, rows| {
            see(leaf, self.leaf_hash(leaf), rows)
        });
    }

    /// The hash of the granule that a range lies in.
    ///
    /// # Panics
    /// When no bound tells, or the bounds lie in two.
    pub(crate) fn granule_of_range(&self, range: &impl RangeBounds<K>) -> u64 {
        let of = |bound: Bound<&K>| match bound {
            Bound::Included(key) | Bound::Excluded(key) => Some(self.granule_of(key)),
            Bound::Unbounded => None,
        };
        match (of(range.start_bound()), of(range.end_bound())) {
            (Some(from), Some(to)) => {
                assert_eq!(from, to, "a range lies in one granule");
                from
            }
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => panic!("a range needs a bound that tells its granule"),
        }
    }

    /// The numbers of the rows in `range`, those without a value included. For workers in a window.
    ///
    /// # Panics
    /// When the table is not ordered, and as [`granule_of_range`](Self::granule_of_range).
    pub(crate) fn row_ids<R: RangeBounds<K>>(&self, range: &R) -> RowIds<'_, K> {
        self.row_ids_of(range, OrderedIndex::tree)
    }

    /// [`row_ids`](Self::row_ids) for those who are not workers in a window.
    ///
    /// What a snapshot sees stays in the index, and rows that come and go meanwhile have no value at its position.
    pub(super) fn row_ids_pinned<R: RangeBounds<K>>(&self, range: &R) -> RowIds<'_, K> {
        self.row_ids_of(range, OrderedIndex::tree_pinned)
    }

    fn row_ids_of<'a, R: RangeBounds<K>>(
        &'a self,
        range: &R,
        tree: impl FnOnce(&'a OrderedIndex<K>, u64) -> Option<&'a RwLock<BTreeMap<K, RowId>>>,
    ) -> RowIds<'a, K> {
        match &self.index {
            Index::Ordered(index) => {
                let granule = self.granule_of_range(range);
                RowIds::Granule { granule: Some(granule), rows: Rows::of(tree(index, granule), range) }
            }
            Index::Leaves(indexes) => {
                let (from, to) = (range.start_bound().cloned(), range.end_bound().cloned());
                RowIds::Leaves { domain: self.domain, walk: indexes.1.walk(from, to) }
            }
            Index::Hash(_) => panic!("table {} is not ordered: ranges need `Table::ordered`", self.name),
        }
    }

    /// Takes a row without a value out of the index and gives its number back.
    ///
    /// # Safety
    /// No worker runs a transaction, and no registered snapshot needs the row.
    unsafe fn give_back(&self, id: RowId) {
        let row = self.row(id);
        // SAFETY: the row exists, and this is the only thread that gives it back: it stands in one list.
        let key = unsafe { row.key() };
        match &self.index {
            Index::Hash(index) => index.remove(self.key_hash(key), id),
            Index::Leaves(indexes) => {
                indexes.0.remove(self.key_hash(key), id);
                indexes.1.remove(key, id);
            }
            Index::Ordered(index) => {
                let tree = index.tree(self.granule_of(key)).expect("the row's granule");
                let removed = tree.write().expect("no panic under the lock of a tree").remove(key);
                assert_eq!(removed, Some(id));
            }
        }
        // SAFETY: no value (the caller looked), and from here on only latching snapshots may know it.
        unsafe { row.free() };
    }
}

/// The rows of a range at a position; see [`TableStore::range_at`].
pub(crate) struct RangeAt<'a, K, V, C> {
    store: &'a TableStore<K, V, C>,
    rows: RowIds<'a, K>,
    at: Stamp,
}

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> Iterator for RangeAt<'_, K, V, C> {
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        loop {
            let id = self.rows.next(&mut |_| ())?;
            if let Some((key, _, value)) = self.store.copy_at(id, self.at) {
                return Some((key, value));
            }
        }
    }
}

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> DoubleEndedIterator for RangeAt<'_, K, V, C> {
    fn next_back(&mut self) -> Option<(K, V)> {
        loop {
            let id = self.rows.next_back(&mut |_| ())?;
            if let Some((key, _, value)) = self.store.copy_at(id, self.at) {
                return Some((key, value));
            }
        }
    }
}

/// The numbers of a range's rows. Tells of each granule before anything in it is read.
#[expect(clippy::large_enum_variant, reason = "lives on the stack of a walk, and is not moved")]
pub(crate) enum RowIds<'a, K> {
    /// One granule's tree, if there is one; and the granule, until it is told.
    Granule { granule: Option<u64>, rows: Option<Rows<'a, K>> },
    /// Leaves, whose hashes come from their numbers.
    Leaves { domain: TableId, walk: leaf_index::Walk<'a, K> },
}

impl<K: Key> RowIds<'_, K> {
    #[inline]
    pub(crate) fn next(&mut self, visit: &mut impl FnMut(u64)) -> Option<RowId> {
        match self {
            Self::Granule { granule, rows } => {
                granule.take().into_iter().for_each(visit);
                rows.as_mut()?.next()
            }
            Self::Leaves { domain, walk } => walk.next(&mut |leaf| visit(domain.hash(&u64::from(leaf)))),
        }
    }

    /// The rows to ask the cache for, when one just came from the front, or from the back.
    #[inline]
    pub(crate) fn ahead(&mut self, from_back: bool) -> &[RowId] {
        match self {
            Self::Granule { .. } => &[],
            Self::Leaves { walk, .. } => walk.ahead(from_back),
        }
    }

    #[inline]
    pub(crate) fn next_back(&mut self, visit: &mut impl FnMut(u64)) -> Option<RowId> {
        match self {
            Self::Granule { granule, rows } => {
                granule.take().into_iter().for_each(visit);
                rows.as_mut()?.next_back()
            }
            Self::Leaves { domain, walk } => walk.next_back(&mut |leaf| visit(domain.hash(&u64::from(leaf)))),
        }
    }
}

/// The numbers of a range's rows. Takes some at a time, so that no lock is held while the caller looks at rows.
pub(crate) struct Rows<'a, K> {
    tree: &'a RwLock<BTreeMap<K, RowId>>,
    /// What is not taken yet; `None` when nothing is left.
    bounds: Option<(Bound<K>, Bound<K>)>,
    front: Taken,
    /// Rows behind all others, last one first.
    back: Taken,
}

/// Rows taken from one end of a range, the outermost first.
#[derive(Default)]
struct Taken {
    ids: SmallVec<[RowId; Self::FIRST]>,
    /// So many were given away from the start.
    given: usize,
}

impl Taken {
    /// How many rows are taken at first, most callers want one or a few, and from then on.
    const FIRST: usize = 6;
    const MOST: usize = 32;

    /// Rows to be taken next, when all are given away.
    fn refill(&mut self) -> usize {
        let count = if self.ids.is_empty() { Self::FIRST } else { Self::MOST };
        self.ids.clear();
        self.given = 0;
        count
    }

    fn is_empty(&self) -> bool {
        self.given == self.ids.len()
    }

    fn pop_outermost(&mut self) -> Option<RowId> {
        let id = *self.ids.get(self.given)?;
        self.given += 1;
        Some(id)
    }

    fn pop_innermost(&mut self) -> Option<RowId> {
        if self.is_empty() { None } else { self.ids.pop() }
    }
}

impl<'a, K: Key> Rows<'a, K> {
    /// Nothing if there is no tree, or the range is backwards: that is empty, not a panic.
    fn of(tree: Option<&'a RwLock<BTreeMap<K, RowId>>>, range: &impl RangeBounds<K>) -> Option<Self> {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        let empty = match (&bounds.0, &bounds.1) {
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(to))
            | (Bound::Excluded(from), Bound::Included(to)) => from >= to,
            _ => false,
        };
        let tree = tree.filter(|_| !empty)?;
        Some(Self { tree, bounds: Some(bounds), front: Taken::default(), back: Taken::default() })
    }

    /// Takes rows from one end of what is left: few at first, then more.
    fn take(&mut self, from_back: bool) {
        let Some((from, to)) = &self.bounds else { return };
        let tree = self.tree.read().expect("no panic under the lock of a tree");
        let mut range = tree.range((from.as_ref(), to.as_ref()));
        let taken = if from_back { &mut self.back } else { &mut self.front };
        let count = taken.refill();
        let mut last = None;
        while taken.ids.len() < count
            && let Some((key, &id)) = if from_back { range.next_back() } else { range.next() }
        {
            taken.ids.push(id);
            last = Some(key);
        }
        // The next row outside of what was taken is the new border: if there is none, nothing is left.
        let border = if from_back { range.next_back() } else { range.next() };
        self.bounds = match (last, border) {
            (Some(_), Some((border, _))) if from_back => {
                Some((from.clone(), Bound::Included(border.clone())))
            }
            (Some(_), Some((border, _))) => Some((Bound::Included(border.clone()), to.clone())),
            _ => None,
        };
    }
}

impl<K: Key> Iterator for Rows<'_, K> {
    type Item = RowId;

    fn next(&mut self) -> Option<RowId> {
        if self.front.is_empty() {
            self.take(false);
        }
        self.front.pop_outermost().or_else(|| self.back.pop_innermost())
    }
}

impl<K: Key> DoubleEndedIterator for Rows<'_, K> {
    fn next_back(&mut self) -> Option<RowId> {
        if self.back.is_empty() {
            self.take(true);
        }
        self.back.pop_outermost().or_else(|| self.front.pop_innermost())
    }
}

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> AnyTable for TableStore<K, V, C> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn id(&self) -> TableId {
        self.id
    }

    fn is_derived(&self) -> bool {
        self.derived
    }

    fn types(&self) -> TypeId {
        TypeId::of::<Self>()
    }

    fn domain(&self) -> Option<&'static str> {
        match self.conflicts {
            Conflicts::Grouped { domain, .. } => Some(domain),
            Conflicts::Rows | Conflicts::Watched(_) | Conflicts::Ranges => None,
        }
    }

    fn describe_key(&self, key_hash: u64) -> Option<String> {
        let index = match &self.index {
            Index::Hash(index) => index,
            Index::Leaves(indexes) => &indexes.0,
            Index::Ordered(_) => return None,
        };
        let mut found = None;
        index.find_pinned(key_hash, |id| {
            found = self.key_of(id).filter(|key| self.key_hash(key) == key_hash);
            found.is_some()
        });
        found.map(|key| <C as Codec<K>>::describe(&key))
    }

    fn describe_granules(&self, wanted: &mut BTreeMap<u64, Option<String>>) {
        let granule = match &self.conflicts {
            Conflicts::Watched(granule) | Conflicts::Grouped { granule, .. } => granule,
            Conflicts::Ranges => {
                for (leaf, fence) in self.leaves().fences() {
                    if let Some(text) = wanted.get_mut(&self.leaf_hash(leaf)) {
                        let from = fence.map(|key| <C as Codec<K>>::describe(&key));
                        *text = Some(format!("leaf from {}", from.as_deref().unwrap_or("the start")));
                    }
                }
                return;
            }
            Conflicts::Rows => return,
        };
        let mut missing = wanted.values().filter(|text| text.is_none()).count();
        for id in 0..self.rows.len() {
            if missing == 0 {
                return;
            }
            let Some(key) = self.key_of(id) else { continue };
            let number = granule.of(&key);
            if let Some(unknown @ None) = wanted.get_mut(&self.granule_hash(number)) {
                *unknown = Some(format!("granule {number}"));
                missing -= 1;
            }
        }
    }

    #[inline]
    fn prefetch_index(&self, key_hash: u64) {
        match &self.index {
            Index::Hash(index) => index.prefetch(key_hash),
            Index::Leaves(indexes) => indexes.0.prefetch(key_hash),
            Index::Ordered(_) => {}
        }
    }

    #[inline]
    fn locate(&self, key_hash: u64) -> Option<RowId> {
        match &self.index {
            Index::Hash(index) => index.find(key_hash, |_| true),
            Index::Leaves(indexes) => indexes.0.find(key_hash, |_| true),
            Index::Ordered(_) => None,
        }
    }

    fn prefetch_leaf(&self, leaf: u32) {
        if let Index::Leaves(indexes) = &self.index {
            indexes.1.prefetch(leaf);
        }
    }

    #[inline]
    fn prefetch_row(&self, id: RowId) {
        self.fetch_row(id);
    }

    unsafe fn is_absent(&self, overlays: &Overlays, touched: &TouchedRow) -> bool {
        // SAFETY: the caller's promise.
        unsafe { Self::is_absent(self, overlays, touched) }
    }

    unsafe fn adopt(
        &self,
        worker: &mut Worker,
        overlays: &Overlays,
        touched: &TouchedRow,
        window: Stamp,
        me: Stamp,
    ) {
        // SAFETY: the caller's promise.
        unsafe { Self::adopt(self, worker, overlays, touched, window, me) }
    }

    fn declare_bytes(&self, key: &[u8], write: bool, f: &mut Footprint<'_>) -> Result<(), DecodeError> {
        Self::declare_bytes(self, key, write, f)
    }

    fn declare_range(
        &self,
        from: Bound<&Vec<u8>>,
        to: Bound<&Vec<u8>>,
        f: &mut Footprint<'_>,
    ) -> Result<(), DecodeError> {
        Self::declare_range(self, from, to, f)
    }

    fn hash_of(&self, tx: &Tx<'_>, key: &[u8]) -> Result<Option<u128>, DecodeError> {
        Self::hash_of(self, tx, key)
    }

    fn hash_of_range(
        &self,
        tx: &Tx<'_>,
        from: Bound<&Vec<u8>>,
        to: Bound<&Vec<u8>>,
    ) -> Result<u128, DecodeError> {
        Self::hash_of_range(self, tx, from, to)
    }

    fn write_bytes(&self, tx: &mut Tx<'_>, key: &[u8], value: Option<&[u8]>) -> Result<(), DecodeError> {
        Self::write_bytes(self, tx, key, value)
    }

    fn intend(&self, overlays: &Overlays, touched: &TouchedRow, at: Stamp, intention: &mut Intention) {
        Self::intend(self, overlays, touched, at, intention);
    }

    fn intend_scans(&self, overlays: &Overlays, at: Stamp, intention: &mut Intention) {
        Self::intend_scans(self, overlays, at, intention);
    }

    fn declare(
        &self,
        overlays: &Overlays,
        touched: &TouchedRow,
        granules: bool,
        footprint: &mut Footprint<'_>,
    ) {
        let Some(mode) = touched.mode() else { return };
        let key = &overlays.of::<K, V>(self.number).get(touched.number).key;
        if granules && mode == Mode::Read && self.is_watched() {
            return footprint.granule(self.number, self.granule_of(key), mode);
        }
        footprint.access(self, key, touched.key_hash, touched.row, mode);
    }

    fn unit_of(&self, overlays: &Overlays, touched: &TouchedRow) -> Option<Unit> {
        Self::unit_of(self, overlays, touched)
    }

    fn granule_name(&self, overlays: &Overlays, hash: u64) -> Option<String> {
        Self::granule_name(self, overlays, hash)
    }

    fn conflicts_by_row(&self) -> bool {
        matches!(self.conflicts, Conflicts::Rows)
    }

    fn is_watched(&self) -> bool {
        matches!(self.conflicts, Conflicts::Watched(_) | Conflicts::Ranges)
    }

    fn has_ranges(&self) -> bool {
        matches!(self.conflicts, Conflicts::Ranges)
    }

    unsafe fn roll_back(&self, undo: Undo) {
        let row = self.row(undo.row);
        let version = undo.version.cast::<Version<V>>();
        // SAFETY: the caller's promise: the worker wrote the row in the running transaction, and `save` made
        // the version, in an arena that was not cleared since.
        unsafe { row.value_mut().clone_from(&version.as_ref().value) };
    }

    unsafe fn effect(&self, undo: Undo, scratch: &mut Vec<u8>) -> u128 {
        let row = self.row(undo.row);
        // SAFETY: the caller's promise, as in `roll_back`.
        let (key, before, after) =
            unsafe { (row.key(), &undo.version.cast::<Version<V>>().as_ref().value, row.value()) };
        let seed = self.digest_seed(key, scratch);
        let mut digest =
            |value: &Option<V>| value.as_ref().map_or(0, |value| Self::digest_value(value, seed, scratch));
        digest(after).wrapping_sub(digest(before))
    }

    fn clear_within(&self, worker: &mut Worker) {
        self.local(worker).within.clear();
    }

    unsafe fn undo_window(&self) {
        let mut absent = Vec::new();
        for local in &self.locals {
            // SAFETY: no worker runs, says the caller.
            let local = unsafe { &mut *local.get() };
            for mut version in local.window() {
                // SAFETY: in the arena. Only read before the latch is held: a snapshot may be reading it, too.
                let row = self.row(unsafe { version.as_ref() }.row);
                let mut latched = row.latch.lock();
                // SAFETY: as above; snapshots latch the row before they follow its chain to here.
                let version = unsafe { version.as_mut() };
                // SAFETY: under the latch, and no worker runs.
                unsafe {
                    *row.value_mut() = version.value.take();
                    row.set_chain(version.next);
                }
                latched.stamp = version.stamp;
                drop(latched);
                // SAFETY: no worker runs.
                if unsafe { row.value().is_none() } && !row.listed.swap(true, Ordering::Relaxed) {
                    absent.push(version.row);
                }
            }
            local.absent.extend(absent.drain(..));
            local.versions.drop_newest(local.window_len());
            local.within.clear();
        }
    }

    unsafe fn end_window(&self, worker: &mut Worker, end: &WindowEnd) -> u128 {
        let number = worker.number();
        let mut scratch = std::mem::take(&mut worker.scratch);
        let mut all_buckets = std::mem::take(&mut worker.buckets);
        let first = usize::from(self.number) * BUCKETS;
        let buckets = all_buckets.get_mut(first..first + BUCKETS).unwrap_or_default();
        let local = self.local(worker);
        let listed_before = local.absent.len();
        let (mut digest, mut with_value, mut absent) = (0u128, 0, std::mem::take(&mut local.absent));
        for version in local.window() {
            // SAFETY: in the arena; nobody writes to it between windows.
            let version = unsafe { version.as_ref() };
            let row = self.row(version.row);
            // SAFETY: no worker runs a transaction, so rows change no more; nor is this one given back by another
            // worker, since its stamp lies in the window.
            let (key, value) = unsafe { (row.key(), row.value()) };
            with_value += i64::from(value.is_some()) - i64::from(version.value.is_some());
            if !self.derived {
                let seed = self.digest_seed(key, &mut scratch);
                let mut change = 0u128;
                if let Some(before) = &version.value {
                    change = change.wrapping_sub(Self::digest_value(before, seed, &mut scratch));
                }
                if let Some(after) = value {
                    change = change.wrapping_add(Self::digest_value(after, seed, &mut scratch));
                }
                digest = digest.wrapping_add(change);
                if let Some(sum) = buckets.get_mut(bucket(seed) as usize) {
                    *sum = sum.wrapping_add(change);
                }
            }
            if value.is_none() && !row.listed.swap(true, Ordering::Relaxed) {
                absent.push_back(version.row);
            }
        }
        local.absent = absent;
        local.with_value += with_value;
        local.end_window(end);
        for _ in 0..listed_before {
            let Some(&id) = local.absent.front() else { break };
            let row = self.row(id);
            let stamp = row.latch.stamp();
            // SAFETY: no worker runs a transaction.
            if unsafe { row.value().is_some() } {
                // Looked at first: a row that changes in every window must not hold up those behind it.
                row.listed.store(false, Ordering::Relaxed);
            } else if stamp >= end.first {
                // Rows of this window are left to a later one: other workers may be looking at them now.
                local.absent.push_back(id);
            } else if end.oldest_snapshot.is_some_and(|oldest| stamp > oldest) {
                break;
            } else {
                // SAFETY: no value, no snapshot from before it was gone, and this list is the only one it is in.
                unsafe { self.give_back(id) };
                local.existing -= 1;
                local.free.push_back((end.window, id));
            }
            local.absent.pop_front();
        }
        let told = &self.told[number];
        told.with_value.store(local.with_value, Ordering::Relaxed);
        told.existing.store(local.existing, Ordering::Relaxed);
        told.versions.store(local.retained_len as u64, Ordering::Relaxed);
        let undo_bytes = local.versions.bytes() + local.within.bytes();
        told.undo_bytes.store(undo_bytes as u64, Ordering::Relaxed);
        worker.scratch = scratch;
        worker.buckets = all_buckets;
        digest
    }

    fn visit_hashes_at(&self, at: Stamp, see: &mut SeeHashes<'_>) {
        let mut scratch = Vec::new();
        self.visit_at(at, |key, value| {
            let seed = self.digest_seed(key, &mut scratch);
            see(seed, Self::digest_value(value, seed, &mut scratch), &|| <C as Codec<K>>::describe(key));
            ControlFlow::Continue(())
        });
    }

    fn memory(&self) -> TableMemory {
        // Each worker tells what it added and took away: only the sums mean something, and while windows end they may
        // be off by what those windows change.
        let sum = |of: fn(&Told) -> &AtomicI64| {
            let sum: i64 = self.told.iter().map(|told| of(told).load(Ordering::Relaxed)).sum();
            sum.max(0) as u64
        };
        let total = |of: fn(&Told) -> &AtomicU64| -> u64 {
            self.told.iter().map(|told| of(told).load(Ordering::Relaxed)).sum()
        };
        let versions = total(|told| &told.versions);
        TableMemory {
            name: self.name,
            rows: sum(|told| &told.with_value),
            rows_bytes: u64::from(self.rows.len()) * size_of::<Row<K, V>>() as u64,
            versions,
            versions_bytes: versions * size_of::<Version<V>>() as u64,
            undo_bytes: total(|told| &told.undo_bytes),
            indexes_bytes: match &self.index {
                Index::Hash(index) => index.bytes(),
                Index::Ordered(index) => {
                    index.bytes() + sum(|told| &told.existing) * size_of::<(K, RowId)>() as u64
                }
                Index::Leaves(indexes) => {
                    indexes.0.bytes() + sum(|told| &told.existing) * size_of::<(K, RowId)>() as u64
                }
            },
        }
    }

    fn wants_adapting(&self) -> bool {
        matches!(&self.index, Index::Leaves(indexes) if indexes.1.wants_adapting())
    }

    unsafe fn adapt(&self) {
        if let Index::Leaves(indexes) = &self.index {
            // SAFETY: the caller's promise.
            indexes.1.adapt(|id, leaf| unsafe { self.row(id).set_granule(self.leaf_hash(leaf)) });
        }
    }

    unsafe fn reclaim(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            match &self.index {
                Index::Hash(index) => index.reclaim(),
                Index::Ordered(index) => index.reclaim(),
                Index::Leaves(indexes) => indexes.0.reclaim(),
            }
        }
    }

    fn digest_at(&self, at: Stamp) -> u128 {
        let (mut sum, mut scratch) = (0u128, Vec::new());
        if self.derived {
            return sum;
        }
        self.for_each_at(at, |key, value| {
            let seed = self.digest_seed(key, &mut scratch);
            sum = sum.wrapping_add(Self::digest_value(value, seed, &mut scratch));
        });
        sum
    }

    fn row_format(&self) -> RowFormat {
        Self::row_format(self)
    }

    fn visit_rows_at(&self, at: Stamp, see: &mut SeeRow<'_>) {
        Self::visit_rows_at(self, at, see);
    }

    unsafe fn load_row(
        &self,
        worker: &mut Worker,
        key: &[u8],
        value: &[u8],
        at: Stamp,
    ) -> Result<(), DecodeError> {
        // SAFETY: the caller's promise.
        unsafe { Self::load_row(self, worker, key, value, at) }
    }

    fn is_indexed(&self) -> bool {
        Self::is_indexed(self)
    }

    fn numbers(&self) -> RowId {
        Self::numbers(self)
    }

    unsafe fn index_rows(&self, tx: &mut Tx<'_>, rows: Range<RowId>) -> Result<(), DecodeError> {
        // SAFETY: the caller's promise.
        unsafe { Self::index_rows(self, tx, rows) }
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
                unsafe {
                    ptr::drop_in_place(row.value_mut());
                    ptr::drop_in_place(ptr::from_ref(row.key()).cast_mut());
                }
            }
        }
    }
}

const _: () = assert!(size_of::<NonNull<()>>() == 8, "undo records assume 64-bit pointers");

#[cfg(all(test, not(loom)))]
mod tests {
    use mixlog_log::Position;

    use super::*;
    use crate::store::Store;

    const TABLE: Table<u64, u64> = Table::new("table");

    /// One window of one transaction that deletes, inserts or overwrites.
    fn window(store: &Store, worker: &mut Worker, number: u64, changes: &[(u64, Option<u64>)]) {
        let table = store.table(&TABLE);
        let position = Position(number);
        worker.start_window(number);
        for &(key, value) in changes {
            let hash = table.key_hash(&key);
            let id = table.find(&key, hash).unwrap_or_else(|| table.create(worker, key, hash, hash, hash));
            // SAFETY: this thread is the only one.
            unsafe {
                table.save(worker, id, Stamp::of(position), Stamp::of(position));
                *table.row(id).value_mut() = value;
            }
        }
        store.keep_changes(worker);
        let end = WindowEnd { window: number, first: Stamp::of(position), oldest_snapshot: None };
        // SAFETY: this thread is the only one, and no transaction runs.
        unsafe { table.end_window(worker, &end) };
    }

    #[test]
    fn rows_without_a_value_are_given_back_though_others_change_in_every_window() {
        let make: crate::store::MakeTable = Box::new(|number, workers, _| {
            Box::new(TableStore::new(&TABLE, Conflicts::Rows, number, workers, Vec::new()))
        });
        let (store, mut workers) = Store::new(vec![make], Vec::new(), 1);
        let worker = &mut workers[0];
        for number in (0..20_000).step_by(2) {
            // Row 0 is there and gone in turn, row 1 is deleted every time; the others come and go once.
            let key = 2 + number;
            window(&store, worker, number, &[(0, None), (1, None), (key, Some(7))]);
            window(&store, worker, number + 1, &[(0, Some(number)), (1, None), (key, None)]);
        }
        let used = store.table(&TABLE).rows.len();
        assert!(used <= 2 * NUMBERS, "{used} rows for three keys at a time");
        assert_eq!(store.table(&TABLE).get_at(&0, Stamp::of(Position(30_000))), Some(19_998));
        assert_eq!(store.table(&TABLE).get_at(&1, Stamp::of(Position(30_000))), None);
    }
}
