//! Panics of code that is not the engine's.
//!
//! Somebody else's code also decides what a panic carries, and what happens when that is dropped: it may panic again. So
//! whoever lets such code run takes what it panicked with as a [`Payload`], and nothing else happens to the engine.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::error::OpenError;

/// How often a payload may panic with another one when it is dropped, before that one is left where it is.
const MOST_DROPS: u32 = 8;

/// What code panicked with. Dropped, it does not panic.
pub(crate) struct Payload(Option<Box<dyn Any + Send>>);

impl Payload {
    pub(crate) const fn new(payload: Box<dyn Any + Send>) -> Self {
        Self(Some(payload))
    }

    /// Its text.
    pub(crate) fn message(&self) -> &str {
        self.0.as_deref().map_or("", panic_message)
    }

    /// The error that ends an engine.
    pub(crate) fn error(&self) -> OpenError {
        OpenError::Panicked(self.message().to_owned())
    }

    /// Goes on with the panic.
    pub(crate) fn resume(mut self) -> ! {
        resume_unwind(self.0.take().expect("it is there until it is dropped"))
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        for _ in 0..MOST_DROPS {
            let payload = self.0.take();
            match catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                Ok(()) => return,
                Err(again) => self.0 = Some(again),
            }
        }
        // Nor is it tried for ever.
        std::mem::forget(self.0.take());
    }
}

/// Runs code that may panic. What it can reach must be of no use afterwards, or be put right.
#[inline]
pub(crate) fn caught<R>(run: impl FnOnce() -> R) -> Result<R, Payload> {
    catch_unwind(AssertUnwindSafe(run)).map_err(Payload::new)
}

/// The text of a panic.
fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Panics when it is dropped, so often, each time with the next one.
    struct Bomb(u32);

    impl Drop for Bomb {
        fn drop(&mut self) {
            if self.0 > 0 {
                resume_unwind(Box::new(Self(self.0 - 1)));
            }
        }
    }

    #[test]
    fn what_panics_when_it_is_dropped_goes_no_further() {
        for times in 0..4 {
            let payload = caught(|| resume_unwind(Box::new(Bomb(times)))).unwrap_err();
            assert_eq!(payload.message(), "a panic without a message");
            drop(payload);
        }
        assert_eq!(caught(|| 7).ok(), Some(7));
        assert_eq!(caught(|| panic!("{}", "text")).unwrap_err().message(), "text");
        let again = caught(|| caught(|| panic!("more text")).unwrap_err().resume());
        assert_eq!(again.unwrap_err().message(), "more text");
    }
}
