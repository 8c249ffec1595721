//! The primitives under the hand-synchronized code: the standard library's, or loom's where a model explores
//! every interleaving (`--cfg loom`).

use std::time::Duration;

#[cfg(loom)]
pub(crate) use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// Locks `mutex`.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect(UNPOISONED)
}

/// Waits for a signal, at most for `timeout`. May return early, so the caller looks again.
///
/// Loom has no clock: there a timeout never passes, and a model must not need one.
pub(crate) fn wait<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    timeout: Option<Duration>,
) -> MutexGuard<'a, T> {
    match timeout {
        #[cfg(not(loom))]
        Some(timeout) => condvar.wait_timeout(guard, timeout).expect(UNPOISONED).0,
        _ => condvar.wait(guard).expect(UNPOISONED),
    }
}
