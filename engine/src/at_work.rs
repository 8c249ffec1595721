//! Which engines a thread is at work for, so that it is told instead of waiting for itself.
//!
//! Procedures and wakers of tickets are user code on threads that the engine goes on with: its drivers, and callers that
//! lead. What waits there for a transaction of that engine waits for ever. Threads are marked, not transactions: a driver
//! once, a caller once for all that it executes.

use std::cell::RefCell;

thread_local! {
    /// By [`Shared::origin`](crate::pipeline::Shared). More than one where a waker of one engine calls another engine.
    static ENGINES: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// From here on the thread is at work for the engine.
pub(crate) fn start(engine: u64) {
    ENGINES.with_borrow_mut(|engines| engines.push(engine));
}

/// The thread is at work for the engine until this is dropped.
pub(crate) struct AtWork(());

impl AtWork {
    pub(crate) fn start(engine: u64) -> Self {
        start(engine);
        Self(())
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        ENGINES.with_borrow_mut(|engines| engines.pop());
    }
}

/// Whether the engine would wait for this thread.
pub(crate) fn is_for(engine: u64) -> bool {
    // A thread that is ending is at work for nobody.
    ENGINES.try_with(|engines| engines.borrow().contains(&engine)).unwrap_or(false)
}
