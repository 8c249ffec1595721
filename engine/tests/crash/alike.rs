//! Which disks are alike: what differs between them comes from the clock and from random numbers alone.
//!
//! Identities of logs and engines, times, and the checksums over them are different in every run, so the bytes are. This
//! looks at what the formats (`docs/log-format.md`, `docs/checkpoint-format.md`) say beside: headers without such fields,
//! and which sectors have anything in them. What it tells apart is different; some of what it does not is, too.

use std::hash::{DefaultHasher, Hash, Hasher};

use mixlog_simdisk::Disk;

const SECTOR: usize = 512;
const MANIFEST_SLOTS: [usize; 2] = [0, 4096];

/// The same number for disks that are alike.
pub(crate) fn fingerprint(disk: &Disk) -> u64 {
    let mut hasher = DefaultHasher::new();
    for name in disk.names() {
        let bytes = disk.bytes(&name);
        (&name, bytes.len()).hash(&mut hasher);
        for sector in bytes.chunks(SECTOR) {
            sector.iter().all(|&byte| byte == 0).hash(&mut hasher);
        }
        if name.starts_with("checkpoints/") {
            checkpoint(bytes, &mut hasher);
        } else if name.starts_with("manifest") {
            manifest(bytes, &mut hasher);
        } else {
            segment(bytes, &mut hasher);
        }
    }
    hasher.finish()
}

/// Hashes a part of a header, as far as it is there.
fn part(bytes: &[u8], range: std::ops::Range<usize>, hasher: &mut DefaultHasher) {
    bytes.get(range.start..range.end.min(bytes.len())).unwrap_or_default().hash(hasher);
}

/// All but the log's identity and the checksum.
fn manifest(bytes: &[u8], hasher: &mut DefaultHasher) {
    for slot in MANIFEST_SLOTS {
        part(bytes, slot..slot + 16, hasher);
        part(bytes, slot + 32..slot + 508, hasher);
    }
}

/// The header, and those of all frames that can be seen, without identity, salt and checksums.
fn segment(bytes: &[u8], hasher: &mut DefaultHasher) {
    part(bytes, 0..16, hasher);
    part(bytes, 32..60, hasher);
    for at in (0..bytes.len()).step_by(8).filter(|&at| bytes[at..].starts_with(b"MXFR")) {
        at.hash(hasher);
        part(bytes, at..at + 8, hasher);
        part(bytes, at + 16..at + 56, hasher);
    }
}

/// The header without the log's identity, the time and the checksum; those of all blocks that can be seen, without salt
/// and checksums.
fn checkpoint(bytes: &[u8], hasher: &mut DefaultHasher) {
    part(bytes, 0..16, hasher);
    part(bytes, 32..72, hasher);
    for at in (0..bytes.len()).filter(|&at| bytes[at..].starts_with(b"MXCB")) {
        at.hash(hasher);
        part(bytes, at..at + 8, hasher);
        part(bytes, at + 16..at + 32, hasher);
    }
}
