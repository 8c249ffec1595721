//! Merges and bounded adds in a table with an index: the same as in one without, so that an index may be added to a program
//! whose log exists, and be left out again; and the rows stand in the index where they belong.
#![cfg(not(loom))]

use std::sync::Arc;

use mixlog_engine::{
    Builder, Engine, Fixed, Footprint, Index, Mode, Never, OpenError, Outcome, Procedure, Snapshot, Sum,
    Table, Tx,
};
use mixlog_log::{MemoryLog, SharedLog};
use serde::{Deserialize, Serialize};

#[path = "support/random.rs"]
mod random;

use random::random;

const TOTALS: Table<u64, Sum, Fixed> = Table::fixed("totals");
const BY_TOTAL: Index<u64, Sum, i64, Fixed> = Index::new("totals.by_total", TOTALS, |_, sum| Some(sum.0));
/// The same, in granules of the table's own rows.
const PARITY: Index<u64, Sum, i64, Fixed> =
    Index::new("totals.by_parity", TOTALS, |_, sum| (sum.0 % 2 == 0).then_some(sum.0))
        .grouped("parity", |_| 0);

/// Changes some rows in turn, and returns what each change was answered.
#[derive(Clone, Serialize, Deserialize)]
struct Change {
    steps: Vec<(Step, u64, i64)>,
    /// Whether the rows are declared; what they do to indexes never is.
    declares: bool,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum Step {
    Merge,
    Add,
    Read,
    Put,
    Delete,
}

impl Procedure for Change {
    const NAME: &'static str = "change";
    type Output = Vec<i64>;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        if !self.declares {
            f.reconnoitre();
            return;
        }
        for &(step, key, delta) in &self.steps {
            match step {
                Step::Merge => f.merge(&TOTALS, &key),
                Step::Add => f.add_bounded(&TOTALS, &key, delta, 0),
                Step::Read => f.read(&TOTALS, &key),
                Step::Put | Step::Delete => f.write(&TOTALS, &key),
            };
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<i64>, Never> {
        let mut answers = Vec::new();
        for &(step, key, delta) in &self.steps {
            answers.push(match step {
                Step::Merge => i64::from(tx.merge(&TOTALS, key, delta)),
                Step::Add => i64::from(tx.add_bounded(&TOTALS, key, delta, 0)),
                Step::Read => tx.get(&TOTALS, &key).map_or(-1, |sum| sum.0),
                Step::Put => {
                    tx.put(&TOTALS, key, Sum(delta));
                    0
                }
                Step::Delete => i64::from(tx.delete(&TOTALS, &key)),
            });
        }
        Ok(answers)
    }
}

fn without() -> Builder {
    Engine::builder().table(&TOTALS).procedure::<Change>()
}

fn with() -> Builder {
    without().index(&BY_TOTAL).index(&PARITY)
}

fn changes(seed: u64) -> Vec<Change> {
    let mut state = seed;
    let mut below = |n: u64| random(&mut state) % n;
    let step = |below: &mut dyn FnMut(u64) -> u64| {
        let step = match below(20) {
            0..8 => Step::Merge,
            8..15 => Step::Add,
            15..17 => Step::Read,
            17..19 => Step::Put,
            _ => Step::Delete,
        };
        (step, below(12), below(21) as i64 - 8)
    };
    let mut change =
        || Change { steps: (0..=below(3)).map(|_| step(&mut below)).collect(), declares: below(4) > 0 };
    std::iter::repeat_with(&mut change).take(600).collect()
}

/// A log of changes by this program, and what they were answered.
fn log_of(builder: Builder, changes: &[Change]) -> (Arc<MemoryLog>, Vec<Vec<i64>>) {
    let log = Arc::new(MemoryLog::new());
    let engine = builder.threads(2).window(16).open(Arc::clone(&log) as Arc<dyn SharedLog>).unwrap();
    let tickets: Vec<_> = changes.iter().map(|change| engine.submit(change).unwrap()).collect();
    let answers = tickets.into_iter().map(|ticket| ticket.wait().unwrap().committed().unwrap()).collect();
    engine.close().unwrap();
    (log, answers)
}

fn check_indexes(snapshot: &Snapshot) {
    let mut expected: Vec<_> = snapshot.iter(&TOTALS).map(|(key, sum)| (sum.0, key)).collect();
    expected.sort_unstable();
    assert_eq!(snapshot.range_by(&BY_TOTAL, ..).collect::<Vec<_>>(), expected);
    expected.retain(|(sum, _)| sum % 2 == 0);
    assert_eq!(snapshot.range_by(&PARITY, i64::MIN..).collect::<Vec<_>>(), expected);
}

#[test]
fn a_program_with_indexes_and_one_without_come_to_the_same() {
    for seed in 0..4 {
        let changes = changes(seed);
        let (log, answers) = log_of(without(), &changes);
        let (other, others) = log_of(with(), &changes);
        assert!(answers.iter().all(|answers| !answers.is_empty()));
        assert_eq!(answers, others, "seed {seed}");
        let replay = |builder: Builder, log: &Arc<MemoryLog>| {
            let replay = builder.replay(Arc::clone(log) as Arc<dyn SharedLog>).unwrap();
            let digest = replay.to_end().unwrap();
            (replay, digest)
        };
        for log in [&log, &other] {
            let (_, expected) = replay(without().threads(1).mode(Mode::Sequential), log);
            for threads in [1, 2, 4, 8] {
                for window in [1, 7, 64] {
                    for mode in [Mode::Auto, Mode::Parallel] {
                        let asked = |builder: Builder| builder.threads(threads).window(window).mode(mode);
                        let what = format!("seed {seed}, {threads} threads, window {window}, {mode}");
                        assert_eq!(replay(asked(without()), log).1, expected, "{what}");
                        let (with, digest) = replay(asked(with()), log);
                        assert_eq!(digest, expected, "{what}, with indexes");
                        check_indexes(&with.snapshot());
                        let (_, digest) = replay(asked(self::with().declared(false)), log);
                        assert_eq!(digest, expected, "{what}, with indexes, footprints found");
                    }
                }
            }
        }
    }
}

#[test]
fn an_index_that_is_added_later_changes_nothing_that_was_acknowledged() {
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = without().threads(1).open(Arc::clone(&log)).unwrap();
    let change = |step, delta| Change { steps: vec![(step, 7, delta)], declares: true };
    for step in [Step::Merge, Step::Add] {
        assert!(matches!(engine.execute(&change(step, 5)).unwrap(), Outcome::Committed { .. }));
    }
    let digest = engine.digest();
    engine.close().unwrap();
    let engine = with().threads(1).open(Arc::clone(&log)).unwrap();
    assert_eq!((engine.digest().state, engine.digest().replies), (digest.state, digest.replies));
    // And what is added to is found at once, by interactive transactions, too.
    engine.execute(&change(Step::Merge, -3)).unwrap();
    let mut transaction = engine.begin();
    transaction.merge(&TOTALS, 7, 10);
    assert!(transaction.add_bounded(&TOTALS, 7, -1, 16) && !transaction.add_bounded(&TOTALS, 7, -1, 16));
    assert_eq!(transaction.range_by(&BY_TOTAL, ..).collect::<Vec<_>>(), [(16, 7)]);
    transaction.commit().unwrap();
    assert_eq!(engine.snapshot().range_by(&BY_TOTAL, ..).collect::<Vec<_>>(), [(16, 7)]);
    check_indexes(&engine.snapshot());
}

#[test]
fn index_of_another_version_than_a_transaction_read_is_refused() {
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = with().threads(1).open(Arc::clone(&log)).unwrap();
    engine.execute(&Change { steps: vec![(Step::Put, 7, 4)], declares: true }).unwrap();
    let mut transaction = engine.begin();
    assert_eq!(transaction.range_by(&BY_TOTAL, ..).count(), 1);
    transaction.put(&TOTALS, 8, Sum(1));
    transaction.commit().unwrap();
    let digest = engine.digest();
    engine.close().unwrap();
    let open = |version, by: fn(&u64, &Sum) -> Option<i64>| {
        let index = Index::new("totals.by_total", TOTALS, by).version(version);
        without().index(&index).threads(1).open(Arc::clone(&log))
    };
    // The same rows at other places: without a version nobody could tell.
    let error = open(1, |_, sum| Some(-sum.0)).unwrap_err();
    assert!(
        matches!(&error, OpenError::Entry { detail, .. } if detail.contains("by_total\" version 0, and version 1 is registered")),
        "{error}"
    );
    let engine = open(0, |_, sum| Some(sum.0)).unwrap();
    assert_eq!(engine.digest().state, digest.state);
}
