//! Undo space: items at stable addresses, dropped all at once.

use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// Items are pushed, pointed at, and cleared together. Chunks are kept for the next round.
pub(crate) struct Arena<T> {
    chunks: Vec<NonNull<MaybeUninit<T>>>,
    len: usize,
}

// SAFETY: the arena owns its items; moving it moves the ownership.
unsafe impl<T: Send> Send for Arena<T> {}

impl<T> Arena<T> {
    /// About 64 KiB: large enough that chunk borders do not matter, small enough to stay in the cache.
    const CHUNK: usize = {
        let fit = (64 << 10) / if size_of::<T>() == 0 { 1 } else { size_of::<T>() };
        if fit < 16 { 16 } else { fit }
    };

    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Adds an item; the address is good until [`clear`](Self::clear) or drop.
    #[inline]
    pub(crate) fn push(&mut self, item: T) -> NonNull<T> {
        let (chunk, index) = (self.len / Self::CHUNK, self.len % Self::CHUNK);
        if chunk == self.chunks.len() {
            self.grow();
        }
        // SAFETY: `index < CHUNK`, the length of every chunk; nobody refers to the items past `len`.
        let place = unsafe { self.chunks[chunk].add(index) };
        // SAFETY: `place` is inside a live allocation that only the arena writes to.
        unsafe { place.write(MaybeUninit::new(item)) };
        self.len += 1;
        place.cast()
    }

    #[cold]
    fn grow(&mut self) {
        let chunk: Box<[MaybeUninit<T>]> = Box::new_uninit_slice(Self::CHUNK);
        // From here on only raw pointers: a Box claims to be the only way to its items.
        self.chunks.push(NonNull::from(Box::leak(chunk)).cast());
    }

    /// The address of an item, by the order of pushes.
    #[inline]
    pub(crate) fn at(&self, i: usize) -> NonNull<T> {
        assert!(i < self.len);
        // SAFETY: `i` is below `len`, so the chunk exists and the index lies inside.
        unsafe { self.chunks[i / Self::CHUNK].add(i % Self::CHUNK).cast() }
    }

    /// The addresses of all items, in the order of pushes.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = NonNull<T>> + '_ {
        (0..self.len).map(|i| self.at(i))
    }

    /// Drops all items.
    #[inline]
    pub(crate) fn clear(&mut self) {
        if std::mem::needs_drop::<T>() {
            for i in 0..self.len {
                // SAFETY: items below `len` are initialized; `len = 0` below forgets them.
                unsafe { self.at(i).drop_in_place() };
            }
        }
        self.len = 0;
    }
}

impl<T> Drop for Arena<T> {
    fn drop(&mut self) {
        self.clear();
        for chunk in self.chunks.drain(..) {
            let chunk = NonNull::slice_from_raw_parts(chunk, Self::CHUNK);
            // SAFETY: leaked from a boxed slice of this length in `grow`, and freed only here.
            drop(unsafe { Box::from_raw(chunk.as_ptr()) });
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::rc::Rc;

    use super::Arena;

    #[test]
    fn push_more_than_a_chunk_keeps_addresses_and_order() {
        let mut arena = Arena::new();
        let places: Vec<_> = (0..100_000u64).map(|i| arena.push(i)).collect();
        assert_eq!(arena.iter().collect::<Vec<_>>(), places);
        // SAFETY: the arena was not cleared.
        assert!(places.iter().enumerate().all(|(i, place)| unsafe { *place.as_ref() } == i as u64));
    }

    #[test]
    fn clear_and_drop_drop_each_item_once() {
        let item = Rc::new(());
        let mut arena = Arena::new();
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
}
