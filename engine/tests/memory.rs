//! A limit on memory. It counts what the whole process uses, so these tests have one of their own, and run one by one.
#![cfg(not(loom))]

use std::fs;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mixlog_engine::{Engine, Never, Procedure, SubmitError, Table, Tx};
use mixlog_log::MemoryLog;
use serde::{Deserialize, Serialize};

const ROWS: Table<u64, Vec<u8>> = Table::new("rows");

const MIB: u64 = 1 << 20;

/// What is used beyond the limit at most: the process is looked at every 10 ms or so, and what is in flight is executed.
/// Here that is a row of a mebibyte, at some places at once.
const BURST: u64 = 64 * MIB;

/// Longer than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

static ALONE: Mutex<()> = Mutex::new(());

/// Writes a row of so many bytes.
#[derive(Serialize, Deserialize)]
struct Fill {
    key: u64,
    bytes: u64,
}

impl Procedure for Fill {
    const NAME: &'static str = "fill";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&ROWS, self.key, vec![1; self.bytes as usize]);
        Ok(())
    }
}

fn open(max_memory: u64) -> Engine {
    let builder = Engine::builder().table(&ROWS).procedure::<Fill>();
    builder.threads(1).max_memory(max_memory).open(Arc::new(MemoryLog::new())).unwrap()
}

/// What the operating system counts for this process, in bytes.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

/// Writes rows from `first` on until they are refused; tells how many there are then.
fn fill(engine: &Engine, first: u64) -> u64 {
    for key in first..4096 {
        match engine.submit(&Fill { key, bytes: MIB }) {
            Ok(ticket) => drop(ticket.wait().unwrap()),
            Err(error) => {
                let used = resident();
                let SubmitError::OutOfMemory { resident, limit } = error else { panic!("{error}") };
                assert!(error.is_temporary() && resident > limit, "{error}");
                assert!(resident <= limit + BURST, "{resident} is far more than {limit}");
                assert!(used <= limit + BURST, "{used} is far more than {limit}");
                return key;
            }
        }
    }
    panic!("four gigabytes were taken");
}

#[test]
fn memory_beyond_its_limit_refuses_submissions_while_reads_go_on_until_there_is_more() {
    let _alone = ALONE.lock();
    // Anything that runs uses more.
    let engine = open(MIB);
    let Err(SubmitError::OutOfMemory { resident, limit }) = engine.submit(&Fill { key: 1, bytes: 10 }) else {
        panic!("it is not refused");
    };
    assert!(resident > limit && limit == MIB);
    assert!(engine.snapshot().is_empty(&ROWS), "reads go on");
    engine.set_max_memory(resident + 64 * MIB);
    let rows = fill(&engine, 0);
    assert!(rows > 8, "{rows} rows are no 64 MiB");
    assert_eq!(engine.snapshot().len(&ROWS) as u64, rows);
    engine.set_max_memory(0);
    engine.submit(&Fill { key: rows, bytes: 1 }).unwrap().wait().unwrap();
}

#[test]
fn memory_that_others_give_back_lets_submissions_in_again_by_itself() {
    let _alone = ALONE.lock();
    // Part of the same process.
    let other = vec![1u8; (BURST + 64 * MIB) as usize];
    let engine = open(resident() + 64 * MIB);
    let mut rows = fill(&engine, 0);
    drop(std::hint::black_box(other));
    let begun = Instant::now();
    loop {
        match engine.submit(&Fill { key: rows, bytes: MIB }) {
            Ok(ticket) => break drop(ticket.wait().unwrap()),
            Err(error) => {
                assert!(begun.elapsed() < PATIENCE, "{error}");
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
    rows = fill(&engine, rows + 1);
    assert_eq!(engine.snapshot().len(&ROWS) as u64, rows);
}
