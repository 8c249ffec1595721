//! Random transactions, some of which meet, repeat, or declare too little.

use serde_json::{Value, json};

pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
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

    pub(crate) fn request(&mut self, id: Option<String>) -> Value {
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
