//! CORFU.

mod administer;
mod append;
mod fill;
mod janitor;
mod journal;
mod local;
mod log;
mod message;
mod monitor;
mod net;
mod operation;
mod plan;
mod progress;
mod projection;
mod queue;
mod read;
mod recent;
mod reconfigure;
mod rules;
mod seal;
mod sequencer;
mod server;
mod settle;
mod store;
mod tail;
mod transfer;
mod transport;
mod trim;
mod unit;

pub use administer::{TransferError, found, latest, reconfigure, transfer};
pub use append::{Append, AppendOutcome, Appended, Entries, Refusal};
pub use fill::{Aim, Fill, Filled};
pub use janitor::Sweep;
pub use local::{LOCAL_SEQUENCER, LocalCluster, LocalConfig, LocalError, LocalStorage};
pub use log::{Config, ConnectError, CorfuLog};
pub use message::{
    ClientId, EntryId, Epoch, Instance, Member, Node, Reply, Request, Run, SequencerNumber, SequencerReply,
    SequencerRequest, SequencerVerb, Standing, StoreReply, StoreRequest, Token, UnitNumber, UnitReply,
    UnitRequest, UnitVerb,
};
pub use monitor::{Monitor, MonitorConfig, MonitorEvent};
pub use net::{FrameError, Listing, Listings, NetError, Server, TcpTransport, announce};
pub use operation::{Call, Input, Operation, Outbox, Outgoing, Pause};
pub use plan::{Change, Found, Join, PlanError};
pub use projection::{Chain, Flaw, Place, Projection, Segment};
pub use read::{Read, ReadOutcome};
pub use reconfigure::{Reconfigure, Reconfigured};
pub use rules::Rules;
pub use sequencer::Sequencer;
pub use server::{UnitFiles, UnitServer, UnitStorage};
pub use settle::{Settle, Settled};
pub use store::{FileStore, MemoryStore, ProjectionStore, Register, StoreError};
pub use tail::{Tail, TailMode, TailOutcome};
pub use transfer::{Transfer, Transferred};
pub use transport::{Driver, ReplyTo, Timing, Transport};
pub use trim::Trim;
pub use unit::{Answer, Limits, Piece, Record, RecordNumber, State, Unit};
