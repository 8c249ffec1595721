//! One pass over the window.

use smallvec::SmallVec;

use crate::keys::{Key, Keys, MemberId, NONE};
use crate::{Access, Declared, KeyHash, Mode, NodeId, Schedule};

/// From how many members on a group gets a join in front of the next group. Below it, plain edges are cheaper.
const JOIN_FROM: u32 = 4;

/// Makes schedules. Keep one per thread that mixes: its table and buffers are reused.
///
/// Cost: about 10 ns per key while the window's keys fit the cache; no allocation once warm.
#[derive(Debug)]
pub struct Mixer {
    keys: Keys,
    /// The slots of the transaction at hand, whose levels rise when its batch is known.
    touched: SmallVec<[usize; 64]>,
    /// The newest transaction with an unknown footprint.
    barrier: Option<u32>,
}

impl Default for Mixer {
    fn default() -> Self {
        Self::new()
    }
}

impl Mixer {
    /// A mixer with empty buffers.
    #[must_use]
    pub fn new() -> Self {
        Self { keys: Keys::new(), touched: SmallVec::new(), barrier: None }
    }

    /// Schedules a window: its transactions' footprints in log order, exactly `schedule`'s new contents.
    ///
    /// # Panics
    /// When the window holds 2^31 transactions or more.
    pub fn mix<W, I>(&mut self, window: W, schedule: &mut Schedule)
    where
        W: IntoIterator<Item = Declared<I>, IntoIter: ExactSizeIterator>,
        I: IntoIterator<Item = Access, IntoIter: ExactSizeIterator>,
    {
        let window = window.into_iter();
        let count = u32::try_from(window.len()).ok().filter(|&n| n < 1 << 31).expect("a window is small");
        schedule.reset(count);
        self.keys.clear();
        self.barrier = None;
        for (transaction, declared) in (0..count).zip(window) {
            match declared {
                Declared::Keys(accesses) => self.add(transaction, accesses.into_iter(), schedule),
                Declared::Unknown => self.add_barrier(transaction, schedule),
            }
        }
    }

    /// Whether two or more transactions of the window just mixed merge into `key`, and none does anything else to it.
    /// `false` also where a transaction may touch anything.
    ///
    /// Cost: a look-up in the table that the window was mixed with.
    #[must_use]
    pub fn merged_by_several(&self, key: KeyHash) -> bool {
        let several = |key: &Key| {
            key.mode() == Mode::Merge
                && key.previous == NONE
                && self.keys.members[key.current as usize].count > 1
        };
        self.barrier.is_none() && self.keys.find(key).is_some_and(several)
    }

    /// Everything before goes first, everything after waits. Keys seen before are forgotten: whoever touches
    /// them next is behind the barrier anyway.
    fn add_barrier(&mut self, transaction: u32, schedule: &mut Schedule) {
        let first = self.barrier.unwrap_or(0);
        for earlier in first..transaction {
            if !schedule.has_successor(earlier) {
                schedule.add_edge(earlier, transaction);
            }
        }
        schedule.set_batch(transaction, schedule.batches());
        self.barrier = Some(transaction);
        self.keys.forget();
    }

    fn add(
        &mut self,
        transaction: u32,
        accesses: impl ExactSizeIterator<Item = Access>,
        schedule: &mut Schedule,
    ) {
        let mut batch = self.barrier.map_or(0, |barrier| schedule.batch(barrier) + 1);
        self.touched.clear();
        self.keys.reserve(accesses.len());
        for access in accesses {
            let slot = self.keys.slot(access.key);
            batch = batch.max(self.touch(slot, transaction, access.mode, schedule));
            self.touched.push(slot);
        }
        if let Some(barrier) = self.barrier
            && schedule.waits_for()[transaction as usize] == 0
        {
            schedule.add_edge(barrier, transaction);
        }
        for &slot in &self.touched {
            let key = self.keys.at(slot);
            key.current_level = key.current_level.max(batch + 1);
        }
        schedule.set_batch(transaction, batch);
    }

    /// Enters the transaction at a key, adds its edges, and returns the lowest batch that the key allows.
    #[inline]
    fn touch(&mut self, slot: usize, transaction: u32, mode: Mode, schedule: &mut Schedule) -> u32 {
        let key = *self.keys.at(slot);
        if key.current == NONE {
            let member = self.keys.add_member(transaction, NONE);
            let key = self.keys.at(slot);
            key.current = member;
            key.set_mode(mode);
            return 0;
        }
        let newest = self.keys.members[key.current as usize];
        if newest.transaction == transaction {
            return self.touch_again(slot, newest.next, mode, schedule);
        }
        if mode != Mode::Write && mode == key.mode() {
            self.join_group(slot, transaction, schedule);
            return key.previous_level;
        }
        self.edges_from(key.current, transaction, schedule);
        let member = self.keys.add_member(transaction, NONE);
        let key = self.keys.at(slot);
        key.previous = key.current;
        key.previous_level = key.current_level;
        key.current = member;
        key.current_level = 0;
        key.join = NONE;
        key.set_mode(mode);
        key.previous_level
    }

    /// The key's second access by one transaction. A read and a write, or a read and a merge, make a write.
    fn touch_again(&mut self, slot: usize, others: MemberId, mode: Mode, schedule: &mut Schedule) -> u32 {
        let key = *self.keys.at(slot);
        if key.mode() == mode || key.mode() == Mode::Write {
            return 0;
        }
        let transaction = self.keys.members[key.current as usize].transaction;
        if others == NONE {
            self.keys.at(slot).set_mode(Mode::Write);
            return 0;
        }
        self.edges_from(others, transaction, schedule);
        let member = self.keys.add_member(transaction, NONE);
        let key = self.keys.at(slot);
        key.previous = others;
        key.previous_level = key.current_level;
        key.current = member;
        key.current_level = 0;
        key.join = NONE;
        key.set_mode(Mode::Write);
        key.previous_level
    }

    /// Adds the transaction to the key's current group, behind the previous one.
    fn join_group(&mut self, slot: usize, transaction: u32, schedule: &mut Schedule) {
        let key = *self.keys.at(slot);
        if key.previous != NONE {
            if self.keys.members[key.previous as usize].count < JOIN_FROM {
                self.edges_from(key.previous, transaction, schedule);
            } else {
                let join = if key.join == NONE { schedule.add_join() } else { key.join };
                if key.join == NONE {
                    self.edges_from(key.previous, join, schedule);
                    self.keys.at(slot).join = join;
                }
                schedule.add_edge(join, transaction);
            }
        }
        let member = self.keys.add_member(transaction, key.current);
        self.keys.at(slot).current = member;
    }

    fn edges_from(&self, mut member: MemberId, to: NodeId, schedule: &mut Schedule) {
        while member != NONE {
            let m = self.keys.members[member as usize];
            if m.transaction != to {
                schedule.add_edge(m.transaction, to);
            }
            member = m.next;
        }
    }
}
