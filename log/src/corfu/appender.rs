//! The thread that appends: it takes what gathered in the queue, has several groups under way, and tells their receipts
//! what became of them.
//!
//! What is appended in small pieces gathers while as many groups are under way as a chain has units or so: then each unit
//! has one to flush, and a lone batch goes out at once. Large groups do not wait, so that bytes are on their way while
//! others are flushed.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::{AppendError, Position};

use super::append::{AppendOutcome, Refusal};
use super::appends::{Appends, Ended, Window};
use super::log::{FOR_EVER, Shared};
use super::message::{ClientId, EntryId};
use super::operation::{Input, Outbox};
use super::queue::{Hunger, Offered};
use super::rules::Rules;
use super::transport::{Drive, Happened};

/// How much is under way at most: more than that gathers in front of the slowest unit, which then flushes so much at once
/// that the others wait for it.
const WINDOW: Window = Window { runs: 32, bytes: 8 << 20 };

/// So many runs are under way whatever their size.
const SMALL_RUNS: usize = 2;

/// Appends until the queue is closed and empty.
pub(super) fn run(log: &Shared) {
    Appender { log, client: ClientId::random(), sequence: 0, groups: VecDeque::new() }.run();
}

struct Appender<'a> {
    log: &'a Shared,
    client: ClientId,
    /// Of the next entry.
    sequence: u64,
    /// What is under way, in order, and how long it is waited for.
    groups: VecDeque<(Offered, Instant)>,
}

impl Appender<'_> {
    fn run(mut self) {
        loop {
            let mut drive = self.log.driver.drive();
            self.log.queue.set_appender(drive.waker());
            let mut appends = Appends::new(self.log.driver.projection(), WINDOW, Rules::SOUND);
            if self.drive(&mut appends, &mut drive) {
                return;
            }
            // Nobody waits any longer. What its requests still do is in doubt; later entries go elsewhere.
            for (count, position) in appends.in_doubt() {
                let error = match position {
                    Some(position) => AppendError::Indeterminate { position },
                    None => AppendError::Unavailable,
                };
                self.acknowledge(count, Err(error));
            }
        }
    }

    /// True when nothing more will come; false when something takes too long.
    fn drive(&mut self, appends: &mut Appends, drive: &mut Drive<'_>) -> bool {
        let mut out = Outbox::default();
        appends.step(Input::Start, &mut out);
        loop {
            while let Some(Ended { count, outcome }) = appends.next_ended() {
                drive.calm();
                self.end(count, outcome);
            }
            self.offer(appends, &mut out);
            drive.send(&mut out);
            if appends.is_idle() && self.log.queue.done() {
                return true;
            }
            match drive.next(self.groups.front().map(|(_, deadline)| *deadline)) {
                Happened::Input(input) => appends.step(input, &mut out),
                Happened::Woken => {}
                Happened::Late => return false,
            }
        }
    }

    /// Appends what waits, as far as there is room for it.
    fn offer(&mut self, appends: &mut Appends, out: &mut Outbox) {
        while appends.wants() {
            let hunger = if appends.under_way() < SMALL_RUNS { Hunger::Any } else { Hunger::Large };
            let Some(group) = self.log.queue.take(hunger) else { return };
            let (entries, offered) = group.offered();
            let id = EntryId { client: self.client, sequence: self.sequence };
            // Numbers of entries that may be somewhere are not used again.
            self.sequence += u64::from(offered.count);
            let deadline = Instant::now() + self.log.config.patience.min(FOR_EVER);
            self.groups.push_back((offered, deadline));
            self.log.progress.append_begins();
            appends.learn(&self.log.driver.projection());
            appends.offer(id, entries, out);
        }
    }

    /// The next `count` entries have come to their end.
    fn end(&mut self, count: u32, outcome: AppendOutcome) {
        let result = match outcome {
            AppendOutcome::Committed(appended) => {
                let end = appended.first.plus(u64::from(appended.count));
                self.log.progress.committed(appended.first, end);
                Ok(appended.first)
            }
            AppendOutcome::NotCommitted(refusal) => Err(self.refused(refusal)),
            AppendOutcome::Indeterminate(position) => Err(AppendError::Indeterminate { position }),
        };
        self.acknowledge(count, result);
    }

    fn acknowledge(&mut self, count: u32, result: Result<Position, AppendError>) {
        let (offered, _) = self.groups.front_mut().expect("what ended was offered");
        if offered.acknowledge(count, result) {
            self.groups.pop_front();
            self.log.progress.append_ended();
        }
    }

    fn refused(&self, refusal: Refusal) -> AppendError {
        match refusal {
            Refusal::Sealed(tail) => {
                self.log.sealed(tail);
                AppendError::Sealed { tail }
            }
            Refusal::Full(member) => {
                let text = format!("unit {} takes no more entries", member.unit);
                AppendError::Full(Arc::new(io::Error::new(io::ErrorKind::StorageFull, text)))
            }
            Refusal::TooMany(limit) => AppendError::TooMany { limit },
            Refusal::TooLarge(limit) => {
                let size = self.groups.front().map_or(0, |(offered, _)| offered.bytes);
                AppendError::TooLarge { size, limit: limit as usize }
            }
            Refusal::Overtaken => AppendError::Unavailable,
        }
    }
}
