//! The population as procedures: the log alone reproduces it.
//!
//! [`procedures`] lists them all. The last one records that the population is complete; one that was interrupted
//! before it can be made again from the start.

use mixlog_engine::{Footprint, Never, Procedure, Tx};
use serde::{Deserialize, Serialize};

use super::keys::{CustomerKey, DistrictKey, HistoryKey, OrderKey, StockKey, WarehouseKey};
use super::rows::OrderLines;
use super::schema::{
    CUSTOMER, CUSTOMER_ACCOUNT, CUSTOMER_DATA, DISTRICT, DISTRICT_ORDERS, DISTRICT_YTD, HISTORY, ITEM, ITEMS,
    NEW_ORDER, ORDER, ORDER_LINE, POPULATION, Population, STOCK, STOCK_INFO, WAREHOUSE, WAREHOUSE_YTD,
};

/// Rows of ITEM or STOCK, and customers, that one procedure writes.
const ITEMS_AT_ONCE: u32 = 500;
const CUSTOMERS_AT_ONCE: u32 = 250;
const ORDERS_AT_ONCE: u32 = 250;

/// Numbers `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The first number, from 1.
    pub first: u32,
    /// The last number.
    pub last: u32,
}

impl Chunk {
    fn all(count: u32, at_once: u32) -> impl Iterator<Item = Self> {
        let firsts = (1..=count).step_by(at_once as usize);
        firsts.map(move |first| Self { first, last: count.min(first + at_once - 1) })
    }
}

/// One procedure of the population.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Records that the population is complete.
    Population(LoadPopulation),
    /// A chunk of ITEM.
    Items(LoadItems),
    /// A warehouse and its districts.
    Warehouse(LoadWarehouse),
    /// A chunk of a warehouse's STOCK.
    Stock(LoadStock),
    /// A chunk of a district's customers.
    Customers(LoadCustomers),
    /// A chunk of a district's orders.
    Orders(LoadOrders),
}

/// The whole population, in an order in which neighbours do not conflict.
pub fn procedures(population: Population) -> impl Iterator<Item = Load> {
    let Population { scale, .. } = population;
    let end = std::iter::once(Load::Population(LoadPopulation { population }));
    let items = Chunk::all(scale.items, ITEMS_AT_ONCE);
    let items = items.map(move |chunk| Load::Items(LoadItems { population, chunk }));
    let warehouses = 1..=scale.warehouses;
    let places =
        warehouses.clone().map(move |id| Load::Warehouse(LoadWarehouse { population, warehouse: id }));
    let stock = Chunk::all(scale.items, ITEMS_AT_ONCE).flat_map(move |chunk| {
        let warehouses = warehouses.clone();
        warehouses.map(move |warehouse| Load::Stock(LoadStock { population, warehouse, chunk }))
    });
    let customers = Chunk::all(scale.customers, CUSTOMERS_AT_ONCE).flat_map(move |chunk| {
        let districts = DistrictKey::all(scale.warehouses);
        districts.map(move |district| Load::Customers(LoadCustomers { population, district, chunk }))
    });
    let orders = Chunk::all(scale.orders(), ORDERS_AT_ONCE).flat_map(move |chunk| {
        let districts = DistrictKey::all(scale.warehouses);
        districts.map(move |district| Load::Orders(LoadOrders { population, district, chunk }))
    });
    items.chain(places).chain(stock).chain(customers).chain(orders).chain(end)
}

/// Records how the population was made: it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadPopulation {
    /// How the population is made.
    pub population: Population,
}

impl Procedure for LoadPopulation {
    const NAME: &'static str = "tpcc.load_population";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&POPULATION, &0);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&POPULATION, 0, self.population);
        Ok(())
    }
}

/// Writes a chunk of ITEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadItems {
    /// How the population is made.
    pub population: Population,
    /// Which I_ID.
    pub chunk: Chunk,
}

impl Procedure for LoadItems {
    const NAME: &'static str = "tpcc.load_items";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write_granule(&ITEM, ITEMS);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        for item in self.chunk.first..=self.chunk.last {
            tx.put(&ITEM, item, self.population.item(item));
        }
        Ok(())
    }
}

/// Writes a warehouse and its ten districts, without stock, customers and orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadWarehouse {
    /// How the population is made.
    pub population: Population,
    /// W_ID.
    pub warehouse: u32,
}

