//! What a procedure declares that it will touch.

use std::ops::RangeBounds;

use mixlog_log::Position;
use mixlog_mixer::Mode;

use crate::bounded::Bounded;
use crate::codec::Codec;
use crate::index::{Index, IndexKey, Place, places};
use crate::merge::Merge;
use crate::store::{Beside, RowId, Stamp, Store, TableStore, TouchedRow};
use crate::table::{Conflicts, Key, Table, Value};
use crate::window::Prepared;

/// One declared access, and where its row most likely is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// Hash of the unit of conflict: a row, or a granule.
    pub(crate) key: u64,
    /// The row that [`prepare`](crate::prepare) located, or the number of the leaf that the granule is; or `NOWHERE`. A
    /// hint: compared before use.
    pub(crate) row: RowId,
    pub(crate) table: u16,
    pub(crate) mode: Mode,
    pub(crate) of: Of,
}

/// What the key of an [`Access`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// A granule.
    Granule,
    /// A row that the table's index can locate.
    Row,
    /// A row that several transactions of the window merge into, and that it does nothing else to
    /// ([`store::Pool`](crate::store::Pool)).
    PooledRow,
}

impl Access {
    #[inline]
    pub(crate) const fn is_row(&self) -> bool {
        !matches!(self.of, Of::Granule)
    }

    /// The row that it most likely is, or `NOWHERE`.
    #[inline]
    pub(crate) const fn hint(&self) -> RowId {
        if self.is_row() { self.row } else { NOWHERE }
    }

    /// Whether it is the right to access the unit of this hash in this mode.
    #[inline]
    pub(crate) fn covers(&self, key: u64, mode: Mode) -> bool {
        self.key == key && (self.mode == Mode::Write || self.mode == mode)
    }
}

pub(crate) const NOWHERE: RowId = RowId::MAX;

/// A row that a procedure named, in a table whose unit of conflict is the granule: looked up ahead, like the row
/// of an [`Access`], but no business of the mixer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located {
    pub(crate) key_hash: u64,
    pub(crate) row: RowId,
    pub(crate) table: u16,
}

/// The declared accesses of some transactions, one after another.
#[derive(Debug, Default)]
pub(crate) struct Declarations {
    pub(crate) accesses: Vec<Access>,
    pub(crate) located: Vec<Located>,
    /// Which of the accesses are bounded adds, in their order.
    pub(crate) bounded: Vec<Bounded>,
    /// Whether there are merges into rows that conflict one by one.
    pub(crate) merges: bool,
}

impl Declarations {
    /// Appends what another list declares for a transaction, from the starts of its accesses, located rows and bounded
    /// adds on; returns those of the next transaction.
    pub(crate) fn append(
        &mut self,
        other: &Self,
        (accesses, located, bounded): (u32, u32, usize),
        transaction: &Prepared,
    ) -> (u32, u32, usize) {
        let moved = self.accesses.len() as u32;
        let (accesses_end, located_end) = (transaction.accesses_end, transaction.located_end);
        self.accesses.extend_from_slice(&other.accesses[accesses as usize..accesses_end as usize]);
        self.located.extend_from_slice(&other.located[located as usize..located_end as usize]);
        let own = other.bounded[bounded..].iter().take_while(|bounded| bounded.access < accesses_end);
        let before = self.bounded.len();
        self.bounded.extend(own.map(|bounded| bounded.moved_to(bounded.access - accesses + moved)));
        (accesses_end, located_end, bounded + self.bounded.len() - before)
    }

    pub(crate) fn clear(&mut self) {
        self.accesses.clear();
        self.located.clear();
        self.bounded.clear();
        self.merges = false;
    }
}

/// What a transaction's footprint says besides its accesses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Details<'a> {
    pub(crate) located: &'a [Located],
    pub(crate) bounded: &'a [Bounded],
}

/// What a footprint says besides, in bits of one word: who asks for one of several flags that were just written byte by
/// byte waits until they are in the cache, behind all that was written before.
#[derive(Clone, Copy, Debug)]
struct Says(u32);

impl Says {
    /// The procedure may touch anything.
    const UNKNOWN: u32 = 1;
    /// The engine is to find out.
    const RECONNOITRE: u32 = 2;
    /// It follows from rows.
    const LOOKED: u32 = 4;

    const fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }

    const fn add(&mut self, flag: u32) {
        self.0 |= flag;
    }
}

/// How many granules a footprint remembers.
const GRANULES: usize = 16;

