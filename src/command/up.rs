//! `mixlog cluster up`: a cluster of processes on this machine.
//!
//! ```text
//! this process: a thread for each child, which starts it again when it ended --> events, printed
//!               the monitor, which changes the projection
//! children: projection store (unless it is etcd), sequencers, units; they end when their stdin does
//! ```
//!
//! So the children end with this process, however it ends.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use mixlog::log::corfu::{Change, Home, SequencerNumber, UnitNumber};
use mixlog::log::file::{FsStorage, Storage};

use super::arguments::{Durability, UpOptions};
use super::cluster::{Cluster, PATIENCE};
use super::failure::{Failure, cannot_use};
use super::run::print_to_stdout;
use super::say::say;

/// The pause before a child is started again; twice as long each time, while it ends soon after.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_AT_MOST: Duration = Duration::from_secs(5);

/// After so many ends in a row a child counts as one that does not come up. What is left of a cluster that was killed just
/// now may hold its directories and its port until its disk is done.
const ATTEMPTS: u32 = 8;

/// Units and spares together.
const UNITS_MAX: u32 = 256;

/// Two: one takes over when the other one does not answer.
const SEQUENCERS: u32 = 2;

/// Starts everything, and keeps it up.
pub(crate) fn up(options: &UpOptions) -> Result<(), Failure> {
    if options.replicas == 0 || options.units == 0 || !options.units.is_multiple_of(options.replicas) {
        return Err(Failure::Refused(format!(
            "{} units do not make chains of {}: --units must be a multiple of --replicas",
            options.units, options.replicas
        )));
    }
    if options.units.checked_add(options.spares).is_none_or(|units| units > UNITS_MAX) {
        return Err(Failure::Refused(format!(
            "{} units and {} spares are too many: each is a process on this machine, which has at most {UNITS_MAX}",
            options.units, options.spares
        )));
    }
    if options.listen.ip().is_unspecified() {
        return Err(Failure::Refused(format!(
            "--listen {} is every address of this machine, and a cluster that is up on one machine is for programs on it: \
             its units listen on 127.0.0.1. For others start its roles one by one; mixlog unit --help tells how",
            options.listen
        )));
    }
    // Before there is a directory: it may be refused.
    let etcd = match &options.etcd {
        Some(home) => Some((Cluster::connect(home, PATIENCE)?, home.clone())),
        None => None,
    };
    FsStorage::new(&options.dir).create_directory().map_err(cannot_use(&options.dir))?;
    // A second one would announce its own sequencers in place of ours, before it finds that units are in use.
    let directory = File::open(&options.dir).map_err(cannot_use(&options.dir))?;
    if directory.try_lock().is_err() {
        return Err(Failure::Refused(format!("{} is in use by another process", options.dir.display())));
    }
    let (events, happened) = mpsc::channel();
    let (cluster, home) = match etcd {
        Some(there) => there,
        None => {
            let directory = options.dir.join("store");
            let role = vec!["projections".to_owned(), "--dir".to_owned(), text(&directory)?];
            let store = start(&events, &happened, "projection store", role, Some(options.listen))?;
            let home = Home::servers(&[store]);
            (Cluster::connect(&home, PATIENCE)?, home)
        }
    };
    let log = home.to_string();
    let latest = cluster.latest()?;
    if latest.is_some() && options.durability == Durability::Memory {
        return Err(Failure::Refused(format!(
            "there was a cluster in {}, and units in memory would have lost its log",
            options.dir.display()
        )));
    }
    let mut members = latest.iter().flat_map(|latest| latest.members()).peekable();
    if let (Some(_), Some(latest)) = (members.peek(), &latest)
        && !members.any(|member| unit_directory(options, member.unit).exists())
    {
        // Elsewhere, probably. Empty units under their numbers would only be in the way.
        return Err(Failure::Refused(format!(
            "there is a cluster at {home} already, of log {}, and {} has nothing of it",
            latest.log,
            options.dir.display()
        )));
    }
    for number in 1..=SEQUENCERS {
        let role = ["sequencer", "--log", &log, "--number", &number.to_string()].map(str::to_owned);
        start(&events, &happened, &format!("sequencer {number}"), role.to_vec(), None)?;
    }
    let mut units: BTreeSet<u32> = (1..=options.units + options.spares).collect();
    units.extend(latest.iter().flat_map(|latest| latest.members()).map(|member| member.unit.0));
    for number in units {
        let mut role = vec!["unit".to_owned(), "--log".to_owned(), log.clone()];
        role.extend(["--number".to_owned(), number.to_string()]);
        if options.durability != Durability::Memory {
            role.extend(["--dir".to_owned(), text(&unit_directory(options, UnitNumber(number)))?]);
            let durability = mixlog::log::Durability::from(options.durability);
            role.extend(["--durability".to_owned(), durability.to_string()]);
        }
        start(&events, &happened, &format!("unit {number}"), role, None)?;
    }
    let projection = match latest {
        // Sequencers have forgotten everything: a new epoch tells them where to start.
        Some(latest) => cluster.changed(latest, Change::default())?,
        None => {
            let numbers: Vec<_> = (1..=options.units).map(UnitNumber).collect();
            let chains = numbers.chunks(options.replicas as usize).map(<[_]>::to_vec).collect();
            cluster.founded(chains, SequencerNumber(1))?
        }
    };
    print_to_stdout(&format!(
        "{projection}ready\n\n  mixlog run tpcc --log {log}\n  mixlog cluster status --log {log}\n\n"
    ))?;
    let _monitor = cluster.watch(options.replicas)?;
    // A cluster does not end because nobody can be told, or the disk is full that stdout goes to.
    while let Ok(event) = happened.recv() {
        if let Err(failure) = tell(&event) {
            say(failure);
        }
    }
    Ok(())
}

