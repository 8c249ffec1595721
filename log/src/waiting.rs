//! What waits to be written as one frame.

use std::sync::Arc;

use crate::{Batch, Block};

/// Entries that become one frame of a file.
#[derive(Debug)]
pub(crate) enum Waiting {
    /// These.
    Entries(Batch),
    /// This one.
    Wrapped(Wrapped),
}

impl Waiting {
    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Entries(batch) => batch.len(),
            Self::Wrapped(_) => 1,
        }
    }

    /// The bytes that they take in a frame's body: their own, and where each of them ends.
    pub(crate) fn body_bytes(&self) -> usize {
        match self {
            Self::Entries(batch) => batch.body_bytes(),
            Self::Wrapped(entry) => entry.body_bytes(),
        }
    }
}

/// One entry that holds the entries of a block, which are not copied before they are written: a head, then 4 bytes for
/// each entry, little-endian, that tell where it ends, then the entries' bytes.
#[derive(Clone, Debug)]
pub(crate) struct Wrapped {
    head: Vec<u8>,
    block: Arc<Block>,
}

impl Wrapped {
    pub(crate) const fn new(head: Vec<u8>, block: Arc<Block>) -> Self {
        Self { head, block }
    }

    pub(crate) fn head(&self) -> &[u8] {
        &self.head
    }

    pub(crate) fn block(&self) -> &Block {
        &self.block
    }

    /// How many bytes the entry has.
    pub(crate) fn bytes(&self) -> usize {
        self.head.len() + self.block.body_bytes()
    }

    /// The bytes that it takes in a frame's body.
    pub(crate) fn body_bytes(&self) -> usize {
        self.bytes() + size_of::<u32>()
    }
}
