//! From the hash of a key to the number of its row.
//!
//! Open addressing with linear probing over one word per slot: 32 bits of the hash beside the row's number, so
//! that a look-up touches one line here and one at the row. Look-ups take no lock and wait for nobody. Changes
//! lock one of 64 shards. A shard that fills up is copied; the old copy stays allocated for those who are still
//! in it. Workers, who write nothing for that, are in no copy between two windows. Snapshots come at any time, and
//! pin the index while they look something up ([`Pins`]). So [`HashIndex::reclaim`], called between two windows,
//! waits for look-ups of snapshots, but not for snapshots.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crossbeam_utils::CachePadded;

use super::pins::Pins;
use super::slab::RowId;

const SHARD_BITS: u32 = 6;
const VACANT: u64 = 0;
/// A row was here: probing goes on, and a new row may take the slot. Row numbers are stored plus one, so no
/// row's slot has a zero upper half.
const REMOVED: u64 = 1;

const fn pack(row: RowId, hash: u64) -> u64 {
    ((row as u64 + 1) << 32) | (hash & 0xffff_ffff)
}

const fn unpack(slot: u64) -> Option<RowId> {
    match slot >> 32 {
        0 => None,
        n => Some(n as u32 - 1),
    }
}

/// A view of one copy of a shard's slots.
#[derive(Clone, Copy)]
struct Slots<'a> {
    mask: usize,
    slots: &'a [AtomicU64],
}

impl<'a> Slots<'a> {
    fn of(slots: &'a [AtomicU64]) -> Self {
        Self { mask: slots.len() - 1, slots }
    }

    /// Where probing starts. The bits of the tag decide, so a shard grows without looking at its rows.
    #[inline]
    const fn home(&self, hash: u64) -> usize {
        (hash as u32 as usize) & self.mask
    }

    /// Puts a slot into the first place that holds no row; only for the holder of the shard's lock.
    fn place(&self, slot: u64) -> bool {
        let mut at = self.home(slot);
        loop {
            let old = self.slots[at].load(Ordering::Relaxed);
            if unpack(old).is_none() {
                // Release: whoever finds the row here sees it initialized.
                self.slots[at].store(slot, Ordering::Release);
                return old == VACANT;
            }
            at = (at + 1) & self.mask;
        }
    }
}

/// Where a shard's slots are, and how many, in one word: a look-up passes by here, and all shards' words together
/// take eight lines. Slots are aligned to a line, which leaves six bits of the address for the capacity's logarithm.
struct Current(AtomicPtr<AtomicU64>);

const ALIGNMENT: usize = 64;

impl Current {
    fn tagged(copy: &Copy) -> *mut AtomicU64 {
        let bits = copy.slots().len().trailing_zeros() as usize;
        copy.start.as_ptr().map_addr(|address| address | bits)
    }

    fn publish(&self, copy: &Copy) {
        // Release pairs with the Acquire in `slots`: a new copy is seen filled.
        self.0.store(Self::tagged(copy), Ordering::Release);
    }

    #[inline]
    fn slots(&self) -> Slots<'_> {
        let tagged = self.0.load(Ordering::Acquire);
        let start = tagged.map_addr(|address| address & !(ALIGNMENT - 1));
        let capacity = 1usize << (tagged.addr() & (ALIGNMENT - 1));
        // SAFETY: `tagged` made the word from a copy of that address and length, and copies live until the index
        // is dropped or nobody is in them (`reclaim`).
        Slots::of(unsafe { std::slice::from_raw_parts(start, capacity) })
    }
}

/// One copy of a shard's slots, aligned to a line.
struct Copy {
    start: NonNull<AtomicU64>,
    capacity: usize,
}

// SAFETY: it owns its slots, which are atomics.
unsafe impl Send for Copy {}

impl Copy {
    fn layout(capacity: usize) -> Layout {
        let layout = Layout::array::<AtomicU64>(capacity).and_then(|layout| layout.align_to(ALIGNMENT));
        layout.expect("an index fits into memory")
    }

