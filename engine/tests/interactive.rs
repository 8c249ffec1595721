//! Interactive transactions: isolation, conflicts, and that every replica decides alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mixlog_engine::{
    Appended, Backoff, ClientId, CommitError, Conflict, Engine, Fixed, Intention, Mode, Never, Outcome,
    Procedure, Sum, Table, TicketError, TransactError, Transaction, Tx,
};
use mixlog_log::{MemoryLog, Position, SharedLog};
use serde::{Deserialize, Serialize};

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
fn what_changes_nothing_appends_nothing() {
    let (log, engine) = open();
    let mut setup = engine.begin();
    setup.put(&ROWS, 1, 1);
    setup.merge(&SUMS, 1, 1);
    let at = setup.commit().unwrap();
    let tail = log.tail().unwrap().tail;
    let mut nothing = engine.begin();
    assert!(!nothing.delete(&ROWS, &2));
    assert!(nothing.get_mut(&ROWS, &3).is_none());
    assert_eq!(nothing.commit().unwrap(), at);
    assert_eq!(log.tail().unwrap().tail, tail);
    // Under a number it does, and uses that up: one that was sent before it may be on its way still.
    let client = engine.client(ClientId(7));
    let mut nothing = client.begin(1);
    assert!(!nothing.delete(&ROWS, &4));
    assert_eq!(nothing.commit().unwrap(), Some(tail));
    // What there is is deleted, and so is what was put without a look whether there is something.
    let mut both = client.begin(2);
    assert!(!both.delete(&ROWS, &2));
    assert!(both.delete(&ROWS, &1));
    both.put(&ROWS, 4, 4);
    assert!(both.delete(&ROWS, &4));
    let mut other = engine.begin();
    other.put(&ROWS, 4, 5);
    other.commit().unwrap();
    both.commit().unwrap();
    assert_eq!([1, 4].map(|key| engine.snapshot().get(&ROWS, &key)), [None, None]);
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

#[test]
fn transact_waits_no_longer_than_the_longest_time_that_it_was_told() {
    let (_, engine) = open();
    let first_late = |others: &mut i64, t: &mut Transaction<'_>| {
        *t.get_or_put(&ROWS, 2, || 0) += 1;
        let _ = t.get(&ROWS, &1);
        if *others < 3 {
            *others += 1;
            let mut other = engine.begin();
            other.put(&ROWS, 1, *others);
            other.commit().map(drop)?;
        }
        Ok::<(), CommitError>(())
    };
    let longest = Duration::from_nanos(1);
    for first in [Duration::MAX, Duration::from_secs(1 << 40), Duration::ZERO] {
        let (mut others, backoff) = (0, Backoff { first, longest, ..Backoff::default() });
        engine.transact(backoff, |t| first_late(&mut others, t)).unwrap();
    }
    let (mut others, backoff) = (2, Backoff { first: Duration::ZERO, longest: Duration::MAX, attempts: 2 });
    engine.transact(backoff, |t| first_late(&mut others, t)).unwrap();
    assert_eq!(engine.snapshot().get(&ROWS, &2), Some(4));
}

/// A transaction of a client adds to a row under a number; gives what became of it.
fn add(engine: &Engine, sequence: u64, amount: i64) -> Result<Option<Position>, CommitError> {
    let mut transaction = engine.client(ClientId(5)).begin(sequence);
    let sum = transaction.get(&ROWS, &1).copied().unwrap_or(0) + amount;
    transaction.put(&ROWS, 1, sum);
    transaction.commit()
}

#[track_caller]
fn assert_before(result: Result<Option<Position>, CommitError>, first: Option<Position>) {
    match result {
        Err(CommitError::CommittedBefore { position }) => assert_eq!(Some(position), first),
        other => panic!("{other:?}"),
    }
}

