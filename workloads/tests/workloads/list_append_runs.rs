//! Histories of real runs: without anomalies, and with them once somebody changed something.

use std::sync::Arc;

use mixlog_engine::{Engine, Footprint, Mode, Never, Procedure, Tx};
use mixlog_log::MemoryLog;
use mixlog_workloads::footprints::{Elsewhere, Exact, Footprints, Nothing, TooLittle, TooMuch, Unknown};
use mixlog_workloads::list_append::audit::Known;
use mixlog_workloads::list_append::check::{self, Kind};
use mixlog_workloads::list_append::client::ListAppends;
use mixlog_workloads::list_append::driver::Config;
use mixlog_workloads::list_append::history::{self, Op, Status, Transaction};
use mixlog_workloads::list_append::transaction::{Element, LISTS};
use mixlog_workloads::random::Rng;
use mixlog_workloads::runner;
use mixlog_workloads::workload::{Client, Workload};
use serde::{Deserialize, Serialize};

use crate::support::{assert_ok, commit, config, empty, failures};

const CONFIG: Config = Config { keys: 4, max_operations: 5, max_writes_per_key: 20, abort: 0.1 };

/// Damages the first list that has two elements of two transactions.
#[derive(Serialize, Deserialize)]
enum Tamper {
    Forget,
    Invent,
    Swap,
    Repeat,
    Move,
}

impl Procedure for Tamper {
    const NAME: &'static str = "tamper";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.unknown();
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        let is_fit = |list: &[Element]| list.len() > 1 && list[0].position != list[1].position;
        let key = (0..1_000).find(|key| tx.get(&LISTS, key).is_some_and(|list| is_fit(list)));
        let list = tx.get_mut(&LISTS, &key.expect("a list")).expect("it is there");
        match self {
            Self::Forget => drop(list.pop()),
            Self::Invent => list.push(Element { value: 1_000, position: u64::MAX }),
            Self::Swap => list.swap(0, 1),
            Self::Repeat => list.push(list[list.len() - 1]),
            Self::Move => list[0].position += 1,
        }
        Ok(())
    }
}

/// A run of two clients.
fn ran<F: Footprints>(threads: usize, window: u32, mode: Mode) -> (ListAppends<F>, Engine) {
    let workload = ListAppends::<F>::new(CONFIG);
    let builder = workload.register(Engine::builder()).procedure::<Tamper>();
    let builder = builder.threads(threads).window(window).mode(mode);
    let engine = builder.open(Arc::new(MemoryLog::new())).expect("the engine opens");
    let report = runner::run(&engine, &workload, &config(2_000, 5), &mut |_| {}).expect("the run ends");
    assert_ok(&report.checks);
    assert_eq!(report.checks.len(), 5, "L1 to L4, and outcomes");
    assert!((100..300).contains(&report.aborts), "a tenth aborts: {}", report.aborts);
    assert_eq!(report.unexpected, 0);
    (workload, engine)
}

fn anomalies(history: &[Transaction]) -> Vec<check::Anomaly> {
    check::all(&history.iter().collect::<Vec<_>>())
}

#[test]
fn histories_have_no_anomaly_whatever_the_threads_the_window_and_the_footprints() {
    for threads in [1, 2, 4] {
        for window in [1, 16, 256] {
            for mode in [Mode::Parallel, Mode::Auto] {
                ran::<Exact>(threads, window, mode);
            }
        }
        ran::<TooLittle>(threads, 64, Mode::Parallel);
        ran::<TooMuch>(threads, 64, Mode::Parallel);
        ran::<Elsewhere>(threads, 64, Mode::Parallel);
        ran::<Nothing>(threads, 64, Mode::Parallel);
        ran::<Unknown>(threads, 64, Mode::Parallel);
    }
}

#[test]
fn history_is_complete_and_survives_its_file() {
    let (workload, engine) = ran::<Exact>(2, 256, Mode::Auto);
    let first = workload.history();
    assert_eq!(first.len(), 2_000);
    assert!(first.is_sorted_by_key(|transaction| transaction.submitted_ns));
    let processes = first.iter().map(|transaction| transaction.process).max().expect("some") + 1;
    assert!((256..=512).contains(&processes), "2 clients with 256 in flight: {processes}");
    assert!(first.iter().all(|transaction| transaction.position.is_some()));
    assert!(first.iter().any(|transaction| transaction.status == Status::Fail));

    // A second run on the same log has keys of its own.
    let report = runner::run(&engine, &workload, &config(500, 6), &mut |_| {}).expect("the run ends");
    assert_ok(&report.checks);
    let all = workload.history();
    assert_eq!(all.len(), 2_500);
    assert_eq!(anomalies(&all), []);
    let mut file = Vec::new();
    history::write(&all, &mut file).expect("memory takes it");
    assert_eq!(history::read(file.as_slice()).expect("it is a history"), all);
}

