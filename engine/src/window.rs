//! A window: consecutive entries of the log that are mixed and executed together.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crossbeam_utils::CachePadded;
use mixlog_log::{Block, Entry, Position};
use mixlog_mixer::Schedule;

use crate::ahead::Lane;
use crate::bounded::{Bounded, Escrow};
use crate::clients::Once;
use crate::error::OpenError;
use crate::execute::Release;
use crate::footprint::{Access, Declarations, Details, Located};
use crate::prepare::Inferring;
use crate::procedure::Calls;
use crate::reply::Status;
use crate::store::Written;
use crate::tx::Allowed;

/// Transactions that are decoded together. Small enough that two drivers share a window evenly, large enough
/// that their cache misses overlap.
pub(crate) const CHUNK: u32 = 32;

/// A transaction, decoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prepared {
    /// Index of the procedure, and of the call in the chunk's calls of it; `None` for entries that do nothing.
    pub(crate) call: Option<(u16, u32)>,
    /// End of its accesses in the chunk; they start where the previous transaction's end.
    pub(crate) accesses_end: u32,
    /// The same for its located rows.
    pub(crate) located_end: u32,
    /// Whether it is not known what it touches.
    pub(crate) unknown: bool,
    /// Whether its footprint was inferred from its arguments.
    pub(crate) inferred: bool,
    /// Whether it is known all the same what it may write.
    pub(crate) writes_known: bool,
    /// The chunk's speculation that ran it ahead, if one did.
    pub(crate) speculation: Option<u32>,
    pub(crate) time_us: u64,
    /// Which of the chunk's client calls it is, if it is one.
    pub(crate) once: Option<u32>,
    /// The submission of this engine that it is, if it is one.
    pub(crate) sequence: Option<u64>,
}

/// A transaction that ran ahead on a state of the past: what it touched, and how it ended.
#[derive(Clone, Debug)]
pub(crate) struct Speculation {
    /// Which transaction of the chunk it is of.
    pub(crate) index: u32,
    /// Which of the chunk's lanes it ran in.
    pub(crate) lane: u8,
    /// In the lane's overlays.
    pub(crate) touched: Range<u32>,
    pub(crate) status: Status,
    /// In the lane's replies.
    pub(crate) reply: Range<usize>,
    /// Whether nothing that was read was being written, by the declarations of the window at hand.
    pub(crate) still: bool,
    /// Whether the result can be used as it stands if nothing that was read has changed.
    pub(crate) reusable: bool,
    /// Whether it was stopped, or not even begun, since it touches too much: all that is known is some of what it touches.
    pub(crate) is_too_large: bool,
}

impl Speculation {
    /// One that was stopped when it had touched this.
    pub(crate) const fn too_large(index: u32, lane: u8, touched: Range<u32>) -> Self {
        let (status, reply) = (Status::Panicked, 0..0);
        Self { index, lane, touched, status, reply, still: false, reusable: false, is_too_large: true }
    }
}

/// After how many uses a chunk gives back the memory that none of them needed: what transactions run ahead in it needed once
/// does not stay, and what they need as a rule is not asked for again each time.
const USES: u32 = 16;

/// Up to [`CHUNK`] transactions of a window: what one driver decoded.
#[derive(Default)]
pub(crate) struct Chunk {
    pub(crate) transactions: Vec<Prepared>,
    pub(crate) declarations: Declarations,
    /// The same without what was found: room to work.
    pub(crate) declared: Declarations,
    /// By index of procedure.
    pub(crate) calls: Vec<Option<Box<dyn Calls>>>,
    pub(crate) inferring: Inferring,
    /// Of the calls that clients submitted.
    pub(crate) onces: Vec<Once>,
    /// The index in the window of the first transaction.
    pub(crate) first: u32,
    /// The transactions whose footprints are to be found.
    pub(crate) to_find: Vec<u32>,
    pub(crate) speculations: Vec<Speculation>,
    pub(crate) lanes: Vec<Lane>,
    /// How often it was used since it gave back memory.
    uses: u32,
    /// How often windows did without it since one used it.
    rests: u32,
}

impl Chunk {
    pub(crate) fn clear(&mut self) {
        self.rests = 0;
        self.empty();
    }

    fn empty(&mut self) {
        self.transactions.clear();
        self.to_find.clear();
        self.onces.clear();
        self.declarations.clear();
        self.inferring.clear();
        for calls in self.calls.iter_mut().flatten() {
            calls.clear();
        }
        if !self.speculations.is_empty() {
            self.speculations.clear();
            self.lanes.iter_mut().for_each(Lane::clear);
        }
        if !self.lanes.is_empty() {
            self.uses += 1;
            if self.uses == USES {
                self.uses = 0;
                self.lanes.iter_mut().for_each(Lane::shrink);
            }
        }
    }

    /// A window does without it: it keeps nothing of what ran ahead in it.
    fn rest(&mut self) {
        // Then it has given back everything.
        if !self.lanes.is_empty() && self.rests < 2 * USES {
            self.rests += 1;
            self.empty();
        }
    }

    /// What makes the transaction one of a client, if it is one.
    #[inline]
    pub(crate) fn once(&self, transaction: &Prepared) -> Option<&Once> {
        transaction.once.map(|once| &self.onces[once as usize])
    }

    #[inline]
    pub(crate) fn accesses_of(&self, index: usize) -> &[Access] {
        let start = if index == 0 { 0 } else { self.transactions[index - 1].accesses_end as usize };
        &self.declarations.accesses[start..self.transactions[index].accesses_end as usize]
    }

