//! What an engine tells a metrics recorder and a tracing subscriber. Both are global, so that this is one test.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use mixlog_engine::{Engine, Footprint, Mode, Never, Procedure, Table, Tx, checkpoint};
use mixlog_log::MemoryLog;
use mixlog_simdisk::Sim;
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, span};

/// All that is recorded, by name and labels; histograms by their number of samples and their sum.
#[derive(Clone, Default)]
struct Recorded {
    numbers: Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>,
    described: Arc<Mutex<Vec<String>>>,
}

impl Recorded {
    fn number(&self, name: String) -> Arc<AtomicU64> {
        Arc::clone(self.numbers.lock().expect("no panic").entry(name).or_default())
    }

    fn of(&self, key: &Key) -> String {
        key.labels()
            .fold(key.name().to_owned(), |name, label| format!("{name} {}={}", label.key(), label.value()))
    }

    fn get(&self, name: &str) -> u64 {
        self.number(name.to_owned()).load(Ordering::Relaxed)
    }
}

struct Samples(Arc<AtomicU64>, Arc<AtomicU64>);

impl HistogramFn for Samples {
    fn record(&self, value: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
        self.1.fetch_add(value as u64, Ordering::Relaxed);
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.described.lock().expect("no panic").push(key.as_str().to_owned());
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe_counter(key, unit, text);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe_counter(key, unit, text);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.number(self.of(key)))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.number(self.of(key)))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let samples = |what| self.number(format!("{} {what}", self.of(key)));
        Histogram::from_arc(Arc::new(Samples(samples("count"), samples("sum"))))
    }
}

/// Events and spans as text, fields first.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<(Level, String)>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0 += &format!("{}={value:?} ", field.name());
    }
}

impl tracing::Subscriber for Told {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "mixlog"
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut text = Text(format!("span {} ", span.metadata().name()));
        span.record(&mut text);
        self.0.lock().expect("no panic").push((*span.metadata().level(), text.0));
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().expect("no panic").push((*event.metadata().level(), text.0));
    }

    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

const ROWS: Table<u64, u64> = Table::new("rows");
const OTHERS: Table<u64, u64> = Table::new("others");

#[derive(Serialize, Deserialize)]
struct Put {
    key: u64,
    honest: bool,
}

impl Procedure for Put {
    const NAME: &'static str = "put";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&ROWS, &self.key);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        assert_ne!(self.key, 500, "the five hundredth panics");
        let table = if self.honest { &ROWS } else { &OTHERS };
        tx.put(table, self.key, 1);
        Ok(())
    }
}

/// Its footprint panics.
#[derive(Serialize, Deserialize)]
struct Shy(u64);

impl Procedure for Shy {
    const NAME: &'static str = "shy";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, _: &mut Footprint<'_>) {
        panic!("the footprint of {} cannot be told", self.0);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&ROWS, self.0, 1);
        Ok(())
    }
}

