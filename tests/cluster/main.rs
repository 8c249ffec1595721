//! A cluster of real processes that are killed and stopped while TPC-C runs on it.
//!
//! Faults come one after another, each when the cluster has recovered from the one before; the workload runs for
//! as long as that takes. In the end every audit must hold, and the log, read by somebody else and executed one by
//! one, must give the digest of the engine that ran meanwhile: so nothing that it acknowledged is lost.

mod clients;
mod commands;
mod divergence;
#[path = "../support/forge.rs"]
mod forge;
mod processes;
mod replicas;
mod roles;
mod starting;
mod tpcc;

use std::process::{Command, Stdio};
use std::sync::mpsc;

use mixlog::log::SharedLog;
use mixlog::log::corfu::{
    Node, Reply, ReplyTo, Request, SequencerReply, SequencerRequest, SequencerVerb, Transport,
};
use rustix::process::Signal;

use crate::processes::{Cluster, PATIENCE, goes_on, is_whole, joined, sequencer, until};

/// A projection store of the cluster's own, anywhere.
const ANYWHERE: &[&str] = &["--listen", "127.0.0.1:0", "--durability", "buffered"];

fn kill_every_role(cluster: &Cluster, log: &dyn SharedLog) {
    let transport = cluster.transport();
    // The head of one chain and the last unit of the other one.
    for unit in [1, 4] {
        let before = joined(&until(&transport, "before", is_whole), unit);
        cluster.kill(&format!("unit {unit}"));
        // Who is back before anybody noticed has what it had, and stays.
        goes_on(log, 200);
        let after = until(&transport, "a unit was killed", is_whole);
        assert!(joined(&after, unit) >= before);
    }
    let before = until(&transport, "before", is_whole);
    let (number, instance) = sequencer(&before);
    cluster.kill(&format!("sequencer {number}"));
    until(&transport, "the sequencer was killed", |now| sequencer(now).1 != instance && is_whole(now));

    cluster.kill("projection store");
    goes_on(log, 200);
    until(&transport, "the store was killed", is_whole);
}

fn stop_every_role(cluster: &Cluster, log: &dyn SharedLog) {
    let transport = cluster.transport();
    for unit in [2, 3] {
        let before = joined(&until(&transport, "before", is_whole), unit);
        cluster.signal(&format!("unit {unit}"), Signal::STOP);
        until(&transport, "a unit stands still", |now| joined(now, unit).is_none());
        goes_on(log, 200);
        cluster.signal(&format!("unit {unit}"), Signal::CONT);
        let after = until(&transport, "a unit goes on", is_whole);
        assert!(joined(&after, unit) > before, "it joined anew, empty");
    }
    let (number, _) = sequencer(&until(&transport, "before", is_whole));
    cluster.signal(&format!("sequencer {number}"), Signal::STOP);
    until(&transport, "the sequencer stands still", |now| sequencer(now).0 != number && is_whole(now));
    // It knows nothing of the new epoch, and may say what it likes.
    cluster.signal(&format!("sequencer {number}"), Signal::CONT);

    // Who knows the latest projection needs no store while all is well.
    goes_on(log, 200);
    cluster.signal("projection store", Signal::STOP);
    goes_on(log, 500);
    cluster.signal("projection store", Signal::CONT);
    until(&transport, "the store goes on", is_whole);
}

#[test]
fn tpcc_goes_on_while_every_role_is_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(directory.path(), ANYWHERE);
    tpcc::survives(&|| cluster.log(), |log| kill_every_role(&cluster, log));
}

#[test]
fn tpcc_goes_on_while_every_role_stands_still() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(directory.path(), ANYWHERE);
    tpcc::survives(&|| cluster.log(), |log| stop_every_role(&cluster, log));
}

fn in_directory(test: impl Fn(&std::path::Path)) {
    let directory = tempfile::tempdir().expect("a directory");
    test(directory.path());
}

#[test]
fn tpcc_goes_on_while_roles_that_nobody_starts_again_are_killed() {
    in_directory(roles::are_killed_one_by_one);
}

