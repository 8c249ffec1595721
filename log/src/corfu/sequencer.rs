//! The sequencer: a counter.
//!
//! Its state is soft and its word is no authority: units are write-once, so two sequencers, or one that
//! starts over, cost retries and nothing else. What it gives is order without contention.
//!
//! Source: CORFU (NSDI 2012), section 3.2. Departure: a token does not cross the border of a stripe, so that
//! a run lies on one chain and is written wholly or not at all.

use crate::Position;

use super::message::{Epoch, Instance, SequencerReply, SequencerRequest, SequencerVerb, Token};

/// A sequencer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sequencer {
    instance: Instance,
    epoch: Epoch,
    counter: Option<Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Counter {
    next: Position,
    width: u32,
}

impl Sequencer {
    /// A sequencer that hands out nothing until it is told where to start. `instance` must be another one
    /// each time.
    #[must_use]
    pub const fn new(instance: Instance) -> Self {
        Self { instance, epoch: Epoch::NONE, counter: None }
    }

    /// The epoch at which it stands.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Who it is.
    #[must_use]
    pub const fn instance(&self) -> Instance {
        self.instance
    }

    /// Answers a request.
    ///
    /// Cost: a few nanoseconds.
    #[inline]
    pub fn handle(&mut self, request: &SequencerRequest) -> SequencerReply {
        let epoch = request.epoch;
        if epoch < self.epoch {
            return SequencerReply::Sealed(self.epoch);
        }
        let newer = epoch > self.epoch;
        match (request.verb, &mut self.counter) {
            (SequencerVerb::Next { count, at_least }, Some(counter)) if !newer => {
                SequencerReply::Token(counter.take(epoch, count, at_least))
            }
            (SequencerVerb::Tail, Some(counter)) if !newer => SequencerReply::Tail(counter.next),
            // A later epoch's client is the first to tell; only a seal or a start moves the epoch.
            (SequencerVerb::Next { .. } | SequencerVerb::Tail, _) => {
                SequencerReply::NotStarted(self.instance)
            }
            (SequencerVerb::Seal, _) => {
                if newer {
                    self.epoch = epoch;
                    self.counter = None;
                }
                self.present()
            }
            (SequencerVerb::Start { instance, tail, width }, counter) => {
                // Whoever was started after the projection named another instance may have handed out
                // positions past `tail` in its former life: it must not start over in this epoch.
                if instance == self.instance && (newer || counter.is_none()) {
                    *counter = Some(Counter { next: tail, width });
                    self.epoch = epoch;
                }
                self.present()
            }
        }
    }

    const fn present(&self) -> SequencerReply {
        SequencerReply::Present { instance: self.instance, epoch: self.epoch }
    }
}

