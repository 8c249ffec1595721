//! Procedures that need much of a stack: what one thread runs, all of them run.

use std::hint::black_box;
use std::sync::Arc;
use std::thread;

use mixlog_engine::{Engine, Footprint, Mode, Never, Outcome, Procedure, Table, Tx};
use mixlog_log::{MemoryLog, SharedLog};
use serde::{Deserialize, Serialize};

const SUMS: Table<u64, u64> = Table::new("sums");

/// Goes down so many calls, each of which has two or three kibibytes on the stack.
#[derive(Serialize, Deserialize)]
struct Descend {
    key: u64,
    calls: u64,
    declared: bool,
}

fn descend(calls: u64) -> u64 {
    let frame = black_box([calls; 128]);
    if calls == 0 { frame[0] } else { 1 + descend(calls - 1) + black_box(frame)[1] % 2 }
}

impl Procedure for Descend {
    const NAME: &'static str = "descend";
    type Output = u64;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        if self.declared {
            f.write(&SUMS, &self.key);
        } else {
            f.reconnoitre();
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let depth = descend(self.calls);
        *tx.get_or_put(&SUMS, self.key, || 0) += depth;
        Ok(depth)
    }
}

fn builder(threads: usize, mode: Mode) -> mixlog_engine::Builder {
    Engine::builder().table(&SUMS).procedure::<Descend>().threads(threads).mode(mode)
}

/// On a thread with the stack of a program's first.
fn on_a_first_thread(work: impl FnOnce() + Send + 'static) {
    thread::Builder::new().stack_size(8 << 20).spawn(work).unwrap().join().unwrap();
}

#[test]
fn what_ran_on_a_callers_stack_runs_on_the_engines_wherever_that_is() {
    // Some 5 MiB.
    const CALLS: u64 = 1_800;
    on_a_first_thread(|| {
        let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
        let engine = builder(1, Mode::Auto).open(Arc::clone(&log)).unwrap();
        for key in 0..8 {
            let call = Descend { key, calls: CALLS, declared: key % 2 == 0 };
            assert!(matches!(engine.execute(&call).unwrap(), Outcome::Committed { .. }));
        }
        let digest = engine.digest();
        engine.close().unwrap();
        for (threads, mode) in [(1, Mode::Sequential), (2, Mode::Parallel), (4, Mode::Auto)] {
            let engine = builder(threads, mode).lanes(4).open(Arc::clone(&log)).unwrap();
            assert_eq!(engine.digest(), digest, "{threads} threads, {mode}");
        }
    });
}

#[test]
fn stacks_are_as_large_as_they_are_asked_to_be() {
    // Some 30 MiB.
    const CALLS: u64 = 12_000;
    let engine = builder(2, Mode::Parallel).stack_size(64 << 20).open(Arc::new(MemoryLog::new())).unwrap();
    let call = |key| Descend { key, calls: CALLS, declared: key % 2 == 0 };
    let tickets: Vec<_> = (0..8).map(|key| engine.submit(&call(key)).unwrap()).collect();
    for ticket in tickets {
        assert!(matches!(ticket.wait().unwrap(), Outcome::Committed { .. }));
    }
}
