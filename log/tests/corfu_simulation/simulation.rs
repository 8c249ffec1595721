//! One simulation: a storm, in which everything breaks, and then what comes after it (`calm.rs`).

use std::collections::VecDeque;
use std::sync::Arc;

use mixlog_log::corfu::{
    Aim, Append, AppendOutcome, Appends, Change, ClientId, Entries, EntryId, Fill, Flush, Input, Join, Node,
    Outbox, Pause, Projection, Read, ReadOutcome, Reconfigure, Reconfigured, Refusal, Rules, SequencerNumber,
    Settle, Sweep, Tail, TailMode, Transfer, Transferred, Trim, UnitNumber, Window,
};
use mixlog_log::{Batch, Durability, LogId, Position};

use crate::calm::CALM;
use crate::checks::{Before, Checks};
use crate::client::{Appending, Client, Job, Outcome, Role, Stream};
use crate::random::Random;
use crate::world::{Address, Counts, Event, Kind, Sender, Weather, World};

/// How many events the storm lasts.
const STORM: u64 = 1500;
const TEXTS: [&str; 2] = ["a", "b"];
const LOG: LogId = LogId(7);

/// What a seed decides before anything happens.
struct Setting {
    chains: &'static [&'static [u32]],
    width: u32,
    quota: u64,
    weather: Weather,
    /// Whether sequencers go back to what they were.
    back: bool,
    /// Whether readers fill in order, as those of a log do, and nobody trims what is being written: then no batch of
    /// a client is given up because a later one is in the log.
    tidy: bool,
    /// One fault in so much time.
    faults: u64,
    /// Whether drivers seldom rest, and let those units join that were in the log before: soon after they left, so that
    /// what they have is of positions that are still being written.
    restless: bool,
}

impl Setting {
    fn draw(random: &mut Random) -> Self {
        let chains: [&[&[u32]]; 4] =
            [&[&[1, 2], &[3, 4]], &[&[1, 2, 3]], &[&[1, 2]], &[&[1, 2], &[3, 4], &[5, 6]]];
        Self {
            chains: *random.pick(&chains),
            width: u32::try_from(random.between(1, 5)).expect("a small number"),
            quota: if random.per_mille(200) { random.between(4, 12) } else { u64::MAX },
            weather: Weather {
                lost: *random.pick(&[0, 20, 100]),
                doubled: *random.pick(&[0, 50, 200]),
                late: *random.pick(&[0, 50, 300]),
            },
            back: random.per_mille(150),
            faults: *random.pick(&[300, 1000, 4000]),
            tidy: random.per_mille(500),
            restless: random.per_mille(300),
        }
    }
}

pub(crate) struct Simulation {
    pub(crate) world: World,
    pub(crate) clients: Vec<Client>,
    pub(crate) checks: Checks,
    pub(crate) back: bool,
    tidy: bool,
    faults: u64,
    restless: bool,
    buffered: bool,
    identities: u64,
    streams: u64,
    pub(crate) storm: bool,
}

/// Runs the simulation of a seed under these rules, with units that flush what they are written, or buffer it.
///
/// # Errors
/// What was wrong.
pub(crate) fn run(seed: u64, rules: Rules, durability: Durability) -> Result<Counts, String> {
    let mut random = Random::new(seed);
    let setting = Setting::draw(&mut random);
    let units: Vec<u32> = setting.chains.iter().flat_map(|chain| *chain).copied().chain([8, 9]).collect();
    let world = World::new(random, rules, &units, setting.quota, durability);
    let mut simulation = Simulation {
        world,
        clients: Vec::new(),
        checks: Checks::new(setting.back),
        back: setting.back,
        tidy: setting.tidy,
        faults: setting.faults,
        restless: setting.restless,
        buffered: durability == Durability::Buffered,
        identities: 0,
        streams: 0,
        storm: false,
    };
    simulation.begin(&setting)?;
    simulation.storm(setting.weather)?;
    if simulation.buffered && simulation.world.random.per_mille(700) {
        simulation.black_out()?;
    } else {
        simulation.calm()?;
    }
    Ok(simulation.world.counts)
}

