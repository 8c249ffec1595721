//! Clients that stand still while the cluster changes, or are killed: `mixlog apply`, its answers, and what is in the log.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::ANYWHERE;
use crate::processes::{Cluster, PATIENCE, is_whole, joined, sequencer, until};
use crate::replicas::{lines_of, mixlog, says};

/// Who has answered nothing for so long waits for something. On a busy machine he may be about to answer, which shows less.
const WAITS: Duration = Duration::from_millis(100);

/// So many of its transactions wait to be answered, or to be taken note of.
const AHEAD: u64 = 500;

/// A process that applies transactions, as many as it takes, until it is to end.
struct Client {
    child: Child,
    over: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
    feeder: JoinHandle<()>,
    lines: Receiver<String>,
    answers: Vec<Answer>,
}

/// What a client was told: which of its transactions, where, and how many there were by then.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Answer {
    position: u64,
    id: String,
    count: u64,
}

impl Answer {
    /// `None` for a line that was cut off.
    fn read(line: &str) -> Option<Self> {
        let answer: Value = serde_json::from_str(line).ok()?;
        assert_eq!(answer["status"], "committed", "{line}");
        let number = |value: &Value| value.as_u64().expect("a number");
        let id = answer["id"].as_str().expect("an id").to_owned();
        Some(Self { position: number(&answer["position"][0]), id, count: number(&answer["results"][1]) })
    }
}

impl Client {
    /// Its transactions have ids that begin so. Each is a row, and is counted. No more than `most`.
    fn start(cluster: &Cluster, name: &str, most: u64) -> Self {
        // It may sleep for long.
        let patience = (4 * PATIENCE.as_secs()).to_string();
        let mut child = Command::new(env!("CARGO_BIN_EXE_mixlog"))
            .args(["apply", "--log", &cluster.name(), "--patience", &patience])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let lines = lines_of(child.stdout.take().expect("it is piped"));
        let mut stdin = child.stdin.take().expect("it is piped");
        let (over, taken, name) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), name.to_owned());
        let (is_over, answered) = (Arc::clone(&over), Arc::clone(&taken));
        let feeder = thread::spawn(move || {
            for number in 0..most {
                while number >= answered.load(Ordering::Relaxed) + AHEAD && !is_over.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(1));
                }
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let id = format!("{name}-{number}");
                let ops = format!(r#"[["put", "ids", "{id}", {number}], ["add", "count", "all", 1]]"#);
                if writeln!(stdin, r#"{{"id": "{id}", "ops": {ops}}}"#).is_err() {
                    // It was killed.
                    return;
                }
            }
        });
        Self { child, over, taken, feeder, lines, answers: Vec::new() }
    }

    fn signal(&self, signal: Signal) {
        let process = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(process, signal).expect("it is there");
    }

    fn takes(&mut self, line: &str) {
        self.answers.push(Answer::read(line).expect("a whole line"));
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until it has answered so many more.
    fn goes_on(&mut self, answers: usize) {
        for _ in 0..answers {
            let line = self.lines.recv_timeout(PATIENCE).expect("it goes on");
            self.takes(&line);
        }
    }

    /// Takes answers as long as they come.
    fn goes_on_until_it_waits(&mut self) {
        while let Ok(line) = self.lines.recv_timeout(WAITS) {
            self.takes(&line);
        }
    }

    /// All that it printed in the end, which comes when it is killed, or has nothing more to do.
    fn ends(mut self, succeeds: bool) -> Vec<Answer> {
        self.over.store(true, Ordering::Relaxed);
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.answers.extend(Answer::read(&line)),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end"),
            }
        }
        self.feeder.join().expect("it writes lines only");
        let ended = self.child.wait().expect("it is our child");
        assert_eq!(ended.success(), succeeds, "{ended}");
        self.answers
    }
}

/// What is in the log: the ids, and how many were counted.
fn dump(cluster: &Cluster) -> (BTreeMap<String, u64>, u64) {
    let (mut ids, mut count) = (BTreeMap::new(), 0);
    for line in says(mixlog(cluster, &["dump"])).lines() {
        let row: Value = serde_json::from_str(line).expect("JSON");
        let value = row["value"].as_u64().expect("a number");
        match row["table"].as_str() {
            Some("ids") => _ = ids.insert(row["key"].as_str().expect("a key").to_owned(), value),
            _ => count = value,
        }
    }
    (ids, count)
}

/// Everything that was answered is there, once, in the order of its positions.
fn assert_there(cluster: &Cluster, mut answers: Vec<Answer>) -> u64 {
    let (ids, count) = dump(cluster);
    assert_eq!(ids.len() as u64, count, "one is there twice, or half");
    for answer in &answers {
        let number = answer.id.rsplit('-').next().and_then(|number| number.parse().ok());
        assert_eq!(ids.get(&answer.id).copied(), number, "{answer:?} is lost");
    }
    answers.sort();
    for two in answers.windows(2) {
        assert!(two[0].position < two[1].position && two[0].count < two[1].count, "{two:?}");
    }
    assert!(answers.last().is_none_or(|last| last.count <= count), "{count}: {:?}", answers.last());
    count
}

pub(crate) fn that_sleep_through_epochs_answer_what_is_in_the_log(directory: &Path) {
    let cluster = Cluster::up(directory, &[ANYWHERE, &["--spares", "1"]].concat());
    let transport = cluster.transport();
    let mut sleeper = Client::start(&cluster, "sleeper", u64::MAX);
    let mut answers = Vec::new();
    for round in 1..=3 {
        sleeper.goes_on(300);
        let before = until(&transport, "before", is_whole);
        let (head, (number, _)) = (before.open().chains[0].units[0].unit.0, sequencer(&before));
        let unit = format!("unit {head}");
        cluster.signal(&unit, Signal::STOP);
        // What it writes there is not answered. Soon it waits, with positions in hand, and that is how it falls asleep.
        sleeper.goes_on_until_it_waits();
        sleeper.signal(Signal::STOP);
        until(&transport, "a unit stands still", |now| joined(now, head).is_none() && is_whole(now));
        cluster.signal(&format!("sequencer {number}"), Signal::STOP);
        until(&transport, "a sequencer stands still", |now| sequencer(now).0 != number && is_whole(now));
        // Others get its positions, or make junk of them.
        answers.extend(Client::start(&cluster, &format!("other-{round}"), 300).ends(true));
        sleeper.signal(Signal::CONT);
        sleeper.goes_on(300);
        cluster.signal(&unit, Signal::CONT);
        cluster.signal(&format!("sequencer {number}"), Signal::CONT);
        until(&transport, "they go on", is_whole);
    }
    answers.extend(sleeper.ends(true));
    let all = answers.len() as u64;
    assert_eq!(assert_there(&cluster, answers), all, "all were answered");
    println!("{all} answers");
}

pub(crate) fn that_are_killed_have_printed_nothing_that_is_lost(directory: &Path) {
    let cluster = Cluster::up(directory, ANYWHERE);
    let (mut answers, mut printed) = (Vec::new(), 0);
    for life in 0..4 {
        let mut client = Client::start(&cluster, &format!("life-{life}"), u64::MAX);
        client.goes_on(100 + 211 * life);
        client.signal(Signal::KILL);
        answers.extend(client.ends(false));
        printed = answers.len() as u64;
    }
    // It was at work: some were not answered.
    let count = assert_there(&cluster, answers);
    assert!(count >= printed, "{count} < {printed}");
    println!("{printed} answers of {count}");
}
