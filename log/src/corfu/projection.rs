//! The projection: which chain of units holds which positions, in one epoch.
//!
//! Source: CORFU (NSDI 2012), section 3.1. Departure: positions go to the chains of a segment by stripes of
//! `width` positions, so that a run of entries lies on one chain.

use std::fmt;

use crate::{LogId, Position};

use super::message::{Epoch, Instance, Member, SequencerNumber, Token, UnitNumber};

/// The map from positions to units, and the sequencer, of one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Projection {
    /// Whose projection it is.
    pub log: LogId,
    /// Which version.
    pub epoch: Epoch,
    /// How many positions a stripe has; at least 1, and the same in all epochs.
    pub width: u32,
    /// Every position that could be written in an earlier epoch lies before it: tokens start here. Of a
    /// sealed log, the final tail.
    pub tail: Position,
    /// Who hands out tokens; `None` for a sealed log.
    pub sequencer: Option<(SequencerNumber, Instance)>,
    /// Ranges of positions, in order. Each ends where the next one starts; the last one has no end.
    pub segments: Vec<Segment>,
}

/// Positions that are spread over the same chains.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// The first position.
    pub first: Position,
    /// The chains; stripe `n` of the log lies on chain `n` modulo their number.
    pub chains: Vec<Chain>,
}

/// Units that all have the same entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Chain {
    /// In the order of writing: the first is the head, and arbitrates; from the last one is read.
    pub units: Vec<Member>,
    /// Units that are being copied to. They are not read from, and no append waits for them.
    pub joining: Vec<Member>,
}

impl Chain {
    /// A chain whose units have everything.
    #[must_use]
    pub const fn of(units: Vec<Member>) -> Self {
        Self { units, joining: Vec::new() }
    }

    /// The unit that arbitrates.
    ///
    /// # Panics
    /// When the chain is empty, which [`Projection::check`] excludes.
    #[must_use]
    pub fn head(&self) -> Member {
        self.units[0]
    }

    /// The unit from which is read.
    ///
    /// # Panics
    /// When the chain is empty, which [`Projection::check`] excludes.
    #[must_use]
    pub fn last(&self) -> Member {
        *self.units.last().expect("a chain has a unit")
    }

    /// All units that hold, or will hold, the chain's entries.
    pub fn members(&self) -> impl Iterator<Item = Member> {
        self.units.iter().chain(&self.joining).copied()
    }
}

/// Where a position lies.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// On which chain.
    pub chain: &'a Chain,
    /// Up to where the positions that follow lie on the same chain without a gap.
    pub end: Position,
}

