//! Checkpoints and backups through the command and the library: copies that open, also of a log that is written to, and
//! what trimmed and damaged logs are answered.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mixlog::kv::{self, Op, Transaction};
use mixlog::log::{Durability, FileLog, MemoryLog, SharedLog, file};
use mixlog::{Engine, Position, checkpoint};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Exit code, stdout, stderr.
fn mixlog(arguments: &[&str]) -> (i32, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_mixlog")).args(arguments).output().expect("the command starts");
    (output.status.code().expect("it was not killed"), text(&output.stdout), text(&output.stderr))
}

fn done(arguments: &[&str]) -> String {
    let (code, stdout, stderr) = mixlog(arguments);
    assert_eq!(code, 0, "{arguments:?}: {stderr}");
    stdout
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn small(durability: Durability) -> file::Config {
    file::Config { durability, segment_bytes: 64 << 10, max_batch_bytes: 16 << 10, ..file::Config::default() }
}

fn open(log: Arc<dyn SharedLog>) -> Engine {
    let config = checkpoint::Config { every_bytes: Some(8_000), ..checkpoint::Config::default() };
    kv::register(Engine::builder()).threads(2).window(64).checkpoints(config).open(log).expect("it opens")
}

fn put(engine: &Engine, n: u64) -> mixlog::Ticket<Transaction> {
    let ops = vec![Op::put("t", format!("k{}", n % 100), n as i64), Op::add("sum", "n", 1)];
    let transaction = Transaction::new(ops).expect("valid").with_id(format!("id-{n}"));
    engine.submit(&transaction).expect("it is taken")
}

struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn checkpoints_that_cannot_be_taken_are_told() {
    let scratch = tempfile::tempdir().expect("a directory");
    let log = scratch.path().join("store");
    let run =
        ["run", "transfer", "--accounts", "500", "--transactions", "20000", "--checkpoint-bytes", "20000"];
    let run = [&run[..], &["--log", path(&log)]].concat();
    done(&["run", "transfer", "--accounts", "500", "--transactions", "10", "--log", path(&log)]);
    // What is in the way is no file that could be written over.
    fs::create_dir_all(log.join("checkpoints/checkpoint.writing/in-the-way")).expect("a directory");
    let (code, _, error) = mixlog(&run);
    assert_eq!(code, 0, "{error}");
    let why =
        format!("no checkpoint could be taken, so the log is not trimmed: cannot prepare {}", path(&log));
    assert!(error.contains(&why), "{error}");
    fs::remove_dir_all(log.join("checkpoints/checkpoint.writing")).expect("it is removed");
    let (code, _, error) = mixlog(&run);
    assert!(code == 0 && !error.contains("no checkpoint"), "{error}");
}

#[test]
fn checkpoints_are_verified_with_their_log() {
    let scratch = tempfile::tempdir().expect("a directory");
    let log = scratch.path().join("store");
    let mut taken = Vec::new();
    for first in [0, 10] {
        let engine = open(Arc::new(FileLog::open(&log, small(Durability::Flushed)).expect("a log")));
        (first..first + 10).for_each(|n| drop(put(&engine, n).wait().expect("it commits")));
        taken.push(engine.checkpoint().expect("it is taken"));
        let (code, _, error) = mixlog(&["log", "verify", path(&log)]);
        assert!(code == 2 && error.contains("in use"), "{error}");
        engine.close().expect("it closes");
        let found = done(&["log", "verify", path(&log)]);
        let lines = taken.iter().map(|checkpoint::Checkpoint { position, rows, bytes, .. }| {
            format!("checkpoint {position} rows {rows} bytes {bytes}\n")
        });
        let lines: String = lines.collect();
        assert!(found.ends_with(&format!("{lines}ok\n")), "{found}");
    }
    let name = format!("checkpoint-{:016x}", taken[1].position.0);
    let file = log.join("checkpoints").join(&name);
    let mut bytes = fs::read(&file).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, &bytes).expect("it is written");
    let (code, found, error) = mixlog(&["log", "verify", path(&log)]);
    assert_eq!(code, 3, "{error}");
    assert!(
        found.ends_with("corrupt\n") && found.contains(&format!("checkpoint {}", taken[0].position)),
        "{found}"
    );
    assert!(error.contains(&format!("{name} cannot be used: at offset")), "{error}");
    // What cannot be read may be whole: that is no damage.
    fs::remove_file(&file).expect("it is removed");
    fs::create_dir(&file).expect("a directory");
    let (code, _, error) = mixlog(&["log", "verify", path(&log)]);
    assert!(
        code == 4 && error.contains(&format!("{name} cannot be used: it cannot be read")),
        "{code}: {error}"
    );
}

