//! Who starts from a checkpoint while somebody else takes newer ones and gives this one up, or writes over it, starts from
//! a newer one.
#![cfg(not(loom))]

#[path = "support/opening.rs"]
mod opening;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mixlog_engine::checkpoint::{Config, Recovery};
use mixlog_engine::{Builder, Digest, Engine, Never, OpenError, Procedure, Replica, Table, Tx};
use mixlog_log::file::{FsStorage, Storage};
use mixlog_log::{MemoryLog, SharedLog};
use opening::Opening;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// Longer than any step takes on a busy machine, so that a hang fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

const TEXTS: Table<u64, String> = Table::new("texts");

/// A row that is far longer than its call.
#[derive(Serialize, Deserialize)]
struct Write(u64);

impl Procedure for Write {
    const NAME: &'static str = "write";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&TEXTS, self.0 % 64, self.0.to_string().repeat(50_000));
        Ok(())
    }
}

fn builder() -> Builder {
    Engine::builder().table(&TEXTS).procedure::<Write>().threads(1)
}

/// Somebody who keeps one checkpoint, whose space is the next one's.
struct Keeps {
    engine: Engine,
    log: Arc<dyn SharedLog>,
    next: AtomicU64,
    directory: TempDir,
}

impl Keeps {
    /// Has one checkpoint of more rows than are loaded at once.
    fn new(trim: bool) -> Arc<Self> {
        let (directory, log) = (tempfile::tempdir().unwrap(), Arc::new(MemoryLog::new()));
        let storage: Option<Arc<dyn Storage>> = Some(Arc::new(FsStorage::new(directory.path())));
        // By far more than is logged.
        let config = Config { storage, keep: 1, every_bytes: Some(64 << 20), trim, ..Config::default() };
        let engine = builder().checkpoints(config).open(Arc::<MemoryLog>::clone(&log)).unwrap();
        let keeps = Arc::new(Self { engine, log, next: AtomicU64::new(0), directory });
        for _ in 0..64 {
            keeps.write();
        }
        keeps.engine.checkpoint().unwrap();
        keeps
    }

    fn write(&self) {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.engine.execute(&Write(next)).unwrap();
    }

    /// The checkpoint that there is is given up for another one, and written over by the one after that.
    fn take_two(&self) {
        for _ in 0..2 {
            self.write();
            self.engine.checkpoint().unwrap();
        }
        self.write();
    }
}

/// The others look where that one keeps its checkpoints, and take none.
fn looks(storage: Arc<dyn Storage>) -> Config {
    Config { storage: Some(storage), every_bytes: None, ..Config::default() }
}

/// All ways to start, each told how to describe its engine anew.
type Starts =
    fn(Box<dyn Fn() -> Builder + Send + Sync>, Arc<dyn SharedLog>) -> Result<(Digest, Recovery), OpenError>;

const STARTS: [Starts; 3] = [
    |make, log| {
        let engine = make().open(log)?;
        Ok((engine.digest(), engine.recovery().clone()))
    },
    |make, log| {
        let replay = make().replay(log)?;
        replay.to_end()?;
        // The other one has gone on since.
        Ok((replay.to_end()?, replay.recovery().expect("it has started")))
    },
    |make, log| {
        let replica = Replica::follow(make, Arc::clone(&log))?;
        let end = log.tail()?.tail.previous().expect("it is not empty");
        assert!(replica.wait(end, PATIENCE), "{:?}", replica.failed());
        Ok((replica.digest(), replica.recovery()))
    },
];

fn starts_from_the_newest(keeps: &Keeps, started: Result<(Digest, Recovery), OpenError>) {
    let (digest, recovery) = started.expect("there is a good one at all times");
    assert_eq!(digest, keeps.engine.digest());
    assert_eq!(recovery.checkpoint, keeps.engine.checkpoints().last().copied());
    assert_eq!(recovery.rejected, []);
}

#[test]
fn checkpoint_that_is_written_over_while_it_is_loaded_is_passed_over_for_a_newer_one() {
    for start in STARTS {
        let keeps = Keeps::new(true);
        let others = Arc::new(Mutex::new(Some(Arc::clone(&keeps))));
        let make = {
            let (directory, others) = (keeps.directory.path().to_path_buf(), Arc::clone(&others));
            move || {
                let others = Arc::clone(&others);
                builder().checkpoints(looks(Arc::new(FsStorage::new(&directory)))).on_load(move |_, _| {
                    if let Some(others) = others.lock().unwrap().take() {
                        others.take_two();
                    }
                })
            }
        };
        let started = start(Box::new(make), Arc::clone(&keeps.log));
        assert!(others.lock().unwrap().is_none());
        starts_from_the_newest(&keeps, started);
    }
}

#[test]
fn checkpoint_that_is_given_up_before_it_is_read_is_passed_over_for_a_newer_one() {
    // Where the log is not trimmed no space is kept: what is removed can be read to its end by who has it open.
    for (trim, is_before) in [(true, true), (true, false), (false, true)] {
        for start in STARTS {
            let keeps = Keeps::new(trim);
            let others = Arc::new(Mutex::new(Some(Arc::clone(&keeps))));
            let happens = {
                let others = Arc::clone(&others);
                // When a checkpoint is first opened.
                move |is_open: bool| {
                    if is_open != is_before
                        && let Some(others) = others.lock().unwrap().take()
                    {
                        others.take_two();
                    }
                }
            };
            let storage: Arc<dyn Storage> =
                Arc::new(Opening { storage: FsStorage::new(keeps.directory.path()), happens });
            let make = move || builder().checkpoints(looks(Arc::clone(&storage)));
            let started = start(Box::new(make), Arc::clone(&keeps.log));
            assert!(others.lock().unwrap().is_none());
            starts_from_the_newest(&keeps, started);
        }
    }
}
