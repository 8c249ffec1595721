//! Logs and checkpoints of other versions are refused by name and version; new versions go beside old ones.
#![cfg(not(loom))]

use std::sync::Arc;

use mixlog_engine::{
    Builder, Digest, Engine, Index, Never, OpenError, Position, Procedure, Table, Tx, checkpoint,
};
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
    for part in ["\"sums\"", "postcard version 1", "postcard version 2", "no conversion"] {
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

/// What became of the table later: rows tell how often they were added to, then keys are text.
const COUNTED: Table<u64, (u64, u32)> = Table::new("sums").version(2);
const NAMED: Table<String, (u64, u32)> = Table::new("sums").ordered().version(3);
const BY_SUM: Index<String, (u64, u32), u64> = Index::new("sums.by_sum", NAMED, |_, (sum, _)| Some(*sum));

/// The generation of the program that the procedure is of: the same call in all of them.
#[derive(Serialize, Deserialize)]
struct Count<const GENERATION: u32> {
    key: u64,
    amount: u64,
}

impl<const GENERATION: u32> Procedure for Count<GENERATION> {
    const NAME: &'static str = "count";
    type Output = u64;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let Self { key, amount } = *self;
        Ok(match GENERATION {
            1 => {
                let sum = tx.get(&SUMS, &key).copied().unwrap_or(0) + amount;
                tx.put(&SUMS, key, sum);
                sum
            }
            2 => {
                let (sum, count) = tx.get(&COUNTED, &key).copied().unwrap_or_default();
                tx.put(&COUNTED, key, (sum + amount, count + 1));
                sum + amount
            }
            _ => {
                let (sum, count) = tx.get(&NAMED, &key.to_string()).copied().unwrap_or_default();
                tx.put(&NAMED, key.to_string(), (sum + amount, count + 1));
                sum + amount
            }
        })
    }
}

const KEYS: u64 = 3000;

/// Every row is added to once for each time, so sums tell counts.
fn count_of(sum: u64) -> u32 {
    u32::try_from(sum / 10).unwrap()
}

fn generation<const GENERATION: u32>() -> Builder {
    let builder = Engine::builder().procedure::<Count<GENERATION>>().threads(2);
    match GENERATION {
        1 => builder.table(&SUMS),
        2 => builder.table(&COUNTED).convert(&SUMS, &COUNTED, |key, sum| (key, (sum, count_of(sum)))),
        _ => builder
            .table(&NAMED)
            .index(&BY_SUM)
            .convert(&SUMS, &NAMED, |key, sum| (key.to_string(), (sum, count_of(sum))))
            .convert(&COUNTED, &NAMED, |key, row| (key.to_string(), row)),
    }
}

/// Opens it with the next generation of the program, from a checkpoint or from the log's start, adds to all rows, and
/// leaves a checkpoint.
fn live<const GENERATION: u32>(
    directory: &std::path::Path,
    builder: Builder,
    start: checkpoint::Start,
) -> Digest {
    let log = Arc::new(FileLog::open(directory, file::Config::default()).unwrap());
    let config = checkpoint::Config { trim: false, every_bytes: None, start, keep: 9, ..Default::default() };
    let engine = builder.checkpoints(config).open(log).unwrap();
    let tickets: Vec<_> =
        (0..KEYS).map(|key| engine.submit(&Count::<GENERATION> { key, amount: 10 }).unwrap()).collect();
    tickets.into_iter().for_each(|ticket| assert!(ticket.wait().unwrap().committed().is_some()));
    assert_eq!(engine.snapshot().state_digest(), engine.digest().state);
    engine.checkpoint().unwrap();
    engine.digest()
}

/// What a replay says of the state, with and without checkpoints.
fn replayed(
    directory: &std::path::Path,
    builder: Builder,
    start: checkpoint::Start,
) -> (Digest, Option<Position>) {
    let log = Arc::new(FileLog::open(directory, file::Config::default()).unwrap());
    let replay = builder.checkpoints(checkpoint::Config { start, ..Default::default() }).replay(log).unwrap();
    let digest = replay.to_end().unwrap();
    assert_eq!(replay.snapshot().state_digest(), digest.state);
    (digest, replay.recovery().unwrap().checkpoint)
}

