//! Procedures and wakers that wait for the engine that waits for them: an error, and nobody hangs.
#![cfg(not(loom))]

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use mixlog_engine::{
    Builder, CommitError, Engine, ExecuteError, Mode, Never, Procedure, SubmitError, Table, Ticket,
    TicketError, Tx,
};
use mixlog_log::{MemoryLog, Position, SharedLog};
use serde::{Deserialize, Serialize};

const COUNTS: Table<u64, u64> = Table::new("counts");
const LONG: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
struct Add(u64);

impl Procedure for Add {
    const NAME: &'static str = "add";
    type Output = u64;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let count = tx.get_or_put(&COUNTS, self.0, || 0);
        *count += 1;
        Ok(*count)
    }
}

static HELD: Mutex<()> = Mutex::new(());

/// Lasts until it is let go.
#[derive(Debug, Serialize, Deserialize)]
struct Hold;

impl Procedure for Hold {
    const NAME: &'static str = "hold";
    type Output = ();
    type Abort = Never;

    fn run(&self, _tx: &mut Tx<'_>) -> Result<(), Never> {
        drop(HELD.lock().unwrap());
        Ok(())
    }
}

fn builder() -> Builder {
    Engine::builder().table(&COUNTS).procedure::<Add>().procedure::<Hold>()
}

/// Calls something where it is woken, once.
struct Call<F>(Mutex<Option<F>>);

impl<F: FnOnce() + Send + 'static> Wake for Call<F> {
    fn wake(self: Arc<Self>) {
        let call = self.0.lock().unwrap().take();
        call.into_iter().for_each(|call| call());
    }
}

/// Calls `woken` in the waker of a transaction of the engine, with an engine that stands still until that is awaited.
fn when_woken<T: Send + 'static>(
    engine: Arc<Engine>,
    woken: impl FnOnce(Arc<Engine>) -> T + Send + 'static,
) -> T {
    let (told, hears) = mpsc::channel();
    let held = HELD.lock().unwrap_or_else(|held| held.into_inner());
    let hold = engine.submit(&Hold).unwrap();
    let mut ticket = engine.submit(&Add(1)).unwrap();
    let called = Arc::clone(&engine);
    let call = move || told.send(woken(called)).unwrap();
    let waker = Waker::from(Arc::new(Call(Mutex::new(Some(call)))));
    assert!(Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker)).is_pending());
    drop((held, hold, engine));
    hears.recv_timeout(LONG).expect("nobody hangs")
}

#[test]
fn a_waker_that_waits_for_its_engine_is_told_so_and_the_engine_goes_on() {
    for (threads, mode) in [(1, Mode::Auto), (2, Mode::Parallel), (2, Mode::Sequential)] {
        let engine =
            Arc::new(builder().threads(threads).mode(mode).open(Arc::new(MemoryLog::new())).unwrap());
        let executed = when_woken(Arc::clone(&engine), |engine| engine.execute(&Add(2)).unwrap_err());
        assert!(matches!(executed, ExecuteError::Submit(SubmitError::WaitsForItself)), "{executed}");

        let committed = when_woken(Arc::clone(&engine), |engine| {
            let mut transaction = engine.begin();
            transaction.put(&COUNTS, 2, 7);
            transaction.commit().unwrap_err()
        });
        assert!(matches!(committed, CommitError::Submit(SubmitError::WaitsForItself)), "{committed}");
        assert_eq!(engine.snapshot().get(&COUNTS, &2), None, "nothing of that was appended");

        let (submitted, timed) = when_woken(Arc::clone(&engine), |engine| {
            let timed = engine.submit(&Add(3)).unwrap().wait_timeout(Duration::MAX);
            let unwaited = engine.submit(&Add(3)).unwrap().wait_timeout(Duration::ZERO).unwrap_err();
            (unwaited.wait().unwrap_err(), timed.unwrap().unwrap_err())
        });
        assert_eq!((submitted, timed), (TicketError::WaitsForItself, TicketError::WaitsForItself));
        assert!(!when_woken(Arc::clone(&engine), |engine| engine.wait_agreed(Position(0), 1, Duration::MAX)));

        // What was submitted there is executed, and a waker may wait for other engines.
        assert_eq!(engine.execute(&Add(3)).unwrap().committed(), Some(3));
        let other = builder().open(Arc::new(MemoryLog::new())).unwrap();
        let others = when_woken(Arc::clone(&engine), move |_| other.execute(&Add(1)).unwrap().committed());
        assert_eq!(others, Some(1));
        let done = engine.submit(&Add(4)).unwrap();
        engine.execute(&Add(4)).unwrap();
        let waited = when_woken(engine, |_| done.wait().unwrap().committed());
        assert_eq!(waited, Some(1));
    }
}

