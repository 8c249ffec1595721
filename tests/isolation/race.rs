//! Rounds raced by several clients on one engine, many at a time, and what their races were like.

use std::collections::BTreeSet;
use std::ops::AddAssign;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use mixlog::log::{MemoryLog, SharedLog};
use mixlog::{Backoff, Engine, Mode, Outcome, Position, Stats, TransactError, Transaction};

use crate::history::{End, History, Ran};
use crate::scenarios::{SCENARIOS, Scenario};
use crate::script::{KINDS, Place, Rows, Says, Script, Slot, Step, builder, take_all};

pub(crate) const THREADS: [usize; 3] = [2, 4, 8];
pub(crate) const WINDOWS: [u32; 5] = [1, 7, 64, 256, 4096];
pub(crate) const MODES: [Mode; 2] = [Mode::Parallel, Mode::Auto];

/// Every transaction of a round has a client of its own.
const CLIENTS: usize = 4;
/// After so many rounds the clients wait for each other.
const BATCH: usize = 32;

/// What an engine is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) threads: usize,
    pub(crate) window: u32,
    pub(crate) mode: Mode,
}

/// All of them.
pub(crate) fn configs() -> impl Iterator<Item = Config> {
    THREADS.into_iter().flat_map(|threads| {
        WINDOWS.into_iter().flat_map(move |window| MODES.map(|mode| Config { threads, window, mode }))
    })
}

impl Config {
    pub(crate) fn builder(self) -> mixlog::Builder {
        builder().threads(self.threads).window(self.window).mode(self.mode)
    }
}

/// One scenario at one place.
#[derive(Clone, Copy)]
struct Round {
    /// Its index in [`SCENARIOS`].
    number: usize,
    place: Place,
    /// Which of its transactions has the first turn: the one of this number, from the first one on again and again.
    turn: usize,
}

impl Round {
    const fn scenario(self) -> &'static Scenario {
        &SCENARIOS[self.number]
    }

    fn setup(self) -> Vec<Step> {
        self.scenario().before.iter().map(|&(slot, value)| Step::Write(slot, value)).collect()
    }
}

/// `rounds` of each scenario, over all kinds of tables.
fn plan(rounds: usize, shift: usize) -> Vec<Round> {
    let kind = |i: usize, number: usize| KINDS[(i + number + shift) % KINDS.len()];
    (0..rounds)
        .flat_map(|i| (0..SCENARIOS.len()).map(move |number| (i, number)))
        .zip(0..)
        .map(|((i, number), round)| Round {
            number,
            place: Place { kind: kind(i, number), round },
            turn: i + shift,
        })
        .collect()
}

/// What the races were like: a test that never raced would show nothing.
#[derive(Clone, Debug)]
pub(crate) struct Races {
    pub(crate) rounds: u64,
    /// By scenario: which pairs of transactions took place in which order.
    orders: Vec<BTreeSet<(usize, usize)>>,
    /// Rounds in which two transactions or more were executed in one window by a replay.
    pub(crate) together: u64,
    /// Rounds in which others took place in between.
    pub(crate) interleaved: u64,
    /// Rounds in which they did not.
    pub(crate) adjacent: u64,
    pub(crate) violations: u64,
    pub(crate) replays: u64,
    pub(crate) adopted: u64,
    /// Windows that were mixed.
    pub(crate) mixed: u64,
    /// Interactive transactions refused.
    pub(crate) refused: u64,
}

impl Default for Races {
    fn default() -> Self {
        Self {
            rounds: 0,
            orders: vec![BTreeSet::new(); SCENARIOS.len()],
            together: 0,
            interleaved: 0,
            adjacent: 0,
            violations: 0,
            replays: 0,
            adopted: 0,
            mixed: 0,
            refused: 0,
        }
    }
}

impl AddAssign<&Stats> for Races {
    fn add_assign(&mut self, stats: &Stats) {
        self.violations += stats.violations;
        self.replays += stats.replays;
        self.adopted += stats.adopted;
        self.mixed += stats.mixed_windows;
    }
}

/// Without the orders, which are long.
impl std::fmt::Display for Races {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rounds, together, interleaved, adjacent, violations, replays, adopted, refused, .. } =
            self;
        write!(
            f,
            "{rounds} rounds, {together} in one window, {interleaved} interleaved, {adjacent} adjacent; "
        )?;
        write!(f, "{violations} violations, {replays} windows replayed, {adopted} speculations adopted, ")?;
        write!(f, "{refused} refused")
    }
}

