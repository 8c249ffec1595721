//! A row in place, its version chain, and the latch between writers and snapshots.
//!
//! The newest value lies in the row. The first change of a row in a window puts a copy of the old value, a
//! [`Version`], in front of the row's chain (HyPer's before-images, SIGMOD 2015). So a value whose stamp lies in
//! the window at hand is never looked at by a snapshot: snapshots end where windows ended, and find what they
//! need in the chain. What is left to exclude is one moment: a snapshot reads the value in place, having seen
//! an old stamp, while the window's first change begins. That is what the latch is for, one bit of the stamp,
//! held for a copy of the value by a snapshot and for two stores by a writer. Later changes in the window take
//! it only to move the stamp, and transactions that read take none: the schedule keeps them apart from writers.
//!
//! The chain's newest version is looked at under the latch, too, for a window that is put back takes it out again.
//! Those behind it stay as they are for as long as a snapshot needs them, and are read without (see `table_store`).

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::AtomicBool;

use mixlog_log::Position;

use super::slab::{RowId, ZeroValid};
use crate::sync::{AtomicU64, Ordering, spin_loop, yield_now};

/// When a row changed: greater stamps are later. The first two mean that nothing was written yet; then come two for
/// every position, since a transaction may run, be put back, and run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(u64);

impl Stamp {
    /// No row is here: the number was never used, or its row was given back.
    pub(crate) const FREE: Self = Self(0);
    /// The row exists and has never had a value.
    pub(crate) const CREATED: Self = Self(1);

    /// The newest change that a snapshot of everything before `tail` sees.
    #[inline]
    pub(crate) const fn last_before(tail: Position) -> Self {
        Self(2 * tail.0 + 1)
    }

    /// The first position that a snapshot with this stamp does not see: of which it is the [`last_before`](Self::last_before).
    pub(crate) const fn tail(self) -> Position {
        Position((self.0 - 1) / 2)
    }

    /// A number that is greater for later stamps.
    #[inline]
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// The change made by the entry at `position`.
    #[inline]
    pub(crate) const fn of(position: Position) -> Self {
        Self(2 * position.0 + 2)
    }

    /// The change made by the second run of the transaction with this stamp. Rows that the first run touched need to be
    /// saved again, though they were put back: they do not hold this stamp.
    #[inline]
    pub(crate) const fn again(self) -> Self {
        Self(self.0 + 1)
    }
}

const LATCHED: u64 = 1 << 63;

/// A stamp and the latch in one word.
pub(crate) struct Latch(AtomicU64);

impl Latch {
    #[cfg(all(test, loom))]
    pub(crate) fn new(stamp: Stamp) -> Self {
        Self(AtomicU64::new(stamp.0))
    }

    /// The stamp, latched or not.
    #[inline]
    pub(crate) fn stamp(&self) -> Stamp {
        // Relaxed: workers see each other's stamps through the schedule and the barriers; snapshots latch.
        Stamp(self.0.load(Ordering::Relaxed) & !LATCHED)
    }

    /// Waits for the latch and takes it. Holders do a bounded amount of work and never wait for anything.
    #[inline]
    pub(crate) fn lock(&self) -> Latched<'_> {
        let mut spins = 0u32;
        loop {
            let stamp = self.0.load(Ordering::Relaxed);
            // Acquire pairs with the Release of the last holder's unlock: its writes are seen.
            if stamp & LATCHED == 0
                && self
                    .0
                    .compare_exchange(stamp, stamp | LATCHED, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                return Latched { latch: self, stamp: Stamp(stamp) };
            }
            spins += 1;
            if spins.is_multiple_of(128) { yield_now() } else { spin_loop() }
        }
    }
}

/// The latch, held. Dropping it leaves the stamp as it was.
pub(crate) struct Latched<'a> {
    latch: &'a Latch,
    pub(crate) stamp: Stamp,
}

impl Drop for Latched<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release pairs with the Acquire in `lock`.
        self.latch.0.store(self.stamp.0, Ordering::Release);
    }
}

