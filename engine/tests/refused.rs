//! Transactions that a log took and refused later, as one on a cluster does: their tickets say so, and the engine goes on.
#![cfg(not(loom))]

use std::sync::Arc;
use std::time::Duration;

use mixlog_engine::{Builder, Engine, ExecuteError, Never, Procedure, SubmitError, Table, TicketError, Tx};
use mixlog_log::corfu::{self, CorfuLog, LocalCluster, LocalConfig};
use mixlog_log::{AppendError, SharedLog};
use serde::{Deserialize, Serialize};

const TEXTS: Table<u64, usize> = Table::new("texts");
const LONG: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
struct Store(u64, String);

impl Procedure for Store {
    const NAME: &'static str = "store";
    type Output = usize;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<usize, Never> {
        tx.put(&TEXTS, self.0, self.1.len());
        Ok(self.1.len())
    }
}

fn store(key: u64) -> Store {
    Store(key, "x".repeat(100))
}

fn builder() -> Builder {
    Engine::builder().table(&TEXTS).procedure::<Store>()
}

fn connect(cluster: &Arc<LocalCluster>) -> Arc<CorfuLog> {
    Arc::new(CorfuLog::connect(Arc::clone(cluster) as _, corfu::Config::default()).unwrap())
}

fn rows(engine: &Engine) -> usize {
    let mut rows = 0;
    engine.snapshot().for_each(&TEXTS, |_, _| rows += 1);
    rows
}

#[test]
fn what_finds_no_space_in_a_cluster_is_told_so_and_work_goes_on_when_there_is_some() {
    let cluster = LocalCluster::open(LocalConfig { quota: 10_000, ..Default::default() }).unwrap();
    let log = connect(&cluster);
    let engine = builder().max_in_flight(64).open(Arc::clone(&log) as _).unwrap();
    // More than there is room for in flight, so that who submits waits for those that are refused.
    let tickets: Vec<_> = (0..300).map(|key| engine.submit(&store(key))).collect();
    let (mut committed, mut refused) = (0, 0);
    for ticket in tickets {
        let error = match ticket {
            Ok(ticket) => match ticket.wait_timeout(LONG).expect("nobody waits for ever") {
                Ok(outcome) => {
                    assert_eq!(outcome.committed(), Some(100));
                    committed += 1;
                    continue;
                }
                Err(TicketError::Append(error)) => error,
                Err(error) => panic!("{error}"),
            },
            Err(SubmitError::Append(error)) => error,
            Err(error) => panic!("{error}"),
        };
        assert!(matches!(error, AppendError::Full(_)), "{error}");
        refused += 1;
    }
    assert!(committed > 10 && refused > 100, "{committed} committed, {refused} refused");
    assert_eq!(engine.in_flight(), 0);
    assert_eq!(rows(&engine), committed);

    log.trim(log.tail().unwrap().tail).unwrap();
    assert_eq!(engine.execute(&store(1000)).unwrap().committed(), Some(100));
    engine.close().unwrap();
}

#[test]
fn what_comes_after_somebody_else_sealed_the_log_is_told_so() {
    let cluster = LocalCluster::open(LocalConfig::default()).unwrap();
    let engine = builder().open(connect(&cluster)).unwrap();
    engine.execute(&store(1)).unwrap();
    let tail = connect(&cluster).seal().unwrap();
    let is_sealed = |error: &AppendError| matches!(error, AppendError::Sealed { tail: t } if *t == tail);
    for key in 2..4 {
        match engine.execute(&store(key)).unwrap_err() {
            ExecuteError::Ticket(TicketError::Append(error))
            | ExecuteError::Submit(SubmitError::Append(error)) => assert!(is_sealed(&error), "{error}"),
            error => panic!("{error}"),
        }
    }
    assert_eq!(engine.in_flight(), 0);
    assert_eq!(rows(&engine), 1);
    engine.close().unwrap();
}
