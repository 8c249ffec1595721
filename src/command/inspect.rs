//! `mixlog replay` and `mixlog log`: look at logs, change nothing.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use mixlog::log::{FileLog, SharedLog};
use mixlog::workloads::workload::Workload;
use mixlog::{Digest, Engine, Explanation, Position};

use super::arguments::{DumpOptions, EngineOptions, ReplayOptions};
use super::failure::Failure;
use super::run::print_to_stdout;
use super::workload::{self, Visit};

fn open(directory: &Path) -> Result<Arc<FileLog>, Failure> {
    Ok(Arc::new(FileLog::open_read_only(directory)?))
}

struct Execute<'a> {
    log: Arc<FileLog>,
    engine: &'a EngineOptions,
    to: Option<Position>,
}

impl Visit for Execute<'_> {
    type Result = Result<(Digest, Option<Explanation>), Failure>;

    fn visit<W: Workload>(self, workload: &W) -> Self::Result {
        let replay = self.engine.apply(workload.register(Engine::builder())).replay(self.log)?;
        let digest = match self.to {
            Some(position) => replay.to(position)?,
            None => replay.to_end()?,
        };
        Ok((digest, self.engine.explain.map(|_| replay.explain())))
    }
}

/// Executes a log, and prints where it ended.
pub(crate) fn replay(options: &ReplayOptions) -> Result<(), Failure> {
    let log = open(&options.log)?;
    let (digest, explanation) = match mixlog::procedures_in(&*log)? {
        Some(procedures) => {
            let names: Vec<_> = procedures.into_iter().map(|(name, _)| name).collect();
            workload::with_log(&names, Execute { log, engine: &options.engine, to: options.to })??
        }
        None if options.to.is_none() => (Digest::default(), None),
        None => return Err(Failure::Refused("the log is empty".to_owned())),
    };
    let position = digest.position.map_or_else(|| "none".to_owned(), |position| position.to_string());
    let explained = explanation.map_or_else(String::new, |explanation| format!("\n{explanation}"));
    print_to_stdout(&format!("position {position}\ndigest {digest}\n{explained}"))?;
    match &options.expect {
        Some(expected) if *expected != digest.to_string() => {
            Err(Failure::CheckFailed(format!("the digest is {digest}, and not {expected}")))
        }
        _ => Ok(()),
    }
}

struct Dump<'a> {
    log: Arc<FileLog>,
    options: &'a DumpOptions,
}

impl Visit for Dump<'_> {
    type Result = Result<(), Failure>;

    fn visit<W: Workload>(self, workload: &W) -> Self::Result {
        let replay = workload.register(Engine::builder()).threads(1).replay(Arc::clone(&self.log) as _)?;
        let tail = self.log.tail();
        let end = self.options.to.map_or(tail.tail, |to| to.next().min(tail.tail));
        let mut position = self.options.from.unwrap_or(tail.head);
        let mut out = BufWriter::new(io::stdout().lock());
        while position < end {
            let Some(block) = self.log.read(position)? else { break };
            for (at, entry) in block.iter().filter(|(at, _)| (position..end).contains(at)) {
                match writeln!(out, "{}", replay.describe(at, entry)) {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    result => result?,
                }
            }
            position = block.end();
        }
        match out.flush() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// Prints a log's entries.
pub(crate) fn dump(options: &DumpOptions) -> Result<(), Failure> {
    let log = open(&options.directory)?;
    match mixlog::procedures_in(&*log)? {
        None => Ok(()),
        Some(procedures) => {
            let names: Vec<_> = procedures.into_iter().map(|(name, _)| name).collect();
            workload::with_log(&names, Dump { log, options })?
        }
    }
}

/// Checks a log's bytes.
pub(crate) fn verify(directory: &Path) -> Result<(), Failure> {
    let report = FileLog::verify(directory)?;
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
            "torn {} bytes at offset {} of {}: an append that was never acknowledged\n",
            torn.bytes, torn.offset, torn.file
        ));
    }
    text.push_str(if report.damage.is_none() { "ok\n" } else { "corrupt\n" });
    print_to_stdout(&text)?;
    match &report.damage {
        None => Ok(()),
        Some(damage) => {
            Err(Failure::Corrupt(format!("the log is corrupt at position {}: {damage}", damage.position)))
        }
    }
}
