//! Every check of YCSB, of transfers and of SmallBank can fail.

use std::sync::Arc;

use mixlog_engine::{Engine, Footprint, Never, Procedure, Tx};
use mixlog_log::MemoryLog;
use mixlog_workloads::money::Cents;
use mixlog_workloads::runner;
use mixlog_workloads::smallbank::bank::{self, CHECKING, Name, SAVINGS};
use mixlog_workloads::smallbank::client::SmallBank;
use mixlog_workloads::smallbank::driver;
use mixlog_workloads::transfer::{self, ACCOUNTS, Account, Transfers};
use mixlog_workloads::workload::Workload;
use mixlog_workloads::ycsb::client::{Config, Mix, Ycsb};
use mixlog_workloads::ycsb::record::{Inline, Record, key_of, update_field};
use mixlog_workloads::{ycsb, zipf};
use serde::{Deserialize, Serialize};

use crate::support::{assert_ok, commit, config, failures};

/// A way to damage a state.
type Damage = fn(&mut Tx<'_>);

/// Damages the state in one of the ways listed here; the first ones are YCSB's.
#[derive(Serialize, Deserialize)]
struct Tamper {
    case: usize,
}

impl Procedure for Tamper {
    const NAME: &'static str = "tamper";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.unknown();
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        let (_, damage, _) = YCSB.iter().chain(TRANSFER).chain(SMALLBANK).nth(self.case).expect("a case");
        damage(tx);
        Ok(())
    }
}

