//! The state that is explored: roles, clients with scripts, and requests that nobody waits for any more.
//!
//! A request and its answer are one step. That loses nothing: whoever waits for the answer does nothing
//! before it, so a late answer is as good as a late next request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mixlog_log::corfu::{
    Aim, Append, AppendOutcome, Call, Change, ClientId, Entries, EntryId, Epoch, Fill, Input, Instance,
    Limits, Member, Node, Operation, Outbox, Outgoing, Pause, Projection, Read, ReadOutcome, Reconfigure,
    Register, Reply, Request, Rules, Run, Sequencer, SequencerNumber, SequencerReply, StoreReply,
    StoreRequest, Sweep, Tail, TailMode, Token, Unit, UnitNumber, UnitReply, UnitVerb,
};
use mixlog_log::{Batch, LogId, Position};

use crate::disks::Disks;

const SEQUENCER: SequencerNumber = SequencerNumber(1);

const DENIED: &str = "I9: a unit said that nothing is written where it had something";

/// What a client does, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Appends one entry with this text.
    Append(&'static str),
    /// Asks for the linearizable tail.
    Tail,
    /// Finds out what stands at the first position, and settles it.
    Fill,
    /// Reads the first position.
    Read,
    /// The same, of which it is known that it is committed, if something was acknowledged there.
    ReadCommitted,
    /// Settles everything before the tail, as a janitor.
    Sweep,
    Reconfigure(Change),
    /// Once a unit of the projection has lost something, changes it, as a monitor does.
    Repair(Mending),
}

/// What is done about a unit that has lost something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mending {
    /// Nobody names it, but a new epoch begins.
    Renew,
    Remove,
    /// This one joins in its place.
    Replace(UnitNumber),
}

/// An operation under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Job {
    Append(Append, EntryId),
    Tail(Tail),
    Fill(Fill),
    Read(Read),
    Sweep(Sweep),
    Reconfigure(Reconfigure),
}

enum Outcome {
    Append(AppendOutcome, EntryId),
    Tail(Position),
    Fill(Vec<Run>),
    Read(ReadOutcome),
    Sweep,
    Reconfigure,
}

/// A client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    id: ClientId,
    script: Vec<Step>,
    done: usize,
    job: Option<Job>,
    waiting: Vec<Outgoing>,
    pause: Option<Pause>,
    inputs: usize,
    /// The epoch in which it looked again, after a refusal, whether there is another one.
    polled: Epoch,
    /// What was acknowledged when the operation began ends here.
    floor: Position,
    /// Whether an entry at the first position was.
    is_first_there: bool,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) units: BTreeMap<UnitNumber, Unit>,
    dead: BTreeSet<UnitNumber>,
    disks: Disks,
    sequencer: Sequencer,
    /// As it was when it was started last.
    earlier: Sequencer,
    pub(crate) register: Register,
    pub(crate) clients: Vec<Client>,
    /// Requests that are still on their way though their senders gave them up.
    late: Vec<(Node, Request)>,
    tokens: Vec<Token>,
    pub(crate) acknowledged: BTreeMap<EntryId, Position>,
    seen: BTreeMap<Position, Option<EntryId>>,
    /// How much more may go wrong.
    pub(crate) budget: Budget,
    /// What was done that must never be.
    pub(crate) flaws: BTreeSet<&'static str>,
}

/// How often requests come late, units die and come back, clients die, sequencers go back or start anew, and units lose
/// the end of what they remembered, and notice that or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) late: u8,
    pub(crate) unit_deaths: u8,
    pub(crate) unit_returns: u8,
    pub(crate) client_deaths: u8,
    pub(crate) back: u8,
    pub(crate) restarts: u8,
    pub(crate) damages: u8,
    pub(crate) unnoticed: u8,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A client's request is answered; by a dead unit it is not.
    Serve(usize, Call),
    /// A client gives a request up, which may arrive later.
    GiveUp(usize, Call),
    /// The late request of this index arrives.
    Arrive(usize),
    Elapse(usize),
    UnitDies(UnitNumber),
    /// With what it had: whoever was cut off is there again.
    UnitReturns(UnitNumber),
    ClientDies(usize),
    SequencerGoesBack,
    /// It knows nothing any more.
    SequencerRestarts,
    /// It has so many of its records left, and knows that it lost some.
    UnitIsDamaged(UnitNumber, usize),
    /// The same, and it does not know, which must not be.
    UnitIsCutShort(UnitNumber, usize),
}

