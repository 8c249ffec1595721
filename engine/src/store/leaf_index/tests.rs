//! The index against a sorted map: alone, with walks under way, and from several threads.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};

use super::partition::MOST_ROWS;
use super::{LeafId, LeafIndex, RowId, is_empty};

/// A seeded generator (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn bound(&mut self, end: u64) -> Bound<u64> {
        match self.below(7) {
            0 => Bound::Unbounded,
            1..4 => Bound::Included(self.below(end)),
            _ => Bound::Excluded(self.below(end)),
        }
    }
}

type Index = LeafIndex<u64>;
type Model = BTreeMap<u64, RowId>;

fn rows_of(model: &Model, from: Bound<u64>, to: Bound<u64>) -> Vec<RowId> {
    if is_empty(from.as_ref(), to.as_ref()) {
        return Vec::new();
    }
    model.range((from, to)).map(|(_, &row)| row).collect()
}

fn leaves_of(index: &Index, from: Bound<u64>, to: Bound<u64>) -> Vec<LeafId> {
    let mut leaves = Vec::new();
    index.leaves_of(from.as_ref(), to.as_ref(), |leaf, _| {
        leaves.push(leaf);
        true
    });
    leaves
}

fn all_leaves(index: &Index) -> Vec<LeafId> {
    leaves_of(index, Bound::Unbounded, Bound::Unbounded)
}

fn walked(index: &Index, from: Bound<u64>, to: Bound<u64>) -> (Vec<RowId>, Vec<LeafId>) {
    let mut leaves = Vec::new();
    let mut walk = index.walk(from, to);
    let rows = std::iter::from_fn(|| walk.next(&mut |leaf| leaves.push(leaf))).collect();
    (rows, leaves)
}

/// Walks, choosing the end of each step, with `between` steps; rows in order, and leaves as they were
/// entered.
fn walked_from_both_ends(
    index: &Index,
    (from, to): (Bound<u64>, Bound<u64>),
    mut from_back: impl FnMut() -> bool,
    mut between: impl FnMut(),
) -> (Vec<RowId>, Vec<LeafId>) {
    let (mut rows, mut last_rows, mut leaves) = (Vec::new(), Vec::new(), Vec::new());
    let mut visit = |leaf| leaves.push(leaf);
    let mut walk = index.walk(from, to);
    loop {
        let back = from_back();
        let row = if back { walk.next_back(&mut visit) } else { walk.next(&mut visit) };
        let Some(row) = row else { break };
        if back {
            last_rows.push(row)
        } else {
            rows.push(row)
        }
        between();
    }
    assert_eq!((walk.next(&mut visit), walk.next_back(&mut visit)), (None, None));
    rows.extend(last_rows.into_iter().rev());
    (rows, leaves)
}

/// Compares all that the index says about its partition with the rows it has.
fn check(index: &Index, model: &Model) {
    assert_eq!(
        walked(index, Bound::Unbounded, Bound::Unbounded).0,
        rows_of(model, Bound::Unbounded, Bound::Unbounded)
    );
    let mut counts = BTreeMap::new();
    for (key, &row) in model {
        assert_eq!(index.get(key), Some(row));
        *counts.entry(index.leaf_of(key)).or_insert(0) += 1;
    }
    let mut leaves = BTreeSet::new();
    index.leaves_of(Bound::Unbounded, Bound::Unbounded, |leaf, rows| {
        assert!(leaves.insert(leaf), "leaf {leaf} stands there twice");
        assert_eq!(rows, counts.remove(&leaf).unwrap_or(0));
        true
    });
    assert_eq!(counts, BTreeMap::new());
}

/// Adapts, keeping the leaf of each row as `moved` tells it.
fn adapt(index: &Index, leaves: &mut BTreeMap<RowId, LeafId>) {
    index.adapt(|row, leaf| {
        assert_ne!(leaves.insert(row, leaf), Some(leaf), "row {row} did not move");
    });
    assert!(!index.wants_adapting());
}