impl Projection {
    /// Where `position` lies; `None` when it lies before the first segment, and was trimmed.
    #[must_use]
    pub fn place(&self, position: Position) -> Option<Place<'_>> {
        let after = self.segments.partition_point(|segment| segment.first <= position);
        let segment = &self.segments[after.checked_sub(1)?];
        let width = u64::from(self.width);
        let stripe = position.0 / width;
        let chain = usize::try_from(stripe % segment.chains.len() as u64).expect("an index");
        let stripe_end = Position((stripe + 1).saturating_mul(width));
        let end = match self.segments.get(after) {
            Some(next) => stripe_end.min(next.first),
            None => stripe_end,
        };
        Some(Place { chain: &segment.chains[chain], end })
    }

    /// Whether a sequencer that counts as it should may have handed out `token` in this epoch: from the tail on, in one
    /// stripe, and with less than a stripe passed over. Whoever writes by another one writes where it has no business to.
    #[must_use]
    pub fn admits(&self, token: &Token) -> bool {
        token.epoch == self.epoch
            && self.tail <= token.skipped
            && token.skipped <= token.first
            && token.first.since(token.skipped) < u64::from(self.width)
            && self.place(token.first).is_some_and(|place| token.end() <= place.end)
    }

    /// `upto`, which was told to lie before the tail in another epoch; or where this one began, if it is later: what lies
    /// past that is this epoch's.
    #[must_use]
    pub fn bound(&self, upto: Position, told_in: Epoch) -> Position {
        if told_in < self.epoch { upto.min(self.tail) } else { upto }
    }

    /// The first position that was not given up with its segment.
    #[must_use]
    pub fn first(&self) -> Position {
        self.segments[0].first
    }

    /// The last segment, to which is appended.
    #[must_use]
    pub fn open(&self) -> &Segment {
        self.segments.last().expect("a projection has a segment")
    }

    /// Whether the log takes no more appends, ever.
    #[must_use]
    pub const fn sealed(&self) -> bool {
        self.sequencer.is_none()
    }

    /// All units, each once, in order.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let chains = self.segments.iter().flat_map(|segment| &segment.chains);
        let mut members: Vec<Member> = chains.flat_map(Chain::members).collect();
        members.sort_unstable();
        members.dedup();
        members
    }

    /// The member that this unit is, if it is one.
    #[must_use]
    pub fn member(&self, unit: UnitNumber) -> Option<Member> {
        self.members().into_iter().find(|member| member.unit == unit)
    }

    /// Units that are being copied to, each once, in order.
    #[must_use]
    pub fn joining(&self) -> Vec<Member> {
        let chains = self.segments.iter().flat_map(|segment| &segment.chains);
        let mut joining: Vec<Member> = chains.flat_map(|chain| chain.joining.iter().copied()).collect();
        joining.sort_unstable();
        joining.dedup();
        joining
    }

    /// What must be true of every projection.
    ///
    /// # Errors
    /// What is not.
    pub fn check(&self) -> Result<(), Flaw> {
        if self.width == 0 {
            return Err(Flaw::NoWidth);
        }
        if self.segments.is_empty() {
            return Err(Flaw::NoSegment);
        }
        if !self.segments.is_sorted_by(|a, b| a.first < b.first) {
            return Err(Flaw::Order);
        }
        for segment in &self.segments {
            if segment.chains.is_empty() || segment.chains.iter().any(|chain| chain.units.is_empty()) {
                return Err(Flaw::NoUnit { segment: segment.first });
            }
            let mut units: Vec<_> = segment.chains.iter().flat_map(Chain::members).collect();
            units.sort_unstable();
            if let Some(twice) = units.windows(2).find(|pair| pair[0].unit == pair[1].unit) {
                return Err(Flaw::Twice { unit: twice[0].unit });
            }
        }
        if let Some(twice) = self.members().windows(2).find(|pair| pair[0].unit == pair[1].unit) {
            return Err(Flaw::Twice { unit: twice[0].unit });
        }
        Ok(())
    }
}

/// What is wrong with a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A stripe has no positions.
    #[error("a stripe has no positions")]
    NoWidth,
    /// There is no segment.
    #[error("there is no segment")]
    NoSegment,
    /// The segments are not in order.
    #[error("the segments are not in order")]
    Order,
    /// A chain has no unit.
    #[error("a chain of the segment at position {segment} has no unit")]
    NoUnit {
        /// The segment's first position.
        segment: Position,
    },
    /// A unit stands twice in a segment, or in two incarnations.
    #[error("unit {unit} stands there twice")]
    Twice {
        /// Which.
        unit: UnitNumber,
    },
    /// The bytes are not a projection.
    #[error("the bytes are not a projection")]
    Bytes,
    /// The checksum is wrong.
    #[error("the checksum is wrong")]
    Checksum,
    /// It is written in a format that this program does not read.
    #[error("format version {0} is not known")]
    Version(u32),
}

