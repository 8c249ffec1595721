//! TPC-C's tables: which rows are a unit of conflict, and which share one.
//!
//! | domain | granule | tables | written by |
//! |---|---|---|---|
//! | `tpcc.places` | warehouse | WAREHOUSE, DISTRICT, STOCK_INFO | population only |
//! | `tpcc.items` | all | ITEM | population only |
//! | `tpcc.customers` | district | CUSTOMER, its index CUSTOMER_BY_NAME | population only |
//! | `tpcc.accounts` | district of the customer | CUSTOMER_ACCOUNT, CUSTOMER_DATA, HISTORY | Payment, Delivery |
//! | `tpcc.orders` | district | DISTRICT_ORDERS, ORDER, its index ORDER_BY_CUSTOMER, NEW_ORDER, ORDER_LINE | New-Order, Delivery |
//! | rows | | WAREHOUSE_YTD, DISTRICT_YTD | Payment |
//! | rows, watched by warehouse | | STOCK | New-Order |
//!
//! A New-Order so declares one access for its district's orders and one for each stock row, and a read of three
//! granules that nobody writes after the population. Stock-Level cannot know from its arguments which items the last
//! orders hold: it watches all the stock of its warehouse.

use mixlog_engine::{Builder, Fixed, Index, Table};
use serde::{Deserialize, Serialize};

use super::keys::{
    CustomerKey, DistrictKey, HistoryKey, NameKey, NameRank, OrderKey, StockKey, WarehouseKey,
};
use super::rows::{
    Account, Customer, CustomerData, History, Item, Order, OrderLines, Place, Stock, StockInfo,
};
use crate::money::Cents;
use crate::random::NuConstants;

/// How many rows the population has.
///
/// Everything but the number of warehouses is fixed by the specification; smaller numbers are for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scale {
    /// W: the number of warehouses. 1 to [`super::keys::MAX_WAREHOUSES`].
    pub warehouses: u32,
    /// Rows of ITEM, and of STOCK per warehouse: 100,000 in the specification.
    pub items: u32,
    /// Customers per district, and as many initial orders, one for each: 3,000 in the specification, a multiple of
    /// ten here.
    pub customers: u32,
}

impl Scale {
    /// The population of the specification.
    #[must_use]
    pub const fn full(warehouses: u32) -> Self {
        Self { warehouses, items: 100_000, customers: 3_000 }
    }

    /// A small population for tests: 200 items, and 30 customers per district with 10 last names.
    #[must_use]
    pub const fn small(warehouses: u32) -> Self {
        Self { warehouses, items: 200, customers: 30 }
    }

    /// Whether a population of this scale can be made.
    #[must_use]
    pub const fn is_valid(&self) -> bool {
        let warehouses = self.warehouses >= 1 && self.warehouses <= super::keys::MAX_WAREHOUSES;
        warehouses && self.items >= 15 && self.customers >= 10 && self.customers.is_multiple_of(10)
    }

    /// The number of initial orders per district: as many as there are customers.
    #[must_use]
    pub const fn orders(&self) -> u32 {
        self.customers
    }

    /// The number of initial orders per district that are delivered: 2,100 of 3,000. The others are new orders.
    #[must_use]
    pub const fn delivered(&self) -> u32 {
        self.orders() / 10 * 7
    }

    /// The number of last names that customers have: 1,000 of 3,000, and a third of any other number.
    #[must_use]
    pub const fn last_names(&self) -> u16 {
        let third = self.customers / 3;
        if third < super::names::NAMES as u32 { third as u16 } else { super::names::NAMES }
    }
}

/// How the population was made: audits and drivers read it from the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Population {
    /// The seed of every initial row.
    pub seed: u64,
    /// How many rows there are.
    pub scale: Scale,
    /// The constants `C` that the population used; those of a run keep a distance from them (clause 2.1.6.1).
    pub constants: NuConstants,
}

const fn all_items(_: &u32) -> u64 {
    ITEMS
}

const fn of_warehouse(key: &WarehouseKey) -> u64 {
    key.packed()
}

const fn warehouse_of_district(key: &DistrictKey) -> u64 {
    key.warehouse() as u64
}

const fn warehouse_of_stock(key: &StockKey) -> u64 {
    key.warehouse() as u64
}

const fn of_district(key: &DistrictKey) -> u64 {
    key.packed()
}

const fn district_of_name(rank: &NameRank) -> u64 {
    rank.name.district().packed()
}

const fn district_of_customer(key: &CustomerKey) -> u64 {
    key.district().packed()
}

const fn district_of_history(key: &HistoryKey) -> u64 {
    key.customer.district().packed()
}

const fn district_of_order(key: &OrderKey) -> u64 {
    key.district().packed()
}

const fn name_rank(key: &CustomerKey, row: &Customer) -> Option<NameRank> {
    Some(NameRank { name: NameKey::new(key.district(), row.last_number), first: row.first })
}

const fn customer_of_order(key: &OrderKey, row: &Order) -> Option<CustomerKey> {
    Some(CustomerKey::new(key.district(), row.customer))
}

/// The only granule of ITEM.
pub const ITEMS: u64 = 0;

