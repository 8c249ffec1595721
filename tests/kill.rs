//! The real command, killed again and again (`kill -9`), with checkpoints and trims going on and without: every
//! acknowledged transaction is there once, and none half.
//!
//! MIXLOG_KILLS=N: so many kills of each of the two commands, instead of 420. Two fifths of them are without checkpoints.

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
    std::env::var("MIXLOG_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(420)
}

fn mixlog(log: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixlog"));
    command.args(arguments).arg("--log").arg(log);
    command
}

/// What becomes of the log meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    /// There are checkpoints all the time, which trim it.
    Checkpoints,
    /// It is all there is. After so many kills there is another one, or going through it would take the most time.
    Log { kills: u64 },
}

impl Keep {
    fn kills(self) -> u64 {
        match self {
            Self::Checkpoints => kills() - kills() * 2 / 5,
            Self::Log { .. } => kills() * 2 / 5,
        }
    }

    /// Small files and many checkpoints, so that a short life sees all of them.
    const fn apply(self) -> [&'static str; 4] {
        match self {
            Self::Checkpoints => ["--segment-bytes", "65536", "--checkpoint-bytes", "6000"],
            Self::Log { .. } => ["--segment-bytes", "65536", "--checkpoint-bytes", "0"],
        }
    }

    const fn tpcc(self) -> [&'static str; 4] {
        match self {
            Self::Checkpoints => ["--segment-bytes", "262144", "--checkpoint-bytes", "30000"],
            Self::Log { .. } => ["--segment-bytes", "262144", "--checkpoint-bytes", "0"],
        }
    }

    /// How many kills each log outlives, the last one perhaps less.
    fn logs(self) -> Vec<u64> {
        let (kills, each) = match self {
            Self::Checkpoints => (self.kills(), self.kills()),
            Self::Log { kills } => (self.kills(), kills),
        };
        (0..kills).step_by(each.max(1) as usize).map(|first| each.min(kills - first)).collect()
    }

    /// Whether this one is killed right after a checkpoint, while it gives up what that makes superfluous, or at the next.
    /// The more rows there are, the less often that happens by itself.
    fn dies_after_a_checkpoint(self, round: u64) -> bool {
        self == Self::Checkpoints && round % 10 == 1
    }

    /// It was trimmed, or not.
    fn assert_head(self, log: &Path) {
        let head = head(log);
        assert_eq!(head > 0, self == Self::Checkpoints, "{self:?}: it starts at {head}");
    }
}

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

/// How kills went, to see that the tests reach what they are for.
#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    /// With transactions that were not answered.
    at_work: u64,
    /// After a checkpoint of the killed one's own.
    after_a_checkpoint: u64,
    answers: u64,
}

impl Tally {
    fn assert_reached(&self, keep: Keep) {
        println!("{keep:?}: {self:?}");
        let Self { kills, after_a_checkpoint, .. } = *self;
        match keep {
            Keep::Checkpoints => assert!(after_a_checkpoint >= kills / 10, "{self:?}"),
            Keep::Log { .. } => assert_eq!(after_a_checkpoint, 0),
        }
    }
}

fn apply_killed(keep: Keep) {
    let mut tally = Tally::default();
    for (seed, kills) in (1..).zip(keep.logs()) {
        kill_apply(keep, kills, seed, &mut tally);
    }
    tally.assert_reached(keep);
    assert!(tally.at_work > tally.kills / 2 && tally.answers > tally.kills, "{tally:?}");
}

/// One log, and so many lives.
fn kill_apply(keep: Keep, kills: u64, seed: u64, tally: &mut Tally) {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("store");
    let (mut random, mut answered, mut next) = (Random(seed), BTreeSet::new(), 0u64);
    let (mut unanswered, mut rejected) = (BTreeSet::<u64>::new(), 0);
    for round in 0..kills {
        let before = newest_checkpoint(&log);
        let durability = if round % 2 == 0 { "buffered" } else { "flushed" };
        let threads = if round % 4 < 3 { "1" } else { "2" };
        let mut arguments = vec!["apply", "--durability", durability, "--threads", threads, "--window", "16"];
        arguments.extend(keep.apply());
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
        if keep.dies_after_a_checkpoint(round) {
            wait_for_checkpoint(&log, before, &mut child);
        }
        thread::sleep(Duration::from_micros(random.below(1000)));
        kill(&mut child);
        tally.kills += 1;
        tally.after_a_checkpoint += u64::from(newest_checkpoint(&log) > before);
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
        tally.at_work += u64::from(!unanswered.is_empty());
        let mut stderr = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut stderr).expect("UTF-8");
        rejected += usize::from(stderr.contains("cannot be used"));
        if round % 25 == 24 || round + 1 == kills {
            let (ids, sums) = dump(&log);
            assert!(
                answered.is_subset(&ids),
                "round {round}: {:?} is lost",
                answered.difference(&ids).next()
            );
            let sum: u64 = ids.iter().sum();
            assert_eq!(sums, [sum; 2], "round {round}: a transaction is there twice, or half");
            if keep == Keep::Checkpoints {
                // And one that ends as it should.
                output(&mut mixlog(&log, &["checkpoint"]));
            }
        }
    }
    assert_eq!(rejected, 0, "no checkpoint gets its name before it is whole");
    keep.assert_head(&log);
    tally.answers += answered.len() as u64;
}