impl World {
    /// A cluster of `chains` in which somebody has done what is told by `before`, one after the other and without
    /// any trouble. From there on, each client follows its script.
    pub(crate) fn new(
        chains: &[&[u32]],
        before: &[Step],
        scripts: &[Vec<Step>],
        budget: Budget,
        rules: Rules,
    ) -> Self {
        let sequencer = Sequencer::new(Instance(1));
        let numbers = chains.iter().flat_map(|chain| chain.iter()).copied().map(UnitNumber);
        let spares = scripts.iter().flatten().filter_map(|step| match step {
            Step::Repair(Mending::Replace(spare)) => Some(*spare),
            _ => None,
        });
        let unit = |number| (number, Unit::new(number, Limits::NONE, rules));
        let units: BTreeMap<_, _> = numbers.chain(spares).map(unit).collect();
        let loses = budget.damages + budget.unnoticed > 0;
        let mut world = Self {
            disks: if loses { Disks::of(units.keys().copied()) } else { Disks::default() },
            units,
            dead: BTreeSet::new(),
            earlier: sequencer.clone(),
            sequencer,
            register: Register::default(),
            clients: Vec::new(),
            late: Vec::new(),
            tokens: Vec::new(),
            acknowledged: BTreeMap::new(),
            seen: BTreeMap::new(),
            budget: Budget::default(),
            flaws: BTreeSet::new(),
        };
        let chains = chains.iter().map(|chain| chain.iter().copied().map(UnitNumber).collect()).collect();
        let change = Change { sequencer: Some(SEQUENCER), ..Change::grow(chains) };
        let founded = [Step::Reconfigure(change)].into_iter().chain(before.iter().cloned()).collect();
        world.clients.push(Client::new(ClientId(u64::MAX), founded));
        world.go_on(0, Rules::SOUND);
        while let Some(outgoing) = world.clients[0].waiting.first() {
            let call = outgoing.call;
            world = world.after(Action::Serve(0, call), Rules::SOUND);
        }
        assert!(world.is_over(), "what comes before is done without any trouble");
        let clients = (0..).map(ClientId).zip(scripts.iter().cloned());
        world.clients = clients.map(|(id, script)| Client::new(id, script)).collect();
        world.earlier = world.sequencer.clone();
        world.budget = budget;
        for index in 0..world.clients.len() {
            world.go_on(index, rules);
        }
        world
    }

    pub(crate) fn latest(&self) -> Option<&Arc<Projection>> {
        self.register.latest()
    }

    /// Everything that can happen. No client takes more inputs than `inputs` has for it.
    pub(crate) fn actions(&self, inputs: &[usize], actions: &mut Vec<Action>) {
        for (index, client) in self.clients.iter().enumerate() {
            if client.job.is_none() || client.inputs >= inputs[index] {
                continue;
            }
            for outgoing in &client.waiting {
                actions.push(Action::Serve(index, outgoing.call));
                if self.budget.late > 0 {
                    actions.push(Action::GiveUp(index, outgoing.call));
                }
            }
            // To look again and again for the same epoch leads nowhere new.
            let again = client.pause == Some(Pause::Retry) && client.polled == self.epoch();
            if client.waiting.is_empty() && client.pause.is_some() && !again {
                actions.push(Action::Elapse(index));
            }
            if self.budget.client_deaths > 0 {
                actions.push(Action::ClientDies(index));
            }
        }
        actions.extend((0..self.late.len()).map(Action::Arrive));
        if self.budget.unit_deaths > 0 {
            actions.extend(
                self.units.keys().filter(|unit| !self.dead.contains(unit)).copied().map(Action::UnitDies),
            );
        }
        if self.budget.unit_returns > 0 {
            actions.extend(self.dead.iter().copied().map(Action::UnitReturns));
        }
        if self.budget.restarts > 0 {
            actions.push(Action::SequencerRestarts);
        }
        if self.budget.back > 0 && self.sequencer != self.earlier {
            actions.push(Action::SequencerGoesBack);
        }
        if self.budget.damages + self.budget.unnoticed > 0 {
            for unit in self.units.keys().copied().filter(|unit| self.may_lose(*unit)) {
                for kept in 0..self.disks.records(unit) {
                    if self.budget.damages > 0 {
                        actions.push(Action::UnitIsDamaged(unit, kept));
                    }
                    if self.budget.unnoticed > 0 {
                        actions.push(Action::UnitIsCutShort(unit, kept));
                    }
                }
            }
        }
    }

