//! The bytes on disk. The format, its reasons and its recovery are told in `docs/log-format.md`; this file is
//! the only one that knows an offset inside a header.
//!
//! Everything is little-endian. Checksums are CRC-32C.
//!
//! ```text
//! segment-<number, 16 hex digits>           one file per segment, of fixed length
//! +--------+-----------------------+---------+---------+-------+------------------+
//! | header | zeros up to 4096      | frame   | frame   | ...   | zeros to the end |
//! +--------+-----------------------+---------+---------+-------+------------------+
//!
//! segment header, 64 bytes                  frame, a multiple of 8 bytes
//!  0  8  magic "MIXLOGSG"                    0  4  magic "MXFR"
//!  8  4  format version                      4  4  kind: 1 data, 2 junk, 3 watermark
//! 12  4  generation                          8  8  salt, from log id and segment number
//! 16 16  log id                             16  8  offset of this frame in its file
//! 32  8  segment number                     24  8  position of the first entry
//! 40  8  position of the first entry        32  8  durable: positions below it were durable
//! 48  8  length of the file                 40  4  count of entries
//! 56  4  flags: bit 0 early                 44  4  length of the body
//! 60  4  checksum of bytes 0..60            48  4  generation
//!                                           52  4  zero
//!                                           56  4  checksum of bytes 0..56 and the padded body
//!                                           60  4  checksum of bytes 0..60
//!                                           64  .. body: per entry, 4 bytes where it ends; then the entries
//!                                            .. .. zeros to a multiple of 8
//!
//! manifest                                  two copies of one slot, at 0 and 4096; 8192 bytes
//! slot, 512 bytes
//!  0  8  magic "MIXLOGMF"
//!  8  4  format version
//! 12  4  flags: bit 0 sealed
//! 16 16  log id
//! 32  8  sequence: the higher of two valid slots counts
//! 40  8  head
//! 48  8  durable: positions below it were durable; of a sealed log its final tail
//! 56  8  number of the first segment
//! 64  8  number after the last segment that is certainly there
//! 72  4  generation
//! 76  4  zero
//! 80  8  while a torn tail is overwritten: the offset after its last byte; else 0
//! 88  8  the number of its segment
//! 96  .. zeros
//! 508 4  checksum of bytes 0..508
//! ```

use std::fmt;

use crate::bytes::{checksum_holds, put, put_checksum, u32_at, u64_at, u128_at};
use crate::waiting::Wrapped;
use crate::{Block, LogId, Position};

/// The version of everything in this file.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Where a segment's frames start: on a page of their own, so that the synced header is never written again.
pub(crate) const FRAMES_START: u64 = 4096;

pub(crate) const SEGMENT_HEADER: usize = 64;
pub(crate) const FRAME_HEADER: usize = 64;
pub(crate) const FRAME_ALIGN: usize = 8;

pub(crate) const MANIFEST_SLOT: usize = 512;
pub(crate) const MANIFEST_SLOT_OFFSETS: [u64; 2] = [0, 4096];
pub(crate) const MANIFEST_BYTES: usize = 8192;

const SEGMENT_MAGIC: &[u8; 8] = b"MIXLOGSG";
const MANIFEST_MAGIC: &[u8; 8] = b"MIXLOGMF";
const FRAME_MAGIC: &[u8; 4] = b"MXFR";
const FLAG_SEALED: u32 = 1;
const FLAG_EARLY: u32 = 1;

/// What a frame costs beside its body, at most: header, padding, and a watermark frame that attests it.
pub(crate) const FRAME_OVERHEAD: u64 = (2 * FRAME_HEADER + FRAME_ALIGN) as u64;

