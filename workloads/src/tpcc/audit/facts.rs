//! What the checks need to know of a state, gathered in one pass over each table.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use mixlog_engine::Snapshot;

use super::lines::Lines;
use crate::check::{Check, Tally};
use crate::money::Cents;
use crate::text::Text;
use crate::tpcc::keys::{CustomerKey, DISTRICTS, DistrictKey, NameKey, NameRank, OrderKey, StockKey};
use crate::tpcc::payment::Note;
use crate::tpcc::rows::{Account, CustomerData, Order, Stock, history_data};
use crate::tpcc::schema::{
    CUSTOMER, CUSTOMER_ACCOUNT, CUSTOMER_BY_NAME, CUSTOMER_DATA, DISTRICT, DISTRICT_ORDERS, DISTRICT_YTD,
    HISTORY, ITEM, NEW_ORDER, ORDER, ORDER_BY_CUSTOMER, Population, STOCK, STOCK_INFO, WAREHOUSE,
    WAREHOUSE_YTD,
};

/// A map whose order, were it ever used, would be the same in every run.
pub(super) type Map<K, V> = HashMap<K, V, FixedState>;

#[derive(Default)]
pub(super) struct WarehouseFacts {
    pub(super) name: Option<Text<10>>,
    pub(super) ytd: Option<Cents>,
    pub(super) paid: Cents,
}

#[derive(Default)]
pub(super) struct DistrictFacts {
    pub(super) name: Option<Text<10>>,
    pub(super) ytd: Option<Cents>,
    /// D_NEXT_O_ID.
    pub(super) next: Option<u32>,
    pub(super) paid: Cents,
    pub(super) orders: u64,
    pub(super) last_order: u32,
    /// Orders after those of the population.
    pub(super) run_orders: u64,
    /// Orders that were delivered after the population.
    pub(super) run_deliveries: u64,
    pub(super) new_orders: u64,
    pub(super) first_new: Option<u32>,
    pub(super) last_new: Option<u32>,
    /// The sum of O_OL_CNT.
    pub(super) line_counts: u64,
    pub(super) lines: u64,
    /// The sum of C_DELIVERY_CNT.
    pub(super) deliveries: u64,
}

#[derive(Default)]
pub(super) struct CustomerFacts {
    pub(super) has_bad_credit: Option<bool>,
    pub(super) first: Text<16>,
    pub(super) last_number: u16,
    pub(super) account: Option<Account>,
    /// Whether C_DATA is what E11 demands, if it exists.
    pub(super) data: Option<bool>,
    pub(super) payments: u32,
    pub(super) paid: Cents,
    /// The newest payment: its position, where it was made, and the amount.
    pub(super) last_payment: (u64, DistrictKey, Cents),
    /// The sum of OL_AMOUNT of the lines that were delivered.
    pub(super) delivered: Cents,
    pub(super) last_order: u32,
    /// How often the index of last names finds the customer.
    pub(super) listed: u32,
    /// The newest order that the index of orders finds.
    pub(super) found_order: u32,
}

#[derive(Default)]
pub(super) struct OrderFacts {
    pub(super) row: Option<Order>,
    pub(super) is_new: bool,
    pub(super) lines: u32,
    pub(super) delivered_lines: u32,
    pub(super) remote_lines: u32,
    pub(super) delivered: Cents,
    /// A bit for each OL_NUMBER.
    pub(super) numbers: u32,
}

#[derive(Default)]
pub(super) struct StockFacts {
    pub(super) row: Option<Stock>,
    pub(super) ytd: u64,
    pub(super) orders: u64,
    pub(super) remote: u64,
}

/// What the state holds, or should hold: expected keys are there even if their rows are not.
pub(super) struct Facts {
    pub(super) population: Population,
    pub(super) warehouses: BTreeMap<u32, WarehouseFacts>,
    pub(super) districts: BTreeMap<DistrictKey, DistrictFacts>,
    pub(super) customers: Map<CustomerKey, CustomerFacts>,
    pub(super) orders: Map<OrderKey, OrderFacts>,
    pub(super) stock: Map<StockKey, StockFacts>,
    pub(super) lines: Lines,
    /// E12, which looks at rows of HISTORY that nothing else needs.
    pub(super) history: Check,
    rows: Vec<(&'static str, u64, u64)>,
}

impl Facts {
    pub(super) fn gather(snapshot: &Snapshot, population: &Population) -> Self {
        let scale = population.scale;
        let mut facts = Self {
            population: *population,
            warehouses: (1..=scale.warehouses).map(|id| (id, WarehouseFacts::default())).collect(),
            districts: DistrictKey::all(scale.warehouses)
                .map(|key| (key, DistrictFacts::default()))
                .collect(),
            customers: Map::default(),
            orders: Map::default(),
            stock: Map::default(),
            lines: Lines::default(),
            history: Tally::new("E12", "history rows").check(),
            rows: Vec::new(),
        };
        for district in DistrictKey::all(scale.warehouses) {
            let keys = (1..=scale.customers).map(|id| CustomerKey::new(district, id));
            facts.customers.extend(keys.map(|key| (key, CustomerFacts::default())));
        }
        for warehouse in 1..=scale.warehouses {
            let keys = (1..=scale.items).map(|item| StockKey::new(warehouse, item));
            facts.stock.extend(keys.map(|key| (key, StockFacts::default())));
        }
        facts.gather_places(snapshot);
        facts.gather_stock(snapshot);
        facts.gather_history(snapshot);
        facts.gather_customers(snapshot);
        facts.gather_orders(snapshot);
        facts.gather_lines(snapshot);
        facts.sum_orders();
        facts
    }

