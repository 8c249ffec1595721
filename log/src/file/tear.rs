//! What is no frame, where the log could end: the work of a crash, or damage.
//!
//! A crash leaves out what it interrupts. Segments are zeros before frames are written to them, so where a frame was
//! written in part, there is a sector that holds nothing of it, or not the end of what it should hold. What is no frame,
//! and of which nothing is missing, was whole once: it may have been acknowledged, and dropping it would lose it silently.

use std::io;

use super::layout::{FRAME_HEADER, FrameHeader, FrameKind, Salt};
use super::storage::{self, StorageFile};

/// What a disk writes whole or not at all, at least, in bytes.
const SECTOR: usize = 512;

/// A place at which a frame was to be read.
pub(crate) struct Place<'a> {
    pub(crate) file: &'a dyn StorageFile,
    pub(crate) salt: Salt,
    pub(crate) segment_bytes: u64,
    pub(crate) offset: u64,
    /// The offset after the last byte of the segment that is not zero.
    pub(crate) rest_end: u64,
}

impl Place<'_> {
    /// The header of a frame that stood here whole and has been changed since, as far as that can be told; `None` if it may
    /// have been written in part. Told is a change of one byte of the header, and behind it of one bit, or of any where no
    /// sector ends in a zero; not where a sector has become zeros, or its end has.
    ///
    /// A frame without entries at the log's end does not count: with it nothing is lost.
    ///
    /// Cost: reads the frame, and goes once through its bits; for a header that does not check, a fraction of a
    /// millisecond more.
    pub(crate) fn changed_frame(&self) -> io::Result<Option<FrameHeader>> {
        let mut bytes = [0; FRAME_HEADER];
        if storage::read_full(self.file, &mut bytes, self.offset)? < bytes.len() {
            return Ok(None);
        }
        let found = with_a_byte_changed(&bytes, |bytes| {
            FrameHeader::decode(bytes, self.salt, self.offset, self.segment_bytes).ok()
        });
        let Some((header, changed)) = found else { return Ok(None) };
        let end = self.offset + header.bytes();
        if header.kind == FrameKind::Watermark && self.rest_end <= end {
            return Ok(None);
        }
        let mut frame = vec![0; usize::try_from(header.bytes()).expect("a frame fits into memory")];
        if storage::read_full(self.file, &mut frame, self.offset)? < frame.len() {
            return Ok(None);
        }
        // Without what fills it up, which is zeros.
        let written = FRAME_HEADER + header.body as usize;
        let sectors: Vec<_> = self.sectors(&frame[..written]).collect();
        // Where in its sector what is there ends.
        let ends = |sector: &[u8]| sector.iter().rposition(|byte| *byte != 0);
        let is_missing = sectors.iter().any(|(_, sector)| ends(sector).is_none());
        let may_be_cut = sectors.iter().any(|(_, sector)| sector.last() == Some(&0));
        let is_changed = || {
            let place = changed.or_else(|| header.changed_bit(&frame))?;
            let (start, sector) = sectors.iter().rfind(|(start, _)| *start <= place)?;
            // Else it may be what a cut left out.
            Some(place >= written || ends(sector).is_some_and(|end| place <= start + end))
        };
        let is_whole = !is_missing && (!may_be_cut || is_changed() == Some(true));
        Ok(is_whole.then_some(header))
    }

    /// What of the frame's first bytes lies in each sector, and where in the frame it starts.
    fn sectors<'f>(&self, frame: &'f [u8]) -> impl Iterator<Item = (usize, &'f [u8])> {
        let before = usize::try_from(self.offset % SECTOR as u64).expect("less than a sector");
        let first = (SECTOR - before).min(frame.len());
        let (first, others) = frame.split_at(first);
        let starts = (first.len()..).step_by(SECTOR);
        [(0, first)].into_iter().chain(starts.zip(others.chunks(SECTOR)))
    }
}

/// What `decode` makes of a header as it is, or else with another byte in one place; and that place.
pub(crate) fn with_a_byte_changed<const N: usize, T>(
    bytes: &[u8; N],
    decode: impl Fn(&[u8; N]) -> Option<T>,
) -> Option<(T, Option<usize>)> {
    if let Some(found) = decode(bytes) {
        return Some((found, None));
    }
    let mut other = *bytes;
    (0..N).find_map(|at| {
        let found = (1..=u8::MAX).find_map(|change| {
            other[at] = bytes[at] ^ change;
            decode(&other)
        });
        other[at] = bytes[at];
        found.map(|found| (found, Some(at)))
    })
}
