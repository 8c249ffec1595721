//! TPC-C: orders, payments and deliveries of a wholesale supplier (specification revision 5.11).
//!
//! All five transactions, with real inserts, money in whole cents, lines from other warehouses and payments to them,
//! and the one percent of orders that roll back after their work. Terminals do not think or type, so that results are
//! transactions of a workload derived from TPC-C, never tpmC.

pub mod audit;
pub mod client;
pub mod customer;
pub mod delivery;
pub mod driver;
pub mod generate;
pub mod keys;
pub mod load;
mod misdeclare;
pub mod names;
pub mod new_order;
pub mod order_status;
pub mod payment;
pub mod rows;
pub mod schema;
pub mod stock_level;
