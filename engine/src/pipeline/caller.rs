//! Small windows, executed by who submitted them.
//!
//! A thread that has nothing else to do than to wait for its transaction can execute it as well as the leader can, who
//! sleeps: to wake the leader, and to be woken by it, takes many times as long as a small transaction does. So while the
//! leader waits for the log, the part is free, and the first to find it so takes it: always whole windows, alone, while
//! all other drivers wait at the gate, or hand over the last of their outcomes.

use mixlog_log::{Position, SharedLog};

use super::leader::Leader;
use super::{Pipeline, Until};
use crate::at_work::AtWork;
use crate::panics::caught;

impl Pipeline {
    /// Executes the log up to `tail`, if nobody else leads, and if that is so little that it goes one by one. For a
    /// thread that waits for something there; `tail` is acknowledged.
    ///
    /// What goes wrong is left to the leader, who is told of new entries as ever.
    pub(crate) fn execute_here(&self, log: &dyn SharedLog, tail: Position) {
        // When a thread of a rayon pool waits for another thread, for a transaction that is run twice or in a procedure
        // that shares its work, it does other work of its pool meanwhile. If that waits for a transaction in turn, nobody
        // executes it as long as this thread leads.
        if rayon::current_thread_index().is_some() {
            return;
        }
        let Ok(mut leader) = self.leader.try_lock() else { return };
        let _at_work = AtWork::start(self.shared.origin);
        let executed = caught(|| self.execute_up_to(&mut leader, log, tail));
        if let Err(payload) = executed {
            leader.panicked = Some(payload.message().to_owned());
        }
    }

    fn execute_up_to(&self, leader: &mut Leader, log: &dyn SharedLog, tail: Position) {
        // Where others are to agree on digests, or something was found that cannot be executed, or that panicked, the
        // leader is needed.
        let leads = leader.free && leader.ready.is_none() && leader.watch.is_none() && !self.is_broken();
        while leads && leader.bad_entry.is_none() && leader.panicked.is_none() && leader.next < tail {
            let window = self.config.window;
            let len = u32::try_from(tail.since(leader.next)).map_or(window, |len| len.min(window));
            let Some(why) = self.why_not_mix(leader, tail, len) else { return };
            self.adapt(leader);
            // The window may end before `tail`; then it has even less in it.
            let Ok(true) = self.load(leader, log, &Until::Tail(tail), 0) else { return };
            self.execute_by_itself(leader, 0, why);
            self.look_around(tail);
        }
    }
}
