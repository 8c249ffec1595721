//! Votes on one position, counted.

use std::collections::BTreeMap;

use mixlog_log::{Entry, Position, SharedLog};

use super::{Formats, Membership, POINTS, Vote};
use crate::digest::Digest;
use crate::entry::{self, Content};
use crate::error::OpenError;
use crate::pipeline::WINDOW_GRID;

/// The votes on one position.
#[derive(Default)]
pub(super) struct Tally {
    /// The newest of each member, and where it stands.
    pub(super) votes: BTreeMap<String, (Vote, Position)>,
    /// The same of those whose states are in other formats: their digests.
    strangers: BTreeMap<String, Digest>,
}

impl Tally {
    pub(super) fn add(&mut self, vote: Vote, at: Position) {
        self.strangers.remove(&vote.member);
        self.votes.insert(vote.member.clone(), (vote, at));
    }

    pub(super) fn add_stranger(&mut self, vote: Vote) {
        self.votes.remove(&vote.member);
        let digest = vote.digest();
        self.strangers.insert(vote.member, digest);
    }

    /// A digest with the replies that so many members have, whatever formats their states are in; of a stranger.
    pub(super) fn replies(&self, members: usize) -> Option<Digest> {
        let all =
            || self.votes.values().map(|(vote, _)| vote.digest()).chain(self.strangers.values().copied());
        let have =
            |digest: &&Digest| all().filter(|other| other.replies == digest.replies).count() >= members;
        self.strangers.values().find(have).copied()
    }

    /// How many members have this digest.
    pub(super) fn like(&self, digest: &Digest) -> usize {
        self.votes.values().filter(|(vote, _)| vote.digest() == *digest).count()
    }

    /// The vote that most agree with, and how many do. There is one.
    pub(super) fn most(&self) -> (&Vote, usize) {
        let counted = self.votes.values().map(|(vote, _)| (vote, self.like(&vote.digest())));
        counted.max_by_key(|&(_, count)| count).expect("there is a vote")
    }
}

/// The digest that the members agreed on at `position`, as far as the log tells: for a state that comes from elsewhere,
/// and is written in these formats. Whoever was not told the members goes by what two or more voted for, if they are most of
/// those who voted on it.
///
/// Cost: a pass over the log behind the position, up to the vote that decides, if members are known; none where no votes
/// can be.
pub(crate) fn agreed_on(
    log: &dyn SharedLog,
    position: Position,
    membership: Option<&Membership>,
    formats: &Formats,
) -> Result<Option<Digest>, OpenError> {
    if !position.next().0.is_multiple_of(WINDOW_GRID) {
        return Ok(None);
    }
    let end = log.tail()?.tail.min(position.plus(POINTS as u64 * WINDOW_GRID));
    let (mut tally, mut next) = (Tally::default(), position.next());
    while next < end {
        let Some(block) = log.read(next)? else { break };
        for (at, entry) in block.iter().filter(|(at, _)| *at >= next) {
            let Entry::Data(bytes) = entry else { continue };
            if !entry::is_vote(bytes) {
                continue;
            }
            match entry::decode(bytes) {
                Ok(Content::Vote(vote))
                    if vote.position == position.0
                        && membership.is_none_or(|membership| membership.counts(&vote))
                        && vote.fits(formats) =>
                {
                    tally.add(vote, at);
                }
                _ => continue,
            }
            let (most, count) = tally.most();
            if membership.is_some_and(|membership| count >= membership.quorum()) {
                return Ok(Some(most.digest()));
            }
        }
        next = block.end();
    }
    if membership.is_some() || tally.votes.is_empty() {
        return Ok(None);
    }
    let (most, count) = tally.most();
    Ok((count > 1 && 2 * count > tally.votes.len()).then(|| most.digest()))
}
