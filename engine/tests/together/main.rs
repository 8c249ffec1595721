//! All features on one engine and one log: ordered and grouped tables with their indexes, merges, bounded adds, ranges;
//! footprints that are declared, found, inferred, wrong; aborts, panics; interactive transactions; clients that submit
//! twice; snapshots; checkpoints. Whatever threads were told is what one transaction after another gives, in the order
//! of the log, and every replay ends in the same state. `MIXLOG_SEEDS=N` runs N times as many seeds, `MIXLOG_SEED=N`
//! this one.
//!
//! * [`tables`]: the tables, and what can be done with them;
//! * [`steps`]: transactions as lists of steps, and the procedures that take them;
//! * [`live`]: threads that do all of it, and keep what they were told;
//! * [`model`]: the specification, a map;
//! * [`history`]: what was told, against the model.
#![cfg(not(loom))]

#[path = "../support/draw.rs"]
mod draw;
mod history;
mod live;
mod model;
#[path = "../support/random.rs"]
mod random;
#[path = "../support/replay.rs"]
mod replay;
mod steps;
mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;

use draw::Draw;
use history::{Counts, History};
use live::{Called, Caller, Plan, THREADS, Told, conclude, populate};
use mixlog_engine::checkpoint::{self, Start};
use mixlog_engine::{Builder, ClientId, Digest, Engine, Mode, Stats};
use mixlog_log::{Durability, FileLog, MemoryLog, SharedLog, file};
use model::look;
use replay::{expect_panics, replay};
use steps::{PLANNED, Quality};
use tables::builder;

/// How many things each thread does.
const TURNS: u64 = 400;

/// How the engine at work executes.
fn drawn(draw: &mut Draw) -> Builder {
    builder()
        .threads(draw.one_of(&[2, 2, 3, 4]))
        .window(draw.one_of(&[7, 64, 64, 256, 4096]))
        .mode(draw.one_of(&[Mode::Parallel, Mode::Parallel, Mode::Auto]))
        .retain(draw.one_of(&[0, 200]))
        .paranoid(draw.one_of(&[0, 0, 0, 5]))
        .explain(draw.one_of(&[0, 0, 1]))
        .max_in_flight(draw.one_of(&[30, 1 << 20]))
        .declared(draw.one_of(&[true, true, false]))
}

/// Rows to begin with, the threads, and the end: what they were told, and the digest.
fn at_work(engine: Engine, plan: Plan) -> (Told, Digest) {
    let mut told = populate(&engine, plan.seed);
    if plan.takes_checkpoints {
        engine.checkpoint().expect("it is taken");
    }
    thread::scope(|scope| {
        let engine = &engine;
        let caller = |thread| scope.spawn(move || Caller::new(engine, thread, plan).run());
        let callers: Vec<_> = (0..THREADS).map(caller).collect();
        callers.into_iter().for_each(|caller| told.add(caller.join().expect("a caller")));
    });
    conclude(&engine, &mut told);
    let digest = engine.digest();
    assert_eq!(engine.snapshot().state_digest(), digest.state, "kept up, and from scratch");
    engine.close().expect("it closes");
    (told, digest)
}

/// The log, replayed in a way, ends with this digest and the rows of the model.
fn assert_replays(log: &Arc<dyn SharedLog>, way: Builder, expected: (Digest, &History), what: &str) -> Stats {
    let (digest, history) = expected;
    let replay = way.replay(Arc::clone(log)).expect("it opens");
    let end = replay.to_end().expect("it replays");
    let (state, from_scratch) = look(&replay.snapshot());
    assert_eq!(&state, history.end(), "{what}: rows");
    assert_eq!(from_scratch, end.state, "{what}: kept up, and from scratch");
    assert_eq!(end, digest, "{what}");
    replay.stats()
}

fn sequential() -> Builder {
    builder().threads(1).mode(Mode::Sequential)
}

