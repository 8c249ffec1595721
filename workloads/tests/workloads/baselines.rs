//! The serial baselines of the benches do the same work: same replies, same rows.

use mixlog_engine::{Engine, Outcome, Procedure};
use mixlog_workloads::money::Cents;
use mixlog_workloads::tpcc::client::Tpcc;
use mixlog_workloads::tpcc::driver::{Driver, Transaction};
use mixlog_workloads::tpcc::keys::{DistrictKey, NameRank, WarehouseKey};
use mixlog_workloads::tpcc::rows::{Customer, Order, OrderLine};
use mixlog_workloads::tpcc::schema::{
    CUSTOMER, CUSTOMER_ACCOUNT, CUSTOMER_BY_NAME, CUSTOMER_DATA, DISTRICT, DISTRICT_ORDERS, DISTRICT_YTD,
    HISTORY, ITEM, NEW_ORDER, ORDER, ORDER_BY_CUSTOMER, ORDER_LINE, STOCK, STOCK_INFO, Scale, WAREHOUSE,
    WAREHOUSE_YTD,
};
use mixlog_workloads::transfer::{self, ACCOUNTS, Transfers};
use mixlog_workloads::workload::Workload;
use mixlog_workloads::ycsb::client::{Config, Mix, Ycsb};
use mixlog_workloads::ycsb::load::Population;
use mixlog_workloads::ycsb::operate::Operate;
use mixlog_workloads::ycsb::record::{Inline, Record};

use crate::baseline;
use crate::support::{assert_ok, outcome, populated};

/// The reply of a transaction that did not panic, and its position.
fn reply<P: Procedure>(engine: &Engine, procedure: &P) -> (Result<P::Output, P::Abort>, u64) {
    match outcome(engine, procedure) {
        Outcome::Committed { output, position } => (Ok(output), position.0),
        Outcome::Aborted { reason, position } => (Err(reason), position.0),
        Outcome::Panicked { message, .. } => panic!("it panics: {message}"),
    }
}

/// Runs a transaction on both, at the position and time that the engine gave it.
fn run_on_both(engine: &Engine, by_hand: &mut baseline::tpcc::Tpcc, transaction: &Transaction) {
    match transaction {
        Transaction::NewOrder(order) => {
            let (reply, _) = reply(engine, order);
            let time_us = reply.as_ref().map_or(0, |ordered| ordered.entry_us);
            assert_eq!(by_hand.new_order(order, time_us), reply);
        }
        Transaction::Payment(payment) => {
            let (reply, position) = reply(engine, payment);
            let mut reply = reply.expect("payments do not abort");
            let mut same = by_hand.payment(payment, position, reply.date_us).expect("payments do not abort");
            // Customers are as old as their population.
            (reply.since_us, same.since_us) = (0, 0);
            assert_eq!(same, reply);
        }
        Transaction::OrderStatus(status) => {
            let (reply, _) = reply(engine, status);
            let (mut reply, mut same) = (reply.expect("found"), by_hand.order_status(status).expect("found"));
            for status in [&mut reply, &mut same] {
                status.entry_us = if status.order <= 30 { 0 } else { status.entry_us };
                let lines = status.lines.iter_mut();
                lines.for_each(|line| line.delivery_us = line.delivery_us.min(1));
            }
            assert_eq!(same, reply);
        }
        Transaction::Delivery(delivery) => {
            let (reply, _) = reply(engine, delivery);
            let time_us = reply.as_ref().map_or(0, |delivered| delivered.delivery_us);
            assert_eq!(by_hand.delivery(delivery, time_us), reply);
        }
        Transaction::StockLevel(level) => assert_eq!(by_hand.stock_level(level), reply(engine, level).0),
    }
}

/// Rows without the time of the population, which the baseline does not share.
const fn customer_without_time(row: &Customer) -> Customer {
    Customer { since_us: 0, ..*row }
}

const fn order_without_time(order: u32, row: &Order) -> Order {
    let entry_us = if order <= 30 { 0 } else { row.entry_us };
    Order { entry_us, ..*row }
}

fn line_without_time(row: &OrderLine) -> OrderLine {
    OrderLine { delivery_us: row.delivery_us.min(1), ..*row }
}

#[test]
fn tpcc_baseline_gives_the_same_replies_and_rows() {
    let workload: Tpcc = Tpcc::new(Scale::small(2), 1);
    let engine = populated(&workload, 2);
    let mut by_hand = baseline::tpcc::Tpcc::populate(workload.population(), 1);
    let mut driver = Driver::new(workload.population(), 1, 0);
    (0..3_000).for_each(|_| run_on_both(&engine, &mut by_hand, &driver.draw()));
    let snapshot = engine.snapshot();
    assert_ok(&workload.audit(&snapshot, None));

    snapshot.for_each(&ITEM, |key, row| assert_eq!(by_hand.items[key], *row));
    snapshot.for_each(&STOCK, |key, row| assert_eq!(by_hand.stock[key].0, *row));
    snapshot.for_each(&STOCK_INFO, |key, row| assert_eq!(by_hand.stock[key].1, *row));
    assert_eq!(snapshot.len(&ITEM), by_hand.items.len());
    assert_eq!(snapshot.len(&STOCK), by_hand.stock.len());
    for (key, row) in &by_hand.warehouses {
        assert_eq!(
            (snapshot.get(&WAREHOUSE, key), snapshot.get(&WAREHOUSE_YTD, key)),
            (Some(row.place), Some(row.ytd))
        );
    }
    assert!(by_hand.warehouses.contains_key(&WarehouseKey::new(2)));
    let mut new_orders = Vec::new();
    snapshot.for_each(&NEW_ORDER, |key, ()| new_orders.push(*key));
    new_orders.sort_unstable();
    for key in DistrictKey::all(2) {
        let row = &by_hand.districts[&key];
        assert_eq!(
            (snapshot.get(&DISTRICT, &key), snapshot.get(&DISTRICT_YTD, &key)),
            (Some(row.place), Some(row.ytd))
        );
        assert_eq!(snapshot.get(&DISTRICT_ORDERS, &key), Some(row.next));
        let ids: Vec<u32> =
            new_orders.iter().filter(|order| order.district() == key).map(|order| order.order()).collect();
        assert_eq!(row.new_orders, ids);
    }
    customers_are_equal(&engine, &by_hand);
    orders_are_equal(&engine, &by_hand);
}