    /// Rows of the tables that do not grow: name, found, expected.
    pub(super) fn row_counts(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        self.rows.iter().copied()
    }

    fn gather_places(&mut self, snapshot: &Snapshot) {
        let warehouses = u64::from(self.population.scale.warehouses);
        let districts = warehouses * u64::from(DISTRICTS);
        let mut rows = [0; 5];
        snapshot.for_each(&WAREHOUSE, |key, place| {
            rows[0] += 1;
            self.warehouses.entry(key.warehouse()).or_default().name = Some(place.name);
        });
        snapshot.for_each(&WAREHOUSE_YTD, |key, ytd| {
            rows[1] += 1;
            self.warehouses.entry(key.warehouse()).or_default().ytd = Some(*ytd);
        });
        snapshot.for_each(&DISTRICT, |key, place| {
            rows[2] += 1;
            self.districts.entry(*key).or_default().name = Some(place.name);
        });
        snapshot.for_each(&DISTRICT_YTD, |key, ytd| {
            rows[3] += 1;
            self.districts.entry(*key).or_default().ytd = Some(*ytd);
        });
        snapshot.for_each(&DISTRICT_ORDERS, |key, next| {
            rows[4] += 1;
            self.districts.entry(*key).or_default().next = Some(*next);
        });
        self.rows.extend([
            ("WAREHOUSE", rows[0], warehouses),
            ("WAREHOUSE_YTD", rows[1], warehouses),
            ("DISTRICT", rows[2], districts),
            ("DISTRICT_YTD", rows[3], districts),
            ("DISTRICT_ORDERS", rows[4], districts),
        ]);
    }

    fn gather_stock(&mut self, snapshot: &Snapshot) {
        let scale = self.population.scale;
        let mut rows = [0; 3];
        snapshot.for_each(&ITEM, |item, row| {
            rows[0] += 1;
            self.lines.prices.insert(*item, row.price);
        });
        snapshot.for_each(&STOCK, |key, row| {
            rows[1] += 1;
            self.stock.entry(*key).or_default().row = Some(*row);
        });
        snapshot.for_each(&STOCK_INFO, |key, row| {
            rows[2] += 1;
            self.lines.district_infos.insert(*key, row.districts);
        });
        let items = u64::from(scale.items);
        let stock = items * u64::from(scale.warehouses);
        self.rows.extend([
            ("ITEM", rows[0], items),
            ("STOCK", rows[1], stock),
            ("STOCK_INFO", rows[2], stock),
        ]);
    }

    fn gather_history(&mut self, snapshot: &Snapshot) {
        let mut data = Tally::new("E12", "history rows");
        snapshot.for_each(&HISTORY, |key, row| {
            let district = DistrictKey::new(row.warehouse, row.district as u8);
            let warehouse = self.warehouses.entry(row.warehouse).or_default();
            warehouse.paid += row.amount;
            let names = (warehouse.name, self.districts.entry(district).or_default());
            names.1.paid += row.amount;
            let expected =
                names.0.zip(names.1.name).map(|(warehouse, place)| history_data(&warehouse, &place));
            data.see(expected == Some(row.data), key.customer.packed(), || {
                format!("{} at {}: {:?} instead of {expected:?}", key.customer, key.position, row.data)
            });
            let customer = self.customers.entry(key.customer).or_default();
            customer.payments += 1;
            customer.paid += row.amount;
            if key.position >= customer.last_payment.0 {
                customer.last_payment = (key.position, district, row.amount);
            }
        });
        self.history = data.check();
    }

