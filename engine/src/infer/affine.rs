//! Sums: `y = constant + a * x1 + b * x2 + ...` with whole numbers, found from examples.
//!
//! Keys that are packed into one integer are such sums of what they are packed from: `warehouse << 4 | district` is
//! `16 * warehouse + district`. Solved by elimination in the integers modulo the prime 2^61 - 1, which is exact whatever
//! the size of the numbers; coefficients of less than 2^60 are told from their residues.

use smallvec::{SmallVec, smallvec};

/// 2^61 - 1.
const P: u64 = (1 << 61) - 1;

/// What the examples say beyond what a sum needs: so many of them must agree by themselves.
const SPARE: usize = 8;

/// Examples that are solved for. The others only confirm.
const MOST_SOLVED: usize = 96;

/// A sum of columns, modulo 2^64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) constant: u64,
    /// Columns and their factors.
    pub(super) terms: SmallVec<[(u16, u64); 3]>,
}

impl Sum {
    #[inline]
    pub(super) fn of(&self, mut column: impl FnMut(u16) -> u64) -> u64 {
        let add = |sum: u64, &(at, factor): &(u16, u64)| sum.wrapping_add(factor.wrapping_mul(column(at)));
        self.terms.iter().fold(self.constant, add)
    }
}

const fn multiply(a: u64, b: u64) -> u64 {
    (a as u128 * b as u128 % P as u128) as u64
}

const fn subtract(a: u64, b: u64) -> u64 {
    if a >= b { a - b } else { a + P - b }
}

/// By Fermat's little theorem.
const fn invert(a: u64) -> u64 {
    let (mut result, mut base, mut exponent) = (1, a, P - 2);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = multiply(result, base);
        }
        base = multiply(base, base);
        exponent >>= 1;
    }
    result
}

/// A residue of a number in two's complement.
const fn residue(number: u64, signed: bool) -> u64 {
    if signed && (number as i64) < 0 { subtract(0, (number as i64).unsigned_abs() % P) } else { number % P }
}

/// The number in two's complement, if it is small.
const fn lift(residue: u64) -> u64 {
    if residue > P / 2 { (P - residue).wrapping_neg() } else { residue }
}

/// Examples of one number that is to be found from others.
#[derive(Default)]
pub(super) struct Examples {
    /// Which of the columns, and the number, are signed.
    pub(super) signed: Vec<bool>,
    pub(super) signed_number: bool,
    /// The columns, those that are to be preferred first.
    pub(super) rows: Vec<Vec<u64>>,
    pub(super) numbers: Vec<u64>,
}

impl Examples {
    fn holds(&self, sum: &Sum) -> bool {
        let mut all = self.rows.iter().zip(&self.numbers);
        all.all(|(row, &number)| sum.of(|column| row[usize::from(column)]) == number)
    }

