//! What the engine learned of procedures whose footprints it finds.
//!
//! A footprint that was found on a state of the past is a guess. Where a procedure's choice of rows depends on rows that
//! change all the time (the items of the newest orders), the guess is wrong nearly always, and each wrong one costs a
//! replay of its window. So a violation is a lesson: for a while the procedure declares more than it was seen to touch,
//! first the granules of the rows that it reads in that table, if it has granules, then anything. Later it is tried
//! again; a lesson that has to be learned again is remembered for twice as long, up to some thousand windows.
//!
//! What writes anything has to run alone, and nobody can look at rows in place beside its window. So it is also learned
//! which procedures were seen to write: from others, writes are a violation, however little is known of what they read.
//!
//! What touches more than so many rows has a footprint that is long to search, and copies of its rows that are large: it is
//! stopped when it is run ahead, and runs alone. Where that is what most calls of a procedure come to, it is a lesson, too, so
//! that it need not be tried each time.
//!
//! Lessons decide who waits for whom, never a result.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// For how many windows a lesson is remembered the first time, and how often that is doubled.
const WINDOWS: u64 = 4;
const DOUBLED: u64 = 12;
/// The same where the lesson is that a procedure touches too much to be run ahead: to try it again costs no replay, and what
/// it declares meanwhile is much more, if it touches less by then.
const DOUBLED_TOO_LARGE: u64 = 6;

/// How much of a table a procedure declares besides what it was seen to touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Extent {
    /// Nothing.
    Rows,
    /// The granules of the rows that it reads.
    Granules,
    /// All, of all tables.
    Anything,
}

/// A lesson in one word: in which window it was learned last, how often, and the extent.
#[derive(Clone, Copy, Debug, Default)]
struct Lesson(u64);

impl Lesson {
    const fn new(since: u64, learned: u64, extent: Extent) -> Self {
        Self(since << 8 | learned << 2 | extent as u64)
    }

    const fn since(self) -> u64 {
        self.0 >> 8
    }

    /// 0 for no lesson.
    const fn learned(self) -> u64 {
        self.0 >> 2 & 0x3f
    }

    /// The first window that does not remember it.
    const fn until(self) -> u64 {
        match self.learned() {
            0 => 0,
            learned => self.since() + (WINDOWS << (learned - 1)),
        }
    }

    const fn extent(self, window: u64) -> Extent {
        match self.0 & 3 {
            _ if self.until() <= window => Extent::Rows,
            1 => Extent::Granules,
            2 => Extent::Anything,
            _ => Extent::Rows,
        }
    }
}

/// Lessons by procedure and table; those of procedures that touch too much stand behind those of the last table.
pub(crate) struct Learned {
    tables: usize,
    lessons: Box<[AtomicU64]>,
    /// By procedure: until which window it has any lesson.
    until: Box<[AtomicU64]>,
    /// By procedure: whether it was seen to write.
    writes: Box<[AtomicBool]>,
}

impl Learned {
    pub(crate) fn new(procedures: usize, tables: usize) -> Self {
        let words = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        let writes = (0..procedures).map(|_| AtomicBool::new(false)).collect();
        Self { tables, lessons: words(procedures * (tables + 1)), until: words(procedures), writes }
    }

    fn lesson(&self, procedure: u16, table: u16) -> &AtomicU64 {
        &self.lessons[usize::from(procedure) * (self.tables + 1) + usize::from(table)]
    }

    /// Whether there are lessons for a procedure in a window.
    #[inline]
    pub(crate) fn has_any(&self, procedure: u16, window: u64) -> bool {
        self.until[usize::from(procedure)].load(Ordering::Relaxed) > window
    }

    /// The extent of a table that a procedure declares.
    pub(crate) fn extent(&self, procedure: u16, table: u16, window: u64) -> Extent {
        Lesson(self.lesson(procedure, table).load(Ordering::Relaxed)).extent(window)
    }

    /// The greatest extent that a procedure declares in any table.
    pub(crate) fn greatest(&self, procedure: u16, window: u64) -> Extent {
        let extents = (0..=self.tables).map(|table| self.extent(procedure, table as u16, window));
        extents.max().unwrap_or(Extent::Rows)
    }

    /// Whether a procedure was seen to write.
    #[inline]
    pub(crate) fn writes(&self, procedure: u16) -> bool {
        self.writes[usize::from(procedure)].load(Ordering::Relaxed)
    }

