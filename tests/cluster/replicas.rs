//! Replicas in processes of their own, which follow one log on a cluster and vote through it.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;

use mixlog::WINDOW_GRID;
use rustix::process::{Pid, Signal, kill_process};

use crate::processes::{Cluster, PATIENCE};

pub(crate) const MEMBERS: [&str; 2] = ["--members", "a,b,c"];

/// A replica's process, and what it prints; ended when dropped.
pub(crate) struct Follower {
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

/// The lines of a pipe, as they come.
pub(crate) fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    let pipe = BufReader::new(pipe);
    thread::spawn(move || pipe.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    lines
}

/// What a process says on stderr until it has ended, which it must.
fn until_it_ends(child: &mut Child, errors: &Receiver<String>) -> (Option<i32>, String) {
    let mut said = String::new();
    loop {
        match errors.recv_timeout(PATIENCE) {
            Ok(line) => said.push_str(&(line + "\n")),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("it does not end: {said}"),
        }
    }
    (child.wait().expect("it is our child").code(), said)
}

impl Follower {
    pub(crate) fn start(cluster: &Cluster, member: &str) -> Self {
        Self::start_with(cluster, member, &[])
    }

    pub(crate) fn start_with(cluster: &Cluster, member: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mixlog"))
            .args(["replica", "--log", &cluster.name(), "--member", member])
            .args(MEMBERS)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let lines = lines_of(child.stdout.take().expect("it is piped"));
        let errors = lines_of(child.stderr.take().expect("it is piped"));
        Self { child, lines, errors }
    }

    /// Waits until it prints a line as it is wanted.
    pub(crate) fn prints(&self, what: &str, is: impl Fn(&str) -> bool) -> String {
        let mut others = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if is(&line) => return line,
                Ok(line) => others.push(line),
                Err(_) => {
                    let errors: Vec<_> = self.errors.try_iter().collect();
                    panic!("it does not print {what}, but {others:#?}, and says {errors:#?}");
                }
            }
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let process = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(process, signal).expect("it is there");
    }

    /// Waits until it says that it has executed a position.
    pub(crate) fn reaches(&self, position: u64) {
        let reached = |line: &str| {
            let executed = line.strip_prefix("position ").and_then(|rest| rest.split(' ').next());
            executed.and_then(|executed| executed.parse().ok()) >= Some(position)
        };
        self.prints(&format!("position {position}"), reached);
    }

    /// What it has said on stderr since it was asked last.
    pub(crate) fn said(&self) -> String {
        self.errors.try_iter().map(|line| line + "\n").collect()
    }

    /// Waits until it has ended by itself: its exit code, and what it said on stderr.
    pub(crate) fn ends(mut self) -> (Option<i32>, String) {
        until_it_ends(&mut self.child, &self.errors)
    }

    /// Waits until it says that all members agree on a position from `from` on, and returns that position.
    pub(crate) fn agrees(&self, from: u64) -> u64 {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).expect("it says how far it is");
            assert!(line.starts_with("position "), "nothing is to be repaired: {line}");
            let agreed = line.split_once(" agreed ").and_then(|(_, rest)| rest.split(' ').next());
            match agreed.expect("it says so").parse() {
                Ok(position) if position >= from => return position,
                _ => {}
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A writer's process, member a, whose answers wait for others; ended when dropped.
pub(crate) struct Writer {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
    errors: Receiver<String>,
}

impl Writer {
    pub(crate) fn start(cluster: &Cluster, agree: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mixlog"))
            .args(["apply", "--log", &cluster.name(), "--member", "a", "--agree", agree])
            .args(MEMBERS)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let answers = lines_of(child.stdout.take().expect("it is piped"));
        let errors = lines_of(child.stderr.take().expect("it is piped"));
        Self { stdin: child.stdin.take().expect("it is piped"), child, answers, errors }
    }

    pub(crate) fn asks(&mut self, transaction: &str) {
        writeln!(self.stdin, "{transaction}").expect("it reads");
    }

    /// The next answer.
    pub(crate) fn answer(&self) -> String {
        self.answers.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let errors: Vec<_> = self.errors.try_iter().collect();
            panic!("it gives no answer, and says {errors:#?}");
        })
    }

    /// Waits until it says so on stderr.
    pub(crate) fn says(&self, what: &str) {
        let said = || self.errors.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it does not say {what}"));
        while !said().contains(what) {}
    }

    /// An answer that is there.
    pub(crate) fn try_answer(&self) -> Option<String> {
        self.answers.try_recv().ok()
    }

