//! Each anomaly is found in a history that has it, and none where a serial execution explains everything.

use std::collections::BTreeMap;

use mixlog_workloads::list_append::check::{self, Class, Kind};
use mixlog_workloads::list_append::history::{Op, Status, Transaction};
use mixlog_workloads::random::Rng;

const X: u64 = 10;
const Y: u64 = 20;

fn a(key: u64, value: u32) -> Op {
    Op::Append { key, value }
}

fn r(key: u64, list: &[u32]) -> Op {
    Op::Read { key, list: Some(list.to_vec()) }
}

/// A transaction that committed, between these times.
fn at(submitted_ns: u64, completed_ns: u64, operations: impl Into<Vec<Op>>) -> Transaction {
    let (completed_ns, operations) = (Some(completed_ns), operations.into());
    Transaction { process: 0, submitted_ns, completed_ns, status: Status::Ok, operations, position: None }
}

/// One that committed, beside all others.
fn ok(operations: impl Into<Vec<Op>>) -> Transaction {
    at(0, 1_000, operations)
}

fn fail(operations: impl Into<Vec<Op>>) -> Transaction {
    Transaction { status: Status::Fail, ..ok(operations) }
}

fn info(operations: impl Into<Vec<Op>>) -> Transaction {
    Transaction { status: Status::Info, completed_ns: None, ..ok(operations) }
}

/// Each transaction is a process of its own.
fn numbered(history: &mut [Transaction]) -> Vec<&Transaction> {
    for (transaction, process) in history.iter_mut().zip(0..) {
        transaction.process = process;
    }
    history.iter().collect()
}

fn isolation(mut history: Vec<Transaction>) -> Vec<Kind> {
    check::isolation(&numbered(&mut history)).into_iter().map(|anomaly| anomaly.kind).collect()
}

const fn cycle(class: Class, realtime: bool) -> Kind {
    Kind::Cycle { class, realtime }
}

#[test]
fn serial_histories_have_no_anomaly() {
    assert_eq!(isolation(vec![]), []);
    assert_eq!(
        isolation(vec![
            ok([a(X, 1), a(X, 2), r(X, &[1, 2]), a(Y, 1)]),
            ok([r(X, &[1, 2]), a(X, 3), r(X, &[1, 2, 3]), r(Y, &[1])]),
            ok([r(X, &[]), r(Y, &[])]),
            fail([a(X, 4)]),
            info([a(X, 5)]),
        ]),
        []
    );
}

#[test]
fn malformed_histories_are_named() {
    assert_eq!(isolation(vec![ok([a(X, 1)]), ok([a(X, 1)])]), [Kind::Malformed]);
    assert_eq!(isolation(vec![at(10, 5, [])]), [Kind::Malformed]);
    assert_eq!(isolation(vec![ok([Op::Read { key: X, list: None }])]), [Kind::Malformed]);
    assert_eq!(isolation(vec![Transaction { completed_ns: None, ..ok([]) }]), [Kind::Malformed]);
    let same = [at(0, 10, []), at(9, 20, []), at(20, 30, [])];
    let found = check::isolation(&same.iter().collect::<Vec<_>>());
    assert_eq!(found.len(), 1);
    assert!(found[0].to_string().contains("T0 and T1 of the same process"), "{}", found[0]);
}

#[test]
fn reads_that_are_wrong_by_themselves_are_found() {
    assert_eq!(isolation(vec![ok([r(X, &[9])])]), [Kind::Garbage]);
    assert_eq!(isolation(vec![ok([a(X, 1)]), ok([r(X, &[1, 1])])]), [Kind::Duplicate]);
    assert_eq!(isolation(vec![fail([a(X, 1)]), ok([r(X, &[1])])]), [Kind::AbortedRead], "G1a");
    assert_eq!(
        isolation(vec![fail([a(X, 1)]), ok([a(X, 2)]), ok([r(X, &[1, 2])])]),
        [Kind::AbortedRead, Kind::DirtyUpdate]
    );
    let intermediate = isolation(vec![ok([a(X, 1), a(X, 2)]), ok([r(X, &[1])]), ok([r(X, &[1, 2])])]);
    assert!(intermediate.contains(&Kind::IntermediateRead), "G1b: {intermediate:?}");
    let behind_its_own = isolation(vec![ok([a(X, 1), a(X, 2)]), ok([a(X, 3), r(X, &[1, 3])])]);
    assert!(behind_its_own.contains(&Kind::IntermediateRead), "G1b: {behind_its_own:?}");
    let orders = isolation(vec![
        ok([a(X, 1)]),
        ok([a(X, 2)]),
        ok([r(X, &[1])]),
        ok([r(X, &[2, 1])]),
        ok([r(X, &[2])]),
    ]);
    assert_eq!(orders, [Kind::IncompatibleOrder]);
}

