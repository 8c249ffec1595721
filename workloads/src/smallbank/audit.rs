//! Whether all money is where the acknowledgements say.

use mixlog_engine::Snapshot;

use super::bank::{ACCOUNTS, Balances, CHECKING, Name, POPULATION, Population, SAVINGS};
use crate::check::{Check, Tally};
use crate::money::Cents;
use crate::workload::Observed;

/// The money that acknowledged transactions moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Money {
    /// What came from outside, less what went there: deposits and changes of savings, less checks and penalties.
    pub from_outside: Cents,
    /// What each customer gained, by number.
    pub gains: Vec<Balances>,
}

impl Money {
    pub(super) fn none(accounts: u64) -> Self {
        Self { from_outside: Cents::ZERO, gains: vec![Balances::default(); accounts as usize] }
    }
}

impl Observed for Money {
    fn add(&mut self, other: Self) {
        self.from_outside += other.from_outside;
        for (sum, gain) in self.gains.iter_mut().zip(other.gains) {
            sum.savings += gain.savings;
            sum.checking += gain.checking;
        }
    }
}

/// The accounts of each customer, as far as they exist, and what is wrong with the tables as such.
struct Found {
    customers: Vec<(Option<Cents>, Option<Cents>)>,
    sum: i128,
    /// Rows of customers that the population does not have.
    strangers: Vec<u64>,
}

impl Found {
    fn new(snapshot: &Snapshot, accounts: u64) -> Self {
        let mut found =
            Self { customers: vec![(None, None); accounts as usize], sum: 0, strangers: Vec::new() };
        for (table, is_savings) in [(&SAVINGS, true), (&CHECKING, false)] {
            snapshot.for_each(table, |customer, balance| {
                found.sum += i128::from(balance.0);
                match found.customers.get_mut(*customer as usize) {
                    Some((savings, _)) if is_savings => *savings = Some(*balance),
                    Some((_, checking)) => *checking = Some(*balance),
                    None => found.strangers.push(*customer),
                }
            });
        }
        found
    }
}

/// The population that the log holds, or the one that was asked for.
fn recorded(snapshot: &Snapshot, asked: Population) -> Population {
    let recorded = snapshot.get(&POPULATION, &0);
    recorded.filter(|population| population.accounts == asked.accounts).unwrap_or(asked)
}

/// What an observer of all acknowledgements would have observed.
pub(super) fn observe(snapshot: &Snapshot, asked: Population) -> Money {
    let population = recorded(snapshot, asked);
    let mut money = Money::none(population.accounts);
    let found = Found::new(snapshot, population.accounts);
    for ((customer, gain), (savings, checking)) in (0..).zip(&mut money.gains).zip(found.customers) {
        let initial = population.initial(customer);
        gain.savings = savings.unwrap_or_default() - initial.savings;
        gain.checking = checking.unwrap_or_default() - initial.checking;
        money.from_outside += gain.total();
    }
    money
}

/// Checks a state. B1: the customers that were loaded are there with both accounts, and no others, and no savings
/// account is below zero. Against acknowledgements, B2: all money is what there was at first and what came from
/// outside, so that Amalgamate and SendPayment made and lost none; B3: each account has what its transactions left on
/// it. Without acknowledgements there is only B1, since money comes and goes.
pub(super) fn audit(snapshot: &Snapshot, asked: Population, observed: Option<&Money>) -> Vec<Check> {
    let population = recorded(snapshot, asked);
    let found = Found::new(snapshot, population.accounts);
    let mut valid = Tally::new("B1", "customers");
    let row = snapshot.get(&POPULATION, &0);
    valid.see(row == Some(population), 0, || format!("the population is {row:?}"));
    let mut named = 0;
    snapshot.for_each(&ACCOUNTS, |name, customer| {
        named += 1;
        let is_right = *customer < population.accounts && *name == Name::of(*customer);
        valid.see(is_right, *customer, || format!("{name} is the name of customer {customer}"));
    });
    valid.see(named == population.accounts, 0, || format!("{named} customers have a name"));
    for customer in found.strangers {
        valid.see(false, customer, || format!("there is an account of customer {customer}"));
    }
    for ((savings, checking), customer) in found.customers.iter().zip(0..) {
        let ok = savings.is_some_and(|savings| savings >= Cents::ZERO) && checking.is_some();
        valid
            .see(ok, customer, || format!("customer {customer}: savings {savings:?}, checking {checking:?}"));
    }
    let mut checks = vec![valid.check()];
    let Some(Money { from_outside, gains }) = observed else { return checks };

    let initial = |customer| i128::from(population.initial(customer).total().0);
    let initial: i128 = (0..population.accounts).map(initial).sum();
    let mut conserved = Tally::new("B2", "sums").noting("against acknowledgements");
    conserved.equal(&"cents on all accounts", 0, found.sum, initial + i128::from(from_outside.0));
    checks.push(conserved.check());

    let mut exact = Tally::new("B3", "customers").noting("against acknowledgements");
    for (((savings, checking), gain), customer) in found.customers.iter().zip(gains).zip(0..) {
        let initial = population.initial(customer);
        let expected = (Some(initial.savings + gain.savings), Some(initial.checking + gain.checking));
        exact.see((*savings, *checking) == expected, customer, || {
            format!("customer {customer}: {:?} instead of {expected:?}", (savings, checking))
        });
    }
    checks.push(exact.check());
    checks
}
