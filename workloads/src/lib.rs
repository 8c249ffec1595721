//! Workloads for Mixlog: TPC-C, YCSB, SmallBank, transfers and list-append, their generators, their consistency checks,
//! and the runner that drives them and reports.
#![forbid(unsafe_code)]
#![allow(clippy::inconsistent_digit_grouping, reason = "cents are set off from the units, as in 10_00")]

pub mod check;
mod codec;
pub mod footprints;
pub mod list_append;
pub mod money;
pub mod random;
pub mod report;
pub mod runner;
pub mod smallbank;
pub mod text;
pub mod tpcc;
pub mod transfer;
pub mod workload;
pub mod ycsb;
pub mod zipf;