impl Simulation {
    pub(crate) fn latest(&self) -> Arc<Projection> {
        Arc::clone(self.world.register.latest().expect("there is a projection"))
    }

    pub(crate) fn add(&mut self, role: Role, projection: Arc<Projection>) -> usize {
        self.identities += 1;
        let client = Client::new(ClientId(self.identities), role, projection, self.checks.before());
        self.clients.push(client);
        self.clients.len() - 1
    }

    /// The first projection.
    fn begin(&mut self, setting: &Setting) -> Result<(), String> {
        let blank = Arc::new(Projection::blank(LOG, setting.width));
        let chains = setting.chains.iter().map(|chain| chain.iter().copied().map(UnitNumber).collect());
        let change = Change { sequencer: Some(SequencerNumber(1)), ..Change::grow(chains.collect()) };
        let driver = self.add(Role::Driver, Arc::clone(&blank));
        let outcome = self.finish(driver, Job::Reconfigure(Reconfigure::new(blank, change, Rules::SOUND)))?;
        assert!(matches!(outcome, Outcome::Reconfigure(Reconfigured::Installed(_))), "{outcome:?}");
        self.clients.clear();
        Ok(())
    }

    fn storm(&mut self, weather: Weather) -> Result<(), String> {
        self.world.weather = weather;
        self.storm = true;
        let roles = [
            Role::Writer,
            Role::Writer,
            Role::Writer,
            Role::Reader,
            Role::Reader,
            Role::Janitor,
            if self.tidy { Role::Janitor } else { Role::Trimmer },
            Role::Driver,
            Role::Driver,
        ];
        let flushers = if self.buffered { 2 } else { 0 };
        for role in roles.into_iter().chain(vec![Role::Flusher; flushers]) {
            let client = self.add(role, self.latest());
            self.rest(client);
        }
        self.world.after(self.faults, Event::Fault);
        let events = if self.buffered { self.world.random.between(200, STORM) } else { STORM };
        for _ in 0..events {
            self.next()?;
        }
        Ok(())
    }

    /// Does one operation to its end.
    pub(crate) fn finish(&mut self, client: usize, job: Job) -> Result<Outcome, String> {
        self.clients[client].projection = self.latest_or_own(client);
        let mut outcome = self.start(client, job);
        for _ in 0..CALM {
            if let Some(outcome) = outcome {
                self.verdict()?;
                return Ok(outcome);
            }
            let event = self.world.next().ok_or("nothing happens any more")?;
            outcome = self.happen(event, Some(client));
            self.verdict()?;
        }
        Err(format!("it makes no progress: {:#?}", self.clients[client].job))
    }

    fn latest_or_own(&self, client: usize) -> Arc<Projection> {
        self.world.register.latest().map_or_else(|| Arc::clone(&self.clients[client].projection), Arc::clone)
    }

    pub(crate) fn verdict(&self) -> Result<(), String> {
        match self.checks.violation().or(self.world.violation.as_deref()) {
            Some(violation) => Err(violation.to_owned()),
            None => Ok(()),
        }
    }

    pub(crate) fn next(&mut self) -> Result<(), String> {
        let event = self.world.next().ok_or("nothing happens any more")?;
        self.happen(event, None);
        self.verdict()
    }

