//! Transfers between accounts, with a knob for contention: one account can be hot.

use std::marker::PhantomData;

use mixlog_engine::{Builder, DecodeError, Engine, Fixed, Footprint, Procedure, Snapshot, SubmitError};
use mixlog_engine::{Never, Table, Ticket, TicketError, Tx};
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::check::{Check, Tally};
use crate::codec::Reader;
use crate::footprints::{Exact, Footprints, Misdeclare};
use crate::money::Cents;
use crate::random::Rng;
use crate::workload::{Client, DriveError, Loader, Observed, Settled, Workload};

/// An account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Account {
    /// What is on it; never negative.
    pub balance: Cents,
    /// How many transfers touched it.
    pub transfers: u64,
}

/// The accounts, by number from 0. Account 0 is the hot one.
pub const ACCOUNTS: Table<u64, Account, Fixed> = Table::fixed("transfer.accounts");

/// What the log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Population {
    /// The number of accounts, at least two.
    pub accounts: u64,
    /// What is on each at first.
    pub initial: Cents,
}

/// How the accounts were made: one row, under key 0.
pub const POPULATION: Table<u32, Population> = Table::new("transfer.population");

/// Moves money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// The account that pays.
    pub from: u64,
    /// The account that is paid.
    pub to: u64,
    /// How much, in cents.
    pub amount: u32,
}

/// Why nothing was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransferAbort {
    /// There was not enough on the account.
    InsufficientFunds,
    /// There is no such account.
    NoAccount(u64),
}

impl Procedure for Transfer {
    const NAME: &'static str = "transfer";
    /// What the paying account has left.
    type Output = Cents;
    type Abort = TransferAbort;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.from.to_le_bytes());
        out.extend_from_slice(&self.to.to_le_bytes());
        out.extend_from_slice(&self.amount.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(bytes);
        let transfer = Self { from: bytes.u64()?, to: bytes.u64()?, amount: bytes.u32()? };
        bytes.end()?;
        Ok(transfer)
    }

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&ACCOUNTS, &self.from).write(&ACCOUNTS, &self.to);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Cents, TransferAbort> {
        let amount = Cents(i64::from(self.amount));
        let from = tx.get_mut(&ACCOUNTS, &self.from).ok_or(TransferAbort::NoAccount(self.from))?;
        if from.balance < amount {
            return Err(TransferAbort::InsufficientFunds);
        }
        from.balance -= amount;
        from.transfers += 1;
        let left = from.balance;
        let to = tx.get_mut(&ACCOUNTS, &self.to).ok_or(TransferAbort::NoAccount(self.to))?;
        to.balance += amount;
        to.transfers += 1;
        Ok(left)
    }
}

impl Misdeclare for Transfer {
    /// Forgets who is paid.
    fn less(&self) -> Option<Self> {
        Some(Self { to: self.from, ..*self })
    }

    fn other(&self) -> Self {
        Self { from: self.to + 1, to: self.to + 2, ..*self }
    }
}

/// Records what the log holds: all accounts are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadPopulation {
    /// What the log holds.
    pub population: Population,
}

impl Procedure for LoadPopulation {
    const NAME: &'static str = "transfer.load_population";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&POPULATION, &0);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&POPULATION, 0, self.population);
        Ok(())
    }
}

/// Opens a chunk of the accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadAccounts {
    first: u64,
    end: u64,
    initial: Cents,
}

impl LoadAccounts {
    /// Accounts that one procedure opens.
    const AT_ONCE: u64 = 1_000;

    fn all(population: Population) -> impl Iterator<Item = Self> {
        let Population { accounts, initial } = population;
        let firsts = (0..accounts).step_by(Self::AT_ONCE as usize);
        firsts.map(move |first| Self { first, end: accounts.min(first + Self::AT_ONCE), initial })
    }
}

impl Procedure for LoadAccounts {
    const NAME: &'static str = "transfer.load_accounts";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        for account in self.first..self.end {
            f.write(&ACCOUNTS, &account);
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        for account in self.first..self.end {
            tx.put(&ACCOUNTS, account, Account { balance: self.initial, transfers: 0 });
        }
        Ok(())
    }
}

/// How transfers run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// The number of accounts, at least two.
    pub accounts: u64,
    /// The probability, from 0 to 1, that one side of a transfer is account 0.
    pub hot: f64,
    /// What is on each account at first. Transfers move up to 100.00, so that little makes many of them abort.
    pub initial: Cents,
}

