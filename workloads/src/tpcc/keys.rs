//! The keys of TPC-C's tables: packed into 64 bits, so that a key is one word to hash, compare and copy.
//!
//! ```text
//! district    warehouse (20 bits) | district (4)
//! name        district (24) | last name (16)
//! customer    district (24) | customer (32)
//! order       district (24) | order (32)
//! order line  district (24) | order (32) | line (8)
//! stock       warehouse (20) | item (32)
//! ```

use std::fmt;
use std::ops::RangeInclusive;

use mixlog_engine::DecodeError;
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::codec::Reader;
use crate::text::Text;

/// The number of districts in a warehouse.
pub const DISTRICTS: u8 = 10;
/// The greatest number of warehouses that the keys can tell apart.
pub const MAX_WAREHOUSES: u32 = (1 << 20) - 1;

/// Reads W_ID: a number that the keys have no room for would be taken for another warehouse.
pub(super) fn read_warehouse(bytes: &mut Reader<'_>) -> Result<u32, DecodeError> {
    let warehouse = bytes.u32()?;
    if (1..=MAX_WAREHOUSES).contains(&warehouse) {
        Ok(warehouse)
    } else {
        Err(DecodeError::new(format!("warehouses have numbers from 1 to {MAX_WAREHOUSES}")))
    }
}

/// Reads D_ID.
pub(super) fn read_district(bytes: &mut Reader<'_>) -> Result<u8, DecodeError> {
    let district = bytes.u8()?;
    if (1..=DISTRICTS).contains(&district) {
        Ok(district)
    } else {
        Err(DecodeError::new("districts have numbers from 1 to 10"))
    }
}

macro_rules! packed {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[derive(IntoBytes, FromBytes, KnownLayout, Immutable)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The packed key: its order is the order of its parts, first to last.
            #[inline]
            #[must_use]
            pub const fn packed(self) -> u64 {
                self.0
            }
        }
    };
}

packed! {
    /// A warehouse: (W_ID).
    WarehouseKey
}
packed! {
    /// A district: (D_W_ID, D_ID).
    DistrictKey
}
packed! {
    /// The customers of a district who share a last name: (C_W_ID, C_D_ID, number of C_LAST).
    NameKey
}
packed! {
    /// A customer: (C_W_ID, C_D_ID, C_ID).
    CustomerKey
}
packed! {
    /// An order, or its entry among the new orders: (O_W_ID, O_D_ID, O_ID).
    OrderKey
}
packed! {
    /// A line of an order: (OL_W_ID, OL_D_ID, OL_O_ID, OL_NUMBER).
    OrderLineKey
}
packed! {
    /// The stock of an item in a warehouse: (S_W_ID, S_I_ID).
    StockKey
}

impl WarehouseKey {
    /// The warehouse with this number, from 1 to [`MAX_WAREHOUSES`].
    #[inline]
    #[must_use]
    pub const fn new(warehouse: u32) -> Self {
        Self(warehouse as u64)
    }

    /// W_ID.
    #[inline]
    #[must_use]
    pub const fn warehouse(self) -> u32 {
        self.0 as u32
    }
}

impl DistrictKey {
    /// The district with this number, from 1 to 10, of a warehouse.
    #[inline]
    #[must_use]
    pub const fn new(warehouse: u32, district: u8) -> Self {
        Self((warehouse as u64) << 4 | (district & 15) as u64)
    }

    /// D_W_ID.
    #[inline]
    #[must_use]
    pub const fn warehouse(self) -> u32 {
        (self.0 >> 4) as u32
    }

    /// D_ID.
    #[inline]
    #[must_use]
    pub const fn district(self) -> u8 {
        (self.0 & 15) as u8
    }

    /// All districts of the warehouses 1 to `warehouses`, in order.
    pub fn all(warehouses: u32) -> impl Iterator<Item = Self> {
        (1..=warehouses).flat_map(Self::of_warehouse)
    }

    /// The ten districts of a warehouse, in order.
    pub fn of_warehouse(warehouse: u32) -> impl Iterator<Item = Self> {
        (1..=DISTRICTS).map(move |district| Self::new(warehouse, district))
    }

    /// The place of this district in a list of [`DistrictKey::all`].
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.warehouse().wrapping_sub(1) as usize * DISTRICTS as usize
            + self.district().wrapping_sub(1) as usize
    }
}

impl NameKey {
    /// The customers of a district whose last name has this number (see [`super::names`]).
    #[inline]
    #[must_use]
    pub const fn new(district: DistrictKey, name: u16) -> Self {
        Self(district.0 << 16 | name as u64)
    }

    /// The district.
    #[inline]
    #[must_use]
    pub const fn district(self) -> DistrictKey {
        DistrictKey(self.0 >> 16)
    }

    /// The number of the last name.
    #[inline]
    #[must_use]
    pub const fn name(self) -> u16 {
        self.0 as u16
    }
}

