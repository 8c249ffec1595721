//! A ledger with double entries behind a line protocol over TCP. Every entry takes effect once, however often its client
//! sends it, and is acknowledged when it is on the disk. The server is stopped by killing it.
//!
//! ```sh
//! cargo run --release --example ledger -- serve --log /var/tmp/ledger --listen 127.0.0.1:7000
//! cargo run --release --example ledger -- load --server 127.0.0.1:7000      # meanwhile, kill -9 and restart the server
//! cargo run --release --example ledger -- journal --log /var/tmp/ledger     # when nobody serves it
//! ```
//!
//! A line is a request, and each is answered by a line, in their order; a client need not wait for an answer before the
//! next request. `CENTS` of one `POST` add up to zero. `SEQUENCE` is the client's own number: up from 1, higher for later
//! requests, at most 64 of them without answer. After a lost connection it says `HELLO` again, and sends again what was not
//! answered.
//!
//! ```text
//! HELLO CLIENT                                   WELCOME LAST-SEQUENCE
//! SEQUENCE OPEN ACCOUNT FLOOR                    SEQUENCE OK POSITION, or SEQUENCE REFUSED POSITION WHY, or
//!                                                SEQUENCE LATER WHY: it is to be sent again
//! SEQUENCE POST MEMO ACCOUNT CENTS ..            the same
//! BALANCE ACCOUNT                                BALANCE ACCOUNT CENTS POSITION
//! STATEMENT ACCOUNT COUNT                        STATEMENT ACCOUNT POSITION:CENTS:MEMO .., newest first
//! ```

mod books;
mod load;

use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use books::{ACCOUNTS, BALANCES, BY_ACCOUNT, Open, POSTINGS, Post, Refused};
use clap::Parser;
use mixlog::log::{FileLog, file};
use mixlog::{
    ANSWERS_KEPT, ClientId, Engine, Outcome, Procedure, SubmitError, Ticket, TicketError, checkpoint,
};

/// A ledger on Mixlog: a server, a client that loads it, and a look at its journal.
#[derive(Parser)]
enum Command {
    /// Serves the ledger in a directory, until it is killed.
    Serve {
        /// The directory of the log.
        #[arg(long)]
        log: PathBuf,
        /// Where to listen; port 0 takes one that is free, which is printed.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// Posts payments for several clients, through any number of lost connections; prints what was acknowledged.
    Load(load::Arguments),
    /// Prints all postings of a ledger that nobody serves, and the trial balance.
    Journal {
        /// The directory of the log.
        #[arg(long)]
        log: PathBuf,
    },
}

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

fn open(log: PathBuf) -> Result<Engine, Failure> {
    // Flushed is the default: what is acknowledged survives a power cut.
    let log = Arc::new(FileLog::open(log, file::Config::default())?);
    let builder = Engine::builder()
        .table(&ACCOUNTS)
        .table(&BALANCES)
        .table(&POSTINGS)
        .index(&BY_ACCOUNT)
        .procedure::<Open>()
        .procedure::<Post>();
    // So that a restart takes little time, however long the journal.
    let checkpoints = checkpoint::Config { every_bytes: Some(16 << 20), ..Default::default() };
    Ok(builder.checkpoints(checkpoints).open(log)?)
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve { log, listen } => serve(&Arc::new(open(log)?), listen),
        Command::Load(arguments) => load::run(&arguments),
        Command::Journal { log } => {
            let (engine, mut out) = (open(log)?, BufWriter::new(io::stdout().lock()));
            let state = engine.snapshot();
            for ((entry, _), posting) in state.range(&POSTINGS, ..) {
                writeln!(out, "{entry} {} {} {}", posting.account, posting.cents, posting.memo)?;
            }
            let (debits, credits) = books::trial(&state)?;
            writeln!(out, "total {debits} debits {credits} credits")?;
            Ok(())
        }
    }
}

fn serve(engine: &Arc<Engine>, listen: SocketAddr) -> Result<(), Failure> {
    eprintln!("{}", engine.recovery());
    let listener = TcpListener::bind(listen)?;
    println!("listening on {}", listener.local_addr()?);
    for stream in listener.incoming() {
        let (stream, engine) = (stream?, engine.clone());
        thread::spawn(move || {
            if let Err(error) = converse(&engine, &stream) {
                eprintln!("a connection was lost: {error}");
            }
        });
    }
    Ok(())
}

/// Gives the answer once it is there. Waiting for it is left to the thread that writes, so that the one that reads goes on.
type Answer<'e> = Box<dyn FnOnce() -> String + Send + 'e>;

