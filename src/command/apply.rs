//! `mixlog apply`: transactions in, answers out, line by line.
//!
//! ```text
//! stdin ──> reader thread: parse, submit ──> tickets, 4,096 at most ──> this thread: wait, print ──> stdout
//! ```
//!
//! Where answers are large, fewer are in flight: see [`InFlight`]. Answers that nobody reads do not keep lines from
//! being applied until they are many megabytes: see [`Unread`].
//!
//! One thread submits, so the order of lines is that of the log; tickets travel in that order, and so do answers. A
//! line that is no transaction takes its place among them.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::Duration;

use mixlog::kv::{self, Answer, Json, Transaction};
use mixlog::log::AppendError;
use mixlog::{Engine, Outcome, Position, SubmitError, Ticket};
use serde::Serialize;

use super::agree::{Asking, Wanted, wait_agreed};
use super::arguments::{ApplyOptions, Place};
use super::failure::Failure;
use super::in_flight::{InFlight, InRoom};
use super::keep::tell_of_failure;
use super::run::{is_read, open_engine, open_log};
use super::say::show;
use super::unread::Unread;

/// How many transactions wait for their answer to be printed, at most.
const IN_FLIGHT: usize = 4_096;

/// The longest line, in bytes. As an entry it takes at most some 2.3 times as much, which the log takes.
const MAX_LINE: usize = 1 << 20;

/// How often, at least, it is looked whether what had to wait for who reads could not be written at all.
const HANG_UP: Duration = Duration::from_millis(500);

/// What the reader hands to the printer: one for each line, in the order of lines.
enum Item {
    /// A transaction that is on its way.
    Submitted { id: Option<String>, ticket: Ticket<Transaction>, room: InRoom },
    /// A line that is no transaction.
    Malformed { line: u64, error: String },
    /// A transaction that is too large for the log, which it may have been in before, where the log took larger ones.
    TooLarge { line: u64, id: String, error: String },
    /// Nothing more can be submitted.
    Failed(Failure),
}

/// The engine, until it is closed. The reader may be waiting for a line that never comes, so it does not own it.
type Shared = Arc<RwLock<Option<Engine>>>;

/// Applies what comes on stdin until it ends.
pub(crate) fn apply(options: &ApplyOptions) -> Result<(), Failure> {
    let membership = options.agree.membership(Place::of(Some(&options.log), options.durability))?;
    let (log, _directory) =
        open_log(Some(&options.log), options.durability, &options.keep, &options.on_cluster)?;
    let mut builder = options.keep.apply(options.engine.apply(kv::register(Engine::builder())));
    if let Some((membership, _)) = &membership {
        builder = builder.member(membership.clone());
    }
    let engine: Shared = Arc::new(RwLock::new(Some(open_engine(builder, log, "apply")?)));
    let (members, count) = membership.map_or((Vec::new(), None), |(own, count)| (own.members, count));
    let agreement = Agreement {
        engine: Arc::clone(&engine),
        members,
        count,
        within: options.agree.within,
        told: Cell::new(false),
    };
    let (sender, receiver) = mpsc::sync_channel(IN_FLIGHT);
    let reader = Arc::clone(&engine);
    thread::Builder::new()
        .name("mixlog-stdin".to_owned())
        .spawn(move || submit_lines(io::stdin().lock(), &reader, &sender))?;
    let mut answered = Answered::default();
    let mut out = Unread::new(File::from(io::stdout().as_fd().try_clone_to_owned()?));
    let printed = print_answers(&receiver, &mut out, &agreement, &mut answered);
    // Answers that are there are not kept back, whatever else failed.
    let finished = still_read(out.finish());
    // If the engine stopped, it knows better than its submissions why.
    let engine = engine.write().expect("no panic while submitting").take();
    if let Some(engine) = engine {
        // Beside what programs read.
        let explained = options.engine.explained(|| engine.explain());
        if !explained.is_empty() {
            show(format!("{explained}{answered}"));
        }
        tell_of_failure(&engine);
        engine.close()?;
    }
    printed.and(finished)
}

