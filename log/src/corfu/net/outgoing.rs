//! Bytes that go out on a connection.

use std::io::{self, IoSlice, Write};
use std::sync::Arc;

use crate::Block;

/// The bytes of a block with as many or more are not copied.
const LENT: usize = 16 << 10;

/// Bytes that were put here, and between them those of blocks that are only lent.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    put: Vec<u8>,
    /// Each goes out when so many bytes of `put` have.
    lent: Vec<(usize, Arc<Block>)>,
    lent_bytes: usize,
}

/// A place in what goes out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    put: usize,
    lent: usize,
    bytes: usize,
}

impl Outgoing {
    /// How many bytes there are.
    pub(crate) const fn len(&self) -> usize {
        self.put.len() + self.lent_bytes
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How much memory is kept when all is [cleared](Self::clear), in bytes.
    pub(crate) const fn capacity(&self) -> usize {
        self.put.capacity()
    }

    pub(crate) fn clear(&mut self) {
        self.put.clear();
        self.lent.clear();
        self.lent_bytes = 0;
    }

    pub(crate) fn push(&mut self, byte: u8) {
        self.put.push(byte);
    }

    pub(crate) fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.put.extend_from_slice(bytes);
    }

    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.put.reserve(bytes);
    }

    /// Adds the bytes of a block's entries, which has data.
    pub(crate) fn extend_from_block(&mut self, block: &Arc<Block>) {
        let (bytes, _) = block.data().expect("a block of data");
        if bytes.len() < LENT {
            self.put.extend_from_slice(bytes);
        } else {
            self.lent.push((self.put.len(), Arc::clone(block)));
            self.lent_bytes += bytes.len();
        }
    }

    /// Where the next byte goes.
    pub(crate) const fn end(&self) -> Mark {
        Mark { put: self.put.len(), lent: self.lent.len(), bytes: self.len() }
    }

    /// How many bytes come after a place.
    pub(crate) const fn count_after(&self, mark: Mark) -> usize {
        self.len() - mark.bytes
    }

    /// What comes after a place: bytes, each time followed by those of a block, if any.
    fn after(&self, mark: Mark) -> impl Iterator<Item = (&[u8], Option<&Block>)> {
        let lent = &self.lent[mark.lent..];
        let starts = std::iter::once(mark.put).chain(lent.iter().map(|(at, _)| *at));
        let ends = lent.iter().map(|(at, _)| *at).chain([self.put.len()]);
        let put = starts.zip(ends).map(|(start, end)| &self.put[start..end]);
        put.zip(lent.iter().map(|(_, block)| Some(&**block)).chain([None]))
    }

    /// The checksum of the bytes after a place.
    pub(crate) fn checksum_after(&self, mark: Mark) -> u32 {
        self.after(mark).fold(0, |checksum, (put, lent)| {
            let checksum = crc32c::crc32c_append(checksum, put);
            lent.map_or(checksum, |block| block.checksum_after(checksum))
        })
    }

    /// The `count` bytes that were put at a place, to be changed.
    pub(crate) fn put_at(&mut self, mark: Mark, count: usize) -> &mut [u8] {
        &mut self.put[mark.put..mark.put + count]
    }

    /// Writes everything.
    pub(crate) fn write_to(&self, mut stream: impl Write) -> io::Result<()> {
        let start = Mark { put: 0, lent: 0, bytes: 0 };
        let pieces = self.after(start).flat_map(|(put, lent)| {
            let lent = lent.and_then(Block::data).map_or(&[][..], |(bytes, _)| bytes);
            [put, lent]
        });
        let mut pieces: Vec<_> = pieces.filter(|piece| !piece.is_empty()).map(IoSlice::new).collect();
        let mut left = &mut pieces[..];
        while !left.is_empty() {
            match stream.write_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut left, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
impl Outgoing {
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes).expect("memory takes everything");
        bytes
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::block::SUMMED;
    use crate::{Batch, Position};

    fn block(bytes: usize, with: u8) -> Arc<Block> {
        let mut batch = Batch::new();
        batch.push(&vec![with; bytes]);
        Arc::new(Block::of(Position(0), batch))
    }

    /// A stream that takes three bytes at a time, or is interrupted.
    struct Slow(Vec<u8>, bool);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.0.write(&bytes[..bytes.len().min(3)])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn bytes_put_and_lent_go_out_in_order_and_can_be_found_again() {
        let [long, short, summed] = [block(LENT, 2), block(LENT - 1, 3), block(SUMMED, 4)];
        // What of it is put first, between and last; whether blocks follow each other.
        for (first, between, last) in [(1, 1, 1), (0, 0, 0), (2, 0, 1), (0, 1, 0)] {
            let mut out = Outgoing::default();
            let mut expected = Vec::new();
            let mut put = |out: &mut Outgoing, count| {
                (0..count).for_each(|_| out.push(1));
                expected.extend(vec![1; count]);
                for block in [&long, &short, &summed] {
                    out.extend_from_block(block);
                    expected.extend_from_slice(block.data().unwrap().0);
                }
            };
            put(&mut out, first);
            let mark = out.end();
            let before = out.len();
            put(&mut out, between);
            put(&mut out, last);
            assert_eq!(out.lent.len(), 6);
            assert_eq!((out.len(), out.count_after(mark)), (expected.len(), expected.len() - before));
            for _ in 0..2 {
                assert_eq!(out.checksum_after(mark), crc32c::crc32c(&expected[before..]));
            }
            let mut slow = Slow(Vec::new(), false);
            out.write_to(&mut slow).unwrap();
            assert_eq!(slow.0, expected);
            out.clear();
            assert!(out.is_empty() && out.to_vec().is_empty());
        }
    }
}
