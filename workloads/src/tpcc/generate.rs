//! The initial rows (clause 4.3.3.1), each a function of the population's seed and the row's key.
//!
//! Procedures of the population write these rows, audits compare with them, and a baseline without a log starts from
//! them.

use super::keys::{CustomerKey, DISTRICTS, DistrictKey, OrderKey, OrderLineKey, StockKey};
use super::names::last_name;
use super::rows::{
    Account, Address, Customer, CustomerData, History, Item, Order, OrderLine, Place, Stock, StockInfo,
    history_data,
};
use super::schema::{Population, Scale};
use crate::money::Cents;
use crate::random::{NuConstants, Rng};
use crate::text::Text;

/// A number for each kind of row, so that rows of different tables with equal keys differ.
#[derive(Clone, Copy)]
enum Kind {
    Constants = 1,
    Item,
    Warehouse,
    District,
    Stock,
    StockInfo,
    Customer,
    CustomerData,
    Permutation,
    Order,
    Line,
}

impl Population {
    /// The population of this scale and seed.
    #[must_use]
    pub fn new(scale: Scale, seed: u64) -> Self {
        let constants = NuConstants::for_load(&mut Rng::for_row(seed, Kind::Constants as u64, 0));
        Self { seed, scale, constants }
    }

    const fn rng(&self, kind: Kind, key: u64) -> Rng {
        Rng::for_row(self.seed, kind as u64, key)
    }

    /// The row of ITEM with this I_ID.
    #[must_use]
    pub fn item(&self, item: u32) -> Item {
        let rng = &mut self.rng(Kind::Item, u64::from(item));
        Item {
            price: rng.between(1_00, 100_00) as u32,
            image: rng.between(1, 10_000) as u32,
            name: letters(rng, 14, 24),
            data: data(rng),
        }
    }

    /// The fixed part of a WAREHOUSE.
    #[must_use]
    pub fn warehouse(&self, warehouse: u32) -> Place {
        place(&mut self.rng(Kind::Warehouse, u64::from(warehouse)))
    }

    /// The fixed part of a DISTRICT.
    #[must_use]
    pub fn district(&self, district: DistrictKey) -> Place {
        place(&mut self.rng(Kind::District, district.packed()))
    }

    /// W_YTD: 300,000.00, what the initial payments of the warehouse's customers add up to.
    #[must_use]
    pub fn warehouse_ytd(&self) -> Cents {
        Cents(self.district_ytd().0 * i64::from(DISTRICTS))
    }

    /// D_YTD: 30,000.00, what the initial payments of the district's customers add up to.
    #[must_use]
    pub fn district_ytd(&self) -> Cents {
        Cents(i64::from(self.scale.customers) * INITIAL_PAYMENT.0)
    }

    /// The changing part of a STOCK row.
    #[must_use]
    pub fn stock(&self, key: StockKey) -> Stock {
        let quantity = self.rng(Kind::Stock, key.packed()).between(10, 100) as u32;
        Stock { quantity, ytd: 0, order_count: 0, remote_count: 0 }
    }

    /// The fixed part of a STOCK row.
    #[must_use]
    pub fn stock_info(&self, key: StockKey) -> StockInfo {
        let rng = &mut self.rng(Kind::StockInfo, key.packed());
        StockInfo { districts: std::array::from_fn(|_| letters(rng, 24, 24)), data: data(rng) }
    }

    /// The fixed part of a CUSTOMER row. Dates are the time of the population.
    #[must_use]
    pub fn customer(&self, key: CustomerKey, time_us: u64) -> Customer {
        let rng = &mut self.rng(Kind::Customer, key.packed());
        let names = u32::from(self.scale.last_names());
        let last_number = if key.customer() <= names {
            key.customer() - 1
        } else {
            self.constants.last_name.draw(rng, 0, names - 1)
        } as u16;
        Customer {
            since_us: time_us,
            credit_limit: Cents(50_000_00),
            discount: rng.between(0, 5_000) as u16,
            last_number,
            credit: Text::new(if rng.percent(10) { b"BC" } else { b"GC" }),
            middle: Text::new(b"OE"),
            first: letters(rng, 8, 16),
            last: last_name(last_number),
            phone: Text::filled(16, |phone| rng.digits(phone)),
            address: address(rng),
        }
    }

    /// The money of a CUSTOMER row: 10.00 were owed, and paid.
    #[must_use]
    pub const fn account(&self) -> Account {
        Account {
            balance: Cents(-INITIAL_PAYMENT.0),
            ytd_payment: INITIAL_PAYMENT,
            payment_count: 1,
            delivery_count: 0,
        }
    }

