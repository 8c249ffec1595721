//! A cluster of real processes that are killed and stopped while TPC-C runs on it.
//!
//! Faults come one after another, each when the cluster has recovered from the one before; the workload runs for
//! as long as that takes. In the end every audit must hold, and the log, read by somebody else and executed one by
//! one, must give the digest of the engine that ran meanwhile: so nothing that it acknowledged is lost.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mixlog::log::corfu::{
    self, Config, CorfuLog, Epoch, Instance, Projection, SequencerNumber, TcpTransport, Timing, Transport,
    UnitNumber,
};
use mixlog::log::{Durability, SharedLog};
use mixlog::workloads::runner::{self, Stop};
use mixlog::workloads::tpcc::client::Tpcc;
use mixlog::workloads::tpcc::schema::Scale;
use mixlog::workloads::workload::Workload;
use mixlog::{Digest, Engine, Mode};
use rustix::process::{Pid, Signal, kill_process};

/// Longer than any step takes on a busy machine, so that a hang fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `mixlog cluster up` says.
#[derive(Default)]
struct Told {
    lines: Vec<String>,
    /// The process of each role, by its name.
    processes: BTreeMap<String, u32>,
    ended: bool,
}

/// A cluster of processes; ended when dropped.
struct Cluster {
    child: Child,
    /// Kept open: it is inherited by nobody who reads it.
    _stdin: Option<ChildStdin>,
    told: Arc<(Mutex<Told>, Condvar)>,
    store: String,
    _directory: tempfile::TempDir,
}

impl Cluster {
    fn up() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("cluster");
        let mut child = Command::new(env!("CARGO_BIN_EXE_mixlog"))
            .args(["cluster", "up", "--listen", "127.0.0.1:0", "--durability", "buffered", "--dir"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let told: Arc<(Mutex<Told>, Condvar)> = Arc::default();
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let hears = Arc::clone(&told);
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                hears.0.lock().expect("no panic").hear(line);
                hears.1.notify_all();
            }
            hears.0.lock().expect("no panic").ended = true;
            hears.1.notify_all();
        });
        let stdin = child.stdin.take();
        let mut cluster = Self { child, _stdin: stdin, told, store: String::new(), _directory: directory };
        cluster.wait("the cluster", |told| told.lines.iter().any(|line| line == "ready"));
        let told = cluster.told.0.lock().expect("no panic");
        let store = told.lines.iter().find_map(|line| line.strip_prefix("projection store at "));
        let store = store.and_then(|rest| rest.split(',').next()).expect("it says where").to_owned();
        drop(told);
        cluster.store = store;
        cluster
    }

    fn wait(&self, what: &str, condition: impl Fn(&Told) -> bool) {
        let told = self.told.0.lock().expect("no panic");
        let waiting = |told: &mut Told| !condition(told) && !told.ended;
        let (told, timeout) = self.told.1.wait_timeout_while(told, PATIENCE, waiting).expect("no panic");
        assert!(!timeout.timed_out() && condition(&told), "{what}: {:#?}", told.lines);
    }

    fn process(&self, role: &str) -> u32 {
        self.told.0.lock().expect("no panic").processes[role]
    }

    fn signal(&self, role: &str, signal: Signal) {
        let process = i32::try_from(self.process(role)).ok().and_then(Pid::from_raw);
        kill_process(process.expect("a process"), signal).expect("it is there");
    }

    /// Kills a role, and waits until it was started again.
    fn kill(&self, role: &str) {
        let before = self.process(role);
        self.signal(role, Signal::KILL);
        self.wait(role, |told| told.processes[role] != before);
    }

    fn transport(&self) -> Arc<TcpTransport> {
        TcpTransport::connect(std::slice::from_ref(&self.store), &Timing::default()).expect("it is there")
    }

    fn log(&self) -> Arc<dyn SharedLog> {
        let config = Config { durability: Durability::Buffered, ..Config::default() };
        Arc::new(CorfuLog::connect(self.transport(), config).expect("it is there"))
    }
}

