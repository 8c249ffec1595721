//! A cluster inside this process: units in memory or files, a sequencer, a projection store.
//!
//! It is a [`Transport`] like the one over sockets, and roles can be stopped and started, so that whoever
//! embeds it, or tests against it, meets the same failures.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};

use thiserror::Error;

use crate::{Durability, LogId, OpenError};

use super::administer::{self, TransferError};
use super::message::{Instance, Node, Reply, Request, SequencerNumber, UnitNumber};
use super::plan::Change;
use super::projection::Projection;
use super::reconfigure::Reconfigured;
use super::sequencer::Sequencer;
use super::server::{UnitFiles, UnitServer, UnitStorage};
use super::store::{FileStore, MemoryStore, ProjectionStore, StoreError};
use super::transport::{ReplyTo, Timing, Transport};

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// The sequencer of a cluster inside a process.
pub const LOCAL_SEQUENCER: SequencerNumber = SequencerNumber(1);

/// What a cluster inside a process is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalConfig {
    /// How many chains share the positions; default 1. There are at most 1,024 units.
    pub chains: u32,
    /// How many units a chain has; default 2.
    pub replicas: u32,
    /// How many positions a stripe has, for a new cluster; default 65,536. A batch has at most as many
    /// entries. More: larger batches. Less: chains take turns more often.
    pub width: u32,
    /// How many bytes of entries a unit takes; default: no limit.
    pub quota: u64,
    /// Where things are.
    pub storage: LocalStorage,
    /// How long is waited for what.
    pub timing: Timing,
}

/// Where a cluster inside a process keeps its things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalStorage {
    /// In this process' memory.
    Memory,
    /// In files: like these for each unit, in a directory of its own below `directory`.
    Files(UnitFiles),
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self {
            chains: 1,
            replicas: 2,
            width: 1 << 16,
            quota: u64::MAX,
            storage: LocalStorage::Memory,
            timing: Timing::default(),
        }
    }
}

/// Why a cluster inside a process cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The configuration makes no sense; the message says what would.
    #[error("{0}")]
    Configuration(String),
    /// A unit's files cannot be opened.
    #[error("unit {unit}: {source}")]
    Unit {
        /// Which.
        unit: UnitNumber,
        /// Why.
        source: OpenError,
    },
    /// The projection store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no way to begin an epoch: for example, no unit is left that has some positions.
    #[error("the cluster cannot begin an epoch: {0}")]
    NotStarted(Reconfigured),
}

/// A cluster inside this process.
///
/// Dropping it stops its units, which make durable what they have.
pub struct LocalCluster {
    config: LocalConfig,
    units: RwLock<BTreeMap<UnitNumber, UnitServer>>,
    sequencers: RwLock<BTreeMap<SequencerNumber, Mutex<Sequencer>>>,
    store: Box<dyn ProjectionStore>,
}