impl fmt::Display for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "epoch {}, log {}, {} positions a stripe", self.epoch, self.log, self.width)?;
        match self.sequencer {
            Some((number, _)) => writeln!(f, "sequencer {number}, tokens from {} on", self.tail)?,
            None => writeln!(f, "sealed at {}", self.tail)?,
        }
        for segment in &self.segments {
            write!(f, "from {}:", segment.first)?;
            for chain in &segment.chains {
                write!(f, " {chain}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units: Vec<_> = self.units.iter().map(|member| member.unit.to_string()).collect();
        write!(f, "[{}", units.join(" > "))?;
        for member in &self.joining {
            write!(f, ", joining {}", member.unit)?;
        }
        f.write_str("]")
    }
}

const MAGIC: &[u8; 8] = b"MIXLOGPJ";
const VERSION: u32 = 1;

impl Projection {
    /// The projection in bytes, little-endian:
    ///
    /// ```text
    ///  0  8  magic "MIXLOGPJ"
    ///  8  4  format version
    /// 12 16  log id
    /// 28  8  epoch
    /// 36  4  width
    /// 40  8  tail
    /// 48  4  1 if there is a sequencer, else 0
    /// 52  4  sequencer's number
    /// 56  8  sequencer's instance
    /// 64  4  count of segments; for each: 8 first position, 4 count of chains;
    ///        for each: 4 count of units, 4 count of joining units; for each: 4 number, 8 epoch joined
    ///  .  4  CRC-32C of everything before
    /// ```
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let count = |n: usize| u32::try_from(n).expect("a small number").to_le_bytes();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.log.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.width.to_le_bytes());
        out.extend_from_slice(&self.tail.0.to_le_bytes());
        let (number, instance) = self.sequencer.unwrap_or((SequencerNumber(0), Instance(0)));
        out.extend_from_slice(&u32::from(self.sequencer.is_some()).to_le_bytes());
        out.extend_from_slice(&number.0.to_le_bytes());
        out.extend_from_slice(&instance.0.to_le_bytes());
        out.extend_from_slice(&count(self.segments.len()));
        for segment in &self.segments {
            out.extend_from_slice(&segment.first.0.to_le_bytes());
            out.extend_from_slice(&count(segment.chains.len()));
            for chain in &segment.chains {
                out.extend_from_slice(&count(chain.units.len()));
                out.extend_from_slice(&count(chain.joining.len()));
                for member in chain.members() {
                    out.extend_from_slice(&member.unit.0.to_le_bytes());
                    out.extend_from_slice(&member.joined.0.to_le_bytes());
                }
            }
        }
        let checksum = crc32c::crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// The projection in these bytes.
    ///
    /// # Errors
    /// [`Flaw`]: what is wrong with them. A count too large costs no memory.
    pub fn decode(bytes: &[u8]) -> Result<Self, Flaw> {
        let Some((body, checksum)) = bytes.split_last_chunk::<4>() else { return Err(Flaw::Bytes) };
        let mut rest = Bytes(body);
        if &rest.take::<8>()? != MAGIC {
            return Err(Flaw::Bytes);
        }
        if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
            return Err(Flaw::Checksum);
        }
        match rest.u32()? {
            VERSION => {}
            version => return Err(Flaw::Version(version)),
        }
        let log = LogId(u128::from_le_bytes(rest.take()?));
        let epoch = Epoch(rest.u64()?);
        let width = rest.u32()?;
        let tail = Position(rest.u64()?);
        let has_sequencer = rest.u32()? == 1;
        let sequencer = (SequencerNumber(rest.u32()?), Instance(rest.u64()?));
        let mut segments = Vec::new();
        for _ in 0..rest.u32()? {
            let first = Position(rest.u64()?);
            let mut chains = Vec::new();
            for _ in 0..rest.u32()? {
                let (units, joining) = (rest.u32()?, rest.u32()?);
                chains.push(Chain { units: rest.members(units)?, joining: rest.members(joining)? });
            }
            segments.push(Segment { first, chains });
        }
        if !rest.0.is_empty() {
            return Err(Flaw::Bytes);
        }
        let sequencer = has_sequencer.then_some(sequencer);
        let projection = Self { log, epoch, width, tail, sequencer, segments };
        projection.check()?;
        Ok(projection)
    }
}

