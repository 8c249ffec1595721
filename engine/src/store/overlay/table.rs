//! One table's part of what speculations looked at and changed: rows as they see them, and the ranges that they walked.

use std::cell::{Cell, Ref, RefCell, UnsafeCell};
use std::collections::BTreeSet;
use std::ops::Bound;
use std::ptr::NonNull;

use hashbrown::HashTable;

use crate::gaps::Spaces;
use crate::store::arena::Arena;
use crate::table::{Key, Value};

/// How much was needed at most, since room was given back.
#[derive(Default)]
pub(super) struct Most(Cell<usize>);

impl Most {
    /// So much was needed.
    pub(super) fn note(&self, needed: usize) {
        self.0.set(self.0.get().max(needed));
    }

    /// How much to keep room for.
    pub(super) fn take(&self) -> usize {
        self.0.take()
    }
}

/// What the transaction sees of a row.
pub(super) enum Held<V> {
    /// What lies in the row: nobody writes it while the speculation runs.
    InPlace(NonNull<Option<V>>),
    Own(Option<V>),
}

/// A row as a speculation sees it.
pub(crate) struct Looked<K, V> {
    pub(crate) key: K,
    /// Its place among what was touched.
    pub(super) touched: u32,
    /// Shared through `&Tx`, changed through `&mut Tx`.
    pub(super) value: UnsafeCell<Held<V>>,
}

impl<K, V: Value> Looked<K, V> {
    /// What the row shall hold, if it was written. Only for whoever holds the overlays alone.
    pub(crate) fn written_value(&self) -> Option<&Option<V>> {
        // SAFETY: a transaction that commits changes nothing any more.
        match unsafe { &*self.value.get() } {
            Held::Own(value) => Some(value),
            Held::InPlace(_) => None,
        }
    }

    /// # Safety
    /// Nobody changes the value while the reference lives, and the speculation runs as long.
    #[inline]
    pub(super) unsafe fn value(&self) -> &Option<V> {
        // SAFETY: the caller's promise.
        match unsafe { &*self.value.get() } {
            Held::Own(value) => value,
            // SAFETY: nobody writes to it while the speculation runs.
            Held::InPlace(value) => unsafe { value.as_ref() },
        }
    }

    /// # Safety
    /// Nobody else refers to the value while the reference lives, and the speculation runs as long.
    #[expect(clippy::mut_from_ref, reason = "exclusion is the caller's promise")]
    pub(super) unsafe fn value_mut(&self) -> &mut Option<V> {
        // SAFETY: the caller's promise.
        let held = unsafe { &mut *self.value.get() };
        if let Held::InPlace(value) = held {
            // SAFETY: as in `value`.
            *held = Held::Own(unsafe { value.as_ref() }.clone());
        }
        match held {
            Held::Own(value) => value,
            Held::InPlace(_) => unreachable!("it was just copied"),
        }
    }
}

/// A range that a speculation walked, from one end or both.
#[derive(Clone, Debug)]
pub(crate) struct Scan<K> {
    pub(crate) from: Bound<K>,
    pub(crate) to: Bound<K>,
    /// The last row taken from the front, and from the back.
    pub(crate) front: Option<K>,
    pub(crate) back: Option<K>,
    /// Whether the walk came to the end.
    pub(crate) all: bool,
}

/// Up to how many rows a look-up goes through all of them.
const FEW: usize = 16;

/// One table's part.
pub(crate) struct Overlay<K, V> {
    /// Rows of all speculations, one after another. Only pushed to, and addresses stay. In chunks that do not all start
    /// at the same place of a page: lanes would get in each other's way in the cache.
    looked: UnsafeCell<Arena<Looked<K, V>, 4800>>,
    /// Which speculation is at hand, and where its rows start.
    pub(super) speculation: Cell<u32>,
    pub(super) start: Cell<u32>,
    /// The hashes of the keys of the speculation at hand, in order; once there are many, also by hash.
    hashes: RefCell<Vec<u64>>,
    by_key: RefCell<HashTable<u32>>,
    pub(super) scans: RefCell<Vec<Scan<K>>>,
    /// Of an ordered table: rows that the speculation at hand changed lately, and the keys of those before.
    pub(super) changed: RefCell<Vec<u32>>,
    own: RefCell<BTreeSet<K>>,
    /// Where it found no rows.
    pub(super) gaps: RefCell<Spaces<K>>,
    /// How many rows there were between two clears, and how many rows and changes of one speculation.
    most: Most,
    most_of_one: Most,
    most_changes: Most,
}

impl<K: Key, V: Value> Overlay<K, V> {
    pub(super) fn new() -> Self {
        Self {
            looked: UnsafeCell::new(Arena::new()),
            speculation: Cell::new(0),
            start: Cell::new(0),
            hashes: RefCell::default(),
            by_key: RefCell::new(HashTable::new()),
            scans: RefCell::default(),
            changed: RefCell::default(),
            own: RefCell::default(),
            gaps: RefCell::default(),
            most: Most::default(),
            most_of_one: Most::default(),
            most_changes: Most::default(),
        }
    }

