//! What Ctrl-C and SIGTERM do to a run.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A run that takes for ever, with its log in a temporary directory below the one given.
fn start(directory: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixlog"));
    command.args(["run", "--durability", "buffered"]).args(arguments).env("TMPDIR", directory);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
}

fn send(child: &Child, signal: Signal) {
    let process = Pid::from_child(child);
    kill_process(process, signal).expect("it is there");
}

/// Reads what it says until a line has this in it.
fn wait_for(lines: &mut impl BufRead, what: &str) {
    let mut line = String::new();
    while !line.contains(what) {
        line.clear();
        assert!(lines.read_line(&mut line).expect("it can be read") > 0, "it ended before it said {what:?}");
    }
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).expect("it is there").count()
}

#[test]
fn a_run_that_is_interrupted_reports_what_was_done_and_ends_by_the_signal() {
    for signal in [Signal::INT, Signal::TERM] {
        let directory = tempfile::tempdir().expect("a directory");
        let arguments =
            ["transfer", "--seconds", "1000", "--accounts", "100", "--clients", "2", "--progress", "50"];
        let mut child = start(directory.path(), &arguments);
        let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        wait_for(&mut stderr, "acknowledged");
        assert_eq!(entries(directory.path()), 1);
        send(&child, signal);
        wait_for(&mut stderr, "ending early; once more to end at once");
        let (mut stdout, mut rest) = (String::new(), String::new());
        child.stdout.take().expect("it is piped").read_to_string(&mut stdout).expect("UTF-8");
        stderr.read_to_string(&mut rest).expect("UTF-8");
        let status = child.wait().expect("it is our child");
        assert_eq!(status.signal(), Some(signal.as_raw()), "{status}: {rest}");
        for part in ["digest ", "(against acknowledgements)", "ok   outcomes"] {
            assert!(stdout.contains(part), "no {part} in {stdout}");
        }
        assert_eq!(entries(directory.path()), 0);
    }
}

#[test]
fn a_run_that_is_not_under_way_ends_at_once_and_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut child = start(directory.path(), &["ycsb-a", "--records", "100000000", "--value-size", "100"]);
    while entries(directory.path()) == 0 {
        assert!(child.try_wait().expect("it is our child").is_none(), "it ended");
        std::thread::yield_now();
    }
    let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
    wait_for(&mut stderr, "ycsb-a");
    send(&child, Signal::INT);
    let mut stdout = String::new();
    child.stdout.take().expect("it is piped").read_to_string(&mut stdout).expect("UTF-8");
    assert_eq!(child.wait().expect("it is our child").signal(), Some(Signal::INT.as_raw()));
    assert_eq!((stdout.as_str(), entries(directory.path())), ("", 0));
}
