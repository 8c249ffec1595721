//! The guard: compares every access with the footprint, and finds the row that it is of.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::{Bound, RangeBounds};
use std::panic::resume_unwind;

use mixlog_mixer::Mode;

use super::keyed::FEW;
use super::{InPlace, Noted};
use crate::codec::Codec;
use crate::footprint::{Access, NOWHERE, Of};
use crate::store::{AnyTable, RowId, Stamp, TableStore};
use crate::table::{Conflicts, Key, Value};

/// What the guard does with an access that was not declared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Guard<'a> {
    /// Nothing is declared, and nobody else runs.
    Off,
    /// Stop the transaction: others run.
    Stop(Allowed<'a>),
    /// Note it and go on: nobody else runs.
    Note(Allowed<'a>),
}

impl<'a> Guard<'a> {
    pub(super) const fn accesses(self) -> &'a [Access] {
        match self {
            Guard::Off => &[],
            Guard::Stop(allowed) | Guard::Note(allowed) => allowed.accesses,
        }
    }

    /// Whether it minds what is written only.
    pub(crate) const fn allows_reading_anything(self) -> bool {
        matches!(self, Guard::Stop(allowed) | Guard::Note(allowed) if allowed.reads_anything)
    }
}

/// What a transaction may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed<'a> {
    pub(crate) accesses: &'a [Access],
    /// Whether it may read anything besides: no other transaction runs.
    pub(crate) reads_anything: bool,
}

/// A power of two. Tables whose numbers agree modulo this share a cursor, which costs a longer search.
pub(super) const CURSORS: usize = 16;

/// The payload with which the guard unwinds a procedure.
struct Stopped;

/// Where a row is and belongs, as the guard allowed.
pub(super) struct Found {
    pub(super) id: Option<RowId>,
    pub(super) key_hash: u64,
    /// The hash of its unit of conflict.
    pub(super) unit: u64,
    /// The hash of its granule; the unit's where that is not asked for.
    pub(super) granule: u64,
}

/// The keys of a table's rows that noted merges are into, or merges that were made at once and beside others would be noted.
struct MergedKeys<K> {
    keys: BTreeSet<K>,
    /// How many noted merges, of all tables, were looked at.
    seen: usize,
}

impl<K> Default for MergedKeys<K> {
    fn default() -> Self {
        Self { keys: BTreeSet::new(), seen: 0 }
    }
}

