//! Positions in the log, and the only arithmetic done on them.

use std::fmt;

/// The index of an entry in the log: dense, from 0, never reused for another entry.
///
/// Ranges of positions are half-open, `[head, tail)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// The first position of every log.
    pub const ZERO: Self = Self(0);
    /// Greater than every position that a log hands out.
    pub const MAX: Self = Self(u64::MAX);

    /// The position `count` entries later; at most [`MAX`](Self::MAX), which no log reaches.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// The position right after this one. After [`MAX`](Self::MAX) there is none, and it stays.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// The position right before this one, or `None` at the start of the log.
    #[must_use]
    pub const fn previous(self) -> Option<Self> {
        match self.0 {
            0 => None,
            n => Some(Self(n - 1)),
        }
    }

    /// How many entries lie in `[earlier, self)`; 0 when `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
