//! Which rules of the protocol are kept. All of them, outside of models.

/// The rules that a model may break one by one, to see that it notices.
///
/// Everything that is not a model uses [`Rules::SOUND`]. Each rule is asked at exactly one place in the
/// protocol's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// Reconfiguration seals every unit that stays, heads of chains included, before it looks for the tail.
    /// Otherwise only the last unit of each chain is sealed first, and the others after the projection is
    /// installed.
    pub seal_every_unit: bool,
    /// A token is used in its own epoch only.
    pub tokens_have_epochs: bool,
    /// A unit that joins is empty.
    pub join_empties: bool,
    /// What reconfiguration learns of the tail, it learns from units that refuse earlier epochs already.
    pub fenced_recovery: bool,
    /// A run is the same as what is written when their ids are the same; otherwise, when their bytes are.
    pub compare_ids: bool,
    /// A unit takes a run that names another one only if it has that one.
    pub runs_in_order: bool,
    /// A unit answers a flush when what it has is on the disk.
    pub flush_waits: bool,
}

impl Rules {
    /// All rules are kept.
    pub const SOUND: Self = Self {
        seal_every_unit: true,
        tokens_have_epochs: true,
        join_empties: true,
        fenced_recovery: true,
        compare_ids: true,
        runs_in_order: true,
        flush_waits: true,
    };
}

impl Default for Rules {
    fn default() -> Self {
        Self::SOUND
    }
}
