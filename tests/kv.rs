//! The generic store as its users meet it, through the command: against an oracle that knows nothing of the engine.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use mixlog::kv::{self, Answer, Transaction};
use mixlog::log::MemoryLog;
use mixlog::{Engine, Mode};
use serde_json::{Value, json};

// ------------------------------------------------------------------------------------------------ the command

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixlog"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Runs the command with this on stdin.
fn run_with(arguments: &[&str], stdin: Vec<u8>) -> Output {
    let mut child = command(arguments).spawn().expect("the command starts");
    let mut pipe = child.stdin.take().expect("it is piped");
    // A command that fails hangs up.
    let writer = thread::spawn(move || drop(pipe.write_all(&stdin)));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("no panic");
    output
}

/// Exit code, stdout, stderr.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = run_with(arguments, Vec::new());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("it was not killed"), text(output.stdout), text(output.stderr))
}

fn refused(code: i32, arguments: &[&str], says: &str) {
    let (found, stdout, stderr) = run(arguments);
    assert_eq!(found, code, "{arguments:?}: {stderr}{stdout}");
    assert!(stderr.contains(says), "{arguments:?} says {stderr:?}, and not {says:?}");
}

fn parse(lines: &[u8]) -> Vec<Value> {
    let lines = std::str::from_utf8(lines).expect("answers are UTF-8");
    lines.lines().map(|line| serde_json::from_str(line).expect("answers are JSON")).collect()
}

