//! What each line is answered, and when.

use std::io::Write;

use serde_json::{Value, json};

use crate::command::{
    Session, apply, apply_arguments, apply_bytes, command, directory, dump, lines, parse, path, refused,
    run_with,
};
use crate::oracle::{Oracle, assert_answer};

#[test]
fn every_operation_answers_as_documented() {
    let directory = directory();
    let log = directory.path().join("log");
    // Operations, and their results; or the operation that aborts.
    let steps: Vec<(Value, Result<Value, usize>)> = vec![
        (json!([]), Ok(json!([]))),
        (json!([["get", "t", "k"], ["delete", "t", "k"]]), Ok(json!([null, false]))),
        (json!([["put", "t", "k", "v"], ["get", "t", "k"]]), Ok(json!([null, "v"]))),
        (json!([["get", "t", "k"], ["get", "u", "k"], ["get", "t", "K"]]), Ok(json!(["v", null, null]))),
        (
            json!([["delete", "t", "k"], ["get", "t", "k"], ["delete", "t", "k"]]),
            Ok(json!([true, null, false])),
        ),
        (
            json!([["put", "t", "k", 1], ["put", "t", "k", null], ["get", "t", "k"]]),
            Ok(json!([null, null, null])),
        ),
        // Sums wrap; 2^63 and 1.0 are no integers of 64 bits with sign.
        (json!([["add", "n", "x", 5], ["add", "n", "x", -7]]), Ok(json!([5, -2]))),
        (json!([["add", "n", "y", i64::MAX], ["add", "n", "y", 1]]), Ok(json!([i64::MAX, i64::MIN]))),
        (
            json!([["put", "n", "f", 1.0], ["put", "n", "u", 1u64 << 63], ["put", "n", "s", "1"]]),
            Ok(json!([null, null, null])),
        ),
        (json!([["add", "n", "f", 1]]), Err(0)),
        (json!([["add", "n", "u", 1]]), Err(0)),
        (json!([["add", "n", "x", 100], ["add", "n", "s", 1]]), Err(1)),
        (json!([["get", "n", "x"]]), Ok(json!([-2]))),
        (
            json!([["merge_add", "n", "x", 3], ["merge_add", "n", "new", 4], ["get", "n", "x"]]),
            Ok(json!([null, null, 1])),
        ),
        (json!([["get", "n", "new"], ["merge_add", "n", "s", 4]]), Err(1)),
        (json!([["merge_add", "n", "new", i64::MAX], ["get", "n", "new"]]), Ok(json!([null, i64::MIN + 3]))),
        // Lists.
        (
            json!([["append", "l", "a", 1], ["append", "l", "a", [2]], ["get", "l", "a"]]),
            Ok(json!([1, 2, [1, [2]]])),
        ),
        (json!([["append", "l", "a", null], ["append", "l", "a", {}]]), Ok(json!([3, 4]))),
        (json!([["get", "l", "a"], ["append", "n", "x", 1]]), Err(1)),
        (
            json!([["append", "l", "a", 5], ["get", "l", "a"], ["append", "l", "a", 6]]),
            Ok(json!([5, [1, [2], null, {}, 5], 6])),
        ),
        (
            json!([["append", "l", "a", 7], ["delete", "l", "a"], ["append", "l", "a", 8]]),
            Ok(json!([7, true, 1])),
        ),
        (json!([["append", "l", "a", 9], ["add", "l", "a", 1]]), Err(1)),
        (
            json!([["get", "l", "a"], ["put", "l", "a", []], ["append", "l", "a", 1]]),
            Ok(json!([[8], null, 1])),
        ),
        // Compared by type and value.
        (
            json!([["cas", "c", "k", null, 1], ["cas", "c", "k", 1.0, 2], ["cas", "c", "k", 1, 2]]),
            Ok(json!([true, false, true])),
        ),
        (
            json!([["cas", "c", "k", "2", 3], ["cas", "c", "k", null, 3], ["get", "c", "k"]]),
            Ok(json!([false, false, 2])),
        ),
        (
            json!([["cas", "c", "k", 2, null], ["get", "c", "k"], ["cas", "c", "k", null, null]]),
            Ok(json!([true, null, true])),
        ),
        (
            json!([["put", "c", "o", {"b": 1, "a": [true]}], ["cas", "c", "o", {"a": [true], "b": 1}, {}]]),
            Ok(json!([null, true])),
        ),
        (json!([["append", "c", "l", 1]]), Ok(json!([1]))),
        (
            json!([["append", "c", "l", 2], ["cas", "c", "l", [1, 2], "x"], ["get", "c", "l"]]),
            Ok(json!([2, true, "x"])),
        ),
        // Scans: half-open, in the order of bytes, with own changes, of one table.
        (
            json!([
                ["put", "s", "b", 2],
                ["put", "s", "a", 1],
                ["put", "s", "é", 4],
                ["put", "s", "c", 3],
                ["put", "r", "b", 0]
            ]),
            Ok(json!([null, null, null, null, null])),
        ),
        (json!([["scan", "s", "a", "c", 9]]), Ok(json!([[["a", 1], ["b", 2]]]))),
        (json!([["scan", "s", "", "\u{10ffff}", 3]]), Ok(json!([[["a", 1], ["b", 2], ["c", 3]]]))),
        (json!([["scan", "s", "c", "\u{10ffff}", 9]]), Ok(json!([[["c", 3], ["é", 4]]]))),
        (
            json!([["scan", "s", "c", "a", 9], ["scan", "s", "a", "a", 9], ["scan", "s", "a", "c", 0]]),
            Ok(json!([[], [], []])),
        ),
        (
            json!([
                ["delete", "s", "b"],
                ["put", "s", "bb", 5],
                ["add", "s", "a", 1],
                ["append", "s", "aa", 6],
                ["scan", "s", "a", "c", 9]
            ]),
            Ok(json!([true, null, 2, 1, [["a", 2], ["aa", [6]], ["bb", 5]]])),
        ),
        (json!([["append", "s", "aa", 7], ["scan", "s", "aa", "b", 9]]), Ok(json!([2, [["aa", [6, 7]]]]))),
        (json!([["scan", "nothing", "a", "z", 9]]), Ok(json!([[]]))),
        // Aborts change nothing, whatever was before them.
        (json!([["put", "t", "z", 1], ["abort_if", "t", "z", 1]]), Err(1)),
        (json!([["abort_if", "t", "z", null]]), Err(0)),
        (
            json!([["abort_if", "t", "z", 1], ["abort_if", "n", "f", 1], ["abort_if", "n", "f", 1.5]]),
            Ok(json!([null, null, null])),
        ),
        (json!([["delete", "s", "a"], ["append", "s", "aa", 8], ["abort_if", "n", "f", 1.0]]), Err(2)),
        (
            json!([["scan", "s", "a", "b", 9], ["get", "t", "z"]]),
            Ok(json!([[["a", 2], ["aa", [6, 7]]], null])),
        ),
    ];
    let requests: Vec<_> =
        steps.iter().zip(0..).map(|((ops, _), id)| json!({"id": format!("{id}"), "ops": ops})).collect();
    let answers = apply(&log, &[], &requests);
    let mut oracle = Oracle::default();
    for ((answer, (ops, expected)), position) in answers.iter().zip(&steps).zip(1..) {
        assert_eq!(answer["id"], json!((position - 1).to_string()));
        assert_eq!(answer["position"], json!([position, 0]));
        match expected {
            Ok(results) => {
                assert_eq!((&answer["status"], &answer["results"]), (&json!("committed"), results), "{ops}");
                assert!(answer.get("reason").is_none());
            }
            Err(op) => {
                assert_eq!((&answer["status"], &answer["results"]), (&json!("aborted"), &json!([])), "{ops}");
                let reason = answer["reason"].as_str().expect("text");
                assert!(reason.starts_with(&format!("ops[{op}]: the value is ")), "{reason}");
            }
        }
        let request = &requests[position as usize - 1];
        assert_answer(answer, &oracle.apply(request, position), request);
    }
    assert_eq!(dump(&log, &[]), oracle.dump());
}

