//! From an executed window to its outcomes: verified, published, ended, added up, acknowledged.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Driver, Pipeline};
use crate::execute::Violation;
use crate::execute::paranoid::Found;
use crate::observe::{self, Committed};
use crate::stats::Stages;
use crate::store::{Stamp, WindowEnd};
use crate::ticket::Waiting;
use crate::verify::{self, Executed, Verdict, Verified};
use crate::window::Window;

impl Pipeline {
    /// Verifies until nothing diverges: a window is replayed at most once, since a replay has no footprints to
    /// leave. The error is a transaction that is not deterministic; then the window was put back to its start.
    pub(super) fn verify<'a>(&self, executed: &Executed<'a>) -> Result<Verified<'a>, Found> {
        match verify::verify(executed) {
            Verdict::Verified(verified) => Ok(verified),
            Verdict::NotDeterministic(found) => {
                verify::put_back(&self.shared, &mut self.all_drivers());
                Err(found)
            }
            Verdict::Diverged(diverged) => {
                let mut violations = Vec::new();
                let executed =
                    verify::replay(&self.shared, &diverged, &mut self.all_drivers(), |v| violations.push(v));
                self.note_replay(executed.number(), &violations);
                // The window that is being prepared counted on the footprints of this one.
                for window in &self.windows {
                    window.read().expect("no panic with a window").disturbed.store(true, Ordering::Relaxed);
                }
                self.verify(&executed)
            }
        }
    }

    /// The first transaction of the executed window that did two things, if any was run twice. Drivers do not run.
    pub(super) fn found(&self) -> Option<Found> {
        if self.config.paranoid == 0 {
            return None;
        }
        let found = (0..self.drivers.len()).filter_map(|number| self.driver(number).paranoid.found.take());
        found.min_by_key(|found| found.position)
    }

    fn note_replay(&self, window: u64, violations: &[Violation]) {
        let mut stats = self.shared.stats.lock().expect("no panic in a short section");
        stats.replays += 1;
        stats.violations += violations.len() as u64;
        for violation in violations {
            let name = self.shared.procedures.get(violation.procedure).name;
            stats.last_violation = Some((violation.position.0, name, violation.table));
            match stats.violations_by_procedure.iter_mut().find(|(known, _)| *known == name) {
                Some((_, count)) => *count += 1,
                None => stats.violations_by_procedure.push((name, 1)),
            }
        }
        stats.violations_by_procedure.sort_unstable();
        drop(stats);
        for violation in violations.iter().filter(|violation| violation.wrote) {
            self.shared.learned.note_writes(violation.procedure);
        }
        // What was inferred says nothing of what would have been found.
        let (inferred, found): (Vec<&Violation>, Vec<&Violation>) =
            violations.iter().partition(|v| v.inferred);
        inferred.into_iter().for_each(|v| self.shared.inference.forget(v.procedure, window));
        let mut lessons: Vec<_> = found.into_iter().map(|v| (v.procedure, v.table)).collect();
        lessons.sort_unstable();
        lessons.dedup();
        for (procedure, name) in lessons {
            let mut tables = (0u16..).zip(self.shared.store.tables());
            let table = tables.find(|(_, table)| table.name() == name);
            let (number, table) = table.expect("violations are of tables");
            self.shared.learned.learn(procedure, number, table.is_watched(), window);
        }
        observe::replayed(violations, &self.shared.procedures);
        if let Some(explainer) = &self.shared.explainer {
            explainer.add_violations(violations);
        }
    }

    /// Lets snapshots see the window. From here on it is not undone.
    pub(super) fn publish(&self, verified: &Verified<'_>) -> WindowEnd {
        let window = verified.window;
        let oldest_snapshot = self.shared.snapshots.advance(window.end());
        for table in self.shared.store.tables() {
            // SAFETY: the drivers wait for this one.
            unsafe { table.reclaim() };
        }
        WindowEnd {
            window: window.number,
            first: Stamp::of(window.first()),
            oldest_snapshot: oldest_snapshot.map(Stamp::last_before),
        }
    }

    /// A driver's share of the digest, and the end of its versions.
    pub(super) fn end_window(&self, driver: &mut Driver, end: &WindowEnd) {
        for table in self.shared.store.tables() {
            // SAFETY: between two barriers, or while the others wait at the gate: no transaction runs. `end`
            // comes from `publish`.
            let digest = unsafe { table.end_window(&mut driver.worker, end) };
            driver.state_digest = driver.state_digest.wrapping_add(digest);
        }
    }

    /// Adds up what the drivers did.
    pub(super) fn commit(&self, window: &Window, leader_stages: &mut Stages) -> Committed {
        let (mut state, mut replies) = (0u128, 0u128);
        let mut sums = Committed { entries: window.len(), ..Committed::default() };
        self.driver(0).stages += std::mem::take(leader_stages);
        let mut drivers = self.all_drivers();
        let mut stats = self.shared.stats.lock().expect("no panic in a short section");
        let mut work = Duration::ZERO;
        for driver in &mut drivers {
            work += driver.stages.prepare + driver.stages.execute;
            state = state.wrapping_add(std::mem::take(&mut driver.state_digest));
            replies = replies.wrapping_add(std::mem::take(&mut driver.replies.digest));
            sums.transactions += std::mem::take(&mut driver.replies.executed);
            sums.aborts += std::mem::take(&mut driver.replies.aborted);
            sums.panics += std::mem::take(&mut driver.replies.panicked);
            stats.repeats += std::mem::take(&mut driver.replies.repeated);
            sums.reconnoitred += std::mem::take(&mut driver.replies.reconnoitred);
            stats.run_twice += std::mem::take(&mut driver.paranoid.run_twice);
            sums.adopted += std::mem::take(&mut driver.replies.adopted);
            sums.inferred += std::mem::take(&mut driver.replies.inferred);
            stats.stages += std::mem::take(&mut driver.stages);
        }
        stats.transactions += sums.transactions;
        stats.aborts += sums.aborts;
        stats.panics += sums.panics;
        stats.reconnoitred += sums.reconnoitred;
        stats.adopted += sums.adopted;
        stats.inferred += sums.inferred;
        stats.windows += 1;
        drop(stats);
        if let Some(explainer) = &self.shared.explainer {
            drivers.iter_mut().for_each(|driver| explainer.add(&mut driver.replies.tallies));
        }
        drop(drivers);
        self.cost.add(window.len(), work);
        self.shared.publish_digest(window.end().previous(), state, replies);
        sums
    }

    /// Hands the replies of one driver to those who wait for them. Nothing is held meanwhile: whom that wakes may ask for
    /// statistics, and wait until those of the next window are there.
    pub(super) fn acknowledge(&self, number: usize) {
        let mut awaited = std::mem::take(&mut self.driver(number).replies.awaited);
        let (in_flight, mut waiting) = (&self.shared.in_flight, Waiting::default());
        in_flight.left(awaited.len());
        awaited.deliver(|sequence, position, status, bytes| {
            in_flight.deliver(sequence, position, status, bytes, &mut waiting);
        });
        // Before this waits for the driver, which the leader may be adding up.
        waiting.wake();
        // Its memory is used again.
        self.driver(number).replies.awaited = awaited;
    }
}
