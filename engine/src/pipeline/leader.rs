//! What the leader does between rounds: reads the next window, ends windows before entries that cannot be executed, lets
//! tables adapt, and compares digests with those of others.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mixlog_log::{Batch, Block, Position, SharedLog};

use super::mode::Abstinence;
use super::pace::Pace;
use super::{Lap, Pipeline, Until, WINDOW_GRID};
use crate::agreement::{Point, Vote, Watch};
use crate::entry;
use crate::error::OpenError;
use crate::execute::paranoid::Found;
use crate::observe;
use crate::snapshot::Snapshot;
use crate::stats::Stages;
use crate::store::AnyTable;

/// After so many windows tables that want to cut their keys anew are heard, though it costs the overlap of two
/// windows.
const LONGEST_UNADAPTED: u64 = 16;

/// What the leader remembers from round to round.
#[derive(Default)]
pub(super) struct Leader {
    /// The first entry that is in no window yet.
    pub(super) next: Position,
    pub(super) windows: u64,
    /// When tables last had nothing to adapt, or adapted.
    pub(super) adapted: u64,
    /// The window that is prepared and mixed.
    pub(super) ready: Option<usize>,
    /// An entry that cannot be executed. Windows end before it.
    pub(super) bad_entry: Option<(Position, OpenError)>,
    /// Where to end, once told to stop: others may append for ever.
    pub(super) last: Option<Position>,
    /// Windows that are not to be mixed: nearly everything conflicts, or other programs want the processors.
    pub(super) serial: Abstinence,
    pub(super) crowded: Abstinence,
    /// How long the drivers prepared the window that is ready, if they did nothing else.
    pub(super) preparing: Duration,
    /// Which way others go.
    pub(super) pace: Pace,
    /// The leader waits for the log: somebody else may lead meanwhile.
    pub(super) free: bool,
    /// What somebody panicked with who led meanwhile.
    pub(super) panicked: Option<String>,
    pub(super) blocks: Vec<Arc<Block>>,
    pub(super) stages: Stages,
    /// Compares digests with those of others, if it should.
    pub(super) watch: Option<Watch>,
}

impl Pipeline {
    /// Compares digests with those of others: votes on the state, if a window ended where votes are cast, and counts the
    /// votes of others in the windows that were executed.
    pub(super) fn compare(&self, leader: &mut Leader, log: &dyn SharedLog) -> Result<(), OpenError> {
        let Some(watch) = &mut leader.watch else { return Ok(()) };
        let tail = self.shared.snapshots.tail();
        if watch.wants(tail) {
            let (snapshot, digest) = (Snapshot::new(Arc::clone(&self.shared)), self.shared.digest());
            let mut sums = Vec::new();
            for driver in self.all_drivers() {
                sums.resize(driver.worker.buckets.len(), 0u128);
                sums.iter_mut()
                    .zip(&driver.worker.buckets)
                    .for_each(|(sum, part)| *sum = sum.wrapping_add(*part));
            }
            if let Some(vote) = watch.add(Point::new(snapshot, digest, &sums)) {
                cast(&vote, log);
            }
        }
        let mut votes = std::mem::take(&mut *self.shared.votes.lock().expect("no panic in a short section"));
        if votes.is_empty() {
            return Ok(());
        }
        votes.sort_unstable_by_key(|(position, _)| *position);
        let later = votes.split_off(votes.partition_point(|(position, _)| *position < tail));
        self.shared.votes.lock().expect("no panic in a short section").extend(later);
        for (position, vote) in votes {
            watch.count(position, vote, &self.shared.agreed).map_err(OpenError::Diverged)?;
        }
        Ok(())
    }

    /// Starts to compare digests. Before the pipeline runs.
    pub(crate) fn watch(&self, watch: Watch) {
        self.leader().watch = Some(watch);
    }

    /// Votes from `position` on, on what it has kept there, too. While the pipeline does not run.
    pub(crate) fn vote_from(&self, position: Position, log: &dyn SharedLog) {
        let vote = self.leader().watch.as_mut().and_then(|watch| watch.vote_from(position));
        if let Some(vote) = vote {
            cast(&vote, log);
        }
    }

    /// The digest and state of a position that was not agreed. After the pipeline ran.
    pub(crate) fn take_point(&self, position: Position) -> Option<Point> {
        self.leader().watch.as_mut()?.take_point(position)
    }

