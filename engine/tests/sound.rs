//! Checkpoints stand for what is given up for them, so those that are given up for must be right: read since the engine was
//! opened, of this log, and of a state that transactions made.
#![cfg(not(loom))]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mixlog_engine::checkpoint::{self, BackupError, CheckpointError, Config};
use mixlog_engine::{Engine, Footprint, Never, Position, Procedure, Table, Tx};
use mixlog_log::{FileLog, MemoryLog, SharedLog};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[path = "../../tests/support/forge.rs"]
#[expect(dead_code, reason = "for tests whose digests are forged as well")]
mod forge;

const NUMBERS: Table<u64, u64> = Table::new("numbers");

#[derive(Serialize, Deserialize)]
struct Put(u64);

impl Procedure for Put {
    const NAME: &'static str = "put";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&NUMBERS, self.0, self.0);
        Ok(())
    }
}

fn open(directory: &Path) -> Engine {
    let log: Arc<dyn SharedLog> = Arc::new(FileLog::open(directory, Default::default()).unwrap());
    let config = Config { keep: 2, every_bytes: None, ..Config::default() };
    Engine::builder().table(&NUMBERS).procedure::<Put>().threads(1).checkpoints(config).open(log).unwrap()
}

fn head(engine: &Engine) -> Position {
    engine.log().tail().unwrap().head
}

/// Executes something, and takes a checkpoint of it.
fn take(engine: &Engine, n: u64) -> Position {
    engine.execute(&Put(n)).unwrap();
    engine.checkpoint().unwrap().position
}

fn file(directory: &Path, position: Position) -> PathBuf {
    directory.join("checkpoints").join(format!("checkpoint-{:016x}", position.0))
}

/// Flips a bit in the last block.
fn damage(directory: &Path, position: Position) {
    let path = file(directory, position);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn damaged_checkpoint_counts_for_none_after_a_restart_either() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let engine = open(path);
    let [first, second] = [0, 1].map(|n| take(&engine, n));
    engine.close().unwrap();
    damage(path, second);
    let engine = open(path);
    assert_eq!(engine.recovery().checkpoint, Some(first));
    let third = take(&engine, 2);
    assert_eq!((engine.checkpoints(), head(&engine)), (vec![first, third], first.next()));
    engine.close().unwrap();
    // Who starts now has no reason to look at the second one, until others are given up for it.
    let engine = open(path);
    assert_eq!(engine.recovery().checkpoint, Some(third));
    assert_eq!(engine.checkpoint().unwrap().position, third);
    assert_eq!((engine.checkpoints(), head(&engine)), (vec![first, third], first.next()));
    engine.close().unwrap();
    damage(path, third);
    let engine = open(path);
    assert_eq!(engine.recovery().checkpoint, Some(first));
    assert_eq!(engine.snapshot().iter(&NUMBERS).count(), 3);
}

#[test]
fn checkpoints_that_an_earlier_engine_kept_are_read_before_others_are_given_up_for_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let engine = open(path);
    let [first, second] = [0, 1].map(|n| take(&engine, n));
    engine.close().unwrap();
    damage(path, first);
    let engine = open(path);
    assert_eq!(engine.recovery().checkpoint, Some(second));
    // The newest one and the one that is taken: the first is neither counted nor needed.
    let third = take(&engine, 2);
    assert_eq!((engine.checkpoints(), head(&engine)), (vec![second, third], second.next()));
}

#[test]
fn checkpoint_of_another_log_counts_for_none() {
    let [directory, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let path = directory.path();
    let engine = open(other.path());
    let foreign = take(&engine, 0);
    engine.close().unwrap();
    let engine = open(path);
    std::fs::create_dir_all(path.join("checkpoints")).unwrap();
    std::fs::copy(file(other.path(), foreign), file(path, foreign)).unwrap();
    (0..10).for_each(|n| drop(engine.execute(&Put(n)).unwrap()));
    engine.close().unwrap();
    for n in 10..12 {
        // It is found by one who starts before there is any other one, and then by one who starts from that.
        let engine = open(path);
        let taken = if n == 10 { take(&engine, n) } else { engine.checkpoint().unwrap().position };
        assert_eq!((engine.checkpoints(), head(&engine)), (vec![taken], Position::ZERO), "{n}");
        engine.close().unwrap();
    }
    assert!(file(path, foreign).exists(), "it is evidence, until there are two others");
}

/// As it was written by an engine whose memory was broken.
#[test]
fn checkpoint_whose_rows_are_not_of_its_state_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let log = path.join("log");
    let engine = open(&log);
    let [first, second] = [0, 1].map(|n| take(&engine, n));
    let digest = engine.digest();
    engine.close().unwrap();
    forge::flip_row(&file(&log, second), &[1]);
    let says = |text: String| assert!(text.contains("its rows have the digest "), "{text}");
    match &checkpoint::verify(&log).unwrap()[..] {
        [Ok(_), Err(rejected)] => says(rejected.to_string()),
        other => panic!("{other:?}"),
    }
    let copied = checkpoint::backup(&log, path.join("backup")).unwrap();
    assert_eq!(copied.checkpoint, Some(first));
    for log in [log, path.join("backup")] {
        let engine = open(&log);
        assert_eq!((engine.recovery().checkpoint, engine.digest()), (Some(first), digest));
        engine.recovery().rejected.iter().for_each(|rejected| says(rejected.to_string()));
    }
}

/// A row that can be changed through a shared reference.
#[derive(Debug)]
struct Loose(AtomicU64);

impl Loose {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Clone for Loose {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.get()))
    }
}

impl Serialize for Loose {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.get().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(|n| Self(AtomicU64::new(n)))
    }
}

const LOOSE: Table<u64, Loose> = Table::new("loose");

/// Writes a row, or changes it behind the engine's back.
#[derive(Serialize, Deserialize)]
enum Touch {
    Put(u64),
    Change,
}

impl Procedure for Touch {
    const NAME: &'static str = "touch";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&LOOSE, &0);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        match self {
            Self::Put(n) => tx.put(&LOOSE, 0, Loose(AtomicU64::new(*n))),
            Self::Change => {
                let row = tx.get(&LOOSE, &0).expect("it was written");
                row.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

#[test]
fn state_that_something_else_than_a_transaction_changed_is_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Arc::new(mixlog_log::file::FsStorage::new(directory.path().join("checkpoints")));
    let config = Config { storage: Some(storage), keep: 1, every_bytes: None, ..Config::default() };
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let builder = Engine::builder().table(&LOOSE).procedure::<Touch>().threads(1).checkpoints(config);
    let engine = builder.open(Arc::clone(&log)).unwrap();
    engine.execute(&Touch::Put(1)).unwrap();
    let first = engine.checkpoint().unwrap().position;
    engine.execute(&Touch::Change).unwrap();
    let error = engine.checkpoint().unwrap_err();
    assert!(matches!(error, CheckpointError::Changed { .. }), "{error}");
    assert!(engine.checkpoint_failure().is_some_and(|failure| failure.contains("something other than")));
    assert_eq!((engine.checkpoints(), head(&engine)), (vec![first], first.next()));
    let error = engine.backup(directory.path().join("backup")).unwrap_err();
    assert!(matches!(error, BackupError::Changed { .. }), "{error}");
    assert!(!directory.path().join("backup").exists());
    // Nor is what transactions make of it.
    engine.execute(&Touch::Put(1)).unwrap();
    assert!(matches!(engine.checkpoint(), Err(CheckpointError::Changed { .. })));
    assert_eq!((engine.checkpoints(), head(&engine)), (vec![first], first.next()));
}
