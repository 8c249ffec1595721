//! Payment (clause 2.5): a customer pays at a district of any warehouse.

use std::io::Write;

use mixlog_engine::{DecodeError, Footprint, Procedure, Tx};
use serde::{Deserialize, Serialize};

use super::customer::{Missing, Selector};
use super::keys::{
    CustomerKey, DistrictKey, HistoryKey, NameKey, NameRank, WarehouseKey, read_district, read_warehouse,
};
use super::rows::{Account, Address, CustomerData, History, LastName, history_data};
use super::schema::{
    CUSTOMER, CUSTOMER_ACCOUNT, CUSTOMER_BY_NAME, CUSTOMER_DATA, DISTRICT, DISTRICT_YTD, HISTORY, WAREHOUSE,
    WAREHOUSE_YTD,
};
use crate::codec::Reader;
use crate::money::Cents;
use crate::text::Text;

/// A customer pays an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// W_ID: the warehouse that takes the payment.
    pub warehouse: u32,
    /// D_ID: the district that takes it.
    pub district: u8,
    /// C_W_ID: the customer's warehouse.
    pub customer_warehouse: u32,
    /// C_D_ID: the customer's district.
    pub customer_district: u8,
    /// Which customer.
    pub customer: Selector,
    /// H_AMOUNT in cents.
    pub amount: u32,
}

/// What the terminal shows (clause 2.5.3.3), without what it sent itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paid {
    /// Address of the warehouse.
    pub warehouse: Address,
    /// Address of the district.
    pub district: Address,
    /// C_ID.
    pub customer: u32,
    /// C_FIRST.
    pub first: Text<16>,
    /// C_MIDDLE.
    pub middle: Text<2>,
    /// C_LAST.
    pub last: LastName,
    /// Address of the customer.
    pub address: Address,
    /// C_PHONE.
    pub phone: Text<16>,
    /// C_SINCE in microseconds since 1970.
    pub since_us: u64,
    /// C_CREDIT.
    pub credit: Text<2>,
    /// C_CREDIT_LIM.
    pub credit_limit: Cents,
    /// C_DISCOUNT in hundredths of a percent.
    pub discount: u16,
    /// C_BALANCE after the payment.
    pub balance: Cents,
    /// The first 200 characters of C_DATA, if the credit is bad.
    pub data: Option<Box<Text<200>>>,
    /// H_DATE in microseconds since 1970.
    pub date_us: u64,
}

impl Payment {
    /// The district that takes the payment.
    #[inline]
    #[must_use]
    pub const fn district_key(&self) -> DistrictKey {
        DistrictKey::new(self.warehouse, self.district)
    }

    /// The customer's district.
    #[inline]
    #[must_use]
    pub const fn customer_district_key(&self) -> DistrictKey {
        DistrictKey::new(self.customer_warehouse, self.customer_district)
    }

    /// H_AMOUNT.
    #[inline]
    #[must_use]
    pub const fn cents(&self) -> Cents {
        Cents(self.amount as i64)
    }

    /// The row of HISTORY that this payment makes.
    #[inline]
    #[must_use]
    pub fn history_row(&self, warehouse: &Text<10>, district: &Text<10>, date_us: u64) -> History {
        History {
            amount: self.cents(),
            date_us,
            warehouse: self.warehouse,
            district: u32::from(self.district),
            data: history_data(warehouse, district),
        }
    }

    /// Changes the customer's account.
    #[inline]
    pub fn pay(&self, account: &mut Account) {
        account.balance -= self.cents();
        account.ytd_payment += self.cents();
        account.payment_count += 1;
    }

    /// Notes the payment in C_DATA of a customer with bad credit, and returns the first 200 characters.
    #[inline]
    pub fn note(&self, customer: CustomerKey, data: &mut CustomerData) -> Box<Text<200>> {
        data.prepend(
            Note { customer, district: self.district_key(), amount: self.cents() }.text().as_bytes(),
        );
        let text = data.text();
        Box::new(Text::new(&text[..text.len().min(200)]))
    }
}

/// What a payment puts at the front of C_DATA.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note {
    pub(super) customer: CustomerKey,
    pub(super) district: DistrictKey,
    pub(super) amount: Cents,
}

impl Note {
    /// C_ID C_D_ID C_W_ID D_ID W_ID H_AMOUNT and a bar.
    pub(super) fn text(&self) -> Text<80> {
        let home = self.customer.district();
        Text::written(|bytes| {
            write!(
                bytes,
                "{} {} {} {} {} {}|",
                self.customer.customer(),
                home.district(),
                home.warehouse(),
                self.district.district(),
                self.district.warehouse(),
                self.amount
            )
        })
    }
}

impl Payment {
    /// Declares the year-to-date totals as written, as if they could not be merged into.
    pub(crate) fn declare_totals_written(&self, f: &mut Footprint<'_>) {
        f.write(&WAREHOUSE_YTD, &WarehouseKey::new(self.warehouse))
            .write(&DISTRICT_YTD, &self.district_key());
    }
}

