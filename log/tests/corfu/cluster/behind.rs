//! Clients that have not heard of the newest epoch, or of how far the log is settled.

use mixlog_log::Tail;

use super::*;

/// Somebody is given so many positions, and does not write there.
fn token(cluster: &LocalCluster, count: u32) {
    let (answered, answer) = mpsc::channel();
    let epoch = cluster.projection().unwrap().epoch;
    let request = SequencerRequest { epoch, verb: SequencerVerb::Next { count, at_least: count } };
    let reply = ReplyTo::new(move |reply| answered.send(reply).unwrap());
    cluster.send(Node::Sequencer(LOCAL_SEQUENCER), Request::Sequencer(request), reply);
    assert!(answer.recv().unwrap().is_some());
}

/// A cluster whose sequencers never hear that they are sealed.
struct Unheard(Arc<LocalCluster>);

impl Transport for Unheard {
    fn send(&self, to: Node, request: Request, reply: ReplyTo) {
        let is_seal =
            matches!(request, Request::Sequencer(SequencerRequest { verb: SequencerVerb::Seal, .. }));
        if !is_seal {
            self.0.send(to, request, reply);
        }
    }
}

/// A client without a janitor.
fn alone(cluster: &Arc<LocalCluster>, patience: Duration) -> CorfuLog {
    let config = Config {
        durability: cluster.durability(),
        timing: cluster.timing().clone(),
        max_batch_bytes: 8 << 10,
        janitor: None,
        patience,
        ..Config::default()
    };
    CorfuLog::connect(Arc::<LocalCluster>::clone(cluster), config).unwrap()
}

#[test]
fn sealed_log_has_one_tail_for_everybody() {
    let cluster = memory();
    let [sealer, writer, reader] = [(); 3].map(|()| connect(&cluster));
    append(&sealer, "a").unwrap();
    // Positions of the epoch that ends now.
    token(&cluster, 3);
    assert_eq!(sealer.seal().unwrap(), Position(1));
    assert!(matches!(append(&writer, "b"), Err(AppendError::Sealed { tail: Position(1) })));
    let sealed = Tail { head: Position(0), tail: Position(1), sealed: true };
    assert_eq!(reader.wait_past(Position(1), Some(PATIENCE)).unwrap(), sealed);
    for log in [&sealer, &writer, &reader, &connect(&cluster)] {
        assert_eq!((log.tail().unwrap(), log.flush().unwrap()), (sealed, Position(1)));
        assert_eq!(log.read(Position(1)).unwrap(), None);
    }
}

