//! `mixlog replica`: several engines on one log, which compare.

use std::sync::Arc;
use std::time::Duration;

use mixlog::log::{FileLog, SharedLog, file};
use mixlog::{Engine, Membership, Replica};

use super::arguments::ReplicaOptions;
use super::cluster;
use super::failure::Failure;
use super::inspect::procedures;
use super::run::{open_engine, print_to_stdout};
use super::workload;

/// How long to wait for votes before it is looked whether somebody stopped.
const LOOK: Duration = Duration::from_millis(50);

/// Executes a log on several replicas, until they agree or cannot.
pub(crate) fn replica(options: &ReplicaOptions) -> Result<(), Failure> {
    let log: Arc<dyn SharedLog> = match cluster::named(&options.log) {
        Some(home) => cluster::log(&home?)?,
        None => {
            let config = file::Config { create: file::Create::Never, ..options.keep.files() };
            Arc::new(FileLog::open(&options.log, config)?)
        }
    };
    let Some(procedures) = procedures(&*log)? else {
        return Err(Failure::Refused("the log is empty".to_owned()));
    };
    let count = usize::from(options.replicas);
    let names: Vec<_> = (1..=count).map(|number| format!("replica-{number}")).collect();
    let membership = |number: usize| Membership::new(names[number].clone(), names.clone());
    let builder = options.engine.apply(workload::register(&procedures, Engine::builder())?);
    let builder = options.keep.apply(builder).member(membership(0));
    let engine = open_engine(builder, Arc::clone(&log), "replica")?;
    let mut replicas = Vec::new();
    for number in 1..count {
        let (procedures, membership) = (procedures.clone(), membership(number));
        let make = move || {
            // The names were found to be known a moment ago.
            let builder = workload::register(&procedures, Engine::builder()).unwrap_or_default();
            builder.threads(number).window(64 << (number % 4)).member(membership.clone())
        };
        replicas.push(Replica::follow(make, Arc::clone(&log))?);
    }
    let position = engine.pad()?;
    while !engine.wait_agreed(position, count, LOOK) {
        let stopped = replicas.iter().find_map(Replica::failed);
        // An engine that has stopped takes no more, and tells why when it is closed.
        if let Some(error) = stopped {
            return Err(error.into());
        }
        if engine.has_stopped() {
            break;
        }
    }
    let repaired: String = replicas
        .iter()
        .flat_map(Replica::divergences)
        .map(|divergence| format!("repaired: {divergence}\n"))
        .collect();
    let digest = engine.digest();
    engine.close()?;
    for replica in replicas {
        replica.close()?;
    }
    print_to_stdout(&format!("{repaired}position {position}\nreplicas {count}\ndigest {digest}\n"))
}
