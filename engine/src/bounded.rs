//! Bounded counters: adds that must not take a row below a floor, and need no order where all of them fit.
//!
//! Stock, seats, balances, quotas: many transactions take a little from one row, and each must hear whether there was
//! enough. That answer depends on the order, so such a row is usually written by one transaction after another. Yet
//! while there is plenty, every order gives the same answers. That is O'Neil's escrow method (TODS 11(4), 1986).
//! There, a transaction reserves what it may take while others hold reservations of their own, and is told no when the
//! worst case of all reservations would not fit. Here the answer must be that of the log's order, whatever the
//! threads: so the worst case decides only who waits for whom, never what is answered.
//!
//! 1. *Declare.* A footprint names what will be added at most ([`Footprint::add_bounded`]), as a [`Bounded`] access.
//! 2. *Decide*, when the window is mixed ([`Escrow::decide`]). The *swing* of a key is the sum of all amounts that the
//!    window declares on it: no order of any of its adds takes the row further from where it started. If what the row
//!    lately held is far enough from every floor and from overflow, the accesses become merges, which have no order;
//!    otherwise they are writes, which have.
//! 3. *Check*, at execution. What the row held lately is a guess. An unordered add looks at what it holds now, which
//!    is what it would hold at the transaction's turn, give or take the swing. If that is certain to fit, it fits at
//!    the transaction's turn, and the add is made with the transaction's other merges. If it is not, the guess was
//!    wrong: the guard stops the transaction, and the window is replayed one by one.

use std::any::Any;
use std::sync::{RwLock, RwLockWriteGuard};

use hashbrown::HashTable;
use mixlog_mixer::Mode;

use crate::codec::Codec;
use crate::footprint::{Access, Declarations, Footprint, NOWHERE};
use crate::merge::{Merge, Sum};
use crate::store::{AnyTable, RowId, Stamp, Store, TableStore};
use crate::table::{Conflicts, Key, Table};
use crate::window::{CHUNK, Chunk, Window};

/// A row that is a number, and whose merges add to it: what [`Tx::add_bounded`](crate::Tx::add_bounded) works on.
///
/// The law, besides those of [`Merge`]: merging `delta` into a row makes its value greater by `delta`, as long as
/// that does not overflow. An operator that breaks it makes replicas differ.
#[diagnostic::on_unimplemented(
    message = "rows of type `{Self}` cannot be added to with a bound",
    note = "such rows are `Sum`, or a type of your own that implements `Merge<Delta = i64>` and `Counter`"
)]
pub trait Counter: Merge<Delta = i64> {
    /// The number that the row stands for, or its absence. Does not panic.
    fn value(row: Option<&Self>) -> i64;
}

impl Counter for Sum {
    fn value(row: Option<&Self>) -> i64 {
        row.map_or(0, |sum| sum.0)
    }
}

/// Whether an add leaves the value at or above the floor, and does not overflow.
pub(crate) fn may_add(value: i64, delta: i64, floor: i64) -> bool {
    value.checked_add(delta).is_some_and(|sum| sum >= floor)
}

/// A declared add.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounded {
    /// Which of the chunk's accesses it is: a write until decided otherwise.
    pub(crate) access: u32,
    /// That access's key.
    pub(crate) key: u64,
    pub(crate) delta: i64,
    floor: i64,
    /// What a row of the table held at a stamp.
    value_at: fn(&dyn AnyTable, RowId, Stamp) -> i64,
    /// By how much the window's adds may move the row, once decided that they have no order.
    pub(crate) swing: i128,
    /// Which of the window's keys it is, while that is decided.
    number: u32,
}

impl Bounded {
    /// The same for an access that stands elsewhere now.
    pub(crate) const fn moved_to(self, access: u32) -> Self {
        Self { access, ..self }
    }
}

impl Footprint<'_> {
    /// The procedure may add `delta` to the row of `key` with [`Tx::add_bounded`](crate::Tx::add_bounded), or anything
    /// between 0 and `delta`, and does nothing else with it: one that also reads the row declares a
    /// [`write`](Self::write). One that adds to a row several times declares each add.
    ///
    /// Transactions that do so do not wait for each other as long as the row is far enough from `floor` for all of
    /// them, and wait for each other only if they touch the same row when it is not. In a window in which another
    /// transaction declares a plain write or merge of the row they wait, too: how much that one changes is not known.
    /// In a [`grouped`](Table::grouped) table it is a write of the granule.
    ///
    /// A `floor` other than the one used costs speed at most, as everything in a footprint.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn add_bounded<K: Key, V: Counter, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: &K,
        delta: i64,
        floor: i64,
    ) -> &mut Self {
        let store = self.store().table(table);
        let key_hash = store.key_hash(key);
        self.access(store, key, key_hash, NOWHERE, Mode::Write);
        if !matches!(store.conflicts, Conflicts::Grouped { .. }) && !store.is_indexed() {
            let access = self.declarations.accesses.len() as u32 - 1;
            let value_at = value_at::<K, V, C>;
            let bounded = Bounded { access, key: key_hash, delta, floor, value_at, swing: 0, number: 0 };
            self.declarations.bounded.push(bounded);
        }
        self
    }
}

fn value_at<K: Key, V: Counter, C: Codec<K> + Codec<V>>(table: &dyn AnyTable, row: RowId, at: Stamp) -> i64 {
    let table: &dyn Any = table;
    let table: &TableStore<K, V, C> = table.downcast_ref().expect("a table's number goes with its types");
    let copy = if row == NOWHERE { None } else { table.copy_at(row, at) };
    V::value(copy.map(|(_, _, value)| value).as_ref())
}

