//! What the engine says when something is wrong, and that it does not hang.

mod stack;
mod unreadable;
mod wakers;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mixlog_engine::{
    Engine, Footprint, Mode, Never, OpenError, Outcome, Procedure, SubmitError, Table, TicketError, Tx,
    checkpoint,
};
use mixlog_log::file::{FsStorage, Storage};
use mixlog_log::{Batch, MemoryLog, SharedLog};
use serde::{Deserialize, Serialize};

const NUMBERS: Table<u64, Number> = Table::new("numbers");

/// A row that cannot be copied when it is 13 (undo copies), nor serialized when it is 17 (digests do).
#[derive(Debug, PartialEq, Deserialize)]
struct Number(u64);

impl Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert_ne!(self.0, 17, "seventeen cannot be serialized");
        self.0.serialize(serializer)
    }
}

impl Clone for Number {
    fn clone(&self) -> Self {
        assert_ne!(self.0, 13, "thirteen cannot be copied");
        Self(self.0)
    }
}

#[derive(Serialize, Deserialize)]
struct Set(u64, u64);

impl Procedure for Set {
    const NAME: &'static str = "set";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&NUMBERS, &self.0);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&NUMBERS, self.0, Number(self.1));
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Other;

impl Procedure for Other {
    const NAME: &'static str = "other";
    type Output = ();
    type Abort = Never;

