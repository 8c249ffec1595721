//! Undo space: items at stable addresses, dropped from either end.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr::NonNull;

/// A queue of items that do not move, in chunks of about so many bytes. Chunks that are no longer in use serve again; an arena that becomes empty
/// starts over in its first chunk, which is then still in the cache.
pub(crate) struct Arena<T, const BYTES: usize = { 64 << 10 }> {
    /// First those with items, then spare ones.
    chunks: VecDeque<NonNull<MaybeUninit<T>>>,
    /// Where the items are, counted from the start of the first chunk, in which `items.start` lies.
    items: Range<usize>,
}

// SAFETY: the arena owns its items; moving it moves the ownership.
unsafe impl<T: Send, const BYTES: usize> Send for Arena<T, BYTES> {}

impl<T, const BYTES: usize> Arena<T, BYTES> {
    /// Items in a chunk: large enough that chunk borders do not matter, small enough to stay in the cache.
    const CHUNK: usize = {
        let fit = BYTES / if size_of::<T>() == 0 { 1 } else { size_of::<T>() };
        if fit < 16 { 16 } else { fit }
    };
    /// How many spare chunks are kept in any case.
    const SPARE: usize = 4;

    pub(crate) const fn new() -> Self {
        Self { chunks: VecDeque::new(), items: 0..0 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.items.end - self.items.start
    }

    /// What is allocated, whether there are items in it or not.
    pub(crate) fn bytes(&self) -> usize {
        self.chunks.len() * Self::CHUNK * size_of::<T>()
    }

    /// Adds an item; the address is good until the item is dropped.
    #[inline]
    pub(crate) fn push(&mut self, item: T) -> NonNull<T> {
        let (chunk, index) = (self.items.end / Self::CHUNK, self.items.end % Self::CHUNK);
        if chunk == self.chunks.len() {
            self.grow();
        }
        // SAFETY: `index < CHUNK`, the length of every chunk; nobody refers to the places past the last item.
        let place = unsafe { self.chunks[chunk].add(index) };
        // SAFETY: `place` is inside a live allocation that only the arena writes to.
        unsafe { place.write(MaybeUninit::new(item)) };
        self.items.end += 1;
        place.cast()
    }

    #[cold]
    fn grow(&mut self) {
        let chunk: Box<[MaybeUninit<T>]> = Box::new_uninit_slice(Self::CHUNK);
        // From here on only raw pointers: a Box claims to be the only way to its items.
        self.chunks.push_back(NonNull::from(Box::leak(chunk)).cast());
    }

    fn free(chunk: NonNull<MaybeUninit<T>>) {
        let chunk = NonNull::slice_from_raw_parts(chunk, Self::CHUNK);
        // SAFETY: leaked from a boxed slice of this length in `grow`, and the caller took it out of the arena.
        drop(unsafe { Box::from_raw(chunk.as_ptr()) });
    }

    /// The address of an item, counted from the oldest.
    #[inline]
    pub(crate) fn at(&self, i: usize) -> NonNull<T> {
        assert!(i < self.len());
        let i = self.items.start + i;
        // SAFETY: `i` is now the place of an item, so the chunk exists and the index lies inside.
        unsafe { self.chunks[i / Self::CHUNK].add(i % Self::CHUNK).cast() }
    }

    /// The addresses of the newest `count` items, in the order of pushes.
    pub(crate) fn newest(&self, count: usize) -> impl DoubleEndedIterator<Item = NonNull<T>> + '_ {
        assert!(count <= self.len());
        (self.len() - count..self.len()).map(|i| self.at(i))
    }

    /// Drops what lies at these places, counted as `items` is. They are no items any more: where a drop panics, the rest
    /// is leaked, and nothing is dropped again.
    fn drop_places(&self, places: Range<usize>) {
        if std::mem::needs_drop::<T>() {
            for i in places {
                // SAFETY: an item was here until just now, so the chunk exists, the index lies inside, and what is there
                // is initialized; the callers have forgotten it.
                unsafe { self.chunks[i / Self::CHUNK].add(i % Self::CHUNK).cast::<T>().drop_in_place() };
            }
        }
    }

    /// Drops the oldest `count` items.
    pub(crate) fn drop_oldest(&mut self, count: usize) {
        assert!(count <= self.len());
        let start = self.items.start;
        self.items.start += count;
        self.drop_places(start..start + count);
        if self.items.is_empty() {
            self.items = 0..0;
        }
        while self.items.start >= Self::CHUNK {
            self.chunks.rotate_left(1);
            self.items = self.items.start - Self::CHUNK..self.items.end - Self::CHUNK;
        }
    }

    /// Drops the newest `count` items.
    #[inline]
    pub(crate) fn drop_newest(&mut self, count: usize) {
        assert!(count <= self.len());
        let end = self.items.end;
        self.items.end -= count;
        self.drop_places(end - count..end);
        if self.items.is_empty() {
            self.items = 0..0;
        }
    }

    /// Drops all items.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.drop_newest(self.len());
    }

    /// Frees one chunk if there are many more than what is in use, and than `count` items need.
    ///
    /// Only one, so that space for what a snapshot retains does not go to the operating system and come back with
    /// every snapshot.
    pub(crate) fn shrink(&mut self, count: usize) {
        let used = self.items.end.div_ceil(Self::CHUNK);
        let enough = used + used.max(count.div_ceil(Self::CHUNK)).max(Self::SPARE);
        if self.chunks.len() > enough {
            self.chunks.pop_back().into_iter().for_each(Self::free);
        }
    }

    /// Frees all chunks that neither what is in use needs nor `count` items in all.
    pub(crate) fn shrink_to(&mut self, count: usize) {
        let enough = self.items.end.max(self.items.start + count).div_ceil(Self::CHUNK);
        self.chunks.drain(self.chunks.len().min(enough)..).for_each(Self::free);
    }
}

