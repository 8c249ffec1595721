//! Footprints inferred from arguments: of what kinds of keys and arguments, and what happens when they are wrong.

#[path = "support/random.rs"]
mod random;
#[path = "support/replay.rs"]
mod replay;

use std::sync::Arc;

use mixlog_engine::{
    Builder, ClientId, DecodeError, Engine, Footprint, Merge, Mode, Never, Procedure, Stats, Sum, Table, Tx,
};
use mixlog_log::{MemoryLog, Position, SharedLog};
use random::random;
use replay::{expect_panics, replay};
use serde::{Deserialize, Serialize};
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes, little_endian};

type Log = Arc<dyn SharedLog>;

fn record(builder: Builder, calls: impl Fn(&Engine)) -> Log {
    let log: Log = Arc::new(MemoryLog::new());
    let engine = builder.threads(1).mode(Mode::Sequential).open(Arc::clone(&log)).unwrap();
    calls(&engine);
    engine.close().unwrap();
    log
}

/// Replays with several numbers of threads and windows, each with the result of one by one; gives what was counted.
///
/// Windows are small beside the logs: up to two of them are prepared before rules that the first one led to are known,
/// and whoever searches may not get a core for longer than that.
fn replays(log: &Log, builder: impl Fn() -> Builder) -> Vec<Stats> {
    let expected = replay(log, builder().threads(1).mode(Mode::Sequential)).0;
    let all = [(1, 256), (2, 16), (2, 256), (4, 64), (8, 128)].map(|(threads, window)| {
        let (digest, stats) = replay(log, builder().threads(threads).window(window).mode(Mode::Parallel));
        assert_eq!(digest, expected, "{threads} threads, window {window}");
        (threads, stats)
    });
    // A single thread executes one by one, and needs no footprints.
    all.into_iter().filter(|(threads, _)| *threads > 1).map(|(_, stats)| stats).collect()
}

/// Of so many transactions so many must have had their footprints inferred, and none wrongly.
#[track_caller]
fn assert_inferred(all: &[Stats], at_least: u64) {
    for stats in all {
        assert_eq!((stats.violations, stats.replays), (0, 0), "{stats:?}");
        assert!(stats.inferred >= at_least, "{at_least} of {stats:?}");
    }
}

const ACCOUNTS: Table<u64, i64> = Table::new("accounts");
const NAMED: Table<(String, u8), i64> = Table::new("named");
const PACKED: Table<u64, i64, mixlog_engine::Fixed> = Table::fixed("packed");
const BALANCES: Table<Balance, i64> = Table::new("balances");
const JOURNAL: Table<u64, i64> = Table::new("journal").ordered();
const STOCK: Table<Place, i64, mixlog_engine::Fixed> =
    Table::fixed("stock").watched(|place| place.shelf.get().into());
const ORDERS: Table<(u32, u32), Vec<u32>> =
    Table::new("orders").grouped("shop", |&(shop, _)| u64::from(shop));
const NUMBERS: Table<u32, u32> = Table::new("numbers").grouped("shop", |&shop| u64::from(shop));
const POINTER: Table<u8, u64> = Table::new("pointer");
const TOTALS: Table<u64, Sum> = Table::new("totals");
const OPEN: Table<u64, Open> = Table::new("open");
const BOXES: Table<u64, Sum> = Table::new("boxes").watched(|&number| number / 16);
const SHELVES: Table<u64, i64> = Table::new("shelves").watched(|&number| {
    assert!(number < 5000, "no such shelf");
    number / 10
});

fn builder() -> Builder {
    let builder = Engine::builder().table(&ACCOUNTS).table(&NAMED).table(&PACKED).table(&BALANCES);
    let builder = builder.table(&JOURNAL).table(&STOCK).table(&ORDERS).table(&NUMBERS).table(&POINTER);
    let builder =
        builder.procedure::<Transfer>().procedure::<Book>().procedure::<Pick>().procedure::<PlaceOrder>();
    let builder =
        builder.procedure::<Follow>().procedure::<Scatter>().procedure::<Turn>().procedure::<Refuse>();
    let builder = builder.table(&TOTALS).table(&OPEN).procedure::<Attach>().procedure::<Count>();
    builder
        .table(&SHELVES)
        .table(&BOXES)
        .procedure::<Opaque>()
        .procedure::<Before>()
        .procedure::<Fits>()
        .procedure::<Partly>()
        .procedure::<Compare>()
}

