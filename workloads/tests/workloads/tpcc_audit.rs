//! Every check of the audit can fail: one damaged row, and exactly the right checks notice.

use std::collections::BTreeSet;
use std::sync::Arc;

use mixlog_engine::{Builder, Engine, Footprint, Index, Mode, Never, Procedure, Tx};
use mixlog_log::{MemoryLog, SharedLog};
use mixlog_workloads::check::Check;
use mixlog_workloads::money::Cents;
use mixlog_workloads::runner;
use mixlog_workloads::text::Text;
use mixlog_workloads::tpcc::client::{Acknowledged, Tpcc};
use mixlog_workloads::tpcc::delivery::Delivery;
use mixlog_workloads::tpcc::keys::{
    CustomerKey, DistrictKey, HistoryKey, NameKey, NameRank, OrderKey, StockKey, WarehouseKey,
};
use mixlog_workloads::tpcc::load;
use mixlog_workloads::tpcc::new_order::NewOrder;
use mixlog_workloads::tpcc::order_status::OrderStatus;
use mixlog_workloads::tpcc::payment::Payment;
use mixlog_workloads::tpcc::rows::{
    Account, Customer, CustomerData, History, Order, OrderLine, OrderLines, Stock,
};
use mixlog_workloads::tpcc::schema::{
    CUSTOMER, CUSTOMER_ACCOUNT, CUSTOMER_BY_NAME, CUSTOMER_DATA, DISTRICT, DISTRICT_ORDERS, DISTRICT_YTD,
    HISTORY, ITEM, NEW_ORDER, ORDER, ORDER_BY_CUSTOMER, ORDER_LINE, POPULATION, STOCK, STOCK_INFO, Scale,
    WAREHOUSE, WAREHOUSE_YTD,
};
use mixlog_workloads::tpcc::stock_level::StockLevel;
use mixlog_workloads::workload::Workload;
use serde::{Deserialize, Serialize};

use crate::support::{assert_ok, commit, config, failures};

/// Damages the state in one of the ways listed in [`CASES`].
#[derive(Serialize, Deserialize)]
struct Tamper {
    case: usize,
}

impl Procedure for Tamper {
    const NAME: &'static str = "tamper";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.unknown();
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        (CASES[self.case].damage)(tx);
        Ok(())
    }
}

struct Case {
    name: &'static str,
    damage: fn(&mut Tx<'_>),
    /// Names of the checks that fail, in the order of the audit.
    fails: &'static str,
}

const fn case(name: &'static str, damage: fn(&mut Tx<'_>), fails: &'static str) -> Case {
    Case { name, damage, fails }
}

/// Initial orders and delivered ones of a small population.
const ORDERS: u32 = 30;
const HOME: WarehouseKey = WarehouseKey::new(1);
const PLACE: DistrictKey = DistrictKey::new(1, 1);

/// The first order that is as asked for.
fn find(tx: &Tx<'_>, is_right: impl Fn(&Tx<'_>, OrderKey, &Order) -> bool) -> OrderKey {
    for district in DistrictKey::all(2) {
        let next = tx.get(&DISTRICT_ORDERS, &district).copied().expect("a district");
        for key in (1..next).map(|order| OrderKey::new(district, order)) {
            if is_right(tx, key, tx.get(&ORDER, &key).expect("an order")) {
                return key;
            }
        }
    }
    panic!("no order is as asked for");
}

/// The customer's newest order, or 0.
fn last_order(tx: &Tx<'_>, customer: CustomerKey) -> u32 {
    let next = tx.get(&DISTRICT_ORDERS, &customer.district()).copied().expect("a district");
    let is_own = |id: &u32| {
        let order = tx.get(&ORDER, &OrderKey::new(customer.district(), *id)).expect("an order");
        order.customer == customer.customer()
    };
    (1..next).rev().find(is_own).unwrap_or(0)
}

