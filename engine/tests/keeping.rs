//! Checkpoints that are taken beside rows whose code panics, or takes its time.
#![cfg(not(loom))]

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use mixlog_engine::checkpoint::{self, CheckpointError};
use mixlog_engine::{Engine, Never, OpenError, Procedure, Table, Tx};
use mixlog_log::FileLog;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longer than any step takes on a busy machine, so that a hang fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

fn wait_for(what: &str, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < PATIENCE, "{what} never comes");
        thread::sleep(Duration::from_millis(1));
    }
}

const NEVER: u8 = 0;
const IN_CLONE: u8 = 1;
const IN_SERIALIZE: u8 = 2;
const IN_DESERIALIZE: u8 = 3;

/// Where rows panic, and where they wait until it is [`NEVER`] again, when a checkpoint is taken of them; for each test.
static PANICS: [AtomicU8; 3] = [const { AtomicU8::new(NEVER) }; 3];
static WAITS: [AtomicU8; 3] = [const { AtomicU8::new(NEVER) }; 3];
/// Whether one has waited.
static WAITED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];
/// The test in which rows panic when they are loaded.
const LOADED: usize = 2;

/// The thread of tests that takes a checkpoint; the engine's own is told by its name, too.
const TAKES: &str = "takes a checkpoint";

fn awkward(test: usize, place: u8) {
    let is_meant = |name: &str| match test {
        LOADED => name.starts_with("mixlog-driver"),
        _ => matches!(name, TAKES | "mixlog-checkpoint"),
    };
    if !thread::current().name().is_some_and(is_meant) {
        return;
    }
    assert!(PANICS[test].load(Ordering::SeqCst) != place, "this row cannot be kept");
    if WAITS[test].load(Ordering::SeqCst) == place {
        WAITED[test].store(true, Ordering::SeqCst);
        wait_for("leave to go on", || WAITS[test].load(Ordering::SeqCst) == NEVER);
    }
}

#[derive(Debug, PartialEq)]
struct Row<const TEST: usize>(u64);

impl<const TEST: usize> Clone for Row<TEST> {
    fn clone(&self) -> Self {
        awkward(TEST, IN_CLONE);
        Self(self.0)
    }
}

impl<const TEST: usize> Serialize for Row<TEST> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        awkward(TEST, IN_SERIALIZE);
        self.0.serialize(serializer)
    }
}

impl<'de, const TEST: usize> Deserialize<'de> for Row<TEST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        awkward(TEST, IN_DESERIALIZE);
        u64::deserialize(deserializer).map(Self)
    }
}

const fn rows<const TEST: usize>() -> Table<u64, Row<TEST>> {
    Table::new("rows")
}

#[derive(Serialize, Deserialize)]
struct Put<const TEST: usize>(u64);

impl<const TEST: usize> Procedure for Put<TEST> {
    const NAME: &'static str = "put";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&rows::<TEST>(), self.0, Row(self.0));
        Ok(())
    }
}

fn open<const TEST: usize>(directory: &Path, config: checkpoint::Config) -> Engine {
    let log = FileLog::open(directory.join("log"), Default::default()).unwrap();
    let builder = Engine::builder().table(&rows::<TEST>()).procedure::<Put<TEST>>().threads(1);
    builder.checkpoints(config).open(Arc::new(log)).unwrap()
}

/// What a checkpoint by this call comes to, on a thread on which rows are awkward.
fn take(engine: &Engine) -> Result<checkpoint::Checkpoint, CheckpointError> {
    thread::scope(|scope| {
        let taking = thread::Builder::new().name(TAKES.to_owned());
        let taking = taking.spawn_scoped(scope, || engine.checkpoint()).unwrap();
        taking.join().expect("a row that panics is an error")
    })
}

#[test]
fn row_that_panics_has_a_checkpoint_fail_and_the_next_one_is_taken() {
    const TEST: usize = 0;
    let directory = tempfile::tempdir().unwrap();
    let every = Some(Duration::from_millis(40));
    let config = checkpoint::Config { every, every_bytes: None, keep: 1, ..Default::default() };
    let mut next = 0;
    for place in [IN_CLONE, IN_SERIALIZE, IN_DESERIALIZE] {
        let engine = open::<TEST>(directory.path(), config.clone());
        // So that nothing is due before the first row that panics.
        engine.execute(&Put::<TEST>(next)).unwrap();
        next += 1;
        let position = engine.position();
        // And the one before it is given up.
        wait_for("the first checkpoint", || engine.checkpoints() == position.as_slice());
        PANICS[TEST].store(place, Ordering::SeqCst);
        for _ in 0..3 {
            engine.execute(&Put::<TEST>(next)).unwrap();
            next += 1;
        }
        // The one that is due, and one that is asked for.
        let says = |failure: &str| failure.contains("this row cannot be kept");
        wait_for("the failure", || engine.checkpoint_failure().is_some_and(|failure| says(&failure)));
        match take(&engine) {
            Err(CheckpointError::Panicked(message)) => assert!(says(&message), "{message}"),
            other => panic!("{place}: {other:?}"),
        }
        assert_eq!(engine.checkpoints(), position.as_slice());
        engine.execute(&Put::<TEST>(next)).unwrap();
        next += 1;
        // It is tried again, by nobody's leave.
        PANICS[TEST].store(NEVER, Ordering::SeqCst);
        let position = engine.position();
        wait_for("the next checkpoint", || engine.checkpoints().last().copied() >= position);
        wait_for("the end of the failure", || engine.checkpoint_failure().is_none());
        let digest = engine.digest();
        engine.close().unwrap();
        assert!(!directory.path().join("log/checkpoints/checkpoint.writing").exists());
        let again = open::<TEST>(directory.path(), config.clone());
        assert_eq!((again.digest(), again.recovery().checkpoint), (digest, position));
        again.close().unwrap();
    }
}