#[test]
fn client_commits_once_under_a_number_also_after_the_engine_was_opened_again() {
    let (log, engine) = open();
    let first = add(&engine, 1, 10).unwrap();
    assert_before(add(&engine, 1, 10), first);
    assert_before(add(&engine, 1, 7), first);
    assert_eq!(engine.snapshot().get(&ROWS, &1), Some(10));

    // Of those on their way at once one commits; the others see it or conflict with it.
    let mut together: Vec<_> = (0..4).map(|_| engine.client(ClientId(5)).begin(2)).collect();
    for transaction in &mut together {
        let sum = transaction.get(&ROWS, &1).copied().unwrap() + 100;
        transaction.put(&ROWS, 1, sum);
    }
    let tickets: Vec<_> = together.into_iter().map(|transaction| transaction.submit().unwrap()).collect();
    let positions: Vec<_> = tickets
        .into_iter()
        .map(|ticket| match ticket.wait().unwrap() {
            Outcome::Committed { position, .. } => position,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(positions.iter().all(|position| *position == positions[0]), "{positions:?}");
    assert_eq!(engine.snapshot().get(&ROWS, &1), Some(110));

    // A conflict uses no number up.
    let mut late = engine.client(ClientId(5)).begin(3);
    late.put(&ROWS, 1, late.get(&ROWS, &1).unwrap() + 1000);
    add(&engine, 4, 1).unwrap();
    conflict(&late.commit().unwrap_err());
    let third = add(&engine, 3, 1000).unwrap();
    assert_before(add(&engine, 3, 1000), third);
    let body = |transaction: &mut Transaction<'_>| {
        transaction.put(&ROWS, 1, 0);
        Ok::<_, ()>(())
    };
    let again = engine.client(ClientId(5)).transact(3, Backoff::default(), body);
    assert!(
        matches!(again, Err(TransactError::Commit(CommitError::CommittedBefore { position })) if Some(position) == third)
    );

    // What reads only uses one as well, and another client has numbers of its own.
    let ninth = engine.client(ClientId(5)).begin(9).commit().unwrap();
    assert_before(add(&engine, 9, 0), ninth);
    let mut other = engine.client(ClientId(6)).begin(3);
    other.put(&ROWS, 2, 2);
    other.commit().unwrap();
    engine.close().unwrap();

    for threads in [1, 2] {
        let engine = builder().threads(threads).open(Arc::clone(&log) as Arc<dyn SharedLog>).unwrap();
        assert_before(add(&engine, 3, 1000), third);
        assert_eq!(engine.snapshot().get(&ROWS, &1), Some(1111));
        engine.close().unwrap();
    }
    let digest = |threads: usize, mode| {
        let log = Arc::clone(&log) as Arc<dyn SharedLog>;
        builder().threads(threads).window(4).mode(mode).replay(log).unwrap().to_end().unwrap()
    };
    let expected = digest(1, Mode::Sequential);
    assert!([1, 2, 4, 8].iter().all(|&threads| digest(threads, Mode::Parallel) == expected));
}

#[test]
fn other_intention_under_a_number_with_which_one_committed_is_told_so_by_its_ticket() {
    let (log, engine) = open();
    let put = |engine: &Engine, key, amount| {
        let mut transaction = engine.client(ClientId(5)).begin(1);
        transaction.put(&ROWS, key, amount);
        transaction.submit().unwrap()
    };
    // On their way at once, and later.
    let [one, other, same] = [(1, 10), (1, 11), (1, 10)].map(|(key, amount)| put(&engine, key, amount));
    let first = one.wait().unwrap().position();
    let is_first = |again: Result<Outcome<Intention>, TicketError>| match again {
        Ok(Outcome::Committed { position, .. }) => assert_eq!(position, first),
        told => panic!("{told:?}"),
    };
    let is_told = |other: Result<Outcome<Intention>, TicketError>| {
        let before = TicketError::CommittedBefore { sequence: 1, position: first };
        assert_eq!(other.map(|outcome| outcome.position()), Err(before));
    };
    is_told(other.wait());
    is_first(same.wait());
    is_told(put(&engine, 2, 10).wait());
    is_first(put(&engine, 1, 10).wait());
    // Who waits at once is told the same of both.
    for amount in [10, 11] {
        let mut transaction = engine.client(ClientId(5)).begin(1);
        transaction.put(&ROWS, 1, amount);
        assert_before(transaction.commit(), Some(first));
    }
    assert_eq!((engine.snapshot().get(&ROWS, &1), engine.snapshot().get(&ROWS, &2)), (Some(10), None));
    engine.close().unwrap();

    let engine = builder().threads(1).open(Arc::clone(&log) as Arc<dyn SharedLog>).unwrap();
    is_told(put(&engine, 1, 11).wait());
    is_first(put(&engine, 1, 10).wait());
    let digest = engine.digest();
    engine.close().unwrap();
    for (threads, window, mode) in [(1, 1, Mode::Sequential), (2, 4, Mode::Parallel), (4, 64, Mode::Parallel)]
    {
        let log = Arc::clone(&log) as Arc<dyn SharedLog>;
        let replay = builder().threads(threads).window(window).mode(mode).replay(log).unwrap();
        assert_eq!(replay.to_end().unwrap(), digest);
    }
}

#[test]
fn number_that_a_procedure_used_is_refused_to_a_transaction() {
    #[derive(Serialize, Deserialize)]
    struct Nothing;
    impl Procedure for Nothing {
        const NAME: &'static str = "nothing";
        type Output = ();
        type Abort = Never;
        fn run(&self, _: &mut Tx<'_>) -> Result<(), Never> {
            Ok(())
        }
    }
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = builder().procedure::<Nothing>().open(log).unwrap();
    engine.client(ClientId(5)).submit(1, &Nothing).unwrap().wait().unwrap();
    assert!(matches!(add(&engine, 1, 1), Err(CommitError::Ticket(TicketError::Reused { sequence: 1, .. }))));
    assert_eq!(engine.snapshot().get(&ROWS, &1), None);
    add(&engine, 2, 1).unwrap();
    let reused = engine.client(ClientId(5)).submit(2, &Nothing).unwrap().wait();
    assert!(matches!(reused, Err(TicketError::Reused { sequence: 2, .. })));
}

const LISTS: Table<u64, Appended<u64>> = Table::new("lists");

/// Appends to a list as a procedure does.
#[derive(Serialize, Deserialize)]
struct Append(u64);

impl Procedure for Append {
    const NAME: &'static str = "append";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        assert!(tx.merge(&LISTS, 1, self.0));
        Ok(())
    }
}

