//! Clusters of processes that are found in a real etcd: the command, and TPC-C while roles and etcd fail. Where
//! there is no etcd, every test is named as ignored; on CI that is a failure.

#[path = "cluster/processes.rs"]
mod processes;
#[path = "../log/tests/etcd/server.rs"]
mod server;
#[path = "cluster/tpcc.rs"]
mod tpcc;
#[path = "../log/tests/support/trials.rs"]
mod trials;

use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use mixlog::log::corfu::{Epoch, EtcdAccess, EtcdStore};
use rustix::process::Signal;

use crate::processes::{Cluster, PATIENCE, goes_on, is_whole, joined, sequencer, until};
use crate::server::Etcd;

/// What `--etcd` is given for a prefix.
fn option(etcd: &Etcd, prefix: &str) -> String {
    format!("{}/{prefix}", etcd.endpoint())
}

fn mixlog(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mixlog")).args(arguments).output().expect("it starts")
}

/// What the command prints when all is well.
fn says(arguments: &[&str]) -> String {
    let output = mixlog(arguments);
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {out}{error}");
    out
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A line of an answer: what follows its first word.
fn line<'a>(answer: &'a str, word: &str) -> &'a str {
    let found = answer.lines().find_map(|line| line.strip_prefix(word));
    found.unwrap_or_else(|| panic!("no {word} in {answer}")).trim()
}

/// Waits until all four units have answered in the latest epoch, twice in a row.
fn until_all_answer(cluster: &Cluster) {
    let begun = Instant::now();
    let mut heard = 0;
    while heard < 2 {
        assert!(begun.elapsed() < PATIENCE, "the cluster does not recover");
        let status = says(&["cluster", "status", "--log", &cluster.name()]);
        let epoch = line(&status, "epoch ").split(',').next().map(|epoch| format!(": epoch {epoch},"));
        let epoch = epoch.expect("a line begins with it");
        heard = if status.matches(&epoch).count() == 4 { heard + 1 } else { 0 };
    }
}

fn tpcc_goes_on_while_a_unit_is_killed_and_etcd_is_down() {
    let directory = tempfile::tempdir().expect("a directory");
    let etcd = Etcd::start();
    let option = option(&etcd, "tpcc");
    let cluster = Cluster::up(directory.path(), &["--etcd", &option, "--durability", "buffered"]);
    let etcd = Mutex::new(etcd);
    tpcc::survives(&|| cluster.log(), |log| {
        let mut etcd = etcd.lock().expect("no panic");
        let transport = cluster.transport();
        let before = joined(&until(&transport, "before", is_whole), 1);
        cluster.signal("unit 1", Signal::STOP);
        until(&transport, "a unit stands still", |now| joined(now, 1).is_none());
        goes_on(log, 200);
        cluster.signal("unit 1", Signal::CONT);
        assert!(joined(&until(&transport, "a unit goes on", is_whole), 1) > before);
        cluster.kill("unit 4");
        goes_on(log, 200);
        until_all_answer(&cluster);
        // So do the clients, in the newest epoch: without etcd they could not hear of it.
        goes_on(log, 200);

        // Whoever was about to change the cluster would have to wait for it.
        etcd.kill();
        goes_on(log, 500);
        etcd.restart();
        let (number, instance) = sequencer(&until(&transport, "etcd is back", is_whole));
        cluster.kill(&format!("sequencer {number}"));
        until(&transport, "the sequencer was killed", |now| sequencer(now).1 != instance && is_whole(now));
        goes_on(log, 200);
        etcd.signal(Signal::STOP);
        goes_on(log, 500);
        etcd.signal(Signal::CONT);
    });
}

