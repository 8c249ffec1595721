//! What Ctrl-C and SIGTERM do to a run.
//!
//! The first one has it end early, if it is under way: what was submitted is waited for, the state is checked, and there is
//! a report. Before and after, and the second time, the process ends as it would have. Nothing is left in temporary
//! directories in either case.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::say::say;

// In one order for all: either who ends a run sees the signal, or who has it sees that the run is over.
/// Whether a run is under way, so that it can end early.
static UNDER_WAY: AtomicBool = AtomicBool::new(false);
/// Whether it is to.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The signal that came, or 0.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// What is to be removed.
static TEMPORARY: Mutex<Option<PathBuf>> = Mutex::new(None);

/// From here on signals are heeded.
///
/// # Errors
/// What the operating system says.
pub(super) fn heed() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("mixlog-signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            SIGNAL.store(signal, Ordering::SeqCst);
            let again = INTERRUPTED.swap(true, Ordering::SeqCst);
            if again || !UNDER_WAY.load(Ordering::SeqCst) {
                end_by(signal);
            }
            say("ending early; once more to end at once");
        }
    })?;
    Ok(())
}

/// The directory is to be removed if the process is ended by a signal.
pub(super) fn remove_at_end(directory: &Path) {
    *temporary() = Some(directory.to_owned());
}

/// A run is under way, which looks at what this returns.
pub(super) fn under_way() -> &'static AtomicBool {
    UNDER_WAY.store(true, Ordering::SeqCst);
    &INTERRUPTED
}

/// The run is over, and nothing is left of it but what it reported: if a signal came, the process ends by it, as whoever
/// sent it expects.
pub(super) fn over() {
    UNDER_WAY.store(false, Ordering::SeqCst);
    match SIGNAL.load(Ordering::SeqCst) {
        0 => {}
        signal => end_by(signal),
    }
}

fn temporary() -> MutexGuard<'static, Option<PathBuf>> {
    TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn end_by(signal: i32) {
    // The log may still be adding files to it.
    const ATTEMPTS: u32 = 10;
    if let Some(directory) = temporary().take() {
        let _ = (0..ATTEMPTS).find(|_| !directory.exists() || fs::remove_dir_all(&directory).is_ok());
    }
    // Does not come back.
    let _ = emulate_default_handler(signal);
}
