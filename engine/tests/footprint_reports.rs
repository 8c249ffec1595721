//! What authors are told about their footprints.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use mixlog_engine::testing::{Surplus, check_footprints};
use mixlog_engine::{
    AccessMode, Declared, Ending, Engine, Fixed, Footprint, Mode, Position, Procedure, Sum, Table, Tx,
    assert_footprint,
};
use mixlog_log::MemoryLog;
use serde::{Deserialize, Serialize};

const ROWS: Table<u64, u64> = Table::new("rows");
const TEXTS: Table<(String, u8), u64> = Table::new("texts");
const SUMS: Table<u64, Sum> = Table::new("sums");
const SORTED: Table<u64, u64> = Table::new("sorted").ordered();
const FIXED: Table<[u8; 3], u32, Fixed> = Table::fixed("fixed");
const WATCHED: Table<u64, u64, Fixed> = Table::fixed("watched").watched(|key| key / 10);
const GROUPED: Table<(u8, u64), u64> = Table::new("grouped").grouped("group", group);
const ORDERED: Table<(u8, u64), u64> = Table::new("ordered").grouped("group", group).ordered();

fn group(key: &(u8, u64)) -> u64 {
    u64::from(key.0)
}

/// Something to declare, or to do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Step {
    Read(u64),
    /// Aborts if the row is not there.
    Need(u64),
    Write(u64),
    /// A change in place, of a row that may not be there.
    Change(u64),
    Delete(u64),
    Text(u64),
    Bytes(u8),
    Watch(u64),
    ReadWatched(u64),
    Merge(u64),
    CanMerge(u64),
    WriteSum(u64),
    Sort(u64),
    ReadSorted(u64),
    /// All keys of the ten.
    Range(u64),
    All,
    ReadWatchedGranule(u64),
    Group(u8, u64),
    ReadGroup(u8, u64),
    WriteGranule(u8),
    ReadGranule(u8),
    Scan(u8),
    Unknown,
    ToBeFound,
    Abort,
    Panic,
}

use Step::*;

#[derive(Debug, Serialize, Deserialize)]
struct Call {
    declares: Vec<Step>,
    does: Vec<Step>,
}

impl Procedure for Call {
    const NAME: &'static str = "call";
    type Output = u64;
    type Abort = String;