    fn new(capacity: usize) -> Self {
        let layout = Self::layout(capacity);
        // SAFETY: the layout has a size: a shard has at least sixteen slots.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(memory.cast()) else { handle_alloc_error(layout) };
        Self { start, capacity }
    }

    const fn bytes(&self) -> u64 {
        (self.capacity * size_of::<AtomicU64>()) as u64
    }

    fn slots(&self) -> &[AtomicU64] {
        // SAFETY: allocated with this capacity, and zero is a valid slot (`VACANT`).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.capacity) }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.capacity)) };
    }
}

#[derive(Default)]
struct Owner {
    /// Slots that are not vacant, removed ones included.
    used: usize,
    rows: usize,
    /// The current copy of the slots is the last; those before it may still have readers.
    copies: Vec<Copy>,
}

impl Owner {
    fn current(&self) -> &Copy {
        self.copies.last().expect("there is a current copy")
    }

    /// Copies the shard's rows to slots of which they take a sixth to a third. That makes twice as many slots of those that
    /// are full of rows. More would lie in the caches' way; with fewer, rows that take half of the slots, and come and go,
    /// would have them copied again soon.
    #[cold]
    fn grow(&mut self) {
        let copy = Copy::new(((self.rows + 1) * 3).next_power_of_two().max(16));
        for slot in self.current().slots() {
            let slot = slot.load(Ordering::Relaxed);
            if unpack(slot).is_some() {
                Slots::of(copy.slots()).place(slot);
            }
        }
        self.used = self.rows;
        self.copies.push(copy);
    }
}

/// See the module's documentation.
pub(crate) struct HashIndex {
    current: Box<[Current]>,
    owners: Box<[CachePadded<Mutex<Owner>>]>,
    /// Whether there are copies to give back.
    retired: AtomicBool,
    pins: Pins,
    /// Copies that were out of sight when the current generation of pins began.
    retired_before: Mutex<Vec<Copy>>,
    /// What the slots take, those of retired copies included.
    bytes: AtomicU64,
}

impl HashIndex {
    pub(crate) fn new() -> Self {
        let owner = |_| {
            let owner = Owner { copies: vec![Copy::new(16)], ..Owner::default() };
            CachePadded::new(Mutex::new(owner))
        };
        let owners: Box<[_]> = (0..1 << SHARD_BITS).map(owner).collect();
        let mut bytes = 0;
        let current = owners.iter().map(|owner| {
            let owner = owner.lock().expect("nobody else is here yet");
            bytes += owner.current().bytes();
            Current(AtomicPtr::new(Current::tagged(owner.current())))
        });
        Self {
            current: current.collect(),
            owners,
            retired: AtomicBool::new(false),
            pins: Pins::new(),
            retired_before: Mutex::default(),
            bytes: AtomicU64::new(bytes),
        }
    }

    #[inline]
    const fn shard(hash: u64) -> usize {
        (hash >> (64 - SHARD_BITS)) as usize
    }

