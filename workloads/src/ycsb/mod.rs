//! YCSB's core workloads A to F as transactions of one or more operations.
//!
//! | workload | operations |
//! |---|---|
//! | A | half reads, half updates |
//! | B | 95 % reads, 5 % updates |
//! | C | reads |
//! | D | 95 % reads of the latest records, 5 % inserts |
//! | E | 95 % scans of up to 100 records, 5 % inserts |
//! | F | half reads, half read-modify-writes, each within its transaction |
//!
//! A record has ten fields. A read reads them all, an update writes one. Records are chosen by YCSB's scrambled
//! zipfian distribution, or uniformly; in D by how late they were inserted, among those whose insertion is known. See
//! [`crate::zipf`] and [`inserts`].
//!
//! Departure: the text of a field follows from its record, its number and its version (see [`record`]), so that a
//! request carries no text, and an audit can tell whether any update was lost or torn.

pub mod audit;
pub mod client;
pub mod inserts;
pub mod load;
pub mod operate;
pub mod record;
