//! TPC-C by hand.

use std::collections::VecDeque;

use mixlog_workloads::money::Cents;
use mixlog_workloads::tpcc::customer::{Missing, Selector, middle};
use mixlog_workloads::tpcc::delivery::{Delivered, Delivery};
use mixlog_workloads::tpcc::driver::Transaction;
use mixlog_workloads::tpcc::keys::{
    CustomerKey, DISTRICTS, DistrictKey, HistoryKey, NameKey, OrderKey, StockKey, WarehouseKey,
};
use mixlog_workloads::tpcc::new_order::{
    MAX_LINES, NewOrder, NewOrderAbort, Ordered, line_rows, take, total,
};
use mixlog_workloads::tpcc::order_status::{OrderStatus, Status, StatusLine};
use mixlog_workloads::tpcc::payment::{Paid, Payment};
use mixlog_workloads::tpcc::rows::{
    Account, Customer, CustomerData, History, Item, Order, OrderLine, Place, Stock, StockInfo,
};
use mixlog_workloads::tpcc::schema::Population;
use mixlog_workloads::tpcc::stock_level::{RECENT_ORDERS, StockLevel};

use super::Map;

/// A warehouse.
pub(crate) struct WarehouseRecord {
    /// W_YTD.
    pub(crate) ytd: Cents,
    /// The rest.
    pub(crate) place: Place,
}

/// A district.
pub(crate) struct DistrictRecord {
    /// D_YTD.
    pub(crate) ytd: Cents,
    /// D_NEXT_O_ID.
    pub(crate) next: u32,
    /// NEW-ORDER: O_ID, oldest first.
    pub(crate) new_orders: VecDeque<u32>,
    /// The rest.
    pub(crate) place: Place,
}

/// A customer.
pub(crate) struct CustomerRecord {
    /// The money.
    pub(crate) account: Account,
    /// The newest O_ID.
    pub(crate) last_order: u32,
    /// The rest, without C_DATA.
    pub(crate) customer: Customer,
    /// C_DATA.
    pub(crate) data: CustomerData,
}

/// An order, and where its lines start among all lines.
pub(crate) struct OrderRecord {
    /// The row.
    pub(crate) row: Order,
    /// Its lines are this one and those that follow.
    pub(crate) first_line: usize,
}

impl OrderRecord {
    /// Where its lines are.
    pub(crate) fn lines(&self) -> std::ops::Range<usize> {
        self.first_line..self.first_line + usize::from(self.row.line_count)
    }
}

/// All rows.
#[derive(Default)]
pub(crate) struct Tpcc {
    /// ITEM.
    pub(crate) items: Map<u32, Item>,
    /// STOCK.
    pub(crate) stock: Map<StockKey, (Stock, StockInfo)>,
    /// WAREHOUSE.
    pub(crate) warehouses: Map<WarehouseKey, WarehouseRecord>,
    /// DISTRICT and NEW-ORDER.
    pub(crate) districts: Map<DistrictKey, DistrictRecord>,
    /// CUSTOMER.
    pub(crate) customers: Map<CustomerKey, CustomerRecord>,
    /// C_ID by last name, sorted by C_FIRST.
    pub(crate) names: Map<NameKey, Vec<u32>>,
    /// HISTORY.
    pub(crate) history: Vec<(HistoryKey, History)>,
    /// ORDER.
    pub(crate) orders: Map<OrderKey, OrderRecord>,
    /// ORDER-LINE, each order's in a row.
    pub(crate) lines: Vec<OrderLine>,
}

impl Tpcc {
    /// The rows at first.
    pub(crate) fn populate(population: &Population, time_us: u64) -> Self {
        let scale = population.scale;
        let mut all = Self::default();
        all.items.extend((1..=scale.items).map(|item| (item, population.item(item))));
        for id in 1..=scale.warehouses {
            let keys = (1..=scale.items).map(|item| StockKey::new(id, item));
            all.stock.extend(keys.map(|key| (key, (population.stock(key), population.stock_info(key)))));
            let (ytd, place) = (population.warehouse_ytd(), population.warehouse(id));
            all.warehouses.insert(WarehouseKey::new(id), WarehouseRecord { ytd, place });
            for district in DistrictKey::of_warehouse(id) {
                all.populate_district(population, district, &place, time_us);
            }
        }
        all
    }

