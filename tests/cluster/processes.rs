//! Clusters of real processes: `mixlog cluster up`, what it says, and signals for its roles.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mixlog::log::corfu::{
    self, Config, CorfuLog, Epoch, Home, Instance, Projection, SequencerNumber, TcpTransport, Timing,
    Transport, UnitNumber,
};
use mixlog::log::{Durability, SharedLog};
use rustix::process::{Pid, Signal, kill_process};

/// Longer than any step takes on a busy machine, so that a hang fails instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What `mixlog cluster up` says.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) lines: Vec<String>,
    /// The process of each role, by its name.
    processes: BTreeMap<String, u32>,
    ended: bool,
}

/// A cluster of processes; ended when dropped.
pub(crate) struct Cluster {
    child: Child,
    /// Kept open: it is inherited by nobody who reads it.
    _stdin: Option<ChildStdin>,
    told: Arc<(Mutex<Told>, Condvar)>,
    home: Home,
}

impl Cluster {
    /// Starts `mixlog cluster up` with these arguments, and waits until it is ready.
    pub(crate) fn up(directory: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mixlog"))
            .args(["cluster", "up", "--dir"])
            .arg(directory)
            .args(arguments)
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
        let home = Home::Servers(Vec::new());
        let mut cluster = Self { child, _stdin: stdin, told, home };
        let name = |told: &Told| {
            told.lines
                .iter()
                .find_map(|line| line.strip_prefix("  mixlog run tpcc --log ").map(str::to_owned))
        };
        cluster.wait("the cluster", |told| name(told).is_some());
        let name = name(&cluster.told.0.lock().expect("no panic")).expect("it was there");
        cluster.home = name.parse().expect("it names a cluster");
        cluster
    }

    /// How the cluster is named on a command line.
    pub(crate) fn name(&self) -> String {
        self.home.to_string()
    }

    /// Ends it all with a signal, as from a terminal to `mixlog cluster up` alone, and waits until its roles
    /// have ended too.
    pub(crate) fn end(mut self, signal: Signal) {
        let process = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(process, signal).expect("it is there");
        self.child.wait().expect("it is our child");
        let roles: Vec<u32> = self.told.0.lock().expect("no panic").processes.values().copied().collect();
        let begun = Instant::now();
        for role in roles {
            while Path::new(&format!("/proc/{role}")).exists() {
                assert!(begun.elapsed() < PATIENCE, "process {role} does not end");
                thread::sleep(Duration::from_millis(10));
            }
        }
    }

    pub(crate) fn wait(&self, what: &str, condition: impl Fn(&Told) -> bool) {
        let told = self.told.0.lock().expect("no panic");
        let waiting = |told: &mut Told| !condition(told) && !told.ended;
        let (told, timeout) = self.told.1.wait_timeout_while(told, PATIENCE, waiting).expect("no panic");
        assert!(!timeout.timed_out() && condition(&told), "{what}: {:#?}", told.lines);
    }

    pub(crate) fn process(&self, role: &str) -> u32 {
        self.told.0.lock().expect("no panic").processes[role]
    }

    pub(crate) fn signal(&self, role: &str, signal: Signal) {
        let process = i32::try_from(self.process(role)).ok().and_then(Pid::from_raw);
        kill_process(process.expect("a process"), signal).expect("it is there");
    }

    /// Kills a role, and waits until it was started again.
    pub(crate) fn kill(&self, role: &str) {
        let before = self.process(role);
        self.signal(role, Signal::KILL);
        self.wait(role, |told| told.processes[role] != before);
    }

    pub(crate) fn transport(&self) -> Arc<TcpTransport> {
        transport(&self.home)
    }

    pub(crate) fn log(&self) -> Arc<dyn SharedLog> {
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

pub(crate) fn transport(home: &Home) -> Arc<TcpTransport> {
    TcpTransport::connect(home, &Timing::default()).expect("it is there")
}

/// Looks at the projection until it is as it should be.
pub(crate) fn until(
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

pub(crate) fn joined(projection: &Projection, unit: u32) -> Option<Epoch> {
    projection.member(UnitNumber(unit)).map(|member| member.joined)
}

pub(crate) fn sequencer(projection: &Projection) -> (SequencerNumber, Instance) {
    projection.sequencer.expect("it is not sealed")
}

/// Every chain has its two units, and they have everything.
pub(crate) fn is_whole(projection: &Projection) -> bool {
    projection.joining().is_empty() && projection.open().chains.iter().all(|chain| chain.units.len() == 2)
}

/// Waits until the workload has appended more.
pub(crate) fn goes_on(log: &dyn SharedLog, entries: u64) {
    let target = log.tail().unwrap().tail.plus(entries);
    let reached = log.wait_past(target, Some(PATIENCE)).expect("it can be read");
    assert!(reached.tail > target, "appends go on");
}
