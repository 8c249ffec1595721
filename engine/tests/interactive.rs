//! Interactive transactions: isolation, conflicts, and that every replica decides alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mixlog_engine::{
    Backoff, CommitError, Conflict, Engine, Fixed, Mode, Sum, Table, TransactError, Transaction,
};
use mixlog_log::{MemoryLog, SharedLog};

const ROWS: Table<u64, i64> = Table::new("rows");
const TEXTS: Table<String, String> = Table::new("texts");
const QUEUE: Table<(u8, u64), u64> =
    Table::new("queue").grouped("queue", |key: &(u8, u64)| key.0 as u64).ordered();
const SUMS: Table<u64, Sum, Fixed> = Table::fixed("sums").watched(|key| key / 10);

fn builder() -> mixlog_engine::Builder {
    Engine::builder().table(&ROWS).table(&TEXTS).table(&QUEUE).table(&SUMS)
}

fn open() -> (Arc<MemoryLog>, Engine) {
    let log = Arc::new(MemoryLog::new());
    let engine = builder().threads(2).open(Arc::clone(&log) as Arc<dyn SharedLog>).unwrap();
    (log, engine)
}

fn conflict(error: &CommitError) -> &Conflict {
    match error {
        CommitError::Conflict { reason, .. } => reason,
        other => panic!("{other}"),
    }
}

#[test]
fn reads_see_the_beginning_and_own_changes_and_nobody_sees_those_before_commit() {
    let (_, engine) = open();
    let mut first = engine.begin();
    first.put(&ROWS, 1, 10);
    first.put(&TEXTS, "a".into(), "x".into());
    assert_eq!(first.get(&ROWS, &1), Some(&10));
    assert_eq!(engine.snapshot().get(&ROWS, &1), None);
    let other = engine.begin();
    let began = other.position();
    let position = first.commit().unwrap();
    assert_eq!(position, engine.position());
    assert_eq!(other.get(&ROWS, &1), None, "the state at its beginning");
    assert_eq!(other.commit().unwrap(), began, "nothing written: nothing appended");
    let mut second = engine.begin();
    *second.get_mut(&ROWS, &1).unwrap() += 1;
    assert!(second.delete(&TEXTS, &"a".into()));
    assert!(!second.delete(&TEXTS, &"b".into()));
    assert!(second.merge(&SUMS, 3, 5));
    assert_eq!(second.get(&SUMS, &3), Some(&Sum(5)));
    second.commit().unwrap();
    let snapshot = engine.snapshot();
    assert_eq!(snapshot.get(&ROWS, &1), Some(11));
    assert_eq!(snapshot.get(&TEXTS, &"a".into()), None);
    assert_eq!(snapshot.get(&SUMS, &3), Some(Sum(5)));
}

#[test]
fn what_was_read_and_changed_is_a_conflict_and_leaves_nothing() {
    let (_, engine) = open();
    let mut setup = engine.begin();
    setup.put(&ROWS, 1, 1);
    setup.commit().unwrap();
    // Changed, appeared, disappeared.
    for (key, value) in [(1, Some(2)), (2, Some(5)), (1, None)] {
        let mut loser = engine.begin();
        let _ = loser.get(&ROWS, &key);
        loser.put(&ROWS, 9, 9);
        let mut winner = engine.begin();
        match value {
            Some(value) => winner.put(&ROWS, key, value),
            None => assert!(winner.delete(&ROWS, &key)),
        }
        winner.commit().unwrap();
        let error = loser.commit().unwrap_err();
        assert_eq!(conflict(&error), &Conflict::Row { table: "rows".into() });
        assert_eq!(engine.snapshot().get(&ROWS, &9), None);
    }
    // Blind writes conflict with nothing, and what changed back was not changed.
    let mut blind = engine.begin();
    blind.put(&ROWS, 2, 100);
    let reader = {
        let mut reader = engine.begin();
        assert_eq!(reader.get(&ROWS, &2), Some(&5));
        reader.put(&ROWS, 3, 3);
        reader
    };
    blind.commit().unwrap();
    let mut back = engine.begin();
    back.put(&ROWS, 2, 5);
    back.commit().unwrap();
    reader.commit().unwrap();
}

