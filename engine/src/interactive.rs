//! Interactive transactions: read on a snapshot, keep the changes, append the intention.
//!
//! Not every transaction can be written as a procedure: some talk to other services, or to people, between their
//! reads and their writes. Such a one runs in its own process on a snapshot. When it commits, what goes into the log
//! is its *intention* (Hyder, CIDR 2011; Tango, SOSP 2013): what it read, as hashes, and what it will write. An
//! intention is a procedure like any other, with an exact footprint; at its position every replica compares the hashes
//! with what is there then, and decides alike. Rows and ranges are compared by what they hold, not by version
//! numbers: so a decision depends on the log alone, whatever a replica has collected or recovered from.
//!
//! What an intention writes are rows of tables. Their places in indexes follow from them, on each replica by the indexes
//! that it has, so no log depends on an index, except by those ranges of it that a transaction read.
//!
//! Keys, rows and hashes of rows stand in the log as bytes of their types, and another version of a table has others. So an
//! intention tells the versions of all tables that it touches, and who has another one executes nothing from there on: what
//! was committed would conflict, or be read as what it is not. That is found where entries are decoded, so it depends on the
//! log and the registered tables alone.
//!
//! Strictly serializable: at its position the transaction would have read the same, ranges included.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::thread;
use std::time::Duration;

use mixlog_log::{Position, SharedLog};
use mixlog_mixer::Mode;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bounded::Counter;
use crate::clients::ClientId;
use crate::codec::Codec;
use crate::engine::Engine;
use crate::error::{ExecuteError, OpenError, SubmitError};
use crate::footprint::Footprint;
use crate::index::ROW_VERSION_BITS;
use crate::index::{Index, IndexKey, places};
use crate::merge::Merge;
use crate::procedure::{Procedure, ProcedureId};
use crate::snapshot::Snapshot;
use crate::store::{AnyTable, Beside, Overlays, Speculative, Store, Touched};
use crate::table::{Key, Table, TableId, Value};
use crate::ticket::{Outcome, Ticket, TicketError};
use crate::tx::{Lent, Tx};

/// What an interactive transaction read and will write: the procedure that commits it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Intention {
    /// What the others name by its place here.
    pub(crate) tables: Vec<Named>,
    pub(crate) reads: Vec<Read>,
    pub(crate) scans: Vec<Scanned>,
    pub(crate) writes: Vec<Written>,
    /// Where the writes moved rows in indexes when it was made: for its footprint.
    pub(crate) places: Vec<Placed>,
}

/// A table, or an index of which a range was read, and the version of its rows: of an index, of those that it finds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) id: u64,
    pub(crate) version: u32,
}

/// A row, and the hash of what it held, if it was there.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Read {
    pub(crate) table: u32,
    pub(crate) key: Vec<u8>,
    pub(crate) hash: Option<u128>,
}

/// A range, and the hash of its rows in order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Scanned {
    pub(crate) table: u32,
    pub(crate) from: Bound<Vec<u8>>,
    pub(crate) to: Bound<Vec<u8>>,
    pub(crate) hash: u128,
}

/// A row, and what it shall hold.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) table: u32,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
}

/// A place in an index.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Placed {
    pub(crate) index: u64,
    pub(crate) key: Vec<u8>,
}

/// Why an interactive transaction did not commit: something that it read had changed when its intention came to its
/// position.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Conflict {
    /// A row had changed, appeared or disappeared.
    #[error("a row of table {table:?} changed since it was read")]
    Row {
        /// The table's name.
        table: String,
    },
    /// A row of a range had changed, appeared or disappeared.
    #[error("a range of table {table:?} changed since it was read")]
    Range {
        /// The table's name.
        table: String,
    },
}

fn find(store: &Store, id: u64) -> Option<&dyn AnyTable> {
    store.tables().find(|table| table.id() == TableId(id))
}

const CHECKED: &str = "an intention was checked when it was read";

/// The bytes were written by an engine with the same tables, in the same versions.
const FOREIGN: &str = "keys and rows of an intention have the types of their tables";

impl Intention {
    pub(crate) const ID: ProcedureId = ProcedureId::of(Self::NAME, Self::VERSION);

    /// The number by which it names a table, which is put among those that it touches.
    pub(crate) fn name(&mut self, table: &dyn AnyTable) -> u32 {
        let TableId(id) = table.id();
        let known = self.tables.iter().position(|named| named.id == id);
        let number = known.unwrap_or_else(|| {
            self.tables.push(Named { id, version: table.row_version() });
            self.tables.len() - 1
        });
        u32::try_from(number).expect("an engine has fewer tables")
    }

