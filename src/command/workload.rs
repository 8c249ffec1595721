//! From the name of a workload to its type.

use mixlog::workloads::tpcc::client::Tpcc;
use mixlog::workloads::tpcc::schema::Scale;
use mixlog::workloads::transfer::{self, Transfers};
use mixlog::workloads::workload::Workload;
use mixlog::workloads::ycsb::client::{Config, Mix, Ycsb};
use mixlog::workloads::ycsb::record::{Boxed, Inline};
use mixlog::{Builder, Procedure, kv};

use super::arguments::{Name, WorkloadOptions};
use super::failure::Failure;

/// What is to be done with a workload, whatever its type.
pub(crate) trait Visit {
    type Result;
    fn visit<W: Workload>(self, workload: &W) -> Self::Result;
}

/// Makes the workload that the options describe, and does with it what `visit` says.
pub(crate) fn with<V: Visit>(
    name: Name,
    options: &WorkloadOptions,
    seed: u64,
    visit: V,
) -> Result<V::Result, Failure> {
    refuse_foreign(name, options)?;
    match name {
        Name::Tpcc => {
            let warehouses = options.warehouses.unwrap_or(4);
            let scale = Scale::full(warehouses);
            if !scale.is_valid() {
                return Err(Failure::Refused(format!("TPC-C needs at least 1 warehouse, not {warehouses}")));
            }
            Ok(visit.visit::<Tpcc>(&Tpcc::new(scale, seed)))
        }
        Name::Transfer => {
            let mut config = transfer::Config::new();
            config.accounts = options.accounts.unwrap_or(config.accounts);
            config.hot = options.hot.unwrap_or(config.hot);
            match config.problem() {
                Some(problem) => Err(Failure::Refused(problem.to_owned())),
                None => Ok(visit.visit::<Transfers>(&Transfers::new(config))),
            }
        }
        Name::YcsbA => ycsb(Mix::A, options, visit),
        Name::YcsbB => ycsb(Mix::B, options, visit),
        Name::YcsbC => ycsb(Mix::C, options, visit),
        Name::YcsbF => ycsb(Mix::F, options, visit),
    }
}

fn ycsb<V: Visit>(mix: Mix, options: &WorkloadOptions, visit: V) -> Result<V::Result, Failure> {
    let mut config = Config::new(mix);
    config.records = options.records.unwrap_or(config.records);
    config.value_size = options.value_size.unwrap_or(config.value_size);
    config.operations = options.operations.unwrap_or(config.operations);
    config.theta = options.theta.unwrap_or(config.theta);
    if let Some(problem) = config.problem() {
        return Err(Failure::Refused(problem.to_owned()));
    }
    Ok(match config.value_size {
        100 => visit.visit::<Ycsb<Inline<100>>>(&Ycsb::new(config)),
        1_000 => visit.visit::<Ycsb<Inline<1_000>>>(&Ycsb::new(config)),
        _ => visit.visit::<Ycsb<Boxed>>(&Ycsb::new(config)),
    })
}

/// An option that the workload would not look at is a mistake.
fn refuse_foreign(name: Name, options: &WorkloadOptions) -> Result<(), Failure> {
    let WorkloadOptions { warehouses, records, value_size, operations, theta, accounts, hot } = *options;
    let given = [
        ("--warehouses", "tpcc", warehouses.is_some()),
        ("--records", "ycsb", records.is_some()),
        ("--value-size", "ycsb", value_size.is_some()),
        ("--operations", "ycsb", operations.is_some()),
        ("--theta", "ycsb", theta.is_some()),
        ("--accounts", "transfer", accounts.is_some()),
        ("--hot", "transfer", hot.is_some()),
    ];
    let this = name.text();
    match given.iter().find(|(_, family, given)| *given && !this.starts_with(family)) {
        Some((option, family, _)) => Err(Failure::Refused(format!(
            "{option} is an option of {family}, not of {this}; see mixlog run --help"
        ))),
        None => Ok(()),
    }
}

/// Adds the tables and procedures of the workload, or of the generic store, whose procedures a log names.
pub(crate) fn register(procedures: &[String], builder: Builder) -> Result<Builder, Failure> {
    let has = |name: &str| procedures.iter().any(|procedure| procedure == name);
    let mut options = WorkloadOptions::default();
    let name = if has(kv::Transaction::NAME) {
        return Ok(kv::register(builder));
    } else if has("tpcc.new_order") {
        Name::Tpcc
    } else if procedures.iter().any(|name| name.starts_with("transfer")) {
        Name::Transfer
    } else if has("ycsb.operate_100") || has("ycsb.operate_1000") || has("ycsb.operate") {
        options.value_size = Some(match (has("ycsb.operate_100"), has("ycsb.operate_1000")) {
            (true, _) => 100,
            (_, true) => 1_000,
            _ => 500,
        });
        Name::YcsbA
    } else {
        return Err(Failure::Refused(format!(
            "the log was written by procedures that this command does not have: {}",
            procedures.join(", ")
        )));
    };
    with(name, &options, 1, Register(builder))
}

struct Register(Builder);

impl Visit for Register {
    type Result = Builder;

    fn visit<W: Workload>(self, workload: &W) -> Builder {
        workload.register(self.0)
    }
}
