//! Procedures that are not deterministic: paranoid mode finds and names them. Those that are pass.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use mixlog_engine::{
    Difference, Digest, Engine, Footprint, Mode, OpenError, Outcome, Position, Procedure, Replay, Sum, Table,
    TicketError, Tx,
};
use mixlog_log::{MemoryLog, SharedLog};
use serde::{Deserialize, Serialize};

const ROWS: Table<u64, u64> = Table::new("rows");
const SUMS: Table<u64, Sum> = Table::new("sums");

/// Where a number comes from that is not the same for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Source {
    WallClock,
    Stopwatch,
    Sleep,
    ThreadId,
    ThreadName,
    ThreadLocal,
    HasherOfStd,
    OrderOfHashMap,
    StaticCounter,
    StackAddress,
    HeapAddress,
}

const SOURCES: [Source; 11] = [
    Source::WallClock,
    Source::Stopwatch,
    Source::Sleep,
    Source::ThreadId,
    Source::ThreadName,
    Source::ThreadLocal,
    Source::HasherOfStd,
    Source::OrderOfHashMap,
    Source::StaticCounter,
    Source::StackAddress,
    Source::HeapAddress,
];

static COUNTER: AtomicU64 = AtomicU64::new(0);

fn count() -> u64 {
    COUNTER.fetch_add(1, Ordering::Relaxed)
}

fn mix(sum: u64, byte: u8) -> u64 {
    sum.wrapping_mul(31).wrapping_add(u64::from(byte))
}

impl Source {
    #[expect(clippy::disallowed_types, reason = "what a careless author may use")]
    fn number(self) -> u64 {
        thread_local! {
            static LOCAL: Cell<u64> = Cell::new(count());
        }
        match self {
            Self::WallClock => {
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64
            }
            Self::Stopwatch => {
                let start = Instant::now();
                std::hint::black_box((0..10_000).fold(0u64, |sum, i| std::hint::black_box(sum ^ i)));
                start.elapsed().as_nanos() as u64
            }
            Self::Sleep => {
                let start = Instant::now();
                thread::sleep(Duration::from_micros(50));
                start.elapsed().as_nanos() as u64
            }
            Self::ThreadId => format!("{:?}", thread::current().id()).bytes().fold(0, mix),
            Self::ThreadName => thread::current().name().unwrap_or("").bytes().fold(0, mix),
            Self::ThreadLocal => LOCAL.get(),
            Self::HasherOfStd => RandomState::new().hash_one(7),
            Self::OrderOfHashMap => {
                let map: std::collections::HashMap<u64, ()> = (0..20).map(|i| (i, ())).collect();
                map.keys().fold(0, |sum, &key| mix(sum, key as u8))
            }
            Self::StaticCounter => count(),
            Self::StackAddress => {
                let local = std::hint::black_box(0u64);
                std::hint::black_box(&raw const local).addr() as u64
            }
            Self::HeapAddress => {
                let boxed = std::hint::black_box(Box::new([0u64; 8]));
                std::ptr::from_ref(&*boxed).addr() as u64
            }
        }
    }
}

/// What is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Use {
    Reply,
    Row,
    Key,
    Merge,
    AbortIfOdd,
    PanicIfOdd,
    PanicMessage,
    AbortReason,
    Nothing,
}

/// Adds to a row and, if it is careless, uses a number from somewhere.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Add {
    key: u64,
    careless: Option<(Source, Use)>,
    found_footprint: bool,
}

impl Procedure for Add {
    const NAME: &'static str = "add";
    type Output = u64;
    type Abort = u64;

    fn footprint(&self, f: &mut Footprint<'_>) {
        if self.found_footprint {
            f.reconnoitre();
            return;
        }
        f.write(&ROWS, &self.key).merge(&SUMS, &1);
        if matches!(self.careless, Some((_, Use::Key))) {
            f.write(&ROWS, &1000).write(&ROWS, &1001);
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, u64> {
        let old = tx.get(&ROWS, &self.key).copied().unwrap_or(0);
        tx.put(&ROWS, self.key, old.wrapping_mul(7) + 1);
        tx.merge(&SUMS, 1, 1);
        let Some((source, used)) = self.careless else { return Ok(old) };
        let number = source.number();
        match used {
            Use::Reply => return Ok(number),
            Use::Row => tx.put(&ROWS, self.key, number),
            Use::Key => tx.put(&ROWS, 1000 + number % 2, 1),
            Use::Merge => {
                tx.merge(&SUMS, 1, number as i64);
            }
            Use::AbortIfOdd if number % 2 == 1 => return Err(1),
            Use::PanicIfOdd if number % 2 == 1 => panic!("careless: odd"),
            Use::PanicMessage => panic!("careless: {number}"),
            Use::AbortReason => return Err(number),
            Use::AbortIfOdd | Use::PanicIfOdd | Use::Nothing => {}
        }
        Ok(old)
    }
}

fn careful(key: u64) -> Add {
    Add { key, careless: None, found_footprint: key.is_multiple_of(3) }
}

fn builder() -> mixlog_engine::Builder {
    Engine::builder().table(&ROWS).table(&SUMS).procedure::<Add>()
}

fn quiet() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload().downcast_ref::<String>().map_or("", String::as_str);
        let text = info.payload().downcast_ref::<&str>().copied().unwrap_or(text);
        if !text.starts_with("careless") {
            eprintln!("{info}");
        }
    }));
}

