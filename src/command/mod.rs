//! The command line, from arguments to exit codes.

mod agree;
mod apply;
mod arguments;
mod cluster;
mod failure;
mod in_flight;
mod inspect;
mod interrupt;
mod keep;
mod replica;
mod role;
mod run;
mod say;
mod unread;
mod up;
mod workload;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use signal_hook::consts::SIGXFSZ;

use arguments::{Arguments, ClusterCommand, Command, LogCommand};

/// Does what the command line says. Everything that goes wrong ends up here, as one line and an exit code.
pub(crate) fn main() -> ExitCode {
    // clap prints help and usage errors itself, and exits with 0 and 2.
    let arguments = Arguments::parse();
    // A file that may not grow is an error of whoever writes it, and not the end of the process.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    let result = match &arguments.command {
        Command::Run(options) => run::run(options),
        Command::Apply(options) => apply::apply(options),
        Command::Dump(options) => inspect::dump_state(options),
        Command::Digest(options) => inspect::digest(options),
        Command::Replay(options) => inspect::replay(options),
        Command::Checkpoint(options) => keep::checkpoint(options),
        Command::Replica(options) => replica::replica(options),
        Command::Backup(options) => keep::backup(options),
        Command::Log(LogCommand::Dump(options)) => inspect::dump_entries(options),
        Command::Log(LogCommand::Verify { directory }) => inspect::verify(directory),
        Command::Unit(options) => role::unit(options),
        Command::Sequencer(options) => role::sequencer(options),
        Command::Projections(options) => role::projections(options),
        Command::Cluster(ClusterCommand::Up(options)) => up::up(options),
        Command::Cluster(command) => cluster::run(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say::say(&failure);
            failure.exit_code()
        }
    }
}