    fn table<'s>(&self, store: &'s Store, number: u32) -> &'s dyn AnyTable {
        find(store, self.tables[number as usize].id).expect(CHECKED)
    }

    /// Whether this engine has all that the intention at `position` names, as it was then. Catalogs tell of tables, and
    /// neither of indexes nor of versions.
    pub(crate) fn check(&self, store: &Store, position: Position) -> Result<(), OpenError> {
        let bad = |detail: String| Err(OpenError::Entry { position, detail });
        for &Named { id, version: written } in &self.tables {
            let Some(table) = find(store, id) else {
                return bad(format!(
                    "an interactive transaction names a table, or an index that it read, with id {id:016x}, which is \
                     not registered"
                ));
            };
            let registered = table.row_version();
            let [then, now] = [written, registered].map(|version| version >> ROW_VERSION_BITS);
            if then != now && table.is_derived() {
                return bad(format!(
                    "an interactive transaction read a range of index {:?} version {then}, and version {now} is registered",
                    table.name()
                ));
            }
            if written != registered {
                let table = table.name().to_owned();
                return Err(OpenError::RowVersion { table, position, written, registered });
            }
        }
        let reads = self.reads.iter().map(|read| read.table);
        let numbers = reads.chain(self.scans.iter().map(|scan| scan.table));
        let mut numbers = numbers.chain(self.writes.iter().map(|write| write.table));
        if numbers.any(|number| number as usize >= self.tables.len()) {
            return bad("an interactive transaction touches a table that it does not name".to_owned());
        }
        for Scanned { table, from, to, .. } in &self.scans {
            let index = self.table(store, *table);
            if !index.is_derived() {
                continue;
            }
            if let Err(error) = index.check_range(from.as_ref(), to.as_ref()) {
                let name = index.name();
                return bad(format!(
                    "an interactive transaction read a range of index {name:?}, then of another type: {error}"
                ));
            }
        }
        Ok(())
    }
}

impl Procedure for Intention {
    const NAME: &'static str = "mixlog.intention";
    type Output = ();
    type Abort = Conflict;

    fn footprint(&self, f: &mut Footprint<'_>) {
        let store = f.store();
        for read in &self.reads {
            self.table(store, read.table).declare_bytes(&read.key, Mode::Read, f).expect(FOREIGN);
        }
        for scan in &self.scans {
            self.table(store, scan.table)
                .declare_range(scan.from.as_ref(), scan.to.as_ref(), f)
                .expect(FOREIGN);
        }
        for write in &self.writes {
            self.table(store, write.table).declare_bytes(&write.key, Mode::Write, f).expect(FOREIGN);
        }
        for Placed { index, key } in &self.places {
            // As good as it gets: the index may be gone, or another one by now.
            let _ = find(store, *index).map(|index| index.declare_bytes(key, Mode::Write, f));
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Conflict> {
        let store = tx.store();
        for read in &self.reads {
            let table = self.table(store, read.table);
            if table.hash_of(tx, &read.key).expect(FOREIGN) != read.hash {
                return Err(Conflict::Row { table: table.name().to_owned() });
            }
        }
        for scan in &self.scans {
            let table = self.table(store, scan.table);
            if table.hash_of_range(tx, scan.from.as_ref(), scan.to.as_ref()).expect(FOREIGN) != scan.hash {
                return Err(Conflict::Range { table: table.name().to_owned() });
            }
        }
        for write in &self.writes {
            self.table(store, write.table)
                .write_bytes(tx, &write.key, write.value.as_deref())
                .expect(FOREIGN);
        }
        Ok(())
    }
}

/// Why an interactive transaction is not known to have committed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum CommitError {
    /// It did not: something that it read had changed. Begin again, or see [`Engine::transact`].
    #[error("conflict at position {position}: {reason}")]
    Conflict {
        /// Where its intention stands.
        position: Position,
        /// What had changed.
        reason: Conflict,
    },
    /// It did not, and needs not: another one of its client with this sequence number did
    /// ([`Client::begin`](crate::Client::begin)).
    #[error("it had committed before, at position {position}")]
    CommittedBefore {
        /// Where the one stands that committed.
        position: Position,
    },
    /// It did not: the engine takes no transactions.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// Nobody knows, since the engine stopped first, or the log cannot tell; or it did not: see [`TicketError`].
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// It did not: its keys or rows do not fit the tables, or a row's type panics.
    #[error("the intention at position {position} panicked: {message}")]
    Panicked {
        /// Where its intention stands.
        position: Position,
        /// The panic's message.
        message: String,
    },
}

impl From<ExecuteError> for CommitError {
    fn from(error: ExecuteError) -> Self {
        match error {
            ExecuteError::Submit(error) => Self::Submit(error),
            ExecuteError::Ticket(TicketError::CommittedBefore { position, .. }) => {
                Self::CommittedBefore { position }
            }
            ExecuteError::Ticket(error) => Self::Ticket(error),
        }
    }
}

/// A transaction that its program drives step by step: reads see the state at its beginning and its own changes,
/// which nobody else sees before [`commit`](Self::commit). Dropping it forgets them.
///
/// ```
/// # use std::sync::Arc;
/// # use mixlog_engine::{Engine, Table};
/// # use mixlog_log::MemoryLog;
/// const ACCOUNTS: Table<String, i64> = Table::new("accounts");
/// let engine = Engine::builder().table(&ACCOUNTS).open(Arc::new(MemoryLog::new())).unwrap();
///
/// let mut transaction = engine.begin();
/// let balance = transaction.get(&ACCOUNTS, &"ann".to_owned()).copied().unwrap_or(0);
/// transaction.put(&ACCOUNTS, "ann".to_owned(), balance + 10);
/// transaction.commit().unwrap();
/// assert_eq!(engine.snapshot().get(&ACCOUNTS, &"ann".to_owned()), Some(10));
/// ```
pub struct Transaction<'e> {
    engine: &'e Engine,
    snapshot: Snapshot,
    overlays: Overlays,
    lent: Option<Lent<'e>>,
    /// Whose it is, and its number, if it is to commit once.
    once: Option<(ClientId, u64)>,
    /// Looking changes the overlays: not from two threads at once.
    one_thread: PhantomData<Cell<()>>,
}

