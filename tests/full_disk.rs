//! An engine in files on a disk that fills up, and commands on one: what is refused, what goes on, and how it gets space
//! again. Where no disk can be mounted for that, every test is named as ignored; on CI that is a failure.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mixlog::checkpoint::{self, Config};
use mixlog::log::{AppendError, FileLog, file};
use mixlog::{Builder, Engine, Footprint, Never, Position, Procedure, SubmitError, Table, Tx};
use serde::{Deserialize, Serialize};

#[path = "support/run.rs"]
mod run;
#[path = "support/small_disk.rs"]
mod small_disk;
#[path = "../log/tests/support/trials.rs"]
mod trials;

use run::{path, refused, run};
use small_disk::SmallDisk;

/// Longer than any step takes on a busy machine, so that a hang fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

const MIB: u64 = 1 << 20;

/// Of the disk.
const MEBIBYTES: u32 = 48;

/// All rows together have 6 MiB.
const ROWS: u64 = 384;
const ROW_BYTES: usize = 16 << 10;

const TEXTS: Table<u64, Vec<u8>> = Table::new("texts");

#[derive(Serialize, Deserialize)]
struct Put {
    key: u64,
    text: Vec<u8>,
}

impl Procedure for Put {
    const NAME: &'static str = "put";
    type Output = ();
    type Abort = Never;

    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&TEXTS, &self.key);
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
        tx.put(&TEXTS, self.key, self.text.clone());
        Ok(())
    }
}

fn text(n: u64) -> Vec<u8> {
    n.to_le_bytes().iter().copied().cycle().take(ROW_BYTES).collect()
}

fn builder(config: Config) -> Builder {
    Engine::builder().table(&TEXTS).procedure::<Put>().threads(1).checkpoints(config)
}

/// An engine on the small disk, and what it must have.
struct Store {
    engine: Engine,
    log: PathBuf,
    rows: BTreeMap<u64, u64>,
    next: u64,
}

impl Store {
    fn open(disk: &Path, config: Config) -> Self {
        Self::with(builder(config), disk.join("log"))
    }

    fn with(builder: Builder, log: PathBuf) -> Self {
        let engine = Self::engine(&log, builder);
        Self { engine, log, rows: BTreeMap::new(), next: 0 }
    }

    fn engine(log: &Path, builder: Builder) -> Engine {
        let files =
            file::Config { segment_bytes: 4 * MIB, max_batch_bytes: MIB as usize, ..file::Config::default() };
        builder.open(Arc::new(FileLog::open(log, files).expect("it opens"))).expect("it opens")
    }

    /// Submits the next one and waits for it.
    fn put(&mut self) -> Result<(), SubmitError> {
        let (key, n) = (self.next * 7 % ROWS, self.next);
        let ticket = self.engine.submit(&Put { key, text: text(n) })?;
        ticket.wait().expect("what was taken is executed");
        self.rows.insert(key, n);
        self.next += 1;
        Ok(())
    }

    /// Submits until the disk is full.
    fn fill(&mut self) {
        for _ in 0..100 * ROWS {
            if let Err(error) = self.put() {
                assert!(matches!(error, SubmitError::Append(AppendError::Full(_))), "{error}");
                assert!(error.to_string().contains("no space left") && error.is_temporary(), "{error}");
                return;
            }
        }
        panic!("the disk is never full");
    }

    /// Submits so many, each as often as it takes; reads go on in between. Tells how often it was refused.
    fn go_on(&mut self, count: u64) -> u64 {
        let (begun, end, mut refused) = (Instant::now(), self.next + count, 0);
        while self.next < end {
            if self.put().is_err() {
                refused += 1;
                self.look();
                assert!(begun.elapsed() < PATIENCE, "space never comes back: {}", self.describe());
                thread::sleep(Duration::from_millis(1));
            }
        }
        refused
    }

