//! The specification of the mixer, in the fewest words: compare each transaction with all before it.

use crate::{Access, Declared};

/// Whether two transactions must keep their order.
#[must_use]
pub fn conflict(a: &Declared<Vec<Access>>, b: &Declared<Vec<Access>>) -> bool {
    match (a, b) {
        (Declared::Keys(a), Declared::Keys(b)) => {
            a.iter().any(|x| b.iter().any(|y| x.key == y.key && x.mode.conflicts_with(y.mode)))
        }
        _ => true,
    }
}

/// The [height](crate::Schedule::heights) of each transaction of the window: 1 + that of the highest of all later
/// transactions that it conflicts with.
///
/// Cost: quadratic in the window.
#[must_use]
pub fn heights(window: &[Declared<Vec<Access>>]) -> Vec<u32> {
    let mut heights = vec![0; window.len()];
    for (i, transaction) in window.iter().enumerate().rev() {
        let later = i + 1..window.len();
        let above = later.filter(|&j| conflict(transaction, &window[j])).map(|j| heights[j]).max();
        heights[i] = above.unwrap_or(0) + 1;
    }
    heights
}

/// The batch of each transaction of the window: 1 + the highest batch of any earlier transaction that it
/// conflicts with, and 0 for those that conflict with none.
///
/// Cost: quadratic in the window.
#[must_use]
pub fn batches(window: &[Declared<Vec<Access>>]) -> Vec<u32> {
    let mut batches: Vec<u32> = Vec::with_capacity(window.len());
    for (i, transaction) in window.iter().enumerate() {
        let batch =
            (0..i).filter(|&j| conflict(&window[j], transaction)).map(|j| batches[j] + 1).max().unwrap_or(0);
        batches.push(batch);
    }
    batches
}
