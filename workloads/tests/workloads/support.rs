//! Engines to test on, and the shortest ways to use them.

use std::sync::Arc;

use mixlog_engine::{Engine, Outcome, Position, Procedure};
use mixlog_log::{MemoryLog, SharedLog};
use mixlog_workloads::check::Check;
use mixlog_workloads::runner::{Config, Stop};
use mixlog_workloads::workload::Workload;

/// An engine on a log of its own, without data.
pub(crate) fn empty<W: Workload>(workload: &W, threads: usize) -> Engine {
    on(workload, threads, Arc::new(MemoryLog::new()))
}

/// An engine on this log.
pub(crate) fn on<W: Workload>(workload: &W, threads: usize, log: Arc<dyn SharedLog>) -> Engine {
    let builder = workload.register(Engine::builder()).threads(threads);
    builder.open(log).expect("the engine opens")
}

/// An engine that holds the workload's population.
pub(crate) fn populated<W: Workload>(workload: &W, threads: usize) -> Engine {
    let engine = empty(workload, threads);
    workload.populate(&engine, &mut |_, _| {}).expect("the population commits");
    engine
}

/// Runs one transaction to its outcome.
pub(crate) fn outcome<P: Procedure>(engine: &Engine, procedure: &P) -> Outcome<P> {
    engine.submit(procedure).expect("it is submitted").wait().expect("it is acknowledged")
}

/// Runs one transaction that commits.
pub(crate) fn commit<P: Procedure>(engine: &Engine, procedure: &P) -> (P::Output, Position) {
    match outcome(engine, procedure) {
        Outcome::Committed { output, position } => (output, position),
        Outcome::Aborted { reason, .. } => panic!("it aborts: {reason:?}"),
        Outcome::Panicked { message, .. } => panic!("it panics: {message}"),
    }
}

/// Runs one transaction that aborts.
pub(crate) fn abort<P: Procedure>(engine: &Engine, procedure: &P) -> P::Abort {
    match outcome(engine, procedure) {
        Outcome::Aborted { reason, .. } => reason,
        Outcome::Committed { .. } => panic!("it commits"),
        Outcome::Panicked { message, .. } => panic!("it panics: {message}"),
    }
}

/// So many transactions of two clients.
pub(crate) fn config(transactions: u64, seed: u64) -> Config {
    Config { clients: 2, in_flight: 256, stop: Stop::Transactions(transactions), seed, ..Config::default() }
}

/// The names of the checks that failed.
pub(crate) fn failures(checks: &[Check]) -> Vec<&str> {
    checks.iter().filter(|check| !check.ok).map(|check| check.name.as_str()).collect()
}

/// All checks passed.
pub(crate) fn assert_ok(checks: &[Check]) {
    let failed: Vec<&Check> = checks.iter().filter(|check| !check.ok).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
