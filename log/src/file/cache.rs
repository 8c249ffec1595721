//! The newest blocks, for readers that are close behind the tail.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::{Block, Position};

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// The newest blocks, at consecutive positions, up to a number of bytes.
pub(crate) struct Cache {
    limit: usize,
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    blocks: VecDeque<Arc<Block>>,
    bytes: usize,
}

impl Cache {
    /// A cache of `limit` bytes; the block that crosses the limit is the last one to stay.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, recent: Mutex::default() }
    }

    /// Whether it never keeps anything.
    pub(crate) const fn is_none(&self) -> bool {
        self.limit == 0
    }

    /// Adds the next blocks, and returns the oldest ones that are too much.
    pub(crate) fn push(&self, blocks: impl Iterator<Item = Arc<Block>>) -> Vec<Arc<Block>> {
        if self.is_none() {
            return blocks.collect();
        }
        let mut dropped = Vec::new();
        let mut recent = self.recent.lock().expect(UNPOISONED);
        for block in blocks {
            debug_assert!(recent.blocks.back().is_none_or(|last| last.end() == block.first()));
            recent.bytes += block.memory();
            recent.blocks.push_back(block);
        }
        while recent.bytes > self.limit && recent.blocks.len() > 1 {
            dropped.extend(recent.pop());
        }
        dropped
    }

    /// The block that holds `position`, if it is kept.
    pub(crate) fn get(&self, position: Position) -> Option<Arc<Block>> {
        let recent = self.recent.lock().expect(UNPOISONED);
        let after = recent.blocks.partition_point(|block| block.first() <= position);
        let block = &recent.blocks[after.checked_sub(1)?];
        (position < block.end()).then(|| Arc::clone(block))
    }

    /// Drops the blocks that end at or before `head`.
    pub(crate) fn trim(&self, head: Position) {
        let mut dropped = Vec::new();
        let mut recent = self.recent.lock().expect(UNPOISONED);
        while recent.blocks.front().is_some_and(|block| block.end() <= head) {
            dropped.extend(recent.pop());
        }
        drop(recent);
        // Freeing megabytes takes long: not with the lock held.
        drop(dropped);
    }
}

impl Recent {
    fn pop(&mut self) -> Option<Arc<Block>> {
        let block = self.blocks.pop_front()?;
        self.bytes -= block.memory();
        Some(block)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn junk(first: u64, count: u32) -> Arc<Block> {
        Arc::new(Block::junk(Position(first), count))
    }

    #[test]
    fn cache_past_its_limit_keeps_the_newest_blocks() {
        let cache = Cache::new(2 * junk(0, 1).memory());
        cache.push((0..5).map(|n| junk(n * 10, 10)));
        assert!(cache.get(Position(29)).is_none());
        assert_eq!(cache.get(Position(30)).unwrap().first(), Position(30));
        assert_eq!(cache.get(Position(49)).unwrap().first(), Position(40));
        assert!(cache.get(Position(50)).is_none());
        let old = cache.push([junk(50, 10)].into_iter());
        assert_eq!(old.iter().map(|block| block.first()).collect::<Vec<_>>(), [Position(30)]);
    }

    #[test]
    fn cache_trimmed_forgets_whole_blocks_only() {
        let cache = Cache::new(1 << 20);
        cache.push((0..3).map(|n| junk(n * 10, 10)));
        cache.trim(Position(15));
        assert!(cache.get(Position(9)).is_none());
        assert!(cache.get(Position(12)).is_some());
    }

    #[test]
    fn cache_of_no_bytes_keeps_nothing() {
        let cache = Cache::new(0);
        assert_eq!(cache.push([junk(0, 1)].into_iter()).len(), 1);
        assert!(cache.get(Position(0)).is_none());
    }
}
