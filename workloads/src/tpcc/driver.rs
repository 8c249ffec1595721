//! What the terminals ask for: the mix of transactions and their inputs (clauses 2.4.1 to 2.8.1, 5.2.3).

use super::customer::Selector;
use super::delivery::Delivery;
use super::keys::DISTRICTS;
use super::new_order::{Line, Lines, MAX_LINES, NewOrder};
use super::order_status::OrderStatus;
use super::payment::Payment;
use super::schema::{Population, Scale};
use super::stock_level::StockLevel;
use crate::random::{NuConstants, Rng};

/// Any of the five transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// About 45 %: what TPC-C counts.
    NewOrder(NewOrder),
    /// At least 43 %.
    Payment(Payment),
    /// At least 4 %.
    OrderStatus(OrderStatus),
    /// At least 4 %.
    Delivery(Delivery),
    /// At least 4 %.
    StockLevel(StockLevel),
}

#[derive(Clone, Copy)]
enum Card {
    NewOrder,
    Payment,
    OrderStatus,
    Delivery,
    StockLevel,
}

/// A deck of a hundred cards, shuffled again whenever all were drawn (clause 5.2.4.2): the minimums of the mix hold for
/// each hundred transactions, not just on average.
#[derive(Clone)]
struct Deck {
    cards: [Card; 100],
    drawn: usize,
}

impl Deck {
    fn new() -> Self {
        let mut cards = [Card::NewOrder; 100];
        cards[45..88].fill(Card::Payment);
        cards[88..92].fill(Card::OrderStatus);
        cards[92..96].fill(Card::Delivery);
        cards[96..].fill(Card::StockLevel);
        Self { cards, drawn: 100 }
    }

    fn draw(&mut self, rng: &mut Rng) -> Card {
        if self.drawn == self.cards.len() {
            rng.shuffle(&mut self.cards);
            self.drawn = 0;
        }
        self.drawn += 1;
        self.cards[self.drawn - 1]
    }
}

/// Endless transactions of all terminals: one terminal for each district of each warehouse, each equally busy.
///
/// The same population, seed and client give the same transactions.
#[derive(Clone)]
pub struct Driver {
    scale: Scale,
    constants: NuConstants,
    rng: Rng,
    deck: Deck,
}

impl Driver {
    /// The transactions of one client. All clients of a run share the run's constants `C`.
    #[must_use]
    pub fn new(population: &Population, seed: u64, client: u32) -> Self {
        let constants = NuConstants::for_run(&population.constants, &mut Rng::new(seed));
        let rng = Rng::for_row(seed, 0, u64::from(client) + 1);
        Self { scale: population.scale, constants, rng, deck: Deck::new() }
    }

    /// The constants `C` of this run.
    #[must_use]
    pub const fn constants(&self) -> &NuConstants {
        &self.constants
    }

    /// The next transaction.
    pub fn draw(&mut self) -> Transaction {
        // The terminal: its warehouse is home, and its district is the one whose stock level it asks for.
        let warehouse = self.rng.between(1, u64::from(self.scale.warehouses)) as u32;
        let district = self.district();
        match self.deck.draw(&mut self.rng) {
            Card::NewOrder => Transaction::NewOrder(self.new_order(warehouse)),
            Card::Payment => Transaction::Payment(self.payment(warehouse)),
            Card::OrderStatus => {
                let (district, customer) = (self.district(), self.customer());
                Transaction::OrderStatus(OrderStatus { warehouse, district, customer })
            }
            Card::Delivery => {
                let carrier = self.rng.between(1, 10) as u8;
                Transaction::Delivery(Delivery { warehouse, carrier })
            }
            Card::StockLevel => {
                let threshold = self.rng.between(10, 20) as u8;
                Transaction::StockLevel(StockLevel { warehouse, district, threshold })
            }
        }
    }

    fn district(&mut self) -> u8 {
        self.rng.between(1, u64::from(DISTRICTS)) as u8
    }

    fn customer_id(&mut self) -> u32 {
        self.constants.customer.draw(&mut self.rng, 1, self.scale.customers)
    }

    /// 60 % by last name, 40 % by number.
    fn customer(&mut self) -> Selector {
        if self.rng.percent(60) {
            let last = u32::from(self.scale.last_names()) - 1;
            Selector::LastName(self.constants.last_name.draw(&mut self.rng, 0, last) as u16)
        } else {
            Selector::Id(self.customer_id())
        }
    }

    /// Any warehouse but this one, if there is another.
    fn other_warehouse(&mut self, home: u32) -> u32 {
        if self.scale.warehouses == 1 {
            return home;
        }
        let other = self.rng.between(1, u64::from(self.scale.warehouses) - 1) as u32;
        if other < home { other } else { other + 1 }
    }

    fn new_order(&mut self, warehouse: u32) -> NewOrder {
        let (district, customer) = (self.district(), self.customer_id());
        let mut lines = [Line::default(); MAX_LINES];
        let lines = &mut lines[..self.rng.between(5, MAX_LINES as u64) as usize];
        for line in &mut *lines {
            let item = self.constants.item.draw(&mut self.rng, 1, self.scale.items);
            let supply = if self.rng.percent(1) { self.other_warehouse(warehouse) } else { warehouse };
            *line = Line { item, supply, quantity: self.rng.between(1, 10) as u8 };
        }
        if self.rng.percent(1)
            && let Some(last) = lines.last_mut()
        {
            last.item = self.scale.items + 1;
        }
        let lines = Lines::new(lines).expect("at most 15 lines");
        NewOrder { warehouse, district, customer, lines }
    }

