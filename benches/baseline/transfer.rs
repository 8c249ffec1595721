//! Transfers by hand.

use mixlog_workloads::money::Cents;
use mixlog_workloads::transfer::{Account, Population, Transfer, TransferAbort};

use super::Map;

/// All accounts.
pub(crate) struct Transfers {
    /// The accounts, by number.
    pub(crate) accounts: Map<u64, Account>,
}

impl Transfers {
    /// The accounts at first.
    pub(crate) fn populate(population: Population) -> Self {
        let account = Account { balance: population.initial, transfers: 0 };
        Self { accounts: (0..population.accounts).map(|number| (number, account)).collect() }
    }

    /// Runs one transfer.
    #[inline]
    pub(crate) fn run(&mut self, transfer: &Transfer) -> Result<Cents, TransferAbort> {
        let Transfer { from, to, amount } = *transfer;
        let amount = Cents(i64::from(amount));
        let account = self.accounts.get_mut(&from).ok_or(TransferAbort::NoAccount(from))?;
        if account.balance < amount {
            return Err(TransferAbort::InsufficientFunds);
        }
        account.balance -= amount;
        account.transfers += 1;
        let left = account.balance;
        if let Some(account) = self.accounts.get_mut(&to) {
            account.balance += amount;
            account.transfers += 1;
            return Ok(left);
        }
        let account = self.accounts.get_mut(&from).expect("it paid");
        account.balance += amount;
        account.transfers -= 1;
        Err(TransferAbort::NoAccount(to))
    }
}
