//! Ranges of keys that start alike.

use std::ops::Bound;

/// The range of all texts that start with `prefix`, in the order of `String`: for [`Tx::range`](crate::Tx::range),
/// [`Footprint::range`](crate::Footprint::range), snapshots and interactive transactions.
///
/// ```
/// # use std::sync::Arc;
/// # use mixlog_engine::{Engine, Table, starting_with};
/// # use mixlog_log::MemoryLog;
/// const USERS: Table<String, u64> = Table::new("users").ordered();
/// let engine = Engine::builder().table(&USERS).open(Arc::new(MemoryLog::new())).unwrap();
/// let mut transaction = engine.begin();
/// for (age, name) in ["al", "ann", "anna", "anton", "bea"].into_iter().enumerate() {
///     transaction.put(&USERS, name.to_owned(), age as u64);
/// }
/// transaction.commit().unwrap();
/// let snapshot = engine.snapshot();
/// let found: Vec<_> = snapshot.range(&USERS, starting_with("ann")).map(|(name, _)| name).collect();
/// assert_eq!(found, ["ann", "anna"]);
/// ```
///
/// Shape: from `prefix` on, and before the first text that comes behind all that start with it; unbounded above where there
/// is none, which is the case if `prefix` has no other characters than the last one that there is.
#[must_use]
pub fn starting_with(prefix: &str) -> (Bound<String>, Bound<String>) {
    (Bound::Included(prefix.to_owned()), after_all(prefix).map_or(Bound::Unbounded, Bound::Excluded))
}

/// The least text that is greater than all that start with `prefix`.
fn after_all(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // Of what lies between two characters there is none.
        if let Some(next) = (last..=char::MAX).nth(1) {
            text.push(next);
            return Some(text);
        }
    }
    None
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::ops::RangeBounds;

    use super::*;

    #[test]
    fn range_of_a_prefix_has_what_starts_with_it_and_nothing_else() {
        let letters = ["a", "b", "\0", "\u{7f}", "\u{d7ff}", "\u{e000}", "\u{10ffff}"];
        let mut texts = vec![String::new()];
        for length in 1..=3 {
            let longer = texts.iter().filter(|text| text.chars().count() == length - 1);
            let longer: Vec<_> =
                longer.flat_map(|text| letters.iter().map(move |letter| format!("{text}{letter}"))).collect();
            texts.extend(longer);
        }
        for prefix in &texts {
            let range = starting_with(prefix);
            for text in &texts {
                assert_eq!(range.contains(text), text.starts_with(prefix.as_str()), "{prefix:?} {text:?}");
            }
        }
    }
}
