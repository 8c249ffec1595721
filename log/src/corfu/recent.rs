//! Blocks that were read lately, for other readers and for the next question of the same one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use crate::{Block, Position};

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// Blocks up to a number of bytes, the oldest of which goes first. They may overlap.
#[derive(Debug)]
pub(crate) struct Recent {
    limit: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    blocks: BTreeMap<Position, Arc<Block>>,
    /// Where each of them starts, the oldest first.
    order: VecDeque<Position>,
    bytes: usize,
}

impl Recent {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, kept: Mutex::default() }
    }

    /// The block that holds `position`, if it is kept.
    pub(crate) fn get(&self, position: Position) -> Option<Arc<Block>> {
        let kept = self.kept.lock().expect(UNPOISONED);
        let (_, block) = kept.blocks.range(..=position).next_back()?;
        (position < block.end()).then(|| Arc::clone(block))
    }

    /// Keeps these blocks, instead of the oldest.
    pub(crate) fn keep(&self, blocks: Vec<Arc<Block>>) {
        let mut dropped = Vec::new();
        let mut kept = self.kept.lock().expect(UNPOISONED);
        for block in blocks {
            kept.bytes += block.memory();
            let first = block.first();
            match kept.blocks.insert(first, block) {
                Some(before) => {
                    kept.bytes -= before.memory();
                    dropped.push(before);
                }
                None => kept.order.push_back(first),
            }
        }
        while kept.bytes > self.limit {
            let Some(first) = kept.order.pop_front() else { break };
            if let Some(block) = kept.blocks.remove(&first) {
                kept.bytes -= block.memory();
                dropped.push(block);
            }
        }
        drop(kept);
        // Freeing megabytes takes long: not with the lock held.
        drop(dropped);
    }

    /// Drops the blocks that end at or before `head`.
    pub(crate) fn trim(&self, head: Position) {
        let mut dropped = Vec::new();
        let mut kept = self.kept.lock().expect(UNPOISONED);
        while let Some(block) = kept.blocks.first_entry().filter(|first| first.get().end() <= head) {
            let block = block.remove();
            kept.bytes -= block.memory();
            dropped.push(block);
        }
        if !dropped.is_empty() {
            let Kept { blocks, order, .. } = &mut *kept;
            order.retain(|first| *first >= head || blocks.contains_key(first));
        }
        drop(kept);
        drop(dropped);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn junk(first: u64, count: u32) -> Arc<Block> {
        Arc::new(Block::junk(Position(first), count))
    }

    #[test]
    fn blocks_past_the_limit_go_oldest_first() {
        let recent = Recent::new(2 * junk(0, 1).memory());
        recent.keep(vec![junk(0, 5), junk(5, 5), junk(20, 5)]);
        assert!(recent.get(Position(0)).is_none());
        assert_eq!(recent.get(Position(9)).unwrap().first(), Position(5));
        assert!(recent.get(Position(10)).is_none());
        recent.keep(vec![junk(5, 7)]);
        assert_eq!(recent.get(Position(11)).unwrap().len(), 7);
        recent.trim(Position(12));
        assert!(recent.get(Position(11)).is_none());
        assert!(recent.get(Position(24)).is_some());
    }

    #[test]
    fn blocks_that_are_trimmed_or_kept_twice_leave_nothing() {
        let recent = Recent::new(1 << 20);
        for n in 0..100 {
            recent.keep(vec![junk(5 * n, 5), junk(5 * n, 5)]);
            // In the middle of the last one, which stays.
            recent.trim(Position(5 * n + 2));
            let kept = recent.kept.lock().unwrap();
            assert_eq!((kept.blocks.len(), kept.order.len()), (1, 1), "after {n}");
        }
    }
}