/// A key that is an enum.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
enum Balance {
    Cash(i32),
    Of { name: char, part: Option<u16> },
}

/// A key that lies in memory as bytes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, IntoBytes, TryFromBytes, KnownLayout, Immutable,
)]
#[repr(C)]
struct Place {
    shelf: little_endian::U32,
    item: little_endian::U32,
}

/// Moves an amount between two accounts.
#[derive(Debug, Serialize, Deserialize)]
struct Transfer {
    from: u64,
    to: u64,
    amount: i64,
}

impl Procedure for Transfer {
    const NAME: &'static str = "transfer";
    type Output = i64;
    type Abort = i64;

    fn run(&self, tx: &mut Tx<'_>) -> Result<i64, i64> {
        let from = tx.get_or_put(&ACCOUNTS, self.from, || 100);
        *from -= self.amount;
        let left = *from;
        *tx.get_or_put(&ACCOUNTS, self.to, || 100) += self.amount;
        if left < -50 { Err(left) } else { Ok(left) }
    }
}

#[test]
fn keys_that_are_arguments_are_inferred_and_aborts_are_no_matter() {
    let log = record(builder(), |engine| {
        let mut seed = 1;
        for _ in 0..3000 {
            let (from, to, amount) =
                (random(&mut seed) % 300, random(&mut seed) % 300, random(&mut seed) % 60);
            drop(engine.submit(&Transfer { from, to, amount: amount as i64 }).unwrap());
        }
    });
    let all = replays(&log, builder);
    assert_inferred(&all, 1800);
    assert!(all.iter().all(|stats| stats.aborts > 100), "{all:?}");
    for stats in replays(&log, || builder().infer(false)) {
        assert_eq!((stats.inferred, stats.reconnoitred), (0, 3000));
    }
}

#[test]
fn transactions_of_clients_are_inferred_too_and_have_one_effect() {
    let log = record(builder(), |engine| {
        let clients: Vec<_> = (0..5).map(|id| engine.client(ClientId(id))).collect();
        let mut seed = 2;
        for number in 0..3000u64 {
            let transfer = Transfer { from: random(&mut seed) % 300, to: random(&mut seed) % 300, amount: 1 };
            let client = &clients[number as usize % 5];
            drop(client.submit(number / 5, &transfer).unwrap());
            if number % 7 == 0 {
                drop(client.submit(number / 5, &transfer).unwrap());
            }
        }
    });
    let all = replays(&log, builder);
    assert_inferred(&all, 1800);
    assert!(all.iter().all(|stats| stats.repeats > 400), "{all:?}");
}

/// Texts, characters, signed numbers, options and enums in keys, a row at the transaction's position.
#[derive(Debug, Serialize, Deserialize)]
struct Book {
    note: String,
    name: String,
    initial: char,
    district: u8,
    warehouse: u16,
    part: Option<u16>,
    cash: i32,
}

impl Procedure for Book {
    const NAME: &'static str = "book";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        *tx.get_or_put(&NAMED, (self.name.clone(), 200), || 0) += 1;
        *tx.get_or_put(&NAMED, ("total".to_owned(), self.district), || 0) += 1;
        *tx.get_or_put(&PACKED, u64::from(self.warehouse) << 40 | u64::from(self.district), || 0) += 1;
        tx.get_or_put(&BALANCES, Balance::Cash(self.cash), || 0);
        *tx.get_or_put(&BALANCES, Balance::Of { name: self.initial, part: self.part }, || 0) += 1;
        tx.put(&JOURNAL, tx.position().0, self.cash.into());
        Ok(())
    }
}

#[test]
fn keys_of_many_types_are_inferred() {
    let log = record(builder(), |engine| {
        let mut seed = 3;
        for _ in 0..3000 {
            let r = random(&mut seed);
            let name = ["ada", "bob", "cy", "d"][r as usize % 4].to_owned();
            let initial = ['a', 'ö', '東', '\u{1f600}'][(r >> 8) as usize % 4];
            let part = (r & 1 << 20 != 0).then_some((r >> 24) as u16 % 30);
            let (district, warehouse, cash) = ((r >> 32) as u8, (r >> 40) as u16, (r >> 50) as i32 % 40 - 20);
            let note = "n".repeat((r >> 16) as usize % 9);
            drop(engine.submit(&Book { note, name, initial, district, warehouse, part, cash }).unwrap());
        }
    });
    assert_inferred(&replays(&log, builder), 1800);
}

