//! A workflow server: orders pass queues of jobs, whose workers crash, fail, are late; operators look at what was given
//! up; two replicas follow the log, and agree.
//!
//! ```sh
//! cargo run --release --example workflow
//! cargo run --release --example workflow -- --log /var/tmp/workflow      # durable; kill it, and run it again to go on
//! ```

mod jobs;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use jobs::{
    Claim, Claimed, DUE, EVENTS, Event, GIVEN_UP, JOBS, Job, Lost, News, ORDERS, Place, Report, STEPS,
};
use mixlog::log::{FileLog, MemoryLog, SharedLog, file};
use mixlog::workloads::random::Rng;
use mixlog::{Backoff, Builder, Engine, Membership, Never, Replica, Snapshot, TransactError};

/// A workflow server on Mixlog, with its workers, operators and replicas.
#[derive(Parser)]
struct Arguments {
    /// Keeps the log in this directory; in memory without it.
    #[arg(long)]
    log: Option<PathBuf>,
    /// How many orders are placed.
    #[arg(long, default_value_t = 20_000)]
    orders: u64,
    /// How many workers each of the steps has.
    #[arg(long, default_value_t = 16)]
    workers: u64,
    /// How long a claim lasts, in milliseconds.
    #[arg(long, default_value_t = 30)]
    lease_ms: u64,
}

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn member(name: &str) -> Builder {
    Engine::builder()
        .table(&ORDERS)
        .table(&JOBS)
        .index(&DUE)
        .table(&GIVEN_UP)
        .table(&EVENTS)
        .procedure::<Place>()
        .procedure::<Claim>()
        .procedure::<Report>()
        .member(Membership::new(name, ["server", "one", "four"]))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let log: Arc<dyn SharedLog> = match &arguments.log {
        None => Arc::new(MemoryLog::new()),
        Some(directory) => Arc::new(FileLog::open(directory, file::Config::default())?),
    };
    let engine = member("server").open(log.clone())?;
    println!("{}", engine.recovery());
    // They follow from now on, each in its own way.
    let one = Replica::follow(|| member("one").threads(1), log.clone())?;
    let four = Replica::follow(|| member("four").threads(4).window(64), log)?;

    let start = Instant::now();
    let placed = engine.snapshot().len(&ORDERS) as u64;
    let tickets: Result<Vec<_>, _> =
        (placed..placed + arguments.orders).map(|order| engine.submit(&Place { order })).collect();
    for ticket in tickets? {
        let Ok(()) = ticket.wait()?.decided()?;
    }
    let mut open = 0;
    engine.snapshot().for_each(&ORDERS, |_, order| open += u64::from(!order.is_closed()));
    println!("{open} orders are open");

    let server = Server { engine: &engine, open: AtomicU64::new(open), lease_ms: arguments.lease_ms };
    let (lost, again) = thread::scope(|scope| {
        let workers: Vec<_> = (0..STEPS.len() as u64 * arguments.workers)
            .map(|worker| {
                let (server, step) = (&server, (worker % STEPS.len() as u64) as u8);
                scope.spawn(move || server.work(step, Rng::new(placed + worker)))
            })
            .collect();
        let operators: Vec<_> = (0..2).map(|_| scope.spawn(|| server.operate())).collect();
        let lost = workers.into_iter().map(|worker| worker.join().expect("no worker panics"));
        let lost = lost.sum::<Result<u64, Failure>>()?;
        let again = operators.into_iter().map(|operator| operator.join().expect("no operator panics"));
        Ok::<_, Failure>((lost, again.sum::<Result<u64, Failure>>()?))
    })?;
    let (seconds, transactions) = (start.elapsed().as_secs_f64(), engine.stats().transactions);
    println!("{transactions} transactions in {seconds:.2} s: {:.0}/s", transactions as f64 / seconds);
    println!("{lost} reports came after the job was lost; operators looked again {again} times");

    // All three vote at the end of what is padded, so whoever does not agree there is found.
    let end = engine.pad()?;
    if !engine.wait_agreed(end, 3, Duration::from_secs(60)) {
        let failed = [&one, &four].map(|replica| (replica.failed(), replica.divergences()));
        return Err(format!("the replicas do not agree at position {end}: {failed:?}").into());
    }
    println!("three members agree on the state after position {end}");
    println!("server          {:032x}", engine.digest().state);
    for (name, replica) in [("one thread", &one), ("four threads", &four)] {
        println!("{name:<15} {:032x}", replica.digest().state);
        if replica.digest().state != engine.digest().state {
            return Err(format!("the replica with {name} has another state").into());
        }
    }
    // Whoever only reads can ask a replica.
    audit(&four.snapshot())?;
    one.close()?;
    four.close()?;
    engine.close()?;
    Ok(())
}

struct Server<'e> {
    engine: &'e Engine,
    /// Orders that are neither done nor cancelled.
    open: AtomicU64,
    lease_ms: u64,
}