/// Whether the customer has ordered again.
fn is_outdated(tx: &Tx<'_>, key: OrderKey, order: &Order) -> bool {
    last_order(tx, CustomerKey::new(key.district(), order.customer)) > key.order()
}

/// A delivered order of the population, without amounts, whose customer has ordered again.
fn old_order(tx: &Tx<'_>) -> OrderKey {
    find(tx, |tx, key, order| key.order() <= 21 && is_outdated(tx, key, order))
}

/// A local order since the population that is not delivered.
fn new_order(tx: &Tx<'_>) -> OrderKey {
    find(tx, |_, key, order| key.order() > ORDERS && order.carrier == 0 && order.all_local == 1)
}

/// A local order since the population that is delivered.
fn delivered_order(tx: &Tx<'_>) -> OrderKey {
    find(tx, |_, key, order| key.order() > ORDERS && order.carrier != 0 && order.all_local == 1)
}

fn edit_order(tx: &mut Tx<'_>, key: OrderKey, edit: fn(&mut Order)) {
    edit(tx.get_mut(&ORDER, &key).expect("an order"));
}

fn second(tx: &Tx<'_>, key: OrderKey) -> OrderLine {
    *tx.get(&ORDER_LINE, &key).expect("lines").get(2).expect("a line")
}

fn second_mut<'a>(tx: &'a mut Tx<'_>, key: OrderKey) -> &'a mut OrderLine {
    &mut tx.get_mut(&ORDER_LINE, &key).expect("lines").first_mut(2)[1]
}

fn edit_line(tx: &mut Tx<'_>, key: OrderKey, edit: fn(&mut OrderLine)) {
    edit(second_mut(tx, key));
}

/// The stock and item of a line since the population.
fn sold(tx: &Tx<'_>) -> (StockKey, DistrictKey) {
    let key = new_order(tx);
    let line = second(tx, key);
    (StockKey::new(line.supply, line.item), key.district())
}

fn edit_stock(tx: &mut Tx<'_>, edit: fn(&mut Stock)) {
    let (key, _) = sold(tx);
    edit(tx.get_mut(&STOCK, &key).expect("stock"));
}

/// A customer of good or bad credit whose account is as asked for.
fn customer(tx: &Tx<'_>, is_bad: bool, is_right: impl Fn(&Account) -> bool) -> CustomerKey {
    let mut customers =
        DistrictKey::all(2).flat_map(|district| (1..=30).map(move |id| CustomerKey::new(district, id)));
    let found = customers.find(|key| {
        let (row, account) = (tx.get(&CUSTOMER, key), tx.get(&CUSTOMER_ACCOUNT, key));
        row.is_some_and(|row| row.has_bad_credit() == is_bad && row.last_number != 0)
            && account.is_some_and(&is_right)
    });
    found.expect("such a customer")
}

fn idle_customer(tx: &Tx<'_>) -> CustomerKey {
    customer(tx, false, |account| account.payment_count == 1 && account.delivery_count == 0)
}

fn edit_account(tx: &mut Tx<'_>, edit: fn(&mut Account)) {
    let key = idle_customer(tx);
    edit(tx.get_mut(&CUSTOMER_ACCOUNT, &key).expect("an account"));
}

fn first_payment(tx: &Tx<'_>) -> HistoryKey {
    HistoryKey { customer: idle_customer(tx), position: 0 }
}

fn edit_payment(tx: &mut Tx<'_>, edit: fn(&mut History)) {
    let key = first_payment(tx);
    edit(tx.get_mut(&HISTORY, &key).expect("a payment"));
}

