//! YCSB as the runner sees it.

use std::marker::PhantomData;
use std::sync::Arc;

use mixlog_engine::{Builder, Engine, Snapshot, SubmitError, Ticket, TicketError};

use super::audit::{self, Changes};
use super::inserts::Inserts;
use super::load::{LoadPopulation, LoadRecords, POPULATION, Population};
use super::operate::{Action, Operate, Operation, Operations};
use super::record::{FIELDS, Record, is_valid_size, key_of};
use crate::check::Check;
use crate::footprints::{Exact, Footprints};
use crate::random::Rng;
use crate::workload::{Client, DriveError, Loader, Observed, Settled, Workload};
use crate::zipf::{Distribution, Latest, YCSB_THETA};

/// Which of YCSB's core workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Half reads, half updates.
    A,
    /// 95 % reads, 5 % updates.
    B,
    /// Reads only.
    C,
    /// 95 % reads of the latest records, 5 % inserts.
    D,
    /// 95 % scans of up to 100 records, 5 % inserts.
    E,
    /// Half reads, half read-modify-writes.
    F,
}

impl Mix {
    const fn name(self) -> &'static str {
        match self {
            Self::A => "ycsb-a",
            Self::B => "ycsb-b",
            Self::C => "ycsb-c",
            Self::D => "ycsb-d",
            Self::E => "ycsb-e",
            Self::F => "ycsb-f",
        }
    }

    /// Whether records are inserted.
    const fn grows(self) -> bool {
        matches!(self, Self::D | Self::E)
    }

    /// Whether the next operation is an insert.
    fn inserts(self, rng: &mut Rng) -> bool {
        self.grows() && rng.percent(5)
    }

    /// What is done to a record that is there.
    fn action(self, rng: &mut Rng) -> Action {
        if matches!(self, Self::E) {
            return Action::Scan(1 + rng.below(LONGEST_SCAN) as u32);
        }
        let reads = match self {
            Self::A | Self::F => 50,
            Self::B => 95,
            Self::C | Self::D | Self::E => 100,
        };
        if rng.percent(reads) {
            return Action::Read;
        }
        let field = rng.below(FIELDS as u64) as u8;
        if matches!(self, Self::F) { Action::ReadModifyWrite(field) } else { Action::Update(field) }
    }
}

/// YCSB's `maxscanlength`; lengths are uniform.
const LONGEST_SCAN: u64 = 100;

/// How YCSB runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Which workload.
    pub mix: Mix,
    /// The number of records, at least one.
    pub records: u64,
    /// Bytes per record: a multiple of ten, at least 50. YCSB's own is 1,000.
    pub value_size: u32,
    /// Operations per transaction, 1 to 65,536. YCSB's own is one.
    pub operations: u32,
    /// Skew, from 0 (uniform) to below 1. YCSB's own is 0.99.
    pub theta: f64,
}

/// More would not fit an entry of the log.
const OPERATIONS_MAX: u32 = 1 << 16;

impl Config {
    /// YCSB's own defaults over a million records.
    #[must_use]
    pub const fn new(mix: Mix) -> Self {
        Self { mix, records: 1_000_000, value_size: 1_000, operations: 1, theta: YCSB_THETA }
    }

    /// What is wrong with the configuration, if anything.
    #[must_use]
    pub fn problem(&self) -> Option<&'static str> {
        if self.records == 0 {
            Some("YCSB needs at least one record")
        } else if !is_valid_size(self.value_size as usize) {
            Some("the size of a YCSB record is a multiple of 10 and at least 50 bytes")
        } else if !(1..=OPERATIONS_MAX).contains(&self.operations) {
            Some("a YCSB transaction has from 1 to 65536 operations")
        } else if !(0.0..1.0).contains(&self.theta) {
            Some("theta is at least 0 and below 1")
        } else {
            None
        }
    }

    const fn population(&self) -> Population {
        Population { records: self.records, value_size: self.value_size }
    }
}

