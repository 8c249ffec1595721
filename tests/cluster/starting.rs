//! Roles and clients that start before the others are there, and where roles say that they are.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use mixlog::log::LogId;
use mixlog::log::corfu::{
    Epoch, Home, Listing, Member, Node, ReplyTo, Request, Server, TcpTransport, Timing, Transport,
    UnitNumber, UnitRequest, UnitVerb, announce,
};

use crate::ANYWHERE;
use crate::processes::{Cluster, PATIENCE};
use crate::{fails, refused};

/// A command under way; ended when dropped.
struct Running(Child);

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mixlog"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().expect("it starts"))
    }

    fn stdout(&mut self) -> impl Iterator<Item = String> {
        let stdout: ChildStdout = self.0.stdout.take().expect("it is piped");
        BufReader::new(stdout).lines().map_while(Result::ok)
    }

    fn stderr(&mut self) -> impl Iterator<Item = String> {
        let stderr: ChildStderr = self.0.stderr.take().expect("it is piped");
        BufReader::new(stderr).lines().map_while(Result::ok)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where nobody listens.
pub(crate) fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it is bound")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("it is UTF-8")
}

#[test]
fn client_waits_for_a_cluster_that_is_not_up_yet_and_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let address = nowhere().to_string();
    let name = format!("corfu://{address}");
    let run = ["run", "transfer", "--accounts", "100", "--transactions", "500", "--log", &name];
    let mut client = Running::start(&[&run[..], &["--patience", "60"]].concat());
    let waits = |line: &String| line.contains(&address) && line.contains("trying again for 60s");
    let mut says = client.stderr();
    assert!(says.any(|line| waits(&line)), "it ended");
    // Then there is a store, and a while later a log.
    let _cluster = Cluster::up(directory.path(), &["--listen", &address, "--durability", "buffered"]);
    let rest: Vec<String> = says.collect();
    assert!(client.0.wait().expect("it ends").success(), "{rest:?}");
    assert!(!rest.iter().any(waits), "said twice: {rest:?}");
}

#[test]
fn client_of_a_store_without_a_log_waits_until_one_is_founded() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store =
        Running::start(&["projections", "--dir", text(directory.path()), "--listen", "127.0.0.1:0"]);
    let line = store.stdout().next().expect("it says where it is");
    let name = format!("corfu://{}", line.split_whitespace().last().expect("an address"));
    refused(2, &["digest", "--log", &name, "--patience", "0.3"], "the cluster has no projection yet");
    let mut digest = Running::start(&["digest", "--log", &name, "--patience", "60"]);
    assert!(digest.stderr().any(|line| line.contains("no projection yet") && line.contains("trying again")));
    let _sequencer = Running::start(&["sequencer", "--log", &name]);
    let _unit = Running::start(&["unit", "--log", &name, "--number", "1"]);
    let begun = Instant::now();
    loop {
        let (code, error) = fails(&["cluster", "found", "--log", &name, "--chain", "1"]);
        if code == 0 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{error}");
    }
    assert!(digest.0.wait().expect("it ends").success());
}

#[test]
fn client_of_a_cluster_that_does_not_come_up_says_what_it_waited_for_and_status_does_not_wait() {
    let name = format!("corfu://{}", nowhere());
    let begun = Instant::now();
    let (code, error) = fails(&["digest", "--log", &name, "--patience", "0.7"]);
    let last = error.lines().last().unwrap_or_default();
    assert_eq!(code, 4, "{error}");
    assert!(last.contains("cannot reach") && last.contains("given up after 700ms"), "{error}");
    assert!(begun.elapsed() >= Duration::from_millis(700));
    let begun = Instant::now();
    let (code, error) = fails(&["cluster", "status", "--log", &name]);
    assert!(code == 4 && error.contains("refused") && !error.contains("trying again"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn role_that_listens_on_all_addresses_is_refused_unless_it_says_where_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let unit = directory.path().join("unit");
    let dir = text(&unit);
    for all in ["0.0.0.0:0", "[::]:4501"] {
        refused(2, &["unit", "--number", "1", "--dir", dir, "--listen", all], "--announce HOST:");
        refused(2, &["sequencer", "--listen", all], "--announce HOST:");
        refused(2, &["cluster", "up", "--dir", dir, "--listen", all], "its units listen on 127.0.0.1");
    }
    assert!(!unit.exists(), "nothing is begun");
    for nowhere in ["0.0.0.0:4501", "[::]:1", "host", ":1", "host:port"] {
        refused(2, &["sequencer", "--announce", nowhere], "a host that others know, and a port");
    }

    let store = directory.path().join("store");
    let mut projections = Running::start(&["projections", "--dir", text(&store), "--listen", "0.0.0.0:0"]);
    let line = projections.stdout().next().expect("it says where it is");
    let port = line.rsplit(':').next().expect("a port");
    let name = format!("corfu://127.0.0.1:{port}");
    let announced = ["--log", &name, "--listen", "0.0.0.0:0", "--announce", "localhost:0"];
    let mut sequencer = Running::start(&[&["sequencer"], &announced[..]].concat());
    let line = sequencer.stdout().next().expect("it says where it is");
    let (listens, reached) = line.split_once(", for others ").expect("two addresses");
    let (_, port) = listens.split_once("0.0.0.0:").expect("it listens on all");
    assert_eq!(reached, format!("127.0.0.1:{port}"));
    let listed = fs::read_to_string(store.join("addresses/sequencer-1")).expect("it is listed");
    assert_eq!(listed.trim(), reached);
}

#[test]
fn spare_of_one_cluster_answers_no_other_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = ["--units", "1", "--replicas", "1", "--spares", "1"];
    let cluster = Cluster::up(directory.path(), &[ANYWHERE, &options].concat());
    let log = cluster.log().id();
    let spare = Node::Unit(UnitNumber(2));
    // Before, its cluster had no log.
    cluster.kill("unit 2");
    let address = cluster.transport().listings().expect("it is there")[&spare].address;

    // Another cluster has its address, which is out of date there.
    let elsewhere = tempfile::tempdir().expect("a directory");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let store = Server::store(listener, elsewhere.path()).expect("it opens");
    let home = Home::servers(&[store.address()]);
    let timing = Timing::default();
    announce(&home, None, spare, Listing { address, durability: None }, &timing).expect("it is listed");
    let answers = |log| {
        let transport = TcpTransport::connect(&home, &timing).expect("it is there");
        transport.pin(log);
        let (told, answer) = mpsc::channel();
        let member = Member { unit: UnitNumber(2), joined: Epoch::NONE };
        let request = UnitRequest { epoch: Epoch(1), member, verb: UnitVerb::Probe };
        let reply = ReplyTo::new(move |reply| told.send(reply.is_some()).expect("it is waited for"));
        transport.send(spare, Request::Unit(request), reply);
        answer.recv_timeout(PATIENCE).expect("it is told")
    };
    assert!(answers(log));
    assert!(
        !answers(LogId(log.0 ^ 1)),
        "it was never in a chain, but its cluster has said of which log it is"
    );
}

#[cfg(not(feature = "etcd"))]
#[test]
fn role_that_can_never_be_announced_ends() {
    let etcd = format!("corfu+etcd://{}/bank", nowhere());
    refused(2, &["sequencer", "--log", &etcd], "without etcd");
}
