//! What every backend of the log must do.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use mixlog_log::{AppendError, Batch, Durability, Entry, Position, ReadError, SharedLog, Tail, Ticket};

use crate::subject::{PATIENCE, Subject};

pub(crate) fn batch(entries: &[&[u8]]) -> Batch {
    let mut batch = Batch::new();
    for entry in entries {
        batch.push(entry);
    }
    batch
}

pub(crate) fn append(log: &dyn SharedLog, entries: &[&[u8]]) -> Position {
    let positions = log.append(&batch(entries)).unwrap().wait().unwrap();
    assert_eq!(positions.end.since(positions.start), entries.len() as u64);
    positions.start
}

/// Appends `count` numbered entries of about 100 bytes, and waits for all of them.
fn append_numbered(log: &dyn SharedLog, count: u64) {
    let first = log.tail().unwrap().tail.0;
    let tickets: Vec<_> =
        (first..first + count).map(|n| log.append(&batch(&[&numbered(n)])).unwrap()).collect();
    for (n, ticket) in (first..).zip(tickets) {
        assert_eq!(ticket.wait().unwrap(), Position(n)..Position(n + 1));
    }
}

fn numbered(n: u64) -> Vec<u8> {
    let mut entry = n.to_le_bytes().to_vec();
    entry.resize(100, n as u8);
    entry
}

/// All entries from `from` to the tail.
pub(crate) fn read_all(log: &dyn SharedLog, from: Position) -> BTreeMap<u64, Vec<u8>> {
    let tail = log.tail().unwrap().tail;
    let mut entries = BTreeMap::new();
    let mut next = from;
    while next < tail {
        let block = log.read(next).unwrap().expect("before the tail");
        assert!(block.first() <= next && next < block.end(), "the block holds the position asked for");
        for (position, entry) in block.iter().filter(|(position, _)| *position >= next) {
            let Entry::Data(bytes) = entry else { panic!("nobody wrote junk") };
            entries.insert(position.0, bytes.to_vec());
        }
        next = block.end();
    }
    entries
}

fn assert_numbered(log: &dyn SharedLog, from: u64, to: u64) {
    let expected: BTreeMap<_, _> = (from..to).map(|n| (n, numbered(n))).collect();
    assert_eq!(read_all(log, Position(from)), expected);
}

// ---- 1: the empty log ------------------------------------------------------------------------------------

pub(crate) fn empty_log_has_nothing(subject: Subject) {
    let log = subject.log();
    assert_eq!(log.tail().unwrap(), Tail { head: Position(0), tail: Position(0), sealed: false });
    assert!(log.read(Position(0)).unwrap().is_none());
    assert!(log.read(Position::MAX).unwrap().is_none());
    log.trim(Position(0)).unwrap();
    log.trim(Position(9)).unwrap();
    assert_eq!(log.tail().unwrap(), Tail { head: Position(0), tail: Position(0), sealed: false });
    assert_eq!(append(&**log, &[b"first"]), Position(0));
}

pub(crate) fn empty_log_sealed_stays_empty(mut subject: Subject) {
    assert_eq!(subject.log().seal().unwrap(), Position(0));
    let refused = |log: &dyn SharedLog| {
        let error = log.append(&batch(&[b"late"])).unwrap_err();
        assert!(matches!(error, AppendError::Sealed { tail: Position(0) }), "{error}");
    };
    refused(&**subject.log());
    if subject.reopen() {
        assert!(subject.log().tail().unwrap().sealed);
        refused(&**subject.log());
    }
}

// ---- 2: appending and reading ----------------------------------------------------------------------------

pub(crate) fn append_gives_dense_positions_and_the_same_bytes(subject: Subject) {
    let log = subject.log();
    for n in 0..20u64 {
        assert_eq!(append(&**log, &[&numbered(n)]), Position(n));
        assert_eq!(log.tail().unwrap().tail, Position(n + 1));
    }
    assert_numbered(&**log, 0, 20);
}

pub(crate) fn append_unwaited_becomes_visible(subject: Subject) {
    let log = subject.log();
    drop(log.append(&batch(&[b"a"])).unwrap());
    let tail = log.wait_past(Position(0), Some(PATIENCE)).unwrap();
    assert_eq!(tail.tail, Position(1));
}