/// What a row held before a window, in a chain from newest to oldest.
pub(crate) struct Version<V> {
    pub(crate) row: RowId,
    /// When this value was written.
    pub(crate) stamp: Stamp,
    /// The version before this one; to be followed only when that one is known to be retained.
    pub(crate) next: *const Self,
    pub(crate) value: Option<V>,
}

// SAFETY: `next` points into undo space that outlives every reader that may follow it (see `table_store`).
unsafe impl<V: Send> Send for Version<V> {}

/// A row. All-zero is a number that was never used.
///
/// What readers look at who need not keep writers out comes first: see [`Row::READ`].
#[repr(C)]
pub(crate) struct Row<K, V> {
    /// The hash of the row's unit of conflict: an access must have declared exactly this one, whatever the hash
    /// of its key or the granule function say now. Written with the key, and when the row is buried and comes back, which
    /// those may look at who located the row for another key.
    unit: AtomicU64,
    /// The hash of the granule with which the row is read as a whole: the same holds for it.
    granule: AtomicU64,
    key: UnsafeCell<MaybeUninit<K>>,
    value: UnsafeCell<MaybeUninit<Option<V>>>,
    /// Whether the row stands in a worker's list of rows without a value. Here, where it most often fits into what
    /// alignment leaves.
    pub(crate) listed: AtomicBool,
    pub(crate) latch: Latch,
    chain: UnsafeCell<*const Version<V>>,
}

// SAFETY: a stamp of 0, a null chain, false, and bytes that are not looked at while the stamp is 0.
unsafe impl<K, V> ZeroValid for Row<K, V> {}

impl<K, V> Row<K, V> {
    /// Of a row so many bytes are read by those that need not keep others from writing it.
    pub(crate) const READ: usize = std::mem::offset_of!(Self, value) + size_of::<Option<V>>();

    /// Starts a row without a value in a free number.
    ///
    /// # Safety
    /// The stamp is [`Stamp::FREE`], and the caller is the only one who was given the number.
    pub(crate) unsafe fn create(&self, key: K, unit: u64, granule: u64) {
        let mut latched = self.latch.lock();
        assert_eq!(latched.stamp, Stamp::FREE);
        // SAFETY: the latch keeps snapshots out, and nobody else knows the number.
        unsafe {
            (*self.key.get()).write(key);
            (*self.value.get()).write(None);
            *self.chain.get() = ptr::null();
        }
        self.unit.store(unit, Ordering::Relaxed);
        self.granule.store(granule, Ordering::Relaxed);
        self.listed.store(false, Ordering::Relaxed);
        latched.stamp = Stamp::CREATED;
    }

    /// Gives the row's number back.
    ///
    /// # Safety
    /// The row exists, has no value, and only snapshots, which latch, may still find it.
    pub(crate) unsafe fn free(&self) {
        let mut latched = self.latch.lock();
        assert_ne!(latched.stamp, Stamp::FREE);
        // SAFETY: a row that exists has its key and value initialized; the latch keeps snapshots out. From here on nobody
        // looks at the key: the number is free as soon as the latch is.
        let key = unsafe {
            assert!((*self.value.get()).assume_init_ref().is_none());
            (*self.key.get()).assume_init_read()
        };
        latched.stamp = Stamp::FREE;
        drop(latched);
        // Last: it may take long, or panic.
        drop(key);
    }

    /// Drops key and value with their table.
    ///
    /// # Safety
    /// The row exists, and nobody looks at it any more, or drops it again.
    pub(crate) unsafe fn drop_content(&self) {
        // SAFETY: initialized since `create`; the caller excludes everybody else.
        unsafe {
            (*self.value.get()).assume_init_drop();
            (*self.key.get()).assume_init_drop();
        }
    }

    /// # Safety
    /// The row exists, and cannot be given back while the reference lives: the caller is a worker between two ends of
    /// windows, or holds the latch.
    #[inline]
    pub(crate) unsafe fn key(&self) -> &K {
        // SAFETY: initialized in `create`, dropped in `free`; the caller excludes both.
        unsafe { (*self.key.get()).assume_init_ref() }
    }

