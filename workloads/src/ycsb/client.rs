//! YCSB as the runner sees it.

use std::marker::PhantomData;

use mixlog_engine::{Builder, Engine, Snapshot, SubmitError, Ticket, TicketError};

use super::audit::{self, Updates};
use super::load::{LoadPopulation, LoadRecords, POPULATION, Population};
use super::operate::{Action, Operate, Operation, Operations};
use super::record::{FIELDS, Record, is_valid_size, key_of};
use crate::check::Check;
use crate::footprints::{Exact, Footprints};
use crate::random::Rng;
use crate::workload::{Client, DriveError, Loader, Settled, Workload};
use crate::zipf::{Distribution, YCSB_THETA};

/// Which of YCSB's core workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Half reads, half updates.
    A,
    /// 95 % reads, 5 % updates.
    B,
    /// Reads only.
    C,
    /// Half reads, half read-modify-writes.
    F,
}

impl Mix {
    const fn name(self) -> &'static str {
        match self {
            Self::A => "ycsb-a",
            Self::B => "ycsb-b",
            Self::C => "ycsb-c",
            Self::F => "ycsb-f",
        }
    }

    fn action(self, rng: &mut Rng) -> Action {
        let reads = match self {
            Self::A | Self::F => 50,
            Self::B => 95,
            Self::C => 100,
        };
        if rng.percent(reads) {
            return Action::Read;
        }
        let field = rng.below(FIELDS as u64) as u8;
        if matches!(self, Self::F) { Action::ReadModifyWrite(field) } else { Action::Update(field) }
    }
}

/// How YCSB runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Which workload.
    pub mix: Mix,
    /// The number of records, at least one.
    pub records: u64,
    /// Bytes per record: a multiple of ten, at least 50. YCSB's own is 1,000.
    pub value_size: u32,
    /// Operations per transaction, at least one. YCSB's own is one.
    pub operations: u32,
    /// Skew, from 0 (uniform) to below 1. YCSB's own is 0.99.
    pub theta: f64,
}

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
        } else if self.operations == 0 {
            Some("a YCSB transaction needs at least one operation")
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

/// YCSB over records of kind `R`; `F` chooses the footprints.
#[derive(Clone, Debug)]
pub struct Ycsb<R, F = Exact> {
    config: Config,
    distribution: Distribution,
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
        let distribution = Distribution::ycsb(config.records, config.theta);
        Self { config, distribution, types: PhantomData }
    }

    /// The transactions of one client.
    #[must_use]
    pub fn driver(&self, seed: u64, client: u32) -> Driver {
        let rng = Rng::for_row(seed, 0, u64::from(client) + 1);
        Driver { config: self.config, distribution: self.distribution.clone(), rng }
    }
}

/// Endless transactions. The same configuration, seed and client give the same.
#[derive(Clone, Debug)]
pub struct Driver {
    config: Config,
    distribution: Distribution,
    rng: Rng,
}

impl Driver {
    /// The next transaction.
    pub fn draw(&mut self) -> Operations {
        let Self { config, distribution, rng } = self;
        Operations::new((0..config.operations).map(|_| {
            let key = key_of(distribution.draw(rng));
            Operation { key, action: config.mix.action(rng) }
        }))
    }
}

/// Submits YCSB transactions.
pub struct YcsbClient<R, F> {
    driver: Driver,
    updates: Updates,
    types: PhantomData<fn() -> (R, F)>,
}

impl<R: Record, F: Footprints> Workload for Ycsb<R, F> {
    type Client = YcsbClient<R, F>;
    type Observed = Updates;

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
        let (is, should) = (snapshot.get(&POPULATION, &0), self.config.population());
        if is != Some(should) {
            return Err(DriveError::other_population(is, &should));
        }
        let driver = self.driver(seed, client);
        Ok(YcsbClient { driver, updates: Updates::default(), types: PhantomData })
    }

    fn observe(&self, snapshot: &Snapshot) -> Updates {
        audit::updates::<R>(snapshot)
    }

    fn audit(&self, snapshot: &Snapshot, observed: Option<&Updates>) -> Vec<Check> {
        audit::audit::<R>(snapshot, self.config.population(), observed)
    }
}

impl<R: Record, F: Footprints> Client for YcsbClient<R, F> {
    type Pending = (Ticket<F::Of<Operate<R>>>, Updates);
    type Observed = Updates;

    fn submit(&mut self, engine: &Engine) -> Result<Self::Pending, SubmitError> {
        let operations = self.driver.draw();
        let mut updates = Updates::default();
        for operation in operations.as_slice() {
            if operation.action != Action::Read {
                updates.note(operation.key, 1);
            }
        }
        Ok((engine.submit(&F::of(Operate::<R>::new(operations)))?, updates))
    }

    fn settle(&mut self, (ticket, updates): Self::Pending) -> Result<Settled, TicketError> {
        use crate::workload::Observed as _;
        Ok(Settled::of(ticket.wait()?, |_| self.updates.add(updates), |_| false))
    }

    fn observed(self) -> Updates {
        self.updates
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
            (Mix::F, 0.50, false, true),
        ] {
            let list = draw(mix, 2);
            let count =
                |is: fn(&Action) -> bool| list.iter().filter(|operation| is(&operation.action)).count();
            let share = count(|action| *action == Action::Read) as f64 / list.len() as f64;
            assert!((share - reads).abs() < 0.01, "{mix:?}: {share}");
            assert_eq!(count(|action| matches!(action, Action::Update(_))) > 0, has_updates);
            assert_eq!(count(|action| matches!(action, Action::ReadModifyWrite(_))) > 0, has_both);
        }
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
    fn problems_are_found() {
        let good = Config::new(Mix::A);
        assert_eq!(good.problem(), None);
        assert!(Config { records: 0, ..good }.problem().is_some());
        assert!(Config { value_size: 105, ..good }.problem().is_some());
        assert!(Config { value_size: 40, ..good }.problem().is_some());
        assert!(Config { operations: 0, ..good }.problem().is_some());
        assert!(Config { theta: 1.0, ..good }.problem().is_some());
        assert!(Config { theta: f64::NAN, ..good }.problem().is_some());
    }
}
