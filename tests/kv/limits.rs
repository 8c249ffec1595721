//! How much a transaction may answer, and a value may take.

use std::collections::BTreeMap;
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

/// Scans that had to go through all that the transaction deleted, and for each of which all merges were looked at, would
/// take many minutes.
#[test]
fn scans_beside_what_a_transaction_deletes_and_merges_take_no_square_time() {
    const ROWS: usize = 60_000;
    let store = Store::new();
    let key = |row: usize| format!("{row:05}");
    for chunk in (0..ROWS).collect::<Vec<_>>().chunks(10_000) {
        store.execute(chunk.iter().map(|&row| Op::put("q", key(row), 1i64)).collect()).unwrap();
    }
    let mut ops = Vec::new();
    for row in 0..ROWS - 1 {
        ops.push(Op::delete("q", key(row)));
        ops.push(Op::scan("q", "", "~", 1));
        ops.push(Op::merge_add("m", key(row), 1));
        // Where it looks at what it merges, at one end or in the middle.
        if row % 100 == 0 {
            ops.push(Op::scan("m", key(row / 2), key(row / 2 + 1), 1));
        }
    }
    let results = store.execute(ops).unwrap();
    let first = |row: usize| Json::List(vec![Json::List(vec![Json::from(key(row)), Json::Int(1)])]);
    // A delete tells whether there was a row, a merge nothing.
    let mut results = results.into_iter();
    for row in 0..ROWS - 1 {
        assert_eq!(results.next(), Some(Json::Bool(true)));
        assert_eq!(results.next(), Some(first(row + 1)));
        assert_eq!(results.next(), Some(Json::Null));
        if row % 100 == 0 {
            assert!(matches!(results.next(), Some(Json::List(_))));
        }
    }
    assert_eq!(results.next(), None);
}

/// What a transaction sees of its own changes is what a map holds, in whatever order it deletes, puts and scans.
#[test]
fn scans_among_own_changes_see_what_a_map_holds() {
    let store = Store::new();
    let mut map = BTreeMap::new();
    let mut seed = 7u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (seed >> 33) % below
    };
    let key = |row: u64| format!("{row:03}");
    for round in 0..40 {
        let (mut ops, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..1500 {
            let row = random(500);
            // Mostly deleted in one half of the rounds, so that what is left lies far apart.
            match random(if round % 2 == 0 { 8 } else { 400 }) {
                2 => {
                    // Scans look at it, so it is an add; alone it would have no result.
                    let key = key(row);
                    let old = if let Some(Json::Int(old)) = map.get(&key) { *old } else { 0 };
                    ops.push(match random(3) {
                        0 => Op::merge_add("t", key.clone(), 3),
                        1 => Op::add("t", key.clone(), 3),
                        _ => Op::cas("t", key.clone(), map.get(&key).cloned().unwrap_or(Json::Null), old + 3),
                    });
                    expected.push(match ops.last() {
                        Some(Op::MergeAdd(..)) => Json::Null,
                        Some(Op::Add(..)) => Json::Int(old + 3),
                        _ => Json::Bool(true),
                    });
                    map.insert(key, Json::Int(old + 3));
                }
                0 => {
                    ops.push(Op::put("t", key(row), Json::from(row)));
                    expected.push(Json::Null);
                    map.insert(key(row), Json::from(row));
                }
                1 => {
                    ops.push(Op::append("t", key(500 + row), 1i64));
                    let list = map.entry(key(500 + row)).or_insert_with(|| Json::List(Vec::new()));
                    let Json::List(list) = list else { unreachable!("lists have keys of their own") };
                    list.push(Json::Int(1));
                    expected.push(Json::from(list.len() as u64));
                }
                n if n % 3 == 0 => {
                    let (from, limit) = (key(random(1000)), random(3));
                    ops.push(Op::scan("t", from.clone(), "~", limit));
                    let rows = map.range(from..).take(limit as usize);
                    let rows =
                        rows.map(|(key, value)| Json::List(vec![Json::from(key.clone()), value.clone()]));
                    expected.push(Json::List(rows.collect()));
                }
                _ => {
                    let first = random(1000);
                    for row in first..first + if round % 2 == 0 { 1 } else { 20 } {
                        ops.push(Op::delete("t", key(row)));
                        expected.push(Json::Bool(map.remove(&key(row)).is_some()));
                    }
                }
            }
        }
        assert_eq!(store.execute(ops), Ok(expected), "round {round}");
    }
}

#[test]
fn row_that_appears_where_scans_had_found_none_is_seen() {
    let key = |row: u32| format!("{row:03}");
    let puts: [fn(String) -> Op; 5] = [
        |key| Op::put("t", key, 1i64),
        |key| Op::add("t", key, 1),
        |key| Op::merge_add("t", key, 1),
        |key| Op::cas("t", key, Json::Null, 1i64),
        |key| Op::append("t", key, 1i64),
    ];
    for put in puts {
        let store = Store::new();
        store.execute((0..200).map(|row| Op::put("t", key(row), 0i64)).collect()).unwrap();
        let mut ops: Vec<_> = (0..199).map(|row| Op::delete("t", key(row))).collect();
        ops.extend((0..3).map(|_| Op::scan("t", "", "~", 1)));
        ops.push(put(key(100)));
        ops.push(Op::scan("t", "", "~", 1));
        let results = store.execute(ops).unwrap();
        let Some(Json::List(rows)) = results.last() else { panic!("{results:?}") };
        let [Json::List(row)] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!(row[0], Json::from(key(100)), "{row:?}");
    }
}
