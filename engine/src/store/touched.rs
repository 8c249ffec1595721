//! What a speculation touched, for people: units of conflict with names.

use std::ops::Bound;

use mixlog_mixer::Mode;

use super::overlay::Overlays;
use super::table_store::TableStore;
use crate::codec::Codec;
use crate::table::{Conflicts, Key, Value};

/// A unit of conflict that a transaction touched: what its footprint must name.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) hash: u64,
    pub(crate) mode: Mode,
    /// The hash of the granule whose declaration allows reading the row as well.
    pub(crate) also_by: Option<u64>,
    pub(crate) is_row: bool,
    /// The row's key, or the granule's number.
    pub(crate) name: String,
}

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> TableStore<K, V, C> {
    /// What a footprint must name for the row with this number in the overlay; `None` for a row that was only met in
    /// a range, whose granule counts.
    pub(crate) fn unit_of(&self, overlays: &Overlays, number: u32) -> Option<Unit> {
        let looked = overlays.table::<K, V>(self.number()).get(number);
        let mode = match (looked.written.get(), looked.merged.get(), looked.read.get()) {
            (true, ..) => Mode::Write,
            (_, true, _) => Mode::Merge,
            (.., true) => Mode::Read,
            (false, false, false) => return None,
        };
        let row = |also_by| Unit {
            hash: looked.key_hash,
            mode,
            also_by,
            is_row: true,
            name: <C as Codec<K>>::describe(&looked.key),
        };
        Some(match self.conflicts {
            Conflicts::Rows => row(None),
            Conflicts::Watched(_) => row(Some(self.granule_of(&looked.key))),
            Conflicts::Grouped { granule, .. } => {
                let (granule, hash) = (granule(&looked.key), self.granule_of(&looked.key));
                let mode = if mode == Mode::Read { Mode::Read } else { Mode::Write };
                Unit { hash, mode, also_by: None, is_row: false, name: granule.to_string() }
            }
        })
    }

    /// The number of the granule with this hash, if the bounds of a range that was walked tell it.
    pub(crate) fn granule_named(&self, overlays: &Overlays, hash: u64) -> Option<u64> {
        let (Conflicts::Watched(granule) | Conflicts::Grouped { granule, .. }) = self.conflicts else {
            return None;
        };
        let scans = overlays.table::<K, V>(self.number()).scans();
        let bounds = scans.iter().flat_map(|scan| [&scan.from, &scan.to]);
        let keys = bounds.filter_map(|bound| match bound {
            Bound::Included(key) | Bound::Excluded(key) => Some(key),
            Bound::Unbounded => None,
        });
        keys.map(granule).find(|&number| self.granule_hash(number) == hash)
    }
}
