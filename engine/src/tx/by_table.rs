//! Something that a transaction keeps for each table, of types that follow from the table's.

use std::any::Any;
use std::cell::{RefCell, RefMut};

/// By a table's number. A transaction has few of them: they are gone through.
pub(super) struct ByTable(RefCell<Vec<(u16, Box<dyn Any + Send>)>>);

impl ByTable {
    pub(super) const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// What is kept for this table; nothing else may be asked for meanwhile.
    pub(super) fn of<T: Any + Send + Default>(&self, table: u16) -> RefMut<'_, T> {
        RefMut::map(self.0.borrow_mut(), |all| {
            let at = all.iter().position(|(number, _)| *number == table).unwrap_or_else(|| {
                all.push((table, Box::<T>::default()));
                all.len() - 1
            });
            all[at].1.downcast_mut().expect("a table's number goes with its types")
        })
    }
}