#[test]
fn recorder_and_subscriber_are_told_of_windows_and_not_of_transactions() {
    let (recorded, told) = (Recorded::default(), Told::default());
    metrics::set_global_recorder(recorded.clone()).expect("the only one");
    tracing::subscriber::set_global_default(told.clone()).expect("the only one");

    let disk = Sim::default();
    // Nothing can be kept for a checkpoint beforehand.
    disk.set_capacity(Some(100));
    let engine = Engine::builder()
        .table(&ROWS)
        .table(&OTHERS)
        .procedure::<Put>()
        .procedure::<Shy>()
        .threads(2)
        .mode(Mode::Parallel)
        .checkpoints(checkpoint::Config { storage: Some(disk.storage()), ..Default::default() })
        .open(Arc::new(MemoryLog::new()))
        .expect("it opens");
    let put = |key| engine.submit(&Put { key, honest: key != 700 }).expect("it is taken");
    let tickets: Vec<_> = (0..1_000).map(put).collect();
    tickets.into_iter().for_each(|ticket| drop(ticket.wait().expect("it is executed")));
    let shy: Vec<_> = (0..5).map(|key| engine.submit(&Shy(key)).expect("it is taken")).collect();
    shy.into_iter().for_each(|ticket| assert!(ticket.wait().expect("it is executed").committed().is_some()));
    let position = engine.position().expect("something was executed").0;
    engine.checkpoint().expect_err("the disk is full");
    disk.set_capacity(None);
    engine.checkpoint().expect("there is space");
    // The last window's metrics come after its replies.
    engine.close().expect("it ran");
    let windows = recorded.get("mixlog_windows_total mode=parallel");

    assert_eq!(recorded.get("mixlog_transactions_total"), 1_005);
    assert_eq!((recorded.get("mixlog_aborts_total"), recorded.get("mixlog_panics_total")), (0, 1));
    assert_eq!(recorded.get("mixlog_footprint_panics_total procedure=shy"), 5);
    assert_eq!(recorded.get("mixlog_replays_total"), 1);
    assert_eq!(recorded.get("mixlog_violations_total procedure=put"), 1);
    assert_eq!(recorded.get("mixlog_window_entries sum"), position + 1);
    assert_eq!(recorded.get("mixlog_window_entries count"), windows);
    assert_eq!(recorded.get("mixlog_window_batches count"), windows);
    assert_eq!(f64::from_bits(recorded.get("mixlog_executed_tail")) as u64, position + 1);
    assert_eq!(recorded.get("mixlog_checkpoints_total"), 1);
    assert_eq!(recorded.get("mixlog_checkpoint_failures_total"), 1);
    assert_eq!(f64::from_bits(recorded.get("mixlog_checkpoint_tail")) as u64, position + 1);
    assert_eq!(f64::from_bits(recorded.get("mixlog_tail_lag")), 0.0);
    assert_eq!(f64::from_bits(recorded.get("mixlog_in_flight")), 0.0);

    let list = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md"));
    let list = list.expect("the list of metrics");
    let mut described = recorded.described.lock().expect("no panic").clone();
    described.sort();
    // Only members of a set of replicas record it.
    described.retain(|name| name != "mixlog_divergences_total");
    assert!(list.contains("`mixlog_divergences_total`"));
    let mut names: Vec<_> = recorded.numbers.lock().expect("no panic").keys().cloned().collect();
    names.iter_mut().for_each(|name| *name = name.split(' ').next().expect("a name").to_owned());
    names.dedup();
    assert_eq!(described, names, "all that is recorded is described");
    assert!(names.iter().all(|name| list.contains(&format!("`{name}`"))), "and listed");

    let told = told.0.lock().expect("no panic");
    let at = |level| told.iter().filter(move |(l, _)| *l == level).map(|(_, text)| &**text);
    let info: Vec<_> = at(Level::INFO).collect();
    assert!(info.len() == 3 && info[0].contains("opened") && info[2].contains("closed"), "{info:?}");
    assert!(info[1].contains("checkpoint"), "{info:?}");
    let warnings: Vec<_> = at(Level::WARN).collect();
    assert!(warnings.len() == 2, "{warnings:?}");
    // Once, and not for each.
    for field in
        ["footprint panicked", "procedure=\"shy\"", "position=1001", "the footprint of 0 cannot be told"]
    {
        assert!(warnings[1].contains(field), "{warnings:?}");
    }
    for field in ["violations=1", "position=701", "procedure=\"put\"", "table=\"others\""] {
        assert!(warnings[0].contains(field), "{warnings:?}");
    }
    assert_eq!(at(Level::ERROR).count(), 1);
    let windows = windows as usize;
    assert_eq!(at(Level::TRACE).filter(|text| text.starts_with("span window")).count(), windows);
    assert_eq!(at(Level::TRACE).count(), 3 * windows, "a span and two events");
}