pub(crate) fn ticket_asked_again_answers_the_same(subject: Subject) {
    let ticket = subject.log().append(&batch(&[b"a", b"b"])).unwrap();
    assert_eq!(ticket.wait().unwrap(), Position(0)..Position(2));
    assert_eq!(ticket.wait().unwrap(), Position(0)..Position(2));
    assert_eq!(ticket.wait_timeout(Duration::ZERO).unwrap().unwrap(), Position(0)..Position(2));
}

// ---- 3: the tail and waiting for it ----------------------------------------------------------------------

pub(crate) fn read_at_and_past_the_tail_finds_nothing(subject: Subject) {
    let log = subject.log();
    append(&**log, &[b"a", b"b"]);
    assert!(log.read(Position(1)).unwrap().is_some());
    assert!(log.read(Position(2)).unwrap().is_none());
    assert!(log.read(Position(3)).unwrap().is_none());
}

pub(crate) fn wait_past_times_out_on_a_log_that_rests(subject: Subject) {
    let log = subject.log();
    append(&**log, &[b"a"]);
    let tail = log.wait_past(Position(1), Some(Duration::from_millis(1))).unwrap();
    assert_eq!(tail, Tail { head: Position(0), tail: Position(1), sealed: false });
    assert_eq!(log.wait_past(Position(0), None).unwrap().tail, Position(1));
}

pub(crate) fn wait_past_wakes_whom_it_concerns(subject: Subject) {
    let log = subject.log();
    let (woken, wakes) = mpsc::channel();
    let waiters: Vec<_> = [0, 5]
        .map(|position| {
            let (log, woken) = (Arc::clone(log), woken.clone());
            thread::spawn(move || {
                let tail = log.wait_past(Position(position), Some(PATIENCE)).unwrap();
                woken.send((position, tail.tail)).unwrap();
            })
        })
        .into();
    append(&**log, &[b"a"]);
    assert_eq!(wakes.recv_timeout(PATIENCE).unwrap(), (0, Position(1)));
    assert!(wakes.try_recv().is_err(), "nothing is past position 5 yet");
    append(&**log, &[b"b".as_slice(); 5]);
    assert_eq!(wakes.recv_timeout(PATIENCE).unwrap(), (5, Position(6)));
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
}

pub(crate) fn wait_past_on_a_sealed_log_returns(subject: Subject) {
    let log = subject.log();
    let waiter = {
        let log = Arc::clone(log);
        thread::spawn(move || log.wait_past(Position(100), Some(PATIENCE)).unwrap())
    };
    append(&**log, &[b"a"]);
    log.seal().unwrap();
    let expected = Tail { head: Position(0), tail: Position(1), sealed: true };
    assert_eq!(waiter.join().unwrap(), expected);
    assert_eq!(log.wait_past(Position(1), None).unwrap(), expected);
}

// ---- 4: batches ------------------------------------------------------------------------------------------

pub(crate) fn batch_keeps_its_order_and_any_bytes(mut subject: Subject) {
    let entries: Vec<&[u8]> = vec![b"", &[0; 64], &[0xff; 64], b"x", b"", &[0], &[0xff; 7]];
    append(&**subject.log(), &entries);
    append(&**subject.log(), &[b"more"]);
    let check = |log: &dyn SharedLog| {
        let found: Vec<_> = read_all(log, Position(0)).into_values().collect();
        assert_eq!(found.split_last().unwrap(), (&b"more".to_vec(), entries_of(&entries).as_slice()));
    };
    check(&**subject.log());
    subject.reopen();
    check(&**subject.log());
}

fn entries_of(entries: &[&[u8]]) -> Vec<Vec<u8>> {
    entries.iter().map(|entry| entry.to_vec()).collect()
}

