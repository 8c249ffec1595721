//! `mixlog unit`, `mixlog sequencer`, `mixlog projections`: a process for one role of a cluster.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use mixlog::log;
use mixlog::log::corfu::{
    Listing, Node, SequencerNumber, Server, StoreError, Timing, UnitFiles, UnitNumber, UnitServer,
    UnitStorage, announce,
};

use super::arguments::{Durability, ProjectionsOptions, RoleOptions, SequencerOptions, UnitOptions};
use super::failure::{Failure, cannot_use};
use super::say::say;

/// How long is waited before the projection store is looked for again, or whether a unit's disk has failed.
const AGAIN: Duration = Duration::from_millis(100);

/// Serves a unit.
pub(crate) fn unit(options: &UnitOptions) -> Result<(), Failure> {
    check(&options.role)?;
    let number = UnitNumber(options.number);
    let storage = match (&options.dir, options.durability) {
        (None, None | Some(Durability::Memory)) => UnitStorage::Memory,
        (None, Some(_)) => {
            return Err(Failure::Refused("a unit without --dir is in memory, and not durable".to_owned()));
        }
        (Some(_), Some(Durability::Memory)) => {
            return Err(Failure::Refused("a unit with --dir is buffered or flushed".to_owned()));
        }
        (Some(directory), durability) => {
            let durability = durability.map_or(log::Durability::Flushed, log::Durability::from);
            UnitStorage::Files(UnitFiles::new(directory, durability))
        }
    };
    let unit = UnitServer::open(number, options.quota.unwrap_or(u64::MAX), &storage)?;
    let server = Server::unit(listen(options.role.listen)?, unit)?;
    serve_role(Node::Unit(number), &server, &options.role)
}

/// Serves a sequencer.
pub(crate) fn sequencer(options: &SequencerOptions) -> Result<(), Failure> {
    check(&options.role)?;
    let number = SequencerNumber(options.number);
    let server = Server::sequencer(listen(options.role.listen)?, number)?;
    serve_role(Node::Sequencer(number), &server, &options.role)
}

/// Serves the projection store.
pub(crate) fn projections(options: &ProjectionsOptions) -> Result<(), Failure> {
    let server = Server::store(listen(options.listen)?, &options.dir).map_err(|error| match error {
        StoreError::Io(error) => cannot_use(&options.dir)(error),
        error => error.into(),
    })?;
    serve(Node::Store, &server, None, &End::of(options.until_stdin_ends)?)
}

fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).map_err(|error| Failure::Io(format!("cannot listen on {address}: {error}")))
}

/// All addresses of this machine are none that others could connect to.
fn check(options: &RoleOptions) -> Result<(), Failure> {
    let listen = options.listen;
    if listen.ip().is_unspecified() && options.announce.is_none() {
        return Err(Failure::Refused(format!(
            "--listen {listen} is every address of this machine, and nobody finds it under that: say where others reach \
             it, with --announce HOST:{}, or listen on one address",
            listen.port()
        )));
    }
    Ok(())
}

/// Where others reach a role that listens there.
fn reached_at(options: &RoleOptions, listens: SocketAddr) -> Result<SocketAddr, String> {
    let Some(place) = &options.announce else { return Ok(listens) };
    let found: Vec<SocketAddr> =
        place.to_socket_addrs().map_err(|error| format!("cannot look up {place}: {error}"))?.collect();
    let alike = found.iter().find(|address| address.is_ipv4() == listens.is_ipv4());
    let mut address = *alike.or_else(|| found.first()).ok_or_else(|| format!("{place} has no address"))?;
    if address.port() == 0 {
        address.set_port(listens.port());
    }
    Ok(address)
}

/// Announces a role, as soon as that is possible, and serves it.
fn serve_role(node: Node, server: &Server, options: &RoleOptions) -> Result<(), Failure> {
    let end = End::of(options.until_stdin_ends)?;
    let mut told = false;
    loop {
        let why = match reached_at(options, server.address()) {
            Ok(address) => {
                let listing = Listing { address, durability: server.durability() };
                match announce(&options.log, server.log(), node, listing, &Timing::default()) {
                    Ok(log) => {
                        // Nobody else's cluster takes it from here on.
                        if let Some(log) = log {
                            server.pin(log);
                        }
                        return serve(node, server, Some(address), &end);
                    }
                    Err(error) if !error.may_pass() => return Err(error.into()),
                    Err(error) => error.to_string(),
                }
            }
            Err(why) => why,
        };
        if !told {
            say(format_args!("{why}; trying again until it can be reached"));
            told = true;
        }
        // Whoever started it may be gone, and the store with him.
        if end.wait(AGAIN) {
            return Ok(());
        }
    }
}

/// Says where the role listens, and serves it until the process is killed, or stdin ends, or its disk fails.
fn serve(node: Node, server: &Server, announced: Option<SocketAddr>, end: &End) -> Result<(), Failure> {
    let listens = server.address();
    let elsewhere = announced.filter(|address| *address != listens);
    let elsewhere = elsewhere.map_or_else(String::new, |address| format!(", for others {address}"));
    // Whoever does not read this may still use the role.
    let _ = writeln!(io::stdout(), "{node} listens on {listens}{elsewhere}");
    while !end.wait(AGAIN) {
        // Started again it goes on where its files end, if there is space by then.
        if let Some(reason) = server.failure() {
            return Err(Failure::Io(format!("{node} ends: {reason}")));
        }
    }
    Ok(())
}

/// When a role is to end; `None`: it is killed.
struct End(Option<Receiver<()>>);

impl End {
    /// With stdin, or not.
    fn of(stdin: bool) -> io::Result<Self> {
        if !stdin {
            return Ok(Self(None));
        }
        let (open, ended) = mpsc::channel();
        thread::Builder::new().name("mixlog-stdin".to_owned()).spawn(move || {
            let mut sink = [0; 64];
            while !matches!(io::stdin().read(&mut sink), Ok(0)) {}
            drop(open);
        })?;
        Ok(Self(Some(ended)))
    }

    /// Waits for it, for so long at most; tells whether it is there.
    fn wait(&self, timeout: Duration) -> bool {
        match &self.0 {
            Some(ended) => ended.recv_timeout(timeout) == Err(RecvTimeoutError::Disconnected),
            None => {
                thread::sleep(timeout);
                false
            }
        }
    }
}
