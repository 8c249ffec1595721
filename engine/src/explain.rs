//! Finds out why transactions wait, for those who want to know: beside the flow, after a window was mixed and while it
//! is not executed yet.
//!
//! Waits come from [`Reasons`]; here they get names and are added up. What a table costs is found by mixing the window
//! again without it. A table without a link in the window's critical path need not be tried: the path is as long without
//! it. Keys are counted in a sketch of fixed size; hashes become readable when somebody reads them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use mixlog_log::Position;
use mixlog_mixer::{self as mixer, Declared, KeyHash, Mixer, Reasons, Schedule};

use crate::execute::Violation;
use crate::explanation::{Contention, Explanation, HotKey, Link, Missed, Path, ProcedureCounts, WaitsFor};
use crate::footprint::Access;
use crate::pipeline::Shared;
use crate::procedure::Procedures;
use crate::reply::Status;
use crate::stats::{OneByOne, Stats};
use crate::store::Store;
use crate::window::{CHUNK, Window};

/// See the module's documentation.
pub(crate) struct Explainer {
    /// Every how many mixed windows one is looked at.
    every: u32,
    /// What units of conflict are called.
    places: Vec<Place>,
    /// By table: its place. One more: unknown footprints'.
    place_of: Vec<u16>,
    procedures: usize,
    /// Held while a window is looked at; then, shortly, `counts`.
    desk: Mutex<Desk>,
    counts: Mutex<Counts>,
}

/// A table, or a domain of tables, which share their units of conflict.
struct Place {
    name: &'static str,
    domain: Option<&'static str>,
    /// Of the domain.
    tables: Vec<&'static str>,
}

/// The window that is looked at, and room to work.
#[derive(Default)]
struct Desk {
    mixed_windows: u64,
    first: Position,
    accesses: Vec<Access>,
    transactions: Vec<Entry>,
    reasons: Reasons,
    mixer: Mixer,
    schedule: Schedule,
    /// Accesses without those of one place, and where each transaction's end.
    rest: (Vec<mixer::Access>, Vec<usize>),
}

#[derive(Clone, Copy)]
struct Entry {
    procedure: Option<u16>,
    unknown: bool,
    /// End of its accesses.
    end: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tried {
    waits: u64,
    critical: u64,
    path: u64,
}

impl Tried {
    fn add(&mut self, is_critical: bool, is_on_path: bool) {
        self.waits += 1;
        self.critical += u64::from(is_critical);
        self.path += u64::from(is_on_path);
    }

    /// What matters most first.
    fn rank(self) -> std::cmp::Reverse<(u64, u64, u64)> {
        std::cmp::Reverse((self.path, self.waits, self.critical))
    }
}

/// A unit of conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unit {
    key: u64,
    place: u16,
    /// Of the access that waited; `None` for unknown footprints.
    table: Option<u16>,
    is_row: bool,
}

#[derive(Clone, Default)]
struct Counts {
    /// What was there before: the explanation starts here.
    before: Stats,
    windows: u64,
    entries: u64,
    waiting: u64,
    waits: u64,
    batches: u64,
    /// By place: its waits, and how many batches there would have been without it fewer.
    places: Vec<(Tried, u64)>,
    keys: Sketch,
    conflicts: BTreeMap<(Option<u16>, Option<u16>, u16), Tried>,
    /// By procedure: transactions that waited, and their waits.
    waits_of: Vec<(u64, u64)>,
    tallies: Vec<Tally>,
    missed: BTreeMap<(u16, &'static str), u64>,
    longest: Option<LongestPath>,
}

#[derive(Clone)]
struct LongestPath {
    window: Position,
    entries: u64,
    batches: u64,
    links: Vec<(Step, Step, Unit)>,
}

/// An entry of a path: index in its window, and procedure.
type Step = (u32, Option<u16>);

/// The keys with the most waits, without room for all (space-saving: Metwally, Agrawal, El Abbadi, ICDT 2005): who is
/// not in the list takes the place of the last one, and its count.
#[derive(Clone, Default)]
struct Sketch(Vec<Counted>);

#[derive(Clone)]
struct Counted {
    unit: Unit,
    tried: Tried,
    error: u64,
}

impl Sketch {
    fn of(&mut self, unit: Unit) -> &mut Tried {
        let known = |counted: &Counted| counted.unit.key == unit.key && counted.unit.place == unit.place;
        let at = match self.0.iter().position(known) {
            Some(at) => at,
            None if self.0.len() < Explanation::KEYS => {
                self.0.push(Counted { unit, tried: Tried::default(), error: 0 });
                self.0.len() - 1
            }
            None => {
                let fewest = |&at: &usize| self.0[at].tried.waits;
                let at = (0..self.0.len()).min_by_key(fewest).expect("the list is full");
                let error = self.0[at].tried.waits;
                self.0[at] = Counted { unit, tried: Tried { waits: error, ..Tried::default() }, error };
                at
            }
        };
        &mut self.0[at].tried
    }
}

/// What one driver counts of one procedure, in one window.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    transactions: u64,
    aborts: u64,
    panics: u64,
    reconnoitred: u64,
    adopted: u64,
    inferred: u64,
    timed: u64,
    time: Duration,
}

