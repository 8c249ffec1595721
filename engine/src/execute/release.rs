//! Releasing transactions as those that they wait for finish.
//!
//! Every node of the schedule counts how many predecessors it still waits for. Whoever finishes the last of
//! them runs the node itself, if it has nothing better to do, or puts it where others find it. Nobody ever waits
//! for a particular transaction, so any one driver can finish the window alone, and a driver that loses its
//! processor holds up no more than what it was running.
//!
//! Transactions that wait for nobody are claimed in runs from a shared cursor; a released one costs one counter
//! in the node, and nothing shared as long as it stays with the driver that released it.

use crossbeam_utils::CachePadded;
use mixlog_mixer::{NodeId, Schedule};

use crate::handover::yield_shortly;
use crate::sync::{AtomicBool, AtomicU32, Ordering, spin_loop, yield_now};

/// How many transactions without predecessors a driver claims at once, at most. One under loom, whose small windows
/// would otherwise go to one driver whole.
const RUN: u32 = if cfg!(loom) { 1 } else { 8 };
/// Of those that are left, a driver claims one in so many: each may head a long chain, which nobody takes over once it
/// is claimed.
const SHARE: u32 = 8;
/// With more parallelism than this the order does not matter: no path is long enough for others to wait for.
const UNORDERED: f64 = 64.0;

const EMPTY: u32 = u32::MAX;

/// The state of a window's execution, shared by its drivers. Reused from window to window.
#[derive(Debug, Default)]
pub(crate) struct Release {
    /// For each node, how many predecessors have not finished.
    waits_for: Vec<AtomicU32>,
    /// Transactions that wait for nobody: those first on which the most others wait, one behind the other, else in log
    /// order.
    free: Vec<u32>,
    /// See [`Schedule::heights`]; empty where they do not matter.
    heights: Vec<u32>,
    /// Room to sort in.
    unsorted: Vec<u32>,
    starts: Vec<u32>,
    next_free: CachePadded<AtomicU32>,
    /// Released transactions that their releaser did not run itself. Each transaction enters at most once, so
    /// the queue needs no more places than there are transactions, and no place is used twice.
    queue: Vec<AtomicU32>,
    queue_end: CachePadded<AtomicU32>,
    queue_start: CachePadded<AtomicU32>,
    finished: CachePadded<AtomicU32>,
    transactions: u32,
}

impl Release {
    /// Gets ready for a window. The drivers start after it, through the gate.
    pub(crate) fn reset(&mut self, schedule: &Schedule) {
        let Self { waits_for, free, queue, .. } = self;
        waits_for.clear();
        waits_for.extend(schedule.waits_for().iter().map(|&count| AtomicU32::new(count)));
        free.clear();
        free.extend((0..schedule.transactions()).filter(|&t| schedule.waits_for()[t as usize] == 0));
        queue.clear();
        queue.resize_with(schedule.transactions() as usize, || AtomicU32::new(EMPTY));
        self.heights.clear();
        if schedule.parallelism() < UNORDERED {
            schedule.heights(&mut self.heights);
            self.sort_free(schedule.batches());
        }
        self.transactions = schedule.transactions();
        for counter in [&self.next_free, &self.queue_end, &self.queue_start, &self.finished] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// By height, the highest first; by counting, as heights are small.
    fn sort_free(&mut self, highest: u32) {
        let Self { free, heights, unsorted, starts, .. } = self;
        let place = |transaction: u32| (highest - heights[transaction as usize]) as usize;
        starts.clear();
        starts.resize(highest as usize + 1, 0);
        free.iter().for_each(|&transaction| starts[place(transaction) + 1] += 1);
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        std::mem::swap(free, unsorted);
        free.clear();
        free.resize(unsorted.len(), 0);
        for &transaction in &*unsorted {
            let start = &mut starts[place(transaction)];
            free[*start as usize] = transaction;
            *start += 1;
        }
    }

    /// Runs transactions of the window until all are finished, or are left to the other drivers. `run` sees everything
    /// that the predecessors of its transaction did. `ahead` is told of a transaction a little before it runs, once or
    /// more often, when its predecessors may still be running.
    ///
    /// # Panics
    /// When `broken` is set: a driver will not finish what it runs.
    pub(crate) fn drive(
        &self,
        schedule: &Schedule,
        broken: &AtomicBool,
        mut ahead: impl FnMut(u32),
        mut run: impl FnMut(u32),
    ) {
        let mut driver = Driver { release: self, schedule, broken, mine: None, claimed: 0..0, finished: 0 };
        while let Some(transaction) = driver.next(&mut ahead) {
            run(transaction);
            driver.finish(transaction);
        }
    }
}

struct Driver<'a> {
    release: &'a Release,
    schedule: &'a Schedule,
    broken: &'a AtomicBool,
    /// A transaction that this driver released, to run next: what it needs is in this core's cache.
    mine: Option<u32>,
    claimed: std::ops::Range<u32>,
    /// Finished and not yet added to the shared count.
    finished: u32,
}

