//! Amounts of money, exact to the cent.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

use mixlog_engine::{Merge, Position};
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An amount of money in cents. It may be negative.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    IntoBytes,
    FromBytes,
    KnownLayout,
    Immutable,
)]
#[repr(transparent)]
pub struct Cents(pub i64);

impl Cents {
    /// Nothing.
    pub const ZERO: Self = Self(0);
}

/// Money paid into a row that exists.
impl Merge for Cents {
    type Delta = Self;

    fn accepts(row: Option<&Self>) -> bool {
        row.is_some()
    }

    fn merge(row: &mut Option<Self>, delta: Self, _: Position) {
        if let Some(sum) = row {
            *sum += delta;
        }
    }

    fn combine(delta: &mut Self, other: &Self) -> bool {
        let sum = delta.0.checked_add(other.0);
        sum.inspect(|sum| delta.0 = *sum).is_some()
    }
}

impl Add for Cents {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign for Cents {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl Sub for Cents {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl SubAssign for Cents {
    fn sub_assign(&mut self, other: Self) {
        self.0 -= other.0;
    }
}

impl Neg for Cents {
    type Output = Self;

    fn neg(self) -> Self {
        Self(-self.0)
    }
}

impl Sum for Cents {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Cents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let cents = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:02}", cents / 100, cents % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cents_show_two_decimals_and_the_sign() {
        assert_eq!(Cents(-1_005).to_string(), "-10.05");
        assert_eq!(Cents(7).to_string(), "0.07");
        assert_eq!([Cents(1), Cents(2)].into_iter().sum::<Cents>(), Cents(3));
    }
}
