//! For authors of procedures: what a call touches, compared with what it declares.
//!
//! The call runs as a speculation, on a state of the past and apart from all others, so that nothing changes. What it
//! looked at and changed there is held against its footprint by the rules of the guard ([`Tx`]).

use std::fmt;

use mixlog_log::Position;
use mixlog_mixer::Mode;

use crate::ahead::speculate;
use crate::codec;
use crate::engine::{Engine, Replay, now_us};
use crate::footprint::{self, Declarations, Footprint};
use crate::panics::caught;
use crate::procedure::{Procedure, Registered};
use crate::reply::Status;
use crate::snapshot::Snapshot;
use crate::store::{AnyTable, Beside, Overlays, Store, Touched, Unit};
use crate::tx::Tx;

/// What a call touched, compared with what it declared.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FootprintReport {
    /// The procedure's name.
    pub procedure: &'static str,
    /// The call's arguments, as JSON.
    pub arguments: String,
    /// The state that it ran on: the last position that had been executed.
    pub after: Option<Position>,
    /// What the footprint is like.
    pub declared: Declared,
    /// How the call ended. Of one that aborts or panics only what it touched until then is known.
    pub ending: Ending,
    /// Touched and not declared, each unit of conflict once. It costs a replay of the window, one by one.
    pub missing: Vec<Access>,
    /// Declared in vain. It makes other transactions wait.
    ///
    /// Rows named in a [`grouped`](crate::Table::grouped) table are no surplus if something else in their granule is
    /// touched: the granule is what others wait for.
    pub surplus: Vec<InVain>,
}

/// What a footprint is like.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Declared {
    /// A list of accesses.
    Accesses,
    /// The engine is to find out ([`Footprint::reconnoitre`]), so that nothing can be missing.
    ToBeFound,
    /// The call may touch anything ([`Footprint::unknown`]), so that nothing can be missing; it runs alone.
    Anything,
    /// It panicked with this message. The call runs alone.
    Panicked(String),
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It would have committed.
    Committed,
    /// It decided to abort, for this reason.
    Aborted(String),
    /// It panicked with this message.
    Panicked(String),
}

/// One access, as a footprint would declare it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// The table's name; one of them where tables share granules.
    pub table: &'static str,
    /// What to declare.
    pub mode: AccessMode,
    /// The key of the row ([`Codec::describe`](crate::Codec::describe)), the number of the granule, or the range.
    pub key: String,
}

/// How a footprint declares an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AccessMode {
    /// [`Footprint::read`].
    Read,
    /// [`Footprint::write`].
    Write,
    /// [`Footprint::merge`].
    Merge,
    /// [`Footprint::read_granule`], or reading a row of a grouped table.
    ReadGranule,
    /// [`Footprint::range`].
    ReadRange,
    /// [`Footprint::write_granule`], or writing a row of a grouped table.
    WriteGranule,
}

/// An access that was declared in vain, at least in part.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InVain {
    /// What was declared.
    pub declared: Access,
    /// What would have been enough; `None` when nothing of the kind was touched.
    pub enough: Option<AccessMode>,
}

impl FootprintReport {
    /// Whether all that was touched is declared, by a footprint that did not panic.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.missing.is_empty() && !matches!(self.declared, Declared::Panicked(_))
    }

    /// Whether it is complete, and nothing is declared in vain.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        self.is_complete() && self.surplus.is_empty()
    }
}

impl AccessMode {
    fn of(mode: Mode, is_row: bool, table: &dyn AnyTable) -> Self {
        match (mode, is_row) {
            (Mode::Read, true) => Self::Read,
            (Mode::Read, false) if table.has_ranges() => Self::ReadRange,
            (Mode::Read, false) => Self::ReadGranule,
            (Mode::Merge, true) => Self::Merge,
            (Mode::Write, true) => Self::Write,
            (_, false) => Self::WriteGranule,
        }
    }
}

impl fmt::Display for AccessMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Merge => "merge",
            Self::ReadGranule => "read granule",
            Self::ReadRange => "read range",
            Self::WriteGranule => "write granule",
        })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {:?}", self.mode, self.key, self.table)
    }
}

impl fmt::Display for InVain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.enough {
            None => write!(f, "{}", self.declared),
            Some(enough) => write!(f, "{} ({enough} would be enough)", self.declared),
        }
    }
}