    /// The hash of the row's unit of conflict, if it exists and is not buried.
    #[inline]
    pub(crate) fn unit(&self) -> u64 {
        self.unit.load(Ordering::Relaxed)
    }

    /// The hash of the granule that the row lies in, if it exists and is not buried.
    #[inline]
    pub(crate) fn granule(&self) -> u64 {
        self.granule.load(Ordering::Relaxed)
    }

    /// The row lies in another granule now. Between windows.
    pub(crate) fn set_granule(&self, granule: u64) {
        self.granule.store(granule, Ordering::Relaxed);
    }

    /// No transaction takes the row for one of its key any more, though it may have located it before. Between windows.
    pub(crate) fn bury(&self) {
        self.unit.store(!self.unit(), Ordering::Relaxed);
    }

    /// A row that was buried is one of its key again, and stands in no list.
    pub(crate) fn bring_back(&self, unit: u64, granule: u64) {
        self.listed.store(false, Ordering::Relaxed);
        self.granule.store(granule, Ordering::Relaxed);
        self.unit.store(unit, Ordering::Relaxed);
    }

    /// # Safety
    /// As [`key`](Self::key), and nobody changes the value while the reference lives: the schedule allows the caller to
    /// read, or the caller holds the latch and saw a stamp before the window at hand.
    #[inline]
    pub(crate) unsafe fn value(&self) -> &Option<V> {
        // SAFETY: initialized since `create`; the caller excludes writers.
        unsafe { (*self.value.get()).assume_init_ref() }
    }

    /// # Safety
    /// As [`key`](Self::key), and the schedule allows the caller, and no one else, to touch the value, whose
    /// stamp lies in the window at hand.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "exclusion is the schedule's work, not the borrow checker's")]
    pub(crate) unsafe fn value_mut(&self) -> &mut Option<V> {
        // SAFETY: initialized since `create`; the caller excludes everybody else, snapshots by the stamp.
        unsafe { (*self.value.get()).assume_init_mut() }
    }

    /// # Safety
    /// The caller holds the latch, or is the only writer and reads only.
    #[inline]
    pub(crate) unsafe fn chain(&self) -> *const Version<V> {
        // SAFETY: changed under the latch only, by the one writer.
        unsafe { *self.chain.get() }
    }

    /// # Safety
    /// The caller holds the latch.
    #[inline]
    pub(crate) unsafe fn set_chain(&self, chain: *const Version<V>) {
        // SAFETY: under the latch.
        unsafe { *self.chain.get() = chain };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::{Row, Stamp};
    use crate::store::slab::Slab;

    static DROPS: AtomicU32 = AtomicU32::new(0);

    struct Key;

    impl Drop for Key {
        fn drop(&mut self) {
            DROPS.fetch_add(1, Ordering::Relaxed);
            panic!("a key's drop panics");
        }
    }

    #[test]
    fn free_of_a_row_whose_key_panics_leaves_a_free_number() {
        let rows = Slab::<Row<Key, ()>>::new();
        let row = rows.get(rows.reserve(1).start);
        // SAFETY: the number is new, and this thread is the only one.
        unsafe { row.create(Key, 0, 0) };
        // SAFETY: the row was just made, without a value.
        assert!(catch_unwind(AssertUnwindSafe(|| unsafe { row.free() })).is_err());
        // Else the table would drop the key again when it is dropped.
        assert_eq!((row.latch.stamp(), DROPS.load(Ordering::Relaxed)), (Stamp::FREE, 1));
        // The latch is not held.
        assert_eq!(row.latch.lock().stamp, Stamp::FREE);
    }
}

#[cfg(all(test, loom))]
#[expect(clippy::undocumented_unsafe_blocks, reason = "loom's cells report every race themselves")]
mod loom_tests {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    use super::{Latch, Position, Stamp};