impl Driver<'_> {
    /// The next transaction to run, or `None` when all are finished, or the others are to do the rest.
    fn next(&mut self, ahead: &mut impl FnMut(u32)) -> Option<u32> {
        if let Some(transaction) = self.mine.take() {
            ahead(transaction);
            return Some(transaction);
        }
        let mut looks = 0u32;
        loop {
            if let Some(i) = self.claimed.next() {
                if !self.claimed.is_empty() {
                    ahead(self.release.free[self.claimed.start as usize]);
                }
                return Some(self.release.free[i as usize]);
            }
            if self.claim() {
                ahead(self.release.free[self.claimed.start as usize]);
                continue;
            }
            if let Some(transaction) = self.pop() {
                ahead(transaction);
                return Some(transaction);
            }
            // Idle: only now does the shared count matter.
            if self.finished > 0 {
                self.release.finished.fetch_add(std::mem::take(&mut self.finished), Ordering::Relaxed);
            }
            // Relaxed: nothing is read on the strength of it; the barrier after the window orders memory.
            if self.release.finished.load(Ordering::Relaxed) == self.release.transactions {
                return None;
            }
            if self.broken.load(Ordering::Relaxed) {
                std::panic::resume_unwind(Box::new(crate::handover::BROKEN));
            }
            looks += 1;
            if !looks.is_multiple_of(64) {
                spin_loop();
            } else if !yield_shortly() {
                // What is not finished waits for what others run, or have released: they can do it alone. This one
                // is waiting for them at the barrier, and sleeps.
                return None;
            }
        }
    }

    fn claim(&mut self) -> bool {
        let free = self.release.free.len() as u32;
        // Looking first keeps the line shared once all are claimed.
        let left = free.saturating_sub(self.release.next_free.load(Ordering::Relaxed));
        if left == 0 {
            return false;
        }
        let run = (left / SHARE).clamp(1, RUN);
        let start = self.release.next_free.fetch_add(run, Ordering::Relaxed).min(free);
        self.claimed = start..(start + run).min(free);
        !self.claimed.is_empty()
    }

    fn pop(&self) -> Option<u32> {
        let Release { queue, queue_end, queue_start, .. } = self.release;
        let mut start = queue_start.load(Ordering::Relaxed);
        while start < queue_end.load(Ordering::Relaxed) {
            match queue_start.compare_exchange_weak(start, start + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    let mut looks = 0u32;
                    loop {
                        // Acquire pairs with the store in `push`: it carries what the predecessors did. The place
                        // was reserved by a driver that is about to fill it.
                        match queue[start as usize].load(Ordering::Acquire) {
                            EMPTY => {
                                looks += 1;
                                if looks.is_multiple_of(64) { yield_now() } else { spin_loop() }
                            }
                            transaction => return Some(transaction),
                        }
                    }
                }
                Err(actual) => start = actual,
            }
        }
        None
    }

    fn push(&self, transaction: u32) {
        let place = self.release.queue_end.fetch_add(1, Ordering::Relaxed);
        self.release.queue[place as usize].store(transaction, Ordering::Release);
    }

    /// Releases those that waited for `node` only.
    fn finish(&mut self, node: NodeId) {
        if node < self.schedule.transactions() {
            self.finished += 1;
        }
        let schedule = self.schedule;
        for successor in schedule.successors(node) {
            // AcqRel: the last one to count down has seen what all predecessors did, and hands it on.
            if self.release.waits_for[successor as usize].fetch_sub(1, Ordering::AcqRel) != 1 {
                continue;
            }
            if successor >= schedule.transactions() {
                // A join carries no work. Joins do not follow each other, so this goes one level deep.
                self.finish(successor);
            } else if let Some(mine) = self.mine {
                // Successors come latest first, so of equals the earliest one stays here.
                let height = |t: u32| self.release.heights.get(t as usize).copied().unwrap_or(0);
                let (stays, goes) =
                    if height(successor) >= height(mine) { (successor, mine) } else { (mine, successor) };
                self.mine = Some(stays);
                self.push(goes);
            } else {
                self.mine = Some(successor);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use mixlog_mixer::{Access, Declared, KeyHash, Mixer, Mode};

    use super::*;

    fn free(keys: &[u64]) -> Vec<u32> {
        let declared =
            keys.iter().map(|&key| Declared::Keys([Access { key: KeyHash(key), mode: Mode::Write }]));
        let (mut schedule, mut release) = (Schedule::default(), Release::default());
        Mixer::new().mix(declared, &mut schedule);
        // Whatever an earlier window left.
        (release.heights, release.unsorted, release.starts) = (vec![9; 9], vec![8; 8], vec![7; 7]);
        release.reset(&schedule);
        release.free
    }

    #[test]
    fn heads_of_long_chains_come_first_and_equals_in_log_order() {
        assert_eq!(free(&[5, 1, 2, 3, 2, 3, 3, 4]), [3, 2, 0, 1, 7]);
        assert!(free(&[]).is_empty());
        // Hardly anybody waits, so nothing is moved.
        let mut keys: Vec<u64> = (0..200).collect();
        keys.push(150);
        assert_eq!(free(&keys), (0..200).collect::<Vec<_>>());
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
    use mixlog_mixer::{Access, Declared, KeyHash, Mixer, Mode};

    use super::*;

    fn check(window: &'static [&'static [(u64, Mode)]]) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(move || {
            let (mut schedule, mut release) = (Schedule::default(), Release::default());
            let declared = window.iter().map(|accesses| {
                Declared::Keys(accesses.iter().map(|&(key, mode)| Access { key: KeyHash(key), mode }))
            });
            Mixer::new().mix(declared, &mut schedule);
            release.reset(&schedule);
            // One cell a key: loom reports a race when the schedule's order is not an order of memory.
            let cells: Vec<_> = (0..3).map(|_| UnsafeCell::new(0u32)).collect();
            let shared = Arc::new((schedule, release, cells));
            let drive = move |shared: &(Schedule, Release, Vec<UnsafeCell<u32>>)| {
                let (schedule, release, cells) = shared;
                let mut ran = 0;
                release.drive(
                    schedule,
                    &AtomicBool::new(false),
                    |_| (),
                    |t| {
                        ran += 1;
                        for &(key, mode) in window[t as usize] {
                            let cell = &cells[key as usize];
                            let writes_before = window[..t as usize]
                                .iter()
                                .flat_map(|a| a.iter())
                                .filter(|a| **a == (key, Mode::Write))
                                .count() as u32;
                            assert_eq!(cell.with(|c| unsafe { *c }), writes_before);
                            if mode == Mode::Write {
                                cell.with_mut(|c| unsafe { *c += 1 });
                            }
                        }
                    },
                );
                ran
            };
            let other = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || drive(&shared))
            };
            let ran = drive(&shared) + other.join().unwrap();
            assert_eq!(ran, window.len());
        });
    }

    #[test]
    fn loom_release_chain_and_fork_run_in_log_order_and_once() {
        check(&[&[(0, Mode::Write)], &[(0, Mode::Read)], &[(0, Mode::Read), (1, Mode::Write)]]);
    }

    #[test]
    fn loom_release_join_of_two_chains_runs_in_log_order_and_once() {
        check(&[&[(0, Mode::Write)], &[(1, Mode::Write)], &[(0, Mode::Write), (1, Mode::Write)]]);
    }
}