#[test]
fn log_that_opens_with_no_checkpoint_beside_it_is_told_and_no_backup_is_made_inside_of_a_log() {
    let scratch = tempfile::tempdir().expect("a directory");
    let log = scratch.path().join("store");
    let run = ["run", "transfer", "--accounts", "500", "--transactions", "1000", "--log", path(&log)];
    done(&run);
    for inside in ["backup", "checkpoints/backup", "not/there/yet"] {
        let to = log.join(inside);
        let (code, _, error) = mixlog(&["backup", path(&log), path(&to)]);
        assert!(code == 2 && error.contains("in the directory of the log itself"), "{error}");
        assert!(!to.exists() && !log.join("not").exists());
    }
    let verify = ["log", "verify", path(&log)];
    done(&["checkpoint", "--log", path(&log), "--keep-checkpoints", "1"]);
    let (code, stdout, error) = mixlog(&verify);
    assert!(code == 0 && stdout.ends_with("ok\n") && error.is_empty(), "{stdout}{error}");
    fs::remove_dir_all(log.join("checkpoints")).expect("it is removed");
    let (code, stdout, error) = mixlog(&verify);
    assert!(code == 0 && stdout.ends_with("ok\n"), "every byte of the log is right: {stdout}");
    assert!(error.contains("no checkpoint that is whole lies beside it"), "{error}");
}

#[test]
fn trimmed_log_whose_checkpoint_cannot_be_read_is_no_damaged_one() {
    let scratch = tempfile::tempdir().expect("a directory");
    let log = scratch.path().join("store");
    let run = ["run", "transfer", "--accounts", "500", "--transactions", "1000", "--log", path(&log)];
    done(&run);
    done(&["checkpoint", "--keep-checkpoints", "1", "--log", path(&log)]);
    let checkpoints = log.join("checkpoints");
    let entry = fs::read_dir(&checkpoints).expect("a directory").next().expect("one").expect("it is read");
    fs::remove_file(entry.path()).expect("it is removed");
    fs::create_dir(entry.path()).expect("a directory");
    for arguments in [&["digest", "--log", path(&log)][..], &run] {
        let (code, _, error) = mixlog(arguments);
        assert!(code == 4 && error.contains("it cannot be read"), "{arguments:?}, {code}: {error}");
    }
}

#[test]
fn log_that_lost_what_its_checkpoint_has_is_refused_by_all_commands() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (log, old) = (scratch.path().join("store"), scratch.path().join("old"));
    let some = |numbers: std::ops::Range<u64>, checkpoints: bool| {
        let config = checkpoint::Config { trim: false, every_bytes: None, ..checkpoint::Config::default() };
        let file = Arc::new(FileLog::open(&log, small(Durability::Flushed)).expect("a log"));
        let engine = kv::register(Engine::builder()).checkpoints(config).open(file).expect("it opens");
        numbers.for_each(|n| drop(put(&engine, n).wait().expect("it commits")));
        if checkpoints {
            engine.checkpoint().expect("it is taken");
        }
        engine.close().expect("it closes");
    };
    some(0..10, false);
    fs::create_dir(&old).expect("a directory");
    let files = ["manifest", "segment-0000000000000000"];
    let copy = |from: &Path, to: &Path| {
        for file in files {
            fs::copy(from.join(file), to.join(file)).expect("it is copied");
        }
    };
    copy(&log, &old);
    some(10..20, true);
    let whole = done(&["digest", "--log", path(&log)]);
    let newest = files.map(|file| fs::read(log.join(file)).expect("a file"));
    copy(&old, &log);
    let to = scratch.path().join("copy");
    for arguments in [
        &["dump", "--log", path(&log)][..],
        &["digest", "--log", path(&log)],
        &["digest", "--log", path(&log), "--at", "3"],
        &["replay", "--log", path(&log)],
        &["log", "verify", path(&log)],
        &["backup", path(&log), path(&to)],
        &["checkpoint", "--log", path(&log)],
    ] {
        let (code, _, error) = mixlog(arguments);
        assert_eq!(code, 3, "{arguments:?}: {error}");
        assert!(error.contains("it lost entries"), "{arguments:?}: {error}");
    }
    assert!(!to.exists());
    files
        .iter()
        .zip(newest)
        .for_each(|(file, bytes)| fs::write(log.join(file), bytes).expect("it is written"));
    assert_eq!(done(&["digest", "--log", path(&log)]), whole);
}

