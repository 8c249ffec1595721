//! Executing a window: two executors with one interface, and what both do with one transaction.
//!
//! [`sequential`] is the specification, a loop in log order; [`parallel`] runs the mixer's schedule. Whatever
//! the second one does must be what the first one would have done.

pub(crate) mod parallel;
pub(crate) mod paranoid;
mod release;
pub(crate) mod sequential;

use mixlog_log::Position;

pub(crate) use release::Release;

use crate::clients::Once;
use crate::explain::Tally;
use crate::footprint::{Details, NOWHERE, Of};
use crate::panics::caught;
use crate::pipeline::{Driver, Shared};
use crate::procedure::Calls;
use crate::reply::Status;
use crate::store::{AnyMerging, Did, Stamp, Store, Touched, TouchedRow, Worker, Written};
use crate::tx::{Guard, Tx};
use crate::window::{Chunk, Speculation};

/// A transaction that touched what it had not declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) position: Position,
    /// Index of the procedure.
    pub(crate) procedure: u16,
    pub(crate) table: &'static str,
    /// Whether it wrote, though it was taken for one that only reads.
    pub(crate) wrote: bool,
    /// Whether its footprint was inferred.
    pub(crate) inferred: bool,
}

/// A transaction whose turn it is.
struct Turn<'a> {
    /// Where its window starts.
    window: Position,
    position: Position,
    chunk: &'a Chunk,
    /// Its index in the chunk.
    index: usize,
    guard: Guard<'a>,
    /// What the window may write, if, since the transaction ran ahead, nobody wrote anything but that and what the window
    /// at hand had declared then.
    written: Option<&'a Written>,
    /// Whether it waits for nobody in its window.
    is_free: bool,
}

/// Runs one transaction: its changes stay or are put back, and its reply is noted.
///
/// # Safety
/// As for [`Tx::new`].
#[allow(unsafe_code)]
unsafe fn run(shared: &Shared, driver: &mut Driver, turn: &Turn<'_>) -> Option<Violation> {
    let &Turn { window, position, chunk, index, guard, .. } = turn;
    let prepared = &chunk.transactions[index];
    let (procedure, call) = prepared.call?;
    let calls = chunk.calls[usize::from(procedure)].as_ref().expect("the call was decoded");
    let Driver { worker, replies, paranoid, .. } = driver;
    let twice = paranoid.samples(position);
    // Only an engine that explains has any.
    let explains = !replies.tallies.is_empty();
    let start = if explains { Tally::start(position) } else { None };
    if let Some(speculation) = prepared.speculation
        && matches!(guard, Guard::Stop(_))
        && !twice
    {
        let speculation = &chunk.speculations[speculation as usize];
        replies.reconnoitred += 1;
        // SAFETY: the caller's promise; the footprint was made of what the speculation touched.
        let adopting = || unsafe { adopt(&shared.store, worker, turn, speculation) };
        let adopted = caught(adopting).unwrap_or_else(|_| {
            // A row's clone, for one. Run one by one, the transaction panics like any other. Which table it was the replay
            // tells, if it is a violation at all.
            Err(chunk.accesses_of(index).first().map_or("", |access| shared.store.any(access.table).name()))
        });
        if explains {
            replies.tallies[usize::from(procedure)].ran_ahead(adopted == Ok(true));
        }
        match adopted {
            Ok(false) => {}
            Ok(true) => {
                replies.adopted += 1;
                replies.add(position, prepared.sequence, |reply| {
                    let replies = &chunk.lanes[usize::from(speculation.lane)].replies;
                    reply.extend_from_slice(&replies[speculation.reply.clone()]);
                    Some(speculation.status)
                });
                if explains {
                    replies.tallies[usize::from(procedure)].add(speculation.status, start);
                }
                return None;
            }
            Err(table) => {
                // The window is put back whole.
                shared.store.keep_changes(worker);
                return Some(Violation { position, procedure, table, wrote: false, inferred: false });
            }
        }
    }
    let attempt = Attempt {
        store: &shared.store,
        calls: &**calls,
        call,
        once: chunk.once(prepared),
        guard,
        details: chunk.details_of(index),
        window,
        position,
        time_us: prepared.time_us,
    };
    if prepared.inferred && matches!(guard, Guard::Stop(_)) {
        replies.inferred += 1;
        if explains {
            replies.tallies[usize::from(procedure)].was_inferred();
        }
    }
    let mut violation = None;
    let status = replies.add(position, prepared.sequence, |reply| {
        // SAFETY: the caller's promise.
        let ran = unsafe {
            if twice {
                paranoid.run(&attempt, procedure, worker, reply)
            } else {
                attempt.run(worker, reply, Run::Only)
            }
        };
        violation = ran.outside.map(|table| {
            let wrote = guard.allows_reading_anything();
            Violation { position, procedure, table, wrote, inferred: prepared.inferred }
        });
        ran.status
    });
    if explains && let Some(status) = status {
        replies.tallies[usize::from(procedure)].add(status, start);
    }
    violation
}