#[test]
fn checkpoints_are_listed_and_transactions_go_on_while_one_is_being_written() {
    const TEST: usize = 1;
    let directory = tempfile::tempdir().unwrap();
    let config = checkpoint::Config { every_bytes: None, keep: 1, ..Default::default() };
    let engine = open::<TEST>(directory.path(), config);
    engine.execute(&Put::<TEST>(0)).unwrap();
    let first = take(&engine).unwrap().position;
    engine.execute(&Put::<TEST>(1)).unwrap();
    WAITS[TEST].store(IN_SERIALIZE, Ordering::SeqCst);
    let second = thread::scope(|scope| {
        let taking = scope.spawn(|| take(&engine).unwrap().position);
        wait_for("the middle of the second one", || WAITED[TEST].load(Ordering::SeqCst));
        let (sender, receiver) = mpsc::channel();
        let looks = scope.spawn({
            let engine = &engine;
            move || {
                let listed = (engine.checkpoints(), engine.checkpoint_failure());
                engine.execute(&Put::<TEST>(2)).unwrap();
                let _ = (engine.stats(), engine.memory());
                sender.send(listed).expect("somebody waits");
            }
        });
        let listed = receiver.recv_timeout(PATIENCE / 2);
        let is_writing = !taking.is_finished();
        WAITS[TEST].store(NEVER, Ordering::SeqCst);
        looks.join().unwrap();
        assert_eq!(listed.expect("nobody waits for a checkpoint to look at it"), (vec![first], None));
        assert!(is_writing);
        taking.join().unwrap()
    });
    assert!(second > first);
    assert_eq!(engine.checkpoints(), [second]);
    engine.close().unwrap();
}

/// A key that cannot be copied on a thread of this name.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct AwkwardKey(u64);

const OPENS: &str = "opens an engine";

impl Clone for AwkwardKey {
    fn clone(&self) -> Self {
        assert!(thread::current().name() != Some(OPENS), "this key cannot be copied");
        Self(self.0)
    }
}

const IN_ORDER: Table<AwkwardKey, u64> = Table::new("in order").ordered();

/// Enough rows for several leaves.
#[derive(Serialize, Deserialize)]
struct Fill;

impl Procedure for Fill {
    const NAME: &'static str = "fill";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        (0..2000).for_each(|n| tx.put(&IN_ORDER, AwkwardKey(n), n));
        Ok(())
    }
}

#[test]
fn key_that_panics_when_leaves_are_cut_while_it_is_loaded_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let log = FileLog::open(directory.path(), Default::default()).unwrap();
        let config = checkpoint::Config { every_bytes: None, ..Default::default() };
        let builder = Engine::builder().table(&IN_ORDER).procedure::<Fill>().threads(2);
        builder.checkpoints(config).open(Arc::new(log))
    };
    let engine = open().unwrap();
    engine.submit(&Fill).unwrap().wait().unwrap();
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    let opened = thread::scope(|scope| {
        let opening = thread::Builder::new().name(OPENS.to_owned()).spawn_scoped(scope, open).unwrap();
        opening.join().expect("a key that panics is an error")
    });
    match opened {
        Err(OpenError::Panicked(message)) => assert!(message.contains("this key cannot be copied")),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it is loaded"),
    }
    assert!(open().unwrap().recovery().checkpoint.is_some());
}

#[test]
fn row_that_panics_while_it_is_loaded_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let config = checkpoint::Config { every_bytes: None, ..Default::default() };
    let engine = open::<LOADED>(directory.path(), config.clone());
    engine.execute(&Put::<LOADED>(1)).unwrap();
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    for place in [IN_SERIALIZE, IN_DESERIALIZE] {
        PANICS[LOADED].store(place, Ordering::SeqCst);
        let log = FileLog::open(directory.path().join("log"), Default::default()).unwrap();
        let builder = Engine::builder().table(&rows::<LOADED>()).procedure::<Put<LOADED>>().threads(2);
        match builder.open(Arc::new(log)) {
            Err(OpenError::Panicked(message)) => assert!(message.contains("this row cannot be kept")),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it is loaded"),
        }
    }
    PANICS[LOADED].store(NEVER, Ordering::SeqCst);
    assert!(open::<LOADED>(directory.path(), config).recovery().checkpoint.is_some());
}
