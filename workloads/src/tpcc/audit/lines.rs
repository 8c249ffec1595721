//! The checks that look at every line of every order, and what lines add up to.

use mixlog_engine::Snapshot;

use super::facts::{Facts, Map};
use crate::check::Tally;
use crate::text::Text;
use crate::tpcc::keys::{OrderLineKey, StockKey};
use crate::tpcc::rows::OrderLine;
use crate::tpcc::schema::{ORDER_LINE, Population};

/// What lines are compared with, and the results.
pub(super) struct Lines {
    pub(super) prices: Map<u32, u32>,
    pub(super) district_infos: Map<StockKey, [Text<24>; 10]>,
    /// E3.
    pub(super) amounts: Tally,
    /// E4.
    pub(super) infos: Tally,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            prices: Map::default(),
            district_infos: Map::default(),
            amounts: Tally::new("E3", "order lines"),
            infos: Tally::new("E4", "order lines since the population").if_any(),
        }
    }
}

impl Lines {
    /// E3: quantity times price; lines of the population have a fixed quantity, and an amount unless delivered.
    fn check_amount(&mut self, population: &Population, key: OrderLineKey, line: &OrderLine) {
        let order = key.order();
        if order.order() <= population.scale.orders() {
            let amounts = if population.is_delivered(order) { 0..=0 } else { 1..=9_999_99 };
            self.amounts.see(line.quantity == 5 && amounts.contains(&line.amount), key.packed(), || {
                format!("{key}: quantity {}, amount {}", line.quantity, line.cents())
            });
            return;
        }
        let expected = self.prices.get(&line.item).map(|price| line.quantity * price);
        self.amounts.see(expected == Some(line.amount), key.packed(), || match expected {
            Some(expected) => format!("{key}: amount {} instead of {expected} cents", line.amount),
            None => format!("{key}: there is no item {}", line.item),
        });
    }

    /// E4: the text that the supplying stock holds for the district.
    fn check_info(&mut self, key: OrderLineKey, line: &OrderLine) {
        let stock = StockKey::new(line.supply, line.item);
        let expected = self.district_infos.get(&stock).and_then(|infos| {
            let district = usize::from(key.district().district());
            infos.get(district.wrapping_sub(1))
        });
        self.infos.see(expected == Some(&line.district_info), key.packed(), || {
            format!("{key}: {:?} instead of {expected:?}", line.district_info)
        });
    }
}

impl Facts {
    /// Looks at every line once.
    pub(super) fn gather_lines(&mut self, snapshot: &Snapshot) {
        let population = self.population;
        snapshot.for_each(&ORDER_LINE, |key, lines| {
            for (number, line) in lines.iter() {
                self.gather_line(&population, key.line(number), line);
            }
        });
    }

    fn gather_line(&mut self, population: &Population, key: OrderLineKey, line: &OrderLine) {
        let is_remote = line.supply != key.district().warehouse();
        let order = self.orders.entry(key.order()).or_default();
        order.lines += 1;
        order.remote_lines += u32::from(is_remote);
        order.numbers |= 1 << key.number();
        if line.delivery_us != 0 {
            order.delivered_lines += 1;
            order.delivered += line.cents();
        }
        self.districts.entry(key.district()).or_default().lines += 1;
        self.lines.check_amount(population, key, line);
        if key.order().order() > population.scale.orders() {
            self.lines.check_info(key, line);
            let stock = self.stock.entry(StockKey::new(line.supply, line.item)).or_default();
            stock.ytd += u64::from(line.quantity);
            stock.orders += 1;
            stock.remote += u64::from(is_remote);
        }
    }
}
