//! The log in this process' memory: the fastest backend, and the reference that the others are tested
//! against.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::{
    Acknowledge, AppendError, Batch, Block, Durability, LogId, Position, ReadError, SealError, SharedLog,
    Tail, TailError, Ticket, TrimError,
};

/// A block is closed when the next append would take it past this many entries ...
const BLOCK_ENTRIES: usize = 4096;

/// ... or past this many bytes. A batch larger than that gets a block of its own.
const BLOCK_BYTES: usize = 1 << 20;

/// A log that lives and dies with the process.
///
/// An append is acknowledged at once: its ticket never waits. Entries gather in an open batch, which becomes
/// a [`Block`] when it is full or when somebody reads from it; so single appends come out in large blocks
/// unless a reader is right behind them.
///
/// Memory is given back by [`trim`](SharedLog::trim) only, a block at a time.
///
/// ```
/// use mixlog_log::{Batch, Entry, MemoryLog, Position, SharedLog};
///
/// let log = MemoryLog::new();
/// let mut batch = Batch::new();
/// batch.push(b"first");
/// batch.push(b"second");
/// let positions = log.append(&batch)?.wait()?;
/// assert_eq!(positions, Position(0)..Position(2));
///
/// let block = log.read(Position(1))?.expect("written");
/// assert_eq!(block.get(Position(1)), Some(Entry::Data(b"second")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct MemoryLog {
    shared: Arc<Shared>,
    tickets: Arc<dyn Acknowledge>,
    id: LogId,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when the log grew or was sealed, if anybody waits for that.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    head: Position,
    /// Closed blocks, at consecutive positions, the last one ending at `open_first`.
    blocks: VecDeque<Arc<Block>>,
    /// The newest entries, from `open_first` on.
    open: Batch,
    open_first: Position,
    sealed: bool,
    /// How many threads wait on `changed`, so that an append without readers pays nothing for them.
    waiters: usize,
}

impl State {
    fn tail(&self) -> Position {
        self.open_first.plus(self.open.len() as u64)
    }

    fn reach(&self) -> Tail {
        Tail { head: self.head, tail: self.tail(), sealed: self.sealed }
    }

    /// Turns the open batch into a block, unless it is empty.
    fn close_block(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let mut next = Batch::new();
        next.reserve_space_of(&self.open);
        let block = Block::of(self.open_first, mem::replace(&mut self.open, next));
        self.open_first = block.end();
        self.blocks.push_back(Arc::new(block));
    }
}

impl MemoryLog {
    /// An empty log with an identity of its own.
    #[must_use]
    pub fn new() -> Self {
        Self { shared: Arc::default(), tickets: Arc::new(Immediate), id: LogId::random() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("nothing panics while it holds the lock")
    }

    fn wake(&self, state: MutexGuard<'_, State>) {
        let somebody_waits = state.waiters > 0;
        drop(state);
        if somebody_waits {
            self.shared.changed.notify_all();
        }
    }
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

impl SharedLog for MemoryLog {
    fn append(&self, batch: &Batch) -> Result<Ticket, AppendError> {
        assert!(!batch.is_empty(), "an append holds at least one entry");
        let count = u32::try_from(batch.len()).expect("a batch holds less than 2^32 entries");
        let mut state = self.state();
        if state.sealed {
            return Err(AppendError::Sealed { tail: state.tail() });
        }
        if state.open.len() + batch.len() > BLOCK_ENTRIES
            || state.open.bytes().len() + batch.bytes().len() > BLOCK_BYTES
        {
            state.close_block();
        }
        let first = state.tail();
        state.open.extend(batch);
        self.wake(state);
        Ok(Ticket::from_backend(Arc::clone(&self.tickets), first.0, count))
    }

    fn refuses_late(&self) -> bool {
        false
    }

    fn read(&self, position: Position) -> Result<Option<Arc<Block>>, ReadError> {
        let mut state = self.state();
        if position < state.head {
            return Err(ReadError::Trimmed { position, head: state.head });
        }
        if position >= state.tail() {
            return Ok(None);
        }
        if position >= state.open_first {
            state.close_block();
        }
        let after = state.blocks.partition_point(|block| block.first() <= position);
        let block = Arc::clone(&state.blocks[after - 1]);
        debug_assert!(block.get(position).is_some(), "blocks are consecutive");
        Ok(Some(block))
    }

    fn tail(&self) -> Result<Tail, TailError> {
        Ok(self.state().reach())
    }

    fn wait_past(&self, position: Position, timeout: Option<Duration>) -> Result<Tail, ReadError> {
        // A timeout too far away to be represented is as good as none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = self.state();
        while state.tail() <= position && !state.sealed {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                break;
            }
            state.waiters += 1;
            state = match left {
                None => self.shared.changed.wait(state).expect("nothing panics while it holds the lock"),
                Some(left) => {
                    self.shared
                        .changed
                        .wait_timeout(state, left)
                        .expect("nothing panics while it holds the lock")
                        .0
                }
            };
            state.waiters -= 1;
        }
        Ok(state.reach())
    }

    fn trim(&self, before: Position) -> Result<(), TrimError> {
        let mut state = self.state();
        state.head = state.head.max(before.min(state.tail()));
        let head = state.head;
        let dropped = state.blocks.partition_point(|block| block.end() <= head);
        let dropped: Vec<_> = state.blocks.drain(..dropped).collect();
        if head == state.tail() {
            state.open.clear();
            state.open_first = head;
        }
        drop(state);
        // Freeing megabytes takes long: not with the lock held.
        drop(dropped);
        Ok(())
    }

    fn seal(&self) -> Result<Position, SealError> {
        let mut state = self.state();
        state.sealed = true;
        let tail = state.tail();
        self.wake(state);
        Ok(tail)
    }

    fn durability(&self) -> Durability {
        Durability::Memory
    }

    fn id(&self) -> LogId {
        self.id
    }
}

impl fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLog")
            .field("id", &self.id)
            .field("reach", &self.state().reach())
            .finish_non_exhaustive()
    }
}

