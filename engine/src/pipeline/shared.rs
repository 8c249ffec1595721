//! What all drivers, submitters and snapshots share: the state, what is known of the log, and what was published of both.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use mixlog_log::Position;

use crate::agreement::{Agreed, Vote};
use crate::at_work;
use crate::checkpoint::{Conversion, Due};
use crate::clients::ANSWERS;
use crate::digest::Digest;
use crate::doubtful::Doubtful;
use crate::entry::{self, Catalog};
use crate::error::OpenError;
use crate::explain::Explainer;
use crate::explanation::Explanation;
use crate::in_flight::InFlight;
use crate::infer::Inference;
use crate::learned::Learned;
use crate::memory_limit::MemoryLimit;
use crate::observe;
use crate::panics::Payload;
use crate::procedure::Procedures;
use crate::snapshot::{Registry, Snapshot};
use crate::stats::{Memory, Stats};
use crate::store::{AnyTable, Store};

/// The tables that the engine's user registered.
fn own_tables(store: &Store) -> impl Iterator<Item = &dyn AnyTable> {
    store.tables().filter(|table| !table.is_derived() && table.id() != ANSWERS.id())
}

/// Adds what is not known yet, in the order in which it comes.
fn add_missing<T: Clone + PartialEq>(known: &mut Vec<T>, named: &[T]) {
    let missing: Vec<_> = named.iter().filter(|name| !known.contains(name)).cloned().collect();
    known.extend(missing);
}

/// The digest of the newest committed window.
#[derive(Default)]
struct Newest {
    digest: Digest,
    /// How many wait for a newer one: a system call for every window, to wake nobody, costs as much as a transaction.
    waiting: u32,
}

/// What all drivers, submitters and snapshots share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) procedures: Procedures,
    /// From older versions of tables' rows.
    pub(crate) conversions: Vec<Arc<Conversion>>,
    /// Marks this engine's own entries.
    pub(crate) origin: u64,
    pub(crate) in_flight: InFlight,
    pub(crate) doubtful: Doubtful,
    pub(crate) snapshots: Registry,
    pub(crate) stats: Mutex<Stats>,
    /// What violations taught about footprints that are found.
    pub(crate) learned: Learned,
    /// How footprints follow from arguments.
    pub(crate) inference: Inference,
    /// Whether any transaction ever ran ahead.
    pub(crate) speculates: AtomicBool,
    /// `None` unless somebody wants to know.
    pub(crate) explainer: Option<Explainer>,
    /// All names in the log so far.
    pub(crate) catalog: Mutex<Option<Catalog>>,
    /// Of entries executed; see [`Due`].
    pub(crate) due: Due,
    pub(crate) memory_limit: MemoryLimit,
    /// Whether votes are counted.
    pub(crate) compares: bool,
    /// Votes that were read and are not counted yet, with their positions.
    pub(crate) votes: Mutex<Vec<(Position, Vote)>>,
    pub(crate) agreed: Agreed,
    digest: (Mutex<Newest>, Condvar),
    table_names: Vec<&'static str>,
}

impl Shared {
    /// `explain`: every how many mixed windows one is explained; 0 for none.
    pub(crate) fn new(
        store: Store,
        procedures: Procedures,
        origin: u64,
        in_flight_limit: usize,
        retain: u64,
        explain: u32,
        compares: bool,
    ) -> Self {
        let table_names = own_tables(&store).map(|table| table.name()).collect();
        let inference = Inference::new(procedures.len());
        let learned = Learned::new(procedures.len(), store.tables().len());
        let explainer = (explain > 0).then(|| Explainer::new(&store, &procedures, explain));
        Self {
            store,
            procedures,
            conversions: Vec::new(),
            origin,
            in_flight: InFlight::new(in_flight_limit),
            doubtful: Doubtful::default(),
            snapshots: Registry::new(retain),
            stats: Mutex::default(),
            learned,
            inference,
            speculates: AtomicBool::new(false),
            explainer,
            catalog: Mutex::default(),
            due: Due::default(),
            memory_limit: MemoryLimit::default(),
            compares,
            votes: Mutex::default(),
            agreed: Agreed::default(),
            digest: Default::default(),
            table_names,
        }
    }

