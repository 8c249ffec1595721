//! Clients that post payments, and send again what was not answered.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use mixlog::workloads::random::Rng;

use crate::Failure;

/// Before something is tried again.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Args)]
pub(crate) struct Arguments {
    /// Where the server listens.
    #[arg(long)]
    server: SocketAddr,
    /// How many clients there are, each with a connection.
    #[arg(long, default_value_t = 8)]
    clients: u64,
    /// How many payments each of them posts.
    #[arg(long, default_value_t = 20_000)]
    payments: u64,
    /// How many customers they are between.
    #[arg(long, default_value_t = 1000)]
    customers: u64,
    /// How many requests of a client are on the way at a time, at most 64.
    #[arg(long, default_value_t = 48)]
    in_flight: usize,
    /// Prints a line for each answer: client, sequence number, and what the server said.
    #[arg(long)]
    answers: bool,
}

/// Opens and funds the accounts as client 0, then posts as clients 1, 2, ..
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut opening = vec!["OPEN equity -1000000000000".to_owned(), "OPEN fees 0".to_owned()];
    for customer in 0..arguments.customers {
        opening.push(format!("OPEN customer:{customer} 0"));
        opening.push(format!("POST opening equity -10000 customer:{customer} 10000"));
    }
    let start = Instant::now();
    let mut first = Client::new(0, arguments);
    let next = first.next()?;
    first.send(next..opening.len() as u64 + 1, |sequence| opening[sequence as usize - 1].clone())?;
    println!("{} accounts after {:.2} s", arguments.customers + 2, start.elapsed().as_secs_f64());

    let start = Instant::now();
    let lost = thread::scope(|scope| {
        let clients: Vec<_> = (1..=arguments.clients)
            .map(|id| {
                scope.spawn(move || {
                    let mut client = Client::new(id, arguments);
                    let payment = |sequence| payment(id, sequence, arguments.customers);
                    let next = client.next()?;
                    client.send(next..next + arguments.payments, payment).map(|()| client.lost)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("no client panics")).sum::<io::Result<u64>>()
    })?;
    let (payments, seconds) = (arguments.clients * arguments.payments, start.elapsed().as_secs_f64());
    println!(
        "{payments} payments in {seconds:.2} s: {:.0}/s; {lost} connections lost",
        payments as f64 / seconds
    );
    Ok(())
}

/// From one customer to another, with a fee. It follows from its number, so that it is the same when it is sent again.
fn payment(client: u64, sequence: u64, customers: u64) -> String {
    let mut random = Rng::new(client << 32 | sequence);
    let (from, to) = (random.below(customers), random.below(customers));
    let cents = random.between(1, 3000);
    format!("POST {client}/{sequence} customer:{from} -{} customer:{to} {cents} fees 1", cents + 1)
}

struct Client<'a> {
    id: u64,
    arguments: &'a Arguments,
    connection: Option<(BufReader<TcpStream>, BufWriter<TcpStream>)>,
    /// Sent, and not answered.
    unanswered: VecDeque<u64>,
    lost: u64,
}

impl<'a> Client<'a> {
    const fn new(id: u64, arguments: &'a Arguments) -> Self {
        Self { id, arguments, connection: None, unanswered: VecDeque::new(), lost: 0 }
    }

    /// The first number that was not used by an earlier run.
    fn next(&mut self) -> io::Result<u64> {
        loop {
            match self.greet() {
                Err(error) if error.kind() != io::ErrorKind::InvalidData => thread::sleep(PAUSE),
                last => return last.map(|last| last + 1),
            }
        }
    }

    /// Connects; tells the last number that the server knows of.
    fn greet(&mut self) -> io::Result<u64> {
        let stream = connect(self.arguments.server)?;
        let mut output = BufWriter::new(stream.try_clone()?);
        writeln!(output, "HELLO {}", self.id)?;
        output.flush()?;
        let mut input = BufReader::new(stream);
        let welcome = answer(&mut input)?;
        self.connection = Some((input, output));
        let last: Option<u64> = welcome.strip_prefix("WELCOME ").and_then(|last| last.parse().ok());
        last.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, welcome))
    }

    /// Sends requests of these numbers, and waits for all answers.
    fn send(&mut self, mut numbers: Range<u64>, request: impl Fn(u64) -> String) -> io::Result<()> {
        while !numbers.is_empty() || !self.unanswered.is_empty() {
            // The server may be gone at any moment; then all that was not answered is sent again.
            match self.exchange(&mut numbers, &request) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
                Err(_) => {
                    self.connection = None;
                    self.lost += 1;
                    thread::sleep(PAUSE);
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Sends as much as may be on the way, and takes the next answer.
    fn exchange(&mut self, numbers: &mut Range<u64>, request: &impl Fn(u64) -> String) -> io::Result<()> {
        if self.connection.is_none() {
            self.greet()?;
            let (_, output) = self.connection.as_mut().expect("it was made just now");
            for &sequence in &self.unanswered {
                writeln!(output, "{sequence} {}", request(sequence))?;
            }
        }
        let (input, output) = self.connection.as_mut().expect("it was made above, if there was none");
        while self.unanswered.len() < self.arguments.in_flight
            && let Some(sequence) = numbers.next()
        {
            self.unanswered.push_back(sequence);
            writeln!(output, "{sequence} {}", request(sequence))?;
        }
        output.flush()?;
        let answer = answer(input)?;
        let mut words = answer.split(' ');
        let sequence = words.next().and_then(|word| word.parse().ok());
        match words.next() {
            Some("OK" | "REFUSED") if self.unanswered.front().copied() == sequence => {}
            Some("LATER") => return Err(io::ErrorKind::WouldBlock.into()),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, answer)),
        }
        self.unanswered.pop_front();
        if self.arguments.answers {
            println!("{} {answer}", self.id);
        }
        Ok(())
    }
}

/// A whole line: what a server that was killed did not end is no answer.
fn answer(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    line.strip_suffix('\n').map(str::to_owned).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Waits for a server, for a while.
fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match TcpStream::connect(server) {
            Err(error) if Instant::now() > deadline => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("no server at {server}: {error}"),
                ));
            }
            Err(_) => thread::sleep(PAUSE),
            Ok(stream) => return stream.set_nodelay(true).map(|()| stream),
        }
    }
}
