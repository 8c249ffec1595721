//! SmallBank's transactions one by one, to the cent.

use std::sync::Arc;

use mixlog_engine::{Engine, Footprint, Mode, Never, Procedure, Tx};
use mixlog_log::MemoryLog;
use mixlog_workloads::money::Cents;
use mixlog_workloads::smallbank::bank::{ACCOUNTS, CHECKING, Name, SAVINGS};
use mixlog_workloads::smallbank::client::SmallBank;
use mixlog_workloads::smallbank::driver::Config;
use mixlog_workloads::smallbank::transactions::{
    Amalgamate, Amalgamated, Balance, BankAbort, DepositChecking, PENALTY, SendPayment, TransactSavings,
    WriteCheck,
};
use mixlog_workloads::workload::Workload;
use serde::{Deserialize, Serialize};

use crate::support::{abort, commit};

/// Puts a customer where a test wants it.
#[derive(Serialize, Deserialize)]
struct Put {
    customer: u64,
    savings: Cents,
    checking: Cents,
}

impl Procedure for Put {
    const NAME: &'static str = "put";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&SAVINGS, &self.customer).write(&CHECKING, &self.customer);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&SAVINGS, self.customer, self.savings);
        tx.put(&CHECKING, self.customer, self.checking);
        Ok(())
    }
}

/// Gives a customer's name to another.
#[derive(Serialize, Deserialize)]
struct Rename {
    name: Name,
    customer: u64,
}

impl Procedure for Rename {
    const NAME: &'static str = "rename";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&ACCOUNTS, &self.name);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&ACCOUNTS, self.name, self.customer);
        Ok(())
    }
}

struct Bank(Engine);

impl Bank {
    /// Four customers; 0 has 10.00 and 5.00, 1 has 3.00 and an overdraft of 1.00.
    fn new() -> Self {
        let config = Config { accounts: 4, hot_accounts: 2, ..Config::new() };
        let workload: SmallBank = SmallBank::new(config, 1);
        let builder = workload.register(Engine::builder()).procedure::<Put>().procedure::<Rename>();
        let builder = builder.threads(2).mode(Mode::Parallel);
        let engine = builder.open(Arc::new(MemoryLog::new())).expect("the engine opens");
        workload.populate(&engine, &mut |_, _| {}).expect("the population commits");
        commit(&engine, &Put { customer: 0, savings: Cents(10_00), checking: Cents(5_00) });
        commit(&engine, &Put { customer: 1, savings: Cents(3_00), checking: Cents(-1_00) });
        Self(engine)
    }

    fn commit<P: Procedure>(&self, procedure: &P) -> P::Output {
        commit(&self.0, procedure).0
    }

    /// Savings and checking.
    fn of(&self, customer: u64) -> (i64, i64) {
        let snapshot = self.0.snapshot();
        let savings = snapshot.get(&SAVINGS, &customer).expect("an account");
        (savings.0, snapshot.get(&CHECKING, &customer).expect("an account").0)
    }
}

#[test]
fn balance_reads_both_accounts() {
    let bank = Bank::new();
    assert_eq!(bank.commit(&Balance { name: Name::of(0) }), Cents(15_00));
    assert_eq!(bank.commit(&Balance { name: Name::of(1) }), Cents(2_00));
}

#[test]
fn deposit_adds_to_checking_only() {
    let bank = Bank::new();
    assert_eq!(bank.commit(&DepositChecking { name: Name::of(1), amount: 2_50 }), Cents(1_50));
    assert_eq!(bank.of(1), (3_00, 1_50));
}

#[test]
fn savings_change_down_to_nothing_and_no_further() {
    let bank = Bank::new();
    let change = |cents| TransactSavings { name: Name::of(0), amount: Cents(cents) };
    assert_eq!(abort(&bank.0, &change(-10_01)), BankAbort::InsufficientFunds);
    assert_eq!(bank.commit(&change(-10_00)), Cents(0));
    assert_eq!(bank.commit(&change(1)), Cents(1));
    assert_eq!(bank.of(0), (1, 5_00));
}

#[test]
fn amalgamate_moves_everything_to_the_checking_account_of_the_other() {
    let bank = Bank::new();
    let amalgamate = Amalgamate { from: Name::of(0), to: Name::of(1) };
    assert_eq!(bank.commit(&amalgamate), Amalgamated { savings: Cents(10_00), checking: Cents(5_00) });
    assert_eq!((bank.of(0), bank.of(1)), ((0, 0), (3_00, 14_00)));
    let back = Amalgamate { from: Name::of(1), to: Name::of(0) };
    bank.commit(&Put { customer: 1, savings: Cents(0), checking: Cents(-2_00) });
    assert_eq!(bank.commit(&back), Amalgamated { savings: Cents(0), checking: Cents(-2_00) });
    assert_eq!((bank.of(0), bank.of(1)), ((0, -2_00), (0, 0)), "debts move, too");
    let alone = Amalgamate { from: Name::of(0), to: Name::of(0) };
    bank.commit(&Put { customer: 0, savings: Cents(1_00), checking: Cents(2_00) });
    bank.commit(&alone);
    assert_eq!(bank.of(0), (0, 3_00));
}

#[test]
fn check_has_a_penalty_exactly_if_both_accounts_do_not_cover_it() {
    let bank = Bank::new();
    let check = |amount| WriteCheck { name: Name::of(0), amount };
    assert_eq!(bank.commit(&check(15_00)), Cents(15_00), "just covered");
    assert_eq!(bank.of(0), (10_00, -10_00));
    assert_eq!(bank.commit(&check(1)), Cents(1) + PENALTY);
    assert_eq!(bank.of(0), (10_00, -11_01), "a penalty of 1.00");
}

#[test]
fn payment_needs_the_money_on_the_checking_account() {
    let bank = Bank::new();
    let pay = |amount| SendPayment { from: Name::of(0), to: Name::of(1), amount };
    assert_eq!(abort(&bank.0, &pay(5_01)), BankAbort::InsufficientFunds, "savings do not count");
    assert_eq!(bank.commit(&pay(5_00)), Cents(0));
    assert_eq!((bank.of(0), bank.of(1)), ((10_00, 0), (3_00, 4_00)));
}

#[test]
fn unknown_names_abort_and_leave_nothing_behind() {
    let bank = Bank::new();
    let nobody = Name::of(4);
    let missing = BankAbort::NoAccount(nobody);
    assert_eq!(abort(&bank.0, &Balance { name: nobody }), missing);
    assert_eq!(abort(&bank.0, &Amalgamate { from: Name::of(0), to: nobody }), missing);
    assert_eq!(abort(&bank.0, &SendPayment { from: Name::of(0), to: nobody, amount: 1 }), missing);
    assert_eq!(bank.of(0), (10_00, 5_00));
}

#[test]
fn a_renamed_customer_costs_a_violation_and_nothing_else() {
    let bank = Bank::new();
    bank.commit(&Rename { name: Name::of(3), customer: 0 });
    assert_eq!(bank.0.stats().violations, 0);
    assert_eq!(bank.commit(&DepositChecking { name: Name::of(3), amount: 1_00 }), Cents(6_00));
    assert_eq!(bank.of(0), (10_00, 6_00), "the row says who has the name, not the footprint");
    assert_eq!(bank.0.stats().violations, 1);
}
