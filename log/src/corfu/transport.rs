//! How requests get to their roles, and how operations are driven in real time.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::iter;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::log::FOR_EVER;
use super::message::{Epoch, Node, Reply, Request, StoreReply, StoreRequest};
use super::operation::{Call, Input, Operation, Outbox, Outgoing, Pause};
use super::projection::Projection;

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// Carries requests to roles.
pub trait Transport: Send + Sync + 'static {
    /// Sends `request` to `to`, and returns without waiting for the answer, which goes to `reply`; or `reply`
    /// is dropped, if no answer will come.
    fn send(&self, to: Node, request: Request, reply: ReplyTo);

    /// Sends all these requests to one role, in order, and takes them all. What carries them may do that at once.
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

/// How long a client waits for what: each at most 2^32 seconds, and for answers and silence at least 1 ms.
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
    /// How long an answer may take before it is looked whether there is a later projection, and before it is looked
    /// again; default 100 ms. If there is, the request counts as lost. More: who stands still holds up his clients for
    /// longer after he was replaced. Less: the projection store has more to do while the cluster is slow.
    pub doubt: Duration,
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
            doubt: Duration::from_millis(100),
            answer: Duration::from_secs(2),
        }
    }
}

impl Timing {
    /// The error says which one is too long, so that its end might not be a time, or too short for anybody to answer.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { retry, retry_at_most, hole, silence, doubt, answer } = *self;
        let all = [
            ("retry", retry, false),
            ("retry_at_most", retry_at_most, false),
            ("hole", hole, false),
            ("silence", silence, true),
            ("doubt", doubt, false),
            ("answer", answer, true),
        ];
        all.into_iter().try_for_each(|(name, time, awaits)| {
            check_time(&format!("timing.{name}"), time, if awaits { TIME_MIN } else { Duration::ZERO })
        })
    }
}

/// The least that is waited for anybody: without any time everybody would be taken for dead.
pub(super) const TIME_MIN: Duration = Duration::from_millis(1);

/// Whether the field's time has an end, and is long enough.
pub(super) fn check_time(field: &str, time: Duration, least: Duration) -> Result<(), String> {
    if (least..=FOR_EVER).contains(&time) {
        return Ok(());
    }
    let least = least.as_millis();
    Err(format!("{field} is from {least} ms to 2^32 seconds, and not {time:?}"))
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
        self.run_on(operation, patience, |_| ())
    }

    /// The same, of an operation that may go on for long: the patience begins anew whenever `progress` tells something
    /// else than before.
    pub(crate) fn run_on<O: Operation, P: PartialEq>(
        &self,
        operation: &mut O,
        patience: Option<Duration>,
        progress: impl Fn(&O) -> P,
    ) -> Option<O::Outcome> {
        // A patience too long to be represented is as good as none.
        let deadline = || patience.and_then(|patience| Instant::now().checked_add(patience));
        let (mut reached, mut late) = (progress(operation), deadline());
        let mut drive = self.drive();
        let mut out = Outbox::default();
        let mut input = Input::Start;
        loop {
            if let Some(outcome) = operation.step(input, &mut out) {
                return Some(outcome);
            }
            let now = progress(operation);
            if now != reached {
                (reached, late) = (now, deadline());
            }
            drive.send(&mut out);
            input = loop {
                match drive.next(late) {
                    Happened::Input(input) => break input,
                    Happened::Woken => {}
                    Happened::Late => return None,
                }
            };
        }
    }

    /// What an operation needs to be driven.
    pub(crate) fn drive(&self) -> Drive<'_> {
        let (arrived, arrivals) = mpsc::channel();
        Drive {
            driver: self,
            arrived,
            arrivals,
            waiting: BTreeMap::new(),
            inputs: VecDeque::new(),
            pause: None,
            retry: self.timing.retry,
            looked: None,
        }
    }
}

/// What comes to a thread that drives an operation.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// An answer, or that there is none.
    Reply(Call, Option<Reply>),
    /// The answer to the driver's own question for the latest projection.
    Latest(Option<Reply>),
    /// There is something else to do.
    Wake,
}

/// What happened to an operation.
#[derive(Debug)]
pub(crate) enum Happened {
    Input(Input),
    /// There is something else to do.
    Woken,
    /// The deadline passed.
    Late,
}

/// An operation's requests under way, and its pause.
pub(crate) struct Drive<'a> {
    driver: &'a Driver,
    arrived: Sender<Arrival>,
    arrivals: Receiver<Arrival>,
    waiting: BTreeMap<Call, Awaited>,
    /// What happened and was not told yet.
    inputs: VecDeque<Input>,
    pause: Option<Instant>,
    retry: Duration,
    /// When the latest projection was asked for.
    looked: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Awaited {
    sent: Instant,
    /// By which projection; `None` for what goes to the store.
    epoch: Option<Epoch>,
}

