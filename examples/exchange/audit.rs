//! What must hold.

use mixlog::Snapshot;

use crate::market::{
    BY_TRADER, CASH, ENDOWMENT, HOLDINGS, INSTRUMENTS, ORDERS, Place, Side, TURNOVER, Turnover,
};

/// What must hold after any transaction: nothing came from nowhere or got lost, nobody has less than nothing, no book is
/// crossed, and what is kept twice agrees.
pub(crate) fn audit(state: &Snapshot) -> Result<(), String> {
    let ensure = |holds: bool, what: &str| holds.then_some(()).ok_or_else(|| format!("audit: {what}"));
    let traders = state.len(&CASH) as i64;
    let (mut orders, mut cents, mut least, mut bought, mut sold) = (0, 0, 0, 0, 0);
    // By instrument, what is free and what is on hold.
    let mut units = [0; INSTRUMENTS as usize];
    state.for_each(&CASH, |_, cash| {
        cents += cash.0;
        least = least.min(cash.0);
    });
    state.for_each(&HOLDINGS, |&(instrument, _), holding| {
        units[usize::from(instrument)] += holding.units;
        cents += holding.due;
        bought += holding.bought;
        sold += holding.sold;
        least = least.min(holding.units).min(holding.due);
    });
    for instrument in 0..INSTRUMENTS {
        let side = |side| Place::all(instrument, side);
        let best = |of| state.first(&ORDERS, side(of)).map(|(place, _)| place.price());
        if let (Some(bid), Some(ask)) = (best(Side::Buy), best(Side::Sell)) {
            ensure(bid < ask, &format!("{bid} is bid for instrument {instrument}, {ask} asked"))?;
        }
        for (place, order) in
            [Side::Buy, Side::Sell].into_iter().flat_map(|of| state.range(&ORDERS, side(of)))
        {
            orders += 1;
            least = least.min(order.open - 1);
            match place.side {
                Side::Buy => cents += place.price() * order.open,
                Side::Sell => units[usize::from(instrument)] += order.open,
            }
            let key = (instrument, order.trader, place.order);
            let found = state.range_by(&BY_TRADER, key..=key).map(|(_, place)| place).eq([place]);
            ensure(found, &format!("order {} is not found by its trader", place.order))?;
        }
        let all = units[usize::from(instrument)];
        ensure(all == traders * ENDOWMENT.1, &format!("there are {all} units of instrument {instrument}"))?;
    }
    let Turnover { trades, units: turnover, cents: paid } = state.get(&TURNOVER, &()).unwrap_or_default();
    ensure(cents == traders * ENDOWMENT.0, &format!("{traders} traders have {cents} cents"))?;
    ensure(least >= 0, "somebody has less than nothing, or an order is empty")?;
    ensure(orders == state.len(&ORDERS), "there are orders in no book")?;
    ensure(
        bought == turnover && sold == turnover,
        &format!("{bought} bought, {sold} sold, {turnover} traded"),
    )?;
    println!("audit: all is well with {traders} traders, {orders} orders, {trades} trades for {paid} cents");
    Ok(())
}