/// What is wrong with bytes that should be a header or a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Zeros, as after the last frame.
    Blank,
    /// The file ends before.
    Short,
    Magic,
    HeaderChecksum,
    /// Valid, but of another log, another segment or another place.
    Foreign,
    /// A length or count that cannot be.
    Bounds,
    BodyChecksum,
    /// Valid, but not the position that comes next.
    Order {
        expected: Position,
        found: Position,
    },
    /// Valid, but older than the frame before it: overwritten once, and the disk never got that.
    Stale {
        generation: u32,
        after: u32,
    },
    /// Valid, but in a format of this version.
    Version(u32),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("there are zeros"),
            Self::Short => f.write_str("the file ends too early"),
            Self::Magic => f.write_str("the magic number is wrong"),
            Self::HeaderChecksum => f.write_str("the checksum of the header is wrong"),
            Self::Foreign => f.write_str("it belongs to another log or place"),
            Self::Bounds => f.write_str("a length or count is out of bounds"),
            Self::BodyChecksum => f.write_str("the checksum of the entries is wrong"),
            Self::Order { expected, found } => write!(f, "position {expected} comes next, not {found}"),
            Self::Stale { generation, after } => {
                write!(f, "it is of generation {generation}, and the frame before it of generation {after}")
            }
            Self::Version(version) => write!(f, "format version {version} is not known"),
        }
    }
}

/// Checks what all versions of a header have in common: magic first, version next, checksum last.
fn check_header(bytes: &[u8], magic: &[u8; 8]) -> Result<(), Flaw> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Err(Flaw::Blank);
    }
    if &bytes[..8] != magic {
        return Err(Flaw::Magic);
    }
    if !checksum_holds(bytes) {
        return Err(Flaw::HeaderChecksum);
    }
    match u32_at(bytes, 8) {
        FORMAT_VERSION => Ok(()),
        version => Err(Flaw::Version(version)),
    }
}

/// The first bytes of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) generation: u32,
    pub(crate) log: LogId,
    pub(crate) number: u64,
    pub(crate) first: Position,
    /// Length of the file.
    pub(crate) bytes: u64,
    /// Whether everything before `first` was durable when the header was written.
    pub(crate) attests: bool,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = [0; SEGMENT_HEADER];
        put(&mut bytes, 0, SEGMENT_MAGIC);
        put(&mut bytes, 8, &FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, 12, &self.generation.to_le_bytes());
        put(&mut bytes, 16, &self.log.0.to_le_bytes());
        put(&mut bytes, 32, &self.number.to_le_bytes());
        put(&mut bytes, 40, &self.first.0.to_le_bytes());
        put(&mut bytes, 48, &self.bytes.to_le_bytes());
        put(&mut bytes, 56, &if self.attests { 0 } else { FLAG_EARLY }.to_le_bytes());
        put_checksum(&mut bytes);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; SEGMENT_HEADER]) -> Result<Self, Flaw> {
        check_header(bytes, SEGMENT_MAGIC)?;
        let header = Self {
            generation: u32_at(bytes, 12),
            log: LogId(u128_at(bytes, 16)),
            number: u64_at(bytes, 32),
            first: Position(u64_at(bytes, 40)),
            bytes: u64_at(bytes, 48),
            attests: u32_at(bytes, 56) & FLAG_EARLY == 0,
        };
        if header.bytes < FRAMES_START {
            return Err(Flaw::Bounds);
        }
        Ok(header)
    }
}

/// One copy of the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ManifestSlot {
    pub(crate) log: LogId,
    pub(crate) sequence: u64,
    pub(crate) head: Position,
    /// Positions below it were durable when the slot was written.
    pub(crate) durable: Position,
    pub(crate) segments_start: u64,
    pub(crate) segments_end: u64,
    pub(crate) generation: u32,
    pub(crate) sealed: bool,
    /// A torn tail that is being overwritten: perhaps it was, and perhaps the disk never got that.
    pub(crate) tear: Option<Tear>,
}

/// Where a torn tail lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tear {
    /// The number of the segment.
    pub(crate) segment: u64,
    /// The offset after its last byte, which is not 0.
    pub(crate) end: u64,
}

impl ManifestSlot {
    /// That of a log without entries, the first of which will stand at `head`.
    pub(crate) const fn first(log: LogId, head: Position) -> Self {
        Self {
            log,
            sequence: 0,
            head,
            durable: head,
            segments_start: 0,
            segments_end: 0,
            generation: 0,
            sealed: false,
            tear: None,
        }
    }