    fn populate_district(
        &mut self,
        population: &Population,
        key: DistrictKey,
        warehouse: &Place,
        time_us: u64,
    ) {
        let scale = population.scale;
        let place = population.district(key);
        let history = population.history(key, warehouse, &place, time_us);
        for customer_key in (1..=scale.customers).map(|id| CustomerKey::new(key, id)) {
            let customer = population.customer(customer_key, time_us);
            let (account, data) = (population.account(), population.customer_data(customer_key));
            let record = CustomerRecord { account, last_order: 0, customer, data };
            self.customers.insert(customer_key, record);
            let names = self.names.entry(NameKey::new(key, customer.last_number)).or_default();
            names.push(customer_key.customer());
            self.history.push((HistoryKey { customer: customer_key, position: 0 }, history));
        }
        for name in (0..scale.last_names()).map(|name| NameKey::new(key, name)) {
            if let Some(ids) = self.names.get_mut(&name) {
                ids.sort_unstable_by_key(|id| {
                    (self.customers[&CustomerKey::new(key, *id)].customer.first, *id)
                });
            }
        }
        let mut new_orders = VecDeque::new();
        for (customer, order) in population.order_customers(key).into_iter().zip(1..) {
            let order_key = OrderKey::new(key, order);
            let row = population.order(order_key, customer, time_us);
            self.orders.insert(order_key, OrderRecord { row, first_line: self.lines.len() });
            let numbers = 1..=row.line_count;
            self.lines.extend(numbers.map(|number| population.order_line(order_key.line(number), time_us)));
            let customer = self.customers.get_mut(&CustomerKey::new(key, customer));
            customer.expect("a customer of the permutation").last_order = order;
            if !population.is_delivered(order_key) {
                new_orders.push_back(order);
            }
        }
        let record =
            DistrictRecord { ytd: population.district_ytd(), next: scale.orders() + 1, new_orders, place };
        self.districts.insert(key, record);
    }

    /// Runs one transaction as the entry at this position and time, and hands its reply to `see`, unread.
    #[inline]
    pub(crate) fn run(&mut self, transaction: &Transaction, position: u64, time_us: u64, see: &mut impl See) {
        match transaction {
            Transaction::NewOrder(order) => see.new_order(self.new_order(order, time_us)),
            Transaction::Payment(payment) => see.payment(self.payment(payment, position, time_us)),
            Transaction::OrderStatus(status) => see.order_status(self.order_status(status)),
            Transaction::Delivery(delivery) => see.delivery(self.delivery(delivery, time_us)),
            Transaction::StockLevel(level) => see.stock_level(self.stock_level(level)),
        }
    }

    /// New-Order.
    pub(crate) fn new_order(&mut self, order: &NewOrder, entry_us: u64) -> Result<Ordered, NewOrderAbort> {
        let district_key = order.district_key();
        let warehouse = self.warehouses.get(&WarehouseKey::new(order.warehouse)).ok_or(Missing::Warehouse)?;
        let warehouse_tax = warehouse.place.tax;
        let lines = order.lines.as_slice();
        let mut items = [None; MAX_LINES];
        for ((line, item), number) in lines.iter().zip(&mut items).zip(1..) {
            *item = self.items.get(&line.item);
            if item.is_none() {
                return Err(NewOrderAbort::UnusedItem { line: number, item: line.item });
            }
        }
        let district = self.districts.get_mut(&district_key).ok_or(Missing::District)?;
        let customer = self.customers.get_mut(&CustomerKey::new(district_key, order.customer));
        let customer = customer.ok_or(Missing::Customer)?;
        let (last, credit, discount) =
            (customer.customer.last, customer.customer.credit, customer.customer.discount);
        let (district_tax, id) = (district.place.tax, district.next);
        district.next += 1;
        district.new_orders.push_back(id);
        customer.last_order = id;
        let record = OrderRecord { row: order.order_row(entry_us), first_line: self.lines.len() };
        self.orders.insert(OrderKey::new(district_key, id), record);

        let mut shown = Vec::with_capacity(lines.len());
        let mut sum = Cents::ZERO;
        for (line, item) in lines.iter().zip(items.into_iter().flatten()) {
            let stock = self.stock.get_mut(&StockKey::new(line.supply, line.item)).ok_or(Missing::Stock)?;
            take(&mut stock.0, line.quantity, line.supply != order.warehouse);
            let (row, line) = line_rows(line, order.district, item, &stock.1, stock.0.quantity);
            self.lines.push(row);
            sum += row.cents();
            shown.push(line);
        }
        let total = total(sum, discount, warehouse_tax, district_tax);
        Ok(Ordered {
            order: id,
            entry_us,
            last,
            credit,
            discount,
            warehouse_tax,
            district_tax,
            total,
            lines: shown,
        })
    }

    fn find(&self, selector: Selector, district: DistrictKey) -> Option<CustomerKey> {
        let id = match selector {
            Selector::Id(id) => Some(id),
            Selector::LastName(name) => {
                self.names.get(&NameKey::new(district, name)).and_then(|ids| middle(ids))
            }
        };
        id.map(|id| CustomerKey::new(district, id))
    }

