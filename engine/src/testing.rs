//! For tests of procedures: footprints against accesses.
//!
//! [`assert_footprint!`](crate::assert_footprint) runs calls on the state of an engine, without changing it, and fails
//! with a report on the first one whose footprint is wrong. Give it calls with random arguments: in a loop, or
//! one at a time from a property test, which then finds the smallest arguments that go wrong.
//!
//! ```
//! use std::sync::Arc;
//! use mixlog_engine::testing::{Surplus, check_footprints};
//! use mixlog_engine::{Engine, Footprint, Never, Procedure, Table, Tx, assert_footprint};
//! use mixlog_log::MemoryLog;
//! use serde::{Deserialize, Serialize};
//!
//! const COUNTERS: Table<u64, u64> = Table::new("counters");
//!
//! #[derive(Serialize, Deserialize)]
//! struct Copy { from: u64, to: u64 }
//!
//! impl Procedure for Copy {
//!     const NAME: &'static str = "copy";
//!     type Output = ();
//!     type Abort = Never;
//!
//!     fn footprint(&self, f: &mut Footprint<'_>) {
//!         f.read(&COUNTERS, &self.from).write(&COUNTERS, &self.to);
//!     }
//!
//!     fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
//!         if let Some(&count) = tx.get(&COUNTERS, &self.from) {
//!             tx.put(&COUNTERS, self.to, count);
//!         }
//!         Ok(())
//!     }
//! }
//!
//! let engine = Engine::builder().table(&COUNTERS).procedure::<Copy>().open(Arc::new(MemoryLog::new())).unwrap();
//! // Where there is nothing to copy, nothing is written.
//! let calls = || (0..100).map(|i| Copy { from: i % 7, to: i % 5 });
//! assert_footprint!(&engine, calls(), Surplus::Allowed);
//! let report = check_footprints(&engine, calls(), Surplus::Refused).unwrap_err();
//! assert_eq!(report.surplus[0].to_string(), "write 0 of \"counters\" (read would be enough)");
//! ```

use crate::engine::{Engine, Replay};
use crate::footprint_report::FootprintReport;
use crate::procedure::Procedure;
use crate::snapshot::Snapshot;

/// What to make of accesses that are declared in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surplus {
    /// They are wrong: footprints are exact.
    Refused,
    /// They may be: a footprint is to be complete, and what a call touches may depend on what it reads.
    Allowed,
}

/// Checks the footprints of all calls on one state: that of an engine, of a replay, or of a snapshot.
///
/// # Errors
/// The report on the first wrong one: something is missing, its footprint panics, or something is declared in vain
/// and that is refused.
///
/// # Panics
/// As [`Snapshot::check_footprint`].
pub fn check_footprints<P: Procedure>(
    state: impl Into<Snapshot>,
    calls: impl IntoIterator<Item = P>,
    surplus: Surplus,
) -> Result<(), Box<FootprintReport>> {
    let snapshot = state.into();
    for call in calls {
        let report = snapshot.check_footprint(&call);
        let is_right = match surplus {
            Surplus::Refused => report.is_exact(),
            Surplus::Allowed => report.is_complete(),
        };
        if !is_right {
            return Err(Box::new(report));
        }
    }
    Ok(())
}

/// Panics with the report on the first call whose footprint is wrong: `assert_footprint!(&engine, calls)` for exact
/// footprints, `assert_footprint!(&engine, calls, Surplus::Allowed)` for complete ones.
///
/// See [`testing`](crate::testing) for an example and [`check_footprints`](crate::testing::check_footprints) for what
/// is wrong.
#[macro_export]
macro_rules! assert_footprint {
    ($state:expr, $calls:expr $(,)?) => {
        $crate::assert_footprint!($state, $calls, $crate::testing::Surplus::Refused)
    };
    ($state:expr, $calls:expr, $surplus:expr $(,)?) => {
        if let Err(report) = $crate::testing::check_footprints($state, $calls, $surplus) {
            panic!("{report}");
        }
    };
}

impl From<&Engine> for Snapshot {
    fn from(engine: &Engine) -> Self {
        engine.snapshot()
    }
}

impl From<&Replay> for Snapshot {
    fn from(replay: &Replay) -> Self {
        replay.snapshot()
    }
}
