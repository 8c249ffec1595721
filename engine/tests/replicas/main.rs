//! Engines that follow one log find out who differs, name what differs, and repair or stop that one, while the others go
//! on.
#![cfg(not(loom))]

mod checkpoints;
mod panics;
mod trimmed;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use mixlog_engine::{
    Builder, Divergence, Engine, Footprint, Membership, Mode, Never, OpenError, Position, Procedure, Replica,
    Table, Tx, WINDOW_GRID, checkpoint,
};
use mixlog_log::{Durability, FileLog, MemoryLog, SharedLog, file};
use serde::{Deserialize, Serialize};

/// Longer than any step takes on a busy machine, so that a hang fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

const ROWS: Table<u64, u64> = Table::new("rows");
const OTHERS: Table<u64, u64> = Table::new("others");

/// How a build of the procedure is at fault: what it does at transaction number [`AT`].
type Fault = u8;
const NONE: Fault = 0;
/// Does nothing, and says that it did.
const SKIP: Fault = 2;
/// Reads the clock.
const CLOCK: Fault = 3;
/// Replies something else, the first time that it runs.
const REPLY: Fault = 4;
const CLOCK_OF_TWO: Fault = 6;
/// Declares other rows than it touches, and lets the later one of two transactions that write one row go first.
const WRONG_FOOTPRINT: Fault = 9;
/// Waits at two transactions until it is told to go on: at the first of [`HELD_AT`] and, by the next number, the second.
const HELD: Fault = 13;
const HELD_BEFORE_A_VOTE: Fault = 16;
/// From here on: flips a bit of the row that it writes, the first time that it runs in this process.
const FLIP: Fault = 20;
const FLIP_OF_TWO: Fault = 21;
const FLIP_OF_ENGINE: Fault = 22;
const FLIP_IN_FILES: Fault = 23;
const FLIP_OF_KEEPER: Fault = 24;
const FLIP_OF_WRITER: Fault = 25;
const FLIP_UNTIL_TRIMMED: Fault = 26;
const FLIP_WHILE_WAITED_FOR: Fault = 27;
const FLIP_BEFORE_START: Fault = 28;
const FLIP_BEFORE_TRIM: Fault = 29;
const FLIP_ON_SHELF: Fault = 30;
const FLIP_BESIDE: Fault = 31;
/// The same, at the second time that [`AT`] comes in the log.
const FLIP_LATER: Fault = 32;
const FLIP_WHILE_TRIMMED: Fault = 33;
const FLIP_AFTER_TRIM: Fault = 34;
const FLIP_BEFORE_CONVERSION: Fault = 35;
const FLIP_BEHIND_A_VOTE: Fault = 36;
const FLIP_OF_AGREED: Fault = 37;

/// Of a build with other rows: replies something else, the first time that it runs.
const REPLY_IN_WIDE: Fault = 15;

const HELD_AT: [u64; 2] = [100, 4500];

static ONCE: [AtomicBool; 38] = [const { AtomicBool::new(false) }; 38];

const AT: u64 = 5000;
/// Writes the same row, in the same window.
const NEXT: u64 = AT + 60;

const fn key_of(n: u64) -> u64 {
    if n == NEXT { AT % 300 } else { n % 300 }
}

/// Triples a row, adds to it, and returns what comes of it: the order counts. Builds with different faults have the same name, as a faulty build has.
#[derive(Serialize, Deserialize)]
struct Add<const FAULT: Fault> {
    n: u64,
}

