//! Wakers that panic, which they must not: the engine stops, and every ticket is answered.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, RawWaker, RawWakerVTable, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use mixlog_engine::{Builder, Engine, Footprint, Mode, Never, OpenError, Procedure, Ticket, TicketError, Tx};
use mixlog_log::{Batch, MemoryLog, SharedLog};
use serde::{Deserialize, Serialize};

const LONG: Duration = Duration::from_secs(60);

/// Tells that it runs, and lasts until it is let go.
#[derive(Serialize, Deserialize)]
struct Hold(u64);

/// Whom it tells that it runs, and what it waits for.
type Held = (mpsc::Sender<()>, mpsc::Receiver<()>);

/// By the number of who lasts.
static HELD: Mutex<BTreeMap<u64, Held>> = Mutex::new(BTreeMap::new());

impl Procedure for Hold {
    const NAME: &'static str = "hold";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, _: &mut Footprint<'_>) {}

    fn run(&self, _: &mut Tx<'_>) -> Result<(), Never> {
        let (runs, go_on) = HELD.lock().unwrap().remove(&self.0).expect("somebody holds it");
        runs.send(()).unwrap();
        go_on.recv().unwrap();
        Ok(())
    }
}

/// How many of [`Meet`] the second driver ran.
static RAN_BESIDE: AtomicU32 = AtomicU32::new(0);

/// Runs on both drivers: the first one waits until the second one has run some.
#[derive(Serialize, Deserialize)]
struct Meet;

impl Procedure for Meet {
    const NAME: &'static str = "meet";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, _: &mut Footprint<'_>) {}

    fn run(&self, _: &mut Tx<'_>) -> Result<(), Never> {
        if is_beside() {
            RAN_BESIDE.fetch_add(1, Ordering::Relaxed);
        }
        let begun = Instant::now();
        while RAN_BESIDE.load(Ordering::Relaxed) < 3 && !is_beside() {
            assert!(begun.elapsed() < LONG, "the second driver runs none");
            thread::yield_now();
        }
        Ok(())
    }
}

/// Whether this is the second driver.
fn is_beside() -> bool {
    rayon::current_thread_index() == Some(1)
}

/// Panics on some threads.
struct Panics(fn() -> bool);

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        assert!(!(self.0)(), "a waker panics");
    }
}

fn builder() -> Builder {
    Engine::builder()
        .procedure::<Hold>()
        .procedure::<Meet>()
        .procedure::<Pass>()
        .threads(2)
        .mode(Mode::Parallel)
}

/// Does nothing.
#[derive(Serialize, Deserialize)]
struct Pass;

impl Procedure for Pass {
    const NAME: &'static str = "pass";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, _: &mut Footprint<'_>) {}

    fn run(&self, _: &mut Tx<'_>) -> Result<(), Never> {
        Ok(())
    }
}

/// Has a window executed that lasts until the returned function is called: what is submitted before stands in the next one.
fn hold(engine: &Engine, number: u64) -> impl FnOnce() + use<> {
    let ((runs, is_running), (go_on, waits)) = (mpsc::channel(), mpsc::channel());
    HELD.lock().unwrap().insert(number, (runs, waits));
    let hold = engine.submit(&Hold(number)).unwrap();
    is_running.recv().unwrap();
    move || {
        go_on.send(()).unwrap();
        hold.wait().unwrap();
    }
}

/// Asks for the outcome, which is not there yet.
fn wait_with<P: Procedure>(ticket: &mut Ticket<P>, wake: Arc<impl Wake + Send + Sync + 'static>) {
    assert!(Pin::new(ticket).poll(&mut Context::from_waker(&Waker::from(wake))).is_pending());
}

fn outcome<P: Procedure>(ticket: Ticket<P>) -> Result<(), String> {
    match ticket.wait_timeout(LONG).expect("nobody waits for ever") {
        Ok(outcome) => {
            assert!(outcome.committed().is_some(), "it commits");
            Ok(())
        }
        Err(TicketError::Stopped(reason)) => Err(reason),
        Err(other) => panic!("{other}"),
    }
}

/// Waits for transactions of one window with wakers that panic on some threads; tells what came of them.
fn wake_all(
    engine: &Engine,
    number: u64,
    panics: fn() -> bool,
    submit: impl FnOnce(&Engine) -> Vec<Ticket<Meet>>,
) -> Vec<Result<(), String>> {
    let let_go = hold(engine, number);
    let mut tickets = submit(engine);
    let waker = Arc::new(Panics(panics));
    tickets.iter_mut().for_each(|ticket| wait_with(ticket, Arc::clone(&waker)));
    let_go();
    tickets.into_iter().map(outcome).collect()
}

/// Calls something.
struct Call<F>(F);

impl<F: Fn() + Send + Sync + 'static> Wake for Call<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

