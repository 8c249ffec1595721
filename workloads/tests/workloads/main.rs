//! Workloads on an engine: populations, transactions, audits, wrong footprints, and the baselines.

mod footprints;
mod runs;
mod support;
mod tpcc_audit;
mod tpcc_population;
mod tpcc_transactions;
