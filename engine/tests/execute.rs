//! Transactions executed at once, by threads that wait for them: the results are those of the log, whoever runs what.
#![cfg(not(loom))]

#[path = "support/count.rs"]
mod count;
#[path = "support/replay.rs"]
mod support;

use std::collections::BTreeSet;
use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use count::Count;
use mixlog_engine::{
    Builder, ClientId, CommitError, Engine, ExecuteError, Footprint, Mode, OpenError, Outcome, Position,
    Procedure, Stats, SubmitError, Table, Ticket, TicketError, Tx,
};
use mixlog_log::{
    self as log, AppendError, Batch, Block, Durability, FileLog, LogId, MemoryLog, ReadError, SealError,
    SharedLog, Tail, TailError, TrimError, file,
};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use serde::{Deserialize, Serialize};

use support::{expect_panics, replay};

const COUNTS: Table<u64, Count> = Table::new("counts");

/// Adds one to a row; tells what was there.
#[derive(Debug, Serialize, Deserialize)]
struct Add {
    row: u64,
    amount: u64,
    declares: bool,
}

impl Add {
    const fn one(row: u64) -> Self {
        Self { row, amount: 1, declares: true }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Odd;

impl Procedure for Add {
    const NAME: &'static str = "add";
    type Output = u64;
    type Abort = Odd;

    fn footprint(&self, f: &mut Footprint<'_>) {
        if self.declares {
            f.write(&COUNTS, &self.row);
        } else {
            f.reconnoitre();
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Odd> {
        let before = tx.get(&COUNTS, &self.row).map_or(0, |count| count.0);
        tx.put(&COUNTS, self.row, Count(before + self.amount));
        match self.amount {
            3 => Err(Odd),
            5 => panic!("five is too much"),
            _ => Ok(before),
        }
    }
}

/// Is not the same twice.
#[derive(Debug, Serialize, Deserialize)]
struct Draw;

impl Procedure for Draw {
    const NAME: &'static str = "draw";
    type Output = ();
    type Abort = Odd;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Odd> {
        static DRAWN: AtomicU64 = AtomicU64::new(100);
        tx.put(&COUNTS, 0, Count(DRAWN.fetch_add(1, Ordering::Relaxed)));
        Ok(())
    }
}

static RAN_ON: Mutex<Vec<ThreadId>> = Mutex::new(Vec::new());

/// Notes the thread that it runs on, where no other transaction sees it.
#[derive(Debug, Serialize, Deserialize)]
struct Note;

impl Procedure for Note {
    const NAME: &'static str = "note";
    type Output = ();
    type Abort = Odd;

    fn run(&self, _tx: &mut Tx<'_>) -> Result<(), Odd> {
        RAN_ON.lock().unwrap().push(thread::current().id());
        Ok(())
    }
}

fn builder() -> Builder {
    Engine::builder().table(&COUNTS).procedure::<Add>().procedure::<Draw>().procedure::<Note>().threads(2)
}

fn memory() -> Arc<dyn SharedLog> {
    Arc::new(MemoryLog::new())
}

/// Threads that execute one transaction after another, beside one that submits many and one that reads.
fn crowd(log: &Arc<dyn SharedLog>, builder: Builder, callers: u64, rounds: u64) {
    let engine = builder.open(Arc::clone(log)).unwrap();
    let start = Barrier::new(callers as usize + 2);
    thread::scope(|scope| {
        let seen: Vec<_> = (0..callers)
            .map(|caller| {
                let (engine, start) = (&engine, &start);
                scope.spawn(move || {
                    start.wait();
                    let mut seen = Vec::new();
                    for n in 0..rounds {
                        // A row of its own: nobody else touches it, so each answer is known.
                        let declares = n % 3 > 0;
                        let own = engine.execute(&Add { row: 1000 + caller, amount: 1, declares }).unwrap();
                        assert_eq!(own.committed(), Some(n));
                        // What was acknowledged is seen, here as by everybody.
                        assert_eq!(engine.snapshot().get(&COUNTS, &(1000 + caller)), Some(Count(n + 1)));
                        seen.push(engine.execute(&Add::one(7)).unwrap().committed().unwrap());
                        match n % 16 {
                            3 => {
                                let aborted = engine.execute(&Add { row: n, amount: 3, declares }).unwrap();
                                assert!(matches!(aborted, Outcome::Aborted { reason: Odd, .. }));
                            }
                            5 => {
                                let panicked = engine.execute(&Add { row: n, amount: 5, declares }).unwrap();
                                assert!(matches!(panicked, Outcome::Panicked { message, .. } if
                                    message == "five is too much"));
                            }
                            _ => {}
                        }
                    }
                    seen
                })
            })
            .collect();
        scope.spawn(|| {
            start.wait();
            for burst in 0..rounds / 8 {
                let tickets: Vec<_> =
                    (0..200).map(|n| engine.submit(&Add::one((burst + n) % 97)).unwrap()).collect();
                tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
            }
        });
        start.wait();
        let seen: Vec<u64> = seen.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
        let different: BTreeSet<_> = seen.iter().collect();
        assert_eq!(different.len(), seen.len(), "nobody saw what somebody else did");
    });
    let digest = engine.digest();
    engine.close().unwrap();
    let oracle = self::builder().threads(1).mode(Mode::Sequential);
    assert_eq!(replay(log, oracle).0, digest);
}

#[test]
fn callers_beside_submitters_get_the_results_of_the_log_in_every_mode() {
    expect_panics("five is too much");
    for mode in [Mode::Auto, Mode::Sequential, Mode::Parallel] {
        for (threads, window) in [(1, 1), (2, 7), (2, 256), (4, 64), (8, 4096)] {
            crowd(&memory(), builder().threads(threads).window(window).mode(mode), 3, 80);
        }
    }
    crowd(&memory(), builder().paranoid(1).explain(1), 2, 80);
    // Windows are cut at multiples of 4,096: one caller's share may be several.
    crowd(&memory(), builder(), 1, 3000);
}

#[test]
fn callers_on_files_get_the_results_of_the_log_and_nothing_acknowledged_is_lost() {
    expect_panics("five is too much");
    for durability in [Durability::Flushed, Durability::Buffered] {
        let directory = tempfile::tempdir().unwrap();
        let open = || -> Arc<dyn SharedLog> {
            let config = file::Config { durability, segment_bytes: 16 << 20, ..file::Config::default() };
            Arc::new(FileLog::open(directory.path(), config).unwrap())
        };
        crowd(&open(), builder(), 4, 120);
        let engine = builder().open(open()).unwrap();
        assert_eq!(engine.execute(&Add::one(1000)).unwrap().committed(), Some(120));
        drop(engine);
        let engine = builder().open(open()).unwrap();
        assert_eq!(engine.snapshot().get(&COUNTS, &1000), Some(Count(121)));
    }
}

#[test]
fn a_lone_caller_runs_its_transactions_itself_unless_all_drivers_shall() {
    let ran_here = |mode, tries| {
        let engine = builder().mode(mode).open(memory()).unwrap();
        (0..tries).any(|_| {
            RAN_ON.lock().unwrap().clear();
            engine.execute(&Note).unwrap();
            RAN_ON.lock().unwrap().contains(&thread::current().id())
        })
    };
    // The leader takes one now and then, when it is not back at the log yet.
    for mode in [Mode::Auto, Mode::Sequential] {
        assert!(ran_here(mode, 1_000_000), "{mode}");
    }
    assert!(!ran_here(Mode::Parallel, 100));
}

/// A thread of a pool that waits in rayon goes on with other work of its pool, and the doubles of paranoid mode are waited
/// for in rayon.
#[test]
fn threads_of_a_rayon_pool_do_not_wait_for_what_they_hold_up_themselves() {
    for threads in [1, 2] {
        let engine = Arc::new(builder().paranoid(1).open(memory()).unwrap());
        let (done, is_done) = mpsc::channel();
        let executing = Arc::clone(&engine);
        thread::spawn(move || {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let rows = (0..300u64).into_par_iter();
                rows.for_each(|n| drop(executing.execute(&Add::one(n % 7)).unwrap()));
            });
            done.send(()).unwrap();
        });
        is_done.recv_timeout(Duration::from_secs(60)).expect("nobody hangs");
        let counts = (0..7).map(|row| engine.snapshot().get(&COUNTS, &row).map_or(0, |count| count.0));
        assert_eq!(counts.sum::<u64>(), 300);
    }
}

/// Takes much longer than it takes to wake a driver.
#[derive(Debug, Serialize, Deserialize)]
struct Ponder(u64);

impl Procedure for Ponder {
    const NAME: &'static str = "ponder";
    type Output = u64;
    type Abort = Odd;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&COUNTS, &self.0);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Odd> {
        let thought = (0..300_000u64).fold(self.0, |sum, n| black_box(sum.wrapping_mul(31) ^ n));
        tx.put(&COUNTS, self.0, Count(thought % 1000));
        Ok(thought)
    }
}

#[test]
fn a_long_transaction_alone_is_not_shared_and_says_nothing_of_the_next_windows() {
    let engine = builder().procedure::<Ponder>().mode(Mode::Auto).open(memory()).unwrap();
    (0..20).for_each(|n| drop(engine.execute(&Ponder(n)).unwrap()));
    let stats = engine.stats();
    assert_eq!((stats.mixed_windows, stats.one_by_one.after_serial), (0, 0));
}

static HELD: AtomicBool = AtomicBool::new(true);
static HOLDS: AtomicBool = AtomicBool::new(false);

/// Lasts until it is let go.
#[derive(Debug, Serialize, Deserialize)]
struct Hold;

impl Procedure for Hold {
    const NAME: &'static str = "hold";
    type Output = ();
    type Abort = Odd;