    /// The outcome, if it is that of `watched`.
    fn happen(&mut self, event: Event, watched: Option<usize>) -> Option<Outcome> {
        match event {
            Event::Request { from, to, request } => self.world.serve(from, to, request),
            Event::Reply { to, reply } => {
                return self.input(to, Input::Reply { call: to.call, reply }, watched);
            }
            Event::GivenUp(to) => return self.input(to, Input::Lost { call: to.call }, watched),
            Event::Elapsed { client, turn, pause } => {
                if self.clients[client].turn == turn && self.clients[client].pause == pause {
                    return self.step(client, Input::Elapsed, watched);
                }
            }
            Event::Begin(client) => {
                if self.storm && self.clients[client].job.is_none() {
                    match self.choose(client) {
                        Some(job) => drop(self.start(client, job)),
                        None => self.rest(client),
                    }
                }
            }
            Event::Flushed { unit, life, upto } => self.world.flushed(unit, life, upto),
            Event::UnitStarts(number) => self.world.start_unit(number),
            Event::SequencerStarts(number) => self.world.start_sequencer(number),
            Event::CutEnds(from, to) => drop(self.world.cut.remove(&(from, to))),
            Event::Fault => {
                if self.storm {
                    self.fault();
                    let next = self.world.random.between(1, 2 * self.faults);
                    self.world.after(next, Event::Fault);
                }
            }
        }
        None
    }

    fn rest(&mut self, client: usize) {
        let pause = match self.clients[client].role {
            Role::Writer | Role::Reader => self.world.random.between(1, 400),
            Role::Driver if self.restless => self.world.random.between(1, 500),
            Role::Janitor | Role::Trimmer | Role::Flusher | Role::Driver => {
                self.world.random.between(1, 5000)
            }
        };
        self.world.after(pause, Event::Begin(client));
    }

    fn start(&mut self, client: usize, job: Job) -> Option<Outcome> {
        if matches!(job, Job::Reconfigure(_)) && self.reconfiguring() {
            self.world.counts.add(Kind::TwoDrivers);
        }
        let begun = &mut self.clients[client];
        begun.turn += 1;
        begun.job = Some(job);
        begun.before = self.checks.before();
        self.step(client, Input::Start, Some(client))
    }

    fn reconfiguring(&self) -> bool {
        self.clients.iter().any(|client| matches!(client.job, Some(Job::Reconfigure(_))))
    }

    fn input(&mut self, to: Sender, input: Input, watched: Option<usize>) -> Option<Outcome> {
        if self.clients.get(to.client).is_none_or(|client| client.turn != to.turn) {
            return None;
        }
        self.step(to.client, input, watched)
    }

    fn step(&mut self, index: usize, input: Input, watched: Option<usize>) -> Option<Outcome> {
        let mut out = Outbox::default();
        let client = &mut self.clients[index];
        let (ended, outcome) = client.step(input, self.checks.before(), &mut out);
        let turn = client.turn;
        if outcome.is_some() {
            client.turn += 1;
        }
        for outgoing in out.sends {
            let from = Sender { client: index, turn, call: outgoing.call };
            self.world.request(from, outgoing.to, outgoing.request);
        }
        if let Some(pause) = out.pause {
            let (low, high) = match pause {
                Pause::Retry => (50, 800),
                Pause::Hole => (200, 2000),
                Pause::Silence => (200, 1500),
            };
            let delay = self.world.random.between(low, high);
            self.clients[index].pause += 1;
            let pause = self.clients[index].pause;
            self.world.after(delay, Event::Elapsed { client: index, turn, pause });
        }
        if matches!(&self.clients[index].job, Some(Job::Stream(stream)) if stream.appends.under_way() > 1) {
            self.world.counts.add(Kind::SeveralUnderWay);
        }
        for (outcome, batch, before) in ended {
            self.judge_append(&outcome, batch, before);
        }
        let outcome = outcome?;
        self.judge(index, &outcome);
        if watched == Some(index) && !self.storm {
            return Some(outcome);
        }
        self.rest(index);
        None
    }

    /// What came of a batch, or of its first part that was not told of before.
    fn judge_append(&mut self, outcome: &AppendOutcome, batch: Appending, before: Before) {
        let Appending { id, total } = batch;
        let counts = &mut self.world.counts;
        match outcome {
            AppendOutcome::Committed(appended) => {
                counts.add(Kind::Acknowledged);
                let count = u64::from(appended.count);
                if count < total {
                    counts.add(Kind::AcknowledgedInPart);
                }
                self.checks.acknowledged(id, appended.first, count, total, before);
            }
            AppendOutcome::NotCommitted(refusal) => {
                counts.add(Kind::NotCommitted);
                if *refusal == Refusal::Overtaken {
                    counts.add(Kind::BatchOvertaken);
                    if self.tidy && !self.back {
                        self.checks.violate(format!("{id:?} was overtaken though everybody fills in order"));
                    }
                }
                self.checks.refused(id, total);
            }
            AppendOutcome::Indeterminate(_) => counts.add(Kind::Indeterminate),
        }
    }

