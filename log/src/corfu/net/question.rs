//! One question, over a connection of its own.

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::frame::{self, FrameBody, FrameError, Header, Incoming};
use super::outgoing::Outgoing;
use super::writer::Writer;

/// So many characters of what a peer says are passed on to people.
const SAID_AT_MOST: usize = 300;

/// Why there is no answer.
pub(super) enum Unanswered {
    /// The connection broke, or nothing came in time.
    Io(io::Error),
    /// What came is no frame.
    Frame(FrameError),
}

impl From<io::Error> for Unanswered {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Asks what `put` appends, and gives the first frame that comes to `take`; all of it within `patience`.
pub(super) fn ask<T>(
    stream: TcpStream,
    header: Header,
    put: impl FnOnce(&mut Outgoing),
    patience: Duration,
    take: impl FnOnce(Header, FrameBody<'_>) -> T,
) -> Result<T, Unanswered> {
    // Who stands still takes connections, and says nothing; and a frame may trickle in.
    let deadline = Instant::now() + patience;
    stream.set_read_timeout(Some(patience))?;
    let writer = Writer::new(stream.try_clone()?);
    writer.add(|out| frame::put(out, header, put));
    writer.flush();
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    let mut incoming = Incoming::new(stream);
    loop {
        if let Some((header, body)) = incoming.next().map_err(Unanswered::Frame)? {
            return Ok(take(header, body));
        }
        if Instant::now() >= deadline {
            return Err(late().into());
        }
        match incoming.fill() {
            Ok(true) => {}
            Ok(false) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            // That is how a socket says that its time is over.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(late().into()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What a peer says, who may be anybody, so that it can be shown to people: not too long, and without characters that
/// a terminal would obey, or that are not to be seen.
pub(crate) fn said(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * SAID_AT_MOST)]);
    let mut characters = text.chars();
    let mut shown = String::new();
    for character in characters.by_ref().take(SAID_AT_MOST) {
        match character {
            '"' | '\'' | '\\' => shown.push(character),
            _ => shown.extend(character.escape_debug()),
        }
    }
    if characters.next().is_some() || body.len() > 4 * SAID_AT_MOST {
        shown.push_str("...");
    }
    shown
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_a_stranger_says_neither_commands_a_terminal_nor_fills_it() {
        let cases: [(&[u8], &str); 5] = [
            (b"here is unit 3, \"not\" 4", "here is unit 3, \"not\" 4"),
            ("für Ada".as_bytes(), "für Ada"),
            (b"\x1b[2J\x1b]0;title\x07\r\nroot#", "\\u{1b}[2J\\u{1b}]0;title\\u{7}\\r\\nroot#"),
            ("\u{9b}1m \u{202e}evil".as_bytes(), "\\u{9b}1m \\u{202e}evil"),
            (b"\xff\xfe", "\u{fffd}\u{fffd}"),
        ];
        for (bytes, shown) in cases {
            assert_eq!(said(bytes), shown);
        }
        let long = said(&[b'x'; 64 << 10]);
        assert_eq!(long, format!("{}...", "x".repeat(SAID_AT_MOST)));
        assert_eq!(said("ü".repeat(SAID_AT_MOST).as_bytes()).chars().count(), SAID_AT_MOST);
    }
}