    #[cold]
    pub(super) fn begin(&self, speculation: u32) {
        self.speculation.set(speculation);
        // SAFETY: only a length is read, by the one thread that speculates.
        self.start.set(unsafe { &*self.looked.get() }.len() as u32);
        self.end();
    }

    /// What is known of the speculation at hand is of no use any more.
    fn end(&self) {
        let (mut hashes, mut changed) = (self.hashes.borrow_mut(), self.changed.borrow_mut());
        self.most_of_one.note(hashes.len());
        self.most_changes.note(changed.len());
        hashes.clear();
        changed.clear();
        self.by_key.borrow_mut().clear();
        self.own.borrow_mut().clear();
        self.gaps.borrow_mut().clear();
    }

    /// The keys of all rows that the speculation at hand changed.
    pub(super) fn own(&self) -> Ref<'_, BTreeSet<K>> {
        if !self.changed.borrow().is_empty() {
            let changed = std::mem::take(&mut *self.changed.borrow_mut());
            self.own.borrow_mut().extend(changed.into_iter().map(|number| self.get(number).key.clone()));
        }
        self.own.borrow()
    }

    #[inline]
    pub(crate) fn get(&self, number: u32) -> &Looked<K, V> {
        // SAFETY: items stay where they are until `clear`, which takes `&mut self`; pushing touches none of them.
        unsafe { (*self.looked.get()).at(number as usize).as_ref() }
    }

    #[inline]
    pub(super) fn find(&self, key: &K, key_hash: u64) -> Option<u32> {
        let (hashes, start) = (self.hashes.borrow(), self.start.get());
        if hashes.len() <= FEW {
            let same = |(i, &hash): (u32, &u64)| hash == key_hash && self.get(start + i).key == *key;
            return (0..).zip(&*hashes).find(|&at| same(at)).map(|(i, _)| start + i);
        }
        let by_key = self.by_key.borrow();
        let same = |&i: &u32| hashes[i as usize] == key_hash && self.get(start + i).key == *key;
        by_key.find(key_hash, same).map(|i| start + i)
    }

    #[inline]
    pub(super) fn push(&self, looked: Looked<K, V>, key_hash: u64) -> &Looked<K, V> {
        // SAFETY: no reference to the arena itself outlives a call; those to items stay good.
        let place = unsafe { (*self.looked.get()).push(looked) };
        let mut hashes = self.hashes.borrow_mut();
        hashes.push(key_hash);
        if hashes.len() > FEW {
            self.note_by_key(&hashes);
        }
        // SAFETY: as in `get`.
        unsafe { place.as_ref() }
    }

    #[cold]
    fn note_by_key(&self, hashes: &[u64]) {
        let mut by_key = self.by_key.borrow_mut();
        for i in by_key.len()..hashes.len() {
            by_key.insert_unique(hashes[i], i as u32, |&i| hashes[i as usize]);
        }
    }

    /// How many rows there are so far.
    pub(super) fn len(&self) -> u32 {
        // SAFETY: as in `begin`.
        unsafe { &*self.looked.get() }.len() as u32
    }

    pub(crate) fn scans(&self) -> Ref<'_, Vec<Scan<K>>> {
        self.scans.borrow()
    }
}

/// An [`Overlay`] without its types.
pub(super) trait AnyOverlay: Send {
    fn clear(&mut self);
    /// Gives back what was not needed since this was called last. After [`clear`](Self::clear).
    fn shrink(&mut self);
    /// Where the overlay is.
    fn place(&self) -> *const ();
}

impl<K: Key, V: Value> AnyOverlay for Overlay<K, V> {
    fn clear(&mut self) {
        self.most.note(self.looked.get_mut().len());
        self.looked.get_mut().clear();
        // Numbers start anew, whatever speculation comes next.
        self.speculation.set(0);
        self.scans.get_mut().clear();
    }

    fn shrink(&mut self) {
        self.end();
        self.looked.get_mut().shrink_to(self.most.take());
        let rows = self.most_of_one.take();
        self.hashes.get_mut().shrink_to(rows);
        self.by_key.get_mut().shrink_to(rows, |_| unreachable!("it was cleared"));
        self.changed.get_mut().shrink_to(self.most_changes.take());
        self.scans.get_mut().shrink_to(0);
    }

    fn place(&self) -> *const () {
        (&raw const *self).cast()
    }
}

// SAFETY: it owns its rows; pointers into tables are followed by the speculation's own thread only, while it runs.
unsafe impl<K: Key, V: Value> Send for Overlay<K, V> {}
