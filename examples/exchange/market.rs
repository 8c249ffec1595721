//! The market: what it holds, and the transactions that change it.
//!
//! All that belongs to one instrument, its orders and who holds what of it, is one *granule* (`Table::grouped`). A
//! transaction declares its instrument and may touch whatever the match leads to, for nobody knows the counterparties
//! before. So orders for one instrument are executed one after the other, as price-time priority demands, and those for
//! different instruments side by side. Cash is spent on all instruments: it has rows of its own, from which holds are
//! taken by bounded adds, that do not wait for each other while a trader has enough for all. What a trader earns is kept
//! with the instrument until it is settled, so that a match touches nobody's cash.

use std::ops::RangeInclusive;

use mixlog::{Fixed, Footprint, Index, Merge, Never, Position, Procedure, Sum, Table, Tx};
use serde::{Deserialize, Serialize};

pub(crate) const INSTRUMENTS: u16 = 8;
/// What each trader begins with: cents, and units of each instrument.
pub(crate) const ENDOWMENT: (i64, i64) = (5_000_000_00, 50_000);
/// Prices and sizes of orders are at most this.
const LARGEST: i64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Side {
    Buy,
    Sell,
}

impl Side {
    pub(crate) const fn opposite(self) -> Self {
        match self {
            Self::Buy => Self::Sell,
            Self::Sell => Self::Buy,
        }
    }

    /// Less is better, on both sides.
    const fn rank(self, price: i64) -> i64 {
        match self {
            Self::Buy => -price,
            Self::Sell => price,
        }
    }
}

/// Where an order rests. The order of these keys is price-time priority: who is first is executed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) instrument: u16,
    pub(crate) side: Side,
    rank: i64,
    /// The position of its transaction in the log: unique, and later for later orders.
    pub(crate) order: u64,
}

impl Place {
    pub(crate) const fn price(&self) -> i64 {
        self.side.rank(self.rank)
    }

    /// All orders of one side, the best one first.
    pub(crate) const fn all(instrument: u16, side: Side) -> RangeInclusive<Self> {
        Self { instrument, side, rank: i64::MIN, order: 0 }..=Self {
            instrument,
            side,
            rank: i64::MAX,
            order: u64::MAX,
        }
    }

