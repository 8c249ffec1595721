//! Gateways that submit commands for random traders.

use std::collections::{BTreeMap, VecDeque};

use mixlog::workloads::random::Rng;
use mixlog::{Engine, Procedure, Ticket};

use crate::Failure;
use crate::market::{Cancel, INSTRUMENTS, Order, Placed, Refused, Settle, Side, Terms};

#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) done: u64,
    pub(crate) executed: u64,
    pub(crate) refused: BTreeMap<Refused, u64>,
}

impl Tally {
    pub(crate) fn plus(mut self, other: &Self) -> Self {
        self.done += other.done;
        self.executed += other.executed;
        other.refused.iter().for_each(|(&why, count)| *self.refused.entry(why).or_default() += count);
        self
    }

    /// What a command led to, if it had an effect.
    fn count<P: Procedure<Abort = Refused>>(
        &mut self,
        ticket: Ticket<P>,
    ) -> Result<Option<P::Output>, Failure> {
        // A stopped engine and a panic are errors; a refusal is an answer like any other.
        match ticket.wait()?.decided()? {
            Ok(output) => {
                self.done += 1;
                Ok(Some(output))
            }
            Err(refused) => {
                *self.refused.entry(refused).or_default() += 1;
                Ok(None)
            }
        }
    }
}

enum OnTheWay {
    Order(Ticket<Order>, u32, u16),
    Cancel(Ticket<Cancel>),
    Settle(Ticket<Settle>),
}

/// Submits commands for random traders, and waits for the oldest when enough are on the way.
pub(crate) struct Gateway<'e> {
    engine: &'e Engine,
    random: Rng,
    traders: u32,
    /// Around which price each instrument is traded.
    prices: [i64; INSTRUMENTS as usize],
    on_the_way: VecDeque<OnTheWay>,
    /// Orders that rested when they were placed, with their traders and instruments.
    resting: Vec<(u32, u16, u64)>,
    tally: Tally,
}

impl<'e> Gateway<'e> {
    pub(crate) fn new(engine: &'e Engine, seed: u64, traders: u32) -> Self {
        let (on_the_way, resting, tally) = Default::default();
        let prices = [100_00; INSTRUMENTS as usize];
        Self { engine, random: Rng::new(seed), traders, prices, on_the_way, resting, tally }
    }

    pub(crate) fn run(mut self, commands: u64, in_flight: usize) -> Result<Tally, Failure> {
        for _ in 0..commands {
            let command = self.submit()?;
            self.on_the_way.push_back(command);
            if self.on_the_way.len() >= in_flight {
                self.wait()?;
            }
        }
        while !self.on_the_way.is_empty() {
            self.wait()?;
        }
        Ok(self.tally)
    }

    fn submit(&mut self) -> Result<OnTheWay, Failure> {
        let random = &mut self.random;
        let (trader, instrument) =
            (random.below(self.traders.into()) as u32, random.below(INSTRUMENTS.into()) as u16);
        Ok(match random.below(100) {
            0..20 if !self.resting.is_empty() => {
                let (trader, instrument, order) =
                    self.resting.swap_remove(random.below(self.resting.len() as u64) as usize);
                OnTheWay::Cancel(self.engine.submit(&Cancel { trader, instrument, order: Some(order) })?)
            }
            20 => OnTheWay::Cancel(self.engine.submit(&Cancel { trader, instrument, order: None })?),
            21..25 => OnTheWay::Settle(self.engine.submit(&Settle { trader, instrument })?),
            kind => {
                let price = &mut self.prices[usize::from(instrument)];
                *price = (*price + random.between(0, 20) as i64 - 10).clamp(50_00, 200_00);
                let (side, away) = if random.percent(50) { (Side::Buy, -1) } else { (Side::Sell, 1) };
                let order = Order {
                    trader,
                    instrument,
                    side,
                    price: *price + away * (random.between(0, 60) as i64 - 20),
                    units: random.between(1, 100) as i64,
                    terms: match kind {
                        25..30 => Terms::AllOrNothing,
                        30..40 => Terms::Cancel,
                        40..45 => Terms::RestOnly,
                        _ => Terms::Rest,
                    },
                };
                OnTheWay::Order(self.engine.submit(&order)?, trader, instrument)
            }
        })
    }

    fn wait(&mut self) -> Result<(), Failure> {
        match self.on_the_way.pop_front() {
            Some(OnTheWay::Order(ticket, trader, instrument)) => {
                if let Some(Placed { order, executed, resting }) = self.tally.count(ticket)? {
                    self.tally.executed += u64::from(executed > 0);
                    if resting {
                        self.resting.push((trader, instrument, order));
                    }
                }
            }
            Some(OnTheWay::Cancel(ticket)) => drop(self.tally.count(ticket)?),
            Some(OnTheWay::Settle(ticket)) => drop(self.tally.count(ticket)?),
            None => {}
        }
        Ok(())
    }
}
