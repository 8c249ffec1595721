//! How TPC-C's procedures are mistaken about their footprints when a test asks for it.

use super::customer::Selector;
use super::delivery::Delivery;
use super::keys::DISTRICTS;
use super::new_order::{Lines, NewOrder};
use super::order_status::OrderStatus;
use super::payment::Payment;
use super::stock_level::StockLevel;
use crate::footprints::Misdeclare;

/// The district after this one, in a circle.
const fn next_district(district: u8) -> u8 {
    district % DISTRICTS + 1
}

impl Misdeclare for NewOrder {
    /// Forgets the second half of the lines.
    fn less(&self) -> Option<Self> {
        let lines = self.lines.as_slice();
        Lines::new(&lines[..lines.len() / 2]).map(|lines| Self { lines, ..*self })
    }

    fn other(&self) -> Self {
        Self { district: next_district(self.district), ..*self }
    }
}

impl Misdeclare for Payment {
    /// Takes everybody for a customer of the district that takes the payment.
    fn less(&self) -> Option<Self> {
        let elsewhere = next_district(self.customer_district);
        Some(Self { customer_warehouse: self.warehouse, customer_district: elsewhere, ..*self })
    }

    fn other(&self) -> Self {
        Self { district: next_district(self.district), customer: Selector::Id(1), ..*self }
    }
}

impl Misdeclare for OrderStatus {
    fn less(&self) -> Option<Self> {
        None
    }

    fn other(&self) -> Self {
        Self { district: next_district(self.district), ..*self }
    }
}

impl Misdeclare for Delivery {
    fn less(&self) -> Option<Self> {
        None
    }

    /// The warehouse before this one; warehouse 0 does not exist.
    fn other(&self) -> Self {
        Self { warehouse: self.warehouse - 1, ..*self }
    }
}

impl Misdeclare for StockLevel {
    fn less(&self) -> Option<Self> {
        None
    }

    fn other(&self) -> Self {
        Self { district: next_district(self.district), ..*self }
    }
}
