//! What every backend of the log must do, run against each of them.
#![cfg(not(loom))]

mod store;
mod subject;
mod suite;
mod tcp;

use std::any::Any;
use std::path::Path;
use std::sync::Arc;

use mixlog_log::corfu::Projection;
use mixlog_log::corfu::{
    FileStore, Home, MemoryStore, ProjectionStore, Server, StoreError, StoreReply, StoreRequest,
};
use mixlog_log::{Durability, FileLog, LogId, MemoryLog, SharedLog, corfu, file};

use crate::subject::Subject;
use crate::tcp::TcpLog;

impl Subject {
    fn memory() -> Self {
        Self {
            dense: true,
            batch_bytes: None,
            batch_entries: None,
            log: Some(Arc::new(MemoryLog::new())),
            reopen: None,
        }
    }

    fn file(durability: Durability) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Small, so that a few hundred entries cross segments, and most reads miss the cache.
        let config = file::Config {
            durability,
            segment_bytes: 32 << 10,
            max_batch_bytes: 8 << 10,
            queue_bytes: 64 << 10,
            cache_bytes: 4 << 10,
            ..file::Config::default()
        };
        let reopen = move || -> Arc<dyn SharedLog> {
            Arc::new(FileLog::open(directory.path().join("log"), config.clone()).unwrap())
        };
        Self {
            dense: true,
            batch_bytes: Some(8 << 10),
            batch_entries: None,
            log: Some(reopen()),
            reopen: Some(Box::new(reopen)),
        }
    }

    fn corfu(log: Arc<dyn SharedLog>, reopen: Option<Box<dyn Fn() -> Arc<dyn SharedLog>>>) -> Self {
        let batch_bytes = Some(tcp::config(Durability::Memory).max_batch_bytes);
        Self { dense: false, batch_bytes, batch_entries: Some(tcp::WIDTH), log: Some(log), reopen }
    }

    /// Two chains of two units each in memory, with stripes so short that most tests cross them.
    fn corfu_memory() -> Self {
        let log = corfu_log(corfu::LocalStorage::Memory, Durability::Memory);
        Self::corfu(log, None)
    }

    fn corfu_file(durability: Durability) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let reopen = move || -> Arc<dyn SharedLog> {
            let files = corfu::UnitFiles {
                segment_bytes: 64 << 10,
                run_bytes: 24 << 10,
                cache_bytes: 4 << 10,
                ..corfu::UnitFiles::new(directory.path().join("cluster"), durability)
            };
            corfu_log(corfu::LocalStorage::Files(files), durability)
        };
        Self::corfu(reopen(), Some(Box::new(reopen)))
    }

    /// The same behind sockets.
    fn corfu_tcp_memory() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let log = tcp_log(&path, Durability::Memory, directory);
        Self::corfu(Arc::new(log), None)
    }

    fn corfu_tcp_file(durability: Durability) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let reopen = move || -> Arc<dyn SharedLog> { Arc::new(tcp_log(directory.path(), durability, ())) };
        Self::corfu(reopen(), Some(Box::new(reopen)))
    }
}

fn tcp_log(directory: &Path, durability: Durability, kept: impl Any + Send + Sync) -> TcpLog {
    let store = Server::store(tcp::listener(), &directory.join("store")).unwrap();
    TcpLog::open(&Home::servers(&[store.address()]), directory, durability, Box::new((store, kept)))
}

fn corfu_log(storage: corfu::LocalStorage, durability: Durability) -> Arc<dyn SharedLog> {
    let config =
        corfu::LocalConfig { chains: 2, width: tcp::WIDTH, storage, ..corfu::LocalConfig::default() };
    let cluster = corfu::LocalCluster::open(config).unwrap();
    Arc::new(corfu::CorfuLog::connect(cluster, tcp::config(durability)).unwrap())
}

macro_rules! suite {
    ($($test:ident)*) => {
        mod memory {
            $(#[test] fn $test() { crate::suite::$test(crate::Subject::memory()); })*
        }
        mod file_buffered {
            $(#[test] fn $test() { crate::suite::$test(crate::Subject::file(mixlog_log::Durability::Buffered)); })*
        }
        mod file_flushed {
            $(#[test] fn $test() { crate::suite::$test(crate::Subject::file(mixlog_log::Durability::Flushed)); })*
        }
        mod corfu_memory {
            $(#[test] fn $test() { crate::suite::$test(crate::Subject::corfu_memory()); })*
        }
        mod corfu_buffered {
            $(#[test] fn $test() { crate::suite::$test(crate::Subject::corfu_file(mixlog_log::Durability::Buffered)); })*
        }
        mod corfu_flushed {
            $(#[test] fn $test() { crate::suite::$test(crate::Subject::corfu_file(mixlog_log::Durability::Flushed)); })*
        }
        mod corfu_tcp_memory {
            $(#[test] fn $test() { crate::suite::$test(crate::Subject::corfu_tcp_memory()); })*
        }
        mod corfu_tcp_buffered {
            $(#[test] fn $test() { crate::suite::$test(crate::Subject::corfu_tcp_file(mixlog_log::Durability::Buffered)); })*
        }
        mod corfu_tcp_flushed {
            $(#[test] fn $test() { crate::suite::$test(crate::Subject::corfu_tcp_file(mixlog_log::Durability::Flushed)); })*
        }
    };
}

suite::for_all_checks!(suite);

/// A store in memory, opened more than once.
struct SharedStore(Arc<MemoryStore>);

impl ProjectionStore for SharedStore {
    fn latest(&self) -> Result<Option<Arc<Projection>>, StoreError> {
        self.0.latest()
    }

    fn install(&self, projection: &Projection) -> Result<bool, StoreError> {
        self.0.install(projection)
    }

    fn name(&self, proposed: LogId) -> Result<LogId, StoreError> {
        self.0.name(proposed)
    }

    fn handle(&self, request: &StoreRequest) -> Result<StoreReply, StoreError> {
        self.0.handle(request)
    }
}

fn on_every_store(check: fn(store::Open<'_>)) {
    let memory = Arc::new(MemoryStore::default());
    check(&|| Box::new(SharedStore(Arc::clone(&memory))));
    let directory = tempfile::tempdir().unwrap();
    check(&|| Box::new(FileStore::open(directory.path().join("store")).unwrap()));
    let left = std::fs::read_dir(directory.path().join("store")).unwrap();
    let half_made =
        left.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().contains("creating"));
    assert_eq!(half_made.count(), 0, "nothing is left half made");
}

#[test]
fn stores_install_epochs_in_order_and_once() {
    on_every_store(store::epochs_are_installed_in_order_and_once);
}

#[test]
fn stores_raced_by_many_have_one_winner_for_each_epoch() {
    on_every_store(store::each_epoch_has_one_winner_of_many);
}

#[test]
fn stores_keep_the_first_name_of_a_log() {
    on_every_store(store::first_name_of_a_log_stays);
}

#[test]
fn stores_name_a_log_as_its_projections_do() {
    on_every_store(store::log_with_projections_has_their_name);
}
