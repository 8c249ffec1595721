//! List-append: transactions that append to lists and read them, for checkers of isolation.
//!
//! A transaction is a few operations on a few keys. Each key has a list; an operation appends a value to it that no
//! other operation appends, or reads it. So a read tells everything that was ever appended to its key and in which
//! order, and a history of such transactions tells which transaction must come before which. [`history`] is what
//! clients write down, [`check`] finds what no serializable execution can give; other checkers can read the same file.
//!
//! When a key has had so many appends, it makes room for a new one, so that lists stay short. Keys are never used
//! again: the keys of each run follow those that the log knows.
//!
//! Source: Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies from Experimental Observations" (VLDB 2020).
//! Departure: all keys are equally likely, where Elle's generator prefers some.

pub mod audit;
pub mod check;
pub mod client;
pub mod driver;
pub mod history;
pub mod transaction;