    pub(crate) fn encode(&self) -> [u8; MANIFEST_SLOT] {
        let mut bytes = [0; MANIFEST_SLOT];
        put(&mut bytes, 0, MANIFEST_MAGIC);
        put(&mut bytes, 8, &FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, 12, &if self.sealed { FLAG_SEALED } else { 0 }.to_le_bytes());
        put(&mut bytes, 16, &self.log.0.to_le_bytes());
        put(&mut bytes, 32, &self.sequence.to_le_bytes());
        put(&mut bytes, 40, &self.head.0.to_le_bytes());
        put(&mut bytes, 48, &self.durable.0.to_le_bytes());
        put(&mut bytes, 56, &self.segments_start.to_le_bytes());
        put(&mut bytes, 64, &self.segments_end.to_le_bytes());
        put(&mut bytes, 72, &self.generation.to_le_bytes());
        if let Some(Tear { segment, end }) = self.tear {
            put(&mut bytes, 80, &end.to_le_bytes());
            put(&mut bytes, 88, &segment.to_le_bytes());
        }
        put_checksum(&mut bytes);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; MANIFEST_SLOT]) -> Result<Self, Flaw> {
        check_header(bytes, MANIFEST_MAGIC)?;
        let slot = Self {
            log: LogId(u128_at(bytes, 16)),
            sequence: u64_at(bytes, 32),
            head: Position(u64_at(bytes, 40)),
            durable: Position(u64_at(bytes, 48)),
            segments_start: u64_at(bytes, 56),
            segments_end: u64_at(bytes, 64),
            generation: u32_at(bytes, 72),
            sealed: u32_at(bytes, 12) & FLAG_SEALED != 0,
            tear: match (u64_at(bytes, 80), u64_at(bytes, 88)) {
                (0, _) => None,
                (end, segment) => Some(Tear { segment, end }),
            },
        };
        if slot.segments_start > slot.segments_end || slot.head > slot.durable {
            return Err(Flaw::Bounds);
        }
        Ok(slot)
    }
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Data,
    Junk,
    /// No entries: it only tells how far the log was durable.
    Watermark,
}

/// Which segment of which log a frame belongs to: bytes that were copied elsewhere, or that are left from
/// another use of the disk, do not validate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Salt(u64);

impl Salt {
    pub(crate) fn of(log: LogId, segment: u64) -> Self {
        let mut bytes = [0; 24];
        put(&mut bytes, 0, &log.0.to_le_bytes());
        put(&mut bytes, 16, &segment.to_le_bytes());
        // Two checksums of the same bytes in different order: an injective map is not needed, only a spread
        // one.
        let low = crc32c::crc32c(&bytes);
        bytes.reverse();
        Self(u64::from(low) | u64::from(crc32c::crc32c(&bytes)) << 32)
    }
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    pub(crate) first: Position,
    /// Positions below it were durable when the frame was written.
    pub(crate) durable: Position,
    pub(crate) count: u32,
    pub(crate) body: u32,
    pub(crate) generation: u32,
    checksum: u32,
}