#[test]
fn random_changes_and_walks_agree_with_a_tree() {
    for seed in 0..6 {
        let mut random = Random(seed);
        let keys = [300, 3_000, 30_000][seed as usize % 3];
        let (index, mut model) = (Index::new(), Model::new());
        // Where each row is, told by `insert` and `adapt` alone.
        let mut leaf_of_row = BTreeMap::new();
        for round in 0..400u32 {
            // Growth and shrinkage alternate.
            let growing = round / 50 % 2 == 0;
            for i in 0..200 {
                let (key, row) = (random.below(keys), round << 8 | i);
                assert_eq!(index.get(&key), model.get(&key).copied());
                if random.below(8) < if growing { 7 } else { 1 } {
                    model.entry(key).or_insert_with(|| {
                        leaf_of_row.insert(row, index.insert(key, row));
                        row
                    });
                } else {
                    // A near key, so that shrinking does not become slow.
                    let Some((key, row)) = model.range(key..).next().map(|(&key, &row)| (key, row)) else {
                        continue;
                    };
                    model.remove(&key);
                    index.remove(&key, row);
                    leaf_of_row.remove(&row);
                }
            }
            for _ in 0..10 {
                let range @ (from, to) = (random.bound(keys), random.bound(keys));
                let (rows, leaves) = walked(&index, from, to);
                assert_eq!(rows, rows_of(&model, from, to));
                assert_eq!(leaves, leaves_of(&index, from, to));
                let odds = random.below(11);
                let (both, mut leaves) =
                    walked_from_both_ends(&index, range, || random.below(10) < odds, || {});
                assert_eq!(both, rows);
                let mut announced = leaves_of(&index, from, to);
                announced.sort_unstable();
                leaves.sort_unstable();
                assert_eq!(leaves, announced, "{range:?}");
            }
            if random.below(4) == 0 {
                adapt(&index, &mut leaf_of_row);
                for (key, row) in &model {
                    assert_eq!(leaf_of_row[row], index.leaf_of(key));
                }
                check(&index, &model);
            }
        }
    }
}

#[test]
fn ranges_without_rows_have_the_leaf_where_rows_would_be_and_empty_ranges_have_none() {
    let index = Index::new();
    assert_eq!(leaves_of(&index, Bound::Included(7), Bound::Included(7)), [0]);
    (0..1000).for_each(|key| _ = index.insert(key * 10, key as u32));
    index.adapt(|_, _| {});
    for key in 0..10_100 {
        let leaf = index.leaf_of(&key);
        assert_eq!(leaves_of(&index, Bound::Included(key), Bound::Included(key)), [leaf]);
        assert_eq!(
            walked(&index, Bound::Included(key + 1), Bound::Excluded(key + 2)).1,
            [index.leaf_of(&(key + 1))]
        );
        for (from, to) in [
            (Bound::Included(key), Bound::Excluded(key)),
            (Bound::Excluded(key), Bound::Excluded(key)),
            (Bound::Excluded(key), Bound::Included(key)),
            (Bound::Included(key + 1), Bound::Included(key)),
            (Bound::Excluded(key + 20), Bound::Excluded(key)),
        ] {
            assert_eq!(leaves_of(&index, from, to), Vec::<LeafId>::new());
            assert_eq!(walked(&index, from, to), (vec![], vec![]));
        }
    }
}

#[test]
fn walk_enters_a_leaf_only_when_its_rows_are_asked_for() {
    let index = Index::new();
    (0..1000).for_each(|key| _ = index.insert(key, key as u32));
    index.adapt(|_, _| {});
    let leaves = all_leaves(&index);
    let (mut entered, mut walk) = (Vec::new(), index.walk(Bound::Unbounded, Bound::Unbounded));
    for key in 0..1000 {
        assert_eq!(walk.next(&mut |leaf| entered.push(leaf)), Some(key as u32));
        let at = leaves.iter().position(|leaf| *leaf == index.leaf_of(&key)).unwrap();
        assert_eq!(entered, leaves[..=at]);
    }
    assert_eq!(walk.next(&mut |_| panic!("all leaves are entered")), None);
}

#[test]
fn panic_of_a_visitor_ends_the_step_before_anything_is_read() {
    let index = Index::new();
    (0..1000).for_each(|key| _ = index.insert(key, key as u32));
    let mut walk = index.walk(Bound::Unbounded, Bound::Unbounded);
    let refused =
        std::panic::AssertUnwindSafe(|| walk.next(&mut |_| std::panic::resume_unwind(Box::new(()))));
    assert!(std::panic::catch_unwind(refused).is_err());
    index.adapt(|_, _| {});
    assert_eq!(walk.next(&mut |_| {}), Some(0));
    assert_eq!(walk.next_back(&mut |_| {}), Some(999));
}

#[test]
fn leaves_of_stops_when_it_is_told_to() {
    let index = Index::new();
    (0..1000).for_each(|key| _ = index.insert(key, key as u32));
    index.adapt(|_, _| {});
    let mut seen = 0;
    index.leaves_of(Bound::Unbounded, Bound::Unbounded, |_, _| {
        seen += 1;
        seen < 2
    });
    assert_eq!(seen, 2);
}

