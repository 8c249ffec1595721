//! Power cuts, failing disks and damage under a projection store in files: what it said of an epoch, or of the log's name,
//! is so for ever, whoever asks.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mixlog_log::LogId;
use mixlog_log::Position;
use mixlog_log::corfu::{
    Chain, Epoch, FileStore, Instance, Member, Projection, ProjectionStore, Segment, SequencerNumber,
    StoreError, UnitNumber,
};
use mixlog_log::file::{Access, Lock, LockMode, Storage, StorageFile};
use mixlog_simdisk::{Call, Cut, Disk, Failure, Fault, Kind, Note, Random, Sim};

/// Where the store is, which a server of one puts beside its address book.
const DIRECTORY: &str = "projections";

/// One thing that somebody asks of the store.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Proposes a name.
    Name(u128),
    /// Installs an epoch; those of two makers differ.
    Install(u64, u64),
    Latest,
    /// His process ends, and starts again.
    Reopen,
}

/// Two processes on one store, in turns.
const SCRIPT: &[(usize, Step)] = &[
    (0, Step::Latest),
    (0, Step::Name(1)),
    (1, Step::Name(2)),
    (0, Step::Install(1, 1)),
    (1, Step::Install(1, 2)),
    (1, Step::Latest),
    (1, Step::Install(2, 3)),
    (0, Step::Install(3, 4)),
    (0, Step::Reopen),
    (0, Step::Latest),
    (0, Step::Install(3, 5)),
    (1, Step::Name(3)),
    (1, Step::Install(4, 6)),
];

fn projection(log: LogId, epoch: u64, maker: u64) -> Projection {
    let member = |unit| Member { unit: UnitNumber(unit), joined: Epoch(1) };
    Projection {
        log,
        epoch: Epoch(epoch),
        width: 8,
        tail: Position(1000 * epoch + maker),
        sequencer: Some((SequencerNumber(1), Instance(7))),
        segments: vec![Segment { first: Position(0), chains: vec![Chain::of(vec![member(1), member(2)])] }],
    }
}

fn open(sim: &Sim) -> Result<FileStore, StoreError> {
    FileStore::open_with_storage(sim.storage().directory(DIRECTORY))
}

fn file_of(epoch: Epoch) -> String {
    format!("{DIRECTORY}/projection-{:016x}", epoch.0)
}

/// What was said.
#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    log: Option<LogId>,
    projections: BTreeMap<Epoch, Projection>,
}

impl Told {
    fn named(&mut self, log: LogId) {
        assert_eq!(*self.log.get_or_insert(log), log, "a log has one name");
    }

    fn installed(&mut self, projection: &Projection) {
        self.named(projection.log);
        let first = self.projections.entry(projection.epoch).or_insert_with(|| projection.clone());
        assert_eq!(first, projection, "an epoch has one projection");
    }

    fn latest(&mut self, latest: Option<&Projection>) {
        let highest = self.projections.last_key_value().map(|(epoch, _)| *epoch);
        assert!(latest.map(|latest| latest.epoch) >= highest, "{highest:?} is gone: {latest:?}");
        latest.inspect(|latest| self.installed(latest));
    }

    fn assert_kept(&self, disk: &Disk) {
        let names = disk.names();
        for (epoch, projection) in &self.projections {
            let name = file_of(*epoch);
            assert!(names.contains(&name), "epoch {epoch} is gone");
            assert_eq!(disk.bytes(&name), projection.encode(), "epoch {epoch}");
        }
    }
}

/// Those who use the store, and what they were told.
struct Users<'a> {
    sim: &'a Sim,
    stores: [Option<FileStore>; 2],
    /// After each step that was answered.
    history: Vec<Told>,
}

impl<'a> Users<'a> {
    fn of(sim: &'a Sim) -> Self {
        Self { sim, stores: [None, None], history: vec![Told::default()] }
    }

    fn told(&self) -> &Told {
        self.history.last().expect("it begins with nothing")
    }

