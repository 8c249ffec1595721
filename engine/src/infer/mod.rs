//! Footprints that follow from a procedure's arguments, though it declares nothing.
//!
//! Running a transaction ahead to see what it touches costs as much as running it. Most procedures touch what their
//! arguments name: the account of a transfer, the stock of an order's lines. So the engine looks at the first
//! transactions that it ran ahead, side by side with their arguments, and searches [rules] by which the keys follow
//! from these. Where it finds some, the next transactions are not run ahead: their footprints are told from their
//! arguments, as if their procedure declared them.
//!
//! ```text
//! seen       Transfer { from: 7, to: 12, .. }  wrote accounts 7 and 12
//!            Transfer { from: 3, to: 7, .. }   wrote accounts 3 and 7
//!            ...
//! rules      writes accounts[from], writes accounts[to]
//! ```
//!
//! Like any footprint, one that was inferred is a hint: the guard compares every access with it. A transaction that
//! leaves it costs a replay of its window, and its procedure's rules are forgotten: it is run ahead again for a while,
//! a longer one each time, before rules are searched anew. Arguments that look different from all that rules were found
//! for, another variant of an enum for instance, are run ahead too, and looked at in their turn.
//!
//! Rules decide who waits for whom, never a result; replicas may well have different ones.
//!
//! [rules]: Rules

mod affine;
mod leaves;
mod rules;
mod search;
mod shown;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use mixlog_log::Position;
use mixlog_mixer::Mode;

pub(crate) use leaves::{Leaves, Reach};
pub(crate) use rules::Rules;
use search::Touch;

use crate::explanation::Inferred;
use crate::footprint::{Access, Of};
use crate::procedure::Procedures;
use crate::store::{Overlays, Store, Touched};

/// From how many transactions rules are searched.
const EXAMPLES: usize = 64;
/// For how many windows nothing is searched after a search in vain, or after rules were wrong, and how often that is
/// doubled.
const REST: u64 = 16;
const DOUBLED: u32 = 12;
/// More rows than this are not looked at, nor more accesses than twice as many.
const MOST_TOUCHED: usize = 512;
/// For so many shapes of arguments a procedure has rules; the newest count.
const MOST_RULES: usize = 64;

/// A transaction that ran ahead, and what it touched.
#[derive(Debug)]
struct Example {
    leaves: Leaves,
    position: Position,
    time_us: u64,
    committed: bool,
    touched: Vec<Touch>,
    /// What covers all of it.
    accesses: Vec<Access>,
}

/// What is known of one procedure.
#[derive(Default)]
struct Known {
    /// Until which window nothing is searched.
    rests: AtomicU64,
    has_rules: AtomicBool,
    rules: RwLock<Option<Arc<Rules>>>,
    learner: Mutex<Learner>,
}

#[derive(Default)]
struct Learner {
    examples: Vec<Example>,
    /// How often it was in vain, or wrong.
    failures: u32,
}

/// See the module's documentation.
pub(crate) struct Inference {
    known: Box<[Known]>,
    enabled: bool,
}

/// A transaction that ran ahead.
pub(crate) struct Seen<'a> {
    /// Its arguments, all of them.
    pub(crate) leaves: &'a Leaves,
    pub(crate) position: Position,
    pub(crate) time_us: u64,
    pub(crate) committed: bool,
    pub(crate) overlays: &'a Overlays,
    pub(crate) touched: &'a [Touched],
    /// The part of its footprint that was found.
    pub(crate) accesses: &'a [Access],
    /// A table that has its footprint declared anyway.
    pub(crate) except: u16,
}

impl Inference {
    pub(crate) fn new(procedures: usize) -> Self {
        Self { known: (0..procedures).map(|_| Known::default()).collect(), enabled: true }
    }

    /// Infers nothing.
    pub(crate) const fn disable(&mut self) {
        self.enabled = false;
    }

    fn of(&self, procedure: u16) -> &Known {
        &self.known[usize::from(procedure)]
    }

    /// The rules of a procedure, if there are any.
    pub(crate) fn rules(&self, procedure: u16) -> Option<Arc<Rules>> {
        let known = self.of(procedure);
        // Relaxed: rules that are there a moment longer, or later, are no harm.
        if !known.has_rules.load(Ordering::Relaxed) {
            return None;
        }
        known.rules.read().expect("no panic in a short section").clone()
    }

    /// Whether transactions of a procedure are to be shown in a window.
    #[inline]
    pub(crate) fn looks_at(&self, procedure: u16, window: u64) -> bool {
        self.enabled && self.of(procedure).rests.load(Ordering::Relaxed) <= window
    }

