//! The cluster and its network: units over journals that survive crashes, sequencers, the projection store,
//! and messages that are lost, late, doubled or overtaken. Time is a number.
//!
//! Everything that a role answers comes from the production state machines; the world only decides when a
//! message arrives, when a journal is flushed, and what a crash leaves of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mixlog_log::Durability;
use mixlog_log::corfu::{
    Answer, Call, Epoch, Instance, Limits, Member, Node, Record, RecordNumber, Register, Reply, Request,
    Rules, Sequencer, SequencerNumber, SequencerReply, SequencerVerb, StoreRequest, Unit, UnitNumber,
    UnitReply, UnitRequest, UnitVerb,
};

use crate::random::Random;

/// What can happen; each is counted, so that a simulation in which it never does is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    RequestLost,
    ReplyLost,
    RequestDoubled,
    ReplyDoubled,
    Late,
    Overtaken,
    CutOff,
    CutOffOneWay,
    UnitCrashed,
    UnflushedLost,
    Refused,
    SequencerCrashed,
    StaleSequencerAsked,
    SequencerWentBack,
    ClientCrashed,
    DriverCrashed,
    TwoDrivers,
    DriverOvertaken,
    Reconfigured,
    UnitTakenIn,
    UnitBack,
    Wiped,
    Flipped,
    DamageFound,
    Full,
    Acknowledged,
    NotCommitted,
    Indeterminate,
    AcknowledgedInPart,
    HoleFilled,
    Trimmed,
    JunkRead,
    LoadedFromJournal,
    /// A run came to a unit before the one that goes before it.
    RunEarly,
    /// A run was given up, as a later one was in the log.
    BatchOvertaken,
    /// Several runs of a client were under way.
    SeveralUnderWay,
    /// Everything that was acknowledged before was flushed.
    Flushed,
    /// A flush ended while a projection was installed that it had not begun with.
    FlushedAnew,
    /// The power went out under one unit that buffers.
    PowerCut,
    /// The power went out under all of them.
    Blackout,
    /// Then an entry that was flushed was found.
    FlushedFound,
    /// Then an entry was lost that was acknowledged, and not flushed.
    UnflushedGone,
    /// A unit of a chain was gone for good when the calm began, and everything came to an end without it.
    UnitGone,
    /// So was one that was being copied to.
    JoiningUnitGone,
    /// So was one that might have joined.
    SpareGone,
    /// So was the sequencer that handed out the tokens.
    SequencerInChargeGone,
}

impl Kind {
    /// What happens to units that buffer.
    pub(crate) const BUFFERED: [Self; 6] = [
        Self::Flushed,
        Self::FlushedAnew,
        Self::PowerCut,
        Self::Blackout,
        Self::FlushedFound,
        Self::UnflushedGone,
    ];

    /// What happens to all.
    pub(crate) const ALL: [Self; 40] = [
        Self::RequestLost,
        Self::ReplyLost,
        Self::RequestDoubled,
        Self::ReplyDoubled,
        Self::Late,
        Self::Overtaken,
        Self::CutOff,
        Self::CutOffOneWay,
        Self::UnitCrashed,
        Self::UnflushedLost,
        Self::Refused,
        Self::SequencerCrashed,
        Self::StaleSequencerAsked,
        Self::SequencerWentBack,
        Self::ClientCrashed,
        Self::DriverCrashed,
        Self::TwoDrivers,
        Self::DriverOvertaken,
        Self::Reconfigured,
        Self::UnitTakenIn,
        Self::UnitBack,
        Self::Wiped,
        Self::Flipped,
        Self::DamageFound,
        Self::Full,
        Self::Acknowledged,
        Self::NotCommitted,
        Self::Indeterminate,
        Self::AcknowledgedInPart,
        Self::HoleFilled,
        Self::Trimmed,
        Self::JunkRead,
        Self::LoadedFromJournal,
        Self::RunEarly,
        Self::BatchOvertaken,
        Self::SeveralUnderWay,
        Self::UnitGone,
        Self::JoiningUnitGone,
        Self::SpareGone,
        Self::SequencerInChargeGone,
    ];
}

