//! Power cuts under a storage unit: whatever of its journal's unsynced sectors survives, the unit that comes back has
//! answered as it would have after a prefix of its requests, all that it promised included: what was answered, or, of a
//! unit that buffers, what stood before a flush that was answered. Such a unit knows that it may have lost something,
//! and says that of whatever it does not have.
//!
//! What it must be is told by the machine itself without a disk: `Unit`, whose answers are compared with a table of all
//! states, verbs and epochs elsewhere.

mod damage;
mod faults;
mod lost;

use std::collections::BTreeSet;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use mixlog_log::corfu::{
    ClientId, EntryId, Epoch, Limits, Member, Reply, ReplyTo, Rules, Run, Unit, UnitFiles, UnitNumber,
    UnitReply, UnitRequest, UnitServer, UnitStorage, UnitVerb,
};
use mixlog_log::file::Storage;
use mixlog_log::{Batch, Block, Durability, LogId, Position};
use mixlog_simdisk::{Call, Cut, Disk, Failure, Fault, Kind, Note, Random, Sim};

use crate::script::PATIENCE;

const UNIT: UnitNumber = UnitNumber(1);
const LOG: LogId = LogId(0x5eed);

/// No script writes at a later position.
const MOST: u64 = 160;

/// One thing to ask of the unit.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many runs, each asked for when the one before was answered.
    Singles(u64),
    /// So many runs, all asked for at once.
    Burst(u64),
    /// The same, and what comes next is asked for before they are answered.
    Stream(u64),
    /// Makes everything durable.
    Flush,
    /// As if that was answered, and nobody asked for it.
    FlushClaimed,
    /// Junk in the next so many positions.
    Fill(u64),
    Trim(u64),
    Seal,
    /// Becomes another member, empty.
    Join,
    /// The process ends, and starts again.
    Restart,
}

const SCRIPTS: &[&[Step]] = &[
    &[
        Step::Singles(6),
        Step::Seal,
        Step::Burst(20),
        Step::Flush,
        Step::Fill(3),
        Step::Singles(4),
        Step::Seal,
        Step::Stream(3),
        Step::Flush,
    ],
    // Files that fill up, and are given up.
    &[
        Step::Burst(30),
        Step::Singles(8),
        Step::Trim(30),
        Step::Burst(30),
        Step::Seal,
        Step::Trim(80),
        Step::Singles(12),
        Step::Trim(100),
        Step::Singles(6),
    ],
    &[
        Step::Singles(5),
        Step::Restart,
        Step::Seal,
        Step::Burst(12),
        Step::Trim(9),
        Step::Restart,
        Step::Singles(5),
    ],
    &[
        Step::Burst(8),
        Step::Burst(12),
        Step::Trim(20),
        Step::Seal,
        Step::Burst(16),
        Step::Fill(2),
        Step::Burst(9),
        Step::Trim(45),
        Step::Burst(14),
        Step::Seal,
        Step::Burst(10),
    ],
    &[Step::Burst(15), Step::Seal, Step::Join, Step::Singles(9), Step::Trim(4), Step::Seal, Step::Singles(4)],
];

/// For units that buffer.
const BUFFERED: &[&[Step]] = &[
    &[
        Step::Singles(4),
        Step::Flush,
        Step::Burst(12),
        Step::Flush,
        Step::Seal,
        Step::Stream(9),
        Step::Flush,
        Step::Fill(3),
        Step::Flush,
        Step::Flush,
        Step::Singles(5),
    ],
    // Files that fill up, and are given up.
    &[
        Step::Stream(30),
        Step::Flush,
        Step::Trim(30),
        Step::Burst(30),
        Step::Flush,
        Step::Trim(70),
        Step::Seal,
        Step::Stream(12),
        Step::Flush,
        Step::Burst(8),
    ],
    &[
        Step::Burst(9),
        Step::Flush,
        Step::Restart,
        Step::Burst(9),
        Step::Join,
        Step::Flush,
        Step::Stream(9),
        Step::Seal,
        Step::Flush,
        Step::Singles(3),
    ],
];