    /// Everything registered here.
    pub(crate) fn own_catalog(&self) -> Catalog {
        Catalog {
            format: entry::FORMAT,
            procedures: self.procedures.iter().map(|p| (p.name.to_owned(), p.version)).collect(),
            tables: self.table_names.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    /// All names in the log so far.
    pub(crate) fn known_catalog(&self) -> Catalog {
        let known = self.catalog.lock().expect("no panic in a short section").clone();
        known.unwrap_or_else(|| self.own_catalog())
    }

    /// A catalog in the log: all that it names must be registered.
    pub(crate) fn note_catalog(&self, position: Position, catalog: &Catalog) -> Result<(), OpenError> {
        for (name, version) in &catalog.procedures {
            if !self.procedures.iter().any(|p| p.name == name && p.version == *version) {
                let (name, version) = (name.clone(), *version);
                return Err(OpenError::MissingProcedure { name, version, position });
            }
        }
        for name in &catalog.tables {
            if !self.table_names.contains(&name.as_str()) {
                return Err(OpenError::MissingTable { name: name.clone(), position });
            }
        }
        let mut known = self.catalog.lock().expect("no panic in a short section");
        match &mut *known {
            None => *known = Some(catalog.clone()),
            Some(known) => {
                add_missing(&mut known.procedures, &catalog.procedures);
                add_missing(&mut known.tables, &catalog.tables);
            }
        }
        Ok(())
    }

    /// How much memory the tables use, and what for.
    pub(crate) fn memory(&self) -> Memory {
        let (snapshots, oldest) = self.snapshots.opened();
        let tables = self.store.tables().map(AnyTable::memory).collect();
        Memory::new(tables, snapshots, oldest.and_then(Position::previous))
    }

    /// What is known of conflicts, as far as somebody wanted to know.
    pub(crate) fn explain(self: &Arc<Self>) -> Explanation {
        let Some(explainer) = &self.explainer else { return Explanation::default() };
        // Keys are looked up, which only holders of a snapshot may do.
        let _snapshot = Snapshot::new(Arc::clone(self));
        let stats = self.stats.lock().expect("no panic in a short section").clone();
        explainer.explain(self, &stats)
    }

    /// Starts a new explanation.
    pub(crate) fn explain_anew(&self) {
        if let Some(explainer) = &self.explainer {
            explainer.forget(self.stats.lock().expect("no panic in a short section").clone());
        }
    }

    /// A snapshot, and the digest of the state that it sees.
    /// `None` from a pipeline that died between the two.
    pub(crate) fn snapshot_with_digest(self: &Arc<Self>) -> Option<(Snapshot, Digest)> {
        loop {
            let snapshot = Snapshot::new(Arc::clone(self));
            // At least that of the snapshot, and later only if a whole window was committed in these microseconds.
            let digest = self.digest();
            if digest.position == snapshot.position() {
                return Some((snapshot, digest));
            }
            if self.in_flight.stopped().is_some() {
                return None;
            }
        }
    }

    /// The digest of the newest committed window; at least of all that snapshots see.
    pub(crate) fn digest(&self) -> Digest {
        let seen = self.snapshots.tail().previous();
        let (newest, advanced) = &self.digest;
        let mut newest = newest.lock().expect("no panic in a short section");
        // Committing publishes the state first and the digest some microseconds later.
        while newest.digest.position < seen && self.in_flight.stopped().is_none() {
            newest.waiting += 1;
            newest = advanced.wait(newest).expect("no panic in a short section");
            newest.waiting -= 1;
        }
        newest.digest
    }

    /// Takes no more submissions, and wakes all who wait for what will not come.
    pub(crate) fn stop(&self, reason: &str) {
        self.in_flight.stop(reason);
        // Under the lock: whoever looked before waits by now.
        let _digest = self.digest.0.lock().expect("no panic in a short section");
        self.digest.1.notify_all();
        self.agreed.wake();
    }

    /// A footprint panicked: counts it, and tells of the first one of each procedure.
    pub(crate) fn note_footprint_panic(&self, procedure: u16, position: Position, panic: &Payload) {
        let name = self.procedures.get(procedure).name;
        let mut stats = self.stats.lock().expect("no panic in a short section");
        stats.footprint_panics += 1;
        let counts = &mut stats.footprint_panics_by_procedure;
        let index = counts.binary_search_by_key(&name, |(name, _)| name);
        let index = index.unwrap_or_else(|index| {
            counts.insert(index, (name, 0));
            index
        });
        counts[index].1 += 1;
        let is_first = counts[index].1 == 1;
        drop(stats);
        observe::footprint_panicked(name, position, is_first.then(|| panic.message()));
    }

    pub(super) fn publish_digest(&self, last: Option<Position>, state: u128, replies: u128) {
        let (newest, advanced) = &self.digest;
        let mut newest = newest.lock().expect("no panic in a short section");
        let digest = &mut newest.digest;
        digest.position = last;
        digest.state = digest.state.wrapping_add(state);
        digest.replies = digest.replies.wrapping_add(replies);
        if newest.waiting > 0 {
            advanced.notify_all();
        }
    }

    /// Waits until so many members agree on a position, the time has passed, or the engine stops.
    pub(crate) fn wait_agreed(&self, position: Position, members: usize, timeout: Duration) -> bool {
        let timeout = if at_work::is_for(self.origin) { Duration::ZERO } else { timeout };
        self.agreed.wait(position, members, timeout, || self.in_flight.stopped().is_some())
    }
}