impl InPlace<'_> {
    /// The row of the key, if there is one, and where it belongs. Asks the guard.
    #[inline]
    pub(super) fn find<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
        key: &K,
        mode: Mode,
    ) -> Found {
        let (number, key_hash) = (store.number(), store.key_hash(key));
        if self.has_merged(number, key_hash) {
            // It should have declared a write: its own merge is not made yet.
            self.violated(store);
        }
        if mode == Mode::Merge && matches!(self.guard, Guard::Note(_)) {
            self.note_made_at_once(store, key, key_hash);
        }
        let (unit, hint) = match store.conflicts {
            Conflicts::Rows => (key_hash, self.declared(number, key_hash, mode)),
            Conflicts::Grouped { .. } => {
                let granule = store.granule_of(key);
                (granule, self.declared(number, granule, mode).map(|_| self.located(key_hash)))
            }
            Conflicts::Watched(_) | Conflicts::Ranges => (key_hash, self.declared(number, key_hash, mode)),
        };
        let mut found = Found { id: None, key_hash, unit, granule: unit };
        // A row of a watched table is read as a row or as one of its granule, and written as both.
        let watched = matches!(store.conflicts, Conflicts::Watched(_) | Conflicts::Ranges);
        let by_granule = watched && hint.is_none() && mode == Mode::Read;
        if watched && (by_granule || mode != Mode::Read) {
            found.granule = store.granule_of(key);
        }
        let hint = if by_granule { self.declared(number, found.granule, mode) } else { hint };
        let Some(hint) = hint else {
            self.violated(store);
            found.id = store.find(key, key_hash);
            return found;
        };
        if hint != NOWHERE {
            let row = store.row(hint);
            // SAFETY: a row that is not free keeps its key until the window ends.
            let same = row.latch.stamp() != Stamp::FREE && row.unit() == unit && unsafe { row.key() } == key;
            if same {
                found.id = Some(hint);
            }
        }
        if found.id.is_none() {
            found.id = store.find(key, key_hash);
        }
        let Some(id) = found.id else {
            if watched && mode != Mode::Read {
                self.may_merge(store, found.granule);
            }
            return found;
        };
        // A table whose granule function, order or hash is not a function of the key could lead to a row that
        // belongs to another unit or granule than the one declared. The row knows.
        let (actual, granule) = (store.row(id).unit(), store.row(id).granule());
        assert_eq!(actual, unit, "the unit of conflict of a key of {} changed", store_name(store));
        if by_granule {
            assert_eq!(granule, found.granule, "the granule of a key of {} changed", store_name(store));
        }
        if mode != Mode::Merge && self.merges_alone(key_hash) && store.row(id).latch.stamp() == self.me {
            self.violated(store);
        }
        if watched && mode != Mode::Read {
            self.may_merge(store, granule);
        }
        found
    }

    /// Whether a merge of its own into the row is still to be made.
    #[inline]
    fn has_merged(&self, table: u16, key_hash: u64) -> bool {
        !self.merges.items().is_empty() && self.is_noted(table, key_hash)
    }

    #[inline(never)]
    fn is_noted(&self, table: u16, key_hash: u64) -> bool {
        self.merges.of(key_hash).any(|(_, noted)| noted.merging.is_of(table, key_hash))
    }

    /// Whether the transaction may merge into the row and not write it, while nobody else runs. Then its merge is made at
    /// once; beside others it would be made at the end, and whoever looks at the row before that is stopped.
    #[inline]
    fn merges_alone(&self, key_hash: u64) -> bool {
        if !matches!(self.guard, Guard::Note(_)) {
            return false;
        }
        let declares = |mode| self.accesses.of(key_hash).any(|(_, access)| access.mode == mode);
        declares(Mode::Merge) && !declares(Mode::Write)
    }

    /// Notes a merge, or an add, that is made at once, since nobody else runs: beside others it would be made at the end,
    /// and who looks at the row in a range before that is stopped.
    #[cold]
    fn note_made_at_once<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
        key: &K,
        key_hash: u64,
    ) {
        if self.violation.get().is_some() || !self.merges_alone(key_hash) {
            return;
        }
        let adds = self.added.items().len();
        let is_add = self.adds_made.replace(adds) != adds;
        if self.is_bounded(key_hash) && !is_add {
            // Those who declared by how much they change the row count on no other change.
            self.violated(store);
        }
        if matches!(store.conflicts, Conflicts::Ranges) {
            self.merged_keys.of::<MergedKeys<K>>(store.number()).keys.insert(key.clone());
        }
    }

    /// Whether beside others a merge of its own into a row of the range would still be to be made.
    #[cold]
    fn made_at_once_into<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
        range: &impl RangeBounds<K>,
    ) -> bool {
        let Some(merged) = self.merged_keys.get::<MergedKeys<K>>(store.number()) else { return false };
        let keys = merged.keys.range((range.start_bound(), Bound::Unbounded));
        // Where the row did not take the merge, nothing would be noted.
        let is_made = |key: &K| {
            let id = store.find(key, store.key_hash(key));
            id.is_some_and(|id| store.row(id).latch.stamp() == self.me)
        };
        self.violation.get().is_none() && keys.take_while(|key| range.contains(key)).any(is_made)
    }

    /// Whether a merge of its own into a row of the range is still to be made, or would be beside others.
    pub(super) fn merged_into<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
        range: &impl RangeBounds<K>,
    ) -> bool {
        if matches!(self.guard, Guard::Note(_)) {
            return self.made_at_once_into(store, range);
        }
        let (merges, table) = (self.merges.items(), store.number());
        if merges.len() <= FEW {
            return keys_in(merges, table).any(|key| range.contains(key));
        }
        // So that each merge is looked at once, and not again for each range.
        let mut merged = self.merged_keys.of::<MergedKeys<K>>(table);
        let MergedKeys { keys, seen } = &mut *merged;
        keys.extend(keys_in(&merges[*seen..], table).cloned());
        *seen = merges.len();
        // If the least key behind the start is behind the end, so are all others. A range may end before it starts.
        let least = keys.range((range.start_bound(), Bound::Unbounded)).next();
        least.is_some_and(|key| range.contains(key))
    }

    /// Whether the transaction may merge into the row, and nothing else: then others may, too, at the same time, or, if
    /// merges into it are pooled, at the end of the window; the answer tells whether they are.
    pub(super) fn merges_only<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
        key: &K,
    ) -> Option<bool> {
        if !matches!(self.guard, Guard::Stop(_)) || matches!(store.conflicts, Conflicts::Grouped { .. }) {
            return None;
        }
        let key_hash = store.key_hash(key);
        let (mut merges, mut reads) = (None, false);
        for (_, access) in self.accesses.of(key_hash) {
            match access.mode {
                Mode::Write => return None,
                Mode::Merge => merges = Some(access.of == Of::PooledRow),
                Mode::Read => reads = true,
            }
        }
        let granule = || store.unit_and_granule(key, key_hash).1;
        let is_part = !matches!(store.conflicts, Conflicts::Rows);
        if merges.is_none() {
            // Who may read the row, all of its granule, or anything, may see whether it takes merges.
            if reads
                || self.guard.allows_reading_anything()
                || is_part && self.declared(store.number(), granule(), Mode::Read).is_some()
            {
                return None;
            }
            self.violated(store);
        }
        if is_part {
            self.may_merge(store, granule());
        }
        merges
    }

    /// Asks the guard whether rows of a granule may be changed: what keeps those away who read it as a whole.
    #[inline]
    pub(super) fn may_merge<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        store: &TableStore<K, V, C>,
        granule: u64,
    ) {
        if self.merged.get() == granule || matches!(self.guard, Guard::Off) {
            return;
        }
        match self.declared(store.number(), granule, Mode::Merge) {
            Some(_) => self.merged.set(granule),
            None => self.violated(store),
        }
    }

    /// The row that was looked up ahead for this key, if it comes in about the order in which the footprint named
    /// the rows.
    #[inline]
    fn located(&self, key_hash: u64) -> RowId {
        let next = self.next_located.get();
        let start = next.saturating_sub(2);
        for (i, located) in self.located.iter().enumerate().skip(start).take(6) {
            if located.key_hash == key_hash {
                self.next_located.set(i + 1);
                return located.row;
            }
        }
        NOWHERE
    }

    /// The located row of the declared access that covers this one (`NOWHERE` if none was located), or `None`
    /// when there is no such access.
    #[inline]
    pub(super) fn declared(&self, table: u16, key: u64, mode: Mode) -> Option<RowId> {
        let (Guard::Stop(allowed) | Guard::Note(allowed)) = self.guard else { return Some(NOWHERE) };
        let Allowed { accesses, reads_anything } = allowed;
        if reads_anything && mode == Mode::Read {
            return Some(NOWHERE);
        }
        let covers = |access: &Access| access.covers(key, mode);
        let cursor = &self.cursors[usize::from(table) % CURSORS];
        let start = cursor.get() as usize;
        if accesses.len() > FEW {
            return self.declared_among_many(accesses, cursor, key, mode);
        }
        // The same row again, or the next one: what procedures do that follow their footprint.
        for (i, access) in accesses.iter().enumerate().skip(start) {
            if covers(access) {
                cursor.set(i as u32);
                return Some(access.hint());
            }
        }
        for (i, access) in accesses.iter().enumerate().take(start) {
            if covers(access) {
                cursor.set(i as u32);
                return Some(access.hint());
            }
        }
        None
    }

    /// The same in a footprint too long to be gone through each time.
    #[inline(never)]
    fn declared_among_many(
        &self,
        accesses: &[Access],
        cursor: &Cell<u32>,
        key: u64,
        mode: Mode,
    ) -> Option<RowId> {
        let start = cursor.get() as usize;
        let mut next = (start..).zip(accesses.get(start..).unwrap_or_default()).take(FEW);
        if let Some((i, access)) = next.find(|(_, access)| access.covers(key, mode)) {
            cursor.set(i as u32);
            return Some(access.hint());
        }
        let (i, access) = self.accesses.of(key).find(|(_, access)| access.covers(key, mode))?;
        cursor.set(i);
        Some(access.hint())
    }

    /// An undeclared access: ends the transaction when others run beside it.
    #[cold]
    pub(super) fn violated<K: Key, V: Value, C: Codec<K> + Codec<V>>(&self, store: &TableStore<K, V, C>) {
        if self.violation.get().is_none() {
            self.violation.set(Some(store_name(store)));
        }
        if matches!(self.guard, Guard::Stop(_)) {
            // Not a panic: no hook runs and nothing is printed.
            resume_unwind(Box::new(Stopped));
        }
    }
}

