//! Rows that many transactions change at once: commutative writes.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use mixlog_log::Position;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::codec;
use crate::table::Value;

/// A row type with a merge operator: a change that does not depend on the order in which it is made.
///
/// Transactions that only [merge](crate::Tx::merge) a row do not wait for each other, and whoever reads the row sees
/// all merges before its position. One operator per row type, so that any two merges of a row commute.
///
/// The laws: the same deltas in any order give the same row; whether a row [`accepts`](Self::accepts) a delta is not changed
/// by merges; and whether a merge panics depends on the delta alone, so sums wrap or saturate. An operator that breaks them
/// makes replicas differ.
///
/// ```
/// use mixlog_engine::{Merge, Position, Table};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Default, Serialize, Deserialize)]
/// struct Turnover { trades: u64, cents: u64 }
///
/// impl Merge for Turnover {
///     type Delta = Self;
///
///     fn merge(row: &mut Option<Self>, delta: Self, _: Position) {
///         Self::combine(row.get_or_insert_default(), &delta);
///     }
///
///     fn combine(delta: &mut Self, other: &Self) -> bool {
///         delta.trades = delta.trades.wrapping_add(other.trades);
///         delta.cents = delta.cents.wrapping_add(other.cents);
///         true
///     }
/// }
///
/// const BY_DAY: Table<u32, Turnover> = Table::new("turnover.by_day");
/// ```
#[diagnostic::on_unimplemented(
    message = "rows of type `{Self}` cannot be merged into",
    note = "rows that are sums are `Sum`, others `Maximum`, `Minimum`, `Appended`, `Members`; a type of your own can implement `Merge`"
)]
pub trait Merge: Value {
    /// What is merged into a row.
    type Delta: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;

    /// Whether the row, or its absence, can be merged into. Merges must not change the answer.
    fn accepts(_row: Option<&Self>) -> bool {
        true
    }

    /// Merges a delta into the row, which may not exist yet. `position` is the transaction's.
    fn merge(row: &mut Option<Self>, delta: Self::Delta, position: Position);

    /// Makes `delta` do what it and then `other` would do, if there is such a delta, and tells whether it did; if not,
    /// `delta` stays as it is. Where it does, hot rows cost one merge for each worker and window. Only for operators
    /// that do not look at the position. Does not panic.
    fn combine(_delta: &mut Self::Delta, _other: &Self::Delta) -> bool {
        false
    }
}

/// A sum; merging adds, wrapping around. A row that does not exist counts as zero.
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
    TryFromBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct Sum(pub i64);

impl Merge for Sum {
    type Delta = i64;

    fn merge(row: &mut Option<Self>, delta: i64, _: Position) {
        let sum = row.get_or_insert_default();
        sum.0 = sum.0.wrapping_add(delta);
    }

    fn combine(delta: &mut i64, other: &i64) -> bool {
        *delta = delta.wrapping_add(*other);
        true
    }
}

/// In the order of the values, and those that are equal in it in that of their bytes: an order may leave parts of a value
/// out, and whichever of two is kept, it must be the same one on all replicas, in whatever order they are merged.
fn compare<T: Ord + Serialize>(a: &T, b: &T) -> Ordering {
    a.cmp(b).then_with(|| {
        let mut bytes = Vec::new();
        codec::encode(a, &mut bytes);
        let middle = bytes.len();
        codec::encode(b, &mut bytes);
        let (a, b) = bytes.split_at(middle);
        a.cmp(b)
    })
}

/// The greatest value merged; of several that `Ord` calls equal, that with the greatest bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Maximum<T>(pub T);

impl<T: Value + Ord + Serialize + DeserializeOwned> Merge for Maximum<T> {
    type Delta = T;

    fn merge(row: &mut Option<Self>, delta: T, _: Position) {
        match row {
            Some(Self(greatest)) if compare(greatest, &delta).is_ge() => {}
            row => *row = Some(Self(delta)),
        }
    }

    fn combine(delta: &mut T, other: &T) -> bool {
        if compare(other, delta).is_gt() {
            delta.clone_from(other);
        }
        true
    }
}

/// The least value merged; of several that `Ord` calls equal, that with the least bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Minimum<T>(pub T);

impl<T: Value + Ord + Serialize + DeserializeOwned> Merge for Minimum<T> {
    type Delta = T;

    fn merge(row: &mut Option<Self>, delta: T, _: Position) {
        match row {
            Some(Self(least)) if compare(least, &delta).is_le() => {}
            row => *row = Some(Self(delta)),
        }
    }

    fn combine(delta: &mut T, other: &T) -> bool {
        if compare(other, delta).is_lt() {
            delta.clone_from(other);
        }
        true
    }
}

/// A list; merging appends. Items lie in the order of the log, whatever the order in which they were merged.
///
/// Cost: as any change of a row, an append copies the row and digests it: growing a list to n items takes time
/// in the square of n. For what grows without end, take a row for each item, in an [ordered](crate::Table::ordered) table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended<T> {
    items: Vec<(u64, T)>,
}