    /// Those that are at least as good as a price.
    const fn best_to(instrument: u16, side: Side, price: i64) -> RangeInclusive<Self> {
        Self { instrument, side, rank: i64::MIN, order: 0 }..=Self {
            instrument,
            side,
            rank: side.rank(price),
            order: u64::MAX,
        }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Resting {
    pub(crate) trader: u32,
    /// Units that were not executed yet. They are on hold: the buyer's cents, or the seller's units.
    pub(crate) open: i64,
}

/// What a trader has to do with an instrument.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Holding {
    pub(crate) units: i64,
    /// Cents that were earned, or released from hold, and not settled yet.
    pub(crate) due: i64,
    pub(crate) bought: i64,
    pub(crate) sold: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Turnover {
    pub(crate) trades: i64,
    pub(crate) units: i64,
    pub(crate) cents: i64,
}

impl Merge for Turnover {
    type Delta = Self;

    fn merge(row: &mut Option<Self>, delta: Self, _: Position) {
        Self::combine(row.get_or_insert_default(), &delta);
    }

    fn combine(delta: &mut Self, other: &Self) -> bool {
        delta.trades += other.trades;
        delta.units += other.units;
        delta.cents += other.cents;
        true
    }
}

pub(crate) const ORDERS: Table<Place, Resting> =
    Table::new("orders").ordered().grouped("instrument", |place| place.instrument as u64);
/// A trader's orders by their numbers, in the granule of the instrument, too.
pub(crate) const BY_TRADER: Index<Place, Resting, (u16, u32, u64)> =
    Index::new("orders.by_trader", ORDERS, |place, order| {
        Some((place.instrument, order.trader, place.order))
    })
    .grouped("instrument", |&(instrument, ..)| instrument as u64);
/// By instrument and trader.
pub(crate) const HOLDINGS: Table<(u16, u32), Holding> =
    Table::new("holdings").grouped("instrument", |&(instrument, _)| instrument as u64);
/// Cents that a trader may spend.
pub(crate) const CASH: Table<u32, Sum, Fixed> = Table::fixed("cash");
/// Of all instruments: the hottest row there is, so it is merged into.
pub(crate) const TURNOVER: Table<(), Turnover> = Table::new("turnover");

/// What becomes of the part of an order that finds nobody to trade with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Terms {
    Rest,
    RestOnly,
    Cancel,
    AllOrNothing,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) trader: u32,
    pub(crate) instrument: u16,
    pub(crate) side: Side,
    pub(crate) price: i64,
    pub(crate) units: i64,
    pub(crate) terms: Terms,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Placed {
    pub(crate) order: u64,
    pub(crate) executed: i64,
    pub(crate) resting: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Refused {
    Malformed,
    NotEnoughCash,
    NotEnoughUnits,
    WouldTrade,
    WouldNotFill,
    NoSuchOrder,
    NothingDue,
}

impl Procedure for Order {
    const NAME: &'static str = "order";
    type Output = Placed;
    type Abort = Refused;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write_granule(&ORDERS, self.instrument.into()).merge(&TURNOVER, &());
        if self.side == Side::Buy {
            f.add_bounded(&CASH, &self.trader, -self.price.saturating_mul(self.units), 0);
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Placed, Refused> {
        let Self { trader, instrument, side, price, units, terms } = *self;
        let sound = |amount| (1..=LARGEST).contains(&amount);
        if instrument >= INSTRUMENTS || !sound(price) || !sound(units) {
            return Err(Refused::Malformed);
        }
        match side {
            Side::Buy if !tx.add_bounded(&CASH, trader, -price * units, 0) => {
                return Err(Refused::NotEnoughCash);
            }
            Side::Sell if holding(tx, instrument, trader).units < units => {
                return Err(Refused::NotEnoughUnits);
            }
            Side::Buy => {}
            Side::Sell => holding(tx, instrument, trader).units -= units,
        }

        let (mut open, mut turnover) = (units, Turnover::default());
        let counterparties = Place::best_to(instrument, side.opposite(), price);
        while open > 0 {
            let best = tx.first(&ORDERS, counterparties.clone()).map(|(place, order)| (place, *order));
            let Some((place, Resting { trader: other, open: offered })) = best else { break };
            if terms == Terms::RestOnly {
                return Err(Refused::WouldTrade);
            }
            if other == trader {
                // Nobody trades with himself: the older order gives way.
                withdraw(tx, &place);
                continue;
            }
            let (traded, cents) = (offered.min(open), place.price() * offered.min(open));
            if traded == offered {
                tx.delete(&ORDERS, &place);
            } else {
                tx.put(&ORDERS, place, Resting { trader: other, open: offered - traded });
            }
            let (buyer, seller) = if side == Side::Buy { (trader, other) } else { (other, trader) };
            let bought = holding(tx, instrument, buyer);
            bought.units += traded;
            bought.bought += traded;
            if side == Side::Buy {
                // The hold was for the price that was bid.
                bought.due += price * traded - cents;
            }
            let sold = holding(tx, instrument, seller);
            sold.due += cents;
            sold.sold += traded;
            open -= traded;
            Turnover::combine(&mut turnover, &Turnover { trades: 1, units: traded, cents });
        }

        let order = tx.position().0;
        let resting = open > 0 && matches!(terms, Terms::Rest | Terms::RestOnly);
        if resting {
            let place = Place { instrument, side, rank: side.rank(price), order };
            tx.put(&ORDERS, place, Resting { trader, open });
        } else if open > 0 && terms == Terms::AllOrNothing {
            // All of the above is undone: an abort leaves nothing behind.
            return Err(Refused::WouldNotFill);
        } else {
            release(tx, instrument, side, price, Resting { trader, open });
        }
        if turnover.trades > 0 {
            tx.merge(&TURNOVER, (), turnover);
        }
        Ok(Placed { order, executed: units - open, resting })
    }
}

fn holding<'t>(tx: &'t mut Tx<'_>, instrument: u16, trader: u32) -> &'t mut Holding {
    tx.get_or_put(&HOLDINGS, (instrument, trader), Holding::default)
}

/// Gives back what is on hold for the open part of an order.
fn release(tx: &mut Tx<'_>, instrument: u16, side: Side, price: i64, order: Resting) {
    let holding = holding(tx, instrument, order.trader);
    match side {
        Side::Buy => holding.due += price * order.open,
        Side::Sell => holding.units += order.open,
    }
}

fn withdraw(tx: &mut Tx<'_>, place: &Place) {
    if let Some(&order) = tx.get(&ORDERS, place) {
        tx.delete(&ORDERS, place);
        release(tx, place.instrument, place.side, place.price(), order);
    }
}

/// Withdraws one order of a trader, or all of them; tells how many.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cancel {
    pub(crate) trader: u32,
    pub(crate) instrument: u16,
    pub(crate) order: Option<u64>,
}

impl Procedure for Cancel {
    const NAME: &'static str = "cancel";
    type Output = usize;
    type Abort = Refused;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write_granule(&ORDERS, self.instrument.into());
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<usize, Refused> {
        let (first, last) = self.order.map_or((0, u64::MAX), |order| (order, order));
        let key = |order| (self.instrument, self.trader, order);
        let places: Vec<_> =
            tx.range_by(&BY_TRADER, key(first)..=key(last)).map(|(_, place)| place).collect();
        if places.is_empty() && self.order.is_some() {
            return Err(Refused::NoSuchOrder);
        }
        places.iter().for_each(|place| withdraw(tx, place));
        Ok(places.len())
    }
}

/// Moves what is due to a trader from an instrument to his cash; tells how many cents.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Settle {
    pub(crate) trader: u32,
    pub(crate) instrument: u16,
}

impl Procedure for Settle {
    const NAME: &'static str = "settle";
    type Output = i64;
    type Abort = Refused;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write_granule(&HOLDINGS, self.instrument.into()).merge(&CASH, &self.trader);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<i64, Refused> {
        let due = std::mem::take(&mut holding(tx, self.instrument, self.trader).due);
        if due == 0 {
            return Err(Refused::NothingDue);
        }
        tx.merge(&CASH, self.trader, due);
        Ok(due)
    }
}

/// Lets a trader in, with what everybody begins with. Declares nothing: the engine finds out what it touches.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Admit(pub(crate) u32);

impl Procedure for Admit {
    const NAME: &'static str = "admit";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        let (cents, units) = ENDOWMENT;
        tx.put(&CASH, self.0, Sum(cents));
        for instrument in 0..INSTRUMENTS {
            tx.put(&HOLDINGS, (instrument, self.0), Holding { units, ..Holding::default() });
        }
        Ok(())
    }
}
