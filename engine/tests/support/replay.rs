//! Replaying a log, and letting panics pass that are part of a test.

use std::sync::Arc;

use mixlog_engine::{Builder, Digest, Stats};
use mixlog_log::SharedLog;

/// Replays a log to its end; gives its digest, which is that of the state, and what was counted.
pub(crate) fn replay(log: &Arc<dyn SharedLog>, builder: Builder) -> (Digest, Stats) {
    let replay = builder.replay(Arc::clone(log)).unwrap();
    let digest = replay.to_end().unwrap();
    assert_eq!(replay.snapshot().state_digest(), digest.state);
    (digest, replay.stats())
}

/// Panics with this text in them are not printed.
pub(crate) fn expect_panics(text: &'static str) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.to_string().contains(text) {
            hook(info);
        }
    }));
}