impl Tally {
    /// When a transaction starts: `None` for those whose time is not taken.
    pub(crate) fn start(position: Position) -> Option<Instant> {
        // Spread well, so that a pattern among the transactions does not meet one here.
        (position.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60 == 0).then(Instant::now)
    }

    pub(crate) fn add(&mut self, status: Status, start: Option<Instant>) {
        self.transactions += 1;
        self.aborts += u64::from(status == Status::Aborted);
        self.panics += u64::from(status == Status::Panicked);
        if let Some(start) = start {
            self.timed += 1;
            self.time += start.elapsed();
        }
    }

    pub(crate) fn ran_ahead(&mut self, adopted: bool) {
        self.reconnoitred += 1;
        self.adopted += u64::from(adopted);
    }

    pub(crate) const fn was_inferred(&mut self) {
        self.inferred += 1;
    }

    fn take(&mut self, other: &mut Self) {
        let Self { transactions, aborts, panics, reconnoitred, adopted, inferred, timed, time } =
            std::mem::take(other);
        self.transactions += transactions;
        self.aborts += aborts;
        self.panics += panics;
        self.reconnoitred += reconnoitred;
        self.adopted += adopted;
        self.inferred += inferred;
        self.timed += timed;
        self.time += time;
    }
}

impl Explainer {
    /// For `every` = 1, every mixed window is looked at.
    pub(crate) fn new(store: &Store, procedures: &Procedures, every: u32) -> Self {
        let mut places: Vec<Place> = Vec::new();
        let mut place_of = Vec::new();
        for table in store.tables() {
            let domain = table.domain();
            let known = places.iter().position(|place| domain.is_some() && place.domain == domain);
            let at = known.unwrap_or_else(|| {
                places.push(Place {
                    name: domain.unwrap_or_else(|| table.name()),
                    domain,
                    tables: Vec::new(),
                });
                places.len() - 1
            });
            if domain.is_some() {
                places[at].tables.push(table.name());
            }
            place_of.push(at as u16);
        }
        place_of.push(places.len() as u16);
        places.push(Place { name: Explanation::UNKNOWN, domain: None, tables: Vec::new() });
        let mut explainer = Self {
            every,
            places,
            place_of,
            procedures: procedures.len(),
            desk: Mutex::default(),
            counts: Mutex::default(),
        };
        explainer.counts = Mutex::new(explainer.nothing(Stats::default()));
        explainer
    }

    fn nothing(&self, before: Stats) -> Counts {
        Counts {
            before,
            places: vec![Default::default(); self.places.len()],
            waits_of: vec![(0, 0); self.procedures],
            tallies: self.tallies(),
            ..Counts::default()
        }
    }

    /// Room for a driver's counts.
    pub(crate) fn tallies(&self) -> Vec<Tally> {
        vec![Tally::default(); self.procedures]
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().expect("no panic while counting")
    }

    /// Forgets all, given what was counted so far.
    pub(crate) fn forget(&self, stats: Stats) {
        *self.counts() = self.nothing(stats);
    }

    /// A driver's counts of a committed window.
    pub(crate) fn add(&self, tallies: &mut [Tally]) {
        for (sum, tally) in self.counts().tallies.iter_mut().zip(tallies) {
            sum.take(tally);
        }
    }

    /// A window was replayed.
    pub(crate) fn add_violations(&self, violations: &[Violation]) {
        let mut counts = self.counts();
        for violation in violations {
            *counts.missed.entry((violation.procedure, violation.table)).or_default() += 1;
        }
    }

