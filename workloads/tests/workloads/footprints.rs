//! Wrong footprints cost speed and nothing else.

use std::sync::Arc;

use mixlog_engine::{Digest, Engine, Mode};
use mixlog_log::{MemoryLog, SharedLog};
use mixlog_workloads::footprints::{
    Elsewhere, Exact, Footprints, Nothing, TooLittle, TooMuch, Unknown, WithoutMerges,
};
use mixlog_workloads::list_append;
use mixlog_workloads::list_append::client::ListAppends;
use mixlog_workloads::money::Cents;
use mixlog_workloads::runner;
use mixlog_workloads::smallbank::client::SmallBank;
use mixlog_workloads::smallbank::driver;
use mixlog_workloads::tpcc::client::Tpcc;
use mixlog_workloads::tpcc::schema::Scale;
use mixlog_workloads::transfer::{self, Transfers};
use mixlog_workloads::workload::Workload;
use mixlog_workloads::ycsb::client::{Config, Mix, Ycsb};
use mixlog_workloads::ycsb::record::Inline;

use crate::support::{assert_ok, config};

/// Which footprints are wrong, and whether the engine must notice.
fn for_each_damage(mut test: impl FnMut(&str, bool, &dyn Fn(&Makers<'_>) -> Box<dyn AnyWorkload>)) {
    test("too little", true, &|makers| (makers.too_little)());
    test("elsewhere", true, &|makers| (makers.elsewhere)());
    test("nothing", true, &|makers| (makers.nothing)());
    test("too much", false, &|makers| (makers.too_much)());
    test("unknown", false, &|makers| (makers.unknown)());
    test("without merges", false, &|makers| (makers.without_merges)());
}

type Make<'a> = &'a dyn Fn() -> Box<dyn AnyWorkload>;

/// The same workload with each kind of footprints.
struct Makers<'a> {
    exact: Make<'a>,
    too_little: Make<'a>,
    too_much: Make<'a>,
    elsewhere: Make<'a>,
    nothing: Make<'a>,
    unknown: Make<'a>,
    without_merges: Make<'a>,
}

/// A workload whose types do not matter.
trait AnyWorkload {
    /// Populates a log and runs on it.
    fn run(&self, log: Arc<dyn SharedLog>, transactions: u64, declared: bool);
    /// Replays a log and audits the state.
    fn replay(&self, log: Arc<dyn SharedLog>, declared: bool) -> (Digest, u64);
}

impl<W: Workload> AnyWorkload for W {
    fn run(&self, log: Arc<dyn SharedLog>, transactions: u64, declared: bool) {
        let builder = self.register(Engine::builder()).threads(2).declared(declared);
        let engine = builder.open(log).expect("it opens");
        runner::prepare(&engine, self, &mut |_, _| {}).expect("it is populated");
        let report =
            runner::run(&engine, self, &config(transactions, 11), &mut |_| {}).expect("the run ends");
        assert_ok(&report.checks);
    }

    fn replay(&self, log: Arc<dyn SharedLog>, declared: bool) -> (Digest, u64) {
        let builder = self.register(Engine::builder()).threads(2).mode(Mode::Parallel).declared(declared);
        let replay = builder.replay(log).expect("it starts");
        let digest = replay.to_end().expect("it replays");
        assert_ok(&self.audit(&replay.snapshot(), None));
        (digest, replay.stats().violations)
    }
}

/// Live runs and replays of the same log agree, whatever the footprints say.
fn footprints_do_not_matter(makers: &Makers<'_>) {
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    (makers.exact)().run(Arc::clone(&log), 1_500, true);
    let (expected, violations) = (makers.exact)().replay(Arc::clone(&log), true);
    assert_eq!(violations, 0, "exact footprints are exact");
    // What was found on a state of the past may be out of date: there may be violations, or none.
    let (digest, _) = (makers.exact)().replay(Arc::clone(&log), false);
    assert_eq!(digest, expected, "found");
    (makers.exact)().run(Arc::new(MemoryLog::new()), 500, false);
    for_each_damage(|name, is_noticed, make| {
        let (digest, violations) = make(makers).replay(Arc::clone(&log), true);
        assert_eq!(digest, expected, "{name}");
        assert_eq!(violations > 0, is_noticed, "{name}: {violations} violations");
        make(makers).run(Arc::new(MemoryLog::new()), 500, true);
    });
}

macro_rules! makers {
    ($make:ident) => {
        Makers {
            exact: &|| $make::<Exact>(),
            too_little: &|| $make::<TooLittle>(),
            too_much: &|| $make::<TooMuch>(),
            elsewhere: &|| $make::<Elsewhere>(),
            nothing: &|| $make::<Nothing>(),
            unknown: &|| $make::<Unknown>(),
            without_merges: &|| $make::<WithoutMerges>(),
        }
    };
}

fn tpcc<F: Footprints>() -> Box<dyn AnyWorkload> {
    Box::new(Tpcc::<F>::new(Scale::small(2), 1))
}

fn ycsb<F: Footprints>() -> Box<dyn AnyWorkload> {
    let config = Config { mix: Mix::A, records: 200, value_size: 100, operations: 4, theta: 0.9 };
    Box::new(Ycsb::<Inline<100>, F>::new(config))
}

fn ycsb_d<F: Footprints>() -> Box<dyn AnyWorkload> {
    let config = Config { mix: Mix::D, records: 200, value_size: 100, operations: 4, theta: 0.9 };
    Box::new(Ycsb::<Inline<100>, F>::new(config))
}

fn transfers<F: Footprints>() -> Box<dyn AnyWorkload> {
    Box::new(Transfers::<F>::new(transfer::Config { accounts: 20, hot: 0.3, initial: Cents(100_00) }))
}

fn smallbank<F: Footprints>() -> Box<dyn AnyWorkload> {
    let config = driver::Config { accounts: 40, hot: 0.5, hot_accounts: 4 };
    Box::new(SmallBank::<F>::new(config, 1))
}

fn list_append<F: Footprints>() -> Box<dyn AnyWorkload> {
    let config = list_append::driver::Config { keys: 6, abort: 0.1, ..list_append::driver::Config::new() };
    Box::new(ListAppends::<F>::new(config))
}

#[test]
fn tpcc_footprints_do_not_matter() {
    footprints_do_not_matter(&makers!(tpcc));
}

#[test]
fn ycsb_footprints_do_not_matter() {
    footprints_do_not_matter(&makers!(ycsb));
    footprints_do_not_matter(&makers!(ycsb_d));
}

#[test]
fn transfer_footprints_do_not_matter() {
    footprints_do_not_matter(&makers!(transfers));
}

#[test]
fn smallbank_footprints_do_not_matter() {
    footprints_do_not_matter(&makers!(smallbank));
}

#[test]
fn list_append_footprints_do_not_matter() {
    footprints_do_not_matter(&makers!(list_append));
}