    /// What takes space, and what the engine says of it.
    fn describe(&self) -> String {
        let mut text = format!(
            "{:?}, checkpoints {:?}, failure {:?}, free {} bytes;",
            self.engine.log().tail(),
            self.engine.checkpoints(),
            self.engine.checkpoint_failure(),
            rustix::fs::statvfs(&self.log).map_or(0, |disk| disk.f_bavail * disk.f_frsize),
        );
        for directory in [self.log.parent().expect("the disk"), &self.log, &self.log.join("checkpoints")] {
            for file in fs::read_dir(directory).expect("a directory").map(|file| file.expect("a file")) {
                let bytes = file.metadata().map_or(0, |metadata| metadata.blocks() * 512);
                text.push_str(&format!(" {} {bytes},", file.file_name().display()));
            }
        }
        text
    }

    /// The space that is kept for a checkpoint, in bytes.
    fn spare(&self) -> u64 {
        let spare = fs::metadata(self.log.join("checkpoints/checkpoint.spare"));
        spare.map_or(0, |spare| spare.blocks() * 512)
    }

    fn look(&self) {
        let snapshot = self.engine.snapshot();
        if let Some((key, n)) = self.rows.iter().next_back() {
            assert_eq!(snapshot.get(&TEXTS, key), Some(text(*n)), "reads go on");
        }
    }

    fn is_whole(&self) {
        let snapshot = self.engine.snapshot();
        assert_eq!(snapshot.len(&TEXTS), self.rows.len());
        for (key, n) in &self.rows {
            assert_eq!(snapshot.get(&TEXTS, key), Some(text(*n)), "{key}");
        }
    }

    /// Ends, and starts again from what is on the disk.
    fn opens_again(mut self, config: Config) {
        let digest = self.engine.digest();
        self.engine.close().expect("it ran");
        self.engine = Self::engine(&self.log, builder(config));
        assert!(self.engine.recovery().checkpoint.is_some() && self.engine.recovery().rejected.is_empty());
        assert_eq!(self.engine.digest(), digest);
        self.is_whole();
    }

    fn head(&self) -> Position {
        self.engine.log().tail().unwrap().head
    }
}

/// Takes all of the disk that is free, in a file of somebody else's.
fn hog(disk: &Path) {
    let mut file = File::options().append(true).create(true).open(disk.join("hog")).expect("a file");
    let page = [1u8; 4096];
    while file.write_all(&page).is_ok() {}
}

fn config(keep: usize) -> Config {
    Config { every_bytes: Some(16 * MIB), keep, ..checkpoint::Config::default() }
}

fn disk() -> (tempfile::TempDir, SmallDisk) {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = SmallDisk::mount(directory.path(), MEBIBYTES);
    (directory, disk)
}

fn give_back(disk: &Path) {
    fs::remove_file(disk.join("hog")).expect("it is there");
}

/// Fills the disk, and sees it recover by itself. Where two checkpoints do not fit beside each other, it takes somebody
/// who gives space back to go on for long.
fn recovers(keep: usize, puts_before: u64, fits_two: bool) {
    let (_directory, disk) = disk();
    let mut store = Store::open(disk.path(), config(keep));
    store.go_on(puts_before);
    let begun = Instant::now();
    while store.engine.checkpoints().is_empty() && store.spare() < store.next * ROW_BYTES as u64 {
        // Whoever takes all of the disk before a busy machine has come to that leaves none for a checkpoint.
        assert!(begun.elapsed() < PATIENCE, "space for the first one is never kept");
        thread::sleep(Duration::from_millis(1));
    }
    hog(disk.path());
    store.fill();
    let begun = Instant::now();
    // A checkpoint may have been under way, and trim the log late. What that gives may be taken by then, so that no more
    // can be put until there is space for the next one.
    while store.engine.checkpoints().is_empty() || store.head() == Position(0) {
        let _ = store.put();
        store.look();
        assert!(begun.elapsed() < PATIENCE, "the log is never trimmed: {}", store.describe());
        thread::sleep(Duration::from_millis(1));
    }
    let before = store.head();
    if fits_two {
        // More than what the log's last files have left.
        store.go_on(3 * 4 * MIB / ROW_BYTES as u64 + 16);
    } else {
        give_back(disk.path());
    }
    // And again and again: several times the disk.
    store.go_on(6 * u64::from(MEBIBYTES) * MIB / ROW_BYTES as u64);
    assert!(store.head() > before, "the log was trimmed again");
    store.is_whole();
    store.opens_again(config(keep));
}