const CASES: &[Case] = &[
    case("W_YTD", |tx| *tx.get_mut(&WAREHOUSE_YTD, &HOME).expect("a row") += Cents(1), "C1 C8"),
    case("no W_YTD", |tx| assert!(tx.delete(&WAREHOUSE_YTD, &HOME)), "C1 C8 P1"),
    case("D_YTD", |tx| *tx.get_mut(&DISTRICT_YTD, &PLACE).expect("a row") += Cents(1), "C1 C9"),
    case("no D_YTD", |tx| assert!(tx.delete(&DISTRICT_YTD, &PLACE)), "C1 C9 P1"),
    case(
        "W_YTD and D_YTD alike",
        |tx| {
            *tx.get_mut(&WAREHOUSE_YTD, &HOME).expect("a row") += Cents(1);
            *tx.get_mut(&DISTRICT_YTD, &PLACE).expect("a row") += Cents(1);
        },
        "C8 C9",
    ),
    case("D_NEXT_O_ID", |tx| *tx.get_mut(&DISTRICT_ORDERS, &PLACE).expect("a row") += 1, "C2 E7 E10"),
    case("no D_NEXT_O_ID", |tx| assert!(tx.delete(&DISTRICT_ORDERS, &PLACE)), "C2 E7 E10 P1"),
    case("W_NAME", |tx| tx.get_mut(&WAREHOUSE, &HOME).expect("a row").name = Text::new(b"other"), "E12"),
    case("no WAREHOUSE", |tx| assert!(tx.delete(&WAREHOUSE, &HOME)), "E12 P1"),
    case("D_NAME", |tx| tx.get_mut(&DISTRICT, &PLACE).expect("a row").name = Text::new(b"other"), "E12"),
    case("no DISTRICT", |tx| assert!(tx.delete(&DISTRICT, &PLACE)), "E12 P1"),
    case("no population record", |tx| assert!(tx.delete(&POPULATION, &0)), "P1"),
    case("NEW-ORDER of a delivered order", |tx| tx.put(&NEW_ORDER, OrderKey::new(PLACE, 1), ()), "C3 C5 C11"),
    case(
        "NEW-ORDER without an order",
        |tx| tx.put(&NEW_ORDER, OrderKey::new(PLACE, 10_000), ()),
        "C2 C3 C5 C11",
    ),
    case(
        "no oldest NEW-ORDER",
        |tx| {
            let all = OrderKey::new(PLACE, 0)..=OrderKey::new(PLACE, u32::MAX);
            let (key, ()) = tx.first(&NEW_ORDER, all).expect("a new order");
            assert!(tx.delete(&NEW_ORDER, &key));
        },
        "C5 C11",
    ),
    case(
        "no newest NEW-ORDER",
        |tx| {
            let all = OrderKey::new(PLACE, 0)..=OrderKey::new(PLACE, u32::MAX);
            let (key, ()) = tx.last(&NEW_ORDER, all).expect("a new order");
            assert!(tx.delete(&NEW_ORDER, &key));
        },
        "C2 C5 C11",
    ),
    case(
        "no ORDER",
        |tx| {
            let key = old_order(tx);
            assert!(tx.delete(&ORDER, &key));
        },
        "C4 C6 C7 C11 E5 E9 E10",
    ),
    case(
        "no newest ORDER of a customer",
        |tx| {
            let key = find(tx, |tx, key, order| key.order() <= 21 && !is_outdated(tx, key, order));
            assert!(tx.delete(&ORDER, &key));
        },
        "C4 C6 C7 C11 E5 E9 E10",
    ),
    case(
        "O_OL_CNT",
        |tx| {
            let key = old_order(tx);
            edit_order(tx, key, |order| order.line_count += 1);
        },
        "C4 C6 E9",
    ),
    case(
        "O_CARRIER_ID of a new order",
        |tx| {
            let key = new_order(tx);
            edit_order(tx, key, |order| order.carrier = 1);
        },
        "C5 C7",
    ),
    case(
        "no O_CARRIER_ID of a delivered order",
        |tx| {
            let key = old_order(tx);
            edit_order(tx, key, |order| order.carrier = 0);
        },
        "C5 C7",
    ),
    case(
        "O_C_ID",
        |tx| {
            let key = find(tx, |tx, key, order| {
                key.order() > 21 && order.carrier != 0 && is_outdated(tx, key, order)
            });
            let is_other = |id: &u32| last_order(tx, CustomerKey::new(key.district(), *id)) > key.order();
            let owner = tx.get(&ORDER, &key).expect("an order").customer;
            let other = (1..=30).find(|id| *id != owner && is_other(id)).expect("a customer who orders");
            tx.get_mut(&ORDER, &key).expect("an order").customer = other;
        },
        "C10 C12",
    ),
    case(
        "O_ALL_LOCAL",
        |tx| {
            let key = new_order(tx);
            edit_order(tx, key, |order| order.all_local = 0);
        },
        "E5",
    ),
    case(
        "no ORDER-LINE of an old order",
        |tx| {
            let key = old_order(tx);
            *second_mut(tx, key) = OrderLine::NONE;
        },
        "C4 C6 E9",
    ),
    case(
        "no ORDER-LINE of an old order at all",
        |tx| {
            let key = old_order(tx);
            assert!(tx.delete(&ORDER_LINE, &key));
        },
        "C4 C6 E9",
    ),
    case(
        "no ORDER-LINE of a new order",
        |tx| {
            let key = new_order(tx);
            *second_mut(tx, key) = OrderLine::NONE;
        },
        "C4 C6 E2 E9",
    ),
    case(
        "ORDER-LINE without an order",
        |tx| {
            let key = new_order(tx);
            let line = second(tx, key);
            let mut lines = OrderLines::EMPTY;
            lines.set(1, line);
            tx.put(&ORDER_LINE, OrderKey::new(key.district(), 10_000), lines);
        },
        "C4 C6 C7 E2 E5 E9",
    ),
    case(
        "OL_NUMBER",
        |tx| {
            let is_short = |order: &Order| order.all_local == 1 && order.line_count < 15;
            let key = find(tx, |_, key, order| key.order() > ORDERS && order.carrier == 0 && is_short(order));
            let line = second(tx, key);
            *second_mut(tx, key) = OrderLine::NONE;
            tx.get_mut(&ORDER_LINE, &key).expect("lines").set(15, line);
        },
        "E9",
    ),
    case(
        "no OL_DELIVERY_D of an old order",
        |tx| {
            let key = old_order(tx);
            edit_line(tx, key, |line| line.delivery_us = 0);
        },
        "C7",
    ),
    case(
        "OL_DELIVERY_D of a new order",
        |tx| {
            let key = new_order(tx);
            edit_line(tx, key, |line| line.delivery_us = 1);
        },
        "C7 C10 C12",
    ),
    case(
        "OL_AMOUNT of a new order",
        |tx| {
            let key = new_order(tx);
            edit_line(tx, key, |line| line.amount += 1);
        },
        "E3",
    ),
    case(
        "OL_AMOUNT of a delivered order",
        |tx| {
            let key = delivered_order(tx);
            edit_line(tx, key, |line| line.amount += 1);
        },
        "C10 C12 E3",
    ),
    case(
        "OL_QUANTITY of the population",
        |tx| {
            let key = old_order(tx);
            edit_line(tx, key, |line| line.quantity = 6);
        },
        "E3",
    ),
    case(
        "OL_QUANTITY",
        |tx| {
            let key = new_order(tx);
            edit_line(tx, key, |line| line.quantity += 1);
        },
        "E2 E3",
    ),
    case(
        "OL_I_ID",
        |tx| {
            let key = new_order(tx);
            edit_line(tx, key, |line| line.item = line.item % 200 + 1);
        },
        "E2 E3 E4",
    ),
    case(
        "OL_SUPPLY_W_ID",
        |tx| {
            let key = new_order(tx);
            edit_line(tx, key, |line| line.supply = 3 - line.supply);
        },
        "E2 E4 E5",
    ),
    case(
        "OL_DIST_INFO",
        |tx| {
            let key = new_order(tx);
            edit_line(tx, key, |line| line.district_info = Text::EMPTY);
        },
        "E4",
    ),
    case("S_QUANTITY", |tx| edit_stock(tx, |stock| stock.quantity ^= 1), "E1"),
    case("S_QUANTITY out of bounds", |tx| edit_stock(tx, |stock| stock.quantity += 91), "E1"),
    case("S_YTD", |tx| edit_stock(tx, |stock| stock.ytd += 91), "E2"),
    case("S_ORDER_CNT", |tx| edit_stock(tx, |stock| stock.order_count += 1), "E2"),
    case("S_REMOTE_CNT", |tx| edit_stock(tx, |stock| stock.remote_count += 1), "E2"),
    case(
        "no STOCK",
        |tx| {
            let (key, _) = sold(tx);
            assert!(tx.delete(&STOCK, &key));
        },
        "E1 E2 P1",
    ),
    case(
        "S_DIST",
        |tx| {
            let (key, district) = sold(tx);
            let info = tx.get_mut(&STOCK_INFO, &key).expect("stock");
            info.districts[usize::from(district.district()) - 1] = Text::EMPTY;
        },
        "E4",
    ),
    case(
        "no S_DIST",
        |tx| {
            let (key, _) = sold(tx);
            assert!(tx.delete(&STOCK_INFO, &key));
        },
        "E4 P1",
    ),
    case(
        "I_PRICE",
        |tx| {
            let (key, _) = sold(tx);
            tx.get_mut(&ITEM, &key.item()).expect("an item").price += 1;
        },
        "E3",
    ),
    case(
        "no ITEM",
        |tx| {
            let (key, _) = sold(tx);
            assert!(tx.delete(&ITEM, &key.item()));
        },
        "E3 P1",
    ),
    case("C_BALANCE", |tx| edit_account(tx, |account| account.balance += Cents(1)), "C10 C12"),
    case("C_YTD_PAYMENT", |tx| edit_account(tx, |account| account.ytd_payment += Cents(1)), "C12 E6"),
    case("C_PAYMENT_CNT", |tx| edit_account(tx, |account| account.payment_count += 1), "E6"),
    case("C_DELIVERY_CNT", |tx| edit_account(tx, |account| account.delivery_count += 1), "C11 E8"),
    case(
        "no account",
        |tx| {
            let key = idle_customer(tx);
            assert!(tx.delete(&CUSTOMER_ACCOUNT, &key));
        },
        "C10 C12 E6 P1",
    ),
    case("H_AMOUNT", |tx| edit_payment(tx, |payment| payment.amount += Cents(1)), "C8 C9 C10 E6"),
    case("H_D_ID", |tx| edit_payment(tx, |payment| payment.district = payment.district % 10 + 1), "C9 E12"),
    case("H_W_ID", |tx| edit_payment(tx, |payment| payment.warehouse = 3 - payment.warehouse), "C8 C9 E12"),
    case("H_DATA", |tx| edit_payment(tx, |payment| payment.data = Text::EMPTY), "E12"),
    case(
        "no HISTORY",
        |tx| {
            let key = first_payment(tx);
            assert!(tx.delete(&HISTORY, &key));
        },
        "C8 C9 C10 E6",
    ),
    case(
        "HISTORY of nothing",
        |tx| {
            let key = first_payment(tx);
            let row = History { amount: Cents::ZERO, ..*tx.get(&HISTORY, &key).expect("a payment") };
            tx.put(&HISTORY, HistoryKey { position: u64::MAX, ..key }, row);
        },
        "E6",
    ),
    case(
        "C_DATA of a good credit",
        |tx| {
            let key = idle_customer(tx);
            tx.get_mut(&CUSTOMER_DATA, &key).expect("data").prepend(b"x");
        },
        "E11",
    ),
    case(
        "C_DATA of a bad credit",
        |tx| {
            let key = customer(tx, true, |account| account.payment_count > 1);
            tx.get_mut(&CUSTOMER_DATA, &key).expect("data").prepend(b"x");
        },
        "E11",
    ),
    case(
        "no note in C_DATA of a bad credit",
        |tx| {
            let key = customer(tx, true, |account| account.payment_count > 1);
            tx.put(&CUSTOMER_DATA, key, CustomerData::filled(400, |text| text.fill(b'x')));
        },
        "E11",
    ),
    case(
        "no C_DATA",
        |tx| {
            let key = idle_customer(tx);
            assert!(tx.delete(&CUSTOMER_DATA, &key));
        },
        "E11 P1",
    ),
    case(
        "no CUSTOMER",
        |tx| {
            let key = idle_customer(tx);
            assert!(tx.delete(&CUSTOMER, &key));
        },
        "E11 P1 P2",
    ),
];

