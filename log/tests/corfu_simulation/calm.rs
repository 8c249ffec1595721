//! What comes after the storm: calm, in which everything must come to an end with those who are left, and the whole log
//! is read. Or, of units that buffer, no power anywhere, after which what was flushed must be there.

use mixlog_log::Position;
use mixlog_log::corfu::{
    AppendOutcome, Change, EntryId, Join, Member, Node, Read, ReadOutcome, Reconfigure, Reconfigured,
    Refusal, SequencerNumber, Sweep, Tail, TailMode, Transfer, UnitNumber,
};

use crate::client::{Job, Outcome, Role};
use crate::simulation::Simulation;
use crate::world::{Event, Kind, Weather};

/// How many events the calm may take. It takes a few hundred.
pub(crate) const CALM: u32 = 40_000;

/// How late a message can be, and some more.
const LATEST: u64 = 8000;

impl Simulation {
    /// All machines go down at once. Each unit that had everything before has what was flushed.
    pub(crate) fn black_out(&mut self) -> Result<(), String> {
        self.world.counts.add(Kind::Blackout);
        let latest = self.latest();
        let whole: Vec<Member> =
            latest.members().into_iter().filter(|member| self.world.is_whole(*member)).collect();
        for number in self.world.hosts.keys().copied().collect::<Vec<_>>() {
            self.world.cut_power(number);
        }
        let [flushed, others] = self.checks.by_flushes();
        for (id, position) in flushed {
            let units = &latest.place(position).expect("nobody trims it").chain.units;
            let units: Vec<&Member> = units.iter().filter(|member| whole.contains(member)).collect();
            if units.is_empty() {
                return Err(format!("no unit of the chain of {position} was whole"));
            }
            for member in units {
                let held = self.entry_held(*member, position);
                if held != Some(id) {
                    return Err(format!("{id:?} was flushed at {position}, and {member} has {held:?} there"));
                }
                self.world.counts.add(Kind::FlushedFound);
            }
        }
        for (_, position) in others {
            let units = &latest.place(position).expect("nobody trims it").chain.units;
            if units.iter().all(|member| self.entry_held(*member, position).is_none()) {
                self.world.counts.add(Kind::UnflushedGone);
            }
        }
        Ok(())
    }

    /// Which entry a unit holds at a position.
    fn entry_held(&self, member: Member, position: Position) -> Option<EntryId> {
        let unit = self.world.hosts[&member.unit].unit.as_ref()?;
        let (first, _, id, _) =
            unit.written().find(|(first, end, ..)| *first <= position && position < *end)?;
        let id = id.filter(|_| unit.member() == Some(member))?;
        Some(EntryId { sequence: id.sequence + position.since(first), ..id })
    }

    /// Nothing breaks any more, and nothing new begins; what began must end, and be found. Half of the times some roles
    /// never come back: those that went before what drivers sent last has arrived, after it, or both.
    pub(crate) fn calm(&mut self) -> Result<(), String> {
        self.storm = false;
        self.world.weather = Weather::CALM;
        self.world.cut.clear();
        for client in &mut self.clients {
            if client.role == Role::Driver {
                client.job = None;
                client.turn += 1;
            }
        }
        let (early, late) = match self.world.random.below(6) {
            3 => (true, false),
            4 => (false, true),
            5 => (true, true),
            _ => (false, false),
        };
        // A projection that is on its way may leave to a chain whom the latest one could do without.
        let is_known = !self.world.installs();
        if early && is_known {
            self.lose_for_good();
        }
        for number in self.world.hosts.keys().copied().collect::<Vec<_>>() {
            self.world.start_unit(number);
        }
        for number in self.world.sequencers.keys().copied().collect::<Vec<_>>() {
            self.world.start_sequencer(number);
        }
        // What drivers sent before they died still arrives, and may seal something.
        let settled = self.world.now + LATEST;
        self.world.after(LATEST, Event::Fault);
        while self.world.now < settled {
            self.next()?;
        }
        if late || early && !is_known {
            self.lose_for_good();
        }
        self.repair()?;
        let mut left = CALM;
        while self.clients.iter().any(|client| client.job.is_some()) {
            left -= 1;
            if left == 0 {
                let stuck: Vec<_> = self.clients.iter().filter_map(|client| client.job.as_ref()).collect();
                return Err(format!("these make no progress: {stuck:#?}"));
            }
            self.next()?;
        }
        for writer in 0..3 {
            // One who goes by an old projection may be given a position that is trimmed by now.
            self.clients[writer].projection = self.latest();
            let job = self.append(writer);
            match self.finish(writer, job)? {
                Outcome::Append(AppendOutcome::Committed(_), _) => {}
                Outcome::Append(AppendOutcome::NotCommitted(Refusal::Full(_)), _) => {}
                // A sequencer that went back gives out positions that are trimmed by now.
                Outcome::Append(AppendOutcome::Indeterminate(_), _) if self.back => {}
                other => return Err(format!("when all is well, an append ends with {other:?}")),
            }
        }
        self.read_all()
    }

