//! Rows by their bytes: how intentions name them.

use std::ops::Bound;

use mixlog_mixer::Mode;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use super::{AnyTable, Did, Overlays, Stamp, TableStore, TouchedRow};
use crate::codec::{Codec, DecodeError};
use crate::footprint::{Footprint, NOWHERE};
use crate::interactive::{Intention, Read, Scanned, Written};
use crate::store::overlay::Scan;
use crate::table::{Key, Value};
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

    pub(super) fn declare_range(
        &self,
        from: Bound<&Vec<u8>>,
        to: Bound<&Vec<u8>>,
        f: &mut Footprint<'_>,
    ) -> Result<(), DecodeError> {
        let range: (Bound<K>, Bound<K>) =
            (map_bound(from, |key| C::from_bytes(key))?, map_bound(to, |key| C::from_bytes(key))?);
        f.range_in(self, &range);
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
        let range: (Bound<K>, Bound<K>) =
            (map_bound(from, |key| C::from_bytes(key))?, map_bound(to, |key| C::from_bytes(key))?);
        let mut hash = RangeHash::default();
        for (key, value) in tx.range_in(self, range) {
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
        let (table, key) = (self.id().0, to_bytes::<K, C>(&looked.key));
        let mut is_known_to_be_absent = false;
        if touched.did.has(Did::READ) {
            let before = self.find_at(&looked.key, touched.key_hash, at);
            is_known_to_be_absent = before.is_none();
            let hash = before.map(|(_, _, value)| Self::hash_value(&value));
            intention.reads.push(Read { table, key: key.clone(), hash });
        }
        if touched.did.has(Did::WRITTEN)
            && let Some(value) = looked.written_value()
            // To delete what is not there changes nothing.
            && !(is_known_to_be_absent && value.is_none())
        {
            intention.writes.push(Written { table, key, value: value.as_ref().map(to_bytes::<V, C>) });
        }
    }

    pub(super) fn intend_scans(&self, overlays: &Overlays, at: Stamp, intention: &mut Intention) {
        let mut add = |from: Bound<K>, to: Bound<K>| {
            let mut hash = RangeHash::default();
            let mut rows = self.row_ids_pinned(&(from.clone(), to.clone()));
            while let Some(id) = rows.next(&mut |_| ()) {
                if let Some((key, _, value)) = self.copy_at(id, at) {
                    hash.add::<K, V, C>(&key, &value);
                }
            }
            let Ok(from) = map_bound(from, |key| Ok::<_, ()>(to_bytes::<K, C>(&key))) else { return };
            let Ok(to) = map_bound(to, |key| Ok::<_, ()>(to_bytes::<K, C>(&key))) else { return };
            intention.scans.push(Scanned { table: self.id().0, from, to, hash: hash.hash.digest128() });
        };
        for Scan { from, to, front, back, all } in overlays.of::<K, V>(self.number()).scans().iter() {
            if *all {
                add(from.clone(), to.clone());
                continue;
            }
            if let Some(last) = front {
                add(from.clone(), Bound::Included(last.clone()));
            }
            if let Some(first) = back {
                add(Bound::Included(first.clone()), to.clone());
            }
        }
    }
}
