//! A cluster of roles that are started one by one, as on machines of their own: two monitors watch it, and nobody starts
//! again what ends.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use mixlog::log::corfu::{Config, CorfuLog, Home, TcpTransport};
use mixlog::log::{Durability, SharedLog};
use rustix::process::{Pid, Signal, kill_process};

use crate::processes::{PATIENCE, goes_on, is_whole, joined, sequencer, transport, until};
use crate::tpcc;

const MONITORS: [&str; 2] = ["monitor a", "monitor b"];

/// All of them; ended when dropped.
pub(crate) struct Roles {
    pub(crate) home: Home,
    durability: Durability,
    /// By name: what was asked for, and the process.
    running: Mutex<BTreeMap<String, (Vec<String>, Child)>>,
}

impl Roles {
    /// Two chains of two units, and others that wait; two sequencers, and monitors.
    pub(crate) fn start(directory: &Path, durability: Durability, waiting: u32, monitors: &[&str]) -> Self {
        let path = |name: &str| directory.join(name).to_str().expect("UTF-8").to_owned();
        let owned = |arguments: &[&str]| arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut roles = Self { home: Home::Servers(Vec::new()), durability, running: Mutex::default() };
        let directory_of_store = path("store");
        let store = |at: &str| -> Vec<String> {
            owned(&["projections", "--until-stdin-ends", "--dir", &directory_of_store, "--listen", at])
        };
        let said = roles.run("store", store("127.0.0.1:0"));
        let address = said.split_whitespace().last().expect("an address");
        // Started again, it must be where it was.
        roles.running().get_mut("store").expect("it was started").0 = store(address);
        let log = format!("corfu://{address}");
        roles.home = log.parse().expect("it names a cluster");
        for number in ["1", "2"] {
            let sequencer = ["sequencer", "--until-stdin-ends", "--log", &log, "--number", number];
            roles.run(&format!("sequencer {number}"), owned(&sequencer));
        }
        for number in 1..=4 + waiting {
            let (number, directory) = (number.to_string(), path(&format!("unit-{number}")));
            let unit =
                ["unit", "--until-stdin-ends", "--log", &log, "--number", &number, "--dir", &directory];
            let durable = ["--durability", &durability.to_string()];
            roles.run(&format!("unit {number}"), owned(&[&unit[..], &durable].concat()));
        }
        let begun = Instant::now();
        loop {
            let found = ["cluster", "found", "--log", &log, "--chain", "1,2", "--chain", "3,4"];
            let found = Command::new(env!("CARGO_BIN_EXE_mixlog")).args(found).output().expect("it starts");
            if found.status.success() {
                break;
            }
            let said = String::from_utf8_lossy(&found.stderr).into_owned();
            assert!(found.status.code() == Some(4) && begun.elapsed() < PATIENCE, "{said}");
        }
        for name in monitors {
            roles.run(name, owned(&["cluster", "monitor", "--log", &log]));
        }
        roles
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (Vec<String>, Child)>> {
        self.running.lock().expect("no panic")
    }

    /// Starts a role, and tells what it says first. It may have to be tried again, as somebody may have got the port of one
    /// that was killed for a connection of his.
    fn run(&self, name: &str, arguments: Vec<String>) -> String {
        let begun = Instant::now();
        loop {
            let mut child = Command::new(env!("CARGO_BIN_EXE_mixlog"))
                .args(&arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("the command starts");
            let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
            let mut lines = stdout.lines().map_while(Result::ok);
            if let Some(first) = lines.next() {
                // Monitors say more, which must not keep them.
                thread::spawn(move || lines.for_each(drop));
                self.running().insert(name.to_owned(), (arguments, child));
                return first;
            }
            let ended = child.wait().expect("it is our child");
            assert!(begun.elapsed() < PATIENCE, "{name} does not start: {ended}");
        }
    }

    fn signal(&self, name: &str, signal: Signal) {
        let process = i32::try_from(self.running()[name].1.id()).ok().and_then(Pid::from_raw);
        kill_process(process.expect("a process"), signal).expect("it is there");
    }

    pub(crate) fn kill(&self, name: &str) {
        let mut running = self.running();
        let child = &mut running.get_mut(name).expect("it runs").1;
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
    }

    /// Starts one again that was killed.
    fn again(&self, name: &str) {
        let arguments = self.running()[name].0.clone();
        self.run(name, arguments);
    }

    fn transport(&self) -> Arc<TcpTransport> {
        transport(&self.home)
    }

    fn log(&self) -> Arc<dyn SharedLog> {
        let config = Config { durability: self.durability, ..Config::default() };
        Arc::new(CorfuLog::connect(self.transport(), config).expect("it is there"))
    }
}

impl Drop for Roles {
    fn drop(&mut self) {
        for (_, child) in self.running.get_mut().expect("no panic").values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Ends a role for good, and waits until the others go on without it.
fn kill_one_by_one(roles: &Roles, log: &dyn SharedLog) {
    let transport = roles.transport();
    let replaced = |unit: u32| {
        until(&transport, "a unit is replaced", |now| joined(now, unit).is_none() && is_whole(now));
        goes_on(log, 200);
    };
    // The head of a chain: the one that waits takes its place, and has all that it had.
    roles.kill("unit 1");
    replaced(1);
    roles.again("unit 1");

    // The last of the other one, while one monitor is away. The unit that was killed before takes its place.
    roles.kill("monitor a");
    roles.kill("unit 4");
    replaced(4);
    roles.again("unit 4");
    roles.again("monitor a");

    // The sequencer, while the other monitor is away; then the one in its place, which is the first one again.
    roles.kill("monitor b");
    for _ in 0..2 {
        let (number, _) = sequencer(&until(&transport, "before", is_whole));
        roles.kill(&format!("sequencer {number}"));
        until(&transport, "the sequencer is replaced", |now| sequencer(now).0 != number && is_whole(now));
        goes_on(log, 200);
        roles.again(&format!("sequencer {number}"));
    }

    // Who only waits is missed by nobody.
    let now = until(&transport, "before", is_whole);
    let spare = format!("sequencer {}", 3 - sequencer(&now).0.0);
    let unit = (1..=5).find(|&unit| joined(&now, unit).is_none()).expect("one waits");
    for name in [&spare, &format!("unit {unit}")] {
        roles.kill(name);
        goes_on(log, 200);
        roles.again(name);
    }

    // Nobody watches: nothing is changed, and nothing is needed but those in the projection.
    roles.kill("monitor a");
    goes_on(log, 200);
    roles.kill("store");
    goes_on(log, 200);
    roles.again("store");
    roles.kill("unit 2");
    roles.again("monitor b");
    replaced(2);
    roles.again("unit 2");
    roles.again("monitor a");
}

/// Lets a role stand still for as long as it takes the others to go on without it, and then go on as if nothing were.
fn stop_one_by_one(roles: &Roles, log: &dyn SharedLog) {
    let transport = roles.transport();
    let without = |unit: u32| {
        until(&transport, "a unit stands still", |now| joined(now, unit).is_none() && is_whole(now));
        goes_on(log, 200);
    };
    // A monitor that wakes up knows an old epoch only.
    roles.signal("monitor a", Signal::STOP);
    roles.signal("unit 2", Signal::STOP);
    without(2);
    roles.signal("monitor a", Signal::CONT);
    roles.signal("monitor b", Signal::STOP);
    roles.signal("unit 2", Signal::CONT);
    roles.signal("unit 3", Signal::STOP);
    without(3);
    roles.signal("unit 3", Signal::CONT);
    roles.signal("monitor b", Signal::CONT);

    let (number, _) = sequencer(&until(&transport, "before", is_whole));
    let [now, spare] = [number.0, 3 - number.0].map(|number| format!("sequencer {number}"));
    roles.signal(&spare, Signal::STOP);
    goes_on(log, 200);
    roles.signal(&spare, Signal::CONT);
    roles.signal(&now, Signal::STOP);
    until(&transport, "the sequencer stands still", |now| sequencer(now).0 != number && is_whole(now));
    goes_on(log, 200);
    roles.signal(&now, Signal::CONT);

    // All that no transaction needs.
    let aside = ["monitor a", "monitor b", "store"];
    aside.iter().for_each(|name| roles.signal(name, Signal::STOP));
    goes_on(log, 500);
    aside.iter().for_each(|name| roles.signal(name, Signal::CONT));
    until(&transport, "they go on", is_whole);
    goes_on(log, 200);
}

pub(crate) fn are_killed_one_by_one(directory: &Path) {
    let roles = Roles::start(directory, Durability::Buffered, 1, &MONITORS);
    tpcc::survives(&|| roles.log(), |log| kill_one_by_one(&roles, log));
}

pub(crate) fn stand_still_one_by_one(directory: &Path) {
    let roles = Roles::start(directory, Durability::Flushed, 1, &MONITORS);
    tpcc::survives(&|| roles.log(), |log| stop_one_by_one(&roles, log));
}
