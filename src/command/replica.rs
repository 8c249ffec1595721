//! `mixlog replica`: engines on one log, which compare; several in this process, or one of several processes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mixlog::checkpoint::Recovery;
use mixlog::log::{ReadError, SharedLog};
use mixlog::{Builder, Membership, OpenError, Position, Replica};

use super::agree::{Asking, End, LONG, LOOK};
use super::arguments::{Place, ReplicaOptions};
use super::cluster;
use super::failure::Failure;
use super::inspect::{needed, procedures, with_procedures};
use super::keep::open_existing;
use super::run::{open_engine, print_rejected, print_to_stdout};
use super::say::say;

/// How often a follower says how far it is, at most.
const SAY: Duration = Duration::from_secs(1);

/// Executes a log on several replicas, or as one of them.
pub(crate) fn replica(options: &ReplicaOptions) -> Result<(), Failure> {
    let membership = options.member.membership()?;
    options.keep.refuse_limits()?;
    if membership.is_some() {
        options.keep.refuse_to_follower()?;
        if options.engine.explain.is_some() && !options.once {
            return Err(Failure::Refused(
                "--explain goes with --member if --once does, too: what made transactions wait is told at the end"
                    .to_owned(),
            ));
        }
    }
    let place = Place::of(Some(&options.log), None);
    if options.once && place == Place::Directory {
        return Err(Failure::Refused(
            "--once does not go with a log in a directory: no other member can vote while this one has it open. Without \
             --member, replicas in this process compare; members share a log on a cluster: --log corfu://HOST:PORT"
                .to_owned(),
        ));
    }
    options.keep.refuse_in_vain(place, &options.on_cluster)?;
    match membership {
        None => several(options),
        Some(membership) => one(options, &membership),
    }
}

fn open(options: &ReplicaOptions) -> Result<Arc<dyn SharedLog>, Failure> {
    open_existing(&options.log, options.keep.files(), &options.on_cluster)
}

fn empty() -> Failure {
    Failure::Refused("the log is empty".to_owned())
}

/// What executes procedures that were registered before: they are known.
fn again(procedures: &[String]) -> Builder {
    with_procedures(procedures).unwrap_or_default()
}

/// Runs replicas in this process until they agree or cannot.
fn several(options: &ReplicaOptions) -> Result<(), Failure> {
    let log = open(options)?;
    let Some(procedures) = needed(&*log)? else {
        return Err(empty());
    };
    let count = usize::from(options.replicas);
    let names: Vec<_> = (1..=count).map(|number| format!("replica-{number}")).collect();
    let membership = |number: usize| Membership::new(names[number].clone(), names.clone());
    let builder = options.engine.apply(with_procedures(&procedures)?);
    let builder = options.keep.apply(builder).member(membership(0));
    let engine = open_engine(builder, Arc::clone(&log), "replica")?;
    let mut replicas = Vec::new();
    for number in 1..count {
        let (procedures, membership) = (procedures.clone(), membership(number));
        let make = move || {
            let builder = again(&procedures);
            builder.threads(number).window(64 << (number % 4)).member(membership.clone())
        };
        replicas.push(Replica::follow(make, Arc::clone(&log))?);
    }
    let (position, mut asking) = (engine.pad()?, Asking::begun());
    while !engine.wait_agreed(position, count, LOOK) {
        let stopped = replicas.iter().find_map(Replica::failed);
        // An engine that has stopped takes no more, and tells why when it is closed.
        if let Some(error) = stopped {
            return Err(error.into());
        }
        if engine.has_stopped() {
            break;
        }
        // A vote that the log refused is not cast again.
        asking.ask(|| engine.pad())?;
    }
    let repaired: String = replicas
        .iter()
        .flat_map(Replica::divergences)
        .map(|divergence| format!("repaired: {divergence}\n"))
        .collect();
    let digest = engine.digest();
    let explained = options.engine.explained(|| engine.explain());
    engine.close()?;
    for replica in replicas {
        replica.close()?;
    }
    print_to_stdout(&format!("{repaired}position {position}\nreplicas {count}\ndigest {digest}\n{explained}"))
}

