//! Runs of entries: what is appended, and what is read back.

use std::hash::{Hash, Hasher};
use std::ops::{Deref, Range};
use std::sync::{Arc, OnceLock};

use crate::Position;
use crate::buffer::Buffer;
use crate::checksum;

/// Entries gathered for one append: one buffer, no allocation per entry.
///
/// Keep one per submitter and [`clear`](Batch::clear) it between appends.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), ends: Vec::new() }
    }

    /// Makes space for as much as `other` holds, in an empty batch: entries come in at a steady pace, and growing a
    /// buffer step by step costs more than filling it.
    pub(crate) fn reserve_space_of(&mut self, other: &Self) {
        self.bytes.reserve(other.bytes.len());
        self.ends.reserve(other.ends.len());
    }

    /// The bytes that its entries take in a frame's body: their own, and where each of them ends.
    pub(crate) fn body_bytes(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.ends)
    }

    /// How many bytes its buffers take.
    pub(crate) const fn capacity(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<u32>()
    }

    /// The batch of these entries; `ends` as in [`ends`](Self::ends).
    pub(crate) fn from_parts(bytes: Vec<u8>, ends: Vec<u32>) -> Self {
        debug_assert!(ends.is_sorted() && ends.last().is_none_or(|end| *end as usize == bytes.len()));
        Self { bytes, ends }
    }

    /// As [`from_parts`](Self::from_parts) takes them.
    pub(crate) fn into_parts(self) -> (Vec<u8>, Vec<u32>) {
        (self.bytes, self.ends)
    }

    /// Adds one entry with these bytes.
    pub fn push(&mut self, entry: &[u8]) {
        self.push_with(|bytes| bytes.extend_from_slice(entry));
    }

    /// Adds one entry whose bytes `write` appends to the buffer that it is given. `write` must only append.
    ///
    /// # Panics
    /// When the batch would grow past 4 GiB, or `write` shortened the buffer.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        assert!(self.bytes.len() >= start, "an entry's encoder shortened the batch");
        self.ends.push(u32::try_from(self.bytes.len()).expect("a batch holds less than 4 GiB"));
    }

    /// How many entries the batch holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether the batch holds no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The entries' bytes, one after another.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// For each entry, the offset in [`bytes`](Self::bytes) where it ends (the next one's start).
    #[must_use]
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Empties the batch and keeps its buffers.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Adds all entries of `other`, in order.
    ///
    /// # Panics
    /// When the batch would grow past 4 GiB.
    pub fn extend(&mut self, other: &Self) {
        self.extend_from(&other.bytes, &other.ends);
    }

    /// Adds the entries of a block of data.
    pub(crate) fn extend_from_block(&mut self, block: &Block) {
        let (bytes, ends) = block.data().expect("a block of data");
        self.extend_from(bytes, ends);
    }

    fn extend_from(&mut self, bytes: &[u8], ends: &[u32]) {
        let base = u32::try_from(self.bytes.len()).expect("a batch holds less than 4 GiB");
        self.bytes.extend_from_slice(bytes);
        u32::try_from(self.bytes.len()).expect("a batch holds less than 4 GiB");
        self.ends.extend(ends.iter().map(|end| base + end));
    }
}

/// What stands at a written position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// The bytes that were appended.
    Data(&'a [u8]),
    /// Nothing, for ever: a hole that was filled. Every reader skips it.
    Junk,
}

/// The bytes of a block's entries: its own, or a part of what came with others.
#[derive(Clone, Debug)]
pub(crate) enum EntryBytes {
    Own(Vec<u8>),
    Part { of: Arc<Buffer>, range: Range<usize> },
}

impl EntryBytes {
    /// A part of `of`; a copy where it is less than half of that memory: else a small block might keep much.
    pub(crate) fn part(of: &Arc<Buffer>, range: Range<usize>) -> Self {
        if 2 * range.len() >= of.capacity() {
            Self::Part { of: Arc::clone(of), range }
        } else {
            Self::Own(of[range].to_vec())
        }
    }

    /// How much memory they take, in bytes.
    fn memory(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.capacity(),
            Self::Part { of, .. } => of.capacity(),
        }
    }
}

impl Deref for EntryBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Part { of, range } => &of[range.clone()],
        }
    }
}

impl PartialEq for EntryBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for EntryBytes {}

impl Hash for EntryBytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

/// The checksum of bytes that never change, once somebody has asked for it. It is as good as nothing beside them.
#[derive(Clone, Debug, Default)]
struct Checksum(OnceLock<u32>);

impl PartialEq for Checksum {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Checksum {}

impl Hash for Checksum {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// Of so many bytes or more the checksum is kept: what joining two takes is less than reading these.
pub(crate) const SUMMED: usize = 64 << 10;

/// A run of consecutive entries as read from a log: immutable, and shared by all its readers.
///
/// Shape: positions `[first, end)`, at least one entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    first: Position,
    entries: Entries,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Entries {
    Data { bytes: EntryBytes, ends: Vec<u32>, checksum: Checksum },
    Junk { count: u32 },
}

impl Block {
    /// The block of `batch`'s entries, the first of them at `first`.
    ///
    /// # Panics
    /// When the batch is empty.
    #[must_use]
    pub fn of(first: Position, batch: Batch) -> Self {
        Self::from_parts(first, EntryBytes::Own(batch.bytes), batch.ends)
    }