impl FrameHeader {
    /// Decodes the header at `offset` of a segment of `segment_bytes` bytes. Every length has been compared
    /// with its bounds when this returns.
    pub(crate) fn decode(bytes: &[u8], salt: Salt, offset: u64, segment_bytes: u64) -> Result<Self, Flaw> {
        let bytes: &[u8; FRAME_HEADER] = bytes.try_into().expect("a whole header");
        if &bytes[..4] != FRAME_MAGIC {
            return Err(if bytes.iter().all(|byte| *byte == 0) { Flaw::Blank } else { Flaw::Magic });
        }
        if !checksum_holds(bytes) {
            return Err(Flaw::HeaderChecksum);
        }
        if u64_at(bytes, 8) != salt.0 || u64_at(bytes, 16) != offset {
            return Err(Flaw::Foreign);
        }
        let kind = match u32_at(bytes, 4) {
            1 => FrameKind::Data,
            2 => FrameKind::Junk,
            3 => FrameKind::Watermark,
            _ => return Err(Flaw::Bounds),
        };
        let header = Self {
            kind,
            first: Position(u64_at(bytes, 24)),
            durable: Position(u64_at(bytes, 32)),
            count: u32_at(bytes, 40),
            body: u32_at(bytes, 44),
            generation: u32_at(bytes, 48),
            checksum: u32_at(bytes, 56),
        };
        let shape_holds = match kind {
            FrameKind::Data => header.count > 0 && u64::from(header.body) >= 4 * u64::from(header.count),
            FrameKind::Junk => header.count > 0 && header.body == 0,
            FrameKind::Watermark => header.count == 0 && header.body == 0,
        };
        let fits = header.bytes() <= segment_bytes.saturating_sub(offset);
        if !shape_holds || !fits || header.first.0.checked_add(u64::from(header.count)).is_none() {
            return Err(Flaw::Bounds);
        }
        Ok(header)
    }

    /// The bytes of the whole frame.
    pub(crate) fn bytes(&self) -> u64 {
        frame_bytes(self.body as usize)
    }

    /// The position after the last entry.
    pub(crate) fn end(&self) -> Position {
        self.first.plus(u64::from(self.count))
    }

    /// Checks the whole frame, `frame`, of which this is the header.
    pub(crate) fn check(&self, frame: &[u8]) -> Result<(), Flaw> {
        if Self::checksum_of(frame) == self.checksum { Ok(()) } else { Err(Flaw::BodyChecksum) }
    }

    /// The byte of the frame's body of which one bit has changed, if that is why [`check`](Self::check) fails.
    pub(crate) fn changed_bit(&self, frame: &[u8]) -> Option<usize> {
        /// The polynomial of CRC-32C, its highest power in the lowest bit.
        const POLYNOMIAL: u32 = 0x82f6_3b78;
        let difference = Self::checksum_of(frame) ^ self.checksum;
        // What a change of the last bit makes of the checksum, then of the one before, and so on.
        let mut of_bit = POLYNOMIAL;
        (FRAME_HEADER..frame.len()).rev().find(|_| {
            (0..8).fold(false, |is_found, _| {
                let is_this = of_bit == difference;
                of_bit = (of_bit >> 1) ^ if of_bit & 1 == 1 { POLYNOMIAL } else { 0 };
                is_found | is_this
            })
        })
    }

    fn checksum_of(frame: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&frame[..56]), &frame[FRAME_HEADER..])
    }

    /// Adds the entries of `frame`, which was checked, to `bytes` and `ends`.
    pub(crate) fn copy_entries(
        &self,
        frame: &[u8],
        bytes: &mut Vec<u8>,
        ends: &mut Vec<u32>,
    ) -> Result<(), Flaw> {
        let body = &frame[FRAME_HEADER..FRAME_HEADER + self.body as usize];
        let (own_ends, entries) = body.split_at(4 * self.count as usize);
        let base = u32::try_from(bytes.len()).expect("a block holds less than 4 GiB");
        let mut before = 0;
        for end in own_ends.chunks_exact(4) {
            let end = u32_at(end, 0);
            if end < before || end as usize > entries.len() {
                return Err(Flaw::Bounds);
            }
            ends.push(base + end);
            before = end;
        }
        if before as usize != entries.len() {
            return Err(Flaw::Bounds);
        }
        bytes.extend_from_slice(entries);
        Ok(())
    }
}

/// The bytes of a frame with this body.
pub(crate) fn frame_bytes(body: usize) -> u64 {
    (FRAME_HEADER + body.next_multiple_of(FRAME_ALIGN)) as u64
}

/// What the writer knows of every frame that it writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) salt: Salt,
    /// The frame's offset in its file.
    pub(crate) offset: u64,
    pub(crate) durable: Position,
    pub(crate) generation: u32,
}

