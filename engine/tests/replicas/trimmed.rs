//! Who starts, or follows, while somebody else trims the log goes on from the newer checkpoint that there is by then.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use mixlog_engine::checkpoint::Config;
use mixlog_log::file::{FsStorage, Storage};
use mixlog_log::{
    AppendError, Batch, Block, LogId, ReadError, SealError, Tail, TailError, Ticket, TrimError,
};
use tempfile::TempDir;

use super::checkpoints::votes_of;
use super::*;

/// What happens meanwhile, and before how many more reads of the log it does.
type Meanwhile = (usize, Box<dyn FnMut() + Send>);

/// A log in memory with a place for checkpoints, in which something happens right before it is read.
pub(super) struct Racing {
    log: Arc<dyn SharedLog>,
    beside: std::path::PathBuf,
    meanwhile: Mutex<Option<Meanwhile>>,
    /// From where on the next read is not answered.
    silent_from: Mutex<Option<Position>>,
}

impl Racing {
    pub(super) fn new(log: &Arc<dyn SharedLog>, beside: &Path) -> Arc<Self> {
        let (log, beside) = (Arc::clone(log), beside.to_path_buf());
        Arc::new(Self { log, beside, meanwhile: Mutex::default(), silent_from: Mutex::default() })
    }

    /// Has `happens` happen before each of so many reads.
    pub(super) fn before_reads(&self, reads: usize, happens: impl FnMut() + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some((reads, Box::new(happens)));
    }

    /// Whether all of it has happened.
    fn has_happened(&self) -> bool {
        self.meanwhile.lock().unwrap().is_none()
    }
}

impl SharedLog for Racing {
    fn read(&self, position: Position) -> Result<Option<Arc<Block>>, ReadError> {
        // Under the lock: nobody is told that it has happened before that is so.
        let mut meanwhile = self.meanwhile.lock().unwrap();
        if let Some((reads, happens)) = &mut *meanwhile {
            happens();
            *reads -= 1;
            if *reads == 0 {
                *meanwhile = None;
            }
        }
        drop(meanwhile);
        if self.silent_from.lock().unwrap().take_if(|from| position >= *from).is_some() {
            return Err(ReadError::Unavailable);
        }
        self.log.read(position)
    }

    fn beside(&self, name: &str) -> Option<Arc<dyn Storage>> {
        Some(Arc::new(FsStorage::new(self.beside.join(name))))
    }

    fn append(&self, batch: &Batch) -> Result<Ticket, AppendError> {
        self.log.append(batch)
    }

    fn tail(&self) -> Result<Tail, TailError> {
        self.log.tail()
    }

    fn wait_past(&self, position: Position, timeout: Option<Duration>) -> Result<Tail, ReadError> {
        self.log.wait_past(position, timeout)
    }

    fn trim(&self, before: Position) -> Result<(), TrimError> {
        self.log.trim(before)
    }

    fn seal(&self) -> Result<Position, SealError> {
        self.log.seal()
    }

    fn durability(&self) -> Durability {
        self.log.durability()
    }

    fn id(&self) -> LogId {
        self.log.id()
    }
}

fn builder() -> Builder {
    Engine::builder().table(&ROWS).table(&OTHERS).procedure::<Add<NONE>>().threads(1)
}

/// Somebody who keeps one checkpoint and trims the log before it; what the others are given to read it; the transactions
/// that were submitted so far.
struct Scene {
    engine: Arc<Engine>,
    racing: Arc<Racing>,
    submitted: u64,
    directory: TempDir,
}

/// 100 more transactions, and a checkpoint before the last of them.
fn go_on(engine: &Engine, first: u64) {
    submit(engine, first..first + 99);
    engine.checkpoint().unwrap();
    submit(engine, first + 99..first + 100);
}

fn scene(checkpoints: u64) -> Scene {
    let (directory, log) = (tempfile::tempdir().unwrap(), memory());
    let racing = Racing::new(&log, directory.path());
    let storage = racing.beside("checkpoints");
    let config = Config { storage, keep: 1, every_bytes: None, ..Config::default() };
    let engine = Arc::new(builder().checkpoints(config).open(log).unwrap());
    submit(&engine, 0..100);
    for taken in 0..checkpoints {
        go_on(&engine, 100 + 100 * taken);
    }
    Scene { engine, racing, submitted: 100 + 100 * checkpoints, directory }
}

impl Scene {
    /// Trims the log right before each of so many reads.
    fn trim_before_reads(&self, reads: usize) {
        let (engine, mut next) = (Arc::clone(&self.engine), self.submitted);
        self.racing.before_reads(reads, move || {
            go_on(&engine, next);
            next += 100;
        });
    }

    fn newest(&self) -> Option<Position> {
        self.engine.checkpoints().last().copied()
    }
}

