//! How many tokens a sequencer gives out.

use std::hint::black_box;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use mixlog::log::Position;
use mixlog::log::corfu::{
    Epoch, Instance, Node, Reply, ReplyTo, Request, Sequencer, SequencerReply, SequencerRequest,
    SequencerVerb, TcpTransport, Transport,
};

use super::cluster::{PATIENCE, SEQUENCER, TcpCluster};

/// Connections that ask at the same time.
const CONNECTIONS: usize = 4;

/// How many requests a connection sends before it waits for the answers to those before them.
const PIPELINED: usize = 256;

/// Million tokens per second of a sequencer in this thread.
pub(crate) fn in_this_thread(count: u32) -> f64 {
    const REQUESTS: u32 = 4_000_000;
    let mut sequencer = Sequencer::new(Instance(1));
    let (epoch, tail, width) = (Epoch(1), Position::ZERO, 1 << 16);
    let start = SequencerVerb::Start { instance: Instance(1), tail, width };
    sequencer.handle(&SequencerRequest { epoch, verb: start });
    let begun = Instant::now();
    for _ in 0..REQUESTS {
        let verb = SequencerVerb::Next { count, at_least: 1 };
        black_box(sequencer.handle(black_box(&SequencerRequest { epoch, verb })));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let verb = SequencerVerb::Tail;
    let SequencerReply::Tail(tail) = sequencer.handle(&SequencerRequest { epoch, verb }) else {
        panic!("it was started");
    };
    // A request near the end of a stripe gets less than it asked for.
    assert!(tail.0 >= u64::from(REQUESTS));
    tail.0 as f64 / seconds / 1e6
}

/// How requests that are there at once are sent.
#[derive(Clone, Copy)]
pub(crate) enum Sent {
    OneByOne,
    Together,
}

/// Million tokens per second of a sequencer behind a socket, asked over four connections for `count` at a time.
/// Tokens are counted from the answers.
pub(crate) fn over_tcp(cluster: &TcpCluster, requests: usize, count: u32, sent: Sent) -> f64 {
    let transports: Vec<_> = (0..CONNECTIONS).map(|_| cluster.connect()).collect();
    // Connections are made by the first requests: not while the clock runs.
    transports.iter().for_each(|transport| assert!(ask(transport, 1, 1, sent) > 0));
    let begun = Instant::now();
    let tokens: u64 = thread::scope(|scope| {
        let threads: Vec<_> = transports
            .iter()
            .map(|transport| scope.spawn(move || ask(transport, requests / CONNECTIONS, count, sent)))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("it asks to the end")).sum()
    });
    tokens as f64 / begun.elapsed().as_secs_f64() / 1e6
}

/// Asks `requests` times for `count` tokens, always some ahead, and tells how many it got.
fn ask(transport: &TcpTransport, requests: usize, count: u32, how: Sent) -> u64 {
    let (arrived, arrivals) = mpsc::channel();
    let mut tokens = 0;
    let (mut sent, mut heard) = (0, 0);
    while heard < requests {
        // Half of what may be under way is sent at a time, so that there is always some.
        while sent < requests && sent - heard <= PIPELINED / 2 {
            let some = (requests - sent).min(PIPELINED / 2);
            let asked = (0..some).map(|_| {
                let verb = SequencerVerb::Next { count, at_least: 1 };
                let request = Request::Sequencer(SequencerRequest { epoch: Epoch(1), verb });
                let arrived = arrived.clone();
                (request, ReplyTo::new(move |reply| drop(arrived.send(reply))))
            });
            let to = Node::Sequencer(SEQUENCER);
            match how {
                Sent::OneByOne => asked.for_each(|(request, reply)| transport.send(to, request, reply)),
                Sent::Together => transport.send_all(to, &mut asked.into_iter()),
            }
            sent += some;
        }
        match arrivals.recv_timeout(PATIENCE) {
            Ok(Some(Reply::Sequencer(SequencerReply::Token(token)))) => tokens += u64::from(token.count),
            other => panic!("{other:?}"),
        }
        heard += 1;
    }
    tokens
}