    /// Looks at a window that was just mixed, if it is its turn. Called by one driver at a time.
    pub(crate) fn look_at(&self, window: &Window) {
        let mut desk = self.desk.lock().expect("no panic while a window is looked at");
        let desk = &mut *desk;
        desk.mixed_windows += 1;
        if !desk.mixed_windows.is_multiple_of(u64::from(self.every)) {
            return;
        }
        desk.load(window);
        desk.find();
        let batches = desk.reasons.batches();
        let mut on_path = vec![false; desk.reasons.waits().len()];
        let mut steps: Vec<_> = desk.reasons.critical_path().copied().collect();
        steps.reverse();
        let mut saved = vec![None; self.places.len()];
        for step in &steps {
            let waits = desk.reasons.waits();
            let first = waits.partition_point(|wait| wait.transaction < step.transaction);
            let critical = waits[first..].iter().position(|wait| wait.is_critical).expect("the step");
            on_path[first + critical] = true;
            let place = self.unit(desk, step).place;
            if saved[usize::from(place)].is_none() {
                saved[usize::from(place)] = Some(batches - self.batches_without(desk, place));
            }
        }

        let mut counts = self.counts();
        counts.windows += 1;
        counts.entries += desk.transactions.len() as u64;
        counts.batches += u64::from(batches);
        counts.waits += desk.reasons.waits().len() as u64;
        for ((_, sum), saved) in counts.places.iter_mut().zip(&saved) {
            *sum += u64::from(saved.unwrap_or(0));
        }
        let procedure = |transaction: u32| desk.transactions[transaction as usize].procedure;
        for (wait, &on_path) in desk.reasons.waits().iter().zip(&on_path) {
            let unit = self.unit(desk, wait);
            let (waiting, on) = (procedure(wait.transaction), procedure(wait.on));
            counts.waiting += u64::from(wait.is_critical);
            counts.places[usize::from(unit.place)].0.add(wait.is_critical, on_path);
            counts.conflicts.entry((waiting, on, unit.place)).or_default().add(wait.is_critical, on_path);
            if unit.table.is_some() {
                counts.keys.of(unit).add(wait.is_critical, on_path);
            }
            if let Some(waiting) = waiting {
                let (transactions, waits) = &mut counts.waits_of[usize::from(waiting)];
                *transactions += u64::from(wait.is_critical);
                *waits += 1;
            }
        }
        if counts.longest.as_ref().is_none_or(|longest| u64::from(batches) > longest.batches) {
            let step = |transaction: u32| (transaction, procedure(transaction));
            let link = |wait: &mixer::Wait| (step(wait.transaction), step(wait.on), self.unit(desk, wait));
            counts.longest = Some(LongestPath {
                window: desk.first,
                entries: desk.transactions.len() as u64,
                batches: u64::from(batches),
                links: steps.iter().take(Path::LINKS).map(link).collect(),
            });
        }
    }

    /// What a wait is about.
    fn unit(&self, desk: &Desk, wait: &mixer::Wait) -> Unit {
        let Some(access) = wait.access else {
            return Unit {
                key: 0,
                place: self.place_of[self.place_of.len() - 1],
                table: None,
                is_row: false,
            };
        };
        let access = desk.accesses[desk.start_of(wait.transaction) + access as usize];
        let place = self.place_of[usize::from(access.table)];
        Unit { key: access.key, place, table: Some(access.table), is_row: access.is_row() }
    }

    /// How many batches the window would have if nothing conflicted in a place.
    fn batches_without(&self, desk: &mut Desk, place: u16) -> u32 {
        let Desk { accesses, transactions, mixer, schedule, rest: (rest, ends), .. } = desk;
        let unknown = self.place_of[self.place_of.len() - 1];
        rest.clear();
        ends.clear();
        let mut start = 0;
        for entry in &*transactions {
            let others = accesses[start..entry.end].iter();
            let others = others.filter(|access| self.place_of[usize::from(access.table)] != place);
            rest.extend(others.map(|access| access.to_mixer()));
            ends.push(rest.len());
            start = entry.end;
        }
        let window = transactions.iter().enumerate().map(|(t, entry)| {
            if entry.unknown && place != unknown {
                return Declared::Unknown;
            }
            let start = if t == 0 { 0 } else { ends[t - 1] };
            Declared::Keys(rest[start..ends[t]].iter().copied())
        });
        mixer.mix(window, schedule);
        schedule.batches()
    }