/// Where a customer stands among those of a district who share a last name: they are sorted by C_FIRST.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NameRank {
    /// The district and the last name.
    pub name: NameKey,
    /// C_FIRST.
    pub first: Text<16>,
}

impl NameRank {
    /// All who share a last name.
    #[inline]
    #[must_use]
    pub const fn all(name: NameKey) -> RangeInclusive<Self> {
        Self { name, first: Text::EMPTY }..=Self { name, first: Text::LAST }
    }
}

impl CustomerKey {
    /// The customer with this number, from 1, of a district.
    #[inline]
    #[must_use]
    pub const fn new(district: DistrictKey, customer: u32) -> Self {
        Self(district.0 << 32 | customer as u64)
    }

    /// The district.
    #[inline]
    #[must_use]
    pub const fn district(self) -> DistrictKey {
        DistrictKey(self.0 >> 32)
    }

    /// C_ID.
    #[inline]
    #[must_use]
    pub const fn customer(self) -> u32 {
        self.0 as u32
    }
}

impl OrderKey {
    /// The order with this number, from 1, of a district.
    #[inline]
    #[must_use]
    pub const fn new(district: DistrictKey, order: u32) -> Self {
        Self(district.0 << 32 | order as u64)
    }

    /// The district.
    #[inline]
    #[must_use]
    pub const fn district(self) -> DistrictKey {
        DistrictKey(self.0 >> 32)
    }

    /// O_ID.
    #[inline]
    #[must_use]
    pub const fn order(self) -> u32 {
        self.0 as u32
    }

    /// The line with this number, from 1, of the order.
    #[inline]
    #[must_use]
    pub const fn line(self, number: u8) -> OrderLineKey {
        OrderLineKey(self.0 << 8 | number as u64)
    }
}

impl OrderLineKey {
    /// The order.
    #[inline]
    #[must_use]
    pub const fn order(self) -> OrderKey {
        OrderKey(self.0 >> 8)
    }

    /// The district.
    #[inline]
    #[must_use]
    pub const fn district(self) -> DistrictKey {
        self.order().district()
    }

    /// OL_NUMBER.
    #[inline]
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0 as u8
    }
}

impl StockKey {
    /// The stock of an item in a warehouse.
    #[inline]
    #[must_use]
    pub const fn new(warehouse: u32, item: u32) -> Self {
        Self((warehouse as u64) << 32 | item as u64)
    }

    /// S_W_ID.
    #[inline]
    #[must_use]
    pub const fn warehouse(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// S_I_ID.
    #[inline]
    #[must_use]
    pub const fn item(self) -> u32 {
        self.0 as u32
    }
}

/// A payment in the history: of which customer, and at which position of the log it was made.
///
/// A customer's first row comes with the population and has position 0, where the log holds no payment.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    IntoBytes,
    FromBytes,
    KnownLayout,
    Immutable,
)]
#[repr(C)]
pub struct HistoryKey {
    /// Who paid.
    pub customer: CustomerKey,
    /// When, or 0 for the row that came with the population.
    pub position: u64,
}

impl fmt::Display for WarehouseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "warehouse {}", self.0)
    }
}

impl fmt::Display for DistrictKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "district {}/{}", self.warehouse(), self.district())
    }
}

impl fmt::Display for CustomerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "customer {} of {}", self.customer(), self.district())
    }
}

impl fmt::Display for OrderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order {} of {}", self.order(), self.district())
    }
}

impl fmt::Display for OrderLineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of {}", self.number(), self.order())
    }
}

impl fmt::Display for StockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "item {} in warehouse {}", self.item(), self.warehouse())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_return_the_parts_they_were_made_of() {
        for warehouse in [1, 7, MAX_WAREHOUSES] {
            for district in DistrictKey::of_warehouse(warehouse) {
                assert_eq!(district.warehouse(), warehouse);
                let customer = CustomerKey::new(district, u32::MAX);
                assert_eq!((customer.district(), customer.customer()), (district, u32::MAX));
                let line = OrderKey::new(district, u32::MAX).line(15);
                assert_eq!((line.order(), line.number()), (OrderKey::new(district, u32::MAX), 15));
                assert_eq!(line.district(), district);
                let name = NameKey::new(district, 999);
                assert_eq!((name.district(), name.name()), (district, 999));
            }
            let stock = StockKey::new(warehouse, 100_000);
            assert_eq!((stock.warehouse(), stock.item()), (warehouse, 100_000));
        }
    }

    #[test]
    fn keys_order_by_their_parts() {
        let first = DistrictKey::new(1, 10);
        let second = DistrictKey::new(2, 1);
        assert!(first < second);
        assert!(OrderKey::new(first, u32::MAX) < OrderKey::new(second, 1));
        assert!(OrderKey::new(first, 1).line(15) < OrderKey::new(first, 2).line(1));
    }

    #[test]
    fn district_index_is_its_place_among_all() {
        for (place, district) in DistrictKey::all(3).enumerate() {
            assert_eq!(district.index(), place);
        }
    }
}
