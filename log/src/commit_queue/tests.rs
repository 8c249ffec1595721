//! What one thread sees of the queue; what several do is in `models.rs`.

use super::*;

fn entries(count: usize, bytes: usize) -> Batch {
    let mut batch = Batch::new();
    (0..count).for_each(|n| batch.push(&vec![n as u8; bytes]));
    batch
}

#[test]
fn a_batch_that_becomes_a_frame_is_as_one_that_is_copied_and_left_empty() {
    let limits =
        Limits { queue_bytes: 1 << 20, batch_bytes: 1 << 20, frame_bytes: 2 * EXCHANGED, ..Limits::SMALL };
    let queue = CommitQueue::new(limits, Position(0), false, 1 << 20);
    let long = entries(2, EXCHANGED / 2);
    // What becomes a frame can be joined, and what joins one is copied, however long it is.
    let batches = [entries(1, 10), long.clone(), entries(3, 5), long.clone(), long, entries(1, 1)];
    let mut next = 0;
    for mut batch in batches.clone() {
        let count = batch.len() as u64;
        assert_eq!(queue.append_and_empty(&mut batch).unwrap(), Position(next));
        assert!(batch.is_empty() && batch.bytes().is_empty());
        next += count;
    }
    let Work::Group(group) = queue.take(Duration::MAX) else { panic!("something waits") };
    let mut expected = Batch::new();
    batches.iter().for_each(|batch| expected.extend(batch));
    let mut written = Batch::new();
    group.frames.iter().for_each(|frame| written.extend(frame));
    assert_eq!((written.bytes(), written.ends()), (expected.bytes(), expected.ends()));
    assert_eq!(group.frames.iter().map(Batch::len).collect::<Vec<_>>(), [6, 2, 3]);
    // Buffers come back, and go to whoever gives his away.
    let emptied = Batch::from_parts(Vec::with_capacity(2 * EXCHANGED), Vec::new());
    queue.publish(Position(next), 1 << 19, false, vec![emptied]);
    let mut batch = entries(2, EXCHANGED / 2);
    queue.append_and_empty(&mut batch).unwrap();
    assert!(batch.is_empty() && batch.capacity() >= 2 * EXCHANGED);
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