pub(crate) fn batches_of_one_thread_keep_their_order(subject: Subject) {
    let log = subject.log();
    let tickets: Vec<_> = (0..50u8).map(|n| log.append(&batch(&[&[n], &[n], &[n]])).unwrap()).collect();
    let mut next = Position(0);
    for (n, ticket) in (0..).zip(tickets) {
        let positions = ticket.wait().unwrap();
        assert_eq!(positions.end.since(positions.start), 3);
        if subject.dense {
            assert_eq!(positions.start, next);
        }
        for skipped in next.0..positions.start.0 {
            assert_eq!(entry(&**log, skipped), None, "what is not data is junk");
        }
        for position in positions.start.0..positions.end.0 {
            assert_eq!(entry(&**log, position), Some(vec![n]));
        }
        next = positions.end;
    }
    assert_eq!(log.tail().unwrap().tail, next);
}

/// The data at a position before the tail; `None` for junk.
fn entry(log: &dyn SharedLog, position: u64) -> Option<Vec<u8>> {
    let block = log.read(Position(position)).unwrap().expect("before the tail");
    match block.get(Position(position)).expect("the block holds the position asked for") {
        Entry::Data(bytes) => Some(bytes.to_vec()),
        Entry::Junk => None,
    }
}

pub(crate) fn batch_of_the_limit_is_taken_and_a_larger_one_is_not(mut subject: Subject) {
    let limit = subject.batch_bytes.unwrap_or(1 << 20);
    let (largest, empty) = (vec![1; limit - 4], b"".as_slice());
    for n in 0..12 {
        assert_eq!(append(&**subject.log(), &[&largest]), Position(n));
    }
    if subject.batch_bytes.is_some() {
        let too_long = vec![1; limit - 3];
        for (entries, size) in [(vec![&*too_long], limit + 1), (vec![&*largest, empty], limit + 4)] {
            for append in [SharedLog::append, SharedLog::append_and_write] {
                let error = append(&**subject.log(), &batch(&entries)).unwrap_err();
                let AppendError::TooLarge { size: found, limit: told } = error else { panic!("{error}") };
                assert_eq!((found, told), (size, limit));
            }
        }
    }
    let check = |log: &dyn SharedLog| {
        assert_eq!(log.tail().unwrap().tail, Position(12), "nothing of what was refused is there");
        assert!(read_all(log, Position(0)).into_values().eq(vec![largest.clone(); 12]));
    };
    check(&**subject.log());
    subject.reopen();
    if subject.log().durability() != Durability::Memory {
        check(&**subject.log());
    }
    append(&**subject.log(), &[b"it goes on"]);
}

pub(crate) fn batch_of_most_entries_is_taken_and_a_longer_one_is_not(subject: Subject) {
    let log = subject.log();
    let most = subject.batch_entries.unwrap_or(2000) as usize;
    let entries = vec![b"".as_slice(); most + 1];
    let refused = |expected: u32| {
        let error = log.append(&batch(&entries)).unwrap_err();
        assert!(matches!(error, AppendError::TooMany { limit } if limit == expected), "{error}");
    };
    subject.batch_entries.map(refused);
    assert_eq!(append(&**log, &entries[1..]), Position(0));
    subject.batch_entries.map(refused);
    assert_eq!(log.tail().unwrap().tail, Position(most as u64));
}

// ---- 5: concurrency --------------------------------------------------------------------------------------

pub(crate) fn append_and_write_is_an_append(subject: Subject) {
    const THREADS: u64 = 3;
    const APPENDS: u64 = 60;
    let log = subject.log();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for n in 0..APPENDS {
                    let entry = [thread.to_le_bytes(), n.to_le_bytes()].concat();
                    // Behind those that nobody waits for.
                    if n % 3 == thread {
                        drop(log.append(&batch(&[&entry])).unwrap());
                        continue;
                    }
                    let positions = log.append_and_write(&batch(&[&entry])).unwrap().wait().unwrap();
                    let block = log.read(positions.start).unwrap().expect("acknowledged");
                    assert_eq!(block.get(positions.start), Some(Entry::Data(&entry)));
                }
            });
        }
    });
    log.wait_past(Position(THREADS * APPENDS - 1), Some(PATIENCE)).unwrap();
    let mut next = [0; THREADS as usize];
    for entry in read_all(&**log, Position(0)).into_values() {
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let (thread, n) = (number(&entry[..8]), number(&entry[8..]));
        assert_eq!(next[thread as usize], n, "those of one thread keep their order");
        next[thread as usize] += 1;
    }
    assert_eq!(next, [APPENDS; THREADS as usize]);
    let tail = log.seal().unwrap();
    let error = log.append_and_write(&batch(&[b"late"])).unwrap_err();
    assert!(matches!(error, AppendError::Sealed { tail: sealed } if sealed == tail), "{error}");
}

