//! What the window at hand may write, for those who look at rows beside its execution.

/// A set of units of conflict, by their hashes, that holds some others as well (a Bloom filter with one hash).
#[derive(Debug)]
pub(crate) struct Written {
    bits: Vec<u64>,
    /// How far a mixed hash is shifted to give a bit's number.
    shift: u32,
    /// Whether anything may be written.
    anything: bool,
}

impl Default for Written {
    fn default() -> Self {
        Self { bits: Vec::new(), shift: 0, anything: true }
    }
}

impl Written {
    /// Nothing is written, by nobody.
    pub(crate) const NOTHING: Self = Self { bits: Vec::new(), shift: 0, anything: false };
    /// Bits for each unit: one in eight or more others is taken for written.
    const BITS: usize = 16;

    /// Anything may be written.
    pub(crate) fn reset(&mut self) {
        self.bits.clear();
        self.anything = true;
    }

    /// These units, of which there are `count`, and no others are written.
    pub(crate) fn fill(&mut self, count: usize, units: impl Iterator<Item = u64>) {
        let bits = (count * Self::BITS).next_power_of_two().max(1024);
        self.bits.clear();
        self.bits.resize(bits / 64, 0);
        self.shift = 64 - bits.trailing_zeros();
        self.anything = false;
        for unit in units {
            let bit = self.bit(unit);
            self.bits[bit / 64] |= 1 << (bit % 64);
        }
    }

    #[inline]
    const fn bit(&self, unit: u64) -> usize {
        (unit.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    /// Whether the unit may be written. If not, it certainly is not.
    #[inline]
    pub(crate) fn may_hold(&self, unit: u64) -> bool {
        if self.bits.is_empty() {
            return self.anything;
        }
        let bit = self.bit(unit);
        self.bits[bit / 64] >> (bit % 64) & 1 == 1
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Written;

    #[test]
    fn units_that_are_written_may_be_and_few_others() {
        let unit = |i: u64| i.wrapping_mul(0xd6e8_feb8_6659_fd93);
        let mut written = Written::default();
        assert!(written.may_hold(unit(0)));
        for count in [0, 1, 100, 5_000] {
            written.fill(count, (0..count as u64).map(unit));
            assert!((0..count as u64).all(|i| written.may_hold(unit(i))));
            let others = (10_000..20_000).filter(|&i| written.may_hold(unit(i))).count();
            assert!(others < 1_500, "{others} of 10,000 beside {count}");
        }
        written.reset();
        assert!(written.may_hold(unit(0)));
        assert!(!Written::NOTHING.may_hold(unit(0)));
    }
}
