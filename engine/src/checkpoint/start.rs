//! Starting beside others who take checkpoints and trim the log meanwhile.
//!
//! ```text
//! somebody who starts      lists 1, 2    loads 1 or 2, or finds them gone        reads the log: trimmed
//! somebody who trims                  3 ── gives up 1, 2 ── trims before 3
//! ```
//!
//! A checkpoint has its name before older ones are given up and the log is trimmed to it, so whoever finds the log trimmed,
//! or an older one gone, finds that checkpoint, too, if both look in one directory. What is given up may be the space of
//! the next one: who has it open reads the bytes of another checkpoint in the end, which no checksum lets pass.

use mixlog_log::Position;

use super::load::list;
use super::shelf::Shelf;
use crate::error::OpenError;
use crate::observe;

/// How often a start is tried at most. Each time somebody has taken a checkpoint and trimmed the log while it lasted: who
/// loses that race so often needs checkpoints that are further apart.
pub(crate) const ATTEMPTS: u32 = 8;

/// Does `attempt`, which starts from a checkpoint or from the start of the log; again, if the log was trimmed meanwhile, or
/// the checkpoint could not be loaded, and there is a newer one by now.
///
/// # Errors
/// That of the last attempt.
pub(crate) fn start<T>(
    shelf: Option<&Shelf>,
    mut attempt: impl FnMut() -> Result<T, OpenError>,
) -> Result<T, OpenError> {
    let newest = || match shelf {
        Some(shelf) => Ok::<Option<Position>, OpenError>(list(shelf)?.last().copied()),
        None => Ok(None),
    };
    let mut known = newest()?;
    for _ in 1..ATTEMPTS {
        let error = match attempt() {
            Err(error) if error.is_trimmed() || error.is_of_checkpoint() => error,
            done => return done,
        };
        let found = newest()?;
        if found <= known {
            return Err(error);
        }
        observe::started_anew(&error);
        known = found;
    }
    attempt()
}