/// What is done with an item.
#[derive(Debug, Serialize, Deserialize)]
enum Action {
    Look,
    Take(u16),
    Skip,
}

#[derive(Debug, Serialize, Deserialize)]
struct Item {
    shelf: Option<u32>,
    item: u32,
    action: Action,
}

/// Items of a list, each in its own way; a shelf of its own or the order's.
#[derive(Debug, Serialize, Deserialize)]
struct Pick {
    shelf: u32,
    items: Vec<Item>,
    /// Of no interest, and long.
    label: Vec<u8>,
}

impl Procedure for Pick {
    const NAME: &'static str = "pick";
    type Output = i64;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<i64, Never> {
        let mut sum = 0;
        for Item { shelf, item, action } in &self.items {
            let place = Place { shelf: shelf.unwrap_or(self.shelf).into(), item: (*item).into() };
            match action {
                Action::Look => sum += tx.get(&STOCK, &place).copied().unwrap_or(-1),
                Action::Take(count) => *tx.get_or_put(&STOCK, place, || 1000) -= i64::from(*count),
                Action::Skip => {}
            }
        }
        Ok(sum)
    }
}

#[test]
fn keys_of_list_elements_are_inferred_by_what_kind_of_element_it_is() {
    let log = record(builder(), |engine| {
        let mut seed = 4;
        for _ in 0..3000 {
            let mut item = || {
                let r = random(&mut seed);
                let action = match r % 4 {
                    0 => Action::Skip,
                    1 => Action::Look,
                    _ => Action::Take(1),
                };
                Item {
                    shelf: (r & 64 != 0).then_some((r >> 8) as u32 % 20),
                    item: (r >> 16) as u32 % 5000,
                    action,
                }
            };
            let items = (0..8).map(|_| item()).collect();
            let r = random(&mut seed);
            let label = vec![7; r as usize % 300];
            drop(engine.submit(&Pick { shelf: (r >> 32) as u32 % 20, items, label }).unwrap());
        }
    });
    let all = replays(&log, builder);
    assert_inferred(&all, 1500);
    // What is only looked at is not declared as written.
    let parallelism =
        |builder: Builder| replay(&log, builder.threads(2).mode(Mode::Parallel)).1.parallelism();
    let (inferred, found) = (parallelism(builder()), parallelism(builder().infer(false)));
    assert!(inferred > found * 0.9, "{inferred} {found}");
}

/// The next order of a shop: its number is in a row, but in the same granule as the order.
#[derive(Debug, Serialize, Deserialize)]
struct PlaceOrder {
    shop: u32,
    lines: Vec<u32>,
}

impl Procedure for PlaceOrder {
    const NAME: &'static str = "place_order";
    type Output = u32;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<u32, Never> {
        let number = tx.get_or_put(&NUMBERS, self.shop, || 0);
        *number += 1;
        let number = *number;
        tx.put(&ORDERS, (self.shop, number), self.lines.clone());
        tx.delete(&ORDERS, &(self.shop, number / 2));
        Ok(number)
    }
}

#[test]
fn granules_are_inferred_where_rows_cannot_be() {
    let log = record(builder(), |engine| {
        let mut seed = 5;
        for _ in 0..3000 {
            let shop = random(&mut seed) as u32 % 50;
            drop(engine.submit(&PlaceOrder { shop, lines: vec![shop; shop as usize % 5] }).unwrap());
        }
    });
    assert_inferred(&replays(&log, builder), 1800);
}

/// Writes where a row points to, and something else turns that row.
#[derive(Debug, Serialize, Deserialize)]
struct Follow(u64);

impl Procedure for Follow {
    const NAME: &'static str = "follow";
    type Output = u64;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let offset = tx.get(&POINTER, &0).copied().unwrap_or(0);
        *tx.get_or_put(&ACCOUNTS, self.0 + offset, || 0) += 1;
        Ok(offset)
    }
}

/// Sets what [`Follow`] follows.
#[derive(Debug, Serialize, Deserialize)]
struct Turn(u64);

