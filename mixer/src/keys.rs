//! The table of the keys that a window touches, and who touched them last.

use crate::{KeyHash, Mode};

/// An index into [`Keys::members`], or `NONE`.
pub(crate) type MemberId = u32;
pub(crate) const NONE: u32 = u32::MAX;

/// What the mixer remembers of a key: the *group* of its newest transactions that do not conflict with each
/// other (one writer, or readers, or merges), and the group before it. Earlier ones are behind those two in
/// every order, so they can be forgotten.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    hash: u64,
    /// The generation in which this slot was filled, times 4, plus the mode of the current group. One word, so
    /// that a slot fills half a cache line.
    stamp: u32,
    /// Newest member of the current group.
    pub(crate) current: MemberId,
    /// Newest member of the group before, `NONE` when there is none.
    pub(crate) previous: MemberId,
    /// The join that all but the first member of the current group wait for; `NONE` until it is worth one.
    pub(crate) join: u32,
    /// 1 + the highest batch of the current group's members.
    pub(crate) current_level: u32,
    /// 1 + the highest batch of the previous group's members; 0 when there is none.
    pub(crate) previous_level: u32,
}

impl Key {
    pub(crate) const fn mode(&self) -> Mode {
        match self.stamp & 3 {
            0 => Mode::Read,
            1 => Mode::Write,
            _ => Mode::Merge,
        }
    }

    pub(crate) const fn set_mode(&mut self, mode: Mode) {
        self.stamp = (self.stamp & !3) | mode as u32;
    }
}

/// A transaction in a group, linked to the one that joined before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub(crate) transaction: u32,
    pub(crate) next: MemberId,
    /// How many members the group has up to this one.
    pub(crate) count: u32,
}

/// Open addressing, linear probing, never cleared: a slot of an older generation counts as empty.
#[derive(Debug)]
pub(crate) struct Keys {
    slots: Vec<Key>,
    /// How many of the slots are in use: a power of two. A window of many keys must not leave the next ones with a
    /// table that does not fit the cache.
    len: usize,
    generation: u32,
    used: usize,
    pub(crate) members: Vec<Member>,
}

const SMALLEST: usize = 1024;

const VACANT: Key =
    Key { hash: 0, stamp: 0, current: NONE, previous: NONE, join: NONE, current_level: 0, previous_level: 0 };

impl Keys {
    pub(crate) fn new() -> Self {
        Self { slots: vec![VACANT; SMALLEST], len: SMALLEST, generation: 1, used: 0, members: Vec::new() }
    }

    /// Forgets all keys, and expects about as many as there were.
    pub(crate) fn clear(&mut self) {
        self.members.clear();
        self.len = (self.used * 4).next_power_of_two().clamp(SMALLEST, self.slots.len());
        self.forget();
    }

    /// Forgets all keys, but leaves the members that were handed out.
    pub(crate) fn forget(&mut self) {
        self.used = 0;
        self.generation += 1;
        if self.generation == 1 << 30 {
            self.slots.fill(VACANT);
            self.generation = 1;
        }
    }

    pub(crate) fn add_member(&mut self, transaction: u32, next: MemberId) -> MemberId {
        let count = if next == NONE { 1 } else { self.members[next as usize].count + 1 };
        self.members.push(Member { transaction, next, count });
        self.members.len() as u32 - 1
    }

    /// Makes room for `count` more keys: slots stay where they are until then.
    #[inline]
    pub(crate) fn reserve(&mut self, count: usize) {
        while (self.used + count) * 2 > self.len {
            self.grow();
        }
    }

    /// The slot of the key; a key met for the first time gets one with `current == NONE`. Needs
    /// [`reserve`](Self::reserve) before.
    #[inline]
    pub(crate) fn slot(&mut self, key: KeyHash) -> usize {
        let mask = self.len - 1;
        let mut at = Self::home(key.0) & mask;
        loop {
            let slot = &mut self.slots[at];
            if slot.stamp >> 2 != self.generation {
                *slot = Key { hash: key.0, stamp: self.generation << 2, ..VACANT };
                self.used += 1;
                return at;
            }
            if slot.hash == key.0 {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    /// What is remembered of a key, if the window touched it.
    #[inline]
    pub(crate) fn find(&self, key: KeyHash) -> Option<&Key> {
        let mask = self.len - 1;
        let mut at = Self::home(key.0) & mask;
        loop {
            let slot = &self.slots[at];
            if slot.stamp >> 2 != self.generation {
                return None;
            }
            if slot.hash == key.0 {
                return Some(slot);
            }
            at = (at + 1) & mask;
        }
    }

    #[inline]
    pub(crate) fn at(&mut self, slot: usize) -> &mut Key {
        &mut self.slots[slot]
    }

    /// Hashes come well mixed, but a caller may hash integers to themselves: one multiplication spreads those.
    const fn home(hash: u64) -> usize {
        (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24) as usize
    }

    #[cold]
    fn grow(&mut self) {
        let current = |key: &&Key| key.stamp >> 2 == self.generation;
        let keys: Vec<Key> = self.slots[..self.len].iter().filter(current).copied().collect();
        let used = self.used;
        // From here on the slots count as empty.
        self.forget();
        self.used = used;
        self.len *= 2;
        if self.slots.len() < self.len {
            self.slots.resize(self.len, VACANT);
        }
        let mask = self.len - 1;
        for key in keys {
            let mut at = Self::home(key.hash) & mask;
            while self.slots[at].stamp >> 2 == self.generation {
                at = (at + 1) & mask;
            }
            self.slots[at] = Key { stamp: (self.generation << 2) | (key.stamp & 3), ..key };
        }
    }
}
