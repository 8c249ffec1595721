//! The mixer: footprints in, schedule out.
//!
//! A window of transactions comes in log order, each with its footprint, a list of `(key, mode)`. Out goes a
//! [`Schedule`]: for each transaction its *batch*, and how many earlier transactions it waits for. No two
//! transactions of one batch conflict, and conflicting transactions keep log order: order only among those
//! that conflict.
//!
//! The idea is the mixer of Eve (OSDI 2012, section 3.1), which fills parallel batches with requests that do
//! not conflict. Two things differ. Eve's mixer may let a request overtake one that it conflicts with,
//! because there the batch is the unit of agreement; here the position in the log is, so the order among
//! conflicting transactions is kept, and the result does not depend on where a window ends. And one pass with
//! a table of keys replaces a pass per batch.
//!
//! The crate is pure: no thread, clock, randomness, file or `unsafe`. The same window gives the same schedule.
//! [`naive`] is the specification in a few lines, and the oracle of the tests. [`Reasons`] tells why transactions
//! wait, to those who ask.
#![forbid(unsafe_code)]

mod keys;
mod mixer;
pub mod naive;
mod reasons;
mod schedule;

pub use mixer::Mixer;
pub use reasons::{Reasons, Wait};
pub use schedule::{NodeId, Schedule};

/// What a transaction may touch: the hash of a table's row, or of a granule of rows.
///
/// Two keys with one hash count as one: that costs parallelism, never a wrong order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub u64);

/// How a transaction touches a key.
///
/// Reads do not conflict with each other and merges do not conflict with each other; everything else on one
/// key does. A read of a whole granule is a `Read` of its key, to which every write of one of the granule's
/// rows is a `Merge`: so range reads fit in without a mode of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Looks at the value.
    Read,
    /// Replaces or removes the value, having seen it or not.
    Write,
    /// Changes the value in a way that commutes with other merges, and does not look at it.
    Merge,
}

impl Mode {
    /// Whether two transactions that touch one key in these modes must keep their order.
    #[must_use]
    pub const fn conflicts_with(self, other: Self) -> bool {
        !matches!((self, other), (Self::Read, Self::Read) | (Self::Merge, Self::Merge))
    }
}

/// One element of a footprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// What is touched.
    pub key: KeyHash,
    /// How.
    pub mode: Mode,
}

/// The footprint of one transaction as the mixer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Declared<I> {
    /// It touches these keys and no others. A key may come more than once.
    Keys(I),
    /// It may touch anything: it conflicts with every other transaction.
    Unknown,
}