    /// The sum that gives the number in all examples. `None` where there is none, or too few examples to tell.
    pub(super) fn solve(&self) -> Option<Sum> {
        let (columns, all) = (self.signed.len(), self.rows.len());
        if all < SPARE + 1 {
            return None;
        }
        // What is one of the columns as it stands is hardly a sum of others.
        let one = |column: u16| Sum { constant: 0, terms: smallvec![(column, 1)] };
        if let Some(sum) = (0..columns as u16).map(one).find(|sum| self.holds(sum)) {
            return Some(sum);
        }
        let constant = Sum { constant: self.numbers[0], terms: SmallVec::new() };
        if self.holds(&constant) {
            return Some(constant);
        }
        // Spread over all, as neighbours are likely to be alike.
        let step = all.div_ceil(MOST_SOLVED);
        // 1, the columns, and the number.
        let mut matrix: Vec<Vec<u64>> = (0..all)
            .step_by(step)
            .map(|example| {
                let columns =
                    self.rows[example].iter().zip(&self.signed).map(|(&x, &signed)| residue(x, signed));
                let number = residue(self.numbers[example], self.signed_number);
                std::iter::once(1).chain(columns).chain([number]).collect()
            })
            .collect();
        let mut pivots = Vec::new();
        for column in 0..=columns {
            let rank = pivots.len();
            let Some(pivot) = (rank..matrix.len()).find(|&row| matrix[row][column] != 0) else { continue };
            matrix.swap(rank, pivot);
            let inverse = invert(matrix[rank][column]);
            matrix[rank].iter_mut().for_each(|x| *x = multiply(*x, inverse));
            let pivot_row = matrix[rank].clone();
            for (number, row) in matrix.iter_mut().enumerate() {
                let factor = row[column];
                if number != rank && factor != 0 {
                    let pairs = row.iter_mut().zip(&pivot_row);
                    pairs.for_each(|(x, &pivot)| *x = subtract(*x, multiply(factor, pivot)));
                }
            }
            pivots.push(column);
        }
        if matrix.len() < pivots.len() + SPARE {
            return None;
        }
        let mut sum = Sum::default();
        for (row, &column) in matrix.iter().zip(&pivots) {
            let factor = lift(row[columns + 1]);
            match column.checked_sub(1) {
                None => sum.constant = factor,
                Some(column) if factor != 0 => sum.terms.push((column as u16, factor)),
                Some(_) => {}
            }
        }
        self.holds(&sum).then_some(sum)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Splitmix64.
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn examples(count: usize, columns: &[u64], number: impl Fn(&[u64]) -> u64) -> Examples {
        let mut state = 1;
        let rows: Vec<Vec<u64>> =
            (0..count).map(|_| columns.iter().map(|&most| random(&mut state) % most).collect()).collect();
        let numbers = rows.iter().map(|row| number(row)).collect();
        Examples { signed: vec![false; columns.len()], signed_number: false, rows, numbers }
    }

    #[test]
    fn solve_finds_columns_constants_and_packed_keys() {
        let solve = |number: fn(&[u64]) -> u64| examples(64, &[1000, 10, 100_000, 1], number).solve();
        let terms = |terms: &[(u16, u64)], constant| Some(Sum { constant, terms: terms.into() });
        assert_eq!(solve(|row| row[2]), terms(&[(2, 1)], 0));
        assert_eq!(solve(|_| 7), terms(&[], 7));
        assert_eq!(
            solve(|row| row[0] << 36 | row[1] << 32 | row[2]),
            terms(&[(0, 1 << 36), (1, 1 << 32), (2, 1)], 0)
        );
        assert_eq!(solve(|row| 5 * row[1] + 3), terms(&[(1, 5)], 3));
        assert_eq!(solve(|row| 200_000 - row[2]), terms(&[(2, u64::MAX)], 200_000));
        assert_eq!(solve(|row| row[0] * row[1]), None, "no sum");
        assert_eq!(solve(|row| row[0] / 3), None, "no sum");
    }

    #[test]
    fn solve_wants_more_examples_than_it_takes_to_be_right_by_chance() {
        for (count, told) in [(8, false), (10, false), (12, true)] {
            let solved = examples(count, &[1000, 1000, 1000], |row| 2 * row[0] + 3 * row[1] + 1).solve();
            assert_eq!(solved.is_some(), told, "{count} examples");
        }
        assert_eq!(examples(8, &[10], |row| row[0]).solve(), None);
    }

    #[test]
    fn solve_takes_signed_numbers_for_what_they_are() {
        let mut below_zero = examples(40, &[2000, 2000], |_| 0);
        below_zero.rows.iter_mut().flatten().for_each(|x| *x = x.wrapping_sub(1000));
        below_zero.numbers = below_zero.rows.iter().map(|row| row[0].wrapping_sub(row[1])).collect();
        assert_eq!(below_zero.solve(), None, "sums of large numbers that wrap");
        (below_zero.signed, below_zero.signed_number) = (vec![true, true], true);
        assert_eq!(below_zero.solve(), Some(Sum { constant: 0, terms: smallvec![(0, 1), (1, u64::MAX)] }));
    }
}
