//! Procedures: the transactions that users write.

use std::any::Any;
use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError};
use crate::footprint::Footprint;
use crate::infer::{Leaves, Reach};
use crate::interactive::Intention;
use crate::reply::Status;
use crate::tx::Tx;

/// A transaction: its arguments are the value itself, its code is [`run`](Self::run).
///
/// `run` must be deterministic: what it does may depend on its arguments, on what it reads through `tx`, and on
/// nothing else (no clock, no randomness, no iteration over std's hash maps, no global state). It may be run
/// more than once (a window that diverged is replayed), each time from the same state, and its effects count
/// once.
///
/// It must not block, and runs on the engine's threads or on one that calls [`Engine::execute`](crate::Engine::execute). One
/// that shares its work in rayon (`par_iter`, `join`) does not get it shared on the engine's threads, which have work of
/// their own. On a thread that calls, it is shared with rayon's global pool, and waits for that: if all threads of the
/// global pool wait for the engine meanwhile, as where a `par_iter` outside of the engine executes transactions or waits
/// for tickets, neither goes on, ever. Where both may happen, the one outside is given a pool of its own, or the engine
/// [`Mode::Parallel`](crate::Mode::Parallel), in which no procedure runs on threads that call.
///
/// Arguments, outputs and aborts are written in postcard's format: [`Value`](crate::Value) tells which attributes of serde
/// do not go with that.
///
/// ```
/// use mixlog_engine::{Footprint, Procedure, Table, Tx};
/// use serde::{Deserialize, Serialize};
///
/// const ACCOUNTS: Table<u64, i64> = Table::new("accounts");
///
/// #[derive(Serialize, Deserialize)]
/// struct Deposit { account: u64, cents: i64 }
///
/// #[derive(Debug, Serialize, Deserialize)]
/// struct NoSuchAccount;
///
/// impl Procedure for Deposit {
///     const NAME: &'static str = "deposit";
///     type Output = i64;
///     type Abort = NoSuchAccount;
///
///     fn footprint(&self, f: &mut Footprint<'_>) {
///         f.write(&ACCOUNTS, &self.account);
///     }
///
///     fn run(&self, tx: &mut Tx<'_>) -> Result<i64, NoSuchAccount> {
///         let balance = tx.get_mut(&ACCOUNTS, &self.account).ok_or(NoSuchAccount)?;
///         *balance += self.cents;
///         Ok(*balance)
///     }
/// }
/// ```
pub trait Procedure: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The procedure's identity in the log. A log needs every procedure that ever wrote to it.
    const NAME: &'static str;

    /// To be raised when the arguments' format or the effects change: the log tells versions apart.
    const VERSION: u32 = 1;

    /// What the procedure returns when it commits.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// What it returns when it decides to abort; then none of its changes remain. [`Never`] if it cannot.
    type Abort: Serialize + DeserializeOwned + Debug + Send + 'static;

    /// Appends the arguments to `out`. By default in postcard's format; a procedure that runs millions of times
    /// a second writes a fixed layout instead.
    fn encode(&self, out: &mut Vec<u8>) {
        codec::encode(self, out);
    }

    /// The arguments that [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`DecodeError`] for any other bytes; it must not panic.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }

    /// Declares what [`run`](Self::run) will touch: a function of the arguments, and a hint (see
    /// [`Footprint`]). By default the engine finds out by itself ([`Footprint::reconnoitre`]).
    fn footprint(&self, f: &mut Footprint<'_>) {
        f.reconnoitre();
    }

    /// Runs the transaction.
    ///
    /// # Errors
    /// Whatever the procedure decides to abort with.
    fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Output, Self::Abort>;
}

/// The abort of procedures that never abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Never {}

/// A procedure's name and version as a number, as it stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ProcedureId(pub(crate) u32);

impl ProcedureId {
    /// FNV-1a, folded to 32 bits, over name and version.
    pub(crate) const fn of(name: &str, version: u32) -> Self {
        let mut hash = crate::table::TableId::of(name).0;
        let mut rest = version;
        while rest > 0 {
            hash = (hash ^ (rest & 0xff) as u64).wrapping_mul(0x0100_0000_01b3);
            rest >>= 8;
        }
        Self((hash ^ (hash >> 32)) as u32)
    }
}

/// How a procedure ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Committed,
    Aborted,
}