/// A state after a run, and what was acknowledged.
fn state() -> (Tpcc, Engine, Acknowledged) {
    let workload: Tpcc = Tpcc::new(Scale::small(2), 1);
    let builder: Builder = workload.register(Engine::builder()).procedure::<Tamper>().threads(2);
    let engine = builder.open(std::sync::Arc::new(MemoryLog::new())).expect("the engine opens");
    workload.populate(&engine, &mut |_, _| {}).expect("the population commits");
    let one = runner::Config { clients: 1, ..config(700, 1) };
    let report = runner::run(&engine, &workload, &one, &mut |_| {}).expect("the run ends");
    assert_ok(&report.checks);
    let observed = workload.observe(&engine.snapshot());
    (workload, engine, observed)
}

fn expect(name: &str, checks: &[Check], fails: &str) {
    let failed: Vec<&Check> = checks.iter().filter(|check| !check.ok).collect();
    assert_eq!(failures(checks).join(" "), fails, "{name}: {failed:#?}");
    for check in failed {
        assert!(check.detail.contains("; first: "), "{name}: there is a counter-example: {}", check.detail);
    }
}

#[test]
fn a_damaged_row_fails_exactly_the_right_checks() {
    for (number, case) in CASES.iter().enumerate() {
        let (workload, engine, observed) = state();
        commit(&engine, &Tamper { case: number });
        let snapshot = engine.snapshot();
        expect(case.name, &workload.audit(&snapshot, Some(&observed)), case.fails);
        // The state alone shows the same damage.
        expect(case.name, &workload.audit(&snapshot, None), case.fails_alone());
    }
}