    /// C_DATA of a CUSTOMER row.
    #[must_use]
    pub fn customer_data(&self, key: CustomerKey) -> CustomerData {
        let rng = &mut self.rng(Kind::CustomerData, key.packed());
        CustomerData::filled(rng.between(300, 500) as usize, |text| rng.alphanumeric(text))
    }

    /// The initial row of HISTORY of a customer of this district.
    ///
    /// Its text is made as at run time: the specification lets it be any text of 12 to 24 characters.
    #[must_use]
    pub fn history(&self, district: DistrictKey, warehouse: &Place, place: &Place, time_us: u64) -> History {
        History {
            amount: INITIAL_PAYMENT,
            date_us: time_us,
            warehouse: district.warehouse(),
            district: u32::from(district.district()),
            data: history_data(&warehouse.name, &place.name),
        }
    }

    /// The customer of each initial order of a district: a permutation, where order 1 comes first.
    #[must_use]
    pub fn order_customers(&self, district: DistrictKey) -> Vec<u32> {
        let mut customers: Vec<u32> = (1..=self.scale.customers).collect();
        self.rng(Kind::Permutation, district.packed()).shuffle(&mut customers);
        customers
    }

    /// An initial row of ORDER.
    #[must_use]
    pub fn order(&self, key: OrderKey, customer: u32, time_us: u64) -> Order {
        let rng = &mut self.rng(Kind::Order, key.packed());
        let line_count = rng.between(5, 15) as u8;
        let carrier = rng.between(1, 10) as u16;
        let carrier = if self.is_delivered(key) { carrier } else { 0 };
        Order { entry_us: time_us, customer, carrier, line_count, all_local: 1 }
    }

    /// Whether an initial order is delivered; if not, it has a row in NEW-ORDER.
    #[must_use]
    pub const fn is_delivered(&self, key: OrderKey) -> bool {
        key.order() <= self.scale.delivered()
    }

    /// A line of an initial order.
    #[must_use]
    pub fn order_line(&self, key: OrderLineKey, time_us: u64) -> OrderLine {
        let rng = &mut self.rng(Kind::Line, key.packed());
        let delivered = self.is_delivered(key.order());
        let amount = rng.between(1, 9_999_99) as u32;
        OrderLine {
            delivery_us: if delivered { time_us } else { 0 },
            item: rng.between(1, u64::from(self.scale.items)) as u32,
            supply: key.district().warehouse(),
            quantity: 5,
            amount: if delivered { 0 } else { amount },
            district_info: letters(rng, 24, 24),
        }
    }
}

/// What each customer has paid when the population is complete.
pub const INITIAL_PAYMENT: Cents = Cents(10_00);

/// Random letters and digits of a random length.
fn letters<const N: usize>(rng: &mut Rng, shortest: u64, longest: u64) -> Text<N> {
    let length = rng.between(shortest, longest) as usize;
    Text::filled(length, |text| rng.alphanumeric(text))
}

/// I_DATA or S_DATA: 26 to 50 characters, every tenth with ORIGINAL at a random place.
fn data<const N: usize>(rng: &mut Rng) -> Text<N> {
    let length = rng.between(26, 50) as usize;
    Text::filled(length, |text| {
        rng.alphanumeric(text);
        if rng.percent(10) {
            let start = rng.between(0, (length - ORIGINAL.len()) as u64) as usize;
            text[start..start + ORIGINAL.len()].copy_from_slice(ORIGINAL);
        }
    })
}

/// The word that makes an item a brand.
pub const ORIGINAL: &[u8; 8] = b"ORIGINAL";

/// Whether I_DATA or S_DATA contains ORIGINAL.
#[inline]
#[must_use]
pub fn is_original<const N: usize>(data: &Text<N>) -> bool {
    let word = u64::from_le_bytes(*ORIGINAL);
    data.padded().windows(8).any(|window| u64::from_le_bytes(window.try_into().expect("8 bytes")) == word)
}

fn place(rng: &mut Rng) -> Place {
    Place { name: letters(rng, 6, 10), tax: rng.between(0, 2_000) as u16, address: address(rng) }
}

fn address(rng: &mut Rng) -> Address {
    Address {
        street_1: letters(rng, 10, 20),
        street_2: letters(rng, 10, 20),
        city: letters(rng, 10, 20),
        state: letters(rng, 2, 2),
        zip: Text::filled(9, |zip| {
            rng.digits(&mut zip[..4]);
            zip[4..].copy_from_slice(b"11111");
        }),
    }
}
