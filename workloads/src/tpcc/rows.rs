//! The rows of TPC-C's tables, split by what changes together.
//!
//! A change costs a copy of its row, so that what payments change stands in small rows beside the names and addresses
//! that never change (clause 1.4 permits vertical partitioning). Numbers come first and texts fill up the alignment:
//! a row has no padding.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::money::Cents;
use crate::text::{Text, bytes};

/// A customer's last name.
pub type LastName = Text<16>;

/// One of a hundred hundredths of a percent, the unit of taxes and discounts: 10,000 of them are the whole.
pub const WHOLE: i64 = 10_000;

macro_rules! row {
    ($(#[$doc:meta])* pub struct $name:ident { $($body:tt)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, FromBytes, KnownLayout, Immutable)]
        #[repr(C)]
        pub struct $name { $($body)* }
    };
}

row! {
    /// Street, city, state and zip of a warehouse, a district or a customer.
    #[derive(Unaligned)]
    pub struct Address {
        /// First line of the street.
        pub street_1: Text<20>,
        /// Second line of the street.
        pub street_2: Text<20>,
        /// City.
        pub city: Text<20>,
        /// State: two letters.
        pub state: Text<2>,
        /// Zip: four random digits, then 11111.
        pub zip: Text<10>,
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        bytes::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bytes::deserialize(deserializer)
    }
}

row! {
    /// What never changes of a WAREHOUSE or a DISTRICT: name, address and tax.
    pub struct Place {
        /// W_NAME or D_NAME.
        pub name: Text<10>,
        /// W_TAX or D_TAX, in hundredths of a percent.
        pub tax: u16,
        /// Address.
        pub address: Address,
    }
}

row! {
    /// A row of ITEM.
    pub struct Item {
        /// I_PRICE in cents.
        pub price: u32,
        /// I_IM_ID.
        pub image: u32,
        /// I_NAME.
        pub name: Text<24>,
        /// I_DATA: 26 to 50 characters.
        pub data: Text<52>,
    }
}

row! {
    /// What orders change of a STOCK row.
    pub struct Stock {
        /// S_QUANTITY.
        pub quantity: u32,
        /// S_YTD: units ordered since the population.
        pub ytd: u32,
        /// S_ORDER_CNT: order lines since the population.
        pub order_count: u32,
        /// S_REMOTE_CNT: those of them that came from another warehouse.
        pub remote_count: u32,
    }
}

row! {
    /// What never changes of a STOCK row.
    pub struct StockInfo {
        /// S_DIST_01 to S_DIST_10.
        pub districts: [Text<24>; 10],
        /// S_DATA.
        pub data: Text<50>,
    }
}

row! {
    /// What never changes of a CUSTOMER row.
    pub struct Customer {
        /// C_SINCE in microseconds since 1970.
        pub since_us: u64,
        /// C_CREDIT_LIM.
        pub credit_limit: Cents,
        /// C_DISCOUNT in hundredths of a percent.
        pub discount: u16,
        /// The number of C_LAST (see [`super::names`]).
        pub last_number: u16,
        /// C_CREDIT: GC (good) or BC (bad).
        pub credit: Text<2>,
        /// C_MIDDLE: OE.
        pub middle: Text<2>,
        /// C_FIRST.
        pub first: Text<16>,
        /// C_LAST.
        pub last: LastName,
        /// C_PHONE.
        pub phone: Text<16>,
        /// Address.
        pub address: Address,
    }
}

impl Customer {
    /// Whether C_CREDIT is BC: payments of such a customer are written into C_DATA.
    #[must_use]
    pub fn has_bad_credit(&self) -> bool {
        self.credit == Text::new(b"BC")
    }
}

row! {
    /// What payments and deliveries change of a CUSTOMER row.
    pub struct Account {
        /// C_BALANCE.
        pub balance: Cents,
        /// C_YTD_PAYMENT.
        pub ytd_payment: Cents,
        /// C_PAYMENT_CNT.
        pub payment_count: u32,
        /// C_DELIVERY_CNT.
        pub delivery_count: u32,
    }
}

row! {
    /// C_DATA of a CUSTOMER row: up to 500 characters.
    pub struct CustomerData {
        length: u16,
        bytes: [u8; CustomerData::CAPACITY],
    }
}

impl CustomerData {
    /// The greatest number of characters.
    pub const CAPACITY: usize = 500;

    /// Text of `length` characters that `fill` writes.
    ///
    /// # Panics
    /// If the length is greater than [`CustomerData::CAPACITY`].
    pub fn filled(length: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut bytes = [0; Self::CAPACITY];
        fill(&mut bytes[..length]);
        Self { length: length as u16, bytes }
    }

    /// The characters.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length).min(Self::CAPACITY)]
    }

    /// Whether the length is one that the row can hold.
    #[must_use]
    pub const fn is_within_capacity(&self) -> bool {
        self.length as usize <= Self::CAPACITY
    }

    /// Puts text at the front; what no longer fits drops off the end.
    ///
    /// # Panics
    /// If the text alone is longer than [`CustomerData::CAPACITY`].
    pub fn prepend(&mut self, text: &[u8]) {
        let kept = self.text().len().min(Self::CAPACITY - text.len());
        self.bytes.copy_within(..kept, text.len());
        self.bytes[..text.len()].copy_from_slice(text);
        self.length = (text.len() + kept) as u16;
    }
}

