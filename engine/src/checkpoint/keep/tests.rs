//! When checkpoints are due.

use std::thread;

use mixlog_log::MemoryLog;
use mixlog_log::file::FsStorage;
use serde::{Deserialize, Serialize};

use super::*;
use crate::{Engine, Never, Procedure, Table, Tx};

const NUMBERS: Table<u64, u64> = Table::new("numbers");

#[derive(Serialize, Deserialize)]
struct Put(u64);

impl Procedure for Put {
    const NAME: &'static str = "put";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&NUMBERS, self.0, self.0);
        Ok(())
    }
}

#[test]
fn checkpoint_that_time_asks_for_is_taken_though_the_keeper_wakes_for_other_reasons_all_the_while() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        storage: Some(Arc::new(FsStorage::new(directory.path()))),
        every: Some(Duration::from_secs(1)),
        every_bytes: None,
        ..Config::default()
    };
    let engine = Engine::builder().table(&NUMBERS).procedure::<Put>().threads(1).checkpoints(config);
    let engine = engine.open(Arc::new(MemoryLog::new())).unwrap();
    let (snapshot, begun) = (engine.snapshot(), Instant::now());
    for n in 0..2 {
        engine.execute(&Put(n)).unwrap();
        let position = engine.position();
        while engine.checkpoints().last().copied() < position {
            assert!(begun.elapsed() < Duration::from_secs(60), "it never comes");
            snapshot.due().wake();
            thread::sleep(Duration::from_millis(1));
        }
    }
    engine.close().unwrap();
}

#[test]
fn checkpoint_on_request_puts_off_the_next_ones_that_time_and_bytes_ask_for() {
    let every = Duration::from_secs(1);
    // Each entry takes more than 32 bytes.
    for (every, every_bytes) in [(Some(every), None), (None, Some(10_000))] {
        let directory = tempfile::tempdir().unwrap();
        let storage = Some(Arc::new(FsStorage::new(directory.path())) as _);
        let config = Config { storage, every, every_bytes, ..Config::default() };
        let engine = Engine::builder().table(&NUMBERS).procedure::<Put>().threads(1).checkpoints(config);
        let engine = engine.open(Arc::new(MemoryLog::new())).unwrap();
        let put = |numbers: std::ops::Range<u64>| {
            for n in numbers {
                engine.execute(&Put(n)).unwrap();
            }
        };
        let bytes = || engine.snapshot().due().executed();
        if let Some(every) = every {
            thread::sleep(every / 2);
        } else {
            while bytes() < 7_000 {
                put(0..1);
            }
        }
        put(0..1);
        let (begun, before) = (Instant::now(), bytes());
        let position = engine.checkpoint().unwrap().position;
        let mut next = 0;
        while engine.checkpoints().last() == Some(&position) {
            assert!(begun.elapsed() < Duration::from_secs(60), "it never comes");
            put(next..next + 1);
            next += 1;
            thread::sleep(Duration::from_millis(1));
        }
        match every {
            Some(every) => assert!(begun.elapsed() >= every, "{:?}", begun.elapsed()),
            None => assert!(bytes() >= before + 10_000, "{} after {before}", bytes()),
        }
        engine.close().unwrap();
    }
}
