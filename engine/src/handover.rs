//! How the leader hands a round of work to the other drivers, and how they meet inside it.
//!
//! Waking a parked thread costs 25 us or more, a whole window of small transactions, so both spin first; a
//! driver that finds no work for a while sleeps at the gate. All waiting in the engine that is not for the log
//! or for memory happens here.

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Condvar, Mutex, Ordering, spin_loop, yield_now};

/// How often to look before giving up the processor, and how often to do that before sleeping.
#[cfg(not(loom))]
const SPINS: u32 = 256;
#[cfg(not(loom))]
const YIELDS: u32 = 64;
#[cfg(loom)]
const SPINS: u32 = 1;
#[cfg(loom)]
const YIELDS: u32 = 1;

/// What the gate opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// A round of work.
    Round,
    /// The end.
    Stop,
}

/// Where drivers wait for the leader to open the next round.
#[derive(Debug)]
pub(crate) struct Gate {
    round: CachePadded<AtomicU64>,
    stopped: AtomicBool,
    /// How many drivers sleep.
    sleepers: Mutex<u32>,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            round: CachePadded::new(AtomicU64::new(0)),
            stopped: AtomicBool::new(false),
            sleepers: Mutex::new(0),
            opened: Condvar::new(),
        }
    }

    /// Lets every waiting driver pass, once. What the leader wrote before is seen by those who pass.
    pub(crate) fn open(&self, call: Call) {
        if call == Call::Stop {
            self.stopped.store(true, Ordering::Relaxed);
        }
        self.round.fetch_add(1, Ordering::Release);
        // The lock orders this with a driver that is about to sleep: either it sees the round, or it is counted
        // here. One lock a window is nothing.
        let sleepers = self.sleepers.lock().expect("no panic at the gate");
        if *sleepers > 0 {
            self.opened.notify_all();
        }
    }

    /// Waits until the gate was opened more often than `passed` times, which it counts up.
    pub(crate) fn pass(&self, passed: &mut u64) -> Call {
        let mut looks = 0;
        // Acquire pairs with the leader's opening.
        while self.round.load(Ordering::Acquire) == *passed {
            looks += 1;
            if looks < SPINS {
                spin_loop();
            } else if looks < SPINS + YIELDS {
                yield_now();
            } else {
                self.sleep(*passed);
            }
        }
        *passed += 1;
        if self.stopped.load(Ordering::Relaxed) { Call::Stop } else { Call::Round }
    }

    #[cold]
    fn sleep(&self, passed: u64) {
        let mut sleepers = self.sleepers.lock().expect("no panic at the gate");
        *sleepers += 1;
        while self.round.load(Ordering::Acquire) == passed {
            sleepers = self.opened.wait(sleepers).expect("no panic at the gate");
        }
        *sleepers -= 1;
    }
}

/// Where all drivers of a round wait for each other. What each wrote before is seen by all after.
#[derive(Debug)]
pub(crate) struct Barrier {
    drivers: u32,
    arrived: CachePadded<AtomicU32>,
    phase: CachePadded<AtomicU32>,
    broken: AtomicBool,
}

/// What a driver panics with when another one panicked.
pub(crate) const BROKEN: &str = "another driver panicked";

impl Barrier {
    pub(crate) fn new(drivers: usize) -> Self {
        Self {
            drivers: u32::try_from(drivers).expect("few drivers"),
            arrived: CachePadded::new(AtomicU32::new(0)),
            phase: CachePadded::new(AtomicU32::new(0)),
            broken: AtomicBool::new(false),
        }
    }

    /// A driver will never arrive again: nobody waits any more.
    pub(crate) fn break_up(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    pub(crate) const fn broken(&self) -> &AtomicBool {
        &self.broken
    }

    /// Waits for all drivers.
    ///
    /// # Panics
    /// When the barrier was broken up.
    pub(crate) fn wait(&self) {
        let phase = self.phase.load(Ordering::Relaxed);
        // AcqRel: the last to arrive has seen what everybody wrote, and passes it on by the phase.
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.drivers {
            self.arrived.store(0, Ordering::Relaxed);
            self.phase.store(phase.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut looks = 0u32;
        while self.phase.load(Ordering::Acquire) == phase {
            looks += 1;
            if looks.is_multiple_of(SPINS) {
                yield_now()
            } else {
                spin_loop()
            }
            if self.broken.load(Ordering::Relaxed) {
                std::panic::resume_unwind(Box::new(BROKEN));
            }
        }
    }
}

#[cfg(all(test, loom))]
#[expect(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "loom's cells report every race themselves"
)]
mod loom_tests {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    #[test]
    fn loom_gate_driver_sees_what_was_written_before_each_round_and_no_wake_up_is_lost() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = Arc::new((Gate::new(), UnsafeCell::new(0u64), AtomicU32::new(0)));
            let driver = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let (gate, work, done) = &*shared;
                    let mut passed = 0;
                    assert_eq!(gate.pass(&mut passed), Call::Round);
                    assert_eq!(work.with(|w| unsafe { *w }), 1);
                    done.store(1, Ordering::Release);
                    assert_eq!(gate.pass(&mut passed), Call::Stop);
                })
            };
            let (gate, work, done) = &*shared;
            work.with_mut(|w| unsafe { *w = 1 });
            gate.open(Call::Round);
            while done.load(Ordering::Acquire) == 0 {
                spin_loop();
            }
            work.with_mut(|w| unsafe { *w = 2 });
            gate.open(Call::Stop);
            driver.join().unwrap();
        });
    }

    #[test]
    fn loom_barrier_everybody_sees_what_everybody_wrote_twice_in_a_row() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = Arc::new((Barrier::new(2), [UnsafeCell::new(0u64), UnsafeCell::new(0u64)]));
            let run = |me: usize, shared: &(Barrier, [UnsafeCell<u64>; 2])| {
                let (barrier, cells) = shared;
                cells[me].with_mut(|c| unsafe { *c = 1 });
                barrier.wait();
                assert_eq!(cells[1 - me].with(|c| unsafe { *c }), 1);
                barrier.wait();
                cells[me].with_mut(|c| unsafe { *c = 2 });
                barrier.wait();
                assert_eq!(cells[1 - me].with(|c| unsafe { *c }), 2);
            };
            let other = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || run(1, &shared))
            };
            run(0, &shared);
            other.join().unwrap();
        });
    }
}
