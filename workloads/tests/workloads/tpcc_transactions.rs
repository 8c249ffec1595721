//! What each transaction reads, writes and returns.

use std::sync::atomic::{AtomicU32, Ordering};

use mixlog_engine::Engine;
use mixlog_workloads::money::Cents;
use mixlog_workloads::tpcc::client::Tpcc;
use mixlog_workloads::tpcc::customer::{Missing, Selector, middle};
use mixlog_workloads::tpcc::delivery::Delivery;
use mixlog_workloads::tpcc::keys::{
    CustomerKey, DistrictKey, HistoryKey, NameKey, NameRank, OrderKey, StockKey, WarehouseKey,
};
use mixlog_workloads::tpcc::names::last_name;
use mixlog_workloads::tpcc::new_order::{Line, Lines, NewOrder, NewOrderAbort, total};
use mixlog_workloads::tpcc::order_status::OrderStatus;
use mixlog_workloads::tpcc::payment::Payment;
use mixlog_workloads::tpcc::schema::{
    CUSTOMER, CUSTOMER_ACCOUNT, CUSTOMER_BY_NAME, CUSTOMER_DATA, DISTRICT, DISTRICT_ORDERS, DISTRICT_YTD,
    HISTORY, ITEM, NEW_ORDER, ORDER, ORDER_BY_CUSTOMER, ORDER_LINE, STOCK, STOCK_INFO, Scale, WAREHOUSE,
    WAREHOUSE_YTD,
};
use mixlog_workloads::tpcc::stock_level::StockLevel;
use mixlog_workloads::workload::Workload;

use crate::support::{abort, assert_ok, commit, populated};

fn engine() -> (Tpcc, Engine) {
    let workload = Tpcc::new(Scale::small(2), 5);
    let engine = populated(&workload, 2);
    (workload, engine)
}

/// The state passes the audit, without the footprints having been wrong.
fn check(workload: &Tpcc, engine: &Engine) {
    assert_eq!(engine.stats().violations, 0);
    assert_ok(&workload.audit(&engine.snapshot(), None));
}

fn order(lines: &[Line]) -> NewOrder {
    NewOrder { warehouse: 1, district: 3, customer: 7, lines: Lines::new(lines).expect("few lines") }
}

const fn line(item: u32, supply: u32, quantity: u8) -> Line {
    Line { item, supply, quantity }
}

#[test]
fn new_order_writes_what_it_returns() {
    let (workload, engine) = engine();
    let before = engine.snapshot();
    let request = order(&[line(5, 1, 3), line(9, 2, 10), line(5, 1, 4), line(6, 1, 1), line(8, 1, 2)]);
    let (shown, _) = commit(&engine, &request);
    let after = engine.snapshot();
    let district = DistrictKey::new(1, 3);
    assert_eq!(shown.order, 31);
    assert_eq!(after.get(&DISTRICT_ORDERS, &district), Some(32));

    let key = OrderKey::new(district, 31);
    let row = after.get(&ORDER, &key).expect("the order is there");
    assert_eq!((row.customer, row.carrier, row.line_count, row.all_local), (7, 0, 5, 0));
    assert_eq!(row.entry_us, shown.entry_us);
    assert!(after.get(&NEW_ORDER, &key).is_some());
    let customer = CustomerKey::new(district, 7);
    assert_eq!(after.range_by(&ORDER_BY_CUSTOMER, customer..=customer).next_back(), Some((customer, key)));

    let mut sum = Cents::ZERO;
    for ((line, shown), number) in request.lines.as_slice().iter().zip(&shown.lines).zip(1..) {
        let row = *after.get(&ORDER_LINE, &key).expect("lines").get(number).expect("the line is there");
        let stock = StockKey::new(line.supply, line.item);
        let item = after.get(&ITEM, &line.item).expect("the item is there");
        let info = after.get(&STOCK_INFO, &stock).expect("the stock is there");
        assert_eq!((row.item, row.supply, row.delivery_us), (line.item, line.supply, 0));
        assert_eq!(row.quantity, u32::from(line.quantity));
        assert_eq!(row.amount, u32::from(line.quantity) * item.price);
        assert_eq!(row.district_info, info.districts[2]);
        assert_eq!((shown.name, shown.price, shown.amount), (item.name, item.price, row.amount));
        sum += row.cents();
    }
    let customer = after.get(&CUSTOMER, &CustomerKey::new(district, 7)).expect("the customer is there");
    let warehouse = after.get(&WAREHOUSE, &WarehouseKey::new(1)).expect("the warehouse is there");
    let place = after.get(&DISTRICT, &district).expect("the district is there");
    assert_eq!(shown.total, total(sum, customer.discount, warehouse.tax, place.tax));
    assert_eq!(
        (shown.last, shown.credit, shown.discount),
        (customer.last, customer.credit, customer.discount)
    );

    // Item 5 was ordered twice: the second line saw what the first had left.
    let (old, new) = (before.get(&STOCK, &StockKey::new(1, 5)), after.get(&STOCK, &StockKey::new(1, 5)));
    let (old, new) = (old.expect("stock"), new.expect("stock"));
    assert_eq!((new.ytd, new.order_count, new.remote_count), (7, 2, 0));
    assert_eq!((i64::from(old.quantity) - i64::from(new.quantity) - 7) % 91, 0);
    assert_eq!(shown.lines[2].stock, new.quantity as u16);
    let remote = after.get(&STOCK, &StockKey::new(2, 9)).expect("stock");
    assert_eq!((remote.ytd, remote.order_count, remote.remote_count), (10, 1, 1));
    assert_eq!(after.get(&STOCK, &StockKey::new(1, 9)), before.get(&STOCK, &StockKey::new(1, 9)));
    check(&workload, &engine);
}