impl<const FAULT: Fault> Procedure for Add<FAULT> {
    const NAME: &'static str = "add";
    type Output = u64;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        if FAULT == WRONG_FOOTPRINT && (self.n == AT || self.n == NEXT) {
            f.write(&ROWS, &(1000 + self.n));
        } else {
            f.write(&ROWS, &key_of(self.n));
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let key = key_of(self.n);
        if FAULT == WRONG_FOOTPRINT && self.n == AT {
            // The first time only: later, one by one, the other one has run already.
            wait_for("the later transaction", || ONCE[usize::from(FAULT)].load(Ordering::Acquire));
        }
        if matches!(FAULT, HELD | HELD_BEFORE_A_VOTE)
            && let Some(which) = HELD_AT.iter().position(|at| *at == self.n)
        {
            wait_for("leave to go on", || ONCE[usize::from(FAULT) + which].load(Ordering::Acquire));
        }
        let sum = tx.get(&ROWS, &key).copied().unwrap_or(0).wrapping_mul(3) + self.n;
        let (mut row, mut reply) = (sum, sum);
        if self.n == AT {
            let once = || !ONCE[usize::from(FAULT)].swap(true, Ordering::Relaxed);
            match FAULT {
                FLIP_LATER if tx.position() < Position(WINDOW_GRID) => {}
                SKIP => return Ok(sum),
                CLOCK | CLOCK_OF_TWO => {
                    row = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
                }
                FLIP.. if once() => row ^= 1,
                REPLY if once() => reply += 1,
                _ => {}
            }
        }
        tx.put(&ROWS, key, row);
        if FAULT == WRONG_FOOTPRINT && self.n == NEXT {
            ONCE[usize::from(FAULT)].store(true, Ordering::Release);
        }
        Ok(reply)
    }
}

fn member<const FAULT: Fault>(name: &str, members: &[&str], threads: usize) -> Builder {
    let mode = if threads == 1 { Mode::Sequential } else { Mode::Parallel };
    Engine::builder()
        .table(&ROWS)
        .table(&OTHERS)
        .procedure::<Add<FAULT>>()
        .member(Membership::new(name, members.iter().copied()))
        .threads(threads)
        .window(64 << (threads % 3))
        .mode(mode)
}

fn memory() -> Arc<dyn SharedLog> {
    Arc::new(MemoryLog::new())
}

const THREE: [&str; 3] = ["a", "b", "c"];

/// Submits so many transactions; the last is executed when it returns.
fn submit(engine: &Engine, numbers: std::ops::Range<u64>) {
    let tickets: Vec<_> = numbers.map(|n| engine.submit(&Add::<NONE> { n }).unwrap()).collect();
    tickets.into_iter().for_each(|ticket| {
        ticket.wait().unwrap();
    });
}

/// Makes all members vote on what is in the log, and reads the votes.
fn settle(engine: &Engine, members: usize) -> Position {
    let position = engine.pad().unwrap();
    assert!(engine.wait_agreed(position, members, PATIENCE), "{members} agree on {position}");
    position
}

fn wait_for(what: &str, is: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !is() {
        assert!(begun.elapsed() < PATIENCE, "{what} never comes");
        std::thread::yield_now();
    }
}

#[test]
fn replicas_of_any_threads_and_windows_agree_and_a_late_one_catches_up() {
    let log = memory();
    let engine = member::<NONE>("a", &THREE, 2).open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(|| member::<NONE>("b", &THREE, 1), Arc::clone(&log)).unwrap();
    submit(&engine, 0..9000);
    // Two of three are enough to agree, and not enough for those who want all.
    let two = settle(&engine, 2);
    assert_eq!(engine.agreed(3), None);
    let c = Replica::follow(|| member::<NONE>("c", &THREE, 3), Arc::clone(&log)).unwrap();
    submit(&engine, 9000..14000);
    let three = settle(&engine, 3);
    assert!(three > two && three.next().0.is_multiple_of(WINDOW_GRID));
    // One that does not vote looks on.
    let look = Replica::follow(|| member::<NONE>("d", &THREE, 1), Arc::clone(&log)).unwrap();
    let tail = log.tail().unwrap().tail;
    for replica in [&b, &c, &look] {
        assert!(replica.wait(tail.previous().unwrap(), PATIENCE));
        assert_eq!(replica.digest(), engine.digest());
        assert_eq!((replica.divergences(), replica.failed().map(|e| e.to_string())), (vec![], None));
    }
    let agreed = look.agreed(3).unwrap();
    assert!(agreed.position >= Some(three));
    // What a replay finds there, in state and replies.
    let replay = member::<NONE>("e", &THREE, 2).replay(Arc::clone(&log)).unwrap();
    assert_eq!(replay.to(agreed.position.unwrap()).unwrap(), agreed);
    assert_eq!((engine.agreed(3), look.agreed(4)), (Some(agreed), None));
    for replica in [b, c, look] {
        replica.close().unwrap();
    }
}

