//! Why transactions wait, against the specification, on random windows.

use std::collections::BTreeMap;

use mixlog_mixer::{Access, Declared, KeyHash, Mixer, Mode, Reasons, Schedule, Wait, naive};
use proptest::prelude::*;

type Footprint = Declared<Vec<Access>>;

fn lend(
    window: &[Footprint],
) -> impl ExactSizeIterator<Item = Declared<std::iter::Copied<std::slice::Iter<'_, Access>>>> {
    window.iter().map(|declared| match declared {
        Declared::Keys(keys) => Declared::Keys(keys.iter().copied()),
        Declared::Unknown => Declared::Unknown,
    })
}

/// By transaction and key (`None` for whole footprints): for whom it waits. Compares each with all before it.
fn specified(window: &[Footprint]) -> BTreeMap<(u32, Option<u64>), u32> {
    let batches = naive::batches(window);
    let latest = |among: &mut dyn Iterator<Item = usize>| {
        among.min_by_key(|&i| (std::cmp::Reverse(batches[i]), i)).map(|i| i as u32)
    };
    let mut waits = BTreeMap::new();
    let mut barrier = None;
    for (t, declared) in window.iter().enumerate() {
        match declared {
            Declared::Unknown => {
                latest(&mut (0..t)).map(|on| waits.insert((t as u32, None), on));
                barrier = Some(t);
            }
            Declared::Keys(accesses) => {
                let near = barrier.map_or(0, |barrier| barrier + 1)..t;
                let mut waited = false;
                for key in accesses.iter().map(|access| access.key) {
                    let at_key = |i: usize| match &window[i] {
                        Declared::Keys(all) => {
                            Declared::Keys(all.iter().filter(|a| a.key == key).copied().collect())
                        }
                        Declared::Unknown => unreachable!("behind the newest unknown one"),
                    };
                    let mut conflicting = near.clone().filter(|&i| naive::conflict(&at_key(i), &at_key(t)));
                    if let Some(on) = latest(&mut conflicting) {
                        waits.insert((t as u32, Some(key.0)), on);
                        waited = true;
                    }
                }
                if let (false, Some(barrier)) = (waited, barrier) {
                    waits.insert((t as u32, None), barrier as u32);
                }
            }
        }
    }
    waits
}

fn check(window: &[Footprint], reasons: &Reasons) {
    let batches = naive::batches(window);
    for (t, &batch) in (0..).zip(&batches) {
        assert_eq!(reasons.batch(t), batch);
    }
    assert_eq!(reasons.batches(), batches.iter().map(|b| b + 1).max().unwrap_or(0));
    let key_of = |wait: &Wait| match &window[wait.transaction as usize] {
        Declared::Keys(accesses) => wait.access.map(|access| accesses[access as usize].key.0),
        Declared::Unknown => None,
    };
    let found: Vec<_> =
        reasons.waits().iter().map(|wait| ((wait.transaction, key_of(wait)), wait.on)).collect();
    let found_once: BTreeMap<_, _> = found.iter().copied().collect();
    assert_eq!(found.len(), found_once.len(), "a key is a reason once");
    assert_eq!(found_once, specified(window));
    for t in 0..window.len() as u32 {
        let critical: Vec<_> =
            reasons.waits().iter().filter(|wait| wait.transaction == t && wait.is_critical).collect();
        assert_eq!(critical.first().copied(), reasons.critical_wait(t));
        assert_eq!(critical.len(), usize::from(batches[t as usize] > 0), "one reason for the batch");
        assert!(critical.iter().all(|wait| reasons.batch(wait.on) + 1 == reasons.batch(t)));
    }
    let path: Vec<_> = reasons.critical_path().collect();
    assert_eq!(path.len() as u32 + 1, reasons.batches().max(1));
    assert!(path.windows(2).all(|pair| pair[0].on == pair[1].transaction));
}

fn windows(keys: u64, transactions: usize, unknown: u32) -> impl Strategy<Value = Vec<Footprint>> {
    let modes = prop_oneof![4 => Just(Mode::Read), 4 => Just(Mode::Write), 3 => Just(Mode::Merge)];
    let access = (0..keys, modes).prop_map(|(key, mode)| Access { key: KeyHash(key), mode });
    let footprint = prop_oneof![
        20 => prop::collection::vec(access, 0..6).prop_map(Declared::Keys),
        unknown => Just(Declared::Unknown),
    ];
    prop::collection::vec(footprint, 0..transactions)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn reasons_of_random_windows_equal_the_specification(
        windows in prop::collection::vec(windows(12, 40, 1), 1..4)
    ) {
        // One for all of them: nothing of a window may leak into the next.
        let mut reasons = Reasons::default();
        for window in &windows {
            reasons.find(lend(window));
            check(window, &reasons);
        }
    }

    #[test]
    fn reasons_of_few_hot_keys_equal_the_specification_and_the_schedule(window in windows(2, 80, 1)) {
        let mut reasons = Reasons::default();
        reasons.find(lend(&window));
        check(&window, &reasons);
        let mut schedule = Schedule::default();
        Mixer::new().mix(lend(&window), &mut schedule);
        prop_assert_eq!(schedule.batches(), reasons.batches());
        for (t, &edges) in (0..schedule.transactions()).zip(schedule.waits_for()) {
            prop_assert_eq!(edges > 0, reasons.critical_wait(t).is_some(), "who waits has a reason");
        }
    }
}

#[test]
fn reasons_of_a_window_of_one_hot_key_are_a_chain() {
    let write = |key| Access { key: KeyHash(key), mode: Mode::Write };
    let window: Vec<_> = (0..100).map(|t| Declared::Keys(vec![write(1_000 + t), write(7)])).collect();
    let mut reasons = Reasons::default();
    reasons.find(lend(&window));
    assert_eq!(reasons.waits().len(), 99);
    assert!(reasons.waits().iter().all(|wait| wait.access == Some(1) && wait.on + 1 == wait.transaction));
    assert_eq!(reasons.critical_path().count(), 99);
}
