//! Something that is kept for each table, of types that follow from the table's.

use std::any::Any;
use std::cell::{RefCell, RefMut};

/// By a table's number. Few tables have something: they are gone through.
pub(crate) struct ByTable(RefCell<Vec<(u16, Box<dyn Any + Send>)>>);

impl ByTable {
    pub(crate) const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.0.get_mut().clear();
    }

    pub(super) fn into_all(self) -> Vec<(u16, Box<dyn Any + Send>)> {
        self.0.into_inner()
    }

    /// What is kept for this table, if anything is; nothing else may be asked for meanwhile.
    pub(super) fn get<T: Any + Send>(&self, table: u16) -> Option<RefMut<'_, T>> {
        let kept = RefMut::filter_map(self.0.borrow_mut(), |all| {
            all.iter_mut().find(|(number, _)| *number == table).map(|(_, kept)| kept)
        });
        let kept = kept.ok()?;
        Some(RefMut::map(kept, |kept| kept.downcast_mut().expect("a table's number goes with its types")))
    }

    /// What is kept for this table, from now on; nothing else may be asked for meanwhile.
    pub(crate) fn of<T: Any + Send + Default>(&self, table: u16) -> RefMut<'_, T> {
        RefMut::map(self.0.borrow_mut(), |all| {
            let at = all.iter().position(|(number, _)| *number == table).unwrap_or_else(|| {
                all.push((table, Box::<T>::default()));
                all.len() - 1
            });
            all[at].1.downcast_mut().expect("a table's number goes with its types")
        })
    }
}

impl std::fmt::Debug for ByTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByTable").finish_non_exhaustive()
    }
}