/// Runs the fault in one of three, and tells what that one said; the two others must agree beside it.
fn diverge<const FAULT: Fault>(threads: usize) -> (Replica, Divergence, Engine, Replica) {
    let log = memory();
    let engine = member::<NONE>("a", &THREE, 2).open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(|| member::<NONE>("b", &THREE, 1), Arc::clone(&log)).unwrap();
    let c = Replica::follow(move || member::<FAULT>("c", &THREE, threads), Arc::clone(&log)).unwrap();
    submit(&engine, 0..10_000);
    settle(&engine, 2);
    wait_for("the divergence", || !c.divergences().is_empty());
    let settled = || c.failed().is_some() || c.divergences()[0].repaired;
    wait_for("the end of the repair", settled);
    submit(&engine, 10_000..15_000);
    settle(&engine, 2);
    assert_eq!((b.divergences(), b.failed().map(|e| e.to_string())), (vec![], None));
    let divergence = c.divergences()[0].clone();
    // Within the grid's window in which it happened.
    assert_eq!(divergence.position, Position(2 * WINDOW_GRID - 1), "{divergence}");
    assert_eq!(divergence.agreed, Some(Position(WINDOW_GRID - 1)));
    assert_eq!(divergence.member, "c");
    (c, divergence, engine, b)
}

/// The key of the row that transaction [`AT`] writes.
fn key() -> String {
    (AT % 300).to_string()
}

fn is_repaired(replica: &Replica, engine: &Engine) {
    settle(engine, 3);
    let tail = engine.log().tail().unwrap().tail;
    assert!(replica.wait(tail.previous().unwrap(), PATIENCE), "{:?}", replica.failed());
    assert_eq!(replica.snapshot().state_digest(), engine.snapshot().state_digest());
}

#[test]
fn flipped_row_is_found_named_and_repaired() {
    for threads in [1, 2] {
        ONCE[usize::from(FLIP)].store(false, Ordering::Relaxed);
        let (replica, divergence, engine, _b) = diverge::<FLIP>(threads);
        assert!(divergence.repaired, "{divergence}");
        let [differing] = &divergence.tables[..] else { panic!("{divergence}") };
        assert_eq!((differing.table.as_str(), differing.buckets.len()), ("rows", 1));
        assert_eq!(differing.keys, [key()], "{divergence}");
        is_repaired(&replica, &engine);
    }
}

#[test]
fn wait_for_an_agreement_outlasts_a_repair() {
    let log = memory();
    let engine = member::<NONE>("a", &THREE, 2).open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(|| member::<NONE>("b", &THREE, 1), Arc::clone(&log)).unwrap();
    let faulty = || member::<FLIP_WHILE_WAITED_FOR>("c", &THREE, 1);
    let c = Arc::new(Replica::follow(faulty, Arc::clone(&log)).unwrap());
    // Longer than anybody is patient: it must not be its time that ends it.
    let (waiting, long) = (Arc::clone(&c), 60 * PATIENCE);
    let waits = std::thread::spawn(move || waiting.wait_agreed(Position(3 * WINDOW_GRID - 1), 3, long));
    submit(&engine, 0..10_000);
    settle(&engine, 3);
    wait_for("the end of the wait", || waits.is_finished());
    assert!(waits.join().unwrap());
    assert!(c.divergences()[0].repaired);
    drop(b);
}

#[test]
fn other_reply_is_found_and_repaired() {
    let (replica, divergence, engine, _b) = diverge::<REPLY>(2);
    assert!(divergence.repaired && divergence.tables.is_empty(), "{divergence}");
    is_repaired(&replica, &engine);
}

#[test]
fn skipped_transaction_is_found_named_and_stops_the_replica() {
    let (replica, divergence, engine, _b) = diverge::<SKIP>(2);
    stopped(&replica, &divergence);
    // A good build takes its place.
    let (log, position) = (Arc::clone(engine.log()), engine.position().unwrap());
    drop(replica);
    let rebuilt = Replica::follow(|| member::<NONE>("c", &THREE, 2), log).unwrap();
    assert!(rebuilt.wait(position, PATIENCE));
    is_repaired(&rebuilt, &engine);
}