pub(crate) fn concurrent_appends_and_reads_are_linearizable(subject: Subject) {
    const PRODUCERS: u64 = 4;
    const APPENDS: u64 = 60;
    let log = subject.log();
    let clock = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (log, done) = (Arc::clone(log), Arc::clone(&done));
            thread::spawn(move || {
                let mut next = Position(0);
                let mut seen = Vec::new();
                while !done.load(Ordering::Acquire) || next < log.tail().unwrap().tail {
                    let before = log.tail().unwrap().tail;
                    let after = log.wait_past(next, Some(Duration::from_millis(1))).unwrap().tail;
                    assert!(before <= after, "the tail never moves back");
                    while let Some(block) = log.read(next).unwrap() {
                        for (_, entry) in block.iter().filter(|(position, _)| *position >= next) {
                            let Entry::Data(bytes) = entry else { panic!("nobody wrote junk") };
                            seen.push(bytes.to_vec());
                        }
                        next = block.end();
                    }
                }
                seen
            })
        })
        .collect();
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let (log, clock) = (Arc::clone(log), Arc::clone(&clock));
            thread::spawn(move || {
                let mut history = Vec::new();
                for n in 0..APPENDS {
                    let mut entry = producer.to_le_bytes().to_vec();
                    entry.extend(n.to_le_bytes());
                    let called = clock.fetch_add(1, Ordering::SeqCst);
                    let position = append(&*log, &[&entry]);
                    assert!(log.tail().unwrap().tail > position, "who was acknowledged sees it in the tail");
                    let block = log.read(position).unwrap().expect("acknowledged");
                    assert_eq!(block.get(position), Some(Entry::Data(&entry)));
                    let returned = clock.fetch_add(1, Ordering::SeqCst);
                    history.push((position, called, returned, entry));
                }
                history
            })
        })
        .collect();
    let mut history: Vec<_> = producers.into_iter().flat_map(|producer| producer.join().unwrap()).collect();
    done.store(true, Ordering::Release);
    history.sort();
    let positions: Vec<_> = history.iter().map(|(position, ..)| position.0).collect();
    assert_eq!(positions, (0..PRODUCERS * APPENDS).collect::<Vec<_>>());
    let mut latest_call = 0;
    for (position, called, returned, _) in &history {
        // Whoever stands later in the log must not have returned before one that stands earlier was called.
        latest_call = latest_call.max(*called);
        assert!(*returned > latest_call, "{position} was acknowledged before an earlier one was appended");
    }
    let expected: Vec<_> = history.into_iter().map(|(.., entry)| entry).collect();
    for reader in readers {
        assert_eq!(reader.join().unwrap(), expected);
    }
}

// ---- 6: appends that are interrupted --------------------------------------------------------------------

/// The entries of an append that is told apart from all others: from one to three of them.
fn told_apart(n: u64) -> Vec<Vec<u8>> {
    (0..=n % 3).map(|part| [n.to_le_bytes(), part.to_le_bytes()].concat()).collect()
}

