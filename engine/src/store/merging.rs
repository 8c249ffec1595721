//! Merges that are noted first and made later, beside those of other transactions.
#![allow(unsafe_code)]

use std::any::Any;

use mixlog_log::Position;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::{Stamp, Store, TableStore, Worker};
use crate::bounded::Counter;
use crate::codec::Codec;
use crate::merge::Merge;
use crate::panics::{Payload, caught};
use crate::store::row::Version;
use crate::table::{Key, Table};

/// A merge into one row.
pub(crate) struct Merging<K, V: Merge, C> {
    pub(crate) table: Table<K, V, C>,
    /// The table's number.
    pub(crate) number: u16,
    pub(crate) key: K,
    pub(crate) key_hash: u64,
    pub(crate) delta: V::Delta,
}

/// A [`Merging`] without its types.
pub(crate) trait AnyMerging: Send + Sync {
    fn table(&self) -> &'static str;
    /// The table's number, and the hash of the key.
    fn place(&self) -> (u16, u64);
    fn is_of(&self, table: u16, key_hash: u64) -> bool {
        self.place() == (table, key_hash)
    }
    /// The key of the row, if that is one of this table.
    fn key_in(&self, table: u16) -> Option<&dyn Any>;
    /// Whether the row takes it. Does not depend on which of the merges beside it are made. `beside`: whether others
    /// may be making some now.
    fn is_accepted(&self, store: &Store, beside: bool) -> bool;
    /// Does what `other` would do as well, which is a merge into the same row; gives it back if the operator cannot.
    fn combine(&mut self, other: Box<dyn AnyMerging>) -> Option<Box<dyn AnyMerging>>;
    /// The same merge once more.
    fn boxed(&self) -> Box<dyn AnyMerging>;
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
    /// Makes it in a copy, to see whether the operator panics.
    fn try_out(&self, store: &Store, position: Position) -> Result<(), Payload>;
    /// Its table's number, and a hash of row and delta.
    fn effect(&self, scratch: &mut Vec<u8>) -> (u16, u128);
    /// Makes it. A panic of the operator leaves the row as it may be: the window is to be undone.
    ///
    /// # Safety
    /// The schedule keeps all away from the row who do anything but merge, in the window that starts at `window`;
    /// `me` is the stamp of the transaction at `position`.
    unsafe fn make(
        &self,
        store: &Store,
        worker: &mut Worker,
        window: Stamp,
        me: Stamp,
        position: Position,
    ) -> Result<(), Payload>;
}

/// Whether a row takes merges; `beside`: others may be merging into it now.
pub(crate) fn is_accepted<K: Key, V: Merge, C: Codec<K> + Codec<V>>(
    table: &TableStore<K, V, C>,
    key: &K,
    key_hash: u64,
    beside: bool,
) -> bool {
    let Some(id) = table.find(key, key_hash) else { return V::accepts(None) };
    let _latched = beside.then(|| table.row(id).latch.lock());
    // SAFETY: others merge under the latch, or not before the window is executed, and the schedule keeps all else away.
    V::accepts(unsafe { table.row(id).value() }.as_ref())
}

