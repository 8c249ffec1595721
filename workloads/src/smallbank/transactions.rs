//! SmallBank's six transactions.

use mixlog_engine::{Footprint, Procedure, Table, Tx};
use serde::{Deserialize, Serialize};

use super::bank::{CHECKING, Name, SAVINGS};
use crate::footprints::Misdeclare;
use crate::money::Cents;

/// Why a transaction changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BankAbort {
    /// Nobody has this name.
    NoAccount(Name),
    /// The account does not have that much.
    InsufficientFunds,
}

/// What a check costs that is not covered, beside its amount.
pub const PENALTY: Cents = Cents(1_00);

type Accounts = Table<u64, Cents, mixlog_engine::Fixed>;

/// A customer's account, to be changed. Every customer has both.
fn account<'a>(
    tx: &'a mut Tx<'_>,
    accounts: &Accounts,
    customer: u64,
    name: &Name,
) -> Result<&'a mut Cents, BankAbort> {
    tx.get_mut(accounts, &customer).ok_or(BankAbort::NoAccount(*name))
}

/// What is on a customer's account.
fn balance(tx: &Tx<'_>, accounts: &Accounts, customer: u64, name: &Name) -> Result<Cents, BankAbort> {
    tx.get(accounts, &customer).copied().ok_or(BankAbort::NoAccount(*name))
}

/// Reads both accounts of a customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// The customer.
    pub name: Name,
}

impl Procedure for Balance {
    const NAME: &'static str = "smallbank.balance";
    /// What the customer has on both accounts.
    type Output = Cents;
    type Abort = BankAbort;

    fn footprint(&self, f: &mut Footprint<'_>) {
        self.name.declare(f, |f, customer| {
            f.read(&SAVINGS, &customer).read(&CHECKING, &customer);
        });
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Cents, BankAbort> {
        let customer = self.name.find(tx)?;
        Ok(balance(tx, &SAVINGS, customer, &self.name)? + balance(tx, &CHECKING, customer, &self.name)?)
    }
}

/// Adds to a checking account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DepositChecking {
    /// The customer.
    pub name: Name,
    /// How much, in cents.
    pub amount: u32,
}

impl Procedure for DepositChecking {
    const NAME: &'static str = "smallbank.deposit_checking";
    /// What is on the account now.
    type Output = Cents;
    type Abort = BankAbort;

    fn footprint(&self, f: &mut Footprint<'_>) {
        self.name.declare(f, |f, customer| {
            f.write(&CHECKING, &customer);
        });
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Cents, BankAbort> {
        let customer = self.name.find(tx)?;
        let checking = account(tx, &CHECKING, customer, &self.name)?;
        *checking += Cents(i64::from(self.amount));
        Ok(*checking)
    }
}

/// Adds to a savings account, or takes from it what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactSavings {
    /// The customer.
    pub name: Name,
    /// How much: taken if negative.
    pub amount: Cents,
}

impl Procedure for TransactSavings {
    const NAME: &'static str = "smallbank.transact_savings";
    /// What is on the account now.
    type Output = Cents;
    type Abort = BankAbort;

    fn footprint(&self, f: &mut Footprint<'_>) {
        self.name.declare(f, |f, customer| {
            f.write(&SAVINGS, &customer);
        });
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Cents, BankAbort> {
        let customer = self.name.find(tx)?;
        let savings = account(tx, &SAVINGS, customer, &self.name)?;
        if *savings + self.amount < Cents::ZERO {
            return Err(BankAbort::InsufficientFunds);
        }
        *savings += self.amount;
        Ok(*savings)
    }
}

/// Moves everything that one customer has to the checking account of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amalgamate {
    /// The customer who has nothing afterwards.
    pub from: Name,
    /// The customer who has it all.
    pub to: Name,
}

/// What an [`Amalgamate`] moved. What came from a checking account may be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amalgamated {
    /// From the savings account.
    pub savings: Cents,
    /// From the checking account.
    pub checking: Cents,
}