#[test]
fn new_order_with_an_unused_item_leaves_nothing() {
    let (workload, engine) = engine();
    let before = engine.digest().state;
    let lines = [line(5, 1, 3), line(6, 2, 3), line(7, 1, 1), line(8, 1, 1), line(201, 1, 1)];
    assert_eq!(abort(&engine, &order(&lines)), NewOrderAbort::UnusedItem { line: 5, item: 201 });
    assert_eq!(engine.digest().state, before, "its work is undone");
    check(&workload, &engine);
}

#[test]
fn new_order_of_somebody_unknown_aborts() {
    let (workload, engine) = engine();
    let good = order(&[line(5, 1, 3); 5]);
    let nobody = NewOrder { customer: 31, ..good };
    assert_eq!(abort(&engine, &nobody), NewOrderAbort::Missing(Missing::Customer));
    let nowhere = NewOrder { warehouse: 3, ..good };
    assert_eq!(abort(&engine, &nowhere), NewOrderAbort::Missing(Missing::Warehouse));
    let no_stock = NewOrder { lines: Lines::new(&[line(5, 3, 1)]).expect("a line"), ..good };
    assert_eq!(abort(&engine, &no_stock), NewOrderAbort::Missing(Missing::Stock));
    check(&workload, &engine);
}

/// A customer of district 1/3 with this credit.
fn customer_with_credit(engine: &Engine, is_bad: bool) -> CustomerKey {
    let found = AtomicU32::new(u32::MAX);
    engine.snapshot().for_each(&CUSTOMER, |key, row| {
        if key.district() == DistrictKey::new(1, 3) && row.has_bad_credit() == is_bad {
            found.fetch_min(key.customer(), Ordering::Relaxed);
        }
    });
    CustomerKey::new(DistrictKey::new(1, 3), found.into_inner())
}

fn payment(customer: CustomerKey, amount: u32) -> Payment {
    Payment {
        warehouse: 2,
        district: 9,
        customer_warehouse: customer.district().warehouse(),
        customer_district: customer.district().district(),
        customer: Selector::Id(customer.customer()),
        amount,
    }
}

