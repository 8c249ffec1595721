//! The footprints of all workloads against what their transactions touch, over random inputs.

use std::sync::{Arc, Mutex};

use mixlog_engine::testing::{Surplus, check_footprints};
use mixlog_engine::{AccessMode, Ending, FootprintReport, assert_footprint};
use mixlog_workloads::footprints::{Footprints, TooLittle};
use mixlog_workloads::list_append;
use mixlog_workloads::list_append::client::ListAppends;
use mixlog_workloads::list_append::driver::Keys;
use mixlog_workloads::list_append::transaction::ListAppend;
use mixlog_workloads::money::Cents;
use mixlog_workloads::runner;
use mixlog_workloads::smallbank;
use mixlog_workloads::smallbank::client::SmallBank;
use mixlog_workloads::tpcc::client::Tpcc;
use mixlog_workloads::tpcc::driver::{self, Transaction};
use mixlog_workloads::tpcc::schema::Scale;
use mixlog_workloads::transfer::{self, Transfers};
use mixlog_workloads::ycsb::client::{Config, Mix, Ycsb};
use mixlog_workloads::ycsb::operate::Operate;
use mixlog_workloads::ycsb::record::Inline;

use crate::support::{config, populated};

fn tpcc_report(engine: &mixlog_engine::Engine, transaction: &Transaction) -> FootprintReport {
    match transaction {
        Transaction::NewOrder(call) => engine.check_footprint(call),
        Transaction::Payment(call) => engine.check_footprint(call),
        Transaction::OrderStatus(call) => engine.check_footprint(call),
        Transaction::Delivery(call) => engine.check_footprint(call),
        Transaction::StockLevel(call) => engine.check_footprint(call),
    }
}

/// Whether surplus is what a transaction cannot help: it does not know beforehand how it will end.
fn is_documented(report: &FootprintReport, transaction: &Transaction) -> bool {
    match transaction {
        // The stock of the item that does not exist.
        Transaction::NewOrder(_) => {
            let is_stock = report.surplus.iter().all(|surplus| {
                surplus.declared.table == "tpcc.stock" && surplus.declared.mode == AccessMode::Write
            });
            is_stock && report.surplus.len() == 1 && matches!(report.ending, Ending::Aborted(_))
        }
        // Districts without new orders.
        Transaction::Delivery(_) => report.surplus.iter().all(|surplus| {
            let orders = ("tpcc.order", Some(AccessMode::ReadGranule));
            let is = (surplus.declared.table, surplus.enough);
            is == orders || is == ("tpcc.customer_account", None)
        }),
        Transaction::Payment(_) | Transaction::OrderStatus(_) | Transaction::StockLevel(_) => false,
    }
}

#[test]
fn tpcc_footprints_are_exact_but_for_what_a_transaction_cannot_know() {
    let workload: Tpcc = Tpcc::new(Scale::small(2), 1);
    let engine = populated(&workload, 2);
    let mut driver = driver::Driver::new(workload.population(), 5, 9);
    let (mut exact, mut surplus) = (0, 0);
    for round in 0..5 {
        for _ in 0..200 {
            let transaction = driver.draw();
            let report = tpcc_report(&engine, &transaction);
            assert!(report.is_complete(), "{report}");
            assert!(report.is_exact() || is_documented(&report, &transaction), "{report}");
            *(if report.is_exact() { &mut exact } else { &mut surplus }) += 1;
        }
        // The state moves on: orders come and are delivered.
        runner::run(&engine, &workload, &config(1_000, round), &mut |_| {}).expect("it runs");
    }
    assert!(exact > 900 && surplus > 0, "{exact} exact, {surplus} not");
}

#[test]
fn ycsb_footprints_are_exact() {
    for mix in [Mix::A, Mix::B, Mix::C, Mix::F] {
        let workload: Ycsb<Inline<100>> = Ycsb::new(Config {
            records: 300,
            value_size: 100,
            operations: 6,
            theta: 0.9,
            ..Config::new(mix)
        });
        let engine = populated(&workload, 2);
        let mut driver = workload.driver(3, 0);
        assert_footprint!(&engine, (0..300).map(|_| Operate::<Inline<100>>::new(driver.draw())));
    }
}

#[test]
fn transfer_footprints_are_complete_and_exact_for_those_that_commit() {
    let options = transfer::Config { accounts: 50, hot: 0.3, initial: Cents(50_00) };
    let workload: Transfers = Transfers::new(options);
    let engine = populated(&workload, 2);
    let mut driver = transfer::Driver::new(options, 3, 0);
    let draws: Vec<_> = (0..500).map(|_| driver.draw()).collect();
    assert_footprint!(&engine, draws.iter().copied(), Surplus::Allowed);
    for transfer in &draws {
        let report = engine.check_footprint(transfer);
        // Who cannot pay never gets to the other account.
        assert_eq!(report.is_exact(), report.ending == Ending::Committed, "{report}");
    }
    // A canary: it forgets who is paid.
    let report = check_footprints(&engine, draws.iter().map(|t| TooLittle::of(*t)), Surplus::Allowed);
    let report = report.expect_err("something is missing");
    assert_eq!(report.missing[0].table, "transfer.accounts");
    let paid = draws.iter().find(|t| engine.check_footprint(*t).ending == Ending::Committed);
    assert_eq!(report.missing[0].key, paid.expect("some commit").to.to_string());
}

#[test]
fn smallbank_footprints_are_complete_and_exact_for_those_that_commit() {
    use mixlog_workloads::smallbank::driver::Transaction;
    let options = smallbank::driver::Config { accounts: 50, hot: 0.3, hot_accounts: 5 };
    let workload: SmallBank = SmallBank::new(options, 1);
    let engine = populated(&workload, 2);
    let mut driver = smallbank::driver::Driver::new(options, 3, 0);
    let (mut committed, mut aborted) = (0, 0);
    for round in 0..3 {
        for _ in 0..300 {
            let report = match driver.draw() {
                Transaction::Amalgamate(call, _) => engine.check_footprint(&call),
                Transaction::Balance(call) => engine.check_footprint(&call),
                Transaction::DepositChecking(call, _) => engine.check_footprint(&call),
                Transaction::SendPayment(call, _) => engine.check_footprint(&call),
                Transaction::TransactSavings(call, _) => engine.check_footprint(&call),
                Transaction::WriteCheck(call, _) => engine.check_footprint(&call),
            };
            assert!(report.is_complete(), "{report}");
            let commits = report.ending == Ending::Committed;
            // Who cannot pay does not get to the other account.
            assert!(report.is_exact() || !commits, "{report}");
            *(if commits { &mut committed } else { &mut aborted }) += 1;
        }
        // Money moves, until some have none.
        runner::run(&engine, &workload, &config(2_000, round), &mut |_| {}).expect("it runs");
    }
    assert!(committed > 500 && aborted > 0, "{committed} commit, {aborted} abort");
}

#[test]
fn list_append_footprints_are_exact() {
    let options = list_append::driver::Config { keys: 20, ..list_append::driver::Config::new() };
    let workload: ListAppends = ListAppends::new(options);
    let engine = populated(&workload, 2);
    let keys = Arc::new(Mutex::new(Keys::new(&options, 0)));
    let mut driver = list_append::driver::Driver::new(options, keys, 3, 0);
    let draws: Vec<ListAppend> = (0..500).map(|_| driver.draw()).collect();
    assert_footprint!(&engine, draws.iter().cloned());
    runner::run(&engine, &workload, &config(2_000, 1), &mut |_| {}).expect("it runs");
    assert_footprint!(&engine, draws);
}
