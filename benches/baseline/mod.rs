//! The serial baselines: what a competent person writes by hand for one thread and one purpose.
//!
//! No log, no footprints, no schedule, no undo, no digest: only the rows in hash maps (hashbrown, with a hash function
//! made for integers), and the transactions one after the other, already decoded. They use the workloads' own row types,
//! requests and replies, and compute the whole reply, so that what they leave out is the engine's work and nothing of
//! the transaction's.
//!
//! Liberties that they take, as one would by hand: rows that are always found together are one row; rows that are only
//! ever appended are in a list; the queue of new orders is a queue; and a New-Order looks up all its items before it
//! writes anything, so that the one percent with an unused item needs no undo.

// Each bench uses one of them.
#![allow(dead_code)]

pub(crate) mod tpcc;
pub(crate) mod transfer;
pub(crate) mod ycsb;

use std::hash::{BuildHasherDefault, Hasher};

/// A map from keys that are one integer.
pub(crate) type Map<K, V> = hashbrown::HashMap<K, V, BuildHasherDefault<IntegerHasher>>;

/// Hashes one integer with one multiplication, of which it folds both halves.
#[derive(Clone, Copy, Default)]
pub(crate) struct IntegerHasher(u64);

impl Hasher for IntegerHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    #[inline]
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = (product as u64) ^ (product >> 64) as u64;
    }
}
