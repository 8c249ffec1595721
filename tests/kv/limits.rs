//! How much a transaction may answer, and a value may take.

use std::sync::Arc;

use mixlog::kv::{self, Abort, Answer, Json, MAX_DEPTH, MAX_SIZE, Op, Transaction};
use mixlog::{Engine, log::MemoryLog};
use serde_json::json;

use crate::command::{apply, directory, dump};

struct Store(Engine);

impl Store {
    fn new() -> Self {
        Self(kv::register(Engine::builder()).threads(1).open(Arc::new(MemoryLog::new())).expect("it opens"))
    }

    fn execute(&self, ops: Vec<Op>) -> Result<Vec<Json>, Abort> {
        let transaction = Transaction::new(ops).expect("nothing is deep");
        match self.0.execute(&transaction).expect("it runs").committed().expect("it does not abort") {
            Answer::Committed { results, .. } => Ok(results),
            Answer::Aborted { reason, .. } => Err(reason),
        }
    }
}

fn text(bytes: u64) -> Json {
    Json::Text("x".repeat(bytes as usize))
}

fn repeated(op: Op, times: usize) -> Vec<Op> {
    vec![op; times]
}

#[test]
fn results_of_a_transaction_are_bounded() {
    let store = Store::new();
    // Sixteen of the one are just as much as there may be, and of the other too much.
    let sixteenth = MAX_SIZE / 16 - 32;
    store.execute(vec![Op::put("t", "a", text(sixteenth)), Op::put("t", "b", text(sixteenth + 1))]).unwrap();
    assert_eq!(store.execute(repeated(Op::get("t", "a"), 16)).expect("they fit").len(), 16);
    assert_eq!(store.execute(repeated(Op::get("t", "b"), 16)), Err(Abort::ResultsTooLarge { op: 15 }));
    let mut ops = vec![Op::put("t", "c", 1i64), Op::add("t", "c", 1)];
    ops.extend(repeated(Op::get("t", "a"), 16));
    assert_eq!(store.execute(ops), Err(Abort::ResultsTooLarge { op: 17 }), "small ones count, too");
    assert_eq!(store.execute(vec![Op::get("t", "c")]), Ok(vec![Json::Null]), "nothing is left");
    // A row of a scan counts as the list that it is.
    let scan = |limit| Op::scan("t", "", "z", limit);
    assert_eq!(store.execute(repeated(scan(1), 16)), Err(Abort::ResultsTooLarge { op: 15 }));
    assert_eq!(store.execute(repeated(scan(1), 15)).expect("they fit").len(), 15);
    let changed = |n| Op::put("t", format!("c{n}"), text(sixteenth));
    let mut ops: Vec<_> = (0..14).map(changed).collect();
    ops.push(scan(99));
    assert_eq!(store.execute(ops), Err(Abort::ResultsTooLarge { op: 14 }), "own changes, and what was there");
    let message = Abort::ResultsTooLarge { op: 14 }.to_string();
    assert_eq!(
        message,
        "ops[14]: the results would take more than 67108864 bytes, the limit of a transaction"
    );
}

#[test]
fn lists_are_bounded_and_can_be_read() {
    let store = Store::new();
    let append = || Op::append("t", "list", text(MAX_SIZE / 16 - 32));
    for length in 1..=15 {
        assert_eq!(store.execute(vec![append()]), Ok(vec![Json::Int(length)]));
    }
    let too_large = |op| Err(Abort::ValueTooLarge { op });
    // The list itself counts, so the sixteenth is too much.
    assert_eq!(store.execute(vec![Op::get("t", "list"), append()]), too_large(1));
    assert_eq!(store.execute(vec![Op::append("t", "list", 1i64), append()]), too_large(1));
    // In one transaction: after the table's list, after one that is put, and after none.
    for before in [vec![Op::put("u", "list", Json::List(Vec::new()))], vec![Op::delete("u", "list")], vec![]]
    {
        let skipped = before.len();
        let own = Op::append("u", "list", text(MAX_SIZE / 16 - 32));
        let ops: Vec<_> = before.into_iter().chain(repeated(own, 16)).collect();
        assert_eq!(store.execute(ops), too_large(skipped as u32 + 15));
    }
    let read = store.execute(vec![Op::append("t", "list", 1i64), Op::get("t", "list")]).expect("it fits");
    assert!(matches!(&read[1], Json::List(list) if list.len() == 16));
}

#[test]
fn lists_that_would_nest_too_deep_abort() {
    let directory = directory();
    let log = directory.path().join("log");
    let nested = |depth: u32| (1..depth).fold(json!(1), |value, _| json!([value]));
    let requests = [
        json!({"ops": [["append", "t", "k", nested(MAX_DEPTH - 1)]]}),
        json!({"ops": [["put", "t", "l", 1], ["append", "t", "k", nested(MAX_DEPTH)]]}),
        json!({"ops": [["put", "t", "l", nested(MAX_DEPTH)]]}),
    ];
    let answers = apply(&log, &[], &requests);
    assert_eq!(answers[1]["reason"], "ops[1]: the list would nest deeper than 100");
    assert_eq!([&answers[0]["results"], &answers[2]["results"]], [&json!([1]), &json!([null])]);
    // Whatever is stored can be put again.
    let puts: Vec<_> = dump(&log, &[])
        .lines()
        .map(|row| {
            let value: serde_json::Value = serde_json::from_str(row).expect("JSON");
            json!({"ops": [["put", "copy", value["key"], value["value"]]]})
        })
        .collect();
    assert!(puts.len() == 2 && apply(&log, &[], &puts).iter().all(|answer| answer["status"] == "committed"));
}
