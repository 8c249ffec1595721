//! SmallBank's tables.

use std::fmt;
use std::io::Write;

use mixlog_engine::{Builder, Fixed, Footprint, Table, Tx};
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::transactions::BankAbort;
use crate::money::Cents;
use crate::random::Rng;
use crate::text::Text;

/// A customer's name: 16 digits.
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
    Unaligned,
)]
#[repr(transparent)]
pub struct Name(Text<16>);

impl Name {
    /// The name that the population gives to a customer.
    ///
    /// # Panics
    /// If the customer's number has more than 16 digits.
    #[must_use]
    pub fn of(customer: u64) -> Self {
        Self(Text::written(|text| write!(text, "{customer:016}")))
    }

    /// The customer to whom the population gave this name.
    fn first_bearer(&self) -> Option<u64> {
        std::str::from_utf8(self.0.as_bytes()).ok()?.parse().ok()
    }

    /// Another name.
    pub(super) fn next(&self) -> Self {
        Self::of(self.first_bearer().map_or(0, |customer| (customer + 1) % 10u64.pow(16)))
    }

    /// Declares the look-up of the customer, and what `accounts` declares for the customer that will be found.
    ///
    /// Who has the name stands in a row, and a footprint knows rows by their keys only. So this is a guess, as every
    /// footprint may be: nobody renames customers.
    pub(super) fn declare(&self, f: &mut Footprint<'_>, accounts: impl FnOnce(&mut Footprint<'_>, u64)) {
        f.read(&ACCOUNTS, self);
        if let Some(customer) = self.first_bearer() {
            accounts(f, customer);
        }
    }

    /// Looks up the customer.
    pub(super) fn find(&self, tx: &Tx<'_>) -> Result<u64, BankAbort> {
        tx.get(&ACCOUNTS, self).copied().ok_or(BankAbort::NoAccount(*self))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The numbers of the customers, by name.
pub const ACCOUNTS: Table<Name, u64, Fixed> = Table::fixed("smallbank.accounts");
/// What is on the savings accounts, by the customer's number: never less than nothing.
pub const SAVINGS: Table<u64, Cents, Fixed> = Table::fixed("smallbank.savings");
/// What is on the checking accounts, by the customer's number.
pub const CHECKING: Table<u64, Cents, Fixed> = Table::fixed("smallbank.checking");
/// How the customers were made: one row, under key 0.
pub const POPULATION: Table<u32, Population> = Table::new("smallbank.population");

pub(super) fn register(builder: Builder) -> Builder {
    builder.table(&ACCOUNTS).table(&SAVINGS).table(&CHECKING).table(&POPULATION)
}

/// What the log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Population {
    /// The number of customers, at least two.
    pub accounts: u64,
    /// The seed of what they have at first.
    pub seed: u64,
}

impl Population {
    /// What a customer has at first: 10,000.00 to 50,000.00 on each account.
    #[must_use]
    pub const fn initial(&self, customer: u64) -> Balances {
        let mut rng = Rng::for_row(self.seed, 1, customer);
        let savings = Cents(rng.between(10_000_00, 50_000_00) as i64);
        Balances { savings, checking: Cents(rng.between(10_000_00, 50_000_00) as i64) }
    }
}

/// What a customer has, or has gained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balances {
    /// On the savings account.
    pub savings: Cents,
    /// On the checking account.
    pub checking: Cents,
}

impl Balances {
    /// On both accounts.
    #[must_use]
    pub fn total(self) -> Cents {
        self.savings + self.checking
    }
}
