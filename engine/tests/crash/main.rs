//! What an engine and its checkpoints keep through power cuts, damage and failing disks, on a disk that is simulated.
#![cfg(not(loom))]

mod alike;
mod backups;
mod bounds;
mod damage;
mod faults;
mod power;
mod replaced;
mod script;
