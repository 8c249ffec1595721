//! Checkpoints with a wrong state that no checksum betrays: a bit of a row is flipped, and what is computed from the rows
//! is computed again. This goes by `docs/checkpoint-format.md` alone, and shares no code with the engine.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

const FILE_HEADER: usize = 128;
const BLOCK_HEADER: usize = 48;
const ROWS: u32 = 3;
const END: u32 = 5;

/// The body of the last block.
#[derive(Serialize, Deserialize)]
struct End {
    blocks: u64,
    rows: Vec<u64>,
    checksum: u32,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Puts the checksum of all bytes before it at the end.
fn seal(header: &mut [u8]) {
    let (bytes, checksum) = header.split_at_mut(header.len() - 4);
    checksum.copy_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
}

/// Flips a bit of the row with this key; tells whether the body of a block has it.
fn flip(mut body: &mut [u8], key: &[u8]) -> bool {
    while !body.is_empty() {
        let (key_bytes, value_bytes) = (u32_at(body, 0) as usize, u32_at(body, 4) as usize);
        let (row, rest) = body.split_at_mut(8 + key_bytes + value_bytes);
        if &row[8..8 + key_bytes] == key {
            row[8 + key_bytes + value_bytes - 1] ^= 2;
            return true;
        }
        body = rest;
    }
    false
}

/// Flips a bit of the row with this key, and makes all checksums right. The digest in the header is left to
/// [`set_digest`].
pub(crate) fn flip_row(path: &Path, key: &[u8]) {
    let old = fs::read(path).expect("it is there");
    let (mut new, mut at) = (old[..FILE_HEADER].to_vec(), FILE_HEADER);
    let (mut checksum, mut flipped) = (0, 0);
    while at < old.len() {
        let mut header = old[at..at + BLOCK_HEADER].to_vec();
        let length = u32_at(&header, 32) as usize;
        let mut body = old[at + BLOCK_HEADER..at + BLOCK_HEADER + length].to_vec();
        at += BLOCK_HEADER + length;
        match u32_at(&header, 4) {
            ROWS => flipped += u32::from(flip(&mut body, key)),
            END => {
                let end: End = postcard::from_bytes(&body).expect("the end of a checkpoint");
                body = postcard::to_stdvec(&End { checksum, ..end }).expect("it is written");
            }
            _ => {}
        }
        header[32..36].copy_from_slice(&(body.len() as u32).to_le_bytes());
        let of_block = crc32c::crc32c_append(crc32c::crc32c(&header[..40]), &body);
        header[40..44].copy_from_slice(&of_block.to_le_bytes());
        seal(&mut header);
        checksum = crc32c::crc32c_append(checksum, &of_block.to_le_bytes());
        new.extend_from_slice(&header);
        new.extend_from_slice(&body);
    }
    assert_eq!(flipped, 1, "one row has the key");
    fs::write(path, new).expect("it is written");
}

/// Puts the digest of a state into the header.
pub(crate) fn set_digest(path: &Path, state: u128) {
    let mut bytes = fs::read(path).expect("it is there");
    bytes[40..56].copy_from_slice(&state.to_le_bytes());
    seal(&mut bytes[..FILE_HEADER]);
    fs::write(path, bytes).expect("it is written");
}