#[test]
fn transactions_that_contradict_themselves_are_found() {
    let not_its_own = isolation(vec![ok([a(X, 1), r(X, &[])])]);
    assert_eq!(not_its_own, [Kind::Internal]);
    let not_repeatable = isolation(vec![ok([a(X, 1)]), ok([r(X, &[]), r(X, &[1])])]);
    assert_eq!(not_repeatable, [Kind::Internal]);
    let other_between = isolation(vec![ok([a(X, 1)]), ok([r(X, &[]), a(X, 2), r(X, &[1, 2])])]);
    assert!(other_between.contains(&Kind::Internal), "{other_between:?}");
    let future = isolation(vec![ok([r(X, &[1]), a(X, 1)])]);
    assert!(future.contains(&Kind::Internal), "{future:?}");
}

#[test]
fn cycles_are_found_and_classified() {
    let g0 = vec![ok([a(X, 1), a(Y, 1)]), ok([a(X, 2), a(Y, 2)]), ok([r(X, &[1, 2])]), ok([r(Y, &[2, 1])])];
    assert_eq!(isolation(g0), [cycle(Class::G0, false)]);
    let g1c = vec![ok([a(X, 1), r(Y, &[1])]), ok([a(Y, 1), r(X, &[1])])];
    assert_eq!(isolation(g1c), [cycle(Class::G1c, false)]);
    let read_skew = vec![ok([a(X, 1), a(Y, 1)]), ok([r(X, &[1]), r(Y, &[])]), ok([r(Y, &[1])])];
    assert_eq!(isolation(read_skew), [cycle(Class::GSingle, false)]);
    let lost_update = vec![ok([r(X, &[]), a(X, 1)]), ok([r(X, &[]), a(X, 2)]), ok([r(X, &[1, 2])])];
    assert_eq!(isolation(lost_update), [cycle(Class::GSingle, false)]);
    let write_skew = vec![ok([r(X, &[]), a(Y, 1)]), ok([r(Y, &[]), a(X, 1)]), ok([r(X, &[1]), r(Y, &[1])])];
    assert_eq!(isolation(write_skew), [cycle(Class::G2, false)]);
    let fekete = vec![
        ok([r(X, &[]), r(Y, &[]), a(X, 1)]),
        ok([r(Y, &[]), a(Y, 2)]),
        ok([r(X, &[]), r(Y, &[2])]),
        ok([r(X, &[1])]),
    ];
    assert_eq!(isolation(fekete), [cycle(Class::G2, false)], "the read-only anomaly");
}

#[test]
fn appends_that_nobody_read_come_after_all_that_was_read() {
    let write_skew = vec![ok([r(X, &[]), a(Y, 1)]), ok([r(Y, &[]), a(X, 1)])];
    assert_eq!(isolation(write_skew), [cycle(Class::G2, false)]);
    let lost_updates = vec![ok([r(X, &[]), a(X, 1)]), ok([r(X, &[]), a(X, 2)])];
    assert_eq!(isolation(lost_updates), [cycle(Class::G2, false)]);
    let own = vec![ok([r(X, &[]), a(X, 1)]), ok([r(X, &[])]), ok([r(X, &[]), a(Y, 1)])];
    assert_eq!(isolation(own), []);
    let through_the_join = vec![
        ok([a(X, 1)]),
        ok([a(X, 2), r(Y, &[1])]),
        ok([a(X, 3)]),
        ok([r(X, &[1]), a(Y, 1)]),
        ok([r(X, &[1])]),
    ];
    assert_eq!(isolation(through_the_join), []);
    let against_it =
        vec![ok([a(X, 1), r(Y, &[1])]), ok([a(X, 2)]), ok([a(Y, 1), r(X, &[])]), ok([r(X, &[])])];
    assert_eq!(isolation(against_it), []);
    let against_it = vec![ok([a(X, 1), a(Y, 1)]), ok([a(X, 2)]), ok([r(Y, &[1]), r(X, &[])])];
    assert_eq!(isolation(against_it), [cycle(Class::GSingle, false)]);
}

