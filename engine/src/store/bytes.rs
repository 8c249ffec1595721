//! Rows by their bytes: how intentions name them.

use std::cmp::Ordering;
use std::ops::Bound;

use mixlog_mixer::Mode;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use super::{AnyTable, Did, Overlays, Stamp, TableStore, TouchedRow};
use crate::codec::{Codec, DecodeError};
use crate::footprint::{Footprint, NOWHERE};
use crate::interactive::{Intention, Placed, Read, Scanned, Written};
use crate::store::leaf_index::is_empty;
use crate::store::overlay::Scan;
use crate::table::{Conflicts, Key, Value};
use crate::tx::Tx;

fn to_bytes<T, C: Codec<T>>(value: &T) -> Vec<u8> {
    C::with_bytes(value, &mut Vec::new(), <[u8]>::to_vec)
}

fn map_bound<T, U, E>(bound: Bound<T>, map: impl FnOnce(T) -> Result<U, E>) -> Result<Bound<U>, E> {
    Ok(match bound {
        Bound::Included(key) => Bound::Included(map(key)?),
        Bound::Excluded(key) => Bound::Excluded(map(key)?),
        Bound::Unbounded => Bound::Unbounded,
    })
}

/// Hashes rows in order.
#[derive(Default)]
struct RangeHash {
    hash: Xxh3Default,
    scratch: Vec<u8>,
}

impl RangeHash {
    fn add<K, V, C: Codec<K> + Codec<V>>(&mut self, key: &K, value: &V) {
        let Self { hash, scratch } = self;
        let mut add = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        <C as Codec<K>>::with_bytes(key, scratch, &mut add);
        <C as Codec<V>>::with_bytes(value, scratch, &mut add);
    }
}

impl<K: Key, V: Value, C: Codec<K> + Codec<V>> TableStore<K, V, C> {
    pub(super) fn declare_bytes(
        &self,
        key: &[u8],
        mode: Mode,
        f: &mut Footprint<'_>,
    ) -> Result<(), DecodeError> {
        let key: K = C::from_bytes(key)?;
        f.access(self, &key, self.key_hash(&key), NOWHERE, mode);
        Ok(())
    }

    pub(super) fn range_of(from: Bound<&Vec<u8>>, to: Bound<&Vec<u8>>) -> Result<Bounds<K>, DecodeError> {
        Ok((map_bound(from, |key| C::from_bytes(key))?, map_bound(to, |key| C::from_bytes(key))?))
    }

    pub(super) fn declare_range(
        &self,
        from: Bound<&Vec<u8>>,
        to: Bound<&Vec<u8>>,
        f: &mut Footprint<'_>,
    ) -> Result<(), DecodeError> {
        f.range_in(self, &Self::range_of(from, to)?);
        Ok(())
    }

    pub(super) fn hash_of(&self, tx: &Tx<'_>, key: &[u8]) -> Result<Option<u128>, DecodeError> {
        let key: K = C::from_bytes(key)?;
        Ok(tx.get_in(self, &key).map(Self::hash_value))
    }

    fn hash_value(value: &V) -> u128 {
        C::with_bytes(value, &mut Vec::new(), xxh3_128)
    }

    pub(super) fn hash_of_range(
        &self,
        tx: &Tx<'_>,
        from: Bound<&Vec<u8>>,
        to: Bound<&Vec<u8>>,
    ) -> Result<u128, DecodeError> {
        let mut hash = RangeHash::default();
        for (key, value) in tx.range_in(self, Self::range_of(from, to)?) {
            hash.add::<K, V, C>(&key, value);
        }
        Ok(hash.hash.digest128())
    }

    pub(super) fn write_bytes(
        &self,
        tx: &mut Tx<'_>,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), DecodeError> {
        let key: K = C::from_bytes(key)?;
        match value {
            Some(value) => tx.put_in(self, key, C::from_bytes(value)?),
            None => {
                tx.delete_in(self, &key);
            }
        }
        Ok(())
    }

    pub(super) fn intend(
        &self,
        overlays: &Overlays,
        touched: &TouchedRow,
        at: Stamp,
        intention: &mut Intention,
    ) {
        let looked = overlays.of::<K, V>(self.number()).get(touched.number);
        let key = to_bytes::<K, C>(&looked.key);
        if self.derived {
            // It follows from the indexed row, which was read.
            if touched.did.has(Did::WRITTEN) {
                intention.places.push(Placed { index: self.id().0, key });
            }
            return;
        }
        let mut is_known_to_be_absent = false;
        if touched.did.has(Did::READ) {
            let before = self.find_at(&looked.key, touched.key_hash, at);
            is_known_to_be_absent = before.is_none();
            let hash = before.map(|(_, _, value)| Self::hash_value(&value));
            let table = intention.name(self);
            intention.reads.push(Read { table, key: key.clone(), hash });
        }
        if touched.did.has(Did::WRITTEN)
            && let Some(value) = looked.written_value()
            // To delete what is not there changes nothing.
            && !(is_known_to_be_absent && value.is_none())
        {
            let table = intention.name(self);
            intention.writes.push(Written { table, key, value: value.as_ref().map(to_bytes::<V, C>) });
        }
    }

