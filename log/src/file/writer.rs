//! The writer: a group is taken from the queue, written behind the last frame, made as durable as promised, and
//! published, by the log thread or by who waits for it.
//!
//! Any failure on the way is final: a flush that failed once may have lost what it was asked to save, whatever the
//! next one says, and a write that failed may have left anything.

use std::io;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::commit_queue::{Group, Work};
use crate::waiting::Waiting;
use crate::{Block, Durability, Position};

use super::buffer::WriteBuffer;
use super::layout::{self, FRAME_HEADER, FRAMES_START, SegmentHeader, Stamp};
use super::segments::{self, Segment};
use super::storage::{self, BLOCK, StorageFile};
use super::{Shared, Switch};

/// How long after the last append the watermark is written down.
const IDLE: Duration = Duration::from_millis(10);

/// Buffered: what was written is flushed in the background when it is so much ...
const FLUSH_BYTES: u64 = 8 << 20;

/// ... or so old, or the log is idle.
const FLUSH_AGE: Duration = Duration::from_millis(500);

/// Frames are gathered to this size before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// Where the log ends, and what was written there: the state of who writes.
pub(crate) struct Writer {
    segment: Arc<Segment>,
    file: Arc<dyn StorageFile>,
    /// Where the next frame goes.
    offset: u64,
    next: Position,
    generation: u32,
    /// Frames that are not written yet; the last of them ends at `offset`.
    buffer: WriteBuffer,
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

/// The log thread: writes groups until the log is closed or fails, and what else there is to write.
pub(crate) fn run(shared: &Shared) {
    loop {
        let done = match shared.queue.take(IDLE) {
            Work::Group(group) => {
                write_group(shared, group);
                continue;
            }
            Work::Idle => shared.writer().attest_when_durable(shared),
            Work::Seal => shared.writer().seal(shared),
            Work::Close => {
                if let Err(error) = shared.writer().close(shared) {
                    shared.abandon(error);
                }
                return;
            }
            Work::Stop => return,
        };
        if let Err(error) = done {
            shared.abandon(error);
            return;
        }
    }
}

/// Writes a group, makes it as durable as promised, and publishes it; or else the log has failed.
pub(crate) fn write_group(shared: &Shared, group: Group) {
    let written = panic::catch_unwind(AssertUnwindSafe(|| shared.writer().write(shared, group)));
    match written {
        Ok(Ok(())) => {}
        Ok(Err(error)) => shared.abandon(error),
        Err(_) => {
            // Whoever waits for an outcome is not to blame: the log is, when it is dropped.
            shared.bug.store(true, Ordering::Release);
            shared.abandon(io::Error::other("the writer of the log panicked"));
        }
    }
}

impl Writer {
    /// # Errors
    /// What the operating system says when the last frame is read.
    pub(crate) fn new(place: Place) -> io::Result<Self> {
        let Place { segment, file, offset, next, generation } = place;
        let mut written = vec![0; (offset % BLOCK as u64) as usize];
        let start = offset - written.len() as u64;
        if storage::read_full(&*file, &mut written, start)? < written.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self {
            segment,
            file,
            offset,
            next,
            generation,
            buffer: WriteBuffer::new(&written),
            rotated: false,
            unflushed: 0,
            last_flush: Instant::now(),
        })
    }

    fn write(&mut self, shared: &Shared, group: Group) -> io::Result<()> {
        assert!(group.first == self.next, "groups come at consecutive positions");
        shared.group_bytes.record(group.frames.iter().map(|frame| frame.body_bytes() as u64).sum());
        let mut blocks = Vec::with_capacity(group.frames.len());
        for frame in group.frames {
            match frame {
                Waiting::Entries(batch) => {
                    let block = Block::of(self.next, batch);
                    self.encode(shared, block.body_bytes(), block.end(), |out, stamp| {
                        layout::encode_block(out, stamp, &block);
                    })?;
                    blocks.push(Arc::new(block));
                }
                Waiting::Wrapped(entry) => {
                    let first = self.next;
                    self.encode(shared, entry.body_bytes(), first.plus(1), |out, stamp| {
                        layout::encode_wrapped(out, stamp, first, &entry);
                    })?;
                }
            }
            if self.buffer.pending().len() >= WRITE_BYTES {
                self.write_buffer(shared)?;
            }
        }
        self.write_buffer(shared)?;
        if shared.durability == Durability::Flushed {
            self.flush(shared)?;
        }
        let old = shared.cache.push(blocks.into_iter());
        // Readers may hold some of them.
        let emptied = old.into_iter().filter_map(Arc::into_inner).filter_map(Block::into_emptied).collect();
        // The watermark that attests this group has its place already.
        let current = room(self.segment.bytes, self.offset + FRAME_HEADER as u64);
        shared.queue.publish(self.next, current, mem::take(&mut self.rotated), emptied);
        self.flush_in_background(shared);
        Ok(())
    }

    /// Has the frame of the entries up to `end` put into the buffer, in the next segment if this one is full.
    fn encode(
        &mut self,
        shared: &Shared,
        body: usize,
        end: Position,
        encode: impl FnOnce(&mut Vec<u8>, Stamp),
    ) -> io::Result<()> {
        let bytes = layout::frame_bytes(body);
        if bytes + FRAME_HEADER as u64 > room(self.segment.bytes, self.offset) {
            self.rotate(shared)?;
        }
        self.segment.add_point(self.next, self.offset);
        let stamp = self.stamp(shared);
        encode(self.buffer.with_room(bytes as usize), stamp);
        self.offset += bytes;
        self.next = end;
        self.unflushed += bytes;
        Ok(())
    }

