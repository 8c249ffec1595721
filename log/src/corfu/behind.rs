//! A projection store that holds an older copy of what it had.
//!
//! An epoch begins with the projection of the one before: whoever joins or seals units for epoch n + 1 has read that of
//! epoch n, so the store had it. A store whose newest projection is of epoch n, and a role that is in epoch n + 2 or a
//! later one, do not fit together: the store was put back to an older copy, or it is another one. Nobody gets on then.
//! Units refuse what clients ask in an epoch that is over, and no later one can be found; and a next projection made of an
//! old one would be a second one for an epoch in which entries were acknowledged.
//!
//! A copy that is older by one epoch looks like a change that was interrupted, and cannot be told from one.

use thiserror::Error;

use super::message::{Epoch, Node, Reply, SequencerReply, UnitReply};

/// The projection store cannot have begun the epoch that a role is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[error(
    "{node} is in epoch {epoch}, and the newest that the projection store has is {latest}: it holds an older copy of what it \
     had, or is not the one of this log"
)]
pub struct StoreBehind {
    /// Which role.
    pub node: Node,
    /// Its epoch.
    pub epoch: Epoch,
    /// The store's newest.
    pub latest: Epoch,
}

impl StoreBehind {
    /// Whether that is so, by what a role answers; if the store still has nothing newer than `latest` afterwards.
    #[must_use]
    pub fn shown_by(latest: Epoch, node: Node, reply: &Reply) -> Option<Self> {
        let epoch = match reply {
            Reply::Unit(UnitReply::Sealed(epoch)) | Reply::Sequencer(SequencerReply::Sealed(epoch)) => *epoch,
            Reply::Unit(UnitReply::Stranger(Some(member))) => member.joined,
            _ => return None,
        };
        (epoch > latest.next()).then_some(Self { node, epoch, latest })
    }
}
