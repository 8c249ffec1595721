//! Waiting for other members to agree.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mixlog::{Engine, Position, SubmitError};

use super::failure::Failure;
use super::say::{Line, say};

/// How long to wait for votes before it is looked whether anything is wrong.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// Who waits longer is told what for, once, also where no terminal shows how long.
pub(super) const LONG: Duration = Duration::from_secs(3);

/// When others have been waited for long enough.
pub(super) struct End {
    after: Option<Duration>,
    begun: Instant,
}

impl End {
    pub(super) fn of(seconds: Option<f64>) -> Self {
        Self { after: seconds.map(Duration::from_secs_f64), begun: Instant::now() }
    }

    /// Fails when it is there; `why` says what was waited for.
    pub(super) fn look(&self, why: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.after {
            Some(after) if self.begun.elapsed() >= after => {
                Err(Failure::Io(format!("given up after {} s: {}", after.as_secs_f64(), why())))
            }
            _ => Ok(()),
        }
    }
}

/// Asks members for votes, again and again: one that came later than a vote was asked for does not cast it. Each time
/// costs the log entries that do nothing, so the longer nobody comes, the less often.
pub(super) struct Asking {
    last: Option<Instant>,
    pause: Duration,
}

impl Default for Asking {
    fn default() -> Self {
        Self { last: None, pause: Self::FIRST }
    }
}

impl Asking {
    const FIRST: Duration = Duration::from_secs(1);
    const LAST: Duration = Duration::from_secs(60);

    /// Somebody just padded the log.
    pub(super) fn begun() -> Self {
        Self { last: Some(Instant::now()), ..Self::default() }
    }

    /// Pads the log, unless that was not long ago.
    pub(super) fn ask(&mut self, pad: impl FnOnce() -> Result<Position, SubmitError>) -> Result<(), Failure> {
        let Some(last) = self.last else { return self.pad(pad) };
        if last.elapsed() < self.pause {
            return Ok(());
        }
        self.pause = (self.pause * 5 / 4).min(Self::LAST);
        self.pad(pad)
    }

    fn pad(&mut self, pad: impl FnOnce() -> Result<Position, SubmitError>) -> Result<(), Failure> {
        pad()?;
        self.last = Some(Instant::now());
        Ok(())
    }
}

/// How many members are to agree, and of which.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) count: usize,
    pub(super) members: &'a [String],
    /// In so many seconds.
    pub(super) within: Option<f64>,
    /// Whether it was told what is waited for.
    pub(super) told: &'a Cell<bool>,
}

/// Waits until so many members agree on all up to a position, or the engine stops, which closing it will tell, or
/// somebody does not want to wait any more.
pub(super) fn wait_agreed(
    engine: &Engine,
    position: Position,
    wanted: Wanted<'_>,
    mut asking: Asking,
    interrupted: Option<&AtomicBool>,
) -> Result<(), Failure> {
    let Wanted { count, members, within, told } = wanted;
    let (mut line, begun, end) = (Line::new(), Instant::now(), End::of(within));
    let all = || members.join(", ");
    let what = || format!("waiting for {count} of {} to agree on position {position}", all());
    // A busy log comes to the next vote by itself.
    while !engine.wait_agreed(position, count, LOOK) && !engine.has_stopped() {
        if interrupted.is_some_and(|interrupted| interrupted.load(Ordering::SeqCst)) {
            line.clear();
            say(format_args!("fewer than {count} of {} agree on position {position} so far", all()));
            return Ok(());
        }
        asking.ask(|| engine.pad())?;
        line.show(|| format!("{}: {} s", what(), begun.elapsed().as_secs()));
        if !line.on && begun.elapsed() >= LONG && !told.replace(true) {
            say(what());
        }
        end.look(|| {
            format!("fewer than {count} of {} agree on position {position}: do so many of them run?", all())
        })
        .inspect_err(|_| line.clear())?;
    }
    line.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_stay_away_are_asked_less_and_less_often() {
        let (mut asking, mut asked) = (Asking::default(), 0);
        let mut ask = |asking: &mut Asking| {
            let pad = || {
                asked += 1;
                Ok(Position::ZERO)
            };
            asking.ask(pad).expect("it pads");
            asked
        };
        assert_eq!((ask(&mut asking), ask(&mut asking)), (1, 1), "at once, and then after a while");
        let mut pauses = Vec::new();
        for _ in 0..40 {
            pauses.push(asking.pause);
            let before = ask(&mut asking);
            asking.last =
                asking.last.map(|last| last.checked_sub(asking.pause).expect("the machine runs for long"));
            assert_eq!(ask(&mut asking), before + 1);
        }
        assert_eq!((pauses[0], pauses[39]), (Asking::FIRST, Asking::LAST));
        assert!(pauses.is_sorted());
    }
}