    /// Whether the log survives what a unit loses: each chain that has it keeps another one that lost nothing. While a
    /// projection is being made, nobody knows whom it will leave to a chain.
    fn may_lose(&self, unit: UnitNumber) -> bool {
        let is_install =
            |(_, request): &(Node, Request)| matches!(request, Request::Store(StoreRequest::Install(_)));
        let is_driver = |client: &Client| matches!(client.job, Some(Job::Reconfigure(_)));
        if self.late.iter().any(is_install) || self.clients.iter().any(is_driver) {
            return false;
        }
        let latest = self.latest().expect("there is a projection");
        let is_kept = |member: &Member| !self.disks.has_lost(*member) && !self.dead.contains(&member.unit);
        let mut chains = latest.segments.iter().flat_map(|segment| &segment.chains);
        latest.member(unit).is_some_and(|member| is_kept(&member))
            && chains.all(|chain| chain.units.iter().any(|member| member.unit != unit && is_kept(member)))
    }

    /// A unit has the first `kept` of its records left.
    fn lose(&mut self, number: UnitNumber, kept: usize, is_noticed: bool, rules: Rules) {
        let unit = self.units.get_mut(&number).expect("a unit");
        self.disks.lose(unit, kept, rules);
        if is_noticed {
            unit.set_damaged();
        }
        if self.budget.damages + self.budget.unnoticed == 0 {
            self.disks.forget_records();
        }
        for index in 0..self.clients.len() {
            if self.clients[index].job.is_none() {
                self.go_on(index, rules);
            }
        }
    }

    /// A unit of the latest projection that has lost something.
    fn broken(&self) -> Option<UnitNumber> {
        let latest = self.latest()?;
        let broken = self.disks.losers().find(|member| latest.member(member.unit) == Some(**member));
        broken.map(|member| member.unit)
    }

    pub(crate) fn after(&self, action: Action, rules: Rules) -> Self {
        let mut next = self.clone();
        match action {
            Action::Serve(index, call) => {
                let outgoing = next.take(index, call);
                next.check_fill(index, &outgoing.request);
                let input = match next.serve(outgoing.to, outgoing.request) {
                    Some(reply) => Input::Reply { call, reply },
                    None => Input::Lost { call },
                };
                next.input(index, input, rules);
            }
            Action::GiveUp(index, call) => {
                let outgoing = next.take(index, call);
                next.budget.late -= 1;
                next.late.push((outgoing.to, outgoing.request));
                next.input(index, Input::Lost { call }, rules);
            }
            Action::Arrive(index) => {
                let (to, request) = next.late.remove(index);
                drop(next.serve(to, request));
            }
            Action::Elapse(index) => {
                next.clients[index].polled = next.epoch();
                next.clients[index].pause = None;
                next.input(index, Input::Elapsed, rules);
            }
            Action::UnitDies(unit) => {
                next.budget.unit_deaths -= 1;
                next.dead.insert(unit);
            }
            Action::UnitReturns(unit) => {
                next.budget.unit_returns -= 1;
                next.dead.remove(&unit);
            }
            Action::ClientDies(index) => {
                next.budget.client_deaths -= 1;
                let client = &mut next.clients[index];
                (client.job, client.done, client.pause) = (None, client.script.len(), None);
                // What it sent last may arrive or not.
                let sent = client.waiting.drain(..).map(|outgoing| (outgoing.to, outgoing.request));
                next.late.extend(sent);
            }
            Action::SequencerGoesBack => {
                next.budget.back -= 1;
                next.sequencer = next.earlier.clone();
            }
            Action::SequencerRestarts => {
                next.budget.restarts -= 1;
                next.sequencer = Sequencer::new(Instance(2));
            }
            Action::UnitIsDamaged(unit, kept) => {
                next.budget.damages -= 1;
                next.lose(unit, kept, true, rules);
            }
            Action::UnitIsCutShort(unit, kept) => {
                next.budget.unnoticed -= 1;
                next.lose(unit, kept, false, rules);
            }
        }
        next
    }