/// How many random cuts there are after every call: more with MIXLOG_CUTS=N.
fn cuts() -> u64 {
    std::env::var("MIXLOG_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

/// A run of one to three entries of odd lengths. `who` tells runs at one position apart.
fn run(who: u64, first: u64) -> Run {
    let mut batch = Batch::new();
    for n in 0..first % 3 + 1 {
        let bytes = first.wrapping_mul(31).wrapping_add(n + who).to_le_bytes();
        let length = 8 + (first * 37 + n) % 300;
        batch.push(&bytes.into_iter().cycle().take(length as usize).collect::<Vec<_>>());
    }
    let id = EntryId { client: ClientId(who), sequence: first };
    Run::data(id, Arc::new(Block::of(Position(first), batch)))
}

/// What is done in a script.
enum Doing {
    Ask(UnitRequest),
    Claim,
    Restart,
}

/// What is done in a script, in order, and whether answers are waited for after it.
fn doings(steps: &[Step]) -> Vec<(Doing, bool)> {
    let (mut joined, mut epoch, mut next) = (Epoch(1), Epoch(1), 0);
    let mut all = Vec::new();
    let request =
        |joined, epoch, verb| Doing::Ask(UnitRequest { epoch, member: Member { unit: UNIT, joined }, verb });
    all.push((request(joined, epoch, UnitVerb::Join(LOG)), true));
    for step in steps {
        match *step {
            Step::Singles(count) | Step::Burst(count) | Step::Stream(count) => {
                for _ in 0..count {
                    let run = run(1, next);
                    next = run.end().0;
                    let waits = matches!(step, Step::Singles(_));
                    all.push((request(joined, epoch, UnitVerb::Write(run)), waits));
                }
                all.last_mut().expect("it is not empty").1 = !matches!(step, Step::Stream(_));
            }
            Step::Flush => all.push((request(joined, epoch, UnitVerb::Flush), true)),
            Step::FlushClaimed => all.push((Doing::Claim, true)),
            Step::Fill(count) => {
                let (from, upto) = (Position(next), Position(next + count));
                all.push((request(joined, epoch, UnitVerb::Fill { from, upto, bytes: 1 }), true));
                next += count;
            }
            Step::Trim(before) => {
                all.push((request(joined, epoch, UnitVerb::Trim(Position(before))), true));
            }
            Step::Seal => {
                epoch = Epoch(epoch.0 + 1);
                all.push((request(joined, epoch, UnitVerb::Seal), true));
            }
            Step::Join => {
                (joined, epoch, next) = (Epoch(epoch.0 + 1), Epoch(epoch.0 + 1), 0);
                all.push((request(joined, epoch, UnitVerb::Join(LOG)), true));
            }
            Step::Restart => all.push((Doing::Restart, true)),
        }
        assert!(next < MOST);
    }
    all
}

fn files(durability: Durability) -> UnitFiles {
    UnitFiles {
        segment_bytes: 12 << 10,
        run_bytes: 1 << 10,
        cache_bytes: 2 << 10,
        ..UnitFiles::new("not looked at", durability)
    }
}

/// What the boot is called in which everything happens, power cuts included: a unit that knows that there was another one shows
/// less of what is on the disk.
const BOOT: &str = "this boot";

fn machine(disk: Disk) -> Sim {
    let sim = Sim::boot(disk);
    sim.set_boot(BOOT);
    sim
}

/// The same disk, of which the unit believes what it finds.
fn believed(mut disk: Disk) -> Disk {
    if disk.names().iter().any(|name| name == "boot.lost") {
        disk.delete("boot.lost");
        disk.set_bytes("boot", BOOT.as_bytes().to_vec());
    }
    disk
}

fn open(files: &UnitFiles, storage: Arc<dyn Storage>) -> UnitServer {
    UnitServer::open_with_storage(UNIT, u64::MAX, files, storage).unwrap()
}

/// The answer to come.
fn send(unit: &UnitServer, request: UnitRequest) -> mpsc::Receiver<UnitReply> {
    let (sender, receiver) = mpsc::channel();
    let reply = ReplyTo::new(move |reply| {
        if let Some(Reply::Unit(reply)) = reply {
            let _ = sender.send(reply);
        }
    });
    unit.send(request, reply);
    receiver
}

fn ask(unit: &UnitServer, request: UnitRequest) -> UnitReply {
    send(unit, request).recv_timeout(PATIENCE).expect("it answers")
}

/// Asks for all before the first one is answered: to wait for each takes far longer than the unit does.
fn ask_all(unit: &UnitServer, requests: impl IntoIterator<Item = UnitRequest>) -> Vec<UnitReply> {
    let answers: Vec<_> = requests.into_iter().map(|request| send(unit, request)).collect();
    answers.into_iter().map(|answer| answer.recv_timeout(PATIENCE).expect("it answers")).collect()
}

/// The member that the unit is, if it is one.
fn member_of(unit: &UnitServer) -> Option<Member> {
    let nobody = Member { unit: UNIT, joined: Epoch(u64::MAX) };
    let who = ask(unit, UnitRequest { epoch: Epoch(0), member: nobody, verb: UnitVerb::Probe });
    let UnitReply::Stranger(member) = who else { panic!("nobody is that member: {who:?}") };
    member
}

/// What asks for all positions, one by one.
fn reads(epoch: Epoch, member: Member) -> impl Iterator<Item = UnitRequest> {
    (0..MOST).map(move |at| {
        let verb = UnitVerb::Read { from: Position(at), upto: Position(at + 1), bytes: 1 };
        UnitRequest { epoch, member, verb }
    })
}

fn is_good(answer: &UnitReply) -> bool {
    matches!(answer, UnitReply::Done | UnitReply::Standing(_) | UnitReply::Runs(_))
}

/// Does a script, and notes how many of its requests a power cut must leave.
fn record(steps: &[Step], config: &UnitFiles, fitful: Option<u64>) -> Sim {
    let sim = machine(Disk::default());
    if let Some(seed) = fitful {
        sim.set_fitful(seed);
    }
    let mut unit = open(config, sim.storage());
    let mut waiting = Vec::new();
    let mut asked = 0;
    let promised = |count| sim.note(Note::Acknowledged(Position(count)));
    for (doing, waits) in doings(steps) {
        match doing {
            Doing::Ask(request) => {
                asked += 1;
                // What was answered, or what was there when a flush was asked for.
                let promises = config.durability == Durability::Flushed || request.verb == UnitVerb::Flush;
                waiting.push((promises.then_some(asked), send(&unit, request)));
            }
            Doing::Claim => promised(asked),
            Doing::Restart => {
                // A unit that ends in good order leaves everything on the disk.
                drop(unit);
                promised(asked);
                unit = open(config, sim.storage());
            }
        }
        if waits {
            for (promises, answer) in waiting.drain(..) {
                let answer = answer.recv_timeout(PATIENCE).expect("it answers");
                assert!(is_good(&answer), "{answer:?}");
                if let Some(count) = promises {
                    promised(count);
                }
            }
        }
    }
    drop(unit);
    promised(asked);
    sim
}

/// What there is to see of a unit: who it is, how far it reaches, and what it has at each position.
#[derive(Debug, PartialEq, Eq)]
struct View(Option<Member>, Vec<UnitReply>);

/// What there is to see, by all answers to requests.
fn view(mut ask: impl FnMut(Vec<UnitRequest>) -> Vec<UnitReply>) -> View {
    let mut ask_one =
        |epoch, member| ask(vec![UnitRequest { epoch, member, verb: UnitVerb::Probe }]).remove(0);
    let nobody = Member { unit: UNIT, joined: Epoch(u64::MAX) };
    let UnitReply::Stranger(member) = ask_one(Epoch(0), nobody) else { panic!("nobody is that member") };
    let Some(member) = member else { return View(None, Vec::new()) };
    // Of an epoch that is still to come it says which one it is at.
    let UnitReply::Behind(epoch) = ask_one(Epoch(u64::MAX), member) else { panic!("no epoch is that late") };
    let probe = UnitRequest { epoch, member, verb: UnitVerb::Probe };
    View(Some(member), ask(std::iter::once(probe).chain(reads(epoch, member)).collect()))
}

fn view_of(unit: &UnitServer) -> View {
    view(|requests| ask_all(unit, requests))
}

/// What there is to see after each number of a script's requests.
fn views(steps: &[Step]) -> Vec<View> {
    let requests = doings(steps).into_iter().filter_map(|(doing, _)| match doing {
        Doing::Ask(request) => Some(request),
        _ => None,
    });
    views_after(requests)
}

fn views_after(requests: impl IntoIterator<Item = UnitRequest>) -> Vec<View> {
    let limits = Limits { quota: u64::MAX, run_bytes: 1 << 10 };
    let mut unit = Unit::new(UNIT, limits, Rules::SOUND);
    let look = |unit: &Unit| {
        let mut unit = unit.clone();
        let mut answer = |request| unit.handle(request, &mut Vec::new()).load(|_| None);
        view(|requests| requests.into_iter().map(&mut answer).collect())
    };
    let mut all = vec![look(&unit)];
    for request in requests {
        unit.handle(request, &mut Vec::new());
        all.push(look(&unit));
    }
    all
}

#[derive(Debug, Default)]
struct Tally {
    states: BTreeSet<u64>,
    more_than_promised: u64,
    sealed: u64,
    trimmed: u64,
    /// Of units that know that they may have lost something: how many positions they have, and how many they say so of.
    kept: u64,
    corrupt: u64,
    /// How often a unit came back without what it had promised.
    forgotten: u64,
}

struct Crashes<'a> {
    expected: &'a [View],
    config: &'a UnitFiles,
    random: Random,
    tally: Tally,
    /// Whether requests that were not answered may have been refused, and later ones not: there was no space for them.
    refuses: bool,
}

impl Crashes<'_> {
    /// Starts the unit on what a crash left, and crashes it `depth` times more while it starts. Returns how many requests
    /// it remembers.
    fn recover(&mut self, disk: &Disk, promised: usize, depth: u32) -> usize {
        self.tally.states.insert(disk.fingerprint());
        let disk = &believed(disk.clone());
        let sim = machine(disk.clone());
        let unit = open(self.config, sim.storage());
        let found = view_of(&unit);
        let remembers = self.remembers(&found, promised);
        self.tally.forgotten += u64::from(remembers < promised);
        self.tally.more_than_promised += u64::from(remembers > promised);
        if let Some(UnitReply::Standing(standing)) = found.1.first() {
            self.tally.sealed += u64::from(standing.epoch > Epoch(1));
            self.tally.trimmed += u64::from(standing.trimmed > Position::ZERO);
        }
        if self.config.durability == Durability::Buffered && self.random.one_in(2) {
            self.says_what_it_may_have_lost(disk, &found);
        }
        if depth == 0 {
            return remembers;
        }
        // Whoever asked now was told: the next power cut takes nothing of it, if it was flushed.
        if self.random.one_in(4) {
            if let Some(member) = found.0 {
                let UnitReply::Standing(standing) = found.1[0] else { panic!("{:?}", found.1[0]) };
                let flush = UnitRequest { epoch: standing.epoch, member, verb: UnitVerb::Flush };
                assert_eq!(ask(&unit, flush), UnitReply::Done);
            }
            let seen = sim.disk().after(Cut::Nothing, &mut self.random);
            let again = self.recover(&seen, remembers, 0);
            assert_eq!(self.expected[again], found);
        }
        // No position gets another value.
        if let Some(member) = found.0
            && self.random.one_in(4)
        {
            self.takes_no_other_value(&unit, member, &found);
        }
        drop(unit);
        // The start is itself cut off.
        let trace = sim.trace();
        let calls = self.random.below(trace.len() as u64 + 1) as usize;
        let mut disk = disk.clone();
        trace[..calls].iter().filter(|call| !matches!(call, Call::Note(_))).for_each(|call| disk.apply(call));
        let cut = disk.after(Cut::Some, &mut self.random);
        if self.random.one_in(2) {
            self.recover(&cut, promised, depth - 1);
        }
        remembers
    }

    /// How many requests there must have been for a unit to show that. Several states look alike where one changed nothing.
    fn remembers(&self, found: &View, promised: usize) -> usize {
        let remembers = (0..self.expected.len()).rev().find(|n| self.expected[*n] == *found);
        let without_refused = || {
            let later = &self.expected[promised..];
            let is_of_one = |at: usize, answer| later.iter().any(|view| view.1.get(at) == Some(answer));
            let is_sound = found.0 == later[0].0
                && found.1.len() == later[0].1.len()
                && (1..).zip(&found.1[1..]).all(|(at, answer)| is_of_one(at, answer));
            (self.refuses && is_sound).then_some(promised)
        };
        remembers
            .or_else(without_refused)
            .unwrap_or_else(|| panic!("no prefix of the requests: {promised} {found:?}"))
    }

    /// The machine went down under a unit that buffers: what is on the disk is answered as ever, and the rest may be lost.
    fn says_what_it_may_have_lost(&mut self, disk: &Disk, whole: &View) {
        let mut disk = disk.clone();
        disk.set_bytes("boot", b"another boot\n".to_vec());
        let unit = open(&files(Durability::Buffered), machine(disk).storage());
        let found = member_of(&unit);
        let Some(member) = whole.0 else {
            // It may have joined, and lost that.
            return assert!(found.is_none_or(|found| found == lost::NOBODY), "{found:?}");
        };
        assert_eq!(found, Some(member));
        // Whatever the epoch: it may have lost a seal.
        let answers = ask_all(&unit, reads(Epoch(u64::MAX), member));
        for ((at, whole), found) in (0..).map(Position).zip(&whole.1[1..]).zip(answers) {
            if matches!(whole, UnitReply::Runs(runs) if runs.is_empty()) {
                assert_eq!(found, UnitReply::Corrupt(at));
                self.tally.corrupt += 1;
            } else {
                assert_eq!(found, *whole);
                self.tally.kept += 1;
            }
        }
        for verb in [UnitVerb::Seal, UnitVerb::Flush] {
            let answer = ask(&unit, UnitRequest { epoch: Epoch(9), member, verb });
            assert!(matches!(answer, UnitReply::Corrupt(_) | UnitReply::Behind(_)), "{answer:?}");
        }
    }

    fn takes_no_other_value(&mut self, unit: &UnitServer, member: Member, found: &View) {
        let UnitReply::Standing(standing) = found.1[0] else { panic!("{:?}", found.1[0]) };
        let epoch = standing.epoch;
        let write = |at| UnitRequest { epoch, member, verb: UnitVerb::Write(run(2, at)) };
        // What was refused because there was no space is unwritten, and may get one.
        let is_unwritten =
            |at: &u64| matches!(&found.1[1 + *at as usize], UnitReply::Runs(runs) if runs.is_empty());
        let written: Vec<_> = (0..standing.reach.0).filter(|at| !is_unwritten(at)).collect();
        for (at, answer) in written.iter().zip(ask_all(unit, written.iter().copied().map(write))) {
            let refused = matches!(answer, UnitReply::Taken(_) | UnitReply::Trimmed(_));
            assert!(refused, "{at}: {answer:?}");
        }
        // Nor do sealed epochs come back.
        let earlier = UnitRequest { epoch: Epoch(epoch.0 - 1), member, verb: UnitVerb::Write(run(2, MOST)) };
        assert_eq!(ask(unit, earlier), UnitReply::Sealed(epoch));
    }
}