impl Server<'_> {
    fn is_at_work(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// Claims jobs of one step and works on them, as well as it can; tells how many it lost.
    fn work(&self, step: u8, mut random: Rng) -> Result<u64, Failure> {
        let (lease_us, mut lost) = (self.lease_ms * 1000, 0);
        while self.is_at_work() {
            let claim = self.engine.execute(&Claim { step, most: 8, lease_us })?;
            let Ok(Claimed { claim, orders, next_us }) = claim.decided()?;
            if orders.is_empty() {
                // Others may place orders meanwhile, so not for long.
                let wait = next_us.map_or(Duration::MAX, until).min(Duration::from_millis(2));
                thread::sleep(wait);
                continue;
            }
            let (mut reports, mut late) = (Vec::new(), Vec::new());
            for order in orders {
                let report = |news| self.engine.submit(&Report { step, order, claim, news });
                match random.below(100) {
                    // Crashes, and is never heard of again.
                    0..4 => {}
                    4..10 => reports.push((News::Failed, report(News::Failed)?)),
                    10..12 => {
                        reports.push((News::Heartbeat { lease_us }, report(News::Heartbeat { lease_us })?));
                        late.push(order);
                    }
                    12..14 => late.push(order),
                    _ if self.is_declined(step, order) => reports.push((News::Failed, report(News::Failed)?)),
                    _ => reports.push((News::Done, report(News::Done)?)),
                }
            }
            if !late.is_empty() {
                thread::sleep(Duration::from_millis(self.lease_ms));
            }
            for order in late {
                let report = Report { step, order, claim, news: News::Done };
                reports.push((News::Done, self.engine.submit(&report)?));
            }
            for (news, ticket) in reports {
                match ticket.wait()?.decided()? {
                    Ok(()) if news == News::Done && usize::from(step) + 1 == STEPS.len() => {
                        self.open.fetch_sub(1, Ordering::Relaxed);
                    }
                    Ok(()) => {}
                    Err(Lost) => lost += 1,
                }
            }
        }
        Ok(lost)
    }

    /// Some cards are declined, half of them only until the customer was asked.
    fn is_declined(&self, step: u8, order: u64) -> bool {
        let revived = || self.engine.snapshot().get(&ORDERS, &order).is_some_and(|order| order.revived > 0);
        step == 1 && order % 200 == 7 && (order % 400 == 7 || !revived())
    }

    /// Looks at what was given up: what it does depends on the order's history, and would depend on a person. Tells how
    /// often it had to look again, since operators get in each other's way.
    fn operate(&self) -> Result<u64, Failure> {
        let mut again = 0;
        while self.is_at_work() {
            let decided = self.engine.transact(Backoff::default(), |tx| {
                again += 1;
                let Some((key, _)) = tx.first(&GIVEN_UP, ..) else { return Ok::<_, Never>(None) };
                let mut order = tx.get(&ORDERS, &key.1).cloned().unwrap_or_default();
                order.cancelled = order.revived > 0;
                if !order.cancelled {
                    order.revived += 1;
                    tx.put(&JOBS, key, Job::default());
                }
                tx.delete(&GIVEN_UP, &key);
                tx.put(&ORDERS, key.1, order.clone());
                Ok(Some(order.cancelled))
            });
            // But for the last attempt.
            again -= 1;
            match decided {
                Ok((Some(true), _)) => drop(self.open.fetch_sub(1, Ordering::Relaxed)),
                Ok((Some(false), _)) => {}
                Ok((None, _)) => thread::sleep(Duration::from_millis(2)),
                Err(TransactError::Commit(error)) => return Err(error.into()),
                Err(TransactError::Aborted(never)) => match never {},
            }
        }
        Ok(again)
    }
}

/// How long until a time of the log's clock.
fn until(due_us: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_micros(due_us).saturating_sub(now)
}

/// Every order is done, each step once and in its place, or was cancelled; what was counted by merges is what there is.
fn audit(state: &Snapshot) -> Result<(), String> {
    let (mut done, mut cancelled, mut wrong) = ([0; STEPS.len()], 0, None);
    state.for_each(&ORDERS, |&number, order| {
        cancelled += u64::from(order.cancelled);
        let steps = order.done.iter().map(|&(step, _)| step);
        if !order.is_closed() || !steps.clone().eq(0..order.done.len() as u8) {
            wrong = Some(number);
        }
        steps.for_each(|step| done[usize::from(step)] += 1);
    });
    if let Some(number) = wrong {
        return Err(format!("order {number} has {:?}", state.get(&ORDERS, &number)));
    }
    if !state.is_empty(&JOBS) || !state.is_empty(&GIVEN_UP) {
        return Err("there are jobs left".to_owned());
    }
    for (step, name) in (0..).zip(STEPS) {
        let count = |event| state.get(&EVENTS, &(step, event)).unwrap_or_default().0;
        let [claimed, ended, failed, given_up] =
            [Event::Claimed, Event::LeaseEnded, Event::Failed, Event::GivenUp].map(count);
        println!("{name:<8} {claimed} claims, {ended} leases ended, {failed} failures, {given_up} given up");
        if count(Event::Done) != done[usize::from(step)] || claimed != count(Event::Done) + ended + failed {
            return Err(format!("{} of {name} were counted, {done:?} were done", count(Event::Done)));
        }
    }
    println!("audit: {} orders are done, {cancelled} cancelled", done[STEPS.len() - 1]);
    Ok(())
}
