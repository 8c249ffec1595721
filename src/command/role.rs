//! `mixlog unit`, `mixlog sequencer`, `mixlog projections`: a process for one role of a cluster.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use mixlog::log;
use mixlog::log::corfu::{
    Listing, NetError, Node, SequencerNumber, Server, StoreError, Timing, UnitFiles, UnitNumber, UnitServer,
    UnitStorage, announce,
};

use super::arguments::{Durability, ProjectionsOptions, RoleOptions, SequencerOptions, UnitOptions};
use super::failure::{Failure, cannot_use};
use super::say::say;

/// How long is waited before the projection store is looked for again, or whether a unit's disk has failed.
const AGAIN: Duration = Duration::from_millis(100);

/// Serves a unit.
pub(crate) fn unit(options: &UnitOptions) -> Result<(), Failure> {
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
    serve(Node::Store, &server, &End::of(options.until_stdin_ends)?)
}

fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).map_err(|error| Failure::Io(format!("cannot listen on {address}: {error}")))
}

/// Announces a role, as soon as that is possible, and serves it.
fn serve_role(node: Node, server: &Server, options: &RoleOptions) -> Result<(), Failure> {
    let listing = Listing { address: server.address(), durability: server.durability() };
    let end = End::of(options.until_stdin_ends)?;
    let mut told = false;
    loop {
        match announce(&options.log, server.log(), node, listing, &Timing::default()) {
            Ok(log) => {
                // Nobody else's cluster takes it from here on.
                if let Some(log) = log {
                    server.pin(log);
                }
                break;
            }
            Err(error @ (NetError::Refused { .. } | NetError::Stranger { .. } | NetError::InUse { .. })) => {
                return Err(error.into());
            }
            Err(error) => {
                if !told {
                    say(format_args!("{error}; trying again until it can be reached"));
                    told = true;
                }
                // Whoever started it may be gone, and the store with him.
                if end.wait(AGAIN) {
                    return Ok(());
                }
            }
        }
    }
    serve(node, server, &end)
}

/// Says where the role listens, and serves it until the process is killed, or stdin ends, or its disk fails.
fn serve(node: Node, server: &Server, end: &End) -> Result<(), Failure> {
    // Whoever does not read this may still use the role.
    let _ = writeln!(io::stdout(), "{node} listens on {}", server.address());
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
