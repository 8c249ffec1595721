//! From a granule, in key order, to the numbers of its rows.
//!
//! Each granule has a tree of its own. The schedule keeps writers of a granule apart from its readers and from
//! each other, so the lock of a tree is there for snapshots only, and transactions never wait for each other
//! at it.
//!
//! Granules stay when their last row is gone: snapshots keep references to them for as long as they walk, and pin the
//! look-up only. The next rows of the same granule find it there.

use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, RwLock};

use super::buried::{Buried, bytes_when_used};
use super::bytes_of_node;
use super::hash_index::HashIndex;
use super::row::Stamp;
use super::slab::{RowId, Slab, ZeroValid};
use crate::table::Key;

type Tree<K> = RwLock<BTreeMap<K, RowId>>;

/// The rows of a granule.
pub(crate) struct Granule<K> {
    hash: u64,
    pub(crate) tree: Tree<K>,
    pub(crate) buried: Buried<K>,
}

struct Cell<K>(UnsafeCell<MaybeUninit<Granule<K>>>);

// SAFETY: `MaybeUninit` is valid whatever its bytes are.
unsafe impl<K> ZeroValid for Cell<K> {}

/// See the module's documentation.
pub(crate) struct OrderedIndex<K> {
    /// From the hash of a granule to its number.
    directory: HashIndex,
    granules: Slab<Cell<K>>,
    /// Numbers whose granules are initialized: all below.
    count: Mutex<u32>,
    /// Granule numbers reserved and not used yet.
    spare: Mutex<Range<u32>>,
    /// Granules of which a row was ever buried.
    with_buried: AtomicU32,
}

// SAFETY: granules are initialized once, before they are published in the directory, and are locks from then on.
unsafe impl<K: Send + Sync> Sync for OrderedIndex<K> {}
// SAFETY: it owns its granules.
unsafe impl<K: Send> Send for OrderedIndex<K> {}

impl<K: Key> OrderedIndex<K> {
    pub(crate) fn new() -> Self {
        Self {
            directory: HashIndex::new(),
            granules: Slab::new(),
            count: Mutex::new(0),
            spare: Mutex::default(),
            with_buried: AtomicU32::new(0),
        }
    }

    fn at(&self, number: u32) -> &Granule<K> {
        // SAFETY: numbers come from the directory or from below `count`, both after initialization, and no
        // mutable reference is made after it.
        unsafe { (*self.granules.get(number).0.get()).assume_init_ref() }
    }

    /// The granule with this hash, if it ever had a row. For workers in a window, and between windows.
    #[inline]
    pub(crate) fn granule(&self, hash: u64) -> Option<&Granule<K>> {
        let number = self.directory.find(hash, |number| self.at(number).hash == hash)?;
        Some(self.at(number))
    }

    /// [`granule`](Self::granule) for those who are not workers in a window. Granules stay: only the look-up is pinned.
    #[inline]
    pub(crate) fn granule_pinned(&self, hash: u64) -> Option<&Granule<K>> {
        let number = self.directory.find_pinned(hash, |number| self.at(number).hash == hash)?;
        Some(self.at(number))
    }

    /// Buries a row of a granule that has it, with the stamp of its deletion.
    pub(crate) fn bury(&self, granule: u64, row: (K, RowId, Stamp)) {
        let granule = self.granule(granule).expect("the granule of a row");
        if granule.buried.enter([row].into_iter()) {
            self.with_buried.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What the directory and the granules take, in bytes, with so many rows in the trees: these by what stands in them, or
    /// by the node that each has, also an empty one. Without what stands for rows that are buried.
    pub(crate) fn bytes(&self, rows: u64) -> u64 {
        let count = *self.count.lock().expect("no panic while a granule is made");
        let trees = (u64::from(count) * bytes_of_node::<K, RowId>() as u64).max(rows * Self::BYTES_OF_ROW);
        let buried = u64::from(self.with_buried.load(Ordering::Relaxed)) * bytes_when_used::<K>() as u64;
        let granules = u64::from(self.granules.len()) * size_of::<Cell<K>>() as u64;
        self.directory.bytes() + granules + trees + buried
    }

    const BYTES_OF_ROW: u64 = size_of::<(K, RowId)>() as u64;

    /// The granule with this hash, made on first use. Writers of one granule conflict, so transactions never make one at
    /// the same time; drivers that load a checkpoint do.
    pub(crate) fn granule_or_new(&self, hash: u64) -> &Granule<K> {
        if let Some(granule) = self.granule(hash) {
            return granule;
        }
        let mut count = self.count.lock().expect("no panic while a granule is made");
        if let Some(granule) = self.granule(hash) {
            return granule;
        }
        let mut spare = self.spare.lock().expect("no panic while a granule is made");
        if spare.is_empty() {
            *spare = self.granules.reserve(64);
        }
        let number = spare.next().expect("just reserved");
        assert_eq!(number, *count, "granules are made in order");
        let granule = Granule { hash, tree: RwLock::default(), buried: Buried::new() };
        // SAFETY: the number is new, so nobody else refers to the cell; the directory publishes it below.
        unsafe { (*self.granules.get(number).0.get()).write(granule) };
        *count += 1;
        self.directory.insert(hash, number);
        self.at(number)
    }

    /// See [`HashIndex::reclaim`].
    ///
    /// # Safety
    /// As there.
    pub(crate) unsafe fn reclaim(&self) {
        // SAFETY: the caller's promise covers the directory.
        unsafe { self.directory.reclaim() };
    }
}

impl<K> Drop for OrderedIndex<K> {
    fn drop(&mut self) {
        let count = *self.count.get_mut().expect("no panic while a granule is made");
        for number in 0..count {
            // SAFETY: below `count` all are initialized, and nobody else is here any more.
            unsafe { (*self.granules.get(number).0.get()).assume_init_drop() };
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn granule_or_new_of_several_threads_makes_one_granule_for_a_hash() {
        const THREADS: usize = 4;
        let index = OrderedIndex::<u64>::new();
        let barrier = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for thread in 0..THREADS as u64 {
                let (index, barrier) = (&index, &barrier);
                scope.spawn(move || {
                    for granule in 0..2000 {
                        barrier.wait();
                        let granule = index.granule_or_new(granule);
                        granule.tree.write().unwrap().insert(thread, thread as RowId);
                    }
                });
            }
        });
        for granule in 0..2000 {
            assert_eq!(
                index.granule(granule).unwrap().tree.read().unwrap().len(),
                THREADS,
                "granule {granule}"
            );
        }
    }
}
