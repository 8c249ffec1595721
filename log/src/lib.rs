//! A totally ordered shared log: entries are appended, get dense positions, and are the same for every reader
//! for ever.
//!
//! [`SharedLog`] is the contract. Its backends differ in what an acknowledged append has survived, their
//! [`Durability`]:
//!
//! * [`MemoryLog`] lives and dies with the process;
//! * [`FileLog`] keeps its entries in files of a local directory, buffered or flushed. Its format and its
//!   recovery are told in `docs/log-format.md`;
//! * [`CorfuLog`](corfu::CorfuLog) spreads them over a cluster of storage units, each entry on several of them.
//!   The protocol is told in [`corfu`].
//!
//! The log never looks inside an entry.
//!
//! Source: the interface is that of CORFU (NSDI 2012, section 2). Departures: positions are given to batches,
//! a read answers with a [`Block`] of entries, and an append returns a [`Ticket`] before it is durable.
#![forbid(unsafe_code)]

mod block;
mod buffer;
#[doc(hidden)]
pub mod bytes;
mod checksum;
mod commit_queue;
pub mod corfu;
mod error;
pub mod file;
mod memory;
mod position;
mod shared_log;
mod sync;
mod waiting;

pub use block::{Batch, Block, Entry};
pub use error::{AppendError, FlushError, OpenError, ReadError, SealError, TailError, TrimError};
pub use file::FileLog;
pub use memory::MemoryLog;
pub use position::Position;
pub use shared_log::{Acknowledge, Durability, LogId, SharedLog, Tail, Ticket};