fn cut_script(steps: &[Step], durability: Durability, seed: u64, fitful: bool, tally: &mut Tally) {
    let config = files(durability);
    let (sim, expected) = (record(steps, &config, fitful.then_some(seed)), views(steps));
    let tally_before = std::mem::take(tally);
    let mut crashes = Crashes {
        expected: &expected,
        config: &config,
        random: Random(seed),
        tally: tally_before,
        refuses: false,
    };
    let (mut disk, mut promised, mut seen) = (Disk::default(), 0, BTreeSet::new());
    for call in sim.trace() {
        disk.apply(&call);
        if let Call::Note(Note::Acknowledged(count)) = call {
            promised = promised.max(count.0 as usize);
        }
        let mut kinds = vec![Cut::Some; cuts() as usize];
        kinds.extend([Cut::Nothing, Cut::Everything]);
        for cut in kinds {
            let after = disk.after(cut, &mut crashes.random);
            if seen.insert((after.fingerprint(), promised)) {
                crashes.recover(&after, promised, 2);
            }
        }
    }
    assert_eq!(promised, expected.len() - 1, "in the end everything is durable");
    *tally = crashes.tally;
}

/// Every script, also with writes that the disk takes in pieces.
fn cut_all(scripts: &[&[Step]], durability: Durability) -> Tally {
    let mut tally = Tally::default();
    for (seed, steps) in (11..).zip(scripts) {
        cut_script(steps, durability, seed, false, &mut tally);
        cut_script(steps, durability, seed + 50, true, &mut tally);
    }
    let Tally { states, more_than_promised, sealed, trimmed, kept, corrupt, forgotten } = &tally;
    println!(
        "{durability}: {} distinct disks, {more_than_promised} with more than was promised, {forgotten} with less, \
         {sealed} sealed, {trimmed} trimmed; after another boot {kept} positions kept, {corrupt} corrupt",
        states.len()
    );
    tally
}

