//! The address book: where the roles of a cluster listen.
//!
//! Projections name units and sequencers by number; where they run is no part of the protocol, and may change
//! without an epoch. An address that is out of date costs an attempt: what answers there is asked who it is.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use std::collections::BTreeMap;

use crate::Durability;

use super::super::message::{Node, SequencerNumber, UnitNumber};

/// Where a role listens, and what it promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Its address.
    pub address: SocketAddr,
    /// What a unit's answered write has survived; `None` for other roles.
    pub durability: Option<Durability>,
}

/// All roles that were ever announced.
pub type Listings = BTreeMap<Node, Listing>;

/// An address book in a directory: a small file for each role.
#[derive(Debug)]
pub(crate) struct FileBook(PathBuf);

impl FileBook {
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        Ok(Self(directory))
    }

    pub(crate) fn announce(&self, node: Node, listing: Listing) -> io::Result<()> {
        let (role, number) = match node {
            Node::Unit(number) => ("unit", number.0),
            Node::Sequencer(number) => ("sequencer", number.0),
            Node::Store => return Ok(()),
        };
        let durability = listing.durability.map_or_else(String::new, |durability| format!(" {durability}"));
        let temporary = self.0.join(format!("new-{role}-{number}-{}", std::process::id()));
        fs::write(&temporary, format!("{}{durability}\n", listing.address))?;
        fs::rename(temporary, self.0.join(format!("{role}-{number}")))
    }

    pub(crate) fn listings(&self) -> io::Result<Listings> {
        let mut listings = Listings::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some((role, number)) = name.to_str().and_then(|name| name.rsplit_once('-')) else { continue };
            let node = match (role, number.parse()) {
                ("unit", Ok(number)) => Node::Unit(UnitNumber(number)),
                ("sequencer", Ok(number)) => Node::Sequencer(SequencerNumber(number)),
                _ => continue,
            };
            if let Some(listing) = parse(&fs::read_to_string(entry.path())?) {
                listings.insert(node, listing);
            }
        }
        Ok(listings)
    }
}

fn parse(text: &str) -> Option<Listing> {
    let mut words = text.split_whitespace();
    let address = words.next()?.parse().ok()?;
    let durability = match words.next() {
        None => None,
        Some("memory") => Some(Durability::Memory),
        Some("buffered") => Some(Durability::Buffered),
        Some("flushed") => Some(Durability::Flushed),
        Some(_) => return None,
    };
    Some(Listing { address, durability })
}