fn apply_arguments<'a>(log: &'a Path, options: &[&'a str]) -> Vec<&'a str> {
    [&["apply", "--log", path(log), "--durability", "buffered"], options].concat()
}

/// Applies the lines, and gives the answers.
fn apply_bytes(log: &Path, options: &[&str], stdin: Vec<u8>) -> Vec<Value> {
    let output = run_with(&apply_arguments(log, options), stdin);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    parse(&output.stdout)
}

fn lines(requests: &[Value]) -> Vec<u8> {
    requests.iter().flat_map(|request| format!("{request}\n").into_bytes()).collect()
}

fn apply(log: &Path, options: &[&str], requests: &[Value]) -> Vec<Value> {
    let answers = apply_bytes(log, options, lines(requests));
    assert_eq!(answers.len(), requests.len(), "one answer a line");
    answers
}

fn dump(log: &Path, options: &[&str]) -> String {
    let (code, stdout, stderr) = run(&[&["dump", "--log", path(log)], options].concat());
    assert_eq!((code, stderr), (0, String::new()));
    stdout
}

fn digest(log: &Path, options: &[&str]) -> String {
    let (code, stdout, stderr) = run(&[&["digest", "--log", path(log)], options].concat());
    assert_eq!((code, stderr), (0, String::new()));
    stdout
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

// ------------------------------------------------------------------------------------------------- the oracle

/// The store, done one by one on a sorted map.
#[derive(Default)]
struct Oracle {
    rows: BTreeMap<(String, String), Value>,
    answers: BTreeMap<String, Value>,
}

type Rows = BTreeMap<(String, String), Value>;

impl Oracle {
    /// The answer to a request whose entry stands at `position`.
    fn apply(&mut self, request: &Value, position: u64) -> Value {
        let id = &request["id"];
        if let Some(first) = id.as_str().and_then(|id| self.answers.get(id)) {
            return first.clone();
        }
        let mut rows = self.rows.clone();
        let mut results = Vec::new();
        let mut reason = None;
        for (index, op) in request["ops"].as_array().expect("a list").iter().enumerate() {
            match Self::operate(&mut rows, op.as_array().expect("a list")) {
                Some(result) => results.push(result),
                None => {
                    reason = Some(format!("ops[{index}]"));
                    break;
                }
            }
        }
        let answer = match reason {
            None => {
                self.rows = rows;
                json!({"id": id, "position": [position, 0], "status": "committed", "results": results})
            }
            Some(reason) => {
                json!({"id": id, "position": [position, 0], "status": "aborted", "results": [], "reason": reason})
            }
        };
        if let Some(id) = id.as_str() {
            self.answers.insert(id.to_owned(), answer.clone());
        }
        answer
    }

    /// The result, or `None` for an abort.
    fn operate(rows: &mut Rows, op: &[Value]) -> Option<Value> {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let key = (text(&op[1]), text(&op[2]));
        let old = rows.get(&key).cloned().unwrap_or(Value::Null);
        let mut put = |value: Value| {
            if value.is_null() {
                rows.remove(&key)
            } else {
                rows.insert(key.clone(), value)
            };
        };
        Some(match op[0].as_str().expect("text") {
            "get" => old,
            "put" => {
                put(op[3].clone());
                Value::Null
            }
            "delete" => {
                put(Value::Null);
                json!(!old.is_null())
            }
            name @ ("add" | "merge_add") => {
                let old = if old.is_null() { 0 } else { old.as_i64()? };
                let sum = old.wrapping_add(op[3].as_i64().expect("an integer"));
                put(json!(sum));
                if name == "add" { json!(sum) } else { Value::Null }
            }
            "append" => {
                let mut list = if old.is_null() { Vec::new() } else { old.as_array()?.clone() };
                list.push(op[3].clone());
                let length = list.len();
                put(Value::Array(list));
                json!(length)
            }
            "cas" => {
                let matches = old == op[3];
                if matches {
                    put(op[4].clone());
                }
                json!(matches)
            }
            "scan" => {
                let limit = op[4].as_u64().expect("a limit") as usize;
                let is_inside =
                    |(table, row): &(String, String)| *table == key.0 && *row >= key.1 && *row < text(&op[3]);
                let inside = rows.iter().filter(|(row, _)| is_inside(row)).take(limit);
                Value::Array(inside.map(|((_, row), value)| json!([row, value])).collect())
            }
            "abort_if" if old == op[3] => return None,
            "abort_if" => Value::Null,
            other => panic!("{other}"),
        })
    }

    /// What `mixlog dump` prints.
    fn dump(&self) -> String {
        let line = |((table, key), value): (&(String, String), &Value)| {
            format!("{{\"table\":{},\"key\":{},\"value\":{value}}}\n", json!(table), json!(key))
        };
        self.rows.iter().map(line).collect()
    }
}

/// The same answer, and of the reason the operation that it names.
fn assert_answer(found: &Value, expected: &Value, request: &Value) {
    let mut found = found.clone();
    if let Some(reason) = expected["reason"].as_str() {
        let said = found["reason"].as_str().expect("an abort has a reason").to_owned();
        assert!(said.starts_with(&format!("{reason}: ")), "{said:?} instead of {reason}: {request}");
        found["reason"] = json!(reason);
    }
    assert_eq!(found, *expected, "{request}");
}

// ---------------------------------------------------------------------------------------- random transactions

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn of<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize].clone()
    }

    /// Few tables and keys, so that transactions meet; some sort in unexpected places.
    fn table(&mut self) -> &'static str {
        self.of(&["a", "b", "tä", ""])
    }

    fn key(&mut self) -> String {
        match self.below(12) {
            0 => String::new(),
            1 => self.of(&["é", "\u{ffff}", "\u{1f600}", "a\0", "\"\\\n"]).to_owned(),
            _ => format!("k{}", self.below(12)),
        }
    }

    fn value(&mut self, depth: u64) -> Value {
        match self.below(if depth == 0 { 8 } else { 10 }) {
            0 => Value::Null,
            1 => json!(self.below(2) == 0),
            2 | 3 => json!(self.below(3)),
            4 => json!(self.below(3) as f64),
            5 => json!(f64::from_bits(self.next() >> 2)),
            6 => self.of(&[json!(u64::MAX), json!(i64::MIN), json!(i64::MAX), json!(1u64 << 63)]),
            7 => json!(self.of(&["", "x", "y", "ü\u{0}\u{1f600}"])),
            8 => Value::Array((0..self.below(4)).map(|_| self.value(depth - 1)).collect()),
            _ => Value::Object((0..self.below(4)).map(|_| (self.key(), self.value(depth - 1))).collect()),
        }
    }

    fn op(&mut self) -> Value {
        let (table, key) = (self.table(), self.key());
        match self.below(24) {
            0..=3 => json!(["get", table, key]),
            4..=6 => json!(["put", table, key, self.value(2)]),
            7 | 8 => json!(["delete", table, key]),
            9..=11 => json!(["add", table, key, self.below(10) as i64 - 5]),
            12 => json!(["add", table, key, self.of(&[i64::MAX, i64::MIN])]),
            13..=15 => json!(["append", table, key, self.value(1)]),
            16..=18 => json!(["cas", table, key, self.value(0), self.value(1)]),
            19 | 20 => json!(["scan", table, key, self.key(), self.of(&[0, 1, 3, 100, u64::MAX])]),
            21 => json!(["scan", table, "", "\u{10ffff}", self.below(8)]),
            22 => json!(["abort_if", table, key, self.value(0)]),
            _ => json!(["merge_add", table, key, self.below(10) as i64 - 5]),
        }
    }

    fn request(&mut self, id: Option<String>) -> Value {
        let ops: Vec<_> = (0..self.below(6)).map(|_| self.op()).collect();
        let mut request = json!({"ops": ops});
        if let Some(id) = id {
            request["id"] = json!(id);
        }
        match self.below(8) {
            0 => request["footprint"] = json!("none"),
            1 => {
                let modes = ["read", "write"];
                let rows: Vec<_> =
                    (0..self.below(4)).map(|_| json!([self.table(), self.key(), self.of(&modes)])).collect();
                request["footprint"] = json!(rows);
            }
            2 => request["footprint"] = json!("exact"),
            _ => {}
        }
        request
    }
}

