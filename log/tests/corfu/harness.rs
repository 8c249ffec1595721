//! Roles without threads, and operations that are run against them one request at a time: every test says
//! itself what happens in which order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mixlog_log::corfu::{
    Append, AppendOutcome, Appended, Change, ClientId, Entries, EntryId, Epoch, Fill, Input, Instance,
    Limits, Member, Node, Operation, Outbox, Outgoing, Pause, Projection, Read, ReadOutcome, Reconfigure,
    Reconfigured, Record, Register, Reply, Request, Rules, Run, Sequencer, SequencerNumber, Transfer,
    Transferred, Unit, UnitNumber, UnitReply, UnitRequest, UnitVerb,
};
use mixlog_log::{Batch, Block, Entry, LogId, Position};

pub(crate) const SEQUENCER: SequencerNumber = SequencerNumber(1);

/// The roles of a cluster.
#[derive(Clone)]
pub(crate) struct Net {
    pub(crate) units: BTreeMap<UnitNumber, Unit>,
    /// What each unit has to remember: what it is made of again.
    pub(crate) records: BTreeMap<UnitNumber, Vec<Record>>,
    pub(crate) sequencers: BTreeMap<SequencerNumber, Sequencer>,
    pub(crate) register: Register,
    /// Who answers nothing.
    pub(crate) dead: BTreeSet<Node>,
}

pub(crate) fn unit(number: u32) -> UnitNumber {
    UnitNumber(number)
}

pub(crate) fn node(number: u32) -> Node {
    Node::Unit(unit(number))
}

/// Founds log `log` on these chains.
pub(crate) fn found(log: u128, chains: &[&[u32]], width: u32) -> Driven<Reconfigure> {
    let chains = chains.iter().map(|chain| chain.iter().copied().map(unit).collect()).collect();
    let change = Change { sequencer: Some(SEQUENCER), ..Change::grow(chains) };
    let blank = Arc::new(Projection::blank(LogId(log), width));
    Driven::new(Reconfigure::new(blank, change, Rules::SOUND))
}

impl Net {
    /// A cluster of `chains` with stripes of `width` positions; unit 9 is a spare.
    pub(crate) fn new(chains: &[&[u32]], width: u32) -> Self {
        let mut net = Self::unfounded(chains);
        let made = found(7, chains, width).run(&mut net);
        assert!(matches!(made, Reconfigured::Installed(_)), "{made:?}");
        net
    }

    /// The same units, of no log yet.
    pub(crate) fn unfounded(chains: &[&[u32]]) -> Self {
        let mut net = Self {
            units: BTreeMap::new(),
            records: BTreeMap::new(),
            sequencers: BTreeMap::from([(SEQUENCER, Sequencer::new(Instance(1)))]),
            register: Register::default(),
            dead: BTreeSet::new(),
        };
        for number in chains.iter().flat_map(|chain| chain.iter()).chain([&9]) {
            net.units.insert(unit(*number), Unit::new(unit(*number), Limits::NONE, Rules::SOUND));
        }
        net
    }

    pub(crate) fn latest(&self) -> Arc<Projection> {
        Arc::clone(self.register.latest().expect("a cluster has a projection"))
    }

    pub(crate) fn serve(&mut self, to: Node, request: Request) -> Option<Reply> {
        if self.dead.contains(&to) {
            return None;
        }
        match (to, request) {
            (Node::Unit(number), Request::Unit(request)) => {
                let records = self.records.entry(number).or_default();
                let answer = self.units.get_mut(&number)?.handle(request, records);
                Some(Reply::Unit(answer.load(|_| None)))
            }
            (Node::Sequencer(number), Request::Sequencer(request)) => {
                Some(Reply::Sequencer(self.sequencers.get_mut(&number)?.handle(&request)))
            }
            (Node::Store, Request::Store(request)) => Some(Reply::Store(self.register.handle(&request))),
            _ => None,
        }
    }

    pub(crate) fn ask(&mut self, member: Member, epoch: Epoch, verb: UnitVerb) -> UnitReply {
        let request = Request::Unit(UnitRequest { epoch, member, verb });
        match self.serve(Node::Unit(member.unit), request) {
            Some(Reply::Unit(reply)) => reply,
            other => panic!("{other:?}"),
        }
    }

    /// Ends every process, and starts it again: units have their records, sequencers have nothing.
    pub(crate) fn restart(&mut self) {
        for (number, unit) in &mut self.units {
            *unit = Unit::new(*number, Limits::NONE, Rules::SOUND);
            let records = self.records.get(number).into_iter().flatten();
            records.for_each(|record| unit.replay(record.clone(), None));
        }
        for (instance, sequencer) in (100..).zip(self.sequencers.values_mut()) {
            *sequencer = Sequencer::new(Instance(instance));
        }
    }

    pub(crate) fn kill(&mut self, number: u32) {
        self.dead.insert(node(number));
    }

    pub(crate) fn reconfigure(&mut self, change: Change) -> Arc<Projection> {
        match Driven::new(Reconfigure::new(self.latest(), change, Rules::SOUND)).run(self) {
            Reconfigured::Installed(latest) => latest,
            other => panic!("{other:?}"),
        }
    }