    /// A procedure writes.
    #[inline]
    pub(crate) fn note_writes(&self, procedure: u16) {
        if !self.writes(procedure) {
            self.writes[usize::from(procedure)].store(true, Ordering::Relaxed);
        }
    }

    /// A procedure left its footprint in a window, in a table with granules or without. The leader calls it.
    pub(crate) fn learn(&self, procedure: u16, table: u16, has_granules: bool, window: u64) {
        self.learn_in(procedure, table, has_granules, window, DOUBLED);
    }

    /// A procedure was run ahead for a window, and touched too much. Any driver calls it: of two at once one is enough.
    pub(crate) fn learn_too_large(&self, procedure: u16, window: u64) {
        self.learn_in(procedure, self.tables as u16, false, window, DOUBLED_TOO_LARGE);
    }

    /// Whether a procedure is not to be run ahead for a window, since it touched too much.
    pub(crate) fn is_too_large(&self, procedure: u16, window: u64) -> bool {
        self.has_any(procedure, window)
            && self.extent(procedure, self.tables as u16, window) == Extent::Anything
    }

    fn learn_in(&self, procedure: u16, table: u16, has_granules: bool, window: u64, doubled: u64) {
        let lesson = self.lesson(procedure, table);
        let before = Lesson(lesson.load(Ordering::Relaxed));
        // The next window was prepared by then, and knows nothing of it.
        if before.learned() > 0 && window <= before.since() + 1 {
            return;
        }
        let extent = match before.extent(window) {
            Extent::Rows if has_granules => Extent::Granules,
            Extent::Rows | Extent::Granules | Extent::Anything => Extent::Anything,
        };
        let new = Lesson::new(window, (before.learned() + 1).min(doubled + 1), extent);
        lesson.store(new.0, Ordering::Relaxed);
        self.until[usize::from(procedure)].fetch_max(new.until(), Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn lessons_extend_and_are_forgotten_later_each_time() {
        let learned = Learned::new(2, 3);
        assert!(!learned.has_any(1, 0));
        learned.learn(1, 2, true, 10);
        assert!(learned.has_any(1, 11) && !learned.has_any(0, 11));
        assert_eq!(learned.extent(1, 2, 11), Extent::Granules);
        assert_eq!(learned.extent(1, 1, 11), Extent::Rows);
        learned.learn(1, 2, true, 11);
        assert_eq!(learned.extent(1, 2, 12), Extent::Granules, "the window that was prepared by then");
        learned.learn(1, 2, true, 12);
        assert_eq!((learned.extent(1, 2, 13), learned.greatest(1, 13)), (Extent::Anything, Extent::Anything));
        assert_eq!(learned.extent(1, 2, 12 + 2 * WINDOWS - 1), Extent::Anything);
        let later = 12 + 2 * WINDOWS;
        assert_eq!((learned.extent(1, 2, later), learned.has_any(1, later)), (Extent::Rows, false));
        learned.learn(1, 2, true, later);
        assert_eq!(learned.extent(1, 2, later + 4 * WINDOWS - 1), Extent::Granules);
        learned.learn(0, 0, false, 5);
        assert_eq!(learned.extent(0, 0, 6), Extent::Anything);
        for window in 0..100 {
            learned.learn(0, 0, false, 6 + 2 * window);
        }
        assert_eq!(learned.extent(0, 0, 204 + (WINDOWS << DOUBLED) - 1), Extent::Anything);
        assert_eq!(learned.extent(0, 0, 204 + (WINDOWS << DOUBLED)), Extent::Rows);
    }

    #[test]
    fn what_touches_too_much_is_tried_again_later_each_time_and_not_much_later() {
        let learned = Learned::new(2, 3);
        let mut window = 10;
        for doubled in (0..DOUBLED_TOO_LARGE).chain([DOUBLED_TOO_LARGE; 3]) {
            assert!(!learned.is_too_large(0, window));
            (0..3).for_each(|_| learned.learn_too_large(0, window));
            let until = window + (WINDOWS << doubled);
            for remembered in [window, window + 1, until - 1] {
                assert!(learned.is_too_large(0, remembered) && !learned.is_too_large(1, remembered));
                assert_eq!(learned.greatest(0, remembered), Extent::Anything);
                assert!((0..3).all(|table| learned.extent(0, table, remembered) == Extent::Rows));
            }
            window = until;
        }
        assert_eq!(learned.greatest(1, 11), Extent::Rows);
    }
}
