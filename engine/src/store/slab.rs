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
    /// Bytes from one item to the next.
    stride: usize,
    items: PhantomData<T>,
}

/// What comes from memory at once, in bytes.
const LINE: usize = 64;

/// How many lines of an item are asked for at most.
const FETCHED: usize = 4;

/// Types for which all-zero bytes are a valid value.
///
/// # Safety
/// All-zero bytes must be a valid value of the type.
pub(crate) unsafe trait ZeroValid {}

impl<T: ZeroValid> Slab<T> {
    /// Items that lie close together.
    pub(crate) fn new() -> Self {
        Self::with_stride(size_of::<T>())
    }

    /// Items of which many are read after each other, each from its start to `end`: they begin with a line, if that
    /// makes an item no longer than what it spares, on average, of what comes from memory.
    pub(crate) fn of_items_read_to(end: usize) -> Self {
        let aligned = size_of::<T>().next_multiple_of(LINE);
        // Where an item begins anywhere in a line, the line's start is read in vain, and what is behind `end`.
        let spared = (end.next_multiple_of(8) + LINE - 8).saturating_sub(end.next_multiple_of(LINE));
        let is_worth_it = spared >= aligned - size_of::<T>();
        Self::with_stride(if is_worth_it { aligned } else { size_of::<T>() })
    }

    fn with_stride(stride: usize) -> Self {
        Self {
            chunks: [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS],
            regions: Mutex::default(),
            reserved: CachePadded::new(AtomicU32::new(0)),
            stride,
            items: PhantomData,
        }
    }

    /// How many numbers were given out.
    pub(crate) fn len(&self) -> u32 {
        self.reserved.load(Ordering::Acquire)
    }

    /// What the numbers given out take, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.len()) * self.stride as u64
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
                let region = Region::zeroed((1usize << (FIRST_BITS as usize + chunk)) * self.stride);
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
        // is valid (`ZeroValid`); the chunk lives as long as `self`. A stride is a multiple of the alignment: it is
        // the size, or that rounded up to lines, which changes no size that is a multiple of a larger alignment.
        unsafe { &*start.byte_add(index * self.stride) }
    }

    /// Asks the cache for the lines of the first `bytes` of an item, some of them if they are many: the rest of long
    /// items comes by itself.
    #[inline]
    pub(crate) fn prefetch(&self, id: RowId, bytes: usize) {
        let (chunk, index) = Self::place(id);
        let start = self.chunks[chunk].load(Ordering::Relaxed).cast::<u8>();
        let start = start.wrapping_add(index * self.stride);
        // Told apart, so that the loop has a known end where `bytes` has.
        if self.stride.is_multiple_of(LINE) {
            Self::fetch_lines(start, bytes);
        } else {
            Self::fetch_lines(start, start.addr() % LINE + bytes);
        }
    }

    #[inline]
    fn fetch_lines(start: *const u8, bytes: usize) {
        for line in 0..bytes.div_ceil(LINE).min(FETCHED) {
            super::prefetch_many(start.wrapping_add(line * LINE));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[repr(C, align(8))]
    struct Item<const N: usize>([u8; N]);

    // SAFETY: bytes.
    unsafe impl<const N: usize> ZeroValid for Item<N> {}

    /// Addresses of items of which the first `end` bytes are read, in all of the first chunks.
    fn addresses<const N: usize>(end: usize) -> Vec<usize> {
        let slab = Slab::<Item<N>>::of_items_read_to(end);
        let ids = slab.reserve(5 << FIRST_BITS);
        let addresses: Vec<_> = ids.map(|id| ptr::from_ref(slab.get(id)).addr()).collect();
        let distances = addresses.windows(2).map(|pair| pair[1].abs_diff(pair[0]));
        assert!(distances.min().is_some_and(|least| least >= N), "items do not overlap");
        assert!(slab.bytes() >= (5 << FIRST_BITS) * N as u64);
        addresses
    }

    #[test]
    fn items_begin_with_a_line_where_that_spares_more_than_it_takes() {
        let aligned = |addresses: Vec<usize>| addresses.iter().all(|address| address % LINE == 0);
        // Two lines for three, by 48 bytes.
        assert!(aligned(addresses::<144>(125)));
        // As many lines either way.
        assert!(!aligned(addresses::<144>(136)));
        assert!(!aligned(addresses::<1040>(1025)));
        // Nothing is longer for it.
        assert!(aligned(addresses::<64>(40)));
        assert!(aligned(addresses::<128>(1)));
    }
}