/// A transaction to be run at its position, once or twice.
struct Attempt<'a> {
    store: &'a Store,
    calls: &'a dyn Calls,
    call: u32,
    /// For a client's call.
    once: Option<&'a Once>,
    guard: Guard<'a>,
    details: Details<'a>,
    window: Position,
    position: Position,
    time_us: u64,
}

/// Which run of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Only,
    /// To be put back and compared with the next one.
    First,
    Again,
}

/// What came of it.
struct Ran {
    /// How it ended; `None` if it was stopped, since it left its footprint.
    status: Option<Status>,
    /// The first table that it touched outside of its footprint.
    outside: Option<&'static str>,
    /// What it changed, if that is to be compared ([`Store::effects`]).
    effects: Vec<(u16, u128)>,
}

impl Attempt<'_> {
    /// Runs the transaction and appends its reply. Its changes stay, or are put back if it does not commit or will run
    /// again.
    ///
    /// # Safety
    /// As for [`Tx::new`].
    #[allow(unsafe_code)]
    #[inline]
    unsafe fn run(&self, worker: &mut Worker, reply: &mut Vec<u8>, run: Run) -> Ran {
        let &Attempt { store, calls, call, once, guard, details, window, position, time_us } = self;
        let start = reply.len();
        // SAFETY: the caller's promise.
        let mut tx = unsafe { Tx::new(store, worker, guard, details, window, position, time_us) };
        if run == Run::Again {
            tx = tx.again();
        }
        // A procedure that panics leaves no trace: its changes are put back, and it can share nothing else.
        let ended = caught(|| {
            if once.is_some_and(|once| once.repeats(&tx, reply)) {
                return Status::Repeated;
            }
            let status = calls.run(call, &mut tx, reply).into();
            if status == Status::Committed {
                if let Some(once) = once {
                    once.keep(&mut tx, status, &reply[start..]);
                }
                tx.keep_indexes();
            }
            status
        });
        let commits = matches!(ended, Ok(Status::Committed));
        let effects = if commits && run != Run::Only { tx.effects() } else { Vec::new() };
        let mut outside = tx.finish(commits && run != Run::First);
        let is_stopped = outside.is_some() && matches!(guard, Guard::Stop(_));
        let status = match ended {
            _ if is_stopped => None,
            Ok(status) => Some(status),
            Err(payload) => {
                reply.truncate(start);
                reply.extend_from_slice(payload.message().as_bytes());
                Some(Status::Panicked)
            }
        };
        // What an aborted transaction changed is put back; that it aborted stays.
        if let (Some(once), Some(status @ (Status::Aborted | Status::Panicked))) = (once, status)
            && once.keeps(status)
            && run != Run::First
        {
            // SAFETY: the caller's promise; the first one is finished.
            let mut tx = unsafe { Tx::new(store, worker, guard, details, window, position, time_us) };
            once.keep(&mut tx, status, &reply[start..]);
            let beside = tx.finish(true);
            outside = outside.or(beside);
        }
        Ran { status, outside, effects }
    }
}