/// How many times the swing the row must be away from a floor when the window is mixed. Once is what the check at
/// execution asks for; the rest is for what the window at hand does to the row meanwhile. More orders earlier than
/// need be, less has more windows replayed.
const MARGIN: i128 = 4;

/// What a window declares on one key.
#[derive(Debug)]
struct Declared {
    key: u64,
    /// The newest transaction that adds, and whether it is not the only one.
    transaction: u32,
    several: bool,
    swing: i128,
    floor: i64,
    table: u16,
    row: RowId,
    value_at: fn(&dyn AnyTable, RowId, Stamp) -> i64,
    /// Whether transactions change the row by unknown amounts.
    changed: bool,
    /// Whether transactions read the row.
    read: bool,
    unordered: bool,
}

/// Decides which adds of a window have no order. Reused from window to window.
#[derive(Debug, Default)]
pub(crate) struct Escrow {
    keys: Vec<Declared>,
    /// Where a key stands among them.
    numbers: HashTable<u32>,
    /// Adds declared by the window, and how many of them have no order.
    pub(crate) adds: u64,
    pub(crate) unordered: u64,
}

impl Escrow {
    /// Decides for a window that is prepared and not mixed yet, by what the rows held at `past`, a stamp that can be
    /// read. The decision stands in the modes of the accesses.
    pub(crate) fn decide(&mut self, window: &Window, store: &Store, past: Stamp) {
        (self.adds, self.unordered) = (0, 0);
        let chunks = &window.chunks[..window.chunk_count() as usize];
        let nothing = |chunk: &RwLock<Chunk>| {
            chunk.read().expect("no panic with a chunk").declarations.bounded.is_empty()
        };
        if chunks.iter().all(nothing) {
            return;
        }
        let mut chunks: Vec<_> =
            chunks.iter().map(|chunk| chunk.write().expect("no panic with a chunk")).collect();
        self.add_up(&mut chunks);
        self.note_others(&chunks);
        for key in &mut self.keys {
            // A key that one transaction adds to has no order to lose.
            key.unordered = key.several && !key.changed && {
                let value = i128::from((key.value_at)(store.any(key.table), key.row, past));
                fits(value, key.swing * MARGIN, key.floor)
            };
        }
        for chunk in &mut chunks {
            self.apply(chunk);
        }
    }

    fn add_up(&mut self, chunks: &mut [RwLockWriteGuard<'_, Chunk>]) {
        self.numbers.clear();
        self.keys.clear();
        for (number, chunk) in (0u32..).zip(chunks) {
            let Chunk { transactions, declarations, .. } = &mut **chunk;
            let mut index = 0;
            for bounded in &mut declarations.bounded {
                while transactions[index].accesses_end <= bounded.access {
                    index += 1;
                }
                let transaction = number * CHUNK + index as u32;
                let Access { table, row, .. } = declarations.accesses[bounded.access as usize];
                let keys = &mut self.keys;
                let known = self.numbers.entry(
                    bounded.key,
                    |&number| keys[number as usize].key == bounded.key,
                    |&number| keys[number as usize].key,
                );
                bounded.number = *known.or_insert(keys.len() as u32).get();
                if bounded.number == keys.len() as u32 {
                    keys.push(Declared {
                        key: bounded.key,
                        transaction,
                        several: false,
                        swing: 0,
                        floor: i64::MIN,
                        table,
                        row,
                        value_at: bounded.value_at,
                        changed: false,
                        read: false,
                        unordered: false,
                    });
                }
                let key = &mut keys[bounded.number as usize];
                key.several |= key.transaction != transaction;
                key.transaction = transaction;
                key.swing += i128::from(bounded.delta).abs();
                key.floor = key.floor.max(bounded.floor);
                self.adds += 1;
            }
        }
    }

    fn note_others(&mut self, chunks: &[RwLockWriteGuard<'_, Chunk>]) {
        for chunk in chunks {
            let mut bounded = chunk.declarations.bounded.iter().map(|bounded| bounded.access).peekable();
            for (number, access) in (0u32..).zip(&chunk.declarations.accesses) {
                if bounded.next_if_eq(&number).is_some() {
                    continue;
                }
                let same = |&number: &u32| self.keys[number as usize].key == access.key;
                if let Some(&number) = self.numbers.find(access.key, same) {
                    let key = &mut self.keys[number as usize];
                    key.read |= access.mode == Mode::Read;
                    key.changed |= access.mode != Mode::Read;
                }
            }
        }
    }

    fn apply(&mut self, chunk: &mut Chunk) {
        let Declarations { accesses, bounded, .. } = &mut chunk.declarations;
        let mut index = 0;
        for bounded in bounded {
            let key = &self.keys[bounded.number as usize];
            if !key.unordered {
                continue;
            }
            while chunk.transactions[index].accesses_end <= bounded.access {
                index += 1;
            }
            // A transaction that reads the row as well must see its own adds in it.
            let reads = |access: &Access| access.key == bounded.key && access.mode == Mode::Read;
            let start = if index == 0 { 0 } else { chunk.transactions[index - 1].accesses_end as usize };
            let end = chunk.transactions[index].accesses_end as usize;
            if !(key.read && accesses[start..end].iter().any(reads)) {
                accesses[bounded.access as usize].mode = Mode::Merge;
                bounded.swing = key.swing;
                self.unordered += 1;
            }
        }
    }
}

/// Whether a value stays at or above the floor, and within its type, however far it swings.
pub(crate) fn fits(value: i128, swing: i128, floor: i64) -> bool {
    value - swing >= i128::from(floor) && value + swing <= i128::from(i64::MAX)
}
