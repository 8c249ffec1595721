//! The same procedures with footprints that are right or wrong.
//!
//! A footprint is a hint: a wrong one may cost speed and nothing else. To show that, a workload can register its
//! procedures under their own names, with their own arguments and code, but with damaged footprints: what a damaged
//! footprint declares is what *another* transaction would need ([`Misdeclare`]). Exact footprints are the procedures
//! themselves, so that a run that measures carries nothing of this.

use std::any::Any;
use std::marker::PhantomData;

use mixlog_engine::{DecodeError, Footprint, Procedure, Tx};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::tpcc::payment::Payment;

/// A procedure that knows how to be mistaken about its footprint.
pub trait Misdeclare: Procedure + Sized {
    /// A transaction that needs less than this one, or nothing if any would need as much.
    fn less(&self) -> Option<Self>;

    /// A transaction that needs something that this one does not.
    fn other(&self) -> Self;
}

/// A choice of footprints for the procedures of a workload.
pub trait Footprints: Send + Sync + 'static {
    /// The procedure to register and to submit in place of `P`.
    type Of<P: Misdeclare>: Procedure<Output = P::Output, Abort = P::Abort>;

    /// The procedure with its footprint so chosen.
    fn of<P: Misdeclare>(procedure: P) -> Self::Of<P>;
}

/// The footprints that the procedures declare.
#[derive(Clone, Copy, Debug)]
pub enum Exact {}

/// Some accesses are not declared.
#[derive(Clone, Copy, Debug)]
pub enum TooLittle {}

/// Accesses are declared that never happen.
#[derive(Clone, Copy, Debug)]
pub enum TooMuch {}

/// Only accesses are declared that never happen.
#[derive(Clone, Copy, Debug)]
pub enum Elsewhere {}

/// It is declared that nothing is touched.
#[derive(Clone, Copy, Debug)]
pub enum Nothing {}

/// It is declared that anything may be touched.
#[derive(Clone, Copy, Debug)]
pub enum Unknown {}

/// Exact, but for merges, which are declared as writes: to see what merges are worth.
#[derive(Clone, Copy, Debug)]
pub enum WithoutMerges {}

impl Footprints for Exact {
    type Of<P: Misdeclare> = P;

    fn of<P: Misdeclare>(procedure: P) -> P {
        procedure
    }
}

/// How a footprint is damaged.
pub trait Damage: Send + Sync + 'static {
    /// Declares something else than the procedure needs.
    fn declare<P: Misdeclare>(procedure: &P, f: &mut Footprint<'_>);
}

impl Damage for TooLittle {
    fn declare<P: Misdeclare>(procedure: &P, f: &mut Footprint<'_>) {
        if let Some(less) = procedure.less() {
            less.footprint(f);
        }
    }
}

impl Damage for TooMuch {
    fn declare<P: Misdeclare>(procedure: &P, f: &mut Footprint<'_>) {
        procedure.footprint(f);
        procedure.other().footprint(f);
    }
}

impl Damage for Elsewhere {
    fn declare<P: Misdeclare>(procedure: &P, f: &mut Footprint<'_>) {
        procedure.other().footprint(f);
    }
}

impl Damage for Nothing {
    fn declare<P: Misdeclare>(_: &P, _: &mut Footprint<'_>) {}
}

impl Damage for Unknown {
    fn declare<P: Misdeclare>(_: &P, f: &mut Footprint<'_>) {
        f.unknown();
    }
}

impl Damage for WithoutMerges {
    fn declare<P: Misdeclare>(procedure: &P, f: &mut Footprint<'_>) {
        procedure.footprint(f);
        if let Some(payment) = (procedure as &dyn Any).downcast_ref::<Payment>() {
            payment.declare_totals_written(f);
        }
    }
}

impl<D: Damage> Footprints for D {
    type Of<P: Misdeclare> = Wrong<P, D>;

    fn of<P: Misdeclare>(procedure: P) -> Wrong<P, D> {
        Wrong { procedure, damage: PhantomData }
    }
}

/// A procedure with a damaged footprint. Its name, version, arguments and code are those of `P`: the two read each
/// other's logs.
#[derive(Clone, Copy, Debug)]
pub struct Wrong<P, D> {
    procedure: P,
    damage: PhantomData<fn() -> D>,
}

impl<P: Serialize, D> Serialize for Wrong<P, D> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.procedure.serialize(serializer)
    }
}

impl<'de, P: Deserialize<'de>, D> Deserialize<'de> for Wrong<P, D> {
    fn deserialize<S: Deserializer<'de>>(deserializer: S) -> Result<Self, S::Error> {
        P::deserialize(deserializer).map(|procedure| Self { procedure, damage: PhantomData })
    }
}

impl<P: Misdeclare, D: Damage> Procedure for Wrong<P, D> {
    const NAME: &'static str = P::NAME;
    const VERSION: u32 = P::VERSION;
    type Output = P::Output;
    type Abort = P::Abort;

    fn encode(&self, out: &mut Vec<u8>) {
        self.procedure.encode(out);
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        P::decode(bytes).map(|procedure| Self { procedure, damage: PhantomData })
    }

    fn footprint(&self, f: &mut Footprint<'_>) {
        D::declare(&self.procedure, f);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<P::Output, P::Abort> {
        self.procedure.run(tx)
    }
}