#[test]
fn who_is_woken_first_finds_all_outcomes_of_the_window() {
    let engine = builder().threads(1).open(Arc::new(MemoryLog::new())).unwrap();
    let let_go = hold(&engine, 3);
    let tickets: Vec<_> = (0..100).map(|_| engine.submit(&Pass).unwrap()).collect();
    let tickets = Arc::new(Mutex::new(tickets));
    let ((told, hears), looks_at) = (mpsc::channel(), Arc::clone(&tickets));
    let told = Mutex::new(Some(told));
    let look = Arc::new(Call(move || {
        // The first one only.
        if let Some(told) = told.lock().unwrap().take() {
            let mut ignored = Context::from_waker(Waker::noop());
            let mut tickets = looks_at.lock().unwrap();
            let there = tickets.iter_mut().map(|ticket| Pin::new(ticket).poll(&mut ignored).is_ready());
            told.send(there.filter(|is_there| *is_there).count()).unwrap();
        }
    }));
    tickets.lock().unwrap().iter_mut().for_each(|ticket| wait_with(ticket, Arc::clone(&look)));
    let_go();
    assert_eq!(hears.recv_timeout(LONG).expect("somebody is woken"), 100);
}

#[test]
fn a_waker_that_panics_keeps_nobody_from_being_woken() {
    for (threads, mode) in [(1, Mode::Auto), (2, Mode::Parallel), (2, Mode::Sequential)] {
        let engine = builder().threads(threads).mode(mode).open(Arc::new(MemoryLog::new())).unwrap();
        let let_go = hold(&engine, 4);
        let mut tickets: Vec<_> = (0..100).map(|_| engine.submit(&Pass).unwrap()).collect();
        let (told, hears) = mpsc::channel();
        for (n, ticket) in tickets.iter_mut().enumerate() {
            let told = told.clone();
            wait_with(
                ticket,
                Arc::new(Call(move || {
                    assert!(n % 10 != 3, "a waker panics");
                    told.send(n).unwrap();
                })),
            );
        }
        let_go();
        let mut woken: Vec<_> =
            (0..90).map(|_| hears.recv_timeout(LONG).expect("everybody is woken")).collect();
        woken.sort_unstable();
        woken.dedup();
        assert_eq!(woken.len(), 90);
        assert_eq!(tickets.into_iter().map(outcome).collect::<Vec<_>>(), vec![Ok(()); 100]);
        assert!(matches!(engine.close(), Err(OpenError::Panicked(text)) if text.contains("a waker panics")));
    }
}

#[test]
fn a_waker_that_panics_when_it_is_copied_leaves_the_ticket_as_it_was() {
    static COPIED: AtomicU32 = AtomicU32::new(0);
    const VTABLE: RawWakerVTable = RawWakerVTable::new(
        |_| {
            assert!(COPIED.fetch_add(1, Ordering::Relaxed) > 0, "a waker that cannot be copied");
            RawWaker::new(std::ptr::null(), &VTABLE)
        },
        |_| {},
        |_| {},
        |_| {},
    );
    let engine = builder().open(Arc::new(MemoryLog::new())).unwrap();
    let let_go = hold(&engine, 5);
    let mut ticket = engine.submit(&Pass).unwrap();
    // SAFETY: there is nothing behind the pointer, and nothing looks there.
    let waker = unsafe { Waker::new(std::ptr::null(), &VTABLE) };
    let mut context = Context::from_waker(&waker);
    let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut ticket).poll(&mut context).is_pending()));
    assert!(polled.is_err());
    assert!(Pin::new(&mut ticket).poll(&mut context).is_pending());
    let_go();
    assert_eq!(outcome(ticket), Ok(()));
    engine.close().unwrap();
}

#[test]
fn a_waker_that_panics_on_a_driver_stops_an_engine_that_has_nothing_else_to_do() {
    let engine = builder().open(Arc::new(MemoryLog::new())).unwrap();
    let submit = |engine: &Engine| (0..64).map(|_| engine.submit(&Meet).unwrap()).collect();
    let outcomes = wake_all(&engine, 1, is_beside, submit);
    // That driver had handed over all of its own.
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let begun = Instant::now();
    while !engine.has_stopped() {
        assert!(begun.elapsed() < LONG, "it never stops");
        thread::yield_now();
    }
    assert!(matches!(engine.close(), Err(OpenError::Panicked(text)) if text.contains("a waker panics")));
}

#[test]
fn wakers_that_panic_when_an_engine_stops_keep_no_answer_from_others() {
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = builder().open(Arc::clone(&log)).unwrap();
    let outcomes = wake_all(
        &engine,
        2,
        || true,
        |engine| {
            let mut foreign = Batch::new();
            foreign.push(b"somebody else's");
            log.append(&foreign).unwrap().wait().unwrap();
            (0..64).map(|_| engine.submit(&Meet).unwrap()).collect()
        },
    );
    let is_foreign =
        |outcome: &Result<(), String>| outcome.as_ref().is_err_and(|why| why.contains("position 2"));
    assert!(outcomes.iter().all(is_foreign), "{outcomes:?}");
    assert!(matches!(engine.close(), Err(OpenError::Entry { .. })));
}
