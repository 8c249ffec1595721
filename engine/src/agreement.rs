//! Agreement: engines that follow one log compare digests through the log itself.
//!
//! Windows end at every multiple of [`WINDOW_GRID`](crate::WINDOW_GRID), on every engine. There each *member* appends a
//! *vote*: the digest of its state and replies. Votes are entries, so all members read the same votes in the same order,
//! and draw the same conclusions from them at the same place; no other protocol is needed (Eve compares tokens of states
//! among replicas, OSDI 2012, section 3.3; the shared log stands for its agreement).
//!
//! ```text
//! .. 4095 │ 4096 .. vote A(4095) .. vote B(4095) .. vote C(4095) .. 8191 │ vote A(8191) ..
//!                                        │               └ C differs from what was agreed: it diverged
//!                                        └ two of three say the same: the state after 4095 is agreed
//! ```
//!
//! A vote on a position stands behind it, so whoever reads it has executed that position itself and kept its own digest.
//! What a majority of the members voted for is *agreed*. A member that has another digest stops right there, whether its
//! own vote was counted or not. When all have voted and no digest has a majority, as with two members that differ, all
//! stop right there, replay one by one, and vote again; the newest vote of each counts. When that does not help, nobody
//! can tell who is right, and all stop for good. Who is started after that, as with a build that was put right, goes past
//! it, and is compared at the next positions.
//!
//! A vote also tells sums by table and bucket of keys, so that the rows that differ can be named, and in which row formats
//! the digest is: states in others, of a build with other [versions](crate::Table::version) of tables, are not compared, but
//! for the replies. Each build agrees by itself, with a majority of all members.
//!
//! What an engine has executed and nobody has agreed on is in doubt, and must not outlive it: a member takes checkpoints
//! of agreed states only ([`AgreedState`]), and starts from none that the log's votes contradict ([`agreed_on`]).

mod state;
mod tally;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use mixlog_log::{AppendError, Batch, Position, SharedLog};
use serde::{Deserialize, Serialize};

use crate::checkpoint::RowFormat;
use crate::digest::Digest;
use crate::entry;
use crate::error::SubmitError;
use crate::observe;
use crate::pipeline::WINDOW_GRID;
use crate::snapshot::Snapshot;
use crate::store::{AnyTable, Store};

pub(crate) use state::AgreedState;
use tally::Tally;
pub(crate) use tally::agreed_on;

/// Appends entries that do nothing until the next multiple of [`WINDOW_GRID`], and tells the position that they are on. All
/// at once where the log takes so many.
pub(crate) fn pad(log: &dyn SharedLog) -> Result<Position, SubmitError> {
    let mut end = log.tail().map_err(AppendError::from)?.tail;
    let until = Position((end.0 / WINDOW_GRID + 1).saturating_mul(WINDOW_GRID));
    let mut most = WINDOW_GRID;
    while end < until {
        let entries = until.since(end).min(most);
        let mut batch = Batch::new();
        for _ in 0..entries {
            batch.push_with(entry::encode_padding);
        }
        match log.append(&batch).and_then(|appended| appended.wait()) {
            // Others may have appended in between, which fills it up as well.
            Ok(positions) => end = positions.end,
            Err(error) => most = fewer(entries, &error).ok_or(error)?,
        }
    }
    Ok(Position(end.0 / WINDOW_GRID * WINDOW_GRID - 1))
}

/// How many of so many equal entries the log takes at once, if it refused them for being too many.
fn fewer(entries: u64, error: &AppendError) -> Option<u64> {
    let fit = match *error {
        AppendError::TooLarge { size, limit } => entries.saturating_mul(limit as u64) / (size as u64).max(1),
        AppendError::TooMany { limit } => u64::from(limit),
        _ => 0,
    };
    (1..entries).contains(&fit).then_some(fit)
}

/// Into how many buckets the keys of a table are thrown.
pub(crate) const BUCKETS: usize = 32;

/// Of how many own digests, and of how many positions that others voted on, is kept track: members that are so many
/// multiples of the grid behind are still heard.
const POINTS: usize = 256;

/// Of how many of them, the newest, the states are kept, to name rows that differ and to take checkpoints of. They cost
/// the versions of all that changed since.
const STATES: usize = 8;