    fn footprint(&self, f: &mut Footprint<'_>) {
        for step in &self.declares {
            match *step {
                Read(key) | Need(key) => f.read(&ROWS, &key),
                Write(key) | Change(key) | Delete(key) => f.write(&ROWS, &key),
                Text(key) => f.write(&TEXTS, &("text".to_owned(), key as u8)),
                Bytes(key) => f.write(&FIXED, &[key, 0, 255]),
                Watch(key) => f.write(&WATCHED, &key),
                Merge(key) | CanMerge(key) => f.merge(&SUMS, &key),
                Sort(key) => f.write(&SORTED, &key),
                ReadSorted(key) => f.read(&SORTED, &key),
                Range(ten) => f.range(&SORTED, ten * 10..ten * 10 + 10),
                All => f.range(&SORTED, ..),
                WriteSum(key) => f.write(&SUMS, &key),
                ReadWatched(key) => f.read(&WATCHED, &key),
                ReadWatchedGranule(granule) => f.read_granule(&WATCHED, granule),
                Group(group, key) => f.write(&GROUPED, &(group, key)),
                ReadGroup(group, key) => f.read(&GROUPED, &(group, key)),
                WriteGranule(group) => f.write_granule(&GROUPED, u64::from(group)),
                ReadGranule(group) | Scan(group) => f.read_granule(&ORDERED, u64::from(group)),
                Unknown => f.unknown(),
                ToBeFound => f.reconnoitre(),
                Abort => f,
                Panic => panic!("the footprint panics"),
            };
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, String> {
        let mut sum = tx.position().0;
        for step in &self.does {
            match *step {
                Need(key) => sum += tx.get(&ROWS, &key).copied().ok_or("not there")?,
                Read(key) => sum += tx.get(&ROWS, &key).copied().unwrap_or(0),
                Write(key) => tx.put(&ROWS, key, sum),
                Change(key) => {
                    if let Some(value) = tx.get_mut(&ROWS, &key) {
                        *value += 1;
                    }
                }
                Delete(key) => sum += u64::from(tx.delete(&ROWS, &key)),
                Text(key) => tx.put(&TEXTS, ("text".to_owned(), key as u8), sum),
                Bytes(key) => tx.put(&FIXED, [key, 0, 255], 7),
                Watch(key) => tx.put(&WATCHED, key, sum),
                CanMerge(key) => sum += u64::from(tx.can_merge(&SUMS, &key)),
                Merge(key) => sum += u64::from(tx.merge(&SUMS, key, 5)),
                Sort(key) => tx.put(&SORTED, key, sum),
                ReadSorted(key) => sum += tx.get(&SORTED, &key).copied().unwrap_or(0),
                Range(ten) => {
                    sum += tx.range(&SORTED, ten * 10..ten * 10 + 10).map(|(key, _)| key).sum::<u64>();
                }
                All => sum += tx.range(&SORTED, ..).map(|(key, _)| key).sum::<u64>(),
                WriteSum(key) => tx.put(&SUMS, key, Sum(5)),
                ReadWatched(key) => sum += tx.get(&WATCHED, &key).copied().unwrap_or(0),
                Group(group, key) => tx.put(&GROUPED, (group, key), sum),
                ReadGroup(group, key) => sum += tx.get(&GROUPED, &(group, key)).copied().unwrap_or(0),
                Scan(group) => sum += tx.range(&ORDERED, (group, 0)..).map(|(_, value)| value).sum::<u64>(),
                Abort => return Err("enough".to_owned()),
                Panic => panic!("the procedure panics"),
                other => unreachable!("{other:?} is only declared"),
            }
        }
        Ok(sum)
    }
}

fn builder() -> mixlog_engine::Builder {
    let builder = Engine::builder()
        .table(&ROWS)
        .table(&TEXTS)
        .table(&FIXED)
        .table(&WATCHED)
        .table(&SUMS)
        .table(&SORTED);
    builder.table(&GROUPED).table(&ORDERED).procedure::<Call>().threads(2).mode(Mode::Parallel)
}

fn engine() -> Engine {
    builder().open(Arc::new(MemoryLog::new())).unwrap()
}

fn call(declares: &[Step], does: &[Step]) -> Call {
    Call { declares: declares.to_vec(), does: does.to_vec() }
}

/// What is missing, and what is declared in vain, as text.
fn told(engine: &Engine, declares: &[Step], does: &[Step]) -> (Vec<String>, Vec<String>) {
    let report = engine.check_footprint(&call(declares, does));
    let missing = report.missing.iter().map(ToString::to_string).collect();
    (missing, report.surplus.iter().map(ToString::to_string).collect())
}

#[track_caller]
fn check(declares: &[Step], does: &[Step], missing: &[&str], surplus: &[&str]) {
    let expected = (
        missing.iter().map(|&text| text.to_owned()).collect(),
        surplus.iter().map(|&text| text.to_owned()).collect(),
    );
    assert_eq!(told(&engine(), declares, does), expected, "declares {declares:?}, does {does:?}");
}

#[test]
fn exact_footprints_have_nothing_to_report() {
    for steps in [
        &[][..],
        &[Read(1), Write(2), Write(1)],
        &[Change(1), Delete(2)],
        &[Watch(11), Watch(12), ReadWatched(25)],
        &[Group(1, 1), Group(1, 2), ReadGroup(2, 1), Scan(1), Scan(3)],
        &[Text(1), Bytes(1), Abort],
        &[Merge(1), WriteSum(2), Merge(2)],
        &[CanMerge(1), Merge(1), CanMerge(1), CanMerge(2)],
        &[Sort(1), ReadSorted(2), Range(3)],
        &[All, Range(3)],
    ] {
        check(steps, steps, &[], &[]);
    }
    check(&[ReadWatchedGranule(1)], &[ReadWatched(11), ReadWatched(12)], &[], &[]);
    check(&[ReadWatchedGranule(1), Watch(13)], &[ReadWatched(11), Watch(13)], &[], &[]);
    check(&[WriteGranule(1)], &[Scan(1), Group(1, 7)], &[], &[]);
    check(&[Group(1, 8)], &[Group(1, 7)], &[], &[]);
}

#[test]
fn missing_accesses_are_named_in_the_mode_that_they_need() {
    check(&[], &[Read(7), Write(8)], &["read 7 of \"rows\"", "write 8 of \"rows\""], &[]);
    check(&[Read(7)], &[Read(7), Write(7)], &["write 7 of \"rows\""], &[]);
    check(&[], &[Change(7)], &["write 7 of \"rows\""], &[]);
    check(&[], &[Text(3)], &["write [\"text\",3] of \"texts\""], &[]);
    check(&[], &[Bytes(16)], &["write 0x1000ff of \"fixed\""], &[]);
    check(
        &[ReadWatchedGranule(1)],
        &[Watch(11)],
        &["write 11 of \"watched\""],
        &["read granule 1 of \"watched\""],
    );
    check(&[], &[ReadWatched(11)], &["read 11 of \"watched\""], &[]);
    check(&[], &[Merge(3)], &["merge 3 of \"sums\""], &[]);
    check(&[], &[CanMerge(3)], &["merge 3 of \"sums\""], &[]);
    check(&[CanMerge(3)], &[CanMerge(3), WriteSum(3)], &["write 3 of \"sums\""], &[]);
    check(&[Merge(3)], &[Merge(3), WriteSum(3)], &["write 3 of \"sums\""], &[]);
    check(&[], &[Range(3)], &["read range 30..40 of \"sorted\""], &[]);
    check(&[], &[All], &["read range .. of \"sorted\""], &[]);
    check(&[All], &[Sort(2)], &["write 2 of \"sorted\""], &["read range .. of \"sorted\""]);
    // A granule counts once, whatever is done in it.
    check(&[ReadGranule(1)], &[Scan(1), Group(1, 7), Group(1, 8)], &["write granule 1 of \"ordered\""], &[]);
    check(&[], &[Scan(4)], &["read granule 4 of \"ordered\""], &[]);
}

#[test]
fn accesses_declared_in_vain_are_named_with_what_would_be_enough() {
    check(&[Read(7), Write(8)], &[], &[], &["read 7 of \"rows\"", "write 8 of \"rows\""]);
    check(&[Write(7)], &[Read(7)], &[], &["write 7 of \"rows\" (read would be enough)"]);
    check(&[Read(7), Write(7)], &[Read(7)], &[], &["write 7 of \"rows\" (read would be enough)"]);
    check(&[Watch(11)], &[ReadWatched(11)], &[], &["write 11 of \"watched\" (read would be enough)"]);
    check(
        &[WriteGranule(1)],
        &[Scan(1)],
        &[],
        &["write granule 1 of \"grouped\" (read granule would be enough)"],
    );
    check(
        &[ReadWatched(11), ReadWatchedGranule(1)],
        &[ReadWatched(11)],
        &[],
        &["read granule 1 of \"watched\""],
    );
    check(&[WriteSum(3)], &[Merge(3)], &[], &["write 3 of \"sums\" (merge would be enough)"]);
    check(&[Merge(3)], &[], &[], &["merge 3 of \"sums\""]);
    check(&[ToBeFound, Write(1)], &[Read(2)], &[], &["write 1 of \"rows\""]);
}

/// Ranges that are more than a leaf: only what was walked counts.
#[test]
fn ranges_are_compared_leaf_by_leaf_and_reported_as_ranges() {
    let engine = engine();
    for chunk in (0..2000).collect::<Vec<_>>().chunks(100) {
        let steps: Vec<_> = chunk.iter().map(|&key| Sort(key)).collect();
        engine.submit(&call(&steps, &steps)).unwrap().wait().unwrap();
    }
    for _ in 0..20 {
        engine.submit(&call(&[], &[])).unwrap().wait().unwrap();
    }
    let nothing: Vec<String> = Vec::new();
    assert_eq!(told(&engine, &[All], &[All]), (nothing.clone(), nothing.clone()));
    assert_eq!(told(&engine, &[Range(3)], &[Range(3)]), (nothing.clone(), nothing.clone()));
    let all = vec!["read range .. of \"sorted\"".to_owned()];
    assert_eq!(told(&engine, &[Range(3)], &[All]), (all.clone(), nothing.clone()));
    assert_eq!(told(&engine, &[All], &[Range(3)]), (nothing.clone(), all));
    assert_eq!(told(&engine, &[Range(3)], &[ReadSorted(35)]), (nothing.clone(), nothing));
}

#[test]
fn reports_tell_how_the_call_ended_and_what_its_footprint_is_like() {
    let engine = engine();
    let report = engine.check_footprint(&call(&[Unknown], &[Write(1), Panic]));
    assert_eq!(report.declared, Declared::Anything);
    assert_eq!(report.ending, Ending::Panicked("the procedure panics".to_owned()));
    assert!(report.is_exact());
    let report = engine.check_footprint(&call(&[Panic], &[Abort]));
    assert_eq!(report.declared, Declared::Panicked("the footprint panics".to_owned()));
    assert_eq!(report.ending, Ending::Aborted("\"enough\"".to_owned()));
    assert!(!report.is_complete());
    let report = engine.check_footprint(&call(&[Read(1)], &[Write(2)]));
    assert_eq!((report.after, report.missing[0].mode), (Some(Position(0)), AccessMode::Write));
    assert_eq!(
        report.to_string(),
        "procedure \"call\" with {\"declares\":[{\"Read\":1}],\"does\":[{\"Write\":2}]} commits on the state after \
         position 0; its footprint is not exact:\n  missing: write 2 of \"rows\"\n  in vain: read 1 of \"rows\""
    );
}

#[test]
fn checking_a_footprint_changes_nothing_and_needs_no_registration() {
    let log = Arc::new(MemoryLog::new());
    let engine = builder().open(log.clone()).unwrap();
    engine.submit(&call(&[Write(1)], &[Write(1)])).unwrap().wait().unwrap();
    let before = engine.digest();
    let snapshot = engine.snapshot();
    for _ in 0..3 {
        let report = snapshot.check_footprint(&call(&[Write(1)], &[Write(1), Delete(1)]));
        assert!(report.is_exact(), "{report}");
    }
    assert_eq!((engine.digest(), engine.snapshot().state_digest()), (before, before.state));
    let replay = builder().replay(log).unwrap();
    assert!(replay.check_footprint(&call(&[Read(1)], &[Read(1)])).after.is_none());
    replay.to_end().unwrap();
    assert!(replay.check_footprint(&call(&[Read(1)], &[Read(1)])).is_exact());
    assert_footprint!(&replay, [call(&[Read(1)], &[Read(1)])]);
}

#[test]
fn the_first_wrong_footprint_is_reported_and_surplus_can_be_allowed() {
    let engine = engine();
    let calls = || [call(&[Read(1)], &[Read(1)]), call(&[Write(1)], &[Read(1)]), call(&[], &[Read(1)])];
    assert!(check_footprints(&engine, calls(), Surplus::Refused).unwrap_err().missing.is_empty());
    assert!(!check_footprints(&engine, calls(), Surplus::Allowed).unwrap_err().is_complete());
    assert_footprint!(&engine, calls().into_iter().take(2), Surplus::Allowed);
    let failed =
        std::panic::catch_unwind(AssertUnwindSafe(|| assert_footprint!(&engine, calls()))).unwrap_err();
    assert!(failed.downcast_ref::<String>().unwrap().contains("(read would be enough)"));
}

/// A check runs on its caller's thread while drivers let indexes grow, and give back what they outgrew.
#[test]
fn checking_footprints_while_tables_grow_finds_every_row() {
    const OLD: u64 = 64;
    let engine = engine();
    let (load, look): (Vec<_>, Vec<_>) = (0..OLD).map(|key| (Write(key), Need(key))).unzip();
    let _ = engine.submit(&call(&load, &load)).unwrap().wait().unwrap();
    let look = call(&look, &look);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for first in (OLD..60_000).step_by(50) {
                let rows: Vec<_> = (first..first + 50).map(Write).collect();
                drop(engine.submit(&call(&rows, &rows)).unwrap().wait().unwrap());
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let mut checks = 0;
        while !done.load(std::sync::atomic::Ordering::Relaxed) || checks == 0 {
            let report = engine.check_footprint(&look);
            assert!(report.is_exact() && report.ending == Ending::Committed, "{report}");
            checks += 1;
        }
    });
}

/// The report and the guard are two sides of one rule: what is reported as missing is what stops a transaction.
#[test]
fn missing_accesses_are_reported_exactly_where_the_guard_stops_a_transaction() {
    let engine = engine();
    let mut random = 7u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (random >> 33) % below
    };
    let mut incomplete = 0;
    for _ in 0..1500 {
        let mut steps = |count: u64, with_granules: bool| {
            let count = next(count + 1);
            (0..count)
                .map(|_| {
                    let (key, group) = (next(12), next(3) as u8);
                    match next(if with_granules { 18 } else { 15 }) {
                        0 => Read(key),
                        1 => Write(key),
                        2 => Change(key),
                        3 => Delete(key),
                        4 => Watch(key),
                        5 | 6 => ReadWatched(key),
                        7 => Group(group, key),
                        8 => ReadGroup(group, key),
                        9 => Scan(group),
                        10 => Merge(key / 3),
                        11 => WriteSum(key / 3),
                        12 => Sort(key),
                        13 => ReadSorted(key),
                        14 => Range(key / 10),
                        15 => ReadWatchedGranule(key / 10),
                        16 => WriteGranule(group),
                        _ => ReadGranule(group),
                    }
                })
                .collect::<Vec<_>>()
        };
        let does = steps(4, false);
        let mut declares = steps(3, true);
        if !declares.is_empty() {
            declares.extend(&does);
            declares.swap_remove(0);
        }
        let call = Call { declares, does };
        let report = engine.check_footprint(&call);
        let before = engine.stats().violations;
        engine.submit(&call).unwrap().wait().unwrap();
        // Counted before the window is acknowledged.
        let violated = engine.stats().violations > before;
        assert_eq!(!report.is_complete(), violated, "{report}");
        incomplete += u64::from(violated);
    }
    assert!((100..1400).contains(&incomplete), "{incomplete}");
}

/// Counts what happened at a time.
#[derive(Debug, Serialize, Deserialize)]
struct At;

impl Procedure for At {
    const NAME: &'static str = "at";
    type Output = u64;
    type Abort = ();

    fn footprint(&self, f: &mut Footprint<'_>) {
        let time = f.time_us();
        f.write(&ROWS, &time);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, ()> {
        *tx.get_or_put(&ROWS, tx.time_us(), || 0) += 1;
        Ok(tx.time_us())
    }
}

#[test]
fn keys_that_follow_from_the_time_of_the_entry_can_be_declared() {
    let builder = Engine::builder().table(&ROWS).procedure::<At>().threads(2).mode(Mode::Parallel);
    let engine = builder.open(Arc::new(MemoryLog::new())).unwrap();
    let tickets: Vec<_> = (0..500).map(|_| engine.submit(&At).unwrap()).collect();
    for ticket in tickets {
        let time = ticket.wait().unwrap().committed().unwrap();
        assert!(engine.snapshot().get(&ROWS, &time) > Some(0));
    }
    assert_footprint!(&engine, [At]);
    assert_eq!((engine.stats().replays, engine.stats().reconnoitred), (0, 0));
}
