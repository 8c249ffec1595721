//! What a file log can be told when it is opened.

use crate::Durability;

use super::layout;

/// Whether a log is created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Create {
    /// Open the log that is there; [`OpenError::Missing`](crate::OpenError::Missing) when there is none.
    Never,
    /// Open the log that is there, or else create one.
    #[default]
    IfMissing,
    /// Create a log; [`OpenError::Exists`](crate::OpenError::Exists) when there is one.
    New,
}

/// How a [`FileLog`](crate::FileLog) is opened. All but `segment_bytes` of existing segments may differ from
/// one time to the next.
///
/// ```
/// use mixlog_log::{Durability, file};
///
/// let config = file::Config { durability: Durability::Buffered, ..file::Config::default() };
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What an acknowledged append has survived: `Buffered` or `Flushed` (the default).
    ///
    /// Flushed costs one `fdatasync` for all appends that gathered during the one before. Buffered costs none
    /// on the way to the acknowledgement; a power cut loses what was appended in the last second or so.
    pub durability: Durability,

    /// Whether to create the log; by default if it is missing.
    pub create: Create,

    /// The length of new segment files, in bytes, rounded up to 4096; default 64 MiB.
    ///
    /// More: fewer switches between files, each of which costs three or four flushes; opening takes longer,
    /// because the last segment is searched to its end; more of a buffered log may wait for its disk, which is up to four
    /// segments. Less: trimming gives space back in smaller pieces,
    /// and a small log takes less of the disk. At least 8 KiB more than twice `max_batch_bytes`.
    pub segment_bytes: u64,

    /// The largest batch that an append takes, in bytes, its entries' bytes and 4 for each entry; default 4
    /// MiB.
    ///
    /// More: larger transactions. Less: smaller segments are possible.
    pub max_batch_bytes: usize,

    /// How many bytes may wait to be written before [`append`](crate::SharedLog::append) blocks; default 32
    /// MiB.
    ///
    /// More: longer bursts are taken without waiting, and there is more to lose with the process. Less:
    /// submitters feel the disk's speed sooner.
    pub queue_bytes: usize,

    /// How many bytes are written and flushed as one group, or one batch if that is more; default 8 MiB.
    ///
    /// More: fewer flushes. Less: the tail moves on in smaller steps, and while a group is written and flushed the next
    /// ones are accepted.
    pub group_bytes: usize,

    /// How many bytes of the newest entries are kept in memory for readers; default 32 MiB.
    ///
    /// More: readers further behind are served without touching the disk. Less: less memory.
    pub cache_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            durability: Durability::Flushed,
            create: Create::IfMissing,
            segment_bytes: 64 << 20,
            max_batch_bytes: 4 << 20,
            queue_bytes: 32 << 20,
            group_bytes: 8 << 20,
            cache_bytes: 32 << 20,
        }
    }
}

impl Config {
    /// # Panics
    /// When a field is out of its documented bounds.
    pub(crate) fn check(&self) {
        assert!(
            self.durability != Durability::Memory,
            "a file log is buffered or flushed; for less, use MemoryLog"
        );
        assert!(
            self.segment_bytes >= 2 * self.max_batch_bytes as u64 + 8192,
            "a segment of {} bytes cannot hold two batches of {} bytes",
            self.segment_bytes,
            self.max_batch_bytes,
        );
        assert!(self.max_batch_bytes < 1 << 31, "a batch holds less than 2 GiB");
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment_bytes.next_multiple_of(4096)
    }

    /// The largest frame, with the watermark that attests it.
    pub(crate) fn largest_frame(&self) -> u64 {
        self.max_batch_bytes as u64 + layout::FRAME_OVERHEAD
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn config_by_default_is_within_its_bounds() {
        Config::default().check();
    }

    #[test]
    #[should_panic(expected = "use MemoryLog")]
    fn config_with_memory_durability_panics() {
        Config { durability: Durability::Memory, ..Config::default() }.check();
    }

    #[test]
    #[should_panic(expected = "cannot hold two batches")]
    fn config_with_segments_too_small_panics() {
        Config { segment_bytes: 1 << 20, ..Config::default() }.check();
    }
}
