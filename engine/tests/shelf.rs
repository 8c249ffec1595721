//! One directory of checkpoints, several engines and several sessions.
#![cfg(not(loom))]

#[path = "support/count.rs"]
mod count;

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use count::Count;
use mixlog_engine::checkpoint::{self, CheckpointError};
use mixlog_engine::{Engine, Never, Procedure, Table, Tx};
use mixlog_log::{FileLog, SharedLog};
use serde::{Deserialize, Serialize};

const COUNTS: Table<u64, Count> = Table::new("counts");

#[derive(Debug, Serialize, Deserialize)]
struct Add(u64);

impl Procedure for Add {
    const NAME: &'static str = "add";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        let count = tx.get(&COUNTS, &self.0).map_or(0, |count| count.0);
        tx.put(&COUNTS, self.0, Count(count + 1));
        Ok(())
    }
}

fn log(directory: &Path) -> Arc<dyn SharedLog> {
    Arc::new(FileLog::open(directory, mixlog_log::file::Config::default()).unwrap())
}

fn open(log: &Arc<dyn SharedLog>, every_bytes: Option<u64>, keep: usize) -> Engine {
    let config = checkpoint::Config { every_bytes, keep, ..Default::default() };
    let builder = Engine::builder().table(&COUNTS).procedure::<Add>().threads(1).checkpoints(config);
    builder.open(Arc::clone(log)).unwrap()
}

fn wait_until(is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never comes");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn one_engine_takes_checkpoints_and_the_next_one_when_it_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(directory.path());
    let (first, second) = (open(&log, None, 2), open(&log, None, 2));
    first.execute(&Add(1)).unwrap();
    let one = first.checkpoint().unwrap().position;
    let outcome = first.execute(&Add(1)).unwrap();
    wait_until(|| second.position() >= Some(outcome.position()));
    let refused = second.checkpoint().unwrap_err();
    assert!(matches!(refused, CheckpointError::InUse { .. }), "{refused}");
    assert!(refused.to_string().contains("checkpoints"), "{refused}");
    assert_eq!(second.checkpoint_failure(), Some(refused.to_string()));
    let two = first.checkpoint().unwrap().position;
    first.close().unwrap();
    second.execute(&Add(2)).unwrap();
    let three = second.checkpoint().unwrap().position;
    // It knows of those that the other one took meanwhile, and gives up the oldest of them.
    assert_eq!(second.checkpoints(), [two, three]);
    assert!(one < two && second.checkpoint_failure().is_none());
    second.close().unwrap();
    drop(log);
    let reopened = open(&self::log(directory.path()), None, 2);
    assert_eq!(reopened.recovery().checkpoint, Some(three));
    assert!(reopened.recovery().rejected.is_empty(), "{:?}", reopened.recovery());
}

#[test]
fn engines_that_all_take_checkpoints_by_themselves_leave_a_log_that_opens() {
    for keep in [1, 2] {
        for _ in 0..10 {
            let directory = tempfile::tempdir().unwrap();
            let log = log(directory.path());
            let (first, second) = (open(&log, Some(20_000), keep), open(&log, Some(20_000), keep));
            for n in 0..2000 {
                drop(first.submit(&Add(n % 100)).unwrap());
            }
            first.execute(&Add(0)).unwrap();
            first.close().unwrap();
            // One that lags behind finds that what it wants to read was trimmed.
            let _ = second.close();
            drop(log);
            let reopened = open(&self::log(directory.path()), None, keep);
            assert!(reopened.recovery().rejected.is_empty(), "{:?}", reopened.recovery());
            let sum: u64 = reopened.snapshot().iter(&COUNTS).map(|(_, count)| count.0).sum();
            assert_eq!(sum, 2001);
        }
    }
}

#[test]
fn a_checkpoint_that_is_overdue_is_taken_when_the_engine_opens() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(directory.path());
    let session = open(&log, None, 2);
    for n in 0..2000 {
        drop(session.submit(&Add(n % 100)).unwrap());
    }
    session.execute(&Add(0)).unwrap();
    session.close().unwrap();
    let next = open(&log, Some(20_000), 2);
    wait_until(|| !next.checkpoints().is_empty());
}
