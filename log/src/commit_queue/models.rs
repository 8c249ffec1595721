//! Every interleaving of the queue's users, on the queue itself:
//! `RUSTFLAGS="--cfg loom" cargo test --release -p mixlog-log --lib loom_`.

use super::*;
use loom::thread;

const ENTRY: &[u8] = b"12345678";
/// How many entries the disk of the models takes.
const ROOM: u64 = 9;
/// What one entry costs in a frame of its own, with the limits below.
const COST: u64 = 12;

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// A queue with room for `room` entries, of which `waiting` may wait.
fn queue(room: u64, waiting: u64) -> Arc<CommitQueue> {
    let limits = Limits { queue_bytes: waiting * COST, ..Limits::SMALL };
    Arc::new(CommitQueue::new(limits, Position(0), false, room * COST))
}

fn append(queue: &CommitQueue) -> Result<Position, AppendError> {
    let mut batch = Batch::new();
    batch.push(ENTRY);
    queue.append(&batch)
}

/// Appends, and writes what waits if nobody else writes.
fn append_and_write(queue: &CommitQueue) {
    let mut batch = Batch::new();
    batch.push(ENTRY);
    if let (_, Some(group)) = queue.append_and_take(&batch).unwrap() {
        write_group(queue, ROOM, group);
    }
}

/// Who writes a group and makes it durable: the disk has room for `room` entries.
fn write_group(queue: &CommitQueue, room: u64, group: Group) {
    assert_eq!(queue.published(), group.first, "nothing is acknowledged before it is durable");
    let entries: u64 = group.frames.iter().map(|frame| frame.len() as u64).sum();
    let end = group.first.plus(entries);
    queue.publish(end, (room - end.0) * COST, false, Vec::new());
}

fn fail_group(queue: &CommitQueue) {
    queue.abandon(io::ErrorKind::Other.into());
}

/// Waits for an append's outcome as its ticket does, and writes meanwhile.
fn wait(queue: &CommitQueue, first: Position) -> Result<(), AppendError> {
    wait_and(queue, first, |group| write_group(queue, ROOM, group))
}

fn wait_and(queue: &CommitQueue, first: Position, write: impl Fn(Group)) -> Result<(), AppendError> {
    let outcome = queue.wait_published(first.next(), None, write);
    let outcome = outcome.expect("a wait without timeout has an outcome");
    if outcome.is_ok() {
        assert!(queue.published() > first, "a ticket completes when the tail covers it");
    }
    outcome
}

/// The log thread on a disk that takes `good` groups and fails then. Returns the tail that it left.
fn write(queue: &CommitQueue, room: u64, good: usize) -> u64 {
    let mut groups = 0;
    loop {
        match queue.take(Duration::MAX) {
            Work::Group(_) if groups == good => fail_group(queue),
            Work::Group(group) => {
                groups += 1;
                write_group(queue, room, group);
            }
            Work::Seal => queue.sealed(),
            Work::Close | Work::Stop => return queue.published().0,
            Work::Idle => unreachable!("it is never idle for so long"),
        }
    }
}

fn start(queue: &Arc<CommitQueue>, good: usize) -> thread::JoinHandle<u64> {
    let queue = Arc::clone(queue);
    thread::spawn(move || write(&queue, ROOM, good))
}

#[test]
fn loom_two_submitters_get_positions_of_their_own_and_both_complete() {
    explore(|| {
        let queue = queue(ROOM, 9);
        let log_thread = start(&queue, usize::MAX);
        let other = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                let first = append(&queue).unwrap();
                wait(&queue, first).unwrap();
                first
            })
        };
        let first = append(&queue).unwrap();
        wait(&queue, first).unwrap();
        let mut positions = [first, other.join().unwrap()];
        positions.sort();
        assert_eq!(positions, [Position(0), Position(1)]);
        queue.close();
        assert_eq!(log_thread.join().unwrap(), 2);
    });
}

#[test]
fn loom_reader_waiting_for_the_tail_is_woken() {
    explore(|| {
        let queue = queue(ROOM, 9);
        let log_thread = start(&queue, usize::MAX);
        let reader = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                queue.wait_past(Position(0), None, |group| write_group(&queue, ROOM, group)).unwrap();
                assert!(queue.published() > Position(0));
            })
        };
        append(&queue).unwrap();
        reader.join().unwrap();
        queue.close();
        assert_eq!(log_thread.join().unwrap(), 1);
    });
}

/// Two who append and write, if nobody else does, without waking anybody; the second may find the first, or the log
/// thread, writing.
#[test]
fn loom_submitters_who_write_themselves_leave_nothing_unwritten() {
    explore(|| {
        let queue = queue(ROOM, 9);
        let log_thread = start(&queue, usize::MAX);
        let other = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || append_and_write(&queue))
        };
        append_and_write(&queue);
        other.join().unwrap();
        // What neither wrote, the log thread was woken for.
        while queue.published() < Position(2) {
            thread::yield_now();
        }
        queue.close();
        assert_eq!(log_thread.join().unwrap(), 2);
    });
}

#[test]
fn loom_log_thread_learns_what_somebody_else_wrote() {
    explore(|| {
        let queue = queue(ROOM, 9);
        let log_thread = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                loop {
                    // Time passes when there is nothing to wait for.
                    match queue.take(Duration::ZERO) {
                        Work::Group(group) => write_group(&queue, ROOM, group),
                        Work::Idle => queue.rest(true),
                        _ => return,
                    }
                }
            })
        };
        let first = append(&queue).unwrap();
        wait(&queue, first).unwrap();
        queue.close();
        log_thread.join().unwrap();
        queue.wait_at_rest();
    });
}