#[test]
fn a_waker_gets_an_error_and_does_not_wait_for_room() {
    let engine = Arc::new(builder().max_in_flight(2).open(Arc::new(MemoryLog::new())).unwrap());
    let submitted = when_woken(Arc::clone(&engine), |engine| {
        (0..3).map(|_| engine.submit(&Add(2)).map(drop)).collect::<Vec<_>>()
    });
    assert!(matches!(submitted[2], Err(SubmitError::WaitsForItself)), "{submitted:?}");
    let taken = submitted.iter().filter(|submitted| submitted.is_ok()).count() as u64;
    assert_eq!(engine.execute(&Add(2)).unwrap().committed(), Some(taken + 1));
}

#[test]
fn a_waker_that_drops_the_engine_does_not_wait_for_its_end() {
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    when_woken(Arc::new(builder().open(Arc::clone(&log)).unwrap()), drop);
    // The engine's own thread lets go of the log when it is done.
    while Arc::strong_count(&log) > 1 {
        thread::yield_now();
    }
    let engine = Arc::new(builder().open(log).unwrap());
    assert_eq!(engine.snapshot().get(&COUNTS, &1), Some(1));
    when_woken(engine, |engine| Arc::into_inner(engine).map(Engine::close)).expect("the last one").unwrap();
}

/// Who is woken since the engine stopped can not hold up its end.
#[test]
fn a_waker_of_a_stopping_engine_may_drop_it() {
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = Arc::new(builder().open(Arc::clone(&log)).unwrap());
    engine.execute(&Add(1)).unwrap();
    let held = HELD.lock().unwrap_or_else(|held| held.into_inner());
    let hold = engine.submit(&Hold).unwrap();
    let mut foreign = mixlog_log::Batch::new();
    foreign.push(b"somebody else's");
    let _ = log.append(&foreign).unwrap();
    let mut ticket = engine.submit(&Add(1)).unwrap();
    let (told, hears) = mpsc::channel();
    let call = move || {
        drop(engine);
        told.send(()).unwrap();
    };
    let waker = Waker::from(Arc::new(Call(Mutex::new(Some(call)))));
    assert!(Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker)).is_pending());
    drop(held);
    hears.recv_timeout(LONG).expect("nobody hangs");
    hold.wait().unwrap();
    assert!(matches!(ticket.wait(), Err(TicketError::Stopped(_))));
}

static CALLED: Mutex<Option<Arc<Engine>>> = Mutex::new(None);
static RAN_HERE: AtomicBool = AtomicBool::new(false);
static CALLER: OnceLock<ThreadId> = OnceLock::new();

/// Tells how it ended to call the engine that runs it.
#[derive(Debug, Serialize, Deserialize)]
struct CallBack;

impl Procedure for CallBack {
    const NAME: &'static str = "call back";
    type Output = (String, String);
    type Abort = Never;

    fn run(&self, _tx: &mut Tx<'_>) -> Result<(String, String), Never> {
        if CALLER.get() == Some(&thread::current().id()) {
            RAN_HERE.store(true, Ordering::Relaxed);
        }
        let engine = CALLED.lock().unwrap().clone().unwrap();
        let executed = engine.execute(&Add(9)).unwrap_err().to_string();
        let submitted: Ticket<Add> = engine.submit(&Add(9)).unwrap();
        Ok((executed, submitted.wait().unwrap_err().to_string()))
    }
}

#[test]
fn a_procedure_that_waits_for_its_engine_is_told_so_on_whatever_thread_it_runs() {
    CALLER.set(thread::current().id()).unwrap();
    for (mode, paranoid) in [(Mode::Auto, 0), (Mode::Parallel, 0), (Mode::Auto, 1), (Mode::Parallel, 1)] {
        let builder = builder().procedure::<CallBack>().threads(2).mode(mode).paranoid(paranoid);
        let engine = Arc::new(builder.open(Arc::new(MemoryLog::new())).unwrap());
        *CALLED.lock().unwrap() = Some(Arc::clone(&engine));
        RAN_HERE.store(false, Ordering::Relaxed);
        let told = TicketError::WaitsForItself.to_string();
        assert!(told.contains("the engine waits for it"), "{told}");
        // The leader takes one now and then.
        while !RAN_HERE.load(Ordering::Relaxed) {
            let ticket = engine.submit(&CallBack).unwrap();
            let outcome = ticket.wait_timeout(LONG).expect("nobody hangs").unwrap();
            assert_eq!(outcome.committed(), Some((told.clone(), told.clone())));
            // Nobody executes here what another thread is at already: what it submitted, to begin with.
            while engine.in_flight() > 0 {
                thread::yield_now();
            }
            let outcome = engine.execute(&CallBack).unwrap();
            assert_eq!(outcome.committed(), Some((told.clone(), told.clone())));
            if mode == Mode::Parallel {
                break;
            }
        }
        *CALLED.lock().unwrap() = None;
    }
}