impl Procedure for Turn {
    const NAME: &'static str = "turn";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&POINTER, &0);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&POINTER, 0, self.0);
        Ok(())
    }
}

#[test]
fn rules_that_were_right_for_long_cost_a_replay_when_they_are_wrong_and_are_found_anew() {
    let log = record(builder(), |engine| {
        let mut seed = 6;
        for number in 0..12_000 {
            if number % 4000 == 2000 {
                drop(engine.submit(&Turn(number)).unwrap());
            }
            drop(engine.submit(&Follow(random(&mut seed) % 1000)).unwrap());
        }
    });
    for stats in replays(&log, builder) {
        // One for each turn, and now and then one whose guess was made before the turn.
        assert!((1..=9).contains(&stats.replays), "{stats:?}");
        assert!(stats.inferred > 1000, "{stats:?}");
        assert!(stats.inferred > 6000 || stats.windows < 500, "{stats:?}");
    }
}

/// Writes where nothing but a run can tell.
#[derive(Debug, Serialize, Deserialize)]
struct Scatter(u64);

impl Procedure for Scatter {
    const NAME: &'static str = "scatter";
    type Output = u64;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let place = random(&mut self.0.clone()) % 5000;
        *tx.get_or_put(&ACCOUNTS, place, || 0) += 1;
        Ok(place)
    }
}

#[test]
fn what_does_not_follow_from_arguments_runs_ahead_as_ever() {
    let log = record(builder(), |engine| (0..5000).for_each(|i| drop(engine.submit(&Scatter(i)).unwrap())));
    for stats in replays(&log, builder) {
        assert_eq!((stats.inferred, stats.violations, stats.reconnoitred), (0, 0, 5000), "{stats:?}");
    }
}

/// Touches one row more when it refuses or panics, which the others do not.
#[derive(Debug, Serialize, Deserialize)]
struct Refuse(u64);

impl Procedure for Refuse {
    const NAME: &'static str = "refuse";
    type Output = u64;
    type Abort = u64;

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, u64> {
        *tx.get_or_put(&ACCOUNTS, self.0, || 0) += 1;
        if self.0.is_multiple_of(97) {
            *tx.get_or_put(&ACCOUNTS, self.0 / 97 + 10_000, || 0) += 1;
        }
        assert!(!self.0.is_multiple_of(101), "one in a hundred and one");
        if self.0 % 97 == 1 { Err(self.0) } else { Ok(self.0) }
    }
}

#[test]
fn rare_ways_of_a_procedure_end_in_replays_that_get_rarer() {
    expect_panics("one in a hundred and one");
    let log = record(builder(), |engine| {
        let mut seed = 7;
        (0..20_000).for_each(|_| drop(engine.submit(&Refuse(random(&mut seed) % 5000)).unwrap()));
    });
    for stats in replays(&log, builder) {
        assert!(stats.panics > 100 && stats.aborts > 100, "{stats:?}");
        // 200 of the transactions take the rare way.
        assert!(stats.replays < 12, "{stats:?}");
    }
}

/// What most transactions do not do, and later ones do.
#[derive(Debug, Serialize, Deserialize)]
enum Attach {
    One(u64),
    Two { account: u64, other: u64 },
    Many(Vec<u64>),
}

impl Procedure for Attach {
    const NAME: &'static str = "attach";
    type Output = ();
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        let accounts = match self {
            Self::One(account) => vec![*account],
            Self::Two { account, other } => vec![*account, *other],
            Self::Many(accounts) => accounts.clone(),
        };
        for account in accounts {
            *tx.get_or_put(&ACCOUNTS, account, || 0) += 1;
        }
        Ok(())
    }
}

#[test]
fn arguments_of_another_shape_run_ahead_until_they_have_rules_of_their_own() {
    let log = record(builder(), |engine| {
        let mut seed = 8;
        for number in 0..6000 {
            let r = random(&mut seed);
            let (account, other) = (r % 1000, (r >> 32) % 1000);
            let attach = match number {
                0..2000 => Attach::One(account),
                2000..4000 => Attach::Two { account, other },
                _ if r & 1 << 20 == 0 => {
                    Attach::Many((0..r >> 60).map(|i| (account + i * other) % 1000).collect())
                }
                _ => Attach::One(account),
            };
            drop(engine.submit(&attach).unwrap());
        }
    });
    assert_inferred(&replays(&log, builder), 3500);
}