#[test]
fn power_cut_at_every_call_under_a_unit_leaves_a_prefix_of_its_requests() {
    let tally = cut_all(SCRIPTS, Durability::Flushed);
    assert_eq!(tally.forgotten, 0);
    assert!(tally.states.len() >= 2000, "{}", tally.states.len());
    assert!(tally.more_than_promised > 0 && tally.sealed > 0 && tally.trimmed > 0);
}

#[test]
fn power_cut_at_every_call_under_a_unit_that_buffers_leaves_what_it_said_was_flushed() {
    let tally = cut_all(BUFFERED, Durability::Buffered);
    assert_eq!(tally.forgotten, 0);
    assert!(tally.states.len() >= 1000, "{}", tally.states.len());
    assert!(tally.more_than_promised > 0 && tally.sealed > 0 && tally.trimmed > 0);
    assert!(tally.kept > 0 && tally.corrupt > 0);
}

/// What the test above would say of a unit that answers flushes and does nothing.
#[test]
fn flush_that_was_claimed_and_not_done_is_found_out() {
    let claims: &[&[Step]] = &[&[Step::Burst(12), Step::FlushClaimed, Step::Burst(5), Step::FlushClaimed]];
    assert!(cut_all(claims, Durability::Buffered).forgotten > 0);
}