#[test]
fn engine_that_opens_while_the_log_is_trimmed_starts_from_the_newer_checkpoint() {
    for (checkpoints, reads) in [(0, 1), (1, 1), (1, 3)] {
        let scene = scene(checkpoints);
        let before = scene.newest();
        scene.trim_before_reads(reads);
        // It looks at the checkpoints of the other one, and trims nothing.
        let config = Config { every_bytes: None, ..Config::default() };
        let opened = builder().checkpoints(config).open(Arc::<Racing>::clone(&scene.racing)).unwrap();
        assert!(scene.racing.has_happened());
        assert!(opened.recovery().checkpoint > before, "{:?}", opened.recovery());
        assert_eq!(opened.recovery().checkpoint, scene.newest());
        let position = opened.position().unwrap();
        wait_for("the end of the log", || scene.engine.position() == Some(position));
        assert_eq!(opened.digest(), scene.engine.digest());
    }
}

#[test]
fn replay_that_begins_while_the_log_is_trimmed_starts_from_the_newer_checkpoint() {
    let scene = scene(1);
    scene.trim_before_reads(2);
    let replay = builder().replay(Arc::<Racing>::clone(&scene.racing)).unwrap();
    replay.to_end().unwrap();
    assert!(scene.racing.has_happened());
    assert_eq!(replay.recovery().unwrap().checkpoint, scene.newest());
    // The one who trims has gone on since.
    assert_eq!(replay.to_end().unwrap(), scene.engine.digest());
    assert_eq!(replay.snapshot().state_digest(), scene.engine.digest().state);
}

#[test]
fn replay_whose_first_step_ends_half_way_goes_on_from_there() {
    for checkpoints in [0, 1] {
        let scene = scene(checkpoints);
        let half_way = scene.engine.position().unwrap().next().plus(40);
        submit(&scene.engine, scene.submitted..scene.submitted + 100);
        *scene.racing.silent_from.lock().unwrap() = Some(half_way);
        let replay = builder().window(16).replay(Arc::<Racing>::clone(&scene.racing)).unwrap();
        let error = replay.to_end().unwrap_err();
        assert!(matches!(error, OpenError::Read(ReadError::Unavailable)), "{error}");
        assert_eq!(replay.recovery().map(|recovery| recovery.checkpoint), Some(scene.newest()));
        assert!(replay.snapshot().position() > Some(Position(16)));
        assert_eq!(replay.to_end().unwrap(), scene.engine.digest());
        assert_eq!(replay.snapshot().state_digest(), scene.engine.digest().state);
    }
}

#[test]
fn procedures_are_found_though_the_log_is_trimmed_meanwhile() {
    let scene = scene(0);
    scene.trim_before_reads(1);
    let procedures = mixlog_engine::procedures_in(&*scene.racing).unwrap().unwrap();
    assert!(scene.racing.has_happened());
    assert!(procedures.contains(&("add".to_owned(), 1)), "{procedures:?}");
}

#[test]
fn replica_that_starts_or_follows_while_the_log_is_trimmed_goes_on_from_the_newer_checkpoint() {
    let scene = scene(1);
    scene.trim_before_reads(2);
    let log: Arc<dyn SharedLog> = Arc::<Racing>::clone(&scene.racing);
    let replica = Replica::follow(builder, log).unwrap();
    wait_for("what happens while it starts", || scene.racing.has_happened());
    let reached = |replica: &Replica| replica.wait(scene.engine.position().unwrap(), PATIENCE);
    assert!(reached(&replica), "{:?}", replica.failed());
    assert_eq!(replica.digest(), scene.engine.digest());
    assert_eq!(replica.recovery().checkpoint, scene.newest());
    // Later it is as far as the log reaches, and loses a race once more.
    let first = scene.submitted + 200;
    let engine = Arc::clone(&scene.engine);
    scene.racing.before_reads(1, move || {
        go_on(&engine, first + 1);
    });
    submit(&scene.engine, first..first + 1);
    wait_for("what happens while it follows", || scene.racing.has_happened());
    assert!(reached(&replica), "{:?}", replica.failed());
    assert_eq!(replica.recovery().checkpoint, scene.newest());
    assert_eq!(replica.digest(), scene.engine.digest());
    replica.close().unwrap();
}

