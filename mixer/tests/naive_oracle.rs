//! The mixer against its specification, on random windows.

use mixlog_mixer::{Access, Declared, KeyHash, Mixer, Mode, Schedule, naive};
use proptest::prelude::*;

type Footprint = Declared<Vec<Access>>;

fn mix(mixer: &mut Mixer, window: &[Footprint], schedule: &mut Schedule) {
    mixer.mix(
        window.iter().map(|declared| match declared {
            Declared::Keys(keys) => Declared::Keys(keys.iter().copied()),
            Declared::Unknown => Declared::Unknown,
        }),
        schedule,
    );
}

/// For each node, the set of transactions that certainly finish before it may start.
fn finished_before(schedule: &Schedule) -> Vec<Vec<bool>> {
    let nodes = schedule.nodes();
    let mut predecessors = vec![Vec::new(); nodes as usize];
    for node in 0..nodes {
        for successor in schedule.successors(node) {
            predecessors[successor as usize].push(node);
        }
    }
    for node in 0..nodes {
        assert_eq!(predecessors[node as usize].len(), schedule.waits_for()[node as usize] as usize);
    }
    let mut done: Vec<Option<Vec<bool>>> = vec![None; nodes as usize];
    fn visit(node: u32, predecessors: &[Vec<u32>], done: &mut Vec<Option<Vec<bool>>>) {
        if done[node as usize].is_some() {
            return;
        }
        let mut set = vec![false; predecessors.len()];
        for &p in &predecessors[node as usize] {
            visit(p, predecessors, done);
            set[p as usize] = true;
            for (i, &before) in done[p as usize].as_ref().expect("visited").iter().enumerate() {
                set[i] |= before;
            }
        }
        done[node as usize] = Some(set);
    }
    (0..nodes).for_each(|node| visit(node, &predecessors, &mut done));
    done.into_iter().map(|set| set.expect("visited")).collect()
}

fn check(window: &[Footprint], schedule: &Schedule) {
    assert_eq!(schedule.transactions() as usize, window.len());
    let batches: Vec<u32> = (0..schedule.transactions()).map(|t| schedule.batch(t)).collect();
    assert_eq!(batches, naive::batches(window));
    assert_eq!(schedule.batches(), batches.iter().map(|b| b + 1).max().unwrap_or(0));
    let mut heights = vec![7; 3];
    schedule.heights(&mut heights);
    assert_eq!(heights.len(), schedule.nodes() as usize);
    assert_eq!(heights[..window.len()], naive::heights(window));
    let before = finished_before(schedule);
    for j in 0..window.len() {
        for i in 0..j {
            if naive::conflict(&window[i], &window[j]) {
                assert!(before[j][i], "{j} conflicts with {i} and does not wait for it");
                assert!(batches[i] < batches[j]);
            }
            assert!(!before[i][j], "an edge points backwards");
        }
    }
}

/// What the mixer says of keys that are only merged into, and by several, is what the footprints say.
fn check_merged_by_several(mixer: &Mixer, window: &[Footprint]) {
    for key in 0..13 {
        let modes = |declared: &Footprint| match declared {
            Declared::Keys(keys) => keys.iter().filter(|a| a.key.0 == key).map(|a| a.mode).collect(),
            Declared::Unknown => Vec::new(),
        };
        let touching: Vec<_> = window.iter().map(modes).filter(|modes| !modes.is_empty()).collect();
        let several = touching.len() > 1
            && touching.iter().flatten().all(|&mode| mode == Mode::Merge)
            && !window.contains(&Declared::Unknown);
        assert_eq!(mixer.merged_by_several(KeyHash(key)), several, "key {key}");
    }
}

/// Every wait has a cause: the chain of waits is never longer than the batches.
fn check_no_false_waits(window: &[Footprint], schedule: &Schedule) {
    let before = finished_before(schedule);
    for j in 0..window.len() {
        for i in (0..j).filter(|&i| before[j][i]) {
            let justified =
                naive::conflict(&window[i], &window[j]) || (i + 1..j).any(|k| before[j][k] && before[k][i]);
            assert!(justified, "{j} waits for {i} without a conflict");
        }
    }
}

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![4 => Just(Mode::Read), 4 => Just(Mode::Write), 3 => Just(Mode::Merge)]
}

fn windows(keys: u64, transactions: usize, unknown: u32) -> impl Strategy<Value = Vec<Footprint>> {
    let access = (0..keys, modes()).prop_map(|(key, mode)| Access { key: KeyHash(key), mode });
    let footprint = prop_oneof![
        20 => prop::collection::vec(access, 0..6).prop_map(Declared::Keys),
        unknown => Just(Declared::Unknown),
    ];
    prop::collection::vec(footprint, 0..transactions)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn mix_random_windows_equals_the_specification(
        windows in prop::collection::vec(windows(12, 40, 1), 1..4)
    ) {
        // One mixer for all of them: nothing of a window may leak into the next.
        let (mut mixer, mut schedule) = (Mixer::new(), Schedule::default());
        for window in &windows {
            mix(&mut mixer, window, &mut schedule);
            check(window, &schedule);
            check_no_false_waits(window, &schedule);
            check_merged_by_several(&mixer, window);
        }
    }

    #[test]
    fn mix_few_hot_keys_equals_the_specification(window in windows(2, 80, 0)) {
        let (mut mixer, mut schedule) = (Mixer::new(), Schedule::default());
        mix(&mut mixer, &window, &mut schedule);
        check(&window, &schedule);
        check_no_false_waits(&window, &schedule);
        check_merged_by_several(&mixer, &window);
    }
}

fn one(key: u64, mode: Mode) -> Footprint {
    Declared::Keys(vec![Access { key: KeyHash(key), mode }])
}

#[test]
fn mix_many_readers_then_many_merges_needs_edges_linear_in_both() {
    let window: Vec<_> =
        (0..200).map(|i| one(7, if (i / 50) % 2 == 0 { Mode::Read } else { Mode::Merge })).collect();
    let (mut mixer, mut schedule) = (Mixer::new(), Schedule::default());
    mix(&mut mixer, &window, &mut schedule);
    check(&window, &schedule);
    let edges: usize = (0..schedule.nodes()).map(|node| schedule.successors(node).count()).sum();
    assert!(edges < 200 * 4, "{edges} edges");
}

#[test]
fn mix_more_keys_than_the_table_held_grows_it() {
    let window: Vec<_> = (0..3)
        .map(|t| {
            Declared::Keys(
                (0..5000u64)
                    .map(|k| Access { key: KeyHash(k * 3 + t), mode: Mode::Write })
                    .collect::<Vec<_>>(),
            )
        })
        .chain([one(0, Mode::Read), one(14_999, Mode::Read)])
        .collect();
    let (mut mixer, mut schedule) = (Mixer::new(), Schedule::default());
    mix(&mut mixer, &window, &mut schedule);
    check(&window, &schedule);
}

#[test]
fn mix_window_without_conflicts_is_one_batch_and_nobody_waits() {
    let window: Vec<_> = (0..100).map(|k| one(k, Mode::Write)).collect();
    let (mut mixer, mut schedule) = (Mixer::new(), Schedule::default());
    mix(&mut mixer, &window, &mut schedule);
    assert_eq!(schedule.batches(), 1);
    assert!(schedule.waits_for().iter().all(|&w| w == 0));
    assert!((schedule.parallelism() - 100.0).abs() < 1e-9);
}
