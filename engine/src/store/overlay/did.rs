//! What a speculation did with a row, and of when the row was that it saw.

use std::ptr::NonNull;

use mixlog_mixer::Mode;

use crate::store::row::{Latch, Stamp};
use crate::store::slab::RowId;

/// What a speculation did with a row, in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Did(pub(super) u8);

impl Did {
    /// It depends on what was there.
    pub(crate) const READ: Self = Self(1);
    pub(crate) const WRITTEN: Self = Self(2);
    /// All that it did was to merge into it.
    pub(crate) const MERGED: Self = Self(4);
    /// All that it did was that, and to ask whether it can.
    pub(crate) const ASKED: Self = Self(8);
    /// Nobody was writing it when it was looked at.
    pub(super) const STILL: Self = Self(16);

    #[inline]
    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    #[inline]
    pub(super) const fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    #[inline]
    pub(super) const fn unset(&mut self, other: Self) {
        self.0 &= !other.0;
    }
}

/// A row that a speculation touched, without its types.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TouchedRow {
    pub(crate) key_hash: u64,
    /// The row's latch, and the stamp of the version that was seen; `None` when there was no row, or nobody looked.
    pub(super) latch: Option<NonNull<Latch>>,
    pub(super) stamp: Stamp,
    /// Its number, or `NOWHERE`.
    pub(crate) row: RowId,
    /// Its place in the table's overlay.
    pub(crate) number: u32,
    pub(crate) table: u16,
    pub(crate) did: Did,
}

impl TouchedRow {
    /// What the transaction must declare; `None` for a row that it only met in a range.
    #[inline]
    pub(crate) const fn mode(&self) -> Option<Mode> {
        if self.did.has(Did::WRITTEN) {
            Some(Mode::Write)
        } else if self.did.has(Did::MERGED) {
            Some(Mode::Merge)
        } else if self.did.has(Did::READ) {
            Some(Mode::Read)
        } else {
            None
        }
    }

    /// Whether nobody was writing what was read of it.
    #[inline]
    pub(crate) const fn is_still(&self) -> bool {
        !self.did.has(Did::READ) || self.did.has(Did::STILL)
    }

    /// Whether the row holds what was seen. `None` where no row was seen: then the table knows
    /// ([`TableStore::is_absent`](crate::store::TableStore::is_absent)).
    ///
    /// # Safety
    /// The schedule allows the caller to read the row, of a store that lives.
    #[inline]
    pub(crate) unsafe fn is_current(&self) -> Option<bool> {
        // SAFETY: rows do not move, and live as long as their store. A number that was given back is not used again so
        // soon, and a stamp never comes back.
        self.latch.map(|latch| unsafe { latch.as_ref() }.stamp() == self.stamp)
    }

    /// The transaction looks at the value. What it wrote itself depends on nothing.
    #[inline]
    pub(super) const fn note_read(&mut self) {
        self.did.unset(Did::ASKED);
        if !self.did.has(Did::WRITTEN) {
            self.did.set(Did::READ);
        }
        // What was merged is looked at: the copy, which holds it, counts.
        if self.did.has(Did::MERGED) {
            self.did.unset(Did::MERGED);
            self.did.set(Did::WRITTEN);
        }
    }

    /// The transaction depends on whether the row can be merged into. At its position the right to merge is enough for
    /// that.
    pub(super) fn note_asked(&mut self) {
        let nothing_else =
            self.did.has(Did::ASKED) || !(self.did.has(Did::READ) || self.did.has(Did::WRITTEN));
        self.note_read();
        if nothing_else {
            self.did.set(Did::ASKED);
        }
    }
}