impl Races {
    fn count(&mut self, round: Round, history: &History, window_of: impl Fn(Position) -> usize) {
        self.rounds += 1;
        let order = history.order();
        for (i, &earlier) in order.iter().enumerate() {
            order[i + 1..].iter().for_each(|&later| _ = self.orders[round.number].insert((earlier, later)));
        }
        let mut at: Vec<_> = history.ran.iter().filter_map(|ran| ran.at).collect();
        at.sort_unstable();
        let windows: BTreeSet<_> = at.iter().map(|&position| window_of(position)).collect();
        self.together += u64::from(windows.len() < at.len());
        let spread = at[at.len() - 1].0 - at[0].0;
        if spread < at.len() as u64 {
            self.adjacent += 1;
        } else {
            self.interleaved += 1;
        }
    }

    /// Fails unless in every scenario each of two transactions was the first at times, and unless transactions of
    /// one round met in a window.
    pub(crate) fn assert_raced(&self) {
        for (scenario, orders) in SCENARIOS.iter().zip(&self.orders) {
            let transactions = scenario.transactions.len();
            assert_eq!(orders.len(), transactions * (transactions - 1), "{}: {orders:?}", scenario.name);
        }
        assert!(self.together > self.rounds / 10, "{self:?}");
        assert!(self.interleaved > self.rounds / 10 && self.adjacent > self.rounds / 100, "{self:?}");
        assert!(self.mixed > 0, "{self:?}");
    }
}

/// Goes through the plan, batch by batch. `setup` gets the rounds of a batch; then `client` runs on all clients, each
/// with its turns, as (round, transaction). Returns all that they tell.
fn on_all_clients<T: Send>(
    plan: &[Round],
    alone: bool,
    mut setup: impl FnMut(&[Round]),
    client: impl Fn(&mut dyn Iterator<Item = (usize, usize)>) -> Vec<T> + Sync,
) -> Vec<T> {
    let mut told = Vec::new();
    for batch in 0..plan.len().div_ceil(BATCH) {
        setup(&plan[batch * BATCH..plan.len().min((batch + 1) * BATCH)]);
        // Nothing fails before it: a client that fails leaves nobody waiting.
        let (client, barrier) = (&client, &Barrier::new(CLIENTS));
        thread::scope(|scope| {
            let run = |i| {
                scope.spawn(move || {
                    barrier.wait();
                    client(&mut turns(plan, batch, i, alone))
                })
            };
            let clients: Vec<_> = (0..CLIENTS).map(run).collect();
            told.extend(clients.into_iter().flat_map(|client| client.join().expect("a client")));
        });
    }
    told
}

/// The transactions of a batch that are this client's, as (round, transaction). Clients change from round to round,
/// so that none of them is always first; in every second batch each client begins somewhere else; and if asked for,
/// in every third batch a round is all one client's, so that nobody comes in between: whoever has the first turn is
/// first, though the machine has one core.
fn turns(plan: &[Round], batch: usize, client: usize, alone: bool) -> impl Iterator<Item = (usize, usize)> {
    let first = batch * BATCH;
    let count = BATCH.min(plan.len() - first);
    let shift = if batch.is_multiple_of(2) { 0 } else { client * count / CLIENTS };
    let alone = alone && batch % 3 == 2;
    (0..count).flat_map(move |i| {
        let round = first + (i + shift) % count;
        let (transactions, begins) = (plan[round].scenario().transactions.len(), plan[round].turn);
        let turn = move |t: usize| (t + begins) % transactions;
        let mine = move |t: &usize| (if alone { round } else { round + t }) % CLIENTS == client;
        (0..transactions).map(turn).filter(mine).map(move |t| (round, t))
    })
}

fn open(config: Config) -> (Arc<dyn SharedLog>, Engine) {
    let log: Arc<dyn SharedLog> = Arc::new(MemoryLog::new());
    let engine = config.builder().open(Arc::clone(&log)).expect("it opens");
    (log, engine)
}

