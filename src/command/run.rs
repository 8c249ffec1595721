//! `mixlog run`: a workload from population to audit.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mixlog::checkpoint::Recovery;
use mixlog::log::{self as shared_log, FileLog, MemoryLog, SharedLog, file};
use mixlog::workloads::report::Report;
use mixlog::workloads::runner::{self, Stop};
use mixlog::workloads::workload::Workload;
use mixlog::{Engine, Explanation, Position};
use serde::Serialize;
use tempfile::TempDir;

use super::agree::{Asking, Wanted, wait_agreed};
use super::arguments::{Durability, FootprintsName, KeepOptions, OnClusterOptions, Place, RunOptions};
use super::cluster;
use super::failure::Failure;
use super::interrupt;
use super::keep::tell_of_failure;
use super::say::{Line, say, show};
use super::workload::{self, Visit, is_stdout};

/// Runs the workload, reports, and fails if a check failed.
pub(crate) fn run(options: &RunOptions) -> Result<(), Failure> {
    // Before any work is done: a report that cannot be written is no use.
    let histories = options.workload_options.history.as_deref();
    let on_stdout =
        [options.json.as_deref(), histories].into_iter().flatten().filter(|path| is_stdout(path)).count();
    if on_stdout > 1 {
        return Err(Failure::Refused(
            "report and history cannot both go to stdout: name a file for one".to_owned(),
        ));
    }
    let json = options.json.as_deref().map(Json::open).transpose()?;
    interrupt::heed().map_err(|error| Failure::Io(format!("cannot heed signals: {error}")))?;
    let (report, explanation) =
        workload::with(options.workload, &options.workload_options, options.seed, Run(options))??;
    let explained = explanation.as_ref().map_or_else(String::new, |explanation| format!("\n{explanation}"));
    if on_stdout > 0 {
        show(format_args!("{report}{explained}"));
    } else {
        print_to_stdout(&format!("{report}{explained}"))?;
    }
    if let Some(json) = json {
        json.write(&report, options.footprints, explanation.as_ref())?;
    }
    let failed: Vec<_> =
        report.checks.iter().filter(|check| !check.ok).map(|check| check.name.as_str()).collect();
    if failed.is_empty() {
        interrupt::over();
        Ok(())
    } else {
        Err(Failure::CheckFailed(format!("{} checks failed: {}", failed.len(), failed.join(", "))))
    }
}

enum Json {
    Stdout,
    File(File, std::path::PathBuf),
}

impl Json {
    fn open(path: &Path) -> Result<Self, Failure> {
        if is_stdout(path) {
            return Ok(Self::Stdout);
        }
        let file = File::create(path).map_err(|error| {
            Failure::Io(format!("cannot write the report to {}: {error}", path.display()))
        })?;
        Ok(Self::File(file, path.to_owned()))
    }

    fn write(
        self,
        report: &Report,
        footprints: FootprintsName,
        explanation: Option<&Explanation>,
    ) -> Result<(), Failure> {
        /// The report, what it does not know, and with `--explain` one object more.
        #[derive(Serialize)]
        struct All<'a> {
            #[serde(flatten)]
            report: &'a Report,
            footprints: FootprintsName,
            #[serde(skip_serializing_if = "Option::is_none")]
            explanation: Option<&'a Explanation>,
        }
        let mut text = serde_json::to_string(&All { report, footprints, explanation })
            .map_err(|error| Failure::Bug(format!("the report is no JSON: {error}")))?;
        text.push('\n');
        match self {
            Self::Stdout => print_to_stdout(&text),
            Self::File(mut file, path) => file.write_all(text.as_bytes()).map_err(|error| {
                Failure::Io(format!("cannot write the report to {}: {error}", path.display()))
            }),
        }
    }
}

/// Whether somebody still reads: one who hangs up has what he wanted, and that is no error.
pub(super) fn is_read(written: io::Result<()>) -> Result<bool, Failure> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Io(format!("cannot write to stdout: {error}"))),
    }
}

