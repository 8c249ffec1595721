//! Frames: how bytes on a connection are cut into messages. Drawn in `docs/wire-format.md`.

use std::io::{self, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::LogId;
use crate::bytes::{checksum_holds, put_checksum, u16_at, u32_at, u64_at, u128_at};

const MAGIC: [u8; 4] = *b"MXLG";

/// The version of the wire format.
pub(crate) const VERSION: u16 = 1;

/// Bytes before the body.
pub(crate) const HEADER: usize = 48;

/// The longest body, in bytes: a unit's largest run by default is 8 MiB, and an answer holds one past the
/// megabyte that is asked for.
pub(crate) const BODY_AT_MOST: usize = 64 << 20;

/// So many bytes of entries a unit answers with at most, and then ends the run that it is in: with the largest run, which
/// has [`RUN_AT_MOST`], that makes a body.
pub(crate) const READ_AT_MOST: u32 = 16 << 20;

/// The largest run, in bytes, with 4 for each entry.
pub(crate) const RUN_AT_MOST: usize = 32 << 20;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    UnitRequest = 1,
    SequencerRequest = 2,
    StoreRequest = 3,
    BookRequest = 4,
    UnitReply = 0x81,
    SequencerReply = 0x82,
    StoreReply = 0x83,
    BookReply = 0x84,
    /// The connection ends, as the operating system refused something; the body says what. To be tried again.
    Failed = 0xFE,
    /// The connection ends; the body says why.
    Refused = 0xFF,
}

impl Kind {
    const fn of(code: u16) -> Option<Self> {
        Some(match code {
            1 => Self::UnitRequest,
            2 => Self::SequencerRequest,
            3 => Self::StoreRequest,
            4 => Self::BookRequest,
            0x81 => Self::UnitReply,
            0x82 => Self::SequencerReply,
            0x83 => Self::StoreReply,
            0x84 => Self::BookReply,
            0xFE => Self::Failed,
            0xFF => Self::Refused,
            _ => return None,
        })
    }
}

/// What stands before a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// Of which log; `None` if the sender does not know yet.
    pub(crate) log: Option<LogId>,
    /// The same in a request and its answer.
    pub(crate) request: u64,
    /// The unit or sequencer that is meant, or answers; 0 for the projection store.
    pub(crate) number: u32,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The peer speaks something else.
    #[error("these are no frames of mixlog")]
    Magic,
    /// The peer speaks another version.
    #[error("the peer speaks version {0} of the wire format, this program version {VERSION}")]
    Version(u16),
    /// Bytes were changed on their way.
    #[error("a frame's checksum is wrong")]
    Checksum,
    /// A frame of a kind that is not known.
    #[error("frames of kind {0} are not known")]
    Kind(u16),
    /// A frame that would be too long.
    #[error("a frame's body of {length} bytes is longer than {limit}")]
    TooLong {
        /// What was announced.
        length: u32,
        /// What is taken.
        limit: usize,
    },
    /// The body does not hold what its kind says.
    #[error("a frame's body makes no sense")]
    Body,
}

/// Adds a frame whose body `write` appends.
///
/// # Panics
/// When the body is longer than 4 GiB.
pub(crate) fn put(out: &mut Vec<u8>, header: Header, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.resize(start + HEADER, 0);
    write(out);
    let (head, body) = out[start..].split_at_mut(HEADER);
    let length = u32::try_from(body.len()).expect("a body is shorter than 4 GiB");
    head[0..4].copy_from_slice(&MAGIC);
    head[4..6].copy_from_slice(&VERSION.to_le_bytes());
    head[6..8].copy_from_slice(&(header.kind as u16).to_le_bytes());
    head[8..24].copy_from_slice(&header.log.map_or(0, |log| log.0).to_le_bytes());
    head[24..32].copy_from_slice(&header.request.to_le_bytes());
    head[32..36].copy_from_slice(&header.number.to_le_bytes());
    head[36..40].copy_from_slice(&length.to_le_bytes());
    head[40..44].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    put_checksum(head);
}