#[allow(unsafe_code)]
impl<'e> Transaction<'e> {
    pub(crate) fn new(engine: &'e Engine, once: Option<(ClientId, u64)>) -> Self {
        let mut overlays = Overlays::default();
        overlays.start(engine.store().tables().len(), None);
        Self { engine, snapshot: engine.snapshot(), overlays, lent: None, once, one_thread: PhantomData }
    }

    const fn speculative(&self) -> Speculative<'_> {
        Speculative {
            overlays: &self.overlays,
            at: self.snapshot.stamp(),
            position: None,
            beside: Beside::Anybody,
        }
    }

    fn tx(&mut self) -> Tx<'_> {
        self.keep_indexes();
        Tx::resume(self.engine.store(), self.speculative())
    }

    /// See [`Tx::keep_indexes`].
    fn keep_indexes(&mut self) {
        if let Some(moved) = self.lent.take() {
            moved(&mut Tx::resume(self.engine.store(), self.speculative()));
        }
    }

    /// The last position whose changes it sees, or `None` for the empty state before the first.
    #[must_use]
    pub const fn position(&self) -> Option<Position> {
        self.snapshot.position()
    }

    /// The row of `key`, if there is one.
    ///
    /// # Panics
    /// Here and below: when the table is not registered with the engine.
    pub fn get<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> Option<&V> {
        // SAFETY: shared while `&self` lives; changes take `&mut self`.
        unsafe { self.speculative().get(self.engine.store().table(table), key) }
    }

    /// Whether there is a row of `key`: a read of it.
    pub fn contains<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> bool {
        self.get(table, key).is_some()
    }

    /// The row of `key` to be changed, if there is one.
    pub fn get_mut<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> Option<&mut V> {
        self.keep_indexes();
        let store = self.engine.store().table(table);
        if store.is_indexed() {
            self.lent = Some(store.lend(key.clone(), self.get(table, key).cloned()));
        }
        // SAFETY: `&mut self` keeps all others away.
        unsafe { self.speculative().get_mut(store, key) }
    }

    /// The row of `key` to be changed; where there is none, what `make` returns is put there first.
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

    /// Inserts the row of `key`, or overwrites it: whatever it holds, unless it was read as well. In a table with an index
    /// that is a read of the row, too.
    pub fn put<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: K,
        value: V,
    ) {
        self.tx().put(table, key, value);
    }

    /// Deletes the row of `key`; tells whether there was one.
    pub fn delete<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> bool {
        self.tx().delete(table, key)
    }

    /// Deletes the row of `key` and returns it, if there was one.
    pub fn take<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: &K,
    ) -> Option<V> {
        self.tx().take(table, key)
    }

    /// Merges into the row of `key`, as a read and a write of it: who wants merges that do not conflict writes a
    /// procedure. The operator is told the first position that this transaction does not see: what it merges comes behind all
    /// that is there, and before all that is merged after it commits.
    ///
    /// # Panics
    /// When the table is not registered with the engine.
    pub fn merge<K: Key, V: Merge, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: K,
        delta: V::Delta,
    ) -> bool {
        self.tx().merge(table, key, delta)
    }

    /// Adds `delta` to the row of `key`, unless that would take it below `floor`, as [`Tx::add_bounded`] does; as a
    /// read and a write of it.
    ///
    /// # Panics
    /// When the table is not registered with the engine.
    pub fn add_bounded<K: Key, V: Counter, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        key: K,
        delta: i64,
        floor: i64,
    ) -> bool {
        self.tx().add_bounded(table, key, delta, floor)
    }

    /// The rows with keys in `range`, in key order; see [`Tx::range`]. It depends on the part of the range that was
    /// walked: a row that somebody else inserts there is a conflict, and so is a change of one that this transaction had
    /// overwritten before it walked there.
    ///
    /// Shape: `(K, &V)`.
    ///
    /// # Panics
    /// As [`Tx::range`].
    pub fn range<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        range: impl RangeBounds<K>,
    ) -> impl DoubleEndedIterator<Item = (K, &V)> {
        self.speculative().range(self.engine.store().table(table), &range)
    }

    /// The row with the least key in `range`.
    ///
    /// # Panics
    /// As [`Tx::range`].
    pub fn first<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        range: impl RangeBounds<K>,
    ) -> Option<(K, &V)> {
        self.range(table, range).next()
    }

    /// The row with the greatest key in `range`.
    ///
    /// # Panics
    /// As [`Tx::range`].
    pub fn last<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &self,
        table: &Table<K, V, C>,
        range: impl RangeBounds<K>,
    ) -> Option<(K, &V)> {
        self.range(table, range).next_back()
    }

    /// Deletes the row with the least key in `range` and returns it.
    ///
    /// # Panics
    /// As [`Tx::range`].
    pub fn pop_first<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        range: impl RangeBounds<K>,
    ) -> Option<(K, V)> {
        self.tx().pop_first(table, range)
    }

    /// Deletes the row with the greatest key in `range` and returns it.
    ///
    /// # Panics
    /// As [`Tx::range`].
    pub fn pop_last<K: Key, V: Value, C: Codec<K> + Codec<V>>(
        &mut self,
        table: &Table<K, V, C>,
        range: impl RangeBounds<K>,
    ) -> Option<(K, V)> {
        self.tx().pop_last(table, range)
    }

    /// The rows that an index finds for `range`; see [`Tx::range_by`].
    ///
    /// Shape: `(I, K)`, one for each entry of the index.
    ///
    /// # Panics
    /// When the index is not registered.
    pub fn range_by<K: IndexKey, V: Value, I: IndexKey, C: Codec<K> + Codec<V>>(
        &mut self,
        index: &Index<K, V, I, C>,
        range: impl RangeBounds<I>,
    ) -> impl DoubleEndedIterator<Item = (I, K)> {
        self.keep_indexes();
        let store = self.engine.store().table(&index.places());
        self.speculative().range(store, &places::<I, K>(&range)).map(|(place, ())| place.into_parts())
    }

    fn intention(&mut self) -> Intention {
        self.keep_indexes();
        let mut intention = Intention::default();
        let (store, at) = (self.engine.store(), self.snapshot.stamp());
        for touched in self.overlays.touched(self.overlays.at_hand()) {
            if let Touched::Row(row) = touched {
                store.any(row.table).intend(&self.overlays, row, at, &mut intention);
            }
        }
        for (number, table) in (0u16..).zip(store.tables()) {
            if self.overlays.has(number) {
                table.intend_scans(&self.overlays, at, &mut intention);
            }
        }
        intention
    }

    /// Appends the intention, and waits for the decision. Returns the position at which the transaction took
    /// place; one that wrote nothing took place where it began, and appends nothing, unless it has a sequence number
    /// ([`Client::begin`](crate::Client::begin)): it has to be told whether one before it had committed.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn commit(mut self) -> Result<Option<Position>, CommitError> {
        let intention = self.intention();
        if intention.writes.is_empty() && self.once.is_none() {
            return Ok(self.position());
        }
        let (outcome, is_first) = self.engine.execute_as(&intention, self.once)?;
        match outcome {
            Outcome::Committed { position, .. } if !is_first => {
                Err(CommitError::CommittedBefore { position })
            }
            Outcome::Committed { position, .. } => Ok(Some(position)),
            Outcome::Aborted { position, reason } => Err(CommitError::Conflict { position, reason }),
            Outcome::Panicked { position, message } => Err(CommitError::Panicked { position, message }),
        }
    }

    /// Appends the intention, and gives a ticket for the decision; also when nothing was written. Where one of its client
    /// had committed under its sequence number ([`Client::begin`](crate::Client::begin)), the ticket's error is
    /// [`CommittedBefore`](TicketError::CommittedBefore); but one that read and wrote the very same is taken for that one
    /// itself, and told where it committed.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub fn submit(mut self) -> Result<Ticket<Intention>, SubmitError> {
        let intention = self.intention();
        self.engine.submit_as(&intention, self.once, SharedLog::append).map(|(ticket, _)| ticket)
    }
}

