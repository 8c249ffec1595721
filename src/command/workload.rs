//! From the name of a workload to its type.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use mixlog::workloads::list_append::client::ListAppends;
use mixlog::workloads::list_append::{self, history};
use mixlog::workloads::smallbank::client::SmallBank;
use mixlog::workloads::smallbank::driver;
use mixlog::workloads::tpcc::client::Tpcc;
use mixlog::workloads::tpcc::schema::Scale;
use mixlog::workloads::transfer::{self, Transfers};
use mixlog::workloads::workload::Workload;
use mixlog::workloads::ycsb::client::{Config, Mix, Ycsb};
use mixlog::workloads::ycsb::record::{Boxed, Inline, Ordered};
use mixlog::{Builder, Procedure, kv};

use super::arguments::{Name, WorkloadOptions};
use super::failure::Failure;
use super::run::is_read;

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
            let scale = if options.small { Scale::small(warehouses) } else { Scale::full(warehouses) };
            if !scale.is_valid() {
                return Err(Failure::Refused(format!("TPC-C needs at least 1 warehouse, not {warehouses}")));
            }
            Ok(visit.visit::<Tpcc>(&Tpcc::new(scale, seed)))
        }
        Name::SmallBank => {
            let mut config = driver::Config::new();
            config.accounts = options.accounts.unwrap_or(config.accounts);
            config.hot = options.hot.unwrap_or(config.hot);
            // A small bank may have fewer customers than are hot by default.
            config.hot_accounts =
                options.hot_accounts.unwrap_or_else(|| config.hot_accounts.min(config.accounts));
            match config.problem() {
                Some(problem) => Err(Failure::Refused(problem.to_owned())),
                None => Ok(visit.visit::<SmallBank>(&SmallBank::new(config, seed))),
            }
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
        Name::ListAppend => list_append(options, visit),
        Name::YcsbA => ycsb(Mix::A, options, visit),
        Name::YcsbB => ycsb(Mix::B, options, visit),
        Name::YcsbC => ycsb(Mix::C, options, visit),
        Name::YcsbD => ycsb(Mix::D, options, visit),
        Name::YcsbE => ycsb(Mix::E, options, visit),
        Name::YcsbF => ycsb(Mix::F, options, visit),
    }
}

/// Whether a file that is named so is stdout.
pub(super) fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// Whatever comes of the visit, the history is written: it is worth most after a failure.
fn list_append<V: Visit>(options: &WorkloadOptions, visit: V) -> Result<V::Result, Failure> {
    let mut config = list_append::driver::Config::new();
    config.keys = options.keys.unwrap_or(config.keys);
    config.max_operations = options.max_ops.unwrap_or(config.max_operations);
    config.max_writes_per_key = options.max_writes_per_key.unwrap_or(config.max_writes_per_key);
    config.abort = options.abort.unwrap_or(config.abort);
    if let Some(problem) = config.problem() {
        return Err(Failure::Refused(problem.to_owned()));
    }
    let Some(path) = &options.history else {
        return Ok(visit.visit::<ListAppends>(&ListAppends::new(config)));
    };
    let cannot_write =
        |error| Failure::Io(format!("cannot write the history to {}: {error}", path.display()));
    let file: Box<dyn Write> = if is_stdout(path) {
        Box::new(io::stdout())
    } else {
        Box::new(File::create(path).map_err(cannot_write)?)
    };
    let workload: ListAppends = ListAppends::new(config);
    let result = visit.visit(&workload);
    let written = history::write(&workload.history(), BufWriter::new(file));
    if is_stdout(path) {
        is_read(written)?;
    } else {
        written.map_err(cannot_write)?;
    }
    Ok(result)
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
        100 if mix == Mix::E => visit.visit::<Ycsb<Ordered<100>>>(&Ycsb::new(config)),
        1_000 if mix == Mix::E => visit.visit::<Ycsb<Ordered<1_000>>>(&Ycsb::new(config)),
        size if mix == Mix::E => {
            return Err(Failure::Refused(format!(
                "ycsb-e has records of 100 or 1,000 bytes, and not of {size}"
            )));
        }
        100 => visit.visit::<Ycsb<Inline<100>>>(&Ycsb::new(config)),
        1_000 => visit.visit::<Ycsb<Inline<1_000>>>(&Ycsb::new(config)),
        _ => visit.visit::<Ycsb<Boxed>>(&Ycsb::new(config)),
    })
}

/// An option that the workload would not look at is a mistake.
fn refuse_foreign(name: Name, options: &WorkloadOptions) -> Result<(), Failure> {
    let given: [(_, &[_], _); 14] = [
        ("--warehouses", &["tpcc"], options.warehouses.is_some()),
        ("--small", &["tpcc"], options.small),
        ("--records", &["ycsb"], options.records.is_some()),
        ("--value-size", &["ycsb"], options.value_size.is_some()),
        ("--operations", &["ycsb"], options.operations.is_some()),
        ("--theta", &["ycsb"], options.theta.is_some()),
        ("--accounts", &["transfer", "smallbank"], options.accounts.is_some()),
        ("--hot", &["transfer", "smallbank"], options.hot.is_some()),
        ("--hot-accounts", &["smallbank"], options.hot_accounts.is_some()),
        ("--keys", &["list-append"], options.keys.is_some()),
        ("--max-ops", &["list-append"], options.max_ops.is_some()),
        ("--max-writes-per-key", &["list-append"], options.max_writes_per_key.is_some()),
        ("--abort", &["list-append"], options.abort.is_some()),
        ("--history", &["list-append"], options.history.is_some()),
    ];
    let this = name.text();
    let is_foreign = |families: &[&str]| !families.iter().any(|family| this.starts_with(family));
    match given.iter().find(|(_, families, given)| *given && is_foreign(families)) {
        Some((option, families, _)) => Err(Failure::Refused(format!(
            "{option} is an option of {}, not of {this}; see mixlog run --help",
            families.join(" and ")
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
    } else if has("list_append") {
        Name::ListAppend
    } else if has("smallbank.balance") {
        Name::SmallBank
    } else if has("ycsb.operate_ordered_100") || has("ycsb.operate_ordered_1000") {
        options.value_size = Some(if has("ycsb.operate_ordered_100") { 100 } else { 1_000 });
        Name::YcsbE
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
