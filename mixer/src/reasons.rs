//! Why transactions wait: a window once more, with reasons instead of edges.
//!
//! A *wait* is a transaction's key on which an earlier transaction of the window conflicts with it: one for each such
//! key, on the earlier transaction that is the last to be done by the schedule (of the highest batch, and the earliest
//! of those). The *critical* wait of a transaction is the one that put it into its batch. Critical waits, followed from
//! a transaction of the last batch back to the first, are the window's critical path.
//!
//! [`Mixer`](crate::Mixer) keeps no reasons, since nobody asks for them while transactions wait to run; this finds them
//! for those who do.

use smallvec::SmallVec;

use crate::keys::{Key, Keys, NONE};
use crate::{Access, Declared, Mode};

/// One reason why a transaction does not run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Who waits: its index in the window.
    pub transaction: u32,
    /// For whom: the index of an earlier one.
    pub on: u32,
    /// On account of which element of the waiting transaction's footprint; `None` when one of the two may touch
    /// anything.
    pub access: Option<u32>,
    /// Whether the wait put the transaction into its batch.
    pub is_critical: bool,
}

/// The waits of a window. Reuse one for many windows: its buffers stay.
///
/// ```
/// use mixlog_mixer::{Access, Declared, KeyHash, Mode, Reasons};
///
/// let write = |keys: [u64; 2]| Declared::Keys(keys.map(|key| Access { key: KeyHash(key), mode: Mode::Write }));
/// let mut reasons = Reasons::default();
/// reasons.find([write([1, 2]), write([3, 4]), write([5, 2])]);
/// let wait = reasons.waits()[0];
/// assert_eq!((wait.transaction, wait.on, wait.access), (2, 0, Some(1)));
/// assert_eq!(reasons.batches(), 2);
/// ```
#[derive(Debug)]
pub struct Reasons {
    /// As the mixer uses it, but for three fields, which hold transactions: `current` the newest that touched the key,
    /// `join` the one of the current group's highest batch, `previous` the one of the previous group's. The levels
    /// leave out the transaction at hand.
    keys: Keys,
    waits: Vec<Wait>,
    /// By transaction: 1 + its batch, and the index of its critical wait or `NONE`.
    transactions: Vec<(u32, u32)>,
    /// The earliest transaction of the highest batch.
    last: Option<u32>,
    barrier: Option<u32>,
}

impl Default for Reasons {
    fn default() -> Self {
        Self { keys: Keys::new(), waits: Vec::new(), transactions: Vec::new(), last: None, barrier: None }
    }
}

/// A key of the transaction at hand on which it waits.
struct Found {
    slot: usize,
    access: u32,
    on: u32,
    /// 1 + the batch of `on`.
    level: u32,
}

impl Reasons {
    /// Finds the waits of a window: its transactions' footprints in log order.
    ///
    /// Cost: about three times that of [`Mixer::mix`](crate::Mixer::mix).
    pub fn find<W, I>(&mut self, window: W)
    where
        W: IntoIterator<Item = Declared<I>>,
        I: IntoIterator<Item = Access, IntoIter: ExactSizeIterator>,
    {
        self.keys.clear();
        self.waits.clear();
        self.transactions.clear();
        (self.last, self.barrier) = (None, None);
        for (transaction, declared) in (0u32..).zip(window) {
            match declared {
                Declared::Keys(accesses) => self.add(transaction, accesses.into_iter()),
                Declared::Unknown => {
                    self.set_batch(transaction, self.last);
                    self.barrier = Some(transaction);
                    self.keys.forget();
                }
            }
            if self.last.is_none_or(|last| self.batch(transaction) > self.batch(last)) {
                self.last = Some(transaction);
            }
        }
    }