/// Checks all histories, and that replays of the log agree.
fn conclude(
    config: Config,
    log: &Arc<dyn SharedLog>,
    engine: Engine,
    plan: &[Round],
    mut told: Vec<(usize, usize, Ran)>,
    races: &mut Races,
) {
    let snapshot = engine.snapshot();
    let digest = engine.digest();
    assert_eq!(digest.state, snapshot.state_digest(), "kept up, and from scratch");
    told.sort_by_key(|&(round, transaction, _)| (round, transaction));
    let mut ran = vec![Vec::new(); plan.len()];
    told.into_iter().for_each(|(round, _, told)| ran[round].push(told));
    let rounds: Vec<_> = plan
        .iter()
        .zip(ran)
        .map(|(&round, ran)| (round, History { ran, left: round.place.rows(&snapshot) }))
        .collect();
    for (round, history) in &rounds {
        history.check(round.scenario(), round.place);
    }
    drop(snapshot);
    *races += &engine.stats();
    engine.close().expect("it closes");
    let oracle = builder().mode(Mode::Sequential).threads(1).replay(Arc::clone(log)).expect("it opens");
    assert_eq!(oracle.to_end().expect("it replays"), digest, "{config:?}: one by one");
    // In a replay all windows are full, and their borders are known.
    let borders = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&borders);
    let replay = config
        .builder()
        .on_progress(move |tail, _| seen.lock().expect("no panic").push(tail))
        .replay(Arc::clone(log))
        .expect("it opens");
    assert_eq!(replay.to_end().expect("it replays"), digest, "{config:?}: replayed");
    *races += &replay.stats();
    let borders = borders.lock().expect("no panic");
    for (round, history) in &rounds {
        races.count(*round, history, |position| borders.partition_point(|&tail| tail <= position));
    }
}

/// Races `rounds` of each scenario as procedures. `says` tells what the transaction of a round says of its footprint.
pub(crate) fn procedures(
    config: Config,
    rounds: usize,
    shift: usize,
    says: impl Fn(u64, usize) -> Says + Sync,
    races: &mut Races,
) {
    let (log, engine) = open(config);
    let plan = plan(rounds, shift);
    let submit = |place: Place, steps: Vec<Step>, says| {
        engine.submit(&Script { place, steps, says }).expect("it is submitted")
    };
    let mut setups = Vec::new();
    let tickets = on_all_clients(
        &plan,
        true,
        |rounds| setups.extend(rounds.iter().map(|round| submit(round.place, round.setup(), Says::Exact))),
        |turns| {
            turns
                .map(|(i, transaction)| {
                    let Round { place, .. } = plan[i];
                    let steps = plan[i].scenario().transactions[transaction].to_vec();
                    (i, transaction, submit(place, steps, says(place.round, transaction)))
                })
                .collect()
        },
    );
    for setup in setups {
        let outcome = setup.wait().expect("an outcome");
        assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    }
    let ran = |outcome| {
        let (end, position, reads) = match outcome {
            Outcome::Committed { position, output } => (End::Committed, position, output),
            Outcome::Aborted { position, reason } => (End::Aborted, position, reason),
            Outcome::Panicked { message, .. } => panic!("{message}"),
        };
        Ran { end, reads, at: Some(position), after: false }
    };
    let told = tickets.into_iter().map(|(i, t, ticket)| (i, t, ran(ticket.wait().expect("an outcome"))));
    conclude(config, &log, engine, &plan, told.collect(), races);
}

/// Races `rounds` of each scenario as interactive transactions, tried again until they are not refused.
pub(crate) fn interactive(config: Config, rounds: usize, shift: usize, races: &mut Races) {
    let (log, engine) = open(config);
    let plan = plan(rounds, shift);
    let backoff = Backoff { attempts: 10_000, ..Backoff::default() };
    let setup = |rounds: &[Round]| {
        let mut setup = engine.begin();
        rounds.iter().for_each(|round| _ = take_all(&round.setup(), &mut setup, round.place));
        setup.commit().expect("nobody else is there");
    };
    let told = on_all_clients(&plan, false, setup, |turns| {
        turns
            .map(|(i, t)| {
                let (place, steps) = (plan[i].place, plan[i].scenario().transactions[t]);
                (i, t, transact(&engine, backoff, place, steps, i + t))
            })
            .collect()
    });
    races.refused += engine.stats().aborts;
    conclude(config, &log, engine, &plan, told, races);
}

fn transact(engine: &Engine, backoff: Backoff, place: Place, steps: &[Step], salt: usize) -> Ran {
    let mut began = None;
    let body = |t: &mut Transaction<'_>| {
        began = t.position();
        let mut reads: Vec<Rows> = Vec::new();
        for (i, step) in steps.iter().enumerate() {
            // Others get a chance to come in between.
            if (i + salt).is_multiple_of(3) {
                thread::yield_now();
            }
            if step.take(t, place, &mut reads).is_err() {
                return Err(reads);
            }
        }
        Ok(reads)
    };
    let (end, reads, at) = match engine.transact(backoff, body) {
        Ok((reads, at)) => (End::Committed, reads, at),
        Err(TransactError::Aborted(reads)) => (End::Aborted, reads, began),
        Err(TransactError::Commit(error)) => panic!("{error}"),
    };
    // Whoever wrote took place later than it began.
    Ran { end, reads, at, after: at == began }
}

/// The row of a counter that only grows; nothing else is in its round.
pub(crate) const COUNTER: Slot = 1;