#[test]
fn tpcc_goes_on_while_roles_and_monitors_of_a_flushed_cluster_stand_still() {
    in_directory(roles::stand_still_one_by_one);
}

#[test]
fn clients_that_sleep_through_epochs_answer_what_is_in_the_log() {
    in_directory(clients::that_sleep_through_epochs_answer_what_is_in_the_log);
}

#[test]
fn clients_that_are_killed_have_printed_nothing_that_is_lost() {
    in_directory(clients::that_are_killed_have_printed_nothing_that_is_lost);
}

#[test]
fn client_killed_while_it_appends_leaves_a_log_that_others_go_on_with() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(directory.path(), ANYWHERE);
    let url = cluster.name();
    let arguments = ["run", "transfer", "--accounts", "500", "--log", &url, "--seconds"];
    let run = |seconds: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mixlog"));
        command.args(arguments).arg(seconds).stdout(Stdio::null());
        command
    };
    let mut client = run("600").spawn().expect("it starts");
    cluster.log().wait_past(mixlog::Position(2000), Some(PATIENCE)).expect("it appends");
    client.kill().expect("it runs");
    client.wait().expect("it ends");
    // It rebuilds the state, goes on, and audits it.
    assert!(run("0.3").status().expect("it starts").success());
}

#[test]
fn cluster_ended_by_signals_goes_on_where_it_was() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(directory.path(), ANYWHERE);
    let mixlog = |cluster: &Cluster, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mixlog"));
        let output = command.args(arguments).args(["--log", &cluster.name()]).output().expect("it starts");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    mixlog(&cluster, &["run", "transfer", "--accounts", "500", "--transactions", "2000"]);
    let digest = mixlog(&cluster, &["digest"]);
    cluster.end(Signal::INT);
    let cluster = Cluster::up(directory.path(), ANYWHERE);
    assert_eq!(mixlog(&cluster, &["digest"]), digest);
    cluster.end(Signal::KILL);
    let cluster = Cluster::up(directory.path(), ANYWHERE);
    assert_eq!(mixlog(&cluster, &["digest"]), digest);
    mixlog(&cluster, &["run", "transfer", "--accounts", "500", "--transactions", "2000"]);
}

#[test]
fn replicas_in_other_processes_agree_with_a_run_though_one_is_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    replicas::agree_with_a_run_though_one_is_killed(&Cluster::up(directory.path(), ANYWHERE));
}

#[test]
fn answers_wait_until_members_agree() {
    let directory = tempfile::tempdir().expect("a directory");
    replicas::keep_answers_back_until_they_agree(&Cluster::up(directory.path(), ANYWHERE));
}

fn with_cluster(test: impl Fn(&Cluster, &std::path::Path)) {
    let directory = tempfile::tempdir().expect("a directory");
    test(&Cluster::up(directory.path(), ANYWHERE), directory.path());
}

#[test]
fn replica_from_a_wrong_checkpoint_is_named_and_repaired_from_the_log() {
    with_cluster(divergence::is_repaired_from_the_log);
}

#[test]
fn replica_from_a_wrong_checkpoint_of_a_trimmed_log_stops_and_is_rebuilt_from_the_one_of_another() {
    with_cluster(divergence::stops_and_is_rebuilt_from_the_checkpoint_of_another);
}

#[test]
fn replica_passes_over_a_wrong_checkpoint_that_was_voted_on() {
    with_cluster(divergence::is_refused_by_name_where_it_was_voted_on);
}

#[test]
fn writer_from_a_wrong_checkpoint_gives_no_answer_and_stops() {
    with_cluster(divergence::gives_no_answer);
}

#[test]
fn run_from_a_wrong_checkpoint_ends_as_who_diverges() {
    with_cluster(divergence::ends_a_run);
}

#[test]
fn replica_past_which_the_log_is_trimmed_ends_and_says_how_to_start() {
    with_cluster(divergence::ends_and_says_how_to_start_when_the_log_is_trimmed_past_it);
}

