//! Commands on a cluster: what they keep beside it, and how they end when it is gone.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mixlog::Position;
use mixlog::log::Durability;
use rustix::process::{Pid, Signal, kill_process};

use crate::ANYWHERE;
use crate::processes::{Cluster, PATIENCE};
use crate::roles::Roles;
use crate::starting::nowhere;

fn mixlog(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixlog"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits until a command has ended by itself; one that does not is killed.
fn ends(what: &str, mut child: Child) -> Output {
    let begun = Instant::now();
    // Nothing is asked of it any more, but its stdin stays open.
    let _stdin = child.stdin.take();
    while child.try_wait().expect("it is our child").is_none() {
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("{what} does not end: {:?}", child.wait_with_output());
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().expect("it has ended")
}

fn output(arguments: &[&str]) -> Output {
    mixlog(arguments).output().expect("it starts")
}

/// What a command printed that went well.
fn printed(arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = output(arguments);
    assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("it prints text")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("it is UTF-8")
}

#[test]
fn commands_end_with_an_io_error_when_the_cluster_is_gone() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(directory.path(), ANYWHERE);
    let (name, log) = (cluster.name(), cluster.log());
    let start = |arguments: &[&str]| -> Child {
        let arguments = [arguments, &["--log", &name, "--patience", "1"]].concat();
        mixlog(&arguments).spawn().expect("it starts")
    };
    let run = start(&["run", "transfer", "--accounts", "500", "--seconds", "600"]);
    log.wait_past(Position(2000), Some(PATIENCE)).expect("it appends");
    // It waits for what others append.
    let mut replica = start(&["replica", "--member", "b", "--members", "a,b"]);
    let mut says = BufReader::new(replica.stdout.take().expect("it is piped"));
    says.read_line(&mut String::new()).expect("it says how far it is");
    cluster.end(Signal::KILL);
    for (what, child) in [("run", run), ("replica", replica)] {
        let Output { status, stderr, .. } = ends(what, child);
        let stderr = String::from_utf8_lossy(&stderr);
        let said = stderr.lines().last().unwrap_or_default();
        assert_eq!(status.code(), Some(4), "{what}: {stderr}");
        // Whoever had written to a head when the units died cannot know what became of it.
        let why = ["in time", "nobody can tell whether"];
        assert!(said.starts_with("mixlog: ") && why.iter().any(|why| said.contains(why)), "{what}: {stderr}");
    }
    let digest = output(&["digest", "--log", &name, "--patience", "1"]);
    assert_eq!(digest.status.code(), Some(4), "{}", String::from_utf8_lossy(&digest.stderr));
}

#[test]
fn checkpoint_of_a_cluster_whose_units_buffer_is_opened_and_trims_its_log() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(directory.path(), ANYWHERE);
    let (name, beside) = (cluster.name(), directory.path().join("beside"));
    let run = ["run", "transfer", "--accounts", "500", "--transactions", "5000", "--log", &name];
    printed(&run);
    let digest = printed(&["digest", "--log", &name]);

    let nowhere = output(&["checkpoint", "--log", &name]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("--beside"));
    let kept = ["--log", &name, "--beside", text(&beside)];
    let taken = printed(&[&["checkpoint", "--keep-checkpoints", "1"], &kept[..]].concat());
    assert!(taken.contains("\nhead 5") && !taken.contains("checkpoints \n"), "{taken}");

    // The log alone tells no state any more; with what is kept beside it, it is the same, and can be gone on with.
    assert_eq!(output(&["digest", "--log", &name]).status.code(), Some(2));
    assert_eq!(printed(&[&["digest"], &kept[..]].concat()), digest);
    printed(&[&run[..], &["--beside", text(&beside)]].concat());
}

#[test]
fn run_that_waits_for_others_reports_what_was_done_when_it_is_to_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(directory.path(), ANYWHERE);
    let log = cluster.name();
    let run = ["run", "transfer", "--accounts", "100", "--transactions", "100", "--log", &log];
    let agree = ["--member", "a", "--members", "a,b,c", "--agree", "2"];
    let mut child = mixlog(&[&run[..], &agree].concat()).spawn().expect("it starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut line = String::new();
    while !line.contains("waiting for 2 of a, b, c") {
        line.clear();
        assert!(stderr.read_line(&mut line).expect("UTF-8") > 0, "it ended and did not wait");
    }
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it is there");
    let (mut stdout, mut said) = (String::new(), String::new());
    child.stdout.take().expect("it is piped").read_to_string(&mut stdout).expect("UTF-8");
    stderr.read_to_string(&mut said).expect("UTF-8");
    let status = child.wait().expect("it is our child");
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()), "{status}: {said}");
    assert!(stdout.contains("digest ") && stdout.contains("ok   outcomes"), "{stdout}");
    assert!(said.contains("fewer than 2 of a, b, c agree on position "), "{said}");
}