#[test]
fn wrong_footprint_that_no_guard_stops_is_found_named_and_repaired() {
    let log = memory();
    let engine = member::<NONE>("a", &THREE, 2).open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(|| member::<NONE>("b", &THREE, 1), Arc::clone(&log)).unwrap();
    submit(&engine, 0..10_000);
    settle(&engine, 2);
    // It finds whole windows in the log.
    let unguarded = || {
        // SAFETY: of the two transactions that touch an undeclared row, one waits until the other one has done so.
        unsafe { member::<WRONG_FOOTPRINT>("c", &THREE, 2).unguarded() }
    };
    let c = Replica::follow(unguarded, Arc::clone(&log)).unwrap();
    // Others go on meanwhile.
    submit(&engine, 10_000..15_000);
    settle(&engine, 2);
    wait_for("the divergence", || !c.divergences().is_empty());
    wait_for("the end of the repair", || c.failed().is_some() || c.divergences()[0].repaired);
    let divergence = c.divergences()[0].clone();
    assert_eq!(divergence.position, Position(2 * WINDOW_GRID - 1), "{divergence}");
    assert!(divergence.repaired && divergence.member == "c", "{divergence}");
    let [differing] = &divergence.tables[..] else { panic!("{divergence}") };
    assert_eq!((differing.table.as_str(), &differing.keys[..]), ("rows", &[key()][..]), "{divergence}");
    is_repaired(&c, &engine);
    assert_eq!((b.divergences(), b.failed().map(|e| e.to_string())), (vec![], None));
}

#[test]
fn procedure_that_reads_the_clock_is_found_named_and_stops_the_replica() {
    let (replica, divergence, _engine, _b) = diverge::<CLOCK>(1);
    stopped(&replica, &divergence);
}

fn stopped(replica: &Replica, divergence: &Divergence) {
    assert!(!divergence.repaired);
    let named = divergence.tables.iter().flat_map(|differing| &differing.keys);
    assert!(named.into_iter().any(|named| *named == key()), "{divergence}");
    let Some(OpenError::Diverged(said)) = replica.failed() else { panic!("{:?}", replica.failed()) };
    assert_eq!(*said, *divergence);
    let text = said.to_string();
    assert!(text.contains("\"c\" diverged at or before position 8191, after 4095"), "{text}");
    // Its last state can still be looked at.
    assert!(replica.snapshot().get(&ROWS, &0).is_some());
}

#[test]
fn two_that_differ_replay_both_and_agree_if_the_fault_is_gone() {
    let (log, two) = (memory(), ["a", "b"]);
    let writer = Engine::builder().table(&ROWS).table(&OTHERS).procedure::<Add<NONE>>();
    let engine = writer.member(Membership::new("writer", two)).open(Arc::clone(&log)).unwrap();
    let a = Replica::follow(move || member::<NONE>("a", &two, 2), Arc::clone(&log)).unwrap();
    let b = Replica::follow(move || member::<FLIP_OF_TWO>("b", &two, 2), Arc::clone(&log)).unwrap();
    submit(&engine, 0..10_000);
    engine.pad().unwrap();
    for replica in [&a, &b] {
        wait_for("the divergence", || !replica.divergences().is_empty());
        assert_eq!(replica.divergences()[0].expected, None);
    }
    wait_for("the end of the repair", || b.divergences()[0].repaired);
    settle(&engine, 2);
    assert!(!a.divergences()[0].repaired && a.failed().is_none() && b.failed().is_none());
}