impl Case {
    /// Without acknowledgements, E7 and E8 are held against the rows of ORDER, so that a missing or wrong order fails
    /// them, too. Orders of the population are not counted.
    fn fails_alone(&self) -> &'static str {
        match self.name {
            "O_CARRIER_ID of a new order" => "C5 C7 E8",
            _ => self.fails,
        }
    }
}

#[test]
fn acknowledgements_that_the_state_does_not_show_fail_their_checks() {
    let (workload, engine, observed) = state();
    let snapshot = engine.snapshot();
    let mut other = observed.clone();
    other.new_orders[3] += 1;
    expect("a lost order", &workload.audit(&snapshot, Some(&other)), "E7");
    let mut other = observed;
    other.deliveries[3] -= 1;
    expect("a delivery too many", &workload.audit(&snapshot, Some(&other)), "E8");
}

/// An engine whose indexes hold what these say, with the tables of the population of the other's log.
fn indexed_otherwise(
    log: &Arc<dyn SharedLog>,
    by_name: fn(&CustomerKey, &Customer) -> Option<NameRank>,
    by_customer: fn(&OrderKey, &Order) -> Option<CustomerKey>,
) -> Engine {
    let by_name = Index::new(CUSTOMER_BY_NAME.name(), CUSTOMER, by_name)
        .grouped("by name", |rank: &NameRank| rank.name.district().packed());
    let by_customer = Index::new(ORDER_BY_CUSTOMER.name(), ORDER, by_customer)
        .grouped("by customer", |customer: &CustomerKey| customer.district().packed());
    let builder = Engine::builder().mode(Mode::Sequential);
    let builder = builder.table(&POPULATION).table(&ITEM).table(&WAREHOUSE).table(&DISTRICT);
    let builder = builder.table(&STOCK_INFO).table(&STOCK).table(&WAREHOUSE_YTD).table(&DISTRICT_YTD);
    let builder = builder.table(&CUSTOMER).index(&by_name).table(&CUSTOMER_ACCOUNT).table(&CUSTOMER_DATA);
    let builder = builder.table(&HISTORY).table(&DISTRICT_ORDERS).table(&ORDER).index(&by_customer);
    let builder = builder.table(&NEW_ORDER).table(&ORDER_LINE);
    let builder = builder.procedure::<load::LoadPopulation>().procedure::<load::LoadItems>();
    let builder = builder.procedure::<load::LoadWarehouse>().procedure::<load::LoadStock>();
    let builder = builder.procedure::<load::LoadCustomers>().procedure::<load::LoadOrders>();
    let builder = builder.procedure::<NewOrder>().procedure::<Payment>().procedure::<OrderStatus>();
    let builder = builder.procedure::<Delivery>().procedure::<StockLevel>();
    builder.open(Arc::clone(log)).expect("the engine opens")
}

