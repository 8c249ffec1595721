//! An embedded transaction engine: all cores of a machine, with the result of running the transactions one by
//! one in the order of a shared log.
//!
//! Write transactions as [`Procedure`]s over typed [`Table`]s, open an [`Engine`] on a log, submit. The engine
//! mixes the log's entries into batches without conflicts (see [`mixlog_mixer`]), executes them on all threads,
//! verifies, and falls back to one by one where a footprint was wrong. The state after a position depends on
//! the log alone: not on the number of threads, nor on windows, nor on footprints.
//!
//! `pipeline.rs` holds the flow from top to bottom.
#![deny(unsafe_code)]

mod agreement;
mod ahead;
mod at_work;
mod bounded;
pub mod checkpoint;
mod clients;
mod codec;
mod digest;
mod doubtful;
mod engine;
mod entry;
mod error;
mod execute;
mod explain;
mod explanation;
mod footprint;
mod footprint_report;
mod full_disk;
pub mod gaps;
mod handover;
mod in_flight;
mod index;
mod infer;
mod interactive;
mod learned;
mod memory_limit;
mod merge;
mod observe;
mod panics;
mod pipeline;
mod prefix;
mod prepare;
mod procedure;
mod replica;
mod reply;
mod snapshot;
mod stats;
mod store;
mod sync;
mod table;
pub mod testing;
mod ticket;
mod tx;
mod verify;
mod window;

pub use agreement::{Differing, Divergence, Membership, Suspects};
pub use bounded::Counter;
pub use clients::{ANSWERS_KEPT, Client, ClientId, Forget};
pub use codec::{Codec, DecodeError, Fixed, Serde};
pub use digest::Digest;
pub use engine::{Builder, Engine, Replay, procedures_in};
pub use error::{Difference, ExecuteError, OpenError, SnapshotError, SubmitError};
pub use explanation::{
    Contention, Explanation, HotKey, Inferred, InferredAccess, Link, Missed, Path, ProcedureCounts, WaitsFor,
};
pub use footprint::Footprint;
pub use footprint_report::{Access, AccessMode, Declared, Ending, FootprintReport, InVain};
pub use index::{Index, IndexKey};
pub use interactive::{Backoff, CommitError, Conflict, Intention, TransactError, Transaction};
pub use merge::{Appended, Maximum, Members, Merge, Minimum, Sum};
pub use mixlog_log::Position;
pub use pipeline::{Mode, WINDOW_GRID};
pub use prefix::starting_with;
pub use procedure::{Never, Procedure};
pub use replica::Replica;
pub use snapshot::Snapshot;
pub use stats::{Memory, OneByOne, Stages, Stats, TableMemory};
pub use table::{Key, Table, Value};
pub use ticket::{Outcome, Panicked, Ticket, TicketError};
pub use tx::Tx;
