//! Frames: how bytes on a connection are cut into messages. Drawn in `docs/wire-format.md`.

use std::io;
use std::net::TcpStream;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::LogId;
use crate::block::SUMMED;
use crate::buffer::{self, Buffer};
use crate::bytes::{checksum_holds, put_checksum, u16_at, u32_at, u64_at, u128_at};
use crate::checksum;

use super::outgoing::Outgoing;

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
pub(crate) fn put(out: &mut Outgoing, header: Header, write: impl FnOnce(&mut Outgoing)) {
    let start = out.end();
    out.extend_from_slice(&[0; HEADER]);
    let body = out.end();
    write(out);
    let length = u32::try_from(out.count_after(body)).expect("a body is shorter than 4 GiB");
    let checksum = out.checksum_after(body);
    let head = out.put_at(start, HEADER);
    head[0..4].copy_from_slice(&MAGIC);
    head[4..6].copy_from_slice(&VERSION.to_le_bytes());
    head[6..8].copy_from_slice(&(header.kind as u16).to_le_bytes());
    head[8..24].copy_from_slice(&header.log.map_or(0, |log| log.0).to_le_bytes());
    head[24..32].copy_from_slice(&header.request.to_le_bytes());
    head[32..36].copy_from_slice(&header.number.to_le_bytes());
    head[36..40].copy_from_slice(&length.to_le_bytes());
    head[40..44].copy_from_slice(&checksum.to_le_bytes());
    put_checksum(head);
}

/// A frame of which all is there, with what its body sums up to.
fn checked<'a>(
    header: Header,
    body: FrameBody<'a>,
    checksum: u32,
    sum: u32,
) -> Result<Option<(Header, FrameBody<'a>)>, FrameError> {
    let body = FrameBody { checksum: Some(checksum), ..body };
    if sum == checksum { Ok(Some((header, body))) } else { Err(FrameError::Checksum) }
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

/// The body of a frame that came in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameBody<'a> {
    bytes: &'a [u8],
    owner: Option<&'a Arc<Buffer>>,
    checksum: Option<u32>,
}

impl<'a> FrameBody<'a> {
    pub(crate) const fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The checksum of the last `length` bytes, if that takes less than to read them.
    pub(crate) fn checksum_of_last(self, length: usize) -> Option<u32> {
        let before = self.bytes.len() - length;
        let whole = self.checksum.filter(|_| length >= SUMMED && before <= length / 2)?;
        Some(checksum::last(whole, crc32c::crc32c(&self.bytes[..before]), length))
    }

    /// What holds the bytes and nothing else, if it can be kept.
    pub(crate) const fn owner(self) -> Option<&'a Arc<Buffer>> {
        self.owner
    }
}

impl<'a> From<&'a [u8]> for FrameBody<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self { bytes, owner: None, checksum: None }
    }
}

impl<'a> From<&'a Arc<Buffer>> for FrameBody<'a> {
    fn from(owner: &'a Arc<Buffer>) -> Self {
        Self { bytes: owner, owner: Some(owner), checksum: None }
    }
}

impl Deref for FrameBody<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

/// The frames that come in on a connection.
///
/// Short bodies come into one buffer, with what follows them. A long one gets memory of its own, so that what it holds can
/// be kept without copying it. That is what another body had, or grows with what has arrived, never with what a header
/// announces; only as much as a whole body had that came before is taken at once.
pub(crate) struct Incoming {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// A frame with a long body of which not all is there.
    begun: Option<Begun>,
    /// The long body that was lent last.
    taken: Option<Arc<Buffer>>,
    /// The length of the longest body that came.
    longest: usize,
    /// The longest body that is taken, in bytes.
    limit: usize,
    /// How long a frame may take to arrive, from its first byte on; `None`: that is for others to judge.
    patience: Option<Duration>,
    /// Since when a part of a frame is there.
    since: Option<Instant>,
}

/// A frame with a long body.
struct Begun {
    header: Header,
    length: usize,
    checksum: u32,
    /// What of it is there, and space for more of it.
    body: Vec<u8>,
    there: usize,
    /// The checksum of what is there.
    sum: u32,
}

impl Begun {
    fn new(header: Header, length: usize, checksum: u32, there: &[u8], longest: usize) -> Self {
        let mut body = match buffer::take(length) {
            Some(mut body) => {
                // Memory that is there already: what is left in it is written over.
                body.resize(length, 0);
                body
            }
            None => vec![0; length.min(longest.max(BUFFER))],
        };
        body[..there.len()].copy_from_slice(there);
        Self { header, length, checksum, body, there: there.len(), sum: crc32c::crc32c(there) }
    }