#[test]
fn cycles_that_real_time_closes_are_found_and_classified() {
    let all = |operations: Vec<Op>| at(0, 1_000, operations);
    let g0 = vec![at(0, 10, [a(X, 2)]), at(20, 30, [a(X, 1)]), all(vec![r(X, &[1, 2])])];
    assert_eq!(isolation(g0), [cycle(Class::G0, true)]);
    let g1c = vec![at(0, 10, [r(X, &[1])]), at(20, 30, [a(X, 1)])];
    assert_eq!(isolation(g1c), [cycle(Class::G1c, true)]);
    let stale = vec![at(0, 10, [a(X, 1)]), at(20, 30, [r(X, &[])]), all(vec![r(X, &[1])])];
    assert_eq!(isolation(stale), [cycle(Class::GSingle, true)]);
    let never_read = vec![at(0, 10, [a(X, 1)]), at(20, 30, [r(X, &[])])];
    assert_eq!(isolation(never_read), [cycle(Class::GSingle, true)]);
    let g2 = vec![at(0, 10, [a(Y, 1)]), all(vec![a(X, 1), r(Y, &[])]), at(20, 30, [r(X, &[])])];
    assert_eq!(isolation(g2), [cycle(Class::G2, true)]);
    let touching = vec![at(0, 10, [a(X, 1)]), at(10, 30, [r(X, &[])])];
    assert_eq!(isolation(touching), [], "began when the other ended: they may be concurrent");
}

#[test]
fn unknown_outcomes_count_as_commits_once_they_were_read() {
    assert_eq!(isolation(vec![info([a(X, 1)]), at(10, 20, [r(X, &[])])]), [], "never, or later");
    assert_eq!(isolation(vec![info([a(X, 1)]), at(10, 20, [r(X, &[1])]), at(30, 40, [r(X, &[1])])]), []);
    let gone = vec![info([a(X, 1)]), at(10, 20, [r(X, &[1])]), at(30, 40, [r(X, &[])])];
    assert_eq!(isolation(gone), [cycle(Class::GSingle, true)]);
    let half = vec![info([a(X, 1), a(Y, 1)]), ok([r(X, &[1]), r(Y, &[])]), ok([r(Y, &[1])])];
    assert_eq!(isolation(half), [cycle(Class::GSingle, false)]);
    let all = vec![info([a(X, 1), a(X, 2)]), ok([a(X, 3)]), ok([r(X, &[1, 3])])];
    assert_eq!(isolation(all), [cycle(Class::G0, false)], "who was read committed all of it");
    let late = Transaction { submitted_ns: 50, ..info([a(X, 1)]) };
    assert_eq!(isolation(vec![late, at(10, 20, [r(X, &[1])])]), [cycle(Class::G1c, true)]);
}

#[test]
fn anomalies_say_which_transactions() {
    let reader = Transaction { position: Some(7), ..ok([r(X, &[]), r(Y, &[1])]) };
    let mut history = vec![info([a(X, 1), a(Y, 1)]), reader, ok([r(X, &[1])])];
    let found = check::isolation(&numbered(&mut history));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].to_string(), "G-single: T1@7 -rw key 10-> T0? -wr key 20-> T1@7");
    // What nobody read is behind a join, which is not named.
    let mut history = vec![at(0, 10, [a(X, 1)]), at(20, 30, [r(X, &[])]), at(40, 50, [])];
    let found = check::isolation(&numbered(&mut history));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].to_string(), "G-single-realtime: T1 -rw key 10-> T0 -rt-> T1");
}

fn log_order(history: Vec<(u64, Transaction)>) -> Vec<Kind> {
    let mut history: Vec<Transaction> = history
        .into_iter()
        .map(|(position, transaction)| Transaction { position: Some(position), ..transaction })
        .collect();
    check::log_order(&numbered(&mut history)).into_iter().map(|anomaly| anomaly.kind).collect()
}

#[test]
fn contradictions_to_the_log_are_found() {
    assert_eq!(
        log_order(vec![(1, ok([a(X, 1), r(X, &[1])])), (2, ok([r(X, &[1])])), (0, ok([r(X, &[])]))]),
        []
    );
    assert_eq!(log_order(vec![(1, ok([])), (1, ok([]))]), [Kind::SharedPosition]);
    assert_eq!(log_order(vec![(1, ok([a(X, 1)])), (2, ok([r(X, &[])]))]), [Kind::LogOrder], "lost");
    assert_eq!(log_order(vec![(2, ok([a(X, 1)])), (1, ok([r(X, &[1])]))]), [Kind::LogOrder], "too early");
    assert_eq!(
        log_order(vec![(1, ok([a(X, 1)])), (2, ok([a(X, 2)])), (3, ok([r(X, &[2, 1])]))]),
        [Kind::LogOrder],
        "out of order"
    );
    assert_eq!(log_order(vec![(1, fail([a(X, 1)])), (2, ok([r(X, &[1])]))]), [Kind::LogOrder], "aborted");
    assert_eq!(log_order(vec![(5, at(0, 10, [])), (4, at(11, 12, []))]), [Kind::Realtime]);
    assert_eq!(log_order(vec![(5, at(0, 10, [])), (4, at(10, 12, []))]), []);
}

