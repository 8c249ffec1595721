//! Power cuts at every call of small traces with segments that fill up, checkpoints and trims, and again at a call of
//! the recovery, and of the recovery from that.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use mixlog_log::{Durability, FileLog, SharedLog};
use mixlog_simdisk::{Call, Cut, Disk, Random, Sim};

use crate::alike;
use crate::script::{self, Keep, Promise, Step, WrittenOver};

const SCRIPTS: &[&[Step]] = &[
    // The third one gets the space of the first, and of the log before the second.
    script::UNTIL_HEALED,
    &[
        Step::Burst(30),
        Step::Checkpoint,
        Step::Singles(30),
        Step::Burst(20),
        Step::Checkpoint,
        Step::Singles(20),
        Step::Checkpoint,
        Step::Singles(40),
    ],
    &[
        Step::Burst(3),
        Step::Checkpoint,
        Step::Checkpoint,
        Step::Singles(40),
        Step::Reopen,
        Step::Checkpoint,
        Step::Burst(15),
        Step::Singles(30),
        Step::Checkpoint,
        Step::Burst(2),
        Step::Reopen,
        Step::Burst(1),
        Step::Checkpoint,
    ],
];

/// How many random cuts there are after every call: more with MIXLOG_CUTS=N.
fn cuts() -> u64 {
    std::env::var("MIXLOG_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

/// How crashes went, to see that the tests reach what they are for.
#[derive(Debug, Default)]
struct Tally {
    /// Disks of which no two are alike.
    states: BTreeSet<u64>,
    from_checkpoint: u64,
    trimmed: u64,
    rejected: u64,
    longer_than_acknowledged: u64,
}

struct Crashes {
    durability: Durability,
    random: Random,
    tally: Tally,
}

impl Crashes {
    /// Starts the engine on what a crash left, and cuts the power `depth` times more while it recovers.
    fn recover(&mut self, disk: &Disk, at_least: u64, promise: Promise, depth: u32) -> u64 {
        self.tally.states.insert(alike::fingerprint(disk));
        let sim = Sim::boot(disk.clone());
        let threads = if self.random.one_in(8) { 2 } else { 1 };
        // An engine takes part, a replay only looks, which is quicker. They rebuild the state in the same way.
        let takes_part = self.random.one_in(4);
        let log = FileLog::open_with_storage(sim.storage(), &script::files(self.durability)).unwrap();
        let log = Arc::new(log);
        let (tail, recovery) = if takes_part {
            let engine = script::open_engine(Arc::clone(&log), threads).unwrap();
            let tail = script::assert_state(&engine);
            if depth > 0 {
                // Cut off below, as the recovery is.
                engine.checkpoint().unwrap();
            }
            (tail, engine.recovery().clone())
        } else {
            let replay = script::builder(threads).replay(Arc::clone(&log) as _).unwrap();
            let digest = replay.to_end().unwrap();
            (script::assert_snapshot(&replay.snapshot(), digest), replay.recovery().unwrap())
        };
        assert!(tail >= at_least, "{tail} < {at_least}");
        self.tally.from_checkpoint += u64::from(recovery.checkpoint.is_some());
        self.tally.rejected += recovery.rejected.len() as u64;
        self.tally.trimmed += u64::from(log.tail().unwrap().head.0 > 0);
        self.tally.longer_than_acknowledged += u64::from(tail > promise.acknowledged);
        // Whoever looked now has seen this state: the next power cut must not take it.
        let seen = sim.disk().after(Cut::Nothing, &mut self.random);
        // The catalog of a log that was empty may be lost again, and nobody was told of it.
        let again = if tail > 1 { tail } else { 0 };
        if depth > 0 && self.random.one_in(4) {
            self.recover(&seen, again, promise, 0);
        }
        if depth > 0 {
            // The recovery is itself cut off.
            let trace = sim.trace();
            let calls = self.random.below(trace.len() as u64 + 1) as usize;
            let mut disk = disk.clone();
            trace[..calls].iter().for_each(|call| disk.apply(call));
            let cut = disk.after(Cut::Some, &mut self.random);
            // It may have been a process that ended before.
            self.recover(&cut, promise.at_least(self.durability, false), promise, depth - 1);
        }
        tail
    }

    /// Plays a power cut after every call of the trace, from one of them on.
    fn everywhere(&mut self, trace: &[Call], from: usize) {
        let mut disk = Disk::default();
        let (mut promise, mut seen) = (Promise::default(), BTreeSet::new());
        for (number, call) in trace.iter().enumerate() {
            disk.apply(call);
            if let Call::Note(note) = call {
                promise.add(note);
            }
            if number < from {
                continue;
            }
            let mut kinds = vec![(Cut::Some, false); cuts() as usize];
            let ended = if self.random.one_in(2) { Cut::Everything } else { Cut::Unsaved };
            kinds.extend([(Cut::Nothing, false), (ended, true)]);
            for (cut, only_the_process_ended) in kinds {
                let after = disk.after(cut, &mut self.random);
                let at_least = promise.at_least(self.durability, only_the_process_ended);
                // The same disk was found with the same promise before; what a cut may take of it is not seen.
                if !only_the_process_ended && !seen.insert((after.fingerprint(), at_least)) {
                    continue;
                }
                self.recover(&after, at_least, promise, 2);
            }
        }
    }
}

fn spare() -> String {
    "checkpoints/checkpoint.spare".to_owned()
}

/// Tells which disks the crashes left.
fn cut_scripts(durability: Durability, seed: u64, fitful: bool) -> BTreeSet<u64> {
    let mut crashes = Crashes { durability, random: Random(seed), tally: Tally::default() };
    let scripts = SCRIPTS.iter().map(|steps| (Keep::Two, *steps)).chain(script::FULL.iter().copied());
    let mut over = WrittenOver::default();
    for (number, script) in scripts.enumerate() {
        let sim = Sim::default();
        if fitful {
            sim.set_fitful(seed);
        }
        script::go_through(&sim, durability, 1, script, None, &mut Err).unwrap();
        let trace = sim.trace();
        let found = WrittenOver::count(&trace);
        println!("script {number}: {found:?}");
        over = over.and(found);
        // What comes before the disk is full is in the other scripts.
        let gives_up =
            |call: &Call| matches!(call, Call::Rename { from, to } if [from, to].contains(&&spare()));
        let from = if number < SCRIPTS.len() { Some(0) } else { trace.iter().position(gives_up) };
        crashes.everywhere(&trace, from.expect("space is given up"));
    }
    assert!(over.truncations > 0 && over.renames > 0, "{over:?}");
    let tally = crashes.tally;
    println!(
        "{durability:?}, seed {seed}: {} states, {} from a checkpoint, {} trimmed, {} checkpoints rejected, {} longer than acknowledged",
        tally.states.len(),
        tally.from_checkpoint,
        tally.trimmed,
        tally.rejected,
        tally.longer_than_acknowledged
    );
    assert!(tally.from_checkpoint > 0 && tally.trimmed > 0 && tally.longer_than_acknowledged > 0);
    assert_eq!(tally.rejected, 0, "a name is given to what is whole only");
    tally.states
}

/// A flushed log keeps what was acknowledged, also where writes are done in pieces; a buffered one what a checkpoint has.
#[test]
fn power_cut_at_every_call_keeps_what_was_promised() {
    let states = thread::scope(|scope| {
        let runs = [(Durability::Flushed, false), (Durability::Buffered, false), (Durability::Flushed, true)];
        let runs: Vec<_> = (1..)
            .zip(runs)
            .map(|(seed, (durability, fitful))| scope.spawn(move || cut_scripts(durability, seed, fitful)))
            .collect();
        runs.into_iter()
            .map(|run| run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .reduce(|one, other| &one | &other)
    });
    let states = states.expect("three").len();
    println!("{states} disks, no two alike");
    assert!(states >= 5000, "{states} disks are too few");
}

#[test]
fn checkpoint_that_a_process_named_and_did_not_live_to_sync_is_synced_before_the_log_is_trimmed() {
    let sim = Sim::default();
    script::run(&sim, Durability::Flushed, 1, &[Step::Burst(80), Step::Checkpoint]).unwrap();
    let trace = sim.trace();
    let named =
        |call: &Call| matches!(call, Call::Rename { to, .. } if to.starts_with("checkpoints/checkpoint-"));
    let named = trace.iter().position(named).expect("it gets a name");
    let mut disk = Disk::default();
    trace[..=named].iter().for_each(|call| disk.apply(call));
    for cut in [Cut::Everything, Cut::Unsaved] {
        let sim = Sim::boot(disk.after(cut, &mut Random(1)));
        // One is enough for the log before it to be trimmed.
        let running = script::open_keeping(&sim, Durability::Flushed, 1, Keep::OneAndSpare).unwrap();
        let tail = script::assert_state(&running.engine);
        // It is there already; what it makes superfluous is given up.
        assert_eq!(running.engine.checkpoint().unwrap().position.0 + 1, tail);
        assert!(running.log.tail().unwrap().head.0 > 0);
        let disk = sim.disk().after(Cut::Nothing, &mut Random(1));
        let running = script::open(&Sim::boot(disk), Durability::Flushed, 1).unwrap();
        assert_eq!(script::assert_state(&running.engine), tail);
    }
}
