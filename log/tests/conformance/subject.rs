//! A log under test.

use std::sync::Arc;
use std::time::Duration;

use mixlog_log::SharedLog;

/// Longer than any step takes on a busy machine, so that a hang fails instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A log under test, and how to open it again.
pub(crate) struct Subject {
    /// Whether every position holds data: whole batches that do not fit in a stripe leave junk behind.
    pub(crate) dense: bool,
    /// The largest batch that it takes, in bytes, 4 for each entry included; `None`: any.
    pub(crate) batch_bytes: Option<usize>,
    /// How many entries a batch may have; `None`: any number.
    pub(crate) batch_entries: Option<u32>,
    pub(crate) log: Option<Arc<dyn SharedLog>>,
    pub(crate) reopen: Option<Box<dyn Fn() -> Arc<dyn SharedLog>>>,
}

impl Subject {
    pub(crate) fn log(&self) -> &Arc<dyn SharedLog> {
        self.log.as_ref().expect("open")
    }

    /// Closes the log and opens it again; false for a backend that keeps nothing.
    pub(crate) fn reopen(&mut self) -> bool {
        let Some(reopen) = &self.reopen else { return false };
        self.log = None;
        self.log = Some(reopen());
        true
    }
}
