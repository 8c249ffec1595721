//! How requests get to their roles, and how operations are driven in real time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::message::{Node, Reply, Request, StoreReply, StoreRequest};
use super::operation::{Call, Input, Operation, Outbox, Pause};
use super::projection::Projection;

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// Carries requests to roles.
pub trait Transport: Send + Sync + 'static {
    /// Sends `request` to `to`, and returns without waiting for the answer, which goes to `reply`; or `reply`
    /// is dropped, if no answer will come.
    fn send(&self, to: Node, request: Request, reply: ReplyTo);

    /// Sends all these requests to one role, in order. What carries them may do that at once.
    fn send_all(&self, to: Node, requests: &mut dyn Iterator<Item = (Request, ReplyTo)>) {
        for (request, reply) in requests {
            self.send(to, request, reply);
        }
    }
}

/// Where an answer goes. Dropped without one, it tells that there is none.
pub struct ReplyTo(Option<Box<dyn FnOnce(Option<Reply>) + Send>>);

impl ReplyTo {
    /// Gives the answer, or that there is none, to `take`.
    pub fn new(take: impl FnOnce(Option<Reply>) + Send + 'static) -> Self {
        Self(Some(Box::new(take)))
    }

    /// Answers.
    pub fn answer(mut self, reply: Reply) {
        if let Some(take) = self.0.take() {
            take(Some(reply));
        }
    }
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        if let Some(take) = self.0.take() {
            take(None);
        }
    }
}

impl fmt::Debug for ReplyTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyTo").finish_non_exhaustive()
    }
}

/// How long a client waits for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The first pause after something was refused or lost; each further one is twice as long. Default 1 ms.
    pub retry: Duration,
    /// The longest such pause; default 100 ms.
    pub retry_at_most: Duration,
    /// How long a writer may be slow before somebody who waits fills its positions with junk; default 50 ms.
    /// More: readers wait longer for what will never come. Less: slow writers lose their positions and take
    /// others.
    pub hole: Duration,
    /// How long units may be silent while they are being sealed, three times, before they are left behind;
    /// default 100 ms. More: a longer interruption when a unit is dead. Less: slow units are taken for dead.
    pub silence: Duration,
    /// How long an answer may take before the request counts as lost; default 2 s.
    pub answer: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            retry: Duration::from_millis(1),
            retry_at_most: Duration::from_millis(100),
            hole: Duration::from_millis(50),
            silence: Duration::from_millis(100),
            answer: Duration::from_secs(2),
        }
    }
}

/// Drives operations over a transport, and keeps the latest projection that any of them saw.
pub struct Driver {
    transport: Arc<dyn Transport>,
    timing: Timing,
    latest: Mutex<Arc<Projection>>,
}

impl Driver {
    /// A driver that begins with `projection`.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>, timing: Timing, projection: Arc<Projection>) -> Self {
        Self { transport, timing, latest: Mutex::new(projection) }
    }

    /// The latest projection seen.
    #[must_use]
    pub fn projection(&self) -> Arc<Projection> {
        Arc::clone(&self.latest.lock().expect(UNPOISONED))
    }

    /// Takes note of a projection.
    pub fn learn(&self, projection: &Arc<Projection>) {
        let mut latest = self.latest.lock().expect(UNPOISONED);
        if projection.epoch > latest.epoch {
            *latest = Arc::clone(projection);
        }
    }

    /// Runs `operation` to its outcome; `None` when `patience` is over first. Then it may be looked at, but
    /// must not be run again.
    ///
    /// Cost: blocks the calling thread. One channel, and for each request what the transport takes.
    pub fn run<O: Operation>(&self, operation: &mut O, patience: Option<Duration>) -> Option<O::Outcome> {
        // A patience too long to be represented is as good as none.
        let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
        let (arrived, arrivals) = mpsc::channel::<(Call, Option<Reply>)>();
        let mut out = Outbox::default();
        let mut waiting: BTreeMap<Call, Instant> = BTreeMap::new();
        let mut pause: Option<Instant> = None;
        let mut retry = self.timing.retry;
        let mut input = Input::Start;
        loop {
            if let Some(outcome) = operation.step(input, &mut out) {
                return Some(outcome);
            }
            for outgoing in out.sends.drain(..) {
                let (call, arrived) = (outgoing.call, arrived.clone());
                waiting.insert(call, Instant::now() + self.timing.answer);
                // Who is not interested any more has dropped the other end.
                let reply = ReplyTo::new(move |reply| drop(arrived.send((call, reply))));
                self.transport.send(outgoing.to, outgoing.request, reply);
            }
            if let Some(kind) = out.pause.take() {
                let length = match kind {
                    Pause::Retry => {
                        let length = retry;
                        retry = (retry * 2).min(self.timing.retry_at_most);
                        length
                    }
                    Pause::Hole => self.timing.hole,
                    Pause::Silence => self.timing.silence,
                };
                pause = Some(Instant::now() + length);
            }
            let overdue = waiting.iter().min_by_key(|(_, due)| **due).map(|(call, due)| (*call, *due));
            let next = [pause, overdue.map(|(_, due)| due), deadline].into_iter().flatten().min();
            let arrival = match next {
                Some(next) => arrivals.recv_timeout(next.saturating_duration_since(Instant::now())),
                None => arrivals.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            input = match arrival {
                Ok((call, reply)) => {
                    if waiting.remove(&call).is_none() {
                        // It came too late; the operation was told that it was lost.
                        nothing()
                    } else if let Some(reply) = reply {
                        if let Reply::Store(StoreReply::Latest(Some(projection))) = &reply {
                            self.learn(projection);
                        }
                        Input::Reply { call, reply }
                    } else {
                        Input::Lost { call }
                    }
                }
                Err(_) => {
                    let now = Instant::now();
                    if deadline.is_some_and(|deadline| deadline <= now) {
                        return None;
                    }
                    if pause.is_some_and(|pause| pause <= now) {
                        pause = None;
                        Input::Elapsed
                    } else if let Some((call, _)) = overdue.filter(|(_, due)| *due <= now) {
                        waiting.remove(&call);
                        Input::Lost { call }
                    } else {
                        nothing()
                    }
                }
            };
        }
    }
}

/// The latest projection, asked of the store until it answers; `None` when `patience` is over first.
pub(crate) fn latest(
    transport: &dyn Transport,
    timing: &Timing,
    patience: Duration,
) -> Option<Option<Arc<Projection>>> {
    let begun = Instant::now();
    loop {
        let (arrived, arrivals) = mpsc::channel();
        let reply = ReplyTo::new(move |reply| drop(arrived.send(reply)));
        transport.send(Node::Store, Request::Store(StoreRequest::Latest), reply);
        match arrivals.recv_timeout(timing.answer) {
            Ok(Some(Reply::Store(StoreReply::Latest(latest)))) => return Some(latest),
            _ if begun.elapsed() > patience => return None,
            _ => std::thread::sleep(timing.retry_at_most),
        }
    }
}

/// An input that every operation ignores: a request that none has made.
const fn nothing() -> Input {
    Input::Lost { call: Call(u32::MAX) }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("epoch", &self.projection().epoch).finish_non_exhaustive()
    }
}