type Case = (&'static str, Damage, &'static [&'static str]);

fn record<'a>(tx: &'a mut Tx<'_>, number: u64) -> &'a mut [u8] {
    Inline::<100>::get_mut(tx, key_of(number)).expect("a record").bytes_mut()
}

const YCSB: &[Case] = &[
    ("an update that nobody made", |tx| update_field(record(tx, 7), key_of(7), 3), &["Y3"]),
    (
        "an update of another record",
        |tx| {
            // One record forgets its updates, another has as many more: their number stays.
            let number =
                (0..100).find(|number| record(tx, *number)[..4] != [0; 4]).expect("an updated record");
            let versions = u32::from_le_bytes(*record(tx, number).first_chunk().expect("a version"));
            let mut fresh = [0; 100];
            ycsb::record::write_record(&mut fresh, key_of(number));
            record(tx, number)[..10].copy_from_slice(&fresh[..10]);
            (0..versions).for_each(|_| update_field(record(tx, number + 1), key_of(number + 1), 0));
        },
        &["Y3"],
    ),
    ("a torn field", |tx| record(tx, 7)[99] ^= 1, &["Y2", "Y3"]),
    (
        "a record of another key",
        |tx| {
            let other = record(tx, 8).to_vec();
            record(tx, 7).copy_from_slice(&other);
        },
        &["Y2", "Y3"],
    ),
    (
        "a record too many",
        |tx| {
            let mut row = Inline::<100>::zeroed(100).expect("100 bytes");
            ycsb::record::write_record(row.bytes_mut(), 5);
            Inline::<100>::put(tx, 5, row);
        },
        &["Y1"],
    ),
    (
        "an insert that nobody made",
        |tx| {
            let mut row = Inline::<100>::zeroed(100).expect("100 bytes");
            ycsb::record::write_record(row.bytes_mut(), key_of(1_000));
            Inline::<100>::put(tx, key_of(1_000), row);
        },
        &["Y3"],
    ),
    ("no population", |tx| assert!(tx.delete(&ycsb::load::POPULATION, &0)), &["Y1"]),
];

fn account<'a>(tx: &'a mut Tx<'_>, number: u64) -> &'a mut Account {
    tx.get_mut(&ACCOUNTS, &number).expect("an account")
}

const TRANSFER: &[Case] = &[
    ("money made", |tx| account(tx, 3).balance += Cents(1), &["T2", "T3"]),
    (
        "money moved",
        |tx| {
            account(tx, 3).balance += Cents(1);
            account(tx, 4).balance -= Cents(1);
        },
        &["T3"],
    ),
    ("a transfer more", |tx| account(tx, 3).transfers += 1, &["T3"]),
    (
        "an account below zero",
        |tx| {
            account(tx, 3).balance -= Cents(1_000_000);
            account(tx, 4).balance += Cents(1_000_000);
        },
        &["T1", "T3"],
    ),
    ("no account", |tx| assert!(tx.delete(&ACCOUNTS, &3)), &["T1", "T2", "T3"]),
    (
        "an account too many",
        |tx| tx.put(&ACCOUNTS, 50, Account { balance: Cents::ZERO, transfers: 0 }),
        &["T1"],
    ),
    ("no population", |tx| assert!(tx.delete(&transfer::POPULATION, &0)), &["T1"]),
];

fn savings<'a>(tx: &'a mut Tx<'_>, customer: u64) -> &'a mut Cents {
    tx.get_mut(&SAVINGS, &customer).expect("an account")
}

fn checking<'a>(tx: &'a mut Tx<'_>, customer: u64) -> &'a mut Cents {
    tx.get_mut(&CHECKING, &customer).expect("an account")
}

const SMALLBANK: &[Case] = &[
    ("money made", |tx| *savings(tx, 3) += Cents(1), &["B2", "B3"]),
    (
        "money moved to another customer",
        |tx| {
            *checking(tx, 3) += Cents(1);
            *checking(tx, 4) -= Cents(1);
        },
        &["B3"],
    ),
    (
        "money moved to the other account",
        |tx| {
            *checking(tx, 3) -= Cents(1);
            *savings(tx, 3) += Cents(1);
        },
        &["B3"],
    ),
    (
        "savings below zero",
        |tx| {
            *savings(tx, 3) -= Cents(1_000_000_00);
            *checking(tx, 3) += Cents(1_000_000_00);
        },
        &["B1", "B3"],
    ),
    ("no checking account", |tx| assert!(tx.delete(&CHECKING, &3)), &["B1", "B2", "B3"]),
    ("an account too many", |tx| tx.put(&SAVINGS, 50, Cents::ZERO), &["B1"]),
    ("no name", |tx| assert!(tx.delete(&bank::ACCOUNTS, &Name::of(3))), &["B1"]),
    ("a name of another customer", |tx| tx.put(&bank::ACCOUNTS, Name::of(3), 4), &["B1"]),
    ("no population", |tx| assert!(tx.delete(&bank::POPULATION, &0)), &["B1"]),
];

fn each_case_fails_its_checks<W: Workload>(workload: &W, cases: &[Case], first: usize) {
    for ((name, _, fails), case) in cases.iter().zip(first..) {
        let builder = workload.register(Engine::builder()).procedure::<Tamper>().threads(2);
        let engine = builder.open(Arc::new(MemoryLog::new())).expect("the engine opens");
        runner::prepare(&engine, workload, &mut |_, _| {}).expect("it is populated");
        let report = runner::run(&engine, workload, &config(300, 3), &mut |_| {}).expect("the run ends");
        assert_ok(&report.checks);
        let observed = workload.observe(&engine.snapshot());
        commit(&engine, &Tamper { case });
        let checks = workload.audit(&engine.snapshot(), Some(&observed));
        assert_eq!(failures(&checks), *fails, "{name}: {checks:#?}");
    }
}

#[test]
fn a_damaged_ycsb_record_fails_exactly_the_right_checks() {
    let config =
        Config { mix: Mix::A, records: 100, value_size: 100, operations: 4, theta: zipf::YCSB_THETA };
    each_case_fails_its_checks(&Ycsb::<Inline<100>>::new(config), YCSB, 0);
}

#[test]
fn an_insert_too_few_fails_the_audit() {
    let config = Config { mix: Mix::D, records: 100, value_size: 100, operations: 4, theta: 0.9 };
    let workload = Ycsb::<Inline<100>>::new(config);
    let engine = crate::support::populated(&workload, 2);
    let run = crate::support::config(1_000, 3);
    assert_ok(&runner::run(&engine, &workload, &run, &mut |_| {}).expect("the run ends").checks);
    let snapshot = engine.snapshot();
    let mut observed = workload.observe(&snapshot);
    assert!((100..300).contains(&observed.inserts.count), "5 % of 4,000: {}", observed.inserts.count);
    observed.inserts.note(key_of(100 + observed.inserts.count), 1);
    assert_eq!(failures(&workload.audit(&snapshot, Some(&observed))), ["Y3"]);
    observed.inserts.count -= 1;
    assert_eq!(failures(&workload.audit(&snapshot, Some(&observed))), ["Y3"], "another record");
}

#[test]
fn a_damaged_account_fails_exactly_the_right_checks() {
    let config = transfer::Config { accounts: 50, ..transfer::Config::new() };
    each_case_fails_its_checks(
        &Transfers::<mixlog_workloads::footprints::Exact>::new(config),
        TRANSFER,
        YCSB.len(),
    );
}

#[test]
fn a_damaged_bank_fails_exactly_the_right_checks() {
    let config = driver::Config { accounts: 50, hot_accounts: 50, ..driver::Config::new() };
    each_case_fails_its_checks(
        &SmallBank::<mixlog_workloads::footprints::Exact>::new(config, 1),
        SMALLBANK,
        YCSB.len() + TRANSFER.len(),
    );
}