#[test]
fn rows_of_older_versions_are_converted_from_checkpoints_to_what_a_replay_of_the_log_makes_them() {
    use checkpoint::Start::{Newest, Oldest};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    live::<1>(path, generation::<1>(), Newest);
    // The third generation knows the first, whether the second was there or not.
    let (loaded, checkpoint) = replayed(path, generation::<3>(), Newest);
    assert!(checkpoint.is_some());
    assert_eq!((loaded, None), replayed(path, generation::<3>(), Oldest));

    live::<2>(path, generation::<2>(), Newest);
    assert_eq!(replayed(path, generation::<2>(), Newest).0, replayed(path, generation::<2>(), Oldest).0);
    let third = live::<3>(path, generation::<3>(), Newest);
    assert_eq!((third, None), replayed(path, generation::<3>(), Oldest));
    // Its own checkpoints are of its own version: no conversion is needed any more.
    let plain = || Engine::builder().procedure::<Count<3>>().table(&NAMED).index(&BY_SUM).threads(1);
    assert_eq!(replayed(path, plain(), Newest).0, third);
    let log = Arc::new(FileLog::open(path, file::Config::default()).unwrap());
    let replay = plain().replay(log).unwrap();
    replay.to_end().unwrap();
    let snapshot = replay.snapshot();
    assert_eq!(snapshot.get(&NAMED, &"17".to_owned()), Some((30, 3)));
    assert_eq!(snapshot.range_by(&BY_SUM, ..).count() as u64, KEYS);
}

#[test]
fn conversions_that_make_no_sense_are_refused_and_missing_ones_named() {
    let directory = tempfile::tempdir().unwrap();
    live::<1>(directory.path(), generation::<1>(), checkpoint::Start::Newest);
    let open = |builder: Builder| {
        let log = Arc::new(FileLog::open(directory.path(), file::Config::default()).unwrap());
        builder.open(log).unwrap_err().to_string()
    };
    let third = || Engine::builder().procedure::<Count<3>>().table(&NAMED);
    let only_from_second = third().convert(&COUNTED, &NAMED, |key, row| (key.to_string(), row));
    let error = open(only_from_second);
    for part in ["\"sums\"", "postcard version 1", "postcard version 3", "no conversion"] {
        assert!(error.contains(part), "{error}");
    }
    const OTHER: Table<u64, u64> = Table::new("other");
    let to_text = |key: u64, sum| (key.to_string(), (sum, 0));
    for (builder, says) in [
        (third().convert(&OTHER, &NAMED, to_text), "cannot be converted into those"),
        (third().convert(&SUMS, &COUNTED, |key, sum| (key, (sum, 0))), "is not registered as"),
        (third().convert(&NAMED, &NAMED, |key, row| (key, row)), "to the same"),
        (third().convert(&SUMS, &NAMED, to_text).convert(&SUMS, &NAMED, to_text), "twice"),
    ] {
        let error = open(builder);
        assert!(error.contains(says), "{error}");
    }
    // Rows that are not what their version promises, and conversions that panic.
    const WRONG: Table<String, Vec<String>> = Table::new("sums");
    let error = open(third().convert(&WRONG, &NAMED, |key, _| (key, (0, 0))));
    assert!(error.contains("cannot be decoded"), "{error}");
    assert!(error.contains("Table::version"), "{error}");
    let error = open(third().convert(&SUMS, &NAMED, |_, _| panic!("no such row")));
    assert!(error.contains("no such row"), "{error}");
    // Two keys that become one.
    const FLAT: Table<String, (u64, u32)> = Table::new("sums").version(3);
    let flat = Engine::builder().procedure::<Count<3>>().table(&FLAT);
    let error = open(flat.convert(&SUMS, &FLAT, |_, sum| ("all".to_owned(), (sum, 0))));
    assert!(error.contains("a key comes twice"), "{error}");
}