#[test]
fn replica_that_goes_on_from_a_newer_checkpoint_votes_on_nothing_that_was_there_when_it_was_started() {
    let (directory, log) = (tempfile::tempdir().unwrap(), memory());
    let racing = Racing::new(&log, directory.path());
    // Where the replica does not look yet.
    let elsewhere = racing.beside("elsewhere");
    let config = Config { storage: elsewhere, trim: false, every_bytes: None, ..Config::default() };
    let engine = builder().checkpoints(config).open(Arc::clone(&log)).unwrap();
    submit(&engine, 0..5000);
    let position = engine.checkpoint().unwrap().position;
    submit(&engine, 5000..10_000);
    let (there, trimmed) = (directory.path().to_path_buf(), Arc::clone(&log));
    racing.before_reads(1, move || {
        let name = format!("checkpoint-{:016x}", position.0);
        std::fs::create_dir(there.join("checkpoints")).unwrap();
        std::fs::copy(there.join("elsewhere").join(&name), there.join("checkpoints").join(&name)).unwrap();
        trimmed.trim(position.next()).unwrap();
    });
    let c = Replica::follow(|| member::<NONE>("c", &THREE, 1), Arc::<Racing>::clone(&racing)).unwrap();
    wait_for("the newer state", || c.recovery().checkpoint.is_some() || c.failed().is_some());
    assert_eq!(c.recovery().checkpoint, Some(position));
    let padded = engine.pad().unwrap();
    wait_for("its vote", || votes_of(&log, "c", padded) == 1);
    let before = Position(2 * WINDOW_GRID - 1);
    assert!(position < before && before < padded);
    assert_eq!(votes_of(&log, "c", before), 0);
    c.close().unwrap();
}

#[test]
fn who_starts_on_a_trimmed_log_gives_up_when_there_is_no_newer_checkpoint_or_again_and_again_one() {
    let scene = scene(1);
    // Beside another directory, where nothing is.
    let elsewhere = Racing::new(&scene.racing.log, &scene.directory.path().join("elsewhere"));
    let trimmed = |outcome: Result<(), OpenError>| match outcome {
        Err(OpenError::Trimmed { .. }) => {}
        other => panic!("{other:?}"),
    };
    trimmed(builder().open(Arc::<Racing>::clone(&elsewhere)).map(drop));
    trimmed(Replica::follow(builder, Arc::<Racing>::clone(&elsewhere)).map(drop));
    trimmed(mixlog_engine::procedures_in(&*elsewhere).map(drop));
    // Whoever trims is always faster.
    scene.trim_before_reads(usize::MAX);
    let replay = builder().replay(Arc::<Racing>::clone(&scene.racing)).unwrap();
    let error = replay.to_end().unwrap_err();
    assert!(matches!(error, OpenError::Read(ReadError::Trimmed { .. })), "{error}");
    let log: Arc<dyn SharedLog> = Arc::<Racing>::clone(&scene.racing);
    let replica = Replica::follow(builder, log).unwrap();
    wait_for("the end of its attempts", || replica.failed().is_some());
    let error = replica.close().unwrap_err();
    assert!(matches!(error, OpenError::Read(ReadError::Trimmed { .. })), "{error}");
}

#[test]
fn replica_whose_repair_is_overtaken_by_a_trim_goes_on_from_the_newer_checkpoint() {
    overtaken::<FLIP_WHILE_TRIMMED>(false);
    overtaken::<FLIP_AFTER_TRIM>(true);
}

/// The log is trimmed before the repair has found what it starts from, or right after that.
fn overtaken<const FAULT: Fault>(before_it_starts: bool) {
    let (directory, log) = (tempfile::tempdir().unwrap(), memory());
    let racing = Racing::new(&log, directory.path());
    let config =
        Config { storage: racing.beside("checkpoints"), keep: 1, every_bytes: None, ..Config::default() };
    let engine = member::<NONE>("a", &THREE, 2).checkpoints(config).open(Arc::clone(&log)).unwrap();
    let engine = Arc::new(engine);
    let b = Replica::follow(|| member::<NONE>("b", &THREE, 1), Arc::clone(&log)).unwrap();
    let diverged_at = Position(2 * WINDOW_GRID - 1);
    let (made, keeper, trimmed) = (AtomicU32::new(0), Arc::clone(&engine), Arc::clone(&racing));
    let faulty = move || {
        // The second time, for the repair: what it starts from, or is going to read, is trimmed right before it does.
        if made.fetch_add(1, Ordering::Relaxed) == 1 {
            let keeper = Arc::clone(&keeper);
            let trim = move || {
                assert!(keeper.wait_agreed(diverged_at, 2, PATIENCE));
                keeper.checkpoint().unwrap();
            };
            if before_it_starts {
                trim();
            } else {
                trimmed.before_reads(1, trim);
            }
        }
        member::<FAULT>("c", &THREE, 1)
    };
    let c = Replica::follow(faulty, Arc::<Racing>::clone(&racing)).unwrap();
    submit(&engine, 0..10_000);
    settle(&engine, 2);
    wait_for("the newer state", || c.recovery().checkpoint.is_some() || c.failed().is_some());
    is_repaired(&c, &engine);
    assert_eq!(
        (c.recovery().checkpoint, c.failed().map(|e| e.to_string())),
        (engine.checkpoints().pop(), None)
    );
    let [divergence] = &c.divergences()[..] else { panic!("{:?}", c.divergences()) };
    assert_eq!((divergence.position, divergence.repaired), (diverged_at, false));
    assert_eq!(divergence.hindrance, None);
    assert_eq!(b.divergences(), []);
}
