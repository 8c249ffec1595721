//! New-Order (clause 2.4): a customer orders five to fifteen items.

use mixlog_engine::{DecodeError, Footprint, Procedure, Tx};
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::customer::Missing;
use super::generate::is_original;
use super::keys::{
    CustomerKey, DistrictKey, OrderKey, StockKey, WarehouseKey, read_district, read_warehouse,
};
use super::rows::{Item, LastName, Order, OrderLine, OrderLines, Stock, StockInfo, WHOLE};
use super::schema::{
    CUSTOMER, DISTRICT, DISTRICT_ORDERS, ITEM, NEW_ORDER, ORDER, ORDER_LINE, STOCK, STOCK_INFO, WAREHOUSE,
};
use crate::codec::Reader;
use crate::money::Cents;
use crate::text::{Text, byte_list};

/// The greatest number of lines of an order.
pub const MAX_LINES: usize = OrderLines::CAPACITY;

/// One item of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// OL_I_ID. An item that does not exist rolls the whole order back.
    pub item: u32,
    /// OL_SUPPLY_W_ID.
    pub supply: u32,
    /// OL_QUANTITY: 1 to 10.
    pub quantity: u8,
}

/// The lines of a request, up to [`MAX_LINES`], held in the request itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Line>", into = "Vec<Line>")]
pub struct Lines {
    count: u8,
    lines: [Line; MAX_LINES],
}

impl Lines {
    /// These lines, or nothing if they are too many.
    #[must_use]
    pub fn new(lines: &[Line]) -> Option<Self> {
        let mut all = Self::default();
        all.lines.get_mut(..lines.len())?.copy_from_slice(lines);
        all.count = lines.len() as u8;
        Some(all)
    }

    /// The lines, in order: OL_NUMBER counts them from 1.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[Line] {
        &self.lines[..usize::from(self.count)]
    }
}

impl From<Lines> for Vec<Line> {
    fn from(lines: Lines) -> Self {
        lines.as_slice().to_vec()
    }
}

impl TryFrom<Vec<Line>> for Lines {
    type Error = &'static str;

    fn try_from(lines: Vec<Line>) -> Result<Self, &'static str> {
        Self::new(&lines).ok_or("an order has at most 15 lines")
    }
}

/// A customer of a district orders items. Items may repeat; each line then sees the stock that the line before left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewOrder {
    /// W_ID: the home warehouse.
    pub warehouse: u32,
    /// D_ID.
    pub district: u8,
    /// C_ID.
    pub customer: u32,
    /// What is ordered.
    pub lines: Lines,
}

/// What the terminal shows (clause 2.4.3.3), without what it sent itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    /// O_ID.
    pub order: u32,
    /// O_ENTRY_D in microseconds since 1970.
    pub entry_us: u64,
    /// C_LAST.
    pub last: LastName,
    /// C_CREDIT.
    pub credit: Text<2>,
    /// C_DISCOUNT in hundredths of a percent.
    pub discount: u16,
    /// W_TAX in hundredths of a percent.
    pub warehouse_tax: u16,
    /// D_TAX in hundredths of a percent.
    pub district_tax: u16,
    /// What the customer will pay, rounded to the cent.
    pub total: Cents,
    /// The lines, in order.
    #[serde(with = "byte_list")]
    pub lines: Vec<OrderedLine>,
}

/// What the terminal shows of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct OrderedLine {
    /// I_NAME.
    pub name: Text<24>,
    /// I_PRICE in cents.
    pub price: u32,
    /// OL_AMOUNT in cents.
    pub amount: u32,
    /// S_QUANTITY after the order.
    pub stock: u16,
    /// B if both I_DATA and S_DATA contain ORIGINAL, otherwise G.
    pub brand: Text<2>,
}

/// Why an order was rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NewOrderAbort {
    /// "Item number is not valid": one percent of all orders, by intent (clause 2.4.1.4).
    UnusedItem {
        /// OL_NUMBER of the line.
        line: u8,
        /// The item that does not exist.
        item: u32,
    },
    /// The request names rows that were not populated.
    Missing(Missing),
}

impl From<Missing> for NewOrderAbort {
    fn from(missing: Missing) -> Self {
        Self::Missing(missing)
    }
}