/// Submits line after line, until they end, or nobody wants answers any more.
fn submit_lines(stdin: impl BufRead, engine: &RwLock<Option<Engine>>, items: &SyncSender<Item>) {
    let mut lines = Lines { stdin, buffer: Vec::new(), number: 0 };
    let in_flight = InFlight::new();
    loop {
        let item = match lines.next_transaction() {
            Ok(None) => return,
            Ok(Some(Ok(transaction))) => {
                // Before the engine is held, which may have to be closed meanwhile.
                let room = in_flight.enter(&transaction);
                let engine = engine.read().expect("no panic while submitting");
                // The printer closed it, and is gone.
                let Some(engine) = &*engine else { return };
                submit(engine, transaction, room, lines.number)
            }
            Ok(Some(Err(error))) => Item::Malformed { line: lines.number, error },
            Err(error) => Item::Failed(Failure::Io(format!("cannot read stdin: {error}"))),
        };
        let is_last = matches!(item, Item::Failed(_));
        if items.send(item).is_err() || is_last {
            return;
        }
    }
}

fn submit(engine: &Engine, transaction: Transaction, room: InRoom, line: u64) -> Item {
    match engine.submit(&transaction) {
        Ok(ticket) => Item::Submitted { id: transaction.into_id(), ticket, room },
        Err(SubmitError::Append(error @ AppendError::TooLarge { .. })) => {
            let error = error.to_string();
            match transaction.into_id() {
                Some(id) => Item::TooLarge { line, id, error },
                None => Item::Malformed { line, error },
            }
        }
        Err(error) => Item::Failed(error.into()),
    }
}

/// The lines of stdin, and how many there were.
struct Lines<R> {
    stdin: R,
    buffer: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// The transaction on the next line that is not empty, or what is wrong with that line.
    fn next_transaction(&mut self) -> io::Result<Option<Result<Transaction, String>>> {
        loop {
            self.buffer.clear();
            self.number += 1;
            // One byte more than a line may have: its end, unless it is too long.
            let length = (&mut self.stdin).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut self.buffer)?;
            if length == 0 {
                return Ok(None);
            }
            if length > MAX_LINE && self.buffer.last() != Some(&b'\n') {
                self.stdin.skip_until(b'\n')?;
                return Ok(Some(Err(format!("a line is at most {MAX_LINE} bytes long"))));
            }
            let line = without_space_behind(&self.buffer);
            if !line.is_empty() {
                return Ok(Some(parse(line)));
            }
        }
    }
}

/// The white space of JSON, which is less than that of ASCII.
fn without_space_behind(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    &line[..end.map_or(0, |last| last + 1)]
}

fn parse(line: &[u8]) -> Result<Transaction, String> {
    let text = std::str::from_utf8(line)
        .map_err(|error| format!("not UTF-8 at column {}", error.valid_up_to() + 1))?;
    text.parse().map_err(|error: kv::RequestError| error.to_string())
}

/// How many lines were answered, and how.
#[derive(Default)]
struct Answered {
    committed: u64,
    aborted: u64,
    refused: u64,
}

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { committed, aborted, refused } = self;
        writeln!(f, "answers: {committed} committed, {aborted} aborted, {refused} lines refused")?;
        writeln!(f, "(above, one that aborted counts as committed, with the answer that it aborted)")
    }
}

