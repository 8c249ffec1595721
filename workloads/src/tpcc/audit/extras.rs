//! What TPC-C's transactions imply beyond the conditions of the specification.

use super::facts::Facts;
use crate::check::{Check, Tally};
use crate::tpcc::client::Acknowledged;

/// E1 to E12, in order.
pub(super) fn checks(facts: &Facts, observed: Option<&Acknowledged>) -> Vec<Check> {
    vec![
        stock_is_within_its_bounds(facts),
        stock_counts_its_orders(facts),
        facts.lines.amounts.check(),
        facts.lines.infos.check(),
        order_knows_whether_it_is_local(facts),
        account_counts_its_payments(facts),
        orders_were_acknowledged(facts, observed),
        deliveries_were_acknowledged(facts, observed),
        lines_are_numbered(facts),
        orders_have_no_gaps(facts),
        data_starts_with_the_last_payment(facts),
        facts.history.clone(),
    ]
}

/// E1: 10 <= S_QUANTITY <= 100, and what left the stock is S_YTD up to refills of 91.
fn stock_is_within_its_bounds(facts: &Facts) -> Check {
    let mut tally = Tally::new("E1", "stock rows");
    for (key, stock) in &facts.stock {
        let Some(row) = stock.row else {
            tally.see(false, key.packed(), || format!("{key} is missing"));
            continue;
        };
        let initial = i64::from(facts.population.stock(*key).quantity);
        let left = initial - i64::from(row.quantity) - i64::from(row.ytd);
        tally.see((10..=100).contains(&row.quantity) && left % 91 == 0, key.packed(), || {
            format!("{key}: quantity {}, {} at first, {} sold", row.quantity, initial, row.ytd)
        });
    }
    tally.check()
}

/// E2: S_YTD, S_ORDER_CNT and S_REMOTE_CNT are what the order lines add up to.
fn stock_counts_its_orders(facts: &Facts) -> Check {
    let mut tally = Tally::new("E2", "stock rows");
    for (key, stock) in &facts.stock {
        let counted = (stock.ytd, stock.orders, stock.remote);
        let row = stock.row.map(|row| (row.ytd.into(), row.order_count.into(), row.remote_count.into()));
        tally.see(row == Some(counted), key.packed(), || {
            format!("{key}: sold, orders, remote orders are {row:?} instead of {counted:?}")
        });
    }
    tally.check()
}

/// E5: O_ALL_LOCAL is 1 if and only if the home warehouse supplies every line.
fn order_knows_whether_it_is_local(facts: &Facts) -> Check {
    let mut tally = Tally::new("E5", "orders");
    for (key, order) in &facts.orders {
        if let Some(row) = order.row {
            tally.see(row.all_local == u8::from(order.remote_lines == 0), key.packed(), || {
                format!("{key}: O_ALL_LOCAL is {}, {} remote lines", row.all_local, order.remote_lines)
            });
        } else if order.lines > 0 {
            tally.see(false, key.packed(), || format!("{key} does not exist, its lines do"));
        }
    }
    tally.check()
}

/// E6: C_PAYMENT_CNT and C_YTD_PAYMENT are what HISTORY adds up to.
fn account_counts_its_payments(facts: &Facts) -> Check {
    let mut tally = Tally::new("E6", "customers");
    for (key, customer) in &facts.customers {
        let counted = (customer.payments, customer.paid);
        let account = customer.account.map(|account| (account.payment_count, account.ytd_payment));
        tally.see(account == Some(counted), key.packed(), || {
            let (count, sum) = account.unwrap_or_default();
            format!("{key}: {count} payments of {sum} instead of {} of {}", counted.0, counted.1)
        });
    }
    tally.check()
}

/// E7: D_NEXT_O_ID moved once for each New-Order that was acknowledged as committed.
fn orders_were_acknowledged(facts: &Facts, observed: Option<&Acknowledged>) -> Check {
    let mut tally = Tally::new("E7", "districts").noting(match observed {
        Some(_) => "against acknowledgements",
        None => "against rows of ORDER: nobody counted acknowledgements",
    });
    let first = u64::from(facts.population.scale.orders()) + 1;
    for (key, district) in &facts.districts {
        let counted = match observed {
            Some(observed) => observed.new_orders.get(key.index()).copied().unwrap_or(0),
            None => district.run_orders,
        };
        let moved = district.next.and_then(|next| u64::from(next).checked_sub(first));
        tally.see(moved == Some(counted), key.packed(), || {
            format!("{key}: D_NEXT_O_ID moved by {moved:?} for {counted} orders")
        });
    }
    tally.check()
}

/// E8: C_DELIVERY_CNT moved once for each delivered order that was acknowledged.
fn deliveries_were_acknowledged(facts: &Facts, observed: Option<&Acknowledged>) -> Check {
    let mut tally = Tally::new("E8", "districts").noting(match observed {
        Some(_) => "against acknowledgements",
        None => "against rows of ORDER: nobody counted acknowledgements",
    });
    for (key, district) in &facts.districts {
        let counted = match observed {
            Some(observed) => observed.deliveries.get(key.index()).copied().unwrap_or(0),
            None => district.run_deliveries,
        };
        tally.see(district.deliveries == counted, key.packed(), || {
            format!("{key}: customers have {} deliveries, {counted} were made", district.deliveries)
        });
    }
    let mut check = tally.check();
    if let Some(observed) = observed {
        check.detail.push_str(&format!(", {} deliveries skipped for want of new orders", observed.skipped));
    }
    check
}

/// E9: five to fifteen lines, and OL_NUMBER counts them from 1.
fn lines_are_numbered(facts: &Facts) -> Check {
    let mut tally = Tally::new("E9", "orders");
    for (key, order) in &facts.orders {
        let Some(row) = order.row else {
            if order.lines > 0 {
                tally.see(false, key.packed(), || format!("{key} does not exist, its lines do"));
            }
            continue;
        };
        let count = row.line_count;
        let is_right = (5..=15).contains(&count) && order.numbers == (1 << (count + 1)) - 2;
        tally.see(is_right, key.packed(), || {
            let numbers: Vec<u32> = (1..16).filter(|number| order.numbers >> number & 1 == 1).collect();
            format!("{key}: O_OL_CNT is {count}, lines have the numbers {numbers:?}")
        });
    }
    tally.check()
}

/// E10: every number up to D_NEXT_O_ID is an order: orders that were rolled back left no gap.
fn orders_have_no_gaps(facts: &Facts) -> Check {
    let mut tally = Tally::new("E10", "districts");
    for (key, district) in &facts.districts {
        let next = district.next.map(u64::from);
        tally.see(next == Some(district.orders + 1), key.packed(), || {
            format!("{key}: {} orders, D_NEXT_O_ID is {next:?}", district.orders)
        });
    }
    tally.check()
}

/// E11: C_DATA of a customer with bad credit starts with the last payment, that of others never changes.
fn data_starts_with_the_last_payment(facts: &Facts) -> Check {
    let mut tally = Tally::new("E11", "customers");
    for (key, customer) in &facts.customers {
        let is_right = customer.has_bad_credit.is_some() && customer.data == Some(true);
        tally.see(is_right, key.packed(), || {
            let (position, district, amount) = customer.last_payment;
            match customer.data {
                None => format!("{key} has no C_DATA"),
                Some(_) => {
                    format!("{key}: C_DATA does not tell of {amount} paid in {district} at {position}")
                }
            }
        });
    }
    tally.check()
}