    /// Lets tables cut their keys anew, if they want to and no window is prepared. When they have waited for long, no
    /// further window is to be prepared, so that the next time it works out. Tells whether one may be.
    pub(super) fn adapt(&self, leader: &mut Leader) -> bool {
        if !self.shared.store.tables().any(AnyTable::wants_adapting) {
            leader.adapted = leader.windows;
            return true;
        }
        if leader.ready.is_some() {
            return leader.windows - leader.adapted < LONGEST_UNADAPTED;
        }
        for table in self.shared.store.tables() {
            // SAFETY: the drivers wait at the gate, and no window is prepared.
            unsafe { table.adapt() };
        }
        leader.adapted = leader.windows;
        true
    }

    /// Loads the next window into a slot; tells whether there is one.
    pub(super) fn load(
        &self,
        leader: &mut Leader,
        log: &dyn SharedLog,
        until: &Until<'_>,
        slot: usize,
    ) -> Result<bool, OpenError> {
        let mut lap = Lap::start();
        let first = leader.next;
        let mut end = first
            .plus(u64::from(self.config.window))
            .min(Position((first.0 / WINDOW_GRID + 1) * WINDOW_GRID));
        if let Until::Tail(tail) = until {
            if first >= *tail {
                return Ok(false);
            }
            end = end.min(*tail);
        }
        if let Until::Left(stop) = until
            && stop.load(Ordering::Relaxed)
        {
            return Ok(false);
        }
        if let Until::Stopped(stop) = until {
            if leader.last.is_none() && stop.load(Ordering::Relaxed) {
                leader.last = Some(log.tail()?.tail);
            }
            if leader.last.is_some_and(|last| first >= last) {
                return Ok(false);
            }
            end = end.min(leader.last.unwrap_or(Position::MAX));
        }
        if let Some((bad, error)) = &leader.bad_entry {
            if *bad <= first {
                return Err(error.clone());
            }
            end = end.min(*bad);
        }
        let mut loaded = first;
        leader.blocks.clear();
        while loaded < end {
            let Some(block) = log.read(loaded)? else { break };
            loaded = block.end().min(end);
            if block.end() == loaded {
                self.shared.due.add(block.bytes() as u64);
            }
            leader.blocks.push(block);
        }
        if loaded == first {
            return Ok(false);
        }
        leader.windows += 1;
        if leader.ready.is_none() && self.shared.speculates.load(Ordering::Relaxed) {
            // What ran ahead for the window before is executed.
            self.windows[1 - slot].write().expect("no panic with a window").rest(0);
        }
        let mut window = self.windows[slot].write().expect("no panic with a window");
        window.load(leader.windows, first, loaded, &mut leader.blocks);
        leader.next = loaded;
        lap.add_to(&mut leader.stages.read);
        Ok(true)
    }

    pub(super) fn note_mixed(&self, slot: usize) {
        let window = self.windows[slot].read().expect("no panic with a window");
        let plan = window.plan.read().expect("no panic while mixing");
        let mut stats = self.shared.stats.lock().expect("no panic in a short section");
        stats.mixed_windows += 1;
        stats.mixed_entries += u64::from(plan.schedule.transactions());
        stats.batches += u64::from(plan.schedule.batches());
        stats.bounded_adds += plan.escrow.adds;
        stats.unordered_adds += plan.escrow.unordered;
        stats.pooled_merges += plan.pooled;
        drop(stats);
        observe::mixed(&window, plan.schedule.batches(), plan.schedule.parallelism());
    }

    /// When the prepared window holds an entry that cannot be executed, takes the window back, so that it is
    /// loaded again without it. Tells whether the window is good.
    pub(super) fn cut_before_bad_entry(&self, leader: &mut Leader, slot: usize) -> bool {
        let window = self.windows[slot].read().expect("no panic with a window");
        let bad = window.bad_entry.lock().expect("no panic with a bad entry").take();
        let Some(bad) = bad else { return true };
        leader.next = window.first();
        leader.bad_entry = Some(bad);
        false
    }

    /// Takes back the executed window, which was put back: it is loaded again, without the transaction that is not
    /// deterministic and all that comes after it.
    pub(super) fn go_back(&self, leader: &mut Leader, slot: usize, found: Found) {
        leader.next = self.windows[slot].read().expect("no panic with a window").first();
        leader.bad_entry = Some((found.position, found.error(&self.shared.procedures)));
    }
}

fn cast(vote: &Vote, log: &dyn SharedLog) {
    let mut batch = Batch::new();
    batch.push_with(|out| entry::encode_vote(out, vote));
    // Without this vote others decide, or the next one counts.
    if let Err(error) = log.append(&batch) {
        observe::not_voted(&error);
    }
}