    /// All that is known. `stats` are the engine's. The caller holds a snapshot.
    pub(crate) fn explain(&self, shared: &Shared, stats: &Stats) -> Explanation {
        // Copied out: what follows takes long, and drivers want to count.
        let counts = self.counts().clone();
        let texts = Texts::new(&shared.store, &self.places, &self.place_of, &counts);
        let name = |procedure: Option<u16>| {
            procedure.map_or(Explanation::NO_PROCEDURE, |index| shared.procedures.get(index).name)
        };
        let over = |batches: u64| if batches == 0 { 1.0 } else { counts.entries as f64 / batches as f64 };

        let mut tables: Vec<_> = self.places.iter().zip(&counts.places).collect();
        tables.retain(|(_, (tried, _))| tried.waits > 0);
        tables.sort_by_key(|(_, (tried, _))| tried.rank());
        let tables =
            tables.into_iter().map(|(place, &(Tried { waits, critical, path }, saved))| Contention {
                name: place.name,
                tables: place.tables.clone(),
                waits,
                critical,
                path,
                parallelism_without: over(counts.batches - saved),
            });
        let mut keys = counts.keys.0.clone();
        keys.sort_by_key(|counted| counted.tried.rank());
        let keys =
            keys.iter().map(|&Counted { unit, tried: Tried { waits, critical, path }, error }| HotKey {
                name: self.places[usize::from(unit.place)].name,
                key: texts.of(unit),
                waits,
                waits_error: error,
                critical,
                path,
            });
        let mut conflicts: Vec<_> = counts.conflicts.iter().collect();
        conflicts.sort_by_key(|(_, tried)| tried.rank());
        let conflicts =
            conflicts.into_iter().map(|(&(waiting, on, place), &Tried { waits, critical, path })| WaitsFor {
                waiting: name(waiting),
                on: name(on),
                name: self.places[usize::from(place)].name,
                waits,
                critical,
                path,
            });
        let missed = counts.missed.iter().map(|(&(procedure, table), &transactions)| Missed {
            procedure: name(Some(procedure)),
            table,
            transactions,
        });
        let longest_path = counts.longest.as_ref().map(|longest| Path {
            window: longest.window.0,
            entries: longest.entries,
            batches: longest.batches,
            links: longest
                .links
                .iter()
                .map(|&((waiting, procedure), (on, on_procedure), unit)| Link {
                    position: longest.window.0 + u64::from(waiting),
                    procedure: name(procedure),
                    on: longest.window.0 + u64::from(on),
                    on_procedure: name(on_procedure),
                    name: self.places[usize::from(unit.place)].name,
                    key: texts.of(unit),
                })
                .collect(),
        });
        let before = &counts.before;
        // Somebody may have forgotten all since the statistics were taken.
        let since = u64::saturating_sub;
        Explanation {
            windows: since(stats.windows, before.windows),
            mixed_windows: since(stats.mixed_windows, before.mixed_windows),
            one_by_one: OneByOne {
                asked_for: since(stats.one_by_one.asked_for, before.one_by_one.asked_for),
                small: since(stats.one_by_one.small, before.one_by_one.small),
                serial: since(stats.one_by_one.serial, before.one_by_one.serial),
                after_serial: since(stats.one_by_one.after_serial, before.one_by_one.after_serial),
                crowded: since(stats.one_by_one.crowded, before.one_by_one.crowded),
                slower: since(stats.one_by_one.slower, before.one_by_one.slower),
            },
            footprint_panics: since(stats.footprint_panics, before.footprint_panics),
            violations: since(stats.violations, before.violations),
            replays: since(stats.replays, before.replays),
            explained_windows: counts.windows,
            entries: counts.entries,
            waiting: counts.waiting,
            waits: counts.waits,
            batches: counts.batches,
            parallelism: over(counts.batches),
            inferred: shared.inference.shown(&shared.procedures, &shared.store),
            tables: tables.collect(),
            keys: keys.collect(),
            conflicts: conflicts.collect(),
            procedures: counts.procedures(&shared.procedures, stats),
            missed: missed.collect(),
            longest_path,
        }
    }
}

impl Counts {
    fn procedures(&self, procedures: &Procedures, stats: &Stats) -> Vec<ProcedureCounts> {
        let panicked = |stats: &Stats, name: &str| {
            let counts = &stats.footprint_panics_by_procedure;
            counts.iter().find(|(known, _)| *known == name).map_or(0, |(_, count)| *count)
        };
        let since = |name| panicked(stats, name).saturating_sub(panicked(&self.before, name));
        let all = procedures.iter().zip(0u16..).zip(self.tallies.iter().zip(&self.waits_of));
        let mut list: Vec<_> = all
            .map(|((procedure, index), (tally, &(waiting, waits)))| ProcedureCounts {
                name: procedure.name,
                transactions: tally.transactions,
                aborts: tally.aborts,
                panics: tally.panics,
                footprint_panics: since(procedure.name),
                violations: self
                    .missed
                    .range((index, "")..)
                    .take_while(|((p, _), _)| *p == index)
                    .map(|(_, n)| n)
                    .sum(),
                reconnoitred: tally.reconnoitred,
                adopted: tally.adopted,
                inferred: tally.inferred,
                waiting,
                waits,
                execute_ns_mean: (tally.timed > 0)
                    .then(|| (tally.time.as_nanos() / u128::from(tally.timed)) as u64),
            })
            .filter(|counts| counts.transactions + counts.waits > 0)
            .collect();
        list.sort_by_key(|counts| std::cmp::Reverse(counts.transactions));
        list
    }
}