    fn gather_customers(&mut self, snapshot: &Snapshot) {
        let mut rows = [0; 3];
        snapshot.for_each(&CUSTOMER, |key, row| {
            rows[0] += 1;
            let customer = self.customers.entry(*key).or_default();
            customer.has_bad_credit = Some(row.has_bad_credit());
            customer.first = row.first;
            customer.last_number = row.last_number;
        });
        snapshot.for_each(&CUSTOMER_ACCOUNT, |key, row| {
            rows[1] += 1;
            self.customers.entry(*key).or_default().account = Some(*row);
            let district = self.districts.entry(key.district()).or_default();
            district.deliveries += u64::from(row.delivery_count);
        });
        let population = self.population;
        snapshot.for_each(&CUSTOMER_DATA, |key, row| {
            rows[2] += 1;
            let customer = self.customers.entry(*key).or_default();
            customer.data = Some(is_data_right(&population, *key, customer, row));
        });
        let scale = self.population.scale;
        let expected = u64::from(scale.customers) * u64::from(DISTRICTS) * u64::from(scale.warehouses);
        self.rows.extend([
            ("CUSTOMER", rows[0], expected),
            ("CUSTOMER_ACCOUNT", rows[1], expected),
            ("CUSTOMER_DATA", rows[2], expected),
        ]);
    }

    fn gather_orders(&mut self, snapshot: &Snapshot) {
        snapshot.for_each(&ORDER, |key, row| self.orders.entry(*key).or_default().row = Some(*row));
        snapshot.for_each(&NEW_ORDER, |key, ()| {
            self.orders.entry(*key).or_default().is_new = true;
            let district = self.districts.entry(key.district()).or_default();
            district.new_orders += 1;
            let first = district.first_new.unwrap_or(u32::MAX);
            district.first_new = Some(first.min(key.order()));
            district.last_new = district.last_new.max(Some(key.order()));
        });
    }

    /// Adds up what orders mean to their districts and customers, once their lines are known.
    fn sum_orders(&mut self) {
        let scale = self.population.scale;
        for (key, order) in &self.orders {
            let Some(row) = order.row else {
                continue;
            };
            let district = self.districts.entry(key.district()).or_default();
            district.orders += 1;
            district.last_order = district.last_order.max(key.order());
            district.run_orders += u64::from(key.order() > scale.orders());
            district.run_deliveries += u64::from(key.order() > scale.delivered() && row.carrier != 0);
            district.line_counts += u64::from(row.line_count);
            let customer = CustomerKey::new(key.district(), row.customer);
            let customer = self.customers.entry(customer).or_default();
            customer.delivered += order.delivered;
            customer.last_order = customer.last_order.max(key.order());
        }
    }

    /// P2: the index of last names finds each customer once, under his or her last name, sorted by first name, and the
    /// newest order that the other index finds of a customer is the newest one there is.
    pub(super) fn indexes(mut self, snapshot: &Snapshot) -> Check {
        let mut tally = Tally::new("P2", "index entries");
        for district in DistrictKey::all(self.population.scale.warehouses) {
            let every = [0, u16::MAX].map(|name| NameKey::new(district, name));
            let all = *NameRank::all(every[0]).start()..=*NameRank::all(every[1]).end();
            for (rank, key) in snapshot.range_by(&CUSTOMER_BY_NAME, all) {
                let customer = self.customers.entry(key).or_default();
                customer.listed += 1;
                let right = NameRank {
                    name: NameKey::new(key.district(), customer.last_number),
                    first: customer.first,
                };
                tally.see(rank == right, key.packed(), || {
                    format!("{key} is listed at a wrong place under last name {}", rank.name.name())
                });
            }
            let all = CustomerKey::new(district, 0)..=CustomerKey::new(district, u32::MAX);
            for (key, order) in snapshot.range_by(&ORDER_BY_CUSTOMER, all) {
                self.customers.entry(key).or_default().found_order = order.order();
            }
        }
        for (key, customer) in &self.customers {
            tally.see(customer.listed == 1, key.packed(), || {
                format!("{key} is listed {} times among the last names", customer.listed)
            });
            let last = customer.found_order;
            tally.see(last == customer.last_order, key.packed(), || {
                format!("the last order of {key} is {} and not {last}", customer.last_order)
            });
        }
        tally.check()
    }
}

/// E11: C_DATA starts with the newest payment of a customer with bad credit; otherwise it is as populated.
fn is_data_right(
    population: &Population,
    key: CustomerKey,
    customer: &CustomerFacts,
    row: &CustomerData,
) -> bool {
    let (position, district, amount) = customer.last_payment;
    if customer.has_bad_credit == Some(true) && position > 0 {
        let note = Note { customer: key, district, amount }.text();
        row.is_within_capacity() && row.text().starts_with(note.as_bytes())
    } else {
        *row == population.customer_data(key)
    }
}
