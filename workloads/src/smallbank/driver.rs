//! Which transactions clients submit.

use super::bank::Name;
use super::transactions::{Amalgamate, Balance, DepositChecking, SendPayment, TransactSavings, WriteCheck};
use crate::money::Cents;
use crate::random::Rng;

/// How SmallBank runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// The number of customers, at least two.
    pub accounts: u64,
    /// The probability, from 0 to 1, that the customers of a transaction are hot ones.
    pub hot: f64,
    /// The number of hot customers, at least two.
    pub hot_accounts: u64,
}

impl Config {
    /// H-Store's million customers, all alike. The original paper has 18,000, and asks for its hot 1,000 in 90 % of
    /// the transactions.
    #[must_use]
    pub const fn new() -> Self {
        Self { accounts: 1_000_000, hot: 0.0, hot_accounts: 1_000 }
    }

    /// What is wrong with the configuration, if anything.
    #[must_use]
    pub fn problem(&self) -> Option<&'static str> {
        if !(2..10u64.pow(16)).contains(&self.accounts) {
            Some("SmallBank needs at least two accounts, and has names for 10^16")
        } else if !(0.0..=1.0).contains(&self.hot) {
            Some("the probability of hot accounts is from 0 to 1")
        } else if !(2..=self.accounts).contains(&self.hot_accounts) {
            Some("at least two accounts are hot, and at most all")
        } else {
            None
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

/// A transaction to submit, with the numbers of its customers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// 15 %.
    Amalgamate(Amalgamate, [u64; 2]),
    /// 15 %.
    Balance(Balance),
    /// 15 %.
    DepositChecking(DepositChecking, u64),
    /// 25 %.
    SendPayment(SendPayment, [u64; 2]),
    /// 15 %.
    TransactSavings(TransactSavings, u64),
    /// 15 %.
    WriteCheck(WriteCheck, u64),
}

/// Endless transactions. The same configuration, seed and client give the same.
#[derive(Clone, Debug)]
pub struct Driver {
    config: Config,
    rng: Rng,
}

impl Driver {
    /// The transactions of one client.
    #[must_use]
    pub const fn new(config: Config, seed: u64, client: u32) -> Self {
        Self { config, rng: Rng::for_row(seed, 0, client as u64 + 1) }
    }

    /// The next transaction. Two customers are different ones.
    pub fn draw(&mut self) -> Transaction {
        let Self { config, rng } = self;
        let kind = rng.below(100);
        let customers = if rng.chance(config.hot) { config.hot_accounts } else { config.accounts };
        let one = rng.below(customers);
        let mut two = || {
            let other = rng.below(customers - 1);
            [one, if other < one { other } else { other + 1 }]
        };
        let amount = |rng: &mut Rng| rng.between(1, 100_00) as u32;
        let name = Name::of(one);
        match kind {
            0..15 => {
                let pair = two();
                let [from, to] = pair.map(Name::of);
                Transaction::Amalgamate(Amalgamate { from, to }, pair)
            }
            15..30 => Transaction::Balance(Balance { name }),
            30..45 => Transaction::DepositChecking(DepositChecking { name, amount: amount(rng) }, one),
            45..70 => {
                let pair = two();
                let [from, to] = pair.map(Name::of);
                Transaction::SendPayment(SendPayment { from, to, amount: amount(rng) }, pair)
            }
            70..85 => {
                let amount = Cents(i64::from(amount(rng)));
                let amount = if rng.percent(50) { amount } else { -amount };
                Transaction::TransactSavings(TransactSavings { name, amount }, one)
            }
            _ => Transaction::WriteCheck(WriteCheck { name, amount: amount(rng) }, one),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_have_their_shares() {
        let mut driver = Driver::new(Config { accounts: 1_000, ..Config::new() }, 1, 0);
        let mut counts = [0.0f64; 6];
        for _ in 0..100_000 {
            counts[match driver.draw() {
                Transaction::Amalgamate(..) => 0,
                Transaction::Balance(_) => 1,
                Transaction::DepositChecking(..) => 2,
                Transaction::SendPayment(..) => 3,
                Transaction::TransactSavings(..) => 4,
                Transaction::WriteCheck(..) => 5,
            }] += 1.0 / 1_000.0;
        }
        for (found, share) in counts.iter().zip([15.0, 15.0, 15.0, 25.0, 15.0, 15.0]) {
            assert!((found - share).abs() < 0.6, "{counts:?}");
        }
    }

    #[test]
    fn customers_are_hot_as_often_as_asked_and_two_are_different() {
        for hot in [0.0, 0.9, 1.0] {
            let config = Config { accounts: 10_000, hot, hot_accounts: 2 };
            let mut driver = Driver::new(config, 1, 0);
            let mut of_payments = Vec::new();
            while of_payments.len() < 10_000 {
                if let Transaction::SendPayment(payment, [from, to]) = driver.draw() {
                    assert!(from != to && payment.from == Name::of(from) && payment.to == Name::of(to));
                    of_payments.push([from, to]);
                }
            }
            let count = of_payments.iter().filter(|pair| pair.iter().all(|one| *one < 2)).count();
            assert!((count as f64 / 10_000.0 - hot).abs() < 0.02, "{hot}: {count}");
        }
    }

    #[test]
    fn problems_are_found() {
        let good = Config::new();
        assert_eq!(good.problem(), None);
        assert!(Config { accounts: 1, ..good }.problem().is_some());
        assert!(Config { hot: 1.1, ..good }.problem().is_some());
        assert!(Config { hot: f64::NAN, ..good }.problem().is_some());
        assert!(Config { hot_accounts: 1, ..good }.problem().is_some());
        assert!(Config { accounts: 10, ..good }.problem().is_some());
    }
}