    /// What the transaction may do; `None` if anything.
    #[inline]
    pub(crate) fn allowed_of(&self, index: usize) -> Option<Allowed<'_>> {
        let Prepared { unknown, writes_known, .. } = self.transactions[index];
        let accesses = self.accesses_of(index);
        (!unknown || writes_known).then_some(Allowed { accesses, reads_anything: unknown })
    }

    #[inline]
    pub(crate) fn located_of(&self, index: usize) -> &[Located] {
        let start = if index == 0 { 0 } else { self.transactions[index - 1].located_end as usize };
        &self.declarations.located[start..self.transactions[index].located_end as usize]
    }

    /// Where the transaction's bounded adds stand in the chunk's.
    #[inline]
    pub(crate) fn bounded_range(&self, index: usize) -> Range<usize> {
        let bounded = &self.declarations.bounded;
        if bounded.is_empty() {
            return 0..0;
        }
        let before = |end: u32| bounded.partition_point(|bounded| bounded.access < end);
        let start = if index == 0 { 0 } else { before(self.transactions[index - 1].accesses_end) };
        start..before(self.transactions[index].accesses_end)
    }

    #[inline]
    pub(crate) fn bounded_of(&self, index: usize) -> &[Bounded] {
        &self.declarations.bounded[self.bounded_range(index)]
    }

    #[inline]
    pub(crate) fn details_of(&self, index: usize) -> Details<'_> {
        Details { located: self.located_of(index), bounded: self.bounded_of(index) }
    }
}

/// The window's schedule, and the state of its execution.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) schedule: Schedule,
    pub(crate) release: Release,
    pub(crate) escrow: Escrow,
    /// Merges that are made at the end of the window.
    pub(crate) pooled: u64,
    /// What the window's transactions may write, if it matters.
    pub(crate) written: Written,
}

/// See the module's documentation. Reused: its buffers stay from window to window.
pub(crate) struct Window {
    pub(crate) number: u64,
    first: Position,
    len: u32,
    blocks: Vec<Arc<Block>>,
    pub(crate) chunks: Vec<RwLock<Chunk>>,
    pub(crate) plan: RwLock<Plan>,
    /// The first entry that cannot be executed.
    pub(crate) bad_entry: Mutex<Option<(Position, OpenError)>>,
    /// Whether a window was replayed while this one was prepared: it wrote more than it had declared.
    pub(crate) disturbed: AtomicBool,
    next_chunk: CachePadded<AtomicU32>,
    chunks_left: CachePadded<AtomicU32>,
}

impl Window {
    pub(crate) fn new() -> Self {
        Self {
            number: 0,
            first: Position::ZERO,
            len: 0,
            blocks: Vec::new(),
            chunks: Vec::new(),
            plan: RwLock::default(),
            bad_entry: Mutex::default(),
            disturbed: AtomicBool::new(false),
            next_chunk: CachePadded::new(AtomicU32::new(0)),
            chunks_left: CachePadded::new(AtomicU32::new(0)),
        }
    }

    /// Makes it the window of the entries `[first, end)`, all of which lie in `blocks`.
    pub(crate) fn load(&mut self, number: u64, first: Position, end: Position, blocks: &mut Vec<Arc<Block>>) {
        self.number = number;
        self.first = first;
        self.len = u32::try_from(end.since(first)).expect("a window is small");
        self.blocks.clear();
        self.blocks.append(blocks);
        let chunks = self.chunk_count();
        while self.chunks.len() < chunks as usize {
            self.chunks.push(RwLock::default());
        }
        self.rest(chunks as usize);
        *self.bad_entry.get_mut().expect("no panic with a bad entry") = None;
        *self.disturbed.get_mut() = false;
        *self.next_chunk.get_mut() = 0;
        *self.chunks_left.get_mut() = chunks;
    }

    /// Another window is loaded, and this one is not needed any more but for so many chunks.
    pub(crate) fn rest(&mut self, chunks: usize) {
        let rest = self.chunks.iter_mut().skip(chunks);
        rest.for_each(|chunk| chunk.get_mut().expect("no panic with a chunk").rest());
    }

    pub(crate) const fn first(&self) -> Position {
        self.first
    }

    pub(crate) const fn end(&self) -> Position {
        self.first.plus(self.len as u64)
    }

    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    pub(crate) const fn chunk_count(&self) -> u32 {
        self.len.div_ceil(CHUNK)
    }

    /// A chunk that no driver has claimed yet.
    pub(crate) fn claim_chunk(&self) -> Option<u32> {
        let chunks = self.chunk_count();
        if self.next_chunk.load(Ordering::Relaxed) >= chunks {
            return None;
        }
        Some(self.next_chunk.fetch_add(1, Ordering::Relaxed)).filter(|&chunk| chunk < chunks)
    }

    /// A claimed chunk is prepared. Tells whether it was the last: then all chunks are seen.
    pub(crate) fn chunk_done(&self) -> bool {
        self.chunks_left.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// The entries of a chunk, with their positions.
    pub(crate) fn entries(&self, chunk: u32) -> impl Iterator<Item = (Position, Entry<'_>)> {
        let start = self.first.plus(u64::from(chunk * CHUNK));
        let end = start.plus(u64::from(CHUNK)).min(self.end());
        let mut block = self.blocks.partition_point(|block| block.end() <= start);
        (start.0..end.0).map(move |position| {
            let position = Position(position);
            if self.blocks[block].end() <= position {
                block += 1;
            }
            (position, self.blocks[block].get(position).expect("the blocks cover the window"))
        })
    }
}
