//! What a *speculation* looked at and changed: a transaction that runs on a state of the past, while others run,
//! and keeps its changes to itself.
//!
//! Rows that it looks at stay as they are for it, while writers go on: those that somebody may be writing are copied, so
//! that it may hold references to them. A driver that prepares a window knows which these are
//! ([`Written`](super::Written)); anybody else copies all. Rows that the speculation changes are changed in a copy.
//! Whoever made the speculation then knows what the transaction touches, and may take over its changes if nothing that
//! it read has changed since ([`TouchedRow::is_current`], [`TableStore::adopt`](super::TableStore::adopt)).
#![allow(unsafe_code)]

mod absent;
mod did;
mod look;
mod speculative;
mod table;
mod through;

use std::any::TypeId;
use std::cell::{Cell, OnceCell, RefCell, UnsafeCell};
use std::ops::Range;
use std::panic::resume_unwind;
use std::thread::panicking;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use mixlog_mixer::Mode;

pub(crate) use did::{Did, TouchedRow};
pub(crate) use speculative::{Beside, Speculative};
pub(crate) use table::Scan;
use table::{AnyOverlay, Looked, Most, Overlay};
pub(crate) use through::Through;

use super::merging::AnyMerging;
use crate::table::{Key, Value};

/// An overlay, and what types it is of.
struct Typed {
    types: TypeId,
    overlay: Box<dyn AnyOverlay>,
}

/// Something that a speculation touched.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Touched {
    Row(TouchedRow),
    /// A granule was read as a whole.
    Granule {
        table: u16,
        hash: u64,
        /// Whether nobody was writing any row of it.
        still: bool,
    },
    /// The merge with this number was made into the row at this place among what was touched.
    Merge {
        row: u32,
        merge: u32,
    },
}

impl Touched {
    /// Whether it is a row that must be declared as more than read.
    pub(crate) const fn is_written(&self) -> bool {
        matches!(self, Self::Row(row) if !matches!(row.mode(), None | Some(Mode::Read)))
    }
}

/// What one speculation after another touched, in all tables.
#[derive(Default)]
pub(crate) struct Overlays {
    tables: Vec<OnceCell<Typed>>,
    touched: UnsafeCell<Vec<Touched>>,
    merges: RefCell<Vec<Box<dyn AnyMerging>>>,
    /// Granules that the speculation at hand read as a whole: tables and hashes.
    granules: RefCell<HashTable<(u16, u64)>>,
    /// Counts speculations.
    speculation: Cell<u32>,
    /// Where the speculation at hand starts in `touched`.
    start: Cell<u32>,
    /// Where in `touched` it is stopped, and whether it was.
    end: Cell<u32>,
    stopped: Cell<bool>,
    /// How much was touched between two clears, how many merges were noted, and how many granules one speculation read.
    most: Most,
    most_merges: Most,
    most_granules: Most,
}

// SAFETY: cells are changed by the one driver that speculates, while it holds the overlays mutably or alone. Later,
// when others share them, only `Overlay::get` is used, and each row's value is touched by the one driver that
// executes the row's transaction (`is_current`, `adopt`).
unsafe impl Sync for Overlays {}
// SAFETY: the pointers to latches are followed while their store lives only, which is shared (`is_current`).
unsafe impl Send for Overlays {}

impl Overlays {
    pub(crate) fn clear(&mut self) {
        self.tables.iter_mut().filter_map(OnceCell::get_mut).for_each(|typed| typed.overlay.clear());
        self.most.note(self.touched.get_mut().len());
        self.most_merges.note(self.merges.get_mut().len());
        self.touched.get_mut().clear();
        self.merges.get_mut().clear();
        self.end_granules();
        self.speculation.set(0);
    }

    fn end_granules(&mut self) {
        self.most_granules.note(self.granules.get_mut().len());
        self.granules.get_mut().clear();
    }

    /// Gives back the room that was not needed since this was called last. After [`clear`](Self::clear).
    pub(crate) fn shrink(&mut self) {
        self.tables.iter_mut().filter_map(OnceCell::get_mut).for_each(|typed| typed.overlay.shrink());
        self.touched.get_mut().shrink_to(self.most.take());
        self.merges.get_mut().shrink_to(self.most_merges.take());
        let granules = self.most_granules.take();
        self.granules.get_mut().shrink_to(granules, |_| unreachable!("it was cleared"));
    }

    /// Starts a speculation in an engine with so many tables, which is stopped when it touches more than so much; see
    /// [`is_stopped`](Self::is_stopped). Exclusive, though nothing but cells changes.
    pub(crate) fn start(&mut self, tables: usize, most: Option<u32>) {
        if self.tables.len() < tables {
            self.tables.resize_with(tables, OnceCell::new);
        }
        self.speculation.set(self.speculation.get() + 1);
        let start = self.touched.get_mut().len() as u32;
        self.start.set(start);
        self.end.set(most.map_or(u32::MAX, |most| start.saturating_add(most)));
        self.stopped.set(false);
        self.end_granules();
    }