fn append_told_apart(log: &dyn SharedLog, n: u64) -> Result<Ticket, AppendError> {
    let entries = told_apart(n);
    log.append(&batch(&entries.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

/// Of each append, by number, what became of it is what the log shows: all of its entries, once, at its positions, or none
/// of them anywhere. Tells how many are there.
fn assert_resolved(log: &dyn SharedLog, outcomes: &[Result<Range<Position>, AppendError>]) -> usize {
    let tail = log.tail().unwrap().tail;
    let mut found: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for position in 0..tail.0 {
        if let Some(entry) = entry(log, position) {
            assert_eq!(found.insert(entry, position), None, "the same entry stands at {position}, too");
        }
    }
    let mut present = 0;
    for (n, outcome) in (0..).zip(outcomes) {
        let at: Vec<_> = told_apart(n).iter().map(|entry| found.remove(entry)).collect();
        let is_at = |first: Position| (first.0..).map(Some).zip(&at).all(|(expected, at)| *at == expected);
        let is_nowhere = at.iter().all(Option::is_none);
        match outcome {
            Ok(positions) => assert!(is_at(positions.start), "{n}: {positions:?} {at:?}"),
            // Who needs to know reads that position.
            Err(AppendError::Indeterminate { position }) => {
                assert!(is_at(*position) || is_nowhere, "{n}: {position} {at:?}");
            }
            Err(error) => assert!(is_nowhere, "{n}: {error}, but it is at {at:?}"),
        }
        present += usize::from(!is_nowhere);
    }
    assert!(found.is_empty(), "nobody appended {found:?}");
    present
}

pub(crate) fn append_interrupted_by_a_seal_is_there_once_or_never(subject: Subject) {
    const APPENDS: u64 = 200;
    let log = subject.log();
    let (begun, begins) = mpsc::channel();
    let tickets: Vec<_> = thread::scope(|scope| {
        let appender = scope.spawn(move || {
            let append = |n| {
                let ticket = append_told_apart(&**log, n);
                let _ = begun.send(n);
                ticket
            };
            (0..APPENDS).map(append).collect()
        });
        while begins.recv_timeout(PATIENCE).unwrap() < APPENDS / 4 {}
        log.seal().unwrap();
        appender.join().unwrap()
    });
    let outcome = |ticket: Result<Ticket, AppendError>| {
        ticket.and_then(|ticket| ticket.wait_timeout(PATIENCE).expect("it has an outcome"))
    };
    let outcomes: Vec<_> = tickets.into_iter().map(outcome).collect();
    assert!(log.tail().unwrap().sealed);
    let refusals = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    let is_refusal =
        |error| matches!(error, &AppendError::Sealed { .. } | &AppendError::Indeterminate { .. });
    assert!(refusals.clone().all(is_refusal), "{:?}", refusals.collect::<Vec<_>>());
    assert_resolved(&**log, &outcomes);
}

pub(crate) fn append_interrupted_by_the_end_of_its_client_is_there_once_or_never(mut subject: Subject) {
    let tickets: Vec<_> = (0..100).map(|n| append_told_apart(&**subject.log(), n).unwrap()).collect();
    // Nobody has waited for any of them.
    subject.log = None;
    let outcome = |ticket: &Ticket| ticket.wait_timeout(PATIENCE).expect("who waits is released");
    let outcomes: Vec<_> = tickets.iter().map(outcome).collect();
    drop(tickets);
    if !subject.reopen() {
        return;
    }
    let present = assert_resolved(&**subject.log(), &outcomes);
    // Nor does any of them appear later.
    append_told_apart(&**subject.log(), 100).unwrap().wait().unwrap();
    let last = subject.log().tail().unwrap().tail;
    let outcomes: Vec<_> = outcomes.into_iter().chain([Ok(Position(last.0 - 2)..last)]).collect();
    assert_eq!(assert_resolved(&**subject.log(), &outcomes), present + 1);
}

// ---- 7: trim ---------------------------------------------------------------------------------------------

pub(crate) fn trim_moves_the_head_and_nothing_else(mut subject: Subject) {
    append_numbered(&**subject.log(), 600);
    for (before, head) in [(0, 0), (1, 1), (250, 250), (250, 250), (7, 250), (499, 499)] {
        let log = subject.log();
        log.trim(Position(before)).unwrap();
        assert_eq!(log.tail().unwrap(), Tail { head: Position(head), tail: Position(600), sealed: false });
        if head > 0 {
            let error = log.read(Position(head - 1)).unwrap_err();
            assert!(matches!(error, ReadError::Trimmed { head: h, .. } if h == Position(head)), "{error}");
        }
        assert_numbered(&**log, head, 600);
    }
    if subject.reopen() {
        assert_eq!(subject.log().tail().unwrap().head, Position(499));
        assert_numbered(&**subject.log(), 499, 600);
    }
}

pub(crate) fn trim_everything_then_append_goes_on(mut subject: Subject) {
    append_numbered(&**subject.log(), 300);
    subject.log().trim(Position::MAX).unwrap();
    assert_eq!(
        subject.log().tail().unwrap(),
        Tail { head: Position(300), tail: Position(300), sealed: false }
    );
    assert!(subject.log().read(Position(300)).unwrap().is_none());
    subject.reopen();
    append_numbered(&**subject.log(), 10);
    assert_numbered(&**subject.log(), 300, 310);
}

// ---- 8: seal ---------------------------------------------------------------------------------------------

pub(crate) fn seal_refuses_appends_for_ever(mut subject: Subject) {
    append_numbered(&**subject.log(), 5);
    let check = |log: &dyn SharedLog, trim: u64| {
        assert_eq!(log.seal().unwrap(), Position(5));
        assert_eq!(log.seal().unwrap(), Position(5));
        assert!(log.tail().unwrap().sealed);
        assert!(matches!(log.append(&batch(&[b"late"])), Err(AppendError::Sealed { tail: Position(5) })));
        log.trim(Position(trim)).unwrap();
        assert_numbered(log, trim, 5);
    };
    check(&**subject.log(), 2);
    subject.reopen();
    check(&**subject.log(), 3);
}

pub(crate) fn seal_amid_appends_keeps_what_was_acknowledged(subject: Subject) {
    const PRODUCERS: usize = 20;
    let log = subject.log();
    let (started, starts) = mpsc::channel();
    let producers: Vec<_> = (0..PRODUCERS as u64)
        .map(|producer| {
            let (log, started) = (Arc::clone(log), started.clone());
            thread::spawn(move || {
                let mut acknowledged = Vec::new();
                loop {
                    match log.append(&batch(&[&producer.to_le_bytes()])) {
                        Ok(ticket) => acknowledged.push(ticket.wait().unwrap().start),
                        Err(AppendError::Sealed { tail }) => return (producer, acknowledged, tail),
                        Err(other) => panic!("{other}"),
                    }
                    let _ = started.send(());
                }
            })
        })
        .collect();
    for _ in 0..PRODUCERS {
        starts.recv_timeout(PATIENCE).unwrap();
    }
    let tail = log.seal().unwrap();
    let mut all = Vec::new();
    for producer in producers {
        let (producer, acknowledged, seen_tail) = producer.join().unwrap();
        assert_eq!(seen_tail, tail);
        for position in acknowledged {
            let block = log.read(position).unwrap().expect("acknowledged");
            assert_eq!(block.get(position), Some(Entry::Data(&producer.to_le_bytes())));
            all.push(position.0);
        }
    }
    all.sort_unstable();
    assert_eq!(all, (0..tail.0).collect::<Vec<_>>());
}

pub(crate) fn sealed_twice_at_once_has_one_tail(subject: Subject) {
    let log = subject.log();
    append_numbered(&**log, 20);
    let tails: Vec<Position> = thread::scope(|scope| {
        let sealers: Vec<_> = (0..3).map(|_| scope.spawn(|| log.seal().unwrap())).collect();
        sealers.into_iter().map(|sealer| sealer.join().unwrap()).collect()
    });
    assert_eq!(tails, [Position(20); 3]);
    assert_numbered(&**log, 0, 20);
}

// ---- 11: opening again -----------------------------------------------------------------------------------

pub(crate) fn reopen_keeps_everything_and_never_reuses_a_position(mut subject: Subject) {
    let id = subject.log().id();
    let mut tail = 0;
    for round in 1..=3 {
        append_numbered(&**subject.log(), 150 * round);
        tail += 150 * round;
        if !subject.reopen() {
            return;
        }
        assert_eq!(subject.log().id(), id);
        assert_eq!(subject.log().tail().unwrap().tail, Position(tail));
        assert_numbered(&**subject.log(), 0, tail);
    }
}

pub(crate) fn reopen_with_unwaited_appends_keeps_a_prefix(mut subject: Subject) {
    for n in 0..100 {
        drop(subject.log().append(&batch(&[&numbered(n)])).unwrap());
    }
    if subject.reopen() {
        // Closing writes what is queued.
        assert_numbered(&**subject.log(), 0, 100);
    }
}

// ---- 12: readers -----------------------------------------------------------------------------------------

pub(crate) fn readers_from_anywhere_see_the_same_log(subject: Subject) {
    let log = subject.log();
    append_numbered(&**log, 700);
    let readers: Vec<_> = (0..4)
        .map(|n| {
            let log = Arc::clone(log);
            thread::spawn(move || (0..10).for_each(|m| assert_numbered(&*log, n * 163 + m, 700)))
        })
        .collect();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

pub(crate) fn readers_of_a_log_with_junk_see_the_same_junk(subject: Subject) {
    const BATCHES: u64 = 60;
    let log = subject.log();
    let batches = || {
        for n in 0..BATCHES {
            // They do not fit into stripes without a rest.
            log.append(&batch(&[n.to_le_bytes().as_slice(); 5])).unwrap().wait().unwrap();
        }
        log.seal().unwrap()
    };
    // Of each position what is there, from `first` on, while the log grows.
    let follow = |first: u64| {
        let (mut next, mut seen) = (Position(first), BTreeMap::new());
        loop {
            let tail = log.wait_past(next, Some(PATIENCE)).unwrap();
            while let Some(block) = log.read(next).unwrap() {
                for (position, entry) in block.iter().filter(|(position, _)| *position >= next) {
                    let data = match entry {
                        Entry::Data(bytes) => Some(bytes.to_vec()),
                        Entry::Junk => None,
                    };
                    seen.insert(position.0, data);
                }
                next = block.end();
            }
            if tail.sealed && next >= tail.tail {
                return seen;
            }
        }
    };
    let (tail, seen) = thread::scope(|scope| {
        let readers: Vec<_> =
            [0, 31, 33, 100].map(|first| (first, scope.spawn(move || follow(first)))).into();
        let tail = batches();
        (tail, readers.into_iter().map(|(first, reader)| (first, reader.join().unwrap())).collect::<Vec<_>>())
    });
    let whole = &seen[0].1;
    assert!(whole.keys().copied().eq(0..tail.0), "no position is passed over");
    for (first, seen) in &seen {
        assert!(whole.range(first..).eq(seen), "from {first}");
    }
    for (position, data) in whole {
        assert_eq!(entry(&**log, *position), *data, "read by itself");
    }
    let expected = (0..BATCHES).flat_map(|n| [n.to_le_bytes(); 5]);
    let data = whole.values().flatten().map(|bytes| <[u8; 8]>::try_from(&**bytes).unwrap());
    assert!(data.eq(expected), "in order, and once");
    let junk = whole.values().filter(|data| data.is_none()).count();
    assert_eq!(junk == 0, subject.dense, "{junk} positions of junk");
}

pub(crate) fn reader_overtaken_by_a_trim_is_told(subject: Subject) {
    let log = subject.log();
    append_numbered(&**log, 700);
    let block = log.read(Position(0)).unwrap().unwrap();
    log.trim(Position(650)).unwrap();
    // The block that it holds stays whole, the next one is gone.
    assert_eq!(block.get(Position(0)), Some(Entry::Data(&numbered(0))));
    for position in [block.end(), Position(649)] {
        if position < Position(650) {
            let error = log.read(position).unwrap_err();
            assert!(matches!(error, ReadError::Trimmed { head: Position(650), .. }), "{error}");
        }
    }
    assert_numbered(&**log, 650, 700);
}

pub(crate) fn reader_of_a_log_that_grows_and_is_trimmed_misses_nothing_unknowingly(subject: Subject) {
    const ENTRIES: u64 = 600;
    let log = subject.log();
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..ENTRIES {
                assert_eq!(append(&**log, &[&numbered(n)]), Position(n));
                if n % 50 == 49 {
                    log.trim(Position(n - 30)).unwrap();
                }
            }
        });
        let mut next = Position(0);
        while next < Position(ENTRIES) {
            log.wait_past(next, Some(PATIENCE)).unwrap();
            match log.read(next) {
                Ok(Some(block)) => {
                    assert!(block.first() <= next && next < block.end());
                    for (position, entry) in block.iter() {
                        assert_eq!(entry, Entry::Data(&numbered(position.0)), "also those before");
                    }
                    next = block.end();
                }
                Ok(None) => panic!("{next} was acknowledged"),
                Err(ReadError::Trimmed { position, head }) => {
                    assert!(position == next && head > next, "it is told how far to go");
                    next = head;
                }
                Err(other) => panic!("{other}"),
            }
        }
    });
    assert_eq!(log.tail().unwrap(), Tail { head: Position(569), tail: Position(ENTRIES), sealed: false });
}

