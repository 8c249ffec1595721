//! Whom a group waits for.
//!
//! Threads that append one batch at a time, and write it themselves, come back soon after it was written. If the next
//! group were taken at once, it would hold only those who came meanwhile, and those just answered would wait for all of
//! it: the threads would go in two halves, each behind the other one's flush. So the group waits a moment for those who
//! are about to come back, and all of them go with every flush.
//!
//! ```text
//! taken at once    | flush A B |   | flush C D |   | flush A B |   | flush C D |
//! gathered         | flush A B C D |     | flush A B C D |     | flush A B C D |
//! ```
//!
//! Where they do not come back in time, this is tried less and less often.

use std::time::{Duration, Instant};

/// A group waits as long as it takes to write one, but where that is less than this not at all: to wake a thread, and to
/// hear of it again, takes longer ...
const LEAST: Duration = Duration::from_micros(20);

/// ... and no longer than this, however slow the disk is.
const MOST: Duration = Duration::from_millis(1);

/// So often the rest between two attempts is doubled.
const DOUBLED: u32 = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// Callers whose batches wait, and those whose batches are in the group that is being written.
    waiting: usize,
    written: usize,
    /// When that group was taken.
    taken: Option<Instant>,
    /// How long it takes to write a group: an average in which the newest count most.
    writing: Duration,
    /// Nothing is to be taken before there are so many callers, or it is so late.
    held: Option<(usize, Instant)>,
    /// How often somebody did not come, less how often all did, and how many groups are taken at once for that.
    misses: u32,
    rests: u32,
}

impl Gathering {
    /// A batch was queued by a thread that writes it itself if nobody else does.
    pub(super) const fn come(&mut self) {
        self.waiting += 1;
    }

    /// How long nothing is to be taken, unless others come before.
    pub(super) fn left(&self) -> Duration {
        match self.held {
            Some((callers, until)) if self.waiting < callers => {
                until.saturating_duration_since(Instant::now())
            }
            _ => Duration::ZERO,
        }
    }

    /// What waits was taken.
    pub(super) fn take(&mut self, now: Instant) {
        if let Some((callers, _)) = self.held.take() {
            if self.waiting >= callers {
                self.misses = self.misses.saturating_sub(1);
            } else {
                self.rests = 1 << self.misses;
                self.misses = (self.misses + 1).min(DOUBLED);
            }
        }
        self.written = std::mem::take(&mut self.waiting);
        self.taken = Some(now);
    }

    /// What was taken is written: who waited for it may come back.
    pub(super) fn publish(&mut self, now: Instant) {
        if let Some(taken) = self.taken.take() {
            let took = now.saturating_duration_since(taken);
            self.writing = if self.writing.is_zero() { took } else { self.writing * 7 / 8 + took / 8 };
        }
        let written = std::mem::take(&mut self.written);
        let patience = self.writing.min(MOST);
        let all = written + self.waiting;
        if written == 0 || all < 2 || patience < LEAST {
            return;
        }
        if self.rests > 0 {
            self.rests -= 1;
        } else {
            self.held = Some((all, now + patience));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::thread;

    use super::*;

    const FLUSH: Duration = Duration::from_micros(200);

    /// Callers come, and what waits is taken and written.
    fn write(gathering: &mut Gathering, callers: usize, start: Instant) {
        (0..callers).for_each(|_| gathering.come());
        gathering.take(start);
        gathering.publish(start + FLUSH);
    }

    #[test]
    fn a_group_waits_for_those_before_and_those_who_wait_but_no_longer() {
        // Far ahead, so that it is not too late already.
        let start = Instant::now() + Duration::from_secs(1000);
        let mut gathering = Gathering::default();
        (0..2).for_each(|_| gathering.come());
        gathering.take(start);
        gathering.come();
        gathering.publish(start + FLUSH);
        for _ in 0..2 {
            assert!(!gathering.left().is_zero());
            gathering.come();
        }
        assert!(gathering.left().is_zero());
        gathering.take(start);
        assert_eq!((gathering.misses, gathering.rests), (0, 0));
        // However few came, it is too late.
        let mut gathering = Gathering::default();
        write(&mut gathering, 2, Instant::now());
        assert!(gathering.held.is_some());
        gathering.come();
        thread::sleep(3 * FLUSH);
        assert!(gathering.left().is_zero());
    }

    #[test]
    fn one_caller_waits_for_nobody_and_nobody_for_those_who_only_append() {
        let start = Instant::now();
        let mut gathering = Gathering::default();
        write(&mut gathering, 1, start);
        assert!(gathering.held.is_none());
        // What other threads appended, who do not wait, has no callers.
        gathering.take(start);
        gathering.come();
        gathering.come();
        gathering.publish(start + FLUSH);
        assert!(gathering.held.is_none());
    }

    #[test]
    fn a_fast_disk_is_not_waited_for() {
        let start = Instant::now();
        let mut gathering = Gathering::default();
        (0..2).for_each(|_| gathering.come());
        gathering.take(start);
        gathering.publish(start + LEAST / 2);
        assert!(gathering.held.is_none());
    }

    #[test]
    fn where_nobody_comes_back_it_is_tried_ever_less() {
        let start = Instant::now();
        let mut gathering = Gathering::default();
        let mut holds = Vec::new();
        for group in 0..600 {
            write(&mut gathering, 2, start);
            if let Some((callers, _)) = &mut gathering.held {
                holds.push(group);
                // One more than come.
                *callers += 1;
            }
        }
        let gaps: Vec<_> = holds.windows(2).map(|two| two[1] - two[0]).collect();
        assert_eq!(gaps, [2, 3, 5, 9, 17, 33, 65, 129, 257]);
        assert_eq!(holds[0], 0);
    }
}
