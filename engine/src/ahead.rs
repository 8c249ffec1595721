//! Running transactions ahead, several at a time on one driver.
//!
//! A transaction that declares nothing is run ahead to see what it touches (reconnaissance; Calvin, SIGMOD 2012, section
//! 3.2.1). Nobody knows its rows before it asks for them, and a row that is in no cache costs 100 ns or more, twice: a
//! slot of the index, and then the row. So a driver has several *lanes*, each a coroutine with a stack of its own. At an
//! access a lane asks the cache for what it needs and gives way to the next one; when its turn comes again, the line is
//! there (interleaving by coroutines; CoroBase, VLDB 2020). Switching costs a few nanoseconds.
//!
//! So a procedure that holds a lock across two accesses may meet itself, in another lane of the same thread. Procedures
//! must not block anyway. What they borrow from a thread's own variables across accesses may be borrowed twice, which
//! panics: a speculation that panics is never used as it stands.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::io;

use corosensei::stack::{DefaultStack, Stack, StackPointer};
use corosensei::{CoroutineResult, ScopedCoroutine, Yielder};

use crate::clients::Once;
use crate::panics::caught;
use crate::pipeline::Shared;
use crate::prepare::Past;
use crate::procedure::Calls;
use crate::reply::Status;
use crate::store::{Beside, Overlays, Touched};
use crate::tx::{ByTable, Tx};
use crate::window::{Chunk, Prepared, Speculation, Window};

/// How many transactions a driver runs ahead at a time, unless it was told.
pub(crate) const LANES: usize = 8;

/// What touches more rows and granules than this runs alone, if the engine has to find out: its footprint would be long to
/// search, and its rows long to copy.
pub(crate) const MOST_TOUCHED: u32 = 4096;

/// Where a transaction that runs ahead gives way to others.
#[derive(Clone, Copy)]
pub(crate) struct Pause<'a>(Option<&'a Yielder<(), ()>>);

impl Pause<'_> {
    /// No others: there is nobody to give way to.
    pub(crate) const NEVER: Self = Self(None);

    /// Whether there is somebody to give way to.
    #[inline]
    pub(crate) const fn is_possible(self) -> bool {
        self.0.is_some()
    }

    /// Lets the others run until it is this one's turn again.
    #[inline]
    pub(crate) fn pause(self) {
        if let Some(yielder) = self.0
            // Another one would run on a thread that seems to panic.
            && !std::thread::panicking()
        {
            yielder.suspend(());
        }
    }
}

impl std::fmt::Debug for Pause<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pause").field(&self.is_possible()).finish()
    }
}

/// What one lane of a chunk found out, one transaction after another.
#[derive(Default)]
pub(crate) struct Lane {
    pub(crate) overlays: Overlays,
    pub(crate) replies: Vec<u8>,
    /// How long the replies were between two clears.
    most: usize,
}

impl Lane {
    pub(crate) fn clear(&mut self) {
        self.overlays.clear();
        self.most = self.most.max(self.replies.len());
        self.replies.clear();
    }

    /// Gives back the memory that was not needed since this was called last. After [`clear`](Self::clear).
    pub(crate) fn shrink(&mut self) {
        self.overlays.shrink();
        self.replies.shrink_to(std::mem::take(&mut self.most));
    }
}

/// By how much the stacks of neighbouring lanes start at different places of their pages, in bytes.
const STEP: usize = 448;

/// A lane's stack. Were all of them to start at the same place of a page, what is hot in them would have to share a few
/// sets of the nearest cache.
struct Shifted {
    stack: DefaultStack,
    base: StackPointer,
}

impl Shifted {
    fn new(lane: usize, bytes: usize) -> io::Result<Self> {
        let stack = DefaultStack::new(bytes)?;
        let base = stack.base().get() - lane * STEP % 4096;
        Ok(Self { stack, base: StackPointer::new(base).expect("far from zero") })
    }
}

// SAFETY: what the stack underneath gives, but for less than a page at its start, which is a multiple of 64 bytes: the
// alignment stays.
unsafe impl Stack for Shifted {
    fn base(&self) -> StackPointer {
        self.base
    }

    fn limit(&self) -> StackPointer {
        self.stack.limit()
    }
}

/// One driver's stacks.
pub(crate) struct Stacks {
    lanes: usize,
    /// Of each stack. Pages that are never touched take nothing.
    bytes: usize,
    stacks: Vec<Shifted>,
    /// Where what ran on them found no rows, since the window that it is for began to be prepared.
    absent: ByTable,
}

impl Stacks {
    /// For so many transactions at a time. Stacks are made when they are needed first.
    pub(crate) const fn new(lanes: usize, bytes: usize) -> Self {
        Self { lanes, bytes, stacks: Vec::new(), absent: ByTable::new() }
    }

    /// A window begins to be prepared, on a state that may be another one.
    pub(crate) fn start_window(&mut self) {
        self.absent.clear();
    }

    /// How many lanes there are for so many transactions: one needs no stack.
    fn prepare(&mut self, transactions: usize) -> io::Result<usize> {
        let lanes = self.lanes.min(transactions);
        if lanes < 2 {
            return Ok(1);
        }
        while self.stacks.len() < lanes {
            self.stacks.push(Shifted::new(self.stacks.len(), self.bytes)?);
        }
        Ok(lanes)
    }
}