fn disk_that_fills_up_before_the_first_checkpoint_is_freed_by_one() {
    recovers(2, 2 * ROWS / 3, false);
}

fn disk_that_fills_up_with_one_checkpoint_is_freed_by_the_next() {
    recovers(1, 3 * ROWS, true);
}

fn disk_that_fills_up_with_several_checkpoints_is_freed_by_giving_up_the_oldest() {
    recovers(2, 6 * ROWS, true);
}

fn disk_that_stays_full_refuses_submissions_until_somebody_gives_space_back() {
    let (_directory, disk) = disk();
    // Every state of the past is wanted, so nothing can be given up.
    let mut store = Store::open(disk.path(), Config { trim: false, ..config(2) });
    store.go_on(ROWS);
    hog(disk.path());
    store.fill();
    let error = store.engine.checkpoint().expect_err("there is no space").to_string();
    assert!(error.starts_with("cannot") && error.contains("No space left"), "{error}");
    for _ in 0..100 {
        assert!(store.put().is_err());
        store.look();
    }
    give_back(disk.path());
    store.go_on(ROWS / 2);
    store.engine.checkpoint().expect("there is space");
    store.is_whole();
}

fn submissions_that_wait_for_space_are_not_refused_on_a_disk_far_smaller_than_what_is_logged() {
    let (_directory, disk) = disk();
    let told = Arc::new(AtomicU64::new(0));
    let telling = Arc::clone(&told);
    let builder = builder(config(2))
        .wait_for_space(PATIENCE)
        .on_full(move |_| _ = telling.fetch_add(1, Ordering::Relaxed));
    let mut store = Store::with(builder, disk.path().join("log"));
    // Without a checkpoint yet: the space for the first one is kept from the start.
    assert_eq!(store.go_on(6 * u64::from(MEBIBYTES) * MIB / ROW_BYTES as u64), 0, "none is refused");
    assert!(told.load(Ordering::Relaxed) > 0, "the disk was never full");
    assert!(store.head() > Position(0));
    store.is_whole();
    store.opens_again(config(2));
}

fn submissions_are_refused_when_their_patience_for_space_ends() {
    let (_directory, disk) = disk();
    let patience = Duration::from_millis(300);
    let builder = builder(Config { trim: false, ..config(2) }).wait_for_space(patience);
    let mut store = Store::with(builder, disk.path().join("log"));
    store.go_on(ROWS);
    hog(disk.path());
    store.fill();
    let begun = Instant::now();
    let error = store.put().expect_err("nobody gives space back");
    assert!(matches!(error, SubmitError::Append(AppendError::Full(_))), "{error}");
    assert!(begun.elapsed() >= patience, "it waited");
    store.look();
}

const RUN: &[&str] =
    &["run", "transfer", "--accounts", "1000", "--transactions", "1000000", "--segment-bytes", "1048576"];

fn command_goes_on_by_itself_on_a_disk_far_smaller_than_what_is_logged() {
    let (_directory, disk) = disk();
    let log = disk.path().join("log");
    for _ in 0..2 {
        // Some 60 bytes each.
        let (code, _, stderr) = run(&[RUN, &["--log", path(&log)]].concat());
        assert_eq!(code, 0, "{stderr}");
        assert!(stderr.contains("the log cannot grow, waiting for"), "the disk was never full: {stderr}");
    }
}