impl<T, const BYTES: usize> Drop for Arena<T, BYTES> {
    fn drop(&mut self) {
        self.clear();
        self.chunks.drain(..).for_each(Self::free);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::rc::Rc;

    use super::Arena;

    #[test]
    fn push_more_than_a_chunk_keeps_addresses_and_order() {
        let mut arena = Arena::<_>::new();
        let places: Vec<_> = (0..100_000u64).map(|i| arena.push(i)).collect();
        assert_eq!(arena.newest(100_000).collect::<Vec<_>>(), places);
        // SAFETY: the arena was not cleared.
        assert!(places.iter().enumerate().all(|(i, place)| unsafe { *place.as_ref() } == i as u64));
    }

    #[test]
    fn push_and_drop_oldest_for_ever_uses_the_same_few_chunks() {
        let mut arena = Arena::<_>::new();
        for i in 0..100u64 {
            arena.push(i);
        }
        for i in 100..1_000_000 {
            arena.push(i);
            arena.drop_oldest(1);
            // SAFETY: it was not dropped yet.
            assert!(i % 1000 != 0 || arena.newest(100).all(|item| unsafe { *item.as_ref() } > i - 100));
        }
        assert!(arena.bytes() <= 3 * (64 << 10), "{} bytes for 100 items", arena.bytes());
    }

    #[test]
    fn shrink_after_many_items_keeps_what_is_asked_for() {
        let mut arena = Arena::<_>::new();
        for i in 0..1_000_000u64 {
            arena.push(i);
        }
        arena.drop_newest(400_000);
        arena.drop_oldest(600_000);
        (0..200).for_each(|_| arena.shrink(100_000));
        assert!((100_000 * 8..101_000 * 8 + (64 << 10)).contains(&arena.bytes()), "{}", arena.bytes());
        (0..200).for_each(|_| arena.shrink(0));
        assert_eq!(arena.bytes(), 4 * (64 << 10));
    }

    #[test]
    fn shrink_to_keeps_what_is_in_use_and_what_is_asked_for() {
        let mut arena = Arena::<_>::new();
        let chunk = 64 << 10;
        for i in 0..1_000_000u64 {
            arena.push(i);
        }
        let all = arena.bytes();
        arena.shrink_to(10);
        assert_eq!(arena.bytes(), all);
        arena.drop_newest(900_000);
        arena.shrink_to(200_000);
        assert_eq!(arena.bytes(), (200_000usize * 8).div_ceil(chunk) * chunk);
        arena.shrink_to(0);
        assert_eq!(arena.bytes(), (100_000usize * 8).div_ceil(chunk) * chunk);
        // SAFETY: it is an item.
        assert!((0..100_000).all(|i| unsafe { *arena.at(i).as_ref() } == i as u64));
        arena.drop_oldest(50_000);
        arena.shrink_to(0);
        // SAFETY: it is an item.
        assert!((0..50_000).all(|i| unsafe { *arena.at(i).as_ref() } == i as u64 + 50_000));
        arena.clear();
        arena.shrink_to(1);
        assert_eq!(arena.bytes(), chunk);
        arena.shrink_to(0);
        assert_eq!(arena.bytes(), 0);
        arena.push(7);
    }

    #[test]
    fn drops_from_both_ends_drop_each_item_once() {
        let items: Vec<_> = (0..20_000).map(Rc::new).collect();
        let mut arena = Arena::<_>::new();
        for item in &items {
            arena.push(Rc::clone(item));
        }
        arena.drop_oldest(9_000);
        arena.drop_newest(4_000);
        for (i, item) in items.iter().enumerate() {
            assert_eq!(Rc::strong_count(item), 1 + usize::from((9_000..16_000).contains(&i)));
        }
        drop(arena);
        assert!(items.iter().all(|item| Rc::strong_count(item) == 1));
    }

    #[test]
    fn clear_and_drop_drop_each_item_once() {
        let item = Rc::new(());
        let mut arena = Arena::<_>::new();
        for _ in 0..5000 {
            arena.push(Rc::clone(&item));
        }
        assert_eq!(Rc::strong_count(&item), 5001);
        arena.clear();
        assert_eq!(Rc::strong_count(&item), 1);
        arena.push(Rc::clone(&item));
        drop(arena);
        assert_eq!(Rc::strong_count(&item), 1);
    }

    /// Counts its drops, and panics in one of them.
    struct Panics<'a> {
        drops: &'a Cell<u32>,
        now: bool,
    }

    impl Drop for Panics<'_> {
        fn drop(&mut self) {
            self.drops.set(self.drops.get() + 1);
            assert!(!self.now, "a row's drop panics");
        }
    }

    #[test]
    fn a_drop_that_panics_lets_no_item_be_dropped_twice() {
        for from_back in [false, true] {
            let drops: Vec<_> = (0..3000).map(|_| Cell::new(0)).collect();
            let mut arena = Arena::<_>::new();
            for (i, drops) in drops.iter().enumerate() {
                arena.push(Panics { drops, now: i == 1500 });
            }
            let dropped = catch_unwind(AssertUnwindSafe(|| {
                if from_back { arena.drop_newest(2500) } else { arena.drop_oldest(2500) }
            }));
            assert!(dropped.is_err());
            assert_eq!(arena.len(), 500);
            arena.push(Panics { drops: &drops[1500], now: false });
            drop(arena);
            let most = drops.iter().enumerate().map(|(i, drops)| drops.get() - u32::from(i == 1500)).max();
            assert_eq!(most, Some(1));
        }
    }
}
