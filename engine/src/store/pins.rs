//! Memory that readers may be in who come at any time and stay for a moment.
//!
//! A reader *pins* the current generation: it counts itself in one of two counters, by the generation's lowest bit,
//! and looks again whether that generation is still current. Whoever has taken memory out of sight starts a new
//! generation; the memory is free once nobody of the generation before is left. New readers count in the other
//! counter, so that moment comes even if there are always some.
//!
//! Either the reader's second look comes after the new generation began, and it starts again; or its count comes
//! before, and is seen: between the store and the load on both sides stands a fence, one of which is the first. A
//! reader that begins with the new generation has, by the Acquire of its first look, lost sight of the memory.

use std::cell::Cell;

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicU64, Ordering, fence};

/// Counters are striped, so that readers on different cores seldom write to one line.
const STRIPES: usize = if cfg!(loom) { 1 } else { 8 };

/// See the module's documentation.
pub(crate) struct Pins {
    generation: AtomicU64,
    readers: Box<[CachePadded<[AtomicU64; 2]>]>,
}

/// A reader at work. What it can reach stays until it is dropped.
pub(crate) struct Pinned<'a>(&'a AtomicU64);

impl Drop for Pinned<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release pairs with the Acquire in `has_ended_before`: what was read is not needed any more.
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl Pins {
    pub(crate) fn new() -> Self {
        let readers = || CachePadded::new([AtomicU64::new(0), AtomicU64::new(0)]);
        Self { generation: AtomicU64::new(0), readers: (0..STRIPES).map(|_| readers()).collect() }
    }

    /// Keeps all memory that is in sight from now on until the pin is dropped. Never waits for anybody but for
    /// generations that begin meanwhile.
    #[inline]
    pub(crate) fn pin(&self) -> Pinned<'_> {
        thread_local! {
            static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
        }
        let stripe = STRIPE.with(|stripe| {
            if stripe.get() == usize::MAX {
                static THREADS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
                stripe.set(THREADS.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % STRIPES);
            }
            stripe.get()
        });
        loop {
            // Acquire pairs with the Release in `begin`: what was out of sight before is not seen.
            let generation = self.generation.load(Ordering::Acquire);
            let readers = &self.readers[stripe][(generation & 1) as usize];
            readers.fetch_add(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            let pinned = Pinned(readers);
            if self.generation.load(Ordering::Relaxed) == generation {
                return pinned;
            }
        }
    }

    /// Begins a generation, for one thread at a time, and only once nobody of the one before the current is left:
    /// its counter is used again.
    pub(crate) fn begin(&self) {
        let generation = self.generation.load(Ordering::Relaxed);
        // Release: see `pin`.
        self.generation.store(generation + 1, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Whether all readers of the generation before the current one are gone. For the thread that began it.
    pub(crate) fn has_ended_before(&self) -> bool {
        let before = (self.generation.load(Ordering::Relaxed) + 1) & 1;
        // Acquire: see `Pinned`.
        self.readers.iter().all(|readers| readers[before as usize].load(Ordering::Acquire) == 0)
    }
}

#[cfg(all(test, loom))]
#[expect(clippy::undocumented_unsafe_blocks, reason = "loom's cells report every race themselves")]
mod loom_tests {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    use super::{AtomicU64, Ordering, Pins};

    /// Three memories are in sight one after the other, and each is written to ("freed") once no reader is left that
    /// may be in it: loom sees no race.
    #[test]
    fn loom_pins_memory_is_never_freed_under_a_reader() {
        loom::model(|| {
            let shared = Arc::new((
                Pins::new(),
                AtomicU64::new(0),
                [UnsafeCell::new(7u64), UnsafeCell::new(7), UnsafeCell::new(7)],
            ));
            let reader = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let (pins, in_sight, memory) = &*shared;
                    for _ in 0..2 {
                        let _pinned = pins.pin();
                        let seen = in_sight.load(Ordering::Acquire) as usize;
                        assert_eq!(memory[seen].with(|m| unsafe { *m }), 7);
                    }
                })
            };
            let (pins, in_sight, memory) = &*shared;
            let mut freed = 0;
            for next in 1..3 {
                if pins.has_ended_before() {
                    (freed..next - 1).for_each(|old| memory[old].with_mut(|m| unsafe { *m = 0 }));
                    freed = freed.max(next - 1);
                    in_sight.store(next as u64, Ordering::Release);
                    pins.begin();
                    if pins.has_ended_before() {
                        (freed..next).for_each(|old| memory[old].with_mut(|m| unsafe { *m = 0 }));
                        freed = next;
                    }
                }
            }
            reader.join().unwrap();
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Pins;

    #[test]
    fn generations_end_though_there_are_always_readers() {
        let pins = Pins::new();
        let mut reader = pins.pin();
        for _ in 0..100 {
            assert!(pins.has_ended_before());
            pins.begin();
            assert!(!pins.has_ended_before());
            let next = pins.pin();
            assert!(!pins.has_ended_before());
            drop(std::mem::replace(&mut reader, next));
        }
    }
}
