//! Servers that say what they should not: whatever it is, no operation panics, what it tells makes sense, and a log
//! ends its calls with errors.

use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use mixlog_log::corfu::{
    Aim, Append, Appends, Change, ClientId, Config, CorfuLog, Entries, EntryId, Epoch, Fill, Flush, Input,
    Instance, Join, LocalCluster, LocalConfig, LocalStorage, Member, Node, Operation, Outbox, Outgoing,
    Projection, Read, ReadOutcome, Reconfigure, Reply, ReplyTo, Request, Rules, Run, SequencerNumber,
    SequencerReply, Settle, Standing, StoreReply, Sweep, Tail, TailMode, Timing, Token, Transfer, Transport,
    Trim, UnitReply, UnitRequest, UnitVerb, Window,
};
use mixlog_log::{AppendError, Batch, Block, LogId, Position, ReadError, SharedLog};
use mixlog_simdisk::Random;

use crate::harness::{Net, SEQUENCER, batch, unit};

/// Inputs after which an operation is left alone: servers that never tell the truth keep it busy for ever.
const INPUTS: usize = 120;

/// How many seeds each operation is run with; more with MIXLOG_SEEDS=N.
fn seeds() -> u64 {
    400 * std::env::var("MIXLOG_SEEDS").ok().map_or(1, |text| text.parse().expect("a number of seeds"))
}

/// A cluster whose log was trimmed, so that there are positions before its first segment.
fn trimmed() -> Net {
    let mut net = Net::new(&[&[1, 2], &[3, 4]], 4);
    for n in 0..6 {
        net.append(1, 10 * n, &["a", "b"]);
    }
    net.reconfigure(Change::grow(vec![vec![unit(9)]]));
    let first = net.latest().open().first;
    crate::harness::Driven::new(Trim::new(net.latest(), first)).run(&mut net);
    let latest = net.reconfigure(Change::default());
    assert!(latest.first() > Position(4), "{latest}");
    net.append(1, 100, &["c"]);
    net
}

/// Something that a server could say: anything that the wire carries.
struct Lies {
    random: Random,
    latest: Arc<Projection>,
}

impl Lies {
    fn position(&mut self) -> Position {
        let around = [
            0,
            self.latest.first().0,
            self.latest.tail.0,
            self.latest.open().first.0,
            u64::from(self.latest.width),
            u64::MAX - 8,
        ];
        let at = around[self.random.below(around.len() as u64) as usize];
        Position(at.saturating_add(self.random.below(5)).saturating_sub(self.random.below(5)))
    }

    fn epoch(&mut self) -> Epoch {
        let epoch = self.latest.epoch.0;
        let epochs = [0, epoch - 1, epoch, epoch, epoch, epoch + 1, u64::MAX];
        Epoch(epochs[self.random.below(epochs.len() as u64) as usize])
    }

    fn member(&mut self) -> Member {
        let members = self.latest.members();
        let member = members[self.random.below(members.len() as u64) as usize];
        if self.random.one_in(2) { Member { joined: self.epoch(), ..member } } else { member }
    }

    fn run(&mut self) -> Run {
        let first = self.position();
        let count = (1 + self.random.below(3)).min(u64::MAX - first.0).max(1);
        let first = Position(first.0.min(u64::MAX - count));
        if self.random.one_in(3) {
            return Run::junk(first, first.plus(count));
        }
        let mut batch = Batch::new();
        (0..count).for_each(|_| batch.push(b"a lie"));
        let id = EntryId { client: ClientId(1 + self.random.below(2)), sequence: self.random.below(4) };
        Run::data(id, Arc::new(Block::of(first, batch)))
    }

    fn unit(&mut self) -> UnitReply {
        match self.random.below(14) {
            0..3 => UnitReply::Done,
            3 => UnitReply::Runs((0..self.random.below(3)).map(|_| self.run()).collect()),
            4 => UnitReply::Gap(self.position(), self.position()),
            5 => UnitReply::Standing(Standing {
                epoch: self.epoch(),
                reach: self.position(),
                trimmed: self.position(),
                committed: self.position(),
            }),
            6 => UnitReply::Taken(self.position()),
            7 => UnitReply::Trimmed(self.position()),
            8 => UnitReply::Sealed(self.epoch()),
            9 => UnitReply::Behind(self.epoch()),
            10 => UnitReply::Stranger(self.random.one_in(2).then(|| self.member())),
            11 => UnitReply::Corrupt(self.position()),
            12 if self.random.one_in(2) => UnitReply::Full,
            12 => UnitReply::TooLarge(3),
            _ => UnitReply::Early,
        }
    }

