//! Wakers that panic, which they must not: the engine stops, and every ticket is answered.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use mixlog_engine::{Builder, Engine, Footprint, Mode, Never, OpenError, Procedure, Ticket, TicketError, Tx};
use mixlog_log::{Batch, MemoryLog, SharedLog};
use serde::{Deserialize, Serialize};

const LONG: Duration = Duration::from_secs(60);

/// Tells that it runs, and lasts until it is let go.
#[derive(Serialize, Deserialize)]
struct Hold(u64);

/// Whom it tells that it runs, and what it waits for.
type Held = (mpsc::Sender<()>, mpsc::Receiver<()>);

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
        while RAN_BESIDE.load(Ordering::Relaxed) < 3 && !is_beside() {
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
    Engine::builder().procedure::<Hold>().procedure::<Meet>().threads(2).mode(Mode::Parallel)
}

/// Submits while a window is executed that lasts until then: what is submitted stands in the next one. Then waits for all
/// of it, with wakers that panic on some threads; tells what came of it.
fn wake_all(
    engine: &Engine,
    number: u64,
    panics: fn() -> bool,
    submit: impl FnOnce(&Engine) -> Vec<Ticket<Meet>>,
) -> Vec<Result<(), String>> {
    let ((runs, is_running), (go_on, waits)) = (mpsc::channel(), mpsc::channel());
    HELD.lock().unwrap().insert(number, (runs, waits));
    let hold = engine.submit(&Hold(number)).unwrap();
    is_running.recv().unwrap();
    let mut tickets = submit(engine);
    let waker = Waker::from(Arc::new(Panics(panics)));
    for ticket in &mut tickets {
        assert!(Pin::new(ticket).poll(&mut Context::from_waker(&waker)).is_pending());
    }
    go_on.send(()).unwrap();
    hold.wait().unwrap();
    let outcome = |ticket: Ticket<Meet>| match ticket.wait_timeout(LONG).expect("nobody waits for ever") {
        Ok(outcome) => outcome.committed().ok_or_else(|| "it did not commit".to_owned()),
        Err(TicketError::Stopped(reason)) => Err(reason),
        Err(other) => panic!("{other}"),
    };
    tickets.into_iter().map(outcome).collect()
}

#[test]
fn a_waker_that_panics_on_a_driver_stops_an_engine_that_has_nothing_else_to_do() {
    let engine = builder().open(Arc::new(MemoryLog::new())).unwrap();
    let submit = |engine: &Engine| (0..64).map(|_| engine.submit(&Meet).unwrap()).collect();
    let outcomes = wake_all(&engine, 1, is_beside, submit);
    // That driver had answered one of several.
    let stopped: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(stopped.len() >= 2, "{stopped:?}");
    assert!(stopped.iter().all(|reason| reason.contains("a waker panics")), "{stopped:?}");
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
