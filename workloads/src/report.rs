//! What a run found, as people and programs read it.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::check::Check;

/// What a run found. It serializes to one JSON object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The workload's name.
    pub workload: String,
    /// Threads that executed.
    pub threads: usize,
    /// Entries that were mixed together at most.
    pub window: u32,
    /// How windows were executed.
    pub mode: String,
    /// What an acknowledged transaction has survived.
    pub durability: String,
    /// Client threads.
    pub clients: u32,
    /// Transactions that each client kept in flight.
    pub in_flight: usize,
    /// The seed of the transactions.
    pub seed: u64,
    /// Transactions that were acknowledged, those that aborted included.
    pub transactions: u64,
    /// From the first submission to the last acknowledgement.
    pub seconds: f64,
    /// Transactions per second.
    pub throughput_per_second: f64,
    /// From submission to acknowledgement.
    pub latency_us: Latency,
    /// Transactions that aborted or panicked.
    pub aborts: u64,
    /// Those of them that the workload did not intend.
    pub unexpected: u64,
    /// Transactions whose footprint was wrong, in this run.
    pub violations: u64,
    /// Windows that were executed again because of that, in this run.
    pub replays: u64,
    /// Batches that the mixer made, in this run.
    pub batches: u64,
    /// Work over critical path, as the mixer saw it in this run.
    pub parallelism: f64,
    /// The last position of the log that was executed.
    pub position: Option<u64>,
    /// The digest at that position.
    pub digest: String,
    /// The consistency checks.
    pub checks: Vec<Check>,
}

/// Quantiles in microseconds, exact to three digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Half of the transactions were faster.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
    /// The slowest.
    pub max: u64,
}

impl Latency {
    pub(crate) fn of(us: &Histogram<u64>) -> Self {
        let at = |quantile| us.value_at_quantile(quantile);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: us.max() }
    }
}

impl Report {
    /// Whether every check passed.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.checks.iter().all(|check| check.ok)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {:.0} transactions/s ({} in {:.2} s, {} aborted)",
            self.workload, self.throughput_per_second, self.transactions, self.seconds, self.aborts
        )?;
        writeln!(
            f,
            "threads {}, window {}, mode {}, durability {}, {} clients with {} in flight",
            self.threads, self.window, self.mode, self.durability, self.clients, self.in_flight
        )?;
        let Latency { p50, p90, p99, p999, max } = self.latency_us;
        writeln!(f, "latency in us: p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max}")?;
        writeln!(
            f,
            "{} batches, parallelism {:.2}, {} violations, {} replays",
            self.batches, self.parallelism, self.violations, self.replays
        )?;
        let position = self.position.map_or_else(|| "none".to_owned(), |position| position.to_string());
        writeln!(f, "position {position}, digest {}", self.digest)?;
        for Check { name, ok, detail } in &self.checks {
            writeln!(f, "{} {name:<8} {detail}", if *ok { "ok  " } else { "FAIL" })?;
        }
        Ok(())
    }
}
