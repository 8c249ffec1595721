//! The command, run as its users run it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixlog"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Exit code, stdout, stderr.
pub(crate) fn ends(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("it was not killed"), text(&output.stdout), text(&output.stderr))
}

pub(crate) fn run(arguments: &[&str]) -> (i32, String, String) {
    ends(&command(arguments).output().expect("the command starts"))
}

/// This exit code, and a line that says so.
pub(crate) fn refused(code: i32, arguments: &[&str], says: &str) {
    let (found, stdout, stderr) = run(arguments);
    assert_eq!(found, code, "{arguments:?}: {stderr}{stdout}");
    assert!(stderr.contains(says), "{arguments:?} says {stderr:?}, and not {says:?}");
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
