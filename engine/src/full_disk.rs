//! Submitters that wait for a full disk to have space again, instead of being refused.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mixlog_log::AppendError;

use crate::at_work;
use crate::error::SubmitError;
use crate::observe;

/// Called with why, when submitters begin to wait.
pub(crate) type OnFull = Box<dyn Fn(&io::Error) + Send + Sync>;

/// How often who waits tries again.
const LOOK: Duration = Duration::from_millis(10);

/// What submitters of one engine do about a full disk.
#[derive(Default)]
pub(crate) struct FullDisk {
    /// Zero: they are refused at once.
    pub(crate) patience: Duration,
    pub(crate) on_full: Option<OnFull>,
    /// How many wait now.
    waiting: AtomicUsize,
}

impl FullDisk {
    /// Submits until that is not refused for want of space, or it is out of patience; `is_busy` tells whether a
    /// checkpoint is being taken, which may be the end of it and is always waited for.
    pub(crate) fn wait_out<T>(
        &self,
        engine: u64,
        mut submit: impl FnMut() -> Result<T, SubmitError>,
        is_busy: impl Fn() -> bool,
    ) -> Result<T, SubmitError> {
        let first = submit();
        let Err(SubmitError::Append(AppendError::Full(why))) = &first else { return first };
        // A waker or a procedure would keep the state from being committed that the checkpoint is to be of.
        if self.patience.is_zero() || at_work::is_for(engine) {
            return first;
        }
        let _waits = self.begin(why);
        let begun = Instant::now();
        loop {
            thread::sleep(LOOK);
            let again = submit();
            let is_full = matches!(again, Err(SubmitError::Append(AppendError::Full(_))));
            if !is_full || (begun.elapsed() >= self.patience && !is_busy()) {
                return again;
            }
        }
    }

    fn begin(&self, why: &io::Error) -> Waits<'_> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            observe::waits_for_space(why);
            if let Some(on_full) = &self.on_full {
                on_full(why);
            }
        }
        Waits(&self.waiting)
    }
}

struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