impl NewOrder {
    /// The district that takes the order.
    #[inline]
    #[must_use]
    pub const fn district_key(&self) -> DistrictKey {
        DistrictKey::new(self.warehouse, self.district)
    }

    /// The row of ORDER that this request makes.
    #[inline]
    #[must_use]
    pub fn order_row(&self, entry_us: u64) -> Order {
        let lines = self.lines.as_slice();
        Order {
            entry_us,
            customer: self.customer,
            carrier: 0,
            line_count: lines.len() as u8,
            all_local: u8::from(lines.iter().all(|line| line.supply == self.warehouse)),
        }
    }
}

/// Takes a quantity out of the stock: it is filled up by 91 when fewer than 10 would stay (clause 2.4.2.2).
#[inline]
pub const fn take(stock: &mut Stock, quantity: u8, is_remote: bool) {
    let quantity = quantity as u32;
    if stock.quantity >= quantity + 10 {
        stock.quantity -= quantity;
    } else {
        stock.quantity = stock.quantity + 91 - quantity;
    }
    stock.ytd += quantity;
    stock.order_count += 1;
    stock.remote_count += is_remote as u32;
}

/// The row of ORDER-LINE, and what the terminal shows of it.
#[inline]
#[must_use]
pub fn line_rows(
    line: &Line,
    district: u8,
    item: &Item,
    info: &StockInfo,
    stock: u32,
) -> (OrderLine, OrderedLine) {
    let amount = u32::from(line.quantity) * item.price;
    let row = OrderLine {
        delivery_us: 0,
        item: line.item,
        supply: line.supply,
        quantity: u32::from(line.quantity),
        amount,
        district_info: info.districts[usize::from(district) - 1],
    };
    let brand = if is_original(&item.data) && is_original(&info.data) { b"B" } else { b"G" };
    let shown = OrderedLine {
        name: item.name,
        price: item.price,
        amount,
        stock: stock as u16,
        brand: Text::new(brand),
    };
    (row, shown)
}

/// The sum of all lines, less the discount, plus both taxes, rounded to the cent.
#[inline]
#[must_use]
pub const fn total(sum: Cents, discount: u16, warehouse_tax: u16, district_tax: u16) -> Cents {
    let whole = WHOLE * WHOLE;
    let scaled = sum.0 * (WHOLE - discount as i64) * (WHOLE + warehouse_tax as i64 + district_tax as i64);
    Cents((scaled + whole / 2) / whole)
}