fn joined(unit: &UnitServer) -> impl Fn(UnitVerb) -> UnitRequest + use<> {
    let member = Member { unit: UNIT, joined: Epoch(1) };
    let request = move |verb| UnitRequest { epoch: Epoch(1), member, verb };
    let answer = ask(unit, request(UnitVerb::Join(LOG)));
    assert!(matches!(answer, UnitReply::Standing(_)), "{answer:?}");
    request
}

#[test]
fn directory_of_another_unit_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let storage = UnitStorage::Files(UnitFiles::new(directory.path(), Durability::Flushed));
    let unit = UnitServer::open(UNIT, u64::MAX, &storage).unwrap();
    let joined = joined(&unit);
    assert_eq!(ask(&unit, joined(UnitVerb::Write(run(1, 0)))), UnitReply::Done);
    drop(unit);
    let other = UnitNumber(UNIT.0 + 1);
    let refused = UnitServer::open(other, u64::MAX, &storage).expect_err("it is refused");
    let text = refused.to_string();
    assert!(text.ends_with(&format!("is the directory of unit {}, and not of unit {other}", UNIT)), "{text}");
    // Nothing was changed.
    let unit = UnitServer::open(UNIT, u64::MAX, &storage).unwrap();
    let read = UnitVerb::Read { from: Position(0), upto: Position(1), bytes: 1 };
    assert!(matches!(ask(&unit, joined(read)), UnitReply::Runs(runs) if runs == [run(1, 0)]));
}

