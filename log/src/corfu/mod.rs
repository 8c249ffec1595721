//! CORFU: a log that is spread over storage units, and survives the loss of any of them.
//!
//! Source: CORFU (Balakrishnan et al., NSDI 2012), with reconfiguration as in Vertical Paxos (Lamport, Malkhi,
//! Zhou, PODC 2009). Each file names its section, and where it departs.
//!
//! # Roles
//!
//! * A **storage unit** ([`Unit`]) is a write-once address space. It is sealed at an epoch and refuses earlier
//!   ones. Since it last joined empty it is one [`Member`]; when it lost its data it is another.
//! * The **projection** ([`Projection`]) of an epoch maps every position to a chain of units. The
//!   **projection store** ([`ProjectionStore`]) keeps one for each epoch, written once: the only consensus.
//! * The **sequencer** ([`Sequencer`]) hands out positions. It is a counter, and nobody believes it.
//! * **Clients** do all the work: each verb is an [`Operation`].
//!
//! # Protocol
//!
//! | verb | steps | file |
//! |---|---|---|
//! | append | token; units of the chain, head first; lost tokens are filled, doubts are resolved by id | `append.rs` |
//! | appends | several under way, each naming the one before; what is lost is written again in order | `appends.rs` |
//! | read | the last unit of the chain | `read.rs` |
//! | fill | junk at the head where it has nothing; what it has, to all units behind it | `fill.rs` |
//! | settle | the last units' gaps: waited for, then filled | `settle.rs` |
//! | tail | the sequencer; confirmed by all units of a chain | `tail.rs` |
//! | trim | all units | `trim.rs` |
//! | flush | all units: what they have is durable before they answer | `flush.rs` |
//! | seal, reconfigure | all units that stay; the tail from what they have; the next projection | `seal.rs`, `reconfigure.rs`, `plan.rs` |
//! | state transfer | fill, and copy what is filled | `transfer.rs` |
//! | sweep | settle everything, tell the units how far | `janitor.rs` |
//!
//! A *run* of entries is written at consecutive positions of one stripe, so on one chain: the head takes it
//! wholly or not at all. So batches stay together.
//!
//! # Invariants
//!
//! 1. A position of a member goes from unwritten to data or junk, then to trimmed, and nowhere else.
//! 2. What a unit of a chain has, all units before it in the chain have, or have trimmed.
//! 3. A run is committed when all units of a chain of an installed projection have it.
//! 4. After a unit has answered a seal, no request of an earlier epoch changes it (but trims, which say the
//!    same in all epochs).
//! 5. Every projection keeps, of each chain, a unit that has all its entries and was sealed before the
//!    projection was made.
//! 6. The tail of an epoch, where its tokens start, is after every committed position, and after the trim mark.
//! 7. A token is used in its own epoch only.
//! 8. Data, junk and trimmed are final answers. Unwritten is a hint.
//! 9. A unit never says unwritten about what it may have lost.
//!
//! # Machines and drivers
//!
//! Roles and operations are values without threads, clocks, sockets or files: `handle(request) -> reply` for
//! roles, `step(input) -> requests` for operations. All of them can be cloned, compared and hashed, and speak in
//! plain data (`message.rs`). Whatever they need from outside comes in as a parameter: ids, and what time it
//! is as [`Input::Elapsed`]. A unit also tells which [`Record`]s must be durable before its answer goes out.
//! So the same code can run over sockets, in a simulation and under a model checker; [`Rules`] lets a model
//! break the protocol to see that it notices. Requests may be lost, doubled, delayed and reordered.
//!
//! Over TCP, a [`Server`] runs one role, a [`TcpTransport`] reaches them all, and a [`Monitor`] replaces who is
//! dead (`net/`, `monitor.rs`). The projection store is a server too, or etcd (`etcd.rs`, cargo feature `etcd`). In this process, [`LocalCluster`] runs the roles (`server.rs` is a unit with its journal and threads), a
//! [`Driver`] runs operations over any [`Transport`], and [`CorfuLog`] makes a
//! [`SharedLog`](crate::SharedLog) of them.

mod administer;
mod append;
mod appender;
mod appends;
mod behind;
mod boot;
#[cfg(feature = "etcd")]
mod etcd;
mod fill;
mod flush;
mod janitor;
mod journal;
mod local;
mod log;
mod message;
mod monitor;
mod net;
mod operation;
mod owner;
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
mod watched;

pub use administer::{TransferError, found, latest, name, reconfigure, transfer};
pub use append::{Append, AppendOutcome, Appended, Entries, Refusal};
pub use appends::{Appends, Ended, Window};
pub use behind::StoreBehind;
#[cfg(feature = "etcd")]
pub use etcd::EtcdStore;
pub use fill::{Aim, Fill, Filled, Loss};
pub use flush::Flush;
pub use janitor::Sweep;
pub use local::{LOCAL_SEQUENCER, LocalCluster, LocalConfig, LocalError, LocalStorage};
pub use log::{Config, ConnectError, CorfuLog};
pub use message::{
    ClientId, EntryId, Epoch, Instance, Member, Node, Predecessor, Reply, Request, Run, SequencerNumber,
    SequencerReply, SequencerRequest, SequencerVerb, Standing, StoreReply, StoreRequest, Token, UnitNumber,
    UnitReply, UnitRequest, UnitVerb,
};
pub use monitor::{Monitor, MonitorConfig, MonitorError, MonitorEvent, Trouble};
pub use net::{
    EtcdAccess, FrameError, Home, HomeError, Listing, Listings, NetError, Server, TcpTransport, announce,
};
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