    fn sequencer(&mut self) -> SequencerReply {
        let instance = if self.random.one_in(2) { Instance(1) } else { Instance(2) };
        match self.random.below(8) {
            0..4 => {
                let (epoch, skipped, first) = (self.epoch(), self.position(), self.position());
                let skipped = if self.random.one_in(2) { first } else { skipped };
                let counts = [0, 1, 2, 9, u32::MAX];
                let count = counts[self.random.below(counts.len() as u64) as usize];
                let count = count.min(u32::try_from(u64::MAX - first.0).unwrap_or(u32::MAX));
                SequencerReply::Token(Token { epoch, skipped, first, count })
            }
            4 => SequencerReply::Tail(self.position()),
            5 => SequencerReply::Present { instance, epoch: self.epoch() },
            6 => SequencerReply::Sealed(self.epoch()),
            _ => SequencerReply::NotStarted(instance),
        }
    }

    /// A projection that could be one.
    fn projection(&mut self) -> Arc<Projection> {
        let mut lie = Projection::clone(&self.latest);
        lie.epoch = self.epoch();
        lie.tail = self.position();
        if self.random.one_in(4) {
            lie.sequencer = None;
        }
        if self.random.one_in(3) {
            lie.width = 1 + self.random.below(5) as u32;
        }
        for segment in &mut lie.segments {
            if self.random.one_in(3) {
                segment.first = Position(segment.first.0.saturating_add(self.random.below(20)));
            }
            for chain in &mut segment.chains {
                if self.random.one_in(3) && chain.units.len() > 1 {
                    let joining = chain.units.pop().expect("it is longer");
                    chain.joining.push(joining);
                }
            }
        }
        if lie.check().is_ok() { Arc::new(lie) } else { Arc::clone(&self.latest) }
    }

    fn store(&mut self) -> StoreReply {
        match self.random.below(6) {
            0 => StoreReply::Latest(None),
            1 => StoreReply::Installed,
            2 => StoreReply::Named(LogId(self.random.next().into())),
            _ => StoreReply::Latest(Some(self.projection())),
        }
    }

    /// Of the kind of role that was asked, but for a few.
    fn reply(&mut self, to: Node) -> Reply {
        let kind = match to {
            _ if self.random.one_in(20) => self.random.below(3),
            Node::Unit(_) => 0,
            Node::Sequencer(_) => 1,
            Node::Store => 2,
        };
        match kind {
            0 => Reply::Unit(self.unit()),
            1 => Reply::Sequencer(self.sequencer()),
            _ => Reply::Store(self.store()),
        }
    }
}

/// Several batches under way at a time, and then no more.
struct Several {
    appends: Appends,
    left: VecDeque<(EntryId, Arc<Entries>)>,
    offered: u32,
}

impl Operation for Several {
    type Outcome = ();

    fn step(&mut self, input: Input, out: &mut Outbox) -> Option<()> {
        self.appends.step(input, out);
        loop {
            while let Some(ended) = self.appends.next_ended() {
                self.offered = self.offered.checked_sub(ended.count).expect("what ended was offered");
            }
            if !self.appends.wants() {
                break;
            }
            let Some((id, entries)) = self.left.pop_front() else { break };
            self.offered += 2;
            self.appends.offer(id, entries, out);
        }
        let in_doubt: u32 = self.appends.in_doubt().map(|(count, _)| count).sum();
        assert_eq!(in_doubt, self.offered, "each entry has an outcome, or is in doubt");
        (self.left.is_empty() && self.appends.is_idle()).then_some(())
    }
}

fn several(projection: Arc<Projection>) -> Several {
    let left = (0..8).map(|n| {
        let id = EntryId { client: ClientId(2), sequence: 2 * n };
        (id, Arc::new(Entries::new(batch(&["x", "y"]), vec![1, 2])))
    });
    let window = Window { runs: 4, bytes: usize::MAX };
    Several { appends: Appends::new(projection, window, Rules::SOUND), left: left.collect(), offered: 0 }
}

