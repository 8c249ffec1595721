//! A real etcd, started for a test on loopback.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::EtcdStore;
use rustix::process::{Pid, Signal, kill_process};

/// Longer than it takes to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An etcd of one member; ended when dropped.
pub(crate) struct Etcd {
    child: Child,
    /// Where it listens to clients, and to members that it does not have.
    ports: [u16; 2],
    directory: tempfile::TempDir,
}

impl Etcd {
    /// Whether there is an etcd to start.
    pub(crate) fn is_installed() -> bool {
        let mut version = Command::new("etcd");
        version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    }

    /// A new one, that answers.
    pub(crate) fn start() -> Self {
        // Somebody else may take a port before etcd does: then it ends, and another one is tried.
        for _ in 0..10 {
            let directory = tempfile::tempdir().expect("a directory");
            // Both at once, so that they differ.
            let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
            let ports = listeners.map(|listener| listener.local_addr().expect("it is bound").port());
            let child = spawn(directory.path(), ports);
            let mut etcd = Self { child, ports, directory };
            if etcd.answers() {
                return etcd;
            }
        }
        panic!("etcd does not come up");
    }

    /// Where it is reached: host and port.
    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// Waits until it answers; false if it ends instead.
    fn answers(&mut self) -> bool {
        let begun = Instant::now();
        loop {
            if EtcdStore::connect(&[self.endpoint()], "ready", Duration::from_secs(1)).is_ok() {
                return true;
            }
            if self.child.try_wait().expect("it is our child").is_some() {
                return false;
            }
            assert!(begun.elapsed() < PATIENCE, "etcd does not answer");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on what it has on disk.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.directory.path(), self.ports);
        assert!(self.answers(), "etcd does not come up again");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let process = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(process.expect("a process"), signal).expect("it is there");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(directory: &Path, [client, peer]: [u16; 2]) -> Child {
    let log = File::create(directory.join("log")).expect("a file");
    let [client, peer] = [client, peer].map(|port| format!("http://127.0.0.1:{port}"));
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(directory.join("data"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--name", "one", "--initial-cluster", &format!("one={peer}")]);
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
    command.spawn().expect("etcd is installed")
}