fn customers_are_equal(engine: &Engine, by_hand: &baseline::tpcc::Tpcc) {
    let snapshot = engine.snapshot();
    assert_eq!(snapshot.len(&CUSTOMER), by_hand.customers.len());
    for (key, row) in &by_hand.customers {
        let customer = snapshot.get(&CUSTOMER, key).expect("a customer");
        assert_eq!(customer_without_time(&customer), customer_without_time(&row.customer));
        assert_eq!(snapshot.get(&CUSTOMER_ACCOUNT, key), Some(row.account));
        assert_eq!(snapshot.get(&CUSTOMER_DATA, key), Some(row.data));
        let newest = snapshot.range_by(&ORDER_BY_CUSTOMER, *key..=*key).next_back();
        assert_eq!(newest.map(|(_, order)| order.order()), Some(row.last_order));
    }
    for (key, ids) in &by_hand.names {
        let found = snapshot.range_by(&CUSTOMER_BY_NAME, NameRank::all(*key));
        assert!(found.map(|(_, customer)| customer.customer()).eq(ids.iter().copied()));
    }
    assert_eq!(snapshot.len(&HISTORY), by_hand.history.len());
    for (key, row) in &by_hand.history {
        let mut same = snapshot.get(&HISTORY, key).expect("a payment");
        same.date_us = if key.position == 0 { row.date_us } else { same.date_us };
        assert_eq!(same, *row);
    }
}

fn orders_are_equal(engine: &Engine, by_hand: &baseline::tpcc::Tpcc) {
    let snapshot = engine.snapshot();
    assert_eq!(snapshot.len(&ORDER), by_hand.orders.len());
    assert_eq!(snapshot.len(&ORDER_LINE), by_hand.orders.len());
    for (key, order) in &by_hand.orders {
        let row = snapshot.get(&ORDER, key).expect("an order");
        assert_eq!(order_without_time(key.order(), &row), order_without_time(key.order(), &order.row));
        let rows = snapshot.get(&ORDER_LINE, key).expect("lines");
        let rows: Vec<OrderLine> = rows.iter().map(|(_, line)| line_without_time(line)).collect();
        let lines = by_hand.lines[order.lines()].iter().map(line_without_time);
        assert_eq!(rows, lines.collect::<Vec<_>>());
    }
}

#[test]
fn ycsb_baseline_gives_the_same_replies_and_rows() {
    for mix in [Mix::A, Mix::D, Mix::F] {
        let config = Config { mix, records: 300, value_size: 100, operations: 10, theta: 0.9 };
        let workload = Ycsb::<Inline<100>>::new(config);
        let engine = populated(&workload, 2);
        let population = Population { records: 300, value_size: 100 };
        let mut by_hand = baseline::ycsb::Ycsb::<Inline<100>>::populate(population);
        let mut driver = workload.driver(1, 0);
        for _ in 0..1_000 {
            let operations = driver.draw();
            let same = by_hand.run(&operations);
            assert_eq!(same, reply(&engine, &Operate::<Inline<100>>::new(operations)).0);
        }
        let mut count = 0;
        Inline::<100>::for_each(&engine.snapshot(), |key, record| {
            assert_eq!(by_hand.records[&key], *record);
            count += 1;
        });
        assert_eq!(count, by_hand.records.len());
    }
}

#[test]
fn transfer_baseline_gives_the_same_replies_and_rows() {
    let config = transfer::Config { accounts: 20, hot: 0.5, initial: Cents(150_00) };
    let workload: Transfers = Transfers::new(config);
    let engine = populated(&workload, 2);
    let population = transfer::Population { accounts: 20, initial: Cents(150_00) };
    let mut by_hand = baseline::transfer::Transfers::populate(population);
    let mut driver = transfer::Driver::new(config, 1, 0);
    let unknown = [
        transfer::Transfer { from: 3, to: 20, amount: 1 },
        transfer::Transfer { from: 20, to: 3, amount: 1 },
    ];
    for transfer in (0..2_000).map(|_| driver.draw()).chain(unknown) {
        assert_eq!(by_hand.run(&transfer), reply(&engine, &transfer).0);
    }
    let snapshot = engine.snapshot();
    assert_eq!(snapshot.len(&ACCOUNTS), by_hand.accounts.len());
    snapshot.for_each(&ACCOUNTS, |key, row| assert_eq!(by_hand.accounts[key], *row));
}