// ---- 13: flush -------------------------------------------------------------------------------------------

pub(crate) fn flush_tells_up_to_where_everything_is_safe_and_changes_nothing(mut subject: Subject) {
    assert_eq!(subject.log().flush().unwrap(), Position(0));
    append_numbered(&**subject.log(), 300);
    assert_eq!(subject.log().flush().unwrap(), Position(300));
    subject.log().trim(Position(100)).unwrap();
    assert_eq!(subject.log().flush().unwrap(), Position(300));
    assert_numbered(&**subject.log(), 100, 300);
    subject.log().seal().unwrap();
    assert_eq!(subject.log().flush().unwrap(), Position(300), "also of a log that was sealed");
    if subject.reopen() {
        assert_eq!(subject.log().flush().unwrap(), Position(300));
        assert_numbered(&**subject.log(), 100, 300);
    }
}

pub(crate) fn flush_amid_appends_covers_what_was_acknowledged(subject: Subject) {
    let log = subject.log();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for n in 0..100 {
                    let position = append(&**log, &[&numbered(n)]);
                    assert!(log.flush().unwrap() > position);
                }
            });
        }
    });
    assert_eq!(log.flush().unwrap(), log.tail().unwrap().tail);
}

// ---- 14: what is promised ----------------------------------------------------------------------------------

