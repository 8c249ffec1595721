//! From the hash of a key to the number of its row.
//!
//! Open addressing with linear probing over one word per slot: 32 bits of the hash beside the row's number, so
//! that a look-up touches one line here and one at the row. Look-ups take no lock and wait for nobody. Changes
//! lock one of 64 shards. A shard that fills up is copied; the old copy stays allocated for readers that are
//! still in it, until [`HashIndex::reclaim`] is called at a moment without readers.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crossbeam_utils::CachePadded;

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

struct Slots {
    mask: usize,
    slots: Box<[AtomicU64]>,
}

impl Slots {
    fn new(capacity: usize) -> Box<Self> {
        Box::new(Self { mask: capacity - 1, slots: (0..capacity).map(|_| AtomicU64::new(VACANT)).collect() })
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

struct Shard {
    current: AtomicPtr<Slots>,
    owner: Mutex<Owner>,
}

#[derive(Default)]
struct Owner {
    /// Slots that are not vacant, removed ones included.
    used: usize,
    rows: usize,
    /// The current copy of the slots is the last; those before it may still have readers.
    #[expect(clippy::vec_box, reason = "readers point at the copies, so they must not move")]
    copies: Vec<Box<Slots>>,
}

/// See the module's documentation.
pub(crate) struct HashIndex {
    shards: Box<[CachePadded<Shard>]>,
    /// Whether a shard has copies to give back.
    retired: AtomicBool,
}

impl HashIndex {
    pub(crate) fn new() -> Self {
        let shard = |_| {
            let slots = Slots::new(16);
            let current = AtomicPtr::new(ptr::from_ref(&*slots).cast_mut());
            let owner = Owner { copies: vec![slots], ..Owner::default() };
            CachePadded::new(Shard { current, owner: Mutex::new(owner) })
        };
        Self { shards: (0..1 << SHARD_BITS).map(shard).collect(), retired: AtomicBool::new(false) }
    }

    #[inline]
    fn shard(&self, hash: u64) -> &Shard {
        &self.shards[(hash >> (64 - SHARD_BITS)) as usize]
    }

    #[inline]
    fn slots(shard: &Shard) -> &Slots {
        // Acquire pairs with the store in `grow`: a new copy is seen filled.
        let current = shard.current.load(Ordering::Acquire);
        // SAFETY: points into one of `copies`, which live as long as the index.
        unsafe { &*current }
    }

    /// Asks the cache for the slot where a look-up of `hash` will start.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        let slots = Self::slots(self.shard(hash));
        super::prefetch(slots.slots.as_ptr().wrapping_add(slots.home(hash)).cast());
    }

    /// The first row whose hash agrees and for which `is_it` says yes.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut is_it: impl FnMut(RowId) -> bool) -> Option<RowId> {
        let slots = Self::slots(self.shard(hash));
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

    fn own<'a>(shard: &'a Shard) -> MutexGuard<'a, Owner> {
        shard.owner.lock().expect("no panic while an index changes")
    }

    /// Adds a row. The caller knows that its key is not there and that nobody else adds it now.
    pub(crate) fn insert(&self, hash: u64, row: RowId) {
        let shard = self.shard(hash);
        let mut owner = Self::own(shard);
        let mut slots = owner.copies.last().expect("there is a current copy");
        if (owner.used + 1) * 8 > slots.slots.len() * 5 {
            Self::grow(shard, &mut owner);
            self.retired.store(true, Ordering::Relaxed);
            slots = owner.copies.last().expect("there is a current copy");
        }
        let vacant = slots.place(pack(row, hash));
        owner.used += usize::from(vacant);
        owner.rows += 1;
    }

    /// Removes a row.
    ///
    /// # Panics
    /// When the row is not there: a bug.
    pub(crate) fn remove(&self, hash: u64, row: RowId) {
        let shard = self.shard(hash);
        let mut owner = Self::own(shard);
        let slots = owner.copies.last().expect("there is a current copy");
        let target = pack(row, hash);
        let mut at = slots.home(hash);
        loop {
            let slot = slots.slots[at].load(Ordering::Relaxed);
            assert_ne!(slot, VACANT, "row {row} is not in its index");
            if slot == target {
                slots.slots[at].store(REMOVED, Ordering::Release);
                owner.rows -= 1;
                return;
            }
            at = (at + 1) & slots.mask;
        }
    }

    /// Frees the copies that only readers of the past could be in.
    ///
    /// # Safety
    /// No other thread may be in a method of the index, and what a look-up began before must have ended.
    pub(crate) unsafe fn reclaim(&self) {
        if self.retired.swap(false, Ordering::Relaxed) {
            for shard in &self.shards {
                let mut owner = Self::own(shard);
                let old = owner.copies.len() - 1;
                owner.copies.drain(..old);
            }
        }
    }

    /// Copies the shard's rows to a table where they take a quarter to a half of the slots.
    #[cold]
    fn grow(shard: &Shard, owner: &mut Owner) {
        let capacity = ((owner.rows + 1) * 4).next_power_of_two().max(16);
        let copy = Slots::new(capacity);
        let old = owner.copies.last().expect("there is a current copy");
        for slot in &old.slots {
            let slot = slot.load(Ordering::Relaxed);
            if unpack(slot).is_some() {
                copy.place(slot);
            }
        }
        owner.used = owner.rows;
        shard.current.store(ptr::from_ref(&*copy).cast_mut(), Ordering::Release);
        owner.copies.push(copy);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
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

    #[test]
    fn insert_and_remove_one_key_for_ever_does_not_fill_the_index() {
        let index = HashIndex::new();
        for i in 0..100_000 {
            index.insert(hash(7), i);
            index.remove(hash(7), i);
        }
        assert_eq!(index.find(hash(7), |_| true), None);
        let largest = index.shards.iter().map(|s| HashIndex::slots(s).slots.len()).max();
        assert_eq!(largest, Some(16));
        // SAFETY: this thread is the only one here.
        unsafe { index.reclaim() };
        assert!(index.shards.iter().all(|s| HashIndex::own(s).copies.len() == 1));
        assert_eq!(index.find(hash(7), |_| true), None);
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
