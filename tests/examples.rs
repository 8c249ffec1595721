//! The programs in `examples/`, run as anybody would run them, at a small size. They audit themselves; the ledger is killed
//! and audited from here.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Cargo tells tests where commands are, but not where examples are: in a directory beside them.
fn example(name: &str) -> Command {
    let beside = Path::new(env!("CARGO_BIN_EXE_mixlog")).parent().expect("it is in a directory");
    let program: PathBuf = beside.join("examples").join(name);
    assert!(program.exists(), "{} is not built: cargo test builds it unless told --test", program.display());
    Command::new(program)
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("the example starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{command:?}: {stdout}\n{stderr}");
    stdout
}

/// The number in front of a word.
fn number(text: &str, word: &str) -> u64 {
    let before = text.split(word).next().filter(|before| before.len() < text.len());
    let digits = before.and_then(|before| before.split_ascii_whitespace().next_back());
    digits
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_else(|| panic!("no number before {word:?} in {text}"))
}

#[test]
fn exchange_run_again_goes_on_and_replays_to_the_same_digest() {
    let directory = tempfile::tempdir().expect("a directory");
    let run = || {
        let arguments = ["--commands", "10000", "--traders", "200", "--log"];
        output(example("exchange").args(arguments).arg(directory.path().join("log")))
    };
    let (first, second) = (run(), run());
    assert_eq!(number(&first, " entries replayed"), 0);
    assert!(number(&second, " entries replayed") > 10_000, "{second}");
    assert!(number(&second, " trades") > number(&first, " trades"), "{first}{second}");
    for run in [first, second] {
        assert!(run.contains("audit: all is well with 200 traders"), "{run}");
        // All footprints are right.
        assert_eq!(number(&run, " windows replayed"), 0);
    }
}

#[test]
fn workflow_run_again_goes_on_and_its_replicas_agree() {
    let directory = tempfile::tempdir().expect("a directory");
    let run =
        || output(example("workflow").args(["--orders", "400", "--log"]).arg(directory.path().join("log")));
    for orders in [400, 800] {
        let run = run();
        assert!(run.contains("three members agree"), "{run}");
        assert_eq!(number(&run, " orders are done") + number(&run, " cancelled"), orders);
    }
}

/// A server that is killed when nobody needs it any more, however the test ends.
struct Server(Child);

impl Server {
    fn kill(&mut self) {
        self.0.kill().expect("it is our child");
        self.0.wait().expect("it is our child");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server of the ledger, and where it listens.
fn serve(log: &Path, listen: &str) -> (Server, String) {
    let mut command = example("ledger");
    command.args(["serve", "--listen", listen, "--log"]).arg(log);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the example starts");
    let (stdout, server) = (child.stdout.take().expect("piped"), Server(child));
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).expect("UTF-8");
    let address = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line:?}"));
    (server, address.to_owned())
}

/// Many clients come, say hello, ask for nonsense, and go: none of them leaves a thread of the server behind.
fn greet_and_go(server: &Server, address: &str) {
    const GUESTS: usize = 64;
    for _ in 0..GUESTS {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(b"HELLO 1\nBALANCE fees\n1 POST x\n").expect("it reads");
        let answers: Vec<_> =
            BufReader::new(stream).lines().take(3).map(|line| line.expect("UTF-8")).collect();
        assert!(answers[0].starts_with("WELCOME ") && answers[1].starts_with("BALANCE fees "), "{answers:?}");
        assert!(answers[2].starts_with("1 INVALID "), "{answers:?}");
    }
    let threads = || std::fs::read_dir(format!("/proc/{}/task", server.0.id())).expect("it runs").count();
    let deadline = Instant::now() + Duration::from_secs(30);
    while threads() >= GUESTS {
        assert!(Instant::now() < deadline, "{} threads", threads());
        thread::sleep(Duration::from_millis(5));
    }
}

/// What each payment, by its memo, was answered: whether it was accepted, and at which position of the log.
type Answers = BTreeMap<String, (bool, u64)>;

/// Takes answers until there are so many; tells whether there may be more.
fn take(lines: &mut Lines<BufReader<ChildStdout>>, answers: &mut Answers, until: usize) -> bool {
    while answers.len() < until {
        let Some(line) = lines.next() else { return false };
        let line = line.expect("UTF-8");
        if let [client, sequence, verdict @ ("OK" | "REFUSED"), position, ..] =
            line.split(' ').collect::<Vec<_>>()[..]
        {
            let answer = (verdict == "OK", position.parse().expect("a position"));
            assert_eq!(answers.insert(format!("{client}/{sequence}"), answer), None, "{line}");
        }
    }
    true
}

#[test]
fn ledger_killed_under_load_has_every_acknowledged_entry_once() {
    const CLIENTS: usize = 4;
    const PAYMENTS: usize = 1000;
    const OPENING: usize = 2 + 2 * 50;
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let (mut server, address) = serve(&log, "127.0.0.1:0");

    let (clients, payments) = (CLIENTS.to_string(), PAYMENTS.to_string());
    let mut load = example("ledger");
    load.args(["load", "--answers", "--customers", "50", "--server", &address]);
    load.args(["--clients", &clients, "--payments", &payments]);
    let mut load = load.stdout(Stdio::piped()).spawn().expect("the example starts");
    let mut lines = BufReader::new(load.stdout.take().expect("piped")).lines();
    let mut answers = Answers::new();
    for kill in 1..=4 {
        assert!(take(&mut lines, &mut answers, OPENING + kill * 700), "{answers:?}");
        server.kill();
        server = serve(&log, &address).0;
    }
    take(&mut lines, &mut answers, usize::MAX);
    assert!(load.wait().expect("it is our child").success());
    greet_and_go(&server, &address);
    server.kill();
    assert_eq!(answers.len(), OPENING + CLIENTS * PAYMENTS);

    let journal = output(example("ledger").args(["journal", "--log"]).arg(&log));
    // How many postings each memo has, and the entry of all of them.
    let mut posted: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for line in journal.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [entry, _, _, memo] = words[..] else { continue };
        let entry = entry.parse().expect("a position");
        if memo.contains('/') {
            let (first, count) = posted.entry(memo).or_insert((entry, 0));
            assert_eq!(*first, entry, "{memo} was posted twice");
            *count += 1;
        }
    }
    let payments = answers.into_iter().filter(|(memo, _)| !memo.starts_with("0/"));
    for (memo, (accepted, position)) in payments {
        let expected = accepted.then_some((position, 3));
        assert_eq!(posted.remove(memo.as_str()), expected, "{memo}");
    }
    assert_eq!(posted, BTreeMap::new(), "nobody was told of these");
    assert!(journal.contains("\ntotal "), "{journal}");
}
