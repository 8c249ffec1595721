//! A totally ordered shared log.
#![forbid(unsafe_code)]

mod block;
mod commit_queue;
mod error;
pub mod file;
mod memory;
mod position;
mod shared_log;
mod sync;

pub use block::{Batch, Block, Entry};
pub use error::{AppendError, OpenError, ReadError, SealError, TrimError};
pub use file::FileLog;
pub use memory::MemoryLog;
pub use position::Position;
pub use shared_log::{Acknowledge, Durability, LogId, SharedLog, Tail, Ticket};
