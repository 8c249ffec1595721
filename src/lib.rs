//! Multi-core deterministic transactions over a totally ordered shared log.
//!
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod kv;

pub use mixlog_engine::*;
/// The shared log and its backends.
pub use mixlog_log as log;
/// The mixer: footprints in, schedule out.
pub use mixlog_mixer as mixer;
/// TPC-C, YCSB, SmallBank, transfers and list-append, and the runner that reports on them.
#[cfg(feature = "workloads")]
pub use mixlog_workloads as workloads;
