//! Logs and checkpoints of other versions are refused by name and version; new versions go beside old ones.
#![cfg(not(loom))]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mixlog_engine::{
    Builder, Digest, Engine, Index, Never, OpenError, Position, Procedure, Replica, Snapshot, Table,
    Transaction, Tx, checkpoint,
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
fn checkpoint_on_request_takes_the_place_of_a_converted_one_though_nothing_was_executed_since() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    live::<1>(path, generation::<1>(), checkpoint::Start::Newest);
    let open = |builder: Builder, keep| {
        let log = FileLog::open(path, file::Config::default()).unwrap();
        let config = checkpoint::Config { every_bytes: None, keep, ..Default::default() };
        builder.checkpoints(config).open(Arc::new(log)).unwrap()
    };
    let plain = || Engine::builder().procedure::<Count<3>>().table(&NAMED).index(&BY_SUM).threads(1);
    // The only one, of which nothing is left in the log.
    let engine = open(generation::<1>(), 1);
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    let engine = open(generation::<3>(), 1);
    let (digest, loaded) = (engine.digest(), engine.recovery().checkpoint);
    let taken = engine.checkpoint().unwrap();
    assert_eq!((Some(taken.position), taken.rows), (loaded, KEYS));
    assert_eq!(engine.checkpoints(), [taken.position]);
    let names = || {
        let files = std::fs::read_dir(path.join("checkpoints")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.ends_with("lock")).collect::<Vec<_>>()
    };
    assert_eq!(names().len(), 1, "{:?}", names());
    // Taken again it is left alone.
    let at = || std::fs::metadata(path.join("checkpoints").join(&names()[0])).unwrap().modified().unwrap();
    let before = at();
    assert_eq!(engine.checkpoint().unwrap().bytes, taken.bytes);
    assert_eq!(at(), before);
    engine.close().unwrap();
    let engine = open(plain(), 1);
    assert_eq!((engine.digest(), engine.recovery().checkpoint), (digest, loaded));
    assert_eq!(engine.snapshot().state_digest(), digest.state);
    engine.close().unwrap();
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

/// Accounts in cents, and later with a currency in front: bytes of the one can be read as the other.
const CENTS: Table<u64, (u64, u64)> = Table::new("accounts").ordered();
const MONEY: Table<u64, (u64, u64, u64)> = Table::new("accounts").ordered().version(2);
const BY_CENTS: Index<u64, (u64, u64), u64> = Index::new("accounts.by", CENTS, |_, (cents, _)| Some(*cents));
const BY_MONEY: Index<u64, (u64, u64, u64), u64> =
    Index::new("accounts.by", MONEY, |_, (_, cents, _)| Some(*cents));
/// Has one version in both.
const NOTES: Table<u64, u64> = Table::new("notes");

#[derive(Serialize, Deserialize)]
struct Deposit<const GENERATION: u32> {
    account: u64,
    cents: u64,
}

impl<const GENERATION: u32> Procedure for Deposit<GENERATION> {
    const NAME: &'static str = "deposit";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        if GENERATION == 1 {
            let (cents, count) = tx.get(&CENTS, &self.account).copied().unwrap_or_default();
            tx.put(&CENTS, self.account, (cents + self.cents, count + 1));
        } else {
            let (_, cents, count) = tx.get(&MONEY, &self.account).copied().unwrap_or_default();
            tx.put(&MONEY, self.account, (978, cents + self.cents, count + 1));
        }
        Ok(())
    }
}

fn bank<const GENERATION: u32>() -> Builder {
    let builder = Engine::builder().table(&NOTES).procedure::<Deposit<GENERATION>>().threads(2);
    match GENERATION {
        1 => builder.table(&CENTS).index(&BY_CENTS),
        _ => builder
            .table(&MONEY)
            .index(&BY_MONEY)
            .convert(&CENTS, &MONEY, |account, (cents, count)| (account, (978, cents, count))),
    }
}

fn deposit<const GENERATION: u32>(engine: &Engine) {
    for account in 0..20 {
        engine.execute(&Deposit::<GENERATION> { account, cents: 100 + account }).unwrap();
    }
}

fn money(snapshot: &Snapshot) -> Vec<(u64, (u64, u64, u64))> {
    snapshot.range(&MONEY, ..).collect()
}

/// All accounts, after so many deposits into each.
fn after(deposits: u64) -> Vec<(u64, (u64, u64, u64))> {
    (0..20).map(|account| (account, (978, deposits * (100 + account), deposits))).collect()
}

/// The table, the position, the version in the log and the registered one.
fn row_version(error: &OpenError) -> (&str, Position, u32, u32) {
    match error {
        OpenError::RowVersion { table, position, written, registered } => {
            (table, *position, *written, *registered)
        }
        other => panic!("{other}"),
    }
}