    /// Whether the speculation at hand was stopped, by unwinding, since it touched too much. Whatever it did then, it did
    /// not do what the transaction does.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.get()
    }

    #[cold]
    fn stop(&self) -> ! {
        self.stopped.set(true);
        // Not a panic: no hook runs and nothing is printed.
        resume_unwind(Box::new(()))
    }

    /// What the speculation at hand touched: a range for [`touched`](Self::touched).
    pub(crate) fn at_hand(&self) -> Range<u32> {
        self.start.get()..self.all_touched().len() as u32
    }

    fn all_touched(&self) -> &Vec<Touched> {
        // SAFETY: the callers keep no reference while something is added or changed.
        unsafe { &*self.touched.get() }
    }

    /// What a speculation touched. Not while one runs.
    pub(crate) fn touched(&self, range: Range<u32>) -> &[Touched] {
        &self.all_touched()[range.start as usize..range.end as usize]
    }

    /// What the transaction did with a row, to be read or changed.
    #[inline]
    fn at<R>(&self, touched: u32, look: impl FnOnce(&mut TouchedRow) -> R) -> R {
        // SAFETY: no reference to the list lives: they do not leave these methods while a speculation runs, and `look`
        // does not come back here.
        match unsafe { &mut (&mut *self.touched.get())[touched as usize] } {
            Touched::Row(row) => look(row),
            Touched::Granule { .. } | Touched::Merge { .. } => unreachable!("a row's place is its own"),
        }
    }

    /// What the transaction did with a row.
    #[inline]
    pub(crate) fn did<K, V>(&self, looked: &Looked<K, V>) -> Did {
        self.at(looked.touched, |row| row.did)
    }

    /// The row that a merge was made into.
    pub(crate) fn merged(&self, row: u32) -> &TouchedRow {
        match &self.all_touched()[row as usize] {
            Touched::Row(row) => row,
            Touched::Granule { .. } | Touched::Merge { .. } => unreachable!("a row's place is its own"),
        }
    }

    /// The overlay of a table, for the speculation at hand.
    #[inline]
    fn table<K: Key, V: Value>(&self, number: u16) -> &Overlay<K, V> {
        let typed = self.tables[usize::from(number)].get_or_init(|| Typed {
            types: TypeId::of::<Overlay<K, V>>(),
            overlay: Box::new(Overlay::<K, V>::new()),
        });
        let overlay = Self::typed::<K, V>(typed);
        let speculation = self.speculation.get();
        if overlay.speculation.get() != speculation {
            overlay.begin(speculation);
        }
        overlay
    }

    fn typed<K: Key, V: Value>(typed: &Typed) -> &Overlay<K, V> {
        assert_eq!(typed.types, TypeId::of::<Overlay<K, V>>(), "a table's number goes with its types");
        // SAFETY: the types were just compared.
        unsafe { &*typed.overlay.place().cast() }
    }

    /// The overlay of a table that has one, after its speculations.
    #[inline]
    pub(crate) fn of<K: Key, V: Value>(&self, number: u16) -> &Overlay<K, V> {
        Self::typed(self.tables[usize::from(number)].get().expect("something was touched in it"))
    }

    /// Whether a table has an overlay.
    pub(crate) fn has(&self, number: u16) -> bool {
        self.tables.get(usize::from(number)).is_some_and(|overlay| overlay.get().is_some())
    }

    #[inline]
    fn touch(&self, touched: Touched) -> u32 {
        // SAFETY: as in `at`.
        let all = unsafe { &mut *self.touched.get() };
        // What is dropped while it unwinds may go on touching rows: whoever unwinds twice aborts.
        if all.len() >= self.end.get() as usize && !(self.stopped.get() && panicking()) {
            self.stop();
        }
        all.push(touched);
        all.len() as u32 - 1
    }

    /// A merge was made into a row.
    fn add_merge(&self, merging: Box<dyn AnyMerging>, row: u32) {
        let mut merges = self.merges.borrow_mut();
        self.touch(Touched::Merge { row, merge: merges.len() as u32 });
        merges.push(merging);
    }

    pub(crate) fn merge(&self, number: u32) -> &dyn AnyMerging {
        // SAFETY: nobody adds to the list while it is looked at: speculations are over by then.
        unsafe { &*(&*self.merges.as_ptr())[number as usize] }
    }

    /// A granule is read as a whole.
    fn read_granule(&self, table: u16, hash: u64, still: bool) {
        let mut granules = self.granules.borrow_mut();
        let granule = granules.entry(hash, |&known| known == (table, hash), |&(_, hash)| hash);
        if let Entry::Vacant(granule) = granule {
            granule.insert((table, hash));
            drop(granules);
            self.touch(Touched::Granule { table, hash, still });
        }
    }
}
