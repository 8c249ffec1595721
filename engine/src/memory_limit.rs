//! A limit on memory: submissions are refused above it, before the operating system ends the process.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How old what is known of the process may be.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What the process may use, and uses.
///
/// The resident memory of the whole process is what counts, as it is what the operating system counts. That it may be
/// some milliseconds old is no harm: what is in flight by then is limited, too.
#[derive(Debug, Default)]
pub(crate) struct MemoryLimit {
    /// Units: bytes; 0 for none.
    limit: AtomicU64,
    resident: AtomicU64,
    looked: Mutex<Option<Instant>>,
}

impl MemoryLimit {
    pub(crate) fn set(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
        *self.looked.lock().expect("no panic in a short section") = None;
        self.look();
    }

    /// Looks how much memory the process uses, if there is a limit and the last look is too old. By the leader.
    pub(crate) fn look(&self) {
        if self.limit.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut looked = self.looked.lock().expect("no panic in a short section");
        let now = Instant::now();
        if looked.is_none_or(|looked| now - looked >= LOOK_EVERY) {
            *looked = Some(now);
            // A system that does not tell sets no limit.
            self.resident.store(resident().unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// What is used and what may be, if that is less.
    #[inline]
    pub(crate) fn exceeded(&self) -> Option<(u64, u64)> {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == 0 {
            return None;
        }
        let resident = self.resident.load(Ordering::Relaxed);
        (resident > limit).then_some((resident, limit))
    }
}

/// The resident memory of this process in bytes.
fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
