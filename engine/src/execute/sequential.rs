//! One by one, in log order: the oracle, the fallback, and the fastest way when nothing can run beside
//! something else.
#![allow(unsafe_code)]

use crate::pipeline::{Driver, Shared};
use crate::tx::Guard;
use crate::window::{CHUNK, Window};

use super::{Turn, Violation, fetch_ahead, run};

/// What the window holds already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// Decoded transactions.
    Transactions,
    /// Transactions and footprints, one of which turned out to be wrong: note which ones.
    WrongFootprints,
}

/// Runs all transactions of the window. The caller is the leader, and the other drivers do nothing meanwhile.
/// Calls `violated` for every transaction that leaves its footprint, if the footprints are to be looked at.
pub(crate) fn execute(
    shared: &Shared,
    window: &Window,
    driver: &mut Driver,
    given: Given,
    mut violated: impl FnMut(Violation),
) {
    driver.worker.start_window(window.number);
    driver.worker.is_alone = true;
    for number in 0..window.chunk_count() {
        let chunk = window.chunks[number as usize].read().expect("no panic with a chunk");
        let count = chunk.transactions.len();
        if count > 0 {
            fetch_ahead(&shared.store, &chunk, 0);
        }
        for index in 0..count {
            if index + 1 < count {
                fetch_ahead(&shared.store, &chunk, index + 1);
            }
            let position = window.first().plus(u64::from(number * CHUNK) + index as u64);
            let guard = match given {
                Given::WrongFootprints => chunk.allowed_of(index).map_or(Guard::Off, Guard::Note),
                _ => Guard::Off,
            };
            let (window, chunk) = (window.first(), &*chunk);
            let turn = Turn { window, position, chunk, index, guard, written: None, is_free: false };
            // SAFETY: no other transaction runs.
            let violation = unsafe { run(shared, driver, &turn) };
            if let Some(violation) = violation {
                violated(violation);
            }
        }
    }
}