// ---------------------------------------------------------------------------------------------------- answers

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
    ];
    let stdin: Vec<u8> = input.iter().map(|(line, _)| line.as_slice()).collect::<Vec<_>>().join(&b'\n');
    let answers = apply_bytes(&log, &[], stdin);
    assert_eq!(answers.len(), input.len());
    for ((answer, (_, expected)), line) in answers.iter().zip(&input).zip(1..) {
        match expected {
            None => assert_eq!(answer["status"], "committed", "line {line}: {answer}"),
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

/// A child with lines going in and lines coming out.
struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: mpsc::Receiver<String>,
}

impl Session {
    fn start(arguments: &[&str]) -> Self {
        let mut child = command(arguments).stderr(Stdio::null()).spawn().expect("the command starts");
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            // What a killed process printed half is no line.
            while stdout.read_line(&mut line).is_ok_and(|bytes| bytes > 0) && line.ends_with('\n') {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    return;
                }
            }
        });
        Self { child, stdin, answers }
    }

    fn send(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("it is open");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("the command reads");
    }

    fn answer(&self) -> Value {
        let line =
            self.answers.recv_timeout(Duration::from_secs(60)).expect("an answer comes without more input");
        serde_json::from_str(&line).expect("JSON")
    }
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

// ----------------------------------------------------------------------------------------- against the oracle

const MODES: [&[&str]; 5] = [
    &["--threads", "1", "--mode", "sequential"],
    &["--threads", "2", "--mode", "parallel", "--window", "64"],
    &["--threads", "4", "--mode", "parallel", "--window", "7"],
    &["--threads", "3", "--mode", "parallel", "--window", "4096"],
    &[],
];

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
    let requests: Vec<_> = (0..800).map(|i| random.request(Some(format!("{}", i % 700)))).collect();
    let expected = {
        let mut oracle = Oracle::default();
        let answers: Vec<_> = (1..).zip(&requests).map(|(at, request)| oracle.apply(request, at)).collect();
        (answers, oracle.dump())
    };
    for footprint in
        [json!("exact"), json!("none"), json!([]), json!([["a", "k1", "read"], ["b", "", "write"]])]
    {
        let directory = directory();
        let log = directory.path().join("log");
        let mut requests = requests.clone();
        requests.iter_mut().for_each(|request| request["footprint"] = footprint.clone());
        let answers = apply(&log, &["--threads", "2", "--mode", "parallel"], &requests);
        for ((answer, expected), request) in answers.iter().zip(&expected.0).zip(&requests) {
            assert_answer(answer, expected, request);
        }
        assert_eq!(dump(&log, &[]), expected.1);
    }
}

// -------------------------------------------------------------------------------------------- crashes, errors

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

/// A real full disk: a small file system in memory, where the machine lets us mount one.
#[test]
fn a_full_disk_is_an_io_error_and_every_answer_before_stands() {
    let directory = directory();
    let mount = directory.path().join("small");
    fs::create_dir(&mount).expect("a directory");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=140m", "tmpfs", path(&mount)])
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        assert!(std::env::var_os("CI").is_none(), "CI runs as root and can mount a tmpfs");
        eprintln!("skipped: only root can mount a file system to fill");
        return;
    }
    let log = mount.join("log");
    let text = "x".repeat(1_000_000);
    let stdin = lines(&vec![json!({"ops": [["add", "t", "count", 1], ["put", "t", "text", text]]}); 200]);
    let output = run_with(&["apply", "--log", path(&log)], stdin);
    let (answers, state) = (parse(&output.stdout), dump(&log, &[]));
    let unmounted = Command::new("umount").arg(path(&mount)).status().expect("umount starts");
    assert!(unmounted.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("no space left"), "{stderr}");
    let last = answers.last().expect("some fit")["results"][0].as_u64().expect("a number");
    assert_eq!(answers.len() as u64, last);
    let count: Value = serde_json::from_str(state.lines().next().expect("a row")).expect("JSON");
    assert!(count["value"].as_u64().expect("a number") >= last, "nothing answered is lost");
}

#[test]
fn help_shows_formats_and_examples() {
    for command in ["apply", "dump", "digest"] {
        let (code, stdout, _) = run(&[command, "--help"]);
        assert!(code == 0 && stdout.contains("Examples:"), "{stdout}");
    }
    assert!(run(&["apply", "--help"]).1.contains(r#"["scan", table, from, to, limit]"#));
}