impl fmt::Display for FootprintReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "procedure {:?} with {} ", self.procedure, self.arguments)?;
        match &self.ending {
            Ending::Committed => f.write_str("commits")?,
            Ending::Aborted(reason) => write!(f, "aborts ({reason})")?,
            Ending::Panicked(message) => write!(f, "panics ({message})")?,
        }
        match self.after {
            None => f.write_str(" on the empty state")?,
            Some(position) => write!(f, " on the state after position {position}")?,
        }
        f.write_str(match &self.declared {
            Declared::Accesses if self.is_exact() => "; its footprint is exact",
            Declared::Accesses => "; its footprint is not exact:",
            Declared::ToBeFound => "; the engine is to find its footprint",
            Declared::Anything => "; it may touch anything, and runs alone",
            Declared::Panicked(_) => "; its footprint panics:",
        })?;
        if let Declared::Panicked(message) = &self.declared {
            write!(f, " {message}")?;
        }
        self.missing.iter().try_for_each(|access| write!(f, "\n  missing: {access}"))?;
        self.surplus.iter().try_for_each(|surplus| write!(f, "\n  in vain: {surplus}"))
    }
}

impl std::error::Error for FootprintReport {}

impl Snapshot {
    /// Runs a call on this state, without changing anything, and compares what it touches with what it declares: for
    /// tests of procedures (see [`testing`](crate::testing)).
    ///
    /// Ranges of ordered tables are compared leaf by leaf; what is submitted meanwhile may change the leaves, and make
    /// a report on them wrong.
    ///
    /// The call sees the position after the snapshot and the present time, as if it were submitted now. The procedure
    /// need not be registered.
    ///
    /// Cost: a copy of every row that is touched.
    ///
    /// # Panics
    /// When the procedure does not decode what it encoded.
    #[must_use]
    pub fn check_footprint<P: Procedure>(&self, procedure: &P) -> FootprintReport {
        let (mut arguments, mut calls) = (Vec::new(), Registered::new::<P>().calls());
        procedure.encode(&mut arguments);
        let call = calls.push(&arguments);
        let call = call.unwrap_or_else(|error| {
            panic!("procedure {:?} does not decode what it encoded: {error}", P::NAME)
        });
        let position = self.position().map_or(Position::ZERO, Position::next);
        let time_us = now_us();

        let (mut overlays, mut reply) = (Overlays::default(), Vec::new());
        let found = {
            let (store, at) = (self.store(), self.stamp());
            let mut tx = Tx::speculative(store, &mut overlays, at, position, time_us, Beside::Anybody);
            speculate(&*calls, call, None, &mut tx, &mut reply)
        };
        let touched = Units::touched(self.store(), &overlays);

        let mut declarations = Declarations::default();
        let mut footprint = Footprint::new(
            self.store(),
            &mut declarations,
            position,
            time_us,
            Some((self.stamp(), Beside::Anybody)),
        )
        .with_names();
        let done = caught(|| calls.footprint(call, &mut footprint));
        let declared = match done {
            Err(payload) => Declared::Panicked(payload.message().to_owned()),
            Ok(()) if footprint.is_unknown() => Declared::Anything,
            Ok(()) if footprint.is_to_be_found() => Declared::ToBeFound,
            Ok(()) => Declared::Accesses,
        };
        let names = footprint.into_names();
        let (missing, surplus) = match declared {
            Declared::Accesses => (
                touched.missing(&declarations.accesses),
                touched.surplus(self.store(), &declarations.accesses, &names),
            ),
            Declared::ToBeFound => {
                (Vec::new(), touched.surplus(self.store(), &declarations.accesses, &names))
            }
            Declared::Anything | Declared::Panicked(_) => Default::default(),
        };
        FootprintReport {
            procedure: P::NAME,
            arguments: serde_json::to_string(procedure).unwrap_or_else(|error| error.to_string()),
            after: self.position(),
            declared,
            ending: match found.status {
                Status::Committed => Ending::Committed,
                Status::Aborted => {
                    let reason = codec::decode::<P::Abort>(&reply);
                    Ending::Aborted(reason.map_or_else(|error| error.to_string(), |r| format!("{r:?}")))
                }
                Status::Repeated => unreachable!("a call that no client numbers does not repeat another"),
                Status::Panicked => Ending::Panicked(String::from_utf8_lossy(&reply).into_owned()),
            },
            missing,
            surplus,
        }
    }
}

impl Engine {
    /// Runs a call on the newest committed state, without changing anything, and compares what it touches with what it
    /// declares; see [`Snapshot::check_footprint`].
    ///
    /// # Panics
    /// As there.
    #[must_use]
    pub fn check_footprint<P: Procedure>(&self, procedure: &P) -> FootprintReport {
        self.snapshot().check_footprint(procedure)
    }
}

