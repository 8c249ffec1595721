//! The segments of an open log: which file holds a position, and where in it to start looking.

use std::collections::VecDeque;
use std::io;
use std::iter;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use crate::{LogId, Position};

use super::buffer::WriteBuffer;
use super::layout::{FRAMES_START, Salt, SegmentHeader};
use super::storage::{self, Access, Storage, StorageFile};

/// The name of the segment that is reserved ahead.
pub(crate) const SPARE: &str = "segment.spare";

/// Distance of the places in a file that are remembered, in bytes: what a reader may have to skip.
const POINT_DISTANCE: u64 = 16 << 10;

/// How many segment files are kept open to read from.
const OPEN_FILES: usize = 16;

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// The file name of segment `number`.
pub(crate) fn file_name(number: u64) -> String {
    format!("segment-{number:016x}")
}

/// The number of the segment that is named so, if any is.
pub(crate) fn parse_file_name(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name.strip_prefix("segment-")?, 16).ok()?;
    (file_name(number) == name).then_some(number)
}

/// One segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) first: Position,
    /// Length of the file.
    pub(crate) bytes: u64,
    pub(crate) salt: Salt,
    /// Positions and the offsets of the frames that start with them, ascending, the first frame's included.
    points: RwLock<Vec<(Position, u64)>>,
}

impl Segment {
    pub(crate) fn new(log: LogId, number: u64, first: Position, bytes: u64) -> Self {
        let points = RwLock::new(vec![(first, FRAMES_START)]);
        Self { number, first, bytes, salt: Salt::of(log, number), points }
    }

    pub(crate) fn file_name(&self) -> String {
        file_name(self.number)
    }

    /// Remembers that the frame at `offset` starts with `position`, if that is far from the last one
    /// remembered.
    pub(crate) fn add_point(&self, position: Position, offset: u64) {
        let mut points = self.points.write().expect(UNPOISONED);
        let last = points.last().expect("the first frame is always there").1;
        if offset >= last + POINT_DISTANCE {
            points.push((position, offset));
        }
    }

    /// The last remembered frame that starts at or before `position`, which the segment holds.
    pub(crate) fn point(&self, position: Position) -> (Position, u64) {
        let points = self.points.read().expect(UNPOISONED);
        let after = points.partition_point(|(first, _)| *first <= position);
        points[after.saturating_sub(1)]
    }
}

/// The segments, in order, and their open files.
pub(crate) struct Segments {
    storage: Arc<dyn Storage>,
    list: RwLock<VecDeque<Arc<Segment>>>,
    active: Mutex<Option<(u64, Arc<dyn StorageFile>)>>,
    /// Files in use lately, the newest last, so that a long log does not need a file descriptor per segment.
    files: Mutex<VecDeque<(u64, Arc<dyn StorageFile>)>>,
    /// Segments that were trimmed and whose files could not be removed yet.
    trimmed: Mutex<Vec<u64>>,
}

impl Segments {
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            list: RwLock::default(),
            active: Mutex::default(),
            files: Mutex::default(),
            trimmed: Mutex::default(),
        }
    }

    /// The directory that they are in.
    pub(crate) fn path(&self) -> &Path {
        self.storage.path()
    }

    /// Adds the next segment, which is written to through `file`.
    pub(crate) fn push(&self, segment: Arc<Segment>, file: Arc<dyn StorageFile>) {
        // The same handle for writing and flushing: another one might not be told of a failed write-back.
        *self.active.lock().expect(UNPOISONED) = Some((segment.number, Arc::clone(&file)));
        self.keep_open(segment.number, file);
        self.list.write().expect(UNPOISONED).push_back(segment);
    }

    /// The segment that holds `position`, if that is not before the first one.
    pub(crate) fn find(&self, position: Position) -> Option<Arc<Segment>> {
        let list = self.list.read().expect(UNPOISONED);
        let after = list.partition_point(|segment| segment.first <= position);
        after.checked_sub(1).map(|index| Arc::clone(&list[index]))
    }

    /// The newest segment's number, and the file through which it is written.
    pub(crate) fn active(&self) -> (u64, Arc<dyn StorageFile>) {
        self.active.lock().expect(UNPOISONED).clone().expect("a log that is written to has a segment")
    }

    /// The file of `segment`, to read from.
    pub(crate) fn file(&self, segment: &Segment) -> io::Result<Arc<dyn StorageFile>> {
        let mut files = self.files.lock().expect(UNPOISONED);
        if let Some(index) = files.iter().position(|(number, _)| *number == segment.number) {
            let found = files.remove(index).expect("an index just found");
            let file = Arc::clone(&found.1);
            files.push_back(found);
            return Ok(file);
        }
        drop(files);
        let file = self.storage.open(&segment.file_name(), Access::Read)?;
        self.keep_open(segment.number, Arc::clone(&file));
        Ok(file)
    }

    fn keep_open(&self, number: u64, file: Arc<dyn StorageFile>) {
        let mut files = self.files.lock().expect(UNPOISONED);
        files.push_back((number, file));
        if files.len() > OPEN_FILES {
            files.pop_front();
        }
    }

    /// The number of the first segment that a log with this head needs: the last one is always needed.
    pub(crate) fn first_needed(&self, head: Position) -> Option<u64> {
        let list = self.list.read().expect(UNPOISONED);
        let after = list.partition_point(|segment| segment.first <= head);
        list.get(after.saturating_sub(1)).map(|segment| segment.number)
    }

    /// Forgets the segments before number `start`; their files remain until
    /// [`remove_trimmed`](Self::remove_trimmed).
    pub(crate) fn trim(&self, start: u64) {
        let mut list = self.list.write().expect(UNPOISONED);
        let count = list.partition_point(|segment| segment.number < start);
        let numbers: Vec<u64> = list.drain(..count).map(|segment| segment.number).collect();
        drop(list);
        self.trimmed.lock().expect(UNPOISONED).extend(numbers);
        self.files.lock().expect(UNPOISONED).retain(|(number, _)| *number >= start);
    }

    /// Removes the files of trimmed segments, durably. What could not be removed is tried again next time.
    pub(crate) fn remove_trimmed(&self) -> io::Result<()> {
        let mut trimmed = self.trimmed.lock().expect(UNPOISONED);
        if trimmed.is_empty() {
            return Ok(());
        }
        while let Some(number) = trimmed.last() {
            match self.storage.remove(&file_name(*number)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            trimmed.pop();
        }
        self.storage.sync_directory()
    }
}

