//! TPC-C on a cluster while its roles fail, audited and compared in the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mixlog::log::SharedLog;
use mixlog::workloads::runner::{self, Stop};
use mixlog::workloads::tpcc::client::Tpcc;
use mixlog::workloads::tpcc::schema::Scale;
use mixlog::workloads::workload::Workload;
use mixlog::{Digest, Engine, Mode};

fn replay(workload: &Tpcc, log: Arc<dyn SharedLog>, threads: usize, mode: Mode) -> Digest {
    let builder = workload.register(Engine::builder()).threads(threads).mode(mode);
    builder.replay(log).expect("it opens").to_end().expect("it replays")
}

/// Runs TPC-C on a cluster, whose log is opened by everybody for himself, while `faults` happen, and compares.
pub(crate) fn survives(
    open: &(dyn Fn() -> Arc<dyn SharedLog> + Sync),
    faults: impl FnOnce(&dyn SharedLog) + Send,
) {
    let workload: Tpcc = Tpcc::new(Scale::small(1), 1);
    let engine = workload.register(Engine::builder()).threads(2).open(open()).expect("it opens");
    runner::prepare(&engine, &workload, &mut |_, _| ()).expect("it is populated");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let faults = scope.spawn(|| {
            // Whatever happens, the workload must not run for ever.
            let _over = Over(&over);
            faults(&*open());
        });
        for seed in 1.. {
            let stop = Stop::Transactions(1000);
            let config =
                runner::Config { clients: 2, in_flight: 64, stop, seed, ..runner::Config::default() };
            let report = runner::run(&engine, &workload, &config, &mut |_| ()).expect("it runs");
            let failed: Vec<_> = report.checks.iter().filter(|check| !check.ok).collect();
            assert!(failed.is_empty(), "{failed:?}");
            if over.load(Ordering::Acquire) {
                break;
            }
        }
        faults.join().expect("the cluster recovers from every fault");
    });
    let digest = engine.digest();
    engine.close().expect("it closes");
    assert_eq!(replay(&workload, open(), 1, Mode::Sequential), digest);
    assert_eq!(replay(&workload, open(), 2, Mode::Parallel), digest);
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
