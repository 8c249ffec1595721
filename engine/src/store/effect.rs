//! What a running transaction changes, as numbers that can be compared.

use std::collections::BTreeMap;

use super::{Store, Worker};
use crate::tx::Noted;

impl Store {
    /// What the running transaction changed, by table: the difference that it makes to the digest, and its merges that
    /// are not made yet. Tables that are as they were are left out.
    pub(crate) fn effects(&self, worker: &mut Worker, merges: &[Noted]) -> Vec<(u16, u128)> {
        let mut effects = BTreeMap::<u16, u128>::new();
        let mut add = |table, effect| {
            let sum = effects.entry(table).or_default();
            *sum = sum.wrapping_add(effect);
        };
        let Worker { undo, scratch, .. } = worker;
        for &undo in &*undo {
            // SAFETY: a change of the running transaction, recorded by `TableStore::save` once for each row.
            add(undo.table, unsafe { self.any(undo.table).effect(undo, scratch) });
        }
        merges.iter().for_each(|noted| {
            let (table, effect) = noted.merging.effect(scratch);
            add(table, effect);
        });
        effects.into_iter().filter(|&(_, effect)| effect != 0).collect()
    }
}
