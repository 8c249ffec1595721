//! The books: accounts, postings, and the two transactions that change them.

use mixlog::{Footprint, Index, Procedure, Snapshot, Sum, Table, Tx};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Account {
    /// What its balance must not fall below, in cents.
    pub(crate) floor: i64,
}

/// One side of an entry. All sides of one entry add up to zero.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Posting {
    pub(crate) account: String,
    pub(crate) cents: i64,
    pub(crate) memo: String,
    pub(crate) time_us: u64,
}

pub(crate) const ACCOUNTS: Table<String, Account> = Table::new("accounts");
/// Apart from the accounts, since these are read all the time and hardly ever change.
pub(crate) const BALANCES: Table<String, Sum> = Table::new("balances");
/// By the position of the entry in the log, and the side: the journal, in its order.
pub(crate) const POSTINGS: Table<(u64, u8), Posting> = Table::new("postings").ordered();
/// The same by account, in the order of the journal: its statement.
pub(crate) const BY_ACCOUNT: Index<(u64, u8), Posting, String> =
    Index::new("postings.by_account", POSTINGS, |_, posting| Some(posting.account.clone()));

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refused {
    Exists,
    Unbalanced,
    Unknown(String),
    Overdrawn(String),
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) account: String,
    pub(crate) floor: i64,
}

impl Procedure for Open {
    const NAME: &'static str = "open";
    type Output = ();
    type Abort = Refused;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&ACCOUNTS, &self.account);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Refused> {
        if tx.get(&ACCOUNTS, &self.account).is_some() {
            return Err(Refused::Exists);
        }
        tx.put(&ACCOUNTS, self.account.clone(), Account { floor: self.floor });
        Ok(())
    }
}

/// A journal entry of two or more sides.
#[derive(Serialize, Deserialize)]
pub(crate) struct Post {
    pub(crate) sides: Vec<(String, i64)>,
    pub(crate) memo: String,
}

impl Procedure for Post {
    const NAME: &'static str = "post";
    type Output = ();
    type Abort = Refused;

    fn footprint(&self, f: &mut Footprint<'_>) {
        let entry = f.position().0;
        for (side, (account, cents)) in (0..).zip(&self.sides) {
            let floor = f.get(&ACCOUNTS, account).map_or(0, |account| account.floor);
            f.add_bounded(&BALANCES, account, *cents, floor).write(&POSTINGS, &(entry, side)).write_by(
                &BY_ACCOUNT,
                account.clone(),
                (entry, side),
            );
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Refused> {
        let sum: i128 = self.sides.iter().map(|&(_, cents)| i128::from(cents)).sum();
        if sum != 0 || !(2..=usize::from(u8::MAX)).contains(&self.sides.len()) {
            return Err(Refused::Unbalanced);
        }
        let (entry, time_us) = (tx.position().0, tx.time_us());
        for (side, (account, cents)) in (0..).zip(&self.sides) {
            let Some(&Account { floor }) = tx.get(&ACCOUNTS, account) else {
                return Err(Refused::Unknown(account.clone()));
            };
            // Entries that change one balance, even all of them, do not wait for each other while there is enough.
            if !tx.add_bounded(&BALANCES, account.clone(), *cents, floor) {
                return Err(Refused::Overdrawn(account.clone()));
            }
            let posting =
                Posting { account: account.clone(), cents: *cents, memo: self.memo.clone(), time_us };
            tx.put(&POSTINGS, (entry, side), posting);
        }
        Ok(())
    }
}

/// The trial balance: the sums of all debits and all credits, which are equal, and those of each account, which are its
/// balance.
///
/// # Errors
/// What does not add up.
pub(crate) fn trial(state: &Snapshot) -> Result<(i128, i128), String> {
    let (mut debits, mut credits) = (0, 0);
    let mut accounts = Vec::new();
    state.for_each(&ACCOUNTS, |account, _| accounts.push(account.clone()));
    for account in accounts {
        let mut sum = 0;
        for (_, key) in state.range_by(&BY_ACCOUNT, account.clone()..=account.clone()) {
            let posting = state.get(&POSTINGS, &key).ok_or_else(|| format!("no posting {key:?}"))?;
            sum += posting.cents;
            *(if posting.cents < 0 { &mut debits } else { &mut credits }) += i128::from(posting.cents);
        }
        let balance = state.get(&BALANCES, &account).unwrap_or_default().0;
        if balance != sum {
            return Err(format!("the balance of {account} is {balance}, its postings add up to {sum}"));
        }
    }
    if debits + credits == 0 { Ok((-debits, credits)) } else { Err(format!("{debits} and {credits}")) }
}