    /// Some roles go and never come back: any units, as long as each chain keeps one that has everything, and one of
    /// the two sequencers. No projection may be on its way.
    fn lose_for_good(&mut self) {
        let latest = self.latest();
        let share = *self.world.random.pick(&[200, 500, 1000]);
        let units = self.world.hosts.keys().copied();
        let mut units: Vec<_> = units.filter(|unit| !self.world.is_gone(Node::Unit(*unit))).collect();
        while !units.is_empty() {
            let at = usize::try_from(self.world.random.below(units.len() as u64)).expect("an index");
            let unit = units.swap_remove(at);
            if self.world.random.per_mille(share) && self.chains_keep_another(unit) {
                self.world.lose(Node::Unit(unit));
                self.world.counts.add(match latest.member(unit) {
                    Some(member) if latest.joining().contains(&member) => Kind::JoiningUnitGone,
                    Some(_) => Kind::UnitGone,
                    None => Kind::SpareGone,
                });
            }
        }
        let sequencers = [1, 2].map(SequencerNumber);
        let is_one_gone = sequencers.iter().any(|number| self.world.is_gone(Node::Sequencer(*number)));
        if !is_one_gone && self.world.random.per_mille(500) {
            let number = *self.world.random.pick(&sequencers);
            self.world.lose(Node::Sequencer(number));
            if latest.sequencer.is_some_and(|(in_charge, _)| in_charge == number) {
                self.world.counts.add(Kind::SequencerInChargeGone);
            }
        }
    }

    /// What a monitor does, until all units of the projection are whole and the sequencer works.
    fn repair(&mut self) -> Result<(), String> {
        let driver = self.add(Role::Driver, self.latest());
        // Somebody may have been told of an epoch that nobody installed.
        let mut first = true;
        // Or a driver finds out only when it needs it.
        let mut knows_sequencer = self.world.random.per_mille(500);
        for _ in 0..24 {
            let latest = self.latest();
            let members = latest.members();
            let broken: Vec<UnitNumber> = members
                .iter()
                .filter(|member| !self.world.is_whole(**member))
                .map(|member| member.unit)
                .collect();
            let sealed = members.iter().any(|member| {
                let unit = self.world.hosts[&member.unit].unit.as_ref();
                unit.and_then(|unit| unit.state()).is_some_and(|state| state.epoch != latest.epoch)
            });
            let (number, instance) = latest.sequencer.expect("the log is not sealed");
            let is_gone = self.world.is_gone(Node::Sequencer(number));
            let sequencer = self.world.sequencers[&number].as_ref();
            let stale = is_gone || sequencer.is_none_or(|sequencer| sequencer.instance() != instance);
            let copied = std::mem::take(&mut self.clients[driver].copied);
            let mut change = if !copied.is_empty() {
                Change::copied(copied)
            } else if !broken.is_empty() {
                self.mend(&broken)
            } else if sealed || stale || first {
                Change::default()
            } else if !latest.joining().is_empty() {
                self.finish(driver, Job::Transfer(Transfer::new(latest)))?;
                continue;
            } else {
                return Ok(());
            };
            first = false;
            if is_gone && knows_sequencer {
                change.sequencer = Some(another(number));
            }
            let is_possible = !is_gone || std::mem::replace(&mut knows_sequencer, true);
            let job = Job::Reconfigure(Reconfigure::new(latest, change, self.world.rules));
            let outcome = self.finish(driver, job)?;
            let is_expected = match outcome {
                Outcome::Reconfigure(Reconfigured::Installed(_)) => is_possible,
                Outcome::Reconfigure(Reconfigured::NoSequencer(asked)) => !is_possible && asked == number,
                _ => false,
            };
            if !is_expected {
                return Err(format!("when all is calm, a change ends with {outcome:?}"));
            }
        }
        Err(format!("the cluster was not repaired: {}", self.latest()))
    }

