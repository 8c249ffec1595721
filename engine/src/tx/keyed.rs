//! Lists of what a transaction declared and noted, looked up in by key: gone through while they are short, by hash once
//! they are long, so that a transaction of many operations does not cost their square.

use std::cell::OnceCell;
use std::ops::Deref;

use hashbrown::HashTable;

use crate::bounded::Bounded;
use crate::footprint::Access;

/// Up to how many items a look-up goes through all of them.
pub(super) const FEW: usize = 64;

/// Something with the hash of a key.
pub(crate) trait Keyed {
    fn key(&self) -> u64;
}

impl Keyed for Access {
    fn key(&self) -> u64 {
        self.key
    }
}

impl Keyed for Bounded {
    fn key(&self) -> u64 {
        self.key
    }
}

/// An add that was made: the key's hash, and the amount.
impl Keyed for (u64, i64) {
    fn key(&self) -> u64 {
        self.0
    }
}

/// Where the items of each key stand in a list.
#[derive(Default)]
struct Places {
    /// The newest item of each key: its key and its place.
    newest: HashTable<(u64, u32)>,
    /// For each item the one of the same key before it, or itself.
    before: Vec<u32>,
}

impl Places {
    fn add(&mut self, key: u64) {
        let place = u32::try_from(self.before.len()).expect("fewer items than a transaction's bytes");
        let newest = self.newest.entry(key, |&(of, _)| of == key, |&(of, _)| of).or_insert((key, place));
        self.before.push(newest.get().1);
        newest.into_mut().1 = place;
    }
}

/// See the module's documentation.
pub(crate) struct List<L> {
    items: L,
    /// Made when it is first needed.
    places: OnceCell<Box<Places>>,
}

impl<L> List<L> {
    pub(super) const fn new(items: L) -> Self {
        Self { items, places: OnceCell::new() }
    }

    pub(super) fn into_items(self) -> L {
        self.items
    }
}

impl<L: Deref<Target = [T]>, T: Keyed> List<L> {
    pub(super) fn items(&self) -> &[T] {
        &self.items
    }

    /// The items of a key, in any order, with their places.
    #[inline]
    pub(super) fn of(&self, key: u64) -> Of<'_, T> {
        let (items, places) = (&*self.items, self.places());
        let Some(places) = places else { return Of { items, key, before: None, next: Some(0) } };
        let newest = places.newest.find(key, |&(of, _)| of == key).map(|&(_, place)| place);
        Of { items, key, before: Some(&places.before), next: newest }
    }

    #[inline]
    fn places(&self) -> Option<&Places> {
        if self.items.len() <= FEW { None } else { Some(self.places.get_or_init(|| self.all_places())) }
    }

    #[cold]
    fn all_places(&self) -> Box<Places> {
        let mut places = Box::<Places>::default();
        self.items.iter().for_each(|item| places.add(item.key()));
        places
    }
}

impl<T: Keyed> List<Vec<T>> {
    pub(super) fn push(&mut self, item: T) {
        if let Some(places) = self.places.get_mut() {
            places.add(item.key());
        }
        self.items.push(item);
    }
}

/// See [`List::of`].
pub(super) struct Of<'a, T> {
    items: &'a [T],
    key: u64,
    before: Option<&'a [u32]>,
    /// Where to look next.
    next: Option<u32>,
}

impl<'a, T: Keyed> Iterator for Of<'a, T> {
    type Item = (u32, &'a T);

    #[inline]
    fn next(&mut self) -> Option<(u32, &'a T)> {
        let next = self.next?;
        if let Some(before) = self.before {
            let further = before[next as usize];
            self.next = (further != next).then_some(further);
            return Some((next, &self.items[next as usize]));
        }
        let rest = self.items.get(next as usize..).unwrap_or_default();
        let at = next + rest.iter().position(|item| item.key() == self.key)? as u32;
        self.next = Some(at + 1);
        Some((at, &self.items[at as usize]))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{FEW, List};

    #[test]
    fn of_a_list_of_any_length_finds_what_going_through_it_finds() {
        let mut list = List::new(Vec::new());
        for place in 0..4 * FEW as u64 {
            // Some keys once, some many times.
            list.push((if place % 3 == 0 { place } else { place % 10 }, place as i64));
            for key in 0..=place + 1 {
                let mut found: Vec<_> = list.of(key).map(|(place, &(_, item))| (place, item)).collect();
                found.sort_unstable();
                let all = (0u32..).zip(list.items()).filter(|(_, (of, _))| *of == key);
                assert_eq!(found, all.map(|(place, &(_, item))| (place, item)).collect::<Vec<_>>());
            }
        }
    }
}
