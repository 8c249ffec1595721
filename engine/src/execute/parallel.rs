//! The mixer's schedule on all drivers.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use mixlog_log::Position;

use crate::pipeline::{Driver, Shared};
use crate::sync::AtomicBool;
use crate::tx::Guard;
use crate::window::{CHUNK, Window};

use super::{Turn, Violation, fetch_ahead, run};

/// The earliest violation of a window so far: everything after it will be replayed, so need not run.
#[derive(Debug)]
pub(crate) struct FirstViolation(AtomicU64);

impl FirstViolation {
    const NONE: u64 = u64::MAX;

    pub(crate) const fn none() -> Self {
        Self(AtomicU64::new(Self::NONE))
    }

    pub(crate) fn reset(&self) {
        self.0.store(Self::NONE, Ordering::Relaxed);
    }

    fn note(&self, violation: Violation) {
        self.0.fetch_min(violation.position.0, Ordering::Relaxed);
    }

    fn is_before(&self, position: Position) -> bool {
        self.0.load(Ordering::Relaxed) < position.0
    }

    /// The position, once all drivers have met.
    pub(crate) fn get(&self) -> Option<Position> {
        Some(self.0.load(Ordering::Relaxed)).filter(|&p| p != Self::NONE).map(Position)
    }
}

/// One driver's part in the execution of the window; returns when all of it is executed.
///
/// The window's schedule was made from its footprints. All drivers of the round call this, each with the worker
/// that is its own.
pub(crate) fn execute(
    shared: &Shared,
    window: &Window,
    driver: &mut Driver,
    guarded: bool,
    first_violation: &FirstViolation,
    broken: &AtomicBool,
) {
    driver.worker.start_window(window.number);
    let chunks: Vec<_> = window.chunks[..window.chunk_count() as usize]
        .iter()
        .map(|chunk| chunk.read().expect("no panic with a chunk"))
        .collect();
    let plan = window.plan.read().expect("no panic while mixing");
    let disturbed = window.disturbed.load(Ordering::Relaxed);
    let ahead = |transaction: u32| {
        fetch_ahead(&shared.store, &chunks[(transaction / CHUNK) as usize], (transaction % CHUNK) as usize);
    };
    plan.release.drive(&plan.schedule, broken, ahead, |transaction| {
        let position = window.first().plus(u64::from(transaction));
        if first_violation.is_before(position) {
            return;
        }
        let (chunk, index) = (&chunks[(transaction / CHUNK) as usize], (transaction % CHUNK) as usize);
        let guard = match chunk.allowed_of(index) {
            // That it does nothing but read is the engine's own guess, and nobody's promise.
            Some(allowed) if guarded || allowed.reads_anything => Guard::Stop(allowed),
            _ => Guard::Off,
        };
        let written = (!disturbed).then_some(&plan.written);
        let is_free = plan.schedule.waits_for()[transaction as usize] == 0;
        let turn = Turn { window: window.first(), position, chunk, index, guard, written, is_free };
        // SAFETY: the schedule orders this transaction and every one whose footprint conflicts with its own, and
        // an unknown footprint conflicts with all: then no other transaction runs. Without the guard whoever built the
        // engine promised it.
        let violation = unsafe { run(shared, driver, &turn) };
        if let Some(violation) = violation {
            first_violation.note(violation);
        }
    });
}
