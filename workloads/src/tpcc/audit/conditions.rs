//! The consistency conditions of clause 3.3.2.

use super::facts::{CustomerFacts, DistrictFacts, Facts, OrderFacts, WarehouseFacts};
use crate::check::{Check, Tally};
use crate::money::Cents;
use crate::tpcc::keys::{CustomerKey, DistrictKey, OrderKey, WarehouseKey};

/// C1 to C12, in order.
pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let warehouses = |name, check: fn(&mut Tally, WarehouseKey, &WarehouseFacts, &Facts)| {
        let mut tally = Tally::new(name, "warehouses");
        facts.warehouses.iter().for_each(|(id, row)| check(&mut tally, WarehouseKey::new(*id), row, facts));
        tally.check()
    };
    let districts = |name, check: fn(&mut Tally, DistrictKey, &DistrictFacts)| {
        let mut tally = Tally::new(name, "districts");
        facts.districts.iter().for_each(|(key, district)| check(&mut tally, *key, district));
        tally.check()
    };
    let orders = |name, check: fn(&mut Tally, OrderKey, &OrderFacts)| {
        let mut tally = Tally::new(name, "orders");
        facts.orders.iter().for_each(|(key, order)| check(&mut tally, *key, order));
        tally.check()
    };
    let customers = |name, check: fn(&mut Tally, CustomerKey, &CustomerFacts)| {
        let mut tally = Tally::new(name, "customers");
        facts.customers.iter().for_each(|(key, customer)| check(&mut tally, *key, customer));
        tally.check()
    };
    vec![
        warehouses("C1", year_of_warehouse_is_that_of_its_districts),
        districts("C2", next_order_follows_the_last),
        districts("C3", new_orders_have_no_gaps),
        districts("C4", lines_of_district_are_as_many_as_orders_say),
        orders("C5", order_is_new_until_a_carrier_has_it),
        orders("C6", lines_of_order_are_as_many_as_it_says),
        orders("C7", lines_are_delivered_with_their_order),
        warehouses("C8", year_of_warehouse_is_what_was_paid),
        districts("C9", year_of_district_is_what_was_paid),
        customers("C10", balance_is_deliveries_less_payments),
        deliveries_account_for_orders(facts),
        customers("C12", balance_and_payments_are_deliveries),
    ]
}

/// Shows a value that may be missing.
fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| value.to_string())
}

/// W_YTD = sum of D_YTD.
fn year_of_warehouse_is_that_of_its_districts(
    tally: &mut Tally,
    key: WarehouseKey,
    warehouse: &WarehouseFacts,
    facts: &Facts,
) {
    let first = DistrictKey::new(key.warehouse(), 0);
    let last = DistrictKey::new(key.warehouse(), 15);
    let districts = facts.districts.range(first..=last).map(|(_, district)| district.ytd);
    let sum = districts.sum::<Option<Cents>>();
    tally.see(warehouse.ytd.is_some() && warehouse.ytd == sum, key.packed(), || {
        format!("{key}: W_YTD is {}, its districts have {}", shown(warehouse.ytd), shown(sum))
    });
}

/// D_NEXT_O_ID - 1 = max(O_ID) = max(NO_O_ID), the latter if there are new orders.
fn next_order_follows_the_last(tally: &mut Tally, key: DistrictKey, district: &DistrictFacts) {
    let next = district.last_order.checked_add(1);
    let new = district.last_new;
    tally.see(
        district.next == next && new.is_none_or(|new| new == district.last_order),
        key.packed(),
        || {
            let (is, last) = (shown(district.next), district.last_order);
            format!("{key}: D_NEXT_O_ID is {is}, the last order {last}, the last new order {}", shown(new))
        },
    );
}

/// max(NO_O_ID) - min(NO_O_ID) + 1 = number of new orders.
fn new_orders_have_no_gaps(tally: &mut Tally, key: DistrictKey, district: &DistrictFacts) {
    let (first, last) =
        (u64::from(district.first_new.unwrap_or(1)), u64::from(district.last_new.unwrap_or(0)));
    let expected = last + 1 - first;
    tally.see(district.new_orders == expected, key.packed(), || {
        format!("{key}: {} new orders from {first} to {last}", district.new_orders)
    });
}

/// Sum of O_OL_CNT = number of lines.
fn lines_of_district_are_as_many_as_orders_say(
    tally: &mut Tally,
    key: DistrictKey,
    district: &DistrictFacts,
) {
    tally.equal(&key, key.packed(), district.lines, district.line_counts);
}

