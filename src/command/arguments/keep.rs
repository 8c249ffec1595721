//! What the command line may say about checkpoints, and about the files of a log.

use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use mixlog::checkpoint;
use mixlog::log::file;

use super::{OnClusterOptions, Place, seconds};
use crate::command::failure::Failure;
use crate::command::say::say;

/// Longer than most checkpoints take, which are waited for however long it is.
const WAIT_FOR_SPACE: Duration = Duration::from_secs(10);

/// How much is kept when a checkpoint was taken.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Checkpoints and files")]
pub(crate) struct RetainOptions {
    /// Keep so many checkpoints, and the log from the oldest of them on [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) keep_checkpoints: Option<u32>,
    /// Keep the log from its start: every state of the past can be rebuilt
    #[arg(long)]
    pub(crate) keep_log: bool,
}

impl RetainOptions {
    fn config(self) -> checkpoint::Config {
        let default = checkpoint::Config::default();
        let keep = self.keep_checkpoints.map_or(default.keep, |keep| keep as usize);
        checkpoint::Config { keep, trim: !self.keep_log, ..default }
    }

    /// For whoever takes a checkpoint when told to, and no others.
    pub(crate) fn apply(self, builder: mixlog::Builder) -> mixlog::Builder {
        builder.checkpoints(checkpoint::Config { every_bytes: None, every: None, ..self.config() })
    }
}

/// What becomes of the log, and of the state before it.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Checkpoints and files")]
pub(crate) struct KeepOptions {
    /// Take a checkpoint for every so many bytes of log, 0 for never [default: 268435456]
    #[arg(long, value_name = "BYTES")]
    pub(crate) checkpoint_bytes: Option<u64>,
    /// Take a checkpoint every so many seconds, too
    #[arg(long, value_name = "S", value_parser = seconds, allow_hyphen_values = true)]
    pub(crate) checkpoint_seconds: Option<f64>,
    #[command(flatten)]
    pub(crate) retain: RetainOptions,
    /// Length of new files of the log, at least 65536: what trimming gives back at a time. A transaction has at most half
    /// of that, less 4096, and never more than 4 MiB [default: 67108864]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(64 << 10..1 << 40))]
    pub(crate) segment_bytes: Option<u64>,
    /// Refuse transactions while the process uses more memory than that, 0 for no limit [default: 0]
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_memory: Option<u64>,
    /// How long transactions wait for space on a full disk, which a checkpoint may give back, before they are refused;
    /// 0 for not at all [default: 10]
    #[arg(long, value_name = "S", value_parser = seconds, allow_hyphen_values = true)]
    pub(crate) wait_for_space: Option<f64>,
}

/// Says it once a minute: a log that lives on a small disk for long waits often.
fn tell_of_full_disk() -> impl Fn(&io::Error) + Send + Sync + 'static {
    const AGAIN: Duration = Duration::from_secs(60);
    let said: Mutex<Option<Instant>> = Mutex::default();
    move |full| {
        let mut said = said.lock().expect("no panic while telling");
        if said.is_none_or(|said| said.elapsed() >= AGAIN) {
            say(format_args!("the log cannot grow, waiting for a checkpoint to free space: {full}"));
            *said = Some(Instant::now());
        }
    }
}

impl KeepOptions {
    pub(crate) fn apply(&self, builder: mixlog::Builder) -> mixlog::Builder {
        let default = checkpoint::Config::default();
        let config = checkpoint::Config {
            every_bytes: self.checkpoint_bytes.or(default.every_bytes).filter(|&bytes| bytes > 0),
            every: self.every(),
            ..self.retain.config()
        };
        builder
            .checkpoints(config)
            .max_memory(self.max_memory.unwrap_or(0))
            .wait_for_space(self.wait_for_space.map_or(WAIT_FOR_SPACE, Duration::from_secs_f64))
            .on_full(tell_of_full_disk())
    }

    fn every(&self) -> Option<Duration> {
        self.checkpoint_seconds.map(Duration::from_secs_f64)
    }

    /// The options about checkpoints that were given, the first of them.
    fn about_checkpoints(&self) -> Option<&'static str> {
        let options = [
            ("--checkpoint-bytes", self.checkpoint_bytes.is_some()),
            ("--checkpoint-seconds", self.checkpoint_seconds.is_some()),
            ("--keep-checkpoints", self.retain.keep_checkpoints.is_some()),
            ("--keep-log", self.retain.keep_log),
        ];
        options.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }

    /// Refuses what means nothing for a log at that place.
    pub(crate) fn refuse_in_vain(&self, place: Place, on_cluster: &OnClusterOptions) -> Result<(), Failure> {
        let refuse = |text: String| Err(Failure::Refused(text));
        let segments = self.segment_bytes.map(|_| "--segment-bytes");
        if !matches!(place, Place::Directory) && self.wait_for_space.is_some() {
            return refuse(
                "--wait-for-space is for logs in files, whose disk a checkpoint may give space back to"
                    .to_owned(),
            );
        }
        match (place, self.about_checkpoints()) {
            (Place::Cluster, Some(name)) if on_cluster.beside.is_none() => refuse(format!(
                "{name} needs --beside DIR here: a cluster has no place for checkpoints, and none are taken without one"
            )),
            (Place::Memory, name) if name.or(segments).is_some() => refuse(format!(
                "{} does not go with a log in memory, which has no files and no checkpoints",
                name.or(segments).unwrap_or_default()
            )),
            (Place::Cluster, _) if segments.is_some() => refuse(
                "--segment-bytes does not go with a log on a cluster: its units keep the log, each in files of its own"
                    .to_owned(),
            ),
            _ if self.checkpoint_bytes == Some(0)
                && self.checkpoint_seconds.is_none()
                && self.retain.keep_checkpoints.is_some() =>
            {
                refuse(
                    "--keep-checkpoints does not go with --checkpoint-bytes 0, with which none are taken; give \
                     --checkpoint-seconds, too"
                        .to_owned(),
                )
            }
            _ => Ok(()),
        }
    }

    /// Refuses what means nothing to an engine that only follows: it takes no checkpoints.
    pub(crate) fn refuse_to_follower(&self) -> Result<(), Failure> {
        match self.about_checkpoints() {
            Some(name) => Err(Failure::Refused(format!(
                "{name} does not go with --member: such a replica takes no checkpoints, it starts from the newest one \
                 below its --beside DIR. Give {name} to mixlog run or apply, which take them with --beside DIR, or to \
                 mixlog checkpoint"
            ))),
            None => Ok(()),
        }
    }

    /// Refuses limits where there is nothing to be refused.
    pub(crate) fn refuse_limits(&self) -> Result<(), Failure> {
        let limits = [
            ("--max-memory", self.max_memory.is_some()),
            ("--wait-for-space", self.wait_for_space.is_some()),
        ];
        match limits.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(Failure::Refused(format!(
                "{name} does not go with replicas: they take no transactions that they could refuse; give it to mixlog \
                 run or apply"
            ))),
            None => Ok(()),
        }
    }

    /// How the files of the log are made.
    pub(crate) fn files(&self) -> file::Config {
        let default = file::Config::default();
        let segment_bytes = self.segment_bytes.unwrap_or(default.segment_bytes);
        let max_batch_bytes = ((segment_bytes - 8192) / 2).min(default.max_batch_bytes as u64) as usize;
        file::Config { segment_bytes, max_batch_bytes, ..default }
    }
}
