//! The first half of the mixer's work: decode a chunk of entries, ask their procedures for footprints, and find
//! the rows' numbers.
//!
//! A slot of an index that is not in the cache costs 100 ns or more, and a transaction would wait for one after
//! another. Here the footprints of a whole chunk are known, so their misses overlap: one pass asks the cache for
//! the slots, the next reads them. The rows themselves are asked for when their transaction is about to run:
//! asked for here, they would be gone from the nearer caches by then.

use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLockReadGuard};

use mixlog_log::{Entry, Position};
use mixlog_mixer::{self as mixer, Declared, KeyHash, Mixer, Mode};

use crate::ahead::{self, Pause, Stacks};
use crate::clients::{ANSWERS, Once};
use crate::entry::{self, Call, Content};
use crate::error::OpenError;
use crate::footprint::{Declarations, Footprint, NOWHERE, Of};
use crate::infer::{Leaves, Reach, Rules, Seen};
use crate::interactive::Intention;
use crate::learned::Extent;
use crate::observe;
use crate::panics::caught;
use crate::pipeline::Shared;
use crate::procedure::Calls;
use crate::reply::Status;
use crate::store::{Beside, Overlays, Stamp, Store, Touched, Written};
use crate::window::{CHUNK, Chunk, Prepared, Speculation, Window};

/// The state before the window at hand, and what that one may write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Past<'a> {
    pub(crate) at: Stamp,
    pub(crate) written: &'a Written,
}

/// Prepares one chunk of the window. Footprints that are to be found are looked for in the `past`, unless the window is
/// not going to be mixed.
pub(crate) fn chunk(
    shared: &Shared,
    window: &Window,
    chunk: u32,
    past: Option<Past<'_>>,
    stacks: &mut Stacks,
) {
    let mut prepared = window.chunks[chunk as usize].write().expect("no panic with a chunk");
    prepared.clear();
    prepared.first = chunk * CHUNK;
    for (position, entry) in window.entries(chunk) {
        let transaction = match decode(shared, window, position, entry, &mut prepared, past) {
            Ok(transaction) => transaction,
            Err(error) => {
                let mut bad = window.bad_entry.lock().expect("no panic with a bad entry");
                if bad.as_ref().is_none_or(|(first, _)| position < *first) {
                    *bad = Some((position, error));
                }
                return;
            }
        };
        prepared.transactions.push(transaction);
    }
    if let Some(past) = past
        && !prepared.to_find.is_empty()
    {
        shared.speculates.store(true, Ordering::Relaxed);
        ahead::run(shared, window, &mut prepared, past, stacks);
        declare_found(shared, window, &mut prepared);
    }
    let Declarations { accesses, located, .. } = &mut prepared.declarations;
    for access in accesses {
        if access.is_row() && access.row == NOWHERE {
            access.row = shared.store.any(access.table).locate(access.key).unwrap_or(NOWHERE);
        }
    }
    for row in located.iter_mut().filter(|row| row.row == NOWHERE) {
        row.row = shared.store.any(row.table).locate(row.key_hash).unwrap_or(NOWHERE);
    }
}