impl Procedure for NewOrder {
    const NAME: &'static str = "tpcc.new_order";
    type Output = Ordered;
    type Abort = NewOrderAbort;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.warehouse.to_le_bytes());
        out.push(self.district);
        out.extend_from_slice(&self.customer.to_le_bytes());
        out.push(self.lines.count);
        for line in self.lines.as_slice() {
            out.extend_from_slice(&line.item.to_le_bytes());
            out.extend_from_slice(&line.supply.to_le_bytes());
            out.push(line.quantity);
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(bytes);
        let (warehouse, district) = (read_warehouse(&mut bytes)?, read_district(&mut bytes)?);
        let customer = bytes.u32()?;
        let mut lines = Lines { count: bytes.u8()?, ..Lines::default() };
        let Some(used) = lines.lines.get_mut(..usize::from(lines.count)) else {
            return Err(DecodeError::new("an order has at most 15 lines"));
        };
        for line in used {
            *line = Line { item: bytes.u32()?, supply: read_warehouse(&mut bytes)?, quantity: bytes.u8()? };
        }
        bytes.end()?;
        Ok(Self { warehouse, district, customer, lines })
    }

    fn footprint(&self, f: &mut Footprint<'_>) {
        let district = self.district_key().packed();
        f.read_granule(&WAREHOUSE, u64::from(self.warehouse));
        // Granules would do for all tables but STOCK. Naming the rows lets the engine fetch them ahead.
        let customer = CustomerKey::new(self.district_key(), self.customer);
        f.read(&CUSTOMER, &customer).write_granule(&ORDER, district);
        for line in self.lines.as_slice() {
            let stock = StockKey::new(line.supply, line.item);
            f.read(&ITEM, &line.item).write(&STOCK, &stock).read(&STOCK_INFO, &stock);
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Ordered, NewOrderAbort> {
        let district = self.district_key();
        let warehouse_tax =
            tx.get(&WAREHOUSE, &WarehouseKey::new(self.warehouse)).ok_or(Missing::Warehouse)?.tax;
        let district_tax = tx.get(&DISTRICT, &district).ok_or(Missing::District)?.tax;
        let customer_key = CustomerKey::new(district, self.customer);
        let customer = tx.get(&CUSTOMER, &customer_key).ok_or(Missing::Customer)?;
        let (last, credit, discount) = (customer.last, customer.credit, customer.discount);

        let next = tx.get_mut(&DISTRICT_ORDERS, &district).ok_or(Missing::District)?;
        let id = *next;
        *next += 1;
        let (key, entry_us) = (OrderKey::new(district, id), tx.time_us());
        tx.fetch_ahead(&ORDER_LINE, &[key]);
        tx.put(&ORDER, key, self.order_row(entry_us));
        tx.put(&NEW_ORDER, key, ());

        let mut lines = Vec::with_capacity(self.lines.as_slice().len());
        let mut rows = OrderLines::EMPTY;
        let mut sum = Cents::ZERO;
        for (line, number) in self.lines.as_slice().iter().zip(1..) {
            let stock_key = StockKey::new(line.supply, line.item);
            let Some(item) = tx.get(&ITEM, &line.item).copied() else {
                // The unused item comes last: the work for all lines before it is done, and undone.
                tx.put(&ORDER_LINE, key, rows);
                return Err(NewOrderAbort::UnusedItem { line: number, item: line.item });
            };
            let stock = tx.get_mut(&STOCK, &stock_key).ok_or(Missing::Stock)?;
            take(stock, line.quantity, line.supply != self.warehouse);
            let quantity = stock.quantity;
            let info = tx.get(&STOCK_INFO, &stock_key).ok_or(Missing::Stock)?;
            let (row, shown) = line_rows(line, self.district, &item, info, quantity);
            rows.set(number, row);
            sum += row.cents();
            lines.push(shown);
        }
        tx.put(&ORDER_LINE, key, rows);
        let total = total(sum, discount, warehouse_tax, district_tax);
        Ok(Ordered { order: id, entry_us, last, credit, discount, warehouse_tax, district_tax, total, lines })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> NewOrder {
        let lines = [Line { item: 7, supply: 2, quantity: 10 }, Line { item: 7, supply: 1, quantity: 1 }];
        NewOrder {
            warehouse: 1,
            district: 10,
            customer: 3_000,
            lines: Lines::new(&lines).expect("two lines"),
        }
    }

    #[test]
    fn new_order_survives_its_encoding() {
        let mut bytes = Vec::new();
        request().encode(&mut bytes);
        assert_eq!(NewOrder::decode(&bytes).expect("it decodes"), request());
    }

    #[test]
    fn new_order_refuses_malformed_bytes() {
        let mut bytes = Vec::new();
        request().encode(&mut bytes);
        for length in 0..bytes.len() {
            assert!(NewOrder::decode(&bytes[..length]).is_err(), "{length} bytes");
        }
        bytes.push(0);
        assert!(NewOrder::decode(&bytes).is_err(), "a byte too many");
        bytes[9] = 16;
        assert!(NewOrder::decode(&bytes).is_err(), "sixteen lines");
    }

    #[test]
    fn take_fills_up_when_fewer_than_ten_would_stay() {
        let mut stock = Stock { quantity: 20, ytd: 0, order_count: 0, remote_count: 0 };
        take(&mut stock, 10, false);
        assert_eq!((stock.quantity, stock.ytd, stock.order_count, stock.remote_count), (10, 10, 1, 0));
        take(&mut stock, 1, true);
        assert_eq!((stock.quantity, stock.ytd, stock.order_count, stock.remote_count), (100, 11, 2, 1));
    }

    #[test]
    fn total_rounds_once_and_to_the_nearest_cent() {
        assert_eq!(total(Cents(100_00), 0, 0, 0), Cents(100_00));
        assert_eq!(total(Cents(100_00), 5_000, 2_000, 2_000), Cents(70_00));
        assert_eq!(total(Cents(1), 5_000, 0, 0), Cents(1), "half a cent rounds up");
        assert_eq!(total(Cents(1), 5_001, 0, 0), Cents(0));
    }
}