#[test]
fn interactive_transaction_on_rows_of_another_version_is_refused_before_it_is_executed() {
    type Touch = fn(&mut Transaction<'_>);
    let touches: [(&str, Touch); 5] = [
        ("accounts", |tx| tx.put(&CENTS, 77, (500, 1))),
        ("accounts", |tx| assert!(tx.delete(&CENTS, &3))),
        ("accounts", |tx| assert!(tx.get(&CENTS, &3).is_some())),
        ("accounts", |tx| assert_eq!(tx.range(&CENTS, 3..6).count(), 3)),
        ("accounts.by", |tx| assert_eq!(tx.range_by(&BY_CENTS, 103..106).count(), 3)),
    ];
    for (named, touch) in touches {
        let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
        let engine = bank::<1>().open(Arc::clone(&log)).unwrap();
        let replica = Replica::follow(bank::<2>, Arc::clone(&log)).unwrap();
        deposit::<1>(&engine);
        // What touches no rows of another version is in nobody's way.
        let mut other = engine.begin();
        other.put(&NOTES, 1, 1);
        other.commit().unwrap();
        let before = engine.position();
        let mut transaction = engine.begin();
        transaction.put(&NOTES, 2, 2);
        touch(&mut transaction);
        let position = transaction.commit().unwrap().unwrap();
        deposit::<1>(&engine);
        engine.close().unwrap();

        let refused = (named, position, 1, 2);
        for threads in [1, 4] {
            let error = bank::<2>().threads(threads).open(Arc::clone(&log)).unwrap_err();
            assert_eq!(row_version(&error), refused);
            let text = error.to_string();
            for part in
                [&format!("{named:?} version 1"), &format!("position {position}"), "version 2", "checkpoint"]
            {
                assert!(text.contains(part), "{text}");
            }
            let replay = bank::<2>().threads(threads).replay(Arc::clone(&log)).unwrap();
            assert_eq!(row_version(&replay.to_end().unwrap_err()), refused);
            let snapshot = replay.snapshot();
            assert_eq!(snapshot.position(), before, "all before it is executed");
            assert_eq!(money(&snapshot), after(1));
            assert_eq!((snapshot.get(&NOTES, &1), snapshot.get(&NOTES, &2)), (Some(1), None));
        }
        let begun = Instant::now();
        while replica.failed().is_none() && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(row_version(&replica.failed().expect("it stops")), refused);
        assert_eq!((replica.position(), money(&replica.snapshot())), (before, after(1)));
        bank::<1>().open(log).unwrap().close().unwrap();
    }
}

#[test]
fn interactive_transaction_of_a_newer_version_is_refused_by_the_older_program() {
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = bank::<2>().open(Arc::clone(&log)).unwrap();
    let mut transaction = engine.begin();
    transaction.put(&MONEY, 3, (978, 1, 1));
    let position = transaction.commit().unwrap().unwrap();
    engine.close().unwrap();
    let error = bank::<1>().open(log).unwrap_err();
    assert_eq!(row_version(&error), ("accounts", position, 2, 1));
}

#[test]
fn checkpoint_after_the_last_interactive_transaction_leads_past_it_and_one_before_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let open = |builder: Builder, start| {
        let log = Arc::new(FileLog::open(directory.path(), file::Config::default()).unwrap());
        let config =
            checkpoint::Config { trim: false, every_bytes: None, start, keep: 9, ..Default::default() };
        builder.checkpoints(config).open(log)
    };
    use checkpoint::Start::{Newest, Oldest};
    let engine = open(bank::<1>(), Newest).unwrap();
    deposit::<1>(&engine);
    let older = engine.checkpoint().unwrap().position;
    let mut transaction = engine.begin();
    let (cents, count) = *transaction.get(&CENTS, &3).unwrap();
    transaction.put(&CENTS, 3, (cents + 103, count + 1));
    let position = transaction.commit().unwrap().unwrap();
    engine.close().unwrap();
    // The one that there is was taken too early.
    let error = open(bank::<2>(), Newest).unwrap_err();
    assert_eq!(row_version(&error), ("accounts", position, 1, 2));

    let engine = open(bank::<1>(), Newest).unwrap();
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    let mut expected = after(1);
    expected[3].1 = (978, 206, 2);
    let engine = open(bank::<2>(), Newest).unwrap();
    assert!(engine.recovery().checkpoint.is_some_and(|newer| newer >= position));
    assert_eq!(money(&engine.snapshot()), expected);
    let mut transaction = engine.begin();
    transaction.put(&MONEY, 3, (978, 0, 0));
    transaction.commit().unwrap();
    engine.close().unwrap();
    expected[3].1 = (978, 0, 0);
    let engine = open(bank::<2>(), Newest).unwrap();
    assert_eq!(money(&engine.snapshot()), expected);
    engine.close().unwrap();

    // Neither the log's start nor an older checkpoint goes on past it, whatever is damaged.
    let error = open(bank::<2>(), Oldest).unwrap_err();
    assert_eq!(row_version(&error), ("accounts", position, 1, 2));
    damage_newest(&directory.path().join("checkpoints"));
    let error = open(bank::<2>(), Newest).unwrap_err();
    assert_eq!(row_version(&error), ("accounts", position, 1, 2));
    let replay = bank::<2>()
        .replay(Arc::new(FileLog::open(directory.path(), file::Config::default()).unwrap()))
        .unwrap();
    assert_eq!(row_version(&replay.to_end().unwrap_err()), ("accounts", position, 1, 2));
    assert_eq!(replay.snapshot().position(), position.previous());
    assert_eq!(money(&replay.snapshot()), after(1));
    assert_eq!(replay.recovery().unwrap().checkpoint, Some(older), "it started from the older one");
}

fn damage_newest(checkpoints: &Path) {
    let files = std::fs::read_dir(checkpoints).unwrap().map(|file| file.unwrap().path());
    let is_one = |file: &PathBuf| file.extension().is_none();
    let newest = files.filter(is_one).max().unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(newest, bytes).unwrap();
}