    /// What an outcome must be, and what its client learns of it.
    fn judge(&mut self, index: usize, outcome: &Outcome) {
        let before = self.clients[index].before;
        let counts = &mut self.world.counts;
        match outcome {
            Outcome::Append(outcome, batch) => self.judge_append(outcome, *batch, before),
            Outcome::Stream => {}
            Outcome::Read(ReadOutcome::Runs(runs)) => {
                if runs.iter().any(|run| run.id.is_none()) {
                    counts.add(Kind::JunkRead);
                }
                self.checks.read(runs);
            }
            Outcome::Read(ReadOutcome::Trimmed(before)) => self.checks.trimmed(*before),
            Outcome::Read(ReadOutcome::Unwritten | ReadOutcome::Corrupt(_)) => {}
            Outcome::Fill(filled) => {
                if filled.runs.iter().any(|run| run.id.is_none()) {
                    counts.add(Kind::HoleFilled);
                }
                self.checks.read(&filled.runs);
                self.checks.trimmed(filled.trimmed);
            }
            Outcome::Settle(settled) => {
                if settled.corrupt {
                    counts.add(Kind::DamageFound);
                }
            }
            Outcome::Tail(found) => {
                self.checks.tail(found.tail, found.trimmed, before);
                self.clients[index].tail = Some(*found);
            }
            Outcome::Sweep(settled) => self.clients[index].swept = settled.upto,
            Outcome::Trim(trimmed) => {
                counts.add(Kind::Trimmed);
                self.checks.trim_done(*trimmed);
            }
            Outcome::Flush(began) => {
                counts.add(Kind::Flushed);
                if self.world.register.latest().is_some_and(|latest| latest.epoch > *began) {
                    counts.add(Kind::FlushedAnew);
                }
                self.checks.flushed(before);
            }
            Outcome::Reconfigure(Reconfigured::Installed(_)) => counts.add(Kind::Reconfigured),
            Outcome::Reconfigure(Reconfigured::Overtaken(_)) => counts.add(Kind::DriverOvertaken),
            Outcome::Reconfigure(_) => {}
            Outcome::Transfer(Transferred::Copied(members)) => {
                counts.add(Kind::UnitTakenIn);
                self.clients[index].copied.clone_from(members);
            }
            Outcome::Transfer(Transferred::Corrupt(_)) => {}
        }
    }

    /// A batch of a stream, as what it is to be judged, and as what is appended.
    fn batch(&mut self, index: usize) -> (Appending, Arc<Entries>) {
        let client = &mut self.clients[index];
        let total = self.world.random.between(1, 3);
        let id = EntryId { client: client.id, sequence: client.sequence };
        client.sequence += total;
        let mut batch = Batch::new();
        for n in 0..total {
            let text = self.world.random.pick(&TEXTS);
            batch.push(text.as_bytes());
            self.checks.appends(EntryId { sequence: id.sequence + n, ..id }, self.streams, text);
        }
        // What must stay together has to fit into a stripe.
        let cuts = (1..=u32::try_from(total).expect("a small number")).collect();
        (Appending { id, total }, Arc::new(Entries::new(batch, cuts)))
    }

    pub(crate) fn append(&mut self, index: usize) -> Job {
        self.streams += 1;
        let (batch, entries) = self.batch(index);
        let projection = Arc::clone(&self.clients[index].projection);
        Job::Append(Append::new(projection, batch.id, entries, self.world.rules), batch)
    }