impl Told {
    fn hear(&mut self, line: String) {
        // "unit 1 at 127.0.0.1:4711, process 1234"
        if let Some((role, rest)) = line.split_once(" at ")
            && let Some((_, process)) = rest.split_once(", process ")
            && let Ok(process) = process.parse()
        {
            self.processes.insert(role.to_owned(), process);
        }
        self.lines.push(line);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Its children end with it, unless they stand still.
        for process in self.told.0.lock().expect("no panic").processes.values() {
            if let Some(process) = i32::try_from(*process).ok().and_then(Pid::from_raw) {
                let _ = kill_process(process, Signal::CONT);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks at the projection until it is as it should be.
fn until(
    transport: &Arc<TcpTransport>,
    what: &str,
    condition: impl Fn(&Projection) -> bool,
) -> Arc<Projection> {
    let begun = Instant::now();
    let transport: Arc<dyn Transport> = Arc::<TcpTransport>::clone(transport);
    loop {
        if let Some(Some(latest)) = corfu::latest(&*transport, &Timing::default(), PATIENCE)
            && condition(&latest)
        {
            return latest;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: the cluster does not recover");
        thread::sleep(Duration::from_millis(20));
    }
}

fn joined(projection: &Projection, unit: u32) -> Option<Epoch> {
    projection.member(UnitNumber(unit)).map(|member| member.joined)
}

fn sequencer(projection: &Projection) -> (SequencerNumber, Instance) {
    projection.sequencer.expect("it is not sealed")
}

/// Every chain has its two units, and they have everything.
fn is_whole(projection: &Projection) -> bool {
    projection.joining().is_empty() && projection.open().chains.iter().all(|chain| chain.units.len() == 2)
}

/// Waits until the workload has appended more.
fn goes_on(log: &dyn SharedLog, entries: u64) {
    let target = log.tail().tail.plus(entries);
    let reached = log.wait_past(target, Some(PATIENCE)).expect("it can be read");
    assert!(reached.tail > target, "appends go on");
}

fn kill_every_role(cluster: &Cluster, log: &dyn SharedLog) {
    let transport = cluster.transport();
    // The head of one chain and the last unit of the other one.
    for unit in [1, 4] {
        let before = joined(&until(&transport, "before", is_whole), unit);
        cluster.kill(&format!("unit {unit}"));
        // Who is back before anybody noticed has what it had, and stays.
        goes_on(log, 200);
        let after = until(&transport, "a unit was killed", is_whole);
        assert!(joined(&after, unit) >= before);
    }
    let before = until(&transport, "before", is_whole);
    let (number, instance) = sequencer(&before);
    cluster.kill(&format!("sequencer {number}"));
    until(&transport, "the sequencer was killed", |now| sequencer(now).1 != instance && is_whole(now));

    cluster.kill("projection store");
    goes_on(log, 200);
    until(&transport, "the store was killed", is_whole);
}

fn stop_every_role(cluster: &Cluster, log: &dyn SharedLog) {
    let transport = cluster.transport();
    for unit in [2, 3] {
        let before = joined(&until(&transport, "before", is_whole), unit);
        cluster.signal(&format!("unit {unit}"), Signal::STOP);
        until(&transport, "a unit stands still", |now| joined(now, unit).is_none());
        goes_on(log, 200);
        cluster.signal(&format!("unit {unit}"), Signal::CONT);
        let after = until(&transport, "a unit goes on", is_whole);
        assert!(joined(&after, unit) > before, "it joined anew, empty");
    }
    let (number, _) = sequencer(&until(&transport, "before", is_whole));
    cluster.signal(&format!("sequencer {number}"), Signal::STOP);
    until(&transport, "the sequencer stands still", |now| sequencer(now).0 != number && is_whole(now));
    // It knows nothing of the new epoch, and may say what it likes.
    cluster.signal(&format!("sequencer {number}"), Signal::CONT);

    // Who knows the latest projection needs no store while all is well.
    goes_on(log, 200);
    cluster.signal("projection store", Signal::STOP);
    goes_on(log, 500);
    cluster.signal("projection store", Signal::CONT);
    until(&transport, "the store goes on", is_whole);
}

fn replay(workload: &Tpcc, log: Arc<dyn SharedLog>, threads: usize, mode: Mode) -> Digest {
    let builder = workload.register(Engine::builder()).threads(threads).mode(mode);
    builder.replay(log).expect("it opens").to_end().expect("it replays")
}

/// Runs TPC-C on a cluster while `faults` happen, and compares.
fn tpcc_survives(faults: fn(&Cluster, &dyn SharedLog)) {
    let cluster = Cluster::up();
    let workload: Tpcc = Tpcc::new(Scale::small(1), 1);
    let engine = workload.register(Engine::builder()).threads(2).open(cluster.log()).expect("it opens");
    runner::prepare(&engine, &workload, &mut |_, _| ()).expect("it is populated");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let faults = scope.spawn(|| {
            // Whatever happens, the workload must not run for ever.
            let _over = Over(&over);
            faults(&cluster, &*cluster.log());
        });
        for seed in 1.. {
            let stop = Stop::Transactions(1000);
            let config =
                runner::Config { clients: 2, in_flight: 64, stop, seed, ..runner::Config::default() };
            let report = runner::run(&engine, &workload, &config, &mut |_| ()).expect("it runs");
            let failed: Vec<_> = report.checks.iter().filter(|check| !check.ok).collect();
            assert!(failed.is_empty(), "{failed:?}");
            if over.load(Ordering::Acquire) {
                break;
            }
        }
        faults.join().expect("the cluster recovers from every fault");
    });
    let digest = engine.digest();
    engine.close().expect("it closes");
    assert_eq!(replay(&workload, cluster.log(), 1, Mode::Sequential), digest);
    assert_eq!(replay(&workload, cluster.log(), 2, Mode::Parallel), digest);
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn tpcc_goes_on_while_every_role_is_killed() {
    tpcc_survives(kill_every_role);
}

#[test]
fn tpcc_goes_on_while_every_role_stands_still() {
    tpcc_survives(stop_every_role);
}

#[test]
fn client_killed_while_it_appends_leaves_a_log_that_others_go_on_with() {
    let cluster = Cluster::up();
    let url = format!("corfu://{}", cluster.store);
    let arguments = ["run", "transfer", "--accounts", "500", "--log", &url, "--seconds"];
    let run = |seconds: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mixlog"));
        command.args(arguments).arg(seconds).stdout(Stdio::null());
        command
    };
    let mut client = run("600").spawn().expect("it starts");
    cluster.log().wait_past(mixlog::Position(2000), Some(PATIENCE)).expect("it appends");
    client.kill().expect("it runs");
    client.wait().expect("it ends");
    // It rebuilds the state, goes on, and audits it.
    assert!(run("0.3").status().expect("it starts").success());
}