#[test]
fn payment_moves_the_money_and_is_remembered() {
    let (workload, engine) = engine();
    let before = engine.snapshot();
    let key = customer_with_credit(&engine, false);
    let (shown, position) = commit(&engine, &payment(key, 123_45));
    let after = engine.snapshot();
    let (warehouse, district) = (WarehouseKey::new(2), DistrictKey::new(2, 9));
    let amount = Cents(123_45);
    let grown = |before: Option<Cents>| before.map(|ytd| ytd + amount);
    assert_eq!(after.get(&WAREHOUSE_YTD, &warehouse), grown(before.get(&WAREHOUSE_YTD, &warehouse)));
    assert_eq!(after.get(&DISTRICT_YTD, &district), grown(before.get(&DISTRICT_YTD, &district)));
    let account = after.get(&CUSTOMER_ACCOUNT, &key).expect("an account");
    assert_eq!((account.balance, account.ytd_payment), (Cents(-133_45), Cents(133_45)));
    assert_eq!((account.payment_count, account.delivery_count), (2, 0));
    assert_eq!(after.get(&CUSTOMER_DATA, &key), before.get(&CUSTOMER_DATA, &key));

    let history = after.get(&HISTORY, &HistoryKey { customer: key, position: position.0 }).expect("history");
    let places = (after.get(&WAREHOUSE, &warehouse), after.get(&DISTRICT, &district));
    let (warehouse, district) = (places.0.expect("a warehouse"), places.1.expect("a district"));
    assert_eq!((history.amount, history.warehouse, history.district), (amount, 2, 9));
    assert_eq!(history.data.to_string(), format!("{}    {}", warehouse.name, district.name));

    let customer = after.get(&CUSTOMER, &key).expect("a customer");
    assert_eq!((shown.warehouse, shown.district), (warehouse.address, district.address));
    assert_eq!((shown.customer, shown.balance, shown.data), (key.customer(), Cents(-133_45), None));
    assert_eq!((shown.first, shown.last, shown.address), (customer.first, customer.last, customer.address));
    assert_eq!(shown.date_us, history.date_us);
    check(&workload, &engine);
}

#[test]
fn payment_of_a_bad_credit_is_noted_in_the_data() {
    let (workload, engine) = engine();
    let key = customer_with_credit(&engine, true);
    let populated = engine.snapshot().get(&CUSTOMER_DATA, &key).expect("data");
    commit(&engine, &payment(key, 1_00));
    let (shown, _) = commit(&engine, &payment(key, 2_50));
    let data = engine.snapshot().get(&CUSTOMER_DATA, &key).expect("data");
    let id = key.customer();
    let notes = format!("{id} 3 1 9 2 2.50|{id} 3 1 9 2 1.00|");
    let expected = [notes.as_bytes(), populated.text()].concat();
    assert_eq!(data.text(), &expected[..expected.len().min(500)]);
    assert_eq!(shown.data.expect("it is shown").as_bytes(), &data.text()[..200]);
    for cents in 0..40 {
        commit(&engine, &payment(key, 4_999_00 + cents));
    }
    assert_eq!(engine.snapshot().get(&CUSTOMER_DATA, &key).expect("data").text().len(), 500);
    check(&workload, &engine);
}

#[test]
fn last_name_finds_the_customer_in_the_middle() {
    let (workload, engine) = engine();
    let district = DistrictKey::new(2, 4);
    let mut sizes = Vec::new();
    for name in 0..10 {
        let snapshot = engine.snapshot();
        let mut customers = Vec::new();
        snapshot.for_each(&CUSTOMER, |key, row| {
            if key.district() == district && row.last_number == name {
                customers.push((row.first, key.customer()));
            }
        });
        customers.sort_unstable();
        sizes.push(customers.len());
        let ids: Vec<u32> = customers.iter().map(|(_, id)| *id).collect();
        let found = snapshot.range_by(&CUSTOMER_BY_NAME, NameRank::all(NameKey::new(district, name)));
        assert!(found.map(|(_, key)| key.customer()).eq(ids.iter().copied()));
        let expected = middle(&ids).expect("every last name is used");
        let customer = Selector::LastName(name);
        let (status, _) = commit(&engine, &OrderStatus { warehouse: 2, district: 4, customer });
        assert_eq!((status.customer, status.last), (expected, last_name(name)));
        let (paid, _) =
            commit(&engine, &Payment { customer, ..payment(CustomerKey::new(district, 1), 1_00) });
        assert_eq!(paid.customer, expected);
    }
    assert_eq!(sizes.iter().sum::<usize>(), 30);
    assert!(sizes.iter().any(|size| *size > 2), "names are shared: {sizes:?}");
    let nobody = OrderStatus { warehouse: 2, district: 4, customer: Selector::LastName(999) };
    assert_eq!(abort(&engine, &nobody), Missing::Customer);
    check(&workload, &engine);
}