/// Makes the changes of a transaction that ran ahead, if it would do the same now: nothing that it read has changed.
/// Tells whether it did; the error is a table whose merge operator panicked.
///
/// # Safety
/// The schedule allows the worker, and no other, what the speculation touched; the transaction is the one whose turn it
/// is, and runs once.
#[allow(unsafe_code)]
unsafe fn adopt(
    store: &Store,
    worker: &mut Worker,
    turn: &Turn<'_>,
    speculation: &Speculation,
) -> Result<bool, &'static str> {
    let &Turn { position, chunk, .. } = turn;
    let (window, me) = (Stamp::of(turn.window), Stamp::of(position));
    let overlays = &chunk.lanes[usize::from(speculation.lane)].overlays;
    let accesses = chunk.accesses_of(turn.index);
    let touched = || overlays.touched(speculation.touched.clone()).iter();
    let rows = || {
        touched().filter_map(|touched| match touched {
            Touched::Row(row) => Some(row),
            Touched::Granule { .. } | Touched::Merge { .. } => None,
        })
    };
    // Those that count: of a row that was looked at later, the copy counts.
    let merges = || {
        touched().filter_map(|touched| match *touched {
            Touched::Merge { row, merge } if overlays.merged(row).did.has(Did::MERGED) => {
                Some(overlays.merge(merge))
            }
            _ => None,
        })
    };
    let same = |row: &TouchedRow| {
        // SAFETY: the caller's promise.
        !row.did.has(Did::READ)
            || unsafe { row.is_current().unwrap_or_else(|| store.any(row.table).is_absent(overlays, row)) }
    };
    let pooled = |merging: &dyn AnyMerging| {
        accesses.iter().any(|access| access.of == Of::PooledRow && merging.is_of(access.table, access.key))
    };
    let accepted = |merging: &dyn AnyMerging| merging.is_accepted(store, !pooled(merging));
    let kept = |touched: &Touched| match touched {
        Touched::Row(row) => same(row),
        // No stamp tells whether a row came or went.
        Touched::Granule { hash, still, .. } => {
            *still && turn.written.is_some_and(|written| !written.may_hold(*hash))
        }
        Touched::Merge { .. } => true,
    };
    let is_same = turn.is_free && turn.written.is_some() && speculation.still
        || speculation.reusable && touched().all(kept);
    if !is_same || !merges().all(accepted) {
        return Ok(false);
    }
    if speculation.status == Status::Committed {
        for merging in merges() {
            if pooled(merging) {
                worker.pool.add(merging.boxed(), position);
                continue;
            }
            // SAFETY: the caller's promise.
            let made = unsafe { merging.make(store, worker, window, me, position) };
            // An operator that panics: one by one it can be put back.
            made.map_err(|_| merging.table())?;
        }
        for row in rows().filter(|row| row.did.has(Did::WRITTEN)) {
            // SAFETY: the caller's promise.
            unsafe { store.any(row.table).adopt(worker, overlays, row, window, me) };
        }
        store.keep_changes(worker);
    }
    Ok(true)
}

/// Asks the cache for all rows that the transaction named, so that their misses overlap instead of following each
/// other: one takes 100 to 300 ns, and a transaction may have dozens.
#[inline]
fn fetch_ahead(store: &Store, chunk: &Chunk, index: usize) {
    for access in chunk.accesses_of(index) {
        if access.row != NOWHERE {
            let table = store.any(access.table);
            if access.is_row() { table.prefetch_row(access.row) } else { table.prefetch_leaf(access.row) }
        }
    }
    for located in chunk.located_of(index) {
        if located.row != NOWHERE {
            store.any(located.table).prefetch_row(located.row);
        }
    }
}
