//! Footprints inferred for procedures that are drawn at random: whatever the rules, right, wrong, or none, the results
//! are those of one by one.

#[path = "support/random.rs"]
mod random;
#[path = "support/replay.rs"]
mod replay;

use std::sync::Arc;

use mixlog_engine::{Builder, ClientId, Engine, Footprint, Mode, Procedure, Sum, Table, Tx};
use mixlog_log::{MemoryLog, SharedLog};
use random::random;
use replay::{expect_panics, replay};
use serde::{Deserialize, Serialize};

type Log = Arc<dyn SharedLog>;

const ROWS: Table<u64, u64> = Table::new("rows");
const SIGNED: Table<(i32, Option<u8>), u64> = Table::new("signed");
const NAMED: Table<(String, u8), u64> = Table::new("named");
const FIXED: Table<[u32; 2], u64, mixlog_engine::Fixed> = Table::fixed("fixed");
const WATCHED: Table<u64, u64> = Table::new("watched").watched(|&key| key / 16);
const GROUPED: Table<(u32, u64), u64> =
    Table::new("grouped").grouped("group", |&(group, _)| u64::from(group)).ordered();
const RANGES: Table<u64, u64> = Table::new("ranges").ordered();
const SUMS: Table<u64, Sum> = Table::new("sums");
const WATCHED_SUMS: Table<u64, Sum> = Table::new("watched_sums").watched(|&key| key / 16);
const TABLES: u64 = 9;

/// A number that a key is made of.
#[derive(Clone, Copy, Debug)]
enum From {
    Argument(u64),
    Packed(u64, u64),
    Difference(u64, u64),
    Constant(u64),
    Hash(u64),
    /// Somewhere in the granule of an argument.
    Within(u64),
    /// What was read last.
    Row,
    Position,
}

/// What is done with a row.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Get,
    Add,
    Put,
    Delete,
    /// Reads a range, or asks whether a row takes merges.
    Scan,
}

/// One access, for the arguments or for each item.
#[derive(Clone, Copy, Debug)]
struct Step {
    table: u64,
    of_items: bool,
    key: [From; 2],
    deed: Deed,
    /// One of so many transactions does it, as an argument tells; nearly all programs do all always.
    one_of: u64,
}

/// What a procedure does: drawn from a seed.
#[derive(Debug)]
struct Program {
    steps: Vec<Step>,
    aborts: u64,
    panics: u64,
}

/// Draws numbers below others.
struct Draw(u64);

impl Draw {
    fn below(&mut self, most: u64) -> u64 {
        random(&mut self.0) % most
    }

    /// `follows`: from the arguments, though not always in a way that can be inferred.
    fn number(&mut self, follows: bool) -> From {
        match self.below(if follows { 33 } else { 40 }) {
            0..18 => From::Argument(self.below(6)),
            18..23 => From::Packed(self.below(6), self.below(6)),
            23..26 => From::Difference(self.below(6), self.below(6)),
            26..28 => From::Constant(self.below(3)),
            28..29 => From::Hash(self.below(6)),
            29..33 => From::Within(self.below(6)),
            33..36 => From::Row,
            _ => From::Position,
        }
    }

    fn step(&mut self, follows: bool) -> Step {
        let deed = match self.below(16) {
            0..4 => Deed::Get,
            4..11 => Deed::Add,
            11..13 => Deed::Put,
            13..15 => Deed::Delete,
            _ => Deed::Scan,
        };
        // Ranges follow from rows.
        let table =
            if follows && matches!(deed, Deed::Scan) { 7 + self.below(2) } else { self.below(TABLES) };
        Step {
            table,
            of_items: self.below(6) == 0,
            key: [self.number(follows), self.number(follows)],
            deed,
            one_of: if self.below(20) == 0 { 2 + self.below(50) } else { 1 },
        }
    }
}