/// One seed on a log in memory; adds what happened.
fn run(seed: u64, counts: &mut Counts) {
    let mut draw = Draw(seed);
    let quality = [Quality::Honest, Quality::Few, Quality::All][seed as usize % 3];
    let plan = Plan { seed, turns: TURNS, quality, takes_checkpoints: false };
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = drawn(&mut draw).open(Arc::clone(&log)).expect("it opens");
    let (told, live) = at_work(engine, plan);
    let history = History::one_by_one(&told);
    let replays = |way: Builder, what: &str| {
        assert_replays(&log, way, (live, &history), &format!("seed {seed}, {what}"))
    };
    let oracle = replays(sequential(), "one by one");
    history.assert_complete(&oracle);
    for threads in [1, 2, 4, 8] {
        for window in [1, 7, 64, 4096] {
            let parallel = builder().threads(threads).window(window).mode(Mode::Parallel);
            let stats = replays(parallel, &format!("{threads} threads, windows of {window}"));
            assert_eq!((stats.aborts, stats.panics), (oracle.aborts, oracle.panics));
            counts.add(&stats);
        }
    }
    let others = [
        builder().threads(2).window(256),
        builder().threads(3).window(64).paranoid(3),
        builder().threads(2).window(64).mode(Mode::Parallel).declared(false),
    ];
    for other in others {
        assert_eq!(replay(&log, other).0, live, "seed {seed}");
    }
    counts.tell(&told);
}

fn seeds(many: u64) -> impl Iterator<Item = u64> {
    expect_panics(PLANNED);
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("MIXLOG_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..many * number("MIXLOG_SEEDS").unwrap_or(1),
    };
    seeds.inspect(|seed| println!("seed {seed}"))
}

#[test]
fn all_features_on_one_log_are_answered_as_one_by_one_and_every_replay_ends_alike() {
    let mut counts = Counts::default();
    let mut ran = 0;
    for seed in seeds(6) {
        run(seed, &mut counts);
        ran += 1;
    }
    if ran > 1 {
        counts.assert_all();
    }
}

/// What clients were told of their numbers, they are told again.
fn assert_told_again(engine: &Engine, plan: Plan, told: &Told) {
    let numbered = told.calls.iter().filter_map(|called| Some((called.once?, called)));
    let answers: BTreeMap<_, _> = numbered.collect();
    assert!(answers.len() > 10, "{}", answers.len());
    for ((client, number), first) in answers {
        let call = plan.numbered(client, number);
        let outcome = engine.client(ClientId(client)).execute(number, &call).expect("it is executed");
        let again = Called::new(outcome, call.steps, first.once);
        assert_eq!((again.at, &again.end), (first.at, &first.end), "{again:?}");
    }
}

fn keep(start: Start) -> checkpoint::Config {
    checkpoint::Config { start, trim: false, every_bytes: None, ..Default::default() }
}

#[test]
fn all_features_beside_checkpoints_end_alike_from_the_start_and_from_checkpoints() {
    for seed in seeds(3) {
        let directory = tempfile::tempdir().expect("a directory");
        let config = file::Config { durability: Durability::Buffered, ..file::Config::default() };
        let open = || -> Arc<dyn SharedLog> {
            Arc::new(FileLog::open(directory.path(), config.clone()).expect("it opens"))
        };
        let mut draw = Draw(seed);
        let plan = Plan { seed, turns: TURNS, quality: Quality::Few, takes_checkpoints: true };
        let mut engine = || drawn(&mut draw).checkpoints(keep(Start::Newest)).open(open()).expect("it opens");
        let (told, live) = at_work(engine(), plan);
        let history = History::one_by_one(&told);
        let log = open();
        for start in [Start::Oldest, Start::Newest] {
            let replays = |way: Builder, what: &str| {
                let what = format!("seed {seed}, from the {start:?}, {what}");
                assert_replays(&log, way.checkpoints(keep(start)), (live, &history), &what)
            };
            let oracle = replays(sequential(), "one by one");
            assert_eq!(oracle.transactions - oracle.repeats < history.transactions, start == Start::Newest);
            for (threads, window) in [(2, 64), (4, 7), (8, 4096)] {
                let parallel = builder().threads(threads).window(window).mode(Mode::Parallel);
                replays(parallel, &format!("{threads} threads, windows of {window}"));
            }
        }
        drop(log);
        let engine = engine();
        assert!(engine.recovery().checkpoint.is_some());
        assert_eq!(engine.digest(), live);
        assert_told_again(&engine, plan, &told);
        assert_eq!(look(&engine.snapshot()), (history.end().clone(), live.state), "retries change nothing");
    }
}
