//! Rows by their keys: read, changed, merged into.

use mixlog_mixer::Mode;

use super::guard::{Found, Guard};
use super::{Noted, Tx, Way};
use crate::ahead::Pause;
use crate::codec::Codec;
use crate::merge::Merge;
use crate::store::{AnyMerging, AnyTable, Beside, Merging, Speculative, TableStore, merging};
use crate::table::{Key, Table, Value};

impl Tx<'_> {
    /// The row of `key`, if there is one.
    ///
    /// # Panics
    /// Here and in the other methods: when the table is not registered with the engine. The transaction then
    /// aborts as any that panics.
    #[inline]
    pub fn get<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> Option<&V> {
        self.get_in(self.store.table(table), key)
    }

    /// Whether there is a row of `key`.
    #[inline]
    pub fn contains<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> bool {
        self.get(table, key).is_some()
    }

    #[inline]
    pub(crate) fn get_in<'s, K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &'s self,
        store: &'s TableStore<K, V, C>,
        key: &K,
    ) -> Option<&'s V> {
        match &self.way {
            Way::InPlace(tx) => {
                let id = tx.find(store, key, Mode::Read).id;
                // SAFETY: `find` asked the guard, and the row's own unit of conflict is the one declared: the
                // schedule keeps writers away while `&self` lives, and this transaction writes through `&mut self`
                // only.
                unsafe { store.row(id?).value().as_ref() }
            }
            // SAFETY: shared while `&self` lives; changes take `&mut self`.
            Way::Speculative(tx) => unsafe { tx.get(store, key) },
        }
    }

    /// The row of `key` to be changed in place, if there is one.
    #[inline]
    pub fn get_mut<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> Option<&mut V> {
        self.keep_indexes();
        let store = self.store.table(table);
        if store.is_indexed() {
            self.lent = Some(store.lend(key.clone(), self.get_in(store, key).cloned()));
        }
        match &mut self.way {
            Way::InPlace(tx) => {
                let id = tx.find(store, key, Mode::Write).id?;
                // SAFETY: `find` asked the guard for writing: nobody else touches the row while `&mut self` lives.
                unsafe {
                    if store.row(id).value().is_none() {
                        return None;
                    }
                    store.save(tx.worker, id, tx.window, tx.me);
                    store.row(id).value_mut().as_mut()
                }
            }
            // SAFETY: `&mut self` keeps all others away.
            Way::Speculative(tx) => unsafe { tx.get_mut(store, key) },
        }
    }

    /// The row of `key` to be changed in place; where there is none, what `make` returns is put there first.
    ///
    /// Cost: a look-up more than [`get_mut`](Self::get_mut), two more for a new row.
    #[inline]
    pub fn get_or_put<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: K,
        make: impl FnOnce() -> V,
    ) -> &mut V {
        if self.get(table, &key).is_none() {
            self.put(table, key.clone(), make());
        }
        self.get_mut(table, &key).expect("it is there, or was put there")
    }

    /// Inserts the row of `key`, or overwrites it.
    #[inline]
    pub fn put<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: K,
        value: V,
    ) {
        self.put_in(self.store.table(table), key, value);
    }

    #[inline]
    pub(crate) fn put_in<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        store: &TableStore<K, V, C>,
        key: K,
        value: V,
    ) {
        self.keep_indexes();
        if store.is_indexed() {
            let old = self.get_in(store, &key).cloned();
            store.moved(self, &key, old.as_ref(), Some(&value));
        }
        match &mut self.way {
            Way::InPlace(tx) => {
                let Found { id, key_hash, unit, granule } = tx.find(store, &key, Mode::Write);
                tx.put_at(store, &key);
                let id = id.unwrap_or_else(|| store.create(tx.worker, key, key_hash, unit, granule));
                // SAFETY: as in `get_mut`; a row made just now is in the same unit of conflict.
                unsafe {
                    store.save(tx.worker, id, tx.window, tx.me);
                    *store.row(id).value_mut() = Some(value);
                }
            }
            // SAFETY: as in `get_mut`.
            Way::Speculative(tx) => unsafe { tx.put(store, key, value) },
        }
    }

    /// Deletes the row of `key`; tells whether there was one.
    #[inline]
    pub fn delete<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> bool {
        self.delete_in(self.store.table(table), key)
    }

    /// Deletes the row of `key` and returns it, if there was one.
    ///
    /// Cost: a look-up and a copy of the row more than [`delete`](Self::delete).
    #[inline]
    pub fn take<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> Option<V> {
        let row = self.get(table, key)?.clone();
        self.delete(table, key);
        Some(row)
    }

    #[inline]
    pub(crate) fn delete_in<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        store: &TableStore<K, V, C>,
        key: &K,
    ) -> bool {
        self.keep_indexes();
        if store.is_indexed() {
            let old = self.get_in(store, key).cloned();
            store.moved(self, key, old.as_ref(), None);
        }
        match &mut self.way {
            Way::InPlace(tx) => {
                let Some(id) = tx.find(store, key, Mode::Write).id else { return false };
                // SAFETY: as in `get_mut`.
                unsafe {
                    if store.row(id).value().is_none() {
                        return false;
                    }
                    store.save(tx.worker, id, tx.window, tx.me);
                    *store.row(id).value_mut() = None;
                }
                true
            }
            // SAFETY: as in `get_mut`.
            Way::Speculative(tx) => unsafe { tx.delete(store, key) },
        }
    }

    /// Whether the row of `key` [accepts](Merge::accepts) merges. At its position a transaction that declared a
    /// merge may ask that; found by reconnaissance it counts as a read.
    pub fn can_merge<K: Key, V: Merge, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> bool {
        let store = self.store.table(table);
        match &self.way {
            Way::InPlace(tx) => match tx.merges_only(store, key) {
                Some(pooled) => merging::is_accepted(store, key, store.key_hash(key), !pooled),
                // Nobody else runs, and who declared a merge may ask.
                None if matches!(tx.guard, Guard::Note(_))
                    && tx.declared(store.number(), store.key_hash(key), Mode::Merge).is_some() =>
                {
                    merging::is_accepted(store, key, store.key_hash(key), false)
                }
                None => V::accepts(self.get_in(store, key)),
            },
            // SAFETY: changes take `&mut self`.
            Way::Speculative(tx) => unsafe { tx.can_merge(store, key) },
        }
    }

    /// Merges into the row of `key`, which need not exist; tells whether it
    /// [accepts](Merge::accepts) that. Transactions that merge one row do not wait for each other; one that also
    /// looks at it does.
    ///
    /// In a table with an index they wait, as those that write a row: what a merge makes of it decides where it stands
    /// there. [`Footprint::write_by`](crate::Footprint::write_by) declares that.
    ///
    /// # Panics
    /// As [`get`](Self::get).
    pub fn merge<K: Key, V: Merge, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: K,
        delta: V::Delta,
    ) -> bool {
        self.keep_indexes();
        let store = self.store.table(table);
        if store.is_indexed() {
            return self.merge_in_order(store, key, delta, V::accepts);
        }
        match &mut self.way {
            Way::InPlace(tx) => {
                if let Some(pooled) = tx.merges_only(store, &key) {
                    if tx.is_bounded(store.key_hash(&key)) {
                        // Those who declared by how much they change the row count on no other change.
                        tx.violated(store);
                    }
                    let (number, key_hash) = (store.number(), store.key_hash(&key));
                    let merging = Merging { table: *table, number, key_hash, key, delta };
                    if !merging.is_accepted(self.store, !pooled) {
                        return false;
                    }
                    // Made when nothing can fail any more: a merge cannot be put back alone.
                    tx.merges.push(Noted { merging: Box::new(merging), pooled, key_hash });
                    return true;
                }
                // A write was declared, or nobody else runs: then a merge is no violation to be noted.
                let Found { id, key_hash, unit, granule } = tx.find(store, &key, Mode::Merge);
                tx.put_at(store, &key);
                // SAFETY: as in `get_mut`; a row made just now is in the same unit of conflict.
                unsafe {
                    if !V::accepts(id.and_then(|id| store.row(id).value().as_ref())) {
                        return false;
                    }
                    let id = id.unwrap_or_else(|| store.create(tx.worker, key, key_hash, unit, granule));
                    store.save(tx.worker, id, tx.window, tx.me);
                    V::merge(store.row(id).value_mut(), delta, tx.position);
                }
                true
            }
            // SAFETY: as in `get_mut`.
            Way::Speculative(tx) => unsafe { tx.merge(table, store, key, delta) },
        }
    }

    /// Merges into a row that has places in indexes, if `accepts` says so of what it holds: reads it and writes it.
    pub(crate) fn merge_in_order<K: Key, V: Merge, C: Codec<K> + Codec<V>>(
        &mut self,
        store: &TableStore<K, V, C>,
        key: K,
        delta: V::Delta,
        accepts: impl FnOnce(Option<&V>) -> bool,
    ) -> bool {
        let mut row = self.get_in(store, &key).cloned();
        if !accepts(row.as_ref()) {
            return false;
        }
        let position = match &self.way {
            Way::InPlace(tx) => tx.position,
            Way::Speculative(tx) => tx.merges_at(),
        };
        V::merge(&mut row, delta, position);
        match row {
            Some(value) => self.put_in(store, key, value),
            None => _ = self.delete_in(store, &key),
        }
        true
    }

    /// Moves the row that was lent, if one was and it changed, in its indexes. Before it is lent again, before an index
    /// is read, and before the transaction ends.
    #[inline]
    pub(crate) fn keep_indexes(&mut self) {
        if let Some(moved) = self.lent.take() {
            moved(self);
        }
    }

    /// Asks the cache for the rows of these keys, so that their misses overlap instead of following each other.
    /// Worth it before touching several rows whose keys the footprint could not name; changes no result.
    ///
    /// Cost: some 10 ns a key, if the index is in the cache.
    pub fn fetch_ahead<K: Key, V: Value, C: Codec<K> + Codec<V>>(&self, table: &Table<K, V, C>, keys: &[K]) {
        let store = self.store.table(table);
        // Elsewhere than on a driver an index may be given back while it is looked at.
        let pause = match &self.way {
            Way::InPlace(_) => Pause::NEVER,
            Way::Speculative(Speculative { beside: Beside::Window { pause, .. }, .. }) => *pause,
            Way::Speculative(_) => return,
        };
        let mut hashes = [0u64; 32];
        for keys in keys.chunks(hashes.len()) {
            for (hash, key) in hashes.iter_mut().zip(keys) {
                *hash = store.key_hash(key);
                store.prefetch_index(*hash);
            }
            pause.pause();
            for &hash in &hashes[..keys.len()] {
                // Numbers of rows are looked up, nothing of the rows: the guard has no say in it.
                if let Some(id) = store.locate(hash) {
                    store.prefetch_row(id);
                }
            }
            pause.pause();
        }
    }
}