#[test]
fn positions_of_an_epoch_that_has_ended_are_not_filled_in_the_next() {
    let cluster = memory();
    let reader = connect(&cluster);
    append(&reader, "a").unwrap();
    token(&cluster, 5);
    thread::scope(|scope| {
        let tail = scope.spawn(|| reader.tail().unwrap());
        // Some of the times while it waits for the writer of the five.
        thread::sleep(Duration::from_millis(10));
        change(&cluster, Change::default());
        tail.join().unwrap();
    });
    let writer = connect(&cluster);
    let at = append(&writer, "b").unwrap();
    let projection = cluster.projection().unwrap();
    // If the five were filled before the epoch ended, the next one begins behind them.
    assert_eq!(at, projection.tail, "the first position of an epoch is its first writer's");
    assert_eq!(reader.tail().unwrap().tail, at.next());
    assert_eq!(entries(&reader).into_values().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn who_waits_is_told_of_a_seal_by_somebody_else() {
    let cluster = memory();
    let sealer = connect(&cluster);
    // Nor does anybody tell it but the wait itself.
    let reader = alone(&cluster, PATIENCE);
    append(&sealer, "a").unwrap();
    assert_eq!(reader.tail().unwrap().tail, Position(1));
    assert_eq!(sealer.seal().unwrap(), Position(1));
    assert!(reader.wait_past(Position(1), None).unwrap().sealed);
}

/// A sequencer that is left behind, and does not hear of it, answers as ever; most who wait do so for a moment each time.
#[test]
fn who_waits_for_moments_is_told_of_a_seal_that_the_sequencer_never_heard_of() {
    let cluster = memory();
    let config = Config { durability: cluster.durability(), janitor: None, ..Config::default() };
    let sealer = CorfuLog::connect(Arc::new(Unheard(Arc::clone(&cluster))), config).unwrap();
    let reader = alone(&cluster, PATIENCE);
    append(&sealer, "a").unwrap();
    assert_eq!(reader.tail().unwrap().tail, Position(1));
    assert_eq!(sealer.seal().unwrap(), Position(1));
    let begun = Instant::now();
    while !reader.wait_past(Position(1), Some(Duration::from_millis(5))).unwrap().sealed {
        assert!(begun.elapsed() < PATIENCE, "nobody tells it");
    }
}

#[test]
fn sequencer_that_does_not_answer_takes_nothing_from_the_one_that_it_was_to_replace() {
    let cluster = memory();
    let log = connect(&cluster);
    append(&log, "a").unwrap();
    let nobody = SequencerNumber(9);
    let change = cluster.reconfigure(cluster.projection().unwrap(), Change::sequencer(nobody));
    assert!(matches!(change, Reconfigured::NoSequencer(number) if number == nobody), "{change:?}");
    assert_eq!(append(&log, "b").unwrap(), Position(1));
    assert_eq!(append(&connect(&cluster), "c").unwrap(), Position(2));
}

#[test]
fn who_waits_follows_to_another_sequencer() {
    let cluster = memory();
    let reader = connect(&cluster);
    cluster.start_sequencer(SequencerNumber(2));
    change(&cluster, Change::sequencer(SequencerNumber(2)));
    append(&connect(&cluster), "a").unwrap();
    assert_eq!(reader.wait_past(Position(0), None).unwrap().tail, Position(1));
}

/// The first sequencer is gone when it is replaced, and there again without knowing anything.
#[test]
fn who_waits_follows_to_another_sequencer_though_the_first_one_starts_anew() {
    let cluster = memory();
    let reader = connect(&cluster);
    cluster.stop_sequencer(LOCAL_SEQUENCER);
    cluster.start_sequencer(SequencerNumber(2));
    change(&cluster, Change::sequencer(SequencerNumber(2)));
    cluster.start_sequencer(LOCAL_SEQUENCER);
    append(&connect(&cluster), "a").unwrap();
    assert_eq!(reader.wait_past(Position(0), None).unwrap().tail, Position(1));
}

#[test]
fn hole_behind_a_damaged_head_is_not_a_loss() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::open(files(directory.path(), 2)).unwrap();
    let log = connect(&cluster);
    for n in 0..48 {
        append(&log, &format!("entry {n}.")).unwrap();
    }
    let reader = connect(&cluster);
    assert_eq!(reader.tail().unwrap().tail, Position(48));
    // Position 48 is on the second chain, whose head has lost something.
    cluster.stop_unit(unit(3));
    damage_at(&cluster.unit_directory(unit(3)), b"entry 17.");
    cluster.start_unit(unit(3)).unwrap();
    token(&cluster, 1);
    thread::scope(|scope| {
        let read = scope.spawn(|| reader.read(Position(48)));
        cluster.start_unit(unit(5)).unwrap();
        change(&cluster, Change::replace(unit(3), unit(5)));
        let block = read.join().unwrap().unwrap();
        assert!(block.is_none_or(|block| block.get(Position(48)) == Some(Entry::Junk)));
    });
    assert_eq!(entries(&reader).len(), 48);
}

#[test]
fn head_that_stays_damaged_makes_what_is_not_written_unavailable_and_not_corrupt() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::open(files(directory.path(), 2)).unwrap();
    let log = connect(&cluster);
    for n in 0..48 {
        append(&log, &format!("entry {n}.")).unwrap();
    }
    cluster.stop_unit(unit(3));
    damage_at(&cluster.unit_directory(unit(3)), b"entry 17.");
    cluster.start_unit(unit(3)).unwrap();
    token(&cluster, 1);
    let reader = alone(&cluster, Duration::from_millis(500));
    assert!(matches!(reader.read(Position(48)), Err(ReadError::Unavailable)));
}

#[test]
fn new_client_of_a_log_that_is_settled_need_not_settle_it_again() {
    let config = LocalConfig { chains: 1, width: 1, timing: timing(), ..LocalConfig::default() };
    let cluster = LocalCluster::open(config).unwrap();
    let log = connect(&cluster);
    let mut tickets = Vec::new();
    for _ in 0..1000 {
        let mut batch = Batch::new();
        batch.push(b"x");
        tickets.push(log.append(&batch).unwrap());
    }
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    // A stripe is one position, so to settle anew takes a question for each.
    let mut latest = None;
    let begun = Instant::now();
    while latest != Some(Position(1000)) {
        assert!(begun.elapsed() < PATIENCE, "no janitor marks what is committed: {latest:?}");
        // It asks for the tail when it connects, and settles nothing yet.
        latest = Some(alone(&cluster, PATIENCE).known_tail());
    }
}