    struct Cell {
        latch: Latch,
        value: UnsafeCell<u64>,
        before: UnsafeCell<u64>,
    }

    /// A snapshot at an earlier position reads while the window's first writer and then a second one change the
    /// row in place: it sees the old value, and loom sees no race on the value.
    #[test]
    fn loom_latch_snapshot_and_writers_of_a_window_never_race() {
        loom::model(|| {
            let old = Stamp::of(Position(0));
            let cell = Arc::new(Cell {
                latch: Latch::new(old),
                value: UnsafeCell::new(10),
                before: UnsafeCell::new(0),
            });
            let writer = {
                let cell = Arc::clone(&cell);
                thread::spawn(move || {
                    // First change in the window: save, latch, move the stamp.
                    let copy = cell.value.with(|v| unsafe { *v });
                    cell.before.with_mut(|b| unsafe { *b = copy });
                    cell.latch.lock().stamp = Stamp::of(Position(1));
                    cell.value.with_mut(|v| unsafe { *v = 11 });
                    // Next transaction of the same window.
                    cell.latch.lock().stamp = Stamp::of(Position(2));
                    cell.value.with_mut(|v| unsafe { *v = 12 });
                })
            };
            for _ in 0..2 {
                let latched = cell.latch.lock();
                let seen = if latched.stamp <= old {
                    cell.value.with(|v| unsafe { *v })
                } else {
                    cell.before.with(|b| unsafe { *b })
                };
                drop(latched);
                assert_eq!(seen, 10);
            }
            writer.join().unwrap();
        });
    }

    /// A version: what was before a change, when that was written, and which version is behind.
    struct Before {
        value: UnsafeCell<u64>,
        stamp: Stamp,
        next: Option<usize>,
    }

    struct Chained {
        latch: Latch,
        newest: UnsafeCell<Option<usize>>,
        versions: [Before; 2],
    }

    /// A snapshot goes past the newest version and reads the one behind it without the latch, while the window
    /// that made the newest is put back, which empties it, and then runs again: loom sees no race, and the
    /// snapshot sees its value.
    #[test]
    fn loom_latch_snapshot_behind_a_window_that_is_put_back_never_races() {
        loom::model(|| {
            let (old, middle, new) = (Stamp::of(Position(0)), Stamp::of(Position(1)), Stamp::of(Position(2)));
            // Window 1 has ended and made version 0; version 1 is to be made by window 2.
            let row = Arc::new(Chained {
                latch: Latch::new(middle),
                newest: UnsafeCell::new(Some(0)),
                versions: [
                    Before { value: UnsafeCell::new(10), stamp: old, next: None },
                    Before { value: UnsafeCell::new(0), stamp: middle, next: Some(0) },
                ],
            });
            let writer = {
                let row = Arc::clone(&row);
                thread::spawn(move || {
                    for run in 0..2 {
                        // The first change of the window, as `save` makes it.
                        row.versions[1].value.with_mut(|v| unsafe { *v = 11 + run });
                        let mut latched = row.latch.lock();
                        row.newest.with_mut(|n| unsafe { *n = Some(1) });
                        latched.stamp = new;
                        drop(latched);
                        if run == 0 {
                            // As `undo_window` takes it back.
                            let mut latched = row.latch.lock();
                            row.versions[1].value.with_mut(|v| unsafe { *v = 0 });
                            row.newest.with_mut(|n| unsafe { *n = Some(0) });
                            latched.stamp = middle;
                        }
                    }
                })
            };
            let mut latched = Some(row.latch.lock());
            assert!(latched.as_ref().unwrap().stamp > old);
            let newest = row.newest.with(|n| unsafe { *n }).unwrap();
            let mut version = &row.versions[newest];
            let seen = loop {
                if version.stamp <= old {
                    break version.value.with(|v| unsafe { *v });
                }
                version = &row.versions[version.next.unwrap()];
                latched = None;
            };
            assert_eq!(seen, 10);
            drop(latched);
            writer.join().unwrap();
        });
    }
}