/// The list that [`Procedure::footprint`](crate::Procedure::footprint) fills in.
///
/// A footprint is a hint. What it leaves out is noticed before it does harm and costs speed (the window is
/// replayed one by one); what it lists in vain makes others wait. It is a function of the procedure's arguments, of the
/// entry's position and time, and of rows that it [looks at](Self::get).
pub struct Footprint<'a> {
    store: &'a Store,
    pub(crate) declarations: &'a mut Declarations,
    /// Granules declared lately, by the low bits of their hash, with the mode in the lowest.
    granules: [u64; GRANULES],
    position: Position,
    time_us: u64,
    says: Says,
    /// The state that [`get`](Self::get) looks at, and what runs beside; `None` where nobody will wait for anybody.
    past: Option<(Stamp, Beside<'a>)>,
    /// What stands behind the hashes, for those who want to know.
    names: Option<Vec<(u64, String)>>,
}

impl<'a> Footprint<'a> {
    pub(crate) const fn new(
        store: &'a Store,
        declarations: &'a mut Declarations,
        position: Position,
        time_us: u64,
        past: Option<(Stamp, Beside<'a>)>,
    ) -> Self {
        Self {
            store,
            declarations,
            granules: [0; GRANULES],
            position,
            time_us,
            says: Says(0),
            past,
            names: None,
        }
    }

    /// The same, which also notes what stands behind the hashes.
    pub(crate) fn with_names(self) -> Self {
        Self { names: Some(Vec::new()), ..self }
    }

    /// What stands behind the hashes, as text.
    pub(crate) fn into_names(self) -> Vec<(u64, String)> {
        self.names.unwrap_or_default()
    }

    #[inline]
    fn name(&mut self, hash: u64, name: impl FnOnce() -> String) {
        if let Some(names) = &mut self.names {
            names.push((hash, name()));
        }
    }

    /// Whether the procedure said that it may touch anything.
    pub(crate) const fn is_unknown(&self) -> bool {
        self.says.has(Says::UNKNOWN)
    }

    /// The position of the entry, for procedures that use it as a key.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// When the entry was submitted, as [`Tx::time_us`](crate::Tx::time_us), for procedures whose keys follow from it.
    #[must_use]
    pub const fn time_us(&self) -> u64 {
        self.time_us
    }

    /// The procedure may read the row of `key`, whether it exists or not. In a [`grouped`](Table::grouped) table
    /// that declares its granule; naming rows, too, lets the engine fetch them ahead.
    ///
    /// # Panics
    /// When the table is not registered. The procedure then runs alone, and panics itself.
    pub fn read<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> &mut Self {
        let store = self.store.table(table);
        self.access(store, key, store.key_hash(key), NOWHERE, Mode::Read);
        self
    }

    /// The row of `key` in a state of the recent past, for footprints that follow from rows: a name leads to a number,
    /// and that to the rows to be touched. The procedure may read the row, which this declares.
    ///
    /// A guess, like all of a footprint: the procedure has to look again, and when it finds something else than was
    /// declared, the window is replayed. Good for rows that seldom change. `None` where there is no row, and where the
    /// window is executed one by one anyway, so that nothing needs to be known.
    ///
    /// Cost: a copy of the row, and a cache miss or two that overlap with nothing.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn get<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> Option<V> {
        self.read(table, key);
        self.says.add(Says::LOOKED);
        let (at, beside) = self.past?;
        self.store.table(table).peek(key, at, beside)
    }

    /// Whether the footprint follows from rows.
    pub(crate) const fn has_looked(&self) -> bool {
        self.says.has(Says::LOOKED)
    }