#[test]
fn a_line_as_documented_is_answered_byte_for_byte() {
    let directory = directory();
    let log = directory.path().join("log");
    let input = concat!(
        r#"{"id": "c1-17", "ops": [["put", "t", "k", {"b": 1.50, "a": "\u00e9"}], ["get", "t", "k"]]}"#,
        "\r\n",
        r#"  {"footprint": "none", "ops": [["abort_if", "t", "k", null], ["add", "t", "k", 1]]}"#,
    );
    let output = run_with(&apply_arguments(&log, &[]), input.into());
    let expected = concat!(
        r#"{"id":"c1-17","position":[1,0],"status":"committed","results":[null,{"a":"é","b":1.5}]}"#,
        "\n",
        r#"{"id":null,"position":[2,0],"status":"aborted","results":[],"#,
        r#""reason":"ops[1]: the value is no 64-bit signed integer"}"#,
        "\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert_eq!(dump(&log, &[]), "{\"table\":\"t\",\"key\":\"k\",\"value\":{\"a\":\"é\",\"b\":1.5}}\n");
}

#[test]
fn malformed_lines_are_answered_in_their_place_and_stop_nothing() {
    let directory = directory();
    let log = directory.path().join("log");
    let good = |key: &str| json!({"ops": [["put", "t", key, 1]]}).to_string().into_bytes();
    let of_length = |length: usize| {
        let empty = json!({"ops": [["put", "t", "long", ""]]}).to_string();
        let text = "x".repeat(length - empty.len());
        json!({"ops": [["put", "t", "long", text]]}).to_string().into_bytes()
    };
    let floats =
        |count: usize| format!(r#"{{"ops":[["put","t","floats",[{}0.0]]]}}"#, "0.0,".repeat(count - 1));
    let wrong = |says: &'static str| Some(says);
    let input: Vec<(Vec<u8>, Option<&str>)> = vec![
        (good("1"), None),
        (b"{\"ops\":".to_vec(), wrong("EOF while parsing a value at column 7")),
        (b"[]".to_vec(), wrong("a transaction is a JSON object")),
        (b"{\"ops\":[[\"get\",\"t\",\"\xff\"]]}".to_vec(), wrong("not UTF-8 at column 21")),
        (good("5"), None),
        (of_length((1 << 20) + 1), wrong("a line is at most 1048576 bytes long")),
        (vec![b'['; 5 << 20], wrong("a line is at most 1048576 bytes long")),
        (vec![b'['; 1 << 20], wrong("a transaction is a JSON object")),
        (format!("{{\"ops\":{}", "[".repeat(1 << 19)).into(), wrong("nests deeper than 100")),
        (of_length(1 << 20), None),
        // Stored, a float is more than twice as long as this.
        (floats((1 << 18) - 20).into(), None),
        (br#"{"ops":[["get","t"]]}"#.to_vec(), wrong("get takes 2 arguments (table, key), not 1")),
        (br#"{"ops":[["scan","t","a","b",-1]]}"#.to_vec(), wrong("must be an integer from 0, not -1")),
        (br#"{"id":1,"ops":[]}"#.to_vec(), wrong("expected a string")),
        (br#"{"ops":[["put","t","k",{"a":1,"a":1}]]}"#.to_vec(), wrong(r#"the key "a" twice"#)),
        (good("16"), None),
        // A form feed is no white space of JSON, and a surrogate alone no character.
        (b"\x0c".to_vec(), wrong("a transaction is a JSON object")),
        ([good("18"), b"\x0c".to_vec()].concat(), wrong("trailing characters")),
        ([good("19"), b" \t\r".to_vec()].concat(), None),
        (br#"{"ops":[["get","t","\udc00"]]}"#.to_vec(), wrong("a surrogate that stands alone")),
        (br#"{"ops":[["cas","t","1",1,-0],["abort_if","t","1",0.0],["cas","t","1",0,1]]}"#.to_vec(), None),
    ];
    let stdin: Vec<u8> = input.iter().map(|(line, _)| line.as_slice()).collect::<Vec<_>>().join(&b'\n');
    let answers = apply_bytes(&log, &[], stdin);
    assert_eq!(answers.len(), input.len());
    for ((answer, (_, expected)), line) in answers.iter().zip(&input).zip(1..) {
        match expected {
            None => {
                assert_eq!(answer["status"], "committed", "line {line}: {answer}");
                assert!(!answer["results"].to_string().contains("false"), "line {line}: {answer}");
            }
            Some(says) => {
                assert_eq!(answer["line"], line, "{answer}");
                let error = answer["error"].as_str().expect("text");
                assert!(error.contains(says), "line {line}: {error}");
                assert_eq!(answer.as_object().map(serde_json::Map::len), Some(2));
            }
        }
    }
    // Empty lines are counted, and not answered.
    let answers = apply_bytes(&log, &[], b"\n  \r\n?\n\n".to_vec());
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0]["line"], 3);
    assert!(apply_bytes(&log, &[], Vec::new()).is_empty());
}

#[test]
fn answers_come_without_waiting_for_more_input() {
    let directory = directory();
    let log = directory.path().join("log");
    let mut session = Session::start(&apply_arguments(&log, &[]));
    let line = |amount: u64| lines(&[json!({"ops": [["add", "t", "k", amount]]})]);
    let mut sum = 0;
    for round in 1..50 {
        // One line, some lines, half a line and the rest.
        session.send(&line(round));
        sum += round;
        assert_eq!(session.answer()["results"], json!([sum]));
        session.send(&line(1).repeat(20));
        let (half, rest) = (&line(1)[..10], &line(1)[10..]);
        session.send(half);
        for _ in 0..20 {
            sum += 1;
            assert_eq!(session.answer()["results"], json!([sum]));
        }
        session.send(rest);
        session.send(b"?\n");
        sum += 1;
        assert_eq!(session.answer()["results"], json!([sum]));
        assert!(session.answer()["line"].is_u64());
    }
    refused(2, &["dump", "--log", path(&log)], "in use by another process");
    drop(session.stdin.take());
    assert_eq!(session.child.wait().expect("it ends").code(), Some(0));
    assert!(session.answers.recv().is_err(), "nothing more is printed");
}

#[test]
fn many_transactions_are_in_flight_and_answered_in_log_order() {
    let directory = directory();
    let log = directory.path().join("log");
    let requests: Vec<_> = (0..50_000u64)
        .map(|i| json!({"id": format!("{i}"), "ops": [["add", "t", format!("{}", i % 1000), 1]]}))
        .collect();
    let answers = apply(&log, &["--threads", "2"], &requests);
    for (i, answer) in (0..).zip(&answers) {
        assert_eq!(answer["id"], json!(i.to_string()));
        assert_eq!(answer["position"], json!([i + 1, 0]));
        assert_eq!(answer["results"], json!([i / 1000 + 1]));
    }
}

#[test]
fn all_lines_can_be_written_before_the_first_answer_is_read() {
    let directory = directory();
    let log = directory.path().join("log");
    let requests: Vec<_> =
        (0..30_000u64).map(|i| json!({"id": format!("{i}"), "ops": [["get", "t", "long"]]})).collect();
    let mut child = command(&apply_arguments(&log, &[])).spawn().expect("the command starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    // Some 16 MB of answers: more than any pipe holds.
    stdin.write_all(&lines(&[json!({"ops": [["put", "t", "long", "x".repeat(500)]]})])).expect("it reads");
    stdin.write_all(&lines(&requests)).expect("it reads on");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let answers = parse(&output.stdout);
    assert_eq!(answers.len(), 30_001);
    for (i, answer) in answers[1..].iter().enumerate() {
        assert_eq!(answer["id"], json!(i.to_string()));
        assert_eq!(answer["results"][0].as_str().map(str::len), Some(500));
    }
}

#[test]
fn what_was_answered_is_counted_behind_the_explanation() {
    let directory = directory();
    let log = directory.path().join("log");
    let stdin = concat!(
        "{\"ops\": [[\"put\", \"t\", \"k\", 1]]}\n",
        "{\"ops\": [[\"abort_if\", \"t\", \"k\", 1]]}\n",
        "{\"ops\": [[\"abort_if\", \"t\", \"k\", 1]]}\n",
        "{\"ops\": [[\"abort_if\", \"t\", \"k\", 2]]}\n",
        "nothing\n",
    );
    let stderr = |options: &[&str]| {
        let output = run_with(&apply_arguments(&log, options), stdin.as_bytes().to_vec());
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let told = "answers: 2 committed, 2 aborted, 1 lines refused\n";
    assert!(stderr(&["--explain"]).contains(told));
    assert!(!stderr(&[]).contains("answers:"), "only if asked for");
}