/// A log of careful transactions with a careless one among them, and where that is.
fn log_with(careless: (Source, Use), found_footprint: bool) -> (Arc<MemoryLog>, Position) {
    let log = Arc::new(MemoryLog::new());
    let engine = builder().threads(1).open(log.clone()).unwrap();
    for i in 0..70 {
        drop(engine.submit(&careful(i % 13)).unwrap());
    }
    let call = Add { key: 5, careless: Some(careless), found_footprint };
    let at = engine.submit(&call).unwrap().wait().unwrap().position();
    for i in 0..70 {
        drop(engine.submit(&careful(i % 13)).unwrap());
    }
    engine.close().unwrap();
    (log, at)
}

fn replay(log: &Arc<MemoryLog>, threads: usize, mode: Mode, one_in: u32) -> Replay {
    let builder = builder().threads(threads).mode(mode).window(64).paranoid(one_in);
    builder.replay(log.clone() as Arc<dyn SharedLog>).unwrap()
}

fn everywhere(mut test: impl FnMut(usize, Mode)) {
    for mode in [Mode::Sequential, Mode::Parallel] {
        for threads in [1, 2, 4] {
            test(threads, mode);
        }
    }
}

/// What is found in the log with all transactions run twice: the replay stops right before the careless one, which
/// it names. A number may happen to be the same twice, so there are several tries.
fn found(log: &Arc<MemoryLog>, at: Position, threads: usize, mode: Mode) -> Difference {
    let before = at.previous().unwrap();
    let tries = (0..20).map(|_| {
        let replay = replay(log, threads, mode, 1);
        let what = match replay.to_end() {
            Err(OpenError::NotDeterministic { procedure: "add", position, what }) if position == at => what,
            Ok(_) => return None,
            Err(error) => panic!("{error}, where position {at} was expected"),
        };
        let digest = replay.to(before).unwrap();
        assert_eq!((digest.position, digest.state), (Some(before), replay.snapshot().state_digest()));
        assert_eq!(digest, digest_before(log, at));
        // It stays so.
        assert!(matches!(replay.to_end(), Err(OpenError::NotDeterministic { .. })));
        Some(what)
    });
    tries.flatten().next().unwrap_or_else(|| panic!("{threads} threads, {mode}: none of the tries finds it"))
}

fn digest_before(log: &Arc<MemoryLog>, at: Position) -> Digest {
    replay(log, 1, Mode::Sequential, 0).to(at.previous().unwrap()).unwrap()
}

#[test]
fn numbers_that_are_not_the_same_for_everybody_are_found_wherever_they_come_from() {
    quiet();
    for source in SOURCES {
        let (log, at) = log_with((source, Use::Reply), false);
        everywhere(|threads, mode| {
            let what = found(&log, at, threads, mode);
            assert_eq!(what, Difference::Reply, "{source:?}, {threads} threads, {mode}");
        });
    }
}

#[test]
fn all_that_comes_of_such_a_number_is_found_and_named() {
    quiet();
    for (used, difference) in [
        (Use::Row, Difference::Rows { table: "rows" }),
        (Use::Key, Difference::Rows { table: "rows" }),
        (Use::Merge, Difference::Rows { table: "sums" }),
        (Use::AbortIfOdd, Difference::Ending),
        (Use::PanicIfOdd, Difference::Ending),
        (Use::AbortReason, Difference::Reply),
    ] {
        for found_footprint in [false, true] {
            let (log, at) = log_with((Source::StaticCounter, used), found_footprint);
            everywhere(|threads, mode| {
                let what = found(&log, at, threads, mode);
                assert_eq!(what, difference, "{used:?}, {found_footprint}, {threads} threads, {mode}");
            });
        }
    }
}

#[test]
fn numbers_that_come_to_nothing_are_no_fault() {
    quiet();
    for used in [Use::Nothing, Use::PanicMessage] {
        let (log, _) = log_with((Source::StaticCounter, used), false);
        let expected = replay(&log, 1, Mode::Sequential, 0).to_end().unwrap();
        everywhere(|threads, mode| {
            let replay = replay(&log, threads, mode, 1);
            assert_eq!(replay.to_end().unwrap(), expected, "{used:?}");
            assert!(replay.stats().run_twice >= 141);
        });
    }
}