/// How many multiples of the grid a state is kept for that a checkpoint waits for, and the last one that was agreed.
const PINNED_FOR: usize = 64;

/// How many keys of a table a divergence names.
const NAMED: usize = 16;

/// Who an engine is among those that compare digests through their log. All members name the same members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The name of this one. One that is not among the members does not vote, and compares all the same.
    pub name: String,
    /// The names of all that vote. What more than half of them say is agreed: with three or more, one that diverges is
    /// found by the others; two can only tell that they differ.
    pub members: Vec<String>,
}

impl Membership {
    /// `name` among `members`.
    pub fn new<M: Into<String>>(name: impl Into<String>, members: impl IntoIterator<Item = M>) -> Self {
        Self { name: name.into(), members: members.into_iter().map(Into::into).collect() }
    }

    const fn quorum(&self) -> usize {
        self.members.len() / 2 + 1
    }

    fn votes(&self) -> bool {
        self.members.contains(&self.name)
    }

    fn counts(&self, vote: &Vote) -> bool {
        self.members.contains(&vote.member)
    }
}

/// A table in a vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TableSums {
    name: String,
    /// The hash of its row format.
    format: u64,
    /// The sums of its buckets, cut to 64 bits each.
    buckets: Vec<u64>,
}

/// What a member says of the state after a position; an entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vote {
    pub(crate) member: String,
    pub(crate) position: u64,
    state: u128,
    replies: u128,
    tables: Vec<TableSums>,
}

impl Vote {
    pub(crate) const fn digest(&self) -> Digest {
        Digest { position: Some(Position(self.position)), state: self.state, replies: self.replies }
    }

    /// Whether states in these formats can be compared with the one that it is on. Of a table that only one of them has,
    /// rows alone make the digests differ.
    fn fits(&self, formats: &Formats) -> bool {
        self.tables
            .iter()
            .all(|table| formats.0.get(&table.name).is_none_or(|format| *format == table.format))
    }
}

/// How the rows of tables become bytes, by the tables' names: a state that is written otherwise has another digest.
pub(crate) struct Formats(BTreeMap<String, u64>);

impl Formats {
    pub(crate) fn of<'a>(tables: impl IntoIterator<Item = (&'a str, RowFormat)>) -> Self {
        Self(tables.into_iter().map(|(name, format)| (name.to_owned(), format.hash())).collect())
    }
}

/// A table that two members have different rows of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Differing {
    /// The table's name.
    pub table: String,
    /// The buckets of keys that differ, of 32.
    pub buckets: Vec<u32>,
    /// Keys in these buckets, 16 at most. After a repair those whose rows differ; otherwise those whose rows changed since
    /// the last position that was agreed, which the ones that differ are among. None when no agreed state was at hand to
    /// compare with.
    pub keys: Vec<String>,
    /// When no agreed state was at hand: all rows that it has in these buckets. Those that differ are among them, but for
    /// rows that it lacks.
    pub suspects: Option<Suspects>,
}

/// Rows in buckets of keys that differ, when it cannot be told which of them do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Suspects {
    /// How many there are.
    pub rows: u64,
    /// Their keys, if there are 16 at most.
    pub keys: Vec<String>,
}

/// An engine that has another state than the members agreed on, or than any other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Divergence {
    /// Who it is.
    pub member: String,
    /// The position after which the states differ: a multiple of [`WINDOW_GRID`](crate::WINDOW_GRID), less 1.
    pub position: Position,
    /// The last position before, after which they were the same; `None` for the start of the log.
    pub agreed: Option<Position>,
    /// Its digest.
    pub own: Digest,
    /// The digest that was agreed; `None` when no majority has the same. Of members whose tables have other
    /// [versions](crate::Table::version) only the replies count.
    pub expected: Option<Digest>,
    /// Where the rows differ. Empty when only the replies do.
    pub tables: Vec<Differing>,
    /// Whether a sequential replay came to what was agreed, or, if nothing was, to another state than before.
    pub repaired: bool,
    /// Why it was not repaired, once that was tried in vain: the log was trimmed, and no checkpoint is at hand that leads to
    /// the others' state; or it comes to another state than they from wherever it starts. In the first case it takes another
    /// member's checkpoint to start anew, in the second one another build.
    pub hindrance: Option<String>,
    /// Where the vote stands that told.
    pub(crate) told_at: Position,
    /// The others have rows in other formats: only replies were compared, and of `expected` only they count.
    pub(crate) only_replies: bool,
}