fn decode(
    shared: &Shared,
    window: &Window,
    position: Position,
    entry: Entry<'_>,
    chunk: &mut Chunk,
    past: Option<Past<'_>>,
) -> Result<Prepared, OpenError> {
    let nothing = |chunk: &Chunk| Prepared {
        call: None,
        accesses_end: chunk.declarations.accesses.len() as u32,
        located_end: chunk.declarations.located.len() as u32,
        unknown: false,
        inferred: false,
        writes_known: false,
        speculation: None,
        time_us: 0,
        once: None,
        sequence: None,
    };
    let Entry::Data(bytes) = entry else { return Ok(nothing(chunk)) };
    let bad = |detail: String| OpenError::Entry { position, detail };
    match entry::decode(bytes).map_err(bad)? {
        Content::Catalog(catalog) => {
            shared.note_catalog(position, &catalog)?;
            Ok(nothing(chunk))
        }
        Content::Vote(vote) => {
            if shared.compares {
                shared.votes.lock().expect("no panic in a short section").push((position, vote));
            }
            Ok(nothing(chunk))
        }
        Content::Padding => Ok(nothing(chunk)),
        Content::Call(Call { procedure, origin, time_us, client, arguments }) => {
            let index = shared.procedures.index_of(procedure).ok_or_else(|| {
                bad(format!("it calls a procedure with id {:08x}, which no catalog names", procedure.0))
            })?;
            let registered = shared.procedures.get(index);
            if chunk.calls.is_empty() {
                chunk.calls.resize_with(shared.procedures.len(), || None);
            }
            let calls = chunk.calls[usize::from(index)].get_or_insert_with(|| registered.calls());
            let call = calls
                .push(arguments)
                .map_err(|error| bad(format!("arguments of procedure {:?}: {error}", registered.name)))?;
            if procedure == Intention::ID
                && let Some(intention) = calls.intention(call)
            {
                intention.check(&shared.store, position)?;
            }
            let beside = past.map(|past| {
                (past.at, Beside::Window { written: past.written, pause: Pause::NEVER, absent: None })
            });
            let mut footprint =
                Footprint::new(&shared.store, &mut chunk.declarations, position, time_us, beside);
            // A footprint that panics says nothing; its procedure then runs alone, and speaks for itself.
            let done = caught(|| {
                if registered.declares {
                    calls.footprint(call, &mut footprint);
                } else {
                    footprint.reconnoitre();
                }
            });
            let mut unknown = done.is_err() || footprint.is_unknown();
            if let Err(panic) = done {
                shared.note_footprint_panic(index, position, &panic);
            }
            let once = client.map(|(client, sequence)| {
                let once = Once::new(client, sequence, procedure, arguments);
                once.declare(&mut footprint);
                chunk.onces.push(once);
                chunk.onces.len() as u32 - 1
            });
            let looked = footprint.has_looked();
            if looked {
                shared.speculates.store(true, Ordering::Relaxed);
            }
            let (mut writes_known, mut inferred) = (false, false);
            if (footprint.is_to_be_found() || looked) && !unknown && past.is_some() {
                let to_be_found = footprint.is_to_be_found();
                writes_known = to_be_found && !shared.learned.writes(index);
                unknown = shared.learned.has_any(index, window.number)
                    && shared.learned.greatest(index, window.number) == Extent::Anything;
                if to_be_found && !unknown {
                    inferred = chunk.inferring.declare(shared, window, index, &**calls, call, &mut footprint);
                    if !inferred {
                        chunk.to_find.push(chunk.transactions.len() as u32);
                    }
                }
            }
            Ok(Prepared {
                call: Some((index, call)),
                accesses_end: chunk.declarations.accesses.len() as u32,
                located_end: chunk.declarations.located.len() as u32,
                unknown,
                inferred,
                writes_known,
                speculation: None,
                once,
                time_us,
                sequence: (origin.engine == shared.origin).then_some(origin.sequence),
            })
        }
    }
}

/// What a driver needs to infer footprints.
#[derive(Default)]
pub(crate) struct Inferring {
    /// By index of procedure, its rules, once they were asked for: they stay the same for the chunk, unless they made
    /// something panic.
    rules: Vec<Option<Option<Arc<Rules>>>>,
    /// Room to take arguments apart, and to put keys together.
    leaves: Leaves,
    bytes: Vec<u8>,
}

impl Inferring {
    pub(crate) fn clear(&mut self) {
        self.rules.fill(None);
    }

    /// Declares the footprint of a call that its procedure's rules tell, if there are any. Tells whether it did.
    fn declare(
        &mut self,
        shared: &Shared,
        window: &Window,
        procedure: u16,
        calls: &dyn Calls,
        call: u32,
        footprint: &mut Footprint<'_>,
    ) -> bool {
        let Self { rules, leaves, bytes } = self;
        rules.resize(shared.procedures.len(), None);
        let rules = &mut rules[usize::from(procedure)];
        let rules = rules.get_or_insert_with(|| shared.inference.rules(procedure));
        let Some(known) = &*rules else { return false };
        let (start, position) = (footprint.mark(), footprint.position());
        let told = inferring(shared, window, procedure, position, || {
            calls.take_apart(call, leaves, known.reach()) && known.declare(leaves, footprint, bytes)
        });
        if told.is_none() {
            *rules = None;
        }
        if told != Some(true) {
            footprint.take_back(start);
        }
        told == Some(true)
    }
}

