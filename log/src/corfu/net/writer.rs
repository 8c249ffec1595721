//! What goes out on a connection: many threads add frames, one at a time writes them.
//!
//! Whoever adds a frame and finds nobody writing writes it himself, with all that others add meanwhile. So a
//! lone request costs no hand-over to another thread, and many together cost one call of the operating system.

use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex};

use super::outgoing::Outgoing;

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// So many bytes may wait before who adds without writing must wait.
const WAITING_AT_MOST: usize = 8 << 20;

/// A buffer longer than this is not kept.
const KEPT: usize = 1 << 20;

pub(crate) struct Writer {
    stream: TcpStream,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Outgoing,
    /// The other buffer, when nobody writes it.
    spare: Outgoing,
    writing: bool,
    closed: bool,
}

impl Writer {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Adds what `put` appends; it goes out with the next [`flush`](Self::flush).
    pub(crate) fn add(&self, put: impl FnOnce(&mut Outgoing)) {
        let mut state = self.state.lock().expect(UNPOISONED);
        if !state.closed {
            put(&mut state.waiting);
        }
    }

    /// Writes what waits, unless somebody else is at it, who then goes on with it.
    pub(crate) fn flush(&self) {
        let mut state = self.state.lock().expect(UNPOISONED);
        if state.writing {
            return;
        }
        state.writing = true;
        while !state.waiting.is_empty() && !state.closed {
            let spare = std::mem::take(&mut state.spare);
            let mut bytes = std::mem::replace(&mut state.waiting, spare);
            drop(state);
            let written = bytes.write_to(&self.stream);
            bytes.clear();
            state = self.state.lock().expect(UNPOISONED);
            if bytes.capacity() <= KEPT {
                state.spare = bytes;
            }
            if written.is_err() {
                // After half a frame nothing that follows would make sense.
                state.closed = true;
                let _ = self.stream.shutdown(Shutdown::Both);
            }
            self.changed.notify_all();
        }
        state.writing = false;
        drop(state);
        self.changed.notify_all();
    }

    /// Tells the thread that [writes](Self::write_all) that there is something to write.
    pub(crate) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Writes whatever comes, until the connection is closed: for those who must not wait for a slow peer.
    pub(crate) fn write_all(&self) {
        let mut state = self.state.lock().expect(UNPOISONED);
        while !state.closed {
            if state.waiting.is_empty() || state.writing {
                state = self.changed.wait(state).expect(UNPOISONED);
            } else {
                drop(state);
                self.flush();
                state = self.state.lock().expect(UNPOISONED);
            }
        }
    }

    /// Whether everything is written.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.state.lock().expect(UNPOISONED);
        state.closed || (state.waiting.is_empty() && !state.writing)
    }

    /// Waits until few enough bytes wait. False when the connection is closed.
    pub(crate) fn wait_for_space(&self) -> bool {
        let mut state = self.state.lock().expect(UNPOISONED);
        while state.waiting.len() > WAITING_AT_MOST && !state.closed {
            state = self.changed.wait(state).expect(UNPOISONED);
        }
        !state.closed
    }

    /// Ends the connection; what waits is not written any more.
    pub(crate) fn close(&self) {
        self.state.lock().expect(UNPOISONED).closed = true;
        let _ = self.stream.shutdown(Shutdown::Both);
        self.changed.notify_all();
    }
}