impl Divergence {
    /// Whether this is what was agreed, or, if nothing was, another state than before.
    pub(crate) fn is_settled_by(&self, digest: &Digest) -> bool {
        match &self.expected {
            Some(expected) if self.only_replies => digest.replies == expected.replies,
            Some(expected) => digest == expected,
            None => *digest != self.own,
        }
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} diverged at or before position {}", self.member, self.position)?;
        match self.agreed {
            Some(agreed) => write!(f, ", after {agreed}: ")?,
            None => write!(f, ": ")?,
        }
        match self.expected {
            Some(expected) => write!(f, "its digest is {}, and {expected} is agreed", self.own)?,
            None => write!(f, "its digest is {}, and no majority has the same", self.own)?,
        }
        if self.only_replies {
            f.write_str("; replies differ, and the rows of the others are in other formats")?;
        } else if self.tables.is_empty() {
            f.write_str("; the rows are the same, replies differ")?;
        }
        for Differing { table, buckets, keys, suspects } in &self.tables {
            write!(f, "; table {table:?} differs in buckets {buckets:?} of {BUCKETS}")?;
            if !keys.is_empty() {
                write!(f, ", keys {}", keys.join(", "))?;
            }
            match suspects {
                Some(Suspects { rows, keys }) if keys.is_empty() => {
                    write!(f, ", in which it has {rows} rows")?;
                }
                Some(Suspects { keys, .. }) => {
                    write!(f, ", in which it has no rows but those of {}", keys.join(", "))?;
                }
                None => {}
            }
        }
        match &self.hindrance {
            Some(hindrance) => write!(f, "; it cannot be repaired from what is here: {hindrance}"),
            None => Ok(()),
        }
    }
}

/// How far members agree, for those who wait for it.
#[derive(Default)]
pub(crate) struct Agreed {
    /// Of each number of members, less 1: the digest at the last position on which so many had the same.
    confirmed: Mutex<Vec<Digest>>,
    advanced: Condvar,
}

impl Agreed {
    /// The digest at the last position on which `members` had the same.
    pub(crate) fn by(&self, members: usize) -> Option<Digest> {
        let confirmed = self.confirmed.lock().expect("no panic in a short section");
        members.checked_sub(1).and_then(|index| confirmed.get(index).copied())
    }

    fn note(&self, digest: Digest, members: usize) {
        let mut confirmed = self.confirmed.lock().expect("no panic in a short section");
        if confirmed.len() < members {
            confirmed.resize(members, digest);
        }
        for known in &mut confirmed[..members] {
            // Another one at the same position comes from a vote that was cast anew, and is what counts.
            if known.position <= digest.position {
                *known = digest;
            }
        }
        self.advanced.notify_all();
    }

    /// Wakes all who wait.
    pub(crate) fn wake(&self) {
        let _confirmed = self.confirmed.lock().expect("no panic in a short section");
        self.advanced.notify_all();
    }

    /// Waits until `members` agree on `position` or a later one; tells whether they do. Gives up when `timeout` has
    /// passed, or `stopped` says so.
    pub(crate) fn wait(
        &self,
        position: Position,
        members: usize,
        timeout: Duration,
        stopped: impl Fn() -> bool,
    ) -> bool {
        let begun = Instant::now();
        let mut confirmed = self.confirmed.lock().expect("no panic in a short section");
        loop {
            let known = members.checked_sub(1).and_then(|index| confirmed.get(index));
            if known.and_then(|digest| digest.position) >= Some(position) {
                return true;
            }
            let Some(left) = timeout.checked_sub(begun.elapsed()) else { return false };
            if stopped() {
                return false;
            }
            confirmed = self.advanced.wait_timeout(confirmed, left).expect("no panic in a short section").0;
        }
    }
}

/// An own digest, until it is agreed.
pub(crate) struct Point {
    pub(crate) position: Position,
    digest: Digest,
    tables: Vec<TableSums>,
    /// Gone when it took too long.
    pub(crate) snapshot: Option<Snapshot>,
}