    /// Payment.
    pub(crate) fn payment(
        &mut self,
        payment: &Payment,
        position: u64,
        date_us: u64,
    ) -> Result<Paid, Missing> {
        let key = self.find(payment.customer, payment.customer_district_key()).ok_or(Missing::Customer)?;
        let warehouse =
            self.warehouses.get_mut(&WarehouseKey::new(payment.warehouse)).ok_or(Missing::Warehouse)?;
        let district = self.districts.get_mut(&payment.district_key()).ok_or(Missing::District)?;
        let record = self.customers.get_mut(&key).ok_or(Missing::Customer)?;
        warehouse.ytd += payment.cents();
        district.ytd += payment.cents();
        payment.pay(&mut record.account);
        let customer = &record.customer;
        let data = customer.has_bad_credit().then(|| payment.note(key, &mut record.data));
        let history = payment.history_row(&warehouse.place.name, &district.place.name, date_us);
        self.history.push((HistoryKey { customer: key, position }, history));
        Ok(Paid {
            warehouse: warehouse.place.address,
            district: district.place.address,
            customer: key.customer(),
            first: customer.first,
            middle: customer.middle,
            last: customer.last,
            address: customer.address,
            phone: customer.phone,
            since_us: customer.since_us,
            credit: customer.credit,
            credit_limit: customer.credit_limit,
            discount: customer.discount,
            balance: record.account.balance,
            data,
            date_us,
        })
    }

    /// Order-Status.
    pub(crate) fn order_status(&self, status: &OrderStatus) -> Result<Status, Missing> {
        let district = status.district_key();
        let key = self.find(status.customer, district).ok_or(Missing::Customer)?;
        let record = self.customers.get(&key).ok_or(Missing::Customer)?;
        let order = self.orders.get(&OrderKey::new(district, record.last_order)).ok_or(Missing::Order)?;
        Ok(Status {
            customer: key.customer(),
            first: record.customer.first,
            middle: record.customer.middle,
            last: record.customer.last,
            balance: record.account.balance,
            order: record.last_order,
            entry_us: order.row.entry_us,
            carrier: order.row.carrier,
            lines: self.lines[order.lines()].iter().map(StatusLine::from).collect(),
        })
    }

    /// Delivery.
    pub(crate) fn delivery(&mut self, delivery: &Delivery, delivery_us: u64) -> Result<Delivered, Missing> {
        let mut delivered = Delivered { orders: [0; DISTRICTS as usize], delivery_us };
        for (key, delivered) in DistrictKey::of_warehouse(delivery.warehouse).zip(&mut delivered.orders) {
            let district = self.districts.get_mut(&key).ok_or(Missing::District)?;
            let Some(id) = district.new_orders.pop_front() else {
                continue;
            };
            let order = self.orders.get_mut(&OrderKey::new(key, id)).ok_or(Missing::Order)?;
            order.row.carrier = u16::from(delivery.carrier);
            let mut amount = Cents::ZERO;
            for line in &mut self.lines[order.lines()] {
                line.delivery_us = delivery_us;
                amount += line.cents();
            }
            let customer = self.customers.get_mut(&CustomerKey::new(key, order.row.customer));
            let account = &mut customer.ok_or(Missing::Customer)?.account;
            account.balance += amount;
            account.delivery_count += 1;
            *delivered = id;
        }
        Ok(delivered)
    }

    /// Stock-Level.
    pub(crate) fn stock_level(&self, level: &StockLevel) -> Result<u32, Missing> {
        let key = DistrictKey::new(level.warehouse, level.district);
        let next = self.districts.get(&key).ok_or(Missing::District)?.next;
        let mut low = Vec::with_capacity(64);
        for order in next.saturating_sub(RECENT_ORDERS)..next {
            let Some(order) = self.orders.get(&OrderKey::new(key, order)) else {
                continue;
            };
            for line in &self.lines[order.lines()] {
                let stock =
                    self.stock.get(&StockKey::new(level.warehouse, line.item)).ok_or(Missing::Stock)?;
                if stock.0.quantity < u32::from(level.threshold) {
                    low.push(line.item);
                }
            }
        }
        low.sort_unstable();
        low.dedup();
        Ok(low.len() as u32)
    }
}

/// Takes replies: a bench keeps the compiler from dropping them, a test compares them.
pub(crate) trait See {
    /// The reply of a New-Order.
    fn new_order(&mut self, reply: Result<Ordered, NewOrderAbort>);
    /// The reply of a Payment.
    fn payment(&mut self, reply: Result<Paid, Missing>);
    /// The reply of an Order-Status.
    fn order_status(&mut self, reply: Result<Status, Missing>);
    /// The reply of a Delivery.
    fn delivery(&mut self, reply: Result<Delivered, Missing>);
    /// The reply of a Stock-Level.
    fn stock_level(&mut self, reply: Result<u32, Missing>);
}

/// Makes sure that every reply is made, and drops it.
pub(crate) struct Discard;

impl See for Discard {
    fn new_order(&mut self, reply: Result<Ordered, NewOrderAbort>) {
        std::hint::black_box(&reply);
    }

    fn payment(&mut self, reply: Result<Paid, Missing>) {
        std::hint::black_box(&reply);
    }

    fn order_status(&mut self, reply: Result<Status, Missing>) {
        std::hint::black_box(&reply);
    }

    fn delivery(&mut self, reply: Result<Delivered, Missing>) {
        std::hint::black_box(&reply);
    }

    fn stock_level(&mut self, reply: Result<u32, Missing>) {
        std::hint::black_box(&reply);
    }
}
