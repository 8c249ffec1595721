//! The cluster over TCP: frames, servers for its roles, and the transport that reaches them.
//!
//! A client is given the cluster's [`Home`]: the projection store, where it learns the projection, and the address
//! book beside it, which tells where the roles listen. `docs/wire-format.md` draws what they say to each other in bytes.

mod book;
mod client;
mod connections;
mod frame;
mod home;
mod open;
mod outgoing;
mod question;
mod server;
mod wire;
mod writer;

pub use book::{Listing, Listings};
#[cfg(feature = "etcd")]
pub(crate) use book::{listing_name, listing_node};
pub use client::{NetError, TcpTransport, announce};
pub use frame::FrameError;
pub(crate) use frame::RUN_AT_MOST;
pub use home::{EtcdAccess, Home, HomeError};
#[cfg(feature = "etcd")]
pub(crate) use question::said;
pub use server::Server;