impl Procedure for Amalgamate {
    const NAME: &'static str = "smallbank.amalgamate";
    type Output = Amalgamated;
    type Abort = BankAbort;

    fn footprint(&self, f: &mut Footprint<'_>) {
        self.from.declare(f, |f, customer| {
            f.write(&SAVINGS, &customer).write(&CHECKING, &customer);
        });
        self.to.declare(f, |f, customer| {
            f.write(&CHECKING, &customer);
        });
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Amalgamated, BankAbort> {
        let (from, to) = (self.from.find(tx)?, self.to.find(tx)?);
        let savings = std::mem::take(account(tx, &SAVINGS, from, &self.from)?);
        let checking = std::mem::take(account(tx, &CHECKING, from, &self.from)?);
        *account(tx, &CHECKING, to, &self.to)? += savings + checking;
        Ok(Amalgamated { savings, checking })
    }
}

/// Takes the amount of a check from a checking account, and a penalty if the two accounts together do not cover it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteCheck {
    /// The customer.
    pub name: Name,
    /// How much, in cents.
    pub amount: u32,
}

impl Procedure for WriteCheck {
    const NAME: &'static str = "smallbank.write_check";
    /// What was taken: the amount, and the [`PENALTY`] if there was one.
    type Output = Cents;
    type Abort = BankAbort;

    fn footprint(&self, f: &mut Footprint<'_>) {
        self.name.declare(f, |f, customer| {
            f.read(&SAVINGS, &customer).write(&CHECKING, &customer);
        });
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Cents, BankAbort> {
        let customer = self.name.find(tx)?;
        let savings = balance(tx, &SAVINGS, customer, &self.name)?;
        let checking = account(tx, &CHECKING, customer, &self.name)?;
        let amount = Cents(i64::from(self.amount));
        let taken = if savings + *checking < amount { amount + PENALTY } else { amount };
        *checking -= taken;
        Ok(taken)
    }
}

/// Moves money between two checking accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendPayment {
    /// The customer who pays.
    pub from: Name,
    /// The customer who is paid.
    pub to: Name,
    /// How much, in cents.
    pub amount: u32,
}

impl Procedure for SendPayment {
    const NAME: &'static str = "smallbank.send_payment";
    /// What the paying account has left.
    type Output = Cents;
    type Abort = BankAbort;

    fn footprint(&self, f: &mut Footprint<'_>) {
        for name in [self.from, self.to] {
            name.declare(f, |f, customer| {
                f.write(&CHECKING, &customer);
            });
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Cents, BankAbort> {
        let (from, to) = (self.from.find(tx)?, self.to.find(tx)?);
        let amount = Cents(i64::from(self.amount));
        let pays = account(tx, &CHECKING, from, &self.from)?;
        if *pays < amount {
            return Err(BankAbort::InsufficientFunds);
        }
        *pays -= amount;
        let left = *pays;
        *account(tx, &CHECKING, to, &self.to)? += amount;
        Ok(left)
    }
}

macro_rules! mistaken_about_the_customer {
    ($($procedure:ty),*) => {$(
        impl Misdeclare for $procedure {
            fn less(&self) -> Option<Self> {
                None
            }

            fn other(&self) -> Self {
                let mut other = *self;
                other.name = self.name.next();
                other
            }
        }
    )*};
}

macro_rules! mistaken_about_both_customers {
    ($($procedure:ty),*) => {$(
        impl Misdeclare for $procedure {
            /// Forgets who is paid.
            fn less(&self) -> Option<Self> {
                let mut less = *self;
                less.to = self.from;
                Some(less)
            }

            fn other(&self) -> Self {
                let mut other = *self;
                (other.from, other.to) = (self.to.next(), self.to.next().next());
                other
            }
        }
    )*};
}

mistaken_about_the_customer!(Balance, DepositChecking, TransactSavings, WriteCheck);
mistaken_about_both_customers!(Amalgamate, SendPayment);