    /// What to do about units that are broken: to name them all, or one of them, or nobody, as those that do not answer
    /// are left behind anyway; perhaps a spare takes the place of one.
    fn mend(&mut self, broken: &[UnitNumber]) -> Change {
        let latest = self.latest();
        let spares = self.world.hosts.keys().copied().filter(|unit| latest.member(*unit).is_none());
        let spares: Vec<_> = spares.filter(|unit| !self.world.is_gone(Node::Unit(*unit))).collect();
        let lost = match self.world.random.below(3) {
            0 => Vec::new(),
            1 => vec![broken[0]],
            _ => broken.to_vec(),
        };
        let mut joins = Vec::new();
        if !spares.is_empty() && self.world.random.per_mille(300) {
            joins.push(Join { beside: broken[0], unit: *self.world.random.pick(&spares) });
        }
        Change { lost, joins, ..Change::default() }
    }

    fn read_all(&mut self) -> Result<(), String> {
        let reader = self.add(Role::Reader, self.latest());
        let Outcome::Tail(found) =
            self.finish(reader, Job::Tail(Tail::new(self.latest(), TailMode::Linearizable)))?
        else {
            unreachable!("a tail was asked for")
        };
        let sweep = Sweep::new(self.latest(), found.trimmed);
        let Outcome::Sweep(swept) = self.finish(reader, Job::Sweep(sweep))? else {
            unreachable!("a sweep was asked for")
        };
        if swept.corrupt || swept.upto < found.tail {
            return Err(format!("of {found:?} only {swept:?} could be settled"));
        }
        // Of a trim that nobody finished, some units know, and others do not.
        let members = self.latest().members();
        let units = members.iter().filter_map(|member| self.world.hosts[&member.unit].unit.as_ref()?.state());
        let head = units.fold(found.trimmed, |head, state| head.max(state.trimmed));
        let mut at = found.trimmed;
        while at < found.tail {
            let read = Read::new(self.latest(), at, found.tail, 4, found.tail);
            match self.finish(reader, Job::Read(read))? {
                Outcome::Read(ReadOutcome::Runs(runs)) => at = runs.last().expect("runs").end(),
                Outcome::Read(ReadOutcome::Trimmed(before)) if before > at => at = before,
                // Nobody fills what the head of a chain has trimmed already.
                Outcome::Read(ReadOutcome::Unwritten) if at < head => at = head,
                other => return Err(format!("position {at} of {found:?} reads {other:?}")),
            }
        }
        self.replicas_agree(head, found.tail)?;
        self.checks.all_read(head, found.tail);
        self.verdict()
    }

    /// All units of a chain hold the same.
    fn replicas_agree(&self, head: Position, tail: Position) -> Result<(), String> {
        let latest = self.latest();
        let held = |member: &Member, position: Position| {
            let unit = self.world.hosts[&member.unit].unit.as_ref().expect("it was started");
            let mut written = unit.written();
            let cell = written.find(|(first, end, ..)| *first <= position && position < *end);
            cell.map(|(first, _, id, _)| id.map(|id| (first, id)))
        };
        for position in (head.0..tail.0).map(Position) {
            let units = &latest.place(position).expect("not trimmed").chain.units;
            let all: Vec<_> = units.iter().map(|member| held(member, position)).collect();
            if all.iter().any(|one| one.is_none() || *one != all[0]) {
                return Err(format!("position {position} is held as {all:?} by {units:?}"));
            }
        }
        Ok(())
    }
}

/// The other one of the two sequencers.
const fn another(number: SequencerNumber) -> SequencerNumber {
    SequencerNumber(3 - number.0)
}