    /// 85 % of the customers pay at home, 15 % at another warehouse.
    fn payment(&mut self, warehouse: u32) -> Payment {
        let district = self.district();
        let (customer_warehouse, customer_district) = if self.rng.percent(85) {
            (warehouse, district)
        } else {
            (self.other_warehouse(warehouse), self.district())
        };
        let customer = self.customer();
        let amount = self.rng.between(1_00, 5_000_00) as u32;
        Payment { warehouse, district, customer_warehouse, customer_district, customer, amount }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(warehouses: u32, count: usize) -> Vec<Transaction> {
        let population = Population::new(Scale::full(warehouses), 1);
        let mut driver = Driver::new(&population, 2, 0);
        (0..count).map(|_| driver.draw()).collect()
    }

    fn new_orders(transactions: &[Transaction]) -> Vec<NewOrder> {
        let orders = transactions.iter().filter_map(|transaction| match transaction {
            Transaction::NewOrder(order) => Some(*order),
            _ => None,
        });
        orders.collect()
    }

    fn payments(transactions: &[Transaction]) -> Vec<Payment> {
        let payments = transactions.iter().filter_map(|transaction| match transaction {
            Transaction::Payment(payment) => Some(*payment),
            _ => None,
        });
        payments.collect()
    }

    fn share<T>(items: &[T], has: impl Fn(&T) -> bool) -> f64 {
        items.iter().filter(|item| has(item)).count() as f64 / items.len() as f64
    }

    fn is_near(share: f64, expected: f64, tolerance: f64) -> bool {
        (share - expected).abs() < tolerance
    }

    #[test]
    fn mix_meets_its_minimums_in_every_hundred() {
        for hundred in draw(4, 10_000).chunks(100) {
            assert!(share(hundred, |t| matches!(t, Transaction::Payment(_))) >= 0.43);
            assert!(share(hundred, |t| matches!(t, Transaction::OrderStatus(_))) >= 0.04);
            assert!(share(hundred, |t| matches!(t, Transaction::Delivery(_))) >= 0.04);
            assert!(share(hundred, |t| matches!(t, Transaction::StockLevel(_))) >= 0.04);
            assert_eq!(new_orders(hundred).len(), 45);
        }
    }

    #[test]
    fn new_order_inputs_have_the_shares_of_the_specification() {
        let orders = new_orders(&draw(4, 400_000));
        let remote =
            |order: &NewOrder| order.lines.as_slice().iter().any(|line| line.supply != order.warehouse);
        // 1 - mean of 0.99^n over n = 5..=15.
        let remote = share(&orders, remote);
        assert!(is_near(remote, 0.0952, 0.003), "{remote}");
        let unused = |order: &NewOrder| order.lines.as_slice().iter().any(|line| line.item > 100_000);
        assert!(is_near(share(&orders, unused), 0.01, 0.001), "{}", share(&orders, unused));
        let lines: usize = orders.iter().map(|order| order.lines.as_slice().len()).sum();
        assert!(is_near(lines as f64 / orders.len() as f64, 10.0, 0.05));
        for order in &orders {
            let lines = order.lines.as_slice();
            assert!((5..=15).contains(&lines.len()));
            assert!(lines.iter().all(|line| (1..=10).contains(&line.quantity) && line.supply <= 4));
            let (last, others) = lines.split_last().expect("five lines or more");
            assert!(others.iter().all(|line| line.item <= 100_000) && last.item <= 100_001);
        }
        assert!(orders.iter().any(|order| {
            let mut items: Vec<u32> = order.lines.as_slice().iter().map(|line| line.item).collect();
            items.sort_unstable();
            items.windows(2).any(|pair| pair[0] == pair[1])
        }));
    }

    #[test]
    fn payment_inputs_have_the_shares_of_the_specification() {
        let payments = payments(&draw(4, 200_000));
        let remote = share(&payments, |payment| payment.warehouse != payment.customer_warehouse);
        assert!(is_near(remote, 0.15, 0.005), "{remote}");
        let by_name = share(&payments, |payment| matches!(payment.customer, Selector::LastName(_)));
        assert!(is_near(by_name, 0.60, 0.007), "{by_name}");
        assert!(payments.iter().all(|payment| (100..=500_000).contains(&payment.amount)));
        let local_elsewhere = |payment: &Payment| {
            payment.warehouse == payment.customer_warehouse && payment.district != payment.customer_district
        };
        assert!(share(&payments, local_elsewhere) == 0.0);
    }

    #[test]
    fn one_warehouse_has_nothing_remote() {
        let transactions = draw(1, 20_000);
        let local = |order: &NewOrder| order.lines.as_slice().iter().all(|line| line.supply == 1);
        assert!(new_orders(&transactions).iter().all(local));
        assert!(payments(&transactions).iter().all(|payment| payment.customer_warehouse == 1));
    }

    #[test]
    fn same_seed_and_client_draw_the_same_transactions() {
        let population = Population::new(Scale::full(2), 1);
        let list = |seed, client| {
            let mut driver = Driver::new(&population, seed, client);
            (0..500).map(|_| driver.draw()).collect::<Vec<_>>()
        };
        assert_eq!(list(7, 0), list(7, 0));
        assert_ne!(list(7, 0), list(7, 1));
        assert_ne!(list(7, 0), list(8, 0));
        let run = *Driver::new(&population, 7, 3).constants();
        assert_eq!(run, *Driver::new(&population, 7, 0).constants(), "clients share the constants");
        assert!(NuConstants::run_may_use(&population.constants, run.last_name.c));
    }
}
