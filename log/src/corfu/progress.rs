//! What one client knows of how far the log is written, so that it asks the cluster only about the rest.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::Position;

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// How far the log is known to be written.
#[derive(Debug)]
pub(crate) struct Progress {
    known: Mutex<Known>,
    changed: Condvar,
}

/// The knowledge.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The highest trim mark seen.
    pub(crate) head: Position,
    /// Everything before it is committed.
    pub(crate) mark: Position,
    /// Ranges after the mark that are committed, by their start; they do not touch.
    beyond: BTreeMap<Position, Position>,
    /// Appends of this client that began, and that ended.
    began: u64,
    ended: u64,
}

impl Known {
    fn add(&mut self, from: Position, upto: Position) {
        if from > self.mark {
            self.add_beyond(from, upto);
            return;
        }
        self.mark = self.mark.max(upto);
        while let Some(next) = self.beyond.first_entry() {
            if *next.key() > self.mark {
                break;
            }
            let end = next.remove();
            self.mark = self.mark.max(end);
        }
    }

    /// Adds a range after the mark, together with those that it touches.
    fn add_beyond(&mut self, mut from: Position, mut upto: Position) {
        if let Some((first, end)) = self.beyond.range(..from).next_back()
            && *end >= from
        {
            (from, upto) = (*first, upto.max(*end));
        }
        while let Some((&next, &end)) = self.beyond.range(from..=upto).next() {
            self.beyond.remove(&next);
            upto = upto.max(end);
        }
        self.beyond.insert(from, upto);
    }
}

impl Progress {
    pub(crate) fn new(head: Position) -> Self {
        let known = Known { head, mark: head, ..Known::default() };
        Self { known: Mutex::new(known), changed: Condvar::new() }
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect(UNPOISONED)
    }

    /// Everything in `[from, upto)` is committed.
    pub(crate) fn committed(&self, from: Position, upto: Position) {
        self.known().add(from, upto);
        self.changed.notify_all();
    }

    /// Everything before `head` is trimmed.
    pub(crate) fn trimmed(&self, head: Position) {
        let mut known = self.known();
        known.head = known.head.max(head);
        known.add(Position::ZERO, head);
        drop(known);
        self.changed.notify_all();
    }

    pub(crate) fn append_begins(&self) {
        self.known().began += 1;
    }

    pub(crate) fn append_ended(&self) {
        self.known().ended += 1;
        self.changed.notify_all();
    }

    /// Wakes everybody who waits.
    pub(crate) fn wake(&self) {
        drop(self.known());
        self.changed.notify_all();
    }

    /// Waits until appends that this client has begun have ended, as far as they may stand before `upto`.
    /// False when `deadline` passed first.
    pub(crate) fn wait_own(&self, upto: Position, deadline: Instant) -> bool {
        let mut known = self.known();
        let began = known.began;
        while known.mark < upto && known.ended < began {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            known = self.changed.wait_timeout(known, left).expect(UNPOISONED).0;
        }
        true
    }

    /// Waits for a change, until `deadline`, while the mark is not past `position`.
    pub(crate) fn wait_change(&self, position: Position, deadline: Instant) {
        let known = self.known();
        if known.mark <= position {
            let left = deadline.saturating_duration_since(Instant::now());
            drop(self.changed.wait_timeout(known, left.max(Duration::from_micros(1))).expect(UNPOISONED));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn mark_moves_over_ranges_that_became_contiguous() {
        let mut known = Known::default();
        for (from, upto, mark) in
            [(4, 6, 0), (8, 9, 0), (0, 2, 2), (1, 3, 3), (3, 4, 6), (6, 8, 9), (2, 4, 9)]
        {
            known.add(Position(from), Position(upto));
            assert_eq!(known.mark, Position(mark), "after [{from}, {upto})");
        }
        assert!(known.beyond.is_empty());
    }

    #[test]
    fn ranges_that_touch_beyond_the_mark_are_one() {
        let mut known = Known::default();
        for (from, upto, ranges) in [
            (10, 12, &[(10, 12)][..]),
            (20, 22, &[(10, 12), (20, 22)]),
            (12, 14, &[(10, 14), (20, 22)]),
            (18, 20, &[(10, 14), (18, 22)]),
            (11, 13, &[(10, 14), (18, 22)]),
            (14, 18, &[(10, 22)]),
            (30, 31, &[(10, 22), (30, 31)]),
            (5, 40, &[(5, 40)]),
        ] {
            known.add(Position(from), Position(upto));
            let found: Vec<_> = known.beyond.iter().map(|(from, upto)| (from.0, upto.0)).collect();
            assert_eq!(found, ranges, "after [{from}, {upto})");
        }
        assert_eq!(known.mark, Position::ZERO);
    }
}