    fn run(&self, _: &mut Tx<'_>) -> Result<(), Never> {
        Ok(())
    }
}

fn builder() -> mixlog_engine::Builder {
    Engine::builder().table(&NUMBERS).procedure::<Set>().threads(2)
}

fn log() -> Arc<MemoryLog> {
    Arc::new(MemoryLog::new())
}

#[test]
fn open_with_a_configuration_that_makes_no_sense_is_refused() {
    for builder in [
        builder().threads(0),
        builder().window(0),
        builder().window(4097),
        builder().max_in_flight(0),
        builder().table(&NUMBERS),
        builder().procedure::<Set>(),
    ] {
        assert!(matches!(builder.open(log()), Err(OpenError::Configuration(_))));
    }
}

#[test]
fn open_with_zeros_or_huge_numbers_is_refused_or_works() {
    let checkpoints = |config: checkpoint::Config| {
        let directory = tempfile::tempdir().unwrap();
        let storage: Option<Arc<dyn Storage>> = Some(Arc::new(FsStorage::new(directory.path())));
        (directory, builder().checkpoints(checkpoint::Config { storage, ..config }))
    };
    let default = checkpoint::Config::default;
    let never = checkpoint::Config { every: Some(Duration::MAX), every_bytes: None, ..default() };
    let seldom = checkpoint::Config { every_bytes: Some(1 << 50), keep: usize::MAX, ..default() };
    let often = checkpoint::Config { every_bytes: Some(0), ..default() };
    let kept = [never, seldom, often].map(checkpoints);
    let (_directories, kept): (Vec<_>, Vec<_>) = kept.into_iter().unzip();
    let others = [
        builder().max_in_flight(usize::MAX),
        builder().max_in_flight(1),
        builder().lanes(4096),
        builder().retain(u64::MAX),
        builder().explain(u32::MAX),
        builder().paranoid(u32::MAX),
        builder().max_memory(u64::MAX),
    ];
    for builder in kept.into_iter().chain(others) {
        let engine = builder.open(log()).unwrap();
        let tickets: Vec<_> = (100..500).map(|n| engine.submit(&Set(n, n)).unwrap()).collect();
        tickets.into_iter().for_each(|ticket| assert!(ticket.wait().unwrap().committed().is_some()));
        engine.close().unwrap();
    }
    for builder in [
        builder().lanes(0),
        builder().stack_size(1000),
        builder().stack_size(usize::MAX),
        builder().lanes(usize::MAX),
        builder().threads(usize::MAX),
        builder().window(u32::MAX),
        checkpoints(checkpoint::Config { keep: 0, ..default() }).1,
        checkpoints(checkpoint::Config { every: Some(Duration::ZERO), ..default() }).1,
        checkpoints(checkpoint::Config { every_bytes: Some(u64::MAX), ..default() }).1,
    ] {
        assert!(matches!(builder.open(log()), Err(OpenError::Configuration(_))));
    }
}

#[test]
fn open_without_a_procedure_or_table_of_the_log_names_it() {
    let log = log();
    builder().procedure::<Other>().open(log.clone()).unwrap().close().unwrap();
    match builder().open(log.clone()) {
        Err(OpenError::MissingProcedure { name, version: 1, .. }) => assert_eq!(name, "other"),
        other => panic!("{other:?}"),
    }
    match Engine::builder().procedure::<Set>().procedure::<Other>().open(log.clone()) {
        Err(OpenError::MissingTable { name, .. }) => assert_eq!(name, "numbers"),
        other => panic!("{other:?}"),
    }
    // With more than the log knows it opens, and tells the log.
    let before = log.tail().unwrap().tail;
    let more: Table<u64, u64> = Table::new("more");
    builder().procedure::<Other>().table(&more).open(log.clone()).unwrap();
    assert_eq!(log.tail().unwrap().tail, before.next());
}

#[test]
fn submit_of_an_unregistered_procedure_is_refused_and_nothing_is_appended() {
    let log = log();
    let engine = builder().open(log.clone()).unwrap();
    let error = engine.submit(&Other).unwrap_err();
    assert!(matches!(error, SubmitError::NotRegistered("other")) && !error.is_temporary());
    assert!(error.to_string().contains("Builder::procedure"), "{error}");
    assert_eq!((log.tail().unwrap().tail.0, engine.in_flight()), (1, 0));
}

#[test]
fn an_unregistered_table_makes_its_procedure_panic_and_nothing_else() {
    let engine = Engine::builder().procedure::<Set>().threads(2).mode(Mode::Parallel).open(log()).unwrap();
    match engine.submit(&Set(1, 1)).unwrap().wait().unwrap() {
        Outcome::Panicked { message, .. } => {
            assert!(message.contains("\"numbers\" is not registered"), "{message}")
        }
        other => panic!("{other:?}"),
    }
    engine.close().unwrap();
}

#[test]
fn a_foreign_entry_stops_the_engine_right_before_it_in_every_mode() {
    let log = log();
    let engine = builder().open(log.clone()).unwrap();
    for i in 0..500 {
        drop(engine.submit(&Set(i, i + 100)).unwrap());
    }
    engine.submit(&Set(0, 7)).unwrap().wait().unwrap();
    let digest = engine.digest();
    let mut foreign = Batch::new();
    foreign.push(b"somebody else's");
    log.append(&foreign).unwrap().wait().unwrap();
    // What comes after it cannot be executed: tickets fail, and so does everything later.
    let error = match engine.submit(&Set(1, 1)).map(mixlog_engine::Ticket::wait) {
        Ok(Err(TicketError::Stopped(text))) | Err(SubmitError::Stopped(text)) => text,
        other => panic!("{other:?}"),
    };
    assert!(error.contains("position 502"), "{error}");
    assert_eq!(engine.digest(), digest);
    assert!(matches!(engine.close(), Err(OpenError::Entry { position, .. }) if position.0 == 502));
    for mode in [Mode::Parallel, Mode::Sequential, Mode::Auto] {
        let replay = builder().mode(mode).replay(log.clone()).unwrap();
        assert!(matches!(replay.to_end(), Err(OpenError::Entry { position, .. }) if position.0 == 502));
        assert_eq!(replay.to(mixlog_engine::Position(501)).unwrap(), digest, "{mode}");
        assert_eq!(replay.snapshot().state_digest(), digest.state);
    }
}

#[test]
fn a_row_that_cannot_be_copied_aborts_its_transaction() {
    let engine = builder().open(log()).unwrap();
    engine.submit(&Set(1, 13)).unwrap().wait().unwrap();
    match engine.submit(&Set(1, 14)).unwrap().wait().unwrap() {
        Outcome::Panicked { message, .. } => assert!(message.contains("thirteen"), "{message}"),
        other => panic!("{other:?}"),
    }
    engine.submit(&Set(2, 2)).unwrap().wait().unwrap();
    assert_eq!(engine.snapshot().get(&NUMBERS, &2), Some(Number(2)));
}

#[test]
fn a_row_that_cannot_be_serialized_stops_the_engine_and_leaves_nobody_waiting() {
    let engine = builder().mode(Mode::Parallel).open(log()).unwrap();
    let ticket = engine.submit(&Set(1, 17)).unwrap();
    assert!(matches!(ticket.wait(), Err(TicketError::Stopped(text)) if text.contains("seventeen")));
    // Does not wait for the digest that will never be there.
    assert!(engine.digest().position <= Some(mixlog_engine::Position(0)));
    let error = engine.submit(&Set(1, 1)).unwrap_err();
    assert!(matches!(error, SubmitError::Stopped(_)) && !error.is_temporary());
    assert!(matches!(engine.close(), Err(OpenError::Panicked(text)) if text.contains("seventeen")));
}

#[test]
fn a_sealed_log_opens_to_be_read_and_refuses_submissions() {
    let log = log();
    let engine = builder().open(log.clone()).unwrap();
    engine.submit(&Set(1, 2)).unwrap().wait().unwrap();
    engine.close().unwrap();
    log.seal().unwrap();
    let engine = builder().open(log).unwrap();
    assert_eq!(engine.snapshot().get(&NUMBERS, &1), Some(Number(2)));
    assert!(matches!(engine.submit(&Set(1, 3)), Err(SubmitError::Append(_))));
    assert_eq!(engine.in_flight(), 0);
    engine.close().unwrap();
}

#[test]
fn tickets_of_a_closed_engine_fail_and_those_that_are_done_do_not() {
    let engine = builder().open(log()).unwrap();
    let tickets: Vec<_> = (0..20_000).map(|i| engine.submit(&Set(i, i + 100)).unwrap()).collect();
    drop(engine);
    let mut outcomes = tickets.into_iter().map(mixlog_engine::Ticket::wait);
    let stopped = outcomes.by_ref().find_map(Result::err);
    assert!(stopped.is_none_or(|error| error == TicketError::Stopped("it was closed".into())));
    assert!(outcomes.all(|outcome| outcome.is_err()), "acknowledged in log order");
}

#[test]
fn engine_that_others_hold_is_shut_down_and_refuses_what_they_submit() {
    let log = log();
    let engine = Arc::new(builder().max_in_flight(10).open(Arc::<MemoryLog>::clone(&log)).unwrap());
    let barrier = std::sync::Barrier::new(4);
    let committed: u64 = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|client| {
                let (engine, barrier) = (Arc::clone(&engine), &barrier);
                scope.spawn(move || {
                    let mut committed = 0;
                    let mut tickets = VecDeque::new();
                    for i in 0.. {
                        if i == 100 {
                            barrier.wait();
                        }
                        match engine.submit(&Set(client, i + 100)) {
                            Ok(ticket) => tickets.push_back(ticket),
                            Err(error) => {
                                assert!(
                                    matches!(&error, SubmitError::Stopped(why) if why == "it was closed"),
                                    "{error}"
                                );
                                break;
                            }
                        }
                        if tickets.len() > 3 {
                            committed += u64::from(tickets.pop_front().unwrap().wait().is_ok());
                        }
                    }
                    committed + tickets.into_iter().filter_map(|ticket| ticket.wait().ok()).count() as u64
                })
            })
            .collect();
        barrier.wait();
        // Whoever comes second waits as well.
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| engine.shut_down().unwrap());
            }
        });
        assert_eq!(engine.stopped(), Some("it was closed"));
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert!(committed >= 300);
    // What was committed can be read still.
    let (digest, state) = (engine.digest(), engine.snapshot().state_digest());
    assert_eq!(digest.state, state);
    assert!(engine.execute(&Set(0, 100)).is_err());
    engine.shut_down().unwrap();
    drop(engine);
    let engine = builder().open(log).unwrap();
    assert!(engine.stats().transactions >= committed);
    engine.close().unwrap();
}

