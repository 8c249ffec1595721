//! Real etcds, started for a test on loopback.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{EtcdAccess, EtcdStore};
use rustix::process::{Pid, Signal, kill_process};

/// Longer than it takes to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A member of an etcd, mostly the only one; ended when dropped.
pub(crate) struct Etcd {
    child: Child,
    started: Started,
    directory: tempfile::TempDir,
}

/// How it is started, each time.
#[derive(Clone)]
struct Started {
    name: String,
    /// Where it listens to clients, and to members.
    ports: [u16; 2],
    /// All members, as etcd wants to be told.
    members: String,
    /// What clients are asked for, and what shows them who it is.
    tls: Option<Tls>,
}

/// Files for TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    /// What the server asks for: as [`EtcdAccess`] names files, those of the server.
    pub(crate) server: EtcdAccess,
    pub(crate) client: EtcdAccess,
}

/// Ports that are free now. Somebody else may take one before etcd does: then it ends, and others are tried.
fn free_ports() -> [u16; 2] {
    // Both at once, so that they differ.
    let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("it is bound").port())
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
        Self::members(1, None).pop().expect("it is one")
    }

    /// A new one of so many members, that all answer.
    pub(crate) fn members(count: usize, tls: Option<&Tls>) -> Vec<Self> {
        for _ in 0..10 {
            let ports: Vec<[u16; 2]> = (0..count).map(|_| free_ports()).collect();
            let names: Vec<String> = (1..=count).map(|number| format!("member-{number}")).collect();
            let listed = |(name, [_, peer]): (&String, &[u16; 2])| format!("{name}=http://127.0.0.1:{peer}");
            let members = names.iter().zip(&ports).map(listed).collect::<Vec<_>>().join(",");
            let spawn = |(name, ports): (String, [u16; 2])| {
                let directory = tempfile::tempdir().expect("a directory");
                let started = Started { name, ports, members: members.clone(), tls: tls.cloned() };
                Self { child: started.spawn(directory.path()), started, directory }
            };
            let mut members: Vec<Self> = names.into_iter().zip(ports).map(spawn).collect();
            if members.iter_mut().all(Self::answers) {
                return members;
            }
        }
        panic!("etcd does not come up");
    }

    /// Where it is reached: host and port.
    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.started.ports[0])
    }

    /// Waits until it answers; false if it ends instead.
    fn answers(&mut self) -> bool {
        let access = self.started.tls.as_ref().map_or_else(EtcdAccess::default, |tls| tls.client.clone());
        let begun = Instant::now();
        loop {
            if EtcdStore::connect(&[self.endpoint()], "ready", &access, Duration::from_secs(1)).is_ok() {
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
        self.child = self.started.spawn(self.directory.path());
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

impl Started {
    fn spawn(&self, directory: &Path) -> Child {
        let log = File::create(directory.join("log")).expect("a file");
        let [client, peer] = self.ports.map(|port| format!("http://127.0.0.1:{port}"));
        let client = if self.tls.is_some() { client.replace("http://", "https://") } else { client };
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(directory.join("data"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--name", &self.name, "--initial-cluster", &self.members]);
        if let Some(EtcdAccess { ca: Some(ca), identity: Some((cert, key)), .. }) =
            self.tls.as_ref().map(|tls| &tls.server)
        {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
            command.arg("--cert-file").arg(cert).arg("--key-file").arg(key);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
        command.spawn().expect("etcd is installed")
    }
}
