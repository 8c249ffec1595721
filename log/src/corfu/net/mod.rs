//! The cluster over TCP: frames, servers for its roles, and the transport that reaches them.
//!
//! A client is given the address of the projection store. There it learns the projection, and from the address
//! book beside it where the roles listen. `docs/wire-format.md` draws what they say to each other in bytes.

mod book;
mod client;
mod frame;
mod server;
mod wire;
mod writer;

pub use book::{Listing, Listings};
pub use client::{NetError, TcpTransport, announce};
pub use frame::FrameError;
pub use server::Server;