    /// Who settles fills what was given out, in the epoch in which he fills it or before, and nothing else.
    fn check_fill(&mut self, index: usize, request: &Request) {
        if let Request::Unit(request) = request
            && let UnitVerb::Fill { upto, .. } = request.verb
            && matches!(self.clients[index].job, Some(Job::Sweep(_)))
            && let Some(latest) = self.latest()
            && latest.epoch == request.epoch
        {
            let given = self.tokens.iter().filter(|token| token.epoch == latest.epoch).map(Token::end);
            if upto > given.fold(latest.tail, Position::max) {
                self.flaws.insert("what nobody was given was filled");
            }
        }
    }

    fn take(&mut self, index: usize, call: Call) -> Outgoing {
        let waiting = &mut self.clients[index].waiting;
        let at = waiting.iter().position(|outgoing| outgoing.call == call).expect("it waits for that");
        waiting.remove(at)
    }

    fn serve(&mut self, to: Node, request: Request) -> Option<Reply> {
        match (to, request) {
            (Node::Unit(number), Request::Unit(request)) => {
                if self.dead.contains(&number) {
                    return None;
                }
                let unit = self.units.get_mut(&number)?;
                let before = unit.clone();
                let mut records = Vec::new();
                let answer = unit.handle(request.clone(), &mut records);
                let reply = answer.load(|_| None);
                if before.member() == unit.member() && before.damaged() && !records.is_empty() {
                    self.flaws.insert("a damaged unit took something");
                }
                self.disks.remember(&before, unit, records);
                if self.disks.denies(&request, &reply) {
                    self.flaws.insert(DENIED);
                }
                let accepted = matches!(reply, UnitReply::Done | UnitReply::Runs(_) | UnitReply::Gap(..));
                let is_trim = matches!(request.verb, UnitVerb::Trim(_));
                if before.state().is_some_and(|state| accepted && !is_trim && request.epoch < state.epoch) {
                    self.flaws.insert("I4: a sealed epoch was served");
                }
                if before.member() == unit.member() {
                    let kept = |(first, end, id, _): (Position, Position, Option<EntryId>, _)| {
                        unit.written().any(|(f, e, i, _)| (f, e, i) == (first, end, id))
                    };
                    if !before.written().all(|(first, end, id, _)| kept((first, end, id, ()))) {
                        self.flaws.insert("I1: what was written changed");
                    }
                }
                if let UnitVerb::Write(run) = &request.verb {
                    let issued = |token: &Token| token.epoch == request.epoch && token.first == run.first();
                    if !self.tokens.iter().any(issued) {
                        self.flaws.insert("I7: a token was used in another epoch");
                    }
                }
                Some(Reply::Unit(reply))
            }
            (Node::Sequencer(_), Request::Sequencer(request)) => {
                let reply = self.sequencer.handle(&request);
                if let SequencerReply::Token(token) = reply
                    && !self.tokens.contains(&token)
                {
                    self.tokens.push(token);
                    self.tokens.sort_unstable();
                }
                Some(Reply::Sequencer(reply))
            }
            (Node::Store, Request::Store(request)) => {
                let before = self.latest().cloned();
                let reply = self.register.handle(&request);
                if let (StoreRequest::Install(next), StoreReply::Installed, Some(before)) =
                    (&request, &reply, before)
                {
                    self.installed(&before, next);
                }
                Some(Reply::Store(reply))
            }
            _ => None,
        }
    }

    fn installed(&mut self, before: &Projection, next: &Projection) {
        let stays = next.members();
        for chain in before.segments.iter().flat_map(|segment| &segment.chains) {
            // Sealed before it was chosen, for this epoch.
            let survives = chain.units.iter().any(|member| {
                let state = self.units[&member.unit].state();
                let is_sealed = state.is_some_and(|state| state.epoch >= next.epoch);
                stays.contains(member) && is_sealed && !self.disks.has_lost(*member)
            });
            if !survives {
                self.flaws.insert("I5: a chain was left without a sealed survivor");
            }
        }
        if self.acknowledged.values().any(|position| *position >= next.tail) {
            self.flaws.insert("I6: the tail lies before what was acknowledged");
        }
    }