impl Program {
    fn new(seed: u64) -> Self {
        let mut draw = Draw(seed);
        let follows = !seed.is_multiple_of(4);
        let steps = (0..1 + draw.below(4)).map(|_| draw.step(follows)).collect();
        Self { steps, aborts: 20 + draw.below(60), panics: 50 + draw.below(500) }
    }
}

/// What is done about an item.
#[derive(Debug, Serialize, Deserialize)]
enum Kind {
    Skipped,
    Counted(u8),
    Marked { by: Option<u8> },
}

#[derive(Debug, Serialize, Deserialize)]
struct Item {
    number: u32,
    kind: Kind,
}

/// What the whole is about.
#[derive(Debug, Serialize, Deserialize)]
enum About {
    Nothing,
    One(u16),
    Two { first: u32, second: i16 },
}

/// Runs a program on its arguments. Each `NUMBER` is a procedure of its own.
#[derive(Debug, Serialize, Deserialize)]
struct Run<const NUMBER: usize> {
    program: u64,
    large: u64,
    note: String,
    small: u8,
    signed: i32,
    name: String,
    option: Option<u16>,
    about: About,
    items: Vec<Item>,
}

const PROCEDURES: [&str; 5] = ["run_0", "run_1", "run_2", "run_3", "run_4"];

impl<const NUMBER: usize> Run<NUMBER> {
    fn draw(program: u64, seed: &mut u64) -> Self {
        let mut draw = |below: u64| random(seed) % below;
        let kind = |drawn: u64| match drawn % 8 {
            0 => Kind::Skipped,
            1 => Kind::Marked { by: (drawn & 64 == 0).then_some(drawn as u8) },
            _ => Kind::Counted(drawn as u8),
        };
        let items = (0..draw(5)).map(|_| Item { number: draw(500) as u32, kind: kind(draw(256)) }).collect();
        let about = match draw(16) {
            0 => Self::about_two(draw(300), draw(40)),
            1..4 => About::One(draw(300) as u16),
            _ => About::Nothing,
        };
        Self {
            program,
            large: draw(200),
            note: "n".repeat(draw(4) as usize),
            small: draw(30) as u8,
            signed: draw(200) as i32 - 100,
            name: ["", "ada", "bob", "cy"][draw(4) as usize].to_owned(),
            option: (draw(4) == 0).then(|| draw(100) as u16),
            about,
            items,
        }
    }

    fn about_two(first: u64, second: u64) -> About {
        About::Two { first: first as u32, second: second as i16 - 20 }
    }

    fn argument(&self, which: u64, item: Option<&Item>) -> u64 {
        match (which, item) {
            (0, Some(item)) => item.number.into(),
            (1, Some(Item { kind: Kind::Counted(count) | Kind::Marked { by: Some(count) }, .. })) => {
                u64::from(*count)
            }
            (0, _) => self.large,
            (1, _) => self.small.into(),
            (2, _) => i64::from(self.signed) as u64,
            (3, _) => self.option.map_or(7, u64::from),
            (4, _) => match self.about {
                About::Nothing => 3,
                About::One(number) => number.into(),
                About::Two { first, second } => u64::from(first).wrapping_add(i64::from(second) as u64),
            },
            _ => self.large + u64::from(self.small),
        }
    }

    fn number(&self, from: From, item: Option<&Item>, read: u64, tx: &Tx<'_>) -> u64 {
        match from {
            From::Argument(which) => self.argument(which, item),
            From::Packed(high, low) => {
                self.argument(high, item).wrapping_shl(8).wrapping_add(self.argument(low, item))
            }
            From::Difference(one, other) => {
                self.argument(one, item).wrapping_sub(self.argument(other, item)).wrapping_add(1000)
            }
            From::Constant(number) => number,
            From::Hash(which) => random(&mut self.argument(which, item)) % 300,
            From::Within(which) => {
                let argument = self.argument(which, item);
                argument.wrapping_mul(16).wrapping_add(random(&mut argument.clone()) % 16)
            }
            From::Row => read % 300,
            From::Position => tx.position().0,
        }
    }

