//! What newcomers do to the command by mistake: every end is an exit code that the help names and one clear line, whoever
//! reads stdout and stderr, and nothing hangs or panics.

use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

#[path = "support/run.rs"]
mod run;

use run::{command, ends, path, refused, run};

const FEW: [&str; 4] = ["--accounts", "10", "--transactions", "100"];

fn transfers(log: &Path) {
    let arguments = [&["run", "transfer", "--durability", "buffered", "--log", path(log)], &FEW[..]].concat();
    let (code, stdout, stderr) = run(&arguments);
    assert_eq!(code, 0, "{stderr}{stdout}");
}

#[test]
fn nobody_who_reads_stderr_is_no_reason_to_end_otherwise() {
    let memory = [&["run", "transfer", "--log", "memory", "--progress", "1"], &FEW[..]].concat();
    for (code, arguments) in [
        (0, &memory[..]),
        (0, &["apply", "--log", "memory", "--explain"]),
        (2, &["digest", "--log", "/nonexistent/log"]),
        (2, &["run", "tpcc", "--warehouses", "0"]),
        (4, &["cluster", "status", "--log", "corfu://127.0.0.1:1"]),
    ] {
        let (reader, closed) = std::io::pipe().expect("a pipe");
        drop(reader);
        let full = OpenOptions::new().write(true).open("/dev/full").expect("it is there");
        for stderr in [Stdio::from(closed), Stdio::from(full)] {
            let status = command(arguments).stderr(stderr).stdout(Stdio::null()).status().expect("it starts");
            assert_eq!(status.code(), Some(code), "{arguments:?}");
        }
    }
}

#[test]
fn stdout_that_takes_nothing_is_an_io_error_that_names_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    transfers(&log);
    for arguments in [
        &["digest", "--log", path(&log)][..],
        &["log", "dump", path(&log)],
        &["log", "verify", path(&log)],
        &["checkpoint", "--log", path(&log)],
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("it is there");
        let child = command(arguments).stdout(full).stderr(Stdio::piped()).spawn().expect("it starts");
        let (code, _, stderr) = ends(&child.wait_with_output().expect("it is our child"));
        assert_eq!(code, 4, "{arguments:?}: {stderr}");
        assert!(stderr.contains("cannot write to stdout: No space left on device"), "{stderr}");
    }
}

#[test]
fn addresses_that_are_no_clusters_are_not_taken_for_directories() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["http://127.0.0.1:4500", "corfu+http://x", "Corfu://127.0.0.1:4500", "corfu://"] {
        for arguments in [
            &["run", "transfer", "--log", name][..],
            &["apply", "--log", name],
            &["digest", "--log", name],
            &["replica", "--log", name],
        ] {
            let output = command(arguments).current_dir(directory.path()).output().expect("it starts");
            let (code, stdout, stderr) = ends(&output);
            assert_eq!(code, 2, "{arguments:?}: {stderr}{stdout}");
            assert!(stderr.contains(&format!("{name} is no cluster: corfu://HOST:PORT")), "{stderr}");
        }
    }
    assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 0, "nothing was made");
}

#[test]
fn numbers_that_cannot_work_are_refused_with_what_would() {
    let run = ["run", "transfer", "--log", "memory"];
    refused(2, &[&run[..], &["--clients", "0"]].concat(), "from 1 to 1024 clients");
    refused(2, &[&run[..], &["--clients", "4294967295"]].concat(), "and not 4294967295 with 2048");
    refused(2, &["run", "ycsb-a", "--operations", "4294967295"], "from 1 to 65536 operations");
    let nowhere = ["digest", "--log", "corfu://127.0.0.1:1"];
    for patience in ["0", "-1", "NaN", "1e10"] {
        let arguments = [&nowhere[..], &["--patience", patience]].concat();
        refused(2, &arguments, "from 0.001 to a billion seconds");
    }
    refused(2, &["cluster", "monitor", "--replicas", "0"], "--replicas");
    let bytes = (u64::MAX / 2).to_string();
    refused(2, &["run", "transfer", "--checkpoint-bytes", &bytes], &format!("and not for every {bytes}"));
}

#[test]
fn as_many_in_flight_as_there_are_numbers_is_no_limit() {
    for in_flight in [u64::from(u32::MAX), u64::MAX] {
        let in_flight = in_flight.to_string();
        let run_few = [&["run", "transfer", "--log", "memory", "--in-flight", &in_flight], &FEW[..]].concat();
        let (code, stdout, stderr) = run(&run_few);
        assert_eq!(code, 0, "{stderr}{stdout}");
    }
}

#[test]
fn the_greatest_position_is_one_that_no_log_reaches() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    transfers(&log);
    let last = u64::MAX.to_string();
    for command in [&["replay", "--to"], &["digest", "--at"]] {
        let arguments = [command[0], "--log", path(&log), command[1], &last];
        refused(2, &arguments, &format!("the log ends before position {last}"));
    }
    let (code, all, stderr) = run(&["log", "dump", path(&log)]);
    assert_eq!(code, 0, "{stderr}");
    let (code, dumped, stderr) = run(&["log", "dump", path(&log), "--to", &last]);
    assert_eq!((code, dumped), (0, all), "{stderr}");
}

#[test]
fn clusters_that_cannot_be_started_say_why() {
    let directory = tempfile::tempdir().expect("a directory");
    let (file, new) = (directory.path().join("file"), directory.path().join("new"));
    fs::write(&file, "no directory").expect("it can be written");
    let up =
        |options: &[&'static str], at: &'static str| [&["cluster", "up", "--listen", at], options].concat();
    let any = "127.0.0.1:0";
    for (options, says) in [
        (&["--units", "0"][..], "0 units do not make chains of 2"),
        (&["--units", "4294967295", "--replicas", "1"], "4294967295 units and 0 spares are too many"),
        (&["--spares", "4294967295"], "4 units and 4294967295 spares are too many"),
    ] {
        refused(2, &[&up(options, any)[..], &["--dir", path(&new)]].concat(), says);
    }
    assert!(!new.exists(), "nothing was made");
    let cannot = format!("cannot use the directory {}: ", file.display());
    refused(4, &[&up(&[], any)[..], &["--dir", path(&file)]].concat(), &cannot);
    refused(4, &["projections", "--dir", path(&file), "--listen", any], &cannot);

    let listener = TcpListener::bind(any).expect("some port is free");
    let taken = listener.local_addr().expect("it listens").to_string();
    let in_use = format!("cannot listen on {taken}: Address already in use");
    for role in [&["projections", "--dir", path(&new)][..], &["unit", "--number", "1"], &["sequencer"]] {
        refused(4, &[role, &["--listen", &taken]].concat(), &in_use);
    }
    refused(2, &["projections", "--dir", path(&new), "--listen", "localhost"], "--listen");
    refused(2, &["cluster", "found", "--chain", ""], "\"\" is no chain");
}
