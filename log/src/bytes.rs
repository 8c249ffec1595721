//! Numbers, little-endian, at fixed places of headers, and the checksum that ends a header: what the formats of
//! files and frames have in common.
//!
//! All of it panics where the bytes are too few: callers know the lengths of their headers.

/// The number of 16 bits at `offset`.
#[must_use]
pub fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(bytes[offset..offset + 2].try_into().expect("two bytes"))
}

/// The number of 32 bits at `offset`.
#[must_use]
pub fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

/// The number of 64 bits at `offset`.
#[must_use]
pub fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

/// The number of 128 bits at `offset`.
#[must_use]
pub fn u128_at(bytes: &[u8], offset: usize) -> u128 {
    u128::from_le_bytes(bytes[offset..offset + 16].try_into().expect("sixteen bytes"))
}

/// The numbers of 32 bits that `bytes` are, whose length is a multiple of four.
pub(crate) fn u32s(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|number| u32_at(number, 0)).collect()
}

/// Writes `value` at `offset`.
pub fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

/// Puts the checksum (CRC-32C) of everything before it into the last four bytes.
pub fn put_checksum(bytes: &mut [u8]) {
    let end = bytes.len() - 4;
    let checksum = crc32c::crc32c(&bytes[..end]);
    put(bytes, end, &checksum.to_le_bytes());
}

/// Whether the last four bytes are the checksum of everything before them.
#[must_use]
pub fn checksum_holds(bytes: &[u8]) -> bool {
    let end = bytes.len() - 4;
    crc32c::crc32c(&bytes[..end]) == u32_at(bytes, end)
}
