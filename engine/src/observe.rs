//! What an engine tells those who watch it while it runs: metrics through the `metrics` facade, spans and events through
//! `tracing`. Once per window, by the leader; where nobody listens, a few loads and branches.
//!
//! `docs/metrics.md` is the list for people: it changes with this file.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use mixlog_log::Position;
use tracing::{Span, error, info, trace, trace_span, warn};

use crate::agreement::Divergence;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::error::OpenError;
use crate::execute::Violation;
use crate::procedure::Procedures;
use crate::window::Window;

/// What a committed window did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Committed {
    pub(crate) entries: u32,
    pub(crate) transactions: u64,
    pub(crate) aborts: u64,
    pub(crate) panics: u64,
    pub(crate) reconnoitred: u64,
    pub(crate) adopted: u64,
    pub(crate) inferred: u64,
}

/// Tells the recorder what the metrics mean. Whoever installs one later has to do without.
pub(crate) fn describe() {
    let count = Unit::Count;
    describe_counter!("mixlog_transactions_total", count, "Transactions executed, whatever their outcome");
    describe_counter!("mixlog_aborts_total", count, "Transactions whose procedure decided to abort");
    describe_counter!("mixlog_panics_total", count, "Transactions whose procedure panicked");
    describe_counter!(
        "mixlog_reconnoitred_total",
        count,
        "Transactions that ran ahead to find their footprint"
    );
    describe_counter!("mixlog_adopted_total", count, "Transactions whose result from running ahead was used");
    describe_counter!("mixlog_footprint_panics_total", count, "Transactions whose footprint panicked");
    describe_counter!(
        "mixlog_inferred_total",
        count,
        "Transactions whose footprint was inferred from their arguments"
    );
    describe_counter!(
        "mixlog_violations_total",
        count,
        "Transactions that touched what they had not declared"
    );
    describe_counter!("mixlog_replays_total", count, "Windows that diverged and were replayed one by one");
    describe_counter!("mixlog_windows_total", count, "Windows executed");
    describe_histogram!("mixlog_window_entries", count, "Entries of a window");
    describe_histogram!("mixlog_window_batches", count, "Batches of a mixed window");
    describe_histogram!("mixlog_window_parallelism", count, "Entries over batches of a mixed window");
    describe_counter!("mixlog_checkpoints_total", count, "Checkpoints taken");
    describe_counter!("mixlog_checkpoint_failures_total", count, "Checkpoints that could not be taken");
    describe_counter!(
        "mixlog_divergences_total",
        count,
        "Times that a replica had another digest than the others"
    );
    describe_gauge!("mixlog_checkpoint_tail", count, "Everything before this position is in a checkpoint");
    describe_gauge!("mixlog_checkpoint_bytes", Unit::Bytes, "Length of the newest checkpoint");
    describe_histogram!("mixlog_checkpoint_seconds", Unit::Seconds, "How long a checkpoint took");
    describe_gauge!("mixlog_in_flight", count, "Submissions that await their outcome");
    describe_gauge!("mixlog_executed_tail", count, "Everything before this position is executed");
    describe_gauge!("mixlog_tail_lag", count, "Entries of the log that are not executed yet");
}

/// The log was executed up to its tail, and the engine takes submissions.
pub(crate) fn opened(tail: Position, elapsed: Duration) {
    info!(target: "mixlog", tail = tail.0, elapsed_ms = elapsed.as_millis() as u64, "opened");
}

/// A checkpoint was passed over.
pub(crate) fn rejected(name: &str, reason: &impl std::fmt::Display) {
    warn!(target: "mixlog", name, %reason, "a checkpoint cannot be used, an earlier one is tried");
}

/// The log was trimmed where somebody starts or follows, or the checkpoint given up, who tries again from a newer one.
pub(crate) fn started_anew(error: &OpenError) {
    warn!(target: "mixlog", %error, "a newer checkpoint was taken meanwhile, and is tried");
}

/// A member voted on a state in other row formats than this engine's.
pub(crate) fn other_formats(member: &str, position: Position) {
    warn!(target: "mixlog", member, position = position.0, "not compared");
}

/// A checkpoint is on the disk for good.
pub(crate) fn checkpointed(checkpoint: &Checkpoint) {
    let &Checkpoint { position, rows, bytes, elapsed } = checkpoint;
    counter!("mixlog_checkpoints_total").increment(1);
    gauge!("mixlog_checkpoint_tail").set(position.next().0 as f64);
    gauge!("mixlog_checkpoint_bytes").set(bytes as f64);
    histogram!("mixlog_checkpoint_seconds").record(elapsed.as_secs_f64());
    info!(target: "mixlog", position = position.0, rows, bytes, elapsed_ms = elapsed.as_millis() as u64, "checkpoint");
}

