//! Messages in bytes, little-endian. Drawn in `docs/wire-format.md`.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::block::EntryBytes;
use crate::bytes::u32s;
use crate::{Block, Durability, LogId, Position};

use super::super::message::{
    ClientId, EntryId, Epoch, Instance, Member, Node, Predecessor, Reply, Request, Run, SequencerNumber,
    SequencerReply, SequencerRequest, SequencerVerb, Standing, StoreReply, StoreRequest, Token, UnitNumber,
    UnitReply, UnitRequest, UnitVerb,
};
use super::super::projection::Projection;
use super::book::{Listing, Listings};
use super::frame::{FrameBody, FrameError, Kind};
use super::outgoing::Outgoing;

/// A request about the address book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BookRequest {
    /// Answer all listings.
    Listings,
    /// List this role there. Answers all listings.
    Announce(Node, Listing),
}

type Decoded<T> = Result<T, FrameError>;

// ---- numbers ---------------------------------------------------------------------------------------------

fn put_u32(out: &mut Outgoing, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_u64(out: &mut Outgoing, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// What is left of a body.
struct Body<'a> {
    rest: &'a [u8],
    whole: FrameBody<'a>,
}

impl<'a> Body<'a> {
    fn of(whole: FrameBody<'a>) -> Self {
        Self { rest: whole.bytes(), whole }
    }

    fn bytes(&mut self, count: usize) -> Decoded<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(FrameError::Body)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next bytes, to be kept.
    fn entries(&mut self, count: usize) -> Decoded<EntryBytes> {
        let start = self.whole.bytes().len() - self.rest.len();
        let bytes = self.bytes(count)?;
        Ok(match self.whole.owner() {
            Some(owner) => EntryBytes::part(owner, start..start + count),
            None => EntryBytes::Own(bytes.to_vec()),
        })
    }

    fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(FrameError::Body)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn log(&mut self) -> Decoded<LogId> {
        self.array().map(|bytes| LogId(u128::from_le_bytes(bytes)))
    }

    fn u8(&mut self) -> Decoded<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Decoded<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Decoded<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn position(&mut self) -> Decoded<Position> {
        self.u64().map(Position)
    }

    fn epoch(&mut self) -> Decoded<Epoch> {
        self.u64().map(Epoch)
    }

    fn end<T>(self, value: T) -> Decoded<T> {
        if self.rest.is_empty() { Ok(value) } else { Err(FrameError::Body) }
    }

    fn run(&mut self) -> Decoded<Run> {
        match self.u8()? {
            1 => {
                let id = EntryId { client: ClientId(self.u64()?), sequence: self.u64()? };
                let (first, count) = (self.position()?, self.u32()?);
                let ends = u32s(self.bytes(4 * count as usize)?);
                let length = *ends.last().ok_or(FrameError::Body)? as usize;
                let fits = first.0.checked_add(u64::from(count)).is_some();
                if !ends.is_sorted() || !fits {
                    return Err(FrameError::Body);
                }
                let bytes = self.entries(length)?;
                Ok(Run::data(id, Arc::new(Block::from_parts(first, bytes, ends))))
            }
            2 => {
                let (first, count) = (self.position()?, self.u32()?);
                let end = first.0.checked_add(u64::from(count)).filter(|end| *end > first.0);
                Ok(Run::junk(first, Position(end.ok_or(FrameError::Body)?)))
            }
            _ => Err(FrameError::Body),
        }
    }

    /// A run of data that ends the body, and is about to go to a disk, with a checksum. Junk comes by fills and copies.
    fn written_run(&mut self) -> Decoded<Run> {
        let run = self.run()?;
        if run.id.is_none() || !self.rest.is_empty() {
            return Err(FrameError::Body);
        }
        if let Some(checksum) = self.whole.checksum_of_last(run.block.bytes()) {
            run.block.keep_checksum(checksum);
        }
        Ok(run)
    }

    fn runs(&mut self) -> Decoded<Vec<Run>> {
        // No memory for a count that is not followed by as many runs.
        (0..self.u32()?).map(|_| self.run()).collect()
    }

    fn predecessor(&mut self) -> Decoded<Predecessor> {
        let id = EntryId { client: ClientId(self.u64()?), sequence: self.u64()? };
        Ok(Predecessor { first: self.position()?, id })
    }

    fn projection(self) -> Decoded<Arc<Projection>> {
        Projection::decode(self.rest).map(Arc::new).map_err(|_| FrameError::Body)
    }

    fn node(&mut self) -> Decoded<Node> {
        match (self.u8()?, self.u32()?) {
            (1, number) => Ok(Node::Unit(UnitNumber(number))),
            (2, number) => Ok(Node::Sequencer(SequencerNumber(number))),
            _ => Err(FrameError::Body),
        }
    }

    fn listing(&mut self) -> Decoded<Listing> {
        let durability = match self.u8()? {
            0 => None,
            1 => Some(Durability::Memory),
            2 => Some(Durability::Buffered),
            3 => Some(Durability::Flushed),
            _ => return Err(FrameError::Body),
        };
        let length = self.u8()?;
        let text = std::str::from_utf8(self.bytes(length.into())?).map_err(|_| FrameError::Body)?;
        let address: SocketAddr = text.parse().map_err(|_| FrameError::Body)?;
        Ok(Listing { address, durability })
    }
}

fn put_run(out: &mut Outgoing, run: &Run) {
    match (run.id, run.block.data()) {
        (Some(id), Some((_, ends))) => {
            out.reserve(32 + size_of_val(ends));
            out.push(1);
            for number in [id.client.0, id.sequence, run.first().0] {
                put_u64(out, number);
            }
            put_u32(out, u32::try_from(ends.len()).expect("a block holds less than 2^32 entries"));
            ends.iter().for_each(|end| put_u32(out, *end));
            out.extend_from_block(&run.block);
        }
        _ => {
            out.push(2);
            put_u64(out, run.first().0);
            put_u32(out, u32::try_from(run.block.len()).expect("a block holds less than 2^32 entries"));
        }
    }
}

fn put_runs(out: &mut Outgoing, runs: &[Run]) {
    put_u32(out, u32::try_from(runs.len()).expect("a message holds few runs"));
    runs.iter().for_each(|run| put_run(out, run));
}

fn put_predecessor(out: &mut Outgoing, before: &Predecessor) {
    for number in [before.id.client.0, before.id.sequence, before.first.0] {
        put_u64(out, number);
    }
}

fn put_node(out: &mut Outgoing, node: Node) {
    let (role, number) = match node {
        Node::Unit(number) => (1, number.0),
        Node::Sequencer(number) => (2, number.0),
        Node::Store => (0, 0),
    };
    out.push(role);
    put_u32(out, number);
}

fn put_listing(out: &mut Outgoing, listing: &Listing) {
    out.push(match listing.durability {
        None => 0,
        Some(Durability::Memory) => 1,
        Some(Durability::Buffered) => 2,
        Some(Durability::Flushed) => 3,
    });
    let text = listing.address.to_string();
    out.push(u8::try_from(text.len()).expect("an address is short"));
    out.extend_from_slice(text.as_bytes());
}

// ---- requests --------------------------------------------------------------------------------------------

/// Of which kind a request is.
pub(crate) const fn request_kind(request: &Request) -> Kind {
    match request {
        Request::Unit(_) => Kind::UnitRequest,
        Request::Sequencer(_) => Kind::SequencerRequest,
        Request::Store(_) => Kind::StoreRequest,
    }
}

pub(crate) fn put_request(out: &mut Outgoing, request: &Request) {
    match request {
        Request::Unit(request) => put_unit_request(out, request),
        Request::Sequencer(request) => put_sequencer_request(out, request),
        Request::Store(StoreRequest::Latest) => out.push(1),
        Request::Store(StoreRequest::Name(log)) => {
            out.push(3);
            out.extend_from_slice(&log.0.to_le_bytes());
        }
        Request::Store(StoreRequest::Install(projection)) => {
            out.push(2);
            out.extend_from_slice(&projection.encode());
        }
    }
}

fn put_unit_request(out: &mut Outgoing, request: &UnitRequest) {
    put_u64(out, request.epoch.0);
    put_u64(out, request.member.joined.0);
    let ranged = |out: &mut Outgoing, verb, from: Position, upto: Position| {
        out.push(verb);
        put_u64(out, from.0);
        put_u64(out, upto.0);
    };
    match &request.verb {
        UnitVerb::Write(run) => {
            out.push(1);
            put_run(out, run);
        }
        UnitVerb::Copy(runs) => {
            out.push(2);
            put_runs(out, runs);
        }
        UnitVerb::Fill { from, upto, bytes } => {
            ranged(out, 3, *from, *upto);
            put_u32(out, *bytes);
        }
        UnitVerb::Read { from, upto, bytes } => {
            ranged(out, 4, *from, *upto);
            put_u32(out, *bytes);
        }
        UnitVerb::Gap { from, upto } => ranged(out, 5, *from, *upto),
        UnitVerb::Trim(before) => {
            out.push(6);
            put_u64(out, before.0);
        }
        UnitVerb::Commit(before) => {
            out.push(7);
            put_u64(out, before.0);
        }
        UnitVerb::Probe => out.push(8),
        UnitVerb::Seal => out.push(9),
        UnitVerb::Join(log) => {
            out.push(10);
            out.extend_from_slice(&log.0.to_le_bytes());
        }
        UnitVerb::Flush => out.push(13),
        UnitVerb::WriteAfter(before, run) => {
            out.push(11);
            put_predecessor(out, before);
            put_run(out, run);
        }
        UnitVerb::CopyAfter(before, run) => {
            out.push(12);
            put_predecessor(out, before);
            put_run(out, run);
        }
    }
}

/// The request to the unit `number`.
pub(crate) fn unit_request(number: u32, body: FrameBody<'_>) -> Decoded<UnitRequest> {
    let mut body = Body::of(body);
    let epoch = body.epoch()?;
    let member = Member { unit: UnitNumber(number), joined: body.epoch()? };
    let verb = match body.u8()? {
        1 => UnitVerb::Write(body.written_run()?),
        2 => UnitVerb::Copy(body.runs()?),
        3 => UnitVerb::Fill { from: body.position()?, upto: body.position()?, bytes: body.u32()? },
        4 => UnitVerb::Read { from: body.position()?, upto: body.position()?, bytes: body.u32()? },
        5 => UnitVerb::Gap { from: body.position()?, upto: body.position()? },
        6 => UnitVerb::Trim(body.position()?),
        7 => UnitVerb::Commit(body.position()?),
        8 => UnitVerb::Probe,
        9 => UnitVerb::Seal,
        10 => UnitVerb::Join(body.log()?),
        11 => UnitVerb::WriteAfter(body.predecessor()?, body.written_run()?),
        12 => UnitVerb::CopyAfter(body.predecessor()?, body.written_run()?),
        13 => UnitVerb::Flush,
        _ => return Err(FrameError::Body),
    };
    // A range that is filled becomes runs of junk, of less than 2^32 positions each.
    if matches!(&verb, UnitVerb::Fill { from, upto, .. } if upto.since(*from) > u64::from(u32::MAX)) {
        return Err(FrameError::Body);
    }
    body.end(UnitRequest { epoch, member, verb })
}

fn put_sequencer_request(out: &mut Outgoing, request: &SequencerRequest) {
    put_u64(out, request.epoch.0);
    match request.verb {
        SequencerVerb::Next { count, at_least } => {
            out.push(1);
            put_u32(out, count);
            put_u32(out, at_least);
        }
        SequencerVerb::Tail => out.push(2),
        SequencerVerb::Seal => out.push(3),
        SequencerVerb::Start { instance, tail, width } => {
            out.push(4);
            put_u64(out, instance.0);
            put_u64(out, tail.0);
            put_u32(out, width);
        }
    }
}

pub(crate) fn sequencer_request(body: FrameBody<'_>) -> Decoded<SequencerRequest> {
    let mut body = Body::of(body);
    let epoch = body.epoch()?;
    let verb = match body.u8()? {
        1 => SequencerVerb::Next { count: body.u32()?, at_least: body.u32()? },
        2 => SequencerVerb::Tail,
        3 => SequencerVerb::Seal,
        4 => {
            let (instance, tail, width) = (Instance(body.u64()?), body.position()?, body.u32()?);
            if width == 0 {
                return Err(FrameError::Body);
            }
            SequencerVerb::Start { instance, tail, width }
        }
        _ => return Err(FrameError::Body),
    };
    body.end(SequencerRequest { epoch, verb })
}

pub(crate) fn store_request(body: FrameBody<'_>) -> Decoded<StoreRequest> {
    let mut body = Body::of(body);
    match body.u8()? {
        1 => body.end(StoreRequest::Latest),
        2 => body.projection().map(StoreRequest::Install),
        3 => {
            let log = body.log()?;
            body.end(StoreRequest::Name(log))
        }
        _ => Err(FrameError::Body),
    }
}

pub(crate) fn put_book_request(out: &mut Outgoing, request: &BookRequest) {
    match request {
        BookRequest::Listings => out.push(1),
        BookRequest::Announce(node, listing) => {
            out.push(2);
            put_node(out, *node);
            put_listing(out, listing);
        }
    }
}

pub(crate) fn book_request(body: FrameBody<'_>) -> Decoded<BookRequest> {
    let mut body = Body::of(body);
    match body.u8()? {
        1 => body.end(BookRequest::Listings),
        2 => {
            let request = BookRequest::Announce(body.node()?, body.listing()?);
            body.end(request)
        }
        _ => Err(FrameError::Body),
    }
}

// ---- replies ---------------------------------------------------------------------------------------------

/// Of which kind a reply is.
pub(crate) const fn reply_kind(reply: &Reply) -> Kind {
    match reply {
        Reply::Unit(_) => Kind::UnitReply,
        Reply::Sequencer(_) => Kind::SequencerReply,
        Reply::Store(_) => Kind::StoreReply,
    }
}

pub(crate) fn put_reply(out: &mut Outgoing, reply: &Reply) {
    match reply {
        Reply::Unit(reply) => put_unit_reply(out, reply),
        Reply::Sequencer(reply) => put_sequencer_reply(out, *reply),
        Reply::Store(StoreReply::Latest(None)) => out.push(1),
        Reply::Store(StoreReply::Latest(Some(projection))) => {
            out.push(2);
            out.extend_from_slice(&projection.encode());
        }
        Reply::Store(StoreReply::Installed) => out.push(3),
        Reply::Store(StoreReply::Named(log)) => {
            out.push(4);
            out.extend_from_slice(&log.0.to_le_bytes());
        }
    }
}

fn put_unit_reply(out: &mut Outgoing, reply: &UnitReply) {
    let number = |out: &mut Outgoing, tag, number| {
        out.push(tag);
        put_u64(out, number);
    };
    match reply {
        UnitReply::Done => out.push(1),
        UnitReply::Runs(runs) => {
            out.push(2);
            put_runs(out, runs);
        }
        UnitReply::Gap(from, upto) => {
            number(out, 3, from.0);
            put_u64(out, upto.0);
        }
        UnitReply::Standing(standing) => {
            number(out, 4, standing.epoch.0);
            put_u64(out, standing.reach.0);
            put_u64(out, standing.trimmed.0);
            put_u64(out, standing.committed.0);
        }
        UnitReply::Taken(position) => number(out, 5, position.0),
        UnitReply::Trimmed(position) => number(out, 6, position.0),
        UnitReply::Sealed(epoch) => number(out, 7, epoch.0),
        UnitReply::Behind(epoch) => number(out, 8, epoch.0),
        UnitReply::Stranger(None) => out.push(9),
        UnitReply::Stranger(Some(member)) => {
            number(out, 10, member.joined.0);
            put_u32(out, member.unit.0);
        }
        UnitReply::Corrupt(position) => number(out, 11, position.0),
        UnitReply::Full => out.push(12),
        UnitReply::TooLarge(bytes) => {
            out.push(13);
            put_u32(out, *bytes);
        }
        UnitReply::Early => out.push(14),
    }
}

fn put_sequencer_reply(out: &mut Outgoing, reply: SequencerReply) {
    let number = |out: &mut Outgoing, tag, number| {
        out.push(tag);
        put_u64(out, number);
    };
    match reply {
        SequencerReply::Token(token) => {
            number(out, 1, token.epoch.0);
            put_u64(out, token.skipped.0);
            put_u64(out, token.first.0);
            put_u32(out, token.count);
        }
        SequencerReply::Tail(position) => number(out, 2, position.0),
        SequencerReply::Present { instance, epoch } => {
            number(out, 3, instance.0);
            put_u64(out, epoch.0);
        }
        SequencerReply::Sealed(epoch) => number(out, 4, epoch.0),
        SequencerReply::NotStarted(instance) => number(out, 5, instance.0),
    }
}

/// The reply of this kind.
pub(crate) fn reply(kind: Kind, body: FrameBody<'_>) -> Decoded<Reply> {
    let mut body = Body::of(body);
    Ok(match kind {
        Kind::UnitReply => Reply::Unit(unit_reply(body)?),
        Kind::SequencerReply => Reply::Sequencer(sequencer_reply(body)?),
        Kind::StoreReply => Reply::Store(match body.u8()? {
            1 => body.end(StoreReply::Latest(None))?,
            2 => StoreReply::Latest(Some(body.projection()?)),
            3 => body.end(StoreReply::Installed)?,
            4 => {
                let log = body.log()?;
                body.end(StoreReply::Named(log))?
            }
            _ => return Err(FrameError::Body),
        }),
        _ => return Err(FrameError::Body),
    })
}

fn unit_reply(mut body: Body<'_>) -> Decoded<UnitReply> {
    let reply = match body.u8()? {
        1 => UnitReply::Done,
        2 => UnitReply::Runs(body.runs()?),
        3 => UnitReply::Gap(body.position()?, body.position()?),
        4 => UnitReply::Standing(Standing {
            epoch: body.epoch()?,
            reach: body.position()?,
            trimmed: body.position()?,
            committed: body.position()?,
        }),
        5 => UnitReply::Taken(body.position()?),
        6 => UnitReply::Trimmed(body.position()?),
        7 => UnitReply::Sealed(body.epoch()?),
        8 => UnitReply::Behind(body.epoch()?),
        9 => UnitReply::Stranger(None),
        10 => {
            let joined = body.epoch()?;
            UnitReply::Stranger(Some(Member { unit: UnitNumber(body.u32()?), joined }))
        }
        11 => UnitReply::Corrupt(body.position()?),
        12 => UnitReply::Full,
        13 => UnitReply::TooLarge(body.u32()?),
        14 => UnitReply::Early,
        _ => return Err(FrameError::Body),
    };
    body.end(reply)
}

fn sequencer_reply(mut body: Body<'_>) -> Decoded<SequencerReply> {
    let reply = match body.u8()? {
        1 => {
            let (epoch, skipped) = (body.epoch()?, body.position()?);
            let (first, count) = (body.position()?, body.u32()?);
            if first.0.checked_add(u64::from(count)).is_none() {
                return Err(FrameError::Body);
            }
            SequencerReply::Token(Token { epoch, skipped, first, count })
        }
        2 => SequencerReply::Tail(body.position()?),
        3 => SequencerReply::Present { instance: Instance(body.u64()?), epoch: body.epoch()? },
        4 => SequencerReply::Sealed(body.epoch()?),
        5 => SequencerReply::NotStarted(Instance(body.u64()?)),
        _ => return Err(FrameError::Body),
    };
    body.end(reply)
}

pub(crate) fn put_listings(out: &mut Outgoing, listings: &Listings) {
    put_u32(out, u32::try_from(listings.len()).expect("few roles"));
    for (node, listing) in listings {
        put_node(out, *node);
        put_listing(out, listing);
    }
}

pub(crate) fn listings(body: FrameBody<'_>) -> Decoded<Listings> {
    let mut body = Body::of(body);
    let mut listings = Listings::new();
    for _ in 0..body.u32()? {
        listings.insert(body.node()?, body.listing()?);
    }
    body.end(listings)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::frame;
    use super::*;
    use crate::Batch;
    use crate::buffer::Buffer;
    use crate::corfu::plan::{Change, Found};

    fn data(first: u64) -> Run {
        let mut batch = Batch::new();
        batch.push(b"an entry");
        batch.push(b"");
        batch.push(&[255; 300]);
        let id = EntryId { client: ClientId(u64::MAX), sequence: 12 };
        Run::data(id, Arc::new(Block::of(Position(first), batch)))
    }

    fn projection() -> Arc<Projection> {
        let chains = vec![vec![UnitNumber(1), UnitNumber(2)], vec![UnitNumber(7)]];
        let change = Change { sequencer: Some(SequencerNumber(4)), ..Change::grow(chains) };
        let (tail, trimmed) = (Position(9), Position(1));
        let found = Found { tail, trimmed, silent: Vec::new(), instance: Some(Instance(6)) };
        Arc::new(Projection::blank(LogId(3), 16).next(&change, &found).unwrap())
    }

    fn requests() -> Vec<Request> {
        let (from, upto, bytes) = (Position(3), Position(1 << 30), 77);
        let junk = Run::junk(Position(4), Position(1 << 31));
        let id = EntryId { client: ClientId(3), sequence: u64::MAX };
        let before = Predecessor { first: Position(u64::MAX - 9), id };
        let verbs = [
            UnitVerb::Write(data(5)),
            UnitVerb::Copy(vec![data(1), junk]),
            UnitVerb::Copy(Vec::new()),
            UnitVerb::Fill { from, upto, bytes },
            UnitVerb::Read { from, upto: Position::MAX, bytes },
            UnitVerb::Gap { from, upto },
            UnitVerb::Trim(upto),
            UnitVerb::Commit(from),
            UnitVerb::Probe,
            UnitVerb::Seal,
            UnitVerb::Join(LogId(u128::MAX - 7)),
            UnitVerb::WriteAfter(before, data(8)),
            UnitVerb::CopyAfter(before, data(8)),
            UnitVerb::Flush,
        ];
        let member = Member { unit: UnitNumber(2), joined: Epoch(8) };
        let unit = verbs.map(|verb| Request::Unit(UnitRequest { epoch: Epoch(9), member, verb }));
        let instance = Instance(u64::MAX - 1);
        let verbs = [
            SequencerVerb::Next { count: 9, at_least: 2 },
            SequencerVerb::Tail,
            SequencerVerb::Seal,
            SequencerVerb::Start { instance, tail: upto, width: 5 },
        ];
        let sequencer = verbs.map(|verb| Request::Sequencer(SequencerRequest { epoch: Epoch(2), verb }));
        let name = StoreRequest::Name(LogId(u128::MAX - 7));
        let store = [StoreRequest::Latest, StoreRequest::Install(projection()), name].map(Request::Store);
        unit.into_iter().chain(sequencer).chain(store).collect()
    }

    fn replies() -> Vec<Reply> {
        let (position, epoch) = (Position(u64::MAX), Epoch(5));
        let standing = Standing { epoch, reach: Position(4), trimmed: Position(3), committed: Position(2) };
        let member = Member { unit: UnitNumber(2), joined: Epoch(8) };
        let unit = [
            UnitReply::Done,
            UnitReply::Runs(vec![data(7), Run::junk(Position(10), Position(11))]),
            UnitReply::Gap(Position(1), position),
            UnitReply::Standing(standing),
            UnitReply::Taken(position),
            UnitReply::Trimmed(position),
            UnitReply::Sealed(epoch),
            UnitReply::Behind(epoch),
            UnitReply::Stranger(None),
            UnitReply::Stranger(Some(member)),
            UnitReply::Corrupt(position),
            UnitReply::Full,
            UnitReply::TooLarge(9),
            UnitReply::Early,
        ];
        let token = Token { epoch, skipped: Position(1), first: Position(2), count: 3 };
        let sequencer = [
            SequencerReply::Token(token),
            SequencerReply::Tail(position),
            SequencerReply::Present { instance: Instance(1), epoch },
            SequencerReply::Sealed(epoch),
            SequencerReply::NotStarted(Instance(2)),
        ];
        let store = [
            StoreReply::Latest(None),
            StoreReply::Latest(Some(projection())),
            StoreReply::Installed,
            StoreReply::Named(LogId(u128::MAX - 7)),
        ];
        let unit = unit.into_iter().map(Reply::Unit);
        unit.chain(sequencer.map(Reply::Sequencer)).chain(store.map(Reply::Store)).collect()
    }

    /// What `put` appends.
    fn encoded(put: impl FnOnce(&mut Outgoing)) -> Vec<u8> {
        let mut out = Outgoing::default();
        put(&mut out);
        out.to_vec()
    }

    /// What a body decodes to, whether its bytes are kept or copied.
    fn decoded<T: PartialEq + std::fmt::Debug>(
        body: &[u8],
        decode: impl Fn(FrameBody<'_>) -> Decoded<T>,
    ) -> Decoded<T> {
        let copied = decode(body.into());
        assert_eq!(decode((&Arc::new(Buffer::from(body.to_vec()))).into()), copied);
        copied
    }

    fn decode(kind: Kind, body: &[u8]) -> Decoded<Request> {
        decoded(body, |body| decode_request(kind, body))
    }

    fn decode_reply(kind: Kind, body: &[u8]) -> Decoded<Reply> {
        decoded(body, |body| reply(kind, body))
    }

    fn decode_request(kind: Kind, body: FrameBody<'_>) -> Decoded<Request> {
        Ok(match kind {
            Kind::UnitRequest => Request::Unit(unit_request(2, body)?),
            Kind::SequencerRequest => Request::Sequencer(sequencer_request(body)?),
            Kind::StoreRequest => Request::Store(store_request(body)?),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn requests_decode_to_the_same_and_in_no_part_to_anything() {
        for request in requests() {
            let kind = request_kind(&request);
            let mut body = encoded(|out| put_request(out, &request));
            assert_eq!(decode(kind, &body), Ok(request.clone()));
            for length in 0..body.len() {
                assert_eq!(decode(kind, &body[..length]), Err(FrameError::Body), "{request:?}");
            }
            body.push(0);
            assert_eq!(decode(kind, &body), Err(FrameError::Body), "{request:?}");
        }
    }

    #[test]
    fn replies_decode_to_the_same_and_in_no_part_to_anything() {
        for sent in replies() {
            let kind = reply_kind(&sent);
            let body = encoded(|out| put_reply(out, &sent));
            assert_eq!(decode_reply(kind, &body), Ok(sent.clone()));
            for length in 0..body.len() {
                assert_eq!(decode_reply(kind, &body[..length]), Err(FrameError::Body), "{sent:?}");
            }
        }
    }

    /// Whatever the bytes are, decoding ends with a value or an error, and takes no more memory than they do.
    #[test]
    fn bodies_with_a_byte_changed_do_no_harm() {
        for request in requests() {
            let kind = request_kind(&request);
            let mut body = encoded(|out| put_request(out, &request));
            for at in 0..body.len() {
                for value in [0, 1, 127, 255] {
                    let before = std::mem::replace(&mut body[at], value);
                    let _ = decode(kind, &body);
                    body[at] = before;
                }
            }
        }
        for sent in replies() {
            let kind = reply_kind(&sent);
            let mut body = encoded(|out| put_reply(out, &sent));
            for at in 0..body.len() {
                for value in [0, 1, 127, 255] {
                    let before = std::mem::replace(&mut body[at], value);
                    let _ = decode_reply(kind, &body);
                    body[at] = before;
                }
            }
        }
    }

    #[test]
    fn address_book_decodes_to_the_same() {
        let listing = |text: &str, durability| Listing { address: text.parse().unwrap(), durability };
        let all = Listings::from([
            (Node::Unit(UnitNumber(3)), listing("127.0.0.1:80", Some(Durability::Flushed))),
            (Node::Sequencer(SequencerNumber(1)), listing("[::1]:65535", None)),
        ]);
        let body = encoded(|out| put_listings(out, &all));
        assert_eq!(listings(body[..].into()), Ok(all.clone()));
        for (node, listing) in all {
            let request = BookRequest::Announce(node, listing);
            let body = encoded(|out| put_book_request(out, &request));
            assert_eq!(book_request(body[..].into()), Ok(request));
        }
        assert_eq!(frame::HEADER, 48, "as docs/wire-format.md draws it");
    }
}