/// How an operation chooses a record that is there.
#[derive(Clone, Debug)]
enum Choice {
    /// Among those that were loaded.
    Loaded(Distribution),
    /// Among all, by age.
    Latest(Latest),
}

/// YCSB over records of kind `R`; `F` chooses the footprints.
#[derive(Clone, Debug)]
pub struct Ycsb<R, F = Exact> {
    config: Config,
    choice: Choice,
    types: PhantomData<fn() -> (R, F)>,
}

impl<R: Record, F: Footprints> Ycsb<R, F> {
    /// YCSB with this configuration.
    ///
    /// # Panics
    /// If [`Config::problem`] finds one, or records of this kind do not have that size.
    #[must_use]
    pub fn new(config: Config) -> Self {
        assert_eq!(config.problem(), None);
        assert!(R::zeroed(config.value_size as usize).is_some(), "another kind of record has this size");
        let Config { records, theta, .. } = config;
        let choice = match config.mix {
            Mix::D => Choice::Latest(Latest::new(records, theta)),
            Mix::A | Mix::B | Mix::C | Mix::E | Mix::F => Choice::Loaded(Distribution::ycsb(records, theta)),
        };
        Self { config, choice, types: PhantomData }
    }

    /// The transactions of one client, alone on the records that were loaded.
    #[must_use]
    pub fn driver(&self, seed: u64, client: u32) -> Driver {
        self.driver_with(Arc::new(Inserts::new(self.config.records, [])), seed, client)
    }

    fn driver_with(&self, inserts: Arc<Inserts>, seed: u64, client: u32) -> Driver {
        let rng = Rng::for_row(seed, 0, u64::from(client) + 1);
        Driver { config: self.config, choice: self.choice.clone(), inserts, inserted: Vec::new(), rng }
    }

    /// What the clients of a run share.
    fn inserts(&self, snapshot: &Snapshot) -> Result<Arc<Inserts>, DriveError> {
        let (is, should) = (snapshot.get(&POPULATION, &0), self.config.population());
        if is != Some(should) {
            return Err(DriveError::other_population(is, &should));
        }
        let present = match self.config.mix {
            mix if mix.grows() => audit::inserted_numbers::<R>(snapshot, should.records),
            _ => Vec::new(),
        };
        Ok(Arc::new(Inserts::new(should.records, present)))
    }

    fn client_with(&self, inserts: &Arc<Inserts>, seed: u64, client: u32) -> YcsbClient<R, F> {
        let driver = self.driver_with(Arc::clone(inserts), seed, client);
        YcsbClient { driver, changes: Changes::default(), types: PhantomData }
    }
}

/// Endless transactions. The same configuration, seed and client give the same, if nobody else inserts and
/// acknowledgements come at the same time.
#[derive(Clone, Debug)]
pub struct Driver {
    config: Config,
    choice: Choice,
    inserts: Arc<Inserts>,
    /// The numbers of the records that the newest transaction inserts.
    inserted: Vec<u64>,
    rng: Rng,
}

impl Driver {
    /// The next transaction.
    pub fn draw(&mut self) -> Operations {
        self.inserted.clear();
        Operations::new((0..self.config.operations).map(|_| self.operation()))
    }

    fn operation(&mut self) -> Operation {
        let Self { config, choice, inserts, inserted, rng } = self;
        if config.mix.inserts(rng) {
            let number = inserts.take();
            inserted.push(number);
            return Operation { key: key_of(number), action: Action::Insert(config.value_size) };
        }
        let number = match choice {
            Choice::Loaded(distribution) => distribution.draw(rng),
            Choice::Latest(latest) => latest.draw(rng, inserts.end()),
        };
        Operation { key: key_of(number), action: config.mix.action(rng) }
    }
}

/// Submits YCSB transactions.
pub struct YcsbClient<R, F> {
    driver: Driver,
    changes: Changes,
    types: PhantomData<fn() -> (R, F)>,
}

