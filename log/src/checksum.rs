//! Checksums (CRC-32C) of bytes that come in parts.
//!
//! A checksum is a remainder: what bytes mean as a polynomial over two elements, modulo a fixed one. Bytes that follow
//! multiply that by a power of x and add what they mean themselves. So the checksum of a whole is told from those of its
//! parts in less time than it takes to read a small one, and entries that go to several units and their disks are summed up
//! once where they come from, and once by whoever receives them.
//!
//! Numbers are polynomials with the coefficient of x^0 in their highest bit, as CRC-32C has them.

/// The polynomial of CRC-32C, without x^32.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const ONE: u32 = 1 << 31;

/// x^8: as much as one byte multiplies by.
const BYTE: u32 = ONE >> 8;

/// The checksum of bytes with the checksum `first`, followed by `length` bytes with the checksum `second`.
///
/// Cost: some hundred operations for each doubling of the length.
pub(crate) const fn join(first: u32, second: u32, length: usize) -> u32 {
    multiply(power(BYTE, length), first) ^ second
}

/// The checksum of the last `length` of bytes that have the checksum `whole`, and begin with bytes of the checksum `first`.
pub(crate) const fn last(whole: u32, first: u32, length: usize) -> u32 {
    join(first, whole, length)
}

const fn multiply(mut a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    while a != 0 {
        if a & ONE != 0 {
            product ^= b;
        }
        a <<= 1;
        b = (b >> 1) ^ (POLYNOMIAL * (b & 1));
    }
    product
}

const fn power(mut base: u32, mut exponent: usize) -> u32 {
    let mut result = ONE;
    while exponent != 0 {
        if exponent & 1 == 1 {
            result = multiply(result, base);
        }
        base = multiply(base, base);
        exponent >>= 1;
    }
    result
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crc32c::crc32c;

    use super::*;

    #[test]
    fn parts_tell_of_the_whole_and_the_whole_of_a_part() {
        let mut random = 1u64;
        let mut bytes: Vec<u8> = (0..70_000)
            .map(|_| {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 56) as u8
            })
            .collect();
        // Zeros change nothing but the length.
        bytes[1000..3000].fill(0);
        let whole = crc32c(&bytes);
        for at in [0, 1, 7, 999, 1000, 2000, 3000, 4096, 65_536, 69_999, 70_000] {
            let (first, second) = bytes.split_at(at);
            assert_eq!(join(crc32c(first), crc32c(second), second.len()), whole, "{at}");
            assert_eq!(last(whole, crc32c(first), second.len()), crc32c(second), "{at}");
        }
        assert_eq!(join(crc32c(&bytes), crc32c(b""), 0), whole);
        assert_eq!(crc32c::crc32c_combine(5, 7, 1 << 30), join(5, 7, 1 << 30));
    }
}