    fn run(&self, _tx: &mut Tx<'_>) -> Result<(), Odd> {
        HOLDS.store(true, Ordering::Release);
        while HELD.load(Ordering::Acquire) {
            thread::yield_now();
        }
        Ok(())
    }
}

/// Asks for statistics where it is woken, if that is on the second driver, and once a transaction after it is committed.
struct Ask {
    engine: Arc<Engine>,
    after: Position,
    is_woken: AtomicBool,
}

impl Wake for Ask {
    fn wake(self: Arc<Self>) {
        if thread::current().name() == Some("mixlog-driver-1") {
            self.is_woken.store(true, Ordering::Release);
            while self.engine.position() < Some(self.after) {
                thread::yield_now();
            }
            assert!(self.engine.stats().transactions >= self.after.0);
        }
    }
}

#[test]
fn whom_a_driver_wakes_may_ask_for_statistics_while_the_next_window_is_executed() {
    let builder = builder().procedure::<Ponder>().procedure::<Hold>().mode(Mode::Auto).window(64);
    let engine = Arc::new(builder.open(memory()).unwrap());
    let mut is_woken = false;
    while !is_woken {
        if engine.stats().one_by_one.crowded > 1000 {
            println!("skipped: on a machine as busy as this one no other driver wakes anybody");
            return;
        }
        // Two full windows, which all drivers share, wait behind this one, which is alone in its own.
        HELD.store(true, Ordering::Release);
        HOLDS.store(false, Ordering::Release);
        let hold = engine.submit(&Hold).unwrap();
        while !HOLDS.load(Ordering::Acquire) {
            thread::yield_now();
        }
        let mut tickets: Vec<_> = (0..128).map(|n| engine.submit(&Ponder(n)).unwrap()).collect();
        let after = Position(engine.log().tail().unwrap().tail.0);
        let ask = Arc::new(Ask { engine: Arc::clone(&engine), after, is_woken: AtomicBool::new(false) });
        let waker = Waker::from(Arc::clone(&ask));
        for ticket in &mut tickets[64..] {
            assert!(Pin::new(ticket).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        HELD.store(false, Ordering::Release);
        hold.wait().unwrap();
        while !tickets.iter().all(Ticket::is_done) && !ask.is_woken.load(Ordering::Acquire) {
            thread::yield_now();
        }
        let last = engine.submit(&Add::one(1000)).unwrap();
        let outcome = last.wait_timeout(Duration::from_secs(60)).expect("nobody hangs").unwrap();
        assert_eq!(outcome.position(), after);
        tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
        is_woken = ask.is_woken.load(Ordering::Acquire);
    }
}

#[test]
fn clients_and_interactive_transactions_are_executed_at_once_too() {
    let engine = builder().open(memory()).unwrap();
    let client = engine.client(ClientId(9));
    let first = client.execute(1, &Add::one(1)).unwrap();
    let again = client.execute(1, &Add::one(1)).unwrap();
    assert_eq!(first.position(), again.position());
    assert_eq!((first.committed(), again.committed()), (Some(0), Some(0)));
    let reused = client.execute(1, &Add::one(2)).unwrap_err();
    assert!(matches!(reused, ExecuteError::Ticket(TicketError::Reused { sequence: 1, .. })), "{reused}");

    let commit = |sequence, amount| {
        let mut transaction = client.begin(sequence);
        let before = transaction.get(&COUNTS, &1).map_or(0, |count| count.0);
        transaction.put(&COUNTS, 1, Count(before + amount));
        transaction.commit()
    };
    commit(2, 10).unwrap();
    assert!(matches!(commit(2, 10), Err(CommitError::CommittedBefore { .. })));
    assert_eq!(engine.snapshot().get(&COUNTS, &1), Some(Count(11)));
}

#[test]
fn whatever_stops_the_engine_is_told_to_the_caller_and_to_who_closes_it() {
    let stopped = |error: ExecuteError| match error {
        ExecuteError::Ticket(TicketError::Stopped(text))
        | ExecuteError::Submit(SubmitError::Stopped(text)) => text,
        other => panic!("{other:?}"),
    };
    for mode in [Mode::Auto, Mode::Sequential, Mode::Parallel] {
        // A panic that is no procedure's.
        expect_panics("too many to count");
        let engine = builder().mode(mode).open(memory()).unwrap();
        engine.execute(&Add::one(1)).unwrap();
        let text =
            stopped(engine.execute(&Add { row: 1, amount: u64::MAX - 1, declares: true }).unwrap_err());
        assert!(text.contains("too many to count"), "{text}");
        let text = stopped(engine.execute(&Add::one(1)).unwrap_err());
        assert!(text.contains("too many to count"), "{text}");
        assert!(engine.digest().position <= Some(Position(2)));
        let closed = engine.close();
        assert!(
            matches!(&closed, Err(OpenError::Panicked(text)) if text.contains("too many to count")),
            "{closed:?}"
        );

        // An entry that is no transaction's, in front of one.
        let log = memory();
        let engine = builder().mode(mode).open(Arc::clone(&log)).unwrap();
        engine.execute(&Add::one(1)).unwrap();
        let mut foreign = Batch::new();
        foreign.push(b"somebody else's");
        let _ = log.append(&foreign).unwrap();
        let text = stopped(engine.execute(&Add::one(1)).unwrap_err());
        assert!(text.contains("position 2"), "{text}");
        assert_eq!(engine.snapshot().get(&COUNTS, &1), Some(Count(1)));
        assert!(matches!(engine.close(), Err(OpenError::Entry { position: Position(2), .. })));

        // A procedure that is not deterministic.
        let engine = builder().mode(mode).paranoid(1).open(memory()).unwrap();
        engine.execute(&Add::one(1)).unwrap();
        let text = stopped(engine.execute(&Draw).unwrap_err());
        assert!(text.contains("\"draw\""), "{text}");
        assert!(matches!(engine.close(), Err(OpenError::NotDeterministic { position: Position(2), .. })));
    }
}

/// A log that panics where the leader waits for entries, once it was armed and somebody appends, who is held up until
/// that has stopped the engine.
struct Breaking {
    log: MemoryLog,
    is_armed: AtomicBool,
    is_broken: AtomicBool,
    has_stopped: AtomicBool,
    /// How often somebody asked for the tail.
    asked: AtomicU64,
}

impl Breaking {
    fn new() -> Arc<Self> {
        let flag = || AtomicBool::new(false);
        Arc::new(Self {
            log: MemoryLog::new(),
            is_armed: flag(),
            is_broken: flag(),
            has_stopped: flag(),
            asked: AtomicU64::new(0),
        })
    }
}

impl SharedLog for Breaking {
    fn append(&self, batch: &Batch) -> Result<log::Ticket, AppendError> {
        if self.is_armed.load(Ordering::Acquire) {
            self.is_broken.store(true, Ordering::Release);
            while !self.has_stopped.load(Ordering::Acquire) {
                thread::yield_now();
            }
        }
        self.log.append(batch)
    }

    fn wait_past(&self, position: Position, timeout: Option<Duration>) -> Result<Tail, ReadError> {
        assert!(!self.is_broken.load(Ordering::Acquire), "the log is broken");
        self.log.wait_past(position, timeout)
    }

    fn read(&self, position: Position) -> Result<Option<Arc<Block>>, ReadError> {
        self.log.read(position)
    }

    fn known_tail(&self) -> Position {
        self.log.known_tail()
    }

    fn tail(&self) -> Result<Tail, TailError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.log.tail()
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

#[test]
fn nobody_asks_for_the_tail_of_a_log_window_by_window() {
    let log = Breaking::new();
    let open = || builder().window(4).open(Arc::<Breaking>::clone(&log)).unwrap();
    let engine = open();
    let tickets: Vec<_> = (0..4_000).map(|_| engine.submit(&Add::one(1)).unwrap()).collect();
    tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
    engine.close().unwrap();
    // On a cluster each answer takes as long as what others append at the time.
    let asked = log.asked.load(Ordering::Relaxed);
    let engine = open();
    assert!(engine.stats().windows >= 1_000, "{:?}", engine.stats());
    assert_eq!(engine.recovery().entries, 4_001);
    engine.close().unwrap();
    let again = log.asked.load(Ordering::Relaxed) - asked;
    assert!(asked < 50 && again < 50, "{asked} and {again} times");
}

#[test]
fn an_engine_whose_log_panics_stops_and_no_caller_executes_anything_in_its_place() {
    expect_panics("the log is broken");
    let log = Breaking::new();
    let engine = builder().open(Arc::<Breaking>::clone(&log)).unwrap();
    engine.execute(&Add::one(1)).unwrap();
    let digest = engine.digest();
    log.is_armed.store(true, Ordering::Release);
    let error = thread::scope(|scope| {
        let caller = scope.spawn(|| engine.execute(&Add::one(1)).unwrap_err());
        while !engine.has_stopped() {
            thread::yield_now();
        }
        log.has_stopped.store(true, Ordering::Release);
        caller.join().unwrap()
    });
    assert!(
        matches!(&error, ExecuteError::Ticket(TicketError::Stopped(text)) if text.contains("the log is broken")),
        "{error:?}"
    );
    assert_eq!((engine.digest(), engine.snapshot().get(&COUNTS, &1)), (digest, Some(Count(1))));
    let error = engine.execute(&Add::one(1)).unwrap_err();
    assert!(matches!(error, ExecuteError::Submit(SubmitError::Stopped(_))), "{error:?}");
    assert!(matches!(engine.close(), Err(OpenError::Panicked(text)) if text.contains("the log is broken")));
}

#[test]
fn what_cannot_be_submitted_is_an_error_at_once() {
    let log = memory();
    let engine = Engine::builder().table(&COUNTS).procedure::<Add>().open(Arc::clone(&log)).unwrap();
    let error = engine.execute(&Note).unwrap_err();
    assert!(matches!(error, ExecuteError::Submit(SubmitError::NotRegistered("note"))), "{error}");
    engine.execute(&Add::one(1)).unwrap();
    log.seal().unwrap();
    let error = engine.execute(&Add::one(1)).unwrap_err();
    assert!(matches!(error, ExecuteError::Submit(SubmitError::Append(_))), "{error}");
    assert_eq!(engine.in_flight(), 0);
    engine.close().unwrap();
}

/// The leader sleeps most of the time, and nobody who executes tells it of entries that others append.
#[test]
fn a_submitter_is_not_forgotten_beside_callers() {
    let engine = builder().open(memory()).unwrap();
    thread::scope(|scope| {
        let caller = scope.spawn(|| {
            (0..20_000).for_each(|_| drop(engine.execute(&Add::one(1)).unwrap()));
        });
        let mut waited = 0;
        while !caller.is_finished() {
            let ticket = engine.submit(&Add::one(2)).unwrap();
            let outcome = ticket.wait_timeout(Duration::from_secs(60)).expect("it is executed");
            assert_eq!(outcome.unwrap().committed(), Some(waited));
            waited += 1;
        }
    });
    assert_eq!(engine.snapshot().get(&COUNTS, &1), Some(Count(20_000)));
}

/// Does something that one driver does quickly, and two do slowly, or the other way round.
#[derive(Debug, Serialize, Deserialize)]
struct Limp {
    row: u64,
    /// The thread that is slow, and how long it takes, in us. All are, when it is empty.
    slow: String,
    micros: u64,
}

impl Procedure for Limp {
    const NAME: &'static str = "limp";
    type Output = ();
    type Abort = Odd;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&COUNTS, &self.row);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Odd> {
        if thread::current().name().is_some_and(|name| name.starts_with(&self.slow)) {
            // Without a processor, of which there may be one.
            thread::sleep(Duration::from_micros(self.micros));
        }
        tx.put(&COUNTS, self.row, Count(1));
        Ok(())
    }
}

/// Runs until more than half of the windows of a while went that way.
fn run_until_mostly(slow: &str, micros: u64, goes: fn(&Stats) -> u64) {
    let builder = builder().procedure::<Limp>().mode(Mode::Auto).window(64).threads(2);
    let engine = builder.open(memory()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let before = engine.stats();
        for _ in 0..20 {
            let limp = |row| Limp { row, slow: slow.to_owned(), micros };
            let tickets: Vec<_> = (0..256).map(|row| engine.submit(&limp(row)).unwrap()).collect();
            tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
        }
        let stats = engine.stats();
        if stats.one_by_one.crowded > 1000 {
            println!("skipped: on a machine as busy as this one windows are not shared anyway");
            return;
        }
        // The other way was tried at least.
        let went = goes(&stats).saturating_sub(goes(&before));
        let windows = stats.windows - before.windows;
        if stats.one_by_one.slower > 0 && went * 2 > windows {
            return;
        }
        assert!(Instant::now() < deadline, "{stats:?}");
    }
}

#[test]
fn windows_go_one_by_one_where_that_is_faster() {
    run_until_mostly("mixlog-driver-1", 200, |stats| stats.sequential_windows);
}

#[test]
fn windows_are_shared_where_that_is_faster() {
    // Or not shared for another reason: other programs may want the processors.
    run_until_mostly("", 100, |stats| stats.windows.saturating_sub(stats.one_by_one.slower));
}
