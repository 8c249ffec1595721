//! The background thread: reserves the next segment ahead of need, and flushes a buffered log.

use std::sync::Arc;

use crate::Durability;
use crate::commit_queue::Chore;

use super::segments;
use super::{Shared, Spare};

/// Runs until the log is closed or fails.
pub(crate) fn run(shared: &Arc<Shared>) {
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

fn reserve(shared: &Shared) {
    let bytes = shared.segment_bytes;
    match segments::reserve(&*shared.storage, bytes, shared.durability == Durability::Flushed, || {
        shared.queue.ended()
    }) {
        Ok(file) => {
            shared.put_spare(Spare { file, bytes });
            shared.queue.grant(shared.spare_room);
        }
        Err(error) => shared.queue.refuse(error),
    }
}
