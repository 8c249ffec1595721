//! Changes to a cluster, driven to their end by the calling thread.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::{LogId, Position};

use super::behind::StoreBehind;
use super::fill::Loss;
use super::message::{
    Node, Reply, Request, SequencerNumber, SequencerRequest, SequencerVerb, StoreReply, StoreRequest,
    UnitNumber, UnitRequest, UnitVerb,
};
use super::plan::{Change, Found};
use super::projection::Projection;
use super::reconfigure::{Reconfigure, Reconfigured};
use super::rules::Rules;
use super::transfer::{Transfer, Transferred};
use super::transport::{self, Driver, ReplyTo, Timing, Transport};

/// The latest projection behind `transport`; the outer `None`: the store did not answer within `patience`, the
/// inner: there is none yet.
///
/// Cost: blocks the calling thread.
#[must_use]
pub fn latest(
    transport: &dyn Transport,
    timing: &Timing,
    patience: Duration,
) -> Option<Option<Arc<Projection>>> {
    transport::latest(transport, timing, patience)
}

/// Makes a change to the projection `from`, which should be the latest. `None` when `patience` is over first:
/// then it may be made or not.
///
/// Cost: an interruption of appends by a few round trips; a silent unit makes it longer.
pub fn reconfigure(
    transport: &Arc<dyn Transport>,
    timing: &Timing,
    from: Arc<Projection>,
    change: Change,
    patience: Option<Duration>,
) -> Option<Reconfigured> {
    let driver = Driver::new(Arc::clone(transport), timing.clone(), Arc::clone(&from));
    driver.run(&mut Reconfigure::new(from, change, Rules::SOUND), patience)
}

/// The log that the store's projections are of, or will be: the one that was named first, and `proposed` if none was.
/// `None`: the store did not answer within `patience`.
///
/// Cost: blocks the calling thread.
#[must_use]
pub fn name(
    transport: &dyn Transport,
    timing: &Timing,
    proposed: LogId,
    patience: Duration,
) -> Option<LogId> {
    let request = StoreRequest::Name(proposed);
    transport::ask_store(transport, timing, patience, &request, |reply| match reply {
        StoreReply::Named(log) => Some(log),
        _ => None,
    })
}

/// Founds a cluster: a log with stripes of `width` positions, on these chains and this sequencer. Its id is `log`, unless
/// somebody has begun to found it before: who was interrupted, after whatever step, founds it again. A cluster that was
/// founded so already, and not changed since, is `Installed` as well; another one is `Overtaken`.
pub fn found(
    transport: &Arc<dyn Transport>,
    timing: &Timing,
    log: LogId,
    chains: Vec<Vec<UnitNumber>>,
    sequencer: SequencerNumber,
    width: u32,
    patience: Option<Duration>,
) -> Option<Reconfigured> {
    let change = Change { sequencer: Some(sequencer), ..Change::grow(chains) };
    let blank = Arc::new(Projection::blank(log, width));
    match reconfigure(transport, timing, blank, change.clone(), patience)? {
        Reconfigured::Overtaken(latest) if is_founded_so(&latest, &change, width) => {
            Some(Reconfigured::Installed(latest))
        }
        founded => Some(founded),
    }
}

/// Whether `latest` is the first projection of a log, and what `change` makes of nothing.
fn is_founded_so(latest: &Projection, change: &Change, width: u32) -> bool {
    let instance = latest.sequencer.map(|(_, instance)| instance);
    let (tail, trimmed, silent) = (Position::ZERO, Position::ZERO, Vec::new());
    let found = Found { tail, trimmed, silent, instance };
    Projection::blank(latest.log, width).next(change, &found).is_ok_and(|first| first == *latest)
}

/// Why units that join did not get all that they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// What is to be copied is lost where it is copied from, or something else stands where it goes.
    #[error("the units that join could not be copied to: {0}")]
    Lost(Loss),
    /// It came no further for too long; begin again.
    #[error("the units that join could not be copied to: somebody does not answer in time")]
    Unavailable,
}

/// Copies to the units that join, and takes them into their chains. Does nothing if none joins. `patience`: how long it may
/// come no further.
///
/// Cost: reads and writes what they are to have; appends go on meanwhile, but for the reconfiguration at the
/// end.
///
/// # Errors
/// [`TransferError`].
pub fn transfer(
    transport: &Arc<dyn Transport>,
    timing: &Timing,
    from: Arc<Projection>,
    patience: Option<Duration>,
) -> Result<Arc<Projection>, TransferError> {
    if from.joining().is_empty() {
        return Ok(from);
    }
    let driver = Driver::new(Arc::clone(transport), timing.clone(), Arc::clone(&from));
    let members = match driver.run_on(&mut Transfer::new(from), patience, Transfer::done) {
        Some(Transferred::Copied(members)) => members,
        Some(Transferred::Corrupt(loss)) => return Err(TransferError::Lost(loss)),
        None => return Err(TransferError::Unavailable),
    };
    let mut latest = driver.projection();
    while latest.joining().iter().any(|member| members.contains(member)) {
        let change = Change::copied(members.clone());
        match reconfigure(transport, timing, latest, change, patience) {
            Some(Reconfigured::Installed(next) | Reconfigured::Overtaken(next)) => driver.learn(&next),
            Some(_) => {}
            None => return Err(TransferError::Unavailable),
        }
        latest = driver.projection();
    }
    Ok(latest)
}

/// Whether the projection store holds an older copy of what it had, by what those say who answer within `patience`.
pub(crate) fn store_behind(
    transport: &dyn Transport,
    timing: &Timing,
    patience: Duration,
) -> Option<StoreBehind> {
    let begun = Instant::now();
    let left = || patience.saturating_sub(begun.elapsed());
    let latest = transport::latest(transport, timing, left())??;
    let epoch = latest.epoch;
    let (arrived, arrivals) = mpsc::channel();
    let ask = |node, request| {
        let arrived = arrived.clone();
        let reply = ReplyTo::new(move |reply: Option<Reply>| drop(arrived.send((node, reply))));
        transport.send(node, request, reply);
    };
    for member in latest.members() {
        let request = UnitRequest { epoch, member, verb: UnitVerb::Probe };
        ask(Node::Unit(member.unit), Request::Unit(request));
    }
    if let Some((number, _)) = latest.sequencer {
        let request = SequencerRequest { epoch, verb: SequencerVerb::Tail };
        ask(Node::Sequencer(number), Request::Sequencer(request));
    }
    drop(arrived);
    let behind = loop {
        let (node, reply) = arrivals.recv_timeout(left()).ok()?;
        if let Some(behind) = reply.and_then(|reply| StoreBehind::shown_by(epoch, node, &reply)) {
            break behind;
        }
    };
    // Somebody may have changed the projection just now.
    let now = transport::latest(transport, timing, left())??;
    (now.epoch == epoch).then_some(behind)
}