impl Counter {
    #[inline]
    fn take(&mut self, epoch: Epoch, count: u32, at_least: u32) -> Token {
        // Who asks for what does not fit in any stripe gets one, and sees it.
        let at_least = at_least.clamp(1, self.width);
        let skipped = self.next;
        let width = u64::from(self.width);
        let mut left = width - skipped.0 % width;
        let mut first = skipped;
        if left < u64::from(at_least) {
            first = skipped.plus(left);
            left = width;
        }
        let count = count.max(at_least).min(u32::try_from(left).unwrap_or(u32::MAX));
        self.next = first.plus(u64::from(count));
        Token { epoch, skipped, first, count }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const ME: Instance = Instance(7);

    fn ask(sequencer: &mut Sequencer, epoch: u64, verb: SequencerVerb) -> SequencerReply {
        sequencer.handle(&SequencerRequest { epoch: Epoch(epoch), verb })
    }

    fn start(tail: u64, width: u32) -> SequencerVerb {
        SequencerVerb::Start { instance: ME, tail: Position(tail), width }
    }

    fn next(sequencer: &mut Sequencer, epoch: u64, count: u32, at_least: u32) -> (u64, u64, u32) {
        match ask(sequencer, epoch, SequencerVerb::Next { count, at_least }) {
            SequencerReply::Token(token) => {
                assert_eq!(token.epoch, Epoch(epoch));
                (token.skipped.0, token.first.0, token.count)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn sequencer_not_started_hands_out_nothing() {
        let mut sequencer = Sequencer::new(ME);
        for verb in [SequencerVerb::Next { count: 1, at_least: 1 }, SequencerVerb::Tail] {
            assert_eq!(ask(&mut sequencer, 1, verb), SequencerReply::NotStarted(ME));
        }
    }

    #[test]
    fn tokens_are_dense_and_lie_in_one_stripe() {
        let mut sequencer = Sequencer::new(ME);
        ask(&mut sequencer, 1, start(5, 8));
        assert_eq!(next(&mut sequencer, 1, 1, 1), (5, 5, 1));
        assert_eq!(next(&mut sequencer, 1, 4, 1), (6, 6, 2), "what is left of the stripe is enough");
        assert_eq!(next(&mut sequencer, 1, 7, 7), (8, 8, 7));
        assert_eq!(next(&mut sequencer, 1, 3, 2), (15, 16, 3), "one position is passed over");
        assert_eq!(next(&mut sequencer, 1, 99, 99), (19, 24, 8), "nobody gets more than a stripe");
        assert_eq!(ask(&mut sequencer, 1, SequencerVerb::Tail), SequencerReply::Tail(Position(32)));
    }

    #[test]
    fn seal_ends_an_epoch_and_a_start_begins_the_next() {
        let mut sequencer = Sequencer::new(ME);
        ask(&mut sequencer, 1, start(0, 8));
        next(&mut sequencer, 1, 3, 1);
        let present = |epoch| SequencerReply::Present { instance: ME, epoch: Epoch(epoch) };
        assert_eq!(ask(&mut sequencer, 2, SequencerVerb::Seal), present(2));
        let one = SequencerVerb::Next { count: 1, at_least: 1 };
        assert_eq!(ask(&mut sequencer, 1, one), SequencerReply::Sealed(Epoch(2)));
        assert_eq!(ask(&mut sequencer, 2, one), SequencerReply::NotStarted(ME));
        assert_eq!(ask(&mut sequencer, 1, start(0, 8)), SequencerReply::Sealed(Epoch(2)));
        // Tokens above the highest written position are reissued: their holders are sealed out (R7).
        assert_eq!(ask(&mut sequencer, 2, start(1, 8)), present(2));
        assert_eq!(next(&mut sequencer, 2, 1, 1), (1, 1, 1));
    }

    #[test]
    fn start_twice_in_an_epoch_does_not_take_the_counter_back() {
        let mut sequencer = Sequencer::new(ME);
        ask(&mut sequencer, 1, start(0, 8));
        next(&mut sequencer, 1, 3, 1);
        ask(&mut sequencer, 1, start(0, 8));
        ask(&mut sequencer, 1, SequencerVerb::Seal);
        assert_eq!(next(&mut sequencer, 1, 1, 1), (3, 3, 1));
    }

    #[test]
    fn start_meant_for_a_former_instance_is_not_obeyed() {
        let mut sequencer = Sequencer::new(Instance(8));
        let present = SequencerReply::Present { instance: Instance(8), epoch: Epoch::NONE };
        assert_eq!(ask(&mut sequencer, 1, start(0, 8)), present);
        assert_eq!(ask(&mut sequencer, 1, SequencerVerb::Tail), SequencerReply::NotStarted(Instance(8)));
    }

    #[test]
    fn request_of_a_later_epoch_does_not_move_the_sequencer() {
        let mut sequencer = Sequencer::new(ME);
        ask(&mut sequencer, 1, start(0, 8));
        assert_eq!(ask(&mut sequencer, 2, SequencerVerb::Tail), SequencerReply::NotStarted(ME));
        assert_eq!(next(&mut sequencer, 1, 1, 1), (0, 0, 1));
    }
}
