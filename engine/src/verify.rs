//! Verify: the stage between execution and commit.
//!
//! An executed window diverged from the serial order if one of its transactions left its footprint: the guard
//! stopped that one before it did harm, but those after it ran without it. Then the whole window is put back to
//! where it started and replayed one by one, which needs no footprints and cannot diverge (Eve falls back to
//! sequential execution of the batch in the same way, OSDI 2012, section 3.3).
//!
//! Only [`verify`] makes a [`Verified`], and only [`commit`](crate::pipeline) takes one.
#![allow(unsafe_code)]

use mixlog_log::Position;

use crate::execute::paranoid::Found;
use crate::execute::sequential::{self, Given};
use crate::execute::{Violation, parallel::FirstViolation};
use crate::pipeline::{Driver, Shared};
use crate::store::Stamp;
use crate::window::Window;

/// A window that was executed, by whatever executor.
pub(crate) struct Executed<'a> {
    window: &'a Window,
    first_violation: Option<Position>,
    found: Option<Found>,
}

impl<'a> Executed<'a> {
    /// The drivers met after executing the window's schedule.
    pub(crate) fn in_parallel(
        shared: &Shared,
        window: &'a Window,
        drivers: &mut [impl std::ops::DerefMut<Target = Driver>],
        first_violation: &FirstViolation,
        found: Option<Found>,
    ) -> Self {
        let mut first_violation = first_violation.get();
        if first_violation.is_none() && found.is_none() && !make_pooled(shared, window, drivers) {
            first_violation = Some(window.first());
        }
        Self { window, first_violation, found }
    }

    /// The number of the window.
    pub(crate) const fn number(&self) -> u64 {
        self.window.number
    }

    /// The window was executed one by one.
    pub(crate) const fn one_by_one(window: &'a Window, found: Option<Found>) -> Self {
        Self { window, first_violation: None, found }
    }
}

/// Makes the merges that the drivers kept for the end of the window; tells whether no operator panicked. Those do so
/// again in the replay, each in its own transaction.
fn make_pooled(
    shared: &Shared,
    window: &Window,
    drivers: &mut [impl std::ops::DerefMut<Target = Driver>],
) -> bool {
    (0..drivers.len()).all(|number| {
        let pool = std::mem::take(&mut drivers[number].worker.pool);
        // SAFETY: the drivers have met, and the caller holds them.
        let made = unsafe { pool.make(&shared.store, &mut drivers[0].worker, Stamp::of(window.first())) };
        // Whoever allocated it gives it back.
        drivers[number].worker.pool = pool;
        made.is_ok()
    })
}

/// The window's state is that of the serial order.
pub(crate) struct Verified<'a> {
    pub(crate) window: &'a Window,
}

/// The window's state is to be thrown away.
pub(crate) struct Diverged<'a> {
    window: &'a Window,
}

/// What became of an executed window. Divergence is an outcome, not an error.
pub(crate) enum Verdict<'a> {
    Verified(Verified<'a>),
    Diverged(Diverged<'a>),
    /// A transaction did two things from the same state: there is no such thing as the state of the serial order.
    NotDeterministic(Found),
}

pub(crate) const fn verify<'a>(executed: &Executed<'a>) -> Verdict<'a> {
    match (executed.found, executed.first_violation) {
        (Some(found), _) => Verdict::NotDeterministic(found),
        (None, None) => Verdict::Verified(Verified { window: executed.window }),
        (None, Some(_)) => Verdict::Diverged(Diverged { window: executed.window }),
    }
}

/// Puts the window at hand back to its start, with all replies. `drivers` are all there are, so nobody runs.
pub(crate) fn put_back(shared: &Shared, drivers: &mut [impl std::ops::DerefMut<Target = Driver>]) {
    for table in shared.store.tables() {
        // SAFETY: the caller holds all drivers, so no worker runs; versions are dropped at the window's end
        // only, which comes after this.
        unsafe { table.undo_window() };
    }
    for driver in drivers {
        driver.replies.clear();
    }
}

/// Puts the window back to its start and executes it one by one. `drivers` are all there are, so nobody runs.
///
/// Every transaction that leaves its footprint is reported: not only the first one, which stopped the window.
pub(crate) fn replay<'a>(
    shared: &Shared,
    diverged: &Diverged<'a>,
    drivers: &mut [impl std::ops::DerefMut<Target = Driver>],
    violated: impl FnMut(Violation),
) -> Executed<'a> {
    put_back(shared, drivers);
    sequential::execute(shared, diverged.window, &mut drivers[0], Given::WrongFootprints, violated);
    Executed::one_by_one(diverged.window, drivers[0].paranoid.found.take())
}
