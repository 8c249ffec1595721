//! Snapshots taken while transactions run: each must show exactly the state after its position, as a replay one by
//! one finds it, through every way to look, and for as long as it is held.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mixlog_engine::{Builder, Engine, Footprint, Mode, Position, Procedure, Snapshot, Table, Tx};
use mixlog_log::{MemoryLog, SharedLog};
use serde::{Deserialize, Serialize};

/// Rows own memory, so that a reader who comes too late or too early meets more than a wrong number.
const TEXTS: Table<String, Vec<u64>> = Table::new("texts");
const QUEUES: Table<(u8, u64), String> = Table::new("queues").grouped("queue", queue).ordered();

const KEYS: u64 = 40;
const GROUPS: u8 = 3;

fn queue(key: &(u8, u64)) -> u64 {
    u64::from(key.0)
}

fn text(n: u64) -> String {
    format!("a key that is too long to be stored inline {n}")
}

/// Steps are drawn from the seed. Some leave the footprint, some abort or panic half-way.
#[derive(Serialize, Deserialize)]
struct Steps {
    seed: u64,
    /// How many there are to choose from: with one, nothing can run in parallel.
    keys: u64,
}

impl Steps {
    fn list(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut random = Random(self.seed);
        (0..1 + self.seed % 6).map(move |_| (random.next() % 10, random.next()))
    }

    fn groups(&self) -> u64 {
        u64::from(GROUPS).min(self.keys)
    }
}

impl Procedure for Steps {
    const NAME: &'static str = "steps";
    type Output = u64;
    type Abort = u64;

    fn footprint(&self, f: &mut Footprint<'_>) {
        let forget = usize::from(self.seed.is_multiple_of(397));
        for (what, n) in self.list().skip(forget) {
            match what {
                0..6 => f.write(&TEXTS, &text(n % self.keys)),
                _ => f.write_granule(&QUEUES, n % self.groups()),
            };
        }
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, u64> {
        let mut seen = 0u64;
        for (what, n) in self.list() {
            let (key, group) = (text(n % self.keys), (n % self.groups()) as u8);
            match what {
                0..3 => tx.put(&TEXTS, key, vec![n; (n % 9) as usize]),
                3 => {
                    if let Some(list) = tx.get_mut(&TEXTS, &key) {
                        list.push(n);
                        seen += list.len() as u64;
                    }
                }
                4 | 5 => seen += u64::from(tx.delete(&TEXTS, &key)),
                6 | 7 => tx.put(&QUEUES, (group, n / 8 % KEYS), text(n)),
                8 => {
                    let last = tx.last(&QUEUES, (group, 0)..=(group, n / 8 % KEYS)).map(|(key, _)| key);
                    seen += last.map_or(0, |key| u64::from(tx.delete(&QUEUES, &key)));
                }
                _ => seen += tx.range(&QUEUES, (group, 5)..).rev().map(|(key, _)| key.1).sum::<u64>(),
            }
            match n % 101 {
                0..4 => return Err(seen),
                4 => panic!("expected"),
                _ => {}
            }
        }
        Ok(seen)
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn builder() -> Builder {
    Engine::builder().table(&TEXTS).table(&QUEUES).procedure::<Steps>()
}

/// Looks at the snapshot in every way there is; all must agree. Returns the digest from scratch.
fn look(snapshot: &Snapshot) -> u128 {
    let mut texts = BTreeMap::new();
    snapshot.for_each(&TEXTS, |key, value| assert_eq!(texts.insert(key.clone(), value.clone()), None));
    for key in (0..KEYS).map(text) {
        assert_eq!(snapshot.get(&TEXTS, &key), texts.get(&key).cloned(), "{snapshot:?} {key}");
    }
    let mut queues = BTreeMap::new();
    snapshot.for_each(&QUEUES, |key, value| assert_eq!(queues.insert(*key, value.clone()), None));
    for group in 0..GROUPS {
        let all = (group, 0)..(group + 1, 0);
        let found: Vec<_> = queues.range(all.clone()).map(|(key, value)| (*key, value.clone())).collect();
        assert_eq!(snapshot.range(&QUEUES, u64::from(group), all), found, "{snapshot:?}");
        assert!(found.iter().all(|(key, value)| snapshot.get(&QUEUES, key).as_ref() == Some(value)));
    }
    snapshot.state_digest()
}

/// Looks at snapshots, new ones and ones held for a while, until told to stop.
fn read(engine: &Engine, stop: &AtomicBool, held_at_most: usize) -> BTreeMap<Option<Position>, u128> {
    let (mut digests, mut held) = (BTreeMap::new(), VecDeque::new());
    while !stop.load(Ordering::Relaxed) {
        held.push_back(engine.snapshot());
        if held.len() > held_at_most {
            held.pop_front();
        }
        for snapshot in held.front().into_iter().chain(held.back()) {
            let digest = look(snapshot);
            assert_eq!(*digests.entry(snapshot.position()).or_insert(digest), digest, "{snapshot:?}");
        }
    }
    digests
}

fn check(threads: usize, window: u32, mode: Mode, transactions: u64) {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<&str>() != Some(&"expected") {
            default(info);
        }
    }));
    let log = Arc::new(MemoryLog::new());
    let log_again: Arc<dyn SharedLog> = Arc::<MemoryLog>::clone(&log);
    let engine = builder().threads(threads).window(window).mode(mode).max_in_flight(600).open(log).unwrap();
    let stop = AtomicBool::new(false);
    let digests: BTreeMap<_, _> = std::thread::scope(|scope| {
        let readers = [0, 3, 40].map(|held| {
            scope.spawn({
                let (engine, stop) = (&engine, &stop);
                move || read(engine, stop, held)
            })
        });
        let mut random = Random(u64::from(window) * 31 + threads as u64);
        for i in 0..transactions {
            // Stretches without conflicts to speak of, with nothing but conflicts, and of small windows.
            let keys = if i / 500 % 3 == 1 { 1 } else { KEYS };
            let ticket = engine.submit(&Steps { seed: random.next() >> 8, keys }).unwrap();
            if i / 500 % 3 == 2 && i % 20 == 0 {
                let _ = ticket.wait().unwrap();
            }
        }
        while engine.in_flight() > 0 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().flat_map(|reader| reader.join().expect("a reader's checks hold")).collect()
    });
    let stats = engine.stats();
    assert!(stats.aborts > 0 && stats.panics > 0);
    assert!(if mode == Mode::Parallel { stats.replays > 0 } else { stats.sequential_windows > 0 });
    let last = engine.digest();
    engine.close().unwrap();
    let replay = builder().threads(1).mode(Mode::Sequential).replay(log_again).unwrap();
    for (position, digest) in digests {
        let expected = position.map_or(0, |position| replay.to(position).unwrap().state);
        assert_eq!(digest, expected, "{threads} threads, window {window}, {mode}, snapshot at {position:?}");
    }
    assert_eq!(replay.to_end().unwrap(), last);
}

/// Raise it to look longer.
fn transactions() -> u64 {
    std::env::var("MIXLOG_SNAPSHOT_TRANSACTIONS").map_or(2_000, |n| n.parse().expect("a number"))
}

#[test]
fn snapshots_while_windows_run_in_parallel_show_the_state_after_their_position() {
    for (threads, window) in [(2, 5), (2, 33), (4, 17), (4, 256)] {
        check(threads, window, Mode::Parallel, transactions());
    }
}

#[test]
fn snapshots_while_the_mode_changes_show_the_state_after_their_position() {
    for (threads, window) in [(2, 64), (4, 80)] {
        check(threads, window, Mode::Auto, transactions());
    }
}
