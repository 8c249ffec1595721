//! Bounded resources: queues that push back, and a limit on memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use mixlog_engine::{Never, Procedure, SubmitError, Table, Tx};
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

#[test]
fn memory_beyond_its_limit_refuses_submissions_while_reads_go_on_until_there_is_more() {
    let builder = mixlog_engine::Engine::builder().table(&ROWS).procedure::<Fill>();
    // Anything that runs uses more.
    let engine = builder.threads(1).max_memory(1 << 20).open(Arc::new(MemoryLog::new())).unwrap();
    let Err(SubmitError::OutOfMemory { resident, limit }) = engine.submit(&Fill { key: 1, bytes: 10 }) else {
        panic!("it is not refused");
    };
    assert!(resident > limit && limit == 1 << 20);
    assert!(engine.snapshot().is_empty(&ROWS), "reads go on");
    // Some room, and a load that needs more than that.
    engine.set_max_memory(resident + (64 << 20));
    let mut key = 0;
    let error = loop {
        match engine.submit(&Fill { key, bytes: 1 << 20 }) {
            Ok(ticket) => drop(ticket.wait().unwrap()),
            Err(error) => break error,
        }
        key += 1;
        assert!(key < 4096, "four gigabytes were taken");
    };
    assert!(matches!(error, SubmitError::OutOfMemory { .. }) && error.is_temporary(), "{error}");
    assert_eq!(engine.snapshot().len(&ROWS) as u64, key);
    engine.set_max_memory(0);
    engine.submit(&Fill { key, bytes: 1 }).unwrap().wait().unwrap();
}