    fn input(&mut self, index: usize, input: Input, rules: Rules) {
        let client = &mut self.clients[index];
        client.inputs += 1;
        let Some(job) = &mut client.job else { return };
        let mut out = Outbox::default();
        let outcome = job.step(input, &mut out);
        // What is not awaited any more has been answered, or was given up: the client asks one at a time, and
        // a seal's other answers are awaited.
        client.waiting.extend(out.sends);
        client.pause = out.pause.or(client.pause);
        if let Some(outcome) = outcome {
            client.job = None;
            client.waiting.clear();
            client.pause = None;
            client.done += 1;
            self.judge(index, outcome);
            self.go_on(index, rules);
        }
    }

    fn go_on(&mut self, index: usize, rules: Rules) {
        let end = self.acknowledged.values().map(|position| position.next()).max().unwrap_or(Position::ZERO);
        let is_first_there = self.acknowledged.values().any(|position| *position == Position(0));
        let blank = || Arc::new(Projection::blank(LogId(7), 1));
        let projection = self.latest().cloned().unwrap_or_else(blank);
        let broken = self.broken();
        let client = &mut self.clients[index];
        let Some(step) = client.script.get(client.done) else { return };
        if matches!(step, Step::Repair(_)) && broken.is_none() {
            return;
        }
        client.floor = end;
        client.is_first_there = is_first_there;
        client.job = Some(match step {
            Step::Append(text) => {
                let id = EntryId { client: client.id, sequence: client.done as u64 };
                let mut batch = Batch::new();
                batch.push(text.as_bytes());
                Job::Append(Append::new(projection, id, Arc::new(Entries::indivisible(batch)), rules), id)
            }
            Step::Tail => Job::Tail(Tail::new(projection, TailMode::Linearizable)),
            Step::Fill => Job::Fill(Fill::new(projection, Position(0), Position(1), Aim::Know)),
            Step::Read => Job::Read(Read::new(projection, Position(0), Position(1), 1, Position(0))),
            Step::ReadCommitted => {
                let committed = Position(u64::from(is_first_there));
                Job::Read(Read::new(projection, Position(0), Position(1), 1, committed))
            }
            Step::Sweep => Job::Sweep(Sweep::new(projection, Position(0))),
            Step::Reconfigure(change) => {
                Job::Reconfigure(Reconfigure::new(projection, change.clone(), rules))
            }
            Step::Repair(mending) => {
                let broken = broken.expect("it was looked for");
                let change = match mending {
                    Mending::Renew => Change::default(),
                    Mending::Remove => Change::remove(broken),
                    Mending::Replace(spare) => Change::replace(broken, *spare),
                };
                Job::Reconfigure(Reconfigure::new(projection, change, rules))
            }
        });
        self.input(index, Input::Start, rules);
    }

    fn judge(&mut self, index: usize, outcome: Outcome) {
        let floor = self.clients[index].floor;
        match outcome {
            Outcome::Append(AppendOutcome::Committed(appended), id) => {
                if appended.first < floor {
                    self.flaws.insert("an append lies before an earlier one");
                }
                if self.acknowledged.values().any(|position| *position == appended.first) {
                    self.flaws.insert("two entries were acknowledged at one position");
                }
                self.acknowledged.insert(id, appended.first);
                self.see(appended.first, Some(id));
            }
            Outcome::Tail(tail) if tail < floor => {
                self.flaws.insert("a tail lies before what was acknowledged");
            }
            Outcome::Fill(runs) => {
                for run in runs {
                    self.see(run.first(), run.id);
                }
            }
            Outcome::Read(ReadOutcome::Runs(runs)) => {
                for run in runs {
                    self.see(run.first(), run.id);
                }
            }
            Outcome::Read(ReadOutcome::Unwritten) if self.clients[index].is_first_there => {
                self.flaws.insert("a read missed what was acknowledged");
            }
            // That may be, while a unit that lost something is in the chain that is read.
            Outcome::Read(ReadOutcome::Corrupt(position)) if self.is_broken_at(position) => {}
            Outcome::Read(ReadOutcome::Trimmed(_) | ReadOutcome::Corrupt(_)) => {
                self.flaws.insert("a read found something lost");
            }
            Outcome::Append(..)
            | Outcome::Tail(_)
            | Outcome::Read(_)
            | Outcome::Sweep
            | Outcome::Reconfigure => {}
        }
    }