    fn ask(&mut self, who: usize, step: Step) -> Result<(), StoreError> {
        let mut told = self.told().clone();
        if self.stores[who].is_none() {
            self.stores[who] = Some(open(self.sim)?);
        }
        let store = self.stores[who].as_ref().expect("it is open");
        match step {
            Step::Name(proposed) => told.named(store.name(LogId(proposed))?),
            Step::Install(epoch, maker) => {
                let projection = projection(told.log.unwrap_or(LogId(9)), epoch, maker);
                if store.install(&projection)? {
                    told.installed(&projection);
                }
            }
            Step::Latest => told.latest(store.latest()?.as_deref()),
            Step::Reopen => self.stores[who] = None,
        }
        self.sim.note(Note::Acknowledged(Position(self.history.len() as u64)));
        self.history.push(told);
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Tally {
    states: BTreeSet<u64>,
    more_than_told: u64,
}

/// Opens the store that a crash left, goes on with it, and crashes it `depth` times more while it is opened.
fn recover(disk: &Disk, told: &Told, depth: u32, random: &mut Random, tally: &mut Tally) {
    tally.states.insert(disk.fingerprint());
    let sim = Sim::boot(disk.clone());
    let (store, mut now) = (open(&sim).unwrap(), told.clone());
    told.assert_kept(disk);
    now.latest(store.latest().unwrap().as_deref());
    now.named(store.name(LogId(99)).unwrap());
    // Also what was said just now.
    now.assert_kept(&sim.disk().after(Cut::Nothing, random));
    tally.more_than_told += u64::from(now.projections.len() > told.projections.len());
    let trace = sim.trace();
    let latest = now.projections.last_key_value().map_or(0, |(epoch, _)| epoch.0);
    let log = now.log.expect("it was named");
    assert!(latest == 0 || !store.install(&projection(log, latest, 98)).unwrap(), "it has one");
    let next = projection(log, latest + 1, 97);
    assert!(store.install(&next).unwrap());
    now.installed(&next);
    let seen = Sim::boot(sim.disk().after(Cut::Nothing, random));
    let store = open(&seen).unwrap();
    now.latest(store.latest().unwrap().as_deref());
    now.named(store.name(LogId(96)).unwrap());
    if depth > 0 {
        let mut disk = disk.clone();
        let calls = usize::try_from(random.below(trace.len() as u64 + 1)).unwrap();
        trace[..calls].iter().for_each(|call| disk.apply(call));
        recover(&disk.after(Cut::Some, random), told, depth - 1, random, tally);
    }
}

#[test]
fn power_cut_at_every_call_under_a_store_takes_back_nothing_that_it_said() {
    let sim = Sim::default();
    let mut users = Users::of(&sim);
    for (who, step) in SCRIPT {
        users.ask(*who, *step).unwrap();
    }
    let history = users.history;
    assert_eq!(history.last().unwrap().projections.len(), 4);
    let (mut random, mut tally, mut disk, mut told) = (Random(1), Tally::default(), Disk::default(), 0);
    for call in sim.trace() {
        disk.apply(&call);
        if let Call::Note(Note::Acknowledged(count)) = call {
            told = usize::try_from(count.0).unwrap();
        }
        let mut cuts = vec![Cut::Some; 12];
        cuts.extend([Cut::Nothing, Cut::Everything, Cut::Unsaved]);
        for cut in cuts {
            recover(&disk.after(cut, &mut random), &history[told], 2, &mut random, &mut tally);
        }
    }
    println!("{} distinct disks, {} with more than was told", tally.states.len(), tally.more_than_told);
    assert!(tally.states.len() > 200 && tally.more_than_told > 50);
}

/// Lets the n-th call of a kind fail, for every n, while the script goes on; then cuts the power.
fn fail_every_call(kind: Kind, error: Failure, count: u64) {
    let (mut random, mut tally) = (Random(2), Tally::default());
    for after in 0.. {
        let sim = Sim::default();
        sim.set_fault(Some(Fault { kind, after, count, error }));
        let (mut users, mut refused) = (Users::of(&sim), 0);
        for (who, step) in SCRIPT {
            let Err(told) = users.ask(*who, *step) else { continue };
            refused += 1;
            assert!(matches!(told, StoreError::Io(_)), "{told}");
            let Some(store) = &users.stores[*who] else { continue };
            assert_eq!(store.failure().is_some(), kind == Kind::SyncDirectory, "that alone is final");
            let Some(reason) = store.failure() else { continue };
            // Whatever the disk says from now on.
            let next = projection(LogId(1), 9, 9);
            for again in [
                store.latest().unwrap_err(),
                store.name(LogId(1)).unwrap_err(),
                store.install(&next).unwrap_err(),
            ] {
                assert!(matches!(&again, StoreError::Failed { reason: why, .. } if why == reason), "{again}");
            }
            // Its process ends of it.
            users.stores[*who] = None;
        }
        let struck = sim.fault_struck();
        sim.set_fault(None);
        let told = users.told().clone();
        for cut in [Cut::Nothing, Cut::Some, Cut::Some, Cut::Everything] {
            recover(&sim.disk().after(cut, &mut random), &told, 1, &mut random, &mut tally);
        }
        // Who has it open goes on, unless that was final.
        for who in 0..2 {
            users.ask(who, Step::Latest).unwrap();
        }
        if !struck {
            assert_eq!(refused, 0);
            assert!(after > 0, "the script makes no call of kind {kind:?}");
            return;
        }
        let is_harmless =
            kind == Kind::Remove || error == Failure::Short || error == Failure::Errno(4) && count == 1;
        assert!(refused > 0 || is_harmless, "{kind:?} {after}: {error:?} was passed over");
    }
}

#[test]
fn call_that_fails_under_a_store_takes_back_nothing_that_it_said() {
    let kinds = [
        Kind::Open,
        Kind::Read,
        Kind::Write,
        Kind::Sync,
        Kind::Link,
        Kind::Remove,
        Kind::SyncDirectory,
        Kind::List,
    ];
    for kind in kinds {
        for error in [5, 28, 4].map(Failure::Errno) {
            for count in [1, u64::MAX] {
                fail_every_call(kind, error, count);
            }
        }
    }
    fail_every_call(Kind::Read, Failure::Short, u64::MAX);
    fail_every_call(Kind::Write, Failure::Short, u64::MAX);
}

/// A store in which so many steps of the script were done.
fn store_after(steps: usize) -> (Disk, Told) {
    let sim = Sim::default();
    let mut users = Users::of(&sim);
    for (who, step) in &SCRIPT[..steps] {
        users.ask(*who, *step).unwrap();
    }
    (sim.disk(), users.told().clone())
}

/// The disk with each byte of a file flipped, and with the file cut at each length.
fn damages<'a>(disk: &'a Disk, name: &'a str) -> impl Iterator<Item = (String, Disk)> + 'a {
    let bytes = disk.bytes(name);
    let with = move |what: String, bytes: Vec<u8>| {
        let mut damaged = disk.clone();
        damaged.set_bytes(name, bytes);
        (what, damaged)
    };
    let flips = (0..8 * bytes.len()).map(move |bit| {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        with(format!("{name}, bit {bit}"), flipped)
    });
    let cuts = (0..bytes.len())
        .map(move |length| with(format!("{length} bytes of {name}"), bytes[..length].to_vec()));
    flips.chain(cuts)
}

#[test]
fn projection_that_is_damaged_anywhere_is_told_by_its_epoch_and_no_other_one_is_shown() {
    let (disk, told) = store_after(SCRIPT.len());
    let (last, expected) = told.projections.last_key_value().unwrap();
    let mut damaged = 0;
    for name in disk.names() {
        for (what, disk) in damages(&disk, &name) {
            let store = open(&Sim::boot(disk)).unwrap();
            match store.latest() {
                Ok(latest) => {
                    assert_ne!(name, file_of(*last), "{what}");
                    assert_eq!(latest.as_deref(), Some(expected), "{what}");
                    assert_eq!(store.name(LogId(99)).unwrap(), expected.log, "{what}");
                }
                Err(error) => {
                    assert_eq!(name, file_of(*last), "{what}");
                    let text = error.to_string();
                    assert!(
                        text.starts_with(&format!("the projection of epoch {last} is damaged: ")),
                        "{text}"
                    );
                    assert!(store.name(LogId(99)).is_err() && store.latest().is_err(), "{what}");
                    damaged += 1;
                }
            }
        }
    }
    assert_eq!(damaged, 9 * disk.bytes(&file_of(*last)).len());
    // None of them may be missing either, if all are.
    let mut gone = disk;
    told.projections.keys().for_each(|epoch| gone.delete(&file_of(*epoch)));
    let store = open(&Sim::boot(gone)).unwrap();
    for error in [store.latest().unwrap_err(), store.name(LogId(99)).unwrap_err()] {
        assert!(
            error.to_string().contains(&format!("the projections in /sim/{DIRECTORY} are gone")),
            "{error}"
        );
    }
}

#[test]
fn name_of_a_log_that_is_damaged_anywhere_is_not_taken_for_another_one() {
    // Named, and not founded yet.
    let (disk, told) = store_after(3);
    let name = format!("{DIRECTORY}/log");
    assert_eq!(disk.names(), std::slice::from_ref(&name));
    let (mut nameless, mut harmless) = (0, 0);
    for (what, disk) in damages(&disk, &name) {
        match open(&Sim::boot(disk)).unwrap().name(LogId(99)) {
            Ok(log) => {
                assert_eq!(Some(log), told.log, "{what}");
                harmless += 1;
            }
            Err(error) => {
                let expected = format!("/sim/{name} does not hold the id of a log");
                assert_eq!(error.to_string(), expected, "{what}");
                nameless += 1;
            }
        }
    }
    assert!(nameless > 300 && harmless < 10, "{nameless} {harmless}");
}

#[test]
fn file_that_a_killed_process_left_half_made_is_removed_when_the_store_is_opened() {
    let mut disk = Disk::default();
    let other = format!("{DIRECTORY}/lost+found");
    disk.set_bytes(&other, b"somebody else's".to_vec());
    for left in ["creating-log-7-0", "creating-projection-0000000000000001-7-1", "creating-founded-7-2"] {
        disk.set_bytes(&format!("{DIRECTORY}/{left}"), b"half".to_vec());
    }
    let sim = Sim::boot(disk);
    let store = open(&sim).unwrap();
    assert_eq!(sim.disk().names(), std::slice::from_ref(&other));
    assert_eq!(store.name(LogId(5)).unwrap(), LogId(5));
    let kept = sim.disk().after(Cut::Nothing, &mut Random(1));
    assert_eq!(kept.names(), [format!("{DIRECTORY}/log"), other], "durably");
}

/// A store's directory that somebody else opens whenever a file is about to get its name.
struct OpenedMeanwhile {
    storage: Arc<dyn Storage>,
    /// How often that happens.
    times: AtomicU64,
}

impl Storage for OpenedMeanwhile {
    fn path(&self) -> &Path {
        self.storage.path()
    }

    fn directory(&self, name: &str) -> Arc<dyn Storage> {
        self.storage.directory(name)
    }

    fn exists(&self) -> io::Result<bool> {
        self.storage.exists()
    }

    fn create_directory(&self) -> io::Result<()> {
        self.storage.create_directory()
    }

    fn lock(&self, mode: LockMode) -> io::Result<Option<Lock>> {
        self.storage.lock(mode)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.storage.list()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        self.storage.open(name, access)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.storage.rename(from, to)
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let left = self.times.load(Ordering::Relaxed);
        if left > 0 {
            self.times.store(left - 1, Ordering::Relaxed);
            FileStore::open_with_storage(Arc::clone(&self.storage)).unwrap();
        }
        self.storage.link(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.storage.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.storage.sync_directory()
    }
}

#[test]
fn store_that_is_opened_while_a_file_is_made_there_is_in_nobodys_way() {
    let sim = Sim::default();
    let storage = sim.storage().directory(DIRECTORY);
    let meanwhile = Arc::new(OpenedMeanwhile { storage, times: AtomicU64::new(0) });
    let store = FileStore::open_with_storage(Arc::<OpenedMeanwhile>::clone(&meanwhile)).unwrap();
    let mut told = Told::default();
    for times in [1, 3] {
        meanwhile.times.store(times, Ordering::Relaxed);
        told.named(store.name(LogId(1)).unwrap());
        let epoch = told.projections.len() as u64 + 1;
        meanwhile.times.store(times, Ordering::Relaxed);
        assert!(store.install(&projection(LogId(1), epoch, times)).unwrap());
        assert_eq!(meanwhile.times.load(Ordering::Relaxed), 0);
        told.installed(&projection(LogId(1), epoch, times));
    }
    told.latest(store.latest().unwrap().as_deref());
    told.assert_kept(&sim.disk().after(Cut::Nothing, &mut Random(1)));
    assert_eq!(sim.disk().names().len(), 4, "the name, that it was founded, and two epochs");
}

/// Its process ends of that, and the next one finds the name, which the disk may not have.
#[test]
fn name_whose_sync_failed_is_durable_before_the_next_process_tells_it() {
    for begun in 0..4 {
        let sim = Sim::default();
        let store = open(&sim).unwrap();
        if begun > 0 {
            assert_eq!(store.name(LogId(1)).unwrap(), LogId(1));
        }
        for epoch in 1..begun {
            assert!(store.install(&projection(LogId(1), epoch, epoch)).unwrap());
        }
        let made = projection(LogId(1), begun, 9);
        sim.set_fault(Some(Fault {
            kind: Kind::SyncDirectory,
            after: 0,
            count: 1,
            error: Failure::Errno(5),
        }));
        assert!(if begun == 0 { store.name(LogId(1)).is_err() } else { store.install(&made).is_err() });
        drop(store);
        let has_it = |disk: &Disk| {
            disk.names().iter().any(|name| match begun {
                0 => name.ends_with("/log"),
                _ => *name == file_of(made.epoch),
            })
        };
        let cut = |sim: &Sim| sim.disk().after(Cut::Nothing, &mut Random(begun));
        assert!(has_it(&sim.disk()) && !has_it(&cut(&sim)));
        // What is seen at all is durable from here on, whatever is asked.
        let store = open(&sim).unwrap();
        assert!(has_it(&cut(&sim)));
        let mut told = Told::default();
        told.named(store.name(LogId(2)).unwrap());
        assert_eq!(told.log, Some(LogId(1)));
        told.latest(store.latest().unwrap().as_deref());
        assert_eq!(told.projections.contains_key(&made.epoch), begun > 0);
        told.assert_kept(&cut(&sim));
        // Nor is the store opened while the disk may not have it.
        sim.set_fault(Some(Fault {
            kind: Kind::SyncDirectory,
            after: 1,
            count: 1,
            error: Failure::Errno(5),
        }));
        assert!(matches!(open(&sim), Err(StoreError::Io(_))));
    }
}
