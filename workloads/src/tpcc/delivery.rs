//! Delivery (clause 2.7): the oldest new order of each of a warehouse's districts is delivered.

use mixlog_engine::{DecodeError, Footprint, Procedure, Tx};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::customer::Missing;
use super::keys::{CustomerKey, DISTRICTS, DistrictKey, OrderKey, read_warehouse};
use super::schema::{CUSTOMER_ACCOUNT, NEW_ORDER, ORDER, ORDER_LINE};
use crate::codec::Reader;
use crate::money::Cents;

/// A carrier takes one order of every district of a warehouse, all in one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// W_ID.
    pub warehouse: u32,
    /// O_CARRIER_ID: 1 to 10.
    pub carrier: u8,
}

/// What is written to the result file (clause 2.7.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// O_ID of each district's delivered order, or 0 where there was none to deliver.
    pub orders: [u32; DISTRICTS as usize],
    /// OL_DELIVERY_D in microseconds since 1970.
    pub delivery_us: u64,
}

impl Delivered {
    /// The number of districts that had no new order.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.orders.iter().filter(|order| **order == 0).count()
    }
}

impl Procedure for Delivery {
    const NAME: &'static str = "tpcc.delivery";
    type Output = Delivered;
    type Abort = Missing;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.warehouse.to_le_bytes());
        out.push(self.carrier);
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(bytes);
        let delivery = Self { warehouse: read_warehouse(&mut bytes)?, carrier: bytes.u8()? };
        bytes.end()?;
        Ok(delivery)
    }

    fn footprint(&self, f: &mut Footprint<'_>) {
        for district in DistrictKey::of_warehouse(self.warehouse) {
            f.write_granule(&ORDER, district.packed()).write_granule(&CUSTOMER_ACCOUNT, district.packed());
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Delivered, Missing> {
        let delivery_us = tx.time_us();
        let mut delivered = Delivered { orders: [0; DISTRICTS as usize], delivery_us };
        // First all reads that tell which rows follow, so that the cache misses of ten districts overlap.
        let oldest: [Option<OrderKey>; DISTRICTS as usize] = std::array::from_fn(|index| {
            let district = DistrictKey::new(self.warehouse, index as u8 + 1);
            let all = OrderKey::new(district, 0)..=OrderKey::new(district, u32::MAX);
            tx.first(&NEW_ORDER, all).map(|(key, ())| key)
        });
        let keys: SmallVec<[OrderKey; DISTRICTS as usize]> = oldest.iter().flatten().copied().collect();
        tx.fetch_ahead(&ORDER, &keys);
        tx.fetch_ahead(&ORDER_LINE, &keys);
        let customers: SmallVec<[CustomerKey; DISTRICTS as usize]> = keys
            .iter()
            .filter_map(|key| Some(CustomerKey::new(key.district(), tx.get(&ORDER, key)?.customer)))
            .collect();
        tx.fetch_ahead(&CUSTOMER_ACCOUNT, &customers);
        for (key, delivered) in oldest.into_iter().zip(&mut delivered.orders) {
            let Some(key) = key else {
                continue;
            };
            let district = key.district();
            tx.delete(&NEW_ORDER, &key);
            let order = tx.get_mut(&ORDER, &key).ok_or(Missing::Order)?;
            order.carrier = u16::from(self.carrier);
            let (customer, line_count) = (order.customer, order.line_count);
            let mut amount = Cents::ZERO;
            let lines = tx.get_mut(&ORDER_LINE, &key).ok_or(Missing::Order)?;
            for line in lines.first_mut(line_count) {
                line.delivery_us = delivery_us;
                amount += line.cents();
            }
            let customer = CustomerKey::new(district, customer);
            let account = tx.get_mut(&CUSTOMER_ACCOUNT, &customer).ok_or(Missing::Customer)?;
            account.balance += amount;
            account.delivery_count += 1;
            *delivered = key.order();
        }
        Ok(delivered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_survives_its_encoding_and_refuses_malformed_bytes() {
        let delivery = Delivery { warehouse: 1, carrier: 10 };
        let mut bytes = Vec::new();
        delivery.encode(&mut bytes);
        assert_eq!(Delivery::decode(&bytes).expect("it decodes"), delivery);
        assert!((0..bytes.len()).all(|length| Delivery::decode(&bytes[..length]).is_err()));
        bytes.push(0);
        assert!(Delivery::decode(&bytes).is_err());
    }
}