pub(super) fn print_to_stdout(text: &str) -> Result<(), Failure> {
    is_read(io::stdout().lock().write_all(text.as_bytes())).map(|_| ())
}

/// Each is a thread.
const CLIENTS_MAX: u32 = 1024;

struct Run<'a>(&'a RunOptions);

impl Visit for Run<'_> {
    type Result = Result<(Report, Option<Explanation>), Failure>;

    fn visit<W: Workload>(self, workload: &W) -> Self::Result {
        let Self(options) = self;
        if !(1..=CLIENTS_MAX).contains(&options.clients) || options.in_flight == 0 {
            return Err(Failure::Refused(format!(
                "a run needs from 1 to {CLIENTS_MAX} clients, each with at least 1 transaction in flight, and not {} with {}",
                options.clients, options.in_flight
            )));
        }
        // The temporary directory goes last, after the log was closed.
        let membership = options.agree.membership(Place::of(options.log.as_deref(), options.durability))?;
        let (log, _directory) =
            open_log(options.log.as_deref(), options.durability, &options.keep, &options.on_cluster)?;
        let builder = options
            .keep
            .apply(options.engine.apply(workload.register(Engine::builder())))
            .declared(options.footprints == FootprintsName::Declared);
        let builder = match &membership {
            Some((membership, _)) => builder.member(membership.clone()),
            None => builder,
        };
        let what = match options.footprints {
            FootprintsName::Declared => workload.name(),
            FootprintsName::Found => format!("{}, footprints found", workload.name()),
        };
        let engine = open_engine(builder, log, &what)?;
        let report = populate_and_run(&engine, workload, options);
        if let (Some((membership, agree)), Ok(_)) = (membership, &report) {
            // The others vote on all of it.
            let position = engine.pad()?;
            if let Some(count) = agree {
                let within = options.agree.within;
                let wanted = Wanted { count, members: &membership.members, within, told: &Cell::new(false) };
                // Whoever ends the run gets its report all the same.
                wait_agreed(&engine, position, wanted, Asking::begun(), Some(interrupt::under_way()))?;
            }
        }
        tell_of_failure(&engine);
        // Whoever waits for a ticket learns that the engine has stopped; the engine knows what for.
        match (engine.close().map_err(Failure::from), report) {
            (Err(why @ (Failure::Bug(_) | Failure::Corrupt(_) | Failure::CheckFailed(_))), _) => Err(why),
            (_, Err(failure)) => Err(failure),
            (closed, Ok(report)) => closed.map(|()| report),
        }
    }
}

fn populate_and_run<W: Workload>(
    engine: &Engine,
    workload: &W,
    options: &RunOptions,
) -> Result<(Report, Option<Explanation>), Failure> {
    let mut line = Line::new();
    let start = Instant::now();
    let populated = runner::prepare(engine, workload, &mut |done, total| {
        line.show(|| format!("populating: {done} of {total}"));
    })?;
    line.clear();
    if populated {
        say(format_args!("populated in {:.1} s", start.elapsed().as_secs_f64()));
    }
    engine.explain_anew();
    let stop = match (options.transactions, options.seconds) {
        (Some(transactions), _) => Stop::Transactions(transactions),
        (None, seconds) => Stop::After(Duration::from_secs_f64(seconds.unwrap_or(10.0))),
    };
    let report_every = Duration::from_millis(options.progress.unwrap_or(1000));
    let config = runner::Config {
        clients: options.clients,
        in_flight: options.in_flight,
        stop,
        seed: options.seed,
        report_every,
        interrupted: Some(interrupt::under_way()),
    };
    let report = runner::run(engine, workload, &config, &mut |progress| {
        if options.progress.is_some() {
            let upto =
                progress.position.map_or_else(String::new, |position| format!(", up to position {position}"));
            say(format_args!("{} acknowledged{upto}", progress.transactions));
            return;
        }
        line.show(|| {
            format!(
                "{:>5.0} s  {} transactions  {:.0}/s",
                progress.elapsed.as_secs_f64(),
                progress.transactions,
                progress.per_second
            )
        });
    })?;
    line.clear();
    Ok((report, options.engine.explain.map(|_| engine.explain())))
}