    fn stream(&mut self, index: usize) -> Job {
        self.streams += 1;
        let batches = self.world.random.between(2, 8);
        let left = (0..batches).map(|_| self.batch(index)).collect();
        let runs = usize::try_from(self.world.random.between(2, 5)).expect("a small number");
        let window = Window { runs, bytes: usize::MAX };
        let projection = Arc::clone(&self.clients[index].projection);
        let appends = Appends::new(projection, window, self.world.rules);
        Job::Stream(Box::new(Stream { appends, left, offered: VecDeque::new(), ended: Vec::new() }))
    }

    /// What a client does next.
    fn choose(&mut self, index: usize) -> Option<Job> {
        if self.world.random.per_mille(600) {
            self.clients[index].projection = self.latest();
        }
        let projection = Arc::clone(&self.clients[index].projection);
        let end = self.checks.end();
        Some(match self.clients[index].role {
            Role::Writer if self.world.random.per_mille(500) => self.stream(index),
            Role::Writer => self.append(index),
            Role::Reader => match self.clients[index].tail.take() {
                Some(found) if found.trimmed < found.tail => {
                    // Everything before a linearizable tail may be filled.
                    let from = Position(self.world.random.between(found.trimmed.0, found.tail.0 - 1));
                    let upto = found.tail.min(from.plus(self.world.random.between(1, 4)));
                    // Who fills in order begins where he knows that everything is committed.
                    let begin = if self.tidy { found.trimmed } else { from };
                    match self.world.random.below(4) {
                        0 => Job::Settle(Settle::new(Arc::clone(&projection), begin, upto, projection.epoch)),
                        1 => Job::Fill(Fill::new(projection, begin, upto, Aim::Know)),
                        _ => {
                            // What a later epoch has committed is not on units that it left behind.
                            let known = projection.epoch >= found.epoch;
                            let committed = if known { found.committed } else { Position::ZERO };
                            Job::Read(Read::new(projection, from, upto, 2, committed))
                        }
                    }
                }
                _ => Job::Tail(Tail::new(projection, TailMode::Linearizable)),
            },
            Role::Janitor => Job::Sweep(Sweep::new(projection, self.clients[index].swept)),
            Role::Trimmer => {
                let before = Position(self.world.random.below(end.0 + 1));
                self.checks.trims(before);
                Job::Trim(Trim::new(projection, before), before)
            }
            Role::Flusher => {
                let epoch = projection.epoch;
                Job::Flush(Flush::new(projection), epoch)
            }
            Role::Driver => return self.drive(index, projection),
        })
    }

    fn drive(&mut self, index: usize, projection: Arc<Projection>) -> Option<Job> {
        let copied = std::mem::take(&mut self.clients[index].copied);
        let rules = self.world.rules;
        if !copied.is_empty() {
            return Some(Job::Reconfigure(Reconfigure::new(projection, Change::copied(copied), rules)));
        }
        if !projection.joining().is_empty() && self.world.random.per_mille(700) {
            return Some(Job::Transfer(Transfer::new(projection)));
        }
        let members = projection.members();
        let back =
            |unit: &UnitNumber| self.world.hosts[unit].unit.as_ref().is_some_and(|unit| unit.bytes() > 0);
        let mut spares: Vec<UnitNumber> =
            self.world.hosts.keys().filter(|unit| projection.member(**unit).is_none()).copied().collect();
        if self.restless && spares.iter().any(back) {
            spares.retain(back);
        }
        let broken = members.iter().find(|member| !self.world.is_whole(**member)).copied();
        let member = broken.unwrap_or_else(|| *self.world.random.pick(&members));
        let survives = projection.survives(|unit| unit == member.unit);
        let spare = (!spares.is_empty()).then(|| *self.world.random.pick(&spares));
        let change = match (self.world.random.below(8), spare) {
            (0..4, Some(spare)) if survives => Change::replace(member.unit, spare),
            (4, _) if survives => Change::remove(member.unit),
            (5 | 6, Some(spare)) => {
                Change { joins: vec![Join { beside: member.unit, unit: spare }], ..Change::default() }
            }
            (7, _) => Change::sequencer(SequencerNumber(
                u32::try_from(self.world.random.between(1, 2)).expect("1 or 2"),
            )),
            _ => Change::default(),
        };
        if change.joins.iter().any(|join| back(&join.unit)) {
            self.world.counts.add(Kind::UnitBack);
        }
        Some(Job::Reconfigure(Reconfigure::new(projection, change, rules)))
    }