impl Config {
    /// 100,000 accounts with 1,000.00 each, none of them hot.
    #[must_use]
    pub const fn new() -> Self {
        Self { accounts: 100_000, hot: 0.0, initial: Cents(1_000_00) }
    }

    /// What is wrong with the configuration, if anything.
    #[must_use]
    pub fn problem(&self) -> Option<&'static str> {
        if self.accounts < 2 {
            Some("a transfer needs at least two accounts")
        } else if !(0.0..=1.0).contains(&self.hot) {
            Some("the probability of the hot account is from 0 to 1")
        } else if self.initial < Cents::ZERO {
            Some("accounts cannot start below zero")
        } else {
            None
        }
    }

    const fn population(&self) -> Population {
        Population { accounts: self.accounts, initial: self.initial }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

/// Endless transfers. The same configuration, seed and client give the same.
#[derive(Clone, Debug)]
pub struct Driver {
    config: Config,
    rng: Rng,
}

impl Driver {
    /// The transfers of one client.
    #[must_use]
    pub const fn new(config: Config, seed: u64, client: u32) -> Self {
        Self { config, rng: Rng::for_row(seed, 0, client as u64 + 1) }
    }

    /// The next transfer: the two accounts are different, and the hot account pays as often as it is paid.
    pub fn draw(&mut self) -> Transfer {
        let Self { config, rng } = self;
        let one = if rng.chance(config.hot) { 0 } else { rng.below(config.accounts) };
        let other = rng.below(config.accounts - 1);
        let other = if other < one { other } else { other + 1 };
        let amount = rng.between(1, 100_00) as u32;
        let (from, to) = if rng.percent(50) { (one, other) } else { (other, one) };
        Transfer { from, to, amount }
    }
}

/// Transfers; `F` chooses the footprints.
#[derive(Clone, Copy, Debug)]
pub struct Transfers<F = Exact> {
    config: Config,
    footprints: PhantomData<fn() -> F>,
}

impl<F: Footprints> Transfers<F> {
    /// Transfers with this configuration.
    ///
    /// # Panics
    /// If [`Config::problem`] finds one.
    #[must_use]
    pub fn new(config: Config) -> Self {
        assert_eq!(config.problem(), None);
        Self { config, footprints: PhantomData }
    }
}

/// What each account has gained and how often, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gains(Vec<(Cents, u64)>);

impl Observed for Gains {
    fn add(&mut self, other: Self) {
        for (sum, gain) in self.0.iter_mut().zip(other.0) {
            sum.0 += gain.0;
            sum.1 += gain.1;
        }
    }
}

impl<F: Footprints> Workload for Transfers<F> {
    type Client = TransferClient<F>;
    type Observed = Gains;

    fn name(&self) -> String {
        "transfer".to_owned()
    }

    fn register(&self, builder: Builder) -> Builder {
        let builder = builder.table(&ACCOUNTS).table(&POPULATION);
        let builder = builder.procedure::<LoadPopulation>().procedure::<LoadAccounts>();
        builder.procedure::<F::Of<Transfer>>()
    }

    fn is_populated(&self, snapshot: &Snapshot) -> bool {
        snapshot.get(&POPULATION, &0).is_some()
    }

    fn populate(&self, engine: &Engine, progress: &mut dyn FnMut(u64, u64)) -> Result<(), DriveError> {
        let population = self.config.population();
        let total = LoadAccounts::all(population).count() as u64 + 1;
        let mut loader = Loader::new(engine, total, progress);
        LoadAccounts::all(population).try_for_each(|chunk| loader.submit(&chunk))?;
        loader.submit(&LoadPopulation { population })?;
        loader.finish()
    }

    fn client(&self, snapshot: &Snapshot, seed: u64, client: u32) -> Result<TransferClient<F>, DriveError> {
        let (is, should) = (snapshot.get(&POPULATION, &0), self.config.population());
        if is != Some(should) {
            return Err(DriveError::other_population(is, &should));
        }
        let gains = Gains(vec![(Cents::ZERO, 0); self.config.accounts as usize]);
        Ok(TransferClient { driver: Driver::new(self.config, seed, client), gains, footprints: PhantomData })
    }

    fn observe(&self, snapshot: &Snapshot) -> Gains {
        let mut gains = Gains(vec![(Cents::ZERO, 0); self.config.accounts as usize]);
        snapshot.for_each(&ACCOUNTS, |number, account| {
            if let Some(gain) = gains.0.get_mut(*number as usize) {
                *gain = (account.balance - self.config.initial, account.transfers);
            }
        });
        gains
    }

    /// T1: the accounts that were opened are there, and none is below zero. T2: no money was made or lost. T3, against
    /// acknowledgements: each account has what its transfers left on it.
    fn audit(&self, snapshot: &Snapshot, observed: Option<&Gains>) -> Vec<Check> {
        let Config { accounts, initial, .. } = self.config;
        let mut found: Vec<Option<Account>> = vec![None; accounts as usize];
        let mut valid = Tally::new("T1", "accounts");
        let mut sum = 0i128;
        snapshot.for_each(&ACCOUNTS, |number, account| {
            sum += i128::from(account.balance.0);
            match found.get_mut(*number as usize) {
                Some(place) => *place = Some(*account),
                None => valid.see(false, *number, || format!("there is an account {number}")),
            }
        });
        let recorded = snapshot.get(&POPULATION, &0);
        valid
            .see(recorded == Some(self.config.population()), 0, || format!("the population is {recorded:?}"));
        for (account, number) in found.iter().zip(0..) {
            let balance = account.map(|account| account.balance);
            valid.see(balance.is_some_and(|balance| balance >= Cents::ZERO), number, || {
                format!("account {number}: {balance:?}")
            });
        }
        let mut total = Tally::new("T2", "sums");
        total.equal(&"cents on all accounts", 0, sum, i128::from(accounts) * i128::from(initial.0));
        let mut checks = vec![valid.check(), total.check()];
        if let Some(Gains(gains)) = observed {
            let mut tally = Tally::new("T3", "accounts").noting("against acknowledgements");
            for ((account, gain), number) in found.iter().zip(gains).zip(0..) {
                let expected = Account { balance: initial + gain.0, transfers: gain.1 };
                tally.see(*account == Some(expected), number, || {
                    format!("account {number}: {account:?} instead of {expected:?}")
                });
            }
            checks.push(tally.check());
        }
        checks
    }
}

/// Submits transfers.
pub struct TransferClient<F> {
    driver: Driver,
    gains: Gains,
    footprints: PhantomData<fn() -> F>,
}

impl<F: Footprints> Client for TransferClient<F> {
    type Pending = (Ticket<F::Of<Transfer>>, Transfer);
    type Observed = Gains;

    fn submit(&mut self, engine: &Engine) -> Result<Self::Pending, SubmitError> {
        let transfer = self.driver.draw();
        Ok((engine.submit(&F::of(transfer))?, transfer))
    }

    fn settle(&mut self, (ticket, transfer): Self::Pending) -> Result<Settled, TicketError> {
        let amount = Cents(i64::from(transfer.amount));
        let commit = |_| {
            for (account, gain) in [(transfer.from, -amount), (transfer.to, amount)] {
                let (sum, count) = &mut self.gains.0[account as usize];
                *sum += gain;
                *count += 1;
            }
        };
        Ok(Settled::of(ticket.wait()?, commit, |reason| *reason == TransferAbort::InsufficientFunds))
    }

    fn observed(self) -> Gains {
        self.gains
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfer_survives_its_encoding_and_refuses_malformed_bytes() {
        let transfer = Transfer { from: 1, to: u64::MAX, amount: 5 };
        let mut bytes = Vec::new();
        transfer.encode(&mut bytes);
        assert_eq!(Transfer::decode(&bytes).expect("it decodes"), transfer);
        assert!((0..bytes.len()).all(|length| Transfer::decode(&bytes[..length]).is_err()));
        bytes.push(0);
        assert!(Transfer::decode(&bytes).is_err());
    }

    #[test]
    fn hot_account_is_on_one_side_as_often_as_asked() {
        for hot in [0.0, 0.3, 1.0] {
            let mut driver = Driver::new(Config { hot, ..Config::new() }, 1, 0);
            let list: Vec<Transfer> = (0..20_000).map(|_| driver.draw()).collect();
            assert!(list.iter().all(|transfer| transfer.from != transfer.to));
            let count = list.iter().filter(|transfer| transfer.from == 0 || transfer.to == 0).count();
            assert!((count as f64 / 20_000.0 - hot).abs() < 0.012, "{hot}: {count}");
            let pays = list.iter().filter(|transfer| transfer.from == 0).count();
            assert!((pays as f64 / 20_000.0 - hot / 2.0).abs() < 0.012, "{hot}: {pays}");
        }
    }
}
