//! What a speculation touched, for people: units of conflict with names.

use std::ops::{Bound, RangeBounds};

use mixlog_mixer::Mode;

use super::overlay::{Did, Overlays, TouchedRow};
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
    pub(crate) fn unit_of(&self, overlays: &Overlays, touched: &TouchedRow) -> Option<Unit> {
        let looked = overlays.of::<K, V>(self.number()).get(touched.number);
        let mode = if touched.did.has(Did::ASKED) { Mode::Merge } else { touched.mode()? };
        let row = |also_by| Unit {
            hash: touched.key_hash,
            mode,
            also_by,
            is_row: true,
            name: key_name::<K, C>(&looked.key),
        };
        Some(match &self.conflicts {
            Conflicts::Rows => row(None),
            Conflicts::Watched(_) | Conflicts::Ranges => row(Some(self.granule_of(&looked.key))),
            Conflicts::Grouped { granule, .. } => {
                let (granule, hash) = (granule.of(&looked.key), self.granule_of(&looked.key));
                let mode = if mode == Mode::Read { Mode::Read } else { Mode::Write };
                Unit { hash, mode, also_by: None, is_row: false, name: granule.to_string() }
            }
        })
    }

    /// The name of the granule with this hash, if a range that was walked tells it.
    pub(crate) fn granule_name(&self, overlays: &Overlays, hash: u64) -> Option<String> {
        let scans = overlays.of::<K, V>(self.number()).scans();
        let mut ranges = scans.iter().map(|scan| (scan.from.as_ref(), scan.to.as_ref()));
        let range = ranges.find(|range| {
            if !matches!(self.conflicts, Conflicts::Ranges) {
                return self.granule_of_range(range) == hash;
            }
            let mut is_in = false;
            self.granules_of_range(range, |_, granule, _| {
                is_in |= granule == hash;
                !is_in
            });
            is_in
        });
        range.map(|range| self.name_of_range(&range))
    }

    /// The range, or the number of the granule that it lies in.
    pub(crate) fn name_of_range(&self, range: &impl RangeBounds<K>) -> String {
        let key = |bound| match bound {
            Bound::Included(key) | Bound::Excluded(key) => Some(key),
            Bound::Unbounded => None,
        };
        let (from, to) = (range.start_bound(), range.end_bound());
        if let (Conflicts::Watched(granule) | Conflicts::Grouped { granule, .. }, Some(key)) =
            (&self.conflicts, key(from).or_else(|| key(to)))
        {
            return granule.of(key).to_string();
        }
        let name = |key| key_name::<K, C>(key);
        let from = match from {
            Bound::Included(key) => name(key),
            Bound::Excluded(key) => format!("after {}", name(key)),
            Bound::Unbounded => String::new(),
        };
        let to = match to {
            Bound::Included(key) => format!("={}", name(key)),
            Bound::Excluded(key) => name(key),
            Bound::Unbounded => String::new(),
        };
        format!("{from}..{to}")
    }
}

fn key_name<K, C: Codec<K>>(key: &K) -> String {
    C::describe(key)
}
