//! Submissions that the log has taken and may yet refuse.
//!
//! A log whose entries are kept elsewhere learns late that there is no space, that somebody sealed it, or that nobody
//! answers; such an append never shows among what is read. So whoever leads looks after the tickets of appends, the oldest
//! first.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use mixlog_log::{AppendError, Ticket as Appended};

/// See the module's documentation. By sequence number of the submission.
#[derive(Default)]
pub(crate) struct Doubtful(Mutex<VecDeque<(u64, Appended)>>);

impl Doubtful {
    pub(crate) fn push(&self, sequence: u64, appended: Appended) {
        self.0.lock().expect("no panic in a short section").push_back((sequence, appended));
    }

    /// Takes those whose fate is known, from the oldest on, and gives the first one that was refused.
    pub(crate) fn refused(&self) -> Option<(u64, AppendError)> {
        let mut all = self.0.lock().expect("no panic in a short section");
        while let Some(fate) = all.front().and_then(|(_, appended)| appended.wait_timeout(Duration::ZERO)) {
            let (sequence, _) = all.pop_front().expect("it was looked at");
            if let Err(error) = fate {
                return Some((sequence, error));
            }
        }
        None
    }
}
