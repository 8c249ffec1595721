//! `mixlog replay`, `digest`, `dump` and `log`: look at logs, change nothing.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use mixlog::checkpoint::{self, Start, Verified};
use mixlog::kv::{self, Json};
use mixlog::log::{FileLog, SharedLog};
use mixlog::{Builder, Digest, Engine, OpenError, Position, Procedure, Replay};
use serde::Serialize;

use super::arguments::{DumpOptions, EngineOptions, OnClusterOptions, ReplayOptions, StateOptions};
use super::cluster;
use super::failure::Failure;
use super::run::{is_read, print_recovery, print_to_stdout, show_recovery};
use super::say::{Line, say, show};
use super::workload;

fn open(log: &Path, on_cluster: &OnClusterOptions) -> Result<Arc<dyn SharedLog>, Failure> {
    match cluster::named_log(Some(log), on_cluster)? {
        Some(log) => Ok(log),
        None => Ok(Arc::new(FileLog::open_read_only(log)?)),
    }
}

/// The names of the procedures that wrote a log; `None` for an empty one.
pub(super) fn procedures(log: &dyn SharedLog) -> Result<Option<Vec<String>>, OpenError> {
    let procedures = mixlog::procedures_in(log)?;
    Ok(procedures.map(|procedures| procedures.into_iter().map(|(name, _)| name).collect()))
}

/// The names of the procedures that it takes to execute a log; `None` for an empty one. What replicas pad it with before
/// any engine begins it is no transaction, so it takes none, as far as it goes now.
pub(super) fn needed(log: &dyn SharedLog) -> Result<Option<Vec<String>>, OpenError> {
    let tail = log.tail()?.tail;
    needed_to(log, tail)
}

/// The same for what was there when it ended at `tail`: an engine may begin it meanwhile.
fn needed_to(log: &dyn SharedLog, tail: Position) -> Result<Option<Vec<String>>, OpenError> {
    match procedures(log)? {
        None if tail > Position::ZERO => Ok(Some(Vec::new())),
        procedures => Ok(procedures),
    }
}

/// What has these procedures.
pub(super) fn with_procedures(procedures: &[String]) -> Result<Builder, Failure> {
    let builder = Engine::builder();
    if procedures.is_empty() { Ok(builder) } else { workload::register(procedures, builder) }
}

/// What can execute the log, none for an empty one.
pub(super) fn registered(log: &dyn SharedLog) -> Result<Option<Builder>, Failure> {
    needed(log)?.map(|procedures| with_procedures(&procedures)).transpose()
}

/// Executes a log up to a position, or to its end. `None` for an empty log, which has no position.
fn execute(
    log: &Arc<dyn SharedLog>,
    engine: &EngineOptions,
    to: Option<Position>,
    start: Start,
) -> Result<Option<(Replay, Digest)>, Failure> {
    let tail = log.tail()?.tail;
    let Some(procedures) = needed_to(&**log, tail)? else {
        return match to {
            None => Ok(None),
            Some(_) => Err(Failure::Refused("the log is empty".to_owned())),
        };
    };
    // What an engine puts behind padding meanwhile takes procedures that are not known here.
    let to = if procedures.is_empty() { to.or_else(|| tail.previous()) } else { to };
    let builder = engine.apply(with_procedures(&procedures)?);
    let builder = builder.checkpoints(checkpoint::Config { start, ..checkpoint::Config::default() });
    let replay = show_recovery(builder).replay(Arc::clone(log))?;
    let digest = match to {
        Some(position) => replay.to(position),
        None => replay.to_end(),
    };
    Line::new().clear();
    let digest = digest?;
    if let Some(recovery) = replay.recovery() {
        print_recovery(&recovery);
    }
    Ok(Some((replay, digest)))
}

/// Executes a log, and prints where it ended.
fn print_digest(
    log: &Arc<dyn SharedLog>,
    engine: &EngineOptions,
    to: Option<Position>,
    start: Start,
) -> Result<Digest, Failure> {
    let executed = execute(log, engine, to, start)?;
    let digest = executed.as_ref().map_or_else(Digest::default, |&(_, digest)| digest);
    let position = digest.position.map_or_else(|| "none".to_owned(), |position| position.to_string());
    let explained =
        executed.as_ref().map_or_else(String::new, |(replay, _)| engine.explained(|| replay.explain()));
    print_to_stdout(&format!("position {position}\ndigest {digest}\n{explained}"))?;
    Ok(digest)
}

/// Executes a log, prints where it ended, and compares.
pub(crate) fn replay(options: &ReplayOptions) -> Result<(), Failure> {
    if options.from_checkpoint
        && cluster::named(&options.log).is_some()
        && options.on_cluster.beside.is_none()
    {
        return Err(Failure::Refused(
            "--from-checkpoint needs --beside DIR here: a cluster has no place for checkpoints".to_owned(),
        ));
    }
    let start = if options.from_checkpoint { Start::Newest } else { Start::Oldest };
    let log = open(&options.log, &options.on_cluster)?;
    let digest = print_digest(&log, &options.engine, options.to, start)?;
    match &options.expect {
        Some(expected) if *expected != digest.to_string() => {
            Err(Failure::CheckFailed(format!("the digest is {digest}, and not {expected}")))
        }
        _ => Ok(()),
    }
}