impl std::fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction").field("position", &self.position()).finish_non_exhaustive()
    }
}

/// Why [`Engine::transact`] gave up.
#[derive(Clone, Debug, Error)]
pub enum TransactError<E> {
    /// The body decided so; nothing was changed.
    #[error("the transaction gave up")]
    Aborted(E),
    /// It was not committed, or nobody knows.
    #[error(transparent)]
    Commit(CommitError),
}

/// How often to begin again after a conflict, and how long to wait before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// How often the body runs at most.
    pub attempts: u32,
    /// The mean wait before the second attempt; it doubles each time.
    pub first: Duration,
    /// The longest mean wait, also before the second attempt. At most 2^32 seconds: more is that.
    pub longest: Duration,
}

/// Twice as long can be told, and nobody waits for it.
const LONGEST: Duration = Duration::from_secs(1 << 32);

impl Default for Backoff {
    /// 100 attempts, 50 microseconds, 10 milliseconds.
    fn default() -> Self {
        Self { attempts: 100, first: Duration::from_micros(50), longest: Duration::from_millis(10) }
    }
}

impl Engine {
    /// Begins an interactive transaction on the newest committed state. While it lives, that state is retained.
    ///
    /// A [`Procedure`] is cheaper, needs no retry, and does not conflict: prefer it where the transaction's code can
    /// run in the engine. The code of this one runs here and nowhere else: it may look at clocks, ask others, take its
    /// time; only what it read and wrote goes into the log.
    #[must_use]
    pub fn begin(&self) -> Transaction<'_> {
        Transaction::new(self, None)
    }

    /// Runs `body` in an interactive transaction and commits it, again and again while it conflicts, waiting a
    /// random time in between. Returns what the body returned, and the position.
    ///
    /// # Errors
    /// [`TransactError`]; the last conflict once `backoff` has no more attempts.
    pub fn transact<R, E>(
        &self,
        backoff: Backoff,
        body: impl FnMut(&mut Transaction<'_>) -> Result<R, E>,
    ) -> Result<(R, Option<Position>), TransactError<E>> {
        again_and_again(|| self.begin(), backoff, body)
    }
}

/// Runs `body` in transactions that `begin` begins until one does not conflict; see [`Engine::transact`].
pub(crate) fn again_and_again<'e, R, E>(
    begin: impl Fn() -> Transaction<'e>,
    backoff: Backoff,
    mut body: impl FnMut(&mut Transaction<'_>) -> Result<R, E>,
) -> Result<(R, Option<Position>), TransactError<E>> {
    let longest = backoff.longest.min(LONGEST);
    let mut mean = backoff.first.min(longest);
    for attempt in 1.. {
        let mut transaction = begin();
        let output = body(&mut transaction).map_err(TransactError::Aborted)?;
        match transaction.commit() {
            Ok(position) => return Ok((output, position)),
            Err(CommitError::Conflict { .. }) if attempt < backoff.attempts => {
                // Between nothing and twice the mean.
                let share = f64::from(crate::engine::random() as u32) / f64::from(u32::MAX);
                thread::sleep(mean.mul_f64(2.0 * share));
                mean = (mean * 2).min(longest);
            }
            Err(error) => return Err(TransactError::Commit(error)),
        }
    }
    unreachable!("the last attempt returns")
}