fn commands_take_a_cluster_in_etcd() {
    let directory = tempfile::tempdir().expect("a directory");
    let etcd = Etcd::start();
    let option = option(&etcd, "bank");
    let arguments = ["--etcd", &option, "--units", "2", "--spares", "2", "--durability", "buffered"];
    let cluster = Cluster::up(directory.path(), &arguments);
    let name = cluster.name();
    assert_eq!(name, format!("corfu+etcd://{option}"));

    let run = ["run", "transfer", "--accounts", "500", "--transactions", "2000", "--log", &name];
    says(&run);
    let digest = says(&["digest", "--log", &name]);
    let replayed = says(&["replay", "--log", &name, "--threads", "1", "--mode", "sequential"]);
    assert_eq!(replayed, digest);
    assert!(says(&["log", "dump", &name]).lines().next().is_some_and(|line| line.contains("catalog")));
    let status = says(&["cluster", "status", "--log", &name]);
    assert!(status.contains("[1 > 2]") && status.contains("unit 3 at 127.0.0.1:"), "{status}");

    says(&["cluster", "add", "--log", &name, "--chain", "3,4"]);
    let status = says(&["cluster", "status", "--log", &name]);
    assert!(status.contains("[1 > 2] [3 > 4]"), "{status}");
    says(&run);
    let trimmed = says(&["cluster", "trim", "--log", &name, "--before", "0"]);
    assert_eq!(line(&trimmed, "head "), "0");

    // Ended, however, and begun again, it has the same log.
    let digest = says(&["digest", "--log", &name]);
    cluster.end(Signal::INT);
    let cluster = Cluster::up(directory.path(), &arguments);
    assert_eq!(says(&["digest", "--log", &name]), digest);
    cluster.end(Signal::KILL);
    let cluster = Cluster::up(directory.path(), &arguments);
    assert_eq!(says(&["digest", "--log", &name]), digest);
    let elsewhere = tempfile::tempdir().expect("a directory");
    let refused = Command::new(env!("CARGO_BIN_EXE_mixlog"))
        .args(["cluster", "up", "--etcd", &option, "--dir"])
        .arg(elsewhere.path())
        .output()
        .expect("it starts");
    let error = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{error}");
    assert!(error.contains("has nothing of it"), "{error}");
    drop(cluster);
}

fn cluster_of_roles_is_founded_and_watched() {
    let directory = tempfile::tempdir().expect("a directory");
    let etcd = Etcd::start();
    let name = format!("corfu+etcd://{}", option(&etcd, "by-hand"));
    let start = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mixlog"));
        command.args(arguments).args(["--log", &name]).stdin(Stdio::null()).stdout(Stdio::null());
        Ended(command.spawn().expect("it starts"))
    };
    let unit = |number: u32| {
        let path = directory.path().join(format!("unit-{number}"));
        let path = path.to_str().expect("UTF-8");
        start(&["unit", "--number", &number.to_string(), "--durability", "buffered", "--dir", path])
    };
    let _sequencer = start(&["sequencer", "--number", "1"]);
    let first = unit(1);
    let alone = mixlog(&["cluster", "found", "--log", &name, "--chain", "1,2"]);
    assert_eq!(alone.status.code(), Some(4), "{}", text(&alone.stderr));
    // Nothing came of that, and it did not make the first unit one of another log.
    let mut units = [first, unit(2), unit(3)];
    let begun = Instant::now();
    let transport = loop {
        let listed = mixlog(&["cluster", "found", "--log", &name, "--chain", "1,2"]);
        if listed.status.success() {
            break processes::transport(&name.parse().expect("it names a cluster"));
        }
        // Roles that are not there yet: whoever founds a cluster tries again, and those that are do not mind.
        assert_eq!(listed.status.code(), Some(4), "{}", text(&listed.stderr));
        assert!(begun.elapsed() < PATIENCE, "{}", text(&listed.stderr));
    };
    says(&["cluster", "found", "--log", &name, "--chain", "1,2"]);
    let other = mixlog(&["cluster", "found", "--log", &name, "--chain", "1,3"]);
    assert_eq!(other.status.code(), Some(2), "{}", text(&other.stderr));
    let _monitor = start(&["cluster", "monitor"]);
    let run = ["run", "transfer", "--accounts", "500", "--transactions", "2000", "--log", &name];
    says(&run);
    units[1].0.kill().expect("it runs");
    let whole = until(&transport, "a unit is replaced", |now| {
        joined(now, 3).is_some() && joined(now, 2).is_none() && is_whole(now)
    });
    assert!(whole.epoch > Epoch(1));
    says(&run);
}

/// A process; ended when dropped.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn etcd_that_is_not_there_is_told() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let name = format!("corfu+etcd://{nobody}/bank");
    for arguments in [
        vec!["cluster", "status", "--log", &name],
        vec!["run", "transfer", "--log", &name, "--patience", "0.5"],
        vec!["digest", "--log", &name, "--patience", "0.5"],
    ] {
        let output = mixlog(&arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {error}");
        assert!(error.contains(&nobody.to_string()) && error.contains("refused"), "{arguments:?}: {error}");
    }
}

fn main() -> ExitCode {
    let missing =
        (!Etcd::is_installed()).then_some("there is no etcd to test with: install Debian's etcd-server");
    trials::run(
        trials::trials! {
        tpcc_goes_on_while_a_unit_is_killed_and_etcd_is_down
        commands_take_a_cluster_in_etcd
        cluster_of_roles_is_founded_and_watched
        etcd_that_is_not_there_is_told
        },
        missing,
    )
}
