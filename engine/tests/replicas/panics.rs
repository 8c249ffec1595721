//! What a replica is made by may panic when it is made anew, and while its checkpoint is loaded: that ends it, with an error.

use mixlog_engine::checkpoint::Config;
use mixlog_log::file::{FsStorage, Storage};

use super::*;

/// Writes another row than others do, in one of the replicas.
#[derive(Serialize, Deserialize)]
struct Store<const WRONG: bool>(u64);

impl<const WRONG: bool> Procedure for Store<WRONG> {
    const NAME: &'static str = "store";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&ROWS, &self.0);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&ROWS, self.0, self.0 + u64::from(WRONG && self.0 == 100));
        Ok(())
    }
}

fn plain<const WRONG: bool>() -> Builder {
    Engine::builder().table(&ROWS).procedure::<Store<WRONG>>().threads(1)
}

fn store(engine: &Engine, numbers: std::ops::Range<u64>) {
    let tickets: Vec<_> = numbers.map(|n| engine.submit(&Store::<false>(n)).unwrap()).collect();
    tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
}

/// It tells why it has stopped, to whoever asks, waits or closes it.
fn says_why(replica: Replica, why: &str) {
    wait_for("the failure", || replica.failed().is_some());
    assert!(!replica.wait(Position(1 << 40), PATIENCE));
    assert!(!replica.wait_agreed(Position(1 << 40), 2, PATIENCE));
    // What it was can still be looked at.
    assert!(replica.snapshot().get(&ROWS, &0).is_some());
    match replica.close() {
        Err(OpenError::Panicked(message)) => assert!(message.contains(why), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn replica_whose_description_panics_while_it_is_repaired_stops_and_says_so() {
    let log = memory();
    let membership = |name| Membership::new(name, THREE);
    let engine = plain::<false>().member(membership("a")).open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(move || plain::<false>().member(membership("b")), Arc::clone(&log)).unwrap();
    let made = AtomicBool::new(false);
    let make = move || {
        assert!(!made.swap(true, Ordering::Relaxed), "it can be described once");
        plain::<true>().member(membership("c"))
    };
    let c = Replica::follow(make, Arc::clone(&log)).unwrap();
    store(&engine, 0..5000);
    settle(&engine, 2);
    wait_for("the divergence", || !c.divergences().is_empty());
    says_why(c, "it can be described once");
    assert!(b.failed().is_none());
}

#[test]
fn replica_whose_progress_of_loading_panics_when_it_starts_anew_stops_and_says_so() {
    let (directory, log) = (tempfile::tempdir().unwrap(), memory());
    let storage = || -> Option<Arc<dyn Storage>> { Some(Arc::new(FsStorage::new(directory.path()))) };
    let keeps = Config { storage: storage(), keep: 1, every_bytes: None, ..Config::default() };
    let engine = Arc::new(plain::<false>().checkpoints(keeps).open(Arc::clone(&log)).unwrap());
    store(&engine, 0..100);
    let racing = trimmed::Racing::new(&log, directory.path());
    let looks = Config { storage: storage(), every_bytes: None, ..Config::default() };
    let make =
        move || plain::<false>().checkpoints(looks.clone()).on_load(|_, _| panic!("it is not to be loaded"));
    // There is none to load yet.
    let replica = Replica::follow(make, Arc::<trimmed::Racing>::clone(&racing)).unwrap();
    assert!(replica.wait(log.tail().unwrap().tail.previous().unwrap(), PATIENCE));
    let trims = Arc::clone(&engine);
    racing.before_reads(1, move || {
        store(&trims, 100..200);
        trims.checkpoint().unwrap();
        store(&trims, 200..201);
    });
    store(&engine, 201..202);
    says_why(replica, "it is not to be loaded");
}