impl<T> Appended<T> {
    /// The items in the order of the log.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + ExactSizeIterator {
        self.items.iter().map(|(_, item)| item)
    }

    /// How many items there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

impl<T: Value + Serialize + DeserializeOwned> Merge for Appended<T> {
    type Delta = T;

    fn merge(row: &mut Option<Self>, delta: T, position: Position) {
        let items = &mut row.get_or_insert_with(|| Self { items: Vec::new() }).items;
        // Behind those of this transaction. Nearly always that is the end.
        let at = match items.last() {
            Some(&(last, _)) if last > position.0 => items.partition_point(|&(p, _)| p <= position.0),
            _ => items.len(),
        };
        items.insert(at, (position.0, delta));
    }
}

/// A set; merging inserts. Of several values that `Ord` calls equal it keeps that with the least bytes.
///
/// Cost: as any change of a row, an insertion copies the row and digests it; large sets are better kept as rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Members<T: Ord>(pub BTreeSet<T>);

impl<T: Value + Ord + Serialize + DeserializeOwned> Merge for Members<T> {
    type Delta = T;

    fn merge(row: &mut Option<Self>, delta: T, _: Position) {
        let members = &mut row.get_or_insert_with(|| Self(BTreeSet::new())).0;
        if members.get(&delta).is_none_or(|kept| compare(&delta, kept).is_lt()) {
            members.replace(delta);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// All orders of the deltas, each from its own position, give one row.
    fn commutes<M: Merge + PartialEq + std::fmt::Debug>(deltas: [M::Delta; 4]) -> M {
        let mut rows = Vec::new();
        for a in 0..4 {
            for b in (0..4).filter(|&b| b != a) {
                for c in (0..4).filter(|&c| c != a && c != b) {
                    let mut row = None;
                    for i in [a, b, c, 6 - a - b - c] {
                        assert!(M::accepts(row.as_ref()));
                        M::merge(&mut row, deltas[i].clone(), Position(i as u64));
                    }
                    rows.push(row.unwrap());
                }
            }
        }
        assert!(rows.windows(2).all(|w| w[0] == w[1]));
        rows.pop().unwrap()
    }

    #[test]
    fn built_in_operators_commute() {
        assert_eq!(commutes::<Sum>([1, i64::MAX, -3, 10]), Sum(i64::MAX.wrapping_add(8)));
        assert_eq!(commutes::<Maximum<u8>>([3, 9, 1, 9]), Maximum(9));
        assert_eq!(commutes::<Minimum<String>>(["c", "b", "d", "b"].map(String::from)), Minimum("b".into()));
        let list = commutes::<Appended<u8>>([7, 5, 7, 1]);
        assert_eq!(list.iter().copied().collect::<Vec<_>>(), [7, 5, 7, 1]);
        assert_eq!(commutes::<Members<u8>>([3, 1, 3, 2]), Members(BTreeSet::from([1, 2, 3])));
    }

    /// Equal where their first parts are.
    #[derive(Clone, Copy, Debug, Serialize, Deserialize)]
    struct Rough(u8, u8);

    impl PartialEq for Rough {
        fn eq(&self, other: &Self) -> bool {
            self.cmp(other).is_eq()
        }
    }

    impl Eq for Rough {}

    impl PartialOrd for Rough {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Rough {
        fn cmp(&self, other: &Self) -> Ordering {
            self.0.cmp(&other.0)
        }
    }

    #[test]
    fn of_values_that_are_equal_in_their_order_the_same_one_is_kept_in_any_order_of_merges() {
        let deltas = [Rough(4, 2), Rough(4, 9), Rough(1, 7), Rough(1, 3)];
        let bytes = |rough: Rough| (rough.0, rough.1);
        let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]];
        for order in orders {
            let (mut most, mut least, mut members) = (None, None, None);
            for i in order {
                Maximum::merge(&mut most, deltas[i], Position(0));
                Minimum::merge(&mut least, deltas[i], Position(0));
                Members::merge(&mut members, deltas[i], Position(0));
            }
            assert_eq!((bytes(most.unwrap().0), bytes(least.unwrap().0)), ((4, 9), (1, 3)));
            assert_eq!(members.unwrap().0.into_iter().map(bytes).collect::<Vec<_>>(), [(1, 3), (4, 2)]);
            let combined = order.map(|i| deltas[i]).into_iter().reduce(|mut delta, other| {
                assert!(Maximum::combine(&mut delta, &other));
                delta
            });
            assert_eq!(combined.map(bytes), Some((4, 9)));
            let combined = order.map(|i| deltas[i]).into_iter().reduce(|mut delta, other| {
                assert!(Minimum::combine(&mut delta, &other));
                delta
            });
            assert_eq!(combined.map(bytes), Some((1, 3)));
        }
    }

    #[test]
    fn appends_of_one_transaction_keep_their_order() {
        let mut row = None;
        for (item, position) in [('c', 5), ('d', 5), ('a', 1), ('e', 7), ('b', 1)] {
            Appended::merge(&mut row, item, Position(position));
        }
        assert_eq!(row.unwrap().iter().collect::<String>(), "abcde");
    }
}