/// Lets inference call user code: how arguments and keys are serialized, and which granules keys lie in, those included
/// that rules made up and no procedure ever named. If it panics, that is no reason to stop: nothing is inferred for a
/// while.
fn inferring<R>(
    shared: &Shared,
    window: &Window,
    procedure: u16,
    position: Position,
    infer: impl FnOnce() -> R,
) -> Option<R> {
    let inferred = caught(infer);
    inferred
        .map_err(|panic| {
            shared.inference.forget(procedure, window.number);
            let name = shared.procedures.get(procedure).name;
            observe::inference_panicked(name, position, panic.message());
        })
        .ok()
}

/// Puts what the chunk's speculations touched into the footprints of their transactions.
fn declare_found(shared: &Shared, window: &Window, chunk: &mut Chunk) {
    let Chunk {
        transactions,
        declarations,
        declared,
        speculations,
        lanes,
        first,
        calls,
        inferring: room,
        ..
    } = chunk;
    let answers = shared.store.table(&ANSWERS).number();
    // Footprints stand one after another, so all move.
    std::mem::swap(declarations, declared);
    declarations.clear();
    declarations.merges = declared.merges;
    let mut starts = (0, 0, 0);
    let mut found = (0u32..).zip(speculations).peekable();
    for (index, transaction) in (0u32..).zip(transactions) {
        starts = declarations.append(declared, starts, transaction);
        let start = declarations.accesses.len();
        if let Some((number, speculation)) = found.next_if(|(_, speculation)| speculation.index == index) {
            let position = window.first().plus(u64::from(*first + index));
            let (procedure, call) = transaction.call.expect("it is a call");
            let has_lessons = shared.learned.has_any(procedure, window.number);
            let lessons =
                has_lessons.then_some(|table| shared.learned.extent(procedure, table, window.number));
            let overlays = &lanes[usize::from(speculation.lane)].overlays;
            if speculation.is_too_large {
                transaction.unknown = true;
                transaction.writes_known &= !shared.learned.writes(procedure);
                transaction.accesses_end = declarations.accesses.len() as u32;
                transaction.located_end = declarations.located.len() as u32;
                continue;
            }
            let time_us = transaction.time_us;
            let mut footprint = Footprint::new(&shared.store, declarations, position, time_us, None);
            let declaring = || declare(&shared.store, overlays, speculation, lessons, &mut footprint);
            let Ok(wrote) = caught(declaring) else {
                // A granule function, for one. Then the procedure runs alone, and panics itself.
                (transaction.unknown, transaction.writes_known) = (true, false);
                transaction.accesses_end = declarations.accesses.len() as u32;
                transaction.located_end = declarations.located.len() as u32;
                continue;
            };
            if wrote {
                shared.learned.note_writes(procedure);
                transaction.writes_known = false;
            }
            if transaction.once.is_some() && speculation.status == Status::Aborted {
                // Its answer is kept when it runs at its turn.
                (speculation.still, speculation.reusable) = (false, false);
            }
            if shared.inference.looks_at(procedure, window.number)
                && matches!(speculation.status, Status::Committed | Status::Aborted)
                && let Some(calls) = calls[usize::from(procedure)].as_deref()
            {
                inferring(shared, window, procedure, position, || {
                    if !calls.take_apart(call, &mut room.leaves, Reach::ALL) {
                        return;
                    }
                    let seen = Seen {
                        leaves: &room.leaves,
                        position,
                        time_us,
                        committed: speculation.status == Status::Committed,
                        overlays,
                        touched: overlays.touched(speculation.touched.clone()),
                        accesses: &declarations.accesses[start..],
                        except: answers,
                    };
                    shared.inference.show(procedure, &shared.store, window.number, &seen);
                });
            }
            transaction.speculation = Some(number);
        }
        transaction.accesses_end = declarations.accesses.len() as u32;
        transaction.located_end = declarations.located.len() as u32;
    }
}