impl Point {
    /// The state that `snapshot` sees. `buckets`: the sums of all tables' buckets.
    pub(crate) fn new(snapshot: Snapshot, digest: Digest, buckets: &[u128]) -> Self {
        let position = digest.position.expect("a window ended");
        let tables = table_sums(snapshot.store(), buckets);
        Self { position, digest, tables, snapshot: Some(snapshot) }
    }

    pub(crate) fn vote(&self, member: &str) -> Vote {
        let Digest { state, replies, .. } = self.digest;
        let (member, tables) = (member.to_owned(), self.tables.clone());
        Vote { member, position: self.position.0, state, replies, tables }
    }
}

fn table_sums(store: &Store, buckets: &[u128]) -> Vec<TableSums> {
    let tables = store.tables().zip(buckets.chunks(BUCKETS)).filter(|(table, _)| !table.is_derived());
    let cut = |sums: &[u128]| sums.iter().map(|sum| *sum as u64).collect();
    let of = |(table, sums): (&dyn AnyTable, &[u128])| TableSums {
        name: table.name().to_owned(),
        format: table.row_format().hash(),
        buckets: cut(sums),
    };
    tables.map(of).collect()
}

/// What a replica voted on, and where, before its state was built anew.
#[derive(Clone, Default)]
pub(crate) struct Earlier {
    /// Votes on earlier positions were cast before.
    pub(crate) vote_from: Position,
    /// Votes on positions before this one may be of states that were built anew since.
    pub(crate) settling_before: Position,
    /// Positions on which all differed, with where the vote stands that told.
    pub(crate) disputes: BTreeMap<Position, Position>,
}

impl Earlier {
    /// Of who has voted on nothing, and finds all before `tail` in the log.
    pub(crate) fn none(tail: Position) -> Self {
        Self { vote_from: tail, settling_before: tail, disputes: BTreeMap::new() }
    }

    /// Whether a vote on a position, which stands at `at`, was cast since the last dispute, which was on that position.
    fn renews(&self, position: Position, at: Position) -> bool {
        let last = self.disputes.iter().max_by_key(|&(_, told_at)| told_at);
        last.is_some_and(|(disputed, told_at)| *disputed == position && at > *told_at)
    }
}

/// One engine's view of the votes. Belongs to the leader, who calls it between windows.
pub(crate) struct Watch {
    membership: Membership,
    /// Of votes on states in other formats only the replies are compared.
    formats: Formats,
    earlier: Earlier,
    /// Where each member voted anew on what the last dispute was on: what it votes from there on is of a new state.
    renewed: BTreeMap<String, Position>,
    /// On what each member voted last.
    voted: BTreeMap<String, Position>,
    /// Members of whose votes some are on states in other formats.
    strangers: BTreeSet<String>,
    points: VecDeque<Point>,
    tallies: BTreeMap<Position, Tally>,
    agreed: Option<Position>,
    /// The state there, if it was still at hand, or at an earlier one.
    agreed_state: Arc<AgreedState>,
    /// Whose state is kept longer than those of others, for a checkpoint.
    pinned: Option<Position>,
    /// The entries before were looked at.
    next: Position,
}

impl Watch {
    pub(crate) fn new(
        membership: Membership,
        store: &Store,
        earlier: Earlier,
        agreed_state: Arc<AgreedState>,
    ) -> Self {
        let tables = store.tables().filter(|table| !table.is_derived());
        Self {
            membership,
            formats: Formats::of(tables.map(|table| (table.name(), table.row_format()))),
            earlier,
            renewed: BTreeMap::new(),
            voted: BTreeMap::new(),
            strangers: BTreeSet::new(),
            points: VecDeque::new(),
            tallies: BTreeMap::new(),
            agreed: None,
            agreed_state,
            pinned: None,
            next: Position::ZERO,
        }
    }

    /// Whether a digest is to be kept of the state before `tail`.
    pub(crate) fn wants(&self, tail: Position) -> bool {
        tail > Position::ZERO
            && tail.0.is_multiple_of(WINDOW_GRID)
            && self.points.back().is_none_or(|point| point.position.next() < tail)
    }

