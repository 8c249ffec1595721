//! SmallBank as the runner sees it.

use std::marker::PhantomData;

use mixlog_engine::{Builder, Engine, Snapshot, SubmitError, Ticket, TicketError};

use super::audit::{self, Money};
use super::bank::{self, POPULATION, Population};
use super::driver::{Config, Driver, Transaction};
use super::load::{LoadAccounts, LoadPopulation};
use super::transactions::{
    Amalgamate, Amalgamated, Balance, BankAbort, DepositChecking, SendPayment, TransactSavings, WriteCheck,
};
use crate::check::Check;
use crate::footprints::{Exact, Footprints};
use crate::money::Cents;
use crate::workload::{Client, DriveError, Loader, Settled, Workload};

/// SmallBank; `F` chooses the footprints.
#[derive(Clone, Copy, Debug)]
pub struct SmallBank<F = Exact> {
    config: Config,
    population: Population,
    footprints: PhantomData<fn() -> F>,
}

impl<F: Footprints> SmallBank<F> {
    /// SmallBank with this configuration; the seed is that of the population.
    ///
    /// # Panics
    /// If [`Config::problem`] finds one.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        assert_eq!(config.problem(), None);
        let population = Population { accounts: config.accounts, seed };
        Self { config, population, footprints: PhantomData }
    }
}

impl<F: Footprints> Workload for SmallBank<F> {
    type Client = SmallBankClient<F>;
    type Observed = Money;

    fn name(&self) -> String {
        "smallbank".to_owned()
    }

    fn register(&self, builder: Builder) -> Builder {
        let builder = bank::register(builder).procedure::<LoadPopulation>().procedure::<LoadAccounts>();
        let builder = builder.procedure::<F::Of<Amalgamate>>().procedure::<F::Of<Balance>>();
        let builder = builder.procedure::<F::Of<DepositChecking>>().procedure::<F::Of<SendPayment>>();
        builder.procedure::<F::Of<TransactSavings>>().procedure::<F::Of<WriteCheck>>()
    }

    fn is_populated(&self, snapshot: &Snapshot) -> bool {
        snapshot.get(&POPULATION, &0).is_some()
    }

    fn populate(&self, engine: &Engine, progress: &mut dyn FnMut(u64, u64)) -> Result<(), DriveError> {
        let total = LoadAccounts::all(self.population).count() as u64 + 1;
        let mut loader = Loader::new(engine, total, progress);
        LoadAccounts::all(self.population).try_for_each(|chunk| loader.submit(&chunk))?;
        loader.submit(&LoadPopulation { population: self.population })?;
        loader.finish()
    }

    fn client(&self, snapshot: &Snapshot, seed: u64, client: u32) -> Result<SmallBankClient<F>, DriveError> {
        // Any seed will do: balances follow from the one that the population was made with.
        let found = snapshot.get(&POPULATION, &0);
        if found.is_none_or(|found| found.accounts != self.config.accounts) {
            return Err(DriveError::other_population(found, &self.population));
        }
        let driver = Driver::new(self.config, seed, client);
        Ok(SmallBankClient { driver, money: Money::none(self.config.accounts), footprints: PhantomData })
    }

    fn observe(&self, snapshot: &Snapshot) -> Money {
        audit::observe(snapshot, self.population)
    }

    fn audit(&self, snapshot: &Snapshot, observed: Option<&Money>) -> Vec<Check> {
        audit::audit(snapshot, self.population, observed)
    }
}

/// Submits SmallBank's transactions.
pub struct SmallBankClient<F> {
    driver: Driver,
    money: Money,
    footprints: PhantomData<fn() -> F>,
}

/// A SmallBank transaction in flight, with what its acknowledgement moves.
pub enum Pending<F: Footprints> {
    /// Amalgamate, with its customers.
    Amalgamate(Ticket<F::Of<Amalgamate>>, [u64; 2]),
    /// Balance.
    Balance(Ticket<F::Of<Balance>>),
    /// DepositChecking, with its customer and amount.
    DepositChecking(Ticket<F::Of<DepositChecking>>, u64, Cents),
    /// SendPayment, with its customers and amount.
    SendPayment(Ticket<F::Of<SendPayment>>, [u64; 2], Cents),
    /// TransactSavings, with its customer and amount.
    TransactSavings(Ticket<F::Of<TransactSavings>>, u64, Cents),
    /// WriteCheck, with its customer.
    WriteCheck(Ticket<F::Of<WriteCheck>>, u64),
}

impl<F: Footprints> Client for SmallBankClient<F> {
    type Pending = Pending<F>;
    type Observed = Money;

    fn submit(&mut self, engine: &Engine) -> Result<Pending<F>, SubmitError> {
        let cents = |amount: u32| Cents(i64::from(amount));
        Ok(match self.driver.draw() {
            Transaction::Amalgamate(amalgamate, pair) => {
                Pending::Amalgamate(engine.submit(&F::of(amalgamate))?, pair)
            }
            Transaction::Balance(balance) => Pending::Balance(engine.submit(&F::of(balance))?),
            Transaction::DepositChecking(deposit, customer) => {
                Pending::DepositChecking(engine.submit(&F::of(deposit))?, customer, cents(deposit.amount))
            }
            Transaction::SendPayment(payment, pair) => {
                Pending::SendPayment(engine.submit(&F::of(payment))?, pair, cents(payment.amount))
            }
            Transaction::TransactSavings(change, customer) => {
                Pending::TransactSavings(engine.submit(&F::of(change))?, customer, change.amount)
            }
            Transaction::WriteCheck(check, customer) => {
                Pending::WriteCheck(engine.submit(&F::of(check))?, customer)
            }
        })
    }

    fn settle(&mut self, pending: Pending<F>) -> Result<Settled, TicketError> {
        let Money { from_outside, gains } = &mut self.money;
        let is_short = |reason: &BankAbort| *reason == BankAbort::InsufficientFunds;
        Ok(match pending {
            Pending::Amalgamate(ticket, [from, to]) => {
                let move_all = |Amalgamated { savings, checking }| {
                    gains[from as usize].savings -= savings;
                    gains[from as usize].checking -= checking;
                    gains[to as usize].checking += savings + checking;
                };
                Settled::of(ticket.wait()?, move_all, |_| false)
            }
            Pending::Balance(ticket) => Settled::of(ticket.wait()?, |_| {}, |_| false),
            Pending::DepositChecking(ticket, customer, amount) => {
                let deposit = |_| {
                    gains[customer as usize].checking += amount;
                    *from_outside += amount;
                };
                Settled::of(ticket.wait()?, deposit, |_| false)
            }
            Pending::SendPayment(ticket, [from, to], amount) => {
                let pay = |_| {
                    gains[from as usize].checking -= amount;
                    gains[to as usize].checking += amount;
                };
                Settled::of(ticket.wait()?, pay, is_short)
            }
            Pending::TransactSavings(ticket, customer, amount) => {
                let change = |_| {
                    gains[customer as usize].savings += amount;
                    *from_outside += amount;
                };
                Settled::of(ticket.wait()?, change, is_short)
            }
            Pending::WriteCheck(ticket, customer) => {
                let take = |taken| {
                    gains[customer as usize].checking -= taken;
                    *from_outside -= taken;
                };
                Settled::of(ticket.wait()?, take, |_| false)
            }
        })
    }

    fn observed(self) -> Money {
        self.money
    }
}
