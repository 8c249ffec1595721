//! Which way windows go faster: shared by all drivers, or by the leader alone.
//!
//! No rule tells beforehand. Meeting three times in a window costs some microseconds where every driver has a processor, and
//! takes turns with the threads that submit and with the log where it has not; what a transaction costs on two
//! processors, whose caches both have to get its rows, is not what it costs on one. So it is measured: both ways, in turns,
//! in this process and with this load. Results do not depend on it.

use std::time::{Duration, Instant};

use mixlog_log::Position;

/// The leader's time that is compared, without what it waits for the log: dozens of windows of small transactions,
/// and several turns of a scheduler.
const PIECE: Duration = Duration::from_millis(10);
/// After so many pieces of one way the other way is tried for a piece ...
const SHORTEST: u32 = 4;
/// ... and each time that this was in vain, after twice as many, or eight times, if that was much slower ...
const SLOWER: f64 = 1.25;
/// ... up to so many.
const LONGEST: u32 = 128;
/// What is tried has to be faster by so much: what differs by less changes back and forth.
const FASTER: f64 = 0.95;
/// When an entry takes so many times as long as it did, or as little, it is another load: what was found out is forgotten.
const CHANGED: f64 = 1.5;

/// How windows with work to share go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Shared,
    Alone,
}

impl Way {
    const fn other(self) -> Self {
        match self {
            Self::Shared => Self::Alone,
            Self::Alone => Self::Shared,
        }
    }
}

/// Measures one way, and tries the other one now and then.
#[derive(Debug)]
pub(super) struct Pace {
    way: Way,
    /// Whether that is the one which is tried.
    is_trial: bool,
    /// What an entry takes, in ns, on average over the last pieces of the way that is not tried; before the first one nothing.
    usual: Option<f64>,
    /// Pieces before the next trial.
    left: u32,
    length: u32,
    /// The first window of another way is not executed yet.
    turns: bool,
    /// When the leader began to be busy, and where it was then.
    since: Instant,
    from: Position,
    /// The piece's time and entries before that.
    busy: Duration,
    entries: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            way: Way::Shared,
            is_trial: false,
            usual: None,
            left: SHORTEST,
            length: SHORTEST,
            turns: true,
            since: Instant::now(),
            from: Position::default(),
            busy: Duration::ZERO,
            entries: 0,
        }
    }
}

impl Pace {
    /// Whether windows go one by one at the moment, however much work there is in them.
    pub(super) fn is_alone(&self) -> bool {
        self.way == Way::Alone
    }

    /// The leader waits for the log, at this position.
    pub(super) fn pause(&mut self, at: Position) {
        let now = Instant::now();
        self.busy += now - self.since;
        self.entries += at.since(self.from);
        (self.since, self.from) = (now, at);
    }

    /// It goes on. Others may have led meanwhile, up to this position.
    pub(super) fn go_on(&mut self, at: Position) {
        self.since = Instant::now();
        self.from = at;
    }

    /// After each window: the leader has executed up to this position, and has or has not prepared one more.
    pub(super) fn look(&mut self, at: Position, is_ready: bool) {
        self.pause(at);
        if self.turns {
            // A window that is shared is prepared while the one before it is executed.
            self.turns = is_ready == self.is_alone();
            (self.busy, self.entries) = (Duration::ZERO, 0);
        } else if self.busy >= PIECE && self.entries > 0 {
            self.piece(self.busy.as_nanos() as f64 / self.entries as f64);
            (self.busy, self.entries) = (Duration::ZERO, 0);
        }
    }

    /// An entry took so many ns in a whole piece.
    fn piece(&mut self, now: f64) {
        let usual = *self.usual.get_or_insert(now);
        if self.is_trial {
            self.is_trial = false;
            if now < usual * FASTER {
                (self.usual, self.length) = (Some(now), SHORTEST);
            } else {
                let times = if now > usual * SLOWER { 8 } else { 2 };
                self.length = (self.length * times).min(LONGEST);
                self.turn();
            }
            self.left = self.length;
            return;
        }
        if now > usual * CHANGED || now * CHANGED < usual {
            (self.usual, self.length, self.left) = (Some(now), SHORTEST, SHORTEST);
            return;
        }
        self.usual = Some((usual * 3.0 + now) / 4.0);
        self.left -= 1;
        if self.left == 0 {
            self.is_trial = true;
            self.turn();
        }
    }

    fn turn(&mut self) {
        self.way = self.way.other();
        self.turns = true;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Pieces of an entry's ns either way: how many of so many went alone.
    fn alone(pace: &mut Pace, pieces: u32, shared: f64, alone: f64) -> u32 {
        let mut count = 0;
        for n in 0..pieces {
            // What is measured is not the same twice.
            let noise = [1.0, 1.03, 0.98][n as usize % 3];
            count += u32::from(pace.is_alone());
            pace.piece(noise * if pace.is_alone() { alone } else { shared });
        }
        count
    }

    #[test]
    fn the_faster_way_is_gone_and_the_other_one_tried_ever_more_seldom() {
        let tried = |pieces| alone(&mut Pace::default(), pieces, 100.0, 150.0);
        assert_eq!((tried(SHORTEST), tried(SHORTEST + 1)), (0, 1));
        assert!((5..10).contains(&tried(1000)), "{}", tried(1000));
        let alone = |pieces| alone(&mut Pace::default(), pieces, 110.0, 100.0);
        assert!((980..990).contains(&alone(1000)), "{}", alone(1000));
    }

    #[test]
    fn what_makes_no_difference_is_left_as_it_is() {
        let mut pace = Pace::default();
        assert!(alone(&mut pace, 1000, 100.0, 98.0) < 20);
    }

    #[test]
    fn another_load_is_measured_anew() {
        let mut pace = Pace::default();
        alone(&mut pace, 1000, 150.0, 100.0);
        assert_eq!(pace.length, LONGEST);
        // It takes some pieces of the way that was better to find out that it no longer is.
        let still = alone(&mut pace, 1000, 1000.0, 1700.0);
        assert!((SHORTEST + 1..30).contains(&still), "{still}");
        // One that is as it was in one way, and worse in the other, is found out as well, if later.
        let still = alone(&mut pace, 1000, 1000.0, 600.0);
        assert!(still > 1000 - 2 * LONGEST, "{still}");
    }

    #[test]
    fn only_the_time_of_a_leader_that_does_not_wait_counts_and_only_its_own_entries() {
        let mut pace = Pace::default();
        pace.go_on(Position(10));
        pace.look(Position(20), false);
        assert!(pace.turns, "nothing was shared");
        pace.look(Position(30), true);
        assert!(!pace.turns && pace.entries == 0);
        pace.look(Position(50), true);
        pace.pause(Position(50));
        // Others lead.
        pace.go_on(Position(1000));
        pace.look(Position(1001), false);
        assert_eq!(pace.entries, 21);
        pace.busy = PIECE;
        pace.look(Position(1001), false);
        assert_eq!((pace.entries, pace.busy), (0, Duration::ZERO));
        let expected = PIECE.as_nanos() as f64 / 21.0;
        assert!((expected..expected * 2.0).contains(&pace.usual.unwrap()));
    }
}
