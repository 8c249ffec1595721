//! How the leader hands a round of work to the other drivers, and how they meet inside it.
//!
//! Waking a parked thread costs 25 us or more, a whole window of small transactions, so both spin first; who has
//! waited for a while sleeps. So does, without delay, who finds that other programs want the processors: there whoever
//! only yields gets the processor back when all others have had their turns, which takes milliseconds, and whoever
//! sleeps as soon as it is woken. All waiting in the engine that is not for the log or for memory happens here.

#[cfg(not(loom))]
use std::time::{Duration, Instant};

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
/// Who yields for longer than this has been overtaken by somebody who works: most likely not another driver, which would
/// have yielded in its turn.
#[cfg(not(loom))]
const CROWDED: Duration = Duration::from_micros(500);

/// Gives up the processor for a moment. Tells whether that was short; if not, others want it.
#[cfg(not(loom))]
pub(crate) fn yield_shortly() -> bool {
    let start = Instant::now();
    yield_now();
    start.elapsed() < CROWDED
}

#[cfg(loom)]
pub(crate) fn yield_shortly() -> bool {
    yield_now();
    true
}

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
            } else if looks == SPINS + YIELDS || !yield_shortly() {
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
    /// Somebody who waited for the others found that other programs want the processors.
    crowded: AtomicBool,
    /// How many drivers sleep.
    sleepers: Mutex<u32>,
    passed: Condvar,
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
            crowded: AtomicBool::new(false),
            sleepers: Mutex::new(0),
            passed: Condvar::new(),
        }
    }

    /// A driver will never arrive again: nobody waits any more.
    pub(crate) fn break_up(&self) {
        // Release: who sees it sees the phase, too, that the driver had passed.
        self.broken.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) const fn broken(&self) -> &AtomicBool {
        &self.broken
    }

    /// Whether other programs wanted the processors since this was asked last.
    pub(crate) fn was_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed) && self.crowded.swap(false, Ordering::Relaxed)
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
            return self.wake();
        }
        let mut looks = 0u32;
        while self.phase.load(Ordering::Acquire) == phase {
            // Whoever broke it up may have passed with all others, just now.
            if self.broken.load(Ordering::Acquire) && self.phase.load(Ordering::Acquire) == phase {
                std::panic::resume_unwind(Box::new(BROKEN));
            }
            looks += 1;
            if !looks.is_multiple_of(SPINS) {
                spin_loop();
            } else if looks == SPINS * YIELDS {
                self.sleep(phase);
            } else if !yield_shortly() {
                self.crowded.store(true, Ordering::Relaxed);
                self.sleep(phase);
            }
        }
    }

    /// The phase is another one, or the barrier is broken: as at the gate, whoever sleeps is counted, or sees it.
    fn wake(&self) {
        let sleepers = self.sleepers.lock().expect("no panic at the barrier");
        if *sleepers > 0 {
            self.passed.notify_all();
        }
    }

    #[cold]
    fn sleep(&self, phase: u32) {
        let mut sleepers = self.sleepers.lock().expect("no panic at the barrier");
        *sleepers += 1;
        while self.phase.load(Ordering::Acquire) == phase && !self.broken.load(Ordering::Relaxed) {
            sleepers = self.passed.wait(sleepers).expect("no panic at the barrier");
        }
        *sleepers -= 1;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    use super::*;

    /// Until `count` drivers sleep.
    fn wait_for_sleepers(barrier: &Barrier, count: u32) {
        while *barrier.sleepers.lock().unwrap() < count {
            yield_now();
        }
    }

    #[test]
    fn drivers_that_sleep_are_woken_by_the_last_one_and_when_another_one_panics() {
        let barrier = &Barrier::new(3);
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        catch_unwind(AssertUnwindSafe(|| barrier.wait())).unwrap_err()
                    })
                })
                .collect();
            wait_for_sleepers(barrier, 2);
            barrier.wait();
            wait_for_sleepers(barrier, 2);
            barrier.break_up();
            for driver in waiting {
                assert_eq!(driver.join().unwrap().downcast_ref(), Some(&BROKEN));
            }
        });
        assert_eq!(*barrier.sleepers.lock().unwrap(), 0);
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