impl Procedure for LoadWarehouse {
    const NAME: &'static str = "tpcc.load_warehouse";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        let key = WarehouseKey::new(self.warehouse);
        f.write_granule(&WAREHOUSE, key.packed()).write(&WAREHOUSE_YTD, &key);
        for district in DistrictKey::of_warehouse(self.warehouse) {
            f.write(&DISTRICT_YTD, &district).write_granule(&DISTRICT_ORDERS, district.packed());
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        let population = &self.population;
        let key = WarehouseKey::new(self.warehouse);
        tx.put(&WAREHOUSE, key, population.warehouse(self.warehouse));
        tx.put(&WAREHOUSE_YTD, key, population.warehouse_ytd());
        for district in DistrictKey::of_warehouse(self.warehouse) {
            tx.put(&DISTRICT, district, population.district(district));
            tx.put(&DISTRICT_YTD, district, population.district_ytd());
            tx.put(&DISTRICT_ORDERS, district, population.scale.orders() + 1);
        }
        Ok(())
    }
}

/// Writes a chunk of a warehouse's STOCK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadStock {
    /// How the population is made.
    pub population: Population,
    /// S_W_ID.
    pub warehouse: u32,
    /// Which S_I_ID.
    pub chunk: Chunk,
}

impl LoadStock {
    fn keys(&self) -> impl Iterator<Item = StockKey> + use<> {
        let Self { warehouse, chunk, .. } = *self;
        (chunk.first..=chunk.last).map(move |item| StockKey::new(warehouse, item))
    }
}

impl Procedure for LoadStock {
    const NAME: &'static str = "tpcc.load_stock";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write_granule(&STOCK_INFO, u64::from(self.warehouse));
        for key in self.keys() {
            f.write(&STOCK, &key);
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        for key in self.keys() {
            tx.put(&STOCK, key, self.population.stock(key));
            tx.put(&STOCK_INFO, key, self.population.stock_info(key));
        }
        Ok(())
    }
}

/// Writes a chunk of a district's customers, with their accounts and first payments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadCustomers {
    /// How the population is made.
    pub population: Population,
    /// Which district.
    pub district: DistrictKey,
    /// Which C_ID.
    pub chunk: Chunk,
}

impl Procedure for LoadCustomers {
    const NAME: &'static str = "tpcc.load_customers";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        let granule = self.district.packed();
        f.write_granule(&CUSTOMER, granule).write_granule(&CUSTOMER_ACCOUNT, granule);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        let (population, time_us) = (&self.population, tx.time_us());
        let warehouse = population.warehouse(self.district.warehouse());
        let history =
            population.history(self.district, &warehouse, &population.district(self.district), time_us);
        for id in self.chunk.first..=self.chunk.last {
            let key = CustomerKey::new(self.district, id);
            let customer = population.customer(key, time_us);
            tx.put(&CUSTOMER, key, customer);
            tx.put(&CUSTOMER_ACCOUNT, key, population.account());
            tx.put(&CUSTOMER_DATA, key, population.customer_data(key));
            tx.put(&HISTORY, HistoryKey { customer: key, position: 0 }, history);
        }
        Ok(())
    }
}

/// Writes a chunk of a district's orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadOrders {
    /// How the population is made.
    pub population: Population,
    /// Which district.
    pub district: DistrictKey,
    /// Which O_ID.
    pub chunk: Chunk,
}

impl Procedure for LoadOrders {
    const NAME: &'static str = "tpcc.load_orders";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write_granule(&ORDER, self.district.packed());
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        let (population, time_us) = (&self.population, tx.time_us());
        let customers = population.order_customers(self.district);
        for id in self.chunk.first..=self.chunk.last {
            let key = OrderKey::new(self.district, id);
            let order = population.order(key, customers[id as usize - 1], time_us);
            tx.put(&ORDER, key, order);
            if !population.is_delivered(key) {
                tx.put(&NEW_ORDER, key, ());
            }
            let mut lines = OrderLines::EMPTY;
            for number in 1..=order.line_count {
                lines.set(number, population.order_line(key.line(number), time_us));
            }
            tx.put(&ORDER_LINE, key, lines);
        }
        Ok(())
    }
}
