//! Typed descriptions of tables.

use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;

use foldhash::quality::FixedState;

use crate::codec::{Fixed, Serde};

/// What a key must be: any ordinary value type. Equal keys must hash equally, as ever, and serialize to equal bytes:
/// the digest is over bytes, and which of two equal keys a table keeps is not promised.
pub trait Key: Clone + Eq + Ord + Hash + Send + Sync + 'static {}
impl<T: Clone + Eq + Ord + Hash + Send + Sync + 'static> Key for T {}

/// What a row must be: any ordinary value type. It is cloned once per change, for undo.
///
/// In a [`Table::new`](crate::Table::new) rows and keys are written in postcard's format, which does not describe itself. So
/// attributes of serde that make what is read depend on names are not for them, nor for arguments and replies of
/// procedures: `skip_serializing_if`, `untagged`, `tag`, `flatten`, and types like `serde_json::Value`. Arguments of that kind
/// are refused when they are submitted; a row of that kind has a checkpoint fail before the log is trimmed. Fields with
/// `skip` are not part of the state: they must not matter to procedures, for they are gone when the state is loaded.
///
/// A row takes at most 2^30 bytes as it is written, with its key and 8 bytes: no checkpoint holds a longer one, and
/// while there is one the log is not trimmed ([`CheckpointError::TooLarge`](crate::checkpoint::CheckpointError::TooLarge)).
pub trait Value: Clone + Send + Sync + 'static {}
impl<T: Clone + Send + Sync + 'static> Value for T {}

/// The description of a table of rows `V` found by keys `K`; the rows themselves live in an engine.
///
/// Make it a constant, name it to [`Builder::table`](crate::Builder::table), and use it in procedures:
///
/// ```
/// use mixlog_engine::Table;
/// const ACCOUNTS: Table<u64, i64> = Table::new("accounts");
/// ```
///
/// Units of conflict: by default every row is its own. [`grouped`](Self::grouped) makes whole groups of rows
/// the unit, which suits rows whose keys a procedure cannot know from its arguments, and
/// [`watched`](Self::watched) keeps rows apart but lets a procedure read all rows of a group.
pub struct Table<K, V, C = Serde> {
    name: &'static str,
    conflicts: Conflicts<Granule<K>>,
    ordered: bool,
    derived: bool,
    version: u32,
    types: PhantomData<fn() -> (V, C)>,
}

/// The group of rows that a key belongs to.
pub(crate) type Granule<K> = fn(&K) -> u64;

/// What a table's description says besides names and types. The functions that tell groups are left out: whether two of
/// them are the same cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    conflicts: Conflicts<()>,
    ordered: bool,
    version: u32,
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.conflicts {
            Conflicts::Rows | Conflicts::Ranges => f.write_str("not grouped")?,
            Conflicts::Watched(()) => f.write_str("watched")?,
            Conflicts::Grouped { domain, .. } => write!(f, "grouped in domain {domain:?}")?,
        }
        write!(f, ", {}ordered, version {}", if self.ordered { "" } else { "not " }, self.version)
    }
}

/// What conflicts with what in a table, whose groups are told by a `G`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conflicts<G> {
    /// Each row is a unit.
    Rows,
    /// Each row is a unit, and groups can be read as a whole.
    Watched(G),
    /// Each row is a unit, and ranges can be read as a whole.
    Ranges,
    /// Each group is a unit, shared by all tables of the domain.
    Grouped { domain: &'static str, granule: G },
}

impl<K, V, C> Clone for Table<K, V, C> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K, V, C> Copy for Table<K, V, C> {}

impl<K, V> Table<K, V, Serde> {
    /// A table whose keys and rows are serde types.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self::coded(name)
    }
}

impl<K, V> Table<K, V, Fixed> {
    /// A table whose keys and rows are plain fixed-size types without padding: their digests cost nothing to encode.
    ///
    /// Integers, arrays of them and [`Sum`](crate::Sum) are such types. Others derive `IntoBytes`, `TryFromBytes` and
    /// `Immutable` of the crate `zerocopy`, version 0.8.
    #[must_use]
    pub const fn fixed(name: &'static str) -> Self {
        Self::coded(name)
    }
}

impl<K, V, C> Table<K, V, C> {
    /// A table with a codec of the engine's own.
    pub(crate) const fn coded(name: &'static str) -> Self {
        Self {
            name,
            conflicts: Conflicts::Rows,
            ordered: false,
            derived: false,
            version: 1,
            types: PhantomData,
        }
    }

    /// Rows conflict one by one, and a procedure may also read all rows of a granule
    /// ([`Footprint::read_granule`](crate::Footprint::read_granule)), which conflicts with every change of one
    /// of them. `granule` must be a pure function.
    ///
    /// Cost: every declared write carries one more key for the mixer.
    ///
    /// # Panics
    /// At compile time, for an [`ordered`](Self::ordered) table.
    #[must_use]
    pub const fn watched(self, granule: fn(&K) -> u64) -> Self {
        assert!(!self.ordered, "an ordered table cannot be watched: ordered tables can be read in ranges");
        Self { conflicts: Conflicts::Watched(granule), ..self }
    }