/// Prints answers in the order of the lines, and counts them. Whenever the next one is not there yet, the others are
/// flushed.
fn print_answers(
    items: &Receiver<Item>,
    out: &mut impl Write,
    agreement: &Agreement,
    answered: &mut Answered,
) -> Result<(), Failure> {
    loop {
        let item = match items.try_recv() {
            Ok(item) => item,
            Err(TryRecvError::Disconnected) => return Ok(()),
            Err(TryRecvError::Empty) => {
                still_read(out.flush())?;
                match items.recv_timeout(HANG_UP) {
                    Ok(item) => item,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
        };
        match item {
            Item::Submitted { id, ticket, room } => {
                if !ticket.is_done() {
                    still_read(out.flush())?;
                }
                let (position, answer) = answer(ticket)?;
                room.learn(answer.size());
                agreement.wait(position, || still_read(out.flush()))?;
                print_answer(out, id.as_deref(), &answer, answered)?;
            }
            Item::Malformed { line, error } => refuse(out, line, &error, answered)?,
            // All that came before it was answered, so that it is there if it ever was.
            Item::TooLarge { line, id, error } => match agreement.known(&id) {
                Some((position, answer)) => {
                    agreement.wait(position, || still_read(out.flush()))?;
                    print_answer(out, Some(&id), &answer, answered)?;
                }
                None => refuse(out, line, &error, answered)?,
            },
            Item::Failed(failure) => return Err(failure),
        }
    }
}

fn refuse(out: &mut impl Write, line: u64, error: &str, answered: &mut Answered) -> Result<(), Failure> {
    print(out, &ErrorLine { line, error }).inspect(|()| answered.refused += 1)
}

/// Nobody who hangs up has seen all answers: that is said, for what was submitted stays.
fn still_read(written: io::Result<()>) -> Result<(), Failure> {
    if is_read(written)? {
        Ok(())
    } else {
        Err(Failure::Io(
            "stdout was closed before all answers were printed; what was submitted stays".to_owned(),
        ))
    }
}

#[derive(Serialize)]
struct AnswerLine<'a> {
    id: Option<&'a str>,
    /// The entry of the log, and the transaction in it: there is one.
    position: [u64; 2],
    status: &'static str,
    results: &'a [Json],
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct ErrorLine<'a> {
    line: u64,
    error: &'a str,
}

/// Prints a line, without a copy of it: it may be long.
fn print(out: &mut impl Write, line: &impl Serialize) -> Result<(), Failure> {
    match serde_json::to_writer(&mut *out, line) {
        Ok(()) => still_read(out.write_all(b"\n")),
        Err(error) if error.is_io() => still_read(Err(error.into())),
        Err(error) => Err(Failure::Bug(format!("an answer is no JSON: {error}"))),
    }
}

/// How many members have to come to the same result before an answer is given.
struct Agreement {
    engine: Shared,
    members: Vec<String>,
    /// `None`: nobody is waited for.
    count: Option<usize>,
    /// How many seconds each answer is waited for.
    within: Option<f64>,
    /// See [`Wanted`].
    told: Cell<bool>,
}

impl Agreement {
    /// The answer that a transaction with this id was given before, and up to where it was looked for.
    fn known(&self, id: &str) -> Option<(Position, Answer)> {
        let engine = self.engine.read().expect("no panic while submitting");
        let snapshot = engine.as_ref()?.snapshot();
        Some((snapshot.position()?, snapshot.get(&kv::ANSWERS, &id.to_owned())?))
    }

    /// Waits for the members; `before` is called if they do not agree yet.
    fn wait(&self, position: Position, before: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let engine = self.engine.read().expect("no panic while submitting");
        let (Some(engine), Some(count)) = (&*engine, self.count) else { return Ok(()) };
        if engine.agreed(count).and_then(|agreed| agreed.position) >= Some(position) {
            return Ok(());
        }
        before()?;
        let wanted = Wanted { count, members: &self.members, within: self.within, told: &self.told };
        wait_agreed(engine, position, wanted, Asking::default(), None)?;
        if engine.has_stopped() {
            return Err(Failure::Io(format!("the engine stopped before {count} members agreed")));
        }
        Ok(())
    }
}

/// Waits for the transaction's answer; tells where the transaction stands that it was made for, which is not what it says
/// itself, if that is the answer of an earlier one with the same id.
fn answer(ticket: Ticket<Transaction>) -> Result<(Position, Answer), Failure> {
    match ticket.wait() {
        Ok(Outcome::Committed { position, output }) => Ok((position, output)),
        Ok(Outcome::Aborted { reason, .. }) => match reason {},
        Ok(Outcome::Panicked { position, message }) => {
            Err(Failure::Bug(format!("the transaction at position {position} panicked: {message}")))
        }
        Err(error) => Err(Failure::Io(error.to_string())),
    }
}

fn print_answer(
    out: &mut impl Write,
    id: Option<&str>,
    answer: &Answer,
    answered: &mut Answered,
) -> Result<(), Failure> {
    let position = [answer.position().0, 0];
    match answer {
        Answer::Committed { results, .. } => {
            print(out, &AnswerLine { id, position, status: "committed", results, reason: None })?;
            answered.committed += 1;
        }
        Answer::Aborted { reason, .. } => {
            let reason = Some(reason.to_string());
            print(out, &AnswerLine { id, position, status: "aborted", results: &[], reason })?;
            answered.aborted += 1;
        }
    }
    Ok(())
}
