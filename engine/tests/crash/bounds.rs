//! Bounded resources: queues that push back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use mixlog_engine::{Never, Procedure, Table, Tx};
use mixlog_log::MemoryLog;
use serde::{Deserialize, Serialize};

const ROWS: Table<u64, Vec<u8>> = Table::new("rows");

/// Writes a row of so many bytes.
#[derive(Serialize, Deserialize)]
struct Fill {
    key: u64,
    bytes: usize,
}

impl Procedure for Fill {
    const NAME: &'static str = "fill";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&ROWS, self.key, vec![1; self.bytes]);
        Ok(())
    }
}

#[test]
fn submissions_beyond_what_may_be_in_flight_wait_for_room() {
    let builder = mixlog_engine::Engine::builder().table(&ROWS).procedure::<Fill>().max_in_flight(16);
    let engine = builder.threads(2).open(Arc::new(MemoryLog::new())).unwrap();
    let most = AtomicU64::new(0);
    thread::scope(|scope| {
        for client in 0..4 {
            let (engine, most) = (&engine, &most);
            scope.spawn(move || {
                for key in 0..500 {
                    drop(engine.submit(&Fill { key: client * 1000 + key, bytes: 10 }).unwrap());
                    most.fetch_max(engine.in_flight() as u64, Ordering::Relaxed);
                }
            });
        }
    });
    // Each of the four may have looked at the same moment.
    assert!((1..=20).contains(&most.into_inner()));
    engine.submit(&Fill { key: 0, bytes: 1 }).unwrap().wait().unwrap();
    assert_eq!(engine.snapshot().len(&ROWS), 2000);
}