    fn see(&mut self, position: Position, id: Option<EntryId>) {
        if *self.seen.entry(position).or_insert(id) != id {
            self.flaws.insert("I8: a position was read with two values");
        }
    }

    /// Whether a unit of the chain of a position has lost something.
    fn is_broken_at(&self, position: Position) -> bool {
        let place = self.latest().and_then(|latest| latest.place(position));
        place.is_some_and(|place| place.chain.units.iter().any(|member| self.disks.has_lost(*member)))
    }

    /// Whether no unit that lost something said that nothing is written there.
    pub(crate) fn nothing_is_denied(&self) -> bool {
        !self.flaws.contains(DENIED)
    }

    /// Every unit of a chain has what the later ones have, and the head what those have that join, of those that lost
    /// nothing.
    pub(crate) fn chains_are_prefixes(&self) -> bool {
        let Some(latest) = self.latest() else { return true };
        latest.segments.iter().flat_map(|segment| &segment.chains).all(|chain| {
            let units = || chain.units.iter().filter(|member| !self.disks.has_lost(**member));
            let joining = chain.joining.iter().filter(|member| !self.disks.has_lost(**member));
            let joining = joining.filter_map(|joining| Some((units().next()?, joining)));
            units().zip(units().skip(1)).chain(joining).all(|(earlier, later)| {
                match (self.cells(*earlier), self.cells(*later)) {
                    (Some(earlier), Some(later)) => later.is_subset(&earlier),
                    _ => true,
                }
            })
        })
    }

    /// What a member has; `None` if its unit is not that member any more.
    fn cells(&self, member: Member) -> Option<BTreeSet<(Position, Position, Option<EntryId>)>> {
        let unit = &self.units[&member.unit];
        let cells = unit.written().map(|(first, end, id, _)| (first, end, id));
        (unit.member() == Some(member)).then(|| cells.collect())
    }

    /// Every acknowledged entry is on every unit of its chain that lost nothing, and there is one.
    pub(crate) fn acknowledged_are_there(&self) -> bool {
        let latest = self.latest().expect("there is a projection");
        self.acknowledged.iter().all(|(id, position)| {
            let place = latest.place(*position).expect("nothing is trimmed here");
            let mut whole =
                place.chain.units.iter().filter(|member| !self.disks.has_lost(**member)).peekable();
            whole.peek().is_some()
                && whole.all(|member| {
                    let unit = &self.units[&member.unit];
                    unit.written().any(|(first, _, found, _)| first == *position && found == Some(*id))
                })
        })
    }

    /// No entry is at two positions of the units that count.
    pub(crate) fn entries_are_there_once(&self) -> bool {
        let latest = self.latest().expect("there is a projection");
        let mut places: BTreeMap<EntryId, Position> = BTreeMap::new();
        latest.segments.iter().flat_map(|segment| &segment.chains).all(|chain| {
            // What the last unit has is committed.
            let unit = &self.units[&chain.last().unit];
            unit.written()
                .all(|(first, _, id, _)| id.is_none_or(|id| *places.entry(id).or_insert(first) == first))
        })
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.latest().map_or(Epoch::NONE, |latest| latest.epoch)
    }

    /// Whether all clients have done all that they were to do.
    pub(crate) fn is_over(&self) -> bool {
        self.clients.iter().all(|client| client.done == client.script.len())
    }
}

impl Client {
    const fn new(id: ClientId, script: Vec<Step>) -> Self {
        Self {
            id,
            script,
            done: 0,
            job: None,
            waiting: Vec::new(),
            pause: None,
            inputs: 0,
            polled: Epoch::NONE,
            floor: Position::ZERO,
            is_first_there: false,
        }
    }
}

impl Job {
    fn step(&mut self, input: Input, out: &mut Outbox) -> Option<Outcome> {
        match self {
            Self::Append(job, id) => job.step(input, out).map(|outcome| Outcome::Append(outcome, *id)),
            Self::Tail(job) => job.step(input, out).map(|found| Outcome::Tail(found.tail)),
            Self::Fill(job) => job.step(input, out).map(|filled| Outcome::Fill(filled.runs)),
            Self::Read(job) => job.step(input, out).map(Outcome::Read),
            Self::Sweep(job) => job.step(input, out).map(|_| Outcome::Sweep),
            Self::Reconfigure(job) => job.step(input, out).map(|_| Outcome::Reconfigure),
        }
    }
}