/// O_CARRIER_ID is null if and only if there is a row in NEW-ORDER.
fn order_is_new_until_a_carrier_has_it(tally: &mut Tally, key: OrderKey, order: &OrderFacts) {
    let Some(row) = order.row else {
        // Lines without an order are C6's and C7's.
        if order.is_new {
            tally.see(false, key.packed(), || format!("{key} is new and does not exist"));
        }
        return;
    };
    tally.see((row.carrier == 0) == order.is_new, key.packed(), || {
        format!("{key}: carrier {}, new: {}", row.carrier, order.is_new)
    });
}

/// O_OL_CNT = number of lines of the order.
fn lines_of_order_are_as_many_as_it_says(tally: &mut Tally, key: OrderKey, order: &OrderFacts) {
    let count = order.row.map_or(0, |row| u32::from(row.line_count));
    tally.see(order.lines == count, key.packed(), || {
        format!("{key}: {} lines, O_OL_CNT is {}", order.lines, shown(order.row.map(|row| row.line_count)))
    });
}

/// OL_DELIVERY_D is null if and only if O_CARRIER_ID is.
fn lines_are_delivered_with_their_order(tally: &mut Tally, key: OrderKey, order: &OrderFacts) {
    let expected = match order.row {
        Some(row) if row.carrier == 0 => Some(0),
        Some(_) => Some(order.lines),
        // A line without an order is neither; C5 reports a new order without one.
        None if order.lines > 0 => None,
        None => Some(0),
    };
    tally.see(expected == Some(order.delivered_lines), key.packed(), || {
        let (delivered, lines) = (order.delivered_lines, order.lines);
        format!(
            "{key}: {delivered} of {lines} lines are delivered, carrier {}",
            shown(order.row.map(|r| r.carrier))
        )
    });
}

/// W_YTD = sum of H_AMOUNT.
fn year_of_warehouse_is_what_was_paid(tally: &mut Tally, key: WarehouseKey, row: &WarehouseFacts, _: &Facts) {
    tally.see(row.ytd == Some(row.paid), key.packed(), || {
        format!("{key}: W_YTD is {}, {} was paid", shown(row.ytd), row.paid)
    });
}

/// D_YTD = sum of H_AMOUNT.
fn year_of_district_is_what_was_paid(tally: &mut Tally, key: DistrictKey, row: &DistrictFacts) {
    tally.see(row.ytd == Some(row.paid), key.packed(), || {
        format!("{key}: D_YTD is {}, {} was paid", shown(row.ytd), row.paid)
    });
}

/// C_BALANCE = sum of OL_AMOUNT of delivered lines - sum of H_AMOUNT.
fn balance_is_deliveries_less_payments(tally: &mut Tally, key: CustomerKey, customer: &CustomerFacts) {
    let balance = customer.account.map(|account| account.balance);
    let expected = customer.delivered - customer.paid;
    tally.see(balance == Some(expected), key.packed(), || {
        format!("{key}: C_BALANCE is {} instead of {expected}", shown(balance))
    });
}

/// Orders - new orders - 2,100 = sum of C_DELIVERY_CNT. The specification's form, without the sum, holds only until
/// the first delivery.
fn deliveries_account_for_orders(facts: &Facts) -> Check {
    let mut tally = Tally::new("C11", "districts").noting("deliveries counted");
    let delivered = u64::from(facts.population.scale.delivered());
    for (key, district) in &facts.districts {
        let (orders, others) = (district.orders, district.new_orders + delivered + district.deliveries);
        tally.see(orders == others, key.packed(), || {
            let (new, deliveries) = (district.new_orders, district.deliveries);
            format!(
                "{key}: {orders} orders, {new} new, {delivered} from the population, {deliveries} deliveries"
            )
        });
    }
    tally.check()
}

/// C_BALANCE + C_YTD_PAYMENT = sum of OL_AMOUNT of delivered lines.
fn balance_and_payments_are_deliveries(tally: &mut Tally, key: CustomerKey, customer: &CustomerFacts) {
    let sum = customer.account.map(|account| account.balance + account.ytd_payment);
    tally.see(sum == Some(customer.delivered), key.packed(), || {
        format!("{key}: C_BALANCE + C_YTD_PAYMENT is {} instead of {}", shown(sum), customer.delivered)
    });
}
