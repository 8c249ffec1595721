//! What a file log, a storage unit on one, and a projection store keep through power cuts, damage and failing disks, on a
//! disk that is simulated.
#![cfg(not(loom))]

mod damage;
mod equivalence;
mod faults;
mod power;
mod script;
mod store;
mod unit;