#[test]
fn apply_killed_again_and_again_keeps_every_acknowledged_transaction_once() {
    apply_killed(Keep::Checkpoints);
}

#[test]
fn apply_killed_again_and_again_without_checkpoints_keeps_every_acknowledged_transaction_once() {
    apply_killed(Keep::Log { kills: 50 });
}

fn tpcc_killed(keep: Keep) {
    let mut tally = Tally::default();
    for (seed, kills) in (2..).zip(keep.logs()) {
        kill_tpcc(keep, kills, seed, &mut tally);
    }
    tally.assert_reached(keep);
}

/// How many were acknowledged, and up to which position, as `--progress` says it.
fn acknowledged(line: &str) -> Option<(u64, Option<u64>)> {
    let (count, upto) = line.strip_prefix("mixlog: ")?.split_once(" acknowledged")?;
    let position =
        upto.strip_prefix(", up to position ").map(|position| position.parse().expect("a position"));
    Some((count.parse().ok()?, position))
}

/// The last position that there is.
fn last_position(log: &Path) -> u64 {
    let text = output(&mut mixlog(log, &["digest"]));
    let line = text.lines().next().expect("a line tells the position");
    line["position ".len()..].parse().expect("a position")
}

/// One log, and so many lives.
fn kill_tpcc(keep: Keep, kills: u64, seed: u64, tally: &mut Tally) {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("tpcc");
    let small = ["run", "tpcc", "--small", "--warehouses", "1"];
    let whole = |transactions: &str| {
        let few = ["--transactions", transactions, "--in-flight", "64", "--durability", "buffered"];
        output(mixlog(&log, &small).args(keep.apply()).args(few));
    };
    whole("100");
    let (mut random, mut last) = (Random(seed), last_position(&log));
    for round in 0..kills {
        let before = newest_checkpoint(&log);
        let durability = if round % 2 == 0 { "buffered" } else { "flushed" };
        // The fewer are in flight, the fewer can be lost without being missed.
        let in_flight = if round % 4 < 2 { "2" } else { "64" };
        let mut child = mixlog(&log, &small)
            .args(keep.tpcc())
            .args(["--durability", durability, "--in-flight", in_flight])
            .args(["--seed", &round.to_string(), "--progress", "1", "--seconds", "60"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        // Killed after so many lines about progress.
        let wanted = 1 + random.below(6);
        let (mut told, mut lines) = ((0, None), 0);
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        while lines < wanted {
            let line = stderr.next().expect("it goes on").expect("UTF-8");
            assert!(!line.contains("damaged"), "{line}");
            if let Some(progress) = acknowledged(&line) {
                (told, lines) = (progress, lines + 1);
            }
        }
        if keep.dies_after_a_checkpoint(round) {
            wait_for_checkpoint(&log, before, &mut child);
        }
        // Some of them right after what they said.
        thread::sleep(Duration::from_micros(random.below(2000).saturating_sub(1000)));
        kill(&mut child);
        tally.kills += 1;
        tally.after_a_checkpoint += u64::from(newest_checkpoint(&log) > before);
        let rest = stderr.map_while(Result::ok).filter_map(|line| acknowledged(&line));
        let (count, position) = rest.last().unwrap_or(told);
        tally.answers += count;
        // Each transaction is one entry, and what is found is a prefix of the log: so all that were acknowledged are there,
        // and those before, once.
        let now = last_position(&log);
        assert!(now >= last + count, "round {round}: {now} < {last} + {count}");
        if let Some(position) = position {
            assert!(now >= position, "round {round}: the log ends at {now}, and {position} was acknowledged");
        }
        last = now;
        if round % 25 == 24 || round + 1 == kills {
            // No half ones: all conditions hold, over rows that were rebuilt from what is there.
            whole("1");
            last = last_position(&log);
        }
    }
    keep.assert_head(&log);
}

#[test]
fn tpcc_killed_again_and_again_keeps_every_acknowledged_transaction_whole() {
    tpcc_killed(Keep::Checkpoints);
}

#[test]
fn tpcc_killed_again_and_again_without_checkpoints_keeps_every_acknowledged_transaction_whole() {
    tpcc_killed(Keep::Log { kills: 10 });
}
