//! Workloads on an engine: populations, transactions, audits, wrong footprints, and the baselines.
#![allow(clippy::inconsistent_digit_grouping, reason = "cents are set off from the units, as in 10_00")]

#[path = "../../../benches/baseline/mod.rs"]
mod baseline;
mod baselines;
mod footprint_reports;
mod footprints;
mod list_append_check;
mod list_append_runs;
mod other_audits;
mod runs;
mod smallbank_transactions;
mod support;
mod tpcc_audit;
mod tpcc_population;
mod tpcc_transactions;
