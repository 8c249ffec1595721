//! The file log on the real file system.
#![cfg(not(loom))]

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use mixlog_log::{Batch, Durability, Entry, FileLog, OpenError, Position, SharedLog, file};

fn config(create: file::Create) -> file::Config {
    file::Config { create, segment_bytes: 64 << 10, max_batch_bytes: 8 << 10, ..file::Config::default() }
}

fn open(directory: &Path, create: file::Create) -> Result<FileLog, OpenError> {
    FileLog::open(directory, config(create))
}

fn entry(n: u64) -> Vec<u8> {
    let mut bytes = n.to_le_bytes().to_vec();
    bytes.resize(100 + usize::try_from(n % 50).unwrap(), n as u8);
    bytes
}

fn append(log: &FileLog, n: u64) {
    let mut batch = Batch::new();
    batch.push(&entry(n));
    assert_eq!(log.append(&batch).unwrap().wait().unwrap().start, Position(n));
}

fn assert_entries(log: &FileLog) -> u64 {
    let tail = log.tail().unwrap().tail;
    let mut next = Position(0);
    while next < tail {
        let block = log.read(next).unwrap().expect("before the tail");
        for (position, found) in block.iter() {
            assert_eq!(found, Entry::Data(&entry(position.0)));
        }
        next = block.end();
    }
    tail.0
}

#[test]
fn open_by_create_mode_creates_opens_or_refuses() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("a/b/log");
    assert!(matches!(open(&directory, file::Create::Never), Err(OpenError::Missing { .. })));
    assert!(matches!(FileLog::open_read_only(&directory), Err(OpenError::Missing { .. })));
    assert!(matches!(FileLog::verify(&directory), Err(OpenError::Missing { .. })));
    assert!(!directory.exists());
    let log = open(&directory, file::Create::New).unwrap();
    append(&log, 0);
    drop(log);
    assert!(matches!(open(&directory, file::Create::New), Err(OpenError::Exists { .. })));
    for create in [file::Create::Never, file::Create::IfMissing] {
        assert_eq!(assert_entries(&open(&directory, create).unwrap()), 1);
    }
    let empty = scratch.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(matches!(open(&empty, file::Create::Never), Err(OpenError::Missing { .. })));
    open(&empty, file::Create::IfMissing).unwrap();
}

#[test]
fn open_of_a_file_or_a_foreign_directory_is_no_log() {
    let scratch = tempfile::tempdir().unwrap();
    let plain = scratch.path().join("plain");
    fs::write(&plain, "text").unwrap();
    for directory in [plain.as_path(), scratch.path()] {
        let error = open(directory, file::Create::IfMissing).unwrap_err();
        assert!(matches!(error, OpenError::NotALog { .. }), "{error}");
    }
    assert_eq!(fs::read(&plain).unwrap(), b"text");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
}

#[test]
fn files_of_a_log_that_are_links_to_nowhere_or_pipes_are_refused_and_not_waited_for() {
    let (scratch, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    append(&open(scratch.path(), file::Create::New).unwrap(), 0);
    let segment = fs::read_dir(scratch.path()).unwrap().map(|file| file.unwrap().file_name());
    let segment =
        segment.map(|name| name.into_string().unwrap()).find(|name| name.starts_with("segment-")).unwrap();
    for name in ["manifest", &segment] {
        let (path, aside) = (scratch.path().join(name), elsewhere.path().join(name));
        fs::rename(&path, &aside).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        let error = open(scratch.path(), file::Create::IfMissing).unwrap_err();
        assert!(!matches!(error, OpenError::Missing { .. }), "{error}");
        assert!(FileLog::verify(scratch.path()).is_err());
        fs::remove_file(&path).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let error = open(scratch.path(), file::Create::IfMissing).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("not a file"), "{error}");
        assert!(FileLog::verify(scratch.path()).is_err());
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    assert_eq!(assert_entries(&open(scratch.path(), file::Create::Never).unwrap()), 1);
}

#[test]
fn open_twice_is_refused_until_the_first_one_is_dropped() {
    let scratch = tempfile::tempdir().unwrap();
    let first = open(scratch.path(), file::Create::IfMissing).unwrap();
    assert!(matches!(open(scratch.path(), file::Create::Never), Err(OpenError::Locked { .. })));
    assert!(matches!(FileLog::open_read_only(scratch.path()), Err(OpenError::Locked { .. })));
    drop(first);
    let reader = FileLog::open_read_only(scratch.path()).unwrap();
    assert!(FileLog::verify(scratch.path()).is_ok(), "readers do not exclude each other");
    assert!(matches!(open(scratch.path(), file::Create::Never), Err(OpenError::Locked { .. })));
    drop(reader);
    open(scratch.path(), file::Create::Never).unwrap();
}

#[test]
fn lock_ends_when_the_log_is_dropped_though_processes_are_being_started() {
    let scratch = tempfile::tempdir().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Between its fork and its exec each of these has the lock's file open.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                Command::new("true").status().unwrap();
            }
        });
        for _ in 0..300 {
            let opened = open(scratch.path(), file::Create::IfMissing).map(drop);
            if opened.is_err() {
                done.store(true, Ordering::Relaxed);
            }
            opened.unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn reader_of_many_segments_finds_every_position() {
    let scratch = tempfile::tempdir().unwrap();
    let config =
        file::Config { durability: Durability::Buffered, cache_bytes: 0, ..config(file::Create::New) };
    let log = FileLog::open(scratch.path(), config).unwrap();
    // More segments than files are kept open.
    let tickets: Vec<_> = (0..12_000)
        .map(|n| {
            let mut batch = Batch::new();
            batch.push(&entry(n));
            log.append(&batch).unwrap()
        })
        .collect();
    tickets.last().unwrap().wait().unwrap();
    let segments = fs::read_dir(scratch.path()).unwrap().count();
    assert!(segments > 20, "{segments}");
    assert_eq!(assert_entries(&log), 12_000);
    for n in (0..12_000).rev().step_by(97) {
        assert_eq!(log.read(Position(n)).unwrap().unwrap().get(Position(n)), Some(Entry::Data(&entry(n))));
    }
}

/// Where the child process of the next test appends; it does nothing in this one.
const CHILD: &str = "MIXLOG_TEST_CHILD_DIRECTORY";

#[test]
fn child_appends_until_it_is_killed() {
    let Some(directory) = env::var_os(CHILD) else { return };
    let durability = Durability::Buffered;
    let config = file::Config { durability, ..config(file::Create::IfMissing) };
    let log = FileLog::open(directory, config).unwrap();
    for n in assert_entries(&log).. {
        append(&log, n);
        println!("acknowledged {n}");
    }
}

#[test]
fn process_killed_while_appending_loses_nothing_acknowledged() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("log");
    let mut before = 0;
    for round in 1..=6 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "child_appends_until_it_is_killed", "--nocapture"])
            .env(CHILD, &directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let acknowledged = |line: String| line.strip_prefix("acknowledged ")?.parse::<u64>().ok();
        let mut last = lines.by_ref().filter_map(acknowledged).nth(100 * round).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still told before the end.
        last = lines.filter_map(acknowledged).last().unwrap_or(last);
        let log = FileLog::open_read_only(&directory).unwrap();
        let tail = assert_entries(&log);
        assert!(tail > last && tail > before, "{tail} {last} {before}");
        before = tail;
    }
}