    /// Shows a transaction that ran ahead in a window; searches rules once enough were seen.
    ///
    /// Cost: a copy of the arguments and keys; every 64th time the search, about a millisecond, or tens of them if there are
    /// hundreds of rows and list elements.
    pub(crate) fn show(&self, procedure: u16, store: &Store, window: u64, seen: &Seen<'_>) {
        let known = self.of(procedure);
        // Whoever finds somebody else at it has better things to do.
        let Ok(mut learner) = known.learner.try_lock() else { return };
        if seen.touched.len() > MOST_TOUCHED || seen.accesses.len() > 2 * MOST_TOUCHED {
            learner.rest(known, window);
            return;
        }
        learner.examples.push(Example::new(store, seen));
        if learner.examples.len() < EXAMPLES {
            return;
        }
        let examples = std::mem::take(&mut learner.examples);
        let Some(found) = rules_from(store, &examples) else {
            learner.rest(known, window);
            return;
        };
        let mut rules = known.rules.write().expect("no panic in a short section");
        let mut all = rules.as_deref().cloned().unwrap_or_default();
        all.reach = all.reach.with(found.reach);
        all.shapes.retain(|of| found.shapes.iter().all(|new| new.shape != of.shape));
        all.shapes.extend(found.shapes);
        all.shapes.drain(..all.shapes.len().saturating_sub(MOST_RULES));
        *rules = Some(Arc::new(all));
        known.has_rules.store(true, Ordering::Relaxed);
    }

    /// All rules, as people read them.
    pub(crate) fn shown(&self, procedures: &Procedures, store: &Store) -> Vec<Inferred> {
        let all = (0u16..).zip(procedures.iter());
        all.filter_map(|(index, procedure)| Some(shown::shown(procedure.name, &*self.rules(index)?, store)))
            .flatten()
            .collect()
    }

    /// A transaction left the footprint that was inferred for it, or user code panicked while one was inferred or rules
    /// were searched.
    pub(crate) fn forget(&self, procedure: u16, window: u64) {
        let known = self.of(procedure);
        // Whoever searches holds it until the rules are there. If a panic left it, its examples go.
        let mut learner = known.learner.lock().unwrap_or_else(PoisonError::into_inner);
        known.learner.clear_poison();
        learner.examples.clear();
        known.has_rules.store(false, Ordering::Relaxed);
        let rules = known.rules.write().expect("no panic in a short section").take();
        // The next window was prepared before these were forgotten, and is likely to be as wrong: that is no new failure.
        if rules.is_some() || self.looks_at(procedure, window) {
            learner.rest(known, window);
        }
    }
}

impl Learner {
    fn rest(&mut self, known: &Known, window: u64) {
        known.rests.store(window + (REST << self.failures.min(DOUBLED)), Ordering::Relaxed);
        self.failures += 1;
    }
}

/// The rules for all shapes that there are enough examples of.
fn rules_from(store: &Store, examples: &[Example]) -> Option<Rules> {
    let mut rules = Rules { shapes: Vec::new(), reach: Reach::default() };
    let mut shapes: Vec<u64> = examples.iter().map(|example| example.leaves.shape).collect();
    shapes.sort_unstable();
    shapes.dedup();
    for shape in shapes {
        let of_it: Vec<_> = examples.iter().filter(|example| example.leaves.shape == shape).collect();
        if let Some(of) = search::search(store, &of_it) {
            rules.reach = rules.reach.with(of.reach(&of_it[0].leaves));
            rules.shapes.push(of);
        }
    }
    // So that no shape that was seen is taken for another one.
    let shaped = examples.iter().map(|example| example.leaves.shaped);
    rules.reach.until = shaped.fold(rules.reach.until, u32::max);
    (!rules.shapes.is_empty()).then_some(rules)
}

impl Example {
    fn new(store: &Store, seen: &Seen<'_>) -> Self {
        let &Seen { leaves, position, time_us, committed, overlays, touched, accesses, except } = seen;
        let mut key = Leaves::default();
        let touched = touched.iter().filter_map(|touched| match touched {
            Touched::Row(row) if row.table != except => {
                let table = store.any(row.table);
                let mode = row.mode()?;
                let (parts, texts) = if table.take_key_apart(overlays, row, &mut key) {
                    let texts = key.outer.iter().filter(|leaf| leaf.kind == leaves::Kind::Text);
                    (key.outer.clone(), texts.map(|leaf| key.text(*leaf).to_vec()).collect())
                } else {
                    (Vec::new(), Vec::new())
                };
                let granule = table.granule_number(overlays, row);
                Some(Touch { table: row.table, mode, key: parts, texts, key_hash: row.key_hash, granule })
            }
            Touched::Row(_) | Touched::Granule { .. } | Touched::Merge { .. } => None,
        });
        // Whoever changes a row declares its granule by itself, which may be another one by then.
        let is_own = |access: &&Access| {
            access.table != except && (access.of != Of::Granule || access.mode != Mode::Merge)
        };
        Self {
            leaves: leaves.clone(),
            position,
            time_us,
            committed,
            touched: touched.collect(),
            accesses: accesses.iter().filter(is_own).copied().collect(),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_was_prepared_with_wrong_rules_is_no_further_failure() {
        let inference = Inference::new(1);
        inference.forget(0, 10);
        inference.forget(0, 11);
        assert!(!inference.looks_at(0, 10 + REST - 1) && inference.looks_at(0, 10 + REST));
        inference.forget(0, 30);
        assert!(!inference.looks_at(0, 30 + 2 * REST - 1) && inference.looks_at(0, 30 + 2 * REST));
    }

    #[test]
    fn a_panic_in_a_search_stops_no_later_one() {
        let inference = Inference::new(1);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _learner = inference.known[0].learner.lock();
            std::panic::resume_unwind(Box::new("a key that panics"));
        }));
        assert!(panicked.is_err() && inference.known[0].learner.try_lock().is_err());
        inference.forget(0, 10);
        assert!(inference.known[0].learner.try_lock().is_ok() && !inference.looks_at(0, 10));
    }
}
