//! A table without its types: what the store, the footprints and the end of a window ask of any of them.
#![allow(unsafe_code)]

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow, Range};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use mixlog_mixer::Mode;

use super::local::Told;
use super::{Index, TableStore};
use crate::agreement::{BUCKETS, bucket};
use crate::checkpoint::RowFormat;
use crate::codec::{Codec, DecodeError};
use crate::footprint::Footprint;
use crate::infer::Leaves;
use crate::interactive::Intention;
use crate::stats::TableMemory;
use crate::store::buried::bytes_of_row;
use crate::store::overlay::{Overlays, TouchedRow};
use crate::store::row::{Stamp, Version};
use crate::store::slab::RowId;
use crate::store::{AnyTable, SeeHashes, SeeRow, Undo, Unit, WindowEnd, Worker};
use crate::table::{Conflicts, Key, TableId, Value};
use crate::tx::{ByTable, Tx, leave_gaps};

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> AnyTable for TableStore<K, V, C> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn id(&self) -> TableId {
        self.id
    }

    fn is_derived(&self) -> bool {
        self.derived
    }

    fn types(&self) -> TypeId {
        TypeId::of::<Self>()
    }

    fn domain(&self) -> Option<&'static str> {
        match self.conflicts {
            Conflicts::Grouped { domain, .. } => Some(domain),
            Conflicts::Rows | Conflicts::Watched(_) | Conflicts::Ranges => None,
        }
    }

    fn describe_key(&self, key_hash: u64) -> Option<String> {
        let index = match &self.index {
            Index::Hash(index) => index,
            Index::Leaves(leaves) => &leaves.by_hash,
            Index::Ordered(_) => return None,
        };
        let mut found = None;
        index.find_pinned(key_hash, |id| {
            found = self.key_of(id).filter(|key| self.key_hash(key) == key_hash);
            found.is_some()
        });
        found.map(|key| <C as Codec<K>>::describe(&key))
    }

    fn describe_granules(&self, wanted: &mut BTreeMap<u64, Option<String>>) {
        let granule = match &self.conflicts {
            Conflicts::Watched(granule) | Conflicts::Grouped { granule, .. } => granule,
            Conflicts::Ranges => {
                for (leaf, fence) in self.leaves().fences() {
                    if let Some(text) = wanted.get_mut(&self.leaf_hash(leaf)) {
                        let from = fence.map(|key| <C as Codec<K>>::describe(&key));
                        *text = Some(format!("leaf from {}", from.as_deref().unwrap_or("the start")));
                    }
                }
                return;
            }
            Conflicts::Rows => return,
        };
        let mut missing = wanted.values().filter(|text| text.is_none()).count();
        for id in 0..self.rows.len() {
            if missing == 0 {
                return;
            }
            let Some(key) = self.key_of(id) else { continue };
            let number = granule.of(&key);
            if let Some(unknown @ None) = wanted.get_mut(&self.granule_hash(number)) {
                *unknown = Some(format!("granule {number}"));
                missing -= 1;
            }
        }
    }

    #[inline]
    fn prefetch_index(&self, key_hash: u64) {
        match &self.index {
            Index::Hash(index) => index.prefetch(key_hash),
            Index::Leaves(leaves) => leaves.by_hash.prefetch(key_hash),
            Index::Ordered(_) => {}
        }
    }

    #[inline]
    fn locate(&self, key_hash: u64) -> Option<RowId> {
        match &self.index {
            Index::Hash(index) => index.find(key_hash, |_| true),
            Index::Leaves(leaves) => leaves.by_hash.find(key_hash, |_| true),
            Index::Ordered(_) => None,
        }
    }

    fn prefetch_leaf(&self, leaf: u32) {
        if let Index::Leaves(leaves) = &self.index {
            leaves.in_order.prefetch(leaf);
        }
    }

    #[inline]
    fn prefetch_row(&self, id: RowId) {
        self.fetch_row(id);
    }

    unsafe fn is_absent(&self, overlays: &Overlays, touched: &TouchedRow) -> bool {
        // SAFETY: the caller's promise.
        unsafe { Self::is_absent(self, overlays, touched) }
    }

    unsafe fn adopt(
        &self,
        worker: &mut Worker,
        overlays: &Overlays,
        touched: &TouchedRow,
        window: Stamp,
        me: Stamp,
    ) {
        // SAFETY: the caller's promise.
        unsafe { Self::adopt(self, worker, overlays, touched, window, me) }
    }

    fn take_key_apart(&self, overlays: &Overlays, touched: &TouchedRow, leaves: &mut Leaves) -> bool {
        <C as Codec<K>>::take_apart(&overlays.of::<K, V>(self.number).get(touched.number).key, leaves)
    }

    fn granule_number(&self, overlays: &Overlays, touched: &TouchedRow) -> Option<u64> {
        let (Conflicts::Grouped { granule, .. } | Conflicts::Watched(granule)) = &self.conflicts else {
            return None;
        };
        Some(granule.of(&overlays.of::<K, V>(self.number).get(touched.number).key))
    }

    fn granule_hash(&self, number: u64) -> u64 {
        Self::granule_hash(self, number)
    }

    fn declare_granule(&self, number: u64, mode: Mode, f: &mut Footprint<'_>) {
        f.granule(self.number, self.granule_hash(number), mode);
    }

    fn declare_bytes(&self, key: &[u8], mode: Mode, f: &mut Footprint<'_>) -> Result<(), DecodeError> {
        Self::declare_bytes(self, key, mode, f)
    }

    fn declare_range(
        &self,
        from: Bound<&Vec<u8>>,
        to: Bound<&Vec<u8>>,
        f: &mut Footprint<'_>,
    ) -> Result<(), DecodeError> {
        Self::declare_range(self, from, to, f)
    }

    fn check_range(&self, from: Bound<&Vec<u8>>, to: Bound<&Vec<u8>>) -> Result<(), DecodeError> {
        Self::range_of(from, to).map(|_| ())
    }

    fn hash_of(&self, tx: &Tx<'_>, key: &[u8]) -> Result<Option<u128>, DecodeError> {
        Self::hash_of(self, tx, key)
    }

    fn hash_of_range(
        &self,
        tx: &Tx<'_>,
        from: Bound<&Vec<u8>>,
        to: Bound<&Vec<u8>>,
    ) -> Result<u128, DecodeError> {
        Self::hash_of_range(self, tx, from, to)
    }

    fn write_bytes(&self, tx: &mut Tx<'_>, key: &[u8], value: Option<&[u8]>) -> Result<(), DecodeError> {
        Self::write_bytes(self, tx, key, value)
    }

    fn intend(&self, overlays: &Overlays, touched: &TouchedRow, at: Stamp, intention: &mut Intention) {
        Self::intend(self, overlays, touched, at, intention);
    }

    fn intend_scans(&self, overlays: &Overlays, at: Stamp, intention: &mut Intention) {
        Self::intend_scans(self, overlays, at, intention);
    }

    fn declare(
        &self,
        overlays: &Overlays,
        touched: &TouchedRow,
        granules: bool,
        footprint: &mut Footprint<'_>,
    ) {
        let Some(mode) = touched.mode() else { return };
        let key = &overlays.of::<K, V>(self.number).get(touched.number).key;
        if granules && mode == Mode::Read && self.is_watched() {
            return footprint.granule(self.number, self.granule_of(key), mode);
        }
        footprint.access(self, key, touched.key_hash, touched.row, mode);
    }

    fn unit_of(&self, overlays: &Overlays, touched: &TouchedRow) -> Option<Unit> {
        Self::unit_of(self, overlays, touched)
    }

    fn granule_name(&self, overlays: &Overlays, hash: u64) -> Option<String> {
        Self::granule_name(self, overlays, hash)
    }

    fn conflicts_by_row(&self) -> bool {
        matches!(self.conflicts, Conflicts::Rows)
    }

    fn is_watched(&self) -> bool {
        matches!(self.conflicts, Conflicts::Watched(_) | Conflicts::Ranges)
    }

    fn has_ranges(&self) -> bool {
        matches!(self.conflicts, Conflicts::Ranges)
    }

    unsafe fn roll_back(&self, undo: Undo) {
        let row = self.row(undo.row);
        let version = undo.version.cast::<Version<V>>();
        // SAFETY: the caller's promise: the worker wrote the row in the running transaction, and `save` made
        // the version, in an arena that was not cleared since.
        unsafe { row.value_mut().clone_from(&version.as_ref().value) };
    }

    unsafe fn effect(&self, undo: Undo, scratch: &mut Vec<u8>) -> u128 {
        let row = self.row(undo.row);
        // SAFETY: the caller's promise, as in `roll_back`.
        let (key, before, after) =
            unsafe { (row.key(), &undo.version.cast::<Version<V>>().as_ref().value, row.value()) };
        let seed = self.digest_seed(key, scratch);
        let mut digest =
            |value: &Option<V>| value.as_ref().map_or(0, |value| Self::digest_value(value, seed, scratch));
        digest(after).wrapping_sub(digest(before))
    }

    fn clear_within(&self, worker: &mut Worker) {
        self.local(worker).within.clear();
    }

    unsafe fn undo_window(&self) {
        let mut absent = Vec::new();
        for local in &self.locals {
            // SAFETY: no worker runs, says the caller.
            let local = unsafe { &mut *local.get() };
            for mut version in local.window() {
                // SAFETY: in the arena. Only read before the latch is held: a snapshot may be reading it, too.
                let row = self.row(unsafe { version.as_ref() }.row);
                let mut latched = row.latch.lock();
                // SAFETY: as above; snapshots latch the row before they follow its chain to here.
                let version = unsafe { version.as_mut() };
                // SAFETY: under the latch, and no worker runs.
                let undone = unsafe {
                    row.set_chain(version.next);
                    std::mem::replace(row.value_mut(), version.value.take())
                };
                latched.stamp = version.stamp;
                drop(latched);
                // Without the latch: it may take long, or panic.
                drop(undone);
                // SAFETY: no worker runs.
                if unsafe { row.value().is_none() } && !row.listed.swap(true, Ordering::Relaxed) {
                    absent.push(version.row);
                }
            }
            local.absent.extend(absent.drain(..));
            local.versions.drop_newest(local.window_len());
            local.within.clear();
        }
    }

    unsafe fn end_window(&self, worker: &mut Worker, end: &WindowEnd) -> u128 {
        let number = worker.number();
        let mut scratch = std::mem::take(&mut worker.scratch);
        let mut all_buckets = std::mem::take(&mut worker.buckets);
        let first = usize::from(self.number) * BUCKETS;
        let buckets = all_buckets.get_mut(first..first + BUCKETS).unwrap_or_default();
        let local = self.local(worker);
        let listed_before = local.absent.len();
        let (mut digest, mut with_value, mut absent) = (0u128, 0, std::mem::take(&mut local.absent));
        for version in local.window() {
            // SAFETY: in the arena; nobody writes to it between windows.
            let version = unsafe { version.as_ref() };
            let row = self.row(version.row);
            // SAFETY: no worker runs a transaction, so rows change no more; nor is this one given back by another
            // worker, since its stamp lies in the window.
            let (key, value) = unsafe { (row.key(), row.value()) };
            with_value += i64::from(value.is_some()) - i64::from(version.value.is_some());
            if !self.derived {
                let seed = self.digest_seed(key, &mut scratch);
                let mut change = 0u128;
                if let Some(before) = &version.value {
                    change = change.wrapping_sub(Self::digest_value(before, seed, &mut scratch));
                }
                if let Some(after) = value {
                    change = change.wrapping_add(Self::digest_value(after, seed, &mut scratch));
                }
                digest = digest.wrapping_add(change);
                if let Some(sum) = buckets.get_mut(bucket(seed) as usize) {
                    *sum = sum.wrapping_add(change);
                }
            }
            if value.is_none() && !row.listed.swap(true, Ordering::Relaxed) {
                absent.push_back(version.row);
            }
        }
        local.absent = absent;
        local.with_value += with_value;
        local.end_window(end);
        let mut to_bury = Vec::new();
        for _ in 0..listed_before {
            let Some(&id) = local.absent.front() else { break };
            let row = self.row(id);
            let stamp = row.latch.stamp();
            // SAFETY: no worker runs a transaction.
            if unsafe { row.value().is_some() } {
                // Looked at first: a row that changes in every window must not hold up those behind it.
                row.listed.store(false, Ordering::Relaxed);
            } else if stamp >= end.first {
                // Rows of this window are left to a later one: other workers may be looking at them now.
                local.absent.push_back(id);
            } else if end.is_needed(stamp) {
                if !self.is_ordered() {
                    break;
                }
                to_bury.push(id);
            } else {
                // SAFETY: no value, no snapshot from before it was gone, and this list is the only one it is in.
                unsafe { self.give_back(id) };
                local.existing -= 1;
                local.free.push_back((end.window, id));
            }
            local.absent.pop_front();
        }
        // SAFETY: no worker runs a transaction, and the list was the only one that they were in.
        unsafe { self.bury(&to_bury, &mut local.buried) };
        while local.buried.front().is_some_and(|(.., stamp)| !end.is_needed(*stamp))
            && let Some((key, id, stamp)) = local.buried.pop_front()
        {
            if self.buried_with(&key).take_out(&key, id, stamp) {
                // SAFETY: no value, no snapshot from before it was gone, and it was buried here and has not come back.
                unsafe { self.row(id).free() };
                local.existing -= 1;
                local.free.push_back((end.window, id));
            }
        }
        self.share_numbers(local);
        let told = &self.told[number];
        told.with_value.store(local.with_value, Ordering::Relaxed);
        told.existing.store(local.existing, Ordering::Relaxed);
        told.versions.store(local.retained_len as u64, Ordering::Relaxed);
        told.buried.store(local.buried.len() as u64, Ordering::Relaxed);
        if local.buried.is_empty() {
            local.buried.shrink_to(64);
        }
        let undo_bytes = local.versions.bytes() + local.within.bytes();
        told.undo_bytes.store(undo_bytes as u64, Ordering::Relaxed);
        worker.scratch = scratch;
        worker.buckets = all_buckets;
        digest
    }

    fn visit_hashes_at(&self, at: Stamp, see: &mut SeeHashes<'_>) {
        let mut scratch = Vec::new();
        self.visit_at(at, |key, value| {
            let seed = self.digest_seed(key, &mut scratch);
            see(seed, Self::digest_value(value, seed, &mut scratch), &|| <C as Codec<K>>::describe(key));
            ControlFlow::Continue(())
        });
    }

    fn memory(&self) -> TableMemory {
        // Each worker tells what it added and took away: only the sums mean something, and while windows end they may
        // be off by what those windows change.
        let sum = |of: fn(&Told) -> &AtomicI64| {
            let sum: i64 = self.told.iter().map(|told| of(told).load(Ordering::Relaxed)).sum();
            sum.max(0) as u64
        };
        let total = |of: fn(&Told) -> &AtomicU64| -> u64 {
            self.told.iter().map(|told| of(told).load(Ordering::Relaxed)).sum()
        };
        let versions = total(|told| &told.versions);
        let existing = sum(|told| &told.existing);
        let buried =
            total(|told| &told.buried) * (size_of::<(K, RowId, Stamp)>() + bytes_of_row::<K>()) as u64;
        // What workers keep of them to themselves is little.
        let free = self.free.lock().expect("no panic while numbers change hands").capacity();
        TableMemory {
            name: self.name,
            rows: sum(|told| &told.with_value),
            rows_bytes: self.rows.bytes() + (free * size_of::<(u64, RowId)>()) as u64,
            versions,
            versions_bytes: versions * size_of::<Version<V>>() as u64,
            undo_bytes: total(|told| &told.undo_bytes),
            indexes_bytes: match &self.index {
                Index::Hash(index) => index.bytes(),
                Index::Ordered(index) => index.bytes(existing) + buried,
                Index::Leaves(leaves) => {
                    leaves.by_hash.bytes() + existing * size_of::<(K, RowId)>() as u64 + buried
                }
            },
        }
    }

    fn wants_adapting(&self) -> bool {
        matches!(&self.index, Index::Leaves(leaves) if leaves.in_order.wants_adapting())
    }

    unsafe fn adapt(&self) {
        if let Index::Leaves(leaves) = &self.index {
            leaves.in_order.adapt(|id, leaf| self.row(id).set_granule(self.leaf_hash(leaf)));
        }
    }

    unsafe fn reclaim(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            match &self.index {
                Index::Hash(index) => index.reclaim(),
                Index::Ordered(index) => index.reclaim(),
                Index::Leaves(leaves) => leaves.by_hash.reclaim(),
            }
        }
    }

    fn digest_at(&self, at: Stamp) -> u128 {
        let (mut sum, mut scratch) = (0u128, Vec::new());
        if self.derived {
            return sum;
        }
        self.for_each_at(at, |key, value| {
            let seed = self.digest_seed(key, &mut scratch);
            sum = sum.wrapping_add(Self::digest_value(value, seed, &mut scratch));
        });
        sum
    }

    fn row_version(&self) -> u32 {
        self.row_version
    }

    fn row_format(&self) -> RowFormat {
        Self::row_format(self)
    }

    fn leave_gaps(&self, all: &ByTable, found: Box<dyn Any + Send>) {
        leave_gaps::<K>(self.number, all, found);
    }

    fn visit_rows_at(&self, at: Stamp, see: &mut SeeRow<'_>) -> Result<(), DecodeError> {
        Self::visit_rows_at(self, at, see)
    }

    unsafe fn load_row(
        &self,
        worker: &mut Worker,
        key: &[u8],
        value: &[u8],
        at: Stamp,
    ) -> Result<(), DecodeError> {
        // SAFETY: the caller's promise.
        unsafe { Self::load_row(self, worker, key, value, at) }
    }

    fn is_indexed(&self) -> bool {
        Self::is_indexed(self)
    }

    fn numbers(&self) -> RowId {
        Self::numbers(self)
    }

    unsafe fn index_rows(&self, tx: &mut Tx<'_>, rows: Range<RowId>) -> Result<(), DecodeError> {
        // SAFETY: the caller's promise.
        unsafe { Self::index_rows(self, tx, rows) }
    }
}
