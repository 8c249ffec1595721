//! Operations: what a client wants done, as a value that is told what happens and says what to send.
//!
//! An [`Operation`] has no thread, clock or socket. Its driver starts it with [`Input::Start`], sends what it
//! puts into the [`Outbox`], and reports each reply, each request that got none, and the end of each pause,
//! until the operation has an outcome. Inputs that come late, twice or out of order are ignored.

use std::sync::Arc;

use super::message::{
    Epoch, Member, Node, Reply, Request, SequencerReply, SequencerRequest, SequencerVerb, StoreReply,
    StoreRequest, UnitReply, UnitRequest, UnitVerb,
};
use super::projection::Projection;

/// The number of a request within its operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call(pub u32);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The operation begins.
    Start,
    /// A request was answered.
    Reply {
        /// Which request.
        call: Call,
        /// With what.
        reply: Reply,
    },
    /// A request was not answered, and the driver waits no longer. It may have been executed, or may yet be.
    Lost {
        /// Which request.
        call: Call,
    },
    /// The pause that was asked for last is over.
    Elapsed,
}

/// A request to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outgoing {
    /// Its number within the operation.
    pub call: Call,
    /// To whom.
    pub to: Node,
    /// The request.
    pub request: Request,
}

/// How long to pause is the driver's choice; what for, the operation's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pause {
    /// Before it asks again what was refused or lost. More often in a row: longer.
    Retry,
    /// To let a slow writer finish, before its position is filled with junk.
    Hole,
    /// To let slow units answer a seal, before they are left behind.
    Silence,
}

/// What an operation asks of its driver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Outbox {
    /// Requests to send, in any order.
    pub sends: Vec<Outgoing>,
    /// A pause to report the end of. It replaces the one before.
    pub pause: Option<Pause>,
}

/// What a client wants done.
pub trait Operation {
    /// What comes of it.
    type Outcome;

    /// Takes an input, and asks for what has to be done next; the outcome, if that is all. An operation with
    /// an outcome is over.
    fn step(&mut self, input: Input, out: &mut Outbox) -> Option<Self::Outcome>;
}

/// Numbers of requests go round within one half of all, so that an operation can have two views.
const HALF: u32 = 1 << 31;