fn checkpoint_on_request_trims_the_log_of_a_disk_that_is_nearly_full() {
    let (_directory, disk) = disk();
    let log = disk.path().join("log");
    let without = &["--log", path(&log), "--checkpoint-bytes", "0", "--wait-for-space", "0"];
    refused(4, &[RUN, without].concat(), "no space left for the log:");
    let (code, stdout, stderr) = run(&["checkpoint", "--log", path(&log)]);
    assert_eq!(code, 0, "{stderr}");
    let number = |name: &str| -> u64 {
        let line = stdout.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim().parse().expect("a number")
    };
    assert_eq!(number("head"), number("position") + 1, "{stdout}");
}

fn run_on_a_full_disk_ends_with_an_io_error_and_nothing_acknowledged_is_lost() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = SmallDisk::mount(directory.path(), 140);
    let log = disk.path().join("log");
    let (code, stdout, stderr) = run(&[
        "run",
        "ycsb-a",
        "--records",
        "1000",
        "--operations",
        "100",
        "--log",
        path(&log),
        "--seconds",
        "60",
        // Otherwise checkpoints free what they no longer need.
        "--keep-log",
        "--wait-for-space",
        "0.1",
    ]);
    assert_eq!(code, 4, "{stderr}{stdout}");
    assert!(stderr.contains("no space left"), "{stderr}");
    let (code, _, stderr) = run(&["replay", "--log", path(&log)]);
    let (verified, ..) = run(&["log", "verify", path(&log)]);
    assert_eq!((code, verified), (0, 0), "{stderr}");
}

/// How many there were.
const ADD: &str = r#"["add", "t", "count", 1]"#;

fn apply_on_a_full_disk_ends_with_an_io_error_and_every_answer_before_stands() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = SmallDisk::mount(directory.path(), 140);
    let log = disk.path().join("log");
    let line = format!("{{\"ops\": [{ADD}, [\"put\", \"t\", \"text\", \"{}\"]]}}\n", "x".repeat(1_000_000));
    let mut apply = run::command(&["apply", "--log", path(&log), "--durability", "buffered", "--keep-log"]);
    let apply = apply.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut apply = apply.expect("the command starts");
    let mut stdin = apply.stdin.take().expect("it is piped");
    // A command that fails hangs up.
    let writer = thread::spawn(move || (0..200).try_for_each(|_| stdin.write_all(line.as_bytes())).is_ok());
    let (code, stdout, stderr) = run::ends(&apply.wait_with_output().expect("it ends"));
    writer.join().expect("no panic");
    assert!(code == 4 && stderr.contains("no space left"), "{stderr}");
    let read = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    let last = stdout.lines().last().expect("some fit");
    let last = read(last)["results"][0].as_u64().expect("a number");
    assert_eq!(stdout.lines().count() as u64, last);
    let (code, state, stderr) = run(&["dump", "--log", path(&log)]);
    assert_eq!(code, 0, "{stderr}");
    let count = read(state.lines().next().expect("a row"))["value"].as_u64();
    assert!(count >= Some(last), "nothing answered is lost");
}

fn main() -> ExitCode {
    let missing = (!SmallDisk::is_possible())
        .then_some("there is no small disk to fill: CI runs as root and can mount a tmpfs");
    trials::run(
        trials::trials! {
        disk_that_fills_up_before_the_first_checkpoint_is_freed_by_one
        disk_that_fills_up_with_one_checkpoint_is_freed_by_the_next
        disk_that_fills_up_with_several_checkpoints_is_freed_by_giving_up_the_oldest
        disk_that_stays_full_refuses_submissions_until_somebody_gives_space_back
        submissions_that_wait_for_space_are_not_refused_on_a_disk_far_smaller_than_what_is_logged
        submissions_are_refused_when_their_patience_for_space_ends
        command_goes_on_by_itself_on_a_disk_far_smaller_than_what_is_logged
        checkpoint_on_request_trims_the_log_of_a_disk_that_is_nearly_full
        run_on_a_full_disk_ends_with_an_io_error_and_nothing_acknowledged_is_lost
        apply_on_a_full_disk_ends_with_an_io_error_and_every_answer_before_stands
        },
        missing,
    )
}
