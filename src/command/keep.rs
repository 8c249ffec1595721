//! `mixlog checkpoint` and `mixlog backup`: what is kept, and where.

use std::path::Path;
use std::sync::Arc;

use mixlog::Engine;
use mixlog::checkpoint::{self, CheckpointError};
use mixlog::log::{FileLog, SharedLog, file};

use super::arguments::{BackupOptions, CheckpointOptions, OnClusterOptions};
use super::cluster;
use super::failure::Failure;
use super::inspect::registered;
use super::run::{open_engine, print_to_stdout};
use super::say::say;

/// A log to go on with.
pub(super) fn open_existing(
    log: &Path,
    files: file::Config,
    on_cluster: &OnClusterOptions,
) -> Result<Arc<dyn SharedLog>, Failure> {
    if let Some(log) = cluster::named_log(Some(log), on_cluster)? {
        return Ok(log);
    }
    let config = file::Config { create: file::Create::Never, ..files };
    Ok(Arc::new(FileLog::open(log, config)?))
}

/// Says that there is no new checkpoint, to whoever believes in one.
pub(super) fn tell_of_failure(engine: &Engine) {
    if let Some(why) = engine.checkpoint_failure() {
        say(format_args!("no checkpoint could be taken, so the log is not trimmed: {why}"));
    }
}

/// Executes what is in a log, and keeps the state.
pub(crate) fn checkpoint(options: &CheckpointOptions) -> Result<(), Failure> {
    if cluster::named(&options.log).is_some() && options.on_cluster.beside.is_none() {
        return Err(Failure::Refused(
            "a cluster has no place for checkpoints: name a directory for them with --beside".to_owned(),
        ));
    }
    let log = open_existing(&options.log, file::Config::default(), &options.on_cluster)?;
    let Some(builder) = registered(&*log)? else {
        return Err(CheckpointError::Empty.into());
    };
    let builder = options.engine.apply(builder);
    let engine = open_engine(options.retain.apply(builder), Arc::clone(&log), "checkpoint")?;
    let taken = engine.checkpoint()?;
    let kept: Vec<_> = engine.checkpoints().iter().map(ToString::to_string).collect();
    let explained = options.engine.explained(|| engine.explain());
    engine.close()?;
    print_to_stdout(&format!(
        "position {}\nrows {}\nbytes {}\nhead {}\ncheckpoints {}\n{explained}",
        taken.position,
        taken.rows,
        taken.bytes,
        log.tail()?.head,
        kept.join(" ")
    ))
}

/// Copies a log.
pub(crate) fn backup(options: &BackupOptions) -> Result<(), Failure> {
    if cluster::named(&options.directory).is_some() {
        return Err(Failure::Refused(
            "a cluster is no directory to be copied: its chains keep every entry more than once".to_owned(),
        ));
    }
    let copied = checkpoint::backup(&options.directory, &options.to)?;
    let position = copied.checkpoint.map_or_else(|| "none".to_owned(), |position| position.to_string());
    print_to_stdout(&format!(
        "checkpoint {position}\nhead {}\ntail {}\nbytes {}\n",
        copied.head, copied.tail, copied.bytes
    ))
}