impl Procedure for Payment {
    const NAME: &'static str = "tpcc.payment";
    type Output = Paid;
    type Abort = Missing;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.warehouse.to_le_bytes());
        out.push(self.district);
        out.extend_from_slice(&self.customer_warehouse.to_le_bytes());
        out.push(self.customer_district);
        self.customer.encode(out);
        out.extend_from_slice(&self.amount.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(bytes);
        let payment = Self {
            warehouse: read_warehouse(&mut bytes)?,
            district: read_district(&mut bytes)?,
            customer_warehouse: read_warehouse(&mut bytes)?,
            customer_district: read_district(&mut bytes)?,
            customer: Selector::decode(&mut bytes)?,
            amount: bytes.u32()?,
        };
        bytes.end()?;
        Ok(payment)
    }

    fn footprint(&self, f: &mut Footprint<'_>) {
        let home = self.customer_district_key().packed();
        f.read_granule(&WAREHOUSE, u64::from(self.warehouse));
        f.merge(&WAREHOUSE_YTD, &WarehouseKey::new(self.warehouse))
            .merge(&DISTRICT_YTD, &self.district_key());
        match self.customer {
            // Naming the rows lets the engine fetch them ahead.
            Selector::Id(id) => {
                let key = CustomerKey::new(self.customer_district_key(), id);
                f.write(&CUSTOMER_ACCOUNT, &key).read(&CUSTOMER, &key);
            }
            Selector::LastName(name) => {
                f.write_granule(&CUSTOMER_ACCOUNT, home);
                // Whose account it is, the procedure finds: to look it up here as well took longer than fetching it
                // ahead saved.
                f.range_by(
                    &CUSTOMER_BY_NAME,
                    NameRank::all(NameKey::new(self.customer_district_key(), name)),
                );
            }
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Paid, Missing> {
        let (warehouse_key, district_key) = (WarehouseKey::new(self.warehouse), self.district_key());
        let (date_us, position) = (tx.time_us(), tx.position().0);
        if !tx.merge(&WAREHOUSE_YTD, warehouse_key, self.cents()) {
            return Err(Missing::Warehouse);
        }
        if !tx.merge(&DISTRICT_YTD, district_key, self.cents()) {
            return Err(Missing::District);
        }

        let key = self.customer.find(tx, self.customer_district_key()).ok_or(Missing::Customer)?;
        tx.fetch_ahead(&CUSTOMER_ACCOUNT, &[key]);
        tx.fetch_ahead(&CUSTOMER, &[key]);
        let account = tx.get_mut(&CUSTOMER_ACCOUNT, &key).ok_or(Missing::Customer)?;
        self.pay(account);
        let balance = account.balance;
        let is_bad = tx.get(&CUSTOMER, &key).ok_or(Missing::Customer)?.has_bad_credit();
        let data = if is_bad {
            Some(self.note(key, tx.get_mut(&CUSTOMER_DATA, &key).ok_or(Missing::Customer)?))
        } else {
            None
        };

        let warehouse = tx.get(&WAREHOUSE, &warehouse_key).ok_or(Missing::Warehouse)?;
        let district = tx.get(&DISTRICT, &district_key).ok_or(Missing::District)?;
        let customer = tx.get(&CUSTOMER, &key).ok_or(Missing::Customer)?;
        let history = self.history_row(&warehouse.name, &district.name, date_us);
        let paid = Paid {
            warehouse: warehouse.address,
            district: district.address,
            customer: key.customer(),
            first: customer.first,
            middle: customer.middle,
            last: customer.last,
            address: customer.address,
            phone: customer.phone,
            since_us: customer.since_us,
            credit: customer.credit,
            credit_limit: customer.credit_limit,
            discount: customer.discount,
            balance,
            data,
            date_us,
        };
        tx.put(&HISTORY, HistoryKey { customer: key, position }, history);
        Ok(paid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payment_survives_its_encoding_and_refuses_malformed_bytes() {
        let payment = Payment {
            warehouse: 1,
            district: 2,
            customer_warehouse: 3,
            customer_district: 4,
            customer: Selector::LastName(371),
            amount: 5_000_00,
        };
        let mut bytes = Vec::new();
        payment.encode(&mut bytes);
        assert_eq!(Payment::decode(&bytes).expect("it decodes"), payment);
        assert!((0..bytes.len()).all(|length| Payment::decode(&bytes[..length]).is_err()));
        bytes.push(0);
        assert!(Payment::decode(&bytes).is_err());
    }

    #[test]
    fn note_lists_customer_then_district_then_amount() {
        let customer = CustomerKey::new(DistrictKey::new(2, 10), 3_000);
        let note = Note { customer, district: DistrictKey::new(1, 9), amount: Cents(12_05) };
        assert_eq!(note.text().as_bytes(), b"3000 10 2 9 1 12.05|");
        let longest = DistrictKey::new(super::super::keys::MAX_WAREHOUSES, 10);
        let customer = CustomerKey::new(longest, u32::MAX);
        let _ = Note { customer, district: longest, amount: Cents(i64::from(u32::MAX)) }.text();
    }
}