#[test]
fn damaged_lists_fail_the_audit() {
    for tamper in [Tamper::Forget, Tamper::Invent, Tamper::Swap, Tamper::Repeat, Tamper::Move] {
        let (workload, engine) = ran::<Exact>(2, 256, Mode::Auto);
        let mut known = Known::default();
        let history = Arc::new(std::sync::Mutex::new(workload.history()));
        known.histories.push(Arc::clone(&history));
        assert_ok(&workload.audit(&engine.snapshot(), Some(&known)));
        commit(&engine, &tamper);
        assert_eq!(failures(&workload.audit(&engine.snapshot(), Some(&known))), ["L1"]);
        if matches!(tamper, Tamper::Swap | Tamper::Repeat) {
            assert_eq!(failures(&workload.audit(&engine.snapshot(), None)), ["L1"], "wrong in itself");
        }
        // What is damaged before a run is not blamed on it.
        let known = workload.observe(&engine.snapshot());
        assert_ok(&workload.audit(&engine.snapshot(), Some(&known))[1..]);
    }
}

/// Changes a history so that it cannot be true any more.
type Falsify = fn(&mut [Transaction], &mut Rng);

/// A transaction that committed and read something.
fn reader<'a>(history: &'a mut [Transaction], rng: &mut Rng) -> &'a mut Vec<u32> {
    loop {
        let number = rng.below(history.len() as u64) as usize;
        let lists = history[number].operations.iter().filter_map(|op| match op {
            Op::Read { list: Some(list), .. } if list.len() > 1 => Some(list),
            _ => None,
        });
        if lists.count() > 0 {
            let lists = history[number].operations.iter_mut().filter_map(|op| match op {
                Op::Read { list: Some(list), .. } if list.len() > 1 => Some(list),
                _ => None,
            });
            return lists.into_iter().next().expect("it was counted");
        }
    }
}

#[test]
fn histories_that_somebody_changed_have_anomalies() {
    let falsifications: [(Falsify, &[&str]); 5] = [
        (|history, rng| reader(history, rng).truncate(1), &["L2"]),
        (|history, rng| reader(history, rng).push(9_999), &["L2", "L4"]),
        (|history, rng| reader(history, rng).swap(0, 1), &["L2", "L4"]),
        (
            |history, _| {
                // The last to begin gets the first position.
                let last = history.len() - 1;
                let [first, last] = [history[0].position, history[last].position];
                let swap = |position| match position {
                    position if position == first => last,
                    position if position == last => first,
                    position => position,
                };
                history.iter_mut().for_each(|one| one.position = swap(one.position));
            },
            &["L3"],
        ),
        (
            |history, rng| {
                // Somebody saw it, and now it did not commit.
                let value = reader(history, rng)[0];
                let appends = |one: &Transaction, list: &[u32]| {
                    one.operations
                        .iter()
                        .any(|op| matches!(op, Op::Append { value, .. } if list.contains(value)))
                };
                let failed =
                    history.iter_mut().find(|one| one.status == Status::Ok && appends(one, &[value]));
                failed.expect("it committed").status = Status::Fail;
            },
            &["L1", "L2", "L4"],
        ),
    ];
    for ((falsify, fails), seed) in falsifications.iter().zip(0..) {
        let (workload, engine) = ran::<Exact>(2, 64, Mode::Auto);
        let known = Known { histories: vec![Arc::default()], ..Known::default() };
        *known.histories[0].lock().expect("nobody else has it") = workload.history();
        falsify(&mut known.histories[0].lock().expect("nobody else has it"), &mut Rng::new(seed));
        let checks = workload.audit(&engine.snapshot(), Some(&known));
        let failed = failures(&checks);
        assert!(fails.iter().all(|name| failed.contains(name)), "{failed:?} instead of {fails:?}");
    }
}

#[test]
fn stale_reads_are_found_without_positions() {
    let (workload, _engine) = ran::<Exact>(2, 64, Mode::Auto);
    let mut history = workload.history();
    history.iter_mut().for_each(|transaction| transaction.position = None);
    // The last read sees half of what was there.
    let list =
        history.iter_mut().rev().flat_map(|one| one.operations.iter_mut().rev()).find_map(|op| match op {
            Op::Read { list: Some(list), .. } if list.len() > 10 => Some(list),
            _ => None,
        });
    let list = list.expect("a long list");
    list.truncate(list.len() / 2);
    let found = anomalies(&history);
    let is_cycle = |anomaly: &check::Anomaly| matches!(anomaly.kind, Kind::Cycle { .. } | Kind::Internal);
    assert!(found.iter().any(is_cycle), "{found:?}");
}

#[test]
fn transactions_in_flight_when_the_engine_stops_are_unknown() {
    let workload = ListAppends::<Exact>::new(CONFIG);
    let engine = empty(&workload, 1);
    let mut client = workload.clients(&engine.snapshot(), 1, 1).expect("there is nothing to find").remove(0);
    let pending = client.submit(&engine).expect("it is submitted");
    client.settle(pending).expect("it is acknowledged");
    let pending = client.submit(&engine).expect("it is submitted");
    drop(pending);
    let history = workload.history();
    assert_eq!(history.len(), 2);
    assert_ne!(history[0].status, Status::Info);
    assert_eq!((history[1].status, history[1].completed_ns, history[1].position), (Status::Info, None, None));
    assert_eq!(history[0].process, history[1].process, "it was free again");
    assert_eq!(anomalies(&history), []);
}
