//! Replicas in processes of their own, which follow one log on a cluster and vote through it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use mixlog::WINDOW_GRID;
use rustix::process::{Pid, Signal, kill_process};

use crate::processes::{Cluster, PATIENCE};

const MEMBERS: [&str; 2] = ["--members", "a,b,c"];

/// A replica's process, and what it prints; ended when dropped.
struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn start(cluster: &Cluster, member: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mixlog"))
            .args(["replica", "--log", &cluster.name(), "--member", member])
            .args(MEMBERS)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// Waits until it says that all members agree on a position from `from` on, and returns that position.
    fn agrees(&self, from: u64) -> u64 {
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

fn mixlog(cluster: &Cluster, arguments: &[&str]) -> Output {
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

fn says(output: Output) -> String {
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
    let mut child = Command::new(env!("CARGO_BIN_EXE_mixlog"))
        .args(["apply", "--log", &cluster.name(), "--member", "a", "--agree", "2"])
        .args(MEMBERS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let (mut stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let (sender, answers) = mpsc::channel();
    thread::spawn(move || {
        BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    writeln!(stdin, r#"{{"id": "1", "ops": [["add", "t", "k", 1]]}}"#).expect("it reads");
    // Committed, as anybody can see, and not answered: nobody agrees.
    while !says(mixlog(cluster, &["dump"])).contains(r#""value":1"#) {}
    assert!(answers.try_recv().is_err());
    let b = Follower::start(cluster, "b");
    let answer = answers.recv_timeout(PATIENCE).expect("two agree");
    assert!(answer.contains(r#""status":"committed""#), "{answer}");
    // No busy log brings the next vote: it is asked for.
    writeln!(stdin, r#"{{"id": "2", "ops": [["add", "t", "k", 1]]}}"#).expect("it reads");
    let answer = answers.recv_timeout(PATIENCE).expect("two agree");
    assert!(answer.contains(r#""results":[2]"#), "{answer}");
    drop(stdin);
    assert!(child.wait().expect("it is our child").success());
    drop(b);
}