/// Prints the digest after a position.
pub(crate) fn digest(options: &StateOptions) -> Result<(), Failure> {
    let log = open(&options.log, &options.on_cluster)?;
    print_digest(&log, &options.engine, options.at, Start::Newest).map(|_| ())
}

/// Prints what a generic store holds after a position.
pub(crate) fn dump_state(options: &StateOptions) -> Result<(), Failure> {
    let log = open(&options.log, &options.on_cluster)?;
    // Before a long log is executed in vain.
    let procedures = procedures(&*log)?;
    if let Some(procedures) = &procedures
        && !procedures.iter().any(|name| name == kv::Transaction::NAME)
    {
        return Err(Failure::Refused(format!(
            "the log holds no generic store to dump, but what these procedures wrote: {}",
            procedures.join(", ")
        )));
    }
    let Some((replay, _)) = execute(&log, &options.engine, options.at, Start::Newest)? else { return Ok(()) };
    // Beside what programs read.
    show(options.engine.explained(|| replay.explain()));
    // Nobody has put anything, nor does the engine have a table for it.
    if procedures.is_none() {
        return Ok(());
    }
    let mut rows = Vec::new();
    replay.snapshot().for_each(&kv::ROWS, |key, value| rows.push((key.clone(), value.clone())));
    rows.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let mut out = BufWriter::new(io::stdout().lock());
    for ((table, key), value) in &rows {
        if !is_read(writeln!(out, "{}", Row { table, key, value }.line()?))? {
            return Ok(());
        }
    }
    is_read(out.flush()).map(|_| ())
}

/// A line of a dump.
#[derive(Serialize)]
struct Row<'a> {
    table: &'a str,
    key: &'a str,
    value: &'a Json,
}

impl Row<'_> {
    fn line(&self) -> Result<String, Failure> {
        serde_json::to_string(self).map_err(|error| Failure::Bug(format!("a row is no JSON: {error}")))
    }
}

/// Prints a log's entries.
pub(crate) fn dump_entries(options: &DumpOptions) -> Result<(), Failure> {
    let log = open(&options.directory, &options.on_cluster)?;
    let Some(builder) = registered(&*log)? else { return Ok(()) };
    let replay = builder.threads(1).replay(Arc::clone(&log))?;
    let tail = log.tail()?;
    let end = options.to.map_or(tail.tail, |to| to.next().min(tail.tail));
    let mut position = options.from.unwrap_or(tail.head);
    let mut out = BufWriter::new(io::stdout().lock());
    while position < end {
        let Some(block) = log.read(position)? else { break };
        for (at, entry) in block.iter().filter(|(at, _)| (position..end).contains(at)) {
            if !is_read(writeln!(out, "{}", replay.describe(at, entry)))? {
                return Ok(());
            }
        }
        position = block.end();
    }
    is_read(out.flush()).map(|_| ())
}

fn is_log(directory: &Path) -> bool {
    directory.join("manifest").exists()
}