fn converse(engine: &Engine, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Who has more requests without answer than may be repeated is not read on.
    let (answers, queue) = sync_channel(ANSWERS_KEPT as usize);
    // The sender goes when the reader ends, and the writer with it.
    thread::scope(move |scope| {
        scope.spawn(move || {
            // What is wrong with a connection is told by who reads from it.
            let _ = answer(&queue, stream);
            let _ = stream.shutdown(std::net::Shutdown::Both);
        });
        let mut client = None;
        for line in BufReader::new(stream).lines() {
            let line = line?;
            let answer = request(engine, &mut client, &line)
                .unwrap_or_else(|| Box::new(move || format!("ERROR {line}")));
            if answers.send(answer).is_err() {
                break;
            }
        }
        Ok(())
    })
}

fn answer(queue: &Receiver<Answer<'_>>, stream: &TcpStream) -> io::Result<()> {
    let mut out = BufWriter::new(stream);
    while let Ok(mut answer) = queue.recv() {
        loop {
            writeln!(out, "{}", answer())?;
            match queue.try_recv() {
                Ok(next) => answer = next,
                Err(_) => break,
            }
        }
        out.flush()?;
    }
    Ok(())
}

/// Submits what a line asks for; `None` where it makes no sense.
fn request<'e>(engine: &'e Engine, client: &mut Option<ClientId>, line: &str) -> Option<Answer<'e>> {
    let mut words = line.split_ascii_whitespace();
    let first = words.next()?;
    let mut word = || words.next().map(str::to_owned);
    match first {
        "HELLO" => {
            let id = ClientId(word()?.parse().ok()?);
            *client = Some(id);
            Some(Box::new(move || format!("WELCOME {}", engine.client(id).last().unwrap_or(0))))
        }
        "BALANCE" => {
            let account = word()?;
            // The state at the time of the answer: it includes all that this connection was told before.
            Some(Box::new(move || {
                let state = engine.snapshot();
                let balance = state.get(&BALANCES, &account).unwrap_or_default().0;
                format!("BALANCE {account} {balance} {}", state.position().map_or(0, |position| position.0))
            }))
        }
        "STATEMENT" => {
            let (account, count) = (word()?, word()?.parse().ok()?);
            Some(Box::new(move || {
                let (state, mut answer) = (engine.snapshot(), format!("STATEMENT {account}"));
                for (_, key) in state.range_by(&BY_ACCOUNT, account.clone()..=account).rev().take(count) {
                    let posting = state.get(&POSTINGS, &key).expect("the index is of the same state");
                    answer += &format!(" {}:{}:{}", key.0, posting.cents, posting.memo);
                }
                answer
            }))
        }
        sequence => {
            let (sequence, client) = (sequence.parse().ok()?, engine.client((*client)?));
            match word()?.as_str() {
                "OPEN" => {
                    let open = Open { account: word()?, floor: word()?.parse().ok()? };
                    Some(submitted(sequence, client.submit(sequence, &open)))
                }
                "POST" => {
                    let (memo, mut sides) = (word()?, Vec::new());
                    while let Some(account) = word() {
                        sides.push((account, word()?.parse().ok()?));
                    }
                    Some(submitted(sequence, client.submit(sequence, &Post { sides, memo })))
                }
                _ => None,
            }
        }
    }
}

fn submitted<'e, P: Procedure<Abort = Refused>>(
    sequence: u64,
    ticket: Result<Ticket<P>, SubmitError>,
) -> Answer<'e> {
    Box::new(move || match ticket.map(Ticket::wait) {
        Ok(Ok(Outcome::Committed { position, .. })) => format!("{sequence} OK {position}"),
        Ok(Ok(Outcome::Aborted { position, reason })) => format!("{sequence} REFUSED {position} {reason:?}"),
        Ok(Ok(Outcome::Panicked { position, message })) => format!("{sequence} FAILED {position} {message}"),
        Ok(Err(error @ (TicketError::Forgotten { .. } | TicketError::Reused { .. }))) => {
            format!("{sequence} INVALID {error}")
        }
        Err(error) if error.is_temporary() => format!("{sequence} LATER {error}"),
        // Nobody knows what became of it: the next server tells when it is sent again.
        Ok(Err(error)) => stop(&error),
        Err(error) => stop(&error),
    })
}

fn stop(error: &dyn std::error::Error) -> ! {
    eprintln!("the ledger cannot go on: {error}");
    std::process::exit(1);
}
