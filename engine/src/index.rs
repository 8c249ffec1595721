//! Secondary indexes: rows found by something else than their key.
//!
//! An index is an ordered table that the engine writes: one row without a value for each entry of a row of the indexed
//! table, under what the index orders by and the row's key. So everything that holds for tables holds for indexes: the guard
//! and the mixer keep them serializable, ranges have no phantoms, aborts put them back, snapshots see their past. What
//! does not hold: an index is derived, so it counts in no digest, and no log depends on it, but for interactive
//! transactions that read it; it can be added to a program at any time, and left out unless such ones are executed again.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec::{Codec, Serde};
use crate::footprint::Footprint;
use crate::store::GranuleOf;
use crate::table::{Conflicts, Granule, Key, Table, Value};
use crate::tx::Tx;

/// What an index can order by, and keys of tables that have indexes: keys that are serde types.
pub trait IndexKey: Key + Serialize + DeserializeOwned {}
impl<T: Key + Serialize + DeserializeOwned> IndexKey for T {}

/// The description of an index that finds rows of a table by an `I`, which need not be unique: several rows may have one,
/// and a row may have several ([`Index::many`]).
///
/// Make it a constant beside its table, name it to [`Builder::index`](crate::Builder::index), and read it with
/// [`Tx::range_by`], [`Snapshot::range_by`](crate::Snapshot::range_by) or
/// [`Transaction::range_by`](crate::Transaction::range_by):
///
/// ```
/// use mixlog_engine::{Index, Table};
///
/// const PEOPLE: Table<u64, (String, u32)> = Table::new("people");
/// const BY_NAME: Index<u64, (String, u32), String> =
///     Index::new("people.by_name", PEOPLE, |_, (name, _)| Some(name.clone()));
/// ```
pub struct Index<K, V, I, C = Serde> {
    name: &'static str,
    table: Table<K, V, C>,
    by: By<K, V, I>,
    group: Option<(&'static str, Granule<I>)>,
    version: u16,
}

/// What an index orders a row by.
enum By<K, V, I> {
    /// One place at most.
    One(fn(&K, &V) -> Option<I>),
    /// Any number of places.
    Many(fn(&K, &V) -> Vec<I>),
}

impl<K, V, I> Clone for By<K, V, I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K, V, I> Copy for By<K, V, I> {}

impl<K, V, I, C> Clone for Index<K, V, I, C> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K, V, I, C> Copy for Index<K, V, I, C> {}

impl<K, V, I, C> Index<K, V, I, C> {
    /// An index of `table` by what `by` says of a row, a pure function; rows of which it says `None` are left out.
    #[must_use]
    pub const fn new(name: &'static str, table: Table<K, V, C>, by: fn(&K, &V) -> Option<I>) -> Self {
        Self { name, table, by: By::One(by), group: None, version: 0 }
    }

    /// An index in which a row has any number of entries: one for each of what `by` says of it, a pure function, in any
    /// order. What it says twice counts once.
    ///
    /// ```
    /// use mixlog_engine::{Index, Table};
    ///
    /// const ARTICLES: Table<u64, (String, Vec<String>)> = Table::new("articles");
    /// const BY_TAG: Index<u64, (String, Vec<String>), String> =
    ///     Index::many("articles.by_tag", ARTICLES, |_, (_, tags)| tags.clone());
    /// ```
    #[must_use]
    pub const fn many(name: &'static str, table: Table<K, V, C>, by: fn(&K, &V) -> Vec<I>) -> Self {
        Self { name, table, by: By::Many(by), group: None, version: 0 }
    }

    /// Groups the index as [`Table::grouped`] does a table, by a part of what it orders by: of one domain with its
    /// table, an access to a granule covers both, and a procedure need not know what its rows are found by. All of a
    /// range must then lie in one granule. `granule` must be a pure function.
    ///
    /// In a domain that its table is not grouped in, the index has granules of its own: a procedure that declares its rows
    /// declares their places, too, as in an index that is not grouped. Otherwise each change of a place is a violation.
    ///
    /// What a granule costs that has no rows any more: [`Table::ordered`].
    ///
    /// Not grouped, an index is cut into leaves of some hundred rows, which are its units of conflict, and a procedure
    /// that writes rows declares their places by [`Footprint::write_by`](crate::Footprint::write_by).
    #[must_use]
    pub const fn grouped(self, domain: &'static str, granule: fn(&I) -> u64) -> Self {
        Self { group: Some((domain, granule)), ..self }
    }

    /// Gives what the index orders by a version, 0 if nothing is said. Interactive transactions note what they found in ranges
    /// of an index, and are decided by that when the log is executed again: a function that says something else of the
    /// same rows needs another version, or another name. A log with transactions that read a range in another version is
    /// refused.
    #[must_use]
    pub const fn version(self, version: u16) -> Self {
        Self { version, ..self }
    }