impl<R: Record, F: Footprints> Workload for Ycsb<R, F> {
    type Client = YcsbClient<R, F>;
    type Observed = Changes;

    fn name(&self) -> String {
        self.config.mix.name().to_owned()
    }

    fn register(&self, builder: Builder) -> Builder {
        let builder = R::register(builder.table(&POPULATION)).procedure::<LoadPopulation>();
        builder.procedure::<LoadRecords<R>>().procedure::<F::Of<Operate<R>>>()
    }

    fn is_populated(&self, snapshot: &Snapshot) -> bool {
        snapshot.get(&POPULATION, &0).is_some()
    }

    fn populate(&self, engine: &Engine, progress: &mut dyn FnMut(u64, u64)) -> Result<(), DriveError> {
        let population = self.config.population();
        let total = LoadRecords::<R>::all(population).count() as u64 + 1;
        let mut loader = Loader::new(engine, total, progress);
        LoadRecords::<R>::all(population).try_for_each(|chunk| loader.submit(&chunk))?;
        loader.submit(&LoadPopulation { population })?;
        loader.finish()
    }

    fn client(&self, snapshot: &Snapshot, seed: u64, client: u32) -> Result<YcsbClient<R, F>, DriveError> {
        Ok(self.client_with(&self.inserts(snapshot)?, seed, client))
    }

    /// The clients share the numbers of the records that they insert: who inserts which, and which is the latest,
    /// depends on when they ask.
    fn clients(
        &self,
        snapshot: &Snapshot,
        seed: u64,
        count: u32,
    ) -> Result<Vec<YcsbClient<R, F>>, DriveError> {
        let inserts = self.inserts(snapshot)?;
        Ok((0..count).map(|client| self.client_with(&inserts, seed, client)).collect())
    }

    fn observe(&self, snapshot: &Snapshot) -> Changes {
        audit::changes::<R>(snapshot, self.config.records)
    }

    fn audit(&self, snapshot: &Snapshot, observed: Option<&Changes>) -> Vec<Check> {
        audit::audit::<R>(snapshot, self.config.population(), observed)
    }
}

/// A YCSB transaction in flight.
pub struct Pending<R: Record, F: Footprints> {
    ticket: Ticket<F::Of<Operate<R>>>,
    changes: Changes,
    /// The numbers of the records that it inserts.
    inserted: Vec<u64>,
}

impl<R: Record, F: Footprints> Client for YcsbClient<R, F> {
    type Pending = Pending<R, F>;
    type Observed = Changes;

    fn submit(&mut self, engine: &Engine) -> Result<Self::Pending, SubmitError> {
        let operations = self.driver.draw();
        let mut changes = Changes::default();
        for Operation { key, action } in operations.as_slice() {
            match action {
                Action::Read | Action::Scan(_) => {}
                Action::Update(_) | Action::ReadModifyWrite(_) => changes.updates.note(*key, 1),
                Action::Insert(_) => changes.inserts.note(*key, 1),
            }
        }
        let inserted = std::mem::take(&mut self.driver.inserted);
        Ok(Pending { ticket: engine.submit(&F::of(Operate::<R>::new(operations)))?, changes, inserted })
    }

    fn settle(&mut self, pending: Self::Pending) -> Result<Settled, TicketError> {
        let Pending { ticket, changes, inserted } = pending;
        let commit = |_| {
            self.changes.add(changes);
            inserted.into_iter().for_each(|number| self.driver.inserts.acknowledge(number));
        };
        Ok(Settled::of(ticket.wait()?, commit, |_| false))
    }

