//! The background threads: one reserves the next segment ahead of need, another one flushes a buffered log.

use crate::Durability;

use super::segments;
use super::{Shared, Spare};

/// Reserves segments until the log is closed or fails.
pub(crate) fn reserve_segments(shared: &Shared) {
    while shared.queue.wait_for_reservation() {
        reserve(shared);
    }
}

/// Flushes what is asked for until the log is closed or fails.
pub(crate) fn flush(shared: &Shared) {
    while shared.queue.wait_for_flush() {
        if let Err(error) = shared.flush() {
            shared.fail(error);
        }
    }
}

/// Groups of at least this size are flushed as fast with the file system's own records as it takes to write as many
/// zeros before, on ext4: `ONLY=zeros cargo bench --bench durability`.
const LARGE_GROUP: u64 = 256 << 10;

fn reserve(shared: &Shared) {
    let bytes = shared.segment_bytes;
    let write = shared.durability == Durability::Flushed && shared.group_bytes.get() < LARGE_GROUP;
    match segments::reserve(&*shared.storage, bytes, write, || shared.queue.ended()) {
        Ok(file) => {
            shared.put_spare(Spare { file, bytes });
            shared.queue.grant(shared.spare_room);
        }
        Err(error) => shared.queue.refuse(shared.located(error)),
    }
}