    /// The granule, not the row, is the unit of conflict: a procedure declares granules and may touch any row
    /// in them. Tables that name one `domain` share their granules, so that one declaration covers rows of all.
    /// `granule` must be a pure function.
    ///
    /// The functions of one domain's tables are to agree on which rows belong together. Each is of keys of its own, so the
    /// engine cannot tell whether they do. Where they do not, a declaration covers other rows than it was meant to: no
    /// result is wrong, but each access to a row that it does not cover is a violation, and costs a replay.
    /// [`assert_footprint!`](crate::assert_footprint) finds that in a test.
    ///
    /// ```
    /// use mixlog_engine::{Footprint, Table};
    ///
    /// // An order and its lines are one unit: whoever declares the order may touch all of them.
    /// const ORDERS: Table<u64, String> = Table::new("orders").grouped("order", |&order| order);
    /// const LINES: Table<(u64, u32), String> = Table::new("lines").ordered().grouped("order", |&(order, _)| order);
    ///
    /// fn footprint(f: &mut Footprint<'_>) {
    ///     f.write_granule(&ORDERS, 17);
    /// }
    /// ```
    ///
    /// Name it last: the closure's argument gets its type from the constant's. Before other calls it needs to be told, as
    /// in `|&(order, _): &(u64, u32)| order`.
    #[must_use]
    pub const fn grouped(self, domain: &'static str, granule: fn(&K) -> u64) -> Self {
        Self { conflicts: Conflicts::Grouped { domain, granule }, ..self }
    }

    /// Keeps the keys in order, for [`Tx::range`](crate::Tx::range), [`first`](crate::Tx::first) and
    /// [`last`](crate::Tx::last).
    ///
    /// In a [`grouped`](Self::grouped) table the keys of each granule are in an order of their own. Otherwise rows
    /// conflict one by one, and a range conflicts with every change of a row in it: the engine cuts the keys into
    /// leaves of some hundred rows, splits them as the table grows, and takes them for granules.
    ///
    /// Cost, if not grouped: a second index, and one more key for the mixer for every declared write.
    ///
    /// Cost, if grouped: some 300 bytes for each granule that ever had a row, and about 1.5 KiB more for one of which a row was
    /// deleted that a snapshot still saw. They are kept for the granule's next rows until the engine is closed, though there
    /// may be none: where groups come and go without end, as sessions do, let granules stand for many of them, say by the
    /// number modulo some thousand.
    ///
    /// # Panics
    /// At compile time, for a [`watched`](Self::watched) table.
    #[must_use]
    pub const fn ordered(self) -> Self {
        let conflicts = match self.conflicts {
            Conflicts::Grouped { domain, granule } => Conflicts::Grouped { domain, granule },
            Conflicts::Rows | Conflicts::Ranges => Conflicts::Ranges,
            Conflicts::Watched(_) => {
                panic!("a watched table cannot be ordered: ordered tables can be read in ranges")
            }
        };
        Self { ordered: true, conflicts, ..self }
    }

    /// The version of the row type; 1 unless told. To be raised when the bytes of keys or rows come to mean something else:
    /// checkpoints of another version are converted while they are loaded, if [`Builder::convert`](crate::Builder::convert)
    /// told how, and refused by name and version otherwise, instead of being read as what they are not.
    ///
    /// Interactive transactions put keys and rows into the log, with their versions. Those of another version are refused
    /// ([`OpenError::RowVersion`](crate::OpenError::RowVersion)), also where there is a conversion: start from a checkpoint
    /// after the last one.
    #[must_use]
    pub const fn version(self, version: u32) -> Self {
        Self { version, ..self }
    }

    pub(crate) const fn row_version(&self) -> u32 {
        self.version
    }

    /// The table's name, its identity.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) const fn id(&self) -> TableId {
        TableId::of(self.name)
    }

    pub(crate) const fn conflicts(&self) -> Conflicts<Granule<K>> {
        self.conflicts
    }

    pub(crate) fn settings(&self) -> Settings {
        let (ordered, version) = (self.ordered, self.version);
        Settings { conflicts: self.conflicts.map(|_| ()), ordered, version }
    }

    /// Its rows follow from those of other tables: no digest counts them.
    pub(crate) const fn derived(self) -> Self {
        Self { derived: true, ..self }
    }

    pub(crate) const fn is_derived(&self) -> bool {
        self.derived
    }

    pub(crate) const fn is_ordered(&self) -> bool {
        self.ordered
    }
}

impl<G> Conflicts<G> {
    pub(crate) fn map<H>(self, to: impl FnOnce(G) -> H) -> Conflicts<H> {
        match self {
            Self::Rows => Conflicts::Rows,
            Self::Watched(granule) => Conflicts::Watched(to(granule)),
            Self::Ranges => Conflicts::Ranges,
            Self::Grouped { domain, granule } => Conflicts::Grouped { domain, granule: to(granule) },
        }
    }
}

/// A table's name as a number, known at compile time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableId(pub(crate) u64);

impl TableId {
    /// FNV-1a, 64 bits.
    pub(crate) const fn of(name: &str) -> Self {
        let bytes = name.as_bytes();
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let mut i = 0;
        while i < bytes.len() {
            hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
            i += 1;
        }
        Self(hash)
    }

    /// The hash of a key of this table (or a granule of this domain): what footprints and indexes go by.
    #[inline]
    pub(crate) fn hash<K: Hash>(self, key: &K) -> u64 {
        FixedState::with_seed(self.0).hash_one(key)
    }
}
