//! Exactly once: a client's transaction has one effect and one answer, however often and wherever it is submitted.
#![cfg(not(loom))]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread;

use mixlog_engine::checkpoint::{self, Start};
use mixlog_engine::{
    ANSWERS_KEPT, Backoff, Builder, ClientId, CommitError, Digest, Engine, Footprint, Mode, Outcome,
    Position, Procedure, Table, TicketError, TransactError, Transaction, Tx,
};
use mixlog_log::{Durability, FileLog, MemoryLog, SharedLog, file};
use serde::{Deserialize, Serialize};

const SUMS: Table<u64, u64> = Table::new("sums");

/// How a procedure describes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Says {
    TheTruth,
    Nothing,
    Anything,
    SomethingElse,
}

/// Adds to a row and returns the sum; aborts or panics, after it has changed the row, if it should.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Add {
    to: u64,
    amount: u64,
    says: Says,
}

impl Add {
    const fn new(to: u64, amount: u64) -> Self {
        Self { to, amount, says: Says::TheTruth }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TooMuch(u64);

impl Procedure for Add {
    const NAME: &'static str = "add";
    type Output = u64;
    type Abort = TooMuch;

    fn footprint(&self, f: &mut Footprint<'_>) {
        match self.says {
            Says::TheTruth => f.write(&SUMS, &self.to),
            Says::Nothing => f.reconnoitre(),
            Says::Anything => f.unknown(),
            Says::SomethingElse => f.read(&SUMS, &(self.to + 1)),
        };
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, TooMuch> {
        let sum = tx.get(&SUMS, &self.to).copied().unwrap_or(0) + self.amount;
        tx.put(&SUMS, self.to, sum);
        match self.amount {
            7 => Err(TooMuch(sum)),
            13 => panic!("thirteen"),
            _ => Ok(sum),
        }
    }
}

fn builder(threads: usize, mode: Mode) -> Builder {
    Engine::builder().table(&SUMS).procedure::<Add>().threads(threads).window(128).mode(mode)
}

fn memory() -> Arc<dyn SharedLog> {
    Arc::new(MemoryLog::new())
}

/// What an outcome says, to be compared.
fn told(outcome: Result<Outcome<Add>, TicketError>) -> String {
    match outcome {
        // The message is told to the first only.
        Ok(Outcome::Panicked { position, .. }) => format!("panicked at {position}"),
        Ok(outcome) => format!("{outcome:?}"),
        Err(error) => format!("{error:?}"),
    }
}

#[test]
fn retry_of_whatever_ending_gets_the_first_answer_and_has_no_effect() {
    let (log, me) = (memory(), ClientId(9));
    let engine = builder(1, Mode::Auto).open(Arc::clone(&log)).unwrap();
    let submit = |engine: &Engine, sequence, amount| {
        told(engine.client(me).submit(sequence, &Add::new(0, amount)).unwrap().wait())
    };
    let first: Vec<_> = [1, 7, 13].map(|amount| submit(&engine, amount, amount)).into();
    assert!(first[0].contains("output: 1") && first[1].contains("TooMuch(8)"), "{first:?}");
    let again: Vec<_> = [1, 7, 13].map(|amount| submit(&engine, amount, amount)).into();
    assert_eq!(first, again);
    assert_eq!((engine.stats().repeats, engine.client(me).last()), (3, Some(13)));
    // The answer tells where it was given first; that it was looked up later is told beside it.
    let ticket = engine.client(me).submit(7, &Add::new(0, 7)).unwrap();
    let (position, outcome) = ticket.wait_with_position().unwrap();
    assert!(outcome.position() < position && Some(position) == engine.position(), "{position}");
    // Another client's number is another transaction.
    engine.client(ClientId(10)).submit(1, &Add::new(0, 1)).unwrap().wait().unwrap();
    assert_eq!(engine.snapshot().get(&SUMS, &0), Some(2));
    drop(engine);
    let engine = builder(2, Mode::Parallel).open(log).unwrap();
    assert_eq!([1, 7, 13].map(|amount| submit(&engine, amount, amount)).to_vec(), first);
    assert_eq!(engine.snapshot().get(&SUMS, &0), Some(2));
}

#[test]
fn numbers_that_are_too_old_or_used_for_something_else_are_refused_without_effect() {
    let engine = builder(1, Mode::Auto).open(memory()).unwrap();
    let client = engine.client(ClientId(1));
    for sequence in 1..=ANSWERS_KEPT + 1 {
        client.submit(sequence, &Add::new(0, 1)).unwrap().wait().unwrap();
    }
    let forgotten = client.submit(1, &Add::new(0, 1)).unwrap().wait().unwrap_err();
    assert_eq!(forgotten, TicketError::Forgotten { sequence: 1, newer: ANSWERS_KEPT + 1 });
    let reused = client.submit(2, &Add::new(0, 2)).unwrap().wait().unwrap_err();
    assert!(matches!(reused, TicketError::Reused { sequence: 2, position: Position(2) }), "{reused:?}");
    assert_eq!(engine.snapshot().get(&SUMS, &0), Some(ANSWERS_KEPT + 1));
    // However many there are, so many rows: that of the sum, and the answers.
    assert_eq!(engine.memory().rows, 1 + ANSWERS_KEPT);
    assert_eq!(client.forget().unwrap().wait().unwrap().committed(), Some(ANSWERS_KEPT));
    assert_eq!(client.last(), None);
}

#[test]
fn retry_of_an_interactive_transaction_that_finds_nothing_left_to_do_is_told_that_it_had_committed() {
    let engine = builder(2, Mode::Auto).open(memory()).unwrap();
    let me = engine.client(ClientId(7));
    let take_the_seat = |transaction: &mut Transaction<'_>| {
        let is_free = !transaction.contains(&SUMS, &3);
        if is_free {
            transaction.put(&SUMS, 3, 7);
        }
        Ok::<_, Infallible>(is_free)
    };
    let (took, first) = me.transact(1, Backoff::default(), take_the_seat).unwrap();
    assert!(took);
    let again = me.transact(1, Backoff::default(), take_the_seat);
    let Err(TransactError::Commit(CommitError::CommittedBefore { position })) = again else {
        panic!("{again:?}")
    };
    assert_eq!(Some(position), first);
    // So is one that wrote nothing at first and would now.
    let (took, first) = me.transact(2, Backoff::default(), take_the_seat).unwrap();
    assert!(!took && first > Some(position));
    let mut transaction = me.begin(2);
    transaction.delete(&SUMS, &3);
    let again = transaction.commit();
    assert!(
        matches!(again, Err(CommitError::CommittedBefore { position }) if Some(position) == first),
        "{again:?}"
    );
    // Without a number nothing is appended.
    let (took, at) = engine.transact(Backoff::default(), take_the_seat).unwrap();
    assert_eq!((took, at), (false, engine.position()));
    engine.close().unwrap();
}

#[test]
fn retries_that_race_through_two_engines_have_one_effect_and_one_answer() {
    const EACH: u64 = 40;
    for (threads, mode) in [(1, Mode::Sequential), (2, Mode::Parallel), (3, Mode::Auto)] {
        let log = memory();
        let engines =
            [threads, 1].map(|threads| Arc::new(builder(threads, mode).open(Arc::clone(&log)).unwrap()));
        let start = Arc::new(Barrier::new(6));
        let racers: Vec<_> = (0..6u64)
            .map(|racer| {
                let (engine, start) = (Arc::clone(&engines[racer as usize % 2]), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    let client = engine.client(ClientId(racer / 3));
                    let submit = |sequence| {
                        let says = [Says::TheTruth, Says::Nothing, Says::Anything, Says::SomethingElse];
                        let says = says[(sequence % 4) as usize];
                        client.submit(sequence, &Add { to: sequence % 5, amount: sequence, says }).unwrap()
                    };
                    let tickets: Vec<_> = (0..EACH).map(submit).collect();
                    tickets.into_iter().map(|ticket| told(ticket.wait())).collect::<Vec<_>>()
                })
            })
            .collect();
        let answers: Vec<_> = racers.into_iter().map(|racer| racer.join().unwrap()).collect();
        for racers in answers.chunks(3) {
            assert!(racers.iter().all(|racer| racer == &racers[0]), "{racers:?}");
        }
        let sums = (0..5).map(|key| engines[0].snapshot().get(&SUMS, &key).unwrap());
        // Those of 7 abort, and those of 13 panic.
        assert_eq!(sums.sum::<u64>(), 2 * ((0..EACH).sum::<u64>() - 20));
        let tail = log.tail().unwrap().tail;
        let digests = engines.map(|engine| {
            let engine = Arc::into_inner(engine).expect("the racers are gone");
            // Both have read it all once they have answered what comes last.
            engine.submit(&Add::new(0, 1)).unwrap().wait().unwrap();
            drop(engine);
            builder(1, Mode::Sequential).replay(Arc::clone(&log)).unwrap().to(Position(tail.0 - 1)).unwrap()
        });
        assert_eq!(digests[0], digests[1]);
    }
}

/// A small generator of random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Clients that repeat, skip, reuse and forget; what they were told, in the order of the log.
fn history(log: &Arc<dyn SharedLog>, seed: u64, entries: u64) -> (Vec<String>, Digest) {
    let mut random = Random(seed);
    let engine = builder(2, Mode::Parallel).open(Arc::clone(log)).unwrap();
    let (mut tickets, mut next) = (Vec::new(), [0u64; 4]);
    for _ in 0..entries {
        let number = random.below(4);
        let client = engine.client(ClientId(number));
        let next = &mut next[number as usize];
        *next += [0, 1, 1, 2, 30][random.below(5) as usize];
        let sequence = next.saturating_sub([0, 0, 0, 1, 3, 70][random.below(6) as usize]);
        // What is added follows from the number, but for a few.
        let amount = sequence % 16 + u64::from(random.below(20) == 0);
        let says = [Says::TheTruth, Says::TheTruth, Says::Nothing, Says::Anything, Says::SomethingElse];
        let says = says[(sequence % 5) as usize];
        tickets.push(client.submit(sequence, &Add { to: sequence % 3, amount, says }).unwrap());
        if random.below(400) == 0 {
            let _forgotten = client.forget().unwrap();
        }
    }
    let told = tickets.into_iter().map(|ticket| told(ticket.wait())).collect();
    let last = engine.submit(&Add::new(0, 1)).unwrap().wait().unwrap();
    let digest = engine.digest();
    assert_eq!(digest.position, Some(last.position()));
    (told, digest)
}

/// The contract, told by a map: which of the answers come from transactions that ran.
#[test]
fn random_clients_are_answered_as_one_by_one_whatever_threads_and_windows() {
    for seed in 0..4 {
        let log = memory();
        let (told, digest) = history(&log, seed, 1500);
        let count = |what: &str| told.iter().filter(|told| told.contains(what)).count();
        for what in ["Committed", "TooMuch", "panicked", "Forgotten", "Reused"] {
            assert!(count(what) > 0, "seed {seed}: none was {what}");
        }
        for (threads, window, mode, paranoid) in [
            (1, 1, Mode::Sequential, 0),
            (1, 256, Mode::Parallel, 0),
            (2, 64, Mode::Parallel, 3),
            (3, 4096, Mode::Auto, 0),
            (4, 17, Mode::Parallel, 0),
        ] {
            let replay = builder(threads, mode).window(window).paranoid(paranoid);
            let replay = replay.replay(Arc::clone(&log)).unwrap();
            assert_eq!(replay.to_end().unwrap(), digest, "seed {seed}, {threads} threads, window {window}");
        }
    }
}

fn files() -> file::Config {
    file::Config {
        durability: Durability::Buffered,
        segment_bytes: 64 << 10,
        max_batch_bytes: 8 << 10,
        queue_bytes: 64 << 10,
        ..file::Config::default()
    }
}

/// Small, so that a short life sees several, and the log trimmed.
fn keep() -> checkpoint::Config {
    checkpoint::Config { every_bytes: Some(20 << 10), ..checkpoint::Config::default() }
}

fn open(directory: &Path, threads: usize) -> Engine {
    let log = Arc::new(FileLog::open(directory, files()).unwrap());
    builder(threads, Mode::Auto).checkpoints(keep()).open(log).unwrap()
}

#[test]
fn retry_after_a_checkpoint_and_a_trim_gets_the_first_answer() {
    let directory = tempfile::tempdir().unwrap();
    let amounts = [1, 7, 13];
    let submit = |engine: &Engine, amount| {
        told(engine.client(ClientId(5)).submit(amount, &Add::new(0, amount)).unwrap().wait())
    };
    let engine = open(directory.path(), 1);
    let first = amounts.map(|amount| submit(&engine, amount));
    let mut wait = None;
    for n in 0..4000 {
        wait = Some(engine.submit(&Add::new(1, n % 5)).unwrap());
    }
    wait.unwrap().wait().unwrap();
    engine.checkpoint().unwrap();
    engine.submit(&Add::new(1, 1)).unwrap().wait().unwrap();
    engine.checkpoint().unwrap();
    assert!(engine.log().tail().unwrap().head > Position(10), "the first calls are trimmed");
    let digest = engine.digest();
    drop(engine);
    for threads in [1, 2] {
        let engine = open(directory.path(), threads);
        assert!(engine.recovery().checkpoint.is_some());
        if threads == 1 {
            assert_eq!(engine.digest(), digest);
        }
        assert_eq!(amounts.map(|amount| submit(&engine, amount)), first);
        assert_eq!(engine.snapshot().get(&SUMS, &0), Some(1));
    }
    // The oldest checkpoint tells the same.
    let log = Arc::new(FileLog::open_read_only(directory.path()).unwrap());
    let ends = [Start::Newest, Start::Oldest].map(|start| {
        let config = checkpoint::Config { start, ..keep() };
        builder(1, Mode::Auto).checkpoints(config).replay(Arc::clone(&log) as _).unwrap().to_end().unwrap()
    });
    assert_eq!(ends[0], ends[1]);
}

const DIRECTORY: &str = "MIXLOG_TEST_CLIENT_DIRECTORY";
const FROM: &str = "MIXLOG_TEST_CLIENT_FROM";

/// A process of its own, to be killed: submits on and on from a number, prints each answer, and keeps 32 on the way.
#[test]
fn client_process() {
    let (Ok(directory), Ok(from)) = (std::env::var(DIRECTORY), std::env::var(FROM)) else { return };
    let engine = open(Path::new(&directory), 2);
    let (client, from) = (engine.client(ClientId(77)), from.parse::<u64>().unwrap());
    let submit = |sequence| (sequence, client.submit(sequence, &Add::new(0, sequence % 6)).unwrap());
    let mut on_the_way: std::collections::VecDeque<_> = (from..from + 32).map(submit).collect();
    for next in from + 32.. {
        let (sequence, ticket) = on_the_way.pop_front().unwrap();
        println!("answer {sequence} {}", told(ticket.wait()));
        on_the_way.push_back(submit(next));
    }
}

#[test]
fn client_killed_again_and_again_gets_one_answer_for_each_number() {
    let kills = std::env::var("MIXLOG_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let directory = tempfile::tempdir().unwrap();
    let (mut random, mut answers, mut repeated) = (Random(3), BTreeMap::<u64, String>::new(), 0);
    for round in 0..kills {
        // From some numbers before the last answer on: they were answered, but who knows.
        let last = answers.keys().next_back().copied().unwrap_or(0);
        let from = last.saturating_sub(random.below(31)).max(1);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["client_process", "--exact", "--nocapture", "--test-threads", "1"])
            .env(DIRECTORY, directory.path())
            .env(FROM, from.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let wanted = random.below(200) as usize;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        let mut note = |line: std::io::Result<String>| {
            let Some((sequence, answer)) = line.ok().and_then(|line| {
                let (_, rest) = line.split_once("answer ")?;
                let (sequence, answer) = rest.split_once(' ')?;
                // A line that was cut off is no answer.
                answer.ends_with('}').then(|| (sequence.parse::<u64>().unwrap(), answer.to_owned()))
            }) else {
                return 0;
            };
            let first = answers.entry(sequence).or_insert_with(|| answer.clone());
            repeated += u64::from(sequence <= last);
            assert_eq!(*first, answer, "round {round}: sequence number {sequence}");
            1
        };
        while seen < wanted {
            seen += note(lines.next().expect("it goes on until it is killed"));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        lines.for_each(|line| {
            note(line);
        });
    }
    assert!(repeated > kills / 2, "{repeated} answers came twice");
    // Each answer tells the sum of all numbers before it: one effect each, in the order of the numbers.
    let mut sum = 0;
    for (sequence, answer) in &answers {
        sum += sequence % 6;
        assert!(answer.ends_with(&format!("output: {sum} }}")), "{sequence}: {answer}, and not {sum}");
    }
    println!("{kills} kills, {} answers, {repeated} of them again", answers.len());
}
