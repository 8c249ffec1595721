//! A generic store: tables of JSON values by key, and one procedure that does what a list of operations says.
//!
//! For those who want the engine without writing procedures: `mixlog apply` speaks it line by line, and programs
//! register it beside procedures of their own.
//!
//! ```
//! use std::sync::Arc;
//! use mixlog::kv::{self, Answer, Json, Op, Transaction};
//! use mixlog::{Engine, log::MemoryLog};
//!
//! let engine = kv::register(Engine::builder()).open(Arc::new(MemoryLog::new()))?;
//! let ops = vec![
//!     Op::put("users", "ada", Json::from("Lovelace")),
//!     Op::add("counters", "users", 1),
//! ];
//! let transaction = Transaction::new(ops)?.with_id("signup-1");
//! // Executed twice, for the first answer may have been lost: it takes effect once.
//! let first = engine.execute(&transaction)?.committed();
//! let second = engine.execute(&transaction)?.committed();
//! assert_eq!(first, second);
//! assert!(matches!(first, Some(Answer::Committed { results, .. }) if results == [Json::Null, Json::Int(1)]));
//! let count = engine.snapshot().get(&kv::ROWS, &("counters".into(), "users".into()));
//! assert_eq!(count, Some(Json::Int(1)));
//!
//! // The same transaction, as `mixlog apply` reads it.
//! let text = r#"{"id": "signup-1", "ops": [["put", "users", "ada", "Lovelace"], ["add", "counters", "users", 1]]}"#;
//! assert_eq!(text.parse::<Transaction>()?, transaction);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Operations
//!
//! They are done in order, and see what those before them did.
//!
//! | operation | result |
//! |---|---|
//! | `["get", table, key]` | the value, or null |
//! | `["put", table, key, value]` | null; to put null is to delete |
//! | `["delete", table, key]` | whether there was a value |
//! | `["add", table, key, integer]` | the sum: 64 bits with sign, wrapping; nothing counts as 0 |
//! | `["append", table, key, value]` | the new length of the list; nothing counts as an empty list |
//! | `["cas", table, key, old, new]` | whether the value was `old`, and so is `new` now; null stands for nothing |
//! | `["scan", table, from, to, limit]` | `[[key, value], ...]` of the keys in `[from, to)`, in the order of their bytes, at most `limit` |
//! | `["abort_if", table, key, value]` | null, or the transaction aborts because the value is this one |
//! | `["merge_add", table, key, integer]` | null: an `add` that does not tell the sum |
//!
//! `add` and `merge_add` abort on what is no integer of 64 bits with sign, `append` on what is no list. A
//! transaction that aborts changes nothing.
//!
//! # Limits
//!
//! Values nest [`MAX_DEPTH`] deep at most: deeper ones are no transaction's, and an `append` that would make a deeper list
//! aborts. A value in a table takes at most [`MAX_SIZE`], and so do all results of a transaction together, as
//! [`Json::size`] counts them; the operation that would exceed that aborts, before anything is copied. That is part of
//! what the operations mean, and the same on every replica.
//!
//! # Answers
//!
//! The answer to a transaction with an id, also that it aborted, is remembered in [`ANSWERS`], by the transaction
//! itself. The same id again, with whatever operations, is answered with the first answer and changes nothing. Answers
//! are kept for ever.
//!
//! To the engine even an aborted transaction is one that committed: it leaves its answer behind. Operations are
//! therefore evaluated beside the tables, and written to them only when none of them aborts.

mod answer;
mod evaluate;
mod json;
mod op;
mod store;
mod transaction;

pub use answer::{Abort, Answer};
pub use json::{Float, Json, MAX_DEPTH, MAX_SIZE, TooDeep, Unsigned};
pub use op::Op;
pub use store::{ANSWERS, Key, ROWS};
pub use transaction::{Access, Declared, RequestError, Transaction};

use crate::Builder;

/// Adds the store's tables and its procedure to an engine.
pub fn register(builder: Builder) -> Builder {
    builder.table(&ROWS).table(&ANSWERS).procedure::<Transaction>()
}