/// Creates the spare segment: its space is the log's before anything depends on it.
///
/// For a log that is flushed at every group, unless groups are large, `write` the zeros as well: space that is
/// reserved but was never written makes each flush also write the file system's own records. `stop` is asked now
/// and then whether the spare is still wanted.
pub(crate) fn reserve(
    storage: &dyn Storage,
    bytes: u64,
    write: bool,
    stop: impl Fn() -> bool,
) -> io::Result<Arc<dyn StorageFile>> {
    /// Zeros are flushed in pieces, so that the log thread's own flushes do not wait for all of them.
    const FLUSHED: u64 = 8 << 20;
    /// And written in smaller ones, between which the log thread's writes come.
    const WRITTEN: u64 = 256 << 10;

    match storage.remove(SPARE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = storage.open(SPARE, Access::CreateNew)?;
    let filled = (|| {
        match file.allocate(bytes) {
            Ok(()) if !write => return file.sync_data(),
            // Without it, writing the zeros reserves the space as well.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            other => other?,
        }
        let mut zeros = WriteBuffer::new(&[]);
        zeros.with_room(WRITTEN as usize).extend(iter::repeat_n(0, WRITTEN as usize));
        let (zeros, _) = zeros.blocks();
        let mut offset = 0;
        while offset < bytes {
            if stop() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let end = bytes.min(offset + FLUSHED);
            while offset < end {
                let piece = (end - offset).min(WRITTEN);
                storage::write_full_blocks(&*file, &zeros[..piece as usize], offset)?;
                offset += piece;
            }
            file.sync_data()?;
        }
        Ok(())
    })();
    match filled {
        Ok(()) => Ok(file),
        Err(error) => {
            drop(file);
            // Gives back what was taken of a full disk. If that fails too, the next attempt tries again.
            let _ = storage.remove(SPARE);
            Err(error)
        }
    }
}

/// Makes the spare segment the one that `header` describes. That is not durable yet.
pub(crate) fn put_to_use(
    storage: &dyn Storage,
    file: &dyn StorageFile,
    header: &SegmentHeader,
) -> io::Result<()> {
    storage::write_full(file, &header.encode(), 0)?;
    storage.rename(SPARE, &file_name(header.number))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn file_name_parses_back_and_nothing_else_does() {
        assert_eq!(parse_file_name(&file_name(0x1f)), Some(0x1f));
        for name in
            ["segment-1f", "segment-000000000000001F", "segment-+00000000000001f", "segment.spare", "x"]
        {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn point_of_a_position_is_the_last_one_before_it() {
        let segment = Segment::new(LogId(1), 0, Position(10), 1 << 20);
        segment.add_point(Position(11), FRAMES_START + 100);
        segment.add_point(Position(20), FRAMES_START + POINT_DISTANCE);
        assert_eq!(segment.point(Position(19)), (Position(10), FRAMES_START));
        assert_eq!(segment.point(Position(20)), (Position(20), FRAMES_START + POINT_DISTANCE));
        assert_eq!(segment.point(Position(99)), (Position(20), FRAMES_START + POINT_DISTANCE));
    }
}
