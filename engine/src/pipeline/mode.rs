//! Which windows all drivers share, which go one by one, and how those do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mixlog_log::Position;

use super::leader::Leader;
use super::{Lap, Pipeline};
use crate::execute::sequential::{self, Given};
use crate::observe;
use crate::prepare;
use crate::stats::OneByOne;
use crate::verify::Executed;

/// How an engine executes. None of them changes a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// Mixes every window, and executes it on all threads.
    Parallel,
    /// One by one in log order. Footprints serve to fetch rows ahead, and nothing else.
    Sequential,
    /// Parallel where that wins: windows with little work, and stretches in which nearly everything conflicts, go one
    /// by one, and so do all as long as that is faster, which is measured now and then. What goes one by one may run on a
    /// thread that waits for it in [`Engine::execute`](crate::Engine::execute), and share its work in rayon with the global
    /// pool: see [`Procedure`](crate::Procedure).
    #[default]
    Auto,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Parallel => "parallel",
            Self::Sequential => "sequential",
            Self::Auto => "auto",
        })
    }
}

/// In [`Mode::Auto`], windows with less work than this go one by one: the others may sleep, and waking them costs more.
const WORTH_WAKING: Duration = Duration::from_micros(50);
/// Except when windows are full, of at least so many entries: then there is more in the log, and nobody sleeps.
const WORTH_MIXING: u32 = 64;
/// What an entry takes, before the first one was executed.
const FIRST_COST_NS: u64 = WORTH_WAKING.as_nanos() as u64 / WORTH_MIXING as u64;
/// Of how many windows what an entry takes is the average, about.
const COST_OVER: u64 = 8;
/// In [`Mode::Auto`], windows with less parallelism than this go one by one.
const WORTH_SHARING: f64 = 1.3;
/// After a window that was not worth mixing, how many are not even mixed, at most; where that took long in vain, so many
/// times what would have been executed meanwhile, if that is more.
const LONGEST_SERIAL: u32 = 32;
/// And after one in which drivers waited for processors that other programs had: a window like that takes as long as
/// dozens of others.
const LONGEST_CROWDED: u32 = 512;
/// What windows that all drivers share are called where a [`Why`] stands for the others.
pub(super) const PARALLEL: &str = "parallel";

/// Why a window goes one by one: see [`OneByOne`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Why {
    AskedFor,
    Small,
    Serial,
    AfterSerial,
    Crowded,
    Slower,
}

impl Why {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::AskedFor => "asked_for",
            Self::Small => "small",
            Self::Serial => "serial",
            Self::AfterSerial => "after_serial",
            Self::Crowded => "crowded",
            Self::Slower => "slower",
        }
    }

    pub(super) fn count(self, counts: &mut OneByOne) {
        *match self {
            Self::AskedFor => &mut counts.asked_for,
            Self::Small => &mut counts.small,
            Self::Serial => &mut counts.serial,
            Self::AfterSerial => &mut counts.after_serial,
            Self::Crowded => &mut counts.crowded,
            Self::Slower => &mut counts.slower,
        } += 1;
    }
}

/// For how many windows something is not tried.
#[derive(Debug, Default)]
pub(super) struct Abstinence {
    left: u32,
    length: u32,
}

impl Abstinence {
    /// It was in vain, as it was before: the next one lasts twice as long, from `least` up to `longest`.
    fn begin(&mut self, least: u32, longest: u32) {
        self.length = (self.length * 2).clamp(least, longest);
        self.left = self.length;
    }

    /// Whether a window is one of those.
    fn skips(&mut self) -> bool {
        let skips = self.left > 0;
        self.left -= u32::from(skips);
        skips
    }
}

/// How many windows are not even mixed after one that was not worth it, at least and at most, when all drivers prepared it
/// for so long and it took so long by itself: how often it could have been executed meanwhile.
fn in_vain(preparing: Duration, alone: Duration) -> (u32, u32) {
    let times = preparing.as_nanos() / alone.as_nanos().max(1);
    let least = times.clamp(1, u128::from(LONGEST_CROWDED)) as u32;
    (least, (least * LONGEST_SERIAL).min(LONGEST_CROWDED))
}

/// What an entry takes to prepare and execute, on average over the last windows. Written by who leads.
#[derive(Debug)]
pub(super) struct Cost(AtomicU64);

impl Cost {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(FIRST_COST_NS))
    }

    fn ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// `entries` took so long, on all drivers together.
    pub(super) fn add(&self, entries: u32, work: Duration) {
        let Some(now) = work.as_nanos().checked_div(u128::from(entries)) else { return };
        // One entry of an hour is no reason to overflow.
        let now = u64::try_from(now).unwrap_or(u64::MAX).min(u64::from(u32::MAX));
        self.0.store((self.ns() * (COST_OVER - 1) + now) / COST_OVER, Ordering::Relaxed);
    }
}