/// Nobody watches: what is changed is changed by commands.
#[test]
fn units_and_chains_are_added_and_removed_by_commands() {
    let directory = tempfile::tempdir().expect("a directory");
    let roles = Roles::start(directory.path(), Durability::Buffered, 4, &[]);
    let name = roles.home.to_string();
    let on = |arguments: &[&str]| printed(&[arguments, &["--log", &name]].concat());
    let run = || on(&["run", "transfer", "--accounts", "500", "--transactions", "2000"]);
    let becomes = |change: &[&str], killed: &[u32], chains: &str| {
        let digest = on(&["digest"]);
        killed.iter().for_each(|unit| roles.kill(&format!("unit {unit}")));
        let projection = on(&[&["cluster"], change].concat());
        let status = on(&["cluster", "status"]);
        for said in [&projection, &status] {
            assert!(said.contains(chains), "{change:?} leads to {said}, and not to {chains}");
        }
        assert_eq!(on(&["digest"]), digest, "{change:?}");
        run();
    };
    run();
    becomes(&["add", "--unit", "5", "--beside", "2"], &[], "[1 > 2 > 5] [3 > 4]");
    becomes(&["remove", "--unit", "1"], &[], "[2 > 5] [3 > 4]");
    becomes(&["remove", "--unit", "4", "--replacement", "6"], &[], "[2 > 5] [3 > 6]");
    becomes(&["add", "--chain", "7,8"], &[1, 4], "[2 > 5] [3 > 6] [7 > 8]");
    // Those that joined have everything.
    becomes(&["remove", "--unit", "2"], &[2], "[5] [3 > 6] [7 > 8]");
    becomes(&["remove", "--unit", "3"], &[3], "[5] [6] [7 > 8]");
    let replayed = on(&["replay", "--threads", "1", "--mode", "sequential"]);
    assert_eq!(replayed, on(&["digest"]));
}

#[test]
fn cluster_whose_first_address_is_dead_is_found_at_the_next() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(directory.path(), ANYWHERE);
    let name = cluster.name();
    let alive = name.strip_prefix("corfu://").expect("it has a store");
    let both = format!("corfu://{},{alive}", nowhere());
    printed(&["run", "transfer", "--accounts", "500", "--transactions", "2000", "--log", &both]);
    let digest = printed(&["digest", "--log", &both]);
    assert_eq!(digest, printed(&["digest", "--log", &name]));
    assert!(printed(&["cluster", "status", "--log", &both]).contains("[1 > 2] [3 > 4]"));
}

/// Starts `mixlog cluster up`, and kills it when it has printed so many lines, and some time has passed.
fn up_killed(directory: &Path, lines: usize, then: Duration) {
    let mut up = mixlog(&[&["cluster", "up", "--dir", text(directory)], ANYWHERE].concat());
    let mut up = up.stderr(Stdio::null()).spawn().expect("it starts");
    let mut says = BufReader::new(up.stdout.take().expect("it is piped")).lines();
    for _ in 0..lines {
        says.next().expect("it goes on").expect("it prints text");
    }
    thread::sleep(then);
    up.kill().expect("it is our child");
    up.wait().expect("it ends");
}

#[test]
fn cluster_whose_projection_is_damaged_does_not_come_up_and_says_so_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let projections = directory.path().join("store/projections");
    std::fs::create_dir_all(&projections).expect("a directory");
    std::fs::write(projections.join("projection-0000000000000001"), "no projection").expect("a file");
    let output = output(&[&["cluster", "up", "--dir", text(directory.path())], ANYWHERE].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("damaged") && said.contains("does not come up"), "{said}");
}

#[test]
fn files_of_a_unit_are_verified_though_its_directory_is_no_log() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(directory.path(), ANYWHERE);
    let run = ["run", "transfer", "--accounts", "100", "--transactions", "500", "--log"];
    printed(&[&run[..], &[&cluster.name()]].concat());
    cluster.end(Signal::INT);
    let unit = directory.path().join("unit-1");
    let verified = output(&["log", "verify", text(&unit)]);
    let (said, note) = (String::from_utf8_lossy(&verified.stdout), String::from_utf8_lossy(&verified.stderr));
    assert!(verified.status.success() && said.ends_with("\nok\n"), "{said}{note}");
    assert!(note.contains("records of a unit"), "{note}");
    assert_eq!(printed(&["log", "verify", text(&unit.join("journal"))]), said);
}

/// A line for the projection store, two sequencers, four units; then units join, the log is founded, and it says so.
const LINES: usize = 7;

#[test]
fn cluster_whose_founder_was_killed_comes_up_from_the_same_directory() {
    // The chance moments are those between the joins, a millisecond or so each.
    let moments = (0..=LINES).map(|lines| (lines, 0)).chain((1..8).map(|n| (LINES, 700 * n)));
    let directory = tempfile::tempdir().expect("a directory");
    for (lines, micros) in moments {
        up_killed(directory.path(), lines, Duration::from_micros(micros));
    }
    let cluster = Cluster::up(directory.path(), ANYWHERE);
    let run = ["run", "transfer", "--accounts", "100", "--transactions", "500", "--log"];
    printed(&[&run[..], &[&cluster.name()]].concat());
    let digest = printed(&["digest", "--log", &cluster.name()]);
    cluster.end(Signal::KILL);
    // One that was founded keeps what is in it, whoever is killed while he brings it up again.
    up_killed(directory.path(), LINES, Duration::ZERO);
    up_killed(directory.path(), LINES, Duration::from_millis(2));
    let cluster = Cluster::up(directory.path(), ANYWHERE);
    assert_eq!(printed(&["digest", "--log", &cluster.name()]), digest);
}