    /// The procedure may read, write, insert or delete the row of `key`.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn write<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> &mut Self {
        let store = self.store.table(table);
        self.access(store, key, store.key_hash(key), NOWHERE, Mode::Write);
        self
    }

    /// The procedure may [merge](crate::Tx::merge) into the row of `key`, and does nothing else with it: one that
    /// also reads the row declares a [`write`](Self::write). In a grouped table it is one.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn merge<K: Key, V: Merge, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> &mut Self {
        let store = self.store.table(table);
        // What a merge makes of a row decides where it stands in indexes.
        let mode = if store.is_indexed() { Mode::Write } else { Mode::Merge };
        self.access(store, key, store.key_hash(key), NOWHERE, mode);
        self
    }

    pub(crate) const fn store(&self) -> &'a Store {
        self.store
    }

    /// The procedure may read the rows of `range` in an [`ordered`](Table::ordered) table, in any direction.
    ///
    /// Cost: one access for every leaf of some hundred rows, or for the one granule of a grouped table.
    ///
    /// # Panics
    /// As [`Tx::range`](crate::Tx::range).
    pub fn range<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        range: impl RangeBounds<K>,
    ) -> &mut Self {
        self.range_in(self.store.table(table), &range);
        self
    }

    /// The procedure may read what an index finds for `range`.
    ///
    /// # Panics
    /// When the index is not registered.
    pub fn range_by<K: IndexKey, V: Value, I: IndexKey, C: Codec<K> + Codec<V>>(
        &mut self,
        index: &Index<K, V, I, C>,
        range: impl RangeBounds<I>,
    ) -> &mut Self {
        self.range_in(self.store.table(&index.places()), &places::<I, K>(&range));
        self
    }

    /// What an index finds for `range` in a state of the recent past; the procedure may read it, which this declares.
    /// For the rest see [`get`](Self::get): nothing where the window is executed one by one anyway.
    ///
    /// Cost: a descent of the tree for every 64 rows, 32 in a grouped index, and their cache misses.
    ///
    /// # Panics
    /// When the index is not registered.
    pub fn get_by<K: IndexKey, V: Value, I: IndexKey, C: Codec<K> + Codec<V>, R: RangeBounds<I>>(
        &mut self,
        index: &Index<K, V, I, C>,
        range: R,
    ) -> impl Iterator<Item = (I, K)> + use<'a, K, V, I, C, R> {
        let (store, range) = (self.store.table(&index.places()), places::<I, K>(&range));
        self.range_in(store, &range);
        self.says.add(Says::LOOKED);
        let found = self.past.map(|(at, _)| store.range_at(&range, at));
        found.into_iter().flatten().map(|(place, ())| place.into_parts())
    }

    /// The rows with keys in `range` of an [`ordered`](Table::ordered) table, in a state of the recent past; the procedure
    /// may read all of the range, which this declares. For the rest see [`get`](Self::get): nothing where the window is
    /// executed one by one anyway.
    ///
    /// ```
    /// # use mixlog_engine::{Footprint, Table};
    /// const LINES: Table<(u64, u32), u64> = Table::new("lines").ordered();
    /// const STOCK: Table<u64, u32> = Table::new("stock");
    ///
    /// /// Of a procedure that deletes an order with all its lines, and touches the stock of what they name.
    /// fn footprint(order: u64, f: &mut Footprint<'_>) {
    ///     for (key, article) in f.get_range(&LINES, (order, 0)..=(order, u32::MAX)) {
    ///         f.write(&LINES, &key).write(&STOCK, &article);
    ///     }
    /// }
    /// ```
    ///
    /// Shape: `(K, V)`, in key order.
    ///
    /// Cost: a descent of the tree for every 64 rows, 32 in a grouped table, cache misses, and a copy of each row.
    ///
    /// # Panics
    /// As [`Tx::range`](crate::Tx::range).
    pub fn get_range<K: Key, V: Value, C: Codec<K> + Codec<V>, R: RangeBounds<K>>(
        &mut self,
        table: &Table<K, V, C>,
        range: R,
    ) -> impl Iterator<Item = (K, V)> + use<'a, K, V, C, R> {
        let store = self.store.table(table);
        self.range_in(store, &range);
        self.says.add(Says::LOOKED);
        let found = self.past.map(|(at, _)| store.range_at(&range, at));
        found.into_iter().flatten()
    }

    /// The procedure may insert, move or delete the row of `key`, so that it comes to or goes from `by` in an index.
    /// Only needed where the row's place in the index changes.
    ///
    /// # Panics
    /// As [`range_by`](Self::range_by).
    pub fn write_by<K: IndexKey, V: Value, I: IndexKey, C: Codec<K> + Codec<V>>(
        &mut self,
        index: &Index<K, V, I, C>,
        by: I,
        key: K,
    ) -> &mut Self {
        self.write(&index.places(), &Place::new(by, key))
    }

    /// The procedure may make a row `new` of the row `old` of `key`, or insert or delete it: a [`write`](Self::write), and
    /// [`write_by`](Self::write_by) for each place that this moves the row from or to, in all indexes of the table.
    ///
    /// ```
    /// use mixlog_engine::{Footprint, Index, Table};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Clone, Serialize, Deserialize)]
    /// struct Task { queue: String, due: u64 }
    ///
    /// const TASKS: Table<u64, Task> = Table::new("tasks");
    /// const BY_DUE: Index<u64, Task, (String, u64)> =
    ///     Index::new("tasks.due", TASKS, |_, task| Some((task.queue.clone(), task.due)));
    ///
    /// /// Of a procedure that puts a task off.
    /// fn footprint(task: u64, until: u64, f: &mut Footprint<'_>) {
    ///     if let Some(old) = f.get(&TASKS, &task) {
    ///         f.write_row(&TASKS, &task, Some(&old), Some(&Task { due: until, ..old.clone() }));
    ///     }
    /// }
    /// ```
    ///
    /// Cost: the index functions, on both rows.
    ///
    /// # Panics
    /// As [`read`](Self::read), and where an index function does.
    pub fn write_row<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: &K,
        old: Option<&V>,
        new: Option<&V>,
    ) -> &mut Self {
        self.write(table, key).store().table(table).declare_moves(self, key, old, new);
        self
    }

    /// The procedure may read the first `rows` rows of `range`. A guess when the table changes meanwhile: if rows go
    /// away and the walk gets further than foreseen, the guard notices.
    ///
    /// # Panics
    /// As [`range`](Self::range).
    pub fn range_first<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        range: impl RangeBounds<K>,
        rows: usize,
    ) -> &mut Self {
        self.leaves_in(self.store.table(table), &range, rows);
        self
    }

    /// The first `rows` rows of `range`, of an ordered table, in a state of the recent past: of it as with
    /// [`get_range`](Self::get_range), and what the procedure may read as with [`range_first`](Self::range_first). For who
    /// takes the best few of many, as an exchange does: declaring all of them would have it wait for whoever touches any. In a
    /// grouped table both declare the granule.
    ///
    /// Shape: `(K, V)`, in key order.
    ///
    /// Cost: a descent of the tree for every 64 rows, 32 in a grouped table, cache misses, and a copy of each row.
    ///
    /// # Panics
    /// As [`Tx::range`](crate::Tx::range).
    pub fn get_first<K: Key, V: Value, C: Codec<K> + Codec<V>, R: RangeBounds<K>>(
        &mut self,
        table: &Table<K, V, C>,
        range: R,
        rows: usize,
    ) -> impl Iterator<Item = (K, V)> + use<'a, K, V, C, R> {
        let store = self.store.table(table);
        self.leaves_in(store, &range, rows);
        self.says.add(Says::LOOKED);
        let found = self.past.map(|(at, _)| store.range_at(&range, at));
        found.into_iter().flatten().take(rows)
    }

    /// Declares a walk through a range of an ordered table.
    pub(crate) fn range_in<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        store: &TableStore<K, V, C>,
        range: &impl RangeBounds<K>,
    ) {
        self.leaves_in(store, range, usize::MAX);
    }

    fn leaves_in<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        store: &TableStore<K, V, C>,
        range: &impl RangeBounds<K>,
        rows: usize,
    ) {
        if !matches!(store.conflicts, Conflicts::Ranges) {
            let granule = store.granule_of_range(range);
            self.name(granule, || store.name_of_range(range));
            self.granule(store.number(), granule, Mode::Read);
            return;
        }
        // How much of the first leaf lies before the range is not known.
        let mut ahead = None;
        store.granules_of_range(range, |leaf, granule, count| {
            self.name(granule, || store.name_of_range(range));
            self.unit(store.number(), granule, leaf, Mode::Read);
            let seen = ahead.map_or(0, |ahead: usize| ahead.saturating_add(count as usize));
            ahead = Some(seen);
            seen < rows
        });
    }

    /// The procedure may read all rows of a granule, of this table and, for a
    /// [`grouped`](Table::grouped) one, of its domain.
    ///
    /// # Panics
    /// When the table has no granules, and as [`read`](Self::read).
    pub fn read_granule<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        granule: u64,
    ) -> &mut Self {
        let store = self.store.table(table);
        assert!(
            matches!(store.conflicts, Conflicts::Watched(_) | Conflicts::Grouped { .. }),
            "table {:?} has no granules: see Table::watched and Table::grouped",
            table.name()
        );
        self.name(store.granule_hash(granule), || granule.to_string());
        self.granule(store.number(), store.granule_hash(granule), Mode::Read);
        self
    }

    /// The procedure may do anything to the rows of a granule in the tables of the domain.
    ///
    /// # Panics
    /// When the table is not [`grouped`](Table::grouped), and as [`read`](Self::read).
    pub fn write_granule<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        granule: u64,
    ) -> &mut Self {
        let store = self.store.table(table);
        assert!(
            matches!(store.conflicts, Conflicts::Grouped { .. }),
            "granules of table {:?} cannot be written as a whole: see Table::grouped",
            table.name()
        );
        self.name(store.granule_hash(granule), || granule.to_string());
        self.granule(store.number(), store.granule_hash(granule), Mode::Write);
        self
    }

    /// The engine finds out by itself: it runs the procedure on a state of the past, apart from the others, and
    /// sees what it touches (reconnaissance; Calvin, SIGMOD 2012, section 3.2.1). The result is used as it stands if
    /// nothing that was read has changed since; else the procedure runs again at its position. What else is declared
    /// counts too.
    ///
    /// Most keys follow from the arguments. Once the engine has seen how, from some dozens of transactions, it infers the
    /// footprints of the next ones instead of running them ahead, for as long as that turns out right
    /// ([`Builder::infer`](crate::Builder::infer)).
    ///
    /// Cost: where it is inferred, about that of a declared one; else a copy of every row that is changed, and a second
    /// run for those whose rows are hot.
    pub const fn reconnoitre(&mut self) -> &mut Self {
        self.says.add(Says::RECONNOITRE);
        self
    }

    /// The procedure may touch anything: it runs alone, between all transactions before and after it.
    pub const fn unknown(&mut self) -> &mut Self {
        self.says.add(Says::UNKNOWN);
        self
    }

    /// Where the declarations end so far, for [`take_back`](Self::take_back).
    pub(crate) const fn mark(&self) -> (usize, usize) {
        (self.declarations.accesses.len(), self.declarations.located.len())
    }

    /// Takes back what was declared since, other than bounded adds.
    pub(crate) fn take_back(&mut self, (accesses, located): (usize, usize)) {
        self.declarations.accesses.truncate(accesses);
        self.declarations.located.truncate(located);
        self.granules = [0; GRANULES];
    }

    /// Whether the engine is to find out.
    pub(crate) const fn is_to_be_found(&self) -> bool {
        self.says.has(Says::RECONNOITRE)
    }

    /// Adds an access to a row that a speculation touched, in a table whose rows conflict one by one.
    #[inline]
    pub(crate) fn row(&mut self, row: &TouchedRow) {
        if let Some(mode) = row.mode() {
            let &TouchedRow { key_hash: key, row, table, .. } = row;
            if row == NOWHERE && self.names.is_none() {
                self.store.any(table).prefetch_index(key);
            }
            self.declarations.merges |= mode == Mode::Merge;
            self.declarations.accesses.push(Access { key, row, table, mode, of: Of::Row });
        }
    }

    /// Adds an access to a row, which is most likely the one with this number.
    #[inline]
    pub(crate) fn access<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        store: &TableStore<K, V, C>,
        key: &K,
        key_hash: u64,
        row: RowId,
        mode: Mode,
    ) {
        let table = store.number();
        // Whoever wants names is no driver: an index may be exchanged while it looks.
        if row == NOWHERE && self.names.is_none() {
            self.store.any(table).prefetch_index(key_hash);
        }
        match &store.conflicts {
            Conflicts::Grouped { granule, .. } => {
                let mode = if mode == Mode::Read { Mode::Read } else { Mode::Write };
                let number = granule.of(key);
                self.name(store.granule_hash(number), || number.to_string());
                self.granule(table, store.granule_hash(number), mode);
                self.declarations.located.push(Located { key_hash, row, table });
                return;
            }
            Conflicts::Watched(_) | Conflicts::Ranges if mode != Mode::Read => {
                self.granule(table, store.granule_of(key), Mode::Merge);
            }
            Conflicts::Rows | Conflicts::Watched(_) | Conflicts::Ranges => {}
        }
        self.name(key_hash, || <C as Codec<K>>::describe(key));
        self.declarations.merges |= mode == Mode::Merge && matches!(store.conflicts, Conflicts::Rows);
        self.declarations.accesses.push(Access { key: key_hash, row, table, mode, of: Of::Row });
    }

    /// Granules repeat from line to line of an order: remembering some spares the mixer nearly all repetitions.
    #[inline]
    pub(crate) fn granule(&mut self, table: u16, key: u64, mode: Mode) {
        self.unit(table, key, NOWHERE, mode);
    }

    #[inline]
    fn unit(&mut self, table: u16, key: u64, leaf: u32, mode: Mode) {
        let tagged = key ^ (mode as u64 + 1);
        let remembered = &mut self.granules[(key % GRANULES as u64) as usize];
        if *remembered != tagged {
            *remembered = tagged;
            self.declarations.accesses.push(Access { key, row: leaf, table, mode, of: Of::Granule });
        }
    }
}
