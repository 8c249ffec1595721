//! Threads that do at random what callers can do, on engines and logs that are drawn at random, until the engine is closed,
//! its log is sealed, or something in it breaks: whoever executes what, the log's order decides, and nobody hangs.
//! `MIXLOG_SEEDS=N` runs N times as many seeds, `MIXLOG_SEED=N` this one.
#![cfg(not(loom))]

#[path = "support/count.rs"]
mod count;
#[path = "support/draw.rs"]
mod draw;
#[path = "support/random.rs"]
mod random;
#[path = "support/replay.rs"]
mod replay;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use count::Count;
use draw::Draw;
use mixlog_engine::checkpoint::{self, CheckpointError};
use mixlog_engine::{
    Builder, ClientId, CommitError, Engine, ExecuteError, Footprint, Mode, Never, Outcome, Position,
    Procedure, SubmitError, Table, Ticket, TicketError, Tx,
};
use mixlog_log::{Batch, Durability, FileLog, MemoryLog, SharedLog, file};
use replay::{expect_panics, replay};
use serde::{Deserialize, Serialize};

/// Seeds that found something.
const REGRESSIONS: &[u64] = &[];

/// Longer than a seed takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

const COUNTS: Table<u64, Count> = Table::new("counts");
/// What was moved to and from each; nothing in all.
const BALANCES: Table<u64, i64> = Table::new("balances");
const SHELF: Table<u64, u64> = Table::new("shelf").ordered();

/// Rows that everybody uses, and the first row of the threads' own.
const SHARED: u64 = 20;
const OWN: u64 = 1000;

/// What a call says of what it will touch.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Says {
    All,
    Nothing,
    SomethingElse,
}

/// Adds to a row; tells what was there.
#[derive(Debug, Serialize, Deserialize)]
struct Add {
    row: u64,
    amount: u64,
    says: Says,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Odd;

impl Procedure for Add {
    const NAME: &'static str = "add";
    type Output = u64;
    type Abort = Odd;

    fn footprint(&self, f: &mut Footprint<'_>) {
        match self.says {
            Says::All => f.write(&COUNTS, &self.row),
            Says::Nothing => f.reconnoitre(),
            Says::SomethingElse => f.write(&COUNTS, &(self.row + 1)),
        };
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Odd> {
        let before = tx.get(&COUNTS, &self.row).map_or(0, |count| count.0);
        tx.put(&COUNTS, self.row, Count(before.saturating_add(self.amount)));
        match self.amount {
            3 => Err(Odd),
            5 => panic!("drawn to panic"),
            _ => Ok(before),
        }
    }
}

/// Moves one, and puts a row on the shelf or takes it away.
#[derive(Debug, Serialize, Deserialize)]
struct Move {
    from: u64,
    to: u64,
}

impl Procedure for Move {
    const NAME: &'static str = "move";
    type Output = bool;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<bool, Never> {
        *tx.get_or_put(&BALANCES, self.from, || 0) -= 1;
        *tx.get_or_put(&BALANCES, self.to, || 0) += 1;
        let was_there = tx.delete(&SHELF, &self.to);
        if !was_there {
            tx.put(&SHELF, self.to, tx.position().0);
        }
        Ok(was_there)
    }
}

impl Draw {
    fn add(&mut self, row: u64) -> Add {
        let says = self.one_of(&[Says::All, Says::All, Says::Nothing, Says::SomethingElse]);
        Add { row, amount: 1, says }
    }
}

/// What ends the engine while threads use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing: it is closed when they are done, with transactions on the way.
    Closed,
    Sealed,
    /// A row that panics where no procedure runs.
    Panic,
    /// An entry that is nobody's.
    Foreign,
}

fn registered() -> Builder {
    let builder = Engine::builder().table(&COUNTS).table(&BALANCES).table(&SHELF);
    builder.procedure::<Add>().procedure::<Move>()
}

fn builder(draw: &mut Draw, checkpoints: &checkpoint::Config) -> Builder {
    registered()
        .threads(draw.one_of(&[1, 2, 2, 3, 4]))
        .window(draw.one_of(&[1, 2, 7, 64, 256, 4096]))
        .mode(draw.one_of(&[Mode::Auto, Mode::Auto, Mode::Sequential, Mode::Parallel]))
        .paranoid(draw.one_of(&[0, 0, 1, 3]))
        .explain(draw.one_of(&[0, 0, 1]))
        .retain(draw.one_of(&[0, 0, 50]))
        .max_in_flight(draw.one_of(&[1, 3, 1 << 20, 1 << 20]))
        .checkpoints(checkpoints.clone())
}

fn oracle(checkpoints: &checkpoint::Config) -> Builder {
    registered().threads(1).mode(Mode::Sequential).checkpoints(checkpoints.clone())
}

/// Unparks whoever awaits a ticket.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<P: Procedure>(ticket: Ticket<P>) -> Result<Outcome<P>, TicketError> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut ticket = pin!(ticket);
    loop {
        if let Poll::Ready(outcome) = ticket.as_mut().poll(&mut Context::from_waker(&waker)) {
            return outcome;
        }
        thread::park();
    }
}