/// How often each thing happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts(pub(crate) BTreeMap<Kind, u64>);

impl Counts {
    pub(crate) fn add(&mut self, kind: Kind) {
        *self.0.entry(kind).or_default() += 1;
    }

    pub(crate) fn of(&self, kind: Kind) -> u64 {
        self.0.get(&kind).copied().unwrap_or(0)
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        for (kind, count) in &other.0 {
            *self.0.entry(*kind).or_default() += count;
        }
    }
}

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Address {
    Client(usize),
    Role(Node),
}

/// Which request of which operation of which client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) client: usize,
    pub(crate) turn: u64,
    pub(crate) call: Call,
}

/// What happens next.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Request {
        from: Sender,
        to: Node,
        request: Request,
    },
    Reply {
        to: Sender,
        reply: Reply,
    },
    /// The client waits no longer.
    GivenUp(Sender),
    Elapsed {
        client: usize,
        turn: u64,
        pause: u64,
    },
    /// A client may begin something.
    Begin(usize),
    Flushed {
        unit: UnitNumber,
        life: u64,
        upto: usize,
    },
    UnitStarts(UnitNumber),
    SequencerStarts(SequencerNumber),
    CutEnds(Address, Address),
    /// Something breaks.
    Fault,
}

/// How bad the network is; of a thousand messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) late: u64,
}

impl Weather {
    pub(crate) const CALM: Self = Self { lost: 0, doubled: 0, late: 0 };
}

/// A unit, its journal, and the answers that wait for it to be flushed.
#[derive(Debug)]
pub(crate) struct Host {
    /// None while it is down.
    pub(crate) unit: Option<Unit>,
    journal: Vec<Record>,
    flushed: usize,
    flushing: bool,
    life: u64,
    answers: VecDeque<(usize, Sender, UnitRequest, Answer)>,
    /// Of a unit that buffers: who waits until so many records are flushed.
    flushes: VecDeque<(usize, Sender)>,
    /// The first record that cannot be read back, of a unit that knows that it lost something.
    flipped: Option<usize>,
    /// The epoch for which it answered that it is sealed.
    promised: Option<(Member, Epoch)>,
    quota: u64,
}

/// How a role is gone for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    /// It is stopped, and not started again.
    Stopped,
    /// It is cut off: nobody hears it, and it hears nobody.
    CutOff,
    /// It hears everybody, and nobody hears it.
    Mute,
}

/// Everything but the clients.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) rules: Rules,
    /// Whether units answer before what they were told is flushed.
    buffered: bool,
    pub(crate) now: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), Event>,
    pub(crate) hosts: BTreeMap<UnitNumber, Host>,
    pub(crate) sequencers: BTreeMap<SequencerNumber, Option<Sequencer>>,
    /// Sequencers as they once were.
    earlier: BTreeMap<SequencerNumber, Sequencer>,
    pub(crate) register: Register,
    pub(crate) weather: Weather,
    pub(crate) cut: BTreeSet<(Address, Address)>,
    gone: BTreeMap<Node, Gone>,
    arrivals: BTreeMap<(Address, Address), u64>,
    pub(crate) counts: Counts,
    pub(crate) violation: Option<String>,
    trace: bool,
}