/// Tells it the truth and lies, lets requests get lost, and ends pauses.
fn deceive<O: Operation>(mut operation: O, seed: u64, look: impl Fn(&O::Outcome)) {
    let mut net = trimmed();
    let mut lies = Lies { random: Random(seed), latest: net.latest() };
    // Some clusters lie now and then, others hardly ever say anything true.
    let honest = lies.random.below(10);
    let mut requests: Vec<Outgoing> = Vec::new();
    let mut input = Input::Start;
    for _ in 0..INPUTS {
        let mut out = Outbox::default();
        if let Some(outcome) = operation.step(input, &mut out) {
            look(&outcome);
            return;
        }
        requests.extend(out.sends);
        if requests.is_empty() || lies.random.one_in(10) {
            input = Input::Elapsed;
            continue;
        }
        let index = lies.random.below(requests.len() as u64) as usize;
        let Outgoing { call, to, request } = requests.remove(index);
        let reply =
            if lies.random.below(10) < honest { net.serve(to, request) } else { Some(lies.reply(to)) };
        input = match reply {
            Some(reply) if !lies.random.one_in(20) => Input::Reply { call, reply },
            _ => Input::Lost { call },
        };
    }
}

fn deceive_often<O: Operation>(name: &str, make: impl Fn(Arc<Projection>) -> O, look: impl Fn(&O::Outcome)) {
    let latest = trimmed().latest();
    for seed in 0..seeds() {
        let told = || deceive(make(Arc::clone(&latest)), seed, &look);
        if panic::catch_unwind(AssertUnwindSafe(told)).is_err() {
            panic!("{name} panics with seed {seed}");
        }
    }
}

#[test]
fn no_operation_panics_whatever_servers_say() {
    let (from, upto, any) = (Position(13), Position(30), |_: &_| ());
    deceive_often("several appends", several, any);
    let id = EntryId { client: ClientId(2), sequence: 0 };
    let entries = || Arc::new(Entries::indivisible(batch(&["x", "y", "z"])));
    deceive_often("append", |latest| Append::new(latest, id, entries(), Rules::SOUND), |_| ());
    deceive_often(
        "read",
        |latest| Read::new(latest, from, upto, 100, upto),
        |outcome| {
            if let ReadOutcome::Runs(runs) = outcome {
                assert!(runs[0].block.get(from).is_some(), "{runs:?} do not hold {from}");
            }
        },
    );
    for aim in [Aim::Know, Aim::Settle, Aim::Copy] {
        deceive_often("fill", |latest| Fill::new(latest, from, upto, aim), |_| ());
    }
    deceive_often("settle", |latest| Settle::new(Arc::clone(&latest), from, upto, latest.epoch), |_| ());
    for mode in [TailMode::Fast, TailMode::Linearizable] {
        deceive_often("tail", |latest| Tail::new(latest, mode), |_| ());
    }
    deceive_often("sweep", |latest| Sweep::new(latest, Position::ZERO), |_| ());
    deceive_often("trim", |latest| Trim::new(latest, from), any);
    deceive_often("flush", Flush::new, any);
    deceive_often("transfer", Transfer::new, |_| ());
    let join = Join { beside: unit(1), unit: unit(8) };
    let changes = [
        Change::default(),
        Change::remove(unit(1)),
        Change::replace(unit(3), unit(8)),
        Change { joins: vec![join], ..Change::default() },
        Change::grow(vec![vec![unit(7)]]),
        Change::sequencer(SequencerNumber(2)),
        Change::seal(),
    ];
    for change in changes {
        deceive_often("reconfigure", |latest| Reconfigure::new(latest, change.clone(), Rules::SOUND), |_| ());
    }
}

/// What a sequencer that does not count as it should says is not used, and once it counts, appends go on.
#[test]
fn token_of_positions_that_are_no_sequencers_to_give_is_not_used() {
    let mut net = trimmed();
    let latest = net.latest();
    let (tail, width, epoch) = (latest.tail.0, u64::from(latest.width), latest.epoch);
    let end_of_stripe = tail.next_multiple_of(width);
    let unsound = [
        // Before the first segment, in an earlier one, across the border of a stripe, and with more passed over than
        // anybody asks for.
        (0, 0, 2),
        (tail - 1, tail - 1, 2),
        (end_of_stripe - 1, end_of_stripe - 1, 2),
        (tail, end_of_stripe + 2 * width, 2),
        (tail + 1, tail, 2),
    ];
    for (skipped, first, count) in unsound {
        let mut appends = crate::harness::Driven::new(several(Arc::clone(&latest)));
        appends.until(&mut net, |outgoing| outgoing.to == Node::Sequencer(SEQUENCER));
        let token = Token { epoch, skipped: Position(skipped), first: Position(first), count };
        let call = appends.pop().call;
        appends.input(Input::Reply { call, reply: Reply::Sequencer(SequencerReply::Token(token)) });
        assert!(appends.next().is_none(), "{token:?} leads to {:?}", appends.next());
        // When the sequencer counts again, appends go on.
        appends.run(&mut net);
    }
}