/// The engine stopped, or its log takes nothing any more.
#[derive(Debug)]
struct Ended;

impl From<SubmitError> for Ended {
    fn from(error: SubmitError) -> Self {
        assert!(matches!(error, SubmitError::Stopped(_) | SubmitError::Append(_)), "{error}");
        Self
    }
}

impl From<TicketError> for Ended {
    fn from(error: TicketError) -> Self {
        assert!(matches!(error, TicketError::Stopped(_)), "{error}");
        Self
    }
}

impl From<ExecuteError> for Ended {
    fn from(error: ExecuteError) -> Self {
        match error {
            ExecuteError::Submit(error) => error.into(),
            ExecuteError::Ticket(error) => error.into(),
        }
    }
}

/// One of the threads.
struct Caller<'a> {
    engine: &'a Engine,
    number: u64,
    draw: Draw,
    /// How often it added to its own row.
    added: u64,
    /// Its number as a client.
    sequence: u64,
    last: Option<Position>,
    /// Nobody waited for them.
    left: Vec<Ticket<Add>>,
}

impl Caller<'_> {
    fn own(&self) -> u64 {
        OWN + self.number * 10
    }

    fn execute<P: Procedure>(&mut self, procedure: &P) -> Result<Outcome<P>, Ended> {
        let outcome = self.engine.execute(procedure)?;
        assert!(self.last < Some(outcome.position()), "submissions of one thread keep their order");
        self.last = Some(outcome.position());
        Ok(outcome)
    }

    fn add_to_own(&mut self) -> Result<(), Ended> {
        let add = self.draw.add(self.own());
        let outcome = self.execute(&add)?;
        assert_eq!(outcome.committed(), Some(self.added), "nobody else adds to it");
        self.added += 1;
        let seen = self.engine.snapshot().get(&COUNTS, &self.own());
        assert_eq!(seen, Some(Count(self.added)), "what was acknowledged is seen");
        Ok(())
    }

    fn step(&mut self) -> Result<(), Ended> {
        let engine = self.engine;
        let shared = self.draw.below(SHARED);
        match self.draw.below(24) {
            0..7 => self.add_to_own()?,
            7..10 => {
                let to = self.draw.below(SHARED);
                self.execute(&Move { from: shared, to })?;
            }
            10 => {
                let failing = Add { amount: self.draw.one_of(&[3, 5]), ..self.draw.add(shared) };
                let outcome = self.execute(&failing)?;
                assert!(outcome.committed().is_none());
            }
            11..13 => {
                let many = 1 + self.draw.below(100);
                let tickets: Result<Vec<_>, _> =
                    (0..many).map(|_| engine.submit(&self.draw.add(shared))).collect();
                let mut last = None;
                for ticket in tickets? {
                    let before = ticket.wait()?.committed();
                    assert!(before.is_some() && last < before, "each sees the one before");
                    last = before;
                }
            }
            13 => {
                for _ in 0..self.draw.below(30) {
                    self.left.push(engine.submit(&self.draw.add(shared))?);
                }
            }
            14 => {
                let outcome = block_on(engine.submit(&self.draw.add(shared))?)?;
                assert!(outcome.committed().is_some());
            }
            15..17 => {
                let mut transaction = engine.begin();
                let count = |count: Option<&Count>| count.map_or(0, |count| count.0);
                let before = count(transaction.get(&COUNTS, &(self.own() + 1)));
                let _ = transaction.get(&BALANCES, &shared);
                let shelved = transaction.range(&SHELF, ..shared).count() as u64;
                transaction.put(&COUNTS, self.own() + 1, Count(before + 1));
                // Others may get in between, and so may this thread.
                if self.draw.below(2) == 0 {
                    self.add_to_own()?;
                    assert_eq!(transaction.range(&SHELF, ..shared).count() as u64, shelved);
                }
                match transaction.commit() {
                    Ok(_) => {
                        let after = engine.snapshot().get(&COUNTS, &(self.own() + 1));
                        assert_eq!(after, Some(Count(before + 1)));
                    }
                    Err(CommitError::Conflict { .. }) => {}
                    Err(CommitError::Submit(error)) => return Err(error.into()),
                    Err(CommitError::Ticket(error)) => return Err(error.into()),
                    Err(error) => panic!("{error}"),
                }
            }
            17 => {
                self.sequence += 1;
                let client = engine.client(ClientId(self.number));
                let add = self.draw.add(shared);
                let first = client.execute(self.sequence, &add)?;
                let again = client.execute(self.sequence, &add)?;
                assert_eq!(first.position(), again.position());
                assert_eq!(first.committed(), again.committed());
            }
            18..20 => {
                let snapshot = engine.snapshot();
                let digest = snapshot.state_digest();
                let mut all = 0;
                snapshot.for_each(&BALANCES, |_, balance| all += balance);
                assert_eq!(all, 0);
                let mut rows = Vec::new();
                for row in snapshot.range(&SHELF, ..) {
                    rows.push(row);
                    self.execute(&Move { from: shared, to: row.0 })?;
                }
                assert!(snapshot.range(&SHELF, ..).eq(rows));
                snapshot.for_each(&BALANCES, |_, _| {
                    // Whether it ends here is seen below.
                    let _ = self.engine.execute(&Move { from: shared, to: 3 });
                });
                assert_eq!(snapshot.state_digest(), digest);
            }
            20 => match engine.checkpoint() {
                Ok(_) | Err(CheckpointError::Nowhere) => {}
                Err(error) => {
                    let is_sealed = engine.log().tail().is_ok_and(|tail| tail.sealed);
                    assert!(is_sealed || engine.has_stopped(), "{error}");
                }
            },
            21 => {
                let (stats, digest) = (engine.stats(), engine.digest());
                assert!(
                    stats.transactions <= digest.position.map_or(0, |last| last.0 + 1)
                        || engine.has_stopped()
                );
                drop((engine.explain(), engine.memory(), engine.retained()));
            }
            22 if self.draw.below(8) == 0 => {
                engine.pad()?;
            }
            _ => {
                let procedure = self.draw.add(shared);
                thread::scope(|scope| {
                    let small = thread::Builder::new().stack_size(256 << 10);
                    let executed = small.spawn_scoped(scope, || engine.execute(&procedure));
                    executed.unwrap().join().unwrap()
                })?;
            }
        }
        Ok(())
    }

    fn end(&mut self, end: End) -> Result<(), Ended> {
        match end {
            End::Closed => {}
            End::Sealed => drop(self.engine.log().seal()),
            End::Panic => {
                let _ = self.engine.execute(&Add { row: 7, amount: u64::MAX, says: Says::All })?;
            }
            End::Foreign => {
                let mut batch = Batch::new();
                batch.push(b"nobody's");
                let _ = self.engine.log().append_and_write(&batch);
            }
        }
        Ok(())
    }

    fn run(&mut self, steps: u64, end: End, ends: bool) -> Result<(), Ended> {
        let at = if ends { self.draw.below(steps) } else { steps };
        for step in 0..steps {
            if step == at {
                self.end(end)?;
            }
            // Where rows panic, so does who looks at them.
            let stepped = catch_unwind(AssertUnwindSafe(|| self.step()));
            match stepped {
                Ok(stepped) => stepped?,
                Err(_) if end == End::Panic => return Err(Ended),
                Err(panic) => resume_unwind(panic),
            }
        }
        Ok(())
    }
}