impl<K: Key, V: Merge, C: Codec<K> + Codec<V>> AnyMerging for Merging<K, V, C> {
    fn table(&self) -> &'static str {
        self.table.name()
    }

    fn place(&self) -> (u16, u64) {
        (self.number, self.key_hash)
    }

    fn key_in(&self, table: u16) -> Option<&dyn Any> {
        (self.number == table).then_some(&self.key)
    }

    fn is_accepted(&self, store: &Store, beside: bool) -> bool {
        is_accepted(store.table(&self.table), &self.key, self.key_hash, beside)
    }

    fn combine(&mut self, other: Box<dyn AnyMerging>) -> Option<Box<dyn AnyMerging>> {
        let other: Box<Self> = other.into_any().downcast().expect("a table's number goes with its types");
        // Of two keys with one hash one is kept apart.
        if self.key != other.key || !V::combine(&mut self.delta, &other.delta) {
            return Some(other);
        }
        None
    }

    fn boxed(&self) -> Box<dyn AnyMerging> {
        let Self { table, number, key, key_hash, delta } = self;
        let (key, delta) = (key.clone(), delta.clone());
        Box::new(Self { table: *table, number: *number, key, key_hash: *key_hash, delta })
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    fn try_out(&self, store: &Store, position: Position) -> Result<(), Payload> {
        let table = store.table(&self.table);
        caught(|| {
            let mut copy = table.find(&self.key, self.key_hash).and_then(|id| {
                let _latched = table.row(id).latch.lock();
                // SAFETY: as in `is_accepted`.
                unsafe { table.row(id).value() }.clone()
            });
            V::merge(&mut copy, self.delta.clone(), position);
        })
    }

    fn effect(&self, scratch: &mut Vec<u8>) -> (u16, u128) {
        scratch.clear();
        crate::codec::encode(&self.delta, scratch);
        (self.number, xxh3_128_with_seed(scratch, self.key_hash))
    }

    unsafe fn make(
        &self,
        store: &Store,
        worker: &mut Worker,
        window: Stamp,
        me: Stamp,
        position: Position,
    ) -> Result<(), Payload> {
        let table = store.table(&self.table);
        // SAFETY: the caller's promise.
        caught(|| unsafe {
            let merge = |row: &mut Option<V>| V::merge(row, self.delta.clone(), position);
            table.merge(worker, &self.key, self.key_hash, window, me, merge);
        })
    }
}

impl<K: Key, V: Counter, C: Codec<K> + Codec<V>> Merging<K, V, C> {
    /// What the row holds, with some of the merges beside this one made; `None` if it does not accept any. `beside`:
    /// others may be making some now.
    pub(crate) fn value(&self, store: &Store, beside: bool) -> Option<i64> {
        let table = store.table(&self.table);
        let Some(id) = table.find(&self.key, self.key_hash) else {
            return V::accepts(None).then(|| V::value(None));
        };
        let _latched = beside.then(|| table.row(id).latch.lock());
        // SAFETY: as in `is_accepted`.
        let row = unsafe { table.row(id).value() }.as_ref();
        V::accepts(row).then(|| V::value(row))
    }
}

impl<K: Key, V: crate::table::Value, C: Codec<K> + Codec<V>> TableStore<K, V, C> {
    /// Changes a row that others may be merging into at the same time.
    ///
    /// # Safety
    /// As for [`AnyMerging::make`].
    unsafe fn merge(
        &self,
        worker: &mut Worker,
        key: &K,
        key_hash: u64,
        window: Stamp,
        me: Stamp,
        merge: impl FnOnce(&mut Option<V>),
    ) {
        let id = self.find(key, key_hash).unwrap_or_else(|| {
            // Two may find it missing: one makes it.
            let shard = &self.creating[key_hash as usize % self.creating.len()];
            let _creating = shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            self.find(key, key_hash).unwrap_or_else(|| {
                let (unit, granule) = self.unit_and_granule(key, key_hash);
                self.create(worker, key.clone(), key_hash, unit, granule)
            })
        });
        let row = self.row(id);
        let mut latched = row.latch.lock();
        if latched.stamp < window {
            // SAFETY: under the latch, which all take who may change the value now.
            let (value, next) = unsafe { (row.value().clone(), row.chain()) };
            let version = self.keep_version(worker, Version { row: id, stamp: latched.stamp, next, value });
            // SAFETY: under the latch.
            unsafe { row.set_chain(version.as_ptr()) };
        }
        latched.stamp = latched.stamp.max(me);
        // SAFETY: under the latch, and snapshots look at no value whose stamp lies in the window.
        merge(unsafe { row.value_mut() });
    }
}