#[test]
fn unit_whose_journal_cannot_be_written_tells_why_and_goes_on_when_opened_again() {
    for (durability, kind, error) in [
        (Durability::Flushed, Kind::Write, 28),
        (Durability::Flushed, Kind::Sync, 5),
        (Durability::Buffered, Kind::Write, 5),
    ] {
        let config = files(durability);
        let sim = machine(Disk::default());
        let unit = open(&config, sim.storage());
        let request = joined(&unit);
        assert_eq!(ask(&unit, request(UnitVerb::Write(run(1, 0)))), UnitReply::Done);
        assert_eq!(unit.failure(), None);
        sim.set_fault(Some(Fault { kind, after: 0, count: u64::MAX, error: Failure::Errno(error) }));
        // It tells before it leaves its clients in doubt.
        let answer = send(&unit, request(UnitVerb::Write(run(1, 1)))).recv_timeout(PATIENCE);
        assert_eq!(answer, Err(mpsc::RecvTimeoutError::Disconnected), "{kind:?}");
        let failure = unit.failure().expect("it has failed").to_owned();
        let os = std::io::Error::from_raw_os_error(error).to_string();
        for part in ["the journal in /sim cannot be written: ", &os] {
            assert!(failure.contains(part), "{failure}");
        }
        drop(unit);
        sim.set_fault(None);
        let unit = open(&config, sim.storage());
        assert_eq!(unit.failure(), None);
        let read = UnitVerb::Read { from: Position(0), upto: Position(1), bytes: 1 };
        assert_eq!(ask(&unit, request(read)), UnitReply::Runs(vec![run(1, 0)]));
        assert_eq!(ask(&unit, request(UnitVerb::Write(run(1, 1)))), UnitReply::Done);
    }
}