/// The keys of those that are of a table.
fn keys_in<K: Key>(merges: &[Noted], table: u16) -> impl Iterator<Item = &K> {
    merges.iter().filter_map(move |noted| noted.merging.key_in(table)?.downcast_ref())
}

fn store_name<K: Key, V: Value, C: Codec<K> + Codec<V>>(store: &TableStore<K, V, C>) -> &'static str {
    store.name()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use mixlog_log::Position;

    use super::*;
    use crate::footprint::Details;
    use crate::merge::Sum;
    use crate::store::{MakeTable, Store};
    use crate::table::Table;
    use crate::tx::Tx;

    const TOTALS: Table<u64, Sum> = Table::new("totals");
    const IN_ORDER: Table<u64, Sum> = Table::new("in order").ordered();

    /// What a transaction that may read anything, and declared nothing, is stopped for.
    #[test]
    fn who_may_read_anything_may_ask_whether_rows_take_merges_and_may_not_merge() {
        for (table, by_range) in [(TOTALS, false), (IN_ORDER, true)] {
            let make: MakeTable = Box::new(move |number, workers, _| {
                let conflicts = if by_range { Conflicts::Ranges } else { Conflicts::Rows };
                Box::new(TableStore::new(&table, conflicts, number, workers, Vec::new()))
            });
            let (store, mut workers) = Store::new(&[make], Vec::new(), 1);
            let guard = Guard::Stop(Allowed { accesses: &[], reads_anything: true });
            let nothing = Details { located: &[], bounded: &[] };
            let (worker, at) = (&mut workers[0], Position(0));
            // SAFETY: no other transaction runs.
            let mut tx = unsafe { Tx::new(&store, worker, guard, nothing, at, at, 0) };
            let mut stops = |run: &dyn Fn(&mut Tx<'_>) -> bool| {
                catch_unwind(AssertUnwindSafe(|| run(&mut tx)))
                    .map_err(|stopped| assert!(stopped.is::<Stopped>()))
            };
            assert_eq!(stops(&|tx| tx.can_merge(&table, &7)), Ok(true));
            assert_eq!(stops(&|tx| tx.get(&table, &7).is_some()), Ok(false));
            assert_eq!(stops(&|tx| tx.merge(&table, 7, 1)), Err(()));
        }
    }
}
