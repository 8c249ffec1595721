//! The log thread: the only one that writes entries.
//!
//! It takes everything that waits, writes it behind the last frame, makes it as durable as promised, and
//! publishes it. Any failure on the way is final: a flush that failed once may have lost what it was asked to
//! save, whatever the next one says, and a write that failed may have left anything.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::commit_queue::Work;
use crate::{Batch, Block, Durability, Position};

use super::Shared;
use super::layout::{self, FRAME_HEADER, FRAMES_START, SegmentHeader, Stamp};
use super::segments::{self, Segment};
use super::storage::{self, StorageFile};

/// How long after the last append the watermark is written down.
const IDLE: Duration = Duration::from_millis(10);

/// Buffered: what was written is flushed in the background when it is so much ...
const FLUSH_BYTES: u64 = 8 << 20;

/// ... or so old, or the log is idle.
const FLUSH_AGE: Duration = Duration::from_millis(500);

/// Frames are gathered to this size before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// The log thread's own state.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    segment: Arc<Segment>,
    file: Arc<dyn StorageFile>,
    /// Where the next frame goes.
    offset: u64,
    next: Position,
    generation: u32,
    /// Frames that are not written yet; the last of them ends at `offset`.
    buffer: Vec<u8>,
    /// Whether no watermark on the disk covers the last entry yet.
    unattested: bool,
    rotated: bool,
    unflushed: u64,
    last_flush: Instant,
}

/// Where a segment's last frame ends, and what is known of it.
pub(crate) struct Place {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) offset: u64,
    pub(crate) next: Position,
    pub(crate) generation: u32,
}

/// How many bytes of appends fit behind `offset`.
pub(crate) fn room(segment_bytes: u64, offset: u64) -> u64 {
    segment_bytes.saturating_sub(offset)
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, place: Place) -> Self {
        let Place { segment, file, offset, next, generation } = place;
        Self {
            shared,
            segment,
            file,
            offset,
            next,
            generation,
            buffer: Vec::with_capacity(WRITE_BYTES),
            unattested: false,
            rotated: false,
            unflushed: 0,
            last_flush: Instant::now(),
        }
    }

    /// Runs until the log is closed or fails.
    pub(crate) fn run(mut self) {
        loop {
            let idle = self.unattested.then_some(IDLE);
            let done = match self.shared.queue.take(idle) {
                Work::Group { first, frames } => self.write_group(first, frames),
                Work::Idle => self.attest_when_durable(),
                Work::Seal => self.seal(),
                Work::Close => self.close(),
                Work::Stop => return,
            };
            match done {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    self.shared.queue.fail(error);
                    return;
                }
            }
        }
    }

    fn write_group(&mut self, first: Position, frames: Vec<Batch>) -> io::Result<bool> {
        assert!(first == self.next, "groups come at consecutive positions");
        let mut blocks = Vec::with_capacity(frames.len());
        for frame in frames {
            let block = Block::of(self.next, frame);
            self.encode(&block)?;
            blocks.push(Arc::new(block));
            if self.buffer.len() >= WRITE_BYTES {
                self.write_buffer()?;
            }
        }
        self.write_buffer()?;
        if self.shared.durability == Durability::Flushed {
            self.flush()?;
        }
        self.unattested = true;
        self.shared.cache.push(blocks.into_iter());
        // The watermark that attests this group has its place already.
        let current = room(self.segment.bytes, self.offset + FRAME_HEADER as u64);
        self.shared.queue.publish(self.next, current, std::mem::take(&mut self.rotated));
        self.flush_in_background();
        Ok(true)
    }

    /// Puts the frame of `block` into the buffer, in the next segment if this one is full.
    fn encode(&mut self, block: &Block) -> io::Result<()> {
        let body = block.data().map_or(0, |(bytes, ends)| bytes.len() + size_of_val(ends));
        let bytes = layout::frame_bytes(body);
        if bytes + FRAME_HEADER as u64 > room(self.segment.bytes, self.offset) {
            self.rotate()?;
        }
        self.segment.add_point(block.first(), self.offset);
        let stamp = self.stamp();
        layout::encode_block(&mut self.buffer, stamp, block);
        self.offset += bytes;
        self.next = block.end();
        self.unflushed += bytes;
        Ok(())
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            salt: self.segment.salt,
            offset: self.offset,
            durable: self.shared.durable(),
            generation: self.generation,
        }
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        let start = self.offset - self.buffer.len() as u64;
        storage::write_full(&*self.file, &self.buffer, start)?;
        self.buffer.clear();
        Ok(())
    }

    /// Makes everything written so far durable.
    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.shared.raise_durable(self.next);
        self.unflushed = 0;
        self.last_flush = Instant::now();
        Ok(())
    }

    /// Goes on in the spare segment. The old one is durable before the new one is there, and the new one is
    /// there for good before anything in it is acknowledged.
    fn rotate(&mut self) -> io::Result<()> {
        self.write_buffer()?;
        self.flush()?;
        assert!(!self.rotated, "a group fits in the current segment and the spare one");
        let spare = self.shared.take_spare().expect("what was accepted has room, here or in a spare segment");
        let shared = Arc::clone(&self.shared);
        let header = SegmentHeader {
            generation: self.generation,
            log: shared.id,
            number: self.segment.number + 1,
            first: self.next,
            bytes: spare.bytes,
        };
        segments::put_to_use(&*shared.storage, &*spare.file, &header)?;
        shared.update_manifest(|slot| {
            slot.segments_end = header.number + 1;
            slot.durable = slot.durable.max(header.first);
        })?;
        self.segment = Arc::new(Segment::new(header.log, header.number, header.first, header.bytes));
        self.file = spare.file;
        self.offset = FRAMES_START;
        self.rotated = true;
        shared.segments.push(Arc::clone(&self.segment), Arc::clone(&self.file));
        Ok(())
    }

    /// Writes the watermark down if there is nothing that it does not cover; else sees to that.
    fn attest_when_durable(&mut self) -> io::Result<bool> {
        if self.shared.durable() < self.next {
            self.shared.queue.request_flush();
            return Ok(true);
        }
        self.attest()?;
        Ok(true)
    }

    fn attest(&mut self) -> io::Result<()> {
        debug_assert!(self.buffer.is_empty(), "groups are written before the log is idle");
        let stamp = self.stamp();
        layout::encode_watermark(&mut self.buffer, stamp, self.next);
        self.offset += FRAME_HEADER as u64;
        self.write_buffer()?;
        self.unattested = false;
        Ok(())
    }

    fn flush_in_background(&mut self) {
        if self.shared.durability == Durability::Buffered
            && (self.unflushed >= FLUSH_BYTES || self.last_flush.elapsed() >= FLUSH_AGE)
        {
            self.unflushed = 0;
            self.last_flush = Instant::now();
            self.shared.queue.request_flush();
        }
    }

    fn seal(&mut self) -> io::Result<bool> {
        self.finish()?;
        let tail = self.next;
        self.shared.update_manifest(|slot| {
            slot.sealed = true;
            slot.durable = tail;
        })?;
        self.shared.queue.sealed();
        Ok(true)
    }

    fn close(&mut self) -> io::Result<bool> {
        self.finish()?;
        Ok(false)
    }

    /// Makes everything durable, and then the watermark that says so.
    fn finish(&mut self) -> io::Result<()> {
        if self.shared.durable() < self.next {
            self.flush()?;
        }
        if self.unattested {
            self.attest()?;
            self.file.sync_data()?;
        }
        Ok(())
    }
}