    /// The block of these entries; `ends` as in [`Batch::ends`].
    ///
    /// # Panics
    /// When there are no entries.
    pub(crate) fn from_parts(first: Position, bytes: EntryBytes, ends: Vec<u32>) -> Self {
        let length = ends.last().map(|end| *end as usize);
        debug_assert!(ends.is_sorted() && length.is_none_or(|length| length == bytes.len()));
        assert!(length.is_some(), "a block holds at least one entry");
        Self { first, entries: Entries::Data { bytes, ends, checksum: Checksum::default() } }
    }

    /// Keeps the checksum of the entries' bytes, for who asks for it.
    pub(crate) fn keep_checksum(&self, checksum: u32) {
        if let Entries::Data { checksum: kept, .. } = &self.entries {
            let _ = kept.0.set(checksum);
        }
    }

    /// The checksum of bytes with the checksum `before`, followed by those of the entries. Those of long blocks are read
    /// once, whoever asks and how often.
    pub(crate) fn checksum_after(&self, before: u32) -> u32 {
        match &self.entries {
            Entries::Data { bytes, checksum, .. } if bytes.len() >= SUMMED => {
                let own = *checksum.0.get_or_init(|| crc32c::crc32c(bytes));
                checksum::join(before, own, bytes.len())
            }
            Entries::Data { bytes, .. } => crc32c::crc32c_append(before, bytes),
            Entries::Junk { .. } => before,
        }
    }

    /// A block of `count` junk entries, the first of them at `first`.
    ///
    /// # Panics
    /// When `count` is 0.
    #[must_use]
    pub fn junk(first: Position, count: u32) -> Self {
        assert!(count > 0, "a block holds at least one entry");
        Self { first, entries: Entries::Junk { count } }
    }

    /// The position of the first entry.
    #[must_use]
    pub const fn first(&self) -> Position {
        self.first
    }

    /// The position after the last entry.
    #[must_use]
    pub fn end(&self) -> Position {
        self.first.plus(self.len() as u64)
    }

    /// How many entries the block holds, at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a block is never empty")]
    pub fn len(&self) -> usize {
        match &self.entries {
            Entries::Data { ends, .. } => ends.len(),
            Entries::Junk { count } => *count as usize,
        }
    }

    /// The buffers of its data, without the entries; `None` for junk, and if the buffers are not its own.
    pub(crate) fn into_emptied(self) -> Option<Batch> {
        match self.entries {
            Entries::Data { bytes: EntryBytes::Own(bytes), ends, .. } => {
                let mut batch = Batch { bytes, ends };
                batch.clear();
                Some(batch)
            }
            Entries::Data { .. } | Entries::Junk { .. } => None,
        }
    }

    /// The entries' bytes and where each of them ends; `None` for junk.
    pub(crate) fn data(&self) -> Option<(&[u8], &[u32])> {
        match &self.entries {
            Entries::Data { bytes, ends, .. } => Some((bytes, ends)),
            Entries::Junk { .. } => None,
        }
    }

    /// How many bytes its entries have together; 0 for junk.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.data().map_or(0, |(bytes, _)| bytes.len())
    }

    /// What its entries take in a frame, in bytes: their own, and where each of them ends; 0 for junk.
    pub(crate) fn body_bytes(&self) -> usize {
        self.data().map_or(0, |(bytes, ends)| bytes.len() + size_of_val(ends))
    }

    /// How much memory the block takes, in bytes.
    pub(crate) fn memory(&self) -> usize {
        let heap = match &self.entries {
            Entries::Data { bytes, ends, .. } => bytes.memory() + ends.capacity() * size_of::<u32>(),
            Entries::Junk { .. } => 0,
        };
        size_of::<Self>() + heap
    }

    /// The entry at `position`, or `None` when the block does not hold that position.
    #[must_use]
    #[inline]
    pub fn get(&self, position: Position) -> Option<Entry<'_>> {
        let index = usize::try_from(position.0.checked_sub(self.first.0)?).ok()?;
        match &self.entries {
            Entries::Data { bytes, ends, .. } => {
                let end = *ends.get(index)? as usize;
                let start = if index == 0 { 0 } else { ends[index - 1] as usize };
                Some(Entry::Data(&bytes[start..end]))
            }
            Entries::Junk { count } => (index < *count as usize).then_some(Entry::Junk),
        }
    }

    /// All entries in order, each with its position.
    pub fn iter(&self) -> impl Iterator<Item = (Position, Entry<'_>)> {
        (self.first.0..self.end().0)
            .map(|p| (Position(p), self.get(Position(p)).expect("positions of the block itself")))
    }
}