#[test]
fn adapt_between_steps_of_a_walk_loses_no_row_and_repeats_none() {
    for seed in 0..30 {
        let mut random = Random(seed);
        let index = Index::new();
        // Even keys stay. Odd ones come and go between steps, in one place at a time, and so do leaves.
        (0..2000).for_each(|key| _ = index.insert(key * 2, key as u32 * 2));
        let mut odd = Model::new();
        let mut changes = Random(seed + 100);
        let between = || {
            let start = changes.below(4000);
            for key in (start..start + 40).filter(|key| key % 2 == 1) {
                match odd.remove(&key) {
                    Some(row) => index.remove(&key, row),
                    None => {
                        odd.insert(key, key as u32);
                        index.insert(key, key as u32);
                    }
                }
            }
            if changes.below(8) == 0 {
                index.adapt(|_, _| {});
            }
        };
        let range = (Bound::Included(100), Bound::Excluded(3900));
        let odds = random.below(11);
        let (rows, _) = walked_from_both_ends(&index, range, || random.below(10) < odds, between);
        assert!(rows.is_sorted_by(|a, b| a < b), "each row comes once, in order");
        assert!(rows.iter().filter(|row| **row % 2 == 0).copied().eq((100..3900).step_by(2)));
    }
}

#[test]
fn emptied_leaves_under_a_walk_are_passed() {
    let index = Index::new();
    (0..3000).for_each(|key| _ = index.insert(key, key as u32));
    index.adapt(|_, _| {});
    let mut walk = index.walk(Bound::Unbounded, Bound::Unbounded);
    assert_eq!(walk.next(&mut |_| {}), Some(0));
    assert_eq!(walk.next_back(&mut |_| {}), Some(2999));
    // Those that the walk took already come, though they are gone.
    while walk.next(&mut |_| {}) != Some(63) {}
    while walk.next_back(&mut |_| {}) != Some(2936) {}
    (1..2999).filter(|key| *key != 1500).for_each(|key| index.remove(&key, key as u32));
    index.adapt(|_, _| {});
    assert_eq!(all_leaves(&index).len(), 3);
    // Leaf numbers are used again, elsewhere.
    (10_000..13_000).for_each(|key| _ = index.insert(key, key as u32));
    index.adapt(|_, _| {});
    assert_eq!(walk.next_back(&mut |_| {}), Some(1500));
    assert_eq!(walk.next(&mut |_| {}), None, "rows behind those that came do not come");
    assert_eq!(walk.next_back(&mut |_| {}), None);
}

#[test]
fn partition_is_stable_between_adapts_and_rows_fit_after_them() {
    let orders: [fn(u64) -> u64; 3] = [|i| i, |i| 20_000 - i, |i| i * 7919 % 20_011];
    for key_of in orders {
        let (index, mut model, mut leaf_of_row) = (Index::new(), Model::new(), BTreeMap::new());
        let partition = |index: &Index| (0..20_011).map(|key| index.leaf_of(&key)).collect::<Vec<_>>();
        let mut before = partition(&index);
        for i in 0..20_000 {
            let (key, row) = (key_of(i), i as u32);
            leaf_of_row.insert(row, index.insert(key, row));
            model.insert(key, row);
            if i % 1000 == 999 {
                assert_eq!(partition(&index), before, "inserts do not change it");
                adapt(&index, &mut leaf_of_row);
                before = partition(&index);
                index.leaves_of(Bound::Unbounded, Bound::Unbounded, |_, rows| {
                    assert!((1..=MOST_ROWS as u32).contains(&rows));
                    true
                });
                check(&index, &model);
            }
        }
        for i in 0..20_000 {
            index.remove(&key_of(i), i as u32);
            model.remove(&key_of(i));
            if i % 1000 == 999 {
                assert_eq!(partition(&index), before, "removals do not change it");
                adapt(&index, &mut leaf_of_row);
                before = partition(&index);
                check(&index, &model);
            }
        }
        assert_eq!(all_leaves(&index).len(), 1);
    }
}

#[test]
fn ascending_inserts_leave_leaves_nearly_full() {
    let index = Index::new();
    for key in 0..100_000 {
        index.insert(key, key as u32);
        if key % 50 == 0 {
            index.adapt(|_, _| {});
        }
    }
    let leaves = all_leaves(&index).len();
    assert!(leaves < 100_000 / 220, "{leaves} leaves");
}