/// The header in these bytes, the length of its body, and the body's checksum.
///
/// The magic is looked at first, so that strangers are told from damage, and the version second: what comes
/// after it may differ in another one.
fn header(bytes: &[u8], limit: usize) -> Result<(Header, usize, u32), FrameError> {
    if bytes[0..4] != MAGIC {
        return Err(FrameError::Magic);
    }
    let version = u16_at(bytes, 4);
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    if !checksum_holds(&bytes[..HEADER]) {
        return Err(FrameError::Checksum);
    }
    let code = u16_at(bytes, 6);
    let kind = Kind::of(code).ok_or(FrameError::Kind(code))?;
    let (log, request) = (u128_at(bytes, 8), u64_at(bytes, 24));
    let length = u32_at(bytes, 36);
    if length as usize > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    let log = (log != 0).then_some(LogId(log));
    let header = Header { kind, log, request, number: u32_at(bytes, 32) };
    Ok((header, length as usize, u32_at(bytes, 40)))
}

/// The frames that come in on a connection.
///
/// The buffer grows with what has arrived, never with what a header announces.
pub(crate) struct Incoming {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The longest body that is taken, in bytes.
    limit: usize,
    /// How long a frame may take to arrive, from its first byte on; `None`: that is for others to judge.
    patience: Option<Duration>,
    /// Since when a part of a frame is there.
    begun: Option<Instant>,
}

/// The buffer of a connection on which no long frame came in.
const BUFFER: usize = 128 << 10;

/// A longer buffer than this is given back when it is empty. The usual groups of a client fit, so that their frames do
/// not make it grow each time, which costs as much as reading them.
const KEPT: usize = 4 << 20;

impl Incoming {
    pub(crate) fn new(stream: TcpStream) -> Self {
        // Small until the peer has said something that makes sense.
        let buffer = vec![0; HEADER];
        Self { stream, buffer, start: 0, end: 0, limit: BODY_AT_MOST, patience: None, begun: None }
    }

    /// Of a peer that need not be a friend: takes no longer body than `limit` bytes, and no frame that takes longer than
    /// `patience` to arrive. A connection on which nothing is under way may be silent for ever.
    pub(crate) fn guarded(stream: TcpStream, limit: usize, patience: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(patience))?;
        Ok(Self { limit, patience: Some(patience), ..Self::new(stream) })
    }

    /// The next frame, if all of it has arrived.
    pub(crate) fn next(&mut self) -> Result<Option<(Header, &[u8])>, FrameError> {
        let bytes = &self.buffer[self.start..self.end];
        if bytes.len() < HEADER {
            // Strangers need not send so much to be recognized.
            let known = bytes.len().min(MAGIC.len());
            return if bytes[..known] == MAGIC[..known] { Ok(None) } else { Err(FrameError::Magic) };
        }
        let (header, length, checksum) = header(bytes, self.limit)?;
        if bytes.len() < HEADER + length {
            return Ok(None);
        }
        let body = self.start + HEADER..self.start + HEADER + length;
        self.start = body.end;
        self.begun = None;
        let body = &self.buffer[body];
        if crc32c::crc32c(body) != checksum {
            return Err(FrameError::Checksum);
        }
        Ok(Some((header, body)))
    }

    /// Waits for more bytes. False when the peer has ended the connection.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > KEPT {
                self.buffer = vec![0; BUFFER];
            }
        }
        if self.end == self.buffer.len() {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            if self.end == self.buffer.len() {
                self.buffer.resize((2 * self.buffer.len()).max(BUFFER), 0);
            }
        }
        loop {
            self.check_patience()?;
            match self.stream.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.end += count;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Whether that was too long is looked at again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.patience.is_some() => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn check_patience(&mut self) -> io::Result<()> {
        let Some(patience) = self.patience.filter(|_| self.start < self.end) else { return Ok(()) };
        if self.begun.get_or_insert_with(Instant::now).elapsed() >= patience {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "a frame does not arrive"));
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn frame_that_does_not_arrive_ends_the_connection_and_silence_before_one_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let mut incoming = Incoming::guarded(stream, BODY_AT_MOST, Duration::from_millis(20)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Several times as long as a frame may take.
                std::thread::sleep(Duration::from_millis(100));
                peer.write_all(&MAGIC).unwrap();
            });
            assert!(incoming.fill().unwrap());
        });
        assert_eq!(incoming.next(), Ok(None));
        // Bytes that trickle in do not make it go on.
        let mut trickled = 0;
        let error = loop {
            match incoming.fill() {
                Ok(more) => assert!(more),
                Err(error) => break error,
            }
            let byte = VERSION.to_le_bytes()[0];
            let _ = peer.write_all(&[byte]);
            trickled += 1;
            std::thread::sleep(Duration::from_millis(5));
            assert!(trickled < HEADER, "it waits for ever");
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