row! {
    /// A row of HISTORY.
    pub struct History {
        /// H_AMOUNT.
        pub amount: Cents,
        /// H_DATE in microseconds since 1970.
        pub date_us: u64,
        /// H_W_ID: the warehouse that took the payment.
        pub warehouse: u32,
        /// H_D_ID: the district that took it.
        pub district: u32,
        /// H_DATA: the names of the two, with four spaces between them.
        pub data: Text<24>,
    }
}

/// H_DATA: W_NAME, four spaces, D_NAME.
#[must_use]
pub fn history_data(warehouse: &Text<10>, district: &Text<10>) -> Text<24> {
    let (warehouse, district) = (warehouse.as_bytes(), district.as_bytes());
    Text::filled(warehouse.len() + 4 + district.len(), |data| {
        data[..warehouse.len()].copy_from_slice(warehouse);
        data[warehouse.len()..][..4].copy_from_slice(b"    ");
        data[warehouse.len() + 4..].copy_from_slice(district);
    })
}

row! {
    /// A row of ORDER.
    pub struct Order {
        /// O_ENTRY_D in microseconds since 1970.
        pub entry_us: u64,
        /// O_C_ID.
        pub customer: u32,
        /// O_CARRIER_ID, or 0 as long as the order is not delivered.
        pub carrier: u16,
        /// O_OL_CNT.
        pub line_count: u8,
        /// O_ALL_LOCAL: 1 if the home warehouse supplies every line.
        pub all_local: u8,
    }
}

row! {
    /// A row of ORDER-LINE.
    pub struct OrderLine {
        /// OL_DELIVERY_D in microseconds since 1970, or 0 as long as the order is not delivered.
        pub delivery_us: u64,
        /// OL_I_ID.
        pub item: u32,
        /// OL_SUPPLY_W_ID.
        pub supply: u32,
        /// OL_QUANTITY.
        pub quantity: u32,
        /// OL_AMOUNT in cents.
        pub amount: u32,
        /// OL_DIST_INFO.
        pub district_info: Text<24>,
    }
}

row! {
    /// The rows of ORDER-LINE of one order, which are always written and read together: they lie together, by
    /// OL_NUMBER. A line with item 0 is not there.
    pub struct OrderLines {
        lines: [OrderLine; OrderLines::CAPACITY],
    }
}

impl OrderLines {
    /// The greatest number of lines.
    pub const CAPACITY: usize = 15;
    /// No line.
    pub const EMPTY: Self = Self { lines: [OrderLine::NONE; Self::CAPACITY] };

    /// The line with this OL_NUMBER, counted from 1.
    #[must_use]
    pub fn get(&self, number: u8) -> Option<&OrderLine> {
        let line = self.lines.get(usize::from(number).wrapping_sub(1));
        line.filter(|line| line.item != 0)
    }

    /// Puts a line under this OL_NUMBER, counted from 1; [`OrderLine::NONE`] removes it.
    ///
    /// # Panics
    /// If the number is not from 1 to [`OrderLines::CAPACITY`].
    #[inline]
    pub fn set(&mut self, number: u8, line: OrderLine) {
        self.lines[usize::from(number) - 1] = line;
    }

    /// The first `count` lines, or as many as there can be.
    #[inline]
    #[must_use]
    pub fn first(&self, count: u8) -> &[OrderLine] {
        &self.lines[..usize::from(count).min(Self::CAPACITY)]
    }

    /// The first `count` lines, or as many as there can be.
    #[inline]
    pub fn first_mut(&mut self, count: u8) -> &mut [OrderLine] {
        &mut self.lines[..usize::from(count).min(Self::CAPACITY)]
    }

    /// The lines that are there, with their OL_NUMBER.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &OrderLine)> {
        (1..).zip(&self.lines).filter(|(_, line)| line.item != 0)
    }
}

impl OrderLine {
    /// No line.
    pub const NONE: Self =
        Self { delivery_us: 0, item: 0, supply: 0, quantity: 0, amount: 0, district_info: Text::EMPTY };

    /// OL_AMOUNT.
    #[must_use]
    pub const fn cents(&self) -> Cents {
        Cents(self.amount as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepend_keeps_at_most_the_capacity() {
        let mut data = CustomerData::filled(498, |bytes| bytes.fill(b'x'));
        data.prepend(b"abc");
        assert_eq!(data.text().len(), 500);
        assert_eq!(&data.text()[..4], b"abcx");
        let mut short = CustomerData::filled(2, |bytes| bytes.copy_from_slice(b"yz"));
        short.prepend(b"abc");
        assert_eq!(short.text(), b"abcyz");
    }

    #[test]
    fn order_lines_are_found_by_their_number() {
        let line = OrderLine { item: 7, ..OrderLine::NONE };
        let mut lines = OrderLines::EMPTY;
        lines.set(2, line);
        assert_eq!((lines.get(1), lines.get(2)), (None, Some(&line)));
        assert_eq!((lines.get(0), lines.get(16), lines.iter().count()), (None, None, 1));
        assert_eq!((lines.first(2).len(), lines.first(200).len()), (2, 15));
        lines.set(2, OrderLine::NONE);
        assert_eq!(lines, OrderLines::EMPTY);
    }

    #[test]
    fn history_data_joins_both_names_with_four_spaces() {
        let data = history_data(&Text::new(b"abcdef"), &Text::new(b"0123456789"));
        assert_eq!(data.as_bytes(), b"abcdef    0123456789");
    }
}