    #[inline]
    fn slots(&self, hash: u64) -> Slots<'_> {
        self.current[Self::shard(hash)].slots()
    }

    /// Asks the cache for the slot where a look-up of `hash` will start.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        let slots = self.slots(hash);
        super::prefetch(slots.slots.as_ptr().wrapping_add(slots.home(hash)).cast());
    }

    /// What the index takes, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// [`find`](Self::find) for those who are not workers in a window.
    #[inline]
    pub(crate) fn find_pinned(&self, hash: u64, is_it: impl FnMut(RowId) -> bool) -> Option<RowId> {
        let _pinned = self.pins.pin();
        self.find(hash, is_it)
    }

    /// The first row whose hash agrees and for which `is_it` says yes. For workers in a window, and between windows.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut is_it: impl FnMut(RowId) -> bool) -> Option<RowId> {
        let slots = self.slots(hash);
        let mut at = slots.home(hash);
        loop {
            let slot = slots.slots[at].load(Ordering::Acquire);
            if slot == VACANT {
                return None;
            }
            if slot as u32 == hash as u32
                && let Some(row) = unpack(slot)
                && is_it(row)
            {
                return Some(row);
            }
            at = (at + 1) & slots.mask;
        }
    }

    fn own(&self, shard: usize) -> MutexGuard<'_, Owner> {
        self.owners[shard].lock().expect("no panic while an index changes")
    }

    /// Adds a row. The caller knows that its key is not there and that nobody else adds it now.
    pub(crate) fn insert(&self, hash: u64, row: RowId) {
        let shard = Self::shard(hash);
        let mut owner = self.own(shard);
        if (owner.used + 1) * 8 > owner.current().slots().len() * 5 {
            owner.grow();
            self.bytes.fetch_add(owner.current().bytes(), Ordering::Relaxed);
            self.current[shard].publish(owner.current());
            self.retired.store(true, Ordering::Relaxed);
        }
        let vacant = Slots::of(owner.current().slots()).place(pack(row, hash));
        owner.used += usize::from(vacant);
        owner.rows += 1;
    }

    /// Removes a row.
    ///
    /// # Panics
    /// When the row is not there: a bug.
    pub(crate) fn remove(&self, hash: u64, row: RowId) {
        let mut owner = self.own(Self::shard(hash));
        let slots = Slots::of(owner.current().slots());
        let target = pack(row, hash);
        let mut at = slots.home(hash);
        loop {
            let slot = slots.slots[at].load(Ordering::Relaxed);
            assert_ne!(slot, VACANT, "row {row} is not in its index");
            if slot == target {
                slots.slots[at].store(REMOVED, Ordering::Release);
                break;
            }
            at = (at + 1) & slots.mask;
        }
        owner.rows -= 1;
    }

    /// Frees the copies that nobody can be in any more; others later.
    ///
    /// # Safety
    /// No other thread may be in a method of the index but [`find_pinned`](Self::find_pinned).
    pub(crate) unsafe fn reclaim(&self) {
        if !self.retired.load(Ordering::Relaxed) {
            return;
        }
        let mut retired = self.retired_before.lock().expect("no panic while an index changes");
        if !self.pins.has_ended_before() {
            return;
        }
        self.free(&mut retired);
        for shard in 0..self.owners.len() {
            let mut owner = self.own(shard);
            let old = owner.copies.len() - 1;
            retired.extend(owner.copies.drain(..old));
        }
        self.pins.begin();
        if self.pins.has_ended_before() {
            self.free(&mut retired);
        }
        self.retired.store(!retired.is_empty(), Ordering::Relaxed);
    }

    fn free(&self, retired: &mut Vec<Copy>) {
        self.bytes.fetch_sub(retired.iter().map(Copy::bytes).sum(), Ordering::Relaxed);
        *retired = Vec::new();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use xxhash_rust::xxh3::xxh3_64_with_seed;

    use super::HashIndex;

    fn hash(i: u32) -> u64 {
        u64::from(i).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn insert_and_remove_many_rows_finds_exactly_the_rest() {
        let index = HashIndex::new();
        (0..50_000).for_each(|i| index.insert(hash(i), i));
        (0..50_000).filter(|i| i % 3 == 0).for_each(|i| index.remove(hash(i), i));
        for i in 0..60_000 {
            let found = index.find(hash(i), |row| row == i);
            assert_eq!(found, (i < 50_000 && i % 3 != 0).then_some(i));
        }
    }

    /// However many rows a shard has when it is copied, the slots are neither many more than rows need nor soon used up.
    #[test]
    fn copies_have_room_for_changes_and_not_much_more_than_rows_need() {
        let hash = |i: u32| xxh3_64_with_seed(&i.to_le_bytes(), 0);
        let slots = |index: &HashIndex| (0..64).map(|s| index.own(s).current().slots().len()).sum::<usize>();
        let copies = |index: &HashIndex| (0..64).map(|s| index.own(s).copies.len()).sum::<usize>();
        for rows in [50_000, 57_000, 64_000, 75_000, 96_000] {
            let index = HashIndex::new();
            (0..rows).for_each(|i| index.insert(hash(i), i));
            // Twice the slots of a shard that was 5/8 full.
            assert!(slots(&index) <= rows as usize * 16 / 5, "{} slots for {rows} rows", slots(&index));
            let before = copies(&index);
            for i in rows..6 * rows {
                index.remove(hash(i - rows), i - rows);
                index.insert(hash(i), i);
            }
            let shards = copies(&index) - before;
            assert!(shards <= 6 * 64, "{shards} shards of {rows} rows copied in {} changes", 5 * rows);
        }
    }

    #[test]
    fn insert_and_remove_one_key_for_ever_does_not_fill_the_index() {
        let index = HashIndex::new();
        for i in 0..100_000 {
            index.insert(hash(7), i);
            index.remove(hash(7), i);
        }
        assert_eq!(index.find(hash(7), |_| true), None);
        let largest = (0..64).map(|s| index.own(s).current().slots().len()).max();
        assert_eq!(largest, Some(16));
        // SAFETY: this thread is the only one here.
        unsafe { index.reclaim() };
        assert!((0..64).all(|s| index.own(s).copies.len() == 1));
        assert_eq!(index.find(hash(7), |_| true), None);
    }

    #[test]
    fn reclaim_under_look_ups_that_overlap_for_ever_frees_all_but_the_newest_copies() {
        let index = HashIndex::new();
        let mut pinned = index.pins.pin();
        let mut inserted = 0;
        for round in 1..12 {
            (inserted..1 << round).for_each(|i| index.insert(hash(i), i));
            inserted = 1 << round;
            let grown = index.bytes();
            for _ in 0..2 {
                // SAFETY: this thread is the only one, and looks nothing up now but by `find_pinned`.
                unsafe { index.reclaim() };
                let next = index.pins.pin();
                drop(std::mem::replace(&mut pinned, next));
            }
            // SAFETY: as above.
            unsafe { index.reclaim() };
            let current: u64 = (0..64).map(|s| index.own(s).current().bytes()).sum();
            assert_eq!(index.bytes(), current, "of {grown} bytes");
        }
        assert!((0..inserted).all(|i| index.find_pinned(hash(i), |row| row == i).is_some()));
    }

    #[test]
    fn find_pinned_while_an_index_grows_and_is_reclaimed_finds_every_row() {
        let index = HashIndex::new();
        let (inserted, done) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let inserted = inserted.load(Ordering::Acquire) as u32;
                        for i in (0..inserted).rev().take(64) {
                            assert_eq!(index.find_pinned(hash(i), |row| row == i), Some(i));
                        }
                    }
                });
            }
            for i in 0..200_000 {
                index.insert(hash(i), i);
                inserted.store(u64::from(i) + 1, Ordering::Release);
                // SAFETY: the others are in `find_pinned` at most.
                unsafe { index.reclaim() };
            }
            done.store(true, Ordering::Relaxed);
        });
        // SAFETY: this thread is the only one here.
        unsafe {
            index.reclaim();
            index.reclaim();
        }
        assert!((0..64).all(|s| index.own(s).copies.len() == 1));
    }

    #[test]
    fn find_while_others_insert_sees_every_row_inserted_before() {
        let index = HashIndex::new();
        (0..1000).for_each(|i| index.insert(hash(i), i));
        std::thread::scope(|scope| {
            for t in 1..3u32 {
                let index = &index;
                scope.spawn(move || (0..50_000).for_each(|i| index.insert(hash(t << 20 | i), t << 20 | i)));
            }
            for round in 0..200 {
                for i in 0..1000 {
                    assert_eq!(index.find(hash(i), |row| row == i), Some(i), "round {round}");
                }
            }
        });
        assert!((0..50_000).all(|i| index.find(hash(1 << 20 | i), |row| row == 1 << 20 | i).is_some()));
    }
}
