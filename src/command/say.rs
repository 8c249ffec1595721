//! What is said to people, on stderr, beside what programs read.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Says a line. Whoever closed stderr does not want to hear it: that is no reason to do anything else than without.
pub(super) fn say(line: impl Display) {
    show(format_args!("mixlog: {line}\n"));
}

/// Shows a text as it is.
pub(super) fn show(text: impl Display) {
    // One call: lines of several processes do not mix.
    let _ = io::stderr().lock().write_all(text.to_string().as_bytes());
}

/// One line on a terminal that is written again and again; nothing where nobody watches.
pub(super) struct Line {
    pub(super) on: bool,
    next: Instant,
}

impl Line {
    pub(super) fn new() -> Self {
        Self { on: io::stderr().is_terminal(), next: Instant::now() }
    }

    /// Shows the text, at most ten times a second.
    pub(super) fn show(&mut self, text: impl FnOnce() -> String) {
        let now = Instant::now();
        if self.on && now >= self.next {
            show(format_args!("\r\x1b[2K{}", text()));
            self.next = now + Duration::from_millis(100);
        }
    }

    pub(super) fn clear(&self) {
        if self.on {
            show("\r\x1b[2K");
        }
    }
}