fn unit_directory(options: &UpOptions, number: UnitNumber) -> PathBuf {
    options.dir.join(format!("unit-{number}"))
}

fn text(path: &Path) -> Result<String, Failure> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Failure::Refused(format!("{} is not UTF-8", path.display())))
}

/// What became of a child.
enum Event {
    Started {
        name: String,
        process: u32,
        address: SocketAddr,
    },
    Ended {
        name: String,
        process: u32,
        how: String,
        /// Its exit code, if it had one.
        code: Option<i32>,
    },
    /// It could not be started.
    Failed {
        name: String,
        why: String,
    },
}

fn tell(event: &Event) -> Result<(), Failure> {
    print_to_stdout(&match event {
        Event::Started { name, process, address } => format!("{name} at {address}, process {process}\n"),
        Event::Ended { name, process, how, .. } => format!("{name} has ended, process {process}: {how}\n"),
        Event::Failed { name, why } => format!("{name} cannot be started: {why}\n"),
    })
}

/// Starts a child, and tells where it listens; a thread keeps it up from then on.
fn start(
    events: &Sender<Event>,
    happened: &Receiver<Event>,
    name: &str,
    arguments: Vec<String>,
    listen: Option<SocketAddr>,
) -> Result<SocketAddr, Failure> {
    let keeper = Keeper { name: name.to_owned(), arguments, listen, events: events.clone() };
    thread::Builder::new().name(format!("mixlog-keep-{name}")).spawn(move || keeper.keep())?;
    let mut ends = 0;
    loop {
        let event = happened.recv().expect("a sender of ours is still there");
        tell(&event)?;
        let text = format!("{name} does not come up");
        match event {
            Event::Started { name: started, address, .. } if started == name => return Ok(address),
            // It said what is damaged, and that stays so.
            Event::Ended { name: ended, code: Some(3), .. } if ended == name => {
                return Err(Failure::Corrupt(text));
            }
            Event::Ended { name: ended, .. } | Event::Failed { name: ended, .. } if ended == name => {
                ends += 1;
                if ends == ATTEMPTS {
                    return Err(Failure::Io(text));
                }
            }
            _ => {}
        }
    }
}

/// Keeps a child up.
struct Keeper {
    name: String,
    arguments: Vec<String>,
    /// Where it listens, if that must stay the same.
    listen: Option<SocketAddr>,
    events: Sender<Event>,
}

impl Keeper {
    fn keep(mut self) {
        let mut pause = AGAIN;
        loop {
            let begun = Instant::now();
            let event = match self.spawn() {
                Ok(mut child) => {
                    let process = child.id();
                    self.tell_start(&mut child);
                    // Its stdin is ours until it has ended: waiting must not close it.
                    let stdin = child.stdin.take();
                    let ended = child.wait();
                    drop(stdin);
                    let code = ended.as_ref().ok().and_then(ExitStatus::code);
                    let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                    Event::Ended { name: self.name.clone(), process, how, code }
                }
                Err(why) => Event::Failed { name: self.name.clone(), why },
            };
            if self.events.send(event).is_err() {
                return;
            }
            pause = if begun.elapsed() > AGAIN_AT_MOST { AGAIN } else { (2 * pause).min(AGAIN_AT_MOST) };
            thread::sleep(pause);
        }
    }

    fn spawn(&self) -> Result<Child, String> {
        let mut command = std::env::current_exe().map(Command::new).map_err(|error| error.to_string())?;
        command.args(&self.arguments).arg("--until-stdin-ends");
        if let Some(listen) = self.listen {
            command.arg("--listen").arg(listen.to_string());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())
    }

    /// Waits for the line in which the child says where it listens.
    fn tell_start(&mut self, child: &mut Child) {
        let Some(stdout) = child.stdout.take() else { return };
        let mut line = String::new();
        if BufReader::new(stdout).read_line(&mut line).is_err() {
            return;
        }
        let Some(address) = line.split_whitespace().last().and_then(|word| word.parse().ok()) else { return };
        if self.listen.is_some() {
            self.listen = Some(address);
        }
        let started = Event::Started { name: self.name.clone(), process: child.id(), address };
        let _ = self.events.send(started);
    }
}
