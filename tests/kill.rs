//! The real command, killed again and again (`kill -9`) while it takes checkpoints and trims its log: every acknowledged
//! transaction is there once, and none half.
//!
//! MIXLOG_KILLS=N: so many kills of each kind, instead of 250.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// A small generator of random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn kills() -> u64 {
    std::env::var("MIXLOG_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(250)
}

/// Small files and many checkpoints, so that a short life sees all of them.
fn mixlog(log: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixlog"));
    command.args(arguments).arg("--log").arg(log);
    command
}

const KEEP: [&str; 4] = ["--segment-bytes", "65536", "--checkpoint-bytes", "6000"];

fn output(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Ends a process at once, as `kill -9` does.
fn kill(child: &mut Child) {
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
}

/// Where the log starts, and what its directory of checkpoints holds.
fn head(log: &Path) -> u64 {
    let report = output(Command::new(env!("CARGO_BIN_EXE_mixlog")).args(["log", "verify"]).arg(log));
    let line = report.lines().find(|line| line.starts_with("head ")).expect("a line tells the head");
    line["head ".len()..].parse().expect("a position")
}

/// The position of the newest checkpoint beside a log, by the names that only those have which are whole.
fn newest_checkpoint(log: &Path) -> Option<u64> {
    let names = std::fs::read_dir(log.join("checkpoints")).ok()?;
    let names = names.map(|entry| entry.expect("a directory's entry").file_name());
    // The one that is being written, and the space for the next, have no number.
    names.filter_map(|name| u64::from_str_radix(name.to_str()?.strip_prefix("checkpoint-")?, 16).ok()).max()
}

/// Whether this one is killed right after a checkpoint, while it gives up what that makes superfluous, or at the next. The
/// more rows there are, the less often that happens by itself.
const fn after_a_checkpoint(round: u64) -> bool {
    round % 10 == 1
}

/// Waits until a process that is at work has taken a checkpoint.
fn wait_for_checkpoint(log: &Path, before: Option<u64>, child: &mut Child) {
    while newest_checkpoint(log) <= before {
        assert!(child.try_wait().expect("it is our child").is_none(), "it ended without a checkpoint");
        thread::sleep(Duration::from_micros(100));
    }
}

fn transaction(id: u64) -> String {
    format!(
        "{{\"id\":\"{id}\",\"ops\":[[\"add\",\"sum\",\"a\",{id}],[\"put\",\"ids\",\"{id}\",{id}],[\"add\",\"sum\",\"b\",{id}]]}}\n"
    )
}

/// What the store holds: the ids, and the two sums.
fn dump(log: &Path) -> (BTreeSet<u64>, [u64; 2]) {
    let (mut ids, mut sums) = (BTreeSet::new(), [0; 2]);
    for line in output(&mut mixlog(log, &["dump"])).lines() {
        let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let value = row["value"].as_u64().expect("a number");
        match (row["table"].as_str(), row["key"].as_str()) {
            (Some("ids"), Some(key)) => {
                assert_eq!(key.parse(), Ok(value));
                assert!(ids.insert(value));
            }
            (Some("sum"), Some("a")) => sums[0] = value,
            (Some("sum"), Some("b")) => sums[1] = value,
            other => panic!("{other:?}"),
        }
    }
    (ids, sums)
}

#[test]
fn apply_killed_again_and_again_keeps_every_acknowledged_transaction_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("store");
    let (mut random, mut answered, mut next) = (Random(1), BTreeSet::new(), 0u64);
    let (mut unanswered, mut rejected, mut at_work) = (BTreeSet::<u64>::new(), 0, 0);
    let mut took_some = 0;
    for round in 0..kills() {
        let before = newest_checkpoint(&log);
        let durability = if round % 2 == 0 { "buffered" } else { "flushed" };
        let threads = if round % 4 < 3 { "1" } else { "2" };
        let mut arguments = vec!["apply", "--durability", durability, "--threads", threads, "--window", "16"];
        arguments.extend(KEEP);
        let mut child = mixlog(&log, &arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        // What was not answered is sent again, and takes effect once. Some that were answered are, too.
        let mut sent: Vec<u64> = unanswered.iter().copied().collect();
        sent.extend(answered.iter().next_back());
        // More than it comes to answer, so that it dies at work.
        let fresh = next..next + 1200u64.saturating_sub(sent.len() as u64);
        next = fresh.end;
        sent.extend(fresh);
        let feeder = {
            let sent = sent.clone();
            thread::spawn(move || {
                for id in sent {
                    // The process may be gone.
                    if stdin.write_all(transaction(id).as_bytes()).is_err() {
                        return;
                    }
                }
                // Keeps it waiting for more.
                thread::park_timeout(Duration::from_secs(20));
            })
        };
        // Killed after some answers; that may be before the first, or in the middle of a checkpoint.
        let wanted = random.below(300) as usize;
        let mut answers = BufReader::new(stdout).lines();
        for id in sent.iter().take(wanted) {
            let line = answers.next().expect("an answer").expect("UTF-8");
            let answer: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!(answer["id"].as_str(), Some(id.to_string().as_str()));
            assert_eq!(answer["status"], "committed");
            answered.insert(*id);
        }
        if after_a_checkpoint(round) {
            wait_for_checkpoint(&log, before, &mut child);
        }
        thread::sleep(Duration::from_micros(random.below(1000)));
        kill(&mut child);
        took_some += u64::from(newest_checkpoint(&log) > before);
        // What it had written into the pipe was answered, too, if the line is whole.
        for line in answers {
            let Ok(line) = line else { break };
            let Ok(answer) = serde_json::from_str::<serde_json::Value>(&line) else { break };
            answered.insert(answer["id"].as_str().expect("an id").parse().expect("a number"));
        }
        feeder.thread().unpark();
        feeder.join().expect("it sends lines only");
        unanswered.extend(sent);
        unanswered.retain(|id| !answered.contains(id));
        at_work += u64::from(!unanswered.is_empty());
        let mut stderr = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut stderr).expect("UTF-8");
        rejected += usize::from(stderr.contains("cannot be used"));
        if round % 25 == 24 || round + 1 == kills() {
            let (ids, sums) = dump(&log);
            assert!(
                answered.is_subset(&ids),
                "round {round}: {:?} is lost",
                answered.difference(&ids).next()
            );
            let sum: u64 = ids.iter().sum();
            assert_eq!(sums, [sum; 2], "round {round}: a transaction is there twice, or half");
            // And one that ends as it should.
            output(&mut mixlog(&log, &["checkpoint"]));
        }
    }
    assert_eq!(rejected, 0, "no checkpoint gets its name before it is whole");
    assert!(head(&log) > 0, "the log was trimmed");
    assert!(took_some >= kills() / 10, "{took_some} were killed after a checkpoint of their own");
    assert!(at_work > kills() / 2, "it was killed at work {at_work} times");
    assert!(answered.len() as u64 > kills(), "{} answers", answered.len());
    println!(
        "{} kills, {at_work} at work, {took_some} after a checkpoint, {} answers, head {}",
        kills(),
        answered.len(),
        head(&log)
    );
}

