//! The oracle: the store, by who knows nothing of the engine.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The store, done one by one on a sorted map.
#[derive(Default)]
pub(crate) struct Oracle {
    pub(crate) rows: BTreeMap<(String, String), Value>,
    pub(crate) answers: BTreeMap<String, Value>,
}

type Rows = BTreeMap<(String, String), Value>;

impl Oracle {
    /// The answer to a request whose entry stands at `position`.
    pub(crate) fn apply(&mut self, request: &Value, position: u64) -> Value {
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
    pub(crate) fn dump(&self) -> String {
        let line = |((table, key), value): (&(String, String), &Value)| {
            format!("{{\"table\":{},\"key\":{},\"value\":{value}}}\n", json!(table), json!(key))
        };
        self.rows.iter().map(line).collect()
    }
}

/// The same answer, and of the reason the operation that it names.
pub(crate) fn assert_answer(found: &Value, expected: &Value, request: &Value) {
    let mut found = found.clone();
    if let Some(reason) = expected["reason"].as_str() {
        let said = found["reason"].as_str().expect("an abort has a reason").to_owned();
        assert!(said.starts_with(&format!("{reason}: ")), "{said:?} instead of {reason}: {request}");
        found["reason"] = json!(reason);
    }
    assert_eq!(found, *expected, "{request}");
}