impl World {
    pub(crate) fn new(
        random: Random,
        rules: Rules,
        units: &[u32],
        quota: u64,
        durability: Durability,
    ) -> Self {
        let mut world = Self {
            random,
            rules,
            buffered: durability == Durability::Buffered,
            now: 0,
            sequence: 0,
            queue: BTreeMap::new(),
            hosts: BTreeMap::new(),
            sequencers: BTreeMap::new(),
            earlier: BTreeMap::new(),
            register: Register::default(),
            weather: Weather::CALM,
            cut: BTreeSet::new(),
            gone: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            counts: Counts::default(),
            violation: None,
            trace: std::env::var_os("MIXLOG_TRACE").is_some(),
        };
        for number in units.iter().copied().map(UnitNumber) {
            let host = Host {
                unit: None,
                journal: Vec::new(),
                flushed: 0,
                flushing: false,
                life: 0,
                answers: VecDeque::new(),
                flushes: VecDeque::new(),
                flipped: None,
                promised: None,
                quota,
            };
            world.hosts.insert(number, host);
            world.start_unit(number);
        }
        for number in [1, 2].map(SequencerNumber) {
            world.sequencers.insert(number, None);
            world.start_sequencer(number);
        }
        world
    }

    pub(crate) fn after(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), event);
    }

    pub(crate) fn next(&mut self) -> Option<Event> {
        let ((at, _), event) = self.queue.pop_first()?;
        self.now = at;
        if self.trace {
            println!("{at}: {event:?}");
        }
        Some(event)
    }

    fn violate(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    /// Puts a message on its way, perhaps twice, perhaps not at all.
    fn send(&mut self, from: Address, to: Address, event: &Event, is_request: bool) {
        if self.cut.contains(&(from, to)) {
            self.counts.add(Kind::CutOff);
            if !self.cut.contains(&(to, from)) {
                self.counts.add(Kind::CutOffOneWay);
            }
            return;
        }
        let is_heard = match (from, to) {
            (_, Address::Role(node)) => matches!(self.gone.get(&node), None | Some(Gone::Mute)),
            (Address::Role(node), _) => !self.is_gone(node),
            _ => true,
        };
        if !is_heard {
            return;
        }
        let Weather { lost, doubled, late } = self.weather;
        let mut copies = 1;
        if self.random.per_mille(lost) {
            self.counts.add(if is_request { Kind::RequestLost } else { Kind::ReplyLost });
            copies = 0;
        } else if self.random.per_mille(doubled) {
            self.counts.add(if is_request { Kind::RequestDoubled } else { Kind::ReplyDoubled });
            copies = 2;
        }
        for _ in 0..copies {
            let delay = if self.random.per_mille(late) {
                self.counts.add(Kind::Late);
                self.random.between(100, 6000)
            } else {
                self.random.between(1, 100)
            };
            let at = self.now + delay;
            let arrival = self.arrivals.entry((from, to)).or_default();
            if at < *arrival {
                self.counts.add(Kind::Overtaken);
            }
            *arrival = at.max(*arrival);
            self.after(delay, event.clone());
        }
    }

    pub(crate) fn request(&mut self, from: Sender, to: Node, request: Request) {
        let event = Event::Request { from, to, request };
        self.send(Address::Client(from.client), Address::Role(to), &event, true);
        let patience = self.random.between(400, 3000);
        self.after(patience, Event::GivenUp(from));
    }

    fn reply(&mut self, from: Node, to: Sender, reply: Reply) {
        let event = Event::Reply { to, reply };
        self.send(Address::Role(from), Address::Client(to.client), &event, false);
    }

    pub(crate) fn serve(&mut self, from: Sender, to: Node, request: Request) {
        match (to, request) {
            (Node::Unit(number), Request::Unit(request)) => self.serve_unit(from, number, request),
            (Node::Sequencer(number), Request::Sequencer(request)) => {
                let latest = self.register.latest().map_or(Epoch::NONE, |latest| latest.epoch);
                let Some(Some(sequencer)) = self.sequencers.get_mut(&number) else { return };
                if matches!(request.verb, SequencerVerb::Start { .. }) || self.random.per_mille(20) {
                    self.earlier.insert(number, sequencer.clone());
                }
                let reply = sequencer.handle(&request);
                if matches!(reply, SequencerReply::Token(token) if token.epoch < latest) {
                    self.counts.add(Kind::StaleSequencerAsked);
                }
                self.reply(to, from, Reply::Sequencer(reply));
            }
            (Node::Store, Request::Store(request)) => {
                let reply = self.register.handle(&request);
                self.reply(to, from, Reply::Store(reply));
            }
            (to, request) => panic!("{request:?} was sent to {to:?}"),
        }
    }

    fn serve_unit(&mut self, from: Sender, number: UnitNumber, request: UnitRequest) {
        let away = self.random.per_mille(300);
        let host = self.hosts.get_mut(&number).expect("a unit");
        let Some(unit) = &mut host.unit else { return };
        let (member_before, damaged_before) = (unit.member(), unit.damaged());
        let mut records = Vec::new();
        let answer = unit.handle(request.clone(), &mut records);
        if unit.member() != member_before && damaged_before {
            // The journal is begun anew; who still waited gets no answer.
            (host.journal, host.flushed, host.flipped) = (Vec::new(), 0, None);
            host.answers.clear();
            host.flushes.clear();
            host.life += 1;
            host.flushing = false;
        } else if damaged_before && !records.is_empty() {
            // A damaged journal takes nothing.
            self.violate(format!("unit {number} is damaged and was to remember {records:?}"));
            return;
        }
        for record in records {
            if let Record::Run(run) = &record {
                unit.placed(run.first(), RecordNumber(host.journal.len() as u64));
                if away {
                    unit.send_away(run.first());
                }
            }
            host.journal.push(record);
        }
        if self.buffered && answer == Answer::Flushed {
            host.flushes.push_back((host.journal.len(), from));
            let (life, upto) = (host.life, host.journal.len());
            let delay = self.random.between(5, 200);
            self.after(delay, Event::Flushed { unit: number, life, upto });
        } else {
            let needed = if self.buffered { 0 } else { host.journal.len() };
            host.answers.push_back((needed, from, request, answer));
        }
        self.release(number);
        self.flush(number);
    }

    fn flush(&mut self, number: UnitNumber) {
        let (soon, late) = if self.buffered { (500, 6000) } else { (5, 200) };
        let delay = self.random.between(soon, late);
        let host = self.hosts.get_mut(&number).expect("a unit");
        if host.flushed < host.journal.len() && !host.flushing {
            host.flushing = true;
            let (life, upto) = (host.life, host.journal.len());
            self.after(delay, Event::Flushed { unit: number, life, upto });
        }
    }

    pub(crate) fn flushed(&mut self, number: UnitNumber, life: u64, upto: usize) {
        let host = self.hosts.get_mut(&number).expect("a unit");
        if host.life == life {
            host.flushed = upto.max(host.flushed);
            host.flushing = false;
            self.release(number);
            self.flush(number);
        }
    }

    /// Sends the answers whose records are as durable as they must be.
    fn release(&mut self, number: UnitNumber) {
        loop {
            let host = self.hosts.get_mut(&number).expect("a unit");
            if let Some((needed, to)) = host.flushes.front().copied()
                && needed <= host.flushed
            {
                host.flushes.pop_front();
                self.reply(Node::Unit(number), to, Reply::Unit(UnitReply::Done));
                continue;
            }
            if host.answers.front().is_none_or(|(needed, ..)| *needed > host.flushed) {
                return;
            }
            let (_, to, request, answer) = host.answers.pop_front().expect("it was just there");
            let mut loaded = false;
            let reply = answer.load(|number| {
                loaded = true;
                let index = usize::try_from(number.0).expect("an index");
                match host.journal.get(index) {
                    Some(Record::Run(run)) if host.flipped.is_none_or(|at| index < at) => Some(run.clone()),
                    _ => None,
                }
            });
            let violation = host.keeps_its_promises(&request, &reply);
            if loaded {
                self.counts.add(Kind::LoadedFromJournal);
            }
            match reply {
                UnitReply::Sealed(_) => self.counts.add(Kind::Refused),
                UnitReply::Full => self.counts.add(Kind::Full),
                UnitReply::Early => self.counts.add(Kind::RunEarly),
                UnitReply::Corrupt(_) => self.counts.add(Kind::DamageFound),
                _ => {}
            }
            if let Some(violation) = violation {
                self.violate(violation);
            }
            self.reply(Node::Unit(number), to, Reply::Unit(reply));
        }
    }

    pub(crate) fn start_unit(&mut self, number: UnitNumber) {
        let rules = self.rules;
        let is_stopped = self.is_stopped(Node::Unit(number));
        let host = self.hosts.get_mut(&number).expect("a unit");
        if host.unit.is_some() || is_stopped {
            return;
        }
        let mut unit = Unit::new(number, Limits { quota: host.quota, run_bytes: 1 << 20 }, rules);
        for (index, record) in host.journal.iter().enumerate().take(host.flipped.unwrap_or(usize::MAX)) {
            unit.replay(record.clone(), Some(RecordNumber(index as u64)));
        }
        if host.flipped.is_some() {
            unit.set_damaged();
        }
        host.unit = Some(unit);
        if self.buffered {
            self.flush(number);
        }
    }

    /// Crashes a unit, that starts again after `down`; 0: somebody else sees to that. The operating system keeps what
    /// the process buffered.
    pub(crate) fn stop_unit(&mut self, number: UnitNumber, down: u64) {
        let host = self.hosts.get_mut(&number).expect("a unit");
        if host.unit.is_none() {
            return;
        }
        host.end();
        if !self.buffered {
            self.tear(number);
        }
        if down > 0 {
            self.counts.add(Kind::UnitCrashed);
            self.after(down, Event::UnitStarts(number));
        }
    }

    /// What was not flushed is torn off somewhere.
    fn tear(&mut self, number: UnitNumber) {
        let host = self.hosts.get_mut(&number).expect("a unit");
        let unflushed = host.journal.len() - host.flushed;
        let kept = usize::try_from(self.random.below(unflushed as u64 + 1)).expect("an index");
        host.journal.truncate(host.flushed + kept);
        host.flushed = host.journal.len();
        if kept < unflushed {
            self.counts.add(Kind::UnflushedLost);
        }
    }

    /// A machine goes down under a unit that buffers, which starts with what is left, and knows that it may have lost
    /// something.
    pub(crate) fn cut_power(&mut self, number: UnitNumber) {
        self.hosts.get_mut(&number).expect("a unit").end();
        self.tear(number);
        let host = self.hosts.get_mut(&number).expect("a unit");
        let left = host.journal.len();
        host.flipped = Some(host.flipped.map_or(left, |before| before.min(left)));
        // It may have lost the seal.
        host.promised = None;
        self.start_unit(number);
    }

    /// A unit loses its disk.
    pub(crate) fn wipe(&mut self, number: UnitNumber) {
        self.stop_unit(number, 0);
        let host = self.hosts.get_mut(&number).expect("a unit");
        (host.journal, host.flushed, host.flipped, host.promised) = (Vec::new(), 0, None, None);
        self.counts.add(Kind::Wiped);
        self.start_unit(number);
    }

    /// One of a unit's records is damaged while it is down, and it finds that when it starts.
    pub(crate) fn flip(&mut self, number: UnitNumber) {
        self.stop_unit(number, 0);
        let records = self.hosts[&number].journal.len() as u64;
        if records > 0 {
            let at = usize::try_from(self.random.below(records)).expect("an index");
            let host = self.hosts.get_mut(&number).expect("a unit");
            host.flipped = Some(host.flipped.map_or(at, |before| before.min(at)));
            // It may have lost the seal, and answers what it still has; it takes nothing.
            host.promised = None;
            self.counts.add(Kind::Flipped);
        }
        self.start_unit(number);
    }

    pub(crate) fn start_sequencer(&mut self, number: SequencerNumber) {
        if self.is_stopped(Node::Sequencer(number)) {
            return;
        }
        let instance = Instance(self.random.next());
        let sequencer = self.sequencers.get_mut(&number).expect("a sequencer");
        sequencer.get_or_insert_with(|| Sequencer::new(instance));
    }

    pub(crate) fn stop_sequencer(&mut self, number: SequencerNumber, down: u64) {
        let running = self.sequencers.get_mut(&number).expect("a sequencer");
        if running.take().is_some() {
            self.earlier.remove(&number);
            self.counts.add(Kind::SequencerCrashed);
            self.after(down, Event::SequencerStarts(number));
        }
    }

    /// A sequencer is again as it was, of the same instance; a machine's image that was restored does that.
    pub(crate) fn turn_sequencer_back(&mut self, number: SequencerNumber) {
        if let (Some(Some(now)), Some(earlier)) =
            (self.sequencers.get_mut(&number), self.earlier.get(&number))
            && now != earlier
        {
            *now = earlier.clone();
            self.counts.add(Kind::SequencerWentBack);
        }
    }

    /// A unit or a sequencer is gone for good.
    pub(crate) fn lose(&mut self, node: Node) {
        let gone = *self.random.pick(&[Gone::Stopped, Gone::CutOff, Gone::Mute]);
        self.gone.insert(node, gone);
        match node {
            Node::Unit(number) if gone == Gone::Stopped => self.stop_unit(number, 0),
            Node::Sequencer(number) if gone == Gone::Stopped => drop(self.sequencers.insert(number, None)),
            _ => {}
        }
    }

    pub(crate) fn is_gone(&self, node: Node) -> bool {
        self.gone.contains_key(&node)
    }

    fn is_stopped(&self, node: Node) -> bool {
        self.gone.get(&node) == Some(&Gone::Stopped)
    }

    /// Whether a projection is on its way to the store.
    pub(crate) fn installs(&self) -> bool {
        self.queue.values().any(|event| {
            matches!(event, Event::Request { request: Request::Store(StoreRequest::Install(_)), .. })
        })
    }

    /// Whether a unit has everything that this member was told, and can be asked for it.
    pub(crate) fn is_whole(&self, member: Member) -> bool {
        if self.is_gone(Node::Unit(member.unit)) {
            return false;
        }
        let host = &self.hosts[&member.unit];
        match &host.unit {
            Some(unit) => unit.member() == Some(member) && !unit.damaged(),
            // It starts with what it had, if that is not damaged.
            None => {
                let states = host.journal.iter().rev().filter_map(|record| match record {
                    Record::State(state) => Some(state.joined),
                    Record::Run(_) => None,
                });
                host.flipped.is_none() && states.into_iter().next() == Some(member.joined)
            }
        }
    }
}