/// Declares what a speculation touched, and notes how far its result may be used as it stands. Tells whether it wrote.
fn declare(
    store: &Store,
    overlays: &Overlays,
    speculation: &mut Speculation,
    lessons: Option<impl Fn(u16) -> Extent>,
    footprint: &mut Footprint<'_>,
) -> bool {
    let mut wrote = false;
    let mut still = speculation.status != Status::Panicked;
    let mut reusable = still;
    for touched in overlays.touched(speculation.touched.clone()) {
        match touched {
            Touched::Row(row) => {
                still &= row.is_still();
                wrote |= touched.is_written();
                let table = store.any(row.table);
                match &lessons {
                    None if table.conflicts_by_row() => footprint.row(row),
                    None => table.declare(overlays, row, false, footprint),
                    Some(extent) => {
                        table.declare(overlays, row, extent(row.table) != Extent::Rows, footprint);
                    }
                }
            }
            &Touched::Granule { table, hash, still: nobody_wrote } => {
                footprint.granule(table, hash, Mode::Read);
                still &= nobody_wrote;
            }
            Touched::Merge { .. } => {
                // What was merged into is not compared, though an operator may panic for it; who commits runs it again.
                still &= speculation.status == Status::Committed;
                reusable &= speculation.status == Status::Committed;
            }
        }
    }
    (speculation.still, speculation.reusable) = (still, reusable);
    wrote
}

/// The other half: makes the window's schedule. All its chunks are prepared, with the same `past`.
pub(crate) fn mix(shared: &Shared, window: &Window, mixer: &mut Mixer, past: Stamp) {
    let mut plan = window.plan.write().expect("no panic while mixing");
    let plan = &mut *plan;
    plan.escrow.decide(window, &shared.store, past);
    let chunks: Vec<_> = window.chunks[..window.chunk_count() as usize]
        .iter()
        .map(|chunk| chunk.read().expect("no panic with a chunk"))
        .collect();
    let declared = (0..window.len()).map(|t| {
        let (chunk, index) = (&chunks[(t / CHUNK) as usize], (t % CHUNK) as usize);
        if chunk.transactions[index].unknown {
            return Declared::Unknown;
        }
        let accesses = chunk.accesses_of(index).iter();
        Declared::Keys(accesses.map(|a| mixer::Access { key: KeyHash(a.key), mode: a.mode }))
    });
    mixer.mix(declared, &mut plan.schedule);
    plan.release.reset(&plan.schedule);
    note_written(shared, window, &chunks, &mut plan.written);
    drop(chunks);
    plan.pooled = pool(shared, window, mixer);
}

/// Notes what the window may write, if there is somebody who looks at rows while it is executed.
fn note_written(
    shared: &Shared,
    window: &Window,
    chunks: &[RwLockReadGuard<'_, Chunk>],
    written: &mut Written,
) {
    let unknown = |t: &Prepared| t.unknown && !t.writes_known;
    let unknown = || chunks.iter().any(|chunk| chunk.transactions.iter().any(unknown));
    if !shared.speculates.load(Ordering::Relaxed) || window.len() == 0 || unknown() {
        return written.reset();
    }
    let accesses = || chunks.iter().flat_map(|chunk| &chunk.declarations.accesses);
    let writes = || accesses().filter(|access| access.mode != Mode::Read).map(|access| access.key);
    written.fill(writes().count(), writes());
}

/// Finds the rows that several transactions of the window merge into, and that it does nothing else to; tells how many
/// merges are declared on them. A sole merge is in nobody's way: it is made when its transaction commits, by who ran it,
/// and not by the leader while all others wait.
fn pool(shared: &Shared, window: &Window, mixer: &Mixer) -> u64 {
    let chunks = &window.chunks[..window.chunk_count() as usize];
    // A row is pooled in all chunks or in none: who asks for it beside a pool takes no latch. Bounded adds alone are not.
    if !chunks.iter().any(|chunk| chunk.read().expect("no panic with a chunk").declarations.merges) {
        return 0;
    }
    let mut pooled = 0;
    for chunk in chunks {
        for access in &mut chunk.write().expect("no panic with a chunk").declarations.accesses {
            // Where rows are also read as parts of a granule, their own accesses do not tell.
            if access.mode == Mode::Merge
                && access.is_row()
                && shared.store.any(access.table).conflicts_by_row()
                && mixer.merged_by_several(KeyHash(access.key))
            {
                access.of = Of::PooledRow;
                pooled += 1;
            }
        }
    }
    pooled
}
