//! Rows by number, at addresses that never change.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crossbeam_utils::CachePadded;

use super::region::Region;

/// Number of a row in its table.
pub(crate) type RowId = u32;

const FIRST_BITS: u32 = 10;
const CHUNKS: usize = (32 - FIRST_BITS) as usize;

/// A growing array of `T`, in chunks that double in size and never move.
///
/// Memory starts out as zeros, and all-zero must be a valid `T`.
pub(crate) struct Slab<T> {
    chunks: [AtomicPtr<T>; CHUNKS],
    regions: Mutex<Vec<Region>>,
    reserved: CachePadded<AtomicU32>,
    items: PhantomData<T>,
}

/// Types for which all-zero bytes are a valid value.
///
/// # Safety
/// All-zero bytes must be a valid value of the type.
pub(crate) unsafe trait ZeroValid {}

impl<T: ZeroValid> Slab<T> {
    pub(crate) fn new() -> Self {
        Self {
            chunks: [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS],
            regions: Mutex::default(),
            reserved: CachePadded::new(AtomicU32::new(0)),
            items: PhantomData,
        }
    }

    /// How many numbers were given out.
    pub(crate) fn len(&self) -> u32 {
        self.reserved.load(Ordering::Acquire)
    }

    /// Gives out `count` new numbers.
    ///
    /// # Panics
    /// When the table has more than 4 billion rows.
    pub(crate) fn reserve(&self, count: u32) -> Range<RowId> {
        let mut regions = self.regions.lock().expect("no panic while a slab grows");
        let start = self.reserved.load(Ordering::Relaxed);
        let end = start.checked_add(count).filter(|&end| end < u32::MAX - (1 << FIRST_BITS));
        let end = end.expect("a table holds fewer than 2^32 rows");
        for chunk in 0..=Self::place(end).0 {
            if self.chunks[chunk].load(Ordering::Relaxed).is_null() {
                let region = Region::zeroed((1usize << (FIRST_BITS as usize + chunk)) * size_of::<T>());
                assert!(align_of::<T>() <= 4096, "rows are aligned to a page at most");
                // Release: whoever sees the chunk, or the number that follows, sees it mapped.
                self.chunks[chunk].store(region.start().as_ptr().cast(), Ordering::Release);
                regions.push(region);
            }
        }
        self.reserved.store(end, Ordering::Release);
        start..end
    }

    #[inline]
    const fn place(id: RowId) -> (usize, usize) {
        let n = id as u64 + (1 << FIRST_BITS);
        let bits = 63 - n.leading_zeros();
        ((bits - FIRST_BITS) as usize, (n - (1 << bits)) as usize)
    }

    /// The item of a number that was given out.
    #[inline]
    pub(crate) fn get(&self, id: RowId) -> &T {
        debug_assert!(id < self.len(), "number {id} was not given out");
        let (chunk, index) = Self::place(id);
        // Acquire pairs with the store in `reserve`: a thread that learned the number through a slot of an
        // index sees the chunk too.
        let start = self.chunks[chunk].load(Ordering::Acquire);
        // SAFETY: the number was given out, so its chunk is mapped and holds more than `index` items; all-zero
        // is valid (`ZeroValid`); the chunk lives as long as `self`.
        unsafe { &*start.add(index) }
    }

    /// Asks the cache for the lines of an item, the first `most` at most.
    #[inline]
    pub(crate) fn prefetch(&self, id: RowId, most: usize) {
        let (chunk, index) = Self::place(id);
        let start = self.chunks[chunk].load(Ordering::Relaxed).wrapping_add(index).cast::<u8>();
        let lines = (start.addr() % 64 + size_of::<T>()).div_ceil(64).min(most);
        for line in 0..lines {
            super::prefetch(start.wrapping_add(line * 64));
        }
    }
}
