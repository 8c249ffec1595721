//! `get_or_put`: like a look, a put where there is nothing, and a change, on all ways through the engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use mixlog_engine::{Engine, Footprint, Index, Mode, Procedure, Table, Tx};
use mixlog_log::MemoryLog;
use serde::{Deserialize, Serialize};

const COUNTS: Table<u64, u64> = Table::new("counts");
const BY_COUNT: Index<u64, u64, u64> = Index::new("counts.by_count", COUNTS, |_, &count| Some(count));

/// Counts from ten, and not to a multiple of seven: then what was put, too, is undone.
#[derive(Serialize, Deserialize)]
struct Count {
    key: u64,
    by: u64,
    declares: bool,
}

impl Procedure for Count {
    const NAME: &'static str = "count";
    type Output = u64;
    type Abort = ();

    fn footprint(&self, f: &mut Footprint<'_>) {
        if self.declares {
            f.write(&COUNTS, &self.key);
        } else {
            f.reconnoitre();
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, ()> {
        let count = tx.get_or_put(&COUNTS, self.key, || 10);
        *count += self.by;
        let count = *count;
        // The index sees the change at once.
        let found: Vec<_> = tx.range_by(&BY_COUNT, count..=count).map(|(_, key)| key).collect();
        assert!(found.contains(&self.key));
        if count.is_multiple_of(7) { Err(()) } else { Ok(count) }
    }
}

#[test]
fn get_or_put_counts_like_a_map_in_every_mode() {
    let calls = || (0..3000).map(|i| Count { key: i * i % 211, by: 1 + i % 3, declares: i % 2 == 0 });
    let mut model = BTreeMap::new();
    let expected: Vec<_> = calls()
        .map(|Count { key, by, .. }| {
            let count = model.get(&key).copied().unwrap_or(10) + by;
            if count % 7 == 0 {
                return None;
            }
            model.insert(key, count);
            Some(count)
        })
        .collect();
    for (mode, threads) in [(Mode::Sequential, 1), (Mode::Parallel, 3)] {
        let builder = Engine::builder().table(&COUNTS).index(&BY_COUNT).procedure::<Count>();
        let log = Arc::new(MemoryLog::new());
        let engine = builder.mode(mode).threads(threads).open(log).expect("an empty log");
        let tickets: Vec<_> = calls().map(|call| engine.submit(&call).expect("it runs")).collect();
        let answers = tickets.into_iter().map(|ticket| ticket.wait().expect("it runs").decided());
        let answers: Vec<_> = answers.map(|answer| answer.expect("nothing panics").ok()).collect();
        assert_eq!(answers, expected, "{mode:?}");
        let snapshot = engine.snapshot();
        let mut rows = BTreeMap::new();
        snapshot.for_each(&COUNTS, |&key, &count| assert_eq!(rows.insert(key, count), None));
        assert_eq!(rows, model, "{mode:?}");
        assert_eq!(snapshot.state_digest(), engine.digest().state);
    }
}

#[test]
fn get_or_put_in_an_interactive_transaction_commits_what_it_made() {
    let engine = Engine::builder().table(&COUNTS).open(Arc::new(MemoryLog::new())).expect("an empty log");
    for expected in [11, 12] {
        let mut transaction = engine.begin();
        *transaction.get_or_put(&COUNTS, 1, || 10) += 1;
        transaction.commit().expect("nobody else is there");
        assert_eq!(engine.snapshot().get(&COUNTS, &1), Some(expected));
    }
}
