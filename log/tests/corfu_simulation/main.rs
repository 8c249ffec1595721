//! The CORFU cluster in a simulated network with virtual time: each seed is another storm of lost, late,
//! doubled and overtaken messages, cut links, crashes of every role, lost and damaged disks, and drivers who
//! reconfigure against each other. A seed repeats it exactly.
//!
//! `MIXLOG_SEEDS=N` runs N times as many seeds; `MIXLOG_SEED=N` runs this one, and with
//! `MIXLOG_TRACE=1` prints what happens.
#![cfg(not(loom))]

mod checks;
mod client;
mod random;
mod simulation;
mod world;

use mixlog_log::corfu::Rules;

use crate::simulation::run;
use crate::world::{Counts, Kind};

/// Seeds that once failed.
const REGRESSIONS: &[u64] = &[15, 22, 41, 65, 92, 133, 343, 498, 538, 553, 5591];

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[test]
fn every_seed_keeps_what_it_acknowledged_and_comes_to_an_end() {
    if let Some(seed) = variable("MIXLOG_SEED") {
        let counts = run(seed, Rules::SOUND).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        println!("{counts:#?}");
        return;
    }
    let seeds = 8000 * variable("MIXLOG_SEEDS").unwrap_or(1);
    let mut counts = Counts::default();
    let mut failed = Vec::new();
    for seed in REGRESSIONS.iter().copied().chain(0..seeds) {
        match run(seed, Rules::SOUND) {
            Ok(of_seed) => counts.add_all(&of_seed),
            Err(violation) => failed.push((seed, violation)),
        }
    }
    println!("{seeds} seeds: {counts:#?}");
    for (seed, violation) in &failed {
        println!(
            "FAIL {seed}: {}",
            violation.replace(
                "
", " "
            )
        );
    }
    let first = failed.first().map(|(seed, violation)| format!("seed {seed}: {violation}"));
    assert!(failed.is_empty(), "{} seeds failed; {}", failed.len(), first.unwrap_or_default());
    // Each thing that can go wrong did.
    for kind in Kind::ALL {
        assert!(counts.of(kind) > 0, "{kind:?} never happened");
    }
}

/// Whether some seed of a bounded range finds that a rule is broken, and the log wrong. That it panics or makes
/// no progress does not count.
fn is_found(mistake: &str, rules: Rules) -> bool {
    for seed in 0..20_000 {
        if let Ok(Err(violation)) = std::panic::catch_unwind(|| run(seed, rules))
            && !["progress", "repaired", "nothing happens"].iter().any(|stuck| violation.contains(stuck))
        {
            println!("{mistake}: seed {seed}: {}", violation.lines().next().unwrap_or_default());
            return true;
        }
    }
    false
}

#[test]
fn every_broken_rule_is_found_by_some_seed() {
    let sound = Rules::SOUND;
    let mistakes = [
        ("heads are not sealed", Rules { seal_every_unit: false, ..sound }),
        ("tokens have no epoch", Rules { tokens_have_epochs: false, ..sound }),
        ("units join with what they had", Rules { join_empties: false, ..sound }),
        ("recovery is not fenced", Rules { fenced_recovery: false, ..sound }),
        ("bytes are compared, not ids", Rules { compare_ids: false, ..sound }),
        ("runs do not wait for each other", Rules { runs_in_order: false, ..sound }),
    ];
    let missed: Vec<_> = mistakes
        .iter()
        .filter(|(mistake, rules)| !is_found(mistake, *rules))
        .map(|(mistake, _)| *mistake)
        .collect();
    assert_eq!(missed, Vec::<&str>::new());
}
