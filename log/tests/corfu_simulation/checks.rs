//! What must be true, whatever happens. The model is a map from positions to what stands there, which only
//! grows: every position has one value for ever, every entry one position.
//!
//! With that, a history is linearizable when each operation also respects those that ended before it began:
//! an append lies after all of them, a tail too, and what was acknowledged is found at its position.

use std::collections::{BTreeMap, BTreeSet};

use mixlog_log::corfu::{EntryId, Run};
use mixlog_log::{Entry, Position};

/// What was seen so far, and the first thing that was wrong.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// What stands at a position; `None`: junk.
    seen: BTreeMap<Position, Option<EntryId>>,
    places: BTreeMap<EntryId, Position>,
    /// What was acknowledged, in that order, and how much of it was flushed.
    acknowledged: Vec<(EntryId, Position)>,
    flushed: usize,
    refused: BTreeSet<EntryId>,
    texts: BTreeMap<EntryId, &'static str>,
    /// Of which stream of its client an entry is.
    streams: BTreeMap<EntryId, u64>,
    /// After everything that was acknowledged.
    end: Position,
    /// The highest trim that anybody asked for, and that was done.
    trim_asked: Position,
    trim_done: Position,
    /// A sequencer that goes back may let later appends go before earlier ones; nothing worse.
    unordered: bool,
    violation: Option<String>,
}

/// What had ended when an operation began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Before {
    end: Position,
    trimmed: Position,
    /// How many entries were acknowledged.
    acknowledged: usize,
}

impl Checks {
    /// `unordered`: whether a sequencer may go back to what it was, and so give out what it gave out before.
    pub(crate) fn new(unordered: bool) -> Self {
        Self { unordered, ..Self::default() }
    }

    pub(crate) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    pub(crate) fn violate(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    pub(crate) const fn before(&self) -> Before {
        Before { end: self.end, trimmed: self.trim_done, acknowledged: self.acknowledged.len() }
    }

    pub(crate) fn appends(&mut self, id: EntryId, stream: u64, text: &'static str) {
        self.texts.insert(id, text);
        self.streams.insert(id, stream);
    }

    /// A stream's entries stand in the order in which they were offered, whatever was said about them. So do all
    /// entries of a client, if sequencers do not go back.
    fn in_order(&mut self) {
        let pairs = self.places.iter().zip(self.places.iter().skip(1));
        let turned = pairs.map(|((id, place), (next, later))| (*id, *place, *next, *later)).find(
            |(id, place, next, later)| {
                let same = self.streams[id] == self.streams[next];
                id.client == next.client && (same || !self.unordered) && later < place
            },
        );
        if let Some((id, place, next, later)) = turned {
            self.violate(format!("{next:?} stands at {later}, before {id:?} at {place}"));
        }
    }

    fn see(&mut self, position: Position, id: Option<EntryId>) {
        let before = *self.seen.entry(position).or_insert(id);
        if before != id {
            self.violate(format!("position {position} holds {before:?} and {id:?}"));
        }
        let Some(id) = id else { return };
        let place = *self.places.entry(id).or_insert(position);
        if place != position {
            self.violate(format!("{id:?} stands at {place} and at {position}"));
        }
        if self.refused.contains(&id) {
            self.violate(format!("{id:?} stands at {position}, and was said not to be appended"));
        }
    }

    /// Runs that were read.
    pub(crate) fn read(&mut self, runs: &[Run]) {
        for run in runs {
            for (position, entry) in run.block.iter() {
                let sequence = position.since(run.first());
                let id = run.id.map(|id| EntryId { sequence: id.sequence + sequence, ..id });
                let text = id.and_then(|id| self.texts.get(&id)).map(|text| text.as_bytes());
                match entry {
                    Entry::Data(bytes) if text == Some(bytes) => {}
                    Entry::Junk if id.is_none() => {}
                    other => self.violate(format!("{id:?} at {position} reads {other:?}")),
                }
                self.see(position, id);
            }
        }
    }

    /// Entries that were acknowledged; `total` of them were to be appended.
    pub(crate) fn acknowledged(
        &mut self,
        id: EntryId,
        first: Position,
        count: u64,
        total: u64,
        before: Before,
    ) {
        for n in 0..total {
            let id = EntryId { sequence: id.sequence + n, ..id };
            if n >= count {
                self.refused(id, 1);
                continue;
            }
            let position = first.plus(n);
            self.acknowledged.push((id, position));
            self.see(position, Some(id));
        }
        if first < before.end && !self.unordered {
            self.violate(format!("{id:?} is at {first}, after what ends at {} was acknowledged", before.end));
        }
        self.end = self.end.max(first.plus(count));
    }

    /// Entries that are not in the log, and never will be.
    pub(crate) fn refused(&mut self, id: EntryId, count: u64) {
        for n in 0..count {
            let id = EntryId { sequence: id.sequence + n, ..id };
            self.refused.insert(id);
            if let Some(place) = self.places.get(&id) {
                self.violate(format!("{id:?} was said not to be appended, and stands at {place}"));
            }
        }
    }

    /// A flush ended: what was acknowledged before it began is on the disks.
    pub(crate) fn flushed(&mut self, before: Before) {
        self.flushed = self.flushed.max(before.acknowledged);
    }

    /// Entries that were acknowledged, and may not be trimmed: those that were flushed, and the others.
    pub(crate) fn by_flushes(&self) -> [Vec<(EntryId, Position)>; 2] {
        let (flushed, others) = self.acknowledged.split_at(self.flushed);
        [flushed, others].map(|entries| {
            entries.iter().copied().filter(|(_, position)| *position >= self.trim_asked).collect()
        })
    }

    /// A linearizable tail.
    pub(crate) fn tail(&mut self, tail: Position, trimmed: Position, before: Before) {
        if tail < before.end && !self.unordered {
            self.violate(format!("the tail is {tail}, after what ends at {} was acknowledged", before.end));
        }
        if trimmed < before.trimmed {
            self.violate(format!("the head is {trimmed}, after a trim of {}", before.trimmed));
        }
        self.trimmed(trimmed);
    }

    pub(crate) fn trims(&mut self, before: Position) {
        self.trim_asked = self.trim_asked.max(before);
    }

    pub(crate) fn trim_done(&mut self, before: Position) {
        self.trim_done = self.trim_done.max(before);
    }

    /// Somebody was told that positions before this one are trimmed.
    pub(crate) fn trimmed(&mut self, before: Position) {
        if before > self.trim_asked {
            self.violate(format!("{before} is said to be trimmed, of {} asked for", self.trim_asked));
        }
    }

    /// After everything that was acknowledged.
    pub(crate) const fn end(&self) -> Position {
        self.end
    }

    /// At the end, when all positions from `head` to `tail` were read.
    pub(crate) fn all_read(&mut self, head: Position, tail: Position) {
        self.trimmed(head);
        self.in_order();
        let missing = (head.0..tail.0).find(|position| !self.seen.contains_key(&Position(*position)));
        if let Some(position) = missing {
            self.violate(format!("position {position} of [{head}, {tail}) holds nothing"));
        }
        if self.end > tail {
            self.violate(format!("the log ends at {tail}, before what was acknowledged up to {}", self.end));
        }
    }
}