/// Nobody appends anything later, nor closes the log: it is attested all the same.
#[test]
fn loom_log_thread_attests_what_a_submitter_wrote_itself() {
    explore(|| {
        let queue = queue(ROOM, 9);
        let log_thread = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                loop {
                    match queue.take(Duration::ZERO) {
                        Work::Group(group) => write_group(&queue, ROOM, group),
                        Work::Idle => return queue.rest(true),
                        work => unreachable!("{work:?}"),
                    }
                }
            })
        };
        append_and_write(&queue);
        log_thread.join().unwrap();
    });
}

#[test]
fn loom_close_writes_what_is_queued() {
    explore(|| {
        let queue = queue(ROOM, 9);
        let log_thread = start(&queue, usize::MAX);
        let first = append(&queue).unwrap();
        let second = append(&queue).unwrap();
        queue.close();
        assert_eq!(log_thread.join().unwrap(), 2);
        wait(&queue, first).unwrap();
        wait(&queue, second).unwrap();
        assert!(matches!(append(&queue), Err(AppendError::Closed)));
    });
}

#[test]
fn loom_failure_releases_everybody_and_acknowledges_nothing_more() {
    explore(|| {
        let queue = queue(ROOM, 9);
        let log_thread = start(&queue, 0);
        let reader = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                assert!(queue.wait_past(Position(0), None, |_| fail_group(&queue)).is_err());
            })
        };
        if let Ok(first) = append(&queue) {
            let outcome = wait_and(&queue, first, |_| fail_group(&queue));
            assert!(matches!(outcome, Err(AppendError::Failed(_))));
        }
        reader.join().unwrap();
        assert_eq!(log_thread.join().unwrap(), 0);
        assert!(matches!(append(&queue), Err(AppendError::Failed(_))));
        assert!(matches!(queue.seal(), Err(SealError::Failed(_))));
    });
}

#[test]
fn loom_nothing_is_written_behind_a_group_that_failed() {
    explore(|| {
        let queue = queue(ROOM, 9);
        let log_thread = start(&queue, 0);
        let mut last = None;
        for _ in 0..2 {
            last = append(&queue).ok().or(last);
        }
        if let Some(first) = last {
            // Whoever wrote asserts that everything before was published.
            assert_eq!(wait(&queue, first).is_ok(), queue.published() > first);
        }
        queue.close();
        log_thread.join().unwrap();
        queue.wait_at_rest();
    });
}

#[test]
fn loom_failure_of_the_background_thread_is_seen_by_the_log_thread() {
    explore(|| {
        let queue = queue(ROOM, 9);
        let log_thread = start(&queue, usize::MAX);
        let background = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.fail(io::ErrorKind::Other.into()))
        };
        if let Ok(first) = append(&queue) {
            let acknowledged = wait(&queue, first).is_ok();
            assert_eq!(acknowledged, queue.published() > first);
        }
        background.join().unwrap();
        log_thread.join().unwrap();
    });
}

#[test]
fn loom_submitter_held_back_by_a_full_queue_goes_on() {
    explore(|| {
        let queue = queue(ROOM, 1);
        let log_thread = start(&queue, usize::MAX);
        for n in 0..3 {
            assert_eq!(append(&queue).unwrap(), Position(n));
        }
        queue.close();
        assert_eq!(log_thread.join().unwrap(), 3);
    });
}

/// Groups of one entry each: what waits behind one is written all the same, by whomever.
#[test]
fn loom_what_a_group_leaves_is_the_next_group() {
    explore(|| {
        let limits = Limits { queue_bytes: 9 * COST, group_bytes: 1, frame_entries: 1, ..Limits::SMALL };
        let queue = Arc::new(CommitQueue::new(limits, Position(0), false, ROOM * COST));
        let log_thread = start(&queue, usize::MAX);
        for n in 0..3 {
            assert_eq!(append(&queue).unwrap(), Position(n));
        }
        wait(&queue, Position(2)).unwrap();
        queue.close();
        assert_eq!(log_thread.join().unwrap(), 3);
    });
}

#[test]
fn loom_seal_is_after_every_acknowledged_append() {
    explore(|| {
        let queue = queue(ROOM, 9);
        let log_thread = start(&queue, usize::MAX);
        let submitter = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || match append(&queue) {
                Ok(first) => wait(&queue, first).map(|()| 1),
                Err(AppendError::Sealed { tail }) => Ok(tail.0),
                Err(other) => Err(other),
            })
        };
        let tail = queue.seal().unwrap();
        assert_eq!(queue.reach(), (tail, true));
        assert_eq!(submitter.join().unwrap().unwrap(), tail.0);
        queue.close();
        log_thread.join().unwrap();
    });
}

#[test]
fn loom_append_without_room_waits_for_a_reservation_and_its_outcome() {
    for space_left in [true, false] {
        explore(move || {
            let queue = queue(1, 9);
            let log_thread = {
                let queue = Arc::clone(&queue);
                thread::spawn(move || write(&queue, 1, usize::MAX))
            };
            let background = {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    while queue.wait_for_reservation() {
                        if space_left {
                            queue.grant(9 * COST);
                        } else {
                            queue.refuse(io::ErrorKind::StorageFull.into());
                        }
                    }
                })
            };
            assert_eq!(append(&queue).unwrap(), Position(0));
            match append(&queue) {
                Ok(first) => assert!(space_left && first == Position(1)),
                Err(AppendError::Full(_)) => assert!(!space_left),
                Err(other) => panic!("{other}"),
            }
            // The log thread of this model knows one segment only, so it ends here.
            queue.fail(io::ErrorKind::Other.into());
            background.join().unwrap();
            log_thread.join().unwrap();
        });
    }
}