#[test]
fn two_that_differ_for_good_both_stop_and_builds_that_were_put_right_go_past_it() {
    let (log, two) = (memory(), ["a", "b"]);
    let writer = Engine::builder().table(&ROWS).table(&OTHERS).procedure::<Add<NONE>>();
    let engine = writer.open(Arc::clone(&log)).unwrap();
    let a = Replica::follow(move || member::<NONE>("a", &two, 1), Arc::clone(&log)).unwrap();
    let b = Replica::follow(move || member::<CLOCK_OF_TWO>("b", &two, 1), Arc::clone(&log)).unwrap();
    submit(&engine, 0..10_000);
    engine.pad().unwrap();
    for replica in [&a, &b] {
        wait_for("the end", || replica.failed().is_some());
        assert!(matches!(replica.failed(), Some(OpenError::Diverged(_))), "{:?}", replica.failed());
    }
    drop((a, b));
    // What they voted stays in the log, and nobody takes it back.
    let opened = member::<NONE>("a", &two, 2).open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(move || member::<NONE>("b", &two, 1), Arc::clone(&log)).unwrap();
    submit(&engine, 10_000..11_000);
    let position = settle(&opened, 2);
    assert!(b.wait(position, PATIENCE), "{:?}", b.failed());
    assert_eq!((b.divergences(), b.failed().map(|e| e.to_string())), (vec![], None));
    assert_eq!(opened.agreed(2).and_then(|agreed| agreed.position), Some(position));
}

#[test]
fn engine_that_answers_clients_stops_when_the_others_agree_on_another_state() {
    let log = memory();
    let engine = member::<FLIP_OF_ENGINE>("a", &THREE, 2).open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(|| member::<NONE>("b", &THREE, 1), Arc::clone(&log)).unwrap();
    let c = Replica::follow(|| member::<NONE>("c", &THREE, 2), Arc::clone(&log)).unwrap();
    for n in 0..10_000 {
        if engine.submit(&Add::<FLIP_OF_ENGINE> { n }).is_err() {
            break;
        }
    }
    let position = Position(2 * WINDOW_GRID - 1);
    // It may stop before it can pad.
    let _padded = engine.pad();
    let agreed = |replica: &Replica| replica.agreed(2).and_then(|agreed| agreed.position);
    wait_for("the agreement", || agreed(&b) >= Some(position) && agreed(&c) >= Some(position));
    let is_stopped = || engine.submit(&Add::<FLIP_OF_ENGINE> { n: 1 }).is_err();
    wait_for("the stop", is_stopped);
    // Two agree, and neither of them with this one: they do not stand for its answers.
    assert!(!engine.wait_agreed(position, 2, PATIENCE));
    match engine.close() {
        Err(OpenError::Diverged(divergence)) => assert_eq!(divergence.position, position),
        other => panic!("{other:?}"),
    }
    assert!(b.failed().is_none() && c.failed().is_none());
}

static TAKES_ITS_TIME: AtomicU64 = AtomicU64::new(0);

#[derive(Serialize, Deserialize)]
struct Slow;

impl Procedure for Slow {
    const NAME: &'static str = "slow";
    type Output = ();
    type Abort = Never;

    fn run(&self, _: &mut Tx<'_>) -> Result<(), Never> {
        if std::thread::current().name().is_some_and(|name| name.starts_with("mixlog-driver")) {
            TAKES_ITS_TIME.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

#[test]
fn replica_that_is_closed_leaves_what_it_has_not_executed() {
    const ALL: u64 = 20_000;
    let log = memory();
    let mut batch = mixlog_log::Batch::new();
    let engine = Engine::builder().procedure::<Slow>().threads(1).open(Arc::clone(&log)).unwrap();
    engine.execute(&Slow).unwrap();
    engine.close().unwrap();
    // The same call again and again.
    let last = log.tail().unwrap().tail.previous().unwrap();
    let block = log.read(last).unwrap().unwrap();
    let Some((_, mixlog_log::Entry::Data(call))) = block.iter().last() else { panic!("it is a call") };
    (0..ALL).for_each(|_| batch.push(call));
    log.append(&batch).unwrap().wait().unwrap();
    let before = TAKES_ITS_TIME.load(Ordering::Relaxed);
    let make = || {
        let builder = Engine::builder().procedure::<Slow>().threads(2).window(64);
        builder.member(Membership::new("b", THREE))
    };
    let replica = Replica::follow(make, Arc::clone(&log)).unwrap();
    replica.close().unwrap();
    assert!(TAKES_ITS_TIME.load(Ordering::Relaxed) - before < ALL);
}