/// The cluster, of which one kind of role lies.
struct Liar {
    cluster: Arc<LocalCluster>,
    lie: fn(Node, &Request, Reply) -> Reply,
}

impl Transport for Liar {
    fn send(&self, to: Node, request: Request, reply: ReplyTo) {
        let (lie, asked) = (self.lie, request.clone());
        let turned = ReplyTo::new(move |answer| match answer {
            Some(answer) => reply.answer(lie(to, &asked, answer)),
            None => drop(reply),
        });
        self.cluster.send(to, request, turned);
    }
}

fn in_memory() -> Arc<LocalCluster> {
    let storage = LocalStorage::Memory;
    LocalCluster::open(LocalConfig { storage, ..LocalConfig::default() }).unwrap()
}

fn connect(lie: fn(Node, &Request, Reply) -> Reply) -> CorfuLog {
    connect_to(in_memory(), lie)
}

fn connect_to(cluster: Arc<LocalCluster>, lie: fn(Node, &Request, Reply) -> Reply) -> CorfuLog {
    let config = Config {
        durability: cluster.durability(),
        timing: Timing { retry_at_most: Duration::from_millis(5), ..Timing::default() },
        patience: Duration::from_millis(300),
        janitor: None,
        cache_bytes: 0,
        ..Config::default()
    };
    CorfuLog::connect(Arc::new(Liar { cluster, lie }), config).unwrap()
}

#[test]
fn append_by_tokens_that_make_no_sense_is_unavailable() {
    let log = connect(|_, _, reply| match reply {
        Reply::Sequencer(SequencerReply::Token(token)) => {
            let first = Position(u64::from(u32::MAX) << 16);
            Reply::Sequencer(SequencerReply::Token(Token { skipped: Position::ZERO, first, ..token }))
        }
        other => other,
    });
    let outcome = log.append(&batch(&["an entry"])).unwrap().wait();
    assert!(matches!(outcome, Err(AppendError::Unavailable)), "{outcome:?}");
}

#[test]
fn read_answered_with_other_positions_is_unavailable() {
    let log = connect(|_, request, reply| match (request, reply) {
        (Request::Unit(request), Reply::Unit(UnitReply::Runs(runs)))
            if matches!(request.verb, UnitVerb::Read { .. }) =>
        {
            let moved = runs.into_iter().map(|run| {
                let first = run.first().plus(7);
                Run::junk(first, first.plus(run.block.len() as u64))
            });
            Reply::Unit(UnitReply::Runs(moved.collect()))
        }
        (_, other) => other,
    });
    log.append(&batch(&["an entry"])).unwrap().wait().unwrap();
    let read = log.read(Position::ZERO);
    assert!(matches!(read, Err(ReadError::Unavailable)), "{read:?}");
}

#[test]
fn wait_for_what_stands_behind_a_lost_position_ends() {
    let cluster = in_memory();
    let writer = connect_to(Arc::clone(&cluster), |_, _, reply| reply);
    for n in 0..5 {
        writer.append(&batch(&[&n.to_string()])).unwrap().wait().unwrap();
    }
    // Whoever asks whether all is there hears that position 2 is not, and never will be.
    let log = connect_to(cluster, |_, request, reply| match request {
        Request::Unit(UnitRequest { verb: UnitVerb::Gap { from, upto }, .. })
            if (*from..*upto).contains(&Position(2)) =>
        {
            Reply::Unit(UnitReply::Corrupt(Position(2)))
        }
        _ => reply,
    });
    let (told, answer) = mpsc::channel();
    thread::spawn(move || {
        for timeout in [None, Some(Duration::from_secs(20))] {
            drop(told.send(log.wait_past(Position(3), timeout)));
        }
    });
    for _ in 0..2 {
        let tail = answer.recv_timeout(Duration::from_secs(20)).expect("it ends").unwrap();
        assert_eq!(tail.tail, Position(5));
    }
}