    fn stamp(&self, shared: &Shared) -> Stamp {
        Stamp {
            salt: self.segment.salt,
            offset: self.offset,
            durable: shared.durable(),
            generation: self.generation,
        }
    }

    /// Writes what was gathered. In a flushed log that goes past the operating system's cache, so that it is not copied
    /// there first. The block in which the last frame ended is then written again, with the same bytes in front, as the
    /// cache would do it.
    fn write_buffer(&mut self, shared: &Shared) -> io::Result<()> {
        let pending = self.buffer.pending().len();
        let start = self.offset - pending as u64;
        if pending == 0 {
            return Ok(());
        }
        if shared.durability == Durability::Flushed {
            let (blocks, before) = self.buffer.blocks();
            storage::write_full_blocks(&*self.file, blocks, start - before as u64)?;
        } else {
            storage::write_full(&*self.file, self.buffer.pending(), start)?;
        }
        self.buffer.written(pending);
        Ok(())
    }

    /// Makes everything written so far durable.
    fn flush(&mut self, shared: &Shared) -> io::Result<()> {
        if shared.durability == Durability::Flushed {
            // The newest segment is counted, and those before are durable.
            self.file.sync_data()?;
            shared.raise_durable(self.next);
        } else {
            shared.make_durable(self.next)?;
        }
        self.unflushed = 0;
        self.last_flush = Instant::now();
        Ok(())
    }

    /// Goes on in the spare segment. In a flushed log the old one is durable before, and the new one is there for good
    /// before anything in it is acknowledged. A buffered one goes on at once, unless it is too far ahead of its disk: both become
    /// durable in the background.
    fn rotate(&mut self, shared: &Shared) -> io::Result<()> {
        self.write_buffer(shared)?;
        let attests = shared.durability == Durability::Flushed;
        if attests {
            self.flush(shared)?;
        }
        assert!(!self.rotated, "a group fits in the current segment and the spare one");
        shared.wait_for_switches()?;
        let spare = shared.take_spare().expect("what was accepted has room, here or in a spare segment");
        let header = SegmentHeader {
            generation: self.generation,
            log: shared.id,
            number: self.segment.number + 1,
            first: self.next,
            bytes: spare.bytes,
            attests,
        };
        segments::put_to_use(&*shared.storage, &*spare.file, &header)?;
        self.segment = Arc::new(Segment::new(header.log, header.number, header.first, header.bytes));
        let before = mem::replace(&mut self.file, spare.file);
        self.buffer.restart();
        self.offset = FRAMES_START;
        self.rotated = true;
        if attests {
            shared.segments.push(Arc::clone(&self.segment), Arc::clone(&self.file));
            return shared.count_newest(header.first);
        }
        let switch = Switch { before, number: header.number, first: header.first, when: Instant::now() };
        shared.switch_to(switch, Arc::clone(&self.segment), Arc::clone(&self.file));
        shared.queue.request_flush();
        Ok(())
    }

    /// Writes the watermark down if there is nothing that it does not cover; else sees to that.
    fn attest_when_durable(&mut self, shared: &Shared) -> io::Result<()> {
        let durable = shared.durable() >= self.next;
        if durable {
            self.attest(shared)?;
        } else {
            shared.queue.request_flush();
        }
        shared.queue.rest(durable);
        Ok(())
    }

    fn attest(&mut self, shared: &Shared) -> io::Result<()> {
        debug_assert!(self.buffer.pending().is_empty(), "groups are written before somebody else writes");
        let stamp = self.stamp(shared);
        layout::encode_watermark(self.buffer.with_room(FRAME_HEADER), stamp, self.next);
        self.offset += FRAME_HEADER as u64;
        self.write_buffer(shared)
    }

    fn flush_in_background(&mut self, shared: &Shared) {
        if shared.durability == Durability::Buffered
            && (self.unflushed >= FLUSH_BYTES || self.last_flush.elapsed() >= FLUSH_AGE)
        {
            self.unflushed = 0;
            self.last_flush = Instant::now();
            shared.queue.request_flush();
        }
    }

    fn seal(&mut self, shared: &Shared) -> io::Result<()> {
        self.finish(shared)?;
        let tail = self.next;
        shared.update_manifest(|slot| {
            slot.sealed = true;
            slot.durable = tail;
        })?;
        shared.queue.sealed();
        Ok(())
    }

    /// The manifest says where a log ends that was closed: what is missing before that was lost, however it looks.
    fn close(&mut self, shared: &Shared) -> io::Result<()> {
        self.finish(shared)?;
        let tail = self.next;
        if shared.manifest().slot().durable < tail {
            shared.update_manifest(|slot| slot.durable = tail)?;
        }
        Ok(())
    }

    /// Makes everything durable, and then the watermark that says so.
    fn finish(&mut self, shared: &Shared) -> io::Result<()> {
        if shared.durable() < self.next {
            self.flush(shared)?;
        }
        if shared.queue.is_unattested() {
            self.attest(shared)?;
            self.file.sync_data()?;
            shared.queue.rest(true);
        }
        Ok(())
    }
}