#[test]
fn backup_of_a_log_that_is_written_to_opens_and_has_what_was_acknowledged() {
    let scratch = tempfile::tempdir().expect("a directory");
    let log = scratch.path().join("store");
    let engine = open(Arc::new(FileLog::open(&log, small(Durability::Buffered)).expect("a log")));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (engine, stop) = (&engine, &stop);
        scope.spawn(move || {
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                put(engine, n).wait().expect("it commits");
            }
        });
        // Also when an assertion fails: the scope waits for the writer.
        let _stopper = Stopper(stop);
        for number in 0..8 {
            while engine.checkpoints().len() < 2 || engine.log().tail().unwrap().head == Position::ZERO {
                std::thread::yield_now();
            }
            let acknowledged = engine.position().expect("something");
            let copy = scratch.path().join(format!("copy-{number}"));
            let (position, digest) = if number % 2 == 0 {
                let told = done(&["backup", path(&log), path(&copy)]);
                assert!(told.contains("checkpoint ") && !told.contains("head 0\n"), "{told}");
                let told = done(&["digest", "--log", path(&copy)]);
                let mut lines = told.lines();
                let position = lines.next().unwrap()["position ".len()..].parse().expect("a number");
                (Position(position), lines.next().unwrap()["digest ".len()..].to_owned())
            } else {
                let backup = engine.backup(&copy).expect("it is taken");
                let copied = kv::register(Engine::builder())
                    .replay(Arc::new(FileLog::open_read_only(&copy).expect("it opens")))
                    .expect("it opens");
                let digest = copied.to_end().expect("it opens");
                assert_eq!(digest.position, backup.checkpoint);
                (digest.position.expect("something"), digest.to_string())
            };
            assert!(position >= acknowledged, "{position} {acknowledged}");
            // The copy goes on by itself, and remembers the answers.
            let copied = open(Arc::new(FileLog::open(&copy, small(Durability::Flushed)).expect("it opens")));
            assert!(copied.recovery().checkpoint.is_some());
            assert_eq!(copied.digest().to_string(), digest);
            assert_eq!(copied.snapshot().state_digest(), copied.digest().state);
            let first = put(&copied, 0).wait().expect("it commits").committed().expect("it commits");
            assert_eq!(first.position(), Position(1), "the first answer");
            let (code, _, stderr) = mixlog(&["backup", path(&log), path(&copy)]);
            assert_eq!((code, stderr.contains("already")), (2, true), "{stderr}");
        }
    });
    engine.close().expect("it ran well");
    let names = fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !text(name.as_encoded_bytes()).contains("unfinished")));
}

#[test]
fn backup_of_a_log_in_memory_opens_as_a_log_in_files() {
    let scratch = tempfile::tempdir().expect("a directory");
    let engine = open(Arc::new(MemoryLog::new()));
    assert!(engine.checkpoint().unwrap_err().to_string().contains("no directory"));
    (0..500).map(|n| put(&engine, n)).for_each(|ticket| drop(ticket.wait().expect("it commits")));
    let copy = scratch.path().join("copy");
    engine.backup(&copy).expect("it is taken");
    let copied = open(Arc::new(FileLog::open(&copy, small(Durability::Flushed)).expect("it opens")));
    assert_eq!(copied.digest(), engine.digest());
}

#[test]
fn memory_log_with_a_directory_for_checkpoints_is_trimmed() {
    let scratch = tempfile::tempdir().expect("a directory");
    let storage = Arc::new(file::FsStorage::new(scratch.path().join("kept")));
    let log = Arc::new(MemoryLog::new());
    let config = checkpoint::Config { storage: Some(storage), keep: 1, ..checkpoint::Config::default() };
    let builder = || kv::register(Engine::builder()).checkpoints(config.clone());
    let engine = builder().open(Arc::clone(&log) as _).expect("it opens");
    put(&engine, 0).wait().expect("it commits");
    let taken = engine.checkpoint().expect("it is taken");
    assert_eq!(log.tail().unwrap().head, taken.position.next());
    let digest = engine.digest();
    engine.close().expect("it ran well");
    let again = builder().open(log).expect("it opens");
    assert_eq!((again.digest(), again.recovery().checkpoint), (digest, Some(taken.position)));
}

