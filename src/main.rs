//! The `mixlog` command: run workloads, replay logs, look into them.
#![forbid(unsafe_code)]
// They panic where nobody reads: `say`, and `print_to_stdout`.
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod command;

use std::process::ExitCode;

/// A library leaves the allocator to its user; here the user is this program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    command::main()
}
