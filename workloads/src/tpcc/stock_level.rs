//! Stock-Level (clause 2.8): how many items of a district's last twenty orders are low in stock.

use mixlog_engine::{DecodeError, Footprint, Procedure, Tx};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::customer::Missing;
use super::keys::{DistrictKey, OrderKey, StockKey, read_district, read_warehouse};
use super::schema::{DISTRICT_ORDERS, ORDER_LINE, STOCK};
use crate::codec::Reader;

/// How many of the last orders are looked at.
pub const RECENT_ORDERS: u32 = 20;

/// A district asks how many recently sold items are below a threshold in the warehouse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockLevel {
    /// W_ID.
    pub warehouse: u32,
    /// D_ID.
    pub district: u8,
    /// 10 to 20.
    pub threshold: u8,
}

impl Procedure for StockLevel {
    const NAME: &'static str = "tpcc.stock_level";
    /// The number of different items whose S_QUANTITY is below the threshold.
    type Output = u32;
    type Abort = Missing;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.warehouse.to_le_bytes());
        out.extend_from_slice(&[self.district, self.threshold]);
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(bytes);
        let level = Self {
            warehouse: read_warehouse(&mut bytes)?,
            district: read_district(&mut bytes)?,
            threshold: bytes.u8()?,
        };
        bytes.end()?;
        Ok(level)
    }

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.read_granule(&ORDER_LINE, DistrictKey::new(self.warehouse, self.district).packed());
        f.read_granule(&STOCK, u64::from(self.warehouse));
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u32, Missing> {
        let district = DistrictKey::new(self.warehouse, self.district);
        let next = *tx.get(&DISTRICT_ORDERS, &district).ok_or(Missing::District)?;
        let orders: SmallVec<[OrderKey; RECENT_ORDERS as usize]> =
            (next.saturating_sub(RECENT_ORDERS)..next).map(|order| OrderKey::new(district, order)).collect();
        tx.fetch_ahead(&ORDER_LINE, &orders);
        let mut stocks = SmallVec::<[StockKey; 256]>::new();
        for lines in orders.iter().filter_map(|key| tx.get(&ORDER_LINE, key)) {
            stocks.extend(lines.iter().map(|(_, line)| StockKey::new(self.warehouse, line.item)));
        }
        let mut low = SmallVec::<[u32; 64]>::new();
        for stocks in stocks.chunks(32) {
            tx.fetch_ahead(&STOCK, stocks);
            for key in stocks {
                let stock = tx.get(&STOCK, key).ok_or(Missing::Stock)?;
                if stock.quantity < u32::from(self.threshold) {
                    low.push(key.item());
                }
            }
        }
        // Few lines are low, so that only those are sorted to count each item once.
        low.sort_unstable();
        low.dedup();
        Ok(low.len() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_level_survives_its_encoding_and_refuses_malformed_bytes() {
        let level = StockLevel { warehouse: 3, district: 4, threshold: 15 };
        let mut bytes = Vec::new();
        level.encode(&mut bytes);
        assert_eq!(StockLevel::decode(&bytes).expect("it decodes"), level);
        assert!((0..bytes.len()).all(|length| StockLevel::decode(&bytes[..length]).is_err()));
        bytes.push(0);
        assert!(StockLevel::decode(&bytes).is_err());
    }
}