#[test]
fn partition_does_not_depend_on_the_order_of_changes_within_a_window() {
    let run = |backwards: bool| {
        let index = Index::new();
        let mut random = Random(1);
        let mut model = Model::new();
        let mut partitions = Vec::new();
        for _ in 0..100 {
            let mut changes: Vec<_> =
                (0..500).map(|_| random.below(20_000)).collect::<BTreeSet<_>>().into_iter().collect();
            if backwards {
                changes.reverse();
            }
            for key in changes {
                match model.remove(&key) {
                    Some(row) => index.remove(&key, row),
                    None => {
                        model.insert(key, key as u32);
                        index.insert(key, key as u32);
                    }
                }
            }
            let mut moved = Vec::new();
            index.adapt(|row, leaf| moved.push((row, leaf)));
            partitions.push((moved, all_leaves(&index)));
        }
        partitions
    };
    assert_eq!(run(false), run(true));
}

#[test]
fn queue_for_ever_keeps_few_leaves_and_a_short_way_to_its_front() {
    let index = Index::new();
    let (mut front, mut leaves) = (0, 0);
    for back in 0..200_000u64 {
        index.insert(back, back as u32);
        if back >= 2000 {
            let mut entered = 0;
            let mut walk = index.walk(Bound::Unbounded, Bound::Unbounded);
            assert_eq!(walk.next(&mut |_| entered += 1), Some(front as u32));
            assert!(entered <= 2, "{entered} leaves before the front");
            index.remove(&front, front as u32);
            front += 1;
        }
        if back % 100 == 0 {
            index.adapt(|_, _| {});
            leaves = leaves.max(all_leaves(&index).len());
        }
    }
    assert!(leaves < 2000 / 220 + 3, "{leaves} leaves");
    assert!(index.root().leaves.len() <= leaves + 1, "numbers are used again");
}

#[test]
fn walks_while_others_insert_and_remove_see_each_row_that_stays_exactly_once() {
    let index = Index::new();
    // Keys that stay are multiples of 8; each thread has a residue of its own, in the same leaves.
    (0..1000).for_each(|key| _ = index.insert(key * 8, key as u32 * 8));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for residue in 1..4u64 {
            let (index, done) = (&index, &done);
            scope.spawn(move || {
                let mut random = Random(residue);
                let mut own = BTreeSet::new();
                while !done.load(Ordering::Relaxed) {
                    let key = random.below(1000) * 8 + residue;
                    if own.remove(&key) {
                        assert_eq!(index.get(&key), Some(key as u32));
                        index.remove(&key, key as u32);
                    } else {
                        own.insert(key);
                        assert_eq!(index.insert(key, key as u32), index.leaf_of(&key));
                    }
                }
                own.iter().for_each(|key| index.remove(key, *key as u32));
            });
        }
        let mut random = Random(0);
        for round in 0..300 {
            let odds = random.below(11);
            let range = (Bound::Unbounded, Bound::Unbounded);
            let (rows, _) = walked_from_both_ends(&index, range, || random.below(10) < odds, || {});
            assert!(rows.is_sorted_by(|a, b| a < b), "round {round}");
            assert!(
                rows.iter().filter(|row| **row % 8 == 0).copied().eq((0..8000).step_by(8)),
                "round {round}"
            );
        }
        done.store(true, Ordering::Relaxed);
    });
    check(&index, &(0..1000).map(|key| (key * 8, key as u32 * 8)).collect());
    index.adapt(|_, _| {});
    check(&index, &(0..1000).map(|key| (key * 8, key as u32 * 8)).collect());
}

#[test]
fn adapt_while_others_walk_loses_no_row_and_repeats_none() {
    let index = Index::new();
    (0..5000).for_each(|key| _ = index.insert(key * 2, key as u32 * 2));
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let index = &index;
            scope.spawn(move || {
                let mut random = Random(seed);
                for _ in 0..100 {
                    let odds = random.below(11);
                    let range = (Bound::Unbounded, Bound::Unbounded);
                    let (rows, _) = walked_from_both_ends(index, range, || random.below(10) < odds, || {});
                    assert!(rows.is_sorted_by(|a, b| a < b));
                    assert!(rows.iter().filter(|row| **row % 2 == 0).copied().eq((0..10_000).step_by(2)));
                }
            });
        }
        for round in 0..100u64 {
            let start = round * 97 % 9000 / 2 * 2 + 1;
            let keys = (start..start + 1000).step_by(2);
            keys.clone().for_each(|key| _ = index.insert(key, key as u32));
            index.adapt(|_, _| {});
            keys.for_each(|key| index.remove(&key, key as u32));
            index.adapt(|_, _| {});
        }
    });
}