/// A checkpoint could not be taken, or what it makes superfluous not be given up.
pub(crate) fn checkpoint_failed(error: &CheckpointError) {
    counter!("mixlog_checkpoint_failures_total").increment(1);
    error!(target: "mixlog", %error, "no checkpoint");
}

/// Submitters begin to wait for space on the disk.
pub(crate) fn waits_for_space(full: &std::io::Error) {
    warn!(target: "mixlog", %full, "no space left for the log, submissions wait");
}

/// The engine executes no more.
pub(crate) fn stopped(outcome: &Result<(), OpenError>, tail: Position) {
    match outcome {
        Ok(()) => info!(target: "mixlog", tail = tail.0, "closed"),
        Err(error) => error!(target: "mixlog", tail = tail.0, %error, "stopped"),
    }
}

/// A vote could not be appended.
pub(crate) fn not_voted(error: &mixlog_log::AppendError) {
    warn!(target: "mixlog", %error, "not voted");
}

/// A replica's state is not that of the others.
pub(crate) fn diverged(divergence: &Divergence) {
    counter!("mixlog_divergences_total").increment(1);
    error!(target: "mixlog", position = divergence.position.0, repaired = divergence.repaired, %divergence, "diverged");
}

/// The span of a window's execution, up to its replies.
pub(crate) fn window(window: &Window, mode: &'static str) -> Span {
    let (first, entries) = (window.first().0, window.len());
    trace_span!(target: "mixlog", "window", number = window.number, first, entries, mode)
}

pub(crate) fn mixed(window: &Window, batches: u32, parallelism: f64) {
    histogram!("mixlog_window_batches").record(batches);
    histogram!("mixlog_window_parallelism").record(parallelism);
    trace!(target: "mixlog", number = window.number, batches, parallelism, "mixed");
}

pub(crate) fn committed(committed: &Committed, mode: &'static str) {
    let &Committed { entries, transactions, aborts, panics, reconnoitred, adopted, inferred } = committed;
    counter!("mixlog_windows_total", "mode" => mode).increment(1);
    counter!("mixlog_transactions_total").increment(transactions);
    counter!("mixlog_aborts_total").increment(aborts);
    counter!("mixlog_panics_total").increment(panics);
    counter!("mixlog_reconnoitred_total").increment(reconnoitred);
    counter!("mixlog_adopted_total").increment(adopted);
    counter!("mixlog_inferred_total").increment(inferred);
    histogram!("mixlog_window_entries").record(entries);
    trace!(target: "mixlog", transactions, aborts, panics, "committed");
}

/// A footprint panicked; with a message, it is the first one of its procedure.
pub(crate) fn footprint_panicked(procedure: &'static str, position: Position, message: Option<&str>) {
    counter!("mixlog_footprint_panics_total", "procedure" => procedure).increment(1);
    if let Some(message) = message {
        warn!(
            target: "mixlog",
            procedure,
            position = position.0,
            message,
            "a footprint panicked: its transactions run alone"
        );
    }
}

/// User code panicked while a footprint was inferred.
pub(crate) fn inference_panicked(procedure: &'static str, position: Position, message: &str) {
    warn!(
        target: "mixlog",
        procedure,
        position = position.0,
        message,
        "inferring a footprint panicked: for a while its procedure runs ahead instead"
    );
}

/// A window diverged, and was replayed.
pub(crate) fn replayed(violations: &[Violation], procedures: &Procedures) {
    counter!("mixlog_replays_total").increment(1);
    for violation in violations {
        let procedure = procedures.get(violation.procedure).name;
        counter!("mixlog_violations_total", "procedure" => procedure).increment(1);
    }
    if let Some(first) = violations.first() {
        warn!(
            target: "mixlog",
            violations = violations.len(),
            position = first.position.0,
            procedure = procedures.get(first.procedure).name,
            table = first.table,
            "a window was replayed: a procedure touched what it had not declared"
        );
    }
}

/// How far the log is executed.
pub(crate) fn reached(executed: Position, tail: Position, in_flight: usize) {
    gauge!("mixlog_in_flight").set(in_flight as f64);
    gauge!("mixlog_executed_tail").set(executed.0 as f64);
    gauge!("mixlog_tail_lag").set(tail.0.saturating_sub(executed.0) as f64);
}
