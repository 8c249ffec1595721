//! The initial population, at full scale (clause 4.3.3.1).

use mixlog_engine::Snapshot;
use mixlog_workloads::money::Cents;
use mixlog_workloads::tpcc::client::Tpcc;
use mixlog_workloads::tpcc::generate::is_original;
use mixlog_workloads::tpcc::keys::{DistrictKey, WarehouseKey};
use mixlog_workloads::tpcc::names::last_name;
use mixlog_workloads::tpcc::schema::{
    CUSTOMER, CUSTOMER_ACCOUNT, CUSTOMER_DATA, DISTRICT, DISTRICT_ORDERS, DISTRICT_YTD, HISTORY, ITEM,
    NEW_ORDER, ORDER, ORDER_LINE, STOCK, STOCK_INFO, Scale, WAREHOUSE, WAREHOUSE_YTD,
};
use mixlog_workloads::workload::Workload;

use crate::support::{assert_ok, populated};

#[test]
fn full_population_is_that_of_the_specification() {
    let workload: Tpcc = Tpcc::new(Scale::full(1), 42);
    let engine = populated(&workload, 2);
    assert_eq!(engine.stats().violations, 0, "footprints are exact");
    let snapshot = engine.snapshot();
    assert_ok(&workload.audit(&snapshot, Some(&workload.observe(&snapshot))));
    row_counts(&snapshot);
    places(&snapshot);
    items_and_stock(&snapshot);
    customers(&snapshot);
    orders(&snapshot);
}

fn row_counts(snapshot: &Snapshot) {
    assert_eq!(snapshot.len(&ITEM), 100_000);
    assert_eq!(snapshot.len(&WAREHOUSE), 1);
    assert_eq!(snapshot.len(&DISTRICT), 10);
    assert_eq!(snapshot.len(&STOCK), 100_000);
    assert_eq!(snapshot.len(&STOCK_INFO), 100_000);
    assert_eq!(snapshot.len(&CUSTOMER), 30_000);
    assert_eq!(snapshot.len(&CUSTOMER_ACCOUNT), 30_000);
    assert_eq!(snapshot.len(&CUSTOMER_DATA), 30_000);
    assert_eq!(snapshot.len(&HISTORY), 30_000);
    assert_eq!(snapshot.len(&ORDER), 30_000);
    assert_eq!(snapshot.len(&NEW_ORDER), 9_000);
    assert_eq!(snapshot.len(&ORDER_LINE), 30_000, "lines lie together");
    let mut lines = 0;
    snapshot.for_each(&ORDER_LINE, |_, row| lines += row.iter().count());
    assert!((297_000..303_000).contains(&lines), "{lines}");
}

fn places(snapshot: &Snapshot) {
    assert_eq!(snapshot.get(&WAREHOUSE_YTD, &WarehouseKey::new(1)), Some(Cents(300_000_00)));
    for district in DistrictKey::of_warehouse(1) {
        assert_eq!(snapshot.get(&DISTRICT_YTD, &district), Some(Cents(30_000_00)));
        assert_eq!(snapshot.get(&DISTRICT_ORDERS, &district), Some(3_001));
    }
    let warehouse = snapshot.get(&WAREHOUSE, &WarehouseKey::new(1)).expect("there is a warehouse");
    assert!(warehouse.tax <= 2_000 && (6..=10).contains(&warehouse.name.as_bytes().len()));
    let zip = warehouse.address.zip;
    assert!(zip.as_bytes().ends_with(b"11111") && zip.as_bytes().len() == 9, "{zip}");
}

fn is_about(count: usize, of: usize, share: f64) -> bool {
    (count as f64 / of as f64 - share).abs() < 0.01
}

fn items_and_stock(snapshot: &Snapshot) {
    let (mut originals, mut names) = (0, 0);
    snapshot.for_each(&ITEM, |id, item| {
        assert!((1..=100_000).contains(id));
        assert!((1_00..=100_00).contains(&item.price) && (1..=10_000).contains(&item.image));
        assert!((26..=50).contains(&item.data.as_bytes().len()));
        names += usize::from((14..=24).contains(&item.name.as_bytes().len()));
        originals += usize::from(is_original(&item.data));
    });
    assert_eq!(names, 100_000);
    assert!(is_about(originals, 100_000, 0.1), "{originals}");
    originals = 0;
    snapshot.for_each(&STOCK_INFO, |_, stock| {
        assert!(stock.districts.iter().all(|info| info.as_bytes().len() == 24));
        originals += usize::from(is_original(&stock.data));
    });
    assert!(is_about(originals, 100_000, 0.1), "{originals}");
    snapshot.for_each(&STOCK, |_, stock| {
        assert!((10..=100).contains(&stock.quantity));
        assert_eq!((stock.ytd, stock.order_count, stock.remote_count), (0, 0, 0));
    });
}

fn customers(snapshot: &Snapshot) {
    let (mut bad, mut discounts) = (0, [false; 5_001]);
    snapshot.for_each(&CUSTOMER, |key, row| {
        assert_eq!(row.last, last_name(row.last_number));
        assert!(key.customer() > 1_000 || u32::from(row.last_number) == key.customer() - 1);
        assert_eq!((row.middle.as_bytes(), row.credit_limit), (&b"OE"[..], Cents(50_000_00)));
        assert!((8..=16).contains(&row.first.as_bytes().len()) && row.phone.as_bytes().len() == 16);
        bad += usize::from(row.has_bad_credit());
        discounts[usize::from(row.discount)] = true;
    });
    assert!(is_about(bad, 30_000, 0.1), "{bad}");
    assert!(discounts.iter().filter(|used| **used).count() > 4_900, "discounts are from 0 to 50 %");
    snapshot.for_each(&CUSTOMER_ACCOUNT, |_, row| {
        assert_eq!((row.balance, row.ytd_payment), (Cents(-10_00), Cents(10_00)));
        assert_eq!((row.payment_count, row.delivery_count), (1, 0));
    });
    snapshot.for_each(&CUSTOMER_DATA, |_, row| assert!((300..=500).contains(&row.text().len())));
    snapshot.for_each(&HISTORY, |key, row| {
        assert_eq!((row.amount, key.position), (Cents(10_00), 0));
        assert_eq!(DistrictKey::new(row.warehouse, row.district as u8), key.customer.district());
    });
}

fn orders(snapshot: &Snapshot) {
    let mut ordered = vec![false; 30_000];
    let mut in_order = 0;
    snapshot.for_each(&ORDER, |key, row| {
        assert!((5..=15).contains(&row.line_count) && row.all_local == 1);
        let is_delivered = key.order() <= 2_100;
        assert!(if is_delivered { (1..=10).contains(&row.carrier) } else { row.carrier == 0 });
        let place = key.district().index() * 3_000 + row.customer as usize - 1;
        assert!(!ordered[place], "customers order once");
        ordered[place] = true;
        in_order += usize::from(row.customer == key.order());
    });
    assert!(ordered.iter().all(|ordered| *ordered), "every customer orders");
    assert!(in_order < 100, "customers order in a random order");
    snapshot.for_each(&NEW_ORDER, |key, ()| assert!((2_101..=3_000).contains(&key.order())));
    snapshot.for_each(&ORDER_LINE, |key, lines| {
        for (_, line) in lines.iter() {
            assert!((1..=100_000).contains(&line.item) && line.quantity == 5 && line.supply == 1);
            if key.order() <= 2_100 {
                assert!(line.amount == 0 && line.delivery_us > 0);
            } else {
                assert!((1..=9_999_99).contains(&line.amount) && line.delivery_us == 0);
            }
        }
    });
}
