//! What is about to be written to a segment, so that whole blocks of it can be given to the disk.

use super::storage::BLOCK;

/// The bytes before the end of a segment's frames, from the start of a block on: those of the block that are in the file
/// already, and behind them those that are not written yet.
///
/// Its blocks lie at addresses that are multiples of [`BLOCK`], as in the file. The operating system takes such memory
/// as it is, and refuses any other, or copies it first.
pub(crate) struct WriteBuffer {
    /// The first block begins at `start`; what is before only moves it to its address.
    bytes: Vec<u8>,
    start: usize,
    /// How many of the first block's bytes are in the file.
    written: usize,
}

impl WriteBuffer {
    /// Nothing to write yet. `written` is what the file has of the block in which the frames end.
    pub(crate) fn new(written: &[u8]) -> Self {
        debug_assert!(written.len() < BLOCK, "a whole block needs nothing to be kept");
        let mut buffer = Self { bytes: Vec::new(), start: 0, written: 0 };
        buffer.with_room(written.len()).extend_from_slice(written);
        buffer.written = written.len();
        buffer
    }

    /// What is not written yet.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.bytes[self.start + self.written..]
    }

    /// Where to append up to `count` bytes.
    pub(crate) fn with_room(&mut self, count: usize) -> &mut Vec<u8> {
        // A block more: `blocks` fills the last one.
        let count = count + BLOCK;
        if self.bytes.capacity() - self.bytes.len() < count {
            let held = self.bytes.len() - self.start;
            let mut bytes: Vec<u8> = Vec::with_capacity((held + count).max(2 * held) + BLOCK);
            let start = bytes.as_ptr().addr().wrapping_neg() % BLOCK;
            bytes.resize(start, 0);
            bytes.extend_from_slice(&self.bytes[self.start..]);
            (self.bytes, self.start) = (bytes, start);
        }
        &mut self.bytes
    }

    /// What is not written yet, in whole blocks: before it what is written of the first one, and zeros behind it. Also
    /// tells how many bytes come before. To be followed by [`written`](Self::written).
    pub(crate) fn blocks(&mut self) -> (&[u8], usize) {
        let held = self.bytes.len() - self.start;
        self.bytes.resize(self.start + held.next_multiple_of(BLOCK), 0);
        (&self.bytes[self.start..], self.written)
    }

    /// All of it is in the file, up to here: `pending` of its bytes were not before.
    pub(crate) fn written(&mut self, pending: usize) {
        let held = self.written + pending;
        let kept = held % BLOCK;
        self.bytes.copy_within(self.start + held - kept..self.start + held, self.start);
        self.bytes.truncate(self.start + kept);
        self.written = kept;
    }

    /// Goes on at the start of a block of another file. Everything was written.
    pub(crate) fn restart(&mut self) {
        debug_assert!(self.pending().is_empty(), "it is written before");
        self.bytes.truncate(self.start);
        self.written = 0;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A file that is written through a buffer, in whole blocks or as it comes, is what was appended, and zeros.
    #[test]
    fn blocks_and_pieces_make_the_same_file() {
        for seed in 0..50u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |below: u64| {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % below
            };
            let at_first: Vec<u8> = (0..next(3 * BLOCK as u64)).map(|i| i as u8 | 1).collect();
            let (mut model, mut file) = (at_first.clone(), at_first);
            let mut buffer = WriteBuffer::new(&model[model.len() / BLOCK * BLOCK..]);
            for step in 0..60u8 {
                let count = next([10, 5000, 40_000][usize::from(step) % 3]) as usize;
                let bytes = vec![step | 1; count];
                buffer.with_room(count).extend_from_slice(&bytes);
                model.extend_from_slice(&bytes);
                if next(3) == 0 {
                    continue;
                }
                let pending = buffer.pending().len();
                let start = model.len() - pending;
                assert_eq!(buffer.pending(), &model[start..]);
                let (bytes, at) = if next(2) == 0 {
                    let (blocks, before) = buffer.blocks();
                    assert_eq!(blocks.as_ptr().addr() % BLOCK, 0);
                    assert_eq!((blocks.len() % BLOCK, (start - before) % BLOCK), (0, 0));
                    (blocks, start - before)
                } else {
                    (buffer.pending(), start)
                };
                file.resize(file.len().max(at + bytes.len()), 0);
                file[at..at + bytes.len()].copy_from_slice(bytes);
                buffer.written(pending);
                assert_eq!(buffer.pending(), b"");
                assert_eq!(file[..model.len()], model);
                assert!(file[model.len()..].iter().all(|byte| *byte == 0));
                if next(10) == 0 {
                    buffer.restart();
                    (model, file) = (Vec::new(), Vec::new());
                }
            }
        }
    }
}
