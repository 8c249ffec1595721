//! Configurations of zeros and of huge numbers: they are refused with an error that says what would do, or they work. None
//! panics, and none hangs.
#![cfg(not(loom))]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use mixlog_log::{Batch, Durability, Entry, FileLog, OpenError, Position, SharedLog, corfu, file};

/// Appends some batches at a time, and reads what they hold.
fn works(log: &dyn SharedLog) {
    let entries = 300u64;
    let tickets: Vec<_> = (0..entries)
        .map(|n| {
            let mut batch = Batch::new();
            batch.push(&[n as u8; 1000]);
            log.append(&batch).unwrap()
        })
        .collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    let mut next = Position(0);
    while next < log.tail().unwrap().tail {
        let block = log.read(next).unwrap().expect("before the tail");
        for (position, entry) in block.iter() {
            assert_eq!(entry, Entry::Data(&[position.0 as u8; 1000]));
        }
        next = block.end();
    }
    assert_eq!(next, Position(entries));
}

fn small() -> file::Config {
    let durability = Durability::Buffered;
    file::Config { durability, segment_bytes: 64 << 10, max_batch_bytes: 8 << 10, ..file::Config::default() }
}

#[test]
fn file_log_out_of_bounds_is_refused_and_nothing_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    for config in [
        file::Config { durability: Durability::Memory, ..small() },
        file::Config { segment_bytes: 0, ..small() },
        file::Config { segment_bytes: 10_000, ..small() },
        file::Config { segment_bytes: u64::MAX, ..small() },
        file::Config { max_batch_bytes: 0, ..small() },
        file::Config { max_batch_bytes: usize::MAX, ..small() },
        file::Config { max_batch_bytes: 1 << 31, segment_bytes: 1 << 39, ..small() },
    ] {
        let error = FileLog::open(&path, config).unwrap_err();
        assert!(matches!(error, OpenError::Configuration(_)), "{error}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn file_log_with_no_room_or_any_for_queue_groups_and_cache_works() {
    for bytes in [0, 1, usize::MAX] {
        for config in [
            file::Config { queue_bytes: bytes, ..small() },
            file::Config { group_bytes: bytes, ..small() },
            file::Config { cache_bytes: bytes, ..small() },
            file::Config { queue_bytes: bytes, group_bytes: bytes, cache_bytes: bytes, ..small() },
        ] {
            let directory = tempfile::tempdir().unwrap();
            works(&FileLog::open(directory.path(), config).unwrap());
        }
    }
}

#[test]
fn cluster_out_of_bounds_is_refused() {
    let default = corfu::LocalConfig::default;
    let for_ever = corfu::Timing { answer: Duration::MAX, ..corfu::Timing::default() };
    let zero = corfu::Timing { silence: Duration::ZERO, ..corfu::Timing::default() };
    for config in [
        corfu::LocalConfig { timing: zero, ..default() },
        corfu::LocalConfig { chains: 0, ..default() },
        corfu::LocalConfig { replicas: 0, ..default() },
        corfu::LocalConfig { width: 0, ..default() },
        corfu::LocalConfig { chains: u32::MAX, replicas: u32::MAX, ..default() },
        corfu::LocalConfig { timing: for_ever.clone(), ..default() },
    ] {
        let error = corfu::LocalCluster::open(config).map(drop).unwrap_err();
        assert!(matches!(error, corfu::LocalError::Configuration(_)), "{error}");
    }
    let cluster = corfu::LocalCluster::open(default()).unwrap();
    let config = corfu::Config { timing: for_ever, ..corfu::Config::default() };
    let error = corfu::CorfuLog::connect(cluster, config).map(drop).unwrap_err();
    assert!(
        matches!(&error, corfu::ConnectError::Configuration(text) if text.starts_with("timing.answer is from 1 ms to")),
        "{error}"
    );
    for (config, says) in [
        (
            corfu::Config { max_batch_bytes: 0, ..corfu::Config::default() },
            "max_batch_bytes is at least 4, and not 0",
        ),
        (corfu::Config { max_batch_bytes: 3, ..corfu::Config::default() }, "and not 3"),
        (corfu::Config { max_batch_bytes: (32 << 20) + 1, ..corfu::Config::default() }, "at most 33554432"),
        (corfu::Config { patience: Duration::ZERO, ..corfu::Config::default() }, "patience is more than 0"),
        (
            corfu::Config { janitor: Some(Duration::ZERO), ..corfu::Config::default() },
            "janitor is at least 1ms or None",
        ),
    ] {
        let cluster = corfu::LocalCluster::open(default()).unwrap();
        let error = corfu::CorfuLog::connect(cluster, config).map(drop).unwrap_err();
        assert!(
            matches!(&error, corfu::ConnectError::Configuration(text) if text.contains(says)),
            "{error} and not {says}"
        );
    }
    for (segment_bytes, run_bytes) in [(64 << 20, 0), (0, 1 << 20), (u64::MAX, 1 << 20), (0, usize::MAX)] {
        let directory = tempfile::tempdir().unwrap();
        let files = corfu::UnitFiles {
            segment_bytes,
            run_bytes,
            ..corfu::UnitFiles::new(directory.path(), Durability::Buffered)
        };
        let storage = corfu::LocalStorage::Files(files);
        // What is too small is made large enough.
        match corfu::LocalCluster::open(corfu::LocalConfig { storage, ..default() }) {
            Ok(_) => assert!(segment_bytes < u64::MAX && run_bytes < usize::MAX),
            Err(corfu::LocalError::Unit { source: OpenError::Configuration(_), .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn log_on_a_cluster_with_no_room_or_any_works() {
    let cluster = |width| corfu::LocalConfig { width, quota: u64::MAX, ..corfu::LocalConfig::default() };
    for (width, bytes, patience) in [
        (1, 0, Duration::from_secs(60)),
        (u32::MAX, usize::MAX, Duration::MAX),
        (1 << 16, 1, Duration::from_secs(60)),
    ] {
        let config = corfu::Config {
            patience,
            queue_bytes: bytes,
            cache_bytes: bytes,
            // A frame takes no more.
            max_batch_bytes: bytes.clamp(4 << 20, 32 << 20),
            ..corfu::Config::default()
        };
        let cluster = corfu::LocalCluster::open(cluster(width)).unwrap();
        works(&corfu::CorfuLog::connect(cluster, config).unwrap());
    }
}

#[test]
fn monitor_out_of_bounds_is_refused_and_with_any_patience_it_watches() {
    let default = corfu::MonitorConfig::default;
    let cluster = corfu::LocalCluster::open(corfu::LocalConfig::default()).unwrap();
    let start = |config| {
        let (transport, nobody): (Arc<dyn corfu::Transport>, _) =
            (Arc::<corfu::LocalCluster>::clone(&cluster), Vec::new);
        corfu::Monitor::start(transport, config, nobody, |event| panic!("nothing happens, and not {event}"))
    };
    let for_ever = corfu::Timing { hole: Duration::MAX, ..corfu::Timing::default() };
    for (config, says) in [
        (
            corfu::MonitorConfig { interval: Duration::MAX, ..default() },
            "interval is from 1 ms to 2^32 seconds",
        ),
        (corfu::MonitorConfig { interval: Duration::ZERO, ..default() }, "and not 0ns"),
        (corfu::MonitorConfig { misses: 0, ..default() }, "misses is at least 1, and not 0"),
        (corfu::MonitorConfig { replicas: 0, ..default() }, "replicas is at least 1, and not 0"),
        (corfu::MonitorConfig { patience: Duration::ZERO, ..default() }, "patience is from 1 ms"),
        (corfu::MonitorConfig { timing: for_ever, ..default() }, "timing.hole is from 0 ms"),
    ] {
        let error = start(config).unwrap_err().to_string();
        assert!(error.contains(says), "{error} and not {says}");
    }
    for interval in [Duration::from_millis(1), Duration::from_secs(1 << 32)] {
        let misses = u32::MAX;
        drop(start(corfu::MonitorConfig { interval, misses, ..default() }).unwrap());
    }
}