impl LocalCluster {
    /// Opens a cluster: the one that is there, in a new epoch, or else a new one.
    ///
    /// Cost: as for every unit's files; one reconfiguration.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn open(config: LocalConfig) -> Result<Arc<Self>, LocalError> {
        const UNITS_MAX: u64 = 1024;
        let units = u64::from(config.chains) * u64::from(config.replicas);
        if !(1..=UNITS_MAX).contains(&units) {
            return Err(LocalError::Configuration(format!(
                "a cluster inside a process has from 1 to {UNITS_MAX} units, and not {} chains of {}",
                config.chains, config.replicas
            )));
        }
        if config.width == 0 {
            return Err(LocalError::Configuration("a stripe has at least 1 position".to_owned()));
        }
        config.timing.check().map_err(LocalError::Configuration)?;
        let store: Box<dyn ProjectionStore> = match &config.storage {
            LocalStorage::Memory => Box::new(MemoryStore::default()),
            LocalStorage::Files(files) => Box::new(FileStore::open(files.directory.join("projections"))?),
        };
        let latest = store.latest()?;
        let cluster =
            Arc::new(Self { config, units: RwLock::default(), sequencers: RwLock::default(), store });
        cluster.start_sequencer(LOCAL_SEQUENCER);
        let numbers: Vec<UnitNumber> = match &latest {
            Some(latest) => latest.members().iter().map(|member| member.unit).collect(),
            None => (1..=cluster.config.chains * cluster.config.replicas).map(UnitNumber).collect(),
        };
        for unit in numbers {
            cluster.start_unit(unit)?;
        }
        let (from, change) = match latest {
            Some(latest) => (latest, Change::default()),
            None => {
                let numbers: Vec<UnitNumber> = cluster.running();
                let chains = numbers.chunks(cluster.config.replicas as usize).map(<[_]>::to_vec).collect();
                let change = Change { sequencer: Some(LOCAL_SEQUENCER), ..Change::grow(chains) };
                (Arc::new(Projection::blank(LogId::random(), cluster.config.width)), change)
            }
        };
        match cluster.reconfigure(from, change) {
            Reconfigured::Installed(_) => Ok(cluster),
            failed => Err(LocalError::NotStarted(failed)),
        }
    }

    /// Makes a change to the projection `from`, which should be the latest.
    ///
    /// Cost: an interruption of appends by a few round trips; a silent unit makes it longer.
    pub fn reconfigure(self: &Arc<Self>, from: Arc<Projection>, change: Change) -> Reconfigured {
        let transport: Arc<dyn Transport> = Arc::<Self>::clone(self);
        administer::reconfigure(&transport, &self.config.timing, from, change, None)
            .expect("it was given all the time it needs")
    }

    /// Copies to the units that join, and takes them into their chains. Does nothing if none joins.
    ///
    /// Cost: reads and writes what they are to have; appends go on meanwhile, but for the reconfiguration at
    /// the end.
    ///
    /// # Errors
    /// [`TransferError::Lost`].
    pub fn transfer(self: &Arc<Self>, from: Arc<Projection>) -> Result<Arc<Projection>, TransferError> {
        let transport: Arc<dyn Transport> = Arc::<Self>::clone(self);
        administer::transfer(&transport, &self.config.timing, from, None)
    }

    /// The latest projection.
    ///
    /// # Errors
    /// [`StoreError`].
    ///
    /// # Panics
    /// Never: an open cluster has one.
    pub fn projection(&self) -> Result<Arc<Projection>, StoreError> {
        Ok(self.store.latest()?.expect("an open cluster has a projection"))
    }

    /// Stops a unit: what is asked of it gets no answer. False if it does not run.
    pub fn stop_unit(&self, unit: UnitNumber) -> bool {
        let stopped = self.units.write().expect(UNPOISONED).remove(&unit);
        stopped.is_some()
    }

    /// Starts a unit with what it has in its files; in memory that is nothing. A unit that was never part of
    /// the cluster is a spare one.
    ///
    /// # Errors
    /// [`LocalError::Unit`].
    pub fn start_unit(&self, unit: UnitNumber) -> Result<(), LocalError> {
        let storage = match &self.config.storage {
            LocalStorage::Memory => UnitStorage::Memory,
            LocalStorage::Files(files) => {
                UnitStorage::Files(UnitFiles { directory: self.unit_directory(unit), ..files.clone() })
            }
        };
        let server = UnitServer::open(unit, self.config.quota, &storage)
            .map_err(|source| LocalError::Unit { unit, source })?;
        self.units.write().expect(UNPOISONED).insert(unit, server);
        Ok(())
    }

    /// The directory of a unit's files; empty for a cluster in memory.
    #[must_use]
    pub fn unit_directory(&self, unit: UnitNumber) -> PathBuf {
        match &self.config.storage {
            LocalStorage::Memory => PathBuf::new(),
            LocalStorage::Files(files) => files.directory.join(format!("unit-{unit}")),
        }
    }

    /// Starts a sequencer, or starts it again: it has forgotten everything.
    pub fn start_sequencer(&self, number: SequencerNumber) {
        let sequencer = Mutex::new(Sequencer::new(Instance::random()));
        self.sequencers.write().expect(UNPOISONED).insert(number, sequencer);
    }

    /// Stops a sequencer. False if it does not run.
    pub fn stop_sequencer(&self, number: SequencerNumber) -> bool {
        self.sequencers.write().expect(UNPOISONED).remove(&number).is_some()
    }

    /// The units that run, in order.
    #[must_use]
    pub fn running(&self) -> Vec<UnitNumber> {
        self.units.read().expect(UNPOISONED).keys().copied().collect()
    }

    /// What an acknowledged append has survived.
    #[must_use]
    pub fn durability(&self) -> Durability {
        match &self.config.storage {
            LocalStorage::Memory => Durability::Memory,
            LocalStorage::Files(files) => files.durability,
        }
    }

    /// How long is waited for what.
    #[must_use]
    pub const fn timing(&self) -> &Timing {
        &self.config.timing
    }
}

impl Transport for LocalCluster {
    fn send(&self, to: Node, request: Request, reply: ReplyTo) {
        match (to, request) {
            (Node::Unit(number), Request::Unit(request)) => {
                if let Some(unit) = self.units.read().expect(UNPOISONED).get(&number) {
                    unit.send(request, reply);
                }
            }
            (Node::Sequencer(number), Request::Sequencer(request)) => {
                let sequencers = self.sequencers.read().expect(UNPOISONED);
                if let Some(sequencer) = sequencers.get(&number) {
                    let answer = sequencer.lock().expect(UNPOISONED).handle(&request);
                    reply.answer(Reply::Sequencer(answer));
                }
            }
            (Node::Store, Request::Store(request)) => {
                if let Ok(answer) = self.store.handle(&request) {
                    reply.answer(Reply::Store(answer));
                }
            }
            _ => {}
        }
    }
}

impl fmt::Debug for LocalCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCluster").field("units", &self.running()).finish_non_exhaustive()
    }
}