    /// The index's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The indexed table.
    #[must_use]
    pub const fn table(&self) -> &Table<K, V, C> {
        &self.table
    }

    /// The table that holds it. Keys of rows are part of it, so its version tells of that of the rows, too.
    pub(crate) const fn places(&self) -> Table<Place<I, K>, ()> {
        let version = self.table.row_version() ^ ((self.version as u32) << ROW_VERSION_BITS);
        Table::new(self.name).ordered().derived().version(version)
    }

    /// What conflicts with what in it.
    pub(crate) fn conflicts(&self) -> Conflicts<GranuleOf<Place<I, K>>>
    where
        I: 'static,
    {
        match self.group {
            None => Conflicts::Ranges,
            Some((domain, granule)) => {
                let granule = GranuleOf::Part(Box::new(move |place: &Place<I, K>| granule(&place.by)));
                Conflicts::Grouped { domain, granule }
            }
        }
    }
}

/// The version of an index's places is that of its rows, with its own from this bit on.
pub(crate) const ROW_VERSION_BITS: u32 = 16;

/// Where a row stands in an index: first by what the index orders by, then by the row's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Place<I, K> {
    by: I,
    key: Edge<K>,
}

/// A key, or what comes before or after all keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
enum Edge<K> {
    Before,
    At(K),
    After,
}

impl<I, K> Place<I, K> {
    pub(crate) const fn new(by: I, key: K) -> Self {
        Self { by, key: Edge::At(key) }
    }

    pub(crate) fn into_parts(self) -> (I, K) {
        match self.key {
            Edge::At(key) => (self.by, key),
            Edge::Before | Edge::After => unreachable!("rows of an index have keys"),
        }
    }
}

/// A range of places.
type Places<I, K> = (Bound<Place<I, K>>, Bound<Place<I, K>>);

/// The places of a range of what the index orders by.
pub(crate) fn places<I: Clone, K>(range: &impl RangeBounds<I>) -> Places<I, K> {
    let place = |by: &I, key| Place { by: by.clone(), key };
    let from = match range.start_bound() {
        Bound::Included(by) => Bound::Included(place(by, Edge::Before)),
        Bound::Excluded(by) => Bound::Excluded(place(by, Edge::After)),
        Bound::Unbounded => Bound::Unbounded,
    };
    let to = match range.end_bound() {
        Bound::Included(by) => Bound::Included(place(by, Edge::After)),
        Bound::Excluded(by) => Bound::Excluded(place(by, Edge::Before)),
        Bound::Unbounded => Bound::Unbounded,
    };
    (from, to)
}

/// An index, to the table that it indexes.
pub(crate) trait Maintain<K, V>: Send + Sync {
    /// A row changed: moves it in the index, if need be.
    fn moved(&self, tx: &mut Tx<'_>, key: &K, old: Option<&V>, new: Option<&V>);

    /// A row may change: declares where it moves from and to.
    fn declare(&self, f: &mut Footprint<'_>, key: &K, old: Option<&V>, new: Option<&V>);
}

impl<K: IndexKey, V: Value, I: IndexKey, C: Codec<K> + Codec<V>> Index<K, V, I, C> {
    /// What the row goes from, and then, with `true`, what it comes to.
    fn moves(&self, key: &K, old: Option<&V>, new: Option<&V>, mut each: impl FnMut(I, bool)) {
        match self.by {
            By::One(by) => {
                let place = |row: Option<&V>| row.and_then(|row| by(key, row));
                let (old, new) = (place(old), place(new));
                if old != new {
                    old.into_iter().for_each(|by| each(by, false));
                    new.into_iter().for_each(|by| each(by, true));
                }
            }
            By::Many(by) => {
                let places = |row: Option<&V>| row.map_or_else(Vec::new, |row| by(key, row));
                let (old, new) = (places(old), places(new));
                if old == new {
                    return;
                }
                let [old, new] = [old, new].map(BTreeSet::from_iter);
                old.difference(&new).for_each(|by| each(by.clone(), false));
                new.difference(&old).for_each(|by| each(by.clone(), true));
            }
        }
    }
}

impl<K: IndexKey, V: Value, I: IndexKey, C: Codec<K> + Codec<V>> Maintain<K, V> for Index<K, V, I, C> {
    fn moved(&self, tx: &mut Tx<'_>, key: &K, old: Option<&V>, new: Option<&V>) {
        let places = self.places();
        self.moves(key, old, new, |by, comes| {
            let place = Place::new(by, key.clone());
            if comes {
                tx.put(&places, place, ());
            } else {
                tx.delete(&places, &place);
            }
        });
    }

    fn declare(&self, f: &mut Footprint<'_>, key: &K, old: Option<&V>, new: Option<&V>) {
        let places = self.places();
        self.moves(key, old, new, |by, _| {
            f.write(&places, &Place::new(by, key.clone()));
        });
    }
}