impl Replay {
    /// The same where the replay stands; see [`Snapshot::check_footprint`].
    ///
    /// # Panics
    /// As there.
    #[must_use]
    pub fn check_footprint<P: Procedure>(&self, procedure: &P) -> FootprintReport {
        self.snapshot().check_footprint(procedure)
    }
}

/// The units of conflict that a call touched, each once, with the table through which it was touched first.
struct Units<'a>(Vec<(&'a dyn AnyTable, Unit)>);

impl<'a> Units<'a> {
    fn touched(store: &'a Store, overlays: &Overlays) -> Self {
        let mut units = Self(Vec::new());
        for touched in overlays.touched(overlays.at_hand()) {
            let (table, unit) = match touched {
                Touched::Row(row) => (row.table, store.any(row.table).unit_of(overlays, row)),
                &Touched::Granule { table, hash, .. } => {
                    let name = store.any(table).granule_name(overlays, hash);
                    let name = name.unwrap_or_else(|| unnamed(hash));
                    let unit = Unit { hash, mode: Mode::Read, also_by: None, is_row: false, name };
                    (table, Some(unit))
                }
                // Its row is there, too.
                Touched::Merge { .. } => continue,
            };
            let Some(unit) = unit else { continue };
            match units.0.iter_mut().find(|(_, known)| known.hash == unit.hash) {
                Some((_, known)) if unit.mode == Mode::Write => known.mode = Mode::Write,
                Some(_) => {}
                None => units.0.push((store.any(table), unit)),
            }
        }
        units
    }

    fn missing(&self, declared: &[footprint::Access]) -> Vec<Access> {
        let allows = |hash, mode| declared.iter().any(|access| access.covers(hash, mode));
        let is_missing = |unit: &Unit| {
            let by_granule =
                unit.mode == Mode::Read && unit.also_by.is_some_and(|hash| allows(hash, Mode::Read));
            !allows(unit.hash, unit.mode) && !by_granule
        };
        let mut missing: Vec<_> = self
            .0
            .iter()
            .filter(|(_, unit)| is_missing(unit))
            .map(|(table, unit)| Access {
                table: table.name(),
                mode: AccessMode::of(unit.mode, unit.is_row, *table),
                key: unit.name.clone(),
            })
            .collect();
        // A range is read leaf by leaf.
        missing.sort();
        missing.dedup();
        missing
    }

    fn surplus(&self, store: &Store, declared: &[footprint::Access], names: &[(u64, String)]) -> Vec<InVain> {
        // Merges of granules come with the writes of rows in watched tables, and cannot be declared by themselves.
        let itself = |access: &&footprint::Access| access.is_row() || access.mode != Mode::Merge;
        let (mut seen, mut surplus) = (Vec::new(), Vec::new());
        for access in declared.iter().filter(itself) {
            // The right to write is all rights: what else is declared does not matter.
            let is_written = declared.iter().any(|a| a.covers(access.key, Mode::Write));
            let mode = if is_written { Mode::Write } else { access.mode };
            if seen.contains(&(access.key, mode)) {
                continue;
            }
            seen.push((access.key, mode));
            let needed = self.needed(access.key, declared);
            if needed == Some(mode) || needed == Some(Mode::Write) {
                continue;
            }
            let name = names.iter().find(|(hash, _)| *hash == access.key).map(|(_, name)| name.clone());
            surplus.push(InVain {
                declared: Access {
                    table: store.any(access.table).name(),
                    mode: AccessMode::of(mode, access.is_row(), store.any(access.table)),
                    key: name.unwrap_or_else(|| unnamed(access.key)),
                },
                enough: needed
                    .filter(|_| is_written)
                    .map(|needed| AccessMode::of(needed, access.is_row(), store.any(access.table))),
            });
        }
        surplus.sort();
        surplus.dedup();
        surplus
    }

    /// The mode in which the call needs the unit of this hash.
    fn needed(&self, hash: u64, declared: &[footprint::Access]) -> Option<Mode> {
        let units = || self.0.iter().map(|(_, unit)| unit);
        if let Some(unit) = units().find(|unit| unit.hash == hash) {
            return Some(unit.mode);
        }
        // Rows of a watched table count for their granule if they are read and not declared themselves.
        let by_granule = |unit: &Unit| {
            let itself = || declared.iter().any(|access| access.covers(unit.hash, Mode::Read));
            unit.also_by == Some(hash) && unit.mode == Mode::Read && !itself()
        };
        units().any(by_granule).then_some(Mode::Read)
    }
}

/// What stands for a name that nobody knows.
fn unnamed(hash: u64) -> String {
    format!("#{hash:016x}")
}