impl Host {
    /// The process ends.
    fn end(&mut self) {
        self.unit = None;
        self.life += 1;
        self.flushing = false;
        self.answers.clear();
        self.flushes.clear();
    }

    /// What a unit that answered a seal, durably, must not do.
    fn keeps_its_promises(&mut self, request: &UnitRequest, reply: &UnitReply) -> Option<String> {
        let UnitRequest { epoch, member, verb } = request;
        match (verb, reply) {
            (UnitVerb::Seal | UnitVerb::Join(_), UnitReply::Standing(standing)) => {
                let promised = self.promised.filter(|(before, _)| before == member);
                let highest = promised.map_or(standing.epoch, |(_, epoch)| epoch.max(standing.epoch));
                self.promised = Some((*member, highest));
                None
            }
            (
                UnitVerb::Write(_)
                | UnitVerb::Copy(_)
                | UnitVerb::WriteAfter(..)
                | UnitVerb::CopyAfter(..)
                | UnitVerb::Flush,
                UnitReply::Done,
            )
            | (UnitVerb::Fill { .. } | UnitVerb::Gap { .. }, UnitReply::Runs(_) | UnitReply::Gap(..)) => {
                let (promised, sealed) = self.promised?;
                // An answer that was decided before the seal leaves before the seal's.
                (promised == *member && *epoch < sealed)
                    .then(|| format!("{member} is sealed at {sealed} and answered in {epoch}: {reply:?}"))
            }
            _ => None,
        }
    }
}
