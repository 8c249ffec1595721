//! `mixlog replica`: several engines execute one log, and agree.

use std::path::Path;
use std::process::{Command, Output};

fn mixlog(arguments: &[&str], log: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mixlog"))
        .args(arguments)
        .arg("--log")
        .arg(log)
        .output()
        .expect("the command starts")
}

fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    line.trim()
}

#[test]
fn replicas_of_a_workload_agree_and_leave_a_log_that_is_the_same_to_others() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let run = mixlog(&["run", "tpcc", "--small", "--warehouses", "1", "--transactions", "6000"], &log);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    for replicas in ["2", "4"] {
        let output = mixlog(&["replica", "--replicas", replicas], &log);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!(value(&text, "replicas"), replicas);
        let position: u64 = value(&text, "position").parse().expect("a position");
        assert!(position >= 6000 && (position + 1).is_multiple_of(4096), "{text}");
        assert!(!text.contains("repaired"), "{text}");
        let digest = mixlog(&["digest"], &log);
        let found = String::from_utf8(digest.stdout).expect("UTF-8");
        assert_eq!(value(&found, "digest"), value(&text, "digest"));
    }
    let empty = mixlog(&["replica"], &directory.path().join("nothing"));
    assert!(!empty.status.success());
}

#[test]
fn member_of_several_processes_refuses_options_about_checkpoints_that_it_would_not_take() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    for (option, rest) in [
        ("--checkpoint-bytes", &["1000000"][..]),
        ("--checkpoint-seconds", &["5"]),
        ("--keep-checkpoints", &["3"]),
        ("--keep-log", &[]),
    ] {
        let options = [&[option], rest].concat();
        let output =
            mixlog(&[&["replica", "--member", "b", "--members", "a,b"], &options[..]].concat(), &log);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{option}: {error}");
        let says = format!("{option} does not go with --member");
        assert!(error.contains(&says) && error.contains("mixlog run or apply"), "{option}: {error}");
        // Replicas of one process take checkpoints: what they miss is the log.
        let output = mixlog(&[&["replica"], &options[..]].concat(), &log);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!error.contains("does not go with"), "{option}: {error}");
    }
}