/// Checks a log's bytes.
pub(crate) fn verify(directory: &Path) -> Result<(), Failure> {
    if cluster::named(directory).is_some() {
        return Err(Failure::Refused(
            "a cluster's bytes are in the files of its units: name a directory of one, on its machine, while it does \
             not run"
                .to_owned(),
        ));
    }
    let journal = directory.join("journal");
    let is_unit = is_log(&journal) && !is_log(directory);
    let directory = if is_unit { &journal } else { directory };
    // Before the log: what they need of it was durable when they got their names, whoever writes to it meanwhile.
    let mut checkpoints = checkpoint::verify(directory)?;
    let report = FileLog::verify(directory)?;
    if is_unit {
        say("these are the records of a unit of a cluster: their positions are not the log's");
    }
    let mut text = format!(
        "log {}\nhead {}\ntail {}\nsealed {}\ndurable {}\nsegments {}\nframes {}\nbytes {}\n",
        report.id,
        report.head,
        report.tail,
        report.sealed,
        report.durable,
        report.segments,
        report.frames,
        report.frame_bytes
    );
    if let Some(torn) = &report.torn {
        text.push_str(&format!(
            "torn {} bytes at offset {} of {}: an append that a crash interrupted\n",
            torn.bytes, torn.offset, torn.file
        ));
    }
    let is_whole = |checkpoint: &Result<Verified, _>| {
        checkpoint.as_ref().is_ok_and(|checkpoint| checkpoint.position.next() >= report.head)
    };
    let opens = |checkpoints: &[_]| report.head == Position::ZERO || checkpoints.iter().any(is_whole);
    if !is_unit && !opens(&checkpoints) {
        // It may have been trimmed meanwhile, for one that is newer.
        checkpoints = checkpoint::verify(directory)?;
    }
    if !is_unit && !opens(&checkpoints) {
        say(format_args!(
            "the log begins at position {}, and no checkpoint that is whole lies beside it: it opens with one that is kept \
             elsewhere only",
            report.head
        ));
    }
    let mut flaws = Vec::new();
    if let Some(damage) = &report.damage {
        let text = format!("the log is corrupt at position {}: {damage}", damage.position);
        flaws.push(Failure::Corrupt(text));
    }
    for checkpoint in checkpoints {
        match checkpoint {
            Ok(Verified { position, rows, bytes }) => {
                text.push_str(&format!("checkpoint {position} rows {rows} bytes {bytes}\n"));
                if position >= report.tail && report.damage.is_none() {
                    let text = format!(
                        "the log ends at {}, before its checkpoint of {position}: it lost entries, or is an older copy",
                        report.tail
                    );
                    flaws.push(Failure::Corrupt(text));
                }
            }
            Err(rejected) if rejected.unreadable => flaws.push(Failure::Io(rejected.to_string())),
            Err(rejected) => flaws.push(Failure::Corrupt(rejected.to_string())),
        }
    }
    text.push_str(if flaws.is_empty() { "ok\n" } else { "corrupt\n" });
    print_to_stdout(&text)?;
    let mut flaws = flaws.into_iter();
    let Some(first) = flaws.next() else { return Ok(()) };
    flaws.for_each(say);
    Err(first)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use clap::Parser;
    use mixlog::Replica;
    use mixlog::log::{
        AppendError, Batch, Block, Durability, LogId, MemoryLog, ReadError, SealError, Tail, TailError,
        Ticket, TrimError,
    };

    use super::*;

    /// A log that an engine begins right before the `left`th look at it.
    struct Begun {
        log: Arc<dyn SharedLog>,
        left: Mutex<usize>,
    }

    impl Begun {
        fn look(&self) {
            let mut left = self.left.lock().expect("no panic");
            *left = left.saturating_sub(1);
            if *left > 0 {
                return;
            }
            *left = usize::MAX;
            let builder = with_procedures(&[kv::Transaction::NAME.to_owned()]).expect("it is known");
            let engine = builder.threads(1).open(Arc::clone(&self.log)).expect("it opens");
            let put: kv::Transaction = r#"{"ops":[["put","t","k",1]]}"#.parse().expect("it is one");
            engine.execute(&put).expect("it is committed");
            engine.close().expect("it ran");
        }
    }

    impl SharedLog for Begun {
        fn append(&self, batch: &Batch) -> Result<Ticket, AppendError> {
            self.log.append(batch)
        }

        fn read(&self, position: Position) -> Result<Option<Arc<Block>>, ReadError> {
            self.look();
            self.log.read(position)
        }

        fn tail(&self) -> Result<Tail, TailError> {
            self.look();
            self.log.tail()
        }

        fn wait_past(&self, position: Position, timeout: Option<Duration>) -> Result<Tail, ReadError> {
            self.log.wait_past(position, timeout)
        }

        fn trim(&self, before: Position) -> Result<(), TrimError> {
            self.log.trim(before)
        }

        fn seal(&self) -> Result<Position, SealError> {
            self.log.seal()
        }

        fn durability(&self) -> Durability {
            self.log.durability()
        }

        fn id(&self) -> LogId {
            self.log.id()
        }
    }

    #[derive(Debug, Parser)]
    struct Options {
        #[command(flatten)]
        engine: EngineOptions,
    }

    #[test]
    fn log_that_is_begun_while_it_is_looked_into_is_executed_as_it_was_or_as_it_is() {
        let engine = Options::parse_from(["mixlog", "--threads", "1"]).engine;
        for padded in [false, true] {
            let mut ends = Vec::new();
            for left in 1..12 {
                let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
                if padded {
                    let replica = Replica::follow(Engine::builder, Arc::clone(&log)).expect("it follows");
                    replica.pad().expect("it is padded");
                    replica.close().expect("it ran");
                }
                let before = log.tail().expect("it is there").tail;
                let begun: Arc<dyn SharedLog> =
                    Arc::new(Begun { log: Arc::clone(&log), left: Mutex::new(left) });
                let executed = execute(&begun, &engine, None, Start::Newest)
                    .unwrap_or_else(|error| panic!("padded {padded}, begun at look {left}: {error}"));
                let end = executed.and_then(|(_, digest)| digest.position);
                let after = log.tail().expect("it is there").tail;
                assert!([before.previous(), after.previous()].contains(&end), "{end:?}");
                ends.push(end > before.previous());
            }
            assert!(ends.contains(&true) && ends.contains(&false), "{padded}: {ends:?}");
        }
    }
}
