//! What a file log keeps through power cuts, damage and failing disks, on a disk that is simulated.
#![cfg(not(loom))]

mod damage;
mod equivalence;
mod faults;
mod power;
mod script;
