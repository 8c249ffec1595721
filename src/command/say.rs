//! What is said to people, on stderr, beside what programs read.

use std::fmt::Display;
use std::io::{self, Write};

/// Says a line. Whoever closed stderr does not want to hear it: that is no reason to do anything else than without.
pub(super) fn say(line: impl Display) {
    show(format_args!("mixlog: {line}\n"));
}

/// Shows a text as it is.
pub(super) fn show(text: impl Display) {
    // One call: lines of several processes do not mix.
    let _ = io::stderr().lock().write_all(text.to_string().as_bytes());
}