    fn observed(self) -> Changes {
        self.changes
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Inline;
    use super::*;

    fn draw(mix: Mix, operations: u32) -> Vec<Operation> {
        let config = Config { records: 1_000, value_size: 100, operations, ..Config::new(mix) };
        let mut driver = Ycsb::<Inline<100>>::new(config).driver(1, 0);
        let list: Vec<Operation> = (0..20_000).flat_map(|_| driver.draw().as_slice().to_vec()).collect();
        assert_eq!(list.len(), 20_000 * operations as usize);
        list
    }

    #[test]
    fn mixes_have_their_shares() {
        for (mix, reads, has_updates, has_both) in [
            (Mix::A, 0.50, true, false),
            (Mix::B, 0.95, true, false),
            (Mix::C, 1.0, false, false),
            (Mix::D, 0.95, false, false),
            (Mix::F, 0.50, false, true),
        ] {
            let list = draw(mix, 2);
            let count =
                |is: fn(&Action) -> bool| list.iter().filter(|operation| is(&operation.action)).count();
            let share = count(|action| *action == Action::Read) as f64 / list.len() as f64;
            assert!((share - reads).abs() < 0.01, "{mix:?}: {share}");
            assert_eq!(count(|action| matches!(action, Action::Insert(100))) > 0, mix == Mix::D);
            assert_eq!(count(|action| matches!(action, Action::Update(_))) > 0, has_updates);
            assert_eq!(count(|action| matches!(action, Action::ReadModifyWrite(_))) > 0, has_both);
        }
    }

    #[test]
    fn mix_of_scans_has_its_shares_and_lengths() {
        let list = draw(Mix::E, 2);
        let lengths: Vec<u32> = list
            .iter()
            .filter_map(|operation| match operation.action {
                Action::Scan(records) => Some(records),
                _ => None,
            })
            .collect();
        let share = lengths.len() as f64 / list.len() as f64;
        assert!((share - 0.95).abs() < 0.01, "{share}");
        assert_eq!((lengths.iter().min(), lengths.iter().max()), (Some(&1), Some(&100)));
        let mean = lengths.iter().map(|&length| f64::from(length)).sum::<f64>() / lengths.len() as f64;
        assert!((mean - 50.5).abs() < 1.0, "{mean}");
    }

    #[test]
    fn hottest_record_is_that_of_rank_zero() {
        let list = draw(Mix::C, 1);
        let hottest = key_of(crate::zipf::fnv64(0) % 1_000);
        let share =
            list.iter().filter(|operation| operation.key == hottest).count() as f64 / list.len() as f64;
        assert!((0.035..0.045).contains(&share), "{share}");
    }

    #[test]
    fn inserts_have_new_numbers_and_reads_find_what_is_acknowledged() {
        let config = Config { records: 100, value_size: 100, ..Config::new(Mix::D) };
        let mut driver = Ycsb::<Inline<100>>::new(config).driver(1, 0);
        let mut keys: Vec<u64> = (1..100).map(key_of).collect();
        for _ in 0..10_000 {
            let operations = driver.draw();
            let Operation { key, action } = operations.as_slice()[0];
            if action == Action::Read {
                assert!(keys.contains(&key), "it was loaded, or inserted");
            } else {
                assert!(!keys.contains(&key));
                assert_eq!(driver.inserted, [keys.len() as u64 + 1]);
                driver.inserts.acknowledge(driver.inserted[0]);
                keys.push(key);
            }
        }
        assert!((550..650).contains(&keys.len()), "5 % of 10,000 were inserted: {}", keys.len());
    }

    #[test]
    fn problems_are_found() {
        let good = Config::new(Mix::A);
        assert_eq!(good.problem(), None);
        assert!(Config { records: 0, ..good }.problem().is_some());
        assert!(Config { value_size: 105, ..good }.problem().is_some());
        assert!(Config { value_size: 40, ..good }.problem().is_some());
        assert!(Config { operations: 0, ..good }.problem().is_some());
        assert!(Config { operations: u32::MAX, ..good }.problem().is_some());
        assert!(Config { theta: 1.0, ..good }.problem().is_some());
        assert!(Config { theta: f64::NAN, ..good }.problem().is_some());
    }
}
