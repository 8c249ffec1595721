//! TPC-C's last names: three syllables for the three digits of a number from 0 to 999 (clause 4.3.2.3).

use super::rows::LastName;

/// The number of different last names.
pub const NAMES: u16 = 1_000;

const SYLLABLES: [&[u8]; 10] =
    [b"BAR", b"OUGHT", b"ABLE", b"PRI", b"PRES", b"ESE", b"ANTI", b"CALLY", b"ATION", b"EING"];

/// The last name with this number.
///
/// Requests and keys carry the number: it stands for the name, one to one.
///
/// # Panics
/// If the number is 1,000 or more.
#[must_use]
pub fn last_name(number: u16) -> LastName {
    assert!(number < NAMES, "there are {NAMES} last names");
    let digits = [number / 100, number / 10 % 10, number % 10];
    let mut name = Vec::with_capacity(15);
    digits.iter().for_each(|digit| name.extend_from_slice(SYLLABLES[usize::from(*digit)]));
    LastName::new(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_name_joins_the_syllables_of_its_digits() {
        assert_eq!(last_name(0).as_bytes(), b"BARBARBAR");
        assert_eq!(last_name(371).as_bytes(), b"PRICALLYOUGHT");
        assert_eq!(last_name(999).as_bytes(), b"EINGEINGEING");
    }

    #[test]
    fn last_names_are_all_different() {
        let mut names: Vec<_> = (0..NAMES).map(last_name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), usize::from(NAMES));
    }
}