/// A client's knowledge of the cluster, and its requests under way. Every operation has one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct View {
    projection: Arc<Projection>,
    calls: u32,
    waiting: Vec<(Call, Awaited)>,
    pausing: Option<Pausing>,
    /// Somebody said that there is a projection of this epoch, or will be.
    wanted: Epoch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Awaited {
    Member(Member),
    Sequencer,
    Refresh,
    Store,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pausing {
    /// Then the projection is asked for.
    Retry,
    /// Then the operation is told.
    Own,
}

/// An input, made sense of.
#[derive(Debug)]
pub(crate) enum Event {
    /// A unit answered.
    Unit(Member, UnitReply),
    /// A unit did not answer.
    NoUnit(Member),
    /// The sequencer answered, or did not.
    Sequencer(Option<SequencerReply>),
    /// The projection store answered what the operation itself asked of it, or did not.
    Store(Option<StoreReply>),
    /// The projection was looked up; it may be another one than before. Also the beginning.
    Refreshed,
    /// The operation's own pause is over.
    Paused,
    /// Nothing that matters.
    Nothing,
}

impl View {
    pub(crate) const fn new(projection: Arc<Projection>) -> Self {
        Self::numbered(projection, Call(0))
    }

    /// A view whose requests have numbers from `next` on, for an operation that has several views.
    pub(crate) const fn numbered(projection: Arc<Projection>, next: Call) -> Self {
        Self { projection, calls: next.0, waiting: Vec::new(), pausing: None, wanted: Epoch::NONE }
    }

    /// The number of the next request.
    pub(crate) const fn next_call(&self) -> Call {
        Call(self.calls)
    }

    pub(crate) const fn projection(&self) -> &Arc<Projection> {
        &self.projection
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.projection.epoch
    }

    fn send(&mut self, out: &mut Outbox, awaited: Awaited, to: Node, request: Request) -> Call {
        let call = Call(self.calls);
        // Of a long operation the first requests are forgotten by the time their numbers come again.
        self.calls = (self.calls & HALF) | (self.calls.wrapping_add(1) & !HALF);
        self.waiting.push((call, awaited));
        out.sends.push(Outgoing { call, to, request });
        call
    }

    pub(crate) fn ask_unit(&mut self, out: &mut Outbox, member: Member, verb: UnitVerb) -> Call {
        self.ask_unit_in(out, self.projection.epoch, member, verb)
    }

    pub(crate) fn ask_unit_in(
        &mut self,
        out: &mut Outbox,
        epoch: Epoch,
        member: Member,
        verb: UnitVerb,
    ) -> Call {
        let request = Request::Unit(UnitRequest { epoch, member, verb });
        self.send(out, Awaited::Member(member), Node::Unit(member.unit), request)
    }

    /// Asks the projection's sequencer, of which there must be one.
    pub(crate) fn ask_sequencer(&mut self, out: &mut Outbox, verb: SequencerVerb) {
        let (number, _) = self.projection.sequencer.expect("a log that is not sealed has a sequencer");
        self.ask_sequencer_in(out, self.projection.epoch, Node::Sequencer(number), verb);
    }

    pub(crate) fn ask_sequencer_in(&mut self, out: &mut Outbox, epoch: Epoch, to: Node, verb: SequencerVerb) {
        let request = Request::Sequencer(SequencerRequest { epoch, verb });
        self.send(out, Awaited::Sequencer, to, request);
    }

    /// Tells a sequencer something, and does not wait for an answer.
    pub(crate) fn tell_sequencer_in(
        &mut self,
        out: &mut Outbox,
        epoch: Epoch,
        to: Node,
        verb: SequencerVerb,
    ) {
        self.ask_sequencer_in(out, epoch, to, verb);
        self.waiting.pop();
    }

    pub(crate) fn ask_store(&mut self, out: &mut Outbox, request: StoreRequest) {
        self.send(out, Awaited::Store, Node::Store, Request::Store(request));
    }

    /// Takes note of a projection that somebody else has looked up. Nothing may be under way.
    pub(crate) fn learn(&mut self, projection: &Arc<Projection>) {
        if projection.epoch > self.projection.epoch {
            self.projection = Arc::clone(projection);
        }
    }

    /// Gives up what is under way and looks up the projection now.
    pub(crate) fn refresh(&mut self, out: &mut Outbox) {
        self.abandon();
        self.send(out, Awaited::Refresh, Node::Store, Request::Store(StoreRequest::Latest));
    }

    /// Gives up what is under way, pauses, and looks up the projection.
    pub(crate) fn retry(&mut self, out: &mut Outbox) {
        self.abandon();
        self.pausing = Some(Pausing::Retry);
        out.pause = Some(Pause::Retry);
    }

    /// Pauses on the operation's behalf.
    pub(crate) fn pause(&mut self, out: &mut Outbox, pause: Pause) {
        self.pausing = Some(Pausing::Own);
        out.pause = Some(pause);
    }

    /// Ignores all answers that are still to come.
    pub(crate) fn abandon(&mut self) {
        self.waiting.clear();
        self.pausing = None;
    }

    /// How many requests are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.waiting.len()
    }

    /// Takes it that a projection of `epoch` is there or will be, since units are sealed for it, and looks
    /// it up.
    pub(crate) fn refresh_to(&mut self, epoch: Epoch, out: &mut Outbox) {
        self.wanted = self.wanted.max(epoch);
        self.refresh(out);
    }

    /// What to do about a refusal that says nothing about the operation itself.
    pub(crate) fn trouble(&mut self, reply: &UnitReply, out: &mut Outbox) {
        match reply {
            UnitReply::Sealed(epoch) => self.refresh_to(*epoch, out),
            _ => self.retry(out),
        }
    }

    /// The same, of the sequencer. One that was not started is told where to start, which anybody may do: it
    /// is written in the projection.
    pub(crate) fn sequencer_trouble(&mut self, reply: Option<SequencerReply>, out: &mut Outbox) {
        match (reply, self.projection.sequencer) {
            (Some(SequencerReply::Sealed(epoch)), _) => self.refresh_to(epoch, out),
            (Some(SequencerReply::NotStarted(found)), Some((_, instance))) if found == instance => {
                self.abandon();
                self.ask_sequencer(out, self.start());
            }
            // It is the answer to that: go on as if the projection had been looked up.
            (Some(SequencerReply::Present { epoch, .. }), _) if epoch == self.projection.epoch => {
                self.refresh(out);
            }
            _ => self.retry(out),
        }
    }

    /// What the projection tells its sequencer.
    pub(crate) fn start(&self) -> SequencerVerb {
        let (_, instance) = self.projection.sequencer.expect("a log that is not sealed has a sequencer");
        SequencerVerb::Start { instance, tail: self.projection.tail, width: self.projection.width }
    }

    /// Makes sense of an input.
    pub(crate) fn sort(&mut self, input: Input, out: &mut Outbox) -> Event {
        match input {
            Input::Start => Event::Refreshed,
            Input::Elapsed => match self.pausing.take() {
                Some(Pausing::Retry) => {
                    self.refresh(out);
                    Event::Nothing
                }
                Some(Pausing::Own) => Event::Paused,
                None => Event::Nothing,
            },
            Input::Lost { call } => match self.take(call) {
                Some(Awaited::Member(member)) => Event::NoUnit(member),
                Some(Awaited::Sequencer) => Event::Sequencer(None),
                Some(Awaited::Store) => Event::Store(None),
                Some(Awaited::Refresh) => {
                    self.retry(out);
                    Event::Nothing
                }
                None => Event::Nothing,
            },
            Input::Reply { call, reply } => match (self.take(call), reply) {
                (Some(Awaited::Member(member)), Reply::Unit(reply)) => Event::Unit(member, reply),
                (Some(Awaited::Sequencer), Reply::Sequencer(reply)) => Event::Sequencer(Some(reply)),
                (Some(Awaited::Store), Reply::Store(reply)) => Event::Store(Some(reply)),
                (Some(Awaited::Refresh), Reply::Store(StoreReply::Latest(Some(latest)))) => {
                    self.refreshed(latest, out)
                }
                (Some(Awaited::Refresh), _) => {
                    self.retry(out);
                    Event::Nothing
                }
                // An answer of the wrong kind is none.
                (Some(Awaited::Member(member)), _) => Event::NoUnit(member),
                (Some(Awaited::Sequencer), _) => Event::Sequencer(None),
                (Some(Awaited::Store), _) => Event::Store(None),
                (None, _) => Event::Nothing,
            },
        }
    }

    fn refreshed(&mut self, latest: Arc<Projection>, out: &mut Outbox) -> Event {
        if latest.epoch > self.projection.epoch {
            self.projection = latest;
        }
        if self.projection.epoch < self.wanted {
            // Somebody has sealed units and not installed the projection yet. Should they never do it, the
            // next who reconfigures will.
            self.retry(out);
            return Event::Nothing;
        }
        Event::Refreshed
    }

    fn take(&mut self, call: Call) -> Option<Awaited> {
        let index = self.waiting.iter().position(|(waiting, _)| *waiting == call)?;
        Some(self.waiting.swap_remove(index).1)
    }
}