/// Follows the log as one of its members, until all agree on what is in it now, or for ever.
fn one(options: &ReplicaOptions, membership: &Membership) -> Result<(), Failure> {
    let log = open(options)?;
    let end = End::of(options.within);
    let shared = cluster::named(&options.log).is_some();
    // On a cluster there are others, who may begin a log that holds nothing but padding: with what, nobody knows.
    let names = if shared { procedures(&*log) } else { needed(&*log) };
    let names = match names.map_err(cannot_go_on)? {
        Some(names) => names,
        None if shared => first_procedures(&*log, &end)?,
        None => return Err(empty()),
    };
    // Refuses what no replica could execute.
    drop(with_procedures(&names)?);
    let (engine, keep, own) = (options.engine, options.keep, membership.clone());
    let make = move || keep.apply(engine.apply(again(&names))).member(own.clone());
    let replica = Replica::follow(make, Arc::clone(&log)).map_err(cannot_go_on)?;
    let count = membership.members.len();
    say(format_args!("{} of {} follows the log", membership.name, membership.members.join(", ")));
    say_start(&replica.recovery());
    let until = if options.once { Some(replica.pad()?) } else { None };
    let (mut said, mut asking) = (Said::default(), Asking::begun());
    let (begun, mut told) = (Instant::now(), false);
    while replica.failed().is_none() {
        let agreed = replica.agreed(count).and_then(|agreed| agreed.position);
        if until.is_some_and(|until| agreed >= Some(until)) {
            said.say(&replica, count, true)?;
            // Others may have come later, and wait for its vote on what they padded the log with.
            if let Some(last) = log.tail()?.tail.previous() {
                let _ = replica.wait(last, LONG);
            }
            break;
        }
        said.say(&replica, count, false)?;
        match until {
            Some(until) => {
                if !replica.wait_agreed(until, count, LOOK) {
                    asking.ask(|| replica.pad())?;
                    let all = membership.members.join(", ");
                    if begun.elapsed() >= LONG && !std::mem::replace(&mut told, true) {
                        say(format_args!(
                            "waiting for all of {all} to agree on position {until}: all have to run"
                        ));
                    }
                    end.look(|| format!("not all of {all} agree on position {until}: do all of them run?"))?;
                }
            }
            None => {
                let next = replica.position().map_or(Position::ZERO, Position::next);
                let _ = replica.wait(next, LOOK);
            }
        }
    }
    let explained = options.engine.explained(|| replica.explain());
    replica.close().map_err(cannot_go_on)?;
    print_to_stdout(&explained)
}

/// The procedures that the log's entries call, when there are any.
fn first_procedures(log: &dyn SharedLog, end: &End) -> Result<Vec<String>, Failure> {
    let mut waits = false;
    loop {
        if let Some(names) = procedures(log)? {
            return Ok(names);
        }
        if !waits {
            let is_empty = log.tail()?.tail == Position::ZERO;
            let holds = if is_empty { "the log is empty" } else { "the log holds nothing but padding" };
            say(format_args!("{holds}; waiting for its first transaction"));
            waits = true;
        }
        end.look(|| "the log is empty still".to_owned())?;
        log.wait_past(log.tail()?.tail, Some(LOOK))?;
    }
}

/// Says what to do about a log that was trimmed past where this one is, or would start: who takes checkpoints waits for a
/// majority, and not for all.
fn cannot_go_on(error: OpenError) -> Failure {
    let helps = matches!(
        error,
        OpenError::Trimmed { .. }
            | OpenError::NoCheckpoint { .. }
            | OpenError::TooEarly { .. }
            | OpenError::Read(ReadError::Trimmed { .. })
    );
    match error.into() {
        Failure::Refused(text) if helps => Failure::Refused(format!("{text}; {START}")),
        Failure::Corrupt(text) if helps => Failure::Corrupt(format!("{text}; {START}")),
        failure => failure,
    }
}

const START: &str = "to start this member, put the newest checkpoint of one that agrees with the others in place of its own, \
                     in DIR/checkpoints of --beside DIR";

/// Says from which state it goes on.
fn say_start(recovery: &Recovery) {
    print_rejected(recovery);
    let Some(position) = recovery.checkpoint else {
        say(format_args!("it executes the log from its start"));
        return;
    };
    let stands = if recovery.agreed {
        "which the members agreed on"
    } else {
        "on which nobody voted: the next votes tell whether it is right"
    };
    let rows = recovery.rows;
    say(format_args!("it starts from the checkpoint of position {position} ({rows} rows), {stands}"));
}

/// What a follower has said.
#[derive(Default)]
struct Said {
    position: Option<Position>,
    agreed: Option<Position>,
    /// Of each divergence, whether it was said that it is repaired.
    divergences: Vec<bool>,
    last: Option<Instant>,
}

impl Said {
    /// Says how far the replica is if that changed, once in a while or `now`, and of each repair.
    fn say(&mut self, replica: &Replica, members: usize, now: bool) -> Result<(), Failure> {
        let divergences = replica.divergences();
        // One that cannot be repaired is told when the replica is closed.
        for (number, divergence) in divergences.iter().filter(|found| found.hindrance.is_none()).enumerate() {
            if number == self.divergences.len() {
                self.divergences.push(false);
                if !divergence.repaired {
                    say(format_args!("{divergence}; its state is built anew, one by one"));
                }
            }
            if divergence.repaired && !std::mem::replace(&mut self.divergences[number], true) {
                print_to_stdout(&format!("repaired: {divergence}\n"))?;
                say_start(&replica.recovery());
            }
        }
        let due = now || self.last.is_none_or(|last| last.elapsed() >= SAY);
        let digest = replica.digest();
        let agreed = replica.agreed(members).and_then(|agreed| agreed.position);
        let position = digest.position;
        if due && (position, agreed) != (self.position, self.agreed) {
            let text = |position: Option<Position>| {
                position.map_or_else(|| "none".to_owned(), |position| position.to_string())
            };
            print_to_stdout(&format!(
                "position {} agreed {} digest {digest}\n",
                text(position),
                text(agreed)
            ))?;
            (self.position, self.agreed, self.last) = (position, agreed, Some(Instant::now()));
        }
        Ok(())
    }
}
