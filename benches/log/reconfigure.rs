//! How long appends stand still when a unit dies: a cluster of processes, of which one is killed, or stands still.
//!
//! A monitor in this process watches them, as `mixlog cluster monitor` would. What counts is the time from when it
//! says that the unit is dead to the first append that is acknowledged after that; how long it takes to find out is a
//! setting.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use mixlog::log::corfu::{
    Config, CorfuLog, Home, Monitor, MonitorConfig, MonitorEvent, Node, TcpTransport, Timing, Transport,
    UnitNumber,
};
use mixlog::log::{Batch, Durability, SharedLog};
use rustix::process::{Pid, Signal, kill_process};

use super::cluster::{PATIENCE, set_up};
use super::comparison::{median, rounds};

/// A process of a role; killed when dropped.
struct Role {
    child: Child,
    address: String,
}

impl Role {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mixlog"))
            .args(arguments)
            .arg("--until-stdin-ends")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        stdout.read_line(&mut line).expect("it says where it listens");
        let address = line.trim_end().rsplit(' ').next().expect("an address").to_owned();
        Self { child, address }
    }

    fn signal(&self, signal: Signal) {
        let process = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(process.expect("a process"), signal).expect("it is there");
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a death cost.
pub(crate) struct Pause {
    /// Milliseconds from the signal until the monitor counts the unit as dead.
    pub(crate) detected_ms: f64,
    /// Milliseconds from then until an append is acknowledged.
    pub(crate) resumed_ms: f64,
}

/// One unit of a chain of two is given `signal`, while a client appends one entry after the other; a third unit
/// waits to take its place. `victim`: 1 is the head, 2 the last one.
pub(crate) fn after_death(directory: &Path, victim: u32, signal: Signal) -> Pause {
    let directory = tempfile::tempdir_in(directory).expect("a directory");
    let text = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    let store = Role::start(&["projections", "--dir", &text("store"), "--listen", "127.0.0.1:0"]);
    let name = format!("corfu://{}", store.address);
    let sequencer = Role::start(&["sequencer", "--log", &name, "--number", "1"]);
    let units: Vec<Role> = (1..=3)
        .map(|number: u32| {
            let number = number.to_string();
            let files = text(&format!("unit-{number}"));
            let durability = ["--durability", "buffered"];
            let arguments =
                [&["unit", "--log", &name, "--number", &number, "--dir", &files][..], &durability];
            Role::start(&arguments.concat())
        })
        .collect();
    let home = Home::servers(&[&store.address]);
    set_up(&home, vec![vec![UnitNumber(1), UnitNumber(2)]]);

    let tcp = TcpTransport::connect(&home, &Timing::default()).expect("it is there");
    let (told, events) = mpsc::channel();
    let monitor = {
        let listed = Arc::clone(&tcp);
        let candidates = move || listed.listings().map(|all| all.into_keys().collect()).unwrap_or_default();
        let transport: Arc<dyn Transport> = tcp;
        Monitor::start(transport, MonitorConfig::default(), candidates, move |event| {
            if matches!(event, MonitorEvent::Dead(Node::Unit(unit)) if unit.0 == victim) {
                let _ = told.send(Instant::now());
            }
        })
        .expect("it watches")
    };
    let config = Config { durability: Durability::Buffered, ..Config::default() };
    let tcp = TcpTransport::connect(&home, &Timing::default()).expect("it is there");
    let log = CorfuLog::connect(tcp, config).expect("it is there");
    let mut batch = Batch::new();
    batch.push(&[7; 64]);
    let append = || {
        log.append(&batch).expect("it is queued").wait().expect("it is acknowledged");
        Instant::now()
    };
    for _ in 0..100 {
        append();
    }
    let index = usize::try_from(victim - 1).expect("an index");
    units[index].signal(signal);
    let begun = Instant::now();
    let (mut detected, mut resumed) = (None, append());
    while detected.is_none_or(|detected| resumed <= detected) {
        assert!(begun.elapsed() < PATIENCE, "nobody notices that the unit is dead");
        // A unit that died is noticed before an append is acknowledged, unless its death left the chain whole.
        detected = detected.or_else(|| events.try_recv().ok());
        if detected.is_none_or(|detected| resumed <= detected) {
            resumed = append();
        }
    }
    let detected: Instant = detected.expect("it was detected");
    drop(monitor);
    drop((log, units, sequencer, store));
    let ms = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
    Pause { detected_ms: ms(begun, detected), resumed_ms: ms(detected, resumed) }
}

/// Prints the pauses of some deaths of each kind, in milliseconds: medians, and the longest.
pub(crate) fn print(directory: &Path) {
    let rounds = rounds();
    println!("\nA unit of a chain of two dies, processes over TCP, ms, medians of {rounds} rounds");
    println!("  {:<34} {:>12} {:>12} {:>12}   target", "", "detected", "then resumed", "at most");
    let deaths = [
        ("the head is killed", 1, Signal::KILL),
        ("the last one is killed", 2, Signal::KILL),
        ("the head stands still", 1, Signal::STOP),
        ("the last one stands still", 2, Signal::STOP),
    ];
    for (name, victim, signal) in deaths {
        let pauses: Vec<Pause> = (0..rounds).map(|_| after_death(directory, victim, signal)).collect();
        let detected = median(pauses.iter().map(|pause| pause.detected_ms));
        let resumed: Vec<f64> = pauses.iter().map(|pause| pause.resumed_ms).collect();
        let longest = resumed.iter().copied().fold(0.0, f64::max);
        let met = if longest < 1e3 { "reached" } else { "MISSED" };
        let resumed = median(resumed);
        println!("  {name:<34} {detected:>12.0} {resumed:>12.0} {longest:>12.0}   1000 {met}");
    }
}
