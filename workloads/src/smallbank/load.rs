//! SmallBank's customers as procedures.

use mixlog_engine::{Footprint, Never, Procedure, Tx};
use serde::{Deserialize, Serialize};

use super::bank::{ACCOUNTS, CHECKING, Name, POPULATION, Population, SAVINGS};

/// Records what the log holds: all customers are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadPopulation {
    /// What the log holds.
    pub population: Population,
}

impl Procedure for LoadPopulation {
    const NAME: &'static str = "smallbank.load_population";
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

/// Opens the accounts of a chunk of the customers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadAccounts {
    first: u64,
    end: u64,
    population: Population,
}

impl LoadAccounts {
    /// Customers of one procedure.
    const AT_ONCE: u64 = 1_000;

    /// All customers.
    pub fn all(population: Population) -> impl Iterator<Item = Self> {
        let firsts = (0..population.accounts).step_by(Self::AT_ONCE as usize);
        firsts.map(move |first| {
            let end = population.accounts.min(first + Self::AT_ONCE);
            Self { first, end, population }
        })
    }
}

impl Procedure for LoadAccounts {
    const NAME: &'static str = "smallbank.load_accounts";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        for customer in self.first..self.end {
            f.write(&ACCOUNTS, &Name::of(customer)).write(&SAVINGS, &customer).write(&CHECKING, &customer);
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        for customer in self.first..self.end {
            let initial = self.population.initial(customer);
            tx.put(&ACCOUNTS, Name::of(customer), customer);
            tx.put(&SAVINGS, customer, initial.savings);
            tx.put(&CHECKING, customer, initial.checking);
        }
        Ok(())
    }
}
