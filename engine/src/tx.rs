//! What a running procedure sees: typed reads and writes, each behind the guard.
//!
//! The guard compares every access with the footprint *before* it happens. So a transaction that declared too
//! little never touches what another one may be changing: it is stopped by unwinding, its changes are put back,
//! and the window is replayed one by one. Hence every transaction before the first violator saw exactly what it
//! would have seen one by one, and the first violator is the same however many workers there are.
#![allow(unsafe_code)]

mod bounded;
mod by_table;
mod gaps;
mod guard;
mod keyed;
mod ranges;
mod rows;

use std::cell::Cell;

use mixlog_log::Position;

pub(crate) use by_table::ByTable;
pub(crate) use gaps::leave_in as leave_gaps;
use guard::CURSORS;
pub(crate) use guard::{Allowed, Guard};
use keyed::{Keyed, List};

use crate::ahead::MOST_TOUCHED;
use crate::bounded::Bounded;
use crate::footprint::{Access, Details, Located};
use crate::store::{AnyMerging, Beside, Overlays, Speculative, Stamp, Store, Worker};

/// What remains to be done when a row of an indexed table was lent to be changed.
pub(crate) type Lent<'a> = Box<dyn for<'t> FnOnce(&mut Tx<'t>) + Send + 'a>;

/// A transaction while it runs: the procedure's only way to data.
///
/// It sees its own changes. It never sees those of later transactions, nor half of an earlier one.
pub struct Tx<'a> {
    store: &'a Store,
    way: Way<'a>,
    position: Option<Position>,
    time_us: u64,
    /// How many random numbers were drawn.
    drawn: Cell<u64>,
    /// A row of an indexed table that was lent to be changed.
    lent: Option<Lent<'a>>,
}

/// Where a transaction's changes go.
#[expect(clippy::large_enum_variant, reason = "a transaction lives on the stack, and is hardly ever moved")]
enum Way<'a> {
    /// Rows change in place: the transaction runs at its position.
    InPlace(InPlace<'a>),
    /// Rows are copied as of a position of the past, and changes stay in the copies.
    Speculative(Speculative<'a>),
}

/// A merge to be made at the end of the transaction.
pub(crate) struct Noted {
    pub(crate) merging: Box<dyn AnyMerging>,
    /// Or at the end of the window.
    pub(crate) pooled: bool,
    /// The hash of the row's key.
    pub(crate) key_hash: u64,
}

impl Keyed for Noted {
    fn key(&self) -> u64 {
        self.key_hash
    }
}

/// A transaction at its position.
struct InPlace<'a> {
    worker: &'a mut Worker,
    guard: Guard<'a>,
    /// What was declared, if anything was.
    accesses: List<&'a [Access]>,
    /// Where in the footprint the newest access of a table was found, by the table's number: the next one is most
    /// likely the same, or soon behind it.
    cursors: [Cell<u32>; CURSORS],
    /// Rows looked up ahead, and the one after the newest that was used.
    located: &'a [Located],
    next_located: Cell<usize>,
    /// Declared adds, and the unordered ones that were noted: the key's hash and the amount.
    bounded: List<&'a [Bounded]>,
    added: List<Vec<(u64, i64)>>,
    /// How many of these were there when the newest one was made at once, in a replay.
    adds_made: Cell<usize>,
    /// The granule that was last allowed to be merged on.
    merged: Cell<u64>,
    /// The first table that was touched without being declared.
    violation: Cell<Option<&'static str>>,
    /// Merges to be made at the end.
    merges: List<Vec<Noted>>,
    /// The keys that they are of, once there are many and ranges are read.
    merged_keys: ByTable,
    /// Where it found no rows.
    gaps: ByTable,
    position: Position,
    window: Stamp,
    me: Stamp,
}

impl<'a> Tx<'a> {
    /// # Safety
    /// With [`Guard::Stop`], the schedule keeps apart all transactions whose declared accesses conflict, and
    /// the accesses are this transaction's; otherwise no other transaction runs. `window` is the position at
    /// which the window at hand starts.
    pub(crate) const unsafe fn new(
        store: &'a Store,
        worker: &'a mut Worker,
        guard: Guard<'a>,
        details: Details<'a>,
        window: Position,
        position: Position,
        time_us: u64,
    ) -> Self {
        let way = Way::InPlace(InPlace {
            worker,
            guard,
            accesses: List::new(guard.accesses()),
            cursors: [const { Cell::new(0) }; CURSORS],
            located: details.located,
            next_located: Cell::new(0),
            bounded: List::new(details.bounded),
            added: List::new(Vec::new()),
            adds_made: Cell::new(0),
            merged: Cell::new(0),
            violation: Cell::new(None),
            merges: List::new(Vec::new()),
            merged_keys: ByTable::new(),
            gaps: ByTable::new(),
            position,
            window: Stamp::of(window),
            me: Stamp::of(position),
        });
        Self { store, way, position: Some(position), time_us, drawn: Cell::new(0), lent: None }
    }