/// Appends the frame of `block` to `out`.
pub(crate) fn encode_block(out: &mut Vec<u8>, stamp: Stamp, block: &Block) {
    let count = u32::try_from(block.len()).expect("a block holds less than 2^32 entries");
    let kind = if block.data().is_some() { FrameKind::Data } else { FrameKind::Junk };
    let mut frame = Encoder::begin(out, stamp, kind, block.first(), count, block.body_bytes());
    if let Some((bytes, ends)) = block.data() {
        frame.put_numbers(ends);
        frame.put(bytes);
    }
    frame.finish();
}

/// Appends the frame of one entry, which stands at `first`, to `out`.
pub(crate) fn encode_wrapped(out: &mut Vec<u8>, stamp: Stamp, first: Position, entry: &Wrapped) {
    let mut frame = Encoder::begin(out, stamp, FrameKind::Data, first, 1, entry.body_bytes());
    let end = u32::try_from(entry.bytes()).expect("an entry has less than 4 GiB");
    frame.put_numbers(&[end]);
    frame.put(entry.head());
    frame.put_block(entry.block());
    frame.finish();
}

/// Appends a watermark frame, which stands before position `next`, to `out`.
pub(crate) fn encode_watermark(out: &mut Vec<u8>, stamp: Stamp, next: Position) {
    Encoder::begin(out, stamp, FrameKind::Watermark, next, 0, 0).finish();
}

/// A frame in the making.
struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    /// Of the bytes up to here, without the header's last ones.
    checksum: u32,
    summed: usize,
}

impl<'a> Encoder<'a> {
    /// One whose body will have `body` bytes.
    fn begin(
        out: &'a mut Vec<u8>,
        stamp: Stamp,
        kind: FrameKind,
        first: Position,
        count: u32,
        body: usize,
    ) -> Self {
        let body = u32::try_from(body).expect("a frame holds less than 4 GiB");
        let start = out.len();
        out.resize(start + FRAME_HEADER, 0);
        let header = &mut out[start..];
        let kind: u32 = match kind {
            FrameKind::Data => 1,
            FrameKind::Junk => 2,
            FrameKind::Watermark => 3,
        };
        put(header, 0, FRAME_MAGIC);
        put(header, 4, &kind.to_le_bytes());
        put(header, 8, &stamp.salt.0.to_le_bytes());
        put(header, 16, &stamp.offset.to_le_bytes());
        put(header, 24, &first.0.to_le_bytes());
        put(header, 32, &stamp.durable.0.to_le_bytes());
        put(header, 40, &count.to_le_bytes());
        put(header, 44, &body.to_le_bytes());
        put(header, 48, &stamp.generation.to_le_bytes());
        let checksum = crc32c::crc32c(&header[..56]);
        let summed = out.len();
        Self { out, start, checksum, summed }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn put_numbers(&mut self, numbers: &[u32]) {
        let before = self.out.len();
        self.out.resize(before + size_of_val(numbers), 0);
        for (place, number) in self.out[before..].chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
    }

    /// Where the entries of a block of data end, and their bytes.
    fn put_block(&mut self, block: &Block) {
        let (bytes, ends) = block.data().expect("a block of data");
        self.put_numbers(ends);
        self.sum();
        self.put(bytes);
        self.checksum = block.checksum_after(self.checksum);
        self.summed = self.out.len();
    }

    fn sum(&mut self) {
        self.checksum = crc32c::crc32c_append(self.checksum, &self.out[self.summed..]);
        self.summed = self.out.len();
    }

    fn finish(mut self) {
        let length = self.out.len() - self.start;
        debug_assert_eq!(length - FRAME_HEADER, u32_at(&self.out[self.start..], 44) as usize);
        self.out.resize(self.start + length.next_multiple_of(FRAME_ALIGN), 0);
        self.sum();
        let header = &mut self.out[self.start..self.start + FRAME_HEADER];
        put(header, 56, &self.checksum.to_le_bytes());
        put_checksum(header);
    }
}

/// Whether a frame's magic number stands at the start of these bytes.
pub(crate) fn may_be_frame(bytes: &[u8]) -> bool {
    bytes.starts_with(FRAME_MAGIC)
}

#[cfg(all(test, not(loom)))]
mod tests;
