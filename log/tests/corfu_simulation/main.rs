//! The CORFU cluster in a simulated network with virtual time: each seed is another storm of lost, late,
//! doubled and overtaken messages, cut links, crashes of every role, lost and damaged disks, and drivers who
//! reconfigure against each other. A seed repeats it exactly. Units flush what they are written before they answer, or
//! buffer it, and are flushed when somebody asks.
//!
//! Then everything must come to an end, without those who never come back: in half of the seeds units, as many as the
//! chains can do without, and one of the sequencers.
//!
//! `MIXLOG_SEEDS=N` runs N times as many seeds; `MIXLOG_SEED=N` runs this one, and with
//! `MIXLOG_TRACE=1` prints what happens.
#![cfg(not(loom))]

mod calm;
mod checks;
mod client;
mod random;
mod simulation;
mod world;

use mixlog_log::Durability;
use mixlog_log::corfu::Rules;

use crate::simulation::run;
use crate::world::{Counts, Kind};

/// Seeds that once failed.
const REGRESSIONS: &[u64] = &[15, 22, 41, 65, 92, 133, 343, 498, 538, 553, 5591];

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// Runs these seeds, or the one that is asked for, and tells how often what happened.
///
/// # Panics
/// When a seed fails.
fn run_all(name: &str, seeds: impl Iterator<Item = u64>, durability: Durability) -> Option<Counts> {
    if let Some(seed) = variable("MIXLOG_SEED") {
        let counts = run(seed, Rules::SOUND, durability);
        println!("{name}: {:#?}", counts.unwrap_or_else(|violation| panic!("seed {seed}: {violation}")));
        return None;
    }
    let mut counts = Counts::default();
    let (mut tried, mut failed) = (0, Vec::new());
    for seed in seeds {
        tried += 1;
        match run(seed, Rules::SOUND, durability) {
            Ok(of_seed) => counts.add_all(&of_seed),
            Err(violation) => failed.push((seed, violation)),
        }
    }
    println!("{name}, {tried} seeds: {counts:#?}");
    for (seed, violation) in &failed {
        println!("FAIL {seed}: {}", violation.replace('\n', " "));
    }
    let first = failed.first().map(|(seed, violation)| format!("seed {seed}: {violation}"));
    assert!(failed.is_empty(), "{} seeds failed; {}", failed.len(), first.unwrap_or_default());
    Some(counts)
}

fn assert_all_happened(counts: &Counts, kinds: &[Kind]) {
    for kind in kinds {
        assert!(counts.of(*kind) > 0, "{kind:?} never happened");
    }
}

#[test]
fn every_seed_keeps_what_it_acknowledged_and_comes_to_an_end() {
    let seeds = REGRESSIONS.iter().copied().chain(0..8000 * variable("MIXLOG_SEEDS").unwrap_or(1));
    if let Some(counts) = run_all("units that flush", seeds, Durability::Flushed) {
        // Each thing that can go wrong did.
        assert_all_happened(&counts, &Kind::ALL);
    }
}

#[test]
fn every_seed_on_units_that_buffer_keeps_what_was_flushed() {
    let seeds = 0..8000 * variable("MIXLOG_SEEDS").unwrap_or(1);
    if let Some(counts) = run_all("units that buffer", seeds, Durability::Buffered) {
        assert_all_happened(&counts, &Kind::ALL);
        assert_all_happened(&counts, &Kind::BUFFERED);
    }
}

/// Whether some seed of a bounded range finds that a rule is broken, and the log wrong. That it panics or makes
/// no progress does not count.
fn is_found(mistake: &str, rules: Rules, durability: Durability) -> bool {
    for seed in 0..20_000 {
        if let Ok(Err(violation)) = std::panic::catch_unwind(|| run(seed, rules, durability))
            && !["progress", "repaired", "nothing happens", "all is calm"]
                .iter()
                .any(|stuck| violation.contains(stuck))
        {
            println!("{mistake}: seed {seed}: {}", violation.lines().next().unwrap_or_default());
            return true;
        }
    }
    false
}

#[test]
fn every_broken_rule_is_found_by_some_seed() {
    let (sound, flushed, buffered) = (Rules::SOUND, Durability::Flushed, Durability::Buffered);
    let mistakes = [
        ("heads are not sealed", Rules { seal_every_unit: false, ..sound }, flushed),
        ("tokens have no epoch", Rules { tokens_have_epochs: false, ..sound }, flushed),
        ("units join with what they had", Rules { join_empties: false, ..sound }, flushed),
        ("recovery is not fenced", Rules { fenced_recovery: false, ..sound }, flushed),
        ("bytes are compared, not ids", Rules { compare_ids: false, ..sound }, flushed),
        ("runs do not wait for each other", Rules { runs_in_order: false, ..sound }, flushed),
        ("flushes are answered before they are done", Rules { flush_waits: false, ..sound }, buffered),
    ];
    let missed: Vec<_> = mistakes
        .iter()
        .filter(|(mistake, rules, durability)| !is_found(mistake, *rules, *durability))
        .map(|(mistake, ..)| *mistake)
        .collect();
    assert_eq!(missed, Vec::<&str>::new());
}
