//! Answers that nobody has read yet. A program may write all its lines before it reads the first answer: were no more
//! lines read once a pipe is full of answers, the two would wait for each other for ever.
//!
//! What can be written without waiting is written at once; the rest waits in memory, in order, for a thread that does
//! nothing but write it. When too much of it waits, so does who prints.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::mem;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How much may wait, in bytes.
const LIMIT: usize = 64 << 20;

/// What is printed is gathered to so many bytes.
const CHUNK: usize = 64 << 10;

/// A pipe that takes anything takes so much without waiting (`PIPE_BUF`).
const AT_ONCE: usize = 4096;

/// A writer that does not wait for who reads, as long as not too much waits.
pub(super) struct Unread<W> {
    out: Arc<W>,
    chunk: Vec<u8>,
    limit: usize,
    queue: Arc<Queue>,
    /// Once something had to wait.
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    /// Something waits, or nothing will any more; something was written, or could not be.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the chunks, and of the one that is being written.
    bytes: usize,
    is_last: bool,
    failed: Option<io::Error>,
}

impl State {
    /// What failed before is not tried again: there would be a gap.
    fn check(&self) -> io::Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(error) => {
                Err(error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error))
            }
        }
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes chunk after chunk, until the last one, or one that cannot be written.
    fn write_to(&self, mut out: impl Write) {
        let mut state = self.state();
        loop {
            let Some(chunk) = state.chunks.pop_front() else {
                if state.is_last {
                    return;
                }
                state = self.wait(state);
                continue;
            };
            drop(state);
            let written = out.write_all(&chunk);
            state = self.state();
            state.bytes -= chunk.len();
            if let Err(error) = written {
                state.failed = Some(error);
                state.chunks.clear();
                state.bytes = 0;
            }
            self.changed.notify_all();
            if state.failed.is_some() {
                return;
            }
        }
    }
}

impl<W: AsFd + Send + Sync + 'static> Unread<W>
where
    for<'a> &'a W: Write,
{
    pub(super) fn new(out: W) -> Self {
        Self { out: Arc::new(out), chunk: Vec::new(), limit: LIMIT, queue: Arc::default(), thread: None }
    }

    /// Hands over what was printed: written, or on its way.
    fn hand_over(&mut self) -> io::Result<()> {
        let mut state = self.queue.state();
        state.check()?;
        if self.chunk.is_empty() {
            return Ok(());
        }
        if state.bytes == 0 {
            // Nothing is before it.
            match write_at_once(&self.out, &mut self.chunk) {
                Ok(()) if self.chunk.is_empty() => return Ok(()),
                Ok(()) => {}
                Err(error) => {
                    state.failed = Some(error);
                    return state.check();
                }
            }
        }
        while state.bytes > 0 && state.bytes + self.chunk.len() > self.limit {
            state = self.queue.wait(state);
            state.check()?;
        }
        if self.thread.is_none() {
            let (queue, out) = (Arc::clone(&self.queue), Arc::clone(&self.out));
            let name = "mixlog-stdout".to_owned();
            self.thread = Some(thread::Builder::new().name(name).spawn(move || queue.write_to(&*out))?);
        }
        state.bytes += self.chunk.len();
        state.chunks.push_back(mem::take(&mut self.chunk));
        self.queue.changed.notify_all();
        Ok(())
    }

    /// Waits until everything is written.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let handed_over = self.hand_over();
        self.queue.state().is_last = true;
        self.queue.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| io::Error::other("the thread that writes answers panicked"))?;
        }
        handed_over.and_then(|()| self.queue.state().check())
    }
}

impl<W: AsFd + Send + Sync + 'static> Write for Unread<W>
where
    for<'a> &'a W: Write,
{
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.hand_over()?;
        }
        Ok(bytes.len())
    }

    /// Hands over what was printed, so that it is written as soon as somebody reads.
    fn flush(&mut self) -> io::Result<()> {
        self.hand_over()
    }
}

/// Writes as much of `bytes` as does not have to wait, and leaves the rest.
fn write_at_once<W: AsFd>(out: &W, bytes: &mut Vec<u8>) -> io::Result<()>
where
    for<'a> &'a W: Write,
{
    let mut written = 0;
    while written < bytes.len() && takes_some(out)? {
        let piece = &bytes[written..bytes.len().min(written + AT_ONCE)];
        let mut out = out;
        match out.write(piece) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.drain(..written);
    Ok(())
}

/// Whether there is no need to wait: something can be written, or never will be.
fn takes_some(out: &impl AsFd) -> io::Result<bool> {
    let mut polled = [PollFd::new(out, PollFlags::OUT)];
    match poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn what_nobody_reads_waits_and_comes_in_order() {
        for (count, waits) in
            [(0, false), (1, false), (AT_ONCE + 1, false), (CHUNK / 2, false), (3 << 20, true)]
        {
            let (mut reads, writes) = io::pipe().expect("a pipe");
            let mut out = Unread::new(writes);
            let sent = bytes(count);
            for (n, piece) in sent.chunks(1000).enumerate() {
                out.write_all(piece).expect("it is taken");
                if n % 7 == 0 {
                    out.flush().expect("it is handed over");
                }
            }
            assert_eq!(out.thread.is_some(), waits, "only what does not fit waits");
            let reader = thread::spawn(move || {
                let mut read = Vec::new();
                reads.read_to_end(&mut read).expect("it reads");
                read
            });
            out.finish().expect("it is written");
            assert!(reader.join().expect("no panic") == sent, "{count}");
        }
    }

    #[test]
    fn who_prints_waits_when_too_much_is_unread() {
        let (mut reads, writes) = io::pipe().expect("a pipe");
        let mut out = Unread::new(writes);
        out.limit = 100_000;
        let is_taken = Arc::new(AtomicBool::new(false));
        let taken = Arc::clone(&is_taken);
        let printer = thread::spawn(move || {
            for piece in bytes(1 << 20).chunks(1000) {
                out.write_all(piece)?;
            }
            taken.store(true, Ordering::Relaxed);
            out.finish()
        });
        let mut read = Vec::new();
        let mut buffer = [0; 777];
        while read.len() < 1 << 20 {
            let count = reads.read(&mut buffer).expect("it reads");
            read.extend_from_slice(&buffer[..count]);
            if read.len() < 1 << 19 {
                assert!(!is_taken.load(Ordering::Relaxed), "half of it is more than may wait");
            }
        }
        printer.join().expect("no panic").expect("it is written");
        assert!(read == bytes(1 << 20));
    }

    #[test]
    fn who_hangs_up_is_noticed() {
        let (reads, writes) = io::pipe().expect("a pipe");
        let mut out = Unread::new(writes);
        out.write_all(&bytes(1 << 20)).expect("it waits");
        drop(reads);
        let error = out.finish().expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let (reads, writes) = io::pipe().expect("a pipe");
        drop(reads);
        let mut out = Unread::new(writes);
        out.write_all(b"hello").expect("it is gathered");
        assert_eq!(out.flush().expect_err("nobody reads").kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(out.flush().expect_err("it stays so").kind(), io::ErrorKind::BrokenPipe);
    }
}
