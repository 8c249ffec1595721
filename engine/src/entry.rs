//! What an engine writes into the log: one entry per transaction, and catalogs.
//!
//! ```text
//! call     0      1          4           8        16         24        32
//!          +------+----------+-----------+--------+----------+---------+------------
//!          | 1    | zeros    | procedure | origin | sequence | time_us | arguments..
//!          +------+----------+-----------+--------+----------+---------+------------
//!          u8     [u8; 3]    u32         u64      u64        u64
//!
//! client's 0      1          4           8        16         24        32       40         48
//! call     +------+----------+-----------+--------+----------+---------+--------+----------+------------
//!          | 3    | zeros    | procedure | origin | sequence | time_us | client | number   | arguments..
//!          +------+----------+-----------+--------+----------+---------+--------+----------+------------
//!          as above                                                      u64      u64
//!
//! catalog  0      1          4
//!          +------+----------+-----------+
//!          | 2    | zeros    | postcard: Catalog
//!          +------+----------+-----------+
//!
//! vote     0      1          4
//!          +------+----------+-----------+
//!          | 4    | zeros    | postcard: Vote
//!          +------+----------+-----------+
//!
//! padding  0      1          4
//!          +------+----------+
//!          | 5    | zeros    |
//!          +------+----------+
//! ```
//!
//! Integers are little-endian. `procedure` is a hash of the procedure's name and version; `origin` is drawn at
//! random by each engine that is opened for writing, and `sequence` counts its submissions, so that no two
//! entries are alike and a submitter recognizes its own. `client` and `number` are the client's, who may append the same
//! call again under another origin: see [`clients`](crate::clients). A catalog tells the names behind the hashes; it is
//! appended when a log is first opened with procedures that it has not seen. It changes no state. Nor do votes (see
//! [`agreement`](crate::agreement)) and padding, which makes the log reach the next position that is voted on.

use mixlog_log::bytes::{u32_at, u64_at};
use serde::{Deserialize, Serialize};

use crate::agreement::Vote;
use crate::clients::ClientId;
use crate::codec;
use crate::procedure::ProcedureId;

/// The version of the format drawn above, and of what the engine's own procedures have for arguments.
pub(crate) const FORMAT: u32 = 2;

const CALL: u8 = 1;
const CATALOG: u8 = 2;
const CLIENT_CALL: u8 = 3;
const VOTE: u8 = 4;
const PADDING: u8 = 5;
const HEADER: usize = 32;
const CLIENT_HEADER: usize = 48;

/// Who submitted a transaction: an engine, and which of its submissions it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) engine: u64,
    pub(crate) sequence: u64,
}

/// The names behind the hashes in a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Catalog {
    pub(crate) format: u32,
    pub(crate) procedures: Vec<(String, u32)>,
    pub(crate) tables: Vec<String>,
}

/// An entry, decoded up to its arguments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    Call(Call<'a>),
    Vote(Vote),
    Padding,
    Catalog(Catalog),
}

/// A call of a procedure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call<'a> {
    pub(crate) procedure: ProcedureId,
    pub(crate) origin: Origin,
    pub(crate) time_us: u64,
    /// The client and its sequence number, if it is to have its effect once.
    pub(crate) client: Option<(ClientId, u64)>,
    pub(crate) arguments: &'a [u8],
}

pub(crate) fn encode_call(
    out: &mut Vec<u8>,
    procedure: ProcedureId,
    origin: Origin,
    time_us: u64,
    client: Option<(ClientId, u64)>,
    arguments: impl FnOnce(&mut Vec<u8>),
) {
    let mut header = [0u8; HEADER];
    header[0] = if client.is_some() { CLIENT_CALL } else { CALL };
    header[4..8].copy_from_slice(&procedure.0.to_le_bytes());
    header[8..16].copy_from_slice(&origin.engine.to_le_bytes());
    header[16..24].copy_from_slice(&origin.sequence.to_le_bytes());
    header[24..32].copy_from_slice(&time_us.to_le_bytes());
    out.extend_from_slice(&header);
    if let Some((client, number)) = client {
        out.extend_from_slice(&client.0.to_le_bytes());
        out.extend_from_slice(&number.to_le_bytes());
    }
    arguments(out);
}