impl Pipeline {
    /// Why a window of `len` entries that ends at `end` should not be mixed, if it should not.
    pub(super) fn why_not_mix(&self, leader: &mut Leader, end: Position, len: u32) -> Option<Why> {
        if end <= self.config.one_by_one_before {
            return Some(Why::AskedFor);
        }
        match self.config.mode {
            Mode::Parallel => None,
            Mode::Sequential => Some(Why::AskedFor),
            Mode::Auto if self.config.threads == 1 => Some(Why::AskedFor),
            Mode::Auto if leader.serial.skips() => Some(Why::AfterSerial),
            Mode::Auto if leader.crowded.skips() => Some(Why::Crowded),
            Mode::Auto => {
                let work = Duration::from_nanos(u64::from(len) * self.cost.ns());
                let is_full = len == self.config.window && len >= WORTH_MIXING;
                // One entry has none to run beside, which says nothing of the windows after it.
                let is_small = len < 2 || work < WORTH_WAKING && !is_full;
                let is_slower = leader.pace.is_alone().then_some(Why::Slower);
                if is_small { Some(Why::Small) } else { is_slower }
            }
        }
    }

    /// Why a mixed window should not be shared, if it should not: it has no work for more than one driver, as most likely
    /// the next ones, which are not even mixed for a while, or other programs want the processors.
    pub(super) fn why_not_share(&self, leader: &mut Leader, slot: usize) -> Option<Why> {
        if self.config.mode != Mode::Auto {
            return None;
        }
        let window = self.windows[slot].read().expect("no panic with a window");
        let plan = window.plan.read().expect("no panic while mixing");
        if plan.schedule.parallelism() >= WORTH_SHARING {
            leader.serial.length = 0;
            return leader.crowded.skips().then_some(Why::Crowded);
        }
        Some(Why::Serial)
    }

    /// After a mixed window that was not worth it took so long by itself.
    pub(super) fn note_serial(leader: &mut Leader, alone: Duration) {
        let (least, longest) = in_vain(leader.preparing, alone);
        leader.serial.begin(least, longest);
    }

    /// After a round of all drivers: where other programs want the processors, some drivers have none at times, and the
    /// others wait for them, stage after stage. One alone waits for nobody.
    pub(super) fn note_crowd(&self, leader: &mut Leader) {
        if self.barrier.was_crowded() {
            leader.crowded.begin(1, LONGEST_CROWDED);
        } else {
            leader.crowded.length /= 2;
        }
    }

    /// Prepares and executes a window that is not going to be mixed, or takes it back.
    pub(super) fn execute_by_itself(&self, leader: &mut Leader, slot: usize, why: Why) {
        self.prepare_alone(leader, slot);
        if self.cut_before_bad_entry(leader, slot) {
            self.execute_alone(leader, slot, why);
        }
    }

    /// Prepares a window that is not going to be mixed.
    fn prepare_alone(&self, leader: &mut Leader, slot: usize) {
        let mut lap = Lap::start();
        let window = self.windows[slot].read().expect("no panic with a window");
        let mut driver = self.driver(0);
        while let Some(chunk) = window.claim_chunk() {
            prepare::chunk(&self.shared, &window, chunk, None, &mut driver.stacks);
        }
        lap.add_to(&mut leader.stages.prepare);
    }

    /// Executes a decoded window while the other drivers wait at the gate, through the same stages.
    pub(super) fn execute_alone(&self, leader: &mut Leader, slot: usize, why: Why) {
        let mut lap = Lap::start();
        let window = self.windows[slot].read().expect("no panic with a window");
        let _span = observe::window(&window, why.name()).entered();
        let mut driver = self.driver(0);
        driver.replies.clear();
        sequential::execute(&self.shared, &window, &mut driver, Given::Transactions, |_| ());
        drop(driver);
        lap.add_to(&mut leader.stages.execute);
        let end = match self.verify(&Executed::one_by_one(&window, self.found())) {
            Ok(verified) => self.publish(&verified),
            Err(found) => return self.go_back(leader, slot, found),
        };
        lap.add_to(&mut leader.stages.verify);
        self.end_window(&mut self.driver(0), &end);
        if window.number.is_multiple_of(64) {
            // The others changed nothing, but what they keep for snapshots grows old.
            (1..self.drivers.len()).for_each(|number| self.end_window(&mut self.driver(number), &end));
        }
        let committed = self.commit(&window, &mut leader.stages);
        self.acknowledge(0);
        observe::committed(&committed, why.name());
        let mut stats = self.shared.stats.lock().expect("no panic in a short section");
        stats.sequential_windows += 1;
        why.count(&mut stats.one_by_one);
        drop(stats);
        lap.add_to(&mut leader.stages.commit);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_was_prepared_in_vain_for_long_is_not_tried_again_soon() {
        let ms = Duration::from_millis;
        for (preparing, alone, expected) in [
            (Duration::ZERO, ms(7), (1, 32)),
            (ms(64), ms(256), (1, 32)),
            (ms(20), ms(7), (2, 64)),
            (ms(250), ms(7), (35, 512)),
            (ms(10_000), ms(1), (512, 512)),
            (ms(10), Duration::ZERO, (512, 512)),
        ] {
            assert_eq!(in_vain(preparing, alone), expected, "{preparing:?}, {alone:?}");
        }
    }

    #[test]
    fn abstinence_lasts_twice_as_long_each_time_up_to_the_longest() {
        let mut abstinence = Abstinence::default();
        assert!(!abstinence.skips());
        for length in [1, 2, 4, 5, 5] {
            abstinence.begin(1, 5);
            assert_eq!((0..100).take_while(|_| abstinence.skips()).count(), length);
        }
    }
}
