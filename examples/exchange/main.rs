//! An exchange: limit orders with price-time priority for several instruments, holds on cash and units, cancellations,
//! settlement, and the turnover of all. A generator with many orders on the way, and an audit of what must hold.
//!
//! ```sh
//! cargo run --release --example exchange                                   # in memory
//! cargo run --release --example exchange -- --log /var/tmp/exchange        # durable; run it again to go on
//! ```

mod audit;
mod load;
mod market;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use load::{Gateway, Tally};
use market::{Admit, BY_TRADER, CASH, Cancel, HOLDINGS, ORDERS, Order, Settle, TURNOVER};
use mixlog::log::{FileLog, MemoryLog, SharedLog, file};
use mixlog::{Builder, Engine, Mode, checkpoint};

/// An exchange on Mixlog, with a generator of orders and an audit.
#[derive(Parser)]
struct Arguments {
    /// Keeps the log in this directory, flushed before anything is acknowledged; in memory without it.
    #[arg(long)]
    log: Option<PathBuf>,
    /// How many commands are submitted.
    #[arg(long, default_value_t = 500_000)]
    commands: u64,
    /// How many traders there are, at the first run on a log.
    #[arg(long, default_value_t = 1000)]
    traders: u32,
    /// How many threads submit commands.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    gateways: u64,
    /// How many commands of each gateway are on the way at a time.
    #[arg(long, default_value_t = 2048)]
    in_flight: usize,
}

fn exchange() -> Builder {
    Engine::builder()
        .table(&ORDERS)
        .index(&BY_TRADER)
        .table(&HOLDINGS)
        .table(&CASH)
        .table(&TURNOVER)
        .procedure::<Admit>()
        .procedure::<Order>()
        .procedure::<Cancel>()
        .procedure::<Settle>()
}

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let log: Arc<dyn SharedLog> = match &arguments.log {
        None => Arc::new(MemoryLog::new()),
        Some(directory) => Arc::new(FileLog::open(directory, file::Config::default())?),
    };
    let engine = exchange().open(log.clone())?;
    println!("{}; {} threads, durability {:?}", engine.recovery(), engine.threads(), engine.durability());
    if engine.snapshot().is_empty(&CASH) {
        let tickets: Result<Vec<_>, _> =
            (0..arguments.traders).map(|trader| engine.submit(&Admit(trader))).collect();
        for ticket in tickets? {
            let Ok(()) = ticket.wait()?.decided()?;
        }
    }
    let traders = engine.snapshot().len(&CASH) as u32;

    let (start, first) = (Instant::now(), engine.position());
    let tally = std::thread::scope(|scope| {
        let gateways: Vec<_> = (0..arguments.gateways)
            .map(|gateway| {
                // Other orders at each run.
                let seed = first.map_or(0, |position| position.0) + gateway;
                let commands = arguments.commands / arguments.gateways;
                let engine = &engine;
                scope.spawn(move || Gateway::new(engine, seed, traders).run(commands, arguments.in_flight))
            })
            .collect();
        let tallies = gateways.into_iter().map(|gateway| gateway.join().expect("no gateway panics"));
        tallies.reduce(|sum, one| Ok::<_, Failure>(sum?.plus(&one?))).unwrap_or_else(|| Ok(Tally::default()))
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let done: u64 = tally.done + tally.refused.values().sum::<u64>();
    println!("{done} commands in {seconds:.2} s: {:.0}/s", done as f64 / seconds);
    println!("{} with effect, {} of them executed at once, at least in part", tally.done, tally.executed);
    tally.refused.iter().for_each(|(why, count)| println!("{count} refused: {why:?}"));
    let stats = engine.stats();
    println!("parallelism {:.2}, {} windows replayed", stats.parallelism(), stats.replays);

    audit::audit(&engine.snapshot())?;

    // The log says it all: whoever replays it, in whatever way, comes to the same state.
    let expected = engine.digest();
    for (threads, mode) in [(1, Mode::Sequential), (2, Mode::Auto), (4, Mode::Parallel)] {
        let oldest = checkpoint::Config { start: checkpoint::Start::Oldest, ..Default::default() };
        let replay = exchange().threads(threads).mode(mode).checkpoints(oldest).replay(log.clone())?;
        let digest = replay.to_end()?;
        let took = replay.recovery().expect("it has run");
        let rate = took.entries as f64 / took.replay.as_secs_f64();
        println!("replay, {threads} threads, {mode:?}: {} entries, {rate:.0}/s: {digest}", took.entries);
        if digest != expected {
            return Err(format!("the engine has {expected}").into());
        }
    }
    engine.close()?;
    Ok(())
}
