//! Types that serde writes and postcard does not read: refused where they would do harm, and never found out when it is
//! too late.

use std::sync::Arc;

use mixlog_engine::checkpoint::{BackupError, CheckpointError};
use mixlog_engine::{
    Engine, ExecuteError, Mode, Never, Outcome, Position, Procedure, SubmitError, Table, TicketError, Tx,
};
use mixlog_log::{FileLog, MemoryLog, SharedLog};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Person {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    nick: Option<String>,
    age: u64,
}

fn ann(nick: Option<&str>) -> Person {
    Person { name: "ann".to_owned(), nick: nick.map(str::to_owned), age: 5 }
}

/// Written as one number, and read as nobody knows what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Either {
    Number(i64),
    Text(String),
}

/// Read, and with other bytes than it was written.
#[derive(Clone, Debug)]
struct Doubled(u64);

impl Serialize for Doubled {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (2 * self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Doubled {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(Self)
    }
}

const PERSONS: Table<u64, Person> = Table::new("persons");
const EITHER: Table<u64, Either> = Table::new("either");
const DOUBLED: Table<u64, Doubled> = Table::new("doubled");
const COUNTS: Table<u64, u64> = Table::new("counts");

/// Makes a row from its arguments.
#[derive(Serialize, Deserialize)]
struct Enter(Person);

impl Procedure for Enter {
    const NAME: &'static str = "enter";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&PERSONS, 1, self.0.clone());
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Row {
    Skips,
    Untagged,
    Doubled,
}

/// Makes a row that cannot be loaded.
#[derive(Serialize, Deserialize)]
struct Make(Row);

impl Procedure for Make {
    const NAME: &'static str = "make";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        match self.0 {
            Row::Skips => tx.put(&PERSONS, 1, ann(None)),
            Row::Untagged => tx.put(&EITHER, 1, Either::Number(5)),
            Row::Doubled => tx.put(&DOUBLED, 1, Doubled(5)),
        }
        Ok(())
    }
}

/// Counts, and replies.
#[derive(Serialize, Deserialize)]
struct Count(bool);

impl Procedure for Count {
    const NAME: &'static str = "count";
    type Output = Either;
    type Abort = Person;

    fn run(&self, tx: &mut Tx<'_>) -> Result<Either, Person> {
        if self.0 {
            return Err(ann(None));
        }
        *tx.get_or_put(&COUNTS, 0, || 0) += 1;
        Ok(Either::Text("counted".to_owned()))
    }
}

fn builder() -> mixlog_engine::Builder {
    let tables = Engine::builder().table(&PERSONS).table(&EITHER).table(&DOUBLED).table(&COUNTS);
    tables.procedure::<Enter>().procedure::<Make>().procedure::<Count>()
}

#[test]
fn arguments_that_cannot_be_read_are_refused_and_the_log_goes_on() {
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = builder().open(Arc::clone(&log)).unwrap();
    let tail = log.tail().unwrap().tail;
    for _ in 0..2 {
        let error = engine.submit(&Enter(ann(None))).unwrap_err();
        assert!(matches!(&error, SubmitError::Unreadable { procedure: "enter", .. }), "{error}");
        let error = engine.execute(&Enter(ann(None))).unwrap_err();
        assert!(matches!(error, ExecuteError::Submit(SubmitError::Unreadable { .. })), "{error}");
        let me = engine.client(mixlog_engine::ClientId(1));
        assert!(matches!(me.submit(1, &Enter(ann(None))), Err(SubmitError::Unreadable { .. })));
    }
    assert_eq!(log.tail().unwrap().tail, tail, "nothing was appended");
    assert_eq!(engine.in_flight(), 0);
    // The same type may do for other values.
    engine.execute(&Enter(ann(Some("a")))).unwrap();
    assert_eq!(engine.snapshot().get(&PERSONS, &1), Some(ann(Some("a"))));
    engine.close().unwrap();
    assert_eq!(builder().open(log).unwrap().snapshot().get(&PERSONS, &1), Some(ann(Some("a"))));
}

#[test]
fn rows_that_could_not_be_loaded_keep_the_log_from_being_trimmed() {
    for row in [Row::Skips, Row::Untagged, Row::Doubled] {
        let scratch = tempfile::tempdir().unwrap();
        let open = || {
            let config = mixlog_engine::checkpoint::Config { keep: 1, ..Default::default() };
            let log = FileLog::open(scratch.path().join("log"), Default::default()).unwrap();
            builder().checkpoints(config).open(Arc::new(log)).unwrap()
        };
        let engine = open();
        engine.execute(&Count(true)).unwrap_err();
        engine.checkpoint().expect("nothing is wrong yet");
        engine.execute(&Make(row)).unwrap();
        let (head, digest) = (engine.log().tail().unwrap().head, engine.digest());
        for _ in 0..2 {
            let error = engine.checkpoint().unwrap_err();
            assert!(matches!(error, CheckpointError::Row { .. }), "{row:?}: {error}");
            assert_eq!(engine.checkpoint_failure(), Some(error.to_string()));
        }
        let error = engine.backup(scratch.path().join("copy")).unwrap_err();
        assert!(matches!(error, BackupError::Row { .. }), "{row:?}: {error}");
        assert!(!scratch.path().join("copy").exists());
        assert_eq!(engine.log().tail().unwrap().head, head, "{row:?}");
        engine.close().unwrap();
        let again = open();
        assert_eq!(again.digest(), digest, "{row:?}: the log has it");
        assert!(again.recovery().checkpoint.is_some());
    }
}

#[test]
fn replies_that_cannot_be_read_are_errors_of_their_tickets_and_the_effects_stay() {
    for mode in [Mode::Sequential, Mode::Parallel] {
        let engine = builder().mode(mode).open(Arc::new(MemoryLog::new())).unwrap();
        let error = engine.submit(&Count(false)).unwrap().wait().unwrap_err();
        assert!(
            matches!(&error, TicketError::Unreadable { position, .. } if *position > Position(0)),
            "{error}"
        );
        let error = engine.execute(&Count(false)).unwrap_err();
        assert!(matches!(error, ExecuteError::Ticket(TicketError::Unreadable { .. })), "{error}");
        assert_eq!(engine.snapshot().get(&COUNTS, &0), Some(2));
        // Why it aborted, too.
        assert!(matches!(engine.submit(&Count(true)).unwrap().wait(), Err(TicketError::Unreadable { .. })));
        assert!(matches!(engine.execute(&Make(Row::Skips)), Ok(Outcome::Committed { .. })));
    }
}