impl Drive<'_> {
    /// Wakes the thread that drives.
    pub(crate) fn waker(&self) -> Sender<Arrival> {
        self.arrived.clone()
    }

    /// The operation makes progress: the next pause is a short one.
    pub(crate) fn calm(&mut self) {
        self.retry = self.driver.timing.retry;
    }

    /// Sends what the operation wants sent, and begins its pause.
    pub(crate) fn send(&mut self, out: &mut Outbox) {
        let sends = out.sends.drain(..).map(|Outgoing { call, to, request }| {
            let epoch = match &request {
                Request::Unit(request) => Some(request.epoch),
                Request::Sequencer(request) => Some(request.epoch),
                Request::Store(_) => None,
            };
            self.waiting.insert(call, Awaited { sent: Instant::now(), epoch });
            let arrived = self.arrived.clone();
            // Who is not interested any more has dropped the other end.
            let reply = ReplyTo::new(move |reply| drop(arrived.send(Arrival::Reply(call, reply))));
            (to, request, reply)
        });
        let mut sends = sends.peekable();
        while let Some((to, request, reply)) = sends.next() {
            // Those that follow each other to one role go together.
            let same = iter::from_fn(|| {
                let (_, request, reply) = sends.next_if(|(other, ..)| *other == to)?;
                Some((request, reply))
            });
            self.driver.transport.send_all(to, &mut iter::once((request, reply)).chain(same));
        }
        if let Some(kind) = out.pause.take() {
            let timing = &self.driver.timing;
            let length = match kind {
                Pause::Retry => {
                    let length = self.retry;
                    self.retry = (self.retry * 2).min(timing.retry_at_most);
                    length
                }
                Pause::Hole => timing.hole,
                Pause::Silence => timing.silence,
            };
            self.pause = Some(Instant::now() + length);
        }
    }

    /// What happens next, until `deadline`.
    pub(crate) fn next(&mut self, deadline: Option<Instant>) -> Happened {
        loop {
            if let Some(input) = self.inputs.pop_front() {
                return Happened::Input(input);
            }
            let oldest = self.waiting.iter().min_by_key(|(_, awaited)| awaited.sent);
            let oldest = oldest.map(|(call, awaited)| (*call, awaited.sent));
            let overdue = oldest.map(|(_, sent)| sent + self.driver.timing.answer);
            let doubt = oldest.map(|(_, sent)| {
                self.looked.map_or(sent, |looked| looked.max(sent)) + self.driver.timing.doubt
            });
            let next = [self.pause, overdue, doubt, deadline].into_iter().flatten().min();
            let arrival = match next {
                Some(next) => self.arrivals.recv_timeout(next.saturating_duration_since(Instant::now())),
                None => self.arrivals.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let now = Instant::now();
            match arrival {
                Ok(Arrival::Wake) => return Happened::Woken,
                Ok(Arrival::Reply(call, reply)) => {
                    // If it comes too late, the operation was told that it was lost.
                    if self.waiting.remove(&call).is_some() {
                        return Happened::Input(match reply {
                            Some(reply) => {
                                self.learn(&reply);
                                Input::Reply { call, reply }
                            }
                            None => Input::Lost { call },
                        });
                    }
                }
                Ok(Arrival::Latest(reply)) => {
                    if let Some(latest) = reply.and_then(|reply| self.learn(&reply)) {
                        self.give_up_before(latest);
                    }
                }
                Err(_) if deadline.is_some_and(|deadline| deadline <= now) => return Happened::Late,
                Err(_) if self.pause.is_some_and(|pause| pause <= now) => {
                    self.pause = None;
                    return Happened::Input(Input::Elapsed);
                }
                Err(_) if overdue.is_some_and(|overdue| overdue <= now) => {
                    let (call, _) = oldest.expect("it is overdue");
                    self.waiting.remove(&call);
                    return Happened::Input(Input::Lost { call });
                }
                Err(_) if doubt.is_some_and(|doubt| doubt <= now) => self.look(now),
                Err(_) => {}
            }
        }
    }

    fn learn(&self, reply: &Reply) -> Option<Epoch> {
        let Reply::Store(StoreReply::Latest(Some(projection))) = reply else { return None };
        self.driver.learn(projection);
        Some(projection.epoch)
    }

    /// Looks whether whoever does not answer has been left behind.
    fn look(&mut self, now: Instant) {
        self.looked = Some(now);
        let arrived = self.arrived.clone();
        let reply = ReplyTo::new(move |reply| drop(arrived.send(Arrival::Latest(reply))));
        self.driver.transport.send(Node::Store, Request::Store(StoreRequest::Latest), reply);
    }

    /// What was asked by an earlier projection need not be waited for: if it is answered at all, it is refused.
    fn give_up_before(&mut self, latest: Epoch) {
        let inputs = &mut self.inputs;
        self.waiting.retain(|call, awaited| {
            let stale = awaited.epoch.is_some_and(|epoch| epoch < latest);
            if stale {
                inputs.push_back(Input::Lost { call: *call });
            }
            !stale
        });
    }
}

/// The latest projection, asked of the store until it answers; `None` when `patience` is over first.
pub(crate) fn latest(
    transport: &dyn Transport,
    timing: &Timing,
    patience: Duration,
) -> Option<Option<Arc<Projection>>> {
    ask_store(transport, timing, patience, &StoreRequest::Latest, |reply| match reply {
        StoreReply::Latest(latest) => Some(latest),
        _ => None,
    })
}

/// What `take` takes of an answer of the store's, which is asked until then; `None` when `patience` is over first.
pub(crate) fn ask_store<T>(
    transport: &dyn Transport,
    timing: &Timing,
    patience: Duration,
    request: &StoreRequest,
    take: impl Fn(StoreReply) -> Option<T>,
) -> Option<T> {
    let begun = Instant::now();
    loop {
        let (arrived, arrivals) = mpsc::channel();
        let reply = ReplyTo::new(move |reply| drop(arrived.send(reply)));
        transport.send(Node::Store, Request::Store(request.clone()), reply);
        if let Ok(Some(Reply::Store(reply))) = arrivals.recv_timeout(timing.answer.min(patience))
            && let Some(taken) = take(reply)
        {
            return Some(taken);
        }
        if begun.elapsed() > patience {
            return None;
        }
        std::thread::sleep(timing.retry_at_most);
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("epoch", &self.projection().epoch).finish_non_exhaustive()
    }
}
