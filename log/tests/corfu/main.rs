//! The CORFU cluster: its machines step by step, its hard cases by name, and whole clusters in this process.
#![cfg(not(loom))]

mod cases;
mod cluster;
mod found;
mod harness;
mod hostile;

mod order;
mod reconfigure;
mod several;
mod unit_table;
