//! What a file log can be told when it is opened.

use crate::{Durability, OpenError};

use super::layout;

/// An empty entry.
const BATCH_BYTES_MIN: usize = 4;
/// Frames tell their length in 32 bits.
const BATCH_BYTES_END: usize = 1 << 31;
/// More than files of that length are good for.
const SEGMENT_BYTES_MAX: u64 = 1 << 40;

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

/// How a [`FileLog`](crate::FileLog) is opened, which refuses what is out of bounds
/// ([`OpenError::Configuration`](crate::OpenError::Configuration)). All but `segment_bytes` of existing segments may differ from
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
    /// More: fewer switches between files, each of which costs five flushes or more; opening takes longer,
    /// because the last segment is searched to its end; more of a buffered log may wait for its disk, which is up to four
    /// segments. Less: trimming gives space back in smaller pieces,
    /// and a small log takes less of the disk. At least 8 KiB more than twice `max_batch_bytes`, at most 1 TiB.
    pub segment_bytes: u64,

    /// The largest batch that an append takes, in bytes, its entries' bytes and 4 for each entry; default 4
    /// MiB.
    ///
    /// More: larger transactions; below 2 GiB. Less: smaller segments are possible; at least 4.
    pub max_batch_bytes: usize,

    /// How many bytes may wait to be written before [`append`](crate::SharedLog::append) blocks; default 16 MiB.
    ///
    /// More: longer bursts are taken without waiting, and there is more to lose with the process. Less:
    /// submitters feel the disk's speed sooner; with 0 one batch waits at a time.
    pub queue_bytes: usize,

    /// How many bytes are written and flushed as one group, or one batch if that is more; default 4 MiB.
    ///
    /// More: fewer flushes. Less than the largest batch: while others fill the queue again and again, one may wait long
    /// for room. Less: the tail moves on in smaller steps, and while a group is written and flushed the next
    /// ones are accepted.
    pub group_bytes: usize,

    /// How many bytes of the newest entries are kept in memory for readers; default 8 MiB.
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
            queue_bytes: 16 << 20,
            group_bytes: 4 << 20,
            cache_bytes: 8 << 20,
        }
    }
}

impl Config {
    /// # Errors
    /// [`OpenError::Configuration`]: a field is out of its documented bounds.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let refuse = |text: String| Err(OpenError::Configuration(text));
        let &Self { segment_bytes, max_batch_bytes, .. } = self;
        if self.durability == Durability::Memory {
            return refuse("a file log is buffered or flushed; for less, use MemoryLog".to_owned());
        }
        // So that the other bounds can be computed.
        if !(BATCH_BYTES_MIN..BATCH_BYTES_END).contains(&max_batch_bytes) {
            return refuse(format!(
                "the largest batch of a file log has from {BATCH_BYTES_MIN} bytes to below 2 GiB, and not {max_batch_bytes}"
            ));
        }
        let (least, most) = (2 * max_batch_bytes as u64 + 8192, SEGMENT_BYTES_MAX);
        if !(least..=most).contains(&segment_bytes) {
            return refuse(format!(
                "a segment for two batches of {max_batch_bytes} bytes has from {least} to {most} bytes, and not \
                 {segment_bytes}"
            ));
        }
        Ok(())
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
    fn config_out_of_its_bounds_is_refused_and_says_what_would_do() {
        let default = Config::default;
        assert!(default().check().is_ok());
        let longest = Config { max_batch_bytes: BATCH_BYTES_END - 1, segment_bytes: 1 << 32, ..default() };
        assert!(longest.check().is_err() && Config { segment_bytes: 1 << 33, ..longest }.check().is_ok());
        for (config, says) in [
            (Config { durability: Durability::Memory, ..default() }, "use MemoryLog"),
            (Config { segment_bytes: 1 << 20, ..default() }, "from 8396800 to"),
            (Config { segment_bytes: 0, ..default() }, "and not 0"),
            (Config { segment_bytes: u64::MAX, ..default() }, "to 1099511627776 bytes"),
            (Config { max_batch_bytes: 0, ..default() }, "from 4 bytes"),
            (Config { max_batch_bytes: 1 << 31, segment_bytes: 1 << 40, ..default() }, "below 2 GiB"),
            (Config { max_batch_bytes: usize::MAX, ..default() }, "below 2 GiB"),
        ] {
            let error = config.check().unwrap_err();
            assert!(
                matches!(error, OpenError::Configuration(_)) && error.to_string().contains(says),
                "{error}"
            );
        }
    }
}
