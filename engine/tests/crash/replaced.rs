//! A checkpoint that takes the place of the only one there is, whose rows were converted: it, or the one before, is there
//! whatever happens meanwhile.

use std::sync::Arc;

use mixlog_engine::checkpoint::Config;
use mixlog_engine::{Builder, Digest, Engine, Never, Procedure, Table, Tx};
use mixlog_log::{Durability, FileLog};
use mixlog_simdisk::{Call, Cut, Disk, Failure, Fault, Kind, Random, Sim};
use serde::{Deserialize, Serialize};

use crate::script;

const CENTS: Table<u64, u64> = Table::new("accounts");
const MONEY: Table<u64, (u32, u64)> = Table::new("accounts").version(2);

#[derive(Serialize, Deserialize)]
struct Deposit<const VERSION: u32>(u64);

impl<const VERSION: u32> Procedure for Deposit<VERSION> {
    const NAME: &'static str = "deposit";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        if VERSION == 1 {
            tx.put(&CENTS, self.0, 100);
        } else {
            tx.put(&MONEY, self.0, (978, 100));
        }
        Ok(())
    }
}

fn older() -> Builder {
    Engine::builder().table(&CENTS).procedure::<Deposit<1>>()
}

fn newer() -> Builder {
    Engine::builder().table(&MONEY).procedure::<Deposit<2>>()
}

fn converts() -> Builder {
    newer().convert(&CENTS, &MONEY, |key, cents| (key, (978, cents)))
}

fn open(sim: &Sim, builder: Builder) -> Result<Engine, String> {
    let log = FileLog::open_with_storage(sim.storage(), &script::files(Durability::Flushed));
    let log = Arc::new(log.map_err(|error| error.to_string())?);
    let config = Config { keep: 1, every_bytes: None, ..Config::default() };
    builder.threads(1).checkpoints(config).open(log).map_err(|error| error.to_string())
}

/// A disk with a checkpoint of the older rows, without which nothing is known of them.
fn disk() -> Disk {
    let sim = Sim::default();
    let engine = open(&sim, older()).unwrap();
    for account in 0..200 {
        engine.execute(&Deposit::<1>(account)).unwrap();
    }
    engine.checkpoint().unwrap();
    assert!(engine.log().tail().unwrap().head.0 > 100, "the log is trimmed");
    engine.close().unwrap();
    sim.disk().after(Cut::Nothing, &mut Random(1))
}

/// What is loaded, which is all of it.
fn digest(sim: &Sim, builder: Builder) -> Digest {
    let engine = open(sim, builder).unwrap();
    assert!(engine.recovery().rejected.is_empty(), "{:?}", engine.recovery().rejected);
    let snapshot = engine.snapshot();
    assert_eq!((snapshot.len(&MONEY), snapshot.get(&MONEY, &7)), (200, Some((978, 100))));
    let digest = engine.digest();
    assert_eq!(snapshot.state_digest(), digest.state);
    engine.close().unwrap();
    digest
}

#[test]
fn power_cut_at_every_call_leaves_the_checkpoint_or_the_one_in_whose_place_it_comes() {
    let disk = disk();
    let sim = Sim::boot(disk.clone());
    let expected = digest(&sim, converts());
    let sim = Sim::boot(disk.clone());
    let engine = open(&sim, converts()).unwrap();
    let before = sim.trace().len();
    engine.checkpoint().unwrap();
    let trace = sim.trace();
    assert!(trace[before..].iter().any(|call| matches!(call, Call::Rename { .. })));
    let (mut cut, mut random) = (disk, Random(3));
    for (number, call) in trace.iter().enumerate() {
        cut.apply(call);
        for kind in [Cut::Some, Cut::Some, Cut::Some, Cut::Nothing, Cut::Everything, Cut::Unsaved] {
            let after = cut.after(kind, &mut random);
            assert_eq!(digest(&Sim::boot(after.clone()), converts()), expected, "call {number}, {kind:?}");
            if number + 1 == trace.len() {
                // It was told that it is there.
                assert_eq!(digest(&Sim::boot(after), newer()), expected, "{kind:?}");
            }
        }
    }
}

#[test]
fn call_that_fails_leaves_the_checkpoint_or_the_one_in_whose_place_it_comes() {
    let disk = disk();
    let expected = digest(&Sim::boot(disk.clone()), converts());
    let mut random = Random(4);
    for kind in [
        Kind::Open,
        Kind::Read,
        Kind::Write,
        Kind::Truncate,
        Kind::Sync,
        Kind::Rename,
        Kind::Remove,
        Kind::SyncDirectory,
    ] {
        for count in [1, u64::MAX] {
            for after in 0.. {
                let sim = Sim::boot(disk.clone());
                let engine = open(&sim, converts()).unwrap();
                sim.set_fault(Some(Fault { kind, after, count, error: Failure::Errno(5) }));
                let taken = engine.checkpoint();
                let struck = sim.fault_struck();
                sim.set_fault(None);
                let what = format!("{kind:?} {after} {count}: {taken:?}");
                for cut in [Cut::Some, Cut::Nothing, Cut::Everything] {
                    let left = sim.disk().after(cut, &mut random);
                    assert_eq!(digest(&Sim::boot(left.clone()), converts()), expected, "{what}, {cut:?}");
                    if taken.is_ok() {
                        assert_eq!(digest(&Sim::boot(left), newer()), expected, "{what}, {cut:?}");
                    }
                }
                // It can be asked for again.
                engine.checkpoint().unwrap_or_else(|error| panic!("{what}: {error}"));
                let left = sim.disk().after(Cut::Nothing, &mut random);
                assert_eq!(digest(&Sim::boot(left), newer()), expected, "{what}");
                let _ = engine.close();
                if !struck {
                    assert!(
                        after > 0 || matches!(kind, Kind::Truncate | Kind::Remove),
                        "no call of kind {kind:?}"
                    );
                    break;
                }
            }
        }
    }
}
