//! Adds with a floor, while they run. The protocol is told in [`crate::bounded`].

use mixlog_mixer::Mode;

use super::guard::{Found, Guard};
use super::{InPlace, Noted, Tx, Way};
use crate::bounded::{Counter, fits, may_add};
use crate::codec::Codec;
use crate::footprint::Of;
use crate::store::{Merging, Store, TableStore};
use crate::table::{Conflicts, Key, Table, Value};

impl Tx<'_> {
    /// Adds `delta` to the row of `key`, which need not exist, and tells whether it did: it does not if the row would
    /// be below `floor` then, or would overflow, or does not [accept](crate::Merge::accepts) merges. Then nothing
    /// changes.
    ///
    /// The answer is that of the log's order. Yet transactions that [declare](crate::Footprint::add_bounded) their
    /// adds do not wait for each other while there is enough for all of the window, whatever their order; when there
    /// is not, those that touch the same row do; in a table with an index they always do. Whoever needs no answer merges.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use mixlog_engine::{Engine, Fixed, Footprint, Outcome, Procedure, Sum, Table, Tx};
    /// # use mixlog_log::MemoryLog;
    /// # use serde::{Deserialize, Serialize};
    ///
    /// const STOCK: Table<u64, Sum, Fixed> = Table::fixed("stock");
    ///
    /// /// Takes pieces of an article from the stock, or, if negative, puts them there.
    /// #[derive(Serialize, Deserialize)]
    /// struct Take { article: u64, pieces: i64 }
    ///
    /// impl Procedure for Take {
    ///     const NAME: &'static str = "take";
    ///     type Output = ();
    ///     type Abort = String;
    ///
    ///     fn footprint(&self, f: &mut Footprint<'_>) {
    ///         f.add_bounded(&STOCK, &self.article, -self.pieces, 0);
    ///     }
    ///
    ///     fn run(&self, tx: &mut Tx<'_>) -> Result<(), String> {
    ///         if tx.add_bounded(&STOCK, self.article, -self.pieces, 0) {
    ///             return Ok(());
    ///         }
    ///         Err("sold out".to_owned())
    ///     }
    /// }
    ///
    /// let engine =
    ///     Engine::builder().table(&STOCK).procedure::<Take>().open(Arc::new(MemoryLog::new())).unwrap();
    /// let submit = |pieces| engine.submit(&Take { article: 7, pieces }).unwrap().wait().unwrap();
    /// assert!(matches!(submit(-3), Outcome::Committed { .. }));
    /// assert!(matches!(submit(2), Outcome::Committed { .. }));
    /// assert!(matches!(submit(2), Outcome::Aborted { .. }));
    /// assert!(matches!(submit(1), Outcome::Committed { .. }));
    /// assert_eq!(engine.snapshot().get(&STOCK, &7), Some(Sum(0)));
    /// ```
    pub fn add_bounded<K: Key, V: Counter, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: K,
        delta: i64,
        floor: i64,
    ) -> bool {
        self.keep_indexes();
        let store = self.store.table(table);
        if store.is_indexed() {
            let may_add = |row: Option<&V>| V::accepts(row) && may_add(V::value(row), delta, floor);
            return self.merge_in_order(store, key, delta, may_add);
        }
        match &mut self.way {
            Way::InPlace(tx) => {
                let Some(pooled) = tx.is_unordered(store, &key, delta) else {
                    return tx.add_in_order(store, key, delta, floor);
                };
                let (number, key_hash) = (store.number(), store.key_hash(&key));
                let merging = Merging { table: *table, number, key, key_hash, delta };
                tx.add_unordered(self.store, store, merging, floor, pooled)
            }
            // SAFETY: `&mut self` keeps all others away.
            Way::Speculative(tx) => unsafe { tx.add_bounded(store, &key, delta, floor) },
        }
    }
}