/// Tickets whose sequence is their first position, and which never wait.
struct Immediate;

impl Acknowledge for Immediate {
    fn wait(
        &self,
        sequence: u64,
        count: u32,
        _timeout: Option<Duration>,
    ) -> Option<Result<Range<Position>, AppendError>> {
        let first = Position(sequence);
        Some(Ok(first..first.plus(u64::from(count))))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Entry;

    fn batch(entries: &[&[u8]]) -> Batch {
        let mut batch = Batch::new();
        for entry in entries {
            batch.push(entry);
        }
        batch
    }

    #[test]
    fn append_singly_comes_out_in_one_block() {
        let log = MemoryLog::new();
        for n in 0..100u8 {
            let _ = log.append(&batch(&[&[n]])).unwrap();
        }
        let block = log.read(Position(40)).unwrap().unwrap();
        assert_eq!((block.first(), block.end()), (Position(0), Position(100)));
        assert_eq!(block.get(Position(99)), Some(Entry::Data(&[99])));
    }

    #[test]
    fn append_past_block_limits_starts_another_block() {
        let log = MemoryLog::new();
        for _ in 0..=BLOCK_ENTRIES {
            let _ = log.append(&batch(&[b"x"])).unwrap();
        }
        assert_eq!(log.read(Position(0)).unwrap().unwrap().len(), BLOCK_ENTRIES);
        let large = vec![7; BLOCK_BYTES];
        let positions = log.append(&batch(&[&large])).unwrap().wait().unwrap();
        let block = log.read(positions.start).unwrap().unwrap();
        assert_eq!((block.first(), block.len()), (positions.start, 1));
    }

    #[test]
    fn read_behind_every_append_sees_each_entry() {
        let log = MemoryLog::new();
        for n in 0..10u64 {
            let _ = log.append(&batch(&[&n.to_le_bytes()])).unwrap();
            let block = log.read(Position(n)).unwrap().unwrap();
            assert_eq!(block.get(Position(n)), Some(Entry::Data(&n.to_le_bytes())));
        }
        assert!(log.read(Position(10)).unwrap().is_none());
    }

    #[test]
    fn trim_inside_a_block_keeps_the_block_and_moves_the_head() {
        let log = MemoryLog::new();
        let _ = log.append(&batch(&[b"a", b"b", b"c"])).unwrap();
        log.trim(Position(1)).unwrap();
        assert_eq!(log.tail().unwrap(), Tail { head: Position(1), tail: Position(3), sealed: false });
        assert!(matches!(log.read(Position(0)), Err(ReadError::Trimmed { head: Position(1), .. })));
        assert_eq!(log.read(Position(1)).unwrap().unwrap().get(Position(2)), Some(Entry::Data(b"c")));
    }

    #[test]
    fn trim_everything_then_append_continues_the_positions() {
        let log = MemoryLog::new();
        let _ = log.append(&batch(&[b"a", b"b"])).unwrap();
        log.trim(Position::MAX).unwrap();
        assert_eq!(log.append(&batch(&[b"c"])).unwrap().wait().unwrap(), Position(2)..Position(3));
        assert_eq!(log.tail().unwrap(), Tail { head: Position(2), tail: Position(3), sealed: false });
    }
}