/// A row that must be there to be merged into.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Open(i64);

impl Merge for Open {
    type Delta = i64;

    fn accepts(row: Option<&Self>) -> bool {
        row.is_some()
    }

    fn merge(row: &mut Option<Self>, delta: i64, _: Position) {
        row.as_mut().expect("it accepts merges").0 += delta;
    }
}

/// Merges into a total, and into a row that nobody opens, if it may.
#[derive(Debug, Serialize, Deserialize)]
struct Count(u64);

impl Procedure for Count {
    const NAME: &'static str = "count";
    type Output = bool;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<bool, Never> {
        tx.merge(&TOTALS, self.0, 1);
        Ok(tx.can_merge(&OPEN, &self.0) && tx.merge(&OPEN, self.0, 1))
    }
}

#[test]
fn merges_are_inferred_and_asking_whether_a_row_takes_one_is_reading_it() {
    let log = record(builder(), |engine| (0..3000).for_each(|i| drop(engine.submit(&Count(i % 7)).unwrap())));
    let all = replays(&log, builder);
    assert_inferred(&all, 1800);
    assert!(all.iter().all(|stats| stats.pooled_merges > 1800), "{all:?}");
}

#[test]
fn rules_are_explained_in_the_words_of_the_arguments() {
    let log = record(builder(), |engine| {
        let mut seed = 9;
        for _ in 0..400 {
            let r = random(&mut seed);
            let (from, to) = (r % 300, (r >> 16) % 300);
            drop(engine.submit(&Transfer { from, to, amount: 1 }).unwrap());
            let item = |i: u64| Item {
                shelf: (r >> i & 1 == 1).then_some(random(&mut (r + i)) as u32 % 20),
                item: random(&mut (r + 2 * i)) as u32 % 5000,
                action: if r >> (i + 20) & 1 == 1 { Action::Look } else { Action::Take(1) },
            };
            let items = (0..1 + r % 8).map(item).collect();
            drop(engine.submit(&Pick { shelf: (r >> 32) as u32 % 20, items, label: Vec::new() }).unwrap());
            drop(engine.submit(&PlaceOrder { shop: r as u32 % 50, lines: Vec::new() }).unwrap());
        }
    });
    let replay = builder().threads(2).mode(Mode::Parallel).explain(1).replay(log).unwrap();
    replay.to_end().unwrap();
    let explanation = replay.explain();
    let text = explanation.to_string();
    let text = &text[text.find("footprints that follow").expect("there are some")..];
    let expected = [
        "footprints that follow from arguments",
        "  transfer",
        "    write  accounts  from",
        "    write  accounts  to",
        "  pick",
        "    read   stock  4294967296 * item + shelf  for each of items if shelf is none, action is Look",
        "    write  stock  4294967296 * item + shelf  for each of items if shelf is none, action is Take",
        "    read   stock  shelf + 4294967296 * item  for each of items if shelf is some, action is Look",
        "    write  stock  shelf + 4294967296 * item  for each of items if shelf is some, action is Take",
        "  place_order",
        "    write  numbers  shop",
        "",
    ];
    assert_eq!(text.split('\n').collect::<Vec<_>>(), expected);
}

/// Has a format of its own, and thinks that nobody will ever use another one.
#[derive(Debug, Deserialize)]
struct Opaque(u64);

impl Serialize for Opaque {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("not to be serialized")
    }
}

impl Procedure for Opaque {
    const NAME: &'static str = "opaque";
    type Output = i64;
    type Abort = Never;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bytes = bytes.try_into().map_err(|_| DecodeError::new("not eight bytes"))?;
        Ok(Self(u64::from_le_bytes(bytes)))
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<i64, Never> {
        let count = tx.get_or_put(&ACCOUNTS, self.0, || 0);
        *count += 1;
        Ok(*count)
    }
}

#[test]
fn arguments_that_panic_when_they_are_serialized_run_ahead() {
    expect_panics("not to be serialized");
    let log =
        record(builder(), |engine| (0..3000).for_each(|i| drop(engine.submit(&Opaque(i % 100)).unwrap())));
    for stats in replays(&log, builder) {
        let Stats { inferred, violations, reconnoitred, panics, .. } = stats;
        assert_eq!((inferred, violations, reconnoitred, panics), (0, 0, 3000, 0), "{stats:?}");
    }
}

