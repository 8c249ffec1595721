//! Logs and checkpoints of other versions are refused by name and version; new versions go beside old ones.
#![cfg(not(loom))]

use std::sync::Arc;

use mixlog_engine::{Builder, Engine, Never, OpenError, Position, Procedure, Table, Tx, checkpoint};
use mixlog_log::{FileLog, MemoryLog, SharedLog, file};
use serde::{Deserialize, Serialize};

const SUMS: Table<u64, u64> = Table::new("sums");

#[derive(Serialize, Deserialize)]
struct Add(u64);

impl Procedure for Add {
    const NAME: &'static str = "add";
    type Output = u64;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let sum = tx.get(&SUMS, &0).copied().unwrap_or(0) + self.0;
        tx.put(&SUMS, 0, sum);
        Ok(sum)
    }
}

/// The same, which has other arguments and adds twice as much.
#[derive(Serialize, Deserialize)]
struct AddTwice {
    amount: u32,
    why: String,
}

impl Procedure for AddTwice {
    const NAME: &'static str = "add";
    const VERSION: u32 = 2;
    type Output = u64;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        Add(u64::from(self.amount) * 2).run(tx)
    }
}

fn builder() -> Builder {
    Engine::builder().table(&SUMS).threads(1)
}

#[test]
fn procedure_of_another_version_is_named_and_both_go_beside_each_other() {
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = builder().procedure::<Add>().open(Arc::clone(&log)).unwrap();
    engine.submit(&Add(5)).unwrap().wait().unwrap();
    drop(engine);
    match builder().procedure::<AddTwice>().open(Arc::clone(&log)) {
        Err(OpenError::MissingProcedure { name, version: 1, position: Position::ZERO }) => {
            assert_eq!(name, "add")
        }
        other => panic!("{other:?}"),
    }
    let engine = builder().procedure::<Add>().procedure::<AddTwice>().open(Arc::clone(&log)).unwrap();
    let sum = engine.submit(&AddTwice { amount: 4, why: "more".into() }).unwrap().wait().unwrap();
    assert_eq!(sum.committed(), Some(13));
    assert_eq!(engine.submit(&Add(1)).unwrap().wait().unwrap().committed(), Some(14));
    drop(engine);
    let error = builder().procedure::<Add>().open(log).unwrap_err().to_string();
    assert!(error.contains("procedure \"add\" version 2"), "{error}");
}

#[test]
fn checkpoint_with_rows_of_another_version_is_refused_by_name_and_version() {
    let directory = tempfile::tempdir().unwrap();
    let open = |sums: Table<u64, u64>, start| {
        let log = Arc::new(FileLog::open(directory.path(), file::Config::default()).unwrap());
        let config = checkpoint::Config { trim: false, start, ..checkpoint::Config::default() };
        Engine::builder().table(&sums).procedure::<Add>().threads(1).checkpoints(config).open(log)
    };
    let engine = open(SUMS, checkpoint::Start::Newest).unwrap();
    engine.submit(&Add(5)).unwrap().wait().unwrap();
    engine.checkpoint().unwrap();
    drop(engine);
    let error = open(SUMS.version(2), checkpoint::Start::Newest).unwrap_err().to_string();
    for part in ["\"sums\"", "postcard version 1", "postcard version 2"] {
        assert!(error.contains(part), "{error}");
    }
    // The log tells of calls and not of rows, so all of it is good for rows of any version; a new checkpoint has them.
    let engine = open(SUMS.version(2), checkpoint::Start::Oldest).unwrap();
    engine.submit(&Add(6)).unwrap().wait().unwrap();
    engine.checkpoint().unwrap();
    drop(engine);
    let engine = open(SUMS.version(2), checkpoint::Start::Newest).unwrap();
    assert!(engine.recovery().checkpoint.is_some());
    assert_eq!(engine.snapshot().get(&SUMS.version(2), &0), Some(11));
}
