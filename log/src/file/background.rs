//! The background thread: reserves the next segment ahead of need, and flushes a buffered log.

use crate::Durability;
use crate::commit_queue::Chore;

use super::segments;
use super::{Shared, Spare};

/// Runs until the log is closed or fails.
pub(crate) fn run(shared: &Shared) {
    loop {
        match shared.queue.take_chore() {
            Chore::Reserve => reserve(shared),
            Chore::Flush => {
                if let Err(error) = shared.flush() {
                    shared.queue.fail(error);
                }
            }
            Chore::Stop => return,
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
        Err(error) => shared.queue.refuse(error),
    }
}