/// Shows how far the state is rebuilt, where somebody watches.
pub(super) fn show_recovery(builder: mixlog::Builder) -> mixlog::Builder {
    let line = Arc::new(Mutex::new(Line::new()));
    let loading = Arc::clone(&line);
    let builder = builder.on_load(move |done, all| {
        let mut line = loading.lock().expect("no panic while showing");
        line.show(|| format!("loading a checkpoint: {} of {} MiB", done >> 20, all >> 20));
    });
    builder.on_progress(move |done: Position, tail| {
        let mut line = line.lock().expect("no panic while showing");
        line.show(|| format!("replaying the log: {done} of {tail} entries"));
    })
}

/// Says which checkpoints were passed over, and why.
pub(super) fn print_rejected(recovery: &Recovery) {
    for rejected in &recovery.rejected {
        say(format_args!("{rejected}; it was passed over"));
    }
}

/// Says how the state was rebuilt, unless that was all of a short log.
pub(super) fn print_recovery(recovery: &Recovery) {
    print_rejected(recovery);
    if recovery.checkpoint.is_some() || recovery.elapsed() >= Duration::from_secs(1) {
        say(recovery);
    }
}

/// Opens the engine, shows how far it is meanwhile, and says how it will execute.
pub(super) fn open_engine(
    builder: mixlog::Builder,
    log: Arc<dyn SharedLog>,
    what: &str,
) -> Result<Engine, Failure> {
    let opened = show_recovery(builder).open(log);
    Line::new().clear();
    let engine = opened?;
    print_recovery(engine.recovery());
    say(format_args!(
        "{what}, {} threads, window {}, mode {}, durability {}",
        engine.threads(),
        engine.window(),
        engine.mode(),
        engine.durability()
    ));
    Ok(engine)
}

/// The log that the options name (a temporary one if none), and the directory to remove afterwards.
pub(super) fn open_log(
    log: Option<&Path>,
    durability: Option<Durability>,
    keep: &KeepOptions,
    on_cluster: &OnClusterOptions,
) -> Result<(Arc<dyn SharedLog>, Option<TempDir>), Failure> {
    keep.refuse_in_vain(Place::of(log, durability), on_cluster)?;
    if let Some(log) = cluster::named_log(log, on_cluster)? {
        return match durability.map(shared_log::Durability::from) {
            Some(wanted) if wanted != log.durability() => Err(Failure::Refused(format!(
                "the durability is the cluster's to choose, and it is {}",
                log.durability()
            ))),
            _ => Ok((log, None)),
        };
    }
    let in_memory = log == Some(Path::new("memory"));
    let durability = match (durability, in_memory, log) {
        (Some(Durability::Memory), false, Some(directory)) => {
            return Err(Failure::Refused(format!(
                "a log in {} is buffered or flushed; --durability memory needs --log memory",
                directory.display()
            )));
        }
        (Some(Durability::Buffered | Durability::Flushed), true, _) => {
            return Err(Failure::Refused(
                "a log in memory is neither buffered nor flushed; name a directory with --log".to_owned(),
            ));
        }
        (Some(Durability::Memory), _, _) | (None, true, _) => return Ok((Arc::new(MemoryLog::new()), None)),
        (Some(Durability::Buffered), ..) => shared_log::Durability::Buffered,
        (Some(Durability::Flushed) | None, ..) => shared_log::Durability::Flushed,
    };
    let config = file::Config { durability, ..keep.files() };
    match log {
        Some(directory) => Ok((Arc::new(FileLog::open(directory, config)?), None)),
        None => {
            let directory = TempDir::with_prefix("mixlog-")
                .map_err(|error| Failure::Io(format!("cannot make a temporary directory: {error}")))?;
            interrupt::remove_at_end(directory.path());
            Ok((Arc::new(FileLog::open(directory.path().join("log"), config)?), Some(directory)))
        }
    }
}