#[test]
fn unit_that_was_opened_again_reads_small_entries_many_at_a_time() {
    let config = UnitFiles { segment_bytes: 1 << 20, ..files(Durability::Flushed) };
    let sim = machine(Disk::default());
    let unit = open(&config, sim.storage());
    let request = joined(&unit);
    let mut runs = vec![run(1, 0)];
    while runs.len() < 300 {
        runs.push(run(1, runs.last().expect("there is one").end().0));
    }
    for run in &runs {
        assert_eq!(ask(&unit, request(UnitVerb::Write(run.clone()))), UnitReply::Done);
    }
    drop(unit);
    let unit = open(&config, sim.storage());
    // Each of these is 64 KiB long, and the journal has three of them.
    sim.set_fault(Some(Fault { kind: Kind::Read, after: 8, count: u64::MAX, error: Failure::Errno(5) }));
    for run in &runs {
        let read = UnitVerb::Read { from: run.first(), upto: run.end(), bytes: 1 };
        assert_eq!(ask(&unit, request(read)), UnitReply::Runs(vec![run.clone()]));
    }
    sim.set_fault(None);
}

/// A run of one entry that is as long as all others.
fn equal_run(first: u64, bytes: usize) -> Run {
    let mut batch = Batch::new();
    batch.push(&vec![1; bytes]);
    let id = EntryId { client: ClientId(1), sequence: first };
    Run::data(id, Arc::new(Block::of(Position(first), batch)))
}