    pub(super) fn intend_scans(&self, overlays: &Overlays, at: Stamp, intention: &mut Intention) {
        let mut ranges = Vec::new();
        for Scan { from, to, front, back, all } in overlays.of::<K, V>(self.number()).scans().iter() {
            if *all {
                ranges.push((from.clone(), to.clone()));
                continue;
            }
            if let Some(last) = front {
                ranges.push((from.clone(), Bound::Included(last.clone())));
            }
            if let Some(first) = back {
                ranges.push((Bound::Included(first.clone()), to.clone()));
            }
        }
        let granule = |range: &_| match self.conflicts {
            Conflicts::Ranges => 0,
            _ => self.granule_of_range(range),
        };
        for range in joined(ranges, granule) {
            let mut hash = RangeHash::default();
            for (key, value) in self.range_at(&range, at) {
                hash.add::<K, V, C>(&key, &value);
            }
            let [from, to] = [range.0, range.1].map(|bound| bound.map(|key| to_bytes::<K, C>(&key)));
            let table = intention.name(self);
            intention.scans.push(Scanned { table, from, to, hash: hash.hash.digest128() });
        }
    }
}

type Bounds<K> = (Bound<K>, Bound<K>);

/// Ranges that cover what these cover, and no key twice: who takes one row after another from the front of a queue has
/// walked over the same keys again and again. Those of several granules stay apart, and each keeps a bound that tells its own.
fn joined<K: Ord>(ranges: Vec<Bounds<K>>, granule: impl Fn(&Bounds<K>) -> u64) -> Vec<Bounds<K>> {
    let mut ranges: Vec<_> = ranges
        .into_iter()
        .filter(|(from, to)| !is_empty(from.as_ref(), to.as_ref()))
        .map(|range| (granule(&range), range))
        .collect();
    ranges.sort_by(|(a_granule, (a, _)), (b_granule, (b, _))| {
        // The one that begins first.
        let place = |bound: &Bound<_>| match bound {
            Bound::Unbounded => 0,
            Bound::Included(_) => 1,
            Bound::Excluded(_) => 2,
        };
        let order = match (a, b) {
            (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => a.cmp(b),
            _ => Ordering::Equal,
        };
        a_granule.cmp(b_granule).then(order).then(place(a).cmp(&place(b)))
    });
    let mut joined: Vec<(u64, Bounds<K>)> = Vec::new();
    for (granule, (from, to)) in ranges {
        if let Some((last_granule, (first, last))) = joined.last_mut()
            && *last_granule == granule
            && !is_empty(from.as_ref(), last.as_ref())
            && !(matches!(first, Bound::Unbounded) && matches!(to, Bound::Unbounded))
        {
            // The one that ends last.
            let is_further = match (&*last, &to) {
                (Bound::Unbounded, _) => false,
                (_, Bound::Unbounded) => true,
                (Bound::Excluded(last), Bound::Included(to)) => to >= last,
                (
                    Bound::Included(last) | Bound::Excluded(last),
                    Bound::Included(to) | Bound::Excluded(to),
                ) => to > last,
            };
            if is_further {
                *last = to;
            }
            continue;
        }
        joined.push((granule, (from, to)));
    }
    joined.into_iter().map(|(_, range)| range).collect()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn joined_ranges_cover_the_same_keys_and_none_of_them_twice() {
        let mut state = 7u64;
        let mut below = |bound: u64| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 33) % bound
        };
        let contains = |range: &Bounds<u64>, key: u64| std::ops::RangeBounds::contains(range, &key);
        for round in 0..5_000 {
            // Both bounds of a range lie in one granule.
            let bound = |below: &mut dyn FnMut(u64) -> u64, granule| match below(9) {
                0 => Bound::Unbounded,
                1..5 => Bound::Included(2 * below(10) + granule),
                _ => Bound::Excluded(2 * below(10) + granule),
            };
            let mut range = |_| {
                let granule = below(2);
                (bound(&mut below, granule), bound(&mut below, granule))
            };
            let ranges: Vec<_> = (0..round % 8).map(&mut range).collect();
            let of = |range: &Bounds<u64>| match range {
                (Bound::Included(key) | Bound::Excluded(key), _)
                | (_, Bound::Included(key) | Bound::Excluded(key)) => key % 2,
                (Bound::Unbounded, Bound::Unbounded) => 2,
            };
            let joined = joined(ranges.clone(), of);
            for granule in 0..3 {
                let of_granule = |ranges: &[Bounds<u64>]| -> Vec<_> {
                    ranges.iter().copied().filter(|range| of(range) == granule).collect()
                };
                let (before, after) = (of_granule(&ranges), of_granule(&joined));
                for key in 0..21 {
                    // Two halves of a line are not made one without bounds.
                    let count =
                        |ranges: &[Bounds<u64>]| ranges.iter().filter(|range| contains(range, key)).count();
                    assert_eq!(count(&before) > 0, count(&after) > 0, "round {round}, {key}: {ranges:?}");
                    let halves = after
                        .iter()
                        .filter(|range| matches!(range, (Bound::Unbounded, _) | (_, Bound::Unbounded)));
                    assert!(
                        count(&after) <= 1 || halves.count() > 1,
                        "round {round}, {key}: {ranges:?}, {joined:?}"
                    );
                }
            }
        }
    }
}
