//! Walking through the frames of a segment file, verified one by one.

use std::io;

use crate::Position;

use super::layout::{self, FRAME_ALIGN, FRAME_HEADER, Flaw, FrameHeader, FrameKind, Salt};
use super::storage::{self, StorageFile};

/// Reads a segment's frames in order, through a window that is filled with one large read at a time.
pub(crate) struct Frames<'a> {
    file: &'a dyn StorageFile,
    salt: Salt,
    /// The segment's length in bytes; nothing behind it is looked at.
    end: u64,
    /// Where the next frame starts.
    offset: u64,
    /// The file's bytes from `window_start` on.
    window: Vec<u8>,
    window_start: u64,
    /// How much is read at a time, at least.
    ahead: usize,
    /// Of the frame before.
    generation: u32,
}

/// One verified frame.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) offset: u64,
    pub(crate) header: FrameHeader,
    /// The whole frame.
    pub(crate) bytes: &'a [u8],
}

/// What stands at an offset.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    Frame(Frame<'a>),
    Flaw(Flaw),
    /// The segment has no room for another frame.
    End,
}

impl<'a> Frames<'a> {
    /// The frames from the one at `offset` on, reading `ahead` bytes at a time.
    pub(crate) fn new(file: &'a dyn StorageFile, salt: Salt, end: u64, offset: u64, ahead: usize) -> Self {
        Self { file, salt, end, offset, window: Vec::new(), window_start: offset, ahead, generation: 0 }
    }

    /// Where the next frame starts, or the flaw stands.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next frame, whose first entry must be at `expected`. After a flaw, the same flaw again.
    pub(crate) fn next(&mut self, expected: Position) -> io::Result<Step<'_>> {
        if self.end.saturating_sub(self.offset) < FRAME_HEADER as u64 {
            return Ok(Step::End);
        }
        self.fill(FRAME_HEADER)?;
        let at = self.at();
        let Some(header) = self.window.get(at..at + FRAME_HEADER) else {
            return Ok(Step::Flaw(Flaw::Short));
        };
        let header = match FrameHeader::decode(header, self.salt, self.offset, self.end) {
            Ok(header) => header,
            Err(flaw) => return Ok(Step::Flaw(flaw)),
        };
        // Whoever opens a log overwrites what is torn, and writes as the next generation. If the flush of that failed, what
        // is torn may be on the disk all the same, though it was read as zeros; it is not what comes next.
        if header.generation < self.generation {
            let (generation, after) = (header.generation, self.generation);
            return Ok(Step::Flaw(Flaw::Stale { generation, after }));
        }
        if header.first != expected {
            return Ok(Step::Flaw(Flaw::Order { expected, found: header.first }));
        }
        let bytes = usize::try_from(header.bytes()).expect("a frame is smaller than the address space");
        self.fill(bytes)?;
        let at = self.at();
        let Some(frame) = self.window.get(at..at + bytes) else {
            return Ok(Step::Flaw(Flaw::Short));
        };
        if let Err(flaw) = header.check(frame) {
            return Ok(Step::Flaw(flaw));
        }
        let offset = self.offset;
        self.offset += bytes as u64;
        self.generation = header.generation;
        Ok(Step::Frame(Frame { offset, header, bytes: frame }))
    }

    /// Whether [`next`](Self::next) needs no further read.
    pub(crate) fn holds_next(&self) -> bool {
        let at = self.at();
        self.window.get(at..at + FRAME_HEADER).is_some_and(|header| {
            FrameHeader::decode(header, self.salt, self.offset, self.end).is_ok_and(|header| {
                self.window.len() - at >= usize::try_from(header.bytes()).unwrap_or(usize::MAX)
            })
        })
    }

    fn at(&self) -> usize {
        usize::try_from(self.offset - self.window_start).expect("the window is in memory")
    }

    /// Makes the window hold `bytes` bytes from the current offset on, unless the file ends before.
    fn fill(&mut self, bytes: usize) -> io::Result<()> {
        let at = self.at();
        if self.window.len() >= at + bytes {
            return Ok(());
        }
        self.window.drain(..at.min(self.window.len()));
        self.window_start = self.offset;
        let held = self.window.len();
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        let wanted = bytes.max(self.ahead).min(left);
        self.window.resize(wanted, 0);
        let read = storage::read_full(self.file, &mut self.window[held..], self.window_start + held as u64)?;
        self.window.truncate(held + read);
        Ok(())
    }
}

impl Frame<'_> {
    /// Adds the frame's entries to `bytes` and `ends`; nothing for a frame without data.
    pub(crate) fn copy_entries(&self, bytes: &mut Vec<u8>, ends: &mut Vec<u32>) -> Result<(), Flaw> {
        match self.header.kind {
            FrameKind::Data => self.header.copy_entries(self.bytes, bytes, ends),
            FrameKind::Junk | FrameKind::Watermark => Ok(()),
        }
    }
}

/// What stands behind the first flaw of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    /// The highest watermark of any frame there.
    pub(crate) durable: Option<Position>,
    /// The offset after the last byte that is not zero.
    pub(crate) end: u64,
}

/// Searches `[from, end)` for frames that are still whole enough to tell what was durable when they were
/// written, and for anything that is not zero.
pub(crate) fn search_rest(file: &dyn StorageFile, salt: Salt, from: u64, end: u64) -> io::Result<Rest> {
    const STEP: usize = 1 << 20;
    const PAGE: usize = 4096;
    let mut rest = Rest { durable: None, end: from };
    let step = STEP.min(usize::try_from(end.saturating_sub(from)).unwrap_or(STEP));
    let mut buffer = vec![0; step + FRAME_HEADER];
    let mut start = from;
    while start < end {
        let wanted = buffer.len().min(usize::try_from(end - start).unwrap_or(usize::MAX));
        let read = storage::read_full(file, &mut buffer[..wanted], start)?;
        // A header that crosses the step's end is read whole this time, and skipped the next time.
        let here = &buffer[..read];
        for page_start in (0..read.min(STEP)).step_by(PAGE) {
            let page = &here[page_start..read.min(page_start + PAGE)];
            if page.iter().fold(0, |all, byte| all | byte) == 0 {
                continue;
            }
            let last = page.iter().rposition(|byte| *byte != 0).expect("a page that is not zero");
            rest.end = rest.end.max(start + (page_start + last) as u64 + 1);
            for at in (page_start..page_start + page.len()).step_by(FRAME_ALIGN) {
                let Some(header) = here.get(at..at + FRAME_HEADER) else { break };
                if !layout::may_be_frame(header) {
                    continue;
                }
                if let Ok(header) = FrameHeader::decode(header, salt, start + at as u64, end) {
                    rest.durable = rest.durable.max(Some(header.durable));
                }
            }
        }
        if read < wanted {
            break;
        }
        start += STEP as u64;
    }
    Ok(rest)
}