#[test]
fn ranges_have_no_phantoms_and_depend_on_no_more_than_was_walked() {
    let (_, engine) = open();
    let mut setup = engine.begin();
    for key in [10, 20, 30, 40] {
        setup.put(&QUEUE, (1, key), key);
    }
    setup.commit().unwrap();
    let insert = |key: u64| {
        let mut other = engine.begin();
        other.put(&QUEUE, (1, key), 0);
        other.commit().unwrap();
    };
    type Walk = fn(&mut Transaction<'_>) -> Vec<u64>;
    let walks: [(Walk, &[u64], u64, bool); 6] = [
        (|t| t.range(&QUEUE, (1, 0)..(1, 35)).map(|(k, _)| k.1).collect(), &[10, 20, 30], 34, true),
        (|t| t.range(&QUEUE, (1, 0)..(1, 32)).map(|(k, _)| k.1).collect(), &[10, 20, 30], 33, false),
        (|t| t.range(&QUEUE, (1, 0)..).take(2).map(|(k, _)| k.1).collect(), &[10, 20], 15, true),
        (|t| t.range(&QUEUE, (1, 0)..).take(3).map(|(k, _)| k.1).collect(), &[10, 15, 20], 25, false),
        (|t| t.range(&QUEUE, (1, 0)..=(1, 99)).rev().take(1).map(|(k, _)| k.1).collect(), &[40], 36, false),
        (|t| t.first(&QUEUE, (1, 90)..(1, 99)).into_iter().map(|(k, _)| k.1).collect(), &[], 95, true),
    ];
    for (i, (walk, seen, phantom, conflicts)) in walks.into_iter().enumerate() {
        let mut transaction = engine.begin();
        assert_eq!(walk(&mut transaction), seen, "walk {i}");
        transaction.put(&ROWS, 1, 1);
        insert(phantom);
        match transaction.commit() {
            Ok(_) => assert!(!conflicts, "walk {i}"),
            Err(error) => {
                assert!(conflicts, "walk {i}");
                assert_eq!(conflict(&error), &Conflict::Range { table: "queue".into() });
            }
        }
    }
}

#[test]
fn own_changes_show_in_ranges_from_both_ends() {
    let (_, engine) = open();
    let mut setup = engine.begin();
    (0..100).for_each(|key| setup.put(&QUEUE, (1, key * 10), key));
    setup.commit().unwrap();
    let mut transaction = engine.begin();
    transaction.delete(&QUEUE, &(1, 0));
    transaction.delete(&QUEUE, &(1, 990));
    transaction.put(&QUEUE, (1, 5), 1000);
    transaction.put(&QUEUE, (1, 20), 2000);
    transaction.put(&QUEUE, (1, 995), 3000);
    transaction.put(&QUEUE, (2, 1), 4000);
    let expected: Vec<(u64, u64)> = [(5, 1000), (10, 1), (20, 2000)]
        .into_iter()
        .chain((3..99).map(|key| (key * 10, key)))
        .chain([(995, 3000)])
        .collect();
    let all = |from_back: usize| {
        let mut range = transaction.range(&QUEUE, (1, 0)..=(1, u64::MAX));
        let mut front: Vec<_> = (0..expected.len() - from_back).filter_map(|_| range.next()).collect();
        let mut back: Vec<_> = std::iter::from_fn(|| range.next_back()).collect();
        assert!(range.next().is_none());
        back.reverse();
        front.extend(back);
        front.into_iter().map(|((_, key), value)| (key, *value)).collect::<Vec<_>>()
    };
    for from_back in [0, 1, 2, 50, 98, 99, 100] {
        assert_eq!(all(from_back), expected, "{from_back} from the back");
    }
    let rows = transaction.range(&QUEUE, (1, 0)..=(1, u64::MAX)).count();
    assert_eq!(rows, expected.len());
    transaction.commit().unwrap();
}

#[test]
fn transact_retries_until_all_counts_are_there_and_replays_agree() {
    let (log, engine) = open();
    let conflicts = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for i in 0..100u64 {
                    let mut runs = 0;
                    let increment = |t: &mut Transaction<'_>| {
                        runs += 1;
                        let count = t.get(&ROWS, &(i % 3)).copied().unwrap_or(0);
                        t.put(&ROWS, i % 3, count + 1);
                        Ok::<_, ()>(count)
                    };
                    engine.transact(Backoff::default(), increment).unwrap();
                    conflicts.fetch_add(runs - 1, Ordering::Relaxed);
                }
            });
        }
    });
    let snapshot = engine.snapshot();
    assert_eq!((0..3).map(|key| snapshot.get(&ROWS, &key).unwrap()).sum::<i64>(), 400);
    let digest = engine.digest();
    let stats = engine.stats();
    assert_eq!(stats.aborts, conflicts.load(Ordering::Relaxed));
    assert_eq!(stats.violations, 0);
    engine.close().unwrap();
    for (threads, window, mode) in [
        (1, 4096, Mode::Sequential),
        (1, 1, Mode::Parallel),
        (2, 7, Mode::Parallel),
        (8, 4096, Mode::Parallel),
    ] {
        let replay =
            builder().threads(threads).window(window).mode(mode).replay(Arc::clone(&log) as Arc<_>).unwrap();
        assert_eq!(replay.to_end().unwrap(), digest);
    }
}

#[test]
fn transact_gives_up_when_the_body_does_or_when_attempts_are_used_up() {
    let (_, engine) = open();
    let error = engine.transact(Backoff::default(), |_| Err::<(), _>("no")).unwrap_err();
    assert!(matches!(error, TransactError::Aborted("no")));
    let mut runs = 0;
    let always_late = |t: &mut Transaction<'_>| {
        runs += 1;
        let _ = t.get(&ROWS, &1);
        t.put(&ROWS, 2, runs);
        let mut other = engine.begin();
        other.put(&ROWS, 1, runs);
        other.commit().map(|_| ())
    };
    let error = engine.transact(Backoff { attempts: 3, ..Backoff::default() }, always_late).unwrap_err();
    assert!(matches!(error, TransactError::Commit(CommitError::Conflict { .. })), "{error}");
    assert_eq!(runs, 3);
    assert_eq!(engine.snapshot().get(&ROWS, &2), None);
}
