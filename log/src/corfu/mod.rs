//! CORFU.

mod append;
mod fill;
mod janitor;
mod message;
mod operation;
mod plan;
mod projection;
mod read;
mod reconfigure;
mod rules;
mod seal;
mod sequencer;
mod settle;
mod tail;
mod transfer;
mod trim;
mod unit;

pub use append::{Append, AppendOutcome, Appended, Entries, Refusal};
pub use fill::{Aim, Fill, Filled};
pub use janitor::Sweep;
pub use message::{
    ClientId, EntryId, Epoch, Instance, Member, Node, Reply, Request, Run, SequencerNumber, SequencerReply,
    SequencerRequest, SequencerVerb, Standing, StoreReply, StoreRequest, Token, UnitNumber, UnitReply,
    UnitRequest, UnitVerb,
};
pub use operation::{Call, Input, Operation, Outbox, Outgoing, Pause};
pub use plan::{Change, Found, Join, PlanError};
pub use projection::{Chain, Flaw, Place, Projection, Segment};
pub use read::{Read, ReadOutcome};
pub use reconfigure::{Reconfigure, Reconfigured};
pub use rules::Rules;
pub use sequencer::Sequencer;
pub use settle::{Settle, Settled};
pub use tail::{Tail, TailMode, TailOutcome};
pub use transfer::{Transfer, Transferred};
pub use trim::Trim;
pub use unit::{Answer, Piece, Record, RecordNumber, State, Unit};