#[test]
fn order_status_shows_the_newest_order() {
    let (workload, engine) = engine();
    let status = OrderStatus { warehouse: 1, district: 3, customer: Selector::Id(7) };
    let (old, _) = commit(&engine, &status);
    assert!(old.order <= 30);
    commit(&engine, &order(&[line(5, 1, 3), line(9, 2, 10), line(6, 1, 4), line(7, 1, 1), line(8, 1, 2)]));
    let (new, _) = commit(&engine, &status);
    assert_eq!((new.order, new.carrier, new.lines.len()), (31, 0, 5));
    let second = new.lines[1];
    assert_eq!((second.item, second.supply, second.quantity, second.delivery_us), (9, 2, 10, 0));
    assert_eq!(new.balance, Cents(-10_00));
    check(&workload, &engine);
}

#[test]
fn delivery_takes_the_oldest_order_of_every_district() {
    let (workload, engine) = engine();
    let before = engine.snapshot();
    let (delivered, _) = commit(&engine, &Delivery { warehouse: 1, carrier: 4 });
    let after = engine.snapshot();
    // 21 of 30 orders are delivered at first.
    assert_eq!((delivered.orders, delivered.skipped()), ([22; 10], 0));
    for district in DistrictKey::of_warehouse(1) {
        let key = OrderKey::new(district, 22);
        assert!(
            after.get(&NEW_ORDER, &key).is_none()
                && after.get(&NEW_ORDER, &OrderKey::new(district, 23)).is_some()
        );
        let row = after.get(&ORDER, &key).expect("the order is there");
        assert_eq!(row.carrier, 4);
        let mut sum = Cents::ZERO;
        for number in 1..=row.line_count {
            let line = *after.get(&ORDER_LINE, &key).expect("lines").get(number).expect("the line is there");
            assert_eq!(line.delivery_us, delivered.delivery_us);
            sum += line.cents();
        }
        let customer = CustomerKey::new(district, row.customer);
        let account = after.get(&CUSTOMER_ACCOUNT, &customer).expect("an account");
        assert_eq!((account.balance, account.delivery_count), (sum - Cents(10_00), 1));
    }
    let elsewhere = OrderKey::new(DistrictKey::new(2, 1), 22);
    assert_eq!(after.get(&ORDER, &elsewhere), before.get(&ORDER, &elsewhere));
    check(&workload, &engine);
}

#[test]
fn delivery_skips_districts_without_new_orders() {
    let (workload, engine) = engine();
    for order in 22..=30 {
        assert_eq!(commit(&engine, &Delivery { warehouse: 1, carrier: 1 }).0.orders, [order; 10]);
    }
    assert_eq!(commit(&engine, &Delivery { warehouse: 1, carrier: 1 }).0.skipped(), 10);
    check(&workload, &engine);
    commit(&engine, &order(&[line(5, 1, 3); 5]));
    let (delivered, _) = commit(&engine, &Delivery { warehouse: 1, carrier: 1 });
    assert_eq!((delivered.skipped(), delivered.orders[2]), (9, 31));
    check(&workload, &engine);
}

#[test]
fn stock_level_counts_each_low_item_of_the_last_twenty_orders_once() {
    let (workload, engine) = engine();
    for item in 1..=24 {
        // Every order has the item of the one before, too: items repeat.
        let next = item % 24 + 1;
        commit(
            &engine,
            &order(&[
                line(item, 1, 10),
                line(next, 2, 9),
                line(item, 1, 8),
                line(next, 1, 1),
                line(item, 1, 7),
            ]),
        );
    }
    let snapshot = engine.snapshot();
    let mut recent = Vec::new();
    snapshot.for_each(&ORDER_LINE, |key, lines| {
        // 30 + 24 orders: the last twenty start with 35.
        if key.district() == DistrictKey::new(1, 3) && key.order() >= 35 {
            recent.extend(lines.iter().map(|(_, line)| line.item));
        }
    });
    recent.sort_unstable();
    recent.dedup();
    let mut counts = Vec::new();
    for threshold in [10, 15, 20, 101] {
        let low = recent.iter().filter(|item| {
            let stock = snapshot.get(&STOCK, &StockKey::new(1, **item)).expect("stock");
            stock.quantity < u32::from(threshold)
        });
        let expected = low.count() as u32;
        counts.push(expected);
        assert_eq!(commit(&engine, &StockLevel { warehouse: 1, district: 3, threshold }).0, expected);
    }
    assert!(counts[2] > 0 && counts[3] as usize == recent.len(), "{counts:?}");
    let nowhere = StockLevel { warehouse: 3, district: 3, threshold: 10 };
    assert_eq!(abort(&engine, &nowhere), Missing::District);
    check(&workload, &engine);
}