pub(crate) fn durability_and_identity_are_told_and_stay(mut subject: Subject) {
    let (durability, id) = (subject.log().durability(), subject.log().id());
    append(&**subject.log(), &[b"a"]);
    let keeps = subject.reopen();
    assert_eq!(keeps, durability != Durability::Memory, "what lives in memory only says so");
    assert_eq!((subject.log().durability(), subject.log().id()), (durability, id));
    assert_eq!(subject.log().tail().unwrap().tail, Position(1));
}

/// Calls a macro with the names of all checks.
macro_rules! for_all_checks {
    ($callback:ident) => {
        $callback! {
            empty_log_has_nothing
            empty_log_sealed_stays_empty
            append_gives_dense_positions_and_the_same_bytes
            append_unwaited_becomes_visible
            ticket_asked_again_answers_the_same
            read_at_and_past_the_tail_finds_nothing
            wait_past_times_out_on_a_log_that_rests
            wait_past_wakes_whom_it_concerns
            wait_past_on_a_sealed_log_returns
            batch_keeps_its_order_and_any_bytes
            batches_of_one_thread_keep_their_order
            batch_of_the_limit_is_taken_and_a_larger_one_is_not
            batch_of_most_entries_is_taken_and_a_longer_one_is_not
            append_and_write_is_an_append
            concurrent_appends_and_reads_are_linearizable
            append_interrupted_by_a_seal_is_there_once_or_never
            append_interrupted_by_the_end_of_its_client_is_there_once_or_never
            trim_moves_the_head_and_nothing_else
            trim_everything_then_append_goes_on
            seal_refuses_appends_for_ever
            seal_amid_appends_keeps_what_was_acknowledged
            sealed_twice_at_once_has_one_tail
            reopen_keeps_everything_and_never_reuses_a_position
            reopen_with_unwaited_appends_keeps_a_prefix
            readers_from_anywhere_see_the_same_log
            readers_of_a_log_with_junk_see_the_same_junk
            reader_overtaken_by_a_trim_is_told
            reader_of_a_log_that_grows_and_is_trimmed_misses_nothing_unknowingly
            flush_tells_up_to_where_everything_is_safe_and_changes_nothing
            flush_amid_appends_covers_what_was_acknowledged
            durability_and_identity_are_told_and_stay
        }
    };
}

pub(crate) use for_all_checks;
