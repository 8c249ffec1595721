//! What each worker keeps of a table: versions to put back or to retain, numbers of rows, counts.

use std::collections::VecDeque;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI64, AtomicU64};

use crate::store::WindowEnd;
use crate::store::arena::Arena;
use crate::store::row::{Stamp, Version};
use crate::store::slab::RowId;

/// What a worker keeps of a table.
pub(super) struct Local<K, V> {
    /// The first changes of rows: those of retained windows, then those of the window at hand.
    pub(super) versions: Arena<Version<V>>,
    /// The windows of which versions are retained, oldest first: first stamp, and how many versions.
    pub(super) retained: VecDeque<(Stamp, usize)>,
    /// How many versions are retained.
    pub(super) retained_len: usize,
    /// Rows that the window had changed before, as they were before the running transaction.
    pub(super) within: Arena<Version<V>>,
    pub(super) numbers: Range<RowId>,
    /// Numbers given back, with the window in which that was. Those that may be used already are in front.
    pub(super) free: VecDeque<(u64, RowId)>,
    /// Rows in the index without a value that a snapshot may need, or that were not looked at yet.
    pub(super) absent: VecDeque<RowId>,
    /// Rows that were buried, with their keys and when they were deleted, in the order of their burial: nearly that of their
    /// deletion. Some have come back since.
    pub(super) buried: VecDeque<(K, RowId, Stamp)>,
    /// Rows with a value, and rows in the index or buried: what this worker added, less what it took away.
    pub(super) with_value: i64,
    pub(super) existing: i64,
}

impl<K, V> Local<K, V> {
    /// A number that was given back and may be used in this window.
    pub(super) fn free_number(&mut self, window: u64) -> Option<RowId> {
        if !self.free.front().is_some_and(|&number| super::is_usable(number, window)) {
            return None;
        }
        self.free.pop_front().map(|(_, id)| id)
    }

    /// Where the versions of the window at hand are.
    pub(super) fn window(&self) -> impl Iterator<Item = NonNull<Version<V>>> + use<'_, K, V> {
        self.versions.newest(self.window_len())
    }

    pub(super) const fn window_len(&self) -> usize {
        self.versions.len() - self.retained_len
    }

    /// Retains the versions of the window at hand or drops them, and drops those that nobody needs any more.
    pub(super) fn end_window(&mut self, end: &WindowEnd) {
        let count = self.window_len();
        if end.oldest_snapshot.is_none_or(|oldest| oldest >= end.first) {
            self.versions.drop_newest(count);
        } else if count > 0 {
            self.retained.push_back((end.first, count));
            self.retained_len += count;
        }
        while let Some(&(first, count)) = self.retained.front()
            && end.oldest_snapshot.is_none_or(|oldest| oldest >= first)
        {
            self.retained.pop_front();
            self.retained_len -= count;
            self.versions.drop_oldest(count);
        }
        self.versions.shrink(count);
        // Empty by now, and not needed by most windows.
        self.within.shrink(0);
        if self.retained.is_empty() {
            self.retained.shrink_to(64);
        }
    }
}

/// What a worker last told of its [`Local`], at the end of a window; for whoever asks how much memory is in use.
#[derive(Default)]
pub(super) struct Told {
    pub(super) with_value: AtomicI64,
    pub(super) existing: AtomicI64,
    pub(super) versions: AtomicU64,
    pub(super) buried: AtomicU64,
    pub(super) undo_bytes: AtomicU64,
}
