//! What a file log, and a storage unit on one, keeps through power cuts, damage and failing disks, on a disk that is simulated.
#![cfg(not(loom))]

mod damage;
mod equivalence;
mod faults;
mod power;
mod script;
mod unit;
