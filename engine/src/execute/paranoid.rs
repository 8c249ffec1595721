//! Paranoid mode: a procedure that is not deterministic is found by running its transactions twice.
//!
//! A sampled transaction runs at its position, is put back, and runs again from the same state: on another thread, so
//! that thread numbers and thread-locals, and addresses on the stack and the heap, are others. The second run is the
//! one that counts. Both must have ended alike, with the same reply and the same changes, or else the window is put
//! back and the engine stops right before the transaction.
//!
//! What stays the same for all of a process is not found so: its environment, files, addresses of statics. Comparing
//! digests between machines finds those.
#![allow(unsafe_code)]

use std::sync::Arc;

use mixlog_log::Position;
use rayon::ThreadPool;

use super::{Attempt, Ran, Run};
use crate::error::{Difference, OpenError};
use crate::procedure::Procedures;
use crate::reply::Status;
use crate::store::{Store, Worker};

/// A transaction that did two things.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) position: Position,
    /// Index of the procedure.
    procedure: u16,
    what: Difference,
}

impl Found {
    pub(crate) fn error(self, procedures: &Procedures) -> OpenError {
        let Self { position, procedure, what } = self;
        OpenError::NotDeterministic { procedure: procedures.get(procedure).name, position, what }
    }
}

/// One driver's part in it.
pub(crate) struct Paranoid {
    /// Every how many transactions one is run twice, on average; 0 for none.
    one_in: u32,
    /// Where second runs run.
    doubles: Option<Arc<ThreadPool>>,
    /// The reply of a first run.
    reply: Vec<u8>,
    /// How many were run twice.
    pub(crate) run_twice: u64,
    /// The first one in the log that did two things.
    pub(crate) found: Option<Found>,
}

impl Paranoid {
    /// `doubles` has a thread for every driver, unless `one_in` is 0.
    pub(crate) const fn new(one_in: u32, doubles: Option<Arc<ThreadPool>>) -> Self {
        Self { one_in, doubles, reply: Vec::new(), run_twice: 0, found: None }
    }

    /// Whether the transaction is to run twice: a property of its position, so that whoever samples alike finds alike.
    #[inline]
    pub(super) fn samples(&self, position: Position) -> bool {
        match self.one_in {
            0 => false,
            1 => true,
            // Mixed: transactions may come in cycles.
            n => {
                let mixed = (position.0 ^ (position.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                (mixed >> 32).is_multiple_of(u64::from(n))
            }
        }
    }

    /// Runs the transaction twice. Its changes stay or are put back as if it had run once.
    ///
    /// # Safety
    /// As for [`Attempt::run`].
    #[cold]
    pub(super) unsafe fn run(
        &mut self,
        attempt: &Attempt<'_>,
        procedure: u16,
        worker: &mut Worker,
        reply: &mut Vec<u8>,
    ) -> Ran {
        self.reply.clear();
        // SAFETY: the caller's promise.
        let first = unsafe { attempt.run(worker, &mut self.reply, Run::First) };
        if first.status.is_none() {
            return first;
        }
        self.run_twice += 1;
        let start = reply.len();
        let doubles = self.doubles.as_ref().expect("there are doubles where something is sampled");
        // SAFETY: the caller's promise; it waits meanwhile, so that the double stands for it.
        let again = doubles.install(|| unsafe { attempt.run(worker, reply, Run::Again) });
        if let Some(what) = difference(attempt.store, &first, &again, &self.reply, &reply[start..])
            && self.found.is_none_or(|found| attempt.position < found.position)
        {
            self.found = Some(Found { position: attempt.position, procedure, what });
        }
        again
    }
}

fn difference(
    store: &Store,
    first: &Ran,
    again: &Ran,
    first_reply: &[u8],
    reply: &[u8],
) -> Option<Difference> {
    // A second run that was stopped by the guard is not compared: the window is replayed.
    let status = again.status?;
    if first.status != again.status {
        return Some(Difference::Ending);
    }
    // A panic counts as such, whatever its message.
    if status != Status::Panicked && first_reply != reply {
        return Some(Difference::Reply);
    }
    if first.effects == again.effects {
        return None;
    }
    let tables = || first.effects.iter().chain(&again.effects);
    let differs = |effect: &&(u16, u128)| !(first.effects.contains(effect) && again.effects.contains(effect));
    let (table, _) = tables().filter(differs).min().expect("the lists are different");
    Some(Difference::Rows { table: store.any(*table).name() })
}
