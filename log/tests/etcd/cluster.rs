//! Clusters that are found in etcd.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mixlog_log::corfu::{
    self, Change, CorfuLog, EtcdAccess, EtcdStore, Home, Node, Projection, ProjectionStore, Reconfigured,
    Server, Timing, Transport, UnitNumber,
};
use mixlog_log::{Durability, Entry, Position, SharedLog};

use crate::server::Etcd;
use crate::subject::PATIENCE;
use crate::suite::{append, read_all};
use crate::tcp;
use crate::{Shared, etcd, home};

struct Cluster {
    roles: Vec<(Node, Server)>,
    transport: Arc<dyn Transport>,
    home: Home,
    directory: tempfile::TempDir,
}

impl Cluster {
    fn begin(home: Home) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (roles, transport) = tcp::begin(&home, directory.path(), Durability::Memory);
        Self { roles, transport, home, directory }
    }

    fn log(&self) -> CorfuLog {
        CorfuLog::connect(Arc::clone(&self.transport), tcp::config(Durability::Memory)).unwrap()
    }

    fn latest(&self) -> Arc<Projection> {
        corfu::latest(&*self.transport, &Timing::default(), PATIENCE).unwrap().unwrap()
    }

    fn change(&self, from: Arc<Projection>, change: Change, patience: Duration) -> Option<Reconfigured> {
        corfu::reconfigure(&self.transport, &Timing::default(), from, change, Some(patience))
    }

    fn kill(&mut self, unit: u32) {
        self.roles.retain(|(node, _)| *node != Node::Unit(UnitNumber(unit)));
    }

    fn add(&mut self, number: u32) {
        let (node, role) =
            (Node::Unit(UnitNumber(number)), tcp::unit(number, self.directory.path(), Durability::Memory));
        tcp::announce(&self.home, node, &role);
        self.roles.push((node, role));
    }
}

fn numbered(range: std::ops::Range<u64>) -> Vec<Vec<u8>> {
    range.map(|n| format!("entry {n}").into_bytes()).collect()
}

fn append_all(log: &dyn SharedLog, range: std::ops::Range<u64>) {
    for entry in numbered(range) {
        append(log, &[&entry]);
    }
}

/// All data, in order: a change may leave junk between.
fn data(log: &dyn SharedLog) -> Vec<Vec<u8>> {
    let tail = log.tail().unwrap().tail;
    let mut entries = Vec::new();
    let mut next = Position(0);
    while next < tail {
        let block = log.read(next).unwrap().expect("before the tail");
        for (position, entry) in block.iter() {
            if let (true, Entry::Data(bytes)) = (position >= next, entry) {
                entries.push(bytes.to_vec());
            }
        }
        next = block.end();
    }
    entries
}

pub(crate) fn appends_go_on_while_etcd_is_down_and_changes_when_it_is_back(_: &Shared) {
    let mut etcd = Etcd::start();
    let cluster = Cluster::begin(home(&etcd, "log"));
    let log = cluster.log();
    append_all(&log, 0..50);
    let latest = cluster.latest();
    etcd.kill();
    append_all(&log, 50..100);
    assert_eq!(read_all(&log, Position(0)).into_values().collect::<Vec<_>>(), numbered(0..100));
    // A change seals units before it finds nobody to write it down; appends wait until somebody goes on with it.
    assert_eq!(cluster.change(Arc::clone(&latest), Change::default(), Duration::from_millis(500)), None);
    etcd.restart();
    let changed = cluster.change(cluster.latest(), Change::default(), PATIENCE);
    let Some(Reconfigured::Installed(next)) = changed else { panic!("{changed:?}") };
    assert_eq!(next.epoch, latest.epoch.next());
    append_all(&log, 100..150);
    assert_eq!(data(&log), numbered(0..150));
}

pub(crate) fn unit_killed_is_replaced_and_nothing_is_lost(shared: &Shared) {
    let mut cluster = Cluster::begin(home(etcd(shared), "unit-killed"));
    let log = cluster.log();
    append_all(&log, 0..100);
    cluster.kill(1);
    cluster.add(5);
    let change = Change::replace(UnitNumber(1), UnitNumber(5));
    thread::scope(|scope| {
        // Who appends meanwhile is kept waiting, and not more.
        scope.spawn(|| append_all(&log, 100..200));
        let changed = cluster.change(cluster.latest(), change, PATIENCE);
        let Some(Reconfigured::Installed(next)) = changed else { panic!("{changed:?}") };
        let copied = corfu::transfer(&cluster.transport, &Timing::default(), next, Some(PATIENCE)).unwrap();
        assert!(copied.joining().is_empty() && copied.member(UnitNumber(5)).is_some());
        assert!(copied.member(UnitNumber(1)).is_none());
    });
    // The other unit of the chain is not needed any more.
    cluster.kill(2);
    let changed = cluster.change(cluster.latest(), Change::remove(UnitNumber(2)), PATIENCE);
    assert!(matches!(changed, Some(Reconfigured::Installed(_))), "{changed:?}");
    append_all(&log, 200..250);
    assert_eq!(data(&log), numbered(0..250));
    assert_eq!(data(&cluster.log()), numbered(0..250));
}