/// Exit code and stderr.
fn fails(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mixlog")).args(arguments).output().expect("it starts");
    let code = output.status.code().expect("it was not killed");
    (code, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn refused(code: i32, arguments: &[&str], says: &str) {
    let (found, error) = fails(arguments);
    assert!(found == code && error.contains(says), "{arguments:?} fails with {found}, and says {error:?}");
}

#[test]
fn commands_say_what_a_cluster_cannot_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    let cluster = Cluster::up(directory.path(), ANYWHERE);
    let name = cluster.name();
    refused(2, &["checkpoint", "--log", &name], "no place for checkpoints");
    refused(2, &["backup", &name, &path("copy")], "no directory");
    refused(2, &["log", "verify", &name], "name a directory of one");
    refused(2, &["cluster", "found", "--log", &name, "--chain", "1,1"], "unit 1 is named twice");
    refused(2, &["cluster", "add", "--log", &name, "--chain", "7,8,7"], "unit 7 is named twice");
    refused(2, &["cluster", "found", "--log", &name, "--chain", "1,2"], "there is a cluster");
    refused(4, &["cluster", "add", "--log", &name, "--unit", "9", "--beside", "1"], "unit 9 did not join");
    refused(2, &["cluster", "add", "--log", &name, "--unit", "2", "--beside", "1"], "in use");
    refused(2, &["cluster", "remove", "--log", &name, "--unit", "99"], "no unit 99");

    // Nor do second ones with their numbers.
    refused(2, &["sequencer", "--log", &name], "sequencer 1 answers at");
    refused(
        2,
        &["unit", "--log", &name, "--number", "2", "--dir", &path("unit-2-again")],
        "unit 2 answers at",
    );

    // A second one in the same directory leaves the first one's addresses alone.
    let here = directory.path().to_str().expect("UTF-8");
    refused(2, &["cluster", "up", "--listen", "127.0.0.1:0", "--dir", here], "in use by another process");
    refused(
        2,
        &["projections", "--listen", "127.0.0.1:0", "--dir", &path("store")],
        "in use by another process",
    );
    let address = name.strip_prefix("corfu://").expect("it has a store");
    refused(4, &["cluster", "up", "--listen", address, "--dir", &path("other")], "cannot listen on");

    let run = ["run", "transfer", "--accounts", "500", "--transactions", "500", "--log", &name];
    assert_eq!(fails(&run).0, 0);
    refused(2, &["cluster", "trim", "--log", &name, "--before", "99999999"], "the log ends at");
    let (code, error) = fails(&["replica", "--log", &name]);
    assert_eq!(code, 0, "{error}");
}

#[test]
fn log_that_begins_with_junk_is_looked_into() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(directory.path(), ANYWHERE);
    let name = cluster.name();
    // A writer takes the first position and is gone; whoever asks for the tail fills it.
    take_a_position(&cluster);
    let run = ["run", "transfer", "--accounts", "500", "--transactions", "500", "--log", &name];
    assert_eq!(fails(&run).0, 0);
    let (code, error) = fails(&["digest", "--log", &name]);
    assert_eq!(code, 0, "{error}");
    let dump =
        Command::new(env!("CARGO_BIN_EXE_mixlog")).args(["log", "dump", &name]).output().expect("it starts");
    let dump = String::from_utf8_lossy(&dump.stdout);
    assert!(dump.lines().next().is_some_and(|line| line.contains("junk")), "{dump}");
    assert!(dump.contains("catalog"), "{dump}");
}

fn take_a_position(cluster: &Cluster) {
    let transport = cluster.transport();
    let latest = until(&transport, "the cluster", is_whole);
    let (number, _) = sequencer(&latest);
    let (told, answer) = mpsc::channel();
    let verb = SequencerVerb::Next { count: 1, at_least: 1 };
    let request = Request::Sequencer(SequencerRequest { epoch: latest.epoch, verb });
    let reply = ReplyTo::new(move |reply| drop(told.send(reply)));
    transport.send(Node::Sequencer(number), request, reply);
    let reply = answer.recv_timeout(PATIENCE).expect("an answer");
    assert!(matches!(reply, Some(Reply::Sequencer(SequencerReply::Token(_)))), "{reply:?}");
}
