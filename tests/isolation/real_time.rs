//! Strictness: an acknowledged write is seen by everything that is submitted, begun or looked at afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};

use mixlog::log::{MemoryLog, SharedLog};
use mixlog::{Backoff, Engine, Mode, Outcome, Transaction};

use crate::race::{COUNTER, Config, MODES, WINDOWS};
use crate::script::{Data, KINDS, Place, Says, Script, Step, builder};

/// One counter, the last value that was acknowledged, and where.
#[derive(Default)]
struct Acknowledged {
    value: AtomicI64,
    position: AtomicU64,
}

impl Acknowledged {
    fn set(&self, value: i64, position: u64) {
        // The position first: who sees the value sees a position at least as late.
        self.position.store(position, Ordering::Release);
        self.value.store(value, Ordering::Release);
    }
}

const fn place(counter: usize) -> Place {
    Place { kind: KINDS[counter % KINDS.len()], round: counter as u64 }
}

/// Runs one step as a procedure; tells where, and what it read.
fn call(engine: &Engine, counter: usize, step: Step, says: Says) -> (u64, Option<i64>) {
    let script = Script { place: place(counter), steps: vec![step], says };
    match engine.submit(&script).expect("it is submitted").wait().expect("an outcome") {
        Outcome::Committed { position, output } => {
            (position.0, output.first().and_then(|rows| rows.first()).map(|row| row.1))
        }
        other => panic!("{other:?}"),
    }
}

const SAYS: [Says; 4] = [Says::Exact, Says::ToBeFound, Says::Empty, Says::Unknown];

/// Writes 1, 2, 3 .. to a counter, each once the one before is acknowledged: at least so many, and as long as readers want
/// to see some.
fn write(
    engine: &Engine,
    counter: usize,
    least: i64,
    interactive: bool,
    acknowledged: &Acknowledged,
    wanted: &AtomicUsize,
) {
    let Place { kind, .. } = place(counter);
    let key = place(counter).key(COUNTER);
    for value in (1..).take_while(|&value| value <= least || wanted.load(Ordering::Relaxed) > 0) {
        let position = if interactive {
            let body = |t: &mut Transaction<'_>| -> Result<(), ()> {
                Data::put(t, kind, key, value);
                Ok(())
            };
            engine.transact(Backoff::default(), body).expect("nobody else writes it").1.expect("it wrote").0
        } else {
            call(engine, counter, Step::Write(COUNTER, value), SAYS[value as usize % SAYS.len()]).0
        };
        acknowledged.set(value, position);
    }
}

/// Looks at a counter in one of several ways. Tells what it saw and, where it has one, its position.
fn look(engine: &Engine, counter: usize, way: usize) -> (Option<i64>, Option<u64>) {
    let Place { kind, .. } = place(counter);
    let key = place(counter).key(COUNTER);
    match way {
        0..4 => {
            let (position, value) = call(engine, counter, Step::Read(COUNTER), SAYS[way]);
            (value, Some(position))
        }
        4 => {
            let (position, value) = call(engine, counter, Step::Scan(1), Says::Exact);
            (value, Some(position))
        }
        5 => (engine.snapshot().get(kind.table(), &key).map(|sum| sum.0), None),
        6 => {
            let transaction = engine.begin();
            (
                Data::get(&transaction, kind, key),
                transaction.commit().expect("it wrote nothing").map(|p| p.0 + 1),
            )
        }
        _ => {
            // It writes elsewhere, so that its read is compared at its position.
            let body = |t: &mut Transaction<'_>| -> Result<Option<i64>, ()> {
                let value = Data::get(t, kind, key);
                let seen = value.unwrap_or(0);
                Data::put(t, kind, key + 1, seen);
                Ok(value)
            };
            let backoff = Backoff { attempts: 100_000, ..Backoff::default() };
            let (value, position) = engine.transact(backoff, body).expect("its turn comes");
            (value, position.map(|p| p.0))
        }
    }
}

/// A reader that wants to see writes, until this is dropped.
struct Wants<'a>(&'a AtomicUsize);

impl<'a> Wants<'a> {
    fn some(wanted: &'a AtomicUsize) -> Self {
        wanted.fetch_add(1, Ordering::Relaxed);
        Self(wanted)
    }
}

impl Drop for Wants<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

const WAYS: usize = 8;
const COUNTERS: usize = 4;

fn check(config: Config, interactive: bool, writes: i64) {
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = config.builder().open(Arc::clone(&log)).expect("it opens");
    let acknowledged: [Acknowledged; COUNTERS] = Default::default();
    let (done, wanted) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut looks, mut moved) = (0u64, 0u64);
    thread::scope(|scope| {
        let (engine, acknowledged, done, wanted) = (&engine, &acknowledged, &done, &wanted);
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                let mut wants = Some(Wants::some(wanted));
                scope.spawn(move || {
                    let (mut looks, mut moved) = (0, 0);
                    while !done.load(Ordering::Acquire) {
                        if looks >= WAYS * COUNTERS && moved > 0 {
                            drop(wants.take());
                        }
                        let (counter, way) = (looks % COUNTERS, (looks / COUNTERS + reader) % WAYS);
                        let value = acknowledged[counter].value.load(Ordering::Acquire);
                        let position = acknowledged[counter].position.load(Ordering::Acquire);
                        // That position may belong to a later value, whose write is acknowledged all the same.
                        let (saw, at) = look(engine, counter, way);
                        let saw = saw.unwrap_or(0);
                        assert!(
                            saw >= value,
                            "{config:?}, way {way}: {value} was acknowledged, and {saw} seen"
                        );
                        if let Some(at) = at {
                            assert!(
                                at > position || value == 0,
                                "{config:?}, way {way}: {at} after {position}"
                            );
                        }
                        looks += 1;
                        moved += usize::from(saw > value);
                    }
                    (looks, moved)
                })
            })
            .collect();
        let writers: Vec<_> = (0..COUNTERS)
            .map(|counter| {
                scope.spawn(move || {
                    write(engine, counter, writes, interactive, &acknowledged[counter], wanted)
                })
            })
            .collect();
        // Readers end, also when a writer failed.
        let ended: Vec<_> = writers.into_iter().map(ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Release);
        ended.into_iter().for_each(|writer| writer.expect("a writer"));
        for reader in readers {
            let (l, m) = reader.join().expect("a reader");
            (looks, moved) = (looks + l as u64, moved + m as u64);
        }
    });
    assert!(
        looks >= 2 * (WAYS * COUNTERS) as u64 && moved > 0,
        "{config:?}: {looks} looks, {moved} met a writer"
    );
    let digest = engine.digest();
    engine.close().expect("it closes");
    let oracle = builder().mode(Mode::Sequential).threads(1).replay(log).expect("it opens");
    assert_eq!(oracle.to_end().expect("it replays"), digest, "{config:?}: one by one");
}

/// Distributes the rounds over windows and modes.
fn check_all(interactive: bool) {
    for (i, window) in WINDOWS.into_iter().enumerate() {
        for mode in MODES {
            let threads = [2, 4, 8, 2, 4][i];
            let writes = crate::rounds().div_ceil(WINDOWS.len() * MODES.len() * COUNTERS);
            check(Config { threads, window, mode }, interactive, writes as i64);
        }
    }
}

#[test]
fn what_a_procedure_wrote_and_was_acknowledged_is_seen_by_all_that_comes_later() {
    check_all(false);
}

#[test]
fn what_an_interactive_transaction_wrote_and_was_acknowledged_is_seen_by_all_that_comes_later() {
    check_all(true);
}