pub(crate) fn encode_catalog(out: &mut Vec<u8>, catalog: &Catalog) {
    out.extend_from_slice(&[CATALOG, 0, 0, 0]);
    codec::encode(catalog, out);
}

pub(crate) fn encode_vote(out: &mut Vec<u8>, vote: &Vote) {
    out.extend_from_slice(&[VOTE, 0, 0, 0]);
    codec::encode(vote, out);
}

pub(crate) fn encode_padding(out: &mut Vec<u8>) {
    out.extend_from_slice(&[PADDING, 0, 0, 0]);
}

/// Whether an entry is a vote, if it is one at all.
pub(crate) fn is_vote(bytes: &[u8]) -> bool {
    bytes.first() == Some(&VOTE)
}

/// The content of an entry, or what is wrong with its bytes.
#[inline]
pub(crate) fn decode(bytes: &[u8]) -> Result<Content<'_>, String> {
    let word = |at: usize| u64_at(bytes, at);
    let call = |client, header: usize| {
        Ok(Content::Call(Call {
            procedure: ProcedureId(u32_at(bytes, 4)),
            origin: Origin { engine: word(8), sequence: word(16) },
            time_us: word(24),
            client,
            arguments: &bytes[header..],
        }))
    };
    match bytes {
        [CALL, 0, 0, 0, ..] if bytes.len() >= HEADER => call(None, HEADER),
        [CLIENT_CALL, 0, 0, 0, ..] if bytes.len() >= CLIENT_HEADER => {
            call(Some((ClientId(word(32)), word(40))), CLIENT_HEADER)
        }
        [VOTE, 0, 0, 0, vote @ ..] => {
            codec::decode(vote).map(Content::Vote).map_err(|error| error.to_string())
        }
        [PADDING, 0, 0, 0] => Ok(Content::Padding),
        [CATALOG, 0, 0, 0, catalog @ ..] => {
            let catalog: Catalog = codec::decode(catalog).map_err(|error| error.to_string())?;
            if catalog.format != FORMAT {
                return Err(format!(
                    "written in entry format {}, this program reads format {FORMAT}",
                    catalog.format
                ));
            }
            Ok(Content::Catalog(catalog))
        }
        _ => Err("not an entry written by an engine".to_owned()),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn decode_what_was_encoded_gives_it_back() {
        let origin = Origin { engine: u64::MAX - 3, sequence: 77 };
        let (mut bytes, procedure, time_us) = (Vec::new(), ProcedureId(0xdead_beef), 123_456);
        for client in [None, Some((ClientId(1 << 63), u64::MAX))] {
            bytes.clear();
            encode_call(&mut bytes, procedure, origin, time_us, client, |out| out.extend_from_slice(b"xyz"));
            let call = Call { procedure, origin, time_us, client, arguments: b"xyz" };
            assert_eq!(decode(&bytes), Ok(Content::Call(call)));
        }
        let catalog = Catalog { format: FORMAT, procedures: vec![("p".into(), 2)], tables: vec!["t".into()] };
        bytes.clear();
        encode_catalog(&mut bytes, &catalog);
        assert_eq!(decode(&bytes), Ok(Content::Catalog(catalog)));
    }

    #[test]
    fn decode_any_other_bytes_is_an_error_and_no_panic() {
        for client in [None, Some((ClientId(1), 1))] {
            let mut call = Vec::new();
            encode_call(&mut call, ProcedureId(1), Origin { engine: 1, sequence: 1 }, 1, client, |_| ());
            for length in 0..call.len() {
                assert!(decode(&call[..length]).is_err());
            }
        }
        for first in 5..=255 {
            assert!(decode(&[first; 64]).is_err());
        }
        let mut catalog = Vec::new();
        encode_catalog(&mut catalog, &Catalog { format: FORMAT + 1, procedures: vec![], tables: vec![] });
        assert!(decode(&catalog).is_err_and(|e| e.contains("format")));
    }
}
