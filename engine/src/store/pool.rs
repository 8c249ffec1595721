//! Merges that wait for the end of the window's execution.
//!
//! A row that several transactions of a window merge into and that it does nothing else to
//! ([`Mixer::merged_by_several`](mixlog_mixer::Mixer::merged_by_several)) is looked at by nobody before the window ends. Made
//! one by one, merges into such a row would pass its cache lines from core to core, and those who merge ask the row whether
//! it accepts that, too. So each worker keeps its own, one for each row where the operator can put two deltas together
//! ([`Merge::combine`](crate::Merge::combine)), and the leader makes them when all workers have met. Meanwhile nobody
//! writes to the row.

use mixlog_log::Position;

use super::{AnyMerging, Stamp, Store, Worker};

/// Among how many kept merges one of the same row is looked for.
const LOOKED_AT: usize = 32;

struct Pooled {
    table: u16,
    key_hash: u64,
    /// The newest transaction whose delta is in it.
    position: Position,
    merging: Box<dyn AnyMerging>,
}

/// One worker's merges.
#[derive(Default)]
pub(crate) struct Pool(Vec<Pooled>);

impl Pool {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Keeps a merge of the transaction at `position`, which commits.
    pub(crate) fn add(&mut self, mut merging: Box<dyn AnyMerging>, position: Position) {
        let (table, key_hash) = merging.place();
        let known = &mut self.0.iter_mut().take(LOOKED_AT);
        if let Some(pooled) = known.find(|pooled| pooled.key_hash == key_hash && pooled.table == table) {
            match pooled.merging.combine(merging) {
                None => {
                    pooled.position = pooled.position.max(position);
                    return;
                }
                Some(back) => merging = back,
            }
        }
        self.0.push(Pooled { table, key_hash, position, merging });
    }

    /// Makes all of them; the error is that an operator panicked, and the window is to be undone.
    ///
    /// # Safety
    /// All workers have executed the window that starts at `window`, and none runs.
    #[expect(unsafe_code, reason = "merges are made in rows")]
    pub(crate) unsafe fn make(&self, store: &Store, worker: &mut Worker, window: Stamp) -> Result<(), ()> {
        self.0.iter().try_for_each(|pooled| {
            let Pooled { position, merging, .. } = pooled;
            // SAFETY: nobody else is at the row.
            let made = unsafe { merging.make(store, worker, window, Stamp::of(*position), *position) };
            made.map_err(drop)
        })
    }
}