    /// A transaction that runs on the state as of `at`, apart from all others, and changes nothing. What it touches
    /// is in the overlays afterwards.
    ///
    /// The state of `at` must be readable: a registered snapshot, or, for drivers beside a window, the end of the one
    /// before it.
    pub(crate) fn speculative(
        store: &'a Store,
        overlays: &'a mut Overlays,
        at: Stamp,
        position: Position,
        time_us: u64,
        beside: Beside<'a>,
    ) -> Self {
        let most = matches!(beside, Beside::Window { .. }).then_some(MOST_TOUCHED);
        overlays.start(store.tables().len(), most);
        let position = Some(position);
        let way = Way::Speculative(Speculative { overlays, at, position, beside });
        Self { store, way, position, time_us, drawn: Cell::new(0), lent: None }
    }

    /// A transaction that goes on with what is in the overlays.
    pub(crate) const fn resume(store: &'a Store, tx: Speculative<'a>) -> Self {
        Self { store, way: Way::Speculative(tx), position: None, time_us: 0, drawn: Cell::new(0), lent: None }
    }

    /// The same for a transaction that ran before at this position and was put back.
    pub(crate) const fn again(mut self) -> Self {
        if let Way::InPlace(tx) = &mut self.way {
            tx.me = tx.me.again();
        }
        self
    }

    /// What it changed so far; see [`Store::effects`].
    pub(crate) fn effects(&mut self) -> Vec<(u16, u128)> {
        match &mut self.way {
            Way::InPlace(tx) => self.store.effects(tx.worker, tx.merges.items()),
            Way::Speculative { .. } => Vec::new(),
        }
    }

    /// Makes the changes stay, or puts them back; tells of the table that was touched without being declared.
    pub(crate) fn finish(self, keep: bool) -> Option<&'static str> {
        let Way::InPlace(tx) = self.way else { return None };
        let mut stopped = matches!(tx.guard, Guard::Stop(_)) && tx.violation.get().is_some();
        let merges = !tx.merges.items().is_empty();
        if !stopped {
            for Noted { merging, pooled, .. } in tx.merges.into_items() {
                let made = if keep && pooled {
                    tx.worker.pool.add(merging, tx.position);
                    continue;
                } else if keep {
                    // SAFETY: the guard allowed it when it was noted.
                    unsafe { merging.make(self.store, tx.worker, tx.window, tx.me, tx.position) }
                } else {
                    // One by one, an operator that panics ends the transaction before it aborts.
                    merging.try_out(self.store, tx.position)
                };
                if made.is_err() {
                    // One by one it can be put back, and panics as any procedure.
                    stopped = true;
                    tx.violation.set(Some(merging.table()));
                    break;
                }
            }
        }
        if keep && !stopped {
            self.store.keep_changes(tx.worker);
            if merges {
                // Of the rows that came of them the gaps know nothing.
                tx.worker.gaps.clear();
            } else {
                gaps::leave(self.store, tx.worker, tx.gaps);
            }
        } else {
            self.store.roll_back(tx.worker);
        }
        tx.violation.get()
    }

    pub(crate) const fn store(&self) -> &'a Store {
        self.store
    }

    /// The position of this transaction in the log: unique, and the same on every replica.
    ///
    /// # Panics
    /// In an interactive transaction, which has no position before it commits.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position.expect("an interactive transaction has no position before it commits")
    }

    /// When the transaction was submitted, by its submitter's clock.
    ///
    /// Units: microseconds since 1970-01-01 UTC. Not monotone in the position.
    #[must_use]
    pub const fn time_us(&self) -> u64 {
        self.time_us
    }

    /// A random number: the next of a sequence that depends on the transaction's entry in the log alone, so that it
    /// is the same on every replica and in every run. Not for secrets: whoever reads the log can tell it.
    ///
    /// Splitmix64 (Steele, Lea, Flood, OOPSLA 2014) from the entry's position and time.
    ///
    /// # Panics
    /// As [`position`](Self::position).
    #[must_use]
    pub fn random(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mix = |mut z: u64| {
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let seed = mix(mix(self.position().0.wrapping_add(GAMMA)) ^ self.time_us);
        let drawn = self.drawn.get() + 1;
        self.drawn.set(drawn);
        mix(seed.wrapping_add(drawn.wrapping_mul(GAMMA)))
    }
}
