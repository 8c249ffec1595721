//! Which records a run inserts, and how far their insertion is known.
//!
//! Source: YCSB's `AcknowledgedCounterGenerator`. Records are numbered on from those that were loaded; a record may be
//! read once its insertion, and that of all records with smaller numbers, is acknowledged.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// The numbers of the records to insert, shared by the clients of a run.
#[derive(Debug)]
pub struct Inserts {
    /// All records with smaller numbers are there.
    end: AtomicU64,
    beyond: Mutex<Beyond>,
}

#[derive(Debug)]
struct Beyond {
    /// The next number to give away.
    next: u64,
    /// Numbers from `end` of records that are there.
    present: BTreeSet<u64>,
}

impl Inserts {
    /// Inserts beside the records with numbers below `records`, and those of these numbers from there.
    #[must_use]
    pub fn new(records: u64, present: impl IntoIterator<Item = u64>) -> Self {
        let beyond = Beyond { next: records, present: present.into_iter().collect() };
        let inserts = Self { end: AtomicU64::new(records), beyond: Mutex::new(beyond) };
        inserts.advance(&mut inserts.beyond.lock().expect("nobody else has it"));
        inserts
    }

    /// The number after that of the newest record that may be read.
    #[inline]
    #[must_use]
    pub fn end(&self) -> u64 {
        // With `advance`: whoever sees the number submits after the acknowledgement of the record.
        self.end.load(Ordering::Acquire)
    }

    /// The number of the next record to insert.
    ///
    /// # Panics
    /// Here and below: if another client panicked meanwhile.
    #[must_use]
    pub fn take(&self) -> u64 {
        let mut beyond = self.beyond.lock().expect("no panic between");
        // A crash may have left gaps, of inserts that were not acknowledged.
        while beyond.present.contains(&beyond.next) {
            beyond.next += 1;
        }
        beyond.next += 1;
        beyond.next - 1
    }

    /// The record with this number is there.
    pub fn acknowledge(&self, number: u64) {
        let mut beyond = self.beyond.lock().expect("no panic between");
        beyond.present.insert(number);
        self.advance(&mut beyond);
    }

    fn advance(&self, beyond: &mut Beyond) {
        let mut end = self.end.load(Ordering::Relaxed);
        while beyond.present.first() == Some(&end) {
            beyond.present.pop_first();
            end += 1;
        }
        beyond.next = beyond.next.max(end);
        self.end.store(end, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_may_be_read_when_all_before_them_are_there() {
        let inserts = Inserts::new(10, []);
        assert_eq!([inserts.take(), inserts.take(), inserts.take()], [10, 11, 12]);
        inserts.acknowledge(11);
        assert_eq!(inserts.end(), 10);
        inserts.acknowledge(10);
        assert_eq!(inserts.end(), 12);
        inserts.acknowledge(12);
        assert_eq!((inserts.end(), inserts.take()), (13, 13));
    }

    #[test]
    fn gaps_are_filled_first() {
        let inserts = Inserts::new(10, [10, 12, 13]);
        assert_eq!(inserts.end(), 11);
        assert_eq!([inserts.take(), inserts.take()], [11, 14]);
        inserts.acknowledge(11);
        assert_eq!(inserts.end(), 14);
    }
}