/// Runs ahead the chunk's transactions with these indexes. Their speculations stand in the chunk afterwards, in the same
/// order; what they mean for footprints is not decided yet.
pub(crate) fn run(shared: &Shared, window: &Window, chunk: &mut Chunk, past: Past<'_>, stacks: &mut Stacks) {
    let Chunk { transactions, calls, to_find, lanes, speculations, onces, first, .. } = chunk;
    // Without memory for stacks it takes longer.
    let count = stacks.prepare(to_find.len()).unwrap_or(1);
    let Stacks { stacks, absent, .. } = stacks;
    let absent = &*absent;
    if lanes.len() < count {
        lanes.resize_with(count, Lane::default);
    }
    let first = *first;
    let (next, done) = (Cell::new(0), RefCell::new(&mut *speculations));
    let body = |number: usize, lane: &mut Lane, pause: Pause<'_>| {
        while let Some(&index) = to_find.get(next.replace(next.get() + 1)) {
            let Prepared { call, time_us, once, .. } = transactions[index as usize];
            let once = once.map(|once| &onces[once as usize]);
            let (procedure, call) = call.expect("it is a call");
            let calls = calls[usize::from(procedure)].as_deref().expect("the call was decoded");
            let Lane { overlays, replies, .. } = &mut *lane;
            if shared.learned.is_too_large(procedure, window.number) {
                // As others of its chunk turned out.
                let nothing = Speculation::too_large(index, number as u8, 0..0);
                done.borrow_mut().push(nothing);
                continue;
            }
            let beside = Beside::Window { written: past.written, pause, absent: Some(absent) };
            let position = window.first().plus(u64::from(first + index));
            let found = {
                let mut tx = Tx::speculative(&shared.store, overlays, past.at, position, time_us, beside);
                speculate(calls, call, once, &mut tx, replies)
            };
            let touched = overlays.at_hand();
            let mut done = done.borrow_mut();
            if overlays.is_stopped() {
                // First: who is told that it is too large does not find out otherwise that it writes.
                if overlays.touched(touched.clone()).iter().any(Touched::is_written) {
                    shared.learned.note_writes(procedure);
                }
                done.push(Speculation::too_large(index, number as u8, touched));
                let (stopped, all) = too_large(&done, transactions, procedure);
                if stopped > 1 && 2 * stopped >= all {
                    shared.learned.learn_too_large(procedure, window.number);
                }
            } else {
                done.push(Speculation { index, lane: number as u8, touched, ..found });
            }
        }
    };
    if count == 1 {
        body(0, &mut lanes[0], Pause::NEVER);
    } else {
        interleave(0, &mut lanes[..count], stacks, &body, &mut || false);
    }
    speculations.sort_unstable_by_key(|speculation| speculation.index);
    for stopped in speculations.iter().filter(|speculation| speculation.is_too_large) {
        let (procedure, _) = transactions[stopped.index as usize].call.expect("it is a call");
        let (stopped, all) = too_large(speculations, transactions, procedure);
        // One that is large among many that are not is no reason to run those alone.
        if 2 * stopped >= all {
            shared.learned.learn_too_large(procedure, window.number);
        }
    }
}

/// How many calls of a procedure were stopped, of those that have run ahead.
fn too_large(speculations: &[Speculation], transactions: &[Prepared], procedure: u16) -> (usize, usize) {
    let is_of = |speculation: &&Speculation| {
        transactions[speculation.index as usize].call.is_some_and(|(of, _)| of == procedure)
    };
    let own = speculations.iter().filter(is_of);
    let stopped = own.clone().filter(|speculation| speculation.is_too_large);
    (stopped.count(), own.count())
}

/// Starts a coroutine for the first lane, then for the others, and then resumes all in turn until none goes on. `others`
/// resumes those before, and tells whether any goes on.
fn interleave(
    number: usize,
    lanes: &mut [Lane],
    stacks: &mut [Shifted],
    body: &dyn Fn(usize, &mut Lane, Pause<'_>),
    others: &mut dyn FnMut() -> bool,
) {
    let (Some((lane, lanes)), Some((stack, stacks))) = (lanes.split_first_mut(), stacks.split_first_mut())
    else {
        while others() {}
        return;
    };
    let run = move |yielder: &Yielder<(), ()>, ()| body(number, lane, Pause(Some(yielder)));
    ScopedCoroutine::with_stack(stack, run).scope(|mut coroutine| {
        let mut goes_on = true;
        let mut all = || {
            let others = others();
            goes_on = goes_on && matches!(coroutine.resume(()), CoroutineResult::Yield(()));
            others || goes_on
        };
        interleave(number + 1, lanes, stacks, body, &mut all);
    });
}

/// Runs a call ahead.
pub(crate) fn speculate(
    calls: &dyn Calls,
    call: u32,
    once: Option<&Once>,
    tx: &mut Tx<'_>,
    replies: &mut Vec<u8>,
) -> Speculation {
    let start = replies.len();
    let run = || {
        if once.is_some_and(|once| once.repeats(tx, replies)) {
            return Status::Repeated;
        }
        let status = calls.run(call, tx, replies).into();
        if let (Some(once), Status::Committed) = (once, status) {
            once.keep(tx, status, &replies[start..]);
        }
        tx.keep_indexes();
        status
    };
    let status = match caught(run) {
        Ok(status) => status,
        Err(payload) => {
            replies.truncate(start);
            replies.extend_from_slice(payload.message().as_bytes());
            Status::Panicked
        }
    };
    let reply = start..replies.len();
    let (still, reusable, is_too_large) = (false, false, false);
    Speculation { index: 0, lane: 0, touched: 0..0, status, reply, still, reusable, is_too_large }
}
