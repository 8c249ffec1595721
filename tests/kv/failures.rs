//! Crashes and errors: killed processes, readers that hang up, logs that do not fit.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command;
use std::thread;

use serde_json::{Value, json};

use crate::command::{Session, apply, command, digest, directory, dump, lines, path, refused, run, run_with};
use crate::equivalence::MODES;
use crate::oracle::{Oracle, assert_answer};
use crate::random::Random;

#[test]
fn killed_in_the_middle_and_sent_again_each_transaction_has_one_effect() {
    let mut random = Random(13);
    let requests: Vec<_> = (0..4000).map(|i| random.request(Some(format!("t{i}")))).collect();
    let input = lines(&requests);
    for (round, durability) in (0..).zip(["buffered", "flushed"]) {
        let directory = directory();
        let log = directory.path().join("log");
        let mut seen: BTreeMap<String, Value> = BTreeMap::new();
        for (crash, signal) in ["KILL", "KILL", "INT", "KILL", "TERM", "KILL"].into_iter().enumerate() {
            let mode = MODES[(round + crash) % MODES.len()];
            let mut session =
                Session::start(&[&["apply", "--log", path(&log), "--durability", durability], mode].concat());
            let mut stdin = session.stdin.take().expect("it is open");
            let stream = input.clone();
            // Open to the end: only the signal stops it.
            let writer = thread::spawn(move || {
                let _ = stdin.write_all(&stream);
                stdin
            });
            // Some more answers than the last time, and then the end, whatever is in flight.
            let until = 300 * (crash + 1) + random.below(300) as usize;
            let mut note = |answer: Value| {
                let id = answer["id"].as_str().expect("text").to_owned();
                let first = seen.entry(id).or_insert_with(|| answer.clone());
                assert_eq!(*first, answer, "the first answer stands");
            };
            (0..until).for_each(|_| note(session.answer()));
            let pid = session.child.id().to_string();
            let status = Command::new("kill").args(["-s", signal, &pid]).status().expect("kill starts");
            assert!(status.success());
            assert!(!session.child.wait().expect("it ends").success());
            drop(writer.join().expect("no panic"));
            // What was printed before the end counts, too.
            session.answers.iter().for_each(|line| note(serde_json::from_str(&line).expect("JSON")));
        }
        let answers = apply(&log, MODES[1], &requests);
        assert_eq!(apply(&log, MODES[2], &requests), answers);
        for answer in &answers {
            let id = answer["id"].as_str().expect("text");
            assert!(seen.get(id).is_none_or(|first| first == answer), "{id}: the first answer stands");
        }
        assert!(seen.len() >= 1800, "answers came before the crashes");
        let mut in_order: Vec<_> = answers.iter().zip(&requests).collect();
        in_order.sort_by_key(|(answer, _)| answer["position"][0].as_u64());
        let mut oracle = Oracle::default();
        for (answer, request) in in_order {
            let position = answer["position"][0].as_u64().expect("a position");
            assert_answer(answer, &oracle.apply(request, position), request);
        }
        assert_eq!(dump(&log, &[]), oracle.dump());
    }
}

#[test]
fn transaction_that_a_log_has_and_would_not_take_any_more_gets_its_first_answer() {
    let directory = directory();
    let log = directory.path().join("log");
    let put = |id: &str, bytes: usize| json!({"id": id, "ops": [["put", "t", "k", "x".repeat(bytes)]]});
    let first = apply(&log, &[], &[put("large", 60_000)]);
    let small = ["--segment-bytes", "65536"];
    let answers = apply(&log, &small, &[put("small", 1), put("large", 60_000), put("other", 60_000)]);
    assert_eq!(answers[0]["status"], "committed");
    assert_eq!(answers[1], first[0]);
    assert!(answers[2]["line"] == 3 && answers[2]["error"].to_string().contains("limit"), "{}", answers[2]);
}

#[test]
fn a_reader_that_hangs_up_ends_the_command_with_an_io_error() {
    let mut child = command(&["apply", "--log", "memory"]).spawn().expect("the command starts");
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().expect("it is piped");
    // Not closed: it must not wait for the end of the input either.
    stdin.write_all(&lines(&[json!({"ops": []})])).expect("the command reads");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(4));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("stdout was closed") && !stderr.contains("panicked"), "{stderr}");
}

#[test]
fn a_reader_that_hangs_up_when_answers_wait_for_it_ends_the_command_too() {
    let mut child = command(&["apply", "--log", "memory"]).spawn().expect("the command starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    let value = "x".repeat(100_000);
    stdin.write_all(&lines(&[json!({"ops": [["put", "t", "k", value]]})])).expect("the command reads");
    stdin.write_all(&lines(&[json!({"ops": [["get", "t", "k"]]})]).repeat(100)).expect("the command reads");
    let mut answers = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut line = String::new();
    answers.read_line(&mut line).and_then(|_| answers.read_line(&mut line)).expect("answers come");
    drop(answers);
    let output = child.wait_with_output().expect("it ends, though nothing more is to come");
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("stdout was closed"));
    drop(stdin);
}

#[test]
fn logs_that_do_not_fit_are_refused() {
    let directory = directory();
    let (store, bank) = (directory.path().join("store"), directory.path().join("bank"));
    apply(&store, &[], &[json!({"ops": [["put", "t", "k", 1]]})]);
    let run_transfer = |log: &Path| {
        run(&[
            "run",
            "transfer",
            "--accounts",
            "10",
            "--transactions",
            "9",
            "--json",
            "-",
            "--log",
            path(log),
        ])
    };
    let (code, report, _) = run_transfer(&bank);
    assert_eq!(code, 0);
    assert_eq!(run_transfer(&store).0, 2, "a store is no bank");
    refused(2, &["apply", "--log", path(&bank)], "the log needs procedure \"transfer");
    refused(2, &["dump", "--log", path(&bank)], "the log holds no generic store");
    refused(2, &["apply", "--log", "/tmp/x", "--durability", "memory"], "--log memory");
    refused(2, &["dump", "--log", "/nonexistent/log"], "no log at");
    refused(2, &["apply"], "--log");
    // Digests are printed for logs of all kinds, and are those that other commands print.
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let expected =
        format!("position {}\ndigest {}\n", report["position"], report["digest"].as_str().expect("text"));
    assert_eq!(digest(&bank, &[]), expected);
    assert_eq!(run(&["replay", "--log", path(&store)]).1, digest(&store, &[]));
    let (code, entries, _) = run(&["log", "dump", path(&store)]);
    assert_eq!((code, entries.lines().count()), (0, 2));
    assert!(
        entries.contains(r#""arguments":{"footprint":"exact","id":null,"ops":[["put","t","k",1]]}"#),
        "{entries}"
    );

    let log = mixlog::log::FileLog::open(&store, mixlog::log::file::Config::default()).expect("it opens");
    refused(2, &["apply", "--log", path(&store)], "in use by another process");
    mixlog::log::SharedLog::seal(&log).expect("it is sealed");
    drop(log);
    let output = run_with(&["apply", "--log", path(&store)], lines(&[json!({"ops": []})]));
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the log is sealed"));
    assert_eq!(dump(&store, &[]).lines().count(), 1);
}

#[test]
fn help_shows_formats_and_examples() {
    for command in ["apply", "dump", "digest"] {
        let (code, stdout, _) = run(&[command, "--help"]);
        assert!(code == 0 && stdout.contains("Examples:"), "{stdout}");
    }
    assert!(run(&["apply", "--help"]).1.contains(r#"["scan", table, from, to, limit]"#));
}