    /// Waits until it has ended, since it was asked for all or by itself: its exit code, the answers that were not taken,
    /// and what it said on stderr.
    pub(crate) fn ends(self) -> (Option<i32>, Vec<String>, String) {
        let Self { mut child, stdin, answers, errors } = self;
        drop(stdin);
        let (code, said) = until_it_ends(&mut child, &errors);
        (code, answers.iter().collect(), said)
    }
}

pub(crate) fn mixlog(cluster: &Cluster, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixlog"));
    command.args(arguments).args(["--log", &cluster.name()]).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(command.spawn().expect("the command starts"))
}

/// What the process prints. One that waits for members who never agree is ended, and fails the test.
fn finish(child: Child) -> Output {
    let process = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process");
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let output = ended.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        kill_process(process, Signal::KILL).expect("it is there");
        panic!("it does not end");
    });
    output.expect("it is our child")
}

pub(crate) fn says(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A run of TPC-C that ends when all three members agree on it.
fn run(cluster: &Cluster) {
    let run = ["run", "tpcc", "--small", "--warehouses", "1", "--transactions", "6000"];
    let report = says(mixlog(cluster, &[&run[..], &MEMBERS, &["--member", "a", "--agree", "3"]].concat()));
    assert!(report.contains("ok   P2"), "{report}");
}

pub(crate) fn agree_with_a_run_though_one_is_killed(cluster: &Cluster) {
    // They are there before the log has an entry.
    let (b, c) = (Follower::start(cluster, "b"), Follower::start(cluster, "c"));
    run(cluster);
    let first = b.agrees(4095);
    c.agrees(4095);
    // Killed as by `kill -9`, and started again, it votes again: the run would wait for ever otherwise.
    drop(c);
    let c = Follower::start(cluster, "c");
    run(cluster);
    assert!(b.agrees(first + 6000) > first);
    c.agrees(first + 6000);
    drop((b, c));
    // Alone it says what it waits for, and gives up where it is told to.
    let alone = ["replica", "--member", "b", "--once", "--within", "3.5"];
    let alone = mixlog(cluster, &[&alone[..], &MEMBERS].concat());
    let said = String::from_utf8_lossy(&alone.stderr);
    assert_eq!(alone.status.code(), Some(4), "{said}");
    for text in
        ["waiting for all of a, b, c to agree on position ", "given up after 3.5 s: not all of a, b, c agree"]
    {
        assert!(said.contains(text), "{said}");
    }
    // The others come when it has asked for their votes already.
    let tail = cluster.log().tail().unwrap().tail;
    let padded = mixlog::Position((tail.0 / WINDOW_GRID + 1) * WINDOW_GRID - 1);
    let mut once = Command::new(env!("CARGO_BIN_EXE_mixlog"));
    once.args(["replica", "--member", "b", "--once", "--log", &cluster.name()]).args(MEMBERS);
    let once = once.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    assert!(cluster.log().wait_past(padded, Some(PATIENCE)).expect("it can be read").tail > padded);
    let others = ["a", "c"].map(|member| Follower::start(cluster, member));
    let text = says(finish(once));
    let digest = |text: &str| text.lines().last().and_then(|line| line.rsplit(' ').next().map(str::to_owned));
    assert_eq!(digest(&text), digest(&says(mixlog(cluster, &["digest"]))));
    drop(others);
}

pub(crate) fn keep_answers_back_until_they_agree(cluster: &Cluster) {
    let mut writer = Writer::start(cluster, "2", &[]);
    writer.asks(r#"{"id": "1", "ops": [["add", "t", "k", 1]]}"#);
    // Committed, as anybody can see, and not answered: nobody agrees.
    while !says(mixlog(cluster, &["dump"])).contains(r#""value":1"#) {}
    assert_eq!(writer.try_answer(), None);
    // Where no terminal shows how long it waits, it says once what for.
    writer.says("waiting for 2 of a, b, c to agree on position ");
    let b = Follower::start(cluster, "b");
    let answer = writer.answer();
    assert!(answer.contains(r#""status":"committed""#), "{answer}");
    // No busy log brings the next vote: it is asked for.
    writer.asks(r#"{"id": "2", "ops": [["add", "t", "k", 1]]}"#);
    let answer = writer.answer();
    assert!(answer.contains(r#""results":[2]"#), "{answer}");
    let (code, answers, said) = writer.ends();
    assert!(code == Some(0) && answers.is_empty() && !said.contains("waiting"), "{said}");
    drop(b);
}
