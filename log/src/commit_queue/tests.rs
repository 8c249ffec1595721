//! What one thread sees of the queue; what several do is in `models.rs`.

use super::*;
use crate::Block;

fn entries(count: usize, bytes: usize) -> Batch {
    let mut batch = Batch::new();
    (0..count).for_each(|n| batch.push(&vec![n as u8; bytes]));
    batch
}

#[test]
fn a_wrapped_entry_has_a_frame_of_its_own_at_its_place() {
    let limits = Limits { queue_bytes: 1 << 20, ..Limits::SMALL };
    let queue = CommitQueue::new(limits, Position(0), false, 1 << 20);
    let block = Arc::new(Block::of(Position(70), entries(3, 100)));
    let wrapped = || Wrapped::new(vec![1; 20], Arc::clone(&block));
    // A head, three entries, where each of them ends, and where the whole one does.
    assert_eq!(wrapped().body_bytes(), 20 + 300 + 12 + 4);
    assert_eq!(queue.append(&entries(2, 10)).unwrap(), Position(0));
    assert_eq!(queue.append(&entries(1, 10)).unwrap(), Position(2));
    assert_eq!(queue.append_wrapped(wrapped()).unwrap(), Position(3));
    assert_eq!(queue.append_wrapped(wrapped()).unwrap(), Position(4));
    assert_eq!(queue.append(&entries(1, 10)).unwrap(), Position(5));
    assert_eq!(queue.append(&entries(1, 10)).unwrap(), Position(6));
    let Work::Group(group) = queue.take(Duration::MAX) else { panic!("something waits") };
    let shapes = group.frames.iter().map(|frame| (frame.len(), frame.body_bytes()));
    assert_eq!(shapes.collect::<Vec<_>>(), [(3, 42), (1, 336), (1, 336), (2, 28)]);
    queue.publish(Position(7), 1 << 20, false, Vec::new());
    let long = Wrapped::new(vec![1; limits.batch_bytes], Arc::clone(&block));
    assert!(matches!(queue.append_wrapped(long), Err(AppendError::TooLarge { .. })));
}

#[test]
fn a_queue_that_does_not_gather_waits_for_nobody_however_long_writing_takes() {
    let limits = Limits { queue_bytes: 1 << 20, ..Limits::SMALL };
    let queue = CommitQueue::new(limits, Position(0), false, 1 << 20);
    let mut batch = Batch::new();
    batch.push(b"entry");
    let (_, group) = queue.append_and_take(&batch).unwrap();
    assert!(group.is_some());
    // Who comes meanwhile, and who was just answered, are two.
    let (_, meanwhile) = queue.append_and_take(&batch).unwrap();
    assert!(meanwhile.is_none());
    std::thread::sleep(Duration::from_millis(1));
    queue.publish(Position(1), 1 << 20, false, Vec::new());
    assert!(sync::lock(&queue.state).held().is_zero());
    assert!(matches!(queue.take(Duration::MAX), Work::Group(Group { first: Position(1), .. })));
}