    /// Where more of it goes: not so much at once that it is gone from the nearest caches before it is summed up.
    fn space(&mut self) -> &mut [u8] {
        if self.there == self.body.len() {
            let more = (self.length - self.there).min(self.there.max(BUFFER));
            self.body.reserve_exact(more);
            self.body.resize(self.there + more, 0);
        }
        let end = self.body.len().min(self.there + PIECE);
        &mut self.body[self.there..end]
    }

    /// So much more of it is there.
    fn add(&mut self, count: usize) {
        let more = &self.body[self.there..self.there + count];
        self.sum = crc32c::crc32c_append(self.sum, more);
        self.there += count;
    }
}

/// The buffer of a connection on which something came in.
const BUFFER: usize = 128 << 10;

/// What is read of a long body at once, at most.
const PIECE: usize = 256 << 10;

/// A longer body than this gets memory of its own. With its header it fits in the buffer.
const LONG: usize = 64 << 10;

impl Incoming {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            // Small until the peer has said something that makes sense.
            buffer: vec![0; HEADER],
            start: 0,
            end: 0,
            begun: None,
            taken: None,
            longest: 0,
            limit: BODY_AT_MOST,
            patience: None,
            since: None,
        }
    }

    /// Of a peer that need not be a friend: takes no longer body than `limit` bytes, and no frame that takes longer than
    /// `patience` to arrive. A connection on which nothing is under way may be silent for ever.
    pub(crate) fn guarded(stream: TcpStream, limit: usize, patience: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(patience))?;
        Ok(Self { limit, patience: Some(patience), ..Self::new(stream) })
    }

    /// The next frame, if all of it has arrived.
    pub(crate) fn next(&mut self) -> Result<Option<(Header, FrameBody<'_>)>, FrameError> {
        self.taken = None;
        if self.begun.is_none() {
            let bytes = &self.buffer[self.start..self.end];
            if bytes.len() < HEADER {
                // Strangers need not send so much to be recognized.
                let known = bytes.len().min(MAGIC.len());
                return if bytes[..known] == MAGIC[..known] { Ok(None) } else { Err(FrameError::Magic) };
            }
            let (header, length, checksum) = header(bytes, self.limit)?;
            let there = &bytes[HEADER..bytes.len().min(HEADER + length)];
            if length <= LONG {
                if there.len() < length {
                    return Ok(None);
                }
                self.start += HEADER + length;
                self.since = None;
                return checked(header, FrameBody::from(there), checksum, crc32c::crc32c(there));
            }
            self.start += HEADER + there.len();
            self.begun = Some(Begun::new(header, length, checksum, there, self.longest));
        }
        let Some(begun) = self.begun.take_if(|begun| begun.there == begun.length) else {
            return Ok(None);
        };
        self.since = None;
        self.longest = self.longest.max(begun.length);
        let body = self.taken.insert(Arc::new(begun.body.into()));
        checked(begun.header, FrameBody::from(&*body), begun.checksum, begun.sum)
    }

    /// Whether a part of a frame has come, and the rest has not.
    pub(crate) const fn is_amid_a_frame(&self) -> bool {
        self.start < self.end || self.begun.is_some()
    }

    /// Waits for more bytes. False when the peer has ended the connection.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        if self.begun.is_none() {
            self.make_space();
        }
        loop {
            self.check_patience()?;
            let read = match &mut self.begun {
                None => rustix::io::read(&self.stream, &mut self.buffer[self.end..]),
                Some(begun) => rustix::io::read(&self.stream, begun.space()),
            };
            match read {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    match &mut self.begun {
                        None => self.end += count,
                        Some(begun) => begun.add(count),
                    }
                    return Ok(true);
                }
                Err(rustix::io::Errno::INTR) => {}
                // Whether that was too long is looked at again.
                Err(rustix::io::Errno::AGAIN) if self.patience.is_some() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes space for bytes behind those in the buffer.
    fn make_space(&mut self) {
        if self.start > 0 && (self.start == self.end || self.end == self.buffer.len()) {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.buffer.len() {
            self.buffer.resize((2 * self.buffer.len()).max(BUFFER), 0);
        }
    }

    fn check_patience(&mut self) -> io::Result<()> {
        let Some(patience) = self.patience.filter(|_| self.is_amid_a_frame()) else {
            return Ok(());
        };
        if self.since.get_or_insert_with(Instant::now).elapsed() >= patience {
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
        assert!(matches!(incoming.next(), Ok(None)));
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

    /// A connection, and who reads from it.
    fn connected() -> (TcpStream, Incoming) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (peer, Incoming::new(listener.accept().unwrap().0))
    }

    #[test]
    fn frames_arrive_whole_and_in_order_however_they_are_cut() {
        let lengths = [
            0,
            300,
            LONG,
            LONG + 1,
            7,
            BUFFER,
            3 * BUFFER + 5,
            LONG - 1,
            LONG,
            1,
            1 << 20,
            1 << 20,
            0,
            BUFFER - 48,
        ];
        let body = |request: usize| vec![request as u8 ^ 0x5A; lengths[request]];
        let mut out = Outgoing::default();
        for request in 0..lengths.len() {
            let (kind, log) = (Kind::UnitReply, Some(LogId(7)));
            let header = Header { kind, log, request: request as u64, number: 3 };
            put(&mut out, header, |out| out.extend_from_slice(&body(request)));
        }
        let bytes = out.to_vec();
        for piece in [1013, LONG + HEADER, BUFFER + 1, 1 << 19, bytes.len()] {
            let (mut peer, mut incoming) = connected();
            std::thread::scope(|scope| {
                let bytes = &bytes;
                scope.spawn(move || bytes.chunks(piece).for_each(|piece| peer.write_all(piece).unwrap()));
                for (request, &length) in lengths.iter().enumerate() {
                    loop {
                        if let Some((header, came)) = incoming.next().unwrap() {
                            assert_eq!(header.request, request as u64);
                            assert!(came.bytes() == body(request), "body {request} in pieces of {piece}");
                            assert_eq!(came.owner().is_some(), length > LONG);
                            break;
                        }
                        assert!(incoming.fill().unwrap());
                    }
                }
                assert!(!incoming.fill().unwrap());
            });
            assert_eq!(incoming.buffer.len(), BUFFER);
        }
    }

    #[test]
    fn memory_is_taken_for_what_came_and_not_for_what_is_announced() {
        let (mut peer, mut incoming) = connected();
        let mut out = Outgoing::default();
        let header = Header { kind: Kind::UnitRequest, log: None, request: 1, number: 1 };
        put(&mut out, header, |out| out.extend_from_slice(&vec![1; BODY_AT_MOST]));
        let bytes = out.to_vec();
        let mut sent = 0;
        for upto in [HEADER, HEADER + 100, 3 * BUFFER] {
            peer.write_all(&bytes[sent..upto]).unwrap();
            let before = sent;
            while sent < upto {
                assert!(matches!(incoming.next(), Ok(None)));
                assert!(incoming.fill().unwrap());
                let begun = incoming.begun.as_ref();
                let there = begun.map_or(incoming.end, |begun| HEADER + begun.there);
                assert!(there > before || before == 0);
                sent = there;
            }
            let taken = incoming.begun.as_ref().map_or(0, |begun| begun.body.capacity());
            assert!(taken <= BUFFER.max(2 * sent), "{taken} bytes after {sent}");
        }
        assert!(matches!(incoming.next(), Ok(None)));
    }

    #[test]
    fn checksum_of_the_last_bytes_of_a_body_follows_from_its_own() {
        let (mut peer, mut incoming) = connected();
        let body: Vec<u8> = (0..4 * LONG).map(|n| (n * n / 7) as u8).collect();
        let mut out = Outgoing::default();
        let header = Header { kind: Kind::UnitRequest, log: None, request: 1, number: 1 };
        put(&mut out, header, |out| out.extend_from_slice(&body));
        std::thread::scope(|scope| {
            let bytes = out.to_vec();
            scope.spawn(move || peer.write_all(&bytes).unwrap());
            loop {
                let Some((_, came)) = incoming.next().unwrap() else {
                    assert!(incoming.fill().unwrap());
                    continue;
                };
                for length in [4 * LONG, 4 * LONG - 1, 3 * LONG] {
                    let last = crc32c::crc32c(&body[body.len() - length..]);
                    assert_eq!(came.checksum_of_last(length), Some(last));
                }
                // It is as fast to read them.
                assert_eq!(came.checksum_of_last(LONG), None);
                // Of bytes whose checksum nobody looked at.
                assert_eq!(FrameBody::from(came.bytes()).checksum_of_last(4 * LONG), None);
                break;
            }
        });
    }

    #[test]
    fn long_body_that_was_changed_on_its_way_is_refused() {
        let (mut peer, mut incoming) = connected();
        let mut out = Outgoing::default();
        let header = Header { kind: Kind::UnitRequest, log: None, request: 1, number: 1 };
        put(&mut out, header, |out| out.extend_from_slice(&vec![1; 2 * LONG]));
        let mut bytes = out.to_vec();
        *bytes.last_mut().unwrap() ^= 4;
        peer.write_all(&bytes).unwrap();
        let refused = loop {
            match incoming.next() {
                Ok(None) => assert!(incoming.fill().unwrap()),
                Ok(Some(_)) => panic!("it is taken"),
                Err(error) => break error,
            }
        };
        assert_eq!(refused, FrameError::Checksum);
    }
}