const PLACES: &str = "tpcc.places";
const CUSTOMERS: &str = "tpcc.customers";
const ACCOUNTS: &str = "tpcc.accounts";
const ORDERS: &str = "tpcc.orders";

/// How the population was made: one row, under key 0.
pub const POPULATION: Table<u32, Population> = Table::new("tpcc.population");
/// ITEM, by I_ID. Granule: [`ITEMS`].
pub const ITEM: Table<u32, Item, Fixed> = Table::fixed("tpcc.item").grouped("tpcc.items", all_items);
/// The fixed part of WAREHOUSE. Granule: the warehouse.
pub const WAREHOUSE: Table<WarehouseKey, Place, Fixed> =
    Table::fixed("tpcc.warehouse").grouped(PLACES, of_warehouse);
/// The fixed part of DISTRICT. Granule: the warehouse.
pub const DISTRICT: Table<DistrictKey, Place, Fixed> =
    Table::fixed("tpcc.district").grouped(PLACES, warehouse_of_district);
/// The fixed part of STOCK. Granule: the warehouse.
pub const STOCK_INFO: Table<StockKey, StockInfo, Fixed> =
    Table::fixed("tpcc.stock_info").grouped(PLACES, warehouse_of_stock);
/// The changing part of STOCK. Rows conflict one by one; the warehouse can be read as a whole.
pub const STOCK: Table<StockKey, Stock, Fixed> = Table::fixed("tpcc.stock").watched(warehouse_of_stock);
/// W_YTD.
pub const WAREHOUSE_YTD: Table<WarehouseKey, Cents, Fixed> = Table::fixed("tpcc.warehouse_ytd");
/// D_YTD.
pub const DISTRICT_YTD: Table<DistrictKey, Cents, Fixed> = Table::fixed("tpcc.district_ytd");
/// The fixed part of CUSTOMER. Granule: the district.
pub const CUSTOMER: Table<CustomerKey, Customer, Fixed> =
    Table::fixed("tpcc.customer").grouped(CUSTOMERS, district_of_customer);
/// The customers of a district who share a last name, sorted by C_FIRST and, where that is the same, by C_ID. Granule:
/// the district.
pub const CUSTOMER_BY_NAME: Index<CustomerKey, Customer, NameRank, Fixed> =
    Index::new("tpcc.customer_by_name", CUSTOMER, name_rank).grouped(CUSTOMERS, district_of_name);
/// The money of CUSTOMER. Granule: the customer's district.
pub const CUSTOMER_ACCOUNT: Table<CustomerKey, Account, Fixed> =
    Table::fixed("tpcc.customer_account").grouped(ACCOUNTS, district_of_customer);
/// C_DATA of CUSTOMER. Granule: the customer's district.
pub const CUSTOMER_DATA: Table<CustomerKey, CustomerData, Fixed> =
    Table::fixed("tpcc.customer_data").grouped(ACCOUNTS, district_of_customer);
/// HISTORY. Granule: the customer's district.
pub const HISTORY: Table<HistoryKey, History, Fixed> =
    Table::fixed("tpcc.history").grouped(ACCOUNTS, district_of_history);
/// D_NEXT_O_ID. Granule: the district.
pub const DISTRICT_ORDERS: Table<DistrictKey, u32, Fixed> =
    Table::fixed("tpcc.district_orders").grouped(ORDERS, of_district);
/// ORDER. Granule: the district.
pub const ORDER: Table<OrderKey, Order, Fixed> =
    Table::fixed("tpcc.order").grouped(ORDERS, district_of_order);
/// The orders of each customer, by O_ID. Granule: the district.
pub const ORDER_BY_CUSTOMER: Index<OrderKey, Order, CustomerKey, Fixed> =
    Index::new("tpcc.order_by_customer", ORDER, customer_of_order).grouped(ORDERS, district_of_customer);
/// NEW-ORDER, ordered by O_ID. Granule: the district.
pub const NEW_ORDER: Table<OrderKey, (), Fixed> =
    Table::fixed("tpcc.new_order").grouped(ORDERS, district_of_order).ordered();
/// ORDER-LINE: the lines of an order lie together. Granule: the district.
pub const ORDER_LINE: Table<OrderKey, OrderLines, Fixed> =
    Table::fixed("tpcc.order_line").grouped(ORDERS, district_of_order);

/// Registers all tables.
pub fn register(builder: Builder) -> Builder {
    let builder = builder.table(&POPULATION).table(&ITEM);
    let builder = builder.table(&WAREHOUSE).table(&DISTRICT).table(&STOCK_INFO).table(&STOCK);
    let builder = builder.table(&WAREHOUSE_YTD).table(&DISTRICT_YTD);
    let builder = builder.table(&CUSTOMER).index(&CUSTOMER_BY_NAME);
    let builder = builder.table(&CUSTOMER_ACCOUNT).table(&CUSTOMER_DATA).table(&HISTORY);
    let builder = builder.table(&DISTRICT_ORDERS).table(&ORDER).index(&ORDER_BY_CUSTOMER);
    builder.table(&NEW_ORDER).table(&ORDER_LINE)
}