    /// Keeps a digest; returns the vote to be cast on it, if any.
    pub(crate) fn add(&mut self, point: Point) -> Option<Vote> {
        let vote = self.vote(&point);
        let tail = point.position.next();
        if self.pinned.is_none() && self.agreed_state.is_wanted() {
            self.pinned = Some(point.position);
        }
        self.points.push_back(point);
        self.give_up_old(tail);
        vote
    }

    fn vote(&self, point: &Point) -> Option<Vote> {
        let votes = self.membership.votes() && point.position >= self.earlier.vote_from;
        votes.then(|| point.vote(&self.membership.name))
    }

    /// From which position on it votes.
    pub(crate) const fn votes_from(&self) -> Position {
        self.earlier.vote_from
    }

    /// Votes from `position` on; returns the vote to be cast on the state there, which was kept.
    pub(crate) fn vote_from(&mut self, position: Position) -> Option<Vote> {
        self.earlier.vote_from = position;
        self.vote(self.points.iter().find(|point| point.position == position)?)
    }

    /// Forgets what is too far behind `tail`, the newest multiple of the grid.
    fn give_up_old(&mut self, tail: Position) {
        let before = |points: usize| Position(tail.0.saturating_sub(points as u64 * WINDOW_GRID));
        while self.points.front().is_some_and(|point| point.position < before(POINTS)) {
            self.points.pop_front();
        }
        self.tallies = self.tallies.split_off(&before(POINTS));
        self.pinned = self.pinned.filter(|pinned| *pinned >= before(PINNED_FOR));
        self.agreed_state.drop_before(before(PINNED_FOR));
        let too_old = self.points.iter_mut().take_while(|point| point.position < before(STATES));
        for point in too_old.filter(|point| self.pinned != Some(point.position)) {
            point.snapshot = None;
        }
    }

    pub(crate) fn take_point(&mut self, position: Position) -> Option<Point> {
        let index = self.points.iter().position(|point| point.position == position)?;
        self.points.remove(index)
    }

    /// Counts the vote that stands at `at`. The error is what it tells of this engine.
    pub(crate) fn count(&mut self, at: Position, vote: Vote, agreed: &Agreed) -> Result<(), Box<Divergence>> {
        if at < self.next || !self.membership.counts(&vote) {
            return Ok(());
        }
        self.next = at.next();
        let position = Position(vote.position);
        if position < at {
            self.voted.insert(vote.member.clone(), position);
            if self.voted.len() == self.membership.members.len() {
                let furthest_behind = self.voted.values().min().expect("there are members");
                self.agreed_state.all_voted(*furthest_behind);
            }
        }
        // Nobody needs to know of old ones, and there is no end to them.
        if position.0 < at.0.saturating_sub(POINTS as u64 * WINDOW_GRID) || position >= at {
            return Ok(());
        }
        let fits = vote.fits(&self.formats);
        if !fits && !self.strangers.contains(&vote.member) {
            observe::other_formats(&vote.member, at);
            self.strangers.insert(vote.member.clone());
        }
        if self.earlier.renews(position, at) {
            self.renewed.entry(vote.member.clone()).or_insert(at);
        }
        let tally = self.tallies.entry(position).or_default();
        if !fits {
            tally.add_stranger(vote);
            return self.judge_replies(position, at);
        }
        tally.add(vote, at);
        // However many agree on another state, they do not stand for this one and its replies. A digest that is not at
        // hand any more was agreed before, or never was this engine's: it started behind it.
        let own = self.points.iter().find(|point| point.position == position);
        let confirmed = match own {
            Some(own) => Some((own.digest, tally.like(&own.digest))),
            None if self.agreed >= Some(position) => {
                let (vote, count) = tally.most();
                Some((vote.digest(), count))
            }
            None => None,
        };
        let judged = self.judge(position, at).and_then(|()| self.judge_replies(position, at));
        // Whoever is woken by it finds the state that was agreed.
        if let Some((digest, count)) = confirmed {
            agreed.note(digest, count);
        }
        judged
    }