impl Desk {
    fn load(&mut self, window: &Window) {
        self.first = window.first();
        self.accesses.clear();
        self.transactions.clear();
        for chunk in &window.chunks[..window.chunk_count() as usize] {
            let chunk = chunk.read().expect("no panic with a chunk");
            for (index, prepared) in chunk.transactions.iter().enumerate().take(CHUNK as usize) {
                self.accesses.extend_from_slice(chunk.accesses_of(index));
                self.transactions.push(Entry {
                    procedure: prepared.call.map(|(procedure, _)| procedure),
                    unknown: prepared.unknown,
                    end: self.accesses.len(),
                });
            }
        }
    }

    fn start_of(&self, transaction: u32) -> usize {
        if transaction == 0 { 0 } else { self.transactions[transaction as usize - 1].end }
    }

    fn find(&mut self) {
        let Self { accesses, transactions, reasons, .. } = self;
        let mut start = 0;
        reasons.find(transactions.iter().map(|entry| {
            let own = &accesses[std::mem::replace(&mut start, entry.end)..entry.end];
            if entry.unknown {
                Declared::Unknown
            } else {
                Declared::Keys(own.iter().map(|access| access.to_mixer()))
            }
        }));
    }
}

impl Access {
    const fn to_mixer(self) -> mixer::Access {
        mixer::Access { key: KeyHash(self.key), mode: self.mode }
    }
}

/// Names of keys.
struct Texts<'a> {
    store: &'a Store,
    /// By place: what granules are called, by their hashes, as far as known.
    granules: Vec<BTreeMap<u64, Option<String>>>,
}

impl<'a> Texts<'a> {
    /// Looks for the names of all granules at once: that takes a pass over their tables.
    fn new(store: &'a Store, places: &[Place], place_of: &[u16], counts: &Counts) -> Self {
        let mut granules = vec![BTreeMap::new(); places.len()];
        let on_path =
            counts.longest.iter().flat_map(|longest| longest.links.iter().map(|&(_, _, unit)| unit));
        for unit in counts.keys.0.iter().map(|counted| counted.unit).chain(on_path) {
            if unit.table.is_some() && !unit.is_row {
                granules[usize::from(unit.place)].insert(unit.key, None);
            }
        }
        for (table, &place) in store.tables().zip(place_of) {
            table.describe_granules(&mut granules[usize::from(place)]);
        }
        Self { store, granules }
    }

    fn of(&self, unit: Unit) -> String {
        match unit {
            Unit { table: None, .. } => String::new(),
            Unit { table: Some(table), is_row: true, key, .. } => {
                self.store.any(table).describe_key(key).unwrap_or_else(|| format!("#{key:016x}"))
            }
            Unit { place, key, .. } => match self.granules[usize::from(place)].get(&key) {
                Some(Some(text)) => text.clone(),
                _ => format!("granule #{key:016x}"),
            },
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn sketch_of_many_keys_keeps_the_hot_ones_and_never_counts_too_few() {
        let mut sketch = Sketch::default();
        let unit = |key| Unit { key, place: 0, table: Some(0), is_row: true };
        let mut exact: BTreeMap<u64, u64> = BTreeMap::new();
        for i in 0..20_000u64 {
            // Three hot keys among thousands of others.
            let key = if i % 4 == 0 { i % 3 } else { 100 + i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 5_000 };
            sketch.of(unit(key)).add(false, false);
            *exact.entry(key).or_default() += 1;
        }
        assert_eq!(sketch.0.len(), Explanation::KEYS);
        for hot in 0..3 {
            assert!(sketch.0.iter().any(|counted| counted.unit.key == hot), "key {hot} is not among them");
        }
        for Counted { unit, tried, error } in &sketch.0 {
            let exact = exact[&unit.key];
            assert!(tried.waits >= exact && tried.waits - error <= exact, "{}: {tried:?} {error}", unit.key);
        }
    }
}
