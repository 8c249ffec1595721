//! From the name of a cluster to its log.

use std::thread;
use std::time::{Duration, Instant};

use super::super::administer::latest;
use super::super::log::{Config, ConnectError, CorfuLog};
use super::{Home, NetError, TcpTransport};

/// How long is waited before it is looked again for a cluster that is not up yet.
const AGAIN: Duration = Duration::from_millis(100);

impl CorfuLog {
    /// The log of the cluster at `home`, over TCP, with the [`durability`](Config::durability) that its units promise;
    /// what `config` says of that does not count. A cluster that is not up yet, or has no projection yet, is waited
    /// for as long as there is [`patience`](Config::patience); then each question may take as long.
    ///
    /// ```no_run
    /// use mixlog_log::corfu::{Config, CorfuLog};
    ///
    /// let log = CorfuLog::open(&"corfu://127.0.0.1:4500".parse()?, Config::default())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Cost: a connection to the projection store and a question, and that of [`connect`](Self::connect).
    ///
    /// # Errors
    /// [`NetError`]: the last one, where something was waited for.
    ///
    /// # Panics
    /// When `home` has no address.
    pub fn open(home: &Home, config: Config) -> Result<Self, NetError> {
        config.check().map_err(ConnectError::Configuration)?;
        let begun = Instant::now();
        let waits = || {
            let left = config.patience.saturating_sub(begun.elapsed());
            thread::sleep(AGAIN.min(left));
            !left.is_zero()
        };
        let transport = loop {
            match TcpTransport::connect(home, &config.timing) {
                Err(error) if error.may_pass() && waits() => {}
                reached => break reached?,
            }
        };
        let projection = loop {
            match latest(&*transport, &config.timing, config.patience) {
                None => return Err(ConnectError::Unavailable.into()),
                Some(Some(projection)) => break projection,
                Some(None) if waits() => {}
                Some(None) => return Err(ConnectError::NotSetUp.into()),
            }
        };
        // Its units may have been announced since.
        loop {
            match transport.listings() {
                Err(error) if error.may_pass() && waits() => {}
                listed => break drop(listed?),
            }
        }
        let durability = transport.durability(&projection);
        Ok(Self::connect(transport, Config { durability, ..config })?)
    }
}