#[test]
fn tpcc_killed_again_and_again_keeps_every_acknowledged_transaction_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("tpcc");
    let small = ["run", "tpcc", "--small", "--warehouses", "1", "--in-flight", "64"];
    let position = || {
        let text = output(&mut mixlog(&log, &["digest"]));
        let line = text.lines().next().expect("a line tells the position");
        line["position ".len()..].parse::<u64>().expect("a position")
    };
    output(mixlog(&log, &small).args(KEEP).args(["--transactions", "100", "--durability", "buffered"]));
    let (mut random, mut last, mut acknowledged) = (Random(2), position(), 0);
    let mut took_some = 0;
    for round in 0..kills() {
        let before = newest_checkpoint(&log);
        let durability = if round % 2 == 0 { "buffered" } else { "flushed" };
        let mut child = mixlog(&log, &small)
            .args(["--segment-bytes", "262144", "--checkpoint-bytes", "30000", "--durability", durability])
            .args(["--seed", &round.to_string(), "--progress", "2", "--seconds", "60"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        // Killed after so many lines about progress.
        let wanted = 1 + random.below(6);
        let (mut told, mut lines) = (0u64, 0);
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let count = |line: &str| {
            let count = line.strip_prefix("mixlog: ")?.strip_suffix(" acknowledged")?;
            count.parse::<u64>().ok()
        };
        while lines < wanted {
            let line = stderr.next().expect("it goes on").expect("UTF-8");
            assert!(!line.contains("damaged"), "{line}");
            if let Some(count) = count(&line) {
                (told, lines) = (count, lines + 1);
            }
        }
        if after_a_checkpoint(round) {
            wait_for_checkpoint(&log, before, &mut child);
        }
        thread::sleep(Duration::from_micros(random.below(2000)));
        kill(&mut child);
        took_some += u64::from(newest_checkpoint(&log) > before);
        told = stderr.map_while(Result::ok).filter_map(|line| count(&line)).last().unwrap_or(told);
        acknowledged += told;
        if round % 10 == 9 || round % 25 == 24 || round + 1 == kills() {
            let now = position();
            // Each transaction is one entry, and what is found is a prefix of the log: all of them are there, once.
            assert!(now >= last + acknowledged, "round {round}: {now} < {last} + {acknowledged}");
            (last, acknowledged) = (now, 0);
        }
        if round % 25 == 24 || round + 1 == kills() {
            // No half ones: all conditions hold, over rows that were rebuilt from a checkpoint and the log.
            output(mixlog(&log, &small).args(["--transactions", "1", "--durability", "buffered"]).args(KEEP));
            last = position();
        }
    }
    assert!(head(&log) > 0, "the log was trimmed");
    assert!(took_some >= kills() / 10, "{took_some} were killed after a checkpoint of their own");
    println!("{} kills, {took_some} after a checkpoint", kills());
}
