//! Reading entries back from segment files.

use std::io;
use std::sync::Arc;

use crate::{Batch, Block, Position, ReadError};

use super::frames::{Frames, Step};
use super::layout::{Flaw, FrameKind};
use super::report::Damage;
use super::segments::{Segment, Segments};
use super::storage;

/// How much is read at a time: frames that come along with the wanted one are part of the answer.
const AHEAD: usize = 64 << 10;

/// The block that holds `position`, from the disk: from the frame with `position` on, as many entries as one
/// read brings, but none at or past `tail`. `None` when no segment holds the position, as it has just been
/// trimmed.
pub(crate) fn read(
    segments: &Segments,
    position: Position,
    tail: Position,
) -> Result<Option<Arc<Block>>, ReadError> {
    let Some(segment) = segments.find(position) else { return Ok(None) };
    let file = match segments.file(&segment) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(segments, &segment, error)),
    };
    let (mut next, offset) = segment.point(position);
    let mut frames = Frames::new(&*file, segment.salt, segment.bytes, offset, AHEAD);
    let mut gathered = Gathered::default();
    loop {
        let flaw = match frames.next(next).map_err(|error| refused(segments, &segment, error))? {
            Step::Frame(frame) => {
                // What is not published is not there, even if it is written.
                if frame.header.end() > tail {
                    break;
                }
                next = frame.header.end();
                if next <= position {
                    continue;
                }
                if frame.header.kind == FrameKind::Junk {
                    if gathered.is_empty() {
                        return Ok(Some(Arc::new(Block::junk(frame.header.first, frame.header.count))));
                    }
                    break;
                }
                match frame.copy_entries(&mut gathered.bytes, &mut gathered.ends) {
                    Ok(()) => {
                        gathered.first.get_or_insert(frame.header.first);
                        None
                    }
                    Err(flaw) => Some(flaw),
                }
            }
            Step::Flaw(flaw) => Some(flaw),
            Step::End => Some(Flaw::Short),
        };
        match flaw {
            // Whoever asks for the entries behind will hear of it.
            Some(_) if !gathered.is_empty() => break,
            Some(flaw) => return Err(corrupt(&segment, next, frames.offset(), flaw)),
            None if frames.holds_next() => {}
            None => break,
        }
    }
    Ok(gathered.into_block())
}

fn refused(segments: &Segments, segment: &Segment, error: io::Error) -> ReadError {
    ReadError::Io(Arc::new(storage::located(segments.path().join(segment.file_name()), error)))
}

fn corrupt(segment: &Segment, position: Position, offset: u64, flaw: Flaw) -> ReadError {
    let damage = Damage { position, file: segment.file_name(), offset, reason: flaw.to_string() };
    ReadError::Corrupt { position, detail: damage.to_string() }
}

/// The entries of consecutive frames.
#[derive(Default)]
struct Gathered {
    first: Option<Position>,
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Gathered {
    fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn into_block(self) -> Option<Arc<Block>> {
        Some(Arc::new(Block::of(self.first?, Batch::from_parts(self.bytes, self.ends))))
    }
}