    /// Copies to all units that join, and takes them into their chains.
    pub(crate) fn transfer(&mut self) {
        match Driven::new(Transfer::new(self.latest())).run(self) {
            Transferred::Copied(members) => drop(self.reconfigure(Change::copied(members))),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn append(&mut self, client: u64, sequence: u64, entries: &[&str]) -> Appended {
        let append = append(self.latest(), client, sequence, entries);
        committed(&Driven::new(append).run(self))
    }

    pub(crate) fn read(&mut self, position: u64) -> ReadOutcome {
        let (from, upto) = (Position(position), Position(position + 1));
        Driven::new(Read::new(self.latest(), from, upto, 0, Position::ZERO)).run(self)
    }

    /// The entry at a position; `None` for junk.
    pub(crate) fn entry(&mut self, position: u64) -> Option<String> {
        match self.read(position) {
            ReadOutcome::Runs(runs) => text_at(&runs, position),
            other => panic!("position {position}: {other:?}"),
        }
    }

    pub(crate) fn fill(&mut self, from: u64, upto: u64) -> Vec<Run> {
        let aim = mixlog_log::corfu::Aim::Know;
        let fill = Fill::new(self.latest(), Position(from), Position(upto), aim);
        Driven::new(fill).run(self).runs
    }

    /// What a unit has at a position, whatever others have.
    pub(crate) fn held(&self, number: u32, position: u64) -> Held {
        let position = Position(position);
        let unit = &self.units[&unit(number)];
        if unit.state().is_some_and(|state| position < state.trimmed) {
            return Held::Trimmed;
        }
        for (first, end, id, block) in unit.written() {
            if first <= position && position < end {
                let Some(id) = id else { return Held::Junk };
                let bytes = block.and_then(|block| block.get(position));
                let Some(Entry::Data(bytes)) = bytes else { panic!("data is in memory here") };
                return Held::Data(id.client, String::from_utf8(bytes.to_vec()).unwrap());
            }
        }
        Held::Unwritten
    }
}

/// What a unit has at a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Unwritten,
    Junk,
    Trimmed,
    Data(ClientId, String),
}

pub(crate) fn text_at(runs: &[Run], position: u64) -> Option<String> {
    let position = Position(position);
    let entry = runs.iter().find_map(|run| run.block.get(position)).expect("the runs hold the position");
    match entry {
        Entry::Data(bytes) => Some(String::from_utf8(bytes.to_vec()).unwrap()),
        Entry::Junk => None,
    }
}

pub(crate) fn batch(entries: &[&str]) -> Batch {
    let mut batch = Batch::new();
    entries.iter().for_each(|entry| batch.push(entry.as_bytes()));
    batch
}

pub(crate) fn run(client: u64, first: u64, entries: &[&str]) -> Run {
    let id = EntryId { client: ClientId(client), sequence: 0 };
    Run::data(id, Arc::new(Block::of(Position(first), batch(entries))))
}

pub(crate) fn append(projection: Arc<Projection>, client: u64, sequence: u64, entries: &[&str]) -> Append {
    let id = EntryId { client: ClientId(client), sequence };
    Append::new(projection, id, Arc::new(Entries::indivisible(batch(entries))), Rules::SOUND)
}

pub(crate) fn committed(outcome: &AppendOutcome) -> Appended {
    match outcome {
        AppendOutcome::Committed(appended) => *appended,
        other => panic!("{other:?}"),
    }
}

/// An operation under way.
#[derive(Clone)]
pub(crate) struct Driven<O: Operation> {
    operation: O,
    requests: VecDeque<Outgoing>,
    pause: Option<Pause>,
    outcome: Option<O::Outcome>,
    steps: usize,
}

impl<O: Operation> Driven<O> {
    pub(crate) fn new(operation: O) -> Self {
        let mut driven = Self { operation, requests: VecDeque::new(), pause: None, outcome: None, steps: 0 };
        driven.input(Input::Start);
        driven
    }

    pub(crate) fn input(&mut self, input: Input) {
        if self.outcome.is_some() {
            return;
        }
        let mut out = Outbox::default();
        self.outcome = self.operation.step(input, &mut out);
        self.requests.extend(out.sends);
        self.pause = out.pause.or(self.pause);
    }

    pub(crate) const fn operation(&self) -> &O {
        &self.operation
    }

    /// The request that is served next.
    pub(crate) fn next(&self) -> Option<&Outgoing> {
        self.requests.front()
    }

    /// Takes that request away, to be answered otherwise.
    pub(crate) fn pop(&mut self) -> Outgoing {
        self.requests.pop_front().expect("a request")
    }

    pub(crate) fn is_done(&self) -> bool {
        self.outcome.is_some()
    }

    /// Serves the next request and delivers its answer; without a request, ends the pause. False when it is
    /// done.
    pub(crate) fn step(&mut self, net: &mut Net) -> bool {
        if self.outcome.is_some() {
            return false;
        }
        self.steps += 1;
        assert!(self.steps < 10_000, "it makes no progress; next: {:?}", self.requests.front());
        match self.requests.pop_front() {
            Some(Outgoing { call, to, request }) => match net.serve(to, request) {
                Some(reply) => self.input(Input::Reply { call, reply }),
                None => self.input(Input::Lost { call }),
            },
            None => {
                assert!(self.pause.take().is_some(), "it waits for nothing");
                self.input(Input::Elapsed);
            }
        }
        true
    }

    /// Serves the next request, whose answer is lost.
    pub(crate) fn step_answer_lost(&mut self, net: &mut Net) {
        let Outgoing { call, to, request } = self.requests.pop_front().expect("a request");
        drop(net.serve(to, request));
        self.input(Input::Lost { call });
    }

    /// Takes steps until the next request is one for which `stop` is true.
    pub(crate) fn until(&mut self, net: &mut Net, stop: impl Fn(&Outgoing) -> bool) {
        while !self.next().is_some_and(&stop) {
            assert!(self.step(net), "it is done before");
        }
    }

    /// Takes steps until the next request goes to this unit.
    pub(crate) fn until_unit(&mut self, net: &mut Net, number: u32) {
        self.until(net, |outgoing| outgoing.to == node(number));
    }

    pub(crate) fn run(&mut self, net: &mut Net) -> O::Outcome {
        while self.step(net) {}
        self.outcome.take().expect("it is done")
    }
}