    /// Something breaks.
    fn fault(&mut self) {
        let units: Vec<UnitNumber> = self.world.hosts.keys().copied().collect();
        let unit = *self.world.random.pick(&units);
        let number = SequencerNumber(u32::try_from(self.world.random.between(1, 2)).expect("1 or 2"));
        let down = self.world.random.between(50, 6000);
        match self.world.random.below(10) {
            0..3 => self.world.stop_unit(unit, down),
            3 => self.world.stop_sequencer(number, down),
            4 | 5 => self.crash_client(),
            6 | 7 => self.cut(unit, number, down),
            8 if self.back => self.world.turn_sequencer_back(number),
            _ if self.may_be_destroyed(unit) => {
                if self.buffered && self.world.random.per_mille(500) {
                    self.world.counts.add(Kind::PowerCut);
                    self.world.cut_power(unit);
                } else if self.world.random.per_mille(500) {
                    self.world.wipe(unit);
                } else {
                    self.world.flip(unit);
                }
            }
            _ => {}
        }
    }

    /// A chain survives while one of its units does. While a projection is being made, nobody knows whom it
    /// will leave to a chain: a unit that was sealed may be the only one.
    fn may_be_destroyed(&self, unit: UnitNumber) -> bool {
        !self.reconfiguring() && !self.world.installs() && self.chains_keep_another(unit)
    }

    /// Whether each chain of the latest projection in which this unit stands or joins has another one that is whole.
    pub(crate) fn chains_keep_another(&self, unit: UnitNumber) -> bool {
        let latest = self.latest();
        let chains = latest.segments.iter().flat_map(|segment| &segment.chains);
        chains
            .filter(|chain| chain.members().any(|member| member.unit == unit))
            .all(|chain| chain.units.iter().any(|other| other.unit != unit && self.world.is_whole(*other)))
    }

    /// A client dies, with what it was doing, and another one begins.
    fn crash_client(&mut self) {
        let index = usize::try_from(self.world.random.below(self.clients.len() as u64)).expect("an index");
        self.identities += 1;
        let before = self.checks.before();
        let latest = self.latest();
        let client = &mut self.clients[index];
        if client.job.is_some() {
            self.world.counts.add(match client.job {
                Some(Job::Reconfigure(_) | Job::Transfer(_)) => Kind::DriverCrashed,
                _ => Kind::ClientCrashed,
            });
        }
        let (role, turn, pause) = (client.role, client.turn + 1, client.pause);
        *client = Client::new(ClientId(self.identities), role, latest, before);
        (client.turn, client.pause) = (turn, pause);
        self.rest(index);
    }

    /// Cuts one link, or all of a role or a client, in one direction or both.
    fn cut(&mut self, unit: UnitNumber, number: SequencerNumber, length: u64) {
        let client = usize::try_from(self.world.random.below(self.clients.len() as u64)).expect("an index");
        let role = match self.world.random.below(5) {
            0 => Node::Store,
            1 => Node::Sequencer(number),
            _ => Node::Unit(unit),
        };
        let whole_role = self.world.random.per_mille(400);
        let clients: Vec<usize> = if whole_role { (0..self.clients.len()).collect() } else { vec![client] };
        let direction = self.world.random.below(3);
        for client in clients {
            let (client, role) = (Address::Client(client), Address::Role(role));
            for (from, to, skipped) in [(client, role, 1), (role, client, 2)] {
                if direction != skipped && self.world.cut.insert((from, to)) {
                    self.world.after(length, Event::CutEnds(from, to));
                }
            }
        }
    }
}
