//! Answers, dumps and digests are those of the oracle, whatever the mode, the threads and the footprints.

use std::path::Path;
use std::sync::Arc;

use mixlog::kv::{self, Answer, Transaction};
use mixlog::log::MemoryLog;
use mixlog::{Engine, Mode};
use serde_json::{Value, json};

use crate::command::{apply, digest, directory, dump, path, refused};
use crate::oracle::{Oracle, assert_answer};
use crate::random::Random;

pub(crate) const MODES: [&[&str]; 5] = [
    &["--threads", "1", "--mode", "sequential"],
    &["--threads", "2", "--mode", "parallel", "--window", "64"],
    &["--threads", "4", "--mode", "parallel", "--window", "7"],
    &["--threads", "3", "--mode", "parallel", "--window", "4096"],
    &[],
];

const THREADS: [&str; 4] = ["1", "2", "4", "8"];
const WINDOWS: [&str; 4] = ["1", "7", "64", "4096"];

/// A quarter of all numbers of threads with all lengths of windows: each of either once. Four turns make all of them.
fn quarter(turn: usize) -> impl Iterator<Item = [&'static str; 6]> {
    THREADS.into_iter().enumerate().map(move |(number, threads)| {
        ["--threads", threads, "--mode", "parallel", "--window", WINDOWS[(number + turn) % WINDOWS.len()]]
    })
}

/// Applies the requests, and checks every answer.
fn apply_and_check(log: &Path, options: &[&str], oracle: &mut Oracle, next: &mut u64, requests: &[Value]) {
    for (answer, request) in apply(log, options, requests).iter().zip(requests) {
        assert_answer(answer, &oracle.apply(request, *next), request);
        // Each line is an entry, also one that only repeats an answer.
        *next += 1;
    }
}

#[test]
fn random_transactions_answer_and_dump_as_the_oracle() {
    for (seed, options) in (0..).zip(MODES) {
        let directory = directory();
        let log = directory.path().join("log");
        let mut random = Random(seed);
        let mut oracle = Oracle::default();
        let mut next = 1;
        for restart in 0..3 {
            let requests: Vec<_> = (0..1500)
                .map(|_| {
                    // Ids come again, in the same run and in later ones, with other operations.
                    let id = (random.below(3) > 0).then(|| format!("id{}", random.below(1500)));
                    random.request(id)
                })
                .collect();
            let options = if restart == 1 { &[] } else { options };
            apply_and_check(&log, options, &mut oracle, &mut next, &requests);
            assert_eq!(dump(&log, options), oracle.dump(), "seed {seed}, restart {restart}");
        }
        let expected = digest(&log, MODES[0]);
        assert!(expected.starts_with(&format!("position {}\ndigest ", next - 1)), "{expected}");
        for options in MODES {
            assert_eq!(digest(&log, options), expected, "seed {seed}, {options:?}");
        }
        for options in quarter(seed as usize) {
            assert_eq!(digest(&log, &options), expected, "seed {seed}, {options:?}");
            assert_eq!(dump(&log, &options), oracle.dump(), "seed {seed}, {options:?}");
        }
        let aborted = oracle.answers.values().filter(|answer| answer["status"] == "aborted").count();
        assert!(aborted > 50 && aborted * 2 < oracle.answers.len(), "{aborted} aborted");
        assert!(!dump(&log, &[]).contains("kv.answers"));
    }
}

#[test]
fn dump_and_digest_at_every_position_are_those_of_the_oracle() {
    let directory = directory();
    let log = directory.path().join("log");
    let mut random = Random(99);
    let requests: Vec<_> = (0..60).map(|i| random.request(Some(format!("{}", i % 50)))).collect();
    apply(&log, &[], &requests);
    let mut oracle = Oracle::default();
    // The log begins with an entry that names procedures and tables.
    assert_eq!(dump(&log, &["--at", "0"]), "");
    for (request, position) in requests.iter().zip(1..) {
        oracle.apply(request, position);
        let at = ["--at", &position.to_string()];
        assert_eq!(dump(&log, &at), oracle.dump(), "at {position}");
        let [one, other] = [MODES[0], MODES[2]].map(|mode| digest(&log, &[&at[..], mode].concat()));
        assert_eq!(one, other);
        assert!(one.starts_with(&format!("position {position}\n")));
    }
    refused(2, &["dump", "--log", path(&log), "--at", "61"], "ends before position 61");
    refused(2, &["digest", "--log", path(&log), "--at", "61"], "ends before position 61");
    refused(2, &["dump", "--log", path(&log), "--at", "-1"], "--at");
}

/// The same, embedded; and what is called exact leaves nothing out.
#[test]
fn exact_footprints_are_never_left() {
    let log = Arc::new(MemoryLog::new());
    let builder = kv::register(Engine::builder()).threads(2).mode(Mode::Parallel);
    let engine = builder.open(log).expect("it opens");
    let mut random = Random(21);
    let mut oracle = Oracle::default();
    let tickets: Vec<_> = (0..5000)
        .map(|i| {
            let mut request = random.request((i % 3 > 0).then(|| format!("{}", i % 4000)));
            request["footprint"] = json!("exact");
            let transaction: Transaction = request.to_string().parse().expect("it is one");
            (request, engine.submit(&transaction).expect("it is submitted"))
        })
        .collect();
    for ((request, ticket), position) in tickets.into_iter().zip(1..) {
        let expected = oracle.apply(&request, position);
        match ticket.wait().expect("it is answered").committed().expect("it commits, even if it aborts") {
            Answer::Committed { position, results } => {
                assert_eq!(expected["position"][0], position);
                assert_eq!(serde_json::to_value(results).expect("JSON"), expected["results"]);
            }
            Answer::Aborted { position, reason } => {
                assert_eq!(expected["position"][0], position);
                assert!(reason.to_string().starts_with(expected["reason"].as_str().expect("an abort")));
            }
        }
    }
    let stats = engine.stats();
    assert_eq!((stats.violations, stats.replays, stats.aborts, stats.panics), (0, 0, 0, 0));
    assert!(stats.batches > 0);
    assert_eq!(engine.snapshot().len(&kv::ROWS), oracle.rows.len());
    assert_eq!(engine.snapshot().len(&kv::ANSWERS), oracle.answers.len());
}

#[test]
fn footprints_change_no_answer_and_no_state() {
    let mut random = Random(5);
    let requests: Vec<_> = (0..400).map(|i| random.request(Some(format!("{}", i % 350)))).collect();
    let expected = {
        let mut oracle = Oracle::default();
        let answers: Vec<_> = (1..).zip(&requests).map(|(at, request)| oracle.apply(request, at)).collect();
        (answers, oracle.dump())
    };
    let footprints =
        [json!("exact"), json!("none"), json!([]), json!([["a", "k1", "read"], ["b", "", "write"]])];
    let all =
        footprints.iter().flat_map(|footprint| (0..4).flat_map(quarter).map(move |mode| (footprint, mode)));
    for (footprint, options) in all {
        let directory = directory();
        let log = directory.path().join("log");
        let mut requests = requests.clone();
        requests.iter_mut().for_each(|request| request["footprint"] = footprint.clone());
        let answers = apply(&log, &options, &requests);
        for ((answer, expected), request) in answers.iter().zip(&expected.0).zip(&requests) {
            assert_answer(answer, expected, request);
        }
        assert_eq!(dump(&log, &[]), expected.1);
    }
}
