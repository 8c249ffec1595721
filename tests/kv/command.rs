//! The command, run as its users run it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixlog"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Runs the command with this on stdin.
pub(crate) fn run_with(arguments: &[&str], stdin: Vec<u8>) -> Output {
    let mut child = command(arguments).spawn().expect("the command starts");
    let mut pipe = child.stdin.take().expect("it is piped");
    // A command that fails hangs up.
    let writer = thread::spawn(move || drop(pipe.write_all(&stdin)));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("no panic");
    output
}

/// Exit code, stdout, stderr.
pub(crate) fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = run_with(arguments, Vec::new());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("it was not killed"), text(output.stdout), text(output.stderr))
}

pub(crate) fn refused(code: i32, arguments: &[&str], says: &str) {
    let (found, stdout, stderr) = run(arguments);
    assert_eq!(found, code, "{arguments:?}: {stderr}{stdout}");
    assert!(stderr.contains(says), "{arguments:?} says {stderr:?}, and not {says:?}");
}

pub(crate) fn parse(lines: &[u8]) -> Vec<Value> {
    let lines = std::str::from_utf8(lines).expect("answers are UTF-8");
    lines.lines().map(|line| serde_json::from_str(line).expect("answers are JSON")).collect()
}

pub(crate) fn apply_arguments<'a>(log: &'a Path, options: &[&'a str]) -> Vec<&'a str> {
    [&["apply", "--log", path(log), "--durability", "buffered"], options].concat()
}

/// Applies the lines, and gives the answers.
pub(crate) fn apply_bytes(log: &Path, options: &[&str], stdin: Vec<u8>) -> Vec<Value> {
    let output = run_with(&apply_arguments(log, options), stdin);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    parse(&output.stdout)
}

pub(crate) fn lines(requests: &[Value]) -> Vec<u8> {
    requests.iter().flat_map(|request| format!("{request}\n").into_bytes()).collect()
}

pub(crate) fn apply(log: &Path, options: &[&str], requests: &[Value]) -> Vec<Value> {
    let answers = apply_bytes(log, options, lines(requests));
    assert_eq!(answers.len(), requests.len(), "one answer a line");
    answers
}

/// What a command prints that succeeds and has nothing to say but, on a busy machine, how long it took.
fn silently(arguments: &[&str]) -> String {
    let (code, stdout, stderr) = run(arguments);
    let said: Vec<_> = stderr.lines().filter(|line| !line.starts_with("mixlog: recovered in ")).collect();
    assert_eq!((code, said), (0, vec![]));
    stdout
}

pub(crate) fn dump(log: &Path, options: &[&str]) -> String {
    silently(&[&["dump", "--log", path(log)], options].concat())
}

pub(crate) fn digest(log: &Path, options: &[&str]) -> String {
    silently(&[&["digest", "--log", path(log)], options].concat())
}

pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

/// A child with lines going in and lines coming out.
pub(crate) struct Session {
    pub(crate) child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) answers: mpsc::Receiver<String>,
}

impl Session {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = command(arguments).stderr(Stdio::null()).spawn().expect("the command starts");
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            // What a killed process printed half is no line.
            while stdout.read_line(&mut line).is_ok_and(|bytes| bytes > 0) && line.ends_with('\n') {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    return;
                }
            }
        });
        Self { child, stdin, answers }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("it is open");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("the command reads");
    }

    pub(crate) fn answer(&self) -> Value {
        let line =
            self.answers.recv_timeout(Duration::from_secs(60)).expect("an answer comes without more input");
        serde_json::from_str(&line).expect("JSON")
    }
}
