//! Order-Status (clause 2.6): a customer asks for the state of his or her last order.

use mixlog_engine::{DecodeError, Footprint, Procedure, Tx};
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::customer::{Missing, Selector};
use super::keys::{DistrictKey, read_district, read_warehouse};
use super::rows::{LastName, OrderLine};
use super::schema::{CUSTOMER, CUSTOMER_ACCOUNT, ORDER, ORDER_BY_CUSTOMER, ORDER_LINE};
use crate::codec::Reader;
use crate::money::Cents;
use crate::text::{Text, byte_list};

/// A customer asks for the state of the last order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderStatus {
    /// C_W_ID.
    pub warehouse: u32,
    /// C_D_ID.
    pub district: u8,
    /// Which customer.
    pub customer: Selector,
}

/// What the terminal shows (clause 2.6.3.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// C_ID.
    pub customer: u32,
    /// C_FIRST.
    pub first: Text<16>,
    /// C_MIDDLE.
    pub middle: Text<2>,
    /// C_LAST.
    pub last: LastName,
    /// C_BALANCE.
    pub balance: Cents,
    /// O_ID.
    pub order: u32,
    /// O_ENTRY_D in microseconds since 1970.
    pub entry_us: u64,
    /// O_CARRIER_ID, or 0 as long as the order is not delivered.
    pub carrier: u16,
    /// The lines of the order.
    #[serde(with = "byte_list")]
    pub lines: Vec<StatusLine>,
}

/// What the terminal shows of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct StatusLine {
    /// OL_DELIVERY_D in microseconds since 1970, or 0.
    pub delivery_us: u64,
    /// OL_I_ID.
    pub item: u32,
    /// OL_SUPPLY_W_ID.
    pub supply: u32,
    /// OL_QUANTITY.
    pub quantity: u32,
    /// OL_AMOUNT in cents.
    pub amount: u32,
}

impl From<&OrderLine> for StatusLine {
    fn from(line: &OrderLine) -> Self {
        let OrderLine { delivery_us, item, supply, quantity, amount, .. } = *line;
        Self { delivery_us, item, supply, quantity, amount }
    }
}

impl OrderStatus {
    /// The customer's district.
    #[inline]
    #[must_use]
    pub const fn district_key(&self) -> DistrictKey {
        DistrictKey::new(self.warehouse, self.district)
    }
}

impl Procedure for OrderStatus {
    const NAME: &'static str = "tpcc.order_status";
    type Output = Status;
    type Abort = Missing;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.warehouse.to_le_bytes());
        out.push(self.district);
        self.customer.encode(out);
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(bytes);
        let (warehouse, district) = (read_warehouse(&mut bytes)?, read_district(&mut bytes)?);
        let customer = Selector::decode(&mut bytes)?;
        bytes.end()?;
        Ok(Self { warehouse, district, customer })
    }

    fn footprint(&self, f: &mut Footprint<'_>) {
        let district = self.district_key().packed();
        f.read_granule(&CUSTOMER, district).read_granule(&CUSTOMER_ACCOUNT, district);
        f.read_granule(&ORDER, district);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Status, Missing> {
        let district = self.district_key();
        let key = self.customer.find(tx, district).ok_or(Missing::Customer)?;
        let (_, order_key) = tx.range_by(&ORDER_BY_CUSTOMER, key..=key).next_back().ok_or(Missing::Order)?;
        let customer = tx.get(&CUSTOMER, &key).ok_or(Missing::Customer)?;
        let account = tx.get(&CUSTOMER_ACCOUNT, &key).ok_or(Missing::Customer)?;
        let order = tx.get(&ORDER, &order_key).ok_or(Missing::Order)?;
        let lines = tx.get(&ORDER_LINE, &order_key).ok_or(Missing::Order)?;
        let lines = lines.first(order.line_count).iter().map(StatusLine::from).collect();
        Ok(Status {
            customer: key.customer(),
            first: customer.first,
            middle: customer.middle,
            last: customer.last,
            balance: account.balance,
            order: order_key.order(),
            entry_us: order.entry_us,
            carrier: order.carrier,
            lines,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_status_survives_its_encoding_and_refuses_malformed_bytes() {
        let status = OrderStatus { warehouse: 9, district: 10, customer: Selector::Id(77) };
        let mut bytes = Vec::new();
        status.encode(&mut bytes);
        assert_eq!(OrderStatus::decode(&bytes).expect("it decodes"), status);
        assert!((0..bytes.len()).all(|length| OrderStatus::decode(&bytes[..length]).is_err()));
        bytes.push(0);
        assert!(OrderStatus::decode(&bytes).is_err());
    }
}