    /// What the votes on a position tell of this engine, the newest of which stands at `at`.
    fn judge(&mut self, position: Position, at: Position) -> Result<(), Box<Divergence>> {
        let tally = &self.tallies[&position];
        let (most, count) = tally.most();
        let own = self.points.iter().find(|point| point.position == position);
        if count >= self.membership.quorum() {
            if self.agreed >= Some(position) {
                return Ok(());
            }
            let Some(own) = own else { return Ok(()) };
            if own.digest != most.digest() {
                let tables = self.tables(own, most);
                return Err(self.divergence(own, Some(most.digest()), tables, at));
            }
            self.agree(position);
        } else if self.membership.votes()
            && tally.votes.len() == self.membership.members.len()
            && self.is_dispute(position, tally)
            && let Some(own) = own
        {
            let others = tally.votes.values().map(|(vote, _)| vote);
            let other = others.into_iter().find(|vote| vote.digest() != own.digest);
            let other = other.expect("no majority has the same");
            let tables = self.tables(own, other);
            return Err(self.divergence(own, None, tables, at));
        }
        Ok(())
    }

    /// Whether it is to be settled that all members differ: when it is new, or when all have replayed the last thing that
    /// they differed on, and voted since. What they voted before this engine was started is none of its business. A
    /// function of the log, but for when it was started.
    fn is_dispute(&self, position: Position, tally: &Tally) -> bool {
        match self.earlier.disputes.get(&position) {
            Some(told_at) => tally.votes.values().all(|(_, at)| at > told_at),
            None => {
                let is_new = |(member, (_, at)): (&String, &(Vote, Position))| {
                    self.renewed.get(member).is_some_and(|renewed| at > renewed)
                };
                position >= self.earlier.settling_before || tally.votes.iter().all(is_new)
            }
        }
    }

    /// What votes in other formats tell of this engine: their states cannot be compared, the replies can.
    fn judge_replies(&self, position: Position, at: Position) -> Result<(), Box<Divergence>> {
        let own = self.points.iter().find(|point| point.position == position);
        let expected = self.tallies[&position].replies(self.membership.quorum());
        match (own, expected) {
            (Some(own), Some(expected)) if expected.replies != own.digest.replies => {
                let mut divergence = self.divergence(own, Some(expected), Vec::new(), at);
                divergence.only_replies = true;
                Err(divergence)
            }
            _ => Ok(()),
        }
    }

    fn agree(&mut self, position: Position) {
        self.agreed = Some(position);
        while self.points.front().is_some_and(|point| point.position <= position) {
            let point = self.points.pop_front().expect("there is one");
            if let Some(snapshot) = point.snapshot
                && point.position == position
            {
                self.agreed_state.put(snapshot, point.digest);
            }
        }
        self.pinned = self.pinned.filter(|pinned| *pinned > position);
    }

    /// Where the rows differ from those of a vote.
    fn tables(&self, own: &Point, other: &Vote) -> Vec<Differing> {
        let mut tables = differing(&own.tables, &other.tables);
        match (self.agreed_state.newest(), &own.snapshot) {
            (Some((agreed, _)), Some(own)) => name_keys(&mut tables, &agreed, own),
            (None, Some(own)) => name_suspects(&mut tables, own),
            (_, None) => {}
        }
        tables
    }

    fn divergence(
        &self,
        own: &Point,
        expected: Option<Digest>,
        tables: Vec<Differing>,
        told_at: Position,
    ) -> Box<Divergence> {
        Box::new(Divergence {
            member: self.membership.name.clone(),
            position: own.position,
            agreed: self.agreed,
            own: own.digest,
            expected,
            tables,
            repaired: false,
            hindrance: None,
            told_at,
            only_replies: false,
        })
    }
}

/// The tables and buckets whose sums differ.
fn differing(own: &[TableSums], other: &[TableSums]) -> Vec<Differing> {
    let other: BTreeMap<&str, &Vec<u64>> =
        other.iter().map(|table| (table.name.as_str(), &table.buckets)).collect();
    let nothing = vec![0; BUCKETS];
    let differs = |TableSums { name, buckets, .. }: &TableSums| {
        let other = other.get(name.as_str()).copied().unwrap_or(&nothing);
        let pairs = (0u32..).zip(buckets.iter().zip(other));
        let buckets: Vec<_> = pairs.filter(|(_, (a, b))| a != b).map(|(number, _)| number).collect();
        (!buckets.is_empty()).then(|| Differing {
            table: name.clone(),
            buckets,
            keys: Vec::new(),
            suspects: None,
        })
    };
    own.iter().filter_map(differs).collect()
}