#[test]
fn an_index_that_finds_something_else_fails_its_check() {
    let workload: Tpcc = Tpcc::new(Scale::small(1), 1);
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let builder = workload.register(Engine::builder());
    let engine = builder.open(Arc::clone(&log)).expect("the engine opens");
    workload.populate(&engine, &mut |_, _| {}).expect("the population commits");
    drop(engine);
    let right_name = |key: &CustomerKey, row: &Customer| {
        Some(NameRank { name: NameKey::new(key.district(), row.last_number), first: row.first })
    };
    let right_order = |key: &OrderKey, row: &Order| Some(CustomerKey::new(key.district(), row.customer));
    let audit = |by_name, by_customer| {
        workload.audit(&indexed_otherwise(&log, by_name, by_customer).snapshot(), None)
    };
    assert_ok(&audit(right_name, right_order));
    let unsorted = |key: &CustomerKey, row: &Customer| {
        Some(NameRank { name: NameKey::new(key.district(), row.last_number), first: Text::new(b"~") })
    };
    expect("unsorted names", &audit(unsorted, right_order), "P2");
    let other_name = |key: &CustomerKey, row: &Customer| {
        let name = row.last_number + u16::from(key.customer() == 7);
        Some(NameRank { name: NameKey::new(key.district(), name), first: row.first })
    };
    expect("another name", &audit(other_name, right_order), "P2");
    let missing = |key: &CustomerKey, row: &Customer| {
        let name = NameKey::new(key.district(), row.last_number);
        (key.customer() != 7).then_some(NameRank { name, first: row.first })
    };
    expect("a customer without a name", &audit(missing, right_order), "P2");
    let first_only = |key: &OrderKey, row: &Order| {
        (key.order() != 30).then_some(CustomerKey::new(key.district(), row.customer))
    };
    expect("no last order", &audit(right_name, first_only), "P2");
}

#[test]
fn every_check_fails_in_some_case() {
    let failing: BTreeSet<&str> = CASES.iter().flat_map(|case| case.fails.split(' ')).collect();
    let (workload, engine, _) = state();
    let checks = workload.audit(&engine.snapshot(), None);
    let all: BTreeSet<&str> = checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(failing, all);
    assert_eq!(all.len(), 26);
}

#[test]
fn an_empty_state_fails_all_checks_that_need_a_row() {
    let workload: Tpcc = Tpcc::new(Scale::small(1), 1);
    let engine = crate::support::empty(&workload, 1);
    let checks = workload.audit(&engine.snapshot(), None);
    let passed: Vec<&str> = checks.iter().filter(|check| check.ok).map(|check| check.name.as_str()).collect();
    // Without rows there are no gaps, and no lines since the population.
    assert_eq!(passed, ["C3", "C4", "E4", "E8"]);
}