impl InPlace<'_> {
    /// Whether the footprint names adds to the row.
    pub(super) fn is_bounded(&self, key_hash: u64) -> bool {
        self.bounded.of(key_hash).next().is_some()
    }

    /// Whether adds to the row have no order: then others may be adding to it at the same time, or, if they are pooled,
    /// at the end of the window; the answer tells whether they are. Asks the guard: then amounts count.
    fn is_unordered<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        store: &TableStore<K, V, C>,
        key: &K,
        delta: i64,
    ) -> Option<bool> {
        if matches!(self.guard, Guard::Off) || matches!(store.conflicts, Conflicts::Grouped { .. }) {
            return None;
        }
        let (number, key_hash) = (store.number(), store.key_hash(key));
        if self.declared(number, key_hash, Mode::Write).is_some() {
            return None;
        }
        // What is declared on the row and is no write is all the window's unordered adds know of each other.
        if !self.is_covered(key_hash, delta) {
            self.violated(store);
        }
        self.added.push((key_hash, delta));
        if !matches!(self.guard, Guard::Stop(_)) {
            return None;
        }
        if !matches!(store.conflicts, Conflicts::Rows) {
            self.may_merge(store, store.unit_and_granule(key, key_hash).1);
        }
        Some(self.accesses.of(key_hash).any(|(_, access)| access.of == Of::PooledRow))
    }

    /// Whether the amount was declared, and not used up by adds before it.
    fn is_covered(&self, key_hash: u64, delta: i64) -> bool {
        let declared = self.bounded.of(key_hash).map(|(_, bounded)| bounded.delta);
        let used = self.added.of(key_hash).map(|(_, &(_, delta))| delta);
        let mut left = [0i128; 2];
        declared.for_each(|delta| left[usize::from(delta < 0)] += i128::from(delta).abs());
        used.chain([delta]).for_each(|delta| left[usize::from(delta < 0)] -= i128::from(delta).abs());
        self.is_bounded(key_hash) && left.iter().all(|&left| left >= 0)
    }

    /// Adds beside others who do, if that is certain to be what happens one by one.
    fn add_unordered<K: Key, V: Counter, C: Codec<K> + Codec<V>>(
        &mut self,
        store: &Store,
        table: &TableStore<K, V, C>,
        merging: Merging<K, V, C>,
        floor: i64,
        pooled: bool,
    ) -> bool {
        let Some(value) = merging.value(store, !pooled) else { return false };
        let swing = self.bounded.of(merging.key_hash).next().map(|(_, bounded)| bounded.swing);
        // Between now and this transaction's turn lie adds of the window that are not made yet, and some that are
        // made too early: together, and with its own, no more than the swing.
        if !swing.is_some_and(|swing| fits(i128::from(value), swing, floor)) {
            self.violated(table);
        }
        // Made when nothing can fail any more: a merge cannot be put back alone.
        let key_hash = merging.key_hash;
        self.merges.push(Noted { merging: Box::new(merging), pooled, key_hash });
        true
    }

    fn add_in_order<K: Key, V: Counter, C: Codec<K> + Codec<V>>(
        &mut self,
        store: &TableStore<K, V, C>,
        key: K,
        delta: i64,
        floor: i64,
    ) -> bool {
        // Nobody else is at the row, though what was declared may be a merge: then nobody else runs.
        let Found { id, key_hash, unit, granule } = self.find(store, &key, Mode::Merge);
        self.put_at(store, &key);
        // SAFETY: `find` asked the guard; the row is this transaction's alone, since a write of it was declared or no
        // other transaction runs. A row made just now is in the same unit of conflict.
        unsafe {
            let row = id.and_then(|id| store.row(id).value().as_ref());
            if !V::accepts(row) || !may_add(V::value(row), delta, floor) {
                return false;
            }
            let id = id.unwrap_or_else(|| store.create(self.worker, key, key_hash, unit, granule));
            store.save(self.worker, id, self.window, self.me);
            V::merge(store.row(id).value_mut(), delta, self.position);
        }
        true
    }
}
