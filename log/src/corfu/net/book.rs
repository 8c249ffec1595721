//! The address book: where the roles of a cluster listen.
//!
//! Projections name units and sequencers by number; where they run is no part of the protocol, and may change
//! without an epoch. An address that is out of date costs an attempt: what answers there is asked who it is.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Durability;
use crate::file::{Access, Storage, read_file, write_full};

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

/// How a role is called where its listing is kept; `None` for the store, which lists itself nowhere.
pub(crate) fn listing_name(node: Node) -> Option<String> {
    match node {
        Node::Unit(number) => Some(format!("unit-{number}")),
        Node::Sequencer(number) => Some(format!("sequencer-{number}")),
        Node::Store => None,
    }
}

/// The role that is called so.
pub(crate) fn listing_node(name: &str) -> Option<Node> {
    let (role, number) = name.split_once('-')?;
    let number = number.parse().ok()?;
    match role {
        "unit" => Some(Node::Unit(UnitNumber(number))),
        "sequencer" => Some(Node::Sequencer(SequencerNumber(number))),
        _ => None,
    }
}

/// As it is kept: the address, and of a unit what it promises.
impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        self.durability.map_or(Ok(()), |durability| write!(f, " {durability}"))
    }
}

impl Listing {
    /// The listing in this text; `None` if it is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let address = words.next()?.parse().ok()?;
        let durability = match words.next() {
            None => None,
            Some("memory") => Some(Durability::Memory),
            Some("buffered") => Some(Durability::Buffered),
            Some("flushed") => Some(Durability::Flushed),
            Some(_) => return None,
        };
        Some(Self { address, durability })
    }
}

/// An address book in a directory: a small file for each role.
pub(crate) struct FileBook {
    storage: Arc<dyn Storage>,
    /// How many listings were begun: of one role there may be several at once.
    begun: AtomicU64,
}

impl FileBook {
    pub(crate) fn open(storage: Arc<dyn Storage>) -> io::Result<Self> {
        storage.create_directory()?;
        Ok(Self { storage, begun: AtomicU64::new(0) })
    }

    /// Lists a role, durably: a role that runs on does not announce itself again when this machine was
    /// booted. A listing is replaced when the new one is complete and synced.
    pub(crate) fn announce(&self, node: Node, listing: Listing) -> io::Result<()> {
        let Some(name) = listing_name(node) else { return Ok(()) };
        let begun = self.begun.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("new-{name}-{}-{begun}", std::process::id());
        match self.storage.remove(&temporary) {
            // The store's directory is locked: whoever left it was killed.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.storage.open(&temporary, Access::CreateNew)?;
        write_full(&*file, format!("{listing}\n").as_bytes(), 0)?;
        file.sync_data()?;
        self.storage.rename(&temporary, &name)?;
        self.storage.sync_directory()
    }

    /// All that can be read. What cannot is no listing: its role announces itself when it is started.
    pub(crate) fn listings(&self) -> io::Result<Listings> {
        let mut listings = Listings::new();
        for name in self.storage.list()? {
            let Some(node) = listing_node(&name) else { continue };
            let text = read_file(&*self.storage, &name)?;
            if let Some(listing) = Listing::parse(&String::from_utf8_lossy(&text)) {
                listings.insert(node, listing);
            }
        }
        Ok(listings)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::fs;

    use super::*;
    use crate::file::FsStorage;

    fn open(directory: &tempfile::TempDir) -> FileBook {
        FileBook::open(Arc::new(FsStorage::new(directory.path().join("addresses")))).unwrap()
    }

    #[test]
    fn address_book_keeps_the_last_listing_of_each_role_and_passes_over_what_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let book = open(&directory);
        let (unit, sequencer) = (Node::Unit(UnitNumber(12)), Node::Sequencer(SequencerNumber(1)));
        let listing = |port, durability| Listing { address: ([127, 0, 0, 1], port).into(), durability };
        book.announce(unit, listing(1, Some(Durability::Memory))).unwrap();
        book.announce(unit, listing(2, Some(Durability::Flushed))).unwrap();
        book.announce(sequencer, listing(3, None)).unwrap();
        // A write that a power cut has torn, a half made file, and somebody else's.
        fs::write(book.storage.path().join("unit-13"), [0xff; 7]).unwrap();
        fs::write(book.storage.path().join("new-unit-14-99"), "127.0.0.1:4").unwrap();
        fs::write(book.storage.path().join("lost+found"), "").unwrap();
        let expected =
            Listings::from([(unit, listing(2, Some(Durability::Flushed))), (sequencer, listing(3, None))]);
        assert_eq!(book.listings().unwrap(), expected);
    }

    #[test]
    fn role_announced_several_times_at_once_is_listed() {
        let directory = tempfile::tempdir().unwrap();
        let book = open(&directory);
        let unit = Node::Unit(UnitNumber(1));
        let listing = |port| Listing { address: ([127, 0, 0, 1], port).into(), durability: None };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let book = &book;
                scope.spawn(move || {
                    (0..50).for_each(|n| book.announce(unit, listing(50 * thread + n)).unwrap())
                });
            }
        });
        assert_eq!(book.listings().unwrap().len(), 1);
        assert_eq!(fs::read_dir(book.storage.path()).unwrap().count(), 1, "nothing half made is left");
    }
}