#[test]
fn a_live_engine_stops_before_the_transaction_and_its_ticket_says_why() {
    quiet();
    everywhere(|threads, mode| {
        let log = Arc::new(MemoryLog::new());
        let engine = builder().threads(threads).mode(mode).paranoid(1).open(log.clone()).unwrap();
        for i in 0..200 {
            drop(engine.submit(&careful(i)).unwrap());
        }
        let call = Add { key: 1, careless: Some((Source::StaticCounter, Use::Row)), found_footprint: false };
        let last = engine.submit(&careful(1)).unwrap();
        let careless = engine.submit(&call).unwrap();
        let Outcome::Committed { position: last, .. } = last.wait().unwrap() else { panic!("it commits") };
        let Err(TicketError::Stopped(text)) = careless.wait() else { panic!("it cannot be executed") };
        assert_eq!(
            text,
            format!(
                "procedure \"add\" is not deterministic: run twice at position {}, it made two different changes to \
                 table \"rows\"",
                last.next()
            )
        );
        let digest = engine.digest();
        assert_eq!((digest.position, digest.state), (Some(last), engine.snapshot().state_digest()));
        assert!(engine.submit(&careful(1)).is_err());
        assert!(matches!(engine.close(), Err(OpenError::NotDeterministic { .. })));
        // Nobody else is stopped by what is in the log.
        assert!(matches!(builder().paranoid(1).open(log.clone()), Err(OpenError::NotDeterministic { .. })));
        let engine = builder().threads(threads).mode(mode).open(log).unwrap();
        assert!(engine.submit(&careful(1)).unwrap().wait().is_ok());
    });
}

#[test]
fn a_sample_is_the_same_for_everybody_and_about_as_large_as_asked() {
    quiet();
    let log = Arc::new(MemoryLog::new());
    let engine = builder().open(log.clone()).unwrap();
    let tickets: Vec<_> = (0..4000).map(|i| engine.submit(&careful(i % 50)).unwrap()).collect();
    tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
    engine.close().unwrap();
    let expected = replay(&log, 1, Mode::Sequential, 0);
    let digest = expected.to_end().unwrap();
    assert_eq!(expected.stats().run_twice, 0);
    for one_in in [1u32, 2, 10, 100] {
        let mut sampled = None;
        everywhere(|threads, mode| {
            let replay = replay(&log, threads, mode, one_in);
            assert_eq!(replay.to_end().unwrap(), digest);
            let stats = replay.stats();
            if stats.replays == 0 {
                assert_eq!(*sampled.get_or_insert(stats.run_twice), stats.run_twice, "one in {one_in}");
            }
        });
        let (sampled, wanted) = (sampled.unwrap(), 4000 / u64::from(one_in));
        assert!((wanted / 2..=wanted * 2).contains(&sampled), "{sampled} instead of {wanted}");
    }
}

/// Notes what the engine gives to procedures that need a clock or chance.
#[derive(Debug, Serialize, Deserialize)]
struct Draw {
    key: u64,
    found_footprint: bool,
}

impl Procedure for Draw {
    const NAME: &'static str = "draw";
    type Output = (u64, u64, u64);
    type Abort = u64;

    fn footprint(&self, f: &mut Footprint<'_>) {
        if self.found_footprint {
            f.reconnoitre();
        } else {
            f.write(&ROWS, &self.key);
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(u64, u64, u64), u64> {
        let (first, second) = (tx.random(), tx.random());
        assert_ne!(first, second);
        tx.put(&ROWS, self.key, first ^ tx.time_us());
        if second % 10 == 0 { Err(second) } else { Ok((first, second, tx.time_us())) }
    }
}

#[test]
fn time_and_random_numbers_of_a_transaction_are_the_same_in_every_run() {
    let builder = || builder().procedure::<Draw>();
    let log = Arc::new(MemoryLog::new());
    let engine = builder().threads(2).mode(Mode::Parallel).window(64).open(log.clone()).unwrap();
    let tickets: Vec<_> = (0..1000)
        .map(|i| engine.submit(&Draw { key: i % 70, found_footprint: i % 2 == 0 }).unwrap())
        .collect();
    let mut drawn = std::collections::BTreeSet::new();
    for ticket in tickets {
        if let Outcome::Committed { output: (first, second, time_us), .. } = ticket.wait().unwrap() {
            assert!(time_us > 0 && drawn.insert(first) && drawn.insert(second), "drawn twice");
        }
    }
    assert!(drawn.len() > 1500);
    let digest = engine.digest();
    engine.close().unwrap();
    everywhere(|threads, mode| {
        for one_in in [0, 1, 3] {
            let builder = builder().threads(threads).mode(mode).window(33).paranoid(one_in);
            assert_eq!(builder.replay(log.clone()).unwrap().to_end().unwrap(), digest);
        }
    });
}