impl From<Ended> for Status {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Committed => Self::Committed,
            Ended::Aborted => Self::Aborted,
        }
    }
}

/// The decoded calls of one procedure, without its type.
pub(crate) trait Calls: Send + Sync + Any {
    /// Adds a call, and returns its index.
    fn push(&mut self, arguments: &[u8]) -> Result<u32, DecodeError>;
    /// The call, if it is one of an interactive transaction.
    fn intention(&self, call: u32) -> Option<&Intention>;
    fn footprint(&self, call: u32, f: &mut Footprint<'_>);
    /// See [`Leaves::take_apart`].
    fn take_apart(&self, call: u32, leaves: &mut Leaves, reach: Reach) -> bool;
    /// Runs a call, and appends its reply to `reply`.
    fn run(&self, call: u32, tx: &mut Tx<'_>, reply: &mut Vec<u8>) -> Ended;
    fn clear(&mut self);
}

struct CallsOf<P>(Vec<P>);

impl<P: Procedure> Calls for CallsOf<P> {
    fn push(&mut self, arguments: &[u8]) -> Result<u32, DecodeError> {
        self.0.push(P::decode(arguments)?);
        Ok(self.0.len() as u32 - 1)
    }

    fn intention(&self, call: u32) -> Option<&Intention> {
        (&self.0[call as usize] as &dyn Any).downcast_ref()
    }

    fn footprint(&self, call: u32, f: &mut Footprint<'_>) {
        self.0[call as usize].footprint(f);
    }

    fn take_apart(&self, call: u32, leaves: &mut Leaves, reach: Reach) -> bool {
        leaves.take_apart(&self.0[call as usize], reach)
    }

    fn run(&self, call: u32, tx: &mut Tx<'_>, reply: &mut Vec<u8>) -> Ended {
        match self.0[call as usize].run(tx) {
            Ok(output) => {
                codec::encode(&output, reply);
                Ended::Committed
            }
            Err(abort) => {
                codec::encode(&abort, reply);
                Ended::Aborted
            }
        }
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// A registered procedure, without its type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registered {
    pub(crate) name: &'static str,
    pub(crate) version: u32,
    pub(crate) id: ProcedureId,
    /// Whether its footprint is asked for; otherwise it has to be found.
    pub(crate) declares: bool,
    make: fn() -> Box<dyn Calls>,
    /// Arguments as JSON, for people who look into a log.
    pub(crate) to_json: fn(&[u8]) -> Result<serde_json::Value, DecodeError>,
}

impl Registered {
    pub(crate) fn new<P: Procedure>() -> Self {
        Self {
            name: P::NAME,
            version: P::VERSION,
            id: ProcedureId::of(P::NAME, P::VERSION),
            declares: true,
            make: || Box::new(CallsOf::<P>(Vec::new())),
            to_json: |bytes| {
                let call = P::decode(bytes)?;
                serde_json::to_value(call).map_err(|error| DecodeError::new(error.to_string()))
            },
        }
    }

    /// Room for decoded calls of this procedure.
    pub(crate) fn calls(&self) -> Box<dyn Calls> {
        (self.make)()
    }
}

/// All registered procedures.
#[derive(Debug, Default)]
pub(crate) struct Procedures {
    list: Vec<Registered>,
    /// Sorted by id.
    by_id: Vec<(ProcedureId, u16)>,
}

impl Procedures {
    /// Fails with the two names when ids collide or a name comes twice.
    pub(crate) fn new(list: Vec<Registered>) -> Result<Self, (&'static str, &'static str)> {
        let mut by_id: Vec<_> = (0u16..).zip(&list).map(|(i, p)| (p.id, i)).collect();
        by_id.sort_unstable();
        for pair in by_id.windows(2) {
            if pair[0].0 == pair[1].0 {
                return Err((list[usize::from(pair[0].1)].name, list[usize::from(pair[1].1)].name));
            }
        }
        Ok(Self { list, by_id })
    }

    pub(crate) fn index_of(&self, id: ProcedureId) -> Option<u16> {
        let at = self.by_id.binary_search_by_key(&id, |&(id, _)| id).ok()?;
        Some(self.by_id[at].1)
    }

    pub(crate) fn get(&self, index: u16) -> &Registered {
        &self.list[usize::from(index)]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Registered> {
        self.list.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }
}