    fn add(&mut self, transaction: u32, accesses: impl ExactSizeIterator<Item = Access>) {
        let mut touched: SmallVec<[usize; 64]> = SmallVec::new();
        let mut found: SmallVec<[Found; 16]> = SmallVec::new();
        self.keys.reserve(accesses.len());
        for (access, Access { key, mode }) in (0u32..).zip(accesses) {
            let slot = self.keys.slot(key);
            touched.push(slot);
            if touch(self.keys.at(slot), transaction, mode) {
                // The key's second access may conflict with later ones than the first did.
                found.retain(|earlier| earlier.slot != slot);
                let key = self.keys.at(slot);
                found.push(Found { slot, access, on: key.previous, level: key.previous_level });
            }
        }
        let level = found.iter().map(|found| found.level).max();
        match level {
            None => self.set_batch(transaction, self.barrier),
            Some(level) => {
                let first = self.waits.len() as u32;
                let critical = found.iter().position(|found| found.level == level).expect("the highest");
                self.transactions.push((level + 1, first + critical as u32));
                self.waits.extend(found.iter().zip(0..).map(|(found, i)| Wait {
                    transaction,
                    on: found.on,
                    access: Some(found.access),
                    is_critical: i == critical,
                }));
            }
        }
        let level = self.transactions[transaction as usize].0;
        for slot in touched {
            let key = self.keys.at(slot);
            if level > key.current_level {
                (key.current_level, key.join) = (level, transaction);
            }
        }
    }

    /// Puts a transaction that no key keeps waiting behind another one, if there is one.
    fn set_batch(&mut self, transaction: u32, on: Option<u32>) {
        let Some(on) = on else {
            self.transactions.push((1, NONE));
            return;
        };
        self.transactions.push((self.transactions[on as usize].0 + 1, self.waits.len() as u32));
        self.waits.push(Wait { transaction, on, access: None, is_critical: true });
    }

    /// All waits of the window, by transaction and then by access.
    #[must_use]
    pub fn waits(&self) -> &[Wait] {
        &self.waits
    }

    /// The batch of a transaction: what [`Schedule::batch`](crate::Schedule::batch) says, too.
    ///
    /// # Panics
    /// When the window held no such transaction.
    #[must_use]
    pub fn batch(&self, transaction: u32) -> u32 {
        self.transactions[transaction as usize].0 - 1
    }

    /// How many batches there are: what [`Schedule::batches`](crate::Schedule::batches) says, too.
    #[must_use]
    pub fn batches(&self) -> u32 {
        self.last.map_or(0, |last| self.batch(last) + 1)
    }

    /// The wait that put the transaction into its batch; `None` for those of the first batch.
    ///
    /// # Panics
    /// When the window held no such transaction.
    #[must_use]
    pub fn critical_wait(&self, transaction: u32) -> Option<&Wait> {
        self.waits.get(self.transactions[transaction as usize].1 as usize)
    }

    /// The waits of the critical path, the last one first: one fewer than there are batches.
    pub fn critical_path(&self) -> impl Iterator<Item = &Wait> {
        std::iter::successors(self.last.and_then(|last| self.critical_wait(last)), |wait| {
            self.critical_wait(wait.on)
        })
    }
}

/// Enters the transaction at a key; tells whether it waits there, for the previous group.
fn touch(key: &mut Key, transaction: u32, mode: Mode) -> bool {
    if key.current == NONE {
        key.current = transaction;
        key.set_mode(mode);
        return false;
    }
    let newest = std::mem::replace(&mut key.current, transaction);
    if newest == transaction {
        if mode == key.mode() || key.mode() == Mode::Write {
            return false;
        }
        // A read and a write, or a read and a merge, make a write, which the others of the group go before.
        key.set_mode(Mode::Write);
        if key.current_level == 0 {
            return false;
        }
    } else if mode != Mode::Write && mode == key.mode() {
        return key.previous_level > 0;
    } else {
        key.set_mode(mode);
    }
    (key.previous, key.previous_level) = (key.join, key.current_level);
    (key.join, key.current_level) = (NONE, 0);
    true
}