    /// Does it; gives what it saw.
    fn step(&self, step: &Step, item: Option<&Item>, read: u64, tx: &mut Tx<'_>) -> u64 {
        let [key, second] = step.key.map(|from| self.number(from, item, read, tx));
        macro_rules! with {
            ($table:expr, $key:expr, $to:expr) => {{
                let (table, key) = (&$table, $key);
                match step.deed {
                    Deed::Get => tx.get(table, &key).map_or(1, |value| *value),
                    Deed::Add => {
                        let value = tx.get_or_put(table, key, || 0);
                        *value = value.wrapping_mul(3).wrapping_add(second ^ 5);
                        *value
                    }
                    Deed::Put => {
                        tx.put(table, key, second);
                        2
                    }
                    Deed::Delete => tx.delete(table, &key).into(),
                    Deed::Scan => $to(key, tx),
                }
            }};
        }
        macro_rules! sums {
            ($table:expr) => {
                match step.deed {
                    Deed::Get => tx.get(&$table, &key).map_or(1, |sum| sum.0 as u64),
                    Deed::Delete => tx.delete(&$table, &key).into(),
                    Deed::Scan => tx.can_merge(&$table, &key).into(),
                    Deed::Add | Deed::Put => tx.merge(&$table, key, second as i64 % 100).into(),
                }
            };
        }
        let text =
            if matches!(step.key[1], From::Constant(_)) { "constant".to_owned() } else { self.name.clone() };
        match step.table {
            0 => with!(ROWS, key, |_, _: &mut Tx<'_>| 0),
            1 => with!(SIGNED, (key as i32, self.option.map(|o| o as u8)), |_, _: &mut Tx<'_>| 0),
            2 => with!(NAMED, (text, key as u8), |_, _: &mut Tx<'_>| 0),
            3 => with!(FIXED, [key as u32, second as u32], |_, _: &mut Tx<'_>| 0),
            4 => with!(WATCHED, key, |_, _: &mut Tx<'_>| 0),
            5 => with!(GROUPED, (key as u32, second), |(group, from), tx: &mut Tx<'_>| {
                tx.range(&GROUPED, (group, from)..=(group, u64::MAX))
                    .take(3)
                    .map(|(_, value)| value / 3)
                    .sum()
            }),
            6 => with!(RANGES, key, |from, tx: &mut Tx<'_>| {
                tx.range(&RANGES, from..).take(3).map(|(_, value)| value / 3).sum()
            }),
            7 => sums!(SUMS),
            _ => sums!(WATCHED_SUMS),
        }
    }
}

impl<const NUMBER: usize> Procedure for Run<NUMBER> {
    const NAME: &'static str = PROCEDURES[NUMBER];
    type Output = u64;
    type Abort = u64;

    fn footprint(&self, f: &mut Footprint<'_>) {
        if NUMBER == 0 {
            // Declared or not, the rest is to be found.
            f.write(&ROWS, &self.large);
        }
        f.reconnoitre();
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, u64> {
        let program = Program::new(self.program);
        let mut seen = 0u64;
        for step in &program.steps {
            if !self.large.is_multiple_of(step.one_of) {
                continue;
            }
            if !step.of_items {
                seen = seen.wrapping_mul(31).wrapping_add(self.step(step, None, seen, tx));
            }
            for item in self.items.iter().filter(|_| step.of_items) {
                if !matches!(item.kind, Kind::Skipped) {
                    seen = seen.wrapping_mul(31).wrapping_add(self.step(step, Some(item), seen, tx));
                }
            }
        }
        assert!(seen % program.panics != program.panics / 2, "drawn to panic");
        if seen % program.aborts == program.aborts / 2 { Err(seen) } else { Ok(seen) }
    }
}

fn builder() -> Builder {
    let builder = Engine::builder().table(&ROWS).table(&SIGNED).table(&NAMED).table(&FIXED).table(&WATCHED);
    let builder = builder.table(&GROUPED).table(&RANGES).table(&SUMS).table(&WATCHED_SUMS);
    let builder = builder.procedure::<Run<0>>().procedure::<Run<1>>().procedure::<Run<2>>();
    builder.procedure::<Run<3>>().procedure::<Run<4>>()
}

/// Submits a transaction, some as a client's, and some of these twice.
fn submit<const NUMBER: usize>(engine: &Engine, number: u64, program: u64, state: &mut u64) {
    let run = Run::<NUMBER>::draw(program, state);
    if !number.is_multiple_of(8) {
        return drop(engine.submit(&run).unwrap());
    }
    let client = engine.client(ClientId(number / 8 % 3));
    for _ in 0..1 + u64::from(number.is_multiple_of(32)) {
        drop(client.submit(number, &run).unwrap());
    }
}

/// A log of so many transactions of programs drawn from a seed; some programs are exchanged on the way.
fn record(seed: u64, transactions: u64, all_follow: bool) -> Log {
    let log: Log = Arc::new(MemoryLog::new());
    let engine = builder().threads(1).mode(Mode::Sequential).open(Arc::clone(&log)).unwrap();
    let mut state = seed;
    for number in 0..transactions {
        let which = random(&mut state) % 5;
        // The first two stay, the others change at different times, and their arguments look the same.
        let age = if which < 2 { 0 } else { (number + which * 100) / (transactions / 3) };
        let program = random(&mut (seed ^ which << 32 ^ age << 40));
        let program = if all_follow { program | 1 } else { program };
        let submit = [submit::<0>, submit::<1>, submit::<2>, submit::<3>, submit::<4>][which as usize];
        submit(&engine, number, program, &mut state);
    }
    engine.close().unwrap();
    log
}

#[test]
fn procedures_drawn_at_random_do_what_they_do_one_by_one() {
    expect_panics("drawn to panic");
    let seeds = std::env::var("MIXLOG_INFER_SEEDS").map_or(8, |seeds| seeds.parse().expect("a number"));
    let (mut inferred, mut reconnoitred, mut wrong, mut panics) = (0, 0, 0, 0);
    // Seeds that found something stay.
    for seed in (1..=seeds).chain([49]) {
        let all_follow = seed % 2 == 1;
        let log = record(seed, 5000, all_follow);
        let expected = replay(&log, builder().threads(1).mode(Mode::Sequential)).0;
        for (threads, window) in [(1, 64), (2, 16), (2, 64), (4, 32), (8, 128), (8, 1024)] {
            let builder = builder().threads(threads).window(window).mode(Mode::Parallel);
            let (digest, stats) = replay(&log, builder);
            assert_eq!(digest, expected, "seed {seed}, {threads} threads, window {window}: {stats:?}");
            // Each replay finds what was wrong, so that somebody learns from it.
            assert!(stats.violations >= stats.replays, "seed {seed}, {threads} threads: {stats:?}");
            inferred += stats.inferred;
            reconnoitred += stats.reconnoitred;
            if all_follow {
                wrong += stats.violations;
            }
            panics += stats.panics;
        }
        if all_follow {
            // Where all follows from arguments, what is found is right: only rules are wrong.
            let builder = builder().threads(2).window(64).mode(Mode::Parallel).infer(false);
            let (digest, stats) = replay(&log, builder);
            assert_eq!(
                (digest, stats.inferred, stats.violations),
                (expected, 0, 0),
                "seed {seed}: {stats:?}"
            );
        }
    }
    println!("{inferred} inferred, {reconnoitred} ran ahead, {wrong} wrongly inferred, {panics} panics");
    assert!(inferred > 0 && reconnoitred > 0 && wrong > 0 && panics > 0);
}