#[test]
fn unit_whose_disk_is_full_refuses_entries_and_does_all_else_until_there_is_space() {
    let cases =
        [Durability::Flushed, Durability::Buffered].map(|d| [(d, 1, 200), (d, 40, 200), (d, 3, 4000)]);
    for (durability, at_once, bytes) in cases.concat() {
        // The largest runs need more than a quarter of a segment.
        let run_bytes = if bytes > 1000 { 4 << 10 } else { 1 << 10 };
        let config = UnitFiles { run_bytes, ..files(durability) };
        let sim = machine(Disk::default());
        let unit = open(&config, sim.storage());
        let request = joined(&unit);
        // Two segments or four, and a part of another one.
        sim.set_capacity(Some(64 << 10));
        let (mut next, mut written) = (0, Vec::new());
        let mut fill = |unit: &UnitServer, next: &mut u64| loop {
            let mut asked = Vec::new();
            for _ in 0..at_once {
                let run = equal_run(*next, bytes);
                *next = run.end().0;
                asked.push((send(unit, request(UnitVerb::Write(run.clone()))), run));
            }
            let mut refused = 0;
            for (answer, run) in asked {
                match answer.recv_timeout(PATIENCE).expect("it answers") {
                    UnitReply::Done => written.push(run),
                    UnitReply::Full => refused += 1,
                    other => panic!("{other:?}"),
                }
            }
            if refused == at_once {
                return written.len();
            }
        };
        let filled = fill(&unit, &mut next);
        assert!(filled * bytes > 12_000, "more than one segment is used: {filled}");
        assert_eq!(fill(&unit, &mut next), filled);
        let read =
            |first: u64, end: u64| UnitVerb::Read { from: Position(first), upto: Position(end), bytes: 1 };
        let mut end = 0;
        let first = equal_run(0, bytes);
        assert_eq!(ask(&unit, request(read(0, first.end().0))), UnitReply::Runs(vec![first.clone()]));
        // Holes are filled, and the unit may be restarted.
        for _ in 0..10 {
            let verb = UnitVerb::Fill { from: Position(next), upto: Position(next + 1), bytes: 1 };
            let answer = ask(&unit, request(verb));
            assert!(matches!(answer, UnitReply::Done | UnitReply::Runs(_)), "{answer:?}");
            next += 1;
            end = next;
        }
        assert_eq!(ask(&unit, request(UnitVerb::Flush)), UnitReply::Done);
        assert_eq!(unit.failure(), None);
        drop(unit);
        let unit = open(&config, sim.storage());
        assert_eq!(ask(&unit, request(read(0, first.end().0))), UnitReply::Runs(vec![first]));
        assert_eq!(fill(&unit, &mut next), filled);
        // What is given up makes space for more, and so does a larger disk.
        assert_eq!(ask(&unit, request(UnitVerb::Trim(Position(end)))), UnitReply::Done);
        let begun = Instant::now();
        let mut filled = filled;
        for capacity in [Some(64 << 10), None] {
            sim.set_capacity(capacity);
            loop {
                let run = equal_run(next, bytes);
                next = run.end().0;
                match ask(&unit, request(UnitVerb::Write(run))) {
                    UnitReply::Done => break,
                    UnitReply::Full => assert!(begun.elapsed() < PATIENCE, "the space is never used"),
                    other => panic!("{other:?}"),
                }
            }
            if capacity.is_some() {
                let refilled = fill(&unit, &mut next);
                assert!(refilled > filled, "the disk is used again");
                filled = refilled;
            }
        }
        assert_eq!(unit.failure(), None);
    }
}
