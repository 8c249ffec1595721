//! The synchronization primitives of hand-synchronized code: std's, or loom's under `cfg(loom)`.

#[cfg(not(loom))]
pub(crate) use std::{
    hint::spin_loop,
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
    },
    thread::yield_now,
};

#[cfg(loom)]
pub(crate) use loom::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
    },
    thread::yield_now,
};

/// Under loom a spinning thread must tell the scheduler that it waits for another one.
#[cfg(loom)]
pub(crate) fn spin_loop() {
    loom::thread::yield_now();
}