/// What is left to decode.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Flaw::Bytes)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, Flaw> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Flaw> {
        self.take().map(u64::from_le_bytes)
    }

    fn members(&mut self, count: u32) -> Result<Vec<Member>, Flaw> {
        let member = |_| Ok(Member { unit: UnitNumber(self.u32()?), joined: Epoch(self.u64()?) });
        (0..count).map(member).collect()
    }
}

#[cfg(all(test, not(loom)))]
pub(super) mod tests {
    use super::*;

    pub(crate) fn member(unit: u32, joined: u64) -> Member {
        Member { unit: UnitNumber(unit), joined: Epoch(joined) }
    }

    fn two_segments() -> Projection {
        let a = Chain { units: vec![member(1, 1)], joining: vec![member(5, 2)] };
        let b = Chain::of(vec![member(3, 1), member(4, 1)]);
        let a2 = Chain::of(vec![member(1, 1), member(5, 2)]);
        Projection {
            log: LogId(9),
            epoch: Epoch(2),
            width: 10,
            tail: Position(25),
            sequencer: Some((SequencerNumber(1), Instance(4))),
            segments: vec![
                Segment { first: Position(5), chains: vec![a, b.clone()] },
                Segment { first: Position(25), chains: vec![a2, b] },
            ],
        }
    }

    #[test]
    fn positions_go_to_chains_by_stripes_within_segments() {
        let projection = two_segments();
        let place = |position| {
            let place = projection.place(Position(position)).unwrap();
            (place.chain.head().unit.0, place.chain.last().unit.0, place.end.0)
        };
        assert!(projection.place(Position(4)).is_none());
        assert_eq!(place(5), (1, 1, 10));
        assert_eq!(place(10), (3, 4, 20));
        assert_eq!(place(24), (1, 1, 25), "the segment ends before the stripe does");
        assert_eq!(place(25), (1, 5, 30));
        assert_eq!(place(39), (3, 4, 40));
        assert!(projection.place(Position(u64::MAX)).is_some());
    }

    #[test]
    fn tokens_are_admitted_from_the_tail_on_and_in_one_stripe() {
        let projection = two_segments();
        let token = |skipped, first, count| Token {
            epoch: Epoch(2),
            skipped: Position(skipped),
            first: Position(first),
            count,
        };
        for sound in [token(25, 25, 5), token(25, 25, 0), token(28, 30, 10), token(31, 40, 1)] {
            assert!(projection.admits(&sound), "{sound:?}");
        }
        let of_another = Token { epoch: Epoch(3), ..token(25, 25, 1) };
        for unsound in [
            of_another,
            token(0, 0, 1),
            token(24, 25, 1),
            token(25, 25, 6),
            token(26, 25, 1),
            token(25, 35, 1),
            token(25, u64::MAX - 1, 1),
        ] {
            assert!(!projection.admits(&unsound), "{unsound:?}");
        }
    }

    #[test]
    fn projection_encoded_decodes_to_the_same() {
        let mut projection = two_segments();
        assert_eq!(Projection::decode(&projection.encode()), Ok(projection.clone()));
        projection.sequencer = None;
        assert_eq!(Projection::decode(&projection.encode()), Ok(projection));
    }

    #[test]
    fn projection_with_any_bit_flipped_is_refused() {
        let bytes = two_segments().encode();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Projection::decode(&bytes).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(Projection::decode(&bytes[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn projection_with_a_unit_twice_or_a_chain_without_units_is_refused() {
        let mut projection = two_segments();
        projection.segments[1].chains[1].units[0] = member(1, 1);
        assert_eq!(projection.check(), Err(Flaw::Twice { unit: UnitNumber(1) }));
        let mut projection = two_segments();
        projection.segments[1].chains[1].units[0] = member(3, 2);
        assert_eq!(projection.check(), Err(Flaw::Twice { unit: UnitNumber(3) }));
        let mut projection = two_segments();
        projection.segments[0].chains[0].units.clear();
        assert_eq!(projection.check(), Err(Flaw::NoUnit { segment: Position(5) }));
    }
}
