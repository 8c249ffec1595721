//! The bytes of a file: in memory, on the disk, and on their way.

use std::collections::BTreeSet;

use crate::{Random, SECTOR};

/// What the kernel forgets wholly or not at all.
const PAGE: usize = 4096;

/// A file without its name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inode {
    /// What a reader sees.
    pub(crate) live: Vec<u8>,
    pub(crate) durable: Vec<u8>,
    pub(crate) pending: Vec<Pending>,
}

/// A write or cut of a file that may not be on the disk.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) offset: usize,
    /// `None` when the file was cut there.
    pub(crate) bytes: Option<Vec<u8>>,
    /// A failed sync marked it clean, so no later one saves it.
    pub(crate) clean: bool,
}

impl Inode {
    /// What was written and not synced is taken for saved.
    pub(crate) fn lose(&mut self) {
        self.pending.iter_mut().filter(|write| write.bytes.is_some()).for_each(|write| write.clean = true);
    }

    /// Drops pages from memory that nobody has written to since their bytes were lost; half of them. Which of these bytes
    /// the disk has is seen from now on.
    pub(crate) fn forget(&mut self, random: &mut Random) {
        let pages = |write: &Pending| match &write.bytes {
            Some(bytes) if !bytes.is_empty() => {
                write.offset / PAGE..(write.offset + bytes.len()).div_ceil(PAGE)
            }
            _ => 0..0,
        };
        let of = |clean: bool| -> BTreeSet<usize> {
            self.pending.iter().filter(|write| write.clean == clean).flat_map(pages).collect()
        };
        // While a cut is pending, what lies behind it is not settled.
        if self.pending.iter().any(|write| write.bytes.is_none()) {
            return;
        }
        let (lost, dirty) = (of(true), of(false));
        for page in lost.difference(&dirty).copied().filter(|_| random.one_in(2)).collect::<Vec<_>>() {
            let (start, end) = (page * PAGE, (page + 1) * PAGE);
            let mut kept = Vec::new();
            for write in std::mem::take(&mut self.pending) {
                let Some(bytes) = &write.bytes else { unreachable!("no cut is pending") };
                let here = start.max(write.offset)..end.min(write.offset + bytes.len());
                if here.is_empty() {
                    kept.push(write);
                    continue;
                }
                let part = |from: usize, to: usize| bytes[from - write.offset..to - write.offset].to_vec();
                let mut at = here.start;
                while at < here.end {
                    let next = here.end.min((at / SECTOR + 1) * SECTOR);
                    if random.one_in(2) {
                        put(&mut self.durable, at, &part(at, next));
                    }
                    at = next;
                }
                let clean = write.clean;
                for (from, to) in [(write.offset, here.start), (here.end, write.offset + bytes.len())] {
                    if from < to {
                        kept.push(Pending { offset: from, bytes: Some(part(from, to)), clean });
                    }
                }
            }
            self.pending = kept;
            // The length is none of the page's bytes.
            let end = end.min(self.live.len());
            for at in start..end {
                self.live[at] = self.durable.get(at).copied().unwrap_or(0);
            }
            if self.durable.len() < end {
                let zeros = vec![0; end - self.durable.len()];
                // Before what was lost, which may be there all the same.
                self.pending
                    .insert(0, Pending { offset: self.durable.len(), bytes: Some(zeros), clean: false });
            }
        }
    }
}

impl Pending {
    /// The numbers of the sectors, of so many bytes, that are written to.
    pub(crate) fn sectors(&self, bytes: usize) -> std::ops::Range<usize> {
        let written = self.bytes.as_ref().map_or(0, Vec::len);
        if written == 0 { 0..0 } else { self.offset / bytes..(self.offset + written).div_ceil(bytes) }
    }

    /// Makes bytes the same as those of a later write.
    pub(crate) fn give_way_to(&mut self, later: &Self) {
        let Some(bytes) = &mut self.bytes else { return };
        let Some(over) = &later.bytes else {
            bytes.truncate(later.offset.saturating_sub(self.offset));
            return;
        };
        let start = self.offset.max(later.offset);
        let end = (self.offset + bytes.len()).min(later.offset + over.len());
        if start < end {
            let over = &over[start - later.offset..end - later.offset];
            bytes[start - self.offset..end - self.offset].copy_from_slice(over);
        }
    }
}

/// Puts bytes into a file's image, which grows as needed.
pub(crate) fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if image.len() < offset + bytes.len() {
        image.resize(offset + bytes.len(), 0);
    }
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}