#[test]
fn merges_are_made_behind_what_is_seen_and_before_what_comes_later() {
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let builder = || Engine::builder().table(&LISTS).procedure::<Append>();
    let engine = builder().open(Arc::clone(&log)).unwrap();
    let mut expected = Vec::new();
    for n in 0..30 {
        expected.push(n);
        match n % 5 {
            // Also as the first of all, and two in a row.
            0 | 3 => {
                let mut transaction = engine.begin();
                transaction.merge(&LISTS, 1, n);
                transaction.merge(&LISTS, 1, n + 100);
                expected.push(n + 100);
                transaction.commit().unwrap();
            }
            4 => {
                let mut late = engine.begin();
                late.merge(&LISTS, 1, 1_000);
                engine.execute(&Append(n)).unwrap();
                assert!(matches!(late.commit(), Err(CommitError::Conflict { .. })), "it would be in between");
            }
            _ => drop(engine.execute(&Append(n)).unwrap()),
        }
        let list = engine.snapshot().get(&LISTS, &1).unwrap();
        assert_eq!(list.iter().copied().collect::<Vec<_>>(), expected);
    }
    let digest = engine.digest();
    engine.close().unwrap();
    assert_eq!(builder().mode(Mode::Sequential).threads(1).open(log).unwrap().digest(), digest);
}

#[test]
fn a_transaction_may_go_on_in_another_thread_as_tasks_do() {
    let (_log, engine) = open();
    std::thread::scope(|scope| {
        let mut transaction = engine.begin();
        transaction.put(&ROWS, 1, 10);
        // A row that is lent out goes along.
        *transaction.get_or_put(&ROWS, 2, || 0) += 5;
        let moved = scope.spawn(move || {
            let two = transaction.get(&ROWS, &2).copied().unwrap_or(0);
            transaction.put(&ROWS, 3, two + 1);
            transaction.commit()
        });
        moved.join().unwrap().unwrap();
    });
    let snapshot = engine.snapshot();
    assert_eq!([1, 2, 3].map(|row| snapshot.get(&ROWS, &row)), [Some(10), Some(5), Some(6)]);
}