/// Takes something from the shelf before the one that is named, if there is one.
#[derive(Debug, Serialize, Deserialize)]
struct Before(u64);

impl Procedure for Before {
    const NAME: &'static str = "before";
    type Output = i64;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<i64, Never> {
        let Some(before) = self.0.checked_sub(1) else { return Ok(0) };
        let left = tx.get_or_put(&SHELVES, before, || 100);
        *left -= 1;
        Ok(*left)
    }
}

#[test]
fn keys_that_only_rules_make_up_may_have_granules_that_panic() {
    expect_panics("no such shelf");
    let log = record(builder(), |engine| {
        let mut seed = 9;
        for number in 0..6000 {
            // Shelf 0 is asked for when there are rules.
            let is_first = number > 2000 && number % 100 == 0;
            let shelf = if is_first { 0 } else { 1 + random(&mut seed) % 4000 };
            drop(engine.submit(&Before(shelf)).unwrap());
        }
    });
    for stats in replays(&log, builder) {
        assert_eq!((stats.violations, stats.panics), (0, 0), "{stats:?}");
        assert!(stats.inferred > 500, "{stats:?}");
    }
}

/// Asks one box of a shelf whether it takes anything, and no argument tells which.
#[derive(Debug, Serialize, Deserialize)]
struct Fits(u64);

impl Procedure for Fits {
    const NAME: &'static str = "fits";
    type Output = bool;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<bool, Never> {
        let which = 16 * self.0 + random(&mut self.0.clone()) % 16;
        *tx.get_or_put(&ACCOUNTS, self.0, || 0) += 1;
        Ok(tx.can_merge(&BOXES, &which))
    }
}

#[test]
fn who_may_read_a_granule_may_ask_whether_its_rows_take_merges() {
    let log =
        record(builder(), |engine| (0..3000).for_each(|i| drop(engine.submit(&Fits(i % 700)).unwrap())));
    assert_inferred(&replays(&log, builder), 1800);
}

/// Declares a row that no argument tells, and hardly ever reads it.
#[derive(Debug, Serialize, Deserialize)]
struct Partly(u64);

impl Procedure for Partly {
    const NAME: &'static str = "partly";
    type Output = u32;
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.read(&NUMBERS, &(random(&mut self.0.clone()) as u32)).reconnoitre();
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u32, Never> {
        *tx.get_or_put(&ACCOUNTS, self.0, || 0) += 1;
        let is_rare = self.0 == 699;
        Ok(if is_rare { *tx.get(&NUMBERS, &(random(&mut self.0.clone()) as u32)).unwrap_or(&7) } else { 0 })
    }
}

#[test]
fn what_is_declared_besides_need_not_be_inferred() {
    let log =
        record(builder(), |engine| (0..3000).for_each(|i| drop(engine.submit(&Partly(i % 700)).unwrap())));
    assert_inferred(&replays(&log, builder), 1800);
}

/// Merges into one total and reads another one, which later on may be the same.
#[derive(Debug, Serialize, Deserialize)]
struct Compare {
    merged: u64,
    read: u64,
}

impl Procedure for Compare {
    const NAME: &'static str = "compare";
    type Output = i64;
    type Abort = Never;

    fn run(&self, tx: &mut Tx<'_>) -> Result<i64, Never> {
        tx.merge(&TOTALS, self.merged, 1);
        Ok(tx.get(&TOTALS, &self.read).map_or(0, |sum| sum.0))
    }
}

#[test]
fn who_reads_what_it_merged_into_is_found_out_by_the_replay() {
    let log = record(builder(), |engine| {
        let mut seed = 10;
        for number in 0..8000 {
            let merged = random(&mut seed) % 1000;
            let read = if number > 2000 && number % 10 == 0 { merged } else { merged + 1000 };
            drop(engine.submit(&Compare { merged, read }).unwrap());
        }
    });
    for stats in replays(&log, builder) {
        assert!(stats.inferred > 0 && stats.replays > 0, "{stats:?}");
        assert!(stats.violations >= stats.replays && stats.replays < 20, "{stats:?}");
    }
}