/// Fills in the keys, in the buckets that differ, whose rows are not the same in two states.
pub(crate) fn name_keys(tables: &mut [Differing], one: &Snapshot, other: &Snapshot) {
    for Differing { table, buckets, keys, suspects } in tables {
        let (Some(first), Some(second)) = (one.store().number_of(table), other.store().number_of(table))
        else {
            continue;
        };
        let is_in = |key: u64| buckets.contains(&bucket(key));
        let mut rows = BTreeMap::new();
        let first = one.store().any(first);
        first.visit_hashes_at(one.stamp(), &mut |key, row, _| {
            if is_in(key) {
                rows.insert(key, row);
            }
        });
        keys.clear();
        *suspects = None;
        other.store().any(second).visit_hashes_at(other.stamp(), &mut |key, row, name| {
            if is_in(key) && rows.remove(&key) != Some(row) {
                keys.push(name());
            }
        });
        if !rows.is_empty() {
            first.visit_hashes_at(one.stamp(), &mut |key, _, name| {
                if rows.contains_key(&key) {
                    keys.push(name());
                }
            });
        }
        keys.sort_unstable();
        keys.truncate(NAMED);
    }
}

/// Tells how many rows there are in the buckets that differ, and which, if they are few.
fn name_suspects(tables: &mut [Differing], own: &Snapshot) {
    for Differing { table, buckets, suspects, .. } in tables {
        let Some(number) = own.store().number_of(table) else { continue };
        let mut found = Suspects { rows: 0, keys: Vec::new() };
        own.store().any(number).visit_hashes_at(own.stamp(), &mut |key, _, name| {
            if buckets.contains(&bucket(key)) {
                found.rows += 1;
                if found.rows <= NAMED as u64 {
                    found.keys.push(name());
                }
            }
        });
        if found.rows > NAMED as u64 {
            found.keys.clear();
        }
        found.keys.sort_unstable();
        *suspects = Some(found);
    }
}

/// The bucket of a key, by its hash.
#[inline]
pub(crate) const fn bucket(key: u64) -> u32 {
    (key % BUCKETS as u64) as u32
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn vote(member: &str, position: Position, state: u128) -> Vote {
        Vote { member: member.to_owned(), position: position.0, state, replies: 0, tables: Vec::new() }
    }

    /// Two that differed on one position, and have both voted on later ones before they knew.
    #[test]
    fn later_votes_are_disputed_when_both_were_cast_by_states_that_were_built_anew() {
        let (store, _) = Store::new(&[], Vec::new(), 1);
        let grid = |n: u64| Position(n * WINDOW_GRID - 1);
        let (disputed, later, told_at) = (grid(2), grid(3), Position(12_290));
        let earlier = Earlier {
            vote_from: disputed,
            settling_before: told_at.next(),
            disputes: BTreeMap::from([(disputed, told_at)]),
        };
        let membership = Membership::new("a", ["a", "b"]);
        let mut watch = Watch::new(membership, &store, earlier, Arc::default());
        let agreed = Agreed::default();
        let mut cast = |at: u64, vote: Vote| {
            let position = Position(vote.position);
            watch.count(Position(at), vote, &agreed).unwrap();
            let tally = &watch.tallies[&position];
            tally.votes.len() == 2 && watch.is_dispute(position, tally)
        };
        // What was voted before the dispute, and what told of it.
        for (at, member, position) in [(12_288, "a", disputed), (12_289, "a", later), (12_290, "b", disputed)]
        {
            assert!(!cast(at, vote(member, position, u128::from(at))), "{at}");
        }
        // One has replayed; the other one does not know of it yet, and votes on what comes next.
        assert!(!cast(12_291, vote("a", disputed, 1)));
        assert!(!cast(12_292, vote("b", later, 2)));
        assert!(!cast(12_293, vote("a", later, 3)));
        // Now it has.
        assert!(cast(12_294, vote("b", disputed, 4)), "all have replayed, and differ again");
        assert!(cast(12_295, vote("b", later, 5)));
    }
}