#[test]
fn submit_waits_while_too_many_are_in_flight() {
    let engine = builder().max_in_flight(10).open(log()).unwrap();
    std::thread::scope(|scope| {
        for client in 0..4 {
            let engine = &engine;
            scope.spawn(move || {
                let tickets: Vec<_> =
                    (0..2000).map(|i| engine.submit(&Set(client, i + 100)).unwrap()).collect();
                tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
            });
        }
    });
    assert_eq!(engine.stats().transactions, 8000);
    // Tickets are filled a little before room is made.
    while engine.in_flight() > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn a_ticket_can_be_awaited_and_waited_for_with_a_limit() {
    let engine = builder().open(log()).unwrap();
    let mut ticket = engine.submit(&Set(1, 1)).unwrap();
    let outcome = loop {
        match ticket.wait_timeout(Duration::from_millis(1)) {
            Ok(outcome) => break outcome.unwrap(),
            Err(again) => ticket = again,
        }
    };
    assert_eq!(outcome.position().0, 1);
    // A minimal executor: polls when it is woken.
    struct Wake(std::thread::Thread);
    impl std::task::Wake for Wake {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = std::pin::pin!(engine.submit(&Set(1, 2)).unwrap());
    let waker = Arc::new(Wake(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let outcome = loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(outcome) => break outcome.unwrap(),
            std::task::Poll::Pending => std::thread::park(),
        }
    };
    assert_eq!(outcome.position().0, 2);
}