fn open(draw: &mut Draw) -> Box<dyn Fn() -> Arc<dyn SharedLog>> {
    if draw.below(3) == 0 {
        let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
        return Box::new(move || Arc::clone(&log));
    }
    let directory = tempfile::tempdir().unwrap();
    let config = file::Config {
        durability: draw.one_of(&[Durability::Flushed, Durability::Buffered]),
        segment_bytes: 160 << 10,
        max_batch_bytes: 64 << 10,
        queue_bytes: draw.one_of(&[0, 1 << 10, 64 << 10, 1 << 20]),
        group_bytes: draw.one_of(&[1, 1 << 10, 64 << 10]),
        cache_bytes: draw.one_of(&[0, 4 << 10, 1 << 20]),
        ..file::Config::default()
    };
    Box::new(move || Arc::new(FileLog::open(directory.path().join("log"), config.clone()).unwrap()))
}

fn run(seed: u64) {
    let mut draw = Draw(seed);
    let open = open(&mut draw);
    let end = draw.one_of(&[End::Closed, End::Closed, End::Sealed, End::Panic, End::Foreign]);
    let checkpoints = checkpoint::Config {
        every_bytes: draw.one_of(&[None, Some(4 << 10), Some(32 << 10)]),
        trim: draw.below(2) == 0,
        ..checkpoint::Config::default()
    };
    let threads = 1 + draw.below(5);
    let steps = 1 + draw.below(40);
    let log = open();
    let engine = builder(&mut draw, &checkpoints).open(Arc::clone(&log)).unwrap();
    let ending = draw.below(threads);
    let mut left = Vec::new();
    thread::scope(|scope| {
        let callers: Vec<_> = (0..threads)
            .map(|number| {
                let mut caller = Caller {
                    engine: &engine,
                    number,
                    draw: Draw(seed.wrapping_mul(1000).wrapping_add(number)),
                    added: 0,
                    sequence: 0,
                    last: None,
                    left: Vec::new(),
                };
                scope.spawn(move || {
                    let done = caller.run(steps, end, number == ending);
                    assert!(done.is_ok() || end != End::Closed, "nothing stopped it");
                    caller.left
                })
            })
            .collect();
        left.extend(callers.into_iter().flat_map(|caller| caller.join().unwrap()));
    });
    let digest = if end == End::Closed {
        let digest = engine.digest();
        engine.close().unwrap();
        left.into_iter().for_each(|ticket| drop(ticket.wait()));
        // Further than that there may be a checkpoint, and no log before it.
        checkpoints.every_bytes.is_none().then_some(digest)
    } else {
        left.into_iter().for_each(|ticket| drop(ticket.wait()));
        let digest = engine.digest();
        let closed = engine.close();
        assert_eq!(closed.is_ok(), end == End::Sealed, "{closed:?}");
        Some(digest)
    };
    if let Some(digest) = digest
        && let Some(position) = digest.position
    {
        let replay = oracle(&checkpoints).replay(Arc::clone(&log)).unwrap();
        assert_eq!(replay.to(position).unwrap(), digest);
        assert_eq!(replay.snapshot().state_digest(), digest.state);
    }
    if matches!(end, End::Closed | End::Sealed) {
        drop(log);
        let log = open();
        let (expected, _) = replay(&log, oracle(&checkpoints));
        let engine = builder(&mut draw, &checkpoints).open(log).unwrap();
        assert_eq!(engine.digest(), expected);
        for row in (0..threads).map(|number| OWN + number * 10).filter(|_| end == End::Closed) {
            let before = engine.snapshot().get(&COUNTS, &row).map_or(0, |count| count.0);
            let added = engine.execute(&Add { row, amount: 1, says: Says::All }).unwrap();
            assert_eq!(added.committed(), Some(before));
        }
    }
}

#[test]
fn whatever_callers_do_at_random_the_log_decides_and_nobody_hangs() {
    for text in ["too many to count", "drawn to panic"] {
        expect_panics(text);
    }
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds: Vec<_> = match number("MIXLOG_SEED") {
        Some(seed) => vec![seed],
        None => REGRESSIONS.iter().copied().chain(0..60 * number("MIXLOG_SEEDS").unwrap_or(1)).collect(),
    };
    for seed in seeds {
        let (done, is_done) = mpsc::channel();
        let run = thread::spawn(move || {
            run(seed);
            done.send(()).unwrap();
        });
        match is_done.recv_timeout(PATIENCE) {
            Ok(()) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                panic!("seed {seed}: {:?}", run.join().map_err(drop))
            }
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("seed {seed} hangs"),
        }
    }
}