#[test]
fn appends_at_unknown_positions_may_be_anywhere() {
    let mut history = vec![
        info([a(X, 1)]),
        Transaction { position: Some(1), ..ok([a(X, 2)]) },
        Transaction { position: Some(2), ..ok([r(X, &[1, 2])]) },
    ];
    assert_eq!(check::log_order(&numbered(&mut history)), []);
}

/// Some execution without any isolation, or with some: operations of a few transactions, interleaved.
fn random_history(rng: &mut Rng) -> Vec<Transaction> {
    let count = rng.between(2, 5) as usize;
    let serial = rng.percent(30);
    let from_snapshots = rng.percent(40);
    let mut next_value = 0;
    let mut left: Vec<Vec<Op>> = (0..count)
        .map(|_| {
            let draw = |_| {
                let key = if rng.percent(50) { X } else { Y };
                next_value += 1;
                if rng.percent(50) { a(key, next_value) } else { Op::Read { key, list: None } }
            };
            (0..3).map(draw).collect()
        })
        .map(|list: Vec<Op>| list.into_iter().rev().collect())
        .collect();
    let mut lists: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let mut history: Vec<Transaction> = (0..count).map(|_| at(u64::MAX, 0, [])).collect();
    let mut snapshots: Vec<Option<BTreeMap<u64, Vec<u32>>>> = vec![None; count];
    let mut clock = 0;
    let mut turn = 0;
    while left.iter().any(|list| !list.is_empty()) {
        if !serial || left[turn].is_empty() {
            turn = rng.below(count as u64) as usize;
        }
        let Some(op) = left[turn].pop() else { continue };
        clock += 10;
        let transaction = &mut history[turn];
        transaction.submitted_ns = transaction.submitted_ns.min(clock - 1);
        transaction.completed_ns = Some(clock);
        let snapshot = snapshots[turn].get_or_insert_with(|| lists.clone());
        transaction.operations.push(match op {
            Op::Append { key, value } => {
                lists.entry(key).or_default().push(value);
                snapshot.entry(key).or_default().push(value);
                op
            }
            Op::Read { key, .. } => {
                let seen = if from_snapshots { &*snapshot } else { &lists };
                Op::Read { key, list: Some(seen.get(&key).cloned().unwrap_or_default()) }
            }
        });
    }
    for transaction in &mut history {
        match rng.below(12) {
            0 => transaction.status = Status::Fail,
            1 => (transaction.status, transaction.completed_ns) = (Status::Info, None),
            // Wider intervals leave more freedom.
            2..6 => (transaction.submitted_ns, transaction.completed_ns) = (0, Some(clock)),
            _ => {}
        }
        if transaction.status != Status::Ok {
            for op in &mut transaction.operations {
                if let Op::Read { list, .. } = op {
                    *list = None;
                }
            }
        }
    }
    history
}

/// Whether some serial order of those that committed, and of some of which nobody knows, respects real time and gives
/// all reads.
fn has_serial_order(history: &[Transaction], done: &[usize], lists: &BTreeMap<u64, Vec<u32>>) -> bool {
    let is_missing = |number: &usize| history[*number].status == Status::Ok && !done.contains(number);
    if !(0..history.len()).any(|number| is_missing(&number)) {
        return true;
    }
    for number in 0..history.len() {
        let next = &history[number];
        let is_late = |other: usize| {
            is_missing(&other) && history[other].completed_ns.is_some_and(|end| end < next.submitted_ns)
        };
        if done.contains(&number) || next.status == Status::Fail || (0..history.len()).any(is_late) {
            continue;
        }
        let mut after = lists.clone();
        let mut explains = |op: &Op| match op {
            Op::Append { key, value } => {
                after.entry(*key).or_default().push(*value);
                true
            }
            Op::Read { key, list: Some(list) } => after.get(key).map_or(&[][..], Vec::as_slice) == list,
            Op::Read { list: None, .. } => true,
        };
        if next.operations.iter().all(&mut explains) {
            let done = [done, &[number]].concat();
            if has_serial_order(history, &done, &after) {
                return true;
            }
        }
    }
    false
}

#[test]
fn checker_agrees_with_a_search_through_all_serial_orders() {
    let mut counts = [0, 0];
    let mut kinds = Vec::new();
    for seed in 0..60_000 {
        let mut history = random_history(&mut Rng::new(seed));
        let expected = has_serial_order(&history, &[], &BTreeMap::new());
        let found = check::isolation(&numbered(&mut history));
        assert_eq!(found.is_empty(), expected, "seed {seed}: {found:?} in {history:#?}");
        counts[usize::from(expected)] += 1;
        kinds.extend(found.into_iter().map(|anomaly| anomaly.kind));
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert!(counts.iter().all(|count| *count > 10_000), "{counts:?}");
    assert!(kinds.len() >= 11, "{kinds:?}");
}