pub(crate) fn two_drivers_at_once_make_one_projection_for_each_epoch(shared: &Shared) {
    let cluster = Cluster::begin(home(etcd(shared), "two-drivers"));
    let log = cluster.log();
    let both = |from: &Arc<Projection>, changes: [Change; 2]| {
        thread::scope(|scope| {
            let drivers = changes.map(|change| {
                scope.spawn(|| cluster.change(Arc::clone(from), change, PATIENCE).expect("in time"))
            });
            drivers.map(|driver| driver.join().unwrap())
        })
    };
    for round in 0..20 {
        let from = cluster.latest();
        let made = both(&from, [Change::default(), Change::default()]);
        let latest = cluster.latest();
        assert_eq!(latest.epoch, from.epoch.next());
        for result in made {
            // Who wanted the very same may be told that he has it.
            let (Reconfigured::Installed(projection) | Reconfigured::Overtaken(projection)) = result else {
                panic!("{result:?}")
            };
            assert_eq!(projection, latest);
        }
        append_all(&log, round..round + 1);
    }
    // Those who want different things: one has it, the other one learns what there is, and makes his of that.
    let from = cluster.latest();
    let [one, other] = [1, 3].map(|unit| Change::remove(UnitNumber(unit)));
    let made = both(&from, [one.clone(), other.clone()]);
    let (next, change) = match made {
        [Reconfigured::Installed(won), Reconfigured::Overtaken(seen)] if won == seen => (won, other),
        [Reconfigured::Overtaken(seen), Reconfigured::Installed(won)] if won == seen => (won, one),
        other => panic!("{other:?}"),
    };
    assert_eq!(next.members().len(), 3);
    let made = cluster.change(next, change, PATIENCE);
    assert!(matches!(made, Some(Reconfigured::Installed(_))), "{made:?}");
    let members: Vec<_> = cluster.latest().members().iter().map(|member| member.unit.0).collect();
    assert_eq!(members, [2, 4]);
    append_all(&log, 20..40);
    assert_eq!(data(&log), numbered(0..40));
}

pub(crate) fn members_killed_one_by_one_lose_no_projection_while_epochs_change(_: &Shared) {
    let mut members = Etcd::members(3, None);
    let endpoints: Vec<String> = members.iter().map(Etcd::endpoint).collect();
    let access = EtcdAccess::default();
    let home = Home::Etcd { endpoints, prefix: "three".to_owned(), access: access.clone() };
    let cluster = Cluster::begin(home);
    let log = cluster.log();
    append_all(&log, 0..20);
    let done = AtomicBool::new(false);
    let installed: Mutex<Vec<Arc<Projection>>> = Mutex::default();
    let epochs = || installed.lock().unwrap().len();
    let wait_for_more = || {
        let (before, begun) = (epochs(), Instant::now());
        while epochs() < before + 5 {
            assert!(begun.elapsed() < PATIENCE, "two of three go on");
            thread::sleep(Duration::from_millis(1));
        }
    };
    let mut appended = 20;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let changed = cluster.change(cluster.latest(), Change::default(), PATIENCE);
                let Some(Reconfigured::Installed(next)) = changed else { panic!("{changed:?}") };
                installed.lock().unwrap().push(next);
            }
        });
        // Each of them once, so the leader, too; the last one stays dead.
        for (round, member) in members.iter_mut().enumerate() {
            wait_for_more();
            member.kill();
            wait_for_more();
            append_all(&log, appended..appended + 20);
            appended += 20;
            if round < 2 {
                member.restart();
            }
        }
        done.store(true, Ordering::Release);
    });
    let installed = installed.into_inner().unwrap();
    let last = installed.last().expect("epochs have changed");
    assert!(
        installed.windows(2).all(|two| two[0].epoch.next() == two[1].epoch),
        "each epoch once, and none is lost"
    );
    for member in &members[..2] {
        let store = EtcdStore::connect(&[member.endpoint()], "three", &access, PATIENCE).unwrap();
        assert_eq!(store.latest().unwrap().as_ref(), Some(last));
    }
    assert_eq!(data(&log), numbered(0..appended));
}
