//! Large buffers that are used again.
//!
//! Memory that a process has already is faster than what the system gives: that comes as pages, each of which is filled
//! with zeros when it is touched first. So large buffers are kept when nobody needs them any more, by all threads
//! together, for whoever needs one of about that size. Where each buffer holds megabytes of entries, what that costs beside
//! filling it is nothing.

use std::collections::VecDeque;
use std::mem;
use std::ops::Deref;
use std::sync::{Mutex, PoisonError};

/// Shorter buffers are not kept: the allocator has them at hand.
const LARGE: usize = 64 << 10;

/// So many bytes are kept at most; the oldest buffers go first.
const KEPT: usize = 16 << 20;

static KEPT_BUFFERS: Mutex<Kept> = Mutex::new(Kept { buffers: VecDeque::new(), bytes: 0 });

struct Kept {
    buffers: VecDeque<Vec<u8>>,
    bytes: usize,
}

/// Bytes, the memory of which is kept for others when they are dropped.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Buffer(Vec<u8>);

impl Buffer {
    /// How much memory it takes, in bytes.
    pub(crate) const fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.capacity() >= LARGE {
            let dropped = kept(|kept| kept.keep(mem::take(&mut self.0)));
            // Freeing megabytes takes long: not with the lock held.
            drop(dropped);
        }
    }
}

/// A buffer with room for so many bytes, and not for many more, if one is kept. What it holds is left from before.
pub(crate) fn take(bytes: usize) -> Option<Vec<u8>> {
    if bytes < LARGE { None } else { kept(|kept| kept.take(bytes)) }
}

fn kept<T>(with: impl FnOnce(&mut Kept) -> T) -> T {
    // Whatever happened to who held the lock, there are buffers behind it.
    with(&mut KEPT_BUFFERS.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Kept {
    /// Keeps a buffer, and returns those that are too much.
    fn keep(&mut self, buffer: Vec<u8>) -> Vec<Vec<u8>> {
        let mut dropped = Vec::new();
        self.bytes += buffer.capacity();
        self.buffers.push_back(buffer);
        while self.bytes > KEPT
            && let Some(oldest) = self.buffers.pop_front()
        {
            self.bytes -= oldest.capacity();
            dropped.push(oldest);
        }
        dropped
    }

    fn take(&mut self, bytes: usize) -> Option<Vec<u8>> {
        // Of those that fit, what was kept last is the likeliest to be in a cache.
        let fits = |buffer: &Vec<u8>| (bytes..=bytes + bytes / 4).contains(&buffer.capacity());
        let buffer = self.buffers.remove(self.buffers.iter().rposition(fits)?)?;
        self.bytes -= buffer.capacity();
        Some(buffer)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Other tests of this process may take and keep buffers: these have a store of their own.
    fn empty() -> Kept {
        Kept { buffers: VecDeque::new(), bytes: 0 }
    }

    #[test]
    fn a_buffer_is_taken_by_who_needs_about_as_much() {
        let mut kept = empty();
        for mib in [1, 2, 4] {
            assert!(kept.keep(Vec::with_capacity(mib << 20)).is_empty());
        }
        assert_eq!(kept.take(3 << 20), None);
        assert_eq!(kept.take((4 << 20) + 1), None);
        assert_eq!(kept.take((2 << 20) - 1000).unwrap().capacity(), 2 << 20);
        assert_eq!(kept.take((2 << 20) - 1000), None);
        assert_eq!(kept.bytes, 5 << 20);
    }

    #[test]
    fn the_newest_are_kept_up_to_a_limit() {
        let mut kept = empty();
        let mut dropped = 0;
        for length in 0..40 {
            let mut buffer = Vec::with_capacity(1 << 20);
            buffer.resize(length, 1);
            dropped += kept.keep(buffer).len();
        }
        assert_eq!((kept.buffers.len(), kept.bytes, dropped), (KEPT >> 20, KEPT, 40 - (KEPT >> 20)));
        assert_eq!(kept.take(1 << 20).unwrap().len(), 39);
        let larger = kept.keep(Vec::with_capacity(KEPT + 1));
        assert_eq!((kept.buffers.len(), kept.bytes, larger.len()), (0, 0, KEPT >> 20));
    }

    #[test]
    fn a_buffer_dropped_is_kept_if_it_is_large() {
        // A size that nobody else has.
        let capacity = LARGE + 12_345;
        let is_kept = |_| {
            drop(Buffer::from(Vec::with_capacity(capacity)));
            take(capacity).is_some()
        };
        // Others may have kept so many meanwhile that it is gone.
        assert!((0..100).any(is_kept));
        drop(Buffer::from(Vec::with_capacity(100)));
        assert!(kept(|kept| kept.buffers.iter().all(|buffer| buffer.capacity() >= LARGE)));
    }
}