#[test]
fn command_on_a_log_with_checkpoints_starts_from_them_and_refuses_what_is_gone() {
    let scratch = tempfile::tempdir().expect("a directory");
    let log = scratch.path().join("store");
    let file_log = || Arc::new(FileLog::open(&log, small(Durability::Buffered)).expect("a log"));
    let never = checkpoint::Config { every_bytes: None, ..checkpoint::Config::default() };
    let engine = kv::register(Engine::builder()).checkpoints(never).open(file_log()).expect("it opens");
    (0..400).map(|n| put(&engine, n)).for_each(|ticket| drop(ticket.wait().expect("it commits")));
    let digest = engine.digest().to_string();
    engine.close().expect("it ran well");
    let log = path(&log);
    let dump = done(&["dump", "--log", log]);
    let early = done(&["dump", "--log", log, "--at", "17"]);

    let told = done(&["checkpoint", "--log", log, "--keep-log"]);
    assert!(told.contains("position 400\n") && told.contains("head 0\n"), "{told}");
    assert_eq!(done(&["dump", "--log", log, "--at", "17"]), early, "the log is there");
    let told = done(&["checkpoint", "--log", log]);
    assert!(told.contains("head 0\n"), "one of two to be kept: the log stands in for the other: {told}");
    let told = done(&["checkpoint", "--log", log, "--keep-checkpoints", "1"]);
    assert!(told.contains("head 401\n") && told.contains("checkpoints 400\n"), "{told}");

    let (code, stdout, stderr) = mixlog(&["digest", "--log", log]);
    assert_eq!((code, stdout), (0, format!("position 400\ndigest {digest}\n")));
    assert!(stderr.contains("checkpoint of position 400"), "{stderr}");
    assert_eq!(done(&["dump", "--log", log]), dump);
    done(&["replay", "--log", log, "--expect", &digest]);
    assert_eq!(done(&["log", "dump", log]), "");
    for arguments in [
        &["dump", "--log", log, "--at", "17"][..],
        &["digest", "--log", log, "--at", "399"],
        &["replay", "--log", log, "--to", "17"],
    ] {
        let (code, stdout, stderr) = mixlog(arguments);
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.contains("is gone") && stderr.contains("position 400"), "{stderr}");
    }

    // A damaged one is named: the log before it is gone, so nothing can be done.
    let file = Path::new(log).join("checkpoints/checkpoint-0000000000000190");
    let mut bytes = fs::read(&file).expect("the checkpoint");
    bytes[200] ^= 1;
    fs::write(&file, bytes).expect("it is written");
    for arguments in [&["digest", "--log", log][..], &["checkpoint", "--log", log], &["replay", "--log", log]]
    {
        let (code, _, stderr) = mixlog(arguments);
        assert_eq!(code, 3, "{stderr}");
        assert!(stderr.contains("checkpoint-0000000000000190 cannot be used"), "{stderr}");
    }
    let (code, _, stderr) = mixlog(&["backup", log, path(&scratch.path().join("copy"))]);
    assert_eq!(code, 3, "{stderr}");
    fs::remove_file(file).expect("it is there");
    let (code, _, stderr) = mixlog(&["digest", "--log", log]);
    assert_eq!((code, stderr.contains("trimmed")), (2, true), "{stderr}");
    let (code, _, stderr) = mixlog(&["checkpoint", "--log", path(&scratch.path().join("nothing"))]);
    assert_eq!((code, stderr.contains("there is no log")), (2, true), "{stderr}");
}

#[test]
fn backup_that_others_make_or_that_is_no_backup_is_left_alone() {
    let scratch = tempfile::tempdir().expect("a directory");
    let at = |name: &str| scratch.path().join(name);
    let log = at("store");
    drop(FileLog::open(&log, small(Durability::Buffered)).expect("a log"));
    let (copy, unfinished) = (at("copy"), at("copy.unfinished"));
    let backup = || mixlog(&["backup", path(&log), path(&copy)]);
    let refused = |says: &str| {
        let (code, _, stderr) = backup();
        assert_eq!((code, stderr.contains(says)), (2, true), "{stderr}");
        assert!(!copy.exists());
    };

    // What a user has there, whatever it is.
    fs::create_dir(&unfinished).unwrap();
    fs::write(unfinished.join("thesis"), "years").unwrap();
    refused("that no backup left");
    assert_eq!(fs::read(unfinished.join("thesis")).unwrap(), b"years");
    fs::rename(&unfinished, at("elsewhere")).unwrap();
    std::os::unix::fs::symlink(at("elsewhere"), &unfinished).unwrap();
    refused("that no backup left");
    fs::remove_file(&unfinished).unwrap();
    std::os::unix::fs::symlink(at("nowhere"), &copy).unwrap();
    refused("already");
    assert!(fs::symlink_metadata(&copy).is_ok() && !unfinished.exists());
    fs::remove_file(&copy).unwrap();

    // What a backup left that was killed, and one that is under way.
    fs::create_dir_all(unfinished.join("copy")).unwrap();
    fs::write(unfinished.join("copy/segment"), "half").unwrap();
    refused("that no backup left");
    fs::write(unfinished.join("mixlog-backup"), "").unwrap();
    let other = fs::File::open(&unfinished).unwrap();
    other.try_lock().expect("nobody else has it");
    refused("another backup is being made");
    assert!(unfinished.join("copy/segment").exists());
    drop(other);
    done(&["backup", path(&log), path(&copy)]);
    done(&["digest", "--log", path(&copy)]);
    assert!(!unfinished.exists() && !copy.join("segment").exists());
}
